"""Errors of requests."""


class WebError(Exception):
    """An answer with this status and one sentence: what is wrong, and what to do."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def not_found(what: str) -> WebError:
    return WebError(404, f"there is no {what:.200}")
