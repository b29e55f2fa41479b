"""One dial: the time there is, or a size, to the settings that make the most of it.

The recipes were chosen with the names of the original's list, by the loss on a part that is neither
learned from nor reported on: part 1 of `kamon.split`.
"""

from __future__ import annotations

import re
import reprlib
import time
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from typing import Any

from kamon.batch import Batch, Examples
from kamon.config import Config, checked_float
from kamon.engine import Engine, Plan, train
from kamon.errors import ConfigError
from kamon.ranks import here

ADAM = {"n_head": 4, "beta1": 0.8, "beta2": 0.99}
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"n_layer": 1, "n_embd": 16, "batch_size": 8, "learning_rate": 0.012, "std": 0.15},
    "small": {"n_layer": 1, "n_embd": 32, "batch_size": 8, "learning_rate": 0.006, "std": 0.15},
    "medium": {"n_layer": 2, "n_embd": 32, "batch_size": 16, "learning_rate": 0.006, "std": 0.15},
    "large": {
        "n_layer": 2, "n_embd": 64, "batch_size": 32, "learning_rate": 0.003, "std": 0.1,
        "schedule": "cosine", "weight_decay": 0.1,
    },
    "huge": {
        "n_layer": 4, "n_embd": 64, "batch_size": 32, "learning_rate": 0.003, "std": 0.1,
        "schedule": "cosine", "weight_decay": 0.05, "dropout": 0.2,
    },
}  # fmt: skip
TEXT_SIZES: dict[str, dict[str, Any]] = {  # of windows of text
    "tiny": {
        "n_layer": 1, "n_embd": 32, "block_size": 32, "batch_size": 16, "learning_rate": 0.01,
    },
    "small": {
        "n_layer": 2, "n_embd": 64, "block_size": 64, "batch_size": 12, "learning_rate": 0.008,
    },
    "medium": {
        "n_layer": 4, "n_embd": 128, "block_size": 64, "batch_size": 12, "learning_rate": 0.003,
    },
    "large": {
        "n_layer": 6, "n_embd": 192, "block_size": 128, "batch_size": 16, "learning_rate": 0.002,
    },
    "huge": {
        "n_layer": 6, "n_embd": 384, "block_size": 256, "batch_size": 32, "learning_rate": 0.001,
    },
}  # fmt: skip
# Colder, a text falls into one line for ever, or into its indentation.
TEXT = {"std": 0.08, "schedule": "cosine", "weight_decay": 0.1, "temperature": 0.8}
ORIGINAL = "original"  # no size of ours: the settings of the original microGPT
PICKED = {*ADAM, "block_size", "num_steps", "warmup_steps"}.union(*SIZES.values())  # of lists
LEAST_DOCS = {"tiny": 0, "small": 2_000, "medium": 3_000, "large": 3_000, "huge": 3_000}
LEAST_SECONDS = {"tiny": 0.0, "small": 0.1, "medium": 0.5, "large": 4.0, "huge": 30.0}
LEAST_CHARS = {
    "tiny": 0,
    "small": 50_000,
    "medium": 200_000,
    "large": 2_000_000,
    "huge": 20_000_000,
}
LEAST_TEXT_SECONDS = {"tiny": 0.0, "small": 2.0, "medium": 20.0, "large": 240.0, "huge": 1800.0}
TEXT_STEPS = 2_000  # where no time is named
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MOST_SECONDS = 30 * 24 * 3600.0
WARM_UP = 0.02  # of all steps
PASSES = 5  # over the list where no time is named
LEAST_LEARNED = 20_000  # documents, if these are no more than MOST_PASSES
MOST_LEARNED = 300_000  # where no time is named: a long list is no reason to wait for minutes
FASTEST = 1e6  # documents a second: no processor learns so many
MOST_PASSES = 100  # whatever time there is: what is not learned by then is not to be learned
EVALUATING = 0.04  # of the time goes into looking at the held-out documents
LONGEST_BLOCK = 256
TRIED = 1_000  # examples that a trial learns from
LEAST_TRIAL = 0.02  # seconds: a processor needs some to reach its speed


def seconds_of(time: str | float, name: str = "budget") -> float:
    """Seconds of "500ms", "10s", "2m", "1h" or a number of seconds. name: of the argument."""
    if isinstance(time, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ms|s|m|h)\s*", time)
        seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    else:
        seconds = checked_float(name, time)
    if not 0.001 <= seconds <= MOST_SECONDS:
        raise ConfigError(
            f"{name} must be a time from 1ms to 30 days with its unit, such as 500ms, 10s, 2m or "
            f"1h, not {reprlib.repr(time)}"
        )
    return seconds


