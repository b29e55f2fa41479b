"""Tune a saved model so that its samples earn more of a reward, by PPO.

The reward is a model of `kamon reward`, or a rule: 1 where a text fulfils it. How far the tuned
model moves from the one it began as is measured as KL, in nats a document, and steered to a target.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import kamon.cli.tuning as tuning
from kamon.cli.output import print_json, progress_bar, say
from kamon.cli.parser import Parser
from kamon.cli.train import stop_on_signals
from kamon.errors import ConfigError

LINES = 10  # in a tuning
OWN: dict[str, tuple[type, str]] = {
    "updates": (int, "updates from the documents of a step"),
    "clip": (float, "how far an update may change the odds of a token"),
    "beta": (float, "first weight of the KL, in deviations of the reward a nat"),
    "kl_target": (float, "the KL that the weight is steered to, in nats a document"),
    "max_kl": (float, "end where the KL would be more, in nats a document"),
}


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "dir", nargs="?", metavar="DIR", help="the model to tune, of `kamon train -o`"
    )
    parser.add_argument("--reward", metavar="REWARD_DIR", help="a model of `kamon reward`")
    parser.add_argument(
        "--prefer", metavar="RULE", help="as 'len <= 5 and not endswith \"a\"': 1 where it is so"
    )
    parser.add_argument(
        "--critic", action="store_true", help="a learned baseline in place of the group's mean"
    )
    tuning.add_arguments(parser, OWN)


def run(args: argparse.Namespace) -> int:
    tuning.check(args, OWN)
    given = [name for name in ("reward", "prefer") if getattr(args, name) is not None]
    if args.resume is not None and (given or args.critic):
        flag = given[0] if given else "critic"
        raise ConfigError(f"--{flag} cannot be changed where a tuning goes on: leave it out")
    if args.resume is None and len(given) != 1:
        raise ConfigError(
            "name what is rewarded: --reward REWARD_DIR or --prefer RULE, one of both"
        )

    from kamon import store
    from kamon.api import load
    from kamon.policy import ppo, resume

    chosen, engine = tuning.chosen(args, OWN), {}
    if args.resume is None:
        store.check_target(args.output, overwrite=args.overwrite)
        engine = tuning.engine(args)
        base = load(args.dir, **engine)
    with stop_on_signals() as stop, progress_bar() as on_progress:
        common: dict[str, Any] = {
            "checkpoint_every": args.checkpoint_every,
            "on_start": tuning.say_start,
            "on_progress": on_progress,
            "on_step": say_step,
            "should_stop": lambda: stop.signal is not None,
        }
        if args.resume is not None:
            model = resume(args.resume, threads=args.threads, **common)
        else:
            model = ppo(
                base,
                args.reward,
                prefer=args.prefer,
                critic=args.critic,
                base=args.dir,
                output=args.output,
                overwrite=args.overwrite,
                **chosen,
                **engine,
                **common,
            )
    output = args.output if args.resume is None else args.resume
    stopped = stop.code(model)
    if not model.metrics:
        return stopped
    tuning.say_end(model, "ppo", output, stopped)
    found = model.training["tuning"].get("measured")
    if found:
        for problem in found["problems"]:
            say(f"reward hacking? {problem}")
        if found["over_budget"]:
            say("the KL reached its budget: the step that would lead beyond was taken back")
    if args.json:
        print_json({"directory": output, **model.training})
    elif found:
        show(found)
    return stopped


def say_step(step: int, num_steps: int, line: Mapping[str, float]) -> None:
    """A line every so often."""
    often = max(1, num_steps // LINES)
    if step % often == 0 or step in (1, num_steps):
        say(
            f"step {step:4,}: reward {line['reward']:.3f}, KL {line['kl']:.2f}, "
            f"entropy {line['entropy']:.3f}, better than the base {line['win_rate']:.0%}, "
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
    print(f"better than the base {found['win_rate']:.1%}, equal ones half")
    print(f"KL to the base {found['kl']:.2f} ± {found['kl_error']:.2f} nats a document")
