from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import kamon
from conftest import TINY
from kamon.config import SETTINGS, Config, Settings
from kamon.data.documents import Documents
from kamon.generation.constraints import GenerationConstraints
from kamon.model import Conditions
from kamon.training.data import as_given
from kamon.training.setup import build_setup

PUBLIC = [
    "Config",
    "ConfigError",
    "CorpusError",
    "KamonError",
    "Model",
    "StoreError",
    "TokenizerError",
    "TrainingError",
    "classify",
    "clean",
    "compare",
    "complete",
    "complete_words",
    "dpo",
    "errors",
    "evaluate",
    "export",
    "fill",
    "fill_words",
    "load",
    "ngram",
    "ppo",
    "rate",
    "resume",
    "reward_model",
    "score",
    "sft",
    "train",
]


def test_public_names() -> None:
    assert sorted(kamon.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(kamon, name).__name__.removeprefix("kamon.") == name
        assert name in dir(kamon)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        kamon.trian  # noqa: B018


def test_importing_kamon_imports_nothing_heavy() -> None:
    code = (
        "import sys, kamon;"
        "heavy = {'dataclasses', 'argparse', 'json', 'safetensors', 'tqdm', 'random'};"
        "print(heavy & set(sys.modules), [m for m in sys.modules if m.startswith('kamon')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set() ['kamon._version', 'kamon']\n"


def test_train_sample_save_load(tmp_path: Path) -> None:
    docs = ["anna", " hanna", "nora", "", "johanna", "annabella"]
    model = kamon.train(docs, **TINY)
    vocab_size = len(set("".join(docs).replace(" ", ""))) + 1
    assert model.config == Config(vocab_size=vocab_size, temperature=0.8, **TINY)
    assert [line["step"] for line in model.metrics] == [1, 2, 3]
    assert model.training["corpus"]["num_docs"] == 5
    assert model.training["num_cut"] == 2
    samples = model.sample(5, temperature=1.5, seed=3)
    model.save(tmp_path / "model")
    loaded = kamon.load(tmp_path / "model")
    assert loaded.sample(5, temperature=1.5, seed=3) == samples
    assert loaded.sample(2, temperature=1.5, seed=3) == samples[:2]
    assert loaded.sample(5, temperature=1.5, seed=4) != samples
    assert loaded.sample(3) == model.sample(3, temperature=0.5, seed=42)
    assert loaded.sample(0) == []
    assert len(set(loaded.sample(4, temperature=0))) == 1
    assert (loaded.config, loaded.metrics, loaded.training) == (
        model.config,
        model.metrics,
        model.training,
    )


def test_the_same_training_gives_the_same_model(names: Path) -> None:
    first, second = kamon.train(names, **TINY), kamon.train(str(names), **TINY)
    assert first.engine.state() == second.engine.state()
    other = kamon.train(names, seed=1, **TINY)
    assert other.engine.state() != first.engine.state()


def test_training_learns(names: Path) -> None:
    model = kamon.train(names, n_embd=4, n_head=2, block_size=6, num_steps=80, learning_rate=0.03)
    losses = [line["loss"] for line in model.metrics]
    assert sum(losses[:5]) / 5 > 2.4
    assert sum(losses[-15:]) / 15 < 2.2


def test_documents_are_cut_at_block_size() -> None:
    run = build_setup(
        as_given(Documents.of(["abc", "abcd", "abcde"])), Config(**TINY | {"block_size": 4})
    )
    documents = sorted(list(run.docs.document(d)) for d in range(3))
    assert documents == [[5, 0, 1, 2, 3], [5, 0, 1, 2, 3], [5, 0, 1, 2, 5]]
    assert (run.num_cut, run.longest) == (2, 5)


@pytest.mark.parametrize(
    ("docs", "message"),
    [
        (["anna"], "has only one entry"),
        (["anna", "anna "], "has only one entry, repeated"),
        (["a", "aa", "aaa"], "consist of only one character, 'a'"),
        ([], "is empty"),
        (["", " "], "has only blank lines"),
    ],
)
def test_a_list_that_teaches_nothing(docs: list[str], message: str) -> None:
    with pytest.raises(kamon.CorpusError, match=message):
        kamon.train(docs, **TINY)


def test_types_name_all_settings_and_conditions() -> None:
    for names, of in ((Settings, SETTINGS), (Conditions, fields(GenerationConstraints))):
        assert list(names.__annotations__) == [f.name for f in of]
    types = get_type_hints(Settings)
    for f in SETTINGS:
        choices = f.metadata["choices"]
        assert get_args(types[f.name]) == choices if choices else types[f.name] is f.type
    types = get_type_hints(Conditions)
    assert types == get_type_hints(GenerationConstraints)


@pytest.mark.slow
def test_type_checkers_find_misspelt_arguments(tmp_path: Path) -> None:
    program = """
import kamon
model = kamon.train(["a", "b"], n_lyer=3)
model.sample(prefx="a")
kamon.train(["a"], size="tinny", schedule="cos")
kamon.score(model, ["a"], unknown="bogus")
kamon.export(model, "pyton")
"""
    (tmp_path / "program.py").write_text(program)
    cache = Path(__file__).parents[1] / ".mypy_cache" / "installed"
    command = [sys.executable, "-m", "mypy", f"--cache-dir={cache}", "program.py"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(Path(kamon.__file__).parents[1])},
    )
    lines = [int(line.split(":")[1]) for line in done.stdout.splitlines() if ": error:" in line]
    assert lines == [3, 4, 5, 5, 6, 7], done.stdout + done.stderr


def test_wrong_settings() -> None:
    with pytest.raises(kamon.ConfigError, match="did you mean 'n_layer'"):
        kamon.train(["a", "b"], n_layers=2)
    with pytest.raises(
        kamon.ConfigError, match="unknown engine 'gpu'\nhint: choose from native, scalar, torch"
    ):
        kamon.train(["a", "b"], engine="gpu")
    model = kamon.train(["a", "b"], **TINY)
    for arguments in ({"temperature": -1}, {"temperature": float("nan")}, {"seed": 1.5}, {"n": -1}):
        with pytest.raises(kamon.ConfigError):
            model.sample(**{"n": 1} | arguments)
