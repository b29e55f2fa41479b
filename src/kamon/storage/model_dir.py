"""The model directory. Even if a process is killed while it writes, the last model stays intact.

    generation-000001/      a checkpoint: the files of `kamon.storage.checkpoint`
        manifest.json       the version of this format, and the size and SHA-256 of each file
    documents-….jsonl.gz    the list, named after its SHA-256 (manifests contain this name)
    lock                    the process that writes here (see `kamon.files.lock`)

Kamon writes a checkpoint under a temporary name, the manifest last. It syncs each file and the
folder, then renames the folder. Only then does it delete older checkpoints, except one. If the
newest checkpoint is damaged, a training can resume from the previous one. The newest checkpoint is
the model. Kamon verifies every size and hash when it reads.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from io import BufferedReader
from pathlib import Path
from typing import Any

from kamon.data.documents import Documents
from kamon.errors import StoreError
from kamon.files.atomic import sync_folder, write_synced
from kamon.files.lock import locked
from kamon.files.output_path import check_directory, write_errors
from kamon.storage import checkpoint
from kamon.storage.checkpoint import Checkpoint, from_files, pack_documents, to_files, to_json
from kamon.storage.records import TrainingRecord

FORMAT = 3
GIVEN_FORMAT = 4  # of a conditional model, whose documents are rows: see kamon.data.columns
MANIFEST = "manifest.json"
LOCK = "lock"
MAX_CHECKPOINTS = 2  # that a training keeps
CHECKPOINT_NAME = re.compile(r"generation-([0-9]{6}|[1-9][0-9]{6,})")
DOCUMENTS = re.compile(r"documents-[0-9a-f]{16}\.jsonl\.gz")
TEMPORARY_NAME = re.compile(r"\.(new|old)-[0-9a-f]{12}")  # a killed process leaves such files
MAX_MANIFEST_BYTES = 1 << 20
MAX_PACKED_BYTES = 1 << 34

# The previous format: one flat directory. Its manifest has only hashes.
FLAT_FORMAT = 2
FLAT_DOCUMENTS = "documents.jsonl.gz"
FLAT_FILES = (*checkpoint.FILES, FLAT_DOCUMENTS)


def save(path: str | Path, stored: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a model directory completely or not at all.

    overwrite: whether to replace an existing model. Kamon never replaces anything else.

    Raises: StoreError if `path` exists, cannot be written, or another process is writing it.
    """
    with writing(path, overwrite=overwrite) as writer:
        writer.save(stored)


@contextmanager
def writing(
    path: str | Path, *, overwrite: bool = False, go_on: bool = False
) -> Iterator[CheckpointWriter]:
    """Hold a model directory to save checkpoints in it. It raises the errors of `save`.

    go_on: whether to resume the training in this directory. Otherwise the first new checkpoint
    replaces the old ones. A new directory is removed if nothing was saved.
    """
    given = str(path)
    if go_on:
        path = require_dir(path).resolve()
        with readable(path):
            if not numbered_dirs(path) and not (path / LOCK).exists():
                newest_checkpoint_dir(path)  # raises the error
    else:
        path = check_target(path, overwrite=overwrite)
    with ExitStack() as stack:
        with write_errors(given):
            if not path.exists():
                path.mkdir(parents=True, exist_ok=True)
                stack.callback(remove_empty, path)
                sync_folder(path.parent)
            made = not os.listdir(path)
            stack.enter_context(locked(path / LOCK, given))
            stack.callback(remove_if_empty, path, made)
            if not go_on:
                check_target(path, overwrite=overwrite)  # again, now that we hold the lock
            remove_matching(path, TEMPORARY_NAME)
            writer = CheckpointWriter(path, go_on)
        yield writer


def remove_if_empty(path: Path, made: bool) -> None:
    """Empty the directory again if it was empty and has no checkpoint."""
    if made and not numbered_dirs(path):
        remove_matching(path, TEMPORARY_NAME, DOCUMENTS, re.compile(LOCK))


def remove_empty(path: Path) -> None:
    """Remove the directory, unless another process has started to write there."""
    with suppress(OSError):
        path.rmdir()


