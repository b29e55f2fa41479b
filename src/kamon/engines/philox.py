"""Random numbers that depend only on a seed, a sample and a position, not on batches or order.

The generator is Philox4x32-10. It scrambles a 128-bit counter with a 64-bit key in ten rounds.
Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"
(doi:10.1145/2063384.2063405).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

MASK32 = 0xFFFFFFFF
MASK64 = 0xFFFFFFFFFFFFFFFF
Number = TypeVar("Number", int, "Tensor")  # or a tensor of int64 for many numbers at once


def philox4x32(
    counter: tuple[Number, Number, Number, Number], key: tuple[int, int]
) -> tuple[Number, Number, Number, Number]:
    """Return four random 32-bit numbers, given four for the counter and two for the key.

    The product of tensors may overflow. In two's complement, its high bits are still right.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = 0xD2511F53 * c0
        product1 = 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            product1 >> 32 & MASK32 ^ c1 ^ k0,
            product1 & MASK32,
            product0 >> 32 & MASK32 ^ c3 ^ k1,
            product0 & MASK32,
        )
        k0 = k0 + 0x9E3779B9 & MASK32
        k1 = k1 + 0xBB67AE85 & MASK32
    return c0, c1, c2, c3


def uniform(seed: int, index: int, position: int) -> float:
    """Return a float of 53 random bits in [0, 1) for the token at `position` of sample `index`.

    All three arguments are used modulo 2**64.
    """
    seed, index, position = seed & MASK64, index & MASK64, position & MASK64
    high, low, _, _ = philox4x32(
        (position & MASK32, position >> 32, index & MASK32, index >> 32),
        (seed & MASK32, seed >> 32),
    )
    return ((high << 21) | (low >> 11)) * 2.0**-53
