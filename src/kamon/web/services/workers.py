"""Work that computes: fair turns, short ones while others wait, and nothing for those who left."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from kamon.web.errors import WebError
from kamon.web.limits import Limits

T = TypeVar("T")
LOOK_SECONDS = 0.05  # between two looks whether the client is still there


class Stopped(Exception):  # noqa: N818
    """Raised by work that finds its Stop set."""


class Turn:
    """A place in the queue. key: two turns with the same one are never taken at once."""

    def __init__(self, key: object, go: Callable[[], object]) -> None:
        self.key = key
        self.go = go


class FairTurns:
    """At most `most` turns are taken at a time, the one that was asked for first before others."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.lock = threading.Lock()
        self.waiting: list[Turn] = []
        self.taken: list[Turn] = []
        self.keeping: list[Turn] = []  # turns that wait for their next part, and keep their key

    def ask(self, turn: Turn) -> None:
        with self.lock:
            self.waiting.append(turn)
            self._go()

    def end(self, turn: Turn) -> None:
        with self.lock:
            self.taken.remove(turn)
            self._go()

    def rest(self, turn: Turn, *, keep: bool) -> None:
        """Let those who wait have their turn before the rest of this one. keep: no others with its
        key."""
        with self.lock:
            if not self.waiting:
                return
            again = threading.Event()
            turn.go = again.set
            self.taken.remove(turn)
            self.waiting.append(turn)
            if keep:
                self.keeping.append(turn)
            self._go()
        again.wait()

    def leave(self, turn: Turn) -> bool:
        """Whether the turn still waited, and now does not."""
        with self.lock:
            waits = turn in self.waiting
            if waits:
                self.waiting.remove(turn)
            return waits

    def _go(self) -> None:
        for turn in list(self.waiting):
            if len(self.taken) == self.most:
                break
            others = [each.key for each in (*self.taken, *self.keeping) if each is not turn]
            if turn.key is None or all(turn.key is not each for each in others):
                self.waiting.remove(turn)
                self.taken.append(turn)
                if turn in self.keeping:
                    self.keeping.remove(turn)
                turn.go()


class Stop:
    """Asked by work that takes long, between two pieces of it.

    seconds: how long the work may compute; its time while others have their turn is not counted.
    rest: gives up the turn and gets another one; keep=True: others with its key wait meanwhile.
    """

    def __init__(self, seconds: float = float("inf"), slice_seconds: float = float("inf")) -> None:
        self.event = threading.Event()
        self.seconds = seconds
        self.slice_seconds = slice_seconds
        self.used = 0.0  # in the turns before this one
        self.begun = time.monotonic()
        self.rest: Callable[[bool], None] = lambda keep: None  # noqa: ARG005
        self.held: threading.Lock | None = None

    def __call__(self) -> bool:
        return self.event.is_set()

    def late(self) -> bool:
        """Whether the time is over; others have their turn first if they wait for one."""
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
        """False; raises Stopped if the client is gone, and WebError 422 if the time is over."""
        if self():
            raise Stopped
        if self.late():
            raise WebError(
                422,
                f"this takes longer than {self.seconds:g} seconds, the limit of this server: ask "
                "for less at a time, or use a smaller model",
            )
        return False

    @contextmanager
    def holding(self, lock: threading.Lock) -> Iterator[None]:
        """Hold a lock, but not while others have their turn."""
        with lock:
            self.held = lock
            try:
                yield
            finally:
                self.held = None


def busy() -> WebError:
    return WebError(503, "the server has enough to do: try again in a second")


class WorkerPool:
    """Runs functions in threads, at most `limits.threads` at a time, and one for each key.

    `limits.waiting` more wait for their turn. More than that are told at once to come back (503),
    and so is whoever waits longer than `limits.wait_seconds`. A client that goes away takes its
    work out of the queue, or has its Stop set. ending: all work is to do so.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.most = limits.threads + limits.waiting
        self.pending = 0
        self.ending = False
        self.turns = FairTurns(limits.threads)
        self.pool = ThreadPoolExecutor(self.most, thread_name_prefix="kamon-work")

    async def run(
        self,
        function: Callable[[Stop], T],
        gone: Callable[[], Awaitable[bool]] | None = None,
        *,
        key: object = None,
        seconds: float | None = None,
    ) -> T:
        """Return what `function` returns.

        gone: whether nobody waits for it any more. key: what it uses, such as a model: others with
        the same key have their turns before or after it. seconds: the limit of its Stop
        (limits.work_seconds).
        """
        if self.pending >= self.most:
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
            while not waiting.done():
                await asyncio.wait({waiting}, timeout=LOOK_SECONDS)
                if waiting.done():
                    break
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
            waiting.exception()  # asked for, so that nobody is told it was not

    def end(self) -> None:
        self.ending = True

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
