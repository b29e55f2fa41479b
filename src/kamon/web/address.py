"""Where the server listens, and as what it may be addressed."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass

from kamon.errors import ConfigError

PORT = 8042


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
