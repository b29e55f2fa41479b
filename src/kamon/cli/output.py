"""What commands print: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from kamon.errors import ConfigError, without_python
from kamon.evaluation.curves import spark_line

if TYPE_CHECKING:
    from kamon.config import Config
    from kamon.data.corpus import Corpus
    from kamon.engines.base import Engine
    from kamon.evaluation.evaluate import LossMetrics
    from kamon.generation.constraints import SampleResult
    from kamon.model import Model
    from kamon.training.loop import Progress
    from kamon.training.setup import ResumePoint, TrainingSetup

P = TypeVar("P")
RED, GREEN, YELLOW, CYAN, BOLD, DIM = "1;31", "32", "1;33", "36", "1", "2"  # codes of ANSI
LABEL_WIDTH = 16


@dataclass
class Verbosity:
    """What --quiet and --verbose ask for."""

    quiet: bool = False
    verbose: bool = False


VERBOSITY = Verbosity()


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    if quiet and verbose:
        raise ConfigError("--quiet and --verbose exclude each other", "choose one")
    VERBOSITY.quiet, VERBOSITY.verbose = quiet, verbose


def say(text: str) -> None:
    """Print a message on stderr, unless --quiet is given."""
    if not VERBOSITY.quiet:
        write_message(text)


def say_details(text: str) -> None:
    """Print a message on stderr if --verbose is given."""
    if VERBOSITY.verbose:
        write_message(text)


def write_message(text: str) -> None:
    """Print a line on stderr, above the progress bar if there is one."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        print(text, file=sys.stderr)
    else:
        tqdm.tqdm.write(text, file=sys.stderr)


def warn(message: str, hint: str | None = None) -> None:
    """Print a warning on stderr, and what to do about it."""
    write_message(f"{styled('warning:', YELLOW)} {one_line(message)}")
    if hint is not None:
        write_hint(hint)


def say_hint(hint: str) -> None:
    """Print what the user may do next, unless --quiet is given."""
    if not VERBOSITY.quiet:
        write_hint(hint)


def write_hint(hint: str) -> None:
    write_message(f"{styled('hint:', CYAN)} {one_line(hint)}")


def say_error(message: str, hint: str | None = None) -> None:
    """Print an error on stderr, and what to do about it."""
    write_message(f"{styled('error:', RED)} {one_line(message)}")
    if hint is not None:
        write_hint(without_python(hint))


def styled(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return the text in a colour if `stream` (stderr) is a terminal and NO_COLOR is not set."""
    stream = sys.stderr if stream is None else stream
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty():
        return text
    return f"\x1b[{style}m{text}\x1b[0m"


def labelled(label: str, text: str, stream: TextIO | None = None) -> str:
    """Return a line such as `Engine           native, float32`."""
    return f"{styled(f'{label:{LABEL_WIDTH}}', BOLD, stream)} {text}"


def done(verb: str, text: str) -> str:
    """Return a message of success, such as `Wrote names.py`."""
    return f"{styled(verb, GREEN)} {text}"


def count(n: int, thing: str) -> str:
    """
    >>> count(1, "entry"), count(1_200, "entry"), count(2, "step")
    ('1 entry', '1,200 entries', '2 steps')
    """
    if n == 1:
        return f"{n:,} {thing}"
    return f"{n:,} {thing.removesuffix('y')}ies" if thing.endswith("ry") else f"{n:,} {thing}s"


def short(number: float) -> str:
    """
    >>> short(812.4), short(23_456), short(1_234_567)
    ('812', '23.5k', '1.23M')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


def one_line(text: str) -> str:
    """Return the text with line ends and other control characters escaped."""
    if text.isprintable():  # fast, and true for nearly all texts
        return text
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda c: repr(c[0])[1:-1], text)


def entry_line(text: str) -> str:
    """Return an entry as a line of stdout. For a program only its line ends are escaped."""
    if text.isprintable():
        return text
    if sys.stdout.isatty():
        return one_line(text)
    return text.replace("\r", "\\r").replace("\n", "\\n")


def has_line_end(text: str) -> bool:
    return "\n" in text or "\r" in text


def say_line_ends(number: int) -> None:
    if number:
        have = "entry has" if number == 1 else "entries have"
        message = f"{number:,} {have} line ends inside, written as \\n or \\r"
        warn(message, "--json keeps line ends as they are")


