"""Fine-tune a model to get a larger reward.

PPO takes the reward from a model of `kamon reward`, or from a rule: 1 if a text satisfies the rule,
otherwise 0. The KL measures how far the model moves from its base, in nats per sample. PPO adapts
the KL penalty to reach --target-kl.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import say, warn
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import values
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.model import Model

OWN: tuning.Numbers = {
    "num_ppo_epochs": (int, "PPO epochs over the samples of a step"),
    "clip_range": (float, "PPO clip range of the probability ratio"),
    "kl_coef": (
        float,
        "initial strength of the KL penalty, in standard deviations of the reward per nat",
    ),
    "target_kl": (float, "KL that the penalty aims at, in nats per sample"),
    "max_kl": (float, "stop before the step that exceeds this KL, in nats per sample"),
}

OPTIONS = {
    "--reward REWARD_DIR": "reward model, a directory that `kamon reward` wrote",
    "--prefer RULE": "reward texts that satisfy RULE, such as 'len <= 5 and not endswith \"a\"'",
    "--critic": "train a baseline instead of using the mean reward of the group",
    "--prompt TEXT": "reward completions of TEXT, for a model of `kamon sft`",
}
EXAMPLES = """\
kamon ppo names --prefer "len <= 5" -o short   # reward short names
kamon reward names common -o judge             # train a reward model,
kamon ppo names --reward judge -o common       # and fine-tune with it
"""


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
            "ppo needs either --reward REWARD_DIR or --prefer RULE",
            "give a rule such as 'len <= 5', or train a reward model with `kamon reward`",
        )
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.ppo import ppo, resume

    task = values(args, "prefer", "critic", "prompt")
    live = tuning.LiveLine()

    def on_step(step: int, _num_steps: int, line: Mapping[str, float]) -> None:
        text = f"reward {line['reward']:.3f}, KL {line['kl']:.2f}, win rate {line['win_rate']:.0%}"
        live.report(step, text)

    begin = partial(ppo, args.dir, args.reward, **task, **chosen)
    return tuning.run(args, "ppo", begin, resume, show, live, on_step=on_step)


def show(model: Model, _stopped: bool, as_json: bool) -> None:
    """Print the comparison with the base, and signs of reward hacking."""
    measured = model.training.measured.get("measured")
    if not measured:
        return
    if not as_json:
        print_measured(measured)
    if measured["over_budget"]:
        say("The KL reached --max-kl, so Kamon kept the model of the step before")
    for problem in measured["problems"]:
        hint = "try a smaller --target-kl, --max-kl or fewer --num-steps"
        warn(f"possible reward hacking: {problem}", hint)


def print_measured(measured: dict[str, Any]) -> None:
    before, after = (f"{measured[name]:.3f}" for name in ("base_reward", "reward"))
    remark = ""
    if measured["base_deviation"]:
        gain = (measured["reward"] - measured["base_reward"]) / measured["base_deviation"]
        remark = f"{gain:+.2f} standard deviations of the base"
    rows: list[tuning.Row] = [("mean reward", before, after, remark)]
    rows += tuning.comparison_rows(measured, "by reward")
    before, after = (f"{measured[name]:.2f}" for name in ("base_length", "length"))
    rows.append(("mean length", before, after, "characters"))
    tuning.print_table(f"{measured['num_samples']:,} samples", rows)
