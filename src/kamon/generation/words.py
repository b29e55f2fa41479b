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
from itertools import takewhile
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
MAX_WORD = 200  # characters of an unfinished word
WAVE = 64  # beginnings of words that are read together
ROOM = 32  # tokens of a word and of the text after it, at least
PART = "\ufffd"  # at the end of a text: a part of a character
LEAST = 1e-4  # of the most probable word, with the text after it: less probable ones are dropped


class Word(NamedTuple):
    """A word and its probability in the gap, among all texts with the same beginning.

    If there is text after the gap, it is the probability among the words found.
    """

    text: str
    probability: float


@dataclass(frozen=True)
class WordResult:
    """The words found, the most probable first.

    Attributes:
        words: the first n words.
        num_found: number of words found, including those after the first n.
        total: the sum of the probabilities of all words found. The rest is of other words, and of
            texts that have no word here. If there is text after the gap, it is 1.
        covered: the same from the text before the gap only.
        reads: tokens that the model has read.
    """

    words: list[Word]
    num_found: int
    total: float
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
        start = BEGUN.search(text, max(0, len(text) - MAX_WORD))
        place = start.start() if start else len(text)
        return cls(text[:place], text[place:])


class Beginning(NamedTuple):
    """The beginning of a word: −p, its tokens after the context and their bytes.

    node: of the tree, for all tokens but the last one.
    """

    cost: float
    tokens: tuple[int, ...]
    node: int
    data: bytes


class Ended(NamedTuple):
    """A word that may end, its p and node, p of each next token, and tokens.

    tokens: those of the word, or later those of the text after it that are not read yet.
    """

    word: str
    p: float
    node: int
    row: Sequence[float]
    tokens: list[int]


@dataclass
class Kinds:
    """What each token can do to a word, and its bytes."""

    data: list[bytes]
    texts: list[int]  # all that a text can have
    continues: list[int] = field(default_factory=list)
    joins: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> Kinds:
        special = set(tokenizer.special.values())
        tokens = range(tokenizer.vocab_size)
        data = [spelling(tokenizer, [token]) for token in tokens]
        kinds = cls(data, [token for token in tokens if token not in special])
        for token in tokens:
            first = data[token].decode("utf-8", "ignore")[:1]
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
    gap: Gap,
    n: int,
    max_reads: int,
    among: Collection[str] = (),
    *,
    may_cut: bool = False,
) -> WordResult:
    """Return the n most probable words in the gap.

    Args:
        max_reads: tokens to read, in addition to those around the gap.
        among: if given, the search is only for these words.
        may_cut: the text is a part of a longer one. It does not begin with BOS, and the model reads
            as much of its end as it can.

    Raises: ConfigError if there is no room for a word.
    """
    return WordSearch(model, tokenizer, gap, n, max_reads, among, may_cut).run()


