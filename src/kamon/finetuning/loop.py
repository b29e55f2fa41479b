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
from kamon.engines.factory import EngineSpec, best_engine, make_engine
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
from kamon.training.options import RunOptions, checkpoint_interval
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


@dataclass(frozen=True)
class FineTuneMethod:
    """How a kind of tuning goes.

    make: makes a step, by its number from 0 and its learning rate: `backward` and `step` of the
    engine, as often as Tuning.updates says; returns what was measured, "loss" among it, under the
    same names each time. measure: asked now and then for the loss on num_held_out examples that are
    not learned from, by which the best model is found; where there are none it returns None, and
    the last model is the best. ended: asked behind each step, and what was measured then, whether
    the tuning is at its end already. finish: what is known in the end, of the model that is kept,
    for training.json. go_on: is told what the steps before have measured, where a tuning goes on.
    critic: a second engine that learns, whose state is kept.
    """

    step: Callable[[Engine, int, float], Mapping[str, float]]
    evaluate: Callable[[Engine], float | None] | None = None
    num_held_out: int = 0
    should_end: Callable[[], bool] | None = None
    finish: Callable[[Engine], dict[str, Any]] | None = None
    go_on: Callable[[Metrics], None] | None = None
    critic: Engine | None = None


class NewEngine(Protocol):
    """Makes one more engine of the same kind, with these parameters; shape: its Config, where
    that is another one."""

    def __call__(self, params: array[float], shape: Config | None = None) -> Engine: ...


MakeSteps = Callable[[FineTuneSpec, NewEngine], FineTuneMethod]


