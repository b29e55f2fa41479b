"""The plan of packing: inputs, options, and units of work."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from kamon.config import MODES
from kamon.data.readers import name_of
from kamon.data.split import RULE
from kamon.data.tables import TABLES
from kamon.errors import ConfigError
from kamon.packing.inputs import Piece, Source, find_sources, split_source
from kamon.packing.shards import FORMAT
from kamon.storage.model_dir import load
from kamon.tokenizers.base import BPE_VOCAB
from kamon.tokenizers.load import read_tokenizer

MIN_UNITS = 64  # fewer if they would be shorter than MIN_UNIT_BYTES
MIN_UNIT_BYTES = 4 << 20
SHARD_TOKENS = 100_000_000
KINDS = ("tokens", "offsets")  # the files of a shard
VERSIONS = ("format_version", "split")  # keys of a plan's content

Mode = Literal["documents", "text"]


@dataclass(frozen=True)
class PackOptions:
    """How a corpus is packed.

    Attributes:
        mode: "documents" if each entry is a document, "text" if each text file is one.
        tokenizer: "char", "bpe", or the path of a tokenizer.json or of a model directory.
        vocab_size: number of tokens of a new BPE tokenizer.
        column, format, header: for all inputs (see `kamon.data.corpus.read`).
        hold_out: whether to make a validation set.
        shard_tokens: a shard ends after a document as soon as it has this many tokens.
    """

    mode: Mode = "documents"
    tokenizer: str = "char"
    vocab_size: int | None = None
    column: str | None = None
    format: str | None = None
    header: bool = True
    hold_out: bool = True
    shard_tokens: int = SHARD_TOKENS

    def check(self) -> None:
        if self.mode not in MODES:
            raise ConfigError(f"mode must be documents or text, not {self.mode!r}")
        if self.vocab_size is not None and self.tokenizer != "bpe":
            raise ConfigError("vocab_size applies only to --tokenizer bpe", "leave it out")
        if self.shard_tokens < 1:
            raise ConfigError(f"shard_tokens must be 1 or more, not {self.shard_tokens}")


@dataclass(frozen=True)
class PackPlan:
    """Everything that determines the bits of the shards. Only `output` does not."""

    output: str
    mode: Mode
    tokenizer: str  # "char", "bpe", or the SHA-256 of an existing one
    vocab_size: int | None
    column: str | None
    format: str | None
    header: bool
    hold_out: bool
    composed: bool  # whether text is normalised to NFC
    shard_tokens: int
    unit_bytes: int
    sources: list[Source]

    @cached_property
    def content(self) -> dict[str, Any]:
        content = {"format_version": FORMAT, "split": RULE, **asdict(self)}
        del content["output"]
        return content

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
        return sum(piece.end - piece.begin for piece in self.units[unit])

    def is_one_text(self, source: Source) -> bool:
        """Return True if the whole file is one document."""
        return self.mode == "text" and source.format == "text"

    def record_path(self, stage: str, unit: int) -> Path:
        """Return the path of a unit's record. A unit is finished if its record exists."""
        return Path(self.output, f"{stage}-{unit:06}.json")


@dataclass(frozen=True)
class Survey:
    """The facts about a corpus that Kamon needs before encoding it.

    Attributes:
        chars: the characters that occur.
        texts: for each source that is one document, its length in characters and its
            `kamon.data.split.key`, or None if it is blank.
        held_out: the keys of the validation set.
        split_within_docs: whether the validation set has the end of each document, because there
            are few.
    """

    chars: str
    texts: dict[int, tuple[int, int] | None]
    held_out: range
    split_within_docs: bool


def make_plan(
    inputs: Sequence[str], output: str | Path, options: PackOptions
) -> tuple[PackPlan, str | None, int]:
    """Return the plan, the JSON of the existing tokenizer (if any), and the number of hidden files.

    Raises:
        ConfigError: an option does not fit the inputs, or an input and the output overlap.
        CorpusError: an input cannot be read.
    """
    sources, num_hidden = find_sources(list(map(str, inputs)), options.format)
    if options.column is not None and all(source.format == "text" for source in sources):
        raise ConfigError(
            "all files are read as text, which has no columns", "add a --format such as csv"
        )
    if not options.header and not any(source.format in TABLES for source in sources):
        raise ConfigError("no file is a table with a header row", "leave out --no-header")
    settings = dict(vars(options))
    existing, composed = None, True
    if options.tokenizer == "bpe":
        from kamon.tokenizers.bpe import BytePairTokenizer

        settings["vocab_size"] = BPE_VOCAB if options.vocab_size is None else options.vocab_size
        BytePairTokenizer.train([], settings["vocab_size"])  # raises an error for an invalid size
    elif options.tokenizer != "char":
        name = options.tokenizer
        tokenizer = load(name).tokenizer if os.path.isdir(name) else read_tokenizer(name)
        existing, composed = tokenizer.to_json(), tokenizer.composed
        settings["tokenizer"] = sha256(existing.encode()).hexdigest()
    check_apart(inputs, str(output))
    # This size keeps all processes busy without making small shards.
    unit_bytes = max(MIN_UNIT_BYTES, sum(source.size for source in sources) // MIN_UNITS)
    plan = PackPlan(
        output=os.path.abspath(output),
        composed=composed,
        unit_bytes=min(unit_bytes, options.shard_tokens),
        sources=sources,
        **settings,
    )
    return plan, existing, num_hidden


def check_apart(inputs: Sequence[str], output: str) -> None:
    """Raise ConfigError if the output would change an input while Kamon reads it."""
    path = Path(output).resolve()
    for name in inputs:
        folder = Path(name).resolve()
        if folder == path or (folder.is_dir() and folder in path.parents):
            raise ConfigError(f"{output} is inside the input {name}", "choose another place")
        if path in folder.parents:
            raise ConfigError(
                f"the input {name} is inside the output {output}", "choose another name"
            )


def difference(before: Any, now: dict[str, Any]) -> str:
    """Return in words how the contents of two plans differ."""
    if not isinstance(before, dict) or any(before.get(name) != now[name] for name in VERSIONS):
        return "by another version of Kamon"
    for name, value in now.items():
        if name not in ("sources", "unit_bytes") and before.get(name) != value:
            return f"{name} was {shown(before.get(name))}, and is {shown(value)} now"
    missing = {source["path"]: source for source in before["sources"]}
    for source in now["sources"]:
        same_path = missing.pop(source["path"], None)
        if same_path is None:
            return f"{name_of(source['path'])} was not an input"
        if same_path != source:
            return f"the input {name_of(source['path'])} has changed since"
    if missing:
        return f"the input {name_of(next(iter(missing)))} is missing now"
    same_order = before["sources"] == now["sources"]
    return "by another version of Kamon" if same_order else "its inputs were in another order"


def shown(value: Any) -> str:
    text = {None: "not given", True: "on", False: "off"}.get(value, str(value))
    return text if len(text) <= 40 else f"that of SHA-256 {text[:12]}…"
