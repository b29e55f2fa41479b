"""Run units of work in several processes. They also end if this process is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from kamon.errors import CorpusError
from kamon.packing.inputs import Report

WAIT = 0.1  # seconds between reports

Work = Callable[[int, Report], Any]


class Stopped(Exception):  # noqa: N818 - not an error
    """Raised in a worker when the main process stops it."""


# `begin` sets these in each worker.
worker_stop: tuple[Work, Any, Any]


def run_in_processes(work: Work, units: list[int], jobs: int, report: Report) -> dict[int, Any]:
    """Return `work(unit, report)` for each unit. An error in any process stops all.

    work: a function that can be pickled, because processes are spawned. So can its errors.
    """
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2)
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, context, begin, (work, counts, stop))
    try:
        with no_interrupt():
            futures = {pool.submit(call, unit): unit for unit in units}
        reported = [0, 0]
        pending: set[Future[Any]] = set(futures)
        while pending:
            done, pending = wait(pending, WAIT, FIRST_EXCEPTION)
            now = counts[:]
            report(now[0] - reported[0], now[1] - reported[1])
            reported = now
            for future in sorted(done, key=lambda future: futures[future]):
                future.result()
        return {unit: future.result() for future, unit in futures.items()}
    except BrokenProcessPool:
        raise CorpusError(
            "a packing process was killed, perhaps because memory ran out",
            "run the command again with fewer --jobs to resume",
        ) from None
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


@contextmanager
def no_interrupt() -> Iterator[None]:
    """Postpone Ctrl-C.

    Processes that start meanwhile ignore it. They stop when the main process sets `stop`.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(work: Work, counts: Any, stop: Any) -> None:
    global worker_stop
    worker_stop = work, counts, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def call(unit: int) -> Any:
    work, counts, stop = worker_stop

    def report(num_bytes: int, num_tokens: int) -> None:
        with counts.get_lock():
            counts[0] += num_bytes
            counts[1] += num_tokens
        if stop.is_set():
            raise Stopped

    return work(unit, report)
