"""Make first names of a country. One model answers for seven locales.

The lists of first names come from the package faker (MIT). The model first learns all lists
together. Then it learns the locale of each name, with the locale as the prompt. Most
answers are new. For answers that are in a list, the program prints how many are in the right one,
and how many would be by chance.
"""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

import kamon
from kamon.finetuning.sft import sft

LOCALES = ["de_DE", "es_ES", "fi_FI", "fr_FR", "it_IT", "pl_PL", "tr_TR"]


def first_names(locale: str) -> list[str]:
    found = import_module(f"faker.providers.person.{locale}").Provider.first_names
    return sorted({name.lower() for name in found if name.isalpha()})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=6, help="names per locale [default: 6]")
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--num-steps", type=int, default=2000, help="steps [default: 2000]")
    args = parser.parse_args()
    lists = {locale: first_names(locale) for locale in LOCALES}
    base = kamon.train([name for names in lists.values() for name in names], size="medium")
    data = [
        {"prompt": locale, "completion": name}
        for locale, names in lists.items()
        for name in names * (2000 // len(names) + 1)  # balances the locales
    ]
    model = sft(base, data, num_steps=args.num_steps, seed=args.seed)
    right = known = 0
    chance = 0.0
    for locale in LOCALES:
        answers = model.sample(200, prompt=locale, seed=args.seed, unique=True)
        print(f"{locale}  {', '.join(answers[: args.n])}")
        listed = [name for name in answers if any(name in names for names in lists.values())]
        known += len(listed)
        right += sum(name in lists[locale] for name in listed)
        chance += sum(
            sum(name in names for names in lists.values()) / len(LOCALES) for name in listed
        )
    print(f"{known} answers are in a list: {right / known:.0%} of them in the right one", end=" ")
    print(f"(by chance {chance / known:.0%})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
