"""Threads that compute for requests, in fair turns, as long as the client is connected."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from kamon.web.errors import WebError
from kamon.web.limits import Limits

T = TypeVar("T")
LOOK_SECONDS = 0.05  # between two checks of the client's connection


class Stopped(Exception):  # noqa: N818
    """The client has disconnected, or the server is shutting down."""


@dataclass(eq=False)
class Turn:
    """A place in the queue. Turns with the same key never run at the same time."""

    key: object
    go: Callable[[], object]


class FairTurns:
    """A queue that runs at most `max_running` turns at the same time, the oldest first."""

    def __init__(self, max_running: int) -> None:
        self.max_running = max_running
        self.lock = threading.Lock()
        self.waiting: list[Turn] = []
        self.running: list[Turn] = []
        self.keeping: list[Turn] = []  # turns that wait to continue and keep their key

    def ask(self, turn: Turn) -> None:
        with self.lock:
            self.waiting.append(turn)
            self._go()

    def end(self, turn: Turn) -> None:
        with self.lock:
            self.running.remove(turn)
            self._go()

    def rest(self, turn: Turn, *, keep: bool) -> None:
        """Let waiting turns run before the rest of this one. keep: not those with the same key."""
        with self.lock:
            if not self.waiting:
                return
            again = threading.Event()
            turn.go = again.set
            self.running.remove(turn)
            self.waiting.append(turn)
            if keep:
                self.keeping.append(turn)
            self._go()
        again.wait()

    def leave(self, turn: Turn) -> bool:
        """Remove a turn from the queue. Return True if it was in the queue."""
        with self.lock:
            waits = turn in self.waiting
            if waits:
                self.waiting.remove(turn)
            return waits

    def _go(self) -> None:
        for turn in list(self.waiting):
            if len(self.running) == self.max_running:
                break
            others = [other.key for other in (*self.running, *self.keeping) if other is not turn]
            if turn.key is None or all(turn.key is not key for key in others):
                self.waiting.remove(turn)
                self.running.append(turn)
                if turn in self.keeping:
                    self.keeping.remove(turn)
                turn.go()


class Stop:
    """Decides whether work has to stop. Long work checks it often.

    Attributes:
        seconds: how long the work may compute, not counting the turns of others.
        rest: gives others a turn (see `FairTurns.rest`).
        held: a lock to release during their turns.
    """

    def __init__(self, seconds: float = float("inf"), slice_seconds: float = float("inf")) -> None:
        self.event = threading.Event()
        self.seconds = seconds
        self.slice_seconds = slice_seconds
        self.used = 0.0  # seconds in earlier turns
        self.begun = time.monotonic()
        self.rest: Callable[[bool], None] = lambda keep: None  # noqa: ARG005
        self.held: threading.Lock | None = None

    def __call__(self) -> bool:
        return self.event.is_set()

    def late(self) -> bool:
        """Return True if the time is up. First give waiting work a turn."""
        now = time.monotonic()
        if now - self.begun >= self.slice_seconds:
            self.used += now - self.begun
            if self.held:
                self.held.release()
            self.rest(self.held is None)
            if self.held:
                self.held.acquire()
            self.begun = now = time.monotonic()
        return self.used + now - self.begun > self.seconds

    def check(self) -> bool:
        """Return False. Raise Stopped if the client is gone, or WebError 422 if the time is up."""
        if self():
            raise Stopped
        if self.late():
            raise WebError(
                422,
                f"this takes longer than {self.seconds:g} seconds, the limit of this server",
                "ask for less at a time, or use a smaller model",
            )
        return False

    @contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock, except during the turns of others."""
        with lock:
            self.held = lock
            try:
                yield
            finally:
                self.held = None


def busy() -> WebError:
    return WebError(503, "the server is busy: try again in a second")


class WorkerPool:
    """Runs functions in threads: at most limits.threads at the same time, and one per key.

    Up to limits.waiting more can wait. Others get 503 immediately. One that waits longer than
    limits.wait_seconds gets 503, too. If a client disconnects, its work leaves the queue or stops.
    If the server is `ending`, all work does.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.max_pending = limits.threads + limits.waiting
        self.pending = 0
        self.ending = False
        self.turns = FairTurns(limits.threads)
        self.pool = ThreadPoolExecutor(self.max_pending, thread_name_prefix="kamon-work")

    async def run(
        self,
        function: Callable[[Stop], T],
        gone: Callable[[], Awaitable[bool]] | None = None,
        *,
        key: object = None,
        seconds: float | None = None,
    ) -> T:
        """Return the result of `function`.

        Args:
            function: the work. It checks its argument often.
            gone: returns True if the client has disconnected.
            key: an object that it uses, such as a model. Only one function at a time has it.
            seconds: how long it may compute (by default limits.work_seconds).

        Raises:
            WebError: 503 if too many requests wait, or if this one waited too long.
            Stopped: the client has disconnected, or the server is shutting down.
        """
        if self.pending >= self.max_pending:
            raise busy()
        limits = self.limits
        stop = Stop(limits.work_seconds if seconds is None else seconds, limits.slice_seconds)
        future: Future[T] = Future()
        turn = Turn(key, lambda: self.pool.submit(begin))

        def begin() -> None:
            try:
                if not future.set_running_or_notify_cancel():
                    return
                stop.begun = time.monotonic()
                try:
                    future.set_result(function(stop))
                except BaseException as error:
                    future.set_exception(error)
            finally:
                self.turns.end(turn)

        stop.rest = lambda keep: self.turns.rest(turn, keep=keep)
        waiting, asked = asyncio.wrap_future(future), time.monotonic()
        self.pending += 1
        waiting.add_done_callback(self._done)
        try:
            self.turns.ask(turn)
            while not (await asyncio.wait({waiting}, timeout=LOOK_SECONDS))[0]:
                if self.ending or (gone is not None and await gone()):
                    raise Stopped
                late = time.monotonic() - asked > limits.wait_seconds
                if late and not future.running() and self.turns.leave(turn):
                    raise busy()
        except BaseException:
            stop.event.set()
            if not future.running():
                self.turns.leave(turn)
                future.cancel()
            raise
        return waiting.result()

    def _done(self, waiting: asyncio.Future[T]) -> None:
        self.pending -= 1
        if not waiting.cancelled():
            waiting.exception()  # otherwise asyncio warns that nobody retrieved it

    def end(self) -> None:
        self.ending = True

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
