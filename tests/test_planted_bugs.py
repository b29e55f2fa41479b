"""The tests are tested: a bug of dev/plant_bugs.py makes some of them fail.

A thirtieth of the bugs here; `make bugs` plants them all.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "dev"))

from helpers.server import CHROMIUM
from kamon.native import library
from plant_bugs import BUGS, Bug, caught


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS[::30], ids=lambda bug: bug.name)
def test_planted_bug_is_caught(bug: Bug) -> None:
    if bug.file.startswith("engines/native") and library.why_not():
        pytest.skip(library.why_not())
    if bug.file.startswith("web/static") and not CHROMIUM:
        pytest.skip("no Chromium is installed")
    assert caught(bug)
