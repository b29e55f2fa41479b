"""Ending a command early without losing what it has done."""

from __future__ import annotations

import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kamon.cli.output import say

if TYPE_CHECKING:
    from kamon.model import Model

LAST_CHECKPOINT = "with the last checkpoint"


@dataclass
class Stop:
    """The signal that asked a command to stop, if any."""

    signal: int | None = None

    def asked(self, _done: int = 0) -> bool:
        return self.signal is not None

    def code(self, *, finished: bool) -> int:
        """Return the exit code: 0 if the work was finished when the signal came."""
        return 0 if self.signal is None or finished else 128 + self.signal


def code_of_run(stop: Stop, model: Model) -> int:
    """Return the exit code of a training that has ended."""
    if not model.metrics:
        say("Stopped before the first step: there is nothing to save")
    return stop.code(finished=model.training.finished)


@contextmanager
def stop_on_signals(how: str) -> Iterator[Stop]:
    """Make the first Ctrl-C or SIGTERM ask for a stop, and the second one quit at once.

    how: what is lost then, such as "without the samples".
    """
    stop = Stop()

    def on_signal(number: int, _frame: types.FrameType | None) -> None:
        if stop.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        stop.signal = number
        again = "press Ctrl-C" if number == signal.SIGINT else "send the signal"
        say(f"\nStopping: {again} again to quit now {how}")

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # ignored signals stay ignored
            before[number] = signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
