"""Write a saved model as one file for programs that are not Kamon.

  python  a program that needs Python alone; it samples, completes and scores as the scalar engine
  json    settings, tokens and parameters, for any language
  onnx    a decoder step with KV cache, for ONNX runtimes; needs kamon[onnx]

Without --format the ending of FILE tells: .py, .json or .onnx.
"""

from __future__ import annotations

from pathlib import Path

from kamon.cli.output import one_line, print_json, say
from kamon.cli.parser import Args, Parser, option
from kamon.cli.plot import check_free, write
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

FORMATS = {".json": "json", ".onnx": "onnx", ".py": "python"}  # by how a file ends


def add_arguments(parser: Parser) -> None:
    option(parser, "DIR", "the directory that `kamon train -o` wrote")
    option(parser, "-o, --output FILE", "the file to write", required=True)
    option(parser, "--format", "by default as FILE ends", choices=sorted(FORMATS.values()))
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
    content = export(stored, format)
    if format == "onnx" and not fits_float32(stored.params):
        say("the parameters are float64: ONNX has them rounded to float32")
    write({output: content})
    if args.json:
        about = {"directory": args.dir, "file": args.output, "format": format}
        about |= {"num_params": len(stored.params), "bytes": len(content)}
        print_json({**about, "sha256": hashlib.sha256(content).hexdigest()})
        return
    file, size = one_line(args.output), f"{len(content):,} bytes"
    print(f"{file}: {len(stored.params):,} parameters as {format}, {size}")
