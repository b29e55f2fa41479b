"""A training in its own process: `python -m kamon.web.services.worker`.

The first line of standard input is a JSON object with the fields of `Request`. Each line after it
is a command: pause, resume or stop. When standard input ends, this process ends at once.
Each line of standard output is a JSON object with a "type":

    start     the facts before the first step: config, tokenizer, training, documents, …
    progress  step, seconds, and new losses and validation_losses ([step, loss])
    preparing seconds: time since the start, sent until the first step
    moment    step, params, samples, blend (weight and order, or null): the model of that step
    ngram     loss, order: of the best n-gram on the validation set
    end       finished, too_long, params (null if there was no step), training, samples
    failed    error: in one line

Documents have the format of `pack_documents`, params the engine's dtype. Both are in base64.
"""

from __future__ import annotations

import base64
import json
import math
import os
import sys
import threading
import time
from array import array
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any, BinaryIO

from kamon import api
from kamon.data import corpus
from kamon.data.columns import Table, read_table, read_text
from kamon.engines.parameters import num_params
from kamon.errors import ConfigError, KamonError
from kamon.evaluation.introspection import ngram_loss
from kamon.generation.blend import BlendedModel
from kamon.generation.sampling import LanguageModel, SampleRequest, sample_texts
from kamon.model import Model
from kamon.ngrams.native import NativeNgram, count_ngram
from kamon.ngrams.reference import Ngram
from kamon.storage.checkpoint import pack_documents
from kamon.storage.metrics import Metrics
from kamon.training.blend import mean_nats
from kamon.training.early_stopping import MIN_DOCS
from kamon.training.loop import Progress
from kamon.training.session import start_record
from kamon.training.setup import TrainingSetup
from kamon.web.errors import one_line
from kamon.web.limits import Limits

MAX_REQUEST_BYTES = 8 << 20
MAX_COMMAND_BYTES = 100
REPORT_SECONDS = 0.1  # between two progress messages
NUM_SAMPLES = 5
NUM_TRIED = 50  # samples of a snapshot to try, to find enough novel ones
MAX_TRIED = 1000  # samples of the final model to try
KEEPING_SECONDS, KEEPING_SHARE = 0.05, 0.1  # snapshots take at most this much of a training's time
TYPECODES = {"float32": "f", "float64": "d"}
NICE = 5  # gives the server priority
OVERTIME = 2  # times the largest budget, after which a training stops


@dataclass(frozen=True)
class Request:
    """A training.

    Attributes:
        budget: in seconds, None if the settings have num_steps.
        limits: limits of the server.
        settings: settings of a `Config`.
        init_from, blend, given, weight: see `kamon.train`.
        text: the list, None for the list named `source` that Kamon includes.
        format, column, header: see `corpus.from_text`.
    """

    source: str
    budget: float | None
    limits: Limits
    settings: dict[str, Any] = field(default_factory=dict)
    text: str | None = None
    format: str = "text"
    column: str | None = None
    header: bool = True
    init_from: str | None = None
    blend: bool = True
    given: list[str] | None = None
    weight: str | None = None


class Control:
    """The state set by commands."""

    def __init__(self) -> None:
        self.going = threading.Event()
        self.going.set()
        self.stopped = False
        self.paused_seconds = 0.0

    def listen(self, commands: BinaryIO) -> None:
        """Follow commands until the input ends, then end this process."""
        while command := commands.readline(MAX_COMMAND_BYTES):
            word = command.strip()
            if word == b"pause" and not self.stopped:
                self.going.clear()
            elif word == b"resume":
                self.going.set()
            elif word == b"stop":
                self.stopped = True
                self.going.set()
        os._exit(0)

    def wait(self) -> None:
        """Wait while the training is paused."""
        start = time.perf_counter()
        if not self.going.is_set():
            self.going.wait()
            self.paused_seconds += time.perf_counter() - start


@dataclass
class Report:
    """Writes messages, from any thread."""

    out: BinaryIO
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, type: str, **fields: Any) -> None:
        line = json.dumps({"type": type} | fields).encode() + b"\n"
        with self.lock:
            try:
                self.out.write(line)
                self.out.flush()
            except OSError:  # the server has ended
                os._exit(0)


def wanted_steps(num_steps: int, moments: int) -> Iterator[int]:
    """Yield the steps after which to keep the model. The first steps are denser.

    >>> list(wanted_steps(1000, 8))
    [0, 3, 23, 79, 187, 364, 630, 1000]
    """
    last = -1
    for number in range(moments):
        step = round(num_steps * (number / max(1, moments - 1)) ** 3)
        if step > last:
            yield step
            last = step