class WordSearch:
    """One search: the tree of tokens read, the beginnings of words to read, the words found."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        gap: Gap,
        n: int,
        max_reads: int,
        among: Collection[str],
        may_cut: bool,
    ) -> None:
        self.tokenizer, self.gap, self.n = tokenizer, gap, n
        self.among = frozenset(among)
        self.kinds = Kinds.of(tokenizer)
        self.tree: Branches = branches_of(model)
        self.max_reads = max_reads
        self.reads = self.size = 0
        self.least = 1e-12 if among else 0.01 / max_reads  # of a beginning
        text = gap.before + gap.stem
        self.fixed = self.fixed_tokens(text)
        read = spelling(tokenizer, self.fixed)
        self.needed = text.encode()[len(read) :]  # bytes that the next tokens begin with
        self.known = read[len(gap.before.encode()) :]  # bytes of the word that are read already
        self.skipped = max(0, len(gap.before.encode()) - len(read))  # needed bytes before the word
        self.context = self.context_of(model.config.block_size, may_cut)
        self.room = model.config.block_size - len(self.context)
        self.heap: list[Beginning] = []
        self.found: dict[str, float] = {}
        self.ends: list[Ended] = []  # only if there is text after the gap
        words = {(word + end).encode() for word in among for end in ["", *JOINERS]}
        self.prefixes = {word[:size] for word in words for size in range(len(word) + 1)}

    def fixed_tokens(self, text: str) -> list[int]:
        """Return the tokens that all texts with this beginning have."""
        if not text:
            return []
        ways = self.tokenizer.prefix_tokenizations(text)
        pairs = zip(min(ways), max(ways), strict=False)  # the first and the last in order
        return [a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]

    def context_of(self, block_size: int, may_cut: bool) -> list[int]:
        """Return the tokens to read before the gap."""
        tokenizer = self.tokenizer
        after = len(tokenizer.encode(self.gap.after))
        room = min(ROOM, block_size // 2) if may_cut else 2
        most = block_size - room - after
        tokens = self.fixed if may_cut and self.fixed else [tokenizer.bos, *self.fixed]
        if most < 1 or (len(tokens) > most and not may_cut):
            raise ConfigError(
                f"the text around the gap has {len(tokens) - 1 + after:,} {tokenizer.unit}s, and "
                f"the model's block_size {block_size} leaves no room for a word"
            )
        return tokens[-most:]

    def run(self) -> WordResult:
        row = self.read_context()
        self.begun = 0.0 if self.needed else 1.0  # probability of all texts with this beginning
        self.expand(Beginning(-1.0, (), self.size - 1, b""), self.size - 1, row)
        while self.heap and self.reads < self.max_reads and not self.is_enough():
            wave = [heapq.heappop(self.heap) for _ in range(min(WAVE, len(self.heap)))]
            rows = self.push([(item.node, item.tokens[-1]) for item in wave])
            for item, (node, row) in zip(wave, rows, strict=True):
                self.expand(item, node, row)
        if not self.begun:
            return WordResult([], 0, 0.0, 0.0, self.reads)
        shares = {word: p / self.begun for word, p in self.found.items()}
        covered = math.fsum(shares.values())
        return self.with_after(covered) if self.gap.after else self.result(shares, covered)

    def result(self, words: dict[str, float], covered: float) -> WordResult:
        best = heapq.nsmallest(self.n, words.items(), key=lambda item: (-item[1], item[0]))
        total, covered = min(1.0, math.fsum(words.values())), min(1.0, covered)
        return WordResult([Word(*item) for item in best], len(words), total, covered, self.reads)

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

    def push(self, pairs: Sequence[tuple[int, int]]) -> list[tuple[int, Sequence[float]]]:
        """Read (node, token) pairs, and return the new node and p of the next token for each."""
        rows = self.tree.push([node for node, _ in pairs], [token for _, token in pairs])
        first = self.size
        self.size += len(rows)
        self.reads += len(rows)
        return list(enumerate(rows, first))

    def expand(self, item: Beginning, node: int, row: Sequence[float]) -> None:
        """Add the word that may end here, and the beginnings that continue."""
        followers = self.followers(item, node, row)
        if len(item.tokens) < self.room:
            for token in followers:
                self.extend(item, node, token, -item.cost * row[token])

    def followers(self, item: Beginning, node: int, row: Sequence[float]) -> list[int]:
        """Return the tokens that may follow, and add the word that all others end."""
        if len(item.data) < len(self.needed):
            return self.kinds.texts
        text, kinds = self.text(item.data), self.kinds
        joined = text[-1:] in JOINERS
        followers, ends = kinds.continues, [*kinds.ends, *kinds.joins]
        if text and not joined:
            followers, ends = [*kinds.continues, *kinds.joins], kinds.ends
        if text and not text.endswith(PART):
            p = -item.cost * math.fsum([row[token] for token in ends])
            self.add(text[:-1] if joined else text, p)
            if self.gap.after and not joined:
                self.ends.append(Ended(text, -item.cost, node, row, [*item.tokens]))
        least = self.least / -item.cost
        return [token for token in followers if row[token] > least]

    def extend(self, item: Beginning, node: int, token: int, p: float) -> None:
        """Keep a beginning with one more token, or add the word that this token ends."""
        data, needed = item.data + self.kinds.data[token], self.needed
        if len(item.data) < len(needed):
            size = min(len(data), len(needed))
            if data[:size] != needed[:size]:
                return
            self.begun += p if len(data) >= len(needed) else 0
        if self.prefixes and self.known + data[self.skipped :] not in self.prefixes:
            return
        text = self.text(data).rstrip(PART)
        if OPEN_WORD.fullmatch(text) or not text:
            tokens = (*item.tokens, token)
            heapq.heappush(self.heap, Beginning(-p, tokens, node, data))
        elif ended := WORD.match(text):
            self.add(ended[0], p)

    def text(self, data: bytes) -> str:
        """Return the word so far, with U+FFFD at its end for a part of a character."""
        return (self.known + data[self.skipped :]).decode("utf-8", "replace")

    def add(self, word: str, p: float) -> None:
        if (not self.among or word in self.among) and word.startswith(self.gap.stem):
            self.found[word] = self.found.get(word, 0.0) + p

    def with_after(self, covered: float) -> WordResult:
        """Return the words found, with the text after the gap, and their shares among them.

        It reads that text after all of them, token by token, and drops those that no longer matter.
        """
        found: dict[str, float] = {}
        left = [item for item in map(self.begin_after, self.ends) if item]
        while left:
            left = [item._replace(p=item.p * item.row[item.tokens[0]]) for item in left]
            most = max([item.p for item in left] + list(found.values()))
            left = [item for item in left if item.p >= LEAST * most]
            found |= {item.word: item.p for item in left if len(item.tokens) == 1}
            left = [item for item in left if len(item.tokens) > 1]
            rows = self.push([(item.node, item.tokens[0]) for item in left])
            left = [
                item._replace(node=node, row=row, tokens=item.tokens[1:])
                for item, (node, row) in zip(left, rows, strict=True)
            ]
        total = math.fsum(found.values())
        return self.result({word: p / total for word, p in found.items() if p}, covered)

    def begin_after(self, ended: Ended) -> Ended | None:
        """Return a word with the tokens after it, or None if they would change its own tokens."""
        whole = self.tokenizer.encode(f"{self.gap.before}{ended.word}{self.gap.after}")
        begun = [*self.fixed, *ended.tokens]
        rest = whole[len(begun) :]
        fits = len(ended.tokens) + len(rest) <= self.room
        same = [*begun, *rest] == whole and rest
        return ended._replace(tokens=rest) if fits and same else None
