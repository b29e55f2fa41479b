"""Sums and means that round the same way on every machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

Sum = Callable[[Iterable[float]], float]


def sequential_sum(numbers: Iterable[float]) -> float:
    """Return the sum, added from left to right. `sum()` rounds differently since Python 3.12."""
    total = 0.0
    for number in numbers:
        total += number
    return total


def mean(numbers: Sequence[float], total: Sum = sequential_sum) -> float:
    return total(numbers) / len(numbers)


def variance(numbers: Sequence[float], total: Sum = sequential_sum, *, ddof: int = 0) -> float:
    """Return the mean squared distance from the mean. ddof: 1 for the variance of a sample."""
    middle = mean(numbers, total)
    return total((x - middle) ** 2 for x in numbers) / (len(numbers) - ddof)


def deviation(numbers: Sequence[float]) -> float:
    return math.sqrt(variance(numbers))


def mean_and_error(numbers: Sequence[float], total: Sum = sequential_sum) -> tuple[float, float]:
    """Return the mean and its standard error, both infinite if a number is not finite.

    >>> mean_and_error([0.5, 1.5])
    (1.0, 0.5)
    """
    n = len(numbers)
    middle = mean(numbers, total) if all(map(math.isfinite, numbers)) else math.inf
    if n < 2 or middle == math.inf:
        return middle, math.inf
    return middle, math.sqrt(variance(numbers, total, ddof=1) / n)
