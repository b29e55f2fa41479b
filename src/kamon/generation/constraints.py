"""New documents that fulfil conditions.

All conditions on the text of a document together are one automaton. If the model often fulfils
them by chance, Kamon draws candidate c = 0, 1, 2, … with `philox.uniform(seed, c, position)`, like
sample c without conditions, and drops those that do not. Otherwise it guides each candidate, see
`kamon.generation.lookahead`. Either way the samples follow the model's own distribution, given the
conditions. The first 10 of 50 samples are the same as 10 of 10. Only with `unique` does a sample
depend on those before it.

The search ends when there are n samples, or when its patience is exhausted. That is PATIENCE
candidates at first. Each candidate costs one, and each sample adds ATTEMPTS, up to PATIENCE. This
does not depend on n either. If only few documents can fulfil the conditions, it also ends when it
has found all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from itertools import accumulate, chain, combinations, count, islice
from itertools import repeat as repeat_forever
from typing import Any

from kamon.config import check_text, require_float, require_int, suggestion
from kamon.data.documents import Documents, nfc
from kamon.engines.base import has_fused_ops
from kamon.engines.parameters import num_params
from kamon.engines.philox import uniform
from kamon.errors import ConfigError
from kamon.generation.automaton import (
    ALL,
    ANY,
    EMPTY,
    Automaton,
    Term,
    TooLarge,
    complement,
    intersection,
    parse_regex,
    repeat,
    sequence,
    words,
)
from kamon.generation.blend import BlendedModel
from kamon.generation.given import GivenModel
from kamon.generation.lookahead import (
    Candidates,
    Trellis,
    guided_candidates,
    guides_for,
    make_guide,
    most_probable,
    num_documents,
    pilot,
    survey,
    unroll,
)
from kamon.generation.sampling import (
    INVALID,
    LanguageModel,
    SampleRequest,
    as_text,
    check_room,
    prefill,
    probabilities,
    sample,
    sample_texts,
    sample_token,
)
from kamon.generation.search import Wildcard, parse
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
MAX_SUBTRACTED = 100  # known documents that a guide leaves out
MAX_CHARS = 100  # that tokens may spread over several ones: the most frequent ones
EASY = 0.2  # share of documents that fulfil the conditions, for which nothing is guided
MAX_GROUPS = 10  # times as many documents before `should_stop` is asked again
SURVEY = 1000  # documents without conditions that a guide learns from
SLOW = 0.1  # of these, and of other candidates to learn from, for a slow model at most
MAX_FLOPS_SURVEY = 2e9  # parameters times tokens of these documents
MAX_FLOPS_SURVEY_SLOW = 2e7
LEAST_WEIGHT = 1e-12  # of guided candidates: a lower one means that the temperature is very low
COLD = 0.01  # a temperature below it counts as 0 if few documents fulfil the conditions
TEXTS = ("prefix", "suffix", "contains")
NOT_EMPTY = complement(EMPTY)


@dataclass(frozen=True, kw_only=True)
class GenerationConstraints:
    """What each sample must fulfil. Lengths are in code points, of texts in the tokenizer's form.

    Attributes:
        prefix, suffix, contains: the document begins with, ends with or contains this text.
        min_len, max_len: the document has at least, or at most, this length.
        pattern: the document matches it, with _ for one character and * for any number of them.
        regex: the document matches this regular expression of Python as a whole. It must be
            regular: see `kamon.generation.automaton.parse_regex`.
        top_k: draw only from the k most likely tokens that these conditions allow, at the
            temperature. Of equally likely tokens, the first count.
        top_p: draw only from the fewest most likely of these whose probabilities add up to p.
        exclude: no document is one of these.
        novel: no document is in the list that the model has learned.
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
    pattern: str | None = None
    regex: str | None = None
    exclude: Iterable[str] = ()
    novel: bool = False
    unique: bool = False
    length: int | None = None
    prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("prefix", "suffix", "contains", "pattern", "regex", "prompt"):
            value = getattr(self, name)
            if value is not None or name in TEXTS:
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
        self.terms()  # raises ConfigError

    @property
    def truncates(self) -> bool:
        """Whether top_k or top_p rules out tokens. Kamon then makes documents one by one."""
        return self.top_k is not None or self.top_p < 1

    def terms(self) -> dict[str, Term]:
        """Return the documents that each condition on the text allows, by its name and value."""
        found: dict[str, Term] = {}
        if self.prefix:
            found[f"prefix {self.prefix!r}"] = sequence(words([self.prefix]), ALL)
        if self.suffix:
            found[f"suffix {self.suffix!r}"] = sequence(ALL, words([self.suffix]))
        if self.contains:
            found[f"contains {self.contains!r}"] = sequence(ALL, words([self.contains]), ALL)
        if self.min_len:
            found[f"min_len {self.min_len}"] = repeat(ANY, self.min_len)
        if self.max_len is not None:
            found[f"max_len {self.max_len}"] = repeat(ANY, 0, self.max_len)
        if self.pattern is not None:
            found[f"pattern {self.pattern!r}"] = term_of_pattern(self.pattern)
        if self.regex is not None:
            found[f"regex {self.regex!r}"] = parse_regex(self.regex)
        return found

    def check_room(self, most: int, what: str) -> None:
        """Raise ConfigError if a text that must be in each document is longer than `most`."""
        for name in TEXTS:
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
            pattern=None if self.pattern is None else normal(self.pattern),
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
        for name in TEXTS:
            tokenizer.encode(getattr(self, name))
        for element in parse(self.pattern) if self.pattern else ():
            if isinstance(element, str):
                tokenizer.encode(element)


