"""Trainings, each in a process of its own (`kamon.web.services.worker`), and what comes of them."""

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import MappingProxyType
from typing import Any

from kamon.config import Config
from kamon.data.documents import Documents
from kamon.engines.base import initial_state
from kamon.engines.factory import make_engine
from kamon.engines.parameters import num_params
from kamon.errors import KamonError
from kamon.model import Model
from kamon.storage.checkpoint import unpack_documents
from kamon.storage.metrics import Metrics
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.load import tokenizer_from_json
from kamon.training.data import validation_batch
from kamon.training.early_stopping import mean_loss
from kamon.training.loop import learning_rate
from kamon.web.errors import WebError, not_found
from kamon.web.limits import Limits
from kamon.web.services.registry import Entry, ModelRegistry

COMMAND = [sys.executable, "-P", "-m", "kamon.web.services.worker"]  # -P: not what lies about there
PASTED = "a pasted list"
MAX_LINE_BYTES = 64 << 20  # bytes of a message: it has the parameters of a model
MAX_POINTS = 500  # of the losses that are shown
MAX_ERROR = 1000  # characters
END_SECONDS = 1.0  # for a process to end by itself
TYPECODES = {"float32": "f", "float64": "d"}
OVER = ("stopped", "done", "failed")
WAITS = ("queued", "paused")  # states in which others have its place
OVERTIME = 2  # times the largest budget, after which a training is stopped


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
class Snapshot:
    """The model after a step, made in so many seconds. params: flat, in the engine's dtype."""

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
    list is called. process: None before its turn. timer: of a pause.
    """

    id: str
    source: str
    budget: float | None
    process: subprocess.Popen[bytes] | None = None
    timer: threading.Timer | None = None
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
    moments: list[Snapshot] = field(default_factory=list)
    ngram: tuple[float, int] | None = None
    best: Best | None = None
    pause_ended: bool = False  # it was stopped, having been paused for too long

    @property
    def over(self) -> bool:
        return self.state in OVER

    def end(self, state: str, error: str | None = None) -> None:
        """The first end counts."""
        if not self.over:
            self.state, self.error = state, error and error[:MAX_ERROR]

    def tell(self, word: str) -> None:
        self.outbox.put(word.encode() + b"\n")

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
    """At most limits.jobs under way; the others wait for their turn, in the order of `queue`.

    A paused one has given its place away. Of those that are over the last limits.jobs_kept are
    kept. Who holds `lock` may take the lock of a job, and not the other way round.
    """

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        self.registry = registry
        self.limits = limits
        self.streams = 0  # that are open, for events
        self.jobs: dict[str, Job] = {}
        self.queue: list[Job] = []
        self.lock = threading.RLock()
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
        header: bool = True,
    ) -> Job:
        """text: the list, called `name`, read as `corpus.from_text` does; or builtin: one in the
        package. budget: seconds; None where `settings` (of a Config) have num_steps. WebError 429
        where too many wait already."""
        limits = self.limits
        source = builtin or name or PASTED
        request = {
            "text": text,
            "format": format,
            "column": column,
            "header": header,
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
            if len(self.queue) >= limits.jobs_waiting:
                raise WebError(
                    429, f"{len(self.queue)} trainings wait for their turn already: try again later"
                )
            job = Job(f"job-{secrets.token_hex(4)}", source, budget, state="queued")
            job.tell(json.dumps(request))
            self.jobs[job.id] = job
            self.queue.append(job)
            self.go_on()
        self.forget_oldest()
        return job

    def go_on(self) -> None:
        """Let those go on that have waited longest, if there are places for them."""
        with self.lock:
            while self.queue and not self.ending:
                busy = sum(not job.over and job.state not in WAITS for job in self.jobs.values())
                if busy >= self.limits.jobs:
                    return
                job = self.queue.pop(0)
                with job.lock:
                    job.state = "running" if job.started else "starting"
                if job.process:
                    job.tell("resume")
                else:
                    self.begin(job)

    def begin(self, job: Job) -> None:
        """Start its process."""
        try:
            job.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for the server, which tells its workers
            )
        except OSError as error:
            with job.lock:
                job.end("failed", f"no process can be started: {error.strerror}")
            return
        for target in (write_commands, self.follow_process):
            thread = threading.Thread(
                target=target, args=[job, job.process], name=job.id, daemon=True
            )
            job.threads.append(thread)
            thread.start()

    def ahead(self, job: Job) -> int | None:
        """Return how many trainings have their turn before a queued one."""
        try:
            return self.queue.index(job)
        except ValueError:
            return None

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
        """Let others have its place; after limits.pause_seconds it is stopped."""
        with self.under_way(id, "pause") as job:
            if job.state == "paused":
                return job
            if sum(each.state == "paused" for each in self.all()) >= self.limits.jobs_paused:
                raise WebError(429, "too many trainings are paused: resume or stop one of them")
            self.leave(job)
            job.state = "paused"
            job.tell("pause")
            job.timer = threading.Timer(self.limits.pause_seconds, self.end_pause, [job])
            job.timer.daemon = True
            job.timer.start()
        self.go_on()
        return job

    def resume(self, id: str) -> Job:
        """Let it go on, as soon as there is a place for it."""
        with self.under_way(id, "resume") as job:
            if job.state == "paused":
                self.leave(job)
                job.state = "queued"
                self.queue.append(job)
        self.go_on()
        return job

    def stop(self, id: str) -> Job:
        """It ends as soon as it can; what it has learned becomes a model. Again is no error."""
        with self.under_way(id, "stop") as job:
            if not job.over:
                self.leave(job)
                if job.process:
                    job.state = "running" if job.started else "starting"
                    job.tell("stop")
                else:
                    job.end("stopped")
        return job

    def end_pause(self, job: Job) -> None:
        with suppress(WebError):
            if job.state == "paused":
                job.pause_ended = True
                self.stop(job.id)

    @contextmanager
    def under_way(self, id: str, word: str) -> Iterator[Job]:
        """Hold a training. WebError 409 if it is over, but not for "stop"."""
        with self.lock:
            job = self.get(id)
            with job.lock:
                if job.over and word != "stop":
                    raise WebError(409, f"the training is over: there is nothing to {word}")
                yield job

    def leave(self, job: Job) -> None:
        """Take it out of the queue, or end its pause."""
        if job in self.queue:
            self.queue.remove(job)
        if job.timer:
            job.timer.cancel()
            job.timer = None

    def forget(self, id: str) -> None:
        """End it at once, if it is not over; its models leave the shelf."""
        with self.lock:
            job = self.get(id)
            del self.jobs[id]
            self.leave(job)
        with job.lock:  # whatever it still tells is for nobody
            job.end("stopped")
            ids = [job.id, *(moment_id(job, moment) for moment in job.moments)]
        if job.process:
            job.process.kill()
        job.outbox.put(None)
        self.go_on()
        for each in ids:
            with suppress(WebError):  # somebody has taken it off already
                self.registry.forget(each)

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
            self.leave(job)
            job.outbox.put(None)  # its standard input ends, and with it the process
        deadline = time.monotonic() + END_SECONDS
        for job in self.all():
            if job.process is None:
                continue
            try:
                job.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                job.process.kill()
                job.process.wait()
            for thread in job.threads:
                thread.join(END_SECONDS)

    # ---- what its process tells

    def follow_process(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        """In a thread of its own, until the process ends."""
        problem = "the server made a mistake"
        try:
            problem = self.read_messages(job, process)
        finally:  # whatever happens, nothing waits for it for ever
            job.outbox.put(None)
            try:
                code = process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
            with job.lock:
                job.end("failed", problem or f"its process ended unexpectedly (exit code {code})")
            with self.lock:
                self.leave(job)
            self.go_on()

    def read_messages(self, job: Job, process: subprocess.Popen[bytes]) -> str:
        """What is wrong with them, or "" where they end."""
        assert process.stdout
        with process.stdout as messages:
            try:
                while line := messages.readline(MAX_LINE_BYTES):
                    message = json.loads(line)
                    with job.lock:
                        if not job.over:
                            self.handle_message(job, message)
            except WebError as error:
                return str(error)
            except (KamonError, ValueError, LookupError, TypeError, RecursionError):
                return "its process said what nobody understands"
        return ""

    def handle_message(self, job: Job, message: dict[str, Any]) -> None:
        """Errors of many kinds if it is not what `kamon.web.services.worker` says."""
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
                job.every = -(-config.num_steps // MAX_POINTS)
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
                moment = Snapshot(message["step"], job.seconds, params, message["samples"])
                job.moments.append(moment)
                self.put(job, moment, moment.step)
            case "end":
                self.handle_end(job, message)
            case "failed":
                job.end("failed", message["error"])
            case other:
                raise ValueError(other)

    def handle_end(self, job: Job, message: dict[str, Any]) -> None:
        job.add_losses([], last=True)
        if message["params"] is not None:
            last = Snapshot(len(job.losses), job.seconds, params_in(job, message), [])
            self.put(job, last, None, message["training"])
            found = message["training"]["held_out"] or {}
            job.best = Best(
                found.get("best_step", last.step),
                found.get("loss"),
                found.get("over_fitted", False),
                message["samples"],
            )
        why = None
        if message["too_long"]:
            why = f"stopped after {job.seconds:.0f} seconds, the longest that a training may take"
        elif job.pause_ended:
            why = (
                f"stopped after a pause of {self.limits.pause_seconds:g} seconds, the longest here"
            )
        job.end("done" if message["finished"] else "stopped", why)

    def put(
        self, job: Job, moment: Snapshot, step: int | None, training: dict[str, Any] | None = None
    ) -> None:
        """On the shelf: the model after a step, or with None the one that is the training's."""
        assert job.started
        open = partial(model_of, job.started, job.losses, job.held_out, moment, training)
        if step is None:
            self.registry.add(Entry(job.id, "trained", open))
            return
        entry = Entry(moment_id(job, moment), "trained", open, parent=job.id, step=step)
        entry.open = lambda: self.opened(entry, open())
        self.registry.add(entry)

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


