"""What a program uses: train, load, and the Model that both return."""

from __future__ import annotations

import math
import reprlib
import time
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import kamon
from kamon import corpus
from kamon.config import Config, checked_int, checked_settings, make_config
from kamon.contents import from_bytes, to_bytes, unpack_documents
from kamon.corpus import Corpus
from kamon.documents import Documents
from kamon.engine import Engine, State, best_engine, is_fast, make_engine, untrained
from kamon.errors import ConfigError, StoreError, TrainingError
from kamon.metrics import Metrics
from kamon.model import num_params
from kamon.ranks import check_engine, here, restarted
from kamon.run import Resumed, Run, check_same, check_settings, divide_as, shape_of
from kamon.sampler import SampleRequest
from kamon.split import BY_PART
from kamon.tokenizer import Tokenizer, wants_composed
from kamon.trainer import Checkpoints, Progress, learning_rate, not_finite, pretrain
from kamon.validation import Validation, mean_loss

if TYPE_CHECKING:
    from pathlib import Path

    from kamon.conditions import Found
    from kamon.contents import Stored
    from kamon.lesson import Lesson
    from kamon.shards import Shards
    from kamon.store import Writer

Learnable: TypeAlias = "Iterable[str] | str | Path | Corpus | Shards"
MOST_TESTED = 20_000  # in the end, of a short training
USUAL_LENGTH = 16  # tokens of a document, of which so many are tested
MOST_TESTED_SLOWLY = 500  # by the scalar engine, which takes seconds for so many


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model: `sample` new documents, `save` it.

    metrics: step, loss (nats per token) and learning_rate of each step, and held_out_loss of some;
    training: what it was trained on, with which engine, and how far.

    Several threads may use one model: each gets what it would get by itself. It can be copied, and
    sent to another process by pickle; it equals no model but itself.
    """

    config: Config
    tokenizer: Tokenizer
    engine: Engine
    metrics: Metrics = field(repr=False)
    training: dict[str, Any]
    documents: bytes | Documents = field(repr=False)  # bytes as they are stored

    def __repr__(self) -> str:
        source, steps = self.training["corpus"]["source"], len(self.metrics)
        return f"<Model of {source}: {self.num_params:,} parameters, {steps:,} steps>"

    @cached_property
    def docs(self) -> Documents:
        """The different documents of its list: those learned from, and those held out; none of a
        packed corpus."""
        if "packed" in self.training["corpus"]:
            return Documents.of([])
        if isinstance(self.documents, Documents):
            return self.documents
        return unpack_documents(self.documents)

    def parts(self) -> tuple[Documents, Documents]:
        """(learned, held out) of its documents, as in training."""
        return divide_as(self.training, self.docs, self.config.mode)

    @property
    def writes_text(self) -> bool:
        """Whether it has learned a text, which has no end, and not documents."""
        return self.config.mode == "text"

    def check_documents(self, what: str) -> None:
        """ConfigError where this is a model of text; what: that needs documents, with their end."""
        if self.writes_text:
            raise ConfigError(f"{what}, which have an end, and this model has learned a text")

    @property
    def num_params(self) -> int:
        return num_params(self.config)

    def sample(
        self,
        n: int = 1,
        *,
        temperature: float | None = None,
        seed: int | None = None,
        **conditions: Any,
    ) -> list[str]:
        """n new documents. Sample i depends on (seed, i) and the model alone, not on n.

        By default the temperature and seed of the Config; temperature 0 is the likeliest token each
        time. A document as long as block_size is one that the model did not end.

        conditions: the fields of `kamon.conditions.Conditions`, such as prefix="an", max_len=6,
        novel=True; of a model of text, length in tokens (500). Where too few documents fulfil
        them, there are fewer than n samples.
        """
        return self.find(n, temperature=temperature, seed=seed, **conditions).texts

    def find(
        self,
        n: int = 1,
        *,
        temperature: float | None = None,
        seed: int | None = None,
        should_stop: Callable[[int], bool] = lambda tried: False,  # noqa: ARG005
        **conditions: Any,
    ) -> Found:
        """What `sample` returns, with each sample's number and how many were looked at.

        should_stop: of documents under conditions, see `kamon.conditions.find`.
        """
        from kamon.conditions import Found, find, make_conditions

        n = checked_int("the number of samples", n, 0)
        given: dict[str, Any] = {"temperature": temperature, "seed": seed}
        config = replace(self.config, **{k: v for k, v in given.items() if v is not None})
        request = SampleRequest(n, config.temperature, config.seed, self.tokenizer.bos)
        chosen = make_conditions(conditions)
        if chosen.novel and "packed" in self.training["corpus"]:
            raise ConfigError(
                "the model does not keep the documents of its packed corpus, so it cannot tell "
                "which samples are new: leave out novel"
            )
        if self.writes_text:
            from kamon.continuation import write

            return Found(write(self.engine, self.tokenizer, request, chosen), range(n), n)
        return find(self.engine, self.tokenizer, request, chosen, lambda: self.docs, should_stop)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model directory. StoreError where the path is taken or cannot be written."""
        from kamon import store

        store.save(path, stored(self, self.engine.state()["params"]), overwrite=overwrite)


