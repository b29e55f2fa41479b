"""The limits of the server. Everything that requests can make grow has a maximum here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kamon.errors import ConfigError

OPTIONS = (  # the limits that `kamon serve --limit` can change
    *("threads", "waiting", "wait_seconds", "work_seconds", "learn_seconds", "connections"),
    *("streams", "jobs", "jobs_waiting", "jobs_paused", "pause_seconds", "jobs_kept", "sessions"),
)


@dataclass(frozen=True)
class Limits:
    """The limits of the server. Times are in seconds."""

    body_bytes: int = 256 << 10
    header_seconds: float = 10.0  # for the headers of a request, from its first byte
    body_seconds: float = 10.0
    idle_seconds: float = 30.0  # between two requests of a connection
    connections: int = 256
    streams: int = 96  # connections that stay open for events

    threads: int = 2  # threads that compute at the same time
    waiting: int = 96  # requests that may wait for a thread: more get 503
    wait_seconds: float = 30.0  # for which a request may wait for a thread
    slice_seconds: float = 0.1  # of computing, after which waiting requests get a turn
    work_seconds: float = 5.0  # for which a request may compute
    learn_seconds: float = 60.0  # for which a request may compute if a model learns answers

    samples: int = 10_000  # per request, also texts to score
    nearest: int = 500  # samples per request that asks for similar entries
    candidates: int = 200_000  # samples that a request may try until enough meet its conditions
    text_chars: int = 10_000
    panel_chars: int = 100  # of a text to trace: time grows with its square
    panel_products: int = 50_000_000  # of the scalar engine for a panel: 1 to 2 seconds
    ngram_bytes: int = 5_000_000  # of a list whose n-grams a panel counts
    completions: int = 100

    models: int = 64  # saved models
    jobs: int = 2  # trainings that run at the same time
    jobs_waiting: int = 40  # trainings in the queue: more get 429
    jobs_paused: int = 8
    pause_seconds: float = 600.0  # after which a paused training stops and keeps its model
    jobs_kept: int = 40  # finished trainings that stay in memory
    job_seconds: float = 120.0  # maximum budget
    job_steps: int = 100_000
    job_params: int = 2_000_000
    snapshots: int = 40  # per training
    snapshot_bytes: int = 12 << 20  # of all snapshots of a training, so a large model has fewer
    snapshots_open: int = 16  # open models of trainings: others are opened on use
    sessions: int = 64  # rating sessions
    answers: int = 2_000  # per session


def with_options(limits: Limits, options: Sequence[str]) -> Limits:
    """Return the limits with some of OPTIONS changed, or raise ConfigError.

    >>> with_options(Limits(), ["jobs=4", "work_seconds=2.5"]).jobs
    4
    """
    changed = {}
    for option in options:
        name, _, text = option.partition("=")
        if name not in OPTIONS:
            raise ConfigError(f"unknown limit {name!r}", f"choose from {', '.join(OPTIONS)}")
        kind = type(getattr(limits, name))
        try:
            changed[name] = kind(text)
        except ValueError:
            changed[name] = 0
        if not 0 < changed[name] <= 1_000_000:
            raise ConfigError(f"--limit {name} must be a number above 0, not {text!r}")
    return replace(limits, **changed)
