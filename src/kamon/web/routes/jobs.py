"""Trainings: start, watch and steer them; and what reading does to a list, before."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Path, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from kamon.config import make_config
from kamon.data import corpus
from kamon.data.cleaning import clean as tidy
from kamon.data.documents import Documents, nfc
from kamon.data.split import divide
from kamon.engines.parameters import num_params
from kamon.errors import CorpusError
from kamon.training.data import NONE_HELD_OUT, check_learnable
from kamon.web.errors import WebError
from kamon.web.limits import Limits
from kamon.web.routes.context import Context, RequestContext
from kamon.web.services.jobs import PASTED, Job, Jobs, Snapshot, moment_id
from kamon.web.services.workers import Stop

router = APIRouter(tags=["trainings"])
LIMITS = Limits()
LOOK_SECONDS = 0.1  # between two looks at what is new
HEARTBEAT_SECONDS = 10.0
LISTED = 100  # lines that reading takes out or changes
NUM_DOCS = 20
MAX_SHOWN = 200  # characters of a line
MAX_TIDIED = 1000  # characters of a document
TIDYING_SECONDS = 2.0

JobId = Annotated[str, Path(max_length=80)]
Text = Annotated[str, Field(max_length=LIMITS.body_bytes)]
Point = tuple[int, float]


class ApiModel(BaseModel):
    """What a request says; names that are not known are refused, and "1" is no number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Settings(ApiModel):
    """Of a `Config`; what is left out is picked by the budget."""

    n_layer: Annotated[int | None, Field(ge=1, le=16)] = None
    n_embd: Annotated[int | None, Field(ge=1, le=512)] = None
    n_head: Annotated[int | None, Field(ge=1, le=512)] = None
    block_size: Annotated[int | None, Field(ge=1, le=256)] = None
    num_steps: Annotated[int | None, Field(ge=1, le=LIMITS.job_steps)] = None
    learning_rate: Annotated[float | None, Field(gt=0, le=10)] = None
    batch_size: Annotated[int | None, Field(ge=1, le=256)] = None
    dropout: Annotated[float | None, Field(ge=0, lt=1)] = None


def largest_settings() -> dict[str, float]:
    """Return the largest value of each setting."""
    found = {}
    for name, each in Settings.model_json_schema()["properties"].items():
        bounds = each["anyOf"][0]
        found[name] = bounds.get("maximum", bounds.get("exclusiveMaximum"))
    return found


Format = Literal["text", "csv", "tsv", "jsonl", "json"]
Column = Annotated[str | None, Field(max_length=1000)]
Name = Annotated[str | None, Field(min_length=1, max_length=100)]


class JobRequest(ApiModel):
    """text or builtin: the list, pasted or in the package. budget: seconds, 1 where settings have
    no num_steps. name: what the pasted list is called. format: "text" is an entry a line; of a
    table, column is the one to learn, by its name in the header row, by its number or, in JSON, its
    key ("text" if none is given); header: whether it has such a row."""

    text: Text | None = None
    format: Format = "text"
    column: Column = None
    header: bool = True
    builtin: Literal["names"] | None = None
    budget: Annotated[float | None, Field(ge=0.001, le=LIMITS.job_seconds)] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 42
    name: Name = None
    settings: Settings = Settings()


class Lines(BaseModel):
    """Losses to compare with, in nats a token: of all tokens equally likely, and of the best n-gram
    on the documents held out; null where not known, yet or at all."""

    uniform: float | None
    ngram: float | None
    ngram_order: int | None


class MomentAnswer(BaseModel):
    """model: its id, for as long as the training is kept; samples: by the training's seed."""

    step: int
    model: str
    samples: list[str]


class BestAnswer(BaseModel):
    """The step whose model a training made, and samples of it. loss: of that model on all documents
    held out; null where none are, and the step is the last. over_fitted: whether it did worse on
    them behind that step."""

    step: int
    loss: float | None
    over_fitted: bool
    samples: list[str]


class JobAnswer(BaseModel):
    """A training. ahead: how many have their turn before it, while it is queued; else null. Sizes
    are 0 until it has started. losses: of each `every` steps the last one and
    their mean loss; held_out: of some steps, on documents held out. budget: seconds, or null where
    the steps were given. model: the id of the one it made, which did best on what is held out;
    best: which step that was. One that is done before num_steps saw that best step far behind."""

    id: str
    state: Literal["queued", "starting", "running", "paused", "stopped", "done", "failed"]
    ahead: int | None
    error: str | None
    source: str
    num_steps: int
    step: int
    seconds: float
    budget: float | None
    num_docs: int
    num_params: int
    lines: Lines
    every: int
    losses: list[Point]
    held_out: list[Point]
    moments: list[MomentAnswer]
    model: str | None
    best: BestAnswer | None


