"""How Sphinx makes the site of these pages: `make docs`."""

from __future__ import annotations

import importlib
import re

from sphinx.application import Sphinx

import kamon
from kamon.cli import VERBS, complete_parser
from kamon.cli.parser import Parser

project = "Kamon"
author = "The Kamon authors"
copyright = "The Kamon authors, MIT licence"
release = version = kamon.__version__
html_title = "Kamon"
html_theme = "furo"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinxarg.ext",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
nb_execution_mode = "off"
default_role = "code"
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # or the attributes of named tuples would be described twice
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
suppress_warnings = [
    "myst.domains",  # the domain of commands cannot look up a name
    "ref.python",  # two modules have a Found
]
smartquotes = False  # --json is two hyphens
copybutton_exclude = ".linenos, .gp, .go"


def commands() -> Parser:
    """Return one parser of all commands, for the command reference."""
    whole = Parser(prog="kamon", usage="kamon COMMAND [OPTIONS]")
    verbs = whole.add_subparsers()
    for verb, help in VERBS.items():
        command = importlib.import_module(f"kamon.cli.{verb}")
        parser = verbs.add_parser(verb, help=help)
        complete_parser(parser, verb, command)
        parser.description = as_rst(parser.description or "")
        parser.epilog = as_rst(parser.epilog or "")
    return whole


def as_rst(text: str) -> str:
    """Return a help text as RST: indented lines stay as typed, and stars are not markup."""
    parts = re.split(r"((?:^  .*(?:\n|\Z))+)", text, flags=re.MULTILINE)
    prose = [re.sub(r"([\\*])", r"\\\1", part) for part in parts[::2]]
    typed = [f"\n::\n\n{part}\n" for part in parts[1::2]]
    return "".join(p + t for p, t in zip(prose, [*typed, ""], strict=True))


def keep_indented(
    _app: object, _kind: str, _name: str, _what: object, _how: object, lines: list[str]
) -> None:
    """Keep indented text after an empty line, such as a formula, as it is typed."""
    text = re.sub(r"(\A|\n\n)(?=    \S)", r"\1::\n\n", "\n".join(lines))
    lines[:] = text.split("\n")


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", keep_indented)
