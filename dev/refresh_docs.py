"""Run the examples of the pages, and update the outputs that the pages show.

    python dev/refresh_docs.py                  README.md, CONTRIBUTING.md and docs/*.md
    python dev/refresh_docs.py docs/lists.md    one page

A `console` block runs in an empty folder. A line of dots matches any number of lines, and dots
within a line match anything. Both stay as long as they match. In new lines, dots replace durations.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
import tempfile
from difflib import SequenceMatcher
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
DOTS = "..."
BLOCK = re.compile(r"^```(console|sh|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DURATION = re.compile(r"(?<![\w.])\d[\d,.]*(?= (?:s|ms|µs|GFLOP/s|tokens/s)\b)")
NEEDS_MORE = {"serve", "rate", "bench", "reproduce"}  # a person, a network, or minutes
MODEL_FIRST = {
    "sample", "complete", "fill", "score", "eval", "compare", "plot", "export", "inspect",
    "sft", "dpo", "reward", "ppo",
}  # fmt: skip
LISTS = {"names", "names-original", "instructions", "common", "-"}
TOOLS = {"printf", "echo", "head", "tail", "sort", "cat", "grep", "wc", "python"}


class Block(NamedTuple):
    language: str
    text: str
    touches: bool  # only empty lines are between it and the block before


class Example(NamedTuple):
    command: str
    shown: str


def blocks(text: str) -> list[Block]:
    """Return the console, sh and text blocks of a page, in order."""
    found, end = [], -1
    for match in BLOCK.finditer(text):
        touches = end >= 0 and not text[end : match.start()].strip()
        found.append(Block(match[1], match[2], touches))
        end = match.end()
    return found


def examples(block: str) -> list[Example]:
    """Return each `$ command` of a console block with the output below it."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    return [Example(*part.split("\n", 1)) for part in parts]


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of shell, with stdout and stderr together, as a reader sees them."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-c", "set -o pipefail; " + command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "PATH": path},
    )


def matches(shown: str, output: str) -> bool:
    return doctest.OutputChecker().check_output(shown, output, doctest.ELLIPSIS)


def line_matches(shown: str, line: str) -> bool:
    if DOTS not in shown:
        return shown == line
    pattern = ".*".join(re.escape(part) for part in shown.split(DOTS))
    return re.fullmatch(pattern, line) is not None


def refreshed(shown: str, output: str) -> str:
    """Return an output with the dots of the output that the page showed before."""
    if matches(shown, output):
        return shown
    old, new = shown.splitlines(), [line.rstrip() for line in output.splitlines()]
    named = [name_of(line, old) for line in new]
    result: list[str] = []
    for tag, a, b, c, d in SequenceMatcher(None, old, named, autojunk=False).get_opcodes():
        if tag == "equal":
            result += old[a:b]
        else:
            result += changed(old[a:b], [DURATION.sub(DOTS, line) for line in new[c:d]])
    return "".join(f"{line}\n" for line in result)


def name_of(line: str, old: list[str]) -> str:
    """Return the old line that still matches a new one, or the new one."""
    return next((each for each in old if each != DOTS and line_matches(each, line)), line)


def changed(old: list[str], new: list[str]) -> list[str]:
    """Return the new lines, with as many before and after a line of dots as in the old ones."""
    if DOTS not in old:
        return new
    before = old.index(DOTS)
    after = old[::-1].index(DOTS)
    if before + after > len(new):
        return new
    return [*new[:before], DOTS, *new[len(new) - after :]]


def refresh(text: str) -> str:
    """Return a page whose console blocks show what their commands print now."""

    def replace(match: re.Match[str]) -> str:
        if match[1] != "console":
            return match[0]
        with tempfile.TemporaryDirectory() as folder:
            parts = [
                f"$ {each.command}\n{refreshed(each.shown, run(each.command, Path(folder)).stdout)}"
                for each in examples(match[2])
            ]
        return f"```console\n{''.join(parts)}```"

    return BLOCK.sub(replace, text)


def can_run(line: str, folder: Path) -> bool:
    """Whether each part of a pipeline is a quick command whose files exist."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # it continues in the next line
        return False
    parts: list[list[str]] = [[]]
    for word in words:
        parts.append([]) if word == "|" else parts[-1].append(word)
    return all(part_can_run(part, folder) for part in parts)


def part_can_run(words: list[str], folder: Path) -> bool:
    if words[:1] != ["kamon"]:
        return words[:1] != [] and words[0] in TOOLS and not missing(words[1:], folder)
    command, *argv = words[1:]
    if command in NEEDS_MORE or {"--interactive", "torch", "--device"} & {*argv}:
        return False
    if "--engine" in argv and command != "inspect" and "scalar" in argv:
        return False
    models = [argv[at + 1] for at, word in enumerate(argv) if word in ("--resume", "--reward")]
    given = argv[: next((at for at, word in enumerate(argv) if word.startswith("-")), len(argv))]
    if command in MODEL_FIRST:
        models += given if command == "compare" else given[:1]
    elif command in ("train", "pack", "clean", "ngram"):
        models += [word for word in given if word not in LISTS]
    return all((folder / model).exists() for model in models) and not missing(argv, folder)


def missing(argv: list[str], folder: Path) -> bool:
    """Whether a file to read does not exist. Those after -o and > are written."""
    for before, word in zip(["", *argv], argv, strict=False):
        is_file = re.search(r"\.(txt|csv|tsv|jsonl?|gz|xz|bz2|zst|toml|ids|py)$|/$", word)
        if is_file and before not in ("-o", ">", ">>") and not (folder / word).exists():
            return True
    return False


def main(names: list[str]) -> None:
    for page in [Path(name) for name in names] or PAGES:
        text = page.read_text(encoding="utf-8")
        new = refresh(text)
        if new != text:
            page.write_text(new, encoding="utf-8")
            print(f"refreshed {page}")


if __name__ == "__main__":
    main(sys.argv[1:])
