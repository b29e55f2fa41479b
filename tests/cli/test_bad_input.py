"""Bad and strange input, for every verb and for Python: a right result, or one sentence.

A cell ends in the documented exit code. What fails says so in one line on stderr, prints no result,
and leaves nothing behind; none takes longer than LIMIT.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any
from unicodedata import is_normalized

import numpy as np
import pytest

import kamon as package
from conftest import TINY_FLAGS, Result, piece_model
from helpers.lists import TRIPLES
from kamon import cli, completion
from kamon.config import SETTINGS, Config, read_settings
from kamon.data import cleaning, corpus
from kamon.engines import memory
from kamon.engines.factory import make_engine
from kamon.errors import ConfigError, CorpusError, KamonError, StoreError, TrainingError
from kamon.evaluation import evaluate, introspection, score
from kamon.exporters import export
from kamon.generation.sampling import SampleRequest, sample, sample_one_by_one
from kamon.packing.shards import open_shards
from kamon.storage import model_dir
from kamon.storage.checkpoint import FILES
from kamon.storage.model_dir import MANIFEST
from kamon.tokenizers.load import read_tokenizer

Kamon = Callable[..., Result]
Process = Callable[..., subprocess.Popen[str]]

LIMIT = 60  # seconds for a cell, also on a busy machine: one that hangs takes more
LONGEST = 600  # characters of a sentence

# ---- lists

STRANGE: dict[str, tuple[bytes, list[str]]] = {  # and the documents in them
    "two.txt": (b"ab\nba\n", ["ab", "ba"]),
    "no-end.txt": (b"anna\nnora", ["anna", "nora"]),
    "crlf.txt": (b"anna\r\nnora\r\n", ["anna", "nora"]),
    "cr.txt": (b"anna\rnora\r", ["anna", "nora"]),
    "bom.txt": (b"\xef\xbb\xbfanna\nnora\n", ["anna", "nora"]),
    "bom2.txt": (b"\xef\xbb\xbf\xef\xbb\xbfanna\nnora\n", ["\ufeffanna", "nora"]),
    "lines.txt": ("a\u2028b\nc\u0085d\n".encode(), ["a\u2028b", "c\x85d"]),
    "tabs.txt": (b"an\tna\n\tnora  \n", ["an\tna", "nora"]),
    "control.txt": (b"a\x1bb\nc\x07d\n", ["a\x1bb", "c\x07d"]),
    "hebrew.txt": ("שלום\nדוד\n".encode(), ["שלום", "דוד"]),
    "joiners.txt": ("می‌خواهم\nنیم‌فاصله\n".encode(), ["می‌خواهم", "نیم‌فاصله"]),
    "accents.txt": (
        "e\u0301\na\u0301\u0302\u0303b\u0316\n".encode(),
        ["é", "á\u0302\u0303b\u0316"],
    ),
    "emoji.txt": ("👨‍👩‍👧\n🇩🇪🇫🇷\n👩🏽\n".encode(), ["👨‍👩‍👧", "🇩🇪🇫🇷", "👩🏽"]),
    "cjk.txt": ("東京\n京都\n".encode(), ["東京", "京都"]),
    "long.txt": (b"anna\n" + b"ab" * 500_000 + b"\nlea\n", ["anna", "ab" * 500_000, "lea"]),
    "many.txt": (
        "".join(f"{chr(0x4E00 + i)}{chr(0x4E00 + i * 7 % 5000)}\n" for i in range(5000)).encode(),
        [f"{chr(0x4E00 + i)}{chr(0x4E00 + i * 7 % 5000)}" for i in range(5000)],
    ),
    " sp ace.txt": (b"ab\nba\n", ["ab", "ba"]),
    "new\nline.txt": (b"ab\nba\n", ["ab", "ba"]),
    os.fsdecode(b"odd\xff.txt"): (b"ab\nba\n", ["ab", "ba"]),
    "twice.jsonl": (b'{"text":"a","text":"b"}\n{"text":"c"}\n', ["b", "c"]),
    "mark.jsonl": (b'\xef\xbb\xbf{"text":"ab"}\n\n{"text":"b\\na"}\n', ["ab", "b\na"]),
    "blank-head.csv": (b"\n\nname,id\nab,1\nba,2\n", ["ab", "ba"]),
    "mark.csv": (b"\xef\xbb\xbfname,id\nab,1\nba,2\n", ["ab", "ba"]),
    "longer.csv": (b"id,name\n1,ab,x,y\n2,ba\n", ["ab", "ba"]),
    "cells.csv": (b'name,id\n"a\nb",1\n"c\r\nd",2\n', ["a\nb", "c\nd"]),
    "big-cell.csv": (b"name,id\n" + b"a" * 200_000 + b",1\nb,2\n", ["a" * 200_000, "b"]),
    "wide.csv": (
        b"".join(
            b",".join([w, *[b"%d" % i for i in range(9999)]]) + b"\n" for w in b"name ab ba".split()
        ),
        ["ab", "ba"],
    ),
    "utf16.txt": ("ab\nb\u0101\n".encode("utf-16"), ["ab", "b\u0101"]),
    "utf16-be.txt": (b"\xfe\xff\0a\0b\0\n\0b", ["ab", "b"]),
    "semicolons.csv": (b'id;name;"a,b,c"\n1,5;ab;2\n1;ba;3\n', ["ab", "ba"]),
    "tabs.csv": (b"id\tname\n1\tab\n2\tba\n", ["ab", "ba"]),
    "table.txt": (b"a;b\nb;a\nc;d\nd;c\ne;f\n", ["a;b", "b;a", "c;d", "d;c", "e;f"]),
    "sep.csv": (b'\xef\xbb\xbf"sep=;"\r\nid;name;"a,b,c"\r\n1;ab;2\r\n1;ba;3\r\n', ["ab", "ba"]),
    "above.csv": (b"Names of 2026,,\n\nid,name,n\n1,ab,2\n1,ba,3\n", ["ab", "ba"]),
    "comments.csv": (b"# made, by hand, x\nid|name|n\n1|ab|2\n1|ba|3\n", ["ab", "ba"]),
    "gzip.csv": (gzip.compress(b"name,id\nab,1\n") + gzip.compress(b"ba,2\n"), ["ab", "ba"]),
    "quote.tsv": (b'id\tname\n1\t"ab\n2\tb"a\n', ['"ab', 'b"a']),
    "t.tsv": (b"name\tid\nab\t1\nba\t2\n", ["ab", "ba"]),
}

BAD_TEXT = {
    "empty.txt": (b"", "empty.txt is empty"),
    "blank.txt": (b"\n\n  \n\t\n", "blank.txt has only blank lines"),
    "mark-only.txt": (b"\xef\xbb\xbf", "mark-only.txt is empty"),
    "nul.txt": (b"ab\nb\0a\n", "nul.txt, line 2 has a NUL byte at byte 2"),
    "latin.txt": (b"ab\nb\xe9a\n", "latin.txt, line 2 is not UTF-8: byte 2 of it is 0xe9"),
    "cp1252.txt": (b"\x80uro\n", "convert the file, for example with `iconv -f cp1252 -t utf-8`"),
    "utf16-half.txt": (b"\xfe\xff\0a\0", "utf16-half.txt, line 1 is not UTF-16, although the file"),
    "utf16-nul.txt": (b"\xff\xfe\0\0", "line 1 has a NUL character, although the file begins with"),
    "brands.xlsx": (
        b"PK\x03\x04\x14\0\x08",
        "brands.xlsx is a spreadsheet or an archive, not text",
    ),
    "brands.xls": (b"\xd0\xcf\x11\xe0\xa1\xb1", "save it as CSV (UTF-8)"),
    "surrogate.txt": (b"ab\n\xed\xa0\x80\n", "surrogate.txt, line 2 is not UTF-8: byte 1"),
    "new\nempty.txt": (b"", r"new\nempty.txt is empty"),
    "\x1b[31m.txt": (b"", r"\x1b[31m.txt is empty"),
    os.fsdecode(b"no\xff.txt"): (b"", r"no\xff.txt is empty"),
}

NO_PROMPTS = "the model does not follow prompts\nhint: fine-tune it on prompts with `kamon sft`"
NOT_TUNED = "M is a trained model, not a fine-tuned one\nhint: resume with `kamon train --resume M`"

BAD_TABLES = {
    "number.jsonl": (
        b'{"text":"a"}\n{"text":3}\n',
        "line 2: the value of 'text' is not text\nhint: choose another key with --column",
    ),
    "null.jsonl": (b'{"text":null}\n', "line 1: the value of 'text' is not text"),
    "array.jsonl": (b"[1]\n", "line 1 is not a JSON object"),
    "surrogate.jsonl": (b'{"text":"a\\ud800b"}\n', "a lone surrogate (U+D800) at character 2"),
    "nul.jsonl": (b'{"text":"a\\u0000"}\n', "line 1 has a NUL at character 2"),
    "deep.jsonl": (
        b'{"text":' + b"[" * 100_000,
        "line 1 is not valid JSON: it is nested too deeply",
    ),
    "digits.jsonl": (b'{"text":' + b"9" * 9999 + b"}", "valid JSON: a number has too many digits"),
    "keys.jsonl": (b'{"a\\nb\\u001b":"x"}\n', r"--column: a\nb\x1b"),
    "many-keys.jsonl": (
        b"{" + b",".join(b'"k%d":1' % i for i in range(5000)) + b"}",
        "k29 and 4,970 more",
    ),
    "ragged.csv": (b"id,name\n1,a\n\n2\n", "line 4 has only 1 cell, not column 2, 'name'"),
    "quote.csv": (
        b'name,id\na,1\n"b,2\nc,3\nd,4\n',
        "quote.csv, line 3 is not valid CSV: a quote that opens there is never closed",
    ),
    "inside.csv": (b'name,id\n"a\nb"c,2\n', "line 3 is not valid CSV: "),
    "twice.csv": (b"name,name\na,b\n", "more than one column 'name'"),
    "none.csv": (b"", "none.csv is empty"),
    "no-name.csv": (b"nam;id\nab;1\n", "no column 'name'\nhint: did you mean 'nam'?"),
    "table.jsonl": (
        b"name;id\n",
        "line 1 is not valid JSON: Expecting value\nhint: each line is an object such as",
    ),
    "wide-no.csv": (b",".join(b"c%d" % i for i in range(9999)), "c29 and 9,969 more"),
}

NO_FILES = [
    ("missing.txt", "no file missing.txt"),
    ("", "the file name is empty"),
    (".", ". is a directory\nhint: give a file in it"),
    ("M", "M is a directory\nhint: give a file in it"),
    ("two.txt/x", "cannot read two.txt/x: Not a directory"),
    ("a\0b", r"cannot read 'a\x00b': embedded null byte"),
    ("x" * 300, "File name too long"),
    ("/dev/null", "/dev/null is empty"),
    ("/proc/self/mem", "cannot read /proc/self/mem: Input/output error"),
]


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """No cell hangs."""

    def late(_signum: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all the lists, and models M of names, E of emoji and more, F not finite, B of
    byte pairs."""
    folder = tmp_path_factory.mktemp("shelf")
    for table in (STRANGE, BAD_TEXT, BAD_TABLES):
        for name, (content, _) in table.items():
            try:
                (folder / name).write_bytes(content)
            except OSError:  # where names must be UTF-8
                continue
    (folder / "other").mkdir()
    (folder / "other" / "mine.txt").write_text("mine")
    (folder / "void").mkdir()
    tiny = {"num_steps": 3, "n_embd": 4, "n_head": 2}
    package.train(TRIPLES, **tiny, block_size=6).save(folder / "M")
    piece_model(TRIPLES, 270, **tiny, block_size=6).save(folder / "B")
    strange = [
        doc for name in ("emoji.txt", "joiners.txt", "accents.txt") for doc in STRANGE[name][1]
    ]
    package.train([*strange, "a\u2028b", "c\x85\x1b"], **tiny).save(folder / "E")
    far = {"n_embd": 16, "num_steps": 1, "learning_rate": 1e4, "dtype": "float64"}
    package.train(["anna", "nora"], **far).save(folder / "F")
    return folder


