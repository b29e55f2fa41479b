"""The automaton of conditions, compared with Python's `re` and with plain set operations."""

from __future__ import annotations

import re
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kamon.errors import ConfigError
from kamon.generation import automaton
from kamon.generation.automaton import (
    ALL,
    Automaton,
    Term,
    complement,
    intersection,
    parse_regex,
    repeat,
    sequence,
    union,
    words,
)

TEXTS = ["".join(text) for n in range(5) for text in product("ab1", repeat=n)]
ATOMS = [*"ab1", ".", r"\d", r"\w", r"\S", "[ab]", "[^a]", "[a-b1]", r"[\d]", r"\x61", r"\.", "[]]"]
QUANTIFIERS = ["*", "+", "?", "{2}", "{1,2}", "{,2}", "{1,}", "*?", "+?", "??", "{0}", "{2}*?"]


def regexes() -> st.SearchStrategy[str]:
    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        group = st.builds(
            lambda begin, r: f"({begin}{r})", st.sampled_from(["", "?:", "?i:"]), inner
        )
        return (
            group
            | st.builds(lambda r, q: f"(?:{r}){q}", inner, st.sampled_from(QUANTIFIERS))
            | st.lists(inner, min_size=1, max_size=3).map("".join)
            | st.lists(inner, min_size=2, max_size=3).map("|".join)
        )

    return st.recursive(st.sampled_from(["", *ATOMS]), larger, max_leaves=8)


@settings(max_examples=300, deadline=None)
@given(regexes(), st.lists(st.tuples(st.sampled_from("=!"), regexes(), regexes()), max_size=2))
def test_regexes_match_what_python_matches(
    regex: str, look_aheads: list[tuple[str, str, str]]
) -> None:
    for sign, ahead, before in look_aheads:
        regex = f"(?:{before})(?{sign}{ahead}){regex}"
    try:
        expected = re.compile(regex)
    except re.error:  # such as a quantifier after a quantifier
        return
    found = Automaton(parse_regex(regex))
    for text in [*TEXTS, "A", "aB", "a\n", "é"]:
        assert found.matches(text) == bool(expected.fullmatch(text)), text


@pytest.mark.parametrize(
    ("regex", "texts"),
    [
        ("^ab$|^b", {"ab", "b"}),
        (r"\Aa\Z", {"a"}),
        ("(?i)AB", {"ab"}),
        ("(?=.*1)(?!.*b)..|b(?=a)a", {"a1", "1a", "11", "ba"}),
        ("a{", set()),
        ("(?P<first>a)(?:b|1)", {"ab", "a1"}),
        (r"\141[\]a]?", {"a", "aa"}),
        (r"(a|b){2}1{0,1}", {"aa", "ab", "ba", "bb", "aa1", "ab1", "ba1", "bb1"}),
    ],
)
def test_syntax(regex: str, texts: set[str]) -> None:
    found = Automaton(parse_regex(regex))
    assert {text for text in TEXTS if found.matches(text)} == texts
    assert {text for text in TEXTS if re.fullmatch(regex, text)} == texts


@pytest.mark.parametrize(
    ("regex", "message"),
    [
        (r"(a)\1", "has a back-reference at position 4"),
        ("(?:a(?=b))b", "has a look-ahead in a group at position 5"),
        ("(?<!a)b", "has a look-behind at position 1"),
        (r"a\b", "has a word boundary at position 2"),
        ("a^b", "has a start that is not at the beginning at position 2"),
        ("(a$)b", "has an end that is not at the end at position 3"),
        ("(?m)a", "has a flag other than a, i, s and u at position 1"),
        ("(?P<x>a)(?P=x)", "has a back-reference at position 9"),
        ("(a)(?(1)b|c)", "has a conditional group at position 4"),
        ("(?#x)a", "has a comment at position 1"),
        ("a(", "is not a valid regular expression: missing"),
    ],
)
def test_what_is_not_regular(regex: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_regex(regex)


Pair = tuple[Term, frozenset[str]]


def terms() -> st.SearchStrategy[Pair]:
    """Terms, and which of TEXTS belong to each."""
    every = frozenset(TEXTS)

    def joined(a: Pair, b: Pair) -> Pair:
        both = frozenset(x + y for x in a[1] for y in b[1]) & every
        return sequence(a[0], b[0]), both

    def larger(inner: st.SearchStrategy[Pair]) -> st.SearchStrategy[Pair]:
        return (
            st.builds(lambda a, b: (union(a[0], b[0]), a[1] | b[1]), inner, inner)
            | st.builds(lambda a, b: (intersection(a[0], b[0]), a[1] & b[1]), inner, inner)
            | st.builds(joined, inner, inner)
            | inner.map(lambda a: (complement(a[0]), every - a[1]))
        )

    some = st.frozensets(st.sampled_from(TEXTS[:13]), max_size=3).map(lambda s: (words(s), s))
    return st.recursive(some | st.just((ALL, every)), larger, max_leaves=6)


@settings(max_examples=300, deadline=None)
@given(terms())
def test_terms_are_sets(pair: Pair) -> None:
    term, expected = pair
    found = Automaton(term)
    assert {text for text in TEXTS if found.matches(text)} == expected


@given(st.integers(0, 3), st.integers(0, 4) | st.none(), st.sampled_from(["a", "a|", "ab|b"]))
def test_repetitions(least: int, more: int | None, regex: str) -> None:
    most = None if more is None else least + more
    found = Automaton(repeat(parse_regex(regex), least, most))
    shape = re.compile(f"(?:{regex}){{{least},{'' if most is None else most}}}")
    assert {t for t in TEXTS if found.matches(t)} == {t for t in TEXTS if shape.fullmatch(t)}


def test_too_many_states() -> None:
    """After .*a.{14}, the last 15 characters decide."""
    found = Automaton(parse_regex(".*a.{14}"))
    texts = map("".join, product("ab", repeat=15))
    with pytest.raises(ConfigError, match="need too many states"):
        sum(map(found.matches, texts))
    assert len(found.terms) <= automaton.MAX_STATES + 1
    with pytest.raises(ConfigError, match="need too many states"):
        Automaton(parse_regex("((((a{0,99}){0,99}){0,99}){0,9})*")).matches("a" * 99)
