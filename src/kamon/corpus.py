"""A list as people have it (text, CSV, TSV, JSONL, standard input) to documents."""

from __future__ import annotations

import codecs
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from operator import ne
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from unicodedata import is_normalized

from kamon import builtin
from kamon.config import listed, suggestion
from kamon.documents import BLOCK, BLOCK_DOCS, Documents, nfc
from kamon.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from pathlib import Path

FORMATS = ("text", "csv", "tsv", "jsonl")
SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
MAX_LINE = 1 << 24  # characters: what is longer is no list
BLOCK_CHARS = 1 << 20  # of documents that are looked at together
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods and every zip; .xls
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
QUOTED = re.compile(r'(?<![^,;\t])"(?:[^"]++|"")*+("?)')  # a cell; without its end if it goes on
LOOKED_AT = 100  # lines, to tell a table
LEAST_LOOKED_AT = 3
SHARE = 0.8  # of them that are alike


class ColumnError(ConfigError):
    """Raised for a table of which no column is chosen. columns: those that it has."""

    def __init__(self, name: str, columns: list[str]) -> None:
        super().__init__(f"{name} has the columns {listed(columns)}: choose one with --column")
        self.columns = columns


@dataclass(frozen=True)
class Corpus:
    """Documents and where they came from. None is blank; none has white space at its ends.

    num_entries counts what was read (lines, cells or records); the blank ones among them were
    dropped, and white space was taken off the ends of num_stripped others. num_normalized were not
    in Unicode's composed form (NFC), and are now. note: what people should know of how it was read,
    as the end of a sentence that begins with `source`.
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
    mode: str = "documents",
    composed: bool = True,
) -> Corpus:
    """Read a file, a built-in list ("names", "names-original") or standard input ("-").

    format: one of FORMATS; by default the file's ending tells, and everything else is text, one
    document a line. column: of a CSV or TSV file the column by its name in the first row, which
    also tells what separates the cells of CSV; of JSONL the key ("text" by default). mode: as of a
    Config; "text" makes one document of a whole text, as it stands. composed: whether entries are
    brought to Unicode's composed form (NFC), as every `Tokenizer.composed` wants them. CorpusError
    says what is wrong with the content and in which line.
    """
    if str(source) in builtin.BUILT_IN and isinstance(source, str):
        if column or format:
            raise ConfigError(
                f"the built-in list {source} has no columns and formats to choose from"
            )
        if source == builtin.NAMES:
            return from_entries(builtin.NAMES, builtin.names())
        return from_entries(builtin.NAMES_ORIGINAL, text_lines(builtin.names_original().decode()))
    format = checked_format(source, column, format)
    name = name_of(source)
    lines = whole_lines(source)
    if format == "text" and mode == "text":
        return whole_text(name, lines, composed=composed)
    return from_entries(name, *entries_in(name, lines, format, column), composed=composed)


def checked_format(source: str | Path, column: str | None, format: str | None) -> str:
    """One of FORMATS: as given, or as the file's ending says. ConfigError for what fits not."""
    if format is None:
        format = format_of(source)
    elif format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}{suggestion(format, FORMATS)}")
    if format == "text" and column is not None:
        raise ConfigError(
            f"{source} is read as text, which has no columns: name a --format with --column"
        )
    return format


def entries_in(
    name: str, lines: Iterator[str], format: str, column: str | None
) -> tuple[Iterator[str], str]:
    """What the lines of a list in one of FORMATS hold: lines, cells of a column, or texts; and the
    note of a Corpus."""
    if format == "text":
        first = list(islice(lines, LOOKED_AT))
        return chain(first, lines), table_note(first)
    if format == "jsonl":
        return json_texts(name, lines, "text" if column is None else column), ""
    separator, lines = separated(lines, format)
    note = separator_note(separator) if format == "csv" else ""
    return cells(name, lines, column, separator), note


