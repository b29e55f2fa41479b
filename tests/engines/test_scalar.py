"""The scalar engine: its gradients are the derivatives, and it keeps the engine contract."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from array import array
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import assert_decoder_refuses
from kamon.config import Config
from kamon.engines import scalar
from kamon.engines.base import Engine, StepPlan, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import train
from kamon.engines.parameters import init, num_params, parameter_shapes
from kamon.engines.scalar import Value

# (config, lengths of documents in tokens): odd widths, one head or as many as numbers, one layer or
# more, documents without a target, with one, as long as fits
SHAPES: list[tuple[dict[str, Any], list[int]]] = [
    ({"n_layer": 1, "n_embd": 4, "n_head": 2, "block_size": 4, "vocab_size": 5}, [5, 3, 2]),
    ({"n_layer": 2, "n_embd": 6, "n_head": 3, "block_size": 5, "vocab_size": 7}, [6, 1, 2]),
    ({"n_layer": 3, "n_embd": 3, "n_head": 1, "block_size": 3, "vocab_size": 2}, [2, 4]),
    ({"n_layer": 1, "n_embd": 5, "n_head": 5, "block_size": 1, "vocab_size": 11}, [2, 2, 1]),
    ({"n_layer": 4, "n_embd": 2, "n_head": 2, "block_size": 6, "vocab_size": 3}, [7]),
]


def make(
    shape: dict[str, Any], lengths: list[int], seed: int = 1
) -> tuple[Engine, PackedBatch, list[float]]:
    """An engine with random parameters, moments and documents, and a random weight per target."""
    config = Config(std=0.6, **shape)
    rng = random.Random(seed)
    engine = make_engine("scalar", config)
    params = init(config, rng)
    m = array("d", [rng.gauss(0, 0.1) for _ in params])
    v = array("d", [rng.random() for _ in params])
    engine.load({"params": params, "m": m, "v": v, "step": 3})
    batch = pack_sequences([rng.randrange(config.vocab_size) for _ in range(n)] for n in lengths)
    return engine, batch, [rng.uniform(-2, 2) for _ in range(batch.num_targets)]


@pytest.mark.parametrize(("shape", "lengths"), SHAPES)
def test_gradients_are_central_differences(shape: dict[str, Any], lengths: list[int]) -> None:
    """Every parameter is moved a little both ways; the loss is computed on plain floats."""
    engine, batch, weights = make(shape, lengths)
    engine.backward(batch, weights)
    gradients = engine.gradients()
    state = engine.state()

    def loss() -> float:
        engine.load(state)
        return -sum(w * p for w, p in zip(weights, engine.logprobs(batch), strict=True))

    h = 1e-5
    largest = max(map(abs, gradients))
    for i, original in enumerate(state["params"]):
        state["params"][i] = original + h
        above = loss()
        state["params"][i] = original - h
        slope = (above - loss()) / (2 * h)
        state["params"][i] = original
        assert gradients[i] == pytest.approx(slope, abs=1e-7 * largest), i
    assert largest > 0.1


OPERATIONS = [
    lambda a, b: a + b,
    lambda a, b: a * b,
    lambda a, b: a - b,
    lambda a, b: -a + 2.5 * b + 1.5,
    lambda a, b: (2.0 + a) * 3.0 - b * a,
    lambda a, b: a**3 + b**-1,
    lambda a, b: a.exp() * b,
    lambda a, b: (a * a + 0.5).log() + b,
    lambda a, b: (a * b).relu() + a,
    lambda a, b: (a + b) * (a + b) * a,
]
NUMBERS = st.floats(-2, 2).filter(lambda x: abs(x) > 0.05)


@pytest.mark.parametrize("operation", OPERATIONS)
@given(x=NUMBERS, y=NUMBERS)
def test_each_operation_has_its_derivative(operation: Any, x: float, y: float) -> None:
    a, b = Value(x), Value(y)
    operation(a, b).backward()
    h = 1e-6
    for value, low, high in (
        (a, (x - h, y), (x + h, y)),
        (b, (x, y - h), (x, y + h)),
    ):
        slope = (operation(*map(Value, high)).data - operation(*map(Value, low)).data) / (2 * h)
        assert value.grad == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_no_graph_is_too_deep() -> None:
    x = Value(1.0)
    total = x
    for _ in range(200_000):  # far beyond the recursion limit
        total = total + x
    total.backward()
    assert x.grad == total.data == 200_001


@pytest.mark.parametrize(("shape", "lengths"), SHAPES)
def test_every_parameter_that_is_used_gets_a_gradient(
    shape: dict[str, Any], lengths: list[int]
) -> None:
    engine, batch, weights = make(shape, lengths)
    engine.backward(batch, weights)
    gradients = iter(engine.gradients())
    for name, (n_out, n_in) in parameter_shapes(engine.config).items():
        # With one position attention has no choice, so q and k change nothing.
        idle = max(lengths) <= 2 and name.endswith(("attn_wq", "attn_wk"))
        of_matrix = [next(gradients) for _ in range(n_out * n_in)]
        assert any(of_matrix) is not idle, name


@pytest.mark.parametrize(("shape", "lengths"), SHAPES)
def test_logprobs_are_those_of_backward_and_of_decoding(
    shape: dict[str, Any], lengths: list[int]
) -> None:
    engine, batch, weights = make(shape, lengths)
    logprobs = engine.logprobs(batch)
    assert len(logprobs) == batch.num_targets
    assert engine.backward(batch, weights) == logprobs
    decoded = []
    for d in range(len(batch)):
        tokens = batch.document(d)
        decoder = engine.decoder()
        for token, target in pairwise(tokens):
            logits = decoder.push(token)
            assert len(logits) == engine.config.vocab_size
            decoded.append(math.log(scalar.softmax(logits)[target]))
    assert list(logprobs) == decoded
    assert all(logprob < 0 for logprob in logprobs)


def test_probabilities_of_all_tokens_add_up_to_one() -> None:
    engine, _, _ = make(*SHAPES[1])
    vocab_size = engine.config.vocab_size
    logprobs = engine.logprobs(pack_sequences([0, 1, token] for token in range(vocab_size)))
    assert sum(map(math.exp, logprobs[1::2])) == pytest.approx(1, abs=1e-12)


def test_backward_adds_up() -> None:
    """Two documents in two calls, in one call, and one document with its weights in two parts."""
    engine, batch, weights = make(*SHAPES[0])
    engine.backward(batch, weights)
    together = engine.gradients()
    engine.load(engine.state())
    assert set(engine.gradients()) == {0.0}
    start = 0
    for d in range(len(batch)):
        one = batch.select([d])
        own = weights[start : start + one.num_targets]
        start += one.num_targets
        engine.backward(one, [0.25 * w for w in own])
        engine.backward(one, [0.75 * w for w in own])
    assert list(engine.gradients()) == pytest.approx(list(together), rel=1e-12, abs=1e-13)


def test_weights_of_zero_give_no_gradient() -> None:
    engine, batch, weights = make(*SHAPES[1])
    engine.backward(batch, [0.0] * len(weights))
    assert set(engine.gradients()) == {0.0}


def test_a_weight_touches_its_own_target_alone() -> None:
    """With all weight on the first target, the tokens behind it have no influence."""
    engine, _, _ = make(*SHAPES[0])
    engine.backward(pack_sequences([[4, 1, 2, 3]]), [1.0, 0.0, 0.0])
    gradients = engine.gradients()
    engine.load(engine.state())
    engine.backward(pack_sequences([[4, 1]]), [1.0])
    assert engine.gradients() == gradients


@pytest.mark.parametrize("weight_decay", [0.0, 0.4])
def test_adam_is_the_published_formula(weight_decay: float) -> None:
    shape, lengths = SHAPES[0]
    engine, batch, weights = make(shape | {"weight_decay": weight_decay}, lengths)
    c = engine.config
    engine.backward(batch, weights)
    before, g = engine.state(), engine.gradients()
    engine.step(0.05)
    after = engine.state()
    assert after["step"] == before["step"] + 1 == 4
    assert set(engine.gradients()) == {0.0}
    for i in range(len(g)):
        m = c.beta1 * before["m"][i] + (1 - c.beta1) * g[i]
        v = c.beta2 * before["v"][i] + (1 - c.beta2) * g[i] * g[i]
        m_hat, v_hat = m / (1 - c.beta1**4), v / (1 - c.beta2**4)
        moved = before["params"][i] - 0.05 * (
            m_hat / (math.sqrt(v_hat) + c.eps_adam) + weight_decay * before["params"][i]
        )
        assert after["m"][i] == pytest.approx(m, rel=1e-13, abs=1e-15)
        assert after["v"][i] == pytest.approx(v, rel=1e-13)
        assert after["params"][i] == pytest.approx(moved, rel=1e-13, abs=1e-15)


def test_a_long_gradient_is_shortened_and_no_other() -> None:
    shape, lengths = SHAPES[0]
    engine, batch, weights = make(shape, lengths)
    engine.backward(batch, weights)
    g = engine.gradients()
    norm = math.sqrt(sum(x * x for x in g))
    for grad_clip, factor in ((norm / 4, 0.25), (norm * 1.01, 1.0), (0.0, 1.0)):
        engine, batch, weights = make(shape | {"grad_clip": grad_clip}, lengths)
        before = engine.state()
        engine.backward(batch, weights)
        engine.step(0.05)
        c, m = engine.config, engine.state()["m"]
        expected = [
            c.beta1 * b + (1 - c.beta1) * factor * x for b, x in zip(before["m"], g, strict=True)
        ]
        assert m == pytest.approx(expected, rel=1e-13, abs=1e-15)


def test_batches_that_are_accumulated_are_one_step() -> None:
    """Ragged ones: the mean is that of all targets, not of the batches' means."""
    engine, other = make(*SHAPES[0])[0], make(*SHAPES[0])[0]
    docs = pack_sequences([[4, 1, 2, 3], [4, 0], [4, 4, 4], [4, 1]])
    rates, indices = array("d", [0.01, 0.01]), array("q", [0, 1, 2, 3, 1, 0, 3, 2])
    found = train(engine, StepPlan(docs, 2, indices, rates, gradient_accumulation_steps=2))
    expected = train(other, StepPlan(docs, 4, indices, rates))
    assert found == pytest.approx(expected, rel=1e-14)
    assert engine.state()["params"] == pytest.approx(other.state()["params"], rel=1e-12)


