"""Limits of connections: how many there are, and how long each can take to send a request.

uvicorn has no options for these limits. It has no time limit for the headers of a request. So a few
hundred incomplete requests would use up `limit_concurrency` and block the server.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from kamon.web.errors import WebError
from kamon.web.server.guard import RequestGuard, refusal

MIN_SILENCE = 0.5  # seconds without a byte after which Kamon may close a connection
REFUSED_AT_ONCE = 4  # times the limit: Kamon closes more connections without an answer
NO_ROOM = refusal(WebError(503, "too many connections are open: try again in a second"))


class LimitedProtocol(H11Protocol):
    """A connection with the limits of the application, which is a `RequestGuard`.

    Kamon closes a connection that waits long for its client when it needs room for a new one.

    Attributes:
        silent_since: time at which it started to wait for the client to send or to read.
        timer: closes the connection if the headers of a request are not complete in time.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        assert isinstance(self.app, RequestGuard)
        self.limits = self.app.limits
        self.timer: asyncio.TimerHandle | None = None
        self.silent_since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.expect_request()
        if len(self.connections) <= self.limits.connections:
            return
        now = self.loop.time()
        others = [other for other in self.connections if isinstance(other, LimitedProtocol)]
        longest = min(others, key=lambda other: other.silent_since if other.waits else now)
        if longest.waits and now - longest.silent_since >= MIN_SILENCE:
            longest.transport.abort()
        elif len(self.connections) > REFUSED_AT_ONCE * self.limits.connections:
            transport.abort()
        else:
            self.app = NO_ROOM
            self.set_timer(MIN_SILENCE)

    @property
    def between_requests(self) -> bool:
        """Return True if the headers of the next request are not complete."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def waits(self) -> bool:
        """Return True if the server waits for the client to send or to read."""
        return self.between_requests or self.cycle.more_body or self.flow.write_paused

    def data_received(self, data: bytes) -> None:
        if self.between_requests and self.timer is None:  # the first byte of the next request
            self.expect_request()
        super().data_received(data)
        if not self.between_requests:
            self.set_timer(None)

    def on_response_complete(self) -> None:
        self.silent_since = self.loop.time()
        if self.conn.trailing_data[0]:  # the next request started in the same packet
            self.expect_request()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self.silent_since = self.loop.time()
        super().pause_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self.set_timer(None)
        super().connection_lost(exc)

    def expect_request(self) -> None:
        self.silent_since = self.loop.time()
        self.set_timer(self.limits.header_seconds)

    def set_timer(self, seconds: float | None) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer = None if seconds is None else self.loop.call_later(seconds, self.end_headers)

    def end_headers(self) -> None:
        if self.between_requests and self.transport is not None:
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """Answer in JSON like other errors. The status is 421 without exactly one Host header."""
        status = 400
        if "Host:" in str(sys.exception()):
            status, msg = 421, "a request needs exactly one Host header"
        answer, reason = refusal(WebError(status, msg)), HTTPStatus(status).phrase.encode()
        head = h11.Response(status_code=status, headers=answer.raw_headers, reason=reason)
        with suppress(h11.LocalProtocolError):  # an answer has already started
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
