"""Count stilted phrases and long sentences in what users read. Too many of them fail `make lint`.

    python dev/check_prose.py               all that users read
    python dev/check_prose.py README.md     one file, with each phrase and long sentence

The check reads the pages, the strings of the program (help, messages and docstrings), and the
strings of the playground. It does not read code.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "pages": ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md", "docs/*.md"],
    "program": ["src/kamon/**/*.py"],
    "playground": ["src/kamon/web/static/*.html", "src/kamon/web/static/*.js"],
}
STILTED = {
    "no person": r"\b(?:is|are) said\b|\bsays so\b|\btells\b",
    "inverted": r"(?:^|[.:] )What [^.?]* is\b[^?]*?\.|\b(?:of|in|to|by|from|on|with|for) which\b",
    "where for if": r"(?:^|[.,] )[Ww]here (?:there|it|they|an?|the|none?|th[ai]t|too|one)\b",
    "a for per": r"\b(?:nats|bits|tokens|bytes|µs|ms) an? \w+",
    "archaic": r"\b(?:anew|seldom|begun|behind|gone away|mend(?:ed|s)?|its likes|so dear)\b",
    "odd word": r"\b(?:alone|held out|odds|likel(?:ier|iest)|verbs?|draws|comes to \d)\b",
    "wordy": r"\bin place of\b|\bg(?:o|oes|one) on with\b|\bby itself\b|\bof its own\b",
    "there for exists": r"\bthere (?:for|to be)\b|\bis there\b|\bthere is to\b|\bstands?\b",
    "no as not a": r"\b(?:is|are) no \w+",
    "semicolon": r";(?=\s)",
}


SHORTEST = 4  # words; fewer, such as in a cell of a table, are not a sentence


class Measures(NamedTuple):
    """What the check measures, or the limits of it."""

    phrases: float  # stilted ones per 1,000 words
    mean: float  # words per sentence
    longest: float  # words of the longest sentence

    def __str__(self) -> str:
        mean, longest = (f"{words:.3g}" for words in self[1:])
        return f"{self.phrases:.1f} per 1,000 words, sentences of {mean} words, longest {longest}"

    def within(self, limits: Measures) -> bool:
        return all(measured <= limit for measured, limit in zip(self, limits, strict=True))


LIMITS = {
    "pages": Measures(0.5, 14, 30),
    "program": Measures(1.0, 14, 32),
    "playground": Measures(0.5, 14, 30),
}
ONE_BY_ONE = {"pages"}  # each of these files keeps the limits


class Finding(NamedTuple):
    kind: str
    phrase: str
    context: str


def findings(text: str) -> Iterator[Finding]:
    """Return the stilted phrases of a text, with some words around each."""
    for kind, pattern in STILTED.items():
        for match in re.finditer(pattern, text, re.MULTILINE):
            around = text[max(0, match.start() - 30) : match.end() + 30]
            yield Finding(kind, match[0].strip(), " ".join(around.split()))


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, also of its lists and tables, without the headings."""
    text = re.sub(r"!?\[([^]]*)\]\([^)]*\)", r"\1", text)  # of a link, only what it shows
    parts = r"^#.*|^ *(?:[-*>]|\d+\.) |^ +\w+: +|(?<=\S)  +|\|"  # headings, points, names, columns
    text = re.sub(parts, "\n\n", text, flags=re.MULTILINE)
    found = re.split(r"\n\s*\n|(?<=[.!?])[)\"*_]*\s", text)
    return [sentence for sentence in found if length(sentence) >= SHORTEST]


def length(sentence: str) -> int:
    return len(re.findall(r"\S*\w\S*", sentence))


def measure(text: str) -> Measures:
    phrases = 1_000 * sum(1 for _ in findings(text)) / max(1, len(text.split()))
    lengths = [length(sentence) for sentence in sentences(text)] or [0]
    return Measures(phrases, sum(lengths) / len(lengths), max(lengths))


def prose_of_markdown(text: str) -> str:
    """Return a page without its blocks of code. Code within a line becomes one word."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"``.+?``|`[^`]*`", "code", text)


def prose_of_python(source: str) -> str:
    """Return the strings of a program that have words. A value filled into one is one word."""
    strings: list[str] = []

    class Visitor(ast.NodeVisitor):
        def visit_Constant(self, node: ast.Constant) -> None:
            if isinstance(node.value, str):
                strings.append(node.value)

        def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
            strings.append("".join(part_of(value) for value in node.values))

    Visitor().visit(ast.parse(source))
    return "\n\n".join(prose_of_markdown(text) for text in strings if " " in text.strip())


def part_of(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "value"


def prose_of_javascript(source: str) -> str:
    """Return the strings of a script that have words."""
    found = re.findall(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', source)
    texts = [re.sub(r"\$\{[^}]*\}", "value", plain or filled) for plain, filled in found]
    return "\n\n".join(text for text in texts if " " in text.strip())


class PageText(HTMLParser):
    """Collect the text of a page, and the attributes that a reader sees or hears."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        shown = ("title", "placeholder", "aria-label", "alt")
        self.texts += [value for name, value in attrs if value and name in shown]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)


def prose_of_html(source: str) -> str:
    page = PageText()
    page.feed(source)
    return "\n\n".join(page.texts)


READERS = {
    ".md": prose_of_markdown,
    ".py": prose_of_python,
    ".js": prose_of_javascript,
    ".html": prose_of_html,
}


def prose_of(path: Path) -> str:
    return READERS[path.suffix](path.read_text(encoding="utf-8"))


def check(root: Path, files: Iterable[str], limits: Measures, *, each: bool = False) -> bool:
    """Print the measures of some files, and the worst files if they are above the limits.

    Args:
        each: also return False if a single file is above the limits.
    """
    texts = {path: prose_of(path) for pattern in files for path in root.glob(pattern)}
    measured = {path: measure(text) for path, text in texts.items()}
    whole = measure("\n\n".join(texts.values()))
    print(f"{whole} (at most {limits})")
    bad = [path for path in texts if each and not measured[path].within(limits)]
    if whole.within(limits) and not bad:
        return True
    for path in sorted(bad or texts, key=lambda path: measured[path], reverse=True)[:10]:
        print(f"  {path.relative_to(root)}: {measured[path]}")
    print("hint: `python dev/check_prose.py FILE` shows the phrases and long sentences of a file")
    return False


def show(path: Path) -> None:
    text = prose_of(path)
    print(f"{path}: {measure(text)}")
    for finding in findings(text):
        print(f"  {finding.kind}: {finding.phrase!r} in {finding.context!r}")
    for sentence in sentences(text):
        if length(sentence) > LIMITS["pages"].longest:
            print(f"  {length(sentence)} words: {' '.join(sentence.split())!r}")


def main(names: list[str]) -> int:
    for name in names:
        show(Path(name))
    if names:
        return 0
    fine = []
    for name, files in FILES.items():
        print(name, end=": ")
        fine.append(check(ROOT, files, LIMITS[name], each=name in ONE_BY_ONE))
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
