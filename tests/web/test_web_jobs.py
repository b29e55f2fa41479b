"""Trainings in processes of their own, and the routes that start, steer and watch them."""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kamon
from helpers.server import serving
from kamon.data import corpus
from kamon.data.cleaning import clean
from kamon.data.split import divide
from kamon.errors import CorpusError
from kamon.evaluation.introspection import losses

pytest.importorskip("uvicorn", reason="the server is in kamon[web]")

from kamon.web.errors import WebError
from kamon.web.limits import Limits
from kamon.web.routes import jobs as job_routes
from kamon.web.routes.app import make_app
from kamon.web.routes.jobs import CleanAnswer, CleanRequest, EventCursor
from kamon.web.services import jobs, worker
from kamon.web.services.jobs import COMMAND, Job
from kamon.web.services.playground import Playground
from kamon.web.services.worker import wanted_steps
from kamon.web.services.workers import Stop

pytestmark = pytest.mark.extra
BEGINS = ["an", "be", "cor", "da", "el", "fi", "gro", "hu", "is", "jo", "ka", "lu", "mi", "no"]
LOSSES = ("losses", "validation_losses")
WORDS = [a + b + c for a in BEGINS for b in "aeiou" for c in ("n", "la", "")]
LIST = "\n".join(WORDS)
SMALL = {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 8}
LONG = SMALL | {"num_steps": 100_000, "batch_size": 64}  # of which no test waits for the end