def columns_in(name: str, lines: Iterator[str], format: str) -> list[str]:
    """What a table has to choose from: the names in its first row, or the keys of the first JSON
    object that have a text. CorpusError where there is no such row."""
    if format != "jsonl":
        try:
            next(entries_in(name, lines, format, None)[0], None)
        except ColumnError as needed:
            return needed.columns
        return []
    for number, line in enumerate(lines, 1):
        if line.strip():
            record = json_object(f"{name}, line {number}", line, example(["text"]))
            return [key for key, value in record.items() if isinstance(value, str)]
    return []


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
) -> Corpus:
    """What `read` makes of a file with this content: of a text a document a line."""
    return from_entries(source, *entries_in(source, lines_in(text, source), format, column))


def lines_in(text: str, source: str) -> Iterator[str]:
    """The lines that `read` would find in a text file with this content."""
    content = text.encode("utf-8", "surrogatepass")
    return chain.from_iterable(no_longer(lines_of(decoded([content], source)), source))


def from_entries(
    source: str, entries: Iterable[str], note: str = "", *, composed: bool = True
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
    return Corpus(source, found, num_entries, num_blank, num_stripped, note, num_normalized)


def whole_text(source: str, lines: Iterable[str], *, composed: bool = True) -> Corpus:
    given = "\n".join([*lines, ""])
    text = nfc(given) if composed else given
    if not text.strip():
        raise CorpusError(
            f"{source} holds nothing but white space" if text else f"{source} is empty"
        )
    return Corpus(source, Documents.of([text]), 1, 0, 0, num_normalized=int(text != given))


def format_of(source: str | Path) -> str:
    """What a file's ending says."""
    return SUFFIXES.get(os.path.splitext(source)[1].lower(), "text")


@contextmanager
def opened(source: str | Path, name: str, others: Iterable[str] = ()) -> Iterator[BinaryIO]:
    """The file, or standard input for "-". CorpusError where it cannot be opened or read.

    That lines are waited for is said where they come from a keyboard.
    others: what could be meant by a name that is no file's, besides the files beside it.
    """
    try:
        if str(source) == "-":
            if sys.stdin is None:
                raise CorpusError("standard input is closed")
            if sys.stdin.buffer.isatty():
                end = "Ctrl-Z and Enter end" if os.name == "nt" else "Ctrl-D ends"
                print(f"reading lines from the keyboard; {end}", file=sys.stderr)
            yield sys.stdin.buffer
        else:
            with open(source, "rb") as file:
                yield file
    except IsADirectoryError:
        raise CorpusError(f"{name} is a directory: name a file in it") from None
    except FileNotFoundError:
        if not str(source):
            raise CorpusError("there is no file with an empty name") from None
        known = [other for other in (*others, *map(name_of, neighbours(source))) if other != name]
        raise CorpusError(f"there is no file {name}{near(name, known)}") from None
    except OSError as error:
        raise CorpusError(f"cannot read {name}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise CorpusError(f"cannot read {name!r}: {error}") from None


def name_of(source: str | Path) -> str:
    """What errors call it; odd bytes of a file name that is not UTF-8 are escaped."""
    if str(source) == "-":
        return "standard input"
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def why_no_text(name: str, line: int, byte: int, value: int, *, utf16: bool = False) -> str:
    """What is wrong with a byte that is NUL, or where none such may stand.

    utf16: the text is UTF-16, by the mark at its start.
    """
    if utf16:
        return (
            f"{name}, line {line} {'is not UTF-16' if value else 'has a NUL character'}, though "
            "the file begins with the mark of UTF-16 text: save it as UTF-8"
        )
    if value:
        return (
            f"{name}, line {line} is not UTF-8: byte {byte} of it is 0x{value:02x}; "
            "convert the file, as in `iconv -f cp1252 -t utf-8`"
        )
    return (
        f"{name}, line {line} has a NUL byte at byte {byte}: this looks like no text; Kamon reads "
        "UTF-8 text, and UTF-16 with a byte order mark"
    )


def text_lines(text: str) -> list[str]:
    r"""Lines that end in \n, \r\n or \r; the end of the last one begins no further line."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def whole_lines(source: str | Path) -> Iterator[str]:
    """The lines of `stream_lines`, one by one; CorpusError for one that is longer than MAX_LINE."""
    blocks = stream_lines(source, builtin.BUILT_IN)
    return chain.from_iterable(no_longer(blocks, name_of(source)))


def no_longer(blocks: Iterable[list[str]], name: str, number: int = 1) -> Iterator[list[str]]:
    """The same lines; CorpusError for one that is longer than MAX_LINE.

    number: of the first line in the file called `name`.
    """
    for lines in blocks:
        if max(map(len, lines)) > MAX_LINE:
            number += next(n for n, line in enumerate(lines) if len(line) > MAX_LINE)
            raise CorpusError(
                f"{name}, line {number} has more than {MAX_LINE:,} characters: "
                "that is no list; put each document on a line of its own"
            )
        number += len(lines)
        yield lines


def stream_lines(source: str | Path, others: Iterable[str] = ()) -> Iterator[list[str]]:
    """The lines of a text, as they come and many at a time, in bounded memory; "-": standard input.

    They are those of `text_lines`; but where one is longer than MAX_LINE, only its first
    MAX_LINE + 1 characters. others: what else a name that is no file's could mean. CorpusError
    says what is wrong with the content and in which line, when the lines before were yielded.
    """
    name = name_of(source)
    with opened(source, name, others) as file:
        # What is there, without waiting.
        blocks = iter(lambda: file.read1(BLOCK), b"")  # type: ignore[attr-defined]
        yield from lines_of(decoded(blocks, name))


def lines_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """The lines of `stream_lines`, of a text that comes in parts."""
    line = ""  # the unfinished one
    for text in texts:
        whole, newline, text = text.rpartition("\n")
        if newline:
            whole, line = line + whole, ""
            lines = whole.split("\n")
            yield lines if len(whole) <= MAX_LINE else [each[: MAX_LINE + 1] for each in lines]
        line += text[: MAX_LINE + 1 - len(line)]
    if line:
        yield [line]


def decoded(blocks: Iterable[bytes], name: str, number: int = 1) -> Iterator[str]:
    r"""The text of UTF-8 that comes in blocks: every line end is \n, a mark at the start is gone.

    UTF-16 is read where a mark at the start says that it is. number: of the first line in the file
    called `name`. CorpusError says what is no text, and in which line, when the text before was
    yielded.
    """
    # It sees that a line end may be two characters, and a character several bytes, of two blocks.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    left = filter(None, blocks)  # an empty one is the end
    before = 0  # bytes of the unfinished line
    fresh, utf16 = number == 1, False
    if fresh:
        begin = beginning(left)
        if begin.startswith(SPREADSHEETS):
            raise CorpusError(
                f"{name} is a spreadsheet or an archive, not text: save it as CSV (UTF-8)"
            )
        utf16 = begin.startswith(UTF_16_MARKS)
        left = filter(None, utf_16_as_8(begin, left) if utf16 else chain([begin], left))
        fresh = not utf16
    for block in chain(left, [b""]):
        text, fault = decode_block(decoder, block)
        if fresh and text:
            fresh = False
            if text[0] == "\ufeff":
                text, before = text[1:], 3
        if text:
            yield text
        whole, newline, text = text.rpartition("\n")
        if newline:
            number += whole.count("\n") + 1
            before = 0
        before += len(text.encode())
        if fault >= 0:
            raise CorpusError(why_no_text(name, number, before + 1, fault, utf16=utf16))


def beginning(blocks: Iterator[bytes]) -> bytes:
    """The first blocks, so few that none is waited for which can tell nothing more of a mark."""
    marks = (*UTF_16_MARKS, *SPREADSHEETS)
    begin = b""
    while any(len(begin) < len(mark) and mark.startswith(begin) for mark in marks):
        block = next(blocks, b"")
        if not block:
            break
        begin += block
    return begin


def utf_16_as_8(begin: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """UTF-16 behind its mark as UTF-8 without one; 0xff, and the end, for what is none."""
    codec = "utf-16-le" if begin.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    decoder = codecs.getincrementaldecoder(codec)()
    for block in chain([begin[2:]], blocks, [b""]):
        try:
            yield decoder.decode(block, final=not block).encode()
        except UnicodeDecodeError as error:
            yield error.object[: error.start].decode(codec).encode() + b"\xff"
            return


def decode_block(decoder: io.IncrementalNewlineDecoder, block: bytes) -> tuple[str, int]:
    """The text of one more block up to the first byte that cannot be, and that byte, or −1."""
    before, nul, _ = block.partition(b"\0")
    try:
        text, fault = decoder.decode(before, final=not block or bool(nul)), 0 if nul else -1
    except UnicodeDecodeError as error:
        fault = error.object[error.start]
        good = error.start - (len(error.object) - len(before))  # below 0: in a block before
        text = decoder.decode(before[: max(0, good)])
    if fault >= 0 and decoder.getstate()[1] & 1:  # a \r that waits for \n
        text += "\n"
    return text, fault


def json_texts(name: str, lines: Iterable[str], key: str, first: int = 1) -> Iterator[str]:
    """The text that each record has under `key`; "" for a blank line. first: its line."""
    for number, line in enumerate(lines, first):
        yield json_record(name, number, line, [key])[0] if line.strip() else ""


def json_record(name: str, number: int, line: str, keys: Sequence[str]) -> list[str]:
    """The texts that the record in a line has under `keys`. number: of the line."""
    record = json_object(f"{name}, line {number}", line, example(keys))
    for key in keys:
        if key in record and not isinstance(record[key], str):
            raise CorpusError(f"{name}, line {number} has something else than text under {key!r}")
        if key not in record:
            found = listed(record) or "none"
            raise CorpusError(f"{name}, line {number} has no text under {key!r}; its keys: {found}")
    return [checked_text(name, f"line {number}", record[key]) for key in keys]


def json_object(
    where: str, line: str, such: str, what: str = "each line is an object"
) -> dict[str, Any]:
    """The JSON object in a line. such, what: what it should be, in the error where it is none."""
    import json

    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        other = "it is nested too deeply" if deep else "a number has too many digits"
        reason = getattr(error, "msg", other)
        raise CorpusError(f"{where} is not valid JSON: {reason}; {what} such as {such}") from None
    if not isinstance(record, dict):
        raise CorpusError(f"{where} is no JSON object such as {such}")
    return record


def example(keys: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{key}": "…"' for key in keys) + "}"


def separated(lines: Iterator[str], format: str) -> tuple[str, Iterator[str]]:
    r"""What separates the cells of a table, and the same lines again. format: "csv" or "tsv".

    In CSV it is the one of SEPARATORS of which the first row has most outside of quoted cells; of
    several, or where there are none, the first.

    >>> separated(iter(['id;"a,b,c"', "1;2"]), "csv")[0]
    ';'
    """
    if format == "tsv":
        return "\t", lines
    seen: list[str] = []
    counts = dict.fromkeys(SEPARATORS, 0)
    size, inside = 0, False  # a quoted cell, which may have several lines
    for line in lines:
        seen.append(line)
        size += len(line)
        rest = '"' + line if inside else line
        quoted = QUOTED.findall(rest)
        inside = bool(quoted) and not quoted[-1]
        bare = QUOTED.sub("", rest)
        for separator in SEPARATORS:
            counts[separator] += bare.count(separator)
        if (line and not inside) or size > MAX_LINE:
            break
    return max(SEPARATORS, key=counts.__getitem__), chain(seen, lines)


def separator_note(separator: str) -> str:
    """What a Corpus says of CSV; nothing of commas, which it is named after."""
    return "" if separator == "," else f"has its cells separated by {SEPARATORS[separator]}"


def table_in(lines: Iterable[str]) -> Literal["csv", "tsv", "jsonl"] | None:
    """Which format lines have that were read as text, where nearly all of them look like one.

    So do rows with the same number of separators, not just one at the end; a comma before a space
    is one of prose.
    """
    rows = list(filter(None, map(str.strip, islice(lines, LOOKED_AT))))
    least = SHARE * len(rows)
    if len(rows) < LEAST_LOOKED_AT:
        return None
    if sum(row[0] == "{" and row[-1] == "}" for row in rows) >= least:
        return "jsonl"
    for separator in SEPARATORS:
        counts = [
            row.count(separator) - (row.count(", ") if separator == "," else 0)
            for row in rows
            if not row.endswith(separator) or row.count(separator) > 1
        ]
        most = max(set(counts) - {0}, key=counts.count, default=0)
        if most and counts.count(most) >= least:
            return "tsv" if separator == "\t" else "csv"
    return None


def table_note(lines: Iterable[str]) -> str:
    """What a Corpus says of lines that were read as text and look like something else."""
    found = table_in(lines)
    if found == "jsonl":
        return "looks like JSON lines: --format jsonl takes the text of each, --column another key"
    return f"looks like a table: --format {found} --column NAME takes one column" if found else ""


def cells(name: str, lines: Iterable[str], column: str | None, separator: str) -> Iterator[str]:
    import csv

    reader = csv.reader((line + "\n" for line in lines), delimiter=separator, strict=True)
    limit = csv.field_size_limit(MAX_LINE)  # of a cell, which is of the whole process
    begin = 1  # where the row begins that is read next
    try:
        header = [cell.strip() for cell in next(filter(None, reader), [])]
        if not header:
            return
        if column is None:
            raise ColumnError(name, header)
        if column not in header:
            raise ConfigError(f"{name} has no column {column!r}{suggestion(column, header)}")
        if header.count(column) > 1:
            raise ConfigError(f"{name} has more than one column {column!r}")
        index = header.index(column)
        begin = reader.line_num + 1
        for row in reader:
            if not row:
                yield ""
            elif len(row) <= index:
                raise CorpusError(
                    f"{name}, line {reader.line_num} has {len(row)} cell"
                    f"{'' if len(row) == 1 else 's'}: "
                    f"none for {column!r}, which is number {index + 1}"
                )
            else:
                yield row[index]
            begin = reader.line_num + 1
    except csv.Error as error:
        reason, place = str(error), f"line {reader.line_num}"
        if "unexpected end" in reason:
            reason, place = "a quote that is opened there never ends", f"line {begin}"
        elif begin < reader.line_num:
            reason += f", in the row that begins in line {begin}"
        raise CorpusError(f"{name}, {place} is not valid CSV: {reason}") from None
    finally:
        csv.field_size_limit(limit)


def stream_entries(
    source: str | Path,
    column: str | None = None,
    format: str | None = None,
    *,
    tell: Callable[[str], object],
) -> Iterator[list[str]]:
    """The lines of `stream_lines`, or the records or cells of a table, as they come.

    column, format: as of `read`. tell: is told the note of a Corpus before what it is about; that
    of a text is about the lines that came first.
    """
    format = checked_format(source, column, format)
    name = name_of(source)
    blocks = stream_lines(source)
    if format == "text":
        first = next(blocks, [])
        if note := table_note(first[:LOOKED_AT]):
            tell(f"{name} {note}")
        yield from chain(filter(None, [first]), blocks)
        return
    blocks = no_longer(blocks, name)
    if format == "jsonl":
        number = 1
        for lines in blocks:
            yield list(json_texts(name, lines, "text" if column is None else column, number))
            number += len(lines)
        return
    separator, each = separated(chain.from_iterable(blocks), format)
    if format == "csv" and (note := separator_note(separator)):
        tell(f"{name} {note}")
    yield from together(cells(name, each, column, separator))


def together(docs: Iterable[str]) -> Iterator[list[str]]:
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


def checked_text(name: str, where: str, text: str) -> str:
    """Refuse what no UTF-8 file could hold as text: lone surrogates and NUL."""
    if text.isprintable():  # as nearly all are, and quickly seen
        return text
    for number, char in enumerate(text, 1):
        if char == "\0" or "\ud800" <= char <= "\udfff":
            kind = "a NUL" if char == "\0" else f"a lone surrogate (U+{ord(char):04X})"
            raise CorpusError(f"{name}, {where} has {kind} at character {number}: that is no text")
    return text


def neighbours(path: str | Path) -> list[str]:
    """The files beside a path that is not there."""
    folder = os.path.dirname(path)
    try:
        with os.scandir(folder or ".") as entries:
            return [os.path.join(folder, entry.name) for entry in islice(entries, 1000)]
    except OSError:
        return []


def near(word: str, known: Iterable[str]) -> str:
    found = suggestion(word, list(known))
    return found if found.startswith(":") else ""
