"""The torch engine computes what the scalar engine computes: tensor by tensor, on any shape.

Bounds: float64 within 1e-10 of a tensor's largest value, float32 within 1e-4.
"""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from array import array
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import TINY_FLAGS, Result, assert_decoder_refuses
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
from kamon.data import corpus
from kamon.data.documents import Documents
from kamon.engines import dropout, factory, memory, philox
from kamon.engines.base import Engine, StepPlan, has_fused_ops, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import EngineSpec, make_engine
from kamon.engines.loops import train, train_step_by_step
from kamon.engines.memory import training_bytes
from kamon.engines.parameters import init, parameter_shapes
from kamon.errors import ConfigError
from kamon.finetuning import loop
from kamon.generation.sampling import SampleRequest, sample, sample_document, sample_one_by_one
from kamon.training.data import as_given
from kamon.training.loop import make_plan, pretrain
from kamon.training.setup import build_setup

pytestmark = pytest.mark.extra

torch = pytest.importorskip("torch")

from kamon.engines import torch as torch_engine  # noqa: E402
from kamon.engines.torch import TorchEngine  # noqa: E402

torch.set_num_threads(1)  # small shapes: more only wait for each other
BOUNDS = {"float64": 1e-10, "float32": 1e-4}


def make_torch(config: Config, dtype: str = "float64", **options: Any) -> TorchEngine:
    engine = make_engine("torch", config, dtype=dtype, **options)
    assert isinstance(engine, TorchEngine)
    return engine


def ready(dtype: str = "float64") -> TorchEngine:
    engine = make_torch(Config(n_embd=4, n_head=2, block_size=4, vocab_size=5), dtype)
    engine.load(initial_state(init(engine.config, random.Random(1))))
    return engine


def both_dtypes(config: Config) -> list[tuple[TorchEngine, float]]:
    return [(make_torch(config, dtype), bound) for dtype, bound in BOUNDS.items()]


@settings(max_examples=3, deadline=None)
@given(config=configs())
def test_logprobs_gradients_and_steps(config: Config) -> None:
    check_against_scalar(config, both_dtypes(config))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(config=configs())
def test_logprobs_gradients_and_steps_on_more_shapes(config: Config) -> None:
    check_against_scalar(config, both_dtypes(config))


@pytest.mark.parametrize("dtype", BOUNDS)
@settings(max_examples=8, deadline=None)
@given(config=configs())
def test_decoding_is_the_whole_pass(dtype: str, config: Config) -> None:
    rng = random.Random(config.seed)
    engine = make_torch(config, dtype)
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
    assert found == pytest.approx(decoded, abs=BOUNDS[dtype], rel=BOUNDS[dtype])


@pytest.mark.parametrize("dtype", BOUNDS)
def test_a_state_survives(dtype: str) -> None:
    config = Config(n_layer=2, n_embd=12, n_head=3, vocab_size=9)
    state = random_state(config, random.Random(3))
    engine = make_torch(config, dtype)
    engine.load(state)
    found = engine.state()
    assert found == (state if dtype == "float64" else rounded(state))
    batch = pack_sequences([[0, 1, 2]])
    engine.backward(batch, [1.0, 1.0])
    engine.load(found)
    assert engine.state() == found
    assert set(engine.gradients()) == {0.0}


@pytest.mark.parametrize("dtype", BOUNDS)
@settings(max_examples=8, deadline=None)
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
    fused, plain = make_torch(config, dtype), make_torch(config, dtype)
    for engine in (fused, plain):
        engine.load(initial_state(init(config, random.Random(1))))
    found, expected = train(fused, plan), train_step_by_step(plain, plan)
    assert found == pytest.approx(expected, abs=1e-9 if dtype == "float64" else 1e-2)
    assert fused.state()["step"] == 6


def test_fused_training_is_that_of_the_scalar_engine() -> None:
    """Ragged, accumulated, with dropout, weight decay and a gradient that is shortened."""
    config = Config(
        n_layer=2, n_embd=8, n_head=2, block_size=7, vocab_size=11, dropout=0.3, std=0.3,
        weight_decay=0.2, grad_clip=0.5,
    )  # fmt: skip
    rng = random.Random(4)
    docs = pack_sequences([rng.randrange(11) for _ in range(rng.randint(2, 8))] for _ in range(9))
    plan = StepPlan(
        docs, 3, array("q", [rng.randrange(9) for _ in range(30)]), array("d", [0.01] * 5), 7, 2
    )
    engines = make_torch(config), make_engine("scalar", config)
    for engine in engines:
        engine.load(initial_state(init(config, random.Random(1))))
    found, expected = (train(engine, plan) for engine in engines)
    assert found == pytest.approx(expected, abs=1e-10)
    states = [engine.state() for engine in engines]
    assert_close(config, states[0]["params"], states[1]["params"], 1e-10)