@dataclass
class Training:
    """A training that reports its progress."""

    request: Request
    source: corpus.Corpus | Table
    control: Control
    report: Report
    start: float = field(default_factory=time.perf_counter)
    last_report: float = 0.0
    num_losses: int = 0  # number of reported losses
    num_validation_losses: int = 0
    wanted: list[int] = field(default_factory=list)
    keeping: float = 0.0  # seconds that snapshots took
    too_long: bool = False
    model: Model | None = None  # the model in training
    setup: TrainingSetup | None = None
    ngram: Ngram | NativeNgram | None = None  # n-gram of the whole list, for the blend
    order: int | None = None  # of the n-grams to blend with
    counting: threading.Thread | None = None

    def run(self) -> None:
        request = self.request
        model = api.train(
            self.source,
            budget=request.budget,
            init_from=request.init_from,
            blend=request.blend,
            given=request.given,
            weight=request.weight,
            on_start=self.on_start,
            on_progress=self.on_progress,
            should_stop=self.should_stop,
            **request.settings,
        )
        if self.counting:
            self.counting.join()
        training = model.training | {"seconds": round(self.seconds(), 3)}
        if model.metrics:
            self.send_progress(model.metrics.losses, model.metrics.held_out.items())
        self.report(
            "end",
            finished=training.finished,
            too_long=self.too_long,
            params=self.as_text(model.engine.state()["params"]) if model.metrics else None,
            training=training.content,
            samples=new_samples(model) if model.metrics else [],
        )

    def seconds(self) -> float:
        return time.perf_counter() - self.start - self.control.paused_seconds

    def should_stop(self) -> bool:
        if not self.model:  # preparing may take seconds
            if time.perf_counter() - self.last_report >= REPORT_SECONDS:
                self.last_report = time.perf_counter()
                self.report("preparing", seconds=round(self.seconds(), 3))
            self.control.wait()
        self.too_long = self.too_long or self.seconds() > OVERTIME * self.request.limits.job_seconds
        return self.control.stopped or self.too_long

    def on_start(self, run: TrainingSetup) -> None:
        limits, config = self.request.limits, run.config
        if config.num_steps > limits.job_steps:
            raise ConfigError(
                f"a model this small trains {config.num_steps:,} steps in that time, "
                f"and the limit is {limits.job_steps:,}",
                "choose a smaller budget",
            )
        size = num_params(config)
        if size > limits.job_params:
            raise ConfigError(
                f"the model would have {size:,} parameters, and the limit is {limits.job_params:,}",
                "choose a smaller n_embd, n_layer or block_size, or a list with fewer "
                "unique characters",
            )
        documents = run.data.documents
        training = start_record(run)
        self.setup = run
        self.model = Model(config, run.tokenizer, run.engine, Metrics(), training, documents)
        self.report(
            "start",
            config=asdict(config),
            tokenizer=run.tokenizer.to_json(),
            training=training.content,
            documents=text_of(b"".join(pack_documents(documents))),
        )
        order = None
        if run.blended:
            order = run.blended.order
            self.report("ngram", loss=mean_nats(run.blended.logprobs), order=order)
        elif run.cross_validation:
            order = run.cross_validation.losses.order
        elif run.held_out:
            self.counting = threading.Thread(target=self.count, args=[self.model], daemon=True)
            self.counting.start()
        if order is not None:
            self.order = order
        if order is not None and not training.given:
            batch = run.tokenizer.encode_documents(documents)
            self.ngram = count_ngram(batch, config.vocab_size, order)
        room = limits.snapshot_bytes // (size * array(TYPECODES[run.engine.dtype]).itemsize)
        moments = max(2, min(limits.snapshots, room))
        self.wanted = list(wanted_steps(config.num_steps, moments))
        self.start = self.last_report = time.perf_counter()
        self.control.paused_seconds = 0.0
        self.send_snapshot(0)

    def count(self, model: Model) -> None:
        measured = {"loss": math.inf, "best_step": 0}  # set later
        divided = replace(model, training=model.training | {"held_out": measured})
        loss, order = ngram_loss(divided)
        self.report("ngram", loss=loss, order=order)

    def on_progress(self, progress: Progress) -> None:
        step = len(progress.losses)
        due = bool(self.wanted) and step >= self.wanted[0]
        if step < progress.num_steps:  # keep a large model within its budget
            due = due and self.keeping <= KEEPING_SECONDS + KEEPING_SHARE * self.seconds()
        paused = not self.control.going.is_set()
        if due or paused or time.perf_counter() - self.last_report >= REPORT_SECONDS:
            self.send_progress(progress.losses, progress.held_out)
        if due:
            self.send_snapshot(step)
        self.control.wait()

    def send_progress(self, losses: array[float], held_out: Iterable[tuple[int, float]]) -> None:
        """Report new losses."""
        records = [pair for pair in held_out if math.isfinite(pair[1])]
        self.report(
            "progress",
            step=len(losses),
            seconds=round(self.seconds(), 3),
            losses=losses[self.num_losses :].tolist(),
            validation_losses=records[self.num_validation_losses :],
        )
        self.num_losses, self.num_validation_losses = len(losses), len(records)
        self.last_report = time.perf_counter()

    def send_snapshot(self, step: int) -> None:
        """Report the model of this step."""
        assert self.model
        start = time.thread_time()
        self.wanted = [later for later in self.wanted if later > step]
        params = self.model.engine.state()["params"]
        if math.isfinite(sum(params)):
            engine, weight = self.model.engine, self.weight()
            blend = samples = None
            if self.order is not None and weight is not None:
                blend = {"weight": weight, "order": self.order}
            if self.model.training.given:
                samples = samples_of_table(self.model, blend)
            elif self.ngram and weight is not None:
                samples = self.samples(BlendedModel(engine, self.ngram, weight))
            self.report(
                "moment",
                step=step,
                params=self.as_text(params),
                samples=self.samples(engine) if samples is None else samples,
                blend=blend,
            )
        self.keeping += time.thread_time() - start

    def weight(self) -> float | None:
        """Return the weight of the GPT at this step, or None without a blend. It is the best one on
        the validation set or, for a short list, in cross-validation."""
        run = self.setup
        assert run
        if run.cross_validation:
            return run.cross_validation.losses.weight
        if run.blended is None:
            return None
        docs = run.held_out.select(range(min(len(run.held_out), MIN_DOCS)))
        return run.blended.losses(run.engine, docs).weight

    def samples(self, model: LanguageModel) -> list[str]:
        """Return the first novel, unique samples among NUM_TRIED, or fewer if most are copies."""
        assert self.model
        config, tokenizer = self.model.config, self.model.tokenizer
        request = SampleRequest(NUM_TRIED, config.temperature, config.seed, tokenizer.bos)
        texts, _ = sample_texts(model, tokenizer, request)
        assert self.model
        known = self.model.docs.intersection(texts) | {""}
        return [text for text in dict.fromkeys(texts) if text not in known][:NUM_SAMPLES]

    def as_text(self, params: array[float]) -> str:
        assert self.model
        return text_of(array(TYPECODES[self.model.engine.dtype], params).tobytes())


