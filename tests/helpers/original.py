"""The original microGPT, taken out of the text it was published in, to run it with other settings.

The text is not part of this project. It is looked for in ../shared (or $KAMON_SHARED); where it is
not, the recorded outputs in golden.json stand in for it.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("KAMON_SHARED", Path(__file__).parents[3] / "shared"))
TEXT = SHARED / "seed.txt"
TRACE = SHARED / "data" / "seed-trace.json"
NAMES = SHARED / "data" / "names.txt"


def why_not(*paths: Path) -> str:
    """The reason to skip a test that needs these files; empty if they are all there."""
    missing = [path for path in paths if not path.is_file()]
    return f"{missing[0].name} is not in ../shared or $KAMON_SHARED" if missing else ""


def program(text: str) -> str:
    """Of each notebook cell in `text` the lines that are Python: prose follows them."""
    cells = []
    for cell in re.split(r"^In \[\d+\]:\n", text, flags=re.MULTILINE)[1:]:
        lines = cell.splitlines(keepends=True)
        code = ("".join(lines[:n]) for n in range(len(lines), 0, -1))
        cells.append(next(part for part in code if parses(part)))
    return "\n".join(cells)


def parses(code: str) -> bool:
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return True


def with_settings(code: str, settings: dict[str, Any]) -> str:
    """The program with other hyper-parameters, and with each loss kept in LOSSES."""
    adam = ("learning_rate", "beta1", "beta2", "eps_adam")
    adam_defaults = (0.01, 0.85, 0.99, 1e-8)
    values = ", ".join(
        repr(settings.get(name, default)) for name, default in zip(adam, adam_defaults, strict=True)
    )
    code = replaced(code, "0.01, 0.85, 0.99, 1e-8", values)
    code = replaced(
        code, "    loss.backward()\n", "    LOSSES.append(loss.data); loss.backward()\n"
    )
    for name, value in settings.items():
        if name == "seed":
            code = replaced(code, "random.seed(42)", f"random.seed({value})")
        elif name == "std":
            code = replaced(code, "std=0.08", f"std={value}")
        elif name not in adam:
            code, count = re.subn(
                rf"^{name} = [\d.]+", f"{name} = {value}", code, flags=re.MULTILINE
            )
            assert count == 1, name
    return code


def replaced(code: str, old: str, new: str) -> str:
    assert code.count(old) == 1, old
    return code.replace(old, new)


def run(
    code: str, settings: dict[str, Any], names: list[str], folder: Path
) -> tuple[str, list[float]]:
    """What the program prints with `settings` on `names`, and its losses; works in `folder`."""
    (folder / "input.txt").write_text("\n".join(names), encoding="utf-8")
    scope: dict[str, Any] = {"LOSSES": []}
    out = io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out):
            exec(compile(with_settings(code, settings), "original", "exec"), scope)
    finally:
        os.chdir(before)
    return out.getvalue(), scope["LOSSES"]
