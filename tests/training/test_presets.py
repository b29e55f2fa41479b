"""One dial: times and sizes to settings; what is picked can be given again as flags."""

from __future__ import annotations

import itertools
import random
import re
import time
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import Result
from helpers.lists import DOCS
from kamon import train
from kamon.config import Config
from kamon.data.split import split
from kamon.engines.base import StepPlan, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import train as train_steps
from kamon.engines.parameters import init, num_params
from kamon.errors import ConfigError, TrainingError
from kamon.native import library
from kamon.storage import model_dir
from kamon.training import presets
from kamon.training.presets import (
    EVAL_TIME_SHARE,
    MAX_DELAY_SECONDS,
    MAX_EPOCHS,
    MIN_CHARS,
    MIN_SECONDS,
    MIN_TEXT_SECONDS,
    PICKED,
    PRESETS,
    TEXT_PRESETS,
    block_size_for,
    default_size,
    fine_tuning_steps,
    max_steps,
    preset,
    seconds_of,
    set_num_steps,
    size_for,
    sizes_for,
    steps_for_seconds,
)

Kamon = Callable[..., Result]
LENGTHS = Counter(map(len, DOCS))


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [("500ms", 0.5), ("10s", 10), ("2m", 120), ("1h", 3600), ("1.5 s", 1.5), (".5s", 0.5), (3, 3)],
)
def test_times(budget: str | float, seconds: float) -> None:
    assert seconds_of(budget) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "budget", ["", "s", "10", "10 apples", "-1s", "0s", "1e9h", "1.s", "nans", 0, -1, float("nan")]
)
def test_what_is_no_time(budget: str | float) -> None:
    with pytest.raises(ConfigError, match="must be a time from 1ms to 30 days with its unit"):
        seconds_of(budget)


def test_more_time_never_means_a_smaller_model() -> None:
    assert list(MIN_SECONDS) == list(PRESETS)
    chosen = [size_for(seconds, many(10_000)) for seconds in (0.001, 0.1, 0.5, 4, 30, 1000)]
    assert chosen == [*PRESETS, "huge"]
    sizes = [num_params(Config(**preset(LENGTHS, size))) for size in PRESETS]
    assert sizes == sorted(sizes)
    with pytest.raises(
        ConfigError, match=r"unknown size 'vast'\nhint: choose from tiny, small.*original"
    ):
        preset(LENGTHS, "vast")


def many(num_docs: int) -> Counter[int]:
    return Counter({7: num_docs})


def test_text_has_sizes_of_its_own() -> None:
    assert list(TEXT_PRESETS) == list(MIN_CHARS) == list(MIN_TEXT_SECONDS) == list(PRESETS)
    long = Counter({10**9: 1})
    chosen = [size_for(seconds, long, "text") for seconds in (0.01, 2, 20, 240, 1800)]
    assert chosen == list(PRESETS)
    assert size_for(1800, Counter({60_000: 1}), "text") == "small"
    assert default_size("native", long, "text") == "small"
    assert default_size("native", Counter({1_000: 9}), "text") == "tiny"
    assert default_size("scalar", long, "text") == "original"
    sizes = [num_params(Config(**preset(long, size, "text"))) for size in PRESETS]
    assert sizes == sorted(sizes)
    assert {name for size in PRESETS for name in preset(long, size, "text")} <= {
        *PICKED,
        "temperature",
    }
    assert max_steps(1, 12, None, "text") == 2_000


def test_what_the_sizes_do_not_pick_is_as_in_the_original() -> None:
    assert preset(LENGTHS, "original") == {}
    picked = {name for size in PRESETS for name in preset(LENGTHS, size)}
    assert picked | {"num_steps", "warmup_steps"} == PICKED
    config = train(DOCS, size="original", num_steps=2).config
    assert config == Config(num_steps=2, vocab_size=config.vocab_size)


