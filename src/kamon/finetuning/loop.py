"""The loop that all kinds of fine-tuning share: steps, checkpoints, and resuming from them.

A `FineTuneSpec` is the data of a run, the same in memory and in a model directory. A
`FineTuneMethod` is the algorithm: its step and its evaluation. A step depends only on (seed, step),
the parameters and Adam's moments. So a resumed run gives the same model, bit for bit.

The directory holds all that a resumed run needs: the examples, and the parameters of a frozen
reference if there is one. The examples include the reference's log-probabilities. You may move or
delete the base model, because Kamon only displays its path and hash.
"""

from __future__ import annotations

import hashlib
import math
import time
import warnings
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from os import PathLike
from pathlib import Path
from typing import Any

from kamon._version import __version__
from kamon.config import Config, check_names
from kamon.data.documents import Documents
from kamon.data.shuffling import permutation
from kamon.engines.base import Engine, State, initial_state
from kamon.engines.distributed import get_group
from kamon.engines.factory import EngineSpec, best_engine
from kamon.errors import ConfigError, StoreError
from kamon.model import Model, to_checkpoint
from kamon.storage import model_dir
from kamon.storage.checkpoint import (
    Checkpoint,
    examples_text,
    little_endian,
    pack_examples,
    unpack_documents,
    unpack_examples,
)
from kamon.storage.metrics import Metrics
from kamon.storage.model_dir import CheckpointWriter
from kamon.storage.records import BaseRecord, TrainingRecord
from kamon.tokenizers.base import Tokenizer
from kamon.training.early_stopping import NUM_EVALUATIONS, EarlyStopping
from kamon.training.loop import CheckpointSchedule, Progress, learning_rate, not_finite
from kamon.training.options import Callbacks, RunOptions, checkpoint_interval
from kamon.training.session import open_writer
from kamon.training.setup import ResumePoint, check_room

PROGRESS_SECONDS = 0.1  # between two calls of on_progress
MAX_LOSS = 1e300  # replaces a validation loss that is not finite
SETTINGS = (  # the settings of Config that every kind of fine-tuning accepts
    *("seed", "num_steps", "batch_size", "learning_rate", "min_lr", "schedule", "warmup_steps"),
    *("weight_decay", "beta1", "beta2", "grad_clip"),
)
Example = dict[str, Any]


@dataclass(frozen=True)
class FineTuneSpec:
    """Everything that decides the fine-tuned model, apart from the engine.

    Attributes:
        kind: "sft", "reward", "dpo", "ppo" or "rate", the name of the command.
        config: the Config of the extended model, with num_steps, learning_rate and the like of
            this run.
        params: the initial parameters. In a resumed run, the best parameters so far.
        settings: the settings of the objective only, as training.json keeps them.
        examples: the training set and the validation set.
        source: the name of the examples in messages.
        base: the record of the base (see `base_of`).
        base_training: how the base was trained.
        documents: the base's list.
        updates: optimiser updates per step.
        frozen: the parameters of the frozen reference, if there is one.
        num_left_out: examples in neither set, because they would link the two.
    """

    kind: str
    config: Config
    tokenizer: Tokenizer
    params: array[float] = field(repr=False)
    settings: dict[str, Any]
    examples: list[Example] = field(repr=False)
    source: str
    base: BaseRecord
    base_training: TrainingRecord
    documents: bytes | Documents = field(repr=False)
    updates: int = 1
    frozen: array[float] | None = field(default=None, repr=False)
    num_left_out: int = 0

    @property
    def docs(self) -> Documents:
        packed = self.documents
        return unpack_documents(packed) if isinstance(packed, bytes) else packed


