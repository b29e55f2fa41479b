"""Reads the entries in the lines of a list: text, CSV, TSV, JSON Lines or JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

from kamon.config import listed, suggestion
from kamon.data.graphemes import clipped
from kamon.data.readers import COMPRESSED_SUFFIXES, MAX_LINE, checked_text
from kamon.errors import ConfigError, CorpusError

FORMATS = ("text", "csv", "tsv", "jsonl", "json")
TABLES = ("csv", "tsv")
SUFFIXES = {".ndjson": "jsonl", **{f".{name}": name for name in FORMATS[1:]}}
MAX_JSON = 1 << 27  # characters of a JSON array, which is read as a whole
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "pipes"}
SEPARATOR_LINE = re.compile(r'"?sep=([^"])"?')  # Excel reads this line and does not show it
QUOTED = re.compile(r'(?<![^,;\t|])"(?:[^"]++|"")*+("?)')  # a cell, or its start if it continues
CELL_END = re.compile(r'((?:[^"]++|"")*+)("?)')  # the rest of a quoted cell
MAX_ROWS_READ = 100  # lines that Kamon reads to recognise a table
MIN_ROWS_READ = 3
MIN_COMMENTS = 2  # lines with a comment, for a note
MIN_SHARE = 0.8  # share of the lines that must look alike


class ColumnError(ConfigError):
    """Raised if a table has several columns and the user has chosen none.

    Attributes:
        columns: the names of the columns.
    """

    def __init__(self, name: str, columns: list[str]) -> None:
        super().__init__(f"{name} has the columns {listed(columns)}: choose one with --column")
        self.columns = columns


def checked_format(
    source: str | Path, column: str | None, format: str | None, header: bool = True
) -> str:
    """Return the given format, or else the format of the file's ending.

    Raises: ConfigError for an unknown format, or if the column or header option does not fit it.
    """
    if format is None:
        format = format_of(source)
    elif format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}{suggestion(format, FORMATS)}")
    if format == "text" and column is not None:
        raise ConfigError(
            f"{source} is read as text, which has no columns",
            "add a --format such as --format csv, and --no-header if the first row is data "
            '(format="csv", header=False in Python)',
        )
    if not header and format not in TABLES:
        raise ConfigError(
            f"{source} is read as {format}, which has no header row",
            "leave out --no-header, or add a --format such as --format csv "
            '(header=True or format="csv" in Python)',
        )
    return format


def entries_in(
    name: str,
    lines: Iterator[str],
    format: str,
    column: str | None,
    header: bool = True,
    on_note: Callable[[str], object] = len,
) -> Iterator[str]:
    """Return the entries in the lines of a list: lines, cells of a column, or texts in JSON.

    Args:
        name: the source as messages show it.
        lines: all its lines.
        format, column, header: as in `kamon.data.corpus.read`.
        on_note: called with each note (see `Corpus.note`), sometimes only after the last entry.

    Raises: ColumnError if no column is chosen, CorpusError for invalid content.
    """
    if format == "text":
        first = list(islice(lines, MAX_ROWS_READ))
        for note in text_notes(first):
            on_note(note)
        return chain(first, lines)
    key = "text" if column is None else column
    if format == "json":
        is_array, lines = begins_array(lines)
        return array_texts(name, lines, key) if is_array else json_texts(name, lines, key)
    if format == "jsonl":
        return json_texts(name, lines, key)
    head, lines = find_header(name, lines, format, column, header)
    if head is None:
        return iter(())
    if head.columns and column is None and len(head.columns) > 1:
        raise ColumnError(name, head.columns)
    index = column_index(name, head, column)
    for note in head.notes:
        on_note(note)
    return cells(name, lines, head, [index], on_note)


def columns_in(name: str, lines: Iterator[str], format: str, header: bool = True) -> list[str]:
    """Return the columns that a user can choose from.

    These are the names in the header row, numbers without a header, or the keys of the texts in the
    first JSON object.
    """
    if format in TABLES:
        head, _ = find_header(name, lines, format, None, header)
        return [] if head is None else head.columns
    if format == "json":
        is_array, lines = begins_array(lines)
        if is_array:
            first = next(iter(json_array(name, lines)), None)
            return text_keys(first) if isinstance(first, dict) else []
    for number, line in enumerate(lines, 1):
        if line.strip():
            return text_keys(json_object(f"{name}, line {number}", line, example(["text"])))
    return []


def text_keys(record: dict[str, Any]) -> list[str]:
    return [key for key, value in record.items() if isinstance(value, str)]


def format_of(source: str | Path) -> str:
    """Return the format of a file's ending. It ignores the second ending of a compressed file."""
    stem, suffix = os.path.splitext(source)
    if suffix.lower() in COMPRESSED_SUFFIXES:
        suffix = os.path.splitext(stem)[1]
    return SUFFIXES.get(suffix.lower(), "text")


