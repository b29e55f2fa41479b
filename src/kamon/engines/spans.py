"""Log-probabilities and weights of the answers among the targets of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from kamon.engines.numerics import sequential_sum

Span = tuple[int, int]  # targets of the prompt, targets of the answer


def answer_logprobs(
    logprobs: Sequence[float], spans: Sequence[Span], sizes: Sequence[int]
) -> list[float]:
    """Return log p of each document's answer: the sum over its answer's targets.

    logprobs: (Σ sizes,) of all targets; sizes: targets of each document, of which `spans` tells the
    parts. A document that was cut has fewer targets than these, and its answer those that are left.
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

    As log p of an answer is a sum, its weight is that of each of its targets; all others have 0. Of
    a document that was cut those targets count that are left, as in `answer_logprobs`.

    >>> target_weights([0.5, -1.0], [(1, 2), (0, 1)], [3, 2])
    [0.0, 0.5, 0.5, -1.0, 0.0]
    """
    all_weights: list[float] = []
    for weight, (prompt, answer), size in zip(weights, spans, sizes, strict=True):
        row = [0.0] * prompt + [weight] * answer
        all_weights += row[:size] + [0.0] * (size - len(row))
    return all_weights
