"""A GPT mixed with an n-gram, against the mixture written down in plain Python."""

from __future__ import annotations

import math
import pickle
import random
import signal
import time
from array import array
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import configs, random_batch
from kamon.config import Config
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import document_logprobs, document_logprobs_one_by_one
from kamon.engines.native import NativeEngine, NgramArrays, NgramTable, SamplePart
from kamon.engines.parameters import init, num_params
from kamon.engines.philox import uniform
from kamon.generation import blend
from kamon.generation.blend import BlendedModel, learn_weight, mix, mix_logprobs
from kamon.generation.sampling import SampleRequest, sample, sample_one_by_one, sample_token
from kamon.native import library
from kamon.ngrams.native import native_ngram
from kamon.ngrams.reference import Ngram, train_ngram

needs_native = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())
BOUNDS = {"float64": 1e-12, "float32": 1e-4}
LEVELS = (
    [] if library.why_not() else library.LEVELS[: library.LEVELS.index(library.best_level()) + 1]
)
WEIGHTS = st.sampled_from([0.0, 1e-9, 0.3, 0.5, 1 - 1e-9, 1.0]) | st.floats(0, 1)
ORDERS = st.integers(1, 8)


def corpus_of(config: Config, rng: random.Random, num_docs: int = 40) -> PackedBatch:
    """Documents of mostly few tokens: contexts are seen again, in longer ones or others."""
    bos = config.vocab_size - 1
    few = [rng.randrange(config.vocab_size) for _ in range(4)]
    documents = []
    for _ in range(num_docs):
        tokens = [
            rng.choice(few) if rng.random() < 0.9 else rng.randrange(config.vocab_size)
            for _ in range(rng.randint(0, 9))
        ]
        documents.append([bos, *tokens, bos])
    return pack_sequences([*documents, *documents[:5]])


def loaded(engine: Engine) -> Engine:
    engine.load(initial_state(init(engine.config, random.Random(engine.config.seed))))
    return engine


def native(config: Config, dtype: str, level: str | None = None, threads: int = 2) -> NativeEngine:
    return NativeEngine(config, num_params(config), dtype, threads, level)


def plain_mixture(
    gpt: Sequence[float], ngram: Sequence[float], weight: float
) -> list[float]:  # p of each token
    largest = max(gpt)
    exps = [math.exp(logit - largest) for logit in gpt]
    return [weight * e / sum(exps) + (1 - weight) * q for e, q in zip(exps, ngram, strict=True)]


def plain_probabilities(
    gpt: Engine, ngram: Ngram, weight: float, tokens: Sequence[int]
) -> list[list[float]]:
    """p of every token after each of these."""
    decoder = gpt.decoder()
    return [
        plain_mixture(decoder.push(token), ngram.probabilities(tokens[: i + 1]), weight)
        for i, token in enumerate(tokens)
    ]


def plain_documents(
    gpt: Engine, ngram: Ngram, weight: float, request: SampleRequest
) -> list[list[int]]:
    documents = []
    for index in range(request.first, request.first + request.n):
        read = [request.bos]
        while len(read) <= gpt.config.block_size:
            p = plain_probabilities(gpt, ngram, weight, read)[-1]
            logits = [math.log(max(each, blend.MIN_P)) for each in p]
            u = uniform(request.seed, index, len(read) - 1)
            token = sample_token(logits, request.temperature, u)
            if token == request.bos:
                break
            read.append(token)
        documents.append(read[1:])
    return documents


# ---- probabilities


@settings(max_examples=10, deadline=None)
@given(config=configs(), weight=WEIGHTS, order=ORDERS)
def test_the_scalar_engine_and_the_plain_ngram(config: Config, weight: float, order: int) -> None:
    rng = random.Random(config.seed)
    gpt = loaded(make_engine("scalar", config))
    ngram = train_ngram(corpus_of(config, rng), config.vocab_size, order)
    model = BlendedModel(gpt, ngram, weight)
    tokens = [rng.randrange(config.vocab_size) for _ in range(config.block_size)]
    expected = plain_probabilities(gpt, ngram, weight, tokens)
    decoder = model.decoder()
    for token, p in zip(tokens, expected, strict=True):
        logits = decoder.push(token)
        assert [math.exp(logit) for logit in logits] == pytest.approx(p, rel=1e-12)
    with pytest.raises(ValueError, match="block_size"):
        decoder.push(0)
    batch = pack_sequences([[*tokens, 0], [1], [0, 1]])
    expected += plain_probabilities(gpt, ngram, weight, [0])
    targets = [*tokens[1:], 0, 1]
    found = [math.log(p[target]) for p, target in zip(expected, targets, strict=True)]
    assert list(model.logprobs(batch)) == pytest.approx(found, abs=1e-12, rel=1e-12)


