"""Plants a bug in a copy of the package, and runs the tests that must then fail.

A bug is a patch `tests/bugs/FOLDER/NAME.patch`: the line `Caught by: tests/...`, then a unified
diff of one file. Its line numbers and indentation do not matter: the lines that it removes, with
those around them that it shows, must be in the file exactly once. So other lines may change.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
BUGS = ROOT / "tests" / "bugs"
# What a test says of a patch with a name that the package no longer has: any test would catch it.
CRASH = r"^E +(AttributeError|ImportError|ModuleNotFoundError|NameError|TypeError)\b"


class PatchError(Exception):
    """A patch that no longer applies, or is no patch."""


@dataclass(frozen=True)
class Bug:
    name: str
    file: str  # from the root of the repository
    hunks: list[tuple[list[str], list[str]]]  # of each change the old lines and the new ones
    tests: list[str]


def read_bug(path: Path) -> Bug:
    name = str(path.relative_to(BUGS).with_suffix(""))
    head = re.match(
        r"Caught by: (.+)\n\n--- a/(.+)\n\+\+\+ b/\2\n(?=@@)", text := path.read_text("utf-8")
    )
    if not head:
        raise PatchError(
            f"{path}: not a line 'Caught by: ...', a blank one, and a diff of one file"
        )
    hunks = []
    for part in re.split(r"^@@.*\n", text[head.end() :], flags=re.MULTILINE)[1:]:
        lines = part.splitlines()
        old, new = ([line[1:] for line in lines if line[:1] in signs] for signs in (" -", " +"))
        hunks.append((old, new))
    return Bug(name, head[2], hunks, head[1].split())


def apply(bug: Bug, code: str) -> str:
    """Returns the code with the bug in it. PatchError if its old lines are not there once."""
    lines = code.splitlines()
    for old, new in bug.hunks:
        wanted = [line.strip() for line in old]
        starts = range(len(lines) - len(old) + 1)
        found = [i for i in starts if [x.strip() for x in lines[i : i + len(old)]] == wanted]
        if len(found) != 1:
            shown = "\n".join(old)
            raise PatchError(f"{bug.name}: {len(found)} times in {bug.file}, not once:\n{shown}")
        indent, shown_indent = (len(x) - len(x.lstrip()) for x in (lines[found[0]], old[0]))
        extra, surplus = " " * (indent - shown_indent), max(0, shown_indent - indent)
        lines[found[0] : found[0] + len(old)] = [extra + line[surplus:] for line in new]
    return "\n".join(lines) + "\n"


@contextmanager
def copied_package() -> Iterator[Path]:
    """A copy of the repository's `src` in a folder that is then removed."""
    with TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", Path(folder, "src"))
        yield Path(folder)


def build(native: Path) -> None:
    """Builds one library, quickly: the one that every processor can run."""
    for library in native.glob("*.so"):
        library.unlink()
    compiler = os.environ.get("CXX", "g++").split()
    flags = ["-std=c++17", "-O1", "-fPIC", "-pthread", "-fno-math-errno", "-DKAMON_BYTES=16"]
    objects = []
    for dtype, real, contract in (("f32", "float", "fast"), ("f64", "double", "off")):
        chosen = [f"-DKAMON_REAL={real}", f"-DKAMON_SUFFIX=_{dtype}", f"-ffp-contract={contract}"]
        objects.append(str(native / f"{dtype}.o"))
        source = str(native / "src" / "c_api.cpp")
        subprocess.run([*compiler, *flags, *chosen, "-c", source, "-o", objects[-1]], check=True)
    target = str(native / "kamon_baseline.so")
    subprocess.run([*compiler, "-shared", "-pthread", *objects, "-o", target], check=True)


def run_tests(copy: Path, tests: Sequence[str]) -> bool:
    """Whether these tests pass on the package in `copy`; the slow ones only if named one by one."""
    # Plain: under CI pytest would show all of a difference, for minutes where lists are long.
    plugins = ["-p", "no:cacheprovider", "-p", "no:xdist", "--assert=plain"]
    chosen = [] if "::" in "".join(tests) else ["-m", "not slow"]
    package = copy / "src"
    environment = os.environ | {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["KAMON_PLANTED"] = str(package)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", *chosen, *plugins, *tests],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    assert not re.search(CRASH, done.stdout, flags=re.MULTILINE), done.stdout
    return done.returncode == 0


def is_caught(bug: Bug) -> bool:
    """Whether the tests that the bug names fail because of it."""
    with copied_package() as copy:
        file = copy / bug.file
        file.write_text(apply(bug, file.read_text("utf-8")), "utf-8")
        native = copy / "src" / "kamon" / "native"
        if file.is_relative_to(native / "src"):
            build(native)
        return not run_tests(copy, bug.tests)
