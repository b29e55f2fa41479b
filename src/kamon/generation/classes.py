"""Which class of a table an entry fits: Bayes' rule over the models of all classes.

The GPT and the n-grams of a class judge an entry together, each with an exponent:

    p(class | entry) ∝ p(class) · p_GPT(entry | class)^a · p_n-gram(entry | class)^b

Their product separates classes better than the blend, which mixes them for each token. The
exponents a and b are those under which the true values of unseen entries are most probable. So they
also make the probabilities as sure as they may be.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

from kamon.engines.base import Reader
from kamon.engines.batch import PackedBatch
from kamon.engines.loops import document_logprobs
from kamon.engines.numerics import sequential_sum
from kamon.generation.given import Conditional
from kamon.generation.sampling import log_sum_exp

MIN_EXPONENT, MAX_EXPONENT = 0.01, 5.0
FIRST_STEP, LAST_STEP = 0.5, 0.02  # of the logarithm of an exponent, in the search for the best one
MIN_P = 1e-300  # of a true value: a smaller number may have no logarithm


def judges(conditional: Conditional) -> list[list[Reader]]:
    """Return the GPT under each class, and the n-grams of each class if there are any."""
    models = conditional.models.values()
    found: list[list[Reader]] = [[replace(model, ngram=None) for model in models]]
    ngrams = [model.ngram for model in models if model.ngram]
    return [*found, [*ngrams]] if ngrams else found


def class_logprobs(conditional: Conditional, batch: PackedBatch) -> list[list[array[float]]]:
    """Return log p of each document by each of the `judges`: arrays for the classes of each."""
    return [
        [document_logprobs(reader, batch)[0] for reader in readers]
        for readers in judges(conditional)
    ]


def posteriors(
    conditional: Conditional,
    logprobs: Sequence[Sequence[Sequence[float]]],
    column: str,
    exponents: Sequence[float],
) -> list[list[float]]:
    """Return the probability of each value of a column, for each document.

    It sums to 1 over the values, which are in the order of `Conditional.values`.

    Args:
        logprobs: of the documents, as of `class_logprobs`.
        exponents: of the `judges`.
    """
    number = conditional.columns.index(column)
    groups = [
        [place for place, own in enumerate(conditional.models) if own[number] == value]
        for value in conditional.values[column]
    ]
    priors = [math.log(share) for share in conditional.shares.values()]
    judged = [zip(*of_judge, strict=True) for of_judge in logprobs]
    found = []
    for of_document in zip(*judged, strict=True):
        logs = priors
        for exponent, own in zip(exponents, of_document, strict=True):
            logs = [log + exponent * x for log, x in zip(logs, own, strict=True)]
        base = log_sum_exp(logs)
        found.append(
            [sequential_sum(math.exp(logs[place] - base) for place in group) for group in groups]
        )
    return found


def fit_exponents(
    conditional: Conditional,
    logprobs: Sequence[Sequence[Sequence[float]]],
    column: str,
    truth: Sequence[str],
) -> list[float]:
    """Return the exponents under which the true values of documents are most probable.

    The search changes one exponent at a time by a factor, as long as that helps, and then by
    smaller factors.
    """
    places = {value: place for place, value in enumerate(conditional.values[column])}
    wanted = [places[value] for value in truth]

    def nats(exponents: Sequence[float]) -> float:
        found = posteriors(conditional, logprobs, column, exponents)
        rows = zip(found, wanted, strict=True)
        return -sequential_sum(math.log(max(row[place], MIN_P)) for row, place in rows)

    best = [1 / len(logprobs)] * len(logprobs)
    least, step = nats(best), FIRST_STEP
    while step > LAST_STEP:
        improved = False
        for judge in range(len(best)):
            for factor in (math.exp(step), math.exp(-step)):
                tried = list(best)
                tried[judge] = min(max(factor * tried[judge], MIN_EXPONENT), MAX_EXPONENT)
                if (found := nats(tried)) < least:
                    best, least, improved = tried, found, True
        if not improved:
            step /= 2
    return best
