"""Compare fine-tuned models with their base: against results by hand, and the model itself."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import TINY, Result, piece_model
from helpers.lists import TRIPLES as DOCS
from helpers.pictures import texts as written
from helpers.runs import REWARD_TUNING, UNTRAINED
from kamon import plotting
from kamon.cli.compare import cell, name_cell
from kamon.config import Config
from kamon.data.documents import Documents
from kamon.engines.base import initial_state
from kamon.engines.batch import ANSWER, GOOD
from kamon.engines.factory import make_engine
from kamon.engines.parameters import parameter_shapes
from kamon.errors import ConfigError
from kamon.evaluation.nearest import logprobs
from kamon.finetuning.compare import (
    by_reward_model,
    compare,
    frontier_points,
    pareto_front,
    plain,
    readable,
)
from kamon.finetuning.dpo import dpo
from kamon.finetuning.expand_vocab import expand_vocab
from kamon.finetuning.preferences import Preference
from kamon.finetuning.reward_model import reward_model, reward_of
from kamon.finetuning.sft import sft
from kamon.model import Model
from kamon.storage.metrics import Metrics
from kamon.tokenizers.char import CharTokenizer

Kamon = Callable[..., Result]


@pytest.fixture(scope="module")
def base() -> Model:
    return kamon.train(DOCS, num_steps=30, n_embd=4, n_head=2, block_size=6, size="original")


@pytest.fixture(scope="module")
def tuned(base: Model) -> Model:
    """A model that has learned to end with k. Like a fine-tuned model, it has its base's list."""
    docs = [doc for doc in DOCS if doc.endswith("k")]
    found = kamon.train(docs, init_from=base, num_steps=60, learning_rate=0.02, hold_out=False)
    training = base.training | {"num_steps_done": 60}
    return replace(found, training=training, documents=base.documents)


def length(texts: Any) -> list[float]:
    return [float(len(text)) for text in texts]


def coin(logit: float, chars: str = "a", **shape: int) -> Model:
    """A model whose next token is an a with the same probability everywhere, or else the end.

    Layers are zero, and all positions and tokens look the same to lm_head.
    """
    tokenizer = CharTokenizer(chars)
    config = Config(
        vocab_size=tokenizer.vocab_size, n_embd=2, n_head=1, **{"block_size": 2} | shape
    )
    params = array("d")
    for name, (n_out, n_in) in parameter_shapes(config).items():
        row = [1.0] if name == "wte" else [0.0]
        params.extend(row * n_out * n_in)
    first = (config.vocab_size + config.block_size) * 2  # of lm_head
    params[first] = logit
    engine = make_engine("scalar", config)
    engine.load(initial_state(params))
    return Model(config, tokenizer, engine, Metrics(), UNTRAINED, Documents.of(["a", "aa"]))


def odds(model: Model) -> float:
    a, end = model.engine.decoder().push(model.tokenizer.bos)
    return 1 / (1 + math.exp(end - a))


# ---- distance


def test_a_model_is_at_no_distance_from_itself(base: Model) -> None:
    found = compare(base, {"same": base}, n=50, judge=length)
    same = found.tuned[0]
    assert (same.kl, same.kl_error, same.win_rate) == (0.0, 0.0, 0.5)
    assert same.samples == found.base.samples == base.sample(50, temperature=1.0)
    assert same.loss == same.base_loss == found.base.loss
    assert (same.num_read, same.notes) == (50, [])
    assert same.win_interval
    low, high = same.win_interval
    assert low < 0.5 < high
    assert found.base.win_interval is None


def test_the_kl_of_a_coin_by_hand() -> None:
    """There are at most two throws, and the second follows only an a."""
    one, other = coin(0.5), coin(1.5)
    q, p = odds(one), odds(other)
    assert 0.6 < q < 0.65
    assert 0.8 < p < 0.85
    found = compare(one, {"other": other}, n=1000, seed=3).tuned[0]
    gap_a, gap_end = math.log(p / q), math.log((1 - p) / (1 - q))
    by_text = {"": gap_end, "a": gap_a + gap_end, "aa": 2 * gap_a}
    assert set(found.samples) == set(by_text)
    gaps = [by_text[text] for text in found.samples]
    mean = math.fsum(gaps) / 1000
    assert found.kl == pytest.approx(mean, abs=1e-12)
    deviation = math.sqrt(math.fsum([(gap - mean) ** 2 for gap in gaps]) / 999)
    assert found.kl_error == pytest.approx(deviation / math.sqrt(1000), abs=1e-12)
    exact = (1 + p) * (p * gap_a + (1 - p) * gap_end)
    assert abs(found.kl - exact) < 4 * found.kl_error < 0.15
    assert found.finished == found.samples.count("") / 1000 + found.samples.count("a") / 1000


