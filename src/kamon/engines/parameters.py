"""The table of parameters: the name and shape of each, their order, and their first values."""

from __future__ import annotations

import random
from array import array

from kamon.config import Config
from kamon.native import mersenne


def parameter_shapes(config: Config) -> dict[str, tuple[int, int]]:
    """Return every parameter matrix and its shape (out, in), in the order of all flat buffers.

    >>> sum(n_out * n_in for n_out, n_in in parameter_shapes(Config()).values())
    4192
    """
    n_embd = config.n_embd
    shapes = {
        "wte": (config.vocab_size, n_embd),
        "wpe": (config.block_size, n_embd),
        "lm_head": (config.vocab_size, n_embd),
    }
    for i in range(config.n_layer):
        shapes |= {
            f"layer{i}.attn_wq": (n_embd, n_embd),
            f"layer{i}.attn_wk": (n_embd, n_embd),
            f"layer{i}.attn_wv": (n_embd, n_embd),
            f"layer{i}.attn_wo": (n_embd, n_embd),
            f"layer{i}.mlp_fc1": (4 * n_embd, n_embd),
            f"layer{i}.mlp_fc2": (n_embd, 4 * n_embd),
        }
    return shapes


def num_params(config: Config) -> int:
    """Return how many numbers the matrices of `parameter_shapes` have."""
    c = config
    return (2 * c.vocab_size + c.block_size + 12 * c.n_layer * c.n_embd) * c.n_embd


def flops_per_token(config: Config, length: float) -> float:
    """Floating-point operations that learning one token takes, in documents of so many targets.

    Two for each product and its sum, forward once and backward twice; of attention what a token
    sees is counted, on average half of the document.
    """
    c = config
    linears = (12 * c.n_layer * c.n_embd + c.vocab_size) * c.n_embd
    attention = c.n_layer * c.n_embd * (length + 1)
    return 6.0 * (linears + attention)


def init(config: Config, rng: random.Random) -> array[float]:
    """The first parameters: normal, mean 0, deviation config.std, row by row down the table."""
    return mersenne.gauss(rng, config.std, num_params(config))
