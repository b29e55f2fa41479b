"""Cross-validation: the best number of steps and n-gram for a list without a validation set.

For each part of the list, Kamon trains a model on the other parts and tests it on this one. Then
the final model learns the whole list.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from kamon.config import Config
from kamon.data.split import key
from kamon.engines.base import initial_state
from kamon.engines.distributed import get_group
from kamon.engines.factory import EngineSpec
from kamon.engines.loops import train
from kamon.ngrams.native import count_ngram
from kamon.ngrams.reference import MAX_ORDER
from kamon.tokenizers.base import Tokenizer
from kamon.training.blend import BlendLosses
from kamon.training.loop import learning_rate, make_plan, not_finite

Fold: TypeAlias = tuple[list[str], list[str]]  # a model's training set and test set
NUM_FOLDS = 5
MAX_CROSS_VALIDATED = 1_000  # documents: for a longer list, Kamon uses only one fold
NUM_EVALUATIONS = 10  # of each model


@dataclass(frozen=True)
class CrossValidation:
    """The best number of steps, and the losses with it and with the best n-gram."""

    num_folds: int
    num_steps: int
    losses: BlendLosses

    def records(self) -> dict[str, dict[str, float]]:
        """Return the fields of a training record."""
        losses = {"loss": self.losses.loss, **self.losses.of_parts()}
        return {
            "blend": self.losses.blend(),
            "cross_validation": {"num_folds": self.num_folds, **losses},
        }


def folds_of(docs: Sequence[str]) -> list[Fold]:
    """Return the folds of a list, or none if all documents have the same key.

    Documents with the same key are in the same fold. So no model is tested on a document that
    differs only in case or accents from one in its training set.
    """
    keys = list(map(key, docs))
    places = {number: place for place, number in enumerate(sorted(set(keys)))}
    if len(places) < 2:
        return []
    count = 1 if len(docs) > MAX_CROSS_VALIDATED else min(len(places), NUM_FOLDS)
    numbers = [places[number] % NUM_FOLDS for number in keys]
    return [
        (
            [doc for doc, number in zip(docs, numbers, strict=True) if number != left_out],
            [doc for doc, number in zip(docs, numbers, strict=True) if number == left_out],
        )
        for left_out in range(count)
    ]


def cross_validate(
    folds: Sequence[Fold],
    tokenizer: Tokenizer,
    config: Config,
    engine: EngineSpec,
    params: array[float],
    *,
    fixed_steps: bool,
    should_stop: Callable[[], bool] | None = None,
) -> CrossValidation | None:
    """Return the result of the cross-validation, or None if `should_stop` ends it.

    Args:
        config: that of the final model. No model makes more than its num_steps.
        params: the parameters that each model starts from.
        fixed_steps: whether the model will make exactly num_steps.

    Raises: TrainingError if a loss is not finite.
    """
    steps = evaluated_steps(config.num_steps, fixed=fixed_steps)
    gpts: list[array[float]] = [array("d") for _ in steps]  # log p of all test sets
    ngrams = [array("d") for _ in range(MAX_ORDER)]
    for learned, left_out in folds:
        tested = tokenizer.encode_documents(left_out, config.block_size)
        counted = tokenizer.encode_documents(learned)  # whole, as `Model.blended_with` counts
        for order, logprobs in enumerate(ngrams, 1):
            logprobs.extend(count_ngram(counted, config.vocab_size, order).logprobs(tested))
        shuffled = random.Random(config.seed).sample(learned, len(learned))
        docs = tokenizer.encode_documents(shuffled, config.block_size)
        gpt = engine.create(config)
        gpt.load(initial_state(params))
        for first, last, logprobs in zip((0, *steps), steps, gpts, strict=False):
            losses = train(gpt, make_plan(docs, config, first, last), should_stop)
            if losses and not math.isfinite(losses[-1]):
                raise not_finite(first + len(losses), config)
            stop = len(losses) < last - first or (should_stop is not None and should_stop())
            if get_group().any_rank(stop):
                return None
            logprobs.extend(gpt.logprobs(tested))
    order = min(range(MAX_ORDER), key=lambda i: -math.fsum(ngrams[i])) + 1
    measured = [BlendLosses.of(logprobs, ngrams[order - 1], order) for logprobs in gpts]
    best = min(range(len(steps)), key=lambda i: measured[i].loss)
    num_steps = steps[best] if fixed_steps else equivalent_steps(config, steps[best])
    return CrossValidation(len(folds), num_steps, measured[best])


def equivalent_steps(config: Config, num_steps: int) -> int:
    """Return how many steps learn as much as the first num_steps of this schedule.

    The learning rates have the same sum, although they fall to 0.

    >>> config = Config(num_steps=100, schedule="cosine")
    >>> equivalent_steps(config, 10), equivalent_steps(config, 100)
    (20, 100)
    """
    total = sum(learning_rate(config, step) for step in range(num_steps))
    return min(config.num_steps, max(1, round(2 * total / config.learning_rate)))


def evaluated_steps(num_steps: int, *, fixed: bool) -> list[int]:
    """Return the numbers of steps after which each model is tested, in ascending order."""
    if fixed:
        return [num_steps]
    return sorted({max(1, num_steps * i // NUM_EVALUATIONS) for i in range(1, NUM_EVALUATIONS + 1)})
