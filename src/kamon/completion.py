"""Next tokens, completions and patterns: what a model would write in the gaps of a text."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from kamon.config import check_text, require_float, require_int
from kamon.engines.base import has_fused_ops
from kamon.engines.native import NativeEngine
from kamon.engines.parameters import num_params
from kamon.errors import ConfigError
from kamon.generation.given import Given, GivenModel
from kamon.generation.sampling import (
    LanguageModel,
    PrefixCache,
    log_sum_exp,
    logprobs_of_prefixes,
    probabilities,
)
from kamon.generation.search import (
    NOTHING,
    Candidate,
    Element,
    SearchResult,
    Wildcard,
    parse,
    search,
)
from kamon.generation.text import prompt_of
from kamon.generation.words import LETTERS, WORD, Gap, WordResult, find_words
from kamon.model import Model, as_model
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.char import CharTokenizer

MAX_RESULTS = 10_000  # documents
MAX_EFFORT = 1_000
MAX_READS = 10_000  # tokens that a search reads, which is also the size of the beam
MAX_READS_SLOW = 2_000  # the same for an engine without fused calls, the scalar one
MAX_EXPANSIONS = 1e7  # next tokens to consider: a search reads fewer tokens if there are many
MAX_FLOPS = 4e8  # parameters times tokens: a search reads fewer tokens with a larger model
MAX_FLOPS_SLOW = 8e6
MODELS_AT_ONCE = 4  # classes that a search may read in the usual time
MAX_WORD_READS = 4_000  # tokens that a search for words reads
MAX_WORD_READS_GIVEN = 150  # the same for a native model of one class
MIN_WORD_READS = 30  # even with a slow engine
MAX_WORD_FLOPS = 4e9  # parameters times tokens
MAX_WORD_EXPANSIONS = 3e6  # next tokens to consider
WORD_GAP = re.compile(rf"(?<!\\)_{{2,}}(?!{LETTERS})")
ONE_LETTER = re.compile(rf"{LETTERS}\Z")


class NextToken(NamedTuple):
    """A token that may come next, or the rest of one that the prefix only begins.

    text: empty for the end of the document. `token_text` shows the bytes of a part of a character.
    """

    text: str
    probability: float


def next_tokens(
    model: Model | str | Path,
    prefix: str = "",
    *,
    temperature: float = 1.0,
    given: Given | None = None,
) -> list[NextToken]:
    """Return the probability of every token after `prefix`, the most probable first.

    If the tokenizer knows the grapheme clusters of the list, these are the tokens that a text of
    such clusters may have here.

    A model of text reads as much of the end of `prefix` as it can.

    given: values of a conditional model, as of `Model.sample`.

    Raises:
        ConfigError: the prefix leaves no room for another token, or the temperature is wrong.
        TokenizerError: the prefix has an unknown character.
    """
    model = as_model(model)
    temperature = require_float("temperature", temperature)
    if not temperature >= 0 or math.isinf(temperature):
        raise ConfigError(f"temperature must be 0 or more and finite, not {temperature}")
    reader, tokenizer = model.under(given), model.plain_tokenizer
    check_text("the prefix", prefix)
    prefix = tokenizer.normal(prefix)
    names = [tokenizer.token_text(token) for token in range(tokenizer.vocab_size)]
    names[tokenizer.bos] = ""
    if model.writes_text:
        prompt = prompt_of(tokenizer, prefix)[-model.config.block_size :]
        decoder = reader.decoder()
        for token in prompt:
            text_logits = decoder.push(token)
        return with_names(names, text_logits, temperature)
    check_prefix(tokenizer, prefix, reader.config.block_size)
    tokens = tuple(tokenizer.encode(prefix))
    logits = PrefixCache(reader, tokenizer.bos).logits(tokens)
    openings = prefixes_of(reader, tokenizer, prefix)
    if len(openings) > 1:
        whole, base = openings.pop(tokens), log_sum_exp(logits)
        texts = dict.fromkeys(names, -math.inf)  # log p of each
        rows = [(name, whole + logit - base) for name, logit in zip(names, logits, strict=True)]
        rows += [(tokenizer.remainder(prefix, longer), p) for longer, p in openings.items()]
        for name, logprob in rows:
            before = texts.get(name, -math.inf)
            texts[name] = logprob if before == -math.inf else log_sum_exp([before, logprob])
        names, logits = list(texts), list(texts.values())
    elif tokenizer.clusters:
        out = tokenizer.ruled_out(tokens)
        rest = [token for token in range(len(names)) if token not in out]
        names, logits = [names[token] for token in rest], [logits[token] for token in rest]
    return with_names(names, logits, temperature)


def with_names(
    names: Sequence[str], logits: Sequence[float], temperature: float
) -> list[NextToken]:
    """Return the tokens of these names, the most probable first."""
    tokens = map(NextToken, names, probabilities(logits, temperature))
    return sorted(tokens, key=lambda token: -token.probability)


def prefixes_of(
    model: LanguageModel, tokenizer: Tokenizer, prefix: str
) -> dict[tuple[int, ...], float]:
    """Return all ways to begin with `prefix` that fit into the model, with log p of each."""
    if not prefix:
        return {(): 0.0}
    size = model.config.block_size
    ways = [tokens for tokens in tokenizer.prefix_tokenizations(prefix) if len(tokens) <= size]
    return dict(zip(ways, logprobs_of_prefixes(model, tokenizer.bos, ways), strict=True))


def complete(
    model: Model | str | Path,
    prefix: str = "",
    n: int = 10,
    *,
    effort: float = 1.0,
    given: Given | None = None,
) -> SearchResult:
    """Return the n most probable documents that begin with `prefix`.

    Like `score`, it counts only the tokens that the tokenizer gives a document, and no other way
    to write it.

    Args:
        effort: the work that the search may do, as a multiple of the usual work.
        given: values of a conditional model, as of `Model.sample`.

    Raises: ConfigError, TokenizerError as `next_tokens`.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora", "nina"], num_steps=60, n_embd=8)
    >>> found = complete(model, "an", 3)
    >>> found.documents[0].text.startswith("an"), found.num_exact
    (True, 3)
    """
    model = as_model(model)
    model.check_documents("completion")
    check_text("the prefix", prefix)
    reader = model.under(given)
    prefix = model.tokenizer.normal(prefix)
    check_prefix(model.tokenizer, prefix, reader.config.block_size)
    if isinstance(model.tokenizer, CharTokenizer):
        result = search_model(model, [Wildcard.ANY], n, effort, prefix=prefix, given=given)
    else:
        openings = prefixes_of(reader, model.tokenizer, prefix)
        begin = [(-logprob, tokens, 1) for tokens, logprob in openings.items()]
        result = search_model(model, [Wildcard.ANY], n, effort, begin)
    shared = logprob_of_prefix(reader, model.tokenizer, prefix)
    return with_shares(result, shared)


def fill(
    model: Model | str | Path,
    pattern: str | Sequence[Element],
    n: int = 10,
    *,
    effort: float = 1.0,
    given: Given | None = None,
) -> SearchResult:
    """Return the n most probable documents that match `pattern`, as text or as `parse` returns it.

    given: values of a conditional model, as of `Model.sample`.

    Raises:
        ConfigError: the pattern is empty or needs more than block_size characters, or the model
            does not have a character tokenizer.
        TokenizerError: the pattern has an unknown character.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora", "nina"], num_steps=60, n_embd=8)
    >>> sorted(each.text for each in fill(model, "n_na", 9).documents)
    ['nana', 'nhna', 'nina', 'nnna', 'nona', 'nrna']
    """
    model = as_model(model)
    if model.writes_text:
        raise ConfigError(
            "a pattern of characters needs a model of a list, and this one was trained on a text",
            "write ____ for a word, with spaces around it; in Python, use fill_words",
        )
    if not isinstance(model.tokenizer, CharTokenizer):
        raise ConfigError(
            "patterns need a character tokenizer, and the tokens of this model are pieces of text",
            "use `kamon complete` with a prefix",
        )
    normal = model.tokenizer.normal
    elements = parse(normal(pattern)) if isinstance(pattern, str) else list(pattern)
    if not elements:
        raise ConfigError("the pattern is empty and matches only the empty document")
    result = search_model(model, elements, n, effort, given=given)
    costs = [-document.logprob for document in result.documents]
    least = min(costs, default=0.0)
    return with_shares(result, math.log(math.fsum(math.exp(least - c) for c in costs) or 1) - least)


def word_gap(pattern: str) -> Gap | None:
    r"""Return the gap of a word, two or more `_` that touch no letter, in a pattern with a space.

    Raises: ConfigError if there is another gap.

    >>> word_gap("a cup of ____")
    Gap(before='a cup of ', stem='', after='', ends=False)
    >>> word_gap("ma__a"), word_gap("ma__")
    (None, None)
    """
    gaps = [
        gap
        for gap in WORD_GAP.finditer(pattern)
        if not ONE_LETTER.search(pattern[: gap.start()]) and re.search(r"\s", pattern)
    ]
    if not gaps:
        return None
    before, after = pattern[: gaps[0].start()], pattern[gaps[0].end() :]
    elements = [parse(text) if text else [] for text in (before, after)]
    if any(isinstance(element, Wildcard) for part in elements for element in part):
        raise ConfigError(
            "a pattern with a gap for a word has only this gap",
            r"write \_ and \* for the characters themselves",
        )
    before, after = ("".join(map(str, part)) for part in elements)
    return Gap(before, "", after)


def fill_words(
    model: Model | str | Path,
    pattern: str | Gap,
    n: int = 10,
    *,
    effort: float = 1.0,
    among: Collection[str] = (),
    given: Given | None = None,
) -> WordResult:
    """Return the n most probable words in the gap `____` of a text.

    A word is letters and digits, with single hyphens or apostrophes inside. All that follows the
    gap counts too, for a model of a list also the end of the entry. The probability is then a share
    among the words found. Otherwise it is that of the word and of any character after it.

    Args:
        effort: the work that the search may do, as a multiple of the usual work.
        among: if given, only these words. Kamon finds all of them.
        given: values of a conditional model, as of `Model.sample`.

    Raises:
        ConfigError: the pattern has no gap, or the text around it is too long.
        TokenizerError: the pattern or a word has an unknown character.

    >>> import kamon
    >>> model = kamon.train(["a cup of tea", "a cup of milk"] * 9, num_steps=200, n_embd=16)
    >>> sorted(word.text for word in fill_words(model, "a cup of ____", 2).words)
    ['milk', 'tea']
    """
    model = as_model(model)
    if not isinstance(pattern, Gap):
        check_text("the pattern", pattern)
    gap = pattern if isinstance(pattern, Gap) else word_gap(pattern)
    if gap is None:
        raise ConfigError(
            "the pattern has no gap for a word", "write ____ with spaces around it for a word"
        )
    gap = replace(gap, ends=not model.writes_text)
    among = list(dict.fromkeys(map(model.tokenizer.normal, among)))
    for word in among:
        if not WORD.fullmatch(word):
            raise ConfigError(f"{word!r} is not one word")
        model.tokenizer.encode(word)
    return search_words(model, gap, n, effort, among, given)


def complete_words(
    model: Model | str | Path,
    prefix: str = "",
    n: int = 10,
    *,
    effort: float = 1.0,
    given: Given | None = None,
) -> WordResult:
    """Return the n most probable words after `prefix`, or those that finish its last word.

    >>> import kamon
    >>> model = kamon.train(["a cup of tea", "a cup of milk"] * 9, num_steps=200, n_embd=16)
    >>> [word.text for word in complete_words(model, "a cup of m", 1).words]
    ['milk']
    """
    model = as_model(model)
    check_text("the prefix", prefix)
    return search_words(model, Gap.at_end(prefix), n, effort, given=given)


def search_words(
    model: Model,
    gap: Gap,
    n: int,
    effort: float,
    among: Collection[str] = (),
    given: Given | None = None,
) -> WordResult:
    """Return the result of `find_words`, with the work that suits the model's engine and size."""
    n = require_int("n", n, 1, MAX_RESULTS)
    effort = checked_effort(effort)
    before, stem, after = map(model.tokenizer.normal, (gap.before, gap.stem, gap.after))
    gap = Gap(before, stem, after, gap.ends)
    size = num_params(model.config)
    reader = model.under(given)
    if isinstance(reader, GivenModel) and reader.is_native:  # reads the text again for each token
        reads, work = MAX_WORD_READS, MAX_WORD_READS_GIVEN / reader.num_models
    elif isinstance(model.engine, NativeEngine):
        reads, work = MAX_WORD_READS, MAX_WORD_FLOPS / size
    else:  # it reads the whole text before each token
        reads, work = MAX_READS_SLOW, MAX_FLOPS_SLOW / size / model.config.block_size
    work = max(work, MIN_WORD_READS)
    affordable = min(reads, work, MAX_WORD_EXPANSIONS / model.config.vocab_size)
    counted = model.word_ngram.counted(gap, among) if model.word_ngram else None
    if model.writes_text and not model.tokenizer.unknown("\n"):
        gap = replace(gap, before="\n" + gap.before)  # a sentence begins after a line end
    return find_words(
        *(reader, model.plain_tokenizer, gap, n),
        *(max(1, int(effort * affordable)), among),
        may_cut=model.writes_text,
        counted=counted,
    )


