"""Reads the lines of a file or of standard input, decompressed and decoded."""

from __future__ import annotations

import codecs
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

from kamon.config import suggestion
from kamon.data import builtin
from kamon.data.documents import BLOCK
from kamon.errors import HINT, ConfigError, CorpusError

MAX_LINE = 1 << 24  # characters
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods and every zip; .xls
GZIP, XZ, ZSTANDARD = b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
BZIP2 = tuple(b"BZh%d%b" % (n, e) for n in range(1, 10) for e in (b"1AY&SY", b"\x17rE8P\x90"))
COMPRESSED = (GZIP, XZ, ZSTANDARD, *BZIP2)  # first bytes of compressed files
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
IN_MODELS = ("generation-*", "manifest.json")  # in the directory of a model, never in other folders
COMPRESSED_BLOCK = 1 << 12  # bytes to decompress at a time: they become at most 128 MiB


def lines_in(text: str, source: str) -> Iterator[str]:
    """Yield the lines of a text file with this content."""
    content = text.encode("utf-8", "surrogatepass")
    return chain.from_iterable(check_line_lengths(lines_of(decoded([content], source)), source))


@contextmanager
def open_source(source: str | Path, name: str, others: Iterable[str] = ()) -> Iterator[BinaryIO]:
    """Open a file, or standard input for "-".

    If the lines come from a keyboard, Kamon prints how to end them.

    Args:
        source: the path.
        name: the source as messages show it.
        others: names that a mistyped path could mean, besides the files in the same folder.

    Raises: CorpusError if it cannot be opened or read.
    """
    try:
        if str(source) == "-":
            if sys.stdin is None:
                raise CorpusError("standard input is closed")
            if sys.stdin.buffer.isatty():
                end = "Ctrl-Z and Enter" if os.name == "nt" else "Ctrl-D"
                print(f"reading lines from the keyboard: end them with {end}", file=sys.stderr)
            yield sys.stdin.buffer
        else:
            with open(source, "rb") as file:
                yield file
    except IsADirectoryError:
        raise CorpusError(f"{name} is a directory", "give a file in it") from None
    except FileNotFoundError:
        if not str(source):
            raise CorpusError("the file name is empty", "give a file or a built-in list") from None
        known = [other for other in (*others, *similar_files(source)) if other != name]
        hint = suggestion(name, known)
        hint = hint if "did you mean" in hint else f"{HINT}check the name"
        raise CorpusError(f"no file {name}{hint}") from None
    except OSError as error:
        raise CorpusError(f"cannot read {name}: {error.strerror}") from None
    except ValueError as error:  # a NUL in the name
        raise CorpusError(f"cannot read {name!r}: {error}") from None


def name_of(source: str | Path) -> str:
    """Return the name of a source for messages. It escapes bytes that are not UTF-8."""
    if str(source) == "-":
        return "standard input"
    return os.fsencode(source).decode("utf-8", "backslashreplace")


def encoding_error(name: str, line: int, byte: int, value: int, *, utf16: bool = False) -> str:
    """Return a message that explains why a byte is not text.

    Args:
        name, line, byte: the source, and the place counted from 1.
        value: the byte, 0 for NUL.
        utf16: whether the source begins with the byte order mark of UTF-16.
    """
    if utf16:
        return (
            f"{name}, line {line} {'is not UTF-16' if value else 'has a NUL character'}, although "
            f"the file begins with the mark of UTF-16 text{HINT}save it as UTF-8"
        )
    if value:
        return (
            f"{name}, line {line} is not UTF-8: byte {byte} of it is 0x{value:02x}{HINT}"
            "convert the file, for example with `iconv -f cp1252 -t utf-8`"
        )
    return (
        f"{name}, line {line} has a NUL byte at byte {byte}, so it does not look like text{HINT}"
        "give UTF-8 text, or UTF-16 text with a byte order mark"
    )


def text_lines(text: str) -> list[str]:
    r"""Return the lines of a text, which end with \n, \r\n or \r. The last end is optional."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def whole_lines(source: str | Path) -> Iterator[str]:
    """Yield the lines of a source. Raise CorpusError for a line longer than MAX_LINE."""
    blocks = stream_lines(source, builtin.BUILT_IN)
    return chain.from_iterable(check_line_lengths(blocks, name_of(source)))


def check_line_lengths(
    blocks: Iterable[list[str]], name: str, number: int = 1
) -> Iterator[list[str]]:
    """Yield the same blocks of lines. Raise CorpusError for a line longer than MAX_LINE.

    Args:
        blocks: the result of `stream_lines`.
        name: the source as messages show it.
        number: the number of the first line.
    """
    for lines in blocks:
        if max(map(len, lines)) > MAX_LINE:
            number += next(n for n, line in enumerate(lines) if len(line) > MAX_LINE)
            raise CorpusError(
                f"{name}, line {number} has more than {MAX_LINE:,} characters",
                "put each entry on its own line, or train on the file with --mode text",
            )
        number += len(lines)
        yield lines


def stream_lines(source: str | Path, others: Iterable[str] = ()) -> Iterator[list[str]]:
    """Yield the lines of a text as they arrive, many at a time, in bounded memory.

    The lines are those of `text_lines`. A longer line is cut after MAX_LINE + 1 characters.

    Args:
        source: a path, or "-" for standard input.
        others: as in `open_source`.

    Raises: CorpusError, after the lines before the fault. The message names the line.
    """
    name = name_of(source)
    with open_source(source, name, others) as file:
        # read1 returns what has arrived, without waiting for more.
        blocks = iter(lambda: file.read1(BLOCK), b"")  # type: ignore[attr-defined]
        yield from lines_of(decoded(blocks, name))


def lines_of(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield the lines of a text that arrives in parts, as `stream_lines` does."""
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
    r"""Yield the text of bytes that arrive in blocks.

    The bytes are UTF-8, or UTF-16 with a byte order mark, and may be compressed. In the text, every
    line end is \n, and there is no byte order mark.

    Args:
        blocks: the bytes.
        name: the source as messages show it.
        number: the number of the first line. Only a text from its first line on can be compressed.

    Raises: CorpusError, after the text before the fault. The message names the line.
    """
    # The decoder handles line ends and characters that begin in one block and end in the next.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    blocks = filter(None, blocks)  # because an empty block means the end to the decoder
    before = 0  # bytes of the unfinished line
    fresh, utf16 = number == 1, False
    if fresh:
        blocks = filter(None, decompressed(blocks, name))
        begin = beginning(blocks, (*UTF_16_MARKS, *SPREADSHEETS))
        if begin.startswith(SPREADSHEETS):
            raise CorpusError(
                f"{name} is a spreadsheet or an archive, not text",
                "save it as CSV (UTF-8), or unpack it",
            )
        utf16 = begin.startswith(UTF_16_MARKS)
        blocks = filter(None, utf_16_as_8(begin, blocks) if utf16 else chain([begin], blocks))
        fresh = not utf16
    for block in chain(blocks, [b""]):
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
            raise CorpusError(encoding_error(name, number, before + 1, fault, utf16=utf16))


