"""Rating: keys and lines, the saved answers, and a model that depends only on the answers."""

from __future__ import annotations

import io
import json
import math
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import kamon
from conftest import Result
from helpers.lists import MORE_TRIPLES as DOCS
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import preferences, rating
from kamon.finetuning.preferences import Preference, Rating
from kamon.finetuning.sft import sft
from kamon.model import load as kamon_load
from kamon.native import library
from kamon.storage import model_dir

pytestmark = pytest.mark.skipif(bool(library.why_not()), reason="the native engine is not built")

Kamon = Callable[..., Result]
Lines = Callable[..., None]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "m"
    shape = {"n_embd": 8, "n_head": 2, "block_size": 8, "num_steps": 60, "learning_rate": 0.02}
    kamon.train(DOCS, output=path, size="original", **shape)
    return path


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Return a function that sets the lines that the next command reads from a pipe."""

    def given(*keys: str) -> None:
        text = "".join(key + "\n" for key in keys).encode()
        stdin = SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False)
        monkeypatch.setattr(sys, "stdin", stdin)

    return given


def test_answers_from_a_pipe(
    base: Path, tmp_path: Path, kamon: Kamon, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines("y", "n", "N", "Y", "s", "what", "", "n", "u", "y", "q", "y")
    done = kamon("rate", base, "--every=4", "--json")
    assert done.code == 0, done.err
    answers = preferences.read("rated.jsonl")
    assert [a.liked for a in answers if isinstance(a, Rating)] == [True, False, False, True, True]
    assert done.err.count("press one of y, n, s, u, q") == 2
    assert "undone: " in done.err
    assert done.err.count("learned from 4 answers in") == 1
    assert done.json["answers"] == 5
    assert done.json["liked"] > 1 > done.json["disliked"]
    assert len(set(done.json["samples"]) - {a.text for a in answers if isinstance(a, Rating)}) == 10
    assert kamon("sample", "rated").code == 0
    assert "Fine-tuning      rate on rated.jsonl: 5 examples" in kamon("inspect", "rated").out

    lines("n")  # then the input ends
    again = kamon("rate", "rated", "--json")
    assert again.code == 0
    assert "rated.jsonl already has 5 answers" in again.err
    assert again.json["answers"] == 6
    assert preferences.read("rated.jsonl")[:5] == answers
    assert model_dir.load("rated").reference_params == model_dir.load(base).params
    os.remove("rated.jsonl")  # the directory also has all answers
    lines("q")
    assert kamon("rate", "rated", "--json").json == again.json | {
        "seconds": pytest.approx(0, abs=5),
    }
    assert len(preferences.read("rated.jsonl")) == 6


def test_pairs_from_a_pipe(base: Path, tmp_path: Path, kamon: Kamon, lines: Lines) -> None:
    lines("a", "B", "y", "s", "q")
    done = kamon("rate", base, "--pairs", "-o", tmp_path / "m", "--prefs", tmp_path / "p.jsonl")
    assert done.code == 0, done.err
    first, second = preferences.read(tmp_path / "p.jsonl")
    assert isinstance(first, Preference)
    assert isinstance(second, Preference)
    assert f"A {first.chosen}   B {first.rejected}" in done.err
    assert f"A {second.rejected}   B {second.chosen}" in done.err
    assert "press one of a, b, s, u, q" in done.err


def test_the_model_depends_on_the_answers_alone(base: Path) -> None:
    """Repeated alignments, or undone answers, give the same bits as one alignment."""
    opened = rating.opened(base)
    answers = [Rating(doc, doc[1] < "k") for doc in DOCS[::9]]
    params = rating.align(opened, answers).engine.state()["params"]
    rating.align(opened, answers[:9])
    assert rating.align(opened, answers).engine.state()["params"] == params
    assert opened.model.engine.state()["params"] == model_dir.load(base).params
    tuned = rating.align(opened, answers)
    liked, disliked = rating.likelihood_gain(tuned, opened.model, answers)
    assert liked > 1 > disliked


def test_rated_by_the_engine_that_is_there(tmp_path: Path) -> None:
    """The engine does not depend on the one that trained the base."""
    shape = {"n_embd": 4, "n_head": 1, "block_size": 4, "num_steps": 1}
    kamon.train(["ain", "bjo"], engine="scalar", size="original", output=tmp_path / "m", **shape)
    tuned = rating.align(rating.opened(tmp_path / "m"), [Rating("ain", True), Rating("bjo", False)])
    assert tuned.training["engine"] == "native"


def test_rated_on_a_tuned_base(base: Path, tmp_path: Path) -> None:
    """The record of the base stays the same if you continue with a rated model."""
    answers = [Rating("ain", True), Rating("bjo", False)]
    for _ in range(3):
        opened = rating.opened(tmp_path / "m" if (tmp_path / "m").exists() else base)
        rating.align(opened, answers, output=tmp_path / "m", overwrite=True)
    known = model_dir.load(tmp_path / "m").training["tuning"]["base"]
    opened = rating.opened(base)
    assert known == {name: opened.record[name] for name in ("path", "sha256")}


def test_answers_to_a_prompt(base: Path, tmp_path: Path, kamon: Kamon, lines: Lines) -> None:
    """Kamon saves the prompt with each answer, and ignores answers to other prompts."""
    data = [{"prompt": doc[0].upper(), "completion": doc} for doc in DOCS]
    sft(base, data, num_steps=100, output=tmp_path / "asked")
    out, journal = tmp_path / "m", tmp_path / "m.jsonl"
    argv = ["rate", tmp_path / "asked", "-o", out, "--every=4", "--json"]
    lines("y", "n", "y", "n", "n", "q")
    done = kamon(*argv, "--prompt=A")
    assert done.code == 0, done.err
    first = preferences.read(journal)
    assert {answer.prompt for answer in first} == {"A"}
    assert done.err.count("learned from 4 answers in") == 1
    assert done.json["liked"] > 1 > done.json["disliked"]
    assert f"hint: continue with `kamon rate {out} --prompt A`" in done.err
    opened = rating.opened(out)
    assert opened.answers == first
    tuned = kamon_load(out)
    wanted = tuned.sample(
        10, temperature=1.0, unique=True, min_len=1, exclude=rating.texts_of(first), prompt="A"
    )
    assert done.json["samples"] == wanted

    def gain(text: str) -> float:
        own, other = (
            logprobs(m.engine, m.tokenizer, [text], "A")[0] for m in (tuned, opened.model)
        )
        return own - other

    liked = [gain(a.text) for a in first if isinstance(a, Rating) and a.liked]
    assert done.json["liked"] == pytest.approx(math.exp(sum(liked) / len(liked)), rel=1e-5)

    lines("a", "q")
    again = kamon("rate", out, "--prompt", "B", "--pairs")
    assert again.code == 0, again.err
    *before, last = preferences.read(journal)
    assert before == first
    assert isinstance(last, Preference)
    assert last.prompt == "B"
    assert {pair.prompt for pair in preferences.pairs_of([*before, last])} == {"A", "B"}
    said = {answer.text for answer in first if isinstance(answer, Rating)}
    exclude = rating.proposals(opened.model, 40, 7, first, "B")
    assert exclude == rating.proposals(opened.model, 40, 7, [], "B")
    assert said.isdisjoint(rating.proposals(opened.model, 40, 7, first, "A"))


def test_a_journal_that_was_torn(base: Path, tmp_path: Path, kamon: Kamon, lines: Lines) -> None:
    path = tmp_path / "p.jsonl"
    preferences.write(path, [Rating("ain", True), Rating("bjo", False)])
    path.write_bytes(path.read_bytes() + b'{"text": "c')
    lines("q")
    done = kamon("rate", base, "-o", tmp_path / "m", "--prefs", path)
    assert done.code == 0
    assert 'p.jsonl, line 3 was incomplete and has been removed: \'{"text": "c\'' in done.err
    assert len(preferences.read(path)) == 2


def test_nothing_to_learn_from(base: Path, tmp_path: Path, kamon: Kamon, lines: Lines) -> None:
    lines("y", "y", "u", "u", "u", "y")
    done = kamon("rate", base, "-o", tmp_path / "m")
    assert (done.code, done.out) == (0, "")
    assert "nothing to undo" in done.err
    assert "no model written: Kamon needs one name that you like and one that you" in done.err
    assert sorted(os.listdir(tmp_path)) == ["m.jsonl"]
    assert len(preferences.read(tmp_path / "m.jsonl")) == 1


def on_a_terminal(argv: list[str], presses: list[bytes], wanted: bytes) -> tuple[int, bytes]:
    """Run a command, press one key per question, and return its exit status and output."""
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "kamon", *argv]
    running = subprocess.Popen(
        command, stdin=follower, stdout=subprocess.PIPE, stderr=follower, start_new_session=True
    )
    os.close(follower)
    shown, pressed, looked = b"", 0, 0
    while True:
        try:
            chunk = os.read(leader, 1 << 16)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
        if pressed < len(presses) and wanted in shown[looked:]:
            looked = len(shown)
            time.sleep(0.05)
            if presses[pressed] == b"\x03":
                running.send_signal(signal.SIGINT)
            else:
                os.write(leader, presses[pressed])
            pressed += 1
    running.communicate()
    os.close(leader)
    return running.returncode, shown


@pytest.mark.parametrize(("last", "code"), [(b"q", 0), (b"\x03", 130), (b"\x04", 0)])
def test_keys_on_a_terminal(last: bytes, code: int, base: Path, tmp_path: Path) -> None:
    """Keys need no Enter. After q, Ctrl-C or Ctrl-D, Kamon keeps the answers."""
    argv = ["rate", str(base), "-o", str(tmp_path / "m")]
    found, shown = on_a_terminal(argv, [b"y", b"n", b"Y", last], b"[y/n] ")
    assert found == code, shown
    answers = preferences.read(tmp_path / "m.jsonl")
    assert [a.liked for a in answers if isinstance(a, Rating)] == [True, False, True]
    assert b"Names you like are now " in shown
    assert model_dir.load(tmp_path / "m").training["tuning"]["kind"] == "rate"


def test_killed_between_two_answers(base: Path, tmp_path: Path) -> None:
    """Each answer is on the disk before the next question."""
    argv = [sys.executable, "-m", "kamon", "rate", str(base), "-o", str(tmp_path / "m")]
    running = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert running.stdin is not None
    assert running.stderr is not None
    running.stdin.write(b"y\nn\n")
    running.stdin.flush()
    shown = b""
    while shown.count(b"[y/n] ") < 3:
        shown += running.stderr.read1()  # type: ignore[attr-defined]
    running.kill()
    running.communicate()
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    assert [json.loads(line)["liked"] for line in lines] == [True, False]


def test_rated_from_python(base: Path, tmp_path: Path) -> None:
    """Each key makes an answer, and Kamon saves all answers and the model aligned with them."""
    keys = iter("ynynynq")
    said: list[str] = []
    journal = tmp_path / "j.jsonl"
    model = kamon.rate(base, lambda _: next(keys), journal, output=tmp_path / "r", say=said.append)
    answers = preferences.read(journal)
    assert len(answers) == 6
    again = rating.align(rating.opened(base, None), answers)
    assert model.engine.state()["params"] == again.engine.state()["params"]
    assert kamon.load(tmp_path / "r").sample(3, seed=1) == model.sample(3, seed=1)
    more = iter("yq")
    kamon.rate(base, lambda _: next(more), journal, say=said.append)
    assert f"{journal} already has 6 answers" in said
    assert len(preferences.read(journal)) == 7
