"""Learn a list, save the model, and make 20 new names with it."""

from __future__ import annotations

import argparse
import signal
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from kamon.cli.output import (
    count,
    one_line,
    print_json,
    progress_bar,
    say,
    say_corpus,
    say_cut,
)
from kamon.cli.parser import Parser
from kamon.cli.settings import (
    add_engine,
    add_input_format,
    add_json,
    add_settings,
    chosen_engine,
    settings,
)

NUM_SAMPLES = 20


def add_arguments(parser: Parser) -> None:
    parser.add_argument(
        "input",
        nargs="?",
        default="names",
        metavar="INPUT",
        help="a file with one document a line, .csv, .tsv or .jsonl; - for standard input; "
        "or a built-in list: names (the default), names-original",
    )
    parser.add_argument(
        "-o", "--output", default="model", metavar="DIR", help="where the model goes (model)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model in DIR")
    add_input_format(parser)
    add_json(parser)
    add_engine(parser)
    add_settings(parser)


def run(args: argparse.Namespace) -> int:
    chosen = settings(args)
    engine = chosen_engine(args)

    from kamon import corpus, store
    from kamon.api import Run, train
    from kamon.model import num_params

    store.check_target(args.output, overwrite=args.overwrite)
    source = corpus.read(args.input, column=args.column, format=args.format)
    say_corpus(source, args.input)

    def on_start(run: Run) -> None:
        say_cut(run)
        c = run.config
        say(
            f"model: {num_params(c):,} parameters; n_layer {c.n_layer}, n_embd {c.n_embd}, "
            f"n_head {c.n_head}, block_size {c.block_size}, vocab_size {c.vocab_size}; "
            f"{engine['engine']} engine, {run.engine.dtype}"
        )

    with stop_on_ctrl_c() as stop:
        with progress_bar() as on_progress:
            model = train(
                source,
                on_start=on_start,
                on_progress=on_progress,
                should_stop=lambda: stop.asked,
                **engine,
                **chosen,
            )
        stop.saving = True
        if not model.metrics:
            say("stopped before the first step was done: there is nothing to save")
            return 130
        model.save(args.output, overwrite=args.overwrite)
    done, wanted = len(model.metrics), model.config.num_steps
    loss = final_loss(model.metrics)
    say(
        f"{f'stopped after {done:,} of' if done < wanted else 'trained'} {count(wanted, 'step')} "
        f"in {model.training['seconds']:.1f} s, loss {loss:.4f} (mean of the last "
        f"{min(done, 100)}); saved to {args.output}"
    )
    samples = [] if stop.asked else model.sample(NUM_SAMPLES)
    marked = [(text, text in source.different) for text in samples]
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
        width = max((len(one_line(text)) for text, known in marked if known), default=0)
        for text, known in marked:
            shown = one_line(text)
            print(f"{shown:{width}}  (in the list)" if known else shown)
    return 130 if stop.asked else 0


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
