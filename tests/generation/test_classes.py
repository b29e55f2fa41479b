"""Classes are compared by Bayes' rule, with exponents that make the true values most probable."""

from __future__ import annotations

import math
import random
from array import array

import pytest

from helpers.conditional import TOKENIZER, conditional, texts_of
from kamon.engines.batch import pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.generation.classes import (
    MAX_EXPONENT,
    MIN_EXPONENT,
    class_logprobs,
    fit_exponents,
    judges,
    posteriors,
)


@pytest.mark.parametrize("seed", range(6))
def test_posteriors_are_those_of_bayes_rule(seed: int) -> None:
    found = conditional(seed, blended=seed % 3 > 0)
    batch = TOKENIZER.encode_documents(texts_of(seed))
    logprobs = class_logprobs(found, batch)
    assert len(logprobs) == len(judges(found)) == (2 if seed % 3 else 1)
    exponents = [0.7, 0.4][: len(logprobs)]
    for place, tokens in enumerate(batch):
        one = pack_sequences([tokens])
        p = {}
        for number, (values, share) in enumerate(found.shares.items()):
            p[values] = share
            for exponent, readers in zip(exponents, judges(found), strict=True):
                p[values] *= math.exp(exponent * document_logprobs(readers[number], one)[0][0])
        for number, column in enumerate(found.columns):
            own = posteriors(found, logprobs, column, exponents)[place]
            wanted = [
                sum(x for values, x in p.items() if values[number] == value) / sum(p.values())
                for value in found.values[column]
            ]
            assert own == pytest.approx(wanted)


def test_the_exponents_make_the_true_values_most_probable() -> None:
    """Of two judges, one knows the value, though it is far too sure, and the other one guesses."""
    found = conditional(2, columns=1)
    values = found.values["country"]
    rng = random.Random(4)
    truth = rng.choices(values, k=300)
    seen = [value if rng.random() < 0.8 else rng.choice(values) for value in truth]
    knows = [array("d", [20.0 * (value == other) for other in seen]) for value in values]
    guesses = [array("d", [rng.gauss(0, 5) for _ in truth]) for _ in values]
    exponents = fit_exponents(found, [knows, guesses], "country", truth)
    assert 0.05 < exponents[0] < 0.3
    assert exponents[1] < 0.05

    def nats(tried: list[float]) -> float:
        rows = posteriors(found, [knows, guesses], "country", tried)
        places = map(values.index, truth)
        return -sum(math.log(row[place]) for row, place in zip(rows, places, strict=True))

    for factor in (0.9, 1.1):
        assert nats(exponents) <= nats([factor * exponents[0], exponents[1]])
    confidence = sum(max(row) for row in posteriors(found, [knows, guesses], "country", exponents))
    right = sum(a == b for a, b in zip(seen, truth, strict=True))
    assert confidence / 300 == pytest.approx(right / 300, abs=0.03)
    assert all(MIN_EXPONENT <= x <= MAX_EXPONENT for x in exponents)
