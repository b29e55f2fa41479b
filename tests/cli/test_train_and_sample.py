"""What `kamon train` and `kamon sample` print about a model of a list, and the options for it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import TINY_FLAGS, Result
from kamon import train
from kamon.cli.train import preview
from kamon.native import library
from kamon.storage import model_dir
from kamon.training import presets
from kamon.training.setup import TrainingSetup

Kamon = Callable[..., Result]
DOCS = sorted({"".join(random.Random(i).choices("abcdefgh", k=4)) for i in range(140)})
needs_native = pytest.mark.skipif(bool(library.why_not()), reason="no native engine")


def written(path: Path, num_docs: int = len(DOCS)) -> Path:
    path.write_text("\n".join(DOCS[:num_docs]), encoding="utf-8")
    return path


@needs_native
@pytest.mark.parametrize(
    ("num_docs", "flags", "picked"),
    [
        (140, [], r"--from base --num-steps \d+"),
        (140, ["--budget=10s"], r"--from base --num-steps \d+"),
        (60, [], "--from base"),  # cross-validation picks the rest again
        (140, ["--from=base", "--no-blend"], r"--num-steps \d+"),
        (140, ["--from=scratch", "--num-steps=9"], "--size tiny"),
        (140, ["--size=tiny", "--learning-rate=0.01"], r"--num-steps \d+"),
        (140, ["--n-embd=8", "--beta1=0.7"], r"--size tiny --num-steps \d+"),
    ],
)
def test_the_options_that_are_picked_make_the_same_model(
    num_docs: int, flags: list[str], picked: str, tmp_path: Path, kamon: Kamon
) -> None:
    check_picked(num_docs, flags, picked, tmp_path, kamon)


def test_so_do_those_of_a_long_list_with_a_budget(
    tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "MIN_LONG_DOCS", 100)
    monkeypatch.setattr(presets, "MIN_LONG_EPOCHS", 0)
    picked = r"--from base --num-steps \d+ --dropout 0.05 --learning-rate 0.0007"
    check_picked(140, ["--budget=10s"], picked, tmp_path, kamon)


def check_picked(
    num_docs: int, flags: list[str], picked: str, tmp_path: Path, kamon: Kamon
) -> None:
    argv = ["train", written(tmp_path / "x.txt", num_docs), "--threads=1"]
    first = kamon(*argv, *flags, "-v", "-o", tmp_path / "one")
    shown = re.search(r"^Settings +(.*)$", first.err, re.MULTILINE)
    assert shown
    assert re.fullmatch(picked, shown[1])
    given = [flag for flag in flags if not flag.startswith("--budget")]
    second = kamon(*argv, *given, *shown[1].split(), "-o", tmp_path / "two")
    assert second.out == first.out
    one, two = model_dir.load(tmp_path / "one"), model_dir.load(tmp_path / "two")
    assert one.config == two.config
    assert one.params == two.params
    assert one.training.blend == two.training.blend


@pytest.mark.parametrize("flags", [["--size=original"], ["--engine=scalar"]])
def test_nothing_is_picked_for_the_original(flags: list[str], tmp_path: Path, kamon: Kamon) -> None:
    argv = ["train", written(tmp_path / "x.txt"), "-o", tmp_path / "m", "--num-steps=1", *flags]
    assert "Settings" not in kamon(*argv, "-v").err


@needs_native
def test_where_a_model_starts_from(tmp_path: Path, kamon: Kamon) -> None:
    argv = ["train", written(tmp_path / "x.txt"), "--num-steps=2", "--json", "-o"]
    assert kamon(*argv, tmp_path / "1").json["init_from"] == "base"
    scratch = kamon(*argv, tmp_path / "2", "--from=scratch", "--no-blend").json
    assert (scratch["init_from"], scratch.get("blend")) == (None, None)
    assert scratch["config"]["n_layer"] == 1
    more = kamon(*argv, tmp_path / "3", "--from", tmp_path / "2").json
    assert more["init_from"] == str(tmp_path / "2")
    assert set(more["blend"]) == {"weight", "order"}
    done = kamon("train", "--resume", tmp_path / "3", "--from=base")
    assert (done.code, done.out) == (2, "")
    assert "--from cannot be changed when resuming" in done.err


@needs_native
def test_losses_of_the_parts(tmp_path: Path, kamon: Kamon) -> None:
    """On the validation set, or on folds; of a GPT without an n-gram there is one."""
    number = r"(\d\.\d{3})"

    def shown(*argv: object) -> str:
        return kamon("train", *argv, "--num-steps=5", "--overwrite", "-o", tmp_path / "m").err

    names, few = written(tmp_path / "x.txt"), written(tmp_path / "few.txt", 50)
    whole = re.search(
        rf"^Validation loss  {number} nats per token \(GPT {number}, \d-gram {number}\)$",
        shown(names),
        re.MULTILINE,
    )
    assert whole
    loss, gpt, ngram = map(float, whole.groups())
    assert loss <= min(gpt, ngram)
    record = model_dir.load(tmp_path / "m").training.held_out
    assert record
    assert [loss, gpt, ngram] == pytest.approx(
        [record.loss, record.gpt_loss, record.ngram_loss], abs=0.0005
    )
    assert re.search(
        rf"^Validation loss  {number} nats per token \(uniform {number}\)$",
        shown(names, "--no-blend"),
        re.MULTILINE,
    )
    parts = rf"GPT {number}, \d-gram {number}"
    folds = rf"^Validation loss  {number} nats per token \({parts}\), 5-fold$"
    assert re.search(folds, shown(few), re.MULTILINE)
    assert "5-fold" not in shown(few, "--no-blend")


def test_a_packed_corpus_has_no_copies_to_find(tmp_path: Path, kamon: Kamon) -> None:
    """Kamon does not keep its documents. It leaves out duplicates."""
    names = written(tmp_path / "x.txt")
    assert kamon("pack", names, "-o", tmp_path / "packed").code == 0
    argv = ["train", tmp_path / "packed", "-o", tmp_path / "m", *TINY_FLAGS]
    assert kamon(*argv).code == 0
    argv = ["sample", tmp_path / "m", "-n", 200, "--temperature=0.3"]
    found = kamon(*argv)
    assert found.code == 0
    every = kamon(*argv, "--copies").out.splitlines()
    new = list(dict.fromkeys(text for text in every if text))
    assert len(new) < len(every)
    assert found.out.splitlines()[: len(new)] == new
    assert re.search(r"^Left out [\d,]+ duplicates \(--copies includes them\)$", found.err, re.M)


def test_a_text_has_no_copies(tmp_path: Path, kamon: Kamon) -> None:
    (tmp_path / "x.txt").write_text("one two three four five six seven " * 60)
    argv = ["train", tmp_path / "x.txt", "-o", tmp_path / "m", "--mode=text", *TINY_FLAGS]
    trained = kamon(*argv)
    assert (trained.code, "Left out" in trained.err) == (0, False), trained.err
    done = kamon("sample", tmp_path / "m", "--copies")
    assert (done.code, done.out) == (2, "")
    assert "--copies, --details and --nearest are for models of lists" in done.err


@needs_native
def test_if_everything_is_a_copy(tmp_path: Path, kamon: Kamon) -> None:
    """There are fewer samples, or none, and Kamon says why."""
    (tmp_path / "x.txt").write_text("ab\ncd\n")
    flags = ["--size=tiny", "--num-steps=300", "--learning-rate=0.03"]
    done = kamon("train", tmp_path / "x.txt", "-o", tmp_path / "m", *flags)
    assert (done.code, done.out) == (0, "")
    found = "warning: found 0 of 20 samples: all other candidates were left out\n"
    found += "hint: try a higher --temperature\n"
    assert found in done.err
    sampled = kamon("sample", tmp_path / "m", "--temperature=0")
    assert (sampled.code, sampled.out) == (1, "")
    assert sampled.err == f"Left out 1 entry of the list (--copies includes them)\n{found}"
    copies = kamon("sample", tmp_path / "m", "--copies")
    assert set(copies.out.split()) <= {"ab", "cd"}
    assert len(copies.out.split()) == 20


@pytest.mark.parametrize("engine", ["native", "scalar"])
def test_progress_shows_a_sample_if_that_is_fast(engine: str) -> None:
    if engine == "native" and library.why_not():
        pytest.skip("no native engine")
    setups: list[TrainingSetup] = []
    model = train(
        DOCS, size="tiny", num_steps=2, hold_out=False, engine=engine, on_start=setups.append
    )
    shown = model.sample(1, seed=3)[0] if engine == "native" else ""
    assert preview(setups[0], 3) == shown


def test_quiet_and_verbose(tmp_path: Path, kamon: Kamon) -> None:
    """--quiet leaves warnings and results; --verbose adds the settings."""
    names = written(tmp_path / "x.txt")
    argv = ["train", names, "--num-steps=2", "--from=scratch", "--block-size=4", "--overwrite"]
    argv += ["-o", tmp_path / "m"]
    usual, quiet = kamon(*argv), kamon(*argv, "-q")
    assert quiet.out == usual.out
    lines = quiet.err.splitlines()
    assert [line.split()[0] for line in lines] == ["warning:", "hint:"]
    assert set(lines) < set(usual.err.splitlines())
    assert "Settings" not in usual.err
    assert "Settings         --size tiny" in kamon(*argv, "--verbose").err
    both = kamon(*argv, "-q", "-v")
    assert (both.code, both.err.splitlines()[0]) == (
        2,
        "error: --quiet and --verbose exclude each other",
    )
