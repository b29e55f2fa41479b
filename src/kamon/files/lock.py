"""One writer: a file that only one process at a time can hold, and that says who does.

The system takes the lock from a process that ends, however it ends: what a dead one leaves behind
keeps nobody out. The file itself stays.
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

MAX_LOCK_BYTES = 1000  # bytes of what a holder says


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock. StoreError says which process does already; `what` is the thing it writes."""
    while True:
        # No link: what it leads to would be overwritten.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
        if not try_lock(descriptor):
            try:
                holder = os.read(descriptor, MAX_LOCK_BYTES)
            finally:
                os.close(descriptor)
            raise StoreError(
                f"{what} is being written by {describe_holder(holder)}: wait for its end"
            )
        if is_same_file(path, descriptor):
            break
        os.close(descriptor)  # its holder took it away in between: that was another file
    try:
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        own = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
        os.ftruncate(descriptor, 0)
        os.write(descriptor, json.dumps(own).encode())
        yield
    finally:
        os.close(descriptor)  # and with it goes the lock


def try_lock(descriptor: int) -> bool:
    """Whether the lock is ours now."""
    try:
        if sys.platform == "win32":
            import msvcrt

            # A byte far after what is written: others may still read who holds it.
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
    except (ValueError, TypeError, LookupError):  # it has just begun
        return "another process"
