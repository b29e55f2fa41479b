"""Teach a model to follow prompts.

DATA has JSON lines such as {"prompt": "short", "completion": "ann"}. There are also built-in
examples of names: `instructions` ("girl, m, 5" is sex, first letter and length, and each part is
optional), `sexes` ("girl") and `initials` ("m, 5").

Kamon mixes in entries of the base's list, so that the model does not forget them. At the end it
prints the validation loss on that list before and after. For `instructions` it also prints the
instruction-following accuracy.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import columns, one_line, padded, say, say_built_in
from kamon.cli.parser import Args, Parser, option
from kamon.cli.train import final_loss

if TYPE_CHECKING:
    from kamon.model import Model

OWN: tuning.Numbers = {
    "base_share": (float, "share of each batch that comes from the base's list"),
}
ROWS = (
    ("initial", "correct first letter"),
    ("length", "correct length"),
    ("sex", "correct sex, of recorded names"),
    ("together", "all three correct, of recorded names"),
    ("strict_sex", "correct sex, of all completions"),
    ("strict", "all three correct, of all completions"),
    ("on_record", "recorded names"),
)
EXAMPLES = """\
kamon sft names instructions -o asked       # train on the built-in examples
kamon sample asked --prompt "girl, m, 5"    # ask for girls' names with m
kamon sft names my.jsonl -o mine            # … or train on your own examples
"""


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import sft

    max_steps = sft.MAX_EXAMPLES / (sft.BATCH_SIZE * (1 - sft.BASE_SHARE))
    tuning.add_model(parser)
    data = "JSON Lines file, - for standard input, or the built-in instructions, sexes or initials"
    option(parser, "[DATA]", data)
    settings = {
        "batch_size": sft.BATCH_SIZE,
        "temperature": sft.TEMPERATURE,
        "min_lr": 0.0,
        "block_size": "the base's, or the longest example",
        "num_steps": f"{sft.EPOCHS} epochs, {sft.MIN_STEPS} to {max_steps:.0f}",
        "learning_rate": f"{sft.LEARNING_RATE_FACTOR:g} times the base's",
        "warmup_steps": f"{sft.WARM_UP:.0%} of the steps",
    }
    accepted, defaults = ("block_size", "dropout", "temperature"), {"base_share": sft.BASE_SHARE}
    tuning.add_arguments(parser, "sft", OWN, defaults, settings, accepted)


def run(args: Args) -> int:
    tuning.check(args, "dir", "data")
    chosen = tuning.chosen(args, OWN)

    from kamon.finetuning.instructions import TASKS
    from kamon.finetuning.sft import resume, sft

    if args.data is not None:
        say_built_in(args.data, TASKS)
    begin = partial(sft, args.dir, args.data, **chosen)
    return tuning.run(args, "sft", begin, resume, show)


def show(model: Model, stopped: bool, as_json: bool) -> dict[str, Any] | None:
    """Print the losses, the instruction-following accuracy, and some completions."""
    prompts = [] if stopped else model.training.measured["prompts"]
    answers = [(prompt, text) for prompt in prompts for text in model.sample(1, prompt=prompt)]
    say_losses(model)
    if as_json:
        return {"answers": [{"prompt": prompt, "text": text} for prompt, text in answers]}
    if obedience := model.training.measured.get("obedience"):
        before = model.training.measured["base"]["obedience"]
        rows = [tuning.share_row(text, before[name], obedience[name]) for name, text in ROWS]
        tuning.print_table(f"{obedience['num_answers']:,} completions", rows)
        print()
    width = max((columns(one_line(prompt)) for prompt, _ in answers), default=0)
    for prompt, text in answers:
        print(f"{padded(one_line(prompt), width)}  {one_line(text)}")
    return None


def say_losses(model: Model) -> None:
    """Print the losses of the examples, and of the base's validation set."""
    known = model.training.measured
    uniform = f"uniform {math.log(model.config.vocab_size):.3f}"
    loss = f"{final_loss(model.metrics):.3f} nats per completion token"
    say(f"training loss {loss} ({uniform})")
    if best := known.get("held_out"):
        loss = f"{best['loss']:.3f} nats per completion token"
        say(f"validation loss {loss} ({uniform}), best at step {best['best_step']:,}")
    if "base_held_out_loss" in known:
        loss = f"{known['base_held_out_loss']:.3f} nats per token"
        say(
            f"validation loss on the base's list {loss} (base {known['base']['held_out_loss']:.3f})"
        )
