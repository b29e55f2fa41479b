from __future__ import annotations

import copy
import math
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import pytest

from helpers.conditional import BOS, CLASSES, TOKENIZER, conditional, rows_of, texts_of
from kamon.engines.batch import pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.engines.philox import uniform
from kamon.errors import ConfigError
from kamon.generation.automaton import (
    ALL,
    EMPTY,
    Automaton,
    complement,
    intersection,
    sequence,
    words,
)
from kamon.generation.constraints import GenerationConstraints, find
from kamon.generation.given import (
    ClassNgrams,
    GivenModel,
    levels,
    mix_all,
    parse_given,
    plain_tokenizer,
    value_tokens,
    without_first,
)
from kamon.generation.lookahead import guided_document, guided_documents, make_guide, survey, unroll
from kamon.generation.sampling import SampleRequest, probabilities, sample_one_by_one
from kamon.native import library
from kamon.ngrams.native import count_ngram

NEAR = 1e-9
needs_native = pytest.mark.skipif(bool(library.why_not()), reason="no native engine")
GIVENS: list[Any] = [
    None,
    "country=x",
    "sex=f",
    "country=x,sex=m",
    "country=x:0.25,y:0.75",
    "country=x:1,z:2,sex=m",
    {"country": {"x": 3, "y": 1}, "sex": "f"},
]


@pytest.mark.parametrize("seed", range(12))
def test_a_decoder_gives_the_logprobs_of_a_batch(seed: int) -> None:
    model = conditional(seed, blended=seed % 3 > 0).under(GIVENS[seed % len(GIVENS)])
    batch = TOKENIZER.encode_documents(texts_of(seed))
    stepped = array("d")
    for tokens in batch:
        decoder = model.decoder()
        for token, target in pairwise(tokens):
            logits = decoder.push(token)
            assert len(logits) == BOS + 1
            stepped.append(logits[target])
    assert stepped.tolist() == pytest.approx(model.logprobs(batch).tolist(), rel=NEAR, abs=NEAR)