def moment_id(job: Job, moment: Snapshot) -> str:
    return f"{job.id}@{moment.step}"


def params_in(job: Job, message: dict[str, Any]) -> bytes:
    """ValueError where there are not as many as the model has."""
    assert job.started
    params = base64.b64decode(message["params"])
    itemsize = array(TYPECODES[job.started.training["dtype"]]).itemsize
    if len(params) != itemsize * num_params(job.started.config):
        raise ValueError(f"{len(params)} bytes of parameters")
    return params


def write_commands(job: Job, process: subprocess.Popen[bytes]) -> None:
    """In a thread of its own: what is for the process, until None is."""
    assert process.stdin
    try:
        while line := job.outbox.get():
            process.stdin.write(line)
            process.stdin.flush()
    except OSError:  # it has ended
        pass
    finally:
        with suppress(OSError):
            process.stdin.close()


def model_of(
    started: Started,
    losses: array[float],
    held_out: list[tuple[int, float]],
    moment: Snapshot,
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
    engine.load(initial_state(params))
    known = training or started.training | {
        "num_steps_done": step,
        "seconds": moment.seconds,
        "finished": False,
        "held_out": {} if started.training["hold_out"] else None,
    }
    model = Model(config, tokenizer, engine, metrics, known, started.documents)
    if training is None and known["held_out"] is not None:
        docs = validation_batch(tokenizer, model.parts()[1], config)
        known["held_out"] = {
            "num_docs": len(docs),
            "loss": mean_loss(engine, docs),
            "best_step": step,
            "over_fitted": False,
        }
    return model