@pytest.mark.parametrize("dropout_rate", [0.0, 0.2])
@pytest.mark.parametrize("dtype", [*BOUNDS, "bfloat16"])
def test_training_goes_on_where_it_stopped(dtype: str, dropout_rate: float) -> None:
    """train(20) = train(10), save, load into another engine, train(10): bit for bit."""
    config = Config(
        n_embd=12, n_head=3, block_size=9, vocab_size=13, num_steps=20, batch_size=3,
        dropout=dropout_rate, gradient_accumulation_steps=2,
    )  # fmt: skip
    docs = random_batch(config, random.Random(2), 200)
    docs = docs.select(d for d in range(len(docs)) if len(docs.document(d)) > 1)
    whole, first, second = (make_torch(config, dtype) for _ in range(3))
    start = initial_state(init(config, random.Random(1)))
    whole.load(start)
    losses = train(whole, make_plan(docs, config, 0, 20))
    first.load(start)
    halves = train(first, make_plan(docs, config, 0, 10))
    second.load(first.state())
    halves += train(second, make_plan(docs, config, 10, 20))
    assert halves == losses
    assert second.state() == whole.state()


def test_backward_adds_up_and_zero_weights_give_nothing() -> None:
    config = Config(n_embd=6, n_head=2, block_size=5, vocab_size=9, std=0.4)
    rng = random.Random(4)
    engine = make_torch(config)
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


@pytest.mark.parametrize("lengths", [(5, 9, 3), (9, 9, 9)], ids=["ragged", "of one length"])
def test_no_document_sees_another_nor_what_comes_later(lengths: tuple[int, ...]) -> None:
    """Where the documents around it change, or its own end, the rest stays what it was."""
    config = Config(n_layer=2, n_embd=12, n_head=3, block_size=8, vocab_size=13, std=0.5)
    rng = random.Random(7)
    engine = make_torch(config)
    engine.load(initial_state(init(config, rng)))
    docs = [[rng.randrange(13) for _ in range(length)] for length in lengths]
    before = engine.logprobs(pack_sequences(docs))
    place = lengths[0] - 1
    for others in range(5):
        changed = [[rng.randrange(13) for _ in docs[0]], docs[1][:], [others] * lengths[2]]
        changed[1][-1] = (docs[1][-1] + 1) % 13
        found = engine.logprobs(pack_sequences(changed))
        own = slice(place, place + lengths[1] - 2)
        assert found[own] == before[own]
        assert found[: own.start] != before[: own.start]
        alone = engine.logprobs(pack_sequences([docs[1]]))
        assert list(before[own]) == pytest.approx(list(alone[:-1]), abs=1e-12)


def test_many_documents_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ready()
    rng = random.Random(3)
    batch = pack_sequences([rng.randrange(5) for _ in range(rng.randint(0, 5))] for _ in range(60))
    whole = engine.logprobs(batch)
    monkeypatch.setattr(torch_engine, "MAX_NUMBERS", 17 * (16 * 4 + 4 * 5))
    assert list(engine.logprobs(batch)) == pytest.approx(list(whole), abs=1e-12)
    assert len(whole) == batch.num_targets


# ---- random numbers


@pytest.mark.parametrize(("seed", "n_embd"), [(42, 16), (2**40 + 3, 6), (2**64 - 1, 3), (-5, 5)])
def test_dropout_draws_what_the_specification_draws(seed: int, n_embd: int) -> None:
    draws = [0, 1, 2**32, 2**64 - 1, 0x9E3779B97F4A7C15]
    halves = (
        torch.tensor([draw & 0xFFFFFFFF for draw in draws]),
        torch.tensor([draw >> 32 for draw in draws]),
    )
    positions = torch.tensor([0, 3, 1, 15, 70_000])
    tokens = torch.zeros_like(positions)
    inputs = torch_engine.Inputs(tokens, positions, tokens, (5, 1), None, halves)
    ones = torch.ones(5, n_embd, dtype=torch.float64)
    for rate in (0.1, 0.5):
        config = Config(n_embd=n_embd, n_head=1, dropout=rate, seed=seed)
        for site in range(dropout.num_sites(3)):
            found = torch_engine.drop(ones, inputs, site, config)
            expected = [
                dropout.masks(rate, seed, draw, 3, n_embd)(position)[site]
                for draw, position in zip(draws, positions.tolist(), strict=True)
            ]
            assert found.tolist() == expected


