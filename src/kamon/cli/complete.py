"""Complete the beginning of an entry.

The first table has the probability of each next character, and (end) is the end of the entry. The
second table has the most probable entries that begin with PREFIX: log probability in nats, and
share of the probability of all entries that begin with PREFIX.

For a model of a text, or with --words, the second table has the most probable next words instead,
or those that finish the last word of PREFIX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kamon.cli.output import print_json
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import chosen_engine, given_of
from kamon.cli.suggest import (
    add_search,
    exchange,
    found_json,
    found_lines,
    next_lines,
    say_found,
    say_words,
    word_lines,
    words_json,
)
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.completion import NextToken
    from kamon.generation.words import WordResult

OPTIONS = {
    "DIR": "directory of the model",
    "[PREFIX]": "beginning of the entry [default: empty]",
    "--next N": "number of next characters to print, with the sum of the others [default: 10]",
    "--temperature T": "temperature of the next characters: 0 is greedy, 1 is the model's own "
    "distribution [default: 1]",
    "--words": "complete with words instead of whole entries",
    "--interactive": "complete while you type: Tab accepts, Enter prints the line, Esc leaves",
}
EXAMPLES = """\
kamon complete names ma          # how names with ma continue
kamon complete names ma -n 3     # only 3 completions
kamon complete names --interactive
kamon complete people ma --given country=fi
kamon complete sentences 'a cup of ' --words
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, prefix="", next=10, temperature=1.0)
    add_search(parser)


def run(args: Args) -> int:
    if args.next < 1:
        raise ConfigError(f"next must be 1 or more, not {args.next}")
    if args.interactive:
        from kamon.cli.interactive import check_terminal, complete_lines

        if args.json:
            raise ConfigError("--json and --interactive exclude each other", "choose one")
        check_terminal()

    from kamon.completion import complete, complete_words, next_tokens
    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    prefix = model.tokenizer.normal(args.prefix)
    prefix = "".join(map(str, exchange(model, prefix, args.unknown)))
    if args.interactive:
        complete_lines(model, prefix, args)
        return 0
    given = given_of(args)
    tokens = next_tokens(model, prefix, temperature=args.temperature, given=given)
    if model.writes_text or args.words:
        found = complete_words(model, prefix, args.n, effort=args.effort, given=given)
        return show_words(tokens, found, prefix, args)
    result = complete(model, prefix, args.n, effort=args.effort, given=given)
    known = model.docs.intersection(document.text for document in result.documents)
    if args.json:
        print_json(next_json(tokens, prefix, args) | found_json(result, known))
    else:
        print("\n".join(["next", *next_lines(tokens, args.next), "", "completions"]))
        print("\n".join(found_lines(result, known)))
    say_found(result, args.n, model)
    return 0 if result.documents else 1


def show_words(tokens: list[NextToken], found: WordResult, prefix: str, args: Args) -> int:
    """Print the next tokens and the next words."""
    if args.json:
        print_json(next_json(tokens, prefix, args) | words_json(found))
    else:
        print("\n".join(["next", *next_lines(tokens, args.next), "", "words"]))
        print("\n".join(word_lines(found)))
    say_words(found, args.n)
    return 0 if found.words else 1


def next_json(tokens: list[NextToken], prefix: str, args: Args) -> dict[str, Any]:
    first, others = tokens[: args.next], tokens[args.next :]
    shown = [{"text": token.text or None, "probability": token.probability} for token in first]
    rest = {"tokens": len(others), "probability": sum(token.probability for token in others)}
    return {"directory": args.dir, "prefix": prefix, "next": shown, "others": rest}
