"""Log-probabilities and weights of the answers among the targets of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from kamon.engines.numerics import sequential_sum

Span = tuple[int, int]  # targets of the prompt, targets of the answer


def answer_logprobs(
    logprobs: Sequence[float], spans: Sequence[Span], sizes: Sequence[int]
) -> list[float]:
    """Return log p of each document's answer, the sum over the targets of the answer.

    logprobs: (Σ sizes,), of all targets. sizes: how many targets each document has. If a document
    was cut, these are fewer than in its span, and the sum is over the remaining targets.
    """
    answers, first = [], 0
    for (prompt, answer), size in zip(spans, sizes, strict=True):
        answers.append(
            sequential_sum(logprobs[first + prompt : first + min(prompt + answer, size)])
        )
        first += size
    return answers


def target_weights(
    weights: Sequence[float], spans: Sequence[Span], sizes: Sequence[int]
) -> list[float]:
    """Return the weight of every target, given a weight for each document's answer.

    Each target of an answer has the weight of the answer, because log p of the answer is a sum. All
    other targets have weight 0. If a document was cut, its remaining targets count.

    >>> target_weights([0.5, -1.0], [(1, 2), (0, 1)], [3, 2])
    [0.0, 0.5, 0.5, -1.0, 0.0]
    """
    all_weights: list[float] = []
    for weight, (prompt, answer), size in zip(weights, spans, sizes, strict=True):
        row = [0.0] * prompt + [weight] * answer
        all_weights += row[:size] + [0.0] * (size - len(row))
    return all_weights
