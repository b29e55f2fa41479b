"""A corpus: the cleaned documents of a file, of standard input, or of a program's own list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import ne
from pathlib import Path
from unicodedata import is_normalized

from kamon.data import builtin
from kamon.data.documents import BLOCK_DOCS, Documents, nfc
from kamon.data.readers import (
    check_line_lengths,
    checked_text,
    lines_in,
    name_of,
    stream_lines,
    text_lines,
    whole_lines,
)
from kamon.data.tables import MAX_ROWS_READ, checked_format, entries_in, json_texts, text_notes
from kamon.errors import ConfigError, CorpusError

BLOCK_CHARS = 1 << 20  # characters that are processed together


@dataclass(frozen=True)
class Corpus:
    """Documents and how they were read. No document is blank or has white space at its ends.

    Attributes:
        source: the name of the file or list, as messages show it.
        num_entries: lines, cells or records that were read.
        num_blank: entries that were blank, and so dropped.
        num_stripped: other entries that had white space at their ends.
        num_normalized: entries that were not in Unicode's composed form (NFC). All documents are.
        note: notes for the user about how it was read. Each line completes a sentence that begins
            with `source`.
    """

    source: str
    docs: Documents
    num_entries: int
    num_blank: int
    num_stripped: int
    note: str = ""
    num_normalized: int = 0

    @cached_property
    def different(self) -> Documents:
        return self.docs.different()

    def summary(self) -> dict[str, str | int]:
        sizes = {"num_docs": len(self.docs), "num_different": len(self.different)}
        counted = ("num_entries", "num_blank", "num_stripped", "num_normalized")
        return {"source": self.source, **sizes, **{name: vars(self)[name] for name in counted}}


def read(
    source: str | Path,
    *,
    column: str | None = None,
    format: str | None = None,
    header: bool = True,
    mode: str = "documents",
    composed: bool = True,
) -> Corpus:
    """Read a file, a built-in list ("names", "names-original") or standard input ("-").

    Kamon decompresses compressed files.

    Args:
        source: the path, the name of a built-in list, or "-".
        column: for a table, the column's name or its number from 1 on. None if the table has only
            one column. For JSON, the key of the text, by default "text".
        format: one of FORMATS. By default the file's ending decides. If that is not known, the
            format is text with one document per line.
        header: whether a table has a header row.
        mode: the mode of a Config. In "text" mode, a whole text file is one document, unchanged.
        composed: whether to bring entries to NFC, as `Tokenizer.composed` requires.

    Raises:
        ConfigError: an option does not fit the format.
        CorpusError: the content is not valid. The message names the line.
    """
    if str(source) in builtin.BUILT_IN and isinstance(source, str):
        if column or format or not header:
            raise ConfigError(
                f"the built-in list {source} has no columns or formats",
                "leave out --column, --format and --no-header",
            )
        if source == builtin.NAMES:
            return from_entries(source, builtin.names())
        return from_entries(source, text_lines(builtin.names_original().decode()))
    format = checked_format(source, column, format, header)
    name = name_of(source)
    lines = whole_lines(source)
    if format == "text" and mode == "text":
        return whole_text(name, lines, composed=composed)
    notes: list[str] = []
    entries = entries_in(name, lines, format, column, header, notes.append)
    return from_entries(name, entries, notes, composed=composed)


def from_docs(
    docs: Iterable[str], source: str = "a list in memory", *, composed: bool = True
) -> Corpus:
    """Return the corpus of a program's own documents, which are cleaned like those of a file.

    Sets are sorted.
    """
    if isinstance(docs, set | frozenset):
        docs = sorted(docs)

    def checked() -> Iterator[str]:
        for number, doc in enumerate(docs, 1):
            if not isinstance(doc, str):
                raise CorpusError(f"{source}, document {number} is not a string but {doc!r}")
            yield checked_text(source, f"document {number}", doc)

    return from_entries(source, checked(), composed=composed)


def from_text(
    text: str,
    source: str = "a text in memory",
    *,
    column: str | None = None,
    format: str = "text",
    header: bool = True,
) -> Corpus:
    """Return the result of `read` for a file with this content. Text has one document per line."""
    notes: list[str] = []
    lines = lines_in(text, source)
    entries = entries_in(source, lines, format, column, header, notes.append)
    return from_entries(source, entries, notes)


def from_entries(
    source: str, entries: Iterable[str], notes: Sequence[str] = (), *, composed: bool = True
) -> Corpus:
    """Return the corpus of the stripped entries without blank ones, in NFC if `composed`."""
    num_entries = num_blank = num_stripped = num_normalized = 0

    def docs() -> Iterator[str]:
        nonlocal num_entries, num_blank, num_stripped, num_normalized
        remaining = iter(entries)
        while block := list(islice(remaining, BLOCK_DOCS)):
            stripped = [entry.strip() for entry in block]
            texts = list(filter(None, stripped))
            blank = len(block) - len(texts)
            num_entries += len(block)
            num_blank += blank
            num_stripped += sum(map(ne, block, stripped)) - (blank - block.count(""))
            joined = "\0".join(texts) if composed else ""
            if not (joined.isascii() or is_normalized("NFC", joined)):
                before, texts = texts, list(map(nfc, texts))
                num_normalized += sum(map(ne, before, texts))
            yield from texts

    documents = Documents.of(docs())
    if not documents:
        what = "has only blank lines" if num_entries else "is empty"
        raise CorpusError(f"{source} {what}")
    note = "\n".join(notes)
    return Corpus(source, documents, num_entries, num_blank, num_stripped, note, num_normalized)


def whole_text(source: str, lines: Iterable[str], *, composed: bool = True) -> Corpus:
    given = "\n".join([*lines, ""])
    text = nfc(given) if composed else given
    if not text.strip():
        what = "has only white space" if text else "is empty"
        raise CorpusError(f"{source} {what}")
    return Corpus(source, Documents.of([text]), 1, 0, 0, num_normalized=int(text != given))


def stream_entries(
    source: str | Path,
    column: str | None = None,
    format: str | None = None,
    header: bool = True,
    *,
    on_note: Callable[[str], object],
) -> Iterator[list[str]]:
    """Yield the lines, cells or texts of a source as they arrive, many at a time.

    Args:
        source, column, format, header: as in `read`.
        on_note: called with each note (see `Corpus.note`) as soon as it is known. For text, the
            notes depend only on the first lines.
    """
    format = checked_format(source, column, format, header)
    name = name_of(source)
    blocks = stream_lines(source)
    if format == "text":
        first = next(blocks, [])
        for note in text_notes(first[:MAX_ROWS_READ]):
            on_note(f"{name} {note}")
        yield from chain(filter(None, [first]), blocks)
        return
    blocks = check_line_lengths(blocks, name)
    if format == "jsonl":
        number = 1
        for lines in blocks:
            yield list(json_texts(name, lines, "text" if column is None else column, number))
            number += len(lines)
        return
    single = chain.from_iterable(blocks)
    entries = entries_in(
        name, single, format, column, header, lambda note: on_note(f"{name} {note}")
    )
    yield from in_blocks(entries)


def in_blocks(docs: Iterable[str]) -> Iterator[list[str]]:
    """Yield the documents in blocks that are large enough to be fast and fit into memory."""
    block: list[str] = []
    size = 0
    for doc in docs:
        block.append(doc)
        size += len(doc)
        if size >= BLOCK_CHARS or len(block) == BLOCK_DOCS:
            yield block
            block, size = [], 0
    if block:
        yield block
