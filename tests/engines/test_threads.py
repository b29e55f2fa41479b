"""One model in several threads and processes: each finds what one thread alone finds."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

import kamon
from kamon.completion import complete, fill, next_tokens
from kamon.config import Config
from kamon.engines import native
from kamon.engines.base import Engine, StepPlan, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import document_logprobs, train
from kamon.engines.native import NativeEngine
from kamon.engines.parameters import init, num_params
from kamon.evaluation.evaluate import evaluate
from kamon.evaluation.score import score
from kamon.exporters.export import export
from kamon.generation.sampling import SampleRequest, sample
from kamon.model import Model, to_checkpoint
from kamon.native import library
from kamon.ngrams.native import count_ngram
from kamon.ngrams.reference import train_ngram

needs_native = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
KINDS = [
    pytest.param(("native", "float32", 1), marks=needs_native),
    pytest.param(("native", "float32", 3), marks=needs_native),
    pytest.param(("native", "float64", 3), marks=needs_native),
    ("scalar", None, None),
    ("torch", "float32", None),
]


def names(n: int = 60) -> list[str]:
    rng = random.Random(1)
    return ["".join(rng.choices("abcde", k=rng.randint(2, 6))) for _ in range(n)]


def small_model(engine: str, dtype: str | None, threads: int | None) -> Model:
    return kamon.train(
        names(), engine=engine, dtype=dtype, threads=threads, hold_out=False,
        n_embd=4, n_head=2, num_steps=2, std=0.5,
    )  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> Iterator[tuple[str, str | None, int | None]]:
    """An engine, its dtype and threads. Torch has one: where cores are busy, more wait long."""
    if request.param[0] != "torch":
        yield request.param
        return
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(kind: tuple[str, str | None, int | None]) -> Model:
    return small_model(*kind)


def many_at_once(jobs: list[Callable[[], Any]], rounds: int) -> None:
    """Each thread does all jobs, in an order of its own, and finds what one alone finds."""
    expected = [job() for job in jobs]

    def work(number: int) -> None:
        rng = random.Random(number)
        start.wait()
        for _ in range(rounds):
            for i in rng.sample(range(len(jobs)), len(jobs)):
                assert jobs[i]() == expected[i], i

    start = threading.Barrier(4)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, number) for number in range(4)]:
            done.result()


def jobs_of(model: Model, sizes: list[int]) -> Iterator[Callable[[], Any]]:
    texts, bos, engine = names(sizes[-1]), model.tokenizer.bos, model.engine
    for n in sizes:
        batch = model.tokenizer.encode_documents(texts[:n])
        yield lambda n=n: model.sample(n, seed=n)
        yield lambda batch=batch: engine.logprobs(batch)
        yield lambda batch=batch: document_logprobs(engine, batch)
        yield lambda n=n: [each.logprob for each in score(model, texts[:n])]
    if model.training.engine != "torch":  # it takes long for single tokens
        yield lambda: model.sample(2, prefix="a", max_len=4)
    yield lambda: next_tokens(model, "ab")
    yield lambda: list(engine.decoder().push(bos))
    yield lambda: engine.state()
    yield lambda: engine.gradients()
    yield lambda: len(copy.copy(model).docs)
    if sizes[-1] > 2:  # not by the slow engines
        yield lambda: evaluate(model, ["aaaaaa", "eeee"])
        yield lambda: complete(model, "a", 2)
        yield lambda: fill(model, "a_b", 2)


def test_threads_find_what_one_thread_finds(model: Model) -> None:
    fast = isinstance(model.engine, NativeEngine)
    jobs = list(jobs_of(model, [3, 300, 700] if fast else [2]))
    many_at_once(jobs, 8 if fast else 1)


@pytest.mark.parametrize("learn", [count_ngram, train_ngram])
def test_threads_at_an_n_gram(learn: Any) -> None:
    rng = random.Random(1)
    docs = pack_sequences([5, *rng.choices(range(5), k=rng.randint(1, 8)), 5] for _ in range(300))
    ngram = learn(docs, 6, 4)
    few = docs.select(range(50))
    request = SampleRequest(5, 1.0, 1, 5)
    jobs: list[Callable[[], Any]] = [
        lambda: ngram.logprobs(few),
        lambda: ngram.probabilities([5, 1]),
        lambda: sample(ngram, request),
        lambda: learn(few, 6, 3).logprobs(few),
    ]
    many_at_once(jobs, 5)


@needs_native
def test_threads_in_an_exported_file() -> None:
    model = small_model("native", "float32", 1)
    code = export(to_checkpoint(model, model.engine.state()["params"]), "python")

    def fresh() -> dict[str, Any]:
        found: dict[str, Any] = {"__name__": "exported"}
        exec(compile(code, "exported.py", "exec"), found)
        return found

    one, all_at_once = fresh(), fresh()  # which reads its weights when it is first asked
    expected = one["sample"](3), one["score"]("abc"), one["complete"]("a", 2)

    def work(_: int) -> object:
        ask = all_at_once
        return ask["sample"](3), ask["score"]("abc"), ask["complete"]("a", 2)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(4))) == [expected] * 4


def large(dtype: str = "float32") -> tuple[NativeEngine, PackedBatch]:
    """An engine and documents that keep it busy for some tenths of a second."""
    config = Config(n_layer=2, n_embd=64, block_size=64, vocab_size=27)
    engine = NativeEngine(config, num_params(config), dtype, 2)
    engine.load(initial_state(init(config, random.Random(1))))
    rng = random.Random(2)
    return engine, pack_sequences([rng.randrange(27) for _ in range(64)] for _ in range(1500))


@needs_native
def test_a_call_that_is_stopped_stops_no_other() -> None:
    engine, docs = large()
    few = docs.select(range(50))
    expected = engine.logprobs(few), engine.logprobs(docs)
    rates = array("d", [0.0])
    plan = StepPlan(docs, len(docs), array("q", range(len(docs))), rates)
    with ThreadPoolExecutor(3) as pool:
        reading = [pool.submit(engine.logprobs, batch) for batch in (few, docs, few) * 2]
        while not all(each.done() for each in reading):
            assert len(train(engine, plan, lambda: True)) <= 1
        assert [each.result() for each in reading] == [expected[i] for i in (0, 1, 0)] * 2


@needs_native
def test_should_stop_cannot_use_the_engine_and_waits_for_nobody() -> None:
    engine, docs = large()
    plan = StepPlan(docs, len(docs), array("q", range(len(docs))), array("d", [0.0]))
    few = docs.select(range(5))
    expected = engine.logprobs(few)
    with pytest.raises(RuntimeError, match="the engine is busy"):
        train(engine, plan, lambda: bool(engine.logprobs(few)))
    assert engine.logprobs(few) == expected


class HeardError(Exception):
    """What a signal's handler could raise."""


