"""What every request passes on its way in: whom it is for, who sends it, how much, how fast.

A page in the same browser can send requests to this address, and a name in the DNS can point to it
(rebinding): so Host must be exactly one of ours, and what writes must come from our own page, or
from no page at all.
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
NAME = re.compile(r"[\w.\[\]:-]{1,100}", re.ASCII)  # that a sentence may repeat
HEARD = 16  # times as much as a body may have is heard out
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
ASKING = POLICY.replace("form-action 'none'", "form-action 'self'").encode()
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
    """ASGI: passes on to `app` what may come in, with its body read, and answers the rest itself.

    hosts: what Host may be, in lower case, with the port. anywhere: also the address of this
    machine that a client has connected to. token: that each request must bring, as a cookie or as
    "Authorization: Bearer …", if there is one. once: opens the page instead, a single time; a
    browser gets it on its command line, which everybody on this machine can see.
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
        # Ports share cookies: each server has a name of its own, so that two can be open at once.
        self.cookie = f"{COOKIE}-{hashlib.sha256((token or '').encode()).hexdigest()[:8]}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name for name, _ in message["headers"]}
                more = [header for header in HEADERS if header[0] not in given]
                message["headers"] = [*message["headers"], *more]
            # A client that does not read its answer holds no connection for ever.
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
        """WebError 421 for what is for somebody else, 403 for what another page sends."""
        hosts = self.hosts | self.connected(scope) if self.anywhere else self.hosts
        found = [value.decode("latin-1").lower() for value in headers_of(scope, b"host")]
        if len(found) != 1 or found[0] not in hosts:
            raise WebError(421, other_host(found))
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
        """Return the address of this machine that the client has connected to, as a Host has it."""
        ip, port = scope.get("server") or ("", None)
        ip = ip.partition("%")[0].removeprefix("::ffff:")
        name = f"[{ip}]" if ":" in ip else ip
        return frozenset([f"{name}:{port}", *([name] if port == 80 else [])])

    def entrance(self, scope: Scope) -> Message | None:
        """To the page without its token, which is then in a cookie: it stays in no history."""
        if self.token is None or scope["method"] != "GET" or scope["path"] != "/":
            return None
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.pop("token", [])
        known = [each.encode() for each in (self.token, self.once) if each]
        if len(given) != 1 or not any(hmac.compare_digest(given[0].encode(), k) for k in known):
            return None
        if given[0] == self.once:
            self.once = None
        rest = urlencode(query, doseq=True)
        # Not Strict: a link in a mail or a chat would lead to a page that refuses itself.
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
        given = [
            value.decode("latin-1").removeprefix("Bearer ")
            for value in headers_of(scope, b"authorization")
        ]
        for value in headers_of(scope, b"cookie"):  # others' may look like anything
            for each in value.decode("latin-1").split(";"):
                name, _, content = each.strip().partition("=")
                if name == self.cookie:
                    given.append(content)
        if not any(hmac.compare_digest(each.encode(), self.token.encode()) for each in given):
            raise WebError(401, "this server wants a token: open the address that it printed")

    async def body(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body, counted as it comes. WebError 413, 415 or 408; None where the client
        went away.

        Somewhat more than is allowed is read, and dropped: who still sends hears no answer.
        """
        most, size = self.limits.body_bytes, 0
        too_large = WebError(413, f"a request may have {most // 1024} KB; this one has more")
        for value in headers_of(scope, b"content-length"):
            if value.isdigit() and int(value[:20]) > HEARD * most:
                raise too_large
        found = bytearray()
        try:
            async with asyncio.timeout(self.limits.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    part = message.get("body", b"")
                    size += len(part)
                    if size > HEARD * most:
                        raise too_large
                    if size <= most:
                        found += part
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise WebError(408, "the request took too long to come") from None
        if size > most:
            raise too_large
        kinds = headers_of(scope, b"content-type")
        if scope["method"] not in READS and (found or kinds):
            kind = kinds[0].split(b";")[0].strip().lower() if len(kinds) == 1 else b""
            if kind != b"application/json":
                raise WebError(415, "a request is JSON: say Content-Type: application/json")
        return bytes(found)


def headers_of(scope: Scope, name: bytes) -> list[bytes]:
    return [value for key, value in scope["headers"] if key == name]


def other_host(hosts: list[str]) -> str:
    """Return the sentence for a request that names these hosts."""
    if len(hosts) == 1 and NAME.fullmatch(hosts[0]):
        name = re.sub(r":[0-9]+$", "", hosts[0])
        return (
            f"this server does not answer to {hosts[0]}: open the address that `kamon serve` "
            f"printed, or start it with `--allow-host {name}`"
        )
    return "this server answers only to its own address: open the one that `kamon serve` printed"


async def ask_for_token(send: Send) -> None:
    """The page that a browser shows instead of an error."""
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(PAGE)).encode()),
        (b"content-security-policy", ASKING),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


async def refuse(send: Send, error: WebError, *more: tuple[bytes, bytes]) -> None:
    """The sentence as JSON; the connection is closed, since a body may be on its way."""
    body = json.dumps({"error": str(error)}).encode()
    headers: list[Any] = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        *more,
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
