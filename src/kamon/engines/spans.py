"""Log-probabilities and weights of the answers among the targets of a batch."""

from __future__ import annotations

from collections.abc import Sequence

from kamon.engines.numerics import sequential_sum

Span = tuple[int, int]  # targets of the prompt, targets of the answer


def answer_logprobs(
    logprobs: Sequence[float], spans: Sequence[Span], sizes: Sequence[int]
) -> list[float]:
    """Return log p of each document's answer, the sum over the targets of the answer.

    If a document was cut, it has fewer targets than its span. The sum is then over the remaining
    targets of the answer.

    Args:
        logprobs: (Σ sizes,), log p of all targets.
        spans: how many targets the prompt and the answer of each document have.
        sizes: how many targets each document has.
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

    log p of an answer is a sum, so each of its targets has the weight of the answer. All other
    targets have weight 0. If a document was cut, the remaining targets count, as in
    `answer_logprobs`.

    >>> target_weights([0.5, -1.0], [(1, 2), (0, 1)], [3, 2])
    [0.0, 0.5, 0.5, -1.0, 0.0]
    """
    all_weights: list[float] = []
    for weight, (prompt, answer), size in zip(weights, spans, sizes, strict=True):
        row = [0.0] * prompt + [weight] * answer
        all_weights += row[:size] + [0.0] * (size - len(row))
    return all_weights
