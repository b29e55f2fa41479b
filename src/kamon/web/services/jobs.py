"""Trainings, each in its own process (see `kamon.web.services.worker`), and their models."""

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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from kamon.config import Config
from kamon.data.documents import Documents
from kamon.data.split import divide
from kamon.engines.base import initial_state
from kamon.engines.factory import make_engine
from kamon.engines.parameters import num_params
from kamon.errors import KamonError
from kamon.generation.blend import BlendedModel, mix_logprobs
from kamon.model import Model
from kamon.storage.checkpoint import unpack_documents
from kamon.storage.metrics import Metrics
from kamon.storage.records import TrainingRecord, ValidationRecord
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.load import tokenizer_from_json
from kamon.training.blend import mean_nats
from kamon.training.calibration import validation_logprobs
from kamon.training.data import validation_batch
from kamon.training.early_stopping import mean_loss
from kamon.training.loop import learning_rate
from kamon.web.errors import WebError, not_found
from kamon.web.limits import Limits
from kamon.web.services.registry import Blend, Entry, ModelRegistry, losses_of
from kamon.web.services.worker import TYPECODES, Request

# -P: import nothing from the current directory
COMMAND = [sys.executable, "-P", "-m", "kamon.web.services.worker"]
PASTED = "a pasted list"
MAX_LINE_BYTES = 64 << 20  # per message, which may contain the parameters of a model
MAX_POINTS = 500  # of the loss curve
MAX_ERROR = 1000  # characters
END_SECONDS = 1.0  # for a process to end before Kamon kills it
OVER = ("stopped", "done", "failed")
WAITS = ("queued", "paused")  # these states do not count towards limits.jobs


@dataclass(frozen=True)
class Started:
    """The facts about a training before its first step. training: see `Model.training`."""

    config: Config
    tokenizer: Tokenizer
    training: TrainingRecord
    documents: Documents


@dataclass(frozen=True)
class Snapshot:
    """The model after a step. model: its id. params: flat, in the engine's dtype.

    blend: the blend with the best weight at this step, None for a GPT only.
    """

    model: str
    step: int
    seconds: float
    params: bytes
    samples: list[str]
    blend: Blend | None = None


@dataclass(frozen=True)
class Best:
    """The model that a training made, from the step with the lowest validation loss. Without a
    validation set, it is the model of the last step.

    validation_loss: in nats per token. For a short list, it is the mean of `num_folds`
    cross-validation models. gpt_loss, ngram_loss: losses of the parts of a blend. samples: novel
    and unique ones.
    """

    step: int
    over_fitted: bool
    samples: list[str]
    validation_loss: float | None
    gpt_loss: float | None
    ngram_loss: float | None
    blend: Blend | None
    num_folds: int | None


