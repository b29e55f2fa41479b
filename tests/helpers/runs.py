"""Runs that stop, and their comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import IO

from kamon.model import Model
from kamon.storage.records import TrainingRecord
from kamon.training.loop import Progress

UNTRAINED = TrainingRecord.read(
    {
        "engine": "scalar",
        "dtype": "float64",
        "corpus": {"source": "nothing", "num_docs": 0},
        "num_steps_done": 0,
        "seconds": 0.0,
    }
)
REWARD_TUNING = {
    "kind": "reward",
    "base": {"path": None, "sha256": ""},
    "data": {"source": "pairs", "num_examples": 1, "sha256": ""},
    "settings": {},
    "updates": 1,
}


def stop_after(steps: int) -> Callable[[], bool]:
    """Asked once between two steps by the scalar engine, and now and then by the native one."""
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > steps

    return stop


class Killed(Exception):  # noqa: N818 - no error
    """The process ends here."""


def kill_after(steps: int) -> Callable[[Progress], None]:
    """An `on_progress` that ends a run soon after these steps, without a save."""

    def on_progress(progress: Progress) -> None:
        if len(progress.losses) > steps:
            raise Killed

    return on_progress


def same(model: Model, other: Model) -> None:
    assert model.metrics == other.metrics
    assert model.engine.state()["params"] == other.engine.state()["params"]
    assert model.training | {"seconds": 0} == other.training | {"seconds": 0}


def read_until(stream: IO[str], text: str) -> str:
    """Return the first line with this text. Fails if the stream ends without it."""
    lines = []
    for line in stream:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"no line with {text!r} in {lines}")
