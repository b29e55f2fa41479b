"""Make docs/walkthrough.ipynb from docs/walkthrough.py: split it into cells and run them.

    python dev/make_walkthrough.py          # a minute, writes docs/walkthrough.ipynb
    python dev/make_walkthrough.py OUT      # writes to OUT

The source is in the percent format. A line `# %%` starts a code cell, and `# %% [markdown]` a
Markdown cell, whose lines are comments. `# %% closed` starts a code cell that Jupyter folds.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
SOURCE = DOCS / "walkthrough.py"
TARGET = DOCS / "walkthrough.ipynb"
SECONDS = 600  # for any one cell
CLOSED = {"jupyter": {"source_hidden": True}, "tags": ["hide-input"]}  # for Jupyter, and the site


@dataclass(frozen=True)
class Cell:
    """A cell of the notebook."""

    kind: str  # code, closed or markdown
    source: str  # as Jupyter shows it


def cells(text: str) -> list[Cell]:
    """Return the cells of a source. Text before the first cell is only for readers of the source.

    >>> cells("# %% [markdown]\\n# Two:\\n\\n# %%\\n1 + 1\\n")
    [Cell(kind='markdown', source='Two:'), Cell(kind='code', source='1 + 1')]
    """
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)[1:]
    found = []
    for mark, source in zip(parts[::2], parts[1::2], strict=True):
        kind = {"": "code", "closed": "closed", "[markdown]": "markdown"}[mark.strip()]
        source = source.strip("\n")
        if kind == "markdown":
            source = "\n".join(uncommented(line) for line in source.split("\n"))
        found.append(Cell(kind, source))
    return found


def uncommented(line: str) -> str:
    if line != "#" and not line.startswith("# "):
        raise ValueError(f"a Markdown cell has a line that is not a comment: {line!r}")
    return line[2:]


def notebook(text: str) -> Any:
    """Return the notebook of a source, before it is run."""
    v4: Any = import_module("nbformat.v4")  # has no types

    made = []
    for number, cell in enumerate(cells(text)):
        id = f"cell-{number:03}"  # the default is random, so every diff would be long
        if cell.kind == "markdown":
            made.append(v4.new_markdown_cell(cell.source, id=id))
        else:
            folded = CLOSED if cell.kind == "closed" else {}
            made.append(v4.new_code_cell(cell.source, id=id, metadata=folded))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return v4.new_notebook(
        cells=made, metadata={"kernelspec": kernel, "language_info": {"name": "python"}}
    )


def executed(text: str) -> Any:
    """Run the notebook of a source in a new kernel, in an empty folder, and return it."""
    from nbclient import NotebookClient

    made = notebook(text)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            made,
            timeout=SECONDS,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    made.metadata = notebook("").metadata  # not those of the Python that ran it
    return made


def main() -> None:
    nbformat: Any = import_module("nbformat")

    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    made = executed(SOURCE.read_text(encoding="utf-8"))
    nbformat.validate(made)
    target.write_text(nbformat.writes(made) + "\n", encoding="utf-8")
    print(f"{len(made.cells)} cells, {target.stat().st_size:,} bytes in {target}")


if __name__ == "__main__":
    main()
