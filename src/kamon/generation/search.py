r"""Search for the most probable documents that match a pattern, with an engine and its tokenizer.

In a pattern, `_` matches one character and `*` any number of them, including none. A backslash
takes the next character literally. A character is a grapheme cluster, which may have several code
points. Documents are ranked by their log probability.

The search is exact if it may read enough tokens. It keeps prefixes of documents in a heap. It reads
the most probable one, and puts back its extensions that can still match. No document is more
probable than its prefixes. So the documents found are the best when no prefix in the heap is more
probable. Each prefix has the set of places in the pattern that it may have reached, as bits of one
number. So the search finds each document once, even if it matches in several ways.

Rare endings after a `*` can take very long. If the search reaches its limit first, a beam search
reads as many tokens again. It extends the best prefixes of each length and place reached. Its
results may not be the best ones. `SearchResult.num_exact` counts those that certainly are.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import NamedTuple

from kamon.data.graphemes import Boundaries, graphemes
from kamon.errors import ConfigError
from kamon.generation.automaton import (
    ALL,
    ANY,
    ClusterAutomaton,
    Term,
    characters,
    one_cluster,
    sequence,
    words,
)
from kamon.generation.sampling import LanguageModel, PrefixCache, log_sum_exp
from kamon.tokenizers.base import Tokenizer


class Wildcard(Enum):
    """An unknown part of a pattern."""

    ONE = "_"
    ANY = "*"


Element = str | Wildcard  # a character that must be here, or a gap


class Completion(NamedTuple):
    """A whole document.

    Attributes:
        logprob: log p of it and its end in nats, at temperature 1. The end of a document of
            block_size tokens does not count.
        share: from `complete`, its probability among all documents that begin with the prefix; from
            `fill`, its part of the probability of all documents found.
    """

    text: str
    logprob: float
    share: float


@dataclass(frozen=True)
class SearchResult:
    """The documents found, the most probable first.

    Attributes:
        num_exact: how many documents, from the first, are certainly the most probable.
        complete: whether all are exact, and there are fewer than n only because no others match.
        reads: tokens that the model has read.
    """

    documents: list[Completion]
    num_exact: int
    complete: bool
    reads: int


# A prefix of documents: −log p, the tokens, and the places in the pattern that they may have
# reached. A heap has the most probable first. It is a tuple because there are very many.
Candidate = tuple[float, tuple[int, ...], int]
NOTHING: tuple[Candidate, ...] = ((0.0, (), 1),)


def parse(pattern: str) -> list[Element]:
    r"""Return the characters and gaps. Raises ConfigError for "" and for a `\` at the end.

    >>> parse(r"a_\_*")
    ['a', <Wildcard.ONE: '_'>, '_', <Wildcard.ANY: '*'>]
    """
    if not pattern:
        raise ConfigError(
            "the pattern is empty", "use _ for one character and * for any number of characters"
        )
    elements: list[Element] = []
    chars = iter(pattern)
    for char in chars:
        if char == "\\":
            escaped = next(chars, "")
            if not escaped:
                raise ConfigError(r"the pattern ends with a \, which escapes nothing")
            elements.append(escaped)
        else:
            elements.append(Wildcard(char) if char in "_*" else char)
    return elements


def grouped(elements: Sequence[Element]) -> list[Element]:
    """Return the elements with the code points of each grapheme cluster together.

    A gap begins and ends between clusters.
    """
    found: list[Element] = []
    for kind, group in groupby(elements, type):
        parts = list(group)
        found += graphemes("".join(map(str, parts))) if kind is str else parts
    return found


def term_of(elements: Sequence[Element]) -> Term:
    """Return the documents that a pattern matches, read by grapheme clusters."""
    parts = grouped(elements)
    terms = {Wildcard.ONE: ANY, Wildcard.ANY: ALL}
    return characters(
        sequence(*(one_cluster(p) if isinstance(p, str) else terms[p] for p in parts)),
        [part for part in parts if isinstance(part, str)],
    )


def search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    pattern: Sequence[Element],
    n: int,
    max_reads: int,
    begin: Sequence[Candidate] = NOTHING,
    prefix: str = "",
) -> SearchResult:
    """Return the n most probable documents that match; their shares are 0.

    Args:
        max_reads: tokens to read for an exact answer, and as many again if that is not enough.
        begin: prefixes that all documents start with; the pattern is for what follows them.
        prefix: the code points that all documents start with, if the pattern is `*`.
    """
    return BestFirstSearch(model, tokenizer, pattern, n, max_reads, prefix).run(begin)


class BestFirstSearch:
    """One search: the prefixes read and the n best documents so far."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        pattern: Sequence[Element],
        n: int,
        max_reads: int,
        prefix: str,
    ) -> None:
        self.tokenizer = tokenizer
        self.n = n
        self.max_reads = max_reads
        self.block_size = model.config.block_size
        boundaries = tokenizer.boundaries()
        self.matcher: Matcher | ClusterMatcher
        if boundaries:
            self.matcher = ClusterMatcher(pattern, tokenizer, self.block_size, boundaries, prefix)
        else:
            self.matcher = Matcher([*prefix, *pattern], tokenizer, self.block_size)
        self.prefixes = PrefixCache(model, tokenizer.bos)
        self.best: list[tuple[float, tuple[int, ...]]] = []  # a heap, the least probable first
        self.special = set(tokenizer.special.values())  # no text has them

    def run(self, begin: Sequence[Candidate]) -> SearchResult:
        left: list[Candidate] = []
        for cost, tokens, _ in begin:
            candidate = cost, tokens, self.matcher.start(tokens)
            if not candidate[2]:
                continue
            if len(candidate[1]) < self.block_size:
                heapq.heappush(left, candidate)
            else:
                self.offer(*candidate[:2])
        while left and left[0][0] < self.threshold() and self.prefixes.reads < self.max_reads:
            for candidate in self.expand(heapq.heappop(left)):
                heapq.heappush(left, candidate)
            if len(left) > 4 * self.max_reads:  # the search can read no more than max_reads
                left = heapq.nsmallest(self.max_reads, left)
        unread = left[0][0] if left else math.inf  # no document left costs less
        complete = unread >= self.threshold()
        if not complete:
            self.beam(left)
        documents = [
            Completion(self.tokenizer.decode(tokens), logprob, 0.0)
            for logprob, tokens in sorted(self.best, key=lambda item: (-item[0], item[1]))
        ]
        exact = sum(-document.logprob <= unread for document in documents)
        return SearchResult(documents, exact, complete, self.prefixes.reads)

    def expand(self, candidate: Candidate) -> list[Candidate]:
        """Return the extensions that can be among the best, and offer documents that end here."""
        cost, tokens, places = candidate
        logits = self.prefixes.logits(tokens)
        base = cost + log_sum_exp(logits)
        if self.matcher.ends(places):
            self.offer(base - logits[self.tokenizer.bos], tokens)
        last = len(tokens) + 1 == self.block_size
        others, in_pattern = self.matcher.after(places, len(tokens))
        extensions: list[Candidate] = []
        for token, logit in enumerate(logits):
            reached = in_pattern.get(token, others)
            extended = base - logit
            if not reached or token in self.special or extended >= self.threshold():
                continue
            if last:
                self.offer(extended, (*tokens, token))
            else:
                extensions.append((extended, (*tokens, token), reached))
        return extensions

    def threshold(self) -> float:
        """Return the cost below which a document is among the best."""
        return -self.best[0][0] if len(self.best) == self.n else math.inf

    def offer(self, cost: float, tokens: tuple[int, ...]) -> None:
        """Keep a document if it is among the best and its tokens are those of the tokenizer."""
        encode, decode = self.tokenizer.encode, self.tokenizer.decode
        if cost < self.threshold() and encode(decode(tokens)) == list(tokens):
            heapq.heappush(self.best, (-cost, tokens))
            if len(self.best) > self.n:
                heapq.heappop(self.best)

    def beam(self, left: Sequence[Candidate]) -> None:
        """Extend the prefixes left, shorter ones first, with up to `max_reads` more reads.

        The best of each length stay, equally many from each place reached in the pattern. Otherwise
        the beam would drop a prefix that has left a `*`: it is less probable than those inside.
        """
        end = self.prefixes.reads + self.max_reads
        pools: list[list[Candidate]] = [[] for _ in range(self.block_size)]
        for candidate in left:
            pools[len(candidate[1])].append(candidate)
        for length, pool in enumerate(pools):
            # Reads until all candidates of this length are whole documents.
            cost = (self.block_size * (self.block_size + 1) - length * (length + 1)) // 2
            width = (end - self.prefixes.reads) // cost
            groups: dict[int, list[Candidate]] = {}
            for candidate in pool:
                groups.setdefault(self.matcher.place(candidate[2]), []).append(candidate)
            for group in groups.values():
                for candidate in heapq.nsmallest(max(1, width // len(groups)), group):
                    if self.prefixes.reads >= end:
                        return
                    for extended in self.expand(candidate):
                        pools[length + 1].append(extended)


class Matcher:
    """Matches a pattern with sets of places as bits: bit i if its first i characters are read.

    Any token keeps a place with a `*`. At the start, the only place is 0, which is the number 1.
    """

    def __init__(self, pattern: Sequence[Element], tokenizer: Tokenizer, block_size: int) -> None:
        for element in pattern:
            if not isinstance(element, Wildcard) and (
                not isinstance(element, str) or len(element) != 1
            ):
                raise ConfigError(f"{element!r} is neither a character nor a gap of a pattern")
        chars = [element for element in pattern if element is not Wildcard.ANY]
        if len(chars) > block_size:
            raise ConfigError(
                f"the pattern needs {len(chars):,} characters or more, "
                f"and the model's block_size {block_size} allows {block_size}"
            )
        text = "".join(char for char in chars if isinstance(char, str))
        self.block_size = block_size
        self.size = len(chars)
        self.gaps = 0  # places with a `*`
        place = 0
        for element in pattern:
            if element is Wildcard.ANY:
                self.gaps |= 1 << place
            else:
                place += 1
        one = sum(1 << i for i, char in enumerate(chars) if char is Wildcard.ONE)
        self.any = one  # places that any token leaves for the next
        self.of_token: dict[int, int] = dict.fromkeys(tokenizer.encode(text), one)  # this token
        for i, char in enumerate(chars):
            if isinstance(char, str):
                self.of_token[tokenizer.encode(char)[0]] |= 1 << i

    def start(self, tokens: Sequence[int]) -> int:  # noqa: ARG002
        """Return the places after the tokens that come before the pattern."""
        return 1

    def place(self, places: int) -> int:
        """Return how far places are in the pattern."""
        return places.bit_length()

    def ends(self, places: int) -> bool:
        return bool(places >> self.size)

    def after(self, places: int, length: int) -> tuple[int, dict[int, int]]:
        """Return the places after most tokens, and after those that are in the pattern.

        length: tokens read so far. If too few are left to match the rest, a result is 0.
        """
        least = max(0, self.size + length + 1 - self.block_size)  # place to reach by then
        stay = places & self.gaps
        others = (places & self.any) << 1 | stay
        reached = {token: (places & bits) << 1 | stay for token, bits in self.of_token.items()}
        return others if others >> least else 0, {
            t: r if r >> least else 0 for t, r in reached.items()
        }


class ClusterMatcher:
    """Matches a pattern whose characters may have several code points. Places are a state + 1.

    Documents have only clusters that the boundaries know.
    """

    def __init__(
        self,
        pattern: Sequence[Element],
        tokenizer: Tokenizer,
        block_size: int,
        boundaries: Boundaries,
        prefix: str = "",
    ) -> None:
        begins = sequence(words([prefix]), ALL)
        self.automaton = ClusterAutomaton([begins, term_of(pattern)], boundaries)
        self.tokenizer = tokenizer
        self.block_size = block_size
        text = prefix + "".join(element for element in pattern if isinstance(element, str))
        tokenizer.encode(text)  # raises TokenizerError
        size = len(text) + sum(element is Wildcard.ONE for element in pattern)
        if size > block_size:
            raise ConfigError(
                f"the pattern needs {size:,} code points or more, "
                f"and the model's block_size {block_size} allows {block_size}"
            )
        special = tokenizer.special.values()
        tokens = (token for token in range(tokenizer.vocab_size) if token not in special)
        self.texts = {token: tokenizer.decode([token]) for token in tokens}

    def start(self, tokens: Sequence[int]) -> int:
        if not tokens:
            return 1
        # The pattern is for the whole document, so it begins with a gap here.
        state = self.automaton.after(0, self.tokenizer.decode(tokens))
        return 0 if self.automaton.is_dead(state) else state + 1

    def place(self, places: int) -> int:
        return self.automaton.states[places - 1][1]

    def ends(self, places: int) -> bool:
        return self.automaton.accepts(places - 1)

    def after(self, places: int, length: int) -> tuple[int, dict[int, int]]:
        """Return the places after most tokens, and after all that are possible."""
        automaton, last = self.automaton, length + 1 == self.block_size
        reached = {}
        for token, text in self.texts.items():
            state = automaton.after(places - 1, text)
            if not automaton.is_dead(state) and not (last and not automaton.accepts(state)):
                reached[token] = state + 1
        return 0, reached
