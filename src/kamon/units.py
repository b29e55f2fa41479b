"""A plan of what is packed, cut into units of work; and what the work on each of them is.

A unit makes the same shards whoever does it and when: nothing here knows of the others, or of
processes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from hashlib import sha256
from itertools import accumulate, chain, compress, pairwise
from operator import not_
from pathlib import Path
from typing import Any, Literal

from kamon.batch import UTF_32
from kamon.corpus import BLOCK_CHARS
from kamon.errors import CorpusError, TokenizerError
from kamon.files import replace_file, sync_folder
from kamon.shards import FORMAT, PARTS, bytes_a_token
from kamon.sources import Piece, Source, cut, entries, lines_before, texts
from kamon.split import PARTS as SPLIT_PARTS
from kamon.split import part as part_of
from kamon.store import staging
from kamon.tokenizer import Tokenizer, tokenizer_from_json

FEW_UNITS = 64  # that a corpus is cut into, unless that makes them small
SMALL = 4 << 20  # bytes of a unit
ENCODINGS = {2: "utf-16-le", 4: "utf-32-le"}
LINE = re.compile(r"[^\n]*\n|[^\n]+")
BEFORE_SPACE = re.compile(r"(?s:.*)\S(?=\s)")
KINDS = ("tokens", "offsets")

Mode = Literal["documents", "text"]
Report = Callable[[int, int], object]  # is told of bytes that were read and tokens that were made


@dataclass(frozen=True)
class Plan:
    """All that decides about the bits of the shards; and `output`, which does not."""

    output: str
    mode: Mode
    tokenizer: str  # "char", "bpe", or the SHA-256 of one that is there
    vocab_size: int | None
    column: str | None
    format: str | None
    header: bool
    hold_out: bool
    shard_tokens: int
    unit_bytes: int
    sources: list[Source]

    @cached_property
    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        found = {"format_version": FORMAT, **asdict(self)}
        del found["output"]
        return found

    @cached_property
    def digest(self) -> str:
        return sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def units(self) -> list[list[Piece]]:
        return cut(self.sources, self.unit_bytes, whole_texts=self.mode == "text")

    @property
    def num_bytes(self) -> int:
        return sum(source.size for source in self.sources)

    def size(self, unit: int) -> int:
        """Bytes of a unit."""
        return sum(piece.end - piece.begin for piece in self.units[unit])

    def is_one_text(self, source: Source) -> bool:
        """Whether the whole file is one document."""
        return self.mode == "text" and source.format == "text"


def choose_unit_bytes(sources: Sequence[Source], shard_tokens: int) -> int:
    """So many that there is enough to share and to go on with, and no shard too many."""
    total = sum(source.size for source in sources)
    return min(max(SMALL, total // FEW_UNITS), shard_tokens)


@dataclass(frozen=True)
class Survey:
    """What is known of a corpus before it is encoded.

    texts: of each source that is one document, how many characters it has and the part of its
    content by `kamon.split.part`; None if it is blank. few: so few documents that each is cut.
    """

    chars: str
    texts: dict[int, tuple[int, int] | None]
    few: bool


def survey_unit(plan: Plan, unit: int, report: Report) -> dict[str, Any]:
    """What `Survey` needs to know of a unit."""
    chars: set[str] = set()
    num_docs = 0
    found: dict[int, tuple[int, int] | None] = {}
    with located(plan, unit):
        for piece in plan.units[unit]:
            source = plan.sources[piece.source]
            if plan.is_one_text(source):
                found[piece.source] = survey_text(texts(source, piece, told(report)), chars)
                num_docs += found[piece.source] is not None
                continue
            for docs in documents(plan, piece, report):
                chars.update("".join(docs))
                num_docs += len(docs)
    if plan.tokenizer != "char":
        chars.clear()
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
    digest, length, blank = sha256(), 0, True
    for text in parts:
        digest.update(text.encode())
        length += len(text)
        blank = blank and text.isspace()
        chars.update(text)
    return None if blank else (length, digest.digest()[0] % SPLIT_PARTS)


def pack_unit(
    plan: Plan, tokenizer: str, survey: Survey, unit: int, report: Report
) -> dict[str, Any]:
    """Write the shards of a unit and say which they are. tokenizer: its JSON."""
    path, found = Path(plan.output), tokenizer_of(tokenizer)
    with staging(path) as folder, ExitStack() as stack:
        writers = [
            stack.enter_context(
                Writer(folder, name, unit, found, plan.shard_tokens, lambda n: report(0, n))
            )
            for name in PARTS
        ]
        with located(plan, unit, found):
            for piece in plan.units[unit]:
                source = plan.sources[piece.source]
                if plan.is_one_text(source):
                    known = survey.texts[piece.source]
                    if known is not None:
                        learned = num_learned(*known, plan.hold_out, survey.few)
                        write_text(texts(source, piece, told(report)), learned, *writers)
                    continue
                for docs in documents(plan, piece, report):
                    divided = divide(docs, plan.hold_out, survey.few)
                    for writer, some in zip(writers, divided, strict=True):
                        writer.add(some)
        shards = [shard for writer in writers for shard in writer.finish()]
        for shard in shards:
            for kind in KINDS:
                os.replace(folder / shard[kind]["name"], path / shard[kind]["name"])
    sync_folder(path)
    record = {"plan": plan.digest, "shards": shards}
    replace_file(record_path(plan, "unit", unit), json.dumps(record).encode())
    return record


@lru_cache(1)
def tokenizer_of(text: str) -> Tokenizer:
    return tokenizer_from_json(text)


def record_path(plan: Plan, stage: str, unit: int) -> Path:
    """Where the record of a unit is, which is finished when it is there."""
    return Path(plan.output, f"{stage}-{unit:06}.json")


# ---- documents


def told(report: Report) -> Callable[[int], object]:
    return lambda num_bytes: report(num_bytes, 0)


def untold(_: int) -> None:
    pass


def documents(plan: Plan, piece: Piece, report: Report) -> Iterator[list[str]]:
    """The documents of a piece of many, none of them blank, many at a time."""
    number = 2 if piece.begin else 1  # any but the first: `located` counts
    for block in entries(
        plan.sources[piece.source], piece, plan.column, told(report), number, plan.header
    ):
        if plan.mode == "documents":  # as `as_document` does, faster
            docs = list(filter(None, map(str.strip, block)))
        else:
            docs = list(filter(None, (as_document(plan, entry) for entry in block)))
        if docs:
            yield docs


def as_document(plan: Plan, entry: str) -> str:
    """What a line, record or cell is as a document; "" if it is blank."""
    if plan.mode == "documents":
        return entry.strip()
    return entry.replace("\r\n", "\n").replace("\r", "\n") if entry.strip() else ""


def divide(docs: list[str], hold_out: bool, few: bool) -> tuple[list[str], list[str]]:
    """(learned, held out): by content; where there are few, the last tenth of each."""
    if not hold_out:
        return docs, []
    if few:
        places = [(doc, len(doc) - len(doc) // SPLIT_PARTS) for doc in docs]
        ends = [doc[place:] for doc, place in places if place < len(doc)]
        return [doc[:place] for doc, place in places], ends
    apart = [part_of(doc.encode()) == 0 for doc in docs]
    return list(compress(docs, map(not_, apart))), list(compress(docs, apart))


@contextmanager
def located(plan: Plan, unit: int, tokenizer: Tokenizer | None = None) -> Iterator[None]:
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
                blocks = map(LINE.findall, texts(source, piece, untold, number))
            else:
                blocks = entries(source, piece, plan.column, untold, number, plan.header)
            for entry in chain.from_iterable(blocks):
                try:
                    if tokenizer is not None:
                        tokenizer.encode(entry if whole else as_document(plan, entry))
                except TokenizerError as error:
                    kind = "record" if source.format in ("csv", "tsv", "json") else "line"
                    raise TokenizerError(f"{source.name}, {kind} {number}: {error}") from None
                number += entry.count("\n") if whole else 1
        raise


def num_learned(length: int, part: int, hold_out: bool, few: bool) -> int:
    """How many of a text's first characters are learned; what is behind is held out."""
    if not hold_out:
        return length
    if few:
        return length - length // SPLIT_PARTS
    return 0 if part == 0 else length


