"""Fine-tune a saved model to prefer what you prefer, by pairs and without a reward model (DPO)."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import count, say, say_built_in
from kamon.cli.parser import Args, Parser, option, options
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.loop import StartInfo
    from kamon.model import Model

NUM_SAMPLES = 10
OWN: tuning.Numbers = {
    "num_pairs": (int, "pairs to make, for common and --prefer"),
    "beta": (float, "strength of the KL penalty towards the base"),
    "label_smoothing": (float, "share of pairs that are assumed to be the wrong way round"),
    "max_kl": (float, "end the run at this KL to the base, in nats per document"),
}

OPTIONS = {
    "[DATA]": tuning.PAIRS,
    "--prefer RULE": "instead of DATA: prefer samples that fulfil RULE, such as 'len<=5 and not "
    'endswith "a"\'; with len, vowels, startswith, endswith, contains, matches /regex/, and, or, '
    "not, ( )",
}


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import dpo

    tuning.add_model(parser)
    options(parser, OPTIONS)
    help = f"objective [default: {dpo.DPOConfig.loss}]"
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
            say(f"{count(cut, 'answer')} too long for {size}: what is behind is left out")

    def show(model: Model, stopped: bool, as_json: bool) -> dict[str, Any]:
        if stopped:
            return {"samples": []}
        say_measured(model)
        samples = model.sample(NUM_SAMPLES, temperature=1.0, prompt=prompt)
        if not as_json:
            print(*samples, sep="\n")
        return {"samples": samples}

    begin = partial(dpo.dpo, args.dir, args.data, prefer=args.prefer, **chosen)
    return tuning.run(args, "dpo", begin, dpo.resume, show, on_start=on_start, on_measured=say_step)


def check(args: Args) -> None:
    """Raise ConfigError for arguments that do not fit together, or for a rule that is none."""
    tuning.check(args, "dir")
    if args.resume is None and (args.data is None) == (args.prefer is None):
        raise ConfigError("give either DATA, a file of pairs or common, or --prefer RULE")
    if args.prefer is not None:
        from kamon.finetuning.rules import parse_rule

        parse_rule(args.prefer)


def say_step(measured: dict[str, float]) -> None:
    say(
        f"step {measured['step']:5,.0f}  loss {measured['loss']:.4f}  accuracy "
        f"{measured['accuracy']:.1%}  margin {measured['margin']:.3f}  KL {measured['kl']:.2f} nats"
    )


def say_measured(model: Model) -> None:
    """Print the measurements of the finished run, and signs of reward hacking."""
    measured = model.training.measured
    pairs, settings = measured["pairs"], measured["settings"]
    judged = "held-out pairs" if pairs["held_out"] else "pairs that were learned"
    say(
        f"on {pairs['num_pairs']:,} {judged}: loss {pairs['loss']:.4f}, accuracy of the implicit "
        f"reward {pairs['accuracy']:.1%}, its margin {pairs['margin']:.3f}"
    )
    if "fulfilled" in measured:
        base = f"(base {measured['base_fulfilled']:.1%})"
        say(f"the rule is fulfilled by {measured['fulfilled']:.1%} of samples {base}")
    say(f"KL to the base {measured['kl']:.2f} ± {measured['kl_error']:.2f} nats a document")
    if measured["win_rate"] is not None:
        low, high = measured["win_rate_interval"]
        by_rule = settings["prefer"] is not None
        by = "by the rule" if by_rule else "by how often both names were given"
        won = f"{by}: {measured['win_rate']:.1%} ({low:.1%} to {high:.1%}), ties count as half"
        judged = f"{measured['judged']:.0%} of {measured['num_samples']:,} pairs of samples"
        say(f"win rate over the base {won}; {judged} can be judged")
    unique = f"{measured['uniqueness']:.1%} (base {measured['base_uniqueness']:.1%})"
    novel = f"{measured['novelty']:.1%} (base {measured['base_novelty']:.1%})"
    say(f"different samples {unique}, new ones {novel}")
    if measured["over_budget"]:
        kept = "; the best model within it is kept" if measured["kept_within"] else ""
        say(f"stopped: the KL is above the budget of {settings['max_kl']:g} nats{kept}")
    for sentence in measured["collapse"]:
        say(f"reward hacking: {sentence}; a larger --beta, --max-kl or fewer steps hold it back")
