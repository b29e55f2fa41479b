"""What the fine-tuning commands share: options, starting and resuming a run, and messages."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kamon.cli.output import count, json_keys, progress_bar, say, say_resumed, show_training
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_engine, add_json, add_settings, chosen_engine, settings
from kamon.cli.train import stop_on_signals
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.loop import StartInfo
    from kamon.model import Model

BASE = "the base's"
MAY_CHANGE = ("resume", "checkpoint_every", "threads", "device", "compile", "json")
Numbers = Mapping[str, tuple[type, str]]  # a command's own options: type and help of each


def add_model(parser: Parser) -> None:
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the model to fine-tune, a directory")


def default_settings(
    picked: Mapping[str, Any], accepted: Sequence[str] = (), **in_words: str
) -> dict[str, str]:
    """Return the default of each setting, as the help shows it.

    Args:
        picked: defaults that are not the base's values.
        accepted: settings besides those of every kind of fine-tuning.
        in_words: defaults that depend on something.
    """
    from kamon.finetuning.loop import SETTINGS

    shown = {name: x if isinstance(x, str) else f"{x:g}" for name, x in picked.items()} | in_words
    return {name: shown.get(name, BASE) for name in (*SETTINGS, *accepted)}


def add_arguments(
    parser: Parser,
    verb: str,
    own: Numbers,
    defaults: Mapping[str, Any],
    setting_defaults: Mapping[str, str],
) -> None:
    """Add the options of every fine-tuning command, and its own ones.

    Args:
        defaults: of its own options; None for none.
        setting_defaults: the settings that it accepts (see `default_settings`).
    """
    parser.add_argument(
        "-o", "--output", metavar="OUT", help=f"directory of the new model [default: {verb}]"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model in OUT")
    for name, (type_, help) in own.items():
        default = defaults.get(name)
        parser.add_argument(
            flag_of(name),
            dest=name,
            type=whole_number if type_ is int else number,
            metavar="N" if type_ is int else "X",
            help=help if default is None else f"{help} [default: {default:g}]",
        )
    parser.add_argument(
        "--resume",
        metavar="OUT",
        help="continue the run in OUT; the model is the same as without the interruption",
    )
    parser.add_argument(
        "--checkpoint-every",
        metavar="N",
        help="save a checkpoint every N steps, or after a time such as 30s",
    )
    add_json(parser)
    add_engine(parser)
    add_settings(parser, of_tuning=setting_defaults)


def flag_of(name: str) -> str:
    """Return an option's name; TRL's num_ppo_epochs is --ppo-epochs here."""
    return "--ppo-epochs" if name == "num_ppo_epochs" else f"--{name.replace('_', '-')}"


def check(args: argparse.Namespace, *needed: str) -> None:
    """Raise ConfigError if an argument is missing, or if one cannot be given with --resume."""
    from kamon.training.options import checkpoint_interval

    checkpoint_interval(args.checkpoint_every, "--checkpoint-every")
    if args.resume is None:
        for name in needed:
            if getattr(args, name) is None:
                raise ConfigError(f"name {name.upper()}, or a tuning to go on with (--resume)")
        return
    if not args.resume:
        raise ConfigError("--resume needs the directory of a tuning, not an empty name")
    for name, value in vars(args).items():
        if name not in MAY_CHANGE and value is not None and value is not False:
            flag = name.upper() if name in ("dir", "data") else flag_of(name)
            flag = "-o" if name == "output" else flag
            raise ConfigError(
                f"{flag} cannot be changed where a tuning goes on: leave it out, or tune anew"
            )


def chosen(args: argparse.Namespace, own: Numbers) -> dict[str, Any]:
    """Return the settings and the command's own options that were given."""
    given = {name: getattr(args, name) for name in own}
    return settings(args) | {name: x for name, x in given.items() if x is not None}


def tuned(
    args: argparse.Namespace,
    verb: str,
    begin: Callable[[dict[str, Any], dict[str, Any]], Model],
    resume: Callable[..., Model],
    callbacks: Mapping[str, Any],
) -> tuple[Model, str, int]:
    """Start or resume a run. Returns (model, its directory, exit code if it was stopped, or 0).

    Args:
        begin: starts a run, with the keywords of an engine and those of `RunOptions`.
        resume: resumes the run in a directory.
        callbacks: on_start and the like.
    """
    output = args.resume or (verb if args.output is None else args.output)
    engine = {"threads": args.threads, "device": args.device, "compile": args.compile}
    if args.resume is None:
        from kamon.storage import model_dir

        model_dir.check_target(output, overwrite=args.overwrite)
        engine = chosen_engine(args)
    with stop_on_signals() as stop, progress_bar(show_training) as on_progress:
        how = {
            "checkpoint_every": args.checkpoint_every,
            "on_progress": on_progress,
            "should_stop": lambda: stop.signal is not None,
            **callbacks,
        }
        if args.resume is not None:
            model = resume(args.resume, **engine, **how)
        else:
            model = begin(engine, {"output": output, "overwrite": args.overwrite, **how})
    return model, output, stop.code(model)


def say_start(start: StartInfo) -> None:
    """Print what is known before the first step."""
    from kamon.engines.parameters import num_params

    spec, c = start.spec, start.spec.config
    say_resumed(start.resumed)
    num_held_out = start.method.num_held_out
    held_out = f"; {num_held_out:,} that are held out test it" if num_held_out else ""
    say(f"{spec.source}: {count(len(spec.examples), 'example')}{held_out}")
    if spec.num_left_out:
        say(
            f"{count(spec.num_left_out, 'pair')} left out, with one text in the training "
            "set and the other one in the validation set"
        )
    say(
        f"model: {num_params(c):,} parameters; n_layer {c.n_layer}, n_embd {c.n_embd}, "
        f"n_head {c.n_head}, block_size {c.block_size}, vocab_size {c.vocab_size}; "
        f"{start.engine_name} engine, {start.engine.dtype}"
    )


def say_end(model: Model, output: str, losses: str = "") -> None:
    """Print how many steps were made, the losses, and where the model is."""
    done, wanted = len(model.metrics), model.config.num_steps
    what = f"ended after {done:,} of" if done < wanted else "tuned"
    say(
        f"{what} {count(wanted, 'step')} in {model.training['seconds']:.1f} s{losses}; "
        f"saved to {output}"
    )


def as_json(model: Model, output: str) -> dict[str, Any]:
    return {
        "directory": output,
        "config": asdict(model.config),
        "num_params": model.num_params,
        **json_keys(model.training),
    }


def say_stopped(verb: str, output: str) -> None:
    say(f"`kamon {verb} --resume {output}` goes on from here")
