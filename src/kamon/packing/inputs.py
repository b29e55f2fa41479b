"""Many files as one corpus, however long: which there are, and the text of any piece of one."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from kamon.config import suggestion
from kamon.data.corpus import in_blocks
from kamon.data.documents import BLOCK
from kamon.data.readers import (
    COMPRESSED,
    UTF_16_MARKS,
    decoded,
    import_zstandard,
    lines_of,
    name_of,
    open_source,
    removed_message,
)
from kamon.data.tables import FORMATS, entries_in, find_header, format_of, json_texts
from kamon.errors import ConfigError, CorpusError

Report = Callable[[int], object]  # is told how many bytes of a file were read


@dataclass(frozen=True)
class Source:
    """A file as it was when it was found. path: as given; format: one of FORMATS."""

    path: str
    size: int
    mtime_ns: int
    format: str

    @property
    def name(self) -> str:
        return name_of(self.path)


@dataclass(frozen=True)
class Piece:
    """Of a source by its number the lines that begin in its bytes begin … end − 1."""

    source: int
    begin: int
    end: int


def find_sources(paths: Sequence[str], format: str | None = None) -> tuple[list[Source], int]:
    """The files, those of a folder in order of their names, and how many hidden ones are left out.

    format: of all; by default the ending tells. Errors: what there is not, or
    cannot be read twice, or is named twice.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"unknown format {format!r}{suggestion(format, FORMATS)}")
    found: list[Source] = []
    num_hidden = 0
    seen: dict[tuple[int, int], str] = {}
    for path in paths:
        if path == "-":
            raise ConfigError(
                "standard input cannot be packed, since it can be read but once: name a file"
            )
        files, hidden = files_in(path) if os.path.isdir(path) else ([path], 0)
        num_hidden += hidden
        for file in files:
            there = stat_of(file)
            same = seen.setdefault((there.st_dev, there.st_ino), file)
            if same is not file:
                raise ConfigError(f"{name_of(file)} is packed already as {name_of(same)}: drop one")
            kind = format or format_of(file)
            found.append(Source(file, there.st_size, there.st_mtime_ns, kind))
    if any(source.path.lower().endswith(".zst") for source in found):
        import_zstandard()
    return found, num_hidden


def files_in(folder: str) -> tuple[list[str], int]:
    """All files in a folder and those in it, sorted; hidden files and folders are counted alone."""

    def failed(error: OSError) -> None:
        raise CorpusError(f"cannot read {name_of(error.filename)}: {error.strerror}") from None

    found: list[str] = []
    num_hidden = 0
    for path, folders, files in os.walk(folder, onerror=failed):
        num_hidden += sum(name.startswith(".") for name in (*folders, *files))
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(path, name) for name in files if not name.startswith(".")]
    if not found:
        raise CorpusError(f"{name_of(folder)} is a directory without files")
    return sorted(found, key=lambda path: path.split(os.sep)), num_hidden


def stat_of(path: str) -> os.stat_result:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        with open_source(path, name_of(path)) as file:  # says why not
            found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise CorpusError(f"{name_of(path)} is not a file, and can be read but once: copy it first")
    return found


def split_source(sources: Sequence[Source], most: int, *, whole_texts: bool) -> list[list[Piece]]:
    """All files as units of work: many small ones together, in their order, up to `most` bytes.

    A longer one is cut if it can be read from any place on and its lines are independent, which
    those of text are not with `whole_texts`; else it is a unit of its own.
    """
    free = ("jsonl",) if whole_texts else ("text", "jsonl")
    units: list[list[Piece]] = []
    room = -1
    for number, source in enumerate(sources):
        step = max(1, source.size)
        if source.format in free and step > most and is_cut(source):
            step = most
        for begin in range(0, max(1, source.size), step):
            piece = Piece(number, begin, min(begin + step, source.size))
            size = piece.end - piece.begin
            if size > room:
                units.append([])
                room = most
            units[-1].append(piece)
            room -= size
    return units


def is_cut(source: Source) -> bool:
    """Whether its bytes are text from any line on, which UTF-16 and what is compressed are not."""
    with open_source(source.path, source.name) as file:
        return not file.read(10).startswith((*UTF_16_MARKS, *COMPRESSED))


def notes_of(source: Source, column: str | None, header: bool) -> list[str]:
    """What people should know of how a CSV or TSV file begins."""
    whole = texts(source, Piece(0, 0, source.size), lambda _: None)
    lines = (line for block in lines_of(whole) for line in block)
    head, _ = find_header(source.name, lines, source.format, column, header)
    return [] if head is None else head.notes


def texts(source: Source, piece: Piece, report: Report, number: int = 1) -> Iterator[str]:
    """The text of a piece as it comes: line ends are \\n, a mark at the start is gone.

    number: of its first line. CorpusError also where the file is no longer what it was.
    """
    with open_source(source.path, source.name) as file:
        check_same(source, file)
        yield from decoded(piece_bytes(source, piece, file, report), source.name, number)


def check_same(source: Source, file: BinaryIO) -> None:
    there = os.fstat(file.fileno())
    if (there.st_size, there.st_mtime_ns) != (source.size, source.mtime_ns):
        raise CorpusError(
            f"{source.name} was changed while it was packed: run the command again, with "
            "--overwrite, when it stays as it is"
        )


def piece_bytes(source: Source, piece: Piece, file: BinaryIO, report: Report) -> Iterator[bytes]:
    begin = line_start(file, piece.begin)
    end = line_start(file, piece.end) if piece.end < source.size else source.size
    return read(file, begin, end, report, BLOCK)


def read(file: BinaryIO, begin: int, end: int, report: Report, size: int) -> Iterator[bytes]:
    file.seek(begin)
    while begin < end and (block := file.read(min(size, end - begin))):
        begin += len(block)
        yield block
        report(len(block))


def line_start(file: BinaryIO, place: int) -> int:
    r"""Where the first line begins at this place or after it; lines end in \n here."""
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
    """The lines, records or cells of a piece, many at a time, blank ones too.

    column, header: as of `corpus.read`. number: of the first line.
    """
    lines = removed_message(lines_of(texts(source, piece, report, number)), source.name, number)
    if source.format == "text":
        yield from lines
        return
    each: Iterator[str] = (line for block in lines for line in block)
    if source.format == "jsonl":
        yield from in_blocks(json_texts(source.name, each, column or "text", number))
    else:
        yield from in_blocks(entries_in(source.name, each, source.format, column, header))


def lines_before(source: Source, piece: Piece) -> int:
    """How many lines of its file end before the piece begins."""
    before = Piece(piece.source, 0, piece.begin)
    return sum(text.count("\n") for text in texts(source, before, lambda _: None))