def columns(text: str) -> int:
    """Return the number of columns of a terminal that show the text: 東 takes two."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    width = wcswidth(text)
    return len(text) if width < 0 else width


def padded(text: str, width: int) -> str:
    return text + " " * (width - columns(text))


def json_line(content: dict[str, Any]) -> str:
    """Return an object on one line, in ASCII. Numbers that are not finite become null."""
    import json

    try:
        return json.dumps(content, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(content), parse_constant=lambda _: None))


def print_losses(title: str, width: int, rows: Iterable[tuple[str, LossMetrics]]) -> None:
    """Print a table with a row of losses for each name, `width` columns for the names."""
    print(f"{title:{width}} {'nats/token':>12} {'bits/character':>17} {'perplexity':>11}")
    for name, row in rows:
        shown = "over 1e304" if row.perplexity is None else f"{row.perplexity:.3f}"
        print(f"{name:<{width}} {row.nats_per_token:12.3f} {row.bits_per_char:17.3f} {shown:>11}")


def print_json(content: dict[str, Any]) -> None:
    print(json_line(content))


def model_json(model: Model, path: str) -> dict[str, Any]:
    config = asdict(model.config)
    about = {"directory": path, "config": config, "num_params": model.num_params}
    return about | json_keys(model.training)


def json_keys(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record of a model or of shards with the keys of --json.

    >>> json_keys({"held_out": {"loss": 2.5}, "pairs": {"held_out": True}})
    {'validation': {'loss': 2.5}, 'pairs': {'on_validation_set': True}}
    """
    found = {}
    for name, value in record.items():
        key = name.replace("held_out", "validation")
        if name == "held_out" and isinstance(value, bool):
            key = "on_validation_set"
        found[key] = json_keys(value) if isinstance(value, dict) else value
    return found


def say_built_in(given: str, names: Collection[str]) -> None:
    """Say that a name is built-in data if the folder has a file of that name, too."""
    if given in names and os.path.isfile(given):
        warn(f"this is the built-in {given}, not your file", f"name your own file ./{given}")


def say_corpus(source: Corpus, given: str, num_rows: int | None = None) -> None:
    """Print the number of entries, and how many lines Kamon changed or dropped.

    num_rows: unique rows of a table, which may have an entry several times.
    """
    from kamon.data.builtin import BUILT_IN

    say_built_in(given, BUILT_IN)
    unique = len(source.different) if num_rows is None else num_rows
    repeated = len(source.docs) - unique
    details = [count(len(source.docs), "entry")]
    if len(source.docs) == 1:
        details[0] += f" of {len(source.docs[0]):,} characters"
    if repeated:
        details.append(count(repeated, "duplicate"))
    if source.num_blank:
        details.append(f"{count(source.num_blank, 'blank line')} dropped")
    if source.num_stripped:
        details.append(f"{count(source.num_stripped, 'line')} trimmed")
    if source.num_normalized:
        details.append(f"{count(source.num_normalized, 'line')} normalised to NFC")
    say(labelled("Data", f"{source.source}: {', '.join(details)}"))
    say_notes(source)


def say_notes(source: Corpus) -> None:
    for note in source.note.splitlines():
        warn(f"{source.source} {note}")


def say_resumed(resumed: ResumePoint | None) -> None:
    """Print where a run continues, and what is wrong with later checkpoints."""
    if resumed:
        for problem in resumed.problems:
            warn(problem)
        text = f"from checkpoint {resumed.generation}, after step {resumed.num_steps_done:,}"
        say(labelled("Resuming", text))


def say_model(config: Config, engine_name: str, engine: Engine, start: str = "") -> None:
    """Print the size of the model, and what computes it.

    start: what it starts from, such as "medium preset".
    """
    from kamon.engines.parameters import num_params

    size = f"{num_params(config):,} parameters, {shape_of(config)}"
    say(labelled("Model", f"{start}, {size}" if start else size))
    say(labelled("Engine", f"{engine_name}, {engine.dtype}"))


def shape_of(config: Config) -> str:
    return f"{count(config.n_layer, 'layer')}, width {config.n_embd}"


def say_cut(run: TrainingSetup) -> None:
    from kamon.engines.batch import PackedBatch

    if run.num_cut:
        size, longest = run.config.block_size, run.longest
        hint = f"--block-size {longest + 1} holds the longest ({longest:,})"
        if isinstance(run.docs, PackedBatch):  # not a packed corpus
            hint += ", and --long-documents windows trains on all parts"
        warn(
            f"{count(run.num_cut, 'entry')} longer than {count(size - 1, run.tokenizer.unit)}, "
            f"the most that block_size {size} holds: their ends are cut off",
            None if run.resumed else hint,
        )