def write_text(parts: Iterable[str], learned: int, train: Writer, held_out: Writer) -> None:
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


def sample(plan: Plan, survey: Survey, unit: int, size: int) -> Iterator[str]:
    """The first `size` characters of a unit that are learned from: what a tokenizer learns from."""
    for piece in plan.units[unit]:
        source = plan.sources[piece.source]
        if plan.is_one_text(source):
            known = survey.texts[piece.source]
            left = 0 if known is None else num_learned(*known, plan.hold_out, survey.few)
            blocks = ([text] for text in texts(source, piece, untold))
        else:
            left = size
            blocks = (
                divide(docs, plan.hold_out, survey.few)[0]
                for docs in documents(plan, piece, lambda *_: None)
            )
        for text in chain.from_iterable(blocks):
            text = text[: min(left, size)]
            left -= len(text)
            size -= len(text)
            if text:
                yield text
            if not (size and left):
                break


class Writer:
    """The shards of one part that a unit makes, one behind the other, in a folder.

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

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.files:
            each.file.close()

    def add(self, docs: list[str]) -> None:
        """Whole documents."""
        if not docs:
            return
        batch = self.tokenizer.encode_documents(docs)
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
        if first:
            self._room()
            self._offsets([self.num_tokens])
            codes = self.bos + codes
        self._write(codes)

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
