from __future__ import annotations

import io
import json
import os
import random
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from conftest import Result
from kamon.data.cleaning import MIN_NEAR, Options, Step, clean, words
from kamon.errors import ConfigError

Kamon = Callable[..., Result]
LIBRARIES = ["anyascii", "ftfy", "glin_profanity", "rapidfuzz", "regex"]
FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
WALES = "\U0001f3f4\U000e0067\U000e0062\U000e0077\U000e006c\U000e0073\U000e007f"


def cleaned(*docs: str, **options: Any) -> list[str]:
    return clean(docs, Options(**options)).docs


def step(name: str, *docs: str, **options: Any) -> Step:
    return next(step for step in clean(docs, Options(**options)).report if step.name == name)


# ---- what is changed


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("<b>Anna</b>", "Anna"),
        ('<A href="x">Tom</a><BR/>Jo', "Tom Jo"),
        ("<!-- no > yes -->Anna<script>if (a < b) {}</script >", "Anna"),
        ("<!DOCTYPE html><?xml version='1'?>Anna", "Anna"),
        ("AT&amp;T", "AT&T"),
        ("&amp;amp;amp;lt;b&gt; &#65;&#x42;&eacute;", "ABé"),
        ("&#0;&#xD800;&#1;x", "\ufffd\ufffdx"),
        ("I <3 you, a < b > c, <, &", "I <3 you, a < b > c, <, &"),
        ("Q&A; R&D &notit; &copy", "Q&A; R&D &notit; &copy"),
        ("e\u0301", "é"),
        ("K\u212a", "KK"),
        (" a\t\tb\u00a0\u2003c\u2028d\x1c\u3000 ", "a b c d"),
        ("an\x00\x07na\x7f\x9f", "anna"),
        ("an\u00adna\u200b\ufeff\u2060\u200e\u202e\ufffe", "anna"),
        ("an\u200dn\u200ca", "anna"),
        ("\u200dی\u200c \u200cی", "ی ی"),
        (FAMILY, FAMILY),
        (f"{FAMILY}\u200d", FAMILY),
        ("\U0001f468\u200d\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        ("❤\ufe0f\u200d\U0001f525", "❤\ufe0f\u200d\U0001f525"),
        (WALES, WALES),
        ("hi\U000e0068\U000e0069", "hi"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        ("ന\u0d4d\u200d", "ന\u0d4d\u200d"),
        ("a\u3164b\u2800", "a b"),
    ],
)
def test_what_is_always_changed(before: str, after: str) -> None:
    assert cleaned(before) == [after]


@pytest.mark.parametrize(
    ("before", "after", "options"),
    [
        ("<b>A &amp; B</b>", "<b>A &amp; B</b>", {"html": False}),
        ("cafÃ© â€œhiâ€\x9d", "café “hi”", {"mojibake": True}),
        ("cafÃ©", "cafÃ©", {}),
        ("İSTANBUL I\u0307Z ΟΔΟΣ", "istanbul iz οδος", {"lower": True}),
        ("Жанна Ærø 北京", "Zhanna Aero BeiJing", {"transliterate": True}),
        ("Жанна 北京", "zhanna beijing", {"transliterate": True, "lower": True}),
        ("＜b＞Anna", "Anna", {"transliterate": True}),
    ],
)
def test_what_is_changed_by_option(before: str, after: str, options: dict[str, bool]) -> None:
    assert cleaned(before, **options) == [after]


def test_the_report_counts_documents_and_shows_three() -> None:
    found = step("html", *[f"<i>{n}</i> &amp;lt;" for n in range(5)], "none")
    assert (found.action, found.count, len(found.examples)) == ("changed", 5, 3)
    assert found.examples[0] == ("<i>0</i> &amp;lt;", "0 <")
    found = step("repetitions", "a", "b", "a", "c", "a")
    assert found == Step("repetitions", "dropped", 2, [("a", "duplicate")] * 2)
    assert step("blank", "a", " ", "<p>", "\u200b").count == 3


