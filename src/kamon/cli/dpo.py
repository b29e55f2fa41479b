"""Teach a model your preferences from pairs of entries.

DPO learns from pairs of a better and a worse text, without a reward model.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import count, say, say_built_in, warn
from kamon.cli.parser import Args, Parser, option, options
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.loop import StartInfo
    from kamon.model import Model

NUM_SAMPLES = 10
OWN: tuning.Numbers = {
    "num_pairs": (int, "number of pairs to make, for common and --prefer"),
    "beta": (float, "strength of the KL penalty that keeps the model close to the base"),
    "label_smoothing": (float, "estimated share of mislabelled pairs (cDPO)"),
    "max_kl": (float, "stop at this KL to the base, in nats per sample"),
}
EXAMPLES = """\
kamon dpo names --prefer "len <= 5" -o short   # prefer short names
kamon dpo names common -o common               # prefer common first names
kamon dpo --resume short                       # resume after an interruption
"""

OPTIONS = {
    "[DATA]": tuning.PAIRS,
    "--prefer RULE": "instead of DATA: prefer samples that satisfy RULE, such as 'len<=5 and not "
    'endswith "a"\', made of len, vowels, startswith, endswith, contains, matches /regex/, '
    "and, or, not, ( )",
}


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import dpo

    tuning.add_model(parser)
    options(parser, OPTIONS)
    help = f"loss function [default: {dpo.DPOConfig.loss}]"
    option(parser, "--loss", help, choices=dpo.LOSSES)
    settings = dpo.PICKED | {"num_steps": f"{dpo.EPOCHS} passes, at least {dpo.MIN_STEPS}"}
    defaults = vars(dpo.DPOConfig()) | {"num_pairs": dpo.NUM_PAIRS}
    tuning.add_arguments(parser, "dpo", OWN, defaults, settings, dpo.ACCEPTED_SETTINGS)


def run(args: Args) -> int:
    check(args)
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
        prompt = dpo.prompt_of(start.spec)
        tuning.say_start(start)
        if cut := dpo.num_cut(start.spec):
            size = f"block_size {start.spec.config.block_size}"
            warn(
                f"{count(cut, 'completion')} too long for {size}: their ends are cut off",
                "use shorter texts, or a base with a larger --block-size",
            )

    def show(model: Model, stopped: bool, as_json: bool) -> dict[str, Any]:
        if stopped:
            return {"samples": []}
        if not as_json:
            print_measured(model)
        say_problems(model)
        samples = model.sample(NUM_SAMPLES, temperature=1.0, prompt=prompt)
        if not as_json:
            print("", *samples, sep="\n")
        return {"samples": samples}

    live = tuning.LiveLine()

    def on_measured(measured: dict[str, float]) -> None:
        text = f"reward accuracy {measured['accuracy']:.1%}, KL {measured['kl']:.2f}"
        live.report(measured["step"], text)

    begin = partial(dpo.dpo, args.dir, args.data, prefer=args.prefer, **chosen)
    callbacks = {"on_start": on_start, "on_measured": on_measured}
    return tuning.run(args, "dpo", begin, dpo.resume, show, live, **callbacks)


def check(args: Args) -> None:
    """Raise ConfigError for arguments that do not fit together, or for an invalid rule."""
    tuning.check(args, "dir")
    if args.resume is None and (args.data is None) == (args.prefer is None):
        raise ConfigError(
            "dpo needs either DATA or --prefer RULE",
            "give a file of pairs or common as DATA, or a rule such as --prefer 'len <= 5'",
        )
    if args.prefer is not None:
        from kamon.finetuning.rules import parse_rule

        parse_rule(args.prefer)


def print_measured(model: Model) -> None:
    """Print the measurements of the finished run beside those of the base."""
    measured, pairs = model.training.measured, model.training.measured["pairs"]
    by_rule = measured["settings"]["prefer"] is not None
    rows: list[tuning.Row] = []
    if "fulfilled" in measured:
        rows.append(
            tuning.share_row("satisfy the rule", measured["base_fulfilled"], measured["fulfilled"])
        )
    rows += tuning.comparison_rows(measured, "by the rule" if by_rule else "by frequency")
    sides = "validation" if pairs["held_out"] else "training"
    remark = f"of {count(pairs['num_pairs'], f'{sides} pair')}"
    guess = f"{tuning.GUESSING}" if measured["settings"]["loss"] == "dpo" else "-"
    rows.append(("reward accuracy", "-", f"{pairs['accuracy']:.1%}", remark))
    rows.append(("reward margin", "0", f"{pairs['margin']:.3g}", ""))
    rows.append(("loss", guess, f"{pairs['loss']:.3f}", "nats per pair"))
    tuning.print_table(f"{measured['num_samples']:,} samples", rows)
    if measured["win_rate"] is not None and measured["judged"] < 1:
        print(f"The win rate counts the {measured['judged']:.0%} of samples that can be judged.")


def say_problems(model: Model) -> None:
    """Print why the run ended early, and signs of reward hacking."""
    measured = model.training.measured
    if measured["over_budget"]:
        kept = ", and Kamon kept the best model below it" if measured["kept_within"] else ""
        say(f"The KL reached --max-kl {measured['settings']['max_kl']:g}{kept}")
    for sentence in measured["collapse"]:
        hint = "try a larger --beta, a smaller --max-kl or fewer --num-steps"
        warn(f"possible reward hacking: {sentence}", hint)
