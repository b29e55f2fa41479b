"""Lists without a validation set: folds choose the number of steps and the weight of the blend."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import Result
from kamon.config import Config
from kamon.data import builtin
from kamon.data.split import MIN_DOCS, key
from kamon.engines.base import StepPlan
from kamon.engines.batch import PackedBatch
from kamon.engines.loops import train as train_steps
from kamon.errors import TrainingError
from kamon.generation.blend import BlendedModel
from kamon.storage import model_dir
from kamon.training import cross_validation
from kamon.training.cross_validation import (
    MAX_CROSS_VALIDATED,
    NUM_FOLDS,
    equivalent_steps,
    evaluated_steps,
    folds_of,
)
from kamon.training.loop import Progress, learning_rate

Kamon = Callable[..., Result]
NAMES = builtin.names()[::300]
assert len(NAMES) == MIN_DOCS - 1


# ---- the folds


@pytest.mark.parametrize("number", [*range(2, 12), 50, 99])
def test_each_document_is_left_out_once(number: int) -> None:
    docs = NAMES[:number]
    folds = folds_of(docs)
    assert len(folds) == min(number, NUM_FOLDS)
    assert sorted(doc for _, left_out in folds for doc in left_out) == sorted(docs)
    sizes = [len(left_out) for _, left_out in folds]
    assert max(sizes) - min(sizes) <= 1
    for learned, left_out in folds:
        assert sorted([*learned, *left_out]) == sorted(docs)
        assert learned


def test_documents_that_differ_in_case_or_accents_stay_together() -> None:
    docs = [form for name in NAMES for form in (name, name.upper(), f"{name[0]}\u0301{name[1:]}")]
    for learned, left_out in folds_of(docs):
        assert not set(map(key, learned)) & set(map(key, left_out))
    assert folds_of(["José", "JOSE", "jose"]) == []
    assert len(folds_of(["José", "JOSE", "anna"])) == 2


def test_folds_do_not_depend_on_the_order() -> None:
    folds, others = folds_of(NAMES), folds_of(NAMES[::-1])
    assert [set(left_out) for _, left_out in folds] == [set(left_out) for _, left_out in others]


def test_of_a_long_list_one_fold_is_left_out() -> None:
    docs = builtin.names()[: MAX_CROSS_VALIDATED + 1]
    assert len(folds_of(docs[1:])) == NUM_FOLDS
    ((learned, left_out),) = folds_of(docs)
    assert len(learned) + len(left_out) == len(docs)
    assert len(left_out) == pytest.approx(len(docs) / NUM_FOLDS, abs=1)


# ---- the number of steps


def test_steps_to_compare() -> None:
    assert evaluated_steps(30, fixed=False) == [*range(3, 31, 3)]
    assert evaluated_steps(4, fixed=False) == [1, 2, 3, 4]
    assert evaluated_steps(1, fixed=False) == [1]
    assert evaluated_steps(30, fixed=True) == [30]


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_as_many_steps_learn_as_much(schedule: str) -> None:
    """The sums of their learning rates are equal."""
    config = Config(num_steps=1000, schedule=schedule)
    before = 0
    for first in (1, 10, 100, 300, 500, 800, 1000):
        steps = equivalent_steps(config, first)
        assert before < steps <= 1000
        before = steps
        shorter = replace(config, num_steps=steps)
        learned = sum(learning_rate(config, step) for step in range(first))
        own = sum(learning_rate(shorter, step) for step in range(steps))
        assert own == pytest.approx(learned, rel=0.02, abs=1.5 * config.learning_rate)
    assert steps == 1000


# ---- in a run


class Seen:
    """What the models of the folds have learned, counted and been tested on, fold by fold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.learned: list[set[tuple[int, ...]]] = []
        self.counted: list[set[tuple[int, ...]]] = []
        self.tested: list[set[tuple[int, ...]]] = []
        count = cross_validation.count_ngram

        def counted(batch: PackedBatch, vocab_size: int, order: int) -> Any:
            ngram = count(batch, vocab_size, order)
            if order == 1:
                self.counted.append(set(map(tuple, batch)))
                self.learned.append(set())
                measure = ngram.logprobs

                class Spy:
                    def logprobs(spy, tested: PackedBatch) -> Any:  # noqa: N805
                        self.tested.append(set(map(tuple, tested)))
                        return measure(tested)

                return Spy()
            return ngram

        def learn(engine: Any, plan: StepPlan, should_stop: Any) -> Any:
            docs = list(plan.docs)
            self.learned[-1] |= {tuple(docs[i]) for i in plan.indices}
            return train_steps(engine, plan, should_stop)

        monkeypatch.setattr(cross_validation, "count_ngram", counted)
        monkeypatch.setattr(cross_validation, "train", learn)


