r"""What a model would write where a text has gaps: next tokens, completions, fillings.

A pattern is text in which `_` stands for one character and `*` for any number, also none; `\` takes
the character behind it as it is. Documents that match it are ranked by the log probability of the
whole document. A completion of P is a document that matches P and a `*` behind it.

The search is exact as long as its work allows. It keeps prefixes of documents in a heap, reads the
most probable one, and puts back its extensions that can still match. No document is more probable
than its prefixes, so those found are the best as soon as none in the heap is above them. With each
prefix goes the set of places in the pattern where it may have arrived, as bits of one number: each
document is met once, in whatever ways it matches.

Rare endings behind a `*` can make that long. Where the work that is allowed ends first, as much
again goes into a beam: of the prefixes left, length by length, the best of each length and place
reached. What that adds need not be the best there is; `Found.exact` tells how many surely are.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from kamon.config import check_text, require_float, require_int
from kamon.engines.parameters import num_params
from kamon.errors import ConfigError
from kamon.generation.sampling import (
    LanguageModel,
    PrefixCache,
    log_sum_exp,
    logprobs_of_prefixes,
    probabilities,
)
from kamon.generation.text import prompt_of
from kamon.model import Model, as_model
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.char import CharTokenizer

MAX_RESULTS = 10_000  # documents that can be asked for
MAX_EFFORT = 1_000
MAX_READS = 10_000  # tokens that a search reads, and as many in the beam
MAX_READS_SLOW = 2_000  # by an engine without a `train` of its own: the scalar one
MAX_EXPANSIONS = (
    1e7  # tokens that might follow, looked at one by one: fewer are read of a large vocabulary
)
MAX_FLOPS = 4e8  # parameters times tokens: fewer are read of a larger model
MAX_FLOPS_SLOW = 8e6


class Wildcard(Enum):
    """What stands in a pattern for characters that are not known."""

    ONE = "_"
    ANY = "*"


Element = str | Wildcard  # a character that must stand here, or a gap


class NextToken(NamedTuple):
    """What may come next: the text of a token, empty for the end of the document; also the rest of
    a token that the prefix has only the beginning of. Bytes that are part of a character are shown
    as `Tokenizer.piece` does."""

    text: str
    probability: float


class Completion(NamedTuple):
    """A whole document. logprob: log p of it and its end in nats, at temperature 1; of a document
    of block_size tokens without the end, which the model did not reach.

    share: of `completions`, its probability among all documents that begin like it; of `fill`, its
    part of the probability of those found.
    """

    text: str
    logprob: float
    share: float


@dataclass(frozen=True)
class SearchResult:
    """Documents, the most probable first.

    The first `exact` of them are the most probable of all; the others may not be. complete: the
    search ended by itself, so that all are exact, and where they are fewer than n no others match.
    reads: tokens that the model has read.
    """

    documents: list[Completion]
    num_exact: int
    complete: bool
    reads: int


# −log p, the tokens, and the places in the pattern that they may have reached, of a prefix of
# documents: as a heap wants it, the most probable first. Plain, since there are very many.
Candidate = tuple[float, tuple[int, ...], int]
NOTHING: tuple[Candidate, ...] = ((0.0, (), 1),)


def next_tokens(
    model: Model | str | Path, prefix: str = "", *, temperature: float = 1.0
) -> list[NextToken]:
    """Every token and its probability behind `prefix`, the most probable first.

    A model of text sees as much of the end of `prefix` as it can. ConfigError for a prefix that
    leaves no room to others, TokenizerError for an unknown character.
    """
    model = as_model(model)
    temperature = require_float("temperature", temperature)
    if not temperature >= 0 or math.isinf(temperature):
        raise ConfigError(f"temperature must be 0 or more and finite, not {temperature}")
    tokenizer = model.tokenizer
    check_text("the prefix", prefix)
    prefix = tokenizer.normal(prefix)
    names = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
    names[tokenizer.bos] = ""
    if model.writes_text:  # goes on from whatever there is, of which it sees the end
        prompt = prompt_of(tokenizer, prefix)[-model.config.block_size :]
        decoder = model.engine.decoder()
        for token in prompt:
            text_logits = decoder.push(token)
        return with_names(names, text_logits, temperature)
    check_prefix(tokenizer, prefix, model.config.block_size)
    tokens = tuple(tokenizer.encode(prefix))
    logits = PrefixCache(model.engine, tokenizer.bos).logits(tokens)
    openings = prefixes_of(model.engine, tokenizer, prefix)
    if len(openings) > 1:
        whole, base = openings.pop(tokens), log_sum_exp(logits)
        texts = dict.fromkeys(names, -math.inf)  # log p of each
        rows = [(name, whole + logit - base) for name, logit in zip(names, logits, strict=True)]
        rows += [(tokenizer.remainder(prefix, longer), p) for longer, p in openings.items()]
        for name, logprob in rows:
            before = texts.get(name, -math.inf)
            texts[name] = logprob if before == -math.inf else log_sum_exp([before, logprob])
        names, logits = list(texts), list(texts.values())
    return with_names(names, logits, temperature)


def with_names(
    names: Sequence[str], logits: Sequence[float], temperature: float
) -> list[NextToken]:
    """The tokens of these names, the most probable first."""
    found = zip(names, probabilities(logits, temperature), strict=True)
    return sorted((NextToken(text, p) for text, p in found), key=lambda each: -each.probability)


def prefixes_of(
    model: LanguageModel, tokenizer: Tokenizer, prefix: str
) -> dict[tuple[int, ...], float]:
    """The ways in which tokens may begin with `prefix` and their log p, those that have room."""
    if not prefix:
        return {(): 0.0}
    size = model.config.block_size
    found = [tokens for tokens in tokenizer.prefix_tokenizations(prefix) if len(tokens) <= size]
    return dict(zip(found, logprobs_of_prefixes(model, tokenizer.bos, found), strict=True))


def complete(
    model: Model | str | Path, prefix: str = "", n: int = 10, *, effort: float = 1.0
) -> SearchResult:
    """The n most probable documents that begin with `prefix`.

    Of the ways to write a document as tokens only that of the tokenizer counts, as for `score`.

    effort: how many times the usual work the search may do. Errors as of `next_tokens`.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora", "nina"], num_steps=60, n_embd=8)
    >>> found = complete(model, "an", 3)
    >>> found.documents[0].text.startswith("an"), found.num_exact
    (True, 3)
    """
    model = as_model(model)
    model.check_documents("completions are documents")
    check_text("the prefix", prefix)
    prefix = model.tokenizer.normal(prefix)
    check_prefix(model.tokenizer, prefix, model.config.block_size)
    if isinstance(model.tokenizer, CharTokenizer):
        found = search_model(model, [*prefix, Wildcard.ANY], n, effort)
    else:
        openings = prefixes_of(model.engine, model.tokenizer, prefix)
        begin = [(-logprob, tokens, 1) for tokens, logprob in openings.items()]
        found = search_model(model, [Wildcard.ANY], n, effort, begin)
    shared = logprob_of_prefix(model.engine, model.tokenizer, prefix)
    return with_shares(found, shared)


def fill(
    model: Model | str | Path, pattern: str | Sequence[Element], n: int = 10, *, effort: float = 1.0
) -> SearchResult:
    """The n most probable documents that match `pattern`; text is taken apart by `parse`.

    ConfigError for an empty pattern or one that asks for more than block_size characters, and for a
    model whose tokens are no characters; TokenizerError for an unknown character.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora", "nina"], num_steps=60, n_embd=8)
    >>> sorted(each.text for each in fill(model, "n_na", 9).documents)
    ['nana', 'nhna', 'nina', 'nnna', 'nona', 'nrna']
    """
    model = as_model(model)
    model.check_documents("patterns are for documents")
    if not isinstance(model.tokenizer, CharTokenizer):
        raise ConfigError(
            "the tokens of this model are pieces of text, not characters as in a pattern: "
            "`kamon complete` can go on behind a beginning"
        )
    elements = list(pattern)
    if isinstance(pattern, str):
        elements = parse(model.tokenizer.normal(pattern))
    if not elements:
        raise ConfigError("the pattern is empty: it matches no document with a character")
    found = search_model(model, elements, n, effort)
    costs = [-each.logprob for each in found.documents]
    least = min(costs, default=0.0)
    return with_shares(found, math.log(math.fsum(math.exp(least - c) for c in costs) or 1) - least)


def with_shares(found: SearchResult, logprob: float) -> SearchResult:
    """The share of each document in the probability that has this logarithm."""
    documents = [
        each._replace(share=min(1.0, math.exp(each.logprob - logprob))) for each in found.documents
    ]
    return replace(found, documents=documents)


def parse(pattern: str) -> list[Element]:
    r"""Characters and gaps. ConfigError for a `\` at the end, and where nothing is asked for.

    >>> parse(r"a_\_*")
    ['a', <Wildcard.ONE: '_'>, '_', <Wildcard.ANY: '*'>]
    """
    if not pattern:
        raise ConfigError("the pattern is empty: _ stands for one character, * for any number")
    elements: list[Element] = []
    chars = iter(pattern)
    for char in chars:
        if char == "\\":
            escaped = next(chars, "")
            if not escaped:
                raise ConfigError(r"the pattern ends with a \: there is nothing for it to escape")
            elements.append(escaped)
        else:
            elements.append(Wildcard(char) if char in "_*" else char)
    return elements


def replacements(tokenizer: Tokenizer, elements: Sequence[Element], unknown: str) -> dict[str, str]:
    """What each unknown character is exchanged for: nothing with unknown="skip", with "replace" its
    like that the model knows, where there is one, and with "error" all are left as they are."""
    if unknown not in ("error", "skip", "replace"):
        raise ConfigError(f"unknown must be error, skip or replace, not {unknown!r}")
    if unknown == "error":
        return {}
    chars = dict.fromkeys(element for element in elements if isinstance(element, str))
    unknown_chars = tokenizer.unknown(chars)
    strange = [char for char in chars if char in unknown_chars]
    if unknown == "skip":
        return dict.fromkeys(strange, "")
    likes = {char: tokenizer.replace_unknown(char) for char in strange}
    return {char: like for char, like in likes.items() if like != char}


def replaced(elements: Sequence[Element], exchanged: Mapping[str, str]) -> list[Element]:
    """The pattern with these characters exchanged; its gaps stay."""
    found: list[Element] = []
    for element in elements:
        if isinstance(element, Wildcard):
            found.append(element)
        else:
            found.extend(exchanged.get(element, element))
    return found


def check_prefix(tokenizer: Tokenizer, prefix: str, block_size: int) -> None:
    size = len(prefix)
    if not isinstance(tokenizer, CharTokenizer):
        size = len(tokenizer.encode(prefix))
    if size >= block_size:
        raise ConfigError(
            f"the prefix has {size:,} {tokenizer.unit}s, and the model's block_size {block_size} "
            f"leaves nothing to complete behind more than {block_size - 1}"
        )


def logprob_of_prefix(model: LanguageModel, tokenizer: Tokenizer, prefix: str) -> float:
    """log p in nats that a document begins like this."""
    return log_sum_exp(list(prefixes_of(model, tokenizer, prefix).values()))


def search_model(
    model: Model,
    pattern: Sequence[Element],
    n: int,
    effort: float,
    begin: Sequence[Candidate] = NOTHING,
) -> SearchResult:
    """`search` with the work that suits the model's engine and size."""
    n = require_int("n", n, 1, MAX_RESULTS)
    effort = require_float("effort", effort)
    if not 0 < effort <= MAX_EFFORT:
        raise ConfigError(f"effort must be above 0 and at most {MAX_EFFORT:,}, not {effort}")
    fast = hasattr(model.engine, "train")
    reads, work = (MAX_READS, MAX_FLOPS) if fast else (MAX_READS_SLOW, MAX_FLOPS_SLOW)
    config = model.config
    affordable = min(reads, work / num_params(config), MAX_EXPANSIONS / config.vocab_size)
    most = max(1, int(effort * affordable))
    return search(model.engine, model.tokenizer, pattern, n, most, begin)


def search(
    model: LanguageModel,
    tokenizer: Tokenizer,
    pattern: Sequence[Element],
    n: int,
    most_reads: int,
    begin: Sequence[Candidate] = NOTHING,
) -> SearchResult:
    """The n most probable documents that match; shares are 0. `most_reads` tokens are read to find
    them exactly, and as many where that is not enough. begin: what they all begin with, the pattern
    being for what follows."""
    matcher = Matcher(pattern, tokenizer, model.config.block_size)
    reading = PrefixCache(model, tokenizer.bos)
    best: list[tuple[float, tuple[int, ...]]] = []  # a heap with the least probable on top
    special = set(tokenizer.special.values())  # no text has them

    def extend(candidate: Candidate) -> list[Candidate]:
        """Its extensions that can be among the best; documents that end here go there at once."""
        cost, tokens, places = candidate
        logits = reading.logits(tokens)
        base = cost + log_sum_exp(logits)
        if matcher.ends(places):
            keep(base - logits[tokenizer.bos], tokens)
        last = len(tokens) + 1 == model.config.block_size
        others, own = matcher.after(places, len(tokens))
        found: list[Candidate] = []
        for token, logit in enumerate(logits):
            reached = own.get(token, others)
            extended = base - logit
            if not reached or token in special or extended >= worst():
                continue
            if last:
                keep(extended, (*tokens, token))
            else:
                found.append((extended, (*tokens, token), reached))
        return found

    def worst() -> float:
        """What a document must cost less than to be among the best."""
        return -best[0][0] if len(best) == n else math.inf

    def keep(cost: float, tokens: tuple[int, ...]) -> None:
        if cost < worst() and tokenizer.encode(tokenizer.decode(tokens)) == list(tokens):
            heapq.heappush(best, (-cost, tokens))
            if len(best) > n:
                heapq.heappop(best)

    left: list[Candidate] = []
    for candidate in begin:
        if len(candidate[1]) < model.config.block_size:
            heapq.heappush(left, candidate)
        else:
            keep(*candidate[:2])
    while left and left[0][0] < worst() and reading.reads < most_reads:
        for candidate in extend(heapq.heappop(left)):
            heapq.heappush(left, candidate)
        if len(left) > 4 * most_reads:  # no more than these can be read
            left = heapq.nsmallest(most_reads, left)
    unread = left[0][0] if left else math.inf  # no document left costs less
    complete = unread >= worst()
    if not complete:
        beam(left, extend, matcher, reading, most_reads)
    documents = [
        Completion(tokenizer.decode(tokens), logprob, 0.0)
        for logprob, tokens in sorted(best, key=lambda found: (-found[0], found[1]))
    ]
    exact = sum(-each.logprob <= unread for each in documents)
    return SearchResult(documents, exact, complete, reading.reads)


def beam(
    left: Sequence[Candidate],
    extend: Callable[[Candidate], list[Candidate]],
    matcher: Matcher,
    reading: PrefixCache,
    most_reads: int,
) -> None:
    """Extend the prefixes left, shorter ones first, as far as so many more reads go.

    Of each length the best stay, as many from each place reached in the pattern: a prefix that has
    just left a `*` is less probable than those still inside, and would not be among the best.
    """
    block_size = matcher.block_size
    end = reading.reads + most_reads
    pools: list[list[Candidate]] = [[] for _ in range(block_size)]
    for candidate in left:
        pools[len(candidate[1])].append(candidate)
    for length, pool in enumerate(pools):
        cost = (block_size * (block_size + 1) - length * (length + 1)) // 2  # of reading one on
        width = (end - reading.reads) // cost
        groups: dict[int, list[Candidate]] = {}
        for candidate in pool:
            groups.setdefault(candidate[2].bit_length(), []).append(candidate)
        for group in groups.values():
            for candidate in heapq.nsmallest(max(1, width // len(groups)), group):
                if reading.reads >= end:
                    return
                for extended in extend(candidate):
                    pools[length + 1].append(extended)


class Matcher:
    """A pattern as sets of places, the bits of a number: bit i for the first i characters read.

    A place with a `*` is kept by any token. Nothing read is place 0 alone: the number 1.
    """

    def __init__(self, pattern: Sequence[Element], tokenizer: Tokenizer, block_size: int) -> None:
        for element in pattern:
            if not isinstance(element, Wildcard) and (
                not isinstance(element, str) or len(element) != 1
            ):
                raise ConfigError(f"a pattern has characters and gaps, and {element!r} is neither")
        chars = [element for element in pattern if element is not Wildcard.ANY]
        if len(chars) > block_size:
            raise ConfigError(
                f"the pattern asks for {len(chars):,} characters or more, "
                f"and the model's block_size {block_size} allows {block_size}"
            )
        text = "".join(char for char in chars if isinstance(char, str))
        self.block_size = block_size
        self.size = len(chars)
        self.gaps = 0  # places where a `*` stands
        place = 0
        for element in pattern:
            if element is Wildcard.ANY:
                self.gaps |= 1 << place
            else:
                place += 1
        one = sum(1 << i for i, char in enumerate(chars) if char is Wildcard.ONE)
        self.any = one  # places that any token leaves for the next
        self.own: dict[int, int] = dict.fromkeys(tokenizer.encode(text), one)  # … and this one
        for i, char in enumerate(chars):
            if isinstance(char, str):
                self.own[tokenizer.encode(char)[0]] |= 1 << i

    def ends(self, places: int) -> bool:
        """Whether the whole pattern may have been read."""
        return bool(places >> self.size)

    def after(self, places: int, length: int) -> tuple[int, dict[int, int]]:
        """The places behind most tokens, and behind those that stand in the pattern.

        0 where what follows can no longer match: `length` tokens were read, and too few are left.
        """
        least = self.size + length + 1 - self.block_size  # that must have been read by then
        stay = places & self.gaps
        others = (places & self.any) << 1 | stay
        own = {token: (places & bits) << 1 | stay for token, bits in self.own.items()}
        if least > 0:
            own = {token: reached if reached >> least else 0 for token, reached in own.items()}
            others = others if others >> least else 0
        return others, own
