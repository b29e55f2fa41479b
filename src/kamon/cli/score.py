"""Find the entries that fit a model's list least.

For each line of input, Kamon prints these columns, with tabs between them in a pipe or a file:

  bits/char   surprisal in bits per character, with the end as one character
  logprob     log probability in nats
  percentile  percentage of the validation set with at least this surprisal
  char        least likely character, or "end"
  text        the line

With --by, it prints the probability, the value and the line.

With fewer than 10 validation entries, the percentile is of the whole list. Kamon trims lines and
skips blank ones. It reads any number of lines in bounded memory.
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
    padded,
    say,
    say_line_ends,
    warn,
)
from kamon.cli.parser import Args, Parser, options
from kamon.cli.sample import given_of
from kamon.cli.settings import add_engine, add_reading, chosen_engine, reading
from kamon.errors import ConfigError, CorpusError, TokenizerError

if TYPE_CHECKING:
    from kamon.evaluation.score import PercentileScale, Scores
    from kamon.model import Model
    from kamon.tokenizers.base import Tokenizer

HEADS = f"{'bits/char':>9} {'logprob':>9} {'percentile':>10}  {'char':6} text"

OPTIONS = {
    "DIR": "directory of the model",
    "[FILE]": "text, .csv, .tsv or .jsonl file [default: standard input]",
}
SELECTION = {
    "--given VALUES": "score under values of a model of `kamon train --given`, such as country=fi",
    "--by COLUMN": "print the most likely value of a given column and its probability instead",
    "--top N": "print only the N lines with the largest surprisal, the largest first",
    "--threshold BITS": "print only lines with at least BITS bits per character",
    "--unknown {error,skip,replace,zero}": "lines with unknown characters: error stops, skip drops "
    "them, replace scores the closest known characters (e for É), zero gives probability 0, also "
    "to lines that are too long [default: error]",
    "--json": "print one JSON object per line, with null for numbers that are not finite",
}
EXAMPLES = """\
kamon score names new.txt --top 20           # the 20 most unusual lines
kamon score names new.txt --threshold 6      # all lines above 6 bits per character
echo xqzz | kamon score names                # one entry
kamon score people new.csv --by country      # the most likely country of each line
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, file="-")
    add_reading(parser)
    options(parser, SELECTION, unknown="error")
    add_engine(parser)


def run(args: Args) -> int:
    if args.top is not None and args.top < 1:
        raise ConfigError(f"top must be 1 or more, not {args.top}")
    if args.by is not None and (
        args.top is not None or args.threshold is not None or args.given is not None
    ):
        raise ConfigError("--by cannot be used with --top, --threshold or --given", "leave it out")
    if args.threshold is not None and args.threshold != args.threshold:
        raise ConfigError("threshold must be a number of bits, not nan")
    from kamon.data.corpus import stream_entries
    from kamon.evaluation.score import PercentileScale
    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    model.check_documents("scoring")
    if args.by is not None:
        return print_classes(args, model)
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
    """The number of lines, and of lines with something special."""

    lines: int = 0
    texts: int = 0  # that are not blank
    scored: int = 0
    cut: int = 0
    replaced: int = 0
    long: int = 0
    impossible: int = 0  # with an unknown character, so of probability 0
    broken: int = 0  # with a line end inside


def score_lines(args: Args, model: Model, lines: list[str], counts: Counts) -> Scores:
    """Return the scores of the lines that are not blank, and add to the counts."""
    from kamon.data.readers import MAX_LINE
    from kamon.evaluation.score import score_list

    texts = list(filter(None, (line[:MAX_LINE].strip() for line in lines)))
    reader = model.under(given_of(args))
    try:
        scores = score_list(reader, model.tokenizer, texts, unknown=args.unknown)
    except TokenizerError as error:
        raise located(error, args, model, lines, counts.lines) from None
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


def located(
    error: TokenizerError, args: Args, model: Model, lines: list[str], num_before: int
) -> TokenizerError:
    """Return the error with the line that has the unknown character, and what to do."""
    from kamon.data.readers import name_of
    from kamon.data.tables import format_of

    place = num_before + first_unknown(model.tokenizer, lines)
    table = (args.format or format_of(args.file)) in ("csv", "tsv", "json")
    hint = (
        "--unknown zero gives such lines probability 0, skip drops them, "
        "replace scores the closest known characters"
    )
    if args.by is not None:
        hint = "--unknown skip drops such lines, replace reads the closest known characters"
    return TokenizerError(
        f"{name_of(args.file)}, {'record' if table else 'line'} {place}: {error.message}",
        f"{error.hint}, or use an option: {hint}" if error.hint else hint,
    )