def stored(model: Model, params: array[float], state: State | None = None) -> Stored:
    """What is kept of a model with these parameters; with `state`, its training can go on."""
    from kamon.contents import Stored

    return Stored(
        *(model.config, model.tokenizer, params, model.metrics, model.training, model.documents),
        state,
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
    size: str | None = None,
    output: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: str | int | None = None,
    init_from: str | Path | Model | None = None,
    on_start: Callable[[Run], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Model:
    """Train a model on documents, or on a path, a built-in list or "-" as in `corpus.read`.

    Repetitions are left out, and with hold_out a tenth of the documents, chosen by their content
    (`kamon.split`): the model is the one that did best on them, and training ends when that lies
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
    from kamon.budget import (
        ORIGINAL,
        default_size,
        recipe,
        seconds_of,
        sizes_for,
        steps_at_most,
        steps_for_seconds,
        with_steps,
    )

    make_config(settings)
    settings = checked_settings(settings)
    engine = engine or best_engine()
    check_engine(engine)
    ranks = here()
    every = interval(checkpoint_every)
    seconds = None if budget is None else seconds_of(budget)
    if seconds is not None and "num_steps" in settings:
        raise ConfigError("a budget decides the number of steps: give it or num_steps, not both")
    if output is not None and restarted() and ranks.any(is_under_way(output, settings)):
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
    base = None if init_from is None else loaded(init_from, "init_from")
    if base is not None:
        settings = shape_of(base.config, settings)
    with directory(None if ranks.rank else output, overwrite=overwrite) as writer:
        lesson = ranks.all(
            lambda: lesson_of(
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
        ranks.agree(lesson.summary["sha256"], "what is to be learned")
        mode = lesson.mode
        if size is not None:
            sizes = [size]
        elif seconds is None:
            sizes = [default_size(engine, lesson.chars, mode)]
        else:
            sizes = sizes_for(seconds, engine, lesson.chars, mode)
        num_docs = lesson.learned.total()
        for each in sizes:
            config = make_config(recipe(lesson.lengths, each, mode) | settings | {"mode": mode})
            if each != ORIGINAL:
                most = steps_at_most(num_docs, config.docs_per_step, seconds, mode)
                config = with_steps(config, settings.get("num_steps") or most, settings)
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
                enough = steps_at_most(num_docs, config.docs_per_step, None, mode)
                steps = steps_for_seconds(
                    *(run.engine, run.docs, run.config, seconds, enough, should_stop)
                )
                run = replace(run, config=with_steps(run.config, steps, settings))
                stop = should_stop is not None and should_stop()
                if ranks.any(steps >= enough or stop):
                    break
        validation = Validation.of(run.held_out, run.config) if lesson.hold_out else None
        training = {
            "kamon": kamon.__version__,
            "engine": engine,
            "dtype": run.engine.dtype,
            "num_cut": run.num_cut,
            "hold_out": lesson.hold_out,
            "init_from": str(init_from) if isinstance(init_from, str | PathLike) else None,
            "checkpoint_every": every,
            "corpus": lesson.summary,
        }
        course = Course(run, validation, training, lesson.documents)
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
    on_start: Callable[[Run], None] | None = None,
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
    every = interval(checkpoint_every)  # before anything is read
    extend = checked_int("extend", extend, 0)
    ranks = here()
    with directory(None if ranks.rank else path, go_on=True) as writer:
        # Rank 0 alone reads it, and tells the others: another machine may not see it.
        found = writer.stored if writer else None
        if ranks.size > 1:
            content = ranks.send(to_bytes(found) if found else b"")
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
        lesson = ranks.all(lambda: lesson_again(path, found, docs))
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
        resumed = Resumed(generation, done, problems)
        run = replace(run, resumed=resumed)
        validation = Validation.of(run.held_out, config) if lesson.hold_out else None
        if validation and metrics.held_out:
            validation.best = untrained(found.params)
            since = training.get("measured_since", 0)
            validation.records = sorted((n, x) for n, x in metrics.held_out.items() if n >= since)
            if extend:  # it looks at other documents now: of what was measured the best stays
                best = validation.best_step
                run.engine.load(validation.best)
                validation.records = [(best, mean_loss(run.engine, validation.docs))]
                earlier = {n: x for n, x in metrics.held_out.items() if n < best}
                metrics.held_out = earlier | dict(validation.records)
                training = training | {"measured_since": best}
        run.engine.load(found.state)
        if resumed.problems and on_start is None:
            text = f"going on from {resumed.generation}: {resumed.problems[0]}"
            warnings.warn(text, stacklevel=2)
        course = Course(run, validation, training, lesson.documents, metrics)
        return learn(course, writer, every, on_start, on_progress, should_stop)


@dataclass
class Course:
    """A training under way. training: what is known of it from the start."""

    run: Run
    validation: Validation | None
    training: dict[str, Any]
    documents: Documents
    metrics: Metrics = field(default_factory=Metrics)

    def model(self, *, seconds: float, finished: bool, held_out: dict[str, Any] | None) -> Model:
        """What it has come to; the engine need not stand at the best step."""
        run, metrics = self.run, self.metrics
        for step in range(len(metrics.learning_rates), len(metrics.losses)):
            metrics.learning_rates.append(learning_rate(run.config, step))
        if self.validation:  # in float64 a probability may be too small for its logarithm
            finite = ((step, loss) for step, loss in self.validation.records if loss < math.inf)
            metrics.held_out.update(finite)
        training = self.training | {
            "num_steps_done": len(metrics),
            "seconds": round(self.training.get("seconds", 0.0) + seconds, 3),
            "finished": finished,
            "held_out": held_out,
        }
        return Model(run.config, run.tokenizer, run.engine, metrics, training, self.documents)


def learn(
    course: Course,
    writer: Writer | None,
    every: int | float | None,
    on_start: Callable[[Run], None] | None,
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
        if validation and validation.records:
            held_out = {
                "num_docs": len(validation.docs),
                "loss": min(loss for _, loss in validation.records),
                "best_step": validation.best_step,
                "over_fitted": False,
            }
        seconds = time.perf_counter() - start
        model = course.model(seconds=seconds, finished=False, held_out=held_out)
        if writer:
            writer.save(stored(model, best["params"], state))

    checkpoints = Checkpoints(keep, every) if writer else None
    pretrain(
        *(run.engine, run.docs, run.config, on_progress, should_stop),
        *(validation, checkpoints, losses),
    )
    state = run.engine.state()
    exhausted = validation is not None and validation.exhausted
    tested = held_out_figures(run, validation, losses) if validation and losses else None
    model = course.model(
        seconds=time.perf_counter() - start,
        finished=len(losses) == run.config.num_steps or exhausted,
        held_out=tested,
    )
    if writer and losses:
        writer.save(stored(model, run.engine.state()["params"], state))
    return model


def held_out_figures(run: Run, validation: Validation, losses: array[float]) -> dict[str, Any]:
    """Go back to the best model, and what is known of it."""
    over_fitted = validation.finish(run.engine, len(losses))
    least = MOST_TESTED if is_fast(run.engine) else MOST_TESTED_SLOWLY
    most = max(least, len(losses) * run.config.docs_per_step // 4)
    # As many tokens, however long the documents are.
    length = max(1.0, run.held_out.num_targets / len(run.held_out) / USUAL_LENGTH)
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


def lesson_of(
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
) -> Lesson:
    """What `train` is to learn; base: the model to start from."""
    from kamon.lesson import lesson_of_list, lesson_of_shards

    whose = "the tokenizer"
    if base is not None:
        if tokenizer != "char" or vocab_size is not None:
            raise ConfigError("the model to start from has its tokenizer: name no other one")
        tokenizer, mode, whose = base.tokenizer, base.config.mode, "the model to start from"
    shards = shards_of(docs, column, format, header)
    if shards is not None:
        return lesson_of_shards(
            shards,
            mode=mode,
            hold_out=hold_out,
            tokenizer=tokenizer,
            vocab_size=vocab_size,
            whose=whose,
        )
    mode = mode or "documents"
    return lesson_of_list(
        corpus_of(docs, column, format, mode, header, composed=wants_composed(tokenizer)),
        mode=mode,
        hold_out=hold_out,
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        whose=whose,
    )


def lesson_again(path: str | Path, found: Stored, docs: Learnable | None) -> Lesson:
    """What a training that goes on learns: StoreError or ConfigError where it is not the same."""
    from kamon.lesson import lesson_of_list, lesson_of_shards
    from kamon.shards import open_shards

    corpus, mode = found.training["corpus"], found.config.mode
    hold_out, shards = found.training["hold_out"], shards_of(docs)
    if "packed" in corpus:
        if docs is not None and shards is None:
            raise ConfigError(f"{path} learns a packed corpus: {docs!r:.80} is none")
        shards = shards or open_shards(corpus["packed"])
        if shards.sha256 != corpus["sha256"]:
            raise ConfigError(f"{shards.path} is not the packed corpus that {path} learns")
        return lesson_of_shards(shards, mode=mode, hold_out=hold_out, old="split" not in corpus)
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
    source, rule = Corpus(corpus["source"], documents, 0, 0, 0), corpus.get("split", BY_PART)
    return lesson_of_list(
        source, mode=mode, hold_out=hold_out, tokenizer=found.tokenizer, rule=rule
    )


def shards_of(
    docs: Learnable | None,
    column: str | None = None,
    format: str | None = None,
    header: bool = True,
) -> Shards | None:
    """The packed corpus that this is, or is the directory of."""
    from kamon.shards import Shards, is_packed, open_shards

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


@contextmanager
def directory(
    output: str | Path | None, *, overwrite: bool = False, go_on: bool = False
) -> Iterator[Writer | None]:
    """Of the model, held while it is learned; None where it is not to be written."""
    if output is None:
        yield None
        return
    from kamon import store

    with store.writing(output, overwrite=overwrite, go_on=go_on) as writer:
        yield writer


def is_under_way(output: str | Path, settings: dict[str, Any]) -> bool:
    """Whether a training with these settings is kept there, as rank 0 sees it, and not finished."""
    from kamon import store

    if here().rank:
        return False
    try:
        found, _, _ = store.load_newest_whole(output)
        check_settings(output, found.config, settings)
    except (ConfigError, StoreError):
        return False
    return found.state is not None and not found.training["finished"]


def interval(every: str | int | None, name: str = "checkpoint_every") -> int | float | None:
    """Steps as an int, seconds as a float. ConfigError for what is neither.

    every: a whole number is steps, text with a unit is a time. No other number is either: 30.0
    could be meant as 30 steps or as 30 seconds. name: of the argument.
    """
    from kamon.budget import seconds_of

    if every is None:
        return None
    if isinstance(every, str) and every.strip()[-1:] in ("s", "m", "h"):
        return seconds_of(every, name)
    try:
        return checked_int(name, int(every) if isinstance(every, str) else every, 1)
    except (ConfigError, ValueError):
        raise ConfigError(
            f"{name} must be a whole number of steps, such as 30, or a time with its unit, such as "
            f'"30s", not {reprlib.repr(every)}'
        ) from None


def loaded(model: Model | str | Path, what: str = "the model", **how: Any) -> Model:
    """The model itself, or the one in this directory. ConfigError for what is neither.

    how: of `load`.
    """
    if isinstance(model, str | PathLike):
        return load(model, **how)
    if not isinstance(model, Model):
        raise ConfigError(f"{what} must be a model or its directory, not {reprlib.repr(model)}")
    return model


def load(
    path: str | Path,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
) -> Model:
    """The model that `Model.save` or `kamon train -o` wrote.

    StoreError if it is not there or damaged.
    """
    from kamon import store

    stored = here().all(partial(store.load, path))
    made = make_engine(
        engine, stored.config, dtype=dtype, threads=threads, device=device, compile=compile
    )
    made.load(untrained(stored.params))
    if not all(map(math.isfinite, made.decoder().push(stored.tokenizer.bos))):
        raise StoreError(
            f"{path} cannot be used: its parameters are too large to compute with in {made.dtype}"
        )
    return Model(
        *(stored.config, stored.tokenizer, made, stored.metrics, stored.training, stored.documents)
    )
