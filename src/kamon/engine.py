"""The contract between Kamon and the code that computes, and the plain loop over it.

An engine needs a single gradient: that of a weighted negative log-likelihood,

    loss = Σ_t  w_t · (−log p(target_t))

Pretraining, fine-tuning, preferences and rewards are all weights w = −∂L/∂log p: an engine never
learns which it serves. It owns its memory, holds no randomness and knows no tokenizer; only flat
buffers of ints and floats cross this line.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypedDict

from kamon.batch import Batch, check_numbers
from kamon.config import Config, checked_int
from kamon.dropout import masks
from kamon.errors import ConfigError
from kamon.model import num_params, parameter_shapes


class State(TypedDict):
    """All that an engine knows: flat arrays of 'd' in the order of `parameter_shapes`."""

    params: array[float]
    m: array[float]  # Adam's mean of the gradient
    v: array[float]  # and of its square
    step: int  # updates made so far


def untrained(params: array[float]) -> State:
    """The state of parameters that no step has changed yet."""
    zeros = array("d", bytes(8 * len(params)))
    return {"params": params, "m": zeros, "v": zeros, "step": 0}


class Decoder(Protocol):
    """One document, read token by token; owns its KV cache. One thread at a time pushes."""

    def push(self, token: int) -> Sequence[float]:
        """The logits (V,) of the token after this one. ValueError behind block_size pushes."""


class Engine(Protocol):
    """What every engine can do.

    ValueError for a token outside the vocabulary or a document of more than block_size + 1 tokens;
    ArithmeticError where `backward` or `step` leaves the range of floats. ValueError also for what
    is no Batch (see `Batch.check`), for arrays of other types or lengths than are named here, and
    for samples of a number or temperature that cannot be. MemoryError where there is too little.

    Several threads may call one engine: each call waits for the one before it, and returns what it
    would return to a single thread. A copy, also by pickle, has the same state, and no gradients.
    """

    config: Config
    dtype: str  # of the numbers it computes with

    def load(self, state: State) -> None:
        """Take over a copy of `state`; clear the gradients."""

    def state(self) -> State:
        """A copy of all that `load` takes."""

    def gradients(self) -> array[float]:
        """A copy of what `backward` has accumulated since the last `step`."""

    def logprobs(self, batch: Batch) -> array[float]:
        """log p of every target in nats, document by document."""

    def backward(
        self, batch: Batch, weights: Sequence[float], draws: Sequence[int] | None = None
    ) -> array[float]:
        """The same as `logprobs`; adds the gradient of Σ w_t · (−log p_t), one weight a target.

        draws: a number for each document, from which follows what dropout leaves out of it (see
        kamon.dropout); without them nothing is left out.
        """

    def step(self, learning_rate: float) -> None:
        """One update by Adam with the accumulated gradient, which is cleared.

        Where config.grad_clip is above 0 and the gradient longer (its L2 norm over all parameters),
        it is shortened to that first. Source: Pascanu et al. 2013, arXiv:1211.5063.
        """

    def decoder(self) -> Decoder:
        """A reader at the start of a document, with the parameters of this moment."""


class Reader(Protocol):
    """What scoring needs: every engine has it, and so has an n-gram."""

    @property
    def config(self) -> Config:
        """Of which block_size is read."""

    def logprobs(self, batch: Batch) -> array[float]:
        """log p of every target in nats, document by document."""


def is_fast(model: object) -> bool:
    """Whether an engine has fused calls: those do in a second what takes others hours."""
    return hasattr(model, "train")


def document_logprobs(reader: Reader, batch: Batch) -> tuple[array[float], array[int]]:
    """log p of each document in nats, and the place, from 0, of its least likely target.

    Arrays of 'd' and 'q'. Of equally unlikely targets the first counts; a document without targets
    has 0 twice. A reader with a `document_logprobs` of its own does it in one call.
    """
    fused = getattr(reader, "document_logprobs", None)
    if fused is None:
        return document_logprobs_one_by_one(reader, batch)
    found: tuple[array[float], array[int]] = fused(batch)
    return found


def document_logprobs_one_by_one(reader: Reader, batch: Batch) -> tuple[array[float], array[int]]:
    """The sums that every fused `document_logprobs` must equal, to the last bit."""
    logprobs = reader.logprobs(batch)
    totals, places = array("d"), array("q")
    end = 0
    for tokens in batch:
        begin, end = end, end + max(0, len(tokens) - 1)
        own = logprobs[begin:end]
        totals.append(left_sum(own))
        places.append(own.index(min(own)) if own else 0)
    return totals, places


@dataclass(frozen=True)
class Plan:
    """Pretraining steps to do in one call: each learns from as many of `indices` as it has batches
    of `batch_size` documents.

    indices: array of 'q'; learning_rates: array of 'd', one a step. first_draw: of the first
    document of the first step, for dropout; the others follow one by one. An engine whose memory
    does not grow with the batch may compute all batches of a step together.
    """

    docs: Batch
    batch_size: int
    indices: array[int]
    learning_rates: array[float]
    first_draw: int = 0
    gradient_accumulation_steps: int = 1

    def __post_init__(self) -> None:
        check_numbers("indices", self.indices, "q")
        check_numbers("learning_rates", self.learning_rates, "d")
        num_steps = len(self.learning_rates)
        if self.batch_size < 1 or self.gradient_accumulation_steps < 1:
            raise ValueError("a step needs a document or more")
        if len(self.indices) != num_steps * self.docs_per_step:
            raise ValueError(f"{len(self.indices)} indices for {num_steps} steps")

    @property
    def docs_per_step(self) -> int:
        return self.batch_size * self.gradient_accumulation_steps


def train(
    engine: Engine, plan: Plan, should_stop: Callable[[], bool] | None = None
) -> array[float]:
    """Carry out `plan`; the loss of each step is the mean of −log p over its targets, in nats.

    Stops at the first loss that is not finite, which is then the last one returned and was not
    learned from. Where `should_stop` says so it stops too, between two steps or in the middle of
    one, which is then not made. An engine with a `train` of its own does it all in one call.
    """
    how = getattr(engine, "train", None) or partial(train_step_by_step, engine)
    done: array[float] = how(plan, should_stop)
    return done


def train_step_by_step(
    engine: Engine, plan: Plan, should_stop: Callable[[], bool] | None = None
) -> array[float]:
    """The loop over `backward` and `step` that every fused `train` must equal."""
    plan.docs.check(plan.indices)
    losses = array("d")
    for i, learning_rate in enumerate(plan.learning_rates):
        batches = []
        begin = i * plan.docs_per_step
        for first in range(begin, begin + plan.docs_per_step, plan.batch_size):
            indices = plan.indices[first : first + plan.batch_size]
            batches.append((plan.first_draw + first, plan.docs.select(indices)))
        share = 1 / sum(batch.num_targets for _, batch in batches)
        try:
            logprobs = array("d")
            for draw, batch in batches:
                weights = array("d", [share]) * batch.num_targets
                logprobs.extend(engine.backward(batch, weights, range(draw, draw + len(batch))))
            loss = share * left_sum([-logprob for logprob in logprobs])
            if math.isfinite(loss):
                engine.step(learning_rate)
        except ArithmeticError:
            loss = math.nan
        losses.append(loss)
        if not math.isfinite(loss) or (should_stop and should_stop()):
            break
    return losses


def left_sum(numbers: Iterable[float]) -> float:
    """Added from left to right; `sum()` rounds differently since Python 3.12."""
    total = 0.0
    for number in numbers:
        total += number
    return total


ENGINES = ("native", "scalar", "torch")
DTYPES = ("float32", "float64", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
MOST_THREADS = 1_024  # each has memory of its own, cores or not


def best_engine() -> str:
    """The engine that is used where none is named: the native one wherever it is built."""
    from kamon.engines import native

    return "scalar" if native.why_not() else "native"


def checked_threads(threads: int | None) -> int:
    """How many cores may compute: those asked for, or all that this process may use."""
    from kamon.engines import native

    if threads is None:
        return native.usable_cores()
    return checked_int("threads", threads, 1, MOST_THREADS)


def device_type(name: str, device: str | None) -> str:
    """Return where an engine computes, "cpu", "cuda" or "mps", by what "auto" means here."""
    if name != "torch" or device not in (None, "auto"):
        return "cpu" if device in (None, "auto") else device
    try:
        from kamon.engines.pytorch import find_device
    except ModuleNotFoundError:  # `make_engine` says so
        return "cpu"
    from kamon.ranks import here

    return find_device("auto", here().size).type


def make_engine(
    name: str | None,
    config: Config,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
) -> Engine:
    """An engine with all parameters zero: `load` comes next.

    name: of ENGINES, or None for the best one. dtype: of DTYPES; None for the engine's own;
    bfloat16 is torch's alone. threads: at most so many cores compute; None for all that this
    process may use. The number of threads changes no bit of any result, but for torch, where it is
    the whole process's. device, of DEVICES, and compile, by torch.compile, are torch's.
    """
    name = name or best_engine()
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"unknown dtype {dtype!r}: there are {', '.join(DTYPES)}")
    if device not in (None, *DEVICES):
        raise ConfigError(f"unknown device {device!r}: there are {', '.join(DEVICES)}")
    threads = None if threads is None else checked_threads(threads)
    if name == "torch":
        return make_torch(config, dtype or "float32", threads, device or "auto", compile)
    if name in ENGINES and (compile or device not in (None, "auto", "cpu")):
        what = "compile" if compile else f"device {device}"
        raise ConfigError(f"{what} is for the torch engine: the {name} engine computes on the CPU")
    if name in ENGINES and dtype == "bfloat16":
        raise ConfigError(f"bfloat16 is for the torch engine: the {name} engine does not have it")
    if name == "native":
        from kamon.engines import native

        if why := native.why_not():
            raise ConfigError(f"{why}; the engine that is there is scalar")
        return native.NativeEngine(config, num_params(config), dtype or "float32", threads)
    if name == "scalar":
        from kamon.engines.scalar import ScalarEngine

        if dtype == "float32":
            raise ConfigError("the scalar engine computes in float64 alone")
        c = config
        return ScalarEngine(
            config,
            parameter_shapes(config),
            partial(masks, c.dropout, c.seed, n_layer=c.n_layer, n_embd=c.n_embd),
        )
    raise ConfigError(f"unknown engine {name!r}: there are {', '.join(ENGINES)}")


def make_torch(
    config: Config, dtype: str, threads: int | None, device: str, compile: bool
) -> Engine:
    try:
        from kamon.engines.pytorch import TorchEngine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ConfigError("the torch engine needs torch: pip install 'kamon[torch]'") from None
    from kamon.ranks import here

    try:
        shapes = parameter_shapes(config)
        return TorchEngine(config, shapes, dtype, threads, device, compile, here())
    except ValueError as error:  # of what this machine does not have
        raise ConfigError(str(error)) from None
