"""The list that is fetched: whatever the network does, the cache holds all of it or nothing."""

from __future__ import annotations

import gzip
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kamon.data import builtin, corpus
from kamon.errors import CorpusError

pytestmark = pytest.mark.torture

LIST = b"".join(b"name%d\n" % i for i in range(20_000))  # about as long as the real one
OK = b"HTTP/1.1 200 OK\r\n"
Answer = Callable[[socket.socket, int], None]  # is given a connection and the server's port


def length(size: int) -> bytes:
    return b"Content-Length: %d\r\n\r\n" % size


def sends(*parts: bytes) -> Answer:
    def answer(connection: socket.socket, port: int) -> None:
        for part in parts:
            connection.sendall(part.replace(b"PORT", b"%d" % port) if len(part) < 1000 else part)

    return answer


def breaks_off(*parts: bytes) -> Answer:
    """The connection is reset, not closed."""

    def answer(connection: socket.socket, port: int) -> None:
        sends(*parts)(connection, port)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return answer


def drips(head: bytes, endless: bytes) -> Answer:
    """Something comes again and again, sooner than any single wait ends."""

    def answer(connection: socket.socket, port: int) -> None:  # noqa: ARG001
        connection.sendall(head)
        end = time.monotonic() + 1
        while time.monotonic() < end:
            connection.sendall(endless)
            time.sleep(0.02)

    return answer


def says_nothing(connection: socket.socket, port: int) -> None:  # noqa: ARG001
    connection.recv(1)  # until the other side has had enough


def floods(connection: socket.socket, port: int) -> None:  # noqa: ARG001
    connection.sendall(OK + b"\r\n")
    for _ in range(2000):
        connection.sendall(bytes(1 << 16))


def redirects(to: bytes, status: bytes = b"302 Found") -> Answer:
    return sends(b"HTTP/1.1 " + status + b"\r\nLocation: " + to + b"\r\n" + length(0))


PAGE = b"<html><body>Sign in to the network</body></html>"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
ANOTHER = "the server sent another file"
TOO_LONG = "it takes more than"
CASES: dict[str, tuple[Answer, str]] = {
    "closed before a word": (sends(), "closed|reset|without response"),
    "reset before a word": (breaks_off(), "reset|closed|without response"),
    "broken off in the headers": (sends(OK[:9]), "HTTP|Status|closed|without|another"),
    "headers without an end": (sends(OK, b"Content-Type: text/plain\r\n"), ANOTHER),
    "closed in the middle": (sends(OK, length(len(LIST)), LIST[:9999]), ANOTHER),
    "reset in the middle": (breaks_off(OK, length(len(LIST)), LIST[:9999]), f"reset|{ANOTHER}"),
    "all but one byte, length unknown": (sends(OK, b"\r\n", LIST[:-1]), ANOTHER),
    "one byte more": (sends(OK, b"\r\n", LIST, b"\n"), ANOTHER),
    "nothing in it": (sends(OK, length(0)), ANOTHER),
    "one bit wrong": (sends(OK, length(len(LIST)), b"m" + LIST[1:]), ANOTHER),
    "a page to sign in": (sends(OK, b"Content-Type: text/html\r\n", length(48), PAGE), ANOTHER),
    "packed": (sends(OK, b"Content-Encoding: gzip\r\n\r\n", gzip.compress(LIST)), ANOTHER),
    "a huge body": (floods, ANOTHER),
    "a length that is huge": (sends(OK, length(1 << 60), PAGE), ANOTHER),
    "a length that is none": (sends(OK, b"Content-Length: many\r\n\r\n", PAGE), ANOTHER),
    "a chunk broken off": (sends(CHUNKED, b"4000\r\n", LIST[:99]), "Incomplete"),
    "chunks that are none": (sends(CHUNKED, b"zz\r\n", LIST[:99]), "Incomplete"),
    "not found": (sends(b"HTTP/1.1 404 Not Found\r\n", length(48), PAGE), "Not Found"),
    "gone wrong": (sends(b"HTTP/1.1 500 \r\n", length(0)), "500"),
    "too many requests": (sends(b"HTTP/1.1 429 Slow down\r\n", length(0)), "Slow down"),
    "no words for it": (sends(b"HTTP/1.1 204 No Content\r\n\r\n"), ANOTHER),
    "another protocol": (sends(b"SSH-2.0-OpenSSH_9.6\r\n"), "SSH"),
    "an endless line": (sends(b"H" * (1 << 17)), "status line|HHH"),
    "too many headers": (sends(OK, b"A: b\r\n" * 500, b"\r\n"), "headers"),
    "led on in a circle": (redirects(b"http://127.0.0.1:PORT/names.txt"), "infinite loop"),
    "led on to a file": (redirects(b"file:///etc/passwd"), "not allowed"),
    "led on to nowhere": (redirects(b"http://127.0.0.1:1/"), "refused"),
    "led on to no address": (redirects(b"http://[oh/"), "URL|address"),
    "led on to no name": (redirects(b"http://a..b/"), "label|idna|resolution|known|name"),
    "led on to no port": (redirects(b"http://127.0.0.1:many/"), "port"),
    "silent": (says_nothing, "timed out"),
    "a byte now and then": (drips(OK + length(len(LIST)), b"n"), TOO_LONG),
    "headers for ever": (drips(OK, b"A"), TOO_LONG),
    "soon, soon, soon": (drips(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), TOO_LONG),
}