@dataclass
class Job:
    """A training. A thread updates it with the reports of its process.

    Attributes:
        source: name of its list.
        process: None until the training first starts.
        timer: ends a pause that is too long.
        lock: hold it to change the training, or to read more than one attribute.
        every: number of steps per point.
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
    validation_losses: list[tuple[int, float]] = field(default_factory=list)
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
        """Set the final state, unless it is already set."""
        if not self.over:
            self.state, self.error = state, error and error[:MAX_ERROR]

    def send(self, line: str) -> None:
        self.outbox.put(line.encode() + b"\n")

    def add_losses(self, losses: list[float], *, last: bool = False) -> None:
        """Add the losses of the next steps. last: whether they are the last ones."""
        self.losses.extend(losses)
        while True:
            begin = len(self.points) * self.every
            part = self.losses[begin : begin + self.every]
            if not part or (len(part) < self.every and not last):
                break
            self.points.append((begin + len(part), math.fsum(part) / len(part)))


class Jobs:
    """All trainings. At most limits.jobs run, and the others wait in `queue`.

    A paused training does not count as running. The last limits.jobs_kept finished ones stay.
    A thread that holds `lock` may take the lock of a job, but never the other way round.
    """

    def __init__(self, registry: ModelRegistry, limits: Limits) -> None:
        self.registry = registry
        self.limits = limits
        self.streams = 0  # number of open event streams
        self.jobs: dict[str, Job] = {}
        self.queue: list[Job] = []
        self.lock = threading.RLock()
        self.ending = False  # whether the server is shutting down
        self.open_moments: deque[Entry] = deque()

    def start(self, request: Request) -> Job:
        """Start a training, or queue it.

        Raises:
            WebError: 429 if too many trainings are waiting, 503 if the server is shutting down.
        """
        with self.lock:
            if self.ending:
                raise WebError(503, "the server is shutting down")
            if (num := len(self.queue)) >= self.limits.jobs_waiting:
                raise WebError(429, f"{num} trainings are already waiting", "try again later")
            id = f"job-{secrets.token_hex(4)}"
            job = Job(id, request.source, request.budget, state="queued")
            job.send(json.dumps(asdict(request)))
            self.jobs[job.id] = job
            self.queue.append(job)
            self.start_queued()
        self.forget_oldest()
        return job

    def start_queued(self) -> None:
        """Start or resume trainings from the queue until limits.jobs are running."""
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
                start_new_session=True,  # Ctrl-C reaches only the server, which ends its workers
            )
        except OSError as error:
            with job.lock:
                job.end("failed", f"cannot start a process: {error.strerror}")
            return
        for target in (write_commands, self.follow_process):
            args = [job, job.process]
            thread = threading.Thread(target=target, args=args, name=job.id, daemon=True)
            job.threads.append(thread)
            thread.start()

    def ahead(self, job: Job) -> int | None:
        """Return how many trainings start before a queued one, or None if it is not queued."""
        try:
            return self.queue.index(job)
        except ValueError:
            return None

    def get(self, id: str) -> Job:
        """Return the training with this id, or raise WebError 404."""
        job = self.jobs.get(id)
        if job is None:
            raise not_found(f"training {id!r}")
        return job

    def all(self) -> list[Job]:
        """Return all trainings, the oldest first."""
        return list(self.jobs.values())

    def pause(self, id: str) -> Job:
        """Pause a training, so that others can run. It stops after limits.pause_seconds."""
        with self.under_way(id, "pause") as job:
            if job.state == "paused":
                return job
            if sum(other.state == "paused" for other in self.all()) >= self.limits.jobs_paused:
                raise WebError(429, "too many trainings are paused", "resume or stop one of them")
            self.leave(job)
            job.state = "paused"
            job.send("pause")
            job.timer = threading.Timer(self.limits.pause_seconds, self.end_pause, [job])
            job.timer.daemon = True
            job.timer.start()
        self.start_queued()
        return job

    def resume(self, id: str) -> Job:
        """Resume a training as soon as fewer than limits.jobs are running."""
        with self.under_way(id, "resume") as job:
            if job.state == "paused":
                self.leave(job)
                job.state = "queued"
                self.queue.append(job)
        self.start_queued()
        return job

    def stop(self, id: str) -> Job:
        """End a training as soon as possible, and keep its model."""
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
        """Lock a training. Raises WebError 409 if it has ended, unless `word` is "stop"."""
        with self.lock:
            job = self.get(id)
            with job.lock:
                if job.over and word != "stop":
                    raise WebError(409, f"the training is over, so there is nothing to {word}")
                yield job

    def leave(self, job: Job) -> None:
        """Remove a training from the queue, or end its pause."""
        if job in self.queue:
            self.queue.remove(job)
        if job.timer:
            job.timer.cancel()
            job.timer = None

    def forget(self, id: str) -> None:
        """Kill a training, and forget it and its models."""
        with self.lock:
            job = self.get(id)
            del self.jobs[id]
            self.leave(job)
        with job.lock:  # ignores later messages
            job.end("stopped")
            ids = [job.id, *(moment.model for moment in job.moments)]
        if job.process:
            job.process.kill()
        job.outbox.put(None)
        self.start_queued()
        for model in ids:
            with suppress(WebError):  # it is already forgotten
                self.registry.forget(model)

    def forget_oldest(self) -> None:
        over = [job.id for job in self.all() if job.over]
        for id in over[: max(0, len(over) - self.limits.jobs_kept)]:
            with suppress(WebError):  # another thread has already forgotten it
                self.forget(id)

    def end_streams(self) -> None:
        """End all event streams, and refuse new trainings."""
        with self.lock:
            self.ending = True

    def close(self) -> None:
        """End all processes and wait for them."""
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
            exit_code(job.process, max(0.0, deadline - time.monotonic()))
            for thread in job.threads:
                thread.join(END_SECONDS)

    # ---- messages of the processes

    def follow_process(self, job: Job, process: subprocess.Popen[bytes]) -> None:
        """Read the messages of a process until it ends. A thread runs this."""
        problem = "the server had an internal error"
        assert process.stdout
        try:
            with process.stdout as messages:
                while line := messages.readline(MAX_LINE_BYTES):
                    message = json.loads(line)
                    with job.lock:
                        if not job.over:
                            self.handle_message(job, message)
            problem = ""
        except (KamonError, ValueError, LookupError, TypeError, RecursionError):
            problem = "its process sent an invalid message"
        finally:  # otherwise the training would never end
            job.outbox.put(None)
            code = exit_code(process, END_SECONDS)
            with job.lock:
                job.end("failed", problem or f"its process ended unexpectedly (exit code {code})")
            with self.lock:
                self.leave(job)
            self.start_queued()

    def handle_message(self, job: Job, message: dict[str, Any]) -> None:
        """Update the training. An invalid message can raise many kinds of errors."""
        if job.started is None and message["type"] not in ("preparing", "start", "failed"):
            raise ValueError("it has not started")
        match message["type"]:
            case "start":
                config = Config(**message["config"])
                tokenizer = tokenizer_from_json(message["tokenizer"])
                documents = unpack_documents(base64.b64decode(message["documents"]))
                training = TrainingRecord.read(message["training"])
                job.started = Started(config, tokenizer, training, documents)
                job.every = -(-config.num_steps // MAX_POINTS)
                if job.state == "starting":
                    job.state = "running"
            case "progress":
                job.add_losses(message["losses"])
                job.validation_losses += [(step, x) for step, x in message["validation_losses"]]
                job.seconds = message["seconds"]
            case "preparing":
                job.seconds = message["seconds"]
            case "ngram":
                job.ngram = message["loss"], message["order"]
            case "moment":
                if message["step"] > len(job.losses):  # its model would lack losses
                    raise ValueError("a moment after steps that were not reported")
                params = params_in(job, message)
                step, samples = message["step"], message["samples"]
                blend = Blend(**message["blend"]) if message["blend"] else None
                moment = Snapshot(f"{job.id}@{step}", step, job.seconds, params, samples, blend)
                job.moments.append(moment)
                self.add_moment(job, moment)
            case "end":
                self.handle_end(job, message)
            case "failed":
                job.end("failed", message["error"])
            case other:
                raise ValueError(other)

    def handle_end(self, job: Job, message: dict[str, Any]) -> None:
        job.add_losses([], last=True)
        if message["params"] is not None:
            last = Snapshot(job.id, len(job.losses), job.seconds, params_in(job, message), [])
            training = TrainingRecord.read(message["training"])
            open = partial(model_of, job, last, training)
            self.add_model(Entry(job.id, "trained", open))
            best = training.held_out
            job.best = Best(
                step=best.best_step if best else last.step,
                over_fitted=best is not None and best.over_fitted,
                samples=message["samples"],
                **losses_of(training),
            )
        why = None
        if message["too_long"]:
            why = f"stopped after {job.seconds:.0f} seconds, the limit for a training"
        elif job.pause_ended:
            pause = self.limits.pause_seconds
            why = f"stopped after a pause of {pause:g} seconds, the limit"
        job.end("done" if message["finished"] else "stopped", why)

    def add_moment(self, job: Job, moment: Snapshot) -> None:
        """Add the model of a snapshot to the registry."""
        open = partial(model_of, job, moment)
        self.add_model(Entry(moment.model, "trained", open, parent=job.id, step=moment.step))

    def add_model(self, entry: Entry) -> None:
        """Add a model to the registry. Close it again if too many are open."""
        open = entry.open
        entry.open = lambda: self.close_oldest(entry, open())
        self.registry.add(entry)

    def close_oldest(self, entry: Entry, model: Model) -> Model:
        """Return the model of an entry. If too many are open, close the oldest ones."""
        with self.lock:
            self.open_moments.append(entry)
            for other in list(self.open_moments)[: -self.limits.snapshots_open]:
                if other.lock.acquire(blocking=False):  # skip one that is in use
                    other.opened = None
                    other.lock.release()
                    self.open_moments.remove(other)
        return model


def exit_code(process: subprocess.Popen[bytes], seconds: float) -> int:
    """Return the exit code of a process. Kill it if it does not end in time."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def params_in(job: Job, message: dict[str, Any]) -> bytes:
    """Return the parameters in a message. ValueError if their number is wrong."""
    assert job.started
    params = base64.b64decode(message["params"])
    itemsize = array(TYPECODES[job.started.training.dtype]).itemsize
    if len(params) != itemsize * num_params(job.started.config):
        raise ValueError(f"{len(params)} bytes of parameters")
    return params


