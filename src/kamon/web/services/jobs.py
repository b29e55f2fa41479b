"""Trainings, each in a process of its own (see `kamon.web.services.worker`), and their models."""

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
from kamon.data.split import divide
from kamon.engines.base import initial_state
from kamon.engines.factory import make_engine
from kamon.engines.parameters import num_params
from kamon.errors import KamonError
from kamon.model import Model
from kamon.storage.checkpoint import unpack_documents
from kamon.storage.metrics import Metrics
from kamon.storage.records import TrainingRecord, ValidationRecord
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.load import tokenizer_from_json
from kamon.training.data import validation_batch
from kamon.training.early_stopping import mean_loss
from kamon.training.loop import learning_rate
from kamon.web.errors import WebError, not_found
from kamon.web.limits import Limits
from kamon.web.services.registry import Entry, ModelRegistry

COMMAND = [
    sys.executable,
    "-P",
    "-m",
    "kamon.web.services.worker",
]  # -P: import nothing from the current directory
PASTED = "a pasted list"
MAX_LINE_BYTES = 64 << 20  # of a message, which may contain a model's parameters
MAX_POINTS = 500  # of the curve of losses
MAX_ERROR = 1000  # characters
END_SECONDS = 1.0  # for a process to end by itself before it is killed
TYPECODES = {"float32": "f", "float64": "d"}
OVER = ("stopped", "done", "failed")
WAITS = ("queued", "paused")  # states that do not count towards limits.jobs
OVERTIME = 2  # times the largest budget: then a training is stopped


@dataclass(frozen=True)
class Started:
    """What is known of a training before its first step. training: see `Model.training`."""

    config: Config
    tokenizer: Tokenizer
    training: TrainingRecord
    packed: bytes

    @cached_property
    def documents(self) -> Documents:
        return unpack_documents(self.packed)


@dataclass(frozen=True)
class Snapshot:
    """The model after a step. seconds: since the start. params: flat, in the engine's dtype."""

    step: int
    seconds: float
    params: bytes
    samples: list[str]


@dataclass(frozen=True)
class Best:
    """The model that a training made, from the step with the lowest validation loss. Without a
    validation set, it is the model of the last step, and `loss` is None."""

    step: int
    loss: float | None
    over_fitted: bool
    samples: list[str]


