"""Graphs of Values: what is drawn is what the scalar engine computes, to the last bit."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import kamon
from helpers.lists import DOCS
from kamon import ConfigError, Model, TokenizerError
from kamon.engines.batch import pack_sequences
from kamon.engines.numerics import sequential_sum
from kamon.engines.scalar import Value, softmax, topological_order
from kamon.web.views.graph import MAX_TOKENS, NUM_LIKELY, Graph, expression, loss, loss_of

ROOT = Path(kamon.__file__).parent.parent


def replayed(found: Graph) -> list[float]:
    """The gradients, node by node, as the page shows them grow; each step is checked."""
    grads = [0.0] * len(found.nodes)
    grads[found.root] = 1.0
    waiting = {node.id: 0 for node in found.nodes}  # whose gradients are to come
    for node in found.nodes:
        for id in node.inputs:
            waiting[id] += 1
    assert [step.id for step in found.steps] == found.backward
    for step in found.steps:
        node = found.nodes[step.id]
        assert node.id == step.id
        assert waiting[step.id] == 0  # complete, before it hands its own on
        assert [each.to for each in step.added] == node.inputs
        for each, local_grad in zip(step.added, node.local_grads, strict=True):
            assert each.amount == local_grad * grads[step.id]
            grads[each.to] += each.amount
            assert each.grad == grads[each.to]
            waiting[each.to] -= 1
    assert sorted(found.backward) == list(range(len(found.nodes)))
    return grads


numbers = st.floats(-1e3, 1e3)


@given(numbers, numbers, numbers)
@example(2.0, 3.0, -1.0)
@example(2.0, -3.0, 1.0)  # relu lets nothing through
@example(0.0, 0.0, 0.0)
def test_an_expression(a: float, b: float, c: float) -> None:
    found = expression(a, b, c)
    left = [Value(a), Value(b), Value(c)]
    root = ((left[0] * left[1] + left[2]).relu() - 1.0) ** 2
    root.backward()
    by_label = {node.label: node for node in found.nodes}
    for name, value in zip("abc", left, strict=True):
        assert (by_label[name].data, by_label[name].grad) == (value.data, value.grad)
        assert by_label[name].op == "input"
    expected = [(v.data, v.grad, list(v.local_grads)) for v in topological_order(root)]
    assert [(n.data, n.grad, n.local_grads) for n in found.nodes] == expected
    assert [n.grad for n in found.nodes] == replayed(found)
    assert found.nodes[found.root].data == (max(0.0, a * b + c) - 1) ** 2
    assert [node.op for node in found.nodes] == [
        *("input", "input", "·", "input", "+", "relu", "− 1", "²")
    ]
    assert (found.num_values, found.folded) == (8, None)


def test_an_expression_that_is_too_large() -> None:
    with pytest.raises(ConfigError, match="b must be from"):
        expression(1.0, 1e7, 1.0)
    with pytest.raises(ConfigError, match="c must be from"):
        expression(1.0, 1.0, math.nan)


@given(st.lists(st.floats(-30, 30), min_size=2, max_size=12), st.data())
def test_a_loss_is_that_of_the_whole_graph(logits: list[float], data: st.DataObject) -> None:
    target = data.draw(st.integers(0, len(logits) - 1))
    names = [f"<{token}>" for token in range(len(logits))]
    found = loss_of(logits, target, names)
    leaves = [Value(logit) for logit in logits]
    probabilities = softmax(leaves)
    root = -probabilities[target].log()
    root.backward()
    whole = topological_order(root)
    assert found.num_values == len(whole)
    exps = [next(v for v in whole if v.inputs and v.inputs[0].inputs == (leaf,)) for leaf in leaves]

    likeliest = sorted(range(len(logits)), key=lambda t: (-logits[t], t))[:NUM_LIKELY]
    shown = {*likeliest, target}
    others = [token for token in range(len(logits)) if token not in shown]
    if len(others) == 1:
        shown, others = set(range(len(logits))), []
    by_label = {node.label: node for node in found.nodes}
    for token, name in enumerate(names):
        assert (f"logit({name})" in by_label) == (token in shown)
        if token in shown:
            for label, value in (
                (f"logit({name})", leaves[token]),
                (f"logit({name}) − max", exps[token].inputs[0]),
                (f"exp({name})", exps[token]),
            ):
                assert (by_label[label].data, by_label[label].grad) == (value.data, value.grad)
    chain = [root, root.inputs[0], root.inputs[0].inputs[0]]
    inverse = chain[-1].inputs[1]
    chain += [inverse, inverse.inputs[0]]
    name = names[target]
    labels = [f"−log p({name})", f"log p({name})", f"p({name})", "1 / Σ exp", "Σ exp"]
    for label, value in zip(labels, chain, strict=True):
        assert (by_label[label].data, by_label[label].grad) == (value.data, value.grad)
        if label != "Σ exp":
            assert by_label[label].local_grads == list(value.local_grads)
    folded = [node for node in found.nodes if node.folded]
    assert [node.folded for node in folded] == ([len(others)] if others else [])
    for node in folded:
        assert node.data == sequential_sum(exps[token].data for token in others)
        assert {exps[token].grad for token in others} == {node.grad}
    assert replayed(found) == [node.grad for node in found.nodes]
    drawn = len(found.nodes) - len(folded)
    if drawn < len(whole):
        assert f"of {len(whole):,} Values {len(whole) - drawn:,} are not drawn" in str(found.folded)
    else:
        assert found.folded is None


@pytest.fixture(scope="module")
def char() -> Model:
    return kamon.train(DOCS, num_steps=60, n_embd=6, n_head=3, block_size=6)


@pytest.fixture(scope="module")
def bpe() -> Model:
    return kamon.train(
        DOCS, tokenizer="bpe", vocab_size=270, num_steps=30, n_embd=6, n_head=3, block_size=6
    )


def test_the_loss_of_a_model(char: Model, bpe: Model) -> None:
    for model, text in ((char, "banna"), (bpe, "né🎉")):
        tokenizer = model.tokenizer
        tokens = [tokenizer.bos, *tokenizer.encode(text), tokenizer.bos][:7]
        logprobs = model.engine.logprobs(pack_sequences([tokens]))
        decoder = model.engine.decoder()
        for position, token in enumerate(tokens[1:]):
            logits = list(decoder.push(tokens[position]))
            found = loss(model, text, position)
            assert found.nodes[found.root].data == pytest.approx(-logprobs[position], rel=1e-5)
            name = "end" if token == tokenizer.bos else repr(tokenizer.token_text(token))
            assert found.nodes[found.root].label == f"−log p({name})"
            names = [repr(tokenizer.token_text(t)) for t in range(len(logits))]
            names[tokenizer.bos] = "end"
            assert found == loss_of(logits, token, names)
            [own] = [node for node in found.nodes if node.label == f"logit({name})"]
            assert own.grad == pytest.approx(math.exp(logprobs[position]) - 1, abs=1e-5)


def test_losses_that_cannot_be_drawn(char: Model) -> None:
    with pytest.raises(ConfigError, match="position 6 is not in the text: the last one is 5"):
        loss(char, "banna", 6)
    with pytest.raises(ConfigError, match="position -1 is not in the text"):
        loss(char, "banna", -1)
    assert loss(char, "bannanna", 5).root
    with pytest.raises(ConfigError, match="beyond the last position of block_size 6, which is 5"):
        loss(char, "bannanna", 6)
    with pytest.raises(TokenizerError, match=r"U\+00C9"):
        loss(char, "É", 0)
    with pytest.raises(ConfigError, match="'b' probability 0"):
        loss_of([0.0, -2000.0, 1.0], 1, ["'a'", "'b'", "end"])
    with pytest.raises(ConfigError, match="too large"):
        loss_of([0.0, -744.0, 1.0], 1, ["'a'", "'b'", "end"])
    words = kamon.train([" ".join(DOCS * 5)], mode="text", num_steps=1, n_embd=4, block_size=8)
    assert loss(words, "ban", 2).root
    with pytest.raises(ConfigError, match="position 3 is not in the text"):  # no end is there
        loss(words, "ban", 3)
    with pytest.raises(ConfigError, match="the text is empty"):
        loss(words, "", 0)


def test_a_vocabulary_that_is_too_large(char: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kamon.web.views.graph.MAX_TOKENS", 3)
    assert MAX_TOKENS > 3
    with pytest.raises(ConfigError, match="too long for a graph"):
        loss(char, "b", 0)


def test_sources_are_lines_of_the_scalar_engine(char: Model) -> None:
    for found in (expression(1.0, 2.0, 3.0), loss(char, "b", 1)):
        assert {"value", "backward", "order"} <= found.sources.keys()
        for source in found.sources.values():
            assert source.file == "kamon/engines/scalar.py"
            line = (ROOT / source.file).read_text(encoding="utf-8").splitlines()[source.line - 1]
            assert line.strip().startswith(f"def {source.function.rpartition('.')[2]}(")
    assert found.sources["softmax"].function == "softmax"


@pytest.mark.extra
def test_the_route_tells_the_same(char: Model, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the server is in kamon[web]")
    from helpers.app import Asking

    asking = Asking(tmp_path, {"m": char})

    def told(found: Graph) -> tuple[int, Any]:
        return 200, json.loads(json.dumps(asdict(found)))

    body: dict[str, Any] = {"kind": "expression", "a": 1, "b": -2.5, "c": 4}
    assert asking.post("/graph", **body) == told(expression(1.0, -2.5, 4.0))
    body = {"kind": "loss", "model": "m", "text": "banna", "position": 5}
    assert asking.post("/graph", **body) == told(loss(char, "banna", 5))
    for changed, status, said in (
        ({"kind": "other"}, 422, "kind"),
        ({"model": "x"}, 404, "no model 'x'"),
        ({"text": "É"}, 422, "U+00C9"),
        ({"text": "b" * 101}, 422, "the limit is 100"),
        ({"position": 6}, 422, "position 6 is not"),
        ({"position": -1}, 422, "position"),
        ({"a": 1}, 422, "a: "),
    ):
        found, answer = asking.post("/graph", **(body | changed))
        assert found == status
        assert said in answer["error"]
    for a in (1e7, "1e400", None):
        assert asking.post("/graph", kind="expression", a=a, b=0, c=0)[0] == 422
