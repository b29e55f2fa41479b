"""Evaluation: each figure by hand or in another way, and the output of `kamon eval`."""

from __future__ import annotations

import io
import math
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Result
from helpers.lists import DOCS
from kamon import CorpusError, Model, TrainingError, load, train
from kamon.cli.eval import print_guessed
from kamon.config import Config
from kamon.data import corpus
from kamon.data.split import split
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.errors import ConfigError
from kamon.evaluation.evaluate import (
    EvaluationSet,
    bigrams,
    earth_movers,
    evaluate,
    held_out_metrics,
    jensen_shannon,
    sample_metrics,
    select_test_set,
)
from kamon.ngrams.reference import train_ngram
from kamon.tokenizers.char import CharTokenizer
from kamon.training.early_stopping import mean_loss

Kamon = Callable[..., Result]
LEARNED, HELD_OUT = split(DOCS)
SETTINGS: dict[str, Any] = {"n_embd": 4, "n_head": 2, "block_size": 5, "num_steps": 40}
COUNTS = st.dictionaries(st.integers(0, 9), st.integers(1, 9), min_size=1).map(Counter)


@pytest.fixture(scope="module")
def model() -> Model:
    """A model that cuts documents of 5 characters to 4. Its blend uses both parts."""
    trained = train(DOCS, **SETTINGS)
    return replace(trained, training=trained.training | {"blend": {"weight": 0.4, "order": 3}})


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("eval") / "model"
    model.save(path)
    return path


# ---- distances


@given(COUNTS, COUNTS, COUNTS)
def test_earth_movers_is_a_distance(p: Counter[int], q: Counter[int], r: Counter[int]) -> None:
    assert earth_movers(p, q) == earth_movers(q, p)
    assert earth_movers(p, q) <= earth_movers(p, r) + earth_movers(r, q) + 1e-12
    shares = [{value: n / counts.total() for value, n in counts.items()} for counts in (p, q)]
    assert (earth_movers(p, q) == 0) == (shares[0] == shares[1])


@given(COUNTS, st.integers(1, 5), st.integers(0, 7))
def test_earth_movers_of_what_is_repeated_and_shifted(p: Counter[int], times: int, by: int) -> None:
    moved = Counter({value + by: n * times for value, n in p.items()})
    assert earth_movers(p, moved) == by


@given(
    st.integers(1, 20).flatmap(
        lambda n: st.tuples(*[st.lists(st.integers(0, 30), min_size=n, max_size=n)] * 2)
    )
)
def test_earth_movers_moves_the_smallest_to_the_smallest(
    lists: tuple[list[int], list[int]],
) -> None:
    a, b = map(sorted, lists)
    wanted = sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)
    assert earth_movers(Counter(a), Counter(b)) == pytest.approx(wanted, rel=1e-12)


@given(COUNTS, COUNTS)
def test_jensen_shannon_is_symmetric_and_bounded(p: Counter[int], q: Counter[int]) -> None:
    found = jensen_shannon(p, q)
    assert found == jensen_shannon(q, p)
    assert 0 <= found <= 1
    assert (found > 1 - 1e-12) == p.keys().isdisjoint(q)
    assert jensen_shannon(p, Counter({key: 3 * n for key, n in p.items()})) == 0

    def entropy(shares: list[float]) -> float:
        return -math.fsum(share * math.log2(share) for share in shares if share)

    keys = [*(p | q)]
    shares_p, shares_q = ([c[key] / c.total() for key in keys] for c in (p, q))
    mixed = [(a + b) / 2 for a, b in zip(shares_p, shares_q, strict=True)]
    wanted = entropy(mixed) - (entropy(shares_p) + entropy(shares_q)) / 2
    assert found == pytest.approx(wanted, abs=1e-12)


def test_jensen_shannon_by_hand() -> None:
    """P = (1, 0), Q = (½, ½), M = (¾, ¼)."""
    wanted = (math.log2(4 / 3) + math.log2(2 / 3) / 2 + math.log2(2) / 2) / 2
    found = jensen_shannon(Counter("aa"), Counter("ab"))
    assert found == pytest.approx(wanted, rel=1e-14)


# ---- bigrams

TEXTS = st.lists(st.text("abc", max_size=5), max_size=8)


@given(TEXTS, TEXTS)
def test_bigrams_of_each_document(ended: list[str], unended: list[str]) -> None:
    wanted = Counter(
        pair
        for text in [*(f"\0{doc}\0" for doc in ended), *(f"\0{doc}" for doc in unended)]
        for pair in pairwise(text)
    )
    assert bigrams(ended, unended) == wanted


