"""Measure conditional models on the tables of `bench/build_tables.py`.

    python bench/build_tables.py
    python bench/columns.py [--tables NAME ...] [--splits N]

Each of two splits holds out about 6% of a table's entries for the test. Compared are one
conditional model, one Kamon model per class and one Kneser-Ney n-gram per class, whose order is the
best one on a tenth of the training part. Classes are compared by Bayes' rule. Test rows with a
character that their class lacks in the training part are left out for all. Settings were chosen on
the tables names and surnames.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from lists import by_ngram, num_tokens, split, testable

import kamon
from kamon.data.split import RESERVED_KEYS, key
from kamon.evaluation.score import score_list
from kamon.ngrams.native import count_ngram
from kamon.tokenizers.char import CharTokenizer

ROOT = Path(__file__).resolve().parent.parent
TABLES = ROOT / "build" / "tables"
SEED = 42
NUM_BINS = 10
NUM_SAMPLES = 200
COLUMNS: dict[str, tuple[str, list[str], str | None]] = {
    "names": ("name", ["sex"], None),
    "surnames": ("surname", ["country"], None),
    "cities": ("city", ["country"], None),
    "people": ("name", ["country", "sex"], None),
    "pokemon": ("name", ["language"], None),
    "characters": ("name", ["kind"], None),
    "words": ("word", ["language"], None),
}


class Row(NamedTuple):
    text: str
    values: tuple[str, ...]
    weight: float


def read(name: str) -> list[Row]:
    entry, given, _ = COLUMNS[name]
    with (TABLES / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        found = csv.DictReader(file)
        weight = next((w for w in ("births", "people") if w in (found.fieldnames or ())), None)
        rows = [
            Row(r[entry], tuple(r[c] for c in given), float(r[weight]) if weight else 1.0)
            for r in found
        ]
    unique = {(row.text, row.values): row for row in rows}
    return list(unique.values())


def divided(rows: Sequence[Row], number: int) -> tuple[list[Row], list[Row]]:
    """Return (training rows, test rows) of one of two splits; the same entry is on one side.

    The test entries have reserved keys, which the base has not read: every second of them. Kamon
    takes the others as its validation set.
    """
    reserved = sorted({n for row in rows if (n := key(row.text)) in RESERVED_KEYS})
    chosen = set(reserved[number::2])
    apart = {row.text for row in rows if key(row.text) in chosen}
    learned = [row for row in rows if row.text not in apart]
    by_class = defaultdict(list)
    for row in learned:
        by_class[row.values].append(row.text)
    tested = [
        row
        for row in rows
        if row.text in apart and testable(by_class[row.values] or [""], [row.text])
    ]
    return learned, tested


def softmax(logs: Sequence[float]) -> list[float]:
    largest = max(logs)
    exps = [math.exp(log - largest) for log in logs]
    return [x / sum(exps) for x in exps]


def judged(shares: Sequence[dict[str, float]], truth: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, the mean confidence, the calibration error in points, and nats.

    bins: of each bin of confidences, the number of rows, and the sums of confidences and of hits.
    """
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(NUM_BINS)]
    nats, right = 0.0, 0
    for own, true in zip(shares, truth, strict=True):
        best = max(own, key=own.__getitem__)
        bins[min(NUM_BINS - 1, int(own[best] * NUM_BINS))].append((own[best], best == true))
        right += best == true
        nats -= math.log(max(own.get(true, 0.0), 1e-12))
    n = len(truth)
    error = sum(abs(sum(p for p, _ in b) - sum(ok for _, ok in b)) for b in bins) / n
    confidence = sum(p for b in bins for p, _ in b) / n
    return {
        "accuracy": 100 * right / n,
        "confidence": 100 * confidence,
        "calibration_error": 100 * error,
        "nats": nats / n,
        "bins": [[len(b), sum(p for p, _ in b), sum(ok for _, ok in b)] for b in bins],
    }


def marginal(
    classes: Sequence[tuple[str, ...]], posterior: Sequence[float], number: int
) -> dict[str, float]:
    found: dict[str, float] = defaultdict(float)
    for values, p in zip(classes, posterior, strict=True):
        found[values[number]] += p
    return dict(found)


