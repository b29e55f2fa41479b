"""What a training wants, as weights: each objective is a short function of log-probabilities.

`Engine.backward(batch, weights)` adds the gradient of Σ w_t · (−log p_t). With w_t = −∂L/∂log p_t
that is the gradient of L, whatever L is: by the chain rule −w_t is all that the parameters need to
know of it. So a function here takes log-probabilities and returns weights, and beside it stands one
that returns L itself. No engine is in this file, and no engine knows what is here.

All log-probabilities are in nats. A span says of a document how many of its targets belong to the
prompt and how many after them to the answer; targets after these belong to neither. Losses are
means, over tokens or over pairs as each says, so a batch's size does not change the learning rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kamon.engines.numerics import mean, sequential_sum
from kamon.engines.spans import Span, target_weights


def log_sigmoid(z: float) -> float:
    """log σ(z) = −log(1 + exp(−z)), of any z.

    >>> log_sigmoid(-1000.0), log_sigmoid(1000.0)
    (-1000.0, 0.0)
    """
    return min(z, 0.0) - math.log1p(math.exp(-abs(z)))


def sigmoid(z: float) -> float:
    """σ(z) = 1 / (1 + exp(−z)), of any z."""
    return math.exp(log_sigmoid(z))


def left_of(span: Span, size: int) -> int:
    """Targets of an answer in a document that has so many in all, after it was cut."""
    prompt, answer = span
    return max(0, min(prompt + answer, size) - prompt)


# ---- supervised fine-tuning


def sft_weights(spans: Sequence[Span], sizes: Sequence[int]) -> list[float]:
    """Weights of supervised fine-tuning: answers are learned, and prompts are only read.

    L = −(1/n) Σ log p_t  over the n targets of all answers, the end of each included

    The loss is `sft_loss`. A document without a prompt has a span (0, all its targets): then this
    is pretraining. Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5.

    >>> sft_weights([(2, 1), (0, 3)], [3, 3])
    [0.0, 0.0, 0.25, 0.25, 0.25, 0.25]
    """
    share = 1 / sum(map(left_of, spans, sizes))
    return target_weights([share] * len(spans), spans, sizes)


def sft_loss(logprobs: Sequence[float], weights: Sequence[float]) -> float:
    """L of `sft_weights`, in nats per token: Σ w_t · (−log p_t)."""
    return sequential_sum(-w * p for w, p in zip(weights, logprobs, strict=True) if w)


# ---- a reward model


def bradley_terry_weights(margins: Sequence[float]) -> list[float]:
    """Weights of a reward model that learns which of two documents people prefer.

    L = −mean log σ(m),  m = r(chosen) − r(rejected),  r = log p(good) − log p(bad)

    good and bad are two special tokens, each a target after the whole document. Takes the m of
    each pair; returns one weight w = −∂L/∂m for each. With it go log p(good) of the chosen document
    and log p(bad) of the rejected one, and with −w the other two. Loss: `bradley_terry_loss`.
    Source: Bradley and Terry 1952, doi:10.2307/2334029; as in Ouyang et al. 2022, arXiv:2203.02155.

    >>> bradley_terry_weights([0.0, 0.0])
    [0.25, 0.25]
    """
    return [sigmoid(-m) / len(margins) for m in margins]


def bradley_terry_loss(margins: Sequence[float]) -> float:
    """L of `bradley_terry_weights`: log 2 where nothing is known."""
    return -mean([log_sigmoid(m) for m in margins])


# ---- preferences without a reward model


def dpo_margins(
    chosen: Sequence[float],
    rejected: Sequence[float],
    ref_chosen: Sequence[float],
    ref_rejected: Sequence[float],
) -> list[float]:
    """(chosen − ref_chosen) − (rejected − ref_rejected) of each pair: how much more the model
    prefers the chosen answer than the reference does, in nats."""
    pairs = zip(chosen, rejected, ref_chosen, ref_rejected, strict=True)
    return [(c - rc) - (r - rr) for c, r, rc, rr in pairs]


def dpo_weights(
    chosen: Sequence[float],
    rejected: Sequence[float],
    ref_chosen: Sequence[float],
    ref_rejected: Sequence[float],
    beta: float,
    label_smoothing: float = 0.0,
) -> tuple[list[float], list[float]]:
    """Weights that make `Engine.backward` descend the DPO loss.

    L = −mean [(1 − ε) log σ(z) + ε log σ(−z)]
    z = β·[(chosen − ref_chosen) − (rejected − ref_rejected)]

    Takes the log-probability of each whole answer in nats, prompt excluded, by the model and by the
    frozen reference; ε is label_smoothing, the share of pairs that are believed to stand the wrong
    way round. Returns −∂L/∂logp for (chosen, rejected), to be given to every target of an answer
    (`target_weights`). Loss: `dpo_loss`. Source: Rafailov et al. 2023, arXiv:2305.18290; ε:
    Mitchell 2023, "A note on DPO with noisy preferences".
    """
    margins = dpo_margins(chosen, rejected, ref_chosen, ref_rejected)
    share = beta / len(margins)
    found = [
        share * ((1 - label_smoothing) * sigmoid(-beta * m) - label_smoothing * sigmoid(beta * m))
        for m in margins
    ]
    return found, [-w for w in found]


def dpo_loss(margins: Sequence[float], beta: float, label_smoothing: float = 0.0) -> float:
    """L of `dpo_weights`, of `dpo_margins`."""
    return -mean(
        [
            (1 - label_smoothing) * log_sigmoid(beta * m) + label_smoothing * log_sigmoid(-beta * m)
            for m in margins
        ]
    )


def ipo_weights(
    chosen: Sequence[float],
    rejected: Sequence[float],
    ref_chosen: Sequence[float],
    ref_rejected: Sequence[float],
    beta: float,
) -> tuple[list[float], list[float]]:
    """The same for IPO, whose margin has a goal instead of growing for ever.

    L = mean (h − 1/(2β))²,  h = (chosen − ref_chosen) − (rejected − ref_rejected)

    Arguments and result as of `dpo_weights`. β is the paper's τ; h is of whole answers, as there,
    and not of means over tokens, as in some libraries. Loss: `ipo_loss`.
    Source: Azar et al. 2023, arXiv:2310.12036.
    """
    margins = dpo_margins(chosen, rejected, ref_chosen, ref_rejected)
    found = [-2 * (h - 1 / (2 * beta)) / len(margins) for h in margins]
    return found, [-w for w in found]


def ipo_loss(margins: Sequence[float], beta: float) -> float:
    """L of `ipo_weights`, of `dpo_margins`."""
    return mean([(h - 1 / (2 * beta)) ** 2 for h in margins])


# ---- rewards: a policy, what it may not leave, and what it is compared with


def ppo_weights(
    logprobs: Sequence[float],
    old_logprobs: Sequence[float],
    advantages: Sequence[float],
    clip: float,
) -> list[float]:
    """Weights of PPO's clipped objective, a target at a time.

    L = −mean min(ρA, clip(ρ, 1 − c, 1 + c)·A),  ρ = exp(logprobs − old_logprobs)

    Takes for each target of the answers its log-probability now and when it was drawn, and its
    advantage A; the mean is over targets. If the ratio has already gone beyond the clip in the
    direction that A asks for, the weight is 0; elsewhere it is ρA/n. Before the first update ρ = 1,
    and this is the policy gradient (REINFORCE). Loss: `ppo_loss`.
    Source: Schulman et al. 2017, arXiv:1707.06347.

    >>> ppo_weights([-1.0, -1.0], [-1.0, -2.0], [2.0, 2.0], clip=0.2)
    [1.0, 0.0]
    """
    found = []
    for now, old, advantage in zip(logprobs, old_logprobs, advantages, strict=True):
        ratio = math.exp(now - old)
        beyond = ratio > 1 + clip if advantage > 0 else ratio < 1 - clip
        found.append(0.0 if beyond else ratio * advantage / len(logprobs))
    return found


def ppo_loss(
    logprobs: Sequence[float],
    old_logprobs: Sequence[float],
    advantages: Sequence[float],
    clip: float,
) -> float:
    """L of `ppo_weights`."""
    gains = []
    for now, old, advantage in zip(logprobs, old_logprobs, advantages, strict=True):
        ratio = math.exp(now - old)
        clipped = min(max(ratio, 1 - clip), 1 + clip)
        gains.append(min(ratio * advantage, clipped * advantage))
    return -mean(gains)


def group_advantages(rewards: Sequence[float], group_size: int) -> list[float]:
    """Each reward less the mean of the others in its group: a group baseline instead of a critic.

    A group is group_size answers in a row to the same prompt. What is taken off does not depend on
    the answer itself, so the policy gradient keeps its mean and loses variance. Unlike in GRPO
    nothing is divided by the group's deviation, which would weigh easy and hopeless prompts most.
    ValueError for a group of one, or one that is not whole.
    Source: Kool et al. 2019 (leave-one-out); Ahmadian et al. 2024, arXiv:2402.14740 (RLOO); the
    group: Shao et al. 2024, arXiv:2402.03300 (GRPO).

    >>> group_advantages([1.0, 0.0, 0.0, 3.0, 3.0, 3.0], 3)
    [1.0, -0.5, -0.5, 0.0, 0.0, 0.0]
    """
    if group_size < 2 or len(rewards) % group_size:
        raise ValueError(f"{len(rewards)} rewards are not groups of {group_size}, 2 or more")
    found = []
    for first in range(0, len(rewards), group_size):
        group = rewards[first : first + group_size]
        total = sequential_sum(group)
        found += [r - (total - r) / (group_size - 1) for r in group]
    return found


# ---- a critic


def critic_values(good: Sequence[float], bad: Sequence[float]) -> list[float]:
    """V of each prefix, the reward to expect after it: p(good) / (p(good) + p(bad)).

    good, bad: log p of the two special tokens as targets directly after the prefix. Where
    `critic_weights` have taught all that there is to learn, both together have probability 1; as a
    share V means something from the first step on.
    """
    return [sigmoid(g - b) for g, b in zip(good, bad, strict=True)]


def critic_weights(returns: Sequence[float]) -> tuple[list[float], list[float]]:
    """Weights of a critic: after each prefix the odds of good are to be the reward that came.

    L = −mean [R log p(good) + (1 − R) log p(bad)],  R in [0, 1]

    Takes R of each prefix, the reward of the answer that it is the beginning of; returns the
    weights of (good, bad): one soft target as two weighted ones. A cross-entropy is least where
    p(good) is the mean of R. Loss: `critic_loss`. ValueError for an R outside [0, 1].
    """
    if not all(0 <= r <= 1 for r in returns):
        raise ValueError("a critic learns rewards from 0 to 1")
    share = 1 / len(returns)
    return [share * r for r in returns], [share * (1 - r) for r in returns]


def critic_loss(good: Sequence[float], bad: Sequence[float], returns: Sequence[float]) -> float:
    """L of `critic_weights`, in nats a prefix."""
    rows = zip(good, bad, returns, strict=True)
    return -mean([r * g + (1 - r) * b for g, b, r in rows])


def advantages_with_critic(
    reward: float, values: Sequence[float], decay: float = 1.0
) -> list[float]:
    """The advantage of each target of one answer, whose reward comes at its end.

    A_t = Σ_k decay^k · (V_{t+k+1} − V_{t+k}),  V after the last target being the reward

    values: V of the prefix before each target. decay is λ of GAE, γ being 1: with 1 this is
    reward − V_t, without bias; with 0 only the next value counts, which varies least.
    Source: Schulman et al. 2015, arXiv:1506.02438.

    >>> advantages_with_critic(1.0, [0.25, 0.5])
    [0.75, 0.5]
    >>> advantages_with_critic(1.0, [0.25, 0.5], decay=0.0)
    [0.25, 0.5]
    """
    found: list[float] = []
    after, ahead = reward, 0.0
    for value in reversed(values):
        ahead = after - value + decay * ahead
        found.append(ahead)
        after = value
    return found[::-1]
