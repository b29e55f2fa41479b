"""Each of the examples does what it says, on the real lists it names."""

from __future__ import annotations

import csv
import getpass
import io
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from kamon.data import corpus
from kamon.native import library

lists = pytest.importorskip("zxcvbn.frequency_lists", reason="needs kamon[examples]")
EXAMPLES = Path(__file__).parents[2] / "examples"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(library.why_not()), reason="the scalar engine would take hours"),
]


def run(name: str, *flags: object) -> str:
    command = [sys.executable, EXAMPLES / name, *map(str, flags)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_brands_are_as_they_were_ordered() -> None:
    lines = run("brands.py", "-n", 15, "--prefix", "ne", "--max-len", 7).splitlines()
    names = [line.split()[0] for line in lines]
    assert len(names) == len(set(names)) == 15
    for name in names:
        assert name.startswith("ne")
        assert 5 <= len(name) <= 7
        assert name[-1] in "aeioylnr"
        assert not re.search(r"[^aeiouy]{3}|(.)\1", name)
    assert not set(names) & set(lists.FREQUENCY_LISTS["english_wikipedia"])
    logprobs = [float(line.split()[1]) for line in lines]
    assert logprobs == sorted(logprobs, reverse=True)


def test_a_model_tells_odd_hosts_better_than_entropy() -> None:
    table = [line.rsplit(maxsplit=2) for line in run("odd_hosts.py").splitlines()[1:]]
    areas = {name: (float(model), float(entropy)) for name, model, entropy in table}
    model, entropy = areas["letters at random"]
    assert model > 0.98
    assert entropy < 0.7
    model, entropy = areas["consonant and vowel"]
    assert model > 0.8
    assert 0.4 < entropy < 0.6


def test_area_under_the_curve_counts_pairs() -> None:
    area = runpy.run_path(str(EXAMPLES / "odd_hosts.py"))["area_under_roc"]
    usual, odd = [1.0, 2.0, 2.0, 5.0], [2.0, 3.0, 0.5]
    pairs = [(a < b) + (a == b) / 2 for a in usual for b in odd]
    assert area(usual, odd) == pytest.approx(sum(pairs) / len(pairs))


def test_made_up_people_are_new_and_the_same_again() -> None:
    fewer, more = run("test_data.py", "-n", 30), run("test_data.py", "-n", 200)
    assert more.startswith(fewer)
    assert run("test_data.py", "-n", 30, "--seed", 7) != fewer
    rows = list(csv.DictReader(io.StringIO(more)))
    first = {row["first_name"].lower() for row in rows}
    last = {row["surname"].lower() for row in rows}
    assert len(rows) == len(first) == len(last) == 200
    assert not first & set(corpus.read("names").docs)
    assert not last & set(lists.FREQUENCY_LISTS["surnames"])


def test_names_for_short() -> None:
    pytest.importorskip("nicknames", reason="needs kamon[examples]")
    *answers, share = run("short_names.py", "william", "margaret").splitlines()
    assert [line.split()[0] for line in answers] == ["william", "margaret"]
    known, chance = map(int, re.findall(r"(\d+)%", share))
    assert known > 3 * chance


def test_names_of_countries() -> None:
    pytest.importorskip("faker", reason="needs kamon[examples]")
    *answers, share = run("countries.py", "-n", 5).splitlines()
    assert len(answers) == 7
    assert all(len(line.split(", ")) == 5 for line in answers)
    right, chance = map(int, re.findall(r"(\d+)%", share))
    assert right > 60
    assert chance < 35


@pytest.mark.parametrize(
    ("password", "answer"),
    [
        ("dragon", r"this is one of the 30,000 most common ones"),
        ("qwzx7kd0vptrjm5", r"15 characters, (\d{2,3}) bits\nmore unusual than (9\d|100)%"),
        ("sunshine12345", r"13 characters, (\d{2}) bits\nmore unusual than \d+%"),
        ("pässwörd", "no leaked password has"),
        ("", ""),
    ],
)
def test_a_password_is_never_shown(
    password: str,
    answer: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(getpass, "getpass", lambda _: password)
    monkeypatch.setattr(sys, "argv", ["password.py", "--num-steps=1000"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLES / "password.py"), run_name="__main__")
    out, err = capfd.readouterr()
    assert stop.value.code == (0 if password else 1)
    assert re.search(answer, out)
    assert not password or password not in out + err
    assert list(tmp_path.iterdir()) == []


def test_durations_are_in_words() -> None:
    duration = runpy.run_path(str(EXAMPLES / "password.py"))["duration"]
    assert duration(3) == "two minutes at most"
    assert duration(3_600 * 30) == "30 hours"
    assert duration(86_400 * 30) == "30 days"
    assert duration(1e15) == "more than a million years"