def test_a_decoder_keeps_the_parameters_of_its_beginning() -> None:
    engine, batch, weights = make(*SHAPES[0])
    untouched = engine.decoder()
    expected = engine.decoder().push(2)
    engine.backward(batch, weights)
    engine.step(0.1)
    assert untouched.push(2) == expected != engine.decoder().push(2)


def test_state_is_a_copy_both_ways() -> None:
    engine, batch, _ = make(*SHAPES[0])
    state = engine.state()
    logprobs = engine.logprobs(batch)
    for numbers in (state["params"], state["m"], state["v"]):
        numbers[0] += 1
    assert engine.logprobs(batch) == logprobs
    engine.load(state)
    kept = engine.state()
    state["m"][1] += 1
    assert engine.state() == kept
    assert engine.logprobs(batch) != logprobs


def test_training_goes_on_where_it_stopped() -> None:
    """train(20) = train(10), save, load into another engine, train(10): bit for bit."""
    config = Config(n_embd=4, n_head=2, block_size=4, vocab_size=5)
    rng = random.Random(3)
    docs = pack_sequences([[4, *(rng.randrange(4) for _ in range(3)), 4] for _ in range(7)])
    start = initial_state(init(config, rng))

    def steps(engine: Engine, first: int, last: int) -> list[float]:
        indices = array("q", [i % 7 for i in range(2 * first, 2 * last)])
        rates = array("d", [0.01 * (1 - step / 20) for step in range(first, last)])
        return list(train(engine, StepPlan(docs, 2, indices, rates)))

    whole, first, second = (make_engine("scalar", config) for _ in range(3))
    whole.load(start)
    losses = steps(whole, 0, 20)
    first.load(start)
    halves = steps(first, 0, 10)
    second.load(first.state())
    halves += steps(second, 10, 20)
    assert halves == losses
    assert second.state() == whole.state()