def json_texts(name: str, lines: Iterable[str], key: str, first: int = 1) -> Iterator[str]:
    """Yield the text that each record has under `key`, or "" for a blank line.

    first: number of the first line.
    """
    for number, line in enumerate(lines, first):
        yield json_record(name, number, line, [key])[0] if line.strip() else ""


def json_record(name: str, number: int, line: str, keys: Sequence[str]) -> list[str]:
    """Return the texts that the record in a line has under `keys`. number: of the line."""
    record = json_object(f"{name}, line {number}", line, example(keys))
    return record_texts(name, f"line {number}", record, keys)


def record_texts(name: str, where: str, record: dict[str, Any], keys: Sequence[str]) -> list[str]:
    fixed = f"write each line as {example(keys)}" if len(keys) > 1 else ""  # the user has no choice
    for key in keys:
        if key in record and not isinstance(record[key], str):
            raise CorpusError(
                f"{name}, {where}: the value of {key!r} is not text",
                fixed or "choose another key with --column",
            )
        if key not in record:
            keys_here = listed(record) or "none"
            raise CorpusError(
                f"{name}, {where} has no key {key!r}",
                fixed or f"choose one with --column: {keys_here}",
            )
    return [checked_text(name, where, record[key]) for key in keys]


def begins_array(lines: Iterator[str]) -> tuple[bool, Iterator[str]]:
    """Return whether the first line that is not blank begins a JSON array, and all lines."""
    seen: list[str] = []
    for line in lines:
        seen.append(line)
        if line.strip():
            break
    return bool(seen) and seen[-1].lstrip().startswith("["), chain(seen, lines)


def array_texts(name: str, lines: Iterable[str], key: str) -> Iterator[str]:
    """Yield the texts in a JSON array: its strings, and the texts of its objects under `key`."""
    for number, record in enumerate(json_array(name, lines), 1):
        if isinstance(record, str):
            yield checked_text(name, f"element {number}", record)
        elif isinstance(record, dict):
            yield record_texts(name, f"element {number}", record, [key])[0]
        else:
            raise CorpusError(
                f"{name}, element {number} is neither a text nor an object such as {example([key])}"
            )


def json_array(name: str, lines: Iterable[str]) -> list[Any]:
    size = 0
    seen: list[str] = []
    for line in lines:
        seen.append(line)
        size += len(line) + 1
        if size > MAX_JSON:
            raise CorpusError(
                f"{name} has a JSON array of more than {MAX_JSON:,} characters",
                "write one element per line with `jq -c '.[]'`, and use --format jsonl",
            )
    value = json_value(
        name, "\n".join(seen), 'write an array such as ["…", "…"] or [{"text": "…"}]'
    )
    if not isinstance(value, list):
        raise CorpusError(f'{name} is not a JSON array such as ["…", "…"]')
    return value


def json_object(
    where: str, line: str, such: str, what: str = "each line is an object"
) -> dict[str, Any]:
    """Return the JSON object in a line.

    such, what: an example and a description of such an object, for the error message.
    """
    record = json_value(where, line, f"{what} such as {such}")
    if not isinstance(record, dict):
        raise CorpusError(f"{where} is not a JSON object such as {such}")
    return record


def json_value(where: str, text: str, wanted: str) -> Any:
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        other = "it is nested too deeply" if deep else "a number has too many digits"
        reason = getattr(error, "msg", other)
        if isinstance(error, json.JSONDecodeError) and "line" not in where:
            where += f", line {error.lineno}"
        raise CorpusError(f"{where} is not valid JSON: {reason}", wanted) from None


