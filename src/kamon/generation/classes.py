"""Which class of a table an entry fits: Bayes' rule over the models of all classes."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence

from kamon.engines.batch import PackedBatch
from kamon.engines.loops import document_logprobs
from kamon.engines.numerics import sequential_sum
from kamon.generation.given import Conditional
from kamon.generation.sampling import log_sum_exp

LOW, HIGH = 0.02, 5.0  # a calibration is between these
NUM_HALVINGS = 40  # of the interval of its logarithm


def class_logprobs(conditional: Conditional, batch: PackedBatch) -> list[array[float]]:
    """Return log p of each document under each class, one array per class."""
    return [document_logprobs(model, batch)[0] for model in conditional.models.values()]


def posteriors(
    conditional: Conditional,
    logprobs: Sequence[Sequence[float]],
    column: str,
    calibration: float = 1.0,
) -> list[list[float]]:
    """Return the probability of each value of a column, for each document.

    p(value | entry) is in proportion to Σ p(class) · p(entry | class)^calibration over the classes
    with the value. It sums to 1 over the values, in the order of `Conditional.values`.

    Args:
        logprobs: of the documents, as of `class_logprobs`.
    """
    number = conditional.columns.index(column)
    values = conditional.values[column]
    groups = [
        [place for place, own in enumerate(conditional.models) if own[number] == value]
        for value in values
    ]
    priors = [math.log(share) for share in conditional.shares.values()]
    found = []
    for own in zip(*logprobs, strict=True):
        logs = [prior + calibration * log for prior, log in zip(priors, own, strict=True)]
        base = log_sum_exp(logs)
        found.append(
            [sequential_sum(math.exp(logs[place] - base) for place in group) for group in groups]
        )
    return found


def fit_calibration(
    conditional: Conditional,
    logprobs: Sequence[Sequence[float]],
    column: str,
    truth: Sequence[str],
) -> float:
    """Return the calibration under which the true values of documents are most probable.

    It is between LOW and HIGH. The search is by golden sections of its logarithm.
    """
    places = {value: place for place, value in enumerate(conditional.values[column])}
    wanted = [places[value] for value in truth]

    def nats(log: float) -> float:
        found = posteriors(conditional, logprobs, column, math.exp(log))
        rows = zip(found, wanted, strict=True)
        return -sequential_sum(math.log(max(row[place], 1e-300)) for row, place in rows)

    low, high, golden = math.log(LOW), math.log(HIGH), (math.sqrt(5) - 1) / 2
    left, right = high - golden * (high - low), low + golden * (high - low)
    at_left, at_right = nats(left), nats(right)
    for _ in range(NUM_HALVINGS):
        if at_left <= at_right:
            high, right, at_right = right, left, at_left
            left = high - golden * (high - low)
            at_left = nats(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + golden * (high - low)
            at_right = nats(right)
        if high - low < 1e-3:
            break
    return math.exp((low + high) / 2)
