"""Tables with given columns: what is learned, that it is stored, and that training resumes."""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kamon
from helpers.lists import DOCS, PEOPLE
from helpers.runs import stop_after
from kamon.config import Config
from kamon.data import columns
from kamon.data.columns import Columns, Row, read_table
from kamon.engines.base import initial_state
from kamon.engines.factory import make_engine
from kamon.errors import ConfigError, CorpusError, StoreError
from kamon.generation.classes import class_logprobs, fit_exponents
from kamon.generation.given import Recipe, counts_of, plain_tokenizer, value_tokens
from kamon.model import Model, load
from kamon.native import library
from kamon.storage import model_dir
from kamon.storage.checkpoint import pack_documents
from kamon.tokenizers.char import CharTokenizer
from kamon.training import base
from kamon.training.base import BASE, starting_point
from kamon.training.calibration import validation_logprobs
from kamon.training.conditional import conditional_data, in_turn
from kamon.training.early_stopping import EarlyStopping, running_mean

GIVEN = ["country", "sex"]
TABLE: dict[str, Any] = {"column": "name", "given": GIVEN, "weight": "births"}
TINY: dict[str, Any] = {"num_steps": 20, "n_layer": 1, "n_embd": 8, "n_head": 2, "batch_size": 4}
needs_native = pytest.mark.skipif(bool(library.why_not()), reason="no native engine")


@pytest.fixture(scope="module")
def model() -> Model:
    return kamon.train(PEOPLE, **TABLE, size="tiny", num_steps=300)


# ---- what is learned


def test_a_document_begins_with_the_tokens_of_its_values() -> None:
    data = conditional_data(read_table(PEOPLE, Columns("name", ("country", "sex"))))
    config = Config(block_size=9, num_steps=1000, batch_size=4)
    tokenizer = data.tokenizer
    assert list(tokenizer.special)[1:] == ["country=north", "country=south", "sex=f", "sex=m"]
    docs = list(data.examples(config, random.Random(1)))
    assert len(docs) == len(data.train_rows)
    rows = {(row.text, *row.values) for row in data.train_rows}
    for tokens in docs:
        assert tokens[-1] == tokenizer.bos
        country, sex = map(tokenizer.token_text, tokens[:2])
        text = tokenizer.decode(tokens[2:-1])
        assert (text, country.partition("=")[2], sex.partition("=")[2]) in rows
    assert data.num_values == 2
    assert data.room(config) == 8
    cut = data.examples(replace(config, block_size=4), random.Random(1))
    assert max(map(len, cut)) == 5
    tested = data.validation_set(config)
    assert len(tested) == len(data.validation_rows)
    assert not {row.text for row in data.train_rows} & {row.text for row in data.validation_rows}
    assert max(data.lengths) == max(len(row.text) for row in data.train_rows) + 1


def test_a_row_is_learned_as_often_as_it_counts() -> None:
    rows = [Row("a", ("x",), 1.0), Row("b", ("x",), 2.0), Row("c", ("x",), 8.0)]
    assert counts_of(rows) == [1.0, 2.0, 4.0]
    turns = in_turn(rows, 21, random.Random(3))
    counts = Counter(row.text for row in turns)
    assert counts == {"a": 3, "b": 6, "c": 12}
    same = [row._replace(weight=7.0) for row in rows]
    assert sorted(in_turn(same, 21, random.Random(3))) == sorted(same)  # once: the loop repeats it
    assert len(in_turn(rows, 2, random.Random(3))) == 2


@pytest.mark.parametrize(
    ("given", "letters", "endings"),
    [
        ({"country": "north", "sex": "f"}, "bdk", ("nna", "ra")),
        ("country=south,sex=m", "lmn", ("n", "s", "lo")),
        ("country=south", "lmn", ("n", "s", "lo", "nna", "ra")),
        ("sex=f", "bdklmn", ("nna", "ra")),
    ],
)
def test_samples_have_the_given_values(
    model: Model, given: Any, letters: str, endings: tuple[str, ...]
) -> None:
    texts = model.sample(100, given=given, seed=1)
    assert sum(text[:1] in letters for text in texts) > 90
    assert sum(text.endswith(endings) for text in texts) > 80


def test_classes_are_recognised(model: Model) -> None:
    texts = [row["name"] for row in PEOPLE]
    for column in GIVEN:
        found = list(kamon.classify(model, texts, by=column))
        right = sum(each.value == row[column] for each, row in zip(found, PEOPLE, strict=True))
        assert right / len(texts) > 0.9
        for each in found:
            assert sum(each.shares.values()) == pytest.approx(1)
            assert each.probability == max(each.shares.values()) == each.shares[each.value]
    with pytest.raises(ConfigError, match="the model knows no column 'age'"):
        list(kamon.classify(model, texts, by="age"))
    with pytest.raises(
        ConfigError, match="unknown must be one of error, skip, replace, not 'zero'"
    ):
        list(kamon.classify(model, texts, by="sex", unknown="zero"))


