"""The panels of the page: every number is the one that a program would be given."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import kamon
from helpers.lists import DOCS
from kamon import Model, TokenizerError
from kamon.data.documents import Documents
from kamon.engines.base import initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.scalar import gpt
from kamon.errors import ConfigError
from kamon.evaluation import introspection
from kamon.evaluation.evaluate import MAX_ORDER
from kamon.evaluation.score import BITS, score
from kamon.ngrams.reference import train_ngram
from kamon.web.limits import Limits
from kamon.web.views import panels
from kamon.web.views.panels import NGRAMS_KEPT, NgramCache, Trace, embedding_map, trace

SHAPE: dict[str, Any] = {"n_embd": 6, "n_head": 3, "n_layer": 2, "block_size": 8}
LIMITS = Limits()
ROOT = Path(kamon.__file__).parent.parent


@pytest.fixture(scope="module")
def char() -> Model:
    return kamon.train(DOCS, num_steps=60, blend=False, **SHAPE)


@pytest.fixture(scope="module")
def bpe() -> Model:
    return kamon.train(DOCS, tokenizer="bpe", vocab_size=270, num_steps=30, blend=False, **SHAPE)


@pytest.fixture(scope="module")
def text() -> Model:
    return kamon.train([" ".join(DOCS * 5)], mode="text", num_steps=30, **SHAPE)


def traced(model: Model, text: str, limits: Limits = LIMITS) -> Trace:
    return trace(model, text, limits, NgramCache())


TEXTS = {"char": ["", "n", "banna"], "bpe": ["", "banna", "é🎉", "\n"], "text": ["", "ban n"]}
CASES = [(name, given) for name, some in TEXTS.items() for given in some]


@pytest.mark.parametrize(("name", "given"), CASES)
def test_a_trace_is_what_the_engines_say(
    name: str, given: str, request: pytest.FixtureRequest
) -> None:
    model: Model = request.getfixturevalue(name)
    tokenizer = model.tokenizer
    found = traced(model, given)
    tokens = [tokenizer.bos, *tokenizer.encode(given)]
    assert [each.id for each in found.tokens] == tokens
    assert [each.position for each in found.tokens] == list(range(len(tokens)))
    assert [each.text for each in found.tokens] == ["", *map(tokenizer.token_text, tokens[1:])]

    scalar = make_engine("scalar", model.config)
    scalar.load(initial_state(model.engine.state()["params"]))
    params = scalar._floats()  # type: ignore[attr-defined]
    keys: list[Any] = [[] for _ in range(model.config.n_layer)]
    values: list[Any] = [[] for _ in range(model.config.n_layer)]
    for position, token in enumerate(tokens):
        watched: list[Any] = []
        gpt(params, model.config.head_dim, token, position, keys, values, watched=watched)
        for layer, heads in enumerate(watched):
            for head, row in enumerate(heads):
                future = [0.0] * (len(tokens) - position - 1)
                assert found.attention[layer][head][position] == [*row, *future]
    assert found.attention == introspection.attention_weights(model, given)

    document = tokens if model.writes_text else [*tokens, tokenizer.bos]
    batch = pack_sequences([document])
    by_gpt = model.engine.logprobs(batch)
    assert [each.gpt for each in found.surprise] == [-BITS * each for each in by_gpt]
    learned, held_out = model.parts()
    whole = None if model.writes_text else model.config.block_size
    tested = tokenizer.encode_documents(held_out, whole)
    counted = tokenizer.encode_documents(learned)
    ngrams = [train_ngram(counted, tokenizer.vocab_size, n + 1) for n in range(MAX_ORDER)]
    best = min(ngrams, key=lambda each: -math.fsum(each.logprobs(tested)))
    assert (found.ngram_order, found.no_ngram) == (best.order, None)
    assert [each.ngram for each in found.surprise] == [-BITS * p for p in best.logprobs(batch)]
    ends = [] if model.writes_text else [""]
    assert [each.text for each in found.surprise] == [each.text for each in found.tokens[1:]] + ends


def test_surprise_adds_up_to_the_score(char: Model, bpe: Model) -> None:
    blended = kamon.train(DOCS, num_steps=60, **SHAPE)
    for model in (char, bpe, blended):
        [scored] = score(model, ["banna"])
        surprise = traced(model, "banna").surprise
        assert all((each.blend is not None) == (model is blended) for each in surprise)
        bits = [(each.gpt if each.blend is None else each.blend) or 0.0 for each in surprise]
        assert math.fsum(bits) == pytest.approx(-BITS * scored.logprob, rel=1e-6)
        assert math.fsum(bits) / 6 == pytest.approx(scored.bits_per_char, rel=1e-6)


def test_what_cannot_be_traced(char: Model, bpe: Model) -> None:
    with pytest.raises(TokenizerError, match=r"'É' \(U\+00C9\), number 2"):
        traced(char, "bÉ")
    with pytest.raises(TokenizerError, match="lone surrogate"):
        traced(bpe, "a\ud800")
    with pytest.raises(ConfigError, match="8 characters, and block_size 8 allows 7"):
        traced(char, "bannanna"[:8], LIMITS)
    assert len(traced(char, "bannann").surprise) == 8
    with pytest.raises(ConfigError, match="101 characters, and the limit is 100"):
        traced(char, "b" * 101, LIMITS)
    with pytest.raises(ConfigError, match="multiplications, and the limit is"):
        traced(char, "banna", replace(LIMITS, panel_products=6 * char.num_params - 1))
    with pytest.raises(ConfigError, match="multiplications, and the limit is"):
        embedding_map(char, replace(LIMITS, panel_products=1000))


def test_models_without_an_ngram(char: Model) -> None:
    no_docs = replace(char, documents=Documents.of([]))
    for model, limits, why in (
        (no_docs, LIMITS, "does not contain its list"),
        (char, replace(LIMITS, ngram_bytes=100), "the limit for n-grams is 100"),
    ):
        found = traced(model, "banna", limits)
        assert found.ngram_order is None
        assert why in (found.no_ngram or "")
        assert [each.ngram for each in found.surprise] == [None] * 6
        assert all(each.gpt for each in found.surprise)


def test_a_probability_of_0() -> None:
    assert panels.bits(-math.inf) is None
    assert math.copysign(1.0, panels.bits(0.0) or 0.0) == 1.0


def test_ngrams_are_counted_once_and_not_kept_for_ever(
    char: Model, bpe: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = []
    ngrams = NgramCache()
    count = introspection.ngram_of
    monkeypatch.setattr(introspection, "ngram_of", lambda model: times.append(1) or count(model))
    moment = replace(char, engine=char.engine, metrics=char.metrics)  # of the same training
    for model in (char, moment, char, bpe, bpe):
        trace(model, "banna", LIMITS, ngrams)
    assert len(times) == 2
    for n in range(NGRAMS_KEPT):
        trace(replace(char, documents=Documents.of(DOCS[: 40 + n])), "banna", LIMITS, ngrams)
    assert len(ngrams.ngrams) == NGRAMS_KEPT
    assert len(times) == 2 + NGRAMS_KEPT
    trace(char, "banna", LIMITS, ngrams)
    assert len(times) == 3 + NGRAMS_KEPT


def test_without_documents_held_out_the_ngram_is_of_the_usual_order() -> None:
    model = kamon.train(DOCS[:30], num_steps=1, hold_out=False, **SHAPE)
    found = traced(model, "banna")
    usual = train_ngram(model.tokenizer.encode_documents(model.docs), model.config.vocab_size)
    batch = model.tokenizer.encode_documents(["banna"])
    assert found.ngram_order == usual.order
    assert [each.ngram for each in found.surprise] == [-BITS * p for p in usual.logprobs(batch)]


def test_the_map_is_that_of_inside(char: Model, bpe: Model, text: Model) -> None:
    for model in (char, bpe, text):
        found, expected = embedding_map(model, LIMITS), introspection.embeddings(model)
        bos = model.tokenizer.bos
        ids = [each.id for each in found.tokens]
        assert ids == [token for token in range(model.config.vocab_size) if token != bos]
        points = expected.tokens.points
        assert [(each.x, each.y) for each in found.tokens] == [points[id] for id in ids]
        assert [each.text for each in found.tokens] == expected.chars
        assert [i for i, each in enumerate(found.tokens) if each.named] == expected.named
        assert [(each.x, each.y) for each in found.positions] == expected.positions.points
        assert [each.position for each in found.positions] == list(range(model.config.block_size))
        assert (found.token_shares, found.position_shares) == (
            *(expected.tokens.shares, expected.positions.shares),
        )


def test_sources_are_lines_of_the_code(char: Model, bpe: Model) -> None:
    for model in (char, bpe):
        sources = traced(model, "b").sources | embedding_map(model, LIMITS).sources
        assert {"tokens", "embeddings", "attention", "surprise", "ngram"} <= sources.keys()
        for source in sources.values():
            line = (ROOT / source.file).read_text(encoding="utf-8").splitlines()[source.line - 1]
            assert line.strip().startswith(f"def {source.function.rpartition('.')[2]}(")
        assert sources["attention"].file == "kamon/engines/scalar.py"
        assert sources["tokens"].function == f"{type(model.tokenizer).__name__}.encode"


@pytest.mark.extra
def test_the_routes_tell_the_same(char: Model, bpe: Model, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="the server is in kamon[web]")
    from helpers.app import Asking

    asking = Asking(tmp_path, {"c": char, "b": bpe})
    for id, model, given in (("c", char, "banna"), ("b", bpe, "é🎉")):
        as_json = json.loads(json.dumps(asdict(traced(model, given))))
        assert asking.post("/trace", model=id, text=given) == (200, as_json)
        as_json = json.loads(json.dumps(asdict(embedding_map(model, LIMITS))))
        assert asking.get(f"/models/{id}/embeddings") == (200, as_json)
    for body, status, said in (
        ({"model": "x", "text": "a"}, 404, "no model 'x'"),
        ({"model": "c", "text": "É"}, 422, "U+00C9"),
        ({"model": "c", "text": "b" * 50}, 422, "block_size 8 allows 7"),
        ({"model": "c", "text": "b" * 101}, 422, "the limit is 100"),
        ({"model": "c", "text": 5}, 422, "text: "),
        ({"model": "c"}, 422, "text: "),
        ({"model": "c", "text": "b", "n": 1}, 422, "n: "),
    ):
        found, answer = asking.post("/trace", **body)
        assert found == status
        assert said in answer["error"]
    assert asking.get("/models/x/embeddings")[0] == 404
