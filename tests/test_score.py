"""How odd texts are: the same figures as one by one, whatever comes together; and the verb."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TINY, Result
from kamon import score as scoring
from kamon import train
from kamon.batch import pack
from kamon.errors import TokenizerError
from kamon.score import Scale, encode_documents, score
from kamon.tokenizer import CharTokenizer

Kamon = Callable[..., Result]
DOCS = ["anna", "hanna", "nora", "é", "aé名", "nonna", "rana"]
MODEL = train(DOCS, **TINY)


@given(st.lists(st.text("anhor é名", max_size=9)))
def test_encoding_in_bulk_is_encoding(texts: list[str]) -> None:
    tokenizer = CharTokenizer("anhor é名")
    room = 9
    expected = pack(tokenizer.encode_document(text)[: room + 1] for text in texts)
    assert encode_documents(tokenizer, texts, room) == expected


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_scores_are_those_of_each_text_alone(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    texts = ["anna", "", "noé", "n", "hannahanna", "名名"]
    found = list(score(MODEL, iter(texts)))
    assert [each.text for each in found] == texts
    for each in found:
        tokens = MODEL.tokenizer.encode_document(each.text)[: MODEL.config.block_size + 1]
        logprobs = list(MODEL.engine.logprobs(pack([tokens])))
        assert each.logprob == pytest.approx(sum(logprobs), rel=1e-6)
        assert each.bits_per_char == pytest.approx(-sum(logprobs) / math.log(2) / len(logprobs))
        assert logprobs[each.surprise] == pytest.approx(min(logprobs), rel=1e-6)
        assert each.cut == (len(each.text) >= MODEL.config.block_size)
        assert each.surprising == each.text[each.surprise : each.surprise + 1]


def test_a_character_that_is_unknown() -> None:
    with pytest.raises(TokenizerError, match=r"character 'x' .* number 2 in 'axa'"):
        list(score(MODEL, ["anna", "axa"]))
    found = list(score(MODEL, ["x", "anna", "axa", "n"], skip_unknown=True))
    assert [each.text for each in found] == ["anna", "n"]


def test_percentiles() -> None:
    scale = Scale([1.0, 2.0, 2.0, 3.0])
    assert [scale.percentile(bits) for bits in (0.5, 1, 1.5, 2, 2.5, 3, 3.5)] == [
        100, 100, 75, 75, 25, 25, 0,
    ]  # fmt: skip
    own = Scale.of(MODEL)
    assert len(own.bits) == len(DOCS)
    assert own.bits == sorted(own.bits)


def test_the_verb(tmp_path: Path, kamon: Kamon) -> None:
    MODEL.save(tmp_path / "m")
    texts = tmp_path / "texts"
    texts.write_text("anna\n\n  noé \nhannahanna\n")
    done = kamon("score", tmp_path / "m", texts)
    assert done.code == 0
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[-1] for row in rows] == ["anna", "noé", "hannahanna"]
    assert "1 line longer than the model can see" in done.err
    found = [
        json.loads(line)
        for line in kamon("score", tmp_path / "m", texts, "--json").out.splitlines()
    ]
    for row, each, expected in zip(
        rows, found, score(MODEL, ["anna", "noé", "hannahanna"]), strict=True
    ):
        assert row[0] == f"{expected.bits_per_char:.3f}"
        assert each["logprob"] == pytest.approx(expected.logprob, rel=1e-5)
        assert each["cut"] == expected.cut
        assert 0 <= each["percentile"] <= 100
    top = kamon("score", tmp_path / "m", texts, "--top", 2).out.splitlines()
    assert top == sorted(done.out.splitlines(), key=lambda line: -float(line.split("\t")[0]))[:2]
    least = max(float(row[0]) for row in rows) - 1e-3
    assert len(kamon("score", tmp_path / "m", texts, f"--threshold={least}").out.splitlines()) == 1


def test_bad_input(tmp_path: Path, kamon: Kamon) -> None:
    MODEL.save(tmp_path / "m")
    texts = tmp_path / "texts"
    texts.write_text("anna\nxenia\n")
    done = kamon("score", tmp_path / "m", texts)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "character 'x' (U+0078), number 1 in 'xenia'" in done.err
    done = kamon("score", tmp_path / "m", texts, "--unknown=skip")
    assert (done.code, len(done.out.splitlines())) == (0, 1)
    assert "1 line with characters unknown to the model left out" in done.err
    texts.write_bytes(b"anna\nJos\xe9\n")
    assert "line 2 is not UTF-8: byte 4 of it is 0xe9" in kamon("score", tmp_path / "m", texts).err
    assert "cannot read" in kamon("score", tmp_path / "m", tmp_path / "none").err
    assert kamon("score", tmp_path / "m", texts, "--top=0").code == 2
    assert kamon("score", tmp_path / "none", texts).code == 1