def test_losses_by_hand() -> None:
    one, other = coin(0.5), coin(1.5)
    found = compare(one, {"other": other}, n=2).tuned[0]
    # The targets are "a" and its end, and "aa".
    for loss, p in ((found.base_loss, odds(one)), (found.loss, odds(other))):
        assert loss == pytest.approx(-(3 * math.log(p) + math.log(1 - p)) / 4, abs=1e-12)
    assert found.num_docs == 2


def test_special_tokens_do_not_count(base: Model) -> None:
    config, tokenizer, params = expand_vocab(
        *(base.config, base.tokenizer, base.engine.state()["params"]), specials=[ANSWER, GOOD]
    )
    engine = make_engine(None, config)
    engine.load(initial_state(params))
    more = replace(base, config=config, tokenizer=tokenizer, engine=engine)
    assert more.tokenizer.vocab_size == base.tokenizer.vocab_size + 2
    found = compare(base, {"more": more}, n=40).tuned[0]
    assert (found.kl, found.loss, found.notes) == (0.0, found.base_loss, [])
    assert found.samples == more.sample(40, temperature=1.0)
    assert plain(base) is base


def test_characters_that_the_base_does_not_know(base: Model) -> None:
    """Kamon compares only texts without them. One new token is special, the other a letter."""
    config, tokenizer, params = expand_vocab(
        *(base.config, base.tokenizer, base.engine.state()["params"]), specials=[ANSWER]
    )
    config, tokenizer, params = expand_vocab(config, tokenizer, params, chars="z")
    engine = make_engine(None, config)
    engine.load(initial_state(params))
    more = replace(base, config=config, tokenizer=tokenizer, engine=engine)
    found = compare(base, {"more": more}, n=200).tuned[0]
    assert found.num_read == sum("z" not in text for text in found.samples) < 200
    left_out = 200 - found.num_read
    assert found.notes == [
        f"the KL and losses of more leave out {left_out} of 200 samples, because only one of the "
        "two models can read them"
    ]
    assert 0 <= found.kl < 0.2  # the remaining samples are nearly those of the base
    assert found.num_docs == len(base.parts()[1])


def test_texts_of_another_length_or_other_tokens() -> None:
    short, long = coin(0.5), coin(0.5, block_size=3)
    assert readable(short, long, ["", "a", "aa", "aaa", "b"]) == [True, True, False, False, False]
    assert readable(short, short, ["aa", "aaa"]) == [True, True]
    pieces = piece_model(DOCS, 270, **TINY)
    chars = kamon.train(DOCS, **TINY)
    assert readable(chars, pieces, ["afk", "afkafkafk", "z"]) == [True, False, False]
    found = compare(pieces, {"chars": chars}, n=30).tuned[0]
    assert "chars has other tokens than base, so Kamon compares" in " ".join(found.notes)
    assert 0 < found.num_read < 30
    assert math.isfinite(found.kl)


def test_no_text_that_both_can_read() -> None:
    found = compare(coin(0.5), {"b": coin(9.0, "b")}, n=20, judge=length)
    b = found.tuned[0]
    assert b.num_read == b.samples.count("")
    assert b.num_docs == 0
    assert b.loss is None
    if not b.num_read:
        assert b.kl == math.inf
        assert "the KL of b is infinite" in " ".join(b.notes)
        assert plotting.draw_frontier(found, by_wins=True).axes[0].texts[0].get_text() == "base"


# ---- a known shift