def measure(name: str, number: int, settings: dict[str, Any], separate: bool) -> dict[str, Any]:
    entry, given, _ = COLUMNS[name]
    rows = read(name)
    learned, tested = divided(rows, number)
    by_class: dict[tuple[str, ...], list[str]] = defaultdict(list)
    test_of: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for row in learned:
        by_class[row.values].append(row.text)
    for row in tested:
        test_of[row.values].append(row.text)
    classes = sorted(by_class)
    tokens = num_tokens([row.text for row in tested])
    start = time.process_time()
    table = [
        {entry: row.text, **dict(zip(given, row.values, strict=True)), "w": row.weight}
        for row in learned
    ]
    model = kamon.train(table, column=entry, given=given, seed=SEED + number, **settings)
    seconds = time.process_time() - start
    conditional = model.conditional
    out: dict[str, Any] = {
        "table": name, "split": number, "rows": len(rows), "classes": len(classes),
        "test": len(tested), "cpu_seconds": seconds, "given": dict(model.training.given or {}),
        "blend": dict(model.training.blend or {}), "steps": len(model.metrics),
    }  # fmt: skip
    total = ngrams = weighted = weights = 0.0
    for values, texts in test_of.items():
        own = conditional.models[values]
        batch = model.tokenizer.encode_documents(texts)
        logs = own.logprobs(batch)
        total -= sum(logs)
        if own.ngram:
            ngrams -= sum(own.ngram.logprobs(batch))
    for row in tested:
        batch = model.tokenizer.encode_documents([row.text])
        weighted -= row.weight * sum(conditional.models[row.values].logprobs(batch))
        weights += row.weight * (len(row.text) + 1)
    out["conditional"] = total / tokens
    out["conditional_weighted"] = weighted / weights
    out["class_ngrams_mixed"] = ngrams / tokens
    out["mix"] = mixed_shares(model, given[0])
    nb = ngram_nats(by_class, test_of)
    out["ngram_per_class"] = nb / tokens
    texts = [row.text for row in tested]
    n = len(learned)
    kn: dict[tuple[str, ...], list[float]] = {}
    everything = CharTokenizer(sorted(set("".join(r.text for r in rows))), composed=True)
    for values in classes:
        order = best_order(by_class[values], everything)
        batch = everything.encode_documents(by_class[values])
        counted = count_ngram(batch, everything.vocab_size, order)
        kn[values] = list(score_list(counted, everything, texts).logprobs)
    posterior = [
        softmax([math.log(len(by_class[v]) / n) + kn[v][i] for v in classes])
        for i in range(len(texts))
    ]
    for place, column in enumerate(given):
        truth = [row.values[place] for row in tested]
        out[f"naive Bayes {column}"] = judged(
            [marginal(classes, p, place) for p in posterior], truth
        )
        found = kamon.classify(model, texts, by=column)
        out[f"kamon {column}"] = judged([each.shares for each in found], truth)
    if separate:
        start = time.process_time()
        total = 0.0
        for values, own in test_of.items():
            alone = kamon.train(by_class[values], seed=SEED + number, **settings)
            total -= sum(each.logprob for each in kamon.score(alone, own))
        out["separate"] = total / tokens
        out["separate_cpu_seconds"] = time.process_time() - start
    return out


def prior_of(model: kamon.Model, column: str) -> dict[str, float]:
    """Return the share of each value of a column in the table."""
    number = model.conditional.columns.index(column)
    found: dict[str, float] = defaultdict(float)
    for values, share in model.conditional.shares.items():
        found[values[number]] += share
    return dict(found)


def mixed_shares(model: kamon.Model, column: str) -> dict[str, dict[str, float]]:
    """Return the shares of NUM_SAMPLES samples of 50:50 mixes that are classed as each part."""
    values = model.given_values[column][:4]
    found = {}
    for first, second in combinations(values, 2):
        texts = model.sample(
            NUM_SAMPLES, given={column: {first: 0.5, second: 0.5}}, temperature=1.0, seed=SEED
        )
        texts = list(filter(None, texts))
        priors = {
            value: p for value, p in prior_of(model, column).items() if value in (first, second)
        }
        counts = {first: 0, second: 0}
        for each in kamon.classify(model, texts, by=column):
            # The classes of a 50:50 mix are equally likely before an entry is read.
            fits = {value: each.shares[value] / prior for value, prior in priors.items()}
            counts[max(fits, key=fits.__getitem__)] += 1
        found[f"{first}:{second}"] = {v: n / len(texts) for v, n in counts.items()}
    return found


def best_order(texts: Sequence[str], tokenizer: CharTokenizer) -> int:
    counted, tested = (tokenizer.encode_documents(part) for part in split(texts, 0))
    losses = [
        -sum(count_ngram(counted, tokenizer.vocab_size, order).logprobs(tested))
        for order in range(1, 7)
    ]
    return 1 + losses.index(min(losses))


def ngram_nats(
    by_class: dict[tuple[str, ...], list[str]], test_of: dict[tuple[str, ...], list[str]]
) -> float:
    return sum(
        by_ngram(by_class[values], texts)["nats"] * num_tokens(texts)
        for values, texts in test_of.items()
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tables", nargs="+", default=list(COLUMNS))
    parser.add_argument("--splits", type=int, default=1)
    parser.add_argument("--no-separate", action="store_true")
    parser.add_argument("--set", nargs="*", default=[])
    args = parser.parse_args()
    settings = {k: json.loads(v) for k, _, v in (each.partition("=") for each in args.set)}
    for name in args.tables:
        for number in range(args.splits):
            row = measure(name, number, settings, not args.no_separate)
            print(json.dumps(row, ensure_ascii=False), flush=True)


if __name__ == "__main__":
    main()
