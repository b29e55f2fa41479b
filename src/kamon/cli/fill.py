r"""Fill the gaps in an entry.

In PATTERN, _ is one character and * is any number of characters. \_ and \* are the characters
themselves. Quote the pattern: 'ma__a', '*ia'. The most probable entry comes first. Each line has
the log probability of the whole entry in nats, and its share among the entries printed.
"""

from __future__ import annotations

from kamon.cli.output import print_json
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import chosen_engine
from kamon.cli.suggest import add_search, exchange, found_json, found_lines, say_found

OPTIONS = {
    "DIR": "directory of the model",
    "PATTERN": "entry with _ and * for its gaps",
}
EXAMPLES = """\
kamon fill names 'ma__a'        # five letters
kamon fill names '*ia' -n 20    # names that end with ia
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS)
    add_search(parser)


def run(args: Args) -> int:
    from kamon.completion import fill
    from kamon.generation.search import parse

    parse(args.pattern)  # raises ConfigError before a model is read

    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    given = model.tokenizer.normal(args.pattern)
    pattern = exchange(model, parse(given), args.unknown)
    result = fill(model, pattern, args.n, effort=args.effort)
    known = model.docs.intersection(document.text for document in result.documents)
    if args.json:
        print_json({"directory": args.dir, "pattern": given} | found_json(result, known))
    elif result.documents:
        print("\n".join(found_lines(result, known)))
    say_found(result, args.n, model)
    return 0 if result.documents else 1
