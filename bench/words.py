"""Measure how often the last word of a sentence is among the first five that Kamon finds.

It compares Kamon with a Kneser-Ney 5-gram of words, on sentences that neither has seen. The 5-gram
finds the next word, or the last one: a word that the end of the sentence follows. FILE has a
sentence per line, such as the examples of WordNet in docs/complete.md.

    python bench/words.py sentences.txt
"""

from __future__ import annotations

import argparse
import heapq
import math
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median

import kamon
from kamon.completion import fill_words
from kamon.generation.word_ngram import WordNgram
from kamon.generation.words import WORD, Gap

TRAINING = {"size": "large", "n_embd": 128, "num_steps": 3000}
TOKENIZER = {"tokenizer": "bpe", "vocab_size": 4096}
ORDER = 5
EVERY = 24  # one sentence in this many is for the test
KAMON = "Kamon"


def cut(sentence: str) -> tuple[str, str] | None:
    """Return the text before the last word, and the word, or None if it is the only one."""
    *_, last = [None, *WORD.finditer(sentence)]
    return (sentence[: last.start()], last[0]) if last and last.start() else None


def by_counting(ngram: WordNgram, gap: Gap) -> list[str]:
    """Return the five most probable words of the n-gram."""
    logs = ngram.counted(gap).logs
    return heapq.nlargest(5, logs, key=logs.__getitem__)


def p_of_chance(more: int, fewer: int) -> float:
    """Return the two-sided p of McNemar's exact test: of a fair coin, as uneven as this."""
    n = more + fewer
    tail = sum(math.comb(n, k) for k in range(min(more, fewer) + 1))
    return min(1.0, tail * 2 / 2**n)


def report(found: dict[str, list[list[str]]], last: Sequence[str]) -> None:
    for name, lists in found.items():
        line = f"{name:22}"
        for k in (1, 5):
            hits, own = (
                [word in words[:k] for words, word in zip(each, last, strict=True)]
                for each in (lists, found[KAMON])
            )
            more = sum(a and not b for a, b in zip(own, hits, strict=True))
            fewer = sum(b and not a for a, b in zip(own, hits, strict=True))
            line += f"   first {k}: {mean(hits):6.2%}"
            if name != KAMON:
                line += f", Kamon +{more} −{fewer}, p = {p_of_chance(more, fewer):.2g}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("-n", type=int, default=2000, help="sentences to test")
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
    begin = time.process_time()
    _ = model.language_model, model.word_ngram
    print(f"start: {time.process_time() - begin:.2f} s of processor time for the n-grams")
    found: dict[str, list[list[str]]] = {KAMON: []}
    seconds, covered = [], []
    for before, _ in tests:
        begin = time.process_time()
        try:
            result = fill_words(model, Gap(before), 5, effort=args.effort)
        except kamon.ConfigError:  # the sentence is too long, which counts as not found
            found[KAMON].append([])
            continue
        seconds.append(time.process_time() - begin)
        covered.append(result.covered)
        found[KAMON].append([word.text for word in result.words])
    ngram = WordNgram(train, order=ORDER)
    for name, ends in (f"{ORDER}-gram, next word", False), (f"{ORDER}-gram, last word", True):
        found[name] = [by_counting(ngram, Gap(before, ends=ends)) for before, _ in tests]
    report(found, [word for _, word in tests])
    known = mean(word in ngram.numbers for _, word in tests)
    print(f"{len(tests)} sentences; the 5-gram knows {known:.1%} of the last words")
    print(f"a search takes {median(seconds):.2f} s of processor time, at most {max(seconds):.2f} s")
    print(f"it covers {median(covered):.1%} of the probability in the median")


if __name__ == "__main__":
    main()