def check_target(path: str | Path, *, overwrite: bool) -> Path:
    """Return the absolute path that `save` will write to, or raise its StoreError early."""
    given, path = str(path) or "an empty name", Path(path).absolute()
    with write_errors(given):
        if path.is_symlink():
            raise StoreError(f"{given} is a symbolic link", "give the directory it points to")
        check_directory(path, given, "the model")
        if path.is_dir():
            there = numbered_dirs(path)  # before is_model: a checkpoint may appear meanwhile
            if is_model(path):
                if not overwrite:
                    raise StoreError(
                        f"{given} already contains a model",
                        "choose another name, or add --overwrite (overwrite=True in Python)",
                    )
            elif there or not all(map(is_own_name, os.listdir(path))):
                raise StoreError(
                    f"{given} contains something other than a model, or a damaged model",
                    "choose another name",
                )
        if path.parent.is_dir() and is_model(path.parent):
            raise StoreError(f"{given} is inside another model directory", "choose another name")
        folder = next(folder for folder in (path, *path.parents) if folder.exists())
        probe = folder / f".new-{secrets.token_hex(6)}"
        probe.mkdir()  # an error here means that the model cannot be written
        with suppress(FileNotFoundError):  # another process has removed it
            probe.rmdir()
    return path


def is_own_name(name: str) -> bool:
    """Return True if Kamon uses this name in a model directory."""
    return name == LOCK or any(
        pattern.fullmatch(name) for pattern in (CHECKPOINT_NAME, DOCUMENTS, TEMPORARY_NAME)
    )


def is_model(path: Path) -> bool:
    """Return True if the folder has only a model's files, so that Kamon may replace it."""
    others = {name for name in os.listdir(path) if not is_own_name(name)}
    if others == {MANIFEST, *FLAT_FILES}:
        return has_manifest(path)
    return not others and any(map(has_manifest, checkpoint_dirs(path)))


def has_manifest(folder: Path) -> bool:
    try:
        return bool(read_manifest(folder))
    except StoreError:
        return False


# ---- writing


class CheckpointWriter:
    """Saves checkpoints in a directory that this process holds.

    Attributes:
        stored: when resuming, the newest intact checkpoint.
        folder: its folder.
        problems: errors of newer checkpoints, which are damaged.
    """

    stored: Checkpoint
    folder: Path
    problems: list[str]

    def __init__(self, path: Path, go_on: bool) -> None:
        self.path = path
        self.documents: dict[str, Any] = {}
        self.kept: list[int] = []  # numbers of checkpoints
        if go_on:
            self.stored, self.folder, self.problems = load_newest_whole(path)
            self.documents = read_manifest(self.folder)["documents"]
            self.kept = [number for number, f in numbered_dirs(path).items() if f == self.folder]

    def save(self, stored: Checkpoint) -> int:
        """Write a checkpoint and return its number. A StoreError leaves older checkpoints as they
        were."""
        with write_errors(str(self.path)):
            if not self.documents:
                self.documents = self._save_documents(stored.documents)
            number = max(numbered_dirs(self.path), default=0) + 1
            with staging(self.path) as folder:
                files: dict[str, Any] = {}
                for name, content in to_files(stored).items():
                    digest = write_synced(folder / name, content)
                    files[name] = {"size": (folder / name).stat().st_size, "sha256": digest}
                version = GIVEN_FORMAT if stored.training.given else FORMAT
                manifest = {"format": version, "documents": self.documents, "files": files}
                write_synced(folder / MANIFEST, to_json(manifest))
                sync_folder(folder)
                os.rename(folder, self.path / f"generation-{number:06}")
                sync_folder(self.path)
            self.kept.append(number)
            self._prune()
        return number

    def _save_documents(self, documents: bytes | Documents) -> dict[str, Any]:
        """Write the documents and return their entry in a manifest."""
        with staging(self.path) as folder:
            parts = documents if isinstance(documents, bytes) else pack_documents(documents)
            digest = write_synced(folder / "documents", parts)
            size = (folder / "documents").stat().st_size
            name = f"documents-{digest[:16]}.jsonl.gz"
            os.replace(folder / "documents", self.path / name)
            sync_folder(self.path)
        return {"name": name, "size": size, "sha256": digest}

    def _prune(self) -> None:
        """Delete what the new checkpoint replaces. If that fails, a later call tries again."""
        self.kept = self.kept[-MAX_CHECKPOINTS:]
        with suppress(OSError):
            for number, folder in numbered_dirs(self.path).items():
                if number not in self.kept:
                    remove(folder)
            for name in os.listdir(self.path):
                others = DOCUMENTS.fullmatch(name) and name != self.documents["name"]
                if others or name in (MANIFEST, *FLAT_FILES):
                    (self.path / name).unlink()


