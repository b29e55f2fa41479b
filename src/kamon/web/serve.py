"""The server and the browser, from their start to their end."""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from kamon.web.routes.app import make_app
from kamon.web.server.address import Address
from kamon.web.server.protocol import LimitedProtocol
from kamon.web.services.playground import Playground

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SWITCH_SECONDS = 0.0005  # the server has its turn ten times as often beside what computes
END_SECONDS = 2  # for answers under way, once the server is to end; what computes has half of it


def serve(
    playground: Playground,
    where: Address,
    *,
    open_browser: bool = False,
    on_start: Callable[[], None] | None = None,
) -> None:
    """Serve until a signal ends it; trainings end with it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what clients do wrong is their affair
    once = secrets.token_hex(16) if where.token else None
    url = where.url.replace(f"={where.token}", f"={once}") if open_browser else None
    guard = {"anywhere": where.anywhere, "once": once if open_browser else None}
    config = uvicorn.Config(
        make_app(playground, where.hosts, where.token, **guard),
        http=LimitedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(playground.limits.idle_seconds),
        timeout_graceful_shutdown=END_SECONDS,
    )
    server = Server(config, playground, on_start, url)
    try:
        server.run([where.sock])
    finally:
        playground.jobs.close()
        playground.work.close()


class Server(uvicorn.Server):
    """Tells when it listens; lets streams of events end when it is to."""

    def __init__(
        self,
        config: uvicorn.Config,
        playground: Playground,
        on_start: Callable[[], None] | None,
        url: str | None,
    ) -> None:
        super().__init__(config)
        self.playground = playground
        self.on_start = on_start
        self.url = url

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """A signal is how a server ends, and no failure: it is not raised again afterwards."""
        before = {each: signal.signal(each, self.handle_exit) for each in SIGNALS}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.on_start:
            self.on_start()
        if self.url is not None:  # a browser may take seconds to come
            threading.Thread(target=webbrowser.open, args=(self.url,), daemon=True).start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.playground.jobs.end_streams()
        asyncio.get_running_loop().call_later(END_SECONDS / 2, self.playground.work.end)
        await super().shutdown(sockets)