@needs_native
@settings(max_examples=10, deadline=None)
@given(config=configs(), weight=WEIGHTS, order=ORDERS, num_docs=st.sampled_from([0, 1, 60]))
def test_native_logprobs_are_the_scalar_ones(
    config: Config, weight: float, order: int, num_docs: int
) -> None:
    rng = random.Random(config.seed)
    learned = corpus_of(config, rng, num_docs)
    plain = BlendedModel(
        loaded(make_engine("scalar", config)),
        train_ngram(learned, config.vocab_size, order),
        weight,
    )
    batch = random_batch(config, rng, 60)
    expected = list(plain.logprobs(batch))
    ngram = native_ngram(learned, config.vocab_size, order)
    for level in LEVELS:
        for dtype, bound in BOUNDS.items():
            model = BlendedModel(loaded(native(config, dtype, level)), ngram, weight)
            assert list(model.logprobs(batch)) == pytest.approx(expected, abs=bound, rel=bound)
            assert document_logprobs(model, batch) == document_logprobs_one_by_one(model, batch)
            parts = model.logprobs_of_parts(batch)
            assert parts == (model.gpt.logprobs(batch), ngram.logprobs(batch))
            tokens = [rng.randrange(config.vocab_size) for _ in range(config.block_size)]
            decoders = model.decoder(), plain.decoder()
            for token in tokens:
                found, wanted = ([*map(math.exp, each.push(token))] for each in decoders)
                assert found == pytest.approx(wanted, abs=bound, rel=bound)


@needs_native
@settings(max_examples=20, deadline=None)
@given(config=configs(), weight=WEIGHTS, order=ORDERS)
def test_a_native_ngram_is_mixed_as_the_plain_one(
    config: Config, weight: float, order: int
) -> None:
    rng = random.Random(config.seed)
    learned, vocab_size = corpus_of(config, rng), config.vocab_size
    gpt = loaded(make_engine("scalar", config))
    decoders = [
        BlendedModel(gpt, count(learned, vocab_size, order), weight).decoder()
        for count in (native_ngram, train_ngram)
    ]
    for _ in range(config.block_size):
        token = rng.randrange(vocab_size)
        found, expected = (decoder.push(token) for decoder in decoders)
        assert list(found) == pytest.approx(expected, rel=1e-13, abs=1e-13)


@needs_native
def test_a_native_ngram_is_mixed_with_what_fits_it() -> None:
    ngram = native_ngram(pack_sequences([[4, 0, 4]]), 5, 2)
    context = array("i", [4])
    for num_logits in (0, 4, 6):
        with pytest.raises(ValueError, match=f"{num_logits} logits for a vocabulary of 5"):
            ngram.mix([0.0] * num_logits, context, 0.5)
    with pytest.raises(ValueError, match="outside the vocabulary of 5"):
        ngram.mix([0.0] * 5, array("i", [5]), 0.5)
    with pytest.raises(ValueError, match="an array of 'i'"):
        ngram.mix([0.0] * 5, array("q", [4]), 0.5)  # type: ignore[type-var]
    mixed = ngram.mix([-900.0, 0.0, 0.0, 0.0, 0.0], context, 1.0)
    assert mixed[0] == math.log(blend.MIN_P)


@needs_native
def test_documents_without_targets() -> None:
    config = Config(n_embd=4, n_head=1, block_size=3, vocab_size=5)
    ngram = native_ngram(pack_sequences([[4, 0, 4]]), 5, 2)
    model = BlendedModel(loaded(native(config, "float64")), ngram, 0.5)
    for documents in ([], [[], [4], []]):
        totals, places = model.document_logprobs(pack_sequences(documents))
        assert list(totals) == list(places) == [0] * len(documents)
    with pytest.raises(ValueError, match="more tokens than"):
        model.document_logprobs(pack_sequences([[4, 0, 1, 2, 3]]))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        model.document_logprobs(pack_sequences([[4, 5]]))


