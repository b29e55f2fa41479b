"""How far and how well a model has moved, against sums over all that it could say."""

from __future__ import annotations

import itertools
import math

import pytest

import kamon
from kamon import alignment
from kamon.api import Model
from kamon.batch import ANSWER, pack
from kamon.engine import document_logprobs, make_engine, untrained
from kamon.extend import extend
from kamon.metrics import Metrics


@pytest.fixture(scope="module")
def models() -> tuple[Model, Model]:
    """Two models of a and b, of at most three tokens, so that all documents can be counted."""
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
    own, other = (document_logprobs(m.engine, pack(docs))[0] for m in (tuned, base))
    assert math.fsum(map(math.exp, own)) == pytest.approx(1, abs=1e-5)
    return math.fsum(math.exp(p) * (p - q) for p, q in zip(own, other, strict=True))


def test_sampled_kl(models: tuple[Model, Model]) -> None:
    for tuned, base in (models, models[::-1]):
        mean, error = alignment.sampled_kl(tuned, base, 20_000, 1)
        assert 0 < error < 0.02
        assert abs(mean - exact_kl(tuned, base)) < 4 * error
        assert alignment.sampled_kl(tuned, base, 20_000, 1) == (mean, error)
    assert alignment.sampled_kl(models[0], models[0], 50, 1) == (0.0, 0.0)
    assert alignment.sampled_kl(*models, 1, 1)[1] == math.inf


def test_sampled_kl_behind_a_prompt(models: tuple[Model, Model]) -> None:
    """The prompt costs both something else, which is no part of the KL."""

    def prompted(model: Model) -> Model:
        config, tokenizer, params = extend(
            model.config,
            model.tokenizer,
            model.engine.state()["params"],
            specials=[ANSWER],
            block_size=5,
        )
        engine = make_engine(None, config)
        engine.load(untrained(params))
        return Model(config, tokenizer, engine, Metrics(), {}, model.documents)

    tuned, base = map(prompted, models)
    mean, error = alignment.sampled_kl(tuned, base, 300, 1, "a")
    texts = tuned.sample(300, temperature=1.0, seed=1, prompt="a")
    from kamon.describe import logprobs

    own, other = (logprobs(m.engine, m.tokenizer, texts, "a") for m in (tuned, base))
    assert mean == pytest.approx(math.fsum(p - q for p, q in zip(own, other, strict=True)) / 300)
    assert error < mean


def test_wilson() -> None:
    """The rates whose own normal interval ends at what was seen."""
    for won, n in ((0, 10), (3, 10), (10, 10), (612.5, 1000)):
        for bound in alignment.wilson(won, n):
            if 1e-9 < bound < 1 - 1e-9:
                off = abs(won / n - bound) / math.sqrt(bound * (1 - bound) / n)
                assert off == pytest.approx(alignment.Z)
    assert alignment.wilson(0, 10)[0] == pytest.approx(0)
    assert alignment.wilson(10, 10)[1] == pytest.approx(1)
    assert alignment.wilson(0, 0) == (0.0, 1.0)


def test_win_rate() -> None:
    """Ties count as half, and what cannot be judged is left out."""
    found = alignment.win_rate([2.0, 1.0, 1.0, 2.0, None, 1.0], [1.0, 2.0, 1.0, 1.0, 0.0, None])
    assert found == (2.5 / 4, alignment.wilson(2.5, 4))
    assert alignment.win_rate([None], [1.0]) is None
    with pytest.raises(ValueError, match="shorter"):
        alignment.win_rate([1.0, 2.0], [1.0])


def test_collapse() -> None:
    base = [f"{i:05}" for i in range(100)]
    assert alignment.collapse(base, base) == []
    assert alignment.collapse([], base) == []
    assert alignment.collapse(base[:92] + base[:8], base) == []
    [said] = alignment.collapse(base[:85] + base[:15], base)
    assert said.startswith("samples repeat themselves: 85% of them are different, 100%")
    [said] = alignment.collapse([text[:3] for text in base[:1]] + [t[3:] + "x" for t in base], base)
    assert said == "samples became shorter: 3.0 characters in the mean, 5.0 of the base model’s"
    [said] = alignment.collapse([t + "xxx" for t in base], base)
    assert "became longer: 8.0" in said
    said = alignment.collapse(base[:80] + ["00000"] * 20, base)[1]
    assert said == "21% of the samples are '00000'"


def test_what_a_rule_asks_for_is_no_sign_of_a_hacked_reward() -> None:
    base = [f"{i:05}" for i in range(70)] + [f"{i:02}" for i in range(30)]
    short = [text for text in base if len(text) <= 2]
    tuned = (short * 4)[:100]  # fulfils the rule, as varied as the base is there
    assert len(alignment.collapse(tuned, base)) == 2
    assert alignment.collapse(tuned, base, wanted=set(short)) == []
    [said, _] = alignment.collapse(["07"] * 100, base, wanted=set(short))
    assert said.startswith("samples repeat themselves: 3% of them are different, 100%")


def test_uniqueness_and_novelty(models: tuple[Model, Model]) -> None:
    texts = ["a", "b", "a", "bbb"]
    assert alignment.uniqueness(texts) == 0.75
    assert alignment.novelty(texts, models[0].docs) == 0.25
    assert alignment.novelty(texts, ["a"]) == 0.5
    assert (alignment.uniqueness([]), alignment.novelty([], [])) == (0.0, 0.0)
