"""Write a saved model as one file for programs that are not Kamon.

  python  a program that needs only Python; it samples, completes and scores as the scalar engine
  json    settings, tokens, parameters and the counts of the n-gram, for any language
  onnx    a decoder step of the GPT with KV cache, for ONNX runtimes; needs kamon[onnx]

Without --format the ending of FILE tells: .py, .json or .onnx. An ONNX file has only the GPT of a
model that is blended with an n-gram.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kamon.cli.output import one_line, print_json, say
from kamon.cli.parser import Args, Parser, option
from kamon.cli.plot import check_free, write
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.storage.records import TrainingRecord

FORMATS = {".json": "json", ".onnx": "onnx", ".py": "python"}  # by how a file ends


def add_arguments(parser: Parser) -> None:
    option(parser, "DIR", "the directory that `kamon train -o` wrote")
    option(parser, "-o, --output FILE", "the file to write", required=True)
    option(parser, "--format", "by default as FILE ends", choices=sorted(FORMATS.values()))
    option(parser, "--no-blend", "leave out the n-gram: only the GPT, in a smaller file")
    option(parser, "--overwrite", "replace FILE if it is there")
    add_json(parser)


def run(args: Args) -> None:
    output = Path(args.output)
    format = args.format or FORMATS.get(output.suffix.lower())
    if format is None:
        raise ConfigError(f"{args.output!r} does not end in .json, .onnx or .py: name the --format")
    check_free({format: output}, Path(args.dir), args.overwrite)

    import hashlib

    from kamon.exporters.export import export, fits_float32
    from kamon.storage.model_dir import load

    stored = load(args.dir)
    blend = None if args.no_blend else stored.training.blend
    content = export(stored, format, blend=not args.no_blend)
    if format == "onnx" and not fits_float32(stored.params):
        say("the parameters are float64: ONNX has them rounded to float32")
    if format == "onnx" and blend:
        say(f"the ONNX file has only the GPT{losses(stored.training)}")
        blend = None
    write({output: content})
    if args.json:
        about = {"directory": args.dir, "file": args.output, "format": format}
        about |= {"num_params": len(stored.params), "bytes": len(content)}
        about["ngram_order"] = blend.order if blend else None
        print_json({**about, "sha256": hashlib.sha256(content).hexdigest()})
        return
    parts = f"{len(stored.params):,} parameters" + (f" and a {blend.order}-gram" if blend else "")
    print(f"{one_line(args.output)}: {parts} as {format}, {len(content):,} bytes")


def losses(training: TrainingRecord) -> str:
    """Return what leaving out the n-gram of a blended model costs, if that was measured."""
    measured = training.held_out or training.cross_validation
    if training.blend is None or measured is None or measured.gpt_loss is None:
        return ""
    with_ngram = f"{measured.loss:.4f} with the {training.blend.order}-gram"
    return f", whose validation loss is {measured.gpt_loss:.4f} nats per token, not {with_ngram}"
