"""Scores: the same numbers for single texts and for many, and the command."""

from __future__ import annotations

import json
import math
import random
import shutil
from array import array
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import TINY, TINY_FLAGS, Result
from kamon import load, train
from kamon.data import readers
from kamon.data.builtin import names_table
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.errors import ConfigError, TokenizerError
from kamon.evaluation import score as scoring
from kamon.evaluation.introspection import ngram_of
from kamon.evaluation.score import PercentileScale, score, score_list, score_with
from kamon.generation.blend import BlendedModel
from kamon.ngrams.native import count_ngram
from kamon.ngrams.reference import train_ngram
from kamon.packing.shards import open_shards
from kamon.tokenizers.char import CharTokenizer

Kamon = Callable[..., Result]
DOCS = ["anna", "hanna", "nora", "é", "aé名", "nonna", "rana"]
MODEL = train(DOCS, **TINY)


@given(st.lists(st.text("anhor é名", max_size=12)))
def test_encoding_in_bulk_is_encoding(texts: list[str]) -> None:
    tokenizer = CharTokenizer("anhor é名")
    expected = pack_sequences(tokenizer.encode_document(text)[:10] for text in texts)
    assert tokenizer.encode_documents(texts, 9) == expected


def test_encoding_where_the_first_code_points_are_known() -> None:
    tokenizer = CharTokenizer("\0\1\3a")  # the usual replacements of BOS are characters here
    texts = ["\0a\1", "", "\3\3"]
    expected = pack_sequences(map(tokenizer.encode_document, texts))
    assert tokenizer.encode_documents(texts, 9) == expected