@needs_native
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers")
def test_a_signal_is_heard_while_another_thread_computes() -> None:
    engine, docs = large()
    expected = engine.logprobs(docs)

    def ring(_signum: int, frame: FrameType | None) -> None:
        while frame:  # only in a call of the engine
            if frame.f_code.co_name == "_run":
                raise HeardError
            frame = frame.f_back

    def compute() -> None:
        while True:
            engine.logprobs(docs)

    before = signal.signal(signal.SIGALRM, ring)
    found: list[array[float]] = []
    other = threading.Thread(target=lambda: found.extend(engine.logprobs(docs) for _ in range(3)))
    try:
        other.start()
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.01)
        with pytest.raises(HeardError):
            compute()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    other.join()
    assert found == [expected] * 3
    while engine.working:  # where a second signal came before the first was dealt with
        time.sleep(0.01)
    assert engine.logprobs(docs) == expected


def in_a_child(check: Callable[[], bool]) -> bool:
    """What it returns in a fork of this process, which may take a minute."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        finally:
            os._exit(2)
    for _ in range(6000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status == 0
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


@needs_native
@needs_fork
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_goes_on_by_itself() -> None:
    """Its parent's threads are not in it: neither those of the engine nor one amid a call."""
    engine, docs = large()
    some = docs.select(range(100))
    expected = engine.logprobs(some)  # by two threads, which wait from now on
    assert in_a_child(lambda: engine.logprobs(some) == expected)
    busy = threading.Thread(target=engine.logprobs, args=(docs,))
    busy.start()
    while not engine.working:
        time.sleep(0.001)

    def check() -> bool:
        import gc

        right = engine.logprobs(some) == expected
        copy.deepcopy(engine)  # is destroyed
        gc.collect()
        return right

    assert in_a_child(check)
    busy.join()
    assert engine.logprobs(some) == expected


