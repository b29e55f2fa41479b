"""Routes to start, watch and control trainings, and to preview how Kamon reads a list."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Header, Path, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from kamon.api import given_columns
from kamon.config import make_config
from kamon.data import columns as columns_module
from kamon.data import corpus, readers, tables
from kamon.data.cleaning import clean as tidy
from kamon.data.columns import Columns as GivenColumns
from kamon.data.columns import Table
from kamon.data.documents import Documents, nfc
from kamon.data.graphemes import clipped
from kamon.data.split import divide
from kamon.engines.parameters import num_params
from kamon.errors import CorpusError
from kamon.training.data import check_learnable
from kamon.web.errors import WebError, one_line
from kamon.web.limits import Limits
from kamon.web.routes.context import ApiModel, Context, RequestContext
from kamon.web.services.jobs import PASTED, Best, Job, Jobs, Snapshot
from kamon.web.services.registry import Blend
from kamon.web.services.worker import Request
from kamon.web.services.workers import Stop

router = APIRouter(tags=["trainings"])
LIMITS = Limits()
LOOK_SECONDS = 0.1  # between two checks for news
HEARTBEAT_SECONDS = 10.0
MAX_LISTED = 100  # removed or changed lines that an answer shows
NUM_DOCS = 20  # documents that an answer shows
MAX_SHOWN = 200  # characters of a line
MAX_TIDIED = 1000  # characters of a document
TIDYING_SECONDS = 2.0

JobId = Annotated[str, Path(max_length=80)]
Text = Annotated[str, Field(max_length=LIMITS.body_bytes)]
Point = tuple[int, float]


class Settings(ApiModel):
    """Settings of the model. Kamon chooses missing ones to suit the budget."""

    n_layer: Annotated[int | None, Field(ge=1, le=16)] = None
    n_embd: Annotated[int | None, Field(ge=1, le=512)] = None
    n_head: Annotated[int | None, Field(ge=1, le=512)] = None
    block_size: Annotated[int | None, Field(ge=1, le=256)] = None
    num_steps: Annotated[int | None, Field(ge=1, le=LIMITS.job_steps)] = None
    learning_rate: Annotated[float | None, Field(gt=0, le=10)] = None
    batch_size: Annotated[int | None, Field(ge=1, le=256)] = None
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None


def largest_settings() -> dict[str, int | float]:
    """Return the maximum value of each setting."""
    properties = Settings.model_json_schema()["properties"]
    bounds = {name: schema["anyOf"][0] for name, schema in properties.items()}
    return {name: b.get("maximum", b.get("exclusiveMaximum")) for name, b in bounds.items()}


Format = Literal["text", "csv", "tsv", "jsonl", "json"]
Column = Annotated[str | None, Field(max_length=1000)]
ColumnName = Annotated[str, Field(min_length=1, max_length=1000)]
Name = Annotated[str | None, Field(min_length=1, max_length=100)]


class ListRequest(ApiModel):
    """How to read a list.

    format: "text" has one entry per line. column: the column of a table: its name in the header
    row, its number or, in JSON, its key (by default "text"). header: whether the table has a header
    row. name: name of the list, for messages.
    """

    format: Format = "text"
    column: Column = None
    header: bool = True
    name: Name = None

    def read(self, text: str) -> corpus.Corpus:
        options = self.model_dump(include={"format", "column", "header"})
        return corpus.from_text(text, self.name or PASTED, **options)

    def read_table(self, text: str, columns: GivenColumns) -> Table:
        name = self.name or PASTED
        return columns_module.read_text(text, name, columns, self.format, header=self.header)


class JobRequest(ListRequest):
    """A list to train on, either as `text` or as the name of a list that Kamon includes.

    budget: in seconds (by default 1, unless the settings have num_steps). name: name of the list in
    `text`. init_from: "base" to start from the pretrained base, "scratch" to start from random
    parameters. By default, Kamon chooses the better one for the list. blend: whether to blend the
    GPT with an n-gram of the list.
    given: columns of a table. The model learns the entries under their values. weight: a column of
    numbers that say how often each row counts.
    """

    text: Text | None = None
    builtin: Literal["names"] | None = None
    budget: Annotated[float | None, Field(ge=0.001, le=LIMITS.job_seconds)] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 42
    settings: Settings = Settings()
    init_from: Literal["base", "scratch"] | None = None
    blend: bool = True
    given: Annotated[list[ColumnName], Field(min_length=1, max_length=20)] | None = None
    weight: ColumnName | None = None


class Lines(BaseModel):
    """Losses to compare with, in nats per token, null if unknown.

    uniform: loss if all tokens are equally likely. ngram: validation loss of the best n-gram.
    """

    uniform: float | None
    ngram: float | None
    ngram_order: int | None


class MomentAnswer(BaseModel):
    """The model after a step. model: its id.

    samples: novel and unique, so there are fewer than 5 if most are copies. blend: the blend with
    the best weight at this step, null for a GPT only.
    """

    step: int
    model: str
    samples: list[str]
    blend: Blend | None


class JobState(BaseModel):
    """The state of a training."""

    state: Literal["queued", "starting", "running", "paused", "stopped", "done", "failed"]
    ahead: int | None
    step: int
    seconds: float
    lines: Lines


class ProgressEvent(JobState):
    """The state of a training. losses, validation_losses: new ones since the previous event."""

    losses: list[Point]
    validation_losses: list[Point]


class JobSummary(JobState):
    """A training without its losses.

    ahead: how many queued trainings start before this one, null if it is not queued. num_steps,
    num_docs, num_params: 0 until it starts. init_from: "base" if it starts from the pretrained
    base, otherwise null. budget: in seconds, null if the request gave the number of steps. seconds:
    before the first step, the time spent on cross-validation. model: the id of the model that it
    made, which has the lowest validation loss. best: the step of that model. A training ends before
    num_steps if that loss stops improving.
    """

    id: str
    error: str | None
    source: str
    init_from: str | None
    num_steps: int
    budget: float | None
    num_docs: int
    num_params: int
    every: int
    moments: list[MomentAnswer]
    model: str | None
    best: Best | None


class JobAnswer(JobSummary):
    """A training with its losses.

    losses: [step, mean loss of the GPT in the last `every` steps]. validation_losses: [step,
    validation loss], of the blend if there is one.
    """

    losses: list[Point]
    validation_losses: list[Point]


class JobList(BaseModel):
    jobs: list[JobSummary]


class ColumnsRequest(ApiModel):
    """A table. name: name of its file."""

    text: Text
    format: Literal["csv", "tsv", "jsonl", "json"]
    header: bool = True
    name: Name = None


class Columns(BaseModel):
    """Names in the header row, or keys of the first JSON object that have a text as value."""

    columns: list[str]


class CleanRequest(ListRequest):
    """A list, in the same form as for a training."""

    text: Text


class Removed(BaseModel):
    """An entry that reading removes. line: in a table, the row without counting the header."""

    text: str
    why: str
    line: int


class Changed(BaseModel):
    """An entry that reading changes. line: in a table, the row without counting the header."""

    before: str
    after: str
    line: int


class TidyingStep(BaseModel):
    """A step of `kamon clean`. examples: (before, after), or (dropped entry, reason)."""

    name: str
    action: Literal["changed", "dropped"]
    count: int
    examples: list[tuple[str, str]]


class Tidied(BaseModel):
    """The list that `kamon clean` would write, and its steps. Training does not clean lists."""

    text: str
    num_docs: int
    steps: list[TidyingStep]


class CleanAnswer(BaseModel):
    """How Kamon reads a list. num_lines = num_docs + num_blank + num_repetitions.

    longest: length in characters. characters: number of different ones. removed, changed, docs: the
    first few. tidied: null if `kamon clean` would change nothing or take too long. warnings:
    warnings and errors of a training. looks_like: the format of a table if the lines look like one.
    """

    num_lines: int
    num_docs: int
    num_blank: int
    num_repetitions: int
    num_stripped: int
    num_normalized: int
    num_validation: int
    longest: int
    characters: int
    removed: list[Removed]
    changed: list[Changed]
    docs: list[str]
    tidied: Tidied | None
    warnings: list[str]
    looks_like: Literal["csv", "tsv", "jsonl", "json"] | None


# ---- trainings


@router.post(
    "/jobs", status_code=202, responses={429: {"description": "Too many trainings are waiting"}}
)
async def start_job(request: JobRequest, context: Context) -> JobAnswer:
    """Start a training, or queue it until others end."""
    return answer(await context.compute(lambda _: start_training(context, request)), context)


INCLUDED = {"format", "column", "header", "init_from", "blend", "given", "weight"}


def start_training(context: RequestContext, request: JobRequest) -> Job:
    limits = context.limits
    settings = request.settings.model_dump(exclude_none=True) | {"seed": request.seed}
    if (request.text is None) == (request.builtin is None):
        raise WebError(422, "a training needs one list", 'give either "text" or "builtin"')
    if request.budget is not None and "num_steps" in settings:
        raise WebError(
            422, "the budget decides the number of steps", "give either budget or num_steps"
        )
    budget = None if "num_steps" in settings else request.budget or 1.0
    if budget is not None and budget > limits.job_seconds:
        raise WebError(
            422, f"budget must be at most {limits.job_seconds:g} seconds, not {budget:g}"
        )
    if settings.get("num_steps", 0) > limits.job_steps:
        raise WebError(422, f"num_steps must be at most {limits.job_steps:,}")
    num_chars, num_values = 1, 0
    check_column(request)
    if request.text is None and request.format != "text":
        raise WebError(422, "the built-in list has no column or format")
    columns = given_columns(request.column, request.given, request.weight)
    if request.text is not None:
        if columns:
            table = request.read_table(request.text, columns)
            source, num_values = table.corpus, sum(map(len, table.values.values()))
        else:
            source = request.read(request.text)
        check_learnable(source)
        num_chars = len(source.different.chars()) + num_values
    least = {"n_layer": 1, "n_embd": 16, "n_head": 4, "block_size": 8} | settings
    # A lower bound. The training checks again when it knows its settings.
    size = num_params(replace(make_config(least), vocab_size=num_chars + 1))
    if size > limits.job_params:
        raise WebError(
            422,
            f"the model would have more than {limits.job_params:,} parameters",
            "choose a smaller n_embd, n_layer or block_size, or a list with fewer unique "
            "characters",
        )
    return context.jobs.start(
        Request(
            text=request.text,
            source=request.builtin or request.name or PASTED,
            budget=budget,
            settings=settings,
            limits=limits,
            **request.model_dump(include=INCLUDED),
        )
    )


@router.get("/jobs")
async def list_jobs(context: Context) -> JobList:
    """Return all trainings that the server keeps, without their losses, the oldest first."""
    summaries = []
    for job in context.jobs.all():
        with job.lock:
            summaries.append(summary(job, context))
    return JobList(jobs=summaries)


@router.get("/jobs/{id}")
async def get_job(id: JobId, context: Context) -> JobAnswer:
    """Return a training and its current state."""
    return answer(context.jobs.get(id), context)


@router.post("/jobs/{id}/pause")
async def pause_job(id: JobId, context: Context) -> JobAnswer:
    """Pause a training, so that another one can run."""
    return answer(context.jobs.pause(id), context)


@router.post("/jobs/{id}/resume")
async def resume_job(id: JobId, context: Context) -> JobAnswer:
    """Resume a paused training as soon as fewer than the maximum are running."""
    return answer(context.jobs.resume(id), context)


@router.post("/jobs/{id}/stop")
async def stop_job(id: JobId, context: Context) -> JobAnswer:
    """Stop a training early and keep its model."""
    return answer(context.jobs.stop(id), context)


@router.delete("/jobs/{id}", status_code=204)
async def delete_job(id: JobId, context: Context) -> None:
    """Cancel a training and delete its models, except saved copies."""
    context.jobs.forget(id)


def answer(job: Job, context: RequestContext) -> JobAnswer:
    with job.lock:
        losses = new_losses(job, EventCursor())
        return JobAnswer(**dict(summary(job, context)), **losses)


def summary(job: Job, context: RequestContext) -> JobSummary:
    """Return the summary of a job whose lock the caller holds."""
    started = job.started
    return JobSummary(
        id=job.id,
        error=job.error,
        source=job.source,
        init_from=started.training.get("init_from") if started else None,
        num_steps=started.config.num_steps if started else 0,
        budget=job.budget,
        num_docs=(started.training.corpus.num_different or 0) if started else 0,
        num_params=num_params(started.config) if started else 0,
        every=job.every,
        moments=[moment_answer(moment) for moment in job.moments],
        model=job.id if job.id in context.registry.entries else None,
        best=job.best,
        **state_of(job, context),
    )


def new_losses(job: Job, cursor: EventCursor) -> dict[str, Any]:
    """Return the losses of a training after the cursor."""
    return {
        "losses": job.points[cursor.points :],
        "validation_losses": job.validation_losses[cursor.validation_losses :],
    }


def state_of(job: Job, context: RequestContext) -> dict[str, Any]:
    """Return the fields of a `JobState`."""
    loss, order = job.ngram or (None, None)
    uniform = math.log(job.started.config.vocab_size) if job.started else None
    return {
        "state": job.state,
        "ahead": context.jobs.ahead(job),
        "step": len(job.losses),
        "seconds": job.seconds,
        "lines": Lines(uniform=uniform, ngram=loss, ngram_order=order),
    }


def moment_answer(moment: Snapshot) -> MomentAnswer:
    shown = {name: getattr(moment, name) for name in MomentAnswer.model_fields}
    return MomentAnswer(**shown)


# ---- events


class EventCursor(NamedTuple):
    """The part of a training that a client knows: whether it has started or ended, and how many
    items of each list. These only grow. So a client that reconnects with the id of an event gets
    exactly the events that it missed."""

    started: int = 0
    over: int = 0
    ngram: int = 0
    points: int = 0
    validation_losses: int = 0
    moments: int = 0

    @classmethod
    def of(cls, job: Job) -> EventCursor:
        return cls(
            started=int(job.started is not None),
            over=int(job.over),
            ngram=int(job.ngram is not None),
            points=len(job.points),
            validation_losses=len(job.validation_losses),
            moments=len(job.moments),
        )

    @classmethod
    def from_id(cls, id: str, job: Job) -> EventCursor | None:
        """Return the cursor with this id, or None if the id does not belong to this training."""
        if not re.fullmatch("[0-9]{1,9}(-[0-9]{1,9}){5}", id):
            return None
        cursor = cls(*map(int, id.split("-")))
        return cursor if all(n <= now for n, now in zip(cursor, cls.of(job), strict=True)) else None


class Events(StreamingResponse):
    """A stream of events, counted in `Jobs.streams` while it is open."""

    def __init__(self, jobs: Jobs, content: AsyncIterator[str]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(content, media_type="text/event-stream", headers=headers)
        self.jobs = jobs

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.jobs.streams += 1
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.jobs.streams -= 1


@router.get(
    "/jobs/{id}/events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}, "description": "start, progress, moment, end"},
        204: {"description": "The client already has the last event"},
    },
)
async def job_events(
    id: JobId, context: Context, last_event_id: Annotated[str, Header(max_length=100)] = ""
) -> Response:
    """Stream the events of a training, from its start or after the event Last-Event-ID."""
    job = context.jobs.get(id)
    cursor = EventCursor.from_id(last_event_id, job)
    if cursor and cursor.over:
        return Response(status_code=204)  # after this status, a browser does not reconnect
    if context.jobs.streams >= context.limits.streams:
        raise WebError(503, f"{context.jobs.streams} event streams are already open", "close one")
    return Events(context.jobs, stream(context, job, cursor))


async def stream(
    context: RequestContext, job: Job, cursor: EventCursor | None
) -> AsyncIterator[str]:
    """Yield events by polling, which needs no thread and no queue for a slow client."""
    state: tuple[Any, ...] = ()
    last = time.monotonic()
    while not (cursor and cursor.over) and not context.jobs.ending:
        events, cursor, state = news(job, context, cursor, state)
        if events:
            last = time.monotonic()
            yield "".join(events)
        elif time.monotonic() - last >= HEARTBEAT_SECONDS:
            last = time.monotonic()
            yield ": still there\n\n"
        if not cursor.over:
            await asyncio.sleep(LOOK_SECONDS)
            if await context.request.is_disconnected():
                return


def news(
    job: Job, context: RequestContext, cursor: EventCursor | None, last_state: tuple[Any, ...]
) -> tuple[list[str], EventCursor, tuple[Any, ...]]:
    """Return the events that a client does not have, its new cursor, and its new state.

    last_state: the values, as the client knows them, that can also change without growing.
    """
    events = []
    with job.lock:
        now = EventCursor.of(job)
        state = (job.state, context.jobs.ahead(job), len(job.losses), job.seconds)
        if cursor is None or cursor.started < now.started:
            cursor = now._replace(points=0, validation_losses=0, over=0)
            events.append(event("start", cursor, summary(job, context)))
            last_state = state
        if state != last_state or cursor != now:
            losses = new_losses(job, cursor)
            progress = ProgressEvent(**state_of(job, context), **losses)
            moments = [moment_answer(moment) for moment in job.moments[cursor.moments :]]
            # An id covers all events up to its own, but not later ones.
            covered = now._replace(moments=cursor.moments, over=0)
            events.append(event("progress", covered, progress))
            for number, moment in enumerate(moments, cursor.moments + 1):
                events.append(event("moment", covered._replace(moments=number), moment))
        if now.over:
            events.append(event("end", now, summary(job, context)))
    return events, now, state


def event(name: str, cursor: EventCursor, data: BaseModel) -> str:
    id, content = "-".join(map(str, cursor)), data.model_dump_json()  # JSON without line ends
    return f"event: {name}\nid: {id}\ndata: {content}\n\n"


# ---- how a list is read


@router.post("/columns")
async def find_columns(request: ColumnsRequest, context: Context) -> Columns:
    """Return the columns of a table."""
    name, text, format = request.name or PASTED, request.text, request.format
    columns = await context.compute(
        lambda _: tables.columns_in(name, readers.lines_in(text, name), format, request.header)
    )
    return Columns(columns=columns)


@router.post("/clean")
async def clean(request: CleanRequest, context: Context) -> CleanAnswer:
    """Return how a training would read a list: entries, removed and changed lines."""
    check_column(request)
    return await context.compute(lambda stop: preview(request, stop))


def check_column(request: ListRequest) -> None:
    if request.format == "text" and request.column is not None:
        raise WebError(422, "a text has no columns", 'give a "format" together with the column')


def preview(request: CleanRequest, stop: Stop) -> CleanAnswer:
    """Return how Kamon reads the list, or raise CorpusError."""
    source = request.read(request.text)
    stop.check()
    _, held_out = divide(source.docs)
    warnings = []
    try:
        check_learnable(source)
    except CorpusError as error:
        warnings = [one_line(error)]
    first: dict[str, int] = {}
    removed: list[Removed] = []
    changed: list[Changed] = []
    name, format = request.name or PASTED, request.format
    unit = {"csv": "row", "tsv": "row", "json": "element"}.get(format, "line")
    lines = readers.lines_in(request.text, name)
    entries = tables.entries_in(name, lines, format, request.column, request.header)
    for number, line in enumerate(entries, 1):
        doc = nfc(line.strip())
        why = "blank" if not doc else f"as {unit} {first[doc]:,}" if doc in first else None
        first.setdefault(doc, number)
        if why is not None and len(removed) < MAX_LISTED:
            removed.append(Removed(text=shown(line), why=why, line=number))
        elif why is None and doc != line and len(changed) < MAX_LISTED:
            changed.append(Changed(before=shown(line), after=shown(doc), line=number))
    return CleanAnswer(
        num_lines=source.num_entries,
        num_docs=len(source.different),
        num_blank=source.num_blank,
        num_repetitions=len(source.docs) - len(source.different),
        num_stripped=source.num_stripped,
        num_normalized=source.num_normalized,
        num_validation=len(held_out),
        longest=max(source.different.lengths()),
        characters=len(source.different.chars()),
        removed=removed,
        changed=changed,
        docs=[shown(doc) for doc in source.different[:NUM_DOCS]],
        tidied=tidied(source.different, stop),
        warnings=warnings,
        looks_like=tables.guess_format(source.docs) if format == "text" else None,
    )


def shown(text: str) -> str:
    return clipped(text, MAX_SHOWN)


def tidied(docs: Documents, stop: Stop) -> Tidied | None:
    """Return the list as `kamon clean` would write it without optional packages. Return None if it
    is the same, or if this takes too long: some steps take time with the square of the length."""
    if max(docs.lengths()) > MAX_TIDIED:
        return None
    end = time.monotonic() + TIDYING_SECONDS

    def while_there_is_time() -> Iterator[str]:
        for doc in docs:
            stop.check()
            if time.monotonic() > end:
                raise TimeoutError
            yield doc

    try:
        cleaned = tidy(while_there_is_time())
    except TimeoutError:
        return None
    if cleaned.docs == docs:
        return None
    steps = [
        TidyingStep(
            name=step.name,
            action="changed" if step.action == "changed" else "dropped",
            count=step.count,
            examples=[(shown(before), shown(after)) for before, after in step.examples],
        )
        for step in cleaned.report
        if step.count
    ]
    return Tidied(text="\n".join(cleaned.docs), num_docs=len(cleaned.docs), steps=steps)