# ---- documents


def test_choose() -> None:
    docs = ["bo", "anna", "öl", "bo", "nä", "ob"]
    assert select_test_set(iter(docs), ["anna"], CharTokenizer("abno").unknown) == EvaluationSet(
        ["bo", "ob"], 1, 2, "läö"
    )
    with pytest.raises(CorpusError, match="it has learned all of them"):
        select_test_set(["anna", "anna"], ["anna"], CharTokenizer("an").unknown)
    with pytest.raises(CorpusError, match=r"have characters it does not know \('ö'\)"):
        select_test_set(["anna", "nö"], ["anna"], CharTokenizer("an").unknown)
    with pytest.raises(CorpusError, match=r"not know \('BCDEFGHIJK' and 2 more\)"):
        select_test_set(["ABCDEFGHIJKLM"], ["anna"], CharTokenizer("An").unknown)


class Halves:
    """An engine that gives every target a probability of ½, or another given one."""

    def __init__(self, logprob: float = -math.log(2)) -> None:
        self.logprob = logprob

    def logprobs(self, batch: PackedBatch) -> array[float]:
        return array("d", [self.logprob] * batch.num_targets)


def named(engine: object, block_size: int) -> Any:
    """Return a model with only the parts that `held_out_metrics` needs."""
    return SimpleNamespace(
        config=Config(block_size=block_size, vocab_size=4),
        tokenizer=CharTokenizer("abc"),
        blended_with=lambda _docs: engine,
    )


def test_guess_by_hand() -> None:
    """The 5 targets are "a" and its end, and "abc" without one. The uniform loss is 10 bits."""
    found = held_out_metrics(
        named(Halves(), 3), EvaluationSet(["a", "abcabc"], 7, 8, "xy"), ["ab", "ca"]
    )
    assert (found.num_docs, found.num_tokens, found.num_chars, found.num_cut) == (2, 5, 4, 1)
    assert (found.num_learned, found.num_unknown, found.unknown_chars) == (7, 8, "xy")
    assert found.model.nats_per_token == pytest.approx(math.log(2), rel=1e-14)
    assert found.model.bits_per_char == pytest.approx(5 / 4, rel=1e-14)
    assert found.model.perplexity == pytest.approx(2, rel=1e-14)
    assert found.uniform.bits_per_char == pytest.approx(10 / 4, rel=1e-14)
    assert found.uniform.perplexity == pytest.approx(4, rel=1e-14)
    assert (found.gpt, found.ngram, found.weight, found.ngram_order) == (None,) * 4


@pytest.mark.parametrize(("size", "num_cut", "num_tokens"), [(4, 0, 4), (3, 1, 3), (2, 1, 2)])
def test_a_document_is_cut_as_in_training(size: int, num_cut: int, num_tokens: int) -> None:
    """A document of block_size − 1 characters fits with its end."""
    found = held_out_metrics(named(Halves(), size), EvaluationSet(["abc"], 0, 0, ""), ["ab", "ca"])
    assert (found.num_cut, found.num_tokens, found.num_chars) == (num_cut, num_tokens, min(3, size))


def test_odds_too_small_for_a_perplexity() -> None:
    found = held_out_metrics(named(Halves(-1e6), 3), EvaluationSet(["a"], 0, 0, ""), ["ab", "ca"])
    assert (found.model.nats_per_token, found.model.perplexity) == (1e6, None)
    assert found.gain < -9e5
    for logprob in (-math.inf, math.nan):
        with pytest.raises(TrainingError, match="are not finite"):
            held_out_metrics(
                named(Halves(logprob), 3), EvaluationSet(["a"], 0, 0, ""), ["ab", "ca"]
            )


