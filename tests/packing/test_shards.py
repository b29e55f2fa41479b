"""Token shards: what was packed comes back, whole or with one sentence of what is damaged."""

from __future__ import annotations

import json
import os
import random
import shutil
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Result
from kamon.data.shuffling import permutation, window_start
from kamon.data.split import split
from kamon.errors import ConfigError, KamonError, StoreError
from kamon.packing import shards as shards_module
from kamon.packing.pack import pack
from kamon.packing.plan import PackOptions
from kamon.packing.shards import MANIFEST, SPLITS, TOKENIZER, VERIFIED, Shards, open_shards

Kamon = Callable[..., Result]

RNG = random.Random(5)
DOCS = ["".join(RNG.choices("abcdé🇩", k=RNG.randint(1, 30))) for _ in range(400)]
DOCS = list(dict.fromkeys(DOCS))
LEARNED, HELD_OUT = map(list, split(DOCS))
EXPECTED = {"train": LEARNED, "held_out": HELD_OUT}


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    (folder / "docs.txt").write_text("\n".join(DOCS), encoding="utf-8")
    pack([str(folder / "docs.txt")], folder / "shards", PackOptions(shard_tokens=700))
    return folder / "shards"


@pytest.fixture
def copy(packed: Path, tmp_path: Path) -> Path:
    shutil.copytree(packed, tmp_path / "shards")
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def shards(packed: Path) -> Shards:
    return open_shards(packed)


def stream(shards: Shards, docs: list[str]) -> list[int]:
    """The documents of a part as its tokens in a row."""
    bos = shards.tokenizer.bos
    return [*(t for doc in docs for t in (bos, *shards.tokenizer.encode(doc))), bos]


@pytest.mark.parametrize("name", SPLITS)
def test_documents_and_stream(shards: Shards, name: str) -> None:
    docs = EXPECTED[name]
    assert len([shard for shard in shards.manifest.shards if shard.part == name]) > 1
    assert shards.num_docs(name) == len(docs)
    found = [shards.document(name, number) for number in range(len(docs))]
    assert [shards.tokenizer.decode(doc[1:-1]) for doc in found] == docs
    assert {doc[0] for doc in found} == {doc[-1] for doc in found} == {shards.tokenizer.bos}
    whole = stream(shards, docs)
    assert shards.num_tokens(name) == len(whole)
    assert list(shards.stream(name, 0, len(whole))) == whole
    for begin in range(0, len(whole), 7):
        for end in (begin, begin + 1, min(begin + 1500, len(whole))):
            assert list(shards.stream(name, begin, end)) == whole[begin:end]
    for begin, end in [(-1, 2), (0, len(whole) + 1), (3, 2)]:
        with pytest.raises(IndexError):
            shards.stream(name, begin, end)
    for number in (-1, len(docs)):
        with pytest.raises(IndexError):
            shards.document(name, number)


