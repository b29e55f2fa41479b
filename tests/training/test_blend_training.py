"""Training a blend: the weight, its losses, what is saved of it, and who has none."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import TINY, Result
from helpers.lists import TRIPLES
from helpers.runs import Killed, kill_after
from kamon.config import Config
from kamon.data import builtin
from kamon.data.documents import Documents
from kamon.data.split import split
from kamon.engines.batch import PackedBatch
from kamon.evaluation.score import score
from kamon.generation.blend import BlendedModel, learn_weight, mix_logprobs
from kamon.model import Model
from kamon.ngrams.native import best_ngram
from kamon.ngrams.reference import MAX_ORDER
from kamon.packing.pack import pack
from kamon.packing.plan import PackOptions
from kamon.storage import model_dir
from kamon.training.blend import MAX_DOCS, BlendLosses, blended_validation, can_blend, mean_nats
from kamon.training.data import as_given
from kamon.training.early_stopping import EarlyStopping

Kamon = Callable[..., Result]
NAMES = builtin.names()[::50]
SHAPE: dict[str, Any] = {"n_layer": 1, "n_embd": 16, "num_steps": 200, "engine": "native"}
ORDER = 3


def log(*numbers: float) -> array[float]:
    return array("d", map(math.log, numbers))


def encoded(model: Model, docs: Documents) -> PackedBatch:
    return model.tokenizer.encode_documents(docs, model.config.block_size)


@pytest.fixture(scope="module")
def model() -> Model:
    return kamon.train(NAMES, **SHAPE)


# ---- the weight


def test_losses_by_hand() -> None:
    gpt, ngram = log(0.5, 0.25), log(0.25, 0.5)
    losses = BlendLosses.of(gpt, ngram, ORDER)
    assert losses.weight == pytest.approx(0.5)  # p is 3/8 for both
    assert losses.loss == pytest.approx(-math.log(3 / 8))
    assert losses.gpt_loss == losses.ngram_loss == pytest.approx(math.log(8) / 2)
    assert losses.blend() == {"weight": losses.weight, "order": ORDER}
    better = BlendLosses.of(log(0.5, 0.5), log(0.25, 0.1), ORDER)
    assert (better.weight, better.loss) == (1.0, better.gpt_loss)


def test_the_weight_is_learned_on_the_validation_set_only(model: Model) -> None:
    """By an n-gram that has counted the training set only. The model's own has counted all."""
    training, blend = model.training, model.training.blend
    assert training.held_out
    assert blend
    learned, others = split(NAMES)
    tested = encoded(model, others)
    ngram, _ = best_ngram(encoded(model, learned), tested, model.config.vocab_size, MAX_ORDER)
    parts = model.engine.logprobs(tested), ngram.logprobs(tested)
    assert blend.order == ngram.order
    assert blend.weight == pytest.approx(learn_weight(*parts), abs=1e-9)
    assert 0.2 < blend.weight < 0.8
    losses = mix_logprobs(*parts, blend.weight), *parts
    close = pytest.approx(list(map(mean_nats, losses)), abs=1e-12)
    held_out = training.held_out
    assert [held_out.loss, held_out.gpt_loss, held_out.ngram_loss] == close
    assert held_out.loss < min(map(mean_nats, parts))
    seen = encoded(model, learned)
    seen_parts = model.engine.logprobs(seen), ngram.logprobs(seen)
    assert abs(blend.weight - learn_weight(*seen_parts)) > 0.01
    # What samples and scores knows the validation set, too.
    whole = model.language_model
    assert isinstance(whole, BlendedModel)
    assert mean_nats(whole.ngram.logprobs(tested)) < mean_nats(parts[1]) - 0.01
    assert mean_nats(whole.logprobs(tested)) < held_out.loss - 0.01


def test_early_stopping_measures_the_blend(model: Model) -> None:
    """On the first documents of the validation set; the state of the best blend is kept."""
    history, held_out = model.metrics.held_out, model.training.held_out
    assert held_out
    assert history[held_out.best_step] == min(history.values())
    assert history[held_out.best_step] == pytest.approx(held_out.loss, abs=1e-12)


