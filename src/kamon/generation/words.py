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
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from kamon.errors import ConfigError
from kamon.generation.branches import Branches, branches_of
from kamon.generation.sampling import LanguageModel
from kamon.native.library import above
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.bpe import MARKS, BytePairTokenizer

LETTERS = rf"[\w{MARKS}]"
JOINERS = "'’-"
WORD = re.compile(rf"{LETTERS}+(?:[{JOINERS}]{LETTERS}+)*")
OPEN_WORD = re.compile(rf"{WORD.pattern}[{JOINERS}]?")  # it may continue
BEGUN = re.compile(rf"(?:{OPEN_WORD.pattern})?\Z")
ENOUGH = 0.9  # share of the probability to find
MAX_WORD = 200  # characters of an unfinished word
WANTED = 100  # words of the n-gram whose beginnings are read first
WAVE = 64  # beginnings of words that are read together
ROOM = 32  # tokens of a word and of the text after it, at least
PART = "\ufffd"  # at the end of a text: a part of a character
LEAST = math.log(1e-4)  # of the most probable word, with the text after it: drop others


class Word(NamedTuple):
    """A word and its probability in the gap, among all texts with the same beginning.

    If it is known what follows the gap, it is the probability among the words found.
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
            texts that have no word here. If it is known what follows the gap, it is 1.
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
    """A gap in a text: the text before and after it, and the beginning of the word in it.

    Attributes:
        ends: whether the document ends after `after`.
    """

    before: str
    stem: str = ""
    after: str = ""
    ends: bool = False

    @classmethod
    def at_end(cls, text: str) -> Gap:
        """Return the gap of the last word of `text`, which is not finished.

        >>> Gap.at_end("a cup of co")
        Gap(before='a cup of ', stem='co', after='', ends=False)
        """
        start = BEGUN.search(text, max(0, len(text) - MAX_WORD))
        place = start.start() if start else len(text)
        return cls(text[:place], text[place:])


class Beginning(NamedTuple):
    """The beginning of a word: −p, its tokens after the context and their bytes.

    Attributes:
        first: 0 to read it before all those with 1.
        node: of the tree, for all tokens but the last one.
    """

    first: int
    cost: float
    tokens: tuple[int, ...]
    node: int
    data: bytes


@dataclass(frozen=True)
class Counted:
    """Words in a gap according to an n-gram of words.

    Attributes:
        logs: log p of each word with the text after the gap.
        covered: the sum of p of the words, without the text after the gap.
        weight: of the n-gram in the blend with the model, at most ½.
    """

    logs: dict[str, float]
    covered: float = 0.0
    weight: float = 0.0


class Ended(NamedTuple):
    """A word that may end, its log p and node, p of each next token, and tokens.

    tokens: those of the word, or later those of the text after it that are not read yet.
    """

    word: str
    log: float
    node: int
    row: Sequence[float]
    tokens: list[int]

    def after_next(self) -> Ended | None:
        """Return it with p of its next token, or None if that is 0."""
        p = self.row[self.tokens[0]]
        return self._replace(log=self.log + math.log(p)) if p else None


@dataclass
class Kinds:
    """What each token can do to a word, and its bytes."""

    data: list[bytes]
    texts: list[int]  # all that a text can have
    continues: set[int] = field(default_factory=set)
    joins: set[int] = field(default_factory=set)
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
                kinds.continues.add(token)
            elif first in JOINERS:
                kinds.joins.add(token)
            else:
                kinds.ends.append(token)
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
    counted: Counted | None = None,
) -> WordResult:
    """Return the n most probable words in the gap.

    Args:
        max_reads: tokens to read, in addition to those around the gap.
        among: if given, the search is only for these words.
        may_cut: the text is a part of a longer one. It does not begin with BOS, and the model reads
            as much of its end as it can.
        counted: the words of an n-gram to blend with those of the model.

    Raises: ConfigError if there is no room for a word.
    """
    return WordSearch(model, tokenizer, gap, n, max_reads, among, may_cut, counted).run()


def prefixes_of(words: Iterable[str]) -> set[bytes]:
    """Return what these words begin with, with a joiner after them or without."""
    whole = {(word + end).encode() for word in words for end in ["", *JOINERS]}
    return {word[:size] for word in whole for size in range(len(word) + 1)}


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
        counted: Counted | None,
    ) -> None:
        self.tokenizer, self.gap, self.n = tokenizer, gap, n
        self.among = frozenset(among)
        self.kinds = Kinds.of(tokenizer)
        self.tree: Branches = branches_of(model)
        self.max_reads = max_reads
        self.reads = self.size = 0
        self.least = 1e-300 if among else 0.01 / max_reads  # of a beginning
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
        self.counted = counted or Counted({})
        logs = self.counted.logs
        self.prefixes = prefixes_of(among)
        self.wanted = prefixes_of(heapq.nlargest(WANTED, logs, key=logs.__getitem__))

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
        self.expand(Beginning(0, -1.0, (), self.size - 1, b""), self.size - 1, row)
        while self.heap and self.reads < self.max_reads and not self.is_enough():
            wave = [heapq.heappop(self.heap) for _ in range(min(WAVE, len(self.heap)))]
            rows = self.push([(item.node, item.tokens[-1]) for item in wave])
            for item, (node, row) in zip(wave, rows, strict=True):
                self.expand(item, node, row)
        if not self.begun:
            return WordResult([], 0, 0.0, 0.0, self.reads)
        return self.result(self.with_after() if self.follows else self.logs())

    @property
    def follows(self) -> bool:
        """Whether something certain follows the gap."""
        return bool(self.gap.after) or self.gap.ends

    def logs(self) -> dict[str, float]:
        """Return log p of the words found."""
        return {word: math.log(p / self.begun) for word, p in self.found.items() if p}

    def result(self, logs: dict[str, float]) -> WordResult:
        """Return the blend of these words, with log p of each, with those of the n-gram."""
        weight = self.counted.weight
        top = max([*logs.values(), *self.counted.logs.values()], default=0.0)
        words = {word: (1 - weight) * math.exp(log - top) for word, log in logs.items()}
        for word, log in self.counted.logs.items():
            words[word] = words.get(word, 0.0) + weight * math.exp(log - top)
        total, scale = 1.0, math.fsum(words.values())
        covered = (1 - weight) * math.fsum(self.found.values()) / self.begun
        covered = min(1.0, covered + weight * self.counted.covered)
        if not self.follows:
            total, scale = covered, math.exp(-top)
        best = heapq.nsmallest(self.n, words.items(), key=lambda item: (-item[1], item[0]))
        found = [Word(word, p / scale) for word, p in best]
        return WordResult(found, len(words), total if words else 0.0, covered, self.reads)

    def is_enough(self) -> bool:
        """Return whether the best n words are found, and ENOUGH of all words."""
        first = self.heap[0]
        if self.among or not first.first or not self.begun or len(first.data) < len(self.needed):
            return False
        if sum(self.found.values()) < ENOUGH * self.begun:
            return False
        best = heapq.nlargest(self.n, self.found.values())
        return len(best) == self.n and best[-1] >= -first.cost

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

    def followers(self, item: Beginning, node: int, row: Sequence[float]) -> Collection[int]:
        """Return the tokens that may follow, and add the word that all others end."""
        if len(item.data) < len(self.needed):
            return self.kinds.texts
        text, kinds = self.text(item.data), self.kinds
        joined = text[-1:] in JOINERS
        followers, ends = kinds.continues, [*kinds.ends, *kinds.joins]
        if text and not joined:
            followers, ends = kinds.continues | kinds.joins, kinds.ends
        if text and not text.endswith(PART):
            p = -item.cost * math.fsum(map(row.__getitem__, ends))
            self.add(text[:-1] if joined else text, p)
            if self.follows and not joined and (not self.among or text in self.among):
                self.ends.append(Ended(text, math.log(-item.cost), node, row, [*item.tokens]))
        least = self.least / -item.cost
        return [token for token in above(row, least) if token in followers]

    def extend(self, item: Beginning, node: int, token: int, p: float) -> None:
        """Keep a beginning with one more token, or add the word that this token ends."""
        data, needed = item.data + self.kinds.data[token], self.needed
        if len(item.data) < len(needed):
            size = min(len(data), len(needed))
            if data[:size] != needed[:size]:
                return
            self.begun += p if len(data) >= len(needed) else 0
        begun = self.known + data[self.skipped :]
        if self.prefixes and begun not in self.prefixes:
            return
        text = self.text(data).rstrip(PART)
        if OPEN_WORD.fullmatch(text) or not text:
            tokens = (*item.tokens, token)
            first = 0 if begun in self.wanted else 1
            heapq.heappush(self.heap, Beginning(first, -p, tokens, node, data))
        elif ended := WORD.match(text):
            self.add(ended[0], p)

    def text(self, data: bytes) -> str:
        """Return the word so far, with U+FFFD at its end for a part of a character."""
        return (self.known + data[self.skipped :]).decode("utf-8", "replace")

    def add(self, word: str, p: float) -> None:
        if (not self.among or word in self.among) and word.startswith(self.gap.stem):
            self.found[word] = self.found.get(word, 0.0) + p

    def with_after(self) -> dict[str, float]:
        """Return log p of the words found and of what follows the gap.

        It reads that text after all of them, token by token, and drops those that no longer matter,
        unless they are asked for.
        """
        found: dict[str, float] = {}
        least = -math.inf if self.among else LEAST
        left = [item for item in map(self.begin_after, self.ends) if item]
        while left:
            left = [each for each in map(Ended.after_next, left) if each]
            most = max([item.log for item in left] + list(found.values()), default=0.0)
            left = [item for item in left if item.log >= least + most]
            found |= {item.word: item.log for item in left if len(item.tokens) == 1}
            left = [item for item in left if len(item.tokens) > 1]
            rows = self.push([(item.node, item.tokens[0]) for item in left])
            left = [
                item._replace(node=node, row=row, tokens=item.tokens[1:])
                for item, (node, row) in zip(left, rows, strict=True)
            ]
        return {word: log - math.log(self.begun) for word, log in found.items()}

    def begin_after(self, ended: Ended) -> Ended | None:
        """Return a word with the tokens after it, or None if they would change its own tokens."""
        whole = self.tokenizer.encode(f"{self.gap.before}{ended.word}{self.gap.after}")
        begun = [*self.fixed, *ended.tokens]
        rest = whole[len(begun) :]
        fits = len(ended.tokens) + len(rest) <= self.room
        if not fits or [*begun, *rest] != whole:
            return None
        rest += [self.tokenizer.bos] * self.gap.ends
        return ended._replace(tokens=rest)
