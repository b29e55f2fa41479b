"""Measure Kamon on the lists of `bench/lists.toml`: nats per token on entries it has not seen.

    python bench/build_lists.py
    python bench/lists.py --json build/lists.jsonl --markdown docs/benchmark.md

Each of up to five splits holds out another tenth of a list for the test. Kamon trains on the other
nine tenths with its default settings. So does the best Kneser-Ney n-gram: its order is the one that
is best on a tenth of the training part, then it counts all of that part. A token is a character or
the end of an entry. Test entries that have a character which the training part lacks, or are longer
than all of its entries, are left out for all systems and counted.

With --json, each measurement is appended to FILE at once, and those that FILE has are not repeated.
So an interrupted run continues, and the table is made again in a second. Settings other than the
defaults (--set, --budget) are other measurements. After a change of Kamon, give a new FILE: rows do
not say which code they are of. Times are processor times, and memory is the peak of a process that
reads a list and trains once. makemore, nanoGPT and nanochat need torch: see
`bench/peers.py`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import kamon
from kamon.data.split import key
from kamon.evaluation.score import score_list
from kamon.generation.blend import BlendedModel
from kamon.ngrams.native import count_ngram
from kamon.ngrams.reference import MAX_ORDER
from kamon.tokenizers.char import CharTokenizer

ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "bench" / "lists.toml"
LISTS = ROOT / "build" / "lists"
NUM_PARTS = 10
MAX_SPLITS = 5
ORDER = 6  # of the n-gram that a model's part is compared with
NUM_SAMPLES = 1_000
SEED = 42
SYSTEMS = ("kamon", "ngram", "makemore", "nanogpt", "nanochat")
ROLES = ("report", "tune")
GAIN_HEAD = ("lists", "number", "Kamon is better on", "mean gain (nats per token)", "worst")
SIZES = {"1 to 199": 200, "200 to 999": 1_000, "1,000 to 4,999": 5_000, "5,000 or more": 10**9}
MAX_HELPED = 5_000  # entries of a list to which the base matters most
NOT_IN_BASE = ("Han", "Hangul")
TABLE_BELOW = "<!-- bench/lists.py writes everything below this line. -->"
Row = dict[str, Any]


def split(entries: Iterable[str], number: int) -> tuple[list[str], list[str]]:
    """Return (training part, test part) of one of NUM_PARTS splits, in the list's order.

    The different fold keys are ranked. The test part has the entries whose rank, modulo NUM_PARTS,
    is `number`. So entries that differ only in case or accents are in the same part.
    """
    unique = list(dict.fromkeys(entries))
    keys = list(map(key, unique))
    rank = {key: place for place, key in enumerate(sorted(set(keys)))}
    is_test = [rank[key] % NUM_PARTS == number for key in keys]
    training = [entry for entry, test in zip(unique, is_test, strict=True) if not test]
    return training, [entry for entry, test in zip(unique, is_test, strict=True) if test]


def testable(training: Sequence[str], test: Iterable[str]) -> list[str]:
    """Return the test entries that every system can read after this training part."""
    known, longest = set("".join(training)), max(map(len, training))
    return [entry for entry in test if known.issuperset(entry) and len(entry) <= longest]


def num_tokens(entries: Iterable[str]) -> int:
    return sum(len(entry) + 1 for entry in entries)


@dataclass(frozen=True)
class Task:
    """One measurement: a system, trained on one split of a list.

    settings: the arguments of `kamon.train`, or of the other system.
    """

    list: str
    sha256: str  # of the list's file
    split: int
    system: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def measure(task: Task) -> Row:
    """Return what a task asks for, with the task's own fields."""
    entries = (LISTS / f"{task.list}.txt").read_text(encoding="utf-8").splitlines()
    training, held_out = split(entries, task.split)
    test = testable(training, held_out)
    row = asdict(task) | {
        "entries": len(entries),
        "test": len(test),
        "left_out": len(held_out) - len(test),
        "tokens": num_tokens(test),
    }
    if not test:
        return row
    if task.system == "kamon":
        return row | by_kamon(training, test, SEED + task.split, task.settings)
    if task.system == "ngram":
        return row | by_ngram(training, test)
    return row | by_peer(task.system, training, test, task.settings)


