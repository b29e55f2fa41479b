"""Write a file completely or not at all."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path


def write_synced(path: Path, content: bytes | Iterable[bytes]) -> str:
    """Write a new file, wait until the disk has it, and return its SHA-256 in hexadecimal.

    content: the whole content, or its parts.
    """
    written = hashlib.sha256()
    with open(path, "xb") as file:
        for part in [content] if isinstance(content, bytes) else content:
            file.write(part)
            written.update(part)
        file.flush()
        os.fsync(file.fileno())
    return written.hexdigest()


def sync_folder(folder: Path) -> None:
    """Wait until the disk has the folder's list of names. On Windows, do nothing."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_file(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Put `content` at `path`. A reader sees the old file or the new one, never a part."""
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
        new = Path(folder, path.name)
        write_synced(new, content)
        os.replace(new, path)
    sync_folder(path.parent)
