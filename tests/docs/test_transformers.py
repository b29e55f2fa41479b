"""The transformers of docs/transformers by the scalar engine: who sees whom, gradients, the page.

tests/docs/test_transformers_torch.py compares those by the torch engine with these.
"""

from __future__ import annotations

import random
import re
import sys
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import pytest

from conftest import times
from kamon.config import Config
from kamon.engines.parameters import parameter_shapes
from kamon.engines.scalar import Value, gpt, log, softmax

FOLDER = Path(__file__).parents[2] / "docs" / "transformers"
sys.path.insert(0, str(FOLDER))
sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import by_scalar  # noqa: E402
import make_transformers  # noqa: E402
import masks  # noqa: E402

# n_layer, n_head, head_dim, vocab_size
SHAPES = [(1, 1, 3, 3), (2, 3, 3, 7), (3, 4, 1, 50), (1, 2, 5, 11)]
PAGE = make_transformers.PAGE.read_text(encoding="utf-8")
SHOWN = make_transformers.outputs_shown(PAGE)
MINUTES = pytest.mark.skipif(not times(0, 1), reason="takes long: `make torture` runs it")


def random_params(
    shape: tuple[int, int, int, int], block_size: int, stacks: int, rng: random.Random
) -> dict[str, list[list[float]]]:
    """Large enough that attention is far from even."""
    n_layer, n_head, head_dim, vocab_size = shape
    shapes = by_scalar.shapes(n_head * head_dim, n_layer, vocab_size, block_size, stacks)
    return {
        name: [[rng.gauss(0, 0.7) for _ in range(n_in)] for _ in range(n_out)]
        for name, (n_out, n_in) in shapes.items()
    }


def values_of(params: dict[str, list[list[float]]]) -> dict[str, list[list[Value]]]:
    return {name: [[Value(p) for p in row] for row in w] for name, w in params.items()}


def weighted_loss(logits: list[list[Any]], targets: list[int], weights: list[float]) -> Any:
    """Σ w · −log p of the targets."""
    logprobs = [log(softmax(row)[target]) for row, target in zip(logits, targets, strict=True)]
    return reduce(add, [p * -w for p, w in zip(logprobs, weights, strict=True)])


