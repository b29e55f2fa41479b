"""Learn a list, save the model, and make 20 new names with it."""

from __future__ import annotations

import os
import signal
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import print_exception
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    count,
    marked_json,
    model_json,
    print_json,
    print_marked,
    progress_bar,
    say,
    say_corpus,
    say_cut,
    say_left_out,
    say_model,
    say_resumed,
    show_training,
    spark,
)
from kamon.cli.parser import Args, Parser, options
from kamon.cli.sample import left_out_json, new_entries
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
    values,
)
from kamon.engines.base import has_fused_ops
from kamon.engines.distributed import check_engine, get_group, restarted, this_rank
from kamon.errors import ConfigError
from kamon.tokenizers.base import BPE_VOCAB
from kamon.tokenizers.load import wants_nfc
from kamon.training.presets import ORIGINAL, size_of

if TYPE_CHECKING:
    from kamon.data.corpus import Corpus
    from kamon.model import Model
    from kamon.packing.shards import Shards
    from kamon.storage.records import CrossValidationRecord, ValidationRecord
    from kamon.training.loop import Progress
    from kamon.training.setup import TrainingSetup

NUM_SAMPLES = 20
FIXED = (  # arguments that cannot be changed when a run is resumed
    *("output", "overwrite", "budget", "size", "from", "no_blend", "no_holdout", "engine", "dtype"),
    *("tokenizer", "vocab_size"),
)
MAX_CANDIDATES = 1_000  # to find so many samples that are not in the list
MAX_CANDIDATES_SLOW = 100
MAX_COUNTED = 1_000_000  # characters, of which n-grams are counted beside the model

OPTIONS = {
    "-o, --output DIR": "where the model goes (model)",
    "--overwrite": "replace the model in DIR",
    "--budget TIME": "time to train, as 500ms, 10s or 2m: picks the settings",
    "--size NAME": "tiny, small, medium (the default), large or huge: picks the settings; "
    "original: those of the original microGPT (the default of the scalar engine)",
    "--from START": "base, the pretrained base of Kamon (the default for lists of up to 20,000 "
    "entries, unless a size or a shape is given); scratch; or the directory of a model, whose "
    "tokens are kept",
    "--no-blend": "do not mix the model with an n-gram of the list",
    "--no-holdout": "learn from all documents: hold none out to test on",
    "--copies": "include entries of the list and duplicates in the names that are printed",
}
TOKENIZER = {
    "--tokenizer NAME": "char (the default), bpe, or a file that `kamon tokenizer train` wrote",
    "--vocab-size N": f"tokens of bpe ({BPE_VOCAB:,})",
}
RESUMING = {
    "--resume DIR": "go on with the training in DIR, as if it had never been interrupted",
    "--extend N": "with --resume: N steps more than were planned",
    "--checkpoint-every N": "keep the training every N steps, or every time such as 30s; by "
    "default so seldom that it takes a hundredth of the time or less",
}


def add_arguments(parser: Parser) -> None:
    add_input(parser)
    parser.set_defaults(input=None)
    options(parser, OPTIONS)
    add_reading(parser)
    options(parser, TOKENIZER, tokenizer="char")
    add_json(parser)
    add_engine(parser)
    group = parser.add_argument_group("interrupted and longer trainings")
    options(group, RESUMING, extend=0, checkpoint_every={"type": str})
    add_settings(parser, picked=True)


def run(args: Args) -> int:
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


def check_new(args: Args, output: str) -> dict[str, Any]:
    """Return the engine of a new run, after the checks that `train` makes later."""
    from kamon.storage import model_dir
    from kamon.training.presets import check_picks

    engine = chosen_engine(args)
    check_engine(engine["engine"])
    check_picks(args.budget, args.size)
    if not restarted() and not this_rank():
        model_dir.check_target(output, overwrite=args.overwrite)
    return engine


def open_source(args: Args, mode: str) -> Corpus | Shards | None:
    """Return the list or the packed corpus, read as the tokenizer or the base needs it."""
    from kamon.data import corpus
    from kamon.packing.shards import is_packed
    from kamon.storage import model_dir
    from kamon.training.base import BASE, SCRATCH

    name = "names" if args.input is None and args.resume is None else args.input
    if name is None:
        return None
    group, base = get_group(), args.resume or start_of(args)
    if base not in (None, BASE, SCRATCH):
        stored = group.run_on_all(lambda: None if group.rank else model_dir.load(base))
        form = f"{stored.config.mode} {stored.tokenizer.composed}" if stored else ""
        mode, word = group.broadcast_bytes(form.encode()).decode().split()
        composed = word == "True"
    else:
        composed = group.run_on_all(lambda: wants_nfc(args.tokenizer))
    if is_packed(name):
        return group.run_on_all(lambda: packed_corpus(name, args))
    how = {**reading(args), "mode": mode, "composed": composed}
    source = group.run_on_all(lambda: corpus.read(name, **how))
    say_corpus(source, name)
    return source