def with_shares(result: SearchResult, logprob: float) -> SearchResult:
    """Return the result with each document's share of the probability exp(logprob)."""
    shares = [min(1.0, math.exp(document.logprob - logprob)) for document in result.documents]
    pairs = zip(result.documents, shares, strict=True)
    return replace(result, documents=[document._replace(share=share) for document, share in pairs])


def replacements(tokenizer: Tokenizer, elements: Sequence[Element], unknown: str) -> dict[str, str]:
    """Return the replacement of each unknown character.

    Args:
        unknown: "skip" leaves them out, "replace" uses the closest known character if there is
            one, and "error" changes nothing.
    """
    if unknown not in ("error", "skip", "replace"):
        raise ConfigError(f"unknown must be error, skip or replace, not {unknown!r}")
    if unknown == "error":
        return {}
    chars = dict.fromkeys(element for element in elements if isinstance(element, str))
    unknown_chars = tokenizer.unknown(chars)
    ordered = [char for char in chars if char in unknown_chars]
    if unknown == "skip":
        return dict.fromkeys(ordered, "")
    known = {char: tokenizer.replace_unknown(char) for char in ordered}
    return {char: closest for char, closest in known.items() if closest != char}


def replaced(elements: Sequence[Element], exchanged: Mapping[str, str]) -> list[Element]:
    """Return the pattern with these characters replaced. Its gaps do not change."""
    parts: list[Sequence[Element]] = [
        [element] if isinstance(element, Wildcard) else exchanged.get(element, element)
        for element in elements
    ]
    return [element for part in parts for element in part]