class Server:
    """A playground and its application, without a socket."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.playground = Playground(folder, limits)
        self.jobs, self.registry = self.playground.jobs, self.playground.registry
        self.app = make_app(self.playground, frozenset({"here"}))
        self.pids: list[int] = []

    def ask(
        self, method: str, path: str, json: Any = None, headers: dict[str, str] | None = None
    ) -> httpx.Response:
        async def asked() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
                return await client.request(method, f"/api/v1{path}", json=json, headers=headers)

        return asyncio.run(asked())

    def start(self, status: int = 202, **request: Any) -> Any:
        answer = self.ask("POST", "/jobs", request)
        assert answer.status_code == status, answer.text[:300]
        found = answer.json()
        if status == 202:
            self.pids.append(self.job(found["id"]).process.pid)
        return found

    def job(self, id: str) -> Job:
        return self.jobs.get(id)

    def ended(self, id: str) -> Any:
        """The training as it is in the end."""
        until(lambda: self.job(id).over)
        return self.ask("GET", f"/jobs/{id}").json()

    def trained(self, **request: Any) -> Any:
        return self.ended(self.start(**request)["id"])


def preview(text: str) -> CleanAnswer:
    return job_routes.preview(CleanRequest(text=text), Stop())


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.01)


def fresh(model: kamon.Model, num_tried: int = 50) -> list[str]:
    """The first novel and unique ones of so many samples, at most 5: what a training shows."""
    known = {"", *model.docs}
    return [text for text in dict.fromkeys(model.sample(num_tried)) if text not in known][:5]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"  # one that nobody has asked for yet has ended all the same


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def make(**limits: Any) -> Server:
        servers.append(Server(tmp_path, replace(Limits(), **limits)))
        return servers[-1]

    yield make
    for server in servers:
        server.jobs.close()
        server.playground.work.close()
        assert not any(map(is_running, server.pids))


@pytest.fixture
def server(make: Callable[..., Server]) -> Server:
    return make()


# ---- what comes of a training


def test_a_training_makes_the_model_that_train_makes(server: Server) -> None:
    settings = SMALL | {"num_steps": 60, "learning_rate": 0.02}
    found = server.trained(text=LIST, seed=7, settings=settings)
    kept: dict[int, Any] = {}
    runs: list[Any] = []

    def on_start(run: Any) -> None:
        runs.append(run)
        kept[0] = run.engine.state()["params"]

    wanted = kamon.train(
        WORDS,
        seed=7,
        on_start=on_start,
        on_progress=lambda p: kept.update({len(p.losses): runs[0].engine.state()["params"]}),
        **settings,
    )
    assert found["state"] == "done"
    assert found["error"] is None
    assert found["model"] == found["id"]
    assert found["budget"] is None
    assert (found["num_steps"], found["step"], found["num_docs"]) == (60, 60, len(WORDS))
    assert found["num_params"] == wanted.num_params
    assert found["losses"] == [[m["step"], m["loss"]] for m in wanted.metrics]
    measured = [[step, loss] for step, loss in wanted.metrics.held_out.items()]
    assert found["validation_losses"] == measured
    assert measured
    drawn = losses(wanted)
    assert found["lines"] == {
        "uniform": drawn.uniform,
        "ngram": drawn.ngram,
        "ngram_order": drawn.ngram_order,
    }
    with server.registry.get(found["id"]).use() as model:
        assert model.config == wanted.config
        assert model.engine.state()["params"] == wanted.engine.state()["params"]
        assert model.metrics == wanted.metrics
        assert model.docs == wanted.docs
        assert model.parts() == wanted.parts()
        assert model.sample(20) == wanted.sample(20)
        own = {"seconds": 0, "corpus": 0}  # what a list is called, and its time, are others
        assert {**model.training, **own} == {**wanted.training, **own}
    common = 0
    for moment in found["moments"]:
        with server.registry.get(moment["model"]).use() as model:
            if moment["step"] in kept:  # a clock decides which steps are reported
                common += 1
                assert model.engine.state()["params"] == kept[moment["step"]]
    assert common >= 3


@pytest.mark.parametrize("blend", [True, False])
def test_moments_are_models_of_their_steps(server: Server, *, blend: bool) -> None:
    settings = SMALL | {"num_steps": 100, "learning_rate": 0.03 if blend else 0.001}
    found = server.trained(text=LIST, settings=settings, blend=blend)
    steps = [moment["step"] for moment in found["moments"]]
    assert steps[:2] == [0, 1]
    assert steps[-1] == 100
    assert steps == sorted(set(steps))
    with server.registry.get(found["id"]).use() as model:
        last = model
    for moment in found["moments"]:
        entry = server.registry.get(f"{found['id']}@{moment['step']}")
        assert (entry.parent, entry.step, entry.kind) == (found["id"], moment["step"], "trained")
        with entry.use() as model:
            assert fresh(model) == moment["samples"]
            assert (model.training.blend is not None) == blend
            assert moment["blend"] == (model.training.blend and dict(model.training.blend))
            assert len(model.metrics) == moment["step"] == model.training["num_steps_done"]
            assert model.metrics[:] == last.metrics[: moment["step"]]
            assert max(model.metrics.held_out, default=0) <= moment["step"]
            assert model.training.keys() == last.training.keys()
            assert model.training["held_out"]["best_step"] == moment["step"]
            assert model.parts() == last.parts()
    if blend:
        weights = [moment["blend"]["weight"] for moment in found["moments"]]
        assert weights[0] < weights[-1]
        return
    # The last step did best here: its model is the one that was kept, with the same figures.
    assert last.training["held_out"]["best_step"] == 100
    assert last.training["held_out"] == model.training["held_out"]


def test_a_moment_can_be_saved_if_it_has_learned(server: Server) -> None:
    found = server.trained(text=LIST, settings=SMALL | {"num_steps": 30})
    path = server.registry.save(f"{found['id']}@1", "early").path
    assert fresh(kamon.load(path)) == found["moments"][1]["samples"]
    with pytest.raises(WebError, match="no checkpoint yet"):
        server.registry.save(f"{found['id']}@0", "first")
    assert kamon.load(server.registry.save(found["id"], "whole").path).training["finished"]
    assert server.ask("DELETE", f"/jobs/{found['id']}").status_code == 204
    assert set(server.registry.entries) == {"early", "whole"}


def test_a_budget_picks_the_settings(server: Server) -> None:
    found = server.trained(builtin="names", budget=0.1)
    assert (found["state"], found["budget"], found["num_docs"]) == ("done", 0.1, 29_693)
    assert found["num_steps"] > 50
    assert found["seconds"] < 5
    assert found["source"] == "names"
    assert len(found["losses"]) <= 500
    with server.registry.get(found["id"]).use() as model:
        assert found["lines"]["uniform"] == math.log(model.config.vocab_size)
        numbers = [m["loss"] for m in model.metrics]
    every = found["every"]
    assert len(numbers) == found["step"]
    assert every == -(-found["num_steps"] // 500)
    for place, (step, loss) in enumerate(found["losses"]):
        own = numbers[place * every : (place + 1) * every]
        assert (step, loss) == (place * every + len(own), math.fsum(own) / len(own))
    assert found["losses"][-1][0] == found["step"]


def test_the_best_step_is_told_where_the_last_is_worse(server: Server) -> None:
    settings = {"n_layer": 1, "n_embd": 64, "n_head": 2, "block_size": 8, "learning_rate": 0.05}
    found = server.trained(text=LIST, settings=settings | {"num_steps": 2000, "batch_size": 8})
    best = found["best"]
    assert found["state"] == "done"
    assert 0 < best["step"] < found["step"] < found["num_steps"]
    assert best["over_fitted"]
    with server.registry.get(found["id"]).use() as model:
        kept = model.training["held_out"]
        assert (best["step"], best["validation_loss"]) == (kept["best_step"], kept["loss"])
        assert (best["gpt_loss"], best["ngram_loss"]) == (kept["gpt_loss"], kept["ngram_loss"])
        assert best["blend"] == model.training["blend"]
        assert best["samples"] == fresh(model, 1000)
        last = found["moments"][-1]
        assert last["step"] == best["step"] or last["samples"] != best["samples"]
    assert events(server, found["id"])[-1][2]["best"] == best


def test_a_short_list_has_nothing_held_out(server: Server) -> None:
    found = server.trained(text="anna\nbert\ncora", settings={"num_steps": 5}, name="three")
    best = found["best"]
    assert (best["step"], best["over_fitted"]) == (5, False)
    assert best["samples"] == found["moments"][-1]["samples"]
    assert (found["init_from"], best["num_folds"]) == ("base", 3)
    assert (found["state"], found["source"], found["validation_losses"]) == ("done", "three", [])
    assert found["lines"]["ngram"] is None
    with server.registry.get(f"{found['id']}@0").use() as model:
        assert model.training["held_out"] is None
        assert model.training["corpus"]["source"] == "three"
    with server.registry.get(found["id"]).use() as model:
        folds = model.training["cross_validation"]
        assert (best["validation_loss"], best["gpt_loss"]) == (folds["loss"], folds["gpt_loss"])
        assert best["blend"] == model.training["blend"]


def test_a_training_says_that_it_prepares(make: Callable[..., Server]) -> None:
    server = make()
    id = server.start(text="\n".join(WORDS[:60]), settings={"num_steps": 1000})["id"]
    until(lambda: server.job(id).state == "starting" and server.job(id).seconds > 0)
    seconds = server.job(id).seconds
    server.ask("POST", f"/jobs/{id}/pause")
    time.sleep(0.3)
    paused = server.job(id).seconds
    time.sleep(0.3)
    assert server.job(id).seconds == paused >= seconds
    server.ask("POST", f"/jobs/{id}/resume")
    until(lambda: server.job(id).seconds > paused)
    server.ask("POST", f"/jobs/{id}/stop")
    assert server.ended(id)["state"] == "stopped"


@pytest.mark.parametrize(
    ("request_", "start", "blended"),
    [
        ({}, "base", True),
        ({"init_from": "base"}, "base", True),
        ({"init_from": "scratch"}, None, True),
        ({"blend": False}, "base", False),
    ],
)
def test_a_request_chooses_the_start_and_the_blend(
    server: Server, request_: Any, start: str | None, *, blended: bool
) -> None:
    found = server.trained(text=LIST, settings={"num_steps": 5}, **request_)
    assert found["init_from"] == start
    model = server.ask("GET", f"/models/{found['id']}").json()
    with server.registry.get(found["id"]).use() as own:
        assert own.training["init_from"] == start
        measured = own.training["held_out"]
    parts = [found["best"][name] for name in ("validation_loss", "gpt_loss", "ngram_loss")]
    assert parts == [model[name] for name in ("validation_loss", "gpt_loss", "ngram_loss")]
    assert parts == [measured["loss"], measured.get("gpt_loss"), measured.get("ngram_loss")]
    assert (None not in parts) == (found["best"]["blend"] is not None) == blended
    assert model["blend"] == found["best"]["blend"]
    assert model["n_layer"] == (4 if start else 1)


def test_wanted_steps_are_few_and_dense_at_first() -> None:
    for num_steps in (1, 2, 39, 1000, 100_000):
        steps = list(wanted_steps(num_steps, 40))
        assert steps[0] == 0
        assert steps[-1] == num_steps
        assert len(steps) <= 40
        gaps = [after - before for before, after in itertools.pairwise(steps)]
        assert min(gaps) >= 1
        assert gaps[0] <= gaps[-1]


def test_large_models_have_fewer_moments(make: Callable[..., Server]) -> None:
    found = make(snapshot_bytes=20_000).trained(text=LIST, settings=SMALL | {"num_steps": 300})
    assert 20_000 // 6 < 4 * found["num_params"] <= 20_000 // 4
    assert len(found["moments"]) == 20_000 // (4 * found["num_params"])


def test_moments_take_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "KEEPING_SECONDS", 0.0)
    monkeypatch.setattr(worker, "KEEPING_SHARE", 0.0)
    out = io.BytesIO()
    wanted = worker.Request("a list", None, Limits(), SMALL | {"num_steps": 100})
    training = worker.Training(
        wanted, corpus.from_docs(WORDS), worker.Control(), worker.Report(out)
    )
    training.run()
    said = list(map(json.loads, out.getvalue().splitlines()))
    assert [each["step"] for each in said if each["type"] == "moment"] == [0, 100]


def test_of_moments_only_some_stay_open(make: Callable[..., Server]) -> None:
    server = make(snapshots_open=2)
    found = server.trained(text=LIST, settings=SMALL | {"num_steps": 100})
    entries = [server.registry.get(moment["model"]) for moment in found["moments"]]
    assert len(entries) > 4
    with entries[0].use() as first:
        for entry in entries[1:]:
            with entry.use():
                pass
        assert entries[0].opened is first  # not closed under the hands of who uses it
        assert [e for e in entries if e.opened] == [entries[0], *entries[-2:]]
    for moment, entry in zip(found["moments"], entries, strict=True):
        with entry.use() as model:
            assert fresh(model) == moment["samples"]
    assert [e for e in entries if e.opened] == entries[-2:]


# ---- pause, resume, stop, cancel


def stands_still(job: Job) -> bool:
    """A pause begins behind the next report, which comes ten times a second."""
    stands = len(job.losses)
    time.sleep(0.5)
    return len(job.losses) == stands


def test_pause_resume_and_stop(server: Server) -> None:
    id = server.start(text=LIST, settings=LONG)["id"]
    job = server.job(id)
    until(lambda: len(job.losses) > 10)
    assert server.ask("POST", f"/jobs/{id}/pause").json()["state"] == "paused"
    until(lambda: stands_still(job))
    stands, seconds = len(job.losses), job.seconds
    time.sleep(1.5)
    assert len(job.losses) == stands
    assert server.ask("GET", f"/jobs/{id}").json()["state"] == "paused"
    assert server.ask("POST", f"/jobs/{id}/resume").json()["state"] == "running"
    until(lambda: len(job.losses) > stands)
    assert job.seconds < seconds + 1.4  # the pause is no time of training
    assert server.ask("POST", f"/jobs/{id}/stop").status_code == 200
    found = server.ended(id)
    assert found["state"] == "stopped"
    assert found["model"] == id
    assert found["error"] is None
    assert stands < found["step"] < 100_000
    with server.registry.get(id).use() as model:
        assert len(model.metrics) == found["step"]
        assert not model.training["finished"]
        assert model.training["seconds"] < seconds + 5
        assert len(model.sample(3)) == 3
    assert server.ask("POST", f"/jobs/{id}/stop").json()["state"] == "stopped"
    for word in ("pause", "resume"):
        answer = server.ask("POST", f"/jobs/{id}/{word}")
        assert answer.status_code == 409
        assert "over" in answer.json()["error"]


def test_a_paused_training_can_be_stopped(server: Server) -> None:
    id = server.start(text=LIST, settings=LONG)["id"]
    server.ask("POST", f"/jobs/{id}/pause")  # before it has started
    until(lambda: len(server.job(id).losses) > 0)
    assert server.job(id).state == "paused"
    server.ask("POST", f"/jobs/{id}/stop")
    assert server.ended(id)["state"] == "stopped"


def test_a_training_that_takes_too_long_is_stopped(make: Callable[..., Server]) -> None:
    found = make(job_seconds=0.2).trained(text=LIST, settings=LONG)
    assert found["state"] == "stopped"
    assert "the limit for a training" in found["error"]
    assert found["model"] == found["id"]
    assert found["seconds"] < 5


def test_twenty_cancelled_trainings_leave_nothing(make: Callable[..., Server]) -> None:
    server = make(jobs=20)
    ids = [server.start(text=LIST, settings=LONG)["id"] for _ in range(20)]
    until(lambda: sum(bool(server.job(id).moments) for id in ids) >= 3)
    threads = [thread for id in ids for thread in server.job(id).threads]
    for id in ids:
        assert server.ask("DELETE", f"/jobs/{id}").status_code == 204
        assert server.ask("GET", f"/jobs/{id}").status_code == 404
    until(lambda: not any(map(is_running, server.pids)))
    until(lambda: not any(thread.is_alive() for thread in threads))
    assert server.registry.entries == {}
    assert server.ask("GET", "/jobs").json() == {"jobs": []}
    with pytest.raises(ChildProcessError):  # all were asked for how they ended
        os.waitpid(server.pids[0], os.WNOHANG)


def test_only_so_many_at_a_time(make: Callable[..., Server]) -> None:
    server = make(jobs=1)
    id = server.start(text=LIST, settings=LONG)["id"]
    short = SMALL | {"num_steps": 2}
    ids = [
        server.ask("POST", "/jobs", {"text": LIST, "settings": short}).json()["id"] for _ in "ab"
    ]
    found = [server.ask("GET", f"/jobs/{each}").json() for each in ids]
    assert [(job["state"], job["ahead"]) for job in found] == [("queued", 0), ("queued", 1)]
    assert server.ask("POST", f"/jobs/{ids[0]}/stop").json()["state"] == "stopped"
    assert server.ask("GET", f"/jobs/{ids[1]}").json()["ahead"] == 0
    server.ask("DELETE", f"/jobs/{id}")
    assert server.ended(ids[1])["state"] == "done"
    assert server.job(ids[0]).process is None


def test_a_full_queue_is_told(make: Callable[..., Server]) -> None:
    server = make(jobs=1, jobs_waiting=1)
    server.start(text=LIST, settings=LONG)
    server.ask("POST", "/jobs", {"text": LIST})
    answer = server.ask("POST", "/jobs", {"text": LIST})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert "1 trainings are already waiting" in answer.json()["error"]


def test_a_pause_gives_its_place_away_and_ends(make: Callable[..., Server]) -> None:
    """Who pauses holds nobody up, waits for a place to go on, and does not wait for ever."""
    server = make(jobs=1, jobs_paused=1, pause_seconds=1.0)
    first = server.start(text=LIST, settings=LONG)["id"]
    until(lambda: len(server.job(first).losses) > 0)
    assert server.ask("POST", f"/jobs/{first}/pause").json()["state"] == "paused"
    second = server.start(text=LIST, settings=LONG)["id"]
    until(lambda: server.job(second).state == "running")
    assert server.ask("POST", f"/jobs/{second}/pause").status_code == 429
    found = server.ask("POST", f"/jobs/{first}/resume").json()
    assert (found["state"], found["ahead"]) == ("queued", 0)
    server.ask("POST", f"/jobs/{second}/stop")
    until(lambda: server.job(first).state == "running")
    server.ask("POST", f"/jobs/{first}/pause")
    found = server.ended(first)
    assert (found["state"], found["model"]) == ("stopped", first)
    assert "a pause of 1 seconds" in found["error"]


def test_the_oldest_is_forgotten(make: Callable[..., Server]) -> None:
    server = make(jobs_kept=2)
    ids = [server.trained(text=LIST, settings=SMALL | {"num_steps": 2})["id"] for _ in range(3)]
    last = server.start(text=LIST, settings=LONG)["id"]
    kept = [job["id"] for job in server.ask("GET", "/jobs").json()["jobs"]]
    assert kept == [*ids[1:], last]
    assert {entry.split("@")[0] for entry in server.registry.entries} <= set(kept)


# ---- processes that end


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid:
                found.append(int(path.parent.name))
    return found


@pytest.mark.slow
def test_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    ask: dict[str, Any] = {"text": LIST, "settings": LONG}
    with serving(tmp_path) as server:
        until(lambda: not children(server.process.pid))  # the first training is over
        paused, running = (server.json("POST", "/jobs", ask, 202)["id"] for _ in range(2))
        server.json("POST", f"/jobs/{paused}/pause")
        until(lambda: len(server.json("GET", f"/jobs/{running}")["moments"]) > 1)
        early = server.json("GET", f"/jobs/{running}")["moments"][1]["model"]
        server.json("POST", f"/models/{early}/save", {"name": "early"}, 201)
        pids = children(server.process.pid)
        assert len(pids) == 2
        server.process.kill()
        server.process.communicate()
        until(lambda: not any(map(is_running, pids)), 5)
    with serving(tmp_path) as server:
        for id in (paused, running):
            server.json("GET", f"/jobs/{id}/events", status=404)
        models = server.json("GET", "/models")["models"]
        assert "early" in [model["id"] for model in models]
        server.json("POST", "/sample", {"model": "early"})
        server.json("POST", "/jobs", ask, 202)
        pids = children(server.process.pid)
        assert pids
    until(lambda: not any(map(is_running, pids)), 5)  # nor where it ends as it should


def worker_with(content: bytes, *, close: bool = True) -> tuple[int, list[Any]]:
    """The exit code of a worker that is told this, and what it says."""
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(content)
        process.stdin.flush()
        if close:
            process.stdin.close()
        said = [json.loads(line) for line in process.stdout]
        code = process.wait(10)
    return code, said


def request(**settings: Any) -> bytes:
    fields = {
        "text": LIST,
        "source": "a list",
        "budget": None,
        "settings": settings,
        "limits": asdict(Limits(job_seconds=30.0, snapshots=3)),
    }
    return json.dumps(fields).encode() + b"\n"


def test_a_worker_ends_with_its_input() -> None:
    start = time.monotonic()
    code, said = worker_with(request(**LONG))
    assert code == 0
    assert not any(message["type"] == "end" for message in said)
    assert time.monotonic() - start < 50  # it may train for 60 seconds


@pytest.mark.parametrize(
    "content",
    [
        b"{}\n",
        pytest.param(b"", marks=pytest.mark.slow),
        pytest.param(b"\xff\0{", marks=pytest.mark.slow),
        pytest.param(b"[1]\n", marks=pytest.mark.slow),
        pytest.param(b"[" * 10_000, marks=pytest.mark.slow),
    ],
)
def test_garbage_is_no_training(content: bytes) -> None:
    code, said = worker_with(content)
    assert (code, [message["type"] for message in said]) == (2, ["failed"])
    assert "not a training" in said[0]["error"]


def test_garbage_is_no_command() -> None:
    garbage = b"\xff\xfe\0\n" + b"x" * 100_000 + b"\nPAUSE\n{}\n\n"
    code, said = worker_with(request(**SMALL, num_steps=5) + garbage, close=False)
    assert (code, said[-1]["type"], said[-1]["finished"]) == (0, "end", True)


WORKERS = {
    "nonsense": ("print('what?', flush=True); input()", "sent an invalid message"),
    "no-object": ("print('[1]', flush=True)", "sent an invalid message"),
    "unknown": ('print(\'{"type": "dance"}\', flush=True)', "sent an invalid message"),
    "too-early": (
        'print(\'{"type": "moment", "step": 0, "params": "", "samples": []}\', flush=True)',
        "sent an invalid message",
    ),
    "endless": ("import sys\nwhile True: sys.stdout.write('[' * 5000)", "sent an invalid message"),
    "crash": ("import os; os.abort()", f"exit code {-signal.SIGABRT}"),
    "silence": ("pass", "exit code 0"),
}


@pytest.mark.parametrize("name", WORKERS)
def test_a_process_that_goes_wrong(
    name: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, error = WORKERS[name]
    monkeypatch.setattr(jobs, "COMMAND", [sys.executable, "-c", program])
    monkeypatch.setattr(jobs, "MAX_LINE_BYTES", 100_000)
    monkeypatch.setattr(jobs, "END_SECONDS", 0.3)
    found = server.trained(text=LIST, settings=LONG)
    assert found["state"] == "failed"
    assert error in found["error"]
    assert found["model"] is None
    until(lambda: not any(map(is_running, server.pids)))


def test_closing_ends_even_who_does_not_listen(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    server.start(text=LIST, settings=LONG)
    monkeypatch.setattr(jobs, "COMMAND", [sys.executable, "-c", deaf])
    monkeypatch.setattr(jobs, "END_SECONDS", 0.3)
    server.start(text=LIST * 200, settings=LONG)  # more than a pipe holds
    start = time.monotonic()
    server.jobs.close()
    assert time.monotonic() - start < 30  # the deaf one sleeps for 60
    assert not any(map(is_running, server.pids))
    assert [job.state for job in server.jobs.all()] == ["stopped", "stopped"]
    assert server.start(503, text=LIST, settings=LONG)["error"] == "the server is shutting down"


# ---- what is refused

BAD = {
    "nothing": ({}, "needs one list"),
    "both": ({"text": LIST, "builtin": "names"}, 'give either "text" or "builtin"'),
    "empty": ({"text": ""}, "is empty"),
    "blank": ({"text": " \n\t\n"}, "has only blank lines"),
    "one": ({"text": "anna"}, "has only one entry"),
    "again": ({"text": "anna\nanna\n", "name": "mine"}, "mine has only one entry, repeated"),
    "nul": ({"text": "anna\nb\0b"}, "line 2 has a NUL"),
    "divides": ({"text": LIST, "settings": {"n_embd": 10, "n_head": 4}}, "set n_head to"),
    "budget-and-steps": (
        {"text": LIST, "budget": 1, "settings": {"num_steps": 3}},
        "give either budget or num_steps",
    ),
    "large": ({"text": LIST, "settings": {"n_layer": 16, "n_embd": 512}}, "smaller n_embd"),
    "characters": (
        {"text": "\n".join(map(chr, range(0x4E00, 0x9E00))), "settings": {"n_embd": 64}},
        "fewer unique characters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_known_at_once_is_refused(name: str, server: Server) -> None:
    request, error = BAD[name]
    found = server.start(422, **request)["error"]
    assert error in found
    assert "\n" not in found
    assert server.jobs.all() == []


@pytest.mark.parametrize(
    "request_",
    [
        {"text": LIST, "budget": math.inf},
        {"text": LIST, "budget": 121},
        {"text": LIST, "budget": "1"},
        {"text": LIST, "seed": 1.5},
        {"text": LIST, "seed": 2**63},
        {"text": LIST, "settings": {"num_steps": 100_001}},
        {"text": LIST, "settings": {"num_steps": True}},
        {"text": LIST, "settings": {"vocab_size": 3}},
        {"text": LIST, "settings": {"n_embd": 513}},
        {"text": LIST, "settings": {"dropout": 1}},
        {"text": "x" * 300_000},
        {"text": "anna\nb\ud800"},
        {"builtin": "/etc/passwd"},
        {"builtin": "names-original"},
        {"text": LIST, "path": "/tmp"},
    ],
)  # fmt: skip
def test_what_no_request_may_say(request_: dict[str, Any], server: Server) -> None:
    content = json.dumps(request_)

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(server.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            headers = {"content-type": "application/json"}
            return await client.post("/api/v1/jobs", content=content, headers=headers)

    answer = asyncio.run(asked())
    assert answer.status_code in (413, 422)
    assert list(answer.json()) == ["error"]
    assert server.jobs.all() == []


def test_limits_are_those_of_the_server(make: Callable[..., Server]) -> None:
    server = make(job_seconds=1.0, job_steps=10)
    assert "at most" in server.start(422, text=LIST, budget=1.5)["error"]
    assert "at most 10" in server.start(422, text=LIST, settings={"num_steps": 11})["error"]
    found = server.trained(text=LIST, budget=0.1)
    assert found["state"] == "failed"
    assert "the limit is 10" in found["error"]
    assert found["model"] is None
    assert found["moments"] == []


def test_a_model_that_turns_out_too_large(make: Callable[..., Server]) -> None:
    # A budget picks a larger block_size than the least there is.
    found = make(job_params=4000).trained(text=f"{LIST}\n{'o' * 30}", budget=0.05)
    assert found["state"] == "failed"
    assert "the limit is 4,000" in found["error"]


@pytest.mark.parametrize("path", ["", "/events", "/pause", "/resume", "/stop"])
def test_what_is_not_there(path: str, server: Server) -> None:
    method = "GET" if path in ("", "/events") else "POST"
    answer = server.ask(method, f"/jobs/job-0{path}")
    assert answer.status_code == 404
    assert "job-0" in answer.json()["error"]


def test_forgetting_what_is_not_there(server: Server) -> None:
    assert server.ask("DELETE", "/jobs/job-0").status_code == 404


# ---- events

Event = tuple[str, str, Any]


def parsed(text: str) -> list[Event]:
    """(name, id, data) of each."""
    found = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            fields = dict(line.split(": ", 1) for line in block.split("\n"))
            assert list(fields) == ["event", "id", "data"]
            found.append((fields["event"], fields["id"], json.loads(fields["data"])))
    return found


def events(server: Server, id: str, last: str | None = None) -> list[Event]:
    headers = {"last-event-id": last} if last is not None else None
    answer = server.ask("GET", f"/jobs/{id}/events", headers=headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    return parsed(answer.text)


def put_together(found: list[Event]) -> Any:
    """What a page knows of a training behind these events, the first of which is a start."""
    known: Any = None
    for name, _, data in found:
        if name == "start":
            known = deepcopy(data) | {"losses": [], "validation_losses": []}
        elif name == "end":
            pass
        elif name == "moment":
            known["moments"].append(data)
        else:
            for key in LOSSES:
                known[key] = known[key] + data[key]
            known |= {key: data[key] for key in ("state", "step", "seconds", "lines")}
    return known


def test_events_tell_the_whole_training(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_routes, "LOOK_SECONDS", 0.005)
    id = server.start(text=LIST, settings=SMALL | {"num_steps": 3000, "batch_size": 32})["id"]
    found = events(server, id)  # until its end
    names = [name for name, _, _ in found]
    assert names[0] == "start"
    assert names[-1] == "end"
    assert names.count("end") == 1
    assert names.count("progress") >= 2
    assert "moment" in names
    whole = found[-1][2]
    wanted = server.ended(id)
    losses = {key: wanted.pop(key) for key in LOSSES}
    assert whole == wanted
    assert whole["state"] == "done"
    assert losses["losses"]
    assert found[0][2].keys() == whole.keys()
    assert wanted in server.ask("GET", "/jobs").json()["jobs"]
    whole = whole | losses
    assert put_together(found) == whole | {"model": None, "best": None}
    assert server.jobs.streams == 0

    # Whoever comes back from any of them is told what is missing, and nothing twice.
    for place, (_, last, _) in enumerate(found[:-1]):
        again = events(server, id, last)
        assert [name for name, _, _ in again].count("start") == (last[0] == "0")
        rest = again if last[0] == "0" else found[: place + 1] + again
        told = put_together(rest)
        assert told | {"model": None, "best": None} == whole | {"model": None, "best": None}
        assert again[-1] == found[-1]
    answer = server.ask("GET", f"/jobs/{id}/events", headers={"last-event-id": found[-1][1]})
    assert answer.status_code == 204


def test_an_id_of_nothing_begins_anew(server: Server) -> None:
    id = server.trained(text=LIST, settings=SMALL | {"num_steps": 20})["id"]
    whole = server.ended(id)
    for last in ("", "1", "no", "1-0-0-999999-0-0", "1-1-1-1-1-1-1", "-1-0-0-0-0-0"):
        found = events(server, id, last)
        assert [name for name, _, _ in found] == ["start", "progress", "end"]
        assert found[0][2] | {key: found[1][2][key] for key in LOSSES} == whole
        assert found[0][2] == found[2][2]
    assert EventCursor.from_id("²-0-0-0-0-0", server.job(id)) is None


def test_a_failure_is_an_end(make: Callable[..., Server]) -> None:
    server = make(job_steps=10)
    found = events(server, server.start(text=LIST, budget=0.05)["id"])
    assert found[-1][0] == "end"
    assert found[-1][2]["state"] == "failed"


class Client:
    """Reads a stream of events as a server would send it, and goes away when it is told to."""

    def __init__(self, server: Server, id: str) -> None:
        self.server, self.path = server, f"/api/v1/jobs/{id}/events"
        self.text = ""
        self.status = 0
        self.gone = asyncio.Event()
        self.asked = False

    async def receive(self) -> Any:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.status = message.get("status", self.status)
        self.text += message.get("body", b"").decode()

    def run(self) -> asyncio.Task[None]:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"here")],
        }
        return asyncio.create_task(self.server.app(scope, self.receive, self.send))


async def comes_to(condition: Callable[[], bool]) -> None:
    for _ in range(3000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


def test_streams_are_few_and_beat_and_are_freed(
    make: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_routes, "HEARTBEAT_SECONDS", 0.2)
    server = make(streams=2)
    id = server.start(text=LIST, settings=LONG)["id"]
    server.ask("POST", f"/jobs/{id}/pause")
    until(lambda: len(server.job(id).losses) > 0)

    async def watched() -> None:
        clients = [Client(server, id) for _ in range(3)]
        tasks = [client.run() for client in clients[:2]]
        await comes_to(lambda: all("event: start" in client.text for client in clients[:2]))
        await clients[2].run()
        assert clients[2].status == 503
        assert "open" in json.loads(clients[2].text)["error"]
        await comes_to(lambda: clients[0].text.count(": still there\n\n") >= 2)
        assert server.jobs.streams == 2
        clients[0].gone.set()
        await asyncio.wait_for(tasks[0], 5)
        assert server.jobs.streams == 1
        known = len(clients[1].text)
        server.jobs.resume(id)
        await comes_to(lambda: '"state":"running"' in clients[1].text[known:])
        server.jobs.forget(id)  # the other one is told the end
        await asyncio.wait_for(tasks[1], 5)
        assert parsed(clients[1].text)[-1][0] == "end"
        assert server.jobs.streams == 0

    asyncio.run(watched())


def test_events_are_at_most_ten_a_second(server: Server) -> None:
    id = server.start(text=LIST, settings=LONG)["id"]

    async def watched() -> None:
        client = Client(server, id)
        task = client.run()
        await comes_to(lambda: "event: progress" in client.text)
        known = len(client.text)
        await asyncio.sleep(1.0)
        names = [name for name, _, _ in parsed(client.text[known:].rpartition("\n\n")[0])]
        assert 1 <= names.count("progress") <= 11
        client.gone.set()
        await task

    asyncio.run(watched())


# ---- what reading does


def test_what_reading_does_to_a_list(server: Server) -> None:
    text = "\ufeffanna \r\nbert\r\n\r\n anna\n\tcora\nbert\n  \nbert"
    found = server.ask("POST", "/clean", {"text": text}).json()
    assert found.pop("tidied") is None
    assert found == {
        "num_lines": 8,
        "num_docs": 3,
        "num_blank": 2,
        "num_repetitions": 3,
        "num_stripped": 3,
        "num_normalized": 0,
        "num_validation": 0,
        "longest": 4,
        "characters": 8,
        "removed": [
            {"text": "", "why": "blank", "line": 3},
            {"text": " anna", "why": "as line 1", "line": 4},
            {"text": "bert", "why": "as line 2", "line": 6},
            {"text": "  ", "why": "blank", "line": 7},
            {"text": "bert", "why": "as line 2", "line": 8},
        ],
        "changed": [
            {"before": "anna ", "after": "anna", "line": 1},
            {"before": "\tcora", "after": "cora", "line": 5},
        ],
        "docs": ["anna", "bert", "cora"],
        "warnings": [],
        "looks_like": None,
    }


LINES = st.lists(
    st.sampled_from(["anna", " anna", "bo\t", "", " ", "é", "\x85x", "a\u2028b", "\x1c"])
)
TEXTS = st.builds(str.join, st.sampled_from(["\n", "\r\n", "\r"]), LINES) | st.text(max_size=30)


@given(TEXTS)
def test_counts_are_those_of_a_file(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("list") / "list.txt"
    path.write_bytes(text.encode())
    try:
        source = corpus.read(path)
    except CorpusError as found:
        problem = str(found).replace(str(path), "a pasted list")
        with pytest.raises(CorpusError, match=f"^{re.escape(problem)}$"):
            preview(text)
        return
    assert corpus.from_text(text, str(path)) == source
    found = preview(text)
    learned, held_out = divide(source.docs)
    assert found.num_lines == source.num_entries
    assert (found.num_blank, found.num_stripped) == (source.num_blank, source.num_stripped)
    assert found.num_docs == len(source.different) == len(learned) + len(held_out)
    assert found.num_validation == len(held_out)
    assert found.num_lines == found.num_docs + found.num_blank + found.num_repetitions
    assert len(found.removed) == found.num_blank + found.num_repetitions
    assert found.docs == list(source.different)[:20]


def test_reading_brings_a_list_to_nfc() -> None:
    found = preview("björn\nbjo\u0308rn\no\u0308rjan")
    assert (found.num_normalized, found.num_repetitions) == (2, 1)
    assert found.docs == ["björn", "örjan"]
    assert [each.why for each in found.removed] == ["as line 1"]
    assert [(each.before, each.after) for each in found.changed] == [("o\u0308rjan", "örjan")]


def test_what_is_shown_is_little_and_says_so() -> None:
    text = "\n".join([*("" for _ in range(150)), *(f" {n}" for n in range(150)), "x" * 300])
    found = preview(text)
    assert (len(found.removed), len(found.changed), len(found.docs)) == (100, 100, 20)
    assert (found.num_blank, found.num_docs, found.longest) == (150, 151, 300)
    assert preview("x" * 300).docs == ["x" * 199 + "…"]


def test_held_out_are_those_of_a_training(server: Server) -> None:
    found = server.ask("POST", "/clean", {"text": LIST}).json()
    model = kamon.train(WORDS, num_steps=1)
    assert found["num_validation"] == len(model.parts()[1]) > 0
    assert found["characters"] == model.config.vocab_size - 1


def test_a_list_that_could_be_tidied(server: Server) -> None:
    text = "<b>anna</b>\nTom &amp; Jo\nanna\nbo\u200bb\n"
    found = server.ask("POST", "/clean", {"text": text}).json()
    assert found["num_docs"] == 4
    assert found["docs"][0] == "<b>anna</b>"
    cleaned = clean(text.splitlines())
    tidied = found["tidied"]
    assert tidied["text"] == "anna\nTom & Jo\nbob" == "\n".join(cleaned.docs)
    assert tidied["num_docs"] == 3
    assert {step["name"]: (step["action"], step["count"]) for step in tidied["steps"]} == {
        "html": ("changed", 2),
        "invisible": ("changed", 1),
        "repetitions": ("dropped", 1),
    }
    assert tidied["steps"][0]["examples"][0] == ["<b>anna</b>", "anna"]


def test_tidying_takes_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    assert preview("<b>anna</b>\n" + "<" * 1001).tidied is None
    nasty = "\n".join(f"<{'a' * 900}{n}" for n in range(270))
    start = time.process_time()
    preview(nasty)
    assert time.process_time() - start < 10
    monkeypatch.setattr(job_routes, "TIDYING_SECONDS", -1.0)
    assert preview("<b>anna</b>\nbo").tidied is None


def test_what_a_training_would_warn_of(server: Server) -> None:
    for text, wanted in (
        (LIST, []),
        ("\n".join(WORDS[:12]), []),
        ("anna", ["three.txt has only one entry: add more entries, or use --mode text"]),
    ):
        found = server.ask("POST", "/clean", {"text": text, "name": "three.txt"}).json()
        assert found["warnings"] == wanted


TABLES = {
    "csv": 'id,name\n1,anna\n2,"bo, jr"\n3, cora\n4,anna\n5,\n',
    "tsv": "id\tname\n1\tanna\n2\tbo\n",
    "jsonl": '{"id": 1, "name": "anna", "text": "x"}\n\n{"name": "bo, jr", "id": 2}\n',
    "json": '[{"id": 1, "name": "anna", "text": "x"},\n {"name": "bo, jr", "id": 2}]',
}


@pytest.mark.parametrize("format", TABLES)
def test_tables_are_read_as_files_are(format: str, server: Server, tmp_path: Path) -> None:
    path = tmp_path / f"list.{format}"
    path.write_text(TABLES[format])
    ask = {"text": TABLES[format], "format": format, "name": str(path)[-100:]}
    columns = server.ask("POST", "/columns", ask).json()["columns"]
    assert columns == (["name", "text"] if format.startswith("json") else ["id", "name"])
    source = corpus.read(path, column="name")
    found = server.ask("POST", "/clean", ask | {"column": "name"}).json()
    assert found["docs"] == list(source.different)
    assert (found["num_lines"], found["num_blank"]) == (source.num_entries, source.num_blank)
    assert [each["why"] for each in found["removed"]] == {
        "csv": ["as row 1", "blank"],
        "jsonl": ["blank"],
    }.get(format, [])
    assert found["looks_like"] is None
    trained = server.trained(**ask, column="name", settings=SMALL | {"num_steps": 2})
    assert trained["num_docs"] == len(source.different)
    with server.registry.get(trained["id"]).use() as model:
        assert model.docs == source.different


def test_a_table_without_a_header(server: Server) -> None:
    ask = {"text": "anna,1\nbo,2\ncora,3\n", "format": "csv", "header": False}
    assert server.ask("POST", "/columns", ask).json()["columns"] == ["1", "2"]
    assert server.ask("POST", "/clean", ask | {"column": "1"}).json()["docs"] == [
        "anna",
        "bo",
        "cora",
    ]
    trained = server.trained(**ask, column="1", settings=SMALL | {"num_steps": 2})
    assert trained["num_docs"] == 3


def test_what_no_table_may_say(server: Server) -> None:
    ask = {"text": TABLES["csv"], "format": "csv", "name": "list.csv"}
    for request, said in (
        (ask, "list.csv has the columns"),
        (ask | {"column": "nam"}, "list.csv has no column 'nam'"),
        (ask | {"format": "text", "column": "name"}, "a text has no columns"),
        (ask | {"format": "jsonl"}, "list.csv, line 1 is not valid JSON"),
    ):
        answer = server.ask("POST", "/clean", request)
        assert answer.status_code == 422
        assert answer.json()["error"].startswith(said)
        assert server.start(422, **request)["error"].startswith(said)
    assert "built-in" in server.start(422, builtin="names", format="csv", column="name")["error"]
    for format in ("csv", "jsonl"):
        empty = server.ask("POST", "/columns", {"text": "\n", "format": format})
        assert empty.json() == {"columns": []}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("id,name\n1,anna\n2,bo\n3,cora", "csv"),
        (TABLES["tsv"] + "3\tcora\n", "tsv"),
        ("a;b\nc;d\ne;f", "csv"),
        ('{"text": "anna"}\n' * 3, "jsonl"),
        ("a,b\nc,d", None),
        ("\n".join(["anna, dear", *WORDS[:4]]), None),
        ("a,b\nc,d,e\nf,g,h,i\nj,k,l,m,n", None),
        (LIST, None),
    ],
)
def test_what_looks_like_a_table(text: str, wanted: str | None) -> None:
    assert preview(text).looks_like == wanted


@pytest.mark.parametrize("text", ["", " \n", "a\0b"])
def test_what_is_no_list(text: str, server: Server) -> None:
    answer = server.ask("POST", "/clean", {"text": text})
    assert answer.status_code == 422
    assert answer.json()["error"].startswith("a pasted list")


# ---- a table with given columns


PEOPLE = [(word, "x" if word < "f" else "y") for word in WORDS]
CSV = "name,kind,born\n" + "".join(f"{word},{kind},{len(word)}\n" for word, kind in PEOPLE)
TABLE = {"text": CSV, "format": "csv", "column": "name", "given": ["kind"], "weight": "born"}


def test_a_table_makes_the_conditional_model_that_train_makes(server: Server) -> None:
    settings = SMALL | {"num_steps": 60}
    found = server.trained(**TABLE, seed=7, settings=settings)
    assert (found["state"], found["error"]) == ("done", None)
    assert found["num_docs"] == len(WORDS)
    assert found["best"]["samples"]
    assert all(moment["blend"] for moment in found["moments"])
    id = found["id"]
    about = server.ask("GET", f"/models/{id}").json()
    assert about["given"] == {"kind": ["x", "y"]}
    rows = [{"name": word, "kind": kind, "born": len(word)} for word, kind in PEOPLE]
    wanted = kamon.train(rows, column="name", given="kind", weight="born", seed=7, **settings)
    given = {"kind": {"x": 0.5, "y": 0.5}}
    body = {"model": id, "n": 5, "seed": 1, "given": given}
    samples = server.ask("POST", "/sample", body).json()
    assert [each["text"] for each in samples["samples"]] == wanted.sample(5, seed=1, given=given)
    assert samples["warning"] is None
    texts = [WORDS[0], WORDS[-1]]  # of both kinds
    scores = server.ask("POST", "/score", {"model": id, "texts": texts, "by": "kind"}).json()
    classes = list(kamon.classify(wanted, texts, by="kind"))
    assert [each.value for each in classes] == ["x", "y"]
    for own, other in zip(scores["scores"], classes, strict=True):
        assert own["values"] == pytest.approx(other.shares)
        assert list(own["values"]) == list(other.shares)
    under = [
        server.ask("POST", "/score", {"model": id, "texts": ["ani"], "given": {"kind": kind}})
        for kind in "xy"
    ]
    assert len({answer.json()["scores"][0]["logprob"] for answer in under}) == 2
    assert under[0].json()["scores"][0]["values"] is None
    moment = found["moments"][-1]["model"]
    assert server.ask("POST", "/sample", {"model": moment, "n": 2}).status_code == 200
    shown = server.ask("GET", f"/models/{moment}").json()
    assert shown["validation_loss"] > 0
    assert shown["ngram_loss"] > 0
    next = server.ask("POST", "/next-token", {"model": id, "given": {"kind": "x"}}).json()
    assert sum(each["probability"] for each in next["tokens"]) == pytest.approx(1)
    assert {each["text"] for each in next["tokens"]} == {"", *"".join(WORDS)}
    body = {"model": id, "prefix": "a", "n": 3, "given": given}
    completed = server.ask("POST", "/complete", body).json()["completions"]
    best = kamon.complete(wanted, "a", 3, given=given).documents
    assert [each["text"] for each in completed] == [each.text for each in best]
    body = {"model": id, "text": "a", "given": given}
    words = server.ask("POST", "/words", body).json()["words"]
    assert words[0]["text"] == kamon.complete_words(wanted, "a", given=given).words[0].text


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/sample", {"given": {"kind": "z"}}, "the model knows no kind 'z'"),
        ("/sample", {"given": {"sort": "x"}}, "the model knows no column 'sort'"),
        ("/sample", {"given": {"kind": {"x": 0}}}, "given"),
        ("/sample", {"given": {"kind": {}}}, "given"),
        ("/sample", {"given": {"kind": "x" * 60}}, "given"),
        ("/sample", {"given": {f"c{i}": "x" for i in range(21)}}, "given"),
        ("/sample", {"given": {"kind": {f"v{i}": 1.0 for i in range(21)}}}, "given"),
        ("/complete", {"given": {"kind": "z"}}, "the model knows no kind 'z'"),
        ("/words", {"given": {"sort": "x"}}, "the model knows no column 'sort'"),
        ("/score", {"texts": ["ani"], "by": "sort"}, "the model knows no column 'sort'"),
        ("/score", {"texts": ["ani"], "by": "kind", "unknown": "zero"}, "not 'zero'"),
    ],
)
def test_given_values_that_are_refused(
    path: str, body: dict[str, Any], message: str, server: Server, tmp_path: Path
) -> None:
    rows = [{"name": word, "kind": kind} for word, kind in PEOPLE]
    kamon.train(rows, column="name", given="kind", num_steps=2, size="tiny").save(tmp_path / "m")
    server.registry.add_directory(tmp_path / "m", "m")
    answer = server.ask("POST", path, {"model": "m", **body})
    assert answer.status_code == 422
    assert message in answer.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"given": ["sort"]}, "has no column 'sort'"),
        ({"given": []}, "given"),
        ({"given": None}, "a weight needs given columns"),
        ({"text": f"{CSV}zzz,x,none\n"}, "is not a number above 0"),
        ({"format": "text", "column": None}, "is text, which has no columns"),
        ({"text": None, "builtin": "names"}, "no column or format"),
    ],
)
def test_tables_that_are_refused(changes: dict[str, Any], message: str, server: Server) -> None:
    answer = server.ask("POST", "/jobs", TABLE | changes)
    assert answer.status_code == 422
    assert message in answer.text
