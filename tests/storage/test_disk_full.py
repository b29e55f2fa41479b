"""A disk that is full at any byte of a training: what was kept stays, and goes on later."""

from __future__ import annotations

import builtins
import errno
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import times
from helpers.lists import DOCS
from kamon.errors import StoreError
from kamon.storage import model_dir

pytestmark = pytest.mark.torture

SETTINGS = {
    "n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 6, "num_steps": 12, "batch_size": 2,
    "learning_rate": 0.03, "size": "original", "checkpoint_every": 3,
}  # fmt: skip


def size_of(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@contextmanager
def room(path: Path, size: int) -> Iterator[None]:
    """No more than so many bytes can be there, as the calls to the system see it."""
    real_open, real_write = builtins.open, os.write

    def check(more: int) -> None:
        if size_of(path) + more > size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def limited(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        opened = real_open(file, mode, *args, **options)
        if "x" in mode:
            write = opened.write

            class Limited:
                """Half of what no longer fits may still land there, as on a real disk."""

                def write(self, content: bytes) -> int:
                    opened.flush()
                    try:
                        check(len(content))
                    except OSError:
                        write(content[: len(content) // 2])
                        raise
                    return int(write(content))

                def __getattr__(self, name: str) -> Any:
                    return getattr(opened, name)

                def __enter__(self) -> Limited:
                    return self

                def __exit__(self, *_: object) -> None:
                    opened.close()

            return Limited()
        return opened

    def limited_write(descriptor: int, content: bytes) -> int:
        check(len(content))
        return real_write(descriptor, content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builtins, "open", limited)
        patch.setattr(os, "write", limited_write)
        yield


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[None]:
    """A file system of its own; it counts in pages."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={max(4096, size)}", "tmpfs", str(path)]
    subprocess.run(mount, check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def may_mount(path: Path) -> bool:
    if not hasattr(os, "geteuid") or os.geteuid():
        return False
    mount = ["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", str(path)]
    try:
        if subprocess.run(mount, capture_output=True).returncode:
            return False
    except OSError:
        return False
    subprocess.run(["umount", str(path)], check=True)
    return True


def full_disk(
    path: Path, whole: model_dir.Checkpoint, starve: Callable[[], Any], feed: Callable[[], Any]
) -> bool:
    """One training in too little room, and on in enough. Whether there was something to go on."""
    starve()
    said = ""
    try:
        kamon.train(DOCS, output=path, **SETTINGS)
    except StoreError as error:
        said = str(error)
    finished = not said
    assert said in ("", f"cannot write {path}: No space left on device")
    kept = path.exists() and bool(model_dir.numbered_dirs(path))
    assert not finished or kept
    assert not [name for name in os.listdir(path.parent) if name.startswith(".")]
    if kept:
        assert not [name for name in os.listdir(path) if name.startswith(".")]
        found = model_dir.load(path)
        done = len(found.metrics)
        assert done % 3 == 0
        assert list(found.metrics) == list(whole.metrics)[:done]
        assert finished or not found.training["finished"]
    else:
        assert not path.exists()
    feed()
    if not kept:
        kamon.train(DOCS, output=path, **SETTINGS)
    elif not finished:
        kamon.resume(path)
    found = model_dir.load(path)
    assert (found.params, found.state, found.metrics) == (whole.params, whole.state, whole.metrics)
    return kept and not finished


@pytest.fixture
def whole(tmp_path: Path) -> model_dir.Checkpoint:
    kamon.train(DOCS, output=tmp_path / "whole", **SETTINGS)
    return model_dir.load(tmp_path / "whole")


def sizes(tmp_path: Path) -> list[int]:
    """From none to three checkpoints, and around whole ones."""
    generation = size_of(model_dir.newest_checkpoint_dir(tmp_path / "whole"))
    rng = random.Random(1)
    number = times(10, 200)
    return [int(3.3 * generation * (i + rng.random()) / number) for i in range(number)]


def test_a_full_disk_at_every_size(tmp_path: Path, whole: model_dir.Checkpoint) -> None:
    went_on = 0
    for number, size in enumerate(sizes(tmp_path)):
        folder = tmp_path / str(number)
        folder.mkdir()
        limit = room(folder, size)
        went_on += full_disk(
            folder / "m",
            whole,
            limit.__enter__,
            lambda limit=limit: limit.__exit__(None, None, None),  # type: ignore[misc]
        )
    assert went_on > times(10, 200) // 5


def test_a_full_file_system(tmp_path: Path, whole: model_dir.Checkpoint) -> None:
    """The same on a real one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if not may_mount(disk):
        pytest.skip("this process may not mount a file system to fill")
    went_on = 0
    for size in sizes(tmp_path):
        with small_disk(disk, 3 * size):  # small files take whole pages
            more = ["mount", "-o", "remount,size=10m", str(disk)]
            went_on += full_disk(
                disk / "m",
                whole,
                lambda: None,
                lambda more=more: subprocess.run(more, check=True),  # type: ignore[misc]
            )
    assert went_on > times(10, 200) // 5