class FineTuneMethod:
    """The algorithm of one kind of fine-tuning: the loop calls a subclass of this.

    Attributes:
        num_held_out: size of the validation set. If it is 0, the last model is the best one.
        critic: a second engine that learns. Checkpoints include its state.
    """

    num_held_out = 0
    critic: Engine | None = None

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        """Make step number `step` (from 0) and return measurements, including "loss".

        It calls the engine's `step` `FineTuneSpec.updates` times.
        """
        raise NotImplementedError

    def evaluate(self, engine: Engine) -> float | None:  # noqa: ARG002
        """Return the validation loss, or None without a validation set."""
        return None

    def should_end(self) -> bool:
        """Return True to end the run after this step."""
        return False

    def finish(self, engine: Engine) -> dict[str, Any]:  # noqa: ARG002
        """Return measurements of the final model for training.json."""
        return {}

    def resume(self, metrics: Metrics) -> None:
        """Restore the method's own state from the metrics of the previous steps."""


# Returns another engine of the same kind, with these parameters and optionally another Config.
NewEngine = Callable[..., Engine]
MakeMethod = Callable[[FineTuneSpec, NewEngine], FineTuneMethod]


@dataclass(frozen=True)
class StartInfo:
    """The argument of `on_start`: the run before its first step."""

    spec: FineTuneSpec
    method: FineTuneMethod
    engine: Engine
    engine_name: str
    resumed: ResumePoint | None = None


def build_config(
    base: Config, picked: Mapping[str, Any], settings: Mapping[str, Any], *accepted: str
) -> Config:
    """Return the base's Config with the given settings.

    Args:
        picked: values for the settings that are not given.
        accepted: settings that this kind of fine-tuning accepts besides SETTINGS.

    Raises: ConfigError for any other setting, unless its value is the base's own. So you can reuse
        the TOML file that the base was trained with.
    """
    check_names(settings)
    allowed = (*SETTINGS, *accepted)
    given = {name: value for name, value in settings.items() if name in allowed}
    config = replace(base, **{**picked, **given})
    for name, value in settings.items():
        fixed = getattr(config, name)
        if value != fixed and name not in allowed:
            raise ConfigError(
                f"{name} is {fixed} for this model, not {value!r:.60}", f"drop {name}"
            )
    return config


def examples_of_step(seed: int, step: int, batch_size: int, n: int) -> list[int]:
    """Return the indices of the examples that a step learns from.

    The steps go through all n examples in a random order, and then again in a new random order.

    >>> sorted(examples_of_step(1, 0, 3, 6) + examples_of_step(1, 1, 3, 6))
    [0, 1, 2, 3, 4, 5]
    """
    indices = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, i = divmod(position, n)
        indices.append(order(seed, epoch, n)(i))
    return indices


order = lru_cache(maxsize=8)(permutation)  # one permutation costs as much as ten look-ups in it


def fingerprint(model: Model) -> str:
    """Return the SHA-256 of a model's shape, tokens and parameters."""
    c = model.config
    shape = (c.n_layer, c.n_embd, c.n_head, c.block_size, c.mode)
    digest = hashlib.sha256(f"{shape}\n{model.tokenizer.to_json()}".encode())
    digest.update(little_endian(model.engine.state()["params"]).tobytes())
    return digest.hexdigest()


def base_of(model: Model, path: object) -> BaseRecord:
    """Return the record of a base model. path: its directory. Anything but a path is ignored."""
    known = str(path) if isinstance(path, str | PathLike) else None
    return BaseRecord.read({"path": known, "sha256": fingerprint(model)})


def fine_tune(
    spec: FineTuneSpec,
    make_method: MakeMethod,
    engine: EngineSpec | None = None,
    options: RunOptions | None = None,
) -> Model:
    """Return the fine-tuned model, and save it if `options` name an output.

    Its training.json has a section "tuning". Otherwise it is an ordinary model.
    """
    engine, options = engine or EngineSpec(), options or RunOptions()
    name = engine.name or best_engine()
    with open_writer(options) as writer:
        new_engine = engine_maker(spec.config, replace(engine, name=name))
        made = new_engine(spec.params)
        training = start_record(spec, name, made.dtype)
        session = FineTuneSession(spec, make_method(spec, new_engine), made, training)
        return session.run(writer, options)


