"""A GPT and an n-gram as one model: p = weight · GPT + (1 − weight) · n-gram."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from functools import cached_property

from kamon.config import Config
from kamon.engines.base import Decoder, Engine
from kamon.engines.batch import PackedBatch
from kamon.engines.loops import document_logprobs_one_by_one
from kamon.engines.native import NativeEngine, NgramTable, batch_arguments
from kamon.engines.scalar import softmax
from kamon.generation.sampling import SampleRequest, sample_one_by_one
from kamon.native import library
from kamon.native.library import address
from kamon.ngrams.native import NativeNgram
from kamon.ngrams.reference import Ngram, NgramDecoder

MIN_P = sys.float_info.min  # of a token: a smaller probability may have no logarithm
MIN_RATIO = 1e-150  # of the smaller to the larger p of a target, whose inverse has a square
MAX_ROUNDS = 100  # of `learn_weight`, which bisects at worst
TOLERANCE = 1e-12  # of a learned weight


class BlendedModel:
    """A GPT mixed with an n-gram; what sampling and scoring ask of an engine, it has.

    p = weight · softmax(logits of the GPT) + (1 − weight) · p of the n-gram. The logits of the
    mixture are log p, so a temperature applies to the mixture.
    """

    def __init__(self, gpt: Engine, ngram: Ngram | NativeNgram, weight: float) -> None:
        if gpt.config.vocab_size != ngram.config.vocab_size:
            raise ValueError(
                f"the GPT has a vocabulary of {gpt.config.vocab_size}, "
                f"the n-gram one of {ngram.config.vocab_size}"
            )
        if not 0 <= weight <= 1:
            raise ValueError(f"the weight of a GPT is from 0 to 1, not {weight}")
        self.gpt, self.ngram, self.weight = gpt, ngram, weight

    def __reduce__(self) -> tuple[type[BlendedModel], tuple[Engine, Ngram | NativeNgram, float]]:
        return BlendedModel, (self.gpt, self.ngram, self.weight)

    @property
    def config(self) -> Config:
        """The GPT's: a document has at most its block_size tokens."""
        return self.gpt.config

    def decoder(self) -> BlendedDecoder:
        """Return a decoder at the start of a document."""
        return BlendedDecoder(self.gpt.decoder(), self.ngram.decoder(), self.weight)

    def sample(
        self, n: int, temperature: float, seed: int, bos: int, first: int = 0
    ) -> PackedBatch:
        """Return n documents, without BOS, at once if both parts are native: see SampleRequest."""
        if isinstance(self.gpt, NativeEngine) and self.table:
            request = n, temperature, seed, bos, first
            return self.gpt.sample(*request, ngram=self.table, weight=self.weight)
        return sample_one_by_one(self, SampleRequest(n, temperature, seed, bos, first))

    @cached_property
    def table(self) -> NgramTable | None:
        """The n-gram for the `sample` of the GPT; None unless both are native."""
        if isinstance(self.gpt, NativeEngine) and isinstance(self.ngram, NativeNgram):
            return NgramTable(self.gpt, self.ngram.arrays())
        return None

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document."""
        return mix_logprobs(*self.logprobs_of_parts(batch), self.weight)

    def logprobs_of_parts(self, batch: PackedBatch) -> tuple[array[float], array[float]]:
        """Return the `logprobs` of the GPT and those of the n-gram: see `learn_weight`."""
        return self.gpt.logprobs(batch), self.ngram.logprobs(batch)

    def document_logprobs(self, batch: PackedBatch) -> tuple[array[float], array[int]]:
        """Return what `kamon.engines.loops.document_logprobs` does, in a few calls."""
        if library.why_not():
            return document_logprobs_one_by_one(self, batch)
        logprobs = self.logprobs(batch)
        totals, places = library.zeros(len(batch)), library.zeros(len(batch), "q")
        error = library.exact("sum_documents")(
            *(*batch_arguments(batch), address(logprobs), len(logprobs)),
            *(address(totals), address(places)),
        )
        library.raise_for(error)
        return totals, places


class BlendedDecoder:
    """One document, read token by token by both parts."""

    def __init__(self, gpt: Decoder, ngram: NgramDecoder, weight: float) -> None:
        self.gpt, self.ngram, self.weight = gpt, ngram, weight

    def push(self, token: int) -> list[float]:
        """Return log p (V,) of the token after this one."""
        gpt = softmax(self.gpt.push(token))
        ngram = self.ngram.push_for_probabilities(token)
        own, rest = self.weight, 1 - self.weight
        return [math.log(max(own * p + rest * q, MIN_P)) for p, q in zip(gpt, ngram, strict=True)]


def mix_logprobs(gpt: array[float], ngram: array[float], weight: float) -> array[float]:
    """Return log(weight · eᵃ + (1 − weight) · eᵇ) for each a of the GPT and b of the n-gram."""
    if len(gpt) != len(ngram):
        raise ValueError(f"{len(gpt)} log-probabilities of the GPT, {len(ngram)} of the n-gram")
    if weight in (0, 1):
        return (gpt if weight else ngram)[:]
    if library.why_not():
        return array("d", map(mix, gpt, ngram, [weight] * len(gpt)))
    mixed = library.zeros(len(gpt))
    parts = address(gpt, "d"), address(ngram, "d")
    library.exact("mix")(len(gpt), weight, *parts, address(mixed))
    return mixed


def mix(a: float, b: float, weight: float) -> float:
    """Return log(weight · eᵃ + (1 − weight) · eᵇ), for a weight between 0 and 1.

    It is log of the larger term plus log of the sum of both over it, which cannot underflow.
    """
    if a >= b:
        return a + math.log(weight + (1 - weight) * math.exp(b - a))
    return b + math.log(weight * math.exp(a - b) + (1 - weight))


def learn_weight(gpt: Sequence[float], ngram: Sequence[float]) -> float:
    """Return the weight of the GPT that makes the targets most likely, from 0 to 1.

    The log-likelihood is concave: Newton's method finds where its slope is 0, and bisection takes
    over when a step leaves the interval in which that is.

    Args:
        gpt: log p in nats of some targets, which neither part has learned from.
        ngram: log p of the same targets.

    Returns:
        The weight; ½ if every weight is equally good, as it is without targets.

    >>> round(learn_weight([-1.0, -1.0, -3.0], [-2.0, -2.0, -1.0]), 3)
    0.577
    """
    pairs = []
    for a, b in zip(gpt, ngram, strict=True):
        top = max(a, b)
        pairs.append((max(math.exp(a - top), MIN_RATIO), max(math.exp(b - top), MIN_RATIO)))

    def slope(weight: float) -> tuple[float, float]:
        """The first derivative, and minus the second one."""
        terms = [(p - q) / (weight * p + (1 - weight) * q) for p, q in pairs]
        return math.fsum(terms), math.fsum([term * term for term in terms])

    at_0, at_1 = slope(0)[0], slope(1)[0]
    if at_0 <= 0 <= at_1:
        return 0.5
    if at_0 <= 0 or at_1 >= 0:
        return 0.0 if at_0 <= 0 else 1.0
    low, high, weight = 0.0, 1.0, 0.5
    for _ in range(MAX_ROUNDS):
        first, second = slope(weight)
        low, high = (weight, high) if first > 0 else (low, weight)
        before, weight = weight, weight + first / second
        if not low <= weight <= high:
            weight = (low + high) / 2
        if abs(weight - before) < TOLERANCE:
            break
    return weight