def mask_named(kind: str, length: int) -> list[list[bool]]:
    return {
        "encoder": masks.full(length, length),
        "decoder": masks.causal(length),
        "prefix": masks.prefix(length, length // 2),
    }[kind]


# ---- masks


def test_masks_are_what_their_names_say() -> None:
    assert masks.full(2, 3) == [[True, True, True]] * 2
    assert masks.causal(3) == [[True, False, False], [True, True, False], [True] * 3]
    assert masks.prefix(3, 2) == [[True, True, False], [True, True, False], [True] * 3]
    assert masks.prefix(4, 0) == masks.prefix(4, 1) == masks.causal(4)
    assert masks.prefix(4, 4) == masks.full(4, 4)


def test_a_panel_has_as_many_labels_as_the_mask_has_rows_and_columns() -> None:
    for _, mask, rows, columns in masks.panels():
        assert (len(mask), {len(row) for row in mask}) == (len(rows), {len(columns)})


# ---- the models


def test_names_and_shapes_are_those_of_a_gpt() -> None:
    config = Config(n_layer=3, n_embd=6, n_head=2, vocab_size=5, block_size=4)
    expected = parameter_shapes(config)
    assert by_scalar.shapes(6, 3, 5, 4) == expected
    two = by_scalar.shapes(6, 3, 5, 4, stacks=2)
    assert two.items() > expected.items()
    encoder = {n for n in expected if n.startswith("layer")}
    crossing = {n for n in encoder if "attn" in n}
    assert set(two) - set(expected) == {n.replace("layer", "encoder") for n in encoder} | {
        n.replace("layer", "cross") for n in crossing
    }


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("length", [1, 5])
def test_a_stack_with_a_causal_mask_is_the_gpt_to_the_last_bit(
    shape: tuple[int, int, int, int], length: int
) -> None:
    rng = random.Random(length)
    n_layer, _, head_dim, vocab_size = shape
    params = random_params(shape, 6, 1, rng)
    tokens, targets = ([rng.randrange(vocab_size) for _ in range(length)] for _ in range(2))
    weights = [rng.random() for _ in tokens]
    of_gpt, of_stack = values_of(params), values_of(params)
    keys: Any = [[] for _ in range(n_layer)]
    values: Any = [[] for _ in range(n_layer)]
    expected = [gpt(of_gpt, head_dim, t, at, keys, values) for at, t in enumerate(tokens)]
    found = by_scalar.one_stack(of_stack, n_layer, head_dim, tokens, masks.causal(length))
    assert [[p.data for p in row] for row in found] == [[p.data for p in row] for row in expected]
    for logits in (expected, found):
        weighted_loss(logits, targets, weights).backward()
    for name, matrix in of_gpt.items():
        grads = [[p.grad for p in row] for row in matrix]
        assert [[p.grad for p in row] for row in of_stack[name]] == grads, name


@pytest.mark.parametrize("kind", ["encoder", "decoder", "prefix"])
@pytest.mark.parametrize("shape", SHAPES[1:])
def test_a_position_depends_on_what_its_mask_lets_it_see(
    kind: str, shape: tuple[int, int, int, int]
) -> None:
    """Exactly on that: another token there changes its logits, another elsewhere no bit."""
    rng = random.Random(3)
    n_layer, _, head_dim, vocab_size = shape
    params = random_params(shape, 6, 1, rng)
    tokens = [rng.randrange(vocab_size) for _ in range(6)]
    mask = mask_named(kind, 6)
    before = by_scalar.one_stack(params, n_layer, head_dim, tokens, mask)
    for place, token in enumerate(tokens):
        other = [*tokens[:place], (token + 1) % vocab_size, *tokens[place + 1 :]]
        after = by_scalar.one_stack(params, n_layer, head_dim, other, mask)
        changed = [a != b for a, b in zip(before, after, strict=True)]
        # A prefix is seen by all that may see any of it, since its positions see each other.
        assert changed == [row[place] for row in mask], place


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_an_encoder_decoder_sees_all_of_the_source_and_the_past_of_its_answer(
    shape: tuple[int, int, int, int],
) -> None:
    rng = random.Random(5)
    n_layer, _, head_dim, vocab_size = shape
    params = random_params(shape, 5, 2, rng)
    source, target = ([rng.randrange(vocab_size) for _ in range(n)] for n in (5, 4))

    def changed(other_source: list[int], other_target: list[int]) -> list[bool]:
        before, after = (
            by_scalar.encoder_decoder(params, n_layer, head_dim, *texts)
            for texts in ((source, target), (other_source, other_target))
        )
        return [a != b for a, b in zip(before, after, strict=True)]

    for place, token in enumerate(source):
        other = [*source[:place], (token + 1) % vocab_size, *source[place + 1 :]]
        assert changed(other, target) == [True] * 4, place
    for place, token in enumerate(target):
        other = [*target[:place], (token + 1) % vocab_size, *target[place + 1 :]]
        assert changed(source, other) == [at >= place for at in range(4)], place


@pytest.mark.parametrize("kind", ["encoder", "prefix", "encoder-decoder"])
@pytest.mark.parametrize("shape", SHAPES[:2])
def test_gradients_are_central_differences(kind: str, shape: tuple[int, int, int, int]) -> None:
    rng = random.Random(7)
    n_layer, _, head_dim, vocab_size = shape
    params: Any = random_params(shape, 4, 1 + (kind == "encoder-decoder"), rng)
    source, target, answers = ([rng.randrange(vocab_size) for _ in range(n)] for n in (4, 3, 3))
    weights = [rng.random() + 0.5 for _ in answers]

    def loss(params: Any) -> Any:
        if kind == "encoder-decoder":
            logits = by_scalar.encoder_decoder(params, n_layer, head_dim, source, target)
        else:
            mask = mask_named(kind, 3)
            logits = by_scalar.one_stack(params, n_layer, head_dim, target, mask)
        return weighted_loss(logits, answers, weights)

    remembered = values_of(params)
    loss(remembered).backward()
    h = 1e-5
    for name, matrix in params.items():
        grads = [p.grad for row in remembered[name] for p in row]
        largest = max(map(abs, grads))
        assert largest > 1e-4, name
        for i in rng.sample(range(len(matrix)), min(3, len(matrix))):
            j = rng.randrange(len(matrix[i]))
            original = matrix[i][j]
            matrix[i][j] = original + h
            above = loss(params)
            matrix[i][j] = original - h
            slope = (above - loss(params)) / (2 * h)
            matrix[i][j] = original
            assert remembered[name][i][j].grad == pytest.approx(slope, abs=2e-6 * largest), name


def test_who_watches_sees_the_cross_attention_of_each_position() -> None:
    rng = random.Random(9)
    params = random_params(SHAPES[1], 5, 2, rng)
    watched: Any = []
    by_scalar.encoder_decoder(params, 2, 3, [1, 2, 3, 4], [5, 6], watched)
    assert [(len(heads), {len(head) for head in heads}) for heads in watched] == [(3, {4})] * 4
    for heads in watched:
        assert [sum(head) for head in heads] == pytest.approx([1] * 3)


# ---- the page


@pytest.mark.extra
def test_the_picture_is_what_its_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from kamon import plotting

    monkeypatch.setattr(plotting, "fonts", lambda: ["DejaVu Sans"])  # whatever else is installed
    drawn = make_transformers.picture()
    assert drawn == make_transformers.PICTURE.read_bytes(), "run dev/make_transformers.py"
    for word in (b"encoder-decoder", b"prefix"):
        assert word in drawn


def test_the_page_shows_each_program_and_the_picture_with_a_description() -> None:
    programs = {command.split()[0] for command in SHOWN}
    assert {path.name for path in FOLDER.glob("*.py")} == programs | {"by_torch.py", "gpt2.py"}
    assert len(re.findall(r"!\[([^]]{40,})\]\(transformers/masks\.svg\)", PAGE)) == 1


def skeleton(output: str) -> str:
    """The table without its figures."""
    return re.sub(r"[\d.,%]+", "#", output.split("\n\n")[1])


def percentages(output: str) -> list[float]:
    return [float(number) for number in re.findall(r"([\d.]+)%", output.split("\n\n")[1])]


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[] if command == "masks.py" else [MINUTES, pytest.mark.torture])
        for command in SHOWN
    ],
)
def test_a_program_prints_what_the_page_shows(command: str) -> None:
    """The scalar ones to the letter. What torch has learned is otherwise where a processor rounds
    otherwise: the table of that is to be about the same."""
    found, shown = make_transformers.output(command), SHOWN[command]
    if command in ("masks.py", "by_scalar.py"):
        assert found == shown
        return
    assert skeleton(found) == skeleton(shown)
    assert percentages(found) == pytest.approx(percentages(shown), abs=8)
    for one, other in re.findall(r"(\w+) by torch, (\w+) by scalar", found):
        assert one == other
    twice = re.findall(r"torch  (.*)\n.* scalar (.*)", found)
    assert all(one == other for one, other in twice)
    assert ("by torch" in found) != bool(twice)
