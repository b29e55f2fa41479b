"""The preparation of a run: choose its config, its engine and its initial parameters."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kamon.config import Config, make_config
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import BatchSource, PackedBatch
from kamon.engines.distributed import get_group
from kamon.engines.factory import EngineSpec, best_engine, device_type, num_threads
from kamon.engines.memory import check_model
from kamon.engines.parameters import init
from kamon.errors import ConfigError
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.training import presets
from kamon.training.base import BASE, SCRATCH, StartingPoint, starting_point
from kamon.training.blend import BlendedValidation, blended_validation, can_blend
from kamon.training.cross_validation import CrossValidation, Fold, cross_validate, folds_of
from kamon.training.data import ListData, TrainingData

SHAPE = ("n_layer", "n_embd", "n_head", "mode")  # fine-tuning keeps these


@dataclass(frozen=True)
class ResumePoint:
    """The checkpoint that a run resumes from, and the problems of newer ones."""

    generation: str
    num_steps_done: int
    problems: list[str]


@dataclass(frozen=True)
class TrainingSetup:
    """A run that is ready to start.

    Attributes:
        data: all that the model learns, and its validation set.
        docs: the training examples.
        rng: the random number generator, after it has made the initial parameters.
        longest: tokens of the longest document, without BOS.
        num_cut: how many documents lose their end.
        held_out: the validation set.
        start: the model whose parameters it starts from, or None for random ones.
        blended: measures the blend with an n-gram on the validation set, if there are both.
        cross_validation: the result for a short list, which has no validation set.
        stopped: whether `should_stop` ended the run before the first step.
    """

    config: Config
    data: TrainingData
    tokenizer: Tokenizer
    docs: PackedBatch | BatchSource
    engine: Engine
    rng: random.Random
    longest: int
    num_cut: int
    held_out: PackedBatch
    engine_name: str
    start: StartingPoint | None = None
    blended: BlendedValidation | None = None
    cross_validation: CrossValidation | None = None
    resumed: ResumePoint | None = None
    stopped: bool = False


def build_setup(
    data: TrainingData,
    config: Config,
    engine: EngineSpec | None = None,
    params: array[float] | None = None,
) -> TrainingSetup:
    """Return a run of this config. It tokenizes and shuffles, and makes the parameters.

    params: parameters to start from, instead of new ones.

    Raises: ConfigError, also if this machine has too little memory.
    """
    engine = engine or EngineSpec()
    config = replace(config, vocab_size=data.tokenizer.vocab_size)
    longest = max(data.train_lengths)
    held_out = data.validation_set(config)
    check_room(config, engine, longest, len(held_out))
    rng = random.Random(config.seed)
    docs = data.examples(config, rng)
    made = engine.create(config)
    made.load(initial_state(params or init(config, rng)))
    return TrainingSetup(
        config=config,
        data=data,
        tokenizer=data.tokenizer,
        docs=docs,
        engine=made,
        engine_name=engine.name or best_engine(),
        rng=rng,
        longest=longest,
        held_out=held_out,
        num_cut=num_cut(data.train_lengths, config),
    )


def choose_setup(
    data: TrainingData,
    settings: dict[str, Any],
    engine: EngineSpec,
    *,
    size: str | None,
    seconds: float | None,
    init_from: StartingPoint | str | None = None,
    blend: bool = False,
    should_stop: Callable[[], bool] | None = None,
) -> TrainingSetup:
    """Return the run of this size, or the best one for a time in seconds.

    Args:
        settings: those that the user chose. A preset chooses the others.
        init_from: a model to start from, SCRATCH, or None for the better of SCRATCH and BASE.
        blend: whether to blend the model with an n-gram, if that is possible.
    """
    stopped = False
    for candidate in candidates(data, settings, engine, size, seconds, init_from):
        config, start = candidate.config, candidate.start
        params = start.params_for(data.tokenizer, config, data.num_values) if start else None
        start = start and replace(start, params=array("d"))  # the engine has them now
        setup = replace(build_setup(data, config, engine, params), start=start)
        folds = []
        if blend and start and not data.has_validation and can_blend(data, setup.config):
            folds = folds_of(data.train_docs)
        if seconds is None:
            break
        config, enough = setup.config, candidate.enough_steps
        own = seconds / (1 + len(folds))  # the model of each fold takes the same time
        steps = presets.steps_for_seconds(
            setup.engine, setup.docs, config, own, enough, should_stop
        )
        setup = replace(
            setup, config=presets.set_num_steps(config, min(steps, config.num_steps), settings)
        )
        stopped = get_group().any_rank(should_stop is not None and should_stop())
        if stopped or get_group().any_rank(steps >= enough):
            break
    if stopped:
        return replace(setup, stopped=True)
    if folds:
        return cross_validated(data, setup, engine, folds, settings, should_stop)
    blended = blended_validation(data, setup.config, setup.held_out) if blend else None
    return replace(setup, blended=blended)


@dataclass(frozen=True)
class Candidate:
    """A run to try. enough_steps: with a budget for fewer steps, the next candidate is better."""

    config: Config
    enough_steps: int
    start: StartingPoint | None = None


def candidates(
    data: TrainingData,
    settings: dict[str, Any],
    engine: EngineSpec,
    size: str | None,
    seconds: float | None,
    init_from: StartingPoint | str | None,
) -> Iterator[Candidate]:
    """Yield the runs to try, the best one first, for the arguments of `choose_setup`."""
    name, num_docs = engine.name or best_engine(), data.train_lengths.total()
    start = init_from if isinstance(init_from, StartingPoint) else None
    if start and size is not None:
        raise ConfigError(
            f"size {size} does not apply to a model that starts from another",
            f"leave it out, or use --from {SCRATCH} (init_from in Python)",
        )
    if init_from is None and size is None and base_helps(data, settings, name, seconds):
        start = starting_point(BASE)
    if start:
        if seconds is not None and num_docs >= presets.MIN_LONG_DOCS:
            config = fine_tune_config(data, settings, start.config, seconds, long=True)
            enough = presets.MIN_LONG_EPOCHS * num_docs // config.docs_per_step
            yield Candidate(config, enough, start)
        config = fine_tune_config(data, settings, start.config, seconds)
        enough = int(presets.MIN_BASE_EPOCHS * num_docs) // config.docs_per_step
        yield Candidate(config, 0 if init_from else enough, start)
    if init_from and start:
        return
    if size is not None:
        sizes = [size]
    elif seconds is None:
        sizes = [presets.default_size(name, data.chars, data.mode)]
    else:
        sizes = presets.sizes_for(seconds, name, data.chars, data.mode)
    for each in sizes:
        config = choose_config(data, settings, each, seconds)
        yield Candidate(config, presets.max_steps(num_docs, config.docs_per_step, None, data.mode))


def base_helps(
    data: TrainingData, settings: dict[str, Any], engine: str, seconds: float | None
) -> bool:
    """Return whether the pretrained base is a good start for this data."""
    return (
        isinstance(data, ListData)
        and data.mode == "documents"
        and isinstance(data.tokenizer, CharTokenizer)
        and (not data.tokenizer.added or data.num_values > 0)
        and settings.keys().isdisjoint(SHAPE)
        and engine != "scalar"  # too slow for it
        and (seconds is not None or len(data.train_docs) <= presets.MAX_BASE_DOCS)
    )


def cross_validated(
    data: TrainingData,
    setup: TrainingSetup,
    engine: EngineSpec,
    folds: Sequence[Fold],
    settings: dict[str, Any],
    should_stop: Callable[[], bool] | None,
) -> TrainingSetup:
    """Return the run with the best number of steps by cross-validation."""
    found = cross_validate(
        folds,
        setup.tokenizer,
        setup.config,
        engine,
        setup.engine.state()["params"],
        fixed_steps="num_steps" in settings,
        should_stop=should_stop,
    )
    if found is None:
        return replace(setup, stopped=True)
    config = presets.set_num_steps(setup.config, found.num_steps, settings)
    docs = data.examples(config, random.Random(config.seed))
    return replace(setup, config=config, docs=docs, cross_validation=found)


def fine_tune_config(
    data: TrainingData,
    settings: dict[str, Any],
    base: Config,
    seconds: float | None,
    *,
    long: bool = False,
) -> Config:
    """Return the config to fine-tune a base with the user's settings."""
    settings = shape_of(base, settings)
    chosen = presets.fine_tuning_preset(data.lengths, base, long=long)
    if data.num_values and not long:
        chosen |= presets.CONDITIONAL_FINE_TUNING
    config = make_config(chosen | settings | {"mode": data.mode})
    num_docs, size = data.train_lengths.total(), config.docs_per_step
    if data.mode == "text":
        steps = presets.max_steps(num_docs, size, seconds, data.mode)
    else:
        steps = presets.fine_tuning_steps(num_docs, size, seconds is not None)
    return presets.set_num_steps(config, settings.get("num_steps") or steps, settings)


