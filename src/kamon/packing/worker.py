"""The work on one unit: survey its documents, then write their tokens as shards.

A unit gives the same shards in any process and at any time, because it uses no other unit.
"""

from __future__ import annotations

import json
import os
import re
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from hashlib import sha256
from itertools import accumulate, chain, compress, pairwise
from operator import not_
from pathlib import Path
from typing import Any

from kamon.data.corpus import BLOCK_CHARS
from kamon.data.documents import nfc
from kamon.data.split import MAX_RANKED, Key, key, keys_of_part, train_end
from kamon.engines.batch import UTF_32
from kamon.errors import CorpusError, TokenizerError
from kamon.files.atomic import replace_file, sync_folder
from kamon.packing.inputs import Piece, Report, entries, ignore_progress, lines_before, texts
from kamon.packing.plan import KINDS, PackPlan, Survey
from kamon.packing.shards import SPLITS, bytes_a_token
from kamon.storage.model_dir import staging
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.load import tokenizer_from_json

ENCODINGS = {2: "utf-16-le", 4: "utf-32-le"}
LINE = re.compile(r"[^\n]*\n|[^\n]+")
BEFORE_SPACE = re.compile(r"(?s:.*)\S(?=\s)")


def survey_unit(plan: PackPlan, unit: int, report: Report) -> dict[str, Any]:
    """Write and return the record of a unit for the `Survey`."""
    chars: set[str] = set()
    keys: set[int] = set()
    num_docs = 0
    known: dict[str, tuple[int, int] | None] = {}
    with with_error_location(plan, unit):
        for piece in plan.units[unit]:
            source = plan.sources[piece.source]
            if plan.is_one_text(source):
                text = survey_text(one_text(plan, piece, report), chars)
                known[str(piece.source)] = text
                if text is not None:
                    keys.add(text[1])
                    num_docs += 1
                continue
            for docs in documents(plan, piece, report):
                if plan.tokenizer == "char":
                    chars.update("".join(docs))
                if plan.hold_out and len(keys) <= MAX_RANKED:
                    keys.update(map(key, docs))
                num_docs += len(docs)
                if plan.tokenizer != "char" and len(keys) > MAX_RANKED:
                    break  # enough keys
    path = plan.record_path("survey", unit)
    if plan.hold_out:
        lowest = array("Q", sorted(keys)[: MAX_RANKED + 1])
        replace_file(path.with_suffix(".keys"), lowest.tobytes())
    alphabet = "".join(sorted(chars)) if plan.tokenizer == "char" else ""
    record = {"plan": plan.digest, "chars": alphabet, "num_docs": num_docs, "texts": known}
    # Not synced. If the disk loses a record, it is not valid JSON, and Kamon makes it again.
    path.write_text(json.dumps(record))
    return record


def survey_text(parts: Iterable[str], chars: set[str]) -> tuple[int, int] | None:
    """Return the length and key of a text given in parts, or None if it is blank.

    chars: the function adds the characters of the text to it.
    """
    digest, length, blank = Key(), 0, True
    for text in before_spaces(parts):  # this never cuts a composed character
        digest.update(text)
        length += len(text)
        blank = blank and text.isspace()
        chars.update(text)
    return None if blank else (length, digest.value)


def keys_held_out(plan: PackPlan) -> range:
    """Return the keys of the validation set, from the surveys of all units."""
    if not plan.hold_out:
        return range(0)
    paths = (plan.record_path("survey", unit) for unit in range(len(plan.units)))
    keys = (array("Q", path.with_suffix(".keys").read_bytes()) for path in paths)
    return keys_of_part(chain.from_iterable(keys))


def pack_unit(
    plan: PackPlan, tokenizer: str, survey: Survey, unit: int, report: Report
) -> dict[str, Any]:
    """Write the shards of a unit and return its record. tokenizer: its JSON."""
    path, encoder = Path(plan.output), tokenizer_of(tokenizer)
    with staging(path) as folder, ExitStack() as stack:
        writers = [ShardWriter(plan, folder, part, unit, encoder, report) for part in SPLITS]
        for writer in writers:
            stack.callback(writer.abandon)
        with with_error_location(plan, unit, encoder):
            for piece in plan.units[unit]:
                source = plan.sources[piece.source]
                if plan.is_one_text(source):
                    known = survey.texts[piece.source]
                    if known is not None:
                        length = train_length(*known, survey)
                        write_text(one_text(plan, piece, report), length, *writers)
                    continue
                for docs in documents(plan, piece, report):
                    divided = divide(docs, survey)
                    for writer, part in zip(writers, divided, strict=True):
                        writer.add(part)
        for writer in writers:
            writer.close()
        shards = [shard for writer in writers for shard in writer.shards]
        for shard in shards:
            for kind in KINDS:
                os.replace(folder / shard[kind]["name"], path / shard[kind]["name"])
    sync_folder(path)
    counts = {writer.part: writer.counts() for writer in writers}
    record = {"plan": plan.digest, "shards": shards, "counts": counts}
    replace_file(plan.record_path("unit", unit), json.dumps(record).encode())
    return record


