"""The measurements of each training step, in a few bytes per step."""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

Line = dict[str, float]
OWN_KEYS = {"step", "loss", "learning_rate", "held_out_loss"}


@dataclass
class Metrics(Sequence[Line]):
    """A sequence of {"step": 1, "loss": …, "learning_rate": …}. Some have a "held_out_loss".

    Attributes:
        losses: of each step, in nats per token.
        held_out: validation losses, by the number of steps done.
        others: other measurements of each step, by name.

    >>> metrics = Metrics(array("d", [3.5, 3.25]), array("d", [0.25, 0.125]), {2: 3.0})
    >>> metrics[-1]
    {'step': 2, 'loss': 3.25, 'learning_rate': 0.125, 'held_out_loss': 3.0}
    """

    losses: array[float] = field(default_factory=lambda: array("d"))
    learning_rates: array[float] = field(default_factory=lambda: array("d"))
    held_out: dict[int, float] = field(default_factory=dict)
    others: dict[str, array[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.losses)

    @overload
    def __getitem__(self, place: int) -> Line: ...
    @overload
    def __getitem__(self, place: slice) -> list[Line]: ...
    def __getitem__(self, place: int | slice) -> Line | list[Line]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        step = range(1, len(self) + 1)[place]
        line: Line = {
            "step": step,
            "loss": self.losses[step - 1],
            "learning_rate": self.learning_rates[step - 1],
        }
        line |= {name: numbers[step - 1] for name, numbers in self.others.items()}
        return line | ({"held_out_loss": self.held_out[step]} if step in self.held_out else {})

    def __eq__(self, other: object) -> bool:
        if isinstance(other, list):
            return list(self) == other
        return isinstance(other, Metrics) and vars(self) == vars(other)

    def to_json_lines(self) -> Iterator[bytes]:
        for line in self:
            yield json.dumps(line, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json_lines(cls, lines: Iterable[bytes]) -> Metrics:
        """Return the metrics in these lines. ValueError if one is invalid, or there are none."""
        found = cls()
        for line in map(json.loads, lines):
            if not isinstance(line, dict) or line.get("step") != len(found) + 1:
                raise ValueError("metrics.jsonl has a line with a wrong step number")
            found.losses.append(finite(line.get("loss")))
            found.learning_rates.append(finite(line.get("learning_rate")))
            if "held_out_loss" in line:
                found.held_out[len(found)] = finite(line["held_out_loss"])
            if found.others or len(line) > 3 + ("held_out_loss" in line):  # of fine-tuning
                found.add_others(line)
        if not found.losses:
            raise ValueError("metrics.jsonl is empty")
        return found

    def add_others(self, line: Line) -> None:
        """Add the other measurements of the step that was added last."""
        others = line.keys() - OWN_KEYS
        if len(self) == 1:
            self.others = {name: array("d") for name in line if name in others}
        if others != self.others.keys():
            raise ValueError("metrics.jsonl has lines with different measurements")
        for name, numbers in self.others.items():
            numbers.append(finite(line[name]))


def finite(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("metrics.jsonl has a line without the numbers that it needs")
    return float(value)
