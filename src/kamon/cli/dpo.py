"""Tune a saved model to prefer what you prefer: by pairs of answers, without a reward model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kamon.cli.output import count, print_json, print_texts, progress_bar, say, say_resumed
from kamon.cli.parser import Parser, number, whole_number
from kamon.cli.settings import add_engine, add_json, chosen_engine
from kamon.cli.train import stop_on_signals
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.api import Model
    from kamon.tune import Start

NUM_SAMPLES = 10


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dir", nargs="?", metavar="DIR", help="the model to begin with")
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help='a JSONL file of {"prompt"?, "chosen", "rejected"}, or common: pairs of first names, '
        "the more common one preferred",
    )
    parser.add_argument("-o", "--output", metavar="DIR", help="where the tuned model goes (dpo)")
    parser.add_argument("--overwrite", action="store_true", help="replace the model in its DIR")
    parser.add_argument(
        "--prefer",
        metavar="RULE",
        help="in place of DATA: samples that fulfil RULE are preferred; len<=5 and not endswith "
        '"a"; len, vowels, startswith, endswith, contains, matches /regex/, and, or, not, ( )',
    )
    parser.add_argument(
        "--num-pairs", type=whole_number, metavar="N", help="of common and of --prefer (1000)"
    )
    parser.add_argument(
        "--beta", type=number, metavar="X", help="how dear it is to leave the base model (0.3)"
    )
    parser.add_argument("--loss", choices=("dpo", "ipo"), help="the objective (dpo)")
    parser.add_argument(
        "--label-smoothing",
        type=number,
        metavar="X",
        help="share of pairs believed to stand the wrong way round (0)",
    )
    parser.add_argument(
        "--max-kl", type=number, metavar="X", help="end so far from the base, in nats a document"
    )
    parser.add_argument("--num-steps", type=whole_number, metavar="N", help="(four epochs)")
    parser.add_argument("--batch-size", type=whole_number, metavar="N", help="pairs a step (64)")
    parser.add_argument("--learning-rate", type=number, metavar="X", help="at first (0.0007)")
    parser.add_argument("--seed", type=whole_number, metavar="N", help="by default the model's")
    add_json(parser)
    add_engine(parser)
    parser.add_argument("--resume", metavar="DIR", help="go on with the tuning in DIR, bit for bit")
    parser.add_argument(
        "--checkpoint-every", metavar="N", help="keep it every N steps, or every time such as 30s"
    )


OBJECTIVE = ("prefer", "beta", "loss", "label_smoothing", "max_kl")
SETTINGS = ("num_steps", "batch_size", "learning_rate", "seed")


def check(args: argparse.Namespace) -> None:
    """ConfigError for arguments that lack, or say something else where a tuning goes on."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in (*OBJECTIVE, "num_pairs", *SETTINGS, "output", "engine", "dtype", "overwrite")
        if getattr(args, name) not in (None, False)
    ]
    if args.resume is not None:
        if args.dir is not None:
            raise ConfigError("--resume goes on with what is in its DIR: give no other")
        if given:
            raise ConfigError(f"{given[0]} cannot be changed where a tuning goes on: leave it out")
        if not args.resume:
            raise ConfigError("--resume needs the DIR of a tuning, not an empty name")
    elif args.dir is None:
        raise ConfigError("name the DIR of a model to begin with, and DATA or --prefer RULE")
    elif (args.data is None) == (args.prefer is None):
        raise ConfigError("give either DATA, a file of pairs or common, or --prefer RULE")


