"""DPO: the gradient, the pairs, the measurements, and resuming bit for bit."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import ENGINES, Result
from helpers.runs import stop_after
from kamon.engines.base import initial_state
from kamon.engines.numerics import sequential_sum
from kamon.engines.parameters import num_params
from kamon.errors import ConfigError, CorpusError, TokenizerError
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import preferences
from kamon.finetuning.dpo import DPOConfig, dpo, examples_from, num_cut, resume, tokenize_pairs
from kamon.finetuning.loop import StartInfo
from kamon.finetuning.preferences import Feedback, Preference, Rating
from kamon.finetuning.rules import parse_rule
from kamon.finetuning.sft import sft
from kamon.model import Model, load
from kamon.native import library
from kamon.storage import model_dir
from kamon.storage.checkpoint import unpack_examples

DOCS = [a + b + c + d for a in "abcde" for b in "fgh" for c in "klm" for d in ("", "xyz")]
PAIRS = [Preference(a[:3], a[:3] + "xyz") for a in DOCS[::2]] * 2


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "m"
    shape = {"n_embd": 8, "n_head": 2, "block_size": 8, "num_steps": 150, "learning_rate": 0.02}
    kamon.train(DOCS, output=path, size="original", **shape)
    return path


def same(model: Model, other: Model) -> None:
    assert model.metrics == other.metrics
    assert model.engine.state()["params"] == other.engine.state()["params"]
    assert model.training | {"seconds": 0} == other.training | {"seconds": 0}


@pytest.mark.parametrize("objective", [DPOConfig(0.3, "dpo", 0.1), DPOConfig(0.2, "ipo", 0.0)])
def test_a_step_goes_down_the_loss(objective: DPOConfig, base: Path) -> None:
    """The gradient of a batch equals finite differences of the loss, for each parameter."""
    model = kamon.load(base, engine="scalar")
    tokenizer, config = model.tokenizer, model.config
    examples = [
        {"chosen": "afk", "rejected": "bgl", "ref_chosen": -6.0, "ref_rejected": -5.0},
        {"chosen": "chm", "rejected": "afkxyz", "ref_chosen": -5.5, "ref_rejected": -4.0},
    ]
    pairs = tokenize_pairs(tokenizer, config.block_size, examples)
    assert pairs.ref == [-6.0, -5.5, -5.0, -4.0]
    engine, params = model.engine, model.engine.state()["params"]
    from kamon.engines.batch import pack_sequences
    from kamon.engines.spans import target_weights
    from kamon.finetuning.dpo import num_targets_of

    batch = pack_sequences(pairs.tokens)
    weights = objective.weights(pairs.logprobs(engine), pairs.ref)
    engine.load(initial_state(params))
    engine.backward(batch, target_weights(weights, pairs.spans, num_targets_of(batch)))
    gradients = engine.gradients()

    def loss_at(place: int, off: float) -> float:
        moved = params[:]
        moved[place] += off
        engine.load(initial_state(moved))
        return objective.measure(pairs.logprobs(engine), pairs.ref)["loss"]

    for place in range(0, num_params(config), 97):
        slope = (loss_at(place, 1e-5) - loss_at(place, -1e-5)) / 2e-5
        assert gradients[place] == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_measured() -> None:
    """The margins are 2, 0 and −1, and a margin of 0 counts as half right."""
    found = DPOConfig(0.5, "dpo", 0.0).measure([-1, -2, -3, -3, -2, -2], [0.0] * 6)
    assert found["accuracy"] == pytest.approx(1.5 / 3)
    assert found["margin"] == pytest.approx(0.5 * (2 + 0 - 1) / 3)
    wanted = [math.log1p(math.exp(-0.5 * m)) for m in (2, 0, -1)]
    assert found["loss"] == pytest.approx(math.fsum(wanted) / 3)


@pytest.mark.parametrize("engine", ENGINES)
def test_it_prefers_what_was_chosen(engine: str, base: Path) -> None:
    settings = {"num_steps": 10, "batch_size": 4} if engine == "scalar" else {"num_steps": 80}
    pairs = PAIRS[:12] if engine == "scalar" else PAIRS
    model = dpo(base, pairs, engine=engine, learning_rate=0.01, **settings)
    known = model.training["tuning"]
    assert known["kind"] == "dpo"
    assert known["pairs"]["held_out"] == (len(pairs) > 50)
    assert known["pairs"]["accuracy"] > 0.95
    assert known["pairs"]["margin"] > 0.1
    assert model.metrics[-1]["loss"] < math.log(2) - 0.05
    before = kamon.load(base, engine=engine)
    chosen, rejected = [p.chosen for p in PAIRS], [p.rejected for p in PAIRS]

    def gain(texts: list[str]) -> float:
        own, other = (logprobs(m.engine, m.tokenizer, texts) for m in (model, before))
        return sequential_sum(p - q for p, q in zip(own, other, strict=True)) / len(texts)

    assert gain(chosen) > gain(rejected) + 0.3
    assert known["kl"] > 0
    assert (known["judged"], known["win_rate"], known["win_rate_interval"]) == (0, None, None)


def test_the_reference_is_frozen(base: Path) -> None:
    """The loss of the first step is log 2, because the model still equals the reference."""
    model = dpo(base, PAIRS, num_steps=3, learning_rate=0.01)
    assert model.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert model.metrics[0]["margin"] == pytest.approx(0, abs=1e-6)
    seen: list[StartInfo] = []
    dpo(base, PAIRS, num_steps=1, on_start=seen.append)
    start = kamon.load(base)
    [first, *_] = seen[0].spec.examples
    own = logprobs(start.engine, start.tokenizer, [first["chosen"], first["rejected"]])
    assert [first["ref_chosen"], first["ref_rejected"]] == pytest.approx(own, abs=1e-5)
    assert seen[0].spec.frozen == start.engine.state()["params"]


@pytest.mark.parametrize("engine", ENGINES)
def test_stopped_again_and_again(engine: str, base: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_steps": 5, "batch_size": 3, "max_kl": 50.0, "beta": 0.2}
    pairs = PAIRS[:6] if engine == "scalar" else PAIRS
    whole = dpo(base, pairs, engine=engine, **options)
    path = tmp_path / "m"
    dpo(base, pairs, engine=engine, output=path, should_stop=stop_after(1), **options)
    model = resume(path, should_stop=stop_after(0))
    assert not model.training["finished"]
    while not model.training["finished"]:
        model = resume(path, should_stop=stop_after(2), threads=1)
    whole.training["tuning"]["base"]["path"] = model.training["tuning"]["base"]["path"]
    same(model, whole)
    same(kamon.load(path, engine=engine), whole)
    with pytest.raises(ConfigError, match="is already complete"):
        resume(path)


@pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())
def test_a_budget_of_kl(base: Path) -> None:
    free = dpo(base, PAIRS, num_steps=80, learning_rate=0.005)
    assert free.training["tuning"]["kl"] > 0.5
    held = dpo(base, PAIRS, num_steps=80, learning_rate=0.005, max_kl=0.3)
    known = held.training["tuning"]
    assert len(held.metrics) < 80
    assert held.training["finished"]
    assert known["over_budget"]
    assert known["kept_within"]
    assert 0 < known["kl"] < 0.3 + 4 * known["kl_error"]
    few = dpo(base, PAIRS[:20], num_steps=80, learning_rate=0.005, max_kl=0.3)
    known = few.training["tuning"]
    assert len(few.metrics) < 80
    assert not known["pairs"]["held_out"]
    assert known["over_budget"]
    assert not known["kept_within"]


def test_pairs_by_a_rule_share_no_text(base: Path) -> None:
    model = kamon.load(base)
    examples, source, _ = examples_from(model, None, "len<=3", 60, 1)
    assert source == "samples, by the rule len<=3"
    rule = parse_rule("len<=3")
    assert all(rule(e["chosen"]) and not rule(e["rejected"]) for e in examples)
    sides = [
        {
            e[key]
            for e in examples
            if e.get("held_out", False) == which
            for key in ("chosen", "rejected")
        }
        for which in (False, True)
    ]
    assert min(map(len, sides)) > 0
    assert sides[0].isdisjoint(sides[1])


def test_what_is_held_out_of_a_file(base: Path, tmp_path: Path) -> None:
    model = kamon.load(base)
    path = tmp_path / "p.jsonl"
    lines = [json.dumps({"chosen": p.chosen, "rejected": p.rejected}) for p in PAIRS]
    path.write_text("\n".join(lines))
    examples, *rest = examples_from(model, str(path), None, 1, 1)
    assert (len(examples), rest) == (len(PAIRS), [str(path), 0])
    apart = {e["chosen"] for e in examples if e.get("held_out")}
    assert apart
    assert apart.isdisjoint(e["chosen"] for e in examples if not e.get("held_out"))
    assert not any("held_out" in e for e in examples_from(model, PAIRS[:30], None, 1, 1)[0])


@pytest.mark.parametrize("verb", ["dpo", "reward"])
def test_no_text_is_learned_and_tested_on(
    verb: str, base: Path, tmp_path: Path, kamon: Callable[..., Result]
) -> None:
    path = tmp_path / "ratings.jsonl"
    ratings: list[Feedback] = [Rating(doc, len(doc) < 5) for doc in DOCS]
    everyone = [Preference(a, b) for a, b in itertools.combinations(DOCS[:60], 2)]
    for answers in (ratings, everyone):
        preferences.write(path, answers)
        flags = ("-o", tmp_path / "m", "--num-steps=2", "--batch-size=4", "--overwrite")
        done = kamon(verb, base, path, *flags)
        assert done.code == 0, done.err
        kept = model_dir.load(tmp_path / "m")
        assert kept.examples is not None
        sides: dict[bool, set[str]] = {True: set(), False: set()}
        for each in unpack_examples(kept.examples):
            sides[bool(each.get("held_out"))] |= {each["chosen"], each["rejected"]}
        assert sides[True]
        assert sides[False].isdisjoint(sides[True])
        num_left_out = kept.training["tuning"]["data"]["num_left_out"]
        assert num_left_out == (6 * 54 if answers is everyone else 0)
        assert (f"({num_left_out} left out, across training" in done.err) == bool(num_left_out)


def test_answers_that_are_too_long(base: Path) -> None:
    seen: list[StartInfo] = []
    pair = Preference("afk", "afkxyzxyzxyz")
    dpo(base, [pair, PAIRS[0]], num_steps=1, on_start=seen.append)
    assert num_cut(seen[0].spec) == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"beta": 0}, ConfigError, "beta must be above 0"),
        ({"beta": math.nan}, ConfigError, "beta must be above 0"),
        ({"beta": "1"}, ConfigError, "beta must be a number"),
        ({"loss": "kto"}, ConfigError, "loss must be dpo or ipo"),
        ({"label_smoothing": 0.5}, ConfigError, "from 0 to below 0.5"),
        (
            {"loss": "ipo", "label_smoothing": 0.1},
            ConfigError,
            "label_smoothing needs the loss dpo",
        ),
        ({"max_kl": 0}, ConfigError, "max_kl must be above 0"),
        ({"n_layer": 2}, ConfigError, "n_layer is 1 for this model, not 2"),
        ({"batch_size": 0}, ConfigError, "batch_size must be 1 or more"),
        ({"prefer": "len<3"}, ConfigError, "either pairs .a file or a name. or a rule"),
        ({"data": None}, ConfigError, "either pairs .a file or a name. or a rule"),
        ({"data": None, "prefer": "len<99"}, ConfigError, "each of "),
        ({"data": "common", "num_pairs": 0}, ConfigError, "number of pairs must be from 1"),
        ({"data": []}, CorpusError, "pairs in memory has no pair"),
        (
            {"data": [Preference("é", "afk")]},
            TokenizerError,
            "pair 1, chosen: the model does not know character 'é'",
        ),
        ({"data": [Preference("a", "b", "c")]}, ConfigError, "the model does not follow prompts"),
        ({"data": "none.jsonl"}, CorpusError, "no file none.jsonl"),
    ],
)
def test_refused(options: dict[str, Any], error: type[Exception], message: str, base: Path) -> None:
    with pytest.raises(error, match=message):
        dpo(base, **({"data": PAIRS, "num_steps": 1} | options))


def test_the_verb(base: Path, tmp_path: Path, kamon: Callable[..., Result]) -> None:
    out = tmp_path / "m"
    done = kamon(
        "dpo", base, "--prefer", "len<=3", "-o", out, "--num-steps=30", "--num-pairs=60", "--json"
    )
    assert done.code == 0
    assert done.json["tuning"]["settings"]["prefer"] == "len<=3"
    found = done.json["tuning"]
    assert found["judged"] == 1
    assert found["pairs"]["on_validation_set"]
    assert found["fulfilled"] > found["base_fulfilled"] > 0
    assert re.search(r"^Validation +[\d,]+ examples$", done.err, re.M)
    assert "step " not in done.err
    flags = ("--num-steps=30", "--num-pairs=60", "--overwrite", "--verbose")
    told = kamon("dpo", base, "--prefer", "len<=3", "-o", out, *flags)
    rows = {line[:16].rstrip(): line[16:].split() for line in told.out.splitlines()}
    assert rows["win rate"][:3] == ["50%", f"{found['win_rate']:.1%}", rows["win rate"][2]]
    assert rows["satisfy the rule"] == [
        f"{found['base_fulfilled']:.1%}",
        f"{found['fulfilled']:.1%}",
    ]
    assert len([line for line in told.err.splitlines() if line.startswith("step ")]) > 10
    shown = kamon("inspect", out)
    assert "Fine-tuning      dpo on samples, by the rule len<=3" in shown.out
    again = kamon("dpo", "--resume", out)
    assert again.code == 2
    assert "is already complete" in again.err
    hacked = kamon(
        *(
            "dpo",
            base,
            "--prefer",
            'startswith "af" and len<=3',
            "-o",
            out,
            "--overwrite",
            "--beta=0.01",
        ),
        *("--learning-rate=0.05", "--num-steps=200", "--num-pairs=400", "--seed=3"),
    )
    assert hacked.code == 0, hacked.err
    assert "warning: possible reward hacking: samples repeat themselves" in hacked.err
    assert len(model_dir.load(out).metrics) > 10


def test_pairs_with_a_prompt(base: Path, tmp_path: Path, kamon: Callable[..., Result]) -> None:
    """The samples that the command shows at the end are answers, too."""
    data = [{"prompt": doc[0].upper(), "completion": doc} for doc in DOCS]
    sft(base, data, num_steps=5, output=tmp_path / "asked")
    rows = [{"chosen": p.chosen, "rejected": p.rejected, "prompt": "A"} for p in PAIRS[:9]]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = ["dpo", tmp_path / "asked", tmp_path / "x.jsonl", "-o", tmp_path / "m", "--num-steps=3"]
    done = kamon(*argv, "--json")
    assert done.code == 0, done.err
    model = load(tmp_path / "m")
    assert done.json["samples"] == model.sample(10, temperature=1.0, prompt="A")
    assert done.json["samples"] != model.sample(10, temperature=1.0)


@pytest.mark.slow
@pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())
def test_common_names() -> None:
    """A default model of names learns which names are more common."""
    base = kamon.train("names", threads=2)
    known = dpo(base, "common").training["tuning"]
    assert known["pairs"]["num_pairs"] == 250
    assert known["pairs"]["accuracy"] > 0.68
    assert known["win_rate"] > 0.5
    assert known["judged"] == 1
    assert known["uniqueness"] > 0.9 * known["base_uniqueness"]
    assert known["collapse"] == []


def test_the_win_rate_is_that_of_compare(base: Path) -> None:
    """For the same samples, both commands return the same rate and interval."""
    from kamon.finetuning.compare import compare
    from kamon.finetuning.ppo import by_rule

    tuned = dpo(base, prefer="len<=3", num_steps=20, num_pairs=60)
    known = tuned.training["tuning"]
    found = compare(base, {"it": tuned}, n=known["num_samples"], judge=by_rule("len<=3")).tuned[0]
    assert found.win_rate == known["win_rate"] > 0.5
    assert list(found.win_interval or ()) == known["win_rate_interval"]
    assert known["collapse"] == []
