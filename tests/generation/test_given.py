from __future__ import annotations

import math
import random
from array import array
from collections import Counter
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
from kamon.generation.sampling import SampleRequest, log_sum_exp
from kamon.native import library
from kamon.ngrams.native import count_ngram

NEAR = 1e-9
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


@pytest.mark.skipif(bool(library.why_not()), reason="no native engine")
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
    """Each sample is of a class drawn by its share; with a prefix, by its posterior.

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
    assert model.drawn(partial(uniform, 1, 1), (BOS,)).parts == model.parts
    mixed = conditional(9).under()
    drawn = {
        mixed.drawn(partial(uniform, 1, i), (BOS,)).parts[0][1][0][1].values for i in range(200)
    }
    assert drawn == set(CLASSES)
    posterior = mixed.posterior(0, (BOS, 2, 3))
    logs = [
        math.log(share) + math.fsum(each.logprobs(pack_sequences([[BOS, 2, 3]])))
        for share, each in mixed.parts[0][1]
    ]
    wanted = [math.exp(x - log_sum_exp(logs)) for x in logs]
    assert [x / sum(posterior) for x in posterior] == pytest.approx(wanted)


def test_a_class_is_drawn_as_likely_as_the_prefix_makes_it() -> None:
    mixed = conditional(9).under()
    classes = [each.values for _, each in mixed.parts[0][1]]
    prior = [share for share, _ in mixed.parts[0][1]]

    def shares(tokens: tuple[int, ...]) -> list[float]:
        weights = mixed.posterior(0, (BOS, *tokens))
        return [weight / sum(weights) for weight in weights]

    def gap(tokens: tuple[int, ...]) -> float:
        return max(abs(a - b) for a, b in zip(shares(tokens), prior, strict=True))

    far = max(product(range(4), repeat=3), key=gap)
    assert gap(far) > 0.1
    n = 1500
    drawn = Counter(
        mixed.drawn(partial(uniform, 2, i), (BOS, *far)).parts[0][1][0][1].values for i in range(n)
    )
    for values, share in zip(classes, shares(far), strict=True):
        assert drawn[values] / n == pytest.approx(share, abs=0.05)


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
        ({"country": 7}, "the model knows no country 7"),
        (["country"], "given must be a mapping"),
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
