"""The n-gram that a new model is blended with, and how much each part counts."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass

from kamon.config import Config
from kamon.engines.base import Engine
from kamon.engines.batch import PackedBatch
from kamon.generation.blend import learn_weight, mix_logprobs
from kamon.ngrams.native import best_ngram
from kamon.ngrams.reference import MAX_ORDER
from kamon.training.data import ListData, TrainingData

MAX_DOCS = 200_000  # of a list: the n-gram of a longer one takes too long to count at each start


@dataclass(frozen=True)
class BlendLosses:
    """Validation losses in nats per token: of the blend and of its parts, with its weight."""

    loss: float
    gpt_loss: float
    ngram_loss: float
    weight: float

    @classmethod
    def of(cls, gpt: array[float], ngram: array[float]) -> BlendLosses:
        """Return the losses for the weight that fits these log-probabilities best."""
        weight = learn_weight(gpt, ngram)
        mixed = mix_logprobs(gpt, ngram, weight)
        return cls(mean_nats(mixed), mean_nats(gpt), mean_nats(ngram), weight)

    def of_parts(self) -> dict[str, float]:
        """Return the losses of the parts, as fields of a record."""
        return {"gpt_loss": self.gpt_loss, "ngram_loss": self.ngram_loss}


def mean_nats(logprobs: array[float]) -> float:
    return -math.fsum(logprobs) / len(logprobs)


@dataclass
class BlendedValidation:
    """Measures an engine in training that is blended with an n-gram of the same training set.

    Attributes:
        order: of the n-gram.
        docs: the validation set.
        logprobs: of the n-gram, for all targets of `docs`.
        best: the lowest losses so far.
    """

    order: int
    docs: PackedBatch
    logprobs: array[float]
    best: BlendLosses | None = None

    def losses(self, engine: Engine, num_docs: int) -> BlendLosses:
        """Return the losses on the first documents of the validation set."""
        docs = self.docs if num_docs == len(self.docs) else self.docs.select(range(num_docs))
        gpt = engine.logprobs(docs)
        found = BlendLosses.of(gpt, self.logprobs[: len(gpt)])
        if self.best is None or found.loss < self.best.loss:
            self.best = found
        return found

    def record(self, losses: BlendLosses) -> dict[str, float]:
        """Return the record of the blend with these losses."""
        return {"weight": losses.weight, "order": self.order}


def blended_validation(
    data: TrainingData, config: Config, validation_set: PackedBatch
) -> BlendedValidation | None:
    """Return the best n-gram of the training set; None if there is none to blend with."""
    if not can_blend(data, config) or not validation_set:
        return None
    assert isinstance(data, ListData)
    learned = data.tokenizer.encode_documents(data.train_docs)  # whole, as `Model.blended_with`
    ngram, _ = best_ngram(learned, validation_set, data.tokenizer.vocab_size, MAX_ORDER)
    return BlendedValidation(ngram.order, validation_set, ngram.logprobs(validation_set))


def can_blend(data: TrainingData, config: Config) -> bool:
    """Return whether a model of this data can be blended: of a list of documents in memory."""
    return (
        isinstance(data, ListData)
        and config.mode == "documents"
        and config.long_documents == "cut"
        and len(data.documents) <= MAX_DOCS
    )