def choose_config(
    data: TrainingData, settings: dict[str, Any], size: str, seconds: float | None
) -> Config:
    """Return the config of this size, with the user's settings."""
    config = make_config(
        presets.preset(data.lengths, size, data.mode) | settings | {"mode": data.mode}
    )
    if size == presets.ORIGINAL:
        return config
    most = presets.max_steps(data.train_lengths.total(), config.docs_per_step, seconds, data.mode)
    return presets.set_num_steps(config, settings.get("num_steps") or most, settings)


def num_cut(lengths: Counter[int], config: Config) -> int:
    """Return how many documents lose their end. lengths: how many have each number of tokens."""
    if config.mode == "text" or config.long_documents != "cut":
        return 0
    return sum(number for length, number in lengths.items() if length >= config.block_size)


def check_room(config: Config, engine: EngineSpec, longest: int, num_held_out: int = 0) -> None:
    """Raise ConfigError if this machine has too little memory to train with this engine.

    longest: tokens of the longest document. num_held_out: documents or windows to validate on.
    """
    name = engine.name or best_engine()
    if device_type(name, engine.device) in ("cuda", "mps"):  # a GPU has separate memory
        return
    check_model(
        config,
        engine=name,
        real=8 if engine.dtype == "float64" else 4,
        threads=num_threads(engine.threads),
        longest=longest,
        held_out=num_held_out,
    )


def shape_of(base: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings with the shape of a model. Raises ConfigError if they differ from it."""
    for name in SHAPE:
        own = getattr(base, name)
        if settings.get(name, own) != own:
            raise ConfigError(
                f"the model to start from has {name} {own}, not {settings[name]}",
                f"leave out {name}, or use --from {SCRATCH} (init_from in Python)",
            )
    return settings | {name: getattr(base, name) for name in SHAPE}


def check_settings(path: str | Path, config: Config, settings: dict[str, Any]) -> None:
    """Raise ConfigError if a setting differs from that of the run in `path`."""
    for name, value in settings.items():
        own = getattr(make_config({}), name, None)
        if own is None:
            make_config(settings)  # raises an error about the name
        if value != getattr(config, name):
            raise ConfigError(
                f"{path} was trained with {name} {getattr(config, name)}, not {value}",
                f"leave out {name} to resume, or start a new training with --from {path} "
                "(init_from in Python)",
            )
