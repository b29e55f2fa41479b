"""Work that computes: a few threads, a short queue, and nothing for those who went away."""

from __future__ import annotations

import asyncio
import threading
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

    def check(self) -> None:
        if self():
            raise Stopped


class Work:
    """Runs functions in threads, at most `limits.threads` at a time.

    `limits.waiting` more wait for their turn; who comes then is told at once to come back (503). A
    client that goes away takes its work out of the queue, or has its Stop set.
    """

    def __init__(self, limits: Limits) -> None:
        self.most = limits.threads + limits.waiting
        self.pending = 0
        self.pool = ThreadPoolExecutor(limits.threads, thread_name_prefix="kamon-work")

    async def run(
        self, function: Callable[[Stop], T], gone: Callable[[], Awaitable[bool]] | None = None
    ) -> T:
        """What `function` returns; gone: whether nobody waits for it any more."""
        if self.pending >= self.most:
            raise WebError(503, "the server has enough to do: try again in a second")
        stop = Stop()
        self.pending += 1
        future = self.pool.submit(function, stop)
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(self._done)
        try:
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
                if not waiting.done() and gone is not None and await gone():
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

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