def test_a_shift_towards_an_ending(base: Model, tuned: Model) -> None:
    def ends(texts: Any) -> list[float]:
        return [float(text.endswith("k")) for text in texts]

    found = compare(base, {"tuned": tuned}, n=400, judge=ends, name="plain")
    first, other = found.base, found.tuned[0]
    assert first.rewards
    assert other.rewards
    assert other.rewards.mean == sum(ends(other.samples)) / 400 > first.rewards.mean + 0.3
    pairs = list(zip(ends(other.samples), ends(first.samples), strict=True))
    wins = sum(a > b for a, b in pairs) + sum(a == b for a, b in pairs) / 2
    assert other.win_rate == wins / 400
    assert other.win_interval
    low, high = other.win_interval
    assert 0.5 < low < other.win_rate < high < 1
    assert other.kl - 4 * other.kl_error > 0
    assert other.novel == sum(text not in DOCS for text in other.samples) / 400
    assert other.unique == len(set(other.samples)) / 400
    assert other.mean_length == sum(map(len, other.samples)) / 400
    assert found.in_list == {t for t in first.samples + other.samples if t in DOCS}
    assert other.loss
    assert other.base_loss
    assert other.loss != other.base_loss
    assert found.held_out


def test_samples_are_drawn_alike() -> None:
    """Samples use the same random numbers, so a larger probability of an a never shortens one."""
    found = compare(coin(0.5), {"other": coin(1.5)}, n=300, judge=length)
    pairs = list(zip(found.base.samples, found.tuned[0].samples, strict=True))
    assert all(len(a) <= len(b) for a, b in pairs)
    assert 0.5 < (found.tuned[0].win_rate or 0) < 1


def test_what_a_collapse_leaves() -> None:
    found = compare(coin(0.0, block_size=9), {"never": coin(-20.0, block_size=9)}, n=100).tuned[0]
    assert "never: 100% of the samples are ''" in found.notes
    assert set(found.samples) == {""}


def test_models_that_cannot_be_compared(base: Model) -> None:
    judge = replace(base, training=base.training | {"tuning": REWARD_TUNING})
    with pytest.raises(ConfigError, match="x is a reward model, which cannot generate"):
        compare(base, {"x": judge})
    text = kamon.train(["a text of some length. " * 60], mode="text", num_steps=1, n_embd=4)
    with pytest.raises(ConfigError, match="base was trained on one long text"):
        compare(text, {"x": base})
    with pytest.raises(ConfigError, match="must be 2 or more, not 1"):
        compare(base, {"x": base}, n=1)
    other = kamon.train(["kim", "lee", "anna"], **TINY)
    found = compare(base, {"x": replace(base, training=other.training)}, n=2).tuned[0]
    assert "x comes from another list than base" in found.notes[0]


def test_texts_that_cannot_be_judged() -> None:
    """Texts without a reward count neither in the win rate nor in the deviation."""

    def judge(texts: Any) -> list[float | None]:
        return [None if text == "aa" else float(len(text)) for text in texts]

    found = compare(coin(0.5), {"other": coin(1.5)}, n=200, judge=judge)
    first, other = found.base, found.tuned[0]
    for each in (first, other):
        ended = [len(text) for text in each.samples if text != "aa"]
        assert each.rewards
        assert each.rewards.n == len(ended) < 200
        assert each.rewards.mean == sum(ended) / len(ended)
        left_out = f"{200 - len(ended)} of 200 samples of {each.name} have no reward: they are too "
        assert any(note.startswith(left_out) for note in each.notes)
    pairs = zip(other.samples, first.samples, strict=True)
    gaps = [len(a) - len(b) for a, b in pairs if "aa" not in (a, b)]
    assert other.win_rate == sum((gap > 0) + (gap == 0) / 2 for gap in gaps) / len(gaps)
    nobody = compare(
        coin(0.5), {"other": coin(1.5)}, n=9, judge=lambda texts: [None for _ in texts]
    )
    assert (nobody.base.rewards, nobody.tuned[0].win_rate) == (None, None)
    with pytest.raises(ConfigError, match="needs a judge of base"):
        frontier_points(nobody, by_wins=True)


