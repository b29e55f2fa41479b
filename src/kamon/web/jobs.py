"""Trainings, each in a process of its own (`kamon.web.worker`), and what comes of them."""

from __future__ import annotations

import base64
import json
import math
import queue
import secrets
import subprocess
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

from kamon.api import Model
from kamon.config import Config
from kamon.contents import unpack_documents
from kamon.documents import Documents
from kamon.engine import make_engine, untrained
from kamon.errors import KamonError
from kamon.metrics import Metrics
from kamon.model import num_params
from kamon.run import tested
from kamon.tokenizer import Tokenizer, tokenizer_from_json
from kamon.trainer import learning_rate
from kamon.validation import mean_loss
from kamon.web.errors import WebError, not_found
from kamon.web.limits import Limits
from kamon.web.shelf import Entry, Shelf

COMMAND = [sys.executable, "-P", "-m", "kamon.web.worker"]  # -P: not what lies about there
PASTED = "a pasted list"
MOST_LINE = 64 << 20  # bytes of a message: it has the parameters of a model
MOST_POINTS = 500  # of the losses that are shown
MOST_ERROR = 1000  # characters
END_SECONDS = 1.0  # for a process to end by itself
TYPECODES = {"float32": "f", "float64": "d"}
OVER = ("stopped", "done", "failed")
OVERTIME = 2  # times the largest budget, behind which a training is stopped


@dataclass(frozen=True)
class Started:
    """What is known of a training before its first step. training: as a model keeps it."""

    config: Config
    tokenizer: Tokenizer
    training: dict[str, Any]
    packed: bytes

    @cached_property
    def documents(self) -> Documents:
        return unpack_documents(self.packed)


@dataclass(frozen=True)
class Moment:
    """The model behind a step, made in so many seconds. params: flat, in the engine's dtype."""

    step: int
    seconds: float
    params: bytes
    samples: list[str]


@dataclass(frozen=True)
class Best:
    """The model that a training made: that of the step that did best on documents held out, with
    its loss there; where none are, that of the last step."""

    step: int
    loss: float | None
    over_fitted: bool
    samples: list[str]


@dataclass
class Job:
    """A training. What its process tells is added by one thread; `lock` is held while it is, and by
    whoever reads more than one thing.

    every: the steps that each of `points` (the last of them, mean loss) is for. source: what its
    list is called.
    """

    id: str
    source: str
    budget: float | None
    process: subprocess.Popen[bytes]
    outbox: queue.SimpleQueue[bytes | None] = field(default_factory=queue.SimpleQueue)
    lock: threading.Lock = field(default_factory=threading.Lock)
    threads: list[threading.Thread] = field(default_factory=list)
    state: str = "starting"
    error: str | None = None
    started: Started | None = None
    seconds: float = 0.0
    losses: array[float] = field(default_factory=lambda: array("d"))
    held_out: list[tuple[int, float]] = field(default_factory=list)
    every: int = 1
    points: list[tuple[int, float]] = field(default_factory=list)
    moments: list[Moment] = field(default_factory=list)
    ngram: tuple[float, int] | None = None
    best: Best | None = None

    @property
    def over(self) -> bool:
        return self.state in OVER

    def end(self, state: str, error: str | None = None) -> None:
        """The first end counts."""
        if not self.over:
            self.state, self.error = state, error and error[:MOST_ERROR]

    def add_losses(self, losses: list[float], *, last: bool = False) -> None:
        """Of the next steps. last: no others will come."""
        self.losses.extend(losses)
        while True:
            begin = len(self.points) * self.every
            some = self.losses[begin : begin + self.every]
            if not some or (len(some) < self.every and not last):
                break
            self.points.append((begin + len(some), math.fsum(some) / len(some)))


