"""Find the entries that fit a model's list least.

For each line of input, Kamon prints these columns, with tabs between them in a pipe or a file:

  bits/char   surprisal in bits per character, with the end as one character
  logprob     log probability in nats
  percentile  share of the validation entries that are at least as unusual: 0 is the most unusual
  reason      the most unusual thing, such as "unknown Q" or "unlikely b after Bo"
  text        the line

With --by, it prints the probability, the value and the line.

A line that the model cannot make has an unknown character, or is too long. Its surprisal is
infinite. With --top such lines come first, those with the most unknown characters at the top.

With fewer than 10 validation entries, the percentile is of the whole list. Kamon trims lines and
skips blank ones. It reads any number of lines in bounded memory.

A model of a text scores each line or sentence for itself, after a line end and up to the next one.
So you can compare them. It prints the total at the end, also in bits per word. It scores what is
longer than it can read at once in overlapping windows.
"""

from __future__ import annotations

import heapq
import math
import sys
from dataclasses import dataclass, field
from itertools import chain, compress, islice
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
from kamon.cli.settings import add_engine, add_reading, chosen_engine, given_of, reading
from kamon.data.graphemes import lengths_of
from kamon.errors import ConfigError, CorpusError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kamon.evaluation.score import PercentileScale, Scores
    from kamon.model import Model
    from kamon.tokenizers.base import Tokenizer

REASON_WIDTH = 26
MAX_BEFORE = 8  # characters that "unlikely b after Bo" shows before the unlikely one
MIN_FINE = 50  # validation entries that make a percentile finer than 2%
MAX_NAMED = 5  # unknown characters of a line, or lines that were left out
HEADS = f"{'bits/char':>9} {'logprob':>9} {'percentile':>10}  {'reason':{REASON_WIDTH}} text"

MAX_PARAGRAPH = 100_000  # lines: a longer one is divided