@pytest.fixture
def here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shelf, in which a test may leave nothing."""
    monkeypatch.chdir(shelf)
    before = sorted(map(str, shelf.rglob("*")))
    yield shelf
    assert sorted(map(str, shelf.rglob("*"))) == before


def assert_refused(done: Result, code: int, message: str, out: str = "") -> None:
    """One error and perhaps a hint, after lines about what had been done by then."""
    assert done.code == code, done.err
    assert done.out == out
    lines = done.err.splitlines()
    errors = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, done.err
    last = lines[errors[0] :]
    assert [line.split()[0] for line in last] in (["error:"], ["error:", "hint:"])
    assert message in "\n".join(last)
    assert all(len(line) < LONGEST for line in last)
    assert done.err.endswith("\n")
    assert re.sub(r"[\x20-\x7e\u00a0-\U0010ffff]", "", done.err.replace("\n", "")) == ""
    assert "Warning" not in done.err
    assert "Error" not in done.err


READERS: dict[str, list[str]] = {
    "pack": ["pack", "{}", "-o", "new", "--jobs=1"],
    "train": ["train", "{}", "-o", "new", *TINY_FLAGS],
    "ngram": ["ngram", "{}"],
    "clean": ["clean", "{}", "-o", "new"],
    "eval": ["eval", "M", "{}"],
    "reproduce": ["reproduce", "--num-steps=1", "--input", "{}"],
    "score": ["score", "M", "{}"],
    "exclude": ["sample", "M", "--exclude", "{}"],
    "tokenizer train": ["tokenizer", "train", "{}", "-o", "new"],
    "tokenizer encode": ["tokenizer", "encode", "B", "{}"],
    "drop-words": ["clean", "two.txt", "--drop-words", "{}"],
    "dpo": ["dpo", "M", "{}", "-o", "new"],
}


def reading(verb: str, name: str, *more: str) -> list[str]:
    return [word.replace("{}", name) for word in READERS[verb]] + list(more)


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize("name", BAD_TEXT)
def test_text_that_cannot_be_read(name: str, verb: str, here: Path, kamon: Kamon) -> None:
    if not (here / name).exists():
        pytest.skip("this file system takes UTF-8 names alone")
    if verb == "pack" and name == "mark-only.txt":
        pytest.skip("three bytes are no empty file")
    streamed = verb == "score" and name in ("latin.txt", "nul.txt", "surrogate.txt")
    done = kamon(*reading(verb, f"./{name}", *["--unknown=skip"] * (verb == "score")))
    assert_refused(done, 1, BAD_TEXT[name][1], done.out if streamed else "")


@pytest.mark.parametrize("verb", READERS)
@pytest.mark.parametrize(("name", "message"), NO_FILES)
@pytest.mark.usefixtures("here")
def test_files_that_are_none(name: str, message: str, verb: str, kamon: Kamon) -> None:
    if name.startswith("/proc") and not os.path.exists(name):
        pytest.skip("no /proc on this system")
    if verb == "pack" and name in (".", "M", "/dev/null", "/proc/self/mem"):
        pytest.skip("folders are packed whole, and what is no file is refused in other words")
    assert_refused(kamon(*reading(verb, name)), 1, message)


@pytest.mark.parametrize("verb", ["train", "ngram", "clean", "eval", "pack", "score"])
@pytest.mark.parametrize("name", BAD_TABLES)
@pytest.mark.usefixtures("here")
def test_tables_that_cannot_be_read(name: str, verb: str, kamon: Kamon) -> None:
    column = ["--column=name"] if name.endswith("csv") else []
    code = 2 if name in ("twice.csv", "no-name.csv", "wide-no.csv") else 1
    done = kamon(*reading(verb, name, *column, *["--unknown=zero"] * (verb == "score")))
    assert_refused(done, code, BAD_TABLES[name][1], done.out if verb == "score" else "")


@pytest.mark.parametrize("name", ["wide.csv", "wide-no.csv"])
@pytest.mark.usefixtures("here")
def test_the_columns_of_a_wide_table_are_not_all_named(name: str, kamon: Kamon) -> None:
    assert_refused(kamon("ngram", name), 2, "more: choose one with --column")


@pytest.mark.parametrize("name", STRANGE)
def test_strange_lists(name: str, here: Path, kamon: Kamon) -> None:
    """Each verb takes every document as it is; JSON of it is one line that holds the same."""
    if not (here / name).exists():
        pytest.skip("this file system takes UTF-8 names alone")
    docs = STRANGE[name][1]
    column = ["--column=name"] if name.endswith("sv") else []
    path = f"./{name}"
    assert list(corpus.read(path, column="name" if column else None).docs) == docs

    trained = kamon("train", path, "-o", "new", *TINY_FLAGS, *column, "--json")
    stored = package.load("new")
    shutil.rmtree("new")
    assert trained.code == 0
    assert list(stored.docs) == docs
    assert trained.out.count("\n") == 1
    assert trained.json["corpus"]["num_docs"] == len(docs)
    cut = sum(len(doc) >= 6 for doc in docs)
    assert ("their ends are cut off" in trained.err) == bool(cut)
    assert not cut or f"{cut:,} {'entry' if cut == 1 else 'entries'} longer than " in trained.err

    made = kamon("tokenizer", "train", path, "-o", "new", *column, "--json")
    tokenizer = read_tokenizer("new")
    os.remove("new")
    for doc in docs:
        assert tokenizer.decode(tokenizer.encode(doc)) == doc
    assert (made.code, made.json["corpus"]["num_docs"]) == (0, len(docs))
    packed = kamon("pack", path, "-o", "new", *column, "--no-holdout", "--jobs=1")
    shards = open_shards("new")
    found = [shards.document("train", number)[1:-1] for number in range(len(docs))]
    shutil.rmtree("new")
    assert packed.code == 0
    assert list(map(shards.tokenizer.decode, found)) == docs

    counted = kamon("ngram", path, *column, "--json", "-n", 3)
    assert (counted.code, counted.json["corpus"]["num_docs"]) == (0, len(docs))
    cleaned = kamon("clean", path, *column, "--json", "--keep-html")
    assert (cleaned.code, cleaned.out.count("\n")) == (0, 1)
    assert len(cleaned.json["docs"]) == len(docs)
    if not column and name.endswith("txt"):
        scored = kamon("score", "M", path, "--unknown=skip", "--json")
        lines = [json.loads(line) for line in scored.out.splitlines()]
        left_out = re.search(r"([\d,]+) lines? with unknown characters", scored.err)
        skipped = int(left_out[1].replace(",", "")) if left_out else 0
        assert len(lines) + skipped == len(docs)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"anna\n", "has only one entry\nhint: add more entries, or use --mode text"),
        (b"anna\nanna\n", "has only one entry, repeated"),
        (b"ab" * 500_000, "x.txt has only one entry\nhint: add more entries, or use --mode text"),
        (b"a\naa\n", "consist of only one character, 'a'"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "ngram"])
def test_lists_with_nothing_to_learn(
    content: bytes, message: str, verb: str, here: Path, tmp_path: Path, kamon: Kamon
) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    assert_refused(kamon(*reading(verb, str(tmp_path / "x.txt"))), 1, message)
    assert here.exists()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_list_of_100_000_characters(tmp_path: Path, kamon: Kamon) -> None:
    """No two of them compose to one."""
    path = tmp_path / "x.txt"
    chars = (chr(code) for code in range(0x17000, 0x30000))
    composed = [char for char in chars if is_normalized("NFC", char)][:100_000]
    entries = ["".join(composed[at : at + 5]) for at in range(0, 100_000, 5)]
    path.write_text("\n".join(entries), encoding="utf-8")
    assert kamon("ngram", path, "-n=1", "--json").json["vocab_size"] == 100_001
    flags = [*TINY_FLAGS, "--json", "--num-steps=1", "--no-holdout"]
    done = kamon("train", path, "-o", tmp_path / "m", *flags)
    assert done.json["config"]["vocab_size"] == 100_001


@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01\x01\0\0", b"\n \n", b"ab\n\xff\n"])
@pytest.mark.parametrize("verb", [verb for verb in READERS if verb != "pack"])
@pytest.mark.usefixtures("here")
def test_standard_input_that_is_no_list(
    content: bytes, verb: str, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    done = kamon(*reading(verb, "-", *["--unknown=skip"] * (verb == "score")))
    assert_refused(done, 1, "standard input", done.out if verb == "score" else "")
    monkeypatch.setattr(sys, "stdin", None)
    assert_refused(kamon(*reading(verb, "-")), 1, "standard input is closed")


@pytest.mark.usefixtures("here")
def test_a_pipe_with_a_name(tmp_path: Path, kamon: Kamon, process: Process) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    running = process("ngram", pipe, "--json")
    pipe.write_bytes(b"ab\nba\n")
    out, err = running.communicate(timeout=LIMIT)
    assert (running.returncode, json.loads(out)["corpus"]["num_docs"]) == (0, 2), err
    assert_refused(kamon("train", "two.txt", "-o", pipe), 1, "is not a directory")
    assert_refused(kamon("clean", "two.txt", "-o", pipe), 1, "is not a file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read(tmp_path: Path, kamon: Kamon) -> None:
    (tmp_path / "x.txt").write_text("ab\nba\n")
    (tmp_path / "x.txt").chmod(0)
    assert_refused(kamon("ngram", tmp_path / "x.txt"), 1, "x.txt: Permission denied")


# ---- flags

FULL = "/dev/full"
TWICE = "standard input cannot be both INPUT and --drop-words"
HUGE = 10**30
FLAGS: list[tuple[str | list[str], int, str]] = [
    ("sample M --min-len 9 --max-len 5", 2, "min_len 9 is above max_len 5"),
    (
        "sample M --prefix abcd --max-len 3",
        2,
        "prefix 'abcd' has 4 characters, more than max_len 3",
    ),
    ("sample M --suffix abcd --max-len 3", 2, "suffix 'abcd' has 4 characters"),
    ("sample M --contains abcd --max-len 3", 2, "contains 'abcd' has 4 characters"),
    ("sample M --prefix abcdeab", 2, "more than the model's block_size 6 allows"),
    ("sample M --max-len 7", 2, "max_len 7 is above the 6 characters"),
    ("sample M --max-len=-1", 2, "max_len must be 1 or more, not -1"),
    ("sample M --min-len 7", 2, "min_len 7 is above the 6 characters"),
    ("sample M --prefix é", 1, "character 'é' (U+00E9) at position 1"),
    ("sample M --suffix n\u0316", 1, r"character '\u0316' (U+0316) at position 2"),
    ("sample M --contains 🇩🇪", 1, "character '🇩' (U+1F1E9)"),
    ("sample M --prefix -a", 2, "--prefix needs a value\nhint: write --prefix=-…"),
    ("sample M --regex (", 2, "regex '(' is not a valid regular expression"),
    ("sample M --regex a{99999999999}", 2, "the repetition number is too large"),
    ("sample M -n -1", 2, "number of samples must be 0 or more, not -1"),
    ("sample M -n 1.5", 2, "must be a whole number, not '1.5'"),
    ("sample M -n 1000000000000", 2, "making 1,000,000,000,000 samples needs "),
    ("sample M -n 1000000000000 --copies", 2, "ask for fewer at a time"),
    ("sample M -n 1000000000000 --prefix a", 2, "ask for fewer at a time"),
    (f"sample M -n {HUGE}", 2, "ask for fewer at a time"),
    (f"eval M -n {HUGE}", 2, "ask for fewer at a time"),
    (f"ngram two.txt -n {HUGE}", 2, "ask for fewer at a time"),
    ("sample M --temperature nan", 2, "temperature must be 0 or more and finite"),
    ("sample M --temperature inf", 2, "temperature must be 0 or more and finite"),
    ("sample M --temperature 1e400", 2, "temperature must be 0 or more and finite"),
    ("sample M --temperature -1", 2, "temperature must be 0 or more and finite"),
    ("sample M --top-k 0", 2, "top_k must be 1 or more, not 0"),
    ("sample M --top-p 0", 2, "top_p must be above 0 and at most 1"),
    ("sample M --top-p nan", 2, "top_p must be above 0 and at most 1"),
    ("sample M --top-p 1.1", 2, "top_p must be above 0 and at most 1"),
    (f"sample M --seed {2**128}", 2, "seed must be below 2**128"),
    (f"sample M --seed {'9' * 5000}", 2, "--seed: has more than 1,000 digits"),
    (f"sample M --seed {'x' * 5000}", 2, "--seed: must be a whole number, not 'xxx"),
    (f"sample M --top-p {'x' * 5000}", 2, "--top-p: must be a number, not 'xxx"),
    ("sample M --temp 1", 2, "unknown option --temp"),
    ("sample M --min 3", 2, "unknown option --min\nhint: did you mean --min-len?"),
    ("sample M -x", 2, "unknown option -x\nhint: if it is an argument, put it after --"),
    ("sample M --threads 0", 2, "threads must be from 1 to 1,024, not 0"),
    ("sample M --threads 100000", 2, "threads must be from 1 to 1,024, not 100000"),
    (f"sample M --threads {HUGE}", 2, "threads must be from 1 to 1,024"),
    ("train two.txt -o new --threads 100000", 2, "threads must be from 1 to 1,024"),
    ("sample M --engine gpu", 2, "invalid choice: 'gpu'"),
    (
        "sample M --engine scalar --dtype float32",
        2,
        "computes only in float64\nhint: leave out --dtype",
    ),
    ("sample M --engine native --dtype bfloat16", 2, "bfloat16 needs the torch engine"),
    ("sample M --engine native --device cuda", 2, "device cuda needs the torch engine"),
    ("sample M --engine scalar --compile", 2, "compile needs the torch engine"),
    ("sample M --device tpu", 2, "--device"),
    ("sample M N", 2, 'unexpected argument "N"'),
    ("sample", 2, "DIR"),
    (["complete", "M", "é"], 1, "character 'é'"),
    (["complete", "M", "n\u0316"], 1, r"character '\u0316' (U+0316) at position 2 of"),
    (["complete", "M", "שלום"], 1, "character 'ש'"),
    (["complete", "M", "日", "--unknown=replace"], 1, "character '日'"),
    (["complete", "M", "\udcff", "--json"], 1, r"character '\udcff' (U+DCFF)"),
    (["complete", "M", "a\0"], 1, r"character '\x00'"),
    ("complete M abcdef", 2, "block_size 6 allows at most 5"),
    ("complete M --next 0", 2, "next must be 1 or more"),
    ("complete M -n 0", 2, "n must be from 1 to 10,000, not 0"),
    ("complete M -n 10001", 2, "n must be from 1 to 10,000"),
    ("complete M --effort nan", 2, "effort must be above 0"),
    ("complete M --effort inf", 2, "effort must be above 0"),
    ("complete M --effort 0", 2, "effort must be above 0"),
    ("complete M --temperature nan", 2, "temperature must be 0 or more and finite"),
    ("complete M --interactive", 2, "--interactive needs a terminal"),
    ("complete M --interactive --json", 2, "exclude each other"),
    ("complete M --unknown drop", 2, "invalid choice: 'drop'"),
    (["fill", "M", ""], 2, "the pattern is empty"),
    (["fill", "M", "\\"], 2, r"the pattern ends with a \,"),
    (["fill", "M", "é_"], 1, "character 'é'"),
    (["fill", "M", "_" * 7], 2, "the pattern needs 7 characters or more"),
    (["fill", "M", "_*" * 7], 2, "the pattern needs 7 characters or more"),
    (
        ["fill", "M", "-*"],
        2,
        "missing PATTERN\nhint: put an argument that begins with -, such as -*",
    ),
    (["fill", "M", "\udcff*", "--json"], 1, r"character '\udcff'"),
    (["fill", "M", "a*", "-n", "0"], 2, "n must be from 1 to 10,000"),
    (["fill", "M", "é", "--unknown=skip"], 2, "the pattern is empty and matches only"),
    (
        "score M hebrew.txt --unknown error",
        1,
        "hebrew.txt, line 1: unknown character 'ש' (U+05E9) at position 1",
    ),
    (
        "score M accents.txt --unknown error",
        1,
        "accents.txt, line 1: unknown character 'é' (U+00E9)",
    ),
    (
        "score M accents.txt --unknown error",
        1,
        "hint: use 'e', which it knows, or use an option: --unknown zero",
    ),
    ("score M two.txt --threshold nan", 2, "threshold must be a number of bits, not nan"),
    ("score M two.txt --threshold -inf", 2, "hint: write --threshold=-… for a value"),
    ("score M two.txt --top 0", 2, "top must be 1 or more, not 0"),
    ("score M two.txt --top -1", 2, "top must be 1 or more, not -1"),
    ("score M two.txt x", 2, 'unexpected argument "x"'),
    ("score M two.txt --column x", 2, "is read as text, which has no columns"),
    ("score M two.txt --format xml", 2, "invalid choice: 'xml'"),
    ("score M mark.csv", 2, "mark.csv has the columns name, id: choose one with --column"),
    ("score M mark.csv --column x", 2, "mark.csv has no column 'x'\nhint: choose from name, id"),
    ("score M keys.jsonl", 1, "keys.jsonl, line 1 has no key 'text'"),
    ("score M hebrew.txt --unknown drop", 2, "invalid choice: 'drop'"),
    (
        "score M hebrew.txt --unknown error",
        1,
        "hint: --unknown zero gives such lines probability 0, skip",
    ),
    (
        "dpo M semicolons.csv -o new",
        1,
        '\nhint: pairs are JSON lines such as {"chosen": "…", "rejected"',
    ),
    (
        "reward M two.txt -o new",
        1,
        "two.txt, line 1 is not valid JSON: Expecting value\nhint: pairs are JSON lines",
    ),
    (
        "sft M two.txt -o new",
        1,
        'each line is an object such as {"prompt": "…", "completion": "…"}',
    ),
    ("score", 2, "DIR"),
    ("eval M hebrew.txt", 1, "characters it does not know ('דולםש')"),
    ("eval E accents.txt", 1, "it has learned all of them"),
    ("eval E", 1, "the model has no validation set"),
    ("eval M -n -1", 2, "number of samples must be 0 or more"),
    ("eval M --temperature nan", 2, "temperature must be 0 or more and finite"),
    (f"eval M --seed {HUGE**2}", 2, "seed must be below 2**128"),
    ("eval M --column x", 2, "there is none"),
    ("eval M two.txt --column x", 2, "is read as text, which has no columns"),
    ("eval F hebrew.txt", 1, "characters it does not know"),
    ("ngram two.txt --order 0", 2, "order must be from 1 to 10, not 0"),
    ("ngram two.txt --order 11", 2, "from 1 to 10, not 11"),
    (f"ngram two.txt --order {HUGE}", 2, "from 1 to 10"),
    ("ngram two.txt --order 1.5", 2, "must be a whole number"),
    ("ngram two.txt -n -1", 2, "number of samples must be 0 or more"),
    ("ngram two.txt --temperature -1", 2, "temperature must be 0 or more and finite"),
    (f"ngram two.txt --seed {HUGE**2}", 2, "seed must be below 2**128"),
    (["plot", "M", "--text", ""], 2, "the text is empty"),
    ("plot M --text é --json", 1, "character 'é'"),
    ("plot M --text abcdef --json", 2, "the text has 6 characters"),
    ("plot M --kind heads", 2, "invalid choice: 'heads'"),
    ("plot M -o two.txt", 1, "two.txt is not a directory\nhint: choose another name"),
    ("plot M -o two.txt/x", 1, "two.txt is not a directory"),
    ("plot M --kind loss -o M/x.png", 1, "is in the model's own directory"),
    ("plot M --json -o x", 2, "--json writes no plots"),
    ("export M", 2, "missing -o/--output"),
    ("export -o x.py", 2, "missing DIR"),
    ("export M -o x", 2, "'x' does not end in .json, .onnx or .py"),
    (["export", "M", "-o", ""], 2, "'' does not end in .json, .onnx or .py"),
    (["export", "M", "-o", "", "--format=json"], 1, ". is a directory"),
    ("export M -o x.gguf --format gguf", 2, "invalid choice: 'gguf'"),
    ("export M -o other --format json", 1, "other is a directory\nhint: choose another name"),
    (
        "export M -o two.txt --format python",
        1,
        "two.txt already exists\nhint: choose another name with -o",
    ),
    ("export M -o two.txt/x.py --overwrite", 1, "two.txt is not a directory"),
    ("export M -o M/x.json", 1, "is in the model's own directory"),
    (f"export M -o {FULL} --format python --overwrite", 1, "/dev/full is not a file"),
    (["export", "M", "-o", "a\0.py"], 1, r"cannot write 'a\x00.py': embedded null byte"),
    (["export", "M", "-o", f"{'x' * 300}.py"], 1, "File name too long"),
    ("export M -o x.py --engine scalar", 2, "unknown option --engine"),
    ("clean two.txt --min-len -1", 2, "min_len must be 0 or more"),
    ("clean two.txt --min-len 9 --max-len 5", 2, "max_len must be 9 or more, not 5"),
    ("clean two.txt --keep-regex (", 2, "keep_regex '(' is not a valid regular expression"),
    ("clean two.txt --drop-regex .", 1, "nothing of two.txt is left"),
    ("clean two.txt --near 74", 2, "near must be from 75 to 100"),
    ("clean two.txt --near nan", 2, "must be a whole number"),
    ("clean two.txt --near 80 --keep-repetitions", 2, "choose one"),
    ("clean two.txt --script", 2, "needs a value"),
    ("clean - --drop-words -", 2, TWICE),
    ("clean two.txt -o two.txt --overwrite", 2, "is the input, which is never overwritten"),
    ("clean two.txt -o other", 1, "other is a directory"),
    ("clean two.txt -o none/x", 1, "its directory does not exist"),
    (f"clean two.txt -o {FULL}", 1, "is not a file"),
    ("clean", 2, "INPUT"),
    ("train two.txt -o two.txt", 1, "two.txt is not a directory"),
    ("train two.txt -o .", 1, ". is the current directory"),
    ("train two.txt -o other", 1, "other contains something other than a model"),
    ("train two.txt -o M", 1, "M already contains a model"),
    ("train two.txt -o M/sub", 1, "M/sub is inside another model"),
    (f"train two.txt -o {FULL}", 1, "is not a directory"),
    ("train two.txt -o two.txt/x", 1, "cannot write two.txt/x: Not a directory"),
    (["train", "two.txt", "-o", "a\0b"], 1, "embedded null byte"),
    (["train", "two.txt", "-o", "x" * 300], 1, "File name too long"),
    ("train two.txt -o new --budget 0", 2, "must be a time from 1ms to 30 days"),
    ("train two.txt -o new --budget nan", 2, "must be a time"),
    ("train two.txt -o new --budget=-1s", 2, "must be a time"),
    ("train two.txt -o new --budget 31d", 2, "must be a time"),
    ("train two.txt -o new --budget 1s --num-steps 3", 2, "give budget or num_steps, not both"),
    ("train two.txt -o new --size big", 2, "unknown size 'big'"),
    ("train two.txt -o new --format xml", 2, "invalid choice: 'xml'"),
    ("train two.txt -o new --format csv --column x", 2, "no column 'x'\nhint: choose from ab"),
    ("train two.txt -o new --column x", 2, "which has no columns"),
    ("train two.txt -o new --column 1", 2, "such as --format csv, and --no-header if the first"),
    ("train two.txt -o new --no-header", 2, "which has no header row"),
    ("train names -o new --no-header", 2, "the built-in list names has no columns"),
    ("train mark.csv -o new --no-header --column name", 2, "give a number from 1 to 2"),
    ("train mark.csv -o new --column 3", 2, "no column '3'\nhint: choose from name, id"),
    (
        "sample M --column 1",
        2,
        "--column, --format and --no-header need the FILE of --exclude, and there is none",
    ),
    ("train two.txt -o new --config .", 2, "cannot read .: Is a directory"),
    ("train two.txt -o new --config /dev/zero", 2, "/dev/zero has more than 1,048,576 characters"),
    (["train", "two.txt", "-o", "new", "--config", ""], 2, "cannot read : No such file"),
    ("train -dash.txt", 2, "unknown option -dash.txt\nhint: if it is an argument"),
    ("reproduce --input hebrew.txt --n-head 3", 2, "not divisible by n_head 3"),
    ("bench --seconds nan", 2, "seconds must be from 0 to 3600"),
    ("bench --seconds -1", 2, "seconds must be from 0 to 3600"),
    ("bench x", 2, "unexpected argument"),
    ("pack two.txt", 2, "missing -o/--output"),
    ("pack -o new", 2, "INPUT"),
    ("pack - -o new", 2, "standard input cannot be packed"),
    ("pack two.txt -o two.txt", 2, "is inside the input two.txt"),
    ("pack two.txt -o .", 2, "the input two.txt is inside the output .\nhint: choose another name"),
    ("pack two.txt -o other", 1, "other contains something other than shards"),
    ("pack two.txt -o M --overwrite", 1, "M contains something other than shards"),
    ("pack two.txt -o M/sub", 1, "M/sub is inside a model"),
    (f"pack two.txt -o {FULL}", 1, "is not a directory"),
    ("pack two.txt -o hebrew.txt/x", 1, "Not a directory"),
    (["pack", "two.txt", "-o", "a\0b"], 1, "embedded null byte"),
    (["pack", "two.txt", "-o", "x" * 300], 1, "File name too long"),
    (["pack", "two.txt", "-o", ""], 1, "the output name is empty"),
    ("pack other -o other/new", 2, "is inside the input other"),
    ("pack void -o new", 1, "void is an empty directory"),
    ("pack two.txt two.txt -o new", 2, "two.txt is the same file as two.txt\nhint: give it once"),
    ("pack two.txt -o new --mode lines", 2, "invalid choice: 'lines'"),
    ("pack two.txt -o new --format xml", 2, "invalid choice: 'xml'"),
    ("pack two.txt -o new --column x", 2, "which has no columns"),
    ("pack two.txt -o new --format csv --column x", 2, "no column 'x'\nhint: choose from ab"),
    ("pack two.txt -o new --tokenizer words", 2, "cannot read the tokenizer words"),
    ("pack two.txt -o new --tokenizer hebrew.txt", 2, "hebrew.txt is not a tokenizer"),
    ("pack two.txt -o new --tokenizer void", 1, "no model in void"),
    (
        "pack two.txt -o new --vocab-size 300",
        2,
        "vocab_size applies only to --tokenizer bpe\nhint: leave it out",
    ),
    ("pack two.txt -o new --tokenizer bpe --vocab-size 256", 2, "vocab_size must be from 257"),
    (f"pack two.txt -o new --tokenizer bpe --vocab-size {HUGE}", 2, "vocab_size must be from"),
    ("pack two.txt -o new --shard-tokens 0", 2, "shard_tokens must be 1 or more"),
    ("pack two.txt -o new --jobs 0", 2, "jobs must be from 1 to 1,024"),
    (f"pack two.txt -o new --jobs {HUGE}", 2, "jobs must be from 1 to 1,024"),
    (
        "pack hebrew.txt -o new --tokenizer M",
        1,
        "hebrew.txt, line 1: unknown character 'ש'",
    ),
    ("sft M", 2, "missing DATA"),
    ("sft M none.jsonl -o new", 1, "no file none.jsonl"),
    ("sft M instruction -o new", 1, "did you mean 'instructions'?"),
    ("sft none two.txt -o new", 1, "no model at none"),
    ("sft M two.txt -o new", 1, "two.txt, line 1 is not valid JSON"),
    ("sft M number.jsonl -o new", 1, "line 1 has no key 'prompt'\nhint: write each line as"),
    (
        "sft M array.jsonl -o new",
        1,
        'line 1 is not a JSON object such as {"prompt": "…", "completion": "…"}',
    ),
    ("sft M empty.txt -o new", 1, "empty.txt is empty"),
    ("sft M blank.txt -o new", 1, "blank.txt has only blank lines"),
    ("sft M latin.txt -o new", 1, "line 1 is not valid JSON"),
    ("sft M nul.txt -o new", 1, "line 1 is not valid JSON"),
    ("sft M other -o new", 1, "other is a directory"),
    ("sft M instructions -o new --base-share 1", 2, "base_share must be from 0 to below 1"),
    ("sft M instructions -o new --base-share nan", 2, "base_share must be from 0 to below 1"),
    ("sft M instructions -o new --block-size 3", 2, "block_size 3 is too small"),
    ("sft --resume none", 1, "no model at none"),
    ("sample M --prompt a", 2, "the model does not follow prompts"),
    ("serve none --no-browser", 1, "no model at none"),
    ("serve M two.txt --no-browser", 1, "two.txt is a file, not a model directory"),
    (
        "serve M --no-browser --host example.org",
        2,
        "--host must be an IP address, not 'example.org'\nhint: for example 127.0.0.1 or ::1",
    ),
    ("serve M --no-browser --port 65536", 2, "port must be from 0 to 65535"),
    (f"serve M --no-browser --port {HUGE}", 2, "port must be from 0 to 65535"),
    ("serve M --no-browser --port x", 2, "must be a whole number"),
    ("serve M --no-browser --limit jobs=x", 2, "--limit jobs must be a number above 0, not 'x'"),
    ("serve M --no-browser --budget 3", 2, "--budget is only for a start without DIR"),
    (["serve", "M", "--no-browser", "--save-to", ""], 2, "need a name, not an empty one"),
    ("inspect", 2, "no model to inspect"),
    ("inspect other", 1, "no model in "),
    ("inspect --positions", 2, "no model to inspect"),
    ("inspect M --positions --engine", 2, "exclude each other"),
    (["complete", "B", "\udcff", "--json"], 1, r"character '\udcff' (U+DCFF) at position 1 of"),
    ("complete B xxxxxx", 2, "the prefix has 6 tokens, and the model's block_size 6 allows"),
    (["sample", "B", "--prefix", "e\ud800"], 1, r"'\ud800' (U+D800) at position 2"),
    ("sample B --prefix xxxxxxx", 2, "prefix 'xxxxxxx' is impossible: the model cannot write"),
    ("sample B --max-len 99", 2, "max_len 99 is above the 12 characters"),
    ("fill B a_", 2, "the tokens of this model are pieces of text"),
    (
        ["plot", "B", "--json", "--text", "x" * 6],
        2,
        "the text has 6 tokens, and block_size 6 allows 5",
    ),
    ("tokenizer", 2, "ACTION"),
    ("tokenizer learn two.txt", 2, "invalid choice: 'learn'"),
    ("tokenizer train two.txt", 2, "missing -o FILE for the tokenizer"),
    ("tokenizer train two.txt x -o new", 2, 'unexpected argument "x"'),
    ("tokenizer train two.txt -o new --vocab-size 256", 2, "vocab_size must be from 257 (the"),
    (f"tokenizer train two.txt -o new --vocab-size {HUGE}", 2, "vocab_size must be from 257"),
    ("tokenizer train two.txt -o new --vocab-size 1.5", 2, "must be a whole number"),
    (
        "tokenizer train two.txt -o two.txt --overwrite",
        1,
        "is the input, which is never overwritten\nhint: choose another name",
    ),
    (
        "tokenizer train two.txt -o bom.txt",
        1,
        "bom.txt already exists\nhint: choose another name with -o",
    ),
    ("tokenizer train two.txt -o other", 1, "other is a directory\nhint: choose another name"),
    ("tokenizer train two.txt -o none/x", 1, "cannot write none/x: its directory does not exist"),
    ("tokenizer train two.txt -o two.txt/x", 1, "cannot write"),
    (f"tokenizer train two.txt -o {FULL}", 1, "is not a file"),
    (
        ["tokenizer", "train", "two.txt", "-o", ""],
        1,
        "the output name is empty\nhint: give a file name with -o",
    ),
    (["tokenizer", "train", "two.txt", "-o", "a\0b"], 1, r"cannot write 'a\x00b': embedded null"),
    (["tokenizer", "train", "two.txt", "-o", "x" * 300], 1, "File name too long"),
    ("tokenizer encode M two.txt x", 2, 'unexpected argument "x"'),
    ("tokenizer encode M two.txt -o x", 2, "are for `kamon tokenizer train`"),
    ("tokenizer encode none two.txt", 2, "cannot read the tokenizer none: No such file"),
    (["tokenizer", "encode", "a\0b", "two.txt"], 2, r"cannot read the tokenizer 'a\x00b'"),
    ("tokenizer encode two.txt two.txt", 2, "two.txt is not a tokenizer: not valid JSON"),
    ("tokenizer encode latin.txt two.txt", 2, "'latin.txt': it is not UTF-8"),
    ("tokenizer encode /dev/zero two.txt", 2, "/dev/zero has more than 16,777,216 bytes"),
    ("tokenizer encode other two.txt", 1, "no model in "),
    ("tokenizer encode M hebrew.txt", 1, "character 'ש' (U+05E9) at position 1"),
    (
        "tokenizer decode M two.txt",
        1,
        "two.txt, line 1: 'ab' is not a token: tokens are numbers from 0",
    ),
    ("tokenizer decode M utf16-nul.txt", 1, "though the file begins with the mark of UTF-16"),
    ("tokenizer decode B", 1, "standard input is empty"),
    ("tokenizer show M", 2, "no TEXT to show"),
    ("tokenizer show M é", 1, "character 'é' (U+00E9) at position 1"),
    (
        "tokenizer show B a --column x",
        2,
        "--no-header need an INPUT, and there is none",
    ),
    (["tokenizer", "show", "B", "\udcff"], 1, r"character '\udcff' (U+DCFF) at position 1 of"),
    ("dpo M", 2, "dpo needs either DATA or --prefer RULE"),
    ("dpo M common --prefer len<3", 2, "dpo needs either DATA or --prefer"),
    (["dpo", "M", "--prefer", "len <"], 2, "the rule 'len <', character 6: syntax error"),
    (["dpo", "M", "--prefer", "\x1b"], 2, r"character 1: unexpected '\x1b'"),
    (["dpo", "M", "--prefer", "matches /a{99999999999}/", "-o", "new"], 2, "is too large"),
    ("dpo M --prefer len<99 -o new", 2, "samples satisfies the rule, so there is nothing"),
    ("dpo M two.txt -o new", 1, "two.txt, line 1 is not valid JSON"),
    ("dpo M twice.jsonl -o new", 1, 'line 1 has no text under "chosen"'),
    ("dpo M common -o new", 1, "pair 1, chosen: unknown character '"),
    (
        "dpo M common -o new --num-pairs 0",
        2,
        "the number of pairs must be from 1 to 1,000,000, not 0",
    ),
    (
        f"dpo M common -o new --num-pairs {HUGE}",
        2,
        "the number of pairs must be from 1 to 1,000,000",
    ),
    ("dpo M common -o new --beta 0", 2, "beta must be above 0 and finite"),
    ("dpo M common -o new --beta nan", 2, "beta must be above 0 and finite"),
    ("dpo M common -o new --max-kl 0", 2, "max_kl must be above 0 and finite"),
    ("dpo M common -o new --max-kl nan", 2, "max_kl must be above 0 and finite"),
    ("dpo M common -o new --label-smoothing 0.5", 2, "label_smoothing must be from 0 to below 0.5"),
    (
        "dpo M common -o new --loss ipo --label-smoothing 0.1",
        2,
        "label_smoothing needs the loss dpo",
    ),
    ("dpo M common -o new --loss kto", 2, "invalid choice: 'kto'"),
    (f"dpo M common -o new --seed {HUGE**2}", 2, "seed must be below 2**128"),
    ("dpo M --prefer len<=2 -o new --batch-size 0", 2, "batch_size must be 1 or more"),
    ("dpo M --prefer len<=2 -o new --learning-rate 0", 2, "learning_rate must be above 0"),
    ("dpo void common -o new", 1, "no model in void"),
    (
        "dpo --resume M --beta 1",
        2,
        "--beta cannot be changed when resuming\nhint: leave it out, or start a new fine-tuning",
    ),
    ("rate", 2, "DIR"),
    ("rate void -o new", 1, "no model in void"),
    ("rate M -o M", 1, "M already contains a model"),
    ("rate M -o new --every 0", 2, "every must be 1 or more, not 0"),
    ("rate M -o new --prefs two.txt", 1, "two.txt, line 1 is not valid JSON"),
    ("rate M -o new --prefs other", 1, "cannot write other: Is a directory"),
    (["rate", "M", "-o", ""], 2, "need a name, not an empty one"),
    (f"rate M -o new --seed {HUGE**2}", 2, "seed must be below 2**128"),
    ("compare M", 2, "missing TUNED"),
    ("compare M M", 2, "M is given more than once"),
    ("compare M ./M/", 2, "M is given more than once"),
    ("compare M two.txt", 1, "two.txt is a file, not a model directory"),
    ("compare M B -n 1", 2, "number of samples to compare must be 2 or more, not 1"),
    (f"compare M B -n {HUGE}", 2, "ask for fewer at a time"),
    (f"compare M B --seed {HUGE**2}", 2, "seed must be below 2**128"),
    ("compare M B --show -1", 2, "--show must be 0 or more, not -1"),
    ("compare M B -o x.png", 2, "-o needs a judge"),
    ("compare M B --overwrite", 2, "--overwrite needs -o FILE"),
    ("compare M B --prefer len>1 -o x.jpg", 2, "'x.jpg' must end in .png or .svg"),
    (["compare", "M", "B", "--prefer", "len>1", "-o", ""], 2, "'' must end in .png or .svg"),
    ("compare M B --prefer len>1 -o B/x.png", 1, "is in the model's own directory"),
    ("compare M B --prefer len>1 -o two.txt/x.png", 1, "two.txt is not a directory"),
    (["compare", "M", "B", "--prefer", "len >"], 2, "the rule 'len >', character 6"),
    ("compare M B --prefer len>1 --reward M", 2, "cannot be used with"),
    ("reward M", 2, "missing DATA"),
    ("reward M common -o new --num-pairs 0", 2, "number of pairs must be from 1"),
    ("reward M two.txt -o new --num-pairs 5", 2, "--num-pairs is only for the built-in pairs"),
    ("reward M common -o new --lm-weight nan", 2, "lm_weight must be 0 or more and finite"),
    ("reward M common -o other", 1, "contains something other than a model"),
    ("ppo M -o new", 2, "ppo needs either --reward REWARD_DIR or --prefer RULE"),
    (
        "ppo M --reward M --prefer len<3 -o new",
        2,
        "ppo needs either --reward REWARD_DIR or --prefer RULE",
    ),
    ("ppo M --reward M -o new", 2, "M is not a reward model\nhint: train one with `kamon reward`"),
    ("ppo M --reward void -o new", 1, "no model in "),
    ("ppo M --prefer len< -o new", 2, "the rule 'len<', character 5"),
    (
        "ppo M --prefer len<3 -o new --clip-range 0",
        2,
        "clip_range must be above 0 and finite, not 0",
    ),
    ("ppo M --prefer len<3 -o new --kl-coef inf", 2, "kl_coef must be above 0 and finite"),
    ("ppo M --prefer len<3 -o new --target-kl nan", 2, "target_kl must be above 0"),
    ("ppo M --prefer len<3 -o new --max-kl -1", 2, "max_kl must be above 0"),
    ("ppo M --prefer len<3 -o new --ppo-epochs 0", 2, "num_ppo_epochs must be 1 or more"),
    ("ppo M --prefer len<3 -o new --batch-size 1", 2, "batch_size must be 2 or more"),
    ("ppo --resume M --critic", 2, "--critic cannot be changed when resuming"),
    ("ppo --resume M --ppo-epochs 2", 2, "--ppo-epochs cannot be changed when resuming"),
    ("ppo --resume M --prompt a", 2, "--prompt cannot be changed when resuming"),
    ("ppo M --prefer len<3 -o new --prompt a", 2, NO_PROMPTS),
    ("rate M -o new --prompt a", 2, NO_PROMPTS),
    ("compare M B --prompt a", 2, "M knows no prompts"),
    ("dpo --resume M --loss ipo", 2, "--loss cannot be changed when resuming"),
    ("reward M common -o new --temperature 1", 2, "unknown option --temperature"),
    ("dpo M --prefer len<=2 -o new --dropout 0.1", 2, "unknown option --dropout"),
    *[
        (f"{verb} {words}".split(), code, message)
        for verb, begun in {
            "sft": "M instructions",
            "dpo": "M --prefer len<=2",
            "reward": "M common",
            "ppo": "M --prefer len<3",
        }.items()
        for words, code, message in (
            ("", 2, "missing DIR"),
            (
                f"{begun} -o M",
                1,
                "M already contains a model\nhint: choose another name, or add --overwrite",
            ),
            (f"{begun} -o new --n-embd 8", 2, "unknown option --n-embd"),
            (f"{begun} -o new --num-steps 0", 2, "num_steps must be 1 or more"),
            (f"{begun} -o new --beta1 1", 2, "beta1 must be from 0 to below 1"),
            (f"{begun} -o new --config none.toml", 2, "cannot read none.toml"),
            (f"{begun} -o new --config two.txt", 2, "two.txt is not valid TOML"),
            (f"{begun} -o new --checkpoint-every 0", 2, "--checkpoint-every must be a"),
            (
                f"{begun} -o new --engine native --device cuda",
                2,
                "device cuda needs the torch engine\nhint: use --engine torch",
            ),
            (f"{begun} -o new --engine native --compile", 2, "compile needs the torch engine"),
            ("--resume M", 2, NOT_TUNED),
            ("--resume M --device cpu", 2, NOT_TUNED),
            (
                "M --resume M",
                2,
                "DIR cannot be changed when resuming\n"
                "hint: leave it out, or start a new fine-tuning",
            ),
            (
                "--resume M -o new",
                2,
                "-o cannot be changed when resuming\n"
                "hint: leave it out, or start a new fine-tuning",
            ),
            ("--resume M --overwrite", 2, "--overwrite cannot be changed"),
            ("--resume M --seed 0", 2, "--seed cannot be changed"),
            ("--resume M --config two.txt", 2, "--config cannot be changed"),
            ("--resume M --dtype float64", 2, "--dtype cannot be changed"),
            ("--resume=", 2, "--resume needs the directory of a model, not an empty name"),
            (f"{begun} --output=", 1, "an empty name is the current directory"),
        )
    ],
]


@pytest.mark.parametrize(("argv", "code", "message"), FLAGS)
@pytest.mark.usefixtures("here")
def test_flags_that_cannot_be(
    argv: str | list[str], code: int, message: str, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False))
    assert_refused(kamon(*(argv.split() if isinstance(argv, str) else argv)), code, message)


def test_each_verb_is_in_the_table() -> None:
    verbs = {(argv.split() if isinstance(argv, str) else argv)[0] for argv, _, _ in FLAGS}
    assert verbs == set(cli.VERBS)


@pytest.mark.parametrize(
    ("argv", "lines"),
    [
        ("sample M -n 0", 0),
        ("sample M -n 2 --copies --temperature 1e-308", 2),
        ("sample M -n 2 --copies --temperature 5e-324", 2),
        ("sample M -n 2 --temperature 1e308", 2),
        (f"sample M -n 2 --top-k {10**20}", 2),
        ("sample M -n 2 --copies --top-p 1e-308", 2),
        ("sample M -n 2 --seed -5", 2),
        (f"sample M -n 2 --seed {10**30}", 2),
        ("sample M -n 5 -n 2 --seed 1 --seed 2 --copies --copies", 2),
        ("sample M -n 2 --copies --prefix abcdef --max-len 6", 2),
        ("sample M -n 2 --max-len 1", 2),
        ("sample M -n 2 --exclude hebrew.txt --exclude two.txt", 2),
        ("sample M -n 2 --regex (a|a)*.*", 2),
        ("sample F -n 2 --copies --details", 2),
        ("fill M *", 10),
        ("fill M ******", 10),
        ("fill M ______", 10),
        ("score M two.txt --threshold inf --unknown skip", 0),
        ("score M long.txt --unknown skip", 3),
        (f"score E emoji.txt --top {10**12}", 3),
        ("clean two.txt -o -", 2),
        ("clean joiners.txt", 2),
        ("ngram long.txt --order 10 -n 3", 3),
        ("train two.txt -o new --copies --block-size 1 --num-steps 2 --std 0 --batch-size 500", 20),
    ],
)
@pytest.mark.usefixtures("here")
def test_strange_flags_that_can_be(argv: str, lines: int, kamon: Kamon) -> None:
    done = kamon(*argv.split())
    shutil.rmtree("new", ignore_errors=True)
    assert (done.code, len(done.out.splitlines())) == (0, lines), done.err


@pytest.mark.usefixtures("here")
def test_a_prefix_of_unknown_characters(kamon: Kamon) -> None:
    for argv in (["complete", "M", "日" * 400], ["fill", "M", "日a*"]):
        done = kamon(*argv, "--unknown=skip", "--json")
        assert (done.code, len(done.json["documents"])) == (0, 10)
        assert "Unknown to the model: '日' (U+65E5) left out" in done.err
    done = kamon("complete", "M", "À", "--unknown=replace", "--json")
    assert done.json["prefix"] == "a"


@pytest.mark.usefixtures("here")
def test_a_condition_that_nothing_fulfils(kamon: Kamon) -> None:
    done = kamon("sample", "M", "--regex", "[0-9]z+")
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "error: regex '[0-9]z+' is impossible: the model cannot write any such text in 6 "
        "characters\n"
    )
    rare = kamon("sample", "M", "--contains", "aaaaaa")
    assert (rare.code, rare.out) == (0, "aaaaaa\n")


def test_many_candidates_are_not_held_at_once(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made piece by piece, they are the same samples as in one piece."""
    model = package.load(shelf / "M")
    monkeypatch.setattr("kamon.generation.constraints.EASY", 0.0)
    wanted = model.generate(50, regex="[f-j].[k-o]", temperature=1.0)
    assert wanted.num_candidates > 3000
    sizes = []
    real = sample

    def watched(model: Any, request: SampleRequest) -> Any:
        sizes.append(request.n)
        return real(model, request)

    monkeypatch.setattr("kamon.generation.sampling.sample", watched)
    monkeypatch.setattr("kamon.generation.constraints.MAX_BULK_TOKENS", 6 * 1000)
    assert model.generate(50, regex="[f-j].[k-o]", temperature=1.0) == wanted
    assert max(sizes) == 1000


