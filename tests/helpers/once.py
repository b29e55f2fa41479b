"""Folders that several tests read and the first of them makes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from kamon.errors import StoreError
from kamon.files.lock import locked


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """Return the folder, after a call of `make` if no process has filled it yet.

    Tests must not change the folder. They may copy it.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    while not folder.exists():
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(folder.with_name(f"{folder.name}.lock"), folder.name))
            except StoreError:
                time.sleep(0.05)
                continue
            if not folder.exists():
                part = folder.with_name(f"{folder.name}.part")
                shutil.rmtree(part, ignore_errors=True)  # of a call that failed
                part.mkdir()
                make(part)
                part.rename(folder)
    return folder
