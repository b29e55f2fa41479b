"""How fast this machine does Kamon's work: every figure is measured here, in one run.

Times are the best of several runs: other programs only ever make one slower. Read them as ratios.
"""

from __future__ import annotations

import importlib
import random
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from kamon.batch import Batch, pack
from kamon.builtin import names
from kamon.config import Config
from kamon.engine import DTYPES, Engine, Plan, best_engine, make_engine, train, untrained
from kamon.model import init, num_params, parameter_shapes
from kamon.sampler import SampleRequest, sample
from kamon.tokenizer import CharTokenizer

SHAPES = (  # of batched training: n_layer, n_embd, block_size, batch_size
    (1, 16, 16, 32),
    (1, 64, 16, 32),
    (1, 128, 16, 32),
    (4, 64, 16, 32),
    (4, 128, 64, 12),
)
Row = dict[str, Any]


def measure(seconds: float = 0.5) -> Iterator[Row]:
    """Rows of "what", "value", "unit" and more, each after about `seconds`."""
    docs = names_batch()
    # A few documents are enough for the scalar engine; for the ratio all are timed on the same.
    few = docs.select(range(20))
    scalar = best(partial(steps, ready("scalar", Config()), few, 1, 20), 0) / 20
    yield row("the original's job, scalar float64", scalar * 1e6, "µs a step")
    if best_engine() == "native":
        for dtype in DTYPES:
            engine = ready("native", Config(), dtype)
            per_step = best(partial(steps, engine, docs, 1, 1000), seconds) / 1000
            same = best(partial(steps, engine, few, 1, 1000), seconds) / 1000
            what = f"the original's job, native {dtype}"
            yield row(what, per_step * 1e6, "µs a step", ratio=scalar / same)
        yield from measure_native(docs, seconds)
    yield from measure_processes()
    yield from measure_torch(docs, seconds)


def measure_native(docs: Batch, seconds: float) -> Iterator[Row]:
    for n_layer, n_embd, block_size, batch_size in SHAPES:
        config = Config(n_layer=n_layer, n_embd=n_embd, block_size=block_size)
        batch = docs
        if block_size > 16:  # text rather than names: every document fills the block
            rng = random.Random(1)
            batch = pack([rng.randrange(26) for _ in range(block_size + 1)] for _ in range(64))
        count = max(1, int(4e8 / (num_params(config) * batch_size * block_size)))
        for threads in (1, 2):
            engine = ready("native", config, "float32", threads)
            peak = peak_gflops(engine, 0.1)
            took = best(partial(steps, engine, batch, batch_size, count), seconds) / count
            tokens = mean_tokens(batch, batch_size * count) * batch_size
            flops = 6 * tokens * (num_params(config) - (27 + block_size) * n_embd)
            yield row(
                f"training, {n_layer} x {n_embd}, block {block_size}, batch {batch_size}, "
                f"{threads} thread{'s' * (threads > 1)}",
                took * 1e6,
                "µs a step",
                gflops=flops / took / 1e9,
                share_of_peak=flops / took / 1e9 / peak / threads,
            )
    engine = ready("native", Config(), "float32", 1)
    took = best(partial(sample, engine, SampleRequest(20_000, 0.5, 1, 26)), seconds)
    yield row("sampling in bulk, one thread", 20_000 / took, "names a second")
    many = docs.select(range(20_000))
    took = best(partial(engine.logprobs, many), seconds)
    yield row("scoring in bulk, one thread", 20_000 / took, "names a second")
    yield row("peak of one core, float32 multiply-adds", peak_gflops(engine, seconds), "GFLOP/s")


def measure_processes() -> Iterator[Row]:
    """Whole processes of this interpreter: the command, and what it can be compared to."""
    bare = best_process(["-c", "pass"])
    yield row("a bare interpreter", bare * 1e3, "ms")
    commands = {
        "kamon --help": ["-m", "kamon", "--help"],
        "import click": ["-c", "import click"],
    }
    for name, arguments in commands.items():
        took = best_process(arguments)
        if took:
            yield row(name, took * 1e3, "ms", ratio_to_bare=took / bare)


