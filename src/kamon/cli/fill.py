r"""Fill the gaps in a text with a saved model, the most probable document first.

In PATTERN _ stands for one character, * for any number, also none; \_ and \* for themselves. Each
line has the log probability of the whole document in nats, and its share among those shown. Quote
the pattern: `'ma__a'`, `'*ia'`.
"""

from __future__ import annotations

from kamon.cli.output import print_json
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import chosen_engine
from kamon.cli.suggest import add_search, exchange, found_json, found_lines, say_found

OPTIONS = {
    "DIR": "the directory that `kamon train -o` wrote",
    "PATTERN": "text with _ and * for its gaps",
}


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
