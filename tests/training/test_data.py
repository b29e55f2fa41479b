"""Training on a packed corpus: the same steps from every engine, and on from where it stopped."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

import kamon
from conftest import Result
from kamon.config import Config
from kamon.data import split as split_module
from kamon.data.documents import nfc
from kamon.data.split import RULE, RULE_BY_BUCKET, key, split
from kamon.engines.batch import PackedBatch
from kamon.engines.factory import EngineSpec
from kamon.errors import ConfigError
from kamon.packing import plan, worker
from kamon.packing.pack import pack
from kamon.packing.plan import PackOptions
from kamon.packing.shards import MANIFEST, SPLITS, open_shards
from kamon.training.data import DataOptions, load_training_data, packed_data
from kamon.training.presets import TEXT_PRESETS
from kamon.training.setup import TrainingSetup, build_setup

Kamon = Callable[..., Result]
SHAPE = {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 8, "batch_size": 3, "num_steps": 6}


def words(n: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices("abcdef", k=rng.randint(2, 9))) for _ in range(n)]


@pytest.fixture
def packed(tmp_path: Path, kamon: Kamon) -> Path:
    folder = tmp_path / "inputs"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.txt").write_text("\n".join(words(150, number)) + "\n")
    done = kamon("pack", folder, "-o", tmp_path / "shards", "--jobs", 1, "--shard-tokens", 700)
    assert done.code == 0, done.err
    return tmp_path / "shards"


@pytest.mark.parametrize("mode", ["documents", "text"])
def test_every_engine_learns_the_same_and_nothing_that_is_held_out(packed: Path, mode: str) -> None:
    settings = SHAPE | {"mode": mode, "num_steps": 3}
    native, scalar = (
        kamon.train(packed, engine=engine, dtype="float64", size="original", **settings)
        for engine in ("native", "scalar")
    )
    losses = [line["loss"] for line in native.metrics]
    assert losses == pytest.approx([line["loss"] for line in scalar.metrics], rel=1e-9)
    assert native.training["held_out"]["loss"] == pytest.approx(
        scalar.training["held_out"]["loss"], rel=1e-9
    )
    shards = open_shards(packed)
    lesson = packed_data(shards, mode=mode, hold_out=True)
    run = build_setup(lesson, Config(**SHAPE, mode=mode), EngineSpec("native"))
    if mode == "documents":
        learned = {tuple(d) for d in run.docs.get(0, len(run.docs))}
        assert len(learned) > 300
        assert not learned & {tuple(d) for d in run.held_out}
    else:
        assert run.held_out.num_targets == shards.num_tokens("held_out") - 1
        # A training that was begun before looks at them in their order, and goes on so.
        old = packed_data(shards, mode=mode, hold_out=True, in_order=True)
        in_order = shards.consecutive("held_out", SHAPE["block_size"], 10**6)
        assert (
            build_setup(old, Config(**SHAPE, mode=mode), EngineSpec("native")).held_out == in_order
        )
        assert run.held_out != in_order
        assert isinstance(run.docs.get(0, 2), PackedBatch)


@pytest.mark.parametrize("mode", ["documents", "text"])
def test_a_stopped_training_goes_on_to_the_same_bits(
    packed: Path, mode: str, tmp_path: Path
) -> None:
    settings = SHAPE | {"mode": mode, "dropout": 0.1}
    whole = kamon.train(packed, output=tmp_path / "whole", **settings)
    asked = iter([False, False, True, True])
    kamon.train(packed, output=tmp_path / "m", should_stop=lambda: next(asked, False), **settings)
    resumed = kamon.resume(tmp_path / "m")
    assert list(resumed.metrics) == list(whole.metrics)
    assert resumed.engine.state()["params"] == whole.engine.state()["params"]
    assert kamon.load(tmp_path / "m").sample(4) == whole.sample(4)
    assert len(kamon.load(tmp_path / "m").docs) == 0


def test_the_way_it_is_packed_decides(packed: Path, tmp_path: Path, kamon: Kamon) -> None:
    text = tmp_path / "as-text"
    assert kamon("pack", tmp_path / "inputs", "-o", text, "--mode=text", "--no-holdout").code == 0
    lesson = packed_data(open_shards(text), mode=None, hold_out=True)
    assert (lesson.mode, lesson.has_validation) == ("text", False)
    with pytest.raises(ConfigError, match="is packed as text"):
        kamon_train(text, mode="documents")
    with pytest.raises(ConfigError, match=r"pack it without one with `kamon pack --no-holdout`"):
        kamon_train(packed, hold_out=False)
    with pytest.raises(ConfigError, match="is packed with its tokenizer"):
        kamon_train(packed, vocab_size=300)
    with pytest.raises(ConfigError, match="is packed with another tokenizer"):
        kamon_train(packed, init_from=kamon_train(["xyz", *words(30, 9)]))
    with pytest.raises(ConfigError, match="is packed with another tokenizer"):
        kamon_train(packed, tokenizer="bpe")
    with pytest.raises(
        ConfigError, match=r"cannot check whether samples are novel\nhint: leave out novel"
    ):
        kamon_train(packed).sample(2, novel=True)
    with pytest.raises(ConfigError, match=r"pack .* as text"):
        kamon_train(packed, long_documents="windows")


def kamon_train(docs: object, **more: object) -> kamon.Model:
    return kamon.train(docs, **SHAPE | more)  # type: ignore[arg-type]


def test_another_corpus_is_not_the_one_that_is_learned(
    packed: Path, tmp_path: Path, kamon: Kamon
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SHAPE.items()]
    model = tmp_path / "model"
    done = kamon("train", packed, "-o", model, *flags, "--json")
    assert done.code == 0, done.err
    assert " tokens for training\n" in done.err
    other = tmp_path / "other"
    assert kamon("pack", tmp_path / "inputs" / "0.txt", "-o", other).code == 0
    done = kamon("train", "--resume", model, "--extend", 2, other)
    assert (done.code, done.out) == (2, "")
    assert "is not the packed corpus" in done.err
    assert kamon("train", "--resume", model, "--extend", 2, tmp_path / "inputs" / "0.txt").code == 2
    moved = tmp_path / "moved"
    shutil.move(packed, moved)
    assert kamon("train", "--resume", model, "--extend", 2).code == 1
    assert kamon("train", "--resume", model, "--extend", 2, moved).code == 0
    assert kamon("eval", model).code == 1
    assert kamon("eval", model, tmp_path / "inputs" / "1.txt", "-n", 0).code == 0
    done = kamon("train", packed_list(tmp_path), "-o", tmp_path / "list", *flags)
    assert kamon("train", "--resume", tmp_path / "list", "--extend", 2, moved).code == 2


def packed_list(tmp_path: Path) -> Path:
    path = tmp_path / "list.txt"
    path.write_text("\n".join(words(40, 4)))
    return path


# ---- as the same list


LISTS = {
    "usual": [f"{word}{n:x}" for n, word in enumerate(words(700, 7))],
    "short": [f"{word}{n:x}" for n, word in enumerate(words(70, 8))],
    "long": [f"{n:x}" for n in range(12_000)] + ["z" * 300],
    "text": [" ".join(words(11_000, 9))],
    "texts": [" ".join(words(12, n)) for n in range(120)],
}
SHARED = ("engine", "dtype", "num_cut", "hold_out", "init_from", "checkpoint_every", "held_out")


class Stop(Exception):  # noqa: N818 - no error
    """All is decided."""


def decided(docs: object, mode: str, **settings: Any) -> tuple[TrainingSetup, dict[str, Any]]:
    """The Run of a training, and what its record will say of the corpus."""
    seen: list[TrainingSetup] = []

    def on_start(run: TrainingSetup) -> None:
        seen.append(run)
        raise Stop

    with pytest.raises(Stop):
        kamon.train(docs, mode=mode, on_start=on_start, **settings)  # type: ignore[arg-type]
    return seen[0], asdict(seen[0].config)


@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *(("documents", "usual"), ("documents", "short"), ("documents", "long")),
        *(("text", "text"), ("text", "texts"), ("text", "usual")),
    ],
)
@pytest.mark.parametrize("hold_out", [True, False])
def test_a_packed_corpus_is_learned_like_the_same_list(
    tokenizer: str, mode: str, name: str, hold_out: bool, tmp_path: Path
) -> None:
    docs = LISTS[name]
    path = tmp_path / "docs.jsonl"
    path.write_text("".join(json.dumps({"text": doc}) + "\n" for doc in docs))
    vocab_size = 300 if tokenizer == "bpe" else None
    how: dict[str, Any] = {"tokenizer": tokenizer, "vocab_size": vocab_size}
    pack([str(path)], tmp_path / "s", PackOptions(mode=mode, hold_out=hold_out, **how))  # type: ignore[arg-type]
    forms = [(docs, how), (tmp_path / "s", {})]
    scratch = {"init_from": "scratch"}  # only a list may start from the base
    for settings in ({}, {"block_size": 6}, {"size": "small"}, {"budget": 0.6}):
        settings |= scratch if "size" not in settings else {}
        (run, config), (packed, its) = (
            decided(form, mode, hold_out=hold_out, **settings, **more) for form, more in forms
        )
        if "budget" in settings:  # by the clock
            config |= {"num_steps": 0, "warmup_steps": 0}
            its |= {"num_steps": 0, "warmup_steps": 0}
        assert its == config
        assert packed.tokenizer.to_json() == run.tokenizer.to_json()
        assert (packed.longest, packed.num_cut) == (run.longest, run.num_cut)
        assert len(packed.held_out) == len(run.held_out)
        assert packed.held_out.num_targets == run.held_out.num_targets
        assert sorted(map(list, packed.held_out)) == sorted(map(list, run.held_out))
        assert (run.num_cut > 0) == (mode == "documents" and run.longest >= run.config.block_size)
    lessons = [
        load_training_data(DataOptions(form, hold_out=hold_out, **more), mode)
        for form, more in forms
    ]
    for one in ("mode", "train_lengths", "lengths", "has_validation"):
        assert getattr(lessons[0], one) == getattr(lessons[1], one)
    chars = [sum(n * number for n, number in found.chars.items()) for found in lessons]
    assert chars[0] == chars[1]
    small = SHAPE | {"mode": mode, "hold_out": hold_out}
    models = [kamon.train(form, blend=False, **small, **more) for form, more in forms]
    kept = [model.training.content for model in models]
    for each in kept:
        assert each["corpus"]["num_docs"] == len(docs)
        if each["held_out"] is not None and mode == "documents":  # learned in another order
            each["held_out"] |= {"loss": 0.0, "best_step": 0, "over_fitted": False}
    assert [kept[0][each] for each in SHARED] == [kept[1][each] for each in SHARED]
    assert kept[0]["corpus"]["split"] == kept[1]["corpus"]["split"] == RULE
    if mode == "text":  # windows from the same places
        assert list(models[0].metrics) == list(models[1].metrics)
        assert models[0].engine.state() == models[1].engine.state()


@pytest.mark.parametrize("many", [False, True])
def test_the_same_documents_are_held_out_of_shards_and_of_the_list(
    many: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of units of any number; repetitions, and other spellings, are on the side of the first."""
    if many:
        for module in (split_module, worker):
            monkeypatch.setattr(module, "MAX_RANKED", 150)
    monkeypatch.setattr(plan, "MIN_UNIT_BYTES", 300)
    docs = [f"{n:x}é" for n in range(300)]
    docs += [*docs[:99], *(normalize("NFD", doc) for doc in docs[50:200])]
    path = tmp_path / "docs.txt"
    path.write_text("\n".join(docs), encoding="utf-8")
    for tokenizer in ("char", "bpe"):
        found = pack([str(path)], tmp_path / tokenizer, PackOptions(tokenizer=tokenizer), jobs=1)
        assert found.num_units > 5
        shards = open_shards(tmp_path / tokenizer)
        learned, held_out = (
            [
                shards.tokenizer.decode(shards.document(part, n)[1:-1])
                for n in range(shards.num_docs(part))
            ]
            for part in SPLITS
        )
        assert len(learned) + len(held_out) == len(docs)
        for part, of_list in zip((learned, held_out), split(docs), strict=True):
            assert set(part) == set(map(nfc, of_list))
    assert len(set(map(key, held_out))) == 30 or many