@given(st.lists(st.tuples(*[st.floats(-800, 0)] * 2)), WEIGHTS)
def test_mixed_logprobs(pairs: list[tuple[float, float]], weight: float) -> None:
    gpt, ngram = array("d", [a for a, _ in pairs]), array("d", [b for _, b in pairs])
    found = list(mix_logprobs(gpt, ngram, weight))
    if weight in (0, 1):
        assert found == list(gpt if weight else ngram)
        return
    assert found == pytest.approx([mix(a, b, weight) for a, b in pairs], rel=1e-14)
    for (a, b), each in zip(pairs, found, strict=True):
        assert math.isfinite(each)
        if min(a, b) > -600 and 1e-50 < weight < 1 - 1e-10:
            p = weight * math.exp(a) + (1 - weight) * math.exp(b)
            assert each == pytest.approx(math.log(p), abs=1e-13)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    gpt, ngram = array("d", [-1.0, -5.0]), array("d", [-2.0, -0.5])
    expected = list(mix_logprobs(gpt, ngram, 0.25))
    config = Config(n_embd=4, n_head=1, block_size=3, vocab_size=5)
    plain = train_ngram(pack_sequences([[4, 0, 4]]), 5, 2)
    model = BlendedModel(loaded(make_engine("scalar", config)), plain, 0.25)
    batch = pack_sequences([[4, 0, 1, 4], [4, 4]])
    before = model.document_logprobs(batch)
    monkeypatch.setattr(library, "why_not", lambda: "it is not built")
    monkeypatch.setattr(library, "exact", None)
    assert list(mix_logprobs(gpt, ngram, 0.25)) == pytest.approx(expected, rel=1e-15)
    after = model.document_logprobs(batch)
    assert list(after[0]) == pytest.approx(list(before[0]), rel=1e-14)
    assert after[1] == before[1]


# ---- samples


@needs_native
@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
@settings(max_examples=6, deadline=None)
@given(config=configs(), weight=WEIGHTS, order=ORDERS)
def test_samples_are_those_of_the_plain_loop(
    temperature: float, config: Config, weight: float, order: int
) -> None:
    """In bulk, one by one, and from the plain mixture: the same draws choose the same tokens."""
    learned = corpus_of(config, random.Random(config.seed))
    ngram = native_ngram(learned, config.vocab_size, order)
    model = BlendedModel(loaded(native(config, "float64")), ngram, weight)
    request = SampleRequest(80, temperature, config.seed - 5, config.vocab_size - 1, first=3)
    found = sample(model, request)
    assert found == sample_one_by_one(model, request)
    fewer = SampleRequest(4, temperature, request.seed, request.bos, first=3)
    gpt, plain = (
        loaded(make_engine("scalar", config)),
        train_ngram(learned, ngram.config.vocab_size, order),
    )
    expected = plain_documents(gpt, plain, weight, fewer)
    assert list(map(list, found))[:4] == expected
    assert list(map(list, sample(BlendedModel(gpt, plain, weight), fewer))) == expected


@needs_native
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("order", [1, 3, 6, 10])
def test_samples_by_every_build(level: str, order: int) -> None:
    """In float32 a draw now and then falls between the two sums."""
    config = Config(n_layer=2, n_embd=16, n_head=4, block_size=12, vocab_size=30, std=0.4)
    learned = corpus_of(config, random.Random(3), 400)
    ngram = native_ngram(learned, 30, 10).of_order(order)
    request = SampleRequest(1000, 0.8, 7, 29)
    exact = sample(BlendedModel(loaded(native(config, "float64")), ngram, 0.4), request)
    assert len(set(map(len, exact))) > 8
    assert (
        sample(BlendedModel(loaded(native(config, "float64", level)), ngram, 0.4), request) == exact
    )
    found = sample(BlendedModel(loaded(native(config, "float32", level)), ngram, 0.4), request)
    assert sum(map(list.__eq__, map(list, found), map(list, exact))) >= 995


@needs_native
@pytest.mark.parametrize("dtype", BOUNDS)
def test_threads_and_pieces_change_no_bit(dtype: str) -> None:
    config = Config(n_embd=8, n_head=2, block_size=10, vocab_size=20, std=0.4)
    ngram = native_ngram(corpus_of(config, random.Random(3), 300), 20, 5)
    request = SampleRequest(5000, 1.0, 7, 19)
    models = [
        BlendedModel(loaded(native(config, dtype, threads=threads)), ngram, 0.6)
        for threads in (1, 2, 3)
    ]
    first, *others = (sample(model, request) for model in models)
    assert all(other == first for other in others)
    part = SampleRequest(300, 1.0, 7, 19, first=4321)
    assert sample(models[0], part) == first.select(range(4321, 4621))


