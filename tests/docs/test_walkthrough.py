"""The walkthrough: the notebook is what its source makes, it runs, and its answers are right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import make_walkthrough
from kamon.native import library

CELLS = make_walkthrough.cells(make_walkthrough.SOURCE.read_text(encoding="utf-8"))
CHAPTERS = range(1, 10)
LARGEST = 400_000  # bytes
SECONDS = 90  # of processor time, on one core


@cache
def kept() -> dict[str, Any]:
    """The notebook as it is committed."""
    found: dict[str, Any] = json.loads(make_walkthrough.TARGET.read_text(encoding="utf-8"))
    return found


def printed(notebook: dict[str, Any]) -> list[str]:
    """What each cell printed."""
    return [
        "".join("".join(output.get("text", "")) for output in cell.get("outputs", []))
        for cell in notebook["cells"]
    ]


def check_outputs(notebook: dict[str, Any]) -> None:
    """A whole run from start to end, without errors, with pictures, and with right answers."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "execute_result"}
    assert {output["name"] for output in outputs if "name" in output} == {"stdout"}
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) == 4
    text = "\n".join(printed(notebook))
    verdicts = re.findall(r"^(\d\.\d): (.*)$", text, re.MULTILINE)
    for number in (f"{chapter}.{exercise}" for chapter in CHAPTERS for exercise in (1, 2, 3)):
        assert [verdict for n, verdict in verdicts if n == number] == ["no answer yet", "right"]
    unheard = re.search(r"^fetch them a cup of ____ .*\n((?:.+\n)+)", text, re.MULTILINE)
    assert unheard
    rows = re.findall(r"^ *(\w+) +([\d.]+)% ", unheard[1], re.MULTILINE)
    share = {word: float(percent) for word, percent in rows}
    assert share["tea"] > share["coffee"] > 20 > 5 > share["soap"] > share["keyboard"] > 0
    assert re.search(r"^about [\d,]+ times as fast on the machine where", text, re.MULTILINE)


def test_the_committed_notebook_is_what_its_source_makes() -> None:
    hint = "run `python dev/make_walkthrough.py`"
    cells = kept()["cells"]
    assert ["".join(cell["source"]) for cell in cells] == [c.source for c in CELLS], hint
    for cell, made in zip(cells, CELLS, strict=True):
        assert cell["cell_type"] == ("markdown" if made.kind == "markdown" else "code")
        folded = cell["metadata"] == make_walkthrough.CLOSED
        assert folded == (made.kind == "closed")
        assert folded or cell["metadata"] == {}
    check_outputs(kept())


def test_the_committed_notebook_is_small_and_names_no_machine() -> None:
    text = make_walkthrough.TARGET.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST
    assert not re.search(r"/(?:home|root|tmp|usr|Users|work)\b|[A-Z]:\\\\|0x[0-9a-f]{6}", text)
    assert set(kept()["metadata"]) == {"kernelspec", "language_info"}  # no state of widgets


def test_links_lead_somewhere() -> None:
    text = "\n".join(c.source for c in CELLS if c.kind == "markdown")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert links
    for link in links:
        assert (make_walkthrough.DOCS / link).exists(), link


def test_each_chapter_ends_with_three_exercises() -> None:
    chapters = "\n".join(c.source for c in CELLS if c.kind == "markdown").split("\n## ")[1:]
    assert [chapter.split(".")[0] for chapter in chapters] == [str(n) for n in CHAPTERS]
    for chapter in chapters:
        exercises = chapter.split("### Exercises\n")[1]
        assert re.findall(r"^(\d)\. ", exercises, re.MULTILINE) == ["1", "2", "3"]


def test_a_wrong_answer_is_not_right() -> None:
    (helpers,) = [c.source for c in CELLS if "def check(" in c.source]
    space: dict[str, Any] = {}
    exec("import math\n" + helpers[helpers.index("RIGHT = ") :], space)
    space["RIGHT"][1] = (13, 0.25, "a")
    space["check"](1, 13, 1 / 4, "a", strictly=True)
    for wrong in ((12, 0.25, "a"), (13, 0.26, "a"), (13, 0.25, "b"), (13, 0.25, None)):
        with pytest.raises(AssertionError):
            space["check"](1, *wrong, strictly=True)


def test_a_source_with_a_mistake_is_refused() -> None:
    with pytest.raises(ValueError, match="not a comment: 'x = 1'"):
        make_walkthrough.cells("# %% [markdown]\n# Text\nx = 1\n")
    with pytest.raises(KeyError, match="opened"):
        make_walkthrough.cells("# %% opened\nx = 1\n")


@pytest.mark.slow
@pytest.mark.extra
@pytest.mark.skipif(bool(library.why_not()), reason="chapters 7 to 9 need the native engine")
def test_the_walkthrough_runs(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
    pytest.importorskip("nbclient", reason="needs the extra dev")
    pytest.importorskip("IPython", reason="needs kamon[notebook]")
    nbformat.validate(nbformat.read(make_walkthrough.TARGET, as_version=4))
    made = tmp_path / "walkthrough.ipynb"
    # A process of its own: what Jupyter warns of is not ours to mend.
    before = os.times()
    command = [sys.executable, make_walkthrough.__file__, made]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    after = os.times()
    user, system = after.children_user, after.children_system
    assert user + system - before.children_user - before.children_system < SECONDS
    notebook = json.loads(made.read_text(encoding="utf-8"))
    check_outputs(notebook)
    sources = [cell["source"] for cell in notebook["cells"]]
    assert sources == [cell["source"] for cell in kept()["cells"]]
