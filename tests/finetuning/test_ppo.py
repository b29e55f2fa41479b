"""PPO: it finds a known optimum, stays near its base, and resumes bit for bit."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import ENGINES_AND_DTYPES, Result
from helpers.runs import same, stop_after
from kamon.engines.base import Engine
from kamon.engines.batch import PackedBatch
from kamon.errors import ConfigError, StoreError
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import ppo, reward_model
from kamon.finetuning.loop import StartInfo
from kamon.finetuning.ppo import Critic, next_kl_coef
from kamon.finetuning.preferences import Preference
from kamon.finetuning.sft import sft
from kamon.generation.sampling import probabilities
from kamon.model import Model
from kamon.model import load as kamon_load
from kamon.native import library
from kamon.storage import model_dir
from kamon.tokenizers.prompts import prompt_tokens

needs_native = pytest.mark.skipif(bool(library.why_not()), reason="too slow by the scalar engine")
WORDS = [a + b for a in "ab" for b in "ab"] + ["a", "b"]
SMALL: dict[str, Any] = {"num_steps": 6, "batch_size": 6, "num_ppo_epochs": 2}


@pytest.fixture(scope="module")
def base() -> Model:
    """A model of two characters, with documents of one or two."""
    return kamon.train(
        WORDS * 3, num_steps=150, n_embd=8, n_head=2, block_size=4, size="original", hold_out=False
    )


def begins_with_a(engine: Engine, bos: int) -> float:
    return probabilities(engine.decoder().push(bos), 1.0)[0]


def first_a(texts: Sequence[str]) -> list[float]:
    return [float(text.startswith("a")) for text in texts]


def best_share(before: float, kl: float) -> float:
    """Return p > before, so that a coin with p has this KL to a coin with `before`."""
    low, high = before, 1 - 1e-12
    for _ in range(100):
        p = (low + high) / 2
        found = p * math.log(p / before) + (1 - p) * math.log((1 - p) / (1 - before))
        low, high = (p, high) if found < kl else (low, p)
    return low


@pytest.fixture(scope="module")
def asked(base: Model) -> Model:
    """A model whose answers mostly begin with a after "?", and with b after "!"."""
    data = [
        {"prompt": prompt, "completion": word}
        for prompt, liked in (("?", "a"), ("!", "b"))
        for word in WORDS
        for _ in range(3 if word[0] == liked else 1)
    ]
    return sft(base, data * 3, num_steps=400, batch_size=16)


@needs_native
@pytest.mark.parametrize("critic", [False, True])
def test_the_optimum_of_a_world_of_two_characters(critic: bool, base: Model) -> None:
    """At a KL of 0.2, the optimum changes only the first character, by a known amount."""
    bos, target = base.tokenizer.bos, 0.2
    before = begins_with_a(base.engine, bos)
    model = ppo.ppo(base, first_a, num_steps=80, target_kl=target, critic=critic, kl_coef=1.0)
    found = model.training["tuning"]["measured"]
    assert found["kl"] == pytest.approx(target, abs=0.07)
    assert begins_with_a(model.engine, bos) == pytest.approx(best_share(before, target), abs=0.06)
    assert found["reward"] > found["base_reward"] + 0.2
    assert begins_with_a(base.engine, bos) == before  # the base has not changed


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("critic", [False, True])
def test_the_optimum_of_answers(critic: bool, asked: Model) -> None:
    """The same after a prompt. The measurements are of answers to this prompt only."""
    tokenizer, target = asked.tokenizer, 0.2

    def share(model: Model) -> float:
        decoder = model.engine.decoder()
        for token in [tokenizer.bos, *prompt_tokens(tokenizer, "!")]:
            logits = decoder.push(token)
        return probabilities(logits, 1.0)[0]

    before = share(asked)
    assert before < 0.3
    model = ppo.ppo(
        asked, first_a, prompt="!", num_steps=50, target_kl=target, critic=critic, kl_coef=1.0
    )
    known = model.training["tuning"]
    assert known["settings"]["prompt"] == "!"
    assert known["measured"]["kl"] == pytest.approx(target, abs=0.07)
    assert share(model) == pytest.approx(best_share(before, target), abs=0.08)
    # The measurements are of answers only.
    texts = model.sample(ppo.NUM_BASE, temperature=1.0, prompt="!")
    assert known["measured"]["reward"] == sum(first_a(texts)) / len(texts)
    own, other = (logprobs(m.engine, tokenizer, texts, "!") for m in (model, asked))
    moved = sum(p - q for p, q in zip(own, other, strict=True)) / len(texts)
    assert known["measured"]["kl"] == pytest.approx(moved, abs=1e-5)


def test_prompts_have_no_weight(asked: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every target of an answer has a weight, with the sign of the answer's advantage."""
    monkeypatch.setattr(ppo, "NUM_BASE_SLOW", 40)
    seen: list[tuple[list[int], list[float]]] = []

    def watch(start: StartInfo) -> None:
        backward = start.engine.backward

        def recorded(batch: PackedBatch, weights: Sequence[float]) -> Any:
            rest = iter(weights)
            seen.extend((list(tokens), list(islice(rest, len(tokens) - 1))) for tokens in batch)
            return backward(batch, weights)

        monkeypatch.setattr(start.engine, "backward", recorded)

    how: dict[str, Any] = {"num_steps": 1, "batch_size": 20, "num_ppo_epochs": 1}
    ppo.ppo(asked, first_a, prompt="!", on_start=watch, **how)
    tokenizer = asked.tokenizer
    before = [tokenizer.bos, *prompt_tokens(tokenizer, "!")]
    assert len(seen) == 20
    for tokens, weights in seen:
        assert tokens[: len(before)] == before
        of_prompt, of_answer = weights[: len(before) - 1], weights[len(before) - 1 :]
        assert set(of_prompt) == {0.0}
        assert len(of_answer) == len(tokens) - len(before) > 0
        begins = tokens[len(before)] == tokenizer.encode("a")[0]
        assert all(weight != 0 and (weight > 0) == begins for weight in of_answer)


