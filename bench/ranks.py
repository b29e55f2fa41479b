"""Compare one process with several that share a step. torchrun starts them, with one thread each.

    python bench/ranks.py [--ranks N] [--seconds S] [--json]

The shape is nanoGPT's on a CPU: 4 layers of width 128, with 12 texts of 64 tokens per process and
step. The single process computes as many batches of 12 as the others together. The script prints
the shortest step of each, and the time to add up the gradients.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from array import array

from kamon.config import Config
from kamon.engines.base import StepPlan, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.distributed import get_group, hard_exit
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init


def work(accumulated: int, seconds: float) -> None:
    """Train in one process. Rank 0 prints the shortest step, and the shortest sum."""
    config = Config(
        n_layer=4, n_embd=128, n_head=4, block_size=64, batch_size=12, vocab_size=65, beta1=0.9
    )
    engine = make_engine("torch", config, threads=1)
    engine.load(initial_state(init(config, random.Random(1))))
    ranks = get_group()
    size = config.batch_size * accumulated
    docs = pack_sequences([random.randrange(65) for _ in range(65)] for _ in range(size))
    plan = StepPlan(
        docs,
        12,
        array("q", range(size)),
        array("d", [1e-4]),
        gradient_accumulation_steps=accumulated,
    )
    best = summed = float("inf")
    end = time.perf_counter() + seconds
    while ranks.broadcast_scalar(time.perf_counter()) < ranks.broadcast_scalar(end):
        start = time.perf_counter()
        engine.train(plan)  # type: ignore[attr-defined]
        middle = time.perf_counter()
        ranks.all_reduce_sum(engine.padded)  # type: ignore[attr-defined]
        best, summed = min(best, middle - start), min(summed, time.perf_counter() - middle)
    if ranks.rank == 0:
        print(json.dumps([best, summed]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--ranks", type=int, default=2, help="number of processes [default: 2]")
    parser.add_argument("--seconds", type=float, default=20.0, help="seconds per run [default: 20]")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker, args.seconds)
        hard_exit(0)
        return
    times = []
    for size in (1, args.ranks):
        start = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size)]
        own = [__file__, "--worker", str(args.ranks), "--seconds", str(args.seconds)]
        done = subprocess.run([*start, *own], stdout=subprocess.PIPE, text=True, check=True)
        times.append(json.loads(done.stdout))
    (one, _), (several, summed) = times
    row = {
        "ranks": args.ranks,
        "one_ms_a_step": one * 1e3,
        "several_ms_a_step": several * 1e3,
        "sum_ms": summed * 1e3,
        "ratio": one / several,
    }
    if args.json:
        print(json.dumps(row))
    else:
        print(
            f"one process {one * 1e3:.1f} ms per step, {args.ranks} together {several * 1e3:.1f}: "
            f"{one / several:.2f} times as fast, with {summed * 1e3:.1f} ms for the sum"
        )


if __name__ == "__main__":
    main()
