"""What the fine-tuning commands share: options, starting and resuming a run, and messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    count,
    model_json,
    print_json,
    progress_bar,
    say,
    say_model,
    say_resumed,
    show_training,
)
from kamon.cli.parser import Args, Parser, option, options
from kamon.cli.settings import add_engine, add_json, add_settings, chosen_engine, settings, values
from kamon.cli.train import stop_on_signals
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.loop import StartInfo
    from kamon.model import Model

MAY_CHANGE = ("resume", "checkpoint_every", "threads", "device", "compile", "json")
PAIRS = (
    'a JSON Lines file of {"chosen": …, "rejected": …}, each with or without a "prompt", or '
    "common: built-in pairs of first names, of which the more common one is preferred"
)
RESUMING = {
    "--resume OUT": "continue the run in OUT; the model is the same as without the interruption",
    "--checkpoint-every N": "save a checkpoint every N steps, or after a time such as 30s",
}
Numbers = Mapping[str, tuple[type, str]]  # a command's own options: type and help of each


def add_model(parser: Parser) -> None:
    option(parser, "[DIR]", "the model to fine-tune, a directory")


def add_arguments(
    parser: Parser,
    verb: str,
    own: Numbers,
    defaults: Mapping[str, Any],
    settings: Mapping[str, Any],
    accepted: Sequence[str] = (),
) -> None:
    """Add the options of every fine-tuning command, and its own ones.

    Args:
        defaults: of its own options; None for none.
        settings: defaults of settings, a number or words, if they are not the base's values.
        accepted: settings besides those of every kind of fine-tuning.
    """
    from kamon.finetuning.loop import SETTINGS

    option(parser, "-o, --output OUT", f"directory of the new model [default: {verb}]")
    option(parser, "--overwrite", "replace the model in OUT")
    for name, (type_, help) in own.items():
        default = defaults.get(name)
        option(
            parser,
            f"{flag_of(name)} {'N' if type_ is int else 'X'}",
            help if default is None else f"{help} [default: {default:g}]",
            dest=name,
        )
    options(parser, RESUMING, checkpoint_every={"type": str})
    add_json(parser)
    add_engine(parser)
    shown = {name: x if isinstance(x, str) else f"{x:g}" for name, x in settings.items()}
    every = (*SETTINGS, *accepted)
    add_settings(parser, of_tuning={name: shown.get(name, "the base's") for name in every})


def flag_of(name: str) -> str:
    """Return an option's name; TRL's num_ppo_epochs is --ppo-epochs here."""
    return "--ppo-epochs" if name == "num_ppo_epochs" else f"--{name.replace('_', '-')}"


def check(args: Args, *needed: str) -> None:
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


def chosen(args: Args, own: Iterable[str]) -> dict[str, Any]:
    """Return the settings and the command's own options that were given."""
    given = {name: x for name, x in values(args, *own).items() if x is not None}
    return settings(args) | given


def run(
    args: Args,
    verb: str,
    begin: Callable[..., Model],
    resume: Callable[..., Model],
    show: Callable[[Model, bool, bool], dict[str, Any] | None],
    end: Callable[[Model, str], None] | None = None,
    **callbacks: Any,
) -> int:
    """Start or resume a run, and return the exit code of the command.

    Args:
        begin: starts a run, with the keywords of an engine and those of `RunOptions`.
        resume: resumes the run in a directory.
        show: gets the model, whether it was stopped, and --json. Prints what people see of the
            model, or returns what it adds to the JSON.
        end: prints the number of steps and the like, instead of `say_end`.
        callbacks: on_start and the like; `say_start` if there is no on_start.
    """
    output = args.resume or (verb if args.output is None else args.output)
    engine = values(args, "threads", "device", "compile")
    if args.resume is None:
        from kamon.storage import model_dir

        model_dir.check_target(output, overwrite=args.overwrite)
        engine = chosen_engine(args)
    with stop_on_signals() as stop, progress_bar(show_training) as on_progress:
        how = {
            "checkpoint_every": args.checkpoint_every,
            "on_progress": on_progress,
            "should_stop": lambda: stop.signal is not None,
            "on_start": say_start,
            **callbacks,
        }
        if args.resume is not None:
            model = resume(args.resume, **engine, **how)
        else:
            model = begin(output=output, overwrite=args.overwrite, **engine, **how)
    code = stop.code(model)
    if model.metrics:
        (end or say_end)(model, output)
        if code:
            say(f"`kamon {verb} --resume {output}` goes on from here")
        more = show(model, bool(code), args.json) or {}
        if args.json:
            print_json(model_json(model, output) | more)
    return code


def say_start(start: StartInfo) -> None:
    """Print what is known before the first step."""
    spec = start.spec
    say_resumed(start.resumed)
    num_held_out = start.method.num_held_out
    held_out = f"; {num_held_out:,} that are held out test it" if num_held_out else ""
    say(f"{spec.source}: {count(len(spec.examples), 'example')}{held_out}")
    if spec.num_left_out:
        why = "with one text in the training set and the other one in the validation set"
        say(f"{count(spec.num_left_out, 'pair')} left out, {why}")
    say_model(spec.config, start.engine_name, start.engine)


def say_end(model: Model, output: str, losses: str = "") -> None:
    """Print the number of steps, the losses, and the model's directory."""
    done, wanted = len(model.metrics), model.config.num_steps
    verb = f"ended after {done:,} of" if done < wanted else "tuned"
    seconds = f"{model.training.seconds:.1f} s"
    say(f"{verb} {count(wanted, 'step')} in {seconds}{losses}; saved to {output}")
