"""What the verbs tell people: results on stdout, everything else on stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

from kamon.evaluation.curves import spark_line

if TYPE_CHECKING:
    from kamon.data.corpus import Corpus
    from kamon.training.loop import Progress
    from kamon.training.setup import ResumePoint, TrainingSetup

P = TypeVar("P")


def say(text: str) -> None:
    """A line on stderr; above a progress bar, if there is one."""
    tqdm = sys.modules.get("tqdm")
    if tqdm is None:
        print(text, file=sys.stderr)
    else:
        tqdm.tqdm.write(text, file=sys.stderr)


def count(n: int, thing: str) -> str:
    return f"{n:,} {thing}" if n == 1 else f"{n:,} {thing}s"


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
    """With line ends and other control characters escaped, for people: none moves a terminal."""
    if text.isprintable():  # as nearly all are, and quickly seen
        return text
    return re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", lambda c: repr(c[0])[1:-1], text)


def entry_line(text: str) -> str:
    """An entry as a line of stdout: for a program as it is, so that Kamon can read it again.

    Only line ends inside it are escaped, for one entry is one line: see `say_line_ends`.
    """
    if text.isprintable():
        return text
    if sys.stdout.isatty():
        return one_line(text)
    return text.replace("\r", "\\r").replace("\n", "\\n")


def has_line_end(text: str) -> bool:
    return "\n" in text or "\r" in text


def say_line_ends(number: int) -> None:
    """That so many entries were not written as they are."""
    if number:
        have = "entry has" if number == 1 else "entries have"
        say(f"{number:,} {have} line ends inside, written as \\n or \\r: --json keeps them")


def columns(text: str) -> int:
    """How many columns of a terminal show it: 東 takes two, an accent none."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    width = wcswidth(text)
    return len(text) if width < 0 else width


def padded(text: str, width: int) -> str:
    """`text` with spaces after it, `width` columns wide."""
    return text + " " * (width - columns(text))


def json_line(content: dict[str, Any]) -> str:
    """One object on one line, in ASCII, so that no terminal or pipe can garble it.

    A number that is not finite, which JSON has not, is null: the logarithm of a probability too
    small for a float.
    """
    import json

    try:
        return json.dumps(content, allow_nan=False)
    except ValueError:
        return json.dumps(json.loads(json.dumps(content), parse_constant=lambda _: None))


def print_json(content: dict[str, Any]) -> None:
    print(json_line(content))


def json_keys(record: dict[str, Any]) -> dict[str, Any]:
    """Return what a file of a model or of shards records, with the keys that --json has.

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
    """That a name is the built-in data, where the folder has a file of that name, too."""
    if given in names and os.path.isfile(given):
        say(f"Kamon uses the built-in {given}: your own file is ./{given}")


def say_corpus(source: Corpus, given: str) -> None:
    """How many documents there are, and what was done to the lines they came from."""
    from kamon.data.builtin import BUILT_IN

    say_built_in(given, BUILT_IN)
    repeated = len(source.docs) - len(source.different)
    details = [count(len(source.docs), "document")]
    if len(source.docs) == 1:
        details[0] += f" of {len(source.docs[0]):,} characters"
    if repeated:
        details.append(f"{repeated:,} of them repetitions")
    if source.num_blank:
        details.append(f"{count(source.num_blank, 'blank line')} dropped")
    if source.num_stripped:
        details.append(f"{count(source.num_stripped, 'line')} rid of white space at the ends")
    if source.num_normalized:
        which = f"{count(source.num_normalized, 'line')} " if source.num_entries > 1 else ""
        details.append(f"{which}brought to NFC (ö as one character)")
    say(f"{source.source}: {', '.join(details)}")
    say_notes(source)


def say_notes(source: Corpus) -> None:
    """How it was read, where people should know."""
    for note in source.note.splitlines():
        say(f"{source.source} {note}")


def say_resumed(resumed: ResumePoint | None) -> None:
    """Where a training goes on, if it does, and what is wrong with what was kept later."""
    if resumed:
        for problem in resumed.problems:
            say(problem)
        say(f"going on from {resumed.generation}, step {resumed.num_steps_done:,}")


def say_cut(run: TrainingSetup) -> None:
    """That documents are longer than the model can hold, never silently."""
    if run.num_cut:
        size, longest = run.config.block_size, run.longest
        say(
            f"{count(run.num_cut, 'document')} too long for block_size {size}, which holds "
            f"{count(size - 1, run.tokenizer.unit)} and the end: what is behind is left out; the "
            f"longest has {longest:,} (--block-size {longest + 1} holds all, "
            "--long-documents windows learns all)"
        )


def spark(losses: list[float], stream: TextIO) -> None:
    """The course of two or more losses as one line, where `stream` has such characters."""
    line = f"loss by step {spark_line(losses)}"
    try:
        line.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return
    if len(losses) > 1:
        print(line, file=stream)


def print_marked(samples: list[tuple[str, bool]]) -> None:
    """Each new document on a line of its own; those that are True are copies, and marked."""
    shown = [(entry_line(text), known) for text, known in samples]
    width = max((columns(text) for text, known in shown if known), default=0)
    for text, known in shown:
        print(f"{padded(text, width)}  (in the list)" if known else text)
    say_line_ends(sum(has_line_end(text) for text, _ in samples))


def print_texts(texts: list[str]) -> None:
    """Texts as they are, an empty line between two of them."""
    print("\n\n".join(texts))


def say_empty(num_empty: int, n: int) -> None:
    """That some samples have no character."""
    if num_empty:
        say(f"{num_empty:,} of {n:,} samples are empty: the model ended them at once")


def say_unfinished(sizes: Sequence[int], block_size: int, unit: str = "character") -> None:
    """That some have no end: they have as many tokens as block_size allows. unit: of the tokens."""
    unfinished = sum(size == block_size for size in sizes)
    if unfinished:
        say(
            f"{unfinished} of {len(sizes)} have no end: "
            f"the model did not end them within {block_size} {unit}s"
        )


def show_training(bar: Any, progress: Progress) -> Any:
    """A bar of steps, with the loss and the time left."""
    if bar is None:
        bar = open_bar(total=progress.num_steps, initial=progress.num_before, unit="step")
        if not bar.disable:
            bar.start_t = bar.last_print_t = bar.start_t - progress.seconds
    recent = progress.losses[-100:]
    shown = f"loss {sum(recent) / len(recent):.4f}"
    if progress.tokens_per_second:  # a tuning counts no tokens
        shown += f", {short(progress.tokens_per_second)} tokens/s"
        shown += f", {progress.flops / 1e9:.3g} GFLOP/s"
    bar.set_postfix_str(shown, refresh=False)
    bar.update(len(progress.losses) - bar.n)
    return bar


@contextmanager
def progress_bar(show: Callable[[Any, P], Any]) -> Iterator[Callable[[P], None] | None]:
    """Yield a function that shows progress on stderr, or None if that is no terminal.

    show: takes the bar, at first None, and the progress, and returns the bar that is shown then.
    """
    if not sys.stderr.isatty():
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
    """A tqdm bar on stderr that leaves nothing there when it is closed."""
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # we report often enough to need no thread
    return tqdm(file=sys.stderr, leave=False, dynamic_ncols=True, **options)
