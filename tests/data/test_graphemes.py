from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.helpers.scripts import LISTS

from kamon.data.graphemes import (
    AnyClusters,
    Clusters,
    any_join,
    clusters_of,
    clusters_to_keep,
    first_graphemes,
    grapheme_at,
    graphemes,
    lengths_of,
    num_graphemes,
)

CHARS = sorted(set("".join(text for docs in LISTS.values() for text in docs)) | set("ab e\u0600"))
NAMES = st.sampled_from(sorted(LISTS))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("", 0),
        ("anna", 4),
        ("é", 1),
        ("e\u0301", 1),
        ("हिन्दी", 2),  # a conjunct is one character
        ("தமிழ்", 3),
        ("น้ำ", 1),
        ("한국", 2),
        ("\u1112\u1161\u11ab\u1100\u116e\u11a8", 2),
        ("🇩🇪🇫🇷", 2),
        ("👩\u200d👩\u200d👧", 1),
        ("👍🏽", 1),
        ("مُحَمَّد", 4),
    ],
)
def test_lengths_as_people_count(text: str, size: int) -> None:
    assert num_graphemes(text) == len(graphemes(text)) == size
    assert lengths_of([text, "a"]) == [size, 1]
    assert "".join(graphemes(text)) == text


def test_parts_of_a_text() -> None:
    assert first_graphemes("हिन्दी", 1) == "हि"
    assert [grapheme_at("हिन्दी", place) for place in (0, 1, 2, 5, 6)] == [
        "हि",
        "हि",
        "न्दी",
        "न्दी",
        "",
    ]


def test_code_points_that_join_others() -> None:
    assert not any_join("aé한漢Я👍")
    for char in ("\u0301", "ि", "้", "\u1161", "\u11a8", "\u200d", "🇩", "\u0600"):
        assert any_join([char])


@given(st.text(CHARS, max_size=12))
@example("aक्ष a👩\u200d👩 🇩🇪🇫🇷 aक\u200dष \u0600a")
def test_boundaries_of_any_text(text: str) -> None:
    boundaries, state, found = AnyClusters(), 0, ""
    for char in text:
        state, begins = boundaries.step(state, char)
        found += "|" * begins + char
    assert found == "".join("|" + cluster for cluster in graphemes(text))
    assert len(boundaries.begun) < 30


@given(NAMES, st.data())
def test_texts_of_the_clusters_of_a_list(name: str, data: st.DataObject) -> None:
    docs = LISTS[name]
    known = clusters_of(docs)
    clusters = Clusters(known)
    assert all(map(clusters.matches, docs))
    parts = st.sampled_from([*known, *set("".join(docs))])
    text = "".join(data.draw(st.lists(parts, max_size=6)))
    assert clusters.matches(text) == known.issuperset(graphemes(text))
    begins = [doc for doc in docs if doc.startswith(text)]
    known_part = clusters.beginning(text)
    if begins:
        assert known_part is not None
    if known_part is not None:
        assert clusters.matches(known_part)
        assert len(graphemes(text)) - len(graphemes(known_part)) in (0, 1)
        allowed = clusters.allowed(text)
        assert allowed is not None
        assert ("" in allowed) == clusters.matches(text)
        for char in set("".join(docs)):
            assert (char in allowed) == (clusters.beginning(text + char) is not None)
    else:
        assert clusters.allowed(text) is None


def test_clusters_that_join_the_next_one() -> None:
    clusters = Clusters(clusters_of(["जगत्", "मत", "🇩🇪"]))
    assert clusters.matches("मजगत्")
    assert not clusters.matches("जगत्म")  # its last cluster is त्म
    assert clusters.allowed("जगत्") == {"", "🇩"}
    assert clusters.matches("🇩🇪🇩🇪")
    assert not clusters.matches("🇩🇪🇩")


def test_a_mark_without_a_letter_is_no_character_of_a_list() -> None:
    docs = ["िकर", "कि \u0301", "\u200dक", "☺\ufe0f"]
    assert clusters_to_keep(docs, set("".join(docs))) == {"क", "र", "कि", "☺\ufe0f"}
    assert clusters_to_keep(["ab", "é"], "abé") == set()