def default_size(engine: str, lengths: Counter[int], mode: str = "documents") -> str:
    """Where neither a size nor a time is named. The scalar engine has no time for ours."""
    if engine == "scalar":
        return ORIGINAL
    size, seconds = ("small", LEAST_TEXT_SECONDS) if mode == "text" else ("medium", LEAST_SECONDS)
    return size_for(seconds[size], lengths, mode)


def size_for(seconds: float, lengths: Counter[int], mode: str = "documents") -> str:
    """The size that makes the most of so much time and what there is to learn from.

    lengths: how many documents have so many characters.
    """
    if mode == "text":
        there = sum(length * number for length, number in lengths.items())
        wanted, time = LEAST_CHARS, LEAST_TEXT_SECONDS
    else:
        there, wanted, time = lengths.total(), LEAST_DOCS, LEAST_SECONDS
    return [n for n in SIZES if time[n] <= seconds and wanted[n] <= there][-1]


def check_picks(budget: str | None, size: str | None) -> None:
    """ConfigError for what is no time or no size, as --budget and --size."""
    if budget is not None:
        seconds_of(budget, "--budget")
    if size is not None:
        recipe(Counter([0]), size)


def recipe(lengths: Counter[int], size: str, mode: str = "documents") -> dict[str, Any]:
    """The settings of this size for documents of these lengths; all others have their defaults.

    lengths: how many documents have so many tokens.
    """
    if size == ORIGINAL:
        return {}
    if size not in SIZES:
        raise ConfigError(f"unknown size {size!r}: there is {', '.join(SIZES)} and {ORIGINAL}")
    if mode == "text":
        return ADAM | TEXT | TEXT_SIZES[size]
    return ADAM | SIZES[size] | {"block_size": block_size_for(lengths)}


def block_size_for(lengths: Counter[int]) -> int:
    """Room for the longest document and its end; where that is very long, for 99 of 100."""
    longest = max(lengths)
    if longest >= 64:
        ordered = sorted(lengths)
        shorter = accumulate(lengths[length] for length in ordered)
        rank = (lengths.total() - 1) * 99 // 100
        longest = next(n for n, up_to in zip(ordered, shorter, strict=True) if up_to > rank)
    return min(max(longest + 1, 8), LONGEST_BLOCK)


def steps_at_most(
    num_docs: int, docs_per_step: int, seconds: float | None, mode: str = "documents"
) -> int:
    """How many steps are enough; for a budget, at least as many as `steps_for_seconds` finds."""
    if mode == "text":
        return TEXT_STEPS
    learned = min(max(num_docs * PASSES, LEAST_LEARNED), MOST_LEARNED)
    if seconds is not None:
        learned = int(seconds * FASTEST)
    return max(1, min(learned, num_docs * MOST_PASSES) // docs_per_step)


def steps_for_seconds(
    engine: Engine, docs: Batch | Examples, config: Config, seconds: float
) -> int:
    """How many steps fit, by a short trial; the engine is then as it was before."""
    state, size = engine.state(), config.docs_per_step
    passes = max(1, MOST_PASSES * len(docs) // size)
    if not isinstance(docs, Batch):
        docs = docs.take(0, min(len(docs), TRIED))
    trial = max(LEAST_TRIAL, min(0.2, seconds / 10))
    steps, took = 1, 0.0
    while True:
        indices = array("q", [i % len(docs) for i in range(steps * size)])
        plan = Plan(
            docs,
            config.batch_size,
            indices,
            array("d", [0.0]) * steps,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
        )
        start = time.perf_counter()
        train(engine, plan)
        took = here().first(time.perf_counter() - start)
        if took >= trial / 2:
            break
        steps *= 2
    engine.load(state)
    fit = int(seconds * (1 - EVALUATING) * steps / took)
    return max(1, min(fit, passes))


def with_steps(config: Config, num_steps: int, given: Iterable[str]) -> Config:
    """`config` with so many steps, and a warm-up in proportion unless one was `given`."""
    warmup = config.warmup_steps if "warmup_steps" in given else int(num_steps * WARM_UP)
    return replace(config, num_steps=num_steps, warmup_steps=warmup)