def resume_fine_tuning(path: str | Path, kind: str, make_method: MakeMethod, **how: Any) -> Model:
    """Finish an interrupted run of this kind and return its model.

    Kamon reads the engine, dtype, examples and settings from the directory.

    Args:
        how: threads, device, compile, checkpoint_every, on_start, on_progress and should_stop, as
            in `kamon.train`.

    Raises: ConfigError if the run is of another kind, or complete. StoreError if the directory has
        no usable checkpoint.
    """
    engine, options, settings = run_arguments(how)
    if unknown := [*settings, *({"output", "overwrite"} & how.keys())]:
        raise TypeError(f"resume takes no argument {', '.join(unknown)}")
    with model_dir.writing(path, go_on=True) as writer:
        saved, training = writer.stored, writer.stored.training
        spec = spec_of(path, saved)
        check_unfinished(path, kind, spec, saved)
        engine = replace(engine, name=training.engine, dtype=training.dtype)
        new_engine = engine_maker(spec.config, engine)
        method = make_method(spec, new_engine)
        made, metrics, state = new_engine(saved.params), saved.metrics, saved.state
        session = FineTuneSession(spec, method, made, training, metrics)
        session.resumed = ResumePoint(writer.folder.name, len(metrics), writer.problems)
        if session.validation and metrics.held_out:
            session.validation.best = initial_state(saved.params)
            session.validation.history = sorted(metrics.held_out.items())
        assert state is not None
        state["step"] = len(metrics) * spec.updates
        made.load(state)
        method.resume(metrics)
        if method.critic:
            if saved.critic is None:
                raise StoreError(
                    f"{path} has no saved critic to resume from", "fine-tune the base again"
                )
            method.critic.load(saved.critic)
        return session.run(writer, options)


def run_arguments(given: dict[str, Any]) -> tuple[EngineSpec, RunOptions, dict[str, Any]]:
    """Return the engine, the options of the run, and the remaining arguments: settings of Config.

    given: keyword arguments of `kamon.train`, without its data.
    """
    left = dict(given)

    def taken(*names: str) -> dict[str, Any]:
        return {name: left.pop(name) for name in names if name in left}

    engine = EngineSpec(left.pop("engine", None), **taken("dtype", "threads", "device", "compile"))
    callbacks = Callbacks(**taken("on_start", "on_progress", "should_stop"))
    every = checkpoint_interval(left.pop("checkpoint_every", None))
    output = taken("output", "overwrite")
    return engine, RunOptions(**output, checkpoint_every=every, callbacks=callbacks), left


def check_unfinished(path: str | Path, kind: str, spec: FineTuneSpec, saved: Checkpoint) -> None:
    """Raise ConfigError if the run in `path` is of another kind, or complete."""
    if spec.kind != kind:
        raise ConfigError(
            f"{path} was fine-tuned with {spec.kind}, not with {kind}",
            f"resume with `kamon {spec.kind} --resume {path}`",
        )
    if saved.training.finished:
        raise ConfigError(
            f"fine-tuning in {path} is already complete: "
            f"{len(saved.metrics):,} steps on {spec.source}"
        )


def engine_maker(config: Config, engine: EngineSpec) -> NewEngine:
    """Return a function that makes engines of one kind.

    Raises: ConfigError if memory is too small, or under torchrun.
    """
    if get_group().size > 1:
        raise ConfigError("fine-tuning runs in one process", "start it without torchrun")
    check_room(config, engine, config.block_size)

    def new_engine(params: array[float], shape: Config | None = None) -> Engine:
        made = engine.create(shape or config)
        made.load(initial_state(params))
        return made

    return new_engine


def validation_of(method: FineTuneMethod) -> EarlyStopping | None:
    """Return early stopping by `method.evaluate`, or None without a validation set.

    A loss that is not finite counts as MAX_LOSS, because JSON has no infinity.
    """
    if not method.num_held_out:
        return None

    def loss(engine: Engine) -> float:
        measured = method.evaluate(engine)
        assert measured is not None
        return min(measured, MAX_LOSS)

    return EarlyStopping(loss)


