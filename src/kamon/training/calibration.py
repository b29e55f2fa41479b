"""The exponents and the losses of a conditional model, measured on its validation set."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import replace

from kamon.data.columns import divided
from kamon.generation.classes import class_logprobs, fit_exponents
from kamon.model import Model

MAX_READ = 20_000  # documents times classes


def calibrated(model: Model) -> Model:
    """Return the model with the exponents for each given column in its record (`fit_exponents`).

    The n-grams count only the training set for this, so the validation set is new to all parts.
    """
    given = model.training.given
    assert given is not None
    learned, tested = divided(model.rows, model.parts()[1])
    if not tested:
        return model
    conditional = model.conditional_of(learned)
    known = [row for row in tested if row.values in conditional.models]
    some = known[:: max(1, -(-len(known) * len(conditional.models) // MAX_READ))]
    if not some:
        return model
    batch = model.tokenizer.encode_documents(
        [row.text for row in some], conditional.config.block_size
    )
    logprobs = class_logprobs(conditional, batch)
    fitted = {
        column: fit_exponents(conditional, logprobs, column, [row.values[number] for row in some])
        for number, column in enumerate(given.columns)
    }
    record = model.training | {"given": given | {"exponents": fitted}}
    return replace(model, training=record)


def validation_logprobs(
    model: Model, docs: Iterable[str]
) -> tuple[int, array[float], array[float], array[float]]:
    """Return the number of rows with these entries, and log p of all their targets in nats.

    The numbers are those of the GPT, of the n-grams of all other rows, and of both. Without a blend
    the second array is empty.
    """
    learned, tested = divided(model.rows, docs)
    conditional = model.conditional_of(learned)
    found = array("d"), array("d"), array("d")
    num_rows = 0
    for values, own in conditional.models.items():
        texts = [row.text for row in tested if row.values == values]
        num_rows += len(texts)
        batch = model.tokenizer.encode_documents(texts, conditional.config.block_size)
        found[0].extend(replace(own, ngram=None).logprobs(batch))
        if own.ngram:
            found[1].extend(own.ngram.logprobs(batch))
        found[2].extend(own.logprobs(batch))
    return num_rows, *found