def test_scores_are_those_of_the_mixture_of_all_classes(model: Model) -> None:
    (score,) = kamon.score(model, ["banna"])
    batch = model.tokenizer.encode_documents(["banna"])
    found = model.conditional
    p = [
        share * math.exp(math.fsum(each.logprobs(batch)))
        for share, each in zip(found.shares.values(), found.models.values(), strict=True)
    ]
    assert score.logprob == pytest.approx(math.log(math.fsum(p)), rel=1e-6)


def test_novel_samples_and_lists_of_entries(model: Model) -> None:
    assert set(model.docs) == set(DOCS)
    assert len(model.rows) == len(PEOPLE)
    assert model.given_values == {"country": ["north", "south"], "sex": ["f", "m"]}
    texts = model.sample(10, novel=True, unique=True, given="sex=f", seed=2)
    assert not set(texts) & set(DOCS)


# ---- the base


@needs_native
def test_value_tokens_hardly_change_what_the_base_predicts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = starting_point(BASE)
    assert start
    names = ["country=fi", "country=jp", "sex=f"]
    plain = CharTokenizer("ainorst", composed=True)
    tokenizer = plain.extended(specials=names)
    config = replace(start.config, block_size=12, vocab_size=tokenizer.vocab_size)
    monkeypatch.setattr(base, "VALUE_NOISE", 0.0)
    logits = []
    for known, num_values in ((plain, 0), (tokenizer, 1), (tokenizer, 2)):
        own = replace(config, vocab_size=known.vocab_size)
        engine = make_engine("native", own, dtype="float64")
        engine.load(initial_state(start.params_for(known, own, num_values)))
        decoder = engine.decoder()
        names = [["country"], ["country", "sex"]][num_values - 1]
        before = value_tokens(known, names, ["jp", "f"]) if num_values else (plain.bos,)
        for token in (*before[: num_values or 1], *plain.encode("nora")):
            found = decoder.push(token)
        logits.append(found[: plain.vocab_size])
    assert list(logits[1]) == pytest.approx(list(logits[0]), abs=0.05)
    assert list(logits[2]) == pytest.approx(list(logits[0]), abs=0.8)  # BOS is read twice


@needs_native
def test_positions_of_an_entry_follow_those_of_its_values() -> None:
    start = starting_point(BASE)
    assert start
    tokenizer = CharTokenizer("abc", ["x=1", "y=1"], composed=True)
    config = replace(start.config, block_size=9, vocab_size=tokenizer.vocab_size)
    width, rows = config.n_embd, {}
    for num_values, known in ((0, start.tokenizer), (3, tokenizer)):
        own = replace(config, vocab_size=known.vocab_size)
        params = start.params_for(known, own, num_values)
        first = width * known.vocab_size  # the embeddings of tokens come before
        rows[num_values] = [params[first + i * width : first + (i + 1) * width] for i in range(9)]
    assert rows[3][3:] == rows[0][1:7]
    for row in rows[3][:3]:
        assert list(row) == pytest.approx([base.VALUE_SCALE * x for x in rows[0][0]])


# ---- the validation set


def test_the_losses_are_those_of_unseen_rows(model: Model) -> None:
    """The n-grams that are measured count only the training set, and values are no targets."""
    measured = model.training.held_out
    assert measured is not None
    num_rows, gpt, ngram, both = validation_logprobs(model, model.parts()[1])
    for logprobs, loss in (
        (gpt, measured.gpt_loss),
        (ngram, measured.ngram_loss),
        (both, measured.loss),
    ):
        assert loss == pytest.approx(-math.fsum(logprobs) / len(logprobs), rel=1e-5)
    assert num_rows == measured["num_docs"]


def test_exponents_are_fitted_to_unseen_rows(model: Model) -> None:
    given = model.training.given
    assert given is not None
    learned, tested = columns.divided(model.rows, model.parts()[1])
    unseen = model.conditional_of(learned)
    batch = model.tokenizer.encode_documents([row.text for row in tested])
    logprobs = class_logprobs(unseen, batch)
    for number, column in enumerate(GIVEN):
        wanted = fit_exponents(unseen, logprobs, column, [row.values[number] for row in tested])
        assert given.exponents[column] == wanted


# ---- the mean of the parameters


def test_early_stopping_keeps_the_mean_of_the_parameters() -> None:
    config = Config(n_embd=4, n_head=2, vocab_size=5, block_size=4)
    engine = make_engine("scalar", config)
    size = len(engine.state()["params"])
    measured: list[float] = []

    def measure(engine: Any) -> float:
        measured.append(engine.state()["params"][0])
        return -measured[-1]

    stopping = EarlyStopping(measure, averages=True)
    for step, number in enumerate((1.0, 3.0, 8.0), 1):
        state = initial_state(array("d", [number]) * size)
        engine.load(state)
        stopping(engine, step)
        assert engine.state() == state  # training goes on from where it was
    assert measured == [1.0, 2.0, 4.0]
    stopping.finish(engine, 3)
    assert engine.state()["params"][0] == pytest.approx(4.0)