@dataclass(frozen=True)
class StartInfo:
    """What is known before the first step: what `on_start` is given."""

    tuning: FineTuneSpec
    steps: FineTuneMethod
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
    make_steps: MakeSteps,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: str | int | None = None,
    on_start: Callable[[StartInfo], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Model:
    """The tuned model; written to `output`, from time to time and at the end.

    It is a model like any other, whose training.json has a "tuning". For the arguments and errors
    see `kamon.train`.
    """
    every = checkpoint_interval(checkpoint_every)
    with open_writer(RunOptions(output, overwrite)) as writer:
        name = engine or best_engine()
        new_engine = engines(tuning.config, name, dtype, threads, device, compile)
        made = new_engine(tuning.params)
        training = {
            "kamon": __version__,
            "engine": name,
            "dtype": made.dtype,
            "num_cut": 0,
            **inherited_training(tuning),
            "tuning": record(tuning),
        }
        steps = make_steps(tuning, new_engine)
        if on_start:
            on_start(StartInfo(tuning, steps, made, name))
        course = FineTuneSession(tuning, steps, made, training, validation_of(steps))
        return course.run(writer, every, on_progress, should_stop)


def resume_fine_tuning(
    path: str | Path,
    kind: str,
    make_steps: MakeSteps,
    *,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    checkpoint_every: str | int | None = None,
    on_start: Callable[[StartInfo], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Model:
    """Go on with a tuning of this kind, as if it had never been interrupted: with its own engine,
    dtype, examples and settings, all of which are in its directory."""
    from kamon.storage import model_dir

    every = checkpoint_interval(checkpoint_every)
    with model_dir.writing(path, go_on=True) as writer:
        found, training = writer.stored, writer.stored.training
        tuning = spec_of(path, found)
        if tuning.kind != kind:
            raise ConfigError(
                f"{path} is tuned by {tuning.kind}, not by {kind}: "
                f"`kamon {tuning.kind} --resume {path}` goes on"
            )
        assert found.state is not None
        if training["finished"]:
            raise ConfigError(
                f"{path} is at its end, behind {len(found.metrics):,} steps on {tuning.source}"
            )
        new_engine = engines(
            *(tuning.config, training["engine"], training["dtype"], threads, device, compile)
        )
        made = new_engine(found.params)
        steps = make_steps(tuning, new_engine)
        validation = validation_of(steps)
        if validation and found.metrics.held_out:
            validation.best = initial_state(found.params)
            validation.history = sorted(found.metrics.held_out.items())
        state = found.state
        state["step"] = len(found.metrics) * tuning.updates
        made.load(state)
        if steps.go_on:
            steps.go_on(found.metrics)
        if steps.critic:
            if found.critic is None:
                raise StoreError(f"{path} keeps no critic to go on with: tune its base anew")
            steps.critic.load(found.critic)
        resumed = ResumePoint(writer.folder.name, len(found.metrics), writer.problems)
        if on_start:
            on_start(StartInfo(tuning, steps, made, training["engine"], resumed))
        elif resumed.problems:
            text = f"going on from {resumed.generation}: {resumed.problems[0]}"
            warnings.warn(text, stacklevel=2)
        course = FineTuneSession(tuning, steps, made, training, validation, found.metrics)
        return course.run(writer, every, on_progress, should_stop)


def engines(
    config: Config,
    name: str,
    dtype: str | None,
    threads: int | None,
    device: str | None,
    compile: bool,
) -> NewEngine:
    """Makes engines of one kind. ConfigError where memory lacks, or several processes ask."""
    if get_group().size > 1:
        raise ConfigError("a model is tuned by one process: start it without torchrun")
    check_room(config, EngineSpec(name, dtype, threads, device), config.block_size)

    def new_engine(params: array[float], shape: Config | None = None) -> Engine:
        made = make_engine(
            name, shape or config, dtype=dtype, threads=threads, device=device, compile=compile
        )
        made.load(initial_state(params))
        return made

    return new_engine


def validation_of(steps: FineTuneMethod) -> EarlyStopping | None:
    """One that measures by `steps.measure`: where a probability is too small for its logarithm,
    MOST_LOSS, which a file can keep. None where no example is held out."""
    measure = steps.evaluate
    if measure is None or not steps.num_held_out:
        return None

    def loss(engine: Engine) -> float:
        found = measure(engine)
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
    """The Tuning in a model directory. ConfigError or StoreError where there is none to go on."""
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
    """A tuning under way. training: what is known of it from the start."""

    tuning: FineTuneSpec
    steps: FineTuneMethod
    engine: Engine
    training: dict[str, Any]
    validation: EarlyStopping | None
    metrics: Metrics = field(default_factory=Metrics)

    def run(
        self,
        writer: CheckpointWriter | None,
        every: int | float | None,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> Model:
        """The rest of it. A stop that is asked for keeps what was learned until then."""
        start, engine = time.perf_counter(), self.engine
        packed = pack_examples(self.tuning.examples) if writer else None
        before = self.training.get("seconds", 0.0)

        def keep(finished: bool, params: array[float], more: dict[str, Any]) -> Model:
            state = engine.state()
            if not all(map(math.isfinite, state["params"])):
                raise not_finite(len(self.metrics), self.tuning.config)
            model = self.model(before + time.perf_counter() - start, finished, more)
            if writer:
                content = to_checkpoint(model, params, state)
                critic = self.steps.critic
                content = replace(content, examples=packed, reference_params=self.tuning.frozen)
                writer.save(replace(content, critic=critic.state() if critic else None))
            return model

        def checkpoint(_: array[float]) -> None:
            best = self.validation and self.validation.best
            keep(False, (best or engine.state())["params"], {})

        checkpoints = CheckpointSchedule(checkpoint, every) if writer else None
        self.make_steps(on_progress, should_stop, checkpoints)
        done, validation = len(self.metrics), self.validation
        finished = done == self.tuning.config.num_steps or self.ended
        if not done:
            return self.model(0.0, False, {})
        last = engine.state()
        more: dict[str, Any] = {}
        if validation and validation.best:
            engine.load(validation.best)
        more = self.steps.finish(engine) if self.steps.finish and finished else {}
        best = engine.state()
        engine.load(last)
        model = keep(finished, best["params"], more)
        engine.load(best)
        return model

    @property
    def ended(self) -> bool:
        """Whether more steps would only learn by heart, or the tuning itself says so."""
        steps, validation = self.steps, self.validation
        exhausted = validation is not None and validation.patience_exceeded
        return exhausted or (steps.should_end is not None and steps.should_end())

    def make_steps(
        self,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
        checkpoints: CheckpointSchedule | None,
    ) -> None:
        """Steps until the last one, until it has `ended`, or until `should_stop` says so between
        two. TrainingError where a loss is not finite."""
        config, metrics, validation = self.tuning.config, self.metrics, self.validation
        often = max(1, config.num_steps // NUM_EVALUATIONS)
        first, start = len(metrics), time.perf_counter()
        told = start
        if validation and validation.patience_exceeded:
            return
        for step in range(first, config.num_steps):
            rate = learning_rate(config, step)
            try:
                measured = self.steps.step(self.engine, step, rate)
            except ArithmeticError:
                raise not_finite(step + 1, config) from None
            if not all(map(math.isfinite, measured.values())):
                raise not_finite(step + 1, config)
            add_line(metrics, rate, measured)
            done = step + 1
            now = time.perf_counter()
            if on_progress and (now - told >= PROGRESS_SECONDS or done == config.num_steps):
                told = now
                on_progress(Progress(config.num_steps, metrics.losses, now - start, first))
            if done % often == 0 or done == config.num_steps:
                if validation:
                    validation(self.engine, done)
                    metrics.held_out[done] = validation.history[-1][1]
                elif self.steps.evaluate:
                    self.steps.evaluate(self.engine)
            if self.ended or (should_stop and should_stop()):
                break
            if checkpoints and done < config.num_steps:
                checkpoints.maybe_save(metrics.losses)

    def model(self, seconds: float, finished: bool, more: dict[str, Any]) -> Model:
        """What it has come to."""
        tuning, validation = self.tuning, self.validation
        known = self.training["tuning"] | more
        if validation and validation.history:
            known["held_out"] = {
                "num_examples": self.steps.num_held_out,
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
            *(tuning.config, tuning.tokenizer, self.engine, self.metrics, training),
            tuning.documents,
        )


def add_line(metrics: Metrics, rate: float, measured: Mapping[str, float]) -> None:
    metrics.losses.append(measured["loss"])
    metrics.learning_rates.append(rate)
    for name, number in measured.items():
        if name != "loss":
            metrics.others.setdefault(name, array("d")).append(number)
