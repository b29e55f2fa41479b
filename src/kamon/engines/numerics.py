"""Sums and means whose rounding is fixed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def sequential_sum(numbers: Iterable[float]) -> float:
    """Return the sum, added from left to right; `sum()` rounds differently since Python 3.12."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def mean(numbers: Sequence[float]) -> float:
    return sequential_sum(numbers) / len(numbers)
