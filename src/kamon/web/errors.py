"""Errors of requests."""

from kamon.errors import HINT


class WebError(Exception):
    """An error answer: its HTTP status, a message, and a hint."""

    def __init__(self, status: int, text: str, hint: str | None = None) -> None:
        super().__init__(text if hint is None else f"{text}{HINT}{hint}")
        self.status = status


def one_line(error: Exception) -> str:
    """Return the message and the hint of an error in one line."""
    return str(error).replace(HINT, ": ")


def not_found(what: str) -> WebError:
    return WebError(404, f"no {what:.200}")