def write_commands(job: Job, process: subprocess.Popen[bytes]) -> None:
    """Send the lines of the outbox until None comes. A thread runs this."""
    assert process.stdin
    with suppress(OSError), process.stdin:  # the process may have ended
        while line := job.outbox.get():
            process.stdin.write(line)
            process.stdin.flush()


def model_of(job: Job, moment: Snapshot, training: TrainingRecord | None = None) -> Model:
    """Return the model of a snapshot, as `kamon.train` would. training: the `Model.training` if the
    snapshot is the result of the training."""
    started, step = job.started, moment.step
    assert started
    config, tokenizer = started.config, started.tokenizer
    metrics = Metrics(
        job.losses[:step],
        array("d", [learning_rate(config, before) for before in range(step)]),
        {number: loss for number, loss in job.validation_losses if number <= step},
    )
    dtype = started.training.dtype
    engine = make_engine(started.training.engine, config, dtype=dtype)
    engine.load(initial_state(array("d", array(TYPECODES[dtype], moment.params))))
    if training is None:
        training = started.training | {
            "num_steps_done": step,
            "seconds": moment.seconds,
            "finished": False,
            "held_out": None,
        }
        if moment.blend:
            training |= {"blend": asdict(moment.blend)}
    model = Model(config, tokenizer, engine, metrics, training, started.documents)
    if moment.model != job.id and training.hold_out:
        return replace(model, training=training | {"held_out": validation_record(model, step)})
    return model