@needs_native
def test_weights_of_one_part() -> None:
    config = Config(n_embd=8, n_head=2, block_size=10, vocab_size=20, std=0.4)
    learned = corpus_of(config, random.Random(3), 300)
    ngram = native_ngram(learned, 20, 5)
    assert ngram.config.block_size <= config.block_size + 1
    request = SampleRequest(500, 0.7, 1, 19)
    gpt = loaded(native(config, "float64"))
    assert sample(BlendedModel(gpt, ngram, 1.0), request) == sample(gpt, request)
    longer = [tokens[:10] for tokens in map(list, sample(ngram, request))]
    assert list(map(list, sample(BlendedModel(gpt, ngram, 0.0), request))) == longer


@needs_native
def test_first_tokens_occur_as_often_as_the_mixture_says() -> None:
    """χ² with 8 degrees of freedom: 26 has a probability of 0.001, and the seed is fixed."""
    config = Config(n_embd=8, n_head=2, block_size=6, vocab_size=9, std=0.6)
    plain = train_ngram(corpus_of(config, random.Random(5), 200), 9, 4)
    ngram = native_ngram(corpus_of(config, random.Random(5), 200), 9, 4)
    gpt = loaded(native(config, "float32"))
    p = plain_probabilities(gpt, plain, 0.5, [8])[0]
    documents = sample(BlendedModel(gpt, ngram, 0.5), SampleRequest(20_000, 1.0, 2, 8))
    counts = Counter(tokens[0] if len(tokens) else 8 for tokens in documents)
    assert sum((counts[i] - 20_000 * p[i]) ** 2 / (20_000 * p[i]) for i in range(9)) < 26


@needs_native
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("temperature", [0.0, 1e-300, 1e-7, 1e300])
def test_extreme_temperatures(dtype: str, temperature: float) -> None:
    config = Config(n_embd=8, n_head=2, block_size=6, vocab_size=9, std=0.6)
    ngram = native_ngram(corpus_of(config, random.Random(5)), 9, 4)
    model = BlendedModel(loaded(native(config, dtype)), ngram, 0.5)
    request = SampleRequest(100, temperature, 2, 8)
    assert sample(model, request) == sample_one_by_one(model, request)


@needs_native
def test_other_documents_before_change_nothing() -> None:
    """Each lane takes over from a document of another length, and begins with its own context."""
    config = Config(n_embd=4, n_head=1, block_size=40, vocab_size=4, std=0.1)
    rng = random.Random(1)
    learned = pack_sequences(
        [3, *(rng.randrange(3) for _ in range(rng.choice([1, 2, 30]))), 3] for _ in range(50)
    )
    model = BlendedModel(loaded(native(config, "float64")), native_ngram(learned, 4, 6), 0.05)
    found = sample(model, SampleRequest(400, 1.0, 1, 3))
    for index in range(0, 400, 37):
        assert sample(model, SampleRequest(1, 1.0, 1, 3, first=index)) == found.select([index])


@pytest.mark.extra
def test_the_torch_engine() -> None:
    pytest.importorskip("torch")
    config = Config(n_embd=8, n_head=2, block_size=6, vocab_size=9, std=0.6)
    learned = corpus_of(config, random.Random(5))
    plain = train_ngram(learned, 9, 4)
    request = SampleRequest(8, 0.9, 2, 8)
    batch = random_batch(config, random.Random(2))
    model = BlendedModel(loaded(make_engine("torch", config, dtype="float64")), plain, 0.5)
    scalar = BlendedModel(loaded(make_engine("scalar", config)), plain, 0.5)
    assert sample(model, request) == sample(scalar, request)
    assert list(model.logprobs(batch)) == pytest.approx(list(scalar.logprobs(batch)), rel=1e-10)


# ---- the n-gram as arrays


def probabilities_of(arrays: NgramArrays, vocab_size: int, tokens: Sequence[int]) -> list[float]:
    """p of each token after these, by the rules of NgramTable in blend.hpp."""
    context = 0
    followers = [
        {arrays.tokens[f]: f for f in range(*arrays.begins[c : c + 2])}
        for c in range(len(arrays.kept))
    ]
    for token in tokens:
        while True:
            f = followers[context].get(token, -1)
            if f >= 0 and arrays.longer[f] >= 0:
                context = arrays.longer[f]
                break
            if context == 0:
                break
            context = arrays.shorter[context]
    chain = [context]
    while chain[-1]:
        chain.append(arrays.shorter[chain[-1]])
    p = [1 / vocab_size] * vocab_size
    for each in reversed(chain):
        p = [arrays.kept[each] * q for q in p]
        for token, f in followers[each].items():
            p[token] += arrays.shares[f]
    return p


