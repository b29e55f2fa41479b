"""The numbers of the plots, each computed here in another way."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import numpy
import pytest

from helpers.lists import DOCS
from helpers.runs import UNTRAINED
from kamon import ConfigError, Model, TokenizerError, TrainingError, load, train
from kamon.engines.base import initial_state
from kamon.evaluation.evaluate import evaluate
from kamon.evaluation.introspection import (
    attention,
    attention_weights,
    bins,
    embeddings,
    histogram,
    lengths,
    losses,
    parameters,
    principal_plane,
)
from kamon.native import library

SETTINGS: dict[str, Any] = {"n_embd": 6, "n_head": 3, "n_layer": 2, "block_size": 6}


@pytest.fixture(scope="module")
def model() -> Model:
    return train(DOCS, size="medium", num_steps=60, blend=False, **SETTINGS)


# ---- attention


def expected_weights(model: Model, text: str) -> Any:
    """Return the weights (n_layer, n_head, T, T), computed at once with matrices and a mask."""
    c = model.config
    p = {name: numpy.array(rows) for name, rows in parameters(model).items()}

    def normed(x: Any) -> Any:
        return x / numpy.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)

    tokens = [model.tokenizer.bos, *model.tokenizer.encode(text)]
    size = len(tokens)
    x = normed(p["wte"][tokens] + p["wpe"][:size])
    future = numpy.triu(numpy.ones((size, size), bool), 1)
    found = []
    for i in range(c.n_layer):
        q, k, v = (
            (normed(x) @ p[f"layer{i}.attn_w{name}"].T)
            .reshape(size, c.n_head, c.head_dim)
            .transpose(1, 0, 2)
            for name in "qkv"
        )
        scores = q @ k.transpose(0, 2, 1) / math.sqrt(c.head_dim)
        scores[:, future] = -numpy.inf
        exps = numpy.exp(scores - scores.max(axis=2, keepdims=True))
        weights = exps / exps.sum(axis=2, keepdims=True)
        found.append(weights)
        mixed = (weights @ v).transpose(1, 0, 2).reshape(size, c.n_embd)
        x = x + mixed @ p[f"layer{i}.attn_wo"].T
        hidden = numpy.maximum(normed(x) @ p[f"layer{i}.mlp_fc1"].T, 0)
        x = x + hidden @ p[f"layer{i}.mlp_fc2"].T
    return numpy.array(found)


@pytest.mark.parametrize("text", ["", "n", "lanna", "bilos"])
def test_attention_weights(model: Model, text: str) -> None:
    """All heads differ, so the test would notice exchanged heads."""
    found = numpy.array(attention_weights(model, text))
    size = len(text) + 1
    assert found.shape == (2, 3, size, size)
    assert found == pytest.approx(expected_weights(model, text), abs=1e-12)
    assert found.sum(axis=3) == pytest.approx(1, abs=1e-12)
    assert not numpy.triu(found, 1).any()
    heads = found.reshape(6, size, size)
    for i in range(6 if size > 1 else 0):
        assert all(abs(heads[i] - heads[j]).max() > 1e-6 for j in range(i))


def test_attention_is_the_same_by_every_engine(model: Model, tmp_path: Path) -> None:
    """Attention depends only on the parameters, so float64 engines give exactly the same."""
    if library.why_not():
        pytest.skip(library.why_not())
    model.save(tmp_path / "m")
    exact, scalar, single = (
        load(tmp_path / "m", engine=engine, dtype=dtype)
        for engine, dtype in (("native", "float64"), ("scalar", None), ("native", "float32"))
    )
    expected = attention_weights(scalar, "lanna")
    assert attention_weights(exact, "lanna") == expected
    assert numpy.array(attention_weights(single, "lanna")) == pytest.approx(
        numpy.array(expected), abs=1e-5
    )


def test_the_text_is_by_default_the_likeliest_sample(model: Model) -> None:
    found = attention(model)
    assert found.text == model.sample(1, temperature=0, min_len=1)[0][:5] != ""
    assert found.weights == attention_weights(model, found.text)
    assert attention(model, "bo").text == "bo"


def test_a_model_that_ends_at_once_and_one_that_sees_one_token() -> None:
    assert attention(train(["", "a", "b"], num_steps=1)).text
    found = attention(train(DOCS, num_steps=1, block_size=1, n_layer=1))
    assert (found.text, found.weights) == ("", [[[[1.0]]] * 4])


def test_a_text_that_cannot_be(model: Model) -> None:
    with pytest.raises(ConfigError, match="the text is empty"):
        attention(model, "")
    with pytest.raises(ConfigError, match="6 characters, and block_size 6 allows 5"):
        attention(model, "lannan")
    with pytest.raises(TokenizerError, match="character 'x'"):
        attention(model, "lax")


# ---- embeddings


def expected_plane(rows: Any) -> tuple[Any, Any]:
    """Return the plane by singular values, with axes whose largest number is positive."""
    centred = rows - rows.mean(axis=0)
    _, values, axes = numpy.linalg.svd(centred, full_matrices=False)
    axes = numpy.vstack([axes, numpy.zeros((2, rows.shape[1]))])[:2]
    signs = numpy.sign([axis[abs(axis).argmax()] for axis in axes])
    shares = numpy.append(values**2, [0, 0])[:2] / (values**2).sum()
    return centred @ (axes.T * signs), shares


@pytest.mark.parametrize(("size", "width"), [(27, 16), (5, 3), (200, 24), (9, 40), (4, 2)])
def test_principal_plane(size: int, width: int) -> None:
    rng = random.Random(size)
    spread = [0.8**i for i in range(width)]
    rows = [[5 + rng.gauss(0, deviation) for deviation in spread] for _ in range(size)]
    rng.shuffle(spread)
    found = principal_plane(rows)
    points, shares = expected_plane(numpy.array(rows))
    assert numpy.array(found.points) == pytest.approx(points, abs=1e-9)
    assert found.shares == pytest.approx(tuple(shares), abs=1e-12)
    assert principal_plane(rows) == found


def test_planes_in_which_nothing_varies() -> None:
    assert principal_plane([[3.0, 4.0]]).points == [(0.0, 0.0)]
    assert principal_plane([[3.0, 4.0]] * 3).shares == (0.0, 0.0)
    found = principal_plane([[2.0], [4.0], [9.0]])
    assert found.points == [(-3.0, 0.0), (-1.0, 0.0), (4.0, 0.0)]
    assert found.shares == pytest.approx((1, 0), abs=1e-15)


def test_equal_variances_still_give_right_angles() -> None:
    found = principal_plane([[1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0], [0, -1.0, 0]])
    assert found.shares == pytest.approx((0.5, 0.5), abs=1e-12)
    x, y = zip(*found.points, strict=True)
    assert sum(a * b for a, b in zip(x, y, strict=True)) == pytest.approx(0, abs=1e-12)


def test_embeddings(model: Model) -> None:
    found = embeddings(model)
    state = list(model.engine.state()["params"])
    num_tokens = len(model.tokenizer.chars) + 1
    wte = numpy.array(state[: num_tokens * 6]).reshape(num_tokens, 6)
    wpe = numpy.array(state[num_tokens * 6 : (num_tokens + 6) * 6]).reshape(6, 6)
    for plane, rows in ((found.tokens, wte), (found.positions, wpe)):
        assert numpy.array(plane.points) == pytest.approx(expected_plane(rows)[0], abs=1e-6)
    assert found.chars == model.tokenizer.chars
    assert found.named == list(range(num_tokens - 1))


def test_the_most_common_of_many_characters_are_named() -> None:
    """The first list has the first characters most often, the second list the last ones."""
    chars = [chr(0x4E00 + i) for i in range(150)]
    found = embeddings(train(["".join(chars[: i + 1]) for i in range(150)], num_steps=1))
    assert len(found.tokens.points) == 151
    assert found.named == list(range(100))
    found = embeddings(train(["".join(chars[i:]) for i in range(150)], num_steps=1))
    assert found.named == list(range(50, 150))


# ---- losses


def test_losses(model: Model) -> None:
    found = losses(model)
    numbers = [line["loss"] for line in model.metrics]
    assert found.window == 3
    assert found.each == list(enumerate(numbers, 1))
    assert [step for step, _ in found.smooth] == list(range(1, 61))
    assert found.smooth[1][1] == pytest.approx(sum(numbers[:3]) / 3)
    tested = [line["step"] for line in model.metrics if "held_out_loss" in line]
    assert [step for step, _ in found.validation_losses] == tested != []
    held_out = model.training["held_out"]
    assert found.kept == (held_out["best_step"], held_out["loss"])
    guessed = evaluate(model, n=0).documents
    assert found.uniform == pytest.approx(guessed.uniform.nats_per_token)
    assert found.ngram == pytest.approx(guessed.best_ngram.nats_per_token, abs=1e-12)
    assert found.ngram_order == guessed.best_order
    assert found.gpt is None


def test_losses_of_a_blend() -> None:
    model = train(DOCS, num_steps=60, **SETTINGS)
    found, guessed = losses(model), evaluate(model, n=0).documents
    assert guessed.gpt
    assert guessed.ngram
    assert found.kept
    assert found.kept[1] == pytest.approx(guessed.model.nats_per_token, rel=1e-9)
    assert found.kept[1] == min(loss for _, loss in found.validation_losses)
    assert found.gpt == pytest.approx(guessed.gpt.nats_per_token, rel=1e-9)
    assert found.ngram == pytest.approx(guessed.ngram.nats_per_token, rel=1e-9)
    assert found.ngram_order == guessed.ngram_order
    assert found.gpt != found.ngram


def test_the_baseline_is_measured_on_what_the_model_can_see() -> None:
    model = train(DOCS, num_steps=1, **SETTINGS | {"block_size": 3})
    expected = evaluate(model, n=0).documents
    assert losses(model).ngram == pytest.approx(expected.best_ngram.nats_per_token, abs=1e-12)


def test_losses_where_nothing_is_held_out() -> None:
    found = losses(train(DOCS, num_steps=2, hold_out=False, **SETTINGS))
    assert (found.validation_losses, found.kept, found.ngram, found.ngram_order) == (
        [],
        None,
        None,
        None,
    )
    assert len(found.smooth) == 2


def test_very_many_steps(model: Model) -> None:
    rng = random.Random(1)
    numbers = [rng.random() for _ in range(100_000)]
    numbers[77_777] = 9.0
    metrics = [{"step": i + 1.0, "loss": loss} for i, loss in enumerate(numbers)]
    found = losses(Model(model.config, model.tokenizer, model.engine, metrics, UNTRAINED, DOCS))
    assert (found.window, len(found.smooth), len(found.each)) == (5001, 400, 2000)
    assert (77_778, 9.0) in found.each
    assert found.smooth[-1][0] == 100_000


def test_a_model_that_was_not_trained(model: Model) -> None:
    with pytest.raises(TrainingError, match="was not trained, so it has no losses"):
        losses(Model(model.config, model.tokenizer, model.engine, [], model.training, DOCS))


# ---- lengths


def test_lengths(model: Model) -> None:
    found = lengths(model, 200)
    texts = model.sample(200, temperature=1)
    assert found.width == 1
    for i, first in enumerate(found.first):
        assert found.listed[i] == sum(len(doc) == first for doc in DOCS)
        assert found.sampled[i] == sum(len(text) == first for text in texts)
    assert (sum(found.listed), sum(found.sampled)) == (len(DOCS), 200)
    assert found.unended == sum(len(text) == 6 for text in texts) > 0
    assert (found.longest, found.temperature, found.seed) == (6, 1.0, 42)


def test_bins_of_very_different_lengths() -> None:
    listed = [*range(1, 200), 10_000]
    first, width = bins(listed, [50, 210])
    assert (first[0], first[-1], width) == (1, 209, 4)
    counts = histogram(listed, first, width)
    assert counts[:2] == [4, 4]
    assert counts[-1] == 1
    assert sum(counts) == 200
    assert bins([1, 60], [1])[1] == 1
    assert bins([1, 61], [61])[1] == 2


def test_numbers_need_no_other_library(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    code = (
        "import sys; sys.modules['numpy'] = sys.modules['matplotlib'] = None;"
        f"from kamon.cli import main; main(['plot', {str(tmp_path / 'm')!r}, '--json'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["attention"]["text"]


def test_parameters_are_rows(model: Model) -> None:
    state = initial_state(array("d", map(float, range(model.num_params))))
    copy = train(DOCS, num_steps=1, **SETTINGS)
    copy.engine.load(state)
    found = parameters(copy)
    flat = [x for matrix in found.values() for row in matrix for x in row]
    assert flat == list(state["params"])
    assert (len(found["layer1.mlp_fc1"]), len(found["layer1.mlp_fc1"][0])) == (24, 6)