NASTY = st.lists(
    st.sampled_from(
        "aZßİΣςéK&;#<>/!bp0x \t\u00a0\u0301\u0323\u0345\u200b\u200c\u200d\u200e\u202e\u00ad"
        "\ufeff\ufe0fÃ©â€œ\x85\x9d\u0d4dനیے❤\U0001f468\U0001f3f4\U000e0067\U000e007f北ﷺ＆；ʼ\u3164"
        "\u1680\u1100\u1161"
    )
    | st.sampled_from(["&amp;", "&lt;", "<b>", "&#38;", "Ã¢â‚¬", "<script>", "<!--", "-->"])
    | st.characters(exclude_categories=["Cs"]),
    max_size=25,
).map("".join)
OPTIONS = st.builds(
    Options,
    mojibake=st.booleans(),
    html=st.booleans(),
    lower=st.booleans(),
    transliterate=st.booleans(),
    min_len=st.integers(0, 3),
    drop_regex=st.sampled_from([None, "^b"]),
    scripts=st.sampled_from([(), ("Latin",), ("Han", "Cyrillic")]),
    drop_words=st.sampled_from([(), ("a", "b p")]),
    near=st.sampled_from([None, 75, 80, 100]),
)


@given(st.lists(NASTY, max_size=8), OPTIONS)
def test_cleaning_again_changes_nothing(docs: list[str], options: Options) -> None:
    once = clean(docs, options)
    again = clean(once.docs, options)
    assert again.docs == once.docs
    assert not any(step.count for step in again.report)
    for doc in once.docs:
        assert doc
        assert doc == " ".join(doc.split()) == unicodedata.normalize("NFC", doc)
        assert doc.encode("utf-8")
        assert not options.transliterate or doc.isascii()
        assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in doc)


def test_a_long_chain_of_entities_is_no_trap() -> None:
    assert cleaned("&" + "amp;" * 100_000 + "lt;b>x" + "</p" * 1000) == ["x" + "</p" * 1000]


# ---- what is dropped


def test_lengths_and_regular_expressions() -> None:
    docs = ["a", "ab", "abc", "abcd"]
    assert cleaned(*docs, min_len=2, max_len=3) == ["ab", "abc"]
    assert cleaned("<b>a</b>", "e\u0301", "ee", max_len=1) == ["a", "é"]
    assert cleaned(*docs, keep_regex="bc?$") == ["ab", "abc"]
    assert cleaned(*docs, drop_regex="c") == ["a", "ab"]
    assert step("drop-regex", *docs, drop_regex="cd?").examples == [("abc", "c"), ("abcd", "cd")]


def test_scripts() -> None:
    docs = ["Zoë-3", "Жанна", "Annа", "らーめん", "ラーメン麺", "42", "Oʼneil"]
    assert docs[2][-1] == "\u0430"  # a Cyrillic letter that looks Latin
    assert cleaned(*docs, scripts=("Latin",)) == ["Zoë-3", "42", "Oʼneil"]
    assert cleaned(*docs, scripts=("cyrillic",)) == ["Жанна", "42"]
    japanese = ("Han", "Hiragana", "Katakana")
    assert cleaned(*docs[3:5], scripts=japanese) == docs[3:5]
    assert step("script", *docs, scripts=("Latin",)).examples[1] == ("Annа", "а")


def test_words_are_whole_and_in_any_case() -> None:
    docs = [
        "Spam",
        "spammer",
        "no SPAM!",
        "big red dog",
        "big  RED-dog x",
        "big dog",
        "Straße",
        "हिन्दी",
    ]
    dropped = ("spam", "Big Red dog", "STRASSE", "हि", "…")
    assert cleaned(*docs, drop_words=dropped) == ["spammer", "big dog", "हिन्दी"]
    assert cleaned("हिन्दी", drop_words=("हिन्दी",)) == []
    assert words("Don't e\u0301 می\u200cخواهم") == ["don", "t", "é", "می\u200cخواهم"]


def test_offensive_words() -> None:
    docs = ["Scunthorpe", "essex", "holy SHIT", "classic", "Anna"]
    assert cleaned(*docs, offensive=True) == ["Scunthorpe", "essex", "classic", "Anna"]