# ---- training.json


def start_record(spec: FineTuneSpec, engine: str, dtype: str) -> TrainingRecord:
    """Return the record of a new run. It repeats the list and the split of its base."""
    training = spec.base_training
    corpus = training.corpus
    if not corpus.sha256:
        corpus |= {"sha256": spec.docs.sha256()}
    before = training.tuning
    return TrainingRecord.read(
        {
            "kamon": __version__,
            "engine": engine,
            "dtype": dtype,
            "num_cut": 0,
            "corpus": corpus,
            "hold_out": training.hold_out,
            "held_out": training.held_out,
            "tuning": {
                "kind": spec.kind,
                "base": spec.base.content | ({"tuning": before.content} if before else {}),
                "data": {
                    "source": spec.source,
                    "num_examples": len(spec.examples),
                    "sha256": hashlib.sha256(examples_text(spec.examples)).hexdigest(),
                    "num_left_out": spec.num_left_out,
                },
                "settings": spec.settings,
                "updates": spec.updates,
            },
            "num_steps_done": 0,
            "seconds": 0.0,
        }
    )


def spec_of(path: str | Path, saved: Checkpoint) -> FineTuneSpec:
    """Return the spec of the run in a model directory.

    Raises: ConfigError if the model is not fine-tuned. StoreError if Kamon cannot resume the run.
    """
    known = saved.training.tuning
    if known is None:
        raise ConfigError(
            f"{path} is a trained model, not a fine-tuned one",
            f"resume with `kamon train --resume {path}`",
        )
    if saved.state is None or saved.examples is None:
        raise StoreError(f"{path} has no checkpoint to resume from", "fine-tune the base again")
    examples = unpack_examples(saved.examples)
    if hashlib.sha256(examples_text(examples)).hexdigest() != known.data.sha256:
        raise StoreError(f"cannot resume {path}, because its examples have changed")
    return FineTuneSpec(
        kind=known.kind,
        config=saved.config,
        tokenizer=saved.tokenizer,
        params=saved.params,
        settings=known.settings,
        examples=examples,
        source=known.data.source,
        base=known.base,
        base_training=saved.training,
        documents=saved.documents,
        updates=known.updates,
        frozen=saved.reference_params,
        num_left_out=known.data.num_left_out,
    )


# ---- the loop


