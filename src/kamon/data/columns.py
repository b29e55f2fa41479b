"""Tables of entries with given values, such as the country and the sex of each name.

A row has an entry, one value for each given column, and a weight: how often it counts. The same
entry with other values is another row. Rows are stored as documents, their cells separated by
SEPARATOR, so a model directory keeps them as it keeps a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from kamon.config import listed, suggestion
from kamon.data import builtin
from kamon.data.corpus import Corpus, from_entries
from kamon.data.documents import Documents, nfc
from kamon.data.readers import checked_text, lines_in, name_of, whole_lines
from kamon.data.tables import (
    TABLES,
    ColumnError,
    begins_array,
    cells,
    checked_format,
    column_index,
    find_header,
    is_number,
    json_array,
    json_object,
)
from kamon.errors import ConfigError, CorpusError

SEPARATOR = "\x1f"  # between the cells of a stored row
MAX_ROWS = 200_000  # the n-grams of more rows take too long to count at each start
MAX_VALUES = 300  # of all given columns
MAX_CLASSES = 500  # combinations of values: each reads what a user types
MAX_NAME, MAX_VALUE = 40, 59  # characters: with "=" the name of a special token
MAX_WEIGHT = 1e15

Cells: TypeAlias = "Iterator[tuple[str, Sequence[Any]]]"  # where a row is, and its cells


class DataFrame(Protocol):
    """A DataFrame of pandas or polars. Kamon needs neither package."""

    @property
    def columns(self) -> Any:
        """The names of its columns."""


class Row(NamedTuple):
    """An entry, the value of each given column, and how often it counts."""

    text: str
    values: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Columns:
    """Which columns of a table to read.

    Attributes:
        entry: the column of the entries. None: the only column that is not named here.
        given: the columns of values.
        weight: the column of numbers that count entries.
    """

    entry: str | None
    given: tuple[str, ...]
    weight: str | None = None

    def __post_init__(self) -> None:
        named = [name for name in (self.entry, *self.given, self.weight) if name is not None]
        for name in named:
            if not isinstance(name, str) or not name or named.count(name) > 1:
                shown = listed(list(map(str, named)))
                raise ConfigError(f"the columns {shown} are not all different")
        if not self.given:
            raise ConfigError("a weight needs given columns", "name them with --given")
        for name in self.given:
            check_name(name)

    def chosen(self, source: str, columns: Sequence[str]) -> list[str]:
        """Return the names of all columns to read, the entries first and the weight last."""
        entry = self.entry
        if entry is None:
            others = [name for name in columns if name not in (*self.given, self.weight)]
            if len(others) != 1:
                raise ColumnError(source, list(columns))
            (entry,) = others
        return [entry, *self.given, *([self.weight] if self.weight is not None else [])]


def check_name(name: str) -> None:
    if any(char in name for char in "=,:\x1f") or not name.isprintable() or len(name) > MAX_NAME:
        raise ConfigError(
            f"a given column cannot be called {name!r:.100}",
            f"a name has at most {MAX_NAME} visible characters without = , and :",
        )


@dataclass(frozen=True)
class Table:
    """The rows of a table, each different one once.

    Attributes:
        corpus: the entries, and how they were read.
        columns: names of the given columns.
        weight: name of the column of weights, if there is one.
    """

    corpus: Corpus
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    weight: str | None = None

    @cached_property
    def values(self) -> dict[str, list[str]]:
        """The values of each given column, sorted."""
        return values_of(self.columns, self.rows)

    def documents(self) -> Documents:
        """Return the rows as documents: see `rows_in`."""
        return Documents.of(
            SEPARATOR.join([*row.values, repr(row.weight), row.text]) for row in self.rows
        )


def values_of(columns: Sequence[str], rows: Iterable[Row]) -> dict[str, list[str]]:
    """Return the different values of each column, sorted."""
    found: list[set[str]] = [set() for _ in columns]
    for row in rows:
        for values, value in zip(found, row.values, strict=True):
            values.add(value)
    return {name: sorted(values) for name, values in zip(columns, found, strict=True)}


def rows_in(documents: Iterable[str], num_columns: int) -> tuple[Row, ...]:
    """Return the rows that `Table.documents` stored. Raises ValueError for other documents."""
    rows = []
    for document in documents:
        cells = document.split(SEPARATOR)
        if len(cells) != num_columns + 2 or not cells[-1]:
            raise ValueError("a stored row has another number of cells")
        row = Row(cells[-1], tuple(cells[:-2]), float(cells[-2]))
        if not 0 < row.weight < math.inf:
            raise ValueError(f"a stored row has the weight {row.weight}")
        rows.append(row)
    return tuple(rows)


def read_table(
    source: Any, columns: Columns, *, format: str | None = None, header: bool = True
) -> Table:
    """Read a file, a list of mappings or a DataFrame.

    Args:
        source: a path, "-", "names" (the built-in list), an iterable of mappings, or a DataFrame of
            pandas or polars.
        columns: those to read.
        format, header: of a file, as in `kamon.data.corpus.read`.

    Raises: ConfigError, CorpusError, ColumnError.
    """
    if isinstance(source, Table):
        return source
    if isinstance(source, str) and source == builtin.NAMES:
        if format is not None or not header:
            raise ConfigError(f"the built-in list {source} has no format", "leave it out")
        return from_cells(source, built_in_cells(columns), columns)
    if isinstance(source, str | PathLike):
        return read_file(source, columns, format, header=header)
    if format is not None or not header:
        raise ConfigError("format and header need a file", "leave them out, or give the file")
    return from_records(source, columns)


def read_text(text: str, name: str, columns: Columns, format: str, *, header: bool) -> Table:
    """Return the table in a text, as `read_file` does for a file with this content."""
    if format == "text":
        raise ConfigError(f"{name} is text, which has no columns", "give its format, such as csv")
    return from_lines(name, lines_in(text, name), columns, format, header=header)


def read_file(
    source: str | PathLike[str], columns: Columns, format: str | None, *, header: bool
) -> Table:
    path = Path(source) if not isinstance(source, str) else source
    format = checked_format(path, None, format, header)
    if format == "text":
        raise ConfigError(
            f"{source} is read as text, which has no columns", "add a --format such as --format csv"
        )
    return from_lines(name_of(path), whole_lines(path), columns, format, header=header)


def from_lines(
    name: str, lines: Iterator[str], columns: Columns, format: str, *, header: bool
) -> Table:
    notes: list[str] = []
    if format in TABLES:
        found = table_cells(name, lines, format, columns, header=header, on_note=notes.append)
    else:
        found = json_cells(name, lines, format, columns)
    return from_cells(name, found, columns, notes)


def built_in_cells(columns: Columns) -> Cells:
    """Yield the chosen cells of the built-in table: name, sex ("f" or "m") and births."""
    names = ("name", "sex", "births")
    records = (
        (f"row {number}", dict(zip(names, (name, sex.lower(), births), strict=True)))
        for number, (name, sex, births) in enumerate(builtin.names_table(), 1)
    )
    return record_cells(builtin.NAMES, records, columns)


def table_cells(
    name: str,
    lines: Iterator[str],
    format: str,
    columns: Columns,
    *,
    header: bool,
    on_note: Callable[[str], object],
) -> Cells:
    """Yield the chosen cells of each row that is not blank."""
    by_name = next((c for c in (columns.entry, *columns.given) if c and not is_number(c)), None)
    head, lines = find_header(name, lines, format, by_name, header)
    if head is None:
        return
    chosen = columns.chosen(name, head.columns)
    indices = [column_index(name, head, column) for column in chosen]
    for note in head.notes:
        on_note(note)
    for number, row in enumerate(cells(name, lines, head, indices, on_note), 1):
        if any(row):
            yield f"row {number}", row


def json_cells(name: str, lines: Iterator[str], format: str, columns: Columns) -> Cells:
    """Yield the chosen values of each JSON object."""
    is_array = False
    if format == "json":
        is_array, lines = begins_array(lines)
    if is_array:
        records = [(f"element {i}", item) for i, item in enumerate(json_array(name, lines), 1)]
        yield from record_cells(name, records, columns)
        return
    such = '{"text": "…"}'
    objects = (
        (f"line {number}", json_object(f"{name}, line {number}", line, such))
        for number, line in enumerate(lines, 1)
        if line.strip()
    )
    yield from record_cells(name, objects, columns)


def record_cells(name: str, records: Iterable[tuple[str, Any]], columns: Columns) -> Cells:
    chosen: list[str] = []
    for where, record in records:
        if not isinstance(record, Mapping):
            raise CorpusError(f"{name}, {where} is not a mapping but {record!r:.80}")
        chosen = chosen or columns.chosen(name, list(map(str, record)))
        for column in chosen:
            if column not in record:
                raise CorpusError(
                    f"{name}, {where} has no key {column!r}"
                    f"{suggestion(column, list(map(str, record)))}"
                )
        yield where, [record[column] for column in chosen]


def from_records(source: Any, columns: Columns) -> Table:
    """Return the table of a list of mappings, or of a DataFrame."""
    name, records = "a table in memory", source
    if hasattr(source, "columns"):
        if hasattr(source, "to_dicts"):  # polars
            records = source.to_dicts()
        elif hasattr(source, "to_dict"):  # pandas
            records = source.to_dict("records")
    if isinstance(records, Mapping) or not isinstance(records, Iterable):
        raise CorpusError(
            f"given columns need a table, not {type(source).__name__}",
            "give a file, a list of mappings or a DataFrame",
        )
    numbered = ((f"row {number}", record) for number, record in enumerate(records, 1))
    return from_cells(name, record_cells(name, numbered, columns), columns)


def from_cells(name: str, found: Cells, columns: Columns, notes: Sequence[str] = ()) -> Table:
    """Return the table of these rows, stripped and in NFC.

    notes: about how they were read. They may be added while the rows are.
    """
    given = columns.given
    weights: dict[tuple[str, tuple[str, ...]], float] = {}
    texts: list[str] = []
    num_read = 0
    for where, row in found:
        num_read += 1
        if num_read > MAX_ROWS:
            raise CorpusError(
                f"{name} has more than {MAX_ROWS:,} rows, the most that a table may have",
                "leave out rows, such as those of the smallest weights",
            )
        text = as_text(name, where, "entry", row[0])
        texts.append(text)
        entry = nfc(text.strip())
        if not entry:
            continue
        values = tuple(
            value_of(name, where, column, cell)
            for column, cell in zip(given, row[1:], strict=False)
        )
        weight = 1.0 if columns.weight is None else weight_of(name, where, columns.weight, row[-1])
        key = entry, values
        if columns.weight is None:
            weights[key] = weight
        else:
            weights[key] = weights.get(key, 0.0) + weight
    corpus = from_entries(name, texts, notes)
    rows = tuple(Row(text, values, weight) for (text, values), weight in weights.items())
    table = Table(corpus, given, rows, columns.weight)
    check_values(name, table.values)
    if (num := len({row.values for row in rows})) > MAX_CLASSES:
        raise ConfigError(
            f"{name} has {num:,} combinations of given values, and a model can have {MAX_CLASSES}",
            "give fewer columns, or columns with fewer values",
        )
    return table


def as_text(name: str, where: str, column: str, cell: Any) -> str:
    """Return a cell as text. Numbers and truth values are written as Python does."""
    if is_missing(cell):
        cell = ""
    if not isinstance(cell, str):
        if not hasattr(cell, "__index__") and not hasattr(cell, "__float__"):
            raise CorpusError(
                f"{name}, {where}: the {column} is not text but {cell!r:.80}",
                "turn the column into text first",
            )
        cell = str(cell)
    text = checked_text(name, where, cell)
    if SEPARATOR in text:
        raise CorpusError(f"{name}, {where}: the {column} has the control character U+001F")
    return text


def is_missing(cell: Any) -> bool:
    """Return whether a cell is None, NaN, or NA of pandas, which has no truth value."""
    try:
        return cell is None or bool(cell != cell)
    except TypeError:
        return True


def value_of(name: str, where: str, column: str, cell: Any) -> str:
    value = nfc(as_text(name, where, column, cell).strip())
    if not value:
        raise CorpusError(
            f"{name}, {where} has no {column}", "fill it in, for example with unknown"
        )
    if len(value) > MAX_VALUE or not value.isprintable():
        raise CorpusError(
            f"{name}, {where}: the {column} {value!r:.100} cannot be a given value",
            f"a value has at most {MAX_VALUE} visible characters",
        )
    return value


def weight_of(name: str, where: str, column: str, cell: Any) -> float:
    text = as_text(name, where, column, cell).strip()
    try:
        weight = float(text)
    except ValueError:
        weight = math.nan
    if not 0 < weight <= MAX_WEIGHT:
        raise CorpusError(
            f"{name}, {where}: the weight {text!r:.80} in {column} is not a number above 0",
            "correct it, or leave the row out",
        )
    return weight


def check_values(name: str, values: Mapping[str, list[str]]) -> None:
    """Raise ConfigError if the given columns cannot be what a model is conditioned on."""
    for column, different in values.items():
        if len(different) < 2:
            raise ConfigError(
                f"{name} has only one {column}, {different[0]!r}",
                f"leave {column} out of the given columns",
            )
    total = sum(map(len, values.values()))
    if total > MAX_VALUES:
        most = max(values, key=lambda column: len(values[column]))
        raise ConfigError(
            f"{name} has {total:,} given values, {len(values[most]):,} of them in {most}, and a "
            f"model can have {MAX_VALUES}",
            "give columns with fewer values",
        )


def divided(rows: Iterable[Row], held_out: Iterable[str]) -> tuple[list[Row], list[Row]]:
    """Return (rows of the training set, rows whose entry is in the validation set)."""
    apart = set(held_out)
    learned: list[Row] = []
    tested: list[Row] = []
    for row in rows:
        (tested if row.text in apart else learned).append(row)
    return learned, tested
