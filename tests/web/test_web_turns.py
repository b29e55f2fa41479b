"""Many at once: everybody has a turn, nobody holds the others up, and what waits is told so."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import kamon
from helpers.lists import DOCS
from helpers.server import Server, serving, status_of, until

pytest.importorskip("uvicorn", reason="the server is in kamon[web]")

from kamon.model import Model
from kamon.web.errors import WebError
from kamon.web.limits import Limits
from kamon.web.routes.models import SampleBody, samples_of
from kamon.web.services.registry import Entry, file_name
from kamon.web.services.workers import Stop, Stopped, WorkerPool

pytestmark = pytest.mark.extra
CLASS = 30
IN_VAIN = {"n": 10_000, "max_len": 3, "unique": True}  # more than there are
SHORT = {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 8, "num_steps": 5}


@pytest.fixture(scope="module")
def model() -> Model:
    return kamon.train(DOCS, num_steps=30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, model: Model) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    model.save(folder / "m")
    model.save(folder / "other")
    with serving(
        folder, "m", "other", "--limit=work_seconds=1.5", "--limit=connections=80"
    ) as found:
        yield found


# ---- turns


def ran(work: WorkerPool, *asked: tuple[Any, Any]) -> list[Any]:
    """What comes of each (function, key), asked for at once."""

    async def all_of_them() -> list[Any]:
        runs = [work.run(function, key=key) for function, key in asked]
        return await asyncio.gather(*runs, return_exceptions=True)

    try:
        return asyncio.run(all_of_them())
    finally:
        work.close()


def limits(**given: Any) -> Limits:
    return replace(Limits(), **given)


def test_one_turn_for_each_key_and_none_waits_in_a_thread() -> None:
    """Two that use one thing never run together, and what uses another has the second thread."""
    key, running, seen = object(), set[str](), list[set[str]]()
    lock, other_done = threading.Lock(), threading.Event()

    def work_of(name: str) -> Any:
        def function(_: Stop) -> str:
            with lock:
                running.add(name)
                seen.append(set(running))
            if name == "a":
                assert other_done.wait(20)
            if name == "other":
                other_done.set()
            with lock:
                running.remove(name)
            return name

        return function

    found = ran(
        WorkerPool(limits(threads=2)),
        *((work_of("a"), key), (work_of("b"), key), (work_of("other"), None)),
    )
    assert found == ["a", "b", "other"]
    assert not any({"a", "b"} <= each for each in seen)


def test_long_work_gives_way_and_ends() -> None:
    """With one thread: what is short has its turn in the middle of what is long."""
    ended: list[str] = []
    lock = threading.Lock()

    def long(stop: Stop) -> None:
        with stop.holding(lock):
            while not stop.late():
                time.sleep(0.001)
        ended.append("long")

    def short(stop: Stop) -> None:
        with stop.holding(lock):
            ended.append("short")

    work = WorkerPool(limits(threads=1, slice_seconds=0.01, work_seconds=0.5))
    key = object()
    assert ran(work, (long, key), (short, key), (short, None)) == [None] * 3
    assert ended == ["short", "short", "long"]


def test_a_key_is_kept_while_its_work_cannot_be_parted() -> None:
    """Work that holds no lock that it can give back: others of its key come after it."""
    order: list[str] = []

    def long(stop: Stop) -> None:
        order.append("begin")
        for _ in range(50):
            stop.check()
            time.sleep(0.001)
        order.append("end")

    work = WorkerPool(limits(threads=1, slice_seconds=0.005))
    key = object()
    found = ran(work, (long, key), (lambda _: order.append("own"), key))
    assert found == [None, None]
    assert order == ["begin", "end", "own"]


def test_who_waits_too_long_is_told() -> None:
    def hold(stop: Stop) -> str:
        while not stop.late():
            time.sleep(0.001)
        return "held"

    work = WorkerPool(limits(threads=1, wait_seconds=0.2, work_seconds=1.0, slice_seconds=10.0))
    begun: list[int] = []
    found = ran(work, (hold, None), (begun.append, None))
    assert found[0] == "held"
    assert isinstance(found[1], WebError)
    assert found[1].status == 503
    assert begun == []


def test_work_that_takes_too_long_gets_a_sentence() -> None:
    def endless(stop: Stop) -> None:
        while True:
            stop.check()

    (found,) = ran(WorkerPool(limits(work_seconds=0.05)), (endless, None))
    assert isinstance(found, WebError)
    assert (found.status, "longer than 0.05 seconds" in str(found)) == (422, True)


# ---- samples


def test_a_search_ends_by_time_and_says_so(model: Model) -> None:
    found = samples_of(
        *(model, SampleBody(model="m", **IN_VAIN), Limits(), Stop(0.1)),
        lambda _: frozenset(),
    )
    assert found.ended == "time"
    assert len(found.samples) < IN_VAIN["n"]
    for how, ended in (({"n": 5}, "n"), ({"n": 5, "temperature": 0.0, **IN_VAIN}, "tried")):
        body = SampleBody(model="m", **how)  # type: ignore[arg-type]
        assert samples_of(model, body, Limits(), Stop(), lambda _: frozenset()).ended == ended


def test_plain_samples_end_by_time_too(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of those asked for, and they are the first ones."""
    monkeypatch.setattr("kamon.generation.constraints.MAX_FLOPS_AT_ONCE", 1)
    monkeypatch.setattr("kamon.generation.constraints.MAX_FLOPS_AT_ONCE_SLOW", 1)
    found = model.generate(50, should_stop=lambda tried: tried >= 7)
    assert (found.texts, found.num_candidates) == (model.sample(50)[:7], 7)
    assert model.generate(50).texts == model.sample(50)


