"""A training that is interrupted, however it is, comes to what it would have come to."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kamon
from conftest import ENGINES_AND_DTYPES, TINY, TINY_FLAGS, Result, times
from helpers.lists import DOCS
from helpers.runs import Killed, kill_after, stop_after
from kamon.errors import ConfigError, CorpusError, StoreError
from kamon.files.lock import locked
from kamon.model import Model
from kamon.native import library
from kamon.storage import model_dir
from kamon.tokenizers.char import CharTokenizer
from kamon.training.options import checkpoint_interval

Kamon = Callable[..., Result]
Process = Callable[..., subprocess.Popen[str]]
SETTINGS = {
    "n_layer": 2, "n_embd": 4, "n_head": 2, "block_size": 6, "num_steps": 14, "batch_size": 2,
    "learning_rate": 0.03, "schedule": "cosine", "warmup_steps": 2, "weight_decay": 0.1,
    "dropout": 0.2, "std": 0.1,
}  # fmt: skip


def same(model: Model, other: Model) -> None:
    """Bit for bit: what was measured, the model, its samples."""
    assert model.config == other.config
    assert model.metrics == other.metrics
    assert model.engine.state()["params"] == other.engine.state()["params"]
    assert model.sample(50, seed=3) == other.sample(50, seed=3)
    ignored = {"seconds": 0, "checkpoint_every": None}
    assert model.training | ignored == other.training | ignored


@pytest.mark.parametrize(("engine", "dtype"), ENGINES_AND_DTYPES)
@pytest.mark.parametrize("hold_out", [True, False])
def test_a_training_stopped_again_and_again(
    engine: str, dtype: str, hold_out: bool, tmp_path: Path
) -> None:
    chosen: dict[str, Any] = {"engine": engine, "dtype": dtype, "hold_out": hold_out}
    whole = kamon.train(DOCS, **chosen, **SETTINGS)
    path = tmp_path / "m"
    model = kamon.train(DOCS, output=path, should_stop=stop_after(2), **chosen, **SETTINGS)
    rounds = 0
    while not model.training["finished"]:
        rounds += 1
        assert len(model.metrics) < 14
        same(kamon.load(path, engine=engine, dtype=dtype), model)
        threads = None if engine == "scalar" else 1 + rounds % 2
        model = kamon.resume(path, should_stop=stop_after(2), threads=threads)
    assert rounds
    same(model, whole)
    same(kamon.load(path, engine=engine, dtype=dtype), whole)
    with pytest.raises(
        ConfigError,
        match=r"has finished its 14 steps on a list in memory\nhint: train it for more steps",
    ):
        kamon.resume(path)


@pytest.mark.parametrize(("engine", "dtype"), ENGINES_AND_DTYPES)
def test_any_generation_leads_to_the_same_model(engine: str, dtype: str, tmp_path: Path) -> None:
    """Also the one before, where the newest is damaged; and that is said."""
    chosen: dict[str, Any] = {"engine": engine, "dtype": dtype}
    whole = kamon.train(DOCS, **chosen, **SETTINGS)
    path = tmp_path / "m"
    kamon.train(DOCS, output=path, checkpoint_every=6, **chosen, **SETTINGS)
    first, second = model_dir.checkpoint_dirs(path)
    assert [len(model_dir.read_generation(f).metrics) for f in (first, second)] == [12, 14]
    (second / "state.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"resuming from generation-000002: .*000003/state"):
        same(kamon.resume(path), whole)
    same(kamon.load(path, **chosen), whole)


def test_early_stopping_and_the_best_model_come_through(tmp_path: Path) -> None:
    """A model too large for its list: what was best is remembered over the interruption."""
    settings = {"n_embd": 32, "num_steps": 400, "batch_size": 16, "learning_rate": 0.02}
    whole = kamon.train(DOCS, **settings)
    assert len(whole.metrics) < 400
    path = tmp_path / "m"
    model = kamon.train(DOCS, output=path, should_stop=stop_after(3), **settings)
    while not model.training["finished"]:
        model = kamon.resume(path, should_stop=stop_after(5))
    same(model, whole)
    assert model.training["held_out"]["best_step"] < len(model.metrics)


@pytest.mark.parametrize("blend", [True, False])
@pytest.mark.parametrize("num_docs", [150, 60])  # 60 are cross-validated
def test_a_run_from_the_base_that_is_killed_again_and_again(
    num_docs: int, blend: bool, tmp_path: Path
) -> None:
    settings = {"num_steps": 24, "blend": blend, "seed": 3, "dropout": 0.1}
    docs, path = DOCS[:num_docs], tmp_path / "m"
    whole = kamon.train(docs, **settings)
    assert whole.training["init_from"] == "base"
    assert (whole.training.blend is not None) == blend
    with pytest.raises(Killed):
        kamon.train(docs, output=path, checkpoint_every=1, on_progress=kill_after(4), **settings)
    for steps in (5, 9, 17):
        with pytest.raises(Killed):
            kamon.resume(path, threads=1 + steps % 2, on_progress=kill_after(steps))
        assert len(model_dir.load(path).metrics) == steps
    same(kamon.resume(path), whole)
    same(kamon.load(path), whole)
    longer = kamon.resume(path, extend=5)
    assert (longer.training.blend is not None) == blend
    assert len(longer.metrics) == 29


def test_interrupted_before_anything_was_measured(tmp_path: Path) -> None:
    """Twenty evaluations in a million steps: none has been made yet."""
    settings = TINY | {"num_steps": 10**6}
    kamon.train(DOCS, output=tmp_path / "m", should_stop=stop_after(1), **settings)
    for _ in range(2):
        model = kamon.resume(tmp_path / "m", should_stop=stop_after(1))
        assert model.metrics.held_out == {}
        assert model.training["held_out"]["best_step"] == len(model.metrics)
        assert kamon.load(tmp_path / "m").engine.state()["params"] == model.engine.state()["params"]


def test_extending(tmp_path: Path) -> None:
    """With nothing held out and the same learning rate all along, longer is what it says."""
    settings = TINY | {"num_steps": 30, "schedule": "linear"}
    path = tmp_path / "m"
    kamon.train(DOCS, output=path, **settings)
    model = kamon.resume(path, extend=12)
    assert (len(model.metrics), model.config.num_steps) == (42, 42)
    lines = list(model.metrics)
    assert lines[29]["learning_rate"] == pytest.approx(0.01 / 30)
    assert lines[30]["learning_rate"] == pytest.approx(0.01 * 12 / 42)
    assert model.training["finished"]
    assert kamon.load(path).config.num_steps == 42
    for wrong in (-1, True, 1.5):
        with pytest.raises(ConfigError, match=r"extend must be (a whole number|0 or more)"):
            kamon.resume(path, extend=wrong)  # type: ignore[arg-type]


def test_what_cannot_go_on(tmp_path: Path) -> None:
    path = tmp_path / "m"
    model = kamon.train(DOCS, **TINY)
    model.save(path)
    with pytest.raises(
        StoreError, match="has no checkpoint to resume from\nhint: start a new training"
    ):
        kamon.resume(path)
    with pytest.raises(StoreError, match="no model at"):
        kamon.resume(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match=r"no model in .*empty\nhint: give the directory that"):
        kamon.resume(tmp_path / "empty")
    assert list((tmp_path / "empty").iterdir()) == []


def test_tokens_of_another_list(tmp_path: Path) -> None:
    """As many, and the manifest agrees: the documents tell."""
    path = tmp_path / "m"
    kamon.train(DOCS, output=path, **TINY)
    found = model_dir.load(path)
    others = CharTokenizer([chr(ord(char) + 1000) for char in found.tokenizer.chars])
    model_dir.save(path, replace(found, tokenizer=others), overwrite=True)
    with pytest.raises(StoreError, match="its tokens are not those of its documents"):
        kamon.resume(path, extend=1)


@pytest.mark.parametrize(("engine", "dtype"), ENGINES_AND_DTYPES)
def test_parameters_that_are_too_large(engine: str, dtype: str, tmp_path: Path) -> None:
    """Finite, and yet no number comes of them."""
    path = tmp_path / "m"
    kamon.train(DOCS, output=path, **TINY)
    found = model_dir.load(path)
    huge = array("d", [1e308 * (-1) ** i for i in range(len(found.params))])
    model_dir.save(path, replace(found, params=huge), overwrite=True)
    hint = "train it again"
    if dtype != "float64":
        hint = r"use --dtype float64 \(dtype=\"float64\" in Python\), or train it again"
    with pytest.raises(StoreError, match=f"m are too large for {dtype}\nhint: {hint}"):
        kamon.load(path, engine=engine, dtype=dtype)


def test_another_list_or_another_setting_is_refused(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS))
    path = tmp_path / "m"
    flags = [f for f in TINY_FLAGS if "steps=3" not in f]
    assert kamon("train", names, "-o", path, *flags, "--num-steps=50").code == 0
    done = kamon("train", "--resume", path, "--n-embd=16", "--extend=5")
    assert done.code == 2
    assert "was trained with n_embd 4, not 16\nhint: leave out n_embd to resume" in done.err
    for flag in (
        "--size=tiny",
        "--budget=1s",
        "--no-holdout",
        "--dtype=float64",
        "--overwrite",
        "-o=x",
    ):
        done = kamon("train", "--resume", path, *flag.split("=", 1))
        assert (done.code, done.out) == (2, "")
        assert "cannot be changed when resuming" in done.err
    names.write_text("\n".join([*DOCS[:7], "another", *DOCS[7:]]))
    done = kamon("train", names, "--resume", path, "--extend=5")
    assert done.code == 2
    assert f"{names} is not the list that {path} was trained on: it has 151 unique" in done.err
    assert "number 8, 'another' for 'banna'" in done.err or "number 8" in done.err
    names.write_text("\n".join(DOCS))
    assert kamon("train", names, "--resume", path, "--extend=5", "--n-embd=4").code == 0
    done = kamon("train", "--extend", "5")
    assert (done.code, "--extend needs --resume DIR" in done.err) == (2, True)


def test_a_directory_is_all_that_is_needed(tmp_path: Path, kamon: Kamon) -> None:
    """The list may be gone."""
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS))
    assert kamon("train", names, "-o", tmp_path / "m", *TINY_FLAGS).code == 0
    names.unlink()
    done = kamon("train", "--resume", tmp_path / "m", "--extend", 4)
    assert done.code == 0
    assert "Resuming         from checkpoint generation-000001, after step 3" in done.err
    assert "Trained 7 steps" in done.err


def test_starting_from_a_model(tmp_path: Path, kamon: Kamon) -> None:
    names, more = tmp_path / "names.txt", tmp_path / "more.txt"
    names.write_text("\n".join(DOCS))
    more.write_text("\n".join(doc[::-1] for doc in DOCS))
    base, other = tmp_path / "base", tmp_path / "other"
    assert kamon("train", names, "-o", base, *TINY_FLAGS).code == 0
    flags = ["--num-steps=1", "--learning-rate=1e-9", "--n-layer=1", "--block-size=6"]
    assert kamon("train", more, "-o", other, "--from", base, *flags).code == 0
    one, two = model_dir.load(base), model_dir.load(other)
    assert one.params == pytest.approx(two.params, abs=1e-7)
    assert one.tokenizer.chars == two.tokenizer.chars
    assert two.training["init_from"] == str(base)
    done = kamon("train", more, "-o", tmp_path / "x", "--from", base, "--n-embd=16")
    assert (done.code, "the model to start from has n_embd 4, not 16" in done.err) == (2, True)
    assert not (tmp_path / "x").exists()
    more.write_text("\n".join([*DOCS, "Übel"]))
    assert kamon("train", more, "-o", tmp_path / "x", "--from", base).code == 0
    tokens = model_dir.load(tmp_path / "x").tokenizer
    assert (tokens.chars, tokens.added) == (one.tokenizer.chars, ["Ü"])


# ---- one writer


def starters(folder: Path, number: int) -> list[subprocess.Popen[str]]:
    names = folder / "names.txt"
    names.write_text("\n".join(DOCS))
    command = [sys.executable, "-m", "kamon", "train", names, "-o", folder / "m", "--size=original"]
    command += ["--num-steps=300", "--n-embd=8", "--n-head=2", "--engine=scalar"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return [
        subprocess.Popen(list(map(str, command)), text=True, **pipes)  # type: ignore[call-overload]
        for _ in range(number)
    ]


@pytest.mark.slow
@pytest.mark.torture
def test_of_eight_starters_one_wins(tmp_path: Path) -> None:
    for attempt in range(times(1, 200)):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        running = starters(folder, 8)
        ends = [process.communicate()[1] for process in running]
        codes = [process.returncode for process in running]
        assert sorted(codes) == [0] + [1] * 7, ends
        told = [err for err, code in zip(ends, codes, strict=True) if code]
        for err in told:
            assert re.search(r"is being written by|already contains a model", err)
        assert model_dir.load(folder / "m").training["finished"]


@pytest.mark.torture
def test_of_eight_writers_one_wins(tmp_path: Path) -> None:
    """The same without the trainings, and so far more often: by threads that take turns quickly."""
    before = sys.getswitchinterval()
    stored = model_dir.load(Path(__file__).parents[1] / "storage" / "models" / "format3")
    told: list[str] = []

    def write(path: Path, start: threading.Barrier) -> None:
        start.wait()
        try:
            with model_dir.writing(path) as writer:
                writer.save(stored)
            told.append("won")
        except StoreError as error:
            told.append(str(error))

    sys.setswitchinterval(1e-5)
    try:
        for attempt in range(times(20, 3000)):
            path, start = tmp_path / str(attempt), threading.Barrier(8)
            told.clear()
            threads = [threading.Thread(target=write, args=(path, start)) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert told.count("won") == 1, told
            assert all(
                re.search(r"^won$|is being written by|already contains a model", each)
                for each in told
            ), told
            assert model_dir.load(path).params == stored.params
    finally:
        sys.setswitchinterval(before)


def test_a_probe_that_goes_while_a_writer_clears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = model_dir.load(Path(__file__).parents[1] / "storage" / "models" / "format3")
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: [*listed(path), ".new-0123456789ab"])
    model_dir.save(tmp_path / "m", stored)
    monkeypatch.undo()
    assert model_dir.load(tmp_path / "m").params == stored.params


def test_a_first_generation_that_comes_while_another_process_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no damaged model: one that is being written."""
    path = tmp_path / "m"
    path.mkdir()
    looked = model_dir.is_model

    def while_looking(folder: Path) -> bool:
        found = looked(folder)
        (path / "generation-000001").mkdir(exist_ok=True)
        return found

    monkeypatch.setattr(model_dir, "is_model", while_looking)
    assert model_dir.check_target(path, overwrite=False) == path
    with pytest.raises(StoreError, match="something other than a model, or a damaged model"):
        model_dir.check_target(path, overwrite=False)