def print_classes(args: Args, model: Model) -> int:
    """Print the most likely value of the column for each line. Return the exit code."""
    from kamon.data.corpus import stream_entries
    from kamon.data.readers import MAX_LINE
    from kamon.evaluation.classify import check_classes, classify_list

    check_classes(model, args.by, args.unknown)
    counts = Counts()
    if not args.json and sys.stdout.isatty():
        say(f"{'probability':>11}  {args.by:12} text")
    for lines in stream_entries(args.file, **reading(args), on_note=say):
        texts = list(filter(None, (line[:MAX_LINE].strip() for line in lines)))
        try:
            found = classify_list(model, texts, args.by, unknown=args.unknown)
        except TokenizerError as error:
            raise located(error, args, model, lines, counts.lines) from None
        counts.lines += len(lines)
        counts.texts += len(texts)
        counts.scored += len(found)
        counts.long += sum(len(line) > MAX_LINE for line in lines)
        for each in found:
            text = entry_line(each.text)
            if args.json:
                print(json_line(each._asdict()))
            elif sys.stdout.isatty():
                print(f"{each.probability:11.3f}  {padded(each.value, 12)} {text}")
            else:
                print(f"{each.probability:.3f}\t{each.value}\t{text}")
    say_counts(args, model, counts)
    return 0 if counts.scored else 1


def say_counts(args: Args, model: Model, counts: Counts) -> None:
    """Print what is special about the lines. Raise CorpusError if all are blank."""
    from kamon.data.readers import MAX_LINE, name_of

    say_line_ends(counts.broken)
    if not counts.texts:
        what = "has only blank lines" if counts.lines else "is empty"
        raise CorpusError(f"{name_of(args.file)} {what}")
    if counts.scored < counts.texts:
        why = " that have no close known character" if args.unknown == "replace" else ""
        lines = count(counts.texts - counts.scored, "line")
        say(f"Left out {lines} with unknown characters{why}")
    if counts.impossible:
        say(f"{count(counts.impossible, 'line')} with unknown characters: probability 0")
    if counts.replaced:
        say(f"{count(counts.replaced, 'line')} scored with the closest known characters")
    if counts.cut:
        how = "probability 0" if args.unknown == "zero" else "scored in overlapping windows"
        size = f"{model.config.block_size - 1} {model.tokenizer.unit}s"
        say(f"{count(counts.cut, 'line')} longer than {size}: {how}")
    if counts.long:
        what = f"longer than {MAX_LINE:,} characters: the rest was not read"
        warn(f"{count(counts.long, 'line')} {what}")


def say_compared(scale: PercentileScale) -> None:
    n = f"{len(scale.bits):,}"
    if scale.reference is None:
        warn("no percentiles: the model has no entries, and its packed corpus is gone")
    elif scale.reference == "validation":
        say(f"Percentiles are among the {n} entries of the validation set")
    else:
        why = "because the validation set is too small"
        warn(f"percentiles are among {n} entries of the list, {why}: new entries get low ones")


def first_unknown(tokenizer: Tokenizer, lines: list[str]) -> int:
    """Return the number, from 1, of the first line with an unknown character."""
    normal = tokenizer.normal
    return next(n for n, line in enumerate(lines, 1) if tokenizer.unknown(normal(line.strip())))


def text_rows(scores: Scores, scale: PercentileScale) -> list[str]:
    surprising = scores.surprising()
    shown = {char: one_line(char) or "end" for char in set(surprising)}
    given = scores.given
    if not "".join(given).isprintable():  # some need escapes: one check of all is much faster
        given = list(map(entry_line, given))
    shares = scale.percentiles(scores.bits_per_char)
    percentiles = ["-" if share is None else f"{share:.1f}" for share in shares]
    rows = zip(scores.bits_per_char, scores.logprobs, percentiles, surprising, given, strict=True)
    if sys.stdout.isatty():
        return [
            f"{bits:9.3f} {logprob:9.3f} {percentile:>10}  {padded(shown[char], 6)} {text}"
            for bits, logprob, percentile, char, text in rows
        ]
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
