"""What a step leaves out: the same numbers in every engine, by counter; and its gradients."""

from __future__ import annotations

import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ENGINES
from kamon.config import Config
from kamon.engines.base import StepPlan, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.dropout import masks, num_sites
from kamon.engines.factory import make_engine
from kamon.engines.loops import train
from kamon.engines.parameters import init
from kamon.training.loop import make_plan

CONFIG = Config(n_embd=6, n_head=2, n_layer=2, block_size=5, vocab_size=7, std=0.4, dropout=0.3)
DOCS = pack_sequences([[6, 1, 2, 6], [6, 3, 6], [6, 0, 5, 4, 1, 6]])


@given(
    rate=st.floats(0, 0.99),
    seed=st.integers(-(2**70), 2**70),
    draw=st.integers(0, 2**70),
    n_embd=st.integers(1, 9),
)
def test_factors_are_nought_or_keep_the_mean(
    rate: float, seed: int, draw: int, n_embd: int
) -> None:
    at = masks(rate, seed, draw, 2, n_embd)(3)
    assert len(at) == num_sites(2) == 5
    assert all(len(site) == n_embd for site in at)
    assert {factor for site in at for factor in site} <= {0.0, 1 / (1 - rate)}


def test_the_share_left_out_is_the_rate() -> None:
    factors = [f for site in masks(0.2, 1, 2, 50, 100)(0) for f in site]
    assert 0.19 < factors.count(0.0) / len(factors) < 0.21
    assert 0.98 < sum(factors) / len(factors) < 1.02


def test_every_place_has_its_own() -> None:
    """Seeds, documents, positions and sites; 64 bits of seed and document count."""
    places = [(seed, draw) for seed in (1, 2, 2**40) for draw in (1, 2, 2**40)]
    found = [
        tuple(site)
        for seed, draw in places
        for position in (0, 1)
        for site in masks(0.5, seed, draw, 1, 64)(position)
    ]
    assert len(set(found)) == len(found) == 9 * 2 * 3
    assert masks(0.5, 1, 2, 1, 64)(0) == masks(0.5, 1 + 2**64, 2 + 2**64, 1, 64)(0)


def test_gradients_are_central_differences() -> None:
    engine = make_engine("scalar", CONFIG)
    state = initial_state(init(CONFIG, random.Random(1)))
    rng = random.Random(2)
    weights = [rng.uniform(-1, 1) for _ in range(DOCS.num_targets)]
    draws = [4, 5, 6]

    def loss(i: int, by: float) -> float:
        moved = array("d", state["params"])
        moved[i] += by
        engine.load({**state, "params": moved})
        found = engine.backward(DOCS, weights, draws)
        return -sum(w * logprob for w, logprob in zip(weights, found, strict=True))

    engine.load(state)
    engine.backward(DOCS, weights, draws)
    gradients = engine.gradients()
    for i in rng.sample(range(len(gradients)), 8):
        slope = (loss(i, 1e-5) - loss(i, -1e-5)) / 2e-5
        assert gradients[i] == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("name", ENGINES)
def test_only_learning_leaves_out(name: str) -> None:
    engine = make_engine(name, CONFIG)
    engine.load(initial_state(init(CONFIG, random.Random(1))))
    weights = [0.1] * DOCS.num_targets
    whole = engine.logprobs(DOCS)
    assert engine.backward(DOCS, weights) == whole
    assert engine.backward(DOCS, weights, [1, 2, 3]) != whole
    assert engine.logprobs(DOCS) == whole


@pytest.mark.parametrize("name", ENGINES)
def test_training_goes_on_where_it_stopped(name: str) -> None:
    config = Config(**(vars(CONFIG) | {"num_steps": 8, "batch_size": 2}))
    whole, halves = (make_engine(name, config, dtype="float64") for _ in range(2))
    for engine in (whole, halves):
        engine.load(initial_state(init(config, random.Random(1))))
    losses = train(whole, make_plan(DOCS, config, 0, 8))
    found = train(halves, make_plan(DOCS, config, 0, 3)) + train(
        halves, make_plan(DOCS, config, 3, 8)
    )
    assert found == losses
    assert halves.state() == whole.state()
    again = make_engine(name, config, dtype="float64")
    again.load(initial_state(init(config, random.Random(1))))
    plan = make_plan(DOCS, config, 0, 8)
    other = StepPlan(
        plan.docs, plan.batch_size, plan.indices, plan.learning_rates, first_dropout_id=99
    )
    assert train(again, other) != losses
