"""Number for number the original microGPT: every loss, every parameter, every name, with ==.

On a system whose exp, log and pow round otherwise than glibc's, the last bits may differ.
"""

from __future__ import annotations

import json
import random
import warnings
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Result
from helpers import original
from kamon.config import Config
from kamon.data import builtin, corpus
from kamon.engines.factory import EngineSpec
from kamon.generation.sampling import SampleRequest, sample_document
from kamon.training.data import as_given
from kamon.training.loop import pretrain
from kamon.training.setup import build_setup

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())


def flags(settings: dict[str, Any]) -> list[str]:
    return [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]


def width(run: dict[str, Any]) -> int:
    return int(run["settings"].get("n_embd", 16))


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run, marks=[pytest.mark.slow] if width(run) > 10 else [])
        for run in GOLDEN["runs"]
    ],
    ids=lambda run: str(run["settings"]),
)
def test_recorded_runs(run: dict[str, Any], tmp_path: Path, kamon: Callable[..., Result]) -> None:
    source = tmp_path / "names.txt"
    source.write_text("\n".join(builtin.names()[: GOLDEN["num_names"]]))
    argv = ["reproduce", "--engine=scalar", "--input", source, *flags(run["settings"])]
    printed = kamon(*argv)
    assert printed.code == 0
    assert printed.out == run["printed"]
    found = kamon(*argv, "--json").json
    assert found["losses"] == [float.fromhex(loss) for loss in run["losses"]]
    names = [line.split(": ", 1)[1] for line in run["printed"].splitlines()[-20:]]
    assert found["samples"] == names
    counts = f"num docs: {found['num_docs']}\nvocab size: {found['vocab_size']}\n"
    assert run["printed"].startswith(f"{counts}num params: {found['num_params']}\n")


@pytest.mark.slow
@pytest.mark.skipif(bool(original.why_not(original.TEXT)), reason=original.why_not(original.TEXT))
@pytest.mark.parametrize("seed", range(4))
def test_live_runs(seed: int, tmp_path: Path, kamon: Callable[..., Result]) -> None:
    """The original itself, on settings and names that are drawn anew for each seed."""
    rng = random.Random(seed)
    n_head = rng.randint(1, 4)
    settings = {
        "n_layer": rng.randint(1, 2),
        "n_head": n_head,
        "n_embd": n_head * rng.randint(1, 4),
        "block_size": rng.randint(1, 9),
        "num_steps": rng.randint(1, 8),
        "seed": rng.randrange(-5, 10**12),
        "std": rng.choice([0.02, 0.08, 0.4]),
        "learning_rate": rng.choice([0.002, 0.01, 0.2]),
        "beta1": rng.choice([0.0, 0.85, 0.9]),
        "beta2": rng.choice([0.5, 0.99, 0.999]),
        "temperature": rng.choice([0.1, 0.5, 1.0, 3.0]),
    }
    names = [" ".join(rng.sample(builtin.names(), rng.randint(1, 2))) for _ in range(9)]
    names += [" \u00a0", "", "José ", "名前", names[0]]
    warnings.simplefilter("ignore", ResourceWarning)  # the program leaves its input open
    code = original.program(original.TEXT.read_text(encoding="utf-8"))
    printed, losses = original.run(code, settings, names, tmp_path)
    argv = ["reproduce", "--engine=scalar", "--input", tmp_path / "input.txt", *flags(settings)]
    assert kamon(*argv).out == printed
    assert kamon(*argv, "--json").json["losses"] == losses


@pytest.mark.slow
@pytest.mark.skipif(
    bool(original.why_not(original.TRACE, original.NAMES)),
    reason=original.why_not(original.TRACE, original.NAMES),
)
def test_the_whole_trace() -> None:
    """1,000 steps on the original names with seed 42: losses, final parameters, the 20 names."""
    trace = json.loads(original.TRACE.read_text())
    run = build_setup(as_given(corpus.read(original.NAMES).docs), Config(), EngineSpec("scalar"))
    assert run.engine.state()["params"] == floats(trace["initial"])
    losses = pretrain(run.engine, run.docs, run.config)
    assert list(losses) == trace["losses"]
    assert run.engine.state()["params"] == floats(trace["final"])
    bos, rng = run.tokenizer.bos, run.rng
    request = SampleRequest(20, 0.5, 42, bos)
    samples = [sample_document(run.engine, request, lambda _: rng.random()) for _ in range(20)]
    assert [run.tokenizer.decode(tokens) for tokens in samples] == trace["samples"]


def floats(hexes: list[str]) -> array[float]:
    return array("d", map(float.fromhex, hexes))