def test_a_model_and_its_baselines(model: Model) -> None:
    found = evaluate(model, n=0).documents
    encode = model.tokenizer.encode_document
    held_out = pack_sequences(encode(doc)[:6] for doc in HELD_OUT)
    assert (found.num_docs, found.num_tokens) == (len(HELD_OUT), held_out.num_targets)
    assert found.num_chars == sum(min(len(doc), 5) for doc in HELD_OUT)
    assert found.num_cut == sum(len(doc) > 4 for doc in HELD_OUT)
    assert (found.num_learned, found.num_unknown, found.unknown_chars) == (0, 0, "")
    vocab_size, learned = model.config.vocab_size, pack_sequences(map(encode, LEARNED))
    assert (found.weight, found.ngram_order) == (0.4, 3)
    # The n-gram of the saved model also counts the validation set, and would be better here.
    gpt = list(map(math.exp, model.engine.logprobs(held_out)))
    ngram = list(map(math.exp, train_ngram(learned, vocab_size, 3).logprobs(held_out)))
    mixed = [0.4 * p + 0.6 * q for p, q in zip(gpt, ngram, strict=True)]
    for metrics, odds in ((found.gpt, gpt), (found.ngram, ngram), (found.model, mixed)):
        assert metrics
        nats = -math.fsum(map(math.log, odds))
        assert metrics.nats_per_token == pytest.approx(nats / len(odds), rel=1e-9)
        assert metrics.bits_per_char == pytest.approx(nats / math.log(2) / found.num_chars)
    assert found.uniform.perplexity == pytest.approx(vocab_size, rel=1e-12)
    nats = []
    for order in range(1, 7):
        logprobs = train_ngram(learned, vocab_size, order).logprobs(held_out)
        nats.append(-math.fsum(logprobs) / len(logprobs))
    assert found.unigram.nats_per_token == pytest.approx(nats[0], rel=1e-12)
    assert found.best_ngram.nats_per_token == pytest.approx(min(nats), rel=1e-12)
    assert found.best_order == nats.index(min(nats)) + 1 > 1
    assert found.gain == pytest.approx(min(nats) - found.model.nats_per_token, rel=1e-12)


def test_the_losses_are_those_of_the_training() -> None:
    model = train(DOCS, **SETTINGS)
    found, trained = evaluate(model, n=0).documents, model.training.held_out
    assert trained
    losses = [found.model, found.gpt, found.ngram]
    expected = [trained.loss, trained.gpt_loss, trained.ngram_loss]
    assert [loss and loss.nats_per_token for loss in losses] == pytest.approx(expected, rel=1e-9)


def test_a_model_without_a_blend() -> None:
    model = train(DOCS, blend=False, **SETTINGS)
    found = evaluate(model, n=0).documents
    held_out = model.tokenizer.encode_documents(HELD_OUT, model.config.block_size)
    assert found.model.nats_per_token == pytest.approx(mean_loss(model.engine, held_out), rel=1e-12)
    assert (found.gpt, found.ngram, found.weight, found.ngram_order) == (None,) * 4


def test_other_documents(model: Model, tmp_path: Path) -> None:
    """They are a list, a generator, a file or a Corpus, and may include the validation set."""
    docs = [LEARNED[0], HELD_OUT[0], "arno", "arno", "xaver"]
    path = tmp_path / "docs.txt"
    path.write_text("\n".join(docs))

    def generated() -> Iterator[str]:
        yield from docs

    found = [evaluate(model, given, n=0) for given in (docs, generated(), path, str(path))]
    found.append(evaluate(model, corpus.read(path), n=0))
    assert all(other == found[0] for other in found)
    documents = found[0].documents
    assert (documents.num_docs, documents.num_learned, documents.num_unknown) == (2, 1, 1)
    assert documents.unknown_chars == "vx"


def test_a_model_that_learned_everything() -> None:
    """It has also learned the documents that are usually in the validation set."""
    model = train(DOCS, hold_out=False, **SETTINGS)
    with pytest.raises(CorpusError, match="no validation set: it was trained on its whole list"):
        evaluate(model)
    found = evaluate(model, [*HELD_OUT, "arno"], n=20)
    assert (found.documents.num_docs, found.documents.num_learned) == (1, len(HELD_OUT))
    assert found.samples
    assert found.samples.in_validation == 0


# ---- samples


def test_samples_by_hand() -> None:
    texts = ["ab", "ab", "ba", "bab", "abab", "abab"]
    found = sample_metrics(
        texts, [len(text) < 4 for text in texts], ["ab", "bb"], ["ba"], temperature=0.5, seed=3
    )
    assert (found.num_samples, found.temperature, found.seed) == (6, 0.5, 3)
    assert found.finished == 4 / 6
    assert found.unique == 4 / 6
    assert (found.in_train, found.in_validation, found.novel) == (2 / 6, 1 / 6, 3 / 6)
    assert (found.mean_length, found.mean_length_list) == (17 / 6, 2)
    assert found.length_distance == pytest.approx(5 / 6, rel=1e-14)
    pairs = [f"\0{text}\0" for text in texts[:4]] + [f"\0{text}" for text in texts[4:]]
    own = Counter(pair for text in pairs for pair in pairwise(text))
    assert found.bigram_divergence == jensen_shannon(own, bigrams(["ab", "bb", "ba"]))
    assert found.chance_length_distance == 0  # all have the same length
    assert 0 <= found.chance_bigram_divergence < 1
    assert [similar.text for similar in found.similar] == ["bab"]  # only finished samples
    assert (found.similar[0].document, found.similar[0].ratio) == ("ab", 0.8)
    (nothing,) = sample_metrics(
        ["xyz"], [True], ["ab", "bb"], ["ba"], temperature=1, seed=0
    ).similar
    assert (nothing.document, nothing.ratio) == (None, 0)


