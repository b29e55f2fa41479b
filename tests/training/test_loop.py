from __future__ import annotations

import random
from array import array
from dataclasses import replace

import pytest

from kamon.config import Config
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init
from kamon.errors import TrainingError
from kamon.training.early_stopping import EarlyStopping
from kamon.training.loop import Progress, learning_rate, make_plan, not_finite, pretrain

CONFIG = Config(n_embd=2, n_head=1, block_size=3, vocab_size=3, num_steps=40)
DOCS = pack_sequences([[2, 0, 2], [2, 1, 2], [2, 0, 1, 2]])


def engine(config: Config = CONFIG) -> Engine:
    made = make_engine("scalar", config)
    made.load(initial_state(init(config, random.Random(0))))
    return made


def test_learning_rate_falls_in_a_line() -> None:
    config = Config(num_steps=4, learning_rate=0.8)
    rates = [learning_rate(config, step) for step in range(5)]
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0], abs=1e-15)


def test_learning_rate_rises_before_it_falls() -> None:
    config = Config(num_steps=6, learning_rate=0.8, warmup_steps=2)
    rates = [learning_rate(config, step) for step in range(7)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.6, 0.4, 0.2, 0.0], abs=1e-15)
    rates = [learning_rate(replace(config, schedule="cosine"), step) for step in range(7)]
    assert rates == pytest.approx([0.4, 0.8, 0.8, 0.6828427, 0.4, 0.1171573, 0.0], abs=1e-7)
    assert learning_rate(Config(num_steps=3, learning_rate=1, warmup_steps=4), 2) == 0.75


@pytest.mark.parametrize(("schedule", "half"), [("linear", 0.45), ("cosine", 0.45)])
def test_learning_rate_falls_to_its_least(schedule: str, half: float) -> None:
    config = Config(num_steps=4, learning_rate=0.8, min_lr=0.1, schedule=schedule)
    rates = [learning_rate(config, step) for step in (0, 2, 4)]
    assert rates == pytest.approx([0.8, half, 0.1], abs=1e-15)


def test_documents_come_in_order_and_again() -> None:
    plan = make_plan(DOCS, Config(batch_size=2, num_steps=9), 1, 4)
    assert plan.indices == array("q", [2, 0, 1, 2, 0, 1])
    assert len(plan.learning_rates) == 3
    config = Config(batch_size=1, gradient_accumulation_steps=2, num_steps=9)
    assert make_plan(DOCS, config, 1, 4) == replace(
        plan, batch_size=1, gradient_accumulation_steps=2
    )


def test_progress_reports_do_not_change_the_result() -> None:
    reports: list[Progress] = []
    quiet, loud = engine(), engine()
    losses = pretrain(quiet, DOCS, CONFIG)
    assert pretrain(loud, DOCS, CONFIG, reports.append, lambda: False) == losses
    assert loud.state() == quiet.state()
    assert len(losses) == 40
    assert reports[-1].losses == losses
    assert sum(losses[-3:]) < sum(losses[:3])


def test_progress_tells_what_was_measured_before() -> None:
    reports: list[Progress] = []
    validation = EarlyStopping.of(DOCS, CONFIG)

    def on_progress(progress: Progress) -> None:
        reports.append(replace(progress, held_out=list(progress.held_out)))

    losses = pretrain(engine(), DOCS, CONFIG, on_progress, validation=validation)
    assert len(losses) == 40
    for report in reports:
        # Those of the step itself come behind its report.
        last = reports[-1].held_out[: len(report.held_out)]
        assert report.held_out == last == validation.history[: len(last)]
    assert [step for step, _ in reports[-1].held_out] == list(range(2, 40, 2))
    pretrain(engine(), DOCS, CONFIG, reports.append)
    assert reports[-1].held_out == ()


def test_stopping_keeps_what_was_learned() -> None:
    calls = 0

    def third_time() -> bool:
        nonlocal calls
        calls += 1
        return calls >= 3

    stopped = engine()
    losses = pretrain(stopped, DOCS, CONFIG, should_stop=third_time)
    assert 2 <= len(losses) < 40
    assert stopped.state()["step"] == len(losses)
    whole = engine()
    assert pretrain(whole, DOCS, CONFIG)[: len(losses)] == losses


def test_a_loss_that_is_not_finite_names_its_step() -> None:
    config = Config(n_embd=2, n_head=1, block_size=3, vocab_size=3, num_steps=40, learning_rate=1e9)
    with pytest.raises(
        TrainingError,
        match=r"at step [2-9] of 40: .*\nhint: try a smaller learning_rate than 1e\+09",
    ):
        pretrain(engine(config), DOCS, config)


def test_what_may_help_a_model_that_is_not_finite() -> None:
    assert "try a smaller std than 1e+20" in str(not_finite(1, Config(std=1e20)))
    wild = Config(learning_rate=1e30)
    assert "try a smaller learning_rate than 1e+30" in str(not_finite(3, wild))
