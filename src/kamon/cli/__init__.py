"""The command line: finds the command, runs it, and turns errors into messages and exit codes.

0    done
1    runtime error: a missing file, an unusable list, a full disk
2    usage error: a bad option, value or setting
130  stopped by Ctrl-C; 143 by SIGTERM, while training
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

VERBS = {
    "clean": "make a list fit to learn: repair it, drop what should not be in it",
    "pack": "make token shards of a corpus too long for memory",
    "tokenizer": "learn how text becomes tokens, and see how it does",
    "train": "learn a list, save the model, make new names",
    "sft": "teach a saved model to answer prompts",
    "dpo": "tune a saved model to prefer what you prefer, by pairs",
    "rate": "rate what a saved model proposes; it learns what you like",
    "sample": "make new names with a saved model",
    "complete": "say what may come next, and how a text may end",
    "fill": "fill the gaps in a text: ma__a, *ia",
    "score": "say how odd each line of a text is to a saved model",
    "eval": "measure a saved model: its guesses, beside n-grams, and its samples",
    "compare": "say what tuning did to a model: samples, rewards, distance",
    "ngram": "count n-grams: what a model must beat on your list",
    "reward": "learn from pairs which text is preferred, and give texts rewards",
    "ppo": "tune a saved model so that its samples earn more of a reward",
    "plot": "draw a saved model: losses, embeddings, attention, lengths",
    "export": "take a saved model along: as a Python file, JSON or ONNX",
    "serve": "open the playground in the browser, and an HTTP API",
    "inspect": "show what is in a saved model or a packed corpus",
    "reproduce": "run the original microGPT, number for number",
    "bench": "measure how fast Kamon works here",
}

EXAMPLES = """\
examples:
  kamon train                            learn US first names; the model goes to ./model
  kamon train brands.txt -o brands       learn your own list, one document a line
  kamon train towns.csv --column name    … or a column of a table
  kamon clean raw.txt -o brands.txt      one form, no repetitions; see its --help
  kamon sample brands -n 50 --temperature 0.8
  kamon sft model instructions -o tuned  then: kamon sample tuned --prompt "girl, m, 5"
  kamon pack texts/ -o shards            a corpus longer than memory, to learn from
  kamon complete brands ne               what comes next, and how it may end
  kamon score brands new.txt --top 20    the lines that fit the list least
  kamon eval brands                      how good it is, beside n-grams
  kamon compare brands tuned             what tuning did to it
  kamon plot brands --text kamon         its losses, embeddings, attention and lengths as pictures
  kamon serve                            the same by mouse, live, in the browser
  kamon export brands -o brands.py       the model as one Python file that needs nothing else
  kamon ngram brands.txt                 what counting alone makes of that list
  kamon reproduce --input names.txt      the original's losses and names
"""


def command() -> NoReturn:
    """Run the command of this process, and exit."""
    gc.set_threshold(100_000)  # collecting garbage takes a tenth of a short command
    code = main()
    if "kamon.engines.distributed" in sys.modules:
        from kamon.engines.distributed import hard_exit

        hard_exit(code)
    gc.freeze()
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    try:
        if sys.stderr is None:  # closed: a file opened later must not become stderr
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115
        if sys.stdout is None:
            print("error: standard output is closed", file=sys.stderr)
            return 1
        write_utf_8()
        try:
            code = run(argv)
        except SystemExit as stop:  # how argparse ends
            code = stop.code if isinstance(stop.code, int) else 1
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        discard_stdout()
        return 1
    except OSError as error:
        discard_stdout()
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("error: not enough memory\nhint: try a smaller model", file=sys.stderr)
        return 1


def write_utf_8() -> None:
    """Write UTF-8 with \\n to pipes and files, and escape what a terminal's encoding lacks."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            form = {} if stream.isatty() else {"encoding": "utf-8", "newline": "\n"}
            stream.reconfigure(errors="backslashreplace", **form)


def run(argv: list[str]) -> int:
    if not argv or argv[0] not in VERBS:
        return run_without_verb(argv)
    verb = argv[0]
    command = importlib.import_module(f"kamon.cli.{verb}")
    from kamon.cli.parser import Parser

    parser = Parser(prog=f"kamon {verb}", description=command.__doc__)
    command.add_arguments(parser)
    args = parser.parse(argv[1:])
    from kamon.cli.output import say_error
    from kamon.errors import ConfigError, KamonError

    try:
        code: int | None = command.run(args)
        return code or 0
    except KamonError as error:
        say_error(error.message, error.hint)
        return 2 if isinstance(error, ConfigError) else 1


def run_without_verb(argv: list[str]) -> int:
    from kamon.cli.parser import Parser

    verbs = "\n".join(f"  {verb:10} {text}" for verb, text in VERBS.items())
    parser = Parser(
        prog="kamon",
        usage="kamon VERB …",
        description="The whole GPT, small enough to read, fast enough to use.",
        epilog=f"verbs:\n{verbs}\n\n{EXAMPLES}\n`kamon VERB --help` tells the rest.",
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    parser.add_argument("--json", action="store_true", help="print the version as JSON")
    if argv and not argv[0].startswith("-"):
        parser.error(f"there is no verb {argv[0]!r}{parser.nearest(argv[0], list(VERBS))}")
    args = parser.parse(argv)
    if args.version or args.json:
        from kamon._version import __version__

        print(f'{{"version": "{__version__}"}}' if args.json else f"kamon {__version__}")
        return 0
    parser.print_help(None if argv else sys.stderr)
    return 0 if argv else 2


def discard_stdout() -> None:
    """Keep Python from failing at exit when it writes the rest."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
