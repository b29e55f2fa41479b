"""`kamon serve`: where it listens, whom it lets in, how it begins and ends."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kamon
from conftest import Result
from helpers.server import serving, status_of, until

pytest.importorskip("uvicorn", reason="the server is in kamon[web]")

from helpers.lists import DOCS
from kamon.errors import ConfigError, StoreError
from kamon.web.limits import Limits
from kamon.web.server.address import listen, own_addresses
from kamon.web.server.guard import RequestGuard
from kamon.web.services.registry import Entry, ModelRegistry

Kamon = Callable[..., Result]
pytestmark = pytest.mark.extra


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("server")
    kamon.train(DOCS, num_steps=20, output=folder / "m")
    return folder


def hosts(*argv: Any, **options: Any) -> tuple[set[str], str, str | None]:
    where = listen(*argv, **options)
    port = where.sock.getsockname()[1]
    where.sock.close()
    names = {host.removesuffix(f":{port}") for host in where.hosts}
    return names, where.url.replace(str(port), "PORT"), where.token


def test_this_machine_alone() -> None:
    own = {"127.0.0.1", "localhost", "[::1]"}
    for host in ("127.0.0.1", "localhost"):
        names, url, token = hosts(host, 0)
        assert (names, url) == (own, f"http://127.0.0.1:PORT/?token={token}")
        assert len(token or "") == 32
        assert hosts(host, 0, no_token=True) == (own, "http://127.0.0.1:PORT/", None)
    assert hosts("127.0.0.1", 0, None, ["Box.local"])[0] == own | {"box.local"}
    with pytest.raises(ConfigError, match="only this machine"):
        listen("0.0.0.0", 0, no_token=True)


def test_beyond_it_a_token_is_asked_for() -> None:
    names, url, token = hosts("0.0.0.0", 0)
    assert token is not None
    assert len(token) == 32
    shown = [*own_addresses(4), socket.gethostname()]
    assert url == f"http://{shown[0]}:PORT/?token={token}"
    assert names == {name.lower() for name in shown} | {
        "0.0.0.0",
        "127.0.0.1",
        "localhost",
        "[::1]",
    }
    assert hosts("0.0.0.0", 0)[2] != token
    assert hosts("0.0.0.0", 0, "a" * 16, ["box"])[1:] == (
        f"http://box:PORT/?token={'a' * 16}",
        "a" * 16,
    )


@pytest.mark.parametrize(
    ("host", "port", "token", "said"),
    [
        ("example.org", 0, None, "--host must be an IP address"),
        ("127.0.0.1", 65536, None, "port must be from 0 to 65535"),
        ("127.0.0.1", -1, None, "port must be from 0 to 65535"),
        ("127.0.0.1", 0, "short", "16 or more"),
        ("127.0.0.1", 0, "ä" * 20, "16 or more"),
        ("192.0.2.1", 0, None, "cannot listen on 192.0.2.1"),
    ],
)
def test_addresses_that_cannot_be(host: str, port: int, token: str | None, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        listen(host, port, token)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: .*\nhint: choose another --port"):
            listen("127.0.0.1", port)


def test_a_token(folder: Path) -> None:
    token = "Secret0123456789"
    with serving(folder, "m", token=token) as server:
        assert server.url.endswith(f"/?token={token}")
        wrong = {"Cookie": "kamon-token-e131ffb2=x; a=b"}
        for headers in ({}, {"Authorization": "Bearer x"}, wrong):
            for path in ("/", "/health", "/api/v1/models"):
                assert server.ask("GET", path, **headers)[0] == 401
        assert server.ask("GET", "/?token=wrong")[0] == 401
        assert server.ask("GET", "/health", Authorization=f"Bearer {token}")[0] == 200
        status, found, _ = server.ask("GET", f"/?view=data&token={token}")
        assert (status, found["location"]) == (303, "/?view=data")
        assert "HttpOnly" in found["set-cookie"]
        cookie = found["set-cookie"].split(";")[0]
        # Other servers of the same machine have set what they like, under any port.
        for others in ("", 'theme={"a": 1}; ', "a[b]=c,d; e; ", "kamon-token=x; "):
            assert server.ask("GET", "/", Cookie=others + cookie)[0] == 200
            assert server.ask("GET", "/", Cookie=others + cookie + "x")[0] == 401
        assert server.ask("GET", "/?" + "&" * 1000)[0] == 401
        assert server.ask("GET", f"/?{'a=b&' * 1000}token={token}")[0] == 303


def test_tokens_of_two_servers_are_two_cookies() -> None:
    async def nothing(*_: Any) -> None: ...

    one, other = (RequestGuard(nothing, Limits(), frozenset(), name * 16).cookie for name in "ab")
    assert one != other


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it(number: signal.Signals, folder: Path) -> None:
    with serving(folder, "m") as server:
        assert server.ask("GET", "/")[0] == 200
        server.process.send_signal(number)
        _, said = server.process.communicate(timeout=10)
        assert server.process.returncode == 0
        assert said == ""  # with --json, only the first line


def test_what_was_saved_is_there_the_next_time(tmp_path: Path, folder: Path) -> None:
    model = folder / "m"
    with serving(tmp_path, model) as server:
        server.json("POST", "/models/m/save", {"name": "mine"}, 201)
        server.process.kill()
        server.process.communicate()
    (tmp_path / "models" / "broken").mkdir()
    (tmp_path / "models" / "broken" / "config.json").write_text("{}")
    with serving(tmp_path, model) as server:
        ids = [each["id"] for each in server.json("GET", "/models")["models"]]
        assert ids == ["mine", "m"]
        assert server.json("POST", "/sample", {"model": "mine", "n": 3})["samples"]


@pytest.mark.slow
def test_a_signal_ends_what_computes(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the native engine a model takes many seconds to learn answers."""
    resource = pytest.importorskip("resource", reason="no processor time of processes here")
    patch = 'import kamon.engines.native as n\nn.library_path = lambda level: f"/nowhere/{level}"\n'
    (tmp_path / "sitecustomize.py").write_text(patch)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with serving(tmp_path, folder / "m") as server:
        rated = server.json("POST", "/preferences", {"model": "m"}, 201)
        answers = [{"text": text, "liked": i > 1} for i, text in enumerate(rated["proposals"][:5])]
        body = json.dumps({"answers": answers}).encode()
        head = f"POST /api/v1/preferences/{rated['id']}/answers HTTP/1.1\r\nHost: {server.host}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(head.encode() + body)
            time.sleep(0.5)
            server.process.send_signal(signal.SIGINT)
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            _, said = server.process.communicate(timeout=100)
            used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        assert server.process.returncode == 0
        assert "Traceback" not in said
        assert used < 12  # seconds of the processor, for all it did: the learning takes 20


