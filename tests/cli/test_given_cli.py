"""`kamon train --given`, `kamon sample --given` and `kamon score --by`."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import Result
from helpers.lists import PEOPLE
from kamon.generation.sampling import probabilities
from kamon.model import load
from kamon.storage import model_dir

Kamon = Callable[..., Result]
QUICK = ["--num-steps=60", "--size=tiny", "--threads=1"]
GIVEN = ["--column=name", "--given=country,sex", "--weight=births"]


def written(path: Path) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(PEOPLE[0]))
        table.writeheader()
        table.writerows(PEOPLE)
    return path


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import kamon

    path = tmp_path_factory.mktemp("given") / "people"
    table = {"column": "name", "given": ["country", "sex"], "weight": "births"}
    kamon.train(PEOPLE, **table, num_steps=200, size="tiny", output=path)
    return path


def test_train(tmp_path: Path, kamon: Kamon) -> None:
    table = written(tmp_path / "people.csv")
    done = kamon("train", table, *GIVEN, *QUICK, "-o", tmp_path / "m")
    assert done.code == 0
    assert re.search(r"^Given +country \(2 values\), sex \(2 values\)$", done.err, re.MULTILINE)
    assert f"{len(PEOPLE)} entries" in done.err
    assert "Validation loss" in done.err
    assert len(done.out.splitlines()) == 20
    model = load(tmp_path / "m")
    assert model.given_values == {"country": ["north", "south"], "sex": ["f", "m"]}
    assert model.training.given is not None
    assert model.training.given.weight == "births"
    again = kamon("train", "--resume", tmp_path / "m", "--extend=20")
    assert again.code == 0
    assert model_dir.load(tmp_path / "m").training.num_steps_done == 80
    other = kamon("train", table, "--column=name", "--resume", tmp_path / "m", "--extend=20")
    assert other.code == 0
    assert model_dir.load(tmp_path / "m").training.num_steps_done == 100


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--column=name", "--given=age"], "has no column 'age'"),
        (["--given=sex"], "has the columns name, country, sex, births: choose one with --column"),
        (["--column=name", "--weight=births"], "a weight needs given columns"),
        (["--column=name", "--given=sex", "--weight=sex"], "are not all different"),
        (["--column=name", "--given=sex", "--no-holdout"], "needs a validation set"),
        (["--column=name", "--given=sex", "--tokenizer=bpe"], "need the char tokenizer"),
        (["--column=name", "--given=sex", "--weight=country"], "is not a number above 0"),
    ],
)
def test_train_refuses(flags: list[str], message: str, tmp_path: Path, kamon: Kamon) -> None:
    done = kamon("train", written(tmp_path / "people.csv"), *flags, "-o", tmp_path / "m")
    assert done.code in (1, 2)
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "m" / "generation-000001").exists()


@pytest.mark.parametrize(
    "given",
    [
        "country=north,sex=f",
        "country=north:0.5,south:0.5",
        "sex=m",
        '{"country": {"north": 1, "south": 3}, "sex": "f"}',
    ],
)
def test_sample(given: str, people: Path, kamon: Kamon) -> None:
    done = kamon("sample", people, "--given", given, "-n", "5", "--seed=1")
    assert done.code == 0
    texts = done.out.split()
    assert len(texts) == 5
    values = json.loads(given) if given.startswith("{") else given
    model = load(people)
    assert texts == model.sample(5, given=values, seed=1, novel=True, unique=True)
    detailed = kamon("sample", people, "--given", given, "-n", "5", "--seed=1", "--json")
    found = json.loads(detailed.out)["samples"]
    assert [each["text"] for each in found] == texts
    reader = model.under(values)
    batch = model.tokenizer.encode_documents(texts[:1])
    assert found[0]["logprob"] == pytest.approx(sum(reader.logprobs(batch)))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("country=east", "the model knows no country 'east'"),
        ("north", "write column=value"),
        ("{", "--given is not valid JSON"),
    ],
)
def test_sample_refuses(given: str, message: str, people: Path, kamon: Kamon) -> None:
    done = kamon("sample", people, "--given", given)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize(
    "given", ["country=north,sex=f", "sex=m", '{"country": {"north": 1, "south": 3}}']
)
def test_complete_and_fill(given: str, people: Path, kamon: Kamon) -> None:
    model = load(people)
    reader = model.under(json.loads(given) if given.startswith("{") else given)
    flags = ["--given", given, "-n", "4", "--json"]
    completed = json.loads(kamon("complete", people, "ka", *flags).out)
    filled = json.loads(kamon("fill", people, "ka_a", *flags).out)
    for found in (completed["documents"], filled["documents"]):
        texts = [each["text"] for each in found]
        assert len(texts) == 4
        assert all(text.startswith("ka") for text in texts)
        for each, tokens in zip(found, model.tokenizer.encode_documents(texts), strict=True):
            decoder, p = reader.decoder(), 1.0
            for token, target in pairwise(tokens):  # no token is that of a value
                p *= probabilities(decoder.push(token), 1.0)[target]
            assert each["logprob"] == pytest.approx(math.log(p), rel=1e-4)
    decoder = reader.decoder()
    for token in (model.tokenizer.bos, *model.tokenizer.encode("ka")):
        logprobs = decoder.push(token)
    most = max(probabilities(logprobs, 1.0))
    assert completed["next"][0]["probability"] == pytest.approx(most, rel=1e-4)
    plain = json.loads(kamon("complete", people, "ka", "--json").out)
    assert plain["next"] != completed["next"]


@pytest.mark.parametrize("command", [["complete", "b"], ["fill", "b_"]])
def test_complete_and_fill_refuse(command: list[str], people: Path, kamon: Kamon) -> None:
    done = kamon(command[0], people, command[1], "--given", "country=east")
    assert (done.code, done.out) == (2, "")
    assert "the model knows no country 'east'" in done.err


def test_score_by(people: Path, tmp_path: Path, kamon: Kamon) -> None:
    lines = tmp_path / "new.txt"
    lines.write_text("banna\n\nlulo\nbenna\n", encoding="utf-8")
    done = kamon("score", people, lines, "--by", "sex")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[1:] for row in rows] == [["f", "banna"], ["m", "lulo"], ["f", "benna"]]
    assert all(0.5 < float(row[0]) <= 1 for row in rows)
    found = [
        json.loads(line)
        for line in kamon("score", people, lines, "--by=sex", "--json").out.splitlines()
    ]
    assert [each["value"] for each in found] == ["f", "m", "f"]
    assert set(found[0]) == {"text", "value", "probability", "shares"}
    plain = kamon("score", people, lines)
    under = kamon("score", people, lines, "--given", "sex=f,country=north")
    assert len(plain.out.splitlines()) == len(under.out.splitlines()) == 3
    assert plain.out != under.out


@pytest.mark.parametrize(
    ("flags", "text", "message"),
    [
        (["--by=age"], "banna", "the model knows no column 'age'"),
        (["--by=sex", "--top=3"], "banna", "--by cannot be used with --top"),
        (["--by=sex", "--unknown=zero"], "banna", "not 'zero'"),
        (
            ["--by=sex", "--unknown=error"],
            "banna\nüb",
            "line 2: unknown character 'ü'",
        ),
        (["--by=sex"], "\n", "has only blank lines"),
    ],
)
def test_score_by_refuses(
    flags: list[str], text: str, message: str, people: Path, tmp_path: Path, kamon: Kamon
) -> None:
    lines = tmp_path / "new.txt"
    lines.write_text(f"{text}\n", encoding="utf-8")
    done = kamon("score", people, lines, *flags)
    assert done.code in (1, 2)
    assert message in done.err
    assert "Traceback" not in done.err


def test_score_by_with_unknown_characters(people: Path, tmp_path: Path, kamon: Kamon) -> None:
    lines = tmp_path / "new.txt"
    lines.write_text("bänna\nбанна\nlulo\n", encoding="utf-8")
    skipped = kamon("score", people, lines, "--by=sex", "--unknown=skip")
    assert len(skipped.out.splitlines()) == 1
    assert "Left out 2 lines with unknown characters: line 1, 2\n" in skipped.err
    replaced = kamon("score", people, lines, "--by=sex")
    assert len(replaced.out.splitlines()) == 2
    assert "no close known character: line 2\n" in replaced.err
