"""The limits of the server: everything that requests can make grow has a maximum here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kamon.errors import ConfigError

OPTIONS = (  # limits that `kamon serve --limit` can change
    *("threads", "waiting", "wait_seconds", "work_seconds", "learn_seconds", "connections"),
    *("streams", "jobs", "jobs_waiting", "jobs_paused", "pause_seconds", "jobs_kept", "sessions"),
)


@dataclass(frozen=True)
class Limits:
    """Times are in seconds."""

    body_bytes: int = 256 << 10
    header_seconds: float = 10.0  # from the first byte of a request to the last of its headers
    body_seconds: float = 10.0
    idle_seconds: float = 30.0  # between two requests of a connection
    connections: int = 256
    streams: int = 96  # connections that stay open for events

    threads: int = 2  # that compute at the same time
    waiting: int = 96  # requests that may wait for a thread; others get 503
    wait_seconds: float = 30.0  # that a request may wait for its turn
    slice_seconds: float = 0.1  # that a request computes before waiting ones have their turn
    work_seconds: float = 5.0  # that a request may compute
    learn_seconds: float = 60.0  # that a request may compute if a model learns answers

    samples: int = 10_000  # of a request; also texts to score
    nearest: int = 500  # samples of a request that asks for similar entries
    candidates: int = 200_000  # samples that a request may draw until enough meet its conditions
    text_chars: int = 10_000
    panel_chars: int = 100  # of a text to trace, which takes time with its square
    panel_products: int = 50_000_000  # of the scalar engine for a panel: one or two seconds
    ngram_bytes: int = 5_000_000  # of a list for which n-grams are counted
    completions: int = 100

    models: int = 64  # with a directory
    jobs: int = 2  # trainings that run at the same time
    jobs_waiting: int = 40  # trainings in the queue; more get 429
    jobs_paused: int = 8
    pause_seconds: float = 600.0  # after which a paused training is stopped, and its model kept
    jobs_kept: int = 40  # trainings that are over, but not forgotten
    job_seconds: float = 120.0  # of a budget
    job_steps: int = 100_000
    job_params: int = 2_000_000
    snapshots: int = 40  # of a training
    snapshot_bytes: int = 12 << 20  # of all snapshots of a training: large models have fewer
    snapshots_open: int = 16  # and results of trainings; others are opened when they are used
    sessions: int = 64  # of ratings
    answers: int = 2_000  # of a session


def with_options(limits: Limits, options: Sequence[str]) -> Limits:
    """Return the limits with some of OPTIONS changed. ConfigError for an unknown or bad limit.

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
