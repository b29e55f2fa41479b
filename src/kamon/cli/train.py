"""Learn a list, save the model, and make 20 new names with it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from traceback import print_exception
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    count,
    json_keys,
    print_json,
    print_marked,
    print_texts,
    progress_bar,
    say,
    say_corpus,
    say_cut,
    say_resumed,
    show_training,
    spark,
)
from kamon.cli.parser import Parser, whole_number
from kamon.cli.settings import (
    add_engine,
    add_input,
    add_json,
    add_reading,
    add_settings,
    check_unread,
    chosen_engine,
    reading,
    settings,
)
from kamon.config import SETTINGS
from kamon.engines.base import has_fused_ops
from kamon.engines.distributed import check_engine, get_group, restarted, this_rank
from kamon.errors import ConfigError
from kamon.tokenizers.base import BPE_VOCAB
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import wants_nfc
from kamon.training.presets import ORIGINAL

if TYPE_CHECKING:
    from kamon.config import Config
    from kamon.data.corpus import Corpus
    from kamon.model import Model
    from kamon.packing.shards import Shards
    from kamon.training.setup import TrainingSetup

NUM_SAMPLES = 20
LONG_ENTRY = 10  # characters in the mean, of which byte pairs make fewer tokens
MAX_COUNTED = 1_000_000  # characters, of which n-grams are counted beside the model


def add_arguments(parser: Parser) -> None:
    add_input(parser)
    parser.set_defaults(input=None)
    parser.add_argument("-o", "--output", metavar="DIR", help="where the model goes (model)")
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
        "--no-holdout",
        action="store_true",
        help="learn from all documents: hold none out to test on",
    )
    add_reading(parser)
    parser.add_argument(
        "--tokenizer",
        default="char",
        metavar="NAME",
        help="char (the default), bpe, or a file that `kamon tokenizer train` wrote",
    )
    parser.add_argument(
        "--vocab-size", type=whole_number, metavar="N", help=f"tokens of bpe ({BPE_VOCAB:,})"
    )
    add_json(parser)
    add_engine(parser)
    group = parser.add_argument_group("interrupted and longer trainings")
    group.add_argument(
        "--resume",
        metavar="DIR",
        help="go on with the training in DIR, as if it had never been interrupted",
    )
    group.add_argument(
        "--extend",
        type=whole_number,
        default=0,
        metavar="N",
        help="with --resume: N steps more than were planned",
    )
    group.add_argument(
        "--init-from",
        metavar="DIR",
        help="start a new training from the tokens and parameters of the model in DIR",
    )
    group.add_argument(
        "--checkpoint-every",
        metavar="N",
        help="keep the training every N steps, or every time such as 30s; by default so seldom "
        "that it takes a hundredth of the time or less",
    )
    add_settings(parser, picked=True)


def run(args: argparse.Namespace) -> int:
    rank = this_rank()
    if rank:
        be_silent()
    chosen = settings(args)
    check_resume(args)
    from kamon.training.options import checkpoint_interval

    checkpoint_interval(args.checkpoint_every, "--checkpoint-every")
    output, engine = args.resume, {}
    if args.resume is None:
        output = "model" if args.output is None else args.output
        engine = check_new(args, output)
    source = open_source(args, chosen.get("mode", "documents"))
    with stop_on_signals() as stop:
        model = train_model(args, source, output, chosen, engine, stop)
    # Share the signal among the ranks, and let none exit before rank 0 has saved: torchrun would
    # see a failure.
    stop.signal = int(get_group().all_reduce_max(stop.signal or 0)) or None
    stopped = stop.code(model)
    if model.metrics and not rank:
        show_result(args, model, output, stopped)
    return stopped


def check_new(args: argparse.Namespace, output: str) -> dict[str, Any]:
    """Return the engine of a new run. Raises an error for what `train` would refuse later."""
    from kamon.storage import model_dir
    from kamon.training.presets import check_picks

    engine = chosen_engine(args)
    check_engine(engine["engine"])
    check_picks(args.budget, args.size)
    if not restarted() and not this_rank():
        model_dir.check_target(output, overwrite=args.overwrite)
    return engine


def open_source(args: argparse.Namespace, mode: str) -> Corpus | Shards | None:
    """Return the list or the packed corpus to learn, read as the tokenizer or the base needs it."""
    from kamon.data import corpus
    from kamon.packing.shards import is_packed
    from kamon.storage import model_dir

    name = "names" if args.input is None and args.resume is None else args.input
    if name is None:
        return None
    group, base, composed = get_group(), args.resume or args.init_from, True
    if base is not None:
        found = group.run_on_all(lambda: None if group.rank else model_dir.load(base))
        kept = f"{found.config.mode} {found.tokenizer.composed}" if found else ""
        mode, form = group.broadcast_bytes(kept.encode()).decode().split()
        composed = form == "True"
    else:
        composed = group.run_on_all(lambda: wants_nfc(args.tokenizer))
    if is_packed(name):
        return group.run_on_all(lambda: packed_corpus(name, args))
    source = group.run_on_all(
        lambda: corpus.read(name, **reading(args), mode=mode, composed=composed)
    )
    say_corpus(source, name)
    return source


def train_model(
    args: argparse.Namespace,
    source: Corpus | Shards | None,
    output: str,
    chosen: dict[str, Any],
    engine: dict[str, Any],
    stop: Stop,
) -> Model:
    """Train a new model, or resume a run, with progress on stderr."""
    from kamon.api import resume, train

    with progress_bar(show_training) as on_progress:
        common = {
            "checkpoint_every": args.checkpoint_every,
            "on_start": lambda setup: say_start(args, setup, source, chosen),
            "on_progress": on_progress,
            "should_stop": lambda: stop.signal is not None,
        }
        if args.resume is not None:
            return resume(
                args.resume,
                extend=args.extend,
                docs=source,
                threads=args.threads,
                device=args.device,
                compile=args.compile,
                **common,
                **chosen,
            )
        assert source is not None
        return train(
            source,
            tokenizer=args.tokenizer,
            vocab_size=args.vocab_size,
            hold_out=not args.no_holdout,
            budget=args.budget,
            size=args.size,
            output=output,
            overwrite=args.overwrite,
            init_from=args.init_from,
            **common,
            **engine,
            **chosen,
        )


def say_start(
    args: argparse.Namespace,
    setup: TrainingSetup,
    source: Corpus | Shards | None,
    chosen: dict[str, Any],
) -> None:
    from kamon.engines.parameters import num_params
    from kamon.training.data import NONE_HELD_OUT

    say_resumed(setup.resumed)
    say_cut(setup)
    if setup.held_out:
        unit = "window" if setup.config.mode == "text" else "document"
        say(f"{count(len(setup.held_out), unit)} held out to test on")
    elif args.resume is None and not args.no_holdout and holds_out(source):
        say(NONE_HELD_OUT)
    c = setup.config
    say(
        f"model: {num_params(c):,} parameters; n_layer {c.n_layer}, n_embd {c.n_embd}, "
        f"n_head {c.n_head}, block_size {c.block_size}, vocab_size {c.vocab_size}; "
        f"{setup.engine_name} engine, {setup.engine.dtype}"
    )
    if not setup.resumed:
        say_picked(c, chosen)


def show_result(args: argparse.Namespace, model: Model, output: str, stopped: int) -> None:
    """Print samples, or everything as JSON, after a line about the loss."""
    loss = final_loss(model.metrics)
    say_trained(model, loss, output)
    if stopped:
        say(f"`kamon train --resume {output}` goes on from here")
    is_text = model.config.mode == "text"
    samples = [] if stopped else model.sample(1 if is_text else NUM_SAMPLES)
    known = set() if is_text else model.docs.intersection(samples)
    marked = [(text, text in known) for text in samples]
    if args.json:
        print_json(
            {
                "directory": output,
                "config": asdict(model.config),
                "num_params": model.num_params,
                **json_keys(model.training),
                "loss": loss,
                "samples": [{"text": text, "in_list": known} for text, known in marked],
            }
        )
    elif is_text:
        print_texts(samples)
    else:
        print_marked(marked)
        if marked and all(known for _, known in marked):
            say(
                f"all of these are in the list: `kamon sample {output} --novel` makes others, and "
                "--temperature 1 bolder ones"
            )


def be_silent() -> None:
    """Of several processes the first speaks for all; what should never happen is still said."""
    said = sys.stderr
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.excepthook = lambda kind, error, where: print_exception(kind, error, where, file=said)


def packed_corpus(path: str, args: argparse.Namespace) -> Shards:
    """What `kamon pack` wrote there; ConfigError for flags that say how to read a file."""
    from kamon.packing.shards import open_shards

    check_unread(args, "a file, and INPUT is packed")
    shards = open_shards(path)
    say(
        f"{path}: {count(shards.num_docs('train'), 'document')}, "
        f"{count(shards.num_tokens('train'), 'token')} to learn from"
    )
    return shards


def holds_out(source: Corpus | Shards | None) -> bool:
    """Whether some of it would be held out if it were longer."""
    from kamon.packing.shards import Shards

    return source.may_hold_out if isinstance(source, Shards) else True


def check_resume(args: argparse.Namespace) -> None:
    """ConfigError for flags that say nothing, or something else, where a training goes on."""
    if args.resume is None:
        if args.extend:
            raise ConfigError("--extend makes a training longer: name its DIR with --resume")
        return
    if not args.resume:
        raise ConfigError("--resume needs the DIR of a training, not an empty name")
    given = {
        "-o": args.output is not None,
        "--overwrite": args.overwrite,
        "--budget": args.budget is not None,
        "--size": args.size is not None,
        "--no-holdout": args.no_holdout,
        "--init-from": args.init_from is not None,
        "--engine": args.engine is not None,
        "--dtype": args.dtype is not None,
        "--tokenizer": args.tokenizer != "char",
        "--vocab-size": args.vocab_size is not None,
    }
    for flag, there in given.items():
        if there:
            raise ConfigError(
                f"{flag} cannot be changed where a training goes on: leave it out, or start a new "
                f"one with --init-from {args.resume}"
            )
    if args.input is None:
        check_unread(args, "an INPUT, and there is none")


def say_picked(config: Config, chosen: dict[str, Any]) -> None:
    """The flags that make the same model again, besides those that were given."""
    flags = [
        f"--{field.name.replace('_', '-')} {getattr(config, field.name)}"
        for field in SETTINGS
        if field.name not in chosen and getattr(config, field.name) != field.default
    ]
    if flags:
        say(f"picked: --size {ORIGINAL} {' '.join(flags)}")


def say_trained(model: Model, loss: float, output: str) -> None:
    done, wanted = len(model.metrics), model.config.num_steps
    held_out = model.training["held_out"]
    tested = f", {held_out['loss']:.4f} on {what_is_held_out(model)}" if held_out else ""
    if held_out and held_out["over_fitted"]:
        tested += f" at step {held_out['best_step']:,}"
    say(
        f"{f'stopped after {done:,} of' if done < wanted else 'trained'} {count(wanted, 'step')} "
        f"in {model.training['seconds']:.1f} s, loss {loss:.4f} (mean of the last "
        f"{min(done, 100)}){tested}; saved to {output}"
    )
    spark([line["loss"] for line in model.metrics], sys.stderr)
    if held_out and held_out["over_fitted"]:
        say(
            f"over-fitting: after step {held_out['best_step']:,} the model did worse on "
            f"{what_is_held_out(model)}, so Kamon keeps the model of that step{advice(model)}"
        )


def advice(model: Model) -> str:
    """What may help a model that over-fits, and whether counting does better, which is found for a
    list that is short."""
    may = [] if model.config.dropout else ["--dropout 0.3"]
    learned, held_out = model.parts()
    chars = sum(map(len, learned))
    if isinstance(model.tokenizer, CharTokenizer) and chars >= LONG_ENTRY * len(learned):
        may.append("--tokenizer bpe")
    found = f"; {' or '.join(may)} may help" if may else ""
    if not held_out or chars > MAX_COUNTED or not has_fused_ops(model.engine):
        return found
    from kamon.evaluation.introspection import ngram_loss

    nats, _ = ngram_loss(model)
    loss = model.training["held_out"]["loss"]
    found += (
        f". On {what_is_held_out(model)} the best n-gram reaches {nats:.4f} nats per token, the "
        f"model {loss:.4f}"
    )
    return f"{found}: `kamon ngram` does better on this list" if nats < loss else found


def what_is_held_out(model: Model) -> str:
    return "the text held out" if model.writes_text else "the documents held out"


def final_loss(metrics: Sequence[dict[str, float]]) -> float:
    """The mean over the last 100 steps: a single step's loss is that of a few documents."""
    last = metrics[-100:]
    return sum(line["loss"] for line in last) / len(last)


@dataclass
class Stop:
    """Which signal asked the training to stop."""

    signal: int | None = None

    def code(self, model: Model) -> int:
        """The exit code; that there is nothing to save is said. A signal that came too late to stop
        anything is no stop."""
        if not model.metrics:
            say("stopped before the first step was done: there is nothing to save")
        return 0 if self.signal is None or model.training["finished"] else 128 + self.signal


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """The first Ctrl-C or SIGTERM ends training and keeps what was learned; the second ends all at
    once, with what was kept before."""
    stop = Stop()

    def on_signal(number: int, _frame: types.FrameType | None) -> None:
        if stop.signal is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            raise SystemExit(128 + number)
        stop.signal = number
        again = "Ctrl-C again" if number == signal.SIGINT else "the same again"
        say(f"\nstopping; {again} to quit with what was kept before")

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # meant for others, if we do not hear it
            before[number] = signal.signal(number, on_signal)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