def test_the_loss_of_a_step_is_the_mean_over_its_tokens() -> None:
    engine, batch, _ = make(*SHAPES[0])
    logprobs = engine.logprobs(batch)
    losses = train(engine, StepPlan(batch, 3, array("q", [0, 1, 2]), array("d", [0.01])))
    assert losses[0] == pytest.approx(-sum(logprobs) / len(logprobs), rel=1e-14)


def test_training_stops_at_a_loss_that_is_not_finite() -> None:
    engine, batch, _ = make(*SHAPES[0])
    state = engine.state()
    state["params"] = array("d", [1e5 * p for p in state["params"]])  # some p(target) is 0
    engine.load(state)
    assert -math.inf in engine.logprobs(batch)
    losses = train(engine, StepPlan(batch, 1, array("q", [0, 1, 2]), array("d", [0.01] * 3)))
    assert len(losses) == 1
    assert not math.isfinite(losses[0])
    assert engine.state()["params"] == state["params"]


@pytest.mark.parametrize("tokens", [[0, 5], [-1, 2], [0, 1, 2, 3, 4, 0]])
def test_what_does_not_fit_is_refused(tokens: list[int]) -> None:
    engine, _, _ = make(*SHAPES[0])
    before = engine.state()
    batch = pack_sequences([[0, 1], tokens])
    with pytest.raises(ValueError, match=r"vocabulary|block_size"):
        engine.logprobs(batch)
    with pytest.raises(ValueError, match=r"vocabulary|block_size"):
        engine.backward(batch, [1.0] * batch.num_targets)
    assert set(engine.gradients()) == {0.0}
    assert engine.state() == before


def test_wrong_sizes_are_refused() -> None:
    engine, batch, weights = make(*SHAPES[0])
    with pytest.raises(ValueError, match="weights"):
        engine.backward(batch, weights[:-1])
    with pytest.raises(ValueError, match="parameters"):
        engine.load(initial_state(array("d", [0.0])))
    assert_decoder_refuses(engine)


def test_the_file_stands_alone() -> None:
    """No site-packages, no kamon: the standard library is enough."""
    code = f"import runpy; print(runpy.run_path({scalar.__file__!r})['Value'](2.0) .data)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert done.stdout == "2.0\n", done.stderr


def test_num_params_of_the_original() -> None:
    assert num_params(Config()) == 4192
