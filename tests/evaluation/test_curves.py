"""A long row of losses made short: each mean by hand, no extreme lost, one line in the terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TINY_FLAGS, Result
from kamon.cli.output import loss_curve
from kamon.evaluation.curves import (
    BLOCKS,
    SPARK_WIDTH,
    extremes,
    moving_means,
    smoothing,
    spark_line,
)
from kamon.storage import model_dir

Kamon = Callable[..., Result]
NUMBERS = st.lists(st.floats(-1e6, 1e6), max_size=80)


@given(NUMBERS, st.integers(0, 20), st.integers(2, 90))
def test_moving_means(numbers: list[float], half: int, most: int) -> None:
    found = moving_means(numbers, 2 * half + 1, most)
    places = [place for place, _ in found]
    assert len(found) == min(len(numbers), most)
    assert places == sorted(set(places))
    assert not numbers or (places[0], places[-1]) == (0, len(numbers) - 1)
    for place, mean in found:
        near = [x for at, x in enumerate(numbers) if abs(at - place) <= half]
        assert mean == pytest.approx(sum(near) / len(near), abs=1e-6)


def test_places_are_evenly_spread() -> None:
    places = [place for place, _ in moving_means([0.0] * 1000, 1, 38)]
    assert {after - before for before, after in pairwise(places)} == {27}


@given(NUMBERS, st.integers(2, 90))
def test_no_extreme_is_lost(numbers: list[float], most: int) -> None:
    places = extremes(numbers, most)
    assert len(places) <= most
    assert places == sorted(set(places))
    if numbers:
        kept = [numbers[place] for place in places]
        assert (min(kept), max(kept)) == (min(numbers), max(numbers))


def test_extremes_of_each_part() -> None:
    """A tooth in each of four parts, up in one and down in the next."""
    numbers = [0.0] * 40
    numbers[3], numbers[17], numbers[22], numbers[39] = 1.0, -1.0, 1.0, -1.0
    assert {3, 17, 22, 39} <= set(extremes(numbers, 8))
    assert extremes(numbers, 40) == list(range(40))


def test_smoothing_is_odd_and_a_twentieth() -> None:
    assert [smoothing(size) for size in (0, 1, 39, 40, 59, 60, 1000)] == [1, 1, 1, 3, 3, 3, 51]


@pytest.mark.parametrize(
    ("losses", "line"),
    [
        ([], ""),
        ([2.5], "▁"),
        ([2.5] * 7, "▁" * 7),
        ([3.0, 1.0], "█▁"),
        ([1.0, 2.0, 3.0], "▁▅█"),
        ([0.0, 0.99, 1.01, 8.0], "▁▁▂█"),
        ([1.0, 1.0 + 2**-52], "▁█"),
        ([1e308, 0.0], "█▁"),
    ],
)
def test_spark_line(losses: list[float], line: str) -> None:
    assert spark_line(losses) == line


@given(st.lists(st.floats(0, 1e300), max_size=300), st.integers(2, 80))
def test_a_spark_line_fits(losses: list[float], width: int) -> None:
    line = spark_line(losses, width)
    assert len(line) == min(len(losses), width)
    assert set(line) <= set(BLOCKS)


def test_a_spark_line_is_smooth_and_falls_with_the_losses() -> None:
    """A noise as large as the fall: means over a twentieth of the steps show the fall alone."""
    losses = [3 - step / 6000 + math.sin(7 * step) for step in range(6000)]
    heights = [BLOCKS.index(block) for block in spark_line(losses)]
    assert len(heights) == SPARK_WIDTH
    assert heights == sorted(heights, reverse=True)
    assert set(heights) == set(range(8))


def test_a_loss_curve_in_the_terminal(names: Path, tmp_path: Path, kamon: Kamon) -> None:
    done = kamon("train", names, "-o", tmp_path / "m", *TINY_FLAGS, "--num-steps=200")
    line = next(line for line in done.err.splitlines() if line.startswith("Loss curve"))
    assert len(line) <= 80
    first, blocks, last = line.split()[2:]
    losses = model_dir.load(tmp_path / "m").metrics.losses
    assert (first, last) == (f"{losses[0]:.3f}", f"{sum(losses[-100:]) / 100:.3f}")
    assert len(blocks) == SPARK_WIDTH
    assert f"{first} {blocks} {last}" in kamon("inspect", tmp_path / "m").out
    done = kamon("train", names, "-o", tmp_path / "one", *TINY_FLAGS, "--num-steps=1")
    assert "Loss curve" not in done.err


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("utf-8", "3.000 █▁ 2.500"), ("ascii", "3.000 to 2.500"), ("cp1252", "3.000 to 2.500")],
)
def test_a_terminal_that_has_no_blocks(encoding: str, shown: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    assert loss_curve([3.0, 2.0], stream) == shown
