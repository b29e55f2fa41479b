"""The lines of a file or of standard input: opening, decompressing and decoding it."""

from __future__ import annotations

import codecs
import io
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, BinaryIO

from kamon.config import suggestion
from kamon.data import builtin
from kamon.data.documents import BLOCK
from kamon.errors import ConfigError, CorpusError

if TYPE_CHECKING:
    from pathlib import Path

MAX_LINE = 1 << 24  # characters: what is longer is no list
UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SPREADSHEETS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # .xlsx, .ods and every zip; .xls
GZIP, XZ, ZSTANDARD = b"\x1f\x8b", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"
BZIP2 = tuple(b"BZh%d%b" % (n, e) for n in range(1, 10) for e in (b"1AY&SY", b"\x17rE8P\x90"))
COMPRESSED = (GZIP, XZ, ZSTANDARD, *BZIP2)  # how such a file begins
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
COMPRESSED_BLOCK = 1 << 12  # bytes unpacked at a time: to 128 MiB at the very worst


def lines_in(text: str, source: str) -> Iterator[str]:
    """The lines that `read` would find in a text file with this content."""
    content = text.encode("utf-8", "surrogatepass")
    return chain.from_iterable(removed_message(lines_of(decoded([content], source)), source))


@contextmanager
def open_source(source: str | Path, name: str, others: Iterable[str] = ()) -> Iterator[BinaryIO]:
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
        known = [
            other for other in (*others, *map(name_of, similar_files(source))) if other != name
        ]
        raise CorpusError(f"there is no file {name}{did_you_mean(name, known)}") from None
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
    return chain.from_iterable(removed_message(blocks, name_of(source)))


def removed_message(blocks: Iterable[list[str]], name: str, number: int = 1) -> Iterator[list[str]]:
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
    with open_source(source, name, others) as file:
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

    UTF-16 is read where a mark at the start says that it is, and what is compressed is unpacked.
    number: of the first line in the file called `name`. CorpusError says what is no text, and in
    which line, when the text before was yielded.
    """
    # It sees that a line end may be two characters, and a character several bytes, of two blocks.
    decoder = io.IncrementalNewlineDecoder(codecs.getincrementaldecoder("utf-8")(), translate=True)
    left = filter(None, blocks)  # an empty one is the end
    before = 0  # bytes of the unfinished line
    fresh, utf16 = number == 1, False
    if fresh:
        left = filter(None, unpacked(left, name))
        begin = beginning(left, (*UTF_16_MARKS, *SPREADSHEETS))
        if begin.startswith(SPREADSHEETS):
            raise CorpusError(
                f"{name} is a spreadsheet or an archive, not text: save it as CSV (UTF-8), or "
                "unpack it"
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


def beginning(blocks: Iterator[bytes], marks: Sequence[bytes]) -> bytes:
    """The first blocks, so few that none is waited for which can tell nothing more of a mark."""
    begin = b""
    while any(len(begin) < len(mark) and mark.startswith(begin) for mark in marks):
        block = next(blocks, b"")
        if not block:
            break
        begin += block
    return begin


def unpacked(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    """The same bytes, or what is in them where they begin as a compressed file does, of any number
    of members. CorpusError where it is damaged or cut off."""
    begin = beginning(blocks, COMPRESSED)
    blocks = chain([begin], blocks)
    if not begin.startswith(COMPRESSED):
        yield from blocks
        return
    make, errors = unpacker(begin)
    decoder: Any = None
    for block in blocks:
        for place in range(0, len(block), COMPRESSED_BLOCK):
            left = block[place : place + COMPRESSED_BLOCK]
            while left:
                decoder = decoder or make()
                try:
                    found = decoder.decompress(left)
                except errors as reason:
                    raise CorpusError(f"{name} is damaged: {reason}") from None
                left = b""
                if decoder.eof:
                    left, decoder = decoder.unused_data, None
                yield found
    if decoder is not None:
        raise CorpusError(f"{name} is damaged: its end is missing")


def unpacker(begin: bytes) -> tuple[Callable[[], Any], tuple[type[Exception], ...]]:
    """What makes a decoder for a file that begins so, and what that raises."""
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
        raise ConfigError('reading .zst needs the extra: pip install "kamon[pack]"') from None
    return zstandard


def utf_16_as_8(begin: bytes, blocks: Iterable[bytes]) -> Iterator[bytes]:
    """UTF-16 after its mark as UTF-8 without one; 0xff, and the end, for what is none."""
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


def checked_text(name: str, where: str, text: str) -> str:
    """Refuse what no UTF-8 file could hold as text: lone surrogates and NUL."""
    if text.isprintable():  # as nearly all are, and quickly seen
        return text
    for number, char in enumerate(text, 1):
        if char == "\0" or "\ud800" <= char <= "\udfff":
            kind = "a NUL" if char == "\0" else f"a lone surrogate (U+{ord(char):04X})"
            raise CorpusError(f"{name}, {where} has {kind} at character {number}: that is no text")
    return text


def similar_files(path: str | Path) -> list[str]:
    """The files beside a path that is not there."""
    folder = os.path.dirname(path)
    try:
        with os.scandir(folder or ".") as entries:
            return [os.path.join(folder, entry.name) for entry in islice(entries, 1000)]
    except OSError:
        return []


def did_you_mean(word: str, known: Iterable[str]) -> str:
    found = suggestion(word, list(known))
    return found if found.startswith(":") else ""
