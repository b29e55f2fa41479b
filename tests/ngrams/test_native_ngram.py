"""The n-grams in C++ against those of kamon.ngrams.reference: the same bits, the same errors."""

from __future__ import annotations

import math
import random
from array import array
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Result
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.errors import ConfigError
from kamon.generation.sampling import SampleRequest, sample
from kamon.native import library
from kamon.ngrams import native
from kamon.ngrams.native import NativeNgram, best_ngram, count_ngram, native_ngram
from kamon.ngrams.reference import Ngram, train_ngram

Kamon = Callable[..., Result]
Documents = list[list[int]]
needs_native = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())


@st.composite
def corpora(draw: st.DrawFn) -> tuple[int, Documents, Documents]:
    """A vocabulary size, documents to learn and others; some empty, cut short, or repeated."""
    vocab_size = draw(st.integers(2, 300))
    used = draw(st.integers(1, min(4, vocab_size)))  # few, for k-grams that occur more than once
    token = st.integers(0, used - 1) | st.integers(0, vocab_size - 1)
    document = st.lists(token, max_size=14)
    bounded = document.map(lambda tokens: [vocab_size - 1, *tokens, vocab_size - 1])
    documents = st.lists(document | bounded, max_size=12)
    learned = draw(documents)
    learned *= draw(st.sampled_from([1, 1, 2, 3]))
    return vocab_size, learned, draw(documents) + learned[:3]


def skewed(seed: int, vocab_size: int, num_docs: int) -> Documents:
    """Documents of a few frequent and many rare tokens: each discount is defined."""
    rng = random.Random(seed)
    bos = vocab_size - 1
    return [
        [
            bos,
            *(min(bos - 1, int(rng.expovariate(4 / bos))) for _ in range(rng.randint(0, 12))),
            bos,
        ]
        for _ in range(num_docs)
    ]


def assert_the_same(ngram: NativeNgram, plain: Ngram, tested: PackedBatch) -> None:
    assert (ngram.order, ngram.config) == (plain.order, plain.config)
    assert ngram.logprobs(tested).tobytes() == plain.logprobs(tested).tobytes()
    for document in list(tested)[-3:]:
        for end in range(len(document) + 1):
            context = document[:end].tolist()
            assert ngram.probabilities(context) == plain.probabilities(context)
        decoders = ngram.decoder(), plain.decoder()
        for token in document:
            assert decoders[0].push(token) == decoders[1].push(token)


