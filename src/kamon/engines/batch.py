"""Documents of any length packed one after the other: what every engine computes on."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import ne
from typing import Protocol

from kamon.files.spill import IntArray
from kamon.native.library import WRONG_INDEX, WRONG_OFFSETS, check_numbers

BOS = "<|bos|>"  # its name, where tokens are shown
ANSWER = "<|answer|>"  # stands between a prompt and its answer
GOOD, BAD = "<|good|>", "<|bad|>"  # verdicts, after a whole document
UTF_32 = f"utf-32-{sys.byteorder[0]}e"  # of text whose characters are tokens: as arrays of 'i' lie


@dataclass(frozen=True)
class PackedBatch:
    """Document d is `tokens[offsets[d]:offsets[d + 1]]`, a BOS at both ends included.

    Its inputs are all but the last of them, its targets all but the first; nothing is padded.
    tokens: array of 'i'; offsets: array of 'q', one more than there are documents; very many are
    views of a file (`kamon.files.spill`).
    """

    tokens: IntArray
    offsets: IntArray

    def __reduce__(self) -> tuple[type[PackedBatch], tuple[IntArray, IntArray]]:
        return PackedBatch, (array("i", self.tokens), array("q", self.offsets))  # no view of a file

    def check(self, indices: Sequence[int] | None = None) -> None:
        """ValueError for documents that are not as said above: all of them, or those of `indices`,
        also for one of these that is no document's."""
        check_numbers("tokens", self.tokens, "i")
        check_numbers("offsets", self.offsets, "q")
        offsets, end = self.offsets, len(self.tokens)
        if indices is None:
            if not len(offsets) or offsets[0] != 0 or offsets[-1] != end:
                raise ValueError(WRONG_OFFSETS)
            indices = range(len(self))
        elif len(indices) and not 0 <= min(indices) <= max(indices) < len(self):
            raise ValueError(WRONG_INDEX)
        if not all(0 <= offsets[d] <= offsets[d + 1] <= end for d in indices):
            raise ValueError(WRONG_OFFSETS)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def num_targets(self) -> int:
        """Targets of all documents, each of which has one fewer than tokens, or none of either."""
        not_empty = sum(map(ne, self.offsets, self.offsets[1:]))
        return len(self.tokens) - int(not_empty)

    def __iter__(self) -> Iterator[IntArray]:
        return map(self.document, range(len(self)))

    def document(self, d: int) -> IntArray:
        return self.tokens[self.offsets[d] : self.offsets[d + 1]]

    def select(self, indices: Iterable[int]) -> PackedBatch:
        return pack_sequences(self.document(d) for d in indices)


def check_samples(n: int, temperature: float, first: int) -> None:
    """ValueError for samples that cannot be drawn: documents number `first` and those after it."""
    if n < 0:
        raise ValueError(f"the number of samples must be 0 or more, not {n}")
    if not 0 <= first <= first + n < 2**63:
        raise ValueError(f"the numbers of samples must be from 0 to below 2**63, not {first} + {n}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, not {temperature}")


class BatchSource(Protocol):
    """What steps learn from where it is no Batch: each example made when it is its turn.

    Which one is number i depends on nothing but i: neither on the steps before nor on how many
    processes share the work.
    """

    def __len__(self) -> int:
        """Return how many examples make one pass."""

    def get(self, first: int, count: int) -> PackedBatch:
        """Return examples number first … first + count − 1, from 0; there is no last one."""


def pack_sequences(documents: Iterable[Sequence[int]]) -> PackedBatch:
    """
    >>> batch = pack_sequences([[2, 0, 1, 2], [2, 1, 2]])
    >>> list(batch.offsets), batch.num_targets
    ([0, 4, 7], 5)
    """
    tokens, offsets = array("i"), array("q", [0])
    for document in documents:
        tokens.extend(document)
        offsets.append(len(tokens))
    return PackedBatch(tokens, offsets)
