"""Learn from pairs which text is preferred: a model that gives texts rewards.

It is the saved model that it starts from, with two more tokens, `<|good|>` and `<|bad|>`: a reward
is the log of the odds of good behind a text. `kamon ppo` learns from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import count, print_json, say, say_built_in
from kamon.cli.parser import Parser, whole_number
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.preferences import Feedback, Preference
    from kamon.model import Model

NUM_PAIRS = 1_000
NUM_HELD_OUT = 1_000
OWN: tuning.Numbers = {
    "lm_weight": (float, "how much it goes on to learn the texts, beside the pairs (0.1)"),
}
TAKEN = tuning.SETTINGS | {
    "num_steps": "200",
    "batch_size": "32",
    "learning_rate": "0.0015",
    "min_lr": "0",
    "warmup_steps": "0",
}


def add_arguments(parser: Parser) -> None:
    tuning.add_model(parser)
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help='a JSONL file of {"chosen": …, "rejected": …}, each with a "prompt" or without; or '
        "common: pairs of built-in names, of which the more common one is preferred",
    )
    parser.add_argument(
        "--num-pairs", type=whole_number, metavar="N", help=f"of common ({NUM_PAIRS:,})"
    )
    tuning.add_arguments(parser, "reward", OWN, TAKEN)


def run(args: argparse.Namespace) -> int:
    tuning.check(args, "dir", "data")
    if args.num_pairs is not None and args.data != "common":
        raise ConfigError("--num-pairs is for the built-in pairs: DATA is common for those")
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.reward_model import resume, reward_model
    from kamon.model import load

    def begin(engine: dict[str, Any], how: dict[str, Any]) -> Model:
        base = load(args.dir, **engine)
        seed = chosen.get("seed", base.config.seed)
        pairs, held_out = read_pairs(args.data, args.num_pairs, seed)
        return reward_model(
            base, pairs, held_out, source=args.data, base=args.dir, **chosen, **engine, **how
        )

    model, output, stopped = tuning.tuned(
        args, "reward", begin, resume, {"on_start": tuning.say_start}
    )
    if not model.metrics:
        return stopped
    tuning.say_end(model, output)
    if stopped:
        tuning.say_stopped("reward", output)
    found = model.training["tuning"].get("calibration")
    if args.json:
        print_json(tuning.as_json(model, output))
    elif found:
        show(found)
    elif not stopped:
        say("too few pairs to hold some out: nothing tells how good the rewards are")
    return stopped


def read_pairs(
    data: str, num_pairs: int | None, seed: int
) -> tuple[Sequence[Feedback], list[Preference] | None]:
    from kamon.finetuning import preferences

    if data == preferences.COMMON:
        say_built_in(data, [data])
        n = NUM_PAIRS if num_pairs is None else num_pairs
        return preferences.common_pairs(n, seed, NUM_HELD_OUT)
    return preferences.read(data), None


def show(found: dict[str, Any]) -> None:
    print(
        f"{count(found['num_pairs'], 'pair')} held out: {found['accuracy']:.1%} are right, "
        f"loss {found['loss']:.4f} nats a pair (0.6931 where nothing is known)"
    )
    print(f"expected calibration error {found['calibration_error']:.4f}\n")
    print("how sure     pairs  predicted  right")
    for row in found["bins"]:
        print(
            f"{row['from']:.2f} – {row['to']:.2f} {row['num_pairs']:6,} {row['predicted']:10.3f} "
            f"{row['observed']:6.3f}"
        )
