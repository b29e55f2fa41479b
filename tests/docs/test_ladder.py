"""The seven programs of docs/ladder: their gradients, their kinship, and what their page says."""

from __future__ import annotations

import importlib.util
import random
import re
import sys
from array import array
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "dev"))

import make_ladder
from conftest import times
from kamon.config import Config
from kamon.data.builtin import names
from kamon.engines.base import Engine, StepPlan
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.native import library

PAGE = make_ladder.PAGE.read_text(encoding="utf-8")
SHOWN = make_ladder.outputs_shown(PAGE)
DOCS = ["a", "jo", "anna", "otto", "christopherjohn"]  # letters twice, one, as many as fit
QUICK = ["step1_counts"]
LONG = [
    "step3_autograd",
    "step4_attention",
    "step5_gpt",
    "step6_adam",
]  # what step 6 prints, step 7 does, too: below
HALF_A_MINUTE = pytest.mark.skipif(not times(0, 1), reason="takes long: `make torture` runs it")
BY_AUTOGRAD = ["step3_autograd", "step4_attention", "step5_gpt", "step6_adam"]


def program(name: str) -> Any:
    """A fresh copy of it, whose settings a test may change."""
    path = make_ladder.PAGE.with_suffix("") / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = ModuleType(name)
    spec.loader.exec_module(module)
    return module


def gradients(step: Any, params: Any, doc: str) -> tuple[float, dict[str, list[list[float]]]]:
    """The loss of a document and its gradients, whichever way the program finds them."""
    if hasattr(step, "gradient"):
        loss, grads = step.gradient(params, doc)
        return loss, {key: [list(row) for row in grad] for key, grad in grads.items()}
    for p in flat(params):
        p.grad = 0.0
    loss = step.document_loss(params, doc)
    step.backward(loss)
    return loss.data, {key: [[p.grad for p in row] for row in w] for key, w in params.items()}


def flat(matrices: dict[str, Any]) -> list[Any]:
    return [number for matrix in matrices.values() for row in matrix for number in row]


def initial(step: Any, factor: float = 1.0) -> Any:
    """Its first parameters times `factor`: larger ones, so that attention is far from even."""
    params = step.initial(random.Random(3))
    for w in params.values():
        for row in w:
            for j in range(len(row)):
                if hasattr(row[j], "data") and hasattr(row[j], "grad"):
                    row[j].data *= factor
                else:
                    row[j] *= factor
    return params


def assert_same(one: dict[str, Any], other: dict[str, Any], bound: float) -> None:
    """Tensor by tensor, in proportion to the largest value of each."""
    assert one.keys() == other.keys()
    for key in one:
        a, b = flat({key: one[key]}), flat({key: other[key]})
        assert len(a) == len(b)
        assert a == pytest.approx(b, rel=0, abs=bound * max(map(abs, a))), key


def engine_with(name: str, step: Any, params: Any) -> Engine:
    """One of Kamon's engines, with the program's settings and these parameters."""
    config = Config(
        vocab_size=step.VOCAB_SIZE,
        block_size=step.BLOCK_SIZE,
        n_embd=step.N_EMBD,
        n_head=step.N_HEAD,
        n_layer=step.N_LAYER,
        beta1=step.BETA1,
        beta2=step.BETA2,
    )
    engine = make_engine(name, config, dtype="float64")
    engine.load(engine.state() | {"params": array("d", flat(params))})
    return engine


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_AUTOGRAD)
def test_autograd_finds_central_differences(name: str) -> None:
    step = program(name)
    params = initial(step, 3.0)
    _, grads = gradients(step, params, "otto")
    h = 1e-5
    for key, w in params.items():
        largest = max(map(abs, flat({key: grads[key]})))
        assert largest > 1e-4, key
        for i, row in enumerate(w[:6]):
            p = row[i % len(row)]
            original = p.data
            p.data = original + h
            above = step.document_loss(params, "otto").data
            p.data = original - h
            slope = (above - step.document_loss(params, "otto").data) / (2 * h)
            p.data = original
            assert grads[key][i][i % len(row)] == pytest.approx(slope, abs=1e-6 * largest), key


@pytest.mark.parametrize("doc", DOCS)
def test_the_gradient_by_hand_is_that_of_autograd(doc: str) -> None:
    by_hand, by_autograd = program("step2_mlp"), program("step3_autograd")
    loss, grads = gradients(by_hand, initial(by_hand, 3.0), doc)
    expected, expected_grads = gradients(by_autograd, initial(by_autograd, 3.0), doc)
    assert loss == pytest.approx(expected, rel=1e-12)
    assert_same(expected_grads, grads, 1e-12)


