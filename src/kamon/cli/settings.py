"""Options that several commands share: those of the input, the engine and the settings."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from kamon.cli.output import warn
from kamon.cli.parser import Args, Parser, option, options
from kamon.config import SETTINGS, make_config, read_settings
from kamon.data.tables import FORMATS
from kamon.engines.factory import DEVICES, DTYPES, ENGINES, best_engine
from kamon.errors import ConfigError

Group = argparse._ActionsContainer  # a parser or a group of it

ENGINE_OPTIONS = {
    f"--engine {{{','.join(ENGINES)}}}": "engine that computes [default: native if it is compiled]",
    f"--dtype {{{','.join(DTYPES)}}}": "number format: scalar has only float64, and only torch has "
    "bfloat16 [default: {dtype}]",
    "--threads N": "CPU cores to use [default: all]",
    f"--device {{{','.join(DEVICES)}}}": "device of the torch engine [default: auto, a GPU "
    "if there is one]",
    "--compile": "compile the torch engine with torch.compile, which makes the start slow",
}
GIVEN = {
    "--given VALUES": "values of a model of `kamon train --given`, such as country=fi,sex=f, or a "
    "mix such as country=fi:0.5,jp:0.5 [default: all, as often as in the table]",
}
READING_OPTIONS = {
    "--column NAME": "column of a table by name or by number from 1, or key of JSON objects "
    "[default: the only column, or the key text]",
    f"--format {{{','.join(FORMATS)}}}": "format of {what}: csv cells may be quoted, tsv cells "
    "may not [default: from the file extension, otherwise text]",
    "--no-header": "read the first row of a table as data",
}


def add_json(parser: Group) -> None:
    option(parser, "--json", "print one JSON object on stdout")


def given_of(args: Args) -> Any:
    """Return the values of --given: text, or the object of JSON, for values with commas."""
    text = args.given
    if text is None or not text.lstrip().startswith("{"):
        return text
    import json

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError("--given is not valid JSON", "write column=value") from None


def add_engine(parser: Group, dtype: str = "float32, or float64 for scalar") -> None:
    """Add the options of the engine. dtype: the default of --dtype in words."""
    options(
        parser, {usage: help.replace("{dtype}", dtype) for usage, help in ENGINE_OPTIONS.items()}
    )


def chosen_engine(args: Args) -> dict[str, Any]:
    """Return the engine's options. Warn if the native engine is missing and none was chosen."""
    if args.engine is None and best_engine() != "native":
        from kamon.native.library import why_not

        warn(f"{why_not()}: the scalar engine is tens of thousands of times slower")
    others = values(args, "dtype", "threads", "device", "compile")
    return {"engine": args.engine or best_engine(), **others}


def values(args: Args, *names: str) -> dict[str, Any]:
    """Return these arguments by their names."""
    return {name: getattr(args, name) for name in names}


def add_settings(
    parser: Parser, *, picked: bool = False, of_tuning: Mapping[str, str] | None = None
) -> None:
    """Add --config and an option for each setting, `--n-layer` for n_layer.

    Args:
        picked: whether a preset chooses some settings. These have no default.
        of_tuning: the settings of fine-tuning, each with its default in words.
    """
    text = "an option overrides the file, and the file overrides the default"
    if picked:
        from kamon.training.presets import PICKED

        text += "\n--size chooses the settings without a default"
    group = parser.add_argument_group("model and training settings", text)
    option(group, "--config FILE", "TOML file of settings, such as n_layer = 2")
    for field in SETTINGS:
        if of_tuning and field.name not in of_tuning:
            continue
        default = of_tuning[field.name] if of_tuning else field.default
        choices = field.metadata["choices"]
        metavar = "N" if field.type is int else "X"
        option(
            group,
            f"--{field.name.replace('_', '-')} {'NAME' if choices else metavar}",
            field.metadata["help"]
            + ("" if picked and field.name in PICKED else f" [default: {default}]"),
            choices=choices or None,
            default=argparse.SUPPRESS,
        )


def settings(args: Args) -> dict[str, Any]:
    """Return the settings of the file and of the options. Raises ConfigError."""
    given = {} if args.config is None else read_settings(args.config)
    given |= {f.name: getattr(args, f.name) for f in SETTINGS if hasattr(args, f.name)}
    make_config(given)
    return given


def add_input(parser: Parser, *, required: bool = False) -> None:
    help = (
        "list to read: a text file with one entry per line, or .csv, .tsv, .jsonl or .json, also "
        "compressed, - for standard input, or a built-in list (names or names-original)"
        f"{'' if required else ' [default: names]'}"
    )
    option(parser, "INPUT" if required else "[INPUT]", help, default=None if required else "names")


def add_reading(parser: Group, what: str = "the input") -> None:
    """Add the options that say how to read `what`, a list."""
    options(parser, {usage: text.format(what=what) for usage, text in READING_OPTIONS.items()})


def reading(args: Args) -> dict[str, Any]:
    """Return the keywords of `corpus.read` that these options choose."""
    return {"column": args.column, "format": args.format, "header": not args.no_header}


def check_unread(args: Args, why: str) -> None:
    """Raise ConfigError if an option of `add_reading` is given but no list is read."""
    if args.column is not None or args.format is not None or args.no_header:
        raise ConfigError(f"--column, --format and --no-header need {why}")
