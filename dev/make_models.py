"""Make tests/storage/models: a tiny model in each format of the model directory, and samples.

Each format was written once, by the code of its time, and is never written again, because Kamon
must always load it. COMMITS names the commit of this repository that has the code of a format.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MODELS = ROOT / "tests" / "storage" / "models"
COMMITS = {2: "05a5f0e97fa5acd2789bdc21f7293d83f6ac58a3"}  # the last one that wrote the format

# With the scalar engine, because its numbers do not depend on the processor.
PROGRAM = """
import json, sys
import kamon
docs = [f"{a}{b}{c}" for a in "bdkl" for b in "aei" for c in ("n", "nna", "ra")]
settings = dict(n_layer=1, n_embd=4, n_head=2, block_size=6, num_steps=60, batch_size=2,
                learning_rate=0.05, std=0.3, engine="scalar", size="original")
path = sys.argv[1]
if sys.argv[2] == "2":
    model = kamon.train(docs, **settings)
    model.save(path)
else:
    asked = iter(range(40))
    stop = lambda: next(asked, None) is None
    if sys.argv[2] == "4":
        docs = [{"name": f"{a}{doc}", "kind": "xy"[a in "bd"]} for a in "bdkl" for doc in docs]
        settings |= dict(column="name", given="kind")
    model = kamon.train(docs, output=path, should_stop=stop, **settings)
model = kamon.load(path, engine="scalar")
print(json.dumps({"samples": model.sample(20, seed=5), "num_docs": len(model.docs),
                  "num_steps": len(model.metrics), "losses": [model.metrics[0]["loss"],
                  model.metrics[-1]["loss"]]}))
"""


def make(number: int) -> None:
    target = MODELS / f"format{number}"
    with tempfile.TemporaryDirectory() as folder:
        source = ROOT
        if number in COMMITS:
            source = Path(folder)
            packed = subprocess.run(
                ["git", "archive", COMMITS[number], "src"],
                cwd=ROOT, check=True, stdout=subprocess.PIPE,
            ).stdout  # fmt: skip
            subprocess.run(["tar", "-x", "-C", folder], input=packed, check=True)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(target), str(number)],
            env=os.environ | {"PYTHONPATH": str(source / "src")},
            check=True,
            stdout=subprocess.PIPE,
        )
    (target / "lock").unlink(missing_ok=True)
    found = json.dumps(json.loads(done.stdout), indent=1, ensure_ascii=False) + "\n"
    (MODELS / f"format{number}.json").write_text(found, encoding="utf-8")


if __name__ == "__main__":
    make(int(sys.argv[1]))
