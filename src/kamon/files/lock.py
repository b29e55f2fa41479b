"""A lock: a file that only one process at a time can hold. It names its holder.

The system releases the lock when the process ends, even if it is killed. The file stays.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kamon.errors import StoreError

MAX_LOCK_BYTES = 1000


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock while the caller writes `what`. StoreError if another process holds it."""
    while True:
        # Do not follow a link, because its target would be overwritten.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
        if not try_lock(descriptor):
            try:
                holder = os.read(descriptor, MAX_LOCK_BYTES)
            finally:
                os.close(descriptor)
            raise StoreError(
                f"{what} is being written by {describe_holder(holder)}", "wait until it ends"
            )
        if is_same_file(path, descriptor):
            break
        os.close(descriptor)  # its holder has just removed this file
    try:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        holding = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(holding).encode())
        yield
    finally:
        os.close(descriptor)  # this releases the lock


def try_lock(descriptor: int) -> bool:
    """Return True if this process now holds the lock."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # Lock a byte far after the content, so that others can still read the content.
            os.lseek(descriptor, 1 << 20, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_same_file(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def describe_holder(holder: bytes) -> str:
    try:
        who = json.loads(holder)
        return f"process {who['process']} on {who['host']} since {who['since']}"
    except (ValueError, TypeError, LookupError):  # the holder has not written it yet
        return "another process"
