"""Who may ask the server what, how much, and how slowly."""

from __future__ import annotations

import json
import random
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import kamon
from conftest import times
from helpers.server import Server, received, serving, status_of, until

pytest.importorskip("uvicorn", reason="the server is in kamon[web]")

from helpers.lists import DOCS
from kamon.web.limits import Limits

pytestmark = pytest.mark.extra
LIMITS = Limits()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    kamon.train(DOCS, num_steps=30, output=folder / "m")
    (folder / "secret.txt").write_text("SECRET")
    return folder


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with serving(folder, "m") as server:
        yield server
        assert server.process.poll() is None
    assert server.process.returncode == 0


def get(host: str, path: str = "/health") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()


def post(host: str, headers: str, body: bytes = b'{"model": "m"}') -> bytes:
    head = f"POST /api/v1/sample HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
    head += "Connection: close\r\n"
    return (head + headers + "\r\n").encode() + body


JSON = "Content-Type: application/json\r\n"


def test_its_own_names_get_in(server: Server) -> None:
    port = server.port
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        assert status_of(server.raw(get(f"{host}:{port}"))) == 200
        assert status_of(server.raw(post(f"{host}:{port}", JSON))) == 200
    for origin in ("http://127.0.0.1", "http://localhost"):
        headers = f"{JSON}Origin: {origin}:{port}\r\n"
        assert status_of(server.raw(post(server.host, headers))) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "127.0.0.1",
        "localhost",
        "localhost:1",
        "127.0.0.1:{port}.evil.example",
        "127.0.0.1.evil.example:{port}",
        "evil.example@127.0.0.1:{port}",
        "127.0.0.2:{port}",
        "0.0.0.0:{port}",
        "127.1:{port}",
        "2130706433:{port}",
        "0x7f000001:{port}",
        "[::1]",
        "::1:{port}",
        "[::ffff:127.0.0.1]:{port}",
        "[::]:{port}",
        "localhost.:{port}",
        "localhost:{port}/",
        "localhost:0{port}",
        "LOCALHOST",
        "",
        ":{port}",
        "localhost:{port},evil.example",
    ],
)
def test_other_hosts_do_not(host: str, server: Server) -> None:
    given = host.format(port=server.port)
    for request in (get(given), post(given, JSON)):
        answer = server.raw(request)
        assert status_of(answer) in (400, 421)
        assert b"SECRET" not in answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_one_host_header(server: Server) -> None:
    host = f"Host: {server.host}\r\n"
    for hosts in ("", host * 2, f"{host}Host: evil.example\r\n", f"host: evil\r\n{host}"):
        answer = server.raw(f"GET /health HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        assert status_of(answer) == 421
    assert status_of(server.raw(b"GET /health HTTP/1.0\r\n\r\n")) == 421


@pytest.mark.parametrize(
    "headers",
    [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Origin: https://127.0.0.1:{port}\r\n",
        "Origin: http://127.0.0.1\r\n",
        "Origin: http://127.0.0.1:{port}.evil.example\r\n",
        "Origin: http://127.0.0.1:{port}/\r\n",
        "Origin: http://[::1]\r\n",
        "Origin: HTTP://LOCALHOST:{port}\r\n",
        "Origin: http://localhost:{port}\r\nOrigin: http://evil.example\r\n",
        "Origin: http://localhost:{port}, http://evil.example\r\n",
        "Origin: \r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "Sec-Fetch-Site: same-site\r\nOrigin: http://localhost:{port}\r\n",
    ],
)
def test_other_pages_do_not_ask(headers: str, server: Server) -> None:
    given = headers.format(port=server.port)
    read = get(server.host, "/api/v1/models/m/data")[:-2] + given.encode() + b"\r\n"
    for request in (post(server.host, JSON + given), read):
        answer = server.raw(request)
        assert status_of(answer) == 403
        assert b"access-control" not in answer.lower()


def test_a_link_from_elsewhere_opens_the_page(server: Server) -> None:
    link = get(server.host, "/")[:-2] + b"Sec-Fetch-Site: cross-site\r\n\r\n"
    assert status_of(server.raw(link)) == 200


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "Content-Type: text/plain\r\n",
        "Content-Type: application/x-www-form-urlencoded\r\n",
        "Content-Type: multipart/form-data\r\n",
        "Content-Type: application/jsonp\r\n",
        "Content-Type: text/plain; application/json\r\n",
        f"{JSON}Content-Type: text/plain\r\n",
    ],
)
def test_json_only(kind: str, server: Server) -> None:
    assert status_of(server.raw(post(server.host, kind))) == 415


