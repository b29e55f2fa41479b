"""Say how odd each line of a text is to a saved model: the names that do not fit stand out.

A line of output for each line of input, tab-separated: bits a character (its end counts as one),
log probability in nats, the percentage of the entries held out from training that is at least as
odd, the least likely character ("end" for the end), and the line as it was given. If fewer than 10
entries are held out, the percentage is of the whole list; without any entries it is "-". White
space at the ends is taken off, blank lines are left out. Any number of lines is read, as they come,
in bounded memory. On a terminal, a line of heads comes first, on stderr.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter, ne
from typing import TYPE_CHECKING

from kamon.cli.output import (
    count,
    entry_line,
    has_line_end,
    json_line,
    one_line,
    say,
    say_line_ends,
)
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_engine, add_reading, chosen_engine, reading
from kamon.errors import ConfigError, CorpusError, TokenizerError

if TYPE_CHECKING:
    from kamon.evaluation.score import PercentileScale, Scores
    from kamon.model import Model
    from kamon.tokenizers.base import Tokenizer

HEADS = "bits\tlogprob\tpercent\toddest\ttext"


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="DIR", help="the model, as `kamon train -o` wrote it")
    parser.add_argument(
        "input",
        nargs="?",
        default="-",
        metavar="FILE",
        help="text, .csv, .tsv or .jsonl; by default standard input",
    )
    add_reading(parser)
    parser.add_argument("--top", type=whole_number, metavar="N", help="only the N oddest, in order")
    parser.add_argument(
        "--threshold", type=number, metavar="BITS", help="only those of so many bits a character"
    )
    parser.add_argument(
        "--unknown",
        choices=("error", "skip", "replace", "zero"),
        default="error",
        help="lines with characters that the model does not know: error stops there, skip leaves "
        "them out, replace scores them with the closest known characters, such as e for É, or "
        "leaves them out if there are none, zero gives them probability 0, and also lines that are "
        "longer than the model can write [default: error]",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object a line, with the text as it was scored, too; what is not "
        "finite is null",
    )
    add_engine(parser)


def run(args: argparse.Namespace) -> int:
    if args.top is not None and args.top < 1:
        raise ConfigError(f"top must be 1 or more, not {args.top}")
    if args.threshold is not None and args.threshold != args.threshold:
        raise ConfigError("threshold must be a number of bits, not nan")
    from kamon.data.corpus import stream_entries
    from kamon.evaluation.score import PercentileScale
    from kamon.model import load

    model = load(args.model, **chosen_engine(args))
    model.check_documents("scores are those of documents")
    scale = PercentileScale.of(model, args.unknown)
    counts = Counts()
    headed = args.json or not sys.stdout.isatty()
    top: list[tuple[float, str]] = []  # the least likely lines so far, with their bits
    for lines in stream_entries(args.input, **reading(args), on_note=say):
        scores = score_lines(args, model, lines, counts)
        least = top[-1][0] if len(top) == args.top else args.threshold
        if least is not None:
            scores = scores.select([bits >= least for bits in scores.bits_per_char])
        if not headed:
            say(HEADS)
            headed = True
        if not args.json:
            counts.broken += sum(map(has_line_end, scores.given))
        rows = json_rows(scores, scale) if args.json else text_rows(scores, scale)
        if args.top is not None:
            both = chain(top, zip(scores.bits_per_char, rows, strict=True))
            top = heapq.nlargest(args.top, both, key=itemgetter(0))
        elif rows:
            print("\n".join(rows), flush=True)
    for _, row in top:
        print(row)
    say_counts(args, model, counts)
    say_compared(scale)
    return 0 if counts.scored else 1


@dataclass
class Counts:
    """How many lines there were, and of how many something must be said."""

    lines: int = 0
    texts: int = 0  # that are not blank
    scored: int = 0
    cut: int = 0
    replaced: int = 0
    long: int = 0
    impossible: int = 0  # with an unknown character, so of probability 0
    broken: int = 0  # with a line end inside


def score_lines(args: argparse.Namespace, model: Model, lines: list[str], counts: Counts) -> Scores:
    """Return the scores of these lines without the blank ones, and count them."""
    from kamon.data.readers import MAX_LINE, name_of
    from kamon.data.tables import format_of
    from kamon.evaluation.score import score_list

    texts = list(filter(None, (line[:MAX_LINE].strip() for line in lines)))
    try:
        scores = score_list(model.engine, model.tokenizer, texts, unknown=args.unknown)
    except TokenizerError as error:
        place = counts.lines + first_unknown(model.tokenizer, lines)
        table = (args.format or format_of(args.input)) in ("csv", "tsv", "json")
        raise TokenizerError(
            f"{name_of(args.input)}, {'record' if table else 'line'} {place}: {error}; "
            "--unknown zero takes such lines for the oddest of all, skip leaves them out, "
            "replace looks for the characters that are most like those"
        ) from None
    counts.lines += len(lines)
    counts.texts += len(texts)
    counts.scored += len(scores.texts)
    counts.cut += sum(scores.cut)
    counts.long += sum(len(line) > MAX_LINE for line in lines)
    counts.replaced += sum(map(ne, scores.given, scores.texts))
    if args.unknown == "zero":
        surprising = scores.surprising()
        unknown = model.tokenizer.unknown("".join(surprising))
        counts.impossible += sum(char in unknown for char in surprising)
    return scores


def say_counts(args: argparse.Namespace, model: Model, counts: Counts) -> None:
    """Say what is special about the lines. Raises CorpusError if there was no text."""
    from kamon.data.readers import MAX_LINE, name_of

    say_line_ends(counts.broken)
    if not counts.texts:
        what = "holds nothing but blank lines" if counts.lines else "is empty"
        raise CorpusError(f"{name_of(args.input)} {what}")
    if counts.scored < counts.texts:
        left_out = count(counts.texts - counts.scored, "line")
        why = ", not even by their likes," if args.unknown == "replace" else ""
        say(f"{left_out} with characters unknown to the model{why} left out")
    if counts.impossible:
        unknown = count(counts.impossible, "line")
        say(f"{unknown} with characters unknown to the model: probability 0")
    if counts.replaced:
        say(f"{count(counts.replaced, 'line')} scored with the likes of characters unknown")
    if counts.cut:
        how = "probability 0" if args.unknown == "zero" else "scored in overlapping windows"
        say(
            f"{count(counts.cut, 'line')} longer than the {model.config.block_size - 1} "
            f"{model.tokenizer.unit}s that the model can write: {how}"
        )
    if counts.long:
        say(
            f"{count(counts.long, 'line')} of more than {MAX_LINE:,} characters: "
            "the rest was not read"
        )


def say_compared(scale: PercentileScale) -> None:
    n = f"{len(scale.bits):,}"
    if scale.reference is None:
        say(
            "no percentiles: the model keeps no entries, and its packed corpus is no longer "
            "where it was"
        )
    elif scale.reference == "validation":
        say(f"percentiles compare with {n} entries that were held out from training")
    else:
        say(
            f"percentiles compare with {n} entries of the list, since too few are held out from "
            "training: new entries get low ones too often"
        )


def first_unknown(tokenizer: Tokenizer, lines: list[str]) -> int:
    """The number, from 1, of the first line that has an unknown character between its ends."""
    normal = tokenizer.normal
    return next(n for n, line in enumerate(lines, 1) if tokenizer.unknown(normal(line.strip())))


def text_rows(found: Scores, scale: PercentileScale) -> list[str]:
    surprising = found.surprising()
    shown = {char: one_line(char) or "end" for char in set(surprising)}
    given = found.given
    if not "".join(given).isprintable():  # some need escapes; one call for all is much faster
        given = list(map(entry_line, given))
    percentiles = ["-" if p is None else f"{p:.1f}" for p in scale.percentiles(found.bits_per_char)]
    return [
        f"{bits:.3f}\t{logprob:.3f}\t{percentile}\t{shown[char]}\t{text}"
        for bits, logprob, percentile, char, text in zip(
            *(found.bits_per_char, found.logprobs, percentiles),
            *(surprising, given),
            strict=True,
        )
    ]


def json_rows(found: Scores, scale: PercentileScale) -> list[str]:
    return [
        json_line(
            {
                "text": given,
                "scored": text,
                "logprob": logprob,
                "bits_per_char": bits,
                "percentile": percentile,
                "compared_with": scale.reference,
                "surprise": surprise,
                "surprising": surprising or None,
                "cut": cut,
            }
        )
        for given, text, logprob, bits, percentile, surprise, surprising, cut in zip(
            *(found.given, found.texts, found.logprobs, found.bits_per_char),
            *(scale.percentiles(found.bits_per_char), found.surprises, found.surprising()),
            found.cut,
            strict=True,
        )
    ]