@dataclass
class FineTuneSession:
    """A run in progress.

    Attributes:
        training: the record of training.json at the start.
        examples: the packed examples, as Kamon saves them.
        start: when `run` started, on the clock of time.perf_counter.
    """

    spec: FineTuneSpec
    method: FineTuneMethod
    engine: Engine
    training: TrainingRecord
    metrics: Metrics = field(default_factory=Metrics)
    resumed: ResumePoint | None = None
    examples: bytes = b""
    start: float = 0.0

    def __post_init__(self) -> None:
        self.validation = validation_of(self.method)

    def run(self, writer: CheckpointWriter | None, options: RunOptions) -> Model:
        """Make the remaining steps, or stop earlier, and return the best model so far."""
        if on_start := options.callbacks.on_start:
            name = self.training.engine
            on_start(StartInfo(self.spec, self.method, self.engine, name, self.resumed))
        elif self.resumed and self.resumed.problems:
            text = f"resuming from {self.resumed.generation}: {self.resumed.problems[0]}"
            warnings.warn(text, stacklevel=3)
        self.start = time.perf_counter()
        checkpoints = None
        if writer or any("prompt" in example for example in self.spec.examples):
            self.examples = pack_examples(self.spec.examples)
            checkpoints = CheckpointSchedule(lambda _: self.save(writer), options.checkpoint_every)
        self.make_steps(options.callbacks, checkpoints)
        if not self.metrics:
            return self.model(False, {})
        finished = len(self.metrics) == self.spec.config.num_steps or self.ended
        engine, last_state = self.engine, self.engine.state()
        engine.load(self.best_state)
        measured = self.method.finish(engine) if finished else {}
        best_state = engine.state()
        engine.load(last_state)
        model = self.save(writer, best_state, finished, measured)
        engine.load(best_state)
        return model

    @property
    def best_state(self) -> State:
        """The state with the lowest validation loss so far, or else the current state."""
        return (self.validation and self.validation.best) or self.engine.state()

    def save(
        self,
        writer: CheckpointWriter | None,
        best: State | None = None,
        finished: bool = False,
        measured: Mapping[str, Any] | None = None,
    ) -> Model:
        """Return the model so far, and save it with the engine's state and the best parameters."""
        state, critic = self.engine.state(), self.method.critic
        if not all(map(math.isfinite, state["params"])):
            raise not_finite(len(self.metrics), self.spec.config)
        model = self.model(finished, measured or {})
        if writer:
            content = replace(
                to_checkpoint(model, (best or self.best_state)["params"], state),
                examples=self.examples,
                reference_params=self.spec.frozen,
                critic=critic.state() if critic else None,
            )
            writer.save(content)
        return model

    @property
    def ended(self) -> bool:
        """True if the loss no longer falls, or if the method itself ends the run."""
        validation = self.validation
        exhausted = validation is not None and validation.patience_exceeded
        return exhausted or self.method.should_end()

    def make_steps(self, callbacks: Callbacks, checkpoints: CheckpointSchedule | None) -> None:
        """Make steps until the last one, until the run has `ended`, or until `should_stop`.

        Raises: TrainingError if a loss is not finite.
        """
        config, metrics, validation = self.spec.config, self.metrics, self.validation
        often = max(1, config.num_steps // NUM_EVALUATIONS)
        first, start = len(metrics), time.perf_counter()
        reported = start
        if validation and validation.patience_exceeded:
            return
        for step in range(first, config.num_steps):
            self.one_step(step)
            done = step + 1
            now = time.perf_counter()
            due = now - reported >= PROGRESS_SECONDS or done == config.num_steps
            if callbacks.on_progress and due:
                reported = now
                progress = Progress(config.num_steps, metrics.losses, now - start, first)
                callbacks.on_progress(progress)
            if done % often == 0 or done == config.num_steps:
                if validation:
                    validation(self.engine, done)
                    metrics.held_out[done] = validation.history[-1][1]
                else:
                    self.method.evaluate(self.engine)
            if self.ended or (callbacks.should_stop and callbacks.should_stop()):
                break
            if checkpoints and done < config.num_steps:
                checkpoints.maybe_save(metrics.losses)

    def one_step(self, step: int) -> None:
        """Make one step and add its line to the metrics."""
        config, metrics = self.spec.config, self.metrics
        rate = learning_rate(config, step)
        try:
            measured = self.method.step(self.engine, step, rate)
        except ArithmeticError:
            raise not_finite(step + 1, config) from None
        if not all(map(math.isfinite, measured.values())):
            raise not_finite(step + 1, config)
        metrics.losses.append(measured["loss"])
        metrics.learning_rates.append(rate)
        for name, number in measured.items():
            if name != "loss":
                metrics.others.setdefault(name, array("d")).append(number)

    def model(self, finished: bool, measured: Mapping[str, Any]) -> Model:
        """Return the model so far, with its record."""
        spec, validation = self.spec, self.validation
        assert self.training.tuning
        tuning = self.training.tuning | measured
        if validation and validation.history:
            held_out = {
                "num_examples": self.method.num_held_out,
                "loss": min(loss for _, loss in validation.history),
                "best_step": validation.best_step,
            }
            tuning |= {"held_out": held_out}
        seconds = self.training.seconds + time.perf_counter() - self.start
        training = self.training | {
            "num_steps_done": len(self.metrics),
            "seconds": round(seconds, 3),
            "finished": finished,
            "tuning": tuning,
        }
        return Model(
            *(spec.config, spec.tokenizer, self.engine, self.metrics, training, spec.documents),
            self.examples or None,
        )
