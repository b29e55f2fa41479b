"""What the verbs share that tune a model: their flags, how one is begun or gone on with, what is
said of it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kamon.cli.output import count, progress_bar, say, say_resumed, show_training
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_engine, add_json, add_settings, chosen_engine, settings
from kamon.cli.train import stop_on_signals
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.loop import StartInfo
    from kamon.model import Model

BASE = "the base's"
SETTINGS = dict.fromkeys(  # of every tuning, and what is taken where none is given
    (
        *("seed", "num_steps", "batch_size", "learning_rate", "min_lr", "schedule"),
        *("warmup_steps", "weight_decay", "beta1", "beta2", "grad_clip"),
    ),
    BASE,
)
MAY_CHANGE = ("resume", "checkpoint_every", "threads", "device", "compile", "json")
Numbers = Mapping[str, tuple[type, str]]  # a verb's own: the type and the help of each


def add_model(parser: Parser) -> None:
    parser.add_argument(
        "dir", nargs="?", metavar="DIR", help="the model to tune, as `kamon train -o` wrote it"
    )


def add_arguments(parser: Parser, verb: str, own: Numbers, taken: Mapping[str, str]) -> None:
    """The flags of all. taken: the settings, each with what it is where it is not given."""
    parser.add_argument(
        "-o", "--output", metavar="OUT", help=f"where the tuned model goes ({verb})"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model in OUT")
    for name, (type_, help) in own.items():
        parser.add_argument(
            flag_of(name),
            dest=name,
            type=whole_number if type_ is int else number,
            metavar="N" if type_ is int else "X",
            help=help,
        )
    parser.add_argument(
        "--resume",
        metavar="OUT",
        help="go on with the tuning in OUT, as if it had never been interrupted",
    )
    parser.add_argument(
        "--checkpoint-every",
        metavar="N",
        help="keep the tuning every N steps, or every time such as 30s",
    )
    add_json(parser)
    add_engine(parser)
    add_settings(parser, of_tuning=taken)


def flag_of(name: str) -> str:
    return "--ppo-epochs" if name == "num_ppo_epochs" else f"--{name.replace('_', '-')}"


def check(args: argparse.Namespace, *needed: str) -> None:
    """ConfigError for what lacks of `needed`, or cannot be said where a tuning goes on."""
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
    """The settings and the verb's own numbers that were given, for the function."""
    given = {name: getattr(args, name) for name in own}
    return settings(args) | {name: x for name, x in given.items() if x is not None}


def tuned(
    args: argparse.Namespace,
    verb: str,
    begin: Callable[[dict[str, Any], dict[str, Any]], Model],
    resume: Callable[..., Model],
    told: Mapping[str, Any],
) -> tuple[Model, str, int]:
    """(the model, where it is, the exit code of what stopped it or 0).

    begin: starts a tuning, by what `make_engine` takes and what all tunings take; resume: goes on
    with one. told: on_start and the like.
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
            **told,
        }
        if args.resume is not None:
            model = resume(args.resume, **engine, **how)
        else:
            model = begin(engine, {"output": output, "overwrite": args.overwrite, **how})
    return model, output, stop.code(model)


def say_start(start: StartInfo) -> None:
    from kamon.engines.parameters import num_params

    tuning, c = start.tuning, start.tuning.config
    say_resumed(start.resumed)
    tested = start.method.num_held_out
    apart = f"; {tested:,} that are held out test it" if tested else ""
    say(f"{tuning.source}: {count(len(tuning.examples), 'example')}{apart}")
    if tuning.num_left_out:
        say(
            f"{count(tuning.num_left_out, 'pair')} left out, with one text in the training "
            "set and the other one in the validation set"
        )
    say(
        f"model: {num_params(c):,} parameters; n_layer {c.n_layer}, n_embd {c.n_embd}, "
        f"n_head {c.n_head}, block_size {c.block_size}, vocab_size {c.vocab_size}; "
        f"{start.engine_name} engine, {start.engine.dtype}"
    )


def say_end(model: Model, output: str, found: str = "") -> None:
    """How far it came, and where it is; found: the loss, and the like."""
    done, wanted = len(model.metrics), model.config.num_steps
    what = f"ended after {done:,} of" if done < wanted else "tuned"
    say(
        f"{what} {count(wanted, 'step')} in {model.training['seconds']:.1f} s{found}; "
        f"saved to {output}"
    )


def as_json(model: Model, output: str) -> dict[str, Any]:
    config, training = asdict(model.config), model.training
    return {"directory": output, "config": config, "num_params": model.num_params, **training}


def say_stopped(verb: str, output: str) -> None:
    say(f"`kamon {verb} --resume {output}` goes on from here")
