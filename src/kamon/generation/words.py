r"""The most probable words in a gap of a text.

A word is letters, digits and marks, with single hyphens or apostrophes inside, such as "don't". Its
probability is that of its characters and of any character that ends it, or of the end of the text.
A word that a tokenizer can write in several ways has the sum of their probabilities.

The search keeps beginnings of words in a heap and reads the most probable ones, WAVE at a time. Its
numbers are exact. It ends when it has found enough words, or at its limit.
"""

from __future__ import annotations

import heapq
import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from os.path import commonprefix
from typing import NamedTuple

from kamon.errors import ConfigError
from kamon.generation.branches import Branches, branches_of
from kamon.generation.sampling import LanguageModel
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.bpe import MARKS, BytePairTokenizer

LETTERS = rf"[\w{MARKS}]"
JOINERS = "'’-"
WORD = re.compile(rf"{LETTERS}+(?:[{JOINERS}]{LETTERS}+)*")
OPEN_WORD = re.compile(rf"{WORD.pattern}[{JOINERS}]?")  # it may continue
BEGUN = re.compile(rf"(?:{OPEN_WORD.pattern})?\Z")
ENOUGH = 0.9  # share of the probability to find
WAVE = 64  # beginnings of words that are read together
ROOM = 32  # tokens of a word and of the text after it, at least
LEAST = 1e-4  # of the most probable word, with the text after it: less probable ones are dropped


class Word(NamedTuple):
    """A word and its probability in the gap, among all texts with the same beginning."""

    text: str
    probability: float


@dataclass(frozen=True)
class WordResult:
    """The words found, the most probable first.

    Attributes:
        words: the first n words.
        num_found: number of words found, including those after the first n.
        covered: probability of all words found. The rest is of other words and of texts that have
            no word here. If there is text after the gap, it is a lower bound.
        reads: tokens that the model has read.
    """

    words: list[Word]
    num_found: int
    covered: float
    reads: int


@dataclass(frozen=True)
class Gap:
    """A gap in a text: the text before and after it, and the beginning of the word in it."""

    before: str
    stem: str = ""
    after: str = ""

    @classmethod
    def at_end(cls, text: str) -> Gap:
        """Return the gap of the last word of `text`, which is not finished.

        >>> Gap.at_end("a cup of co")
        Gap(before='a cup of ', stem='co', after='')
        """
        start = BEGUN.search(text)
        place = start.start() if start else len(text)
        return cls(text[:place], text[place:])


class Beginning(NamedTuple):
    """The beginning of a word: −p, a number, its tokens after the context and their bytes.

    node: of the tree, for all tokens but the last one.
    """

    cost: float
    number: int
    node: int
    tokens: tuple[int, ...]
    data: bytes


@dataclass
class Kinds:
    """What each token can do to a word, and its bytes."""

    data: list[bytes]
    continues: list[int] = field(default_factory=list)
    joins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Kinds:
        special = set(tokenizer.special.values())
        kinds = cls([spelling(tokenizer, [token]) for token in range(tokenizer.vocab_size)])
        for token, data in enumerate(kinds.data):
            first = data.decode("utf-8", "ignore")[:1]
            if token in special:
                if token == tokenizer.bos:
                    kinds.ends.append(token)
            elif not first or re.match(LETTERS, first):  # a part of a character may be a letter
                kinds.continues.append(token)
            else:
                (kinds.joins if first in JOINERS else kinds.ends).append(token)
        return kinds


def spelling(tokenizer: Tokenizer, tokens: Sequence[int]) -> bytes:
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer.decode_bytes(tokens)
    return tokenizer.decode(tokens).encode("utf-8", "surrogatepass")


def find_words(
    model: LanguageModel,
    tokenizer: Tokenizer,
    start: Sequence[int],
    gap: Gap,
    n: int,
    max_reads: int,
    among: Collection[str] = (),
) -> WordResult:
    """Return the n most probable words in the gap.

    Args:
        start: the tokens before the text, such as BOS. If they are not BOS, the model reads only
            as much of the end of the text as it can.
        max_reads: tokens to read, in addition to the text before the gap.
        among: if given, the search is only for these words.
    """
    return WordSearch(model, tokenizer, start, gap, n, max_reads, among).run()


