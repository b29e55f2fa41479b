"""What a running server has: models, trainings, ratings, and threads that compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kamon.web.limits import Limits
from kamon.web.services.jobs import Jobs
from kamon.web.services.ratings import Ratings
from kamon.web.services.registry import ModelRegistry
from kamon.web.services.workers import WorkerPool


@dataclass
class Playground:
    limits: Limits
    shelf: ModelRegistry
    work: WorkerPool
    jobs: Jobs
    ratings: Ratings


def make_playground(folder: Path, limits: Limits) -> Playground:
    """folder: where models are saved."""
    shelf = ModelRegistry(folder, limits)
    return Playground(
        limits, shelf, WorkerPool(limits), Jobs(shelf, limits), Ratings(shelf, limits)
    )
