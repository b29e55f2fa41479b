"""Rate what a saved model proposes, key by key; it learns what you like as you go."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kamon.cli.output import (
    entry_line,
    has_line_end,
    one_line,
    print_json,
    print_texts,
    say,
    say_line_ends,
)
from kamon.cli.parser import Parser, whole_number
from kamon.cli.settings import add_json
from kamon.errors import ConfigError

NUM_SAMPLES = 10
HELP = {
    False: "y: I like it   n: I do not   s: skip   u: undo   q: save and quit",
    True: "a or b: the better one   s: skip   u: undo   q: save and quit",
}


def add_arguments(parser: Parser) -> None:
    parser.add_argument("dir", metavar="DIR", help="a model; one that was rated is gone on with")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="where the model goes (rated; DIR, if it was rated)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the model in its DIR")
    parser.add_argument(
        "--prefs",
        metavar="FILE",
        help="where answers are kept as they come (the output's name with .jsonl)",
    )
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="propose answers to TEXT; of a model that `kamon sft` made",
    )
    parser.add_argument("--pairs", action="store_true", help="show two, to choose from")
    parser.add_argument(
        "--every", type=whole_number, default=10, metavar="N", help="answers, then it learns (10)"
    )
    parser.add_argument("--seed", type=whole_number, metavar="N", help="of what is proposed")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="cores to use (all)")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.every < 1:
        raise ConfigError(f"every must be 1 or more, not {args.every}")
    if args.output == "" or args.prefs == "":
        raise ConfigError("-o and --prefs need a name, not an empty one")
    if sys.stdin is None:
        raise ConfigError("standard input is closed: answers come from there")
    from dataclasses import replace

    from kamon.data.readers import name_of
    from kamon.finetuning import preferences, rating
    from kamon.storage import model_dir
    from kamon.tokenizers.prompts import prompt_prefix

    base = rating.opened(args.dir, args.threads)
    config = base.model.config
    prompt_prefix(base.model.tokenizer, args.prompt, config.block_size)  # ConfigError for no room
    seed = config.seed if args.seed is None else args.seed
    replace(config, seed=seed)  # ConfigError where it cannot be
    going_on = bool(base.answers)
    output = args.output or (args.dir if going_on else "rated")
    overwrite = args.overwrite or (
        going_on and os.path.realpath(output) == os.path.realpath(args.dir)
    )
    model_dir.check_target(output, overwrite=overwrite)
    journal = Path(args.prefs or f"{output.rstrip(os.sep)}.jsonl")
    session = rating.start_session(
        base,
        journal,
        say_line,
        every=args.every,
        pairs=args.pairs,
        seed=seed,
        threads=args.threads,
        prompt=args.prompt,
    )
    say(HELP[args.pairs])
    stopped = 0
    try:
        with keys(args.pairs) as ask:
            session.run(ask)
    except KeyboardInterrupt:  # keeps what was answered, as q does
        say("")
        stopped = 130
    if not preferences.pairs_of(session.answers):
        say(
            "nothing to learn from yet, and no model is written: it takes one that you like and "
            f"one that you do not; {len(session.answers):,} answers are kept in {journal}"
        )
        return stopped
    model = rating.align(
        base,
        session.answers,
        threads=args.threads,
        output=output,
        overwrite=overwrite,
        source=name_of(journal),
    )
    liked, disliked = rating.likelihood_gain(model, base.model, session.answers)
    say(
        f"{len(session.answers):,} answers: what you like is {liked:.2g} times as likely as at "
        f"first, what you do not {disliked:.2g} times; saved to {output}"
    )
    asked = "" if args.prompt is None else f" --prompt {shlex.quote(args.prompt)}"
    say_line(f"`kamon rate {output}{asked}` goes on from here")
    samples = session.proposals(model, NUM_SAMPLES, seed)
    if args.json:
        print_json(
            {
                "directory": output,
                "answers": len(session.answers),
                "liked": liked,
                "disliked": disliked,
                "seconds": model.training["seconds"],
                "samples": samples,
            }
        )
    else:
        print_texts(["\n".join(map(entry_line, samples))])
        say_line_ends(sum(map(has_line_end, samples)))
    return stopped


def say_line(text: str) -> None:
    say(one_line(text))


@contextmanager
def keys(pairs: bool) -> Iterator[Callable[[str], str]]:
    """Asks, and returns the key that was pressed; from a pipe the first character of a line."""
    from kamon.finetuning.rating import KEYS

    allowed = KEYS[pairs]
    with single_keys() as read:

        def ask(question: str) -> str:
            while True:
                print(f"{one_line(question)}  [{'/'.join(allowed[:2])}] ", end="", file=sys.stderr)
                sys.stderr.flush()
                key = read()
                say(one_line(key))
                if key in allowed:
                    return key or "q"
                say(f"that is none of {', '.join(allowed)}: {HELP[pairs]}")

        yield ask


@contextmanager
def single_keys() -> Iterator[Callable[[], str]]:
    """Reads a key, in lower case; "" where no more comes."""
    assert sys.stdin is not None
    stream = sys.stdin.buffer
    if not sys.stdin.isatty():
        yield lambda: first_of(stream.readline())
        return
    try:
        import termios
        import tty
    except ImportError:  # Windows: a line for each key
        yield lambda: first_of(stream.readline())
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield lambda: os.read(number, 1).decode("latin-1").lower().replace("\x04", "")
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def first_of(line: bytes) -> str:
    """A blank line is no answer, and no end either."""
    if not line:
        return ""
    return line.decode("utf-8", "replace").strip().lower()[:1] or " "