@dataclass
class Job:
    """A training. One thread adds what its process reports.

    Attributes:
        source: the name of its list.
        process: None while the training waits for its first turn.
        timer: ends a pause that is too long.
        lock: held to change the training, or to read more than one attribute.
        every: the number of steps per point.
        points: (step, mean loss of the last `every` steps).
        pause_ended: whether it was stopped because its pause was too long.
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
    pause_ended: bool = False

    @property
    def over(self) -> bool:
        return self.state in OVER

    def end(self, state: str, error: str | None = None) -> None:
        """Set the final state, unless there is one already."""
        if not self.over:
            self.state, self.error = state, error and error[:MAX_ERROR]

    def send(self, line: str) -> None:
        self.outbox.put(line.encode() + b"\n")

    def add_losses(self, losses: list[float], *, last: bool = False) -> None:
        """Add the losses of the next steps. last: no others follow."""
        self.losses.extend(losses)
        while True:
            begin = len(self.points) * self.every
            part = self.losses[begin : begin + self.every]
            if not part or (len(part) < self.every and not last):
                break
            self.points.append((begin + len(part), math.fsum(part) / len(part)))


class Jobs:
    """All trainings. At most limits.jobs run, and the others wait in `queue`.

    A paused training does not count as running. The last limits.jobs_kept that are over are kept.
    A thread that holds `lock` may take the lock of a job, but never the other way round.
    """

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        self.registry = registry
        self.limits = limits
        self.streams = 0  # of events, that are open
        self.jobs: dict[str, Job] = {}
        self.queue: list[Job] = []
        self.lock = threading.RLock()
        self.ending = False  # whether the server is about to end
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
        """Start a training, or queue it.

        Args:
            text: the list. `format`, `column` and `header` are those of `corpus.from_text`.
            name: of the list.
            builtin: the name of a list in the package, instead of a text.
            budget: seconds; None if the settings have num_steps.
            settings: of a `Config`.

        Raises:
            WebError: 429 if too many trainings wait already, 503 if the server is about to end.
        """
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
            "max_steps": limits.job_steps,
            "max_params": limits.job_params,
            "max_seconds": OVERTIME * limits.job_seconds,
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
            job.send(json.dumps(request))
            self.jobs[job.id] = job
            self.queue.append(job)
            self.start_queued()
        self.forget_oldest()
        return job

    def start_queued(self) -> None:
        """Start or resume the first of the queue, as long as fewer than limits.jobs run."""
        with self.lock:
            while self.queue and not self.ending:
                busy = sum(not job.over and job.state not in WAITS for job in self.jobs.values())
                if busy >= self.limits.jobs:
                    return
                job = self.queue.pop(0)
                with job.lock:
                    job.state = "running" if job.started else "starting"
                if job.process:
                    job.send("resume")
                else:
                    self.start_process(job)

    def start_process(self, job: Job) -> None:
        try:
            job.process = subprocess.Popen(
                COMMAND,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C goes only to the server, which ends its workers
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
        """Return how many trainings start before a queued one; None if it is not queued."""
        try:
            return self.queue.index(job)
        except ValueError:
            return None

    def get(self, id: str) -> Job:
        """The training with this id, else WebError 404."""
        job = self.jobs.get(id)
        if job is None:
            raise not_found(f"training {id!r}")
        return job

    def all(self) -> list[Job]:
        """All trainings, the oldest first."""
        return list(self.jobs.values())

    def pause(self, id: str) -> Job:
        """Pause a training, so that others can run. After limits.pause_seconds it is stopped."""
        with self.under_way(id, "pause") as job:
            if job.state == "paused":
                return job
            if sum(other.state == "paused" for other in self.all()) >= self.limits.jobs_paused:
                raise WebError(429, "too many trainings are paused: resume or stop one of them")
            self.leave(job)
            job.state = "paused"
            job.send("pause")
            job.timer = threading.Timer(self.limits.pause_seconds, self.end_pause, [job])
            job.timer.daemon = True
            job.timer.start()
        self.start_queued()
        return job

    def resume(self, id: str) -> Job:
        """Resume a training, as soon as fewer than limits.jobs run."""
        with self.under_way(id, "resume") as job:
            if job.state == "paused":
                self.leave(job)
                job.state = "queued"
                self.queue.append(job)
        self.start_queued()
        return job

    def stop(self, id: str) -> Job:
        """End a training as soon as possible. What it has learned becomes a model."""
        with self.under_way(id, "stop") as job:
            if not job.over:
                self.leave(job)
                if job.process:
                    job.state = "running" if job.started else "starting"
                    job.send("stop")
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
        """Lock a training. WebError 409 if it is over, unless `word` is "stop"."""
        with self.lock:
            job = self.get(id)
            with job.lock:
                if job.over and word != "stop":
                    raise WebError(409, f"the training is over: there is nothing to {word}")
                yield job

    def leave(self, job: Job) -> None:
        """Take a training out of the queue, or end its pause."""
        if job in self.queue:
            self.queue.remove(job)
        if job.timer:
            job.timer.cancel()
            job.timer = None

    def forget(self, id: str) -> None:
        """End a training at once, and forget it and its models."""
        with self.lock:
            job = self.get(id)
            del self.jobs[id]
            self.leave(job)
        with job.lock:  # later messages are ignored
            job.end("stopped")
            ids = [job.id, *(moment_id(job, moment) for moment in job.moments)]
        if job.process:
            job.process.kill()
        job.outbox.put(None)
        self.start_queued()
        for model in ids:
            with suppress(WebError):  # it is forgotten already
                self.registry.forget(model)

    def forget_oldest(self) -> None:
        over = [job.id for job in self.all() if job.over]
        for id in over[: max(0, len(over) - self.limits.jobs_kept)]:
            with suppress(WebError):  # another thread has forgotten it
                self.forget(id)

    def end_streams(self) -> None:
        """End all streams of events; new trainings are refused."""
        with self.lock:
            self.ending = True

    def close(self) -> None:
        """End all processes, and wait until they have ended."""
        self.end_streams()
        for job in self.all():
            with job.lock:
                job.end("stopped")
            self.leave(job)
            job.outbox.put(None)  # closes its standard input, which ends the process
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

    # ---- messages of the processes

    def follow_process(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        """Read the messages of a process until it ends. This is the target of a thread."""
        problem = "the server made a mistake"
        try:
            problem = self.read_messages(job, process)
        finally:  # otherwise the training would never be over
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
            self.start_queued()

    def read_messages(self, job: Job, process: subprocess.Popen[bytes]) -> str:
        """Handle all messages. Returns the error in them, or "" if there is none."""
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
        """Update the training. Raises many kinds of errors if the message is not valid."""
        if job.started is None and message["type"] not in ("start", "failed"):
            raise ValueError("it has not started")
        match message["type"]:
            case "start":
                config = Config(**message["config"])
                job.started = Started(
                    config,
                    tokenizer_from_json(message["tokenizer"]),
                    TrainingRecord.read(message["training"]),
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
                if message["step"] > len(job.losses):  # its model would lack losses
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
            training = TrainingRecord.read(message["training"])
            self.put(job, last, None, training)
            job.best = Best(last.step, None, False, message["samples"])
            if best := training.held_out:
                job.best = Best(best.best_step, best.loss, best.over_fitted, message["samples"])
        why = None
        if message["too_long"]:
            why = f"stopped after {job.seconds:.0f} seconds, the longest that a training may take"
        elif job.pause_ended:
            why = (
                f"stopped after a pause of {self.limits.pause_seconds:g} seconds, the longest here"
            )
        job.end("done" if message["finished"] else "stopped", why)

    def put(
        self, job: Job, moment: Snapshot, step: int | None, training: TrainingRecord | None = None
    ) -> None:
        """Add the model after a step to the registry; step None: the training's result."""
        assert job.started
        open = partial(model_of, job.started, job.losses, job.held_out, moment, training)
        if step is None:
            self.registry.add(Entry(job.id, "trained", open))
            return
        entry = Entry(moment_id(job, moment), "trained", open, parent=job.id, step=step)
        entry.open = lambda: self.close_oldest(entry, open())
        self.registry.add(entry)

    def close_oldest(self, entry: Entry, model: Model) -> Model:
        """Return the model of a snapshot. If too many are open, close those opened longest ago."""
        with self.lock:
            self.open_moments.append(entry)
            for other in list(self.open_moments)[: -self.limits.snapshots_open]:
                if other.lock.acquire(blocking=False):  # not while it is in use
                    other.opened = None
                    other.lock.release()
                    self.open_moments.remove(other)
        return model