class JobList(BaseModel):
    jobs: list[JobAnswer]


class ProgressEvent(BaseModel):
    """Where it stands; of losses and held_out those since the event before."""

    state: str
    ahead: int | None
    step: int
    seconds: float
    lines: Lines
    losses: list[Point]
    held_out: list[Point]


class ColumnsRequest(ApiModel):
    """A table, called `name`."""

    text: Text
    format: Literal["csv", "tsv", "jsonl", "json"]
    header: bool = True
    name: Name = None


class Columns(BaseModel):
    """The names in the first row, or the keys of the first JSON object that have a text."""

    columns: list[str]


class CleanRequest(ApiModel):
    """A list, as of a training."""

    text: Text
    format: Format = "text"
    column: Column = None
    header: bool = True
    name: Name = None


class Removed(BaseModel):
    """line: of a table the row, the first not counted."""

    text: str
    why: str
    line: int


class Changed(BaseModel):
    """line: as of what is removed."""

    before: str
    after: str
    line: int


class TidyingStep(BaseModel):
    """Of how many documents, with the first few: before and after, or what was dropped and why."""

    name: str
    action: Literal["changed", "dropped"]
    count: int
    examples: list[tuple[str, str]]


class Tidied(BaseModel):
    """The list that `kamon clean` would make of it, and how: no training does that by itself."""

    text: str
    num_docs: int
    steps: list[TidyingStep]


class CleanAnswer(BaseModel):
    """What reading a list does to it. num_lines = num_docs + num_blank + num_repetitions;
    characters: how many different ones; longest: in characters. removed, changed, docs: the first
    of them. tidied: null where `kamon clean` would leave it as it is, or needs too long. warnings:
    what a training would warn of or refuse. looks_like: the format of the table that the lines of a
    text seem to be."""

    num_lines: int
    num_docs: int
    num_blank: int
    num_repetitions: int
    num_stripped: int
    num_normalized: int
    num_held_out: int
    longest: int
    characters: int
    removed: list[Removed]
    changed: list[Changed]
    docs: list[str]
    tidied: Tidied | None
    warnings: list[str]
    looks_like: Literal["csv", "tsv", "jsonl", "json"] | None


# ---- trainings


@router.post("/jobs", status_code=202, responses={429: {"description": "Too many trainings"}})
async def start_job(request: JobRequest, context: Context) -> JobAnswer:
    """Start a training, or queue it until others have ended."""
    return answer(await context.compute(lambda _: started(context, request)), context)


def started(context: RequestContext, request: JobRequest) -> Job:
    limits = context.limits
    settings = request.settings.model_dump(exclude_none=True) | {"seed": request.seed}
    if (request.text is None) == (request.builtin is None):
        raise WebError(422, 'a training needs a list: give "text", or "builtin", and not both')
    budget = request.budget
    if "num_steps" not in settings:
        budget = 1.0 if budget is None else budget
    elif budget is not None:
        raise WebError(422, "a budget decides the number of steps: give it or num_steps, not both")
    if budget is not None and budget > limits.job_seconds:
        raise WebError(422, f"a budget has {limits.job_seconds:g} seconds at most, not {budget:g}")
    if settings.get("num_steps", 0) > limits.job_steps:
        raise WebError(422, f"a training has {limits.job_steps:,} steps at most")
    num_chars = 1
    check_column(request.format, request.column)
    if request.text is None and request.format != "text":
        raise WebError(422, "the built-in list has no columns and formats to choose from")
    if request.text is not None:
        source = corpus.from_text(
            *(request.text, request.name or PASTED),
            column=request.column,
            format=request.format,
            header=request.header,
        )
        check_learnable(source)
        num_chars = len(source.different.chars())
    least = {"n_layer": 1, "n_embd": 16, "n_head": 4, "block_size": 8} | settings
    # What is picked may be larger: the training itself looks again.
    size = num_params(replace(make_config(least), vocab_size=num_chars + 1))
    if size > limits.job_params:
        raise WebError(
            422,
            f"the model would have more than {limits.job_params:,} parameters: choose a smaller "
            "n_embd, n_layer or block_size, or a list of fewer different characters",
        )
    return context.jobs.start(
        text=request.text,
        name=request.name,
        format=request.format,
        column=request.column,
        header=request.header,
        builtin=request.builtin,
        budget=budget,
        settings=settings,
    )


@router.get("/jobs")
async def list_jobs(context: Context) -> JobList:
    """All trainings that are kept, the oldest first."""
    return JobList(jobs=[answer(job, context) for job in context.jobs.all()])


@router.get("/jobs/{id}")
async def get_job(id: JobId, context: Context) -> JobAnswer:
    """A training, as it stands."""
    return answer(context.jobs.get(id), context)