OPTIONS = {
    "DIR": "directory of the model",
    "[FILE]": "text, .csv, .tsv or .jsonl file [default: standard input]",
}
SELECTION = {
    "--given VALUES": "score under values of a model of `kamon train --given`, such as country=fi",
    "--by COLUMN": "print the most likely value of a given column and its probability instead",
    "--per {line,sentence}": "score each line, or each sentence of the text (an empty line ends "
    "one, too) [default: line]",
    "--top N": "print only the N lines with the largest surprisal, the largest first",
    "--threshold BITS": "print only lines with at least BITS bits per character",
    "--unknown {zero,skip,replace,error}": "lines with unknown characters: zero gives probability "
    "0, also to overlong lines, skip drops them, replace scores the closest known "
    "characters (e for É), error stops [default: zero, with --by replace]",
    "--json": "print one JSON object per line, with null for numbers that are not finite",
}
EXAMPLES = """\
kamon score names new.txt --top 20           # the 20 most unusual lines
kamon score names new.txt --threshold 6      # all lines above 6 bits per character
echo xqzz | kamon score names                # one entry
kamon score people new.txt --by country      # the most likely country of each line
kamon score book chapter.txt --per sentence  # each sentence of a text
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, file="-")
    add_reading(parser)
    options(parser, SELECTION, per="line")
    add_engine(parser)


def run(args: Args) -> int:
    if args.top is not None and args.top < 1:
        raise ConfigError(f"top must be 1 or more, not {args.top}")
    if args.by is not None and (
        args.top is not None
        or args.threshold is not None
        or args.given is not None
        or args.per != "line"
    ):
        raise ConfigError(
            "--by cannot be used with --top, --threshold, --given or --per", "leave it out"
        )
    if args.threshold is not None and args.threshold != args.threshold:
        raise ConfigError("threshold must be a number of bits, not nan")
    if args.unknown is None:
        args.unknown = "zero" if args.by is None else "replace"
    from kamon.data.corpus import stream_entries
    from kamon.evaluation.score import PercentileScale, edge_of, sentences_of
    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    if args.by is not None:
        return print_classes(args, model)
    by_sentence = args.per == "sentence"
    split = sentences_of if by_sentence else str.splitlines
    scale = PercentileScale.of(model, args.unknown, split=split)
    what = "text" if model.writes_text else "list"
    edge, counts, total = edge_of(model), Counts(), Total()
    headed = args.json or not sys.stdout.isatty()
    top: list[tuple[Rank, str]] = []  # the least likely lines so far
    blocks = stream_entries(args.file, **reading(args), on_note=say)
    for lines in sentences_in(blocks) if by_sentence else blocks:
        scores = score_lines(args, model, edge, lines, counts)
        total.add(scores)
        least = top[-1][0][0] if len(top) == args.top else args.threshold
        if least is not None:
            scores = scores.select([bits >= least for bits in scores.bits_per_char])
        if not headed:
            say_compared(scale, what, args.per)
            say(HEADS)
            headed = True
        if not args.json:
            counts.broken += sum(map(has_line_end, scores.texts))
        make_rows = json_rows if args.json else text_rows
        rows = make_rows(scores, scale, reasons(model, scores))
        if args.top is not None:
            both = chain(top, zip(ranks(args, model, scores), rows, strict=True))
            top = heapq.nlargest(args.top, both, key=itemgetter(0))
        elif rows:
            print("\n".join(rows), flush=True)
    for _, row in top:
        print(row)
    say_counts(args, model, counts)
    if model.writes_text and counts.scored:
        say(total.summary(args.per))
    if args.json or not sys.stdout.isatty():
        say_compared(scale, what, args.per)
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
    left_out: list[int] = field(default_factory=list)  # the first few


@dataclass
class Total:
    """The sums of all scores."""

    texts: int = 0
    words: int = 0
    chars: int = 0
    logprob: float = 0.0

    def add(self, scores: Scores) -> None:
        self.texts += len(scores.texts)
        self.words += sum(len(text.split()) for text in scores.texts)
        self.chars += sum(lengths_of(scores.texts)) + len(scores.texts)
        self.logprob += sum(scores.logprobs)

    def summary(self, unit: str) -> str:
        bits = -self.logprob / math.log(2)
        return (
            f"Total: {count(self.texts, unit)}, {count(self.words, 'word')}, "
            f"log probability {self.logprob:.3f} nats, {bits / max(1, self.words):.3f} bits per "
            f"word, {bits / self.chars:.3f} bits per character"
        )


def sentences_in(blocks: Iterable[list[str]]) -> Iterator[list[str]]:
    """Yield the sentences of all lines, those of many paragraphs at a time."""
    from kamon.evaluation.score import sentences_of

    left: list[str] = []  # lines of a paragraph that has not ended
    for lines in blocks:
        left += lines
        blank = next((n for n, line in enumerate(reversed(left)) if not line.strip()), None)
        size = len(left) if len(left) > MAX_PARAGRAPH else 0 if blank is None else len(left) - blank
        if found := sentences_of("\n".join(left[:size])):
            yield found
        left = left[size:]
    if found := sentences_of("\n".join(left)):
        yield found


def score_lines(args: Args, model: Model, edge: int, lines: list[str], counts: Counts) -> Scores:
    """Return the scores of the lines that are not blank, and add to the counts."""
    from kamon.data.readers import MAX_LINE
    from kamon.evaluation.score import score_list

    stripped = [line[:MAX_LINE].strip() for line in lines]
    texts = list(filter(None, stripped))
    reader = model.under(given_of(args))
    try:
        scores = score_list(reader, model.tokenizer, texts, unknown=args.unknown, edge=edge)
    except TokenizerError as error:
        raise located(error, args, model, lines, counts.lines) from None
    if len(scores.texts) < len(texts):
        note_left_out(model.tokenizer, stripped, counts, replace=args.unknown == "replace")
    counts.lines += len(lines)
    counts.texts += len(texts)
    counts.scored += len(scores.scored)
    counts.cut += sum(scores.cut)
    counts.long += sum(len(line) > MAX_LINE for line in lines)
    counts.replaced += sum(map(ne, scores.texts, scores.scored))
    if args.unknown == "zero":
        surprising = scores.surprising()
        unknown = model.tokenizer.unknown("".join(surprising))
        counts.impossible += sum(char in unknown for char in surprising)
    return scores


def note_left_out(tokenizer: Tokenizer, lines: list[str], counts: Counts, *, replace: bool) -> None:
    """Add the numbers of the first few lines that were left out to `counts`."""

    def scored(line: str) -> str:
        return tokenizer.normal(tokenizer.replace_unknown(line) if replace else line)

    numbers = (
        n for n, line in enumerate(lines, counts.lines + 1) if tokenizer.unknown(scored(line))
    )
    counts.left_out += islice(numbers, MAX_NAMED + 1 - len(counts.left_out))


def line_or_record(args: Args) -> str:
    from kamon.data.tables import format_of

    if args.per == "sentence":
        return "sentence"
    table = (args.format or format_of(args.file)) in ("csv", "tsv", "json")
    return "record" if table else "line"


def located(
    error: TokenizerError, args: Args, model: Model, lines: list[str], num_before: int
) -> TokenizerError:
    """Return the error with the line that has the unknown character, and what to do."""
    from kamon.data.readers import name_of

    place = num_before + first_unknown(model.tokenizer, lines)
    message = error.message.partition(": ")[2]  # without "text N"
    hint = (
        "--unknown zero gives such lines probability 0, skip drops them, "
        "replace scores the closest known characters"
    )
    if args.by is not None:
        hint = "--unknown skip drops such lines, replace reads the closest known characters"
    return TokenizerError(
        f"{name_of(args.file)}, {line_or_record(args)} {place}: {message}",
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
        stripped = [line[:MAX_LINE].strip() for line in lines]
        texts = list(filter(None, stripped))
        try:
            found = classify_list(model, texts, args.by, unknown=args.unknown)
        except TokenizerError as error:
            raise located(error, args, model, lines, counts.lines) from None
        if len(found) < len(texts):
            note_left_out(model.tokenizer, stripped, counts, replace=args.unknown == "replace")
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
        numbers = [f"{n:,}" for n in counts.left_out[:MAX_NAMED]]
        numbers += ["…"] * (len(counts.left_out) > MAX_NAMED)
        where = f"{line_or_record(args)} {', '.join(numbers)}"
        say(f"Left out {lines} with unknown characters{why}: {where}")
    if counts.impossible:
        say(f"{count(counts.impossible, 'line')} with unknown characters: probability 0")
    if counts.replaced:
        say(f"{count(counts.replaced, 'line')} scored with the closest known characters")
    if counts.cut:
        zero = args.unknown == "zero" and not model.writes_text
        how = "probability 0" if zero else "scored in overlapping windows"
        size = f"{model.config.block_size - 1} {model.tokenizer.unit}s"
        say(f"{count(counts.cut, 'line')} longer than {size}: {how}")
    if counts.long:
        what = f"longer than {MAX_LINE:,} characters: the rest was not read"
        warn(f"{count(counts.long, 'line')} {what}")


def say_compared(scale: PercentileScale, what: str, unit: str) -> None:
    """Print what percentiles compare with. what: "list" or "text". unit: of a text."""
    n = f"{len(scale.bits):,}"
    entries = "entries" if what == "list" else f"{unit}s"
    if scale.reference is None and what == "text":
        warn(f"no percentiles: the model's text has no {entries} to compare with")
    elif scale.reference is None:
        warn("no percentiles: the model has no entries, and its packed corpus is gone")
    elif scale.reference == "validation":
        coarse = f" (coarse: {n} are few)" if len(scale.bits) < MIN_FINE else ""
        say(f"percentile: share of the {n} validation {entries} at least as unusual{coarse}")
    else:
        why = "because the validation set is too small"
        warn(
            f"percentiles are among {n} {entries} of the {what}, {why}: new {entries} get low ones"
        )


def first_unknown(tokenizer: Tokenizer, lines: list[str]) -> int:
    """Return the number, from 1, of the first line with an unknown character."""
    normal = tokenizer.normal
    return next(n for n, line in enumerate(lines, 1) if tokenizer.unknown(normal(line.strip())))


def reasons(model: Model, scores: Scores) -> list[str]:
    """Return what makes each line unusual, such as "unlikely b after Bo"."""
    tokenizer = model.tokenizer
    unknown = tokenizer.unknown("".join(scores.scored))
    too_long = f"longer than {model.config.block_size - 1} {tokenizer.unit}s"
    found = []
    columns = scores.scored, scores.surprises, scores.logprobs, scores.cut
    for text, place, logprob, cut in zip(*columns, strict=True):
        if logprob == -math.inf and cut:
            found.append(too_long)
        elif unknown and not unknown.isdisjoint(text):
            chars = list(dict.fromkeys(filter(unknown.__contains__, text)))
            more = ["…"] * (len(chars) > MAX_NAMED)
            found.append(one_line(f"unknown {' '.join(chars[:MAX_NAMED] + more)}"))
        else:
            before = text[:place]
            if len(before) > MAX_BEFORE:
                before = "…" + before[1 - MAX_BEFORE :]
            where = f"after {before}" if before else "at the start"
            found.append(one_line(f"unlikely {text[place : place + 1] or 'end'} {where}"))
    return found


Rank = tuple[float, int, float]


def ranks(args: Args, model: Model, scores: Scores) -> list[Rank]:
    """Return (bits, number of unknown characters, bits of the other characters) of each line.

    The last two only matter, and are only computed, for lines of infinite surprisal.
    """
    from kamon.evaluation.score import edge_of, score_list

    infinite = [bits == math.inf for bits in scores.bits_per_char]
    texts = list(compress(scores.scored, infinite))
    unknown = model.tokenizer.unknown("".join(texts))
    rest = ["".join(char for char in text if char not in unknown) for text in texts]
    # The characters around an unknown one may be one unknown character in NFC: that is left out.
    reader = model.under(given_of(args))
    scored = score_list(reader, model.tokenizer, rest, unknown="skip", edge=edge_of(model))
    bits_of = dict(zip(scored.indices, scored.bits_per_char, strict=True))
    ties = (
        (math.inf, len(text) - len(known), bits_of.get(number, math.inf))
        for number, (text, known) in enumerate(zip(texts, rest, strict=True))
    )
    finite = ((bits, 0, bits) for bits in scores.bits_per_char)
    return [next(ties) if tie else row for tie, row in zip(infinite, finite, strict=True)]


def text_rows(scores: Scores, scale: PercentileScale, why: list[str]) -> list[str]:
    given = scores.texts
    if not "".join(given).isprintable():  # some need escapes: one check of all is much faster
        given = list(map(entry_line, given))
    shares = scale.percentiles(scores.bits_per_char)
    percentiles = ["-" if share is None else f"{share:.1f}" for share in shares]
    rows = zip(scores.bits_per_char, scores.logprobs, percentiles, why, given, strict=True)
    if sys.stdout.isatty():
        return [
            f"{bits:9.3f} {logprob:9.3f} {percentile:>10}  {padded(reason, REASON_WIDTH)} {text}"
            for bits, logprob, percentile, reason, text in rows
        ]
    return [
        f"{bits:.3f}\t{logprob:.3f}\t{percentile}\t{reason}\t{text}"
        for bits, logprob, percentile, reason, text in rows
    ]


def json_rows(scores: Scores, scale: PercentileScale, why: list[str]) -> list[str]:
    columns = {
        "text": scores.texts,
        "scored": scores.scored,
        "logprob": scores.logprobs,
        "bits_per_char": scores.bits_per_char,
        "percentile": scale.percentiles(scores.bits_per_char),
        "compared_with": [scale.reference] * len(scores.texts),
        "surprise": scores.surprises,
        "surprising": [char or None for char in scores.surprising()],
        "reason": why,
        "cut": scores.cut,
    }
    rows = zip(*columns.values(), strict=True)
    return [json_line(dict(zip(columns, row, strict=True))) for row in rows]
