"""The work on one unit: survey its documents, then write their tokens as shards.

A unit makes the same shards in any process and at any time: nothing here knows of the other units.
"""

from __future__ import annotations

import json
import os
import re
import sys
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
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
from kamon.packing.inputs import Piece, entries, lines_before, texts
from kamon.packing.plan import KINDS, PackPlan, Report, Survey, record_path
from kamon.packing.shards import SPLITS, bytes_a_token
from kamon.storage.model_dir import staging
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.load import tokenizer_from_json

ENCODINGS = {2: "utf-16-le", 4: "utf-32-le"}
LINE = re.compile(r"[^\n]*\n|[^\n]+")
BEFORE_SPACE = re.compile(r"(?s:.*)\S(?=\s)")


def survey_unit(plan: PackPlan, unit: int, report: Report) -> dict[str, Any]:
    """What `Survey` needs to know of a unit."""
    chars: set[str] = set()
    keys: set[int] = set()
    num_docs = 0
    found: dict[int, tuple[int, int] | None] = {}
    with with_error_location(plan, unit):
        for piece in plan.units[unit]:
            source = plan.sources[piece.source]
            if plan.is_one_text(source):
                known = survey_text(one_text(plan, piece, bytes_only(report)), chars)
                found[piece.source] = known
                if known is not None:
                    keys.add(known[1])
                    num_docs += 1
                continue
            for docs in documents(plan, piece, report):
                if plan.tokenizer == "char":
                    chars.update("".join(docs))
                if plan.hold_out and len(keys) <= MAX_RANKED:
                    keys.update(map(key, docs))
                num_docs += len(docs)
                if plan.tokenizer != "char" and len(keys) > MAX_RANKED:
                    break  # all that is asked is known
    if plan.tokenizer != "char":
        chars.clear()
    if plan.hold_out:
        kept = array("Q", sorted(keys)[: MAX_RANKED + 1])
        replace_file(record_path(plan, "survey", unit).with_suffix(".keys"), kept.tobytes())
    record = {
        "plan": plan.digest,
        "chars": "".join(sorted(chars)),
        "num_docs": num_docs,
        "texts": {str(number): text for number, text in found.items()},
    }
    # Not synced: one that the disk does not have after all is no JSON, and made again.
    record_path(plan, "survey", unit).write_text(json.dumps(record))
    return record


def survey_text(parts: Iterable[str], chars: set[str]) -> tuple[int, int] | None:
    digest, length, blank = Key(), 0, True
    for text in before_spaces(parts):  # what is composed of two characters is never cut there
        digest.update(text)
        length += len(text)
        blank = blank and text.isspace()
        chars.update(text)
    return None if blank else (length, digest.value)


def keys_held_out(plan: PackPlan) -> range:
    """Those of what is held out of all units, which have been surveyed."""

    def keys() -> Iterator[int]:
        for unit in range(len(plan.units)):
            found = array("Q")
            found.frombytes(record_path(plan, "survey", unit).with_suffix(".keys").read_bytes())
            yield from found

    return keys_of_part(keys()) if plan.hold_out else range(0)


def pack_unit(
    plan: PackPlan, tokenizer: str, survey: Survey, unit: int, report: Report
) -> dict[str, Any]:
    """Write the shards of a unit and say which they are. tokenizer: its JSON."""
    path, found = Path(plan.output), tokenizer_of(tokenizer)
    with staging(path) as folder, ExitStack() as stack:
        writers = [
            stack.enter_context(
                ShardWriter(folder, name, unit, found, plan.shard_tokens, lambda n: report(0, n))
            )
            for name in SPLITS
        ]
        with with_error_location(plan, unit, found):
            for piece in plan.units[unit]:
                source = plan.sources[piece.source]
                if plan.is_one_text(source):
                    known = survey.texts[piece.source]
                    if known is not None:
                        learned = num_learned(*known, survey)
                        write_text(one_text(plan, piece, bytes_only(report)), learned, *writers)
                    continue
                for docs in documents(plan, piece, report):
                    divided = divide(docs, survey)
                    for writer, some in zip(writers, divided, strict=True):
                        writer.add(some)
        shards = [shard for writer in writers for shard in writer.finish()]
        for shard in shards:
            for kind in KINDS:
                os.replace(folder / shard[kind]["name"], path / shard[kind]["name"])
    sync_folder(path)
    counts = {writer.part: writer.counts() for writer in writers}
    record = {"plan": plan.digest, "shards": shards, "counts": counts}
    replace_file(record_path(plan, "unit", unit), json.dumps(record).encode())
    return record


