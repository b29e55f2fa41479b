"""Faster `shuffle` and `gauss` of random.Random for many numbers, with the same results.

The generator's state afterwards is the same too, so a program can also call Python's own methods.
These do the work if the native engine is not built.
"""

from __future__ import annotations

import math
import random
from array import array
from typing import Any

from kamon.files.spill import IntArray, typecode_of
from kamon.native import library

MIN_NATIVE = 500  # numbers: for fewer, copying the state takes longer than it saves


def shuffle(rng: random.Random, items: list[Any] | IntArray) -> None:
    """Do the same as `rng.shuffle(items)`. Shuffling an array needs no extra memory."""
    known = isinstance(items, list) or typecode_of(items) in ("i", "I", "q", "Q")
    if len(items) < MIN_NATIVE or len(items) >= 2**32 or not known or not can_use_native(rng):
        rng.shuffle(items)  # type: ignore[arg-type]  # a view is writable too
        return
    version, words, spare = rng.getstate()
    state = array("I", words)
    order = array("I", range(len(items))) if isinstance(items, list) else items
    library.exact("shuffle")(
        *(library.address(state), len(items), library.address(order)),
        order.itemsize,
    )
    rng.setstate((version, tuple(state), spare))
    if isinstance(items, list):
        items[:] = map(items[:].__getitem__, order)


def gauss(rng: random.Random, std: float, n: int) -> array[float]:
    """Return n results of `rng.gauss(0, std)` as an array of 'd'."""
    if n < MIN_NATIVE or not can_use_native(rng):
        return array("d", [rng.gauss(0, std) for _ in range(n)])
    version, words, spare = rng.getstate()
    state, numbers = array("I", words), array("d", bytes(8 * n))
    kept = array("d", [math.nan if spare is None else spare])
    library.exact("gauss")(
        *(library.address(state), std, n, library.address(numbers), library.address(kept))
    )
    rng.setstate((version, tuple(state), None if math.isnan(kept[0]) else kept[0]))
    return numbers


def can_use_native(rng: random.Random) -> bool:
    """Return whether the native code is built and knows this generator."""
    return type(rng) is random.Random and rng.getstate()[0] == 3 and not library.why_not()
