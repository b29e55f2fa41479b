"""The settings for a size, or the best settings for a training time.

PRESETS were chosen on the names of the original's list. The models learned parts 2 to 9 of
`kamon.data.split` and were compared on part 1. No result is reported on that part. The text presets
up to medium were compared on the last tenth of Tiny Shakespeare. FINE_TUNING and the temperature
were chosen on lists with the role "tune" in bench/lists.toml. LONG_FINE_TUNING was chosen on one of
these lists, words-spanish, and on the built-in names.
"""

from __future__ import annotations

import math
import re
import reprlib
import time
from array import array
from bisect import insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from kamon.config import Config, require_float
from kamon.engines.base import Engine, StepPlan
from kamon.engines.batch import BatchSource, PackedBatch
from kamon.engines.distributed import get_group
from kamon.engines.loops import train
from kamon.errors import ConfigError

# At about this temperature, novel samples are as probable as entries that the model has not seen.
# At a lower one, a text repeats itself.
COMMON = {"n_head": 4, "beta1": 0.8, "beta2": 0.99, "temperature": 0.8}
PRESETS: dict[str, dict[str, Any]] = {
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
TEXT_PRESETS: dict[str, dict[str, Any]] = {  # for windows of text
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
# For a trained model. The learning rate of a run from scratch would destroy what it has learned.
FINE_TUNING: dict[str, Any] = {
    "batch_size": 16, "learning_rate": 0.0005, "schedule": "cosine", "beta1": 0.9, "beta2": 0.99,
    "temperature": COMMON["temperature"],
}  # fmt: skip
# For several epochs on a long list. Without dropout, the model would memorise the list.
LONG_FINE_TUNING = FINE_TUNING | {"learning_rate": 0.0007, "dropout": 0.05}
CONDITIONAL_FINE_TUNING = {"dropout": 0.05}  # of a table with given columns
TEXT = {"std": 0.08, "schedule": "cosine", "weight_decay": 0.1}
ORIGINAL = "original"  # the settings of the original microGPT
PICKED = {*COMMON, "block_size", "num_steps", "warmup_steps"}.union(*PRESETS.values())  # for lists
MIN_DOCS = {"tiny": 0, "small": 2_000, "medium": 3_000, "large": 3_000, "huge": 3_000}
MIN_SECONDS = {"tiny": 0.0, "small": 0.1, "medium": 0.5, "large": 4.0, "huge": 30.0}
MIN_CHARS = {
    "tiny": 0,
    "small": 50_000,
    "medium": 200_000,
    "large": 2_000_000,
    "huge": 20_000_000,
}
MIN_TEXT_SECONDS = {"tiny": 0.0, "small": 2.0, "medium": 20.0, "large": 240.0, "huge": 1800.0}
TEXT_STEPS = 2_000  # without a budget
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MAX_SECONDS = 30 * 24 * 3600.0
WARM_UP = 0.02  # of all steps
EPOCHS = 5  # over a list, without a budget
MIN_EXAMPLES = 20_000  # documents to learn, in up to MAX_EPOCHS epochs
MAX_EXAMPLES = 300_000  # documents to learn without a budget: nobody must wait for minutes
MAX_LEARNING_RATE = 1e6  # documents per second: more than any processor learns
FINE_TUNING_EPOCHS = 8
MAX_FINE_TUNED = 40_000  # examples without a budget, unless one epoch has more
MAX_BASE_DOCS = 20_000  # documents of a list: on a longer one, a new model learns as much
MIN_LONG_DOCS = 10_000  # documents of a list: LONG_FINE_TUNING applies from here on
MIN_LONG_EPOCHS = 4  # epochs that a budget must allow for LONG_FINE_TUNING
MIN_BASE_EPOCHS = 1.5  # epochs that a budget must allow to start from the base
MAX_EPOCHS = 100  # for any budget: after these, a model learns no more
EVAL_TIME_SHARE = 0.04  # share of the time for evaluations
MAX_BLOCK_SIZE = 256
TRIAL_EXAMPLES = 1_000  # examples in a trial
MIN_TRIAL_SECONDS = 0.02  # seconds of all trials, because a processor does not start at full speed
TRIAL = 0.01  # seconds of one trial, roughly
MAX_DELAY_SECONDS = 2  # how many times the budget a busy machine may take, roughly


def seconds_of(time: str | float, name: str = "budget") -> float:
    """Return the seconds of "500ms", "10s", "2m", "1h" or a number. name: of the argument."""
    if isinstance(time, str):
        found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(ms|s|m|h)\s*", time)
        seconds = float(found[1]) * UNITS[found[2]] if found else 0.0
    else:
        seconds = require_float(name, time)
    if not 0.001 <= seconds <= MAX_SECONDS:
        raise ConfigError(
            f"{name} must be a time from 1ms to 30 days with its unit, such as 500ms, 10s, 2m or "
            f"1h, not {reprlib.repr(time)}"
        )
    return seconds


def default_size(engine: str, lengths: Counter[int], mode: str = "documents") -> str:
    """Return the default size without a budget. The scalar engine is too slow for PRESETS."""
    if engine == "scalar":
        return ORIGINAL
    size, seconds = ("small", MIN_TEXT_SECONDS) if mode == "text" else ("medium", MIN_SECONDS)
    return size_for(seconds[size], lengths, mode)


def size_for(seconds: float, lengths: Counter[int], mode: str = "documents") -> str:
    """Return the best size for a time in seconds and this training set.

    lengths: how many documents have each number of characters.
    """
    if mode == "text":
        there = sum(length * number for length, number in lengths.items())
        wanted, time = MIN_CHARS, MIN_TEXT_SECONDS
    else:
        there, wanted, time = lengths.total(), MIN_DOCS, MIN_SECONDS
    return [n for n in PRESETS if time[n] <= seconds and wanted[n] <= there][-1]


def sizes_for(
    seconds: float, engine: str, lengths: Counter[int], mode: str = "documents"
) -> list[str]:
    """Return the sizes to try for a time in seconds. The first that learns enough is best.

    A model larger than the usual one is worse if it learns fewer documents than without a budget.
    """
    best = size_for(seconds, lengths, mode)
    usual = default_size(engine, lengths, mode)
    names = list(PRESETS)
    if usual == ORIGINAL:  # for the scalar engine, which is slow
        return names[:1]
    last = names.index(usual)
    if mode == "text" or names.index(best) <= last:
        return [best]
    return names[last : names.index(best) + 1][::-1]


def check_picks(budget: str | None, size: str | None) -> None:
    """Raise ConfigError if the --budget is not a time or the --size not a size."""
    if budget is not None:
        seconds_of(budget, "--budget")
    if size is not None:
        preset(Counter([0]), size)


def preset(lengths: Counter[int], size: str, mode: str = "documents") -> dict[str, Any]:
    """Return the settings of this size that differ from the defaults.

    lengths: how many documents have each number of tokens.
    """
    if size == ORIGINAL:
        return {}
    if size not in PRESETS:
        raise ConfigError(
            f"unknown size {size!r}", f"choose from {', '.join(PRESETS)} and {ORIGINAL}"
        )
    if mode == "text":
        return COMMON | TEXT | TEXT_PRESETS[size]
    return COMMON | PRESETS[size] | {"block_size": block_size_for(lengths)}


def size_of(config: Config, given: Collection[str]) -> str | None:
    """Return the size that chose the settings of this config, except those `given`, or None."""
    for size in PRESETS:
        picked = preset(Counter([0]), size, config.mode)
        if config.mode == "documents":
            del picked["block_size"]  # depends on the documents
        if all(getattr(config, name) == picked[name] for name in picked.keys() - set(given)):
            return size
    return None


def fine_tuning_preset(
    lengths: Counter[int], base: Config, *, long: bool = False
) -> dict[str, Any]:
    """Return the settings to fine-tune a base on documents of these lengths in tokens."""
    if base.mode == "text":
        return FINE_TUNING | TEXT | {"block_size": base.block_size}
    chosen = LONG_FINE_TUNING if long else FINE_TUNING
    return chosen | {"block_size": block_size_for(lengths)}


def fine_tuning_steps(num_docs: int, docs_per_step: int, has_budget: bool) -> int:
    """Return how many steps are enough for this number of documents."""
    examples = num_docs * FINE_TUNING_EPOCHS
    if not has_budget:
        examples = min(examples, max(num_docs, MAX_FINE_TUNED))
    return max(1, examples // docs_per_step)


def block_size_for(lengths: Counter[int]) -> int:
    """Return a block_size for the longest document. If that is very long, for 99% of them."""
    longest = max(lengths)
    if longest >= 64:
        ordered = sorted(lengths)
        shorter = accumulate(lengths[length] for length in ordered)
        rank = (lengths.total() - 1) * 99 // 100
        longest = next(n for n, up_to in zip(ordered, shorter, strict=True) if up_to > rank)
    return min(max(longest + 1, 8), MAX_BLOCK_SIZE)


def max_steps(
    num_docs: int, docs_per_step: int, seconds: float | None, mode: str = "documents"
) -> int:
    """Return how many steps are enough, or the most that a budget may allow."""
    learned = min(max(num_docs * EPOCHS, MIN_EXAMPLES), MAX_EXAMPLES)
    if seconds is not None:
        learned = int(seconds * MAX_LEARNING_RATE)
    if mode == "text":
        return TEXT_STEPS if seconds is None else max(1, learned // docs_per_step)
    return max(1, min(learned, num_docs * MAX_EPOCHS) // docs_per_step)


def steps_for_seconds(
    engine: Engine,
    docs: PackedBatch | BatchSource,
    config: Config,
    seconds: float,
    enough: int = 0,
    should_stop: Callable[[], bool] | None = None,
) -> int:
    """Return how many steps fit into the time. Short trials measure it and then restore the engine.

    Other programs slow some trials down, so the fastest one counts. A busy machine then takes
    longer than planned. If it would probably take more than MAX_DELAY_SECONDS times as long, there
    are fewer steps, but at least `enough`. Trials continue until three agree, or for a tenth of the
    time. They also end at a stop or a loss that is not finite. The training then ends for the same
    reason.
    """
    state, size, ranks = engine.state(), config.docs_per_step, get_group()
    passes = max(1, MAX_EPOCHS * len(docs) // size)
    if not isinstance(docs, PackedBatch):
        docs = docs.get(0, min(len(docs), TRIAL_EXAMPLES))
    least, most = (
        max(MIN_TRIAL_SECONDS, min(0.2, seconds / 10)),
        max(MIN_TRIAL_SECONDS, seconds / 10),
    )
    paces: list[float] = []  # seconds per step, ascending
    steps, spent = 1, 0.0
    while not paces or spent < least or (spent < most and not agree(paces)):
        plan = StepPlan(
            docs,
            config.batch_size,
            array("q", (i % len(docs) for i in range(steps * size))),
            array("d", [0.0]) * steps,
            gradient_accumulation_steps=config.gradient_accumulation_steps,
        )
        start = time.perf_counter()
        losses = train(engine, plan, should_stop)
        took = ranks.broadcast_scalar(time.perf_counter() - start)
        if ranks.any_rank(len(losses) < steps or not math.isfinite(losses[-1])):
            break
        spent += took
        insort(paces, took / steps)
        if took < TRIAL / 2:
            steps = min(2 * steps, passes)
    engine.load(state)
    if not paces:
        return 1
    fit, late = (
        int(times * seconds * (1 - EVAL_TIME_SHARE) / pace)
        for times, pace in ((1, paces[0]), (MAX_DELAY_SECONDS, paces[len(paces) // 2]))
    )
    return max(1, min(fit, max(late, enough), passes))


def agree(paces: Sequence[float]) -> bool:
    """Return whether the three fastest paces differ by at most a tenth. They are ascending."""
    return len(paces) >= 3 and paces[2] <= 1.1 * paces[0]


def set_num_steps(config: Config, num_steps: int, given: Iterable[str]) -> Config:
    """Return `config` with this number of steps. Unless `given`, the warm-up is in proportion."""
    warmup = config.warmup_steps if "warmup_steps" in given else int(num_steps * WARM_UP)
    return replace(config, num_steps=num_steps, warmup_steps=warmup)