def test_the_first_of_several_alike_stays() -> None:
    assert cleaned("b", "a", " b", "A", "a") == ["b", "a", "A"]
    assert cleaned("b", "a", "b", repetitions=True) == ["b", "a", "b"]
    assert cleaned("anna", "annas", "annass", near=80) == ["anna", "annass"]
    assert step("near", "katherine", "catherine", "x", near=85).examples == [
        ("catherine", "katherine")
    ]


def test_a_document_that_is_dropped_takes_no_other_with_it() -> None:
    assert cleaned("spams", "spam", "spamx", near=75, drop_words=("spams",)) == ["spam"]


def slowly(docs: list[str], percent: int) -> list[str]:
    kept: list[str] = []
    for doc in docs:
        longest = [max(len(doc), len(other)) for other in kept]
        edits = [Levenshtein.distance(doc, other) for other in kept]
        if not any(100 * (n - d) >= percent * n for n, d in zip(longest, edits, strict=True)):
            kept.append(doc)
    return kept


@given(
    st.lists(st.text("ab", min_size=1, max_size=30) | st.text("abc", min_size=1), max_size=30),
    st.integers(MIN_NEAR, 100),
)
def test_near_is_what_it_says(docs: list[str], percent: int) -> None:
    assert cleaned(*docs, near=percent) == slowly(docs, percent)


@pytest.mark.parametrize("percent", [75, 80, 90, 95, 99])
def test_near_documents_of_many_lengths_are_found(percent: int) -> None:
    """Pairs at the threshold itself, where rounding and the bands of lengths could go wrong."""
    rng = random.Random(percent)
    for length in [*range(1, 60), 80, 99, 100, 125, 300]:
        docs = ["".join(rng.choices("abcdefgh", k=length)) for _ in range(3)]
        for doc in list(docs):
            longest = length * 100 // percent
            for k in (length * (100 - percent) // 100, length * (100 - percent) // 100 + 1):
                edited = list(doc)
                for i in rng.sample(range(length), min(k, length)):
                    edited[i] = "z"
                docs.append("".join(edited))
                docs.append(doc + "z" * (longest - length + k % 2))
        rng.shuffle(docs)
        assert cleaned(*docs, near=percent) == slowly(list(dict.fromkeys(docs)), percent)


def test_near_is_not_quadratic() -> None:
    """The look-up compares few pairs: of 20,000 names-like words, not the 200 million there are."""
    rng = random.Random(1)
    syllables = [a + b for a in "bcdfghjklmnprstvwz" for b in "aeiou"]
    docs = ["".join(rng.choices(syllables, k=rng.randint(2, 5))) for _ in range(20_000)]
    from rapidfuzz import distance, process

    from kamon.data.cleaning import near_duplicates

    compared = 0

    def counting(doc: str, others: list[str], **options: Any) -> Any:
        nonlocal compared
        compared += len(others)
        return process.extractOne(doc, others, **options)

    spy = SimpleNamespace(distance=distance, process=SimpleNamespace(extractOne=counting))
    for _ in near_duplicates(docs, 80, spy):
        pass
    assert compared < len(docs) ** 2 / 2 / 50


# ---- what cannot be


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"near": 74}, "near must be from 75 to 100 percent, not 74"),
        (
            {"near": 80, "repetitions": True},
            "near-duplicates cannot be dropped while duplicates are kept\nhint: choose",
        ),
        ({"min_len": -1}, "min_len must be 0 or more, not -1"),
        ({"max_len": 0}, "max_len must be 1 or more, not 0"),
        (
            {"min_len": 3, "max_len": 2},
            "max_len must be 3 or more, not 2\nhint: raise max_len or lower min_len: no",
        ),
        ({"keep_regex": "("}, "keep_regex '\\(' is not a valid regular expression"),
        ({"drop_regex": "a{99999999999}"}, "drop_regex .* is not a valid regular expression"),
        ({"scripts": ("latn1",)}, "unknown Unicode script 'latn1'\nhint: did you mean 'Latin'"),
        ({"scripts": ("Greek}|.",)}, "unknown Unicode script 'Greek}|.'"),
        ({"scripts": "Latin"}, "scripts must be a tuple of strings"),
        ({"drop_words": "spam"}, "drop_words must be a tuple of strings"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("}|.", r"\}\|\.")):
        clean(["a"], Options(**options))


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("ftfy", {"mojibake": True}),
        ("anyascii", {"transliterate": True}),
        ("regex", {"scripts": ("Latin",)}),
        ("glin_profanity", {"offensive": True}),
        ("rapidfuzz", {"near": 80}),
    ],
)
def test_a_missing_library_is_named_by_its_extra(
    module: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        ConfigError, match=r' needs an extra package\nhint: pip install "kamon\[clean\]"$'
    ):
        clean(["a"], Options(**options))


