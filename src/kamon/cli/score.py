"""Find the entries that fit a model's list least.

For each line of input, Kamon prints these columns, with tabs between them in a pipe or a file:

  bits/char   surprisal in bits per character, with the end as one character
  logprob     log probability in nats
  percentile  percentage of the validation set with at least this surprisal
  char        least likely character, or "end"
  text        the line

With fewer than 10 validation entries, the percentile is of the whole list. Kamon trims lines and
skips blank ones. It reads any number of lines in bounded memory.

A model of a text scores each line or sentence for itself, after a line end and up to the next one.
So you can compare them. It prints the total at the end, also in bits per word. It scores what is
longer than it can read at once in overlapping windows.
"""

from __future__ import annotations

import heapq
import sys
from dataclasses import dataclass
from itertools import chain
from math import log
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
from kamon.cli.settings import add_engine, add_reading, chosen_engine, reading
from kamon.errors import ConfigError, CorpusError, TokenizerError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kamon.evaluation.score import PercentileScale, Scores
    from kamon.model import Model
    from kamon.tokenizers.base import Tokenizer

HEADS = f"{'bits/char':>9} {'logprob':>9} {'percentile':>10}  {'char':6} text"

MAX_PARAGRAPH = 100_000  # lines: a longer one is divided

OPTIONS = {
    "DIR": "directory of the model",
    "[FILE]": "text, .csv, .tsv or .jsonl file [default: standard input]",
}
SELECTION = {
    "--by {line,sentence}": "score each line, or each sentence of the text; an empty line ends a "
    "sentence too [default: line]",
    "--top N": "print only the N lines with the largest surprisal, the largest first",
    "--threshold BITS": "print only lines with at least BITS bits per character",
    "--unknown {error,skip,replace,zero}": "lines with unknown characters: error stops, skip drops "
    "them, replace scores the closest known characters, such as e for É, zero gives probability 0, "
    "also to lines that are too long [default: error]",
    "--json": "print one JSON object per line; numbers that are not finite become null",
}
EXAMPLES = """\
kamon score names new.txt --top 20           # the 20 most unusual lines
kamon score names new.txt --threshold 6      # all lines above 6 bits per character
echo xqzz | kamon score names                # one entry
kamon score book chapter.txt --by sentence   # each sentence of a text
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, file="-")
    add_reading(parser)
    options(parser, SELECTION, by="line", unknown="error")
    add_engine(parser)


def run(args: Args) -> int:
    if args.top is not None and args.top < 1:
        raise ConfigError(f"top must be 1 or more, not {args.top}")
    if args.threshold is not None and args.threshold != args.threshold:
        raise ConfigError("threshold must be a number of bits, not nan")
    from kamon.data.corpus import stream_entries
    from kamon.evaluation.score import PercentileScale, edge_of, sentences_of
    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    by_sentence = args.by == "sentence"
    split = sentences_of if by_sentence else str.splitlines
    scale = PercentileScale.of(model, args.unknown, split=split)
    edge, counts, total = edge_of(model), Counts(), Total()
    headed = args.json or not sys.stdout.isatty()
    top: list[tuple[float, str]] = []  # the least likely lines so far, with their bits
    blocks = stream_entries(args.file, **reading(args), on_note=say)
    for lines in sentences_in(blocks) if by_sentence else blocks:
        scores = score_lines(args, model, edge, lines, counts)
        total.add(scores)
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
    if model.writes_text and counts.scored:
        say(total.sentence(args.by))
    say_compared(scale, "text" if model.writes_text else "list", args.by)
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
        self.chars += sum(len(text) + 1 for text in scores.texts)
        self.logprob += sum(scores.logprobs)

    def sentence(self, what: str) -> str:
        bits = -self.logprob / log(2)
        return (
            f"Total: {count(self.texts, what)}, {count(self.words, 'word')}, "
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
    """Return the scores of these lines without the blank ones, and count them."""
    from kamon.data.readers import MAX_LINE, name_of
    from kamon.data.tables import format_of
    from kamon.evaluation.score import score_list

    texts = list(filter(None, (line[:MAX_LINE].strip() for line in lines)))
    try:
        reader, tokenizer = model.language_model, model.tokenizer
        scores = score_list(reader, tokenizer, texts, unknown=args.unknown, edge=edge)
    except TokenizerError as error:
        place = counts.lines + first_unknown(model.tokenizer, lines)
        table = (args.format or format_of(args.file)) in ("csv", "tsv", "json")
        place_name = "sentence" if args.by == "sentence" else "record" if table else "line"
        hint = (
            "--unknown zero gives such lines probability 0, skip drops them, "
            "replace scores the closest known characters"
        )
        raise TokenizerError(
            f"{name_of(args.file)}, {place_name} {place}: {error.message}",
            f"{error.hint}, or use an option: {hint}" if error.hint else hint,
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


def say_compared(scale: PercentileScale, what: str = "list", by: str = "line") -> None:
    n = f"{len(scale.bits):,}"
    entries = "entries" if what == "list" else f"{by}s"
    if scale.reference is None and what == "text":
        warn(f"no percentiles: the model's text has no {entries} to compare with")
    elif scale.reference is None:
        warn("no percentiles: the model has no entries, and its packed corpus is gone")
    elif scale.reference == "validation":
        say(f"Percentiles are among the {n} {entries} of the validation set")
    else:
        why = "because the validation set is too small"
        warn(
            f"percentiles are among {n} {entries} of the {what}, {why}: new {entries} get low ones"
        )


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