def test_what_was_packed_before_is_counted(tmp_path: Path) -> None:
    """Shards whose manifest has no lengths, and no number of the rule."""
    path = tmp_path / "docs.txt"
    path.write_text("\n".join(LISTS["usual"]) + "\nféé名\n", encoding="utf-8")
    for mode, tokenizer in product(("documents", "text"), ("char", "bpe")):
        place = tmp_path / f"{mode}-{tokenizer}"
        pack([str(path)], place, PackOptions(mode=mode, tokenizer=tokenizer, shard_tokens=900))  # type: ignore[arg-type]
        new = open_shards(place)
        content = new.manifest.content
        found = {part: (new.lengths(part), new.num_chars(part)) for part in SPLITS}
        assert sum(found["train"][0].values()) == new.num_docs("train") > 0
        size = len(path.read_text(encoding="utf-8"))
        if mode == "documents":
            size -= len(LISTS["usual"]) + 1
        assert sum(number for _, number in found.values()) == size
        old = {k: v for k, v in content.items() if k not in ("lengths", "num_chars")}
        old["settings"] = {k: v for k, v in content["settings"].items() if k != "split"}
        (place / MANIFEST).write_text(json.dumps(old))
        shards = open_shards(place)
        assert {part: (shards.lengths(part), shards.num_chars(part)) for part in SPLITS} == found
        assert (shards.rule, new.rule) == (RULE_BY_BUCKET, RULE)


