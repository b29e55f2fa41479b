"""test_distributed.py starts this with torchrun: it trains blends, and writes what each rank has.

    torchrun … tests/engines/distributed_blend.py LISTS.json

Beside LISTS.json, rank 1 leaves LISTS.1.json: the record and the losses of each training.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import kamon
from kamon.engines.distributed import get_group, hard_exit


def main() -> None:
    torch.set_num_threads(1)
    path = Path(sys.argv[1])
    results = []
    for docs in json.loads(path.read_text()):
        model = kamon.train(docs, engine="torch", num_steps=20, learning_rate=0.002)
        losses = [loss.hex() for loss in model.metrics.losses]
        history = {step: loss.hex() for step, loss in model.metrics.held_out.items()}
        record = model.training.content | {"seconds": 0}
        results.append({"training": record, "losses": losses, "history": history})
    path.with_suffix(f".{get_group().rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
    hard_exit(0)
