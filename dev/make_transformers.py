"""Draw the picture of docs/transformers.md, and put the output of its programs into the page.

    python dev/make_transformers.py            # the picture, in a second
    python dev/make_transformers.py --outputs  # also run the programs, in three minutes

`<!-- output answer.py nicknames -->` in the page says what the block after it shows.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "transformers"
PAGE = ROOT / "docs" / "transformers.md"
PICTURE = FOLDER / "masks.svg"
BLOCK = re.compile(r"(^<!-- output ([^\n]+) -->\n```\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, INK, NONE = "#FFFFFF", "#222222", "#D9DDE3"
OWN, ACROSS = "#0072B2", "#D55E00"
KEY = [(0.07, OWN, "own stack"), (0.37, ACROSS, "the encoder"), (0.71, NONE, "hidden")]
MIDDLE: dict[str, Any] = {"ha": "center", "va": "center", "color": INK, "fontsize": 11}


def output(command: str) -> str:
    program, *argv = command.split()
    words = [sys.executable, str(FOLDER / program), *argv]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def outputs_shown(page: str) -> dict[str, str]:
    """Return the output of each command, as the page shows it."""
    return {command: shown for _, command, shown, _ in BLOCK.findall(page)}


def picture() -> bytes:
    """Return the four masks of masks.py, two by two, on white, which is legible on any page."""
    from matplotlib.figure import Figure

    from kamon import plotting

    sys.path.insert(0, str(FOLDER))
    from masks import panels  # type: ignore[import-not-found]

    with plotting.style():
        figure = Figure(figsize=(4.6, 5.3), facecolor=PAPER)
        axes = figure.subplots(2, 2)
        for axis, panel in zip(axes.flat, panels(), strict=True):
            draw(axis, *panel)
        figure.subplots_adjust(0.07, 0.09, 0.98, 0.88, wspace=0.2, hspace=0.42)
        for x, colour, label in KEY:
            figure.text(x, 0.025, "■", color=colour, fontsize=10)
            figure.text(x + 0.045, 0.025, label, color=INK, fontsize=10)
    return plotting.render(figure, "svg")


def draw(axis: Axes, title: str, mask: list[list[bool]], rows: str, columns: str) -> None:
    from matplotlib.patches import Rectangle

    encoder = len(columns) - len(rows)  # columns of another stack
    for y, sees in enumerate(mask):
        for x, seen in enumerate(sees):
            gap = 0.35 if encoder and x >= encoder else 0
            colour = NONE if not seen else ACROSS if encoder and x < encoder else OWN
            axis.add_patch(Rectangle((x + gap + 0.05, y + 0.05), 0.9, 0.9, color=colour, lw=0))
    for y, char in enumerate(rows):
        axis.text(-0.55, y + 0.5, char, **MIDDLE)
    for x, char in enumerate(columns):
        gap = 0.35 if encoder and x >= encoder else 0
        axis.text(x + gap + 0.5, -0.55, char, **MIDDLE)
    axis.set_title(title, fontsize=12, color=INK, pad=16, fontweight="bold")
    axis.set_xlim(-1, 9.4)
    axis.set_ylim(8.1, -0.9)
    axis.set_aspect("equal")
    axis.axis("off")


def main() -> None:
    PICTURE.write_bytes(picture())
    page = PAGE.read_text(encoding="utf-8")
    if "--outputs" in sys.argv[1:]:
        page = BLOCK.sub(lambda found: found[1] + output(found[2]) + found[4], page)
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
