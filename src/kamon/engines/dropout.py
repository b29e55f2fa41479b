"""Which numbers a training step leaves out: drawn by counter, the same ones in every engine.

Dropout sets a share of the residual stream's inputs to 0 while learning, and scales up the others
so that the mean stays: no number may rely on another one's company. Where: after the first norm
(site 0), and in each layer behind the output of attention (site 2i + 1) and of the network (site
2i + 2). Source: Srivastava et al. 2014, "Dropout", JMLR 15.
"""

from __future__ import annotations

from collections.abc import Callable

from kamon.engines.philox import MASK32, MASK64, philox4x32

KEY = 0x64726F70  # apart from the stream that samples are drawn from


def num_sites(n_layer: int) -> int:
    return 2 * n_layer + 1


def masks(
    rate: float, seed: int, draw: int, n_layer: int, n_embd: int
) -> Callable[[int], list[list[float]]]:
    """For each position of the document the factors (sites, C) of the residual stream's inputs.

    Each is 0 with probability `rate`, otherwise 1 / (1 − rate). draw: a number that no other
    document of the training has, counted modulo 2**64.
    """
    seed, draw = seed & MASK64, draw & MASK64
    key = (seed & MASK32) ^ KEY, seed >> 32
    below = int(rate * 2**32)
    scale = 1 / (1 - rate)
    groups = -(-n_embd // 4)

    def at(position: int) -> list[list[float]]:
        found = []
        for site in range(num_sites(n_layer)):
            words: list[int] = []
            for group in range(groups):
                counter = (site * groups + group, position, draw & MASK32, draw >> 32)
                words.extend(philox4x32(counter, key))
            found.append([0.0 if word < below else scale for word in words[:n_embd]])
        return found

    return at
