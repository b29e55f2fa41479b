from __future__ import annotations

import math
import random
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamon.config import Config
from kamon.engines.base import initial_state
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init
from kamon.engines.philox import philox4x32, uniform
from kamon.engines.scalar import softmax
from kamon.generation.sampling import SampleRequest, sample, sample_token

LOGITS = st.lists(st.floats(-50, 50), min_size=1, max_size=30)
DRAWS = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("counter", "key", "result"),
    [  # the known answers that the authors of Philox publish with it
        ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (
            (0xFFFFFFFF,) * 4,
            (0xFFFFFFFF,) * 2,
            (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
        ),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox(counter: tuple[int, ...], key: tuple[int, ...], result: tuple[int, ...]) -> None:
    assert philox4x32(counter, key) == result  # type: ignore[arg-type]


def test_uniform_is_uniform_along_each_argument() -> None:
    for draws in (
        [uniform(s, 5, 6) for s in range(4000)],
        [uniform(5, i, 6) for i in range(4000)],
        [uniform(5, 6, p) for p in range(4000)],
        [uniform(5 << 32, 6 << 32, p << 32) for p in range(4000)],
    ):
        assert all(0 <= u < 1 for u in draws)
        assert len(set(draws)) == 4000
        counts = [sum(int(u * 10) == tenth for u in draws) for tenth in range(10)]
        assert sum((count - 400) ** 2 / 400 for count in counts) < 27.9  # chi², 9 degrees, p 0.001


def test_uniform_uses_all_53_bits_and_takes_any_integer() -> None:
    assert any(uniform(1, 2, p) * 2**53 % 2 for p in range(20))
    assert uniform(-1, 0, 0) == uniform(2**64 - 1, 0, 0) != uniform(1, 0, 0)


@given(LOGITS, DRAWS, st.floats(0.01, 100))
def test_choose_is_what_random_choices_does(
    logits: list[float], u: float, temperature: float
) -> None:
    class Fixed(random.Random):
        def random(self) -> float:
            return u

    weights = softmax([logit * temperature**-1 for logit in logits])
    assert sample_token(logits, temperature, u) == Fixed().choices(range(len(logits)), weights)[0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_choose_follows_the_probabilities(temperature: float) -> None:
    logits = [0.0, 1.0, -1.0, 2.0]
    n = 20_000
    draws = [sample_token(logits, temperature, (i + 0.5) / n) for i in range(n)]
    exps = [math.exp(logit / temperature) for logit in logits]
    for token, e in enumerate(exps):
        assert draws.count(token) / n == pytest.approx(e / sum(exps), abs=1e-4)


@given(LOGITS, DRAWS, st.sampled_from([0.0, 5e-324, 1e-310, 1e-300]))
def test_the_coldest_choice_is_the_largest_logit(
    logits: list[float], u: float, temperature: float
) -> None:
    if temperature == 1e-300:  # differences below 1e-297 are still drawn for
        logits = [float(round(logit)) for logit in logits]
        logits = [logit + i / 1000 for i, logit in enumerate(logits)]
    assert sample_token(logits, temperature, u) == logits.index(max(logits))


def test_first_among_equals() -> None:
    assert sample_token([1.0, 3.0, 3.0], 0, 0.99) == 1


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), DRAWS, st.floats(0, 1e300))
def test_any_logits_choose_a_token(logits: list[float], u: float, temperature: float) -> None:
    assert 0 <= sample_token(logits, temperature, u) < len(logits)


def test_a_sample_depends_on_seed_and_index_alone() -> None:
    config = Config(n_embd=4, n_head=2, block_size=5, vocab_size=6, std=0.8)
    engine = make_engine("scalar", config)
    engine.load(initial_state(init(config, random.Random(1))))
    request = SampleRequest(n=30, temperature=1.0, seed=9, bos=5)
    found = sample(engine, request)
    assert sample(engine, SampleRequest(7, 1.0, 9, 5)) == found.select(range(7))
    assert sample(engine, SampleRequest(30, 1.0, 10, 5)) != found
    assert all(5 not in tokens and len(tokens) <= 5 for tokens in found)
    assert len(set(map(tuple, found))) > 10


def test_a_sample_ends_at_bos() -> None:
    """lm_head alone decides: BOS is certain, or impossible."""
    config = Config(n_embd=1, n_head=1, block_size=4, vocab_size=3)
    engine = make_engine("scalar", config)
    params = array("d", [1.0] * len(init(config, random.Random(1))))
    for bos_logit, lengths in ((50.0, {0}), (-50.0, {4})):
        params[7 : 7 + 3] = array("d", [0.0, 0.0, bos_logit])
        engine.load(initial_state(params))
        assert {len(tokens) for tokens in sample(engine, SampleRequest(9, 1.0, 0, 2))} == lengths
