"""Training on a packed corpus: the same steps from every engine, and on from where it stopped."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import kamon
from conftest import Result
from kamon import corpus
from kamon.batch import Batch
from kamon.config import Config
from kamon.errors import ConfigError, CorpusError
from kamon.lesson import lesson_of_shards
from kamon.shards import open_shards

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
    lesson = lesson_of_shards(shards, mode=mode, hold_out=True)
    run = lesson.prepare(Config(**SHAPE, mode=mode), engine="native")
    if mode == "documents":
        learned = {tuple(d) for d in run.docs.take(0, len(run.docs))}
        assert len(learned) > 300
        assert not learned & {tuple(d) for d in run.held_out}
    else:
        assert run.held_out.num_targets == shards.num_tokens("held_out") - 1
        assert isinstance(run.docs.take(0, 2), Batch)


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
    assert kamon("pack", tmp_path / "inputs", "-o", text, "--mode=text", "--all").code == 0
    lesson = lesson_of_shards(open_shards(text), mode=None, hold_out=True)
    assert (lesson.mode, lesson.hold_out) == ("text", False)
    with pytest.raises(ConfigError, match="is packed as text"):
        kamon_train(text, mode="documents")
    with pytest.raises(ConfigError, match=r"`kamon pack --all` makes shards without any"):
        kamon_train(packed, hold_out=False)
    with pytest.raises(ConfigError, match="is packed with its tokenizer"):
        kamon_train(packed, vocab_size=300)
    with pytest.raises(ConfigError, match="is packed with another tokenizer"):
        kamon_train(packed, init_from=kamon_train(["xyz", *words(30, 9)]))
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
    assert "to learn from" in done.err
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


def test_shards_and_lists_come_to_the_same_documents(packed: Path, tmp_path: Path) -> None:
    """Where nothing is repeated, what is held out of a list is what is held out of shards."""
    docs = [d for n in range(3) for d in corpus.read(tmp_path / "inputs" / f"{n}.txt").docs]
    shards = open_shards(packed)
    total = shards.num_docs("train") + shards.num_docs("held_out")
    assert total == len(docs)


def test_nothing_to_learn(tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "one.txt"
    # the only document is of the part that is held out
    from kamon.split import part

    (tmp_path / "one.txt").write_text(next(w for w in words(999, 5) if part(w.encode()) == 0))
    if kamon("pack", path, "-o", tmp_path / "shards").code == 0:
        with pytest.raises(CorpusError, match="nothing to learn from"):
            kamon_train(tmp_path / "shards")
