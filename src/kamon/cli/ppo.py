"""Fine-tune a saved model so that its samples get a larger reward (PPO).

The reward comes from a model of `kamon reward`, or from a rule: 1 if a text fulfils it, or else 0.
The KL, in nats per document, measures how far the model moves from its base. It is steered to a
target.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import say
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import values
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.model import Model

LINES = 10  # of progress in a run
OWN: tuning.Numbers = {
    "num_ppo_epochs": (int, "updates per step, all by the documents of that step"),
    "clip_range": (float, "how far an update may change a token's probability, as a ratio"),
    "kl_coef": (
        float,
        "initial strength of the KL penalty, in standard deviations of the reward per nat",
    ),
    "target_kl": (float, "KL that the penalty is adapted to, in nats per document"),
    "max_kl": (float, "end before the step that exceeds this KL, in nats per document"),
}

OPTIONS = {
    "--reward REWARD_DIR": "a model of `kamon reward`",
    "--prefer RULE": "reward texts that fulfil RULE, such as 'len <= 5 and not endswith \"a\"'",
    "--critic": "learn a baseline instead of using the group's mean",
    "--prompt TEXT": "draw and rate answers to TEXT; for a model of `kamon sft`",
}


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import ppo

    tuning.add_model(parser)
    options(parser, OPTIONS)
    defaults = vars(ppo.PPOConfig())
    tuning.add_arguments(parser, "ppo", OWN, defaults, ppo.PICKED, ppo.ACCEPTED_SETTINGS)


def run(args: Args) -> int:
    tuning.check(args, "dir")
    if args.resume is None and (args.reward is None) == (args.prefer is None):
        raise ConfigError(
            "name what is rewarded: --reward REWARD_DIR or --prefer RULE, one of both"
        )
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.ppo import ppo, resume

    task = values(args, "prefer", "critic", "prompt")
    begin = partial(ppo, args.dir, args.reward, **task, **chosen)
    return tuning.run(args, "ppo", begin, resume, show, on_step=say_step)


def say_step(step: int, num_steps: int, line: Mapping[str, float]) -> None:
    """Print some of the steps, about LINES in all."""
    often = max(1, num_steps // LINES)
    if step % often == 0 or step in (1, num_steps):
        say(
            f"step {step:4,}: reward {line['reward']:.3f}, KL {line['kl']:.2f}, "
            f"entropy {line['entropy']:.3f}, win rate {line['win_rate']:.0%}, "
            f"different {line['uniqueness']:.0%}, new {line['novelty']:.0%}"
        )


def show(model: Model, _stopped: bool, as_json: bool) -> None:
    """Print signs of reward hacking, and the comparison with the base."""
    measured = model.training.measured.get("measured")
    if measured:
        for problem in measured["problems"]:
            say(f"reward hacking? {problem}")
        if measured["over_budget"]:
            say("the KL reached its budget: the step that would lead beyond was taken back")
        if not as_json:
            print_measured(measured)


def print_measured(measured: dict[str, Any]) -> None:
    rows = [
        ("reward", "reward", ".4f"),
        ("different", "uniqueness", ".1%"),
        ("not in the list", "novelty", ".1%"),
        ("characters", "length", ".2f"),
    ]
    print(f"of {measured['num_samples']:,} samples      base     tuned")
    for title, name, form in rows:
        print(f"{title:16} {measured['base_' + name]:9{form}} {measured[name]:9{form}}")
    gain = measured["reward"] - measured["base_reward"]
    if measured["base_deviation"]:
        gain /= measured["base_deviation"]
        print(f"\nreward up by {gain:.2f} standard deviations of the base's")
    low, high = measured["win_rate_interval"]
    won = f"{measured['win_rate']:.1%} ({low:.1%} to {high:.1%}), ties count as half"
    print(f"win rate over the base {won}")
    print(f"KL to the base {measured['kl']:.2f} ± {measured['kl_error']:.2f} nats a document")
