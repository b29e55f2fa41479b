"""The base class of requests, and the access of routes to the server's state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar

from fastapi import Depends, Request
from pydantic import BaseModel, ConfigDict

from kamon.model import Model
from kamon.web.limits import Limits
from kamon.web.services.jobs import Jobs
from kamon.web.services.playground import Playground
from kamon.web.services.ratings import Ratings
from kamon.web.services.registry import Entry, ModelRegistry
from kamon.web.services.workers import Stop

T = TypeVar("T")


class ApiModel(BaseModel):
    """The body of a request. It refuses unknown names, and "1" for a number."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class RequestContext:
    """The server's state, for one request. Work stops if the client disconnects."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.playground: Playground = request.app.state.playground
        self.limits: Limits = self.playground.limits
        self.registry: ModelRegistry = self.playground.registry
        self.jobs: Jobs = self.playground.jobs
        self.ratings: Ratings = self.playground.ratings

    async def compute(
        self, function: Callable[[Stop], T], key: object = None, seconds: float | None = None
    ) -> T:
        """Return the result of `function`. key, seconds: see `WorkerPool.run`."""
        work, gone = self.playground.work, self.request.is_disconnected
        return await work.run(function, gone, key=key, seconds=seconds)

    async def use(self, id: str, function: Callable[[Model, Entry, Stop], T]) -> T:
        """Return the result of `function`, which has the model of this id to itself."""
        entry = self.registry.get(id)

        def compute(stop: Stop) -> T:
            with entry.use(stop) as model:
                return function(model, entry, stop)

        return await self.compute(compute, entry)


Context = Annotated[RequestContext, Depends(RequestContext)]
