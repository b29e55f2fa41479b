"""Measure a saved model: how well it guesses what it did not learn, and what it makes by itself.

Documents: those that were held out of the model's list, or those of FILE that it did not learn
from. Beside the model, on the same documents: all tokens equally likely, single characters as often
as they occur, and the best n-gram that learned what the model learned. Nats are a token, a
document's end being one; bits are all bits over the number of characters.

Samples: which share ended within block_size, is unique, novel, or in the list; the distance between
the lengths of samples and list (earth mover's) and between their bigrams (Jensen-Shannon). "By
chance" is the distance of as many documents drawn from the list itself.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from kamon.cli.output import columns, count, one_line, padded, print_json, say, say_corpus
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import (
    add_engine,
    add_json,
    add_reading,
    check_unread,
    chosen_engine,
    reading,
)
from kamon.config import make_config
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.evaluation.evaluate import HeldOutMetrics, SampleMetrics


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dir", metavar="DIR", help="the directory that `kamon train -o` wrote")
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="documents to test on, in any form that `kamon train` reads; by default those that "
        "were held out in training",
    )
    parser.add_argument(
        "-n", type=whole_number, default=1000, metavar="N", help="how many samples (1000)"
    )
    parser.add_argument(
        "--temperature",
        type=number,
        default=1.0,
        metavar="T",
        help="of the samples: 0 takes the likeliest, 1 the model's odds (1)",
    )
    parser.add_argument("--seed", type=whole_number, metavar="S", help="by default as in training")
    add_reading(parser)
    add_engine(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    given = {"temperature": args.temperature, "seed": args.seed}
    make_config({name: value for name, value in given.items() if value is not None})
    if args.n < 0:
        raise ConfigError(f"the number of samples must be 0 or more, not {args.n}")
    if args.file is None:
        check_unread(args, "a FILE, and there is none")

    from kamon.data import corpus
    from kamon.evaluation.evaluate import evaluate
    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    source = None
    if args.file is not None:
        source = corpus.read(
            args.file,
            **reading(args),
            mode=model.config.mode,
            composed=model.tokenizer.composed,
        )
        say_corpus(source, args.file)
    found = evaluate(model, source, n=args.n, temperature=args.temperature, seed=args.seed)
    say_left_out(found.documents, model.config.block_size, model.tokenizer.unit)
    if args.json:
        summary = source.summary() if source else None
        print_json({"directory": args.dir, "corpus": summary, **asdict(found)})
        return
    print_guessed(found.documents, whole=args.file is not None or not model.writes_text)
    if found.samples:
        print()
        print_sampled(found.samples)


def say_left_out(found: HeldOutMetrics, block_size: int, unit: str) -> None:
    """Which documents were not looked at, or not to their end: never silently."""
    if found.num_learned:
        say(f"{count(found.num_learned, 'document')} left out: the model learned from them")
    if found.num_unknown:
        from kamon.evaluation.evaluate import first_or_all

        say(
            f"{count(found.num_unknown, 'document')} left out: the model does not know "
            f"{'character' if len(found.unknown_chars) == 1 else 'characters'} "
            f"{first_or_all(found.unknown_chars)}"
        )
    if found.num_cut:
        say(
            f"{count(found.num_cut, 'document')} too long for block_size {block_size}, as in "
            f"training: what is behind {count(block_size, unit)} is not tested"
        )


def print_guessed(found: HeldOutMetrics, *, whole: bool = True) -> None:
    """whole: these are documents; otherwise what was held out of a text."""
    tested = count(found.num_docs, "document") if whole else "the part of the text"
    print(
        f"{tested} that the model did not learn from: "
        f"{count(found.num_tokens, 'token')}, {count(found.num_chars, 'character')}"
    )
    print(f"{'':17} {'nats a token':>12} {'bits a character':>17} {'perplexity':>11}")
    for name, row in (
        ("uniform", found.uniform),
        ("unigram", found.unigram),
        (f"best n-gram, n={found.best_order}", found.ngram),
        ("model", found.model),
    ):
        shown = "over 1e304" if row.perplexity is None else f"{row.perplexity:.3f}"
        print(f"{name:17} {row.nats_per_token:12.4f} {row.bits_per_char:17.4f} {shown:>11}")
    word = "better" if found.gain >= 0 else "worse"
    print(f"the model is {abs(found.gain):.4f} nats a token {word} than the best n-gram")


def print_sampled(found: SampleMetrics) -> None:
    print(
        f"{count(found.num_samples, 'sample')} at temperature {found.temperature:g}, "
        f"seed {found.seed}"
    )
    for name, share in (
        ("finished", found.finished),
        ("unique", found.unique),
        ("novel", found.novel),
        ("in the list (learned)", found.in_train),
        ("in the list (held out)", found.in_validation),
    ):
        print(f"{name:23} {share:7.1%}")
    print(
        f"{'mean length':23} {found.mean_length:7.2f} characters, {found.mean_length_list:.2f} in "
        f"the list"
    )
    print(
        f"{'distance of lengths':23} {found.length_distance:7.2f} characters (earth mover's); "
        f"by chance {found.chance_length_distance:.2f}"
    )
    print(
        f"{'distance of bigrams':23} {found.bigram_divergence:7.4f} bits (Jensen-Shannon); "
        f"by chance {found.chance_bigram_divergence:.4f}"
    )
    if found.similar:
        texts = [one_line(similar.text) for similar in found.similar]
        width = max(map(columns, [*texts, "novel"]))
        print(f"\n{'novel':{width}}  ratio  most similar of what it learned")
        for text, similar in zip(texts, found.similar, strict=True):
            nearest = "(nothing)" if similar.document is None else one_line(similar.document)
            print(f"{padded(text, width)}  {similar.ratio:5.2f}  {nearest}")