def test_few_files_are_open_at_a_time(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MAX_OPEN_FILES", 2)
    shards = open_shards(packed)
    fds = Path("/proc/self/fd")
    before = len(list(fds.iterdir())) if fds.exists() else 0
    whole = stream(shards, LEARNED)
    assert list(shards.stream("train", 0, len(whole))) == whole
    assert not fds.exists() or len(list(fds.iterdir())) <= before + 2


def test_windows_are_at_the_places_drawn(shards: Shards) -> None:
    whole = stream(shards, LEARNED)
    windows = shards.windows("train", 16, 3)
    batch = windows.get(5, 40)
    starts = [window_start(3, number, len(whole) - 16) for number in range(5, 45)]
    assert [list(doc) for doc in batch] == [whole[start : start + 17] for start in starts]
    assert isinstance(batch.tokens, array)
    assert batch.tokens.typecode == "i"
    one_by_one = [windows.get(number, 1).document(0) for number in range(5, 45)]
    assert one_by_one == list(batch)
    assert shards.windows("train", 16, 4).get(5, 40) != batch


def test_the_longest_window_is_the_whole_stream(shards: Shards) -> None:
    whole = stream(shards, HELD_OUT)
    assert list(shards.windows("held_out", len(whole) - 1, 1).get(9, 1).document(0)) == whole
    for size in (0, len(whole)):
        with pytest.raises(ConfigError, match=f"lower it to {len(whole) - 1:,}"):
            shards.windows("held_out", size, 1)


def test_documents_are_shuffled_in_each_epoch(shards: Shards) -> None:
    n = len(LEARNED)
    source = shards.documents("train", 12, 8)
    batch = source.get(n - 3, n + 6)  # the end of epoch 0, all of 1, the beginning of 2
    bos = shards.tokenizer.bos
    expected = []
    for number in range(n - 3, 2 * n + 3):
        doc = LEARNED[permutation(8, number // n, n)(number % n)]
        expected.append([bos, *shards.tokenizer.encode(doc), bos][:13])
    assert [list(doc) for doc in batch] == expected
    assert max(len(doc) for doc in batch) == 13
    one = sorted(map(list, source.get(n, n)))
    assert one == sorted(map(list, source.get(0, n)))
    assert len(one) == n


@pytest.mark.parametrize("size", [1, 7, 50, 100_000])
def test_consecutive_windows_have_each_target_once(shards: Shards, size: int) -> None:
    whole = stream(shards, HELD_OUT)
    batch = shards.consecutive("held_out", size, 10**9)
    assert batch.num_targets == len(whole) - 1
    assert [token for doc in batch for token in doc[1:]] == whole[1:]
    assert [doc[0] for doc in batch] == whole[: len(whole) - 1 : size]
    few = shards.consecutive("held_out", size, 5)
    assert len(few) == min(5, len(batch))
    assert list(few) == [batch.document(n * len(batch) // len(few)) for n in range(len(few))]


def test_a_part_with_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("ab\ncd\n")
    pack([str(tmp_path / "a.txt")], tmp_path / "s", PackOptions(hold_out=False))
    shards = open_shards(tmp_path / "s")
    assert (shards.num_docs("held_out"), shards.num_tokens("held_out")) == (0, 0)
    assert len(shards.consecutive("held_out", 4, 9)) == 0
    for source in (shards.windows, shards.documents):
        with pytest.raises(ConfigError, match="has nothing in its part held_out"):
            source("held_out", 4, 1)


# ---- damage


def files(path: Path) -> list[str]:
    return sorted(name for name in os.listdir(path) if name not in ("lock", VERIFIED))


def sentence(error: KamonError) -> None:
    assert "\n" not in error.message
    assert "\n" not in (error.hint or "")
    assert len(str(error)) < 600


def test_every_file_damaged_in_every_way(copy: Path) -> None:
    rng = random.Random(1)
    for name in files(copy):
        content = (copy / name).read_bytes()
        flipped = bytearray(content)
        flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(7)
        for damaged in (None, b"", content[:-1], content + b"\0", bytes(flipped)):
            if damaged is None:
                (copy / name).unlink()
            else:
                (copy / name).write_bytes(damaged)
            if name != MANIFEST or damaged != bytes(flipped):
                with pytest.raises(StoreError) as caught:
                    open_shards(copy)
                sentence(caught.value)
                assert name in str(caught.value) or name == MANIFEST
        (copy / name).write_bytes(content)
    open_shards(copy)


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found.update(format=2),
        lambda found: found.update(vocab_size=8),
        lambda found: found.update(vocab_size="7"),
        lambda found: found.update(bytes_a_token=4),
        lambda found: found.update(shards=[]),
        lambda found: found.pop("inputs"),
        lambda found: found["shards"][0].update(num_tokens=1.5),
        lambda found: found["shards"][0].update(num_docs=3),
        lambda found: found["shards"][0].update(part="other"),
        lambda found: found["shards"][0]["tokens"].update(name="../x"),
        lambda found: found["shards"][0]["tokens"].update(size="1"),
        lambda found: found["tokenizer"].update(sha256="0"),
        lambda found: found["tokenizer"].update(name=[]),
        lambda found: found["settings"].update(split=9),
        lambda found: found.update(settings=[]),
        lambda found: found.update(num_docs="5"),
        lambda found: found["lengths"].pop("train"),
        lambda found: found["lengths"]["train"].update({"7": 10**6}),
        lambda found: found["lengths"]["held_out"].update({"-1": 0}),
        lambda found: found["num_chars"].update(train=1.5),
    ],
)
def test_manifests_that_cannot_be(copy: Path, change: Callable[..., object]) -> None:
    found = json.loads((copy / MANIFEST).read_bytes())
    change(found)
    (copy / MANIFEST).write_text(json.dumps(found))
    with pytest.raises(StoreError) as caught:
        open_shards(copy)
    sentence(caught.value)


def test_what_is_verified_when(copy: Path) -> None:
    (copy / VERIFIED).unlink(missing_ok=True)
    place = next(copy.glob("train-*.tokens"))
    content = place.read_bytes()
    there = place.stat()
    open_shards(copy, "never")
    assert not (copy / VERIFIED).exists()
    open_shards(copy)
    assert (copy / VERIFIED).exists()

    place.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    open_shards(copy, "never")
    with pytest.raises(StoreError, match="SHA-256"):  # its time has changed
        open_shards(copy)
    os.utime(place, ns=(there.st_atime_ns, there.st_mtime_ns))
    open_shards(copy)  # as verified before
    with pytest.raises(StoreError, match="SHA-256"):
        open_shards(copy, "always")
    place.write_bytes(content)
    open_shards(copy, "always")
    (copy / VERIFIED).write_text("{")
    open_shards(copy)


def test_what_is_damaged_and_not_verified_is_seen_where_it_matters(copy: Path) -> None:
    for place in copy.glob("train-*.tokens"):
        place.write_bytes(b"\xff\xff" * (place.stat().st_size // 2))
    shards = open_shards(copy, "never")
    with pytest.raises(StoreError, match="token 65535 is not one of 7"):
        shards.windows("train", 4, 1).get(0, 1)
    for place in copy.glob("train-*.offsets"):
        place.write_bytes(b"\xff" * place.stat().st_size)
    shards = open_shards(copy, "never")
    with pytest.raises(StoreError, match="its offsets are invalid"):
        shards.documents("train", 4, 1).get(0, 1)
    min(copy.glob("held_out-*.tokens")).write_bytes(b"")
    with pytest.raises(StoreError, match="it has 0 bytes"):
        shards.stream("held_out", 0, 5)


def test_another_tokenizer(copy: Path) -> None:
    (copy / TOKENIZER).write_bytes((copy / TOKENIZER).read_bytes().replace(b'"a"', b'"z"'))
    with pytest.raises(StoreError, match=r"tokenizer\.json is damaged: its SHA-256"):
        open_shards(copy)


def test_what_is_no_packed_corpus(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("none", "file", ".", "a\0b", "x" * 300):
        with pytest.raises(StoreError) as caught:
            open_shards(tmp_path / name)
        sentence(caught.value)


def test_inspect(packed: Path, copy: Path, kamon: Kamon) -> None:
    done = kamon("inspect", packed)
    assert done.code == 0
    assert "all checksums verified" in done.out
    assert f"{len(LEARNED):,}" in done.out
    found = kamon("inspect", packed, "--json").json
    assert found["totals"]["validation"]["num_docs"] == len(HELD_OUT)
    assert [each["size"] for each in found["inputs"]] == [len("\n".join(DOCS).encode())]
    next(copy.glob("*.tokens")).write_bytes(b"")
    done = kamon("inspect", copy)
    assert (done.code, done.out) == (1, "")
    assert "0 bytes" in done.err
