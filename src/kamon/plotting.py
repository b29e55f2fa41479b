"""Plots of the results of `introspection` and `compare`: matplotlib Figures, as PNG or SVG.

Nothing here opens a window, needs a display or reads the user's matplotlibrc, so the same numbers
give the same bytes. The colours are those of Okabe and Ito, which colour-blind people can
distinguish. Lines also differ in style, and most have a label.
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
        "plots need matplotlib",
        'install it with pip install "kamon[plot]", or get the numbers with --json',
    ) from None

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg")
DPI = 150  # of PNG files
BLUE, ORANGE, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#007A5A", "#666666", "#BBBBBB"
# Installed ones are used, in this order, for characters that DejaVu Sans lacks.
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
    "svg.fonttype": "none",  # keeps text as text
    "svg.hashsalt": "kamon",  # gives an SVG the same ids each time
    "text.parse_math": False,  # shows a $ as it is
}


@contextmanager
def style() -> Iterator[None]:
    """Use matplotlib's defaults with our settings, and restore the user's settings at the end."""
    defaults = matplotlib.rcParamsDefault
    settings: dict[Any, Any] = {name: defaults[name] for name in defaults if "backend" not in name}
    family = {"font.family": [*fonts(), "sans-serif"], "font.sans-serif": ["DejaVu Sans"]}
    log = logging.getLogger("matplotlib.font_manager")  # warns about missing font weights
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with matplotlib.rc_context(settings | STYLE | family):
            yield
    finally:
        log.setLevel(level)


def render(figure: Figure, format: str = "png") -> bytes:
    """Return the figure as a file in one of FORMATS. The bytes are the same each time."""
    metadata = {"png": {"Software": None}, "svg": {"Date": None}}[format]
    file = io.BytesIO()
    with style():
        figure.savefig(file, format=format, dpi=DPI, metadata=metadata)
    return file.getvalue()


# ---- characters


def fonts() -> list[str]:
    """Return the names of the fonts to use, the preferred one first."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FONTS if name in installed)]


def glyph_finder() -> Callable[[str], bool]:
    """Return a function that checks whether one of our fonts has a character."""
    loaded = [font_manager.get_font(font_manager.findfont(name)) for name in fonts()]
    return lambda char: any(font.get_char_index(ord(char)) for font in loaded)


def visible(char: str, has_glyph: Callable[[str], bool]) -> str:
    """Return a character in visible form: ␣ for a space, ◌ before a mark, or its code point.

    >>> [visible(char, str.isascii) for char in "a \\n\\u0301é"]
    ['a', '␣', 'U+000A', 'U+0301', 'U+00E9']
    """
    if char == " ":
        return "␣"
    is_selector = "\ufe00" <= char <= "\ufe0f"  # it changes how the previous character looks
    if is_selector or not char.isprintable() or not has_glyph(char):
        return f"U+{ord(char):04X}"
    return f"◌{char}" if unicodedata.category(char)[0] == "M" else char


def shown(piece: str, has_glyph: Callable[[str], bool]) -> str:
    return "".join(visible(char, has_glyph) for char in piece)


# ---- losses


