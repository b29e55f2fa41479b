"""The memory that training needs, and a check that it is free before a run starts.

Without the check, the system may promise memory that it does not have, and later end the process
without a message.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from kamon.config import Config
from kamon.errors import ConfigError

GB = 1e9
MIN_ASKED_BYTES = 1e8  # smaller needs are not checked
CHUNK_TOKENS = 96  # tokens that the native engine computes together, or one longer document
MAX_GROUPS = 8  # groups of documents with their own gradient
SCALAR_BYTES_PER_NODE = 550  # bytes that the scalar engine takes per parameter and token, measured
# Numbers that torch keeps for each input in training, measured:
TORCH_LAYER = 17  # times n_embd, for each layer
TORCH_DROPOUT = 6  # times n_embd, for each layer with dropout
TORCH_ENDS = 11  # times n_embd, before and after the layers
TORCH_VOCAB = 4  # times vocab_size


def available() -> float:
    """Return how many bytes of memory are free for this process, infinite if unknown."""
    free = float("inf")
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as file:
        sizes = {line.split(":")[0]: 1024.0 * int(line.split()[1]) for line in file}
        free = sizes.get("MemAvailable", free) + sizes.get("SwapFree", 0.0)
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max") as file:
        most = float(file.read())  # the limit of a container, or "max", which is not a number
        with open("/sys/fs/cgroup/memory.current") as taken:
            free = min(free, max(0.0, most - float(taken.read())))
    if free == float("inf"):
        with suppress(OSError, ValueError, AttributeError):
            free = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return free


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Raise ConfigError unless so many bytes are free. remedy: the hint for the user."""
    free = float("inf") if needed < MIN_ASKED_BYTES else available()
    if needed > free:
        raise ConfigError(
            f"{what} needs {needed / GB:,.1f} GB of memory, and only {free / GB:,.1f} GB are free",
            remedy,
        )


def check_model(
    config: Config, *, engine: str, real: int, threads: int, longest: int, held_out: int
) -> None:
    """Raise ConfigError if training needs too much memory. The hint names the setting to lower.

    Args:
        engine: its name.
        real: bytes per number.
        longest: length of the longest document in characters.
        held_out: number of documents in the validation set.
    """
    names = ("n_layer", "n_embd", "n_head", "block_size", "vocab_size", "batch_size", "dropout")
    sizes = {name: getattr(config, name) for name in names}

    needed = partial(
        training_bytes,
        engine=engine,
        real=real,
        threads=threads,
        longest=longest,
        held_out=held_out,
    )
    default = Config()
    settings = ("n_layer", "n_embd", "block_size", "batch_size")
    best = min(settings, key=lambda name: needed(sizes | {name: getattr(default, name)}))
    remedy = f"use a smaller {best} than {sizes[best]}"
    check_memory(needed(sizes), "training this model", remedy)


def training_bytes(
    sizes: Mapping[str, float], *, engine: str, real: int, threads: int, longest: int, held_out: int
) -> float:
    """Return the bytes that training needs at its peak. See `check_model`.

    >>> sizes = {"n_layer": 2, "n_embd": 1024, "n_head": 8, "block_size": 16, "vocab_size": 11}
    >>> size = {"engine": "native", "real": 4, "threads": 1, "longest": 8, "held_out": 20}
    >>> round(training_bytes(sizes | {"batch_size": 1}, **size) / 1e6)  # measured: 1633
    1627
    """
    n_layer, n_embd, block_size = sizes["n_layer"], sizes["n_embd"], sizes["block_size"]
    vocab_size, batch_size = sizes["vocab_size"], sizes["batch_size"]
    params = (2 * vocab_size + block_size) * n_embd + 12 * n_layer * n_embd * n_embd
    # Python keeps the parameters and Adam's means as doubles, also those of the best model so far.
    total = params * (48.0 if held_out else 24.0) + 80.0 * batch_size
    tokens = min(block_size, longest + 1)
    if engine == "scalar":
        return total + params * SCALAR_BYTES_PER_NODE * float(tokens)
    if engine == "torch":
        layer = TORCH_LAYER + (TORCH_DROPOUT if sizes["dropout"] else 0)
        numbers = (layer * n_layer + TORCH_ENDS) * n_embd + TORCH_VOCAB * vocab_size
        return total + float(real) * (4 * params + batch_size * tokens * numbers)
    total += params * float(real) * (3 + min(MAX_GROUPS, batch_size))
    tokens = max(tokens, CHUNK_TOKENS)
    numbers = tokens * ((10 * n_layer + 16) * n_embd + vocab_size)
    weights = n_layer * sizes["n_head"] * min(block_size, longest + 1) ** 2 / 2
    return total + real * (numbers + weights) * min(threads, max(batch_size, held_out))
