"""The command line. It runs the command, and turns errors into messages and exit codes.

0    done
1    runtime error: a missing file, an unusable list, a full disk
2    usage error: a bad option, value or setting
130  stopped by Ctrl-C
143  stopped by SIGTERM, while training
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from kamon.cli.parser import Parser

GROUPS = {
    "Make": {
        "train": "Train a model on a list",
        "sample": "Make new entries with a saved model",
        "complete": "Complete the beginning of an entry",
        "fill": "Fill the gaps in an entry, such as ma__a",
        "serve": "Open the playground in the browser",
    },
    "Measure": {
        "score": "Find the entries that fit a model's list least",
        "eval": "Measure how good a model is, compared with n-grams",
        "compare": "Compare fine-tuned models with their base",
        "ngram": "Measure n-gram models of a list",
        "plot": "Plot losses, embeddings, attention and lengths",
        "inspect": "Show the settings and the contents of a saved model",
    },
    "Fine-tune": {
        "rate": "Rate samples and teach a model what you like",
        "sft": "Teach a model to follow prompts",
        "dpo": "Teach a model your preferences from pairs of entries",
        "reward": "Train a reward model on pairs of entries",
        "ppo": "Fine-tune a model to get a larger reward",
    },
    "Share": {
        "export": "Write a model as one Python, JSON or ONNX file",
    },
    "Data": {
        "clean": "Clean a list before training",
        "tokenizer": "Train, use and inspect tokenizers",
        "pack": "Prepare a corpus that does not fit in memory",
    },
    "Project": {
        "reproduce": "Run the original microGPT with the same numbers",
        "bench": "Measure how fast Kamon is on this machine",
    },
}
VERBS = {verb: text for group in GROUPS.values() for verb, text in group.items()}

EXAMPLES = """\
kamon train names -o names
kamon sample names -n 10
kamon eval names
"""
GLOBAL_OPTIONS = {
    "-h, --help": "show this help and exit",
    "-q, --quiet": "print only results, warnings and errors",
    "-v, --verbose": "also print the exact settings",
}


def command() -> NoReturn:
    """Run the command of this process, and exit."""
    gc.set_threshold(100_000)  # garbage collection takes a tenth of the time of a short command
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
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
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

    parser = Parser(prog=f"kamon {verb}")
    complete_parser(parser, verb, command)
    args = parser.parse(argv[1:])
    from kamon.cli.output import say_error, set_verbosity
    from kamon.errors import ConfigError, KamonError

    try:
        set_verbosity(quiet=args.quiet, verbose=args.verbose)
        code: int | None = command.run(args)
        return code or 0
    except KamonError as error:
        say_error(error.message, error.hint)
        return 2 if isinstance(error, ConfigError) else 1


def complete_parser(parser: Parser, verb: str, command: ModuleType) -> None:
    """Add a command's arguments, its description and its EXAMPLES, and the global options."""
    from kamon.cli.parser import example_lines, options

    _, _, more = (command.__doc__ or "").partition("\n\n")
    parser.description = f"{VERBS[verb]}.\n\n{more}".rstrip()
    parser.epilog = example_lines(getattr(command, "EXAMPLES", ""))
    command.add_arguments(parser)
    options(parser.add_argument_group("global options"), GLOBAL_OPTIONS)


def run_without_verb(argv: list[str]) -> int:
    from kamon.cli.parser import Parser, example_lines

    lines = ["Train a tiny GPT on a list, and make new entries with it."]
    for group, texts in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {verb:11} {text}" for verb, text in texts.items())]
    parser = Parser(
        prog="kamon",
        usage="kamon COMMAND [OPTIONS]",
        description="\n".join(lines),
        epilog=f"{example_lines(EXAMPLES)}\n\n`kamon COMMAND --help` shows a command's options.",
    )
    about = parser.add_argument_group("global options")
    about.add_argument("-h", "--help", action="help", help=GLOBAL_OPTIONS["-h, --help"])
    about.add_argument("--version", action="store_true", help="print the version and exit")
    about.add_argument("--json", action="store_true", help="print the version as JSON")
    if argv and not argv[0].startswith("-"):
        parser.fail(f'unknown command "{argv[0]}"', parser.nearest(argv[0], list(VERBS)))
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
