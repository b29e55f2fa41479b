"""Which files are looked through for tests, in tests and src."""

from __future__ import annotations

import re
from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Nothing is imported but for what is tested: torch, matplotlib and the server take seconds.

    Of the package, what has examples; of the tests, no file that needs an extra if none is wanted.
    """
    if collection_path.suffix != ".py":
        return None
    code = collection_path.read_text(encoding="utf-8")
    if not collection_path.name.startswith("test_"):
        return None if ">>>" in code else True
    extra = re.search(r"^pytestmark = \[?pytest\.mark\.extra\b", code, re.MULTILINE)
    return True if extra and "not extra" in config.option.markexpr else None
