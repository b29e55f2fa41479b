"""From logits to text: choosing the next token, and documents token by token."""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from operator import sub
from typing import Protocol

from kamon.config import Config
from kamon.data.graphemes import Clusters
from kamon.engines.base import Decoder, has_fused_ops
from kamon.engines.batch import PackedBatch, check_samples, pack_sequences
from kamon.engines.memory import check_memory
from kamon.engines.philox import uniform
from kamon.engines.scalar import softmax
from kamon.tokenizers.base import Tokenizer

REDRAWN = 1 << 40  # added to the number of a sample that is drawn again
MAX_REDRAWN = 50  # times
DRAWN_TOGETHER = 0.98
INVALID = "\ufffd"  # replaces bytes that are not UTF-8
BYTES_OF_TEXT = 100.0  # memory of a short text and of the numbers about it


class LanguageModel(Protocol):
    """What sampling needs of a model. Every engine and every n-gram has it."""

    @property
    def config(self) -> Config:
        """Return the settings. Sampling reads only block_size."""

    def decoder(self) -> Decoder:
        """Return a decoder at the start of a document."""


def sample_token(logits: Sequence[float], temperature: float, u: float) -> int:
    """Return the token at which the running sum of softmax(logits / temperature) passes u.

    u: a random number, 0 ≤ u < 1. At temperature 0 the token is that of the largest logit, the
    first of equal ones.
    """
    running = list(accumulate(probabilities(logits, temperature)))
    return bisect(running, u * running[-1], 0, len(running) - 1)


def probabilities(logits: Sequence[float], temperature: float) -> list[float]:
    """Return softmax(logits / temperature).

    If the temperature is too close to 0 to divide by, the largest logit gets probability 1.
    """
    largest = max(logits)
    try:
        scale = temperature**-1
    except ArithmeticError:  # 0, or too small to divide by
        scale = math.inf
    if not math.isfinite(scale * max(abs(logit) for logit in logits)):
        found = [0.0] * len(logits)
        found[logits.index(largest)] = 1.0
        return found
    return softmax([logit * scale for logit in logits])


def allowed(
    logits: Sequence[float],
    tokens: list[int],
    temperature: float,
    top_k: int | None,
    top_p: float,
) -> list[int]:
    """Return those of the tokens that top_k and top_p keep, in ascending order."""
    if top_k is None and top_p == 1:
        return tokens
    # The sort is stable: the first of equally likely tokens stay.
    tokens = sorted(tokens, key=lambda token: -logits[token])[:top_k]
    if top_p < 1 and tokens:
        shares = probabilities([logits[token] for token in tokens], temperature)
        running = list(accumulate(shares))
        # Relative to the sum, because that may not be exactly 1.
        reached = next(i for i, p in enumerate(running) if p >= top_p * running[-1])
        tokens = tokens[: reached + 1]
    return sorted(tokens)


def sample_document(
    model: LanguageModel,
    request: SampleRequest,
    u: Callable[[int], float],
    tokenizer: Tokenizer | None = None,
) -> list[int]:
    """Return the tokens of one new document, without BOS.

    It ends with the model's BOS, or without an end after block_size tokens.

    Args:
        u: returns the random number for each position.
        tokenizer: if given, only tokens that a text can have.
    """
    bos, before = request.bos, request.prompt_tokens
    decoder = prefill(model, bos, before)
    tokens: list[int] = []
    token = before[-1] if before else bos
    for position in range(model.config.block_size - len(before)):
        logits = decoder.push(token)
        excluded = tokenizer.ruled_out(tokens) if tokenizer else request.excluded
        if excluded or request.truncates:
            stay = [each for each in range(len(logits)) if each not in excluded]
            stay = allowed(logits, stay, request.temperature, request.top_k, request.top_p)
            kept = [logits[each] for each in stay]
            token = stay[sample_token(kept, request.temperature, u(position))]
        else:
            token = sample_token(logits, request.temperature, u(position))
        if token == bos:
            break
        tokens.append(token)
    return tokens


def prefill(model: LanguageModel, bos: int, before: Sequence[int]) -> Decoder:
    """Return a decoder that has read BOS and `before`, except for the last token of these."""
    decoder = model.decoder()
    for token in [bos, *before][:-1]:
        decoder.push(token)
    return decoder


