"""Plot losses, embeddings, attention and lengths.

Kamon prints the paths of the files. Without --kind it writes all four plots to the folder
DIR-plots.
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
OTHER_FORMATS = ("eps", "gif", "jpeg", "jpg", "pdf", "webp")  # surely not the ending of a folder

OPTIONS = {
    "DIR": "directory of the model",
    "-o, --output OUT": "folder of the plots, or with one --kind a .png or .svg file [default: "
    "DIR-plots]",
    f"--kind {{{','.join(KINDS)}}}": "make only this plot (may be repeated)",
    f"--format {{{','.join(FORMATS)}}}": "format of the files [default: as OUT ends, or png]",
    "--text T": "entry for the attention plot [default: the greedy sample]",
    "--overwrite": "replace files that exist",
}
EXAMPLES = """\
kamon plot names                          # four plots in names-plots/
kamon plot names --kind loss -o loss.svg
kamon plot names --kind attention --text maria --overwrite
"""


def add_arguments(parser: Parser) -> None:
    options(parser, OPTIONS, kind={"action": "append"}, text={"type": str})
    add_engine(parser)
    option(parser, "--json", "print the numbers as one JSON object, and write no plots")


def run(args: Args) -> None:
    kinds = [kind for kind in KINDS if not args.kind or kind in args.kind]
    if args.text is not None and "attention" not in kinds:
        raise ConfigError("--text needs --kind attention")
    if args.json:
        if args.output is not None or args.format is not None or args.overwrite:
            raise ConfigError(
                "--json writes no plots", "leave out --output, --format and --overwrite"
            )
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
    """Return the numbers of each plot. Lengths are included only if the model has documents.

    Attention comes first, because --text may be invalid.
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
                message = f"{args.output} is one file for {len(kinds)} plots"
                raise ConfigError(message, "choose one --kind, or give a folder")
            if args.format not in (None, ending):
                message = f"{args.output} does not end in .{args.format}"
                raise ConfigError(message, "leave out --format, or choose another name")
            return ending, {kinds[0]: folder}
        if ending in OTHER_FORMATS:
            raise ConfigError(f"{args.output} must end in .{' or .'.join(FORMATS)}")
    format = args.format or FORMATS[0]
    return format, {kind: folder / f"{kind}.{format}" for kind in kinds}


def check_free(paths: dict[str, Path], model: Path, overwrite: bool) -> None:
    """Raise StoreError, before anything is computed, if Kamon may not write one of the files."""
    for path in paths.values():
        with write_errors(path):
            if path.resolve().is_relative_to(model.resolve()):
                raise StoreError(
                    f"{path} is in the model's own directory, which must not change",
                    "choose another path with -o",
                )
        check_file(path, overwrite=overwrite)


def write(pictures: dict[Path, bytes]) -> None:
    """Write each picture whole or not at all. Raises StoreError."""
    from kamon.files.atomic import replace_file

    for path, content in pictures.items():
        with write_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
