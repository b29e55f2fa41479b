"""Objectives: the weights of each give the same gradient as autograd of its loss.

Each test writes the loss in Values on the log-probabilities of documents. `Engine.backward` with
the weights must return the gradient of every parameter, to 1e-12 of the largest.
"""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable, Sequence
from functools import reduce
from itertools import accumulate, pairwise
from operator import add
from typing import Any, cast

import pytest

from kamon.config import Config
from kamon.engines import spans
from kamon.engines.base import initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init
from kamon.engines.scalar import ScalarEngine, Value, document_logprobs
from kamon.finetuning import losses

CONFIG = Config(n_layer=2, n_embd=4, n_head=2, block_size=8, vocab_size=6, std=0.7)
SPANS = [(2, 3), (0, 4), (3, 2), (1, 1)]
# In the second document one target belongs to neither part, in the last one two do.
SIZES = [5, 5, 5, 4]
Loss = Callable[[list[list[Value]]], Value]  # maps the log-probabilities of each document


def scalar_engine(seed: int = 1) -> ScalarEngine:
    engine = cast(ScalarEngine, make_engine("scalar", CONFIG))
    engine.load(initial_state(init(CONFIG, random.Random(seed))))
    return engine


def documents(seed: int = 1, sizes: Sequence[int] = SIZES) -> PackedBatch:
    rng = random.Random(seed)
    return pack_sequences([rng.randrange(CONFIG.vocab_size) for _ in range(n + 1)] for n in sizes)


def total(values: Sequence[Value]) -> Value:
    return reduce(add, values)


def log_sigmoid(z: Value) -> Value:
    """−log(1 + exp(−z)), as in a textbook."""
    return -((-z).exp() + 1.0).log()


def autograd(batch: PackedBatch, loss: Loss) -> tuple[float, list[float]]:
    """Return the loss and its gradient in all parameters, by autograd through the whole model."""
    engine = scalar_engine()
    rows = [
        document_logprobs(engine.params, CONFIG.n_layer, CONFIG.head_dim, tokens)
        for tokens in batch
    ]
    found = loss(rows)
    found.backward()
    return found.data, list(engine.gradients())


def check(
    batch: PackedBatch, loss: Loss, ours: Callable[[array[float]], tuple[float, list[float]]]
) -> None:
    """Compare with autograd. `ours` returns the loss and the weights for log-probabilities."""
    wanted_loss, wanted = autograd(batch, loss)
    engine = scalar_engine()
    found_loss, weights = ours(engine.logprobs(batch))
    engine.backward(batch, weights)
    largest = max(map(abs, wanted))
    assert largest > 1e-3
    assert found_loss == pytest.approx(wanted_loss, rel=1e-12)
    for gradient, other in zip(engine.gradients(), wanted, strict=True):
        assert gradient == pytest.approx(other, abs=1e-12 * largest)


def answers(rows: list[list[Value]]) -> list[Value]:
    return [total(row[p : p + a]) for row, (p, a) in zip(rows, SPANS, strict=True)]


def drawn(seed: int, n: int, low: float = -3.0, high: float = 3.0) -> list[float]:
    rng = random.Random(seed)
    return [rng.uniform(low, high) for _ in range(n)]


def test_sft_learns_answers_alone() -> None:
    def loss(rows: list[list[Value]]) -> Value:
        return total(answers(rows)) * (-1 / 10)  # answers have 3 + 4 + 2 + 1 targets

    weights = losses.sft_weights(SPANS, SIZES)
    check(documents(), loss, lambda logprobs: (losses.sft_loss(logprobs, weights), weights))
    assert [w for w in weights if w] == [0.1] * 10
    assert weights[:5] == [0.0, 0.0, 0.1, 0.1, 0.1]


def test_sft_without_prompts_is_pretraining() -> None:
    spans = [(0, size) for size in SIZES]
    assert losses.sft_weights(spans, SIZES) == [1 / sum(SIZES)] * sum(SIZES)


GOOD, BAD = 4, 5
TEXTS = ((0, 1, 2, 0), (0, 3, 0), (0, 2, 2, 1, 0), (0, 1, 0))  # chosen, rejected, chosen, rejected
JUDGED = pack_sequences([*text, verdict] for text in TEXTS for verdict in (GOOD, BAD))
JUDGED_SIZES = [len(tokens) - 1 for tokens in JUDGED]
JUDGED_SPANS = [(size - 1, 1) for size in JUDGED_SIZES]