def test_texts_have_the_size_of_their_characters(tmp_path: Path) -> None:
    """Not of their tokens, of which byte pairs make fewer."""
    path = tmp_path / "text.txt"
    path.write_text("the same few words and the same again " * 2000)  # 76,000 characters
    how: dict[str, Any] = {"mode": "text", "tokenizer": "bpe"}
    pack([str(path)], tmp_path / "s", PackOptions(**how))
    for form, more in ((path, {"tokenizer": "bpe"}), (tmp_path / "s", {})):
        run, _ = decided(form, "text", **more)
        assert run.config.n_embd == TEXT_PRESETS["small"]["n_embd"]


def test_nothing_to_learn(tmp_path: Path, kamon: Kamon) -> None:
    """The sentences of the list."""
    for number, (content, mode) in enumerate(
        [
            *(("anna\n", "documents"), ("anna\n" * 200, "documents")),
            *(("é\néé\n" * 99, "documents"), ("too short\n", "text")),
        ]
    ):
        path, place = tmp_path / f"{number}.txt", tmp_path / f"{number}"
        path.write_text(content, encoding="utf-8")
        for tokenizer in ("char", "bpe"):
            flags = [f"--mode={mode}", f"--tokenizer={tokenizer}"]
            assert kamon("pack", path, "-o", place, *flags, "--overwrite").code == 0
            packed = kamon("train", place, "-o", tmp_path / "m", flags[0])
            done = kamon("train", path, "-o", tmp_path / "m", flags[0])
            assert packed.code == done.code == 1
            assert packed.err.splitlines()[-1] == done.err.splitlines()[-1].replace(
                str(path), str(place)
            )


