"""Checks of every request: its Host, the page that sends it, its token, its size and its speed.

Any page in the same browser can send requests to this server, and any DNS name can point to it
(DNS rebinding). So Host must be one of ours, and requests that change something must come from our
page, or from no page.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import re
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kamon.web.errors import WebError
from kamon.web.limits import Limits

COOKIE = "kamon-token"
READS = {"GET", "HEAD"}
API = "/api/"
NAME = re.compile(r"[\w.\[\]:-]{1,100}", re.ASCII)  # of a host, that an error may repeat
READ_TO = 16  # times the largest body: so much is read before an error is sent
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FORM_POLICY = POLICY.replace("form-action 'none'", "form-action 'self'").encode()
PAGE = b"""<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Kamon</title>
<h1>Kamon</h1>
<p>Open the address that <code>kamon serve</code> printed, or give its token:</p>
<form action="/"><label>Token <input name="token" type="password" autocomplete="off" autofocus>
</label> <button>Open</button></form>
</html>
"""
HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


class RequestGuard:
    """An ASGI application that refuses bad requests, and reads the bodies of good ones for `app`.

    Args:
        hosts: what Host may be: lower case, with the port.
        anywhere: whether Host may also be the address that the client has connected to.
        token: that each request must have in a cookie or as "Authorization: Bearer …".
        once: opens the page a single time instead of the token. A browser gets it on its command
            line, which every user of this machine can see.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        hosts: frozenset[str],
        token: str | None = None,
        *,
        anywhere: bool = False,
        once: str | None = None,
    ) -> None:
        self.app = app
        self.limits = limits
        self.hosts = hosts
        self.token = token
        self.anywhere = anywhere
        self.once = once
        # Ports share cookies, so each server needs a name of its own.
        self.cookie = f"{COOKIE}-{hashlib.sha256((token or '').encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                more = [header for header in HEADERS if header[0] not in present]
                message["headers"] = [*message["headers"], *more]
            # Otherwise a client that does not read its answer would hold the connection for ever.
            async with asyncio.timeout(self.limits.idle_seconds):
                await send(message)

        try:
            self.check(scope)
            if (location := self.entrance(scope)) is not None:
                await answer(location)
                await answer({"type": "http.response.body", "body": b""})
                return
            self.check_token(scope)
            body = await self.body(scope, receive)
        except WebError as error:
            if error.status == 401 and scope["method"] == "GET" and scope["path"] == "/":
                await ask_for_token(answer)
            else:
                await refuse(answer, error)
            return
        if body is None:  # the client is gone
            return
        read = False

        async def again() -> Message:
            nonlocal read
            if read:
                return await receive()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            await self.app(scope, again, answer)
        except TimeoutError:
            return

    def check(self, scope: Scope) -> None:
        """WebError 421 for a wrong Host, 403 for a request of another page."""
        hosts = self.hosts | self.connected(scope) if self.anywhere else self.hosts
        named = [value.decode("latin-1").lower() for value in headers_of(scope, b"host")]
        if len(named) != 1 or named[0] not in hosts:
            raise WebError(421, other_host(named))
        if not scope["path"].startswith("/"):
            raise WebError(400, "a path begins with /")
        if scope["method"] in READS and not scope["path"].startswith(API):
            return
        origins = [value.decode("latin-1") for value in headers_of(scope, b"origin")]
        if origins and origins not in [[f"http://{host}"] for host in hosts]:
            raise WebError(403, "another page may not use this server")
        for site in headers_of(scope, b"sec-fetch-site"):
            if site not in (b"same-origin", b"none"):
                raise WebError(403, "another page may not use this server")

    @staticmethod
    def connected(scope: Scope) -> frozenset[str]:
        """Return the address that the client has connected to, in the form of a Host."""
        ip, port = scope.get("server") or ("", None)
        ip = ip.partition("%")[0].removeprefix("::ffff:")
        name = f"[{ip}]" if ":" in ip else ip
        return frozenset([f"{name}:{port}", *([name] if port == 80 else [])])

    def entrance(self, scope: Scope) -> Message | None:
        """A redirect to the page without the token, if the address has it. It is then in a cookie,
        and not in the browser's history."""
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
        # Not Strict: then a link in a mail or a chat would not open the page.
        cookie = f"{self.cookie}={self.token}; HttpOnly; SameSite=Lax; Path=/"
        return {
            "type": "http.response.start",
            "status": 303,
            "headers": [
                (b"location", f"/?{rest}".encode() if rest else b"/"),
                (b"set-cookie", cookie.encode()),
                (b"content-length", b"0"),
            ],
        }

    def check_token(self, scope: Scope) -> None:
        if self.token is None:
            return
        tokens = [
            value.decode("latin-1").removeprefix("Bearer ")
            for value in headers_of(scope, b"authorization")
        ]
        for value in headers_of(scope, b"cookie"):  # too odd for a parser, if others set some
            for cookie in value.decode("latin-1").split(";"):
                name, _, content = cookie.strip().partition("=")
                if name == self.cookie:
                    tokens.append(content)
        if not any(hmac.compare_digest(token.encode(), self.token.encode()) for token in tokens):
            raise WebError(401, "this server wants a token: open the address that it printed")

    async def body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the client went away.

        More than the maximum is read and dropped, because a client that still sends does not read
        the error.

        Raises:
            WebError: 413 if it is too large, 408 if it is too slow, 415 if it is not JSON.
        """
        max_size, size = self.limits.body_bytes, 0
        too_large = WebError(413, f"a request may have {max_size // 1024} KB; this one has more")
        for value in headers_of(scope, b"content-length"):
            if value.isdigit() and int(value[:20]) > READ_TO * max_size:
                raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > READ_TO * max_size:
                        raise too_large
                    if size <= max_size:
                        body += part
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise WebError(408, "the request took too long to come") from None
        if size > max_size:
            raise too_large
        kinds = headers_of(scope, b"content-type")
        if scope["method"] not in READS and (body or kinds):
            kind = kinds[0].split(b";")[0].strip().lower() if len(kinds) == 1 else b""
            if kind != b"application/json":
                raise WebError(415, "a request is JSON: say Content-Type: application/json")
        return bytes(body)


def headers_of(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def other_host(hosts: list[str]) -> str:
    """Return the error for a request with these hosts."""
    if len(hosts) == 1 and NAME.fullmatch(hosts[0]):
        name = re.sub(r":[0-9]+$", "", hosts[0])
        return (
            f"this server does not answer to {hosts[0]}: open the address that `kamon serve` "
            f"printed, or start it with `--allow-host {name}`"
        )
    return "this server answers only to its own address: open the one that `kamon serve` printed"


async def ask_for_token(send: Send) -> None:
    """Answer with a page that has a field for the token."""
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(PAGE)).encode()),
        (b"content-security-policy", FORM_POLICY),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


async def refuse(send: Send, error: WebError, *more: tuple[bytes, bytes]) -> None:
    """Answer with the error as JSON, and close the connection: a body may follow."""
    body = json.dumps({"error": str(error)}).encode()
    headers: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *more,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
