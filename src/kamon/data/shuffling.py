"""The order of training examples. The place of each depends only on the seed and its number.

So the order needs no memory, and a resumed training continues where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isqrt

from kamon.engines.philox import MASK32, MASK64, philox4x32

# With these keys, the random numbers differ from those of samples and dropout.
WINDOW_KEY = 0x77696E64
SHUFFLE_KEY = 0x73687566
ROUNDS = 6


def window_start(seed: int, index: int, n: int) -> int:
    """Return a random place from 0 to n − 1 for example number `index`.

    It is 64 random bits times n, divided by 2**64. The probabilities of two places differ by at
    most 1 / 2**64.

    Args:
        seed, index: integers, used modulo 2**64.
        n: from 1 to 2**64.
    """
    seed, index = seed & MASK64, index & MASK64
    key = (seed & MASK32) ^ WINDOW_KEY, seed >> 32
    high, low, _, _ = philox4x32((index & MASK32, index >> 32, 0, 0), key)
    return (high << 32 | low) * n >> 64


def permutation(seed: int, epoch: int, n: int) -> Callable[[int], int]:
    """Return π(i), a random order of 0 … n − 1 for each epoch, without a table.

    It is a Feistel network on the smallest grid of a rows and b columns that has room for n
    numbers. Each round shifts the row by a hash of the column, or the column by a hash of the row.
    Both can be reversed, so it is a permutation of a·b numbers. A result of n or more goes through
    the network again until it is below n (cycle walking).

    Args:
        seed, epoch: integers, used modulo 2**64.
        n: below 2**64.

    Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains"
    (doi:10.1007/3-540-45760-7_9).
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
    """Return 64 scrambled bits: the last steps of SplitMix64.

    Source: Steele et al. 2014, doi:10.1145/2660193.2660195.
    """
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK64
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK64
    return number ^ number >> 31
