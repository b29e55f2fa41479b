"""What a program uses: train, load, and the Model that both return."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from kamon._version import __version__
from kamon.config import checked_settings, make_config, require_int
from kamon.data import corpus
from kamon.data.corpus import Corpus
from kamon.data.split import RULE_BY_BUCKET
from kamon.engines.base import initial_state
from kamon.engines.distributed import check_engine, get_group, restarted
from kamon.engines.factory import best_engine
from kamon.errors import ConfigError, StoreError
from kamon.storage.checkpoint import from_bytes, to_bytes, unpack_documents
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.load import wants_nfc
from kamon.training.early_stopping import EarlyStopping, mean_loss
from kamon.training.loop import Progress
from kamon.training.setup import ResumePoint, TrainingSetup, check_same, check_settings, shape_of

if TYPE_CHECKING:
    from pathlib import Path

    from kamon.packing.shards import Shards
    from kamon.storage.checkpoint import Checkpoint
    from kamon.training.lesson import TrainingData

from kamon.model import Model, as_model
from kamon.training.session import TrainingSession, checkpoint_interval, learn, open_writer

Learnable: TypeAlias = "Iterable[str] | str | Path | Corpus | Shards"


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
    size: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: str | int | None = None,
    init_from: str | Path | Model | None = None,
    on_start: Callable[[TrainingSetup], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Model:
    """Train a model on documents, or on a path, a built-in list or "-" as in `corpus.read`.

    Repetitions are left out, and with hold_out a tenth of the documents, chosen by their content
    (see split.py): the model is the one that did best on them, and training ends when that lies
    far behind. Of fewer than 100 different documents none is held out.

    size: tiny, small, medium, large or huge picks what `settings` leave open; "original" leaves
    them at the defaults of Config, which are those of the original microGPT. budget: the time to
    train, such as "10s" or a number of seconds, picks the size too; a busy machine takes longer.
    Without either it is medium, or smaller for a short list; original by the scalar engine. Only a
    budget's size and number of steps depend on the machine: they are in the model's config, and
    given as settings make the same model again.

    mode: "text", of the settings, learns windows from random places of the text that the documents
    are one behind the other; a text file is then one document. Where there are few documents, the
    last tenth of each is held out. Its sizes and budgets are others than those of lists.

    tokenizer: "char"; "bpe", trained on what is learned, to vocab_size tokens; a file that `kamon
    tokenizer train` wrote; or a tokenizer.

    Of several processes that torchrun started each is to call this with the same arguments; the
    first writes. One that torchrun starts again goes on with the training in `output`, if its
    settings are these.

    output: the model directory to write, in which the training is kept from time to time and at its
    end, so that `resume` can go on with it. checkpoint_every: steps as a whole number, or a time
    with its unit such as "30s"; by default so seldom that it takes a hundredth of the time or less.
    `resume` keeps to it.

    init_from: a model, or its directory, to start from: with its tokens, parameters, n_layer,
    n_embd, n_head and block_size.

    column, format, header: how to read a path or "-", as of `corpus.read`.

    settings: the fields of Config. engine, dtype, threads, device, compile: see `make_engine`.
    on_start is called once before the first step; for on_progress and should_stop see
    `trainer.pretrain`. Raises ConfigError, CorpusError, StoreError or TrainingError.

    >>> model = train(["anna", "hanna", "nora"], num_steps=3)
    >>> len(model.sample(5, seed=1)), model.metrics[0]["step"]
    (5, 1)
    """
    from kamon.training.presets import (
        ORIGINAL,
        default_size,
        max_steps,
        preset,
        seconds_of,
        set_num_steps,
        sizes_for,
        steps_for_seconds,
    )

    make_config(settings)
    settings = checked_settings(settings)
    engine = engine or best_engine()
    check_engine(engine)
    ranks = get_group()
    every = checkpoint_interval(checkpoint_every)
    seconds = None if budget is None else seconds_of(budget)
    if seconds is not None and "num_steps" in settings:
        raise ConfigError("a budget decides the number of steps: give it or num_steps, not both")
    if output is not None and restarted() and ranks.any_rank(is_unfinished(output, settings)):
        return resume(
            output,
            docs=docs,
            threads=threads,
            device=device,
            compile=compile,
            checkpoint_every=checkpoint_every,
            on_start=on_start,
            on_progress=on_progress,
            should_stop=should_stop,
            **settings,
        )
    base = None if init_from is None else as_model(init_from, "init_from")
    if base is not None:
        settings = shape_of(base.config, settings)
    with open_writer(None if ranks.rank else output, overwrite=overwrite) as writer:
        lesson = ranks.run_on_all(
            lambda: load_training_data(
                docs,
                column=column,
                format=format,
                header=header,
                mode=settings.get("mode"),
                tokenizer=tokenizer,
                vocab_size=vocab_size,
                hold_out=hold_out,
                base=base,
            )
        )
        ranks.assert_equal(lesson.summary["sha256"], "what is to be learned")
        mode = lesson.mode
        if size is not None:
            sizes = [size]
        elif seconds is None:
            sizes = [default_size(engine, lesson.chars, mode)]
        else:
            sizes = sizes_for(seconds, engine, lesson.chars, mode)
        num_docs = lesson.train_lengths.total()
        for each in sizes:
            config = make_config(preset(lesson.lengths, each, mode) | settings | {"mode": mode})
            if each != ORIGINAL:
                most = max_steps(num_docs, config.docs_per_step, seconds, mode)
                config = set_num_steps(config, settings.get("num_steps") or most, settings)
            run = lesson.prepare(
                config,
                engine=engine,
                dtype=dtype,
                threads=threads,
                device=device,
                compile=compile,
                params=base.engine.state()["params"] if base else None,
            )
            if seconds is not None:
                enough = max_steps(num_docs, config.docs_per_step, None, mode)
                steps = steps_for_seconds(
                    *(run.engine, run.docs, run.config, seconds, enough, should_stop)
                )
                run = replace(run, config=set_num_steps(run.config, steps, settings))
                stop = should_stop is not None and should_stop()
                if ranks.any_rank(steps >= enough or stop):
                    break
        validation = EarlyStopping.of(run.held_out, run.config) if lesson.hold_out else None
        training = {
            "kamon": __version__,
            "engine": engine,
            "dtype": run.engine.dtype,
            "num_cut": run.num_cut,
            "hold_out": lesson.hold_out,
            "init_from": str(init_from) if isinstance(init_from, str | PathLike) else None,
            "checkpoint_every": every,
            "corpus": lesson.summary,
        }
        course = TrainingSession(run, validation, training, lesson.documents)
        return learn(course, writer, every, on_start, on_progress, should_stop)


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
    **settings: Any,
) -> Model:
    """Go on with a training that `train` kept, as if it had never been interrupted.

    Everything it needs is in its directory; of its generations the newest that verifies is taken,
    with the same engine and dtype. Parameters, losses and samples are those of a training that was
    not interrupted, bit for bit on the same kind of machine.

    extend: so many steps more than were planned, or behind the last one of a training that is at
    its end. docs and settings change nothing: they are compared, and a ConfigError says what
    differs. For the other arguments and errors see `train`.
    """
    every = checkpoint_interval(checkpoint_every)  # before anything is read
    extend = require_int("extend", extend, 0)
    ranks = get_group()
    with open_writer(None if ranks.rank else path, go_on=True) as writer:
        # Rank 0 alone reads it, and tells the others: another machine may not see it.
        found = writer.stored if writer else None
        if ranks.size > 1:
            content = ranks.broadcast_bytes(to_bytes(found) if found else b"")
            found = found or from_bytes(content)
        assert found
        training = found.training
        check_engine(training["engine"])
        if checkpoint_every is None:
            every = training.get("checkpoint_every")
        training = training | {"checkpoint_every": every}
        if found.state is None:
            raise StoreError(
                f"{path} keeps nothing to go on with: start a new training from it (--init-from)"
            )
        if "tuning" in training:
            kind = training["tuning"]["kind"]
            raise ConfigError(f"{path} is tuned by {kind}: `kamon {kind} --resume {path}` goes on")
        check_settings(path, found.config, settings)
        lesson = ranks.run_on_all(lambda: reload_training_data(path, found, docs))
        done = len(found.metrics)
        config, metrics = found.config, found.metrics
        if training["finished"] and not extend:
            source = training["corpus"]["source"]
            raise ConfigError(
                f"{path} is at its end, behind {done:,} steps on {source}: extend it by a number "
                "of steps (--extend) to go on"
            )
        if extend:
            planned = done if training["finished"] else config.num_steps
            config = replace(config, num_steps=planned + extend)
        run = lesson.prepare(
            config,
            engine=training["engine"],
            dtype=training["dtype"],
            threads=threads,
            device=device,
            compile=compile,
            params=found.state["params"],
        )
        generation, problems = (writer.folder.name, writer.problems) if writer else ("", [])
        resumed = ResumePoint(generation, done, problems)
        run = replace(run, resumed=resumed)
        validation = EarlyStopping.of(run.held_out, config) if lesson.hold_out else None
        if validation and metrics.held_out:
            validation.best = initial_state(found.params)
            since = training.get("measured_since", 0)
            validation.history = sorted((n, x) for n, x in metrics.held_out.items() if n >= since)
            if extend:  # it looks at other documents now: of what was measured the best stays
                best = validation.best_step
                run.engine.load(validation.best)
                validation.history = [(best, mean_loss(run.engine, validation.docs))]
                earlier = {n: x for n, x in metrics.held_out.items() if n < best}
                metrics.held_out = earlier | dict(validation.history)
                training = training | {"measured_since": best}
        run.engine.load(found.state)
        if resumed.problems and on_start is None:
            text = f"going on from {resumed.generation}: {resumed.problems[0]}"
            warnings.warn(text, stacklevel=2)
        course = TrainingSession(run, validation, training, lesson.documents, metrics)
        return learn(course, writer, every, on_start, on_progress, should_stop)


def load_training_data(
    docs: Learnable,
    *,
    column: str | None,
    format: str | None,
    header: bool,
    mode: str | None,
    tokenizer: str | Path | Tokenizer,
    vocab_size: int | None,
    hold_out: bool,
    base: Model | None,
) -> TrainingData:
    """What `train` is to learn; base: the model to start from."""
    from kamon.training.lesson import list_data, packed_data

    whose = "the tokenizer"
    if base is not None:
        if tokenizer != "char" or vocab_size is not None:
            raise ConfigError("the model to start from has its tokenizer: name no other one")
        tokenizer, mode, whose = base.tokenizer, base.config.mode, "the model to start from"
    shards = shards_of(docs, column, format, header)
    if shards is not None:
        return packed_data(
            shards,
            mode=mode,
            hold_out=hold_out,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            whose=whose,
        )
    mode = mode or "documents"
    return list_data(
        corpus_of(docs, column, format, mode, header, composed=wants_nfc(tokenizer)),
        mode=mode,
        hold_out=hold_out,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        whose=whose,
    )


def reload_training_data(
    path: str | Path, found: Checkpoint, docs: Learnable | None
) -> TrainingData:
    """What a training that goes on learns: StoreError or ConfigError where it is not the same."""
    from kamon.packing.shards import open_shards
    from kamon.training.lesson import list_data, packed_data

    corpus, mode = found.training["corpus"], found.config.mode
    hold_out, shards = found.training["hold_out"], shards_of(docs)
    if "packed" in corpus:
        if docs is not None and shards is None:
            raise ConfigError(f"{path} learns a packed corpus: {docs!r:.80} is none")
        shards = shards or open_shards(corpus["packed"])
        if shards.sha256 != corpus["sha256"]:
            raise ConfigError(f"{shards.path} is not the packed corpus that {path} learns")
        return packed_data(shards, mode=mode, hold_out=hold_out, old="split" not in corpus)
    if shards is not None:
        raise ConfigError(f"{path} learns a list, and {docs} is a packed corpus")
    assert isinstance(found.documents, bytes)
    documents = unpack_documents(found.documents)
    if documents.sha256() != corpus["sha256"]:
        raise StoreError(f"{path} cannot be used: its documents are not those it learned")
    if found.tokenizer.unknown(documents.chars()):
        raise StoreError(f"{path} cannot be used: its tokens are not those of its documents")
    if docs is not None:
        given = corpus_of(docs, mode=mode, composed=found.tokenizer.composed)
        check_same(path, documents, given)
    source, rule = Corpus(corpus["source"], documents, 0, 0, 0), corpus.get("split", RULE_BY_BUCKET)
    return list_data(source, mode=mode, hold_out=hold_out, tokenizer=found.tokenizer, rule=rule)


def shards_of(
    docs: Learnable | None,
    column: str | None = None,
    format: str | None = None,
    header: bool = True,
) -> Shards | None:
    """The packed corpus that this is, or is the directory of."""
    from kamon.packing.shards import Shards, is_packed, open_shards

    if isinstance(docs, str | PathLike) and is_packed(docs):
        docs = open_shards(docs)
    if not isinstance(docs, Shards):
        return None
    if column is not None or format is not None or not header:
        raise ConfigError(
            "column, format and header say how to read a file, and this is a packed corpus"
        )
    return docs


def corpus_of(
    docs: Learnable,
    column: str | None = None,
    format: str | None = None,
    mode: str = "documents",
    header: bool = True,
    *,
    composed: bool = True,
) -> Corpus:
    if isinstance(docs, str | PathLike):
        return corpus.read(
            docs, column=column, format=format, header=header, mode=mode, composed=composed
        )
    if column is not None or format is not None or not header:
        raise ConfigError("column, format and header say how to read a file, and there is none")
    if isinstance(docs, Corpus):
        return docs
    # Shards are no list: see `shards_of`
    return corpus.from_docs(cast("Iterable[str]", docs), composed=composed)


def is_unfinished(output: str | Path, settings: dict[str, Any]) -> bool:
    """Whether a training with these settings is kept there, as rank 0 sees it, and not finished."""
    from kamon.storage import model_dir

    if get_group().rank:
        return False
    try:
        found, _, _ = model_dir.load_newest_whole(output)
        check_settings(output, found.config, settings)
    except (ConfigError, StoreError):
        return False
    return found.state is not None and not found.training["finished"]
