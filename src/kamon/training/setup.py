"""Everything decided before the first step: which documents, which tokens, which settings."""

from __future__ import annotations

import os
import random
from array import array
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest
from os import PathLike
from typing import TYPE_CHECKING, Any

from kamon.config import Config, make_config, suggestion
from kamon.data.corpus import Corpus
from kamon.data.documents import Documents
from kamon.data.split import (
    MIN_DOCS,
)
from kamon.data.text_windows import TextWindows, consecutive, in_windows, stream
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import BatchSource, PackedBatch
from kamon.engines.factory import best_engine, device_type, make_engine, num_threads
from kamon.engines.memory import check_model
from kamon.engines.parameters import init
from kamon.errors import ConfigError, CorpusError
from kamon.tokenizers.base import BPE_VOCAB, Tokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import read_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

MIN_CHARS = 1_000  # of a text
NONE_HELD_OUT = f"no document is held out, since there are fewer than {MIN_DOCS} different ones"


@dataclass(frozen=True)
class ResumePoint:
    """Where a training goes on: a generation's name and steps; what is wrong with newer ones."""

    generation: str
    num_steps_done: int
    problems: list[str]


@dataclass(frozen=True)
class TrainingSetup:
    """Everything decided before the first step; `rng` stands where initialising left it.

    docs: as many of the shuffled documents as the steps will reach, or windows; longest: of all
    documents, in tokens without BOS; num_cut: those that lost their end.
    """

    config: Config
    tokenizer: Tokenizer
    docs: PackedBatch | BatchSource
    engine: Engine
    rng: random.Random
    longest: int
    num_cut: int
    held_out: PackedBatch
    engine_name: str
    resumed: ResumePoint | None = None


def build_setup(
    source: Corpus,
    config: Config,
    *,
    held_out: Iterable[str] = (),
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    tokenizer: Tokenizer | None = None,
    lengths: Counter[int] | None = None,
    params: array[float] | None = None,
) -> TrainingSetup:
    """Shuffle the documents, tokenize, cut the long ones, initialise: in this order.

    A document fits if it has fewer tokens than block_size; num_cut others lose their end, or are
    learned in windows, as config.long_documents says. In text mode there are windows alone, of the
    documents in their own order. held_out: documents to test on; the tokenizer knows their
    characters, too. tokenizer, params: to begin with, in place of new ones. lengths: of the
    source's documents by this tokenizer, where they are known.
    """
    rng = random.Random(config.seed)
    apart = Documents.of(held_out)
    tokenizer = tokenizer or make_tokenizer("char", source.docs, apart, None)
    config = replace(config, vocab_size=tokenizer.vocab_size)
    text = config.mode == "text"
    docs = source.docs if text else source.docs.shuffled(rng)
    lengths = lengths or tokenizer.lengths(source.docs)
    longest = max(lengths)
    made = create_engine(
        *(config, rng, params, longest, len(apart)),
        engine=engine,
        dtype=dtype,
        threads=threads,
        device=device,
        compile=compile,
    )
    if not text and config.long_documents == "cut":
        # The documents after the last step are never looked at.
        docs = docs[: config.num_steps * config.docs_per_step]
    return TrainingSetup(
        config=config,
        tokenizer=tokenizer,
        docs=examples(tokenizer, docs, config),
        engine=made,
        engine_name=engine or best_engine(),
        rng=rng,
        longest=longest,
        held_out=validation_batch(tokenizer, apart, config),
        num_cut=num_cut(lengths, config),
    )


def num_cut(lengths: Counter[int], config: Config) -> int:
    """How many documents lose their end. lengths: how many have so many tokens."""
    if config.mode == "text" or config.long_documents != "cut":
        return 0
    return sum(number for length, number in lengths.items() if length >= config.block_size)


def create_engine(
    config: Config,
    rng: random.Random,
    params: array[float] | None,
    longest: int,
    num_held_out: int,
    *,
    engine: str | None,
    dtype: str | None,
    threads: int | None,
    device: str | None,
    compile: bool,
) -> Engine:
    """An engine with `params`, or new ones drawn from `rng`. ConfigError where memory lacks.

    longest: of the documents, in tokens; num_held_out: how many documents or windows are.
    """
    check_room(config, engine or best_engine(), dtype, threads, device, longest, num_held_out)
    params = params or init(config, rng)
    made = make_engine(engine, config, dtype=dtype, threads=threads, device=device, compile=compile)
    made.load(initial_state(params))
    return made


