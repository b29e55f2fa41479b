"""Measure n-gram models of a list.

The table has the losses of each order on the validation set: nats per token (the end of an entry
is a token), bits per character, and perplexity. The best order then makes samples, without empty
ones. Without a validation set, the n-gram of --order makes the samples.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from kamon.cli.output import (
    count,
    labelled,
    marked_json,
    print_json,
    print_losses,
    print_marked,
    say,
    say_corpus,
    say_unfinished,
    warn,
)
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_input, add_json, add_reading, reading
from kamon.config import Config, make_config
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.data.documents import Documents
    from kamon.evaluation.evaluate import LossMetrics
    from kamon.ngrams.native import NativeNgram
    from kamon.ngrams.reference import Ngram
    from kamon.tokenizers.char import CharTokenizer

OPTIONS = {
    "--order N": "largest order: predict a token from the N - 1 before it [default: 6]",
    "-n N": "number of samples [default: 20]",
    "--temperature T": "sampling temperature: 0 is greedy, 1 samples from the n-gram's own "
    f"distribution [default: {Config.temperature}]",
    "--seed S": f"seed of the samples [default: {Config.seed}]",
}
EXAMPLES = """\
kamon ngram names              # losses of orders 1 to 6, and samples of the best
kamon ngram brands.txt -n 0    # only the losses of your list
"""


def add_arguments(parser: Parser) -> None:
    add_input(parser)
    options(parser, OPTIONS, order=6, n=20, temperature=Config.temperature, seed=Config.seed)
    add_reading(parser)
    add_json(parser)


def run(args: Args) -> None:
    from kamon.ngrams.reference import checked_order

    checked_order(args.order)
    chosen = make_config({"temperature": args.temperature, "seed": args.seed})
    if args.n < 0:
        raise ConfigError(f"the number of samples must be 0 or more, not {args.n}")

    from kamon.data import corpus
    from kamon.data.split import MIN_DOCS, divide
    from kamon.evaluation.ngram import MAX_SAMPLE, sample_not_empty
    from kamon.generation.sampling import SampleRequest, check_room
    from kamon.tokenizers.char import CharTokenizer
    from kamon.training.data import check_learnable

    check_room(args.n)
    source = corpus.read(args.input, **reading(args))
    say_corpus(source, args.input)
    check_learnable(source)
    tokenizer = CharTokenizer.train(source.docs)
    train, held = divide(source.docs)
    if held:
        say(labelled("Training", count(len(train), "entry")))
        say(labelled("Validation", count(len(held), "entry")))
    else:
        warn(
            f"no validation set, because the list has fewer than {MIN_DOCS} unique entries",
            "use a longer list to measure the losses",
        )
    ngram, losses = fit(tokenizer, train, held, args.order)
    if held and not args.json:
        rows = [(str(order or "uniform"), row) for order, row in enumerate(losses)]
        print_losses("order", 8, rows)
    request = SampleRequest(args.n, chosen.temperature, chosen.seed, tokenizer.bos)
    texts, sizes, num_empty = sample_not_empty(ngram, tokenizer, request)
    known = source.docs.intersection(texts)
    if args.json:
        print_json(
            {
                "corpus": source.summary(),
                "num_train": len(train),
                "num_validation": len(held),
                "vocab_size": tokenizer.vocab_size,
                "orders": [{"order": order, **asdict(row)} for order, row in enumerate(losses)],
                "best_order": ngram.order if held else None,
                "temperature": chosen.temperature,
                "seed": chosen.seed,
                "samples": marked_json(texts, known),
            }
        )
    elif texts:
        if held:
            print(flush=True)
        say(f"{'Best order' if held else 'Order'} {ngram.order}, samples:")
        print_marked(texts, known)
    say_unfinished(sizes, min(ngram.config.block_size, MAX_SAMPLE))
    if num_empty:
        say(f"Left out {count(num_empty, 'empty sample')}")


def fit(
    tokenizer: CharTokenizer, train: Documents, held: Documents, max_order: int
) -> tuple[NativeNgram | Ngram, list[LossMetrics]]:
    """Return the best n-gram, and the losses of each order on the validation set.

    Order 0 is uniform. Without a validation set, the n-gram is that of `max_order`.
    """
    from kamon.evaluation.evaluate import loss_metrics
    from kamon.ngrams.native import best_ngram, count_ngram

    learned = tokenizer.encode_documents(train)
    if not held:
        return count_ngram(learned, tokenizer.vocab_size, max_order), []
    unseen = tokenizer.encode_documents(held)
    ngram, nats = best_ngram(learned, unseen, tokenizer.vocab_size, max_order)
    num_chars = unseen.num_targets - len(unseen)
    uniform = unseen.num_targets * math.log(tokenizer.vocab_size)
    return ngram, [loss_metrics(total, unseen.num_targets, num_chars) for total in [uniform, *nats]]
