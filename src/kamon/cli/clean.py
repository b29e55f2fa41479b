"""Clean a list: repair what is broken, bring all to one form, drop what should not be learned.

Always: HTML tags and entities go (but see --keep-html), characters take Unicode's composed form
(NFC), invisible ones go except where emoji or a script need them, white space becomes single
spaces, blank documents and repetitions go. All else is by flag. The first of several alike stays.
Cleaning what is clean changes nothing. The input is never written to.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kamon.cli.output import count, one_line, print_json, say, say_corpus
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_input, add_json, add_reading, reading, values
from kamon.errors import ConfigError, CorpusError
from kamon.files.output_path import check_file, check_not_input, write_errors

if TYPE_CHECKING:
    from kamon.data.cleaning import Step
    from kamon.data.documents import Documents

EXAMPLE_WIDTH = 40
EXTRA = 'needs pip install "kamon[clean]"'

OPTIONS = {
    "-o, --output FILE": "where the clean documents go, one a line; by default stdout, with --json "
    "as its docs",
    "--overwrite": "replace FILE",
}
CHANGES = {
    "--mojibake": f"repair text that was once read in a wrong encoding, such as cafÃ©; {EXTRA}",
    "--keep-html": "leave tags and entities alone",
    "--lower": "make all letters small",
    "--transliterate": f"write all in ASCII, Жанна as Zhanna; {EXTRA}",
}
DROPS = {
    "--min-len N": "what has fewer characters, as people see them: accents and signs belong to "
    "letters",
    "--max-len N": "what has more such characters",
    "--keep-regex REGEX": "where this Python expression is nowhere found",
    "--drop-regex REGEX": "where this Python expression is found",
    "--script NAME": "what has a letter of another Unicode script than this, such as Latin; give "
    f"it again to allow several; {EXTRA}",
    "--drop-words FILE": "what has one of the words or phrases in FILE, one a line: whole words, "
    "in any case",
    "--offensive": f"what has one of some 400 offensive English words, likewise; {EXTRA}",
    "--keep-repetitions": "leave repetitions in; not with --near",
    "--near PERCENT": "what is too similar to an earlier document that stays: where 100 (1 - edits "
    "/ length of the longer), an edit being one character inserted, deleted or replaced, is PERCENT"
    f" (75 to 100) or more; 80 allows one edit in five characters; {EXTRA}",
}


def add_arguments(parser: Parser) -> None:
    add_input(parser, required=True)
    options(parser, OPTIONS)
    add_reading(parser)
    add_json(parser)
    options(parser.add_argument_group("what is changed"), CHANGES)
    group = parser.add_argument_group("what is dropped", "looked at as the changes above left it")
    options(group, DROPS, min_len=1, script=[])


def run(args: Args) -> None:
    from kamon.data import corpus
    from kamon.data.cleaning import Options, clean

    if args.output == "-":  # as the input's - is standard input
        args.output = None
    if args.input == args.drop_words == "-":
        raise ConfigError("standard input is either INPUT or --drop-words: name a file for one")
    words = args.drop_words
    dropped = () if words is None else tuple(corpus.read(words, format="text").docs)
    options = Options(
        **values(args, "mojibake", "lower", "transliterate", "offensive", "near"),
        **values(args, "min_len", "max_len", "keep_regex", "drop_regex"),
        html=not args.keep_html,
        scripts=tuple(args.script),
        drop_words=dropped,
        repetitions=args.keep_repetitions,
    )
    if args.output is not None:
        check_not_input(args.output, args.input)
        check_file(args.output, overwrite=args.overwrite, folder=True)
    # NFC is one of the steps: its changes are counted.
    source = corpus.read(args.input, **reading(args), composed=False)
    say_corpus(source, args.input)
    cleaned = clean(source.docs, options)
    for step in cleaned.report:
        say_step(step)
    say(f"{count(len(source.docs), 'document')} in, {len(cleaned.docs):,} left")
    if not cleaned.docs:
        raise CorpusError(f"nothing of {source.source} is left: all its documents were dropped")
    if args.output is not None:
        write(args.output, cleaned.docs)
    if args.json:
        steps = [
            {"step": step.name, step.action: step.count, "examples": step.examples}
            for step in cleaned.report
        ]
        content = {"corpus": source.summary(), "steps": steps, "num_docs": len(cleaned.docs)}
        place = {"docs": list(cleaned.docs)} if args.output is None else {"output": args.output}
        print_json(content | place)
    elif args.output is None:
        for block in cleaned.docs.blocks():
            print("\n".join(block))


def say_step(step: Step) -> None:
    arrow = "->" if step.action == "changed" else "for"
    if step.name == "repetitions":  # both texts are equal
        shown = "; ".join(short(doc) for doc, _ in step.examples)
    else:
        shown = "; ".join(f"{short(doc)} {arrow} {short(other)}" for doc, other in step.examples)
    say(f"  {step.name:13} {step.count:9,} {step.action}{': ' if shown else ''}{shown}")


def short(text: str) -> str:
    """Return the text on one line, cut, with invisible characters escaped: steps remove such."""
    cut = text if len(text) <= EXAMPLE_WIDTH else text[: EXAMPLE_WIDTH - 1] + "…"
    shown = (char if char.isprintable() else ascii(char)[1:-1] for char in one_line(cut))
    return f'"{"".join(shown)}"'


def write(output: str, docs: Documents) -> None:
    from kamon.files.atomic import replace_file

    with write_errors(output, CorpusError):
        lines = ("\n".join([*block, ""]).encode() for block in docs.blocks())
        replace_file(Path(os.path.realpath(output)), lines)  # a link stays a link