def example(keys: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{key}": "…"' for key in keys) + "}"


Row = tuple[int, int, list[str]]  # number of its first line, of its last line, its cells


@dataclass(frozen=True)
class Header:
    """The beginning of a table. columns: their names, or numbers without a header."""

    separator: str
    quotes: bool  # whether cells may be quoted
    columns: list[str]
    begin: int  # number of lines before the first row with an entry
    notes: list[str]


def find_header(
    name: str, lines: Iterator[str], format: str, column: str | None, header: bool
) -> tuple[Header | None, Iterator[str]]:
    """Return the beginning of a table, or None if it has no rows, and all lines.

    If the column is given by its name, the header is the first row, provided that it has this name.
    Otherwise it is a later one of the first MAX_ROWS_READ rows that has the name. The next row must
    have as many cells, and all rows above must be narrower or begin with "#".

    Without a name, the header is the first row that is as wide as most rows.
    """
    separators, begin, seen = separated(lines, format)
    by_name = header and column is not None and not is_number(column)
    place_of_header = None
    for more in ((), islice(lines, MAX_ROWS_READ)):
        if place_of_header is None:
            seen += more
            tables = [first_rows(name, seen, begin, separator, format) for separator in separators]
            place_of_header = header_with(tables, column) if by_name and column else None
    again = chain(seen, lines)
    number, place = place_of_header or likely_header(tables, header)
    if not tables[number]:
        head = Header(separators[number], format == "csv", [], begin, [])
        # An unfinished row raises its error when it is read.
        return (head if any(seen[begin:]) else None), again
    first, last, row = tables[number][place]
    columns = [cell.strip() for cell in row]
    if not header:
        columns = [str(n) for n in range(1, max(len(row) for *_, row in tables[number]) + 1)]
    notes, separator = [], separators[number]
    if format == "csv" and separator != ",":
        shown = SEPARATORS.get(separator, ascii(separator))
        notes.append(f"has cells separated by {shown}")
    if place:
        what = "header" if header else "first row"
        above = shortened(seen[begin:])
        notes.append(f'has its {what} in line {first}: Kamon skips the lines above, "{above}"')
    if header and not by_name and (column is not None or len(columns) == 1):
        what = f"row in line {first}" if place else "first row"
        notes.append(
            f"has its {what} read as the header: {listed(columns)} (if it is data, add --no-header)"
        )
    begin = last if header else first - 1
    return Header(separator, format == "csv", columns, begin, notes), again


def is_number(column: str) -> bool:
    return column.isascii() and column.isdecimal()


def shortened(lines: list[str]) -> str:
    """Return the first line that is not blank, or its beginning."""
    text = next(filter(None, map(str.strip, lines)), "")
    return clipped(text, 60)


def first_rows(name: str, seen: list[str], begin: int, separator: str, format: str) -> list[Row]:
    """Return the rows in the first lines that are not blank, without an unfinished last one."""
    complete: list[Row] = []
    try:
        for row in rows(name, seen[begin:], separator, format == "csv", begin + 1):
            if row[2]:
                complete.append(row)  # noqa: PERF401 - keeps the rows before an error
    except CorpusError:
        pass
    return complete


def width(row: Row) -> int:
    """Return the number of cells up to the last one that is not blank."""
    return max((n for n, cell in enumerate(row[2], 1) if cell.strip()), default=0)


def header_with(tables: list[list[Row]], column: str) -> tuple[int, int] | None:
    """Return the table (there is one per separator) and the row that have the column."""
    for number, table in enumerate(tables):
        if table and column in map(str.strip, table[0][2]):
            return number, 0
    for number, table in enumerate(tables):
        for place in range(1, len(table) - 1):
            row = table[place]
            if (
                column in map(str.strip, row[2])
                and len(row[2]) == len(table[place + 1][2])
                and all(width(e) < width(row) or e[2][0].startswith("#") for e in table[:place])
            ):
                return number, place
    return None


