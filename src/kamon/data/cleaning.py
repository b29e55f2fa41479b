"""Cleaning a list: it repairs entries, brings them to one form, and drops duplicates."""

from __future__ import annotations

import html
import importlib
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from html.entities import html5
from math import log
from typing import Any

from kamon.config import check_text, compile_regex, require_int, suggestion
from kamon.data.documents import Documents
from kamon.data.graphemes import num_graphemes
from kamon.errors import ConfigError
from kamon.files.spill import count

NUM_EXAMPLES = 3
# Percent. Below this, two short words may be near but share no GRAM_CHARS characters in a row.
MIN_NEAR = 75
GRAM_CHARS = 3
DOTTED_I = "\u0130"  # becomes "i", not Unicode's small letter: an i with a combining dot
MAX_PASSES = 100  # usually two or three are enough, except for entities nested on purpose

# Common scripts, for suggestions. All other scripts of Unicode work too.
SCRIPTS = (
    "Arabic", "Armenian", "Bengali", "Bopomofo", "Cyrillic", "Devanagari", "Ethiopic", "Georgian",
    "Greek", "Gujarati", "Gurmukhi", "Han", "Hangul", "Hebrew", "Hiragana", "Kannada", "Katakana",
    "Khmer", "Lao", "Latin", "Malayalam", "Myanmar", "Oriya", "Sinhala", "Tamil", "Telugu",
    "Thaana", "Thai", "Tibetan",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Options:
    """What `clean` does.

    Raises: ConfigError for a value that is not possible.

    Attributes:
        min_len, max_len: limits on the length in characters as people see them (`num_graphemes`).
        keep_regex, drop_regex: Python regular expressions. They may match anywhere in the cleaned
            document.
        scripts: Unicode scripts. The letters of all of them are allowed. Japanese needs several.
        near: drop a document if at least this percentage of its characters agrees with an earlier
            one: 100 · (1 − edits / length of the longer one) ≥ near. An edit inserts, deletes or
            replaces one character.
    """

    mojibake: bool = False
    html: bool = True
    lower: bool = False
    transliterate: bool = False
    min_len: int = 1
    max_len: int | None = None
    keep_regex: str | None = None
    drop_regex: str | None = None
    scripts: tuple[str, ...] = ()
    offensive: bool = False
    drop_words: tuple[str, ...] = ()
    repetitions: bool = False
    near: int | None = None

    def __post_init__(self) -> None:
        for name in ("min_len", "max_len", "near"):
            if name == "min_len" or getattr(self, name) is not None:
                object.__setattr__(self, name, require_int(name, getattr(self, name)))
        if self.min_len < 0:
            raise ConfigError(f"min_len must be 0 or more, not {self.min_len}")
        if self.max_len is not None and self.max_len < max(self.min_len, 1):
            raise ConfigError(
                f"max_len must be {max(self.min_len, 1)} or more, not {self.max_len}",
                "raise max_len or lower min_len: no entry would be left",
            )
        if self.near is not None and not MIN_NEAR <= self.near <= 100:
            raise ConfigError(f"near must be from {MIN_NEAR} to 100 percent, not {self.near}")
        if self.repetitions and self.near is not None:
            raise ConfigError(
                "near-duplicates cannot be dropped while duplicates are kept",
                "choose one of the two",
            )
        for name in ("scripts", "drop_words"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} must be a tuple of strings, not one string")
        for name in ("keep_regex", "drop_regex"):
            pattern = getattr(self, name)
            if pattern is not None:
                check_text(name, pattern)
                compile_regex(pattern, name)


@dataclass
class Step:
    """How many documents one step changed or dropped, and the first few of them.

    An example is a pair: the document before and after a change, or a document and why it was
    dropped.
    """

    name: str
    action: str  # "changed" or "dropped"
    count: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, doc: str, other: str) -> None:
        self.count += 1
        if len(self.examples) < NUM_EXAMPLES:
            self.examples.append((doc, other))


@dataclass(frozen=True)
class Cleaned:
    docs: Documents
    report: list[Step] = field(default_factory=list)


