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

from dataclasses import asdict
from typing import TYPE_CHECKING

from kamon.cli.output import (
    columns,
    count,
    one_line,
    padded,
    print_json,
    print_losses,
    say,
    say_corpus,
)
from kamon.cli.parser import Args, Parser, options
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


OPTIONS = {
    "DIR": "the directory that `kamon train -o` wrote",
    "[FILE]": "documents to test on, in any form that `kamon train` reads; by default those that "
    "were held out in training",
    "-n N": "how many samples (1000)",
    "--temperature T": "of the samples: 0 takes the likeliest, 1 the model's odds (1)",
    "--seed S": "by default as in training",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, n=1000, temperature=1.0)
    add_reading(parser)
    add_engine(parser)
    add_json(parser)


def run(args: Args) -> None:
    seed = {} if args.seed is None else {"seed": args.seed}
    make_config({"temperature": args.temperature, **seed})
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
        mode, composed = model.config.mode, model.tokenizer.composed
        source = corpus.read(args.file, **reading(args), mode=mode, composed=composed)
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

        chars = "character" if len(found.unknown_chars) == 1 else "characters"
        chars += f" {first_or_all(found.unknown_chars)}"
        say(f"{count(found.num_unknown, 'document')} left out: the model does not know {chars}")
    if found.num_cut:
        say(
            f"{count(found.num_cut, 'document')} too long for block_size {block_size}, as in "
            f"training: what is behind {count(block_size, unit)} is not tested"
        )


def print_guessed(found: HeldOutMetrics, *, whole: bool = True) -> None:
    """whole: these are documents; otherwise what was held out of a text."""
    tested = count(found.num_docs, "document") if whole else "the part of the text"
    tokens, chars = count(found.num_tokens, "token"), count(found.num_chars, "character")
    print(f"{tested} that the model did not learn from: {tokens}, {chars}")
    baselines = [("uniform", found.uniform), ("unigram", found.unigram)]
    best = (f"best n-gram, n={found.best_order}", found.ngram)
    print_losses("", 17, [*baselines, best, ("model", found.model)])
    word = "better" if found.gain >= 0 else "worse"
    print(f"the model is {abs(found.gain):.4f} nats a token {word} than the best n-gram")


def print_sampled(found: SampleMetrics) -> None:
    samples = count(found.num_samples, "sample")
    print(f"{samples} at temperature {found.temperature:g}, seed {found.seed}")
    for name, share in (
        ("finished", found.finished),
        ("unique", found.unique),
        ("novel", found.novel),
        ("in the list (learned)", found.in_learned),
        ("in the list (held out)", found.in_held_out),
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
