"""A page has one name: in its heading, in the menu and in every link. Its lines are short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
INCLUDED = {
    "examples": ROOT / "examples" / "README.md",
    "contributing": ROOT / "CONTRIBUTING.md",
    "changelog": ROOT / "CHANGELOG.md",
}
PAGES = [*DOCS.glob("*.md"), *INCLUDED.values(), ROOT / "README.md"]
SOURCES = [*PAGES, DOCS / "walkthrough.py"]


def prose(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = re.sub("^# ?", "", text, flags=re.MULTILINE)
    return re.sub("^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def title(path: Path) -> str:
    """Return the heading of a page. The notebook is read in its source."""
    source = INCLUDED.get(path.stem, path.with_suffix(".py") if path.suffix == ".ipynb" else path)
    heading = re.search("^# (.+)", prose(source), re.MULTILINE)
    assert heading, f"{path.name} has no heading"
    return heading[1]


def links(path: Path) -> list[tuple[str, Path]]:
    """Return the text and the target of each link to a whole page."""
    found = re.findall(r"(?<!!)\[([^]]+)\]\(([^)#:]+\.(?:md|ipynb))\)", prose(path))
    return [(" ".join(text.split()), (path.parent / target).resolve()) for text, target in found]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_a_link_has_the_title_of_its_page(path: Path) -> None:
    for text, target in links(path):
        if target != DOCS / "index.md" and (target in PAGES or target.parent == DOCS):
            assert text.casefold() == title(target).casefold(), f"[{text}] leads to {target.name}"


def test_titles_are_unique() -> None:
    titles = [title(path) for path in DOCS.glob("*.md")]
    assert len(set(titles)) == len(titles)


def test_the_menu_lists_each_page_once_by_its_title() -> None:
    menus = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    names = [name for menu in menus for name in menu.split("\n\n")[1].split()]
    pages = {path.stem for path in [*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")]} - {"index"}
    assert sorted(names) == sorted(pages)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_lines_have_at_most_100_columns(path: Path) -> None:
    """Tables, code and pictures may be wider."""
    long = [line for line in prose(path).splitlines() if len(line) > 100]
    assert not [line for line in long if not line.lstrip().startswith(("|", "!["))]
