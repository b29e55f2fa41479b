"""argparse with tables of options, and with errors of one sentence and a hint."""

from __future__ import annotations

import argparse
import re
import reprlib
import shutil
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

Args = argparse.Namespace  # the arguments of a command
AFTER = "after --, at the end"
MAX_WIDTH = 100  # columns of a help
MAX_DIGITS = 1_000  # Python itself reads no more than 4,300


class Parser(argparse.ArgumentParser):
    def __init__(self, **options: object) -> None:
        super().__init__(
            add_help=False,  # --help is one of the global options
            allow_abbrev=False,
            formatter_class=self.formatter,
            **options,  # type: ignore[arg-type]
        )
        self._positionals.title = "arguments"

    def formatter(self, prog: str) -> argparse.HelpFormatter:
        # argparse makes a formatter for each option. Only help asks for the terminal's width,
        # because that is slow.
        return argparse.RawDescriptionHelpFormatter(prog, width=self.width)

    width = 80

    def format_help(self) -> str:
        self.width = min(shutil.get_terminal_size().columns - 2, MAX_WIDTH)
        paragraphs = (self.description or "").split("\n\n")
        self.description = "\n\n".join(filled(text, self.width) for text in paragraphs)
        return super().format_help()

    def short_usage(self) -> str:
        """Return the arguments and the required options. The help shows all others."""
        words = [self.prog]
        for action in self._actions:
            name = action.metavar if isinstance(action.metavar, str) else action.dest
            more = "..." if action.nargs in ("*", "+") else ""
            if not action.option_strings:
                words.append(f"[{name}{more}]" if action.nargs in ("?", "*") else f"{name}{more}")
            elif action.required:
                words.append(f"{action.option_strings[0]} {name}")
        return " ".join([*words, "[OPTIONS]"])

    argv: tuple[str, ...] = ()

    def parse(self, argv: list[str]) -> Args:
        self.argv = tuple(argv)
        self.usage = self.usage or self.short_usage()
        # An optional argument may come after options.
        args, unknown = self.parse_known_intermixed_args(argv)
        if unknown:
            word = unknown[0].partition("=")[0]
            known = [name for name in self._option_string_actions if name.startswith("--")]
            if word.startswith("--"):
                self.fail(f"unknown option {word}", self.nearest(word, known))
            if word.startswith("-"):
                self.fail(f"unknown option {word}", f"if it is an argument, put it {AFTER}")
            self.fail(f'unexpected argument "{word}"')
        return args

    def nearest(self, word: str, known: list[str]) -> str | None:
        """Return a hint that names the command or option like `word`, if there is one."""
        import difflib

        for near in difflib.get_close_matches(word, known, n=1):
            return f"did you mean {near}?"
        return None

    def error(self, message: str) -> NoReturn:
        message, _, hint = message.partition("\nhint: ")
        message = message.removeprefix("argument ")
        name = message.partition(":")[0].rpartition("/")[2]
        if message.endswith("expected one argument"):
            message = f"{name} needs a value"
            if name.startswith("--"):
                hint = f"write {name}=-… for a value that begins with -"
        message = message.replace("the following arguments are required:", "missing")
        message = message.replace("not allowed with argument", "cannot be used with")
        known = self._option_string_actions
        dashed = [
            word for word in self.argv if word[:1] == "-" < word and word.split("=")[0] not in known
        ]
        if message.startswith("missing") and dashed:
            hint = f"put an argument that begins with -, such as {dashed[0]}, {AFTER}"
        self.fail(message, hint)

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Print an error and a hint, and exit."""
        from kamon.cli.output import say_error

        say_error(message, hint or f"see `{self.prog} --help`")
        raise SystemExit(2)


def filled(text: str, width: int) -> str:
    """Return a paragraph in lines of this width, or as it is if it has indented lines."""
    return text if "\n " in text or text[:1] == " " else textwrap.fill(text, width)


def example_lines(examples: str) -> str:
    """
    >>> print(example_lines("kamon train"))
    examples:
      kamon train
    """
    lines = [f"  {line}".rstrip() for line in examples.strip().splitlines()]
    return "\n".join(["examples:", *lines]) if lines else ""


def option(group: argparse._ActionsContainer, usage: str, help: str, **more: Any) -> None:
    """Add an option or an argument to a parser or a group.

    Args:
        usage: as it is typed: "-o, --output FILE", "--mode {documents,text}", "[DIR]", "INPUT...".
            An option without a metavar is a switch. The type follows from the default or the
            metavar (see TYPES).
        more: what `add_argument` takes.
    """
    *names, metavar = usage.replace(", ", " ").split()
    if metavar.startswith("-"):
        names.append(metavar)
        if "choices" not in more:
            more["action"] = "help" if "--help" in names else "store_true"
    elif metavar.startswith("{"):
        more["choices"] = metavar.strip("{}").split(",")
    else:
        more["metavar"] = metavar.strip("[.]")
        if metavar != more["metavar"]:
            optional = metavar.startswith("[")
            more["nargs"] = ("*" if optional else "+") if "..." in metavar else "?"
        more.setdefault("type", TYPES.get(type(more.get("default")), TYPES.get(metavar, str)))
    help = re.sub(r"%(?!\()", "%%", help)  # argparse replaces %(default)s
    group.add_argument(*(names or [more.pop("dest", name_of(usage))]), help=help, **more)


def options(group: argparse._ActionsContainer, table: Mapping[str, str], **more: Any) -> None:
    """Add the options and arguments of a table from usages to helps.

    Args:
        more: the defaults of some by their names. A list is the default of an option that may be
            repeated. A dict has other arguments of `add_argument`.
    """
    assert more.keys() <= set(map(name_of, table))
    for usage, help in table.items():
        extra = more.get(name_of(usage), {})
        if isinstance(extra, list):
            extra = {"action": "append", "default": extra}
        option(group, usage, help, **(extra if isinstance(extra, dict) else {"default": extra}))


def name_of(usage: str) -> str:
    """
    >>> name_of("-n, --max-len N"), name_of("-o, --output FILE"), name_of("[DIR...]")
    ('max_len', 'output', 'dir')
    """
    words = usage.replace(", ", " ").split()
    names = [word for word in words if word.startswith("-")] or [words[0].lower()]
    return names[-1].strip("-[.]").replace("-", "_")


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        if len(text) > MAX_DIGITS and text.isdigit():
            raise argparse.ArgumentTypeError(f"has more than {MAX_DIGITS:,} digits") from None
        shown = reprlib.repr(text)
        raise argparse.ArgumentTypeError(f"must be a whole number, not {shown}") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, not {reprlib.repr(text)}") from None


TYPES: Mapping[object, Callable[[str], Any]] = {
    **dict.fromkeys((int, "N", "S", "K", "PERCENT"), whole_number),
    **dict.fromkeys((float, "X", "T", "BITS", "SECONDS"), number),
}
