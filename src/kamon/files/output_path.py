"""Check that Kamon may write a file or a directory, before the work starts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kamon.errors import ConfigError, KamonError, StoreError


@contextmanager
def write_errors(given: str | Path, kind: type[KamonError] = StoreError) -> Iterator[None]:
    """Turn errors of the operating system into Kamon's. given: the path that the user typed."""
    try:
        yield
    except KamonError:  # some are also ValueErrors
        raise
    except (OSError, ValueError) as error:  # ValueError: the name has a NUL
        reason = getattr(error, "strerror", None) or error
        shown = repr(str(given)) if isinstance(error, ValueError) else given
        raise kind(f"cannot write {shown}: {reason}") from None


def check_file(output: str | Path, *, overwrite: bool, folder: bool = False) -> Path:
    """Return the path of a file that Kamon may write.

    folder: whether its folder must already exist.

    Raises: StoreError if the file exists and `overwrite` is False, or Kamon cannot write it.
    """
    path = Path(output)
    with write_errors(output):
        if not str(output):
            raise StoreError("the output name is empty", "give a file name with -o")
        with suppress(FileNotFoundError, NotADirectoryError):
            os.lstat(output)  # raises an error if no file can have this name
        if path.is_dir():
            raise StoreError(f"{path} is a directory", "choose another name with -o")
        if path.exists() and not path.is_file():
            raise StoreError(f"{path} is not a file", "choose another name with -o")
        if path.exists() and not overwrite:
            raise StoreError(
                f"{path} already exists", "choose another name with -o, or add --overwrite"
            )
        above = next(parent for parent in path.absolute().parents if folder or parent.exists())
        if folder and not above.is_dir():
            raise StoreError(
                f"cannot write {path}: its directory does not exist", "create the directory first"
            )
        if not above.is_dir():
            raise StoreError(f"{above} is not a directory", "choose another name with -o")
    return path


def check_not_input(output: str | Path, source: str, kind: type[KamonError] = ConfigError) -> None:
    """Raise an error of this kind if the output is the input. source: "-" is stdin."""
    try:
        same = os.path.samestat(os.stat(output), os.fstat(0) if source == "-" else os.stat(source))
    except (OSError, ValueError):
        return
    if same:
        raise kind(f"{output} is the input, which is never overwritten", "choose another name")


def check_directory(path: Path, given: str, what: str) -> None:
    """Raise StoreError if Kamon cannot write a directory at this path. what: "the model"."""
    if path.resolve() == Path.cwd():
        raise StoreError(f"{given} is the current directory", f"give a new directory for {what}")
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise StoreError(f"{given} is not a directory", f"choose another name for {what}")
