"""How a request reaches what the server has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request

from kamon.web.jobs import Jobs
from kamon.web.limits import Limits
from kamon.web.playground import Playground
from kamon.web.ratings import Ratings
from kamon.web.shelf import Shelf
from kamon.web.work import Stop

T = TypeVar("T")


class Asked:
    """A request's hold on the server: computes for it as long as its client is there."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.playground: Playground = request.app.state.playground
        self.limits: Limits = self.playground.limits
        self.shelf: Shelf = self.playground.shelf
        self.jobs: Jobs = self.playground.jobs
        self.ratings: Ratings = self.playground.ratings

    async def compute(
        self, function: Callable[[Stop], T], key: object = None, seconds: float | None = None
    ) -> T:
        """Return what `function` returns, in its turn; key, seconds: as of `Work.run`."""
        work, gone = self.playground.work, self.request.is_disconnected
        return await work.run(function, gone, key=key, seconds=seconds)


Ask = Annotated[Asked, Depends(Asked)]