@needs_native
@pytest.mark.parametrize("seed", range(6))
def test_native_parts_give_what_python_gives(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine, the n-grams and their mixtures in C++, and the same in Python."""
    given, found = GIVENS[seed % len(GIVENS)], []
    for engine in ("native", "scalar"):
        if engine == "scalar":
            monkeypatch.setattr(library, "why_not", lambda: "it is not built")
        model = conditional(seed, engine=engine).under(given)
        logprobs = model.logprobs(TOKENIZER.encode_documents(texts_of(seed)))
        found.append((list(logprobs), list(model.sample(10, 0.9, 3, BOS))))
    assert found[0][0] == pytest.approx(found[1][0], rel=NEAR, abs=NEAR)
    assert list(map(list, found[0][1])) == list(map(list, found[1][1]))


@pytest.mark.parametrize("seed", range(8))
def test_a_mixture_of_classes_is_the_mean_of_their_probabilities(seed: int) -> None:
    found = conditional(seed)
    batch = TOKENIZER.encode_documents(texts_of(seed))
    of_class = {v: document_logprobs(m, batch)[0] for v, m in found.models.items()}
    for given, fits in (("", CLASSES), ("country=x", CLASSES[:2]), ("sex=m", CLASSES[1::2])):
        total = math.fsum(found.shares[v] for v in fits)
        wanted = [
            math.log(math.fsum(found.shares[v] / total * math.exp(of_class[v][i]) for v in fits))
            for i in range(len(batch))
        ]
        model = found.under(given or None)
        assert document_logprobs(model, batch)[0].tolist() == pytest.approx(
            wanted, rel=NEAR, abs=NEAR
        )


@pytest.mark.parametrize("seed", range(6))
def test_a_mix_is_the_weighted_mean_per_token(seed: int) -> None:
    found = conditional(seed)
    batch = TOKENIZER.encode_documents(texts_of(seed))
    x, y = (found.under(f"country={value}").logprobs(batch) for value in "xy")
    mixed = found.under("country=x:1,y:3").logprobs(batch)
    wanted = [math.log(math.exp(a) / 4 + 3 * math.exp(b) / 4) for a, b in zip(x, y, strict=True)]
    assert list(mixed) == pytest.approx(wanted, rel=NEAR, abs=NEAR)


def test_the_ngram_of_a_class_knows_its_rows_its_values_and_all_rows() -> None:
    found = conditional(3)
    model = found.models["x", "m"]
    assert model.ngram
    assert levels(2) == [(), (0,), (1,), (0, 1)]
    assert len(model.ngram.parts) == 4
    for context in ([BOS], [BOS, 0], [BOS, 1, 2, 3]):
        p = model.ngram.probabilities(context)
        assert sum(p) == pytest.approx(1)
        parts = [part.probabilities(context) for part in model.ngram.parts]
        shares = model.ngram.shares
        assert p[1] == pytest.approx(sum(s * q[1] for s, q in zip(shares, parts, strict=True)))
    assert found.models["x", "f"].ngram is not None
    assert found.models["x", "f"].ngram.parts[1] is model.ngram.parts[1]  # counted once


def test_each_level_counts_the_rows_that_share_its_values() -> None:
    rng = random.Random(6)
    rows = rows_of(rng, list(CLASSES))
    ngrams = ClassNgrams(TOKENIZER, rows, 2)
    batch = TOKENIZER.encode_documents([row.text for row in rows])
    for level, of_columns in enumerate(levels(2)):
        wanted = array("d")
        for row in rows:
            some = [r.text for r in rows if all(r.values[i] == row.values[i] for i in of_columns)]
            counted = count_ngram(TOKENIZER.encode_documents(some), BOS + 1, 3)
            wanted.extend(counted.logprobs(TOKENIZER.encode_documents([row.text])))
            found = ngrams.of_level(level, row.values, 3)
            assert found.probabilities([BOS, 1]) == counted.probabilities([BOS, 1])
        assert ngrams.logprobs(level, rows, batch, 3) == wanted


def test_the_gpt_reads_values_instead_of_bos() -> None:
    found = conditional(5, blended=False)
    model = found.models["y", "f"]
    before = value_tokens(TOKENIZER, ["country", "sex"], ["y", "f"])
    assert [TOKENIZER.token_text(token) for token in before] == ["country=y", "sex=f"]
    read = pack_sequences([[*before, 0, 1, BOS]])
    wanted = model.gpt.logprobs(read)[1:]
    assert model.logprobs(pack_sequences([[BOS, 0, 1, BOS]])) == wanted


def test_without_first() -> None:
    batch = pack_sequences([[9, 8, 1, 9], [9, 8, 9], [9]])
    assert without_first(array("d", [1, 2, 3, 4, 5]), batch, 1).tolist() == [2, 3, 5]
    assert without_first(array("d", [1, 2, 3, 4, 5]), batch, 0).tolist() == [1, 2, 3, 4, 5]


def test_mix_all() -> None:
    parts = [array("d", [math.log(p)]) for p in (0.1, 0.2, 0.6)]
    assert math.exp(mix_all(parts, [0.5, 0.3, 0.2])[0]) == pytest.approx(0.23)
    assert math.exp(mix_all(parts, [0.5, 0.0, 0.5])[0]) == pytest.approx(0.35)
    assert math.exp(mix_all(parts, [0.0, 1.0, 0.0])[0]) == pytest.approx(0.2)


# ---- samples


def test_samples_follow_the_mixture() -> None:
    """Each sample is of a class drawn by its share; with a prefix, the weights correct for it.

    The GPT has no part in it, since an untrained one would write the tokens of values, too.
    """
    found = conditional(7, weight=0.0)
    model = found.under("country=x")
    tokenizer = plain_tokenizer(TOKENIZER)
    assert tokenizer.vocab_size == BOS + 1
    n = 4000
    request = SampleRequest(n, 1.0, 1, BOS)
    result = find(model, tokenizer, request, GenerationConstraints(), list)
    counts = Counter(text[:1] for text in result.texts)
    first = model.decoder().push(BOS)
    for place, char in enumerate("abcd"):
        p = math.exp(first[place])
        assert abs(counts[char] - n * p) < 5 * math.sqrt(n * p * (1 - p)) + 1
    constrained = find(model, tokenizer, request, GenerationConstraints(prefix="b"), list)
    decoder = model.decoder()
    decoder.push(BOS)
    second = decoder.push(1)
    counts = Counter(text[1:2] for text in constrained.texts)
    n = len(constrained.texts)
    for place, char in enumerate("abcd"):
        p = math.exp(second[place])
        assert abs(counts[char] - n * p) < 5 * math.sqrt(n * p * (1 - p)) + 1


def test_sample_i_does_not_depend_on_n() -> None:
    model = conditional(8).under("country=x:1,y:1")
    tokenizer = plain_tokenizer(TOKENIZER)
    made = [
        find(model, tokenizer, SampleRequest(n, 1.0, 3, BOS), conditions, list).texts
        for n in (20, 5)
        for conditions in (GenerationConstraints(), GenerationConstraints(min_len=1))
    ]
    assert made[0][:5] == made[2]
    assert made[1][:5] == made[3]


def test_a_drawn_class_is_one_that_fits() -> None:
    model = conditional(9).under("country=x,sex=m")
    assert model.drawn(partial(uniform, 1, 1)).parts == model.parts
    mixed = conditional(9).under()
    n = 1500
    drawn = Counter(mixed.drawn(partial(uniform, 1, i)).parts[0][1][0][1].values for i in range(n))
    for share, each in mixed.parts[0][1]:
        assert drawn[each.values] / n == pytest.approx(share, abs=0.05)


# ---- samples in C++


@needs_native
@pytest.mark.parametrize("seed", range(40))
def test_fused_samples_equal_those_of_python(seed: int) -> None:
    rng = random.Random(seed)
    columns = 1 if seed % 5 == 0 else 2
    given = rng.choice(GIVENS) if columns == 2 else rng.choice([None, "country=x:1,y:3"])
    weight = rng.choice([None, 0.0, 1.0])
    found = conditional(seed, blended=seed % 3 > 0, columns=columns, engine="native", weight=weight)
    model = found.under(given)
    assert model.is_native
    temperature = rng.choice([0.0, 1e-300, 0.6, 1.0, 1.4])
    first = rng.choice([0, 3, 2**40])
    n = rng.choice([0, 1, 50])
    bos = model.config.vocab_size - 1
    wanted = sample_one_by_one(model, SampleRequest(n, temperature, seed, bos, first))
    made = model.sample(n, temperature, seed, bos, first)
    assert list(map(list, made)) == list(map(list, wanted))


@needs_native
@pytest.mark.parametrize("seed", range(20))
def test_fused_samples_under_conditions_equal_those_of_python(seed: int) -> None:
    given = GIVENS[seed % len(GIVENS)]
    model = conditional(seed, blended=seed % 4 > 0, engine="native").under(given)
    tokenizer, room = plain_tokenizer(TOKENIZER), model.config.block_size
    term = intersection(sequence(ALL, words(["da"])), complement(EMPTY))
    trellis, everything = (unroll(Automaton(each), tokenizer, room) for each in (term, ALL))
    assert trellis
    assert everything
    top_k, top_p = [(None, 1.0), (2, 1.0), (None, 0.8)][seed % 3]
    request = SampleRequest(60, 0.9, seed, BOS, first=7 * seed, top_k=top_k, top_p=top_p)
    contexts = survey(model, replace(request, n=40, first=0), everything, trellis)
    guide = make_guide(trellis, contexts)
    learned = [copy.deepcopy(contexts), copy.deepcopy(contexts)]
    made, weights = guided_documents(model, request, guide, learned[0])
    numbers = range(request.first, request.first + request.n)
    wanted = [guided_document(model, request, guide, i, learned[1]) for i in numbers]
    assert list(map(list, made)) == [tokens for tokens, _ in wanted]
    assert weights.tolist() == pytest.approx([weight for _, weight in wanted], rel=NEAR)
    assert learned[0].sums.tolist() == pytest.approx(learned[1].sums.tolist(), rel=NEAR)


@pytest.mark.parametrize("given", [None, "country=x", "country=x:1,z:2,sex=m"])
@pytest.mark.parametrize("engine", ["native", "scalar"])
def test_samples_under_conditions_follow_the_mixture(given: str | None, engine: str) -> None:
    """A chi-squared test with all texts that fulfil the conditions."""
    if engine == "native" and library.why_not():
        pytest.skip(library.why_not())
    model = conditional(11, engine=engine).under(given)
    tokenizer = plain_tokenizer(TOKENIZER)
    texts = ["".join(chars) + "bd" for size in range(3) for chars in product("abcd", repeat=size)]
    p = [document_p(model, tokenizer.encode(text)) for text in texts]
    n = 3000 if engine == "native" else 300
    conditions = GenerationConstraints(suffix="bd", max_len=4)
    made = find(model, tokenizer, SampleRequest(n, 1.0, 5, BOS), conditions, list).texts
    assert len(made) == n
    counts = Counter(made)
    assert set(counts) <= set(texts)
    wanted = [n * each / sum(p) for each in p]
    cells = list(zip(texts, wanted, strict=True))
    common = [(counts[text], each) for text, each in cells if each >= 5]
    rare = [(counts[text], each) for text, each in cells if each < 5]
    cells_of_test = [*common, tuple(map(sum, zip(*rare, strict=True)))] if rare else common
    chi_squared = sum((found - each) ** 2 / each for found, each in cells_of_test)
    freedom = len(cells_of_test) - 1
    assert chi_squared < freedom + 4 * math.sqrt(2 * freedom)


def document_p(model: GivenModel, tokens: Sequence[int]) -> float:
    """Return the probability of a sample, of which no token is that of a value."""
    total = 0.0
    for drawn in product(*(classes for _, classes in model.parts)):
        parts = tuple(
            (share, ((1.0, each),))
            for (share, _), (_, each) in zip(model.parts, drawn, strict=True)
        )
        decoder, p = replace(model, parts=parts).decoder(), math.prod(own for own, _ in drawn)
        for token, target in pairwise([BOS, *tokens, BOS]):
            p *= probabilities(decoder.push(token), 1.0)[target]
        total += p
    return total


# ---- what users give


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a=b", {"a": {"b": 1.0}}),
        ("a=b,c=d", {"a": {"b": 1.0}, "c": {"d": 1.0}}),
        ("a=b:0.5,c:2", {"a": {"b": 0.5, "c": 2.0}}),
        (" a = b : 0.5 , c ", {"a": {"b": 0.5, "c": 1.0}}),
        ("a=b:x", {"a": {"b:x": 1.0}}),
    ],
)
def test_parse_given(text: str, wanted: dict[str, dict[str, float]]) -> None:
    assert parse_given(text) == wanted


@pytest.mark.parametrize("text", ["", "a", "a=", "=b", "a=b,a=c", "a=b,b", "a=b,,c", "a=b,b=c,c,c"])
def test_parse_given_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="write column=value"):
        parse_given(text)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("nation=x", "the model knows no column 'nation'"),
        ("country=q", "the model knows no country 'q'"),
        ("country=x:0", "the share of country=x must be above 0"),
        ("country=x:nan", "the share of country=x must be above 0"),
        ({"country": {"x": "1"}}, "the share of country=x must be a number"),
        ({"country": {}}, "no country is given"),
        ({"country": 7}, "the values of country must be text or a mapping"),
        (["country"], "given must be a mapping"),
        ({"country": ["x", "y"]}, "the values of country must be text or a mapping"),
        ("country=z,sex=f", "the table has no entry with country=z and sex=f"),
    ],
)
def test_unknown_values_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        conditional(1).under(given)


def test_a_single_column() -> None:
    found = conditional(4, columns=1)
    assert found.values == {"country": ["x", "y", "z"]}
    assert found.config.block_size == found.models["x",].gpt.config.block_size
    assert isinstance(found.under("country=x"), GivenModel)
    assert replace(found.models["x",], weight=0.5).weight == 0.5
