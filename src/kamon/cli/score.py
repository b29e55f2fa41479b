"""Say how odd each line of a text is to a saved model: the names that do not fit stand out.

A line of output for each line of input, tab-separated: bits a character (its end counts as one),
log probability in nats, the percentage of the model's own list that is at least as odd, the least
likely character ("end" for the end), and the text. White space at the ends is taken off, blank
lines are left out. Any number of lines is read in bounded memory.
"""

from __future__ import annotations

import argparse
import heapq
import sys
from collections.abc import Iterable, Iterator

from kamon.cli.output import count, one_line, print_json, say
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_engine, chosen_engine
from kamon.errors import ConfigError, CorpusError


def add_arguments(parser: Parser) -> None:
    parser.add_argument("model", metavar="DIR", help="the model, as `kamon train -o` wrote it")
    parser.add_argument(
        "input", nargs="?", default="-", metavar="FILE", help="text; by default standard input"
    )
    parser.add_argument("--top", type=whole_number, metavar="N", help="only the N oddest, in order")
    parser.add_argument(
        "--threshold", type=number, metavar="BITS", help="only those of so many bits a character"
    )
    parser.add_argument(
        "--unknown",
        choices=("error", "skip"),
        default="error",
        help="what to do with lines that have characters the model does not know (error)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    add_engine(parser)


def run(args: argparse.Namespace) -> None:
    if args.top is not None and args.top < 1:
        raise ConfigError(f"top must be 1 or more, not {args.top}")
    engine = chosen_engine(args)

    from kamon.api import load
    from kamon.score import Scale, Score, score

    model = load(args.model, **engine)
    scale = Scale.of(model)
    seen = cut = scored = 0

    def counted(lines: Iterable[str]) -> Iterator[str]:
        nonlocal seen
        for line in lines:
            seen += 1
            yield line

    def odd_enough(scores: Iterable[Score]) -> Iterator[Score]:
        nonlocal scored, cut
        for each in scores:
            scored += 1
            cut += each.cut
            if args.threshold is None or each.bits_per_char >= args.threshold:
                yield each

    skip = args.unknown == "skip"
    found = odd_enough(score(model, counted(read_lines(args.input)), skip_unknown=skip))
    if args.top is not None:
        found = iter(heapq.nlargest(args.top, found, key=lambda each: each.bits_per_char))
    for each in found:
        percentile = scale.percentile(each.bits_per_char)
        if args.json:
            print_json(
                {
                    "text": each.text,
                    "logprob": each.logprob,
                    "bits_per_char": each.bits_per_char,
                    "percentile": percentile,
                    "surprise": each.surprise,
                    "surprising": each.surprising or None,
                    "cut": each.cut,
                }
            )
        else:
            print(
                f"{each.bits_per_char:.3f}\t{each.logprob:.3f}\t{percentile:.1f}\t"
                f"{one_line(each.surprising) or 'end'}\t{one_line(each.text)}"
            )
    if seen > scored:
        say(f"{count(seen - scored, 'line')} with characters unknown to the model left out")
    if cut:
        say(
            f"{count(cut, 'line')} longer than the model can see: scored by "
            f"{'its' if cut == 1 else 'their'} first {model.config.block_size} characters"
        )


def read_lines(path: str) -> Iterator[str]:
    """The lines that are not blank. CorpusError where one is not UTF-8, or nothing can be read."""
    name = "standard input" if path == "-" else path
    try:
        file = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        with file:
            for number, line in enumerate(file, 1):
                try:
                    text = line.decode("utf-8").strip()
                except UnicodeDecodeError as error:
                    raise CorpusError(
                        f"{name}, line {number} is not UTF-8: byte {error.start + 1} of it is "
                        f"0x{line[error.start]:02x}"
                    ) from None
                if text:
                    yield text
    except OSError as error:
        raise CorpusError(f"cannot read {name}: {error.strerror}") from None
