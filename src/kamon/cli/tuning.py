"""What the fine-tuning commands share: options, starting and resuming a run, and messages."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    columns,
    count,
    done,
    labelled,
    model_json,
    padded,
    print_json,
    progress_bar,
    say,
    say_details,
    say_hint,
    say_model,
    say_resumed,
    show_training,
)
from kamon.cli.parser import Args, Parser, option, options
from kamon.cli.settings import add_engine, add_json, add_settings, chosen_engine, settings, values
from kamon.cli.stop import LAST_CHECKPOINT, code_of_run, stop_on_signals
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.loop import StartInfo
    from kamon.model import Model
    from kamon.training.loop import Progress

MAY_CHANGE = ("resume", "checkpoint_every", "threads", "device", "compile", "json")
PAIRS = (
    'JSON Lines file of {"chosen": …, "rejected": …}, with or without "prompt", or common, the '
    "built-in pairs that prefer the more common first name"
)
RESUMING = {
    "--resume OUT": "resume the fine-tuning in OUT exactly where it stopped",
    "--checkpoint-every N": "save a checkpoint every N steps, or at an interval such as 30s",
}
GUESSING = 0.693  # loss of a guess between two, in nats
Numbers = Mapping[str, tuple[type, str]]  # a command's own options: type and help of each


def add_model(parser: Parser) -> None:
    option(parser, "[DIR]", "directory of the model to fine-tune")


def add_arguments(
    parser: Parser,
    verb: str,
    own: Numbers,
    defaults: Mapping[str, Any],
    settings: Mapping[str, Any],
    accepted: Sequence[str] = (),
) -> None:
    """Add the options that all fine-tuning commands have, and those of this one.

    Args:
        defaults: of the command's own options, if they have one.
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
    """Return an option's name. TRL's num_ppo_epochs is --ppo-epochs here."""
    return "--ppo-epochs" if name == "num_ppo_epochs" else f"--{name.replace('_', '-')}"


def check(args: Args, *needed: str) -> None:
    """Raise ConfigError if an argument is missing, or if one cannot be given with --resume."""
    from kamon.training.options import checkpoint_interval

    checkpoint_interval(args.checkpoint_every, "--checkpoint-every")
    if args.resume is None:
        for name in needed:
            if getattr(args, name) is None:
                hint = "give it, or resume a fine-tuning with --resume OUT"
                raise ConfigError(f"missing {name.upper()}", hint)
        return
    if not args.resume:
        raise ConfigError("--resume needs the directory of a model, not an empty name")
    for name, value in vars(args).items():
        if name not in MAY_CHANGE and value is not None and value is not False:
            flag = name.upper() if name in ("dir", "data") else flag_of(name)
            flag = "-o" if name == "output" else flag
            raise ConfigError(
                f"{flag} cannot be changed when resuming",
                "leave it out, or start a new fine-tuning without --resume",
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
    live: LiveLine | None = None,
    **callbacks: Any,
) -> int:
    """Start or resume a run, and return the exit code of the command.

    Args:
        begin: starts a run, with the keywords of an engine and those of `RunOptions`.
        resume: resumes the run in a directory.
        show: gets the model, whether it was stopped, and --json. Prints what people see of the
            model, or returns what it adds to the JSON.
        live: measurements that the progress line shows.
        callbacks: such as on_start, which is `say_start` by default.
    """
    output = args.resume or (verb if args.output is None else args.output)
    engine = values(args, "threads", "device", "compile")
    if args.resume is None:
        from kamon.storage import model_dir

        model_dir.check_target(output, overwrite=args.overwrite)
        engine = chosen_engine(args)
    line = live or LiveLine()
    with stop_on_signals(LAST_CHECKPOINT) as stop, progress_bar(line.show) as on_progress:
        how = {
            "checkpoint_every": args.checkpoint_every,
            "on_progress": on_progress,
            "should_stop": stop.asked,
            "on_start": say_start,
            **callbacks,
        }
        if args.resume is not None:
            model = resume(args.resume, **engine, **how)
        else:
            model = begin(output=output, overwrite=args.overwrite, **engine, **how)
    code = code_of_run(stop, model)
    if model.metrics:
        say_end(model, output)
        if code:
            say_hint(f"resume with `kamon {verb} --resume {output}`")
        more = show(model, bool(code), args.json) or {}
        if args.json:
            print_json(model_json(model, output) | more)
    return code


@dataclass
class LiveLine:
    """The progress line, with the latest measurements of a run."""

    text: str = ""

    def report(self, step: float, text: str) -> None:
        """Show measurements after the loss, and with --verbose also on a new line."""
        self.text = text
        say_details(f"step {step:5,.0f}  {text}")

    def show(self, bar: Any, progress: Progress) -> Any:
        bar = show_training(bar, progress, self.text)
        bar.set_description_str("Fine-tuning", refresh=False)
        return bar


def say_start(start: StartInfo, unit: str = "example") -> None:
    """Print what is known before the first step. unit: the name of an example."""
    spec = start.spec
    say_resumed(start.resumed)
    left_out = ""
    if spec.num_left_out:
        left_out = f" ({spec.num_left_out:,} left out, across training and validation set)"
    say(labelled("Data", f"{spec.source}: {count(len(spec.examples), unit)}{left_out}"))
    if num_held_out := start.method.num_held_out:
        say(labelled("Validation", count(num_held_out, unit)))
    say_model(spec.config, start.engine_name, start.engine)


def say_end(model: Model, output: str) -> None:
    """Print the time, the number of steps, and the model's directory."""
    steps, wanted = len(model.metrics), model.config.num_steps
    seconds = f"{model.training.seconds:.1f} s"
    if steps == wanted:
        say("\n" + done("Fine-tuned", f"in {seconds} ({count(steps, 'step')})"))
    else:
        verb = "Stopped early" if model.training.finished else "Stopped"
        say("\n" + done(verb, f"after {steps:,} of {count(wanted, 'step')} in {seconds}"))
    say(done("Saved", f"to {os.path.join(output, '')}"))


Row = tuple[str, str, str, str]  # name, the base's value, the new one, and a remark


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print measurements of the base and of the new model side by side."""
    width = max(columns(name) for name in (title, *(row[0] for row in rows)))
    print(f"{padded(title, width)} {'base':>8} {'new':>8}")
    for name, before, after, remark in rows:
        print(f"{padded(name, width)} {before:>8} {after:>8}  {remark}".rstrip())


def share_row(name: str, before: float, after: float) -> Row:
    return name, f"{before:.1%}", f"{after:.1%}", ""


def comparison_rows(measured: Mapping[str, Any], judge: str) -> list[Row]:
    """Return rows for the win rate, the KL, and the unique and novel samples of a fine-tuning."""
    rows: list[Row] = []
    if measured["win_rate"] is not None:
        low, high = measured["win_rate_interval"]
        remark = f"{low:.1%} to {high:.1%}, {judge}, ties count as half"
        rows.append(("win rate", "50%", f"{measured['win_rate']:.1%}", remark))
    error = f"± {measured['kl_error']:.2f} nats per sample"
    rows.append(("KL to the base", "0", f"{measured['kl']:.2f}", error))
    for name, key in (("unique samples", "uniqueness"), ("novel samples", "novelty")):
        rows.append(share_row(name, measured[f"base_{key}"], measured[key]))
    return rows
