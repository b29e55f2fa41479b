"""Run the original microGPT with Kamon's engine, and print the same numbers.

The output on stdout equals the original's, byte for byte. At the end Kamon compares all 1,000
losses and 20 names with the original's. With `--engine scalar` they are equal to the last bit. The
losses of the native engine differ by less than 1e-9, because it rounds differently. Other settings
use the original's random numbers, too.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from operator import eq
from typing import TYPE_CHECKING

from kamon.cli.output import print_json, say, say_cut, warn
from kamon.cli.parser import Args, Parser, option
from kamon.cli.settings import add_engine, add_json, add_settings, chosen_engine, settings

if TYPE_CHECKING:
    from kamon.training.setup import TrainingSetup

EXAMPLES = """\
kamon reproduce
kamon reproduce --input names
kamon reproduce --engine scalar --num-steps 100
"""
NUM_SAMPLES = 20

# The largest difference of a loss that comes only from rounding.
BOUNDS = {"float64": 1e-9, "float32": 1e-4}
ORIGINAL_NAMES = [
    *("kamon", "ann", "karai", "jaire", "vialan", "karia", "yeran", "anna", "areli", "kaina"),
    *("konna", "keylen", "liole", "alerin", "earan", "lenne", "kana", "lara", "alela", "anton"),
]
ORIGINAL_DOCS = 32_033


def add_arguments(parser: Parser) -> None:
    help = "text file with one entry per line [default: the original's list, downloaded once]"
    option(parser, "--input FILE", help, default="names-original")
    add_json(parser)
    add_settings(parser)
    add_engine(parser.add_argument_group("engine"), dtype="float64, as in the original")


def run(args: Args) -> None:
    chosen = settings(args)
    engine = chosen_engine(args)
    engine["name"] = engine.pop("engine")
    engine["dtype"] = engine["dtype"] or "float64"  # as the original computes

    from kamon.config import Config
    from kamon.data import corpus
    from kamon.data.builtin import BUILT_IN
    from kamon.engines.factory import EngineSpec
    from kamon.engines.parameters import num_params
    from kamon.tokenizers.char import CharTokenizer
    from kamon.training.data import as_given
    from kamon.training.loop import Progress, pretrain
    from kamon.training.setup import build_setup

    # Not normalised, as in the original.
    format = None if args.input in BUILT_IN else "text"
    source = corpus.read(args.input, format=format, composed=False)
    tokenizer = CharTokenizer(sorted(source.docs.chars()))
    config = Config(**chosen)
    data = as_given(source.docs, config.mode, tokenizer=tokenizer)
    run = build_setup(data, config, EngineSpec(**engine))
    say_cut(run)
    say(f"Engine: {engine['name']}, {run.engine.dtype}")
    show = not args.json
    if show:
        print(f"num docs: {len(source.docs)}")
        print(f"vocab size: {run.config.vocab_size}")
        print(f"num params: {num_params(run.config)}", flush=True)
    shown = 0

    def on_progress(progress: Progress) -> None:
        nonlocal shown
        for step, loss in enumerate(progress.losses[shown:], shown + 1):
            print(f"step {step:4d} / {progress.num_steps:4d} | loss {loss:.4f}", end="\r")
        shown = len(progress.losses)
        sys.stdout.flush()

    losses = pretrain(run.engine, run.docs, run.config, on_progress if show else None)
    samples = sample_and_show(run, show)
    if len(source.docs) == ORIGINAL_DOCS and config == Config():
        say_whether_same(samples, losses, run.engine.dtype)
    if args.json:
        about = {"engine": engine["name"], "dtype": run.engine.dtype}
        about |= {"num_docs": len(source.docs), "vocab_size": run.config.vocab_size}
        about["num_params"] = num_params(run.config)
        print_json({**about, "losses": list(losses), "samples": samples})


def sample_and_show(run: TrainingSetup, show: bool) -> list[str]:
    """Return samples that use Python's random numbers in the same way as the original."""
    from kamon.generation.sampling import SampleRequest, sample_document

    samples = []
    config, bos = run.config, run.tokenizer.bos
    request = SampleRequest(NUM_SAMPLES, config.temperature, config.seed, bos)
    if show:
        print("\n--- inference (new, hallucinated names) ---")
    for number in range(1, NUM_SAMPLES + 1):
        tokens = sample_document(run.engine, request, lambda _: run.rng.random())
        samples.append(run.tokenizer.decode(tokens))
        if show:
            print(f"sample {number:2d}: {samples[-1]}")
    return samples


def say_whether_same(samples: list[str], losses: Sequence[float], dtype: str) -> None:
    """Compare a run with the original's losses and names. Say the largest difference of a loss."""
    from kamon.data.builtin import original_losses

    differences = [abs(a - b) for a, b in zip(losses, original_losses(), strict=True)]
    largest = max(differences)
    if samples == ORIGINAL_NAMES and largest <= BOUNDS.get(dtype, 0):
        how = f"largest difference {largest:.1e}" if largest else "equal to the last bit"
        say(f"Same as the original: all {len(losses):,} losses ({how}) and all {NUM_SAMPLES} names")
    else:
        same = sum(map(eq, samples, ORIGINAL_NAMES))
        warn(
            f"not the same as the original: its losses differ by up to {largest:.1e}, and {same} "
            f"of its {NUM_SAMPLES} names are the same"
        )