class WordSearch:
    """One search: the tree of tokens read, the beginnings of words to read, the words found."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        start: Sequence[int],
        gap: Gap,
        n: int,
        max_reads: int,
        among: Collection[str],
    ) -> None:
        self.tokenizer, self.gap, self.n = tokenizer, gap, n
        self.among = frozenset(among)
        self.kinds = Kinds.of(tokenizer)
        self.tree: Branches = branches_of(model)
        self.max_reads = max_reads
        self.reads = self.size = self.pushed = 0
        self.least = 0.01 / max_reads if not among else 0.0  # of a beginning
        text = gap.before + gap.stem
        self.fixed = self.fixed_tokens(text)
        read = spelling(tokenizer, self.fixed)
        self.needed = text.encode()[len(read) :]  # bytes that the next tokens begin with
        self.known = read[len(gap.before.encode()) :]  # bytes of the word that are read already
        self.skipped = max(0, len(gap.before.encode()) - len(read))  # needed bytes before the word
        self.context = self.context_of(start, model.config.block_size)
        self.room = model.config.block_size - len(self.context)
        self.heap: list[Beginning] = []
        self.found: dict[str, float] = {}
        self.ends: dict[str, tuple[float, int, tuple[int, ...]]] = {}  # p, node, tokens
        self.begun = 0.0  # probability of all texts that go on like the gap

    def fixed_tokens(self, text: str) -> list[int]:
        """Return the tokens that all texts with this beginning have."""
        if not text:
            return []
        ways = self.tokenizer.prefix_tokenizations(text)
        return list(commonprefix([list(way) for way in ways]))  # type: ignore[type-var]

    def context_of(self, start: Sequence[int], block_size: int) -> list[int]:
        if list(start) == [self.tokenizer.bos]:
            if len(self.fixed) + 1 >= block_size:
                raise ConfigError(
                    f"the text before the gap has {len(self.fixed):,} {self.tokenizer.unit}s, and "
                    f"the model's block_size {block_size} leaves no room for a word"
                )
            return [*start, *self.fixed]
        most = max(1, block_size - min(ROOM, block_size // 2))
        return [*start, *self.fixed][-most:]

    def run(self) -> WordResult:
        row = self.read_context()
        self.expand(Beginning(-1.0, 0, self.size - 1, (), b""), self.size - 1, row)
        while self.heap and self.reads < self.max_reads and not self.is_enough():
            wave = [heapq.heappop(self.heap) for _ in range(min(WAVE, len(self.heap)))]
            for item, (node, row) in zip(wave, self.push(wave), strict=True):
                self.expand(item, node, row)
        if not self.begun:
            return WordResult([], 0, 0.0, self.reads)
        joint = {word: p / self.begun for word, p in self.found.items()}
        return self.with_after(joint) if self.gap.after else self.result(joint, sum(joint.values()))

    def result(self, words: dict[str, float], covered: float) -> WordResult:
        best = heapq.nsmallest(self.n, words.items(), key=lambda item: (-item[1], item[0]))
        return WordResult(
            [Word(*item) for item in best], len(words), min(1.0, covered), self.reads
        )

    def is_enough(self) -> bool:
        """Return whether the best n words are found, and ENOUGH of all words."""
        if self.among or self.begun == 0 or len(self.heap[0].data) < len(self.needed):
            return False
        if sum(self.found.values()) < ENOUGH * self.begun:
            return False
        best = heapq.nlargest(self.n, self.found.values())
        return len(best) == self.n and best[-1] >= -self.heap[0].cost

    def read_context(self) -> Sequence[float]:
        for token in self.context:
            (row,) = self.tree.push([self.size - 1], [token])
            self.size += 1
        return row

    def push(self, wave: Sequence[Beginning]) -> list[tuple[int, Sequence[float]]]:
        rows = self.tree.push([item.node for item in wave], [item.tokens[-1] for item in wave])
        first = self.size
        self.size += len(rows)
        self.reads += len(rows)
        return list(enumerate(rows, first))

    def expand(self, item: Beginning, node: int, row: Sequence[float]) -> None:
        """Add the word that may end here, and the beginnings that continue."""
        share = -item.cost
        if len(item.data) < len(self.needed) or not (text := self.text(item.data)):
            followers: Sequence[int] = range(len(row))
            if len(item.data) >= len(self.needed):  # no character of the word is known
                followers = self.kinds.continues
                if not item.tokens:
                    self.begun = 1.0
        else:
            if not item.tokens:
                self.begun = 1.0
            kinds = self.kinds
            joined = text[-1:] in JOINERS
            followers = kinds.continues if joined else kinds.continues + kinds.joins
            if not text.endswith("\ufffd"):
                ends = [*kinds.ends, *kinds.joins] if joined else kinds.ends
                p = share * math.fsum(itemgetter(*ends, ends[0])(row)[:-1]) if ends else 0.0
                self.add(text[:-1] if joined else text, p, node, item.tokens)
        if len(item.tokens) >= self.room:
            return
        least = self.least / share
        for token in followers:
            if row[token] > least:
                self.extend(item, node, token, share * row[token])

    def extend(self, item: Beginning, node: int, token: int, p: float) -> None:
        """Keep item and token if they can begin a word; a token may also end it."""
        added = self.kinds.data[token]
        data, needed = item.data + added, self.needed
        if len(item.data) < len(needed):
            size = min(len(data), len(needed))
            if data[:size] != needed[:size] or token in self.tokenizer.special.values():
                return
            if len(data) >= len(needed):
                self.begun += p
        text = self.text(data)
        word = OPEN_WORD.match(text.rstrip("\ufffd"))
        if text.strip("\ufffd") and not word:
            return
        if word and word.end() < len(text.rstrip("\ufffd")):
            ended = WORD.match(text)
            if ended:
                self.add(ended[0], p, -1, ())
            return
        if self.among and not any(
            each.startswith(text.rstrip("\ufffd" + JOINERS)) for each in self.among
        ):
            return
        self.pushed += 1
        heapq.heappush(self.heap, Beginning(-p, self.pushed, node, (*item.tokens, token), data))

    def text(self, data: bytes) -> str:
        """Return the word so far, with U+FFFD at its end for a part of a character."""
        return (self.known + data[self.skipped :]).decode("utf-8", "replace")

    def add(self, word: str, p: float, node: int, tokens: tuple[int, ...]) -> None:
        if self.among and word not in self.among:
            return
        self.found[word] = self.found.get(word, 0.0) + p
        if node >= 0 and p > self.ends.get(word, (0.0, 0, ()))[0]:
            self.ends[word] = p, node, tokens

    def with_after(self, joint: dict[str, float]) -> WordResult:
        raise NotImplementedError
