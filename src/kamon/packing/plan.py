"""What is packed and how, cut into units of work that a worker does one by one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from kamon.data.split import RULE
from kamon.packing.inputs import Piece, Source, split_source
from kamon.packing.shards import FORMAT

MIN_UNITS = 64  # that a corpus is cut into, unless that makes them small
MIN_UNIT_BYTES = 4 << 20  # bytes of a unit
KINDS = ("tokens", "offsets")
Mode = Literal["documents", "text"]
Report = Callable[[int, int], object]  # is told of bytes that were read and tokens that were made


@dataclass(frozen=True)
class PackPlan:
    """All that decides about the bits of the shards; and `output`, which does not."""

    output: str
    mode: Mode
    tokenizer: str  # "char", "bpe", or the SHA-256 of one that is there
    vocab_size: int | None
    column: str | None
    format: str | None
    header: bool
    hold_out: bool
    composed: bool  # whether texts are brought to NFC
    shard_tokens: int
    unit_bytes: int
    sources: list[Source]

    @cached_property
    def content(self) -> dict[str, Any]:
        """As JSON has it."""
        found = {"format_version": FORMAT, "split": RULE, **asdict(self)}
        del found["output"]
        return found

    @cached_property
    def digest(self) -> str:
        return sha256(json.dumps(self.content, sort_keys=True).encode()).hexdigest()

    @cached_property
    def units(self) -> list[list[Piece]]:
        return split_source(self.sources, self.unit_bytes, whole_texts=self.mode == "text")

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
    return min(max(MIN_UNIT_BYTES, total // MIN_UNITS), shard_tokens)


@dataclass(frozen=True)
class Survey:
    """What is known of a corpus before it is encoded.

    texts: of each source that is one document, how many characters it has and its key by
    `kamon.data.split.key`; None if it is blank. held_out: the keys of what is held out. few: so few
    documents that each is cut.
    """

    chars: str
    texts: dict[int, tuple[int, int] | None]
    held_out: range
    split_within_docs: bool


def record_path(plan: PackPlan, stage: str, unit: int) -> Path:
    """Where the record of a unit is, which is finished when it is there."""
    return Path(plan.output, f"{stage}-{unit:06}.json")