def test_a_reward_model_judges_what_it_can_read(base: Model) -> None:
    pairs = [Preference(a, b) for a, b in zip(DOCS[:30], DOCS[30:60], strict=True)]
    judge = reward_model(base, pairs, num_steps=2, batch_size=4)
    room = judge.config.block_size - 2
    texts = ["afk", "z", "a" * room, "a" * (room + 1), ""]
    found = by_reward_model(judge)(texts)
    assert [each is None for each in found] == [False, True, False, True, False]
    assert [found[i] for i in (0, 2, 4)] == reward_of(judge, [texts[i] for i in (0, 2, 4)])
    assert by_reward_model(judge)(["z"]) == [None]


# ---- answers


def test_answers_to_a_prompt(base: Model, tmp_path: Path, kamon: Kamon) -> None:
    """Samples, KL and rewards are of answers. The loss on the list is the same as without."""
    data = [{"prompt": doc[-1].upper(), "completion": doc} for doc in DOCS]
    one = sft(base, data, num_steps=30)
    pairs = [Preference(doc, doc + "k", "K") for doc in DOCS[:20]]
    other = dpo(one, pairs, num_steps=5, learning_rate=0.01)
    judge = reward_model(one, pairs, [], num_steps=2)
    found = compare(one, {"other": other}, n=60, judge=by_reward_model(judge, "K"), prompt="K")
    tuned = found.tuned[0]
    assert found.prompt == "K"
    assert tuned.samples == other.sample(60, temperature=1.0, prompt="K")
    assert found.base.samples == one.sample(60, temperature=1.0, prompt="K")
    own, base_own = (logprobs(m.engine, m.tokenizer, tuned.samples, "K") for m in (other, one))
    gaps = [p - q for p, q in zip(own, base_own, strict=True)]
    assert tuned.kl == pytest.approx(math.fsum(gaps) / 60, abs=1e-12)
    assert tuned.kl != 0
    assert (found.base.kl, tuned.num_read) == (0.0, 60)
    assert tuned.rewards
    assert tuned.rewards.mean == pytest.approx(
        math.fsum(reward_of(judge, tuned.samples, "K")) / 60, abs=1e-12
    )
    without = compare(one, {"other": other}, n=2).tuned[0]
    assert (tuned.loss, tuned.base_loss) == (without.loss, without.base_loss)
    with pytest.raises(
        ConfigError, match=r"x knows no prompts\nhint: train one that does with `kamon sft`"
    ):
        compare(one, {"x": base}, prompt="K")
    with pytest.raises(
        ConfigError,
        match=r"has 30 tokens and leaves no room for an answer in .*\nhint: shorten the prompt",
    ):
        compare(one, {"other": other}, prompt="K" * 30)
    with pytest.raises(ConfigError, match="the reward model knows no prompts"):
        by_reward_model(reward_model(base, [Preference("a", "b")], [], num_steps=1), "K")
    one.save(tmp_path / "one")
    other.save(tmp_path / "other")
    argv = ["compare", tmp_path / "one", tmp_path / "other", "-n=60", "--prompt=K"]
    done = kamon(*argv)
    assert done.code == 0, done.err
    assert "60 samples per model for 'K', seed " in done.out
    shown = kamon(*argv, "--json").json
    assert (shown["prompt"], shown["tuned"][0]["kl"]) == ("K", tuned.kl)
    assert shown["on_validation_set"] == found.held_out


# ---- the frontier


def test_a_frontier(base: Model, tuned: Model) -> None:
    found = compare(base, {"tuned": tuned, "same": base}, n=100, judge=length)
    with pytest.raises(ConfigError, match="needs a judge"):
        frontier_points(compare(base, {"tuned": tuned}, n=2), by_wins=True)
    for by_wins in (True, False):
        points = frontier_points(found, by_wins)
        figure = plotting.draw_frontier(found, by_wins=by_wins)
        (axes,) = figure.axes
        for each, (y, low, high) in zip(found.all, points, strict=True):
            assert any(each.kl in line.get_xdata() and y in line.get_ydata() for line in axes.lines)
            assert low <= y <= high
        ends = {
            float(y) for bar in axes.collections for part in bar.get_segments() for _, y in part
        }
        for _, low, high in points:
            assert any(end == pytest.approx(low) for end in ends)
            assert any(end == pytest.approx(high) for end in ends)
        assert {"base", "tuned", "same", "best at their KL"} <= set(written(figure))
        assert plotting.render(figure) == plotting.render(
            plotting.draw_frontier(found, by_wins=by_wins)
        )
    rewards = found.tuned[0].rewards
    assert rewards
    mean, low, _ = frontier_points(found, by_wins=False)[1]
    assert mean == rewards.mean
    assert mean - low == pytest.approx(1.96 * rewards.deviation / 10)


