"""A packed corpus: any number of tokens in mapped files, which are read on demand.

    shards.json                     the manifest, written last
    tokenizer.json
    train-000000-000.tokens         little-endian uint16, or uint32 if vocab_size is above 65,536
    train-000000-000.offsets        little-endian uint64, one more than there are documents
    held_out-000000-000.tokens …

In a shard, the documents follow one another. Each begins with BOS, and a last BOS ends the shard.
Document d is tokens[offsets[d] : offsets[d + 1] + 1], with a BOS at both ends. The stream of a part
consists of its shards in order, with one BOS between two shards. Other shard sizes would give the
same stream.
"""

from __future__ import annotations

import json
import os
import sys
from array import array
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BufferedReader
from itertools import accumulate, pairwise
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, Literal

from kamon.config import MODES
from kamon.data.shuffling import permutation
from kamon.data.split import RULE_BY_BUCKET, RULES
from kamon.data.text_windows import TextWindows
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.errors import ConfigError, StoreError, TokenizerError
from kamon.files.atomic import replace_file
from kamon.files.spill import BLOCK
from kamon.storage.model_dir import open_file, readable
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.load import tokenizer_from_json

FORMAT = 1
MANIFEST = "shards.json"
PLAN = "plan.json"  # takes its place during packing
TOKENIZER = "tokenizer.json"
VERIFIED = "verified.json"
MAX_MANIFEST_BYTES = 1 << 30
MAX_TOKENIZER_BYTES = 1 << 28
MAX_OPEN_FILES = 256  # maximum mapped at a time, because the system limits it
NO_CHAR = bytes(range(0x80, 0xC0))  # UTF-8 bytes that do not start a character
TYPECODES = {2: "H", 4: "I", 8: "Q"}

Part = Literal["train", "held_out"]
SPLITS: tuple[Part, ...] = ("train", "held_out")
Verify = Literal["once", "always", "never"]


@dataclass(frozen=True)
class File:
    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    part: str
    tokens: File
    offsets: File
    num_tokens: int
    num_docs: int


def is_packed(path: str | Path) -> bool:
    """Return True if a path is a directory of shards, complete or not."""
    return any(os.path.isfile(os.path.join(path, name)) for name in (MANIFEST, PLAN))


def open_shards(path: str | Path, verify: Verify = "once") -> Shards:
    """Return the shards in a directory, mapped into memory.

    Kamon always compares the sizes of the files.

    Args:
        path: the directory.
        verify: when to compare the SHA-256 of all files: "always", "never" or "once". "once"
            means the first time, and again if the size or time of change of a file differs from
            `verified.json`. If Kamon cannot write that file, it compares each time.

    Raises: StoreError if a file is missing or damaged. The message names it.
    """
    path = Path(path)
    with readable(path):
        manifest, digest = read_manifest(path)
        shards = [file for shard in manifest.shards for file in (shard.tokens, shard.offsets)]
        files = [manifest.tokenizer, *shards]
        stats = {file.name: check_size(path, file) for file in files}
        done = {"manifest": digest, "files": stats}
        if verify == "always" or (verify == "once" and read_verified(path) != done):
            for file in files:
                check_digest(path, file)
            with suppress(OSError):  # verify a read-only folder each time
                replace_file(path / VERIFIED, json.dumps(done).encode())
        return Shards(path, manifest, read_tokenizer(path, manifest), digest)


