"""The state that a running server shares between requests."""

from __future__ import annotations

from pathlib import Path

from kamon.web.limits import Limits
from kamon.web.services.jobs import Jobs
from kamon.web.services.ratings import Ratings
from kamon.web.services.registry import ModelRegistry
from kamon.web.services.workers import WorkerPool
from kamon.web.views.panels import NgramCache


class Playground:
    """The state of a server that saves models to `folder`."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.limits = limits
        self.registry = ModelRegistry(folder, limits)
        self.work = WorkerPool(limits)
        self.jobs = Jobs(self.registry, limits)
        self.ratings = Ratings(self.registry, limits)
        self.ngrams = NgramCache()
