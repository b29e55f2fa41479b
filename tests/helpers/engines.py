"""Random configs, states and batches, and the comparison of an engine with the scalar one."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import strategies as st

from kamon.config import Config
from kamon.engines.base import Engine, State
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init, parameter_shapes


def tensors(config: Config, flat: array[float]) -> Iterator[tuple[str, array[float]]]:
    start = 0
    for name, (n_out, n_in) in parameter_shapes(config).items():
        yield name, flat[start : start + n_out * n_in]
        start += n_out * n_in


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Up to 4 layers and 8 heads, widths of all kinds, vocabularies from 2 to 300."""
    n_head = draw(st.integers(1, 8))
    n_embd = n_head * draw(st.integers(1, max(1, 16 // n_head)))
    return Config(
        n_layer=draw(st.integers(1, 4 if n_embd < 10 else 2)),
        n_head=n_head,
        n_embd=n_embd,
        block_size=draw(st.integers(1, 20)),
        vocab_size=draw(st.one_of(st.integers(2, 40), st.integers(41, 300))),
        std=draw(st.sampled_from([0.08, 0.4])),
        seed=draw(st.integers(0, 1000)),
        weight_decay=draw(st.sampled_from([0.0, 0.3])),
        grad_clip=draw(st.sampled_from([0.0, 0.1, 1e9])),
        dropout=draw(st.sampled_from([0.0, 0.3])),
    )


def random_state(config: Config, rng: random.Random) -> State:
    params = init(config, rng)
    m = array("d", [rng.gauss(0, 0.01) for _ in params])
    v = array("d", [rng.random() * 0.01 for _ in params])
    return {"params": params, "m": m, "v": v, "step": 3}


def random_batch(config: Config, rng: random.Random, most_tokens: int = 24) -> PackedBatch:
    """Documents of one token (no target) up to as many as fit."""
    docs: list[list[int]] = []
    left = rng.randint(1, most_tokens)
    while left > 0:
        length = rng.choice([1, 2, config.block_size + 1, rng.randint(1, config.block_size + 1)])
        docs.append([rng.randrange(config.vocab_size) for _ in range(length)])
        left -= length
    return pack_sequences(docs)


def rounded(state: State) -> State:
    """What a float32 engine keeps of a state."""
    numbers = {name: array("d", array("f", state[name])) for name in ("params", "m", "v")}  # type: ignore[literal-required]
    return {**numbers, "step": state["step"]}  # type: ignore[typeddict-item]


def assert_close(config: Config, found: array[float], expected: array[float], bound: float) -> None:
    """Each tensor within `bound` of its largest value.

    Where a whole tensor is below a hundredth of the largest gradient (in float32 a tenth), that
    counts: such small ones are what is left when numbers of the others' size cancel, as p − 1 does
    where the model is sure. Over one feature the norm cancels everything before it: there the
    largest of all counts.
    """
    overall = max(map(abs, expected))
    least = 1.0 if config.n_embd == 1 else 0.01 if bound < 1e-8 else 0.1
    for (name, a), (_, b) in zip(tensors(config, found), tensors(config, expected), strict=True):
        largest = max(max(map(abs, b)), least * overall)
        worst = max(abs(x - y) for x, y in zip(a, b, strict=True))
        assert worst <= bound * largest, f"{name}: {worst} of {largest}"


def check_against_scalar(config: Config, engines: Iterable[tuple[Engine, float]]) -> None:
    """Log-probabilities, gradients, a step of Adam: each engine within its bound."""
    rng = random.Random(config.seed)
    batch, state = random_batch(config, rng), rounded(random_state(config, rng))
    weights = [rng.uniform(-1, 1) for _ in range(batch.num_targets)]
    scalar = make_engine("scalar", config)
    scalar.load(state)
    draws = [rng.randrange(2**64) for _ in range(len(batch))]
    unchanged = list(scalar.logprobs(batch))
    expected = list(scalar.backward(batch, weights, draws))
    gradients = scalar.gradients()
    scalar.step(0.01)
    after = scalar.state()
    for engine, bound in engines:
        engine.load(state)
        assert list(engine.logprobs(batch)) == pytest.approx(unchanged, abs=bound, rel=bound)
        found_logprobs = list(engine.backward(batch, weights, draws))
        assert found_logprobs == pytest.approx(expected, abs=bound, rel=bound)
        assert_close(config, engine.gradients(), gradients, bound)
        engine.step(0.01)
        found = engine.state()
        assert found["step"] == 4
        assert_close(config, found["params"], after["params"], bound)
        assert_close(config, found["m"], after["m"], bound)
        assert_close(config, found["v"], after["v"], bound)
