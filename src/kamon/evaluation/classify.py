"""Which class of a table texts fit best, with calibrated probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kamon.config import suggestion
from kamon.errors import ConfigError
from kamon.evaluation.score import Unknown, check_several, score_list
from kamon.generation.classes import judges, posteriors
from kamon.model import Model, as_model

CHUNK = 2_000  # texts at a time
UNKNOWN = ("error", "skip", "replace")  # what to do with texts of unknown characters


class Classification(NamedTuple):
    """How likely each value of a given column is for a text.

    Attributes:
        value: the most likely one.
        probability: of this value, from 0 to 1.
        shares: the probability of each value, the most likely one first.
    """

    text: str
    value: str
    probability: float
    shares: dict[str, float]


def classify(
    model: Model | str | Path, texts: Iterable[str], by: str, *, unknown: Unknown = "error"
) -> Iterator[Classification]:
    """Yield a Classification for each text, in order.

    By Bayes' rule the probability of a value depends on its share of the table and on the
    probability of the text under it. How much the text counts is fitted on the validation set. So
    of the texts with a probability of 80%, about 80% have that value.

    Args:
        model: a conditional model, or its directory.
        by: a given column, such as "country".
        unknown: as in `kamon.score`, for texts with characters that the model does not know. "zero"
            is not possible.

    Raises: ConfigError for another model or an unknown column, or TokenizerError.

    >>> import kamon, string
    >>> names = [a + b for a in string.ascii_lowercase for b in "aeiou"]
    >>> table = [{"name": name, "sex": "fm"[name[1] in "ou"]} for name in names]

    >>> model = kamon.train(table, column="name", given="sex", num_steps=50)
    >>> [each.value for each in kamon.classify(model, ["qa", "qo"], by="sex")]
    ['f', 'm']
    """
    model = as_model(model)
    check_classes(model, by, unknown)
    check_several(texts)
    left = iter(texts)
    while chunk := list(islice(left, CHUNK)):
        yield from classify_list(model, chunk, by, unknown=unknown)


def check_classes(model: Model, by: str, unknown: str) -> None:
    """Raise ConfigError if the model cannot tell the values of this column."""
    columns = model.conditional.columns
    if by not in columns:
        raise ConfigError(f"the model knows no column {by!r:.80}{suggestion(str(by), columns)}")
    if unknown not in UNKNOWN:
        raise ConfigError(f"unknown must be one of {', '.join(UNKNOWN)}, not {unknown!r}")


def classify_list(
    model: Model, texts: list[str], by: str, *, unknown: Unknown = "error"
) -> list[Classification]:
    """Return the Classification of each text, without those that `unknown` leaves out."""
    conditional, given = model.conditional, model.training.given
    assert given is not None
    scores = [
        [score_list(reader, model.tokenizer, texts, unknown=unknown) for reader in readers]
        for readers in judges(conditional)
    ]
    exponents = given.exponents.get(by, [1 / len(scores)] * len(scores))
    logprobs = [[each.logprobs for each in of_judge] for of_judge in scores]
    found = []
    for text, own in zip(
        scores[0][0].texts, posteriors(conditional, logprobs, by, exponents), strict=True
    ):
        pairs = zip(conditional.values[by], own, strict=True)
        shares = dict(sorted(pairs, key=lambda pair: -pair[1]))
        value = next(iter(shares))
        found.append(Classification(text, value, shares[value], shares))
    return found