@contextmanager
def staging(parent: Path) -> Iterator[Path]:
    """Yield a temporary folder in `parent`, and remove it at the end, even after an error."""
    folder = parent / f".new-{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(folder: Path) -> None:
    """Rename the folder, then delete it, so that nothing reads it when it is incomplete."""
    old = folder.with_name(f".old-{secrets.token_hex(6)}")
    os.rename(folder, old)
    shutil.rmtree(old, ignore_errors=True)


def remove_matching(path: Path, *patterns: re.Pattern[str]) -> None:
    """Remove the files and folders whose names match a pattern."""
    for name in os.listdir(path):
        if any(pattern.fullmatch(name) for pattern in patterns):
            if (path / name).is_dir():
                shutil.rmtree(path / name, ignore_errors=True)
            else:
                # Another process may have removed the probe of its `check_target`.
                (path / name).unlink(missing_ok=True)


# ---- reading


def load(path: str | Path) -> Checkpoint:
    """Return the newest checkpoint.

    Raises: StoreError if it is missing, damaged, or from another program. The message names the
        file, and the hint names an older intact checkpoint if there is one.
    """
    path = require_dir(path)
    with readable(path):
        if (path / MANIFEST).is_file() and not numbered_dirs(path):
            return read_flat(path)
        newest = newest_checkpoint_dir(path)
        while True:
            try:
                return read_generation(newest)
            except StoreError as error:
                before, newest = newest, newest_checkpoint_dir(path)
                if newest != before:
                    continue  # a training has saved a checkpoint meanwhile
                _, older, _ = load_newest_whole(path)  # raises the same error if none is intact
                raise StoreError(
                    error.message,
                    f"resume from {older.name} with `kamon train --resume {path}` "
                    "(kamon.resume in Python)",
                ) from None


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"cannot read {str(path)!r}: {reason}") from None


def load_newest_whole(path: str | Path) -> tuple[Checkpoint, Path, list[str]]:
    """Return the newest intact checkpoint, its folder, and the errors of newer ones."""
    path = require_dir(path)
    newest_checkpoint_dir(path)  # raises an error if there is none
    problems: list[str] = []
    for folder in reversed(checkpoint_dirs(path)):
        try:
            return read_generation(folder), folder, problems
        except StoreError as error:
            problems.append(str(error))
    raise StoreError(problems[0])


def require_dir(path: str | Path) -> Path:
    path = Path(path)
    with readable(path):
        if path.is_dir():
            return path
        if path.exists():
            raise StoreError(
                f"{path} is a file, not a model directory",
                "give the directory that `kamon train -o` wrote",
            )
    raise StoreError(f"no model at {path}", nearest_model(path))


def nearest_model(path: Path) -> str:
    """Return the hint that names the model with the most similar name, or how to train one."""
    import difflib

    with suppress(OSError):
        near = difflib.get_close_matches(path.name, os.listdir(path.parent))
        for folder in map(path.parent.joinpath, near):
            if folder.is_dir() and is_model(folder):
                return f"did you mean {str(folder)!r}?"
    return f"train one with `kamon train LIST -o {path}`"


def numbered_dirs(path: Path) -> dict[int, Path]:
    """Return the folders of all checkpoints by number, the newest last."""
    matches = filter(None, map(CHECKPOINT_NAME.fullmatch, os.listdir(path)))
    return {int(match[1]): path / match[0] for match in sorted(matches, key=lambda m: int(m[1]))}


def checkpoint_dirs(path: Path) -> list[Path]:
    return list(numbered_dirs(path).values())