def term_of_pattern(pattern: str) -> Term:
    """Return the documents that a pattern of `kamon fill` matches."""
    terms = {Wildcard.ONE: ANY, Wildcard.ANY: ALL}
    return sequence(
        *(words([part]) if isinstance(part, str) else terms[part] for part in parse(pattern))
    )


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
        complete: whether no other document fulfils the conditions.
    """

    texts: list[str]
    numbers: Sequence[int]
    num_candidates: int
    sizes: Sequence[int] = ()
    room: int = 0
    num_copies: int = 0
    num_duplicates: int = 0
    complete: bool = False


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
    if replace(conditions, prompt=None) == GenerationConstraints():
        return without_conditions(model, tokenizer, request, room, should_stop)
    listed = Documents.of(docs() if conditions.novel else ())
    plan = make_plan(model, tokenizer, request, conditions, listed, room)
    wanted = n if plan.most is None or not conditions.unique else min(n, plan.most)
    texts: list[str] = []
    numbers: list[int] = []
    sizes: list[int] = []
    fits, taken = filter_of(conditions), set[str]()
    marked = mark_copies(plan.candidates, listed, n)
    tried, left, num_copies, num_duplicates = 0, plan.patience, 0, 0
    while len(texts) < wanted and left > 0 and not should_stop(tried):
        text, size, times, copied = next(marked)
        left -= 1
        for _ in range(min(times, wanted - len(texts)) if times and fits(text) else 0):
            if copied:
                num_copies += 1
            elif text in taken:
                num_duplicates += 1
            else:
                if conditions.unique:
                    taken.add(text)
                texts.append(text)
                numbers.append(tried)
                sizes.append(size)
                left = min(plan.patience, left + ATTEMPTS)
        tried += 1
    complete = conditions.unique and len(texts) == plan.most
    return SampleResult(texts, numbers, tried, sizes, room, num_copies, num_duplicates, complete)


def without_conditions(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    room: int,
    should_stop: Callable[[int], bool],
) -> SampleResult:
    texts: list[str] = []
    sizes: list[int] = []
    for text, size, _ in in_bulk(model, tokenizer, request, request.n):
        if should_stop(len(texts)):
            break
        texts.append(text)
        sizes.append(size)
    return SampleResult(texts, range(len(texts)), len(texts), sizes, room)


@dataclass(frozen=True)
class Plan:
    """How `find` searches.

    Attributes:
        patience: see the top of this file.
        most: how many different documents it can find, or None if it is not known.
    """

    candidates: Candidates
    patience: int
    most: int | None = None


def make_plan(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    conditions: GenerationConstraints,
    listed: Documents,
    room: int,
) -> Plan:
    """Return how to search. Raises ConfigError if no document fulfils the conditions."""
    plain = plain_plan(model, tokenizer, request, conditions)
    if not conditions.terms():
        return plain
    fast = samples_fast(model) and not (conditions.truncates or request.excluded)
    work = MAX_FLOPS_SURVEY if samples_fast(model) else MAX_FLOPS_SURVEY_SLOW
    effort = min(1.0 if fast else SLOW, num_at_once(model, work) / SURVEY)
    learned = replace(request, n=max(10, int(effort * SURVEY)))
    warm = replace(learned, temperature=1.0)
    chars: set[str] = set()
    if tokenizer.unit != "character":
        texts = tokenizer.decode_documents(sample(model, pilot(warm, 0, warm.n)))
        chars = {char for char, _ in Counter("".join(texts)).most_common(MAX_CHARS)} - {INVALID}
    fits = filter_of(replace(conditions, exclude=()))
    known = {doc for doc in chain(listed, conditions.exclude) if fits(doc)}
    try:
        trellis, most = trellis_of(conditions, tokenizer, room, known, chars)
        everything = unroll(Automaton(ALL), tokenizer, room, chars)
    except TooLarge:
        if tokenizer.unit == "character":
            raise
        return plain
    assert everything
    if request.temperature >= COLD:
        contexts = survey(model, learned, everything, trellis)
        if make_guide(trellis, contexts).share >= EASY and not conditions.truncates:
            return replace(plain, most=most)
        truncate = None
        if conditions.truncates:
            truncate = partial(allowed, request.temperature, conditions)
        guides = guides_for(model, request, trellis, contexts, truncate, effort)
        first, end = next(guides)
        if first.limit > LEAST_WEIGHT:
            work = MAX_FLOPS_AT_ONCE if fast else MAX_FLOPS_AT_ONCE_SLOW
            at_once = num_in_groups(model, work, request.n)
            guides = chain([(first, end)], guides)
            candidates = guided_candidates(model, tokenizer, request, guides, truncate, at_once)
            return Plan(candidates, patience_of(model) if fast else PATIENCE, most)
    # So cold that only the most probable document counts.
    guide = make_guide(trellis, survey(model, warm, everything, trellis))
    if request.temperature < COLD:
        request = replace(request, temperature=0.0)
    best = most_probable(model, tokenizer, request, guide, fits, known, effort)
    return Plan(repeat_forever(best), 1, most)


def trellis_of(
    conditions: GenerationConstraints,
    tokenizer: Tokenizer,
    room: int,
    known: set[str],
    chars: set[str],
) -> tuple[Trellis, int | None]:
    """Return the trellis of the conditions, and `most` of a Plan.

    known: documents that fulfil the conditions and are excluded or listed. If there are few, the
        trellis does not have them.

    Raises: ConfigError if no document is left.
    """
    terms = conditions.terms()
    term = intersection(NOT_EMPTY, *terms.values())
    trellis = unroll(Automaton(term), tokenizer, room, chars)
    if trellis is None:
        raise contradiction(terms, tokenizer, room, chars)
    most = None
    if tokenizer.is_one_char_each:
        known = {doc for doc in known if len(doc) <= room and not tokenizer.unknown(set(doc))}
        most = num_documents(trellis) - len(known)
    if most != 0 and known and len(known) <= MAX_SUBTRACTED:
        others = Automaton(intersection(term, complement(words(known))))
        trellis = unroll(others, tokenizer, room, chars)
    if most == 0 or trellis is None:
        raise ConfigError(
            f"every entry that satisfies the conditions is in the list or excluded: {len(known):,}",
            "leave out novel (--copies) or exclude",
        )
    return trellis, most


def num_at_once(model: LanguageModel, work: float) -> int:
    """Return how many documents are this much work: parameters times tokens."""
    return max(1, int(work / num_params(model.config) / model.config.block_size))


def num_in_groups(model: LanguageModel, work: float, n: int) -> int:
    """Return `num_at_once`, or more if n is large and few documents are of the same class.

    Documents of a class are made together, and ten of them take as long as thirty.
    """
    most = num_at_once(model, work)
    if not isinstance(model, GivenModel) or not model.is_native:
        return most
    return max(most, min(2 * n, most * min(MAX_GROUPS, model.num_groups)))


def plain_plan(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    conditions: GenerationConstraints,
) -> Plan:
    """Return a plan of candidates that nothing guides."""
    if conditions.truncates or request.excluded or not samples_fast(model):
        patience = PATIENCE
        candidates = one_by_one(model, tokenizer, request, conditions)
    else:
        patience = patience_of(model)
        candidates = in_bulk(model, tokenizer, request, patience + ATTEMPTS * request.n)
    # At temperature 0, every candidate is the most likely document.
    return Plan(candidates, patience if request.temperature else 1)


def patience_of(model: LanguageModel) -> int:
    """Return the patience for a model that samples fast."""
    config = model.config
    affordable = int(MAX_BULK_FLOPS / num_params(config) / config.block_size)
    return max(PATIENCE, min(PATIENCE_BULK, affordable))


def contradiction(
    terms: Mapping[str, Term], tokenizer: Tokenizer, room: int, chars: set[str]
) -> ConfigError:
    """Return an error that names the condition or the two that no document can fulfil."""
    limit = f"{room} {tokenizer.unit}s"
    for number in (1, 2):
        for names in combinations(terms, number):
            term = intersection(NOT_EMPTY, *(terms[name] for name in names))
            try:
                if unroll(Automaton(term), tokenizer, room, chars):
                    continue
            except TooLarge:
                continue
            if number == 1:
                return ConfigError(
                    f"{names[0]} is impossible: the model cannot write any such text in {limit}"
                )
            return ConfigError(
                f"{' and '.join(names)} contradict each other: no text of up to {limit} fulfils "
                "both"
            )
    return ConfigError(
        f"the conditions contradict one another: no text of up to {limit} fulfils all"
    )


def samples_fast(model: LanguageModel) -> bool:
    """Return whether the model makes many samples in one call."""
    if isinstance(model, BlendedModel | GivenModel):
        return model.is_native
    return has_fused_ops(model)


def mark_copies(
    candidates: Candidates, docs: Documents, num_ahead: int
) -> Iterator[tuple[str, int, int, bool]]:
    """Yield the candidates, each with whether it is one of the documents.

    num_ahead: candidates to look up together, and then more and more, if there are many documents.
    """
    if len(docs) <= MAX_IN_SET:
        known = set(docs)
        for text, size, times in candidates:
            yield text, size, times, text in known
        return
    while block := list(islice(candidates, num_ahead)):
        known = docs.intersection(text for text, _, _ in block)
        for text, size, times in block:
            yield text, size, times, text in known
        num_ahead *= 2


def in_bulk(
    model: LanguageModel, tokenizer: Tokenizer, request: SampleRequest, most: int
) -> Candidates:
    """Yield the first `most` candidates if no condition acts per token.

    Kamon makes more and more at a time, but not so many that stopping takes long.
    """
    config, done, size = model.config, 0, max(1000, 2 * request.n)
    work = MAX_FLOPS_AT_ONCE if samples_fast(model) else MAX_FLOPS_AT_ONCE_SLOW
    largest = num_in_groups(model, work, request.n)
    while done < most:
        size = min(size, most - done, largest, max(1000, MAX_BULK_TOKENS // config.block_size))
        texts, sizes = sample_texts(model, tokenizer, replace(request, n=size, first=done))
        yield from zip(texts, sizes, repeat_forever(1))
        done, size = done + size, 4 * size


def one_by_one(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    conditions: GenerationConstraints,
) -> Candidates:
    """Yield all candidates, drawn from the tokens that top_k and top_p allow."""
    room = model.config.block_size - len(request.prompt_tokens)
    for number in count():
        reader = model
        if isinstance(model, GivenModel):
            reader = model.drawn(partial(uniform, request.seed, number))
        draw = partial(truncated_document, reader, request, number, conditions, tokenizer)
        tokens, size = as_text(tokenizer, draw(), room, partial(draw, valid=True))
        yield tokenizer.normal(tokenizer.decode(tokens)), size, 1


def truncated_document(
    model: LanguageModel,
    request: SampleRequest,
    number: int,
    conditions: GenerationConstraints,
    tokenizer: Tokenizer,
    *,
    valid: bool = False,
) -> list[int]:
    """Return the tokens of a document under top_k and top_p.

    valid: only tokens that a text can have.
    """
    bos, before, temperature = request.bos, request.prompt_tokens, request.temperature
    decoder, token = prefill(model, bos, before), (bos, *before)[-1]
    tokens: list[int] = []
    for position in range(model.config.block_size - len(before)):
        logits = decoder.push(token)
        excluded = tokenizer.ruled_out(tokens) if valid else request.excluded
        stay = [each for each in range(len(logits)) if each not in excluded]
        stay = allowed(temperature, conditions, logits, stay)
        u = uniform(request.seed, number, position)
        token = stay[sample_token([logits[each] for each in stay], temperature, u)]
        if token == bos:
            break
        tokens.append(token)
    return tokens


def allowed(
    temperature: float,
    conditions: GenerationConstraints,
    logits: Sequence[float],
    tokens: list[int],
) -> list[int]:
    """Return those of the tokens that top_k and top_p keep, in ascending order."""
    top_k, top_p = conditions.top_k, conditions.top_p
    if top_k is None and top_p == 1:
        return tokens
    tokens = sorted(
        tokens, key=lambda token: -logits[token]
    )  # stable: the first of equal ones stay
    tokens = tokens[:top_k]
    if top_p < 1 and tokens:
        shares = probabilities([logits[token] for token in tokens], temperature)
        running = list(accumulate(shares))
        # Relative to the sum, because that may not be exactly 1.
        reached = next(i for i, p in enumerate(running) if p >= top_p * running[-1])
        tokens = tokens[: reached + 1]
    return sorted(tokens)


def filter_of(c: GenerationConstraints) -> Callable[[str], bool]:
    """Return whether a text fulfils the conditions of one whole document, as a function to call.

    No regular expression takes it long, because it does not try the ways to match one by one.
    """
    most = math.inf if c.max_len is None else c.max_len
    terms = [parse_regex(c.regex)] if c.regex is not None else []
    if c.pattern is not None:
        terms.append(term_of_pattern(c.pattern))
    matches = Automaton(intersection(*terms)).matches if terms else None
    excluded = set(c.exclude)

    def fits(text: str) -> bool:
        if not text or text in excluded or not text.endswith(c.suffix) or c.contains not in text:
            return False
        # A mark after the prefix may change its last character. Not all bytes are characters.
        if not text.startswith(c.prefix) or not c.min_len <= len(text) <= most:
            return False
        return matches is None or matches(text)

    return fits
