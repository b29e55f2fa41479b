"""Teach a saved model to answer prompts, from examples (supervised fine-tuning).

DATA: JSON lines such as {"prompt": "short", "completion": "ann"}, or built-in examples of names:
`instructions` ("girl, m, 5": sex, first letter, length; any part may be left out), `sexes` ("girl")
or `initials` ("m, 5"). Afterwards `kamon sample OUT --prompt "girl, m, 5"` answers.

Kamon mixes in documents of the model's own list, so that it does not forget them. At the end, it
prints how much the loss on the base's validation set has risen. For `instructions`, it also prints
the share of answers that obey.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import kamon.cli.tuning as tuning
from kamon.cli.output import columns, one_line, padded, say, say_built_in
from kamon.cli.parser import Args, Parser, option
from kamon.cli.train import final_loss

if TYPE_CHECKING:
    from kamon.model import Model

OWN: tuning.Numbers = {
    "base_share": (float, "share of the documents in a step that come from the base's list"),
}
ROWS = (
    ("initial", "the first letter is right"),
    ("length", "so is the length"),
    ("sex", "the name is on record for the sex, of those on record at all"),
    ("together", "all three, of those on record"),
    ("strict_sex", "the name is on record for the sex, of all answers"),
    ("strict", "all three, of all answers"),
    ("on_record", "on record at all"),
)


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning import sft

    max_steps = sft.MAX_EXAMPLES / (sft.BATCH_SIZE * (1 - sft.BASE_SHARE))
    tuning.add_model(parser)
    data = "a JSON Lines file, - for standard input, or built-in examples"
    option(parser, "[DATA]", f"{data}: instructions, sexes, initials")
    settings = {
        "batch_size": sft.BATCH_SIZE,
        "temperature": sft.TEMPERATURE,
        "min_lr": 0.0,
        "block_size": "the base's, or the longest example",
        "num_steps": f"{sft.EPOCHS} passes, {sft.MIN_STEPS} to {max_steps:.0f}",
        "learning_rate": f"{sft.LEARNING_RATE_FACTOR:g} times the base's",
        "warmup_steps": f"a {1 / sft.WARM_UP:.0f}th of the steps",
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
    return tuning.run(args, "sft", begin, resume, show, say_tuned)


def show(model: Model, stopped: bool, as_json: bool) -> dict[str, Any] | None:
    """Print how well the answers obey, and some of them."""
    prompts = [] if stopped else model.training.measured["prompts"]
    answers = [(prompt, text) for prompt in prompts for text in model.sample(1, prompt=prompt)]
    if as_json:
        return {"answers": [{"prompt": prompt, "text": text} for prompt, text in answers]}
    obedience = model.training.measured.get("obedience")
    if obedience:
        before = model.training.measured["base"]["obedience"]
        answered = f"of {obedience['num_answers']:,} answers to the same instructions"
        print(f"{answered}   before   after")
        for name, text in ROWS:
            print(f"{text:62} {before[name]:7.1%} {obedience[name]:7.1%}")
        print()
    width = max((columns(one_line(prompt)) for prompt, _ in answers), default=0)
    for prompt, text in answers:
        print(f"{padded(one_line(prompt), width)}  {one_line(text)}")
    return None


def say_tuned(model: Model, output: str) -> None:
    """Print the losses of the examples, and of the base's validation set."""
    known, metrics = model.training.measured, model.metrics
    losses = f", loss {final_loss(metrics):.4f} a token of the answers (mean of the last "
    losses += f"{min(len(metrics), 100)})"
    if "held_out" in known:
        best = known["held_out"]
        losses += f", {best['loss']:.4f} on those held out, at best, in step {best['best_step']:,}"
    tuning.say_end(model, output, losses)
    if "base_held_out_loss" in known:
        say(
            f"without a prompt {known['base_held_out_loss']:.4f} on documents that the base was "
            f"tested on, {known['base']['held_out_loss']:.4f} before"
        )
