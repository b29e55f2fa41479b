"""What the documents show is what happens."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from kamon import cli

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def transcripts() -> list[list[tuple[str, str]]]:
    """Of each console block each `$ command` and what it shows; ... stands for anything."""
    return [
        [
            (command, shown)
            for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
            for command, shown in [part.split("\n", 1)]
        ]
        for page in PAGES
        for block in blocks(page, "console")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("block", transcripts(), ids=lambda block: block[-1][0])
def test_transcripts(block: list[tuple[str, str]], tmp_path: Path) -> None:
    """The commands of a block, one after the other in the same folder."""
    for command, shown in block:
        program, *argv = shlex.split(command)
        assert program == "kamon"
        done = subprocess.run(
            [sys.executable, "-m", "kamon", *argv],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        same = doctest.OutputChecker().check_output(shown, done.stdout, doctest.ELLIPSIS)
        assert same, f"{command} shows\n{done.stdout}"


@pytest.mark.parametrize(
    "page",
    [PAGES[0], *(pytest.param(page, marks=pytest.mark.slow) for page in PAGES[1:])],
    ids=lambda page: page.name,
)
def test_python_examples(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as where they are typed: what lies there is imported
    known: dict[str, object] = {}  # a page is one session
    for block in blocks(page, "python"):
        test = doctest.DocTestParser().get_doctest(block, known, page.name, str(page), 0)
        assert test.examples
        assert doctest.DocTestRunner(verbose=False).run(test, clear_globs=False).failed == 0
        known |= test.globs


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_verbs_and_flags_they_show(page: Path) -> None:
    """The other commands are not run, since their files are the reader's: their flags exist."""
    shown = [line for block in blocks(page, "sh") for line in block.splitlines()]
    for line in shown:
        words = shlex.split(line, comments=True)
        if "kamon" in words:
            verb, *argv = words[words.index("kamon") + 1 :]
            known = help_of(verb)
            for word in argv:
                assert not word.startswith("--") or word in known, line
        elif words[:1] == ["make"]:
            targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
            assert {word for word in words[1:] if "=" not in word} <= set(targets)


@cache
def help_of(verb: str) -> str:
    assert verb in cli.VERBS
    done = subprocess.run(
        [sys.executable, "-m", "kamon", verb, "--help"], capture_output=True, text=True
    )
    return done.stdout


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), target


def test_contributing_names_every_module() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    package = ROOT / "src" / "kamon"
    for path in package.glob("*.py"):
        assert path.name.startswith("__") or f"`{path.name}`" in text, path.name