def logprobs_in_windows(text: str) -> list[float]:
    """Return log p of each character and the end. Each window is BOS and block_size tokens."""
    bos, *tokens = MODEL.tokenizer.encode_document(text)
    size, found = MODEL.config.block_size, list[float]()
    while len(found) < len(tokens):
        end = min(len(found) + (size - size // 2 if found else size), len(tokens))
        window = [bos, *tokens[max(0, end - size) : end]]
        found += list(MODEL.engine.logprobs(pack_sequences([window])))[len(found) - end :]
    return found


@pytest.mark.parametrize("chunk", [1, 2, 100])
def test_scores_are_those_of_each_text_alone(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "CHUNK", chunk)
    monkeypatch.setattr(scoring, "NUM_WINDOWS", chunk)
    texts = [
        "anna",
        "",
        "noé",
        "n",
        "hannahanna",
        "名名",
        "nonnanona",
        "anna" * 20,
        "a" * 8,
        "a" * 7,
    ]
    found = list(score(MODEL, iter(texts)))
    assert [each.text for each in found] == texts
    for each in found:
        logprobs = logprobs_in_windows(each.text)
        assert each.logprob == pytest.approx(sum(logprobs), rel=1e-6)
        assert each.bits_per_char == pytest.approx(-sum(logprobs) / math.log(2) / len(logprobs))
        assert logprobs[each.surprise] == pytest.approx(min(logprobs), rel=1e-6)
        assert each.cut == (len(each.text) >= MODEL.config.block_size)
        assert each.surprising == each.text[each.surprise : each.surprise + 1]


def test_a_character_that_is_unknown() -> None:
    with pytest.raises(TokenizerError, match=r"character 'x' .* number 2 in 'axa'"):
        list(score(MODEL, ["anna", "axa"]))
    found = list(score(MODEL, ["x", "anna", "axa", "n"], unknown="skip"))
    assert [each.text for each in found] == ["anna", "n"]
    with pytest.raises(TokenizerError, match="'x'"):  # also after block_size tokens
        list(score(MODEL, ["annaannaannax"]))
    with pytest.raises(ConfigError, match="error, skip, replace, zero"):
        score(MODEL, [], unknown="drop")


def test_what_the_model_cannot_make_is_the_oddest_of_all() -> None:
    given = ["anna", "axa", "hanna", "x", "noé", "annaannaannax"]
    found = list(score(MODEL, iter(given), unknown="zero"))
    assert [each.text for each in found] == given
    known = [0, 2, 4]
    assert [found[place] for place in known] == list(score(MODEL, [given[i] for i in known]))
    for place, surprise in ((1, 1), (3, 0), (5, 12)):
        each = found[place]
        assert (each.logprob, each.bits_per_char, each.cut) == (-math.inf, math.inf, False)
        assert (each.surprise, each.surprising) == (surprise, "x")
    columns = score_list(MODEL.engine, MODEL.tokenizer, given, unknown="zero")
    assert columns.given == columns.texts == given
    assert PercentileScale.of(MODEL, "zero").percentile(math.inf) == 0
    assert next(score(MODEL, ["x"], unknown="zero")).surprise == 0


def test_what_the_model_cannot_end_is_as_odd() -> None:
    size = MODEL.config.block_size
    texts = ["n" * (size - 1), "n" * size, "hanna" * 9, "n" * 9 + "x"]
    fits, *long, strange = score(MODEL, texts, unknown="zero")
    assert fits == next(score(MODEL, texts[:1]))
    assert not fits.cut
    for each in long:
        assert (each.logprob, each.bits_per_char, each.cut) == (-math.inf, math.inf, True)
        assert each.surprise == size - 1
    assert (strange.surprise, strange.surprising) == (9, "x")


def test_what_is_appended_counts() -> None:
    for text in ("hannanora", "annaannaanna"):
        whole, odder = score(MODEL, [text, text + "éé名éhé"])
        assert odder.logprob < whole.logprob - 5
        assert odder.bits_per_char > whole.bits_per_char


def test_unknown_characters_replaced() -> None:
    given = ["Änna", "anna", "xenia", "ÉN", "名ß", "Noé"]
    columns = score_list(MODEL.engine, MODEL.tokenizer, given, unknown="replace")
    assert (columns.given, columns.texts) == (
        ["Änna", "anna", "ÉN", "Noé"],
        ["anna", "anna", "én", "noé"],
    )
    found = list(score(MODEL, given, unknown="replace"))
    assert found == list(score(MODEL, columns.texts))
    assert found[0] == found[1]


def test_a_long_text_with_unknown_characters_makes_a_short_error() -> None:
    with pytest.raises(TokenizerError, match="number 1000001 in 'aaa") as caught:
        list(score(MODEL, ["a" * 1_000_000 + "x"]))
    assert len(str(caught.value)) < 300


def test_an_ngram_scores_as_a_model_does() -> None:
    batch = pack_sequences(map(MODEL.tokenizer.encode_document, DOCS))
    ngram = train_ngram(batch, MODEL.tokenizer.vocab_size, 3)
    found = list(score_with(ngram, MODEL.tokenizer, ["anna", "nora", "éa"]))
    assert [each.text for each in found] == ["anna", "nora", "éa"]
    for each in found:
        logprobs = list(
            ngram.logprobs(pack_sequences([MODEL.tokenizer.encode_document(each.text)]))
        )
        assert each.logprob == pytest.approx(sum(logprobs))
        assert logprobs[each.surprise] == min(logprobs)


@pytest.mark.parametrize("train_one", [train_ngram, count_ngram])
def test_an_ngram_reads_texts_of_any_length(train_one: Any) -> None:
    batch = pack_sequences(map(MODEL.tokenizer.encode_document, DOCS))
    ngram = train_one(batch, MODEL.tokenizer.vocab_size, 3)
    text = "hannanora" * 5
    (found,) = score_with(ngram, MODEL.tokenizer, [text], unknown="zero")
    logprobs = ngram.logprobs(pack_sequences([MODEL.tokenizer.encode_document(text)]))
    assert found.logprob == pytest.approx(sum(logprobs))
    assert not found.cut


@given(
    st.lists(
        st.lists(st.sampled_from([-3.0, -2.5, -1 / 3, -0.1]), max_size=5).map(tuple), max_size=9
    )
)
def test_the_sums_of_documents(logprobs: list[tuple[float, ...]]) -> None:
    class Known:
        config = MODEL.config

        def logprobs(self, batch: PackedBatch) -> array[float]:  # noqa: ARG002
            return array("d", chain.from_iterable(logprobs))

    batch = pack_sequences([[0] * (len(own) + 1) for own in logprobs])
    totals, places = document_logprobs(Known(), batch)
    assert list(totals) == pytest.approx([math.fsum(own) for own in logprobs])
    assert list(places) == [own.index(min(own)) if own else 0 for own in logprobs]


def test_percentiles() -> None:
    scale = PercentileScale([1.0, 2.0, 2.0, 3.0])
    assert [scale.percentile(bits) for bits in (0.5, 1, 1.5, 2, 2.5, 3, 3.5)] == [
        100, 100, 75, 75, 25, 25, 0,
    ]  # fmt: skip
    own = PercentileScale.of(MODEL)
    assert (len(own.bits), own.reference) == (len(DOCS), "list")
    assert own.bits == sorted(own.bits)
    assert PercentileScale([], None).percentiles([1.0, math.inf]) == [None, None]


def test_unseen_entries_have_every_percentile_equally_often() -> None:
    names = sorted({name for name, _, _ in names_table()})
    random.Random(1).shuffle(names)
    learned, unseen = names[:2000], names[2000:4000]
    model = train(learned, size="small", num_steps=1000, threads=1)
    held_out = model.parts()[1]
    # The n-gram of the saved model also counts the validation set, which it finds less unlikely.
    blend = model.blended_with(model.parts()[0])
    assert isinstance(blend, BlendedModel)
    for reader in (blend, ngram_of(model)[0]):
        scale = PercentileScale.between(reader, model.tokenizer, model.docs, held_out)
        assert (scale.reference, len(scale.bits)) == ("validation", len(held_out))
        assert reader is not blend or scale == PercentileScale.of(model)
        found = score_list(reader, model.tokenizer, unseen, unknown="skip").bits_per_char
        percentiles = sorted(scale.percentiles(found), key=lambda p: p or 0.0)
        for place in range(0, len(percentiles), 100):
            # By chance, a share of some 200 documents is off by 7% in one of 20 cases.
            assert percentiles[place] == pytest.approx(100 * place / len(percentiles), abs=15)


def test_percentiles_of_a_packed_corpus(tmp_path: Path, kamon: Kamon) -> None:
    docs = [f"{a}{b}{c}" for a in "annor" for b in "annhr" for c in "aeinorsu"]
    (tmp_path / "list").write_text("\n".join(docs))
    assert kamon("pack", tmp_path / "list", "-o", tmp_path / "shards").code == 0
    assert kamon("train", tmp_path / "shards", "-o", tmp_path / "m", *TINY_FLAGS).code == 0
    shards = open_shards(tmp_path / "shards")
    model = load(tmp_path / "m")
    scale = PercentileScale.of(model)
    held_out = [
        shards.tokenizer.decode(shards.document("held_out", number)[1:-1])
        for number in range(shards.num_docs("held_out"))
    ]
    bits = score_list(model.engine, model.tokenizer, held_out).bits_per_char
    assert (scale.bits, scale.reference) == (sorted(bits), "validation")
    shutil.rmtree(tmp_path / "shards")
    (tmp_path / "texts").write_text("anna\n")
    done = kamon("score", tmp_path / "m", tmp_path / "texts")
    assert done.out.split("\t")[2] == "-"
    assert "no percentiles" in done.err
    found = json.loads(kamon("score", tmp_path / "m", tmp_path / "texts", "--json").out)
    assert (found["percentile"], found["compared_with"]) == (None, None)


def test_the_verb(tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    MODEL.save(tmp_path / "m")
    texts = tmp_path / "texts"
    texts.write_text("anna\n\n  noé \nhannahanna\n")
    done = kamon("score", tmp_path / "m", texts)
    assert done.code == 0
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[-1] for row in rows] == ["anna", "noé", "hannahanna"]
    size = MODEL.config.block_size
    assert f"1 line longer than {size - 1} characters: scored in overlapping windows" in done.err
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
        assert each["text"] == each["scored"] == expected.text
        assert 0 <= each["percentile"] <= 100
        assert each["compared_with"] == "list"
    oddest = sorted(done.out.splitlines(), key=lambda line: -float(line.split("\t")[0]))
    for block in (1, 1 << 17):  # bytes read at a time
        monkeypatch.setattr(readers, "BLOCK", block)
        assert kamon("score", tmp_path / "m", texts).out == done.out
        assert kamon("score", tmp_path / "m", texts, "--top", 2).out.splitlines() == oddest[:2]
        assert kamon("score", tmp_path / "m", texts, "--top", 9).out.splitlines() == oddest
    least = float(oddest[1].split("\t")[0]) - 1e-3
    assert kamon("score", tmp_path / "m", texts, f"--threshold={least}").out.splitlines() == [
        row for row in done.out.splitlines() if row in oddest[:2]
    ]
    nothing = kamon("score", tmp_path / "m", texts, "--threshold=99")
    assert (nothing.code, nothing.out) == (0, "")


def test_what_is_unknown_to_the_verb(tmp_path: Path, kamon: Kamon) -> None:
    MODEL.save(tmp_path / "m")
    texts = tmp_path / "texts"
    texts.write_text("anna\n\nxenia\nÄNNA\n")
    done = kamon("score", tmp_path / "m", texts)
    assert (done.code, done.err.count("\n")) == (1, 2)
    assert "line 3: the model does not know character 'x' (U+0078), number 1 in 'xenia'" in done.err
    done = kamon("score", tmp_path / "m", texts, "--unknown=skip")
    assert (done.code, len(done.out.splitlines())) == (0, 1)
    assert "Left out 2 lines with unknown characters\n" in done.err
    done = kamon("score", tmp_path / "m", texts, "--unknown=replace")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[-1] for row in rows] == ["anna", "ÄNNA"]
    assert rows[0][:-1] == rows[1][:-1]
    assert "Left out 1 line with unknown characters that have no close known" in done.err
    assert "1 line scored with the closest known characters" in done.err
    done = kamon("score", tmp_path / "m", texts, "--unknown=replace", "--json")
    shown = json.loads(done.out.splitlines()[1])
    assert (shown["text"], shown["scored"]) == ("ÄNNA", "anna")
    texts.write_text("xenia\n")
    assert kamon("score", tmp_path / "m", texts, "--unknown=skip").code == 1


def test_the_oddest_first(tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    MODEL.save(tmp_path / "m")
    texts = tmp_path / "texts"
    texts.write_text("anna\nЯнд\nhhhh\n日本\nnaX\n", encoding="utf-8")
    last = max(score(MODEL, ["anna", "hhhh"]), key=lambda each: each.bits_per_char).text
    done = kamon("score", tmp_path / "m", texts)
    assert all(f"{word} " in done.err.replace(",", "") for word in ("zero", "skip", "replace"))
    for block in (1, 1 << 17):
        monkeypatch.setattr(readers, "BLOCK", block)
        done = kamon("score", tmp_path / "m", texts, "--unknown=zero", "--top=4")
        rows = [line.split("\t") for line in done.out.splitlines()]
        assert [row[-1] for row in rows] == ["Янд", "日本", "naX", last]
        assert [row[:-1] for row in rows[:3]] == [["inf", "-inf", "0.0", c] for c in "Я日X"]
        assert "3 lines with unknown characters: probability 0" in done.err
        assert "percentiles are among 7 entries of the list" in done.err
    done = kamon("score", tmp_path / "m", texts, "--unknown=zero", "--top=2", "--json")
    first = json.loads(done.out.splitlines()[0], parse_constant=pytest.fail)
    assert (first["logprob"], first["bits_per_char"], first["percentile"]) == (None, None, 0)
    assert (first["text"], first["surprise"], first["surprising"]) == ("Янд", 0, "Я")


def test_a_column_of_a_table(tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    MODEL.save(tmp_path / "m")
    table = tmp_path / "x.csv"
    table.write_text('id;name\n1;anna\n2;"no\nra"\n3;\n4; hanna \n')
    plain = tmp_path / "x.txt"
    plain.write_text("anna\nhanna\n")
    expected = kamon("score", tmp_path / "m", plain).out
    done = kamon("score", tmp_path / "m", table, "--column=name", "--unknown=skip")
    assert done.out == expected
    assert "has cells separated by semicolons" in done.err
    refused = kamon("score", tmp_path / "m", table, "--column=name").err
    assert "record 2: the model does not know character" in refused
    lines = tmp_path / "x.jsonl"
    lines.write_text('{"name": "anna"}\n\n{"name": "hanna"}\n{"name": 5}\n')
    for block in (1, 1 << 17):
        monkeypatch.setattr(readers, "BLOCK", block)
        done = kamon("score", tmp_path / "m", lines, "--column=name")
        assert (done.code, "line 4: the value of 'name' is not text" in done.err) == (1, True)
        assert expected.startswith(done.out)
    plain.write_text("1;anna\n" * 5)
    done = kamon("score", tmp_path / "m", plain, "--unknown=zero")
    assert "looks like a table: read one column with --format csv --column NAME" in done.err


def test_lines_without_end(tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_LINE", 20)
    MODEL.save(tmp_path / "m")
    texts = tmp_path / "texts"
    texts.write_text("nora\n" + "a" * 20 + "\n" + "a" * 21 + "\n" + "n" * 1000)
    done = kamon("score", tmp_path / "m", texts)
    assert [len(line.split("\t")[-1]) for line in done.out.splitlines()] == [4, 20, 20, 20]
    assert "2 lines longer than 20 characters: the rest" in done.err
    assert "3 lines longer than " in done.err


def test_bad_input(tmp_path: Path, kamon: Kamon) -> None:
    MODEL.save(tmp_path / "m")
    texts = tmp_path / "texts"
    texts.write_bytes(b"anna\nJos\xe9\n")
    done = kamon("score", tmp_path / "m", texts)
    assert "line 2 is not UTF-8: byte 4 of it is 0xe9" in done.err
    assert done.out.endswith("\tanna\n")  # Kamon scores the lines before the error
    texts.write_bytes(b" \n")
    assert "has only blank lines" in kamon("score", tmp_path / "m", texts).err
    texts.write_bytes(b"")
    assert "is empty" in kamon("score", tmp_path / "m", texts).err
    assert "error: no file " in kamon("score", tmp_path / "m", tmp_path / "none").err
    assert kamon("score", tmp_path / "m", texts, "--top=0").code == 2
    assert kamon("score", tmp_path / "m", texts, "--threshold=nan").code == 2
    assert kamon("score", tmp_path / "none", texts).code == 1