def test_samples_from_a_number_on(shelf: Path) -> None:
    model = package.load(shelf / "M", dtype="float64")
    request = SampleRequest(40, 1.0, 7, model.tokenizer.bos)
    every = model.tokenizer.decode_documents(sample(model.engine, request))
    later = SampleRequest(25, 1.0, 7, model.tokenizer.bos, first=15)
    for how in (sample, sample_one_by_one):
        assert model.tokenizer.decode_documents(how(model.engine, later)) == every[15:]


@pytest.mark.usefixtures("here")
def test_help_that_nobody_asked_for_is_no_result(kamon: Kamon) -> None:
    done = kamon()
    assert (done.code, done.out) == (2, "")
    assert "kamon COMMAND" in done.err


# ---- settings

INTEGERS = ["nan", "inf", "1e400", "1.5", "text", "", str(HUGE), "-1", "0"]
NUMBERS = ["nan", "inf", "-inf", "1e400", "text", "", "-1", "1e-320", "1e30"]
MAY_BE = {
    *(("seed", value) for value in ("-1", "0", str(HUGE))),
    ("warmup_steps", "0"),
    *((name, "1e-320") for name in ("learning_rate", "std", "weight_decay", "beta1", "beta2")),
    *((name, "1e-320") for name in ("min_lr", "grad_clip")),
    ("grad_clip", "1e30"),
    *(("dropout", "1e-320"), ("eps_adam", "1e30"), ("temperature", "1e30")),
    ("temperature", "1e-320"),
}
LEAVES_FLOATS = {(name, "1e30") for name in ("std", "learning_rate", "weight_decay")}