def loss_curve(losses: Sequence[float], stream: TextIO) -> str:
    """Return the first loss, a curve of all losses, and the mean of the last 100."""
    first, last, line = f"{losses[0]:.3f}", f"{recent(losses):.3f}", spark_line(losses)
    try:
        line.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        line = "to"
    return f"{first} {line} {last}"


def recent(losses: Sequence[float]) -> float:
    """Return the mean loss of the last 100 steps, since each sees only a few entries."""
    last = losses[-100:]
    return sum(last) / len(last)


def print_marked(samples: Sequence[str], known: Collection[str] = ()) -> None:
    """Print one sample per line, and mark those that are known."""
    shown = [(entry_line(text), text in known) for text in samples]
    width = max((columns(text) for text, copied in shown if copied), default=0)
    for text, copied in shown:
        print(f"{padded(text, width)}  (in the list)" if copied else text)
    say_line_ends(sum(map(has_line_end, samples)))


def marked_json(samples: Sequence[str], known: Collection[str]) -> list[dict[str, Any]]:
    return [{"text": text, "in_list": text in known} for text in samples]


def say_unfinished(sizes: Sequence[int], block_size: int, unit: str = "character") -> None:
    """Print how many samples have no end, because they have as many tokens as block_size allows."""
    if unfinished := sum(size == block_size for size in sizes):
        limit = f"{block_size} {unit}s"
        warn(f"{unfinished:,} of {len(sizes):,} have no end: the model did not end them in {limit}")


def say_left_out(result: SampleResult, n: int, option: str, *, stopped: bool = False) -> None:
    """Print how many candidates were left out, and whether there are fewer than n samples.

    option: what includes copies and duplicates. stopped: whether a signal ended the search.
    """
    found, tried = len(result.texts), result.num_candidates
    copies, duplicates = result.num_copies, result.num_duplicates
    parts = []
    if copies:
        parts.append(f"{count(copies, 'entry')} of the list")
    if duplicates:
        parts.append(count(duplicates, "duplicate"))
    if parts:
        say(f"Left out {' and '.join(parts)} ({option} includes them)")
    if found < n:
        why, hint = f"no more of {count(tried, 'candidate')} satisfy the conditions", None
        if stopped:
            why = "stopped"
        elif result.complete:
            why = "no other entry satisfies the conditions"
        elif parts and found + copies + duplicates == tried:
            why, hint = "all other candidates were left out", "try a higher --temperature"
        warn(f"found {found:,} of {n:,} samples: {why}", hint)


def show_training(bar: Any, progress: Progress, sample: str = "") -> Any:
    """Return a bar of steps with the loss, the speed and a sample of the model."""
    if bar is None:
        form = (
            "{desc} {percentage:3.0f}% {bar} {n_fmt}/{total_fmt} steps, {remaining} left{postfix}"
        )
        size = {"total": progress.num_steps, "initial": progress.num_before}
        bar = open_bar(desc="Training", bar_format=form, **size)
        if not bar.disable:
            bar.start_t = bar.last_print_t = bar.start_t - progress.seconds
    shown = f"loss {recent(progress.losses):.3f}"
    if progress.tokens_per_second:  # fine-tuning counts no tokens
        shown += f", {short(progress.tokens_per_second)} tokens/s"
    bar.set_postfix_str(f"{shown}, {one_line(sample)}" if sample else shown, refresh=False)
    bar.update(len(progress.losses) - bar.n)
    return bar


@contextmanager
def progress_bar(show: Callable[[Any, P], Any]) -> Iterator[Callable[[P], None] | None]:
    """Yield a function that shows progress on stderr, or None if that is not a terminal.

    show: takes the bar, at first None, and the progress, and returns the new bar.
    """
    if VERBOSITY.quiet or not sys.stderr.isatty():
        yield None
        return
    bar: Any = None

    def update(progress: P) -> None:
        nonlocal bar
        bar = show(bar, progress)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()


def open_bar(**options: Any) -> Any:
    """Return a tqdm bar on stderr that leaves nothing there when it is closed."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # Kamon reports often enough without a thread
    return tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, **options)