def test_bodies_are_counted(server: Server) -> None:
    most = LIMITS.body_bytes
    for size in (17 * most, 10**15):
        head = f"POST /api/v1/sample HTTP/1.1\r\nHost: {server.host}\r\nContent-Length: {size}\r\n"
        assert status_of(server.raw((head + JSON + "\r\n").encode() + b"[" * 100)) == 413
    head = f"POST /api/v1/sample HTTP/1.1\r\nHost: {server.host}\r\nTransfer-Encoding: chunked\r\n"
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for parts in (b"0\r\n\r\n", chunk * 70):  # an end; or more than anybody listens to
        data = (head + JSON + "\r\n").encode() + chunk * 5 + parts
        assert status_of(server.raw(data)) in ((413,) if len(data) < 2**20 else (413, 0))
    assert status_of(server.raw(post(server.host, JSON, b" " * (most + 1)))) == 413
    body = b'{"model": "m"' + b" " * (most - 14) + b"}"
    assert len(body) == most
    assert status_of(server.raw(post(server.host, JSON, body))) == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"m"',
        b"[" * 100_000,
        b'{"model":' * 20_000,
        b'{"model": "m", "n": 1' + b"0" * 5000 + b"}",
        b'{"model": "m", "temperature": NaN}',
        b'{"model": "m", "temperature": 1e999}',
        b'{"model": "m", "temperature": -1}',
        b'{"model": "m", "n": 10001}',
        b'{"model": "m", "n": true}',
        b'{"model": "m", "n": 1.5}',
        b'{"model": "m", "top_p": 0}',
        b'{"model": "m", "seed": 9007199254740992}',
        b'{"model": "m", "prefix": "\\ud800"}',
        b'{"model": "m", "prefix": "\\u0000"}',
        b'{"model": "m", "regex": "(a)\\\\1"}',
        b'{"model": "m", "regex": ".*a.{99}"}',
        b'{"model": "m", "exclude": ["a"]}',
        b'{"model": 5}',
        b"\xff\xfe{}",
        b'{"model": "m", "prefix": "' + b"a" * 1001 + b'"}',
    ],
    ids=lambda body: repr(body[:40]),
)
def test_bad_bodies_get_a_sentence(body: bytes, server: Server) -> None:
    answer = server.raw(post(server.host, JSON, body))
    assert status_of(answer) in (400, 422)
    text = answer.partition(b"\r\n\r\n")[2]
    assert len(text) < 4096
    assert json.loads(text)["error"]


def test_ids_are_no_paths(server: Server) -> None:
    """Each spelling of a way out of the files of the page."""
    dots = ("..", "%2e%2e", ".%2e", "%2E.", "..%00", "%c0%ae%c0%ae", "..;", "%252e%252e", "．．")
    slashes = ("/", "%2f", "%5c", "\\", "%252f", "//", "/./")
    starts = ("", "/static", "/static/index.html", "/api/v1/models", "/api/v1/models/m")
    tried = 0
    for start in starts:
        for dot in dots:
            for slash in slashes:
                path = f"{start}/{(dot + slash) * 6}secret.txt"
                answer = server.raw(get(server.host, path))
                assert status_of(answer) in (0, 400, 404, 405, 422), path
                assert b"SECRET" not in answer
                tried += 1
    for name in (
        "../x",
        "..",
        "/tmp/x",
        "a/b",
        "a\\b",
        ".x",
        "-x",
        "A",
        "x" * 41,
        "",
        "x\0",
        "con.",
        *("con", "nul", "aux", "prn", "com1", "lpt9", "mine ", "mine."),
    ):
        status, _, _ = server.ask("POST", "/api/v1/models/m/save", {"name": name})
        assert status == 422, name
    assert tried > 300


def test_what_is_not_http(server: Server, folder: Path) -> None:
    """Bytes at random, and requests with a few bytes changed: an answer below 500 or none."""
    rng = random.Random(5)
    good = [
        get(server.host),
        get(server.host, "/api/v1/models/m/data"),
        post(server.host, JSON),
        post(server.host, JSON, b'{"model": "m", "n": 3, "prefix": "b", "temperature": 0.5}'),
    ]
    for _ in range(times(300, 10_000)):
        data = bytearray(rng.choice(good) if rng.random() < 0.9 else rng.randbytes(200))
        for _ in range(rng.randint(1, 6)):
            place = rng.randrange(len(data) + 1)
            what = rng.random()
            if what < 0.4:
                data[place : place + 1] = rng.randbytes(1)
            elif what < 0.6:
                del data[place : place + rng.randint(1, 20)]
            elif what < 0.8:
                data[place:place] = rng.choice([b"\r\n", b"\0", b" ", b"\xff" * 9, b"9" * 30])
            else:
                data[place:place] = data[rng.randrange(len(data) + 1) :][: rng.randint(1, 99)]
        answer = server.raw(bytes(data), 0.03)
        assert status_of(answer) < 500, bytes(data)
        if status_of(answer) >= 400:
            assert len(answer.partition(b"\r\n\r\n")[2]) < 4096
        assert b"Traceback" not in answer
    assert server.json("GET", "/models/m")["id"] == "m"
    assert {path.name for path in folder.iterdir()} <= {"m", "secret.txt", "models"}