def test_names_do_not_cover_each_other(base: Model) -> None:
    found = compare(base, {f"model {i}": base for i in range(3)}, n=5, judge=length)
    (axes,) = plotting.draw_frontier(found, by_wins=True).axes
    corners = {(text.get_ha(), text.get_va()) for text in axes.texts}
    assert len(corners) == 4


def test_equal_points_beat_no_other() -> None:
    assert pareto_front([(0, 1), (0, 1), (1, 1), (1, 2)]) == [True, True, False, True]


# ---- the command line


@pytest.fixture
def folder(base: Model, tuned: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    base.save("base")
    tuned.save("tuned")


@pytest.mark.usefixtures("folder")
def test_tables(base: Model, tuned: Model, kamon: Kamon) -> None:
    done = kamon("compare", "base", "tuned", "-n=100", "--prefer", 'endswith "k"', "--show=3")
    assert done.code == 0
    lines = done.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    samples = [model.sample(3, temperature=1.0, seed=42) for model in (base, tuned)]
    marked = [[text + "*" * (text in DOCS) for text in texts] for texts in samples]
    assert lines[0].split() == ["base", "tuned"]
    assert [line.split() for line in lines[1:4]] == [
        list(pair) for pair in zip(*marked, strict=True)
    ]
    found = kamon("compare", "base", "tuned", "-n=100", "--prefer", 'endswith "k"', "--json").json
    other = found["tuned"][0]
    assert f"{other['kl']:.3f} ± {other['kl_error']:.3f}" in done.out
    assert f"{other['win_rate']:.1%} (" in done.out
    assert f"{other['loss']:.3f}" in done.out
    assert [each["text"] for each in other["samples"][:3]] == samples[1]
    assert [each["in_list"] for each in other["samples"]] == [
        each["text"] in DOCS for each in other["samples"]
    ]
    rows = [line.split() for line in lines[lines.index("") + 1 :]]
    assert [row[0] for row in rows if row and row[0] in ("base", "tuned")] == [
        *("base", "tuned", "base", "tuned")
    ]
    assert kamon("compare", "base", "tuned", "-n=100", "--show=0").out.startswith("      ")


@pytest.mark.usefixtures("folder")
def test_a_picture(kamon: Kamon) -> None:
    argv = ["compare", "base", "tuned", "-n=20", "--prefer=len > 2", "-o"]
    assert "Wrote f.svg" in kamon(*argv, "f.svg").err
    first = Path("f.svg").read_bytes()
    done = kamon(*argv, "f.svg")
    assert (done.code, done.out) == (1, "")
    assert "already exists" in done.err
    assert kamon(*argv, "f.svg", "--overwrite").code == 0
    assert Path("f.svg").read_bytes() == first
    assert kamon(*argv, "f.png").code == 0
    assert Path("f.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("folder")
def test_many_models_in_blocks(base: Model, kamon: Kamon) -> None:
    names = [f"a-model-with-a-long-name-{i}" for i in range(6)]
    for name in names:
        base.save(name)
    done = kamon("compare", "base", *names, "-n=10", "--show=2")
    assert all(len(line) <= 80 for line in done.out.splitlines())
    assert sum(line.startswith("base ") for line in done.out.splitlines()) == 3
    for i in range(6):
        assert sum(f"name-{i}" in line for line in done.out.splitlines()) >= 1


def test_names_and_samples_in_columns() -> None:
    assert name_cell("a-model-of-2026-07", 9) == "a-mo…6-07"
    assert name_cell("名前名前名前", 8) == "名…名前 "
    assert cell("anna", 6) == "anna  "
    assert cell("johanna", 6) == "johan…"
    assert cell("東京都", 5) == "東京…"