def test_samples_like_the_list() -> None:
    found = sample_metrics(DOCS, [True] * len(DOCS), LEARNED, HELD_OUT, temperature=1, seed=0)
    assert (found.length_distance, found.bigram_divergence) == (0, 0)
    assert 0 < found.chance_length_distance < 0.5
    assert 0 < found.chance_bigram_divergence < 0.2
    assert (found.finished, found.unique, found.novel, found.similar) == (1, 1, 0, [])


def test_samples_are_those_of_the_model(model: Model) -> None:
    found = evaluate(model, n=50, temperature=0.7, seed=4).samples
    texts = model.sample(50, temperature=0.7, seed=4)
    assert found == sample_metrics(
        texts, [len(text) < 5 for text in texts], LEARNED, HELD_OUT, 0.7, 4
    )
    assert found
    assert found.finished == sum(len(text) < 5 for text in texts) / 50
    assert evaluate(model, n=0).samples is None
    default = evaluate(model, n=5).samples
    assert default
    assert (default.seed, default.temperature) == (model.config.seed, 1.0)


@pytest.mark.parametrize("settings", [{"n": -1}, {"n": 1.5}, {"temperature": -1}, {"seed": 2**128}])
def test_samples_that_cannot_be(model: Model, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        evaluate(model, **settings)


# ---- the command


def test_json_of_eval(model: Model, folder: Path, kamon: Kamon) -> None:
    """The command has the same defaults as the function."""
    found = kamon("eval", folder, "--json").json
    assert found == {"directory": str(folder), "corpus": None, **asdict(evaluate(model))}
    argv = ["-n", 30, "--temperature", 0, "--seed", 0]
    found = kamon("eval", folder, "--json", *argv).json["samples"]
    assert found == asdict(evaluate(model, n=30, temperature=0, seed=0))["samples"]
    assert found["unique"] == 1 / 30
    assert kamon("eval", folder, "--json", "-n=0").json["samples"] is None


def test_the_table(folder: Path, kamon: Kamon) -> None:
    done = kamon("eval", folder, "-n", 200)
    found = kamon("eval", folder, "-n", 200, "--json").json
    documents, samples = found["documents"], found["samples"]
    assert done.code == 0
    sizes, table, last, sampled, second, third = done.out.split("\n\n")
    columns, *rows = table.splitlines()
    assert sizes == (
        f"validation set: {documents['num_docs']} entries, "
        f"{documents['num_tokens']} tokens, {documents['num_chars']} characters"
    )
    assert columns.split() == ["nats/token", "bits/character", "perplexity"]
    weight = documents["weight"]
    names = {
        "uniform": "uniform",
        "unigram": "unigram",
        "best_ngram": f"best {documents['best_order']}-gram",
        "gpt": f"GPT, weight {weight:.2f}",
        "ngram": f"{documents['ngram_order']}-gram, weight {1 - weight:.2f}",
        "model": "model",
    }
    for row, (key, name) in zip(rows, names.items(), strict=True):
        figures = documents[key]
        assert row.startswith(name)
        assert row.removeprefix(name).split() == [
            f"{figures['nats_per_token']:.3f}",
            f"{figures['bits_per_char']:.3f}",
            f"{figures['perplexity']:.3f}",
        ]
    word = "better" if documents["gain"] > 0 else "worse"
    gain = abs(documents["gain"])
    loss, best = (documents[name]["nats_per_token"] for name in ("model", "best_ngram"))
    yardstick = f"the best {documents['best_order']}-gram ({best:.3f})"
    found_loss = f"validation loss {loss:.3f} nats per token"
    assert last == f"{found_loss}, {gain:.3f} {word} than {yardstick}"
    assert ("hint: train longer" in done.err) == (word == "worse")
    assert sampled == "200 samples at temperature 1, seed 42"
    assert [row[:22].rstrip() + " " + row[22:].strip() for row in second.splitlines()] == [
        f"finished {samples['finished']:.1%}",
        f"unique {samples['unique']:.1%}",
        f"novel {samples['novel']:.1%}",
        f"in the training set {samples['in_train']:.1%}",
        f"in the validation set {samples['in_validation']:.1%}",
        f"mean length {samples['mean_length']:.2f} characters "
        f"(list {samples['mean_length_list']:.2f})",
        f"distance of lengths {samples['length_distance']:.3f} characters "
        f"(chance {samples['chance_length_distance']:.3f})",
        f"distance of bigrams {samples['bigram_divergence']:.3f} bits "
        f"(chance {samples['chance_bigram_divergence']:.3f})",
    ]
    head, *rows = third.splitlines()
    assert head.split()[:2] == ["novel", "similarity"]
    assert len(rows) == len(samples["similar"]) == 5
    for row, similar in zip(rows, samples["similar"], strict=True):
        nearest = "(none)" if similar["document"] is None else similar["document"]
        assert row.split() == [*similar["text"].split(), f"{similar['ratio']:.2f}", nearest]
    assert kamon("eval", folder, "-n=0").out == f"{sizes}\n\n{table}\n\n{last}\n"


def test_a_file_and_what_is_left_out_of_it(folder: Path, tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "more.csv"
    docs = ["arno", "arno", LEARNED[0], LEARNED[1], "Xaver", "nannannan"]
    path.write_text("id,name\n" + "".join(f"1,{doc}\n" for doc in docs))
    done = kamon("eval", folder, path, "--column", "name", "--json")
    assert done.err.splitlines() == [
        f"Data             {path}: 6 entries, 1 duplicate",
        "Left out 2 entries of the training set",
        "warning: left out 1 entry: the model does not know characters 'Xv'",
        "warning: 1 entry longer than 5 characters: their ends are not measured, as in training",
    ]
    assert done.json["corpus"]["num_docs"] == 6
    assert done.json["documents"]["num_docs"] == 2


def test_many_unknown_characters(
    folder: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.BytesIO(b"arno\nABCDEFGHIJKL\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=text))
    done = kamon("eval", folder, "-", "-n=0")
    assert "does not know characters 'ABCDEFGHIJ' and 2 more\n" in done.err
    assert done.out.startswith("test set: 1 entry, 5 tokens, 4 characters\n")


def test_a_perplexity_beyond_floats_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_guessed(
        held_out_metrics(named(Halves(-1e6), 3), EvaluationSet(["a"], 0, 0, ""), ["ab", "ca"])
    )
    assert capsys.readouterr().out.splitlines()[-3].endswith("over 1e304")


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["-n=-1"], 2, "the number of samples must be 0 or more, not -1"),
        (["-n=x"], 2, "must be a whole number, not 'x'"),
        (["--temperature=nan"], 2, "temperature must be 0 or more and finite"),
        (["--seed", "9" * 50], 2, "seed must be below 2**128"),
        (
            ["--column=name"],
            2,
            "--column, --format and --no-header need a FILE, and there is none",
        ),
        (["--order=4"], 2, "unknown option --order"),
        (["none.txt"], 1, "no file none.txt"),
    ],
)
def test_eval_asked_wrongly(
    argv: list[str], code: int, message: str, folder: Path, kamon: Kamon
) -> None:
    done = kamon("eval", folder, *argv)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert done.err.count("error: ") == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"{LEARNED[0]}\n{LEARNED[1]}\n", "it has learned all of them"),
        (f"{LEARNED[0]}\nXY\n", "characters it does not know ('XY')"),
        ("", "is empty"),
    ],
)
def test_no_document_to_test_on(
    content: str, message: str, folder: Path, tmp_path: Path, kamon: Kamon
) -> None:
    path = tmp_path / "docs.txt"
    path.write_text(content)
    done = kamon("eval", folder, path)
    assert (done.code, done.out) == (1, "")
    [error] = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert message in error


def test_eval_of_a_model_that_learned_everything(tmp_path: Path, kamon: Kamon) -> None:
    train(DOCS[:9], **SETTINGS).save(tmp_path / "m")  # too few for a validation set
    done = kamon("eval", tmp_path / "m")
    assert (done.code, done.out) == (1, "")
    assert done.err == (
        "error: the model has no validation set: it was trained on its whole list\n"
        "hint: give a FILE of other documents to evaluate on\n"
    )
    assert load(tmp_path / "m").training["held_out"] is None
    assert kamon("eval", tmp_path / "nothing").code == 1
