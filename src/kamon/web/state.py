"""What the parts of a running server share, and how a request reaches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from kamon.web.jobs import Jobs
from kamon.web.limits import Limits
from kamon.web.ratings import Ratings
from kamon.web.shelf import Shelf
from kamon.web.work import Stop, Work

T = TypeVar("T")


@dataclass
class Playground:
    limits: Limits
    shelf: Shelf
    work: Work
    jobs: Jobs
    ratings: Ratings


class Asked:
    """A request's hold on the server: computes for it as long as its client is there."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.playground: Playground = request.app.state.playground
        self.limits: Limits = self.playground.limits
        self.shelf: Shelf = self.playground.shelf
        self.jobs: Jobs = self.playground.jobs
        self.ratings: Ratings = self.playground.ratings

    async def compute(self, function: Callable[[Stop], T]) -> T:
        return await self.playground.work.run(function, self.request.is_disconnected)


Ask = Annotated[Asked, Depends(Asked)]
