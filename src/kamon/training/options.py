"""What every kind of training takes besides its settings: where to save, and whom to tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kamon.training.loop import Progress


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls; each may be None."""

    on_start: Callable[[Any], None] | None = None  # once, before the first step
    on_progress: Callable[[Progress], None] | None = None  # from time to time
    should_stop: Callable[[], bool] | None = None  # between steps; True stops the run


@dataclass(frozen=True)
class RunOptions:
    """Where a run saves its model, and how often.

    checkpoint_every: a number of steps, or a time such as "30s"; None saves often enough to take
        at most 1% of the time.
    """

    output: str | Path | None = None  # None saves nothing
    overwrite: bool = False
    checkpoint_every: str | int | None = None
    callbacks: Callbacks = field(default_factory=Callbacks)
