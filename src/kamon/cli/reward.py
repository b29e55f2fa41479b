"""Learn from pairs which text is preferred: a model that gives texts rewards.

A reward model is the saved model with two more tokens, `<|good|>` and `<|bad|>`. The reward of a
text is the log odds of good after it. `kamon ppo` learns from such a model.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import kamon.cli.tuning as tuning
from kamon.cli.output import count, say, say_built_in
from kamon.cli.parser import Args, Parser, option
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.model import Model

OWN: tuning.Numbers = {
    "num_pairs": (int, "pairs to make, for common"),
    "lm_weight": (float, "weight of the texts themselves, which the model keeps learning"),
}


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import reward_model

    tuning.add_model(parser)
    option(parser, "[DATA]", tuning.PAIRS)
    defaults = {"num_pairs": reward_model.NUM_PAIRS, "lm_weight": reward_model.LM_WEIGHT}
    tuning.add_arguments(parser, "reward", OWN, defaults, reward_model.PICKED)


def run(args: Args) -> int:
    tuning.check(args, "dir", "data")
    if args.num_pairs is not None and args.data != "common":
        raise ConfigError("--num-pairs is for the built-in pairs: DATA is common for those")
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.preferences import COMMON
    from kamon.finetuning.reward_model import resume, reward_model

    if args.data is not None:
        say_built_in(args.data, [COMMON])
    begin = partial(reward_model, args.dir, args.data, **chosen)
    return tuning.run(args, "reward", begin, resume, show)


def show(model: Model, stopped: bool, as_json: bool) -> None:
    """Print the accuracy and the calibration on the held-out pairs."""
    measured = model.training.measured.get("calibration")
    if as_json or not measured:
        if not (as_json or stopped):
            say("too few pairs to hold some out: nothing tells how good the rewards are")
        return
    print(
        f"{count(measured['num_pairs'], 'pair')} held out: {measured['accuracy']:.1%} are right, "
        f"loss {measured['loss']:.4f} nats a pair (0.6931 where nothing is known)"
    )
    print(f"expected calibration error {measured['calibration_error']:.4f}\n")
    print("how sure     pairs  predicted  right")
    for row in measured["bins"]:
        predicted, observed = f"{row['predicted']:10.3f}", f"{row['observed']:6.3f}"
        pairs = f"{row['num_pairs']:6,}"
        print(f"{row['from']:.2f} – {row['to']:.2f} {pairs} {predicted} {observed}")
