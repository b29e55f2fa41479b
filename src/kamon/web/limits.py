"""What the server lets anybody ask of it: all that a request can make grow has its end here."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Sizes in what their names say; times in seconds."""

    body_bytes: int = 256 << 10
    header_seconds: float = 10.0  # from the first byte of a request to the last of its headers
    body_seconds: float = 10.0
    idle_seconds: float = 30.0  # between two requests of a connection
    connections: int = 64
    streams: int = 16  # of them may stay open, for events

    threads: int = 2  # that compute
    waiting: int = 32  # requests that may wait for one of them; more are told to come back
    wait_seconds: float = 0.75  # that one may wait for its turn

    samples: int = 10_000  # of a request; and texts to score
    nearest: int = 500  # of them that are compared with the whole list
    candidates: int = 200_000  # drawn for them, where conditions let few through
    text_chars: int = 10_000
    panel_chars: int = 100  # of a text that is looked into, which costs the square of it
    panel_products: int = 60_000_000  # that the scalar engine makes for a panel: some seconds
    ngram_bytes: int = 5_000_000  # of a list that n-grams are counted of
    completions: int = 100

    models: int = 64  # that have a directory
    jobs: int = 2  # trainings at a time
    jobs_kept: int = 20
    job_seconds: float = 120.0  # the largest budget
    job_steps: int = 100_000
    job_params: int = 2_000_000
    snapshots: int = 40  # of a training, to go back to
    snapshot_bytes: int = 32 << 20  # all of a training's together: large models have fewer
    snapshots_open: int = 16  # of all trainings: the others are opened again when they are used
    sessions: int = 16  # of ratings
    answers: int = 2_000  # of a session