class PrefixCache:
    """The logits after prefixes. If a prefix continues the last one, only the rest is read.

    Attributes:
        reads: tokens read so far.
    """

    def __init__(self, model: LanguageModel, bos: int, before: Sequence[int] = ()) -> None:
        """Begin with nothing. before: tokens between BOS and every prefix."""
        self.model = model
        self.start = (bos, *before)
        self.read: tuple[int, ...] | None = None
        self.reads = 0

    def logits(self, tokens: tuple[int, ...]) -> Sequence[float]:
        """Return the logits (V,) of the token after the start and `tokens`."""
        read = self.read
        if read is not None and len(read) < len(tokens) and tokens[: len(read)] == read:
            rest = tokens[len(read) :]
        else:
            self.decoder = self.model.decoder()
            rest = (*self.start, *tokens)
        for token in rest:
            logits = self.decoder.push(token)
        self.reads += len(rest)
        self.read = tokens
        return logits


def log_sum_exp(logits: Sequence[float]) -> float:
    """Return log Σ exp(logit)."""
    largest = max(logits)
    return largest + math.log(math.fsum([math.exp(logit - largest) for logit in logits]))


def logprobs_of_prefixes(
    model: LanguageModel,
    bos: int,
    openings: Sequence[tuple[int, ...]],
    before: Sequence[int] = (),
) -> list[float]:
    """Return log p in nats that a document begins with these tokens, for each of `openings`.

    before: prompt_tokens of a SampleRequest.
    """
    reading = PrefixCache(model, bos, before)
    following: dict[tuple[int, ...], list[float]] = {}  # log p of each token that may come next
    within: dict[tuple[int, ...], list[float]] = {}  # log p of each of the tokens

    def logprobs(tokens: tuple[int, ...]) -> list[float]:
        if tokens not in following:
            logits = reading.logits(tokens)
            base = log_sum_exp(logits)
            following[tokens] = [logit - base for logit in logits]
        return following[tokens]

    for first in {tokens[:-1]: None for tokens in openings}:
        within[first] = [logprobs(first[:i])[token] for i, token in enumerate(first)]
    return [
        math.fsum([*within[tokens[:-1]], logprobs(tokens[:-1])[tokens[-1]]]) for tokens in openings
    ]


@dataclass(frozen=True)
class SampleRequest:
    """A request for n documents. Document i uses the random numbers `uniform(seed, i, position)`.

    Attributes:
        first: the number of the first document.
        prompt_tokens: tokens between BOS and each document, which the model reads first. They are
            not part of the samples.
        excluded: tokens that are never chosen. The others share their probability in proportion.
        top_k, top_p: choose only from the most likely tokens, see GenerationConstraints.
    """

    n: int
    temperature: float
    seed: int
    bos: int
    first: int = 0
    prompt_tokens: tuple[int, ...] = ()
    excluded: frozenset[int] = frozenset()
    top_k: int | None = None
    top_p: float = 1.0

    @property
    def truncates(self) -> bool:
        """Whether top_k or top_p rules out tokens."""
        return self.top_k is not None or self.top_p < 1

    @property
    def is_plain(self) -> bool:
        """Whether the fused `sample` of an engine can make the documents."""
        return not (self.prompt_tokens or self.excluded or self.truncates)


def sample(model: LanguageModel, request: SampleRequest) -> PackedBatch:
    """Return the documents, without BOS. Some engines make all of them in one call.

    Raises: ValueError for an impossible number or temperature, or a token outside the vocabulary.
    """
    check_samples(request.n, request.temperature, request.first)
    fused = getattr(model, "sample", None)
    if fused and request.is_plain:
        check_room(request.n, model.config.block_size)
        found: PackedBatch = fused(
            request.n, request.temperature, request.seed, request.bos, request.first
        )
        return found
    return sample_one_by_one(model, request)


def check_room(n: int, length: int = 0) -> None:
    """Raise ConfigError if n texts with room for `length` tokens do not fit in memory."""
    check_memory(
        n * (BYTES_OF_TEXT + 8.0 * length),
        f"making {n:,} samples",
        "ask for fewer at a time, each time with another seed",
    )


