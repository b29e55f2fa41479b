"""Learn from pairs which text is preferred: a model that gives texts rewards.

A reward model is the saved model with two more tokens, `<|good|>` and `<|bad|>`. The reward of a
text is the log odds of good after it. `kamon ppo` learns from such a model.
"""

from __future__ import annotations

import argparse
from typing import Any

import kamon.cli.tuning as tuning
from kamon.cli.output import count, print_json, say, say_built_in
from kamon.cli.parser import Parser, option
from kamon.errors import ConfigError

OWN: tuning.Numbers = {
    "num_pairs": (int, "pairs to make, for common"),
    "lm_weight": (float, "weight of the texts themselves, which the model keeps learning"),
}


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import reward_model

    tuning.add_model(parser)
    option(parser, "[DATA]", tuning.PAIRS)
    defaults = {"num_pairs": reward_model.NUM_PAIRS, "lm_weight": reward_model.LM_WEIGHT}
    settings = tuning.default_settings(reward_model.PICKED)
    tuning.add_arguments(parser, "reward", OWN, defaults, settings)


def run(args: argparse.Namespace) -> int:
    tuning.check(args, "dir", "data")
    if args.num_pairs is not None and args.data != "common":
        raise ConfigError("--num-pairs is for the built-in pairs: DATA is common for those")
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.preferences import COMMON
    from kamon.finetuning.reward_model import resume, reward_model

    if args.data is not None:
        say_built_in(args.data, [COMMON])
    model, output, stopped = tuning.tuned(
        args,
        "reward",
        lambda engine, how: reward_model(args.dir, args.data, **chosen, **engine, **how),
        resume,
        {"on_start": tuning.say_start},
    )
    if not model.metrics:
        return stopped
    tuning.say_end(model, output)
    if stopped:
        tuning.say_stopped("reward", output)
    measured = model.training["tuning"].get("calibration")
    if args.json:
        print_json(tuning.as_json(model, output))
    elif measured:
        show(measured)
    elif not stopped:
        say("too few pairs to hold some out: nothing tells how good the rewards are")
    return stopped


def show(measured: dict[str, Any]) -> None:
    """Print the accuracy and the calibration on the held-out pairs."""
    print(
        f"{count(measured['num_pairs'], 'pair')} held out: {measured['accuracy']:.1%} are right, "
        f"loss {measured['loss']:.4f} nats a pair (0.6931 where nothing is known)"
    )
    print(f"expected calibration error {measured['calibration_error']:.4f}\n")
    print("how sure     pairs  predicted  right")
    for row in measured["bins"]:
        print(
            f"{row['from']:.2f} – {row['to']:.2f} {row['num_pairs']:6,} {row['predicted']:10.3f} "
            f"{row['observed']:6.3f}"
        )
