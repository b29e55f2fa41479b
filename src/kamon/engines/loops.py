"""Training and scoring with any engine. Fused calls must give the same results as these loops."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from functools import partial

from kamon.engines.base import Engine, Reader, StepPlan
from kamon.engines.batch import PackedBatch
from kamon.engines.numerics import sequential_sum


def document_logprobs(reader: Reader, batch: PackedBatch) -> tuple[array[float], array[int]]:
    """Return log p of each document in nats, and the place of its least likely target from 0 on.

    These are arrays of 'd' and 'q'. If several targets are equally unlikely, the first one counts.
    A document without targets has 0 in both arrays. Some readers have a fused `document_logprobs`.
    """
    one_by_one = partial(document_logprobs_one_by_one, reader)
    result: tuple[array[float], array[int]] = getattr(reader, "document_logprobs", one_by_one)(
        batch
    )
    return result


def document_logprobs_one_by_one(
    reader: Reader, batch: PackedBatch
) -> tuple[array[float], array[int]]:
    """Return the result that every fused `document_logprobs` must return, to the last bit."""
    logprobs = reader.logprobs(batch)
    totals, places = array("d"), array("q")
    end = 0
    for tokens in batch:
        begin, end = end, end + max(0, len(tokens) - 1)
        doc_logprobs = logprobs[begin:end]
        totals.append(sequential_sum(doc_logprobs))
        places.append(doc_logprobs.index(min(doc_logprobs)) if doc_logprobs else 0)
    return totals, places


def train(
    engine: Engine, plan: StepPlan, should_stop: Callable[[], bool] | None = None
) -> array[float]:
    """Train by `plan` and return the loss of each step, the mean of −log p over its targets.

    Training stops at the first loss that is not finite. That loss is the last one returned, and its
    step does not change the parameters. Training also stops if `should_stop` returns true, after a
    step or during one, which then does not change them either. Some engines have a fused `train`.
    """
    how = getattr(engine, "train", None) or partial(train_step_by_step, engine)
    losses: array[float] = how(plan, should_stop)
    return losses


def train_step_by_step(
    engine: Engine, plan: StepPlan, should_stop: Callable[[], bool] | None = None
) -> array[float]:
    """Train by single calls of `backward` and `step`. Every fused `train` must do the same."""
    plan.docs.check(plan.indices)
    losses = array("d")
    for i, learning_rate in enumerate(plan.learning_rates):
        begin = i * plan.docs_per_step
        starts = range(begin, begin + plan.docs_per_step, plan.batch_size)
        batches = [
            (plan.first_dropout_id + at, plan.docs.select(plan.indices[at : at + plan.batch_size]))
            for at in starts
        ]
        share = 1 / sum(batch.num_targets for _, batch in batches)
        try:
            logprobs = array("d")
            for draw, batch in batches:
                weights = array("d", [share]) * batch.num_targets
                logprobs.extend(engine.backward(batch, weights, range(draw, draw + len(batch))))
            loss = share * sequential_sum([-logprob for logprob in logprobs])
            if math.isfinite(loss):
                engine.step(learning_rate)
        except ArithmeticError:
            loss = math.nan
        losses.append(loss)
        if not math.isfinite(loss) or (should_stop and should_stop()):
            break
    return losses
