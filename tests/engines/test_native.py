"""The native engine computes what the scalar engine computes: tensor by tensor, on any shape.

Bounds: float64 within 1e-12 of a tensor's largest value, float32 within 1e-4.
"""

from __future__ import annotations

import ctypes
import json
import math
import random
import re
import signal
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Result, assert_decoder_refuses
from helpers import original
from helpers.engines import (
    assert_close,
    check_against_scalar,
    configs,
    random_batch,
    random_state,
    rounded,
)
from kamon.config import Config
from kamon.data import builtin, corpus
from kamon.engines.base import Engine, StepPlan, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import EngineSpec, make_engine
from kamon.engines.loops import (
    document_logprobs,
    document_logprobs_one_by_one,
    train,
    train_step_by_step,
)
from kamon.engines.native import NativeEngine
from kamon.engines.parameters import init, num_params, parameter_shapes
from kamon.errors import ConfigError
from kamon.generation.sampling import SampleRequest, sample, sample_document, sample_one_by_one
from kamon.native import library
from kamon.training.data import as_given
from kamon.training.loop import make_plan, pretrain
from kamon.training.setup import build_setup

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())

BOUNDS = {"float64": 1e-12, "float32": 1e-4}
RUNNABLE = (
    [] if library.why_not() else library.LEVELS[: library.LEVELS.index(library.best_level()) + 1]
)


def make_native(
    config: Config, dtype: str, level: str | None = None, threads: int = 2
) -> NativeEngine:
    return NativeEngine(config, num_params(config), dtype, threads, level)


def builds(config: Config) -> Iterator[tuple[Engine, float]]:
    """Every build that runs here, with its bound."""
    for level in RUNNABLE:
        for dtype, bound in BOUNDS.items():
            yield make_native(config, dtype, level), bound


@settings(max_examples=6, deadline=None)
@given(config=configs())
def test_logprobs_gradients_and_steps(config: Config) -> None:
    check_against_scalar(config, builds(config))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(config=configs())
def test_logprobs_gradients_and_steps_on_more_shapes(config: Config) -> None:
    check_against_scalar(config, builds(config))


@pytest.mark.parametrize("dtype", BOUNDS)
@settings(max_examples=15, deadline=None)
@given(config=configs())
def test_decoding_is_the_whole_pass(dtype: str, config: Config) -> None:
    rng = random.Random(config.seed)
    engine = make_native(config, dtype)
    engine.load(random_state(config, rng))
    tokens = [rng.randrange(config.vocab_size) for _ in range(config.block_size + 1)]
    decoder = engine.decoder()
    decoded = []
    for position in range(config.block_size):
        logits = decoder.push(tokens[position])
        largest = max(logits)
        total = math.log(sum(math.exp(logit - largest) for logit in logits))
        decoded.append(logits[tokens[position + 1]] - largest - total)
    found = list(engine.logprobs(pack_sequences([tokens])))
    bound = {"float64": 1e-12, "float32": 1e-4}[dtype]
    assert found == pytest.approx(decoded, abs=bound, rel=bound)


@pytest.mark.parametrize("dtype", BOUNDS)
@settings(max_examples=15, deadline=None)
@given(config=configs())
def test_a_state_survives(dtype: str, config: Config) -> None:
    state = random_state(config, random.Random(config.seed))
    engine = make_native(config, dtype)
    engine.load(state)
    found = engine.state()
    assert found == (state if dtype == "float64" else rounded(state))
    engine.load(found)
    assert engine.state() == found
    assert set(engine.gradients()) == {0.0}


@pytest.mark.parametrize("dtype", BOUNDS)
@settings(max_examples=15, deadline=None)
@given(config=configs(), batch_size=st.integers(1, 5), accumulated=st.integers(1, 3))
def test_fused_training_is_the_plain_loop(
    dtype: str, config: Config, batch_size: int, accumulated: int
) -> None:
    rng = random.Random(config.seed)
    docs = pack_sequences(
        [rng.randrange(config.vocab_size) for _ in range(rng.randint(2, config.block_size + 1))]
        for _ in range(7)
    )
    indices = array("q", [rng.randrange(7) for _ in range(6 * batch_size * accumulated)])
    rates = array("d", [0.01 / (i + 1) for i in range(6)])
    plan = StepPlan(docs, batch_size, indices, rates, 5, accumulated)
    fused, plain = make_native(config, dtype), make_native(config, dtype)
    for engine in (fused, plain):
        engine.load(initial_state(init(config, random.Random(1))))
    found, expected = train(fused, plan), train_step_by_step(plain, plan)
    if accumulated == 1:
        assert found == pytest.approx(expected, rel=1e-15)
        assert fused.state() == plain.state()
    else:  # which the fused form adds up in another order; Adam makes much of little at first
        assert found == pytest.approx(expected, abs=1e-9 if dtype == "float64" else 1e-2)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("level", RUNNABLE)
