"""A GPT and an n-gram as one model: p = weight · GPT + (1 − weight) · n-gram."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Sequence
from operator import sub

from kamon.config import Config
from kamon.engines.base import Decoder, Engine
from kamon.engines.batch import PackedBatch
from kamon.engines.loops import document_logprobs_one_by_one
from kamon.engines.native import NativeEngine, SamplePart, batch_arguments
from kamon.engines.scalar import softmax
from kamon.generation.sampling import SampleRequest, sample_one_by_one
from kamon.native import library
from kamon.native.library import address
from kamon.ngrams.native import NativeNgram
from kamon.ngrams.reference import Ngram

MIN_P = sys.float_info.min  # of a token: a smaller probability may have no logarithm
MAX_LOG_RATIO = 345.0  # of two p of a target: the square of a larger ratio overflows
MAX_ROUNDS = 100  # of `learn_weight`, which bisects at worst
TOLERANCE = 1e-12  # of a learned weight


class BlendedModel:
    """A GPT mixed with an n-gram. It has all that sampling and scoring need of an engine.

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
        """Return the settings of the GPT. A document has at most its block_size tokens."""
        return self.gpt.config

    def decoder(self) -> BlendedDecoder:
        """Return a decoder at the start of a document."""
        return BlendedDecoder(self.gpt.decoder(), self.ngram, self.weight)

    def sample(
        self, n: int, temperature: float, seed: int, bos: int, first: int = 0
    ) -> PackedBatch:
        """Return n documents, without BOS, as of a SampleRequest. Fast if both parts are native."""
        if isinstance(self.gpt, NativeEngine) and self.is_native:
            return self.gpt.sample(n, temperature, seed, bos, first, parts=[self.part(bos)])
        return sample_one_by_one(self, SampleRequest(n, temperature, seed, bos, first))

    @property
    def is_native(self) -> bool:
        """Whether the GPT and the n-gram are native. The blend then samples fast."""
        return isinstance(self.gpt, NativeEngine) and isinstance(self.ngram, NativeNgram)

    def part(self, bos: int) -> SamplePart:
        """Return the blend for the `sample` of the GPT. Both parts must be native."""
        assert isinstance(self.gpt, NativeEngine)
        assert isinstance(self.ngram, NativeNgram)
        table = self.ngram.table(self.gpt)
        return SamplePart(1.0, (bos,), self.weight, ((table, 1 - self.weight),))

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

    def __init__(self, gpt: Decoder, ngram: Ngram | NativeNgram, weight: float) -> None:
        self.gpt, self.ngram, self.weight = gpt, ngram, weight
        self.tokens = array("i")

    def push(self, token: int) -> Sequence[float]:
        """Return log p (V,) of the token after this one."""
        logits = self.gpt.push(token)
        self.tokens.append(token)
        if isinstance(self.ngram, NativeNgram):
            return self.ngram.mix(logits, self.tokens, self.weight)
        ngram = self.ngram.probabilities(self.tokens)
        own, rest = self.weight, 1 - self.weight
        pairs = zip(softmax(logits), ngram, strict=True)
        return [math.log(max(own * p + rest * q, MIN_P)) for p, q in pairs]


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
    ratios = ratios_of(gpt, ngram)
    at_0, at_1 = derivatives(ratios, 0)[0], derivatives(ratios, 1)[0]
    if at_0 <= 0 <= at_1:
        return 0.5
    if at_0 <= 0 or at_1 >= 0:
        return 0.0 if at_0 <= 0 else 1.0
    low, high, weight = 0.0, 1.0, 0.5
    for _ in range(MAX_ROUNDS):
        first, second = derivatives(ratios, weight)
        low, high = (weight, high) if first > 0 else (low, weight)
        before, weight = weight, weight + first / second
        if not low <= weight <= high:
            weight = (low + high) / 2
        if abs(weight - before) < TOLERANCE:
            break
    return weight


def ratios_of(gpt: Sequence[float], ngram: Sequence[float]) -> array[float]:
    """Return p of the n-gram over p of the GPT for each target, from their logarithms."""
    if len(gpt) != len(ngram):
        raise ValueError(f"{len(gpt)} log-probabilities of the GPT, {len(ngram)} of the n-gram")
    if library.why_not():
        gaps = map(sub, ngram, gpt)
        return array("d", [math.exp(min(max(x, -MAX_LOG_RATIO), MAX_LOG_RATIO)) for x in gaps])
    ratios = library.zeros(len(gpt))
    parts = address(array("d", gpt)), address(array("d", ngram))
    library.exact("ratios")(len(gpt), *parts, MAX_LOG_RATIO, address(ratios))
    return ratios


def derivatives(ratios: array[float], weight: float) -> tuple[float, float]:
    """Return the first derivative of the log-likelihood by the weight, and minus the second one."""
    if library.why_not():
        terms = [(1 - ratio) / (weight + (1 - weight) * ratio) for ratio in ratios]
        return math.fsum(terms), math.fsum([term * term for term in terms])
    sums = library.zeros(2)
    library.exact("derivatives")(len(ratios), address(ratios), weight, address(sums))
    return sums[0], sums[1]