def test_answers_say_how_they_may_be_used(server: Server) -> None:
    for path in ("/", "/api/v1/models", "/nowhere"):
        _, headers, _ = server.ask("GET", path)
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_no_other_methods(server: Server) -> None:
    for method in ("PUT", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"):
        answer = server.raw(get(server.host).replace(b"GET", method.encode(), 1))
        assert status_of(answer) == 405, method
    for path, methods in (("/sample", b"POST"), ("/jobs", b"GET, POST")):
        answer = server.raw(get(server.host, f"/api/v1{path}").replace(b"GET", b"PUT", 1))
        assert status_of(answer) == 405
        assert b"allow: %s\r\n" % methods in answer
    upgrade = get(server.host).replace(b"close", b"upgrade, close\r\nUpgrade: websocket")
    assert status_of(server.raw(upgrade)) == 200


# ---- slowly


def slow(server: Server, data: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    sock.sendall(data)
    return sock


def is_closed(sock: socket.socket) -> bool:
    sock.settimeout(0.01)
    try:
        return sock.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_slow_clients_hold_nobody_up(server: Server) -> None:
    """Four hundred that say half of a request: who says a whole one is answered at once."""
    halves = [b"", b"GET /hea", get(server.host)[:-2], post(server.host, JSON)[:-1]]
    socks = []
    for number in range(times(400, 400)):
        try:
            socks.append(slow(server, halves[number % len(halves)]))
        except OSError:  # a server that is full may close
            continue
    time.sleep(0.6)
    waited = []
    for _ in range(20):
        start = time.perf_counter()
        answer = server.raw(get(server.host))
        waited.append(time.perf_counter() - start)
        assert status_of(answer) == 200
    assert min(waited) < 0.1
    assert max(waited) < LIMITS.header_seconds / 2  # by then those that hold it up are sent away
    for sock in socks:
        sock.close()


@pytest.mark.slow
def test_half_a_request_is_not_waited_for_for_ever(server: Server) -> None:
    socks = [
        slow(server, get(server.host)[:-2]),
        slow(server, b""),
        slow(server, post(server.host, JSON)[:-1]),
    ]
    late = slow(server, get(server.host).replace(b"close", b"keep-alive") + b"GET /heal")
    time.sleep(max(LIMITS.header_seconds, LIMITS.body_seconds) + 1)
    answers = [received(sock) for sock in socks]
    assert [status_of(answer) for answer in answers] == [0, 0, 408]
    late.settimeout(10)
    assert status_of(received(late)) == 200  # the first; and then it is closed
    assert is_closed(late)
    for sock in (*socks, late):
        sock.close()


def test_a_client_that_goes_away_frees_its_work(server: Server) -> None:
    """Searches that would take long, by more clients than may wait: all gone, the next is quick."""
    body = json.dumps({"model": "m", "n": 1000, "contains": "bbbbbbbb", "min_len": 1}).encode()
    for _ in range(10):
        sock = slow(server, post(server.host, JSON, body))
        time.sleep(0.05)
        sock.close()
    start = time.perf_counter()
    until(lambda: server.ask("POST", "/api/v1/sample", {"model": "m"})[0] == 200)
    assert time.perf_counter() - start < 5 * LIMITS.work_seconds  # half of what all could take


def test_more_than_can_wait_are_told_so(server: Server) -> None:
    body = json.dumps({"model": "m", "n": 1000, "contains": "bbbbbbbb", "min_len": 1}).encode()
    socks = [slow(server, post(server.host, JSON, body)) for _ in range(LIMITS.waiting + 60)]
    try:
        answered: list[socket.socket] = []
        until(lambda: bool(answered.extend(select.select(socks, [], [], 0.1)[0]) or answered))
        answer = received(answered[0])
        assert status_of(answer) == 503
        assert b"retry-after: 1\r\n" in answer.lower()
        assert b"try again" in answer
        assert server.ask("GET", "/health")[0] == 200
    finally:
        for sock in socks:
            sock.close()
    until(lambda: server.ask("POST", "/api/v1/sample", {"model": "m"})[0] == 200)


def test_small_answers_are_not_held_back() -> None:
    """asyncio sets TCP_NODELAY where the listening socket names its protocol: else an answer waits
    for the client's delayed acknowledgement, 40 ms."""
    from kamon.web.server.address import listen

    where = listen("127.0.0.1", 0)
    assert where.sock.proto == socket.IPPROTO_TCP
    where.sock.close()