def test_a_reward_model() -> None:
    def loss(rows: list[list[Value]]) -> Value:
        last = [row[-1] for row in rows]
        rewards = [good - bad for good, bad in zip(last[::2], last[1::2], strict=True)]
        return (
            -total([log_sigmoid(c - r) for c, r in zip(rewards[::2], rewards[1::2], strict=True)])
            * 0.5
        )

    def ours(logprobs: array[float]) -> tuple[float, list[float]]:
        last = spans.answer_logprobs(logprobs, JUDGED_SPANS, JUDGED_SIZES)
        rewards = [good - bad for good, bad in zip(last[::2], last[1::2], strict=True)]
        margins = [c - r for c, r in zip(rewards[::2], rewards[1::2], strict=True)]
        weights = [x for w in losses.bradley_terry_weights(margins) for x in (w, -w, -w, w)]
        return losses.bradley_terry_loss(margins), spans.target_weights(
            weights, JUDGED_SPANS, JUDGED_SIZES
        )

    check(JUDGED, loss, ours)


PREFERENCES: list[tuple[Any, Any, Any]] = [
    (
        lambda h: -(log_sigmoid(h * 0.7)),
        lambda margins: losses.dpo_weights(margins, 0.7),
        lambda margins: losses.dpo_loss(margins, 0.7),
    ),
    (
        lambda h: -(log_sigmoid(h * 0.7) * 0.9 + log_sigmoid(h * -0.7) * 0.1),
        lambda margins: losses.dpo_weights(margins, 0.7, 0.1),
        lambda margins: losses.dpo_loss(margins, 0.7, 0.1),
    ),
    (
        lambda h: (h - 2.5) ** 2,
        lambda margins: losses.ipo_weights(margins, 0.2),
        lambda margins: losses.ipo_loss(margins, 0.2),
    ),
]


@pytest.mark.parametrize(
    ("of_margin", "weights_of", "loss_of"), PREFERENCES, ids=["dpo", "smoothed", "ipo"]
)
def test_preferences(of_margin: Any, weights_of: Any, loss_of: Any) -> None:
    """Documents 0 and 2 are chosen, 1 and 3 rejected."""
    refs = drawn(3, 4, -9.0, -3.0)

    def loss(rows: list[list[Value]]) -> Value:
        better = [logp - ref for logp, ref in zip(answers(rows), refs, strict=True)]
        return (of_margin(better[0] - better[1]) + of_margin(better[2] - better[3])) * 0.5

    def ours(logprobs: array[float]) -> tuple[float, list[float]]:
        found = spans.answer_logprobs(logprobs, SPANS, SIZES)
        margins = losses.dpo_margins(found[::2], found[1::2], refs[::2], refs[1::2])
        each = [w for weight in weights_of(margins) for w in (weight, -weight)]
        return loss_of(margins), spans.target_weights(each, SPANS, SIZES)

    check(documents(), loss, ours)


def per_token(
    function: Callable[[list[float]], list[float]],
) -> Callable[[array[float]], list[float]]:
    """Extend a function of the answers' targets to all targets, with weights of 0 outside."""
    inside = [
        first + i
        for first, (p, a) in zip(accumulate(SIZES, initial=0), SPANS, strict=False)
        for i in range(p, p + a)
    ]

    def weights(logprobs: array[float]) -> list[float]:
        found = [0.0] * len(logprobs)
        for place, w in zip(inside, function([logprobs[i] for i in inside]), strict=True):
            found[place] = w
        return found

    return weights


def flat(rows: list[list[Value]]) -> list[Value]:
    return [x for row, (p, a) in zip(rows, SPANS, strict=True) for x in row[p : p + a]]


def own_logprobs() -> list[float]:
    logprobs = scalar_engine().logprobs(documents())
    ends = list(accumulate(SIZES, initial=0))
    rows = [logprobs[a:b] for a, b in pairwise(ends)]
    return [x for row, (p, a) in zip(rows, SPANS, strict=True) for x in row[p : p + a]]


