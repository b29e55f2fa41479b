"""A run: the training loop, its checkpoints, and the final model."""

from __future__ import annotations

import math
import time
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from kamon._version import __version__
from kamon.data.documents import Documents
from kamon.engines.base import State, has_fused_ops
from kamon.engines.distributed import get_group
from kamon.errors import TrainingError
from kamon.model import Model, to_checkpoint
from kamon.storage import model_dir
from kamon.storage.checkpoint import Checkpoint
from kamon.storage.metrics import Metrics
from kamon.storage.model_dir import CheckpointWriter
from kamon.storage.records import TrainingRecord, ValidationRecord
from kamon.training.blend import BlendLosses
from kamon.training.calibration import calibrated
from kamon.training.conditional import ConditionalData
from kamon.training.early_stopping import EarlyStopping, mean_loss
from kamon.training.loop import CheckpointSchedule, learning_rate, not_finite, pretrain
from kamon.training.options import RunOptions
from kamon.training.setup import TrainingSetup

MAX_EVAL_DOCS = 20_000  # documents in the final evaluation of a short run
MAX_EVAL_DOCS_SLOW = 500  # the same for the scalar engine
TYPICAL_DOC_TOKENS = 16  # the document length that these limits assume


@dataclass
class TrainingSession:
    """A run in progress.

    training: its record in the model directory. Some fields are known only at the end.
    documents: those that the model stores.
    """

    setup: TrainingSetup
    validation: EarlyStopping | None
    training: TrainingRecord
    documents: Documents
    metrics: Metrics = field(default_factory=Metrics)
    start: float = 0.0  # on time.perf_counter's clock

    def run(self, options: RunOptions, writer: CheckpointWriter | None) -> Model:
        """Make the remaining steps and return the model. Save checkpoints to `writer` meanwhile."""
        setup, losses, callbacks = self.setup, self.metrics.losses, options.callbacks
        if callbacks.on_start:
            callbacks.on_start(setup)
        self.start = time.perf_counter()
        checkpoints = None
        if writer:
            checkpoints = CheckpointSchedule(lambda _: self.save(writer), options.checkpoint_every)
        if not setup.stopped:
            pretrain(
                setup.engine,
                setup.docs,
                setup.config,
                callbacks.on_progress,
                callbacks.should_stop,
                validation=self.validation,
                checkpoints=checkpoints,
                losses=losses,
            )
        state = setup.engine.state()
        exhausted = self.validation is not None and self.validation.patience_exceeded
        held_out = None
        if self.validation and losses:
            held_out = self.validation_record(self.validation, len(losses))
        finished = len(losses) == setup.config.num_steps or exhausted
        model = self.model(finished=finished, held_out=held_out)
        if model.training.given and losses:
            model = calibrated(model)
        if writer and losses:
            writer.save(self.checkpoint(model, setup.engine.state()["params"], state))
        return model

    def save(self, writer: CheckpointWriter) -> None:
        """Save a checkpoint: the best parameters so far, and the state to resume from."""
        state = self.setup.engine.state()
        if not all(map(math.isfinite, state["params"])):
            raise not_finite(len(self.metrics.losses), self.setup.config)
        validation = self.validation
        best: State = (validation and validation.best) or state
        if self.setup.blended and validation:
            losses = validation.best_losses or validation.measure(self.setup.engine)
            if isinstance(losses, BlendLosses):
                self.training |= {"blend": losses.blend()}
        model = self.model(finished=False, held_out=validation.record() if validation else None)
        writer.save(self.checkpoint(model, best["params"], state))

    def checkpoint(self, model: Model, params: array[float], state: State) -> Checkpoint:
        """Return what is stored, with the mean of earlier parameters if the run averages them."""
        stored = to_checkpoint(model, params, state)
        mean = self.validation.mean if self.validation else None
        return replace(stored, reference_params=mean)

    def model(self, *, finished: bool, held_out: ValidationRecord | None) -> Model:
        """Return the model so far, with its record. held_out: the record of its validation."""
        setup, metrics = self.setup, self.metrics
        for step in range(len(metrics.learning_rates), len(metrics.losses)):
            metrics.learning_rates.append(learning_rate(setup.config, step))
        if self.validation:  # even in float64 a probability can be 0
            finite = ((step, loss) for step, loss in self.validation.history if loss < math.inf)
            metrics.held_out.update(finite)
        seconds = time.perf_counter() - self.start
        training = self.training | {
            "num_steps_done": len(metrics),
            "seconds": round(self.training.seconds + seconds, 3),
            "finished": finished,
            "held_out": held_out,
        }
        return Model(setup.config, setup.tokenizer, setup.engine, metrics, training, self.documents)

    def validation_record(self, validation: EarlyStopping, num_steps: int) -> ValidationRecord:
        """Restore the best model of these steps, and return its record."""
        setup = self.setup
        over_fitted = validation.finish(setup.engine, num_steps)
        least = MAX_EVAL_DOCS if has_fused_ops(setup.engine) else MAX_EVAL_DOCS_SLOW
        most = max(least, num_steps * setup.config.docs_per_step // 4)
        # Long and short documents get about the same number of tokens.
        length = max(1.0, setup.held_out.num_targets / len(setup.held_out) / TYPICAL_DOC_TOKENS)
        num_docs = min(len(setup.held_out), int(most / length))
        docs = setup.held_out.select(range(num_docs))
        parts = {}
        if setup.blended:
            losses = setup.blended.losses(setup.engine, docs)
            loss, parts = losses.loss, losses.of_parts()
            self.training |= {"blend": losses.blend()}
        else:
            loss = mean_loss(setup.engine, docs)
        if not all(map(math.isfinite, (loss, *parts.values()))):
            raise TrainingError(
                "the model gives the validation set a probability of 0",
                f"try a learning_rate below {setup.config.learning_rate:g}, or a smaller std",
            )
        best_step = validation.best_step or num_steps
        return ValidationRecord.of(num_docs, loss, best_step, over_fitted) | parts


def start_record(
    setup: TrainingSetup, checkpoint_every: int | float | None = None
) -> TrainingRecord:
    """Return the record of a run that is ready to start."""
    crossed, data = setup.cross_validation, setup.data
    given: dict[str, Any] = {}
    if isinstance(data, ConditionalData):
        shares = list(setup.blended.shares) if setup.blended else []
        about = {"columns": list(data.columns), "weight": data.weight, "shares": shares}
        given = {"given": about}
    return TrainingRecord.read(
        {
            "kamon": __version__,
            "engine": setup.engine_name,
            "dtype": setup.engine.dtype,
            "num_cut": setup.num_cut,
            "hold_out": data.has_validation,
            "init_from": setup.start.name if setup.start else None,
            "checkpoint_every": checkpoint_every,
            "corpus": data.record,
            "num_steps_done": 0,
            "seconds": 0.0,
            **(crossed.records() if crossed else {}),
            **given,
        }
    )


@contextmanager
def open_writer(options: RunOptions, *, resume: bool = False) -> Iterator[CheckpointWriter | None]:
    """Lock the model directory and yield its writer, or None if this process writes nothing.

    If torchrun started several processes, only the first one writes.
    """
    if options.output is None or get_group().rank:
        yield None
        return
    with model_dir.writing(options.output, overwrite=options.overwrite, go_on=resume) as writer:
        yield writer