@lru_cache(1)
def tokenizer_of(text: str) -> Tokenizer:
    return tokenizer_from_json(text)


def documents(plan: PackPlan, piece: Piece, report: Report) -> Iterator[list[str]]:
    """Yield lists of the documents of a piece, without blank ones."""
    number = 2 if piece.begin else 1  # any number except 1: `with_error_location` counts
    source = plan.sources[piece.source]
    for block in entries(source, piece, plan.column, report, number, plan.header):
        if plan.mode == "documents":  # same as `as_document`, but faster
            docs = list(filter(None, map(str.strip, block)))
        else:
            docs = list(filter(None, (as_document(plan, entry) for entry in block)))
        if docs:
            yield list(map(nfc, docs)) if plan.composed else docs


def one_text(plan: PackPlan, piece: Piece, report: Report) -> Iterator[str]:
    """Yield the parts of a file that is one document."""
    parts = texts(plan.sources[piece.source], piece, report)
    return map(nfc, before_spaces(parts)) if plan.composed else parts


def as_document(plan: PackPlan, entry: str) -> str:
    """Return a line, record or cell as a document, or "" if it is blank."""
    if plan.mode == "documents":
        return entry.strip()
    return entry.replace("\r\n", "\n").replace("\r", "\n") if entry.strip() else ""


def divide(docs: list[str], survey: Survey) -> tuple[list[str], list[str]]:
    """Return (training set, validation set). If there are few documents, cut each one."""
    if survey.split_within_docs:
        places = [(doc, train_end(len(doc))) for doc in docs]
        return [doc[:end] for doc, end in places if end], [doc[end:] for doc, end in places]
    if not survey.held_out:
        return docs, []
    is_held_out = [key(doc) in survey.held_out for doc in docs]
    return list(compress(docs, map(not_, is_held_out))), list(compress(docs, is_held_out))


@contextmanager
def with_error_location(
    plan: PackPlan, unit: int, tokenizer: Tokenizer | None = None
) -> Iterator[None]:
    """Add the file and line to an error. To find them, read the unit again, slowly."""
    try:
        yield
    except (CorpusError, TokenizerError):
        for piece in plan.units[unit]:
            source = plan.sources[piece.source]
            whole = plan.is_one_text(source)
            number = 1 + (lines_before(source, piece) if piece.begin else 0)
            blocks: Iterable[list[str]]
            if whole:
                blocks = map(LINE.findall, texts(source, piece, ignore_progress, number))
            else:
                blocks = entries(source, piece, plan.column, ignore_progress, number, plan.header)
            for entry in chain.from_iterable(blocks):
                try:
                    if tokenizer is not None:
                        tokenizer.encode(entry if whole else as_document(plan, entry))
                except TokenizerError as error:
                    kind = "record" if source.format in ("csv", "tsv", "json") else "line"
                    raise TokenizerError(f"{source.name}, {kind} {number}: {error}") from None
                number += entry.count("\n") if whole else 1
        raise


def train_length(length: int, key: int, survey: Survey) -> int:
    """Return how many characters at the start of a text are in the training set."""
    if survey.split_within_docs:
        return train_end(length)
    return 0 if key in survey.held_out else length


def write_text(
    parts: Iterable[str], length: int, train: ShardWriter, held_out: ShardWriter
) -> None:
    """Write a text given in parts. Its first `length` characters go to the training set."""
    place = 0
    for text in before_spaces(parts):
        cut = max(0, min(len(text), length - place))
        if cut:
            train.add_part(text[:cut], first=place == 0)
        if cut < len(text):
            held_out.add_part(text[cut:], first=place <= length)
        place += len(text)


def before_spaces(parts: Iterable[str]) -> Iterator[str]:
    """Yield the same text in parts that begin with white space and end before white space.

    No token crosses such a border, so the parts have the same tokens as the whole text. If a part
    has BLOCK_CHARS characters without white space, it is cut there.
    """
    rest = ""
    for text in parts:
        rest += text
        match = BEFORE_SPACE.match(rest)
        place = match.end() if match else len(rest) if len(rest) >= BLOCK_CHARS else 0
        if place:
            yield rest[:place]
            rest = rest[place:]
    if rest:
        yield rest


def sample(plan: PackPlan, survey: Survey, unit: int, size: int) -> Iterator[str]:
    """Yield up to `size` characters of a unit's training set, to train a tokenizer on."""
    for piece in plan.units[unit]:
        source = plan.sources[piece.source]
        if plan.is_one_text(source):
            known = survey.texts[piece.source]
            left = 0 if known is None else train_length(*known, survey)
            blocks = ([text] for text in one_text(plan, piece, ignore_progress))
        else:
            left = size
            blocks = (divide(docs, survey)[0] for docs in documents(plan, piece, ignore_progress))
        for text in chain.from_iterable(blocks):
            text = text[: min(left, size)]
            left -= len(text)
            size -= len(text)
            if text:
                yield text
            if not (size and left):
                break


