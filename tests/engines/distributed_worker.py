"""test_distributed.py starts this with torchrun: it trains, and writes down what each rank has.

    torchrun … tests/engines/distributed_worker.py JOB.json

Beside JOB.json, rank 1 leaves JOB.1.json: of each training the losses and the state.
"""

from __future__ import annotations

import json
import random
import sys
from array import array
from pathlib import Path
from typing import Any

import torch

from kamon.config import Config
from kamon.engines.base import StepPlan, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.distributed import get_group, hard_exit
from kamon.engines.factory import make_engine
from kamon.engines.loops import train
from kamon.engines.parameters import init

CONFIG = {"n_layer": 2, "n_embd": 12, "n_head": 3, "block_size": 9, "vocab_size": 13, "std": 0.3}


def documents(ragged: bool) -> PackedBatch:
    rng = random.Random(3)
    return pack_sequences(
        [rng.randrange(13) for _ in range(rng.randint(2, 10) if ragged else 10)] for _ in range(50)
    )


def plan_of(job: dict[str, Any], first: int = 0) -> StepPlan:
    """Steps from number `first` on of a training by `job`."""
    size, steps = job["batch_size"] * job["accumulated"], job["steps"]
    indices = array("q", [i % 50 for i in range(first * size, (first + steps) * size)])
    rates = array("d", [0.01] * steps)
    return StepPlan(
        documents(job["ragged"]),
        job["batch_size"],
        indices,
        rates,
        first * size,
        job["accumulated"],
    )


def main() -> None:
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    ranks = get_group()
    results = []
    for job in json.loads(path.read_text()):
        config = Config(**CONFIG, **job["settings"])
        engine = make_engine("torch", config, dtype=job["dtype"])
        # Only rank 0 knows where to begin: the others must be told.
        state = initial_state(init(config, random.Random(1 if ranks.rank == 0 else 2)))
        state["step"] = job.get("first", 0) if ranks.rank == 0 else 99
        engine.load(state)
        stops = iter(range(job["steps"]))
        stopping = job.get("stop")
        losses = train(
            engine,
            plan_of(job, job.get("first", 0)),
            lambda: ranks.rank == ranks.size - 1 and next(stops) == stopping,  # noqa: B023
        )
        found = engine.state()
        results.append(
            {
                "losses": [loss.hex() for loss in losses],
                "step": found["step"],
                **{name: [x.hex() for x in found[name]] for name in ("params", "m", "v")},
            }
        )
    path.with_suffix(f".{ranks.rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
    hard_exit(0)
