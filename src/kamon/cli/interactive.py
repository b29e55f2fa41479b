"""Completion while you type: suggestions under the line, on a terminal.

A thread computes them with a fraction of the usual effort, and only for the newest text. So typing
never waits for them.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, NamedTuple

from kamon.cli.output import entry_line, one_line
from kamon.cli.parser import Args
from kamon.cli.settings import given_of
from kamon.cli.suggest import found_lines, next_lines, word_lines
from kamon.data.graphemes import first_graphemes, last_grapheme
from kamon.errors import ConfigError, KamonError

if TYPE_CHECKING:
    from collections.abc import Collection

    from prompt_toolkit.application import Application

    from kamon.model import Model

EFFORT = 0.2  # relative to a search that a person waits for
ROWS = 6  # of next tokens, and of completions: both fit on a small screen
HELP = "Tab: accept the first completion   Enter: next line   Esc: leave"


class Suggestions(NamedTuple):
    """The suggestions under the line."""

    text: str  # in the line
    best: str  # the first completion that is longer, or the text
    lines: list[str]


def check_terminal() -> None:
    """Raise ConfigError without a terminal or prompt_toolkit."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            "--interactive needs a terminal for standard input and output",
            "leave it out to print the completions",
        )
    try:
        import prompt_toolkit  # noqa: F401
    except ImportError:
        raise ConfigError(
            "--interactive needs prompt_toolkit",
            'install it with `pip install "kamon[interactive]"`',
        ) from None


def suggest(model: Model, text: str, known: Collection[str], args: Args) -> Suggestions:
    """Return the tables for `text`, or the message that says why there are none."""
    from kamon.completion import complete, complete_words, next_tokens, replaced, replacements
    from kamon.generation.words import Gap

    try:
        prefix = model.tokenizer.normal(text)
        exchanged = replacements(model.tokenizer, prefix, args.unknown)
        prefix = "".join(map(str, replaced(prefix, exchanged)))
        given = given_of(args)
        tokens = next_tokens(model, prefix, temperature=args.temperature, given=given)
        n, effort = min(args.n, ROWS), args.effort * EFFORT
        if model.writes_text or args.words:
            found = complete_words(model, prefix, n, effort=effort, given=given)
            lines = [*next_lines(tokens, min(args.next, ROWS)), "", *word_lines(found)]
            first = found.words[0].text if found.words else ""
            return Suggestions(
                text, f"{Gap.at_end(prefix).before}{first} " if first else text, lines
            )
        result = complete(model, prefix, n, effort=effort, given=given)
    except KamonError as error:
        return Suggestions(text, text, [f"  {one_line(str(error))}"])
    lines = [*next_lines(tokens, min(args.next, ROWS)), "", *found_lines(result, known)]
    best = next((document.text for document in result.documents if document.text != text), text)
    return Suggestions(text, best, lines)


def complete_lines(model: Model, text: str, args: Args) -> None:
    """Print each line that ends with Enter, until Esc, Ctrl-C or Ctrl-D. `text` is the first."""
    known = set(model.docs)
    while True:
        line = line_editor(model, text, known, args).run()
        if line is None:
            return
        print(entry_line(line), flush=True)
        text = ""


def line_editor(
    model: Model, text: str, known: Collection[str], args: Args
) -> Application[str | None]:
    """Return the editor of a line, which returns the line, or None if the user leaves."""
    from prompt_toolkit.application import Application
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.layout import BufferControl, FormattedTextControl, HSplit, Layout, Window
    from prompt_toolkit.layout.processors import BeforeInput

    shown = Suggestions("", "", [])
    task: asyncio.Task[None] | None = None

    async def refresh() -> None:
        """Compute suggestions until they are for the current text."""
        nonlocal shown
        while True:
            text = buffer.text
            shown = await asyncio.to_thread(suggest, model, text, known, args)
            app.invalidate()
            if text == buffer.text:
                return

    def changed(_: Buffer | None = None) -> None:
        nonlocal task
        if task is None or task.done():
            task = app.create_background_task(refresh())

    keys = KeyBindings()

    @keys.add("tab")
    def accept(event: KeyPressEvent) -> None:
        if shown.text == event.current_buffer.text:
            event.current_buffer.document = Document(shown.best)

    # The cursor moves over a character as people see it, and not over each of its code points.
    @keys.add("left")
    def left(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        buffer.cursor_position -= len(last_grapheme(buffer.document.text_before_cursor))

    @keys.add("right")
    def right(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        buffer.cursor_position += len(first_graphemes(buffer.document.text_after_cursor, 1))

    @keys.add("backspace")
    def remove(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.cursor_position:
            buffer.delete_before_cursor(len(last_grapheme(buffer.document.text_before_cursor)))

    @keys.add("delete")
    def remove_next(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        buffer.delete(len(first_graphemes(buffer.document.text_after_cursor, 1)))

    @keys.add("enter")
    def finish(event: KeyPressEvent) -> None:
        event.app.exit(result=event.current_buffer.text)

    @keys.add("escape")
    @keys.add("c-c")
    @keys.add("c-d")
    def leave(event: KeyPressEvent) -> None:
        event.app.exit(result=None)

    buffer = Buffer(document=Document(text), multiline=False, on_text_changed=changed)
    line = Window(BufferControl(buffer, input_processors=[BeforeInput("> ")]), height=1)
    text_of_table = FormattedTextControl(lambda: "\n".join([*shown.lines, "", HELP]))
    table = Window(text_of_table, dont_extend_height=True, wrap_lines=True)
    app: Application[str | None] = Application(
        layout=Layout(HSplit([line, table])), key_bindings=keys, erase_when_done=True
    )
    app.ttimeoutlen = 0.05  # seconds to wait after Esc, because other keys begin with it
    app.timeoutlen = 0.05
    app.pre_run_callables.append(changed)
    return app