# ---- copies


def test_copies_of_a_model(model: Model) -> None:
    batch = model.tokenizer.encode_documents(names(5))
    expected = model.sample(3, seed=1), model.engine.logprobs(batch), model.engine.state()
    for same in (copy.copy(model.engine), copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        engine: Engine = same.engine if isinstance(same, Model) else same
        assert engine is not model.engine
        assert (engine.logprobs(batch), engine.state()) == expected[1:]
        if isinstance(same, Model):
            assert same.sample(3, seed=1) == expected[0]
            assert list(same.docs) == list(model.docs)
            assert same != model
        engine.backward(batch, [1.0] * batch.num_targets)
        engine.step(0.1)
        del engine, same
    assert model.engine.state() == expected[2]
    assert {model: 1}[model] == 1


@needs_native
def test_copies_of_a_model_of_byte_pairs() -> None:
    model = kamon.train(
        names(), tokenizer="bpe", vocab_size=262, n_embd=4, n_head=2, num_steps=2, hold_out=False
    )
    expected = model.sample(5), [each.logprob for each in score(model, names(5))]
    same = pickle.loads(pickle.dumps(model))
    assert (same.sample(5), [each.logprob for each in score(same, names(5))]) == expected
    many_at_once([lambda: [each.logprob for each in score(same, names(50))]], 2)


@needs_native
def test_a_model_in_a_spawned_process() -> None:
    model = small_model("native", None, 2)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as pool:
        assert pool.submit(model.sample, 3).result() == model.sample(3)


@pytest.mark.parametrize("learn", [count_ngram, train_ngram])
def test_copies_of_an_n_gram(learn: Any) -> None:
    docs = pack_sequences([[2, 0, 1, 2], [2, 0, 2]])
    ngram = learn(docs, 3, 2)
    for same in (copy.copy(ngram), copy.deepcopy(ngram), pickle.loads(pickle.dumps(ngram))):
        assert same.logprobs(docs) == ngram.logprobs(docs)
        assert same != ngram
        assert hash(ngram) == hash(ngram)


@needs_native
def test_a_decoder_is_not_copied() -> None:
    decoder = small_model("native", None, 2).engine.decoder()
    for how in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="a decoder cannot be copied"):
            how(decoder)


