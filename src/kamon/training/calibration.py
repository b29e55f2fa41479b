"""How sure a conditional model may be of classes: measured on its validation set."""

from __future__ import annotations

from dataclasses import replace

from kamon.data.columns import divided
from kamon.generation.classes import class_logprobs, fit_calibration
from kamon.model import Model

MAX_READ = 60_000  # documents times classes


def calibrated(model: Model) -> Model:
    """Return the model with a calibration for each given column in its record.

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
        column: fit_calibration(conditional, logprobs, column, [row.values[number] for row in some])
        for number, column in enumerate(given.columns)
    }
    record = model.training | {"given": given | {"calibration": fitted}}
    return replace(model, training=record)