def test_the_default_is_medium_and_with_the_scalar_engine_the_original() -> None:
    settings = {"n_embd": 4, "block_size": 8, "num_steps": 1}
    config = train(DOCS, engine="scalar", **settings).config
    assert config == Config(**settings, vocab_size=config.vocab_size)
    assert default_size("native", many(10_000)) == "medium"
    if not library.why_not():
        assert train(DOCS, **settings).config.batch_size == PRESETS["tiny"]["batch_size"]


def test_a_short_list_gets_a_small_model() -> None:
    """Measured on parts of the original's list: what a larger one learns is the list by heart."""
    sizes = [default_size("native", many(n)) for n in (10, 1_999, 2_000, 2_999, 3_000, 10**7)]
    assert sizes == ["tiny", "tiny", "small", "small", "medium", "medium"]
    assert size_for(1000, many(500)) == "tiny"


@pytest.mark.parametrize(
    ("num_docs", "seconds", "learned"),
    [
        (10, None, 1000),
        (1_000, None, 20_000),
        (26_000, None, 130_000),
        (10**7, None, 300_000),
        (10, 1.0, 1000),
        (10**7, 2.0, 2_000_000),
    ],
)
def test_how_much_is_learned(num_docs: int, seconds: float | None, learned: int) -> None:
    """Some passes; of few documents enough, of very many not all where no time is named."""
    assert max_steps(num_docs, 1, seconds) == learned
    assert max_steps(num_docs, 8, seconds) == learned // 8


@pytest.mark.parametrize(
    ("num_docs", "has_budget", "learned"),
    [
        (10, False, 80),
        (1_000, False, 8_000),
        (20_000, False, 40_000),
        (50_000, False, 50_000),
        (20_000, True, 160_000),
    ],
)
def test_how_much_is_learned_from_the_base(num_docs: int, has_budget: bool, learned: int) -> None:
    """Some passes; of many documents fewer, but one, where no time is named."""
    assert fine_tuning_steps(num_docs, 1, has_budget) == learned
    assert fine_tuning_steps(num_docs, 16, has_budget) == learned // 16
    assert fine_tuning_steps(2, 64, has_budget) == 1


def test_a_budget_that_suffices_never_learns_less_than_the_default() -> None:
    for num_docs in (1, 2, 10, 99, 1_000, 10_000, 10**5, 10**7):
        assert max_steps(num_docs, 8, 60.0) >= max_steps(num_docs, 8, None)
        assert fine_tuning_steps(num_docs, 8, True) >= fine_tuning_steps(num_docs, 8, False)


@pytest.mark.parametrize("init_from", [None, "base", "scratch"])
@pytest.mark.parametrize("num_docs", [60, 150])
def test_a_run_with_time_learns_no_less_than_one_without_a_budget(
    init_from: str | None, num_docs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"init_from": init_from, "blend": False}
    usual = train(DOCS[:num_docs], **how).config
    monkeypatch.setattr(presets, "steps_for_seconds", lambda *_: 10**6)
    chosen = train(DOCS[:num_docs], budget="1h", should_stop=lambda: True, **how).config
    assert chosen.num_steps * chosen.docs_per_step >= usual.num_steps * usual.docs_per_step
    assert chosen.n_embd >= usual.n_embd


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([3], 8), ([15, 7], 16), ([63], 64), ([10] * 99 + [5000], 11), ([5000] * 9, 256)],
)
def test_block_size(lengths: list[int], expected: int) -> None:
    assert block_size_for(Counter(lengths)) == expected


