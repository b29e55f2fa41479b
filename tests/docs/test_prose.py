"""The check of the language finds stilted phrases and long sentences, and reads no code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import check_prose

STILTED = "What needs more memory than there is, is refused."
PLAIN = "Kamon refuses to start a run that would not fit in memory."
LIMITS = check_prose.Measures(0.0, 15, 30)


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        (STILTED, "inverted"),
        ("How many there are is said.", "no person"),
        ("It learns all. Where there are too few, none is kept.", "where for if"),
        ("The loss is 2 nats a token.", "a for per"),
        ("The best model behind 57 steps.", "archaic"),
        ("Here one core alone is used.", "odd word"),
        ("A file in place of a pipe.", "wordy"),
        ("The name that stands first.", "there for exists"),
        ("It is no chat model.", "no as not a"),
        ("It ends; it begins.", "semicolon"),
    ],
)
def test_stilted_phrases_are_found(sentence: str, kind: str) -> None:
    assert kind in {finding.kind for finding in check_prose.findings(sentence)}


@pytest.mark.parametrize("sentence", [PLAIN, "A model of 26,816 parameters.", "x;y"])
def test_plain_sentences_are_fine(sentence: str) -> None:
    assert not list(check_prose.findings(sentence))


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        (
            "# A heading is no sentence here\n\nOne two three\nfour. Five six, seven; eight!\n",
            [4, 4],
        ),
        ("- A first point of a list\n- and the second one\n\n1. with a number or so", [6, 4, 5]),
        ("| cells are short | but this one is not |\n|---|---|\n", [5]),
        ("A link to [a page](the/path.md) counts (as 9 words.) And the next one.", [9, 4]),
    ],
)
def test_sentences_are_measured(text: str, lengths: list[int]) -> None:
    assert [check_prose.length(each) for each in check_prose.sentences(text)] == lengths


@pytest.mark.parametrize("words", [30, 31])
def test_a_long_sentence_fails(words: int, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("word " * words + ".\n\n" + "Five words are too short. " * 9)
    assert check_prose.check(tmp_path, ["*.md"], LIMITS) is (words == 30)


@pytest.mark.parametrize("words", [15, 16])
def test_long_sentences_on_average_fail(words: int, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("\n\n".join(["word " * words] * 3))
    assert check_prose.check(tmp_path, ["*.md"], LIMITS) is (words == 15)


@pytest.mark.parametrize("each", [False, True])
def test_one_bad_page_among_good_ones(each: bool, tmp_path: Path) -> None:
    (tmp_path / "bad.md").write_text(STILTED)
    for number in range(9):
        (tmp_path / f"{number}.md").write_text(PLAIN)
    limits = LIMITS._replace(phrases=10.0)
    assert check_prose.check(tmp_path, ["*.md"], limits, each=each) is not each


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("page.md", "# Title\n\n{}\n\n```sh\nkamon; behind\n```\n`a; b`\n"),
        ("program.py", 'def f(x):\n    """Add."""\n    print(f"{} {{x}}")  # alone; behind\n'),
        ("script.js", 'say("{}"); // alone; behind\nlet a = 1; let b = 2;\n'),
        ("page.html", '<p class="a; b c">{}</p><input title="A title">'),
    ],
)
def test_every_kind_of_file_is_read(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    plain = text.replace("{{", "{").replace("}}", "}")
    for sentence, limit_holds in ((PLAIN, True), (STILTED, False)):
        path.write_text(plain.replace("{}", sentence))
        assert check_prose.check(tmp_path, [name], LIMITS) is limit_holds


def test_the_worst_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.md").write_text(PLAIN)
    (tmp_path / "bad.md").write_text(STILTED)
    assert not check_prose.check(tmp_path, ["*.md"], LIMITS)
    shown = capsys.readouterr().out
    assert shown.index("bad.md") < shown.index("good.md")


def test_what_users_read_is_plain() -> None:
    assert check_prose.main([]) == 0
    for patterns in check_prose.FILES.values():
        for pattern in patterns:
            assert list(check_prose.ROOT.glob(pattern)), pattern
