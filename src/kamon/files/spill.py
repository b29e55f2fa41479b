"""Many numbers or bytes: in memory as long as they are few, else in a file without a name.

The file is mapped into memory, and the system keeps of it what fits: a list may be larger than all
memory. It lies where temporary files do (TMPDIR decides), and goes when nobody uses it any longer.
"""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from mmap import mmap
from typing import IO, TypeAlias

from kamon.errors import CorpusError

MAX_IN_MEMORY = 1 << 22  # bytes
BLOCK = 1 << 16  # numbers, or bytes

Buffer = bytearray | mmap
IntArray: TypeAlias = "array[int] | memoryview[int]"


def zeros(num_bytes: int) -> Buffer:
    """So many bytes, all 0."""
    if num_bytes <= MAX_IN_MEMORY:
        return bytearray(num_bytes)
    with enough_room(), tempfile.TemporaryFile() as file:
        # Written, not promised: where there is no room, a write to mapped memory ends the process.
        for _ in range(num_bytes // BLOCK + 1):
            file.write(bytes(BLOCK))
        file.flush()
        return mmap(file.fileno(), num_bytes)


@contextmanager
def enough_room() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CorpusError(
            f"cannot keep a list so long in {tempfile.gettempdir()}: {error.strerror}; "
            "TMPDIR can name a folder with more room"
        ) from None


class SpillBuffer:
    """Bytes that come one after the other."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.file: IO[bytes] | None = None

    def add(self, more: bytes | bytearray) -> None:
        if not self.file:
            self.bytes += more
            if len(self.bytes) <= MAX_IN_MEMORY:
                return
            more, self.bytes = self.bytes, bytearray()
        with enough_room():
            if not self.file:
                self.file = tempfile.TemporaryFile()  # noqa: SIM115 - `done` closes it
            self.file.write(more)

    def finish(self) -> Buffer:
        """All of them; nothing can be added then."""
        if not self.file:
            return self.bytes
        with enough_room(), self.file as file:
            file.flush()
            return mmap(file.fileno(), 0)


def numbers_of(buffer: Buffer, typecode: str) -> IntArray:
    """The bytes as numbers of this type of `array`."""
    if isinstance(buffer, bytearray):
        found = array(typecode)
        found.frombytes(buffer)
        return found
    return memoryview(buffer).cast(typecode)  # type: ignore[call-overload,no-any-return]


def numbers(typecode: str, found: Iterable[int]) -> IntArray:
    """These numbers, taken as they come."""
    growing, left = SpillBuffer(), iter(found)
    while block := array(typecode, islice(left, BLOCK)):
        growing.add(block.tobytes())
    return numbers_of(growing.finish(), typecode)


def typecode_of(found: IntArray) -> str:
    return found.typecode if isinstance(found, array) else found.format


def copied(old: IntArray) -> IntArray:
    growing = SpillBuffer()
    for begin in range(0, len(old), BLOCK):
        growing.add(old[begin : begin + BLOCK].tobytes())
    return numbers_of(growing.finish(), typecode_of(old))


def count(buffer: Buffer, byte: int) -> int:
    """How many of the bytes are this one."""
    blocks = range(0, len(buffer), BLOCK)
    return sum(buffer[begin : begin + BLOCK].count(byte) for begin in blocks)
