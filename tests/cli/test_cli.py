from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import TINY_FLAGS, Result
from helpers.runs import read_until
from kamon import __version__, cli, train
from kamon.config import SETTINGS
from kamon.data import builtin
from kamon.native import library
from kamon.storage import model_dir

Kamon = Callable[..., Result]
Process = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def model(names: Path, tmp_path: Path, kamon: Kamon) -> Path:
    assert kamon("train", names, "-o", tmp_path / "model", *TINY_FLAGS).code == 0
    return tmp_path / "model"


# ---- what the verbs do


def test_train_saves_and_shows_names(names: Path, tmp_path: Path, kamon: Kamon) -> None:
    done = kamon("train", names, "-o", tmp_path / "model", *TINY_FLAGS, "--seed", 4)
    assert done.code == 0
    assert len(done.out.splitlines()) == 20
    assert f"{names}: 15 entries" in done.err
    cut = "warning: 3 entries longer than 5 characters, the most that block_size 6 holds"
    assert cut in done.err
    assert "hint: --block-size 9 holds the longest (8), and --long-documents" in done.err
    assert f"Saved to {tmp_path / 'model'}/" in done.err
    again = kamon("sample", tmp_path / "model")
    assert again.out.split() == re.sub(r" +\(in the list\)", "", done.out).split()


def test_train_marks_what_is_in_the_list(tmp_path: Path, kamon: Kamon) -> None:
    """Of two letters and no other word, nearly all that a model says is in the list."""
    path = tmp_path / "ab.txt"
    path.write_text("a\nb\nab\nba\naa\nbb\n")
    argv = ["train", path, *TINY_FLAGS, "--num-steps=80", "--learning-rate=0.05", "--overwrite"]
    fresh = kamon(*argv, "-o", tmp_path / "m")
    assert not {"a", "b", "ab", "ba", "aa", "bb"} & set(fresh.out.splitlines())
    assert "entries of the list" in fresh.err
    assert f"`kamon sample {tmp_path / 'm'} --copies` includes them" in fresh.err
    argv.append("--copies")
    shown = kamon(*argv, "-o", tmp_path / "m").out.splitlines()
    found = kamon(*argv, "-o", tmp_path / "m", "--json").json["samples"]
    known = {"a", "b", "ab", "ba", "aa", "bb"}
    assert [sample["in_list"] for sample in found] == [sample["text"] in known for sample in found]
    assert any(sample["in_list"] for sample in found)
    assert ["(in the list)" in line for line in shown] == [sample["in_list"] for sample in found]


def test_json_of_train(names: Path, tmp_path: Path, kamon: Kamon) -> None:
    found = kamon("train", names, "-o", tmp_path / "m", "--json", *TINY_FLAGS).json
    assert found["directory"] == str(tmp_path / "m")
    assert found["config"]["n_embd"] == 4
    assert found["num_steps_done"] == 3
    assert found["corpus"] == {
        "source": str(names),
        "num_docs": 15,
        "num_different": 15,
        "num_entries": 15,
        "num_blank": 0,
        "num_stripped": 0,
        "num_normalized": 0,
        "sha256": sha256(b"".join(line + b"\0" for line in names.read_bytes().split())).hexdigest(),
        "split": 3,
    }
    assert len(found["samples"]) == 20
    assert 2 < found["loss"] < 4


def test_flags_win_over_the_file_and_the_file_over_defaults(
    names: Path, tmp_path: Path, kamon: Kamon
) -> None:
    toml = tmp_path / "kamon.toml"
    toml.write_text("n_embd = 6\nn_head = 3\nnum_steps = 2\nlearning_rate = 0.5\n")
    argv = ["train", names, "-o", tmp_path / "m", "--config", toml, "--num-steps", 1, "--json"]
    config = kamon(*argv).json["config"]
    assert (config["n_embd"], config["n_head"], config["learning_rate"]) == (6, 3, 0.5)
    assert (config["num_steps"], config["beta1"]) == (1, 0.8)  # the size's
    config = kamon(*argv, "--overwrite", "--size", "original").json["config"]
    assert (config["n_embd"], config["beta1"], config["n_layer"]) == (6, 0.85, 1)


