"""Pretraining: the order of documents and the schedule. No maths of its own."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass

from kamon.batch import Batch
from kamon.config import Config
from kamon.engine import Engine, Plan, train
from kamon.errors import TrainingError
from kamon.validation import EVALUATIONS

PROGRESS_SECONDS = 0.1


@dataclass(frozen=True)
class Progress:
    """Where training stands. `losses` of all steps so far, in nats per token."""

    num_steps: int
    losses: array[float]
    seconds: float


def learning_rate(config: Config, step: int) -> float:
    """Rises for warmup_steps, then falls to zero behind the last one, as config.schedule says."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / (config.num_steps - config.warmup_steps)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return config.learning_rate * (1 - done)


def make_plan(docs: Batch, config: Config, first: int, last: int) -> Plan:
    """Steps first … last − 1: documents in their order, from the start again after the last one."""
    size = config.batch_size
    return Plan(
        docs=docs,
        batch_size=size,
        indices=array("q", [i % len(docs) for i in range(first * size, last * size)]),
        learning_rates=array("d", [learning_rate(config, step) for step in range(first, last)]),
        first_draw=first * size,
    )


def pretrain(
    engine: Engine,
    docs: Batch,
    config: Config,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    validation: Callable[[Engine, int], bool] | None = None,
) -> array[float]:
    """Train for config.num_steps and return the loss of each step, in nats per token.

    About ten times a second, between steps, `on_progress` is called. `should_stop` is asked more
    often, by the native engine also within a long step: if it says True, training ends there and
    the losses are fewer. So too where `validation` says True, which is called with the engine and
    the steps done, EVALUATIONS times in a whole training and behind its last step. TrainingError
    names the step where the loss or a parameter stops being finite.
    """
    every = max(1, config.num_steps // EVALUATIONS) if validation else config.num_steps
    losses = array("d")
    start = time.perf_counter()
    steps = 1
    while len(losses) < config.num_steps:
        first = len(losses)
        last = min(first + steps, first - first % every + every, config.num_steps)
        before = time.perf_counter()
        losses.extend(train(engine, make_plan(docs, config, first, last), should_stop))
        if losses and not math.isfinite(losses[-1]):
            raise not_finite(len(losses), config)
        now = time.perf_counter()
        # The results do not depend on how the steps are cut; only the waiting between reports does.
        steps = max(1, min(2 * steps, int(steps * PROGRESS_SECONDS / max(now - before, 1e-9))))
        if on_progress and losses:
            on_progress(Progress(config.num_steps, losses, now - start))
        if should_stop and should_stop():
            break
        done = len(losses)
        due = done % every == 0 or done == config.num_steps
        if validation and due and validation(engine, done):
            break
    if not all(map(math.isfinite, engine.state()["params"])):  # the last update, or one before
        raise not_finite(len(losses), config)
    return losses


def not_finite(step: int, config: Config) -> TrainingError:
    return TrainingError(
        f"the model is no longer finite at step {step} of {config.num_steps}: "
        f"a smaller learning_rate than {config.learning_rate:g} may help"
    )
