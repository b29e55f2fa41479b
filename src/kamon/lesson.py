"""What a training is about, a list or a packed corpus, before its settings are decided."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from os import PathLike
from typing import TYPE_CHECKING, Any

from kamon.batch import Examples, pack
from kamon.config import MAX_SIZE, Config
from kamon.corpus import Corpus
from kamon.documents import Documents
from kamon.engine import best_engine
from kamon.errors import ConfigError, CorpusError
from kamon.run import (
    Run,
    check_known,
    check_learnable,
    divide,
    make_tokenizer,
    prepare,
    started_engine,
)
from kamon.shards import Shards
from kamon.tokenizer import Tokenizer, read_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

SOME_DOCS = 10_000  # of a packed corpus, whose lengths stand for those of all
MOST_TESTED_TOKENS = 4_000_000  # of what a packed corpus holds out


@dataclass(frozen=True)
class Lesson:
    """What is learned.

    documents: those that the model keeps; none of a packed corpus. summary: of it, as a model keeps
    it. learned, lengths: how many documents have so many tokens without BOS, of those to learn
    from, and of all. prepare: makes a Run for a Config, as `run.prepare` does.
    """

    mode: str
    tokenizer: Tokenizer
    documents: Documents
    summary: dict[str, Any]
    learned: Counter[int]
    lengths: Counter[int]
    hold_out: bool
    prepare: Callable[..., Run]


def lesson_of_list(
    source: Corpus,
    *,
    mode: str,
    hold_out: bool,
    tokenizer: str | Path | Tokenizer = "char",
    vocab_size: int | None = None,
    whose: str = "the tokenizer",
) -> Lesson:
    """A list, divided; CorpusError where it has nothing to teach, or what the tokenizer, called
    `whose`, does not know."""
    check_learnable(source, mode)
    different = source.different
    learned, held_out = divide(different, hold_out, mode)
    made = make_tokenizer(tokenizer, learned, held_out, vocab_size)
    check_known(source, made, whose)
    lengths = made.lengths(learned)
    return Lesson(
        mode=mode,
        tokenizer=made,
        documents=different,
        summary=source.summary() | {"sha256": different.sha256()},
        learned=lengths,
        lengths=lengths + made.lengths(held_out),
        hold_out=bool(held_out),
        prepare=partial(
            prepare,
            replace(source, docs=learned),
            held_out=held_out,
            tokenizer=made,
            lengths=lengths,
        ),
    )


def lesson_of_shards(
    shards: Shards,
    *,
    mode: str | None,
    hold_out: bool,
    tokenizer: str | Path | Tokenizer = "char",
    vocab_size: int | None = None,
    whose: str = "the tokenizer",
) -> Lesson:
    """A packed corpus. mode: as it was packed, if None.

    ConfigError where it was packed in another way than is asked for.
    """
    path, packed = shards.path, shards.mode
    if mode == "documents" and packed == "text":
        raise ConfigError(f"{path} is packed as text: learn it as that, or pack it as documents")
    if tokenizer != "char":
        known = read_tokenizer(tokenizer) if isinstance(tokenizer, str | PathLike) else tokenizer
        if known.to_json() != shards.tokenizer.to_json():
            raise ConfigError(f"{path} is packed with another tokenizer than {whose}")
    if vocab_size is not None:
        raise ConfigError(f"vocab_size cannot be set: {path} is packed with its tokenizer")
    num_docs = shards.num_docs("train")
    if not hold_out and shards.num_docs("held_out"):
        raise ConfigError(
            f"{path} has documents held out: `kamon pack --all` makes shards without any"
        )
    if not num_docs:
        raise CorpusError(f"{path} holds nothing to learn from")
    some = shards.documents("train", MAX_SIZE, 0).take(0, min(num_docs, SOME_DOCS))
    lengths = Counter(end - begin - 2 for begin, end in pairwise(some.offsets))
    return Lesson(
        mode=mode or packed,
        tokenizer=shards.tokenizer,
        documents=Documents.of([]),
        summary={
            "source": str(path),
            "num_docs": num_docs + shards.num_docs("held_out"),
            "num_tokens": shards.num_tokens("train") + shards.num_tokens("held_out"),
            "packed": str(path.resolve()),
            "sha256": shards.sha256,
        },
        learned=lengths,
        lengths=lengths,
        hold_out=hold_out and bool(shards.num_docs("held_out")),
        prepare=partial(prepare_packed, shards),
    )


def prepare_packed(
    shards: Shards,
    config: Config,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    params: array[float] | None = None,
) -> Run:
    """As `run.prepare`; the order of documents is that of `Shards.documents`."""
    size = config.block_size
    config = replace(config, vocab_size=shards.tokenizer.vocab_size)
    docs: Examples
    if config.mode == "text":
        size = min(size, shards.num_tokens("train") - 1)
        docs = shards.windows("train", size, config.seed)
    elif config.long_documents == "windows":
        raise ConfigError(
            f"long_documents = windows is not for packed documents: pack {shards.path} as text"
        )
    else:
        docs = shards.documents("train", size, config.seed)
    most = max(1, MOST_TESTED_TOKENS // size)
    if config.mode == "text":
        held_out = shards.consecutive("held_out", size, most)
    elif num_docs := shards.num_docs("held_out"):
        held_out = shards.documents("held_out", size, config.seed).take(0, min(num_docs, most))
    else:
        held_out = pack([])
    rng = random.Random(config.seed)
    made = started_engine(
        *(config, rng, params, size, len(held_out)),
        engine=engine,
        dtype=dtype,
        threads=threads,
        device=device,
        compile=compile,
    )
    return Run(
        config=config,
        tokenizer=shards.tokenizer,
        docs=docs,
        engine=made,
        engine_name=engine or best_engine(),
        rng=rng,
        longest=size,
        held_out=held_out,
        num_cut=0,
    )