def clean(docs: Iterable[str], options: Options | None = None) -> Cleaned:
    """Return the documents in one clean form, and what each step did to them.

    Cleaning them again changes nothing. Kamon reads the documents one by one and keeps only those
    that remain, as one text. Finding near-duplicates takes more memory.

    Raises: ConfigError if a step needs a library that is not installed.

    >>> clean(["<b>Anna</b>", "Tom &amp; Jo", " anna ", "Anna"], Options(lower=True)).docs
    Documents(['anna', 'tom & jo'])
    """
    if isinstance(docs, str):
        raise ConfigError(
            "clean needs a list of documents, not one string", "put the string in a list"
        )
    options = options or Options()
    changes, drops = rewriters(options), droppers(options)
    rapidfuzz = options.near and library("rapidfuzz", "finding near-duplicates")
    remaining = Documents.of(one_by_one(docs, changes, drops))
    report = [step for step, _ in changes] + [step for step, _ in drops]
    if not options.repetitions:
        report.append(Step("repetitions", "dropped"))
        remaining = drop_repetitions(remaining, report[-1])
    if options.near:
        report.append(Step("near", "dropped"))
        remaining = Documents.of(drop_near(list(remaining), report[-1], options.near, rapidfuzz))
    return Cleaned(remaining, report)


def one_by_one(docs: Iterable[str], changes: list[Rewriter], drops: list[Dropper]) -> Iterator[str]:
    for doc in docs:
        check_text("a document", doc)
        doc = rewrite(doc, changes)
        for step, reason_of in drops:
            reason = reason_of(doc)
            if reason is not None:
                step.add(doc, reason)
                break
        else:
            yield doc


def drop_repetitions(docs: Documents, step: Step) -> Documents:
    first = docs.first_occurrences()
    step.count = count(first, 0)
    place = first.find(b"\0")
    while place >= 0 and len(step.examples) < NUM_EXAMPLES:
        step.examples.append((docs[place], "duplicate"))
        place = first.find(b"\0", place + 1)
    return docs.select(first) if step.count else docs


def drop_near(docs: list[str], step: Step, percent: int, rapidfuzz: Any) -> Iterator[str]:
    for doc, other in zip(docs, near_duplicates(docs, percent, rapidfuzz), strict=True):
        if other is None:
            yield doc
        else:
            step.add(doc, other)


# ---- steps that change a document


Rewriter = tuple[Step, Callable[[str], str]]


def rewriters(options: Options) -> list[Rewriter]:
    steps: list[tuple[str, Callable[[str], str]]] = []
    if options.mojibake:
        fix: Callable[[str], str] = library("ftfy", "repairing mojibake").fix_encoding
        steps.append(("mojibake", lambda doc: doc if doc.isascii() else fix(doc)))
    if options.html:
        steps.append(("html", strip_html))
    steps.append(("normal form", lambda doc: unicodedata.normalize("NFC", doc)))
    steps.append(("invisible", remove_invisible))
    steps.append(("spaces", lambda doc: " ".join(doc.split())))
    if options.lower:
        steps.append(("lower", lambda doc: doc.replace(DOTTED_I, "i").lower()))
    if options.transliterate:
        to_ascii: Callable[[str], str] = library("anyascii", "transliterating").anyascii
        steps.append(("transliterate", lambda doc: doc if doc.isascii() else to_ascii(doc)))
    return [(Step(name, "changed"), function) for name, function in steps]


def rewrite(doc: str, steps: list[Rewriter]) -> str:
    """Apply all steps to the document until none of them changes it.

    One pass is not enough: "&lt;b&gt;" becomes "<b>", and a transliterated "Ж" becomes "Zh" with a
    capital.
    """
    changed: list[Step] = []
    for _ in range(MAX_PASSES):
        before_pass = doc
        for step, function in steps:
            before, doc = doc, function(doc)
            if doc != before and not any(step is other for other in changed):
                changed.append(step)
                step.add(before, doc)
        if doc == before_pass:
            break
    return doc


# A "<" begins a tag only before a letter, so "I <3 you" and "a < b" stay. Kamon does not use
# html.parser, which treats such text differently in each Python. Entities need their semicolon.
HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
TAG = re.compile(r"<[/!?]?([a-z][a-z0-9]*)[^<>]*>", re.IGNORECASE)
AMPERSANDS = re.compile(r"&(?:(?:amp|#0*38|#x0*26);)+", re.IGNORECASE)
ENTITY = re.compile(r"&(?:#[0-9]+|#x[0-9a-f]+|[a-z][a-z0-9]*);", re.IGNORECASE)
INLINE = re.compile(
    "a|abbr|b|bdi|bdo|big|cite|code|del|dfn|em|font|i|ins|kbd|label|mark|q|s|samp|small|span|"
    "strike|strong|sub|sup|tt|u|var|wbr",
    re.IGNORECASE,
)


