"""The application: routes, the files of the page, and one form for whatever goes wrong."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import ASGIApp

from kamon._version import __version__
from kamon.errors import KamonError, StoreError
from kamon.web import api_inside, api_jobs, api_models, api_preferences
from kamon.web.errors import WebError
from kamon.web.guard import Guard
from kamon.web.playground import Playground
from kamon.web.work import Stopped

LONGEST = 2000  # characters of what a client is told
FOLDERS = re.compile(r"(?<![^\s'\"`(])(?:[A-Za-z]:)?[/\\](?:[^/\\:\n]*[/\\])*")  # of a whole path
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
    "png": "image/png",
}
LEAST_TO_PACK = 1000  # bytes of a file that is worth compressing


class Problem(BaseModel):
    """What went wrong, in one sentence."""

    error: str


class Health(BaseModel):
    status: str
    version: str


@dataclass(frozen=True)
class File:
    content: bytes
    packed: bytes | None
    media_type: str
    etag: str


class Allowed(BaseModel):
    """limits: of the server, by their names; settings: the largest value of each setting of a
    training."""

    limits: dict[str, float]
    settings: dict[str, float]


def make_app(
    playground: Playground, hosts: frozenset[str], token: str | None = None, **how: Any
) -> ASGIApp:
    """hosts: what requests may name as their Host; token: what each must bring, if there is one.
    how: the other arguments of Guard."""
    problems: dict[int | str, dict[str, Any]] = {
        status: {"model": Problem}
        for status in (400, 401, 403, 404, 409, 410, 413, 415, 421, 422, 429, 503)
    }
    app = FastAPI(
        title="Kamon",
        version=__version__,
        description="Names from a tiny GPT: samples, completions, scores, training, and your taste",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # it loads its scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        responses=problems,
    )
    app.state.playground = playground
    for api in (api_models, api_jobs, api_inside, api_preferences):
        app.include_router(api.router, prefix="/api/v1")

    @app.get("/health", tags=["server"])
    async def health() -> Health:
        """Whether the server is there."""
        return Health(status="ok", version=__version__)

    @app.get("/api/v1/limits", tags=["server"])
    async def limits() -> Allowed:
        """How much a request may ask for."""
        return Allowed(limits=asdict(playground.limits), settings=api_jobs.largest_settings())

    for name, file in page_files().items():
        for path in (f"/static/{name}", *(["/"] if name == "index.html" else [])):
            app.add_api_route(path, serving(file), methods=["GET", "HEAD"], include_in_schema=False)

    app.add_exception_handler(WebError, tell_web_error)
    app.add_exception_handler(KamonError, tell_kamon_error)
    app.add_exception_handler(RequestValidationError, tell_invalid)
    app.add_exception_handler(HTTPException, tell_http_error)
    app.add_exception_handler(Stopped, tell_nobody)
    app.add_exception_handler(Exception, tell_bug)
    return Guard(app, playground.limits, hosts, token, **how)


def page_files() -> dict[str, File]:
    found = {}
    for each in files("kamon.web").joinpath("static").iterdir():
        kind = TYPES.get(each.name.rpartition(".")[2])
        if kind is not None:
            content = each.read_bytes()
            packed = gzip.compress(content, mtime=0) if len(content) >= LEAST_TO_PACK else None
            etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
            found[each.name] = File(content, packed, kind, etag)
    return found


def serving(file: File) -> Any:
    async def serve(request: Request) -> Response:
        headers = {"etag": file.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
        if request.headers.get("if-none-match") == file.etag:
            return Response(status_code=304, headers=headers)
        content = file.content
        if file.packed is not None and "gzip" in request.headers.get("accept-encoding", ""):
            content = file.packed
            headers["content-encoding"] = "gzip"
        return Response(content, media_type=file.media_type, headers=headers)

    return serve


# ---- what went wrong


def told(status: int, text: str) -> JSONResponse:
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return JSONResponse({"error": text[:LONGEST]}, status, headers)


async def tell_web_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, WebError)
    return told(error.status, str(error))


async def tell_kamon_error(_: Request, error: Exception) -> Response:
    """What a client can change is 422; a directory that is taken or cannot be written is 409."""
    if isinstance(error, StoreError):
        return told(409, FOLDERS.sub("", str(error)))
    return told(422, str(error))


async def tell_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return told(422, sentence(error.errors()))


def sentence(problems: Sequence[Any]) -> str:
    """The first of them: where, and what.

    >>> sentence([{"loc": ("body", "n"), "msg": "Input should be less than or equal to 10"}])
    'n: Input should be less than or equal to 10'
    """
    first = problems[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "path", "query"))
    return f"{where[:200]}: {first['msg']}" if where else str(first["msg"])


async def tell_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    text = {
        400: "the request's body is no JSON that can be read",
        404: "there is nothing at this address",
        405: "this address takes another method",
    }.get(error.status_code, str(error.detail))
    answer = told(error.status_code, text)
    if error.status_code == 405:
        answer.headers["allow"] = ", ".join(methods_of(request))
    return answer


def methods_of(request: Request) -> list[str]:
    """What the address takes: each of its routes knows only its own."""
    return [
        method
        for method in ("DELETE", "GET", "HEAD", "POST")
        if any(
            route.matches({**request.scope, "method": method})[0] == Match.FULL
            for route in request.app.routes
        )
    ]


async def tell_nobody(_request: Request, _error: Exception) -> Response:
    return Response(status_code=499)  # the client is gone


async def tell_bug(_request: Request, _error: Exception) -> Response:
    """Which is raised on behind the answer, and so shown where the server was started."""
    return told(500, "the server made a mistake: where it was started stands what happened")