def test_only_the_first_documents_may_be_measured() -> None:
    """Then the n-gram's log-probabilities are those of the same documents."""
    data = as_given(Documents.of(NAMES[100:]), validation_docs=NAMES[:100])
    config = Config(block_size=8, vocab_size=data.tokenizer.vocab_size)
    tested = data.validation_set(config)
    measured = blended_validation(data, config, tested)
    assert measured
    made = kamon.train(NAMES, blend=False, **SHAPE)
    few = tested.select(range(7))
    own = BlendLosses.of(
        made.engine.logprobs(few), measured.logprobs[: few.num_targets], measured.order
    )
    assert measured.losses(made.engine, few) == own != measured.losses(made.engine, tested)
    validation = EarlyStopping.of(tested, replace(config, num_steps=1), measured)
    assert not validation(made.engine, 1)
    assert validation.history == [(1, measured.losses(made.engine, tested).loss)]
    assert validation.best_losses == measured.losses(made.engine, tested)


# ---- what is kept of it


def test_a_saved_blend_is_the_same(model: Model, tmp_path: Path) -> None:
    model.save(tmp_path / "m")
    loaded = kamon.load(tmp_path / "m")
    assert loaded.training.content == model.training.content
    for conditions in ({}, {"prefix": "b"}, {"regex": "[bdn].*"}, {"novel": True}):
        samples = [each.sample(40, seed=5, **conditions) for each in (model, loaded)]
        assert samples[0] == samples[1]
        assert samples[0]
    scores = [[each.logprob for each in score(m, [*NAMES, "bebe"])] for m in (model, loaded)]
    assert scores[0] == scores[1]
    gpt = loaded.without_blend()
    assert gpt.language_model is loaded.engine
    assert scores[0] != [each.logprob for each in score(gpt, [*NAMES, "bebe"])]
    assert gpt.training.held_out
    assert model.training.held_out
    assert gpt.training.held_out.loss == model.training.held_out.gpt_loss
    assert gpt.without_blend().training.content == gpt.training.content


def killed_after(steps: int, path: Path, **settings: Any) -> None:
    """Train until there, with a checkpoint after each step; then the process is killed."""
    with pytest.raises(Killed):
        kamon.train(
            NAMES, output=path, checkpoint_every=1, on_progress=kill_after(steps), **settings
        )


def test_a_checkpoint_in_the_middle_is_a_blend(tmp_path: Path) -> None:
    """Of its best parameters so far, with the losses and the weight of these."""
    killed_after(60, tmp_path / "m", **SHAPE)
    found = kamon.load(tmp_path / "m")
    training, blend = found.training, found.training.blend
    assert (training.finished, len(found.metrics)) == (False, 60)
    assert training.held_out
    assert blend
    learned, held_out = split(NAMES)
    assert training["held_out"]["num_docs"] == len(held_out)
    measured = found.blended_with(learned)
    tested = encoded(found, held_out)
    assert isinstance(measured, BlendedModel)
    assert mean_nats(measured.logprobs(tested)) == pytest.approx(training.held_out.loss, abs=1e-12)
    gpt, ngram = map(mean_nats, measured.logprobs_of_parts(tested))
    assert training.held_out.gpt_loss == pytest.approx(gpt, abs=1e-12)
    assert training.held_out.ngram_loss == pytest.approx(ngram, abs=1e-12)
    assert blend.weight == pytest.approx(learn_weight(*measured.logprobs_of_parts(tested)))


def test_a_checkpoint_before_the_first_evaluation_is_a_blend(tmp_path: Path) -> None:
    killed_after(3, tmp_path / "m", **SHAPE)
    found = kamon.load(tmp_path / "m")
    assert found.training.held_out is None
    assert found.training.blend
    assert isinstance(found.language_model, BlendedModel)
    assert kamon.resume(tmp_path / "m").training.blend


