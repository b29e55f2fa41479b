"""Bring docs/ladder.md up to date with the programs in docs/ladder: their output and excerpts.

    python dev/make_ladder.py            # the table and the excerpts, in a second
    python dev/make_ladder.py --outputs  # also run the programs, in two minutes

A comment in the page says what the block after it shows: `<!-- code step1_counts.py count_pairs
-->` (a function), `<!-- output step1_counts.py -->` or `<!-- table -->`. test_ladder.py checks that
the page is what this script makes.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "ladder.md"
PROGRAMS = sorted((ROOT / "docs" / "ladder").glob("step*.py"))
NOT_CODE = (
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE),
    *(tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER),
)


def lines_of_code(program: Path) -> int:
    """Return the number of lines with code, not only comments or docstrings."""
    text = program.read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {n for t in tokens if t.type not in NOT_CODE for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            lines -= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return len(lines)


def function(program: Path, name: str) -> str:
    """Return the source of a function, without its docstring."""
    text = program.read_text(encoding="utf-8")
    (node,) = [n for n in ast.parse(text).body if getattr(n, "name", None) == name]
    assert isinstance(node, ast.FunctionDef)
    lines = text.splitlines(keepends=True)
    head = lines[node.lineno - 1 : node.body[0].lineno - 1]
    code = node.body[1 if ast.get_docstring(node) else 0]
    # Comments before the first statement belong to it.
    first = (node.body[0].end_lineno or 0) if ast.get_docstring(node) else code.lineno - 1
    return "".join([*head, *lines[first : node.end_lineno]])


def output(program: Path) -> str:
    command = [sys.executable, str(program)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def outputs_shown(page: str) -> dict[str, str]:
    """Return the output of each program, as the page shows it."""
    return dict(re.findall(r"^<!-- output (\S+) -->\n```\n(.*?)^```$", page, re.M | re.S))


def table(outputs: dict[str, str]) -> str:
    rows = ["| program | validation loss, nats per token | lines of code |\n|---|---|---|\n"]
    for program in PROGRAMS:
        loss = re.findall(r"validation loss ([\d.]+)", outputs[program.name])
        link = f"[`{program.name}`](ladder/{program.name})"
        rows.append(f"| {link} | {''.join(loss)} | {lines_of_code(program)} |\n")
    return "".join(rows)


def filled(page: str, outputs: dict[str, str]) -> str:
    """Return the page with every block up to date."""
    folder = PROGRAMS[0].parent
    page = re.sub(
        r"(^<!-- output (\S+) -->\n```\n).*?(^```$)",
        lambda found: found[1] + outputs[found[2]] + found[3],
        page,
        flags=re.M | re.S,
    )
    page = re.sub(
        r"(^<!-- code (\S+) (\S+) -->\n```py\n).*?(^```$)",
        lambda found: found[1] + function(folder / found[2], found[3]) + found[4],
        page,
        flags=re.M | re.S,
    )
    return re.sub(
        r"(^<!-- table -->\n)(\|.*?\n)*",
        lambda found: found[1] + table(outputs),
        page,
        flags=re.M,
    )


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    outputs = outputs_shown(page)
    if "--outputs" in sys.argv[1:]:
        outputs = {program.name: output(program) for program in PROGRAMS}
    PAGE.write_text(filled(page, outputs), encoding="utf-8")


if __name__ == "__main__":
    main()