@pytest.mark.parametrize("field", SETTINGS, ids=lambda field: field.name)
@pytest.mark.usefixtures("here")
def test_settings_that_cannot_be(field: Any, kamon: Kamon) -> None:
    flag = f"--{field.name.replace('_', '-')}"
    for value in INTEGERS if field.type is int else NUMBERS:
        done = kamon("train", "two.txt", "-o", "new", *TINY_FLAGS, f"{flag}={value}")
        saved = os.path.exists("new")
        shutil.rmtree("new", ignore_errors=True)
        assert saved == (done.code == 0)
        if (field.name, value) in MAY_BE:
            assert done.code == 0, (value, done.err)
        elif (field.name, value) == ("mode", "text"):
            assert_refused(done, 1, "two.txt has")
        elif (field.name, value) in LEAVES_FLOATS or (field.name, value) == ("eps_adam", "1e-320"):
            assert done.code in (0, 1)
            if done.code:
                assert_refused(done, 1, "training diverged at step")
        else:
            wanted = flag if value in ("text", "") or field.metadata["choices"] else field.name
            if field.type is int and value in ("nan", "inf", "1e400", "1.5"):
                wanted = flag
            assert_refused(done, 2, wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"n_layr = 2", "unknown setting 'n_layr' in c.toml\nhint: did you mean 'n_layer'?"),
        (b"budget = '1s'", "unknown setting 'budget' in c.toml"),
        (b"n_layer = '2'", "c.toml: n_layer must be a whole number, not '2'"),
        (b"n_layer = true", "c.toml: n_layer must be a whole number, not True"),
        (b"n_layer = 1.0", "c.toml: n_layer must be a whole number, not 1.0"),
        (b"n_layer = nan", "c.toml: n_layer must be a whole number, not nan"),
        (b"n_layer = 1979-05-27", "c.toml: n_layer must be a whole number"),
        (b"[n_layer]\na = 1", "c.toml: n_layer must be a whole number, not {'a': 1}"),
        (b"n_layer = " + b"[1," * 300 + b"]" * 300, "c.toml: n_layer must be a whole number"),
        (b"n_layer = '" + b"x" * 9999 + b"'", "c.toml: n_layer must be a whole number"),
        (b"schedule = ['linear']", "c.toml: schedule must be linear or cosine"),
        (b"std = nan", "std must be 0 or more and finite, not nan"),
        (b"n_layer = 0", "n_layer must be 1 or more, not 0"),
        (b"n_layer = 1\nn_layer = 2", "c.toml is not valid TOML: Cannot overwrite"),
        (b"[a]\n[a]", "c.toml is not valid TOML: "),
        (b"a.b = 1", "unknown setting 'a' in c.toml"),
        (b"x" * 9999, "c.toml is not valid TOML: "),
        (b"n_layer = 1" + b"0" * 5000, "c.toml is not valid TOML: a number has too many digits"),
        (b"n_layer = " + b"[" * 99_999, "c.toml is not valid TOML: it is nested too deeply"),
        (b'"n\\u001b" = 2', r"unknown setting 'n\x1b' in c.toml"),
        (b"vocab_size = 3", "vocab_size in c.toml cannot be set"),
        (b"\xff\xfe", "c.toml is not UTF-8 text"),
        (b"\0", "c.toml is not valid TOML"),
    ],
)
def test_settings_in_a_file_that_cannot_be(
    text: bytes, message: str, tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.toml").write_bytes(text)
    Path("two.txt").write_text("ab\nba\n")
    assert_refused(kamon("train", "two.txt", "-o", "new", "--config", "c.toml"), 2, message)
    assert sorted(os.listdir()) == ["c.toml", "two.txt"]


def test_a_flag_may_mend_what_does_not_fit_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("n_embd = 6\n")
    assert read_settings(tmp_path / "c.toml") == {"n_embd": 6}


# ---- memory

FREE = 8e9


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--n-embd=100000 --n-layer=1000", "n_embd than 100000"),
        ("--n-embd=2147483644", "n_embd than 2147483644"),
        ("--n-layer=2147483647", "n_layer than 2147483647"),
        ("--n-layer=10000000 --n-embd=4", "n_layer than 10000000"),
        ("--block-size=2147483647", "block_size than 2147483647"),
        ("--batch-size=2147483647", "batch_size than 2147483647"),
        ("--n-embd=2000 --engine=scalar", "n_embd than 2000"),
    ],
)
@pytest.mark.parametrize("verb", ["train", "reproduce"])
@pytest.mark.usefixtures("here")
def test_models_too_large_for_the_machine(
    flags: str, named: str, verb: str, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available", lambda: FREE)
    done = kamon(*reading(verb, "two.txt"), "--num-steps=1", "--n-head=1", *flags.split())
    assert_refused(done, 2, f" GB are free\nhint: use a smaller {named}")
    assert re.search(r" needs [\d,]+\.\d GB of memory, and only 8\.0 GB are free\n", done.err)


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="no /proc on this system")
def test_the_memory_that_there_is() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 1e6 < memory.available() < 3 * whole


