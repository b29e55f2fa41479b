"""A corpus: the cleaned documents of a file, of standard input, or of a program's own list."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import ne
from typing import TYPE_CHECKING
from unicodedata import is_normalized

from kamon.data import builtin
from kamon.data.documents import BLOCK_DOCS, Documents, nfc
from kamon.data.readers import (
    checked_text,
    lines_in,
    name_of,
    removed_message,
    stream_lines,
    text_lines,
    whole_lines,
)
from kamon.data.tables import MAX_ROWS_READ, checked_format, entries_in, json_texts, text_notes
from kamon.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from pathlib import Path

BLOCK_CHARS = 1 << 20  # of documents that are looked at together


@dataclass(frozen=True)
class Corpus:
    """Documents and where they came from. None is blank; none has white space at its ends.

    num_entries counts what was read (lines, cells or records); the blank ones among them were
    dropped, and white space was taken off the ends of num_stripped others. num_normalized were not
    in Unicode's composed form (NFC), and are now. note: what people should know of how it was read;
    each line is the end of a sentence that begins with `source`.
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
        """The documents without repetitions."""
        return self.docs.different()

    def summary(self) -> dict[str, str | int]:
        """The figures above, for programs."""
        return {
            "source": self.source,
            "num_docs": len(self.docs),
            "num_different": len(self.different),
            "num_entries": self.num_entries,
            "num_blank": self.num_blank,
            "num_stripped": self.num_stripped,
            "num_normalized": self.num_normalized,
        }


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

    format: one of FORMATS; by default the file's ending tells, and everything else is text, one
    document a line. column: of a CSV or TSV file the column by its name in the header row, or by
    its number from 1 on, and none for a table of one column; of JSON the key ("text" by default).
    header: whether a table has a header row. mode: as of a Config; "text" makes one document of a
    whole text, as it stands. composed: whether entries are brought to Unicode's composed form
    (NFC), as every `Tokenizer.composed` wants them. Compressed files are unpacked. CorpusError says
    what is wrong with the content and in which line.
    """
    if str(source) in builtin.BUILT_IN and isinstance(source, str):
        if column or format or not header:
            raise ConfigError(
                f"the built-in list {source} has no columns and formats to choose from"
            )
        if source == builtin.NAMES:
            return from_entries(builtin.NAMES, builtin.names())
        return from_entries(builtin.NAMES_ORIGINAL, text_lines(builtin.names_original().decode()))
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
    """Documents that a program has at hand, cleaned as those of a file are; sets are sorted."""
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
    """What `read` makes of a file with this content: of a text a document a line."""
    notes: list[str] = []
    lines = lines_in(text, source)
    return from_entries(
        source, entries_in(source, lines, format, column, header, notes.append), notes
    )


def from_entries(
    source: str, entries: Iterable[str], notes: Sequence[str] = (), *, composed: bool = True
) -> Corpus:
    num_entries = num_blank = num_stripped = num_normalized = 0

    def docs() -> Iterator[str]:
        nonlocal num_entries, num_blank, num_stripped, num_normalized
        left = iter(entries)
        while block := list(islice(left, BLOCK_DOCS)):
            stripped = [entry.strip() for entry in block]
            kept = list(filter(None, stripped))
            blank = len(block) - len(kept)
            num_entries += len(block)
            num_blank += blank
            num_stripped += sum(map(ne, block, stripped)) - (blank - block.count(""))
            joined = "\0".join(kept) if composed else ""
            if not (joined.isascii() or is_normalized("NFC", joined)):
                given, kept = kept, list(map(nfc, kept))
                num_normalized += sum(map(ne, given, kept))
            yield from kept

    found = Documents.of(docs())
    if not found:
        raise CorpusError(
            f"{source} holds nothing but blank lines" if num_entries else f"{source} is empty"
        )
    return Corpus(
        *(source, found, num_entries, num_blank, num_stripped),
        note="\n".join(notes),
        num_normalized=num_normalized,
    )


def whole_text(source: str, lines: Iterable[str], *, composed: bool = True) -> Corpus:
    given = "\n".join([*lines, ""])
    text = nfc(given) if composed else given
    if not text.strip():
        raise CorpusError(
            f"{source} holds nothing but white space" if text else f"{source} is empty"
        )
    return Corpus(source, Documents.of([text]), 1, 0, 0, num_normalized=int(text != given))


def stream_entries(
    source: str | Path,
    column: str | None = None,
    format: str | None = None,
    header: bool = True,
    *,
    tell: Callable[[str], object],
) -> Iterator[list[str]]:
    """The lines of `stream_lines`, or the records or cells of a table, as they come.

    column, format, header: as of `read`. tell: is told the note of a Corpus, before what it is
    about where that is known then; that of a text is about the lines that came first.
    """
    format = checked_format(source, column, format, header)
    name = name_of(source)
    blocks = stream_lines(source)
    if format == "text":
        first = next(blocks, [])
        for note in text_notes(first[:MAX_ROWS_READ]):
            tell(f"{name} {note}")
        yield from chain(filter(None, [first]), blocks)
        return
    blocks = removed_message(blocks, name)
    if format == "jsonl":
        number = 1
        for lines in blocks:
            yield list(json_texts(name, lines, "text" if column is None else column, number))
            number += len(lines)
        return
    each = chain.from_iterable(blocks)
    yield from in_blocks(
        entries_in(name, each, format, column, header, lambda note: tell(f"{name} {note}"))
    )


def in_blocks(docs: Iterable[str]) -> Iterator[list[str]]:
    """Many at a time: so many that more would gain nothing, and few enough for memory."""
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
