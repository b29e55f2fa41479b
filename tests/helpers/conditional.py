"""Random conditional models of tiny tables."""

from __future__ import annotations

import random

from kamon.config import Config
from kamon.data.columns import Row
from kamon.engines.base import initial_state
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init
from kamon.generation.given import Conditional, Recipe, levels
from kamon.native import library
from kamon.tokenizers.char import CharTokenizer

CLASSES = [("x", "f"), ("x", "m"), ("y", "f"), ("z", "m")]
NAMES = ["country=x", "country=y", "country=z", "sex=f", "sex=m"]
TOKENIZER = CharTokenizer("abcd", NAMES, composed=True)
BOS = TOKENIZER.bos


def rows_of(rng: random.Random, classes: list[tuple[str, ...]]) -> list[Row]:
    return [
        Row("".join(rng.choices("abcd", k=rng.randint(1, 6))), rng.choice(classes), 1.0)
        for _ in range(40)
    ] + [Row("ab", values, 1.0) for values in classes]


def conditional(
    seed: int,
    *,
    blended: bool = True,
    columns: int = 2,
    engine: str | None = None,
    weight: float | None = None,
) -> Conditional:
    """Random parameters and rows; a shape, a weight and shares by the seed."""
    rng = random.Random(seed)
    name = rng.choice(["scalar"] if library.why_not() else ["scalar", "native"])
    classes = CLASSES if columns == 2 else [("x",), ("y",), ("z",)]
    tokenizer = TOKENIZER if columns == 2 else CharTokenizer("abcd", NAMES[:3], composed=True)
    config = Config(
        n_layer=rng.randint(1, 2), n_embd=8, n_head=2, block_size=rng.randint(9, 12), std=0.4,
        vocab_size=tokenizer.vocab_size,
    )  # fmt: skip
    gpt = make_engine(engine or name, config, dtype="float64")
    gpt.load(initial_state(init(config, rng)))
    shares = [rng.random() for _ in levels(columns)]
    own = rng.random() if weight is None else weight
    recipe = Recipe(rng.randint(1, 4), own, tuple(x / sum(shares) for x in shares))
    if not blended:
        recipe = Recipe(0, 1.0)
    rows = rows_of(rng, list(classes))
    return Conditional(gpt, tokenizer, ["country", "sex"][:columns], rows, recipe)


def texts_of(seed: int) -> list[str]:
    rng = random.Random(-seed)
    return ["".join(rng.choices("abcd", k=rng.randint(0, 6))) for _ in range(5)]
