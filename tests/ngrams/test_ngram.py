from __future__ import annotations

import io
import math
import random
import re
import sys
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise, product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Result
from helpers import original
from kamon.data.split import MIN_DOCS, RULE, RULE_BY_BUCKET, key, split
from kamon.engines.batch import pack_sequences
from kamon.engines.scalar import softmax
from kamon.errors import ConfigError
from kamon.generation.sampling import SampleRequest, sample
from kamon.ngrams.reference import MAX_ORDER, discounts, train_ngram
from kamon.tokenizers.char import CharTokenizer

Kamon = Callable[..., Result]
Gram = tuple[int, ...]
ORDERS = range(1, 7)
HAND = pack_sequences([[2, 0, 1, 2], [2, 0, 2]])


@st.composite
def corpora(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """A vocabulary size and documents, perhaps none; one may be cut short, as in training."""
    vocab_size = draw(st.integers(1, 5))
    bos = vocab_size - 1
    text = st.lists(st.integers(0, bos), max_size=8)  # a BOS within is a token like any other
    documents = [[bos, *tokens, bos] for tokens in draw(st.lists(text, max_size=15))]
    if documents and draw(st.booleans()):
        documents[0] = documents[0][: draw(st.integers(1, 4))]
    return vocab_size, documents


def skewed(seed: int) -> list[list[int]]:
    """Documents of a few frequent and a few rare tokens, enough for each discount to be defined."""
    rng = random.Random(seed)
    return [
        [7, *(min(6, int(rng.expovariate(1.0))) for _ in range(rng.randint(0, 9))), 7]
        for _ in range(400)
    ]


# ---- the formulas, word for word and in exact fractions


def literal_counts(documents: Sequence[Sequence[int]], order: int) -> list[dict[Gram, int]]:
    """a of each k-gram, k = 0 .. order, from all places where it stands."""
    levels: list[dict[Gram, int]] = [{}]
    for k in range(1, order + 1):
        places: dict[Gram, list[tuple[int, int]]] = {}
        for d, document in enumerate(documents):
            for begin in range(len(document) - k + 1):
                if begin + k - 1 > 0:  # the last token of the k-gram is a target
                    gram = tuple(document[begin : begin + k])
                    places.setdefault(gram, []).append((d, begin))
        level = {}
        for gram, found in places.items():
            if k == order:
                level[gram] = len(found)
            else:
                before = {documents[d][begin - 1] for d, begin in found if begin > 0}
                level[gram] = len(before) + sum(begin == 0 for d, begin in found)
        levels.append(level)
    return levels


def literal_discount(level: dict[Gram, int], count: int) -> Fraction:
    n = [Fraction(list(level.values()).count(j)) for j in range(5)]
    j = min(count, 3)
    if n[1] > 0 and n[j] > 0:
        y = n[1] / (n[1] + 2 * n[2])
        formula = {
            1: 1 - 2 * y * n[2] / n[j],
            2: 2 - 3 * y * n[3] / n[j],
            3: 3 - 4 * y * n[4] / n[j],
        }[j]
        if 0 < formula < j:
            return formula
    return Fraction(j, 2)


def literal(
    levels: list[dict[Gram, int]], vocab_size: int, context: Gram, token: int | None
) -> Fraction:
    """p(token | context); of the uniform distribution where token is None."""
    if token is None:
        return Fraction(1, vocab_size)
    shorter = literal(levels, vocab_size, context[1:], token if context else None)
    level = levels[len(context) + 1]
    after = {gram: count for gram, count in level.items() if gram[:-1] == context}
    if not after:
        return shorter
    total = sum(after.values())
    left = sum((literal_discount(level, count) for count in after.values()), Fraction(0)) / total
    count = after.get((*context, token), 0)
    own = (count - literal_discount(level, count)) / total if count else Fraction(0)
    return own + left * shorter


def assert_as_the_formulas_say(
    vocab_size: int, documents: list[list[int]], order: int, contexts: list[list[int]]
) -> None:
    ngram = train_ngram(pack_sequences(documents), vocab_size, order)
    levels = literal_counts(documents, order)
    for context in contexts:
        looked_at = tuple(context[max(0, len(context) - order + 1) :])
        wanted = [literal(levels, vocab_size, looked_at, w) for w in range(vocab_size)]
        assert sum(wanted) == 1
        assert ngram.probabilities(context) == pytest.approx([float(p) for p in wanted], rel=1e-12)


@given(corpora(), st.sampled_from(ORDERS), st.data())
def test_probabilities_are_those_of_the_formulas(
    corpus: tuple[int, list[list[int]]], order: int, data: st.DataObject
) -> None:
    """In contexts of the documents, and in others that may never have been seen."""
    vocab_size, documents = corpus
    token = st.integers(0, vocab_size - 1)
    contexts = data.draw(st.lists(st.lists(token, max_size=7), max_size=4))
    if documents:
        document = data.draw(st.sampled_from(documents))
        contexts += [document[:end] for end in range(1, len(document))]
    assert_as_the_formulas_say(vocab_size, documents, order, contexts)


@pytest.mark.parametrize("order", ORDERS)
def test_the_formulas_where_no_discount_is_degenerate(order: int) -> None:
    documents = skewed(order)
    counts = Counter(literal_counts(documents, order)[-1].values())
    assert order == 1 or all(counts[j] for j in (1, 2, 3, 4))
    contexts = [[], [7], [3, 3, 3, 3, 3]]
    contexts += [document[:end] for document in documents[:4] for end in range(1, len(document))]
    assert_as_the_formulas_say(8, documents, order, contexts)


@given(corpora(), st.sampled_from(ORDERS))
def test_probabilities_of_every_context_add_up_to_1(
    corpus: tuple[int, list[list[int]]], order: int
) -> None:
    vocab_size, documents = corpus
    ngram = train_ngram(pack_sequences(documents), vocab_size, order)
    never = [context for n in range(4) for context in product(range(vocab_size), repeat=n)]
    for context in [*ngram.contexts, *never]:
        found = ngram.probabilities(context)
        assert math.fsum(found) == pytest.approx(1, abs=1e-12)
        assert min(found) > 0
    for left, shares in ngram.contexts.values():
        assert 0 < left < 1
        assert left + math.fsum(shares.values()) == pytest.approx(1, abs=1e-12)


# ---- by hand


def test_order_1_by_hand() -> None:
    """Targets 0 twice, 1 once, 2 twice: Y = 1/5, D(1) = 1 − 2/5 · 2 = 1/5; for D(2) half of 2."""
    left = (1 + 1 / 5 + 1) / 5
    wanted = [1 / 5 + left / 3, (4 / 5) / 5 + left / 3, 1 / 5 + left / 3]
    ngram = train_ngram(HAND, 3, 1)
    for context in ([], [2], [0, 1]):
        assert ngram.probabilities(context) == pytest.approx(wanted, rel=1e-15)
    logprobs = [math.log(wanted[target]) for target in (0, 1, 2, 0, 2)]
    assert list(ngram.logprobs(HAND)) == pytest.approx(logprobs, rel=1e-14)


def test_order_2_by_hand() -> None:
    """BOS 0 stands twice, half of it discounted; 0 and 1 follow one token each, BOS two."""
    found = train_ngram(HAND, 3, 2).probabilities([2])
    assert found == pytest.approx([31 / 48, 7 / 48, 10 / 48], rel=1e-15)


def test_an_opening_counts_as_often_as_it_occurs() -> None:
    """Where nothing is before a k-gram there is no different token to count."""
    ngram = train_ngram(pack_sequences([[2, 0, 0, 0, 2]] * 9 + [[2, 1, 1, 1, 2]]), 3, 4)
    assert ngram.probabilities([2])[0] > 0.8


@pytest.mark.parametrize(
    ("num_grams", "wanted"),
    [
        ({1: 10, 2: 4, 3: 2, 4: 1}, (5 / 9, 7 / 6, 17 / 9)),
        ({}, (0.5, 1, 1.5)),
        ({1: 7}, (0.5, 1, 1.5)),  # D(1) would be 1: nothing counted would be believed
        ({2: 7, 3: 5, 4: 2}, (0.5, 1, 1.5)),  # Y would be 0 / 14
        ({1: 10, 3: 4, 4: 1}, (0.5, 1, 2)),  # Y is 1, and D(1) would be 1
        ({1: 1, 2: 1, 3: 100, 4: 1}, (1 / 3, 1, 3 - 4 / 300)),  # D(2) would be −98
        ({1: 1, 2: 100, 3: 1, 4: 9}, (1 - 200 / 201, 2 - 3 / 201 / 100, 3 - 36 / 201)),
    ],
)
def test_discounts(num_grams: dict[int, int], wanted: tuple[float, float, float]) -> None:
    assert discounts(Counter(num_grams)) == pytest.approx((0, *wanted), rel=1e-12)


# ---- the rest of what an engine does


@given(corpora(), corpora(), st.sampled_from(ORDERS))
def test_the_decoder_gives_what_logprobs_gives(
    corpus: tuple[int, list[list[int]]], other: tuple[int, list[list[int]]], order: int
) -> None:
    """Bit for bit, on documents it learned and on others."""
    vocab_size = max(corpus[0], other[0])
    batch = pack_sequences(corpus[1] + other[1])
    ngram = train_ngram(pack_sequences(corpus[1]), vocab_size, order)
    pushed = array("d")
    for document in batch:
        decoder = ngram.decoder()
        for token, target in pairwise(document):
            pushed.append(decoder.push(token)[target])
    assert ngram.logprobs(batch) == pushed
    assert len(pushed) == batch.num_targets


def test_softmax_of_the_logits_is_the_probability() -> None:
    ngram = train_ngram(pack_sequences(skewed(1)), 8, 3)
    assert softmax(ngram.decoder().push(7)) == pytest.approx(ngram.probabilities([7]), rel=1e-12)


@pytest.mark.parametrize("order", [1, 4])
def test_a_sample_depends_on_seed_and_index_alone(order: int) -> None:
    ngram = train_ngram(pack_sequences(skewed(2)), 8, order)
    found = sample(ngram, SampleRequest(n=30, temperature=1.0, seed=9, bos=7))
    assert sample(ngram, SampleRequest(7, 1.0, 9, 7)) == found.select(range(7))
    assert sample(ngram, SampleRequest(30, 1.0, 10, 7)) != found
    longest = max(map(len, skewed(2)))
    assert ngram.config.block_size == longest - 1
    assert all(7 not in tokens and len(tokens) < longest for tokens in found)
    assert len(set(map(tuple, found))) > 10


def test_a_sample_that_does_not_end_stops_at_block_size() -> None:
    ngram = train_ngram(pack_sequences([[1, 0, 0, 0]] * 9), 2, 2)  # cut documents: none has its end
    assert sample(ngram, SampleRequest(1, 0.0, 0, 1)) == pack_sequences([[0, 0, 0]])


@pytest.mark.parametrize("tokens", [[3], [-1], [0, 3, 0]])
def test_tokens_outside_the_vocabulary(tokens: list[int]) -> None:
    ngram = train_ngram(HAND, 3, 2)
    calls: list[Callable[[], Any]] = [
        lambda: ngram.logprobs(pack_sequences([tokens])),
        lambda: train_ngram(pack_sequences([tokens]), 3, 2),
        lambda: list(map(ngram.decoder().push, tokens)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"token (3|-1) is outside the vocabulary of 3"):
            call()


@pytest.mark.parametrize("order", [0, -1, MAX_ORDER + 1, True, 2.0])
def test_orders_that_cannot_be(order: Any) -> None:
    with pytest.raises(ConfigError, match=r"order must be (from 1 to 10|a whole number), not"):
        train_ngram(HAND, 3, order)


# ---- on a real list


def held_out_nats(docs: Sequence[str], order: int, rule: int = RULE) -> float:
    train, held = split(docs, rule=rule)
    tokenizer = CharTokenizer.train(docs)
    learned, unseen = (
        pack_sequences(map(tokenizer.encode_document, part)) for part in (train, held)
    )
    logprobs = train_ngram(learned, tokenizer.vocab_size, order).logprobs(unseen)
    return -math.fsum(logprobs) / len(logprobs)


@pytest.mark.skipif(bool(original.why_not(original.NAMES)), reason=original.why_not(original.NAMES))
@pytest.mark.parametrize(
    ("order", "nats"), [(1, 2.8177), (2, 2.4470), (3, 2.2191), (4, 2.0627), (5, 1.9948), (6, 1.991)]
)
def test_the_originals_names(order: int, nats: float) -> None:
    """By the rule of before, by which the figures were measured elsewhere."""
    found = held_out_nats(original.NAMES.read_text().split(), order, RULE_BY_BUCKET)
    assert nats - 0.001 < found <= nats


# ---- the verb


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """A file of 216 words."""
    path = tmp_path / "words.txt"
    syllables = ["an", "bo", "ki", "la", "mi", "no"]
    path.write_text("".join(f"{a}{b}{c}\n" for a, b, c in product(syllables, repeat=3)))
    return path


def test_the_table_and_the_samples(words: Path, kamon: Kamon) -> None:
    done = kamon("ngram", words, "--order", 3, "-n", 12, "--seed", 5)
    assert done.code == 0
    docs = words.read_text().split()
    learned, held = map(len, split(docs))
    assert (
        f"216 entries\nTraining         {learned} entries\nValidation       {held} entries\n"
        in done.err
    )
    found = kamon("ngram", words, "--order", 3, "-n", 12, "--seed", 5, "--json").json
    table, samples = done.out.split("\n\n")
    head, *lines = table.splitlines()
    assert head.split() == ["order", "nats/token", "bits/character", "perplexity"]
    assert [line.split() for line in lines] == [
        [
            str(figures["order"] or "uniform"),
            f"{figures['nats_per_token']:.3f}",
            f"{figures['bits_per_char']:.3f}",
            f"{figures['perplexity']:.3f}",
        ]
        for figures in found["orders"]
    ]
    assert len(found["samples"]) == 12
    for line, text in zip(samples.splitlines(), found["samples"], strict=True):
        assert line.split("  ")[0].rstrip() == text["text"]
        assert ("(in the list)" in line) == text["in_list"] == (text["text"] in docs)


def test_json_of_ngram(words: Path, kamon: Kamon) -> None:
    found = kamon("ngram", words, "--order=4", "--json", "--temperature=0.75").json
    docs = words.read_text().split()
    assert found["corpus"]["num_docs"] == 216
    assert (found["num_train"], found["num_validation"]) == tuple(map(len, split(docs)))
    vocab_size = len(set("".join(docs))) + 1
    assert found["vocab_size"] == vocab_size
    held = split(docs)[1]
    chars = sum(map(len, held))
    for order, figures in enumerate(found["orders"]):
        nats = held_out_nats(docs, order) if order else math.log(vocab_size)
        assert figures["order"] == order
        assert figures["nats_per_token"] == pytest.approx(nats, rel=1e-12)
        bits = nats / math.log(2) * (chars + len(held)) / chars
        assert figures["bits_per_char"] == pytest.approx(bits, rel=1e-12)
        assert figures["perplexity"] == pytest.approx(math.exp(nats), rel=1e-12)
    best = min(found["orders"][1:], key=lambda figures: figures["nats_per_token"])
    assert found["best_order"] == best["order"]
    assert (found["temperature"], found["seed"]) == (0.75, 42)
    assert len(found["samples"]) == 20


def test_nothing_held_out(tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "few.txt"
    path.write_text("anna\nnora\n")
    done = kamon("ngram", path, "-n", 3, "--temperature", 0)
    assert done.code == 0
    few = f"the list has fewer than {MIN_DOCS} unique entries"
    assert f"warning: no validation set, because {few}\n" in done.err
    assert len(done.out.splitlines()) == 3
    found = kamon("ngram", path, "--json").json
    assert (found["num_train"], found["num_validation"]) == (2, 0)
    assert (found["orders"], found["best_order"]) == ([], None)


def test_a_character_that_only_the_held_out_part_has(words: Path, kamon: Kamon) -> None:
    odd = next("bo" + "ä" * n for n in range(1, 100) if key("bo" + "ä" * n) < 2**60)
    with words.open("a", encoding="utf-8") as file:
        file.write(f"{odd}\n")
    found = kamon("ngram", words, "--order=2", "--json").json
    assert found["vocab_size"] == len(set(words.read_text(encoding="utf-8")))  # \n for BOS
    assert all(1 < figures["perplexity"] < 20 for figures in found["orders"])


def test_ngram_reads_columns_of_standard_input(
    kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.BytesIO(b"name,id\nanna,1\n nora,2\n\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=text))
    done = kamon("ngram", "-", "--format", "csv", "--column", "name", "--json")
    assert done.json["corpus"]["num_docs"] == 2


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["--order", "0"], 2, "order must be from 1 to 10, not 0"),
        (["--order", "11"], 2, "order must be from 1 to 10, not 11"),
        (["--order", "x"], 2, "must be a whole number, not 'x'"),
        (["-n=-1"], 2, "the number of samples must be 0 or more, not -1"),
        (["--temperature=-1"], 2, "temperature must be 0 or more and finite"),
        (["--temperature=nan"], 2, "temperature must be 0 or more and finite"),
        (["--seed", "9" * 50], 2, "seed must be below 2**128"),
        (["--column", "name"], 2, "which has no columns"),
        (["--block-size", "4"], 2, "unknown option --block-size"),
    ],
)
def test_ngram_asked_wrongly(
    argv: list[str], code: int, message: str, names: Path, kamon: Kamon
) -> None:
    done = kamon("ngram", names, *argv)
    assert (done.code, done.out) == (code, "")
    assert message in done.err


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), ("a\naa\n", "one character")])
def test_ngram_of_nothing(content: str, message: str, tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "x.txt"
    path.write_text(content)
    done = kamon("ngram", path)
    assert (done.code, done.out) == (1, "")
    assert message in done.err


def test_empty_samples_are_none(tmp_path: Path, kamon: Kamon) -> None:
    """They are left out and counted; others come for them, as far as there are any."""
    (tmp_path / "list.txt").write_text("a\nb\nc\nab\n")
    done = kamon("ngram", tmp_path / "list.txt", "-n", 30, "--temperature", 2, "--json")
    texts = [each["text"] for each in done.json["samples"]]
    assert len(texts) == 30
    assert "" not in texts
    assert re.search(r"^Left out \d+ empty samples$", done.err, re.M)