def moment_id(job: Job, moment: Snapshot) -> str:
    return f"{job.id}@{moment.step}"


def params_in(job: Job, message: dict[str, Any]) -> bytes:
    """The parameters in a message. ValueError if the model has another number of them."""
    assert job.started
    params = base64.b64decode(message["params"])
    itemsize = array(TYPECODES[job.started.training.dtype]).itemsize
    if len(params) != itemsize * num_params(job.started.config):
        raise ValueError(f"{len(params)} bytes of parameters")
    return params


def write_commands(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Send the lines of the outbox, until None comes. This is the target of a thread."""
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
    training: TrainingRecord | None,
) -> Model:
    """The model of a snapshot, as `kamon.train` would return it. training: `Model.training`, if the
    snapshot is the result of the training."""
    config, tokenizer, step = started.config, started.tokenizer, moment.step
    metrics = Metrics(
        losses[:step],
        array("d", [learning_rate(config, before) for before in range(step)]),
        {number: loss for number, loss in held_out if number <= step},
    )
    dtype = started.training.dtype
    engine = make_engine(started.training.engine, config, dtype=dtype)
    params = array("d", array(TYPECODES[dtype], moment.params))
    engine.load(initial_state(params))
    if training is None:
        training = started.training
        measured = None
        if training.hold_out:
            _, docs = divide(started.documents, True, config.mode, training.corpus.split)
            batch = validation_batch(tokenizer, docs, config)
            measured = ValidationRecord.of(len(batch), mean_loss(engine, batch), step)
        training |= {
            "num_steps_done": step,
            "seconds": moment.seconds,
            "finished": False,
            "held_out": measured,
        }
    return Model(config, tokenizer, engine, metrics, training, started.documents)
