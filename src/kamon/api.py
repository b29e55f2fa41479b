"""What a program uses: train, load, and the Model that both return."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import kamon
from kamon import corpus
from kamon.batch import Batch
from kamon.config import Config, make_config
from kamon.corpus import Corpus
from kamon.documents import Documents
from kamon.engine import (
    Engine,
    best_engine,
    checked_threads,
    is_fast,
    make_engine,
    untrained,
)
from kamon.errors import ConfigError, CorpusError, TrainingError
from kamon.memory import check_model
from kamon.model import init, num_params
from kamon.sampler import SampleRequest
from kamon.tokenizer import CharTokenizer
from kamon.trainer import Progress, learning_rate, pretrain
from kamon.validation import Validation, mean_loss

if TYPE_CHECKING:
    from pathlib import Path

    from kamon.conditions import Found

MIN_HELD_OUT = 10  # documents: fewer tell nothing
MOST_TESTED = 20_000  # in the end, of a short training
MOST_TESTED_SLOWLY = 500  # by the scalar engine, which takes seconds for so many


@dataclass(frozen=True)
class Model:
    """A trained model: `sample` new documents, `save` it.

    metrics: step, loss (nats per token) and learning_rate of each step, and held_out_loss of some;
    training: what it was trained on, with which engine, and how far.
    """

    config: Config
    tokenizer: CharTokenizer
    engine: Engine
    metrics: list[dict[str, float]]
    training: dict[str, Any]
    documents: bytes | Documents = field(repr=False)  # bytes as they are stored

    @cached_property
    def docs(self) -> Documents:
        """The different documents of its list: those learned from, and those held out."""
        if isinstance(self.documents, Documents):
            return self.documents
        from kamon.store import unpack_documents

        return unpack_documents(self.documents)

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
        novel=True. Where too few documents fulfil them, there are fewer than n samples.
        """
        return self.find(n, temperature=temperature, seed=seed, **conditions).texts

    def find(
        self,
        n: int = 1,
        *,
        temperature: float | None = None,
        seed: int | None = None,
        **conditions: Any,
    ) -> Found:
        """What `sample` returns, with each sample's number and how many were looked at."""
        from kamon.conditions import find, make_conditions

        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise ConfigError(f"the number of samples must be a whole number, 0 or more, not {n!r}")
        given: dict[str, Any] = {"temperature": temperature, "seed": seed}
        config = replace(self.config, **{k: v for k, v in given.items() if v is not None})
        request = SampleRequest(n, config.temperature, config.seed, self.tokenizer.bos)
        chosen = make_conditions(conditions)
        return find(self.engine, self.tokenizer, request, chosen, lambda: self.docs)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model directory. StoreError where the path is taken or cannot be written."""
        from kamon import store

        params = self.engine.state()["params"]
        stored = store.Stored(
            *(self.config, self.tokenizer, params, self.metrics, self.training, self.documents)
        )
        store.save(path, stored, overwrite=overwrite)


@dataclass(frozen=True)
class Run:
    """Everything decided before the first step; `rng` stands where initialising left it.

    docs: as many of the shuffled documents as the steps will reach; longest: of all, in characters.
    """

    config: Config
    tokenizer: CharTokenizer
    docs: Batch
    engine: Engine
    rng: random.Random
    longest: int
    num_cut: int
    held_out: Batch


def prepare(
    source: Corpus,
    config: Config,
    *,
    held_out: Iterable[str] = (),
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> Run:
    """Shuffle the documents, tokenize, cut the long ones, initialise: in this order.

    A document fits if it has fewer characters than block_size; num_cut others lose their end.
    held_out: documents to test on; the tokenizer knows their characters, too.
    """
    rng = random.Random(config.seed)
    docs = source.docs.shuffled(rng)
    apart = Documents.of(held_out)
    tested = apart.shuffled(random.Random(config.seed))
    tokenizer = CharTokenizer(sorted(source.docs.chars() | apart.chars()))
    config = replace(config, vocab_size=tokenizer.vocab_size)
    size = config.block_size
    lengths = source.docs.lengths()
    needed = docs[: config.num_steps * config.batch_size]  # the others are never looked at
    check_model(
        config,
        scalar=(engine or best_engine()) == "scalar",
        real=8 if dtype == "float64" else 4,
        threads=checked_threads(threads),
        longest=max(lengths),
        held_out=len(apart),
    )
    params = init(config, rng)
    made = make_engine(engine, config, dtype=dtype, threads=threads)
    made.load(untrained(params))
    return Run(
        config=config,
        tokenizer=tokenizer,
        docs=tokenizer.encode_documents(needed, size),
        engine=made,
        rng=rng,
        longest=max(lengths),
        held_out=tokenizer.encode_documents(tested, size),
        num_cut=sum(number for length, number in lengths.items() if length >= size),
    )


def train(
    docs: Iterable[str] | str | Path | Corpus,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    column: str | None = None,
    format: str | None = None,
    hold_out: bool = True,
    budget: str | float | None = None,
    size: str | None = None,
    on_start: Callable[[Run], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Model:
    """Train a model on documents, or on a path, a built-in list or "-" as in `corpus.read`.

    Repetitions are left out, and with hold_out a tenth of the documents, chosen by their content
    (`kamon.split`): the model is the one that did best on them, and training ends when that lies
    far behind. Where those would be fewer than MIN_HELD_OUT, none is held out.

    budget: the time to train, such as "10s" or a number of seconds; size: tiny, small, medium,
    large or huge; either picks what `settings` leave open. Only a budget's number of steps depends
    on the machine: it is in the model's config, and given as num_steps makes the same model again.

    settings: the fields of Config. engine, dtype, threads: see `make_engine`. on_start is called
    once before the first step; for on_progress and should_stop see `trainer.pretrain`. Raises
    ConfigError, CorpusError or TrainingError.

    >>> model = train(["anna", "hanna", "nora"], num_steps=3)
    >>> len(model.sample(5, seed=1)), model.metrics[0]["step"]
    (5, 1)
    """
    from kamon.budget import recipe, seconds_of, steps_for_passes, steps_for_seconds, with_steps

    config = make_config(settings)
    seconds = None if budget is None else seconds_of(budget)
    if seconds is not None and "num_steps" in settings:
        raise ConfigError("a budget decides the number of steps: give it or num_steps, not both")
    if isinstance(docs, str | PathLike):
        source = corpus.read(docs, column=column, format=format)
    elif column is not None or format is not None:
        raise ConfigError("column and format say how to read a file, and there is none")
    elif isinstance(docs, Corpus):
        source = docs
    else:
        source = corpus.from_docs(docs)
    check_learnable(source)
    learned, held_out = divide(source.different, hold_out)
    engine = engine or best_engine()
    chosen = replace(source, docs=learned)
    if seconds is not None or size is not None:
        config = make_config(recipe(source.different.lengths(), size, seconds) | settings)
        if "num_steps" not in settings:
            steps = steps_for_passes(len(learned), config.batch_size)
            config = with_steps(config, steps, settings)
    run = prepare(chosen, config, held_out=held_out, engine=engine, dtype=dtype, threads=threads)
    if seconds is not None:
        steps = steps_for_seconds(run.engine, run.docs, run.config, seconds)
        run = replace(run, config=with_steps(run.config, steps, settings))
    if on_start:
        on_start(run)
    start = time.perf_counter()
    validation = Validation.of(run.held_out, run.config) if held_out else None
    losses = pretrain(run.engine, run.docs, run.config, on_progress, should_stop, validation)
    metrics = [
        {"step": step + 1, "loss": loss, "learning_rate": learning_rate(run.config, step)}
        for step, loss in enumerate(losses)
    ]
    tested = held_out_figures(run, validation, metrics) if validation and losses else None
    return Model(
        config=run.config,
        tokenizer=run.tokenizer,
        engine=run.engine,
        metrics=metrics,
        training={
            "kamon": kamon.__version__,
            "engine": engine,
            "dtype": run.engine.dtype,
            "num_steps_done": len(losses),
            "seconds": round(time.perf_counter() - start, 3),
            "num_cut": run.num_cut,
            "held_out": tested,
            "corpus": source.summary(),
        },
        documents=source.different,
    )


def held_out_figures(
    run: Run, validation: Validation, metrics: list[dict[str, float]]
) -> dict[str, Any]:
    """Go back to the best model, and what is known of it; its losses go into `metrics`."""
    over_fitted = validation.finish(run.engine)
    for step, loss in validation.records:
        if math.isfinite(loss):  # in float64 a probability may be too small for its logarithm
            metrics[step - 1]["held_out_loss"] = loss
    least = MOST_TESTED if is_fast(run.engine) else MOST_TESTED_SLOWLY
    most = max(least, len(metrics) * run.config.batch_size // 4)
    docs = run.held_out.select(range(min(len(run.held_out), most)))
    loss = mean_loss(run.engine, docs)
    if not math.isfinite(loss):
        raise TrainingError(
            "the model gives documents held out no probability: "
            f"a smaller learning_rate than {run.config.learning_rate:g}, or std, may help"
        )
    return {
        "num_docs": len(docs),
        "loss": loss,
        "best_step": validation.best_step or len(metrics),
        "over_fitted": over_fitted,
    }


def divide(docs: Iterable[str], hold_out: bool = True) -> tuple[Documents, Documents]:
    """(learned, held out) of the different documents: `split`, where both have MIN_HELD_OUT."""
    from kamon.split import split

    different = Documents.of(docs).different()
    if hold_out:
        learned, held_out = split(different)
        if len(held_out) >= MIN_HELD_OUT and len(learned) >= MIN_HELD_OUT:
            return learned, held_out
    return different, Documents.of([])


def check_learnable(source: Corpus) -> None:
    """Refuse a list that has nothing to teach."""
    different = source.different
    if len(different) == 1:
        what = "one document" if len(source.docs) == 1 else "one document again and again"
        raise CorpusError(
            f"{source.source} holds {what}: there is nothing to learn but to repeat it"
        )
    chars = different.chars()
    if len(chars) == 1:
        raise CorpusError(
            f"the documents of {source.source} all consist of one character, {chars.pop()!r}: "
            "there is nothing to learn but their length"
        )


def load(
    path: str | Path,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
) -> Model:
    """The model that `Model.save` or `kamon train -o` wrote.

    StoreError if it is not there or damaged.
    """
    from kamon import store

    stored = store.load(path)
    made = make_engine(engine, stored.config, dtype=dtype, threads=threads)
    made.load(untrained(stored.params))
    return Model(
        *(stored.config, stored.tokenizer, made, stored.metrics, stored.training, stored.documents)
    )
