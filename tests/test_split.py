from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import original
from kamon.split import part, split

CHARS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
DOCS = st.lists(st.text(CHARS, min_size=1))


@given(DOCS, st.randoms(use_true_random=False))
def test_order_repetition_and_growth_move_no_document(docs: list[str], rng: random.Random) -> None:
    train, held = split(docs)
    assert not set(train) & set(held)
    assert set(train) | set(held) == set(docs)
    assert len(train) + len(held) == len(set(docs))
    more = [*docs, *docs, "another", "one"]
    rng.shuffle(more)
    more_train, more_held = split(more)
    assert set(train) <= set(more_train)
    assert set(held) <= set(more_held)


def test_a_tenth_is_held_out_whichever_part() -> None:
    docs = [str(number) for number in range(20_000)]
    sizes = [len(split(docs, held_out)[1]) for held_out in range(10)]
    assert sum(sizes) == len(docs)
    assert all(1_800 < size < 2_200 for size in sizes)


def test_the_rule_is_that_of_sha256() -> None:
    """As `printf anna | sha256sum` has it: 55…, 3d…, 24…, 7e…"""
    docs = ("anna", "bo", "José", "名前")
    assert [part(doc.encode()) for doc in docs] == [0x55 % 10, 0x3D % 10, 0x24 % 10, 0x7E % 10]


@pytest.mark.skipif(bool(original.why_not(original.NAMES)), reason=original.why_not(original.NAMES))
def test_the_originals_names() -> None:
    train, held = split(original.NAMES.read_text().split())
    assert (len(train), len(held)) == (26_531, 2_963)