def test_everybody_else_is_answered_during_a_search(server: Server) -> None:
    """The same model and others: one that searches in vain holds nobody up until its end."""
    answers: list[tuple[int, Any]] = []

    def search() -> None:
        status, _, text = server.ask("POST", "/api/v1/sample", {"model": "m", **IN_VAIN})
        answers.append((status, json.loads(text)))

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    for _ in range(3):
        for model in ("m", "other"):
            assert server.ask("POST", "/api/v1/sample", {"model": model, "n": 3})[0] == 200
            assert server.ask("POST", "/api/v1/next-token", {"model": model})[0] == 200
        assert len(server.json("GET", "/models")["models"]) == 2
    assert answers == []  # all four search still: each has one second and a half of its own
    for thread in threads:
        thread.join()
    for status, found in answers:
        assert (status, found["ended"]) == (200, "time")


def test_the_list_of_models_waits_for_nobody(model: Model, tmp_path: Path) -> None:
    from helpers.app import Asking

    asking = Asking(tmp_path, {"m": model})
    assert asking.get("/models")[0] == 200
    with asking.playground.registry.get("m").lock:
        assert asking.get("/models")[1]["models"][0]["id"] == "m"
        assert asking.get("/models/m")[0] == 200

    def broken() -> Model:
        raise kamon.StoreError("it was changed")

    asking.playground.registry.add(Entry("broken", "opened", broken))
    assert [each["id"] for each in asking.get("/models")[1]["models"]] == ["m"]


def test_a_class_samples_at_once(server: Server) -> None:
    with ThreadPoolExecutor(CLASS) as pool:
        body = {"model": "m", "n": 20, "unique": True, "nearest": True}
        found = list(
            pool.map(
                lambda seed: server.ask("POST", "/api/v1/sample", body | {"seed": seed}),
                range(CLASS),
            )
        )
    assert [status for status, _, _ in found] == [200] * CLASS


def test_a_class_trains_at_once(server: Server) -> None:
    """All are taken at once, know how many are before them, and end."""
    body = {"text": "\n".join(DOCS), "settings": SHORT}
    with ThreadPoolExecutor(10) as pool:
        jobs = list(pool.map(lambda _: server.json("POST", "/jobs", body, 202), range(10)))
    ahead = [job["ahead"] for job in jobs if job["state"] == "queued"]
    assert len(ahead) >= 5
    assert len(set(ahead)) > 1
    ids = {job["id"] for job in jobs}

    def over() -> bool:
        found = [each for each in server.json("GET", "/jobs")["jobs"] if each["id"] in ids]
        return all(job["state"] == "done" and job["model"] for job in found)

    until(over, 120)


def test_very_long_entries_are_not_compared() -> None:
    """That takes the square of their length, for each sample."""
    docs = ["ab" * 1001 + letter for letter in "abcdefghijklmnopqrst"]
    model = kamon.train(docs, n_layer=1, n_embd=2, n_head=1, block_size=8, num_steps=1)
    body = SampleBody(model="m", n=3, nearest=True)
    found = samples_of(model, body, Limits(), Stop(), lambda _: frozenset())
    assert [each.nearest for each in found.samples] == [None] * 3
    assert found.ended == "n"


