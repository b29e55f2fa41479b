"""Training examples from long documents: windows of block_size + 1 tokens.

The model predicts each target only from the tokens before it in the window, and the first target
from a single token. So a model of any block_size can learn a text of any length.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

from kamon.data.shuffling import window_start
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.files.spill import IntArray, SpillBuffer, numbers_of


class TokenStream(Protocol):
    """Tokens in memory, in a mapped file, or in the shards of a packed corpus."""

    def __len__(self) -> int: ...
    def __getitem__(self, place: slice, /) -> IntArray: ...


@dataclass(frozen=True)
class TextWindows:
    """Windows from random places of one stream of tokens.

    Window i has block_size + 1 tokens from `window_start(seed, i, …)` on, or the whole stream if
    that is shorter. See `kamon.engines.batch.BatchSource`.
    """

    tokens: TokenStream
    block_size: int
    seed: int

    def __len__(self) -> int:
        return max(1, (len(self.tokens) - 1) // self.block_size)

    def get(self, first: int, count: int) -> PackedBatch:
        size = min(self.block_size + 1, len(self.tokens))
        places = len(self.tokens) - size + 1
        starts = (window_start(self.seed, index, places) for index in range(first, first + count))
        return pack_sequences(self.tokens[start : start + size] for start in starts)


def stream(batch: PackedBatch) -> IntArray:
    """Return the tokens of all documents, with one BOS between two documents."""
    if len(batch) == 1:
        return batch.tokens
    joined = SpillBuffer()
    for begin, end in pairwise(batch.offsets):
        joined.add(batch.tokens[begin : end - 1].tobytes())
    joined.add(batch.tokens[-1:].tobytes())
    return numbers_of(joined.finish(), "i")


def consecutive(tokens: IntArray, block_size: int) -> PackedBatch:
    """Return windows that overlap by one token, so that each target is in exactly one window.

    >>> from array import array
    >>> [list(window) for window in consecutive(array("i", [5, 1, 2, 3, 5]), 3)]
    [[5, 1, 2, 3], [3, 5]]
    """
    return pack_sequences(cut(tokens, block_size))


def cut(tokens: IntArray, block_size: int) -> Iterator[IntArray]:
    for begin in range(0, max(1, len(tokens) - 1), block_size):
        yield tokens[begin : begin + block_size + 1]


def in_windows(batch: PackedBatch, block_size: int, rng: random.Random) -> PackedBatch:
    """Return the documents in random order, cut into windows if longer than block_size + 1 tokens.

    In their original order, the windows of a long document would fill whole steps.
    """
    if all(end - begin <= block_size + 1 for begin, end in pairwise(batch.offsets)):
        return batch
    windows = pack_sequences(window for document in batch for window in cut(document, block_size))
    order = list(range(len(windows)))
    rng.shuffle(order)
    return windows.select(order)