def test_every_setting_is_a_flag(names: Path, tmp_path: Path, kamon: Kamon) -> None:
    values = {
        "n_layer": 2, "n_embd": 6, "n_head": 3, "block_size": 4, "std": 0.5, "seed": 7,
        "num_steps": 2, "batch_size": 3, "learning_rate": 0.25, "beta1": 0.5, "beta2": 0.75,
        "eps_adam": 0.125, "temperature": 1.5, "schedule": "cosine", "warmup_steps": 1,
        "weight_decay": 0.5, "dropout": 0.25, "mode": "documents", "long_documents": "windows",
        "gradient_accumulation_steps": 2, "min_lr": 0.125, "grad_clip": 0.5,
    }  # fmt: skip
    assert set(values) == {field.name for field in SETTINGS}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in values.items()]
    found = kamon("train", names, "-o", tmp_path / "m", "--json", *flags).json["config"]
    assert found == {**values, "vocab_size": found["vocab_size"]}


def test_train_reads_standard_input_and_columns(
    tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.BytesIO(b"name,id\nanna,1\n nora,2\n\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=text))
    argv = ["train", "-", "--format", "csv", "--column", "name", "-o", tmp_path / "m", *TINY_FLAGS]
    done = kamon(*argv, "--json")
    assert done.json["corpus"]["num_docs"] == 2
    assert "standard input: 2 entries, 1 blank line dropped, 1 line trimmed" in done.err


def test_a_file_named_like_a_built_in_list(
    tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(builtin, "names", lambda: ["emma", "olivia"])
    Path("names").write_text("anna\nnora\n")
    done = kamon("train", "names", "-o", "m", *TINY_FLAGS)
    assert (
        "warning: this is the built-in names, not your file\nhint: name your own file ./names"
        in done.err
    )
    done = kamon("train", "./names", "-o", "m2", *TINY_FLAGS)
    assert "./names: 2 entries" in done.err
    assert "built-in" not in done.err


def test_sample(model: Path, kamon: Kamon) -> None:
    first = kamon("sample", model, "-n", 6, "--temperature", 1.5, "--seed", 3)
    assert len(first.out.splitlines()) == 6
    found = kamon("sample", model, "-n", 6, "--temperature", 1.5, "--seed", 3, "--json").json
    assert [sample["text"] for sample in found["samples"]] == first.out.splitlines()
    assert kamon("sample", model, "-n", 6, "--temperature", 1.5, "--seed", 4).out != first.out
    cold = kamon("sample", model, "--temperature", 0)
    assert len(set(cold.out.splitlines())) == 1
    assert kamon("sample", model, "-n", 0).out == ""


def test_samples_without_an_end_are_counted(model: Path, kamon: Kamon) -> None:
    done = kamon("sample", model, "-n", 30, "--temperature", 1)
    unfinished = sum(len(line) == 6 for line in done.out.splitlines())
    assert unfinished
    assert f"{unfinished} of 30 have no end" in done.err


def test_inspect(model: Path, kamon: Kamon) -> None:
    done = kamon("inspect", model)
    assert "Files            all checksums verified\n" in done.out
    assert done.err == "hint: `--verbose` also shows the settings and the parameters\n"
    details = kamon("inspect", model, "-v").out
    assert details.startswith(done.out)
    for text in ("n_embd                       4", "layer0.mlp_fc2", "(4, 16)"):
        assert text in details
        assert text not in done.out
    found = kamon("inspect", model, "--json").json
    stored = model_dir.load(model)
    assert (
        found["num_params"]
        == len(stored.params)
        == sum(a * b for a, b in found["parameters"].values())
    )
    assert found["losses"] == [line["loss"] for line in stored.metrics]
    assert found["chars"] == stored.tokenizer.chars
    assert found["training"]["validation"] == stored.training["held_out"]


def test_inspect_engine(kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    from kamon.native import library

    found = kamon("inspect", "--engine", "--json").json
    assert found["engine"] == ("scalar" if library.why_not() else "native")
    assert found["threads"] >= 1
    if not library.why_not():
        assert found["instructions"] in found["built"]
        assert f"native: {found['instructions']} instructions" in kamon("inspect", "--engine").out
    monkeypatch.setattr(library, "library_path", lambda level: f"/nowhere/{level}")
    shown = kamon("inspect", "--engine").out
    assert shown.startswith("scalar: the native engine is not built: it needs a C++17 compiler")
    assert kamon("inspect").code == 2


@pytest.mark.slow
def test_bench(kamon: Kamon) -> None:
    found = kamon("bench", "--seconds", 0.01, "--json").json
    assert found["machine"]["cores"] >= 1
    figures = {figure["what"]: figure for figure in found["figures"]}
    assert all(figure["value"] > 0 for figure in found["figures"])
    assert figures["the original's job, scalar float64"]["unit"] == "µs per step"
    if found["machine"]["instructions"]:
        assert figures["the original's job, native float32"]["ratio"] > 1000
        shares = [f["share_of_peak"] for f in found["figures"] if "share_of_peak" in f]
        assert len(shares) == 6 * min(2, library.usable_cores())
        assert all(0 < share < 10 for share in shares)  # on a busy machine nearly anything
    assert kamon("bench", "--seconds=-1").code == 2


def test_help_and_version(kamon: Kamon) -> None:
    done = kamon("--help")
    assert done.code == 0
    for verb, text in cli.VERBS.items():
        assert f"\n  {verb:11} {text}\n" in done.out
        own = kamon(verb, "--help")
        assert (own.code, own.out.count(f"\n{text}.\n")) == (0, 1)
        assert "-q, --quiet" in own.out
    assert "examples:\n  kamon train" in done.out
    assert kamon("--version").out == f"kamon {__version__}\n"
    assert kamon("--version", "--json").json == {"version": __version__}
    assert kamon().code == 2


@pytest.mark.slow
def test_help_answers_in_100_ms() -> None:
    """Processor time, which other work on the machine does not add to; the best of fifteen.

    A slow processor may take longer, in proportion to what Python takes to do nothing.
    """
    resource = pytest.importorskip("resource", reason="no processor time of processes here")

    def seconds(*arguments: str) -> float:
        def so_far() -> float:
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            return float(used.ru_utime + used.ru_stime)

        before = so_far()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return so_far() - before

    nothing = min(seconds("-c", "pass") for _ in range(5))
    assert min(seconds("-m", "kamon", "--help") for _ in range(15)) < max(0.1, 7 * nothing)


# ---- bad input: one sentence, the right exit code, nothing left behind


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (["train", "missing.txt"], 1, "no file missing.txt"),
        (["train", "."], 1, ". is a directory"),
        (["train", "empty.txt"], 1, "empty.txt is empty"),
        (["train", "blank.txt"], 1, "blank.txt has only blank lines"),
        (["train", "latin1.txt"], 1, "latin1.txt, line 2 is not UTF-8"),
        (["train", "nul.txt"], 1, "nul.txt, line 1 has a NUL byte"),
        (["train", sys.executable], 1, "so it does not look like text"),
        (
            ["train", "one.txt"],
            1,
            "one.txt has only one entry\nhint: add more entries, or use --mode text",
        ),
        (["train", "a.txt"], 1, "consist of only one character, 'a'"),
        (["train", "t.csv"], 2, "t.csv has the columns name, id: choose one with --column"),
        (["train", "t.csv", "--column", "nmae"], 2, "no column 'nmae'\nhint: did you mean 'name'?"),
        (["train", "t.jsonl"], 1, "t.jsonl, line 2 is not valid JSON"),
        (["train", "ok.txt", "-o", "taken"], 1, "taken contains something other than a model"),
        (["train", "ok.txt", "-o", "taken", "--overwrite"], 1, "taken contains something other"),
        (["train", "ok.txt", "-o", "ok.txt"], 1, "ok.txt is not a directory"),
        (["train", "ok.txt", "-o", ""], 1, "an empty name is the current directory"),
        (["train", "ok.txt", "-o", "~nosuchuser/m", "--config", "deep.toml"], 2, "deep.toml"),
        (
            ["train", "ok.txt", "--config", "long.toml"],
            2,
            "long.toml: learning_rate is too large for a float",
        ),
        (["train", "ok.txt", "--seed", "9" * 50], 2, "seed must be below 2**128"),
        (["train", "ok.txt", "--n-embd", "100000000000000000000001"], 2, "must be below 2**31"),
        (["train", "ok.txt", "--n-embd=1000000007", "--n-head=2"], 2, "set n_head to 1 or"),
        (["reproduce", "--input", "t.csv", "--num-steps=1", "--n-head=3"], 2, "n_head 3"),
        (["train", "ok.txt", "-o", "."], 1, ". is the current directory"),
        (["train", "ok.txt", "--n-head", "3"], 2, "n_embd 16 is not divisible by n_head 3"),
        (["train", "ok.txt", "--n-layer", "0"], 2, "n_layer must be 1 or more, not 0"),
        (["train", "ok.txt", "--n-embd=-4"], 2, "n_embd must be 1 or more, not -4"),
        (["train", "ok.txt", "--block-size", "two"], 2, "must be a whole number, not 'two'"),
        (["train", "ok.txt", "--std", "x"], 2, "--std: must be a number, not 'x'"),
        (
            ["train", "ok.txt", "--temperature", "nan"],
            2,
            "temperature must be 0 or more and finite",
        ),
        (
            ["train", "ok.txt", "--n-layers", "2"],
            2,
            "--n-layers\nhint: did you mean --n-layer?",
        ),
        (["train", "ok.txt", "--n-lay", "2"], 2, "unknown option --n-lay"),
        (["train", "ok.txt", "more.txt"], 2, 'unexpected argument "more.txt"'),
        (["train", "ok.txt", "--engine", "gpu"], 2, "--engine"),
        (
            ["train", "ok.txt", "--config", "bad.toml"],
            2,
            "unknown setting 'n_layr' in bad.toml\nhint: did you mean 'n_layer'?",
        ),
        (["train", "ok.txt", "--config", "none.toml"], 2, "cannot read none.toml"),
        (
            ["train", "ok.txt", "--learning-rate", "1e300"],
            1,
            "training diverged at step",
        ),
        (["trian"], 2, 'unknown command "trian"\nhint: did you mean train?'),
        (["--verson"], 2, "unknown option --verson\nhint: did you mean --version?"),
        (["sample"], 2, "DIR"),
        (["sample", "none"], 1, "no model at none"),
        (["sample", "ok.txt"], 1, "ok.txt is a file, not a model directory"),
        (
            ["sample", "taken"],
            1,
            "no model in taken\nhint: give the directory that `kamon train -o` wrote",
        ),
        (
            ["inspect", "taken"],
            1,
            "no model in taken\nhint: give the directory that `kamon train -o` wrote",
        ),
        (["reproduce", "--input", "empty.txt"], 1, "empty.txt is empty"),
        (["reproduce", "--n-head", "5"], 2, "n_embd 16 is not divisible by n_head 5"),
    ],
)
def test_bad_input(
    argv: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    kamon: Kamon,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "empty.txt": b"",
        "blank.txt": b"\n \n",
        "latin1.txt": b"anna\njos\xe9\n",
        "nul.txt": b"an\0na\n",
        "one.txt": b"anna\n",
        "a.txt": b"a\naa\n",
        "ok.txt": b"anna\nnora\n",
        "t.csv": b"name,id\nanna,1\n",
        "t.jsonl": b'{"text": "a"}\nanna\n',
        "bad.toml": b"n_layr = 2",
        "deep.toml": b"n_layer = " + b"[" * 5000,
        "long.toml": b"learning_rate = 1" + b"0" * 400,
        "taken/mine.txt": b"mine",
    }
    Path("taken").mkdir()
    for name, content in contents.items():
        Path(name).write_bytes(content)
    done = kamon(*argv)
    assert done.code == code
    assert done.out == ""
    assert message in done.err
    assert done.err.splitlines()[-1].startswith(("error: ", "hint: "))
    assert done.err.count("error: ") == 1
    left = {str(path.relative_to(tmp_path)): path for path in tmp_path.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in left.items()} == contents


@pytest.mark.parametrize("value", ["-1", "nan", "inf"])
def test_a_temperature_that_cannot_be(value: str, model: Path, kamon: Kamon) -> None:
    done = kamon("sample", model, f"--temperature={value}")
    assert (done.code, done.out) == (2, "")
    assert "temperature must be 0 or more and finite" in done.err


def test_a_taken_directory_is_noticed_before_the_work(
    names: Path, model: Path, kamon: Kamon
) -> None:
    before = model_dir.newest_checkpoint_dir(model).joinpath("manifest.json").read_bytes()
    done = kamon("train", names, "-o", model, "--num-steps", 10**9)
    assert done.code == 1
    assert "already contains a model\nhint: choose another name, or add --overwrite" in done.err
    assert model_dir.newest_checkpoint_dir(model).joinpath("manifest.json").read_bytes() == before
    assert kamon("train", names, "-o", model, "--overwrite", "--seed=2", *TINY_FLAGS).code == 0
    assert model_dir.newest_checkpoint_dir(model).joinpath("manifest.json").read_bytes() != before


def test_a_damaged_model(model: Path, kamon: Kamon) -> None:
    path = model_dir.newest_checkpoint_dir(model) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = kamon("sample", model)
    assert (done.code, done.out) == (1, "")
    assert "model.safetensors is damaged" in done.err


def test_a_full_disk(names: Path, tmp_path: Path, process: Process) -> None:
    """The kernel itself refuses more than 1,000 bytes in a file."""
    resource = pytest.importorskip("resource", reason="no resource limits on this system")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    running = process("train", names, "-o", tmp_path / "m", *TINY_FLAGS, preexec_fn=limit)
    out, err = running.communicate()
    assert running.returncode == 1
    assert out == ""
    assert err.splitlines()[-1] == f"error: cannot write {tmp_path / 'm'}: File too large"
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")
def test_standard_output_that_is_full(model: Path, process: Process) -> None:
    with open("/dev/full", "w") as full:
        running = process("sample", model, stdout=full)
        _, err = running.communicate()
    assert running.returncode == 1
    assert err.splitlines() == ["error: No space left on device"]


def test_a_reader_that_has_had_enough(model: Path, process: Process) -> None:
    running = process("sample", model, "-n", 30_000)  # more than a pipe holds
    assert running.stdout is not None
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr is not None
    with running.stderr:
        assert "Traceback" not in running.stderr.read()
    assert running.wait() == 1


def test_a_terminal_that_knows_no_umlauts(tmp_path: Path, process: Process) -> None:
    (tmp_path / "x.txt").write_text("äö\nöä\na\x1bä\n", encoding="utf-8")
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    argv = ["train", tmp_path / "x.txt", "-o", tmp_path / "m", *TINY_FLAGS, "--num-steps=60"]
    leader, follower = pty.openpty()
    running = process(*argv, env=environment, stdout=follower)
    _, err = running.communicate()
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    os.close(follower)
    assert running.returncode == 0, err
    assert b"\\xe4" in shown
    assert b"\\x1b" in shown
    assert shown.isascii()
    assert b"\x1b" not in shown


def test_a_file_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/na\xffme.txt"
    try:
        Path(os.fsdecode(path)).write_text("anna\nnora\n")
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    command = [sys.executable, "-m", "kamon", "train", path, "-o", str(tmp_path / "m"), *TINY_FLAGS]
    done = subprocess.run(command, capture_output=True, check=True)
    assert b"na\\xffme.txt: 2 entries" in done.stderr
    assert model_dir.load(tmp_path / "m").training["corpus"]["source"].endswith("na\\xffme.txt")


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_closed_standard_stream(closed: int, model: Path, process: Process) -> None:
    verb = ["train", "-", "-o", model.with_name("m2")] if closed == 0 else ["sample", model]
    running = process(*verb, preexec_fn=lambda: os.close(closed))
    out, err = running.communicate()
    expected = {
        0: "error: standard input is closed\n",
        1: "error: standard output is closed\n",
        2: "",
    }
    assert err == expected[closed]
    assert running.returncode == (0 if closed == 2 else 1)
    assert bool(out) is (closed == 2)


def test_documents_with_line_ends_stay_on_one_line(tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a\\nb"}\n{"text": "b\\u001ba"}\n{"text": "a\\nba"}\n')
    argv = [*TINY_FLAGS, "--num-steps=60", "--learning-rate=0.05"]
    shown = kamon("train", path, "-o", tmp_path / "m", *argv, "--copies").out
    assert len(shown.splitlines()) == 20
    found = kamon("sample", tmp_path / "m", "-n", 50, "--copies")
    assert len(found.out.split("\n")) == 51
    number = found.out.count("\\n")
    assert number
    assert f"{number:,} entries have line ends inside" in found.err
    assert "\x1b" in found.out  # for a program as it is


def test_the_last_update_may_not_break_the_model(names: Path, tmp_path: Path, kamon: Kamon) -> None:
    argv = ["train", names, "-o", tmp_path / "m", "--engine=scalar", *TINY_FLAGS]
    done = kamon(*argv, "--num-steps=1", "--learning-rate=1e308", "--beta1=0", "--std=1")
    assert done.code == 1
    assert (
        "training diverged at step 1 of 1: the loss is not finite\n"
        "hint: try a smaller learning_rate than 1e+308" in done.err
    )
    assert not (tmp_path / "m").exists()


# ---- Ctrl-C


@pytest.mark.slow
def test_ctrl_c_saves_what_was_learned(names: Path, tmp_path: Path, process: Process) -> None:
    argv = ["train", names, "-o", tmp_path / "m", *TINY_FLAGS, "--num-steps", 10**6]
    running = process(*argv)
    assert running.stderr is not None
    read_until(running.stderr, "Engine")
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == ""
    assert "Stopping: press Ctrl-C again" in err
    assert re.search(r"Stopped after [\d,]+ of 1,000,000 steps", err)
    stored = model_dir.load(tmp_path / "m")
    assert stored.training["num_steps_done"] == len(stored.metrics) > 0


def test_a_second_ctrl_c_quits_at_once(names: Path, tmp_path: Path, process: Process) -> None:
    """Steps of many minutes: the first Ctrl-C would have to wait for one to end."""
    big = ["--engine=scalar", "--n-layer=4", "--n-embd=64", "--batch-size=500"]
    running = process("train", names, "-o", tmp_path / "m", *big)
    assert running.stderr is not None
    read_until(running.stderr, "Engine")
    time.sleep(0.3)
    running.send_signal(signal.SIGINT)
    read_until(running.stderr, "Stopping:")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out == ""
    assert err.splitlines()[-1] == "stopped"
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


@pytest.mark.slow
@pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())
@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_in_the_middle_of_a_long_step(
    again: bool, names: Path, tmp_path: Path, process: Process
) -> None:
    """One step of many minutes: the first Ctrl-C ends the training within it, with nothing to
    save."""
    big = ["--engine=native", "--n-layer=4", "--n-embd=512", "--n-head=8", "--batch-size=200000"]
    running = process("train", names, "-o", tmp_path / "m", *big)
    assert running.stderr is not None
    read_until(running.stderr, "Engine")
    time.sleep(1)
    running.send_signal(signal.SIGINT)
    if again:
        time.sleep(0.01)
        running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "nothing to save" in err or err.splitlines()[-1] == "stopped"
    assert [path.name for path in tmp_path.iterdir()] == ["names.txt"]


def test_ctrl_c_elsewhere(process: Process) -> None:
    running = process("train", "-", stdin=subprocess.PIPE)
    assert running.stdin is not None
    running.stdin.write("anna\n" * 50_000)  # more than a pipe holds: now it reads
    running.stdin.flush()
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert err.splitlines()[-1] == "stopped"


# ---- a terminal


def everything(leader: int) -> bytes:
    """What a terminal shows, once nothing more can come: it may come in pieces."""
    shown = b""
    with suppress(OSError):  # how Linux tells the end
        while piece := os.read(leader, 1 << 16):
            shown += piece
    return shown


def test_the_keyboard_is_waited_for_aloud(tmp_path: Path) -> None:
    """stdin is a terminal, and stdout: what is waited for is said, and what the columns are."""
    train(["ab", "ba"], num_steps=1, size="tiny").save(tmp_path / "m")
    for keyboard in (True, False):
        leader, follower = pty.openpty()
        given = follower if keyboard else os.open(tmp_path / "in", os.O_RDWR | os.O_CREAT)
        if not keyboard:
            os.write(given, b"ab\n")
            os.lseek(given, 0, os.SEEK_SET)
        command = [sys.executable, "-m", "kamon", "score", str(tmp_path / "m")]
        running = subprocess.Popen(
            command, stdin=given, stdout=follower, stderr=subprocess.PIPE, text=True
        )
        if keyboard:
            os.write(leader, b"ab\n\x04")
        _, err = running.communicate(timeout=20)
        os.close(follower)
        said = "reading lines from the keyboard: end them with Ctrl-D\n" * keyboard
        assert err.startswith(
            f"{said}bits/char   logprob percentile  char   text\n"
            "warning: percentiles are among 2 entries of the list"
        )
        assert err.count("\n") == 2 + keyboard
        assert running.returncode == 0
        assert re.search(rb"-\d\.\d{3} +\d+\.\d  [ab]      ab\r\n", everything(leader))
        os.close(leader)


def test_progress_on_a_terminal(names: Path, tmp_path: Path) -> None:
    """stderr is a terminal: loss and time left are shown there, and nothing of it on stdout."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    argv = ["train", names, "-o", tmp_path / "m", "--num-steps=12", "--engine=scalar"]
    command = [sys.executable, "-m", "kamon", *map(str, argv)]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=follower, text=True)
    os.close(follower)
    shown = b""
    while True:
        try:
            chunk = os.read(leader, 1 << 16)
        except OSError:  # the other end was closed
            break
        if not chunk:
            break
        shown += chunk
    out, _ = running.communicate()
    assert running.returncode == 0
    assert re.search(rb"Training +\d+% .*\d+/12 steps, .* left, loss \d\.\d{3}, .* tokens/s", shown)
    assert len(out.splitlines()) == 20
    assert model_dir.load(tmp_path / "m").training["num_steps_done"] == 12