def test_the_second_is_told_who_is_first(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS))
    with model_dir.writing(tmp_path / "m"):
        done = kamon("train", names, "-o", tmp_path / "m", *TINY_FLAGS)
        assert (done.code, done.out) == (1, "")
        holder = f"is being written by process {os.getpid()} on {socket.gethostname()} since 20"
        assert holder in done.err
    assert not (tmp_path / "m").exists()
    assert kamon("train", names, "-o", tmp_path / "m", *TINY_FLAGS).code == 0


def test_a_dead_holder_keeps_nobody_out(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    program = "import sys, time; from pathlib import Path; from kamon.files.lock import locked\n"
    program += "with locked(Path(sys.argv[1]), 'it'): print('held', flush=True); time.sleep(60)"
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout
    assert holder.stdout.readline() == "held\n"
    message = rf"it is being written by process {holder.pid} on "
    with pytest.raises(StoreError, match=message), locked(lock, "it"):
        pass
    holder.kill()
    holder.communicate()
    assert json.loads(lock.read_text())["process"] == holder.pid
    with locked(lock, "it"):
        assert json.loads(lock.read_text())["process"] == os.getpid()


# ---- signals and kills


def start(process: Process, folder: Path, *flags: object) -> subprocess.Popen[str]:
    names = folder / "names.txt"
    names.write_text("\n".join(DOCS))
    return process("train", names, "-o", folder / "m", "--size=tiny", "--threads=1", *flags)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_what_was_learned(number: int, tmp_path: Path, process: Process) -> None:
    running = start(process, tmp_path, "--num-steps=100000000")
    wait_for_steps(running)
    running.send_signal(number)
    _, err = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert "Stopped after" in err
    assert f"hint: resume with `kamon train --resume {tmp_path / 'm'}`" in err
    assert not model_dir.load(tmp_path / "m").training["finished"]


def wait_for_steps(running: subprocess.Popen[str]) -> None:
    """Until training has begun, as the line about the model says."""
    assert running.stderr
    for line in running.stderr:
        if line.startswith("Engine"):
            time.sleep(0.1)
            return


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_at_once_with_what_was_kept(
    number: int, tmp_path: Path, process: Process
) -> None:
    """In the middle of one step that takes minutes: a model far too large for the scalar engine."""
    flags = ["--num-steps=2", "--n-embd=64", "--n-layer=4", "--batch-size=128", "--engine=scalar"]
    assert kamon.train(DOCS, output=tmp_path / "m", **TINY)
    before = model_dir.load(tmp_path / "m").params
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS))
    running = process("train", names, "-o", tmp_path / "m", "--overwrite", "--no-holdout", *flags)
    wait_for_steps(running)
    running.send_signal(number)
    time.sleep(0.3)
    running.send_signal(number)
    running.communicate(timeout=20)
    assert running.returncode == 128 + number
    assert model_dir.load(tmp_path / "m").params == before