def test_large_lists_can_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in a file, which no other process has."""
    from kamon.data.documents import Documents
    from kamon.files import spill

    monkeypatch.setattr(spill, "MAX_IN_MEMORY", 10)
    docs = Documents.of(names(40))
    tokens = PackedBatch(spill.numbers("i", range(20)), spill.numbers("q", [0, 7, 20]))
    assert not isinstance(tokens.tokens, array)
    some = docs[3:20]
    for same in (copy.deepcopy(docs), pickle.loads(pickle.dumps(docs))):
        assert same == docs
    assert pickle.loads(pickle.dumps(some)) == some
    found = pickle.loads(pickle.dumps(tokens))
    assert list(map(list, found)) == list(map(list, tokens))


# ---- what does not fit

GOOD = pack_sequences([[0, 1, 2], [2, 1]])
BAD: dict[str, PackedBatch] = {
    "descending": PackedBatch(array("i", [0, 1, 2, 0]), array("q", [0, 3, 1, 4])),
    "negative": PackedBatch(array("i", [0, 1]), array("q", [0, -1, 2])),
    "beyond": PackedBatch(array("i", [0, 1]), array("q", [0, 5])),
    "far beyond": PackedBatch(array("i", [0, 1]), array("q", [0, 2**40, 2**40 + 2])),
    "wide tokens": PackedBatch(array("q", [0, 1]), array("q", [0, 2])),
    "unsigned tokens": PackedBatch(array("I", [0, 1]), array("q", [0, 2])),
    "narrow offsets": PackedBatch(array("i", [0, 1]), array("i", [0, 2])),
    "lists": PackedBatch([0, 1], [0, 2]),  # type: ignore[arg-type]
    "tokens before": PackedBatch(array("i", [0, 1]), array("q", [1, 2])),
    "tokens after": PackedBatch(array("i", [0, 1, 2]), array("q", [0, 2])),
    "no offsets": PackedBatch(array("i", [0, 1]), array("q")),
}


@pytest.fixture(scope="module")
def engine(kind: tuple[str, str | None, int | None]) -> Engine:
    name, dtype, threads = kind
    config = Config(n_embd=4, n_head=2, block_size=4, vocab_size=5)
    made = make_engine(name, config, dtype=dtype, threads=threads)
    made.load(initial_state(init(config, random.Random(1))))
    return made


@pytest.mark.parametrize("what", BAD)
def test_every_engine_refuses_the_same_batches(engine: Engine, what: str) -> None:
    batch, before = BAD[what], engine.state()
    with pytest.raises(ValueError):  # noqa: PT011 - what it says may differ
        engine.logprobs(batch)
    with pytest.raises(ValueError):  # noqa: PT011
        document_logprobs(engine, batch)
    with pytest.raises(ValueError):  # noqa: PT011
        engine.backward(batch, [1.0] * batch.num_targets)
    if not what.startswith("tokens "):  # which are of no document that is named
        with pytest.raises(ValueError):  # noqa: PT011
            train(engine, StepPlan(batch, 2, array("q", [0, 1]), array("d", [0.1])))
    assert engine.state() == before
    assert set(engine.gradients()) == {0.0}


def test_every_engine_refuses_the_same_numbers(engine: Engine) -> None:
    before = engine.state()
    ones = array("q", [0, 1])
    for index in (-1, 2, 2**40):
        with pytest.raises(ValueError, match="an index is not"):
            train(engine, StepPlan(GOOD, 2, array("q", [0, index]), array("d", [0.1])))
    for plan in (
        lambda: StepPlan(GOOD, 2, array("i", [0, 1]), array("d", [0.1])),
        lambda: StepPlan(GOOD, 2, ones, array("f", [0.1])),
        lambda: StepPlan(GOOD, 2, ones, array("d", [0.1] * 2)),
        lambda: StepPlan(GOOD, 0, array("q"), array("d", [0.1])),
        lambda: StepPlan(GOOD, -1, array("q"), array("d")),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            train(engine, plan())
    weights = [1.0] * GOOD.num_targets
    for draws in ([], [1], [1, 2, 3]):
        with pytest.raises(ValueError, match=f"{len(draws)} draws for 2 documents"):
            engine.backward(GOOD, weights, draws)
    with pytest.raises(ValueError, match="weights for 3 targets"):
        engine.backward(GOOD, weights[1:])
    for name, kept in (("params", "f"), ("m", "f"), ("v", "q")):
        state: Any = engine.state()
        with pytest.raises(ValueError, match="array"):
            engine.load({**state, name: array(kept, map(int, state[name]))})
    for step in (-1, 2**63):
        with pytest.raises(ValueError, match="steps"):
            engine.load({**engine.state(), "step": step})  # type: ignore[typeddict-item]
    for token in (-1, 5, 2**31, 2**32, -(2**40)):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            engine.decoder().push(token)
        with pytest.raises(ValueError, match="outside the vocabulary"):
            sample(engine, SampleRequest(3, 1.0, 1, token))
    for n, temperature, first in (
        (-1, 1.0, 0), (1, -1.0, 0), (1, float("nan"), 0), (1, float("inf"), 0), (1, 1.0, -1),
        (1, 1.0, 2**63),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"samples|temperature"):
            sample(engine, SampleRequest(n, temperature, 1, 4, first))
        if hasattr(engine, "sample"):
            with pytest.raises(ValueError, match=r"samples|temperature"):
                engine.sample(n, temperature, 1, 4, first)
    assert engine.state() == before


@pytest.mark.parametrize("learn", [count_ngram, train_ngram])
@pytest.mark.parametrize("what", BAD)
def test_every_n_gram_refuses_the_same_batches(learn: Any, what: str) -> None:
    ngram = learn(GOOD, 3, 2)
    with pytest.raises(ValueError):  # noqa: PT011
        ngram.logprobs(BAD[what])
    with pytest.raises(ValueError):  # noqa: PT011
        learn(BAD[what], 3, 2)


@needs_native
def test_an_n_gram_has_no_higher_order_than_its_own() -> None:
    from dataclasses import replace

    ngram = count_ngram(GOOD, 3, 2)
    for order in (0, 3, 2**31 - 1):
        broken = replace(ngram, order=order)
        with pytest.raises(ValueError, match="index"):
            broken.probabilities([])
        if order:
            with pytest.raises(ValueError, match="index"):
                broken.logprobs(GOOD)
    for vocab_size in (0, -1, 2**31, 2**32 + 3):
        with pytest.raises(kamon.ConfigError, match="vocab_size"):
            count_ngram(GOOD, vocab_size, 2)


@needs_native
def test_engines_that_cannot_be() -> None:
    config = Config(n_embd=4, n_head=2, block_size=4, vocab_size=5)
    size = num_params(config)
    for num, threads in ((size - 1, 1), (2**64 + size, 1), (size, -1), (size, 2**32 + 1)):
        with pytest.raises(ValueError, match="a model of these sizes is not possible"):
            NativeEngine(config, num, "float32", threads)
    wide = Config(n_embd=2**20, n_head=1, block_size=2**20, vocab_size=5)
    with pytest.raises(MemoryError):
        NativeEngine(wide, num_params(wide))
    engine = NativeEngine(config, size)
    for n in (2**50, 2**62):
        with pytest.raises(MemoryError):
            engine.sample(n, 1.0, 1, 4)


@needs_native
def test_places_outside_a_text_are_refused() -> None:
    from kamon.data.documents import Documents

    text = bytearray(b"ab\0" * 300)
    far = Documents(text, array("I", [0] * 299 + [len(text)]))
    endless = Documents(bytearray(b"ab\0" * 300 + b"c"))
    for docs in (far, endless):
        with pytest.raises(ValueError, match="offsets"):
            docs.first_occurrences()
    with pytest.raises(ValueError, match="offsets"):
        list(far)
    with pytest.raises(ValueError, match="offsets"):
        endless.starts  # noqa: B018
    with pytest.raises(ValueError, match="starts must be"):
        Documents(text, array("H", [0] * 300))


@needs_native
def test_an_array_keeps_its_size_while_it_is_read() -> None:
    engine, docs = large()
    busy = threading.Thread(target=engine.logprobs, args=(docs,))
    busy.start()
    while not engine.working:
        time.sleep(0.001)
    refused = False
    while engine.working and not refused:
        try:
            docs.tokens.append(0)  # type: ignore[union-attr]
        except BufferError:
            refused = True
    busy.join()
    assert refused


# ---- too little memory


@needs_native
def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, docs = large()
    few = docs.select(range(5))
    expected = engine.logprobs(few)

    def fail(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(native, "start_new_thread", fail)
        with pytest.raises(MemoryError):
            engine.logprobs(docs)
    assert engine.logprobs(few) == expected


OUT_OF_MEMORY = """
import random, resource
from kamon.config import Config
from kamon.engines.base import initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init

