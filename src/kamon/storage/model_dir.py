"""The model directory: whatever happens while it is written, a whole model is there.

    generation-000001/      the files of `kamon.storage.checkpoint`, and a manifest
        manifest.json       the version of this format, and of each file the size and SHA-256
    documents-….jsonl.gz    the list, named by its SHA-256; the manifests of generations name it
    lock                    who is writing here; see `kamon.files.lock`

A generation is written under another name, each file and the folder synced, the manifest last, and
then renamed: it is there whole or not at all. Only then older ones go, but for one: a training
leaves a generation from time to time, and should the newest be damaged it goes on from the one
before. The newest one is the model. Reading compares every size and hash.
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
MAX_CHECKPOINTS = 2  # generations of a training
CHECKPOINT_NAME = re.compile(r"generation-([0-9]{6}|[1-9][0-9]{6,})")
DOCUMENTS = re.compile(r"documents-[0-9a-f]{16}\.jsonl\.gz")
TEMPORARY_NAME = re.compile(
    r"\.(new|old)-[0-9a-f]{12}"
)  # what a process that was killed leaves behind
MAX_MANIFEST_BYTES = 1 << 20
MAX_PACKED_BYTES = 1 << 34

# The format before: one flat directory, whose manifest has hashes alone.
FLAT_FORMAT = 2
FLAT_DOCUMENTS = "documents.jsonl.gz"
FLAT_FILES = (*checkpoint.FILES, FLAT_DOCUMENTS)


def save(path: str | Path, stored: Checkpoint, *, overwrite: bool = False) -> None:
    """Write a model directory, wholly or not at all.

    StoreError where `path` is taken (a model is replaced only with `overwrite`, all else never),
    cannot be written, or is being written by another process.
    """
    with writing(path, overwrite=overwrite) as writer:
        writer.save(stored)


@contextmanager
def writing(
    path: str | Path, *, overwrite: bool = False, go_on: bool = False
) -> Iterator[CheckpointWriter]:
    """Hold a model directory, to save one generation after the other. Errors as of `save`.

    go_on: with the training whose generations are there; otherwise they go when the first new one
    is there. If nothing was saved, a new directory goes again.
    """
    given = str(path)
    if go_on:
        path = require_dir(path).resolve()
        with readable(path):
            if not numbered_dirs(path) and not (path / LOCK).exists():
                newest_checkpoint_dir(path)  # says that there is none
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
                check_target(path, overwrite=overwrite)  # again: another may have been quicker
            remove_matching(path, TEMPORARY_NAME)
            writer = CheckpointWriter(path, go_on)
        yield writer


def remove_if_empty(path: Path, made: bool) -> None:
    """If nothing was saved in a directory that was empty, it is empty again."""
    if made and not numbered_dirs(path):
        remove_matching(path, TEMPORARY_NAME, DOCUMENTS, re.compile(LOCK))


def remove_empty(path: Path) -> None:
    """Not if another process has begun to write there."""
    with suppress(OSError):
        path.rmdir()


def check_target(path: str | Path, *, overwrite: bool) -> Path:
    """Return the absolute path that `save` will write to. StoreError if it cannot: ask first."""
    given, path = str(path) or "an empty name", Path(path).absolute()
    with write_errors(given):
        if path.is_symlink():
            raise StoreError(f"{given} is a symbolic link", "give the directory it points to")
        check_directory(path, given, "the model")
        if path.is_dir():
            there = numbered_dirs(path)  # first: one that comes in between makes it a model
            if is_model(path):
                if not overwrite:
                    raise StoreError(
                        f"{given} already contains a model",
                        "choose another name, or add --overwrite",
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
        probe.mkdir()  # it can be made: so can the model
        with suppress(FileNotFoundError):  # another process has cleared it away
            probe.rmdir()
    return path


def is_own_name(name: str) -> bool:
    """Whether an entry of a directory has a name that Kamon gives."""
    return name == LOCK or any(
        pattern.fullmatch(name) for pattern in (CHECKPOINT_NAME, DOCUMENTS, TEMPORARY_NAME)
    )


def is_model(path: Path) -> bool:
    """Whether a model's files are in the folder and nothing else: then it may be replaced."""
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
    """Saves generations in a directory that this process holds.

    To go on: what the newest whole one of them has is in `stored`, its place is `folder`, and
    `problems` says what is wrong with newer ones.
    """

    stored: Checkpoint
    folder: Path
    problems: list[str]

    def __init__(self, path: Path, go_on: bool) -> None:
        self.path = path
        self.documents: dict[str, Any] = {}
        self.kept: list[int] = []  # numbers of generations
        if go_on:
            self.stored, self.folder, self.problems = load_newest_whole(path)
            self.documents = read_manifest(self.folder)["documents"]
            self.kept = [number for number, f in numbered_dirs(path).items() if f == self.folder]

    def save(self, stored: Checkpoint) -> int:
        """The number of the new generation. StoreError where it cannot be written: then the ones
        before are what they were."""
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
        """What a manifest says of them."""
        with staging(self.path) as folder:
            parts = documents if isinstance(documents, bytes) else pack_documents(documents)
            digest = write_synced(folder / "documents", parts)
            size = (folder / "documents").stat().st_size
            name = f"documents-{digest[:16]}.jsonl.gz"
            os.replace(folder / "documents", self.path / name)
            sync_folder(self.path)
        return {"name": name, "size": size, "sha256": digest}

    def _prune(self) -> None:
        """Away with what the newest generation replaces. What cannot go now goes another time."""
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
    """A folder for what shall take its place in `parent`; gone afterwards, whatever happened."""
    folder = parent / f".new-{secrets.token_hex(6)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove(folder: Path) -> None:
    """First its name goes, at once: no part of it is ever taken for the whole."""
    old = folder.with_name(f".old-{secrets.token_hex(6)}")
    os.rename(folder, old)
    shutil.rmtree(old, ignore_errors=True)


