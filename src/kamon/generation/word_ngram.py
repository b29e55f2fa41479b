"""An n-gram of the words in a model's documents, which joins the search for words.

Its tokens are words and punctuation marks. It knows which words follow each other, and the GPT
knows more about the rest of the sentence. So both together find more words than one of them.
"""

from __future__ import annotations

import heapq
import math
import re
from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from kamon.engines.batch import pack_sequences
from kamon.generation.words import JOINERS, LETTERS, WORD, Counted, Gap
from kamon.ngrams.native import count_ngram

ORDER = 4
MAX_CHARS = 10_000_000  # of the documents: counting more takes more than a few seconds
MAX_TARGETS = 40_000  # words to consider, with the tokens after them
END = 0  # the token at both ends of a document
TOKEN = re.compile(rf"{WORD.pattern}|[^\w\s]")
OPEN = re.compile(rf"{LETTERS}[{JOINERS}]?\Z")  # the next letter would continue a word


class Pieces(dict[str, bytes]):
    """The numbers of the tokens of each text without white space, as bytes of an array of 'i'."""

    def __init__(self) -> None:
        self.numbers = {"": END}  # of each token

    def __missing__(self, piece: str) -> bytes:
        numbers = self.numbers
        found = [numbers.setdefault(token, len(numbers)) for token in TOKEN.findall(piece)]
        self[piece] = data = array("i", found).tobytes()
        return data


class WordNgram:
    """A Kneser-Ney n-gram of words and punctuation marks.

    Attributes:
        weight: of the n-gram in a blend with a model. If N1 of N tokens occur once, a word is known
            with probability 1 − N1 / N, and the weight is a half of it. Source: Good 1953,
            doi:10.1093/biomet/40.3-4.237.
    """

    def __init__(self, docs: Iterable[str], *, whole: bool = True, order: int = ORDER) -> None:
        """Count the n-gram of these documents, or of their first MAX_CHARS characters.

        whole: a text before a gap is the beginning of a document, not a part of it.
        """
        self.whole = whole
        pieces, sequences = Pieces(), []
        counts: Counter[int] = Counter()
        left = MAX_CHARS
        for doc in docs:
            tokens = array("i", [END])
            tokens.frombytes(b"".join(map(pieces.__getitem__, doc[:left].split())))
            tokens.append(END)
            sequences.append(tokens)
            left -= len(doc)
            if left <= 0:
                break
        batch = pack_sequences(sequences)
        counts.update(batch.tokens)
        del counts[END]
        once = sum(number == 1 for number in counts.values())
        self.weight = (1 - once / (counts.total() or 1)) / 2
        self.numbers = pieces.numbers
        self.names = list(self.numbers)
        self.unknown = len(self.names)
        self.words = [number for name, number in self.numbers.items() if WORD.fullmatch(name)]
        self.ngram = count_ngram(batch, len(self.names) + 1, order)

    def tokens(self, text: str) -> list[int]:
        return [self.numbers.get(token, self.unknown) for token in TOKEN.findall(text)]

    def counted(self, gap: Gap, among: Collection[str] = ()) -> Counted:
        """Return log p of the most probable words in the gap, or of those among some words.

        It is log p of a word with the stem, among all these, and with the text after it. The n-gram
        has no part in the blend if it knows no such word, or if the gap is inside a word.
        """
        if OPEN.search(gap.before):
            return Counted({})
        before = [END] * self.whole + self.tokens(gap.before)
        after = self.tokens(gap.after) + [END] * gap.ends
        p = self.ngram.probabilities(before)
        words = [w for w in self.words if self.names[w].startswith(gap.stem)]
        total = math.fsum([p[w] for w in words])
        if not words or not self.weight:
            return Counted({})
        if among:
            words = [self.numbers[word] for word in among if word in self.numbers]
        words = heapq.nlargest(MAX_TARGETS // (1 + len(after)), words, key=p.__getitem__)
        covered = math.fsum([p[w] for w in words]) / total
        logs = self.logs_after(before, words, after)
        names = {self.names[w]: math.log(p[w] / total) + logs[i] for i, w in enumerate(words)}
        return Counted(names, covered, self.weight)

    def logs_after(
        self, before: Sequence[int], words: Sequence[int], after: Sequence[int]
    ) -> list[float]:
        """Return log p of the tokens `after` each word."""
        if not after:
            return [0.0] * len(words)
        context = before[max(0, len(before) - self.ngram.order + 1) :]
        batch = pack_sequences([*context, word, *after] for word in words)
        logprobs, size = self.ngram.logprobs(batch), len(context) + len(after)
        ends = range(size, len(logprobs) + 1, size)
        return [math.fsum(logprobs[end - len(after) : end]) for end in ends]
