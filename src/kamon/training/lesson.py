"""What a training is about, a list or a packed corpus, before its settings are decided."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any

from kamon.config import Config
from kamon.data.corpus import Corpus
from kamon.data.documents import Documents
from kamon.data.split import RULE, divide
from kamon.engines.batch import BatchSource, pack_sequences
from kamon.engines.factory import best_engine
from kamon.errors import ConfigError, CorpusError
from kamon.packing.shards import SPLITS, Shards
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import read_tokenizer
from kamon.training.setup import (
    TrainingSetup,
    build_setup,
    check_enough,
    check_known,
    check_learnable,
    check_varied,
    create_engine,
    make_tokenizer,
    num_cut,
)

if TYPE_CHECKING:
    from pathlib import Path

MAX_EVAL_TOKENS = 4_000_000  # of what a packed corpus holds out


@dataclass(frozen=True)
class TrainingData:
    """What is learned.

    documents: those that the model keeps; none of a packed corpus. summary: of it, as a model keeps
    it. learned, lengths: how many documents have so many tokens without BOS, of those to learn
    from, and of all; chars: of a text, how many to learn from have so many characters. prepare:
    makes a Run for a Config, as `run.prepare` does.
    """

    mode: str
    tokenizer: Tokenizer
    documents: Documents
    summary: dict[str, Any]
    train_lengths: Counter[int]
    lengths: Counter[int]
    chars: Counter[int]
    hold_out: bool
    prepare: Callable[..., TrainingSetup]


def list_data(
    source: Corpus,
    *,
    mode: str,
    hold_out: bool,
    tokenizer: str | Path | Tokenizer = "char",
    vocab_size: int | None = None,
    whose: str = "the tokenizer",
    rule: int = RULE,
) -> TrainingData:
    """A list, divided by this rule of `split`; CorpusError where it has nothing to teach, or what
    the tokenizer, called `whose`, does not know."""
    check_learnable(source, mode)
    different = source.different
    learned, held_out = divide(different, hold_out, mode, rule)
    made = make_tokenizer(tokenizer, learned, held_out, vocab_size)
    check_known(source, made, whose)
    lengths = made.lengths(learned)
    return TrainingData(
        mode=mode,
        tokenizer=made,
        documents=different,
        summary=source.summary() | {"sha256": different.sha256(), "split": rule},
        train_lengths=lengths,
        lengths=lengths + made.lengths(held_out),
        chars=learned.lengths() if mode == "text" else lengths,
        hold_out=bool(held_out),
        prepare=partial(
            build_setup,
            replace(source, docs=learned),
            held_out=held_out,
            tokenizer=made,
            lengths=lengths,
        ),
    )


def packed_data(
    shards: Shards,
    *,
    mode: str | None,
    hold_out: bool,
    tokenizer: str | Path | Tokenizer = "char",
    vocab_size: int | None = None,
    whose: str = "the tokenizer",
    old: bool = False,
) -> TrainingData:
    """A packed corpus. mode: as it was packed, if None. old: of `prepare_packed`.

    ConfigError where it was packed in another way than is asked for, CorpusError where it has
    nothing to teach.
    """
    path, packed = shards.path, shards.mode
    if mode == "documents" and packed == "text":
        raise ConfigError(f"{path} is packed as text: learn it as that, or pack it as documents")
    if tokenizer == "bpe":
        same = not isinstance(shards.tokenizer, CharTokenizer)
    else:  # "char" where none is named
        known = shards.tokenizer if tokenizer == "char" else tokenizer
        known = read_tokenizer(known) if isinstance(known, str | PathLike) else known
        same = known.to_json() == shards.tokenizer.to_json()
    if not same:
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
    mode = mode or packed
    if not old:
        check_packed(shards, mode)
    lengths = shards.lengths("train")
    return TrainingData(
        mode=mode,
        tokenizer=shards.tokenizer,
        documents=Documents.of([]),
        summary={
            "source": str(path),
            "num_docs": shards.num_packed,
            "num_tokens": shards.num_tokens("train") + shards.num_tokens("held_out"),
            "packed": str(path.resolve()),
            "sha256": shards.sha256,
            "split": shards.rule,
        },
        train_lengths=lengths,
        lengths=lengths + shards.lengths("held_out"),
        chars=Counter([shards.num_chars("train")]) if mode == "text" else lengths,
        hold_out=hold_out and bool(shards.num_docs("held_out")),
        prepare=partial(prepare_packed, shards, lengths, old=old),
    )


def check_packed(shards: Shards, mode: str) -> None:
    """`run.check_learnable` of a packed corpus."""
    path = str(shards.path)
    if mode == "text":
        check_enough(path, sum(map(shards.num_chars, SPLITS)))
        return
    docs = (
        shards.tokenizer.decode(shards.document(part, number)[1:-1])
        for part in SPLITS
        for number in range(shards.num_docs(part))
    )
    first = next(docs)
    chars, differ = set(first), False
    for doc in docs:
        chars.update(doc)
        differ = differ or doc != first
        if differ and len(chars) > 1:
            return
    check_varied(path, sum(map(shards.num_docs, SPLITS)), differ, chars)


def prepare_packed(
    shards: Shards,
    lengths: Counter[int],
    config: Config,
    *,
    old: bool,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    params: array[float] | None = None,
) -> TrainingSetup:
    """As `run.prepare`; the order of documents is that of `Shards.documents`.

    lengths: of those to learn from. old: for a training that was begun when the windows held out
    were looked at in their order; it goes on with the same ones.
    """
    size, longest = config.block_size, max(lengths)
    config = replace(config, vocab_size=shards.tokenizer.vocab_size)
    docs: BatchSource
    if config.mode == "text":
        size = min(size, shards.num_tokens("train") - 1)
        docs = shards.windows("train", size, config.seed)
    elif config.long_documents == "windows":
        raise ConfigError(
            f"long_documents = windows is not for packed documents: pack {shards.path} as text"
        )
    else:
        docs = shards.documents("train", size, config.seed)
    most = max(1, MAX_EVAL_TOKENS // size)
    if config.mode == "text":
        held_out = shards.consecutive("held_out", size if old else config.block_size, most)
        if not old:
            order = list(range(len(held_out)))
            random.Random(config.seed).shuffle(order)
            held_out = held_out.select(order)
    elif num_docs := shards.num_docs("held_out"):
        held_out = shards.documents("held_out", size, config.seed).get(0, min(num_docs, most))
    else:
        held_out = pack_sequences([])
    rng = random.Random(config.seed)
    made = create_engine(
        *(config, rng, params, longest, len(held_out)),
        engine=engine,
        dtype=dtype,
        threads=threads,
        device=device,
        compile=compile,
    )
    return TrainingSetup(
        config=config,
        tokenizer=shards.tokenizer,
        docs=docs,
        engine=made,
        engine_name=engine or best_engine(),
        rng=rng,
        longest=longest,
        held_out=held_out,
        num_cut=num_cut(lengths, config),
    )