@lru_cache(1)
def tokenizer_of(text: str) -> Tokenizer:
    return tokenizer_from_json(text)


def bytes_only(report: Report) -> Callable[[int], object]:
    return lambda num_bytes: report(num_bytes, 0)


def ignore_progress(_: int) -> None:
    pass


def documents(plan: PackPlan, piece: Piece, report: Report) -> Iterator[list[str]]:
    """The documents of a piece of many, none of them blank, many at a time."""
    number = 2 if piece.begin else 1  # any but the first: `with_error_location` counts
    for block in entries(
        plan.sources[piece.source], piece, plan.column, bytes_only(report), number, plan.header
    ):
        if plan.mode == "documents":  # as `as_document` does, faster
            docs = list(filter(None, map(str.strip, block)))
        else:
            docs = list(filter(None, (as_document(plan, entry) for entry in block)))
        if docs:
            yield list(map(nfc, docs)) if plan.composed else docs


def one_text(plan: PackPlan, piece: Piece, report: Callable[[int], object]) -> Iterator[str]:
    """A whole file that is one document, in parts."""
    parts = texts(plan.sources[piece.source], piece, report)
    return map(nfc, before_spaces(parts)) if plan.composed else parts


def as_document(plan: PackPlan, entry: str) -> str:
    """What a line, record or cell is as a document; "" if it is blank."""
    if plan.mode == "documents":
        return entry.strip()
    return entry.replace("\r\n", "\n").replace("\r", "\n") if entry.strip() else ""


def divide(docs: list[str], survey: Survey) -> tuple[list[str], list[str]]:
    """(learned, held out): by content; where there are few, the last tenth of each."""
    if survey.split_within_docs:
        places = [(doc, train_end(len(doc))) for doc in docs]
        return [doc[:end] for doc, end in places if end], [doc[end:] for doc, end in places]
    if not survey.held_out:
        return docs, []
    apart = [key(doc) in survey.held_out for doc in docs]
    return list(compress(docs, map(not_, apart))), list(compress(docs, apart))


@contextmanager
def with_error_location(
    plan: PackPlan, unit: int, tokenizer: Tokenizer | None = None
) -> Iterator[None]:
    """Errors of a unit name the file and the line: all is read again for that, slowly."""
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


def num_learned(length: int, own: int, survey: Survey) -> int:
    """How many of a text's first characters are learned; the others are held out. own: its key."""
    if survey.split_within_docs:
        return train_end(length)
    return 0 if own in survey.held_out else length


def write_text(
    parts: Iterable[str], learned: int, train: ShardWriter, held_out: ShardWriter
) -> None:
    """One text, which comes in parts, as a document of one part of the corpus or of each."""
    place = 0
    for text in before_spaces(parts):
        here = max(0, min(len(text), learned - place))
        if here:
            train.add_part(text[:here], first=place == 0)
        if here < len(text):
            held_out.add_part(text[here:], first=place <= learned)
        place += len(text)


def before_spaces(parts: Iterable[str]) -> Iterator[str]:
    """The same text in parts that begin with white space and end before it.

    There no tokenizer's token reaches over, so that a text has the tokens that it would have as a
    whole. One of BLOCK_CHARS without white space is cut where it is.
    """
    left = ""
    for text in parts:
        left += text
        found = BEFORE_SPACE.match(left)
        place = found.end() if found else len(left) if len(left) >= BLOCK_CHARS else 0
        if place:
            yield left[:place]
            left = left[place:]
    if left:
        yield left


def sample(plan: PackPlan, survey: Survey, unit: int, size: int) -> Iterator[str]:
    """The first `size` characters of a unit that are learned from: what a tokenizer learns from."""
    for piece in plan.units[unit]:
        source = plan.sources[piece.source]
        if plan.is_one_text(source):
            known = survey.texts[piece.source]
            left = 0 if known is None else num_learned(*known, survey)
            blocks = ([text] for text in one_text(plan, piece, ignore_progress))
        else:
            left = size
            blocks = (divide(docs, survey)[0] for docs in documents(plan, piece, lambda *_: None))
        for text in chain.from_iterable(blocks):
            text = text[: min(left, size)]
            left -= len(text)
            size -= len(text)
            if text:
                yield text
            if not (size and left):
                break


