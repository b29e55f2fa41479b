"""The application: routes, the files of the page, and the answers to errors."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.routing import Match
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from kamon._version import __version__
from kamon.errors import KamonError, StoreError
from kamon.web.errors import WebError, one_line
from kamon.web.routes import inside, jobs, models, preferences
from kamon.web.server.guard import RequestGuard, problem
from kamon.web.services.playground import Playground
from kamon.web.services.workers import Stopped

FOLDERS = re.compile(
    r"(?<![^\s'\"`(])(?:[A-Za-z]:)?[/\\](?:[^/\\:\n]*[/\\])*"
)  # of an absolute path


class Problem(BaseModel):
    """An error message in one sentence."""

    error: str


class Health(BaseModel):
    status: str
    version: str


class Allowed(BaseModel):
    """limits: see `Limits`. settings: the maximum value of each setting of a training."""

    limits: dict[str, float]
    settings: dict[str, float]


def make_app(
    playground: Playground, hosts: frozenset[str], token: str | None = None, **options: Any
) -> ASGIApp:
    """Return the ASGI application. hosts, token, options: see `RequestGuard`."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem}
        for status in (400, 401, 403, 404, 409, 410, 413, 415, 421, 422, 429, 503)
    }
    app = FastAPI(
        title="Kamon",
        version=__version__,
        description="Train a tiny GPT on a list, generate with it, score texts, and rate names",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # its page would load scripts from other servers
        redoc_url=None,
        redirect_slashes=False,
        responses=problems,
    )
    app.state.playground = playground
    for api in (models, jobs, inside, preferences):
        app.include_router(api.router, prefix="/api/v1")

    @app.get("/health", tags=["server"])
    async def health() -> Health:
        """Check that the server is running."""
        return Health(status="ok", version=__version__)

    @app.get("/api/v1/limits", tags=["server"])
    async def limits() -> Allowed:
        """Return the limits of requests."""
        return Allowed(limits=asdict(playground.limits), settings=jobs.largest_settings())

    page = Page(packages=[("kamon.web", "static")])
    app.mount("/static", GZipMiddleware(page))

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def index(request: Request) -> Response:
        return await page.get_response("index.html", request.scope)

    for kind in (WebError, KamonError, RequestValidationError, HTTPException, Stopped, Exception):
        app.add_exception_handler(kind, answer_error)
    return RequestGuard(app, playground.limits, hosts, token, **options)


class Page(StaticFiles):
    """The files of the page. The browser checks each time whether they have changed."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["cache-control"] = "no-cache"
        return response


# ---- errors


async def answer_error(request: Request, error: Exception) -> Response:
    """Return the answer to a request that raised an error."""
    match error:
        case WebError():
            return problem(error.status, one_line(error))
        case StoreError():  # for example, a directory that exists or cannot be written
            return problem(409, FOLDERS.sub("", one_line(error)))
        case KamonError():
            return problem(422, one_line(error))
        case RequestValidationError():
            return problem(422, sentence(error.errors()))
        case HTTPException():
            return answer_http_error(request, error)
        case Stopped():  # the client is gone
            return Response(status_code=499)
    # Starlette raises the error again after the answer, so that it appears in the terminal.
    return problem(500, "internal error: see the terminal that runs `kamon serve`")


def sentence(problems: Sequence[Any]) -> str:
    """Return the first problem as a sentence that names its place.

    >>> sentence([{"loc": ("body", "n"), "msg": "Input should be less than or equal to 10"}])
    'n: Input should be less than or equal to 10'
    """
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "path", "query"))
    return f"{where[:200]}: {first['msg']}" if where else str(first["msg"])


def answer_http_error(request: Request, error: HTTPException) -> Response:
    text = {
        400: "the request's body is not valid JSON",
        404: "no such address",
        405: "this address needs another method",
    }.get(error.status_code, str(error.detail))
    answer = problem(error.status_code, text)
    if error.status_code == 405:  # Starlette lists only the methods of one route of an address
        routes, methods = request.app.routes, []
        for method in ("DELETE", "GET", "HEAD", "POST"):
            scope = {**request.scope, "method": method}
            if any(route.matches(scope)[0] == Match.FULL for route in routes):
                methods.append(method)
        answer.headers["allow"] = ", ".join(methods)
    return answer