@pytest.mark.slow
@pytest.mark.torture
@pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())
@pytest.mark.parametrize(
    ("num_steps", "every"),
    [(600, 3), (30_000, 3_000)],
    ids=["mostly in a save", "mostly in training"],
)
def test_killed_at_any_instant(
    num_steps: int, every: int, tmp_path: Path, process: Process
) -> None:
    """kill -9, then on: the model is that of a training that nothing happened to, bit for bit."""
    flags = [f"--num-steps={num_steps}", "--seed=7", f"--checkpoint-every={every}"]
    (tmp_path / "whole").mkdir()
    running = start(process, tmp_path / "whole", *flags[:-1])
    running.communicate()
    assert running.returncode == 0
    whole = model_dir.load(tmp_path / "whole" / "m")
    rng = random.Random(every)
    kills = saved = runs = 0
    while kills < times(10, 500):
        runs += 1
        folder = tmp_path / f"run{runs}"
        folder.mkdir()
        model = folder / "m"
        running = start(process, folder, *flags)
        while True:
            wait_until_there(model, running)
            time.sleep(rng.random() * 0.4)
            if running.poll() is None:
                running.kill()
            _, said = running.communicate()
            if running.returncode == 0 or "has finished its" in said:
                break  # by itself, or killed after its last save, which left nothing to go on with
            assert running.returncode == -signal.SIGKILL, said
            kills += 1
            if not (model.exists() and model_dir.numbered_dirs(model)):
                running = start(process, folder, *flags)
                continue
            saved += 1
            running = process("train", "--resume", model, "--threads=1", *flags[1:])
        found = model_dir.load(model)
        assert found.params == whole.params
        assert found.metrics == whole.metrics
        assert found.training.blend == whole.training.blend is not None
        assert found.state == whole.state
    assert saved > kills // 4


