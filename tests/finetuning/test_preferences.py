"""Preferences: reading, writing and repairing files, built-in pairs, and rules."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kamon.errors import ConfigError, CorpusError
from kamon.finetuning import preferences
from kamon.finetuning.preferences import (
    MIN_HELD_OUT,
    Divided,
    Feedback,
    Preference,
    Rating,
    divided,
)
from kamon.finetuning.rules import parse_rule

ANSWERS: list[Feedback] = [
    Preference("anna", "bo"),
    Rating("léa", True),
    Preference("x\ny", "", "a prompt"),
    Rating("z", False, "a prompt"),
]


WORDS = [f"{a}{b}" for a in "aeiou" for b in "bcdfghjklmnpqrstvwxyz"]
PROMPTS = st.sampled_from([None, "short", "long"])
SOME_ANSWERS = st.lists(
    st.builds(Rating, st.sampled_from([*WORDS, "é", "e\u0301"]), st.booleans(), PROMPTS)
    | st.lists(st.sampled_from(WORDS), min_size=2, max_size=2, unique=True).map(
        lambda texts: Preference(*texts)
    ),
    max_size=300,
)


def canonical(pairs: list[Preference]) -> set[str]:
    return {unicodedata.normalize("NFC", text) for p in pairs for text in (p.chosen, p.rejected)}


@settings(deadline=None)
@given(SOME_ANSWERS)
def test_no_text_is_on_both_sides(answers: list[Feedback]) -> None:
    found = divided(answers)
    assert canonical(found.learned).isdisjoint(canonical(found.held_out))
    assert not 0 < len(found.held_out) < MIN_HELD_OUT
    explicit = [each for each in answers if isinstance(each, Preference)]
    both = Counter([*found.learned, *found.held_out])
    kept = [each for each in explicit if both[each]]
    assert len(explicit) - len(kept) == found.num_left_out


def test_a_tenth_of_ratings_is_held_out() -> None:
    ratings = [Rating(word, word < "i") for word in WORDS]
    found = divided(ratings)
    kinds = Counter(rating.liked for rating in ratings)
    assert len(canonical(found.held_out)) == sum(number // 10 for number in kinds.values())
    assert canonical(found.learned) | canonical(found.held_out) == set(WORDS)
    assert found.num_left_out == 0
    again = divided(ratings[::-1])
    assert canonical(again.held_out) == canonical(found.held_out)


def test_linked_pairs_stay_together() -> None:
    triples = [
        pair
        for a, b, c in zip(WORDS[::3], WORDS[1::3], WORDS[2::3], strict=True)
        for pair in (Preference(a, b), Preference(b, c), Preference(c, a))
    ]
    found = divided(triples)
    assert (len(found.held_out), found.num_left_out) == (len(WORDS) // 30 * 3, 0)
    assert len(found.learned) + len(found.held_out) == len(triples)


def test_where_all_texts_are_linked() -> None:
    pairs = [Preference(a, b) for a, b in combinations(WORDS, 2)]
    found = divided(pairs)
    held_out = len(WORDS) // 10
    assert len(found.held_out) == held_out * (held_out - 1) // 2
    assert found.num_left_out == held_out * (len(WORDS) - held_out)
    assert divided(pairs[:99]) == Divided(pairs[:99], [])


def test_equal_texts_in_other_code_points_are_one_text() -> None:
    forms = [(f"é{word}", f"e\u0301{word}") for word in WORDS]
    pairs = [Preference(a, f"x{n}") for n, (a, _) in enumerate(forms)]
    pairs += [Preference(b, f"y{n}") for n, (_, b) in enumerate(forms)]
    found = divided(pairs)
    assert len(found.held_out) == 2 * (len(WORDS) // 10)
    assert canonical(found.learned).isdisjoint(canonical(found.held_out))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    for n, answer in enumerate(ANSWERS, 1):
        preferences.append(path, answer)
        assert preferences.read(path) == ANSWERS[:n]
        assert path.read_bytes().count(b"\n") == n
    preferences.remove_last(path)
    assert preferences.read(path) == ANSWERS[:3]
    preferences.write(path, ANSWERS)
    assert preferences.read(path) == ANSWERS
    assert preferences.repair_tail(path) is None


def test_wherever_a_line_is_torn(tmp_path: Path) -> None:
    """Kamon keeps all complete lines and removes the rest."""
    path = tmp_path / "p.jsonl"
    preferences.write(path, ANSWERS[:3])
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        said = preferences.repair_tail(path)
        whole = content[:size].count(b"\n")
        mended = path.read_bytes()
        # True if only the line end is missing.
        if content[: size + 1].count(b"\n") > whole and content[:size]:
            assert said == f"{path}, line {whole + 1} had no line end, so Kamon added one"
            assert mended == content[: size + 1]
        else:
            assert mended == b"".join(content.splitlines(keepends=True)[:whole])
            assert (said is None) == (content[:size] == mended)
        preferences.append(path, ANSWERS[3])
        assert preferences.read(path) == [*preferences.read(path)[:-1], ANSWERS[3]]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "has only blank lines"),
        ("{", "line 1 is not valid JSON"),
        ("[1]", "line 1 is not a JSON object such as"),
        ('{"chosen": "a"}', 'line 1 has no text under "rejected"'),
        ('{"rejected": "a"}', 'line 1 has no text under "chosen"'),
        ('{"chosen": "a", "rejected": 3}', 'a value that is not text under "rejected"'),
        ('{"chosen": "a", "rejected": "b", "prompt": 3}', 'that is not text under "prompt"'),
        ('{"chosen": "a", "rejected": "a"}', "line 1 compares a text with itself"),
        ('{"text": "a", "liked": "yes"}', '"liked" must be true or false'),
        ('{"liked": true}', 'no text under "text"'),
        ('{"chosen": "a", "rejected": "\\ud800"}', "line 1 has a lone surrogate"),
        ('{"chosen": ' + "9" * 9999 + "}", "a number has too many digits"),
    ],
)
def test_lines_that_are_none(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_text(f" \n{line}\n" if not line else f"{line}\n")
    with pytest.raises(CorpusError, match=re.escape(message)):
        preferences.read(tmp_path / "p.jsonl")


def test_verdicts_make_pairs() -> None:
    liked, disliked = ["a", "b", "c", "d", "e", "f"], ["x", "y"]
    answers = [*(Rating(t, True) for t in liked), *(Rating(t, False) for t in disliked)]
    pairs = preferences.pairs_of([Preference("p", "q"), *answers])
    assert pairs[0] == Preference("p", "q")
    assert {pair.chosen for pair in pairs[1:]} == set(liked)
    assert {pair.rejected for pair in pairs[1:]} == set(disliked)
    assert len(set(pairs)) == len(pairs) == 1 + 12
    turned = preferences.pairs_of(Rating(each.text, not each.liked) for each in answers)
    assert [(p.rejected, p.chosen) for p in turned] == [(p.chosen, p.rejected) for p in pairs[1:]]
    changed = preferences.pairs_of([*answers, Rating("x", True), Rating("y", True)])
    assert changed == []


def test_verdicts_of_one_prompt_make_pairs() -> None:
    liked = [Rating("a", True), Rating("b", True, "x"), Rating("c", True, "y")]
    disliked = [Rating("d", False, "x"), Rating("b", False), Rating("c", False, "")]
    assert preferences.pairs_of([*liked, *disliked]) == [
        Preference("a", "b"),
        Preference("b", "d", "x"),
    ]


def test_common_pairs() -> None:
    learned, held_out = preferences.common_pairs(300, 7, 80)
    assert (len(learned), len(held_out)) == (300, 80)
    assert preferences.common_pairs(300, 7, 80) == (learned, held_out)
    assert preferences.common_pairs(300, 8, 80)[0] != learned
    texts, apart = (
        {t for p in some for t in (p.chosen, p.rejected)} for some in (learned, held_out)
    )
    assert texts.isdisjoint(apart)
    known: dict[str, dict[str, int]] = {}
    for name, sex, births in preferences.names_table():
        known.setdefault(name, {})[sex] = births
    for pair in [*learned, *held_out]:
        assert pair.chosen[0] == pair.rejected[0]
        more, fewer = known[pair.chosen], known[pair.rejected]
        times = max(more[sex] / fewer[sex] for sex in more.keys() & fewer.keys())
        assert times >= preferences.TIMES_AS_COMMON


# ---- rules


@pytest.mark.parametrize(
    ("rule", "yes", "no"),
    [
        ("len<=5", ["", "abcde"], ["abcdef"]),
        ("len == 3", ["abc"], ["ab", "abcd"]),
        ("len=3", ["abc"], ["ab"]),
        ("len != 3", ["ab"], ["abc"]),
        ("len > 1 and len < 4", ["ab", "abc"], ["a", "abcd"]),
        ("vowels >= 2", ["anna", "ÉLÉ"], ["bo", "xyz"]),
        ('startswith "an"', ["anna"], ["hanna"]),
        ("endswith 'a'", ["anna"], ["an"]),
        ('contains "\\""', ['a"b'], ["ab"]),
        ("matches /^a.*n$/", ["an", "alan"], ["anna"]),
        ("matches /n/", ["anna"], ["bo"]),
        ("matches /a\\/b/", ["a/b"], ["ab"]),
        ("not len<3 and not len>4", ["abc"], ["ab", "abcde"]),
        ("len<2 or len>3 and len<5", ["a", "abcd"], ["ab", "abcde"]),
        ("(len<2 or len>3) and len<5", ["a", "abcd"], ["abc", "abcdef"]),
        ("not (len<2 or len>3)", ["ab"], ["a", "abcd"]),
        ("not not len<2", ["a"], ["ab"]),
    ],
)
def test_rules(rule: str, yes: list[str], no: list[str]) -> None:
    fulfils = parse_rule(rule)
    assert [text for text in yes if not fulfils(text)] == []
    assert [text for text in no if fulfils(text)] == []


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("", "character 1: syntax error"),
        ("len", "character 1: compare len with one whole number, as in len <= 5"),
        ("len <= x", "character 8: unknown word 'x'"),
        ("len<=5 and", "character 11: syntax error"),
        ("lenn<5", "character 1: unknown word 'lenn'\nhint: did you mean 'len'?"),
        ("(len<5", "character 1: syntax error"),
        ("len<5)", "character 6: syntax error"),
        ("len<5 len>2", "character 7: syntax error"),
        ("contains a", "character 10: unknown word 'a'"),
        ("contains len", "syntax error"),
        ("len < True", "unknown word 'True'"),
        ("len < len", "character 1: compare len"),
        ("1 < len < 3", "character 1: compare len"),
        ("contains /a/", "character 10: contains needs a text in quotes"),
        ('contains "a', 'character 10: the closing " is missing'),
        ('contains "a\\"', 'character 10: the closing " is missing'),
        ("matches /(/", "regex '(' is not a valid regular expression"),
        ("matches 'a'", "matches needs a regular expression between / and /"),
        ("len $ 3", "character 5: unexpected '$'"),
        ("len ! 3", "character 5: '!' is not a comparison"),
        ("len<5.5", "character 6: unexpected '.'"),
        ("len = 99999999999", "character 7: the number has too many digits"),
        ("not " * 60 + "len<3", "more than 50 nested `not`"),
        ("(" * 400, "the rule"),
        ("x" * 1001, "the rule has 1,001 characters, and the limit is 1,000"),
        ("__import__('os')", "character 1: unknown word '__import__'"),
    ],
)
def test_rules_that_are_none(rule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        parse_rule(rule)


def test_any_rule_is_what_python_makes_of_it() -> None:
    """Random rules give the same results as the same rules in Python."""
    rng = random.Random(1)
    texts = ["".join(rng.choices("abeix", k=rng.randrange(7))) for _ in range(40)]

    def made(depth: int) -> tuple[str, str]:
        kind = rng.randrange(6 if depth else 3)
        if kind == 0:
            sign, n = rng.choice(["<", "<=", ">", ">=", "==", "!="]), rng.randrange(7)
            return f"len {sign} {n}", f"(len(t) {sign} {n})"
        if kind == 1:
            word, part = rng.choice(["startswith", "endswith"]), rng.choice("abeix")
            return f'{word} "{part}"', f't.{word}("{part}")'
        if kind == 2:
            part = rng.choice(["ab", "x", ""])
            return f'contains "{part}"', f'("{part}" in t)'
        first, second = made(depth - 1), made(depth - 1)
        if kind == 3:
            return f"not ({first[0]})", f"(not ({first[1]}))"
        word = "and" if kind == 4 else "or"
        return f"{first[0]} {word} {second[0]}", f"{first[1]} {word} {second[1]}"

    for _ in range(300):
        rule, python = made(3)
        wanted: Callable[[str], bool] = eval(f"lambda t: {python}")
        fulfils = parse_rule(rule)
        assert [fulfils(t) for t in texts] == [bool(wanted(t)) for t in texts], rule


def test_pairs_by_a_rule() -> None:
    texts = ["anna", "bo", "lea", "al", "ida"]
    pairs = preferences.rule_pairs(texts, parse_rule("len<=2"))
    assert pairs == [Preference("bo", "anna"), Preference("al", "lea")]
    for rule, which in (("len<9", "each"), ("len>9", "none")):
        with pytest.raises(ConfigError, match=f"{which} of 5 samples satisfies the rule"):
            preferences.rule_pairs(texts, parse_rule(rule))
