"""Runs an exported file."""

from __future__ import annotations

from types import ModuleType


def run_as_module(content: bytes) -> ModuleType:
    """What `import` makes of the file."""
    module = ModuleType("exported")
    exec(compile(content, "exported.py", "exec"), module.__dict__)
    return module