@router.post("/jobs/{id}/pause")
async def pause_job(id: JobId, context: Context) -> JobAnswer:
    """Pause a training after its next report, so that others take its place."""
    return answer(context.jobs.pause(id), context)


@router.post("/jobs/{id}/resume")
async def resume_job(id: JobId, context: Context) -> JobAnswer:
    """Resume a paused training, as soon as there is a place for it."""
    return answer(context.jobs.resume(id), context)


@router.post("/jobs/{id}/stop")
async def stop_job(id: JobId, context: Context) -> JobAnswer:
    """End a training early: what it has learned becomes a model."""
    return answer(context.jobs.stop(id), context)


@router.delete("/jobs/{id}", status_code=204)
async def delete_job(id: JobId, context: Context) -> None:
    """Cancel a training, and forget it with its models; copies that were saved stay."""
    context.jobs.forget(id)


def answer(job: Job, context: RequestContext) -> JobAnswer:
    with job.lock:
        started = job.started
        return JobAnswer(
            id=job.id,
            state=job.state,  # type: ignore[arg-type]
            ahead=context.jobs.ahead(job),
            error=job.error,
            source=job.source,
            num_steps=started.config.num_steps if started else 0,
            step=len(job.losses),
            seconds=job.seconds,
            budget=job.budget,
            num_docs=started.training["corpus"]["num_different"] if started else 0,
            num_params=num_params(started.config) if started else 0,
            lines=lines(job),
            every=job.every,
            losses=list(job.points),
            held_out=list(job.held_out),
            moments=[moment_answer(job, moment) for moment in job.moments],
            model=job.id if job.id in context.registry.entries else None,
            best=BestAnswer(**vars(job.best)) if job.best else None,
        )


def lines(job: Job) -> Lines:
    loss, order = job.ngram or (None, None)
    uniform = math.log(job.started.config.vocab_size) if job.started else None
    return Lines(uniform=uniform, ngram=loss, ngram_order=order)


def moment_answer(job: Job, moment: Snapshot) -> MomentAnswer:
    return MomentAnswer(step=moment.step, model=moment_id(job, moment), samples=moment.samples)


# ---- events


@dataclass(frozen=True)
class EventCursor:
    """What somebody knows of a training, as the id of an event says it: whether it has started,
    whether it is over, and how many of each list. All of it only grows, so that whoever comes back
    with any id is told what he lacks."""

    started: int = 0
    over: int = 0
    ngram: int = 0
    points: int = 0
    held_out: int = 0
    moments: int = 0

    @classmethod
    def of(cls, job: Job) -> EventCursor:
        return cls(
            int(job.started is not None),
            int(job.over),
            int(job.ngram is not None),
            *(len(job.points), len(job.held_out), len(job.moments)),
        )

    @property
    def id(self) -> str:
        return "-".join(map(str, vars(self).values()))

    @classmethod
    def from_id(cls, id: str, job: Job) -> EventCursor | None:
        """None for what is no id of this training: then all is new."""
        numbers = id.split("-")
        if len(numbers) != 6 or not all(
            n.isascii() and n.isdigit() and len(n) < 10 for n in numbers
        ):
            return None
        told = cls(*map(int, numbers))
        now = vars(cls.of(job))
        return told if all(n <= now[name] for name, n in vars(told).items()) else None


class Events(StreamingResponse):
    """Counted among the streams that are open, for as long as it is."""

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
        204: {"description": "The end was told already"},
    },
)
async def job_events(
    id: JobId,
    context: Context,
    last_event_id: Annotated[str, Header(max_length=100)] = "",
) -> Response:
    """Server-sent events of a training: from its start, or from behind the one named."""
    job = context.jobs.get(id)
    told = EventCursor.from_id(last_event_id, job)
    if told and told.over:
        return Response(status_code=204)  # by which a browser knows not to come back
    if context.jobs.streams >= context.limits.streams:
        raise WebError(503, f"{context.jobs.streams} streams of events are open: close one")
    return Events(context.jobs, stream(context, job, told))


async def stream(context: RequestContext, job: Job, told: EventCursor | None) -> AsyncIterator[str]:
    """Looks now and then: no thread has to wait, and nothing queues up for a slow client."""
    stands: tuple[Any, ...] = ()
    last = time.monotonic()
    while not (told and told.over) and not context.jobs.ending:
        events, told, stands = news(job, context, told, stands)
        if events:
            last = time.monotonic()
            yield "".join(events)
        elif time.monotonic() - last >= HEARTBEAT_SECONDS:
            last = time.monotonic()
            yield ": still there\n\n"
        if not told.over:
            await asyncio.sleep(LOOK_SECONDS)
            if await context.request.is_disconnected():
                return