def test_memory_is_refused_above_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available", lambda: FREE)
    memory.check_memory(FREE, "this", "ask for less")
    with pytest.raises(ConfigError) as caught:
        memory.check_memory(2 * FREE, "this", "ask for less")
    assert str(caught.value) == (
        "this needs 16.0 GB of memory, and only 8.0 GB are free\nhint: ask for less"
    )
    monkeypatch.setattr(memory, "available", lambda: math.inf)
    memory.check_memory(1e30, "this", "ask for less")


def test_each_setting_counts_in_the_memory() -> None:
    names = ("n_layer", "n_embd", "n_head", "block_size", "vocab_size", "batch_size")
    sizes = dict.fromkeys(names, 64) | {"dropout": 0}
    for engine in ("native", "scalar", "torch"):
        how = {"engine": engine, "real": 4, "threads": 2, "longest": 500, "held_out": 9}

        def needed(sizes: dict[str, int], how: dict[str, Any] = how) -> float:
            return memory.training_bytes(sizes, **how)

        for name in names:
            if engine == "native" or name != "n_head":
                assert needed(sizes | {name: 128}) > needed(sizes)
        assert needed(sizes | {"block_size": 10**6}) > needed(sizes | {"block_size": 500})


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc on this system")
def test_the_memory_that_is_said_is_what_is_taken() -> None:
    """Within a factor of two, of the largest that was held at once."""
    code = (
        "import re, kamon\n"
        "status = lambda: open('/proc/self/status').read()\n"
        "peak = lambda: 1024 * int(re.search(r'VmHWM:\\s+(\\d+)', status())[1])\n"
        "docs = [a + b + c for a in 'abcdefgh' for b in 'fghij' for c in 'klmno']\n"
        "kamon.train(docs, num_steps=1, n_embd=4); before = peak()\n"
        "model = kamon.train(docs, num_steps=1, n_embd=512, n_layer=2, std=0.01, "
        "learning_rate=1e-4, dtype={!r})\n"
        "print(peak() - before)"
    )
    for dtype, real in (("float32", 4), ("float64", 8)):
        argv = [sys.executable, "-c", code.format(dtype)]
        taken = float(subprocess.run(argv, capture_output=True, check=True, text=True).stdout)
        config = Config(n_embd=512, n_layer=2, vocab_size=16)
        said = memory.training_bytes(
            vars(config), engine="native", real=real, threads=1, longest=3, held_out=12
        )
        assert 0.5 < said / taken < 2