def beginning(blocks: Iterator[bytes], marks: Sequence[bytes]) -> bytes:
    """Return the first bytes, enough of them to compare them with the marks."""
    begin = b""
    while any(len(begin) < len(mark) and mark.startswith(begin) for mark in marks):
        block = next(blocks, b"")
        if not block:
            break
        begin += block
    return begin


def decompressed(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """Yield the same bytes, decompressed if they begin like a compressed file.

    A file may have several compressed members. Raises CorpusError if it is damaged or incomplete.
    """
    begin = beginning(blocks, COMPRESSED)
    blocks = chain([begin], blocks)
    if not begin.startswith(COMPRESSED):
        yield from blocks
        return
    make, errors = decompressor(begin)
    decoder: Any = None
    for block in blocks:
        for place in range(0, len(block), COMPRESSED_BLOCK):
            remaining = block[place : place + COMPRESSED_BLOCK]
            while remaining:
                decoder = decoder or make()
                try:
                    content = decoder.decompress(remaining)
                except errors as reason:
                    raise CorpusError(f"{name} is damaged: {reason}") from None
                remaining = b""
                if decoder.eof:
                    remaining, decoder = decoder.unused_data, None
                yield content
    if decoder is not None:
        raise CorpusError(f"{name} is damaged: its end is missing", "download or copy it again")


def decompressor(begin: bytes) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """Return a function that makes a decompressor for such a file, and the errors it raises."""
    if begin.startswith(GZIP):
        return lambda: zlib.decompressobj(zlib.MAX_WBITS | 16), (zlib.error,)
    if begin.startswith(BZIP2):
        from bz2 import BZ2Decompressor

        return BZ2Decompressor, (OSError, ValueError)
    if begin.startswith(XZ):
        from lzma import LZMADecompressor, LZMAError

        return LZMADecompressor, (LZMAError,)
    zstandard = import_zstandard()
    return lambda: zstandard.ZstdDecompressor().decompressobj(), (zstandard.ZstdError,)


def import_zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise ConfigError(
            "reading .zst needs an extra package", 'pip install "kamon[pack]"'
        ) from None
    return zstandard


def utf_16_as_8(begin: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield UTF-16 after its mark as UTF-8 without one. For invalid UTF-16, yield 0xff and stop."""
    codec = "utf-16-le" if begin.startswith(codecs.BOM_UTF16_LE) else "utf-16-be"
    decoder = codecs.getincrementaldecoder(codec)()
    for block in chain([begin[2:]], blocks, [b""]):
        try:
            yield decoder.decode(block, final=not block).encode()
        except UnicodeDecodeError as error:
            yield error.object[: error.start].decode(codec).encode() + b"\xff"
            return


def decode_block(decoder: io.IncrementalNewlineDecoder, block: bytes) -> tuple[str, int]:
    """Return the text of one more block up to the first invalid byte, and that byte or −1."""
    before, nul, _ = block.partition(b"\0")
    try:
        text, fault = decoder.decode(before, final=not block or bool(nul)), 0 if nul else -1
    except UnicodeDecodeError as error:
        fault = error.object[error.start]
        good = error.start - (len(error.object) - len(before))  # below 0 in an earlier block
        text = decoder.decode(before[: max(0, good)])
    if fault >= 0 and decoder.getstate()[1] & 1:  # the decoder holds back a \r before a \n
        text += "\n"
    return text, fault


def checked_text(name: str, where: str, text: str) -> str:
    """Return the text. Raise CorpusError for a NUL or a lone surrogate, which no UTF-8 text has."""
    if text.isprintable():  # a fast check that is true for nearly all texts
        return text
    for number, char in enumerate(text, 1):
        if char == "\0" or "\ud800" <= char <= "\udfff":
            kind = "a NUL" if char == "\0" else f"a lone surrogate (U+{ord(char):04X})"
            raise CorpusError(
                f"{name}, {where} has {kind} at character {number}, which is not text"
            )
    return text


def similar_files(path: str | Path) -> list[str]:
    """Return the files and folders beside a path, without the directories of models."""
    folder = os.path.dirname(path)
    try:
        with os.scandir(folder or ".") as entries:
            paths = [Path(folder, entry.name) for entry in islice(entries, 1000)]
        return [name_of(path) for path in paths if not any(map(any, map(path.glob, IN_MODELS)))]
    except OSError:
        return []
