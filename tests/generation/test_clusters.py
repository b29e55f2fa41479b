"""Samples, conditions and searches in scripts whose characters have several code points."""

from __future__ import annotations

import itertools
import json
import math
import runpy
from argparse import Namespace
from collections import Counter
from dataclasses import replace
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers.scripts import LISTS

import kamon
from kamon.completion import complete, fill, next_tokens
from kamon.data.graphemes import AnyClusters, Clusters, clusters_of, graphemes, num_graphemes
from kamon.engines.base import initial_state
from kamon.engines.factory import make_engine
from kamon.errors import TokenizerError
from kamon.evaluation.score import score
from kamon.exporters.export import export
from kamon.generation.automaton import ANY, ClusterAutomaton, characters, repeat
from kamon.generation.sampling import SampleRequest, sample, sample_texts
from kamon.generation.search import parse, term_of
from kamon.model import Model
from kamon.tokenizers.char import CharTokenizer

NAMES = ["Arabic", "Bengali", "Hindi", "Tamil", "Thai", "emoji"]  # these also in NFC


@cache
def model_of(name: str, engine: str = "native", **settings: Any) -> Model:
    shape = {"num_steps": 10, "n_embd": 8, "n_head": 2, "n_layer": 1, "block_size": 16}
    return kamon.train(
        LISTS[name], engine=engine, init_from="scratch", dtype="float64", **(shape | settings)
    )


