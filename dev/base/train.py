"""Train the base on data.txt.xz and write src/kamon/data/base.safetensors.

    python dev/base/train.py

It takes half an hour on one core, less on two. CARD.md describes the data.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path
from typing import Any

from build_data import read

import kamon
from kamon.data.split import RESERVED_KEYS, key
from kamon.storage.base_file import BASE_FILE, write_base
from kamon.tokenizers.char import CharTokenizer
from kamon.training.loop import Progress

SEED = 3
MAX_LENGTH = 47  # characters
# Shares of the entries that are added in another form: users' lists have every case.
LOWER, TITLE, UPPER, JOINED = 0.35, 0.25, 0.06, 0.08
SEPARATORS = (" ", " ", " ", "-", ", ")
SETTINGS: dict[str, Any] = {
    "n_layer": 4,
    "n_embd": 96,
    "n_head": 4,
    "block_size": MAX_LENGTH + 1,
    "std": 0.08,
    "num_steps": 60_000,
    "batch_size": 64,
    "learning_rate": 0.003,
    "schedule": "cosine",
    "warmup_steps": 600,
    "beta1": 0.9,
    "beta2": 0.99,
    "weight_decay": 0.05,
    "seed": SEED,
}


def augmented(texts: list[str]) -> list[str]:
    """Return the texts, some of them in another case, and longer ones of several joined texts."""
    rng = random.Random(SEED)
    found = dict.fromkeys(texts)
    for text in texts:
        chance = rng.random()
        lower, title, upper = text.lower(), text.title(), text.upper()
        if chance > 1 - UPPER:
            found[upper] = None
        elif text != lower and chance < LOWER:
            found[lower] = None
        elif text == lower and chance < TITLE:
            found[title] = None
        if rng.random() < JOINED:
            several = [text, *rng.choices(texts, k=rng.choice((1, 1, 2, 3)))]
            found[rng.choice(SEPARATORS).join(several)[:MAX_LENGTH].strip()] = None
    return [text for text in found if key(text) not in RESERVED_KEYS]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=BASE_FILE, help="file to write")
    parser.add_argument("--num-steps", type=int, default=SETTINGS["num_steps"])
    parser.add_argument("--threads", type=int, help="default: all cores")
    args = parser.parse_args()
    texts = augmented([entry.text for entry in read()])
    print(f"{len(texts):,} texts", flush=True)

    def show(progress: Progress) -> None:
        losses = progress.losses[-500:]
        seconds, mean = progress.seconds, sum(losses) / len(losses)
        print(f"\r{len(progress.losses):,} steps, {seconds:.0f} s, loss {mean:.3f}", end="")

    settings = SETTINGS | {"num_steps": args.num_steps}
    model = kamon.train(
        texts,
        hold_out=False,
        init_from="scratch",
        blend=False,
        threads=args.threads,
        on_progress=show,
        **settings,
    )
    assert isinstance(model.tokenizer, CharTokenizer)
    write_base(args.output, model.config, model.tokenizer, model.engine.state()["params"])
    print(f"\n{args.output}: {args.output.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
