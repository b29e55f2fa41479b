"""A model of each format that there has been: it loads for ever, and says what it said then.

dev/make_models.py made them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import kamon
from kamon.errors import StoreError
from kamon.storage import model_dir

MODELS = Path(__file__).parent / "models"
FORMATS = [2, 3, 4]


def test_there_is_one_of_each() -> None:
    assert FORMATS[-2:] == [model_dir.FORMAT, model_dir.GIVEN_FORMAT]
    assert FORMATS[0] == model_dir.FLAT_FORMAT
    folders = [path for path in MODELS.iterdir() if path.is_dir()]
    assert sorted(path.name for path in folders) == [f"format{n}" for n in FORMATS]


@pytest.mark.parametrize("number", FORMATS)
def test_a_model_of_long_ago(number: int) -> None:
    path = MODELS / f"format{number}"
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    recorded = json.loads((MODELS / f"format{number}.json").read_text(encoding="utf-8"))
    model = kamon.load(path, engine="scalar")
    assert model.sample(20, seed=5) == recorded["samples"]
    assert len(model.docs) == recorded["num_docs"]
    assert len(model.metrics) == recorded["num_steps"]
    assert [model.metrics[0]["loss"], model.metrics[-1]["loss"]] == recorded["losses"]
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert sum(map(len, before.values())) < 30_000


def test_what_each_can_go_on_with(tmp_path: Path) -> None:
    for number in FORMATS:
        shutil.copytree(MODELS / f"format{number}", tmp_path / str(number))
    with pytest.raises(StoreError, match="older format, which cannot be resumed"):
        kamon.resume(tmp_path / "2")
    new = kamon.train(
        ["ban", "den"], init_from=tmp_path / "2", num_steps=1, output=tmp_path / "new"
    )
    assert new.tokenizer.chars == kamon.load(tmp_path / "2").tokenizer.chars
    for number in ("3", "4"):
        model = kamon.resume(tmp_path / number)
        assert model.training["finished"]
        assert len(model.metrics) == 60
    kamon.load(tmp_path / "2").save(tmp_path / "3", overwrite=True)
    assert kamon.load(tmp_path / "3").metrics == kamon.load(tmp_path / "2").metrics