def check_room(
    config: Config,
    engine: str,
    dtype: str | None,
    threads: int | None,
    device: str | None,
    longest: int,
    num_held_out: int = 0,
) -> None:
    """ConfigError if this machine has not the memory to train by an engine on its device; see
    `create_engine`."""
    if device_type(engine, device) in ("cuda", "mps"):  # which have memory of their own
        return
    check_model(
        config,
        engine=engine,
        real=8 if dtype == "float64" else 4,
        threads=num_threads(threads),
        longest=longest,
        held_out=num_held_out,
    )


def examples(tokenizer: Tokenizer, docs: Documents, config: Config) -> PackedBatch | BatchSource:
    """What the steps learn from, of documents in the order of their turn."""
    if config.mode == "text":
        tokens = stream(tokenizer.encode_documents(docs))
        return TextWindows(tokens, config.block_size, config.seed)
    if config.long_documents == "windows":
        found = tokenizer.encode_documents(docs)
        return in_windows(found, config.block_size, random.Random(config.seed))
    return tokenizer.encode_documents(docs, config.block_size)


def validation_batch(tokenizer: Tokenizer, docs: Documents, config: Config) -> PackedBatch:
    """Documents held out, or all windows of them, in an order that favours no part of them."""
    rng = random.Random(config.seed)
    if config.mode == "text" and docs:
        windows = consecutive(stream(tokenizer.encode_documents(docs)), config.block_size)
        order = list(range(len(windows)))
        rng.shuffle(order)
        return windows.select(order)
    docs = docs.shuffled(rng)
    if config.long_documents == "windows":
        return in_windows(tokenizer.encode_documents(docs), config.block_size, rng)
    return tokenizer.encode_documents(docs, config.block_size)


def check_learnable(source: Corpus, mode: str = "documents") -> None:
    """Refuse a list, or a text, that has nothing to teach."""
    different = source.different
    if mode == "text":
        lengths = different.lengths()
        check_enough(source.source, sum(length * number for length, number in lengths.items()))
    else:
        check_varied(source.source, len(source.docs), len(different) > 1, different.chars())


def check_enough(source: str, num_chars: int) -> None:
    """CorpusError for a text that is too short to learn from."""
    if num_chars < MIN_CHARS:
        raise CorpusError(
            f"{source} has {num_chars:,} characters: a text to learn from has {MIN_CHARS:,} or more"
        )


def check_varied(source: str, num_docs: int, differ: bool, chars: Collection[str]) -> None:
    """CorpusError for documents that do not differ, or have one character only."""
    if not differ:
        what = "one document" if num_docs == 1 else "one document again and again"
        raise CorpusError(f"{source} holds {what}: there is nothing to learn but to repeat it")
    if len(chars) == 1:
        raise CorpusError(
            f"the documents of {source} all consist of one character, {min(chars)!r}: "
            "there is nothing to learn but their length"
        )


SHAPE = ("n_layer", "n_embd", "n_head", "block_size", "mode")


def shape_of(base: Config, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of a model's shape. ConfigError where they contradict it."""
    for name in SHAPE:
        own = getattr(base, name)
        if settings.get(name, own) != own:
            raise ConfigError(
                f"the model to start from has {name} {own}, not {settings[name]}: leave that out"
            )
    return settings | {name: getattr(base, name) for name in SHAPE}


def make_tokenizer(
    wanted: str | Path | Tokenizer, learned: Documents, held_out: Documents, vocab_size: int | None
) -> Tokenizer:
    """The tokenizer that `api.train` is asked for; ConfigError where there is none such."""
    if wanted == "bpe":
        from kamon.tokenizers.bpe import BytePairTokenizer

        return BytePairTokenizer.train(learned, BPE_VOCAB if vocab_size is None else vocab_size)
    if vocab_size is not None:
        raise ConfigError(
            "vocab_size cannot be set: it is the tokenizer's number of tokens, to be chosen for a "
            "new one of type bpe alone"
        )
    if wanted == "char":
        return CharTokenizer(sorted(learned.chars() | held_out.chars()), composed=True)
    if not isinstance(wanted, str | PathLike):
        return wanted
    if not os.path.exists(wanted):
        known = suggestion(str(wanted), ["char", "bpe"])
        raise ConfigError(f"there is no tokenizer and no file {wanted}{known}")
    return read_tokenizer(wanted)


def check_known(source: Corpus, tokenizer: Tokenizer, whose: str) -> None:
    """CorpusError for characters that the tokenizer, named in the sentence as `whose`, lacks."""
    unknown = sorted(tokenizer.unknown(source.docs.chars()))
    if unknown:
        shown = "".join(unknown[:10])
        raise CorpusError(
            f"{source.source} has characters that {whose} does not know "
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
