"""The data of a training: a list or a packed corpus, with its tokenizer and its split."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias, cast

from kamon.config import Config, suggestion
from kamon.data import corpus
from kamon.data.columns import DataFrame, Table
from kamon.data.corpus import Corpus
from kamon.data.documents import Documents
from kamon.data.graphemes import clusters_to_keep
from kamon.data.split import RULE, divide
from kamon.data.text_windows import TextWindows, consecutive, in_windows, stream
from kamon.engines.batch import BatchSource, PackedBatch, pack_sequences
from kamon.errors import ConfigError, CorpusError, StoreError
from kamon.packing.shards import SPLITS, Shards, is_packed, open_shards
from kamon.storage.checkpoint import Checkpoint, unpack_documents
from kamon.storage.records import CorpusRecord
from kamon.tokenizers.base import BPE_VOCAB, Tokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import read_tokenizer, wants_nfc
from kamon.training.base import StartingPoint

Tabular: TypeAlias = "Table | DataFrame | Iterable[Mapping[str, Any]]"
Learnable: TypeAlias = "Iterable[str] | str | Path | Corpus | Shards | Tabular"
MIN_CHARS = 1_000  # in a text
MAX_EVAL_TOKENS = 4_000_000  # in the validation set of a packed corpus


@dataclass(frozen=True)
class DataOptions:
    """The arguments of `train` about its data: what it is, and how to read it."""

    docs: Learnable | None
    column: str | None = None
    format: str | None = None
    header: bool = True
    tokenizer: str | Path | Tokenizer = "char"
    vocab_size: int | None = None
    hold_out: bool = True


@dataclass(frozen=True)
class TrainingData(ABC):
    """Documents with their tokenizer, divided into a training set and a validation set.

    documents: those that the model stores. A model of a packed corpus stores none.
    record: the record of the corpus in the model directory.
    train_lengths, lengths: how many documents have each number of tokens, without BOS. The first
        one counts the training set, the second one all documents.
    chars: how many documents of the training set have each number of characters, for a text.
    has_validation: whether there is a validation set.
    """

    mode: str
    tokenizer: Tokenizer
    documents: Documents
    record: CorpusRecord
    train_lengths: Counter[int]
    lengths: Counter[int]
    chars: Counter[int]
    has_validation: bool

    @property
    def num_values(self) -> int:
        """The tokens of given values that each document begins with, instead of BOS."""
        return 0

    @abstractmethod
    def examples(self, config: Config, rng: random.Random) -> PackedBatch | BatchSource:
        """Return the training examples in the order of the steps."""

    @abstractmethod
    def validation_set(self, config: Config) -> PackedBatch:
        """Return the validation set in an order that favours no part of it."""


@dataclass(frozen=True)
class ListData(TrainingData):
    """A list or a text in memory."""

    train_docs: Documents
    validation_docs: Documents = field(default_factory=lambda: Documents.of([]))

    def examples(self, config: Config, rng: random.Random) -> PackedBatch | BatchSource:
        """Return the documents or their windows, shuffled, or windows of the text."""
        if config.mode == "text":
            tokens = stream(self.tokenizer.encode_documents(self.train_docs))
            return TextWindows(tokens, config.block_size, config.seed)
        docs = self.train_docs.shuffled(rng)
        if config.long_documents == "windows":
            batch = self.tokenizer.encode_documents(docs)
            return in_windows(batch, config.block_size, random.Random(config.seed))
        docs = docs[: config.num_steps * config.docs_per_step]  # the steps need no more
        return self.tokenizer.encode_documents(docs, config.block_size)

    def validation_set(self, config: Config) -> PackedBatch:
        return validation_batch(self.tokenizer, self.validation_docs, config)


def validation_batch(tokenizer: Tokenizer, docs: Documents, config: Config) -> PackedBatch:
    """Return these documents, or all windows of them, in random order."""
    rng = random.Random(config.seed)
    if config.mode == "text" and docs:
        windows = consecutive(stream(tokenizer.encode_documents(docs)), config.block_size)
        return shuffled_windows(windows, rng)
    docs = docs.shuffled(rng)
    if config.long_documents == "windows":
        return in_windows(tokenizer.encode_documents(docs), config.block_size, rng)
    return tokenizer.encode_documents(docs, config.block_size)


@dataclass(frozen=True)
class PackedData(TrainingData):
    """A packed corpus, read from its shards.

    in_order: whether the validation windows keep their order, as in earlier versions of Kamon.
    """

    shards: Shards
    in_order: bool = False

    def examples(self, config: Config, rng: random.Random) -> BatchSource:  # noqa: ARG002
        """Return the documents in the order of `Shards.documents`, or windows of the text."""
        size = self.block_size(config)
        if config.mode == "text":
            return self.shards.windows("train", size, config.seed)
        if config.long_documents == "windows":
            raise ConfigError(
                "long_documents = windows does not apply to packed documents",
                f"pack {self.shards.path} as text",
            )
        return self.shards.documents("train", size, config.seed)

    def validation_set(self, config: Config) -> PackedBatch:
        size = self.block_size(config)
        most = max(1, MAX_EVAL_TOKENS // size)
        if config.mode != "text":
            count = min(self.shards.num_docs("held_out"), most)
            if not count:
                return pack_sequences([])
            return self.shards.documents("held_out", size, config.seed).get(0, count)
        if self.in_order:
            return self.shards.consecutive("held_out", size, most)
        windows = self.shards.consecutive("held_out", config.block_size, most)
        return shuffled_windows(windows, random.Random(config.seed))

    def block_size(self, config: Config) -> int:
        """Return the number of tokens in a window. It is limited by the training set."""
        if config.mode != "text":
            return config.block_size
        return min(config.block_size, self.shards.num_tokens("train") - 1)


def shuffled_windows(windows: PackedBatch, rng: random.Random) -> PackedBatch:
    order = list(range(len(windows)))
    rng.shuffle(order)
    return windows.select(order)


# ---- from the arguments of `train`


def load_training_data(
    options: DataOptions, mode: str | None = None, start: StartingPoint | None = None
) -> TrainingData:
    """Return the data that these options name.

    mode: that of the settings, or None. start: a model to start from, which keeps its tokens.

    Raises: ConfigError, CorpusError.
    """
    tokenizer, whose = options.tokenizer, "the tokenizer"
    if start is not None:
        if tokenizer != "char" or options.vocab_size is not None:
            raise ConfigError(
                "a model that starts from another keeps its tokenizer", "leave out the tokenizer"
            )
        tokenizer, mode, whose = start.tokenizer, start.config.mode, "the model to start from"
    shards = shards_of(options)
    if shards is not None:
        check_tokenizer(shards, tokenizer, options.vocab_size, whose)
        return packed_data(shards, mode=mode, hold_out=options.hold_out)
    mode = mode or "documents"
    source = corpus_of(options, mode, composed=wants_nfc(tokenizer))
    if start is not None:
        tokenizer = start.tokenizer_for(source.different)
    return list_data(
        source,
        mode=mode,
        hold_out=options.hold_out,
        tokenizer=tokenizer,
        vocab_size=options.vocab_size,
        whose=whose,
    )


def reload_training_data(
    path: str | Path, checkpoint: Checkpoint, docs: Learnable | None
) -> TrainingData:
    """Return the data of the run in `path`, to resume it.

    docs: the data that the user expects, or None.

    Raises: ConfigError if `docs` differs from the data, StoreError if the saved data is wrong.
    """
    record, mode = checkpoint.training.corpus, checkpoint.config.mode
    hold_out = checkpoint.training.hold_out
    options = DataOptions(docs)
    shards = shards_of(options)
    if record.packed:
        if docs is not None and shards is None:
            raise ConfigError(f"{path} was trained on a packed corpus, and {docs!r:.80} is not one")
        shards = shards or open_shards(record.packed)
        if shards.sha256 != record.sha256:
            raise ConfigError(f"{shards.path} is not the packed corpus that {path} was trained on")
        return packed_data(shards, mode=mode, hold_out=hold_out, in_order="split" not in record)
    if shards is not None:
        raise ConfigError(f"{path} was trained on a list, and {docs} is a packed corpus")
    assert isinstance(checkpoint.documents, bytes)
    documents = unpack_documents(checkpoint.documents)
    if documents.sha256() != record.sha256:
        raise StoreError(f"{path} cannot be used: its documents are not those it learned")
    if checkpoint.tokenizer.unknown(documents.chars()):
        raise StoreError(f"{path} cannot be used: its tokens are not those of its documents")
    if docs is not None:
        check_same(
            path, documents, corpus_of(options, mode, composed=checkpoint.tokenizer.composed)
        )
    return list_data(
        Corpus(record.source, documents, 0, 0, 0),
        mode=mode,
        hold_out=hold_out,
        tokenizer=checkpoint.tokenizer,
        rule=record.split,
    )


def shards_of(options: DataOptions) -> Shards | None:
    """Return the packed corpus that these options name, or None if they name something else."""
    docs = options.docs
    if isinstance(docs, str | PathLike) and is_packed(docs):
        docs = open_shards(docs)
    if not isinstance(docs, Shards):
        return None
    if options.column is not None or options.format is not None or not options.header:
        raise ConfigError(
            "column, format and header do not apply to a packed corpus", "leave them out"
        )
    return docs


def corpus_of(options: DataOptions, mode: str, *, composed: bool) -> Corpus:
    """Return the list that these options name. composed: whether to bring it to NFC."""
    docs, column, format, header = options.docs, options.column, options.format, options.header
    if isinstance(docs, str | PathLike):
        return corpus.read(
            docs, column=column, format=format, header=header, mode=mode, composed=composed
        )
    if column is not None or format is not None or not header:
        raise ConfigError(
            "column, format and header need a file", "leave them out, or give the file"
        )
    if isinstance(docs, Corpus):
        return docs
    return corpus.from_docs(cast("Iterable[str]", docs), composed=composed)


def list_data(
    source: Corpus,
    *,
    mode: str,
    hold_out: bool,
    tokenizer: str | Path | Tokenizer = "char",
    vocab_size: int | None = None,
    whose: str = "the tokenizer",
    rule: int = RULE,
) -> ListData:
    """Return a list without its duplicates, divided by this rule of `split`.

    whose: the name of the tokenizer in error messages.

    Raises: CorpusError if there is nothing to learn, or if the tokenizer lacks a character.
    """
    check_learnable(source, mode)
    different = source.different
    train_docs, validation_docs = divide(different, hold_out, mode, rule)
    made = make_tokenizer(tokenizer, train_docs, validation_docs, vocab_size, mode)
    check_known(source, made, whose)
    return in_memory(different, mode, list_record(source, rule), made, train_docs, validation_docs)


def list_record(source: Corpus, rule: int = RULE) -> CorpusRecord:
    """Return the record of a list that is divided by this rule of `split`."""
    return CorpusRecord.read(
        {**source.summary(), "sha256": source.different.sha256(), "split": rule}
    )


def as_given(
    docs: Documents,
    mode: str = "documents",
    *,
    validation_docs: Iterable[str] = (),
    tokenizer: Tokenizer | None = None,
) -> ListData:
    """Return these documents with their duplicates, because the original microGPT keeps them."""
    held_out = Documents.of(validation_docs)
    tokenizer = tokenizer or make_tokenizer("char", docs, held_out, None)
    record = CorpusRecord.read({"source": "", "num_docs": len(docs)})
    return in_memory(docs, mode, record, tokenizer, docs, held_out)


def in_memory(
    documents: Documents,
    mode: str,
    record: CorpusRecord,
    tokenizer: Tokenizer,
    train_docs: Documents,
    validation_docs: Documents,
) -> ListData:
    lengths = tokenizer.lengths(train_docs)
    return ListData(
        mode=mode,
        tokenizer=tokenizer,
        documents=documents,
        record=record,
        train_lengths=lengths,
        lengths=lengths + tokenizer.lengths(validation_docs),
        chars=train_docs.lengths() if mode == "text" else lengths,
        has_validation=bool(validation_docs),
        train_docs=train_docs,
        validation_docs=validation_docs,
    )


def packed_data(
    shards: Shards, *, mode: str | None, hold_out: bool, in_order: bool = False
) -> PackedData:
    """Return the data of a packed corpus. mode: None for the mode that it was packed in.

    Raises: ConfigError if it was packed in another way, CorpusError if there is nothing to learn.
    """
    path, packed = shards.path, shards.mode
    if mode == "documents" and packed == "text":
        raise ConfigError(
            f"{path} is packed as text",
            'train with --mode text (mode="text" in Python), or pack it as documents',
        )
    if not hold_out and shards.num_docs("held_out"):
        raise ConfigError(
            f"{path} has a validation set", "pack it without one with `kamon pack --no-holdout`"
        )
    if not shards.num_docs("train"):
        raise CorpusError(f"{path} has no training data")
    mode = mode or packed
    if not in_order:
        check_packed(shards, mode)
    lengths = shards.lengths("train")
    return PackedData(
        mode=mode,
        tokenizer=shards.tokenizer,
        documents=Documents.of([]),
        record=CorpusRecord.read(
            {
                "source": str(path),
                "num_docs": shards.num_packed,
                "num_tokens": shards.num_tokens("train") + shards.num_tokens("held_out"),
                "packed": str(path.resolve()),
                "sha256": shards.sha256,
                "split": shards.rule,
            }
        ),
        train_lengths=lengths,
        lengths=lengths + shards.lengths("held_out"),
        chars=Counter([shards.num_chars("train")]) if mode == "text" else lengths,
        has_validation=hold_out and bool(shards.num_docs("held_out")),
        shards=shards,
        in_order=in_order,
    )


def make_tokenizer(
    wanted: str | Path | Tokenizer,
    train_docs: Documents,
    validation_docs: Documents,
    vocab_size: int | None,
    mode: str = "documents",
) -> Tokenizer:
    """Return the tokenizer. wanted: "char", "bpe", a file or a tokenizer."""
    if wanted == "bpe":
        from kamon.tokenizers.bpe import BytePairTokenizer

        return BytePairTokenizer.train(train_docs, BPE_VOCAB if vocab_size is None else vocab_size)
    if vocab_size is not None:
        raise ConfigError(
            "vocab_size can be set only for a new BPE tokenizer",
            'leave it out, or add --tokenizer bpe (tokenizer="bpe" in Python)',
        )
    if wanted == "char":
        chars = train_docs.chars() | validation_docs.chars()
        clusters: set[str] = set()
        if mode == "documents":
            clusters = clusters_to_keep(chain(train_docs, validation_docs), chars)
        return CharTokenizer(sorted(chars), composed=True, clusters=clusters)
    if not isinstance(wanted, str | PathLike):
        return wanted
    if not os.path.exists(wanted):
        known = suggestion(str(wanted), ["char", "bpe"])
        raise ConfigError(f"no tokenizer or file {wanted}{known}")
    return read_tokenizer(wanted)


# ---- checks


def check_learnable(source: Corpus, mode: str = "documents") -> None:
    """Raise CorpusError if there is nothing to learn in a list or a text."""
    lengths = source.different.lengths()
    num_chars = sum(length * number for length, number in lengths.items())
    check_teaches(source.source, mode, num_chars, len(source.docs), source.different)


def check_packed(shards: Shards, mode: str) -> None:
    """Raise CorpusError if there is nothing to learn in a packed corpus."""
    docs = (
        shards.tokenizer.decode(shards.document(part, number)[1:-1])
        for part in SPLITS
        for number in range(shards.num_docs(part))
    )
    num_chars, num_docs = (sum(map(f, SPLITS)) for f in (shards.num_chars, shards.num_docs))
    check_teaches(str(shards.path), mode, num_chars, num_docs, docs)


def check_teaches(
    source: str, mode: str, num_chars: int, num_docs: int, docs: Iterable[str]
) -> None:
    """Raise CorpusError for a short text, or if all documents are equal or of one character."""
    if mode == "text":
        if num_chars < MIN_CHARS:
            raise CorpusError(
                f"{source} has only {num_chars:,} characters",
                f"text mode needs {MIN_CHARS:,} or more",
            )
        return
    first, differ, chars = None, False, set[str]()
    for doc in docs:
        first = doc if first is None else first
        differ = differ or doc != first
        chars.update(doc)
        if differ and len(chars) > 1:
            return
    if not differ:
        what = "only one entry" if num_docs == 1 else "only one entry, repeated"
        raise CorpusError(
            f"{source} has {what}",
            'add more entries, or use --mode text (mode="text" in Python)',
        )
    if len(chars) == 1:
        raise CorpusError(
            f"the entries of {source} consist of only one character, {min(chars)!r}",
            "add entries with other characters",
        )


def check_tokenizer(
    shards: Shards, wanted: str | Path | Tokenizer, vocab_size: int | None, whose: str
) -> None:
    """Raise ConfigError if a corpus was packed with another tokenizer than the wanted one."""
    if wanted == "bpe":
        same = not isinstance(shards.tokenizer, CharTokenizer)
    else:  # "char" is also the default, so any tokenizer is right
        known = shards.tokenizer if wanted == "char" else wanted
        known = read_tokenizer(known) if isinstance(known, str | PathLike) else known
        same = known.to_json() == shards.tokenizer.to_json()
    if not same:
        raise ConfigError(f"{shards.path} is packed with another tokenizer than {whose}")
    if vocab_size is not None:
        raise ConfigError(f"vocab_size cannot be set: {shards.path} is packed with its tokenizer")


def check_known(source: Corpus, tokenizer: Tokenizer, whose: str) -> None:
    """Raise CorpusError if the tokenizer lacks a character. The message calls it `whose`."""
    unknown = sorted(tokenizer.unknown(source.docs.chars()))
    if unknown:
        shown = "".join(unknown[:10])
        raise CorpusError(
            f"{source.source} has characters that {whose} does not know: "
            f"{shown!r}{f' and {len(unknown) - 10:,} more' if len(unknown) > 10 else ''}",
            "drop entries with these characters, or train with --from scratch "
            "(init_from in Python)",
        )


def check_same(path: str | Path, documents: Documents, docs: Corpus) -> None:
    """Raise ConfigError if `docs` differ from the documents of the run in `path`."""
    given = docs.different
    if given.sha256() == documents.sha256():
        return
    pairs = zip_longest(documents, given)
    place, (own, other) = next((n, pair) for n, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    raise ConfigError(
        f"{docs.source} is not the list that {path} was trained on: it has {len(given):,} unique "
        f"entries, not {len(documents):,}, and number {place} is {other!r}, not {own!r}",
        "give the same list, or leave it out to resume",
    )
