"""Reward models: learning from pairs, calibration, and that they stay language models."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

import kamon
from conftest import ENGINES_AND_DTYPES, Result
from helpers.lists import TRIPLES as DOCS
from helpers.runs import same, stop_after
from kamon.engines.batch import BAD, GOOD, pack_sequences
from kamon.errors import ConfigError, CorpusError, TokenizerError
from kamon.finetuning import reward_model
from kamon.finetuning.losses import sigmoid
from kamon.finetuning.preferences import Preference, write
from kamon.model import Model
from kamon.native import library

LIKED = [doc for doc in DOCS if doc.endswith("k")]
OTHERS = [doc for doc in DOCS if not doc.endswith("k")]
PAIRS = [Preference(LIKED[i % len(LIKED)], doc) for i, doc in enumerate(OTHERS)]
QUICK = {"num_steps": 40, "batch_size": 8, "learning_rate": 0.02}
needs_native = pytest.mark.skipif(bool(library.why_not()), reason="too slow by the scalar engine")


@pytest.fixture(scope="module")
def base() -> Model:
    return kamon.train(DOCS, num_steps=60, n_embd=8, n_head=2, block_size=6, size="original")


@pytest.fixture(scope="module")
def learned(base: Model) -> Model:
    return reward_model.reward_model(base, PAIRS, **QUICK)


@needs_native
def test_it_learns_what_is_preferred(learned: Model) -> None:
    found = learned.training["tuning"]["calibration"]
    assert found["num_pairs"] > 0
    assert found["accuracy"] > 0.9
    good, bad = (reward_model.reward_of(learned, texts) for texts in (LIKED, OTHERS))
    assert sum(good) / len(good) > sum(bad) / len(bad) + 1


@pytest.mark.parametrize(("engine", "dtype"), ENGINES_AND_DTYPES)
def test_a_reward_is_the_odds_of_good(engine: str, dtype: str, base: Model) -> None:
    """It is the difference of the logits of both tokens, which a decoder returns after the end."""
    model = reward_model.reward_model(
        base, PAIRS[:9], [], num_steps=2, batch_size=2, engine=engine, dtype=dtype
    )
    texts = ["afk", "bg", "", "abcdef"]
    tokenizer = model.tokenizer
    for text, reward in zip(texts, reward_model.reward_of(model, texts), strict=True):
        decoder = model.engine.decoder()
        for token in tokenizer.encode_document(text):
            logits = decoder.push(token)
        odds = logits[tokenizer.special[GOOD]] - logits[tokenizer.special[BAD]]
        assert reward == pytest.approx(odds, rel=1e-4, abs=1e-5)


def test_at_first_nothing_is_known(base: Model) -> None:
    """The loss of the first step is log 2, because both tokens start with equal rows."""
    model = reward_model.reward_model(base, PAIRS[:10], num_steps=1, batch_size=4)
    assert model.metrics[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)


@needs_native
def test_it_stays_a_language_model(base: Model, learned: Model) -> None:
    """Special tokens take hardly any probability from texts, and no sample has one."""
    tokenizer = learned.tokenizer
    batch = pack_sequences([tokenizer.encode_document(doc) for doc in DOCS])
    before, after = (sum(m.engine.logprobs(batch)) / len(DOCS) for m in (base, learned))
    assert after > before - 0.5
    decoder = learned.engine.decoder()
    logits = decoder.push(tokenizer.bos)
    largest = max(logits)
    weights = [math.exp(logit - largest) for logit in logits]
    special = sum(weights[tokenizer.special[name]] for name in (GOOD, BAD))
    assert special / sum(weights) < 0.01
    assert set("".join(learned.sample(200, temperature=2.0))) <= set("".join(DOCS))


def test_calibration_by_hand() -> None:
    found = reward_model.calibration([2.0, -2.0, 0.1, 0.1, 0.0], num_bins=2)
    low, high = found["bins"]
    assert (low["num_pairs"], high["num_pairs"]) == (3, 2)
    assert low["observed"] == pytest.approx(2.5 / 3)
    assert high["observed"] == 0.5
    assert high["predicted"] == pytest.approx(sigmoid(2.0))
    assert found["accuracy"] == pytest.approx(3.5 / 5)
    sure = (2 * sigmoid(0.1) + 0.5) / 3
    wanted = 3 / 5 * abs(sure - 2.5 / 3) + 2 / 5 * abs(sigmoid(2.0) - 0.5)
    assert found["calibration_error"] == pytest.approx(wanted)


@pytest.mark.parametrize(("engine", "dtype"), ENGINES_AND_DTYPES)
def test_interrupted(engine: str, dtype: str, base: Model, tmp_path: Path) -> None:
    some = {"num_steps": 4, "batch_size": 1, "engine": engine, "dtype": dtype}
    whole = reward_model.reward_model(base, PAIRS[:16], PAIRS[16:18], **some)
    path = tmp_path / "m"
    reward_model.reward_model(
        base, PAIRS[:16], PAIRS[16:18], **some, output=path, should_stop=stop_after(1)
    )
    again = reward_model.resume(path)
    assert again.training["finished"]
    same(again, whole)
    texts = ["afk", "bgl"]
    assert reward_model.reward_of(again, texts) == reward_model.reward_of(whole, texts)


def test_prompts_and_longer_texts(base: Model) -> None:
    """Kamon adds the characters and positions that the pairs need."""
    pairs = [Preference("afk" * 5, "bz", "which?"), Preference("a", "b", "which?")] * 8
    model = reward_model.reward_model(base, pairs, [], num_steps=2)
    assert len(reward_model.reward_of(model, ["afk" * 5], "which?")) == 1
    with pytest.raises(ConfigError, match="has 32 tokens, and the reward model reads at most 24"):
        reward_model.reward_of(model, ["a" * 30])
    with pytest.raises(TokenizerError):
        reward_model.reward_of(model, ["é"])


def test_pairs_from_a_file_and_built_in(base: Model, tmp_path: Path) -> None:
    """A file gives the same model as pairs in memory. Built-in pairs have a validation set."""
    path, how = tmp_path / "pairs.jsonl", {"num_steps": 2, "batch_size": 4}
    write(path, PAIRS)
    base.save(tmp_path / "base")
    model = reward_model.reward_model(tmp_path / "base", path, **how)
    wanted = reward_model.reward_model(base, PAIRS, **how)
    assert model.engine.state()["params"] == wanted.engine.state()["params"]
    known = model.training["tuning"]
    assert (known["data"]["source"], known["base"]["path"]) == (str(path), str(tmp_path / "base"))
    with pytest.raises(ConfigError, match="held_out needs pairs in memory"):
        reward_model.reward_model(base, path, PAIRS[:3])
    built_in = reward_model.reward_model(base, "common", num_pairs=7, **how)
    known = built_in.training["tuning"]
    assert known["data"]["source"] == "common"
    assert known["data"]["num_examples"] == 7 + reward_model.NUM_PAIRS
    assert known["held_out"]["num_examples"] == reward_model.NUM_PAIRS


def test_what_cannot_be(base: Model, learned: Model) -> None:
    with pytest.raises(ConfigError, match="is not a reward model"):
        reward_model.reward_of(base, ["a"])
    with pytest.raises(ConfigError, match="already a reward model"):
        reward_model.reward_model(learned, PAIRS)
    with pytest.raises(CorpusError, match="has no pairs"):
        reward_model.reward_model(base, [])
    with pytest.raises(ConfigError, match="lm_weight must be 0 or more"):
        reward_model.reward_model(base, PAIRS, lm_weight=-1.0)


@needs_native
def test_the_verb(base: Model, tmp_path: Path, kamon: Callable[..., Result]) -> None:
    base.save(tmp_path / "base")
    data = tmp_path / "pairs.jsonl"
    data.write_text(
        "".join(json.dumps({"chosen": p.chosen, "rejected": p.rejected}) + "\n" for p in PAIRS)
    )
    flags = ["--num-steps=40", "--batch-size=8", "--learning-rate=0.02"]
    done = kamon("reward", tmp_path / "base", data, "-o", tmp_path / "r", *flags)
    assert done.code == 0
    assert "validation pairs: accuracy " in done.out
    assert "expected calibration error 0." in done.out
    done = kamon("reward", tmp_path / "base", data, "-o", tmp_path / "r2", *flags, "--json")
    known = done.json["tuning"]["calibration"]
    assert sum(row["num_pairs"] for row in known["bins"]) == known["num_pairs"]
    shown = kamon("inspect", tmp_path / "r", "-v")
    assert "Fine-tuning      reward on" in shown.out
    assert "<|good|>, <|bad|>" in shown.out
