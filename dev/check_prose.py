"""Count stilted phrases in what users read; too many of them fail `make lint`.

    python dev/check_prose.py               all that users read
    python dev/check_prose.py README.md     one file, with each phrase found

Looked at are the pages, the strings of the program (help, messages and docstrings), and the strings
of the playground. Code in them is not.
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
# How many of these phrases 1,000 words may have.
LIMITS = {"pages": 14.0, "program": 15.0, "playground": 14.0}
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


class Finding(NamedTuple):
    kind: str
    phrase: str
    context: str


def findings(text: str) -> Iterator[Finding]:
    """The stilted phrases of a text, with some words around each."""
    for kind, pattern in STILTED.items():
        for match in re.finditer(pattern, text, re.MULTILINE):
            around = text[max(0, match.start() - 30) : match.end() + 30]
            yield Finding(kind, match[0].strip(), " ".join(around.split()))


def prose_of_markdown(text: str) -> str:
    """A page without its blocks of code; code within a line is one word."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"``.+?``|`[^`]*`", "code", text)


def prose_of_python(source: str) -> str:
    """The strings of a program that have words; what is filled into them is one word."""
    strings: list[str] = []

    class Visitor(ast.NodeVisitor):
        def visit_Constant(self, node: ast.Constant) -> None:
            if isinstance(node.value, str):
                strings.append(node.value)

        def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
            strings.append("".join(part_of(value) for value in node.values))

    Visitor().visit(ast.parse(source))
    return "\n".join(prose_of_markdown(text) for text in strings if " " in text.strip())


def part_of(node: ast.expr) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else "value"


def prose_of_javascript(source: str) -> str:
    """The strings of a script that have words."""
    found = re.findall(r'"((?:[^"\\\n]|\\.)*)"|`((?:[^`\\]|\\.)*)`', source)
    texts = [re.sub(r"\$\{[^}]*\}", "value", plain or filled) for plain, filled in found]
    return "\n".join(text for text in texts if " " in text.strip())


class PageText(HTMLParser):
    """The text of a page, and the attributes that a reader sees or hears."""

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
    return "\n".join(page.texts)


READERS = {
    ".md": prose_of_markdown,
    ".py": prose_of_python,
    ".js": prose_of_javascript,
    ".html": prose_of_html,
}


def rate(text: str) -> float:
    """How many stilted phrases 1,000 words of a text have."""
    return 1_000 * sum(1 for _ in findings(text)) / max(1, len(text.split()))


def prose_of(path: Path) -> str:
    return READERS[path.suffix](path.read_text(encoding="utf-8"))


def check(root: Path, files: Iterable[str], limit: float, name: str) -> bool:
    """Print how stilted some files are, the worst ones if it is too much; return if it is fine."""
    paths = sorted(path for pattern in files for path in root.glob(pattern))
    texts = {path: prose_of(path) for path in paths}
    found = rate("\n".join(texts.values()))
    print(f"{name}: {found:.1f} stilted phrases per 1,000 words, at most {limit:g}")
    if found <= limit:
        return True
    worst = sorted(texts, key=lambda path: -rate(texts[path]) * len(texts[path]))[:10]
    for path in worst:
        print(f"  {path.relative_to(root)}: {rate(texts[path]):.1f}")
    print("hint: `python dev/check_prose.py FILE` shows the phrases of a file")
    return False


def show(path: Path) -> None:
    text = prose_of(path)
    print(f"{path}: {rate(text):.1f} stilted phrases per 1,000 words")
    for finding in findings(text):
        print(f"  {finding.kind}: {finding.phrase!r} in {finding.context!r}")


def main(names: list[str]) -> int:
    for name in names:
        show(Path(name))
    if names:
        return 0
    fine = [check(ROOT, FILES[name], LIMITS[name], name) for name in FILES]
    return 0 if all(fine) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