# ---- models

LOADERS = {
    "sample": [],
    "complete": [],
    "fill": ["a_"],
    "score": ["two.txt"],
    "eval": [],
    "plot": ["--json"],
    "export": ["-o", "new.py"],
    "sft": ["instructions", "-o", "new"],
    "dpo": ["common", "-o", "new"],
    "reward": ["common", "-o", "new"],
    "ppo": ["--prefer=len<3", "-o", "new"],
    "rate": ["-o", "new"],
    "inspect": [],
    "compare": ["M"],
    "serve": ["--no-browser"],
}


@pytest.mark.parametrize("verb", LOADERS)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no model at none\nhint: train one with `kamon train LIST -o none`"),
        ("two.txt", "two.txt is a file, not a model directory"),
        ("void", "no model in void"),
        ("other", "no model in other"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.usefixtures("here")
def test_models_that_are_none(verb: str, name: str, message: str, kamon: Kamon) -> None:
    assert_refused(kamon(verb, name, *LOADERS[verb]), 1, message)


@pytest.mark.parametrize("verb", [*LOADERS, "tokenizer show"])
@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_damaged_models(verb: str, name: str, shelf: Path, tmp_path: Path, kamon: Kamon) -> None:
    shutil.copytree(shelf / "M", tmp_path / "m")
    (tmp_path / "two.txt").write_text("ab\n")
    path = model_dir.newest_checkpoint_dir(tmp_path / "m") / name
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 0x80]) + whole[middle + 1 :]
    more = LOADERS.get(verb, ["ab"])
    more = [str(tmp_path / word) if word == "two.txt" else word for word in more]
    for content in (whole[:-1], whole[:middle], b"", flipped, None, 0):
        path.unlink(missing_ok=True)
        if content == 0:
            path.mkdir()
        elif content is not None:
            path.write_bytes(content)
        if name == MANIFEST and content == whole[:-1]:
            continue  # without its last line end, it is as good
        assert_refused(kamon(*verb.split(), tmp_path / "m", *more), 1, name)