def test_running_mean() -> None:
    mean = None
    for number, x in enumerate((2.0, 4.0, 9.0), 1):
        mean = running_mean(mean, array("d", [x]), number)
    assert mean is not None
    assert mean[0] == pytest.approx(5.0)


# ---- the model directory


def same(one: Model, two: Model) -> None:
    assert one.config == two.config
    assert one.metrics == two.metrics
    assert one.engine.state()["params"] == two.engine.state()["params"]
    assert one.rows == two.rows
    for given in (None, "country=north:1,south:2", "sex=m,country=south"):
        assert one.sample(20, given=given, seed=3) == two.sample(20, given=given, seed=3)
    ignored = {"seconds": 0, "checkpoint_every": None}
    assert one.training | ignored == two.training | ignored


@pytest.mark.parametrize("blend", [True, False])
def test_a_run_that_is_interrupted_resumes_bit_for_bit(tmp_path: Path, blend: bool) -> None:
    settings = TINY | {"blend": blend, "dropout": 0.1}
    whole = kamon.train(PEOPLE, **TABLE, **settings)
    path = tmp_path / "m"
    part = kamon.train(PEOPLE, **TABLE, **settings, output=path, should_stop=stop_after(7))
    rounds = 0
    while not part.training.finished:
        rounds += 1
        same(load(path), part)
        part = kamon.resume(path, should_stop=stop_after(7))
    assert rounds > 1
    same(part, whole)
    same(load(path), whole)


def test_saving_and_loading(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    found = load(tmp_path / "m")
    same(found, model)
    (one,) = kamon.classify(found, ["banna"], by="sex")
    (two,) = kamon.classify(model, ["banna"], by="sex")
    assert one == two
    manifest = (tmp_path / "m" / "generation-000001" / "manifest.json").read_text()
    assert '"format": 4' in manifest  # earlier versions of Kamon refuse it


def test_damaged_rows_are_refused(model: Model, tmp_path: Path) -> None:
    from kamon.data.documents import Documents

    broken = replace(model, documents=Documents.of(["no cells"]))
    broken.save(tmp_path / "m")
    with pytest.raises(StoreError, match="a stored row has another number of cells"):
        load(tmp_path / "m").sample(1)
    assert b"".join(pack_documents(broken.stored_documents()))


def test_a_list_keeps_its_format(tmp_path: Path) -> None:
    kamon.train(DOCS, **TINY, output=tmp_path / "m")
    manifest = (tmp_path / "m" / "generation-000001" / "manifest.json").read_text()
    assert '"format": 3' in manifest
    assert model_dir.load(tmp_path / "m").training.given is None


# ---- what is not possible


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"hold_out": False}, ConfigError, "needs a validation set"),
        ({"mode": "text"}, ConfigError, "given values need mode documents"),
        ({"tokenizer": "bpe"}, ConfigError, "given values need the char tokenizer"),
        ({"given": None}, ConfigError, "a weight needs given columns"),
        ({"given": ["age"], "weight": None}, CorpusError, "has no key 'age'"),
    ],
)
def test_options_that_do_not_fit(changes: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kamon.train(PEOPLE, **(TABLE | TINY | changes))


def test_short_tables_are_refused() -> None:
    with pytest.raises(CorpusError, match=r"has \d+ unique entries, too few for a validation set"):
        kamon.train(PEOPLE[:30], column="name", given="sex", **TINY)


def test_other_commands_refuse_a_conditional_model(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not possible with a model of given values"):
        kamon.sft(model, [{"prompt": "a", "completion": "b"}], num_steps=1)
    with pytest.raises(ConfigError, match="not possible with a model of given values"):
        kamon.export(model, tmp_path / "m.py")
    with pytest.raises(ConfigError, match="a conditional model cannot start from another model"):
        kamon.train(PEOPLE, **TABLE, **TINY, init_from=kamon.train(DOCS, num_steps=1))
    plain = kamon.train(DOCS, num_steps=1)
    with pytest.raises(ConfigError, match="the model knows no given values"):
        plain.sample(1, given="sex=f")
    with pytest.raises(ConfigError, match="the model knows no given values"):
        list(kamon.classify(plain, ["anna"], by="sex"))


def test_the_recipe_of_a_gpt_only_has_no_ngrams(model: Model) -> None:
    alone = replace(model, training=model.training | {"blend": None})
    assert all(each.ngram is None for each in alone.conditional.models.values())
    assert Recipe(0, 1.0).shares == ()
    assert plain_tokenizer(model.tokenizer).special.keys() == {"<|bos|>"}
