"""Small functions of the native library, and what replaces them without it."""

from __future__ import annotations

import math
from array import array

from kamon.native import library


def test_places_above_a_number() -> None:
    row = array("d", [0.1, 0.5, math.nan, 0.3, 0.30001, math.inf])
    assert list(library.above(row, 0.3)) == list(library.above(list(row), 0.3)) == [1, 4, 5]
    assert list(library.above(array("d"), 0.0)) == []
