"""Arrays of numbers or bytes: small ones in memory, large ones in a temporary file.

The file is mapped into memory, so a list may be larger than memory. It is in the folder of
temporary files (TMPDIR), has no name, and is deleted after use.
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
    if num_bytes <= MAX_IN_MEMORY:
        return bytearray(num_bytes)
    with enough_room(), tempfile.TemporaryFile() as file:
        # Fill the file now: if the disk is full, a later write to the map would kill the process.
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
            f"cannot store this list in {tempfile.gettempdir()}: {error.strerror}",
            "set TMPDIR to a directory with more space",
        ) from None


class SpillBuffer:
    """A buffer that grows."""

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
                self.file = tempfile.TemporaryFile()  # noqa: SIM115 - `finish` closes it
            self.file.write(more)

    def finish(self) -> Buffer:
        """Return all bytes. You cannot add bytes afterwards."""
        if not self.file:
            return self.bytes
        with enough_room(), self.file as file:
            file.flush()
            return mmap(file.fileno(), 0)


def numbers_of(buffer: Buffer, typecode: str) -> IntArray:
    """Return the bytes as numbers of this `array` type."""
    if isinstance(buffer, bytearray):
        return array(typecode, buffer)
    return memoryview(buffer).cast(typecode)  # type: ignore[call-overload,no-any-return]


def numbers(typecode: str, values: Iterable[int]) -> IntArray:
    growing, left = SpillBuffer(), iter(values)
    while block := array(typecode, islice(left, BLOCK)):
        growing.add(block.tobytes())
    return numbers_of(growing.finish(), typecode)


def typecode_of(values: IntArray) -> str:
    return values.typecode if isinstance(values, array) else values.format


def copied(old: IntArray) -> IntArray:
    growing = SpillBuffer()
    for begin in range(0, len(old), BLOCK):
        growing.add(old[begin : begin + BLOCK].tobytes())
    return numbers_of(growing.finish(), typecode_of(old))


def count(buffer: Buffer, byte: int) -> int:
    """Return how often a byte occurs."""
    blocks = range(0, len(buffer), BLOCK)
    return sum(buffer[begin : begin + BLOCK].count(byte) for begin in blocks)
