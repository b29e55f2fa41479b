"""The loop that all fine-tuning shares: a stopped and resumed run gives the same bits."""

from __future__ import annotations

import inspect
import json
import math
import random
from array import array
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import ENGINES_AND_DTYPES, Result
from helpers.lists import TRIPLES as DOCS
from helpers.runs import same, stop_after
from kamon.cli import dpo as cli_dpo
from kamon.cli import ppo as cli_ppo
from kamon.cli import reward as cli_reward
from kamon.cli import sft as cli_sft
from kamon.cli.parser import Parser
from kamon.config import SETTINGS as CONFIG_SETTINGS
from kamon.config import Config
from kamon.engines.base import Engine
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import EngineSpec
from kamon.errors import ConfigError, StoreError, TrainingError
from kamon.finetuning import dpo, loop, ppo, reward_model, sft
from kamon.finetuning.loop import (
    SETTINGS,
    FineTuneMethod,
    FineTuneSpec,
    NewEngine,
    base_of,
    build_config,
    examples_of_step,
    fingerprint,
    resume_fine_tuning,
)
from kamon.finetuning.losses import sft_loss, sft_weights
from kamon.model import Model
from kamon.model import load as kamon_load
from kamon.storage import model_dir
from kamon.tokenizers.prompts import prompted
from kamon.training.options import Callbacks, RunOptions


@pytest.fixture(scope="module")
def base() -> Model:
    return kamon.train(DOCS, num_steps=20, n_embd=4, n_head=2, block_size=6, size="original")


def toy(base: Model, *, num_steps: int = 12, **settings: Any) -> FineTuneSpec:
    """A run that learns to end with "k". It has two updates per step and frozen parameters."""
    config = replace(
        base.config, num_steps=num_steps, batch_size=3, **{"learning_rate": 0.02} | settings
    )
    params = base.engine.state()["params"]
    return FineTuneSpec(
        kind="toy",
        config=config,
        tokenizer=base.tokenizer,
        params=params,
        settings={"pull": 0.5},
        examples=[{"text": doc} for doc in DOCS if doc.endswith("k")],
        source="toys",
        base=base_of(base, "somewhere"),
        base_training=base.training,
        documents=base.documents,
        updates=2,
        frozen=params,
    )


class Toy(FineTuneMethod):
    num_held_out = 4

    def __init__(self, tuning: FineTuneSpec, new_engine: NewEngine) -> None:
        self.tuning = tuning
        self.frozen = new_engine(tuning.frozen or array("d"))
        self.texts = [example["text"] for example in tuning.examples]

    def loss_of(self, engine: Engine, docs: list[str], learn: bool = False) -> tuple[float, float]:
        found = [prompted(self.tuning.tokenizer, None, doc) for doc in docs]
        batch = pack_sequences(tokens for tokens, _ in found)
        weights = sft_weights([span for _, span in found], [len(t) - 1 for t, _ in found])
        logprobs = engine.backward(batch, weights) if learn else engine.logprobs(batch)
        return sft_loss(logprobs, weights), sft_loss(self.frozen.logprobs(batch), weights)

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        c, texts = self.tuning.config, self.texts
        chosen = [texts[i] for i in examples_of_step(c.seed, step, c.batch_size, len(texts))]
        for _ in range(self.tuning.updates):
            loss, reference = self.loss_of(engine, chosen, learn=True)
            engine.step(learning_rate)
        return {"loss": loss, "reference": reference}

    def evaluate(self, engine: Engine) -> float | None:
        return self.loss_of(engine, self.texts[:4])[0]

    def finish(self, engine: Engine) -> dict[str, Any]:
        return {"ends": self.loss_of(engine, self.texts)[0]}


def fine_tune(tuning: FineTuneSpec, make: Any, **how: Any) -> Model:
    """`loop.fine_tune` with the keywords of `kamon.train`."""
    names = ("output", "overwrite", "checkpoint_every")
    options = {name: how.pop(name) for name in names if name in how}
    stop = how.pop("should_stop", None)
    engine = how.pop("engine", None)
    options["callbacks"] = Callbacks(should_stop=stop)
    return loop.fine_tune(tuning, make, EngineSpec(engine, **how), RunOptions(**options))