def limit(more):
    size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))

config = Config(n_embd=8, n_head=2, block_size=%(block_size)d, vocab_size=9)
rng = random.Random(1)
few = pack_sequences([[1, 2, 3]])
many = pack_sequences([rng.randrange(9) for _ in range(%(length)d)] for _ in range(%(docs)d))
state = initial_state(init(config, rng))
engine = make_engine("native", config, threads=%(threads)d)
engine.load(state)
expected = engine.logprobs(few)
limit(%(more)d)
for _ in range(2):
    try:
        engine.backward(many, [1.0] * many.num_targets)
    except MemoryError:
        print("refused")
    assert engine.logprobs(few) == expected
    assert set(engine.gradients()) == {0.0}
limit(1 << 33)
engine.logprobs(many.select(range(2)))
print("done")
"""


@needs_native
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no limit of memory")
@pytest.mark.parametrize(
    "settings",
    [
        {
            "threads": 64,
            "docs": 200,
            "block_size": 8,
            "length": 8,
            "more": 100 << 20,
        },  # of their stacks
        {
            "threads": 2,
            "docs": 2,
            "block_size": 6000,
            "length": 6000,
            "more": 60 << 20,
        },  # of attention
    ],
    ids=["threads", "tasks"],
)
def test_too_little_memory_is_a_memory_error(settings: dict[str, int]) -> None:
    command = [sys.executable, "-c", OUT_OF_MEMORY % settings]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["refused", "refused", "done"], done.stderr
    assert done.returncode == 0
