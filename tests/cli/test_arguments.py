"""What all functions and commands take in the same way: models, numbers, built-in data."""

from __future__ import annotations

import io
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kamon as package
from conftest import TINY_FLAGS, Result
from kamon import completion
from kamon.cli.output import progress_bar, say, show_training
from kamon.config import Config
from kamon.data import builtin
from kamon.data.cleaning import Options
from kamon.engines.factory import num_threads
from kamon.errors import ConfigError, CorpusError
from kamon.evaluation import introspection, score
from kamon.evaluation.evaluate import evaluate
from kamon.exporters.export import export
from kamon.finetuning import ppo, preferences
from kamon.finetuning.compare import by_reward_model, compare
from kamon.finetuning.dpo import dpo
from kamon.finetuning.preferences import Preference
from kamon.finetuning.rating import base_from
from kamon.finetuning.reward_model import reward_model, reward_of
from kamon.finetuning.sft import sft
from kamon.generation.constraints import GenerationConstraints
from kamon.model import Model
from kamon.ngrams.reference import train_ngram
from kamon.storage import model_dir
from kamon.storage.checkpoint import Checkpoint
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.training.loop import Progress

DOCS = ["anna", "hanna", "nora", "nina", "ann", "han", "no"]
PAIRS = [Preference("ann", "nora"), Preference("han", "nina")]
ASKED = [{"prompt": "no", "completion": "ann"}]
STEPS: dict[str, Any] = {"num_steps": 1, "batch_size": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    package.train(DOCS, num_steps=3, hold_out=False, n_embd=8, output=path / "m")
    reward_model(path / "m", PAIRS, **STEPS, output=path / "r")
    return path


# ---- models

TAKE_A_MODEL: list[Callable[[Any], object]] = [
    lambda m: package.train(DOCS, init_from=m, num_steps=1),
    lambda m: sft(m, ASKED, **STEPS),
    lambda m: dpo(m, PAIRS, **STEPS),
    lambda m: ppo.ppo(m, prefer="len <= 3", **STEPS),
    lambda m: reward_model(m, PAIRS, **STEPS),
    lambda m: base_from(m),
    lambda m: compare(m, {"same": m}, n=2),
    lambda m: evaluate(m, ["nana"], n=2),
    lambda m: list(score.score(m, ["anna"])),
    lambda m: completion.next_tokens(m, "a"),
    lambda m: completion.complete(m, "a", 1),
    lambda m: completion.fill(m, "a_", 1),
    lambda m: introspection.losses(m),
    lambda m: introspection.embeddings(m),
    lambda m: introspection.nearest_tokens(m, [0], 1),
    lambda m: introspection.parameters(m),
    lambda m: introspection.attention(m, "a"),
    lambda m: introspection.attention_weights(m, "a"),
    lambda m: introspection.lengths(m, 2),
    lambda m: export(m, "json"),
]
TAKE_A_REWARD_MODEL: list[Callable[[Any], object]] = [
    lambda m: reward_of(m, ["anna"]),
    lambda m: by_reward_model(m)(["anna"]),
]


@pytest.mark.parametrize("ask", [*TAKE_A_MODEL, *TAKE_A_REWARD_MODEL])
def test_a_model_or_its_directory(ask: Callable[[Any], object], folder: Path) -> None:
    path = folder / ("r" if ask in TAKE_A_REWARD_MODEL else "m")
    for model in (package.load(path), path, str(path)):
        ask(model)
    for wrong in (None, 3, [path]):
        if wrong is None and ask is TAKE_A_MODEL[0]:
            continue  # init_from is optional
        with pytest.raises(ConfigError, match="must be a model or its directory, not"):
            ask(wrong)


def test_the_base_is_known_by_its_path(folder: Path) -> None:
    for tuned in (
        ppo.ppo(folder / "m", prefer="len <= 3", **STEPS),
        reward_model(folder / "m", PAIRS, **STEPS),
    ):
        assert tuned.training["tuning"]["base"]["path"] == str(folder / "m")


def test_an_export_is_of_what_is_stored(folder: Path) -> None:
    """To the last bit, whichever engine would compute with it."""
    found = model_dir.load(folder / "m")
    assert isinstance(found, Checkpoint)
    assert export(folder / "m", "json") == export(found, "json")


# ---- numbers


class Index:
    """An integer that is no int, as those of other libraries are."""

    def __index__(self) -> int:
        return 2


@pytest.mark.parametrize("two", [np.int64(2), Index()])
def test_whole_numbers_of_other_libraries(two: Any, folder: Path) -> None:
    model = package.load(folder / "m")
    assert Config(num_steps=two, seed=two) == Config(num_steps=2, seed=2)
    assert type(Config(num_steps=two).num_steps) is int
    assert model.sample(two, seed=two, top_k=two) == model.sample(2, seed=2, top_k=2)
    conditions = GenerationConstraints(min_len=two, max_len=two, top_k=two)
    assert {type(x) for x in (conditions.min_len, conditions.max_len)} == {int}
    assert Options(min_len=two).min_len == 2
    assert num_threads(two) == 2
    assert len(completion.complete(model, "", two, effort=0.01).documents) == 2
    assert len(evaluate(model, ["nana"], n=two).samples.similar) <= 2
    assert compare(model, {"same": model}, n=two).n == 2
    assert introspection.lengths(model, two).num_samples == 2
    assert train_ngram(model.tokenizer.encode_documents(DOCS), 7, two).order == 2
    settings: dict[str, Any] = {"num_steps": two, "batch_size": two, "warmup_steps": two}
    tuned = ppo.ppo(model, prefer="len <= 3", num_ppo_epochs=two, **settings)
    assert len(tuned.metrics) == 2
    assert len(dpo(model, PAIRS, **settings).metrics) == 2
    assert len(sft(model, ASKED, block_size=np.int32(64), **settings).metrics) == 2
    trained = package.train(DOCS, checkpoint_every=two, threads=two, **settings)
    assert len(trained.metrics) == 2
    with pytest.raises(ConfigError, match=r"vocab_size must be from 257 .*, not 2"):
        BytePairTokenizer.train(DOCS, two)


def test_numbers_of_other_libraries(folder: Path) -> None:
    half = np.float32(0.5)
    assert Config(learning_rate=half, dropout=half) == Config(learning_rate=0.5, dropout=0.5)
    model = package.load(folder / "m")
    assert model.sample(3, top_p=half, temperature=half) == model.sample(
        3, top_p=0.5, temperature=0.5
    )
    tuned = ppo.ppo(
        model, prefer="len <= 3", kl_coef=half, clip_range=half, max_kl=np.int64(9), **STEPS
    )
    assert type(tuned.training["tuning"]["settings"]["beta"]) is float


@pytest.mark.parametrize("wrong", [True, np.True_, "2", 2.0, np.float64(2), None, [2]])
def test_what_is_no_whole_number(wrong: Any, folder: Path) -> None:
    model = package.load(folder / "m")
    for ask in (
        lambda: Config(num_steps=wrong),
        lambda: model.sample(wrong),
        lambda: model.sample(1, min_len=wrong),
        lambda: completion.complete(model, "", wrong),
        lambda: compare(model, {}, n=wrong),
        lambda: ppo.ppo(model, prefer="len <= 3", num_ppo_epochs=wrong),
        lambda: preferences.common_pairs(wrong, 1),
        lambda: dpo(model, PAIRS, batch_size=wrong),
        lambda: package.resume(folder / "m", extend=wrong),
    ):
        with pytest.raises(ConfigError, match="must be a whole number, not"):
            ask()


# ---- names of built-in data


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (["train", "names", "-o", "out", *TINY_FLAGS], "names"),
        (["ngram", "names", "-n", "1"], "names"),
        (["reward", "base", "common", "-o", "out", "--num-pairs=3", "--num-steps=1"], "common"),
        (["dpo", "base", "common", "-o", "out", "--num-pairs=3", "--num-steps=1"], "common"),
        (["sft", "base", "initials", "-o", "out", "--num-steps=1"], "initials"),
    ],
)
def test_what_is_built_in_wins(
    argv: list[str],
    name: str,
    tmp_path: Path,
    kamon: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Over a file of that name, which is said; a folder of that name is no list, and no matter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtin, "names", lambda: ["emma", "olivia"])
    letters = ["abcdefghijklm", "nopqrstuvwxyz"]
    package.train(letters, num_steps=1, hold_out=False, n_embd=8, output="base")
    said = f"warning: this is the built-in {name}, not your file\nhint: name your own file ./{name}"
    Path(name).mkdir()
    done = kamon(*argv)
    assert done.code == 0, done.err
    assert "this is the built-in" not in done.err
    Path(name).rmdir()
    Path(name).write_text("no list, and no JSON lines\n")
    done = kamon(*argv, *(["--overwrite"] if "-o" in argv else []))
    assert done.code == 0, done.err
    assert said in done.err
    argv[argv.index(name)] = f"./{name}"
    done = kamon(*argv, *(["--overwrite"] if "-o" in argv else []))
    assert "this is the built-in" not in done.err


