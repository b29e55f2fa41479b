"""Tune a saved model so that its samples earn more of a reward, by PPO.

The reward is a model of `kamon reward`, or a rule: 1 where a text fulfils it. How far the tuned
model moves from the one it began as is measured as KL, in nats a document, and steered to a target.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import print_json, say
from kamon.cli.parser import Parser
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.model import Model

LINES = 10  # in a tuning
OWN: tuning.Numbers = {
    "num_ppo_epochs": (int, "updates from the documents of a step (4)"),
    "clip_range": (float, "how far an update may change the odds of a token (0.2)"),
    "kl_coef": (float, "first weight of the KL, in deviations of the reward a nat (0.5)"),
    "target_kl": (float, "the KL that the weight is steered to, in nats a document (1)"),
    "max_kl": (float, "end where the KL would be more, in nats a document"),
}
TAKEN = tuning.SETTINGS | {
    "num_steps": "40",
    "batch_size": "256",
    "learning_rate": "0.002",
    "min_lr": "0",
    "warmup_steps": "0",
    "weight_decay": "0",
    "temperature": tuning.BASE,
}


def add_arguments(parser: Parser) -> None:
    tuning.add_model(parser)
    parser.add_argument("--reward", metavar="REWARD_DIR", help="a model of `kamon reward`")
    parser.add_argument(
        "--prefer", metavar="RULE", help="as 'len <= 5 and not endswith \"a\"': 1 where it is so"
    )
    parser.add_argument(
        "--critic", action="store_true", help="a learned baseline in place of the group's mean"
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="samples answer TEXT, and are judged as answers; of a model that `kamon sft` tuned",
    )
    tuning.add_arguments(parser, "ppo", OWN, TAKEN)


def run(args: argparse.Namespace) -> int:
    tuning.check(args, "dir")
    if args.resume is None and (args.reward is None) == (args.prefer is None):
        raise ConfigError(
            "name what is rewarded: --reward REWARD_DIR or --prefer RULE, one of both"
        )
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.ppo import ppo, resume
    from kamon.model import load

    def begin(engine: dict[str, Any], how: dict[str, Any]) -> Model:
        return ppo(
            load(args.dir, **engine),
            args.reward,
            prefer=args.prefer,
            critic=args.critic,
            prompt=args.prompt,
            base=args.dir,
            **chosen,
            **engine,
            **how,
        )

    model, output, stopped = tuning.tuned(
        args, "ppo", begin, resume, {"on_start": tuning.say_start, "on_step": say_step}
    )
    if not model.metrics:
        return stopped
    tuning.say_end(model, output)
    if stopped:
        tuning.say_stopped("ppo", output)
    found = model.training["tuning"].get("measured")
    if found:
        for problem in found["problems"]:
            say(f"reward hacking? {problem}")
        if found["over_budget"]:
            say("the KL reached its budget: the step that would lead beyond was taken back")
    if args.json:
        print_json(tuning.as_json(model, output))
    elif found:
        show(found)
    return stopped


def say_step(step: int, num_steps: int, line: Mapping[str, float]) -> None:
    """A line every so often."""
    often = max(1, num_steps // LINES)
    if step % often == 0 or step in (1, num_steps):
        say(
            f"step {step:4,}: reward {line['reward']:.3f}, KL {line['kl']:.2f}, "
            f"entropy {line['entropy']:.3f}, win rate {line['win_rate']:.0%}, "
            f"different {line['uniqueness']:.0%}, new {line['novelty']:.0%}"
        )


def show(found: dict[str, Any]) -> None:
    rows = [
        ("reward", "reward", ".4f"),
        ("different", "uniqueness", ".1%"),
        ("not in the list", "novelty", ".1%"),
        ("characters", "length", ".2f"),
    ]
    print(f"of {found['num_samples']:,} samples      base     tuned")
    for title, name, form in rows:
        print(f"{title:16} {found['base_' + name]:9{form}} {found[name]:9{form}}")
    gain = found["reward"] - found["base_reward"]
    if found["base_deviation"]:
        gain /= found["base_deviation"]
        print(f"\nreward up by {gain:.2f} standard deviations of the base's")
    low, high = found["win_rate_interval"]
    print(
        f"win rate over the base {found['win_rate']:.1%} ({low:.1%} to {high:.1%}), ties count as "
        "half"
    )
    print(f"KL to the base {found['kl']:.2f} ± {found['kl_error']:.2f} nats a document")