def wait_until_there(model: Path, running: subprocess.Popen[str]) -> None:
    """Until the process has come to its own work: importing is no instant to be killed at.

    The lock says who holds it; that of a process before it stays where it was.
    """
    held = f'"process": {running.pid},'
    lock = model / "lock"
    while running.poll() is None and not (lock.exists() and held in lock.read_text()):
        time.sleep(0.005)


def test_keeping_takes_no_more_than_its_share() -> None:
    from kamon.training import loop

    now, saved = 0.0, []

    def save(losses: Any) -> None:
        nonlocal now
        saved.append(len(losses))
        now += 0.5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: now)
        checkpoints = loop.CheckpointSchedule(save)
        losses = array("d")
        for _ in range(2000):
            now += 0.1
            losses.append(1.0)
            checkpoints.maybe_save(losses)
    assert saved[0] == pytest.approx(loop.FIRST_SECONDS / 0.1, abs=1)
    assert 0.5 * len(saved[1:]) <= loop.MAX_CHECKPOINT_SHARE * now + 0.5


def test_very_many_checkpoints(tmp_path: Path) -> None:
    """Each cuts a chunk short: that is no reason to make the next ones ever longer."""
    settings = TINY | {"num_steps": 1500, "hold_out": False}  # or it would end early
    saved: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            model_dir.CheckpointWriter, "save", lambda _, stored: saved.append(len(stored.metrics))
        )
        kamon.train(DOCS, output=tmp_path / "m", checkpoint_every=1, **settings)
    assert saved == list(range(1, 1501))