def strip_html(doc: str) -> str:
    """Return the document without tags and comments, and with characters instead of entities.

    An inline tag such as <b> leaves nothing. Any other tag, such as <br>, leaves a space.
    """
    if "<" in doc:
        doc = HIDDEN.sub(" ", doc)
        doc = TAG.sub(lambda tag: "" if INLINE.fullmatch(tag[1]) else " ", doc)
    if "&" in doc:
        # Replace all of "&amp;amp;amp;…" at once, so that each "amp;" does not take a pass.
        doc = ENTITY.sub(character, AMPERSANDS.sub("&", doc))
    return doc


def character(entity: re.Match[str]) -> str:
    known = entity[0][1] == "#" or entity[0][1:] in html5
    return html.unescape(entity[0]) if known else entity[0]


# Control characters that are not white space, soft hyphens, zero-width spaces, direction marks,
# invisible operators, byte order marks, annotations and noncharacters.
INVISIBLE = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f"
    "\ufdd0-\ufdef\ufeff\ufff9-\ufffb\ufffe\uffff\U000e0001]"
)
BLANK = re.compile("[\u2800\u3164\uffa0]")  # characters that look like a space
# After a black flag, tags spell the flags of England, Scotland and Wales. Elsewhere they hide text.
STRAY_TAGS = re.compile("(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+")
# The joiners (U+200C, U+200D) choose the form of letters in scripts from Arabic to Mongolian, also
# at the end of a word after a virama. They make one emoji of several. Elsewhere they are invisible.
JOINABLE = (
    "\u0590-\u1cff\u2190-\u2bff\u3030-\u303d\u3297\u3299\ua800-\uabff\ufe0f\U00010a00-\U000e007f"
)
VIRAMAS = "\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca"
STRAY_JOINERS = re.compile(
    f"(?<![{JOINABLE}])[\u200c\u200d]|(?<![{VIRAMAS}])[\u200c\u200d](?![{JOINABLE}])"
)
JOINERS = re.compile("([\u200c\u200d])[\u200c\u200d]+")


def remove_invisible(doc: str) -> str:
    """Return the document without invisible characters, except joiners that it needs."""
    if doc.isprintable() and doc.isascii():
        return doc
    doc = BLANK.sub(" ", INVISIBLE.sub("", doc))
    return STRAY_JOINERS.sub("", JOINERS.sub(r"\1", STRAY_TAGS.sub("", doc)))


# ---- steps that drop documents: each returns the reason, or None for a document to keep


Dropper = tuple[Step, Callable[[str], str | None]]


def droppers(options: Options) -> list[Dropper]:
    """Return the steps that drop a document without comparing it with others.

    The steps that compare documents come after them, so that no document is a duplicate of a
    dropped one.
    """
    steps: list[tuple[str, Callable[[str], str | None]]] = [
        ("blank", lambda doc: None if doc else "blank")
    ]
    if options.min_len > 1 or options.max_len is not None:
        most = options.max_len
        steps.append(("length", lambda doc: wrong_length(doc, options.min_len, most)))
    if options.keep_regex is not None:
        keep = compile_regex(options.keep_regex, "keep_regex")
        steps.append(("keep-regex", lambda doc: None if keep.search(doc) else "no match"))
    if options.drop_regex is not None:
        drop = compile_regex(options.drop_regex, "drop_regex")
        steps.append(("drop-regex", lambda doc: found_by(drop, doc)))
    if options.scripts:
        foreign = foreign_letters(options.scripts)
        steps.append(("script", lambda doc: found_by(foreign, doc)))
    if options.drop_words:
        steps.append(("drop-words", word_finder(options.drop_words)))
    if options.offensive:
        glin = library("glin_profanity", "finding offensive words")
        steps.append(("offensive", word_finder(glin.Filter({"languages": ["english"]}).words)))
    return [(Step(name, "dropped"), reason_of) for name, reason_of in steps]


def found_by(pattern: Any, doc: str) -> str | None:
    match = pattern.search(doc)
    return match and str(match[0])


def wrong_length(doc: str, least: int, most: int | None) -> str | None:
    size = num_graphemes(doc)
    if size < least or (most is not None and size > most):
        return f"{size:,} character{'' if size == 1 else 's'}"
    return None


