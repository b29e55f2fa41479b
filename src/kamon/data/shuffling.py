"""Where the examples of a training lie: the place of each is a pure function of (seed, number).

So they need no list in memory, however many there are, and a training that goes on takes up where
it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

from kamon.engines.philox import MASK32, MASK64, philox4x32

# Streams of their own, apart from those of samples and dropout.
WINDOW_KEY = 0x77696E64
SHUFFLE_KEY = 0x73687566
ROUNDS = 6


def window_start(seed: int, index: int, n: int) -> int:
    """A random place, 0 … n − 1, for example number `index`. n: from 1 to 2**64.

    64 random bits times n, over 2**64: no place is more likely than another by more than n / 2**64.
    seed and index count modulo 2**64.
    """
    seed, index = seed & MASK64, index & MASK64
    key = (seed & MASK32) ^ WINDOW_KEY, seed >> 32
    high, low, _, _ = philox4x32((index & MASK32, index >> 32, 0, 0), key)
    return (high << 32 | low) * n >> 64


def permutation(seed: int, epoch: int, n: int) -> Callable[[int], int]:
    """π(i), a random order of 0 … n − 1 for each epoch, without a table of it. n: below 2**64.

    A Feistel network on the grid of a rows and b columns that just holds n numbers: each round
    shifts the row by a hash of the column, or the column by a hash of the row, which can be undone
    and hence is a permutation of a·b numbers. What falls on n or above goes through it again
    (cycle walking) until it is below. Source: Black & Rogaway 2002, "Ciphers with arbitrary finite
    domains" (doi:10.1007/3-540-45760-7_9).
    """
    seed, epoch = seed & MASK64, epoch & MASK64
    key = (seed & MASK32) ^ SHUFFLE_KEY, seed >> 32
    keys = []
    for number in range(ROUNDS):
        high, low, _, _ = philox4x32((number, 0, epoch & MASK32, epoch >> 32), key)
        keys.append(high << 32 | low)
    pairs = list(zip(keys[::2], keys[1::2], strict=True))
    columns = isqrt(n - 1) + 1 if n else 1
    rows = -(-n // columns)

    def place(i: int) -> int:
        if not 0 <= i < n:
            raise IndexError(f"{i} is not one of {n:,} numbers")
        while True:
            row, column = divmod(i, columns)
            for first, second in pairs:
                row = (row + feistel_round(column ^ first)) % rows
                column = (column + feistel_round(row ^ second)) % columns
            i = row * columns + column
            if i < n:
                return i

    return place


def feistel_round(number: int) -> int:
    """64 bits scrambled: the last steps of SplitMix64 (Steele et al. 2014,
    doi:10.1145/2660193.2660195)."""
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK64
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK64
    return number ^ number >> 31
