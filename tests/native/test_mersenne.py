"""The shuffle and the Gaussian draws in C++ are those of Python's random, bit for bit."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kamon.native import library, mersenne

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())

SEEDS = st.one_of(st.integers(-(2**70), 2**70), st.integers(0, 9))


@pytest.fixture(autouse=True)
def _native_from_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short lists too, which are left to Python otherwise."""
    monkeypatch.setattr(mersenne, "MIN_NATIVE", 0)


def pair(seed: int, drawn: int) -> tuple[random.Random, random.Random]:
    """Two equal generators somewhere in their stream."""
    both = random.Random(seed), random.Random(seed)
    for rng in both:
        for _ in range(drawn):
            rng.random()
    return both


@settings(max_examples=300, deadline=None)
@given(seed=SEEDS, drawn=st.integers(0, 700), n=st.integers(0, 1500))
def test_shuffle(seed: int, drawn: int, n: int) -> None:
    ours, python = pair(seed, drawn)
    found, expected = list(range(n)), list(range(n))
    mersenne.shuffle(ours, found)
    python.shuffle(expected)
    assert found == expected
    assert ours.getstate() == python.getstate()


@settings(max_examples=300, deadline=None)
@given(
    seed=SEEDS,
    drawn=st.integers(0, 700),
    counts=st.lists(st.integers(0, 900), min_size=1, max_size=3),
    std=st.floats(0, 1e3),
)
def test_gauss(seed: int, drawn: int, counts: list[int], std: float) -> None:
    """Odd counts leave half a pair for the next call: ours, or Python's own."""
    ours, python = pair(seed, drawn)
    for n in counts:
        expected = array("d", [python.gauss(0, std) for _ in range(n)])
        assert mersenne.gauss(ours, std, n).tobytes() == expected.tobytes()
        assert ours.getstate() == python.getstate()
        assert ours.gauss(1, 2) == python.gauss(1, 2)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 255, 256, 257, 65_535, 65_536, 65_537, 300_001])
def test_shuffle_around_powers_of_two(n: int) -> None:
    """Where the number of bits that a draw takes changes."""
    ours, python = pair(n, 1)
    found, expected = list(range(n)), list(range(n))
    mersenne.shuffle(ours, found)
    python.shuffle(expected)
    assert found == expected


def test_every_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    found = set()
    for level in library.LEVELS[: library.LEVELS.index(library.best_level()) + 1]:
        monkeypatch.setattr(library, "best_level", lambda level=level: level)
        rng = random.Random(5)
        numbers = mersenne.gauss(rng, 0.08, 20_001)
        items = list(range(3_000))
        mersenne.shuffle(rng, items)
        found.add((numbers.tobytes(), tuple(items)))
    rng = random.Random(5)
    numbers = array("d", [rng.gauss(0, 0.08) for _ in range(20_001)])
    items = list(range(3_000))
    rng.shuffle(items)
    assert found == {(numbers.tobytes(), tuple(items))}


def test_other_generators_keep_their_own_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose numbers come from elsewhere, and any where there is no native code."""

    class Constant(random.Random):
        def random(self) -> float:
            return 0.25

        def getrandbits(self, k: int) -> int:  # noqa: ARG002
            return 0

    items = list(range(9))
    mersenne.shuffle(Constant(), items)
    assert items == [1, 2, 3, 4, 5, 6, 7, 8, 0]
    assert set(mersenne.gauss(Constant(), 1.0, 4)[::2]) == {Constant().gauss(0, 1)}
    monkeypatch.setattr(library, "why_not", lambda: "not here")
    ours, python = pair(3, 0)
    assert mersenne.gauss(ours, 1.0, 3).tolist() == [python.gauss(0, 1) for _ in range(3)]
