from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, settings

from kamon import cli
from kamon.config import Config
from kamon.data import corpus
from kamon.data.split import divide
from kamon.engines.base import Engine
from kamon.model import Model
from kamon.native import library
from kamon.storage.metrics import Metrics
from kamon.storage.records import TrainingRecord
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.training.data import as_given
from kamon.training.early_stopping import mean_loss
from kamon.training.loop import pretrain
from kamon.training.setup import build_setup


def pytest_configure() -> None:
    """Checks that the tests run on the copy of the package that helpers/planted.py names."""
    # What was started in the background of a shell ignores Ctrl-C, and so would all it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # No deadline: a shared machine may be slow for a moment, and that is no failure.
    settings.register_profile("quiet", deadline=None)
    settings.load_profile("quiet")
    if os.environ.get("CI"):  # the same examples each time; elsewhere new ones are looked for
        settings.register_profile("ci", deadline=None, derandomize=True)
        settings.load_profile("ci")
    planted = os.environ.get("KAMON_PLANTED")
    if planted is not None:
        assert Path(cli.__file__).is_relative_to(planted)
        # A first failure is enough there: no search for the smallest one.
        settings.register_profile("planted", deadline=None, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("planted")


def pytest_collection_finish() -> None:
    """Look for garbage less often: the scalar engine's numbers, a hundred thousand a step, hold no
    circles, and what is imported by now stays. Looking through both took half of its time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 10, 10)


# In seconds: 100, 40 and 25.
LONGEST = ["test_the_whole_trace", "test_killed_at_any_instant", "test_the_walkthrough_runs"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests first, so that the others run beside them."""

    def place(item: pytest.Item) -> int:
        name = item.name.partition("[")[0]
        return LONGEST.index(name) if name in LONGEST else len(LONGEST)

    items.sort(key=place)


# What a test of both engines runs with: by the scalar one it is slow, unless that is all there is.
ENGINES: list[Any] = ["scalar"]
ENGINES_AND_DTYPES: list[Any] = [("scalar", "float64")]
if not library.why_not():
    ENGINES = [pytest.param("scalar", marks=pytest.mark.slow), "native"]
    ENGINES_AND_DTYPES = [
        pytest.param("scalar", "float64", marks=pytest.mark.slow),
        *(("native", dtype) for dtype in ("float32", "float64")),
    ]


def times(fast: int, full: int) -> int:
    """How often a test tries its luck: in `make test`, and in `make torture`."""
    return full if os.environ.get("KAMON_TORTURE") else fast


@contextmanager
def memory_limit(more: int = 512 << 20) -> Iterator[None]:
    """A MemoryError for what wants so many bytes more than this process has, where that works."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def kamon(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The command line, in this process: kamon("train", "names") -> Result."""

    def run(*argv: object) -> Result:
        try:
            code = cli.main([str(arg) for arg in argv])
        except SystemExit as error:
            code = error.code  # type: ignore[assignment]
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return run


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """The command line as a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(*argv: object, **options: Any) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "kamon", *map(str, argv)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        started.append(subprocess.Popen(command, text=True, **(pipes | options)))
        return started[-1]

    yield start
    for running in started:
        if running.poll() is None:
            running.kill()
            running.communicate()


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session share."""
    own = tmp_path_factory.getbasetemp()
    return (own.parent if os.environ.get("PYTEST_XDIST_WORKER") else own) / "shared"


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """A file of fifteen names."""
    path = tmp_path / "names.txt"
    path.write_text(
        "anna\nhanna\njohanna\nnora\neleonora\nlea\nleah\nmia\nmira\nmiriam\nida\nidan\nari\nmarie\nsara\n"
    )
    return path


# Small enough that a step takes a millisecond or two.
TINY = {
    "n_layer": 1,
    "n_embd": 4,
    "n_head": 2,
    "block_size": 6,
    "num_steps": 3,
    "batch_size": 1,
    "learning_rate": 0.01,
    "std": 0.08,
    "beta1": 0.85,
    "warmup_steps": 0,
}
TINY_FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


def piece_model(docs: list[str], vocab_size: int, **settings: Any) -> Model:
    """A model whose tokens are byte pairs, trained on all of `docs` but those held out."""
    source = corpus.from_docs(docs)
    learned, held_out = divide(source.different)
    tokenizer = BytePairTokenizer.train(source.docs, vocab_size)
    data = as_given(learned, validation_docs=held_out, tokenizer=tokenizer)
    run = build_setup(data, Config(**settings))
    metrics = Metrics()
    metrics.losses.extend(pretrain(run.engine, run.docs, run.config))
    metrics.learning_rates.extend([0.01] * len(metrics.losses))
    tested = {
        "num_docs": len(held_out),
        "loss": mean_loss(run.engine, run.held_out) if held_out else 0.0,
        "best_step": len(metrics),
        "over_fitted": False,
    }
    training = TrainingRecord.read(
        {
            "engine": run.engine_name,
            "dtype": run.engine.dtype,
            "corpus": source.summary(),
            "num_steps_done": len(metrics),
            "seconds": 1.0,
            "held_out": tested if held_out else None,
        }
    )
    return Model(run.config, run.tokenizer, run.engine, metrics, training, source.different)


def assert_decoder_refuses(engine: Engine) -> None:
    """A push behind block_size 4, and a token outside a vocabulary of 5."""
    decoder = engine.decoder()
    for _ in range(4):
        decoder.push(0)
    with pytest.raises(ValueError, match="full"):
        decoder.push(0)
    with pytest.raises(ValueError, match="vocabulary"):
        engine.decoder().push(5)