@pytest.mark.parametrize(
    "change",
    [
        {"n_layer": 2**31 - 1},
        {"n_layer": 10**7, "n_embd": 4},
        {"n_embd": 2**31 - 2},
        {"block_size": 2**31 - 1},
        {"vocab_size": 2**31 - 1},
        {"n_layer": "1"},
        {"n_layer": None},
        {"seed": 1e400},
        {"extra": 1},
    ],
)
def test_a_model_that_claims_to_be_huge(
    change: dict[str, Any], shelf: Path, tmp_path: Path, kamon: Kamon
) -> None:
    """Its hashes are right: what it says is not."""
    import hashlib

    shutil.copytree(shelf / "M", tmp_path / "m")
    folder = model_dir.newest_checkpoint_dir(tmp_path / "m")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    manifest = json.loads((folder / MANIFEST).read_text())
    content = config.read_bytes()
    entry = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"]["config.json"] = entry
    (folder / MANIFEST).write_text(json.dumps(manifest))
    done = kamon("inspect", tmp_path / "m")
    assert (done.code, done.out) == (1, "")
    assert " cannot be used: " in done.err or "are enough" in done.err


READ_ONLY = ["sample", "complete", "fill", "score", "eval", "plot", "inspect", "compare"]


@pytest.mark.parametrize("verb", READ_ONLY)
@pytest.mark.parametrize("model", ["E", "F"])
@pytest.mark.usefixtures("here")
def test_json_is_json(verb: str, model: str, kamon: Kamon) -> None:
    """One object a line, without NaN and the like, of strange characters and of extreme odds."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    names = {"sample": ["--nearest"], "fill": ["_*"], "score": ["emoji.txt"], "eval": ["emoji.txt"]}
    more = names.get(verb, ["M"] if verb == "compare" else [])
    if model == "F" and more[:1] == ["emoji.txt"]:
        Path("new.txt").write_text("anan\nroro\nanora\n")
        more = ["new.txt"]
    elif verb == "eval":
        more = ["new.txt"]
        Path("new.txt").write_text("👨👩\n\u0301a\n", encoding="utf-8")
    done = kamon(verb, model, *more, "--json")
    Path("new.txt").unlink(missing_ok=True)
    if done.code == 1 and verb == "eval":
        assert_refused(done, 1, "the probabilities of the model are not finite")
        return
    assert done.code == 0, done.err
    for line in done.out.splitlines():
        assert isinstance(json.loads(line, parse_constant=refuse), dict)
        assert line.isascii()
    assert len(done.out.splitlines()) == (3 if verb == "score" else 1)


def test_odds_that_are_no_numbers_are_null(shelf: Path, tmp_path: Path, kamon: Kamon) -> None:
    (tmp_path / "x.txt").write_text("anan\nroro\nanora\nrrrr\noooo\n")
    done = kamon("score", shelf / "F", tmp_path / "x.txt", "--json", "--dtype=float64")
    found = [json.loads(line)["logprob"] for line in done.out.splitlines()]
    assert None in found
    assert all(logprob is None or math.isfinite(logprob) for logprob in found)


def test_held_out_documents_without_any_probability(tmp_path: Path, kamon: Kamon) -> None:
    (tmp_path / "x.txt").write_text(
        "".join(f"{a}{b}{c}\n" for a in "abcde" for b in "fghij" for c in "klmno")
    )
    argv = ["train", tmp_path / "x.txt", "-o", tmp_path / "m", "--num-steps=1", "--dtype=float64"]
    done = kamon(*argv, "--learning-rate=100")
    assert_refused(
        done,
        1,
        "the model gives the validation set a probability of 0\n"
        "hint: try a learning_rate below 100, or a smaller std",
    )
    assert os.listdir(tmp_path) == ["x.txt"]


@pytest.mark.skipif(not Path(FULL).exists(), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "argv", ["inspect M --json", "clean two.txt", "score M two.txt --unknown=skip"]
)
@pytest.mark.usefixtures("here")
def test_a_full_disk_behind_standard_output(argv: str, process: Process) -> None:
    if argv.startswith("score"):
        Path("x.txt").write_text("abc\n")
        argv = "score E emoji.txt"
        Path("x.txt").unlink()
    with open(FULL, "w") as full:
        running = process(*argv.split(), stdout=full)
        _, err = running.communicate(timeout=LIMIT)
    assert running.returncode == 1
    assert err.splitlines()[-1] == "error: No space left on device"
    assert "Traceback" not in err


# ---- Python

NAMES = ["anna", "hanna", "johanna", "nora", "eleonora"]


def breaking() -> Iterator[str]:
    yield "anna"
    raise RuntimeError("mine")


TRAIN: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (None, {}, TypeError, "not iterable"),
    (3, {}, TypeError, "not iterable"),
    (b"anna", {}, CorpusError, "document 1 is not a string but 97"),
    ([], {}, CorpusError, "a list in memory is empty"),
    ("", {}, CorpusError, "the file name is empty"),
    ([""], {}, CorpusError, "has only blank lines"),
    (["a", None], {}, CorpusError, "document 2 is not a string but None"),
    ([b"a", b"b"], {}, CorpusError, "document 1 is not a string but b'a'"),
    (["a\0"], {}, CorpusError, "document 1 has a NUL at character 2"),
    (["\ud800"], {}, CorpusError, "a lone surrogate (U+D800) at character 1"),
    (["a"], {}, CorpusError, "has only one entry"),
    (Path("none"), {}, CorpusError, "no file none"),
    (Path(), {}, CorpusError, "is a directory"),
    (breaking(), {}, RuntimeError, "mine"),
    (NAMES, {"engine": "gpu"}, ConfigError, "unknown engine 'gpu'"),
    (NAMES, {"dtype": "int8"}, ConfigError, "unknown dtype 'int8'"),
    (NAMES, {"device": "tpu"}, ConfigError, "unknown device 'tpu'"),
    (
        NAMES,
        {"engine": "native", "device": "mps"},
        ConfigError,
        "device mps needs the torch engine",
    ),
    (NAMES, {"engine": "native", "compile": True}, ConfigError, "compile needs the torch engine"),
    (NAMES, {"threads": 0}, ConfigError, "threads must be from 1 to 1,024, not 0"),
    (NAMES, {"threads": True}, ConfigError, "threads must be a whole number, not True"),
    (NAMES, {"threads": "2"}, ConfigError, "threads must be a whole number, not '2'"),
    (NAMES, {"threads": 1.5}, ConfigError, "threads must be a whole number, not 1.5"),
    (NAMES, {"threads": np.True_}, ConfigError, "threads must be a whole number"),
    (NAMES, {"column": "x"}, ConfigError, "column, format and header need a file"),
    (NAMES, {"budget": True}, ConfigError, "budget must be a number, not True"),
    (NAMES, {"budget": b"1s"}, ConfigError, "budget must be a number, not b'1s'"),
    (NAMES, {"budget": []}, ConfigError, "budget must be a number, not []"),
    (NAMES, {"budget": math.nan}, ConfigError, "must be a time"),
    (NAMES, {"size": 3}, ConfigError, "unknown size 3"),
    (NAMES, {"num_steps": "3"}, ConfigError, "num_steps must be a whole number, not '3'"),
    (NAMES, {"num_steps": 1.0}, ConfigError, "num_steps must be a whole number, not 1.0"),
    (NAMES, {"num_steps": True}, ConfigError, "num_steps must be a whole number, not True"),
    (NAMES, {"num_steps": np.float64(3)}, ConfigError, "num_steps must be a whole number"),
    (NAMES, {"learning_rate": "0.1"}, ConfigError, "learning_rate must be a number, not '0.1'"),
    (NAMES, {"learning_rate": np.True_}, ConfigError, "learning_rate must be a number"),
    (NAMES, {"mode": np.array(["text", "x"])}, ConfigError, "mode must be documents or text"),
    (NAMES, {"n_embd": HUGE}, ConfigError, "n_embd must be below 2**31"),
    (NAMES, {"warmup_steps": HUGE}, ConfigError, "warmup_steps must be below 2**31"),
    (NAMES, {"learning_rate": 10**400}, ConfigError, "learning_rate is too large for a float"),
    (NAMES, {"seed": None}, ConfigError, "seed must be a whole number, not None"),
    (NAMES, {"schedule": b"linear"}, ConfigError, "schedule must be linear or cosine"),
    (NAMES, {"vocab_size": 3}, ConfigError, "vocab_size can be set only for a new BPE tokenizer"),
    (NAMES, {"foo": 1}, ConfigError, "unknown setting 'foo'"),
]


@pytest.mark.parametrize(("docs", "more", "error", "message"), TRAIN)
def test_train_refuses(docs: Any, more: dict[str, Any], error: Any, message: str) -> None:
    with pytest.raises(error) as caught:
        package.train(docs, **more)
    assert message in str(caught.value)
    assert "\n" not in getattr(caught.value, "message", str(caught.value))


@pytest.fixture(scope="module")
def model(shelf: Path) -> package.Model:
    return package.load(shelf / "M")


Ask = Callable[[Any], object]
ASK: list[tuple[Ask, type[Exception], str]] = [
    (lambda _: package.load(None), TypeError, "os.PathLike"),  # type: ignore[arg-type]
    (lambda _: package.load("none"), StoreError, "no model at none"),
    (lambda m: m.save(""), StoreError, "an empty name is the current directory"),
    (lambda m: m.save(None), TypeError, "os.PathLike"),
    (lambda m: m.sample(None), ConfigError, "must be a whole number, not None"),
    (lambda m: m.sample("3"), ConfigError, "must be a whole number, not '3'"),
    (lambda m: m.sample(True), ConfigError, "must be a whole number, not True"),
    (lambda m: m.sample(-1), ConfigError, "the number of samples must be 0 or more, not -1"),
    (lambda m: m.sample(HUGE), ConfigError, "ask for fewer at a time"),
    (lambda m: m.sample(HUGE, novel=True), ConfigError, "ask for fewer at a time"),
    (lambda m: m.sample(2, temperature="1"), ConfigError, "temperature must be a number"),
    (lambda m: m.sample(2, seed=1.5), ConfigError, "seed must be a whole number"),
    (lambda m: m.sample(2, prefix=b"a"), ConfigError, "prefix must be a string, not b'a'"),
    (lambda m: m.sample(2, regex=3), ConfigError, "regex must be a string, not 3"),
    (lambda m: m.sample(2, max_len="1"), ConfigError, "max_len must be a whole number"),
    (lambda m: m.sample(2, top_p=True), ConfigError, "top_p must be a number"),
    (lambda m: m.sample(2, exclude="anna"), ConfigError, "a collection of documents, not"),
    (lambda m: m.sample(2, exclude=b"anna"), ConfigError, "must be a string, not 97"),
    (lambda m: m.sample(2, exclude=["a", 3]), ConfigError, "must be a string, not 3"),
    (lambda m: m.sample(2, exclude=[["a"]]), ConfigError, "must be a string, not ['a']"),
    (lambda m: m.sample(2, exclude=None), TypeError, "not iterable"),
    (lambda m: m.sample(2, exclude=breaking()), RuntimeError, "mine"),
    (lambda m: m.sample(2, foo=1), ConfigError, "unknown condition 'foo'"),
    (lambda m: m.sample(2, prompt=3), ConfigError, "prompt must be a string, not 3"),
    (lambda m: m.sample(2, prompt="a"), ConfigError, "the model does not follow prompts"),
    (
        lambda m: list(score.score(m, "anna")),
        ConfigError,
        "score takes a list of texts, not one text",
    ),
    (
        lambda m: score.score_list(m.engine, m.tokenizer, "a"),
        ConfigError,
        "score takes a list of texts",
    ),
    (lambda m: list(score.score(m, [b"a"])), ConfigError, "text 1 must be a string, not b'a'"),
    (lambda _: package.train(["a", "b"], tokenizer=3), ConfigError, "a tokenizer, not 3"),  # type: ignore[arg-type]
    (lambda _: package.resume(None), TypeError, "os.PathLike"),  # type: ignore[arg-type]
    (lambda m: list(score.score(m, None)), TypeError, "not iterable"),
    (lambda m: list(score.score(m, breaking())), RuntimeError, "mine"),
    (lambda m: list(score.score(m, ["\ud800"])), KamonError, r"'\ud800'"),
    (lambda m: list(score.score(m, ["a"], unknown="x")), ConfigError, "unknown must be one of"),
    (
        lambda m: completion.next_tokens(m, None),
        ConfigError,
        "prefix must be a string, not None",
    ),
    (lambda m: completion.next_tokens(m, ["a"]), ConfigError, "the prefix must be a string"),
    (lambda m: completion.complete(m, b"a"), ConfigError, "the prefix must be a string, not b'a'"),
    (lambda m: completion.complete(m, "a", True), ConfigError, "n must be a whole number"),
    (lambda m: completion.complete(m, "a", 0), ConfigError, "n must be from 1 to 10,000"),
    (lambda m: completion.fill(m, b"a"), ConfigError, "97 is neither"),
    (lambda m: completion.fill(m, [None]), ConfigError, "None is neither"),
    (lambda m: completion.fill(m, ["ab"]), ConfigError, "'ab' is neither"),
    (lambda m: completion.fill(m, 3), TypeError, "not iterable"),
    (lambda m: completion.fill(m, "a", effort="1"), ConfigError, "effort must be a number"),
    (lambda m: evaluate.evaluate(m, 3), TypeError, "not iterable"),
    (lambda m: evaluate.evaluate(m, b"x"), CorpusError, "document 1 is not a string but 120"),
    (lambda m: evaluate.evaluate(m, ["a", 3]), CorpusError, "document 2 is not a string but 3"),
    (lambda m: evaluate.evaluate(m, breaking()), RuntimeError, "mine"),
    (lambda m: evaluate.evaluate(m, n="3"), ConfigError, "must be a whole number"),
    (lambda m: evaluate.evaluate(m, n=None), ConfigError, "must be a whole number"),
    (lambda m: evaluate.evaluate(m, n=0, temperature="1"), ConfigError, "temperature must be"),
    (lambda m: evaluate.evaluate(m, n=0, seed="1"), ConfigError, "seed must be a whole number"),
    (
        lambda _: cleaning.clean("anna"),
        ConfigError,
        "clean needs a list of documents, not one string",
    ),
    (lambda _: cleaning.clean(["a", 3]), ConfigError, "must be a string, not 3"),  # type: ignore[list-item]
    (lambda _: cleaning.clean(breaking()), RuntimeError, "mine"),
    (lambda _: cleaning.Options(min_len="1"), ConfigError, "min_len must be a whole number"),  # type: ignore[arg-type]
    (lambda _: cleaning.Options(near=80.5), ConfigError, "near must be a whole number"),  # type: ignore[arg-type]
    (lambda _: cleaning.Options(keep_regex=3), ConfigError, "keep_regex must be a string"),  # type: ignore[arg-type]
    (lambda _: cleaning.Options(scripts="Latin"), ConfigError, "not one string"),  # type: ignore[arg-type]
    (lambda m: export.export(m, "gguf"), ConfigError, "unknown format 'gguf'"),
    (lambda m: export.export(m, None), ConfigError, "unknown format None"),
    (lambda m: introspection.attention(m, 3), ConfigError, "the text must be a string, not 3"),
    (lambda m: introspection.attention(m, ""), ConfigError, "the text is empty"),
    (lambda m: introspection.lengths(m, 0), ConfigError, "n must be 1 or more, not 0"),
    (lambda _: corpus.read(None), TypeError, "os.PathLike"),  # type: ignore[arg-type]
    (lambda _: Config(n_layer=None), ConfigError, "n_layer must be a whole number"),  # type: ignore[arg-type]
    (lambda _: Config(schedule="x" * 9999), ConfigError, "schedule must be linear or cosine"),
    (lambda _: make_engine("native", Config(), threads=HUGE), ConfigError, "threads must be from"),
]


@pytest.mark.parametrize(("ask", "error", "message"), ASK)
def test_python_refuses(ask: Ask, error: Any, message: str, model: package.Model) -> None:
    with pytest.raises(error) as caught:
        ask(model)
    assert message in str(caught.value)
    assert len(str(caught.value)) < LONGEST
    assert "\n" not in getattr(caught.value, "message", str(caught.value))


def test_what_python_may_give(tmp_path: Path) -> None:
    class Whole(int):
        pass

    model = package.train(iter(["ab", "ba"]), num_steps=Whole(2), seed=-(10**20))
    assert model.sample(Whole(2), seed=Whole(1)) == model.sample(2, seed=1)
    assert list(package.train({"ab": 1, "ba": 2}, num_steps=1).docs) == ["ab", "ba"]
    assert list(package.train({"ba", "ab"}, num_steps=1).docs) == ["ab", "ba"]
    (tmp_path / "x.txt").write_text("ab\nba\n")
    assert list(package.train(tmp_path / "x.txt", num_steps=1).docs) == ["ab", "ba"]
    assert model.sample(1, exclude=iter(["ab"])) == model.sample(1, exclude={"ab": 1})


def test_a_model_without_odds_says_so(shelf: Path) -> None:
    model = package.load(shelf / "F", dtype="float64")
    with pytest.raises(TrainingError, match="are not finite"):
        evaluate.evaluate(model, ["rrrr", "oooo"], n=0)