def test_the_trial_leaves_no_trace_and_the_time_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(n_embd=4, n_head=2, block_size=5, vocab_size=7)
    engine = make_engine("scalar", config)
    engine.load(initial_state(init(config, random.Random(1))))
    before = engine.state()
    docs = pack_sequences([[6, 1, 2, 6], [6, 3, 6]] * 100)
    now = 0.0

    def timed(*arguments: Any) -> Any:
        nonlocal now
        losses = train_steps(*arguments)
        now += 0.002 * len(losses)
        return losses

    with monkeypatch.context() as patch:  # a processor whose steps take two milliseconds each
        patch.setattr(presets, "train", timed)
        patch.setattr(time, "perf_counter", lambda: now)
        for seconds in (0.4, 1.6):
            steps = steps_for_seconds(engine, docs, config, seconds)
            assert steps == pytest.approx(seconds * (1 - EVAL_TIME_SHARE) / 0.002, abs=1)
    assert engine.state() == before
    assert set(engine.gradients()) == {0.0}
    few = pack_sequences([[6, 1, 2, 6]])
    tiny = Config(n_embd=1, n_head=1, block_size=5, vocab_size=7)
    engine = make_engine("scalar", tiny)
    engine.load(initial_state(init(tiny, random.Random(1))))
    assert steps_for_seconds(engine, few, tiny, 3.0) == MAX_EPOCHS


def steps_beside_others(
    slower: Callable[[int], float], monkeypatch: pytest.MonkeyPatch, enough: int = 0
) -> int:
    """How many steps fit into 10 s if trial number i takes slower(i) times 2 ms for a step."""
    config = Config(n_embd=1, n_head=1, block_size=5, vocab_size=7)
    engine = make_engine("scalar", config)
    engine.load(initial_state(init(config, random.Random(1))))
    trials = itertools.count()
    now = 0.0

    def timed(_: Any, plan: StepPlan, __: Any) -> array[float]:
        nonlocal now
        now += 0.002 * len(plan.learning_rates) * slower(next(trials))
        return array("d", [1.0]) * len(plan.learning_rates)

    with monkeypatch.context() as patch:
        patch.setattr(presets, "train", timed)
        patch.setattr(time, "perf_counter", lambda: now)
        return steps_for_seconds(engine, pack_sequences([[6, 1, 2, 6]] * 1000), config, 10, enough)


