"""Measure how good a model is, compared with n-grams.

The first table has the losses on the validation set, or on the entries of FILE that are not in the
training set. It compares the model with a uniform model, a unigram, the best n-gram of the same
training set, and the model's own parts with their weights.

The second table is about samples: the shares that are finished within block_size, unique, novel,
and in the list. It has the distance of their lengths to the list's (earth mover's) and of their
bigrams (Jensen-Shannon). "Chance" is the distance of as many entries of the list itself.
"""

from __future__ import annotations

import shlex
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
    say_hint,
    warn,
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
    "DIR": "directory of the model",
    "[FILE]": "list to measure on, in any format of `kamon train` [default: the validation set]",
    "-n N": "number of samples [default: 1000]",
    "--temperature T": "sampling temperature: 0 is greedy, 1 samples from the model's own "
    "distribution [default: 1]",
    "--seed S": "seed of the samples [default: the model's]",
}
EXAMPLES = """\
kamon eval names             # losses on the validation set, and samples
kamon eval names other.txt   # losses on another list
kamon eval names -n 0        # only the losses
"""


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
    what = "validation set" if source is None else "test set"
    print_guessed(metrics.documents, what, whole=source is not None or not model.writes_text)
    if model.training.tuning:
        base = shlex.quote(model.training.tuning.base.path or "BASE")
        say_hint(f"compare it with its base: kamon compare {base} {shlex.quote(args.dir)}")
    elif metrics.documents.gain < 0:
        say_hint("train longer, such as with --budget 30s, to do better than the n-gram")
    if metrics.samples:
        print()
        print_sampled(metrics.samples)


def say_left_out(metrics: HeldOutMetrics, block_size: int, unit: str) -> None:
    """Say which entries were not measured, or not to their end."""
    if metrics.num_learned:
        say(f"Left out {count(metrics.num_learned, 'entry')} of the training set")
    if metrics.num_unknown:
        from kamon.evaluation.evaluate import first_or_all

        chars = "character" if len(metrics.unknown_chars) == 1 else "characters"
        chars += f" {first_or_all(metrics.unknown_chars)}"
        warn(f"left out {count(metrics.num_unknown, 'entry')}: the model does not know {chars}")
    if metrics.num_cut:
        cut, size = count(metrics.num_cut, "entry"), count(block_size, unit)
        warn(f"{cut} longer than {size}: their ends are not measured, as in training")


def print_guessed(
    metrics: HeldOutMetrics, what: str = "validation set", *, whole: bool = True
) -> None:
    """Print a table of losses, and compare the model with the best n-gram.

    what: the name of what was measured.
    whole: whether this has entries, not a part of a text.
    """
    sizes = [count(metrics.num_docs, "entry")] if whole else []
    sizes += [count(metrics.num_tokens, "token"), count(metrics.num_chars, "character")]
    print(f"{what}: {', '.join(sizes)}\n")
    yardstick = f"best {metrics.best_order}-gram"
    rows = [("uniform", metrics.uniform), ("unigram", metrics.unigram)]
    rows.append((yardstick, metrics.best_ngram))
    if metrics.gpt and metrics.ngram and metrics.weight is not None:
        rows.append((f"GPT, weight {metrics.weight:.2f}", metrics.gpt))
        weight = 1 - metrics.weight
        rows.append((f"{metrics.ngram_order}-gram, weight {weight:.2f}", metrics.ngram))
    print_losses("", 20, [*rows, ("model", metrics.model)])
    loss, other = metrics.model.nats_per_token, metrics.best_ngram.nats_per_token
    word = "better" if metrics.gain >= 0 else "worse"
    gain = f"{abs(metrics.gain):.3f} {word} than the {yardstick} ({other:.3f})"
    print(f"\n{what.removesuffix(' set')} loss {loss:.3f} nats per token, {gain}")


def print_sampled(metrics: SampleMetrics) -> None:
    samples = count(metrics.num_samples, "sample")
    print(f"{samples} at temperature {metrics.temperature:g}, seed {metrics.seed}\n")
    for name, share in (
        ("finished", metrics.finished),
        ("unique", metrics.unique),
        ("novel", metrics.novel),
        ("in the training set", metrics.in_train),
        ("in the validation set", metrics.in_validation),
    ):
        print(f"{name:22} {share:7.1%}")
    listed, chance = metrics.mean_length_list, metrics.chance_length_distance
    print(f"{'mean length':22} {metrics.mean_length:7.2f} characters (list {listed:.2f})")
    distance = f"{metrics.length_distance:7.3f} characters (chance {chance:.3f})"
    print(f"{'distance of lengths':22} {distance}")
    chance = metrics.chance_bigram_divergence
    distance = f"{metrics.bigram_divergence:7.3f} bits (chance {chance:.3f})"
    print(f"{'distance of bigrams':22} {distance}")
    if metrics.similar:
        texts = [one_line(similar.text) for similar in metrics.similar]
        width = max(map(columns, [*texts, "novel"]))
        print(f"\n{'novel':{width}}  similarity  closest entry of the training set")
        for text, similar in zip(texts, metrics.similar, strict=True):
            nearest = "(none)" if similar.document is None else one_line(similar.document)
            print(f"{padded(text, width)}  {similar.ratio:10.2f}  {nearest}")