@needs_native
def test_a_reward_model_judges_answers(
    asked: Model, base: Model, tmp_path: Path, kamon: Callable[..., Result]
) -> None:
    """It reads them after the prompt, and judges them differently without it."""
    pairs = [Preference("b" + x, "a" + x, "?") for x in ("", "a", "b")] * 9
    settings = {"num_steps": 30, "batch_size": 8, "learning_rate": 0.02}
    judge = reward_model.reward_model(asked, pairs, [], **settings, output=tmp_path / "r")
    asked.save(tmp_path / "asked")
    argv = ["ppo", tmp_path / "asked", "--reward", tmp_path / "r", "--prompt=?", "-o"]
    flags = ["--num-steps=6", "--batch-size=16"]
    done = kamon(*argv, tmp_path / "m", *flags, "--json")
    assert done.code == 0, done.err
    found = done.json["tuning"]["measured"]
    texts = kamon_load(tmp_path / "m").sample(ppo.NUM_BASE, temperature=1.0, prompt="?")
    wanted = reward_model.reward_of(judge, texts, "?")
    assert found["reward"] > found["base_reward"]
    assert abs(sum(wanted) - sum(reward_model.reward_of(judge, texts))) > 0.01 * len(texts)
    assert found["reward"] == pytest.approx(sum(wanted) / len(wanted), abs=1e-5)
    ppo.ppo(
        asked,
        tmp_path / "r",
        prompt="?",
        num_steps=6,
        batch_size=16,
        output=tmp_path / "n",
        should_stop=stop_after(3),
    )
    again = kamon("ppo", "--resume", tmp_path / "n", "--json")
    assert again.json["tuning"]["measured"] == found
    reward_model.reward_model(base, [Preference("a", "b")] * 9, num_steps=1, output=tmp_path / "p")
    argv[3] = tmp_path / "p"
    refused = kamon(*argv, tmp_path / "o", *flags)
    assert refused.code == 2
    assert "the reward model knows no prompts" in refused.err
    assert "hint: train one with `kamon reward`" in refused.err
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("prompt", [None, "?"])
@pytest.mark.parametrize("critic", [False, True])
@pytest.mark.parametrize(
    ("engine", "dtype"),
    ENGINES_AND_DTYPES,
)
def test_interrupted(
    prompt: str | None,
    critic: bool,
    engine: str,
    dtype: str,
    base: Model,
    asked: Model,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if prompt is not None:
        base = asked
    monkeypatch.setattr(ppo, "NUM_BASE_SLOW", 40)
    how = {**SMALL, "prefer": 'startswith "a"', "critic": critic, "target_kl": 0.01}
    how |= {"engine": engine, "dtype": dtype, "prompt": prompt}
    whole = ppo.ppo(base, **how)
    path = tmp_path / "m"
    ppo.ppo(base, **how, output=path, checkpoint_every=1, should_stop=stop_after(1))
    ppo.resume(path, should_stop=stop_after(1))
    again = ppo.resume(path)
    assert again.training["finished"]
    same(again, whole)
    assert len({line["beta"] for line in whole.metrics}) > 3  # kl_coef adapts
    same(kamon.load(path, engine=engine, dtype=dtype), whole)


def test_a_critic_that_is_missing_is_no_beginning(base: Model, tmp_path: Path) -> None:
    path = tmp_path / "m"
    how = {**SMALL, "prefer": "len <= 1", "critic": True}
    ppo.ppo(base, **how, output=path, should_stop=stop_after(1))
    with model_dir.writing(path, go_on=True) as writer:
        assert writer.stored.critic is not None
        writer.save(replace(writer.stored, critic=None))
    with pytest.raises(StoreError, match="has no saved critic"):
        ppo.resume(path)


def test_steps_draw_documents_of_their_own(base: Model) -> None:
    seen: list[list[str]] = []

    def watched(texts: Sequence[str]) -> list[float]:
        seen.append(list(texts))
        return list(map(float, map(len, texts)))

    ppo.ppo(base, watched, num_steps=3, batch_size=40, num_ppo_epochs=1)
    steps = [texts for texts in seen if len(texts) == 40]
    assert len(steps) == 3
    assert steps[0] != steps[1] != steps[2]
    # All samples have the same reward, so only chance decides which are better.
    assert all(texts != base.sample(40, temperature=1.0) for texts in steps)


@needs_native
def test_a_budget_of_kl_ends_it(base: Model, tmp_path: Path) -> None:
    model = ppo.ppo(
        base,
        prefer='startswith "a"',
        num_steps=200,
        target_kl=5.0,
        max_kl=0.1,
        output=tmp_path / "m",
    )
    found = model.training["tuning"]["measured"]
    assert len(model.metrics) < 200
    assert model.training["finished"]
    assert found["over_budget"]
    assert found["kl"] < 0.1 + 3 * found["kl_error"]
    with pytest.raises(ConfigError, match="is already complete"):
        ppo.resume(tmp_path / "m")


@needs_native
def test_a_reward_for_length_is_named() -> None:
    docs = [a + b + c for a in "abcde" for b in "fghij" for c in "klmno"]
    model = kamon.train(docs, num_steps=100, n_embd=8, n_head=2, block_size=12, size="original")
    tuned = ppo.ppo(
        model, lambda texts: list(map(float, map(len, texts))), target_kl=20.0, num_steps=60
    )
    problems = tuned.training["tuning"]["measured"]["problems"]
    assert any("samples became longer" in problem for problem in problems), problems


def test_the_coefficient() -> None:
    assert next_kl_coef(1.0, 100.0, 1.0) == 1.1
    assert next_kl_coef(1.0, -5.0, 1.0) == 0.9
    assert next_kl_coef(2.0, 1.1, 1.0) == pytest.approx(2.1)


def test_a_critic_reads_each_prefix_once_and_knows_it(base: Model) -> None:
    """Its p(good) after a prefix reaches the mean return of the documents with this prefix."""
    from kamon.engines.base import initial_state
    from kamon.engines.batch import pack_sequences
    from kamon.engines.factory import make_engine
    from kamon.finetuning.expand_vocab import expand_vocab
    from kamon.storage.checkpoint import critic_config

    tokenizer, config = base.tokenizer, base.config
    params = base.engine.state()["params"]
    _, known, more = expand_vocab(config, tokenizer, params, specials=("<|good|>", "<|bad|>"))
    engine = make_engine(None, critic_config(config))
    engine.load(initial_state(more))
    critic = Critic(engine, known.special["<|good|>"], known.special["<|bad|>"])
    texts, returns = ["a", "ab", "ba", "b"], [1.0, 0.6, 0.2, 0.0]
    batch = pack_sequences(map(tokenizer.encode_document, texts))
    for _ in range(60):
        advantages, _ = critic.learn(batch, returns, 0.02)
    behind = {"": 0.45, "a": 0.8}
    last = 1.0 - behind["a"]
    first = behind["a"] - behind[""] + ppo.GAE_LAMBDA * last
    assert list(advantages[:2]) == pytest.approx([first, last], abs=0.1)
    assert len(advantages) == batch.num_targets


@needs_native
def test_by_a_reward_model(base: Model, tmp_path: Path, kamon: Callable[..., Result]) -> None:
    """The command line can resume such a run, if the reward model is still the same."""
    base.save(tmp_path / "base")
    pairs = [Preference("a" + x, "b" + y) for x in ("", "a", "b") for y in ("", "a", "b")] * 3
    settings = {"num_steps": 30, "batch_size": 8, "learning_rate": 0.02}
    reward_model.reward_model(base, pairs, **settings, output=tmp_path / "r")
    out, flags = tmp_path / "m", ["--num-steps=12", "--batch-size=32", "--target-kl=0.3", "-v"]
    done = kamon("ppo", tmp_path / "base", "--reward", tmp_path / "r", "-o", out, *flags)
    assert done.code == 0, done.err
    assert "step    12  reward" in done.err
    assert re.search(r"^win rate +50% +[\d.]+%  [\d.]+% to [\d.]+%, by reward", done.out, re.M)
    found = kamon("inspect", out, "--json").json["training"]["tuning"]
    assert found["measured"]["reward"] > found["measured"]["base_reward"]
    again = tmp_path / "n"
    ppo.ppo(
        base,
        tmp_path / "r",
        num_steps=12,
        batch_size=32,
        target_kl=0.3,
        output=again,
        should_stop=stop_after(5),
    )
    done = kamon("ppo", "--resume", again, "--json")
    assert done.code == 0, done.err
    assert done.json["tuning"]["measured"] == found["measured"]
    ppo.ppo(base, tmp_path / "r", **SMALL, output=again, overwrite=True, should_stop=stop_after(1))
    reward_model.reward_model(base, pairs[:9], **settings, output=tmp_path / "r", overwrite=True)
    refused = kamon("ppo", "--resume", again)
    assert refused.code == 2
    assert "is not the reward model of this run" in refused.err


def test_a_function_goes_on_from_python_alone(
    base: Model, tmp_path: Path, kamon: Callable[..., Result]
) -> None:
    path = tmp_path / "m"
    ppo.ppo(base, first_a, **SMALL, output=path, should_stop=stop_after(2))
    refused = kamon("ppo", "--resume", path)
    assert refused.code == 2
    assert "the reward was the function first_a, which Kamon cannot save" in refused.err
    same(ppo.resume(path, first_a), ppo.ppo(base, first_a, **SMALL))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give either a reward or a rule"),
        ({"reward": first_a, "prefer": "len < 2"}, "give either a reward or a rule"),
        ({"reward": 3}, "must be a model or a function"),
        (
            {"prefer": "len < 2", "prompt": "a"},
            "the model does not follow prompts\nhint: fine-tune it on prompts with `kamon sft`",
        ),
        (
            {"prefer": "len < 2", "dropout": 0.1},
            "dropout is 0.0 for this model, not 0.1\nhint: drop dropout",
        ),
        ({"prefer": "len <"}, "the rule 'len <'"),
        ({"prefer": "len < 2", "batch_size": 1}, "batch_size must be 2 or more"),
        ({"prefer": "len < 2", "target_kl": 0.0}, "target_kl must be above 0"),
        ({"prefer": "len < 2", "max_kl": math.inf}, "max_kl must be above 0 and finite"),
        ({"prefer": "len < 2", "num_ppo_epochs": 0}, "num_ppo_epochs must be 1 or more"),
        ({"reward": lambda _: [1.0]}, "returned 1 rewards for"),
        ({"reward": lambda texts: [math.nan] * len(texts)}, "a value that is not finite"),
    ],
)
def test_what_cannot_be(how: dict[str, Any], message: str, base: Model) -> None:
    with pytest.raises(ConfigError, match=message):
        ppo.ppo(base, **how)
