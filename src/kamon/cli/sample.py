"""Make new names with a saved model, one a line. The same seed makes the same names."""

from __future__ import annotations

import argparse

from kamon.cli.output import one_line, print_json, say_unfinished
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_engine, add_json, chosen_engine


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dir", metavar="DIR", help="the directory that `kamon train -o` wrote")
    parser.add_argument("-n", type=whole_number, default=20, metavar="N", help="how many (20)")
    parser.add_argument(
        "--temperature",
        type=number,
        metavar="T",
        help="0 takes the likeliest, 1 the model's odds; by default as in training",
    )
    parser.add_argument("--seed", type=whole_number, metavar="S", help="by default as in training")
    add_engine(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from kamon.api import load

    model = load(args.dir, **chosen_engine(args))
    samples = model.sample(args.n, temperature=args.temperature, seed=args.seed)
    if args.json:
        print_json({"directory": args.dir, "samples": [{"text": text} for text in samples]})
    else:
        for text in samples:
            print(one_line(text))
    say_unfinished(samples, model.config.block_size)
