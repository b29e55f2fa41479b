"""Teach a saved model to answer prompts, from examples: supervised fine-tuning.

DATA: JSON lines such as {"prompt": "short", "completion": "ann"}, or built-in examples of names:
`instructions` ("girl, m, 5": whose, the first letter, how many letters; any part may be left out),
`sexes` ("girl") or `initials` ("m, 5"). Then `kamon sample OUT --prompt "girl, m, 5"` answers.

Documents of the model's own list are mixed in, so that it does not forget them. At the end stands
how much worse it guesses those that it was tested on; of `instructions` also which share of answers
obeys, to the same instructions each time.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kamon.cli.output import count, one_line, print_json, progress_bar, say, say_resumed
from kamon.cli.parser import Parser, number
from kamon.cli.settings import add_engine, add_json, add_settings, chosen_engine, settings
from kamon.cli.train import stop_on_signals
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.api import Model
    from kamon.tune import Start

SETTINGS_OF_TUNING = (
    *("block_size", "seed", "num_steps", "batch_size", "learning_rate", "min_lr", "schedule"),
    *("warmup_steps", "weight_decay", "beta1", "beta2", "dropout", "grad_clip", "temperature"),
)
ROWS = (
    ("initial", "the first letter is right"),
    ("length", "so is the length"),
    ("sex", "the name is on record for the sex, of those on record at all"),
    ("together", "all three, of those on record"),
    ("strict_sex", "the name is on record for the sex, of all answers"),
    ("strict", "all three, of all answers"),
)


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "dir", nargs="?", metavar="DIR", help="the model to tune, as `kamon train -o` wrote it"
    )
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="a JSONL file; - for standard input; or built-in: instructions, sexes, initials",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="where the tuned model goes (tuned)")
    parser.add_argument("--overwrite", action="store_true", help="replace the model in OUT")
    parser.add_argument(
        "--base-share",
        type=number,
        metavar="X",
        help="share of a step's documents that are of the model's own list (0.3)",
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
    add_settings(parser, of_tuning=SETTINGS_OF_TUNING)


def run(args: argparse.Namespace) -> int:
    chosen = settings(args)
    check_resume(args, chosen)

    from kamon.api import interval
    from kamon.sft import BASE_SHARE, resume, sft

    interval(args.checkpoint_every)
    output = args.resume or args.output or "tuned"
    engine = {} if args.resume is not None else chosen_engine(args)
    if args.resume is None:
        from kamon import store

        store.check_target(output, overwrite=args.overwrite)
    with stop_on_signals() as stop, progress_bar() as on_progress:
        how: dict[str, Any] = {
            "checkpoint_every": args.checkpoint_every,
            "on_start": say_start,
            "on_progress": on_progress,
            "should_stop": lambda: stop.signal is not None,
        }
        if args.resume is not None:
            where = {"threads": args.threads, "device": args.device, "compile": args.compile}
            model = resume(args.resume, **where, **how)
        else:
            model = sft(
                args.dir,
                args.data,
                base_share=BASE_SHARE if args.base_share is None else args.base_share,
                output=output,
                overwrite=args.overwrite,
                **how,
                **engine,
                **chosen,
            )
    stopped = stop.code(model)
    if not model.metrics:
        return stopped
    say_tuned(model, output)
    if stopped:
        say(f"`kamon sft --resume {output}` goes on from here")
    answers = [] if stopped else answered(model)
    if args.json:
        print_json(
            {
                "directory": output,
                "config": asdict(model.config),
                "num_params": model.num_params,
                **model.training,
                "answers": [{"prompt": prompt, "text": text} for prompt, text in answers],
            }
        )
        return stopped
    obedience = model.training["tuning"].get("obedience")
    if obedience:
        print_obedience(model.training["tuning"]["base"]["obedience"], obedience)
        print()
    width = max((len(one_line(prompt)) for prompt, _ in answers), default=0)
    for prompt, text in answers:
        print(f"{one_line(prompt):{width}}  {one_line(text)}")
    return stopped


def check_resume(args: argparse.Namespace, chosen: dict[str, Any]) -> None:
    """ConfigError where DIR and DATA are missing, or where a tuning that goes on is changed."""
    if args.resume is None:
        if args.dir is None or args.data is None:
            raise ConfigError(
                "name the DIR of a model and DATA to tune it on, or --resume a tuning"
            )
        return
    if not args.resume:
        raise ConfigError("--resume needs the directory of a tuning, not an empty name")
    given = {
        "DIR": args.dir is not None,
        "-o": args.output is not None,
        "--overwrite": args.overwrite,
        "--base-share": args.base_share is not None,
        "--engine": args.engine is not None,
        "--dtype": args.dtype is not None,
        **{f"--{name.replace('_', '-')}": True for name in chosen},
    }
    for flag, there in given.items():
        if there:
            raise ConfigError(f"{flag} cannot be changed where a tuning goes on: leave it out")


def say_start(start: Start) -> None:
    from kamon.model import num_params

    tuning, c = start.tuning, start.tuning.config
    say_resumed(start.resumed)
    tested = start.steps.num_held_out
    apart = f"{tested:,} that are held out test it" if tested else "too few to hold some out"
    say(f"{tuning.source}: {count(len(tuning.examples), 'example')}; {apart}")
    say(
        f"model: {num_params(c):,} parameters; n_layer {c.n_layer}, n_embd {c.n_embd}, "
        f"n_head {c.n_head}, block_size {c.block_size}, vocab_size {c.vocab_size}; "
        f"{start.engine_name} engine, {start.engine.dtype}"
    )


def say_tuned(model: Model, output: str) -> None:
    done, wanted = len(model.metrics), model.config.num_steps
    known = model.training["tuning"]
    last = [line["loss"] for line in model.metrics[-100:]]
    tested = ""
    if "held_out" in known:
        found = known["held_out"]
        tested = f", {found['loss']:.4f} on those held out, at best, in step {found['best_step']:,}"
    say(
        f"{f'ended after {done:,} of' if done < wanted else 'tuned'} {count(wanted, 'step')} in "
        f"{model.training['seconds']:.1f} s, loss {sum(last) / len(last):.4f} a token of the "
        f"answers (mean of the last {len(last)}){tested}; saved to {output}"
    )
    if "base_held_out_loss" in known:
        say(
            f"without a prompt {known['base_held_out_loss']:.4f} on documents that the base was "
            f"tested on, {known['base']['held_out_loss']:.4f} before"
        )


def print_obedience(before: dict[str, float], after: dict[str, float]) -> None:
    print(f"of {after['num_answers']:,} answers to the same instructions   before   after")
    for name, text in ROWS:
        print(f"{text:62} {before[name]:7.1%} {after[name]:7.1%}")
    print(f"{'on record at all':62} {before['on_record']:7.1%} {after['on_record']:7.1%}")


def answered(model: Model) -> list[tuple[str, str]]:
    """Some prompts, an answer to each."""
    prompts = model.training["tuning"]["prompts"]
    return [(prompt, text) for prompt in prompts for text in model.sample(1, prompt=prompt)]
