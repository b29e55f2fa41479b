"""The HTTP API says what the Python API says, as its OpenAPI document promises."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import piece_model
from helpers.lists import DOCS
from helpers.server import Server, serving
from kamon import Model
from kamon.completion import complete, complete_words
from kamon.engines.scalar import softmax
from kamon.evaluation.nearest import NearestDocument, logprobs
from kamon.evaluation.score import PercentileScale, score

pytest.importorskip("uvicorn", reason="the server is in kamon[web]")

pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    kamon.train([*DOCS, "bara", " nanna"], num_steps=20, output=folder / "Names No. 1")
    piece_model(DOCS, 270, num_steps=20).save(folder / "pieces")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    return kamon.load(folder / "Names No. 1")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, "Names No. 1", "pieces") as server:
        yield server


ID = "names-no-1"


def test_models(server: Server, model: Model) -> None:
    found = server.json("GET", "/models")["models"]
    assert [each["id"] for each in found] == [ID, "pieces"]
    one = server.json("GET", f"/models/{ID}")
    assert (one["saved"], one["path"]) == (True, "Names No. 1")
    assert one["config"] == asdict(model.config)
    assert one["num_params"] == model.num_params
    assert one["num_docs"] == len(model.docs) == 150
    assert one["num_steps"] == len(model.metrics)
    measured = model.training["held_out"]
    assert one["validation_loss"] == measured["loss"]
    assert (one["gpt_loss"], one["ngram_loss"]) == (measured["gpt_loss"], measured["ngram_loss"])
    assert one["blend"] == model.training["blend"]
    assert one["num_folds"] is None
    assert one["n_layer"] == 4  # of the base
    assert [each["tokenizer"] for each in found] == ["char", "bpe"]
    assert server.json("GET", "/models/nobody", status=404)["error"]


def test_data(server: Server, model: Model) -> None:
    found = server.json("GET", f"/models/{ID}/data")
    learned, held_out = model.parts()
    assert (found["num_train"], found["num_validation"]) == (len(learned), len(held_out))
    assert found["num_repetitions"] == 2
    assert {each["text"]: each["count"] for each in found["characters"]} == {
        char: sum(doc.count(char) for doc in model.docs) for char in set("".join(model.docs))
    }
    for each in found["lengths"]:
        assert each["num_train"] == sum(len(doc) == each["length"] for doc in learned)
        assert each["num_validation"] == sum(len(doc) == each["length"] for doc in held_out)
    assert sum(each["num_train"] + each["num_validation"] for each in found["lengths"]) == 150
    assert found["examples"]["validation"] == list(held_out)[:10]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"n": 50, "seed": 7, "temperature": 0.6},
        {"n": 5, "temperature": 0.0},
        {"n": 30, "prefix": "ba", "top_k": 3, "top_p": 0.8},
        {"n": 30, "suffix": "a", "contains": "n", "novel": True, "unique": True},
        {"n": 10, "min_len": 3, "max_len": 4, "seed": -5},
        {"n": 10, "pattern": "_a*", "regex": "[^e]*a"},
        {"n": 0},
    ],
)
@pytest.mark.parametrize("id", [ID, "pieces"])
def test_samples(
    given: dict[str, Any], id: str, server: Server, model: Model, folder: Path
) -> None:
    model = model if id == ID else kamon.load(folder / id)
    found = server.json("POST", "/sample", {"model": id, "nearest": True, **given})
    conditions = {k: v for k, v in given.items() if k not in ("n", "seed", "temperature")}
    wanted = model.generate(
        given.get("n", 20),
        seed=given.get("seed"),
        temperature=given.get("temperature"),
        **conditions,
    )
    texts = wanted.texts
    left_out = {"copies": wanted.num_copies, "duplicates": wanted.num_duplicates}
    assert found["left_out"] == left_out
    assert any(left_out.values()) or not given.get("novel")
    samples = found["samples"]
    assert [each["text"] for each in samples] == texts
    assert [each["logprob"] for each in samples] == pytest.approx(
        logprobs(model.language_model, model.tokenizer, texts)
    )
    assert [each["in_list"] for each in samples] == [text in set(model.docs) for text in texts]
    near = NearestDocument(model.docs)
    for each in samples:
        assert (each["nearest"]["text"], each["nearest"]["similarity"]) == near(each["text"])
    assert found["seed"] == given.get("seed", model.config.seed)


def test_conditions_that_contradict_each_other(server: Server) -> None:
    body = {"model": ID, "prefix": "ba", "pattern": "n*"}
    error = server.json("POST", "/sample", body, 422)["error"]
    assert error.startswith("prefix 'ba' and pattern 'n*' contradict each other: no text of up to")


def test_lines(server: Server, model: Model) -> None:
    body = json.dumps({"model": ID, "n": 1200}).encode()
    headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
    status, found, text = server.ask("POST", "/api/v1/sample", body, **headers)
    assert status == 200
    assert found["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["text"] for line in text.splitlines()] == model.sample(1200)


def test_completions_and_scores(server: Server, model: Model) -> None:
    found = server.json("POST", "/complete", {"model": ID, "prefix": "ka", "n": 7})
    expected = complete(model, "ka", 7)
    assert found["exact"] == expected.num_exact
    assert [each["text"] for each in found["completions"]] == [
        each.text for each in expected.documents
    ]
    texts = ["banna", "kara", "aaaaaa", "kara"]
    scores = server.json("POST", "/score", {"model": ID, "texts": texts})["scores"]
    scale = PercentileScale.of(model)
    for each, own in zip(scores, score(model, texts), strict=True):
        assert each["logprob"] == pytest.approx(own.logprob)
        assert each["percentile"] == scale.percentile(own.bits_per_char)
        assert each["compared_with"] == scale.reference
        assert (each["surprise"], each["surprising"]) == (own.surprise, own.surprising)
    said = server.json("POST", "/score", {"model": ID, "texts": ["ba", "bXa"]}, 422)["error"]
    assert "'X'" in said
    body = {"model": ID, "texts": ["ba", "bXa"], "unknown": "zero"}
    known, odd = server.json("POST", "/score", body)["scores"]
    assert known["logprob"] == pytest.approx(next(score(model, ["ba"])).logprob)
    assert (odd["logprob"], odd["bits_per_char"], odd["percentile"]) == (None, None, 0)
    assert odd["surprising"] == "X"


def test_words(server: Server, model: Model) -> None:
    found = server.json("POST", "/words", {"model": ID, "text": "ka", "n": 4})
    expected = complete_words(model, "ka", 4)
    assert [each["text"] for each in found["words"]] == [each.text for each in expected.words]
    assert found["found"] == expected.num_found
    assert found["covered"] == pytest.approx(found["total"])
    assert 0 < found["covered"] <= 1
    among = {"model": ID, "text": "k ____", "among": ["kara"]}
    status, _, text = server.ask("POST", "/api/v1/words", among)
    assert (status, b"unknown character" in text) == (422, True)  # the list has no spaces


def test_scores_say_which_text_they_are_of(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kamon.web.routes.models.num_at_once", lambda _: 2)
    body = {"model": ID, "texts": ["ba", "!", "Bä", "ka"]}
    found = server.json("POST", "/score", body | {"unknown": "replace"})["scores"]
    assert [(each["text"], each["scored"], each["index"]) for each in found] == [
        ("ba", "ba", 0),
        ("Bä", "ba", 2),
        ("ka", "ka", 3),
    ]
    said = server.json("POST", "/score", body | {"texts": ["ba", "ka", "ba", "!"]}, 422)["error"]
    assert said.startswith("text 4: unknown character '!'")


@pytest.mark.parametrize("id", [ID, "pieces"])
def test_next_tokens(id: str, server: Server, model: Model, folder: Path) -> None:
    model = model if id == ID else kamon.load(folder / id)
    body = {"model": id, "prefix": "ba", "temperature": 0.7, "top_k": 5, "top_p": 0.9}
    found = server.json("POST", "/next-token", body)
    decoder, gpt = model.language_model.decoder(), model.engine.decoder()
    for token in (model.tokenizer.bos, *model.tokenizer.encode("ba")):
        logits, own = decoder.push(token), gpt.push(token)
    assert [each["logit"] for each in found["tokens"]] == list(logits)
    blend = model.training.blend
    assert (blend is not None) == (id == ID)
    assert found["blend"] == blend
    for token, share in zip(found["tokens"], softmax(own), strict=True):
        assert token["gpt"] == (share if blend else None)
        if blend:
            mixed = blend.weight * share + (1 - blend.weight) * token["ngram"]
            assert mixed == pytest.approx(math.exp(token["logit"]), rel=1e-9)
        else:
            assert token["ngram"] is None
    assert found["end"] == model.tokenizer.bos
    kept = [each for each in found["tokens"] if each["kept"]]
    assert 1 <= len(kept) <= 5
    assert sum(each["probability"] for each in kept) == pytest.approx(1)
    assert all(each["probability"] == 0 for each in found["tokens"] if not each["kept"])
    assert min(each["logit"] for each in kept) >= sorted(logits)[-5]
    too_long = {"model": id, "prefix": "ba" * 400}
    assert "block_size" in server.json("POST", "/next-token", too_long, 422)["error"]


def test_saving_and_forgetting(server: Server, model: Model, folder: Path) -> None:
    found = server.json("POST", f"/models/{ID}/save", {"name": "copy"}, 201)
    assert (found["id"], found["saved"]) == ("copy", True)
    assert found["path"] == str(Path("models", "copy"))
    assert kamon.load(folder / found["path"]).sample(9) == model.sample(9)
    said = server.json("POST", f"/models/{ID}/save", {"name": "copy"}, 409)["error"]
    assert "already" in said
    server.json("DELETE", "/models/copy", status=204)
    server.json("GET", "/models/copy", status=404)
    assert (folder / "models" / "copy").is_dir()
    assert "already" in server.json("POST", f"/models/{ID}/save", {"name": "copy"}, 409)["error"]


@pytest.mark.slow
def test_it_keeps_what_its_document_promises(server: Server, tmp_path: Path) -> None:
    """By requests that are made up from the document: no server error, and answers as described."""
    shutil.copy(Path(__file__).with_name("schemathesis.toml"), tmp_path)
    code = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-c", code, "run", "--no-color", "--seed=1"),
            *("--max-examples=3", f"{server.url}api/v1/openapi.json"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, "\n".join(line[:300] for line in done.stdout.splitlines())
