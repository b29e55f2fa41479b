"""Measure how often the last word of a sentence is among the first five that Kamon finds.

It compares Kamon with a Kneser-Ney 5-gram of words, on sentences that neither has seen. FILE has a
sentence per line, such as the examples of WordNet in docs/complete.md.

    python bench/words.py sentences.txt
"""

from __future__ import annotations

import argparse
import heapq
import re
import time
from pathlib import Path
from statistics import mean, median

import kamon
from kamon.completion import fill_words
from kamon.engines.batch import pack_sequences
from kamon.generation.words import WORD, Gap
from kamon.ngrams.native import count_ngram

TOKEN = re.compile(rf"({WORD.pattern})|[^\w\s]")
TRAINING = {"size": "large", "n_embd": 128, "num_steps": 3000}
TOKENIZER = {"tokenizer": "bpe", "vocab_size": 4096}
ORDER = 5
EVERY = 24  # of so many sentences, one is for the test


class WordNgram:
    """A Kneser-Ney n-gram whose tokens are words and punctuation marks."""

    def __init__(self, sentences: list[str]) -> None:
        texts = [[match[0] for match in TOKEN.finditer(sentence)] for sentence in sentences]
        self.names = ["", "unknown", *dict.fromkeys(token for text in texts for token in text)]
        self.tokens = {name: token for token, name in enumerate(self.names)}
        self.words = [token for name, token in self.tokens.items() if WORD.fullmatch(name)]
        documents = ([0, *(self.tokens[name] for name in text), 0] for text in texts)
        self.ngram = count_ngram(pack_sequences(documents), len(self.names), ORDER)

    def best(self, before: str, n: int) -> list[str]:
        read = [self.tokens.get(match[0], 1) for match in TOKEN.finditer(before)]
        p = self.ngram.probabilities([0, *read])
        return [self.names[token] for token in heapq.nlargest(n, self.words, key=p.__getitem__)]


def cut(sentence: str) -> tuple[str, str] | None:
    """Return the text before the last word, and the word, or None if it is the only one."""
    *_, last = [None, *WORD.finditer(sentence)]
    return (sentence[: last.start()], last[0]) if last and last.start() else None


def report(name: str, ranks: list[int | None]) -> None:
    first, five = (mean(rank is not None and rank < k for rank in ranks) for k in (1, 5))
    print(f"{name:20} first {first:6.1%}   among five {five:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("-n", type=int, default=500, help="sentences to test")
    parser.add_argument("--effort", type=float, default=1.0, help="of each search")
    parser.add_argument("--model", help="directory of a trained model, or where to save it")
    args = parser.parse_args()
    sentences = args.file.read_text().splitlines()
    train = [sentence for i, sentence in enumerate(sentences) if i % EVERY]
    tests = [each for each in map(cut, sentences[::EVERY]) if each][: args.n]
    if args.model and Path(args.model).exists():
        model = kamon.load(args.model)
    else:
        begin = time.process_time()
        model = kamon.train(train, **TRAINING, **TOKENIZER)
        print(f"training: {time.process_time() - begin:.0f} s of processor time")
        if args.model:
            model.save(args.model)
    ngram = WordNgram(train)
    found: list[list[str]] = []
    seconds, covered = [], []
    for before, _ in tests:
        begin = time.process_time()
        try:
            result = fill_words(model, Gap(before), 5, effort=args.effort)
        except kamon.ConfigError:  # the sentence is too long, which counts as not found
            found.append([])
            continue
        seconds.append(time.process_time() - begin)
        covered.append(result.covered)
        found.append([word.text for word in result.words])
    counted = [ngram.best(before, 5) for before, _ in tests]
    for name, lists in ("Kamon", found), (f"word {ORDER}-gram", counted):
        pairs = zip(lists, tests, strict=True)
        report(name, [words.index(w) if w in words else None for words, (_, w) in pairs])
    known = mean(word in ngram.tokens for _, word in tests)
    print(f"{len(tests)} sentences; the 5-gram knows {known:.1%} of the last words")
    print(f"a search takes {median(seconds):.2f} s of processor time, at most {max(seconds):.2f} s")
    print(f"it covers {median(covered):.1%} of the probability in the median")


if __name__ == "__main__":
    main()
