"""The parts of the page that need no browser, in Node: texts, states, requests, charts."""

from __future__ import annotations

import shutil
import subprocess
from importlib.resources import files
from pathlib import Path

import pytest

NODE = shutil.which("node")


@pytest.mark.skipif(NODE is None, reason="no Node is installed")
def test_the_logic_of_the_page(tmp_path: Path) -> None:
    assert NODE is not None
    for each in files("kamon.web").joinpath("static").iterdir():
        if each.name.endswith(".js"):
            (tmp_path / each.name).write_bytes(each.read_bytes())
    (tmp_path / "package.json").write_text('{"type": "module"}')
    tests = Path(__file__).with_name("page_logic.mjs").read_text(encoding="utf-8")
    (tmp_path / "page_logic.mjs").write_text(tests, encoding="utf-8")
    ran = subprocess.run(
        [NODE, "page_logic.mjs"],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
