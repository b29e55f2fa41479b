"""Several processes learn what one learns from the same parts in turn: the same bits."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kamon import ranks
from kamon.config import Config
from kamon.engine import make_engine, untrained
from kamon.errors import ConfigError, KamonError
from kamon.model import init
from kamon.ranks import Ranks

torch = pytest.importorskip("torch")

from ranks_worker import CONFIG, plan_of  # noqa: E402

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
WORKER = Path(__file__).with_name("ranks_worker.py")


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
    return Ranks(rank, size).part(range(whole))


def test_parts_follow_each_other_and_differ_by_one() -> None:
    for size in range(1, 9):
        for whole in range(20):
            parts = [part(whole, rank, size) for rank in range(size)]
            assert [i for own in parts for i in own] == list(range(whole))
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert part(3, 1, 4) == range(1)
    assert Ranks(1, 2).part(range(10, 15)) == range(12, 15)


def test_one_process_alone_asks_nobody() -> None:
    one = Ranks()
    assert one.first(3.5) == one.most(3.5) == 3.5
    assert one.any(True)
    assert not one.any(False)
    assert one.send(b"x") == b"x"
    numbers = torch.tensor([1.0, 2.0])
    one.add_up(numbers)
    one.broadcast(numbers)
    assert numbers.tolist() == [1.0, 2.0]
    one.agree("a", "the list")
    one.all_or_none(None)
    with pytest.raises(KamonError, match="own"):
        one.all_or_none(KamonError("own"))


def test_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)
    assert ranks.world_size() == 1
    monkeypatch.setenv("RANK", "1")  # of something else
    assert ranks.world_size() == 1
    ranks.check_engine("native")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert (ranks.world_size(), ranks.this_rank(), ranks.restarted()) == (2, 1, False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert ranks.restarted()
    ranks.check_engine("torch")
    with pytest.raises(ConfigError, match="2 processes were started together, and the native eng"):
        ranks.check_engine("native")
    for size in ("two", "", "-1", "²"):
        monkeypatch.setenv("WORLD_SIZE", size)
        with pytest.raises(ConfigError, match="start with torchrun"):
            ranks.world_size()


# ---- several processes


def run_jobs(tmp_path: Path, size: int, jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Of each rank, what came of each job."""
    path = tmp_path / f"of-{size}.json"
    path.write_text(json.dumps(jobs))
    command = [*TORCHRUN, "--nproc-per-node", str(size), WORKER, path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(path.with_suffix(f".{r}.json").read_text()) for r in range(size)]


def one_after_the_other(job: dict[str, Any], size: int) -> dict[str, Any]:
    """What one process comes to that adds up the shares of so many ranks, each by itself."""
    config = Config(**CONFIG, **job["settings"])
    engine, alone = (make_engine("torch", config, dtype=job["dtype"]) for _ in range(2))
    state = untrained(init(config, random.Random(1)))
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
            own = Ranks(rank, size).part(places)
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
