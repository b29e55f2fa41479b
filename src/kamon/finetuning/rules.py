"""Rules about texts, such as `len <= 5 and not endswith "a"`, in a subset of Python's syntax."""

from __future__ import annotations

import ast
import operator
import re
import unicodedata
from collections.abc import Callable
from typing import Any, NoReturn

from kamon.config import compile_regex, suggestion
from kamon.data.documents import nfc
from kamon.errors import ConfigError

MAX_CHARS = 1000
MAX_NOT = 50  # nested `not`. MAX_CHARS limits nested parentheses
MAX_DIGITS = 9
TOKEN = re.compile(
    r"""(?P<space>\s+) | (?P<word>[A-Za-z_]\w*) | (?P<number>[0-9]+) | (?P<sign>[<>=!]=|[<>=])
    | (?P<paren>[()]) | (?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*') | (?P<regex>/(?:\\.|[^/\\])*/)
    | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.LtE: operator.le,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.Gt: operator.gt,
}
NUMBERS: dict[str, Callable[[str], int]] = {
    "len": len,
    "vowels": lambda text: sum(c in "aeiou" for c in unicodedata.normalize("NFD", text.casefold())),
}
TESTS: dict[str, Callable[[str, str], bool]] = {
    "startswith": str.startswith,
    "endswith": str.endswith,
    "contains": operator.contains,
}
WORDS = (*NUMBERS, *TESTS, "matches")
Rule = Callable[[str], bool]


def parse_rule(text: str) -> Rule:
    """Return a function that returns True for texts that satisfy a rule.

    A rule compares a number with < <= > >= == !=, or tests a text. The numbers are `len`, in code
    points, and `vowels`: a, e, i, o, u, with or without accents. The tests are startswith "x",
    endswith "x", contains "x" and matches /regex/, which may match anywhere. `and`, `or`, `not` and
    parentheses work as in Python. Kamon executes no part of a rule as code. It compares rules and
    texts in NFC.

    Raises: ConfigError with the position of the first wrong character.

    >>> rule = parse_rule('len <= 5 and not endswith "a"')
    >>> rule("ellis"), rule("ella")
    (True, False)
    """
    if not isinstance(text, str):
        raise ConfigError(f"a rule must be text, not {text!r:.60}")
    if len(text) > MAX_CHARS:
        raise ConfigError(f"the rule has {len(text):,} characters, and the limit is {MAX_CHARS:,}")
    rule = Compiler(nfc(text)).compiled()
    return lambda text: rule(nfc(text))


class Compiler:
    """Parses a rule with Python's parser, and turns the allowed nodes into functions."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.places: list[int] = []  # for each character of `source`, its position in the rule

    def fail(self, place: int, what: str) -> NoReturn:
        raise ConfigError(f"the rule {self.text!r:.200}, character {place + 1}: {what}")

    def fail_at(self, offset: int, what: str) -> NoReturn:
        """Raise an error for a position in `source`."""
        self.fail(self.places[offset] if offset < len(self.places) else len(self.text), what)

    def compiled(self) -> Rule:
        source = self.source()
        try:
            tree = ast.parse(source, mode="eval")
        except SyntaxError as error:
            form = 'a rule looks like len <= 5 and not endswith "a"'
            self.fail_at((error.offset or len(source) + 1) - 1, f"syntax error ({form})")
        except (MemoryError, RecursionError):
            self.fail(0, "too many nested parentheses")
        return self.rule(tree.body, 0)

    def source(self) -> str:
        """Return the rule as Python: tests become calls, and regular expressions strings."""
        source, before = "", ""
        for token in TOKEN.finditer(self.text):
            kind, python = token.lastgroup, token[0]
            if kind == "space":
                continue
            if kind == "other":
                self.fail(token.start(), self.why_not(python))
            if kind == "word" and python not in (*WORDS, "and", "or", "not"):
                near = suggestion(python, WORDS)
                self.fail(token.start(), f"unknown word {python!r:.60}{near}")
            if kind == "number":
                if len(python) > MAX_DIGITS:
                    self.fail(token.start(), "the number has too many digits")
                python = str(int(python))
            if kind in ("text", "regex"):
                inside = python[1:-1]
                if kind == "regex":
                    python = ascii(re.sub(r"\\/", "/", inside))
                else:
                    python = ascii(re.sub(r"\\(.)", r"\1", inside, flags=re.DOTALL))
                if before not in (TESTS if kind == "text" else ("matches",)):
                    self.fail(token.start(), self.wanted(before))
                python = f"({python})"
            before = python
            python = "==" if python == "=" else python
            source += f"{python} "
            self.places += [token.start()] * (len(python) + 1)
        return source

    def why_not(self, char: str) -> str:
        if char in "\"'/":
            return f"the closing {char} is missing"
        if char == "!":
            return "'!' is not a comparison: use < <= > >= == !="
        return f"unexpected {char!r}"

    def rule(self, node: ast.expr, num_not: int) -> Rule:
        if num_not > MAX_NOT:
            self.fail_at(node.col_offset, f"more than {MAX_NOT} nested `not`")
        match node:
            case ast.BoolOp(op=op, values=values):
                rules = [self.rule(value, num_not) for value in values]
                every = all if isinstance(op, ast.And) else any
                return lambda text: every(rule(text) for rule in rules)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.rule(operand, num_not + 1)
                return lambda text: not inner(text)
            case ast.Compare(
                left=ast.Name(id=name), ops=[op], comparators=[ast.Constant(value=int(number))]
            ) if name in NUMBERS:
                measure, compare = NUMBERS[name], COMPARISONS[type(op)]
                return lambda text: compare(measure(text), number)
            case ast.Call(func=ast.Name(id=name), args=[ast.Constant(value=str(part))]) if (
                name in TESTS
            ):
                test = TESTS[name]
                return lambda text: test(text, part)
            case ast.Call(func=ast.Name(id="matches"), args=[ast.Constant(value=str(part))]):
                return self.matches(part, node.col_offset)
        return self.fail_at(node.col_offset, self.advice(node))

    def matches(self, pattern: str, offset: int) -> Rule:
        try:
            search = compile_regex(pattern).search
        except ConfigError as error:
            self.fail_at(offset, str(error))
        return lambda text: search(text) is not None

    def advice(self, node: ast.expr) -> str:
        """Return an error message for a node that is not allowed."""
        names = [name.id for name in ast.walk(node) if isinstance(name, ast.Name)]
        return self.wanted(names[0] if names else "")

    def wanted(self, name: str) -> str:
        """Return an error message about what must follow this word."""
        if name in NUMBERS:
            return f"compare {name} with one whole number, as in {name} <= 5"
        if name == "matches":
            return "matches needs a regular expression between / and /"
        if name in TESTS:
            return f'{name} needs a text in quotes, as in {name} "a"'
        return f"expected one of {', '.join(WORDS)}"