@pytest.mark.parametrize(("engine", "dtype"), ENGINES_AND_DTYPES)
def test_stopped_again_and_again(engine: str, dtype: str, base: Model, tmp_path: Path) -> None:
    whole = fine_tune(toy(base), Toy, engine=engine, dtype=dtype)
    assert len(whole.metrics) == 12
    assert {"loss", "learning_rate", "reference", "step"} <= whole.metrics[3].keys()
    path = tmp_path / "m"
    model = fine_tune(
        toy(base),
        Toy,
        engine=engine,
        dtype=dtype,
        output=path,
        checkpoint_every=2,
        should_stop=stop_after(2),
    )
    rounds = 0
    while not model.training["finished"]:
        assert model.training["tuning"].get("ends") is None
        rounds += 1
        model = resume_fine_tuning(path, "toy", Toy, should_stop=stop_after(3), threads=1)
    assert rounds == 3
    same(model, whole)
    same(kamon.load(path, engine=engine, dtype=dtype), whole)
    with pytest.raises(ConfigError, match="is already complete: 12 steps on toys"):
        resume_fine_tuning(path, "toy", Toy)


def test_the_best_model_is_kept(base: Model, tmp_path: Path) -> None:
    """With a far too large learning rate, the run ends early and returns the best model."""
    tuning = toy(base, num_steps=200, learning_rate=0.3)
    whole = fine_tune(tuning, Toy, engine="native", dtype="float64", output=tmp_path / "m")
    known = whole.training["tuning"]["held_out"]
    assert known["best_step"] < len(whole.metrics) < 200
    assert known["loss"] == min(whole.metrics.held_out.values())
    texts = [example["text"] for example in tuning.examples][:4]
    batch = whole.tokenizer.encode_documents(texts)
    found = -sum(whole.engine.logprobs(batch)) / batch.num_targets
    assert found == pytest.approx(known["loss"], rel=1e-12)
    same(kamon.load(tmp_path / "m", engine="native", dtype="float64"), whole)
    model = fine_tune(
        tuning,
        Toy,
        engine="native",
        dtype="float64",
        output=tmp_path / "n",
        should_stop=stop_after(30),
    )
    while not model.training["finished"]:
        model = resume_fine_tuning(tmp_path / "n", "toy", Toy, should_stop=stop_after(50))
    same(model, whole)


@pytest.mark.parametrize("held_out", [0, 4])
def test_it_ends_where_it_says_so(held_out: int, base: Model, tmp_path: Path) -> None:
    """The run ends after that step and is complete, with and without a validation set."""
    seen: list[int] = []

    class Ending(Toy):
        num_held_out = held_out
        done = 0

        def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
            self.done = step + 1
            return super().step(engine, step, learning_rate)

        def evaluate(self, engine: Engine) -> float | None:
            seen.append(self.done)
            return super().evaluate(engine) if held_out else None

        def should_end(self) -> bool:
            return seen[-1:] == [8]

    tuning = toy(base, num_steps=40)  # evaluated after every other step
    path = tmp_path / "m"
    fine_tune(tuning, Ending, output=path, should_stop=stop_after(5))
    model = resume_fine_tuning(path, "toy", Ending)
    assert seen == [2, 4, 6, 8]
    assert (len(model.metrics), model.training["finished"]) == (8, True)
    assert "ends" in model.training["tuning"]
    assert ("held_out" in model.training["tuning"]) == (held_out > 0)
    with pytest.raises(ConfigError, match="is already complete: 8 steps"):
        resume_fine_tuning(path, "toy", Ending)


