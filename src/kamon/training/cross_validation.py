"""Lists without a validation set: how many steps, and which n-gram, are best for unseen documents.

Models that each leave out another part of the list answer this. Then the model learns all of it.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from kamon.config import Config
from kamon.data.split import key
from kamon.engines.base import initial_state
from kamon.engines.factory import EngineSpec
from kamon.engines.loops import train
from kamon.ngrams.native import count_ngram
from kamon.ngrams.reference import MAX_ORDER
from kamon.training.blend import BlendLosses
from kamon.training.data import ListData
from kamon.training.loop import learning_rate, make_plan

NUM_FOLDS = 5
MAX_CROSS_VALIDATED = 1_000  # documents: of a longer list only one fold is left out
NUM_EVALUATIONS = 10  # in each of the models


@dataclass(frozen=True)
class CrossValidation:
    """The best number of steps and order, and the losses with these."""

    num_folds: int
    num_steps: int
    order: int
    losses: BlendLosses

    def records(self) -> dict[str, dict[str, float]]:
        """Return the fields of a training record that say so."""
        losses = {"loss": self.losses.loss, **self.losses.of_parts()}
        return {
            "blend": {"weight": self.losses.weight, "order": self.order},
            "cross_validation": {"num_folds": self.num_folds, **losses},
        }


def cross_validate(
    data: ListData,
    config: Config,
    engine: EngineSpec,
    params: array[float],
    *,
    fixed_steps: bool,
    should_stop: Callable[[], bool] | None = None,
) -> CrossValidation | None:
    """Return what is best for documents that a model has not learned; None if it is stopped,
    or if there are too few documents.

    Args:
        config: of the model; its num_steps are the most.
        params: those that each training starts from.
        fixed_steps: whether the number of steps is given.
    """
    docs = list(data.train_docs)
    places = {number: place for place, number in enumerate(sorted(set(map(key, docs))))}
    folds = [places[key(doc)] % NUM_FOLDS for doc in docs]
    steps = evaluated_steps(config.num_steps, fixed=fixed_steps)
    gpt: list[array[float]] = [array("d") for _ in steps]
    ngrams = [array("d") for _ in range(MAX_ORDER)]
    if len(set(folds)) < 2:
        return None
    left_out = sorted(set(folds))[: 1 if len(docs) > MAX_CROSS_VALIDATED else NUM_FOLDS]
    for fold in left_out:
        learned = [doc for doc, other in zip(docs, folds, strict=True) if other != fold]
        random.Random(config.seed).shuffle(learned)
        tested = [doc for doc, other in zip(docs, folds, strict=True) if other == fold]
        train_batch, test_batch = (
            data.tokenizer.encode_documents(part, config.block_size) for part in (learned, tested)
        )
        whole = data.tokenizer.encode_documents(learned)  # as `Model.blended_with` counts
        for order, logprobs in enumerate(ngrams, 1):
            ngram = count_ngram(whole, config.vocab_size, order)
            logprobs.extend(ngram.logprobs(test_batch))
        made = engine.create(config)
        made.load(initial_state(params))
        for first, last, logprobs in zip((0, *steps), steps, gpt, strict=False):
            train(made, make_plan(train_batch, config, first, last), should_stop)
            logprobs.extend(made.logprobs(test_batch))
            if should_stop is not None and should_stop():
                return None
    order = min(range(MAX_ORDER), key=lambda i: -math.fsum(ngrams[i])) + 1
    losses = [BlendLosses.of(logprobs, ngrams[order - 1]) for logprobs in gpt]
    best = min(range(len(steps)), key=lambda i: losses[i].loss)
    num_steps = steps[best] if fixed_steps else equivalent_steps(config, steps[best])
    return CrossValidation(len(left_out), num_steps, order, losses[best])


def equivalent_steps(config: Config, num_steps: int) -> int:
    """Return how many steps learn as much as the first ones of a longer schedule.

    That is, their learning rates have the same sum, although they fall to 0.

    >>> config = Config(num_steps=100, schedule="cosine")
    >>> equivalent_steps(config, 10), equivalent_steps(config, 100)
    (20, 100)
    """
    total = sum(learning_rate(config, step) for step in range(num_steps))
    return min(config.num_steps, max(1, round(2 * total / config.learning_rate)))


def evaluated_steps(num_steps: int, *, fixed: bool) -> list[int]:
    """Return the numbers of steps to compare, in ascending order."""
    if fixed:
        return [num_steps]
    return sorted({max(1, num_steps * i // NUM_EVALUATIONS) for i in range(1, NUM_EVALUATIONS + 1)})