@settings(max_examples=8, deadline=None)
@given(config=configs(), most_tokens=st.sampled_from([24, 3000]))
def test_fused_sums_are_the_plain_ones(
    dtype: str, level: str, config: Config, most_tokens: int
) -> None:
    rng = random.Random(config.seed)
    engine = make_native(config, dtype, level)
    engine.load(random_state(config, rng))
    batch = random_batch(config, rng, most_tokens)
    assert document_logprobs(engine, batch) == document_logprobs_one_by_one(engine, batch)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_training_goes_on_where_it_stopped(dtype: str) -> None:
    """train(20) = train(10), save, load into another engine, train(10): bit for bit."""
    config = Config(n_embd=12, n_head=3, block_size=9, vocab_size=13, num_steps=20, batch_size=3)
    docs = random_batch(config, random.Random(2), 200)
    docs = docs.select(d for d in range(len(docs)) if len(docs.document(d)) > 1)
    whole, first, second = (make_native(config, dtype) for _ in range(3))
    start = initial_state(init(config, random.Random(1)))
    whole.load(start)
    losses = train(whole, make_plan(docs, config, 0, 20))
    first.load(start)
    halves = train(first, make_plan(docs, config, 0, 10))
    second.load(first.state())
    halves += train(second, make_plan(docs, config, 10, 20))
    assert halves == losses
    assert second.state() == whole.state()


@pytest.mark.slow
def test_a_vocabulary_larger_than_the_cache() -> None:
    """One column of the products over all tokens is longer than what is read at a time."""
    config = Config(n_embd=2, n_head=1, block_size=2, vocab_size=33_000)
    check_against_scalar(config, builds(config))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_threads_change_no_bit(dtype: str) -> None:
    config = Config(
        n_layer=2, n_embd=20, n_head=4, block_size=12, vocab_size=30, std=0.3, dropout=0.2,
        grad_clip=0.05,
    )  # fmt: skip
    rng = random.Random(5)
    batch = random_batch(config, rng, 3000)
    weights = [rng.uniform(-1, 1) for _ in range(batch.num_targets)]
    start = random_state(config, rng)
    plan = StepPlan(
        batch, 120, array("q", [i % len(batch) for i in range(240)]), array("d", [0.01] * 2)
    )

    def everything(threads: int) -> tuple[Any, ...]:
        engine = make_native(config, dtype, threads=threads)
        engine.load(start)
        logprobs = engine.backward(batch, weights)
        grads = engine.gradients()
        assert engine.logprobs(batch) == logprobs
        engine.step(0.01)
        losses = train(engine, plan)
        samples = engine.sample(700, 1.0, 3, 29)
        return logprobs, grads, losses, engine.state(), samples

    one = everything(1)
    alone = make_native(config, dtype)  # document by document: no groups
    alone.load(start)
    first = 0
    for d in range(len(batch)):
        document = batch.select([d])
        alone.backward(document, weights[first : first + document.num_targets])
        first += document.num_targets
    assert_close(config, one[1], alone.gradients(), BOUNDS[dtype])
    for threads in (2, 3, 7):
        assert everything(threads) == one
    scalar = make_engine("scalar", config)
    part = batch.select(range(30))
    scalar.load(start)
    assert list(one[0][: part.num_targets]) == pytest.approx(
        list(scalar.logprobs(part)), abs=BOUNDS[dtype]
    )


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_clipped_gradient_is_that_of_all_groups(dtype: str) -> None:
    """A step of a batch that several threads share, with `backward`, which adds their shares up."""
    config = Config(n_embd=8, n_head=2, block_size=12, vocab_size=9, std=0.3, grad_clip=0.05)
    rng = random.Random(7)
    batch = random_batch(config, rng, 1000)
    assert batch.num_targets >= 2 * 96  # two groups
    start = random_state(config, rng)
    together, apart = (make_native(config, dtype) for _ in range(2))
    together.load(start)
    train(together, StepPlan(batch, len(batch), array("q", range(len(batch))), array("d", [0.01])))
    apart.load(start)
    apart.backward(batch, [1 / batch.num_targets] * batch.num_targets)
    apart.step(0.01)
    assert together.state() == apart.state()


