"""Everything that a running server shares between requests."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from kamon.web.limits import Limits
from kamon.web.services.jobs import Jobs
from kamon.web.services.ratings import Ratings
from kamon.web.services.registry import ModelRegistry
from kamon.web.services.workers import WorkerPool
from kamon.web.views.panels import NgramCache


@dataclass
class Playground:
    limits: Limits
    registry: ModelRegistry
    work: WorkerPool
    jobs: Jobs
    ratings: Ratings
    ngrams: NgramCache = field(default_factory=NgramCache)


def make_playground(folder: Path, limits: Limits) -> Playground:
    """The state of a server that saves models to `folder`."""
    registry = ModelRegistry(folder, limits)
    return Playground(
        limits, registry, WorkerPool(limits), Jobs(registry, limits), Ratings(registry, limits)
    )