def test_more_saved_models_than_there_is_room_for(tmp_path: Path, folder: Path) -> None:
    """Those left out are named; a training needs no room of theirs, and DIR is what was asked."""
    for number in range(Limits().models + 1):
        shutil.copytree(folder / "m", tmp_path / "models" / f"m{number:02}")
    registry = ModelRegistry(tmp_path / "models", Limits())
    (problem,) = registry.add_saved()
    last = tmp_path / "models" / "m64"
    assert problem == f"no room for {last}: the limit is 64 saved models"
    assert registry.add_directory(folder / "m") == "m"
    with pytest.raises(StoreError, match="no room"):
        registry.save("m", "mine")
    assert not (tmp_path / "models" / "mine").exists()
    model = registry.get("m").opened
    assert model
    registry.add(Entry("job-1", "trained", lambda: model))


def test_a_saved_model_that_is_named_too(tmp_path: Path, folder: Path) -> None:
    """It is there once, and last: a page begins with it."""
    for name in ("mine", "other"):
        shutil.copytree(folder / "m", tmp_path / "models" / name)
    registry = ModelRegistry(tmp_path / "models", Limits())
    assert registry.add_saved() == []
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "models")
    for path in (tmp_path / "models" / "mine", link / "mine"):
        assert registry.add_directory(path) == "mine"
        assert list(registry.entries) == ["other", "mine"]


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_folder_that_cannot_be_made(name: str, tmp_path: Path, folder: Path) -> None:
    (tmp_path / "file").write_text("")
    with serving(tmp_path, folder / "m", f"--save-to={name}") as server:
        said = server.json("POST", "/models/m/save", {"name": "mine"}, 409)["error"]
        assert said == f"cannot write {name}/mine: Not a directory"
    with serving(tmp_path, folder / "m", "--save-to", tmp_path / name) as server:
        said = server.json("POST", "/models/m/save", {"name": "mine"}, 409)["error"]
        assert said == "cannot write mine: Not a directory"


def test_without_a_model_it_trains_one(tmp_path: Path) -> None:
    with serving(tmp_path, "--budget=0.2") as server:
        until(lambda: server.json("GET", "/jobs")["jobs"][0]["state"] == "done")
        (job,) = server.json("GET", "/jobs")["jobs"]
        samples = server.json("POST", "/sample", {"model": job["model"], "n": 3})["samples"]
        assert len(samples) == 3
    assert list(tmp_path.iterdir()) == []


def test_bad_input(kamon: Kamon, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.chdir(folder)
    for argv, code, said in (
        (["nowhere"], 1, "nowhere"),
        (["--save-to="], 2, "not an empty one"),
        (["m", "--budget=1"], 2, "--budget"),
        (["--host=example.org"], 2, "--host must be an IP address"),
        (["--port=99999"], 2, "port must be"),
        (["--port=x"], 2, "whole number"),
        (["--host=0.0.0.0", "--no-token"], 2, "only this machine"),
        (["--limit=x=1"], 2, "unknown limit 'x'"),
        (["--limit=jobs=0"], 2, "above 0"),
        (["--limit=jobs=1.5"], 2, "above 0"),
    ):
        found = kamon("serve", "--no-browser", *argv)
        assert (found.code, found.out) == (code, "")
        assert said in found.err
        assert [line.split(":")[0] for line in found.err.splitlines()] in (
            ["error"],
            ["error", "hint"],
        )


def test_without_the_extra(kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    import kamon.cli.serve as verb

    for name in ("fastapi", "uvicorn"):
        monkeypatch.setattr(verb, "find_spec", lambda wanted, name=name: wanted != name or None)
        found = kamon("serve")
        assert (found.code, found.out) == (2, "")
        assert f"the playground needs {name}\n" in found.err
        assert 'hint: install it with `pip install "kamon[web]"`\n' in found.err


def test_the_address_is_the_result(folder: Path) -> None:
    with serving(folder, "m") as server:
        assert server.url == f"http://127.0.0.1:{server.port}/"
        answer = server.raw(
            f"GET / HTTP/1.1\r\nHost: {server.host}\r\nConnection: close\r\n\r\n".encode()
        )
        assert status_of(answer) == 200
        assert json.loads(server.ask("GET", "/health")[2])["version"] == kamon.__version__
