"""Objectives as weights: each is a short function of log-probabilities.

`Engine.backward(batch, weights)` adds the gradient of Σ w_t · (−log p_t). With w_t = −∂L/∂log p_t
this is the gradient of any loss L, by the chain rule. So each objective has two functions here. One
takes log-probabilities and returns the weights. The other returns L itself. This file uses no
engine, and no engine knows an objective.

All log-probabilities are in nats. A span is (targets of the prompt, targets of the answer) of a
document. Further targets belong to neither. Losses are means over tokens or pairs, so the batch
size does not change the scale of the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kamon.engines.numerics import mean, sequential_sum
from kamon.engines.spans import Span, target_weights


def log_sigmoid(z: float) -> float:
    """Return log σ(z) = −log(1 + exp(−z)), without overflow.

    >>> log_sigmoid(-1000.0), log_sigmoid(1000.0)
    (-1000.0, 0.0)
    """
    return min(z, 0.0) - math.log1p(math.exp(-abs(z)))


def sigmoid(z: float) -> float:
    """Return σ(z) = 1 / (1 + exp(−z)), without overflow."""
    return math.exp(log_sigmoid(z))


def num_answer_targets(span: Span, size: int) -> int:
    """Return the number of targets of the answer, in a document cut to `size` targets."""
    prompt, answer = span
    return max(0, min(prompt + answer, size) - prompt)


# ---- supervised fine-tuning


def sft_weights(spans: Sequence[Span], sizes: Sequence[int]) -> list[float]:
    """Return the weights of supervised fine-tuning: the model learns only answers, not prompts.

    L = −(1/n) Σ log p_t  over the n targets of all answers, including the end of each

    A document without a prompt has the span (0, all its targets). If no document has a prompt, this
    is pretraining. Loss: `sft_loss`. Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.

    Args:
        spans: the span of each document.
        sizes: number of targets of each document.

    >>> sft_weights([(2, 1), (0, 3)], [3, 3])
    [0.0, 0.0, 0.25, 0.25, 0.25, 0.25]
    """
    share = 1 / sum(map(num_answer_targets, spans, sizes))
    return target_weights([share] * len(spans), spans, sizes)


def sft_loss(logprobs: Sequence[float], weights: Sequence[float]) -> float:
    """Return L of `sft_weights` in nats per token: Σ w_t · (−log p_t)."""
    return sequential_sum(-w * p for w, p in zip(weights, logprobs, strict=True) if w)


# ---- a reward model


def bradley_terry_weights(margins: Sequence[float]) -> list[float]:
    """Return the weights of a reward model, which learns which of two documents people prefer.

    L = −mean log σ(m),  m = r(chosen) − r(rejected),  r = log p(good) − log p(bad)

    good and bad are two special tokens, which are targets after the whole document. The result is
    w = −∂L/∂m of each pair. This is the weight of log p(good) of the chosen document and of
    log p(bad) of the rejected one. The other two have the weight −w. Loss: `bradley_terry_loss`.
    Sources: Bradley and Terry 1952, doi:10.2307/2334029, Ouyang et al. 2022, arXiv:2203.02155.

    >>> bradley_terry_weights([0.0, 0.0])
    [0.25, 0.25]
    """
    return [sigmoid(-m) / len(margins) for m in margins]


def bradley_terry_loss(margins: Sequence[float]) -> float:
    """Return L of `bradley_terry_weights`, in nats per pair. An untrained model has log 2."""
    return -mean([log_sigmoid(m) for m in margins])


# ---- preferences without a reward model


def dpo_margins(
    chosen: Sequence[float],
    rejected: Sequence[float],
    ref_chosen: Sequence[float],
    ref_rejected: Sequence[float],
) -> list[float]:
    """Return (chosen − ref_chosen) − (rejected − ref_rejected) of each pair, in nats.

    The margin says how much more the model prefers the chosen answer than the frozen reference
    does. The arguments are log p of each whole answer in nats, without its prompt.
    """
    pairs = zip(chosen, rejected, ref_chosen, ref_rejected, strict=True)
    return [(c - rc) - (r - rr) for c, r, rc, rr in pairs]


def dpo_weights(margins: Sequence[float], beta: float, label_smoothing: float = 0.0) -> list[float]:
    """Return the weights of DPO.

    L = −mean [(1 − ε) log σ(βm) + ε log σ(−βm)],  m from `dpo_margins`

    The result is w = −∂L/∂m of each pair. Each target of the chosen answer has the weight w, and
    each target of the rejected answer −w. Loss: `dpo_loss`.
    Source: Rafailov et al. 2023, arXiv:2305.18290. For ε: Mitchell 2023, "A note on DPO with noisy
    preferences".

    Args:
        beta: strength of the KL penalty.
        label_smoothing: ε, the assumed share of pairs that are the wrong way round.
    """
    share = beta / len(margins)
    return [
        share * ((1 - label_smoothing) * sigmoid(-beta * m) - label_smoothing * sigmoid(beta * m))
        for m in margins
    ]


def dpo_loss(margins: Sequence[float], beta: float, label_smoothing: float = 0.0) -> float:
    """Return L of `dpo_weights`. margins: from `dpo_margins`."""
    return -mean(
        [
            (1 - label_smoothing) * log_sigmoid(beta * m) + label_smoothing * log_sigmoid(-beta * m)
            for m in margins
        ]
    )


def ipo_weights(margins: Sequence[float], beta: float) -> list[float]:
    """Return the weights of IPO, which moves the margin towards 1/(2β) instead of infinity.

    L = mean (m − 1/(2β))²,  m from `dpo_margins`

    The result is as in `dpo_weights`. β is the paper's τ. As in the paper, m is of whole answers.
    Some libraries use means over tokens instead. Loss: `ipo_loss`.
    Source: Azar et al. 2023, arXiv:2310.12036.
    """
    return [-2 * (m - 1 / (2 * beta)) / len(margins) for m in margins]


def ipo_loss(margins: Sequence[float], beta: float) -> float:
    """Return L of `ipo_weights`. margins: from `dpo_margins`."""
    return mean([(m - 1 / (2 * beta)) ** 2 for m in margins])


# ---- PPO


def ppo_weights(
    logprobs: Sequence[float],
    old_logprobs: Sequence[float],
    advantages: Sequence[float],
    clip_range: float,
) -> list[float]:
    """Return the weights of PPO's clipped objective, one per target.

    L = −mean min(ρA, clip(ρ, 1 − c, 1 + c)·A),  ρ = exp(logprobs − old_logprobs)

    The weight is 0 if ρ has already left the range in the direction of A, or else ρA/n. Before the
    first update ρ = 1, and this is the policy gradient (REINFORCE). Loss: `ppo_loss`.
    Source: Schulman et al. 2017, arXiv:1707.06347.

    Args:
        logprobs, old_logprobs: log p of each target now, and when it was sampled, in nats.
        advantages: A of each target.
        clip_range: c.

    >>> ppo_weights([-1.0, -1.0], [-1.0, -2.0], [2.0, 2.0], clip_range=0.2)
    [1.0, 0.0]
    """
    weights = []
    for now, old, advantage in zip(logprobs, old_logprobs, advantages, strict=True):
        ratio = math.exp(now - old)
        beyond = ratio > 1 + clip_range if advantage > 0 else ratio < 1 - clip_range
        weights.append(0.0 if beyond else ratio * advantage / len(logprobs))
    return weights


def ppo_loss(
    logprobs: Sequence[float],
    old_logprobs: Sequence[float],
    advantages: Sequence[float],
    clip_range: float,
) -> float:
    """Return L of `ppo_weights`."""
    gains = []
    for now, old, advantage in zip(logprobs, old_logprobs, advantages, strict=True):
        ratio = math.exp(now - old)
        clipped = min(max(ratio, 1 - clip_range), 1 + clip_range)
        gains.append(min(ratio * advantage, clipped * advantage))
    return -mean(gains)


def group_advantages(rewards: Sequence[float], group_size: int) -> list[float]:
    """Return each reward minus the mean of the others in its group.

    A group is group_size answers in a row to the same prompt. The baseline does not depend on the
    answer itself, so the policy gradient keeps its mean and has less variance. Unlike GRPO, this
    does not divide by the group's deviation, because easy and hopeless prompts would then weigh
    most. Raises: ValueError for a group of one answer, or an incomplete group.
    Sources: Kool et al. 2019 (leave-one-out), Ahmadian et al. 2024, arXiv:2402.14740 (RLOO), and
    Shao et al. 2024, arXiv:2402.03300 (GRPO, for the group).

    >>> group_advantages([1.0, 0.0, 0.0, 3.0, 3.0, 3.0], 3)
    [1.0, -0.5, -0.5, 0.0, 0.0, 0.0]
    """
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards are not groups of {group_size}, 2 or more")
    advantages = []
    for first in range(0, len(rewards), group_size):
        group = rewards[first : first + group_size]
        total = sequential_sum(group)
        advantages += [r - (total - r) / (group_size - 1) for r in group]
    return advantages


# ---- a critic


def critic_values(good: Sequence[float], bad: Sequence[float]) -> list[float]:
    """Return V of each prefix, the expected reward after it: p(good) / (p(good) + p(bad)).

    A trained critic gives both tokens together a probability of 1. An untrained one does not, so V
    is a share of the two.

    Args:
        good, bad: log p of the two special tokens as targets directly after the prefix, in nats.
    """
    return [sigmoid(g - b) for g, b in zip(good, bad, strict=True)]


def critic_weights(returns: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the weights of a critic, which learns the mean reward after each prefix as p(good).

    L = −mean [R log p(good) + (1 − R) log p(bad)],  R in [0, 1]

    This cross-entropy is smallest if p(good) is the mean of R. Loss: `critic_loss`.

    Args:
        returns: R of each prefix, the reward of its answer.

    Returns: the weights of (good, bad), which make one soft target of two hard ones.
    Raises: ValueError for an R outside [0, 1].
    """
    if not all(0 <= r <= 1 for r in returns):
        raise ValueError("a critic learns rewards from 0 to 1")
    share = 1 / len(returns)
    return [share * r for r in returns], [share * (1 - r) for r in returns]


