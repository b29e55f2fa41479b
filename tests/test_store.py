from __future__ import annotations

import errno
import gzip
import json
import os
import random
import shutil
import stat
from array import array
from pathlib import Path
from typing import Any

import pytest

from kamon import files, store
from kamon.config import Config
from kamon.documents import Documents
from kamon.errors import StoreError
from kamon.model import init, parameter_shapes
from kamon.store import Stored
from kamon.tokenizer import CharTokenizer

DOCS = Documents.of(["aé", "名 a\n", "\u2028", ""])
CONFIG = Config(n_embd=4, n_head=2, block_size=5, vocab_size=4)


def stored(seed: int = 1) -> Stored:
    return Stored(
        config=CONFIG,
        tokenizer=CharTokenizer("aé名"),
        params=init(CONFIG, random.Random(seed)),
        metrics=[{"step": 1, "loss": 1.25, "learning_rate": 0.1}],
        training={
            "engine": "scalar",
            "dtype": "float64",
            "num_steps_done": 1,
            "seconds": 0.5,
            "corpus": {"source": "here", "num_docs": 3},
            "seed": seed,
        },
        documents=b"".join(store.pack_documents(DOCS)),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    store.save(tmp_path / "model", stored())
    return tmp_path / "model"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(model: Path) -> None:
    found, expected = store.load(model), stored()
    assert found.tokenizer.chars == expected.tokenizer.chars
    assert found.params == expected.params
    assert (found.config, found.metrics, found.training) == (
        expected.config,
        expected.metrics,
        expected.training,
    )
    assert store.unpack_documents(found.documents) == DOCS
    assert names(model) == sorted([store.MANIFEST, *store.FILES])
    assert names(model.parent) == ["model"]


@pytest.mark.parametrize(
    "content",
    ["", "no gzip", "torn", "1\n", "[", "[1]", "[1]\n", '"a","b"\n', '"a"', '"a\\u0000b"\n'],
)
def test_documents_that_are_none(content: str) -> None:
    packed = gzip.compress(content.encode())
    if content == "torn":
        packed = b"".join(store.pack_documents(DOCS))[:-9]
    elif content in ("", "no gzip"):
        packed = content.encode()
    with pytest.raises(StoreError, match=r"documents.jsonl.gz cannot be used"):
        store.unpack_documents(packed)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_documents_come_back_in_blocks_of_any_size(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "UNPACKED_BLOCK", block)
    packed = b"".join(store.pack_documents(DOCS))
    assert store.unpack_documents(packed) == DOCS
    monkeypatch.setattr(store, "MAX_DOCUMENT_BYTES", 3)
    if block < 10:
        with pytest.raises(StoreError, match="has a document of more than 3 bytes"):
            store.unpack_documents(packed)


def test_packing_knows_no_clock() -> None:
    packed = b"".join(store.pack_documents(DOCS))
    assert packed == b"".join(store.pack_documents(DOCS))
    assert packed[4:8] == bytes(4)


def test_others_may_read_what_the_umask_allows(model: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(model.stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((model / "config.json").stat().st_mode) == 0o666 & ~umask


def test_parameters_are_where_other_programs_look(model: Path) -> None:
    from safetensors import deserialize

    tensors = dict(deserialize((model / "model.safetensors").read_bytes()))
    flat = stored().params
    start = 0
    for name, (n_out, n_in) in parameter_shapes(CONFIG).items():
        assert tensors[name]["dtype"] == "F64"
        assert tensors[name]["shape"] == [n_out, n_in]
        assert array("d", bytes(tensors[name]["data"])) == flat[start : start + n_out * n_in]
        start += n_out * n_in
    assert len(tensors) == len(parameter_shapes(CONFIG))


def test_a_model_is_replaced_only_when_asked(model: Path) -> None:
    with pytest.raises(StoreError, match="holds a model already"):
        store.save(model, stored(2))
    assert store.load(model).training["seed"] == 1
    store.save(model, stored(2), overwrite=True)
    assert store.load(model).training["seed"] == 2
    assert names(model.parent) == ["model"]


def test_anything_else_is_never_replaced(model: Path) -> None:
    (model / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="holds something else"):
            store.save(model, stored(2), overwrite=overwrite)
    file = model.parent / "file"
    file.write_text("mine")
    with pytest.raises(StoreError, match="not a directory"):
        store.save(file, stored(2), overwrite=True)
    with pytest.raises(StoreError, match="Not a directory"):
        store.save(file / "model", stored(2))
    link = model.parent / "link"
    link.symlink_to(model)
    with pytest.raises(StoreError, match="is a symbolic link"):
        store.save(link, stored(2), overwrite=True)
    assert file.read_text() == (model / "notes.txt").read_text() == "mine"
    assert names(model.parent) == ["file", "link", "model"]


def test_the_current_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", tmp_path):
        with pytest.raises(StoreError, match="current directory"):
            store.save(name, stored())
    store.save("new", stored())
    assert names(tmp_path) == ["new"]


def test_an_empty_folder_and_new_parents_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    store.save(tmp_path / "empty", stored())
    store.save(tmp_path / "a" / "b" / "model", stored())
    assert store.load(tmp_path / "empty").params == store.load(tmp_path / "a/b/model").params


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_full_disk_leaves_what_was_there(
    existing: bool, place: int, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write that fails is the place-th fsync or rename of a save; each has its turn."""
    target = tmp_path / "model"
    if existing:
        store.save(target, stored(1))
    calls = 0
    real = getattr(os, call)

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == place + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(*args)

    monkeypatch.setattr(os, call, failing)
    message = ""
    try:
        store.save(target, stored(2), overwrite=True)
    except StoreError as error:
        message = str(error)
    monkeypatch.undo()
    assert message in ("", f"cannot write {target}: No space left on device")
    writes = len(store.FILES) + 1
    in_place = place >= {"fsync": writes + 1, "rename": 1 + existing}[call]
    assert bool(message) is (calls > place)
    if in_place:  # the new model stands where it should; at most its folder was not synced
        assert store.load(target).training["seed"] == 2
    elif existing:
        assert store.load(target).training["seed"] == 1
    else:
        assert names(tmp_path) == []
    assert [name for name in names(tmp_path) if name.endswith(".new")] == []


def test_where_nothing_can_be_written() -> None:
    for name, message in (
        ("/proc/kamon-model", "cannot write /proc/kamon-model: "),
        ("a\0b", "cannot write 'a\\x00b': embedded null byte"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(StoreError) as caught:
            store.check_target(name, overwrite=False)
        assert message in str(caught.value)


def test_folders_that_look_like_models_are_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "foreign"
    target.mkdir()
    for name in (store.MANIFEST, *store.FILES):
        (target / name).write_text("{}")
    with pytest.raises(StoreError, match="holds something else"):
        store.save(target, stored(), overwrite=True)
    assert {path.read_text() for path in target.iterdir()} == {"{}"}


def test_an_interrupted_replacement_keeps_the_old_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    rename = os.rename

    def interrupted(*names: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        rename(*names)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.save(model, stored(2), overwrite=True)
    assert store.load(model).training["seed"] == 1
    assert names(model.parent) == ["model"]


def test_parameters_that_are_not_finite(model: Path) -> None:
    broken = stored()
    broken.params[3] = float("nan")
    store.save(model, broken, overwrite=True)
    with pytest.raises(StoreError, match="not finite"):
        store.load(model)


@pytest.mark.parametrize("name", [store.MANIFEST, *store.FILES])
def test_damage_is_seen(name: str, model: Path) -> None:
    """A flipped bit, a cut, a zeroed block: in whichever file and wherever in it."""
    rng = random.Random(name)
    original = (model / name).read_bytes()
    for _ in range(60):
        content = bytearray(original)
        place = rng.randrange(len(content))
        match rng.randrange(3):
            case 0:
                content[place] ^= 1 << rng.randrange(8)
            case 1:
                del content[place:]
            case 2:
                content[place : place + 16] = bytes(len(content[place : place + 16]))
        (model / name).write_bytes(content)
        if content == original or (name == store.MANIFEST and same_json(content, original)):
            continue  # zeros where zeros were; or white space
        with pytest.raises(StoreError, match=r"damaged|differ|format"):
            store.load(model)
    (model / name).write_bytes(original)
    store.load(model)


def same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


@pytest.mark.parametrize("name", [store.MANIFEST, *store.FILES])
def test_a_missing_file_is_named(name: str, model: Path) -> None:
    (model / name).unlink()
    with pytest.raises(StoreError, match=name):
        store.load(model)


def resign(model: Path) -> None:
    """Make the manifest agree with files that a test has changed."""
    import hashlib

    hashes = {n: hashlib.sha256((model / n).read_bytes()).hexdigest() for n in store.FILES}
    (model / store.MANIFEST).write_text(json.dumps({"format": store.FORMAT, "sha256": hashes}))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"n_embd": 5}', "n_embd 5 is not divisible by n_head 4"),
        ("config.json", '{"n_layers": 5}', "n_layers"),
        ("config.json", "[]", "cannot be used"),
        ("config.json", "{", "cannot be used"),
        (
            "config.json",
            '{"n_embd": 4, "n_head": 2, "block_size": 5, "vocab_size": 9}',
            "wte as F64",
        ),
        (
            "config.json",
            '{"n_embd": 4, "n_head": 2, "block_size": 5, "vocab_size": 4, "n_layer": 2}',
            "parameter layer1.attn_wk",
        ),
        ("tokenizer.json", '{"type": "char", "chars": ["a"]}', "has 2 tokens, config.json says"),
        ("tokenizer.json", '{"type": "bpe"}', 'not a tokenizer of "type": "char"'),
        ("model.safetensors", "", "model.safetensors is damaged"),
        ("metrics.jsonl", "{\n", "cannot be used"),
        ("metrics.jsonl", "", "metrics.jsonl has a line without the numbers"),
        ("metrics.jsonl", "5\n", "metrics.jsonl has a line without"),
        (
            "metrics.jsonl",
            '{"step": 1, "loss": NaN, "learning_rate": 1}',
            "metrics.jsonl has a line",
        ),
        ("training.json", "[]", "training.json does not say"),
        ("training.json", '{"engine": "scalar"}', "training.json does not say"),
        ("training.json", "[" * 100_000, "cannot be used"),
        ("config.json", '{"n_embd": 1000000007, "n_head": 2}', "not divisible by n_head 2"),
        ("training.json", "", "cannot be used"),
    ],
)
def test_files_that_do_not_fit_together(name: str, content: str, message: str, model: Path) -> None:
    (model / name).write_text(content)
    resign(model)
    with pytest.raises(StoreError) as caught:
        store.load(model)
    assert message in str(caught.value)


def test_what_is_no_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        store.load(tmp_path / "none")
    with pytest.raises(StoreError, match="is not a model directory but a file"):
        store.load(model / "config.json")
    with pytest.raises(StoreError, match=r"it has no manifest\.json"):
        store.load(tmp_path)
    (model / store.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        store.load(model)
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(StoreError, match=r"cannot read|does not exist"):
            store.load(name)
    (model / store.MANIFEST).write_text('{"format": 99}')
    with pytest.raises(StoreError, match="has format 99, this version of Kamon reads 2"):
        store.load(model)


def test_replace_file_keeps_the_old_one_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        files.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_saving_over_a_vanished_folder(model: Path) -> None:
    shutil.rmtree(model)
    store.save(model, stored(3), overwrite=True)
    assert store.load(model).training["seed"] == 3
