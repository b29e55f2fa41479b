"""New documents that fulfil conditions.

Kamon draws candidate c = 0, 1, 2, … with `philox.uniform(seed, c, position)`, like sample c without
conditions. Under prefix, min_len, top_k and top_p it draws from the tokens that these allow, in
proportion to their probabilities. The candidates that fulfil the other conditions, and are not
empty, are the samples, in this order. So the first 10 of 50 samples are the same as 10 of 10. Only
with `unique` does a sample depend on those before it.

The search ends when there are n samples, or when its patience is exhausted. That is PATIENCE
candidates at first. Each candidate costs one, and each sample adds ATTEMPTS, up to PATIENCE. This
does not depend on n either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import accumulate, count, islice
from typing import Any

from kamon.config import check_text, compile_regex, require_float, require_int, suggestion
from kamon.data.documents import Documents, nfc
from kamon.engines.base import has_fused_ops
from kamon.engines.parameters import num_params
from kamon.engines.philox import uniform
from kamon.errors import ConfigError
from kamon.generation.blend import BlendedModel
from kamon.generation.given import GivenModel
from kamon.generation.sampling import (
    LanguageModel,
    SampleRequest,
    as_text,
    check_room,
    logprobs_of_prefixes,
    prefill,
    probabilities,
    sample_texts,
    sample_token,
)
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompt_prefix

ATTEMPTS = 1000  # more candidates for each sample found
PATIENCE = 20_000  # candidates made one by one
PATIENCE_BULK = 1_000_000  # candidates of a small model made by a fused `sample`
MAX_BULK_TOKENS = 1 << 26  # at a time
MAX_BULK_FLOPS = 7e10  # parameters times tokens of all candidates of a larger model
MAX_FLOPS_AT_ONCE = 2e9  # parameters times tokens before `should_stop` is asked again
MAX_FLOPS_AT_ONCE_SLOW = 2e6
MAX_IN_SET = 200_000  # documents of a list: a set of more would take too much memory
Candidates = Iterator[tuple[str, int]]  # texts, and their numbers of tokens


@dataclass(frozen=True, kw_only=True)
class GenerationConstraints:
    """What each sample must fulfil. Lengths are in code points, of texts in the tokenizer's form.

    Attributes:
        prefix: the beginning of the document.
        min_len: the document cannot end before this length.
        max_len: drop longer documents.
        top_k: draw only from the k most likely tokens that prefix and min_len allow, at the
            temperature. Of equally likely tokens, the first count.
        top_p: draw only from the fewest most likely of these whose probabilities add up to p.
        suffix, contains: drop documents that do not end with this text, or do not contain it.
        regex: drop documents that do not match as a whole. Nested repetitions, such as (a+)+b, may
            take Python very long.
        exclude: drop these documents.
        novel: drop documents of the list that the model has learned.
        unique: drop duplicates.
        length: tokens after the prefix, for a model of text. Besides it, such a model allows only
            prefix, top_k and top_p.
        prompt: each sample is an answer to it, for a model that knows prompts. It may be "".

    Raises: ConfigError if no document can fulfil them.
    """

    prefix: str = ""
    min_len: int = 0
    max_len: int | None = None
    top_k: int | None = None
    top_p: float = 1.0
    suffix: str = ""
    contains: str = ""
    regex: str | None = None
    exclude: Iterable[str] = ()
    novel: bool = False
    unique: bool = False
    length: int | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix", "contains", "regex", "prompt"):
            value = getattr(self, name)
            if not (name in ("regex", "prompt") and value is None):
                check_text(name, value)
        for name, least in (("min_len", 0), ("max_len", 1), ("top_k", 1), ("length", 0)):
            value = getattr(self, name)
            if value is not None or name == "min_len":
                object.__setattr__(self, name, require_int(name, value, least))
        object.__setattr__(self, "top_p", require_float("top_p", self.top_p))
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if isinstance(self.exclude, str):
            raise ConfigError("exclude must be a collection of documents, not one text")
        exclude = list(self.exclude)
        for doc in exclude:
            check_text("a document to exclude", doc)
        object.__setattr__(self, "exclude", frozenset(exclude))
        if self.max_len is not None:
            if self.min_len > self.max_len:
                raise ConfigError(f"min_len {self.min_len} is above max_len {self.max_len}")
            self.check_room(self.max_len, f"max_len {self.max_len}")
        if self.regex is not None:
            compile_regex(self.regex)

    @property
    def acts_per_token(self) -> bool:
        """Whether a condition sets or rules out tokens. Kamon then makes documents one by one."""
        none = GenerationConstraints()
        names = ("prefix", "min_len", "top_k", "top_p")
        return any(getattr(self, name) != getattr(none, name) for name in names)

    def check_room(self, most: int, what: str) -> None:
        """Raise ConfigError if a text that must be in each document is longer than `most`."""
        for name in ("prefix", "suffix", "contains"):
            text = nfc(getattr(self, name))  # the shortest form that a model may have
            if len(text) > most:
                raise ConfigError(
                    f"{name} {text!r} has {len(text)} characters, more than {what} allows"
                )

    def in_form(self, normal: Callable[[str], str]) -> GenerationConstraints:
        """Return the same with `normal` of a tokenizer applied to all texts."""
        return replace(
            self,
            prefix=normal(self.prefix),
            suffix=normal(self.suffix),
            contains=normal(self.contains),
            regex=None if self.regex is None else normal(self.regex),
            exclude=map(normal, self.exclude),
        )

    def check_model(self, tokenizer: Tokenizer, block_size: int) -> None:
        """Raise ConfigError or TokenizerError if this model can make no such document."""
        if self.length is not None:
            raise ConfigError(
                "length needs a model of a text, and this one is a model of a list",
                "use max_len to drop longer documents",
            )
        most = block_size * max(tokenizer.chars_per_token)
        for name in ("min_len", "max_len"):
            value = getattr(self, name)
            if value is not None and value > most:
                raise ConfigError(
                    f"{name} {value} is above the {most} characters that the model's "
                    f"block_size {block_size} allows"
                )
        self.check_room(most, f"the model's block_size {block_size}")
        if self.max_len is not None and len(self.prefix) > self.max_len:  # not in NFC
            raise ConfigError(f"prefix {self.prefix!r} is longer than max_len {self.max_len}")
        size = len(tokenizer.encode(self.prefix))
        if size > block_size:
            raise ConfigError(
                f"prefix {self.prefix!r} has {size} tokens, more than the model's block_size "
                f"{block_size} allows"
            )
        tokenizer.encode(self.suffix)
        tokenizer.encode(self.contains)


@dataclass(frozen=True)
class SampleResult:
    """Samples and how they were found.

    Attributes:
        numbers: the number of each sample among the candidates.
        num_candidates: candidates that were made.
        sizes: tokens of each sample: `room` if the model did not end it.
        room: block_size without the prompt.
        num_copies: candidates that only `novel` dropped.
        num_duplicates: candidates that only `unique` dropped.
    """

    texts: list[str]
    numbers: Sequence[int]
    num_candidates: int
    sizes: Sequence[int] = ()
    room: int = 0
    num_copies: int = 0
    num_duplicates: int = 0


def make_constraints(given: Mapping[str, Any]) -> GenerationConstraints:
    """Return the constraints of these names. Raises ConfigError for an unknown name."""
    names = [f.name for f in fields(GenerationConstraints)]
    for name in given:
        if name not in names:
            raise ConfigError(f"unknown condition {name!r}{suggestion(name, names)}")
    return GenerationConstraints(**given)


def find(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    conditions: GenerationConstraints,
    docs: Callable[[], Iterable[str]],
    should_stop: Callable[[int], bool] = lambda tried: False,  # noqa: ARG005
) -> SampleResult:
    """Return the first `request.n` candidates that fulfil the conditions, or fewer.

    Args:
        docs: returns what `novel` compares with.
        should_stop: called with the number of candidates so far. If true, the search ends.
    """
    block_size = model.config.block_size
    if tokenizer.composed:
        conditions = conditions.in_form(tokenizer.normal)
    before = prompt_prefix(tokenizer, conditions.prompt, block_size)
    room = block_size - len(before)
    conditions.check_model(tokenizer, room)
    n = request.n
    check_room(n)
    # A document or an answer has no special token but the end.
    special = frozenset(tokenizer.special.values()) - {request.bos}
    request = replace(request, prompt_tokens=before, excluded=special)
    texts: list[str] = []
    numbers: list[int] = []
    sizes: list[int] = []
    if replace(conditions, prompt=None) == GenerationConstraints():
        for text, size in in_bulk(model, tokenizer, request, n):
            if should_stop(len(texts)):
                break
            texts.append(text)
            sizes.append(size)
        return SampleResult(texts, range(len(texts)), len(texts), sizes, room)
    if conditions.acts_per_token or special or not samples_fast(model):
        patience = PATIENCE
        candidates = one_by_one(model, tokenizer, request, conditions)
    else:
        affordable = int(MAX_BULK_FLOPS / num_params(model.config) / block_size)
        patience = max(PATIENCE, min(PATIENCE_BULK, affordable))
        candidates = in_bulk(model, tokenizer, request, patience + ATTEMPTS * n)
    if request.temperature == 0:
        patience = 1  # every candidate is the most likely document
    fits, taken = filter_of(conditions), set[str]()
    marked = mark_copies(candidates, Documents.of(docs() if conditions.novel else ()), n)
    tried, left, num_copies, num_duplicates = 0, patience, 0, 0
    while len(texts) < n and left > 0 and not should_stop(tried):
        text, size, copied = next(marked)
        left -= 1
        if not fits(text):
            pass
        elif copied:
            num_copies += 1
        elif text in taken:
            num_duplicates += 1
        else:
            if conditions.unique:
                taken.add(text)
            texts.append(text)
            numbers.append(tried)
            sizes.append(size)
            left = min(patience, left + ATTEMPTS)
        tried += 1
    return SampleResult(texts, numbers, tried, sizes, room, num_copies, num_duplicates)


def samples_fast(model: LanguageModel) -> bool:
    """Return whether the model makes many samples in one call."""
    if isinstance(model, BlendedModel):
        return model.table is not None
    return has_fused_ops(model)


def mark_copies(
    candidates: Candidates, docs: Documents, num_ahead: int
) -> Iterator[tuple[str, int, bool]]:
    """Yield the candidates, each with whether it is one of the documents.

    num_ahead: candidates to look up together, and then more and more, if there are many documents.
    """
    if len(docs) <= MAX_IN_SET:
        known = set(docs)
        for text, size in candidates:
            yield text, size, text in known
        return
    while block := list(islice(candidates, num_ahead)):
        known = docs.intersection(text for text, _ in block)
        for text, size in block:
            yield text, size, text in known
        num_ahead *= 2


def in_bulk(
    model: LanguageModel, tokenizer: Tokenizer, request: SampleRequest, most: int
) -> Candidates:
    """Yield the first `most` candidates and their numbers of tokens if no condition acts per token.

    Kamon makes more and more at a time, but not so many that stopping takes long.
    """
    config, done, size = model.config, 0, max(1000, 2 * request.n)
    work = MAX_FLOPS_AT_ONCE if samples_fast(model) else MAX_FLOPS_AT_ONCE_SLOW
    largest = max(1, int(work / num_params(config) / config.block_size))
    while done < most:
        size = min(size, most - done, largest, max(1000, MAX_BULK_TOKENS // config.block_size))
        yield from zip(
            *sample_texts(model, tokenizer, replace(request, n=size, first=done)), strict=True
        )
        done, size = done + size, 4 * size


def one_by_one(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    conditions: GenerationConstraints,
) -> Candidates:
    """Yield all candidates and their numbers of tokens.

    If the tokens may begin with the prefix in several ways, one is drawn like a token.
    """
    starts = tokenizer.chars_per_token
    room = model.config.block_size - len(request.prompt_tokens)
    openings: list[tuple[int, ...]] = [()]
    logprobs = [0.0]
    if conditions.prefix:
        openings = [
            tokens
            for tokens in tokenizer.prefix_tokenizations(conditions.prefix)
            if len(tokens) <= room
            and sum(starts[token] for token in tokens) <= (conditions.max_len or math.inf)
        ]
        if len(openings) > 1:
            logprobs = logprobs_of_prefixes(model, request.bos, openings, request.prompt_tokens)
    for number in count():
        u = partial(uniform, request.seed, number)
        prefix, reader = openings[0], model
        if isinstance(model, GivenModel):  # which has a character tokenizer
            reader = model.drawn(u, (request.bos, *prefix))
        if len(openings) > 1:  # nothing else is drawn for position 0
            prefix = openings[sample_token(logprobs, request.temperature, u(0))]
        draw = partial(constrained_document, reader, request, u, conditions, prefix, tokenizer)
        tokens, size = as_text(tokenizer, draw(), room, partial(draw, valid=True))
        yield tokenizer.normal(tokenizer.decode(tokens)), size


def constrained_document(
    model: LanguageModel,
    request: SampleRequest,
    u: Callable[[int], float],
    conditions: GenerationConstraints,
    prefix: Sequence[int],
    tokenizer: Tokenizer,
    *,
    valid: bool = False,
) -> list[int]:
    """Return the tokens of a document under the conditions that act per token.

    prefix: the tokens of the condition. valid: only tokens that a text can have.
    """
    bos, before, temperature = request.bos, request.prompt_tokens, request.temperature
    decoder, starts = prefill(model, bos, before), tokenizer.chars_per_token
    tokens: list[int] = []
    token, length = (before or (bos,))[-1], 0  # in characters
    most = math.inf if conditions.max_len is None else conditions.max_len
    # Only if each token is a character is it clear that a document is too long before its end.
    cut = most if tokenizer.is_one_char_each else math.inf
    filled = len(conditions.prefix) == most  # there is one such document, without a draw
    for position in range(model.config.block_size - len(before)):
        if length > cut or (filled and position == len(prefix)):
            break
        logits = decoder.push(token)
        if position < len(prefix):
            token = prefix[position]
        else:
            excluded = tokenizer.ruled_out(tokens) if valid else request.excluded
            stay = allowed(logits, temperature, bos, length, conditions, excluded)
            token = stay[sample_token([logits[t] for t in stay], temperature, u(position))]
        if token == bos:
            break
        tokens.append(token)
        length += starts[token]
    return tokens


def allowed(
    logits: Sequence[float],
    temperature: float,
    bos: int,
    length: int,
    conditions: GenerationConstraints,
    excluded: Collection[int] = (),
) -> list[int]:
    """Return the tokens that may follow `length` characters, in ascending order, not `excluded`."""
    tokens = [token for token in range(len(logits)) if token not in excluded]
    if length < conditions.min_len and bos not in excluded:
        tokens.remove(bos)
    top_k, top_p = conditions.top_k, conditions.top_p
    if top_k is not None or top_p < 1:
        tokens.sort(key=lambda token: -logits[token])  # stable: the first of equal ones stay
        tokens = tokens[:top_k]
        if top_p < 1:
            shares = probabilities([logits[token] for token in tokens], temperature)
            running = list(accumulate(shares))
            # Relative to the sum, because that may not be exactly 1.
            reached = next(i for i, p in enumerate(running) if p >= top_p * running[-1])
            tokens = tokens[: reached + 1]
        tokens.sort()
    return tokens


def filter_of(c: GenerationConstraints) -> Callable[[str], bool]:
    """Return whether a text fulfils the conditions of one whole document, as a function to call."""
    most = math.inf if c.max_len is None else c.max_len
    match = None if c.regex is None else compile_regex(c.regex).fullmatch
    excluded = set(c.exclude)

    def fits(text: str) -> bool:
        if not text or text in excluded or not text.endswith(c.suffix) or c.contains not in text:
            return False
        # A mark after the prefix may change its last character. Not all bytes are characters.
        if not text.startswith(c.prefix) or not c.min_len <= len(text) <= most:
            return False
        return match is None or match(text) is not None

    return fits