def by_kamon(training: list[str], test: list[str], seed: int, settings: dict[str, Any]) -> Row:
    """Train a model and test it. Time is processor time. Memory is that of the whole process."""
    start, cpu_start = time.perf_counter(), time.process_time()
    model = kamon.train(training, **({"seed": seed} | settings))
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    memory = peak_memory()
    logprobs = [found.logprob for found in kamon.score(model, test)]
    samples = model.sample(NUM_SAMPLES, temperature=1.0, seed=SEED)
    known = set(training)
    return {
        "nats": -sum(logprobs) / num_tokens(test),
        "parts": parts_of(model, test),
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "memory": memory,
        "steps": model.config.num_steps,
        "parameters": model.num_params,
        "novel": sum(sample not in known for sample in samples) / max(1, len(samples)),
        "unique": len(set(samples)) / max(1, len(samples)),
    }


def parts_of(model: kamon.Model, test: list[str]) -> dict[str, float]:
    """Return the nats per token of each part of a model: its GPT, and an n-gram of its list."""
    tokens = num_tokens(test)
    blend = model.language_model
    if not isinstance(blend, BlendedModel):
        return {"gpt": -sum(score_list(blend, model.tokenizer, test).logprobs) / tokens}
    parts = {"gpt": blend.gpt, "ngram": blend.ngram}
    return {
        name: -sum(score_list(part, model.tokenizer, test).logprobs) / tokens
        for name, part in parts.items()
    }


def by_ngram(training: list[str], test: list[str]) -> Row:
    """Choose the order on a tenth of the training part, then count all of it."""
    tokenizer = CharTokenizer.train(training)
    counted, validation = (tokenizer.encode_documents(part) for part in split(training, 0))
    start = time.process_time()
    losses = [
        -sum(count_ngram(counted, tokenizer.vocab_size, order).logprobs(validation))
        for order in range(1, MAX_ORDER + 1)
    ]
    order = 1 + losses.index(min(losses))
    best = count_ngram(tokenizer.encode_documents(training), tokenizer.vocab_size, order)
    seconds = time.process_time() - start
    total = sum(best.logprobs(tokenizer.encode_documents(test)))
    return {"nats": -total / num_tokens(test), "order": order, "cpu_seconds": seconds}


def by_peer(system: str, training: list[str], test: list[str], settings: dict[str, Any]) -> Row:
    """Train another program's model for so much processor time, by its own recipe."""
    import peers

    run = {
        "makemore": peers.by_makemore,
        "nanogpt": peers.by_nanogpt,
        "nanochat": peers.by_nanochat,
    }[system]
    found = run(Path(settings["path"]), training, test, settings["seconds"])
    return {
        "nats": found["nats"],
        "cpu_seconds": found["seconds"],
        "steps": found["steps"],
        "parameters": found["parameters"],
        "memory": peak_memory(),
        "novel": 1 - found["copies"],
    }