def run(args: argparse.Namespace) -> int:
    check(args)
    if args.prefer is not None:
        from kamon.preferences import parse_rule

        parse_rule(args.prefer)
    from kamon import dpo
    from kamon.api import interval

    interval(args.checkpoint_every)
    output = args.resume or args.output or "dpo"

    def on_start(start: Start) -> None:
        tuning = start.tuning
        apart = sum(bool(each.get("held_out")) for each in tuning.examples)
        say(
            f"{tuning.source}: {count(len(tuning.examples) - apart, 'pair')} to learn from, "
            f"{apart:,} held out to test on"
        )
        if cut := dpo.num_cut(tuning):
            say(
                f"{count(cut, 'answer')} too long for block_size {tuning.config.block_size}: what "
                "is behind is left out"
            )
        say_resumed(start.resumed)

    def on_measured(found: dict[str, float]) -> None:
        say(
            f"step {found['step']:5,.0f}  loss {found['loss']:.4f}  accuracy "
            f"{found['accuracy']:.1%}  margin {found['margin']:.3f}  KL {found['kl']:.2f} nats"
        )

    with stop_on_signals() as stop, progress_bar() as on_progress:
        common: dict[str, Any] = {
            "checkpoint_every": args.checkpoint_every,
            "on_start": on_start,
            "on_progress": on_progress,
            "on_measured": on_measured,
            "should_stop": lambda: stop.signal is not None,
        }
        if args.resume is not None:
            where = {"threads": args.threads, "device": args.device, "compile": args.compile}
            model = dpo.resume(args.resume, **where, **common)
        else:
            from kamon import store

            store.check_target(output, overwrite=args.overwrite)
            engine = chosen_engine(args)
            chosen = {n: getattr(args, n) for n in (*OBJECTIVE, *SETTINGS)}
            model = dpo.dpo(
                args.dir,
                args.data,
                output=output,
                overwrite=args.overwrite,
                **engine,
                **({} if args.num_pairs is None else {"num_pairs": args.num_pairs}),
                **{name: value for name, value in chosen.items() if value is not None},
                **common,
            )
    done = model.training["finished"]
    stopped = stop.code(model)
    if not model.metrics:
        return stopped
    tuning = model.training["tuning"]
    if stopped:
        say(f"stopped after {count(len(model.metrics), 'step')}; saved to {output}")
        say(f"`kamon dpo --resume {output}` goes on from here")
    else:
        say_tuned(model, output)
    samples = [] if stopped else model.sample(NUM_SAMPLES, temperature=1.0)
    if args.json:
        print_json(
            {"directory": output, "tuning": tuning, "samples": samples, "finished": done}
            | {"num_steps_done": len(model.metrics), "seconds": model.training["seconds"]}
        )
    else:
        for text in samples:
            print_texts([text])
    return stopped


def say_tuned(model: Model, output: str) -> None:
    """What was reached: figures, and what is amiss."""
    found = model.training["tuning"]
    pairs, settings = found["pairs"], found["settings"]
    which = "held-out pairs" if pairs["held_out"] else "pairs that were learned"
    say(
        f"tuned {count(len(model.metrics), 'step')} in {model.training['seconds']:.1f} s; "
        f"saved to {output}"
    )
    say(
        f"on {pairs['num_pairs']:,} {which}: loss {pairs['loss']:.4f}, accuracy of the implicit "
        f"reward {pairs['accuracy']:.1%}, its margin {pairs['margin']:.3f}"
    )
    say(f"KL to the base {found['kl']:.2f} ± {found['kl_error']:.2f} nats a document")
    low, high = found["win_rate_interval"]
    by = "the rule" if settings["prefer"] is not None else "counts"
    share = found["decided"]
    say(
        f"win rate over the base {found['win_rate']:.1%} ({low:.1%} to {high:.1%}) of "
        f"{found['num_samples']:,} samples, "
        + (f"{share:.0%} decided by {by}, " if share else "")
        + f"{1 - share:.0%} by the implicit reward"
    )
    if share:
        low, high = found["win_rate_of_decided_interval"]
        say(
            f"of those decided by {by} {found['win_rate_of_decided']:.1%} ({low:.1%} to {high:.1%})"
        )
    say(
        f"different samples {found['uniqueness']:.1%} (base {found['base_uniqueness']:.1%}), new "
        f"ones {found['novelty']:.1%} (base {found['base_novelty']:.1%})"
    )
    if found["over_budget"]:
        say(
            f"stopped: the KL is above the budget of {settings['max_kl']:g} nats"
            + ("; the best model within it is kept" if found["kept_within"] else "")
        )
    for sentence in found["collapse"]:
        say(f"reward hacking: {sentence}; a larger --beta, --max-kl or fewer steps hold it back")