def test_without_the_extra_the_rest_works(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in LIBRARIES:
        monkeypatch.setitem(sys.modules, module, None)
    assert cleaned(
        "<b>É</b>", "spam", "xy", lower=True, max_len=4, drop_regex="x", drop_words=("spam",)
    ) == ["é"]


# ---- the verb


def test_documents_on_stdout_and_the_report_on_stderr(tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "raw.txt"
    path.write_text("<b>Anna</b>\nBob\n\nBob\nx\u200by\x1b[1m\n")
    done = kamon("clean", path, "--max-len", 5, "--drop-regex", "^x")
    assert (done.code, done.out) == (0, "Anna\nBob\n")
    assert f"{path}: 4 entries" in done.err
    assert 'html             changed 1 entry, such as "<b>Anna</b>" → "Anna"\n' in done.err
    assert r'"x\u200by\x1b[1m" → "xy[1m"' in done.err
    assert 'duplicates       dropped 1 entry, such as "Bob"\n' in done.err
    assert "normal form" not in done.err
    assert done.err.endswith("Kept 2 of 4 entries\n")


def test_a_file_is_written_wholly_and_only_if_it_may_be(tmp_path: Path, kamon: Kamon) -> None:
    raw, out = tmp_path / "raw.txt", tmp_path / "out.txt"
    raw.write_text("É \nÉ\nb\n")
    done = kamon("clean", raw, "--lower", "-o", out)
    assert (done.code, done.out) == (0, "")
    assert out.read_bytes() == "é\nb\n".encode()
    again = kamon("clean", raw, "-o", out)
    assert again.code == 1
    assert "already exists\nhint: choose another name with -o, or add --overwrite" in again.err
    assert out.read_bytes() == "é\nb\n".encode()
    (tmp_path / "link.txt").symlink_to(out)
    assert kamon("clean", raw, "-o", tmp_path / "link.txt", "--overwrite").code == 0
    assert out.read_bytes() == "É\nb\n".encode()
    assert (tmp_path / "link.txt").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link.txt", "out.txt", "raw.txt"]


def test_the_input_is_never_written_to(
    tmp_path: Path, kamon: Kamon, process: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "raw.txt"
    raw.write_text(" a \n")
    (tmp_path / "soft.txt").symlink_to(raw)
    os.link(raw, tmp_path / "hard.txt")
    for output in ("raw.txt", raw, "soft.txt", "hard.txt"):
        done = kamon("clean", "raw.txt", "-o", output, "--overwrite")
        assert done.code == 2
        assert "is the input, which is never overwritten\nhint: choose another name" in done.err
    with open(raw) as file:
        running = process("clean", "-", "-o", raw, "--overwrite", stdin=file)
        assert "which is never overwritten" in running.communicate()[1]
    assert running.returncode == 2
    assert raw.read_text() == " a \n"


def test_json(tmp_path: Path, kamon: Kamon) -> None:
    raw = tmp_path / "raw.jsonl"
    raw.write_text('{"name": "<i>Zoë</i>\\nB"}\n{"name": "Zoë B"}\n')
    argv = ["clean", raw, "--column", "name", "--json"]
    found = kamon(*argv).json
    assert found["docs"] == ["Zoë B"]
    assert (found["num_docs"], found["corpus"]["num_docs"]) == (1, 2)
    steps = {step["step"]: step for step in found["steps"]}
    assert steps["html"] == {
        "step": "html", "changed": 1, "examples": [["<i>Zoë</i>\nB", "Zoë\nB"]]
    }  # fmt: skip
    assert steps["repetitions"]["dropped"] == 1
    found = kamon(*argv, "-o", tmp_path / "out.txt").json
    assert "docs" not in found
    assert found["output"] == str(tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "Zoë B\n"


def test_every_flag_reaches_its_option(tmp_path: Path, kamon: Kamon) -> None:
    raw, listed = tmp_path / "raw.txt", tmp_path / "words.txt"
    docs = [
        "cafÃ©",
        "<b>",
        "Жanna",
        "x",
        "zzzzzzzzzz",
        "keep1",
        "keep2x",
        "keep3 spam",
        "keep4 shit",
    ]
    raw.write_text("\n".join([*docs, "keep4 shit", "keepabcdef", "keepabcdeg", "日本keep"]))
    listed.write_text("Spam\n")
    argv = ["clean", raw, "--mojibake", "--keep-html", "--lower", "--min-len=2", "--max-len=10"]
    argv += ["--keep-regex=^keep|keep$", "--drop-regex=x$", "--script=latin", "--script=Han"]
    argv += ["--drop-words", listed, "--offensive", "--near=90", "--json"]
    found = kamon(*argv).json
    assert found["docs"] == ["keep1", "keepabcdef", "日本keep"]
    assert [step["step"] for step in found["steps"]] == [
        "mojibake", "normal form", "invisible", "spaces", "lower", "blank", "length", "keep-regex",
        "drop-regex", "script", "drop-words", "offensive", "repetitions", "near",
    ]  # fmt: skip
    raw.write_text("Ж\nZh\n")
    assert kamon("clean", raw, "--transliterate", "--keep-repetitions").out == "Zh\nZh\n"


def test_standard_input_and_columns(kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    text = io.BytesIO(b"name,id\n anna ,1\nAnna,2\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=text))
    done = kamon("clean", "-", "--format", "csv", "--column", "name", "--lower")
    assert done.out == "anna\n"


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        ([], 2, "INPUT"),
        (["none.txt"], 1, "no file none.txt"),
        (["raw.txt", "--min-len", "99"], 1, "nothing of raw.txt is left: all entries were dropped"),
        (["raw.txt", "-o", "no/out.txt"], 1, "no/out.txt: its directory does not exist"),
        (["raw.txt", "-o", ""], 1, "the output name is empty"),
        (["raw.txt", "-o", "raw.txt/x"], 1, "raw.txt/x: its directory does not exist"),
        (["raw.txt", "-o", "a\0b"], 1, r"cannot write 'a\x00b'"),
        (["raw.txt", "-o", "."], 1, ". is a directory"),
        (["raw.txt", "-o", "x" * 250], 1, "cannot write xxx"),
        (["raw.txt", "--near", "50"], 2, "near must be from 75 to 100 percent, not 50"),
        (["raw.txt", "--near", "x"], 2, "must be a whole number, not 'x'"),
        (["raw.txt", "--script", "Latine"], 2, "did you mean 'Latin'?"),
        (["raw.txt", "--drop-words", "none.txt"], 1, "no file none.txt"),
        (["raw.txt", "--keep-regex", "["], 2, "keep_regex '[' is not a valid regular expression"),
        (["raw.txt", "--ner", "80"], 2, "unknown option --ner\nhint: did you mean --near?"),
    ],
)  # fmt: skip
def test_bad_input(
    argv: list[str], code: int, message: str, tmp_path: Path, kamon: Kamon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw.txt").write_text("anna\n")
    done = kamon("clean", *argv)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert done.err.splitlines()[-1].startswith(("error: ", "hint: "))
    assert os.listdir(tmp_path) == ["raw.txt"]


def test_json_is_ascii(tmp_path: Path, kamon: Kamon) -> None:
    (tmp_path / "raw.txt").write_text("Zoë")
    done = kamon("clean", tmp_path / "raw.txt", "--json")
    assert done.out.isascii()
    assert json.loads(done.out)["docs"] == ["Zoë"]
