"""Measure a saved model: how well it guesses what it did not learn, and what it makes by itself.

Documents: those that were held out of the model's list, or those of FILE that it did not learn
from. Beside the model, on the same documents: all tokens equally likely, single characters as often
as they occur, the best n-gram that learned what the model learned, and the parts of the model: its
GPT and its n-gram, with their weights. Nats are a token, a document's end being one; bits are all
bits over the number of characters.

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
    metrics = evaluate(model, source, n=args.n, temperature=args.temperature, seed=args.seed)
    say_left_out(metrics.documents, model.config.block_size, model.tokenizer.unit)
    if args.json:
        summary = source.summary() if source else None
        print_json({"directory": args.dir, "corpus": summary, **asdict(metrics)})
        return
    print_guessed(metrics.documents, whole=args.file is not None or not model.writes_text)
    if metrics.samples:
        print()
        print_sampled(metrics.samples)


def say_left_out(metrics: HeldOutMetrics, block_size: int, unit: str) -> None:
    """Say which documents were not measured, or not to their end."""
    if metrics.num_learned:
        say(f"{count(metrics.num_learned, 'document')} left out: the model learned from them")
    if metrics.num_unknown:
        from kamon.evaluation.evaluate import first_or_all

        chars = "character" if len(metrics.unknown_chars) == 1 else "characters"
        chars += f" {first_or_all(metrics.unknown_chars)}"
        say(f"{count(metrics.num_unknown, 'document')} left out: the model does not know {chars}")
    if metrics.num_cut:
        cut, size = count(metrics.num_cut, "document"), count(block_size, unit)
        why = f"too long for block_size {block_size}, as in training"
        say(f"{cut} {why}: what is behind {size} is not tested")


def print_guessed(metrics: HeldOutMetrics, *, whole: bool = True) -> None:
    """Print a table of losses; whole: of documents, otherwise of a part of a text."""
    tested = count(metrics.num_docs, "document") if whole else "the part of the text"
    tokens, chars = count(metrics.num_tokens, "token"), count(metrics.num_chars, "character")
    print(f"{tested} that the model did not learn from: {tokens}, {chars}")
    baselines = [("uniform", metrics.uniform), ("unigram", metrics.unigram)]
    best = (f"best n-gram, n={metrics.best_order}", metrics.best_ngram)
    parts = []
    if metrics.gpt and metrics.ngram and metrics.weight is not None:
        parts.append((f"GPT, weight {metrics.weight:.2f}", metrics.gpt))
        parts.append(
            (f"{metrics.ngram_order}-gram, weight {1 - metrics.weight:.2f}", metrics.ngram)
        )
    print_losses("", 20, [*baselines, best, *parts, ("model", metrics.model)])
    word = "better" if metrics.gain >= 0 else "worse"
    print(f"the model is {abs(metrics.gain):.4f} nats a token {word} than the best n-gram")


def print_sampled(metrics: SampleMetrics) -> None:
    samples = count(metrics.num_samples, "sample")
    print(f"{samples} at temperature {metrics.temperature:g}, seed {metrics.seed}")
    for name, share in (
        ("finished", metrics.finished),
        ("unique", metrics.unique),
        ("novel", metrics.novel),
        ("in the list (learned)", metrics.in_train),
        ("in the list (held out)", metrics.in_validation),
    ):
        print(f"{name:23} {share:7.1%}")
    listed, chance = metrics.mean_length_list, metrics.chance_length_distance
    lengths = f"{metrics.length_distance:7.2f} characters (earth mover's); by chance {chance:.2f}"
    chance = metrics.chance_bigram_divergence
    bigrams = f"{metrics.bigram_divergence:7.4f} bits (Jensen-Shannon); by chance {chance:.4f}"
    print(f"{'mean length':23} {metrics.mean_length:7.2f} characters, {listed:.2f} in the list")
    print(f"{'distance of lengths':23} {lengths}")
    print(f"{'distance of bigrams':23} {bigrams}")
    if metrics.similar:
        texts = [one_line(similar.text) for similar in metrics.similar]
        width = max(map(columns, [*texts, "novel"]))
        print(f"\n{'novel':{width}}  ratio  most similar of what it learned")
        for text, similar in zip(texts, metrics.similar, strict=True):
            nearest = "(nothing)" if similar.document is None else one_line(similar.document)
            print(f"{padded(text, width)}  {similar.ratio:5.2f}  {nearest}")
