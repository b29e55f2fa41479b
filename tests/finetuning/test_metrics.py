"""Measures of a fine-tuned model, against exact sums over all possible documents."""

from __future__ import annotations

import itertools
import math

import pytest

import kamon
from kamon.engines.base import initial_state
from kamon.engines.batch import ANSWER, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.loops import document_logprobs
from kamon.finetuning import metrics
from kamon.finetuning.expand_vocab import expand_vocab
from kamon.model import Model
from kamon.storage.metrics import Metrics


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    """Two models of a and b with at most three tokens, so that the tests can list all documents."""
    shape = {"n_embd": 4, "n_head": 2, "block_size": 3, "learning_rate": 0.05, "size": "original"}
    docs = ["a", "b", "ab", "ba", "aab", "bba", "aa"]
    one = kamon.train(docs, num_steps=40, **shape)
    return one, kamon.train(docs[:3], num_steps=12, **shape)


def exact_kl(tuned: Model, base: Model) -> float:
    bos = tuned.tokenizer.bos
    docs = [
        [bos, *tokens, bos][:4]
        for size in range(4)
        for tokens in itertools.product(range(bos), repeat=size)
    ]
    own, other = (document_logprobs(m.engine, pack_sequences(docs))[0] for m in (tuned, base))
    assert math.fsum(map(math.exp, own)) == pytest.approx(1, abs=1e-5)
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(own, other, strict=True))


def test_sampled_kl(models: tuple[Model, Model]) -> None:
    for tuned, base in (models, models[::-1]):
        mean, error = metrics.sampled_kl(tuned, base, 20_000, 1)
        assert 0 < error < 0.02
        assert abs(mean - exact_kl(tuned, base)) < 4 * error
        assert metrics.sampled_kl(tuned, base, 20_000, 1) == (mean, error)
    assert metrics.sampled_kl(models[0], models[0], 50, 1) == (0.0, 0.0)
    assert metrics.sampled_kl(*models, 1, 1)[1] == math.inf


def test_sampled_kl_behind_a_prompt(models: tuple[Model, Model]) -> None:
    """The prompt costs the two models differently, but does not count in the KL."""

    def prompted(model: Model) -> Model:
        config, tokenizer, params = expand_vocab(
            model.config,
            model.tokenizer,
            model.engine.state()["params"],
            specials=[ANSWER],
            block_size=5,
        )
        engine = make_engine(None, config)
        engine.load(initial_state(params))
        return Model(config, tokenizer, engine, Metrics(), model.training, model.documents)

    tuned, base = map(prompted, models)
    mean, error = metrics.sampled_kl(tuned, base, 300, 1, "a")
    texts = tuned.sample(300, temperature=1.0, seed=1, prompt="a")
    from kamon.evaluation.nearest import logprobs

    own, other = (logprobs(m.engine, m.tokenizer, texts, "a") for m in (tuned, base))
    assert mean == pytest.approx(math.fsum(p - q for p, q in zip(own, other, strict=True)) / 300)
    assert error < mean


def test_wilson() -> None:
    """Each bound is a rate whose own normal interval ends at the observed rate."""
    for won, n in ((0, 10), (3, 10), (10, 10), (612.5, 1000)):
        for bound in metrics.wilson(won, n):
            if 1e-9 < bound < 1 - 1e-9:
                off = abs(won / n - bound) / math.sqrt(bound * (1 - bound) / n)
                assert off == pytest.approx(metrics.Z_95)
    assert metrics.wilson(0, 10)[0] == pytest.approx(0)
    assert metrics.wilson(10, 10)[1] == pytest.approx(1)
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_win_rate() -> None:
    """Ties count as half, and pairs without a reward are left out."""
    found = metrics.win_rate([2.0, 1.0, 1.0, 2.0, None, 1.0], [1.0, 2.0, 1.0, 1.0, 0.0, None])
    assert found == (2.5 / 4, metrics.wilson(2.5, 4))
    assert metrics.win_rate([None], [1.0]) is None
    with pytest.raises(ValueError, match="shorter"):
        metrics.win_rate([1.0, 2.0], [1.0])


def test_collapse() -> None:
    base = [f"{i:05}" for i in range(100)]
    assert metrics.detect_reward_hacking(base, base) == []
    assert metrics.detect_reward_hacking([], base) == []
    assert metrics.detect_reward_hacking(base[:92] + base[:8], base) == []
    [said] = metrics.detect_reward_hacking(base[:85] + base[:15], base)
    assert said.startswith("samples repeat themselves: 85% are unique, 100%")
    [said] = metrics.detect_reward_hacking(
        [text[:3] for text in base[:1]] + [t[3:] + "x" for t in base], base
    )
    assert said == "samples became shorter: 3.0 characters on average, 5.0 for the base"
    [said] = metrics.detect_reward_hacking([t + "xxx" for t in base], base)
    assert "became longer: 8.0" in said
    said = metrics.detect_reward_hacking(base[:80] + ["00000"] * 20, base)[1]
    assert said == "21% of the samples are '00000'"


def test_what_a_rule_asks_for_is_no_sign_of_a_hacked_reward() -> None:
    base = [f"{i:05}" for i in range(70)] + [f"{i:02}" for i in range(30)]
    short = [text for text in base if len(text) <= 2]
    tuned = (short * 4)[:100]  # satisfies the rule, and is as varied as the base's short samples
    assert len(metrics.detect_reward_hacking(tuned, base)) == 2
    assert metrics.detect_reward_hacking(tuned, base, wanted=set(short)) == []
    [said, _] = metrics.detect_reward_hacking(["07"] * 100, base, wanted=set(short))
    assert said.startswith("samples repeat themselves: 3% are unique, 100%")


def test_uniqueness_and_novelty(models: tuple[Model, Model]) -> None:
    texts = ["a", "b", "a", "bbb"]
    assert metrics.uniqueness(texts) == 0.75
    assert metrics.novelty(texts, models[0].docs) == 0.25
    assert metrics.novelty(texts, ["a"]) == 0.5
    assert (metrics.uniqueness([]), metrics.novelty([], [])) == (0.0, 0.0)
