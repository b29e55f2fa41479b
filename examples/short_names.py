"""Answer a first name with nicknames.

A model of first names learns from the 2,690 pairs of the package nicknames (Apache 2.0). Each name
is a prompt, and each of its nicknames a completion. A tenth of the names is not learned. The
program answers the names that you give, or some names that were not learned.
"""

from __future__ import annotations

import argparse
import sys

from nicknames import NickNamer

import kamon
from kamon.finetuning.sft import sft


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("-n", type=int, default=4, help="nicknames per name [default: 4]")
    parser.add_argument("--num-steps", type=int, default=1500, help="steps [default: 1500]")
    args = parser.parse_args()
    lookup = NickNamer.default_lookup()
    pairs = {name: sorted(short) for name, short in sorted(lookup.items()) if name.isalpha()}
    unseen = [name for place, name in enumerate(pairs) if place % 10 == 0]
    data = [
        {"prompt": name, "completion": short}
        for name, shorts in pairs.items()
        for short in shorts
        if name not in unseen and short.isalpha()
    ]
    base = kamon.train("names", size="medium", num_steps=4000)
    model = sft(base, data, num_steps=args.num_steps)
    for name in [word.lower() for word in args.names] or unseen[:8]:
        print(f"{name:12} {', '.join(model.sample(args.n, prompt=name, unique=True))}")
    answers = [(name, model.sample(1, prompt=name)[0]) for name in unseen]
    known = sum(answer in pairs[name] for name, answer in answers) / len(answers)
    others = unseen[1:] + unseen[:1]
    chance = sum(
        answer in pairs[other] for other, (_, answer) in zip(others, answers, strict=True)
    ) / len(answers)
    print(f"{known:.0%} of {len(answers)} names not learned got a known nickname", end=" ")
    print(f"(with the answer to another name {chance:.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