@pytest.mark.parametrize("clip", [0.2, 10.0])
def test_ppo(clip: float) -> None:
    """Ratios are on both sides of the clip, advantages have both signs, and 4 of 10 are clipped."""
    now = own_logprobs()
    shifts = [0.0, 0.1, -0.1, 0.5, -0.5, 0.5, -0.5, 0.05, 1.0, -1.0]
    old = [p - shift for p, shift in zip(now, shifts, strict=True)]
    advantages = [1.0, -2.0, 0.5, 1.5, 1.0, -1.0, -0.5, 0.0, 2.0, -3.0]

    def loss(rows: list[list[Value]]) -> Value:
        gains = []
        for logp, before, advantage in zip(flat(rows), old, advantages, strict=True):
            ratio = (logp - before).exp()
            clipped = Value(min(max(ratio.data, 1 - clip), 1 + clip))
            both = ratio * advantage, clipped * advantage
            gains.append(both[0] if both[0].data <= both[1].data else both[1])
        return -total(gains) * 0.1

    weights = per_token(lambda logprobs: losses.ppo_weights(logprobs, old, advantages, clip))
    check(
        documents(),
        loss,
        lambda p: (losses.ppo_loss(own_logprobs(), old, advantages, clip), weights(p)),
    )
    zero = [w == 0 for w in losses.ppo_weights(now, old, advantages, clip)]
    assert sum(zero) == (5 if clip < 1 else 1)  # one advantage is 0


def test_ppo_begins_as_the_policy_gradient() -> None:
    now, advantages = own_logprobs(), drawn(5, 10)
    weights = losses.ppo_weights(now, now, advantages, 0.2)
    assert weights == pytest.approx([a / 10 for a in advantages], rel=1e-15)


def test_a_critic() -> None:
    returns = [1.0, 0.0, 0.3, 0.9]

    def loss(rows: list[list[Value]]) -> Value:
        last = [row[-1] for row in rows]
        pairs = zip(last[::2], last[1::2], returns, strict=True)
        return -total([g * r + b * (1 - r) for g, b, r in pairs]) * 0.25

    def ours(logprobs: array[float]) -> tuple[float, list[float]]:
        last = spans.answer_logprobs(logprobs, JUDGED_SPANS, JUDGED_SIZES)
        both = zip(*losses.critic_weights(returns), strict=True)
        weights = [w for pair in both for w in pair]
        return (
            losses.critic_loss(last[::2], last[1::2], returns),
            spans.target_weights(weights, JUDGED_SPANS, JUDGED_SIZES),
        )

    check(JUDGED, loss, ours)


# ---- central differences: the weights are −∂L/∂log p, whatever the model


def numbers_of(seed: int) -> tuple[list[float], list[float]]:
    return drawn(seed, 8, -4.0, -0.2), drawn(seed + 1, 8, -4.0, -0.2)


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_slopes(seed: int) -> None:
    logprobs, refs = numbers_of(seed)
    advantages = drawn(seed + 2, 8)

    def of_pairs(chosen: list[float]) -> list[float]:
        return [*chosen, *(-w for w in chosen)]

    def margins(p: list[float]) -> list[float]:
        return losses.dpo_margins(p[:4], p[4:], refs[:4], refs[4:])

    returns = [0.5 + a / 6 for a in advantages[:4]]
    cases: list[tuple[Callable[[list[float]], float], list[float]]] = [
        (
            lambda p: losses.dpo_loss(margins(p), 0.3, 0.2),
            of_pairs(losses.dpo_weights(margins(logprobs), 0.3, 0.2)),
        ),  # type: ignore[misc]
        (
            lambda p: losses.ipo_loss(margins(p), 0.3),
            of_pairs(losses.ipo_weights(margins(logprobs), 0.3)),
        ),  # type: ignore[misc]
        (losses.bradley_terry_loss, losses.bradley_terry_weights(logprobs)),
        (
            lambda p: losses.ppo_loss(p, refs, advantages, 0.2),
            losses.ppo_weights(logprobs, refs, advantages, 0.2),
        ),
        (
            lambda p: losses.critic_loss(p[:4], p[4:], returns),
            [w for side in losses.critic_weights(returns) for w in side],
        ),
    ]
    h = 1e-5
    for loss, weights in cases:
        for i in range(8):
            slopes = []
            for side in (h, -h):
                moved = list(logprobs)
                moved[i] += side
                slopes.append(loss(moved))
            slope = (slopes[0] - slopes[1]) / (2 * h)
            assert weights[i] == pytest.approx(-slope, abs=1e-8)


# ---- a model of two tokens: one parameter θ, p(1) = σ(θ)


def two_tokens(theta: float) -> tuple[float, float]:
    """log p of tokens 0 and 1."""
    return math.log(1 / (1 + math.exp(theta))), math.log(1 / (1 + math.exp(-theta)))


def slope_in_theta(weights: Sequence[float], tokens: Sequence[int], theta: float) -> float:
    """Return dL/dθ = −Σ w · d log p/dθ. The derivative is 1 − p(1) or, for token 0, −p(1)."""
    p = 1 / (1 + math.exp(-theta))
    return -sum(w * (token - p) for w, token in zip(weights, tokens, strict=True))


