"""Several processes learn what one learns from the same parts in turn: the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from conftest import Result
from helpers.lists import DOCS
from helpers.runs import read_until
from kamon.config import Config
from kamon.engines import distributed
from kamon.engines.base import initial_state
from kamon.engines.distributed import ProcessGroup
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init
from kamon.errors import ConfigError, KamonError
from kamon.storage.model_dir import load

if find_spec("torch") is None:
    pytest.skip("needs torch", allow_module_level=True)

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
WORKER = Path(__file__).with_name("distributed_worker.py")


def job(**changes: Any) -> dict[str, Any]:
    """Four documents a rank and step, where there are two ranks and nothing is changed."""
    usual = {
        "settings": {},
        "dtype": "float32",
        "ragged": True,
        "batch_size": 4,
        "accumulated": 2,
        "steps": 5,
    }
    return usual | changes


def part(whole: int, rank: int, size: int) -> range:
    return ProcessGroup(rank, size).shard(range(whole))


def test_parts_follow_each_other_and_differ_by_one() -> None:
    for size in range(1, 9):
        for whole in range(20):
            parts = [part(whole, rank, size) for rank in range(size)]
            assert [i for own in parts for i in own] == list(range(whole))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert part(3, 1, 4) == range(1)
    assert ProcessGroup(1, 2).shard(range(10, 15)) == range(12, 15)


@pytest.mark.extra
def test_one_process_alone_asks_nobody() -> None:
    import torch

    one = ProcessGroup()
    assert one.broadcast_scalar(3.5) == one.all_reduce_max(3.5) == 3.5
    assert one.any_rank(True)
    assert not one.any_rank(False)
    assert one.broadcast_bytes(b"x") == b"x"
    numbers = torch.tensor([1.0, 2.0])
    one.all_reduce_sum(numbers)
    one.broadcast(numbers)
    assert numbers.tolist() == [1.0, 2.0]
    one.assert_equal("a", "the list")
    one.raise_on_all(None)
    with pytest.raises(KamonError, match="own"):
        one.raise_on_all(KamonError("own"))


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert distributed.world_size() == 1
    monkeypatch.setenv("RANK", "1")  # of something else
    assert distributed.world_size() == 1
    distributed.check_engine("native")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (distributed.world_size(), distributed.this_rank()) == (2, 1)
    distributed.check_engine("torch")
    with pytest.raises(
        ConfigError,
        match="native engine trains in one process, and 2 were started\nhint: use --eng",
    ):
        distributed.check_engine("native")
    for size in ("two", "", "-1", "²"):
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(ConfigError, match="start with torchrun"):
            distributed.world_size()


# ---- several processes


def run_jobs(tmp_path: Path, size: int, jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each rank, what came of each job."""
    path = tmp_path / f"of-{size}.json"
    path.write_text(json.dumps(jobs))
    return run_script(WORKER, path, size)


def run_script(script: Path, path: Path, size: int) -> list[list[dict[str, Any]]]:
    """Return what each rank leaves beside `path`."""
    command = [*TORCHRUN, "--nproc-per-node", str(size), script, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(path.with_suffix(f".{r}.json").read_text()) for r in range(size)]


def one_after_the_other(job: dict[str, Any], size: int) -> dict[str, Any]:
    """What one process comes to that adds up the shares of so many ranks, each by itself."""
    import torch
    from distributed_worker import CONFIG, plan_of

    config = Config(**CONFIG, **job["settings"])
    engine, alone = (make_engine("torch", config, dtype=job["dtype"]) for _ in range(2))
    state = initial_state(init(config, random.Random(1)))
    state["step"] = job.get("first", 0)
    engine.load(state)
    plan = plan_of(job, job.get("first", 0))
    losses = []
    for i, rate in enumerate(plan.learning_rates):
        places = range(i * plan.docs_per_step, (i + 1) * plan.docs_per_step)
        whole = plan.docs.select(plan.indices[places.start : places.stop])
        share = 1 / whole.num_targets
        alone.load(engine.state())
        found = torch.zeros_like(engine.grads)
        loss = 0.0
        for rank in range(size):
            alone.grads.zero_()
            own = ProcessGroup(rank, size).shard(places)
            loss += alone._accumulate(plan, own, share)
            found += alone.grads
        losses.append(share * loss)
        engine.grads.copy_(found)
        engine.step(rate)
    found = engine.state()
    return {
        "losses": [loss.hex() for loss in losses],
        "step": found["step"],
        **{name: [x.hex() for x in found[name]] for name in ("params", "m", "v")},
    }