def critic_loss(good: Sequence[float], bad: Sequence[float], returns: Sequence[float]) -> float:
    """Return L of `critic_weights`, in nats per prefix."""
    rows = zip(good, bad, returns, strict=True)
    return -mean([r * g + (1 - r) * b for g, b, r in rows])


def advantages_with_critic(
    reward: float, values: Sequence[float], gae_lambda: float = 1.0
) -> list[float]:
    """Return the advantage of each target of one answer, which has its reward at its end.

    A_t = Σ_k λ^k · (V_{t+k+1} − V_{t+k}),  and V after the last target is the reward

    This is generalised advantage estimation with γ = 1. With λ = 1 it is reward − V_t, without
    bias. With λ = 0 only the next value counts, which has the least variance.
    Source: Schulman et al. 2015, arXiv:1506.02438.

    Args:
        values: V of the prefix before each target.
        gae_lambda: λ.

    >>> advantages_with_critic(1.0, [0.25, 0.5])
    [0.75, 0.5]
    >>> advantages_with_critic(1.0, [0.25, 0.5], gae_lambda=0.0)
    [0.25, 0.5]
    """
    advantages: list[float] = []
    next_value, advantage = reward, 0.0
    for value in reversed(values):
        advantage = next_value - value + gae_lambda * advantage
        advantages.append(advantage)
        next_value = value
    return advantages[::-1]
