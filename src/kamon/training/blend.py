"""The blend of a new model with an n-gram: the weight, the n-gram and the validation loss."""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TypeGuard

from kamon.config import Config
from kamon.engines.base import Engine
from kamon.engines.batch import PackedBatch
from kamon.generation.blend import learn_weight, mix_logprobs
from kamon.generation.given import ClassNgrams, without_first
from kamon.ngrams.native import best_ngram
from kamon.ngrams.reference import MAX_ORDER
from kamon.storage.records import TrainingRecord
from kamon.training.conditional import ConditionalData
from kamon.training.data import ListData, TrainingData

MAX_DOCS = 200_000  # entries of a list: counting more takes too long each time a model starts


@dataclass(frozen=True)
class BlendLosses:
    """Validation losses in nats per token of a blend and its parts.

    Attributes:
        weight: of the GPT in the blend.
        order: of the n-gram.
    """

    loss: float
    gpt_loss: float
    ngram_loss: float
    weight: float
    order: int

    @classmethod
    def of(cls, gpt: array[float], ngram: array[float], order: int) -> BlendLosses:
        """Return the losses with the best weight for these log-probabilities."""
        weight = learn_weight(gpt, ngram)
        loss = mean_nats(mix_logprobs(gpt, ngram, weight))
        return cls(loss, mean_nats(gpt), mean_nats(ngram), weight, order)

    @classmethod
    def of_records(cls, training: TrainingRecord) -> BlendLosses | None:
        """Return the validation losses in the record of a blended model, or None."""
        blend, losses = training.blend, training.held_out
        if not blend or not losses or losses.gpt_loss is None or losses.ngram_loss is None:
            return None
        parts = losses.gpt_loss, losses.ngram_loss
        return cls(losses.loss, *parts, blend.weight, blend.order)

    def blend(self) -> dict[str, float]:
        """Return the fields of a BlendRecord."""
        return {"weight": self.weight, "order": self.order}

    def of_parts(self) -> dict[str, float]:
        """Return the losses of the parts, as fields of a record."""
        return {"gpt_loss": self.gpt_loss, "ngram_loss": self.ngram_loss}


def mean_nats(logprobs: array[float]) -> float:
    return -math.fsum(logprobs) / len(logprobs)


@dataclass(frozen=True)
class BlendedValidation:
    """Measures the blend of a GPT in training with an n-gram of the same training set.

    Attributes:
        order: of the n-gram.
        logprobs: of the n-gram, for all targets of the validation set.
        shares: of the n-grams of a conditional model, see `kamon.generation.given.levels`.
        skipped: how many first targets of each document are given values, and do not count.
    """

    order: int
    logprobs: array[float]
    shares: tuple[float, ...] = ()
    skipped: int = 0

    def losses(self, gpt: Engine, docs: PackedBatch) -> BlendLosses:
        """Return the losses on these documents, which are the first ones of the validation set.

        Each process measures all of them, so that all processes learn the same weight.
        """
        own = without_first(gpt.logprobs(docs), docs, self.skipped)
        return BlendLosses.of(own, self.logprobs[: len(own)], self.order)


def blended_validation(
    data: TrainingData, config: Config, validation_set: PackedBatch
) -> BlendedValidation | None:
    """Return an object that measures the blend with the best n-gram, or None without a blend."""
    if not validation_set or not can_blend(data, config):
        return None
    if isinstance(data, ConditionalData):
        return conditional_validation(data, config)
    learned = data.tokenizer.encode_documents(data.train_docs)  # whole, as `Model.blended_with`
    ngram, _ = best_ngram(learned, validation_set, data.tokenizer.vocab_size, MAX_ORDER)
    return BlendedValidation(ngram.order, ngram.logprobs(validation_set))


def conditional_validation(data: ConditionalData, config: Config) -> BlendedValidation:
    """Return what measures the blend of a conditional model with the n-grams of its classes.

    The order is the best one for the n-gram of all rows. The n-grams of values join it one after
    the other, each with the share that is best then.
    """
    tokenizer, rows = data.tokenizer, data.validation_rows_in_order(config)
    learned = tokenizer.encode_documents(row.text for row in data.train_rows)
    tested = tokenizer.encode_documents([row.text for row in rows], data.room(config))
    ngram, _ = best_ngram(learned, tested, tokenizer.bos + 1, MAX_ORDER)
    ngrams = ClassNgrams(tokenizer, data.train_rows, len(data.columns))
    mixed, shares = array("d"), [1.0]
    for level in range(len(ngrams.levels)):
        own = ngrams.logprobs(level, rows, tested, ngram.order)
        if not level:
            mixed = own
            continue
        weight = learn_weight(mixed, own)
        mixed = mix_logprobs(mixed, own, weight)
        shares = [*(share * weight for share in shares), 1 - weight]
    return BlendedValidation(ngram.order, mixed, tuple(shares), len(data.columns) - 1)


def can_blend(data: TrainingData, config: Config) -> TypeGuard[ListData]:
    """Return whether Kamon can blend a model of this data. It must be a list in memory."""
    return (
        isinstance(data, ListData)
        and config.mode == "documents"
        and config.long_documents == "cut"
        and len(data.documents) <= MAX_DOCS
    )