def test_no_model_is_tested_on_what_it_has_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Seen(monkeypatch)
    kamon.train(NAMES)
    assert len(seen.learned) == len(seen.counted) == len(seen.tested) == NUM_FOLDS
    for learned, counted, tested in zip(seen.learned, seen.counted, seen.tested, strict=True):
        assert learned == counted
        assert not learned & tested
        assert len(learned) + len(tested) == len(NAMES)
    assert sum(map(len, seen.tested)) == len(NAMES)


def test_what_cannot_be_known_is_not() -> None:
    """Random strings: a model that had seen those it is tested on would do better than chance."""
    rng = random.Random(4)
    docs = ["".join(rng.choices("abcdefgh", k=10)) for _ in range(40)]
    losses = kamon.train(docs, num_steps=150, learning_rate=0.003).training.cross_validation
    assert losses
    chance = 10 / 11 * math.log(8)  # of the eleven tokens the last one is sure to be the end
    assert losses.loss > 0.97 * chance
    assert losses.gpt_loss > 0.97 * chance
    assert losses.ngram_loss > 0.97 * chance


@pytest.mark.parametrize("number", [2, 3, 5, 9, 30, 99])
def test_a_short_list(number: int, tmp_path: Path) -> None:
    docs = NAMES[:number]
    model = kamon.train(docs, output=tmp_path / "m")
    training, losses = model.training, model.training.cross_validation
    assert losses
    assert training.blend
    assert (training.held_out, training.finished) == (None, True)
    assert losses.num_folds == min(number, NUM_FOLDS)
    assert 0 <= training.blend.weight <= 1
    assert losses.loss <= min(losses.gpt_loss, losses.ngram_loss) + 1e-12
    assert model.parts() == (model.docs, [])
    assert len(model.metrics) == model.config.num_steps
    language_model = model.language_model
    assert isinstance(language_model, BlendedModel)
    whole = model.tokenizer.encode_documents(docs)
    assert list(language_model.ngram.logprobs(whole)) == list(
        kamon.train(docs).blended_with(docs).logprobs_of_parts(whole)[1]  # type: ignore[union-attr]
    )
    loaded = kamon.load(tmp_path / "m")
    assert loaded.training.content == training.content
    assert loaded.sample(20, seed=3) == model.sample(20, seed=3)


def test_the_number_of_steps_is_the_best_of_the_folds() -> None:
    """Among so many steps that the last ones only learn by heart."""
    found = kamon.train(NAMES, learning_rate=0.01)
    most = 8 * len(NAMES) // 16
    assert found.config.num_steps < most
    fixed = kamon.train(NAMES, learning_rate=0.01, num_steps=most)
    assert len(fixed.metrics) == fixed.config.num_steps == most
    assert found.training.cross_validation
    assert fixed.training.cross_validation
    assert found.training.cross_validation.loss < fixed.training.cross_validation.loss
    shorter = kamon.train(NAMES, learning_rate=0.01, blend=False, num_steps=found.config.num_steps)
    assert shorter.metrics.losses == found.metrics.losses


