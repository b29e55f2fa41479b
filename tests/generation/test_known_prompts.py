"""Prompts that a model has not learned to follow are recognised."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

import kamon
from conftest import Result
from helpers.lists import TRIPLES
from kamon.finetuning import instructions
from kamon.generation import known_prompts
from kamon.generation.known_prompts import KnownPrompts
from kamon.model import Model, load

Kamon = Callable[..., Result]


@pytest.fixture(scope="module")
def model() -> Model:
    base = kamon.train(TRIPLES, num_steps=30, size="tiny")
    data = [{"prompt": f"ends with {doc[-1]}", "completion": doc} for doc in TRIPLES]
    return kamon.sft(base, data, num_steps=20)


def test_the_built_in_instructions() -> None:
    known = KnownPrompts.of(pair["prompt"] for pair in instructions.examples("instructions"))
    for prompt in ("girl, m, 5", "boy, z, 11", "girl", "q, 9", "boy, 7", "girl, x, 12"):
        assert known.knows(prompt)
    strange = ("a girl name with m", "Girl, M, 5", "girls, m, 5, 7", "please, a name", "m m m m m")
    for prompt in strange:
        assert not known.knows(prompt)


def test_prompts_that_are_left_out_are_known() -> None:
    """Of prompts of the same kind that were not learned, hardly any is called unknown."""
    rng = random.Random(1)
    prompts = [
        f"a {kind} that begins with {letter} and has {n} letters"
        for kind in ("name", "town", "plant")
        for letter in "abcdefghijklmnop"
        for n in range(3, 12)
    ]
    rng.shuffle(prompts)
    known = KnownPrompts.of(prompts[100:])
    assert sum(map(known.knows, prompts[:100])) >= 97
    assert not known.knows("what is the weather like today?")
    assert not known.knows("name a town")


def test_few_prompts_must_be_met_exactly() -> None:
    known = KnownPrompts.of(["short", "long", "short"])
    assert known.prompts == ("short", "long")
    assert known.knows("short")
    assert not known.knows("shorter")
    assert KnownPrompts(()).knows("anything")


def test_many_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_prompts, "MAX_PROMPTS", 50)
    known = KnownPrompts.of(f"number {n}" for n in range(1000))
    assert len(known.compared) == 50
    assert known.knows("number 1001")
    assert not known.knows("what number?")


def test_python_warns(model: Model) -> None:
    with pytest.warns(UserWarning, match='the prompt "something else" is unlike the prompts'):
        model.sample(1, prompt="something else")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.sample(1, prompt="ends with k")
    assert model.prompt_warning(None) is None
    warning = model.prompt_warning("something else")
    assert warning
    assert 'write a prompt such as "ends with k"' in warning[1]


def test_the_command_warns(tmp_path: Path, kamon: Kamon) -> None:
    base = tmp_path / "base"
    assert kamon("train", written(tmp_path), "--num-steps=9", "--size=tiny", "-o", base).code == 0
    examples = tmp_path / "examples.jsonl"
    lines = [f'{{"prompt": "ends with {doc[-1]}", "completion": "{doc}"}}\n' for doc in TRIPLES]
    examples.write_text("".join(lines), encoding="utf-8")
    tuned = tmp_path / "tuned"
    assert kamon("sft", base, examples, "--num-steps=9", "-o", tuned).code == 0
    assert load(tuned).known_prompts.knows("ends with k")
    strange = kamon("sample", tuned, "--prompt=with with", "-n", "2")
    assert 'warning: the prompt "with with" is unlike the prompts' in strange.err
    assert "hint: write a prompt such as" in strange.err
    assert "warning" not in kamon("sample", tuned, "--prompt=ends with k", "-n", "2").err


def written(folder: Path) -> Path:
    path = folder / "list.txt"
    path.write_text("\n".join(TRIPLES), encoding="utf-8")
    return path
