"""Samples of byte tokens are always text, whichever engine makes them and however they are made."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

import kamon
from helpers.exported import run_as_module
from kamon.engines.factory import make_engine
from kamon.exporters import export
from kamon.generation import constraints, lookahead
from kamon.generation.sampling import SampleRequest, sample, sample_texts
from kamon.model import Model, to_checkpoint
from kamon.native import library
from kamon.ngrams.reference import train_ngram

DOCS = ["가나", "나다라", "다라마바", "漢字", "字가나", "é가", "👩🏽가", "나👩🏽"] * 2
SETTINGS: dict[str, Any] = {
    "tokenizer": "bpe",
    "vocab_size": 275,
    "hold_out": False,
    "num_steps": 40,
    "n_embd": 8,
    "n_head": 2,
    "dtype": "float64",
}
ENGINES = ["scalar"] if library.why_not() else ["scalar", "native"]


def by(model: Model, name: str) -> Model:
    engine = make_engine(name, model.config, dtype="float64")
    engine.load(model.engine.state())
    return replace(model, engine=engine)


@pytest.fixture(scope="module")
def model() -> Model:
    """Its plain samples are seldom text: it has hardly learned."""
    return kamon.train(DOCS, block_size=9, **SETTINGS)


def is_text(text: str) -> bool:
    return "\ufffd" not in text


def test_samples_are_text(model: Model) -> None:
    request = SampleRequest(60, 1.0, 5, model.tokenizer.bos)
    plain = model.tokenizer.decode_documents(sample(model.engine, request))
    assert 10 < sum(map(is_text, plain)) < 50
    made = {name: by(model, name).sample(60, temperature=1.0, seed=5) for name in ENGINES}
    for texts in made.values():
        assert all(map(is_text, texts))
        assert texts == made["scalar"]
    # A sample that was text is what it was, and number i depends on i only.
    assert all(a == b for a, b in zip(plain, made["scalar"], strict=True) if is_text(a))
    assert model.sample(7, temperature=1.0, seed=5) == made["scalar"][:7]


@pytest.mark.parametrize(
    "conditions",
    [
        {"unique": True},
        {"min_len": 2},
        {"prefix": "가"},
        {"top_k": 9},
        {"max_len": 2, "novel": True},
    ],
    ids=str,
)
def test_samples_with_conditions_are_text(
    conditions: dict[str, Any], model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of slow engines are the same if they learn from as many candidates."""
    monkeypatch.setattr(constraints, "SURVEY", 40)
    monkeypatch.setattr(constraints, "SLOW", 1.0)
    monkeypatch.setattr(lookahead, "STAGES", (lookahead.Stage(20, 0.05, 1 << 40),))
    made = [by(model, name).sample(8, temperature=1.0, seed=5, **conditions) for name in ENGINES]
    assert made[0]
    assert all(map(is_text, made[0]))
    assert all(each == made[0] for each in made)


def test_cold_samples_are_text(model: Model) -> None:
    assert all(map(is_text, model.sample(2, temperature=0.0)))


def test_a_text_is_text() -> None:
    model = kamon.train(["".join(DOCS) * 30], mode="text", block_size=16, **SETTINGS)
    for length in range(1, 12):
        for text in model.sample(3, temperature=1.5, seed=length, length=length, prefix="가"):
            assert is_text(text)
            assert text.startswith("가")


def test_the_exported_file_makes_the_same(model: Model) -> None:
    made = by(model, "scalar")
    module = run_as_module(
        export.export(to_checkpoint(made, made.engine.state()["params"]), "python")
    )
    assert module.sample(20, 1.0, 5) == made.sample(20, temperature=1.0, seed=5)


def test_samples_of_an_ngram_are_text(model: Model) -> None:
    docs = model.tokenizer.encode_documents(DOCS)
    ngram = train_ngram(docs, model.tokenizer.vocab_size, 2)
    texts, sizes = sample_texts(
        ngram, model.tokenizer, SampleRequest(60, 3.0, 1, model.tokenizer.bos)
    )
    assert all(map(is_text, texts))
    assert len(sizes) == len(texts) == 60
    assert any(a != b for a, b in pairwise(texts))
