"""A training run: the loop, its checkpoints and the model at its end."""

from __future__ import annotations

import math
import reprlib
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kamon.config import require_int
from kamon.data.documents import Documents
from kamon.engines.base import has_fused_ops
from kamon.errors import ConfigError, TrainingError
from kamon.storage.metrics import Metrics
from kamon.training.early_stopping import EarlyStopping, mean_loss
from kamon.training.loop import CheckpointSchedule, Progress, learning_rate, not_finite, pretrain
from kamon.training.setup import TrainingSetup

if TYPE_CHECKING:
    from pathlib import Path

    from kamon.storage.model_dir import CheckpointWriter

from kamon.model import Model, to_checkpoint

MAX_EVAL_DOCS = 20_000  # in the end, of a short training
TYPICAL_DOC_TOKENS = 16  # tokens of a document, of which so many are tested
MAX_EVAL_DOCS_SLOW = 500  # by the scalar engine, which takes seconds for so many


@dataclass
class TrainingSession:
    """A training under way. training: what is known of it from the start."""

    run: TrainingSetup
    validation: EarlyStopping | None
    training: dict[str, Any]
    documents: Documents
    metrics: Metrics = field(default_factory=Metrics)

    def model(self, *, seconds: float, finished: bool, held_out: dict[str, Any] | None) -> Model:
        """What it has come to; the engine need not stand at the best step."""
        run, metrics = self.run, self.metrics
        for step in range(len(metrics.learning_rates), len(metrics.losses)):
            metrics.learning_rates.append(learning_rate(run.config, step))
        if self.validation:  # in float64 a probability may be too small for its logarithm
            finite = ((step, loss) for step, loss in self.validation.history if loss < math.inf)
            metrics.held_out.update(finite)
        training = self.training | {
            "num_steps_done": len(metrics),
            "seconds": round(self.training.get("seconds", 0.0) + seconds, 3),
            "finished": finished,
            "held_out": held_out,
        }
        return Model(run.config, run.tokenizer, run.engine, metrics, training, self.documents)


def learn(
    course: TrainingSession,
    writer: CheckpointWriter | None,
    every: int | float | None,
    on_start: Callable[[TrainingSetup], None] | None,
    on_progress: Callable[[Progress], None] | None,
    should_stop: Callable[[], bool] | None,
) -> Model:
    """The rest of a training; kept by `writer` from time to time, and at the end."""
    run, validation, losses = course.run, course.validation, course.metrics.losses
    if on_start:
        on_start(run)
    start = time.perf_counter()

    def keep(_: array[float]) -> None:
        """A training under way: usable, with the best parameters so far."""
        state = run.engine.state()
        if not all(map(math.isfinite, state["params"])):
            raise not_finite(len(losses), run.config)
        best = validation.best if validation and validation.best else state
        held_out = None
        if validation and validation.history:
            held_out = {
                "num_docs": len(validation.docs),
                "loss": min(loss for _, loss in validation.history),
                "best_step": validation.best_step,
                "over_fitted": False,
            }
        seconds = time.perf_counter() - start
        model = course.model(seconds=seconds, finished=False, held_out=held_out)
        if writer:
            writer.save(to_checkpoint(model, best["params"], state))

    checkpoints = CheckpointSchedule(keep, every) if writer else None
    pretrain(
        *(run.engine, run.docs, run.config, on_progress, should_stop),
        *(validation, checkpoints, losses),
    )
    state = run.engine.state()
    exhausted = validation is not None and validation.patience_exceeded
    tested = validation_record(run, validation, losses) if validation and losses else None
    model = course.model(
        seconds=time.perf_counter() - start,
        finished=len(losses) == run.config.num_steps or exhausted,
        held_out=tested,
    )
    if writer and losses:
        writer.save(to_checkpoint(model, run.engine.state()["params"], state))
    return model


def validation_record(
    run: TrainingSetup, validation: EarlyStopping, losses: array[float]
) -> dict[str, Any]:
    """Go back to the best model, and what is known of it."""
    over_fitted = validation.finish(run.engine, len(losses))
    least = MAX_EVAL_DOCS if has_fused_ops(run.engine) else MAX_EVAL_DOCS_SLOW
    most = max(least, len(losses) * run.config.docs_per_step // 4)
    # As many tokens, however long the documents are.
    length = max(1.0, run.held_out.num_targets / len(run.held_out) / TYPICAL_DOC_TOKENS)
    docs = run.held_out.select(range(min(len(run.held_out), int(most / length))))
    loss = mean_loss(run.engine, docs)
    if not math.isfinite(loss):
        raise TrainingError(
            "the model gives documents held out no probability: "
            f"a smaller learning_rate than {run.config.learning_rate:g}, or std, may help"
        )
    return {
        "num_docs": len(docs),
        "loss": loss,
        "best_step": validation.best_step or len(losses),
        "over_fitted": over_fitted,
    }


@contextmanager
def open_writer(
    output: str | Path | None, *, overwrite: bool = False, go_on: bool = False
) -> Iterator[CheckpointWriter | None]:
    """Of the model, held while it is learned; None where it is not to be written."""
    if output is None:
        yield None
        return
    from kamon.storage import model_dir

    with model_dir.writing(output, overwrite=overwrite, go_on=go_on) as writer:
        yield writer


def checkpoint_interval(
    every: str | int | None, name: str = "checkpoint_every"
) -> int | float | None:
    """Steps as an int, seconds as a float. ConfigError for what is neither.

    every: a whole number is steps, text with a unit is a time. No other number is either: 30.0
    could be meant as 30 steps or as 30 seconds. name: of the argument.
    """
    from kamon.training.presets import seconds_of

    if every is None:
        return None
    if isinstance(every, str) and every.strip()[-1:] in ("s", "m", "h"):
        return seconds_of(every, name)
    try:
        return require_int(name, int(every) if isinstance(every, str) else every, 1)
    except (ConfigError, ValueError):
        raise ConfigError(
            f"{name} must be a whole number of steps, such as 30, or a time with its unit, such as "
            f'"30s", not {reprlib.repr(every)}'
        ) from None
