"""Batches of documents of any length, one after the other. Every engine computes on them."""

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

BOS = "<|bos|>"  # its name in messages and tables
ANSWER = "<|answer|>"  # the token between a prompt and its answer
GOOD, BAD = "<|good|>", "<|bad|>"  # verdicts, after a whole document
UTF_32 = f"utf-32-{sys.byteorder[0]}e"  # turns code points into the bytes of an array of 'i'


@dataclass(frozen=True)
class PackedBatch:
    """Document d is `tokens[offsets[d]:offsets[d + 1]]`, including a BOS at both ends.

    Its inputs are all tokens but the last, and its targets all but the first, without padding.

    Attributes:
        tokens: array of 'i', or a view of a file if there are very many (`kamon.files.spill`).
        offsets: array of 'q', or such a view. It has one number more than there are documents.
    """

    tokens: IntArray
    offsets: IntArray

    def __reduce__(self) -> tuple[type[PackedBatch], tuple[IntArray, IntArray]]:
        return PackedBatch, (array("i", self.tokens), array("q", self.offsets))  # no file views

    def check(self, indices: Sequence[int] | None = None) -> None:
        """Raise ValueError if a document is not valid. It checks those of `indices`, or all."""
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
        """The number of targets. A document has one fewer than tokens, an empty one none."""
        not_empty = sum(map(ne, self.offsets, self.offsets[1:]))
        return len(self.tokens) - int(not_empty)

    def __iter__(self) -> Iterator[IntArray]:
        return map(self.document, range(len(self)))

    def document(self, d: int) -> IntArray:
        return self.tokens[self.offsets[d] : self.offsets[d + 1]]

    def select(self, indices: Iterable[int]) -> PackedBatch:
        return pack_sequences(self.document(d) for d in indices)


def check_samples(n: int, temperature: float, first: int) -> None:
    """Raise ValueError if an engine cannot make n samples from number `first` on."""
    if n < 0:
        raise ValueError(f"the number of samples must be 0 or more, not {n}")
    if not 0 <= first <= first + n < 2**63:
        raise ValueError(f"the numbers of samples must be from 0 to below 2**63, not {first} + {n}")
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be 0 or more and finite, not {temperature}")


class BatchSource(Protocol):
    """Training examples that are made only when they are needed, unlike those of a PackedBatch.

    Example i depends only on i, not on earlier steps or on the number of processes.
    """

    def __len__(self) -> int:
        """Return the number of examples in one epoch."""

    def get(self, first: int, count: int) -> PackedBatch:
        """Return the examples first … first + count − 1. Their number is unlimited."""


def pack_sequences(documents: Iterable[Sequence[int]]) -> PackedBatch:
    """Return a batch of these documents.

    >>> batch = pack_sequences([[2, 0, 1, 2], [2, 1, 2]])
    >>> list(batch.offsets), batch.num_targets
    ([0, 4, 7], 5)
    """
    tokens, offsets = array("i"), array("q", [0])
    for document in documents:
        tokens.extend(document)
        offsets.append(len(tokens))
    return PackedBatch(tokens, offsets)
