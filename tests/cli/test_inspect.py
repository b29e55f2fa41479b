"""`kamon inspect` shows where a model comes from, its parts, and their losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Result
from helpers.lists import DOCS
from kamon import train

Kamon = Callable[..., Result]
SHAPE: dict[str, Any] = {"n_embd": 4, "n_head": 2}


def test_a_blend_from_scratch(tmp_path: Path, kamon: Kamon) -> None:
    model = train(DOCS, num_steps=20, output=tmp_path / "m", **SHAPE)
    blend, losses = model.training.blend, model.training.held_out
    assert blend
    assert losses
    shown = kamon("inspect", tmp_path / "m").out
    n = f"{blend.order}-gram"
    assert f"Blend            {blend.weight:.3f} GPT + {1 - blend.weight:.3f} {n}\n" in shown
    parts = f"(GPT {losses.gpt_loss:.3f}, {n} {losses.ngram_loss:.3f})"
    assert f"Validation loss  {losses.loss:.3f} nats per token {parts}\n" in shown
    assert "Start " not in shown
    assert "-fold" not in shown


def test_the_base_and_cross_validation(tmp_path: Path, kamon: Kamon) -> None:
    model = train(DOCS[:30], num_steps=2, output=tmp_path / "m")
    losses = model.training.cross_validation
    assert losses
    shown = kamon("inspect", tmp_path / "m").out
    assert "Start            the pretrained base\n" in shown
    line = next(line for line in shown.splitlines() if line.startswith("Validation loss"))
    assert line.startswith(f"Validation loss  {losses.loss:.3f} nats per token (GPT ")
    assert line.endswith(", 5-fold")
    training = kamon("inspect", tmp_path / "m", "--json").json["training"]
    assert training["init_from"] == "base"
    assert training["blend"] == dict(model.training.blend or {})
    assert training["cross_validation"] == dict(losses)


@pytest.mark.parametrize("hold_out", [True, False])
def test_only_a_gpt(hold_out: bool, tmp_path: Path, kamon: Kamon) -> None:
    train(DOCS, num_steps=2, output=tmp_path / "m", **SHAPE)
    settings = SHAPE | {"hold_out": hold_out, "blend": False, "init_from": tmp_path / "m"}
    model = train(DOCS, num_steps=2, output=tmp_path / "n", **settings)
    shown = kamon("inspect", tmp_path / "n").out
    assert f"Start            {tmp_path / 'm'}\n" in shown
    assert "Blend" not in shown
    losses = model.training.held_out
    assert bool(losses) == hold_out
    line = f"Validation loss  {losses.loss:.3f} nats per token\n" if losses else ""
    assert line in shown
    assert ("Validation loss" in shown) == hold_out