def peak_memory() -> int:
    """Return the peak memory of this process, in bytes."""
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def run_all(tasks: Sequence[Task], jobs: int) -> Iterator[Row]:
    """Measure each task in a new process, so many at a time, and yield the rows."""
    spawn = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, max_tasks_per_child=1) as pool:
        try:
            for done in as_completed([pool.submit(measure, task) for task in tasks]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def key_of(row: Row) -> str:
    """Return the key of the task that a row is of."""
    return Task(*(row[name] for name in Task.__dataclass_fields__)).key


def stored_rows(path: Path | None) -> list[Row]:
    """Return the rows in a file. A last line without an end, of an interrupted run, is ignored."""
    if path is None or not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def append(path: Path, row: Row) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        before = file.read()
        if before and not before.endswith(b"\n"):
            file.truncate(before.rfind(b"\n") + 1)
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


@dataclass(frozen=True)
class Column:
    """A column of the table: how to read its value from a list's rows of one system."""

    title: str
    system: str
    value: Callable[[Row], float | None]
    format: str = ".3f"
    spread: bool = False


COLUMNS = [
    Column("Kamon", "kamon", lambda row: row.get("nats"), spread=True),
    Column("its GPT", "kamon", lambda row: row.get("parts", {}).get("gpt")),
    Column("its n-gram", "kamon", lambda row: row.get("parts", {}).get("ngram")),
    Column("best n-gram", "ngram", lambda row: row.get("nats"), spread=True),
    Column("its order", "ngram", lambda row: row.get("order"), ".1f"),
    Column("makemore", "makemore", lambda row: row.get("nats"), spread=True),
    Column("nanoGPT", "nanogpt", lambda row: row.get("nats"), spread=True),
    Column("nanochat", "nanochat", lambda row: row.get("nats"), spread=True),
    Column("time (s)", "kamon", lambda row: row.get("cpu_seconds"), ".1f"),
    Column("memory (MB)", "kamon", lambda row: row.get("memory", 0) / 1e6 or None, ".0f"),
    Column("novel", "kamon", lambda row: row.get("novel"), ".0%"),
    Column(
        "left out", "ngram", lambda row: row["left_out"] / (row["left_out"] + row["test"]), ".0%"
    ),
]


class Results:
    """Rows by list and system. Values are means over splits."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in rows:
            self.rows[row["list"], row["system"]].append(row)

    def values(self, name: str, column: Column) -> list[float]:
        found = map(column.value, self.rows[name, column.system])
        return [value for value in found if value is not None]

    def mean(self, name: str, column: Column) -> float | None:
        found = self.values(name, column)
        return statistics.fmean(found) if found else None

    def show(self, name: str, column: Column) -> str:
        """Return a cell: the mean, and the standard deviation over splits if there are several."""
        found = self.values(name, column)
        if not found:
            return "–"
        shown = format(statistics.fmean(found), column.format)
        if column.spread and len(found) > 1:
            shown += f" ± {statistics.stdev(found):{column.format}}"
        return shown

    def gain(self, name: str) -> float | None:
        """Return by how much Kamon's loss is below the best n-gram's, the mean over splits."""
        kamon_by_split = {row["split"]: row.get("nats") for row in self.rows[name, "kamon"]}
        gains = [
            row["nats"] - kamon_nats
            for row in self.rows[name, "ngram"]
            if "nats" in row and (kamon_nats := kamon_by_split.get(row["split"])) is not None
        ]
        return statistics.fmean(gains) if gains else None


def markdown(cards: dict[str, Row], rows: Iterable[Row]) -> str:
    """Return the table of all lists and the summary by groups, in Markdown."""
    results = Results(rows)
    measured = {name for name, _ in results.rows}
    names = [name for name in cards if name in measured]
    columns = [column for column in COLUMNS if any(results.values(name, column) for name in names)]
    head = ["list", "kind", "script", "entries", *(column.title for column in columns)]
    body = [
        [
            *(name, cards[name]["kind"], cards[name]["script"], f"{cards[name]['entries']:,}"),
            *(results.show(name, column) for column in columns),
        ]
        for name in names
    ]
    text = []
    for role in ROLES:
        chosen = [
            line for name, line in zip(names, body, strict=True) if cards[name]["role"] == role
        ]
        if chosen:
            text += [f"Lists with the role “{role}”:", "", *lines(head, chosen), ""]
    return "\n".join([*text, *summary(cards, names, results)]).rstrip("\n") + "\n"


def summary(cards: dict[str, Row], names: Sequence[str], results: Results) -> list[str]:
    """Return lines that compare Kamon with the best n-gram, by groups of lists of each role."""
    text = []
    for role in ROLES:
        groups: dict[tuple[int, str], list[float]] = defaultdict(list)
        for name in names:
            gain = results.gain(name)
            if cards[name]["role"] == role and gain is not None:
                for group in groups_of(cards[name]):
                    groups[group].append(gain)
        body = [gain_line(label, groups[place, label]) for place, label in sorted(groups)]
        if body:
            text += [f"Gain of Kamon over the best n-gram, role “{role}”:", ""]
            text += [*lines(GAIN_HEAD, body), ""]
    return text


def gain_line(label: str, gains: list[float]) -> list[str]:
    better = sum(gain > 0 for gain in gains)
    shown = (f"{value:+.3f}" for value in (statistics.mean(gains), min(gains)))
    return [label, str(len(gains)), str(better), *shown]


def groups_of(card: Row) -> list[tuple[int, str]]:
    """Return the groups that a list is in: all, and those by the base, size, script and kind.

    The number says where a group is in the table.
    """
    size = next(place for place, end in enumerate(SIZES.values()) if card["entries"] < end)
    script = "Latin" if card["script"] == "Latin" else "others"
    helped = card["entries"] < MAX_HELPED and card["script"] not in NOT_IN_BASE
    return [
        (0, "all"),
        (1, f"{'below' if helped else 'not below'} {MAX_HELPED:,} entries in a script of the base"),
        (2 + size, f"entries: {[*SIZES][size]}"),
        (10, f"script: {script}"),
        (20, f"kind: {card['kind']}"),
    ]


def lines(head: Sequence[str], body: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]


def tasks_of(args: argparse.Namespace, cards: dict[str, Row]) -> list[Task]:
    """Return what the options ask for: the first split of each list first."""
    settings: dict[str, Any] = dict(args.set)
    if args.budget:
        settings["budget"] = args.budget
    systems = {"kamon": settings, "ngram": {}}
    if args.makemore:
        systems["makemore"] = {"path": str(args.makemore), "seconds": args.seconds}
    if args.nanogpt:
        systems["nanogpt"] = {"path": str(args.nanogpt), "seconds": args.seconds}
    if args.nanochat:
        systems["nanochat"] = {"path": str(args.nanochat), "seconds": args.seconds}
    return [
        Task(name, cards[name]["sha256"], number, system, own)
        for number in range(args.splits)
        for name in cards
        if (not args.lists or name in args.lists)
        and (not args.role or cards[name]["role"] == args.role)
        for system, own in systems.items()
    ]


def check_lists(cards: dict[str, Row], names: Iterable[str]) -> None:
    """Exit if a list is missing or not that of its card."""
    for name in names:
        path = LISTS / f"{name}.txt"
        if not path.exists() or sha256(path.read_bytes()).hexdigest() != cards[name]["sha256"]:
            sys.exit(
                f"error: {path} does not match its card\nhint: build it with bench/build_lists.py"
            )


def setting(text: str) -> tuple[str, Any]:
    """Return (key, value) of "key=value". The value is JSON, or else text.

    >>> setting("dropout=0.3"), setting("size=large")
    (('dropout', 0.3), ('size', 'large'))
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not key=value")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lists", nargs="+", metavar="NAME", help="only these lists")
    parser.add_argument("--role", choices=ROLES, help="only lists with this role")
    parser.add_argument(
        "--splits", type=int, default=MAX_SPLITS, choices=range(1, MAX_SPLITS + 1), help="[5]"
    )
    parser.add_argument(
        "--set", type=setting, nargs="+", default=[], metavar="KEY=VALUE", help="for kamon.train"
    )
    parser.add_argument("--budget", metavar="TIME", help="for kamon.train")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time [1]")
    parser.add_argument("--makemore", type=Path, metavar="FILE", help="makemore.py")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="folder of its model.py")
    parser.add_argument("--nanochat", type=Path, metavar="FOLDER", help="folder of its package")
    parser.add_argument("--seconds", type=float, default=10.0, help="of training, for these [10]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append the rows to it")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write the table to it, below the mark if it has one",
    )
    return parser


