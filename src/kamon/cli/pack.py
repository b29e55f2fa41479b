"""Make a corpus that does not fit into memory into token shards: mapped files, each with its hash.

Files are read in bounded memory, and several at a time; run the same command again after a kill or
Ctrl-C and it goes on. A tenth of 100 or more different documents is held out, as of a list, chosen
by their content. Repetitions stay: dropping them would need all of the corpus in memory.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kamon.cli.output import count, json_keys, open_bar, print_json, progress_bar, say
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json, add_reading, reading, values

if TYPE_CHECKING:
    from kamon.packing.pack import Packed, PackProgress

OPTIONS = {
    "INPUT...": "text, .csv, .tsv, .jsonl or .json, each also as .gz, .bz2, .xz or .zst; of a "
    "folder all files but hidden ones, sorted by name",
    "-o, --output SHARDS": "the directory to write",
    "--mode {documents,text}": "what a document is. documents: each line, record or cell, without "
    "white space at its ends; text: each whole text file as it stands, each record or cell "
    "(documents)",
    "--tokenizer NAME": "char: one token a character; bpe: pairs that occur often, learned from 16 "
    "million characters all over the inputs; or a tokenizer.json, or the directory of a model "
    "(char)",
    "--vocab-size N": "tokens of bpe (1,024)",
}
MORE_OPTIONS = {
    "--no-holdout": "hold nothing out; by default Kamon holds out a tenth of 100 or more different "
    "documents, and of fewer none, or with --mode text the last tenth of each",
    "--shard-tokens N": "a shard ends with the document that brings it to so many tokens "
    "(100,000,000)",
    "--jobs N": "processes; by default one for each core",
    "--overwrite": "start anew if SHARDS was packed otherwise",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, output={"required": True}, mode="documents", tokenizer="char")
    add_reading(parser, "all inputs")
    options(parser, MORE_OPTIONS, shard_tokens=100_000_000)
    add_json(parser)


def run(args: Args) -> None:
    from kamon.native.library import usable_cores
    from kamon.packing.pack import pack
    from kamon.packing.plan import PackOptions

    given = values(args, "mode", "tokenizer", "vocab_size", "shard_tokens")
    options = PackOptions(**given, **reading(args), hold_out=not args.no_holdout)
    with progress_bar(show_packing) as on_progress:
        how: dict[str, Any] = {"overwrite": args.overwrite, "on_progress": on_progress}
        how["jobs"] = usable_cores() if args.jobs is None else args.jobs
        packed = pack(args.input, args.output, options, **how)
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
    megabytes, seconds = packed.num_bytes / 1e6, max(packed.seconds, 1e-9)
    rates = f"{megabytes / seconds:,.1f} MB and {packed.num_tokens / seconds:,.0f} tokens"
    say(f"packed {megabytes:,.1f} MB in {seconds:.1f} s: {rates} a second")


def summary(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return what --json shows of shards."""
    names = ("mode", "vocab_size", "bytes_a_token", "totals", "settings")
    about = {"directory": path, **json_keys({name: content[name] for name in names})}
    num_blank = sum(not entry["shards"] for entry in content["inputs"])
    return about | {"num_inputs": len(content["inputs"]), "num_blank_inputs": num_blank}


def show(path: str, content: dict[str, Any]) -> None:
    files, size = count(len(content["inputs"]), "file"), sum(x["size"] for x in content["inputs"])
    print(f"{path}: {files}, {size:,} bytes, --mode {content['mode']}")
    print(f"vocab_size {content['vocab_size']:,}, {content['bytes_a_token']} bytes a token\n")
    print(f"{'part':10} {'documents':>15} {'tokens':>18} {'shards':>8} {'bytes':>20}")
    for part, total in content["totals"].items():
        counts = f"{total['num_docs']:15,} {total['num_tokens']:18,} {total['num_shards']:8,}"
        print(f"{part:10} {counts} {total['num_bytes']:20,}")


def show_packing(bar: Any, progress: PackProgress) -> Any:
    """Return a bar of bytes for the stage, with tokens per second."""
    if bar is None or bar.stage != progress.stage:
        if bar is not None:
            bar.close()
        size = {"total": progress.total_bytes, "initial": progress.num_bytes}
        desc = {"survey": "looking", "unit": "packing"}[progress.stage]
        bar = open_bar(desc=desc, unit="B", unit_scale=True, **size)
        bar.stage, bar.begin = progress.stage, time.monotonic()
    if progress.num_tokens:
        rate = progress.num_tokens / max(time.monotonic() - bar.begin, 1e-9)
        bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
    bar.update(progress.num_bytes - bar.n)
    return bar
