"""Packing: every format, the same bits whoever does it, after a kill too, and what is refused."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unicodedata import category, normalize

import pytest
import zstandard

import kamon as package
from conftest import Result
from kamon.data import corpus, readers
from kamon.data.split import divide, key, keys_of_part, split
from kamon.errors import ConfigError, CorpusError, StoreError
from kamon.packing import inputs, pack, plan, worker
from kamon.packing.plan import PackOptions
from kamon.packing.shards import MANIFEST, open_shards
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer

Kamon = Callable[..., Result]
Process = Callable[..., subprocess.Popen[str]]

RNG = random.Random(3)
WORDS = ["".join(RNG.choices("abcdefgh", k=RNG.randint(1, 8))) for _ in range(300)]
LINES = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 12))) for _ in range(500)]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, in which units are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "MIN_UNIT_BYTES", 1000)
    monkeypatch.setattr(os, "fsync", lambda _: None)  # no power cut is tried here
    return tmp_path


def docs_of(path: str, name: str) -> list[str]:
    shards = open_shards(path)
    found = (shards.document(name, number) for number in range(shards.num_docs(name)))
    return [shards.tokenizer.decode(doc[1:-1]) for doc in found]


def both(path: str = "s") -> tuple[list[str], list[str]]:
    return docs_of(path, "train"), docs_of(path, "held_out")


def divided(docs: list[str]) -> tuple[list[str], list[str]]:
    """As `split` divides the list; documents that are repeated stay."""
    held_out = keys_of_part(map(key, docs))
    found = [d for d in docs if key(d) not in held_out], [d for d in docs if key(d) in held_out]
    assert [list(dict.fromkeys(part)) for part in found] == list(map(list, split(docs)))
    return found


def bits(path: str | Path = "s") -> dict[str, bytes]:
    return {each.name: each.read_bytes() for each in Path(path).iterdir() if each.name != "lock"}


# ---- formats

AS_TEXT = "\ufeff" + "\r\n".join(["", *LINES, "  spaces\t", "é\r東京", ""])
TEXT_DOCS = [*LINES, "spaces", "é", "東京"]
AS_JSONL = "\n".join([*(json.dumps({"text": line}) for line in LINES), "", '{"text": " a\\nb "}'])
AS_CSV = "id,text\n" + "".join(f'{n},"{line}"\n' for n, line in enumerate(LINES)) + '9," a\nb "\n'
AS_TSV = "id\ttext\n" + "".join(f"{n}\t{line}\n" for n, line in enumerate(LINES)) + '9\t"a b"\n'
FILES = {
    "a.txt": (AS_TEXT.encode(), TEXT_DOCS),
    "a.jsonl": (AS_JSONL.encode(), [*LINES, "a\nb"]),
    "a.csv": (AS_CSV.encode(), [*LINES, "a\nb"]),
    "a.tsv": (AS_TSV.encode(), [*LINES, '"a b"']),
    "a.json": (json.dumps([*LINES, {"text": " a\nb "}], indent=1).encode(), [*LINES, "a\nb"]),
}


def squeezed(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": squeezed,
    ".zst": zstandard.compress,
    ".GZ": lambda content: squeezed(content[:999]) + squeezed(content[999:]),
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".Zst": lambda content: zstandard.compress(content[:999]) + zstandard.compress(content[999:]),
}


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("name", FILES)
def test_every_format_comes_back(name: str, ending: str) -> None:
    content, docs = FILES[name]
    Path(name + ending).write_bytes(PACKED[ending](content))
    found = pack.pack([name + ending], "s", PackOptions(column=None if "txt" in name else "text"))
    assert both() == divided(docs)
    assert (found.num_units > 5) == (name in ("a.txt", "a.jsonl") and not ending)
    if not ending:
        Path("plain.txt").write_bytes(content)
        read = corpus.read(name, column=None if "txt" in name else "text")
        assert list(read.docs) == docs


@pytest.mark.parametrize("ending", PACKED)
@pytest.mark.parametrize("separator", [";", "\t"])
def test_cells_are_separated_as_training_reads_them(
    separator: str, ending: str, kamon: Kamon
) -> None:
    content = AS_CSV.replace(",", separator).encode()
    Path(f"a.csv{ending}").write_bytes(PACKED[ending](content))
    done = kamon("pack", f"a.csv{ending}", "-o", "s", "--column=text", "--jobs=1")
    assert both() == divided([*LINES, "a\nb"])
    name = "semicolons" if separator == ";" else "tabs"
    assert f"1 table: has cells separated by {name}" in done.err
    Path("b.csv").write_bytes(content)
    assert list(corpus.read("b.csv", column="text").docs) == [*LINES, "a\nb"]


TABLES = [
    ('"sep=^"\nid^name\n1^anna\n2^bo\n3^cid\n', "name", True),
    ("Names\n\nid;name\n1;anna\n2;bo\n3;cid\n", "name", True),
    ("# made by hand\n1|anna\n2|bo\n3|cid\n", "2", False),
    ("1,anna\n2,bo\n3,cid\n", "2", True),
    ('name\nanna\n"bo"\ncid\n', None, True),
    ('name\nanna\n"bo"\ncid\n', None, False),
    ('n,name\n1,"an""na\nb, c"\n2,bo\n\n3,\n', "name", True),
]


@pytest.mark.parametrize(("content", "column", "header"), TABLES)
def test_a_table_is_packed_as_it_is_read(
    content: str, column: str | None, header: bool, kamon: Kamon
) -> None:
    Path("a.csv").write_text(content)
    flags = [] if column is None else [f"--column={column}"]
    flags += [] if header else ["--no-header"]
    done = kamon("pack", "a.csv", "-o", "s", "--no-holdout", "--jobs=1", *flags)
    assert done.code == 0, done.err
    read = corpus.read("a.csv", column=column, header=header)
    assert docs_of("s", "train") == list(read.docs)
    for note in read.note.splitlines():
        assert f"1 table: {note}" in done.err or "of several lines" in note


def test_no_header_needs_a_table(kamon: Kamon) -> None:
    Path("a.txt").write_text("anna\n")
    done = kamon("pack", "a.txt", "-o", "s", "--no-header")
    assert (done.code, "leave out --no-header" in done.err) == (2, True)


@pytest.mark.parametrize("ending", PACKED)
def test_utf_16_is_packed_whole(ending: str) -> None:
    Path(f"a.txt{ending}").write_bytes(PACKED[ending](AS_TEXT.encode("utf-16-le")))
    found = pack.pack([f"a.txt{ending}"], "s")
    assert both() == divided(TEXT_DOCS)
    assert found.num_units == 1


def test_a_block_that_unpacks_to_nothing_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "COMPRESSED_BLOCK", 1)
    Path("a.txt.zst").write_bytes(b"".join(zstandard.compress(c) for c in (b"a\xc3", b"\xa9\nb")))
    pack.pack(["a.txt.zst"], "s", PackOptions(hold_out=False))
    assert docs_of("s", "train") == ["aé", "b"]


def test_the_manifest_says_what_there_is() -> None:
    Path("f").mkdir()
    Path("f/a.txt").write_bytes(AS_TEXT.encode())
    Path("f/b.txt").write_bytes(b" \n\n")
    pack.pack(["f"], "s", PackOptions(shard_tokens=500))
    found = json.loads(Path("s", MANIFEST).read_bytes())
    for name, docs in zip(("train", "held_out"), divided(TEXT_DOCS), strict=True):
        total = found["totals"][name]
        assert total["num_docs"] == len(docs)
        shards = [shard for shard in found["shards"] if shard["part"] == name]
        assert total["num_shards"] == len(shards)
        assert total["num_tokens"] == sum(len(doc) + 1 for doc in docs) + len(shards)
    assert (found["bytes_a_token"], found["mode"]) == (2, "documents")
    one, other = found["inputs"]
    there = Path("f/a.txt").stat()
    assert (one["path"], one["size"]) == ("f/a.txt", there.st_size)
    assert one["mtime_ns"] == there.st_mtime_ns
    assert sorted(one["shards"]) == sorted(shard["tokens"]["name"] for shard in found["shards"])
    assert other["shards"] == [] or other["shards"] == one["shards"][-len(other["shards"]) :]
    assert set(os.listdir("s")) - {"lock"} == {
        MANIFEST,
        "tokenizer.json",
        *(shard[kind]["name"] for shard in found["shards"] for kind in ("tokens", "offsets")),
    }


def test_a_shard_ends_with_the_document_that_fills_it() -> None:
    docs = ["a" * n for n in (3, 4, 1, 20, 2, 2, 3)]
    Path("a.txt.gz").write_bytes(squeezed("\n".join(docs).encode()))  # is not cut
    for most, expected in [(9, [2, 2, 3]), (10, [3, 1, 3]), (1, [1] * 7), (10**9, [7])]:
        pack.pack(["a.txt.gz"], "s", PackOptions(shard_tokens=most, hold_out=False), overwrite=True)
        assert [shard.num_docs for shard in open_shards("s").manifest.shards] == expected
        assert both() == (docs, [])


@pytest.mark.parametrize("vocab_size", [65_535, 65_536, 65_537])
def test_as_many_bytes_a_token_as_the_vocabulary_needs(
    vocab_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MIN_UNIT_BYTES", 1 << 20)
    codes = [*range(32, 0xD800), *range(0xE000, 0x20000)]
    chars = [chr(code) for code in codes if not chr(code).isspace() and chr(code) not in "\x1c\x85"]
    # NFC changes none of them, and none of two that stand side by side.
    chars = [
        char for char in chars if category(char)[0] != "M" and not "\u1100" <= char <= "\u11ff"
    ]
    chars = [char for char in chars if normalize("NFC", char) == char]
    text = "".join(chars[: vocab_size - 1])
    Path("a.txt").write_text("\n".join(text[i : i + 999] for i in range(0, len(text), 999)))
    pack.pack(["a.txt"], "s", PackOptions(hold_out=False))
    shards = open_shards("s")
    assert shards.tokenizer.vocab_size == vocab_size
    assert shards.manifest.bytes_a_token == (2 if vocab_size <= 65_536 else 4)
    assert "".join(both()[0]) == text


# ---- text


def whole(docs: list[str]) -> tuple[list[str], list[str]]:
    learned, held_out = divide(docs, mode="text")
    return list(learned), list(held_out)


@pytest.mark.parametrize("ending", PACKED)
def test_a_text_is_one_document_and_its_end_is_held_out(ending: str) -> None:
    Path("a.txt" + ending).write_bytes(PACKED[ending](AS_TEXT.encode()))
    Path("b.txt").write_text("short")
    Path("c.jsonl").write_text('{"text": " a\\r\\nb "}\n{"text": " "}\n{"text": "0123456789"}\n')
    Path("d.txt").write_text(" \n")
    pack.pack(["a.txt" + ending, "b.txt", "c.jsonl", "d.txt"], "s", PackOptions(mode="text"))
    text = AS_TEXT.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    assert both() == whole([text, "short", " a\nb ", "0123456789"])
    pack.pack(["b.txt"], "t", PackOptions(mode="text", hold_out=False))
    assert both("t") == (["short"], [])


@pytest.mark.parametrize("num", [99, 100])
def test_of_many_texts_whole_ones_are_held_out(num: int) -> None:
    Path("f").mkdir()
    docs = [f"{line} no {n:03}\n" for n, line in enumerate(LINES[:num])]
    for n, doc in enumerate(docs[:-50]):
        Path("f", f"{n:03}.txt").write_text(doc)
    Path("f", "last.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in docs[-50:]))
    pack.pack(["f"], "s", PackOptions(mode="text"))
    assert both() == (divided(docs) if num == 100 else whole(docs))


@pytest.mark.slow
@pytest.mark.parametrize("tokenizer", ["char", "bpe"])
def test_one_huge_line(tokenizer: str, kamon: Kamon) -> None:
    text = " ".join(LINES) * 30 + "東" * (1 << 20) + "\n" * 100 + "1234567 " * 9
    Path("a.txt").write_text(text)
    pack.pack(["a.txt"], "s", PackOptions(mode="text", tokenizer=tokenizer, shard_tokens=1000))
    assert both() == whole([text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "MAX_LINE", 10_000)
        done = kamon("pack", "a.txt", "-o", "t", "--jobs=1")
    assert done.code == 1
    assert "a.txt, line 1 has more than 10,000 characters" in done.err
    assert not Path("t").exists()


# ---- tokenizers


def test_byte_pairs_are_those_of_the_whole_documents() -> None:
    Path("a.txt").write_text("\n".join(LINES))
    for mode in ("documents", "text"):
        pack.pack(["a.txt"], mode, PackOptions(mode=mode, tokenizer="bpe", vocab_size=300))
        shards = open_shards(mode)
        assert isinstance(shards.tokenizer, BytePairTokenizer)
        assert 257 < shards.tokenizer.vocab_size <= 300
        docs = both(mode)
        for name, texts in zip(("train", "held_out"), docs, strict=True):
            for number, text in enumerate(texts):
                found = shards.document(name, number)
                assert list(found) == shards.tokenizer.encode_document(text)
        assert docs == (divided(LINES) if mode == "documents" else whole(["\n".join(LINES)]))


def test_parts_of_a_text_have_the_tokens_of_the_whole() -> None:
    rng = random.Random(4)
    tokenizer = BytePairTokenizer.train(LINES, 400)
    for _ in range(300):
        text = "".join(rng.choices(["abc", "de", " ", "  ", "\n", "12", "!", "_", "\t", "é"], k=60))
        parts = [text[i : i + 7] for i in range(0, len(text), 7)]
        found = list(worker.before_spaces(parts))
        assert "".join(found) == text
        assert [token for each in found for token in tokenizer.encode(each)] == tokenizer.encode(
            text
        )


def test_what_is_held_out_teaches_the_tokenizer_nothing() -> None:
    docs = [f"ab cd{n}" for n in range(200)]
    learned, held_out = divided(docs)
    Path("a.txt").write_text("\n".join([*learned, *held_out * 99]))
    pack.pack(["a.txt"], "s", PackOptions(tokenizer="bpe"))
    found = open_shards("s").tokenizer.to_json()
    assert found == BytePairTokenizer.train(learned, 1024).to_json()
    assert found != BytePairTokenizer.train(docs, 1024).to_json()
    Path("b.txt").write_text("ab" * 9 + "xy")
    pack.pack(["b.txt"], "t", PackOptions(mode="text", tokenizer="bpe"))
    assert (
        open_shards("t").tokenizer.to_json() == BytePairTokenizer.train(["ab" * 9], 1024).to_json()
    )


def test_a_tokenizer_that_is_there(kamon: Kamon) -> None:
    Path("a.txt").write_text("anna\nnora\n")
    model = package.train(["anna", "nora"], n_embd=4, n_head=2, num_steps=1)
    model.save("m")
    Path("t.json").write_text(CharTokenizer("nora").to_json())
    for given in ("m", "t.json"):
        pack.pack(["a.txt"], given[0] + "s", PackOptions(tokenizer=given, hold_out=False))
        assert both(given[0] + "s") == (["anna", "nora"], [])
    Path("b.txt").write_text("\n" * 2000 + "nora\n" * 300 + "norax\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "MIN_UNIT_BYTES", 100)
        done = kamon("pack", "b.txt", "-o", "x", "--tokenizer", "t.json")
        text = kamon("pack", "b.txt", "-o", "y", "--tokenizer", "t.json", "--mode=text")
    assert (done.code, text.code) == (1, 1)
    assert (
        "b.txt, line 2301: the model does not know character 'x' (U+0078), number 5 in 'norax'"
        in done.err
    )
    assert "b.txt, line 1: the model does not know character '\\n'" in text.err
    assert any(name.startswith("unit") for name in os.listdir("x"))
    assert not Path("y").exists()


# ---- the same bits


@pytest.fixture
def many(here: Path) -> list[str]:
    """A folder of all formats, and files that are cut."""
    (here / "f" / "deep").mkdir(parents=True)
    for name, (content, _) in FILES.items():
        (here / "f" / name).write_bytes(content)
    (here / "f" / "deep" / "b.txt.gz").write_bytes(squeezed("\n".join(LINES[::-1]).encode()))
    (here / "f" / ".hidden.txt").write_bytes(b"\xff")
    (here / "f" / ".git").mkdir()
    (here / os.fsdecode(b"odd \n\xff.txt")).write_text("x\ny\n" * 20)
    return ["f", os.fsdecode(b"odd \n\xff.txt")]


@pytest.mark.parametrize("mode", ["documents", "text"])
def test_jobs_change_no_bit(mode: Any, many: list[str]) -> None:
    settings: dict[str, Any] = {"mode": mode, "column": "text", "shard_tokens": 3000}
    seen: list[pack.PackProgress] = []
    one = pack.pack(many, "one", PackOptions(**settings))
    three = pack.pack(many, "three", PackOptions(**settings), jobs=3, on_progress=seen.append)
    assert one.num_units > 3
    assert bits("one") == bits("three")
    assert (one.num_bytes, one.num_tokens) == (three.num_bytes, three.num_tokens)
    assert one.num_hidden == 2
    assert {progress.stage for progress in seen} <= {"survey", "unit"}


@pytest.mark.parametrize(
    "content", ["a\r\nbé\n\n\n東京 x\r\n", "\ufeff\n\na\nb", "\n", "abc", "a\rb\n\rc"]
)
def test_wherever_a_file_is_cut_its_lines_are_whole(content: str) -> None:
    Path("a.txt").write_bytes(content.encode())
    found = inputs.find_sources(["a.txt"])[0]
    whole = readers.text_lines(content.removeprefix("\ufeff"))
    for most in range(1, len(content.encode()) + 2):
        pieces = [
            piece for unit in inputs.split_source(found, most, whole_texts=False) for piece in unit
        ]
        sizes: list[int] = []

        def report(num_bytes: int, _: int, sizes: list[int] = sizes) -> None:
            sizes.append(num_bytes)

        lines = [
            line
            for piece in pieces
            for block in inputs.entries(found[0], piece, None, report, 2 - (not piece.begin))
            for line in block
        ]
        assert lines == whole
        assert sum(sizes) == found[0].size
        numbers = [inputs.lines_before(found[0], piece) for piece in pieces if piece.begin]
        assert numbers == sorted(numbers)
        assert set(numbers) <= {*range(len(whole) + 1)}


def test_a_folder_in_any_order_of_listing(many: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    names = [source.path for source in inputs.find_sources(many)[0]]
    assert names == [*(f"f/{name}" for name in sorted(FILES)), "f/deep/b.txt.gz", many[1]]
    walk = os.walk

    def backwards(*args: Any, **options: Any) -> Any:
        for path, folders, files in walk(*args, **options):
            yield path, folders, files[::-1]

    monkeypatch.setattr(os, "walk", backwards)
    assert [source.path for source in inputs.find_sources(many)[0]] == names


def test_where_shards_end_changes_no_example(many: list[str]) -> None:
    for most in (1000, 10**8):
        pack.pack(many, f"s{most}", PackOptions(column="text", shard_tokens=most))
    some, other = open_shards("s1000"), open_shards("s100000000")
    assert len(some.manifest.shards) > len(other.manifest.shards)
    for source in ("windows", "documents"):
        found, same = (getattr(each, source)("train", 20, 1).get(7, 99) for each in (some, other))
        assert list(found) == list(same)


# ---- stopped, and going on


class Killed(BaseException):
    """What no code catches."""


@pytest.mark.parametrize("stage", ["survey", "unit"])
@pytest.mark.parametrize("place", [0, 1, 5])
def test_going_on(stage: str, place: int, many: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    pack.pack(many, "whole", PackOptions(column="text"))
    name = f"{stage}_unit" if stage == "survey" else "pack_unit"
    real, calls = getattr(pack, name), [0]

    def until(*args: Any) -> Any:
        if calls[0] == place:
            raise Killed
        calls[0] += 1
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pack, name, until)
        with pytest.raises(Killed):
            pack.pack(many, "s", PackOptions(column="text"))
    if stage == "survey" and place == 0:
        assert not Path("s").exists()
    Path("s").mkdir(exist_ok=True)
    Path("s", ".new-0123456789ab").mkdir()
    Path("s", ".new-0123456789ab", "train-000001-000.tokens").write_bytes(b"half")

    done: list[int] = []
    monkeypatch.setattr(pack, name, lambda *args: done.append(args[-2]) or real(*args))
    found = pack.pack(many, "s", PackOptions(column="text"))
    assert bits("s") == bits("whole")
    assert done == list(range(place, found.num_units))
    assert found.num_units_before == (place if stage == "unit" else 0)
    again = pack.pack(many, "s", PackOptions(column="text"), jobs=2)
    assert again.was_whole
    assert bits("s") == bits("whole")


def test_a_unit_whose_files_are_not_whole_is_made_again(
    many: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pack.pack(many, "whole", PackOptions(column="text"))
    with monkeypatch.context() as patch:
        patch.setattr(pack, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack.pack(many, "s", PackOptions(column="text"))
    found = sorted(Path("s").glob("train-*.tokens"))
    found[0].write_bytes(found[0].read_bytes()[:-2])
    found[1].unlink()
    Path("s", "unit-000003.json").write_text("{")
    Path("s", "unit-000004.json").write_text('{"plan": "another", "shards": []}')
    Path("s", "survey-000000.json").write_text("")
    assert pack.pack(many, "s", PackOptions(column="text")).num_units_before <= len(found) - 4
    assert bits("s") == bits("whole")


def start(process: Process, *argv: str) -> subprocess.Popen[str]:
    """Packing in its own group of processes, when a unit is done."""
    running = process("pack", "a.txt", "-o", "s", *argv, start_new_session=True)
    limit = time.monotonic() + 60
    while not list(Path("s").glob("unit-*.json")) if Path("s").exists() else True:
        assert running.poll() is None, running.stderr.read() if running.stderr else ""
        assert time.monotonic() < limit
        time.sleep(0.01)
    return running


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 3])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_process_that_is_stopped(
    how: signal.Signals, jobs: int, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "MIN_UNIT_BYTES", 4 << 20)  # as in the process
    Path("a.txt").write_text("\n".join(LINES) * 300)
    running = start(process, f"--jobs={jobs}", "--shard-tokens=100000")
    if how == signal.SIGINT:
        os.killpg(running.pid, how)  # as a terminal does
    else:
        running.send_signal(how)
    _, err = running.communicate(timeout=60)
    assert "Traceback" not in err
    assert running.returncode == (130 if how == signal.SIGINT else -how)
    limit = time.monotonic() + 30
    while True:  # no worker outlives it
        try:
            os.killpg(running.pid, 0)
        except ProcessLookupError:
            break
        assert time.monotonic() < limit
        time.sleep(0.05)
    assert not Path("s", MANIFEST).exists()
    with pytest.raises(StoreError, match="run the same `kamon pack` again to finish"):
        open_shards("s")
    found = pack.pack(["a.txt"], "s", PackOptions(shard_tokens=100_000))
    assert found.num_units_before > 0
    pack.pack(["a.txt"], "whole", PackOptions(shard_tokens=100_000))
    assert bits("s") == bits("whole")


def test_what_differs_is_named(many: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(inputs: list[str], message: str, **settings: Any) -> None:
        before = bits()
        with pytest.raises(StoreError, match=message) as caught:
            pack.pack(inputs, "s", PackOptions(**{"column": "text", **settings}))
        assert "--overwrite" in str(caught.value)
        assert bits() == before

    with monkeypatch.context() as patch:
        patch.setattr(pack, "finish", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack.pack(many, "s", PackOptions(column="text"))
    for _ in ("in part", "whole"):
        refused(many, "mode was documents, and is text now", mode="text")
        refused(many, "tokenizer was char, and is bpe now", tokenizer="bpe")
        refused(many, "hold_out was on, and is off now", hold_out=False)
        refused(many, "shard_tokens was 100000000, and is 5 now", shard_tokens=5)
        refused(many, "column was text, and is id now", column="id")
        refused(many[:1], r"the input odd \n\\xff.txt is missing now")
        refused(many[::-1], "its inputs were in another order")
        Path("f/new.txt").write_text("new")
        refused(many, "f/new.txt was not an input")
        Path("f/new.txt").unlink()
        pack.pack(many, "s", PackOptions(column="text"))
    os.utime("f/a.txt", ns=(0, 0))
    refused(many, "the input f/a.txt has changed since")
    pack.pack(many, "s", PackOptions(mode="text", column="text"), overwrite=True)
    pack.pack(many, "t", PackOptions(mode="text", column="text"))
    assert bits() == bits("t")


def test_an_input_that_changes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.txt").write_text("anna\nnora\n")
    real = pack.make_tokenizer

    def change(*args: Any) -> str:
        Path("a.txt").write_text("annannora\n")
        os.utime("a.txt", ns=(0, 0))
        return real(*args)

    monkeypatch.setattr(pack, "make_tokenizer", change)
    with pytest.raises(CorpusError, match=r"a\.txt changed while it was packed"):
        pack.pack(["a.txt"], "s")


# ---- what is refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "a.txt is empty"),
        ("a.txt", b" \n\r\n", "a.txt has only blank lines"),
        ("a.txt.gz", squeezed(b""), "a.txt.gz is empty"),
        ("a.txt.gz", squeezed(b"\n \n"), "a.txt.gz has only blank lines"),
        ("a.txt.gz", b"", "a.txt.gz is empty"),
        ("a.txt.gz", squeezed(b"anna\n")[:-1], "a.txt.gz is damaged: its end is missing"),
        ("a.txt.zst", zstandard.compress(b"anna\n")[:-1], "zst is damaged: its end is missing"),
        ("a.txt.gz", squeezed(b"anna\n") + b"more", "a.txt.gz is damaged: "),
        ("a.txt.zst", zstandard.compress(b"anna\n") + b"more", "a.txt.zst is damaged: "),
        ("a.txt", b"ab\n" * 999 + b"b\xe9a\n", "a.txt, line 1000 is not UTF-8: byte 2 of it"),
        ("a.txt", b"ab\r\n" * 999 + b"a\0", "a.txt, line 1000 has a NUL byte at byte 2"),
        ("a.jsonl", b'{"text": "a"}\n' * 999 + b"x", "a.jsonl, line 1000 is not valid JSON"),
        ("a.csv", b"text,n\nab,1\n", "a.csv has the columns text, n: choose one with --column"),
        ("a.txt.gz", squeezed(b"\n\xff\n"), "a.txt.gz, line 2 is not UTF-8"),
    ],
)
def test_bad_files(name: str, content: bytes, message: str, kamon: Kamon) -> None:
    Path(name).write_bytes(content)
    done = kamon("pack", name, "-o", "s", "--jobs=1")
    assert done.out == ""
    assert message in done.err
    assert done.code == (2 if "column" in message else 1)
    labels = [line.partition(":")[0] for line in done.err.splitlines()]
    assert labels in (["error"], ["error", "hint"])
    assert not Path("s").exists()


def test_a_bad_file_stops_all_processes(kamon: Kamon) -> None:
    Path("a.txt").write_text("ab\n" * 9999)
    Path("b.txt").write_bytes(b"ab\n" * 999 + b"\xff\n")
    Path("c.txt").write_text("ab\n" * 9999)
    done = kamon("pack", "a.txt", "b.txt", "c.txt", "-o", "s", "--jobs=2")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: b.txt, line 1000 is not UTF-8: byte 1 of it is 0xff")
    labels = [line.partition(":")[0] for line in done.err.splitlines()]
    assert labels in (["error"], ["error", "hint"])
    assert not Path("s").exists()


def test_files_that_change_a_bit(here: Path) -> None:
    """A compressed file is read as it was, or refused: one bit at a time."""
    text = "\n".join(LINES[:40])
    for ending in (".gz", ".zst"):
        good = PACKED[ending](text.encode())
        if ending == ".zst":
            good = zstandard.ZstdCompressor(write_checksum=True).compress(text.encode())
        rng = random.Random(2)
        for _ in range(60):
            damaged = bytearray(good)
            damaged[rng.randrange(len(good))] ^= 1 << rng.randrange(8)
            path = here / f"a.txt{ending}"
            path.write_bytes(damaged)
            source = inputs.find_sources([str(path)])[0][0]
            piece = inputs.Piece(0, 0, source.size)
            try:
                found = "".join(inputs.texts(source, piece, inputs.ignore_progress))
            except CorpusError:
                continue
            assert found == text


def test_inputs_that_cannot_be(kamon: Kamon) -> None:
    Path("x.txt").write_text("anna\n")
    os.mkfifo("pipe")
    Path("void").mkdir()
    os.link("x.txt", "y.txt")
    Path("other").mkdir()
    Path("other", "mine.txt").write_text("mine")
    for argv, code, message in [
        ("-", 2, "standard input cannot be packed"),
        ("none.txt", 1, "no file none.txt"),
        ("names", 1, "hint: write the list to a file with `kamon clean names -o names.txt`"),
        ("pipe", 1, "pipe is not a regular file"),
        ("void", 1, "void is an empty directory"),
        ("x.txt x.txt", 2, "x.txt is the same file as x.txt"),
        ("x.txt y.txt", 2, "y.txt is the same file as x.txt"),
        ("other other/mine.txt", 2, "other/mine.txt is the same file as other/mine.txt"),
        ("x.txt --column text", 2, "which has no columns"),
        ("x.txt --vocab-size 300", 2, "vocab_size applies only to --tokenizer bpe"),
        ("x.txt --tokenizer bpe --vocab-size 256", 2, "vocab_size must be from 257"),
        ("x.txt --tokenizer none", 2, "cannot read the tokenizer none"),
        ("x.txt --tokenizer x.txt", 2, "x.txt is not a tokenizer"),
        ("x.txt --tokenizer void", 1, "no model in void"),
        ("x.txt --shard-tokens 0", 2, "shard_tokens must be 1 or more"),
        ("x.txt --jobs 0", 2, "jobs must be from 1 to 1,024"),
        ("x.txt -o other", 1, "other contains something other than shards"),
        ("x.txt -o x.txt", 2, "is inside the input"),
        ("other -o other/s", 2, "other/s is inside the input other"),
        ("x.txt -o y.txt", 1, "y.txt is not a directory"),
        ("x.txt -o .", 2, "the input x.txt is inside the output ."),
    ]:
        more = [] if "-o" in argv else ["-o", "s"]
        done = kamon("pack", *argv.split(), *more)
        assert (done.code, done.out) == (code, ""), argv
        assert message in done.err
        labels = [line.partition(":")[0] for line in done.err.splitlines()]
        assert labels in (["error"], ["error", "hint"])
        assert not Path("s").exists()
    assert Path("other", "mine.txt").read_text() == "mine"


def test_without_zstandard(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    Path("a.txt.zst").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r'pip install "kamon\[pack\]"'):
        pack.pack(["a.txt.zst"], "s")


def test_only_one_at_a_time(kamon: Kamon) -> None:
    from kamon.files.lock import locked

    Path("a.txt").write_text("anna\n")
    pack.pack(["a.txt"], "s")
    with locked(Path("s/lock"), "s"):
        done = kamon("pack", "a.txt", "-o", "s")
    assert done.code == 1
    assert "s is being written by process" in done.err


def test_what_the_command_says(kamon: Kamon, many: list[str]) -> None:
    done = kamon("pack", *many, "-o", "s", "--column=text", "--jobs=2", "--json")
    assert done.code == 0
    assert "Left out 2 hidden names in the folders" in done.err
    assert " tokens/s)" in done.err
    found = done.json
    assert found["num_inputs"] == len(FILES) + 2
    assert found["totals"]["train"]["num_docs"] == len(both()[0])
    again = kamon("pack", *many, "-o", "s", "--column=text")
    assert "Everything is packed already" in again.err
    assert "validation" in again.out