def test_a_resumed_run_keeps_the_best_blend_of_before(tmp_path: Path) -> None:
    """If it is killed again before an evaluation is better."""
    settings = SHAPE | {"learning_rate": 0.03, "num_steps": 400}
    whole = kamon.train(NAMES, **settings)
    assert whole.training.held_out
    best = whole.training.held_out.best_step
    assert best < len(whole.metrics) - 40
    killed_after(best + 21, tmp_path / "m", **settings)
    before = model_dir.load(tmp_path / "m").training

    with pytest.raises(Killed):
        kamon.resume(tmp_path / "m", on_progress=kill_after(best + 41))
    after = model_dir.load(tmp_path / "m")
    assert len(after.metrics) == best + 41
    assert after.training["held_out"] == before["held_out"]
    assert after.training["blend"] == before["blend"]
    resumed = kamon.resume(tmp_path / "m")
    assert resumed.training | {"seconds": 0, "checkpoint_every": None} == whole.training | {
        "seconds": 0
    }
    assert resumed.metrics == whole.metrics


# ---- models without one


def test_without_a_blend_it_is_the_gpt() -> None:
    gpt = kamon.train(NAMES, blend=False, **SHAPE)
    blend = kamon.train(NAMES, **SHAPE)
    steps = min(len(gpt.metrics), len(blend.metrics))
    assert gpt.metrics.losses[:steps] == blend.metrics.losses[:steps]
    assert (gpt.training.blend, gpt.language_model) == (None, gpt.engine)
    assert gpt.training.held_out
    assert gpt.training.held_out.gpt_loss is None
    assert gpt.blended_with(NAMES) is gpt.engine


def test_which_models_are_not_blended(tmp_path: Path) -> None:
    small = TINY | {"num_steps": 2}
    assert kamon.train(NAMES, **small).training.blend
    text = [" ".join(TRIPLES * 3)]
    (tmp_path / "docs.txt").write_text("\n".join(NAMES))
    pack([str(tmp_path / "docs.txt")], tmp_path / "shards", PackOptions())
    for docs, more in (
        (text, {"mode": "text"}),
        (tmp_path / "shards", {}),
        (NAMES, {"size": "original"}),
        (NAMES, {"engine": "scalar"}),
        (NAMES, {"long_documents": "windows"}),
        (NAMES[:50], {}),  # from scratch, and nothing to learn the weight on
        (NAMES, {"hold_out": False}),
    ):
        made = kamon.train(docs, **small | more)  # type: ignore[arg-type]
        assert made.training.blend is None, more
        assert made.language_model is made.engine


def test_a_very_long_list_is_not_blended() -> None:
    for number, blends in ((MAX_DOCS, True), (MAX_DOCS + 1, False)):
        data = as_given(Documents.of(map(str, range(number))))
        assert can_blend(data, Config(block_size=8)) is blends


def test_a_gpt_that_gives_up_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blend has a finite loss even so, but the loss of the GPT could not be saved."""
    from kamon.errors import TrainingError

    of = BlendLosses.of
    monkeypatch.setattr(BlendLosses, "of", lambda *parts: replace(of(*parts), gpt_loss=math.inf))
    why = r"validation set a probability of 0\nhint: try a learning_rate below [\d.]+, or"
    with pytest.raises(TrainingError, match=why):
        kamon.train(NAMES, **SHAPE)


def test_the_command(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES))
    flags = ["--n-layer=1", "--n-embd=16", "--num-steps=20"]
    done = kamon("train", names, "-o", tmp_path / "m", *flags)
    blend = model_dir.load(tmp_path / "m").training.blend
    assert blend
    assert f"{blend.order}-gram" in done.err
    done = kamon("train", names, "-o", tmp_path / "n", "--no-blend", *flags)
    assert model_dir.load(tmp_path / "n").training.blend is None
    assert "-gram" not in done.err
    assert kamon("train", "--resume", tmp_path / "m", "--extend=2").code == 0
    assert model_dir.load(tmp_path / "m").training.blend
