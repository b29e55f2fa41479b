"""Held-out documents: measured, the best model kept, training ended when it lies far behind."""

from __future__ import annotations

import math
import random
import re
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TINY, TINY_FLAGS, Result
from helpers.lists import DOCS
from kamon import train
from kamon.config import Config
from kamon.data.split import split
from kamon.engines.base import initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init
from kamon.storage import model_dir
from kamon.training.early_stopping import NUM_EVALUATIONS, PATIENCE, EarlyStopping, mean_loss
from kamon.training.loop import pretrain

Kamon = Callable[..., Result]
HELD_OUT = split(DOCS)[1]


class Losses:
    """An engine whose held-out loss is told; its state is the number of times it was asked."""

    def __init__(self, losses: list[float]) -> None:
        self.losses = losses
        self.asked = 0
        self.loaded: object = None

    def logprobs(self, _: object) -> array[float]:
        self.asked += 1
        return array("d", [-self.losses[self.asked - 1]])

    def state(self) -> object:
        return self.asked

    def load(self, state: object) -> None:
        self.loaded = state


@pytest.mark.parametrize(
    ("losses", "asked", "best", "over_fitted"),
    [
        ([3.0, 2.0, 1.0], 3, 3, False),
        ([3.0, 2.0, 2.5], 3, 2, True),
        ([3.0, 2.0, 2.001], 3, 2, False),
        ([3.0, 2.0, 2.5, 2.4, 2.3, 2.2, 2.1, 1.0], 2 + PATIENCE, 2, True),
        ([3.0, 2.0, 2.5, 2.4, 2.3, 2.2, 1.9, 2.0], 8, 7, True),
        ([2.0] * 8, 8, 8, False),  # of a blend that is only its n-gram, while the GPT improves
    ],
)
def test_best_and_patience(losses: list[float], asked: int, best: int, over_fitted: bool) -> None:
    docs = pack_sequences([[0, 0]])
    engine, validation = Losses(losses), EarlyStopping(lambda engine: mean_loss(engine, docs))
    for step in range(1, len(losses) + 1):
        if validation(engine, step):  # type: ignore[arg-type]
            break
    assert engine.asked == asked
    assert validation.best_step == best
    assert validation.finish(engine, asked) is over_fitted  # type: ignore[arg-type]
    assert engine.loaded == (None if best == asked else best)


def test_mean_loss_is_that_of_a_uniform_model() -> None:
    config = Config(n_embd=4, block_size=5, vocab_size=7, std=0)
    engine = make_engine("scalar", config)
    engine.load(initial_state(init(config, random.Random(1))))
    assert mean_loss(engine, pack_sequences([[6, 1, 2, 6], [6, 6]])) == pytest.approx(math.log(7))


def test_what_is_held_out_is_never_learned() -> None:
    """Losses and model are those of a training on the others alone, whatever is measured."""
    model = train([*DOCS, *DOCS[:30]], engine="scalar", **TINY)
    settings = TINY | {"num_steps": model.config.num_steps}
    others = train(split(DOCS)[0], engine="scalar", hold_out=False, **settings)
    assert [line["loss"] for line in model.metrics] == [line["loss"] for line in others.metrics]
    tested = model.training["held_out"]
    assert tested["num_docs"] == len(HELD_OUT) > 10
    assert others.training["held_out"] is None
    batch = pack_sequences(map(model.tokenizer.encode_document, HELD_OUT))
    assert tested["loss"] == pytest.approx(mean_loss(model.engine, batch), rel=1e-12)
    if tested["best_step"] == model.config.num_steps:
        assert model.engine.state()["params"] == others.engine.state()["params"]


def test_the_held_out_loss_is_recorded_and_the_best_model_kept(tmp_path: Path) -> None:
    """A model far too large for its list learns it by heart: the one of the best step remains."""
    settings = {"n_embd": 32, "num_steps": 400, "batch_size": 16, "learning_rate": 0.02}
    model = train(DOCS, **settings)
    tested = model.training["held_out"]
    records = {m["step"]: m["held_out_loss"] for m in model.metrics if "held_out_loss" in m}
    assert all(step % (400 // NUM_EVALUATIONS) == 0 for step in records)
    assert len(model.metrics) == max(records)
    assert tested["best_step"] == min(records, key=records.__getitem__)
    assert tested["loss"] == pytest.approx(min(records.values()), rel=1e-9)
    assert tested["over_fitted"]
    model.save(tmp_path / "m")
    assert model_dir.load(tmp_path / "m").metrics == model.metrics


def test_evaluations_do_not_depend_on_how_steps_are_cut() -> None:
    config = Config(n_embd=4, n_head=2, block_size=5, vocab_size=7, num_steps=47)
    docs = pack_sequences([[6, 1, 2, 6], [6, 3, 6], [6, 0, 5, 4, 6]])
    engine = make_engine("scalar", config)
    engine.load(initial_state(init(config, random.Random(1))))
    steps = []
    pretrain(engine, docs, config, validation=lambda _, step: steps.append(step) or False)  # type: ignore[func-returns-value]
    assert steps == [*range(2, 47, 2), 47]


def test_too_few_documents(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS[:30]))
    done = kamon("train", names, "-o", tmp_path / "few", *TINY_FLAGS)
    assert "no validation set, because the list has fewer than 100 unique entries" in done.err
    assert "Validation" not in done.err


def test_the_command_says_what_it_holds_out(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS))
    done = kamon("train", names, "-o", tmp_path / "m", *TINY_FLAGS)
    assert f"Validation       {len(HELD_OUT)} entries" in done.err
    assert re.search(
        r"^Validation loss  [\d.]+ nats per token \(GPT [\d.]+, \d-gram [\d.]+\)$", done.err, re.M
    )
    done = kamon("train", names, "-o", tmp_path / "all", "--no-holdout", *TINY_FLAGS)
    assert "Validation" not in done.err
    flags = ["--n-embd=32", "--num-steps=400", "--batch-size=16", "--learning-rate=0.02"]
    kept = r"^warning: overfitting after step [\d,]+: Kamon kept that checkpoint$"
    done = kamon("train", names, "-o", tmp_path / "blend", *flags)
    assert re.search(kept, done.err, re.M)
    assert "hint:" not in done.err
    flags.append("--no-blend")
    done = kamon("train", names, "-o", tmp_path / "large", *flags)
    assert re.search(kept, done.err, re.M)
    assert re.search(r"^Validation loss .* nats per token \(\d-gram [\d.]+\)$", done.err, re.M)
    assert "\nhint: try --dropout 0.3" in done.err
    flags += ["--dropout=0.001", "--overwrite"]
    done = kamon("train", names, "-o", tmp_path / "large", *flags)
    assert re.search(kept, done.err, re.M)
    assert "--dropout 0.3" not in done.err
