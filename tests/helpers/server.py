"""A real `kamon serve` in its own process, and requests to it, down to the byte."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Return status, headers and body. A body that is not bytes is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given = {"Content-Type": "application/json", **given}
        try:
            connection.request(method, path, body, given)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def json(self, method: str, path: str, body: Any = None, status: int = 200) -> Any:
        found, _, text = self.ask(method, f"/api/v1{path}", body)
        assert found == status, text
        return json.loads(text) if text else None

    def raw(self, data: bytes, seconds: float = 5.0) -> bytes:
        """What comes back for these bytes until the server closes, or is silent for so long: then
        it is told that no more will come."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=seconds) as sock:
            with suppress(OSError):  # it may have closed already
                sock.sendall(data)
            found = received(sock)
            try:
                sock.shutdown(socket.SHUT_WR)
            except OSError:
                return found
            sock.settimeout(5)
            return found + received(sock)

    def memory(self) -> int:
        """Bytes in RAM."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * 4096


def received(sock: socket.socket) -> bytes:
    found = bytearray()
    try:
        while part := sock.recv(65536):
            found += part
    except OSError:
        pass
    return bytes(found)


def status_of(answer: bytes) -> int:
    """0 where there is none: the server only closed."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else 0


@contextmanager
def serving(folder: Path, *argv: str | Path, token: str | None = None) -> Iterator[Server]:
    """`kamon serve …` in this folder, at a free port; it asks for no token, or for this one."""
    command = [sys.executable, "-m", "kamon", "serve", "--no-browser", "--port=0", "--json"]
    command += [] if token else ["--no-token"]
    process = subprocess.Popen(
        [*command, *map(str, argv)],
        cwd=folder,
        env=os.environ | {"KAMON_TOKEN": token or ""},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        url = json.loads(line)["url"]
        yield Server(process, url, int(url.split(":")[2].split("/")[0]))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=10)  # which closes its pipes, too
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        except ValueError:  # they are closed already
            pass


def until(condition: Any, seconds: float = 20.0) -> None:
    """Wait until the condition is true. Raise AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.02)