def validation_record(model: Model, step: int) -> ValidationRecord:
    """Return the validation loss of a snapshot. For a blend, include those of its parts."""
    if model.training.given:
        return conditional_record(model, step)
    learned, docs = divide(model.docs, True, model.config.mode, model.training.corpus.split)
    batch = validation_batch(model.tokenizer, docs, model.config)
    reader = model.blended_with(learned)
    if not isinstance(reader, BlendedModel):
        return ValidationRecord.of(len(batch), mean_loss(reader, batch), step)
    gpt, ngram = reader.logprobs_of_parts(batch)
    mixed = mix_logprobs(gpt, ngram, reader.weight)
    parts = {"gpt_loss": mean_nats(gpt), "ngram_loss": mean_nats(ngram)}
    return ValidationRecord.of(len(batch), mean_nats(mixed), step) | parts


def conditional_record(model: Model, step: int) -> ValidationRecord:
    """Return the validation loss of a snapshot of a conditional model, and those of its parts."""
    _, docs = divide(model.docs, True, model.config.mode, model.training.corpus.split)
    num_rows, gpt, ngram, mixed = validation_logprobs(model, docs)
    parts = {"gpt_loss": mean_nats(gpt), "ngram_loss": mean_nats(ngram)} if ngram else {}
    return ValidationRecord.of(num_rows, mean_nats(mixed), step) | parts
