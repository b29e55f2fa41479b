"""Packing: encode a corpus of any size in parallel and in bounded memory, resuming after a kill.

Kamon cuts the files into units of bounded size. It writes the shards of each unit, then a record
that names them, so that it never packs a finished unit again. The shards do not depend on the
process or the time. If the tokenizer or the split needs the whole corpus first, Kamon surveys all
units before it packs them. The survey of each unit has its own record.

While packing, the directory has these files. `shards.json` (see shards.py) replaces them at the
end.

    plan.json             the inputs and options. Another plan cannot resume this directory.
    survey-000000.json    of a unit: its characters, number of documents, lengths of its texts
    survey-000000.keys    up to MAX_RANKED different keys of its documents (see split.py). The
        keys of all units decide which documents are in the validation set.
    unit-000000.json      of a unit: its shards
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from kamon.data.readers import stream_lines
from kamon.data.tables import TABLES
from kamon.errors import ConfigError, CorpusError, KamonError, StoreError
from kamon.files.atomic import replace_file, sync_folder
from kamon.files.lock import locked
from kamon.files.output_path import check_directory, write_errors
from kamon.packing.inputs import Report, notes_of
from kamon.packing.plan import KINDS, PackOptions, PackPlan, Survey, difference, make_plan
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
from kamon.storage.model_dir import LOCK, is_model
from kamon.tokenizers.base import BPE_VOCAB
from kamon.tokenizers.char import CharTokenizer

RECORD_OR_SHARD = re.compile(
    r"(survey|unit)-[0-9]{6,}\.json|survey-[0-9]{6,}\.keys"
    r"|(train|held_out)-[0-9]{6,}-[0-9]{3,}\.(tokens|offsets)"
)
UNFINISHED = re.compile(r"\.(new-[0-9a-f]{12}|[a-z0-9-]+\.(json|keys)\..*)")
SAMPLE_CHARS = 16_000_000  # maximum number of characters to train a tokenizer
SAMPLE_UNITS = 64  # maximum number of units they come from


@dataclass(frozen=True)
class PackProgress:
    """Progress of packing.

    Attributes:
        stage: "survey" or "unit".
        num_bytes: bytes of the input that this run and earlier ones have read.
        total_bytes: size of the input.
        num_tokens: tokens that this run has made.
    """

    stage: str
    num_bytes: int
    total_bytes: int
    num_tokens: int


@dataclass(frozen=True)
class Packed:
    """The result of `pack`.

    Attributes:
        manifest: the contents of the directory.
        num_bytes, num_tokens, seconds: totals of this run.
        num_units: number of units in the plan.
        num_units_before: number of units that earlier runs packed.
        was_whole: whether an earlier run packed everything.
        num_hidden: number of hidden files and folders, which Kamon left out.
        notes: number of tables for each note (see `kamon.data.corpus.Corpus`).
    """

    manifest: Manifest
    num_bytes: int
    num_tokens: int
    seconds: float
    num_units: int
    num_units_before: int
    was_whole: bool
    num_hidden: int
    notes: dict[str, int]


def pack(
    inputs: Sequence[str],
    output: str | Path,
    options: PackOptions | None = None,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    on_progress: Callable[[PackProgress], object] | None = None,
) -> Packed:
    """Encode files as token shards in the directory `output`, or resume a stopped run.

    Args:
        inputs: files and folders.
        output: a new directory, or that of a stopped run.
        options: how to pack (by default `PackOptions()`).
        jobs: number of processes. It does not change the shards.
        overwrite: whether to start again if `output` has other inputs or options.
        on_progress: called at most ten times per second.

    Raises:
        ConfigError, CorpusError, TokenizerError: an option or an input is invalid.
        StoreError: `output` cannot be written, or has other inputs or options.
    """
    given = str(output)
    options = options or PackOptions()
    if not given:
        raise StoreError("the output name is empty", "give a new directory for the shards")
    if "\0" in given:
        raise StoreError(f"cannot write {given!r}: embedded null byte")
    options.check()
    if not 1 <= jobs <= 1024:
        raise ConfigError(f"jobs must be from 1 to 1,024, not {jobs}")
    plan, existing, num_hidden = make_plan(inputs, output, options)
    tables = [source for source in plan.sources if source.format in TABLES]
    notes = Counter(note for table in tables for note in notes_of(table, plan.column, plan.header))
    begin = time.perf_counter()
    with writing(given, plan, overwrite=overwrite) as path, write_errors(given):
        was_whole = (path / MANIFEST).exists()
        num_units_before = 0 if was_whole else len(records(plan, "unit"))
        progress = ProgressCounter(plan, on_progress)
        if not was_whole:
            surveyed = survey(plan, jobs, progress)
            tokenizer = existing or make_tokenizer(plan, surveyed)
            work = partial(pack_unit, plan, tokenizer, surveyed)
            finish(plan, tokenizer, surveyed, run("unit", work, plan, jobs, progress))
        return Packed(
            manifest=read_manifest(path)[0],
            num_bytes=progress.num_bytes,
            num_tokens=progress.num_tokens,
            seconds=time.perf_counter() - begin,
            num_units=len(plan.units),
            num_units_before=num_units_before,
            was_whole=was_whole,
            num_hidden=num_hidden,
            notes=dict(notes),
        )


def own_files(name: str) -> bool:
    known = name in (MANIFEST, PLAN, TOKENIZER, VERIFIED, LOCK)
    return known or bool(RECORD_OR_SHARD.fullmatch(name) or UNFINISHED.fullmatch(name))


@contextmanager
def writing(given: str, plan: PackPlan, *, overwrite: bool) -> Iterator[Path]:
    """Hold the directory and write the plan. At the end, remove it if nothing was packed."""
    path = Path(plan.output)
    with ExitStack() as stack, write_errors(given):
        check_directory(path, given, "the shards")
        if path.parent.is_dir() and is_model(path.parent):
            raise StoreError(f"{given} is inside a model directory", "choose another name")
        if not path.exists():
            path.mkdir(parents=True)
            sync_folder(path.parent)
            stack.callback(remove_empty, path)
        # The directory must be empty, or have a plan or manifest and only files of packing.
        finished = {name for name in os.listdir(path) if not UNFINISHED.fullmatch(name)} - {LOCK}
        if not all(map(own_files, finished)) or (finished and planned(path) is None):
            raise StoreError(f"{given} contains something other than shards", "choose another name")
        made = not os.listdir(path)
        stack.enter_context(locked(path / LOCK, given))
        stack.push(partial(remove_if_unused, path, made))
        remove_outdated(path, UNFINISHED.fullmatch)
        before = planned(path)
        begun = any(name == MANIFEST or name.startswith("unit-") for name in os.listdir(path))
        if begun and before not in (None, plan.content) and not overwrite:
            raise StoreError(
                f"{given} was started with other settings: {difference(before, plan.content)}",
                "choose another name, or start again with --overwrite",
            )
        if overwrite or before != plan.content:
            (path / MANIFEST).unlink(missing_ok=True)  # first, as it needs its shards
            replace_file(path / PLAN, json.dumps(plan.content).encode())
            remove_outdated(path, lambda name: own_files(name) and name not in (LOCK, PLAN))
        yield path


def planned(path: Path) -> Any:
    """Return the content of the plan of a finished or stopped run, or None."""
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        manifest = json.loads((path / MANIFEST).read_bytes())
        sources = [{k: v for k, v in file.items() if k != "shards"} for file in manifest["inputs"]]
        return {**manifest["settings"], "sources": sources}
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError):
        plan = json.loads((path / PLAN).read_bytes())
        return plan if "format_version" in plan else None
    return None


def remove_outdated(path: Path, chosen: Callable[[str], object]) -> None:
    for name in os.listdir(path):
        if chosen(name):
            if (path / name).is_dir():
                shutil.rmtree(path / name, ignore_errors=True)
            else:
                (path / name).unlink()


def remove_if_unused(path: Path, made: bool, kind: type[BaseException] | None, *_: object) -> None:
    """Empty a directory that was empty before, if it has no packed unit.

    After Ctrl-C, keep a survey for the next run. After an error of Kamon, delete it, because the
    user will probably change the input.

    kind: type of the exception, or None.
    """
    bad = kind is not None and issubclass(kind, KamonError)
    records = ("unit-",) if bad else ("unit-", "survey-")
    if made and not any(name == MANIFEST or name.startswith(records) for name in os.listdir(path)):
        remove_outdated(path, own_files)


def remove_empty(path: Path) -> None:
    with suppress(OSError):
        path.rmdir()


def records(plan: PackPlan, stage: str) -> dict[int, Any]:
    """Return the records of the finished units whose files are intact."""
    path = Path(plan.output)
    finished: dict[int, Any] = {}
    for unit in range(len(plan.units)):
        with suppress(OSError, ValueError, TypeError, LookupError):
            record = json.loads(plan.record_path(stage, unit).read_bytes())
            files = [shard[kind] for shard in record.get("shards", []) for kind in KINDS]
            sizes = [(path / file["name"]).stat().st_size for file in files]
            if record["plan"] == plan.digest and sizes == [file["size"] for file in files]:
                finished[unit] = record
    return finished


class ProgressCounter:
    """Counts and reports the bytes and tokens of this run."""

    def __init__(
        self, plan: PackPlan, on_progress: Callable[[PackProgress], object] | None
    ) -> None:
        self.plan = plan
        self.on_progress = on_progress
        self.stage, self.before = "", 0
        self.num_bytes = self.num_tokens = 0
        self.last_report = 0.0

    def begin(self, stage: str, before: int) -> None:
        """Start a stage. before: bytes that earlier runs have processed."""
        self.stage, self.before = stage, before
        self.num_bytes = self.num_tokens = 0

    def add(self, num_bytes: int, num_tokens: int) -> None:
        self.num_bytes += num_bytes
        self.num_tokens += num_tokens
        now = time.monotonic()
        if self.on_progress is not None and now - self.last_report > 0.1:
            self.last_report = now
            done = self.before + self.num_bytes
            self.on_progress(PackProgress(self.stage, done, self.plan.num_bytes, self.num_tokens))


def run(
    stage: str,
    work: Callable[[int, Report], Any],
    plan: PackPlan,
    jobs: int,
    progress: ProgressCounter,
) -> list[Any]:
    """Do the work of the missing units, and return the records of all units in order."""
    done = records(plan, stage)
    missing = [unit for unit in range(len(plan.units)) if unit not in done]
    progress.begin(stage, sum(map(plan.size, done)))
    if jobs == 1 or len(missing) < 2:
        for unit in missing:
            done[unit] = work(unit, progress.add)
    else:
        from kamon.packing.pool import run_in_processes

        done |= run_in_processes(work, missing, min(jobs, len(missing)), progress.add)
    return [done[unit] for unit in range(len(plan.units))]


def survey(plan: PackPlan, jobs: int, progress: ProgressCounter) -> Survey:
    """Return the survey of the corpus. It is empty if the plan does not need one."""
    if plan.tokenizer != "char" and plan.mode == "documents" and not plan.hold_out:
        return Survey(chars="", texts={}, held_out=range(0), split_within_docs=False)
    records = run("survey", partial(survey_unit, plan), plan, jobs, progress)
    if not any(record["num_docs"] for record in records):
        raise_empty(plan)
    held_out = keys_held_out(plan)
    return Survey(
        chars="".join(sorted(set().union(*(record["chars"] for record in records)))),
        texts={int(n): text and tuple(text) for r in records for n, text in r["texts"].items()},
        held_out=held_out,
        split_within_docs=plan.hold_out and plan.mode == "text" and not held_out,
    )


def raise_empty(plan: PackPlan) -> None:
    names = plan.sources[0].name if len(plan.sources) == 1 else "the input"
    has_lines = any(next(stream_lines(source.path), None) for source in plan.sources)
    what = "has only blank lines" if has_lines else "is empty"
    raise CorpusError(f"{names} {what}")


def make_tokenizer(plan: PackPlan, surveyed: Survey) -> str:
    """Return the JSON of a new tokenizer, or of that of an earlier run."""
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


def finish(plan: PackPlan, tokenizer: str, surveyed: Survey, done: list[Any]) -> None:
    """Write the manifest of all units, and remove their temporary files."""
    path = Path(plan.output)
    shards: list[dict[str, Any]] = []
    of_source: list[list[str]] = [[] for _ in plan.sources]
    for pieces, record in zip(plan.units, done, strict=True):
        shards += record["shards"]
        for number in sorted({piece.source for piece in pieces}):
            of_source[number] += [shard["tokens"]["name"] for shard in record["shards"]]
    if not shards:
        raise_empty(plan)
    shards.sort(key=lambda shard: SPLITS.index(shard["part"]))  # keeps the order within a part
    # If Kamon cuts documents, the end of each is in the validation set.
    counted = SPLITS[1:] if surveyed.split_within_docs else SPLITS
    counts = [record["counts"] for record in done]
    text = tokenizer.encode()
    vocab_size = tokenizer_of(tokenizer).vocab_size
    content = {
        "format": FORMAT,
        "mode": plan.mode,
        "vocab_size": vocab_size,
        "bytes_a_token": bytes_a_token(vocab_size),
        "tokenizer": {"name": TOKENIZER, "size": len(text), "sha256": sha256(text).hexdigest()},
        "num_docs": sum(shard["num_docs"] for shard in shards if shard["part"] in counted),
        "lengths": {part: lengths(unit[part]["lengths"] for unit in counts) for part in SPLITS},
        "num_chars": {part: sum(unit[part]["num_chars"] for unit in counts) for part in SPLITS},
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


def lengths(of_units: Iterable[dict[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for counts in of_units:
        total.update(counts)
    return dict(sorted(total.items(), key=lambda entry: int(entry[0])))


def totals(shards: list[dict[str, Any]]) -> dict[str, int]:
    return {
        "num_shards": len(shards),
        "num_docs": sum(shard["num_docs"] for shard in shards),
        "num_tokens": sum(shard["num_tokens"] for shard in shards),
        "num_bytes": sum(shard[kind]["size"] for shard in shards for kind in KINDS),
    }
