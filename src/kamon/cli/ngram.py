"""Count n-grams of a list: how well they guess held-out documents, which a model must beat.

A tenth of the different documents is held out, chosen by their content. The table has, for each
order, nats a token (each document's end is a token), bits a character and perplexity of that tenth.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from kamon.cli.output import count, print_json, print_marked, say, say_corpus, say_unfinished
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_input, add_input_format, add_json
from kamon.config import Config, make_config
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.batch import Batch
    from kamon.evaluate import Figures
    from kamon.ngram import Ngram


def add_arguments(parser: Parser) -> None:
    add_input(parser)
    parser.add_argument(
        "--order",
        type=whole_number,
        default=6,
        metavar="N",
        help="the longest n-grams: a token and the N - 1 before it (6)",
    )
    parser.add_argument(
        "-n", type=whole_number, default=20, metavar="N", help="how many samples (20)"
    )
    parser.add_argument(
        "--temperature",
        type=number,
        default=Config.temperature,
        metavar="T",
        help=f"0 takes the likeliest, 1 the n-gram's odds ({Config.temperature})",
    )
    parser.add_argument(
        "--seed",
        type=whole_number,
        default=Config.seed,
        metavar="S",
        help=f"decides the samples ({Config.seed})",
    )
    add_input_format(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from kamon.ngram import check_order, train_ngram

    check_order(args.order)
    chosen = make_config({"temperature": args.temperature, "seed": args.seed})
    if args.n < 0:
        raise ConfigError(f"the number of samples must be 0 or more, not {args.n}")

    from kamon import corpus
    from kamon.api import check_learnable, divide
    from kamon.batch import pack
    from kamon.sampler import SampleRequest, sample
    from kamon.tokenizer import CharTokenizer

    source = corpus.read(args.input, column=args.column, format=args.format)
    say_corpus(source, args.input)
    check_learnable(source)
    tokenizer = CharTokenizer.train(source.docs)
    train, held = divide(source.docs)
    if held:
        say(f"{count(len(train), 'document')} to learn from, {len(held):,} held out")
    else:
        say("too few documents to hold some out: all are learned, and nothing is measured")
    learned = pack(map(tokenizer.encode_document, train))
    table: list[tuple[int, Figures]] = []
    if held:
        unseen = pack(map(tokenizer.encode_document, held))
        ngram = compare(learned, unseen, tokenizer.vocab_size, args.order, table, quiet=args.json)
    else:
        ngram = train_ngram(learned, tokenizer.vocab_size, args.order)
    request = SampleRequest(args.n, chosen.temperature, chosen.seed, tokenizer.bos)
    texts = tokenizer.decode_documents(sample(ngram, request))
    marked = [(text, text in source.different) for text in texts]
    if args.json:
        print_json(
            {
                "corpus": source.summary(),
                "num_train": len(train),
                "num_held_out": len(held),
                "vocab_size": tokenizer.vocab_size,
                "orders": [{"order": order, **asdict(found)} for order, found in table],
                "best_order": ngram.order if held else None,
                "temperature": chosen.temperature,
                "seed": chosen.seed,
                "samples": [{"text": text, "in_list": known} for text, known in marked],
            }
        )
    elif marked:
        if table:
            print(flush=True)
        say(f"samples of order {ngram.order}{', the best' if held else ''}:")
        print_marked(marked)
    say_unfinished(texts, ngram.config.block_size)


def compare(
    learned: Batch,
    unseen: Batch,
    vocab_size: int,
    max_order: int,
    table: list[tuple[int, Figures]],
    *,
    quiet: bool,
) -> Ngram:
    """Add each order's figures to `table`, print them unless quiet; return the best n-gram.

    Order 0 is the uniform distribution.
    """
    from kamon.evaluate import figures
    from kamon.ngram import train_ngram

    def add(order: int, nats: float) -> None:
        found = figures(nats, unseen.num_targets, unseen.num_targets - len(unseen))
        table.append((order, found))
        if not quiet:
            name = str(order) if order else "uniform"
            print(
                f"{name:8} {found.nats_per_token:12.4f} {found.bits_per_char:17.4f} "
                f"{math.exp(found.nats_per_token):11.3f}",
                flush=True,
            )

    if not quiet:
        print(f"{'order':8} {'nats a token':>12} {'bits a character':>17} {'perplexity':>11}")
    add(0, unseen.num_targets * math.log(vocab_size))
    best, least = None, math.inf
    for order in range(1, max_order + 1):
        ngram = train_ngram(learned, vocab_size, order)
        nats = -math.fsum(ngram.logprobs(unseen))
        add(order, nats)
        if nats < least:
            best, least = ngram, nats
    assert best  # max_order is 1 or more, and no token's p is 0
    return best
