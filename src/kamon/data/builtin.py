"""The built-in lists: the package has `names`, and Kamon downloads `names-original` once."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from kamon.errors import CorpusError
from kamon.files.atomic import replace_file

NAMES = "names"
NAMES_ORIGINAL = "names-original"
BUILT_IN = (NAMES, NAMES_ORIGINAL)

ORIGINAL_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
ORIGINAL_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
ORIGINAL_SIZE = 228_145
WAIT_SECONDS = 20  # for the next bytes
FETCH_SECONDS = 60  # for the whole file
MAX_REASON = 200  # characters


def names_table() -> list[tuple[str, str, int]]:
    """Return (name, sex, births) of the US first names of 2018: girls first, most births first.

    The source is a public record, the Social Security card applications. It leaves out names with
    fewer than five births. A name of both sexes occurs twice. dev/make_names.py made the file.
    """
    import lzma
    from importlib import resources

    packed = resources.files("kamon").joinpath("data/names.csv.xz").read_bytes()
    lines = lzma.decompress(packed).decode("ascii").splitlines()[1:]
    rows = (line.split(",") for line in lines)
    return [(name, sex, int(births)) for name, sex, births in rows]


def names() -> list[str]:
    """Return the 29,693 different names of `names_table` in its order."""
    return list(dict.fromkeys(name for name, _, _ in names_table()))


def names_original() -> bytes:
    """Return the 32,033 lines that the original microGPT learns from, cached or downloaded.

    Raises: CorpusError if neither works. The hint explains how to supply the file.
    """
    from platformdirs import user_cache_path

    cached = user_cache_path("kamon") / f"{NAMES_ORIGINAL}.txt"
    with suppress(OSError):  # it is not in the cache yet
        content = cached.read_bytes()
        if is_original(content):
            return content
    content = fetch_original(cached)
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cached, content)
    except OSError as error:
        raise CorpusError(f"cannot save {NAMES_ORIGINAL} as {cached}: {error.strerror}") from None
    return content


def is_original(content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == ORIGINAL_SHA256


def fetch_original(cached: Path) -> bytes:
    """Download and verify the file. cached: the path for the user's own copy, for the message."""
    from queue import Empty, SimpleQueue
    from threading import Thread

    # In a thread, because urlopen limits only the wait for the next bytes, not for an address.
    answers: SimpleQueue[bytes | str] = SimpleQueue()
    Thread(target=lambda: answers.put(download()), daemon=True).start()
    try:
        answer = answers.get(timeout=FETCH_SECONDS)
    except Empty:
        answer = f"it takes more than {FETCH_SECONDS} seconds"
    if isinstance(answer, bytes):
        return answer
    raise CorpusError(
        f"cannot download {NAMES_ORIGINAL}: {answer}",
        f"download {ORIGINAL_URL} yourself and save it as {cached}, or give your copy as the input",
    )


def download() -> bytes | str:
    """Return the file, or the reason why it cannot be downloaded."""
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(ORIGINAL_URL, timeout=WAIT_SECONDS) as response:
            content: bytes = response.read(ORIGINAL_SIZE + 1)
    except (OSError, HTTPException, ValueError) as error:  # ValueError: a redirect to a bad URL
        # Some reasons quote the server's answer, with its line ends.
        reason = " ".join(str(getattr(error, "reason", "") or error).split())
        return reason[:MAX_REASON] or type(error).__name__
    return content if is_original(content) else "the server sent another file: its SHA-256 differs"