def test_samples_draw_what_the_specification_draws() -> None:
    indices = [0, 1, 999, 2**31, 2**40 + 7]
    for seed in (0, 42, -1, 2**64 - 3):
        for position in (0, 15, 1023):
            found = torch_engine.uniform(seed, torch.tensor(indices), position).tolist()
            assert found == [philox.uniform(seed, index, position) for index in indices]


@pytest.mark.parametrize("temperature", [0.0, 1e-320, 0.5, 1.0])
@settings(max_examples=5, deadline=None)
@given(config=configs())
def test_samples_are_those_of_the_plain_loop_and_of_the_scalar_engine(
    temperature: float, config: Config
) -> None:
    state = initial_state(init(config, random.Random(config.seed)))
    engine, scalar = make_torch(config), make_engine("scalar", config)
    for each in (engine, scalar):
        each.load(state)
    request = SampleRequest(20, temperature, config.seed - 5, config.vocab_size - 1, 3)
    found = sample(engine, request)
    assert found == sample_one_by_one(engine, request)
    fewer = SampleRequest(4, temperature, request.seed, request.bos, 3)
    assert sample(engine, fewer) == sample(scalar, fewer) == found.select(range(4))


def test_many_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ready()
    found = engine.sample(30, 1.0, 1, 4)
    assert len({len(tokens) for tokens in found}) > 2
    monkeypatch.setattr(torch_engine, "MAX_SAMPLES", 7)
    assert engine.sample(30, 1.0, 1, 4) == found


# ---- the original


@pytest.mark.slow
@pytest.mark.skipif(
    bool(original.why_not(original.TRACE, original.NAMES)),
    reason=original.why_not(original.TRACE, original.NAMES),
)
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-9), ("float32", 1e-4)])
def test_the_original_trace(dtype: str, bound: float) -> None:
    """1,000 steps: each loss within the bound, and the same 20 names."""
    trace = json.loads(original.TRACE.read_text())
    run = build_setup(
        as_given(corpus.read(original.NAMES).docs), Config(), EngineSpec("torch", dtype)
    )
    losses = pretrain(run.engine, run.docs, run.config)
    assert max(abs(a - b) for a, b in zip(losses, trace["losses"], strict=True)) <= bound
    bos, rng = run.tokenizer.bos, run.rng
    request = SampleRequest(20, 0.5, 42, bos)
    samples = [sample_document(run.engine, request, lambda _: rng.random()) for _ in range(20)]
    assert [run.tokenizer.decode(tokens) for tokens in samples] == trace["samples"]


# ---- manners


@pytest.mark.parametrize("tokens", [[0, 5], [-1, 2], [0, 1, 2, 3, 4, 0]])
def test_what_does_not_fit_is_refused(tokens: list[int]) -> None:
    engine = ready()
    before = engine.state()
    batch = pack_sequences([[0, 1], tokens])
    with pytest.raises(ValueError, match=r"vocabulary|block_size"):
        engine.logprobs(batch)
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


def test_training_stops_between_steps_where_it_is_told() -> None:
    engine, whole = ready(), ready()
    docs = pack_sequences([[0, 1, 2], [0, 0, 3]])
    calls = iter([False, False, True])
    plan = StepPlan(docs, 1, array("q", [0, 1] * 5), array("d", [0.01] * 10))
    losses = train(engine, plan, lambda: next(calls))
    assert len(losses) == 3
    part = StepPlan(docs, 1, plan.indices[:3], plan.learning_rates[:3])
    assert train(whole, part) == losses
    assert engine.state() == whole.state()