def near_duplicates(docs: list[str], percent: int, rapidfuzz: Any) -> Iterator[str | None]:
    """Yield for each document an earlier one that is near and was not dropped, or None.

    `Options.near` defines what is near. The result is exact, although Kamon compares few pairs. An
    edit breaks at most GRAM_CHARS of a document's runs of GRAM_CHARS characters. Kamon sorts the
    runs of each document, the rarest first. If two documents are k edits apart, their first
    GRAM_CHARS · k + 1 runs have one in common. Only documents of similar lengths are compared.
    """
    width = -log(percent / 100) * (1 + 1e-9)  # a little wider, because of rounding

    def band(length: int) -> int:
        """Return the band of a length. Near documents are in the same band or in neighbours."""
        return length if percent == 100 else int(log(length) / width)

    # Not the similarity, because rounding would exclude a pair exactly at the threshold.
    distance = rapidfuzz.distance.Levenshtein.normalized_distance
    most = (100 - percent) / 100 + 1e-9
    how_common = Counter(gram for doc in docs for gram in grams(doc))
    index: defaultdict[int, dict[str, list[int]]] = defaultdict(dict)
    for number, doc in enumerate(docs):
        num_edits = len(doc) * (100 - percent) // percent
        rare = sorted(grams(doc), key=lambda gram: (how_common[gram], gram))
        rare = rare[: GRAM_CHARS * num_edits + 1]
        doc_band = band(len(doc))
        candidates: set[int] = set()
        for neighbour in (doc_band - 1, doc_band, doc_band + 1):
            table = index.get(neighbour, {})
            candidates.update(*(table[gram] for gram in rare if gram in table))
        near = rapidfuzz.process.extractOne(
            doc, [docs[i] for i in candidates], scorer=distance, score_cutoff=most
        )
        yield near and near[0]
        if near is None:
            for gram in rare:
                index[doc_band].setdefault(gram, []).append(number)


def grams(doc: str) -> list[str]:
    """Return the runs of GRAM_CHARS characters, padded at the ends. Repeated runs get a number."""
    padded = f"\0\0{doc}\0\0"
    runs = [padded[i : i + GRAM_CHARS] for i in range(len(padded) - GRAM_CHARS + 1)]
    if len(set(runs)) < len(runs):
        seen: Counter[str] = Counter()
        for i, gram in enumerate(runs):
            seen[gram] += 1
            if seen[gram] > 1:
                runs[i] = f"{gram}{seen[gram]}"
    return runs


# ---- words


def word_finder(listed: Iterable[str]) -> Callable[[str], str | None]:
    """Return a function that finds the first listed word or phrase in a document, in any case."""
    known = {split for word in listed if (split := tuple(words(word)))}
    lengths = sorted({len(split) for split in known})

    def find(doc: str) -> str | None:
        split = words(doc)
        for length in lengths:
            for i in range(len(split) - length + 1):
                if tuple(split[i : i + length]) in known:
                    return " ".join(split[i : i + length])
        return None

    return find


def words(text: str) -> list[str]:
    """Return the casefolded words: runs of letters, digits, _ and the marks on them."""
    if text.isascii():
        return re.findall(r"\w+", text.lower())
    folded = unicodedata.normalize("NFC", text).replace(DOTTED_I, "i").casefold()
    return word_pattern().findall(unicodedata.normalize("NFC", folded))


@cache
def word_pattern() -> re.Pattern[str]:
    r"""Return the pattern of a word. In many scripts vowels are marks, which \w does not match."""
    marks = (chr(c) for c in range(0x300, 0xE01F0) if unicodedata.category(chr(c))[0] == "M")
    return re.compile(rf"[\w\u200c\u200d{''.join(marks)}]+")


# ---- libraries and scripts for the options


def library(name: str, purpose: str) -> Any:
    try:
        if name == "rapidfuzz":
            importlib.import_module("rapidfuzz.distance")
            importlib.import_module("rapidfuzz.process")
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f"{purpose} needs an extra package", 'pip install "kamon[clean]"'
        ) from None


def foreign_letters(scripts: Iterable[str]) -> Any:
    """Return a pattern for a letter that is in none of the scripts.

    Letters that all scripts share are in each of them.
    """
    regex = library("regex", "recognising scripts")
    allowed = ""
    for script in scripts:
        # With script extensions, because the long-vowel mark of Japanese has two scripts.
        part = rf"--\p{{scx={script}}}"
        try:
            if not re.fullmatch("[A-Za-z][A-Za-z _-]*", script):
                raise ValueError(script)
            regex.compile(rf"[\p{{L}}{part}]", regex.V1)
        except (ValueError, regex.error):
            raise ConfigError(
                f"unknown Unicode script {script!r}{suggestion(script.title(), SCRIPTS)}"
            ) from None
        allowed += part
    return regex.compile(rf"[\p{{L}}--\p{{scx=Common}}{allowed}]", regex.V1)
