"""Tune a saved model to prefer what you prefer: by pairs of answers, without a reward model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

import kamon.cli.tuning as tuning
from kamon.cli.output import count, print_json, print_texts, say, say_built_in
from kamon.cli.parser import Parser
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.loop import StartInfo
    from kamon.model import Model

NUM_SAMPLES = 10
OWN: tuning.Numbers = {
    "num_pairs": (int, "pairs of common and of --prefer (1000)"),
    "beta": (float, "how dear it is to leave the base model (0.3)"),
    "label_smoothing": (float, "share of pairs believed to stand the wrong way round (0)"),
    "max_kl": (float, "end so far from the base, in nats a document"),
}
TAKEN = tuning.SETTINGS | {
    "num_steps": "four passes, at least 20",
    "batch_size": "64",
    "learning_rate": "0.0007",
    "min_lr": "0",
    "schedule": "linear",
    "warmup_steps": "5",
    "weight_decay": "0",
    "temperature": tuning.BASE,
}


def add_arguments(parser: Parser) -> None:
    tuning.add_model(parser)
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help='a JSONL file of {"prompt"?, "chosen", "rejected"}, or common: pairs of first names, '
        "the more common one preferred",
    )
    parser.add_argument(
        "--prefer",
        metavar="RULE",
        help="in place of DATA: samples that fulfil RULE are preferred; len<=5 and not endswith "
        '"a"; len, vowels, startswith, endswith, contains, matches /regex/, and, or, not, ( )',
    )
    parser.add_argument("--loss", choices=("dpo", "ipo"), help="the objective (dpo)")
    tuning.add_arguments(parser, "dpo", OWN, TAKEN)


def run(args: argparse.Namespace) -> int:
    tuning.check(args, "dir")
    if args.resume is None and (args.data is None) == (args.prefer is None):
        raise ConfigError("give either DATA, a file of pairs or common, or --prefer RULE")
    if args.prefer is not None:
        from kamon.finetuning.rules import parse_rule

        parse_rule(args.prefer)
    chosen = tuning.chosen(args, OWN)
    if args.loss is not None:
        chosen["loss"] = args.loss
    from kamon.finetuning import dpo
    from kamon.finetuning.preferences import COMMON

    if args.data is not None:
        say_built_in(args.data, [COMMON])
    prompt: str | None = None

    def on_start(start: StartInfo) -> None:
        nonlocal prompt
        prompt = dpo.prompt_of(start.tuning)
        tuning.say_start(start)
        if cut := dpo.num_cut(start.tuning):
            size = start.tuning.config.block_size
            say(
                f"{count(cut, 'answer')} too long for block_size {size}: what is behind is left out"
            )

    def on_measured(found: dict[str, float]) -> None:
        say(
            f"step {found['step']:5,.0f}  loss {found['loss']:.4f}  accuracy "
            f"{found['accuracy']:.1%}  margin {found['margin']:.3f}  KL {found['kl']:.2f} nats"
        )

    model, output, stopped = tuning.tuned(
        args,
        "dpo",
        lambda engine, how: dpo.dpo(
            args.dir, args.data, prefer=args.prefer, **chosen, **engine, **how
        ),
        dpo.resume,
        {"on_start": on_start, "on_measured": on_measured},
    )
    if not model.metrics:
        return stopped
    tuning.say_end(model, output)
    if stopped:
        tuning.say_stopped("dpo", output)
    else:
        say_measured(model)
    samples = [] if stopped else model.sample(NUM_SAMPLES, temperature=1.0, prompt=prompt)
    if args.json:
        print_json({**tuning.as_json(model, output), "samples": samples})
    else:
        for text in samples:
            print_texts([text])
    return stopped


def say_measured(model: Model) -> None:
    """What was reached: figures, and what is amiss."""
    found = model.training["tuning"]
    pairs, settings = found["pairs"], found["settings"]
    which = "held-out pairs" if pairs["held_out"] else "pairs that were learned"
    say(
        f"on {pairs['num_pairs']:,} {which}: loss {pairs['loss']:.4f}, accuracy of the implicit "
        f"reward {pairs['accuracy']:.1%}, its margin {pairs['margin']:.3f}"
    )
    if "fulfilled" in found:
        say(
            f"the rule is fulfilled by {found['fulfilled']:.1%} of samples (base "
            f"{found['base_fulfilled']:.1%})"
        )
    say(f"KL to the base {found['kl']:.2f} ± {found['kl_error']:.2f} nats a document")
    if found["win_rate"] is not None:
        low, high = found["win_rate_interval"]
        by = (
            "by the rule"
            if settings["prefer"] is not None
            else "by how often both names were given"
        )
        say(
            f"win rate over the base {by}: {found['win_rate']:.1%} ({low:.1%} to {high:.1%}), ties "
            f"count as half; {found['judged']:.0%} of {found['num_samples']:,} pairs of samples "
            "can be judged"
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