def test_float64_is_the_same_on_any_instruction_set() -> None:
    config = Config(
        n_layer=2, n_embd=12, n_head=3, block_size=18, vocab_size=21, std=0.3, grad_clip=0.05
    )
    rng = random.Random(6)
    batch = random_batch(config, rng, 1000)
    state = random_state(config, rng)
    plan = StepPlan(
        batch, 70, array("q", [i % len(batch) for i in range(350)]), array("d", [0.01] * 5)
    )
    results = []
    for level in RUNNABLE:
        engine = make_native(config, "float64", level)
        engine.load(state)
        results.append((train(engine, plan), engine.state(), engine.logprobs(batch)))
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("level", RUNNABLE)
def test_hidden_units_that_are_zero_may_be_passed_over(dtype: str, level: str) -> None:
    """Where few are above 0, and a chunk long enough, products leave the others out.

    Documents of 3 tokens alone are too short for that; together they fill several words of bits.
    """
    config = Config(n_layer=2, n_embd=68, n_head=4, block_size=3, vocab_size=9, std=0.1)
    rng = random.Random(8)
    state = initial_state(init(config, rng))
    at = 0
    for name, (n_out, n_in) in parameter_shapes(config).items():
        # inputs with much in common, which the weights turn negative: three in ten are above 0
        shift = 0.3 if name == "wte" else -0.01 if name.endswith("fc1") else 0.0
        for i in range(at, at + n_out * n_in):
            state["params"][i] += shift
        at += n_out * n_in
    batch = pack_sequences([rng.randrange(9) for _ in range(4)] for _ in range(60))
    weights = [rng.uniform(-1, 1) for _ in range(180)]
    together, alone = (make_native(config, dtype, level) for _ in range(2))
    for engine in (together, alone):
        engine.load(state)
    for _ in range(2):  # set, then added to
        logprobs = array("d")
        for d in range(60):
            logprobs += alone.backward(batch.select([d]), weights[3 * d : 3 * d + 3])
        assert together.backward(batch, weights) == logprobs
        assert_close(config, together.gradients(), alone.gradients(), BOUNDS[dtype])


def test_backward_adds_up_and_zero_weights_give_nothing() -> None:
    config = Config(n_embd=6, n_head=2, block_size=5, vocab_size=9, std=0.4)
    rng = random.Random(4)
    engine = make_native(config, "float64")
    engine.load(random_state(config, rng))
    batch = random_batch(config, rng)
    engine.backward(batch, [0.0] * batch.num_targets)
    assert set(engine.gradients()) == {0.0}
    weights = [rng.uniform(-1, 1) for _ in range(batch.num_targets)]
    engine.backward(batch, weights)
    once = engine.gradients()
    engine.backward(batch, weights)
    assert_close(config, engine.gradients(), array("d", [2 * g for g in once]), 1e-14)
    assert max(map(abs, once)) > 0.01


# ---- sampling


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0, 2.0])
@settings(max_examples=8, deadline=None)
@given(config=configs())
def test_samples_are_those_of_the_plain_loop_and_of_the_scalar_engine(
    temperature: float, config: Config
) -> None:
    """In bulk, one by one, and by the scalar engine: the same draws choose the same tokens."""
    state = initial_state(init(config, random.Random(config.seed)))
    engine, scalar = make_native(config, "float64"), make_engine("scalar", config)
    for each in (engine, scalar):
        each.load(state)
    request = SampleRequest(40, temperature, config.seed - 5, config.vocab_size - 1)
    found = sample(engine, request)
    assert found == sample_one_by_one(engine, request)
    fewer = SampleRequest(4, temperature, request.seed, request.bos)
    assert sample(engine, fewer) == sample(scalar, fewer) == found.select(range(4))


def test_samples_of_a_long_block_and_many_documents() -> None:
    """More samples than lanes, of very different lengths: lanes are taken over in mid-air."""
    config = Config(n_embd=8, n_head=2, block_size=50, vocab_size=12, std=0.5)
    engine = make_native(config, "float64")
    engine.load(initial_state(init(config, random.Random(8))))
    request = SampleRequest(300, 1.0, 1, 11)
    found = sample(engine, request)
    assert found == sample_one_by_one(engine, request)
    assert len({len(tokens) for tokens in found}) > 10


# ---- the original