def test_a_busy_machine_learns_as_much(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = int(10 * (1 - EVAL_TIME_SHARE) / 0.002)
    seldom = steps_beside_others(lambda i: 20.0 if i % 3 == 0 else 1.0, monkeypatch)
    twice = steps_beside_others(lambda i: 1.9 if i % 4 else 1.0, monkeypatch)
    assert seldom == pytest.approx(fit, abs=1)
    assert twice == pytest.approx(fit, abs=1)


def test_a_very_busy_machine_takes_no_longer_than_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(i: int) -> float:
        return 10.0 if i % 5 else 1.0

    fit = int(10 * (1 - EVAL_TIME_SHARE) / 0.002)
    for enough, steps in ((0, fit * MAX_DELAY_SECONDS / 10), (3000, 3000), (10**6, fit)):
        assert steps_beside_others(busy, monkeypatch, enough) == pytest.approx(steps, abs=2)


def test_a_model_that_cannot_be_trained_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(*arguments: Any) -> Any:
        calls.append(arguments)
        assert len(calls) < 5
        return train_steps(*arguments)

    monkeypatch.setattr(presets, "train", counted)
    with pytest.raises(
        TrainingError, match=r"diverged at step \d+ of \d+: .*\nhint: try a smaller std"
    ):
        train(DOCS, budget=10, std=1e30, init_from="scratch")
    assert calls


def test_a_stop_ends_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def stop() -> bool:
        asked.append(1)
        return True

    def counted(*arguments: Any) -> Any:
        losses = train_steps(*arguments)
        assert asked
        return losses

    monkeypatch.setattr(presets, "train", counted)
    how = {"engine": "scalar", "n_embd": 4, "batch_size": 1, "hold_out": False}
    model = train(DOCS[:50], budget="1h", should_stop=stop, **how)
    assert len(model.metrics) <= 1


@pytest.mark.parametrize(
    ("seconds", "engine", "num_docs", "mode", "sizes"),
    [
        (60, "native", 10_000, "documents", ["huge", "large", "medium"]),
        (5, "native", 10_000, "documents", ["large", "medium"]),
        (1, "native", 10_000, "documents", ["medium"]),
        (0.2, "native", 10_000, "documents", ["small"]),
        (60, "native", 100, "documents", ["tiny"]),
        (5, "scalar", 10_000, "documents", ["tiny"]),
        (5, "native", 10**6, "text", ["small"]),
    ],
)
def test_sizes_to_try(
    seconds: float, engine: str, num_docs: int, mode: str, sizes: list[str]
) -> None:
    assert sizes_for(seconds, engine, many(num_docs), mode) == sizes


def test_a_slow_machine_gets_no_larger_model_that_learns_less_than_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = ["".join(letters) for letters in itertools.product("abcdefghijklmnop", repeat=3)]
    enough = {}

    def slow(*arguments: Any) -> int:
        _, _, config, _, enough[config.n_embd], _ = arguments
        return 1

    monkeypatch.setattr(presets, "steps_for_seconds", slow)
    if not library.why_not():
        model = train(words, budget=5)
        assert list(enough) == [96, 64, 32]  # the base first
        assert model.config.n_embd == PRESETS["medium"]["n_embd"]
        assert model.config.num_steps == 1
        assert model.training["init_from"] is None
        usual = max_steps(len(split(words)[0]), PRESETS["medium"]["batch_size"], None)
        assert enough[32] == usual


def test_warm_up_is_in_proportion_unless_it_is_given() -> None:
    assert set_num_steps(Config(), 200, []).warmup_steps == 4
    assert set_num_steps(Config(warmup_steps=3), 200, ["warmup_steps"]).warmup_steps == 3


def test_what_is_given_rules() -> None:
    model = train(DOCS, size="tiny", n_embd=8, num_steps=7)
    config = model.config
    assert (config.n_embd, config.num_steps, config.block_size) == (8, 7, 8)
    assert config.learning_rate == PRESETS["tiny"]["learning_rate"]
    assert config.warmup_steps == 0
    with pytest.raises(ConfigError, match="give budget or num_steps, not both"):
        train(DOCS, budget=1, num_steps=3)
    given = {
        "learning_rate": 0.002, "batch_size": 4, "num_steps": 7, "warmup_steps": 3, "dropout": 0.2,
        "schedule": "linear", "block_size": 11, "temperature": 1.2, "beta1": 0.7, "beta2": 0.98,
        "weight_decay": 0.3, "seed": 5,
    }  # fmt: skip
    for docs in (DOCS, DOCS[:60]):  # the number of steps of the latter is usually chosen
        config = train(docs, **given).config
        assert config.n_embd == 96
        assert {name: getattr(config, name) for name in given} == given


def test_a_size_alone_makes_the_same_model_each_time() -> None:
    one, two = (train(DOCS, size="tiny", n_embd=4) for _ in range(2))
    assert one.engine.state() == two.engine.state()
    assert one.config.num_steps == max_steps(len(split(DOCS)[0]), 8, None)


def test_a_budget_is_kept_and_can_be_given_again_as_flags(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS * 2))
    begin = time.perf_counter()
    done = kamon("train", names, "-o", tmp_path / "m", "--budget", "300ms", "--threads=1", "-v")
    assert time.perf_counter() - begin < 60
    assert done.code == 0
    picked = re.search(r"^Settings +(.*)$", done.err, re.MULTILINE)
    assert picked
    again = kamon("train", names, "-o", tmp_path / "again", "--threads=1", *picked[1].split())
    assert again.out == done.out
    first, second = model_dir.load(tmp_path / "m"), model_dir.load(tmp_path / "again")
    assert first.config == second.config
    assert first.params == second.params != array("d")


def test_bad_budgets_on_the_command_line(tmp_path: Path, kamon: Kamon) -> None:
    for flags in (["--budget", "soon"], ["--size", "vast"], ["--budget=1s", "--num-steps=5"]):
        done = kamon("train", "names", "-o", tmp_path / "m", *flags)
        assert done.code == 2
        assert len(done.err.splitlines()[-1:]) == 1
        assert not (tmp_path / "m").exists()
