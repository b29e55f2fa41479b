"""An n-gram of a list from Python."""

from __future__ import annotations

import math

import pytest

import kamon
from helpers.lists import DOCS
from kamon.ngrams.reference import train_ngram


def test_it_is_the_ngram_of_the_list() -> None:
    model = kamon.ngram(DOCS, order=3)
    tokens = model.tokenizer.encode_documents(["banna", "bo"])
    expected = train_ngram(
        model.tokenizer.encode_documents(DOCS), model.tokenizer.vocab_size, 3
    ).logprobs(tokens)
    assert model.order == 3
    assert math.fsum(model.logprobs(["banna", "bo"])) == pytest.approx(math.fsum(expected))
    assert model.sample(5, seed=3) == model.sample(5, seed=3) != model.sample(5, seed=4)
    assert all(model.sample(20))
    with pytest.raises(kamon.TokenizerError):
        model.logprobs(["?"])
    with pytest.raises(kamon.ConfigError, match="order"):
        kamon.ngram(DOCS, order=11)
