"""Say how odd each line of a text is to a saved model: the names that do not fit stand out.

A line of output for each line of input, tab-separated: bits a character (its end counts as one),
log probability in nats, the percentage of the entries held out from training that is at least as
odd, the least likely character ("end" for the end), and the line as it was given. If fewer than 10
entries are held out, the percentage is of the whole list; without any entries it is "-". White
space at the ends is taken off, blank lines are left out. Any number of lines is read, as they come,
in bounded memory. On a terminal, a line of heads comes first, on stderr.
"""

from __future__ import annotations

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
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_engine, add_reading, chosen_engine, reading
from kamon.errors import ConfigError, CorpusError, TokenizerError

if TYPE_CHECKING:
    from kamon.evaluation.score import PercentileScale, Scores
    from kamon.model import Model
    from kamon.tokenizers.base import Tokenizer

HEADS = "bits\tlogprob\tpercent\toddest\ttext"

OPTIONS = {
    "DIR": "the model, as `kamon train -o` wrote it",
    "[FILE]": "text, .csv, .tsv or .jsonl; by default standard input",
}
SELECTION = {
    "--top N": "only the N oddest, in order",
    "--threshold BITS": "only those of so many bits a character",
    "--unknown {error,skip,replace,zero}": "lines with characters that the model does not know: "
    "error stops there, skip leaves them out, replace scores them with the closest known "
    "characters, such as e for É, or leaves them out if there are none, zero gives them "
    "probability 0, and also lines that are longer than the model can write [default: error]",
    "--json": "print one JSON object a line, with the text as it was scored, too; what is not "
    "finite is null",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, file="-")
    add_reading(parser)
    options(parser, SELECTION, unknown="error")
    add_engine(parser)


def run(args: Args) -> int:
    if args.top is not None and args.top < 1:
        raise ConfigError(f"top must be 1 or more, not {args.top}")
    if args.threshold is not None and args.threshold != args.threshold:
        raise ConfigError("threshold must be a number of bits, not nan")
    from kamon.data.corpus import stream_entries
    from kamon.evaluation.score import PercentileScale
    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    model.check_documents("scores are those of documents")
    scale = PercentileScale.of(model, args.unknown)
    counts = Counts()
    headed = args.json or not sys.stdout.isatty()
    top: list[tuple[float, str]] = []  # the least likely lines so far, with their bits
    for lines in stream_entries(args.file, **reading(args), on_note=say):
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
    """The number of lines, and of those with something special."""

    lines: int = 0
    texts: int = 0  # that are not blank
    scored: int = 0
    cut: int = 0
    replaced: int = 0
    long: int = 0
    impossible: int = 0  # with an unknown character, so of probability 0
    broken: int = 0  # with a line end inside


def score_lines(args: Args, model: Model, lines: list[str], counts: Counts) -> Scores:
    """Return the scores of these lines without the blank ones, and count them."""
    from kamon.data.readers import MAX_LINE, name_of
    from kamon.data.tables import format_of
    from kamon.evaluation.score import score_list

    texts = list(filter(None, (line[:MAX_LINE].strip() for line in lines)))
    try:
        scores = score_list(model.language_model, model.tokenizer, texts, unknown=args.unknown)
    except TokenizerError as error:
        place = counts.lines + first_unknown(model.tokenizer, lines)
        table = (args.format or format_of(args.file)) in ("csv", "tsv", "json")
        raise TokenizerError(
            f"{name_of(args.file)}, {'record' if table else 'line'} {place}: {error}; "
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


def say_counts(args: Args, model: Model, counts: Counts) -> None:
    """Say what is special about the lines. Raises CorpusError if there was no text."""
    from kamon.data.readers import MAX_LINE, name_of

    say_line_ends(counts.broken)
    if not counts.texts:
        what = "holds nothing but blank lines" if counts.lines else "is empty"
        raise CorpusError(f"{name_of(args.file)} {what}")
    if counts.scored < counts.texts:
        why = ", not even by their likes," if args.unknown == "replace" else ""
        what = f"with characters unknown to the model{why} left out"
        say(f"{count(counts.texts - counts.scored, 'line')} {what}")
    if counts.impossible:
        what = "with characters unknown to the model: probability 0"
        say(f"{count(counts.impossible, 'line')} {what}")
    if counts.replaced:
        say(f"{count(counts.replaced, 'line')} scored with the likes of characters unknown")
    if counts.cut:
        how = "probability 0" if args.unknown == "zero" else "scored in overlapping windows"
        size = f"{model.config.block_size - 1} {model.tokenizer.unit}s"
        say(f"{count(counts.cut, 'line')} longer than the {size} that the model can write: {how}")
    if counts.long:
        what = f"of more than {MAX_LINE:,} characters: the rest was not read"
        say(f"{count(counts.long, 'line')} {what}")


def say_compared(scale: PercentileScale) -> None:
    n = f"{len(scale.bits):,}"
    if scale.reference is None:
        why = "the model keeps no entries, and its packed corpus is no longer where it was"
        say(f"no percentiles: {why}")
    elif scale.reference == "validation":
        say(f"percentiles compare with {n} entries that were held out from training")
    else:
        why = "too few are held out from training: new entries get low ones too often"
        say(f"percentiles compare with {n} entries of the list, since {why}")


def first_unknown(tokenizer: Tokenizer, lines: list[str]) -> int:
    """Return the number, from 1, of the first line with an unknown character."""
    normal = tokenizer.normal
    return next(n for n, line in enumerate(lines, 1) if tokenizer.unknown(normal(line.strip())))


def text_rows(scores: Scores, scale: PercentileScale) -> list[str]:
    surprising = scores.surprising()
    shown = {char: one_line(char) or "end" for char in set(surprising)}
    given = scores.given
    if not "".join(given).isprintable():  # some need escapes; one call for all is much faster
        given = list(map(entry_line, given))
    shares = scale.percentiles(scores.bits_per_char)
    percentiles = ["-" if share is None else f"{share:.1f}" for share in shares]
    rows = zip(scores.bits_per_char, scores.logprobs, percentiles, surprising, given, strict=True)
    return [
        f"{bits:.3f}\t{logprob:.3f}\t{percentile}\t{shown[char]}\t{text}"
        for bits, logprob, percentile, char, text in rows
    ]


def json_rows(scores: Scores, scale: PercentileScale) -> list[str]:
    columns = {
        "text": scores.given,
        "scored": scores.texts,
        "logprob": scores.logprobs,
        "bits_per_char": scores.bits_per_char,
        "percentile": scale.percentiles(scores.bits_per_char),
        "compared_with": [scale.reference] * len(scores.texts),
        "surprise": scores.surprises,
        "surprising": [char or None for char in scores.surprising()],
        "cut": scores.cut,
    }
    rows = zip(*columns.values(), strict=True)
    return [json_line(dict(zip(columns, row, strict=True))) for row in rows]
