"""What the server lets anybody ask of it: all that a request can make grow has its end here."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from kamon.errors import ConfigError

OPTIONS = (  # that `kamon serve --limit` can change
    *("threads", "waiting", "wait_seconds", "work_seconds", "learn_seconds", "connections"),
    *("streams", "jobs", "jobs_waiting", "jobs_paused", "pause_seconds", "jobs_kept", "sessions"),
)


@dataclass(frozen=True)
class Limits:
    """Sizes in what their names say; times in seconds."""

    body_bytes: int = 256 << 10
    header_seconds: float = 10.0  # from the first byte of a request to the last of its headers
    body_seconds: float = 10.0
    idle_seconds: float = 30.0  # between two requests of a connection
    connections: int = 256
    streams: int = 96  # of them may stay open, for events

    threads: int = 2  # that compute
    waiting: int = 96  # requests that may wait for one of them; more are told to come back
    wait_seconds: float = 30.0  # that one may wait for its turn
    slice_seconds: float = 0.1  # that work computes before those who wait have their turn
    work_seconds: float = 5.0  # that a request may compute
    learn_seconds: float = 60.0  # and one that lets a model learn answers

    samples: int = 10_000  # of a request; and texts to score
    nearest: int = 500  # of them that are compared with the whole list
    candidates: int = 200_000  # drawn for them, where conditions let few through
    text_chars: int = 10_000
    panel_chars: int = 100  # of a text that is looked into, which costs the square of it
    panel_products: int = 30_000_000  # that the scalar engine makes for a panel: a second
    ngram_bytes: int = 5_000_000  # of a list that n-grams are counted of
    completions: int = 100

    models: int = 64  # that have a directory
    jobs: int = 2  # trainings at a time
    jobs_waiting: int = 40  # that wait for the end of another one; more are refused
    jobs_paused: int = 8  # that have given their place to another one
    pause_seconds: float = 600.0  # after which a paused training is stopped, and its model kept
    jobs_kept: int = 60
    job_seconds: float = 120.0  # the largest budget
    job_steps: int = 100_000
    job_params: int = 2_000_000
    snapshots: int = 40  # of a training, to go back to
    snapshot_bytes: int = 16 << 20  # all of a training's together: large models have fewer
    snapshots_open: int = 16  # of all trainings: the others are opened again when they are used
    sessions: int = 64  # of ratings
    answers: int = 2_000  # of a session


def with_options(limits: Limits, options: Sequence[str]) -> Limits:
    """Return the limits with some of OPTIONS changed. ConfigError for what is no limit.

    >>> with_options(Limits(), ["jobs=4", "work_seconds=2.5"]).jobs
    4
    """
    given = {}
    for option in options:
        name, _, text = option.partition("=")
        if name not in OPTIONS:
            raise ConfigError(f"there is no limit {name!r}: choose from {', '.join(OPTIONS)}")
        kind = type(getattr(limits, name))
        try:
            given[name] = kind(text)
        except ValueError:
            given[name] = 0
        if not 0 < given[name] <= 1_000_000:
            raise ConfigError(f"--limit {name} needs a number above 0, not {text!r}")
    return replace(limits, **given)