def test_settings_of_a_tuning(base: Model) -> None:
    own = base.config
    config = build_config(own, {"min_lr": 0.0, "num_steps": 7}, {"num_steps": 9, "beta1": 0.5})
    assert config == replace(own, min_lr=0.0, num_steps=9, beta1=0.5)
    assert build_config(own, {}, {"n_embd": own.n_embd, "mode": "documents"}) == own
    assert build_config(own, {}, {"temperature": 0.7}, "temperature").temperature == 0.7
    for settings, message in (
        ({"n_embd": 8}, "n_embd is 4 for this model, not 8\nhint: drop n_embd"),
        (
            {"temperature": 0.7},
            "temperature is 0.5 for this model, not 0.7\nhint: drop temperature",
        ),
        (
            {"beta3": 1},
            "unknown setting 'beta3'\nhint: did you mean 'beta1'?|unknown setting 'beta3'",
        ),
        ({"vocab_size": 3}, "vocab_size cannot be set"),
        ({"num_steps": 0}, "num_steps must be 1 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            build_config(own, {}, settings)


VERBS = {
    "sft": (cli_sft, sft, sft.picked(Config(), 0)),
    "dpo": (cli_dpo, dpo, dpo.PICKED),
    "reward": (cli_reward, reward_model, reward_model.PICKED),
    "ppo": (cli_ppo, ppo, ppo.PICKED),
}


@pytest.mark.parametrize("verb", VERBS)
def test_help_says_what_is_picked(verb: str) -> None:
    command, module, picked = VERBS[verb]
    accepted = {*SETTINGS, *getattr(module, "ACCEPTED_SETTINGS", ())}
    accepted -= {"gradient_accumulation_steps"}
    parser = Parser()
    command.add_arguments(parser)
    shown = {action.dest: action.help or "" for action in parser._actions}
    assert {field.name for field in CONFIG_SETTINGS} & shown.keys() == accepted
    in_words = {"sft": {"num_steps", "learning_rate"}}.get(verb, set())
    for name in accepted & picked.keys() - in_words:
        value = picked[name]
        assert shown[name].endswith(
            f" [default: {value if isinstance(value, str) else f'{value:g}'}]"
        ), name
    assert shown["beta1"].endswith(" [default: the base's]")


def test_help_says_the_defaults_of_each_verb() -> None:
    """They are the defaults of the functions."""
    for verb, function in (
        ("sft", sft.sft),
        ("dpo", dpo.dpo),
        ("ppo", ppo.ppo),
        ("reward", reward_model.reward_model),
    ):
        command = VERBS[verb][0]
        parser = Parser()
        command.add_arguments(parser)
        shown = {action.dest: action.help or "" for action in parser._actions}
        parameters = inspect.signature(function).parameters
        for name in command.OWN:
            default = parameters[name].default
            end = "" if default is None else f" [default: {default:g}]"
            assert shown[name].endswith(end), (verb, name)
            assert ("[default" in shown[name]) == bool(end), (verb, name)


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_are_alike(
    verb: str, base: Model, tmp_path: Path, kamon: Callable[..., Result], monkeypatch: Any
) -> None:
    """They accept the same options and the same TOML file, and choose a name if you give none."""
    monkeypatch.chdir(tmp_path)
    base.save("base")
    Path("c.toml").write_text(f"grad_clip = 0.5\nnum_steps = 9\nn_embd = {base.config.n_embd}\n")
    if verb == "sft":
        rows = [{"prompt": "k", "completion": doc} for doc in DOCS]
    else:
        rows = [{"chosen": "afk", "rejected": doc} for doc in DOCS[1:]]
    Path("x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = ["--prefer=len<3"] if verb == "ppo" else ["x.jsonl"]
    flags = ["--num-steps=3", "--batch-size=4", "--beta1=0.7", "--device=cpu", "--seed=0"]
    done = kamon(verb, "base", *data, "--config=c.toml", *flags, "--json")
    assert done.code == 0, done.err
    assert done.json["directory"] == verb
    assert done.json["num_steps_done"] == 3
    config = kamon_load(verb).config
    found = (config.grad_clip, config.num_steps, config.batch_size, config.beta1, config.seed)
    assert found == (0.5, 3, 4, 0.7, 0)
    with model_dir.writing(verb, go_on=True) as writer:
        training = writer.stored.training | {"finished": False}
        config = replace(writer.stored.config, num_steps=5)
        writer.save(replace(writer.stored, training=training, config=config))
    again = kamon(verb, "--resume", verb, "--device=cpu", "--threads=1", "--json")
    assert again.code == 0, again.err
    assert "from checkpoint generation-" in again.err
    assert (again.json["directory"], again.json["num_steps_done"]) == (verb, 5)
    Path("c.toml").write_text("n_embd = 8\n")
    refused = kamon(verb, "base", *data, "--config=c.toml", "-o=n")
    assert refused.code == 2
    assert "n_embd is 4 for this model, not 8" in refused.err


def test_what_the_directory_says(base: Model, tmp_path: Path, kamon: Callable[..., Result]) -> None:
    path = tmp_path / "m"
    fine_tune(toy(base), Toy, output=path, should_stop=stop_after(3))
    shown = kamon("inspect", path)
    assert shown.code == 0
    assert "Fine-tuning      toy on toys: 25 examples\n" in shown.out
    assert "Base             somewhere (SHA-256 " in shown.out
    assert (
        f"Stopped          after step 4 of 12: resume with `kamon toy --resume {path}`" in shown.out
    )
    training = kamon("inspect", path, "--json").json["training"]
    known = training["tuning"]
    assert known["base"]["sha256"] == fingerprint(base)
    assert known["settings"] == {"pull": 0.5}
    assert training["corpus"]["num_docs"] == len(DOCS)
    for verb in (["sample", path], ["eval", path, "-n", "5"]):
        assert kamon(*verb).code == 0
    refused = kamon("train", "--resume", path)
    assert refused.code == 2
    assert (
        f"was fine-tuned with toy\nhint: resume it with `kamon toy --resume {path}`" in refused.err
    )
    with pytest.raises(
        ConfigError, match=r"was fine-tuned with toy, not with dpo\nhint: resume with `kamon toy"
    ):
        resume_fine_tuning(path, "dpo", Toy)


def test_a_model_that_is_not_tuned(base: Model, tmp_path: Path) -> None:
    kamon.train(DOCS, num_steps=2, output=tmp_path / "m", size="tiny")
    with pytest.raises(
        ConfigError, match=r"is a trained model, .*\nhint: resume with `kamon train --resume"
    ):
        resume_fine_tuning(tmp_path / "m", "toy", Toy)
    base.save(tmp_path / "n")
    with pytest.raises(ConfigError, match="is a trained model, not a fine-tuned one"):
        resume_fine_tuning(tmp_path / "n", "toy", Toy)


def test_examples_that_are_others(base: Model, tmp_path: Path) -> None:
    """Their hash in the manifest is right, but the run has learned other examples."""
    path = tmp_path / "m"
    fine_tune(toy(base), Toy, output=path, should_stop=stop_after(1))
    with model_dir.writing(path, go_on=True) as writer:
        from kamon.storage.checkpoint import pack_examples

        writer.save(replace(writer.stored, examples=pack_examples([{"text": "abc"}])))
    with pytest.raises(StoreError, match="its examples have changed"):
        resume_fine_tuning(path, "toy", Toy)
    with model_dir.writing(path, go_on=True) as writer:
        writer.save(replace(writer.stored, examples=b"x"))
    with pytest.raises(StoreError, match="the model's examples cannot be used"):
        resume_fine_tuning(path, "toy", Toy)
    with model_dir.writing(path, go_on=True) as writer:
        writer.save(replace(writer.stored, examples=None))
    with pytest.raises(
        StoreError,
        match=r"a fine-tuned model, but examples\.jsonl\.gz is missing\nhint: resume from",
    ):
        model_dir.load(path)


@pytest.mark.parametrize(
    "change", [{"base": None}, {"data": {}}, {"kind": 3}, {"settings": []}, {"updates": "2"}]
)
def test_a_record_that_is_none(change: dict[str, Any], base: Model, tmp_path: Path) -> None:
    path = tmp_path / "m"
    fine_tune(toy(base), Toy, output=path, should_stop=stop_after(1))
    with model_dir.writing(path, go_on=True) as writer:
        known = writer.stored.training
        content = known.content | {"tuning": known["tuning"] | change}
        writer.save(replace(writer.stored, training=replace(known, content=content)))
    with pytest.raises(StoreError, match="no valid description of the fine-tuning"):
        model_dir.load(path)


def test_a_loss_that_is_not_finite(base: Model) -> None:
    class Bad(Toy):
        def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
            if step == 5:
                return {"loss": 1.0, "reference": math.nan}
            return super().step(engine, step, learning_rate)

    with pytest.raises(
        TrainingError, match=r"diverged at step 6 of 12: .*\nhint: try a smaller learning_rate"
    ):
        fine_tune(toy(base), Bad)


def test_every_example_once_an_epoch() -> None:
    rng = random.Random(1)
    for _ in range(20):
        n, size, seed = rng.randint(1, 30), rng.randint(1, 7), rng.randrange(1000)
        places = [i for step in range(2 * n) for i in examples_of_step(seed, step, size, n)]
        for first in range(0, len(places) - n, n):
            assert sorted(places[first : first + n]) == list(range(n))
    assert examples_of_step(1, 0, 9, 9) != examples_of_step(2, 0, 9, 9)
