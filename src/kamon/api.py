"""`train` and `resume`: read the options, load the data, choose config and engine, run, save."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Unpack

from kamon.config import Config, Settings, checked_settings, make_config, require_int
from kamon.data.columns import Columns
from kamon.engines.base import initial_state
from kamon.engines.distributed import check_engine, get_group, restarted
from kamon.engines.factory import EngineSpec, best_engine
from kamon.errors import ConfigError, StoreError
from kamon.model import Model
from kamon.storage import model_dir
from kamon.storage.checkpoint import Checkpoint
from kamon.storage.metrics import Metrics
from kamon.storage.model_dir import CheckpointWriter
from kamon.tokenizers.base import Tokenizer
from kamon.training.base import BASE, SCRATCH, StartingPoint, starting_point
from kamon.training.blend import BlendLosses, blended_validation
from kamon.training.conditional import load_conditional_data, reload_conditional_data
from kamon.training.data import (
    DataOptions,
    Learnable,
    TrainingData,
    load_training_data,
    reload_training_data,
)
from kamon.training.early_stopping import EarlyStopping
from kamon.training.loop import Progress
from kamon.training.options import Callbacks, RunOptions, checkpoint_interval
from kamon.training.presets import ORIGINAL, seconds_of
from kamon.training.session import TrainingSession, open_writer, start_record
from kamon.training.setup import (
    ResumePoint,
    TrainingSetup,
    build_setup,
    check_settings,
    choose_setup,
)


def train(
    docs: Learnable,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    column: str | None = None,
    format: str | None = None,
    header: bool = True,
    tokenizer: str | Path | Tokenizer = "char",
    vocab_size: int | None = None,
    hold_out: bool = True,
    budget: str | float | None = None,
    size: Literal["tiny", "small", "medium", "large", "huge", "original"] | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: str | int | None = None,
    init_from: str | Path | Model | None = None,
    blend: bool = True,
    given: str | Sequence[str] | None = None,
    weight: str | None = None,
    on_start: Callable[[TrainingSetup], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Unpack[Settings],
) -> Model:
    """Train a model on documents, or on a path, a built-in list or "-" as in `corpus.read`.

    Kamon drops duplicates. With hold_out it sets aside a tenth of the documents as a validation
    set, chosen by their content (see split.py). It keeps the checkpoint with the lowest validation
    loss and stops early when the loss stops improving. A list of fewer than 100 unique documents
    has no validation set.

    If torchrun starts several processes, each must call this with the same arguments. The first
    one writes. A process that torchrun restarts resumes the training in `output`, if the settings
    are the same.

    Args:
        size: tiny, small, medium, large or huge. It chooses the settings that you do not give.
            "original" leaves them at the defaults of Config, which are those of the original
            microGPT. The default is medium, or smaller for a short list. With the scalar engine
            it is original.
        budget: the time to train, such as "10s" or a number of seconds. It chooses the size and
            the number of steps, which depend on the machine. To make the same model again, give
            the settings of its config instead.
        mode: one of the settings. "text" trains on windows from random places of the joined
            documents, and a text file is one document. If there are few documents, the validation
            set is the last tenth of each. Sizes and budgets differ from those of lists.
        tokenizer: "char", "bpe", a file that `kamon tokenizer train` wrote, or a tokenizer. "bpe"
            is trained on the training set until it has vocab_size tokens.
        output: the model directory. Checkpoints are saved there during training and at its end, so
            that `resume` can continue.
        checkpoint_every: steps as a whole number, or a time with its unit such as "30s". By
            default, saving takes at most 1% of the time. `resume` keeps this interval.
        init_from: "base" (the pretrained base that Kamon ships), "scratch" (random parameters), a
            model or its directory. Kamon keeps the tokens of a model and adds those that it lacks.
            By default a list of up to 20,000 documents starts from the base, unless you give a
            size or a shape.
        blend: mix the probabilities of the GPT with those of an n-gram of the list. The weight is
            the best one for documents that neither was trained on. Kamon does not blend models of
            a text or a packed corpus, of the size "original" or of the scalar engine.
        given: columns of a table, such as ["country", "sex"]. The model then learns the entries of
            `column` under each combination of their values. docs: a path, a list of mappings or a
            DataFrame.
        weight: a column of numbers above 0 that say how often each row counts.
        column, format, header: how to read a path or "-", see `corpus.read`.
        settings: the fields of Config.
        engine, dtype, threads, device, compile: see `make_engine`.
        on_start: a function that Kamon calls once before the first step.
        on_progress, should_stop: see `pretrain`.

    Raises: ConfigError, CorpusError, StoreError or TrainingError.

    >>> model = train(["anna", "hanna", "nora"], num_steps=3)
    >>> len(model.sample(5, seed=1)), model.metrics[0]["step"]
    (5, 1)
    """
    make_config(settings)
    chosen = checked_settings(settings)
    engine = engine or best_engine()
    check_engine(engine)
    spec = EngineSpec(engine, dtype, threads, device, compile)
    callbacks = Callbacks(on_start, on_progress, should_stop)
    options = RunOptions(output, overwrite, checkpoint_interval(checkpoint_every), callbacks)
    seconds = None if budget is None else seconds_of(budget)
    if seconds is not None and "num_steps" in chosen:
        raise ConfigError(
            "a budget decides the number of steps", "give budget or num_steps, not both"
        )
    group = get_group()
    if output is not None and restarted() and group.any_rank(is_unfinished(output, chosen)):
        return resume_run(options, spec, docs=docs, settings=chosen)
    start = None if init_from is None else starting_point(init_from)
    columns = given_columns(column, given, weight)
    options_of_data = DataOptions(docs, column, format, header, tokenizer, vocab_size, hold_out)
    with open_writer(options) as writer:
        data = group.run_on_all(
            lambda: load_data(options_of_data, columns, chosen.get("mode"), start)
        )
        group.assert_equal(data.record.sha256, "the training set")
        setup = choose_setup(
            data,
            chosen,
            spec,
            size=size,
            seconds=seconds,
            init_from=None if init_from is None else start or SCRATCH,
            blend=blend and size != ORIGINAL and engine != "scalar",
            should_stop=should_stop,
        )
        training = start_record(setup, options.checkpoint_every)
        validation = None
        if data.has_validation:
            averages = data.num_values > 0
            validation = EarlyStopping.of(
                setup.held_out, setup.config, setup.blended, averages=averages
            )
        session = TrainingSession(setup, validation, training, data.documents)
        return session.run(options, writer)


def given_columns(
    column: str | None, given: str | Sequence[str] | None, weight: str | None
) -> Columns | None:
    """Return the columns of a conditional model, or None for a model of a list."""
    if given is None and weight is None:
        return None
    names = (given,) if isinstance(given, str) else tuple(given or ())
    return Columns(column, names, weight)


def load_data(
    options: DataOptions,
    columns: Columns | None,
    mode: str | None,
    start: StartingPoint | None,
) -> TrainingData:
    """Return what `train` learns: a table if there are given columns."""
    if columns is None:
        return load_training_data(options, mode, start)
    if start is not None and start.name != BASE:
        raise ConfigError(
            "a conditional model cannot start from another model", f"use --from {BASE} or {SCRATCH}"
        )
    return load_conditional_data(options, columns, mode)


def resume(
    path: str | Path,
    *,
    extend: int = 0,
    docs: Learnable | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    checkpoint_every: str | int | None = None,
    on_start: Callable[[TrainingSetup], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Unpack[Settings],
) -> Model:
    """Resume a training that `train` saved, as if it had never been interrupted.

    Kamon continues from the newest intact checkpoint in the directory, with the same engine and
    dtype. On the same kind of machine the result equals that of an uninterrupted training bit for
    bit.

    Args:
        extend: the number of steps to make in addition to those planned or finished.
        docs, settings: Kamon compares them with those of the training. A difference raises
            ConfigError.

    For the other arguments and errors see `train`.
    """
    extend = require_int("extend", extend, 0)
    callbacks = Callbacks(on_start, on_progress, should_stop)
    every = checkpoint_interval(checkpoint_every)
    options = RunOptions(os.fspath(path), checkpoint_every=every, callbacks=callbacks)
    spec = EngineSpec(threads=threads, device=device, compile=compile)
    return resume_run(options, spec, docs=docs, settings=dict(settings), extend=extend)


def resume_run(
    options: RunOptions,
    engine: EngineSpec,
    *,
    docs: Learnable | None,
    settings: dict[str, Any],
    extend: int = 0,
) -> Model:
    """Return the model of the run in `options.output` after its remaining steps."""
    path = options.output
    assert path is not None
    group = get_group()
    with open_writer(options, resume=True) as writer:
        checkpoint = newest_checkpoint(writer)
        state, training, metrics = checkpoint.state, checkpoint.training, checkpoint.metrics
        check_engine(training.engine)
        check_resumable(path, checkpoint)
        assert state is not None
        check_settings(path, checkpoint.config, settings)
        reload = reload_conditional_data if training.given else reload_training_data
        data = group.run_on_all(lambda: reload(path, checkpoint, docs))
        config = planned_config(path, checkpoint, extend)
        engine = replace(engine, name=training.engine, dtype=training.dtype)
        setup = build_setup(data, config, engine, state["params"])
        generation, problems = (writer.folder.name, writer.problems) if writer else ("", [])
        blended = None
        if training.blend and data.has_validation:
            blended = blended_validation(data, config, setup.held_out)
        resumed = ResumePoint(generation, len(metrics), problems)
        setup = replace(setup, blended=blended, resumed=resumed)
        if options.checkpoint_every is None:
            options = replace(options, checkpoint_every=training.checkpoint_every)
        training = training | {"checkpoint_every": options.checkpoint_every}
        validation = None
        if data.has_validation:
            averages = data.num_values > 0
            validation = EarlyStopping.of(setup.held_out, config, blended, averages=averages)
            training |= restore_validation(validation, checkpoint, setup, extend)
        setup.engine.load(state)
        if problems and options.callbacks.on_start is None:
            warnings.warn(f"resuming from {generation}: {problems[0]}", stacklevel=3)
        session = TrainingSession(setup, validation, training, data.documents, metrics)
        return session.run(options, writer)


def newest_checkpoint(writer: CheckpointWriter | None) -> Checkpoint:
    """Return the checkpoint to resume from. Rank 0 reads it and sends it to the others."""
    group = get_group()
    checkpoint = writer.stored if writer else None
    if group.size > 1:
        checkpoint = pickle.loads(group.broadcast_bytes(pickle.dumps(checkpoint)))
    assert checkpoint
    return checkpoint


def check_resumable(path: str | Path, checkpoint: Checkpoint) -> None:
    """Raise StoreError or ConfigError if `resume` cannot continue this run."""
    if checkpoint.state is None:
        raise StoreError(
            f"{path} has no checkpoint to resume from",
            f"start a new training from it with `kamon train LIST --from {path}` "
            "(init_from in Python)",
        )
    if kind := checkpoint.training.kind:
        raise ConfigError(
            f"{path} was fine-tuned with {kind}", f"resume it with `kamon {kind} --resume {path}`"
        )


def planned_config(path: str | Path, checkpoint: Checkpoint, extend: int) -> Config:
    """Return the config of the run with `extend` more steps than planned."""
    config, training = checkpoint.config, checkpoint.training
    done, finished = len(checkpoint.metrics), training.finished
    if finished and not extend:
        source = training.corpus.source
        raise ConfigError(
            f"{path} has finished its {done:,} steps on {source}",
            "train it for more steps with --extend STEPS (extend=STEPS in Python)",
        )
    if not extend:
        return config
    return replace(config, num_steps=(done if finished else config.num_steps) + extend)


def restore_validation(
    validation: EarlyStopping, checkpoint: Checkpoint, setup: TrainingSetup, extend: int
) -> dict[str, Any]:
    """Give `validation` the history and the best model of the run. Return changes of the record.

    An extended run validates on other documents. So it measures the best model again and drops the
    rest of the history.
    """
    metrics: Metrics = checkpoint.metrics
    if not metrics.held_out:
        return {}
    validation.best, validation.mean = initial_state(checkpoint.params), checkpoint.reference_params
    validation.best_losses = BlendLosses.of_records(checkpoint.training)
    since = checkpoint.training.measured_since
    validation.history = sorted((n, x) for n, x in metrics.held_out.items() if n >= since)
    if not extend:
        return {}
    best = validation.best_step
    setup.engine.load(validation.best)
    validation.history = []
    validation(setup.engine, best)
    earlier = {n: x for n, x in metrics.held_out.items() if n < best}
    metrics.held_out = earlier | dict(validation.history)
    return {"measured_since": best}


def is_unfinished(output: str | Path, settings: dict[str, Any]) -> bool:
    """Return whether rank 0 finds an unfinished training with these settings in `output`."""
    if get_group().rank:
        return False
    try:
        found, _, _ = model_dir.load_newest_whole(output)
        check_settings(output, found.config, settings)
    except (ConfigError, StoreError):
        return False
    return found.state is not None and not found.training.finished
