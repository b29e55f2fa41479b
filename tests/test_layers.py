"""Imports only go down: a folder imports from the folders above it in this list, never back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kamon

ROOT = Path(kamon.__file__).parent

# Each line may import from the lines before it. Imports for types only count, too.
LAYERS = [
    {"_version", "errors"},
    {"config", "files"},
    {"native"},
    {"engines"},
    {"data", "ngrams"},
    {"tokenizers"},
    {"storage", "generation"},
    {"packing"},
    {"model"},
    {"training"},
    {"api", "completion", "evaluation", "benchmark"},
    {"finetuning"},
    {"exporters", "plotting"},
    {"web"},
    {"cli"},
    {"__main__"},
]
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
FILES = [path for path in sorted(ROOT.rglob("*.py")) if path != ROOT / "__init__.py"]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in FILES}


def imports(path: Path) -> set[str]:
    """The modules of Kamon that a file imports, without "kamon.", wherever the import is."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"relative import in {path}"
            module = node.module or ""
            submodules = {f"{module}.{alias.name}" for alias in node.names}
            inside = {name for name in submodules if name.removeprefix("kamon.") in MODULES}
            names |= inside or {module}
    return {name.removeprefix("kamon.") for name in names if name.split(".")[0] == "kamon"}


def folder(module: str) -> str:
    return module.partition(".")[0]


def test_every_folder_has_its_layer() -> None:
    assert set(LEVEL) == {folder(module) for module in MODULES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path: Path) -> None:
    own = folder(".".join(path.relative_to(ROOT).with_suffix("").parts))
    for module in imports(path) - {"kamon"}:
        assert folder(module) == own or LEVEL[folder(module)] < LEVEL[own], module


def test_no_cycles_inside_folders() -> None:
    graph = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): imports(path) & MODULES
        for path in FILES
    }
    while free := [module for module, needed in graph.items() if not needed & set(graph)]:
        for module in free:
            del graph[module]
    assert not graph


def test_no_engine_knows_another_one() -> None:
    engines = {"engines.scalar", "engines.native", "engines.torch"}
    for engine in engines:
        path = ROOT / f"{engine.replace('.', '/')}.py"
        assert not imports(path) & (engines - {engine})
