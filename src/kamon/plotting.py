"""Pictures of what `introspection` and `compare` find: matplotlib Figures, as PNG or SVG.

Nothing here opens a window, asks for a display or reads the user's matplotlibrc: the same numbers
make the same bytes. Colours are Okabe and Ito's, which colour-blind people tell apart, and none
says anything alone: lines differ in style too and have their names beside them.
"""

from __future__ import annotations

import io
import logging
import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kamon.errors import ConfigError
from kamon.evaluation.introspection import Attention, Embeddings, Lengths, Losses, Projection
from kamon.finetuning.compare import Comparison, frontier_points, pareto_front

try:
    import matplotlib
    from matplotlib import font_manager
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError:
    raise ConfigError(
        'pictures need matplotlib: install it with pip install "kamon[plot]", '
        "or have the numbers with --json"
    ) from None

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
DPI = 150  # of a PNG
BLUE, ORANGE, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#007A5A", "#666666", "#BBBBBB"
# Asked in this order for what matplotlib's own font lacks: those of them that are installed.
FONTS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Hiragino Sans", "PingFang SC", "Microsoft YaHei"),
    *("Yu Gothic", "Malgun Gothic", "WenQuanYi Zen Hei", "Noto Sans", "Arial Unicode MS"),
)
MIDDLE: dict[str, Any] = {"ha": "center", "va": "center", "clip_on": True}
STYLE: dict[str, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": "#333333",
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": "#333333",
    "ytick.labelcolor": "#333333",
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kamon",  # names inside an SVG are hashes: the same each time
    "text.parse_math": False,  # a $ is a $
}


@contextmanager
def style() -> Iterator[None]:
    """Our settings on matplotlib's defaults, whatever the user's are; theirs come back after it.

    What matplotlib logs about the weights that a font lacks is kept from stderr.
    """
    settings: dict[Any, Any] = {
        name: value for name, value in matplotlib.rcParamsDefault.items() if "backend" not in name
    }
    family = {"font.family": [*fonts(), "sans-serif"], "font.sans-serif": ["DejaVu Sans"]}
    log = logging.getLogger("matplotlib.font_manager")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context(settings | STYLE | family):
            yield
    finally:
        log.setLevel(level)


def render(figure: Figure, format: str = "png") -> bytes:
    """The figure as a file of one of FORMATS: the same bytes each time."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None}}[format]
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=format, dpi=DPI, metadata=metadata)
    return file.getvalue()


# ---- characters


def fonts() -> list[str]:
    """The names of those that are asked, one after the other, for each character."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FONTS if name in installed)]


def glyph_finder() -> Callable[[str], bool]:
    """Whether one of our fonts can draw a character."""
    paths = [font_manager.findfont(name) for name in fonts()]
    loaded = [font_manager.get_font(path) for path in paths]
    return lambda char: any(font.get_char_index(ord(char)) for font in loaded)


def visible(char: str, has_glyph: Callable[[str], bool]) -> str:
    """A character as it can be seen alone: itself, ␣ for a space, ◌ before a mark, or its number.

    >>> [visible(char, str.isascii) for char in "a \\n\\u0301é"]
    ['a', '␣', 'U+000A', 'U+0301', 'U+00E9']
    """
    if char == " ":
        return "␣"
    selects = "\ufe00" <= char <= "\ufe0f"  # how the character before it looks; it looks like none
    if selects or not char.isprintable() or not has_glyph(char):
        return f"U+{ord(char):04X}"
    return f"◌{char}" if unicodedata.category(char)[0] == "M" else char


def shown(piece: str, has_glyph: Callable[[str], bool]) -> str:
    """The characters of a token as they can be seen."""
    return "".join(visible(char, has_glyph) for char in piece)


# ---- losses


@style()
def draw_losses(found: Losses) -> Figure:
    """The losses of a training by step, between what no learning and what counting gives."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    margins(figure)
    last = found.smooth[-1][0]
    axes.plot(
        *split(found.each), color="#DDDDDD", linewidth=0.6, zorder=1, label="training, each step"
    )
    label = "training" if found.window == 1 else f"training, mean of {found.window:,} steps"
    axes.plot(*split(found.smooth), color=BLUE, linewidth=1.8, label=label, zorder=3)
    if found.validation_losses:
        tested = "held out, a part"
        style: dict[str, Any] = {"color": ORANGE, "markersize": 4, "zorder": 4, "clip_on": False}
        axes.plot(*split(found.validation_losses), "o--", label=tested, **style)
    if found.kept:
        step, loss = found.kept
        label = f"held out, all, by the model kept: {loss:.3f}"
        axes.plot(step, loss, "D", color=ORANGE, markersize=7, zorder=5, clip_on=False, label=label)
    level(axes, found.uniform, f"all tokens equally likely: {found.uniform:.3f}")
    if found.ngram is not None:
        name = f"best n-gram, n = {found.ngram_order}: {found.ngram:.3f}"
        level(axes, found.ngram, name, below=True)  # most models end above it
    shown = [y for points in (found.smooth, found.validation_losses) for _, y in points]
    shown += [found.uniform, found.ngram or found.uniform]
    room = 0.08 * (max(shown) - min(shown)) or 0.1
    axes.set_ylim(min(shown) - room, max(shown) + room)
    axes.set_xlim(1, max(last, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats a token")
    legend_above(axes)
    return figure


def split(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def level(axes: Axes, y: float, name: str, *, below: bool = False) -> None:
    """A horizontal line with its name above it, or below."""
    axes.axhline(y, color=GREEN, linewidth=1, linestyle=":", zorder=2)
    axes.annotate(
        name,
        (1, y),
        xycoords=("axes fraction", "data"),
        xytext=(-2, -3 if below else 3),
        textcoords="offset points",
        ha="right",
        va="top" if below else "bottom",
        color=GREEN,
        zorder=6,
    )


def margins(figure: Figure, wspace: float | None = None) -> None:
    """Inches for what stands around the axes; to measure it would take as long as to draw it."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        *(0.75 / width, 0.55 / height, 1 - 0.3 / width, 1 - 0.55 / height), wspace
    )