def newest_checkpoint_dir(path: Path) -> Path:
    found = checkpoint_dirs(path)
    if not found and (path / MANIFEST).is_file():
        raise StoreError(
            f"{path} has an older format, which cannot be resumed",
            f"start a new training from it with `kamon train LIST --from {path}` "
            "(init_from in Python)",
        )
    if not found and (path / LOCK).exists():
        raise StoreError(
            f"{path} has no checkpoint yet",
            "wait if its training is still running, otherwise start the training again",
        )
    if not found:
        raise StoreError(f"no model in {path}", "give the directory that `kamon train -o` wrote")
    return found[-1]


def read_generation(folder: Path) -> Checkpoint:
    """Return a verified checkpoint. StoreError names a file that is missing or invalid."""
    manifest = read_manifest(folder)
    entry = manifest["documents"]
    if not entry:
        raise StoreError(f"{folder / MANIFEST} is damaged: it has another format")
    documents = read_verified(folder.parent / entry["name"], entry, MAX_PACKED_BYTES)
    return read_stored(folder, manifest["files"], documents)


def read_flat(path: Path) -> Checkpoint:
    """Return the checkpoint in a directory of format 2."""
    manifest = read_manifest(path)
    if manifest["documents"]:
        raise StoreError(
            f"{path} is one checkpoint of a model", "give the directory that contains it"
        )
    files = manifest["files"]
    documents = read_verified(path / FLAT_DOCUMENTS, files[FLAT_DOCUMENTS], MAX_PACKED_BYTES)
    stored = read_stored(path, files, documents)
    training = stored.training  # has no hold_out in this format
    hold_out = {"hold_out": training.held_out is not None}
    return replace(stored, training=TrainingRecord.read({**hold_out, **training}))


def read_stored(folder: Path, files: dict[str, Any], documents: bytes) -> Checkpoint:
    try:
        return from_files(
            lambda name, most: read_verified(folder / name, files[name], most), files, documents
        )
    except DamagedError as error:
        raise StoreError(str(error)) from None
    except StoreError as error:
        raise StoreError(f"{folder} cannot be used: {error}") from None


class DamagedError(StoreError):
    """A file differs from the manifest."""


def read_verified(path: Path, entry: dict[str, Any], most: int) -> bytes:
    """Return the bytes of a file after comparing it with the manifest and the maximum size."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.get("size", size):
                raise DamagedError(
                    f"{path} is damaged: it has {size:,} bytes, and {entry['size']:,} were written"
                )
            if size > most:
                raise DamagedError(
                    f"{path} is damaged: it has {size:,} bytes, but needs at most {most:,}"
                )
            # Hash it before reading it, so that a large damaged file takes no memory.
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise DamagedError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
            file.seek(0)
            return file.read(size)
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror}") from None


def open_file(path: Path) -> BufferedReader:
    """Open a regular file. A pipe could block, and a device may have no end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a file")
    return open(path, "rb")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return {"documents", "files"}. Each file has at least its "sha256"."""
    path = folder / MANIFEST
    try:
        with open_file(path) as file:
            found = json.loads(file.read(MAX_MANIFEST_BYTES))
        if found["format"] == FLAT_FORMAT:
            files = {name: {"sha256": str(found["sha256"][name])} for name in FLAT_FILES}
            return {"documents": None, "files": files}
        if found["format"] not in (FORMAT, GIVEN_FORMAT):
            raise StoreError(
                f"{folder} has format {found['format']!r:.20}, this version of Kamon reads "
                f"{GIVEN_FORMAT}, {FORMAT} and {FLAT_FORMAT}",
                "use the version of Kamon that wrote the model",
            )
        names = found["files"].keys()
        if names - checkpoint.OPTIONAL != set(checkpoint.FILES):
            raise ValueError
        if not DOCUMENTS.fullmatch(found["documents"]["name"]):
            raise ValueError
        return {
            "documents": entry_of(found["documents"]) | {"name": found["documents"]["name"]},
            "files": {name: entry_of(found["files"][name]) for name in names},
        }
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise StoreError(f"{path} is damaged: it is not a manifest") from None


def entry_of(found: Any) -> dict[str, Any]:
    size, digest = found["size"], found["sha256"]
    if type(size) is not int or not isinstance(digest, str):
        raise TypeError
    return {"size": size, "sha256": digest}
