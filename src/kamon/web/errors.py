"""What a request is told where it cannot be done."""


class WebError(Exception):
    """Becomes an answer with this status, and one sentence: what is wrong, what to do."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def not_found(what: str) -> WebError:
    return WebError(404, f"there is no {what:.200}")
