"""Count n-grams of a list: how well they guess held-out documents, which a model must beat.

A tenth of the different documents is held out, chosen by their content, if there are 100 or more.
The table has, for each order, nats a token (each document's end is a token), bits a character and
perplexity of that tenth.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from kamon.cli.output import count, print_json, print_marked, say, say_corpus, say_unfinished
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_input, add_json, add_reading, reading
from kamon.config import Config, make_config
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.engines.batch import PackedBatch
    from kamon.evaluation.evaluate import LossMetrics


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
    add_reading(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from kamon.ngrams.reference import checked_order

    checked_order(args.order)
    chosen = make_config({"temperature": args.temperature, "seed": args.seed})
    if args.n < 0:
        raise ConfigError(f"the number of samples must be 0 or more, not {args.n}")

    from kamon.data import corpus
    from kamon.data.split import divide
    from kamon.evaluation.ngram import MAX_SAMPLE, sample_not_empty
    from kamon.generation.sampling import SampleRequest, check_room
    from kamon.ngrams.native import best_ngram, count_ngram
    from kamon.tokenizers.char import CharTokenizer
    from kamon.training.data import NONE_HELD_OUT, check_learnable

    check_room(args.n)
    source = corpus.read(args.input, **reading(args))
    say_corpus(source, args.input)
    check_learnable(source)
    tokenizer = CharTokenizer.train(source.docs)
    train, held = divide(source.docs)
    if held:
        say(f"{count(len(train), 'document')} to learn from, {len(held):,} held out")
    else:
        say(f"{NONE_HELD_OUT}: Kamon learns all of them and measures nothing")
    learned = tokenizer.encode_documents(train)
    table: list[tuple[int, LossMetrics]] = []
    if held:
        unseen = tokenizer.encode_documents(held)
        ngram, nats = best_ngram(learned, unseen, tokenizer.vocab_size, args.order)
        table = figures_of_orders(nats, unseen, tokenizer.vocab_size)
        if not args.json:
            print_table(table)
    else:
        ngram = count_ngram(learned, tokenizer.vocab_size, args.order)
    request = SampleRequest(args.n, chosen.temperature, chosen.seed, tokenizer.bos)
    texts, sizes, num_empty = sample_not_empty(ngram, tokenizer, request)
    known = source.docs.intersection(texts)
    marked = [(text, text in known) for text in texts]
    if args.json:
        print_json(
            {
                "corpus": source.summary(),
                "num_train": len(train),
                "num_validation": len(held),
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
    say_unfinished(sizes, min(ngram.config.block_size, MAX_SAMPLE))
    if num_empty:
        say(f"{count(num_empty, 'empty sample')} left out")


def figures_of_orders(
    nats: list[float], unseen: PackedBatch, vocab_size: int
) -> list[tuple[int, LossMetrics]]:
    """Each order with its figures. `nats` are of order 1 and up; order 0 is uniform."""
    from kamon.evaluation.evaluate import loss_metrics

    num_chars = unseen.num_targets - len(unseen)
    uniform = unseen.num_targets * math.log(vocab_size)
    return [
        (order, loss_metrics(each, unseen.num_targets, num_chars))
        for order, each in enumerate([uniform, *nats])
    ]


def print_table(table: list[tuple[int, LossMetrics]]) -> None:
    print(f"{'order':8} {'nats a token':>12} {'bits a character':>17} {'perplexity':>11}")
    for order, found in table:
        print(
            f"{order or 'uniform':<8} {found.nats_per_token:12.4f} {found.bits_per_char:17.4f} "
            f"{math.exp(found.nats_per_token):11.3f}"
        )
