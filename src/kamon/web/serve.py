"""Run the server and open the page in a browser."""

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
SWITCH_SECONDS = 0.0005  # a tenth of the default, so that computing threads delay the server less
END_SECONDS = 2  # to finish answers at the end. Computing threads get half of it


def serve(
    playground: Playground,
    address: Address,
    *,
    open_browser: bool = False,
    on_start: Callable[[], None] | None = None,
) -> None:
    """Serve until a signal comes, then end all trainings. on_start: called when it listens."""
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # hides errors of clients
    once = secrets.token_hex(16) if address.token and open_browser else None
    url = address.url.replace(f"={address.token}", f"={once}")
    config = uvicorn.Config(
        make_app(playground, address.hosts, address.token, anywhere=address.anywhere, once=once),
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

    def start() -> None:
        if on_start:
            on_start()
        if open_browser:  # in a thread, because it may take seconds
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()

    try:
        Server(config, playground, start).run([address.sock])
    finally:
        playground.jobs.close()
        playground.work.close()


class Server(uvicorn.Server):
    """A server that calls `on_start` when it listens, and ends event streams at its end."""

    def __init__(
        self, config: uvicorn.Config, playground: Playground, on_start: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.playground = playground
        self.on_start = on_start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals. uvicorn would raise them again at the end, like failures."""
        handlers = {number: signal.signal(number, self.handle_exit) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.on_start()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.playground.jobs.end_streams()
        asyncio.get_running_loop().call_later(END_SECONDS / 2, self.playground.work.end)
        await super().shutdown(sockets)
