"""What the verbs share that learn from preferences and rewards: flags, and what is said."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kamon.cli.output import count, say, say_resumed
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_engine, add_json, chosen_engine
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.tune import Start

SETTINGS: dict[str, tuple[type, str]] = {
    "num_steps": (int, "steps"),
    "batch_size": (int, "examples of a step"),
    "learning_rate": (float, "size of an update at first; falls to 0"),
    "seed": (int, "decides the order of examples, and samples; by default the model's"),
}


def add_arguments(parser: Parser, own: Mapping[str, tuple[type, str]]) -> None:
    """The flags of all; own: those of a verb, each with its type and its help."""
    parser.add_argument("-o", "--output", metavar="OUT", help="where the tuned model goes")
    parser.add_argument("--overwrite", action="store_true", help="replace the model in OUT")
    add_json(parser)
    add_engine(parser)
    group = parser.add_argument_group("interrupted tunings")
    group.add_argument(
        "--resume", metavar="OUT", help="go on with the tuning in OUT, as if never interrupted"
    )
    group.add_argument(
        "--checkpoint-every",
        metavar="N",
        help="keep the tuning every N steps, or every time such as 30s",
    )
    group = parser.add_argument_group("settings")
    for name, (type_, help) in {**SETTINGS, **own}.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=whole_number if type_ is int else number,
            default=argparse.SUPPRESS,
            metavar="N" if type_ is int else "X",
            help=help,
        )


def check(args: argparse.Namespace, own: Mapping[str, tuple[type, str]], *needed: str) -> None:
    """ConfigError for what lacks, or says something else where a tuning goes on."""
    from kamon.api import interval

    interval(args.checkpoint_every)
    if args.device is not None or args.compile:
        raise ConfigError("--device and --compile are for `kamon train`: leave them out")
    wanted = ("dir", *needed, "output")
    shown = {name: "-o OUT" if name == "output" else name.upper() for name in wanted}
    if args.resume is None:
        for name in wanted:
            if getattr(args, name) is None:
                raise ConfigError(f"name {shown[name]}, or a tuning to go on with (--resume)")
        return
    if not args.resume:
        raise ConfigError("--resume needs the directory of a tuning, not an empty name")
    given = {
        **{shown[name]: getattr(args, name) is not None for name in wanted},
        "--overwrite": args.overwrite,
        "--engine": args.engine is not None,
        "--dtype": args.dtype is not None,
        **{f"--{name.replace('_', '-')}": hasattr(args, name) for name in {**SETTINGS, **own}},
    }
    for flag, there in given.items():
        if there:
            raise ConfigError(
                f"{flag} cannot be changed where a tuning goes on: leave it out, or tune anew"
            )


def chosen(args: argparse.Namespace, own: Mapping[str, tuple[type, str]]) -> dict[str, Any]:
    """The settings that were given, for the function."""
    return {name: getattr(args, name) for name in {**SETTINGS, **own} if hasattr(args, name)}


def engine(args: argparse.Namespace) -> dict[str, Any]:
    found = chosen_engine(args)
    return {name: found[name] for name in ("engine", "dtype", "threads")}


def say_start(start: Start) -> None:
    tuning = start.tuning
    say_resumed(start.resumed)
    say(
        f"{tuning.source}: {count(len(tuning.examples), 'example')}; "
        f"{count(tuning.config.num_steps, 'step')} by the {start.engine_name} engine, "
        f"{start.engine.dtype}"
    )


def say_end(model: Any, verb: str, output: str, stopped: int) -> None:
    done, wanted = len(model.metrics), model.config.num_steps
    what = f"{done:,} of {count(wanted, 'step')}" if done < wanted else count(wanted, "step")
    say(f"{what} in {model.training['seconds']:.1f} s; saved to {output}")
    if stopped:
        say(f"`kamon {verb} --resume {output}` goes on from here")
