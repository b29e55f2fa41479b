"""Clean a list before training: repair it, and drop what should not be learned.

Kamon always removes HTML tags and entities, invisible characters, blank entries and duplicates. It
normalises characters to NFC and white space to single spaces. Options do more. Of several similar
entries the first one stays. The input file never changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kamon.cli.output import count, done, labelled, one_line, print_json, say, say_corpus
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_input, add_json, add_reading, reading, values
from kamon.data.graphemes import clipped
from kamon.errors import ConfigError, CorpusError
from kamon.files.output_path import check_file, check_not_input, write_errors

if TYPE_CHECKING:
    from kamon.data.cleaning import Step
    from kamon.data.documents import Documents

EXAMPLE_WIDTH = 40
EXTRA = 'needs pip install "kamon[clean]"'
EXAMPLES = """\
kamon clean names --max-len 8 -o short.txt
kamon clean names --lower --keep-regex '^[a-z]+$' -o names.txt
kamon clean raw.txt
"""

OPTIONS = {
    "-o, --output FILE": "file for the clean entries, one per line [default: stdout]",
    "--overwrite": "replace FILE",
}
CHANGES = {
    "--mojibake": f"repair text that was read in a wrong encoding, such as cafÃ© ({EXTRA})",
    "--keep-html": "keep HTML tags and entities",
    "--lower": "change all letters to lower case",
    "--transliterate": f"write all text in ASCII, such as Zhanna for Жанна ({EXTRA})",
}
DROPS = {
    "--min-len N": "drop entries shorter than N characters (a letter with its accents counts "
    "as one) [default: 1]",
    "--max-len N": "drop entries longer than N characters",
    "--keep-regex REGEX": "drop entries without a match of the regular expression REGEX",
    "--drop-regex REGEX": "drop entries with a match of the regular expression REGEX",
    "--script NAME": "drop entries with letters outside the Unicode script NAME, such as Latin "
    f"(may be repeated, {EXTRA})",
    "--drop-words FILE": "drop entries with one of the words or phrases in FILE, one per line, "
    "in any case",
    "--offensive": f"drop entries with one of about 400 offensive English words ({EXTRA})",
    "--keep-repetitions": "keep duplicates (not with --near)",
    "--near PERCENT": "drop entries that are at least PERCENT (75 to 100) similar to an earlier "
    f"one: at 80, one edit per five characters ({EXTRA})",
}


def add_arguments(parser: Parser) -> None:
    add_input(parser, required=True)
    options(parser, OPTIONS)
    add_reading(parser)
    add_json(parser)
    options(parser.add_argument_group("changes"), CHANGES)
    group = parser.add_argument_group("filters", "applied after the changes above")
    options(group, DROPS, min_len=1, script=[])


def run(args: Args) -> None:
    from kamon.data import corpus
    from kamon.data.cleaning import Options, clean

    if args.output == "-":  # standard output, as - is standard input for INPUT
        args.output = None
    if args.input == args.drop_words == "-":
        raise ConfigError(
            "standard input cannot be both INPUT and --drop-words", "name a file for one of them"
        )
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
    # NFC is one of the steps, and Kamon counts what it changes.
    source = corpus.read(args.input, **reading(args), composed=False)
    say_corpus(source, args.input)
    cleaned = clean(source.docs, options)
    for step in cleaned.report:
        if step.count:
            say_step(step)
    if not cleaned.docs:
        raise CorpusError(
            f"nothing of {source.source} is left: all entries were dropped",
            "use less strict options",
        )
    say(done("Kept", f"{len(cleaned.docs):,} of {count(len(source.docs), 'entry')}"))
    if args.output is not None:
        write(args.output, cleaned.docs)
        say(done("Wrote", one_line(args.output)))
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
    arrow = "→" if step.action == "changed" else "for"
    name = "duplicates" if step.name == "repetitions" else step.name
    shown = ""
    if step.examples:
        doc, other = step.examples[0]
        equal = step.name == "repetitions"
        shown = short(doc) if equal else f"{short(doc)} {arrow} {short(other)}"
        shown = f", such as {shown}"
    say(labelled(name, f"{step.action} {count(step.count, 'entry')}{shown}"))


def short(text: str) -> str:
    """Return the text in quotes on one line, shortened, with invisible characters escaped."""
    cut = clipped(text, EXAMPLE_WIDTH)
    shown = (char if char.isprintable() else ascii(char)[1:-1] for char in one_line(cut))
    return f'"{"".join(shown)}"'


def write(output: str, docs: Documents) -> None:
    from kamon.files.atomic import replace_file

    with write_errors(output, CorpusError):
        lines = ("\n".join([*block, ""]).encode() for block in docs.blocks())
        replace_file(Path(os.path.realpath(output)), lines)  # a link stays a link
