"""Record what the original microGPT prints and computes, for tests/engines/golden.json.

    python dev/make_golden.py ../shared/seed.txt

It runs on 20 names of the built-in list, with the settings below. With the recording, the tests can
compare with the original even if its text is missing.
"""

import json
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers import original
from kamon.data.builtin import names

NUM_NAMES = 20
SETTINGS: list[dict[str, float]] = [
    {"num_steps": 4, "n_layer": 3, "n_embd": 6, "n_head": 1, "block_size": 5, "seed": 0},
    {"num_steps": 4, "n_embd": 10, "n_head": 10, "block_size": 3, "seed": -3, "temperature": 2.5},
    {"num_steps": 3, "n_embd": 1, "n_head": 1, "block_size": 1, "std": 0.5, "seed": 123456789},
    {"num_steps": 25, "n_embd": 4, "n_head": 2, "block_size": 8, "learning_rate": 0.1},
    {"num_steps": 8, "n_embd": 5, "n_head": 5, "beta1": 0.5, "beta2": 0.9, "eps_adam": 0.001},
    {"num_steps": 3, "n_layer": 2, "n_embd": 12, "n_head": 3, "seed": 7, "temperature": 1.0},
    {"num_steps": 5},
]
TARGET = Path(__file__).parent.parent / "tests" / "engines" / "golden.json"


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    warnings.simplefilter("ignore", ResourceWarning)  # the program leaves its input open
    code = original.program(Path(sys.argv[1]).read_text(encoding="utf-8"))
    runs = []
    for settings in SETTINGS:
        with tempfile.TemporaryDirectory() as folder:
            printed, losses = original.run(code, settings, names()[:NUM_NAMES], Path(folder))
        hexes = [loss.hex() for loss in losses]
        runs.append({"settings": settings, "losses": hexes, "printed": printed})
    TARGET.write_text(json.dumps({"num_names": NUM_NAMES, "runs": runs}, indent=1) + "\n")
    print(f"{len(runs)} runs in {TARGET}")


if __name__ == "__main__":
    main()
