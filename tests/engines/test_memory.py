"""A long list takes the memory of its text and of places in it, not of strings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kamon.native import library

BYTES_A_LINE = 48  # a list of strings takes 65 for the shortest, and a set of them 40 more

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="peak memory is not told here"
    ),
    pytest.mark.skipif(bool(library.why_not()), reason=library.why_not()),
]


def write_lines(path: Path, number: int) -> Path:
    """Different lines of eight letters, some of them twice."""
    letters = str.maketrans("0123456789", "kamonlinde")
    lines = (str(10**7 + n % (number - 1000) * 7919 % 10**7) for n in range(number))
    path.write_text("\n".join(lines).translate(letters) + "\n")
    return path


# Of its own memory alone: the usual figure of a finished process counts that of its parent, too.
PROGRAM = """
import re, sys
from kamon.cli import main
assert main(sys.argv[1:]) == 0
print(re.search(r"VmHWM:\\s*([0-9]+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
"""


def peak(*argv: object) -> int:
    """Bytes that the command takes at most."""
    command = [sys.executable, "-c", PROGRAM, *map(str, argv)]
    done = subprocess.run(command, capture_output=True, text=True)
    return 1024 * int(done.stderr.splitlines()[-1])


@pytest.mark.parametrize("verb", ["train", "clean"])
def test_memory_grows_by_the_text_and_little_more(verb: str, tmp_path: Path) -> None:
    few, many = 50_000, 800_000
    flags = ["--overwrite", *(["--size=original", "--num-steps=10"] if verb == "train" else [])]
    took = [
        peak(verb, write_lines(tmp_path / f"{number}.txt", number), "-o", tmp_path / "out", *flags)
        for number in (few, many)
    ]
    assert took[1] - took[0] < BYTES_A_LINE * (many - few)
