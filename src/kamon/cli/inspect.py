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

from kamon.cli.output import count, json_keys, loss_curve, one_line, print_json
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json
from kamon.config import listed
from kamon.errors import ConfigError

MAX_POSITIONS = 16  # in a table: as wide as a terminal

if TYPE_CHECKING:
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
    from kamon.engines.parameters import num_params, parameter_shapes
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
    print(f"{args.dir}: all checksums verified\n")
    for name, value in asdict(stored.config).items():
        print(f"{name:28} {value}")
    print(f"\n{tokens_line(stored.tokenizer)}")
    print(f"\n{'parameter':16} {'shape (out, in)':>16} {'numbers':>9} {'mean':>9} {'std':>9}")
    start = 0
    for name, shape in shapes.items():
        numbers = stored.params[start : start + prod(shape)]
        start += prod(shape)
        mean = sum(numbers) / len(numbers)
        deviation = (sum((x - mean) * (x - mean) for x in numbers) / len(numbers)) ** 0.5
        print(f"{name:16} {shape!s:>16} {len(numbers):9,} {mean:9.3f} {deviation:9.3f}")
    print(f"{'total':16} {'':16} {start:9,}")
    training, tuning = stored.training, stored.training.tuning
    steps = f"{training.num_steps_done:,} steps by the {training.engine} engine"
    steps += f" in {training.seconds:.1f} s"
    entries = count(training.corpus.num_docs, "entry")
    trained = f"trained on {training.corpus.source}: {entries}"
    print()
    if tuning:
        examples = f"{tuning.data.source}: {tuning.data.num_examples:,} examples"
        print(f"{trained}\nfine-tuned with {tuning.kind} on {examples}, {steps}")
        print(f"base: {tuning.base.path or 'a model'} (SHA-256 {tuning.base.sha256})")
        for name, value in tuning.settings.items():
            print(f"{name:28} {value}")
    else:
        print(f"{trained}, {steps}")
    for line in about_parts(training):
        print(line)
    if not training.finished:
        done, wanted = len(losses), stored.config.num_steps
        verb = training.kind or "train"
        print(f"stopped after step {done:,} of {wanted:,}: resume with", end=" ")
        print(f"`kamon {verb} --resume {args.dir}`")
    print(f"training loss {loss_curve(losses, sys.stdout)} nats per token")


def about_parts(training: TrainingRecord) -> list[str]:
    """Return the lines on the base, the blend, and the losses on entries that were not learned."""
    lines = []
    base, blend = training.get("init_from"), training.blend
    if base:
        lines.append(f"started from {'the pretrained base' if base == 'base' else base}")
    if blend:
        weights = f"{blend.weight:.3f} GPT + {1 - blend.weight:.3f} {blend.order}-gram"
        lines.append(f"blend: {weights}")
    losses, name = training.held_out or training.cross_validation, "validation loss"
    if training.cross_validation:
        name = f"{training.cross_validation.num_folds}-fold cross-validation loss"
    if losses:
        lines.append(f"{name} {losses.loss:.3f} nats per token")
        if blend and losses.gpt_loss is not None and losses.ngram_loss is not None:
            parts = f"GPT {losses.gpt_loss:.3f}, {blend.order}-gram {losses.ngram_loss:.3f}"
            lines[-1] += f" ({parts})"
    return lines


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
