"""What the verbs tell people: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kamon.api import Run
    from kamon.corpus import Corpus
    from kamon.trainer import Progress


def say(text: str) -> None:
    print(text, file=sys.stderr)


def print_json(content: dict[str, Any]) -> None:
    """One object on one line, in ASCII, so that no terminal or pipe can garble it."""
    print(json.dumps(content))


def say_corpus(source: Corpus, given: str) -> None:
    """How many documents there are, and what was done to the lines they came from."""
    if source.source == given and os.path.exists(given) and os.sep not in given:
        from kamon.builtin import BUILT_IN

        if given in BUILT_IN:
            say(f"{given} is the built-in list; your own file is ./{given}")
    repeated = len(source.docs) - len(source.different)
    details = [
        f"{count:,} {text}"
        for count, text in (
            (repeated, "of them repetitions"),
            (source.num_blank, "blank lines dropped"),
            (source.num_stripped, "lines rid of white space at their ends"),
        )
        if count
    ]
    say(f"{source.source}: {len(source.docs):,} documents" + "".join(f", {d}" for d in details))


def say_cut(run: Run) -> None:
    """That documents are longer than the model can hold, never silently."""
    if run.num_cut:
        size = run.config.block_size
        say(
            f"{run.num_cut:,} documents are cut after {size} characters: block_size {size} holds "
            f"{size - 1} and the end; the longest has {len(run.longest):,} (--block-size "
            f"{len(run.longest) + 1} holds them all)"
        )


@contextmanager
def progress_bar() -> Iterator[Callable[[Progress], None] | None]:
    """A bar with loss and time left on stderr if that is a terminal, otherwise nothing."""
    if not sys.stderr.isatty():
        yield None
        return
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # we report often enough to need no thread
    bar: Any = None

    def update(progress: Progress) -> None:
        nonlocal bar
        if bar is None:
            bar = tqdm(
                total=progress.num_steps,
                unit="step",
                file=sys.stderr,
                leave=False,
                dynamic_ncols=True,
            )
            bar.start_t = bar.last_print_t = bar.start_t - progress.seconds
        recent = progress.losses[-100:]
        bar.set_postfix_str(f"loss {sum(recent) / len(recent):.4f}", refresh=False)
        bar.update(len(progress.losses) - bar.n)

    try:
        yield update
    finally:
        if bar is not None:
            bar.close()