def likely_header(tables: list[list[Row]], header: bool) -> tuple[int, int]:
    """Return the likely table and header row if the column is not given by its name.

    The header is the first row. If that has only one cell, it is the first row as wide as most.
    There may be comments above the header, or above the first row of a table without a header.
    """
    number, narrow = 0, bool(tables[0]) and width(tables[0][0]) < 2
    for i, table in enumerate(tables if narrow else []):
        usual = usual_width(table)
        if usual > 1 and (i == 0 or sum(width(row) == usual for row in table) > len(table) / 2):
            number = i
            break
    usual = usual_width(tables[number])
    for place, row in enumerate(tables[number]):
        comment = row[2][0].startswith("#") and (usual == 1 or width(row) < usual)
        if not comment and not (header and narrow and width(row) < usual):
            return number, place
    return number, 0


def usual_width(table: list[Row]) -> int:
    widths = [width(row) for row in table]
    return max(set(widths), key=lambda n: (widths.count(n), n), default=1)


def column_index(name: str, head: Header, column: str | None) -> int:
    columns = head.columns
    if column is None or not columns:
        return 0
    if columns.count(column) > 1:
        raise ConfigError(
            f"{name} has more than one column {column!r}", "give its number, starting at 1"
        )
    if column in columns:
        return columns.index(column)
    if is_number(column) and 1 <= int(column[:9]) <= len(columns):
        return int(column) - 1
    if columns == [str(n) for n in range(1, len(columns) + 1)]:
        raise ConfigError(
            f"{name} has no column {column!r}",
            f"without a header row, give a number from 1 to {len(columns)}",
        )
    raise ConfigError(f"{name} has no column {column!r}{suggestion(column, columns)}")


def separated(lines: Iterator[str], format: str) -> tuple[list[str], int, list[str]]:
    r"""Return the likely separators, the number of lines that declare one, and the lines read.

    The most likely separator comes first. In CSV, a first line such as `sep=;` declares it.
    Otherwise it is the one that occurs most often in the first row, outside quoted cells.

    Args:
        lines: of the table. This function reads some of them.
        format: "csv" or "tsv".

    >>> separated(iter(['id;"a,b,c"', "1;2"]), "csv")[0][0]
    ';'
    """
    seen: list[str] = []
    if format == "tsv":
        return ["\t"], 0, seen
    counts = dict.fromkeys(SEPARATORS, 0)
    size, inside = 0, False  # inside a quoted cell, which may have several lines
    for line in lines:
        seen.append(line)
        if len(seen) == 1 and (declared := SEPARATOR_LINE.fullmatch(line)):
            return [declared[1]], 1, seen
        size += len(line)
        rest = '"' + line if inside else line
        quoted = QUOTED.findall(rest)
        inside = bool(quoted) and not quoted[-1]
        bare = QUOTED.sub("", rest)
        for separator in SEPARATORS:
            counts[separator] += bare.count(separator)
        if (line and not inside) or size > MAX_LINE:
            break
    return sorted(SEPARATORS, key=counts.__getitem__, reverse=True), 0, seen


def rows(
    name: str, lines: Iterable[str], separator: str, quotes: bool, number: int = 1
) -> Iterator[Row]:
    """Yield the rows of a table. A blank line is a row without cells.

    Kamon does not use `csv.reader`, because its limit on the length of a cell applies to the whole
    process.

    Args:
        name, lines, separator: of the table.
        quotes: whether cells may be quoted, as in CSV but not in TSV.
        number: the number of the first line.
    """
    numbered = enumerate(lines, number)
    for begin, line in numbered:
        if quotes and '"' in line:
            yield quoted_row(name, numbered, separator, begin, line)
        else:
            yield begin, begin, line.split(separator) if line else []


