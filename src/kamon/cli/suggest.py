"""What `kamon complete` and `kamon fill` share: options, tables and messages."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    columns,
    count,
    entry_line,
    has_line_end,
    one_line,
    padded,
    say,
    say_line_ends,
    say_unfinished,
    warn,
)
from kamon.cli.parser import Parser, options
from kamon.cli.settings import GIVEN, add_engine, add_json
from kamon.errors import TokenizerError

if TYPE_CHECKING:
    from kamon.completion import NextToken
    from kamon.generation.search import Element, SearchResult
    from kamon.generation.words import WordResult
    from kamon.model import Model

BAR = 50  # columns for a probability of 1
SURE = 0.9999  # of the probability: there is nothing else
TINY = 1e-9  # a probability that is printed as 0
MAX_NAMED = 5  # unknown characters in a message
# Unicode calls these "default ignorable", such as selectors of a glyph. Python takes them for
# printable.
INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]+"
)
SEARCH = {
    "-n, -k N": "number of entries to print [default: 10]",
    "--effort X": "search X times as long before Kamon stops with the best so far [default: 1]",
    "--unknown {error,skip,replace}": "characters that the model does not know: error stops, skip "
    "drops them, replace takes the closest known character [default: error]",
}


def add_search(parser: Parser) -> None:
    options(parser, SEARCH, k={"dest": "n", "default": 10}, effort=1.0, unknown="error")
    options(parser, GIVEN)
    add_engine(parser)
    add_json(parser)


def exchange(model: Model, elements: Sequence[Element], unknown: str) -> list[Element]:
    """Return the pattern without unknown characters, and print what replaced them.

    Raises: TokenizerError for unknown characters if `unknown` is "error".
    """
    from kamon.completion import replaced, replacements
    from kamon.tokenizers.base import quote_distinctly

    if unknown == "error":
        try:
            model.tokenizer.encode("".join(x for x in elements if isinstance(x, str)))
        except TokenizerError as error:
            raise TokenizerError(
                error.message,
                "--unknown replace takes the closest known characters, --unknown skip drops them",
            ) from None
    exchanged = replacements(model.tokenizer, elements, unknown)
    if exchanged:
        named = []
        for char, like in list(exchanged.items())[:MAX_NAMED]:
            # An accent without a letter would combine with the quote before it.
            quoted = ascii(char) if unicodedata.combining(char) else repr(char)
            how = f"replaced by {quote_distinctly(like, char)}" if like else "left out"
            named.append(f"{quoted} (U+{ord(char):04X}) {how}")
        more = len(exchanged) - len(named)
        say(f"Unknown to the model: {', '.join(named)}{f' and {more:,} more' if more else ''}")
    return replaced(elements, exchanged)


def next_lines(tokens: Sequence[NextToken], most: int) -> list[str]:
    """Return lines with bars: one for each of the `most` most probable tokens, one for the rest."""
    from math import fsum

    rows = [(shown(token.text), token.probability) for token in tokens[:most]]
    others = tokens[most:]
    if others:
        rows.append((count(len(others), "other"), fsum(token.probability for token in others)))
    width = max(columns(name) for name, _ in rows)
    return [f"  {padded(name, width)}  {p:6.1%}  {bar(p)}".rstrip() for name, p in rows]


def shown(token: str) -> str:
    """Return a token in visible form: spaces in quotes, an accent without a letter as U+0301."""
    if not token:
        return "(end)"
    escaped = one_line(token)
    alone = len(token) == 1 and unicodedata.combining(token)
    hidden = not token.isprintable() or INVISIBLE.fullmatch(token)
    if alone or (hidden and token == escaped):
        return " ".join(f"U+{ord(char):04X}" for char in token)
    return repr(token) if token != token.strip() else escaped


def bar(p: float) -> str:
    try:
        "█".encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#" * round(BAR * p)
    return "█" * round(BAR * p)


def found_lines(result: SearchResult, known: Collection[str]) -> list[str]:
    rows = [(entry_line(x.text) or "(empty)", x) for x in result.documents]
    width = max((columns(text) for text, x in rows if x.text in known), default=0)
    lines = []
    for text, x in rows:
        shown = f"{padded(text, width)}  (in the list)" if x.text in known else text
        lines.append(f"  {x.logprob:8.3f}  {x.share:6.1%}  {shown}")
    return lines


def found_json(result: SearchResult, known: Collection[str]) -> dict[str, Any]:
    documents = [x._asdict() | {"in_list": x.text in known} for x in result.documents]
    about = {"exact": result.num_exact, "complete": result.complete, "reads": result.reads}
    return {"documents": documents, **about}


def word_lines(result: WordResult, rest: str = "(not found)") -> list[str]:
    """Return a line with a bar for each word, one for the other words found, and one for the rest.

    With text after the gap, the words found share all of the probability, and there is no rest.
    """
    from math import fsum

    listed = fsum(word.probability for word in result.words)
    rows = [(one_line(word.text), word.probability) for word in result.words]
    others = result.num_found - len(result.words)
    if others:
        rows.append((f"({count(others, 'other word')})", max(0.0, result.total - listed)))
    if result.total < 1 and result.num_found:
        rows.append((rest, 1 - result.total))
    width = max((columns(name) for name, _ in rows), default=0)
    return [f"  {padded(name, width)}  {percentage(p):>8}  {bar(p)}".rstrip() for name, p in rows]


def percentage(p: float) -> str:
    """Return p in percent, with two significant digits if it is small.

    >>> percentage(0.1234), percentage(0.0000123)
    ('12.34%', '0.0012%')
    """
    from math import floor, log10

    return f"{p:.2%}" if p >= 0.001 or p < TINY else f"{p:.{-1 - floor(log10(p))}%}"


def words_json(result: WordResult) -> dict[str, Any]:
    words = [word._asdict() for word in result.words]
    about = {"found": result.num_found, "covered": result.covered, "reads": result.reads}
    return {"words": words, **about}


def say_words(result: WordResult, n: int) -> None:
    """Say how much of the probability the words found have."""
    if not result.words:
        say("Found no word")
    elif result.num_found >= n or result.covered < SURE:
        words = count(result.num_found, "word")
        say(f"Found {words} with {result.covered:.1%} of the probability")


def say_found(result: SearchResult, n: int, model: Model) -> None:
    """Print whether there are fewer than n entries, and whether they are the most probable."""
    have, exact = len(result.documents), result.num_exact
    say_line_ends(sum(has_line_end(document.text) for document in result.documents))
    sizes = [len(model.tokenizer.encode(document.text)) for document in result.documents]
    say_unfinished(sizes, model.config.block_size, model.tokenizer.unit)
    if result.complete:
        if have < n:
            say(f"Found {have:,} of {n:,}: no other entry matches")
        return
    sure = "none is" if not exact else "only the first is" if exact == 1 else f"{exact:,} are"
    ended = f"the search ended after {count(result.reads, 'token')}"
    warn(
        f"found {have:,} of {n:,}, and {sure} guaranteed to be the most probable: {ended}",
        "search longer with a larger --effort",
    )