@needs_native
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    vocab_size=st.integers(2, 40),
    num_docs=st.sampled_from([0, 1, 5, 60]),
    order=st.integers(1, 10),
    lower=st.integers(0, 9),
)
def test_arrays_have_the_same_bits(
    seed: int, vocab_size: int, num_docs: int, order: int, lower: int
) -> None:
    config = Config(vocab_size=vocab_size)
    learned = corpus_of(config, random.Random(seed), num_docs)
    order = max(1, order - lower)
    arrays = native_ngram(learned, vocab_size, min(10, order + lower)).of_order(order).arrays()
    plain = train_ngram(learned, vocab_size, order)
    for document in [[0, vocab_size - 1, 0, 0, 1], *list(map(list, learned))[-6:]]:
        for end in range(len(document) + 1):
            found = probabilities_of(arrays, vocab_size, document[:end])
            assert found == plain.probabilities(document[:end])


@needs_native
def test_arrays_that_are_no_ngram_are_refused() -> None:
    """None of them makes the library read outside its memory."""
    config = Config(n_embd=4, n_head=1, block_size=3, vocab_size=5)
    engine = native(config, "float32")
    ngram = native_ngram(pack_sequences([[4, 0, 1, 4], [4, 0, 4]]), 5, 3)
    for name, place, value in [
        ("shorter", 1, 1), ("shorter", 0, 1), ("shorter", -1, -1), ("begins", 0, 1),
        ("begins", -1, 10**9), ("begins", 1, 10**9), ("tokens", 0, 5), ("tokens", 0, -1),
        ("longer", 0, -2), ("longer", 0, 10**6),
    ]:  # fmt: skip
        arrays = ngram.arrays()
        getattr(arrays, name)[place] = value
        with pytest.raises(ValueError, match="do not fit each other"):
            NgramTable(engine, arrays, 5)
    for name in ("kept", "shorter", "begins", "tokens", "shares", "longer"):
        arrays = ngram.arrays()
        getattr(arrays, name).pop()
        with pytest.raises(ValueError, match="do not fit each other"):
            NgramTable(engine, arrays, 5)


# ---- the object


@needs_native
def test_what_does_not_fit_is_refused() -> None:
    config = Config(n_embd=4, n_head=1, block_size=3, vocab_size=5)
    engine = native(config, "float32")
    ngram = native_ngram(pack_sequences([[4, 0, 4]]), 5, 2)
    for weight in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match="from 0 to 1"):
            BlendedModel(engine, ngram, weight)
    with pytest.raises(ValueError, match="a vocabulary of 5, the n-gram one of 6"):
        BlendedModel(engine, native_ngram(pack_sequences([[4, 0, 4]]), 6, 2), 0.5)
    model = BlendedModel(engine, ngram, 0.5)
    with pytest.raises(ValueError, match="outside the vocabulary"):
        model.sample(1, 1.0, 1, 5)
    with pytest.raises(ValueError, match="one dtype and level"):
        native(config, "float64").sample(1, 1.0, 1, 4, parts=[model.part(4)])
    with pytest.raises(ValueError, match="2 numbers for 1 samples"):
        engine.sample(1, 1.0, 1, 4, numbers=array("q", [1, 2]))
    for starts in ([(4,), (4, 0)], [(5,)], [()], [(4, 0, 1, 2)]):
        with pytest.raises(ValueError, match=r"different sizes|outside the vocabulary|more tokens"):
            engine.sample(1, 1.0, 1, 4, parts=[SamplePart(0.5, start) for start in starts])
    with pytest.raises(ValueError, match="2 log-probabilities of the GPT, 1 of the n-gram"):
        mix_logprobs(array("d", [-1, -2]), array("d", [-1]), 0.5)
    with pytest.raises(TypeError, match="cannot be copied"):
        pickle.dumps(ngram.table(engine))


@needs_native
def test_a_copy_is_the_same() -> None:
    config = Config(n_embd=4, n_head=1, block_size=5, vocab_size=5)
    ngram = native_ngram(pack_sequences([[4, 0, 4]]), 5, 2)
    model = BlendedModel(loaded(native(config, "float32")), ngram, 0.5)
    request = SampleRequest(50, 1.0, 1, 4)
    expected = sample(model, request)  # the table exists
    assert sample(pickle.loads(pickle.dumps(model)), request) == expected