def test_empty_batches_and_documents() -> None:
    engine = ready()
    assert list(engine.logprobs(pack_sequences([]))) == []
    assert list(engine.logprobs(pack_sequences([[1], [2]]))) == []
    assert list(engine.backward(pack_sequences([[1]]), [])) == []
    assert list(engine.sample(0, 1.0, 1, 4)) == []
    batch = pack_sequences([[], [0, 1, 2], [], [], [2, 1], []])
    alone = engine.logprobs(pack_sequences([[0, 1, 2], [2, 1]]))
    assert list(engine.logprobs(batch)) == pytest.approx(list(alone), abs=1e-14)
    with pytest.raises(ValueError, match="2 weights for 3 targets"):
        engine.backward(batch, [1.0, 1.0])


def test_a_decoder_keeps_the_parameters_of_its_moment() -> None:
    engine = ready()
    one, two = engine.decoder(), engine.decoder()
    expected = one.push(4)
    engine.backward(pack_sequences([[4, 0, 1, 4]]), [1.0] * 3)
    engine.step(0.1)
    assert two.push(4) == expected
    assert engine.decoder().push(4) != expected


def test_bfloat16_is_for_products_alone() -> None:
    config = Config(n_layer=2, n_embd=16, n_head=4, block_size=8, vocab_size=13, std=0.3)
    rng = random.Random(5)
    state, batch = rounded(random_state(config, rng)), random_batch(config, rng, 60)
    half, full = make_torch(config, "bfloat16"), make_torch(config, "float32")
    for engine in (half, full):
        engine.load(state)
    assert half.state() == state
    expected = list(full.logprobs(batch))
    assert list(half.logprobs(batch)) == pytest.approx(expected, rel=0.03, abs=0.03)
    assert list(half.logprobs(batch)) != expected
    for engine in (half, full):
        engine.backward(batch, [1.0] * batch.num_targets)
    assert_close(config, half.gradients(), full.gradients(), 0.1)
    assert half.grads.dtype == half.params.dtype == torch.float32
    half.step(1e-6)  # less than bfloat16 can tell from nothing
    moved = [a != b for a, b in zip(half.state()["params"], state["params"], strict=True)]
    assert sum(moved) > len(moved) / 2
    assert len(half.decoder().push(1)) == 13
    assert len(half.sample(3, 1.0, 1, 12)) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of torch's own making
def test_compiled() -> None:
    """With dropout, which compiles all that there is without it, too."""
    config = Config(
        n_layer=2, n_embd=12, n_head=3, block_size=9, vocab_size=13, batch_size=3, num_steps=12,
        dropout=0.2,
    )  # fmt: skip
    docs = random_batch(config, random.Random(2), 200)
    docs = docs.select(d for d in range(len(docs)) if len(docs.document(d)) > 1)
    plain, compiled = make_torch(config), make_torch(config, compile=True)
    for engine in (plain, compiled):
        engine.load(initial_state(init(config, random.Random(1))))
    plan = make_plan(docs, config, 0, 12)
    assert train(compiled, plan) == pytest.approx(train(plain, plan), abs=1e-10)
    assert list(compiled.logprobs(docs)) == pytest.approx(list(plain.logprobs(docs)), abs=1e-10)


# ---- choices, and the other engines


def test_engine_choices() -> None:
    engine: Engine = make_engine("torch", Config())
    assert engine.dtype == "float32"
    assert has_fused_ops(engine)
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match=r"torch cannot use the device cuda here, only cpu"):
            make_engine("torch", Config(), device="cuda")
        assert make_torch(Config(), device="auto").device == torch.device("cpu")
    for name in ("native", "scalar"):
        for options, said in (
            ({"device": "cuda"}, "device cuda needs the torch engine"),
            ({"compile": True}, "compile needs the torch engine"),
            ({"dtype": "bfloat16"}, "bfloat16 needs the torch engine"),
            ({"device": "tpu"}, "unknown device 'tpu'"),
        ):
            with pytest.raises(ConfigError, match=said):
                make_engine(name, Config(), **options)  # type: ignore[arg-type]


