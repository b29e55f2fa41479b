"""The table of bounds names tests that exist and have them; the page has no other bounds."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from helpers.planted import BUGS

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "exactness.md").read_text(encoding="utf-8")
TABLE = (TESTS / "EXACTNESS.md").read_text(encoding="utf-8")
NAMED = re.findall(r"`(test_\w+\.py)::(test_\w+)`", TABLE)
BOUND = re.compile(r"\b1e-\d+\b")


@cache
def source(file: str) -> str:
    (path,) = TESTS.rglob(file)
    return path.read_text(encoding="utf-8")


@cache
def functions(file: str) -> dict[str, str]:
    """The source of each test of a file, decorators included."""
    found = {}
    for node in ast.parse(source(file)).body:
        if isinstance(node, ast.FunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            found[node.name] = "\n".join(source(file).splitlines()[first - 1 : node.end_lineno])
    return found


def test_every_test_it_names_is_there() -> None:
    assert len(NAMED) > 30
    missing = [f"{file}::{name}" for file, name in NAMED if name not in functions(file)]
    assert not missing


def rows() -> list[tuple[str, list[str]]]:
    """Each test named last with the bounds of its row; "the same" is the row's before."""
    found: list[tuple[str, list[str]]] = []
    last = ""
    for line in TABLE.splitlines():
        if line.startswith("|") and not line.startswith("|--"):
            names = re.findall(r"`(test_\w+\.py::test_\w+)`", line)
            last = names[0] if names else last
            if bounds := BOUND.findall(line):
                found.append((last, bounds))
    return found


@pytest.mark.parametrize(("test", "bounds"), rows(), ids=lambda value: str(value))
def test_the_bounds_are_those_of_the_test(test: str, bounds: list[str]) -> None:
    """In the function itself, or in what it shares with others of its file."""
    file, name = test.split("::")
    shared = source(file)
    for other in functions(file):
        if other.startswith("test_") and other != name:
            shared = shared.replace(functions(file)[other], "")
    for bound in bounds:
        assert bound in shared, f"{test} has no {bound}"


def test_the_page_has_no_other_bounds() -> None:
    assert set(BOUND.findall(PAGE)) <= set(BOUND.findall(TABLE))


def test_there_are_as_many_planted_bugs_as_it_says() -> None:
    (said,) = re.findall(r"more than (\d+) small bugs", PAGE)
    assert len(list(BUGS.glob("*/*.patch"))) > int(said)
