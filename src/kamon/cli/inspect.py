"""Show the settings and the contents of a saved model or a packed corpus.

Kamon verifies the checksum of every file first.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from math import prod
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    VERBOSITY,
    count,
    json_keys,
    labelled,
    loss_curve,
    one_line,
    print_json,
    recent,
    say_hint,
    shape_of,
)
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json
from kamon.config import listed
from kamon.engines.parameters import num_params, parameter_shapes
from kamon.errors import ConfigError

MAX_POSITIONS = 16  # in a table: as wide as a terminal

if TYPE_CHECKING:
    from kamon.storage.checkpoint import Checkpoint
    from kamon.storage.records import TrainingRecord
    from kamon.tokenizers.base import Tokenizer

EXAMPLES = """\
kamon inspect names
kamon inspect names --positions
kamon inspect --engine
"""
OPTIONS = {
    "[DIR]": "directory of a model or of a packed corpus",
    "--engine": "show which engine Kamon uses on this machine, instead of a model",
    "--positions": "show the cosine similarity of the position embeddings",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS)
    add_json(parser)


def run(args: Args) -> None:
    if args.engine and args.positions:
        raise ConfigError("--engine and --positions exclude each other", "choose one")
    if args.engine:
        show_engine(args)
    elif args.dir is None:
        raise ConfigError("no model to inspect", "give the directory of a model, or --engine")
    elif args.positions:
        show_positions(args)
    else:
        from kamon.packing.shards import is_packed

        show_shards(args) if is_packed(args.dir) else show_model(args)


def show_engine(args: Args) -> None:
    from kamon.native import library

    why_not = library.why_not()
    engine = {
        "engine": "scalar" if why_not else "native",
        "instructions": None if why_not else library.best_level(),
        "built": [level for level in library.LEVELS if os.path.exists(library.library_path(level))],
        "threads": library.usable_cores(),
    }
    if args.json:
        print_json(engine)
    elif why_not:
        print(f"scalar: {why_not}")
    else:
        levels, threads = ", ".join(library.LEVELS), count(library.usable_cores(), "thread")
        print(f"native: {engine['instructions']} instructions (of {levels}), {threads}")


def show_shards(args: Args) -> None:
    from kamon.cli.pack import show, summary
    from kamon.packing.shards import open_shards

    shards = open_shards(args.dir, "always")
    content = shards.manifest.content
    if args.json:
        print_json(summary(args.dir, content) | {"inputs": content["inputs"]})
        return
    print(f"{args.dir}: all checksums verified\n")
    show(args.dir, content)
    print(f"\n{'input':48} {'bytes':>16} {'shards':>7}")
    for entry in content["inputs"]:
        print(f"{one_line(entry['path']):48} {entry['size']:16,} {len(entry['shards']):7,}")


def show_model(args: Args) -> None:
    from kamon.storage.model_dir import load

    stored = load(args.dir)
    shapes = parameter_shapes(stored.config)
    losses = [line["loss"] for line in stored.metrics]
    if args.json:
        tokens: dict[str, Any] = json.loads(stored.tokenizer.to_json())
        print_json(
            {
                "directory": args.dir,
                "config": asdict(stored.config),
                "tokenizer": tokens.pop("type"),
                **tokens,
                "num_params": num_params(stored.config),
                "parameters": {name: list(shape) for name, shape in shapes.items()},
                "losses": losses,
                "training": json_keys(stored.training),
            }
        )
        return
    show_summary(args.dir, stored)
    if VERBOSITY.verbose:
        show_settings(stored)
    else:
        say_hint("`--verbose` also shows the settings and the parameters")


def show_summary(path: str, stored: Checkpoint) -> None:
    """Print a few lines on the model, its data and its losses."""
    training, losses = stored.training, [line["loss"] for line in stored.metrics]
    size = f"{num_params(stored.config):,} parameters, {shape_of(stored.config)}"
    print_line("Model", f"{size}, {count(stored.config.vocab_size, 'token')}")
    entries = count(training.corpus.num_docs, "entry")
    print_line("Data", f"{training.corpus.source}: {entries}")
    base, tuning, blend = training.get("init_from"), training.tuning, training.blend
    if base:
        print_line("Start", "the pretrained base" if base == "base" else str(base))
    if tuning:
        print_line("Base", f"{tuning.base.path or 'a model'} (SHA-256 {tuning.base.sha256})")
        examples = f"{tuning.data.source}: {tuning.data.num_examples:,} examples"
        print_line("Fine-tuning", f"{tuning.kind} on {examples}")
    steps = f"{training.num_steps_done:,} steps in {training.seconds:.1f} s"
    print_line("Training", f"{steps}, {training.engine} engine, {training.dtype}")
    if not training.finished:
        of = f"after step {len(losses):,} of {stored.config.num_steps:,}"
        print_line(
            "Stopped", f"{of}: resume with `kamon {training.kind or 'train'} --resume {path}`"
        )
    if blend:
        print_line("Blend", f"{blend.weight:.3f} GPT + {1 - blend.weight:.3f} {blend.order}-gram")
    if len(losses) > 1:
        print_line("Loss curve", loss_curve(losses, sys.stdout))
    if losses:
        print_line("Training loss", f"{recent(losses):.3f} nats per token")
    if validation := validation_loss(training):
        print_line("Validation loss", validation)
    print_line("Files", "all checksums verified")


def print_line(label: str, text: str) -> None:
    print(labelled(label, text, sys.stdout))


def validation_loss(training: TrainingRecord) -> str | None:
    """Return the loss on entries that were not learned, and the losses of the parts of a blend."""
    blend, crossed = training.blend, training.cross_validation
    losses = training.held_out or crossed
    if losses is None:
        return None
    text = f"{losses.loss:.3f} nats per token"
    if blend and losses.gpt_loss is not None and losses.ngram_loss is not None:
        parts = f"GPT {losses.gpt_loss:.3f}, {blend.order}-gram {losses.ngram_loss:.3f}"
        text += f" ({parts})"
    return f"{text}, {crossed.num_folds}-fold" if crossed else text


def show_settings(stored: Checkpoint) -> None:
    """Print the settings, the tokens, and a table of the parameters."""
    print()
    for name, value in asdict(stored.config).items():
        print(f"{name:28} {value}")
    if tuning := stored.training.tuning:
        print(f"\n{tuning.kind}")
        for name, value in tuning.settings.items():
            print(f"{name:28} {value}")
    print(f"\n{tokens_line(stored.tokenizer)}")
    print(f"\n{'parameter':16} {'shape (out, in)':>16} {'numbers':>9} {'mean':>9} {'std':>9}")
    start = 0
    for name, shape in parameter_shapes(stored.config).items():
        numbers = stored.params[start : start + prod(shape)]
        start += prod(shape)
        mean = sum(numbers) / len(numbers)
        deviation = (sum((x - mean) * (x - mean) for x in numbers) / len(numbers)) ** 0.5
        print(f"{name:16} {shape!s:>16} {len(numbers):9,} {mean:9.3f} {deviation:9.3f}")
    print(f"{'total':16} {'':16} {start:9,}")


def show_positions(args: Args) -> None:
    from kamon.evaluation.introspection import cosines, matrices
    from kamon.storage.model_dir import load

    stored = load(args.dir)
    rows = cosines(matrices(stored.config, stored.params)["wpe"])
    if args.json:
        print_json({"directory": args.dir, "positions": rows})
        return
    apart = -(-len(rows) // MAX_POSITIONS)
    some = range(0, len(rows), apart)
    others = "each other" if apart == 1 else f"each other, every {apart} of {len(rows):,}"
    print(f"cosine similarity of the position embeddings with {others}, in %")
    print("      " + "".join(f"{i:5}" for i in some))
    for i in some:
        print(f"{i:6}" + "".join(f"{round(100 * rows[i][j]):5}" for j in some))


def tokens_line(tokenizer: Tokenizer) -> str:
    from kamon.tokenizers.bpe import BYTES, BytePairTokenizer
    from kamon.tokenizers.char import CharTokenizer

    if isinstance(tokenizer, CharTokenizer):
        added = f", then {listed(tokenizer.added)}" if tokenizer.added else ""
        return f"characters                   {''.join(tokenizer.chars)!r} and BOS{added}"
    assert isinstance(tokenizer, BytePairTokenizer)
    merges, specials = count(len(tokenizer.merges), "merge"), ", ".join(tokenizer.specials)
    tokens = f"tokens                       {BYTES} bytes, {merges} and {specials}"
    return f"{tokens}: `kamon tokenizer show DIR TEXT` shows them"