def test_resume_keeps_to_the_checkpoints_that_were_asked_for(tmp_path: Path) -> None:
    settings = TINY | {"num_steps": 30, "hold_out": False}
    path = tmp_path / "m"
    kamon.train(DOCS, output=path, checkpoint_every=4, should_stop=stop_after(1), **settings)
    begun = len(kamon.load(path).metrics)
    assert begun < 9
    saved: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            model_dir.CheckpointWriter, "save", lambda _, stored: saved.append(len(stored.metrics))
        )
        kamon.resume(path)
        assert saved == [*range((begun // 4 + 1) * 4, 30, 4), 30]
        saved.clear()
        kamon.resume(path, checkpoint_every=9)
    assert saved == [*range((begun // 9 + 1) * 9, 30, 9), 30]


def test_resume_keeps_to_a_time_between_checkpoints(tmp_path: Path) -> None:
    settings = TINY | {"num_steps": 30, "hold_out": False}
    path = tmp_path / "m"
    kamon.train(DOCS, output=path, checkpoint_every="30s", should_stop=stop_after(1), **settings)
    assert kamon.load(path).training["checkpoint_every"] == 30.0
    assert kamon.resume(path).training["checkpoint_every"] == 30.0


def test_stopped_within_the_step_behind_an_evaluation() -> None:
    """Nothing was made since: nothing is measured again."""
    from kamon.training import loop

    asked = []
    rounds = 0

    def stop() -> bool:
        nonlocal rounds
        rounds += 1
        return rounds > 3

    def fused(_engine: object, plan: Any, _stop: object) -> Any:
        from array import array

        return array("d", [1.0] * (len(plan.learning_rates) if rounds < 3 else 0))

    class Engine:
        def state(self) -> dict[str, list[float]]:
            return {"params": [0.0]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train", fused)
        from kamon.config import Config
        from kamon.engines.batch import pack_sequences

        loop.pretrain(
            Engine(),  # type: ignore[arg-type]
            pack_sequences([[0, 0]]),
            Config(num_steps=20),
            should_stop=stop,
            validation=lambda _, step: asked.append(step) or False,  # type: ignore[func-returns-value]
        )
    assert asked == sorted(set(asked))


def test_an_interrupted_extension(tmp_path: Path) -> None:
    """What was measured before it, on other documents, does not count."""
    import shutil

    settings = TINY | {"num_steps": 60, "n_embd": 8, "learning_rate": 0.02}
    kamon.train(DOCS, output=tmp_path / "a", **settings)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    whole = kamon.resume(tmp_path / "a", extend=300)
    model = kamon.resume(tmp_path / "b", extend=300, should_stop=stop_after(1))
    rounds = 0
    while not model.training["finished"]:
        rounds += 1
        model = kamon.resume(tmp_path / "b", should_stop=stop_after(2))
    assert rounds
    same(model, whole)


def test_errors_of_others_are_theirs(tmp_path: Path) -> None:
    def lost(_: object) -> None:
        raise FileNotFoundError("somewhere else")

    with pytest.raises(FileNotFoundError, match="somewhere else"):
        kamon.train(DOCS, output=tmp_path / "m", on_progress=lost, **TINY)
    assert not (tmp_path / "m").exists()


def test_going_on_takes_a_directory_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kamon: Kamon
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS))
    assert kamon("train", names, "-o", tmp_path / "m", *TINY_FLAGS).code == 0
    (tmp_path / "m" / "notes.txt").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "m")
    monkeypatch.chdir(tmp_path / "m")
    for place in (".", tmp_path / "link", f"{tmp_path / 'm'}/"):
        assert kamon("train", "--resume", place, "--extend=2").code == 0
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    done = kamon("train", "--resume", "", "--extend=2")
    assert (done.code, done.out) == (2, "")
    assert not (tmp_path / "m" / "model").exists()


def test_before_anything_was_kept(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "lock").write_text("")
    for function in (model_dir.load, kamon.resume):
        with pytest.raises(
            StoreError, match="has no checkpoint yet\nhint: wait if its training is"
        ):
            function(tmp_path / "m")


def test_a_reader_beside_a_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The generation that is being read goes, since two new ones have come."""
    path = tmp_path / "m"
    model = kamon.train(DOCS, **TINY)
    model.save(path)
    read, rounds = model_dir.read_generation, 0

    def slowly(folder: Path) -> Any:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            model.save(path, overwrite=True)
        return read(folder)

    monkeypatch.setattr(model_dir, "read_generation", slowly)
    assert model_dir.load(path).params == model.engine.state()["params"]
    assert rounds == 2


def test_what_is_no_interval(tmp_path: Path) -> None:
    """30.0 could be meant as steps or as seconds, and so it is neither."""
    for every in (0, -1, True, "soon", "0", float("nan"), "0s", 30.0, np.float64(30), "30.0"):
        with pytest.raises(ConfigError, match=r"^checkpoint_every must be a"):
            kamon.train(DOCS, output=tmp_path / "m", checkpoint_every=every, **TINY)
    assert not (tmp_path / "m").exists()
    assert [
        checkpoint_interval(each) for each in (30, np.int64(30), " 30 ", "30s", "1.5m", None)
    ] == [*(30, 30, 30, 30.0, 90.0, None)]


def test_nothing_is_left_where_nothing_was_learned(tmp_path: Path) -> None:
    with pytest.raises(CorpusError):
        kamon.train(["a"], output=tmp_path / "m", **TINY)
    assert list(tmp_path.iterdir()) == []
