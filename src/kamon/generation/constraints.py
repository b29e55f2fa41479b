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
from itertools import chain, islice
from itertools import repeat as repeat_forever
from typing import Any

from kamon.config import check_text, require_float, require_int, suggestion
from kamon.data.documents import Documents, nfc
from kamon.data.graphemes import AnyClusters, Clusters, any_join, num_graphemes
from kamon.engines.base import has_fused_ops
from kamon.engines.parameters import num_params
from kamon.errors import ConfigError
from kamon.generation.automaton import (
    ALL,
    ANY,
    EMPTY,
    Automaton,
    ClusterAutomaton,
    Term,
    TooLarge,
    automaton_of,
    characters,
    complement,
    parse_regex,
    repeat,
    sequence,
    words,
)
from kamon.generation.blend import BlendedModel
from kamon.generation.given import GivenModel
from kamon.generation.lookahead import (
    Candidates,
    Contexts,
    Guide,
    Trellis,
    every_document,
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
    check_room,
    sample,
    sample_texts,
)
from kamon.generation.search import parse, term_of
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompt_prefix

ATTEMPTS = 1000  # more candidates for each sample found
PATIENCE = 20_000  # candidates made one by one
PATIENCE_BULK = 1_000_000  # candidates of a small model made by a fused `sample`
MAX_BULK_TOKENS = 1 << 26  # at a time
MAX_BULK_FLOPS = 7e10  # parameters times tokens of all candidates of a larger model
MAX_FLOPS_AT_ONCE = 2e9  # parameters times tokens before `should_stop` is asked again
MAX_FLOPS_AT_ONCE_SLOW = 2e6
MAX_CANDIDATES = 1 << 40
MAX_IN_SET = 200_000  # documents of a list: a set of more would take too much memory
MAX_LISTED = 1000  # documents that fulfil the conditions, of which each is a candidate once
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
    """What each sample must fulfil. Lengths are in characters as people see them.

    Such a character is a grapheme cluster of Unicode, which may have several code points. A prefix,
    suffix or contained text may begin or end inside of one, and in a regex, `.` is a code point.

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
            found[f"min_len {self.min_len}"] = characters(repeat(ANY, self.min_len))
        if self.max_len is not None:
            found[f"max_len {self.max_len}"] = characters(repeat(ANY, 0, self.max_len))
        if self.pattern is not None:
            found[f"pattern {self.pattern!r}"] = term_of(parse(self.pattern))
        if self.regex is not None:
            found[f"regex {self.regex!r}"] = parse_regex(self.regex)
        return found

    def check_room(self, most: int, what: str) -> None:
        """Raise ConfigError if a text that must be in each document is longer than `most`."""
        for name in TEXTS:
            text = nfc(getattr(self, name))  # the shortest form that a model may have
            size = num_graphemes(text)
            if size > most:
                raise ConfigError(f"{name} {text!r} has {size} characters, more than {what} allows")

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

    def check_model(self, tokenizer: Tokenizer, block_size: int, room: int) -> None:
        """Raise ConfigError or TokenizerError if this model can make no such document.

        room: block_size without the prompt.
        """
        if self.length is not None:
            raise ConfigError(
                "length needs a model of a text, and this one is a model of a list",
                "use max_len to drop longer documents",
            )
        most = room * max(tokenizer.chars_per_token)
        what = f"the model's block_size {block_size}"
        if room < block_size:
            what += f" after a prompt of {block_size - room}"
        for name in ("min_len", "max_len"):
            value = getattr(self, name)
            if value is not None and value > most:
                raise ConfigError(
                    f"{name} {value} is above the {most} characters that {what} allows"
                )
        self.check_room(most, what)
        for name in TEXTS:
            tokenizer.encode(getattr(self, name))
        for element in parse(self.pattern) if self.pattern else ():
            if isinstance(element, str):
                tokenizer.encode(element)


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
    if tokenizer.composed:
        conditions = conditions.in_form(tokenizer.normal)
    request, room = prepared(model, tokenizer, request, conditions)
    if replace(conditions, prompt=None) == GenerationConstraints():
        return without_conditions(model, tokenizer, request, room, should_stop)
    listed = Documents.of(docs() if conditions.novel else ())
    plan = make_plan(model, tokenizer, request, conditions, listed, room)
    return collect(plan, conditions, tokenizer.clusters, listed, request.n, room, should_stop)


def prepared(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    conditions: GenerationConstraints,
) -> tuple[SampleRequest, int]:
    """Return the request with what the conditions say of tokens, and the room of a document.

    Raises: KamonError if this model cannot fulfil the conditions, or not so often.
    """
    block_size = model.config.block_size
    before = prompt_prefix(tokenizer, conditions.prompt, block_size)
    room = block_size - len(before)
    conditions.check_model(tokenizer, block_size, room)
    check_room(request.n)
    # A document or an answer has no special token but the end.
    special = frozenset(tokenizer.special.values()) - {request.bos}
    request = replace(request, prompt_tokens=before, excluded=special)
    return replace(request, top_k=conditions.top_k, top_p=conditions.top_p), room


def collect(
    plan: Plan,
    conditions: GenerationConstraints,
    clusters: Clusters | None,
    listed: Documents,
    n: int,
    room: int,
    should_stop: Callable[[int], bool],
) -> SampleResult:
    """Return the first n candidates of a plan that fulfil the conditions, or fewer."""
    wanted = n if plan.most is None or not conditions.unique else min(n, plan.most)
    texts: list[str] = []
    numbers: list[int] = []
    sizes: list[int] = []
    fits, taken = filter_of(conditions, clusters), set[str]()
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
    if not conditions.terms():
        return plain_plan(model, tokenizer, request, room)
    fast = guides_fast(model, request)
    work = MAX_FLOPS_SURVEY if fast else MAX_FLOPS_SURVEY_SLOW
    effort = min(1.0 if fast else SLOW, num_at_once(model, work) / SURVEY)
    learned = replace(request, n=max(10, int(effort * SURVEY)), top_k=None, top_p=1.0)
    warm = replace(learned, temperature=1.0)
    chars = spread_chars(model, tokenizer, warm)
    fits = filter_of(replace(conditions, exclude=()), tokenizer.clusters)
    known = {doc for doc in chain(listed, conditions.exclude) if fits(doc)}
    try:
        trellis, most = trellis_of(conditions, tokenizer, room, known, chars)
        everything = unroll(Automaton(ALL), tokenizer, room, chars)  # also what is left out
    except TooLarge:
        if tokenizer.unit == "character":
            raise
        return plain_plan(model, tokenizer, request, room)
    assert everything
    if request.temperature >= COLD:
        few = most is not None and most + len(known) <= min(MAX_LISTED, num_at_once(model, work))
        if conditions.unique and few and not request.truncates and not hasattr(model, "drawn"):
            return Plan(every_document(model, tokenizer, request, trellis), PATIENCE, most)
        contexts = survey(model, learned, everything, trellis)
        if make_guide(trellis, contexts).share >= EASY and not request.truncates:
            return replace(plain_plan(model, tokenizer, request, room), most=most)
        guides = guides_for(model, request, trellis, contexts, effort)
        first, end = next(guides)
        if first.limit > LEAST_WEIGHT:
            guides = chain([(first, end)], guides)
            return guided_plan(model, tokenizer, request, guides, most)
    # So cold that only the most probable document counts.
    guide = make_guide(trellis, survey(model, warm, everything, trellis))
    if request.temperature < COLD:
        request = replace(request, temperature=0.0)
    best = most_probable(model, tokenizer, request, guide, fits, known, effort)
    return Plan(repeat_forever(best), 1, most)


def guides_fast(model: LanguageModel, request: SampleRequest) -> bool:
    """Return whether the model makes many guided candidates in one call."""
    return samples_fast(model) and not request.excluded


def guided_plan(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    guides: Iterable[tuple[Guide, int]],
    most: int | None = None,
) -> Plan:
    fast = guides_fast(model, request)
    work = MAX_FLOPS_AT_ONCE if fast else MAX_FLOPS_AT_ONCE_SLOW
    at_once = num_in_groups(model, work, request.n)
    candidates = guided_candidates(model, tokenizer, request, guides, at_once)
    patience = 1 if request.top_k == 1 else patience_of(model) if fast else PATIENCE
    return Plan(candidates, patience, most)


def spread_chars(model: LanguageModel, tokenizer: Tokenizer, request: SampleRequest) -> set[str]:
    """Return characters that tokens may spread over several ones: see TokenStates."""
    if tokenizer.unit == "character":
        return set()
    texts = tokenizer.decode_documents(sample(model, pilot(request, 0, request.n)))
    return {char for char, _ in Counter("".join(texts)).most_common(MAX_CHARS)} - {INVALID}


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
    wanted = [NOT_EMPTY, *terms.values()]
    boundaries = tokenizer.boundaries(chars)
    try:
        trellis = unroll(automaton_of(wanted, boundaries), tokenizer, room, chars)
    except TooLarge:
        if not tokenizer.clusters:
            raise
        boundaries = AnyClusters()  # and `find` drops the candidates with other clusters
        trellis = unroll(automaton_of(wanted, boundaries), tokenizer, room, chars)
    if trellis is None:
        raise contradiction(terms, tokenizer, room, chars)
    most = None
    if tokenizer.is_one_char_each:
        known = {doc for doc in known if len(doc) <= room and not tokenizer.unknown(set(doc))}
        most = num_documents(trellis) - len(known)
    if most != 0 and known and len(known) <= MAX_SUBTRACTED:
        others = automaton_of([*wanted, complement(words(known))], boundaries)
        trellis = unroll(others, tokenizer, room, chars)
    if most == 0 or trellis is None:
        raise ConfigError(
            "every entry that satisfies the conditions is in the list or excluded "
            f"({len(known):,})",
            "to get entries of the list, use --copies (in Python, leave out novel)",
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
    model: LanguageModel, tokenizer: Tokenizer, request: SampleRequest, room: int
) -> Plan:
    """Return a plan of candidates that follow no conditions."""
    if request.truncates and guides_fast(model, request) and tokenizer.is_one_char_each:
        everything = unroll(Automaton(ALL), tokenizer, room)
        assert everything
        guide = make_guide(everything, Contexts(tokenizer.vocab_size, room))
        return guided_plan(model, tokenizer, request, [(guide, MAX_CANDIDATES)])
    fast = samples_fast(model) and request.is_plain
    patience = patience_of(model) if fast else PATIENCE
    candidates = in_bulk(model, tokenizer, request, patience + ATTEMPTS * request.n)
    # At temperature 0, every candidate is the most likely document.
    return Plan(candidates, patience if request.temperature and request.top_k != 1 else 1)


def patience_of(model: LanguageModel) -> int:
    """Return the patience for a model that samples fast."""
    config = model.config
    affordable = int(MAX_BULK_FLOPS / num_params(config) / config.block_size)
    return max(PATIENCE, min(PATIENCE_BULK, affordable))


def contradiction(
    terms: Mapping[str, Term], tokenizer: Tokenizer, room: int, chars: set[str]
) -> ConfigError:
    """Return an error that names as few of the conditions as no document can fulfil together."""
    limit = f"{room} {tokenizer.unit}s"
    names = list(terms)
    for name in terms:
        others = [each for each in names if each != name]
        if others and not is_possible([terms[each] for each in others], tokenizer, room, chars):
            names = others
    if len(names) == 1:
        return ConfigError(
            f"{names[0]} is impossible: the model cannot write any such text in {limit}"
        )
    both = "both" if len(names) == 2 else "all of them"
    return ConfigError(
        f"{', '.join(names[:-1])} and {names[-1]} contradict each other: no text of up to {limit} "
        f"fulfils {both}"
    )


def is_possible(terms: Sequence[Term], tokenizer: Tokenizer, room: int, chars: set[str]) -> bool:
    """Return whether a document fulfils the conditions. True if that is too hard to decide."""
    try:
        automaton = automaton_of([NOT_EMPTY, *terms], tokenizer.boundaries(chars))
        return unroll(automaton, tokenizer, room, chars) is not None
    except TooLarge:
        return True


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
    """Yield the first `most` candidates.

    Kamon makes more and more at a time, but not so many that stopping takes long.
    """
    config, done, size = model.config, 0, max(1000, 2 * request.n)
    fast = samples_fast(model) and request.is_plain
    work = MAX_FLOPS_AT_ONCE if fast else MAX_FLOPS_AT_ONCE_SLOW
    largest = num_in_groups(model, work, request.n)
    while done < most:
        size = min(size, most - done, largest, max(1000, MAX_BULK_TOKENS // config.block_size))
        texts, sizes = sample_texts(model, tokenizer, replace(request, n=size, first=done))
        yield from zip(texts, sizes, repeat_forever(1))
        done, size = done + size, 4 * size


def filter_of(c: GenerationConstraints, clusters: Clusters | None = None) -> Callable[[str], bool]:
    """Return whether a text fulfils the conditions of one whole document, as a function to call.

    clusters: of a Tokenizer.

    No regular expression takes it long, because it does not try the ways to match one by one.
    """
    most = math.inf if c.max_len is None else c.max_len
    terms = [parse_regex(c.regex)] if c.regex is not None else []
    if c.pattern is not None:
        terms.append(term_of(parse(c.pattern)))
    plain = automaton_of(terms, None).matches if terms else None
    by_cluster = ClusterAutomaton(terms, AnyClusters()).matches if terms else None
    excluded = set(c.exclude)

    def fits(text: str) -> bool:
        if not text or text in excluded or not text.endswith(c.suffix) or c.contains not in text:
            return False
        # A mark after the prefix may change its last character. Not all bytes are characters.
        if not text.startswith(c.prefix):
            return False
        simple = text.isascii() or not any_join(text)
        if not c.min_len <= (len(text) if simple else num_graphemes(text)) <= most:
            return False
        if clusters and not clusters.matches(text):
            return False
        matches = plain if simple else by_cluster
        return matches is None or matches(text)

    return fits
