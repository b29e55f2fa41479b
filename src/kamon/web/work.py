"""Work that computes: a few threads, a short queue, and nothing for those who went away."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from kamon.web.errors import WebError
from kamon.web.limits import Limits

T = TypeVar("T")
LOOK_SECONDS = 0.05  # between two looks whether the client is still there


class Stopped(Exception):  # noqa: N818
    """Raised by work that finds its Stop set."""


class Stop:
    """Asked by work that takes long, between two pieces of it."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> bool:
        return self.event.is_set()

    def check(self) -> bool:
        """False; Stopped is raised where it is set."""
        if self():
            raise Stopped
        return False


def busy() -> WebError:
    return WebError(503, "the server has enough to do: try again in a second")


class Work:
    """Runs functions in threads, at most `limits.threads` at a time.

    `limits.waiting` more wait for their turn; who comes then is told at once to come back (503),
    and so is who would wait longer than `limits.wait_seconds`. A client that goes away takes its
    work out of the queue, or has its Stop set. ending: all work is to do so.
    """

    def __init__(self, limits: Limits) -> None:
        self.most = limits.threads + limits.waiting
        self.wait_seconds = limits.wait_seconds
        self.pending = 0
        self.ending = False
        self.pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="kamon-work")

    async def run(
        self, function: Callable[[Stop], T], gone: Callable[[], Awaitable[bool]] | None = None
    ) -> T:
        """What `function` returns; gone: whether nobody waits for it any more."""
        if self.pending >= self.most:
            raise busy()
        stop, asked = Stop(), time.monotonic()

        def begin() -> T:
            if time.monotonic() - asked > self.wait_seconds:
                raise busy()
            return function(stop)

        self.pending += 1
        future = self.pool.submit(begin)
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(self._done)
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
                if waiting.done():
                    break
                if self.ending or (gone is not None and await gone()):
                    raise Stopped
        except BaseException:
            stop.event.set()
            future.cancel()
            raise
        return waiting.result()

    def _done(self, waiting: asyncio.Future[T]) -> None:
        self.pending -= 1
        if not waiting.cancelled():
            waiting.exception()  # asked for, so that nobody is told it was not

    def end(self) -> None:
        self.ending = True

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
