"""The loop that all tunings of a trained model share: steps, checkpoints, and going on from them.

A fine-tuning is a `FineTuneSpec`: data, the same in memory and in a model directory. What is
particular to its kind is one function that returns a `FineTuneMethod`: its step and its evaluation.
A step depends on (seed, step), the parameters and Adam's moments, and on nothing else: so whoever
goes on from a checkpoint comes to the same model, bit for bit.

All that going on needs is in the directory: the examples, with whatever a kind has computed once
and added to them (the log-probabilities of a frozen reference), and where a reference itself is
needed, its parameters. The base model may move or go; its path and hash are kept to be shown.
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
from typing import TYPE_CHECKING, Any, Protocol

from kamon._version import __version__
from kamon.config import Config, check_names
from kamon.data.documents import Documents
from kamon.data.shuffling import permutation
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.distributed import get_group
from kamon.engines.factory import EngineSpec, best_engine
from kamon.errors import ConfigError, StoreError
from kamon.model import Model, to_checkpoint
from kamon.storage.checkpoint import (
    examples_text,
    little_endian,
    pack_examples,
    unpack_documents,
    unpack_examples,
)
from kamon.storage.metrics import Metrics
from kamon.tokenizers.base import Tokenizer
from kamon.training.early_stopping import NUM_EVALUATIONS, EarlyStopping
from kamon.training.loop import CheckpointSchedule, Progress, learning_rate, not_finite
from kamon.training.options import Callbacks, RunOptions, checkpoint_interval
from kamon.training.session import open_writer
from kamon.training.setup import ResumePoint, check_room

if TYPE_CHECKING:
    from pathlib import Path

    from kamon.storage.checkpoint import Checkpoint
    from kamon.storage.model_dir import CheckpointWriter

PROGRESS_SECONDS = 0.1
MAX_LOSS = 1e300
SETTINGS = (  # of Config, that every kind of tuning takes
    *("seed", "num_steps", "batch_size", "learning_rate", "min_lr", "schedule", "warmup_steps"),
    *("weight_decay", "beta1", "beta2", "grad_clip"),
)
Example = dict[str, Any]


@dataclass(frozen=True)
class FineTuneSpec:
    """What a tuning is: all that the model it comes to depends on, but for the engine.

    kind: "sft", "reward", "dpo", "ppo", as its verb is called. config: of the model, extended where
    it has to be, with num_steps, batch_size, learning_rate, seed and the like of the tuning.
    params: where it starts; where it goes on, the best so far: a reference to compare with is in
    `frozen`, or in the examples. settings: of the objective alone. examples: what it learns from
    and is tested on; source: where they come from. base: the training of the base model, its path,
    if it has one, and its `fingerprint`. documents: of the base. updates: of the parameters in a
    step. frozen: parameters that are kept beside. num_left_out: examples that are neither learned
    nor tested on, since they would join both.
    """

    kind: str
    config: Config
    tokenizer: Tokenizer
    params: array[float] = field(repr=False)
    settings: dict[str, Any]
    examples: list[Example] = field(repr=False)
    source: str
    base: dict[str, Any]
    documents: bytes | Documents = field(repr=False)
    updates: int = 1
    frozen: array[float] | None = field(default=None, repr=False)
    num_left_out: int = 0


class FineTuneMethod:
    """How one kind of fine-tuning goes: the loop calls a subclass of this.

    num_held_out: examples in the validation set. Without any, the last model is the best one.
    critic: a second engine that learns, whose state is saved, too.
    """

    num_held_out = 0
    critic: Engine | None = None

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        """Make step number `step`, from 0, and return what was measured, "loss" among it.

        It calls the engine's `step` as often as `FineTuneSpec.updates` says.
        """
        raise NotImplementedError

    def evaluate(self, engine: Engine) -> float | None:  # noqa: ARG002
        """Return the validation loss, or None without a validation set. Called now and then."""
        return None

    def should_end(self) -> bool:
        """Return True if the run is to end after this step."""
        return False

    def finish(self, engine: Engine) -> dict[str, Any]:  # noqa: ARG002
        """Return what training.json keeps of the final model."""
        return {}

    def resume(self, metrics: Metrics) -> None:
        """Take over what the steps before have measured."""


class NewEngine(Protocol):
    """Returns one more engine of the same kind with these parameters. shape: another Config."""

    def __call__(self, params: array[float], shape: Config | None = None) -> Engine: ...


MakeMethod = Callable[[FineTuneSpec, NewEngine], FineTuneMethod]


@dataclass(frozen=True)
class StartInfo:
    """What is known before the first step: what `on_start` is given."""

    tuning: FineTuneSpec
    method: FineTuneMethod
    engine: Engine
    engine_name: str
    resumed: ResumePoint | None = None


def build_config(
    base: Config, picked: Mapping[str, Any], settings: Mapping[str, Any], *more: str
) -> Config:
    """The base's Config with what a kind of tuning has picked, and over it the settings given.

    more: settings that this kind takes beside SETTINGS. ConfigError for others, unless they say
    what is so anyway, as in a file that the base was trained with.
    """
    check_names(settings)
    allowed = (*SETTINGS, *more)
    given = {name: value for name, value in settings.items() if name in allowed}
    config = replace(base, **{**picked, **given})
    for name, value in settings.items():
        own = getattr(config, name)
        if value != own and name not in allowed:
            raise ConfigError(
                f"{name} is {own} where this model is tuned, not {value!r:.60}: leave that out"
            )
    return config


def examples_of_step(seed: int, step: int, batch_size: int, n: int) -> list[int]:
    """Which of n examples a step learns from: all in a random order, then again in another one.

    >>> sorted(examples_of_step(1, 0, 3, 6) + examples_of_step(1, 1, 3, 6))
    [0, 1, 2, 3, 4, 5]
    """
    places = []
    for number in range(step * batch_size, (step + 1) * batch_size):
        epoch, i = divmod(number, n)
        places.append(order(seed, epoch, n)(i))
    return places


order = lru_cache(maxsize=8)(permutation)  # finding the keys of one takes as long as ten places


def fingerprint(config: Config, tokenizer: Tokenizer, params: array[float]) -> str:
    """SHA-256 of what a model computes with: shape, tokens and parameters."""
    shape = (config.n_layer, config.n_embd, config.n_head, config.block_size, config.mode)
    digest = hashlib.sha256(f"{shape}\n{tokenizer.to_json()}".encode())
    digest.update(little_endian(params).tobytes())
    return digest.hexdigest()


def base_of(model: Model, path: str | Path | None) -> dict[str, Any]:
    """What a Tuning keeps of its base model."""
    params = model.engine.state()["params"]
    return {
        "path": None if path is None else str(path),
        "sha256": fingerprint(model.config, model.tokenizer, params),
        "training": model.training,
    }


def fine_tune(
    tuning: FineTuneSpec,
    make_method: MakeMethod,
    engine: EngineSpec | None = None,
    options: RunOptions | None = None,
) -> Model:
    """Return the fine-tuned model; it is also saved if `options` name an output.

    It is a model like any other, whose training.json has a "tuning".
    """
    engine, options = engine or EngineSpec(), options or RunOptions()
    engine = replace(engine, name=engine.name or best_engine())
    assert engine.name is not None
    with open_writer(options) as writer:
        new_engine = engine_maker(tuning.config, engine)
        made = new_engine(tuning.params)
        training = {
            "kamon": __version__,
            "engine": engine.name,
            "dtype": made.dtype,
            "num_cut": 0,
            **inherited_training(tuning),
            "tuning": record(tuning),
        }
        method = make_method(tuning, new_engine)
        if options.callbacks.on_start:
            options.callbacks.on_start(StartInfo(tuning, method, made, engine.name))
        session = FineTuneSession(tuning, method, made, training, validation_of(method))
        return session.run(writer, options)


def resume_fine_tuning(path: str | Path, kind: str, make_method: MakeMethod, **how: Any) -> Model:
    """Return the model of an interrupted run of this kind, with the steps that were left.

    Engine, dtype, examples and settings are those in its directory.

    Args:
        how: threads, device, compile, checkpoint_every, on_start, on_progress and should_stop, as
            in `kamon.train`.
    """
    from kamon.storage import model_dir

    engine, options = resume_options(path, **how)
    with model_dir.writing(path, go_on=True) as writer:
        found, training = writer.stored, writer.stored.training
        tuning = spec_of(path, found)
        check_unfinished(path, kind, tuning, found)
        engine = replace(engine, name=training["engine"], dtype=training["dtype"])
        new_engine = engine_maker(tuning.config, engine)
        made = new_engine(found.params)
        method = make_method(tuning, new_engine)
        validation = validation_of(method)
        if validation and found.metrics.held_out:
            validation.best = initial_state(found.params)
            validation.history = sorted(found.metrics.held_out.items())
        state = found.state
        assert state is not None
        state["step"] = len(found.metrics) * tuning.updates
        made.load(state)
        method.resume(found.metrics)
        if method.critic:
            if found.critic is None:
                raise StoreError(f"{path} keeps no critic to go on with: tune its base anew")
            method.critic.load(found.critic)
        resumed = ResumePoint(writer.folder.name, len(found.metrics), writer.problems)
        if options.callbacks.on_start:
            info = StartInfo(tuning, method, made, training["engine"], resumed)
            options.callbacks.on_start(info)
        elif resumed.problems:
            text = f"going on from {resumed.generation}: {resumed.problems[0]}"
            warnings.warn(text, stacklevel=2)
        session = FineTuneSession(tuning, method, made, training, validation, found.metrics)
        return session.run(writer, options)


def resume_options(
    path: str | Path, *, checkpoint_every: str | int | None = None, **how: Any
) -> tuple[EngineSpec, RunOptions]:
    """Return what `resume_fine_tuning` is given as an engine and as options."""
    names = ("on_start", "on_progress", "should_stop")
    callbacks = Callbacks(**{name: how.pop(name) for name in names if name in how})
    every = checkpoint_interval(checkpoint_every)
    return EngineSpec(**how), RunOptions(path, checkpoint_every=every, callbacks=callbacks)


def check_unfinished(path: str | Path, kind: str, tuning: FineTuneSpec, found: Checkpoint) -> None:
    """Raise ConfigError if the run in `path` is of another kind, or complete."""
    if tuning.kind != kind:
        raise ConfigError(
            f"{path} is tuned by {tuning.kind}, not by {kind}: "
            f"`kamon {tuning.kind} --resume {path}` goes on"
        )
    if found.training["finished"]:
        raise ConfigError(
            f"{path} is at its end, behind {len(found.metrics):,} steps on {tuning.source}"
        )


def engine_maker(config: Config, engine: EngineSpec) -> NewEngine:
    """Return a function that makes engines of one kind.

    Raises: ConfigError if there is too little memory, or if several processes ask.
    """
    if get_group().size > 1:
        raise ConfigError("a model is tuned by one process: start it without torchrun")
    check_room(config, engine, config.block_size)

    def new_engine(params: array[float], shape: Config | None = None) -> Engine:
        made = engine.create(shape or config)
        made.load(initial_state(params))
        return made

    return new_engine


def validation_of(method: FineTuneMethod) -> EarlyStopping | None:
    """Return early stopping by `method.evaluate`, or None without a validation set.

    A loss that is not finite counts as MAX_LOSS, which a file can keep.
    """
    if not method.num_held_out:
        return None

    def loss(engine: Engine) -> float:
        found = method.evaluate(engine)
        assert found is not None
        return min(found, MAX_LOSS)

    return EarlyStopping(pack_sequences([]), measure=loss)


# ---- what training.json keeps


def inherited_training(tuning: FineTuneSpec) -> dict[str, Any]:
    """What a tuned model has from its base: its list, and which part of it was held out."""
    training = tuning.base["training"]
    corpus = training["corpus"]
    if "sha256" not in corpus:
        docs = tuning.documents
        docs = unpack_documents(docs) if isinstance(docs, bytes) else docs
        corpus = corpus | {"sha256": docs.sha256()}
    return {
        "corpus": corpus,
        "hold_out": training.get("hold_out", False),
        "held_out": training.get("held_out"),
    }


def record(tuning: FineTuneSpec) -> dict[str, Any]:
    base = {name: value for name, value in tuning.base.items() if name != "training"}
    before = tuning.base["training"].get("tuning")
    return {
        "kind": tuning.kind,
        "base": base | ({"tuning": before} if before else {}),
        "data": {
            "source": tuning.source,
            "num_examples": len(tuning.examples),
            "sha256": hashlib.sha256(examples_text(tuning.examples)).hexdigest(),
            "num_left_out": tuning.num_left_out,
        },
        "settings": tuning.settings,
        "updates": tuning.updates,
    }


def spec_of(path: str | Path, found: Checkpoint) -> FineTuneSpec:
    """The Tuning in a model directory. ConfigError or StoreError if there is none to go on."""
    kept = found.training.get("tuning")
    if kept is None:
        raise ConfigError(
            f"{path} is trained and not tuned: `kamon train --resume {path}` goes on with that"
        )
    if found.state is None or found.examples is None:
        raise StoreError(f"{path} keeps nothing to go on with: tune its base anew")
    examples = unpack_examples(found.examples)
    if hashlib.sha256(examples_text(examples)).hexdigest() != kept["data"]["sha256"]:
        raise StoreError(f"{path} cannot be used: its examples are not those it learned")
    return FineTuneSpec(
        kind=kept["kind"],
        config=found.config,
        tokenizer=found.tokenizer,
        params=found.params,
        settings=kept["settings"],
        examples=examples,
        source=kept["data"]["source"],
        base=kept["base"] | {"training": found.training},
        documents=found.documents,
        updates=kept["updates"],
        frozen=found.reference_params,
        num_left_out=kept["data"].get("num_left_out", 0),
    )


# ---- the loop


@dataclass
class FineTuneSession:
    """A run in progress. training: its record as far as it is known at the start."""

    tuning: FineTuneSpec
    method: FineTuneMethod
    engine: Engine
    training: dict[str, Any]
    validation: EarlyStopping | None
    metrics: Metrics = field(default_factory=Metrics)
    examples: bytes = b""
    start: float = 0.0  # on time.perf_counter's clock

    def run(self, writer: CheckpointWriter | None, options: RunOptions) -> Model:
        """Make the steps that are left and return the best model. A stop keeps what was learned."""
        self.start = time.perf_counter()
        checkpoints = None
        if writer:
            self.examples = pack_examples(self.tuning.examples)
            checkpoints = CheckpointSchedule(
                lambda _: self.save_checkpoint(writer), options.checkpoint_every
            )
        self.make_steps(options.callbacks, checkpoints)
        if not self.metrics:
            return self.model(0.0, False, {})
        finished = len(self.metrics) == self.tuning.config.num_steps or self.ended
        engine, last = self.engine, self.engine.state()
        if self.validation and self.validation.best:
            engine.load(self.validation.best)
        more = self.method.finish(engine) if finished else {}
        best = engine.state()
        engine.load(last)
        model = self.save(writer, finished, best["params"], more)
        engine.load(best)
        return model

    def save_checkpoint(self, writer: CheckpointWriter) -> None:
        best = self.validation and self.validation.best
        self.save(writer, False, (best or self.engine.state())["params"], {})

    def save(
        self,
        writer: CheckpointWriter | None,
        finished: bool,
        params: array[float],
        more: dict[str, Any],
    ) -> Model:
        """Return the model so far, and save it with these parameters and the engine's state."""
        state = self.engine.state()
        if not all(map(math.isfinite, state["params"])):
            raise not_finite(len(self.metrics), self.tuning.config)
        seconds = self.training.get("seconds", 0.0) + time.perf_counter() - self.start
        model = self.model(seconds, finished, more)
        if writer:
            critic = self.method.critic
            content = replace(
                to_checkpoint(model, params, state),
                examples=self.examples,
                reference_params=self.tuning.frozen,
                critic=critic.state() if critic else None,
            )
            writer.save(content)
        return model

    @property
    def ended(self) -> bool:
        """Whether patience is exceeded, or the method itself ends the run."""
        validation = self.validation
        exhausted = validation is not None and validation.patience_exceeded
        return exhausted or self.method.should_end()

    def make_steps(self, callbacks: Callbacks, checkpoints: CheckpointSchedule | None) -> None:
        """Make steps until the last one, until the run has `ended`, or until a stop is asked for.

        Raises: TrainingError if a loss is not finite.
        """
        config, metrics, validation = self.tuning.config, self.metrics, self.validation
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
        config = self.tuning.config
        rate = learning_rate(config, step)
        try:
            measured = self.method.step(self.engine, step, rate)
        except ArithmeticError:
            raise not_finite(step + 1, config) from None
        if not all(map(math.isfinite, measured.values())):
            raise not_finite(step + 1, config)
        add_line(self.metrics, rate, measured)

    def model(self, seconds: float, finished: bool, more: dict[str, Any]) -> Model:
        """Return the model so far, with its record."""
        tuning, validation = self.tuning, self.validation
        known = self.training["tuning"] | more
        if validation and validation.history:
            known["held_out"] = {
                "num_examples": self.method.num_held_out,
                "loss": min(loss for _, loss in validation.history),
                "best_step": validation.best_step,
            }
        training = self.training | {
            "num_steps_done": len(self.metrics),
            "seconds": round(seconds, 3),
            "finished": finished,
            "tuning": known,
        }
        return Model(
            config=tuning.config,
            tokenizer=tuning.tokenizer,
            engine=self.engine,
            metrics=self.metrics,
            training=training,
            documents=tuning.documents,
        )


def add_line(metrics: Metrics, rate: float, measured: Mapping[str, float]) -> None:
    metrics.losses.append(measured["loss"])
    metrics.learning_rates.append(rate)
    for name, number in measured.items():
        if name != "loss":
            metrics.others.setdefault(name, array("d")).append(number)
