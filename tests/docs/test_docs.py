"""What the documents show is what happens."""

from __future__ import annotations

import doctest
import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import refresh_docs
from helpers.once import made_once
from kamon import cli
from refresh_docs import PAGES, ROOT, Example, examples


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def transcripts() -> list[list[Example]]:
    """Of each console block each `$ command` and what it shows; ... stands for anything."""
    return [examples(block) for page in PAGES for block in blocks(page, "console")]


@dataclass(frozen=True)
class Shell:
    """A folder, at first empty, to run commands in.

    A training runs once, even if several examples begin with it: `shared` keeps what it made.
    """

    folder: Path
    shared: Path

    def run(self, command: str) -> tuple[int, str]:
        """Return the exit status and the output of a command."""
        words = shlex.split(command, comments=True)
        if not trains(words) or {"--resume", "--overwrite", "|"} & {*words}:
            return self.run_now(command)
        digest = hashlib.sha256(repr(words).encode())
        for word in words:
            digest.update(contents(self.folder / word))

        def train(made: Path) -> None:
            before = set(self.folder.iterdir())
            code, output = self.run_now(command)
            (made / "output.json").write_text(json.dumps([code, output]))
            (made / "files").mkdir()
            for path in set(self.folder.iterdir()) - before:
                path.rename(made / "files" / path.name)

        made = made_once(self.shared / digest.hexdigest(), train)
        shutil.copytree(made / "files", self.folder, dirs_exist_ok=True)
        code, output = json.loads((made / "output.json").read_text())
        return code, output

    def run_now(self, command: str) -> tuple[int, str]:
        done = refresh_docs.run(command, self.folder)
        return done.returncode, done.stdout


def trains(words: list[str]) -> bool:
    return words[0] == "kamon" and words[1] in ("train", "sft", "dpo", "reward", "ppo")


def contents(path: Path) -> bytes:
    """Return the names and the bytes of a file or of all files in a folder, if it exists."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    each = [(str(f.relative_to(path)), f.read_bytes()) for f in files if f.is_file()]
    return repr(each).encode()


@pytest.fixture
def shell(tmp_path: Path, session_folder: Path) -> Shell:
    (folder := tmp_path / "empty").mkdir()
    return Shell(folder, session_folder / "docs")


def test_training_runs_once_for_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
        ran.append(command)
        shutil.copy(folder / "a.txt", folder / "model")
        return subprocess.CompletedProcess(command, 0, "done\n")

    monkeypatch.setattr(refresh_docs, "run", run)
    for number, content in enumerate(["anna", "anna", "nora"]):
        (folder := tmp_path / str(number)).mkdir()
        (folder / "a.txt").write_text(content)
        shell = Shell(folder, tmp_path / "shared")
        assert shell.run("kamon train a.txt  # a list") == (0, "done\n")
        assert (folder / "model").read_text() == content
    assert len(ran) == 2


@pytest.mark.slow
@pytest.mark.parametrize("block", transcripts(), ids=lambda block: block[-1].command)
def test_transcripts(block: list[Example], shell: Shell) -> None:
    """The commands of a block run one after the other in the same folder."""
    for command, shown in block:
        code, output = shell.run(command)
        assert refresh_docs.matches(shown, output), f"{command} shows\n{output}"
        assert code == 0 or "error: " in shown, f"{command} fails:\n{output}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if "kamon" in "".join(blocks(page, "sh"))], ids=lambda p: p.name
)
def test_commands_run(page: Path, shell: Shell) -> None:
    """The commands of sh blocks run if the page makes their files. Text blocks show the output."""
    output = None
    for block in refresh_docs.blocks(page.read_text(encoding="utf-8")):
        if block.language == "text":
            if block.touches and output is not None:
                assert refresh_docs.matches(f"...{block.text}...", output), output
            output = None
        elif block.language == "console":
            keep_what_is_made(block.text, shell)
            output = None
        else:
            output = run_commands(block.text, shell)


def keep_what_is_made(console: str, shell: Shell) -> None:
    """Run the commands of a block that write something."""
    for command, _ in examples(console):
        if re.search(r"^kamon train|>| -o ", command) and refresh_docs.can_run(
            command, shell.folder
        ):
            run_in_turn(command, shell)


def run_commands(text: str, shell: Shell) -> str | None:
    """Return the output of a block's commands, or None if one of them cannot run here."""
    lines = [line for line in text.splitlines() if line.strip()]
    outputs = [
        run_in_turn(line, shell) for line in lines if refresh_docs.can_run(line, shell.folder)
    ]
    return "".join(outputs) if len(outputs) == len(lines) else None


def run_in_turn(command: str, shell: Shell) -> str:
    """Run a command. A model that it makes may replace one of an earlier block of the page."""
    command = re.sub(r"--budget \S+", "--budget 1s", command)
    words = shlex.split(command, comments=True)
    target = words[words.index("-o") + 1] if "-o" in words else "model"
    if trains(words) and "--resume" not in words:
        shutil.rmtree(shell.folder / target, ignore_errors=True)
    code, output = shell.run(command)
    assert code == 0, f"{command}\n{output}"
    return output


@pytest.mark.parametrize(
    ("shown", "output", "expected"),
    [
        ("a\nb\n", "a\nc\n", "a\nc\n"),
        ("a\n...\nz\n", "a\n1\n2\nz\n", "a\n...\nz\n"),
        ("x ... s\nold\n...\n", "x 1.2 s\nnew\nmore\nrest\n", "x ... s\nnew\n...\n"),
        ("took 3 s\n", "took 4.5 s, wrote 3 files\n", "took ... s, wrote 3 files\n"),
        ("old\n...\nlast\n", "new\n1\n2\nlast\n", "new\n...\nlast\n"),
    ],
)
def test_outputs_are_refreshed(shown: str, output: str, expected: str) -> None:
    found = refresh_docs.refreshed(shown, output)
    assert found == expected
    assert refresh_docs.matches(found, output)


def test_a_page_is_refreshed() -> None:
    page = "Text.\n\n```console\n$ printf 'a\\nb\\n' > x\n$ cat x\nold\n```\n\n```sh\nls\n```\n"
    assert refresh_docs.refresh(page) == page.replace("old\n", "a\nb\n")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("kamon train names -o names", True),
        ("kamon train brands.txt", False),
        ("kamon train here.txt -o there.txt", True),
        ("kamon sample model -n 5 > new.txt", True),
        ("kamon sample brands", False),
        ("kamon compare model brands", False),
        ("kamon clean here.txt | kamon train - -o towns", True),
        ("sort -u raw.txt | kamon train -", False),
        ("kamon complete model a --interactive", False),
        ("kamon serve model", False),
        ("kamon train shards -o there", False),
        ("python there.py", False),
        ("pip install .", False),
        ("kamon fill model 'an", False),
    ],
)
def test_commands_whose_files_are_there_can_run(line: str, answer: bool, tmp_path: Path) -> None:
    (tmp_path / "here.txt").write_text("anna\n")
    (tmp_path / "model").mkdir()
    assert refresh_docs.can_run(line, tmp_path) is answer


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