def news(
    job: Job, context: RequestContext, told: EventCursor | None, stands: tuple[Any, ...]
) -> tuple[list[str], EventCursor, tuple[Any, ...]]:
    """The events that somebody lacks, and what he knows then. stands: what does not only grow, as
    he was told it last."""
    events = []
    with job.lock:
        now = EventCursor.of(job)
        at = (job.state, context.jobs.ahead(job), len(job.losses), job.seconds)
        fresh = told is None or told.started < now.started
        if not fresh and told and (at != stands or told != now):
            progress = ProgressEvent(
                state=job.state,
                ahead=context.jobs.ahead(job),
                step=len(job.losses),
                seconds=job.seconds,
                lines=lines(job),
                losses=job.points[told.points :],
                held_out=job.held_out[told.held_out :],
            )
            moments = [moment_answer(job, moment) for moment in job.moments[told.moments :]]
            # An id says what was told up to its event, and not what is behind it.
            up_to = replace(now, moments=told.moments, over=0)
            events.append(event("progress", up_to, progress))
            for number, moment in enumerate(moments, told.moments + 1):
                events.append(event("moment", replace(up_to, moments=number), moment))
    if fresh:
        events.append(event("start", replace(now, over=0), answer(job, context)))
    if now.over:
        events.append(event("end", now, answer(job, context)))
    return events, now, at


def event(name: str, told: EventCursor, data: BaseModel) -> str:
    """The line of data has no line end: JSON writes those of a text as two characters."""
    return f"event: {name}\nid: {told.id}\ndata: {data.model_dump_json()}\n\n"


# ---- what reading does


@router.post("/columns")
async def find_columns(request: ColumnsRequest, context: Context) -> Columns:
    """What a table has to choose from."""
    name = request.name or PASTED

    def look(_: Stop) -> Columns:
        lines = corpus.lines_in(request.text, name)
        found = corpus.columns_in(name, lines, request.format, request.header)
        return Columns(columns=found)

    return await context.compute(look)


@router.post("/clean")
async def clean(request: CleanRequest, context: Context) -> CleanAnswer:
    """What a training would read in a list: the documents, and what is left out and changed."""
    check_column(request.format, request.column)
    how: dict[str, Any] = {"format": request.format, "column": request.column}
    how |= {"name": request.name or PASTED, "header": request.header}
    return await context.compute(lambda stop: preview(request.text, stop, **how))


def check_column(format: str, column: str | None) -> None:
    if format == "text" and column is not None:
        raise WebError(422, 'a text has no columns: name a "format" with the column')


def preview(
    text: str,
    stop: Stop,
    *,
    name: str = PASTED,
    format: str = "text",
    column: str | None = None,
    header: bool = True,
) -> CleanAnswer:
    """CorpusError for what is no list."""
    source = corpus.from_text(text, name, column=column, format=format, header=header)
    stop.check()
    _, held_out = divide(source.docs)
    first: dict[str, int] = {}
    removed: list[Removed] = []
    changed: list[Changed] = []
    unit = {"csv": "row", "tsv": "row", "json": "element"}.get(format, "line")
    entries = corpus.entries_in(name, corpus.lines_in(text, name), format, column, header)
    for number, line in enumerate(entries, 1):
        doc = nfc(line.strip())
        why = "blank" if not doc else f"as {unit} {first[doc]:,}" if doc in first else None
        first.setdefault(doc, number)
        if why is not None and len(removed) < LISTED:
            removed.append(Removed(text=shown(line), why=why, line=number))
        elif why is None and doc != line and len(changed) < LISTED:
            changed.append(Changed(before=shown(line), after=shown(doc), line=number))
    return CleanAnswer(
        num_lines=source.num_entries,
        num_docs=len(source.different),
        num_blank=source.num_blank,
        num_repetitions=len(source.docs) - len(source.different),
        num_stripped=source.num_stripped,
        num_normalized=source.num_normalized,
        num_held_out=len(held_out),
        longest=max(source.different.lengths()),
        characters=len(source.different.chars()),
        removed=removed,
        changed=changed,
        docs=[shown(doc) for doc in source.different[:NUM_DOCS]],
        tidied=tidied(source.different, stop),
        warnings=warnings_of(source, len(held_out)),
        looks_like=corpus.table_in(source.docs) if format == "text" else None,
    )


def warnings_of(source: corpus.Corpus, num_held_out: int) -> list[str]:
    """The sentences of a training."""
    try:
        check_learnable(source)
    except CorpusError as error:
        return [str(error)]
    return [] if num_held_out else [NONE_HELD_OUT]


def shown(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def tidied(docs: Documents, stop: Stop) -> Tidied | None:
    """By those steps that need no extra. Some take the square of a document's length."""
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
