r"""Fill the gaps in an entry, or find the words for a gap in a sentence.

In PATTERN, _ is one character and * is any number of characters. \_ and \* are the characters
themselves. Quote the pattern: 'ma__a', '*ia'. The most probable entry comes first. Each line has
the log probability of the whole entry in nats, and its share among the entries printed.

In a pattern with a space, two or more _ that touch no letter are a word: 'a cup of ____'. Each line
then has a word and its probability. It works with a model of a text and with one of sentences. The
text after the gap counts, and for a model of a list the end of the entry. The probability is then
the share among the words found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kamon.cli.output import print_json
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import chosen_engine, given_of
from kamon.cli.suggest import (
    add_search,
    exchange,
    found_json,
    found_lines,
    say_found,
    say_words,
    word_lines,
    words_json,
)
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.generation.words import Gap
    from kamon.model import Model

OPTIONS = {
    "DIR": "directory of the model",
    "PATTERN": "entry with _ and * for its gaps, or sentence with ____ for a word",
    "--among WORDS": "words to choose from, with commas between them",
}
EXAMPLES = """\
kamon fill names 'ma__a'        # five letters
kamon fill names '*ia' -n 20    # names that end with ia
kamon fill sentences 'Give me a cup of ____'
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, among="")
    add_search(parser)


def run(args: Args) -> int:
    from kamon.completion import fill, word_gap
    from kamon.generation.search import parse

    parse(args.pattern)  # raises ConfigError before a model is read
    gap = word_gap(args.pattern)
    if args.among and not gap:
        raise ConfigError("--among needs a gap for a word", "write ____ for it in a sentence")

    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    if gap:
        return fill_gap(model, gap, args)
    text = model.tokenizer.normal(args.pattern)
    pattern = exchange(model, parse(text), args.unknown)
    result = fill(model, pattern, args.n, effort=args.effort, given=given_of(args))
    known = model.docs.intersection(document.text for document in result.documents)
    if args.json:
        print_json({"directory": args.dir, "pattern": text} | found_json(result, known))
    elif result.documents:
        print("\n".join(found_lines(result, known)))
    say_found(result, args.n, model)
    return 0 if result.documents else 1


def fill_gap(model: Model, gap: Gap, args: Args) -> int:
    """Print the words for a gap."""
    from kamon.completion import fill_words
    from kamon.generation.search import Wildcard
    from kamon.generation.words import Gap

    text = [*model.tokenizer.normal(gap.before), Wildcard.ANY, *model.tokenizer.normal(gap.after)]
    known = exchange(model, text, args.unknown)
    place = known.index(Wildcard.ANY)
    gap = Gap("".join(map(str, known[:place])), "", "".join(map(str, known[place + 1 :])))
    among = [word.strip() for word in args.among.split(",")] if args.among else []
    n = max(args.n, len(among))
    how = {"effort": args.effort, "given": given_of(args)}
    result = fill_words(model, gap, n, among=among, **how)
    if args.json:
        print_json({"directory": args.dir, "pattern": args.pattern} | words_json(result))
    elif result.words:
        rest = "(all other words)" if among else "(not found)"
        print("\n".join(word_lines(result, rest)))
    say_words(result, n)
    return 0 if result.words else 1