def sample_texts(
    model: LanguageModel, tokenizer: Tokenizer, request: SampleRequest
) -> tuple[list[str], list[int]]:
    """Return the documents of `sample` as texts, and the number of tokens of each.

    If the tokenizer knows the clusters of a list, all texts are made of them: see `only_clusters`.
    """
    batch = sample(model, request)
    texts = tokenizer.decode_documents(batch)
    sizes = list(map(sub, batch.offsets[1:], batch.offsets))
    room = model.config.block_size - len(request.prompt_tokens)
    for i, text in enumerate(texts):
        if INVALID in text:
            again = partial(numbered_document, model, request, request.first + i, tokenizer)
            tokens, sizes[i] = as_text(tokenizer, list(batch.document(i)), room, again)
            texts[i] = tokenizer.normal(tokenizer.decode(tokens))
    if tokenizer.clusters:
        only_clusters(tokenizer.clusters, model, tokenizer, request, texts, sizes)
    return texts, sizes


def only_clusters(
    clusters: Clusters,
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    texts: list[str],
    sizes: list[int],
) -> None:
    """Draw the samples again that have a cluster which the list does not have.

    Each is drawn with new random numbers until it has only clusters of the list. So the samples
    follow the model's own distribution over such texts. At temperature 0, or if this takes too
    long, each token is drawn from those that such a text may have.
    """
    room = model.config.block_size - len(request.prompt_tokens)

    def keep(i: int, text: str, size: int) -> bool:
        known = clusters.beginning(text)
        if known is None or (known != text and size < room):
            return False
        texts[i], sizes[i] = known, size  # without a character that the end of the room cuts
        return True

    left = [i for i, text in enumerate(texts) if not keep(i, text, sizes[i])]
    together = 0.0  # share of the samples for which it is faster to draw all of them again
    if request.is_plain:
        together = DRAWN_TOGETHER if getattr(model, "table", has_fused_ops(model)) else 0.0
    for again in range(1, MAX_REDRAWN + 1 if request.temperature else 1):
        if not left:
            return
        first = request.first + again * REDRAWN
        runs = [(i, 1) for i in left]
        if len(left) > len(texts) * (1 - together):
            runs = [(left[0], left[-1] + 1 - left[0])]
        wanted, left = set(left), []
        for begin, n in runs:
            batch = sample(model, replace(request, n=n, first=first + begin))
            for i, text in enumerate(tokenizer.decode_documents(batch), begin):
                size = batch.offsets[i - begin + 1] - batch.offsets[i - begin]
                if i in wanted and not keep(i, text, size):
                    left.append(i)
    for i in left:
        tokens = numbered_document(model, request, request.first + i, tokenizer)
        keep(i, tokenizer.decode(tokens), len(tokens))


def as_text(
    tokenizer: Tokenizer, tokens: list[int], room: int, again: Callable[[], list[int]]
) -> tuple[list[int], int]:
    """Return the tokens of a sample, and how many were sampled.

    If they are not text, take those of `again`, which samples in the same way from the tokens that
    a text can have. A character that the end of the room cuts is left out.

    room: the most tokens of a document.
    """
    begun = tokenizer.unfinished(tokens)
    if begun is None or (begun and len(tokens) < room):
        tokens = again()
    size = len(tokens)
    while tokenizer.unfinished(tokens):
        tokens = tokens[:-1]
    return tokens, size


def sample_one_by_one(model: LanguageModel, request: SampleRequest) -> PackedBatch:
    """Return the documents, made one after the other. Every fused `sample` must equal this."""
    return pack_sequences(
        numbered_document(model, request, number)
        for number in range(request.first, request.first + request.n)
    )


def numbered_document(
    model: LanguageModel, request: SampleRequest, number: int, tokenizer: Tokenizer | None = None
) -> list[int]:
    """Return the tokens of document `number` of a request. tokenizer: see sample_document."""
    u = partial(uniform, request.seed, number)
    return sample_document(drawn(model, request, number), request, u, tokenizer)


def drawn(model: LanguageModel, request: SampleRequest, number: int) -> LanguageModel:
    """Return the model of document `number`: a mixture of classes first draws one of them."""
    draw = getattr(model, "drawn", None)
    u = partial(uniform, request.seed, number)
    return draw(u) if draw else model