def above(page: Path) -> str:
    """Return what a page has up to TABLE_BELOW, that line included: the table replaces the rest."""
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    kept, marker, _ = text.partition(TABLE_BELOW)
    return kept + marker + "\n\n" if marker else ""


def main() -> None:
    args = make_parser().parse_args()
    cards = tomllib.loads(CARDS.read_text(encoding="utf-8"))
    if unknown := set(args.lists or ()) - set(cards):
        sys.exit(f"error: no list is called {', '.join(sorted(unknown))}")
    tasks = tasks_of(args, cards)
    check_lists(cards, {task.list for task in tasks})
    wanted = {task.key: None for task in tasks}
    rows = {key: row for row in stored_rows(args.json) if (key := key_of(row)) in wanted}
    for row in run_all([task for task in tasks if task.key not in rows], args.jobs):
        rows[key_of(row)] = row
        if args.json:
            append(args.json, row)
        nats = f"{row['nats']:.4f}" if "nats" in row else "nothing to test"
        print(f"{row['list']:24} split {row['split']} {row['system']:8} {nats}", file=sys.stderr)
    table = markdown(cards, rows.values())
    if args.markdown:
        args.markdown.parent.mkdir(parents=True, exist_ok=True)
        args.markdown.write_text(above(args.markdown) + table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
