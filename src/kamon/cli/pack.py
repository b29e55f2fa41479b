"""Make a corpus that does not fit into memory into token shards: mapped files, each with its hash.

Files are read in bounded memory, and several at a time; run the same command again after a kill or
Ctrl-C and it goes on. A tenth of 100 or more different documents is held out, as of a list, chosen
by their content. Repetitions stay: dropping them would need all of the corpus in memory.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from kamon.cli.output import count, json_keys, open_bar, print_json, progress_bar, say
from kamon.cli.parser import Parser, whole_number
from kamon.cli.settings import add_json, add_reading, reading

if TYPE_CHECKING:
    from kamon.packing.pack import Packed, PackProgress


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="text, .csv, .tsv, .jsonl or .json, each also as .gz, .bz2, .xz or .zst; of a folder "
        "all files but hidden ones, sorted by name",
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="SHARDS", help="the directory to write"
    )
    parser.add_argument(
        "--mode",
        choices=("documents", "text"),
        default="documents",
        help="what a document is. documents: each line, record or cell, without white space at its "
        "ends; text: each whole text file as it stands, each record or cell (documents)",
    )
    parser.add_argument(
        "--tokenizer",
        default="char",
        metavar="NAME",
        help="char: one token a character; bpe: pairs that occur often, learned from 16 million "
        "characters all over the inputs; or a tokenizer.json, or the directory of a model (char)",
    )
    parser.add_argument(
        "--vocab-size", type=whole_number, metavar="N", help="tokens of bpe (1,024)"
    )
    add_reading(parser, "all inputs")
    parser.add_argument(
        "--no-holdout",
        action="store_true",
        help="hold nothing out; by default Kamon holds out a tenth of 100 or more different "
        "documents, and of fewer none, or with --mode text the last tenth of each",
    )
    parser.add_argument(
        "--shard-tokens",
        type=whole_number,
        default=100_000_000,
        metavar="N",
        help="a shard ends with the document that brings it to so many tokens (100,000,000)",
    )
    parser.add_argument(
        "--jobs", type=whole_number, metavar="N", help="processes; by default one for each core"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew if SHARDS was packed otherwise"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> None:
    from kamon.native.library import usable_cores
    from kamon.packing.pack import pack
    from kamon.packing.plan import PackOptions

    options = PackOptions(
        mode=args.mode,
        tokenizer=args.tokenizer,
        vocab_size=args.vocab_size,
        **reading(args),
        hold_out=not args.no_holdout,
        shard_tokens=args.shard_tokens,
    )
    with progress_bar(show_packing) as on_progress:
        packed = pack(
            args.inputs,
            args.output,
            options,
            jobs=usable_cores() if args.jobs is None else args.jobs,
            overwrite=args.overwrite,
            on_progress=on_progress,
        )
    say_packed(packed)
    if args.json:
        print_json(summary(args.output, packed.manifest.content))
    else:
        show(args.output, packed.manifest.content)


def say_packed(packed: Packed) -> None:
    if packed.num_hidden:
        say(f"{count(packed.num_hidden, 'hidden name')} in the folders left out")
    for note, number in packed.notes.items():
        say(f"{count(number, 'table')}: {note}")
    if packed.was_whole:
        say("all was packed before: nothing to do")
        return
    if packed.num_units_before:
        say(f"{packed.num_units_before:,} of {count(packed.num_units, 'unit')} were packed before")
    seconds = max(packed.seconds, 1e-9)
    say(
        f"packed {packed.num_bytes / 1e6:,.1f} MB in {seconds:.1f} s: "
        f"{packed.num_bytes / 1e6 / seconds:,.1f} MB and {packed.num_tokens / seconds:,.0f} tokens "
        "a second"
    )


def summary(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """What is in shards, for programs."""
    names = ("mode", "vocab_size", "bytes_a_token", "totals", "settings")
    return {
        "directory": path,
        **json_keys({name: content[name] for name in names}),
        "num_inputs": len(content["inputs"]),
        "num_blank_inputs": sum(not each["shards"] for each in content["inputs"]),
    }


def show(path: str, content: dict[str, Any]) -> None:
    """The same for people."""
    num_inputs = len(content["inputs"])
    size = sum(each["size"] for each in content["inputs"])
    print(f"{path}: {count(num_inputs, 'file')}, {size:,} bytes, --mode {content['mode']}")
    print(f"vocab_size {content['vocab_size']:,}, {content['bytes_a_token']} bytes a token\n")
    print(f"{'part':10} {'documents':>15} {'tokens':>18} {'shards':>8} {'bytes':>20}")
    for part, total in content["totals"].items():
        print(
            f"{part:10} {total['num_docs']:15,} {total['num_tokens']:18,} "
            f"{total['num_shards']:8,} {total['num_bytes']:20,}"
        )


def show_packing(bar: Any, progress: PackProgress) -> Any:
    """A bar of bytes for each stage, with tokens per second."""
    if bar is None or bar.stage != progress.stage:
        if bar is not None:
            bar.close()
        bar = open_bar(
            desc={"survey": "looking", "unit": "packing"}[progress.stage],
            total=progress.total_bytes,
            initial=progress.num_bytes,
            unit="B",
            unit_scale=True,
        )
        bar.stage, bar.begin = progress.stage, time.monotonic()
    if progress.num_tokens:
        rate = progress.num_tokens / max(time.monotonic() - bar.begin, 1e-9)
        bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
    bar.update(progress.num_bytes - bar.n)
    return bar