def remove_matching(path: Path, *patterns: re.Pattern[str]) -> None:
    """Remove what has such a name."""
    for name in os.listdir(path):
        if any(pattern.fullmatch(name) for pattern in patterns):
            if (path / name).is_dir():
                shutil.rmtree(path / name, ignore_errors=True)
            else:
                # Another process takes its own probes away, as `check_target` makes them.
                (path / name).unlink(missing_ok=True)


# ---- reading


def load(path: str | Path) -> Checkpoint:
    """Read the model: the newest generation. StoreError names what is missing, damaged or foreign.

    A damaged one is not passed over in silence: the error says whether an older one is whole.
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
                    continue  # a training beside us has gone on meanwhile
                _, older, _ = load_newest_whole(path)  # the same error, if none is whole
                raise StoreError(
                    error.message, f"resume from {older.name} with `kamon train --resume {path}`"
                ) from None


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"cannot read {str(path)!r}: {reason}") from None


def load_newest_whole(path: str | Path) -> tuple[Checkpoint, Path, list[str]]:
    """The newest generation that verifies, its folder, and what is wrong with those after it."""
    path = require_dir(path)
    newest_checkpoint_dir(path)  # says if there is none
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
    raise StoreError(f"no model at {path}", f"train one with `kamon train LIST -o {path}`")


def numbered_dirs(path: Path) -> dict[int, Path]:
    """The folders of all generations, by number, the newest last."""
    matches = filter(None, map(CHECKPOINT_NAME.fullmatch, os.listdir(path)))
    return {int(match[1]): path / match[0] for match in sorted(matches, key=lambda m: int(m[1]))}


def checkpoint_dirs(path: Path) -> list[Path]:
    return list(numbered_dirs(path).values())


def newest_checkpoint_dir(path: Path) -> Path:
    found = checkpoint_dirs(path)
    if not found and (path / MANIFEST).is_file():
        raise StoreError(
            f"{path} has an older format, which cannot be resumed",
            f"start a new training from it with `kamon train LIST --from {path}`",
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
    """All of it, verified. StoreError names the file that is missing, damaged or foreign."""
    manifest = read_manifest(folder)
    entry = manifest["documents"]
    if not entry:
        raise StoreError(f"{folder / MANIFEST} is damaged: it has another format")
    documents = read_verified(folder.parent / entry["name"], entry, MAX_PACKED_BYTES)
    return read_stored(folder, manifest["files"], documents)


def read_flat(path: Path) -> Checkpoint:
    """A directory of format 2."""
    manifest = read_manifest(path)
    if manifest["documents"]:
        raise StoreError(
            f"{path} is one checkpoint of a model", "give the directory that contains it"
        )
    files = manifest["files"]
    documents = read_verified(path / FLAT_DOCUMENTS, files[FLAT_DOCUMENTS], MAX_PACKED_BYTES)
    stored = read_stored(path, files, documents)
    training = stored.training  # which did not say so itself
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
    """A file that is not the one in the manifest."""


def read_verified(path: Path, entry: dict[str, Any], most: int) -> bytes:
    """The bytes of a file that is what the manifest says, and not larger than it may be."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size != entry.get("size", size):
                raise DamagedError(
                    f"{path} is damaged: it has {size:,} bytes, and {entry['size']:,} were written"
                )
            if size > most:
                raise DamagedError(
                    f"{path} is damaged: it has {size:,} bytes, where {most:,} are enough"
                )
            # Before it is read: what is damaged takes no memory, however large it is.
            if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                raise DamagedError(f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}")
            file.seek(0)
            return file.read(size)
    except OSError as error:
        raise DamagedError(f"cannot read {path}: {error.strerror}") from None


def open_file(path: Path) -> BufferedReader:
    """No pipe, which would keep us waiting, and no device, which need not end."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a file")
    return open(path, "rb")


def read_manifest(folder: Path) -> dict[str, Any]:
    """{"documents", "files"}; of the files each has at least its "sha256"."""
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