def legend_above(axes: Axes) -> None:
    """Where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


# ---- embeddings


@style()
def draw_embeddings(found: Embeddings) -> Figure:
    """Tokens as the characters they stand for, positions as numbers on a path."""
    height = max(tallness(found.tokens.points), tallness(found.positions.points))
    figure = Figure(figsize=(12, 5.1 * height + 1.1))
    left, right = figure.subplots(1, 2)
    margins(figure, wspace=0.18)
    has_glyph = glyph_finder()
    named = set(found.named)
    names = [
        shown(piece, has_glyph) if place in named else "" for place, piece in enumerate(found.chars)
    ]
    title = f"tokens: wte, {len(names) + 1:,} of them"
    names.insert(found.bos, "BOS")
    if len(named) < len(found.chars):
        title += f"; the {len(named)} most common are named"
    plane(left, found.tokens, names, title)
    size = len(found.positions.points)
    apart = -(-size // 32)  # more numbers would cover each other
    numbers = [f"{i}" if i % apart == 0 else "" for i in range(size)]
    right.plot(*split(found.positions.points), color=PALE, linewidth=0.8, zorder=1)
    plane(right, found.positions, numbers, f"positions: wpe, 0 to {size - 1:,}")
    return figure


def tallness(points: Sequence[tuple[float, float]]) -> float:
    """How tall a box is that holds the points, as a part of its width: from ½ to 1."""
    width, height = (max(numbers) - min(numbers) for numbers in split(points))
    return min(max(height / width, 0.5), 1.0) if width else 1.0


def plane(axes: Axes, found: Projection, names: Sequence[str], title: str) -> None:
    """A point where there is no name; BOS is no character, so it stands out."""
    unnamed = [point for point, name in zip(found.points, names, strict=True) if not name]
    axes.plot(*split(unnamed), color=PALE, marker=".", markersize=3, linestyle="none", zorder=1)
    axes.update_datalim(found.points)
    for point, name in zip(found.points, names, strict=True):
        if name:
            axes.text(
                *point,
                name,
                color=ORANGE if name == "BOS" else BLUE,
                fontsize=11 if len(name) <= 2 else 7,
                **MIDDLE,
            )
    axes.margins(0.06)
    axes.set_aspect("equal", "datalim")
    axes.locator_params(nbins=7)
    axes.set_title(title)
    axes.set_xlabel(f"first principal component, {found.shares[0]:.0%} of the variance")
    axes.set_ylabel(f"second principal component, {found.shares[1]:.0%}")


# ---- attention


@style()
def draw_attention(found: Attention) -> Figure:
    """A square for each head, layer by layer: a row for each character read.

    The depth of the colour grows with the root of the share, so that a share of a tenth is seen.
    """
    num_layers, num_heads = len(found.weights), len(found.weights[0])
    has_glyph = glyph_finder()
    names = ["BOS", *(shown(piece, has_glyph) for piece in found.pieces)]
    size = len(names)
    turned = 90 if max(map(len, names[1:]), default=1) > 2 else 0
    side = min(max(0.25 * size, 1.6), 13 / num_heads, 40 / num_layers)  # inches of a square
    cell = 72 * side / size  # points
    small = min(9.0, 0.8 * cell)
    longest = max(map(len, names))
    below = longest * small / 100 + 0.45 if turned else 0.55  # inches for names and their title
    width = num_heads * (side + 0.2) + 2.0
    height = num_layers * (side + 0.35) + below
    figure = Figure(figsize=(width, height))
    for layer, heads in enumerate(found.weights):
        y = below + (num_layers - 1 - layer) * (side + 0.35)
        for head, weights in enumerate(heads):
            x = 0.9 + head * (side + 0.2)
            axes = figure.add_axes((x / width, y / height, side / width, side / height))
            seen = [row[: t + 1] + [math.nan] * (size - t - 1) for t, row in enumerate(weights)]
            image = axes.imshow(seen, norm=PowerNorm(0.5, 0, 1), cmap="Blues")
            if cell >= 14:
                for t, row in enumerate(weights):
                    for s, share in enumerate(row[: t + 1]):
                        color = "white" if share > 0.3 else "black"
                        axes.text(s, t, f"{100 * share:.0f}", color=color, fontsize=6.5, **MIDDLE)
            axes.set_title(f"layer {layer}, head {head}")
            axes.set(xticks=[], yticks=[])
            axes.tick_params(length=0, pad=2)
            axes.spines[:].set_visible(False)
            if head == 0:
                axes.set_yticks(range(size), names, fontsize=small)
                axes.set_ylabel("reads")
            if layer == num_layers - 1:
                axes.set_xticks(range(size), names, fontsize=small, rotation=turned)
                axes.set_xlabel("looks at")
    beside = (1 - 0.85 / width, (height - 0.35 - side) / height, 0.1 / width, side / height)
    bar = figure.colorbar(image, figure.add_axes(beside), label="share of its attention")
    bar.set_ticks([0, 0.05, 0.2, 0.5, 1], labels=["0%", "5%", "20%", "50%", "100%"])
    bar.outline.set_visible(False)
    return figure


# ---- lengths


@style()
def draw_lengths(found: Lengths) -> Figure:
    """The shares of the list as bars, those of the samples as a line of steps over them."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    margins(figure)
    edges = [first - 0.5 for first in (*found.first, found.first[-1] + found.width)]
    shares = [[n / sum(counts) for n in counts] for counts in (found.listed, found.sampled)]
    num_listed = sum(found.listed)
    axes.stairs(
        shares[0], edges, fill=True, color="#BFD9EA", label=f"the list, {num_listed:,} documents"
    )
    label = f"{found.num_samples:,} samples at temperature {found.temperature:g}"
    if found.unended:
        label += f", {found.unended:,} without an end"
    axes.stairs(shares[1], edges, color=ORANGE, linewidth=1.8, label=label)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.1 * max(map(max, shares)))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name = "length, characters"
    if found.width > 1:
        name += f"; {found.width:,} lengths in one"
    if found.longest >= found.first[-1] + found.width:
        name += f", in the last all up to {found.longest:,}"
    axes.set_xlabel(name)
    axes.set_ylabel("share of all")
    legend_above(axes)
    return figure


