"""Documents behave as the list of the same strings; the native code as the plain one."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kamon.data import documents
from kamon.data.documents import Documents
from kamon.files import spill
from kamon.native import library

# Few characters, of one to four bytes, and few documents, so that many are equal or nearly so.
TEXTS = st.lists(st.text("aé名😀", max_size=9) | st.sampled_from(["anna", "a" * 40]), max_size=60)


@pytest.fixture(params=["native", "plain", "native, mapped", "plain, mapped"], autouse=True)
def _code(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test by the native code, for however few documents, and without it; in tiny blocks."""
    if "native" in request.param and library.why_not():
        pytest.skip(library.why_not())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "MIN_NATIVE_DOCS", 1)
        patch.setattr(documents, "BLOCK", 20)
        patch.setattr(documents, "BLOCK_DOCS", 7)
        if "mapped" in request.param:
            patch.setattr(spill, "MAX_IN_MEMORY", 3)
            patch.setattr(spill, "BLOCK", 5)
        if "plain" in request.param:
            patch.setattr(library, "why_not", lambda: "not asked for")
        yield


def shuffled(docs: list[str], seed: int) -> list[str]:
    docs = docs[:]
    random.Random(seed).shuffle(docs)
    return docs


@settings(max_examples=200)
@given(TEXTS, st.integers(0, 5), st.data())
def test_they_are_their_list(texts: list[str], seed: int, data: st.DataObject) -> None:
    """As they are, shuffled, and a part of them."""
    chosen = bytearray(
        data.draw(st.lists(st.integers(0, 1), min_size=len(texts), max_size=len(texts)))
    )
    part = [text for text, keep in zip(texts, chosen, strict=True) if keep]
    whole = Documents.of(iter(texts))
    for docs, expected in (
        (whole, texts),
        (whole.select(chosen), part),
        (whole.shuffled(random.Random(seed)), shuffled(texts, seed)),
        (whole.select(chosen).shuffled(random.Random(seed)), shuffled(part, seed)),
        (whole.shuffled(random.Random(seed))[1:-2], shuffled(texts, seed)[1:-2]),
        (whole[::-2], texts[::-2]),
    ):
        assert (len(docs), list(docs)) == (len(expected), expected)
        assert list(docs.encoded()) == [text.encode() for text in expected]
        assert [docs[i] for i in range(-len(expected), len(expected))] == expected * 2
        assert list(docs.different()) == list(dict.fromkeys(expected))
        first = [text not in expected[:place] for place, text in enumerate(expected)]
        assert list(docs.first_occurrences()[:]) == first
        assert docs.chars() == set("".join(expected))
        assert docs.lengths() == Counter(map(len, expected))
        assert docs.intersection(["anna", "é", "aa", ""]) == {"anna", "é", "aa", ""} & set(expected)
        assert ("anna" in docs) == ("anna" in expected)
        assert docs == expected
        assert docs == tuple(expected)
        assert docs != [*expected, "x"]
        assert docs[::-1] != docs or expected == expected[::-1]


def test_nothing_is_copied_where_nothing_repeats() -> None:
    docs = Documents.of(["a", "b"])
    assert Documents.of(docs) is docs
    assert docs.different() is docs
    assert docs.shuffled(random.Random(1)).text is docs.text


def test_an_index_that_is_none() -> None:
    with pytest.raises(IndexError):
        Documents.of(["a"])[1]
    with pytest.raises(IndexError):
        Documents.of([])[0]


def test_lone_surrogates_come_back() -> None:
    """No file has them, but a program's list that is to be cleaned may."""
    texts = ["a\ud800", "\udfff\ud800", "b"] * 5
    docs = Documents.of(texts)
    assert list(docs) == texts
    assert list(docs.shuffled(random.Random(2))) == shuffled(texts, 2)


def test_only_what_is_listed_is_equal() -> None:
    docs = Documents.of(["a", "b"])
    assert docs != {"a", "b"}
    assert docs != "ab"
    with pytest.raises(TypeError, match="unhashable"):
        hash(docs)
    assert repr(Documents.of("abcdefg")) == "Documents(['a', 'b', 'c', 'd', 'e', …])"


def test_starts_that_do_not_fit_into_four_bytes() -> None:
    """As those of a text of more than 4 GB, which no test has memory for."""
    texts = ["anna", "bob", "anna", "", "name" * 20] * 20
    docs = Documents.of(texts)
    wide = Documents(docs.text, array("Q", docs.starts))
    assert list(wide) == texts
    assert list(wide.different()) == texts[:2] + texts[3:5]
    assert list(wide.shuffled(random.Random(3))) == shuffled(texts, 3)


@pytest.mark.slow
@pytest.mark.parametrize("num_passes", [1, 2, 3])
def test_repetitions_are_found_in_any_number_of_passes(num_passes: int) -> None:
    """The native code looks at half a million documents in one pass."""
    if library.why_not() or spill.MAX_IN_MEMORY == 3:
        pytest.skip("other code makes no passes, and mapped files have the same")
    size = num_passes * 2**19 - 100
    texts = [str(number % (size - 50)) for number in range(size)]
    docs = Documents.of(texts)
    first = docs.first_occurrences()
    assert first[:] == bytes([1]) * (size - 50) + bytes(50)