@dataclass(frozen=True)
class Manifest:
    """The contents of shards.json.

    Attributes:
        content: the whole JSON object, for display.
        lengths: for each part, the number of documents of each length in tokens, or None.
        num_chars: number of characters of each part, or None.
    """

    shards: list[Shard]
    tokenizer: File
    vocab_size: int
    bytes_a_token: int
    content: dict[str, Any]
    lengths: dict[Part, Counter[int]] | None
    num_chars: dict[Part, int] | None


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a file for reading. Errors of the system become StoreErrors."""
    try:
        with open_file(path) as file:
            yield file
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from None


def read_manifest(path: Path) -> tuple[Manifest, str]:
    """Return the manifest and its SHA-256."""
    place = path / MANIFEST
    if not place.exists():
        begun = path.is_dir() and (path / PLAN).exists()
        raise StoreError(
            *(f"{path} is only partly packed", "run the same `kamon pack` again to finish")
            if begun
            else (f"no packed corpus at {path}", "give the directory that `kamon pack -o` wrote")
        )
    with opened(place) as file:
        text = file.read(MAX_MANIFEST_BYTES)
    try:
        content = json.loads(text)
        if content["format"] != FORMAT:
            raise StoreError(
                f"{path} has format {content['format']!r:.20}, this version of Kamon reads {FORMAT}"
            )
        width = content["bytes_a_token"]
        shards = [shard_of(entry, width) for entry in content["shards"]]
        vocab_size = content["vocab_size"]
        if type(vocab_size) is not int or width != bytes_a_token(vocab_size):
            raise ValueError
        if not shards or not isinstance(content["inputs"], list) or content["mode"] not in MODES:
            raise ValueError
        if content.get("settings", {}).get("split", RULE_BY_BUCKET) not in RULES:
            raise ValueError
        tokenizer, counts = file_of(content["tokenizer"]), counts_of(content, shards)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise StoreError(f"{place} is damaged: it is not a manifest of shards") from None
    manifest = Manifest(shards, tokenizer, vocab_size, width, content, *counts)
    return manifest, sha256(text).hexdigest()


def counts_of(
    content: dict[str, Any], shards: list[Shard]
) -> tuple[dict[Part, Counter[int]] | None, dict[Part, int] | None]:
    """Return the lengths of documents and the number of characters of each part, if counted.

    Raises: ValueError, TypeError or LookupError if they do not match the shards.
    """
    if "lengths" not in content:
        return None, None
    if type(content["num_docs"]) is not int:
        raise TypeError
    lengths, num_chars = {}, {}
    for part in SPLITS:
        counted = {int(length): number for length, number in content["lengths"][part].items()}
        num_docs = sum(shard.num_docs for shard in shards if shard.part == part)
        num_tokens = sum(shard.num_tokens - 1 for shard in shards if shard.part == part)
        lengths[part], num_chars[part] = Counter(counted), content["num_chars"][part]
        if any(length < 0 or type(number) is not int for length, number in counted.items()):
            raise ValueError
        if sum(counted.values()) != num_docs or type(num_chars[part]) is not int:
            raise ValueError
        if sum((length + 1) * number for length, number in counted.items()) != num_tokens:
            raise ValueError
    return lengths, num_chars


def bytes_a_token(vocab_size: int) -> int:
    return 2 if vocab_size <= 1 << 16 else 4


def file_of(entry: Any) -> File:
    file = File(entry["name"], entry["size"], entry["sha256"])
    if not isinstance(file.name, str) or type(file.size) is not int:
        raise TypeError
    if not isinstance(file.sha256, str) or os.path.basename(file.name) != file.name:
        raise ValueError
    return file


def shard_of(entry: Any, width: int) -> Shard:
    tokens, offsets = file_of(entry["tokens"]), file_of(entry["offsets"])
    shard = Shard(entry["part"], tokens, offsets, entry["num_tokens"], entry["num_docs"])
    if type(shard.num_tokens) is not int or type(shard.num_docs) is not int:
        raise TypeError
    sizes = shard.num_tokens * width, (shard.num_docs + 1) * 8
    if shard.part not in SPLITS or shard.num_docs < 1 or (tokens.size, offsets.size) != sizes:
        raise ValueError
    return shard


def check_size(path: Path, file: File) -> list[int]:
    """Return [size, time of change] of a file. StoreError if its size is not that of `file`."""
    with opened(path / file.name) as binary:
        status = os.fstat(binary.fileno())
    if status.st_size != file.size:
        raise StoreError(
            f"{path / file.name} is damaged: it has {status.st_size:,} bytes, and {file.size:,} "
            "were written"
        )
    return [status.st_size, status.st_mtime_ns]


def check_digest(path: Path, file: File) -> None:
    with opened(path / file.name) as binary:
        digest = file_digest(binary, "sha256").hexdigest()
    if digest != file.sha256:
        raise StoreError(f"{path / file.name} is damaged: its SHA-256 is not the one in {MANIFEST}")


def read_verified(path: Path) -> Any:
    try:
        with open_file(path / VERIFIED) as file:
            return json.loads(file.read(MAX_MANIFEST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None


def read_tokenizer(path: Path, manifest: Manifest) -> Tokenizer:
    place = path / manifest.tokenizer.name
    with opened(place) as file:
        content = file.read(MAX_TOKENIZER_BYTES)
    try:
        tokenizer = tokenizer_from_json(content.decode("utf-8"))
    except (ValueError, TokenizerError) as error:
        raise StoreError(f"{place} is damaged: {error}") from None
    if tokenizer.vocab_size != manifest.vocab_size:
        raise StoreError(
            f"{place} is damaged: it has {tokenizer.vocab_size:,} tokens, and {MANIFEST} says "
            f"{manifest.vocab_size:,}"
        )
    return tokenizer


class Shards:
    """A packed corpus. It maps only a few files at a time. `open_shards` returns it."""

    def __init__(self, path: Path, manifest: Manifest, tokenizer: Tokenizer, digest: str) -> None:
        self.path = path
        self.manifest = manifest
        self.mode: str = manifest.content["mode"]
        self.tokenizer = tokenizer
        self.sha256 = digest  # of the manifest, which has the hashes of all files
        self._shards = {part: [s for s in manifest.shards if s.part == part] for part in SPLITS}
        # The start of each shard in the part's stream and among its documents, then the totals.
        self._starts = {
            part: list(accumulate((s.num_tokens - 1 for s in shards), initial=0))
            for part, shards in self._shards.items()
        }
        self._firsts = {
            part: list(accumulate((s.num_docs for s in shards), initial=0))
            for part, shards in self._shards.items()
        }
        self._views: OrderedDict[str, memoryview[int]] = OrderedDict()

    def num_docs(self, part: Part) -> int:
        return self._firsts[part][-1]

    def num_tokens(self, part: Part) -> int:
        """Return the length of a part's stream, with a BOS before each document and at the end."""
        last = self._starts[part][-1]
        return last + 1 if last else 0

    @property
    def rule(self) -> int:
        """Return the rule of `kamon.data.split.split` that chose the validation set."""
        return int(self.manifest.content.get("settings", {}).get("split", RULE_BY_BUCKET))

    @property
    def may_hold_out(self) -> bool:
        """Return True if packing makes a validation set when there are enough documents."""
        return bool(self.manifest.content.get("settings", {}).get("hold_out", True))

    @property
    def num_packed(self) -> int:
        """Return the number of documents that were packed.

        A document with its end in the validation set counts once, although it is in both parts.
        """
        whole = sum(map(self.num_docs, SPLITS))
        return int(self.manifest.content.get("num_docs", whole))

    def lengths(self, part: Part) -> Counter[int]:
        """Return the number of documents of a part by their length in tokens, without BOS."""
        if self.manifest.lengths is not None:
            return self.manifest.lengths[part]
        counts: Counter[int] = Counter()
        for shard in self._shards[part]:
            view = self._view(shard.offsets, 8)
            for begin in range(0, shard.num_docs, BLOCK):
                places = numbers(view, begin, min(begin + BLOCK, shard.num_docs) + 1)
                counts.update(end - start - 1 for start, end in pairwise(places))
            if min(counts) < 0:
                raise self._bad_offsets(shard)
        return counts

    def num_chars(self, part: Part) -> int:
        if self.manifest.num_chars is not None:
            return self.manifest.num_chars[part]
        from kamon.tokenizers.bpe import BytePairTokenizer

        num_tokens = self.num_tokens(part)
        if not isinstance(self.tokenizer, BytePairTokenizer):
            return max(0, num_tokens - self.num_docs(part) - 1)
        num_chars, bos = 0, self.tokenizer.bos
        for begin in range(0, num_tokens, BLOCK):
            tokens = self.stream(part, begin, min(begin + BLOCK, num_tokens))
            data = self.tokenizer.decode_bytes(token for token in tokens if token != bos)
            num_chars += len(data.translate(None, NO_CHAR))
        return num_chars

    def _bad_offsets(self, shard: Shard) -> StoreError:
        return StoreError(f"{self.path / shard.offsets.name} is damaged: its offsets are invalid")

    def stream(self, part: Part, begin: int, end: int) -> array[int]:
        """Return the tokens begin … end − 1 of the part's stream, an array of 'i'."""
        starts, shards = self._starts[part], self._shards[part]
        if not 0 <= begin <= end <= self.num_tokens(part):
            raise IndexError(f"there are no tokens {begin} … {end} in {self.path}")
        tokens = array("i")
        number = min(bisect_right(starts, begin), len(shards)) - 1
        while len(tokens) < end - begin:
            place = begin + len(tokens) - starts[number]
            shard_end = min(shards[number].num_tokens, end - starts[number])
            tokens += self._tokens(shards[number], place, shard_end)
            number += 1
        return tokens

    def document(self, part: Part, number: int, max_tokens: int | None = None) -> array[int]:
        """Return document `number` with a BOS at both ends, or its first `max_tokens` tokens."""
        firsts = self._firsts[part]
        if not 0 <= number < firsts[-1]:
            raise IndexError(f"there is no document {number} in {self.path}")
        place = bisect_right(firsts, number) - 1
        shard = self._shards[part][place]
        first = number - firsts[place]
        begin, end = numbers(self._view(shard.offsets, 8), first, first + 2)
        if not 0 <= begin < end < shard.num_tokens:
            raise self._bad_offsets(shard)
        if max_tokens is not None:
            end = min(end, begin + max_tokens - 1)
        return self._tokens(shard, begin, end + 1)

    def _tokens(self, shard: Shard, begin: int, end: int) -> array[int]:
        tokens = numbers(self._view(shard.tokens, self.manifest.bytes_a_token), begin, end)
        if tokens and max(tokens) >= self.manifest.vocab_size:
            raise StoreError(
                f"{self.path / shard.tokens.name} is damaged: token {max(tokens)} is not one of "
                f"{self.manifest.vocab_size:,}"
            )
        return array("i", tokens)

    def _view(self, file: File, width: int) -> memoryview[int]:
        view = self._views.pop(file.name, None)
        if view is None:
            check_size(self.path, file)
            with readable(self.path), open_file(self.path / file.name) as binary:
                mapped = mmap(binary.fileno(), file.size, access=ACCESS_READ)
            view = memoryview(mapped).cast(TYPECODES[width])  # type: ignore[call-overload]
            if len(self._views) == MAX_OPEN_FILES:
                self._views.popitem(last=False)
        self._views[file.name] = view
        return view

    # ---- examples to learn from

    def windows(self, part: Part, block_size: int, seed: int) -> TextWindows:
        """Return examples from random places in the stream.

        Raises: ConfigError if the stream is too short.
        """
        most = self.num_tokens(part) - 1
        if not 1 <= block_size <= most:
            raise ConfigError(
                f"block_size {block_size} does not fit {self.path}, whose part {part} has "
                f"{self.num_tokens(part):,} tokens: lower it to {most:,}"
                if most > 0
                else f"{self.path} has nothing in its part {part}"
            )
        return TextWindows(PartStream(self, part), block_size, seed)

    def documents(self, part: Part, block_size: int, seed: int) -> ShuffledDocuments:
        """Return whole documents as examples, each once per epoch.

        Raises: ConfigError if there are no documents.
        """
        if not self.num_docs(part):
            raise ConfigError(f"{self.path} has nothing in its part {part}")
        return ShuffledDocuments(self, part, block_size, seed)

    def consecutive(self, part: Part, block_size: int, max_windows: int) -> PackedBatch:
        """Return windows of up to block_size + 1 tokens that overlap by one token.

        Each target of the stream is in one window. If there are more than `max_windows` windows,
        it returns that many, evenly spread.
        """
        end = self.num_tokens(part)
        total = -(-max(0, end - 1) // block_size)
        count = min(max_windows, total)
        places = (number * total // count * block_size for number in range(count))
        return pack_sequences(
            self.stream(part, place, min(place + block_size + 1, end)) for place in places
        )


def numbers(view: memoryview[int], begin: int, end: int) -> array[int]:
    """Return a copy in the byte order of this machine."""
    copied = array(view.format, view[begin:end].tobytes())
    if sys.byteorder == "big":
        copied.byteswap()
    return copied


@dataclass(frozen=True)
class PartStream:
    """The stream of a part, for `TextWindows`."""

    shards: Shards
    part: Part

    def __len__(self) -> int:
        return self.shards.num_tokens(self.part)

    def __getitem__(self, place: slice) -> array[int]:
        return self.shards.stream(self.part, place.start, place.stop)


@dataclass(frozen=True)
class ShuffledDocuments:
    """Example i is document π(i mod n) of all n documents, with π = `permutation(seed, i // n, n)`.

    Only the first block_size + 1 tokens of a longer document are used.
    """

    shards: Shards
    part: Part
    block_size: int
    seed: int

    def __len__(self) -> int:
        return self.shards.num_docs(self.part)

    def get(self, first: int, count: int) -> PackedBatch:
        n = self.shards.num_docs(self.part)
        epoch, place = 0, permutation(self.seed, 0, n)
        docs = []
        for number in range(first, first + count):
            if number // n != epoch:
                epoch = number // n
                place = permutation(self.seed, epoch, n)
            docs.append(self.shards.document(self.part, place(number % n), self.block_size + 1))
        return pack_sequences(docs)
