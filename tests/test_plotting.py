"""The pictures: that they show the numbers, in files that are the same each time, for any text."""

from __future__ import annotations

import random
import re
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from conftest import TINY_FLAGS, Result
from helpers.lists import DOCS
from helpers.pictures import texts
from kamon import Model, load, plotting, train
from kamon.cli.plot import FORMATS, KINDS
from kamon.evaluation import introspection
from kamon.evaluation.introspection import Attention, Embeddings, Lengths, Projection
from kamon.storage import model_dir

pytestmark = pytest.mark.extra

Kamon = Callable[..., Result]
ODD = (
    "a \t\x07$_\\%^{}<&\"'\u0301\u05d0\u0645\u0941\u200d\ufe0f\u00a0\U0001f600中가\ue000\U0010ffff"
)


SHAPE: dict[str, Any] = {"n_layer": 2, "n_embd": 6, "n_head": 3, "block_size": 6}


@pytest.fixture(scope="module")
def model() -> Model:
    return train(DOCS, size="medium", num_steps=60, blend=False, **SHAPE)


@pytest.fixture
def folder(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the directory `m` of the current one."""
    monkeypatch.chdir(tmp_path)
    model.save("m")
    return tmp_path


# ---- what is drawn


def test_the_losses_are_drawn(model: Model) -> None:
    found = introspection.losses(model)
    figure = plotting.draw_losses(found)
    (axes,) = figure.axes
    lines = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    for points in (found.each, found.smooth, found.validation_losses):
        assert points in lines
    assert {line.get_ydata()[0] for line in axes.lines} >= {found.uniform, found.ngram}
    shown = texts(figure)
    assert found.ngram is not None
    assert found.kept is not None
    for text in (
        "step",
        "loss, nats per token",
        "training, mean of 3 steps",
        f"all tokens equally likely: {found.uniform:.3f}",
        f"best n-gram, n = {found.ngram_order}: {found.ngram:.3f}",
        f"validation, all, by the model kept: {found.kept[1]:.3f}",
    ):
        assert text in shown
    low, high = axes.get_ylim()
    assert low < found.ngram < found.uniform < high


def test_the_losses_of_a_blend_are_drawn() -> None:
    found = introspection.losses(train(DOCS, num_steps=60, **SHAPE))
    assert found.kept
    assert found.gpt
    figure = plotting.draw_losses(found)
    (axes,) = figure.axes
    points = [list(zip(*line.get_data(), strict=True)) for line in axes.lines]
    assert [found.kept] in points
    shown = texts(figure)
    label = f"validation, all, by the model kept: {found.kept[1]:.3f} (GPT {found.gpt:.3f})"
    assert label in shown
    assert f"best n-gram, n = {found.ngram_order}: {found.ngram:.3f}" in shown
    low, high = axes.get_ylim()
    assert low < found.kept[1] < high


def test_losses_without_documents_held_out(model: Model) -> None:
    found = replace(
        introspection.losses(model), validation_losses=[], kept=None, ngram=None, ngram_order=None
    )
    shown = " ".join(texts(plotting.draw_losses(found)))
    assert "validation" not in shown
    assert "n-gram" not in shown
    one = replace(found, smooth=[(1, found.uniform)], each=[(1, found.uniform)])
    assert texts(plotting.draw_losses(one))


def test_the_embeddings_are_drawn(model: Model) -> None:
    found = introspection.embeddings(model)
    figure = plotting.draw_embeddings(found)
    left, right = figure.axes
    drawn = {text.get_text(): text.get_position() for text in left.texts}
    assert drawn == dict(zip([*found.chars, "BOS"], found.tokens.points, strict=True))
    drawn = {text.get_text(): text.get_position() for text in right.texts}
    assert drawn == {str(i): point for i, point in enumerate(found.positions.points)}
    for axes in (left, right):
        (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
        for x, y in (text.get_position() for text in axes.texts):
            assert x0 < x < x1
            assert y0 < y < y1
    share = f"{found.tokens.shares[0]:.0%}"
    assert f"first principal component, {share} of the variance" in texts(figure)


def test_of_5000_characters_100_are_named() -> None:
    rng = random.Random(1)
    points = [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(5001)]
    chars = [chr(0x4E00 + i) for i in range(5000)]
    tokens, positions = Projection(points, (0.5, 0.2)), Projection(points[:256], (0.5, 0.2))
    figure = plotting.draw_embeddings(
        Embeddings(chars, tokens, positions, list(range(7, 107)), len(chars))
    )
    left, right = figure.axes
    assert len(left.texts) == 101
    assert len(left.lines[0].get_xdata()) == 4900
    assert [text.get_text() for text in right.texts] == [str(i) for i in range(0, 256, 8)]
    assert "tokens: wte, 5,001 of them (names: the 100 most common)" in texts(figure)


def test_the_attention_is_drawn(model: Model) -> None:
    found = introspection.attention(model, "lanna")
    figure = plotting.draw_attention(found)
    *squares, _bar = figure.axes
    assert len(squares) == 6
    for i, axes in enumerate(squares):
        weights = found.weights[i // 3][i % 3]
        assert axes.get_title(loc="left") == f"layer {i // 3}, head {i % 3}"
        for t, row in enumerate(axes.images[0].get_array()):
            assert row[: t + 1].tolist() == weights[t][: t + 1]
            assert row[t + 1 :].mask.all()
    assert texts(figure).count(f"{100 * found.weights[0][0][1][0]:.0f}") >= 1
    named = [label.get_text() for label in squares[0].get_yticklabels()]
    assert named == ["BOS", *"lanna"]
    assert [label.get_text() for label in squares[3].get_xticklabels()] == named


@pytest.mark.parametrize(("num_layers", "num_heads", "size"), [(1, 1, 1), (4, 7, 3), (1, 2, 90)])
def test_attention_of_any_shape(num_layers: int, num_heads: int, size: int) -> None:
    rows = [[1 / (t + 1)] * (t + 1) + [0.0] * (size - t - 1) for t in range(size)]
    figure = plotting.draw_attention(
        Attention("x" * (size - 1), ["x"] * (size - 1), [[rows] * num_heads] * num_layers)
    )
    assert max(figure.get_size_inches()) < 50
    assert plotting.render(figure)


def test_the_lengths_are_drawn(model: Model) -> None:
    found = introspection.lengths(model, 200)
    figure = plotting.draw_lengths(found)
    listed, sampled = (patch.get_data() for patch in figure.axes[0].patches)
    assert listed.values.tolist() == [n / len(DOCS) for n in found.listed]
    assert sampled.values.tolist() == [n / 200 for n in found.sampled]
    assert listed.edges.tolist() == [*(n - 0.5 for n in found.first), found.first[-1] + 0.5]
    shown = texts(figure)
    assert f"200 samples at temperature 1, {found.unended} without an end" in shown
    assert f"the list, {len(DOCS)} documents" in shown
    assert "length, characters" in shown


def test_wide_bins_are_explained() -> None:
    found = Lengths([0, 3, 6], 3, 90, [1, 2, 3], [0, 1, 0], 0, 1, 1.0, 42)
    assert "length, characters (3 lengths per bar), last bar up to 90" in texts(
        plotting.draw_lengths(found)
    )


# ---- characters


def test_odd_characters() -> None:
    """Each is shown, and nothing is said about missing glyphs: here, a warning is an error."""
    points = [(float(i), float(-i * i)) for i in range(len(ODD) + 1)]
    plane = Projection(points, (0.5, 0.2))
    figure = plotting.draw_embeddings(
        Embeddings(list(ODD), plane, plane, list(range(len(ODD))), len(ODD))
    )
    shown = texts(figure)
    for text in ("a", "␣", "U+0009", "U+0007", "$", "_", "\\", "◌\u0301", "\u05d0", "U+FE0F"):
        assert text in shown
    for text in ("U+200D", "U+00A0", "U+E000", "U+10FFFF", "<", "&"):
        assert text in shown
    assert plotting.render(figure, "png")
    row = [1.0] + [0.0] * len(ODD)
    assert plotting.render(plotting.draw_attention(Attention(ODD, list(ODD), [[[row] * len(row)]])))


def test_a_character_is_itself_where_a_font_has_it() -> None:
    assert plotting.visible("中", lambda _: True) == "中"
    assert plotting.visible("中", lambda _: False) == "U+4E2D"
    with plotting.style():
        has_glyph = plotting.glyph_finder()
        assert has_glyph("a")
        assert not has_glyph("\U0010fffe")
    assert unicodedata.category("\u0941") == "Mn"
    assert plotting.visible("\u0941", lambda _: True) == "◌\u0941"


@pytest.mark.parametrize("char", ["\u1d81", "\u23b0"])
def test_another_font_is_asked(char: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """matplotlib brings a second font, which has these and is taken only where it is named."""
    rows = [[1.0, 0.0], [0.5, 0.5]]
    attention = Attention(char, [char], [[rows]])
    monkeypatch.setattr(plotting, "FONTS", ())
    assert f"U+{ord(char):04X}" in texts(plotting.draw_attention(attention))
    monkeypatch.setattr(plotting, "FONTS", ("No Such Font", "STIXSizeOneSym", "STIXGeneral"))
    figure = plotting.draw_attention(attention)
    assert char in texts(figure)
    assert plotting.render(figure, "png")


# ---- files


def test_the_same_model_gives_the_same_files(model: Model) -> None:
    """Also where someone has set matplotlib to something else, which they keep."""
    found = introspection.embeddings(model), introspection.lengths(model, 50)

    def pictures() -> list[bytes]:
        figures = [plotting.draw_embeddings(found[0]), plotting.draw_lengths(found[1])]
        return [plotting.render(figure, format) for figure in figures for format in FORMATS]

    before = pictures()
    with matplotlib.rc_context({"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red"}):
        assert pictures() == before
        assert matplotlib.rcParams["font.size"] == 30
    assert [content[:5] for content in before] == [b"\x89PNG\r", b"<?xml"] * 2
    for content in before[1::2]:
        assert b"<dc:date>" not in content
        assert b"<text" in content


@pytest.mark.usefixtures("folder")
def test_no_display_and_no_pyplot(kamon: Kamon) -> None:
    assert kamon("plot", "m").code == 0
    assert "matplotlib.pyplot" not in sys.modules


# ---- the verb


@pytest.mark.usefixtures("folder")
def test_plot(kamon: Kamon) -> None:
    before = {path: path.read_bytes() for path in Path("m").rglob("*") if path.is_file()}
    done = kamon("plot", "m")
    assert (done.code, done.err) == (0, "")
    assert done.out.splitlines() == [f"m-plots/{kind}.png" for kind in KINDS]
    assert sorted(path.name for path in Path("m-plots").iterdir()) == sorted(
        f"{kind}.png" for kind in KINDS
    )
    assert before == {path: path.read_bytes() for path in Path("m").rglob("*") if path.is_file()}
    model = load("m")
    expected = plotting.render(plotting.draw_attention(introspection.attention(model)))
    assert Path("m-plots/attention.png").read_bytes() == expected
    model_dir.load("m")


def test_where_pictures_go(folder: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    done = kamon("plot", "m", "-o", "deep/er", "--kind=lengths", "--kind=attention", "--format=svg")
    assert done.out.splitlines() == ["deep/er/attention.svg", "deep/er/lengths.svg"]
    assert kamon("plot", "m", "-o", "a.SVG", "--kind", "lengths").out == "a.SVG\n"
    assert Path("a.SVG").read_bytes() == Path("deep/er/lengths.svg").read_bytes()
    monkeypatch.chdir("m")
    done = kamon("plot", ".", "--kind", "lengths")
    assert done.out == f"{folder}/m-plots/lengths.png\n"


@pytest.mark.usefixtures("folder")
def test_nothing_is_overwritten_unasked(kamon: Kamon) -> None:
    Path("m-plots").mkdir()
    Path("m-plots/lengths.png").write_text("mine")
    done = kamon("plot", "m")
    assert (done.code, done.out) == (1, "")
    assert (
        "m-plots/lengths.png already exists\nhint: choose another name with -o, or add --overwrite"
        in done.err
    )
    assert [path.read_text() for path in Path("m-plots").iterdir()] == ["mine"]
    assert kamon("plot", "m", "--overwrite").code == 0
    assert Path("m-plots/lengths.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("folder")
def test_the_text_decides_what_is_attended_to(kamon: Kamon) -> None:
    found = kamon("plot", "m", "--kind", "attention", "--text", "bola", "--json").json
    assert list(found) == ["directory", "attention"]
    expected = introspection.attention_weights(load("m"), "bola")
    assert found["attention"] == {"text": "bola", "pieces": list("bola"), "weights": expected}
    argv = ["plot", "m", "--kind=attention", "-o"]
    for text in ("bola", "bolo"):
        assert kamon(*argv, f"{text}.svg", "--text", text).code == 0
    assert Path("bola.svg").read_bytes() != Path("bolo.svg").read_bytes()


@pytest.mark.usefixtures("folder")
def test_json(kamon: Kamon) -> None:
    found = kamon("plot", "m", "--json").json
    assert [path.name for path in Path().iterdir()] == ["m"]
    model = load("m")
    expected = {
        "loss": asdict(introspection.losses(model)),
        "embeddings": asdict(introspection.embeddings(model)),
        "attention": asdict(introspection.attention(model)),
        "lengths": asdict(introspection.lengths(model)),
    }
    listed = {kind: tuples_as_lists(content) for kind, content in expected.items()}
    assert found == {"directory": "m", **listed}


def tuples_as_lists(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: tuples_as_lists(each) for key, each in content.items()}
    return [tuples_as_lists(x) for x in content] if isinstance(content, tuple | list) else content


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["m", "--text", ""], 2, "the text is empty"),
        (["m", "--text", "xyz"], 1, "character 'x'"),
        (["m", "--text", "bolabola"], 2, "the text has 8 characters, and block_size 6 allows 5"),
        (["m", "--text", "bo", "--kind", "loss"], 2, "--text needs --kind attention"),
        (["m", "--kind", "heads"], 2, "invalid choice: 'heads'"),
        (["m", "--format", "pdf"], 2, "invalid choice: 'pdf'"),
        (["m", "-o", "x.pdf"], 2, "x.pdf must end in .png or .svg"),
        (["m", "-o", "x.png"], 2, "x.png is one file for 4 plots\nhint: choose one --kind"),
        (["m", "-o", "x.png", "--kind=loss", "--format=svg"], 2, "x.png does not end in .svg"),
        (["m", "-o", "m"], 1, "m/loss.png is in the model's own directory"),
        (["m", "-o", "link/new", "--overwrite"], 1, "is in the model's own directory"),
        (["m", "-o", "m/model.svg", "--kind=loss", "--overwrite"], 1, "the model's own directory"),
        (["m", "-o", "taken"], 1, "taken/loss.png is a directory"),
        (["m", "-o", "file.txt"], 1, "file.txt is not a directory"),
        (["m", "-o", "a\0b"], 1, "cannot write 'a\\x00b/loss.png'"),
        (["m", "--json", "-o", "x"], 2, "--json writes no plots\nhint: leave out --output"),
        (["m", "--json", "--overwrite"], 2, "--json writes no plots\nhint: leave out --output"),
        (["none"], 1, "no model at none"),
        ([], 2, "DIR"),
    ],
)
def test_bad_input(argv: list[str], code: int, message: str, folder: Path, kamon: Kamon) -> None:
    Path("link").symlink_to("m")
    Path("taken/loss.png").mkdir(parents=True)
    Path("file.txt").write_text("mine")
    before = sorted(path for path in folder.rglob("*"))
    done = kamon("plot", *argv)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert [line.startswith("error: ") for line in done.err.splitlines()].count(True) == 1
    assert sorted(path for path in folder.rglob("*")) == before


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no folder that nobody can write to")
@pytest.mark.usefixtures("folder")
def test_a_folder_that_cannot_be_written(kamon: Kamon) -> None:
    done = kamon("plot", "m", "--kind", "lengths", "-o", "/proc/self/pictures")
    assert done.code == 1
    assert re.search(r"error: cannot write /proc/self/pictures/lengths.png: .", done.err)


@pytest.mark.usefixtures("folder")
def test_without_matplotlib(kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "kamon.plotting")
    monkeypatch.delattr("kamon.plotting")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = kamon("plot", "m")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: plots need matplotlib\n"
        'hint: install it with pip install "kamon[plot]", or get the numbers with --json\n'
    )
    assert [path.name for path in Path().iterdir()] == ["m"]
    assert kamon("plot", "m", "--json").code == 0


def test_a_training_of_one_step(names: Path, tmp_path: Path, kamon: Kamon) -> None:
    """Too few documents to hold some out, no room for a text of more than five."""
    kamon("train", names, "-o", tmp_path / "m", *TINY_FLAGS, "--num-steps=1")
    assert kamon("plot", tmp_path / "m").code == 0
    found = kamon("plot", tmp_path / "m", "--json").json
    assert found["loss"]["ngram"] is None