class Server:
    """Answers each connection on loopback as `answer` does at the time."""

    def __init__(self) -> None:
        self.answer: Answer = sends()
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.socket.getsockname()[1]
        self.threads = [threading.Thread(target=self.run, daemon=True)]
        self.threads[0].start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:  # closed
                return
            self.threads.append(threading.Thread(target=self.serve, args=(connection,)))
            self.threads[-1].start()

    def serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.settimeout(10)
                asked = b""
                while not asked.endswith(b"\r\n\r\n") and (more := connection.recv(1000)):
                    asked += more
                self.answer(connection, self.port)
                if not connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)[0]:
                    connection.shutdown(socket.SHUT_WR)
            except OSError:  # the other side has had enough
                return

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for thread in self.threads:
            thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    before = set(threading.enumerate())
    made = Server()
    yield made
    made.close()
    for thread in set(threading.enumerate()) - before:  # a download that was given up
        thread.join(10)


@pytest.fixture
def cache(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import platformdirs

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda app: tmp_path / app)
    monkeypatch.setattr(builtin, "ORIGINAL_URL", f"http://127.0.0.1:{server.port}/names.txt")
    monkeypatch.setattr(builtin, "ORIGINAL_SHA256", hashlib.sha256(LIST).hexdigest())
    monkeypatch.setattr(builtin, "ORIGINAL_SIZE", len(LIST))
    monkeypatch.setattr(builtin, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(builtin, "FETCH_SECONDS", 0.5)
    return tmp_path / "kamon" / "names-original.txt"


def refused(cache: Path, problem: str) -> None:
    begin = time.monotonic()
    with pytest.raises(CorpusError) as caught:
        corpus.read("names-original")
    assert time.monotonic() - begin < 30  # without a bound it would take as long as it comes
    said = str(caught.value)
    assert re.match(rf"cannot download names-original: .*({problem}).*\nhint: download", said)
    assert said.count("\n") == 1
    assert len(said) < 600 + 2 * len(str(cache))
    assert not cache.exists()
    assert not cache.parent.exists() or list(cache.parent.iterdir()) == []


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * (problem == TOO_LONG))
        for case, (_, problem) in CASES.items()
    ],
)
def test_a_bad_download_leaves_nothing_behind(case: str, server: Server, cache: Path) -> None:
    server.answer, problem = CASES[case]
    refused(cache, problem)
    server.answer = sends(OK, length(len(LIST)), LIST)
    assert len(corpus.read("names-original").docs) == 20_000
    assert cache.read_bytes() == LIST


def test_nobody_is_there(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = builtin.ORIGINAL_URL
    monkeypatch.setattr(builtin, "ORIGINAL_URL", "http://127.0.0.1:1/names.txt")
    refused(cache, "refused")
    monkeypatch.setattr(builtin, "ORIGINAL_URL", good)
    server.answer = sends(OK, length(len(LIST)), LIST)
    assert len(corpus.read("names-original").docs) == 20_000


def test_led_on_to_the_right_file(server: Server, cache: Path) -> None:
    """From wherever it comes: its content is what counts."""
    times = 0

    def answer(connection: socket.socket, port: int) -> None:
        nonlocal times
        times += 1
        first = redirects(b"/elsewhere", b"301 Moved")
        (first if times == 1 else sends(OK, length(len(LIST)), LIST))(connection, port)

    server.answer = answer
    assert len(corpus.read("names-original").docs) == 20_000
    assert cache.read_bytes() == LIST
