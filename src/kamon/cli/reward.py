"""Train a reward model on pairs of entries.

A reward model is a saved model with two more tokens, good and bad. The reward of a text is the log
of p(good) / p(bad) after it. `kamon ppo` fine-tunes a model with these rewards.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import kamon.cli.tuning as tuning
from kamon.cli.output import count, say_built_in, warn
from kamon.cli.parser import Args, Parser, option
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.model import Model

OWN: tuning.Numbers = {
    "num_pairs": (int, "number of pairs to make, for common"),
    "lm_weight": (float, "weight of the language-model loss on the texts"),
}
EXAMPLES = """\
kamon reward names common -o judge         # prefer common first names
kamon reward names pairs.jsonl -o judge    # … or learn from your own pairs
kamon ppo names --reward judge -o common   # fine-tune with the rewards
"""


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import reward_model

    tuning.add_model(parser)
    option(parser, "[DATA]", tuning.PAIRS)
    defaults = {"num_pairs": reward_model.NUM_PAIRS, "lm_weight": reward_model.LM_WEIGHT}
    tuning.add_arguments(parser, "reward", OWN, defaults, reward_model.PICKED)


def run(args: Args) -> int:
    tuning.check(args, "dir", "data")
    if args.num_pairs is not None and args.data != "common":
        raise ConfigError("--num-pairs is only for the built-in pairs", "give common as DATA")
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.preferences import COMMON
    from kamon.finetuning.reward_model import resume, reward_model

    if args.data is not None:
        say_built_in(args.data, [COMMON])
    begin = partial(reward_model, args.dir, args.data, **chosen)
    return tuning.run(args, "reward", begin, resume, show)


def show(model: Model, stopped: bool, as_json: bool) -> None:
    """Print the accuracy and the calibration on the validation set."""
    measured = model.training.measured.get("calibration")
    if as_json or not measured:
        if not (as_json or stopped):
            warn("no validation set, because there are too few pairs", "give more pairs")
        return
    print(
        f"{count(measured['num_pairs'], 'validation pair')}: accuracy {measured['accuracy']:.1%} "
        f"(guessing 50%), loss {measured['loss']:.3f} nats per pair (guessing {tuning.GUESSING})"
    )
    print(f"expected calibration error {measured['calibration_error']:.3f}\n")
    print("confidence   pairs  predicted  correct")
    for row in measured["bins"]:
        predicted, observed = f"{row['predicted']:10.3f}", f"{row['observed']:8.3f}"
        pairs = f"{row['num_pairs']:6,}"
        print(f"{row['from']:.2f} – {row['to']:.2f} {pairs} {predicted} {observed}")
