"""Summarise many losses for plots and terminals: means, extremes, a line of blocks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK_WIDTH = 40  # characters: with numbers on both sides it fits on 80 columns


def smoothing(size: int) -> int:
    """Return how many of `size` numbers a mean covers: a twentieth, rounded to an odd number."""
    return size // 20 // 2 * 2 + 1


def moving_means(numbers: Sequence[float], window: int, most: int) -> list[tuple[int, float]]:
    """Return (place, mean of the `window` numbers around it) at up to `most` evenly spaced places.

    They include the first and the last place if `most` is 2 or more.

    window: an odd number. At the ends, the mean is of fewer numbers.

    >>> moving_means([4.0, 1.0, 1.0, 1.0, 6.0], window=3, most=3)
    [(0, 2.5), (2, 1.0), (4, 3.5)]
    """
    size, half = len(numbers), window // 2
    places: Iterable[int] = range(size)
    if size > most:
        places = [i * (size - 1) // max(1, most - 1) for i in range(most)]
    around = [(place, numbers[max(0, place - half) : place + half + 1]) for place in places]
    return [(place, math.fsum(near) / len(near)) for place, near in around]


def extremes(numbers: Sequence[float], most: int) -> list[int]:
    """Return up to `most` places, in order, whose plot looks like a plot of all numbers.

    These are all places, or the least and the largest number of each of most // 2 equal parts.

    >>> extremes([3, 1, 2, 9, 5, 4, 6, 5], most=4)
    [1, 3, 5, 6]
    """
    size, parts = len(numbers), most // 2
    if size <= most:
        return list(range(size))
    places = []
    for part in range(parts):
        within = range(part * size // parts, (part + 1) * size // parts)
        least = min(within, key=numbers.__getitem__)
        largest = max(within, key=numbers.__getitem__)
        places += sorted({least, largest})
    return places


def spark_line(numbers: Sequence[float], width: int = SPARK_WIDTH) -> str:
    """Return a line of up to `width` blocks, each as high as the mean of the numbers around it.

    The lowest block is the least mean, and the highest block is the largest. If all means are
    equal, all blocks are low.

    >>> spark_line([8, 7, 6, 5, 4, 3, 2, 1])
    '█▇▆▅▄▃▂▁'
    """
    means = [mean for _, mean in moving_means(numbers, smoothing(len(numbers)), width)]
    least, largest = min(means, default=0.0), max(means, default=0.0)
    scale = len(BLOCKS) / (largest - least) if largest > least else 0.0
    return "".join(BLOCKS[min(int((mean - least) * scale), len(BLOCKS) - 1)] for mean in means)