@pytest.mark.parametrize("n_layer", [1, 3])
@pytest.mark.parametrize("doc", DOCS)
def test_gradients_on_matrices_are_those_of_autograd(
    doc: str, n_layer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = program("step6_adam"), program("step7_numpy")
    for step in steps:
        monkeypatch.setattr(step, "N_LAYER", n_layer)
    (loss, grads), (loss7, grads7) = (gradients(s, initial(s, 5.0), doc) for s in steps)
    assert loss7 == pytest.approx(loss, rel=1e-12)
    assert_same(grads, grads7, 1e-10)


@pytest.mark.parametrize("engine_name", ["scalar", "native"])
@pytest.mark.parametrize("doc", DOCS)
def test_the_last_step_computes_what_the_engines_compute(doc: str, engine_name: str) -> None:
    if engine_name == "native" and library.why_not():
        pytest.skip(library.why_not())
    step = program("step7_numpy")
    params = initial(step, 5.0)
    tokens = step.encode(doc)
    loss, grads = step.gradient(params, doc)
    engine = engine_with(engine_name, step, params)
    num_targets = len(tokens) - 1
    logprobs = engine.backward(pack_sequences([tokens]), [1 / num_targets] * num_targets)
    assert loss == pytest.approx(-sum(logprobs) / num_targets, rel=1e-12)
    numbers = iter(engine.gradients())
    expected = {key: [[next(numbers) for _ in row] for row in w] for key, w in params.items()}
    assert_same(expected, grads, 1e-10)


def test_steps_of_adam_are_the_same_on_matrices() -> None:
    docs = random.Random(5).sample(names(), 40)
    (losses, params), (losses7, params7) = (
        (step.train(params, docs), params)
        for step in (program("step6_adam"), program("step7_numpy"))
        for params in [initial(step)]
    )
    assert losses7 == pytest.approx(losses, rel=0, abs=1e-9)
    assert sum(losses[-10:]) < sum(losses[:10]) - 1
    assert flat(params7) == pytest.approx([p.data for p in flat(params)], rel=0, abs=1e-9)


def test_the_native_engine_takes_the_same_steps() -> None:
    if library.why_not():
        pytest.skip(library.why_not())
    step = program("step7_numpy")
    params = initial(step)
    engine = engine_with("native", step, params)
    docs = random.Random(7).sample(names(), 500)
    rates = array("d", [step.LEARNING_RATE * (1 - i / len(docs)) for i in range(len(docs))])
    plan = StepPlan(pack_sequences(map(step.encode, docs)), 1, array("q", range(len(docs))), rates)
    assert list(engine.train(plan)) == pytest.approx(step.train(params, docs), rel=0, abs=1e-9)


def test_as_many_steps_on_matrices_print_what_step_6_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step = program("step7_numpy")
    monkeypatch.setattr(step, "NUM_STEPS", 1000)
    step.main()
    assert capsys.readouterr().out == SHOWN["step6_adam.py"]


def test_the_page_has_the_code_and_sizes_of_the_programs() -> None:
    shown = re.findall(r"^<!-- code (\S+) \S+ -->\n```py$", PAGE, re.MULTILINE)
    steps = [path.name for path in make_ladder.PROGRAMS]
    assert shown == steps
    assert list(SHOWN) == steps
    assert make_ladder.filled(PAGE, SHOWN) == PAGE, "run dev/make_ladder.py"


def test_the_loss_falls_from_step_to_step() -> None:
    """Only autograd changes nothing."""
    losses = [float(re.findall(r"validation loss (\S+)", shown)[0]) for shown in SHOWN.values()]
    assert losses == sorted(losses, reverse=True)
    assert SHOWN["step2_mlp.py"] == SHOWN["step3_autograd.py"]
    assert len(set(losses)) == 6


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(
            path,
            marks=[
                *([pytest.mark.slow] if path.stem not in QUICK else []),
                *([HALF_A_MINUTE, pytest.mark.torture] if path.stem in LONG else []),
            ],
        )
        for path in make_ladder.PROGRAMS
    ],
    ids=lambda path: path.stem,
)
def test_a_program_prints_what_the_page_shows(path: Path) -> None:
    assert make_ladder.output(path) == SHOWN[path.name]