class Jobs:
    """At most limits.jobs under way; of those that are over the last limits.jobs_kept."""

    def __init__(self, shelf: Shelf, limits: Limits) -> None:
        self.shelf = shelf
        self.limits = limits
        self.streams = 0  # that are open, for events
        self.jobs: dict[str, Job] = {}
        self.lock = threading.Lock()
        self.ending = False  # the server is about to end
        self.open_moments: deque[Entry] = deque()

    def start(
        self,
        *,
        text: str | None = None,
        name: str | None = None,
        builtin: str | None = None,
        budget: float | None = None,
        settings: Mapping[str, Any] = MappingProxyType({}),
        format: str = "text",
        column: str | None = None,
    ) -> Job:
        """text: the list, called `name`, read as `corpus.from_text` does; or builtin: one in the
        package. budget: seconds; None where `settings` (of a Config) have num_steps. WebError 429
        where there are too many."""
        limits = self.limits
        source = builtin or name or PASTED
        request = {
            "text": text,
            "format": format,
            "column": column,
            "source": source,
            "budget": budget,
            "settings": dict(settings),
            "most_steps": limits.job_steps,
            "most_params": limits.job_params,
            "most_seconds": OVERTIME * limits.job_seconds,
            "moments": limits.snapshots,
            "moment_bytes": limits.snapshot_bytes,
        }
        with self.lock:
            if self.ending:
                raise WebError(503, "the server is about to end")
            under_way = sum(not job.over for job in self.jobs.values())
            if under_way >= limits.jobs:
                many = "a training is" if under_way == 1 else f"{under_way} trainings are"
                raise WebError(429, f"{many} under way: wait for one to end, or stop it")
            try:
                process = subprocess.Popen(
                    COMMAND,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # Ctrl-C is for the server, which tells its workers
                )
            except OSError as error:
                raise WebError(503, f"no process can be started: {error.strerror}") from None
            job = Job(f"job-{secrets.token_hex(4)}", source, budget, process)
            self.jobs[job.id] = job
        job.outbox.put(json.dumps(request).encode() + b"\n")
        for target in (tell, self.follow):
            thread = threading.Thread(target=target, args=[job], name=job.id, daemon=True)
            job.threads.append(thread)
            thread.start()
        self.forget_oldest()
        return job

    def get(self, id: str) -> Job:
        """WebError 404 for an id that nothing has."""
        job = self.jobs.get(id)
        if job is None:
            raise not_found(f"training {id!r}")
        return job

    def all(self) -> list[Job]:
        """The oldest first."""
        return list(self.jobs.values())

    def pause(self, id: str) -> Job:
        return self.command(id, "pause")

    def resume(self, id: str) -> Job:
        return self.command(id, "resume")

    def stop(self, id: str) -> Job:
        """It ends as soon as it can; what it has learned becomes a model. Again is no error."""
        return self.command(id, "stop")

    def command(self, id: str, word: str) -> Job:
        """WebError 409 where the training is over."""
        job = self.get(id)
        with job.lock:
            if not job.over:
                job.state = "running" if job.started else "starting"
                if word == "pause":
                    job.state = "paused"
                job.outbox.put(word.encode() + b"\n")
            elif word != "stop":
                raise WebError(409, f"the training is over: there is nothing to {word}")
        return job

    def forget(self, id: str) -> None:
        """End it at once, if it is not over; its models leave the shelf."""
        with self.lock:
            job = self.get(id)
            del self.jobs[id]
        with job.lock:  # whatever it still tells is for nobody
            job.end("stopped")
            ids = [job.id, *(moment_id(job, moment) for moment in job.moments)]
        job.process.kill()
        job.outbox.put(None)
        for each in ids:
            with suppress(WebError):  # somebody has taken it off already
                self.shelf.forget(each)

    def forget_oldest(self) -> None:
        over = [job.id for job in self.all() if job.over]
        for id in over[: max(0, len(over) - self.limits.jobs_kept)]:
            with suppress(WebError):  # somebody else was quicker
                self.forget(id)

    def end_streams(self) -> None:
        """No new ones either; nor trainings."""
        with self.lock:
            self.ending = True

    def close(self) -> None:
        """End all processes, and wait for it."""
        self.end_streams()
        for job in self.all():
            with job.lock:
                job.end("stopped")
            job.outbox.put(None)  # its standard input ends, and with it the process
        deadline = time.monotonic() + END_SECONDS
        for job in self.all():
            try:
                job.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
            for thread in job.threads:
                thread.join(END_SECONDS)

    # ---- what its process tells

    def follow(self, job: Job) -> None:
        """In a thread of its own, until the process ends."""
        problem = "the server made a mistake"
        try:
            problem = self.read_messages(job)
        finally:  # whatever happens, nothing waits for it for ever
            job.outbox.put(None)
            try:
                code = job.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                job.process.kill()
                code = job.process.wait()
            with job.lock:
                job.end("failed", problem or f"its process ended unexpectedly (exit code {code})")

    def read_messages(self, job: Job) -> str:
        """What is wrong with them, or "" where they end."""
        assert job.process.stdout
        with job.process.stdout as messages:
            try:
                while line := messages.readline(MOST_LINE):
                    message = json.loads(line)
                    with job.lock:
                        if not job.over:
                            self.take(job, message)
            except WebError as error:
                return str(error)
            except (KamonError, ValueError, LookupError, TypeError, RecursionError):
                return "its process said what nobody understands"
        return ""

    def take(self, job: Job, message: dict[str, Any]) -> None:
        """Errors of many kinds where it is not what `kamon.web.worker` says."""
        if job.started is None and message["type"] not in ("start", "failed"):
            raise ValueError("it has not started")
        match message["type"]:
            case "start":
                config = Config(**message["config"])
                job.started = Started(
                    config,
                    tokenizer_from_json(message["tokenizer"]),
                    message["training"],
                    base64.b64decode(message["documents"]),
                )
                job.every = -(-config.num_steps // MOST_POINTS)
                if job.state == "starting":
                    job.state = "running"
            case "progress":
                job.add_losses(message["losses"])
                job.held_out.extend((step, loss) for step, loss in message["held_out"])
                job.seconds = message["seconds"]
            case "ngram":
                job.ngram = message["loss"], message["order"]
            case "moment":
                if message["step"] > len(job.losses):  # its model would lack some of them
                    raise ValueError("a moment behind steps that nobody was told of")
                params = params_in(job, message)
                moment = Moment(message["step"], job.seconds, params, message["samples"])
                job.moments.append(moment)
                self.put(job, moment, moment.step)
            case "end":
                self.take_end(job, message)
            case "failed":
                job.end("failed", message["error"])
            case other:
                raise ValueError(other)

    def take_end(self, job: Job, message: dict[str, Any]) -> None:
        job.add_losses([], last=True)
        if message["params"] is not None:
            last = Moment(len(job.losses), job.seconds, params_in(job, message), [])
            self.put(job, last, None, message["training"])
            found = message["training"]["held_out"] or {}
            job.best = Best(
                found.get("best_step", last.step),
                found.get("loss"),
                found.get("over_fitted", False),
                message["samples"],
            )
        too_long = f"stopped after {job.seconds:.0f} seconds, which is the longest a training may"
        job.end(
            "done" if message["finished"] else "stopped", too_long if message["too_long"] else None
        )

    def put(
        self, job: Job, moment: Moment, step: int | None, training: dict[str, Any] | None = None
    ) -> None:
        """On the shelf: the model behind a step, or with None the one that is the training's."""
        assert job.started
        open = partial(model_of, job.started, job.losses, job.held_out, moment, training)
        if step is None:
            self.shelf.add(Entry(job.id, "trained", open))
            return
        entry = Entry(moment_id(job, moment), "trained", open, parent=job.id, step=step)
        entry.open = lambda: self.opened(entry, open())
        self.shelf.add(entry)

    def opened(self, entry: Entry, model: Model) -> Model:
        """Close the moments that were opened longest ago, where they are too many."""
        with self.lock:
            self.open_moments.append(entry)
            for other in list(self.open_moments)[: -self.limits.snapshots_open]:
                if other.lock.acquire(blocking=False):  # not while somebody uses it
                    other.opened = None
                    other.lock.release()
                    self.open_moments.remove(other)
        return model


def moment_id(job: Job, moment: Moment) -> str:
    return f"{job.id}@{moment.step}"


def params_in(job: Job, message: dict[str, Any]) -> bytes:
    """ValueError where there are not as many as the model has."""
    assert job.started
    params = base64.b64decode(message["params"])
    itemsize = array(TYPECODES[job.started.training["dtype"]]).itemsize
    if len(params) != itemsize * num_params(job.started.config):
        raise ValueError(f"{len(params)} bytes of parameters")
    return params


def tell(job: Job) -> None:
    """In a thread of its own: what is for the process, until None is."""
    assert job.process.stdin
    try:
        while line := job.outbox.get():
            job.process.stdin.write(line)
            job.process.stdin.flush()
    except OSError:  # it has ended
        pass
    finally:
        with suppress(OSError):
            job.process.stdin.close()


def model_of(
    started: Started,
    losses: array[float],
    held_out: list[tuple[int, float]],
    moment: Moment,
    training: dict[str, Any] | None,
) -> Model:
    """The model of a moment, as `kamon.train` would return it; training: of its end, where it is
    that."""
    config, tokenizer, step = started.config, started.tokenizer, moment.step
    metrics = Metrics(
        losses[:step],
        array("d", [learning_rate(config, before) for before in range(step)]),
        {number: loss for number, loss in held_out if number <= step},
    )
    dtype = started.training["dtype"]
    engine = make_engine(started.training["engine"], config, dtype=dtype)
    params = array("d", array(TYPECODES[dtype], moment.params))
    engine.load(untrained(params))
    known = training or started.training | {
        "num_steps_done": step,
        "seconds": moment.seconds,
        "finished": False,
        "held_out": {} if started.training["hold_out"] else None,
    }
    model = Model(config, tokenizer, engine, metrics, known, started.documents)
    if training is None and known["held_out"] is not None:
        docs = tested(tokenizer, model.parts()[1], config)
        known["held_out"] = {
            "num_docs": len(docs),
            "loss": mean_loss(engine, docs),
            "best_step": step,
            "over_fitted": False,
        }
    return model
