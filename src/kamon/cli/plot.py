"""Draw a saved model: its losses, its embeddings, what its heads attend to, and the lengths of the
list beside those of samples. Prints the paths of the pictures.

Without --kind all four go into the folder DIR-plots, named after their kinds.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kamon.cli.output import one_line, print_json
from kamon.cli.parser import Args, Parser, option, options
from kamon.cli.settings import add_engine, chosen_engine
from kamon.errors import ConfigError, StoreError
from kamon.files.output_path import check_file, write_errors

if TYPE_CHECKING:
    from kamon.model import Model

KINDS = ("loss", "embeddings", "attention", "lengths")
FORMATS = ("png", "svg")
OTHER_FORMATS = ("eps", "gif", "jpeg", "jpg", "pdf", "webp")  # which nobody means as a folder

OPTIONS = {
    "DIR": "the directory that `kamon train -o` wrote",
    "-o, --output OUT": "a folder for the pictures (DIR-plots), or with one --kind a file in .png "
    "or .svg",
    f"--kind {{{','.join(KINDS)}}}": "draw this alone; may be given more than once",
    f"--format {{{','.join(FORMATS)}}}": "by default as OUT ends, or png",
    "--text T": "what the heads attend to; by default the sample of the likeliest tokens",
    "--overwrite": "replace pictures that are there",
}


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, kind={"action": "append"}, text={"type": str})
    add_engine(parser)
    option(parser, "--json", "print the numbers as one JSON object on stdout, and draw nothing")


def run(args: Args) -> None:
    kinds = [kind for kind in KINDS if not args.kind or kind in args.kind]
    if args.text is not None and "attention" not in kinds:
        raise ConfigError("--text is what the heads attend to: it needs --kind attention")
    if args.json:
        if args.output is not None or args.format is not None or args.overwrite:
            raise ConfigError("--json draws nothing: leave out --output, --format and --overwrite")
        data = {kind: asdict(part) for kind, part in numbers(args, kinds).items()}
        print_json({"directory": args.dir} | data)
        return
    format, paths = targets(args, kinds)
    check_free(paths, Path(args.dir), args.overwrite)

    from kamon import plotting

    draw = plotting.DRAW
    data = numbers(args, kinds)
    write({paths[kind]: plotting.render(draw[kind](part), format) for kind, part in data.items()})
    print("\n".join(one_line(str(paths[kind])) for kind in kinds if kind in data))


def numbers(args: Args, kinds: list[str]) -> dict[str, Any]:
    """Return what there is to draw, by kind; lengths only if there are documents.

    Attention comes first, since --text may be wrong.
    """
    from kamon.evaluation import introspection
    from kamon.model import load

    model = load(args.dir, **chosen_engine(args))
    if not args.kind and (model.writes_text or not model.docs):
        kinds = [kind for kind in kinds if kind != "lengths"]
    find: dict[str, Callable[[Model], Any]] = {
        "attention": partial(introspection.attention, text=args.text),
        "embeddings": introspection.embeddings,
        "lengths": introspection.lengths,
        "loss": introspection.losses,
    }
    return {kind: find[kind](model) for kind in find if kind in kinds}


def targets(args: Args, kinds: list[str]) -> tuple[str, dict[str, Path]]:
    """Return the format, and the file of each kind."""
    if args.output is None:
        model = Path(args.dir)
        if model.name in ("", ".."):  # `.` and the like have no name
            model = model.resolve()
        folder = model.with_name(f"{model.name}-plots")
    else:
        folder = Path(args.output)
        ending = folder.suffix.removeprefix(".").lower()
        if ending in FORMATS:
            if len(kinds) > 1:
                why = f"is one file for {len(kinds)} pictures"
                raise ConfigError(f"{args.output} {why}: choose one --kind, or name a folder")
            if args.format not in (None, ending):
                raise ConfigError(f"{args.output} is no name for --format {args.format}")
            return ending, {kinds[0]: folder}
        if ending in OTHER_FORMATS:
            raise ConfigError(f"a picture is {' or '.join(FORMATS)}, not {ending}: {args.output}")
    format = args.format or FORMATS[0]
    return format, {kind: folder / f"{kind}.{format}" for kind in kinds}


def check_free(paths: dict[str, Path], model: Path, overwrite: bool) -> None:
    """Raise StoreError if a file may not be written there, before it is made."""
    for path in paths.values():
        with write_errors(path):
            if path.resolve().is_relative_to(model.resolve()):
                raise StoreError(
                    f"{path} is in the model's own directory, where nothing may be added: "
                    "choose another name with -o"
                )
        check_file(path, overwrite=overwrite)


def write(pictures: dict[Path, bytes]) -> None:
    """Write each picture whole or not at all. Raises StoreError."""
    from kamon.files.atomic import replace_file

    for path, content in pictures.items():
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