def test_what_is_said_of_a_packed_corpus(tmp_path: Path, kamon: Kamon) -> None:
    """Documents are cut, and none is held out, as of the list; `--no-holdout` says nothing."""
    path = tmp_path / "short.txt"
    path.write_text("\n".join(LISTS["short"]))
    none_held_out = "no validation set, because the list has fewer than 100 unique entries\nhint: "
    of_lists = ", and --long-documents windows trains on all parts"
    said = {}
    for flags in ([], ["--no-holdout"]):
        place = tmp_path / f"s{len(flags)}"
        assert kamon("pack", path, "-o", place, *flags).code == 0
        for source in (path, place):
            model = tmp_path / "m"
            settings = ["--block-size=4", "--num-steps=5", "--overwrite", "-o", model]
            settings.append("--from=scratch")
            done = kamon("train", source, *settings, *flags)
            said[source.name, bool(flags)] = done.err.split("\n", 1)[1].split("\nTrained ")[0]
            assert (none_held_out in done.err) == (not flags)
            assert "the most that block_size 4 holds: their ends are cut off" in done.err
            assert (of_lists in done.err) == (source == path)
            said[source.name, bool(flags)] = said[source.name, bool(flags)].replace(of_lists, "")
            done = kamon("train", "--resume", model, "--extend=3")
            assert done.code == 0
            assert none_held_out not in done.err
            assert "--block-size" not in done.err
    assert said["short.txt", False] == said["s0", False]
    assert said["short.txt", True] == said["s1", True]
