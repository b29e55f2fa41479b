"""Prepare a corpus that does not fit in memory for training.

Kamon tokenizes the files and writes token shards, which training maps into memory. Each shard has a
checksum. If `kamon pack` is interrupted, run the same command again to continue. A tenth of 100 or
more unique entries is the validation set. Duplicates stay.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    count,
    done,
    json_keys,
    open_bar,
    print_json,
    progress_bar,
    say,
    short,
    warn,
)
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json, add_reading, reading, values

if TYPE_CHECKING:
    from kamon.packing.pack import Packed, PackProgress

SETS = {"train": "training", "held_out": "validation"}
EXAMPLES = """\
kamon pack texts/ -o shards
kamon pack big.csv.gz --column name -o shards
kamon train shards -o model
"""
OPTIONS = {
    "INPUT...": "files (text, .csv, .tsv, .jsonl or .json, also as .gz, .bz2, .xz or .zst), or "
    "folders with such files (Kamon skips hidden ones)",
    "-o, --output SHARDS": "directory to write the shards in",
    "--mode {documents,text}": "documents if each line, record or cell is an entry, text if each "
    "text file is one text [default: documents]",
    "--tokenizer NAME": "char, bpe (trained on 16 million characters of the inputs), a "
    "tokenizer.json, or the directory of a model [default: char]",
    "--vocab-size N": "number of tokens of bpe [default: 1,024]",
}
MORE_OPTIONS = {
    "--no-holdout": "write no validation set [default: a tenth of 100 or more unique entries, or "
    "with --mode text the last tenth of each]",
    "--shard-tokens N": "tokens per shard: one ends with the entry that reaches N "
    "[default: 100,000,000]",
    "--jobs N": "number of processes [default: one per core]",
    "--overwrite": "start again if SHARDS was packed with other options",
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
        say(f"Left out {count(packed.num_hidden, 'hidden name')} in the folders")
    for note, number in packed.notes.items():
        warn(f"{count(number, 'table')}: {note}")
    if packed.was_whole:
        say("Everything is packed already")
        return
    if packed.num_units_before:
        say(f"Packed earlier: {packed.num_units_before:,} of {count(packed.num_units, 'unit')}")
    megabytes, seconds = packed.num_bytes / 1e6, max(packed.seconds, 1e-9)
    rates = f"{megabytes / seconds:.3g} MB/s, {short(packed.num_tokens / seconds)} tokens/s"
    say(done("Packed", f"{megabytes:.3g} MB in {seconds:.1f} s ({rates})"))


def summary(path: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return what --json shows of shards."""
    names = ("mode", "vocab_size", "bytes_a_token", "totals", "settings")
    about = {"directory": path, **json_keys({name: content[name] for name in names})}
    num_blank = sum(not entry["shards"] for entry in content["inputs"])
    return about | {"num_inputs": len(content["inputs"]), "num_blank_inputs": num_blank}


def show(path: str, content: dict[str, Any]) -> None:
    files, size = count(len(content["inputs"]), "file"), sum(x["size"] for x in content["inputs"])
    print(f"{path}: {files}, {size:,} bytes, --mode {content['mode']}")
    print(f"vocab_size {content['vocab_size']:,}, {content['bytes_a_token']} bytes per token\n")
    print(f"{'set':10} {'entries':>15} {'tokens':>18} {'shards':>8} {'bytes':>20}")
    for part, total in content["totals"].items():
        counts = f"{total['num_docs']:15,} {total['num_tokens']:18,} {total['num_shards']:8,}"
        print(f"{SETS[part]:10} {counts} {total['num_bytes']:20,}")


def show_packing(bar: Any, progress: PackProgress) -> Any:
    """Return a bar of bytes for the stage, with tokens per second."""
    if bar is None or bar.stage != progress.stage:
        if bar is not None:
            bar.close()
        size = {"total": progress.total_bytes, "initial": progress.num_bytes}
        desc = {"survey": "Surveying", "unit": "Packing"}[progress.stage]
        bar = open_bar(desc=desc, unit="B", unit_scale=True, **size)
        bar.stage, bar.begin = progress.stage, time.monotonic()
    if progress.num_tokens:
        rate = progress.num_tokens / max(time.monotonic() - bar.begin, 1e-9)
        bar.set_postfix_str(f"{short(rate)} tokens/s", refresh=False)
    bar.update(progress.num_bytes - bar.n)
    return bar