@needs_native
@settings(deadline=None)
@given(corpora(), st.integers(1, 10))
def test_the_same_bits(corpus: tuple[int, Documents, Documents], order: int) -> None:
    vocab_size, learned, other = corpus
    tested = pack_sequences(other)
    ngram = native_ngram(pack_sequences(learned), vocab_size, order)
    of_orders = ngram.logprobs_of_orders(tested)
    assert len(of_orders) == order
    for lower, logprobs in enumerate(of_orders, 1):
        plain = train_ngram(pack_sequences(learned), vocab_size, lower)
        assert logprobs.tobytes() == plain.logprobs(tested).tobytes()
        if lower in (1, order // 2, order - 1, order):
            assert_the_same(ngram.of_order(max(1, lower)), plain, tested)


@needs_native
@settings(deadline=None, max_examples=10)
@given(st.integers(0, 2**32), st.integers(2, 300), st.integers(1, 10))
def test_the_same_bits_of_larger_lists(seed: int, vocab_size: int, order: int) -> None:
    learned, tested = (
        pack_sequences(skewed(seed, vocab_size, 600)),
        pack_sequences(skewed(seed + 1, vocab_size, 30)),
    )
    ngram, plain = (train(learned, vocab_size, order) for train in (native_ngram, train_ngram))
    assert isinstance(ngram, NativeNgram)
    assert isinstance(plain, Ngram)
    assert_the_same(ngram, plain, tested)


@needs_native
@pytest.mark.parametrize(
    "documents", [[], [[]], [[0]], [[2]], [[2], [], [0]], [[2, 2]], [[1] * 40]]
)
@pytest.mark.parametrize("order", [1, 2, 3, 10])
def test_the_same_bits_of_next_to_nothing(documents: Documents, order: int) -> None:
    tested = pack_sequences([[2, 0, 1, 2], [], [1], [1] * 13, *documents])
    assert_the_same(
        native_ngram(pack_sequences(documents), 3, order),
        train_ngram(pack_sequences(documents), 3, order),
        tested,
    )


@needs_native
def test_a_large_vocabulary() -> None:
    vocab_size = 2**20
    rng = random.Random(1)
    bos = vocab_size - 1
    documents = [[bos, *rng.choices(range(bos), k=9), bos] for _ in range(300)] * 2
    ngram, plain = (
        train(pack_sequences(documents), vocab_size, 10) for train in (native_ngram, train_ngram)
    )
    tested = pack_sequences([*documents[:20], [bos, bos - 1, 0, bos]])
    assert ngram.logprobs(tested) == plain.logprobs(tested)
    assert ngram.probabilities(documents[0][:5]) == plain.probabilities(documents[0][:5])


@needs_native
@pytest.mark.parametrize("size", [0, 1, 16, 17, 200])
def test_the_size_of_a_piece_changes_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = pack_sequences([*skewed(3, 9, 40), [], [1], []])
    assert list(native.pieces(documents)) == [(0, len(documents))]
    ngram = native_ngram(documents, 9, 4)
    whole = ngram.logprobs_of_orders(documents)
    monkeypatch.setattr(native, "MAX_TOKENS_PER_CALL", size)
    cut = native_ngram(documents, 9, 4)
    assert cut.logprobs_of_orders(documents) == whole
    assert cut.config == ngram.config
    assert len(list(native.pieces(documents))) > 1


@needs_native
def test_every_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = pack_sequences(skewed(4, 30, 300))
    found = {train_ngram(documents, 30, 5).logprobs(documents).tobytes()}
    for level in library.LEVELS[: library.LEVELS.index(library.best_level()) + 1]:
        monkeypatch.setattr(library, "best_level", lambda level=level: level)
        found.add(native_ngram(documents, 30, 5).logprobs(documents).tobytes())
    assert len(found) == 1


@needs_native
def test_samples_are_the_same() -> None:
    documents = pack_sequences(skewed(5, 8, 200))
    request = SampleRequest(n=20, temperature=0.8, seed=3, bos=7)
    ngram, plain = (train(documents, 8, 4) for train in (native_ngram, train_ngram))
    assert sample(ngram, request) == sample(plain, request)


@needs_native
def test_a_lower_order_outlives_the_one_it_comes_from() -> None:
    documents = pack_sequences(skewed(6, 8, 50))
    ngram = native_ngram(documents, 8, 4).of_order(2)
    for order in (0, 3):
        with pytest.raises(ValueError, match=f"order {order} is not from 1 to 2"):
            ngram.of_order(order)
    assert ngram.logprobs(documents) == train_ngram(documents, 8, 2).logprobs(documents)


# ---- with and without C++


@pytest.fixture(params=["native", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the C++ does the work, or kamon.ngrams.reference as where it is not built."""
    if request.param == "plain":
        monkeypatch.setattr(library, "why_not", lambda: "not here")
    elif library.why_not():
        pytest.skip(library.why_not())
    return str(request.param)


def test_the_best_n_gram(way: str) -> None:
    rng = random.Random(7)
    syllables = [[0, 1], [1, 2, 0], [3]]
    words = [[*chain(*rng.choices(syllables, k=rng.randint(1, 5)))] for _ in range(99)]
    learned, tested = (
        pack_sequences([4, *word, 4] for word in part) for part in (words[:70], words[70:])
    )
    best, nats = best_ngram(learned, tested, 5, 5)
    plain = [train_ngram(learned, 5, order) for order in range(1, 6)]
    assert nats == [-math.fsum(each.logprobs(tested)) for each in plain]
    assert 1 < best.order == nats.index(min(nats)) + 1 < 5
    assert best.logprobs(tested) == plain[best.order - 1].logprobs(tested)
    assert isinstance(best, NativeNgram) == (way == "native")
    assert isinstance(count_ngram(learned, 5), NativeNgram) == (way == "native")
    assert count_ngram(learned, 5).order == 6


@pytest.mark.usefixtures("way")
def test_of_equal_orders_the_lowest() -> None:
    best, nats = best_ngram(pack_sequences([[1, 1]]), pack_sequences([[1, 0, 1]]), 2, 4)
    assert nats[1:] == [nats[1]] * 3
    assert best.order == nats.index(min(nats)) + 1 <= 2


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("tokens", [[3], [-1], [0, 3, 0], [0, -1, 2**31 - 1]])
def test_tokens_outside_the_vocabulary(tokens: list[int]) -> None:
    good, bad = pack_sequences([[2, 0, 2]]), pack_sequences([[2, 0, 2], tokens])
    ngram = count_ngram(good, 3, 2)
    calls: list[Callable[[], Any]] = [
        lambda: count_ngram(bad, 3, 2),
        lambda: best_ngram(bad, good, 3, 2),
        lambda: best_ngram(good, bad, 3, 2),
        lambda: ngram.logprobs(bad),
        lambda: ngram.probabilities(tokens),
        lambda: list(map(ngram.decoder().push, tokens)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"token (3|-1) is outside the vocabulary of 3"):
            call()


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("order", [0, -1, 11, True, 2.0])
def test_orders_that_cannot_be(order: Any) -> None:
    docs = pack_sequences([[2, 0, 2]])
    for call in (lambda: count_ngram(docs, 3, order), lambda: best_ngram(docs, docs, 3, order)):
        with pytest.raises(ConfigError, match=r"order must be (a whole number|from 1 to 10), not"):
            call()


@needs_native
def test_the_verb_says_the_same(
    tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "words.txt"
    path.write_text("".join(f"{a}{b}{c}\n" for a in "bdkl" for b in "aeiou" for c in "nrs"))
    argv = ("ngram", path, "--order", 4, "-n", 5, "--temperature", 1)
    found = kamon(*argv)
    assert found.code == 0
    monkeypatch.setattr(library, "why_not", lambda: "not here")
    assert kamon(*argv) == found


@needs_native
def test_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = pack_sequences([[2, 0, 2]])
    real = library.exact

    def failing(name: str, wanted: str, result: int | None) -> Callable[..., Any]:
        return (lambda *_: result) if name == wanted else real(name)

    ngram = native_ngram(docs, 3, 2)
    for wanted, result in (("ngram_create", None), ("ngram_add", 1), ("ngram_finish", 1)):
        with monkeypatch.context() as patch:
            patch.setattr(library, "exact", lambda name, w=wanted, r=result: failing(name, w, r))
            with pytest.raises(MemoryError):
                native_ngram(docs, 3, 2)
    monkeypatch.setattr(library, "exact", lambda name: failing(name, "ngram_logprobs", -1))
    with pytest.raises(MemoryError):
        ngram.logprobs(docs)


def test_arrays_of_no_documents() -> None:
    """Which have no address."""
    empty = PackedBatch(array("i"), array("q", [0]))
    assert list(count_ngram(empty, 3, 2).logprobs(empty)) == []
    assert count_ngram(empty, 4, 2).probabilities([1, 2]) == [1 / 4] * 4