DROPPED = {"dropout": 0.3, "grad_clip": 0.05, "weight_decay": 0.3}
JOBS = {
    "two batches": job(),
    "of one length": job(ragged=False),
    "exact": job(dtype="float64", batch_size=6, accumulated=1, settings=DROPPED),
    "half": job(dtype="bfloat16"),
    "dropout and a short gradient": job(settings=DROPPED),
    "an uneven part": job(batch_size=7, accumulated=1),
    "many batches": job(batch_size=3, accumulated=5),
    "a rank without a document": job(batch_size=1, accumulated=1),
    "in the middle": job(first=3),
    "two shares": job(batch_size=4, accumulated=2),
    "four shares": job(batch_size=4, accumulated=4),
    "stopped": job(stop=2),
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """For 1, 2 and 4 processes, by rank and by the name of the job."""
    import torch

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("ranks")
    found = {size: run_jobs(folder, size, list(JOBS.values())) for size in (1, 2, 4)}
    return {
        size: [dict(zip(JOBS, of_rank, strict=True)) for of_rank in ranks]
        for size, ranks in found.items()
    }


@pytest.mark.slow
def test_the_bits_are_those_of_one_process(results: dict[int, list[dict[str, Any]]]) -> None:
    for size in (2, 4):
        first, *others = results[size]
        assert all(of_rank == first for of_rank in others)
        for name, one in JOBS.items():
            if name != "stopped":
                assert first[name] == one_after_the_other(one, size), name
    # Where each rank's part is one batch, it is also what one process accumulates.
    for size, name in ((2, "two shares"), (4, "four shares")):
        assert results[size][0][name] == results[1][0][name]
    assert results[4][0]["many batches"] != results[1][0]["many batches"]  # the order does count


@pytest.mark.slow
def test_their_number_changes_neither_documents_nor_draws(
    results: dict[int, list[dict[str, Any]]],
) -> None:
    """In float64 the sums differ so little that another document, or another draw, would show."""
    one, *others = (
        [float.fromhex(x) for x in results[size][0]["exact"]["losses"]] for size in (1, 2, 4)
    )
    for found in others:
        assert found == pytest.approx(one, abs=1e-10)


@pytest.mark.slow
def test_all_stop_where_one_is_told_to(results: dict[int, list[dict[str, Any]]]) -> None:
    for size in (1, 2, 4):
        for of_rank in results[size]:
            assert of_rank["stopped"]["step"] == len(of_rank["stopped"]["losses"]) == 3


# ---- the command line

Start = Callable[..., list[subprocess.Popen[str]]]
FLAGS = [
    *("--engine=torch", "--threads=1", "--n-embd=8", "--n-head=2", "--size=original"),
    *("--batch-size=3", "--dropout=0.1"),
]


@pytest.mark.slow
def test_all_learn_the_same_weight_of_a_blend(tmp_path: Path) -> None:
    """On a validation set and in cross-validation, and it is that of one process."""
    path = tmp_path / "lists.json"
    path.write_text(json.dumps([DOCS, DOCS[:60]]))
    ranks = run_script(WORKER.with_name("distributed_blend.py"), path, 2)
    assert ranks[0] == ranks[1]
    (alone,) = run_script(WORKER.with_name("distributed_blend.py"), path, 1)
    for together, own in zip(ranks[0], alone, strict=True):
        ours, theirs = together["training"], own["training"]
        assert ours["init_from"] == "base"
        assert ours["blend"] == pytest.approx(theirs["blend"], rel=0.01)
        name = "held_out" if own["history"] else "cross_validation"
        assert ours[name] == pytest.approx(theirs[name], rel=0.001)
        assert together["history"].keys() == own["history"].keys()
    assert [bool(each["history"]) for each in alone] == [True, False]


@pytest.fixture
def together(tmp_path: Path) -> Iterator[Start]:
    """One `kamon` for each list of arguments, each in a folder of its own, as torchrun starts them;
    they do not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*each: list[object], **more: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        own = []
        for rank, argv in enumerate(each):
            folder = tmp_path / f"rank-{rank}"
            folder.mkdir(exist_ok=True)
            own_env = {"RANK": str(rank), "WORLD_SIZE": str(len(each)), "LOCAL_RANK": str(rank)}
            meeting = {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
            own.append(
                subprocess.Popen(
                    [sys.executable, "-m", "kamon", *map(str, argv)],
                    env=os.environ | own_env | meeting | more,
                    cwd=folder,
                    text=True,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
        started.extend(own)
        return own

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def ended(processes: list[subprocess.Popen[str]]) -> list[Result]:
    found = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err
        found.append(Result(process.returncode, out, err))
    return found


def numbers(where: Path) -> tuple[Any, ...]:
    """Everything that a training comes to."""
    found = load(where)
    return found.params, found.metrics.losses, found.metrics.held_out, found.state


@pytest.mark.slow
def test_two_processes_make_one_model_and_one_speaks(
    names: Path, tmp_path: Path, together: Start, kamon: Callable[..., Result]
) -> None:
    """Interrupted, by a signal that reaches one alone, and gone on with, by other numbers too."""
    argv = ["train", names, "-o", "m", *FLAGS]
    ends = ended(together(*[[*argv, "--num-steps=60"]] * 2))
    assert [end.code for end in ends] == [0, 0]
    assert len(ends[0].out.splitlines()) == 20
    assert (ends[1].out, ends[1].err) == ("", "")
    assert list((tmp_path / "rank-1").iterdir()) == []
    whole = numbers(tmp_path / "rank-0" / "m")

    argv[3] = "long"
    running = together(*[[*argv, "--num-steps=100000", "--checkpoint-every=50"]] * 2)
    where = tmp_path / "rank-0" / "long"
    while not list(where.glob("generation-*")):
        time.sleep(0.05)
        assert running[0].poll() is None
    running[1].send_signal(signal.SIGINT)
    ends = ended(running)
    assert [end.code for end in ends] == [130, 130]
    assert "resume with `kamon train" in ends[0].err
    assert (ends[1].out, ends[1].err) == ("", "")
    done = len(load(where).metrics)
    assert done >= 50

    # The directory is where rank 0 sees it: here, and not there.
    ends = ended(together(*[["train", "--resume", "m", "--extend=30", "--threads=1"]] * 2))
    assert [end.code for end in ends] == [0, 0]
    assert numbers(tmp_path / "rank-0" / "m")[1][:60] == whole[1]
    assert kamon("train", "--resume", tmp_path / "rank-0" / "m", "--extend=5").code == 0


@pytest.mark.slow
def test_what_goes_wrong_in_one_is_said_by_the_first(
    names: Path, tmp_path: Path, together: Start
) -> None:
    other = tmp_path / "other.txt"
    other.write_text("karl\notto\nemil\n")
    for second, said, codes in (
        (
            other,
            "the training set differs between the 2 processes\nhint: give each the same",
            [2, 2],
        ),
        (tmp_path / "no.txt", "process 1 of 2: no file", [1, 1]),
    ):
        ends = ended(together(*[["train", each, "-o", "m", *FLAGS] for each in (names, second)]))
        assert [end.code for end in ends] == codes
        assert said in ends[0].err
        assert (ends[1].out, ends[1].err) == ("", "")
    ends = ended(together(*[["train", names, "-o", "m"]] * 2))
    assert [end.code for end in ends] == [2, 2]
    assert (
        "engine trains in one process, and 2 were started\nhint: use --engine torch" in ends[0].err
    )
    assert not (tmp_path / "rank-0" / "m").exists()


@pytest.mark.slow
def test_one_that_is_killed_ends_the_other(names: Path, together: Start) -> None:
    running = together(*[["train", names, "-o", "m", *FLAGS, "--num-steps=100000"]] * 2)
    assert running[0].stderr is not None
    read_until(running[0].stderr, "Model  ")
    time.sleep(0.5)
    running[1].kill()
    ends = ended(running)
    assert [end.code for end in ends] == [1, -signal.SIGKILL]
    assert "another process of this training has ended" in ends[0].err


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc: whom to kill?")
def test_torchrun_starts_again_what_was_killed(names: Path, tmp_path: Path) -> None:
    """… from the checkpoint: it comes to the same bits. And Ctrl-C is for all of them."""

    def start(where: Path, steps: int) -> subprocess.Popen[str]:
        flags = [*FLAGS, f"--num-steps={steps}", "--checkpoint-every=100"]
        command = ["--nproc-per-node=2", "--max-restarts=1", "--monitor-interval=0.1", "-m"]
        argv = [*TORCHRUN, *command, "kamon", "train", names, "-o", where, *flags]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(list(map(str, argv)), text=True, **pipes)  # type: ignore[call-overload, no-any-return]

    def workers(process: subprocess.Popen[str]) -> list[int]:
        own = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        return sorted(map(int, own.read_text().split()))

    def wait_for(where: Path, process: subprocess.Popen[str]) -> None:
        while not list(where.glob("generation-*")):
            time.sleep(0.02)
            assert process.poll() is None

    whole, killed, stopped = (tmp_path / name for name in ("whole", "killed", "stopped"))
    out, _ = start(whole, 500).communicate(timeout=120)
    assert "Trained 500 steps" in out
    process = start(killed, 500)
    wait_for(killed, process)
    os.kill(workers(process)[-1], signal.SIGKILL)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, out
    assert "from checkpoint generation-" in out
    assert numbers(killed) == numbers(whole)

    process = start(stopped, 10**6)
    wait_for(stopped, process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert "resume with `kamon train" in out
    assert load(stopped).state is not None
