"""Measure how fast this machine does Kamon's work.

Each time is the shortest of several runs, because other programs can only slow a run down. Compare
times only as ratios.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kamon.config import Config
from kamon.data.builtin import names
from kamon.engines.base import Engine, StepPlan, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import best_engine, make_engine
from kamon.engines.loops import train
from kamon.engines.parameters import init, num_params
from kamon.generation.sampling import SampleRequest, sample
from kamon.native import library
from kamon.tokenizers.char import CharTokenizer

SHAPES = (  # of batched training: n_layer, n_embd, block_size, batch_size
    (1, 16, 16, 32),
    (1, 64, 16, 32),
    (1, 128, 16, 32),
    (4, 128, 64, 12),
    (4, 64, 16, 32),
    (4, 64, 16, 64),
)
NUM_SAMPLES = 20_000
Row = dict[str, Any]


def measure(seconds: float = 0.5) -> Iterator[Row]:
    """Yield rows with "what", "value", "unit" and more. Each takes about `seconds`."""
    docs = names_batch()
    # The scalar engine needs only a few documents. The ratio compares times on the same ones.
    few = docs.select(range(20))
    scalar = best(training(ready("scalar", Config()), few, 1, 20), 0) / 20
    yield row("the original's job, scalar float64", scalar * 1e6, "µs per step")
    if best_engine() == "native":
        for dtype in library.DTYPES:
            engine = ready("native", Config(), dtype)
            per_step = best(training(engine, docs, 1, 1000), seconds) / 1000
            same = best(training(engine, few, 1, 1000), seconds) / 1000
            what = f"the original's job, native {dtype}"
            yield row(what, per_step * 1e6, "µs per step", ratio=scalar / same)
        yield from measure_native(docs, seconds)
    yield from measure_processes()


def measure_native(docs: PackedBatch, seconds: float) -> Iterator[Row]:
    cores = library.usable_cores()
    for n_layer, n_embd, block_size, batch_size in SHAPES:
        config = Config(n_layer=n_layer, n_embd=n_embd, block_size=block_size)
        batch = docs if block_size == 16 else text_batch(block_size)
        count = max(1, int(4e8 / (num_params(config) * batch_size * block_size)))
        alone = 0.0
        for threads in (1, 2) if cores > 1 else (1,):
            engine = ready("native", config, "float32", threads)
            peak = peak_gflops(engine, 0.1)
            took = best(training(engine, batch, batch_size, count), seconds) / count
            alone = alone or took
            lengths = [len(batch.document(i % len(batch))) - 1 for i in range(batch_size * count)]
            tokens = sum(lengths) / len(lengths) * batch_size
            flops = 6 * tokens * (num_params(config) - (27 + block_size) * n_embd)
            yield row(
                f"training, {n_layer} x {n_embd}, block {block_size}, batch {batch_size}, "
                f"{threads} thread{'s' * (threads > 1)}",
                took * 1e6,
                "µs per step",
                gflops=flops / took / 1e9,
                share_of_peak=flops / took / 1e9 / peak / threads,
                **({"speedup": alone / took} if threads > 1 else {}),
            )
    engine = ready("native", Config(), "float32", 1)
    training(engine, docs, 1, 1000)()  # like the original: an untrained model writes longer names
    request = SampleRequest(NUM_SAMPLES, 0.5, 1, 26)
    took = best(partial(sample, engine, request), seconds)
    yield row("sampling in bulk, one thread", NUM_SAMPLES / took, "names per second")
    many = docs.select(range(20_000))
    took = best(partial(engine.logprobs, many), seconds)
    yield row("scoring in bulk, one thread", 20_000 / took, "names per second")
    yield row("peak of one core, float32 multiply-adds", peak_gflops(engine, seconds), "GFLOP/s")


def measure_processes() -> Iterator[Row]:
    """Yield rows for whole processes: Kamon's commands, and others to compare them with."""
    with TemporaryDirectory() as folder:
        list_of_names = Path(folder, "names.txt")
        list_of_names.write_text("\n".join(names()) + "\n")
        kamon = ["-m", "kamon"]
        commands = {
            "a bare interpreter": ["-c", "pass"],
            "import click": ["-c", "import click"],
            "kamon --help": [*kamon, "--help"],
        }
        if best_engine() == "native":
            reproduce = [*kamon, "reproduce", "--dtype=float32", "--input", str(list_of_names)]
            commands["kamon reproduce, float32, names from a file"] = reproduce
        took = best_processes(list(commands.values()))
    bare, click = took[:2]
    for name, elapsed in zip(commands, took, strict=True):
        if elapsed:
            more = {"ratio_to_click": elapsed / click} if click and name.startswith("kamon") else {}
            yield row(name, elapsed * 1e3, "ms", ratio_to_bare=elapsed / bare, **more)


def row(what: str, value: float, unit: str, **more: float) -> Row:
    return {"what": what, "value": value, "unit": unit, **more}


def names_batch() -> PackedBatch:
    docs = names()
    random.Random(42).shuffle(docs)
    tokenizer = CharTokenizer.train(docs)
    return pack_sequences(tokenizer.encode_document(doc) for doc in docs)


def ready(name: str, config: Config, dtype: str | None = None, threads: int | None = 1) -> Engine:
    engine = make_engine(name, config, dtype=dtype, threads=None if name == "scalar" else threads)
    engine.load(initial_state(init(config, random.Random(config.seed))))
    return engine


def training(
    engine: Engine, docs: PackedBatch, batch_size: int, num_steps: int
) -> Callable[[], object]:
    """Return a function that makes `num_steps` steps. The preparation is done before."""
    indices = array("q", [i % len(docs) for i in range(batch_size * num_steps)])
    plan = StepPlan(docs, batch_size, indices, array("d", [1e-3]) * num_steps)
    return partial(train, engine, plan)


def text_batch(block_size: int) -> PackedBatch:
    """Return documents that fill the block, like the windows of a text."""
    rng = random.Random(1)
    return pack_sequences([rng.randrange(26) for _ in range(block_size + 1)] for _ in range(64))


def peak_gflops(engine: Engine, seconds: float) -> float:
    peak: float = engine.call["peak"](seconds)  # type: ignore[attr-defined]
    return peak


def best(work: Callable[[], Any], seconds: float) -> float:
    """Return the time of the fastest run of `work` in `seconds`: of 3 or more, or of 1 if 0."""
    took: list[float] = []
    begin = time.perf_counter()
    while len(took) < (3 if seconds else 1) or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took)


def best_processes(commands: list[list[str]]) -> list[float]:
    """Return the seconds that processes of this interpreter take, 0 if a module is missing."""
    # Python keeps compiled modules, like those of an installed package.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    took: list[list[float]] = [[] for _ in commands]
    for _ in range(15):
        for arguments, times in zip(commands, took, strict=True):
            start = time.perf_counter()
            command = [sys.executable, *arguments]
            done = subprocess.run(command, capture_output=True, env=environment)
            times.append(0 if done.returncode else time.perf_counter() - start)
    return [min(times) for times in took]
