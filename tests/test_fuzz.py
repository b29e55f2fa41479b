"""dev/fuzz.py finds nothing in the time there is, and finds what is planted."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import kamon
from conftest import times

ROOT = Path(__file__).parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.torture,
    pytest.mark.skipif(
        find_spec("atheris") is None, reason="the fuzzer cannot be installed for this Python here"
    ),
]


def fuzz(target: str, what: object, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "dev" / "fuzz.py", target, str(what)],
        cwd=folder,  # where what is found lands
        env=os.environ | {"PYTHONPATH": str(Path(kamon.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.parametrize("target", ["store", "corpus"])
def test_nothing_is_found(target: str, tmp_path: Path) -> None:
    done = fuzz(target, times(8, 1800), tmp_path)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "runs in" in done.stdout
    assert list(tmp_path.iterdir()) == []
