"""How much memory a model needs, and how much there is: asked before any is taken.

The system may promise memory that it does not have, and then stop the process without a word, or
the whole machine. So what is plainly too much is refused first.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress

from kamon.config import Config
from kamon.errors import ConfigError

GB = 1e9
MIN_ASKED_BYTES = 1e8  # bytes: that is always there, and need not be asked for
CHUNK_TOKENS = 96  # that the native engine computes together, or one longer document
MAX_GROUPS = 8  # of documents, each with a gradient of its own
SCALAR_BYTES_PER_NODE = 550  # bytes that the scalar engine takes per parameter and token, measured
# Numbers that torch keeps for each input while it learns, measured:
TORCH_LAYER = 17  # times n_embd, for each layer
TORCH_DROPOUT = 6  # as many more where there is dropout
TORCH_ENDS = 11  # times n_embd, for what is before and after the layers
TORCH_VOCAB = 4  # times vocab_size


def available() -> float:
    """Return the bytes that this process could still take; infinite if unknown."""
    free = float("inf")
    with suppress(OSError, ValueError, IndexError), open("/proc/meminfo") as file:
        sizes = {line.split(":")[0]: 1024.0 * int(line.split()[1]) for line in file}
        free = sizes.get("MemAvailable", free) + sizes.get("SwapFree", 0.0)
    with suppress(OSError, ValueError), open("/sys/fs/cgroup/memory.max") as file:
        most = float(file.read())  # of a container; "max" is no number
        with open("/sys/fs/cgroup/memory.current") as taken:
            free = min(free, max(0.0, most - float(taken.read())))
    if free == float("inf"):
        with suppress(OSError, ValueError, AttributeError):
            free = float(os.sysconf("SC_PHYS_PAGES")) * os.sysconf("SC_PAGE_SIZE")
    return free


def check_memory(needed: float, what: str, remedy: str) -> None:
    """ConfigError with both figures where that many bytes cannot be had. remedy: what to do."""
    there = float("inf") if needed < MIN_ASKED_BYTES else available()
    if needed > there:
        raise ConfigError(
            f"{what} would need {needed / GB:,.1f} GB of memory, and {there / GB:,.1f} GB are "
            f"free: {remedy}"
        )


def check_model(
    config: Config, *, engine: str, real: int, threads: int, longest: int, held_out: int
) -> None:
    """ConfigError where training cannot have its memory; it names the setting that would help most.

    engine: its name; real: bytes of a number; longest: of the documents, in characters; held_out:
    how many there are.
    """
    names = ("n_layer", "n_embd", "n_head", "block_size", "vocab_size", "batch_size", "dropout")
    sizes = {name: getattr(config, name) for name in names}

    def needed(sizes: Mapping[str, float]) -> float:
        return training_bytes(
            sizes, engine=engine, real=real, threads=threads, longest=longest, held_out=held_out
        )

    settings = ("n_layer", "n_embd", "block_size", "batch_size")
    usual = Config()
    best = min(settings, key=lambda name: needed(sizes | {name: getattr(usual, name)}))
    check_memory(
        needed(sizes), "training this model", f"a smaller {best} than {sizes[best]} needs less"
    )


def training_bytes(
    sizes: Mapping[str, float], *, engine: str, real: int, threads: int, longest: int, held_out: int
) -> float:
    """Return the bytes that training takes at its peak; see `check_model`.

    >>> sizes = {"n_layer": 2, "n_embd": 1024, "n_head": 8, "block_size": 16, "vocab_size": 11}
    >>> size = {"engine": "native", "real": 4, "threads": 1, "longest": 8, "held_out": 20}
    >>> round(training_bytes(sizes | {"batch_size": 1}, **size) / 1e6)  # measured: 1633
    1627
    """
    n_layer, n_embd, block_size = sizes["n_layer"], sizes["n_embd"], sizes["block_size"]
    vocab_size, batch_size = sizes["vocab_size"], sizes["batch_size"]
    params = (2 * vocab_size + block_size) * n_embd + 12 * n_layer * n_embd * n_embd
    # Parameters with Adam's means cross to Python as doubles; the best model so far is kept there.
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