@style()
def draw_losses(losses: Losses) -> Figure:
    """Draw the losses of a run by step, and two levels to compare with: uniform and n-gram."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    margins(figure)
    last = losses.smooth[-1][0]
    each: dict[str, Any] = {"color": "#DDDDDD", "linewidth": 0.6, "label": "training, each step"}
    axes.plot(*split(losses.each), zorder=1, **each)
    label = "training" if losses.window == 1 else f"training, mean of {losses.window:,} steps"
    axes.plot(*split(losses.smooth), color=BLUE, linewidth=1.8, label=label, zorder=3)
    if losses.validation_losses:
        style: dict[str, Any] = {"color": ORANGE, "markersize": 4, "zorder": 4, "clip_on": False}
        axes.plot(*split(losses.validation_losses), "o--", label="validation, a part", **style)
    if losses.kept:
        step, loss = losses.kept
        label = f"validation, all, by the model kept: {loss:.3f}"
        if losses.gpt is not None:
            label += f" (GPT {losses.gpt:.3f})"
        axes.plot(step, loss, "D", color=ORANGE, markersize=7, zorder=5, clip_on=False, label=label)
    level(axes, losses.uniform, f"all tokens equally likely: {losses.uniform:.3f}")
    if losses.ngram is not None:
        name = f"best n-gram, n = {losses.ngram_order}: {losses.ngram:.3f}"
        beaten = losses.kept is not None and losses.kept[1] < losses.ngram
        level(axes, losses.ngram, name, below=not beaten)  # away from the curve
    shown = [y for points in (losses.smooth, losses.validation_losses) for _, y in points]
    shown += [losses.uniform, losses.ngram or losses.uniform]
    room = 0.08 * (max(shown) - min(shown)) or 0.1
    axes.set_ylim(min(shown) - room, max(shown) + room)
    axes.set_xlim(1, max(last, 2))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss, nats per token")
    legend_above(axes)
    return figure


def split(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def level(axes: Axes, y: float, name: str, *, below: bool = False) -> None:
    """Draw a horizontal line with its name above or below it."""
    axes.axhline(y, color=GREEN, linewidth=1, linestyle=":", zorder=2)
    style: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "color": GREEN, "zorder": 6}
    annotate(axes, name, (1, y), (-2, -3 if below else 3), **style)


def annotate(axes: Axes, text: str, point: Any, offset: tuple[int, int], **style: Any) -> None:
    """Write a text beside a point. offset: right and up, in 1/72 inch."""
    style["ha"] = "left" if offset[0] > 0 else "right"
    style["va"] = "bottom" if offset[1] > 0 else "top"
    axes.annotate(text, point, xytext=offset, textcoords="offset points", **style)


def margins(figure: Figure, wspace: float | None = None) -> None:
    """Set fixed margins. Measuring the labels would take as long as drawing them."""
    width, height = figure.get_size_inches()
    left, right, edge = 0.75 / width, 1 - 0.3 / width, 0.55 / height
    figure.subplots_adjust(left, edge, right, 1 - edge, wspace)


def legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)


# ---- embeddings


@style()
def draw_embeddings(embeddings: Embeddings) -> Figure:
    """Draw tokens as their characters, and positions as numbers on a path."""
    height = max(tallness(embeddings.tokens.points), tallness(embeddings.positions.points))
    figure = Figure(figsize=(12, 5.1 * height + 1.1))
    left, right = figure.subplots(1, 2)
    margins(figure, wspace=0.18)
    has_glyph = glyph_finder()
    named = set(embeddings.named)
    pieces = enumerate(embeddings.chars)
    names = [shown(piece, has_glyph) if i in named else "" for i, piece in pieces]
    title = f"tokens: wte, {len(names) + 1:,} of them"
    names.insert(embeddings.bos, "BOS")
    if len(named) < len(embeddings.chars):
        title += f" (names: the {len(named)} most common)"
    plane(left, embeddings.tokens, names, title)
    size = len(embeddings.positions.points)
    apart = -(-size // 32)  # with more numbers, they would overlap
    numbers = [f"{i}" if i % apart == 0 else "" for i in range(size)]
    right.plot(*split(embeddings.positions.points), color=PALE, linewidth=0.8, zorder=1)
    plane(right, embeddings.positions, numbers, f"positions: wpe, 0 to {size - 1:,}")
    return figure


def tallness(points: Sequence[tuple[float, float]]) -> float:
    """Return height / width of the box around the points, limited to ½ … 1."""
    width, height = (max(numbers) - min(numbers) for numbers in split(points))
    return min(max(height / width, 0.5), 1.0) if width else 1.0


def plane(axes: Axes, projection: Projection, names: Sequence[str], title: str) -> None:
    """Draw names (BOS in another colour), and dots for points without a name."""
    unnamed = [point for point, name in zip(projection.points, names, strict=True) if not name]
    axes.plot(*split(unnamed), color=PALE, marker=".", markersize=3, linestyle="none", zorder=1)
    axes.update_datalim(projection.points)
    for point, name in zip(projection.points, names, strict=True):
        if name:
            color, size = ORANGE if name == "BOS" else BLUE, 11 if len(name) <= 2 else 7
            axes.text(*point, name, color=color, fontsize=size, **MIDDLE)
    axes.margins(0.06)
    axes.set_aspect("equal", "datalim")
    axes.locator_params(nbins=7)
    axes.set_title(title)
    axes.set_xlabel(f"first principal component, {projection.shares[0]:.0%} of the variance")
    axes.set_ylabel(f"second principal component, {projection.shares[1]:.0%}")


# ---- attention


@style()
def draw_attention(attention: Attention) -> Figure:
    """Draw a square for each head, layer by layer, with a row for each token read.

    The colour shows the square root of the share, so that a share of a tenth is visible.
    """
    num_layers, num_heads = len(attention.weights), len(attention.weights[0])
    has_glyph = glyph_finder()
    names = ["BOS", *(shown(piece, has_glyph) for piece in attention.pieces)]
    size = len(names)
    turned = 90 if max(map(len, names[1:]), default=1) > 2 else 0
    side = min(max(0.25 * size, 1.6), 13 / num_heads, 40 / num_layers)  # of a square, in inches
    cell = 72 * side / size  # in points
    small = min(9.0, 0.8 * cell)
    longest = max(map(len, names))
    below = longest * small / 100 + 0.45 if turned else 0.55  # room for names and title
    width = num_heads * (side + 0.2) + 2.0
    height = num_layers * (side + 0.35) + below
    figure = Figure(figsize=(width, height))
    for layer, heads in enumerate(attention.weights):
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
def draw_lengths(lengths: Lengths) -> Figure:
    """Draw the lengths in the list as bars, and those of the samples as a step line."""
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    margins(figure)
    edges = [first - 0.5 for first in (*lengths.first, lengths.first[-1] + lengths.width)]
    shares = [[n / sum(counts) for n in counts] for counts in (lengths.listed, lengths.sampled)]
    label = f"the list, {sum(lengths.listed):,} documents"
    axes.stairs(shares[0], edges, fill=True, color="#BFD9EA", label=label)
    label = f"{lengths.num_samples:,} samples at temperature {lengths.temperature:g}"
    if lengths.unended:
        label += f", {lengths.unended:,} without an end"
    axes.stairs(shares[1], edges, color=ORANGE, linewidth=1.8, label=label)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1.1 * max(map(max, shares)))
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    name = "length, characters"
    if lengths.width > 1:
        name += f" ({lengths.width:,} lengths per bar)"
    if lengths.longest >= lengths.first[-1] + lengths.width:
        name += f", last bar up to {lengths.longest:,}"
    axes.set_xlabel(name)
    axes.set_ylabel("share of all")
    legend_above(axes)
    return figure


# ---- tuned models


@style()
def draw_frontier(comparison: Comparison, *, by_wins: bool) -> Figure:
    """Draw the rewards or win rates of fine-tuned models by their KL, with 95% intervals.

    A line connects the models that no other model dominates. Models with an infinite KL are left
    out.
    """
    figure = Figure(figsize=(8, 4.5))
    axes = figure.subplots()
    margins(figure)
    pairs = zip(comparison.all, frontier_points(comparison, by_wins), strict=True)
    shown = [pair for pair in pairs if math.isfinite(pair[0].kl)]
    points = [(model.kl, y) for model, (y, _, _) in shown]
    best = sorted(mark for mark, free in zip(points, pareto_front(points), strict=True) if free)
    line: dict[str, Any] = {"color": PALE, "linewidth": 1.2, "linestyle": "--", "zorder": 1}
    axes.plot(*split(best), label="best at their KL", **line)
    label = f"{comparison.n:,} samples of each, 95% intervals"
    style: dict[str, Any] = {"markersize": 6, "elinewidth": 1, "zorder": 3}
    for i, (model, (y, low, high)) in enumerate(shown):
        style |= {"fmt": "o" if i else "D", "color": BLUE if i else GREY}
        style["label"] = label if i == 1 else None
        yerr = [[y - low], [high - y]]
        axes.errorbar(model.kl, y, yerr=yerr, xerr=1.96 * model.kl_error, **style)
    axes.margins(x=0.12, y=0.12)
    name_points(axes, points, [model.name for model, _ in shown])
    if by_wins:
        axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_xlabel("KL to the base, nats per document")
    axes.set_ylabel("win rate over the base" if by_wins else "mean reward")
    legend_above(axes)
    return figure


def name_points(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str]) -> None:
    """Write each name at the corner of its point that covers the fewest names and points."""
    axes.autoscale_view()
    has_glyph = glyph_finder()
    figure = axes.get_figure(root=True)
    assert figure
    scale = 72 / figure.dpi
    places = [tuple(scale * float(x) for x in axes.transData.transform(p)) for p in points]
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in places]  # left, low, right, high, in 1/72"
    for (x, y), point, name in zip(places, points, names, strict=True):
        text = shown(name, has_glyph)
        width, height = 6.5 * len(text), 12.0  # estimated
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
        annotate(axes, text, point, (7 if right else -7, 5 if above else -5), zorder=4)


DRAW: dict[str, Callable[[Any], Figure]] = {
    "loss": draw_losses,
    "embeddings": draw_embeddings,
    "attention": draw_attention,
    "lengths": draw_lengths,
}
