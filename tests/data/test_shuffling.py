"""Places of examples: every one as likely as another, and each epoch all documents once."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamon.data.shuffling import permutation, window_start


def chi_squared(counts: list[int]) -> float:
    """About as large as the number of counts, ± a few times the root of twice that."""
    mean = sum(counts) / len(counts)
    return sum((count - mean) ** 2 / mean for count in counts)


@given(st.integers(-(2**70), 2**70), st.integers(0, 2**70), st.integers(1, 2**64))
def test_a_start_is_a_place(seed: int, index: int, n: int) -> None:
    assert 0 <= window_start(seed, index, n) < n
    assert window_start(seed, index, n) == window_start(seed % 2**64, index % 2**64, n)


def test_starts_are_these() -> None:
    """Recorded: a training that goes on elsewhere must find the same ones."""
    assert [window_start(42, i, 1000) for i in range(5)] == [28, 123, 275, 460, 850]
    assert window_start(2**40, 2**40, 2**64) == 8391996359251423267


@pytest.mark.parametrize("vary", ["index", "seed"])
def test_starts_are_uniform(vary: str) -> None:
    draws = range(20_000)
    found = [window_start(i, 7, 50) if vary == "seed" else window_start(7, i, 50) for i in draws]
    assert chi_squared([found.count(place) for place in range(50)]) < 100
    pairs = Counter((a // 10, b // 10) for a, b in pairwise(found))
    assert chi_squared([pairs[a, b] for a in range(5) for b in range(5)]) < 60


def test_every_bit_of_seed_and_index_counts() -> None:
    bits = [0, *(1 << bit for bit in range(64))]
    assert len({window_start(bit, 0, 2**64) for bit in bits}) == 65
    assert len({window_start(0, bit, 2**64) for bit in bits}) == 65


@given(st.integers(0, 2**64), st.integers(0, 2**64), st.integers(1, 2000))
def test_a_permutation_is_one(seed: int, epoch: int, n: int) -> None:
    assert sorted(map(permutation(seed, epoch, n), range(n))) == list(range(n))


@given(st.integers(0, 2**64), st.integers(1, 2**63), st.data())
def test_a_permutation_of_very_many(seed: int, n: int, data: st.DataObject) -> None:
    place = permutation(seed, 0, n)
    few = data.draw(st.sets(st.integers(0, n - 1), max_size=20))
    found = {place(i) for i in few}
    assert len(found) == len(few)
    assert all(0 <= i < n for i in found)


def test_no_place_outside() -> None:
    for n, i in [(5, 5), (5, -1), (0, 0)]:
        with pytest.raises(IndexError):
            permutation(1, 0, n)(i)


@pytest.mark.parametrize("vary", ["seed", "epoch"])
def test_all_orders_of_four_are_about_as_likely(vary: str) -> None:
    found: Counter[tuple[int, ...]] = Counter()
    for i in range(12_000):
        place = permutation(i, 3, 4) if vary == "seed" else permutation(3, i, 4)
        found[tuple(map(place, range(4)))] += 1
    assert set(found) == set(permutations(range(4)))
    assert min(found.values()) > 250  # of 500
    assert max(found.values()) < 1000


@pytest.mark.parametrize("n", [100, 5000])
def test_places_are_uniform_and_neighbours_apart(n: int) -> None:
    """Where number 3 goes, and how far number 4 goes from it, over many epochs."""
    firsts, steps = [0] * 20, [0] * 20
    for epoch in range(10_000):
        place = permutation(1, epoch, n)
        first, second = place(3), place(4)
        firsts[first * 20 // n] += 1
        steps[(second - first) % n * 20 // n] += 1
    assert chi_squared(firsts) < 55
    assert chi_squared(steps) < 55
