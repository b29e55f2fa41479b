"""Imports run one way: from what knows little to what knows much, never back."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kamon

ROOT = Path(kamon.__file__).parent

# Each module may import from Kamon only what stands in a layer above its own.
LAYERS = [
    {"errors", "philox", "files", "curve", "metrics", "engines.scalar", "standalone"},
    {"dropout", "windows", "lock", "mapped", "ranks"},
    {"batch"},
    {"config", "builtin", "engines.native", "engines.pytorch", "examples"},
    {"mersenne"},
    {"documents"},
    {"bpe"},
    {"model", "split", "tokenizer", "corpus", "ngram", "clean"},
    {"engine", "fast_ngram", "memory", "sources", "prompts"},
    {"validation", "contents", "sampler", "budget", "run", "objectives"},
    {"trainer", "conditions", "store", "extend", "describe"},
    {"shards", "pool", "continuation", "preferences"},
    {"units", "lesson"},
    {"api", "bench", "pack"},
    {"evaluate", "score", "complete", "tune", "instructions", "alignment"},
    {"inside", "sft", "dpo", "rewards"},
    {"compare", "rate", "policy"},
    {"plot"},
    {"export_onnx"},
    {"export"},
    {"web.limits", "web.errors", "web.code", "web.address"},
    {"web.work", "web.shelf", "web.graph", "web.panels", "web.guard"},
    {"web.jobs", "web.ratings", "web.worker", "web.protocol"},
    {"web.playground"},
    {"web.state"},
    {"web.api_models"},
    {"web.api_jobs", "web.api_inside", "web.api_preferences"},
    {"web.app"},
    {"web.serve"},
    {"cli.parser"},
    {"cli.output"},
    {"cli.settings"},
    {"cli.suggest"},
    {"cli.interactive", "cli.pack"},
    {
        "cli.train",
        "cli.sample",
        "cli.reproduce",
        "cli.bench",
        "cli.ngram",
        "cli.clean",
        "cli.eval",
        "cli.score",
        "cli.complete",
        "cli.fill",
        "cli.plot",
        "cli.tokenizer",
        "cli.serve",
    },
    {"cli.tuning"},
    {"cli.export"},
    {"cli.inspect", "cli.sft", "cli.dpo", "cli.rate", "cli.reward", "cli.ppo", "cli.compare"},
    {"cli"},
    {"__main__"},
]
PACKAGES = ("kamon", "kamon.engines", "kamon.web")
LEVEL = {module: level for level, modules in enumerate(LAYERS) for module in modules}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in ROOT.rglob("*.py")
    if path.parent != ROOT or path.name != "__init__.py"
}


def imports(path: Path, *, with_types: bool) -> set[str]:
    """The modules of Kamon that a file imports, at its top or later; type-only imports if asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if not with_types:
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
                node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("kamon.")}
        elif isinstance(node, ast.ImportFrom) and node.module in PACKAGES:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kamon."):
            found.add(node.module or "")
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"relative import in {path}"
    return {name.removeprefix("kamon.") for name in found} & set(MODULES)


def test_every_module_has_its_layer() -> None:
    assert set(LEVEL) == set(MODULES) - {"engines", "native", "web"}


@pytest.mark.parametrize("module", sorted(LEVEL))
def test_imports_run_one_way(module: str) -> None:
    for imported in imports(MODULES[module], with_types=False):
        assert LEVEL[imported] < LEVEL[module], f"{module} imports {imported}"


def test_no_engine_knows_the_corpus_the_tokenizer_or_another_engine() -> None:
    for module, path in MODULES.items():
        if module.startswith("engines."):
            assert imports(path, with_types=True) <= {"batch", "config", "engine", "ranks"}, module
    assert imports(MODULES["engines.scalar"], with_types=False) == set()