def test_who_is_not_cross_validated() -> None:
    for docs, settings in (
        (NAMES, {"blend": False}),
        (NAMES, {"init_from": "scratch"}),
        (NAMES, {"n_layer": 1}),
        (["é", "e", "É"], {}),  # the same but for case and accents
        (builtin.names()[:200], {"num_steps": 5}),  # it has a validation set
    ):
        assert kamon.train(docs, **settings).training.cross_validation is None  # type: ignore[arg-type]
    all_learned = kamon.train(builtin.names()[:200], hold_out=False, num_steps=5)
    assert all_learned.training.cross_validation
    assert all_learned.training.held_out is None


def test_from_another_model() -> None:
    model = kamon.train(builtin.names()[:300], n_layer=1, n_embd=16)
    tuned = kamon.train(NAMES, init_from=model)
    assert tuned.training.cross_validation
    assert tuned.training.blend
    assert tuned.config.n_embd == 16


def test_a_stop_in_the_middle_makes_no_model(tmp_path: Path) -> None:
    """Its number of steps would not be known: a run that is resumed must be like any other."""
    asked = 0
    for last in (0, 3, 30):
        asked = 0

        def stopped() -> bool:
            nonlocal asked
            asked += 1
            return asked > last  # noqa: B023 - it is called here

        model = kamon.train(NAMES, output=tmp_path / "m", should_stop=stopped)
        assert last < asked <= last + 3  # the answer may come when the steps are done
        assert len(model.metrics) == 0
        assert not model.training.finished
        assert not (tmp_path / "m").exists()
    assert kamon.train(NAMES, output=tmp_path / "m").training.finished


def test_a_stop_while_a_budget_is_tried_makes_no_model() -> None:
    for docs in (NAMES, builtin.names()[:200]):
        model = kamon.train(docs, budget="1s", should_stop=lambda: True)
        assert (len(model.metrics), model.training.finished) == (0, False)


def test_the_folds_share_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    from kamon.training import presets

    budgets = []

    def steps(*arguments: Any) -> int:
        budgets.append(arguments[3])
        return 10**6

    monkeypatch.setattr(presets, "steps_for_seconds", steps)
    kamon.train(NAMES, budget=12)
    kamon.train(NAMES, budget=12, blend=False)
    kamon.train(builtin.names()[:1200], budget=12, hold_out=False)
    kamon.train(builtin.names()[:1200], budget=12)
    assert budgets == [12 / 6, 12, 12 / 2, 12]


def test_a_model_that_cannot_be_trained() -> None:
    with pytest.raises(
        TrainingError, match=r"diverged at step \d+ of \d+: .*\nhint: try a smaller"
    ):
        kamon.train(NAMES, learning_rate=1e30)


def test_a_run_that_stops_afterwards_can_be_resumed(tmp_path: Path) -> None:
    whole = kamon.train(NAMES, num_steps=30)
    model = kamon.train(NAMES, output=tmp_path / "m", num_steps=30, **stop_soon())
    assert 0 < len(model.metrics) < len(whole.metrics)
    assert model.training.cross_validation
    while not model.training.finished:
        model = kamon.resume(tmp_path / "m", **stop_soon())
    assert model.training | {"seconds": 0} == whole.training | {"seconds": 0}
    assert model.metrics == whole.metrics
    assert model.engine.state() == whole.engine.state()
    longer = kamon.resume(tmp_path / "m", extend=3)
    assert longer.training["cross_validation"] == whole.training["cross_validation"]
    assert longer.training["blend"] == whole.training["blend"]


def stop_soon() -> dict[str, Any]:
    """Callbacks that stop a run at its first report after 4 steps, at the latest after 11."""
    made = 0

    def on_progress(progress: Progress) -> None:
        nonlocal made
        made = len(progress.losses) - progress.num_before

    return {"on_progress": on_progress, "should_stop": lambda: made >= 4}


def test_the_command(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    done = kamon("train", names, "-o", tmp_path / "m")
    assert done.code == 0
    assert "5-fold cross-validation" in done.err
    training = model_dir.load(tmp_path / "m").training
    assert training.cross_validation
    assert f"loss  {training.cross_validation.loss:.3f}" in done.err