class ShardWriter:
    """Writes the shards of one part of a unit to a folder.

    A shard ends after a document as soon as it has `max_tokens` tokens.
    """

    def __init__(
        self,
        plan: PackPlan,
        folder: Path,
        part: str,
        unit: int,
        tokenizer: Tokenizer,
        report: Report,
    ) -> None:
        self.stem = folder / f"{part}-{unit:06}"
        self.part = part
        self.tokenizer = tokenizer
        self.max_tokens = plan.shard_tokens
        self.report = report
        self.bos = chr(tokenizer.bos)
        self.encoding = ENCODINGS[bytes_a_token(tokenizer.vocab_size)]
        self.shards: list[dict[str, Any]] = []
        self.files: list[HashedFile] = []  # tokens and offsets of the current shard
        self.num_tokens = self.num_docs = 0  # of the current shard
        self.lengths: Counter[int] = Counter()  # of all documents, not counting BOS
        self.begun = 0  # tokens of the current text, including BOS
        self.num_chars = 0

    def abandon(self) -> None:
        for hashed in self.files:
            hashed.file.close()

    def add(self, docs: list[str]) -> None:
        if not docs:
            return
        batch = self.tokenizer.encode_documents(docs)
        self.lengths.update(end - begin - 2 for begin, end in pairwise(batch.offsets))
        self.num_chars += sum(map(len, docs))
        # Tokens are code points here, so that Python can write them in two or four bytes. Drop
        # one of the two BOS between two documents, and the last BOS.
        codes = batch.tokens.tobytes().decode(UTF_32, "surrogatepass")
        codes = codes.replace(self.bos * 2, self.bos)[:-1]
        ends = list(accumulate(end - begin - 1 for begin, end in pairwise(batch.offsets)))
        first, begin = 0, 0
        while first < len(docs):
            self._room()
            count = bisect_left(ends, begin + self.max_tokens - self.num_tokens, first) + 1
            count = min(count, len(docs))
            starts = [begin, *ends[first : count - 1]]
            self._offsets([self.num_tokens + start - begin for start in starts])
            self._write(codes[begin : ends[count - 1]])
            first, begin = count, ends[count - 1]

    def add_part(self, text: str, *, first: bool) -> None:
        """Write the next part of a document. first: whether it is the first part."""
        batch = self.tokenizer.encode_documents([text])
        codes = batch.tokens[1:-1].tobytes().decode(UTF_32, "surrogatepass")
        self.num_chars += len(text)
        if first:
            self._end_text()
            self._room()
            self._offsets([self.num_tokens])
            codes = self.bos + codes
        self.begun += len(codes)
        self._write(codes)

    def counts(self) -> dict[str, Any]:
        """Return the counts of all documents, for the manifest."""
        self._end_text()
        lengths = {str(n): num_docs for n, num_docs in self.lengths.items()}
        return {"lengths": lengths, "num_chars": self.num_chars}

    def _end_text(self) -> None:
        if self.begun:
            self.lengths[self.begun - 1] += 1
            self.begun = 0

    def _room(self) -> None:
        if self.num_tokens >= self.max_tokens:
            self.close()
        if not self.files:
            stem = f"{self.stem}-{len(self.shards):03}"
            self.files = [HashedFile(Path(f"{stem}.{kind}")) for kind in KINDS]

    def _write(self, codes: str) -> None:
        self.files[0].write(codes.encode(self.encoding, "surrogatepass"))
        self.num_tokens += len(codes)
        self.report(0, len(codes))

    def _offsets(self, places: list[int]) -> None:
        offsets = array("Q", places)
        if sys.byteorder == "big":
            offsets.byteswap()
        self.files[1].write(offsets.tobytes())
        self.num_docs += len(places)

    def close(self) -> None:
        """Finish the current shard."""
        if not self.files:
            return
        num_docs = self.num_docs
        self._offsets([self.num_tokens])
        self._write(self.bos)
        files = dict(zip(KINDS, (file.finish() for file in self.files), strict=True))
        sizes = {"num_tokens": self.num_tokens, "num_docs": num_docs}
        self.shards.append({"part": self.part, **files, **sizes})
        self.files, self.num_tokens, self.num_docs = [], 0, 0


class HashedFile:
    """A new file and the SHA-256 of its contents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open(path, "xb")  # noqa: SIM115 - closed by `finish` or by ShardWriter
        self.digest = sha256()
        self.size = 0

    def write(self, content: bytes) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.size += len(content)

    def finish(self) -> dict[str, Any]:
        """Wait until the disk has the file, and return its entry in a manifest."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"name": self.path.name, "size": self.size, "sha256": self.digest.hexdigest()}
