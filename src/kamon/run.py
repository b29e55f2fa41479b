"""Everything decided before the first step: which documents, which tokens, which settings."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from kamon.batch import Batch
from kamon.config import Config, make_config
from kamon.corpus import Corpus
from kamon.documents import Documents
from kamon.engine import Engine, best_engine, checked_threads, make_engine, untrained
from kamon.errors import ConfigError, CorpusError
from kamon.memory import check_model
from kamon.model import init
from kamon.split import split
from kamon.tokenizer import CharTokenizer, Tokenizer

if TYPE_CHECKING:
    from pathlib import Path

MIN_HELD_OUT = 10  # documents: fewer tell nothing


@dataclass(frozen=True)
class Resumed:
    """Where a training goes on: a generation's name and steps; what is wrong with newer ones."""

    generation: str
    num_steps_done: int
    problems: list[str]


@dataclass(frozen=True)
class Run:
    """Everything decided before the first step; `rng` stands where initialising left it.

    docs: as many of the shuffled documents as the steps will reach; longest: of all, in characters.
    """

    config: Config
    tokenizer: Tokenizer
    docs: Batch
    engine: Engine
    rng: random.Random
    longest: int
    num_cut: int
    held_out: Batch
    engine_name: str
    resumed: Resumed | None = None


def prepare(
    source: Corpus,
    config: Config,
    *,
    held_out: Iterable[str] = (),
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    tokenizer: Tokenizer | None = None,
    params: array[float] | None = None,
) -> Run:
    """Shuffle the documents, tokenize, cut the long ones, initialise: in this order.

    A document fits if it has fewer characters than block_size; num_cut others lose their end.
    held_out: documents to test on; the tokenizer knows their characters, too. tokenizer, params: to
    begin with, in place of new ones.
    """
    rng = random.Random(config.seed)
    docs = source.docs.shuffled(rng)
    apart = Documents.of(held_out)
    tested = apart.shuffled(random.Random(config.seed))
    tokenizer = tokenizer or CharTokenizer(sorted(source.docs.chars() | apart.chars()))
    config = replace(config, vocab_size=tokenizer.vocab_size)
    size = config.block_size
    lengths = source.docs.lengths()
    needed = docs[: config.num_steps * config.docs_per_step]  # the others are never looked at
    check_model(
        config,
        scalar=(engine or best_engine()) == "scalar",
        real=8 if dtype == "float64" else 4,
        threads=checked_threads(threads),
        longest=max(lengths),
        held_out=len(apart),
    )
    params = params or init(config, rng)
    made = make_engine(engine, config, dtype=dtype, threads=threads)
    made.load(untrained(params))
    return Run(
        config=config,
        tokenizer=tokenizer,
        docs=tokenizer.encode_documents(needed, size),
        engine=made,
        engine_name=engine or best_engine(),
        rng=rng,
        longest=max(lengths),
        held_out=tokenizer.encode_documents(tested, size),
        num_cut=sum(number for length, number in lengths.items() if length >= size),
    )


def divide(docs: Iterable[str], hold_out: bool = True) -> tuple[Documents, Documents]:
    """(learned, held out) of the different documents: `split`, where both have MIN_HELD_OUT."""
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


SHAPE = ("n_layer", "n_embd", "n_head", "block_size")


def shape_of(base: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of a model's shape. ConfigError where they contradict it."""
    for name in SHAPE:
        own = getattr(base, name)
        if settings.get(name, own) != own:
            raise ConfigError(
                f"the model to start from has {name} {own}, not {settings[name]}: leave that out"
            )
    return settings | {name: getattr(base, name) for name in SHAPE}


def check_known(source: Corpus, tokenizer: Tokenizer) -> None:
    unknown = sorted(tokenizer.unknown(source.docs.chars()))
    if unknown:
        shown = "".join(unknown[:10])
        raise CorpusError(
            f"{source.source} has characters that the model to start from does not know "
            f"({shown!r}{f' and {len(unknown) - 10:,} more' if len(unknown) > 10 else ''}): "
            "leave those documents out, or start anew"
        )


def check_settings(path: str | Path, config: Config, settings: dict[str, Any]) -> None:
    """ConfigError for a setting that is not what the training has."""
    for name, value in settings.items():
        own = getattr(make_config({}), name, None)
        if own is None:
            make_config(settings)  # says what is wrong with the name
        if value != getattr(config, name):
            raise ConfigError(
                f"{path} is trained with {name} {getattr(config, name)}, not {value}: leave that "
                "out to go on, or start a new training from it (--init-from)"
            )


def check_same(path: str | Path, documents: Documents, docs: Corpus) -> None:
    """ConfigError where these are not the documents that are learned."""
    given = docs.different
    if given.sha256() == documents.sha256():
        return
    pairs = zip_longest(documents, given)
    place, (own, other) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    raise ConfigError(
        f"{docs.source} is not the list that {path} learns: it has {len(given):,} different "
        f"documents, not {len(documents):,}; the first that differs is number {place}, {other!r} "
        f"for {own!r}"
    )
