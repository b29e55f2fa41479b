"""The documentation as a site: made without a warning, whole, and its own."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import kamon
from kamon import cli

pytest.importorskip("sphinx", reason="the site needs the extra docs")

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LOADS = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src")}

pytestmark = [pytest.mark.slow, pytest.mark.extra]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going"]
    done = subprocess.run(
        [*command, "-d", str(place / "trees"), str(DOCS), str(place / "html")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return place / "html"


class Page(HTMLParser):
    """What a page links to, what it loads, and which places in it have a name."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.ids: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name == "id":
                self.ids.add(value)
            elif value and (tag, name) in LOADS:
                self.loads.add(value)
            elif value and (tag, name) == ("a", "href"):
                self.links.add(value)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path.resolve(): Page(path) for path in site.rglob("*.html")}


def test_every_page_is_in_the_contents(pages: dict[Path, Page]) -> None:
    index = next(page for path, page in pages.items() if path.name == "index.html")
    for source in (*DOCS.glob("*.md"), *DOCS.glob("*.ipynb")):
        if source.stem != "index":
            assert f"{source.stem}.html" in index.links


def test_links_lead_somewhere(pages: dict[Path, Page]) -> None:
    """Also those into a page, to the place that they name."""
    seen = 0
    for path, page in pages.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"
            seen += 1
    assert seen > 1000


def test_it_loads_nothing_from_elsewhere(pages: dict[Path, Page]) -> None:
    for path, page in pages.items():
        loaded = [each for each in page.loads if urlsplit(each).netloc]
        assert not loaded, f"{path.name} loads {loaded}"


def test_it_names_no_place_of_this_machine(site: Path) -> None:
    for path in site.rglob("*.html"):
        assert str(ROOT) not in path.read_text(encoding="utf-8"), path.name


def test_the_commands_are_those_of_the_program(site: Path) -> None:
    text = (site / "commands.html").read_text(encoding="utf-8")
    for verb in cli.VERBS:
        assert re.search(rf"<h[1-4]>{verb}<", text), verb
        done = subprocess.run(
            [sys.executable, "-m", "kamon", verb, "--help"], capture_output=True, text=True
        )
        for flag in set(re.findall(r"--[a-z][a-z0-9-]*", done.stdout)) - {"--help"}:
            assert flag in text, f"{verb} {flag}"


def test_the_library_is_what_can_be_imported(pages: dict[Path, Page]) -> None:
    api = next(page for path, page in pages.items() if path.name == "api.html")
    for name in set(kamon.__all__) - {"errors"}:
        assert api.ids & {f"kamon.{name}", f"kamon.{kamon.MODULES.get(name)}.{name}"}, name
    for name in (
        "evaluation.score.score_list",
        "generation.constraints.GenerationConstraints",
        "engines.base.Engine.backward",
    ):
        assert f"kamon.{name}" in api.ids