def measure_torch(docs: Batch, seconds: float) -> Iterator[Row]:
    """The original's job written plainly in torch, where torch is installed."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError:
        return
    config = Config()
    rng = random.Random(config.seed)
    flat = init(config, rng)
    params: dict[str, Any] = {}
    at = 0
    for name, (n_out, n_in) in parameter_shapes(config).items():
        values = torch.tensor(flat[at : at + n_out * n_in], dtype=torch.float32)
        params[name] = values.reshape(n_out, n_in).requires_grad_()
        at += n_out * n_in
    adam = torch.optim.Adam(params.values(), lr=0.01, betas=(0.85, 0.99), eps=1e-8)
    functional = torch.nn.functional

    def norm(x: Any) -> Any:
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()

    def step(tokens: Any) -> None:
        length = len(tokens) - 1
        x = norm(params["wte"][tokens[:-1]] + params["wpe"][:length])
        h = norm(x)
        q, k, v = (
            (h @ params[f"layer0.attn_w{n}"].T).view(length, 4, 4).transpose(0, 1) for n in "qkv"
        )
        heads = functional.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)
        x = x + heads[0].transpose(0, 1).reshape(length, 16) @ params["layer0.attn_wo"].T
        h = (norm(x) @ params["layer0.mlp_fc1"].T).relu()
        x = x + h @ params["layer0.mlp_fc2"].T
        loss = functional.cross_entropy(x @ params["lm_head"].T, tokens[1:])
        loss.backward()
        adam.step()
        adam.zero_grad()

    documents = [torch.tensor(list(docs.document(d))) for d in range(100)]
    torch.set_num_threads(1)

    def train_on_all() -> None:
        for tokens in documents:
            step(tokens)

    took = best(train_on_all, seconds) / 100
    yield row("the original's job, torch float32", took * 1e6, "µs a step")


def row(what: str, value: float, unit: str, **more: float) -> Row:
    return {"what": what, "value": value, "unit": unit, **more}


def names_batch() -> Batch:
    docs = names()
    random.Random(42).shuffle(docs)
    tokenizer = CharTokenizer.train(docs)
    return pack(tokenizer.encode_document(doc) for doc in docs)


def ready(name: str, config: Config, dtype: str | None = None, threads: int | None = 1) -> Engine:
    engine = make_engine(name, config, dtype=dtype, threads=None if name == "scalar" else threads)
    engine.load(untrained(init(config, random.Random(config.seed))))
    return engine


def steps(engine: Engine, docs: Batch, batch_size: int, num_steps: int) -> None:
    indices = array("q", [i % len(docs) for i in range(batch_size * num_steps)])
    train(engine, Plan(docs, batch_size, indices, array("d", [1e-3]) * num_steps))


def mean_tokens(docs: Batch, num_docs: int) -> float:
    lengths = [len(docs.document(i % len(docs))) - 1 for i in range(num_docs)]
    return sum(lengths) / len(lengths)


def peak_gflops(engine: Engine, seconds: float) -> float:
    peak: float = engine.call["peak"](seconds)  # type: ignore[attr-defined]
    return peak


def best(work: Callable[[], Any], seconds: float) -> float:
    """The shortest run of `work` of as many as fit into `seconds`: one if 0, else three or more."""
    took: list[float] = []
    begin = time.perf_counter()
    while len(took) < (3 if seconds else 1) or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return min(took)


def best_process(arguments: list[str]) -> float:
    """Seconds of a process of this interpreter; 0 where it fails, as where a module is missing."""
    took = []
    for _ in range(10):
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *arguments], capture_output=True)
        took.append(time.perf_counter() - start)
        if done.returncode:
            return 0
    return min(took)
