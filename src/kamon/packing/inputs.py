"""The inputs of packing: the files, and the text of any part of a file of any size."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from kamon.config import suggestion
from kamon.data.builtin import BUILT_IN
from kamon.data.corpus import in_blocks
from kamon.data.documents import BLOCK
from kamon.data.readers import (
    COMPRESSED,
    UTF_16_MARKS,
    check_line_lengths,
    decoded,
    import_zstandard,
    lines_of,
    name_of,
    open_source,
)
from kamon.data.tables import FORMATS, entries_in, find_header, format_of, json_texts
from kamon.errors import ConfigError, CorpusError

Report = Callable[[int, int], object]  # its arguments: new bytes read, new tokens made


@dataclass(frozen=True)
class Source:
    """A file when Kamon found it. path: as the user gave it. format: one of FORMATS."""

    path: str
    size: int
    mtime_ns: int
    format: str

    @property
    def name(self) -> str:
        return name_of(self.path)


@dataclass(frozen=True)
class Piece:
    """The lines of source number `source` that begin in the bytes begin … end − 1."""

    source: int
    begin: int
    end: int


def find_sources(paths: Sequence[str], format: str | None = None) -> tuple[list[Source], int]:
    """Return the files (those in a folder by name), and the number of hidden ones.

    Args:
        paths: files and folders. Kamon leaves out hidden files in folders.
        format: format of all files. By default, Kamon chooses it by the file's extension.

    Raises: ConfigError or CorpusError if a file is missing, named twice, or not readable twice.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}{suggestion(format, FORMATS)}")
    sources: list[Source] = []
    num_hidden = 0
    seen: dict[tuple[int, int], str] = {}
    for path in paths:
        if path == "-":
            raise ConfigError(
                "standard input cannot be packed, because it can be read only once", "give a file"
            )
        if path in BUILT_IN and not os.path.exists(path):
            raise CorpusError(
                f"no file {path}: `kamon pack` reads files, not built-in lists",
                f"write the list to a file with `kamon clean {path} -o {path}.txt`",
            )
        files, hidden = files_in(path) if os.path.isdir(path) else ([path], 0)
        num_hidden += hidden
        for file in files:
            status = stat_of(file)
            same = seen.setdefault((status.st_dev, status.st_ino), file)
            if same is not file:
                raise ConfigError(
                    f"{name_of(file)} is the same file as {name_of(same)}", "give it once"
                )
            kind = format or format_of(file)
            sources.append(Source(file, status.st_size, status.st_mtime_ns, kind))
    if any(source.path.lower().endswith(".zst") for source in sources):
        import_zstandard()
    return sources, num_hidden


def files_in(folder: str) -> tuple[list[str], int]:
    """Return all files in a folder and its subfolders, sorted, and the number of hidden ones."""

    def failed(error: OSError) -> None:
        raise CorpusError(f"cannot read {name_of(error.filename)}: {error.strerror}") from None

    names: list[str] = []
    num_hidden = 0
    for path, folders, files in os.walk(folder, onerror=failed):
        num_hidden += sum(name.startswith(".") for name in (*folders, *files))
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [os.path.join(path, name) for name in files if not name.startswith(".")]
    if not names:
        raise CorpusError(f"{name_of(folder)} is an empty directory")
    return sorted(names, key=lambda path: path.split(os.sep)), num_hidden


def stat_of(path: str) -> os.stat_result:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        with open_source(path, name_of(path)) as file:  # raises an error with the reason
            status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise CorpusError(f"{name_of(path)} is not a regular file", "copy it to a file first")
    return status


def split_source(
    sources: Sequence[Source], max_bytes: int, *, whole_texts: bool
) -> list[list[Piece]]:
    """Return all files as units of work of up to `max_bytes` bytes.

    Small files share a unit, in their order. Kamon cuts a longer file if reading can start at any
    place and its lines are independent. Otherwise, a longer file is one unit.

    whole_texts: whether each text file is one document, so that its lines are not independent.
    """
    divisible = ("jsonl",) if whole_texts else ("text", "jsonl")
    units: list[list[Piece]] = []
    room = -1
    for number, source in enumerate(sources):
        step = max(1, source.size)
        if source.format in divisible and step > max_bytes and is_cut(source):
            step = max_bytes
        for begin in range(0, max(1, source.size), step):
            piece = Piece(number, begin, min(begin + step, source.size))
            size = piece.end - piece.begin
            if size > room:
                units.append([])
                room = max_bytes
            units[-1].append(piece)
            room -= size
    return units


def is_cut(source: Source) -> bool:
    """Return True if reading can start at any line. UTF-16 and compressed files do not allow it."""
    with open_source(source.path, source.name) as file:
        return not file.read(10).startswith((*UTF_16_MARKS, *COMPRESSED))


def notes_of(source: Source, column: str | None, header: bool) -> list[str]:
    """Return the notes about the first lines of a CSV or TSV file."""
    whole = texts(source, Piece(0, 0, source.size), ignore_progress)
    lines = chain.from_iterable(lines_of(whole))
    head, _ = find_header(source.name, lines, source.format, column, header)
    return [] if head is None else head.notes


def texts(source: Source, piece: Piece, report: Report, number: int = 1) -> Iterator[str]:
    r"""Yield the text of a piece in parts, with \n as line end and without a byte order mark.

    number: number of its first line. CorpusError if the text is invalid or the file has changed.
    """
    with open_source(source.path, source.name) as file:
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (source.size, source.mtime_ns):
            raise CorpusError(
                f"{source.name} changed while it was packed",
                "run the command again with --overwrite",
            )
        yield from decoded(piece_bytes(source, piece, file, report), source.name, number)


def piece_bytes(source: Source, piece: Piece, file: BinaryIO, report: Report) -> Iterator[bytes]:
    begin = line_start(file, piece.begin)
    end = line_start(file, piece.end) if piece.end < source.size else source.size
    file.seek(begin)
    while begin < end and (block := file.read(min(BLOCK, end - begin))):
        begin += len(block)
        yield block
        report(len(block), 0)


def ignore_progress(_num_bytes: int, _num_tokens: int) -> None:
    pass


def line_start(file: BinaryIO, place: int) -> int:
    r"""Return the start of the first line at or after `place`. Lines end in \n here."""
    if place == 0:
        return 0
    file.seek(place - 1)
    while line := file.readline(BLOCK):
        if line.endswith(b"\n"):
            break
    return file.tell()


def entries(
    source: Source,
    piece: Piece,
    column: str | None,
    report: Report,
    number: int = 1,
    header: bool = True,
) -> Iterator[list[str]]:
    """Yield lists of the lines, records or cells of a piece, including blank ones.

    Args:
        source, piece: what to read.
        column, header: as in `kamon.data.corpus.read`.
        report: called with the number of new bytes read, and 0.
        number: number of the first line.
    """
    lines = check_line_lengths(lines_of(texts(source, piece, report, number)), source.name, number)
    if source.format == "text":
        yield from lines
        return
    single = chain.from_iterable(lines)
    if source.format == "jsonl":
        yield from in_blocks(json_texts(source.name, single, column or "text", number))
    else:
        yield from in_blocks(entries_in(source.name, single, source.format, column, header))


def lines_before(source: Source, piece: Piece) -> int:
    """Return how many lines of the file end before the piece begins."""
    before = Piece(piece.source, 0, piece.begin)
    return sum(text.count("\n") for text in texts(source, before, ignore_progress))
