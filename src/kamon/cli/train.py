"""Train a model on a list.

Kamon saves the model and prints 20 new entries. A tenth of the entries is the validation set. The
checkpoint with the lowest validation loss becomes the model. Lists of fewer than 100 entries use
cross-validation instead.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from traceback import print_exception
from typing import TYPE_CHECKING, Any

from kamon.cli.output import (
    count,
    done,
    labelled,
    loss_curve,
    marked_json,
    model_json,
    print_json,
    print_marked,
    progress_bar,
    recent,
    say,
    say_corpus,
    say_cut,
    say_details,
    say_hint,
    say_left_out,
    say_model,
    say_resumed,
    show_training,
    warn,
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
from kamon.cli.stop import LAST_CHECKPOINT, Stop, code_of_run, stop_on_signals
from kamon.config import Config
from kamon.engines.base import has_fused_ops
from kamon.engines.distributed import check_engine, get_group, restarted, this_rank
from kamon.errors import ConfigError
from kamon.tokenizers.base import BPE_VOCAB
from kamon.tokenizers.load import wants_nfc
from kamon.training.base import BASE, SCRATCH
from kamon.training.presets import FINE_TUNING, LONG_FINE_TUNING, ORIGINAL, size_of

if TYPE_CHECKING:
    from kamon.data.columns import Columns, Table
    from kamon.data.corpus import Corpus
    from kamon.model import Conditions, Model
    from kamon.packing.shards import Shards
    from kamon.storage.records import CrossValidationRecord, ValidationRecord
    from kamon.training.loop import Progress
    from kamon.training.setup import TrainingSetup

NUM_SAMPLES = 20
MAX_BLANK_SHARE = 0.1  # blank lines per entry: a list has fewer, and a text more
FIXED = (  # arguments that a resumed run cannot change
    *("output", "overwrite", "budget", "size", "from", "no_blend", "no_holdout", "engine", "dtype"),
    *("tokenizer", "vocab_size", "given", "weight"),
)
MAX_CANDIDATES = 1_000  # to try, to find samples that are not in the list
MAX_CANDIDATES_SLOW = 100
MAX_COUNTED = 1_000_000  # characters of a list whose n-grams Kamon counts for the warning

EXAMPLES = """\
kamon train names -o names
kamon train names -o better --size large
kamon train names -o quick --budget 1s --from scratch
kamon train people.csv --column name --given country -o people
"""
INPUT_AND_OUTPUT = {
    "-o, --output DIR": "directory to save the model in [default: model]",
    "--overwrite": "replace the model in DIR",
    "--copies": "print copies of the list's entries and duplicates, too",
}
GIVEN = {
    "--given COLUMNS": "columns of a table, such as country,sex: learn the entries of --column "
    "under each combination of their values",
    "--weight COLUMN": "with --given: column of numbers that say how often each row counts",
}
TOKENIZER = {
    "--tokenizer NAME": "char, bpe, or a file of `kamon tokenizer train` [default: char]",
    "--vocab-size N": f"number of tokens of bpe [default: {BPE_VOCAB:,}]",
}
SIZE = {
    "--budget TIME": "training time, such as 500ms, 10s or 2m: chooses the settings",
    "--size NAME": "preset: tiny, small, medium, large, huge, or original (microGPT's settings) "
    "[default: medium, or smaller for a short list, and original for the scalar engine]",
    "--from START": "scratch, base (the pretrained model that Kamon ships) or the directory of a "
    "model to continue from [default: base for up to 20,000 entries, unless you set a size]",
    "--no-blend": "do not blend the model with an n-gram of the list",
    "--no-holdout": "train on all entries, without a validation set",
}
RESUMING = {
    "--resume DIR": "resume the training in DIR exactly where it stopped",
    "--extend N": "with --resume: train N steps more than planned [default: 0]",
    "--checkpoint-every N": "save a checkpoint every N steps, or at intervals such as 30s "
    "[default: takes under 1% of the time]",
}


def add_arguments(parser: Parser) -> None:
    group = parser.add_argument_group("input and output")
    add_input(parser)
    parser.set_defaults(input=None)
    options(group, INPUT_AND_OUTPUT)
    add_json(group)
    add_reading(group)
    options(group, GIVEN)
    options(group, TOKENIZER, tokenizer="char")
    options(parser.add_argument_group("budget and size"), SIZE)
    group = parser.add_argument_group("resuming")
    options(group, RESUMING, extend=0, checkpoint_every={"type": str})
    add_settings(parser, picked=True)
    add_engine(parser.add_argument_group("engine"))


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
    with stop_on_signals(LAST_CHECKPOINT) as stop:
        model = train_model(args, source, output, chosen, engine, stop)
    # Share the signal among the ranks, and let none exit before rank 0 has saved. Otherwise
    # torchrun would see a failure.
    stop.signal = int(get_group().all_reduce_max(stop.signal or 0)) or None
    stopped = code_of_run(stop, model)
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


def open_source(args: Args, mode: str) -> Corpus | Table | Shards | None:
    """Return the list, table or packed corpus, read as the tokenizer or the base needs it."""
    from kamon.api import given_columns
    from kamon.data import corpus
    from kamon.data.columns import Columns
    from kamon.packing.shards import is_packed
    from kamon.storage import model_dir

    name = "names" if args.input is None and args.resume is None else args.input
    if name is None:
        return None
    group, base = get_group(), args.resume or start_of(args)
    if base not in (None, BASE, SCRATCH):
        stored = group.run_on_all(lambda: None if group.rank else model_dir.load(base))
        if stored and stored.training.given and args.resume:
            given = stored.training.given
            return open_table(name, args, Columns(args.column, tuple(given.columns), given.weight))
        form = f"{stored.config.mode} {stored.tokenizer.composed}" if stored else ""
        mode, word = group.broadcast_bytes(form.encode()).decode().split()
        composed = word == "True"
    else:
        composed = group.run_on_all(lambda: wants_nfc(args.tokenizer))
    columns = given_columns(args.column, split_names(args.given), args.weight)
    if columns:
        return group.run_on_all(lambda: open_table(name, args, columns))
    if is_packed(name):
        return group.run_on_all(lambda: packed_corpus(name, args))
    how = {**reading(args), "mode": mode, "composed": composed}
    source = group.run_on_all(lambda: corpus.read(name, **how))
    say_corpus(source, name)
    if source.num_blank > MAX_BLANK_SHARE * len(source.docs):
        say_hint("for running text, add --mode text")
    return source


def split_names(text: str | None) -> list[str] | None:
    return None if text is None else [name.strip() for name in text.split(",")]


def open_table(name: str, args: Args, columns: Columns) -> Table:
    """Return the table with these columns, and print what it has."""
    from kamon.data.columns import read_table

    table = read_table(name, columns, format=args.format, header=not args.no_header)
    say_corpus(table.corpus, name, num_rows=len(table.rows))
    counts = (f"{column} ({count(len(own), 'value')})" for column, own in table.values.items())
    say(labelled("Given", ", ".join(counts)))
    return table


def train_model(
    args: Args,
    source: Corpus | Table | Shards | None,
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
            "should_stop": stop.asked,
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
            given=split_names(args.given),
            weight=args.weight,
            **values(args, "tokenizer", "vocab_size", "budget", "size", "overwrite"),
            **common,
            **engine,
            **chosen,
        )


def say_start(
    args: Args, setup: TrainingSetup, source: Corpus | Table | Shards | None, chosen: dict[str, Any]
) -> None:
    from kamon.data.split import MIN_DOCS
    from kamon.packing.shards import Shards

    may_hold_out = not isinstance(source, Shards) or source.may_hold_out
    say_resumed(setup.resumed)
    if setup.held_out:
        unit = "window" if setup.config.mode == "text" else "entry"
        say(labelled("Validation", count(len(setup.held_out), unit)))
    elif setup.cross_validation:
        how = f"{setup.cross_validation.num_folds}-fold cross-validation"
        say(labelled("Validation", f"{how} (fewer than {MIN_DOCS} unique entries)"))
        say_hint("a longer list makes a better model")
    elif args.resume is None and not args.no_holdout and may_hold_out:
        warn(
            f"no validation set, because the list has fewer than {MIN_DOCS} unique entries",
            "a longer list makes a better model, and shows whether it overfits",
        )
    say_model(setup.config, setup.engine_name, setup.engine, start_text(args, setup, chosen))
    say_cut(setup)
    if not setup.resumed:
        say_settings(args, setup, chosen)


def start_text(args: Args, setup: TrainingSetup, chosen: dict[str, Any]) -> str:
    """Return what the run starts from: a model or a preset."""
    if setup.resumed:
        return ""
    if setup.start is not None:
        start = start_of(args) or BASE
        return "from the pretrained base" if start == BASE else f"from {start}"
    size = args.size or size_of(setup.config, chosen)
    return f"{size} preset" if size else ""


def preview(setup: TrainingSetup, seed: int) -> str:
    """Return a sample of a model in training, or "" if that would be slow."""
    from kamon.generation.sampling import SampleRequest, sample_texts

    config = setup.config
    if config.mode == "text" or setup.data.num_values or not has_fused_ops(setup.engine):
        return ""
    request = SampleRequest(1, config.temperature, seed, setup.tokenizer.bos)
    return sample_texts(setup.engine, setup.tokenizer, request)[0][0]


def show_result(args: Args, model: Model, output: str, stopped: int) -> None:
    """Print samples, or everything as JSON, after lines about the losses."""
    loss = final_loss(model.metrics)
    losses = [line["loss"] for line in model.metrics]
    say_trained(model, losses, output, stopped, resumed=args.resume is not None)
    n = 0 if stopped else 1 if model.writes_text else NUM_SAMPLES
    most = MAX_CANDIDATES if has_fused_ops(model.engine) else MAX_CANDIDATES_SLOW
    conditions: Conditions = {} if args.copies else new_entries(model)
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
    if stopped:
        say_hint(f"resume with `kamon train --resume {output}`")
    elif sys.stderr.isatty():
        number = "" if model.writes_text else " -n 50"
        say_hint(f"make more with `kamon sample {output}{number}`")


def be_silent() -> None:
    """Print only unexpected errors from now on, because only the first process prints."""
    stderr = sys.stderr
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    sys.excepthook = lambda kind, error, where: print_exception(kind, error, where, file=stderr)


def packed_corpus(path: str, args: Args) -> Shards:
    """Return the packed corpus. Raises ConfigError for options that say how to read a file."""
    from kamon.packing.shards import open_shards

    check_unread(args, "a file, and INPUT is packed")
    shards = open_shards(path)
    documents = count(shards.num_docs("train"), "entry")
    tokens = count(shards.num_tokens("train"), "token")
    say(labelled("Data", f"{path}: {documents}, {tokens} for training"))
    return shards


def check_resume(args: Args) -> None:
    """Raise ConfigError for arguments that do not go with --resume, or that need it."""
    if args.resume is None:
        if args.extend:
            raise ConfigError("--extend needs --resume DIR")
        return
    if not args.resume:
        raise ConfigError("--resume needs the directory of a model, not an empty name")
    defaults = {"overwrite": False, "no_blend": False, "no_holdout": False, "tokenizer": "char"}
    for name in FIXED:
        if getattr(args, name) != defaults.get(name):
            flag = "-o" if name == "output" else f"--{name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} cannot be changed when resuming",
                f"leave it out, or start a new run with --from {args.resume}",
            )
    if args.input is None:
        check_unread(args, "an INPUT, and there is none")


def start_of(args: Args) -> str | None:
    start: str | None = getattr(args, "from")
    return start


def say_settings(args: Args, setup: TrainingSetup, chosen: dict[str, Any]) -> None:
    """With --verbose print the options that make the same model again, besides those given."""
    size, flags = args.size, []
    if setup.start is None and size is None:
        size = size_of(setup.config, chosen)
        flags = [f"--size {size}"]
    elif setup.start and start_of(args) is None:
        flags = [f"--from {BASE}"]
    if setup.start is None and size in (None, ORIGINAL):
        return
    # Cross-validation chooses the number of steps again, and what depends on it.
    if "num_steps" not in chosen and not setup.cross_validation:
        flags.append(f"--num-steps {setup.config.num_steps}")
    if setup.start:
        usual = asdict(Config()) | FINE_TUNING
        flags += [
            f"--{name.replace('_', '-')} {getattr(setup.config, name)}"
            for name in sorted(LONG_FINE_TUNING.keys() - chosen)
            if getattr(setup.config, name) != usual[name]
        ]
    if flags:
        say_details(labelled("Settings", " ".join(flags)))


def say_trained(
    model: Model, losses: list[float], output: str, stopped: int, *, resumed: bool
) -> None:
    """Print the steps, the time, and the losses beside those of a uniform model and an n-gram."""
    steps, wanted = len(losses), model.config.num_steps
    verb, of = "Trained", count(steps, "step")
    if steps < wanted:
        verb = "Stopped" if stopped else "Stopped early"
        of = f"after {steps:,} of {count(wanted, 'step')}"
    total = " in total" if resumed else ""
    say("\n" + done(verb, f"{of} in {model.training.seconds:.1f} s{total}"))
    say(done("Saved", f"to {os.path.join(output, '')}"))
    uniform = f"uniform {math.log(model.config.vocab_size):.3f}"
    if steps > 1:
        say(labelled("Loss curve", loss_curve(losses, sys.stderr)))
    text = f"{recent(losses):.3f} nats per token ({uniform})"
    say(labelled("Training loss", text))
    training, blend = model.training, model.training.blend
    if crossed := training.cross_validation:
        parts = losses_of_parts(model, crossed)
        text = f"{crossed.loss:.3f} nats per token ({parts}), {crossed.num_folds}-fold"
        say(labelled("Validation loss", text))
    elif held_out := training.held_out:
        best = None if blend else best_ngram(model)
        parts = losses_of_parts(model, held_out) if blend else best[0] if best else uniform
        text = f"{held_out.loss:.3f} nats per token ({parts})"
        say(labelled("Validation loss", text))
        if held_out.over_fitted:
            step = f"step {held_out.best_step:,}"
            say(f"Kept the model of {step}, which has the lowest validation loss")
            if not blend and not training.get("init_from"):
                warn_overfitting(model, held_out, best[1] if best else None)


def best_ngram(model: Model) -> tuple[str, float] | None:
    """Return the best n-gram's name and loss for a model that over-fits, or None if slow."""
    held_out = model.training.held_out
    if not held_out or not held_out.over_fitted or not has_fused_ops(model.engine):
        return None
    if model.training.get("init_from") or sum(map(len, model.parts()[0])) > MAX_COUNTED:
        return None
    from kamon.evaluation.introspection import ngram_loss

    loss, order = ngram_loss(model)
    return f"{order}-gram {loss:.3f}", loss


def warn_overfitting(model: Model, measured: ValidationRecord, ngram: float | None) -> None:
    """Print what may help a GPT without an n-gram, if anything."""
    hint = None if model.config.dropout else "try --dropout 0.3"
    if ngram is not None and ngram < measured.loss:
        hint = f"{hint or 'use a longer list'}: the n-gram predicts better than the model"
    if hint:
        warn(f"overfitting after step {measured.best_step:,}", hint)


def losses_of_parts(model: Model, losses: ValidationRecord | CrossValidationRecord) -> str:
    """Return the losses of the GPT and the n-gram of a blend."""
    blend, gpt, ngram = model.training.blend, losses.gpt_loss, losses.ngram_loss
    assert blend
    assert gpt is not None
    assert ngram is not None
    return f"GPT {gpt:.3f}, {blend.order}-gram {ngram:.3f}"


def final_loss(metrics: Sequence[dict[str, float]]) -> float:
    return recent([line["loss"] for line in metrics])
