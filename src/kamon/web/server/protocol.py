"""Connections: how many there may be, and how long one may take to say what it wants."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import h11
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from kamon.web.errors import WebError
from kamon.web.limits import Limits
from kamon.web.server.guard import refuse

PATIENCE = 0.5  # seconds that a connection may be silent while others wait for its place
REFUSED_AT_ONCE = 4  # times as many connections get an answer; beyond, they are only closed


def protocol_class(limits: Limits) -> type[H11Protocol]:
    """The protocol of uvicorn, with these limits."""

    class Protocol(H11Protocol):
        """A connection that has said or read too little for too long makes room for another one.

        silent: since when it owes us something: a request, the rest of one, or to read its answer.
        """

        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self.timer: asyncio.TimerHandle | None = None
            self.silent = 0.0

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.silent = self.loop.time()
            self.wait(limits.header_seconds)
            if len(self.connections) <= limits.connections:
                return
            others = [each for each in self.connections if isinstance(each, Protocol)]
            slow = [each for each in others if each.owes and self.silent - each.silent >= PATIENCE]
            if slow:
                min(slow, key=lambda each: each.silent).transport.abort()
            elif len(self.connections) > REFUSED_AT_ONCE * limits.connections:
                transport.abort()
            else:
                self.app = no_room
                self.wait(PATIENCE)

        @property
        def owes(self) -> bool:
            """Whether it is the client's turn to send or to read something."""
            cycle = self.cycle
            if cycle is None or cycle.response_complete or cycle.more_body:
                return True
            return self.flow.write_paused

        @property
        def in_headers(self) -> bool:
            return self.cycle is None or self.cycle.response_complete

        def data_received(self, data: bytes) -> None:
            if self.in_headers and self.timer is None:  # the first byte of one more request
                self.silent = self.loop.time()
                self.wait(limits.header_seconds)
            super().data_received(data)
            if not self.in_headers:
                self.wait(None)

        def on_response_complete(self) -> None:
            self.silent = self.loop.time()
            if self.conn.trailing_data[0]:  # a beginning of the next request came with the last
                self.wait(limits.header_seconds)
            super().on_response_complete()

        def pause_writing(self) -> None:
            self.silent = self.loop.time()
            super().pause_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self.wait(None)
            super().connection_lost(exc)

        def wait(self, seconds: float | None) -> None:
            if self.timer is not None:
                self.timer.cancel()
            self.timer = None if seconds is None else self.loop.call_later(seconds, self.late)

        def late(self) -> None:
            if self.in_headers and self.transport is not None:
                self.transport.abort()

        def send_400_response(self, msg: str) -> None:
            """As our other errors; several Host headers, or none, are no address of ours."""
            status, reason = 400, b"Bad Request"
            if "Host:" in str(sys.exception()):
                status, reason, msg = 421, b"Misdirected Request", "a request has one Host header"
            body = json.dumps({"error": msg}).encode()
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                (b"connection", b"close"),
            ]
            try:
                for event in (
                    h11.Response(status_code=status, headers=headers, reason=reason),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            except h11.LocalProtocolError:  # in the middle of an answer there is no other one
                pass
            self.transport.close()

    return Protocol


async def no_room(_scope: Scope, _receive: Receive, send: Send) -> None:
    error = WebError(503, "too many connections are open: try again in a second")
    await refuse(send, error, (b"retry-after", b"1"))
