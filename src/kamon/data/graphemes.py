"""Characters as people see them: the extended grapheme clusters of Unicode (UAX #29).

A cluster has one code point or several, such as a letter and its vowel sign, or a family emoji. The
library wcwidth knows the rules. Everything in Kamon that counts the characters of a text for people
counts clusters with this module.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from itertools import accumulate, islice
from typing import Protocol

# What may follow the beginning of a cluster, and whether it would join it, is all that the rules
# know of this beginning: a mark, a letter after a sign that joins any letter, half of a flag,
# the kinds of Hangul, a pictograph, the same after a joiner, an Indic consonant, and the same
# after a virama.
PROBES = (
    *("\u0301", "a", "\U0001f1e9", "\u1100", "\u1161", "\u11a8", "\uac00"),
    *("\U0001f469", "\u200d\U0001f469", "\u0915", "\u094d\u0915"),
)
MAX_CLUSTERS = 20_000  # of a list: one with more does not keep them
FIRST_MARK = "\u0300"  # no character below it joins another, except for a line end


def graphemes(text: str) -> list[str]:
    r"""Return the grapheme clusters of a text.

    >>> graphemes("e\u0301a") == ["e\u0301", "a"]
    True
    """
    if text.isascii():
        return list(text)
    from wcwidth import iter_graphemes

    return list(iter_graphemes(text))


def num_graphemes(text: str) -> int:
    """Return the number of characters that people see, the grapheme clusters of Unicode.

    >>> num_graphemes("हिन्दी"), len("हिन्दी")
    (2, 6)
    """
    if text.isascii():
        return len(text)
    from wcwidth import iter_graphemes

    return sum(1 for _ in iter_graphemes(text))


def first_graphemes(text: str, n: int) -> str:
    """Return the first n grapheme clusters of a text."""
    return text[:n] if text.isascii() else "".join(graphemes(text)[:n])


def last_grapheme(text: str) -> str:
    """Return the last grapheme cluster of a text, or "" if it is empty."""
    return text[-1:] if text.isascii() else graphemes(text)[-1]


def lengths_of(texts: Collection[str]) -> list[int]:
    """Return the number of grapheme clusters of each text."""
    return list(map(len if one_code_point_each(texts) else num_graphemes, texts))


def one_code_point_each(texts: Iterable[str]) -> bool:
    """Return whether it is plain that each grapheme cluster of the texts is one code point."""
    joined = "".join(texts)
    return joined.isascii() or not any_join(set(joined))


def grapheme_at(text: str, place: int) -> str:
    """Return the grapheme cluster with the code point at this place, or "" at the end."""
    end = 0
    for cluster in graphemes(text):
        end += len(cluster)
        if end > place:
            return cluster
    return ""


def clipped(text: str, most: int) -> str:
    """Return the text, or its first clusters and "…" if it has more than `most`.

    >>> clipped("हिन्दी", 2), clipped("anna", 3)
    ('हिन्दी', 'an…')
    """
    return text if num_graphemes(text) <= most else first_graphemes(text, most - 1) + "…"


def any_join(chars: Iterable[str]) -> bool:
    """Return whether some of these code points form a cluster with others.

    >>> any_join("aé한"), any_join("क ि")
    (False, True)
    """
    return any(char >= FIRST_MARK and joins(char) for char in chars)


@cache
def joins(char: str) -> bool:
    pairs = "a" + char, char + "a", char + "\u1100", "\uac00" + char, "\U0001f1e9" + char
    return any(num_graphemes(pair) == 1 for pair in pairs)


def clusters_of(docs: Iterable[str]) -> set[str]:
    """Return the grapheme clusters that occur in these documents."""
    return set().union(*map(graphemes, docs))


def continues(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """Return whether all of the second text belongs to a cluster that begins with the first."""
    ends = set(accumulate(map(len, graphemes("\n".join([a + b for a, b in pairs])))))
    found, place = [], 0
    for begun, text in pairs:
        place += len(begun)
        found.append(ends.isdisjoint(range(place, place + len(text))))
        place += len(text) + 1
    return found


def well_formed(clusters: Iterable[str]) -> set[str]:
    r"""Return the clusters without marks that have no letter, at the start or after white space.

    >>> sorted(well_formed(clusters_of(["िक", "क \u0301"])))
    ['क']
    """
    return {
        cluster
        for cluster in clusters
        if num_graphemes("a" + cluster[0]) > 1 and not (cluster[0].isspace() and len(cluster) > 1)
    }


def clusters_to_keep(docs: Iterable[str], chars: Iterable[str]) -> set[str]:
    """Return the clusters of a list if some have several code points, but not too many of them.

    chars: the code points of the list.
    """
    found = well_formed(clusters_of(docs)) if any_join(chars) else set()
    return found if len(found) <= MAX_CLUSTERS else set()


class Boundaries(Protocol):
    """An automaton that reads a text by code points. State 0 is the start."""

    def step(self, state: int, char: str) -> tuple[int, bool] | None:
        """Return the state after a code point, and whether it begins a cluster. None: refused."""

    def is_whole(self, state: int) -> bool:
        """Return whether the text may end here."""


class AnyClusters:
    """The boundaries of any text.

    A state has one of the beginnings of a cluster that all PROBES join or do not join alike.
    """

    def __init__(self) -> None:
        self.begun = [""]
        self.numbers: dict[tuple[bool, ...], int] = {}
        self.steps: dict[tuple[int, str], tuple[int, bool]] = {}

    def step(self, state: int, char: str) -> tuple[int, bool]:
        found = self.steps.get((state, char))
        if found is None:
            begun = self.begun[state] + char
            begins = not state or num_graphemes(begun) > 1
            found = self.steps[state, char] = self.number(char if begins else begun), begins
        return found

    def begin(self, chars: Sequence[str]) -> None:
        """Learn the steps from the start, which is faster together."""
        after = iter(continues([(char, probe) for char in chars for probe in PROBES]))
        for char in chars:
            self.steps[0, char] = self.number(char, tuple(islice(after, len(PROBES)))), True

    def number(self, begun: str, after: tuple[bool, ...] = ()) -> int:
        after = after or tuple(continues([(begun, probe) for probe in PROBES]))
        number = self.numbers.setdefault(after, len(self.begun))
        if number == len(self.begun):
            self.begun.append(begun)
        return number

    def is_whole(self, state: int) -> bool:  # noqa: ARG002
        return True


class Clusters:
    """The boundaries of texts that have only the clusters of a list.

    A state has all beginnings of these clusters after which the same may follow.

    >>> clusters = Clusters(clusters_of(["किरण", "रवि"]))
    >>> clusters.matches("रकि"), clusters.matches("िर"), clusters.matches("रि")
    (True, False, False)

    Attributes:
        all: the clusters.
    """

    def __init__(self, clusters: Iterable[str]) -> None:
        self.all = frozenset(clusters)
        boundaries = AnyClusters()
        boundaries.begin(sorted({cluster[0] for cluster in self.all}))
        begun: dict[str, int] = {}  # beginnings of clusters, with their state in `boundaries`
        following: dict[str, list[str]] = {}
        for cluster in sorted(self.all):
            state = 0
            for place, char in enumerate(cluster):
                state = boundaries.step(state, char)[0]
                if cluster[: place + 1] not in begun:
                    begun[cluster[: place + 1]] = state
                    following.setdefault(cluster[:place], []).append(char)
        first = following.get("", [])
        new: dict[int, frozenset[str]] = {}  # code points that begin a cluster after this state
        same: dict[frozenset[str], frozenset[str]] = {}
        for state in {*begun.values()}:
            joined = continues([(boundaries.begun[state], char) for char in first])
            apart = [char for char, joins in zip(first, joined, strict=True) if not joins]
            new[state] = same.setdefault(frozenset(apart), frozenset(apart))
        numbers: dict[object, int] = {}  # quick, because equal sets are the same object
        state_of: dict[str, int] = {}
        self.whole = [True]
        self.joined: list[dict[str, int]] = [{}]  # code points that continue the cluster
        apart_after = [frozenset(first)]
        for text in sorted(begun, key=len, reverse=True):
            whole = text in self.all
            after = {char: state_of[text + char] for char in following.get(text, [])}
            apart_here = new[begun[text]] if whole else frozenset()
            key = whole, tuple(after.items()), apart_here
            number = numbers.setdefault(key, len(self.whole))
            if number == len(self.whole):
                self.whole.append(whole)
                self.joined.append(after)
                apart_after.append(apart_here)
            state_of[text] = number
        self.rows = [
            {char: state_of[char] for char in apart} | joined
            for apart, joined in zip(apart_after, self.joined, strict=True)
        ]

    def table(self) -> list[tuple[bool, dict[str, int], dict[str, int]]]:
        """Return each state: `is_whole`, and the states after a new and after a joined one."""
        return [
            (whole, {char: state for char, state in row.items() if char not in joined}, joined)
            for whole, row, joined in zip(self.whole, self.rows, self.joined, strict=True)
        ]

    def step(self, state: int, char: str) -> tuple[int, bool] | None:
        after = self.rows[state].get(char)
        return None if after is None else (after, char not in self.joined[state])

    def is_whole(self, state: int) -> bool:
        return self.whole[state]

    def matches(self, text: str) -> bool:
        """Return whether every cluster of the text is one of these."""
        return self.beginning(text) == text

    def beginning(self, text: str) -> str | None:
        """Return the text without an unfinished last cluster, or None if no text begins so."""
        state, rows = 0, self.rows
        for char in text:
            after = rows[state].get(char)
            if after is None:
                return None
            state = after
        return text if self.whole[state] else "".join(graphemes(text)[:-1])

    def allowed(self, text: str) -> set[str] | None:
        """Return the code points that may follow, and "" if the text may end here.

        The result is None if no text begins so.
        """
        state = 0
        for char in text:
            if char not in self.rows[state]:
                return None
            state = self.rows[state][char]
        return {*self.rows[state], *([""] if self.whole[state] else [])}