def train_model(
    args: Args,
    source: Corpus | Shards | None,
    output: str,
    chosen: dict[str, Any],
    engine: dict[str, Any],
    stop: Stop,
) -> Model:
    """Train a new model, or resume a run, with progress on stderr."""
    from kamon.api import resume, train

    setups: list[TrainingSetup] = []

    def on_start(setup: TrainingSetup) -> None:
        setups.append(setup)
        say_start(args, setup, source, chosen)

    def show(bar: Any, progress: Progress) -> Any:
        return show_training(bar, progress, preview(setups[0], len(progress.losses)))

    with progress_bar(show) as on_progress:
        common = {
            "checkpoint_every": args.checkpoint_every,
            "on_start": on_start,
            "on_progress": on_progress,
            "should_stop": lambda: stop.signal is not None,
        }
        if args.resume is not None:
            engine = values(args, "threads", "device", "compile")
            common |= {**engine, **chosen}
            return resume(args.resume, extend=args.extend, docs=source, **common)
        assert source is not None
        return train(
            source,
            hold_out=not args.no_holdout,
            output=output,
            blend=not args.no_blend,
            init_from=start_of(args),
            **values(args, "tokenizer", "vocab_size", "budget", "size", "overwrite"),
            **common,
            **engine,
            **chosen,
        )


def say_start(
    args: Args, setup: TrainingSetup, source: Corpus | Shards | None, chosen: dict[str, Any]
) -> None:
    from kamon.packing.shards import Shards
    from kamon.training.data import NONE_HELD_OUT

    may_hold_out = not isinstance(source, Shards) or source.may_hold_out
    say_resumed(setup.resumed)
    say_cut(setup)
    if setup.held_out:
        unit = "window" if setup.config.mode == "text" else "document"
        say(f"{count(len(setup.held_out), unit)} held out to test on")
    elif args.resume is None and not args.no_holdout and may_hold_out:
        say(NONE_HELD_OUT)
    say_model(setup.config, setup.engine_name, setup.engine)
    if not setup.resumed:
        say_picked(args, setup, chosen)


def preview(setup: TrainingSetup, seed: int) -> str:
    """Return what a model in training writes, if that takes no time."""
    from kamon.generation.sampling import SampleRequest, sample_texts

    config = setup.config
    if config.mode == "text" or not has_fused_ops(setup.engine):
        return ""
    request = SampleRequest(1, config.temperature, seed, setup.tokenizer.bos)
    return sample_texts(setup.engine, setup.tokenizer, request)[0][0]


def show_result(args: Args, model: Model, output: str, stopped: int) -> None:
    """Print samples, or everything as JSON, after lines about the losses."""
    loss = final_loss(model.metrics)
    say_trained(model, loss, output)
    if stopped:
        say(f"`kamon train --resume {output}` goes on from here")
    n = 0 if stopped else 1 if model.writes_text else NUM_SAMPLES
    most = MAX_CANDIDATES if has_fused_ops(model.engine) else MAX_CANDIDATES_SLOW
    conditions = {} if args.copies else new_entries(model)
    found = model.generate(n, should_stop=lambda tried: tried >= most, **conditions)
    known = set() if model.writes_text else model.docs.intersection(found.texts)
    if args.json:
        samples = marked_json(found.texts, known)
        more = {"loss": loss, "left_out": left_out_json(found), "samples": samples}
        print_json(model_json(model, output) | more)
    elif model.writes_text:
        print(*found.texts, sep="\n\n")
    else:
        print_marked(found.texts, known)
    say_left_out(found, n, f"`kamon sample {output} --copies`")


def be_silent() -> None:
    """Print nothing more but unexpected errors: of several processes only the first prints."""
    stderr = sys.stderr
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.excepthook = lambda kind, error, where: print_exception(kind, error, where, file=stderr)


def packed_corpus(path: str, args: Args) -> Shards:
    """Return the packed corpus. Raises ConfigError for options that say how to read a file."""
    from kamon.packing.shards import open_shards

    check_unread(args, "a file, and INPUT is packed")
    shards = open_shards(path)
    say(
        f"{path}: {count(shards.num_docs('train'), 'document')}, "
        f"{count(shards.num_tokens('train'), 'token')} to learn from"
    )
    return shards


