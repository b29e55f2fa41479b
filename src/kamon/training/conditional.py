"""What a conditional model learns: the rows of a table, with the tokens of their given values."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from kamon.config import Config
from kamon.data.columns import Columns, Row, Table, divided, read_table, rows_in, values_of
from kamon.data.corpus import Corpus
from kamon.data.documents import Documents
from kamon.data.split import MIN_DOCS, RULE, divide
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.errors import ConfigError, CorpusError, StoreError
from kamon.generation.given import counts_of, given_tokens, value_tokens
from kamon.storage.checkpoint import Checkpoint, unpack_documents
from kamon.storage.records import CorpusRecord
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.training.data import DataOptions, ListData, check_learnable

GOLDEN = (5**0.5 - 1) / 2  # its multiples modulo 1 are spread evenly
MAX_PASSES = 16  # over weighted rows, before their order is repeated


@dataclass(frozen=True, kw_only=True)
class ConditionalData(ListData):
    """A table: `documents` are its stored rows, and the lists of documents are its entries.

    Attributes:
        columns: the given columns.
        weight: the column of weights, if there is one.
    """

    columns: tuple[str, ...]
    weight: str | None
    train_rows: Sequence[Row]
    validation_rows: Sequence[Row]

    @property
    def num_values(self) -> int:
        """The tokens that each document begins with, instead of BOS."""
        return len(self.columns)

    def room(self, config: Config) -> int:
        """Return the block_size of an entry with its BOS."""
        return config.block_size - self.num_values + 1

    def examples(self, config: Config, rng: random.Random) -> PackedBatch:
        """Return the rows of the training set in the order of their turn."""
        rows = in_turn(self.train_rows, config.num_steps * config.docs_per_step, rng)
        return with_values(self.tokenizer, self.columns, rows, config.block_size)

    def validation_rows_in_order(self, config: Config) -> list[Row]:
        rows = list(self.validation_rows)
        random.Random(config.seed).shuffle(rows)
        return rows

    def validation_set(self, config: Config) -> PackedBatch:
        rows = self.validation_rows_in_order(config)
        return with_values(self.tokenizer, self.columns, rows, config.block_size)


def in_turn(rows: Sequence[Row], num_needed: int, rng: random.Random) -> list[Row]:
    """Return rows in random order, each as often as it counts.

    Without weights they are all rows once. Otherwise each pass is a systematic sample. A row that
    counts twice as often as the mean is in it twice. One that counts half as often is in every
    second pass.
    """
    counts = counts_of(rows)
    if min(counts) == max(counts):
        chosen = list(rows)
        rng.shuffle(chosen)
        return chosen[:num_needed]
    ends = list(accumulate(counts))
    step = ends[-1] / len(rows)
    start = rng.random()
    found: list[Row] = []
    for number in range(max(1, min(MAX_PASSES, -(-num_needed // len(rows))))):
        sample: list[Row] = []
        place = (start + number * GOLDEN) % 1 * step
        for row, end in zip(rows, ends, strict=True):
            while place < end:
                sample.append(row)
                place += step
        rng.shuffle(sample)
        found += sample
    return found[:num_needed]


def with_values(
    tokenizer: Tokenizer, columns: Sequence[str], rows: Sequence[Row], block_size: int
) -> PackedBatch:
    """Return a document of each row: the tokens of its values, its entry and BOS, cut to fit."""
    known: dict[tuple[str, ...], tuple[int, ...]] = {}
    for row in rows:
        if row.values not in known:
            known[row.values] = value_tokens(tokenizer, columns, row.values)
    batch = tokenizer.encode_documents([row.text for row in rows])
    return pack_sequences(
        array("i", (*known[row.values], *tokens[1:])[: block_size + 1])
        for row, tokens in zip(rows, batch, strict=True)
    )


def load_conditional_data(
    options: DataOptions, columns: Columns, mode: str | None = None
) -> ConditionalData:
    """Return what `train` learns from a table with given columns.

    Raises: ConfigError, CorpusError.
    """
    if mode not in (None, "documents"):
        raise ConfigError("given values need mode documents", "leave out the mode")
    if options.tokenizer != "char" or options.vocab_size is not None:
        raise ConfigError("given values need the char tokenizer", "leave out the tokenizer")
    if not options.hold_out:
        raise ConfigError(
            "a conditional model needs a validation set, which decides how its parts are mixed",
            "train with a validation set",
        )
    table = read_table(options.docs, columns, format=options.format, header=options.header)
    check_learnable(table.corpus)
    return conditional_data(table)


def reload_conditional_data(path: str | Path, checkpoint: Checkpoint, docs: Any) -> ConditionalData:
    """Return what the run in `path` learns, to resume it. docs: None, or the table it should be."""
    given, record = checkpoint.training.given, checkpoint.training.corpus
    assert given is not None
    assert isinstance(checkpoint.documents, bytes)
    documents = unpack_documents(checkpoint.documents)
    if documents.sha256() != record.sha256:
        raise StoreError(f"{path} cannot be used: its documents are not those it learned")
    if docs is not None and not (
        isinstance(docs, Table) and docs.documents().sha256() == record.sha256
    ):
        raise ConfigError(
            f"the table is not the one that {path} was trained on", "leave it out to resume"
        )
    try:
        rows = rows_in(documents, len(given.columns))
    except ValueError as error:
        raise StoreError(f"{path} cannot be used: {error}") from None
    corpus = Corpus(record.source, Documents.of(row.text for row in rows), 0, 0, 0)
    table = Table(corpus, tuple(given.columns), rows, given.weight)
    return conditional_data(table, checkpoint.tokenizer, rule=record.split)


def conditional_data(
    table: Table, tokenizer: Tokenizer | None = None, *, rule: int = RULE
) -> ConditionalData:
    """Return the rows of a table, divided by their entries: the same entry is on one side."""
    entries = table.corpus.different
    train_docs, validation_docs = divide(entries, rule=rule)
    if not validation_docs:
        raise CorpusError(
            f"{table.corpus.source} has {len(entries):,} unique entries, too few for a validation "
            "set, which decides how the parts of a conditional model are mixed",
            f"give a table of at least {MIN_DOCS}",
        )
    train_rows, validation_rows = divided(table.rows, validation_docs)
    learned = values_of(table.columns, train_rows)
    for column, values in table.values.items():
        missing = sorted(set(values) - set(learned[column]))
        if missing:
            raise CorpusError(
                f"{table.corpus.source} has too few entries with {column} {missing[0]!r}: all of "
                "them are in the validation set",
                "add some, or leave them out",
            )
    if tokenizer is None:
        tokenizer = CharTokenizer.train(entries, given_tokens(table.values))
    documents = table.documents()
    record = CorpusRecord.read(
        {**table.corpus.summary(), "sha256": documents.sha256(), "split": rule}
    )
    more = len(table.columns) - 1
    lengths = [
        Counter(len(row.text) + more for row in rows) for rows in (train_rows, validation_rows)
    ]
    return ConditionalData(
        mode="documents",
        tokenizer=tokenizer,
        documents=documents,
        record=record,
        train_lengths=lengths[0],
        lengths=lengths[0] + lengths[1],
        chars=lengths[0],
        has_validation=True,
        train_docs=train_docs,
        validation_docs=validation_docs,
        columns=table.columns,
        weight=table.weight,
        train_rows=train_rows,
        validation_rows=validation_rows,
    )
