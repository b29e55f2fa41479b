"""The lists that a user need not bring: `names`, in the package; `names-original`, fetched once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kamon.errors import CorpusError

if TYPE_CHECKING:
    from pathlib import Path

NAMES = "names"
NAMES_ORIGINAL = "names-original"
BUILT_IN = (NAMES, NAMES_ORIGINAL)

ORIGINAL_URL = "https://raw.githubusercontent.com/karpathy/makemore/988aa59/names.txt"
ORIGINAL_SHA256 = "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d"
ORIGINAL_SIZE = 228_145
FETCH_SECONDS = 20


def names_table() -> list[tuple[str, str, int]]:
    """(name, sex, births) of the US first names of 2018: girls first, most births first.

    Social Security card applications, a public record; names of fewer than five births are left out
    there. A name that was given to both stands twice. dev/make_names.py derived the file.
    """
    import lzma
    from importlib import resources

    packed = resources.files("kamon").joinpath("data/names.csv.xz").read_bytes()
    lines = lzma.decompress(packed).decode("ascii").splitlines()[1:]
    rows = (line.split(",") for line in lines)
    return [(name, sex, int(births)) for name, sex, births in rows]


def names() -> list[str]:
    """The 29,693 different names of `names_table`, in its order."""
    return list(dict.fromkeys(name for name, _, _ in names_table()))


def names_original() -> bytes:
    """The 32,033 lines that the original microGPT learns from, from the cache or their source.

    CorpusError says how to supply the file where neither can be had.
    """
    from platformdirs import user_cache_path

    cached = user_cache_path("kamon") / f"{NAMES_ORIGINAL}.txt"
    try:
        content = cached.read_bytes()
        if is_original(content):
            return content
    except OSError:
        pass  # not there yet
    content = fetch_original(cached)
    from kamon.files import replace_file

    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        replace_file(cached, content)
    except OSError as error:
        raise CorpusError(f"cannot keep {NAMES_ORIGINAL} in {cached}: {error.strerror}") from None
    return content


def is_original(content: bytes) -> bool:
    import hashlib

    return hashlib.sha256(content).hexdigest() == ORIGINAL_SHA256


def fetch_original(cached: Path) -> bytes:
    """The file from its source, verified; `cached` is where a user could put it instead."""
    from http.client import HTTPException
    from urllib.request import urlopen

    try:
        with urlopen(ORIGINAL_URL, timeout=FETCH_SECONDS) as response:
            content: bytes = response.read(ORIGINAL_SIZE + 1)
        problem = "" if is_original(content) else "what came is another file: its SHA-256 differs"
    except (OSError, HTTPException) as error:
        problem = str(getattr(error, "reason", "") or error)
    if problem:
        raise CorpusError(
            f"{NAMES_ORIGINAL} could not be fetched ({problem}): "
            f"download {ORIGINAL_URL} and save it as {cached}, or name your copy as the input"
        )
    return content
