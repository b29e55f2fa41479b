"""The address of the server, and the names that clients can use for it."""

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
    """The address at which the server listens.

    Attributes:
        hosts: allowed values of the header Host, with the port.
        urls: addresses of the page, with the token if there is one.
        anywhere: whether it listens at all addresses of this machine.
    """

    sock: socket.socket
    hosts: frozenset[str]
    urls: list[str]
    token: str | None
    anywhere: bool

    @property
    def url(self) -> str:
        return self.urls[0]


def listen(
    host: str,
    port: int | None,
    token: str | None = None,
    names: Sequence[str] = (),
    *,
    no_token: bool = False,
) -> Address:
    """Start to listen, and return the address.

    Args:
        host: an IP address, or "localhost".
        port: 0 for any free port, None for PORT or, if that is in use, any free port.
        token: by default a new one.
        names: other names of this machine.
        no_token: whether to serve without a token.

    Raises:
        ConfigError: it cannot listen there, or other machines could reach it without a token.
    """
    if port is not None and not 0 <= port < 65536:
        raise ConfigError(f"port must be from 0 to 65535, not {port}")
    if token is not None and (len(token) < 16 or not token.isascii() or not token.isalnum()):
        raise ConfigError(
            "the token (KAMON_TOKEN) is too short", "use 16 or more letters and digits"
        )
    numeric = "127.0.0.1" if host == "localhost" else host
    try:
        ip = ipaddress.ip_address(numeric)
    except ValueError:
        raise ConfigError(
            f"--host must be an IP address, not {host!r}", "for example 127.0.0.1 or ::1"
        ) from None
    if no_token and not ip.is_loopback:
        raise ConfigError(
            f"without a token only this machine may use the server, not {host}",
            "drop --no-token or --host",
        )
    sock = open_socket(ip, port)
    port = sock.getsockname()[1]
    literal = f"[{ip}]" if ip.version == 6 else str(ip)
    shown = [literal, *names]
    if ip.is_unspecified:
        shown = [*names, *own_addresses(ip.version), socket.gethostname(), "localhost"]
    accepted = {literal, *shown}
    if ip.is_loopback or ip.is_unspecified:
        accepted |= {"127.0.0.1", "localhost", "[::1]"}
    hosts = {f"{name.lower()}:{port}" for name in accepted}
    if port == 80:
        hosts |= {name.lower() for name in accepted}
    token = None if no_token else token or secrets.token_hex(16)
    urls = [f"http://{name}:{port}/" + (f"?token={token}" if token else "") for name in shown]
    return Address(sock, frozenset(hosts), urls, token, ip.is_unspecified)


def own_addresses(version: int) -> list[str]:
    """Return the addresses of this machine in its network, if any.

    It connects a datagram socket to an address reserved for documentation, which sends nothing, and
    reads the socket's own address.
    """
    addresses = []
    families = [(socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")]
    for family, nowhere in families if version == 6 else families[:1]:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((nowhere, 9))
                ip = sock.getsockname()[0]
        except OSError:
            continue
        if not ipaddress.ip_address(ip).is_loopback:
            addresses.append(f"[{ip}]" if family == socket.AF_INET6 else ip)
    return addresses


def open_socket(
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int | None
) -> socket.socket:
    family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
    for wanted in (PORT, 0) if port is None else (port,):
        # For IPPROTO_TCP only, asyncio sets TCP_NODELAY, which sends small answers immediately.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(ip), wanted))
            sock.listen(1024)
            return sock
        except OSError as error:
            sock.close()
            reason = error.strerror or str(error)
    raise ConfigError(
        f"the server cannot listen on {ip}, port {wanted}: {reason}", "choose another --port"
    )