def check_resume(args: Args) -> None:
    """Raise ConfigError for arguments that cannot be given with --resume, or without it."""
    if args.resume is None:
        if args.extend:
            raise ConfigError("--extend makes a training longer: name its DIR with --resume")
        return
    if not args.resume:
        raise ConfigError("--resume needs the DIR of a training, not an empty name")
    defaults = {"overwrite": False, "no_blend": False, "no_holdout": False, "tokenizer": "char"}
    for name in FIXED:
        if getattr(args, name) != defaults.get(name):
            flag = "-o" if name == "output" else f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} cannot be changed where a training goes on: leave it out, or start a new "
                f"one with --from {args.resume}"
            )
    if args.input is None:
        check_unread(args, "an INPUT, and there is none")


def start_of(args: Args) -> str | None:
    start: str | None = getattr(args, "from")
    return start


def say_picked(args: Args, setup: TrainingSetup, chosen: dict[str, Any]) -> None:
    """Print the options that make the same model again, besides those that were given."""
    from kamon.training.base import BASE

    size, flags = args.size, []
    if setup.start is None and size is None:
        size = size_of(setup.config, chosen)
        flags = [f"--size {size}"]
    elif setup.start and start_of(args) is None:
        flags = [f"--from {BASE}"]
    if setup.start is None and size in (None, ORIGINAL):
        return
    # Cross-validation picks the number of steps and what depends on it again.
    if "num_steps" not in chosen and not setup.cross_validation:
        flags.append(f"--num-steps {setup.config.num_steps}")
    if flags:
        say(f"picked: {' '.join(flags)}")


def say_trained(model: Model, loss: float, output: str) -> None:
    done, wanted = len(model.metrics), model.config.num_steps
    verb = f"stopped after {done:,} of" if done < wanted else "trained"
    say(
        f"{verb} {count(wanted, 'step')} in {model.training.seconds:.1f} s, loss {loss:.4f} "
        f"(mean of the last {min(done, 100)}); saved to {output}"
    )
    spark([line["loss"] for line in model.metrics], sys.stderr)
    training = model.training
    if crossed := training.cross_validation:
        about = f"{crossed.num_folds}-fold cross-validation; {losses_of_parts(model, crossed)}"
        say(f"loss {nats(crossed.loss)} on entries left out in turn ({about})")
    elif held_out := training.held_out:
        parts = f" ({losses_of_parts(model, held_out)})" if training.blend else ""
        say(f"validation loss {nats(held_out.loss)} nats per token{parts}{about_best_step(model)}")


def losses_of_parts(model: Model, losses: ValidationRecord | CrossValidationRecord) -> str:
    """Return the losses of the GPT and the n-gram of a blend."""
    blend, gpt, ngram = model.training.blend, losses.gpt_loss, losses.ngram_loss
    assert blend
    assert gpt is not None
    assert ngram is not None
    return f"GPT {nats(gpt)}, {blend.order}-gram {nats(ngram)}"


def nats(loss: float) -> str:
    """Return a loss with three significant digits.

    >>> nats(2), nats(0.98765), nats(123.4)
    ('2.00', '0.988', '123')
    """
    return f"{loss:#.3g}".rstrip(".")


def about_best_step(model: Model) -> str:
    """Return which step a model that over-fits is from, and what may help if it has one part."""
    measured = model.training.held_out
    if not measured or not measured.over_fitted:
        return ""
    text = f" after step {measured.best_step:,}: Kamon keeps that model, since later ones are worse"
    if model.training.blend or model.training.get("init_from"):
        return text
    if not model.config.dropout:
        text += "; --dropout 0.3 may help"
    learned, _ = model.parts()
    if sum(map(len, learned)) > MAX_COUNTED or not has_fused_ops(model.engine):
        return text
    from kamon.evaluation.introspection import ngram_loss

    loss, order = ngram_loss(model)
    better = ", which is better" if loss < measured.loss else ""
    return f"{text}. The best n-gram has {nats(loss)} (order {order}){better}"


def final_loss(metrics: Sequence[dict[str, float]]) -> float:
    """Return the mean loss of the last 100 steps, since each sees only a few documents."""
    last = metrics[-100:]
    return sum(line["loss"] for line in last) / len(last)


@dataclass
class Stop:
    """The signal that asked the run to stop, if any."""

    signal: int | None = None

    def code(self, model: Model) -> int:
        """Return the exit code: 0 if the run was finished when the signal came."""
        if not model.metrics:
            say("stopped before the first step was done: there is nothing to save")
        return 0 if self.signal is None or model.training.finished else 128 + self.signal


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Make the first Ctrl-C or SIGTERM stop and save the run, and the second one quit at once."""
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
