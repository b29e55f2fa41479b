"""What a running server has: models, trainings, ratings, and threads that compute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kamon.web.jobs import Jobs
from kamon.web.limits import Limits
from kamon.web.ratings import Ratings
from kamon.web.shelf import Shelf
from kamon.web.work import Work


@dataclass
class Playground:
    limits: Limits
    shelf: Shelf
    work: Work
    jobs: Jobs
    ratings: Ratings


def make_playground(folder: Path, limits: Limits) -> Playground:
    """folder: where models are saved."""
    shelf = Shelf(folder, limits)
    return Playground(limits, shelf, Work(limits), Jobs(shelf, limits), Ratings(shelf, limits))
