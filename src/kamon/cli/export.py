"""Write a model as one Python, JSON or ONNX file.

  python  program without dependencies that samples, completes and scores
  json    settings, tokens, parameters and n-gram counts, for any language
  onnx    decoder step of the GPT with a KV cache, for ONNX runtimes (needs kamon[onnx])

An ONNX file has only the GPT of a model that is blended with an n-gram.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kamon.cli.output import GREEN, one_line, print_json, styled, warn
from kamon.cli.parser import Args, Parser, option
from kamon.cli.plot import check_free, write
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.exporters.export import Format
    from kamon.storage.records import TrainingRecord

FORMATS: dict[str, Format] = {
    ".json": "json",
    ".onnx": "onnx",
    ".py": "python",
}  # by how a file ends
EXAMPLES = """\
kamon export names -o names.py     # then: python names.py 5
kamon export names -o names.json
kamon export names -o names.onnx   # needs kamon[onnx]
"""


def add_arguments(parser: Parser) -> None:
    option(parser, "DIR", "directory of the model")
    option(parser, "-o, --output FILE", "file to write", required=True)
    help = "format of FILE [default: from its extension]"
    option(parser, "--format", help, choices=sorted(FORMATS.values()))
    option(parser, "--no-blend", "export only the GPT, without the n-gram, as a smaller file")
    option(parser, "--overwrite", "replace FILE if it exists")
    add_json(parser)


def run(args: Args) -> None:
    output = Path(args.output)
    format: Format | None = args.format or FORMATS.get(output.suffix.lower())
    if format is None:
        message = f"{args.output!r} does not end in .json, .onnx or .py"
        raise ConfigError(message, "choose a --format")
    check_free({format: output}, Path(args.dir), args.overwrite)

    import hashlib

    from kamon.exporters.export import export, fits_float32
    from kamon.storage.model_dir import load

    stored = load(args.dir)
    blend = None if args.no_blend else stored.training.blend
    content = export(stored, format, blend=not args.no_blend)
    if format == "onnx" and not fits_float32(stored.params):
        warn("the float64 parameters are rounded to float32 in ONNX")
    if format == "onnx" and blend:
        warn(f"the ONNX file has only the GPT{losses(stored.training)}")
        blend = None
    write({output: content})
    if args.json:
        about = {"directory": args.dir, "file": args.output, "format": format}
        about |= {"num_params": len(stored.params), "bytes": len(content)}
        about["ngram_order"] = blend.order if blend else None
        print_json({**about, "sha256": hashlib.sha256(content).hexdigest()})
        return
    parts = f"{len(stored.params):,} parameters" + (f" and a {blend.order}-gram" if blend else "")
    wrote = styled("Wrote", GREEN, sys.stdout)
    print(f"{wrote} {one_line(args.output)} ({file_size(len(content))}, {parts})")


def file_size(num_bytes: int) -> str:
    """
    >>> file_size(812), file_size(166_414), file_size(2_500_000)
    ('0.812 kB', '166 kB', '2.5 MB')
    """
    return f"{num_bytes / 1e6:.3g} MB" if num_bytes >= 999_500 else f"{num_bytes / 1e3:.3g} kB"


def losses(training: TrainingRecord) -> str:
    """Return what leaving out the n-gram of a blended model costs, if that was measured."""
    measured = training.held_out or training.cross_validation
    if training.blend is None or measured is None or measured.gpt_loss is None:
        return ""
    with_ngram = f"{measured.loss:.3f} with the {training.blend.order}-gram"
    return f": validation loss {measured.gpt_loss:.3f} nats per token ({with_ngram})"
