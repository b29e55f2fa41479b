"""From a command to a page: the socket, the server, the browser, and the end of all three."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import secrets
import signal
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from kamon.errors import ConfigError
from kamon.web.app import make_app
from kamon.web.jobs import Jobs
from kamon.web.limits import Limits
from kamon.web.protocol import protocol
from kamon.web.ratings import Ratings
from kamon.web.shelf import Shelf
from kamon.web.state import Playground
from kamon.web.work import Work

PORT = 8042
SIGNALS = (signal.SIGINT, signal.SIGTERM)
END_SECONDS = 2  # for answers under way, once the server is to end; what computes has half of it


@dataclass(frozen=True)
class Address:
    """Where the server listens, and as what it may be addressed. token: that it asks for."""

    sock: socket.socket
    hosts: frozenset[str]
    url: str
    token: str | None


def address(
    host: str, port: int | None, token: str | None = None, names: Sequence[str] = ()
) -> Address:
    """A socket that listens. Beyond loopback a token is asked for, a new one where none is given.

    port: 0 takes any free one, and so does None where the usual one is taken. names: other names of
    this machine, as it is addressed by. ConfigError where it cannot listen there.
    """
    if port is not None and not 0 <= port < 65536:
        raise ConfigError(f"port must be from 0 to 65535, not {port}")
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isalnum()):
        raise ConfigError("a token is of 16 or more letters and digits")
    numeric = "127.0.0.1" if host == "localhost" else host
    try:
        ip = ipaddress.ip_address(numeric)
    except ValueError:
        raise ConfigError(
            f"--host takes the number of an address, such as 127.0.0.1 or ::1, not {host!r}"
        ) from None
    sock = listening(ip, port)
    port = sock.getsockname()[1]
    own = f"[{ip}]" if ip.version == 6 else str(ip)
    known = {own, *names}
    if ip.is_loopback:
        known |= {"127.0.0.1", "localhost", "[::1]"}
    elif token is None:
        token = secrets.token_hex(16)
    hosts = {f"{name.lower()}:{port}" for name in known}
    if port == 80:
        hosts |= {name.lower() for name in known}
    shown = own if not ip.is_unspecified else (names[0] if names else socket.gethostname())
    if ip.is_unspecified:
        hosts.add(f"{shown.lower()}:{port}")
    url = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
    return Address(sock, frozenset(hosts), url, token)


def listening(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None) -> socket.socket:
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    wanted = PORT if port is None else port
    while True:
        # With the protocol named, asyncio sends small answers at once (TCP_NODELAY).
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(ip), wanted))
            sock.listen(1024)
            return sock
        except OSError as error:
            sock.close()
            if port is None and wanted == PORT:
                wanted = 0
                continue
            reason = error.strerror or str(error)
            raise ConfigError(
                f"the server cannot listen on {ip}, port {wanted}: {reason}; choose another --port"
            ) from None


def make_playground(folder: Path, limits: Limits) -> Playground:
    shelf = Shelf(folder, limits)
    return Playground(limits, shelf, Work(limits), Jobs(shelf, limits), Ratings(shelf, limits))


def serve(
    playground: Playground,
    where: Address,
    *,
    open_browser: bool = False,
    on_start: Callable[[], None] | None = None,
) -> None:
    """Serve until a signal ends it; trainings end with it."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what clients do wrong is their affair
    config = uvicorn.Config(
        make_app(playground, where.hosts, where.token),
        http=protocol(playground.limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=int(playground.limits.idle_seconds),
        timeout_graceful_shutdown=END_SECONDS,
    )
    server = Server(config, playground, on_start, where.url if open_browser else None)
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
