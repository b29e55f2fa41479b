"""Links to the code that computes the contents of a panel."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import kamon


@dataclass(frozen=True)
class Source:
    """A function, its file (relative to the folder of the package), and its first line."""

    function: str
    file: str
    line: int


@cache
def source_of(function: Callable[..., Any]) -> Source:
    """Return the place of a function or method of Kamon.

    >>> source_of(sources_of).file
    'kamon/web/views/source_links.py'
    """
    _, line = inspect.getsourcelines(function)
    path = Path(inspect.getfile(function)).relative_to(Path(kamon.__file__).parent.parent)
    return Source(function.__qualname__, path.as_posix(), line)


def sources_of(**functions: Callable[..., Any]) -> dict[str, Source]:
    """Return `source_of` each function, under the same names."""
    return {name: source_of(function) for name, function in functions.items()}