# ---- slow readers, the way in, and what is told


def test_who_never_reads_makes_room(tmp_path: Path, model: Model) -> None:
    """Long before an answer that nobody reads is given up, after `idle_seconds`."""
    model.save(tmp_path / "m")
    with serving(tmp_path, "m", "--limit=connections=4") as server:
        ask = f"GET /static/teach.js HTTP/1.1\r\nHost: {server.host}\r\n\r\n".encode()
        socks = []
        for _ in range(4):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", server.port))
            sock.sendall(ask * 400)
            socks.append(sock)
        until(lambda: server.ask("GET", "/health")[0] == 200, 15)
        for sock in socks:
            sock.close()


def test_limits_are_told(server: Server) -> None:
    found = server.json("GET", "/limits")
    for number in (found["limits"]["samples"], found["settings"]["n_layer"]):
        assert type(number) is int
    assert found["limits"]["connections"] == 80
    assert found["limits"]["nearest"] == Limits().nearest
    assert found["settings"]["batch_size"] == 256
    body = {"text": "\n".join(DOCS), "settings": SHORT | {"batch_size": 257}}
    assert "256" in server.json("POST", "/jobs", body, 422)["error"]


def test_another_host_is_told_what_to_do(server: Server) -> None:
    for host, said in (
        ("box.local", "`--allow-host box.local`"),
        (f"192.0.2.7:{server.port}", "`--allow-host 192.0.2.7`"),
        ("<b>", "open the one that `kamon serve` printed"),
    ):
        answer = server.raw(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        assert status_of(answer) == 421
        assert said in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


def test_every_address_of_this_machine(tmp_path: Path, model: Model) -> None:
    """Whatever a client connected to is an address of ours, and only that."""
    model.save(tmp_path / "m")
    token = "Secret0123456789"
    with serving(tmp_path, "m", "--host=0.0.0.0", token=token) as server:
        for host, status in (
            *((f"127.0.0.1:{server.port}", 200), (f"localhost:{server.port}", 200)),
            *((f"127.0.0.2:{server.port}", 421), (f"evil.example:{server.port}", 421)),
        ):
            request = f"GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
            request += f"Authorization: Bearer {token}\r\n\r\n"
            assert status_of(server.raw(request.encode())) == status
        with socket.create_connection(("127.0.0.2", server.port), timeout=5) as sock:
            request = f"GET /health HTTP/1.1\r\nHost: 127.0.0.2:{server.port}\r\n"
            sock.sendall((request + f"Authorization: Bearer {token}\r\n\r\n").encode())
            assert status_of(sock.recv(4096)) == 200
        status, headers, page = server.ask("GET", "/")
        assert (status, headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert b'name="token"' in page
        assert b"<script" not in page
        assert "form-action 'self'" in headers["content-security-policy"]
        status, _, text = server.ask("GET", "/api/v1/models")
        assert (status, "token" in json.loads(text)["error"]) == (401, True)


def test_a_browser_gets_a_token_that_opens_once() -> None:
    """Its command line is seen by all users of the machine."""
    from kamon.web.server.guard import RequestGuard

    async def nothing(*_: Any) -> None: ...

    guard = RequestGuard(nothing, Limits(), frozenset(), "a" * 16, once="b" * 16)

    def opens(token: str) -> bool:
        scope = {"method": "GET", "path": "/", "query_string": f"token={token}".encode()}
        return guard.entrance(scope) is not None

    assert [opens(each * 16) for each in "cbbaa"] == [False, True, False, True, True]


def test_folders_of_who_trained_are_not_told(tmp_path: Path, model: Model) -> None:
    """Of a list's source the name of the file, and of a loss that is no number nothing."""
    from helpers.app import Asking

    source = "/home/me/private/\u202ebrands.txt"
    training = model.training | {
        "corpus": model.training["corpus"] | {"source": source},
        "held_out": {"loss": float("inf"), "best_step": 1},
    }
    asking = Asking(tmp_path, {"m": replace(model, training=training)})
    for path in ("/models/m", "/models/m/data"):
        status, found = asking.get(path)
        assert (status, found["source"]) == (200, "brands.txt")
    assert asking.get("/models")[1]["models"][0]["validation_loss"] is None
    assert file_name(r"C:\Users\me\brands.txt") == "brands.txt"
    elsewhere = Entry("e", "opened", lambda: model, path=tmp_path / "private" / "x")
    asking.playground.registry.add(elsewhere)
    assert asking.get("/models/e")[1]["path"] == "x"


def test_a_model_too_large_to_wait_for_is_refused(tmp_path: Path) -> None:
    from helpers.app import Asking

    shape = {"n_layer": 1, "n_embd": 2, "n_head": 1, "block_size": 60_000, "num_steps": 1}
    asking = Asking(tmp_path, {"m": kamon.train(DOCS, **shape)})
    for path in ("/sample", "/complete", "/next-token"):
        status, found = asking.post(path, model="m")
        assert (status, "too large for the playground" in found["error"]) == (422, True)
    assert asking.get("/models") == (200, {"models": []})


# ---- what must go on resisting


SMUGGLED = {
    "two lengths": "Content-Length: 14\r\nContent-Length: 2\r\n",
    "length and chunked": "Content-Length: 14\r\nTransfer-Encoding: chunked\r\n",
    "odd coding": "Transfer-Encoding: xchunked\r\n",
    "signed length": "Content-Length: +14\r\n",
    "gzip": "Content-Length: 14\r\nContent-Encoding: gzip\r\nContent-Type: text/plain\r\n",
}


@pytest.mark.parametrize("name", SMUGGLED)
def test_one_request_is_one_request(name: str, server: Server) -> None:
    head = f"POST /api/v1/sample HTTP/1.1\r\nHost: {server.host}\r\n{SMUGGLED[name]}"
    if "Content-Type" not in head:
        head += "Content-Type: application/json\r\n"
    inner = f"GET /health HTTP/1.1\r\nHost: {server.host}\r\n\r\n"
    answer = server.raw(f'{head}\r\n{{"model": "m"}}0\r\n\r\n{inner}'.encode(), 0.3)
    assert status_of(answer) in (400, 415, 422, 501)
    assert b'"status":"ok"' not in answer


def test_other_ways_to_name_a_host(server: Server) -> None:
    evil = b"Connection: close\r\n\r\n"
    own = f"Host: {server.host}\r\n".encode()
    for request, allowed in (
        (b"GET http://evil.example/health HTTP/1.1\r\nHost: evil.example\r\n", (400, 421)),
        (b"GET http://evil.example/health HTTP/1.1\r\n" + own, (200, 400, 404)),  # as it is: ours
        (b"GET /health HTTP/1.1\r\nX-Forwarded-Host: evil.example\r\n", (421,)),
        (b"GET /health HTTP/1.1\r\nX-Forwarded-Host: x\r\n" + own, (200,)),
        (b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\n" + own, (0, 400)),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 200_000 + b"\r\n" + own, (0, 400)),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", (0, 400)),  # TLS
    ):
        assert status_of(server.raw(request + evil, 0.5)) in allowed, request[:60]


BOMBS: dict[str, dict[str, Any]] = {
    "deep cell": {"text": '{"text": ' + "[" * 60_000, "format": "jsonl", "column": "text"},
    "long number": {"text": '{"text": ' + "1" * 100_000 + "}", "format": "jsonl"},
    "many keys": {
        "text": "{" + ",".join(f'"k{i}":1' for i in range(15_000)) + "}",
        "format": "jsonl",
    },
    "open quote": {"text": 'a,b\n"' + "x" * 200_000, "format": "csv", "column": "a"},
    "surrogates": {"text": "a\ud800b\n\udfff"},
    "NUL": {"text": "a\0b\nc"},
    "entities": {"text": "&amp;" * 20_000 + "\nb"},
    "accents": {"text": "a" + "\u0301" * 20_000 + "\nb"},
    "not finite": {"text": '{"text": NaN}\n{"text": 1e99999}', "format": "jsonl"},
}


@pytest.mark.parametrize("name", BOMBS)
def test_lists_that_are_bombs(name: str, server: Server) -> None:
    status, _, text = server.ask("POST", "/api/v1/clean", BOMBS[name])
    assert status in (200, 400, 422)
    assert b"Traceback" not in text
    assert server.ask("GET", "/health")[0] == 200


def test_gone_clients_work_no_longer() -> None:
    """What is computed for a client that left ends at its next look, also while others wait."""

    def endless(stop: Stop) -> None:
        while True:
            stop.check()

    async def gone() -> bool:
        return True

    async def asked() -> str:
        with pytest.raises(Stopped):
            await work.run(endless, gone)
        return await asyncio.wait_for(work.run(lambda _: "free"), 20)

    work = WorkerPool(limits(threads=1))
    assert asyncio.run(asked()) == "free"
    work.close()
