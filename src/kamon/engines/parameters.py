"""The parameters: their names, shapes, order and initial values."""

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
    """Return the number of parameters in the matrices of `parameter_shapes`."""
    c = config
    return (2 * c.vocab_size + c.block_size + 12 * c.n_layer * c.n_embd) * c.n_embd


def flops_per_token(config: Config, length: float) -> float:
    """Return the floating-point operations per token in training, for documents of this length.

    Each multiply-add counts as two operations. It occurs once in the forward pass and twice in the
    backward pass. On average, a token attends to half of the document.
    """
    c = config
    linears = (12 * c.n_layer * c.n_embd + c.vocab_size) * c.n_embd
    attention = c.n_layer * c.n_embd * (length + 1)
    return 6.0 * (linears + attention)


def init(config: Config, rng: random.Random) -> array[float]:
    """Return the initial parameters: normal numbers with standard deviation config.std."""
    return mersenne.gauss(rng, config.std, num_params(config))