def test_threads_are_the_process_s() -> None:
    before = torch.get_num_threads()
    try:
        make_torch(Config(), threads=1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_torch(
    names: Path, kamon: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "kamon.engines.torch")
    monkeypatch.setitem(sys.modules, "torch", None)
    refused = kamon("train", names, "-o", names.parent / "m", "--engine=torch")
    assert refused.code == 2
    assert 'the torch engine needs torch\nhint: pip install "kamon[torch]"' in refused.err


def test_a_model_directory_is_that_of_every_engine(
    names: Path, tmp_path: Path, kamon: Callable[..., Result]
) -> None:
    """Trained by one engine, it is read by the others; and by torch without Kamon's engine."""
    from safetensors.torch import load_file

    import kamon as library

    for made_by in ("torch", "native"):
        where = tmp_path / made_by
        flags = [*TINY_FLAGS, "--dtype=float64", "--json"]
        assert kamon("train", names, "-o", where, "--engine", made_by, *flags).code == 0
        found = [
            kamon("sample", where, "--json", "--engine", engine, "--dtype", "float64").json
            for engine in ("torch", "native", "scalar")
        ]
        texts = [[each["text"] for each in one["samples"]] for one in found]
        assert texts[0] == texts[1] == texts[2]
        model = library.load(where, engine="torch", dtype="float64")
        (file,) = where.glob("generation-*/model.safetensors")
        shapes = parameter_shapes(model.config)
        gpt = torch_engine.Gpt(model.config, shapes).double()
        assert list(gpt.state_dict()) == list(shapes)
        gpt.load_state_dict(load_file(file))
        assert isinstance(model.engine, TorchEngine)
        for name, parameter in model.engine.gpt.named_parameters():
            assert torch.equal(parameter, gpt.get_parameter(name))
    losses = [
        library.load(tmp_path / made_by, engine="native").metrics.losses.tolist()
        for made_by in ("torch", "native")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)


def test_every_verb_that_loads_a_model(
    names: Path, tmp_path: Path, kamon: Callable[..., Result]
) -> None:
    where = tmp_path / "m"
    assert kamon("train", names, "-o", where, "--engine=torch", *TINY_FLAGS).code == 0
    other = tmp_path / "other.txt"
    other.write_text("nina\nmarina\nsam\n" * 20)
    for argv in (
        ["sample", where, "-n", 3, "--prefix", "an", "--details"],
        ["complete", where, "an"],
        ["fill", where, "an_a"],
        ["score", where, names],
        ["eval", where, other],
    ):
        done = kamon(*argv, "--engine=torch")
        assert done.code == 0, done.err
        assert done.out


@pytest.mark.parametrize("device", [None, "auto", "cuda", "mps", "cpu"])
@pytest.mark.parametrize("gpu", ["cuda", "mps", None])
def test_a_gpu_has_memory_of_its_own(
    gpu: str | None, device: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For training as for fine-tuning; `auto` is the GPU if there is one."""
    monkeypatch.setattr(memory, "available", lambda: 0.0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu == "cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: gpu == "mps")
    config = Config(n_embd=1024, n_layer=8, vocab_size=9)
    large, made = array("d", [0.0]), SimpleNamespace(load=lambda _: None)

    monkeypatch.setattr(factory, "make_engine", lambda *_, **__: made)

    def train_one(engine: str) -> None:
        data = as_given(Documents.of(["abcdefgh"]))
        build_setup(data, config, EngineSpec(engine, threads=1, device=device), large)

    def tune_one(engine: str) -> None:
        loop.engine_maker(config, EngineSpec(engine, threads=1, device=device))(large)

    of_gpu = device in ("cuda", "mps") or (device in (None, "auto") and gpu)
    for begin in (train_one, tune_one):
        with nullcontext() if of_gpu else pytest.raises(ConfigError, match="GB of memory"):
            begin("torch")
        if device not in ("cuda", "mps"):
            with pytest.raises(ConfigError, match="GB of memory"):
                begin("native")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_memory_that_is_said_is_what_is_taken(dtype: str) -> None:
    """Within a factor of two, of the largest that was held at once."""
    code = (
        "import re, kamon\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', status())[1])\n"
        "docs = [a + b + c for a in 'abcdefgh' for b in 'fghij' for c in 'klmno']\n"
        f"how = dict(num_steps=1, engine='torch', dtype={dtype!r}, std=0.01, learning_rate=1e-4)\n"
        "kamon.train(docs, n_embd=4, **how); before = peak()\n"
        "kamon.train(docs, n_embd=256, n_layer=4, batch_size=500, **how)\n"
        "print(peak() - before)"
    )
    argv = [sys.executable, "-c", code]
    taken = float(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)
    config = Config(n_embd=256, n_layer=4, vocab_size=16, batch_size=500)
    said = training_bytes(vars(config), engine="torch", real=4, threads=1, longest=3, held_out=12)
    assert 0.5 < said / taken < 2