@pytest.mark.parametrize("theta", [-2.0, 0.0, 0.5, 3.0])
def test_dpo_of_two_tokens(theta: float) -> None:
    """Token 1 is chosen: L = −log σ(β(θ − θ_ref)), because log p(1) − log p(0) is θ."""
    beta, theta_ref = 0.6, 0.4
    now, ref = two_tokens(theta), two_tokens(theta_ref)
    margins = losses.dpo_margins([now[1]], [now[0]], [ref[1]], [ref[0]])
    weights = losses.dpo_weights(margins, beta)
    assert margins == [pytest.approx(theta - theta_ref)]
    assert losses.dpo_loss(margins, beta) == pytest.approx(
        math.log1p(math.exp(-beta * (theta - theta_ref)))
    )
    closed = -beta / (1 + math.exp(beta * (theta - theta_ref)))
    assert slope_in_theta([weights[0], -weights[0]], [1, 0], theta) == pytest.approx(closed)


@pytest.mark.parametrize("theta", [-2.0, 0.0, 0.5, 3.0])
def test_ppo_of_two_tokens(theta: float) -> None:
    """With A(1) = 1 and A(0) = 0, the expected advantage E[A] has the slope p(1 − p)."""
    p = 1 / (1 + math.exp(-theta))
    now = two_tokens(theta)
    slope = 0.0
    for token, chance in ((1, p), (0, 1 - p)):
        weights = losses.ppo_weights([now[token]], [now[token]], [float(token)], 0.2)
        slope += chance * slope_in_theta(weights, [token], theta)
    assert slope == pytest.approx(-p * (1 - p))


# ---- advantages


def test_a_group_is_its_own_baseline() -> None:
    rewards = drawn(1, 12)
    found = losses.group_advantages(rewards, 4)
    for first in range(0, 12, 4):
        group = rewards[first : first + 4]
        for i in range(4):
            others = [r for j, r in enumerate(group) if j != i]
            assert found[first + i] == pytest.approx(group[i] - sum(others) / 3)
        assert sum(found[first : first + 4]) == pytest.approx(0)
    assert losses.group_advantages([2.0] * 6, 3) == [0.0] * 6
    assert losses.group_advantages([1.0, 3.0], 2) == [-2.0, 2.0]  # the smallest group


@pytest.mark.parametrize(("n", "size"), [(4, 1), (5, 2), (4, 0)])
def test_groups_that_are_none(n: int, size: int) -> None:
    with pytest.raises(ValueError, match="are not groups"):
        losses.group_advantages([1.0] * n, size)


def test_advantages_with_a_critic() -> None:
    values = [0.5, 0.7, 0.2]
    assert losses.advantages_with_critic(1.0, values) == pytest.approx([1 - v for v in values])
    assert losses.advantages_with_critic(1.0, values, gae_lambda=0.0) == pytest.approx(
        [0.2, -0.5, 0.8]
    )
    deltas = [0.2, -0.5, 0.8]
    wanted = [sum(0.9**k * d for k, d in enumerate(deltas[t:])) for t in range(3)]
    assert losses.advantages_with_critic(1.0, values, gae_lambda=0.9) == pytest.approx(wanted)


def test_a_critic_settles_at_the_mean_reward() -> None:
    """At p(good) = mean R the gradient in the logits of good and bad is 0."""
    good, bad = losses.critic_weights([1.0, 0.0, 0.0, 1.0, 1.0])
    assert sum(good) == pytest.approx(0.6)
    assert sum(bad) == pytest.approx(0.4)
    assert losses.critic_values([math.log(0.6)], [math.log(0.4)]) == [pytest.approx(0.6)]
    with pytest.raises(ValueError, match="from 0 to 1"):
        losses.critic_weights([1.5])


def test_far_numbers() -> None:
    """Large numbers do not overflow."""
    far = [1e4, -1e4]
    assert losses.bradley_terry_weights(far) == [0.0, 0.5]
    assert losses.dpo_weights(far, 1.0) == [0.0, 0.5]
    assert losses.dpo_loss(far, 1.0) == 5000.0


def test_a_cut_document_has_the_weights_of_what_is_left() -> None:
    answers, sizes = [(2, 3), (0, 4), (3, 2)], [4, 4, 2]
    weights = losses.sft_weights(answers, sizes)
    assert weights == [0.0, 0.0, *[1 / 6] * 6, 0.0, 0.0]
    assert losses.sft_loss([-1.0] * 10, weights) == pytest.approx(1.0)
    found = spans.answer_logprobs([float(-i) for i in range(10)], answers, sizes)
    assert found == [-5.0, -22.0, 0.0]
