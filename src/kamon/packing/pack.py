"""A corpus of any size to shards: in parallel, in bounded memory, and going on after a kill.

The files are cut into units of bounded size. Each unit makes shards of its own, the same ones
whoever makes them when, and a record that names them, written last; so what was finished is never
made again. What a tokenizer must know first is gathered in a pass before, whose units leave records
likewise. In the directory, until `shards.json` (see shards.py) is written and takes their
place:

    plan.json             what is packed and how; another plan does not go on with this directory
    survey-000000.json    of a unit: its characters, how many documents, how long its texts are
    survey-000000.keys    and the different keys of its documents (see split.py), but no more of
                          them than MANY: which are held out is decided by those of all units
    unit-000000.json      of a unit: its shards
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from kamon.config import MODES
from kamon.data.readers import name_of
from kamon.data.tables import TABLES
from kamon.errors import ConfigError, CorpusError, KamonError, StoreError
from kamon.files.atomic import replace_file, sync_folder
from kamon.files.lock import locked
from kamon.files.output_path import check_directory, write_errors
from kamon.packing.inputs import find_sources, notes_of
from kamon.packing.plan import KINDS, Mode, PackPlan, Report, Survey, choose_unit_bytes, record_path
from kamon.packing.shards import (
    FORMAT,
    MANIFEST,
    PLAN,
    SPLITS,
    TOKENIZER,
    VERIFIED,
    Manifest,
    bytes_a_token,
    read_manifest,
)
from kamon.packing.worker import keys_held_out, pack_unit, sample, survey_unit, tokenizer_of
from kamon.storage.model_dir import LOCK, is_model, load
from kamon.tokenizers.base import BPE_VOCAB
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import read_tokenizer

RECORD = re.compile(r"(survey|unit)-[0-9]{6,}\.json|survey-[0-9]{6,}\.keys")
SHARD = re.compile(r"(train|held_out)-[0-9]{6,}-[0-9]{3,}\.(tokens|offsets)")
UNFINISHED = re.compile(r"\.(new-[0-9a-f]{12}|[a-z0-9-]+\.(json|keys)\..*)")
VERSIONS = ("format_version", "split")  # of a plan
SAMPLE_CHARS = 16_000_000  # that a tokenizer learns from
SAMPLE_UNITS = 64  # that they are of
SHARD_TOKENS = 100_000_000


@dataclass(frozen=True)
class PackProgress:
    """How far it is: bytes of the input, of all that there are, and tokens made of them."""

    stage: str  # "survey" or "unit"
    num_bytes: int
    total_bytes: int
    num_tokens: int


@dataclass(frozen=True)
class Packed:
    """What came of it. num_bytes and seconds: of what was done this time."""

    manifest: Manifest
    num_bytes: int
    num_tokens: int
    seconds: float
    num_units: int
    num_units_before: int  # of them were there
    was_whole: bool  # so that there was nothing to do
    num_hidden: int  # files and folders of the folders given, left out
    notes: dict[str, int]  # how many tables have which note of a Corpus


def pack(
    inputs: Sequence[str],
    output: str | Path,
    *,
    mode: Mode = "documents",
    tokenizer: str = "char",
    vocab_size: int | None = None,
    column: str | None = None,
    format: str | None = None,
    header: bool = True,
    hold_out: bool = True,
    shard_tokens: int = SHARD_TOKENS,
    jobs: int = 1,
    overwrite: bool = False,
    on_progress: Callable[[PackProgress], object] | None = None,
) -> Packed:
    """Encode files, and those in folders, and write the directory `output`.

    Called again after it was stopped, it goes on. Errors say what is wrong with an input, or how it
    or a setting differs from what `output` was begun with; overwrite starts again then.
    """
    given = str(output)
    if not given:
        raise StoreError("an empty name is no new directory: name one for the shards")
    if "\0" in given:
        raise StoreError(f"cannot write {given!r}: embedded null byte")
    check_settings(mode, tokenizer, vocab_size, shard_tokens, jobs)
    sources, num_hidden = find_sources(list(map(str, inputs)), format)
    if column is not None and all(source.format == "text" for source in sources):
        raise ConfigError("all files are read as text, which has no columns: name a --format")
    if not header and not any(source.format in TABLES for source in sources):
        raise ConfigError("no file is a table, which may have a header: leave out --no-header")
    ready = None if tokenizer in ("char", "bpe") else given_tokenizer(tokenizer)
    composed = ready is None or tokenizer_of(ready).composed
    if ready is not None:
        tokenizer = sha256(ready.encode()).hexdigest()
    if tokenizer == "bpe":
        from kamon.tokenizers.bpe import BytePairTokenizer

        vocab_size = BPE_VOCAB if vocab_size is None else vocab_size
        BytePairTokenizer.train([], vocab_size)  # says now what is wrong with it
    check_outside(inputs, given)
    plan = PackPlan(
        os.path.abspath(output),
        mode,
        tokenizer,
        vocab_size,
        column,
        format,
        header,
        hold_out,
        composed,
        shard_tokens,
        choose_unit_bytes(sources, shard_tokens),
        sources,
    )
    tables = [source for source in sources if source.format in TABLES]
    notes = Counter(note for table in tables for note in notes_of(table, column, header))
    begin = time.perf_counter()
    with writing(given, plan, overwrite=overwrite) as path, write_errors(given):
        was_whole = (path / MANIFEST).exists()
        before = 0 if was_whole else len(records(plan, "unit"))
        seen = ProgressCounter(plan, on_progress)
        if not was_whole:
            surveyed = survey(plan, jobs, seen)
            text = ready or make_tokenizer(plan, surveyed)
            work = partial(pack_unit, plan, text, surveyed)
            finish(plan, text, surveyed, run("unit", work, plan, jobs, seen))
        return Packed(
            read_manifest(path)[0],
            seen.num_bytes,
            seen.num_tokens,
            time.perf_counter() - begin,
            len(plan.units),
            before,
            was_whole,
            num_hidden,
            dict(notes),
        )


def check_settings(
    mode: str, tokenizer: str, vocab_size: int | None, shard_tokens: int, jobs: int
) -> None:
    if mode not in MODES:
        raise ConfigError(f"mode must be documents or text, not {mode!r}")
    if vocab_size is not None and tokenizer != "bpe":
        raise ConfigError("vocab_size is of --tokenizer bpe alone: leave it out")
    if shard_tokens < 1:
        raise ConfigError(f"shard_tokens must be 1 or more, not {shard_tokens}")
    if not 1 <= jobs <= 1024:
        raise ConfigError(f"jobs must be from 1 to 1,024, not {jobs}")


def given_tokenizer(name: str) -> str:
    """The JSON of a tokenizer: in a file, or in a model directory."""
    if os.path.isdir(name):
        return load(name).tokenizer.to_json()
    return read_tokenizer(name).to_json()


def check_outside(inputs: Sequence[str], output: str) -> None:
    """No input that is written to while it is read."""
    path = Path(output).resolve()
    for name in inputs:
        folder = Path(name).resolve()
        if folder == path or (folder.is_dir() and folder in path.parents):
            raise ConfigError(f"{output} would lie in the input {name}: choose another place")
        if path in folder.parents:
            raise ConfigError(f"the input {name} lies in {output}: choose another name")


# ---- the directory


def own_files(name: str) -> bool:
    patterns = (RECORD, SHARD, UNFINISHED)
    return name in (MANIFEST, PLAN, TOKENIZER, VERIFIED, LOCK) or any(
        pattern.fullmatch(name) for pattern in patterns
    )


@contextmanager
def writing(given: str, plan: PackPlan, *, overwrite: bool) -> Iterator[Path]:
    """Hold the directory, which has this plan then. If nothing was packed, it goes again."""
    path = Path(plan.output)
    with ExitStack() as stack, write_errors(given):
        check_directory(path, given, "the shards")
        if path.parent.is_dir() and is_model(path.parent):
            raise StoreError(f"{given} would lie in a model: choose another name")
        if not path.exists():
            path.mkdir(parents=True)
            sync_folder(path.parent)
            stack.callback(remove_empty, path)
        if not is_ours(path):
            raise StoreError(f"{given} holds something else than shards: choose another name")
        made = not os.listdir(path)
        stack.enter_context(locked(path / LOCK, given))
        stack.push(partial(remove_if_unused, path, made))
        remove_outdated(path, UNFINISHED.fullmatch)
        found = planned(path)
        if found not in (None, plan.content) and not overwrite and is_packed_in_part(path):
            raise StoreError(
                f"{given} was begun otherwise: {difference(found, plan.content)}; "
                "choose another name, or start it anew with --overwrite"
            )
        if overwrite or found != plan.content:
            (path / MANIFEST).unlink(missing_ok=True)  # first: never a manifest of what is gone
            replace_file(path / PLAN, json.dumps(plan.content).encode())
            remove_outdated(path, lambda name: own_files(name) and name not in (LOCK, PLAN))
        yield path


def is_ours(path: Path) -> bool:
    """Whether nothing else is there, and a plan or a manifest if there is anything."""
    names = set(os.listdir(path)) - {LOCK}
    whole = {name for name in names if not UNFINISHED.fullmatch(name)}
    return all(map(own_files, whole)) and (not whole or planned(path) is not None)


def planned(path: Path) -> Any:
    """The plan of what is there, or was begun; None if there is none."""
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        found = json.loads((path / MANIFEST).read_bytes())
        sources = [{k: v for k, v in each.items() if k != "shards"} for each in found["inputs"]]
        return {**found["settings"], "sources": sources}
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        found = json.loads((path / PLAN).read_bytes())
        return found if "format_version" in found else None
    return None


def is_packed_in_part(path: Path) -> bool:
    return any(name == MANIFEST or name.startswith("unit-") for name in os.listdir(path))


def difference(was: Any, now: dict[str, Any]) -> str:
    """What of a plan is no longer so, in words."""
    if not isinstance(was, dict) or any(was.get(name) != now[name] for name in VERSIONS):
        return "by another version of Kamon"
    for name, value in now.items():
        if name not in ("sources", "unit_bytes") and was.get(name) != value:
            return f"{name} was {shown(was.get(name))}, and is {shown(value)} now"
    before = {source["path"]: source for source in was["sources"]}
    for source in now["sources"]:
        old = before.pop(source["path"], None)
        if old is None:
            return f"{name_of(source['path'])} was no input"
        if old != source:
            return f"the input {name_of(source['path'])} has changed since"
    if before:
        return f"the input {name_of(next(iter(before)))} is missing now"
    same_order = was["sources"] == now["sources"]
    return "by another version of Kamon" if same_order else "its inputs had another order"


def shown(value: Any) -> str:
    text = {None: "not given", True: "on", False: "off"}.get(value, str(value))
    return text if len(text) <= 40 else f"that of SHA-256 {text[:12]}…"


def remove_outdated(path: Path, chosen: Callable[[str], object]) -> None:
    for name in os.listdir(path):
        if chosen(name):
            if (path / name).is_dir():
                shutil.rmtree(path / name, ignore_errors=True)
            else:
                (path / name).unlink()


def remove_if_unused(path: Path, made: bool, kind: type[BaseException] | None, *_: object) -> None:
    """If nothing was packed in a directory that was empty, it is empty again.

    kind: of what went wrong. What was looked at stays if that was Ctrl-C, but not if an input is
    bad: it is another one when it is mended.
    """
    bad = kind is not None and issubclass(kind, KamonError)
    records = ("unit-",) if bad else ("unit-", "survey-")
    if made and not any(name == MANIFEST or name.startswith(records) for name in os.listdir(path)):
        remove_outdated(path, own_files)


def remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


def records(plan: PackPlan, stage: str) -> dict[int, Any]:
    """What the finished units left. One that does not fit the files beside it does not count."""
    path = Path(plan.output)
    found: dict[int, Any] = {}
    for unit in range(len(plan.units)):
        with suppress(OSError, ValueError, TypeError, LookupError):
            record = json.loads(record_path(plan, stage, unit).read_bytes())
            files = [shard[kind] for shard in record.get("shards", []) for kind in KINDS]
            sizes = [(path / file["name"]).stat().st_size for file in files]
            if record["plan"] == plan.digest and sizes == [file["size"] for file in files]:
                found[unit] = record
    return found


# ---- units of work


class ProgressCounter:
    """Bytes and tokens of this run, and whom to tell."""

    def __init__(
        self, plan: PackPlan, on_progress: Callable[[PackProgress], object] | None
    ) -> None:
        self.plan = plan
        self.on_progress = on_progress
        self.stage, self.before = "", 0
        self.num_bytes = self.num_tokens = 0
        self.told = 0.0

    def begin(self, stage: str, before: int) -> None:
        """before: bytes of what is done already."""
        self.stage, self.before = stage, before
        self.num_bytes = self.num_tokens = 0

    def add(self, num_bytes: int, num_tokens: int) -> None:
        self.num_bytes += num_bytes
        self.num_tokens += num_tokens
        now = time.monotonic()
        if self.on_progress is not None and now - self.told > 0.1:
            self.told = now
            self.on_progress(
                PackProgress(
                    self.stage,
                    self.before + self.num_bytes,
                    self.plan.num_bytes,
                    self.num_tokens,
                )
            )


def run(
    stage: str, work: Callable[[int, Report], Any], plan: PackPlan, jobs: int, seen: ProgressCounter
) -> list[Any]:
    """The records of all units, in order; those that are missing are made."""
    done = records(plan, stage)
    missing = [unit for unit in range(len(plan.units)) if unit not in done]
    seen.begin(stage, sum(map(plan.size, done)))
    if jobs == 1 or len(missing) < 2:
        for unit in missing:
            done[unit] = work(unit, seen.add)
    else:
        from kamon.packing.pool import run_in_processes

        done |= run_in_processes(work, missing, min(jobs, len(missing)), seen.add)
    return [done[unit] for unit in range(len(plan.units))]


# ---- the pass before


def survey(plan: PackPlan, jobs: int, seen: ProgressCounter) -> Survey:
    if plan.tokenizer != "char" and plan.mode == "documents" and not plan.hold_out:
        return Survey("", {}, range(0), False)
    found = run("survey", partial(survey_unit, plan), plan, jobs, seen)
    num_docs = sum(record["num_docs"] for record in found)
    if not num_docs:
        raise_empty(plan)
    chars: set[str] = set()
    held_out = keys_held_out(plan)
    return Survey(
        "".join(sorted(chars.union(*(record["chars"] for record in found)))),
        {int(n): text and tuple(text) for each in found for n, text in each["texts"].items()},
        held_out,
        plan.hold_out and plan.mode == "text" and not held_out,
    )


def raise_empty(plan: PackPlan) -> None:
    names = plan.sources[0].name if len(plan.sources) == 1 else "the input"
    size = plan.num_bytes
    raise CorpusError(f"{names} holds nothing but blank lines" if size else f"{names} is empty")


# ---- the tokenizer


def make_tokenizer(plan: PackPlan, surveyed: Survey) -> str:
    """Its JSON; the one that is there already, if a run before has made it."""
    path = Path(plan.output, TOKENIZER)
    if path.exists():
        return path.read_text(encoding="utf-8")
    if plan.tokenizer == "char":
        return CharTokenizer(surveyed.chars, composed=True).to_json()
    from kamon.tokenizers.bpe import BytePairTokenizer

    count = min(len(plan.units), SAMPLE_UNITS)
    units = [number * len(plan.units) // count for number in range(count)]
    docs = chain.from_iterable(sample(plan, surveyed, u, SAMPLE_CHARS // count) for u in units)
    text = BytePairTokenizer.train(docs, plan.vocab_size or BPE_VOCAB).to_json()
    replace_file(path, text.encode())
    return text


# ---- the end


def finish(plan: PackPlan, tokenizer: str, surveyed: Survey, done: list[Any]) -> None:
    """The manifest of all units; what they left beside their shards goes."""
    path = Path(plan.output)
    shards: list[dict[str, Any]] = []
    of_source: list[list[str]] = [[] for _ in plan.sources]
    for pieces, record in zip(plan.units, done, strict=True):
        shards += record["shards"]
        for number in sorted({piece.source for piece in pieces}):
            of_source[number] += [shard["tokens"]["name"] for shard in record["shards"]]
    if not shards:
        raise_empty(plan)
    shards.sort(key=lambda shard: SPLITS.index(shard["part"]))  # in a part they stay in order
    whole = (
        SPLITS[1:] if surveyed.split_within_docs else SPLITS
    )  # each of few has an end, which is held out
    counts = [record["counts"] for record in done]
    text = tokenizer.encode()
    vocab_size = tokenizer_of(tokenizer).vocab_size
    content = {
        "format": FORMAT,
        "mode": plan.mode,
        "vocab_size": vocab_size,
        "bytes_a_token": bytes_a_token(vocab_size),
        "tokenizer": {"name": TOKENIZER, "size": len(text), "sha256": sha256(text).hexdigest()},
        "num_docs": sum(shard["num_docs"] for shard in shards if shard["part"] in whole),
        "lengths": {part: lengths([each[part] for each in counts]) for part in SPLITS},
        "num_chars": {part: sum(each[part]["num_chars"] for each in counts) for part in SPLITS},
        "totals": {part: totals([s for s in shards if s["part"] == part]) for part in SPLITS},
        "shards": shards,
        "inputs": [
            {**source, "shards": names}
            for source, names in zip(plan.content["sources"], of_source, strict=True)
        ],
        "settings": {name: value for name, value in plan.content.items() if name != "sources"},
    }
    replace_file(path / TOKENIZER, text)
    replace_file(path / MANIFEST, json.dumps(content).encode())
    kept = {LOCK, MANIFEST, TOKENIZER, *(shard[kind]["name"] for shard in shards for kind in KINDS)}
    remove_outdated(path, lambda name: own_files(name) and name not in kept)


def lengths(counts: list[dict[str, Any]]) -> dict[str, int]:
    """How many documents of all units have so many tokens."""
    found: Counter[str] = Counter()
    for each in counts:
        found.update(each["lengths"])
    return dict(sorted(found.items(), key=lambda entry: int(entry[0])))


def totals(shards: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "num_shards": len(shards),
        "num_docs": sum(shard["num_docs"] for shard in shards),
        "num_tokens": sum(shard["num_tokens"] for shard in shards),
        "num_bytes": sum(shard[kind]["size"] for shard in shards for kind in KINDS),
    }