# ---- tuned models


@style()
def draw_frontier(found: Comparison, *, by_wins: bool) -> Figure:
    """What tuned models reached at which distance from their base, with 95% intervals; a line leads
    through those that none beats. One at an infinite distance is left out."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    margins(figure)
    pairs = zip(found.all, frontier_points(found, by_wins), strict=True)
    shown = [pair for pair in pairs if math.isfinite(pair[0].kl)]
    points = [(each.kl, y) for each, (y, _, _) in shown]
    best = sorted(mark for mark, free in zip(points, pareto_front(points), strict=True) if free)
    line: dict[str, Any] = {"color": PALE, "linewidth": 1.2, "linestyle": "--", "zorder": 1}
    axes.plot(*split(best), label="none is as good at less KL", **line)
    label = f"{found.n:,} samples of each, 95% intervals"
    for place, (each, (y, low, high)) in enumerate(shown):
        axes.errorbar(
            *(each.kl, y),
            yerr=[[y - low], [high - y]],
            xerr=1.96 * each.kl_error,
            fmt="D" if place == 0 else "o",
            color=GREY if place == 0 else BLUE,
            label=label if place == 1 else None,
            markersize=6,
            elinewidth=1,
            zorder=3,
        )
    axes.margins(x=0.12, y=0.12)
    name_points(axes, points, [each.name for each, _ in shown])
    if by_wins:
        axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("KL to the base, nats a document")
    axes.set_ylabel("win rate over the base" if by_wins else "mean reward")
    legend_above(axes)
    return figure


def name_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Each name at a corner of its point where it covers no other name and no point, if it can."""
    axes.autoscale_view()
    has_glyph = glyph_finder()
    figure = axes.get_figure(root=True)
    assert figure
    scale = 72 / figure.dpi
    places = [tuple(scale * float(x) for x in axes.transData.transform(p)) for p in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]  # left, low, right, high, in 1/72"
    for (x, y), point, name in zip(places, points, names, strict=True):
        text = shown(name, has_glyph)
        width, height = 6.5 * len(text), 12.0  # about
        boxes: list[Any] = []
        for right, above in ((True, True), (False, True), (True, False), (False, False)):
            left = x + 7 if right else x - 7 - width
            low = y + 5 if above else y - 5 - height
            box = (left, low, left + width, low + height)
            covered = sum(
                box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken
            )
            boxes.append((covered, len(boxes), right, above, box))
        _, _, right, above, box = min(boxes)
        taken.append(box)
        axes.annotate(
            text,
            point,
            xytext=(7 if right else -7, 5 if above else -5),
            textcoords="offset points",
            ha="left" if right else "right",
            va="bottom" if above else "top",
            zorder=4,
        )
