"""Whether a prompt is like those that a model has learned to follow.

A model answers any prompt, also one that it cannot understand. So Kamon counts the places of a
prompt with three characters in a row that no prompt of the training has. A prompt is unknown if it
has more of them than any prompt of the training has when it is compared with all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

SIZE = 3  # characters in a row
BEGIN, END = "\2", "\3"  # of a prompt
MIN_PROMPTS = 20  # different ones. With fewer, a prompt must be one of them
MIN_NEW = 1  # piece that any prompt may have
MAX_PROMPTS = 20_000  # that are compared
NUM_SHOWN = 3  # as examples
MAX_SHOWN = 60  # characters of an example


@dataclass(frozen=True)
class KnownPrompts:
    """The different prompts of a training, in its order."""

    prompts: tuple[str, ...]

    @classmethod
    def of(cls, prompts: Iterable[str]) -> KnownPrompts:
        return cls(tuple(dict.fromkeys(prompts)))

    def knows(self, prompt: str) -> bool:
        """Return whether a prompt is empty, one of these or like them.

        >>> known = KnownPrompts.of(["boy, 3", *(f"girl, {n}" for n in range(3, 33))])
        >>> known.knows("boy, 21"), known.knows("a girl name with m")
        (True, False)
        """
        if not (self.prompts and prompt) or prompt in self.prompts:
            return True
        if len(self.prompts) < MIN_PROMPTS:
            return False
        most, longest = self.most_new
        new = sum(piece not in self.num_prompts for piece in pieces(prompt))
        return new <= most * max(1.0, len(prompt) / longest)

    @cached_property
    def compared(self) -> Sequence[str]:
        return self.prompts[:: max(1, -(-len(self.prompts) // MAX_PROMPTS))]

    @cached_property
    def num_prompts(self) -> Counter[str]:
        """The number of prompts that have each piece."""
        return Counter(piece for prompt in self.compared for piece in set(pieces(prompt)))

    @cached_property
    def most_new(self) -> tuple[int, int]:
        """The most pieces of a prompt that no other prompt has, and the length of the longest."""
        own = self.num_prompts
        new = (sum(own[piece] == 1 for piece in pieces(prompt)) for prompt in self.compared)
        return max(MIN_NEW, *new), max(1, *map(len, self.compared))

    def warning(self, prompt: str) -> tuple[str, str] | None:
        """Return what to tell a user about an unknown prompt, and what to do. None for others."""
        if self.knows(prompt):
            return None
        step = max(1, len(self.prompts) // NUM_SHOWN)
        shown = [f'"{text[:MAX_SHOWN]}"' for text in self.prompts[::step][:NUM_SHOWN]]
        return (
            f'the prompt "{prompt:.100}" is unlike the prompts that the model has learned, so its '
            "answers mean little",
            f"write a prompt such as {', '.join(shown)}",
        )


def pieces(prompt: str) -> list[str]:
    """Return all SIZE characters in a row, with the beginning and the end as characters."""
    text = f"{BEGIN}{prompt}{END}"
    return [text[place : place + SIZE] for place in range(max(1, len(text) - SIZE + 1))]