def quoted_row(
    name: str, numbered: Iterator[tuple[int, str]], separator: str, begin: int, line: str
) -> Row:
    """Return a row with quotes, which continues on the next lines if a quote is open.

    In a cell that does not begin with a quote, a quote is an ordinary character.
    """
    row: list[str] = []
    end, place = begin, 0
    while place <= len(line):
        if not line.startswith('"', place):
            if '"' not in line[place:]:
                row += line[place:].split(separator)
                break
            stop = line.find(separator, place)
            stop = len(line) if stop < 0 else stop
            row.append(line[place:stop])
            place = stop + 1
            continue
        stop = line.find('"', place + 1)
        if stop > 0 and line[stop + 1 : stop + 2] in (separator, ""):  # true for nearly all cells
            row.append(line[place + 1 : stop])
            place = stop + 2
            continue
        parts, size, place = [], 0, place + 1
        while True:
            match = CELL_END.match(line, place)
            assert match is not None
            parts.append(match[1].replace('""', '"'))
            size += len(match[1])
            if match[2]:
                break
            end, line = next(numbered, (0, ""))
            if not end or size > MAX_LINE:
                raise CorpusError(
                    f"{name}, line {begin} is not valid CSV: a quote that opens there "
                    + ("is never closed" if not end else f"is open for {MAX_LINE:,} characters"),
                    "close the quote, or double it if it is part of the cell",
                )
            place = 0
        row.append("\n".join(parts))
        place = match.end() + 1
        if not line.startswith(separator, place - 1) and place <= len(line):
            where = f", in the row that begins in line {begin}" if begin < end else ""
            raise CorpusError(
                f"{name}, line {end} is not valid CSV: {line[place - 1]!r} follows the closing "
                f"quote of a cell{where}",
                "double each quote inside a quoted cell",
            )
    return begin, end, row


def cells(
    name: str,
    lines: Iterator[str],
    head: Header,
    indices: Sequence[int],
    on_note: Callable[[str], object],
) -> Iterator[Any]:
    """Yield the cells with these indices of each row below the header.

    A single cell is a text, several are a tuple. Those of a blank row are "".
    """
    pick, index = itemgetter(*indices), max(indices)
    blank = pick([""] * (index + 1))
    several = first = 0  # number of rows of several lines, and the first line of the first one
    longer = first_longer = 0  # the same for rows with more cells than the header
    most = len(head.columns) if head.columns else MAX_LINE
    wanted = f"column {index + 1}" + (f", {head.columns[index]!r}" if head.columns else "")
    lines = islice(lines, head.begin, None)
    for begin, end, row in rows(name, lines, head.separator, head.quotes, head.begin + 1):
        if begin < end:
            several += 1
            first = first or begin
        if len(row) > most and any(row[most:]):
            longer += 1
            first_longer = first_longer or begin
        if not row:
            yield blank
        elif len(row) <= index:
            number = f"{len(row)} cell{'' if len(row) == 1 else 's'}"
            raise CorpusError(f"{name}, line {end} has only {number}, not {wanted}")
        else:
            yield pick(row)
    if several:
        what = "1 row of several lines," if several == 1 else f"{several:,} rows of several lines,"
        on_note(f"has {what} from line {first} on: check for a quote that is not closed")
    if longer:
        what = "1 row" if longer == 1 else f"{longer:,} rows"
        on_note(
            f"has {what} of more than {most:,} cells, from line {first_longer} on: "
            "quote cells that contain the separator"
        )


def guess_format(lines: Iterable[str]) -> Literal["csv", "tsv", "jsonl", "json"] | None:
    """Return the format that lines read as text seem to have, or None for text.

    Nearly all lines must look like records, or have the same number of separators, and not only one
    at the end. A comma before a space does not count, because it is common in prose.
    """
    rows = list(filter(None, map(str.strip, islice(lines, MAX_ROWS_READ))))
    least = MIN_SHARE * len(rows)
    if rows and (rows[0] == "[" or rows[0].startswith(('["', '[{"'))):
        return "json"
    if len(rows) < MIN_ROWS_READ:
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


def text_notes(lines: list[str]) -> list[str]:
    """Return the notes about lines that were read as text but look like something else."""
    guess = guess_format(lines)
    if guess == "jsonl":
        return [
            "looks like JSON Lines: read it with --format jsonl, and choose a key with --column"
        ]
    if guess == "json":
        return [
            "looks like a JSON array: read it with --format json, and choose a key with --column"
        ]
    if guess:
        return [
            f"looks like a table: read one column with --format {guess} --column NAME, "
            "or --column 1 --no-header if it has no header row"
        ]
    if sum(line.startswith("# ") or " # " in line for line in lines) >= MIN_COMMENTS:
        return [
            "has comments after #, which are read as entries: "
            "drop lines that begin with # with `kamon clean --drop-regex '^#'`"
        ]
    return []