def check_prefix(tokenizer: Tokenizer, prefix: str, block_size: int) -> None:
    size = len(prefix if isinstance(tokenizer, CharTokenizer) else tokenizer.encode(prefix))
    if size >= block_size:
        raise ConfigError(
            f"the prefix has {size:,} {tokenizer.unit}s, and the model's block_size {block_size} "
            f"allows at most {block_size - 1}"
        )


def logprob_of_prefix(model: LanguageModel, tokenizer: Tokenizer, prefix: str) -> float:
    """Return log p in nats that a document begins with `prefix`."""
    return log_sum_exp(list(prefixes_of(model, tokenizer, prefix).values()))


def checked_effort(effort: float) -> float:
    effort = require_float("effort", effort)
    if not 0 < effort <= MAX_EFFORT:
        raise ConfigError(f"effort must be above 0 and at most {MAX_EFFORT:,}, not {effort}")
    return effort


def search_model(
    model: Model,
    pattern: Sequence[Element],
    n: int,
    effort: float,
    begin: Sequence[Candidate] = NOTHING,
    prefix: str = "",
    given: Given | None = None,
) -> SearchResult:
    """Return the result of `search`, with the work that suits the model's engine and size."""
    n = require_int("n", n, 1, MAX_RESULTS)
    effort = checked_effort(effort)
    slow = MAX_READS_SLOW, MAX_FLOPS_SLOW
    reads, work = (MAX_READS, MAX_FLOPS) if has_fused_ops(model.engine) else slow
    config, reader = model.config, model.under(given)
    if isinstance(reader, GivenModel):
        work /= max(1.0, reader.num_models / MODELS_AT_ONCE)
    affordable = min(reads, work / num_params(config), MAX_EXPANSIONS / config.vocab_size)
    max_reads = max(1, int(effort * affordable))
    return search(reader, model.plain_tokenizer, pattern, n, max_reads, begin, prefix)
