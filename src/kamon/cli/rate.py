"""Rate samples and teach a model what you like.

Press a key for each sample. The model learns from your answers while you rate.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from kamon.cli.output import (
    count,
    done,
    entry_line,
    has_line_end,
    one_line,
    print_json,
    say,
    say_hint,
    say_line_ends,
    warn,
)
from kamon.cli.parser import Args, Parser, options
from kamon.cli.settings import add_json, values
from kamon.errors import ConfigError

if TYPE_CHECKING:
    from kamon.finetuning.rating import RatingSession
    from kamon.model import Model

NUM_SAMPLES = 10
HELP = {
    False: "y: like   n: dislike   s: skip   u: undo   q: save and quit",
    True: "a or b: better one   s: skip   u: undo   q: save and quit",
}

OPTIONS = {
    "DIR": "directory of the model (a rated model continues with its answers)",
    "-o, --output DIR": "directory of the new model [default: rated, or DIR if it was rated]",
    "--overwrite": "replace the model in the output directory",
    "--prefs FILE": "JSON Lines file that stores each answer at once [default: the output's name "
    "with .jsonl]",
    "--prompt TEXT": "rate completions of TEXT, for a model of `kamon sft`",
    "--pairs": "show two samples, and you choose the better one",
    "--every N": "train again after N answers [default: %(default)s]",
    "--seed N": "seed of the samples [default: the model's]",
    "--threads N": "CPU cores to use [default: all]",
}
EXAMPLES = """\
kamon rate names            # write a new model to rated/
kamon rate rated            # continue with more answers
kamon rate names --pairs    # choose between two names
"""


def add_arguments(parser: Parser) -> None:
    from kamon.finetuning.rating import EVERY

    options(parser, OPTIONS, every=EVERY)
    add_json(parser)


def run(args: Args) -> int:
    check(args)
    from kamon.finetuning.preferences import pairs_of

    session, output, overwrite = prepare(args)
    say(HELP[args.pairs])
    stopped = 0
    try:
        with keys(args.pairs) as ask:
            session.run(ask)
    except KeyboardInterrupt:  # keeps the answers, as q does
        say("")
        stopped = 130
    if not pairs_of(session.answers):
        warn(
            "no model written: Kamon needs one name that you like and one that you dislike",
            f"continue later: {session.journal} has your {count(len(session.answers), 'answer')}",
        )
        return stopped
    report(session, session.finish(output, overwrite), output, as_json=args.json)
    return stopped


def check(args: Args) -> None:
    """Raise ConfigError for invalid arguments, before anything is read."""
    if args.every < 1:
        raise ConfigError(f"every must be 1 or more, not {args.every}")
    if args.output == "" or args.prefs == "":
        raise ConfigError("-o and --prefs need a name, not an empty one")
    if sys.stdin is None:
        raise ConfigError("standard input is closed: answers come from there")


def prepare(args: Args) -> tuple[RatingSession, str, bool]:
    """Return the session, the output directory, and whether it may be replaced."""
    from dataclasses import replace

    from kamon.finetuning import rating
    from kamon.storage import model_dir
    from kamon.tokenizers.prompts import prompt_prefix

    base = rating.opened(args.dir, args.threads)
    config = base.model.config
    prompt_prefix(base.model.tokenizer, args.prompt, config.block_size)  # raises ConfigError
    seed = config.seed if args.seed is None else args.seed
    replace(config, seed=seed)  # raises ConfigError
    resumed = bool(base.answers)
    output = args.output or (args.dir if resumed else "rated")
    overwrite = args.overwrite or (
        resumed and os.path.realpath(output) == os.path.realpath(args.dir)
    )
    model_dir.check_target(output, overwrite=overwrite)
    session = rating.start_session(
        base,
        args.prefs or f"{output.rstrip(os.sep)}.jsonl",
        say_line,
        seed=seed,
        **values(args, "every", "pairs", "threads", "prompt"),
    )
    return session, output, overwrite


def report(session: RatingSession, model: Model, output: str, *, as_json: bool) -> None:
    """Print how well the model has learned the answers, and samples of it."""
    from kamon.finetuning.rating import change, likelihood_gain

    liked, disliked = likelihood_gain(model, session.base.model, session.answers)
    answers, seconds = count(len(session.answers), "answer"), model.training.seconds
    say("\n" + done("Fine-tuned", f"in {seconds:.1f} s ({answers})"))
    say(done("Saved", f"to {one_line(os.path.join(output, ''))}"))
    say(f"Names you like are now {change(liked)}, names you dislike {change(disliked)}")
    prompt = "" if session.prompt is None else f" --prompt {shlex.quote(session.prompt)}"
    say_hint(f"continue with `kamon rate {output}{prompt}`")
    samples = session.proposals(model, NUM_SAMPLES, session.seed)
    if not as_json:
        print("\n".join(map(entry_line, samples)))
        say_line_ends(sum(map(has_line_end, samples)))
        return
    content = {"directory": output, "answers": len(session.answers), "liked": liked}
    content |= {"disliked": disliked, "seconds": model.training.seconds, "samples": samples}
    print_json(content)


def say_line(text: str) -> None:
    say(one_line(text))


@contextmanager
def keys(pairs: bool) -> Iterator[Callable[[str], str]]:
    """Yield a function that shows a question and returns the key pressed."""
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
                say(f"press one of {', '.join(allowed)} ({HELP[pairs]})")

        yield ask


@contextmanager
def single_keys() -> Iterator[Callable[[], str]]:
    """Yield a function that reads a key in lower case, or "" at the end of input.

    From a pipe, the first character of a line counts.
    """
    assert sys.stdin is not None
    stream = sys.stdin.buffer
    if not sys.stdin.isatty() or find_spec("termios") is None:  # Windows: one line per key
        yield lambda: first_of(stream.readline())
        return
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield lambda: os.read(number, 1).decode("latin-1").lower().replace("\x04", "")
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


def first_of(line: bytes) -> str:
    """Return the first character of a line, " " for a blank line, or "" at the end of input."""
    if not line:
        return ""
    return line.decode("utf-8", "replace").strip().lower()[:1] or " "