class StopError(Exception):
    """What a signal's handler could raise."""


@needs_native
@pytest.mark.slow
def test_a_long_call_can_be_stopped() -> None:
    config = Config(n_layer=2, n_embd=64, block_size=64, vocab_size=27)
    ngram = native_ngram(corpus_of(config, random.Random(1)), 27, 6)
    model = BlendedModel(loaded(native(config, "float32")), ngram, 0.9)

    def ring(_signum: int, _frame: object) -> None:
        raise StopError

    before = signal.signal(signal.SIGALRM, ring)
    begin = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        with pytest.raises(StopError):
            model.sample(400_000, 1.0, 1, 26)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - begin < 2.5
    request = SampleRequest(5, 1.0, 1, 26)
    assert sample(model, request) == sample_one_by_one(model, request)


# ---- the weight


def likelihood(gpt: Sequence[float], ngram: Sequence[float], weight: float) -> float:
    p = (weight * math.exp(a) + (1 - weight) * math.exp(b) for a, b in zip(gpt, ngram, strict=True))
    return math.fsum(map(math.log, p))


@settings(deadline=None)
@given(st.lists(st.tuples(*[st.floats(-12, -0.01)] * 2), min_size=1, max_size=40))
def test_no_weight_of_a_grid_is_better(pairs: list[tuple[float, float]]) -> None:
    gpt, ngram = [a for a, _ in pairs], [b for _, b in pairs]
    weight = learn_weight(gpt, ngram)
    best = max(likelihood(gpt, ngram, i / 1000) for i in range(1001))
    assert 0 <= weight <= 1
    assert likelihood(gpt, ngram, weight) >= best - 1e-12 * len(pairs)


def test_the_learned_weight_is_the_best_of_the_grid() -> None:
    rng = random.Random(4)
    for mean in (-0.4, -0.1, 0.0, 0.2, 0.4):
        gpt = [-6 - rng.expovariate(0.5) for _ in range(3000)]
        ngram = [a + rng.gauss(mean, 1) for a in gpt]
        weight = learn_weight(gpt, ngram)
        likelihoods = [likelihood(gpt, ngram, i / 100) for i in range(101)]
        best = likelihoods.index(max(likelihoods)) / 100
        assert weight == pytest.approx(best, abs=0.01)
        assert 0.02 < weight < 0.98
        shuffled = rng.sample(range(3000), 3000)
        again = learn_weight([gpt[i] for i in shuffled], [ngram[i] for i in shuffled])
        assert again == pytest.approx(weight, rel=1e-12)


@pytest.mark.parametrize(
    ("gpt", "ngram", "weight"),
    [
        ([], [], 0.5),
        ([-1.0, -2.0], [-1.0, -2.0], 0.5),
        ([-1.0], [-2.0], 1.0),
        ([-2.0, -1.0], [-1.0, -1.0], 0.0),
        ([-1.0, -900.0], [-900.0, -1.0], 0.5),
        ([-1.0, -900.0, -900.0], [-900.0, -1.0, -1.0], 1 / 3),
        ([-900.0, -1.0], [-1.0, -1.0], 0.0),
        ([-math.inf, -1.0], [-1.0, -5.0], None),
    ],
)
def test_weights_of_few_targets(gpt: list[float], ngram: list[float], weight: float | None) -> None:
    found = learn_weight(gpt, ngram)
    if weight is None:
        assert 0 < found < 1
    else:
        assert found == pytest.approx(weight, abs=1e-9)


def test_weights_of_different_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="2 log-probabilities of the GPT, 1 of the n-gram"):
        learn_weight([-1.0, -2.0], [-1.0])


@needs_native
@pytest.mark.parametrize("spread", [1e-3, 1.0, 20.0, 600.0])
def test_the_learned_weight_is_the_same_in_plain_python(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(5)
    gpt = [-rng.expovariate(0.5) for _ in range(5000)]
    gaps = [rng.gauss(0, spread) for _ in gpt]
    ngram = [a + gap - math.fsum(gaps) / len(gaps) for a, gap in zip(gpt, gaps, strict=True)]
    found = learn_weight(gpt, ngram)
    assert 0.1 < found < 0.9
    monkeypatch.setattr(library, "why_not", lambda: "it is not built")
    assert found == pytest.approx(learn_weight(gpt, ngram), abs=1e-9)