def new_samples(model: Model) -> list[str]:
    """Return novel, unique samples, or fewer if most are copies."""
    return model.generate(
        NUM_SAMPLES, novel=True, unique=True, should_stop=lambda tried: tried >= MAX_TRIED
    ).texts


def samples_of_table(model: Model, blend: dict[str, float] | None) -> list[str]:
    """Return novel, unique samples of a conditional model in training."""
    now = replace(model, training=model.training | {"blend": blend})
    return now.generate(
        NUM_SAMPLES, novel=True, unique=True, should_stop=lambda tried: tried >= NUM_TRIED
    ).texts


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def main() -> int:
    report = Report(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # other output goes to standard error
    commands = sys.stdin.buffer
    with suppress(AttributeError, OSError):  # Windows has no such priorities
        os.nice(NICE)
    try:
        content = json.loads(commands.readline(MAX_REQUEST_BYTES))
        request = Request(**content | {"limits": Limits(**content["limits"])})
    except (ValueError, TypeError, LookupError, RecursionError):
        report("failed", error="the first line of standard input is not a training")
        return 2
    control = Control()
    threading.Thread(target=control.listen, args=[commands], daemon=True).start()
    try:
        columns = api.given_columns(request.column, request.given, request.weight)
        source: corpus.Corpus | Table
        if request.text is None:
            source = read_table(request.source, columns) if columns else corpus.read(request.source)
        elif columns:
            source = read_text(
                request.text, request.source, columns, request.format, header=request.header
            )
        else:
            source = corpus.from_text(
                request.text,
                request.source,
                column=request.column,
                format=request.format,
                header=request.header,
            )
        Training(request, source, control, report).run()
    except KamonError as error:
        report("failed", error=one_line(error))
        return 1
    except MemoryError:
        report("failed", error="there is not enough memory for this training")
        return 1
    return 0


if __name__ == "__main__":
    # A normal exit would wait for the thread that reads input.
    try:
        code = main()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 70
    sys.stderr.flush()
    os._exit(code)
