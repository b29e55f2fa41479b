"""Rules with random input. `test_preferences` tests single rules and their messages."""

from __future__ import annotations

import operator
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kamon.errors import ConfigError
from kamon.finetuning.rules import MAX_CHARS, MAX_NOT, Rule, parse_rule

COMPARISONS = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
}
TESTS = {"startswith": str.startswith, "endswith": str.endswith, "contains": operator.contains}
WORDS = [*COMPARISONS, *TESTS, "len", "vowels", "matches", "and", "or", "not", "(", ")", "3", "00"]
PYTHON = ["True", "x", ".", ",", "[", "]", "{", "#", "\\", "if", "lambda", ":=", "**", "1_0", "~"]
QUOTED = ['"a"', "'a'", '"\\""', "/a+/", "/(/", "/\\//", '"', "'", "/", 'f"a"', "\n", "\0", "é"]
LETTERS = st.text("abé", max_size=4)
Case = tuple[str, Rule]  # the text of a rule, and its meaning

leaves: st.SearchStrategy[Case] = st.one_of(
    st.builds(
        lambda sign, n: (f"len {sign} {n}", lambda text: COMPARISONS[sign](len(text), n)),
        st.sampled_from(list(COMPARISONS)),
        st.integers(0, 5),
    ),
    st.builds(
        lambda name, part: (f'{name} "{part}"', lambda text: TESTS[name](text, part)),
        st.sampled_from(list(TESTS)),
        LETTERS,
    ),
    st.builds(lambda part: (f"matches /{part}/", lambda text: part in text), LETTERS),
)


def larger(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    return st.one_of(
        inner.map(lambda case: (f"not ({case[0]})", lambda text: not case[1](text))),
        st.tuples(inner, inner).map(
            lambda both: (
                f"({both[0][0]}) and ({both[1][0]})",
                lambda text: both[0][1](text) and both[1][1](text),
            )
        ),
        st.tuples(inner, inner).map(
            lambda both: (
                f"({both[0][0]}) or\u00a0({both[1][0]})",
                lambda text: both[0][1](text) or both[1][1](text),
            )
        ),
    )


@given(st.recursive(leaves, larger, max_leaves=8), st.lists(LETTERS))
def test_rules_mean_what_they_say(case: Case, texts: list[str]) -> None:
    written, expected = case
    rule = parse_rule(written)
    assert list(map(rule, texts)) == list(map(expected, texts))


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(WORDS + PYTHON + QUOTED), max_size=12).map(" ".join)
    | st.lists(st.sampled_from(WORDS + PYTHON + QUOTED), max_size=12).map("".join),
    st.text(),
)
@example("matches /" + "(" * 400 + "/", "a")
@example("\udcff", "a")
@example('contains "\udcff"', "a\udcff")
def test_any_text_is_a_rule_or_an_error_of_ours(written: str, text: str) -> None:
    with suppress(ConfigError):
        assert isinstance(parse_rule(written)(text), bool)


@pytest.mark.parametrize("part", ["(", "not ", "(not ", "not (", "len<3 and(", "len<3or(", "len<"])
def test_deep_rules(part: str) -> None:
    """No nesting crashes Python's parser or overflows its stack."""
    for size in range(1, MAX_CHARS // len(part)):
        written = part * size
        for rule in (written, written + "len<3" + ")" * (size if "(" in part else 0)):
            with suppress(ConfigError):
                assert isinstance(parse_rule(rule)("anna"), bool)


def test_the_deepest_rules_that_are_read() -> None:
    assert parse_rule("not " * MAX_NOT + "len<3")("a")
    assert parse_rule("(" * 50 + "len<3" + ")" * 50)("a")
    with pytest.raises(ConfigError, match=f"more than {MAX_NOT} nested `not`"):
        parse_rule("not " * (MAX_NOT + 1) + "len<3")


@pytest.mark.parametrize("space", [" ", "\t", "\n", "\u00a0", "\u3000", "\u2028", "\x1f"])
def test_all_white_space_separates(space: str) -> None:
    rule = parse_rule("not len < 3 and contains 'a' or len == 1".replace(" ", space))
    assert [text for text in ("anna", "bob", "ab", "b") if rule(text)] == ["anna", "b"]


@pytest.mark.parametrize("rule", ['startswith ("a")', 'matches ("a")', 'contains ("a" "b")'])
def test_a_text_comes_right_after_its_test(rule: str) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        parse_rule(rule)