@pytest.mark.skipif(
    bool(original.why_not(original.TRACE, original.NAMES)),
    reason=original.why_not(original.TRACE, original.NAMES),
)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("level", RUNNABLE)
def test_the_original_trace(
    dtype: str, bound: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 steps: each loss within the bound, and the same 20 names."""
    monkeypatch.setattr(library, "best_level", lambda: level)
    trace = json.loads(original.TRACE.read_text())
    run = build_setup(
        as_given(corpus.read(original.NAMES).docs), Config(), EngineSpec("native", dtype)
    )
    losses = pretrain(run.engine, run.docs, run.config)
    assert max(abs(a - b) for a, b in zip(losses, trace["losses"], strict=True)) <= bound
    final = [float.fromhex(number) for number in trace["final"]]
    assert list(run.engine.state()["params"]) == pytest.approx(final, abs=10 * bound)
    bos, rng = run.tokenizer.bos, run.rng
    request = SampleRequest(20, 0.5, 42, bos)
    samples = [sample_document(run.engine, request, lambda _: rng.random()) for _ in range(20)]
    assert [run.tokenizer.decode(tokens) for tokens in samples] == trace["samples"]


GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("run", GOLDEN["runs"], ids=lambda run: str(run["settings"]))
def test_recorded_runs(
    run: dict[str, Any], dtype: str, bound: float, tmp_path: Path, kamon: Callable[..., Result]
) -> None:
    from kamon.data import builtin

    source = tmp_path / "names.txt"
    source.write_text("\n".join(builtin.names()[: GOLDEN["num_names"]]))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in run["settings"].items()]
    argv = ["reproduce", "--engine=native", "--dtype", dtype, "--input", source, *flags, "--json"]
    found = kamon(*argv).json
    losses = [float.fromhex(loss) for loss in run["losses"]]
    assert found["losses"] == pytest.approx(losses, abs=bound)
    assert found["samples"] == [
        line.split(": ", 1)[1] for line in run["printed"].splitlines()[-20:]
    ]


# ---- manners


def ready(dtype: str = "float64", config: Config | None = None) -> NativeEngine:
    engine = make_native(config or Config(n_embd=4, n_head=2, block_size=4, vocab_size=5), dtype)
    engine.load(initial_state(init(engine.config, random.Random(1))))
    return engine


@pytest.mark.parametrize("tokens", [[0, 5], [-1, 2], [0, 1, 2, 3, 4, 0]])
def test_what_does_not_fit_is_refused(tokens: list[int]) -> None:
    engine = ready()
    before = engine.state()
    batch = pack_sequences([[0, 1], tokens])
    with pytest.raises(ValueError, match=r"vocabulary|block_size"):
        engine.logprobs(batch)
    with pytest.raises(ValueError, match=r"vocabulary|block_size"):
        engine.document_logprobs(batch)
    with pytest.raises(ValueError, match=r"vocabulary|block_size"):
        engine.backward(batch, [1.0] * batch.num_targets)
    with pytest.raises(ValueError, match=r"vocabulary|block_size"):
        engine.train(StepPlan(batch, 2, array("q", [0, 1]), array("d", [0.1])))
    assert set(engine.gradients()) == {0.0}
    assert engine.state() == before


def test_wrong_sizes_are_refused() -> None:
    engine = ready()
    with pytest.raises(ValueError, match="weights"):
        engine.backward(pack_sequences([[0, 1]]), [])
    with pytest.raises(ValueError, match="parameters"):
        engine.load(initial_state(array("d", [0.0])))
    for indices in (array("q", [0]), array("q", [0, 2]), array("q", [0, -1])):
        with pytest.raises(ValueError, match=r"ind(ices|ex)"):
            engine.train(StepPlan(pack_sequences([[0, 1], [1, 2]]), 2, indices, array("d", [0.1])))
    assert_decoder_refuses(engine)


@pytest.mark.parametrize("dtype", BOUNDS)
def test_training_stops_at_a_loss_that_is_not_finite(dtype: str) -> None:
    engine = ready(dtype)
    state = engine.state()
    state["params"][3] = math.nan
    engine.load(state)
    docs = pack_sequences([[0, 1, 2], [0, 0, 3]])
    losses = train(engine, StepPlan(docs, 1, array("q", [1, 1, 1]), array("d", [0.01] * 3)))
    assert len(losses) == 1
    assert math.isnan(losses[0])
    assert engine.state()["step"] == 0


class StopError(Exception):
    """What a signal's handler could raise."""


@pytest.mark.slow
@pytest.mark.parametrize("what", ["train", "backward", "logprobs", "document_logprobs", "sample"])
def test_a_long_call_can_be_stopped(what: str) -> None:
    """A handler that raises, as that of Ctrl-C does, ends the call, and the engine lives on.

    It is processor time that is bounded: a busy machine lets everybody wait.
    """
    config = Config(n_layer=2, n_embd=64, block_size=64, vocab_size=27, num_steps=1)
    engine, untouched = make_native(config, "float32"), make_native(config, "float32")
    state = initial_state(init(config, random.Random(1)))
    engine.load(state)
    untouched.load(state)
    rng = random.Random(2)
    few = pack_sequences([rng.randrange(27) for _ in range(30)] for _ in range(20))
    many = pack_sequences(list(few) * 5_000)  # several times the bound below
    work = {
        "train": lambda: engine.train(
            StepPlan(many, len(many), array("q", range(len(many))), array("d", [0.1]))
        ),
        "backward": lambda: engine.backward(many, [1.0] * many.num_targets),
        "logprobs": lambda: engine.logprobs(many),
        "document_logprobs": lambda: engine.document_logprobs(many),
        "sample": lambda: engine.sample(400_000, 1.0, 1, 26),
    }[what]

    def ring(_signum: int, _frame: object) -> None:
        raise StopError

    before = signal.signal(signal.SIGALRM, ring)
    begin = time.process_time()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        with pytest.raises(StopError):
            work()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert time.process_time() - begin < 2.5
    assert engine.state() == untouched.state()
    for each in (engine, untouched):
        each.backward(few, [1.0] * few.num_targets)
    assert engine.gradients() == untouched.gradients()


def test_training_stops_between_and_within_steps_where_it_is_told() -> None:
    config = Config(n_layer=2, n_embd=64, block_size=64, vocab_size=27)
    rng = random.Random(2)
    docs = pack_sequences([rng.randrange(27) for _ in range(60)] for _ in range(200))
    plan = StepPlan(
        docs, 10, array("q", [i % 200 for i in range(10**5)]), array("d", [0.01] * 10**4)
    )
    engine, whole = make_native(config, "float32"), make_native(config, "float32")
    for each in (engine, whole):
        each.load(initial_state(init(config, random.Random(1))))
    calls = 0

    def should_stop() -> bool:
        nonlocal calls
        calls += 1
        return calls >= 5

    losses = train(engine, plan, should_stop)
    assert calls >= 5
    assert 0 < len(losses) < 10**4
    part = StepPlan(docs, 10, plan.indices[: len(losses) * 10], plan.learning_rates[: len(losses)])
    assert train(whole, part) == losses
    assert whole.state() == engine.state()


def test_empty_batches() -> None:
    engine = ready()
    assert list(engine.logprobs(pack_sequences([]))) == []
    assert list(engine.logprobs(pack_sequences([[1], [2]]))) == []
    assert [list(found) for found in engine.document_logprobs(pack_sequences([]))] == [[], []]
    assert [list(found) for found in engine.document_logprobs(pack_sequences([[1], [2]]))] == [
        [0, 0]
    ] * 2
    assert list(engine.backward(pack_sequences([[1]]), [])) == []
    assert list(engine.sample(0, 1.0, 1, 4)) == []


def test_documents_without_a_token_have_no_targets() -> None:
    engine = ready()
    scalar = make_engine("scalar", engine.config)
    scalar.load(engine.state())
    batch = pack_sequences([[], [0, 1, 2], [], [], [2, 1], []])
    assert batch.num_targets == 3
    alone = pack_sequences([[0, 1, 2], [2, 1]])
    assert engine.logprobs(batch) == engine.logprobs(alone)
    assert len(scalar.logprobs(batch)) == 3
    with pytest.raises(ValueError, match="2 weights for 3 targets"):
        engine.backward(batch, [1.0, 1.0])


def test_the_callers_floating_point_environment_is_unchanged() -> None:
    """Rounding direction and denormals, before and after each call, in this thread."""
    libm = ctypes.CDLL(None)
    upward = {"x86_64": 0x800, "AMD64": 0x800, "aarch64": 0x400000, "arm64": 0x400000}
    import platform

    direction = upward.get(platform.machine())
    if direction is None or not hasattr(libm, "fesetround"):
        pytest.skip("no fesetround, or its constants are unknown here")
    engine = ready("float32")
    batch = pack_sequences([[0, 1, 2]])
    before = libm.fegetround()
    try:
        assert libm.fesetround(direction) == 0
        engine.backward(batch, [1.0, 1.0])
        engine.step(0.1)
        engine.train(StepPlan(batch, 1, array("q", [0]), array("d", [0.1])))
        engine.sample(3, 1.0, 1, 4)
        engine.decoder().push(1)
        after = libm.fegetround()
    finally:
        libm.fesetround(before)
    assert after == direction
    tiny = array("d", [5e-324])
    assert tiny[0] * 3 == 1.5e-323


def test_other_threads_run_meanwhile() -> None:
    """The GIL is free during a call: this thread counts while another one trains."""
    config = Config(n_embd=32, n_layer=2, num_steps=8000)
    engine = make_native(config, "float32", threads=1)
    engine.load(initial_state(init(config, random.Random(1))))
    docs = pack_sequences([[0, *range(1, 15), 0]])
    plan = make_plan(docs, config, 0, 8000)
    worker = threading.Thread(target=train, args=(engine, plan))
    worker.start()
    ticks = 0
    while worker.is_alive():
        time.sleep(0.0005)
        ticks += 1
    assert ticks > 5


def test_without_a_build(
    tmp_path: Path, names: Path, kamon: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "library_path", lambda level: str(tmp_path / level))
    with pytest.raises(ConfigError, match=r"is not built: it needs a C\+\+17 compiler"):
        make_engine("native", Config())
    argv = ["train", names, "-o", tmp_path / "m", "--n-embd=4", "--num-steps=2"]
    refused = kamon(*argv, "--engine=native")
    assert refused.code == 2
    assert "error: the native engine is not built" in refused.err
    done = kamon(*argv)
    assert done.code == 0
    assert "the scalar engine is tens of thousands of times slower" in done.err
    assert re.search("^Engine +scalar, float64$", done.err, re.M)


def test_reproduce_computes_in_float64(names: Path, kamon: Callable[..., Result]) -> None:
    argv = ["reproduce", "--input", names, "--json", "--n-embd=4", "--num-steps=8"]
    assert kamon(*argv).json == kamon(*argv, "--engine=native", "--dtype=float64").json
    exact = kamon(*argv, "--engine=scalar").json
    assert kamon(*argv).json["losses"] == pytest.approx(exact["losses"], abs=1e-12)
    assert kamon(*argv, "--dtype=float32").json["losses"] != kamon(*argv).json["losses"]


@pytest.mark.skipif(bool(original.why_not(original.NAMES)), reason=original.why_not(original.NAMES))
def test_reproduce_says_whether_that_is_the_original(
    tmp_path: Path, kamon: Callable[..., Result]
) -> None:
    same = kamon("reproduce", "--input", original.NAMES)
    assert re.fullmatch(
        r"Engine: native, float64\nSame as the original: all 1,000 losses "
        r"\(largest difference \d\.\de-1[0-9]\) and all 20 names\n",
        same.err,
    )
    single = kamon("reproduce", "--input", original.NAMES, "--dtype=float32").err
    assert single.startswith("Engine: native, float32\nSame as the original: all 1,000 losses (")
    other = tmp_path / "other.txt"  # of as many lines
    other.write_text("\n".join(reversed(original.NAMES.read_text().split())))
    assert (
        "warning: not the same as the original: its losses differ by up to "
        in kamon("reproduce", "--input", other).err
    )
    short = kamon("reproduce", "--input", original.NAMES, "--seed=1", "--num-steps=2").err
    assert short == "Engine: native, float64\n"


@pytest.mark.skipif(bool(original.why_not(original.TRACE)), reason=original.why_not(original.TRACE))
def test_the_losses_that_reproduce_compares_with_are_the_originals() -> None:
    assert builtin.original_losses() == json.loads(original.TRACE.read_text())["losses"]


def test_engine_choices() -> None:
    engine: Engine = make_engine(None, Config())
    assert isinstance(engine, NativeEngine)
    assert engine.dtype == "float32"
    assert make_engine("native", Config(), dtype="float64", threads=1).dtype == "float64"
    for options in ({"dtype": "float16"}, {"threads": 0}, {"threads": True}):
        with pytest.raises(ConfigError):
            make_engine("native", Config(), **options)  # type: ignore[arg-type]
    with pytest.raises(
        ConfigError, match="the scalar engine computes only in float64\nhint: leave out --dtype"
    ):
        make_engine("scalar", Config(), dtype="float32")
