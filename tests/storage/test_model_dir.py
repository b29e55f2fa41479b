from __future__ import annotations

import builtins
import errno
import gc
import gzip
import hashlib
import json
import os
import random
import shutil
import stat
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import memory_limit
from kamon.config import Config
from kamon.data.documents import Documents
from kamon.engines.parameters import init, parameter_shapes
from kamon.errors import StoreError
from kamon.files import atomic
from kamon.storage import checkpoint, model_dir
from kamon.storage.checkpoint import Checkpoint
from kamon.storage.metrics import Metrics
from kamon.storage.records import TrainingRecord
from kamon.tokenizers.char import CharTokenizer

DOCS = Documents.of(["aé", "名 a\n", "\u2028", ""])
CONFIG = Config(n_embd=4, n_head=2, block_size=5, vocab_size=4)


def stored(seed: int = 1) -> Checkpoint:
    return Checkpoint(
        config=CONFIG,
        tokenizer=CharTokenizer("aé名"),
        params=init(CONFIG, random.Random(seed)),
        metrics=Metrics(array("d", [1.25]), array("d", [0.1]), {1: 1.5}),
        training=TrainingRecord.read(
            {
                "engine": "scalar",
                "dtype": "float64",
                "num_steps_done": 1,
                "seconds": 0.5,
                "corpus": {"source": "here", "num_docs": 3, "sha256": DOCS.sha256()},
                "finished": True,
                "hold_out": False,
                "seed": seed,
            }
        ),
        documents=b"".join(checkpoint.pack_documents(DOCS)),
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    model_dir.save(tmp_path / "model", stored())
    return tmp_path / "model"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(model: Path) -> Path:
    return model_dir.newest_checkpoint_dir(model)


def test_what_is_saved_is_loaded(model: Path) -> None:
    found, expected = model_dir.load(model), stored()
    assert found.tokenizer.chars == expected.tokenizer.chars
    assert found.params == expected.params
    assert (found.config, found.metrics, found.training) == (
        expected.config,
        expected.metrics,
        expected.training,
    )
    assert checkpoint.unpack_documents(found.documents) == DOCS
    (documents,) = [name for name in names(model) if model_dir.DOCUMENTS.fullmatch(name)]
    assert names(model) == [documents, "generation-000001", "lock"]
    assert names(newest(model)) == sorted([model_dir.MANIFEST, *checkpoint.FILES])
    assert names(model.parent) == ["model"]


@pytest.mark.parametrize(
    "content",
    ["", "no gzip", "torn", "1\n", "[", "[1]", "[1]\n", '"a","b"\n', '"a"', '"a\\u0000b"\n'],
)
def test_documents_that_are_none(content: str) -> None:
    packed = gzip.compress(content.encode())
    if content == "torn":
        packed = b"".join(checkpoint.pack_documents(DOCS))[:-9]
    elif content in ("", "no gzip"):
        packed = content.encode()
    with pytest.raises(StoreError, match=r"the model's documents cannot be used"):
        checkpoint.unpack_documents(packed)


@pytest.mark.parametrize("block", [1, 7, 1000])
def test_documents_come_back_in_blocks_of_any_size(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "UNPACKED_BLOCK", block)
    packed = b"".join(checkpoint.pack_documents(DOCS))
    assert checkpoint.unpack_documents(packed) == DOCS
    monkeypatch.setattr(checkpoint, "MAX_DOCUMENT_BYTES", 3)
    if block < 10:
        with pytest.raises(StoreError, match="one has more than 3 bytes"):
            checkpoint.unpack_documents(packed)


def test_packing_knows_no_clock() -> None:
    packed = b"".join(checkpoint.pack_documents(DOCS))
    assert packed == b"".join(checkpoint.pack_documents(DOCS))
    assert packed[4:8] == bytes(4)


def test_others_may_read_what_the_umask_allows(model: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(model.stat().st_mode) == 0o777 & ~umask
    assert stat.S_IMODE((newest(model) / "config.json").stat().st_mode) == 0o666 & ~umask


def test_parameters_are_where_other_programs_look(model: Path) -> None:
    from safetensors import deserialize

    tensors = dict(deserialize((newest(model) / "model.safetensors").read_bytes()))
    flat = stored().params
    start = 0
    for name, (n_out, n_in) in parameter_shapes(CONFIG).items():
        assert tensors[name]["dtype"] == "F64"
        assert tensors[name]["shape"] == [n_out, n_in]
        assert array("d", bytes(tensors[name]["data"])) == flat[start : start + n_out * n_in]
        start += n_out * n_in
    assert len(tensors) == len(parameter_shapes(CONFIG))


def test_a_model_is_replaced_only_when_asked(model: Path) -> None:
    with pytest.raises(StoreError, match="already contains a model"):
        model_dir.save(model, stored(2))
    assert model_dir.load(model).training["seed"] == 1
    model_dir.save(model, stored(2), overwrite=True)
    assert model_dir.load(model).training["seed"] == 2
    assert names(model.parent) == ["model"]


def test_anything_else_is_never_replaced(model: Path) -> None:
    (model / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(StoreError, match="contains something other"):
            model_dir.save(model, stored(2), overwrite=overwrite)
    file = model.parent / "file"
    file.write_text("mine")
    with pytest.raises(StoreError, match="not a directory"):
        model_dir.save(file, stored(2), overwrite=True)
    with pytest.raises(StoreError, match="Not a directory"):
        model_dir.save(file / "model", stored(2))
    link = model.parent / "link"
    link.symlink_to(model)
    with pytest.raises(StoreError, match="is a symbolic link"):
        model_dir.save(link, stored(2), overwrite=True)
    assert file.read_text() == (model / "notes.txt").read_text() == "mine"
    assert names(model.parent) == ["file", "link", "model"]


def test_the_current_directory_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (".", "", tmp_path):
        with pytest.raises(StoreError, match="current directory"):
            model_dir.save(name, stored())
    model_dir.save("new", stored())
    assert names(tmp_path) == ["new"]


def test_an_empty_folder_and_new_parents_are_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model_dir.save(tmp_path / "empty", stored())
    model_dir.save(tmp_path / "a" / "b" / "model", stored())
    assert (
        model_dir.load(tmp_path / "empty").params == model_dir.load(tmp_path / "a/b/model").params
    )


# ---- whatever happens while it is written


class Killed(BaseException):
    """As a process that ends here; no handler of ours may turn it into something else."""


CALLS = [(builtins, "open")]
CALLS += [
    (os, name) for name in ("fsync", "rename", "replace", "mkdir", "unlink", "rmdir", "write")
]


@contextmanager
def no_collector() -> Iterator[None]:
    """Keep the garbage of earlier tests: to free its semaphores, Python calls `os.write`, too."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def at_each_call(
    monkeypatch: pytest.MonkeyPatch, save: Callable[[], None], error: BaseException
) -> Iterator[bool]:
    """Run `save` again and again: each time it comes one call to the system further.

    Before that call, then behind it, `error` is raised. A process that is killed does nothing from
    then on: no later call does anything either. Yields whether `save` came through all the same.
    """
    place, points = -1, 0

    def point() -> None:
        nonlocal points
        points += 1
        if points == place + 1 or (points > place and isinstance(error, Killed)):
            raise error

    def failing(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            point()
            found = real(*args, **options)
            try:
                point()
            except BaseException:
                if hasattr(found, "close"):  # as the system does for who is no more
                    found.close()
                raise
            return found

        return call

    gc.collect()
    while True:
        place, points, passed = place + 1, 0, True
        with monkeypatch.context() as patch, no_collector():
            for module, name in CALLS:
                patch.setattr(module, name, failing(getattr(module, name)))
            try:
                save()
            except (StoreError, Killed):
                passed = False
        if points <= place:
            return
        yield passed


@pytest.mark.slow
@pytest.mark.parametrize("existing", [0, 2])
@pytest.mark.parametrize("how", ["killed", "full disk"])
def test_at_every_call_the_old_model_or_the_new(
    how: str, existing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill or a full disk before and behind each call: never a mixture, and saving goes on."""
    error = Killed() if how == "killed" else OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    number = 0
    target = tmp_path / "none"

    def save() -> None:
        model_dir.save(target, stored(9), overwrite=True)

    def fresh() -> None:
        nonlocal number, target
        number += 1
        target = tmp_path / f"model{number}"
        for seed in range(1, existing + 1):
            model_dir.save(target, stored(seed), overwrite=True)

    fresh()
    for passed in at_each_call(monkeypatch, save, error):
        if existing or passed or (target.exists() and model_dir.numbered_dirs(target)):
            seed = model_dir.load(target).training["seed"]
            assert seed in {existing or 9, 9}
            assert seed == 9 or not passed
        model_dir.save(target, stored(10), overwrite=True)
        assert model_dir.load(target).training["seed"] == 10
        assert len(names(target)) == 3
        fresh()
    assert number > 40


@pytest.mark.parametrize("existing", [False, True])
def test_a_full_disk_is_one_sentence(
    existing: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    if existing:
        model_dir.save(target, stored(1))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"^cannot write .*model: No space left on device$"):
        model_dir.save(target, stored(2), overwrite=True)
    monkeypatch.undo()
    assert names(tmp_path) == ["model"] * existing
    if existing:
        assert model_dir.load(target).training["seed"] == 1


def test_a_training_keeps_two_generations_and_takes_the_newest_whole_one(tmp_path: Path) -> None:
    target = tmp_path / "model"
    model_dir.save(target, stored(1))
    with model_dir.writing(target, overwrite=True) as writer:
        for seed in range(2, 6):
            assert writer.save(stored(seed)) == seed
            assert model_dir.load(target).training["seed"] == seed
    assert [folder.name[-1] for folder in model_dir.checkpoint_dirs(target)] == ["4", "5"]
    (newest(target) / "training.json").write_text("{}")
    with pytest.raises(
        StoreError, match=r"training.json is damaged.*\nhint: resume from generation-000004 with "
    ):
        model_dir.load(target)
    found, folder, problems = model_dir.load_newest_whole(target)
    assert (found.training["seed"], folder.name) == (4, "generation-000004")
    assert len(problems) == 1
    assert "generation-000005/training.json is damaged" in problems[0]
    (folder / model_dir.MANIFEST).unlink()
    with pytest.raises(StoreError, match=r"generation-000005/training.json is damaged"):
        model_dir.load_newest_whole(target)


def test_only_what_is_ours_goes(tmp_path: Path) -> None:
    """What a killed process left behind; nothing that only looks like it."""
    target = tmp_path / "model"
    model_dir.save(target, stored(1))
    (target / ".new-0123456789ab").mkdir()
    (target / ".old-0123456789ab").mkdir()
    model_dir.save(target, stored(2), overwrite=True)
    assert [name for name in names(target) if name.startswith(".")] == []
    (target / ".new-mine").mkdir()
    with pytest.raises(StoreError, match="contains something other"):
        model_dir.save(target, stored(3), overwrite=True)
    assert (target / ".new-mine").is_dir()


def test_documents_go_with_the_last_generation_that_names_them(tmp_path: Path) -> None:
    target = tmp_path / "model"
    model_dir.save(target, stored(1))
    others = replace(stored(2), documents=Documents.of(["é"]))
    model_dir.save(target, others, overwrite=True)
    assert sum(model_dir.DOCUMENTS.fullmatch(name) is not None for name in names(target)) == 1
    assert checkpoint.unpack_documents(model_dir.load(target).documents) == ["é"]


def test_where_nothing_can_be_written() -> None:
    for name, message in (
        ("/proc/kamon-model", "cannot write /proc/kamon-model: "),
        ("a\0b", "cannot write 'a\\x00b': embedded null byte"),
        ("x" * 300, "File name too long"),
    ):
        with pytest.raises(StoreError) as caught:
            model_dir.check_target(name, overwrite=False)
        assert message in str(caught.value)


@pytest.mark.parametrize("name", ["flat", "generation-000001"])
def test_folders_that_look_like_models_are_not_replaced(name: str, tmp_path: Path) -> None:
    target = tmp_path / "foreign"
    folder = target if name == "flat" else target / name
    folder.mkdir(parents=True)
    for file in (model_dir.MANIFEST, *model_dir.FLAT_FILES):
        (folder / file).write_text("{}")
    with pytest.raises(StoreError, match="contains something other"):
        model_dir.save(target, stored(), overwrite=True)
    assert {path.read_text() for path in folder.iterdir()} == {"{}"}


def test_parameters_that_are_not_finite(model: Path) -> None:
    broken = stored()
    broken.params[3] = float("nan")
    model_dir.save(model, broken, overwrite=True)
    with pytest.raises(StoreError, match="not finite"):
        model_dir.load(model)


DOCUMENTS = "documents"


def file_of(model: Path, name: str) -> Path:
    if name == DOCUMENTS:
        return next(model.glob("documents-*"))
    return newest(model) / name


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A flipped bit, a cut, a zeroed block, one moved, something more."""
    changed = bytearray(content)
    place = rng.randrange(len(changed))
    match rng.randrange(5):
        case 0:
            changed[place] ^= 1 << rng.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            changed[place : place + 16] = bytes(len(changed[place : place + 16]))
        case 3:
            changed = changed[place:] + changed[:place]
        case 4:
            changed += bytes(rng.randrange(1, 9))
    return bytes(changed)


@pytest.mark.parametrize(
    "name", [model_dir.MANIFEST, *checkpoint.FILES, checkpoint.STATE, DOCUMENTS]
)
def test_damage_is_seen(name: str, tmp_path: Path) -> None:
    """In whichever file and wherever in it: it loads as it was, or the file is named."""
    model = tmp_path / "model"
    model_dir.save(model, with_state())
    path = file_of(model, name)
    rng = random.Random(name)
    original = path.read_bytes()
    for _ in range(80):
        content = mutated(original, rng)
        path.write_bytes(content)
        if content == original or (name == model_dir.MANIFEST and same_json(content, original)):
            continue  # zeros where zeros were; or white space
        with pytest.raises(StoreError, match=r"damaged|differ|format|cannot be used|cannot read"):
            model_dir.load(model)
    path.write_bytes(original)
    model_dir.load(model)


def with_state(seed: int = 1) -> Checkpoint:
    params, m, v = (init(CONFIG, random.Random(seed + i)) for i in range(3))
    v = array("d", [x * x for x in v])
    return replace(stored(seed), state={"params": params, "m": m, "v": v, "step": 1})


def test_the_state_comes_back(tmp_path: Path) -> None:
    model_dir.save(tmp_path / "model", with_state())
    assert model_dir.load(tmp_path / "model").state == with_state().state


def same_json(a: bytes, b: bytes) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))
    except ValueError:
        return False


@pytest.mark.parametrize("name", [model_dir.MANIFEST, *checkpoint.FILES, DOCUMENTS])
def test_a_missing_file_is_named(name: str, model: Path) -> None:
    path = file_of(model, name)
    path.unlink()
    with pytest.raises(StoreError, match=path.name):
        model_dir.load(model)


def test_files_of_two_models_are_not_one(model: Path, tmp_path: Path) -> None:
    model_dir.save(tmp_path / "other", stored(2))
    for name in ("model.safetensors", "training.json"):
        shutil.copytree(model, tmp_path / name)
        shutil.copy(newest(tmp_path / "other") / name, newest(tmp_path / name) / name)
        with pytest.raises(StoreError, match=f"{name} is damaged"):
            model_dir.load(tmp_path / name)


def test_a_huge_file_is_not_looked_into(model: Path) -> None:
    """Eight gigabytes, most of them a hole; also if the manifest agrees with them."""
    for name in ("config.json", "model.safetensors", DOCUMENTS):
        path = file_of(model, name)
        original = path.read_bytes()
        begin = time.process_time()
        os.truncate(path, 1 << 33)
        with pytest.raises(StoreError, match=f"{path.name} is damaged: it has 8,589,934,592 bytes"):
            model_dir.load(model)
        if name != DOCUMENTS:
            manifest = json.loads((newest(model) / model_dir.MANIFEST).read_text())
            manifest["files"][name]["size"] = 1 << 33
            (newest(model) / model_dir.MANIFEST).write_text(json.dumps(manifest))
            with pytest.raises(StoreError, match=r"but needs at most .*"):
                model_dir.load(model)
        assert time.process_time() - begin < 2  # to read so much takes longer
        path.write_bytes(original)
        resign(model)


def test_a_header_that_says_it_is_huge(model: Path) -> None:
    path = newest(model) / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[:8] = (1 << 31).to_bytes(8, "little")
    path.write_bytes(content)
    resign(model)
    with pytest.raises(StoreError, match="its header is longer than it can be"):
        model_dir.load(model)


def resign(model: Path) -> None:
    """Make the manifest agree with files that a test has changed."""
    folder = newest(model)
    manifest = json.loads((folder / model_dir.MANIFEST).read_text())
    for name in manifest["files"]:
        content = (folder / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"size": len(content), "sha256": digest}
    (folder / model_dir.MANIFEST).write_text(json.dumps(manifest))


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
            "config.json says vocab_size 9",
        ),
        (
            "config.json",
            '{"n_embd": 4, "n_head": 2, "block_size": 6, "vocab_size": 4}',
            "wpe as F64 [5, 4]",
        ),
        (
            "config.json",
            '{"n_embd": 4, "n_head": 2, "block_size": 5, "vocab_size": 4, "n_layer": 2}',
            "has fewer numbers than config.json asks for",
        ),
        (
            "config.json",
            '{"n_embd": 4, "n_head": 2, "block_size": 5, "vocab_size": 4, "n_layer": 2000000000}',
            "has fewer numbers than config.json asks for",
        ),
        ("tokenizer.json", '{"type": "char", "chars": ["a"]}', "has 2 tokens, config.json says"),
        ("tokenizer.json", '{"type": "bpe"}', '"merges" is not a list of pairs'),
        ("tokenizer.json", '{"type": "word"}', 'not a tokenizer of "type": "char" or "bpe"'),
        (
            "tokenizer.json",
            '{"type": "bpe", "merges": [[97, 98]], "specials": ["<|bos|>"]}',
            "has 258 tokens, config.json says",
        ),
        ("model.safetensors", "", "model.safetensors has fewer numbers"),
        ("model.safetensors", "x" * 3000, "its header is longer than it can be"),
        ("metrics.jsonl", "{\n", "cannot be used"),
        ("metrics.jsonl", "", "metrics.jsonl is empty"),
        ("metrics.jsonl", "5\n", "metrics.jsonl has a line with a wrong step number"),
        (
            "metrics.jsonl",
            '{"step": 2, "loss": 1, "learning_rate": 1}',
            "a wrong step number",
        ),
        ("metrics.jsonl", '{"step": 1, "loss": NaN, "learning_rate": 1}', "without the numbers"),
        ("metrics.jsonl", '{"step": 1, "loss": 1}', "without the numbers"),
        ("training.json", "[]", "training.json has no valid"),
        ("training.json", '{"engine": "scalar"}', "training.json has no valid"),
        ("training.json", "[" * 100_000, "cannot be used"),
        ("config.json", '{"n_embd": 1000000007, "n_head": 2}', "not divisible by n_head 2"),
        ("training.json", "", "cannot be used"),
    ],
)
def test_files_that_do_not_fit_together(name: str, content: str, message: str, model: Path) -> None:
    (newest(model) / name).write_text(content)
    resign(model)
    with pytest.raises(StoreError) as caught:
        model_dir.load(model)
    assert message in str(caught.value)


def test_what_is_no_model(model: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no model at"):
        model_dir.load(tmp_path / "none")
    with pytest.raises(StoreError, match="is a file, not a model directory"):
        model_dir.load(newest(model) / "config.json")
    with pytest.raises(StoreError, match="no model in "):
        model_dir.load(tmp_path)
    (newest(model) / model_dir.MANIFEST).write_text("[" * 100_000)
    with pytest.raises(StoreError, match=r"manifest\.json is damaged"):
        model_dir.load(model)
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(StoreError, match=r"cannot read|no model at"):
            model_dir.load(name)
    (newest(model) / model_dir.MANIFEST).write_text('{"format": 99}')
    with pytest.raises(StoreError, match="has format 99, this version of Kamon reads 4, 3 and 2"):
        model_dir.load(model)


def test_replace_file_keeps_the_old_one_when_it_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    atomic.replace_file(path, b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        atomic.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_saving_over_a_vanished_folder(model: Path) -> None:
    shutil.rmtree(model)
    model_dir.save(model, stored(3), overwrite=True)
    assert model_dir.load(model).training["seed"] == 3


# ---- what strange directories led to


def test_one_generation_is_not_the_model(model: Path) -> None:
    with pytest.raises(
        StoreError, match="is one checkpoint of a model\nhint: give the directory that"
    ):
        model_dir.load(newest(model))


def test_a_manifest_of_another_format(model: Path) -> None:
    hashes = dict.fromkeys(model_dir.FLAT_FILES, "")
    manifest = json.dumps({"format": model_dir.FLAT_FORMAT, "sha256": hashes})
    (newest(model) / model_dir.MANIFEST).write_text(manifest)
    with pytest.raises(StoreError, match=r"manifest.json is damaged: it has another format"):
        model_dir.load(model)


@pytest.mark.parametrize("size", ["1e999", "-1", "true", "null", '"9"', "1e2"])
def test_a_size_that_is_none(size: str, model: Path) -> None:
    path = newest(model) / model_dir.MANIFEST
    manifest = path.read_text()
    entry = json.loads(manifest)["files"]["config.json"]
    path.write_text(manifest.replace(f'"size": {entry["size"]}', f'"size": {size}'))
    with pytest.raises(StoreError, match="damaged"):
        model_dir.load(model)


def test_a_state_is_not_lost_by_one_bit(tmp_path: Path) -> None:
    """Of its name in the manifest."""
    model_dir.save(tmp_path / "m", with_state())
    path = newest(tmp_path / "m") / model_dir.MANIFEST
    path.write_text(path.read_text().replace(checkpoint.STATE, "rtate.safetensors"))
    with pytest.raises(StoreError, match="is not a manifest"):
        model_dir.load(tmp_path / "m")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
@pytest.mark.parametrize("name", [model_dir.MANIFEST, "config.json", DOCUMENTS])
def test_a_pipe_is_not_waited_for(name: str, model: Path) -> None:
    path = file_of(model, name)
    path.unlink()
    os.mkfifo(path)
    entry = {"size": 0, "sha256": hashlib.sha256().hexdigest()}
    if name == "config.json":  # and the manifest agrees
        manifest = json.loads((newest(model) / model_dir.MANIFEST).read_text())
        manifest["files"][name] = entry
        (newest(model) / model_dir.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=f"cannot read .*{path.name}: it is not a file"):
        model_dir.load(model)
    with pytest.raises(
        StoreError, match=r"it is not a file|contains a model|contains something other"
    ):
        model_dir.save(model, stored())


@pytest.mark.slow
def test_much_damage_takes_no_memory(model: Path) -> None:
    """Where the manifest agrees with the size: a hash of it all is taken, nothing more."""
    path = file_of(model, DOCUMENTS)
    os.truncate(path, 3 << 27)
    manifest = json.loads((newest(model) / model_dir.MANIFEST).read_text())
    manifest["documents"]["size"] = 3 << 27
    (newest(model) / model_dir.MANIFEST).write_text(json.dumps(manifest))
    with (
        memory_limit(1 << 27),
        pytest.raises(StoreError, match=r"jsonl.gz is damaged: its SHA-256"),
    ):
        model_dir.load(model)


def test_no_more_lines_than_steps(model: Path) -> None:
    path = newest(model) / "metrics.jsonl"
    original = path.read_bytes()
    os.truncate(path, 1 << 31)
    manifest = json.loads((newest(model) / model_dir.MANIFEST).read_text())
    manifest["files"]["metrics.jsonl"]["size"] = 1 << 31
    (newest(model) / model_dir.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StoreError, match=r"metrics.jsonl is damaged: .* but needs at most 500,000"):
        model_dir.load(model)
    line = json.loads(original)
    lines = [json.dumps(line | {"step": step}) for step in range(1, 1002)]
    path.write_text("\n".join(lines))
    resign(model)
    with pytest.raises(StoreError, match=r"has more steps than the 1,000 of config.json"):
        model_dir.load(model)


@pytest.mark.parametrize("char", ["\ud800", "\0"])
def test_tokens_that_no_text_has(char: str, model: Path) -> None:
    path = newest(model) / "tokenizer.json"
    path.write_text(json.dumps({"type": "char", "chars": ["a", "b", char]}))
    resign(model)
    with pytest.raises(StoreError, match="has a NUL or a lone surrogate"):
        model_dir.load(model)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seconds": float("inf")}, "Out of range"),
        ({"other": [float("nan")]}, "Out of range"),
        ({"seconds": 10**400}, "too large"),
        ({"engine": "abacus"}, "no valid description of the training"),
        ({"dtype": "int8"}, "no valid description of the training"),
        ({"num_steps_done": 7}, "no valid number of steps: metrics.jsonl has 1"),
        ({"finished": None}, "no valid state to resume from"),
        ({"hold_out": 1}, "no valid state to resume from"),
        ({"held_out": {}}, "no valid validation loss"),
        ({"corpus": {"source": "here", "num_docs": 3}}, "no valid state to resume from"),
        ({"corpus": {"source": "here", "num_docs": 3, "split": 4}}, "no valid description"),
        ({"blend": {"weight": 1.1, "order": 2}}, "no valid blend"),
        ({"blend": {"weight": 0.5, "order": 0}}, "no valid blend"),
        ({"blend": {"weight": 0.5}}, "no valid blend"),
        ({"cross_validation": {"num_folds": 5}}, "no valid cross-validation losses"),
    ],
)
def test_a_training_that_cannot_be(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    model = tmp_path / "m"
    model_dir.save(model, with_state())
    path = newest(model) / "training.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    resign(model)
    with pytest.raises(StoreError, match=f"training.json.*{message}"):
        model_dir.load(model)


def test_a_loss_of_too_many_digits(model: Path) -> None:
    path = newest(model) / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 10**400, "learning_rate": 1}))
    resign(model)
    with pytest.raises(StoreError, match=r"metrics.jsonl: int too large"):
        model_dir.load(model)


def test_squares_are_not_negative(tmp_path: Path) -> None:
    broken = with_state()
    assert broken.state
    broken.state["v"][3] = -1.0
    model_dir.save(tmp_path / "m", broken)
    with pytest.raises(StoreError, match="has a negative mean of squares"):
        model_dir.load(tmp_path / "m")


def test_a_lock_that_leads_elsewhere(model: Path, tmp_path: Path) -> None:
    """What it leads to stays as it is."""
    (tmp_path / "mine").write_text("mine")
    (model / "lock").unlink()
    (model / "lock").symlink_to(tmp_path / "mine")
    with pytest.raises(StoreError, match="cannot write"):
        model_dir.save(model, stored(2), overwrite=True)
    assert (tmp_path / "mine").read_text() == "mine"
    assert model_dir.load(model).training["seed"] == 1


def test_generations_without_end(model: Path) -> None:
    """Behind the last number of nine digits comes one of ten, not nothing."""
    newest(model).rename(model / "generation-999999999")
    model_dir.save(model, stored(2), overwrite=True)
    assert newest(model).name == "generation-1000000000"
    assert model_dir.load(model).training["seed"] == 2
    shutil.copytree(newest(model), model / "generation-01000000000")  # no name that Kamon gives
    with pytest.raises(StoreError, match="contains something other"):
        model_dir.save(model, stored(3), overwrite=True)


@pytest.mark.parametrize(
    "what", ["model", "generation", model_dir.MANIFEST, "config.json", DOCUMENTS]
)
def test_what_may_not_be_read(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By another user than root, whom no permission keeps out."""
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        model = Path(folder, "m")
        model_dir.save(model, stored())
        path = {"model": model, "generation": newest(model)}.get(what) or file_of(model, what)
        mode = path.stat().st_mode
        os.chmod(path, 0)
        if root:
            os.seteuid(65534)
        try:
            for action in (
                lambda: model_dir.load(model),
                lambda: model_dir.save(model, stored(2), overwrite=True),
                lambda: model_dir.writing(model, go_on=True).__enter__(),
            ):
                with pytest.raises(StoreError, match=r"Permission denied|something other"):
                    action()
        finally:
            if root:
                os.seteuid(0)
            os.chmod(path, mode)
        assert model_dir.load(model).training["seed"] == 1
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("char", [b"[", b"a", b"\n"])
def test_documents_that_unfold(char: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that says it is a huge one is given up soon."""
    monkeypatch.setattr(checkpoint, "MAX_DOCUMENT_BYTES", 1 << 27)
    packed = gzip.compress(char * (1 << 28), 1)
    assert len(packed) < 1 << 22
    begin = time.process_time()
    with memory_limit(), pytest.raises(StoreError, match="documents cannot be used"):
        checkpoint.unpack_documents(packed)
    assert time.process_time() - begin < 20
