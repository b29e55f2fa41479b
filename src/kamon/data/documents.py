"""Documents stored as one text. A string in a list would need fifty more bytes per document.

If there are very many documents, their text and arrays are in files (`kamon.files.spill`).
"""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from itertools import accumulate, chain, compress, islice
from typing import Any, overload
from unicodedata import normalize

from kamon.files import spill
from kamon.files.spill import Buffer, IntArray, SpillBuffer
from kamon.native import library, mersenne

BLOCK = 1 << 17  # bytes that are processed together
BLOCK_DOCS = 4096  # documents that are processed together
NUL = "\0"  # separates texts, and none of them has one
NUL_BYTE = b"\0"
MIN_NATIVE_DOCS = 200  # for fewer, Python is as fast as the native code
NUM_SHOWN = 5


def nfc(text: str) -> str:
    """Return `text` in Unicode's composed form (NFC): ö as one code point, not as o and a mark."""
    return text if text.isascii() else normalize("NFC", text)


class Documents(Sequence[str]):
    """Texts without NUL, stored in UTF-8 one after the other, each followed by a NUL.

    Subsets and permutations share the text of the documents that they are made from. They have an
    array of type 'I' or 'Q' with the starts of their documents. Reading all documents in order is
    fast. Reading one by its number is a little slower.

    >>> docs = Documents.of(["anna", "bo", "anna"])
    >>> docs, docs[1], docs.different()
    (Documents(['anna', 'bo', 'anna']), 'bo', Documents(['anna', 'bo']))
    """

    def __init__(
        self, text: Buffer, starts: IntArray | None = None, *, distinct: bool = False
    ) -> None:
        if starts is not None and spill.typecode_of(starts) not in ("I", "Q"):
            raise ValueError("starts must be an array of 'I' or of 'Q'")
        self.text = text
        self._distinct = distinct  # True if there are certainly no duplicates
        self._starts = starts
        self.contiguous = starts is None  # it has all documents of the text in their order
        self._size = spill.count(text, 0) if starts is None else len(starts)

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_documents, (b"".join(self._encoded_blocks()), self._distinct)

    @classmethod
    def of(cls, docs: Iterable[str]) -> Documents:
        """Return these documents. It reads them one by one, and none may have a NUL."""
        if isinstance(docs, Documents):
            return docs
        text = SpillBuffer()
        left = iter(docs)
        while block := list(islice(left, BLOCK_DOCS)):
            block.append("")
            text.add(NUL.join(block).encode("utf-8", "surrogatepass"))
        return cls(text.finish())

    @property
    def starts(self) -> IntArray:
        if self._starts is None:
            self._starts = self._find_starts(None)
        return self._starts

    def _find_starts(self, chosen: Buffer | None) -> IntArray:
        """Return the starts of all documents of a contiguous text, or of the chosen ones."""
        typecode = "I" if len(self.text) < 2**32 else "Q"
        if self._size < MIN_NATIVE_DOCS or library.why_not():
            sizes = (len(doc) + 1 for doc in self.encoded())
            found: Iterator[int] = islice(accumulate(sizes, initial=0), self._size)
            if chosen is not None:
                found = compress(found, memoryview(chosen))  # iterating a mapped file gives bytes
            return spill.numbers(typecode, found)
        size = self._size if chosen is None else spill.count(chosen, 1)
        itemsize = array(typecode).itemsize
        starts = spill.zeros(size * itemsize)
        error = library.exact("find_starts")(
            *(library.address(self.text), len(self.text), self._size),
            None if chosen is None else library.address(chosen),
            *(library.address(starts), itemsize),
        )
        library.raise_for(error)
        return spill.numbers_of(starts, typecode)

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Documents: ...
    def __getitem__(self, place: int | slice) -> str | Documents:
        if isinstance(place, slice):
            starts = spill.copied(self.starts[place])  # because native code needs no gaps
            return Documents(self.text, starts, distinct=self._distinct)
        begin = self.starts[place]
        return self.text[begin : self.text.find(NUL_BYTE, begin)].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self.blocks())

    def __contains__(self, doc: object) -> bool:
        return isinstance(doc, str) and bool(self.intersection([doc]))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Documents | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(map(str.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = repr(list(islice(self, NUM_SHOWN)))
        return f"Documents({shown if len(self) <= NUM_SHOWN else f'{shown[:-1]}, …]'})"

    def blocks(self) -> Iterator[list[str]]:
        for block in self._encoded_blocks():
            docs = block.decode("utf-8", "surrogatepass").split(NUL)
            docs.pop()
            yield docs

    def encoded(self) -> Iterator[bytes]:
        for block in self._encoded_blocks():
            docs = bytes(block).split(NUL_BYTE)
            docs.pop()
            yield from docs

    def _encoded_blocks(self) -> Iterator[bytes | bytearray]:
        text, begin = self.text, 0
        if self.contiguous:
            while begin < len(text):
                end = text.find(NUL_BYTE, min(begin + BLOCK, len(text) - 1)) + 1
                yield text[begin:end]
                begin = end
            return
        starts, room = self.starts, BLOCK
        if self._size < MIN_NATIVE_DOCS or library.why_not():
            for begin in range(0, len(starts), BLOCK_DOCS):
                block = starts[begin : begin + BLOCK_DOCS]
                yield b"".join([text[start : text.find(NUL_BYTE, start) + 1] for start in block])
            return
        while begin < len(starts):
            found, count = bytearray(room), array("q", [0])
            used = library.exact("gather")(
                *(library.address(text), len(text), library.address(starts, first=begin)),
                *(starts.itemsize, len(starts) - begin),
                *(library.address(found), room, library.address(count)),
            )
            library.raise_for(-used)
            if count[0]:
                yield found[:used]
            else:
                room = used  # for one document longer than a block
            begin += count[0]

    def select(self, chosen: Buffer) -> Documents:
        """Return the chosen documents. `chosen` has a byte for each document, 1 or 0."""
        if self._starts is None:  # so it needs only the starts of the chosen ones
            starts = self._find_starts(chosen)
        else:
            typecode = spill.typecode_of(self._starts)
            starts = spill.numbers(typecode, compress(self._starts, memoryview(chosen)))
        return Documents(self.text, starts, distinct=self._distinct)

    def shuffled(self, rng: random.Random) -> Documents:
        """Return the documents in the same order as `rng.shuffle` gives a list of them."""
        starts = spill.copied(self.starts)
        mersenne.shuffle(rng, starts)
        return Documents(self.text, starts, distinct=self._distinct)

    def first_occurrences(self) -> Buffer:
        """Return a byte for each document, 0 if it equals an earlier one and otherwise 1."""
        first = spill.zeros(self._size)
        if self._size < MIN_NATIVE_DOCS or library.why_not():
            seen: set[bytes] = set()
            for place, doc in enumerate(self.encoded()):
                first[place] = doc not in seen
                seen.add(doc)
            return first
        found = library.exact("first_occurrences")(
            *(library.address(self.text), len(self.text)),
            None if self.contiguous else library.address(self.starts),
            0 if self.contiguous else self.starts.itemsize,
            *(self._size, library.address(first)),
        )
        library.raise_for(-found)
        return first

    def different(self) -> Documents:
        """Return the documents without duplicates. The first of equal ones remains."""
        if self._distinct:
            return self
        first = self.first_occurrences()
        found = self if first.find(NUL_BYTE) < 0 else self.select(first)
        found._distinct = True
        return found

    def sha256(self) -> str:
        """Return the hexadecimal SHA-256 of all documents, each followed by a NUL."""
        digest = sha256()
        for block in self._encoded_blocks():
            digest.update(block)
        return digest.hexdigest()

    def intersection(self, texts: Iterable[str]) -> set[str]:
        """Return the texts that are among the documents."""
        wanted = set(texts)
        return set().union(*map(wanted.intersection, self.blocks()))

    def chars(self) -> set[str]:
        chars: set[str] = set()
        for block in self.blocks():
            chars.update("".join(block))
        return chars

    def lengths(self) -> Counter[int]:
        counts: Counter[int] = Counter()
        for block in self.blocks():
            counts.update(map(len, block))
        return counts


def unpickle_documents(text: bytes, distinct: bool) -> Documents:
    growing = SpillBuffer()
    growing.add(text)
    return Documents(growing.finish(), distinct=distinct)
