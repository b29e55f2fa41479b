"""The arguments of a run besides its data, its settings and its engine."""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kamon.config import require_int
from kamon.errors import ConfigError
from kamon.training.loop import Progress
from kamon.training.presets import seconds_of


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls. Each may be None."""

    on_start: Callable[[Any], None] | None = None  # once, before the first step
    on_progress: Callable[[Progress], None] | None = None  # about ten times per second
    should_stop: Callable[[], bool] | None = None  # between steps: True stops the run


@dataclass(frozen=True)
class RunOptions:
    """The directory of a run's model, the interval between checkpoints, and the callbacks.

    checkpoint_every: steps as an int, or seconds as a float (see `checkpoint_interval`). With None,
        saving takes at most 1% of the time.
    """

    output: str | Path | None = None  # None saves nothing
    overwrite: bool = False
    checkpoint_every: int | float | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)


def checkpoint_interval(
    every: str | int | None, name: str = "checkpoint_every"
) -> int | float | None:
    """Return steps as an int, or seconds as a float.

    Args:
        every: a whole number of steps, or text with a unit such as "30s". Other numbers are errors:
            30.0 could mean 30 steps or 30 seconds.
        name: the name of the argument in error messages.

    Raises: ConfigError.
    """
    if every is None:
        return None
    if isinstance(every, str) and every.strip()[-1:] in ("s", "m", "h"):
        return seconds_of(every, name)
    try:
        return require_int(name, int(every) if isinstance(every, str) else every, 1)
    except (ConfigError, ValueError):
        raise ConfigError(
            f"{name} must be a whole number of steps, such as 30, or a time with its unit, such as "
            f'"30s", not {reprlib.repr(every)}'
        ) from None