class ShardWriter:
    """The shards of one part that a unit makes, one after the other, in a folder.

    A shard ends with the document that brings it to `most` tokens, or more.
    """

    def __init__(
        self,
        folder: Path,
        part: str,
        unit: int,
        tokenizer: Tokenizer,
        most: int,
        report: Callable[[int], object],
    ) -> None:
        self.folder = folder
        self.part = part
        self.stem = f"{part}-{unit:06}"
        self.tokenizer = tokenizer
        self.most = most
        self.report = report
        self.bos = chr(tokenizer.bos)
        self.encoding = ENCODINGS[bytes_a_token(tokenizer.vocab_size)]
        self.shards: list[dict[str, Any]] = []
        self.files: list[HashedFile] = []  # tokens and offsets of the shard that is written
        self.num_tokens = self.num_docs = 0  # of it
        self.lengths: Counter[int] = Counter()  # of all documents, without BOS
        self.begun: list[int] = []  # the lengths of the parts of the text that is written
        self.num_chars = 0

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.files:
            each.file.close()

    def add(self, docs: list[str]) -> None:
        """Whole documents."""
        if not docs:
            return
        batch = self.tokenizer.encode_documents(docs)
        self.lengths.update(end - begin - 2 for begin, end in pairwise(batch.offsets))
        self.num_chars += sum(map(len, docs))
        # Tokens are code points here, which Python writes in as many bytes as we want. Where two
        # documents meet one BOS of two goes, and so does the last one.
        codes = batch.tokens.tobytes().decode(UTF_32, "surrogatepass")
        codes = codes.replace(self.bos * 2, self.bos)[:-1]
        ends = list(accumulate(end - begin - 1 for begin, end in pairwise(batch.offsets)))
        first, begin = 0, 0
        while first < len(docs):
            self._room()
            count = bisect_left(ends, begin + self.most - self.num_tokens, first) + 1
            count = min(count, len(docs))
            starts = [begin, *ends[first : count - 1]]
            self._offsets([self.num_tokens + start - begin for start in starts])
            self._write(codes[begin : ends[count - 1]])
            first, begin = count, ends[count - 1]

    def add_part(self, text: str, *, first: bool) -> None:
        """The first part of a document, or one more."""
        batch = self.tokenizer.encode_documents([text])
        codes = batch.tokens[1:-1].tobytes().decode(UTF_32, "surrogatepass")
        self.num_chars += len(text)
        if first:
            self._end_text()
        self.begun.append(len(codes))
        if first:
            self._room()
            self._offsets([self.num_tokens])
            codes = self.bos + codes
        self._write(codes)

    def counts(self) -> dict[str, Any]:
        """Of all its documents, for the manifest."""
        self._end_text()
        return {
            "lengths": {str(n): d for n, d in self.lengths.items()},
            "num_chars": self.num_chars,
        }

    def _end_text(self) -> None:
        if self.begun:
            self.lengths[sum(self.begun)] += 1
            self.begun = []

    def finish(self) -> list[dict[str, Any]]:
        """What a manifest says of the shards."""
        self._close()
        return self.shards

    def _room(self) -> None:
        if self.num_tokens >= self.most:
            self._close()
        if not self.files:
            stem = f"{self.stem}-{len(self.shards):03}"
            self.files = [HashedFile(self.folder / f"{stem}.{kind}") for kind in KINDS]

    def _write(self, codes: str) -> None:
        self.files[0].write(codes.encode(self.encoding, "surrogatepass"))
        self.num_tokens += len(codes)
        self.report(len(codes))

    def _offsets(self, places: list[int]) -> None:
        found = array("Q", places)
        if sys.byteorder == "big":
            found.byteswap()
        self.files[1].write(found.tobytes())
        self.num_docs += len(places)

    def _close(self) -> None:
        if not self.files:
            return
        num_docs = self.num_docs
        self._offsets([self.num_tokens])
        self._write(self.bos)
        entries = [file.finish() for file in self.files]
        self.shards.append(
            {
                "part": self.part,
                **dict(zip(KINDS, entries, strict=True)),
                "num_tokens": self.num_tokens,
                "num_docs": num_docs,
            }
        )
        self.files, self.num_tokens, self.num_docs = [], 0, 0


class HashedFile:
    """A new file, and the hash of what is written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = open(path, "xb")  # noqa: SIM115 - closed by `finish`, or by who writes it
        self.digest = sha256()
        self.size = 0

    def write(self, content: bytes) -> None:
        self.file.write(content)
        self.digest.update(content)
        self.size += len(content)

    def finish(self) -> dict[str, Any]:
        """Wait until the disk has it. What a manifest says of it."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"name": self.path.name, "size": self.size, "sha256": self.digest.hexdigest()}
