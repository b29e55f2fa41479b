"""Learn a list, save the model, and make 20 new names with it."""

from __future__ import annotations

import argparse
import signal
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from kamon.cli.output import (
    count,
    print_json,
    print_marked,
    progress_bar,
    say,
    say_corpus,
    say_cut,
    spark,
)
from kamon.cli.parser import Parser
from kamon.cli.settings import (
    add_engine,
    add_input,
    add_input_format,
    add_json,
    add_settings,
    chosen_engine,
    settings,
)

if TYPE_CHECKING:
    from kamon.api import Model

NUM_SAMPLES = 20


def add_arguments(parser: Parser) -> None:
    add_input(parser)
    parser.add_argument(
        "-o", "--output", default="model", metavar="DIR", help="where the model goes (model)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model in DIR")
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="time to train, as 500ms, 10s or 2m: picks the settings",
    )
    parser.add_argument(
        "--size",
        metavar="NAME",
        help="tiny, small, medium (the default), large or huge: picks the settings; original: "
        "those of the original microGPT (the default of the scalar engine)",
    )
    parser.add_argument(
        "--all", action="store_true", help="learn from all documents: hold none out to test on"
    )
    add_input_format(parser)
    add_json(parser)
    add_engine(parser)
    add_settings(parser, picked=True)


def run(args: argparse.Namespace) -> int:
    chosen = settings(args)
    engine = chosen_engine(args)

    from kamon import corpus, store
    from kamon.api import Run, train
    from kamon.budget import ORIGINAL
    from kamon.config import SETTINGS
    from kamon.model import num_params

    store.check_target(args.output, overwrite=args.overwrite)
    source = corpus.read(args.input, column=args.column, format=args.format)
    say_corpus(source, args.input)

    def on_start(run: Run) -> None:
        say_cut(run)
        if run.held_out:
            say(f"{count(len(run.held_out), 'document')} held out to test on")
        elif not args.all:
            say("too few documents to hold some out: nothing tells whether the model over-fits")
        c = run.config
        say(
            f"model: {num_params(c):,} parameters; n_layer {c.n_layer}, n_embd {c.n_embd}, "
            f"n_head {c.n_head}, block_size {c.block_size}, vocab_size {c.vocab_size}; "
            f"{engine['engine']} engine, {run.engine.dtype}"
        )
        picked = {f.name: getattr(c, f.name) for f in SETTINGS if f.name not in chosen}
        flags = [
            f"--{f.name.replace('_', '-')} {picked[f.name]}"
            for f in SETTINGS
            if picked.get(f.name, f.default) != f.default
        ]
        if flags:
            say(f"picked: --size {ORIGINAL} {' '.join(flags)}")

    with stop_on_ctrl_c() as stop:
        with progress_bar() as on_progress:
            model = train(
                source,
                on_start=on_start,
                on_progress=on_progress,
                should_stop=lambda: stop.asked,
                hold_out=not args.all,
                budget=args.budget,
                size=args.size,
                **engine,
                **chosen,
            )
        stop.saving = True
        if not model.metrics:
            say("stopped before the first step was done: there is nothing to save")
            return 130
        model.save(args.output, overwrite=args.overwrite)
    loss = final_loss(model.metrics)
    say_trained(model, loss, args.output)
    samples = [] if stop.asked else model.sample(NUM_SAMPLES)
    known = source.docs.among(samples)
    marked = [(text, text in known) for text in samples]
    if args.json:
        print_json(
            {
                "directory": args.output,
                "config": asdict(model.config),
                "num_params": model.num_params,
                **model.training,
                "loss": loss,
                "samples": [{"text": text, "in_list": known} for text, known in marked],
            }
        )
    else:
        print_marked(marked)
    return 130 if stop.asked else 0


def say_trained(model: Model, loss: float, output: str) -> None:
    done, wanted = len(model.metrics), model.config.num_steps
    held_out = model.training["held_out"]
    tested = f", {held_out['loss']:.4f} on the documents held out" if held_out else ""
    say(
        f"{f'stopped after {done:,} of' if done < wanted else 'trained'} {count(wanted, 'step')} "
        f"in {model.training['seconds']:.1f} s, loss {loss:.4f} (mean of the last "
        f"{min(done, 100)}){tested}; saved to {output}"
    )
    spark([line["loss"] for line in model.metrics], sys.stderr)
    if held_out and held_out["over_fitted"]:
        say(
            f"over-fitting: behind step {held_out['best_step']:,} the model did worse on the "
            "documents held out, so the model of that step is kept; fewer steps or a smaller "
            "model are enough for this list"
        )


def final_loss(metrics: list[dict[str, float]]) -> float:
    """The mean over the last 100 steps: a single step's loss is that of a few documents."""
    last = metrics[-100:]
    return sum(line["loss"] for line in last) / len(last)


@dataclass
class Stop:
    """What Ctrl-C does: asks training to stop, and nothing while the model is saved."""

    asked: bool = False
    saving: bool = False


@contextmanager
def stop_on_ctrl_c() -> Iterator[Stop]:
    """The first Ctrl-C keeps what was learned, the second one stops at once."""
    stop = Stop()

    def on_signal(_signum: int, _frame: types.FrameType | None) -> None:
        if stop.asked and not stop.saving:
            raise KeyboardInterrupt
        first = not stop.asked
        stop.asked = True
        if first and not stop.saving:
            say("\nstopping; Ctrl-C again to quit without saving")

    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:  # started in the background: someone else's Ctrl-C
        yield stop
        return
    signal.signal(signal.SIGINT, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
