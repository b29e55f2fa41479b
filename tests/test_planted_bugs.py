"""The tests are tested: a bug that is planted in the package makes some of them fail.

Here the first bug of each folder is planted; `make bugs` plants them all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

from helpers.planted import (
    BUGS,
    ROOT,
    Bug,
    PatchError,
    apply,
    copied_package,
    is_caught,
    read_bug,
    run_tests,
)
from kamon.native import library

PATCHES = sorted(BUGS.glob("*/*.patch"))
ALL = bool(os.environ.get("KAMON_BUGS"))
FIRST = [next(each) for _, each in groupby(PATCHES, key=lambda path: path.parent)]


def name_of(path: Path) -> str:
    return str(path.relative_to(BUGS).with_suffix(""))


@pytest.mark.parametrize("path", PATCHES, ids=name_of)
def test_patch_still_applies(path: Path) -> None:
    bug = read_bug(path)
    code = (ROOT / bug.file).read_text("utf-8")
    assert apply(bug, code) != code
    for test in bug.tests:
        assert (ROOT / test.partition("::")[0]).is_file()


def test_no_patch_uses_a_name_that_is_gone(tmp_path: Path) -> None:
    """Otherwise any test would catch it."""
    for path in PATCHES:
        bug = read_bug(path)
        if bug.file.endswith(".py"):
            copy = tmp_path / f"{bug.name.replace('/', '-')}.py"
            copy.write_text(apply(bug, (ROOT / bug.file).read_text("utf-8")), "utf-8")
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=E9,F821", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("path", PATCHES if ALL else FIRST, ids=name_of)
def test_planted_bug_is_caught(path: Path) -> None:
    bug = read_bug(path)
    if bug.file.endswith((".hpp", ".cpp")) and library.why_not():
        pytest.skip(library.why_not())
    if bug.file.endswith(".js") and shutil.which("node") is None:
        pytest.skip("no Node is installed")
    assert is_caught(bug)


@pytest.mark.slow
@pytest.mark.skipif(not ALL, reason="`make bugs` runs it; `make test` runs the tests themselves")
@pytest.mark.parametrize("test", sorted({test for p in PATCHES for test in read_bug(p).tests}))
def test_copy_without_a_bug_passes(test: str) -> None:
    """Otherwise a bug would seem to be caught whatever it does."""
    with copied_package() as copy:
        assert run_tests(copy, [test])


BUG = Bug("sign", "a.py", [(["    x = 1", "    y = -x"], ["    x = 1", "    y = x"])], [])


def test_lines_may_move_and_be_indented_otherwise() -> None:
    code = "# new\nif a:\n        x = 1\n        y = -x\nz = 2\n"
    assert apply(BUG, code) == "# new\nif a:\n        x = 1\n        y = x\nz = 2\n"
    assert apply(BUG, "x = 1\ny = -x\n") == "x = 1\ny = x\n"


@pytest.mark.parametrize("code", ["x = 1\ny = 0 - x\n", "x = 1\ny = -x\nx = 1\ny = -x\n", ""])
def test_lines_that_are_not_there_once_are_an_error(code: str) -> None:
    with pytest.raises(PatchError, match=r"sign: [02] times in a.py, not once:\n    x = 1"):
        apply(BUG, code)
