"""Pretraining: the order of the documents, and the learning rate of each step."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kamon.config import Config
from kamon.engines.base import Engine, StepPlan
from kamon.engines.batch import BatchSource, PackedBatch
from kamon.engines.distributed import get_group
from kamon.engines.loops import train
from kamon.engines.parameters import flops_per_token
from kamon.errors import TrainingError
from kamon.training.early_stopping import NUM_EVALUATIONS, EarlyStopping

PROGRESS_SECONDS = 0.1
FIRST_SECONDS = 10.0  # before the first checkpoint: a shorter training is easily repeated
MAX_CHECKPOINT_SHARE = 0.01  # of the time, for saving checkpoints


@dataclass(frozen=True)
class Progress:
    """The progress of a training.

    Attributes:
        losses: the losses of all steps so far, in nats per token.
        num_before: the number of steps that an earlier run made.
        seconds: the time of the other steps.
        tokens_per_second, flops: the speed of the training without evaluations.
        held_out: the history of `EarlyStopping`.
    """

    num_steps: int
    losses: array[float]
    seconds: float
    num_before: int = 0
    tokens_per_second: float = 0.0
    flops: float = 0.0
    held_out: Sequence[tuple[int, float]] = ()


def learning_rate(config: Config, step: int) -> float:
    """Return the learning rate of a step. It rises for warmup_steps, then falls to min_lr."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / (config.num_steps - config.warmup_steps)
    left = 0.5 * (1 + math.cos(math.pi * done)) if config.schedule == "cosine" else 1 - done
    return config.min_lr + (config.learning_rate - config.min_lr) * left


def make_plan(docs: PackedBatch | BatchSource, config: Config, first: int, last: int) -> StepPlan:
    """Return the plan of steps first … last − 1. The last document is followed by the first."""
    size = config.docs_per_step
    wanted = range(first * size, last * size)
    if isinstance(docs, PackedBatch):
        indices = array("q", [i % len(docs) for i in wanted])
    else:
        docs, indices = docs.get(wanted.start, len(wanted)), array("q", range(len(wanted)))
    return StepPlan(
        docs=docs,
        batch_size=config.batch_size,
        indices=indices,
        learning_rates=array("d", [learning_rate(config, step) for step in range(first, last)]),
        first_dropout_id=first * size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
    )


class CheckpointSchedule:
    """Saves a training from time to time.

    Args:
        save: a function that saves the training, given the losses so far.
        every: a whole number of steps, or seconds as a float. By default, saving takes less than
            MAX_CHECKPOINT_SHARE of the time.
    """

    def __init__(
        self, save: Callable[[array[float]], object], every: int | float | None = None
    ) -> None:
        self.save = save
        self.steps = every if isinstance(every, int) else None
        self.seconds = every if isinstance(every, float) else None
        self.wait = FIRST_SECONDS if self.seconds is None else self.seconds
        self.last = time.perf_counter()

    def maybe_save(self, losses: array[float]) -> None:
        """Save after these steps if a checkpoint is due."""
        now = time.perf_counter()
        if len(losses) % self.steps if self.steps else now - self.last < self.wait:
            return
        self.save(losses)
        self.last = time.perf_counter()
        if self.seconds is None:
            self.wait = max(FIRST_SECONDS, (self.last - now) / MAX_CHECKPOINT_SHARE)


def pretrain(
    engine: Engine,
    docs: PackedBatch | BatchSource,
    config: Config,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    validation: Callable[[Engine, int], bool] | None = None,
    checkpoints: CheckpointSchedule | None = None,
    losses: array[float] | None = None,
) -> array[float]:
    """Train for config.num_steps and return the loss of each step, in nats per token.

    Args:
        on_progress: called about ten times per second, between steps.
        should_stop: called more often, by the native engine also within a long step. If it returns
            True, the training ends there.
        validation: called with the engine and the number of steps, NUM_EVALUATIONS times and after
            the last step. If it returns True, the training ends there.
        losses: those of the steps that the engine has already made. The others are added to it.

    Raises: TrainingError if the loss or a parameter is not finite.
    """
    every = max(1, config.num_steps // NUM_EVALUATIONS) if validation else config.num_steps
    kept = (checkpoints and checkpoints.steps) or config.num_steps
    losses = array("d") if losses is None else losses
    before_us = len(losses)
    length, ranks = mean_length(docs, config), get_group()
    start, learning = time.perf_counter(), 0.0
    steps = 1
    while len(losses) < config.num_steps:
        first = len(losses)
        ends = (first - first % period + period for period in (every, kept))
        # Ranks have different clocks and signals, but must make the same steps.
        last = int(ranks.broadcast_scalar(min(first + steps, *ends, config.num_steps)))
        before = time.perf_counter()
        losses.extend(train(engine, make_plan(docs, config, first, last), should_stop))
        if losses and not math.isfinite(losses[-1]):
            raise not_finite(len(losses), config)
        now = time.perf_counter()
        # The number of steps per call affects only the time between reports, not the results.
        learning += now - before
        made = max(1, len(losses) - first)
        pace = int(made * PROGRESS_SECONDS / max(now - before, 1e-9))
        steps = max(1, min(2 * steps, pace, config.num_steps))
        if on_progress and losses:
            learned = (len(losses) - before_us) * config.docs_per_step * length
            speed = learned / max(learning, 1e-9)
            flops = speed * flops_per_token(config, length)
            records = validation.history if isinstance(validation, EarlyStopping) else ()
            on_progress(
                Progress(config.num_steps, losses, now - start, before_us, speed, flops, records)
            )
        done = len(losses)
        due = done > first and (done % every == 0 or done == config.num_steps)
        # It validates even if `should_stop` will end the run, so that a resumed run is the same.
        if validation and due and validation(engine, done):
            break
        if ranks.any_rank(should_stop is not None and should_stop()):
            break
        if checkpoints and done < config.num_steps:
            checkpoints.maybe_save(losses)
    if not all(map(math.isfinite, engine.state()["params"])):  # after the last update
        raise not_finite(len(losses), config)
    return losses


def mean_length(docs: PackedBatch | BatchSource, config: Config) -> float:
    """Return the mean number of targets in a document or a window."""
    if isinstance(docs, PackedBatch):
        return max(1.0, docs.num_targets / len(docs))
    return float(config.block_size)


def not_finite(step: int, config: Config) -> TrainingError:
    name = "std" if config.std > 1 else "learning_rate"
    return TrainingError(
        f"training diverged at step {step} of {config.num_steps}: the loss is not finite",
        f"try a smaller {name} than {getattr(config, name):g}",
    )