def known(name: str) -> set[str]:
    return clusters_of(normalize("NFC", text) for text in LISTS[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_samples_have_only_clusters_of_the_list(name: str, temperature: float) -> None:
    model = model_of(name)
    texts = model.sample(200, temperature=temperature, seed=1)
    assert len(texts) == 200
    assert known(name).issuperset(chain.from_iterable(map(graphemes, texts)))
    assert texts[:20] == model.sample(20, temperature=temperature, seed=1)
    if temperature:
        tokens = sample(
            model.language_model, SampleRequest(200, temperature, 1, model.tokenizer.bos)
        )
        free = model.tokenizer.decode_documents(tokens)
        assert any(not known(name).issuperset(graphemes(text)) for text in free)


@pytest.mark.parametrize("name", NAMES)
def test_engines_make_the_same_samples(name: str) -> None:
    native = model_of(name)
    engine = make_engine("scalar", native.config)
    engine.load(initial_state(native.engine.state()["params"]))
    scalar = replace(native, engine=engine)
    for given_ in ({}, {"temperature": 0.0}, {"temperature": 1.0}, {"top_k": 3}):
        assert native.sample(10, seed=3, **given_) == scalar.sample(10, seed=3, **given_)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "given_",
    [
        {"max_len": 2},
        {"min_len": 3, "max_len": 4},
        {"pattern": "__"},
        {"pattern": "*_", "min_len": 2, "novel": True},
        {"max_len": 3, "top_k": 5},
        {"min_len": 2, "temperature": 0.0},
        {"max_len": 2, "top_p": 0.9},
    ],
)
def test_conditions_count_clusters(name: str, given_: dict[str, Any]) -> None:
    texts = model_of(name).sample(30, **given_)
    assert texts
    sizes = {"__": (2, 2)}.get(given_.get("pattern", ""), (0, math.inf))
    for text in texts:
        assert known(name).issuperset(graphemes(text))
        size = num_graphemes(text)
        assert max(given_.get("min_len", 0), sizes[0]) <= size
        assert size <= min(given_.get("max_len", math.inf), sizes[1])


def test_a_character_that_the_end_cuts_is_left_out() -> None:
    model = model_of("Hindi", block_size=5, num_steps=3, seed=2)
    texts = model.sample(300, temperature=1.5)
    assert known("Hindi").issuperset(chain.from_iterable(map(graphemes, texts)))
    assert max(map(len, texts)) == 5


def test_samples_follow_the_distribution_over_such_texts() -> None:
    """That is p of a text, divided by the share of all texts that the list's clusters make."""
    tokenizer = CharTokenizer.train(["कि", "खिक", "क"])
    config = kamon.Config(
        vocab_size=tokenizer.vocab_size, n_embd=4, n_head=1, n_layer=1, block_size=3, std=0.5
    )
    engine = make_engine("native", config, dtype="float64")
    texts, _ = sample_texts(engine, tokenizer, SampleRequest(20_000, 1.0, 5, tokenizer.bos))
    found = Counter(texts)
    p: Counter[str] = Counter()
    for size in range(4):
        for tokens in itertools.product(range(tokenizer.bos), repeat=size):
            decoder, token, logprob = engine.decoder(), tokenizer.bos, 0.0
            for after in [*tokens, tokenizer.bos][:3]:
                logits = decoder.push(token)
                logprob += logits[after] - math.log(sum(map(math.exp, logits)))
                token = after
            assert tokenizer.clusters
            text = tokenizer.clusters.beginning(tokenizer.decode(tokens))
            if text is not None and (size == 3 or text == tokenizer.decode(tokens)):
                p[text] += math.exp(logprob)
    assert found.keys() <= p.keys()
    total = p.total()
    assert total < 0.9
    for text, each in p.items():
        share = each / total
        assert abs(found[text] / 20_000 - share) < 5 * math.sqrt(share / 20_000) + 1e-3


@given(st.sampled_from(NAMES), st.data())
@settings(max_examples=200)
def test_automaton_of_patterns_and_lengths(name: str, data: st.DataObject) -> None:
    docs = [normalize("NFC", text) for text in LISTS[name]]
    pieces = [*known(name), *sorted(set("".join(docs)))]
    some = st.lists(st.sampled_from(pieces), max_size=3).map("".join)
    pattern = data.draw(st.lists(st.one_of(st.sampled_from("_*"), some), min_size=1, max_size=4))
    least, most = data.draw(st.integers(0, 2)), data.draw(st.integers(2, 4))
    text = data.draw(st.one_of(some, st.sampled_from(docs)))
    joined = "".join(pattern) or "*"
    of_list = data.draw(st.booleans())
    boundaries = Clusters(known(name)) if of_list else AnyClusters()
    terms = [term_of(parse(joined)), characters(repeat(ANY, least, most))]
    expected = least <= num_graphemes(text) <= most and matches(parse(joined), graphemes(text))
    if of_list:
        expected = expected and known(name).issuperset(graphemes(text))
    assert ClusterAutomaton(terms, boundaries).matches(text) == expected


def matches(pattern: Any, clusters: list[str]) -> bool:
    """Whether the clusters match a pattern, the slow way."""
    parts: list[str] = []  # "_", "*" or "=" and a cluster
    literal = ""
    for element in [*pattern, None]:
        if isinstance(element, str):
            literal += element
            continue
        parts += ["=" + cluster for cluster in graphemes(literal)]
        literal = ""
        parts += [element.value] if element else []
    if not parts:
        return not clusters
    reached = {0}
    for number, part in enumerate(parts):
        if part == "*":
            reached = {end for begin in reached for end in range(begin, len(clusters) + 1)}
        else:
            fits = [place for place in reached if place < len(clusters)]
            reached = {p + 1 for p in fits if part == "_" or part[1:] == clusters[p]}
        assert number < len(parts)
    return len(clusters) in reached


def test_fill_and_complete() -> None:
    model = model_of("Hindi", block_size=8)
    found = fill(model, "__", 400, effort=50)
    for each in found.documents:
        assert num_graphemes(each.text) == 2
        assert known("Hindi").issuperset(graphemes(each.text))
    best = [each.logprob for each in found.documents]
    assert best == sorted(best, reverse=True)
    assert [each.text for each in fill(model, "कि_", 3).documents]
    assert all(graphemes(each.text)[0] == "कि" for each in fill(model, "कि_", 3).documents)
    texts = [each.text for each in complete(model, "क", 50).documents]
    assert {graphemes(text)[0] for text in texts} - {"क"}  # the prefix is of code points
    assert known("Hindi").issuperset(chain.from_iterable(map(graphemes, texts)))
    assert not complete(model, "ि", 5).documents


def test_search_ends_where_a_cluster_does() -> None:
    model = model_of("Hindi", block_size=4, num_steps=3)
    texts = [each.text for each in fill(model, "*", 300, effort=50).documents]
    assert max(map(len, texts)) == 4
    assert known("Hindi").issuperset(chain.from_iterable(map(graphemes, texts)))


def test_next_tokens_are_those_that_may_follow() -> None:
    model = model_of("Hindi")
    first = next_tokens(model)
    assert "ि" not in {token.text for token in first}
    assert abs(sum(token.probability for token in first) - 1) < 1e-9
    assert "्" in {token.text for token in next_tokens(model, "क")}
    assert "" not in {token.text for token in next_tokens(model, "क्")}  # unfinished
    assert "" in {token.text for token in next_tokens(model, "ि")}  # no text begins so


def test_scores_are_per_character() -> None:
    model = model_of("Hindi")
    (found,) = score(model, ["हिन्दी"])
    assert found.bits_per_char == pytest.approx(-found.logprob / math.log(2) / 3)
    assert found.surprising in ("हि", "न्दी", "")


def test_old_tokenizer_counts_as_people_do() -> None:
    """One of an earlier Kamon does not know the clusters. Its samples stay what they were."""
    model = model_of("Hindi")
    content = json.loads(model.tokenizer.to_json())
    assert sorted(content.pop("clusters")) == sorted(known("Hindi"))
    old = CharTokenizer.from_json(json.dumps(content))
    assert (old.chars, old.clusters) == (model.tokenizer.chars, None)  # type: ignore[attr-defined]
    assert json.loads(old.to_json()) == content
    request = SampleRequest(50, 1.0, 1, old.bos)
    batch = sample(model.engine, request)
    assert sample_texts(model.engine, old, request)[0] == old.decode_documents(batch)
    changed = replace(model, tokenizer=old)
    assert all(num_graphemes(text) <= 2 for text in changed.sample(30, max_len=2))
    assert all(num_graphemes(text) == 2 for text in changed.sample(30, pattern="__"))
    assert all(num_graphemes(each.text) == 2 for each in fill(changed, "__", 9).documents)
    assert complete(changed, "ि", 5).documents


def test_lists_of_one_code_point_each_stay_as_they_were() -> None:
    for text in ("anna", "Zoë", "漢字", "서울", "Юлия"):
        tokenizer = CharTokenizer.train([text])
        assert tokenizer.clusters is None
        assert tokenizer.boundaries() is None
        assert "clusters" not in json.loads(tokenizer.to_json())
    for name in ("Vietnamese", "Hangul"):  # in NFC they are such lists, too
        assert CharTokenizer.train(LISTS[name]).clusters is None


def test_clusters_of_another_list_are_added() -> None:
    tokenizer = CharTokenizer.train(["कि"]).extended(["ख"], texts=["खि"])
    assert tokenizer.clusters
    assert tokenizer.clusters.all == {"कि", "खि"}
    tokenizer = CharTokenizer.train(["ab"]).extended(["क", "ि"], texts=["कि"])
    assert tokenizer.clusters
    assert tokenizer.clusters.all == {"a", "b", "कि"}
    assert tokenizer.extended(specials=["<|x|>"]).clusters


@pytest.mark.parametrize("clusters", ["कि", [1], [""], ["ab"]])
def test_wrong_clusters_in_a_file(clusters: object) -> None:
    with pytest.raises(TokenizerError, match="cluster"):
        CharTokenizer.from_json(json.dumps({"type": "char", "chars": ["क"], "clusters": clusters}))


@pytest.mark.parametrize("name", ["Hindi", "Thai", "emoji"])
def test_exported_file_does_the_same(name: str, tmp_path: Path) -> None:
    model = model_of(name, "scalar", num_steps=3)
    model.save(tmp_path / "model")
    (tmp_path / "model.py").write_bytes(export(tmp_path / "model", "python"))
    file = runpy.run_path(str(tmp_path / "model.py"))
    for temperature in (0.0, 1.0):
        texts = model.sample(8, temperature=temperature, seed=4)
        assert file["sample"](8, temperature, 4) == texts
    text = normalize("NFC", LISTS[name][0])
    (found,) = score(model, [text])
    assert file["score"](text) == (found.logprob, found.bits_per_char)
    expected = [(each.text, each.logprob) for each in complete(model, text[0], 5).documents]
    assert file["complete"](text[0], 5) == expected
    assert file["next_tokens"](text[0]) == [tuple(token) for token in next_tokens(model, text[0])]


def test_the_page_shows_what_may_follow() -> None:
    from kamon.web.routes.models import NextTokenBody, next_tokens_of

    model = model_of("Hindi")
    for prefix in ("", "क", "क्"):
        found = next_tokens_of(model, NextTokenBody(model="x", prefix=prefix, temperature=1.0))
        kept = {each.text: each.probability for each in found.tokens if each.kept}
        assert kept == pytest.approx(dict(next_tokens(model, prefix)))


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("हिन्दी\x7f", "हि"),  # Backspace
        ("हिन्दी\x7f\x7f\x7fक", "क"),
        ("हिन्दी\x1b[Dक", "हिकन्दी"),  # left
        ("हिन्दी\x1b[D\x1b[D\x1b[Cक", "हिकन्दी"),  # right
        ("हिन्दी\x1b[D\x1b[D\x1b[3~", "न्दी"),  # Delete
        ("anna\x7f\x1b[Db", "anbn"),
    ],
)
def test_cursor_moves_over_whole_characters(typed: str, line: str) -> None:
    input_ = pytest.importorskip("prompt_toolkit.input")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.output import DummyOutput

    from kamon.cli.interactive import line_editor

    args = Namespace(unknown="skip", temperature=1.0, n=2, effort=0.1, next=2, words=False)
    with input_.create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text(typed + "\r")
        editor = line_editor(model_of("Hindi"), "", set(), args)
        assert editor.run() == line