# ---- the terminal


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def screen(written: str) -> list[str]:
    """The lines that a terminal shows of this: a carriage return goes back and writes over."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_lines_above_a_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stands on a line of its own, with nothing of the bar; and the bar counts no 0 tokens."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_bar(show_training) as update:
        assert update
        for step in (1, 2):
            update(Progress(100, array("d", [1.5]) * step, 1.0))
            say(f"line {step}")
    text = terminal.getvalue()
    assert "loss 1.500\r" in text
    assert "tokens/s" not in text
    lines = screen(text)
    assert [line for line in lines if "line" in line] == ["line 1", "line 2"], lines
    with progress_bar(show_training) as update:
        assert update
        update(Progress(100, array("d", [1.5]), 1.0, 0, 2_000.0, 3e9))
    assert "loss 1.500, 2k tokens/s\r" in terminal.getvalue()


def test_what_is_no_pair_and_no_reward(folder: Path) -> None:
    for ask, error, message in (
        (lambda: dpo(folder / "m", [PAIRS[0], ("a", "b")]), CorpusError, "^pair 2 must be a Pref"),
        (lambda: reward_model(folder / "m", [1]), CorpusError, "^pair 1 must be a Pref"),
        (lambda: reward_model(folder / "m", ["common"]), CorpusError, "^pair 1 must be a Pref"),
        (
            lambda: ppo.ppo(folder / "m", lambda _: None),
            ConfigError,
            "must return a number for each",
        ),
        (lambda: ppo.ppo(folder / "m", lambda t: t), ConfigError, "must return a number for each"),
        (lambda: compare(folder / "m", [folder / "m"]), ConfigError, "must map names to models"),
    ):
        with pytest.raises(error, match=message):
            ask()


def test_the_reward_of_nobody(folder: Path) -> None:
    """Where all samples have one reward there is nothing to learn."""
    model: Model = package.load(folder / "m")
    for what, message in (
        ({"prefer": "len > 40"}, r"^none of 1,?0*[0-9]+ samples satisfies the rule"),
        ({"prefer": "len >= 0"}, r"^all [0-9,]+ samples of the model satisfy the rule"),
        ({"reward": lambda texts: [2.5] * len(texts)}, r"have the same reward, 2\.5"),
    ):
        with pytest.raises(ConfigError, match=message):
            ppo.ppo(model, **what)
