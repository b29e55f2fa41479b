"""Dropout: it sets some numbers to 0 in training, the same ones in every engine.

Dropout sets a share of the inputs of the residual stream to 0 and scales the others, so that the
mean does not change. So no number can rely on another one. Dropout acts after the first norm
(site 0), and in each layer after attention (site 2i + 1) and after the MLP (site 2i + 2).
Source: Srivastava et al. 2014, "Dropout", JMLR 15.
"""

from __future__ import annotations

from collections.abc import Callable

from kamon.engines.philox import MASK32, MASK64, philox4x32

KEY = 0x64726F70  # so that the random numbers are not those of samples


def num_sites(n_layer: int) -> int:
    return 2 * n_layer + 1


def masks(
    rate: float, seed: int, draw: int, n_layer: int, n_embd: int
) -> Callable[[int], list[list[float]]]:
    """Return a function from a position to the factors (sites, C) of the residual stream's inputs.

    Each factor is 0 with probability `rate`, otherwise 1 / (1 − rate). draw: the number of the
    document in the training run, modulo 2**64.
    """
    seed, draw = seed & MASK64, draw & MASK64
    key = (seed & MASK32) ^ KEY, seed >> 32
    below = int(rate * 2**32)
    scale = 1 / (1 - rate)
    groups = -(-n_embd // 4)

    def at(position: int) -> list[list[float]]:
        factors = []
        for site in range(num_sites(n_layer)):
            words: list[int] = []
            for group in range(groups):
                counter = (site * groups + group, position, draw & MASK32, draw >> 32)
                words.extend(philox4x32(counter, key))
            factors.append([0.0 if word < below else scale for word in words[:n_embd]])
        return factors

    return at
