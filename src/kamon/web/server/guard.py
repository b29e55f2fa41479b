"""Check the Host, origin, token, size and speed of every request.

Any page in the same browser can send requests to this server, and any DNS name can point to it
(DNS rebinding). So Host must be one of ours. A request that changes something must come from our
page or from a program, not from another page.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import kamon.web
from kamon.web.errors import WebError, one_line
from kamon.web.limits import Limits

MAX_ERROR = 2000  # characters
COOKIE = "kamon-token"
READS = {"GET", "HEAD"}
API = "/api/"
NAME = re.compile(r"[\w.\[\]:-]{1,100}", re.ASCII)  # of a host that an error message may repeat
READ_TO = 16  # times the largest body: maximum to read before sending an error
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FORM_POLICY = POLICY.replace("form-action 'none'", "form-action 'self'")
TOKEN_PAGE = HTMLResponse(
    (Path(kamon.web.__file__).parent / "static" / "token.html").read_bytes(),
    401,
    {"content-security-policy": FORM_POLICY, "cache-control": "no-store"},
)
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


@dataclass(eq=False)
class RequestGuard:
    """An ASGI application that refuses bad requests, and reads the bodies of good ones for `app`.

    Attributes:
        hosts: allowed values of Host, in lower case, with the port.
        anywhere: whether Host may also be the address that the client connected to.
        token: each request must have it in a cookie or as "Authorization: Bearer …".
        once: replaces the token for opening the page, but only once. Kamon passes it to the browser
            on a command line, which every user of this machine can see.
    """

    app: ASGIApp
    limits: Limits
    hosts: frozenset[str]
    token: str | None = None
    _: KW_ONLY
    anywhere: bool = False
    once: str | None = None

    def __post_init__(self) -> None:
        # Ports share cookies, so each server needs its own name for the cookie.
        self.cookie = f"{COOKIE}-{hashlib.sha256((self.token or '').encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                more = [header for header in HEADERS if header[0] not in present]
                message["headers"] = [*message["headers"], *more]
            # Otherwise a client that does not read its answer would keep its connection.
            async with asyncio.timeout(self.limits.idle_seconds):
                await send(message)

        body = None
        try:
            self.check(scope)
            response = self.entrance(scope)
            if response is None:
                self.check_token(scope)
                body = await self.body(scope, receive)
        except WebError as error:
            at_page = error.status == 401 and scope["method"] == "GET" and scope["path"] == "/"
            response = TOKEN_PAGE if at_page else refusal(error)
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return messages.pop() if messages else await receive()

        with suppress(TimeoutError):
            if response:
                await response(scope, receive, answer)
            elif body is not None:  # None: the client has disconnected
                await self.app(scope, again, answer)

    def check(self, scope: Scope) -> None:
        """Raise WebError 421 for a wrong Host, 403 for a request from another page."""
        hosts = self.hosts | self.connected(scope) if self.anywhere else self.hosts
        headers = Headers(scope=scope)
        named = [host.lower() for host in headers.getlist("host")]
        if len(named) != 1 or named[0] not in hosts:
            raise WebError(421, other_host(named))
        if not scope["path"].startswith("/"):
            raise WebError(400, "the path must begin with /")
        if scope["method"] in READS and not scope["path"].startswith(API):
            return
        origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
        ours = not origins or origins in [[f"http://{host}"] for host in hosts]
        if not ours or not {"same-origin", "none"}.issuperset(sites):
            raise WebError(403, "other websites may not use this server")

    @staticmethod
    def connected(scope: Scope) -> frozenset[str]:
        """Return the address that the client connected to, in the form of a Host."""
        ip, port = scope.get("server") or ("", None)
        ip = ip.partition("%")[0].removeprefix("::ffff:")
        name = f"[{ip}]" if ":" in ip else ip
        return frozenset([f"{name}:{port}", *([name] if port == 80 else [])])

    def entrance(self, scope: Scope) -> Response | None:
        """Return a redirect to the page without the token, if the address has it. This moves the
        token from the browser's history to a cookie."""
        if self.token is None or scope["method"] != "GET" or scope["path"] != "/":
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        tokens = query.pop("token", [])
        valid = [token.encode() for token in (self.token, self.once) if token]
        if len(tokens) != 1 or not any(hmac.compare_digest(tokens[0].encode(), v) for v in valid):
            return None
        if tokens[0] == self.once:
            self.once = None
        rest = urlencode(query, doseq=True)
        # Not Strict, because a link in a mail or a chat would then not open the page.
        cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
        return RedirectResponse(f"/?{rest}" if rest else "/", 303, {"set-cookie": cookie})

    def check_token(self, scope: Scope) -> None:
        if self.token is None:
            return
        headers = Headers(scope=scope)
        tokens = [value.removeprefix("Bearer ") for value in headers.getlist("authorization")]
        # The parser may fail on cookies of other servers.
        for cookie in ";".join(headers.getlist("cookie")).split(";"):
            name, _, content = cookie.strip().partition("=")
            if name == self.cookie:
                tokens.append(content)
        if not any(hmac.compare_digest(token.encode(), self.token.encode()) for token in tokens):
            raise WebError(
                401, "this server needs a token", "open the address that `kamon serve` printed"
            )

    async def body(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the whole body, or None if the client disconnected.

        It also reads a body that is too large, and drops it, because a client that is still sending
        does not read the error.

        Raises:
            WebError: 413 if the body is too large, 408 if it is too slow, 415 if it is not JSON.
        """
        max_size, size = self.limits.body_bytes, 0
        too_large = WebError(413, f"the request is larger than {max_size // 1024} KB, the limit")
        headers = Headers(scope=scope)
        for value in headers.getlist("content-length"):
            if value.isdecimal() and int(value[:20]) > READ_TO * max_size:
                raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                async for part in Request(scope, receive).stream():
                    size += len(part)
                    if size > READ_TO * max_size:
                        raise too_large
                    if size <= max_size:
                        body += part
        except ClientDisconnect:
            return None
        except TimeoutError:
            raise WebError(408, "the request took too long to arrive") from None
        if size > max_size:
            raise too_large
        kinds = headers.getlist("content-type")
        kinds = [kind.split(";")[0].strip(" \t").lower() for kind in kinds]
        is_json = kinds == ["application/json"]
        if scope["method"] not in READS and (body or kinds) and not is_json:
            raise WebError(
                415, "the request is not JSON", "send the header Content-Type: application/json"
            )
        return bytes(body)


def other_host(hosts: list[str]) -> str:
    """Return the error message for a request with these values of Host."""
    if len(hosts) == 1 and NAME.fullmatch(hosts[0]):
        name = re.sub(r":[0-9]+$", "", hosts[0])
        return (
            f"this server does not answer to {hosts[0]}: open the address that `kamon serve` "
            f"printed, or start it with `--allow-host {name}`"
        )
    return "this server answers only to its own address: open the one that `kamon serve` printed"


def problem(status: int, text: str) -> JSONResponse:
    """Return the answer for an error."""
    headers = {"retry-after": "1"} if status in (429, 503) else {}
    return JSONResponse({"error": text[:MAX_ERROR]}, status, headers)


def refusal(error: WebError) -> JSONResponse:
    """Return an error and close the connection, because an unread body may follow."""
    answer = problem(error.status, one_line(error))
    answer.headers["connection"] = "close"
    return answer
