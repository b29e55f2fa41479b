"""The native engine: the maths of the scalar engine in C++, tens of thousands of times faster.

native/*.hpp hold the kernels, native/engine.cpp the functions called here. setup.py makes a
library for each instruction set; the best one that this processor runs is loaded. float64 is the
exact build, which rounds as Python does; float32 the fast one. ctypes lets go of the GIL in a call.
"""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Sequence
from ctypes import c_double, c_int, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from mmap import mmap
from typing import TYPE_CHECKING, Any

from kamon.batch import Batch

if TYPE_CHECKING:
    from kamon.config import Config
    from kamon.engine import Plan, State

LEVELS = ("baseline", "avx2", "avx512")  # of instruction sets; the best one last
DTYPES = {"float32": "f32", "float64": "f64"}

MASK64 = 2**64 - 1
LONG = 3e8  # multiply-adds that take some milliseconds: longer calls can be stopped
POLL_SECONDS = 0.02

# Arrays are passed as the address of their buffer.
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "create": (c_void_p, [c_int] * 5 + [c_double] * 6 + [c_uint64, c_int]),
    "destroy": (None, [c_void_p]),
    "stop": (None, [c_void_p, c_int]),
    "load": (None, [c_void_p] * 4 + [c_int64]),
    "state": (c_int64, [c_void_p] * 4),
    "gradients": (None, [c_void_p] * 2),
    "batch": (c_int, [c_void_p] * 3 + [c_int64] + [c_void_p] * 3),
    "document_logprobs": (c_int, [c_void_p] * 3 + [c_int64] + [c_void_p] * 2),
    "step": (None, [c_void_p, c_double]),
    "train": (c_int64, [c_void_p] * 3 + [c_int64, c_void_p] + [c_int64] * 3 + [c_void_p] * 2),
    "sample": (
        c_int,
        [c_void_p] + [c_int64] * 2 + [c_double, c_uint64, c_int] + [c_void_p] * 2,
    ),
    "decoder_create": (c_void_p, [c_void_p]),
    "decoder_destroy": (None, [c_void_p]),
    "decoder_push": (None, [c_void_p, c_int, c_void_p]),
    "shuffle": (None, [c_void_p, c_uint32, c_void_p, c_int]),
    "gauss": (None, [c_void_p, c_double, c_int64, c_void_p, c_void_p]),
    "find_starts": (None, [c_void_p, c_int64, c_void_p, c_void_p, c_int]),
    "gather": (c_int64, [c_void_p] * 2 + [c_int, c_int64, c_void_p, c_int64, c_void_p]),
    "first_occurrences": (c_int64, [c_void_p] * 2 + [c_int, c_int64, c_void_p]),
    "ngram_create": (c_void_p, [c_int] * 2),
    "ngram_destroy": (None, [c_void_p]),
    "ngram_add": (c_int, [c_void_p] * 3 + [c_int64] * 2),
    "ngram_tally": (c_int64, [c_void_p] * 2),
    "ngram_finish": (c_int, [c_void_p] * 2),
    "ngram_logprobs": (
        c_int64,
        [c_void_p, c_int, c_int] + [c_void_p] * 2 + [c_int64] * 2 + [c_void_p, c_int64],
    ),
    "ngram_probabilities": (None, [c_void_p, c_int, c_void_p, c_int64, c_void_p]),
    "peak": (c_double, [c_double]),
}


def library_path(level: str) -> str:
    return os.path.join(os.path.dirname(__file__), f"kamon_{level}.so")


def why_not() -> str:
    """Why there is no native engine here, as a sentence; empty where there is one."""
    if os.path.exists(library_path("baseline")):
        return ""
    return (
        "the native engine is not built: it needs a C++17 compiler (g++ or clang++) "
        "at the time when Kamon is installed"
    )


@cache
def best_level() -> str:
    """The best instruction set of those built that this processor has."""
    probe = ctypes.CDLL(library_path("baseline")).kamon_level_f32
    probe.restype = c_int
    has = probe()
    return next(
        level
        for rank, level in reversed(list(enumerate(LEVELS)))
        if rank <= has and os.path.exists(library_path(level))
    )


@cache
def functions(dtype: str, level: str) -> dict[str, Callable[..., Any]]:
    library = ctypes.CDLL(library_path(level))
    found = {}
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, f"kamon_{name}_{DTYPES[dtype]}")
        function.restype = result
        function.argtypes = arguments
        found[name] = function
    return found


def exact(name: str) -> Callable[..., Any]:
    """A function of the exact build."""
    return functions("float64", best_level())[name]


def usable_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def address(numbers: array[Any] | bytearray | memoryview | mmap) -> int:
    """Where they lie in memory: valid as long as they are alive and as long as they are."""
    if isinstance(numbers, array):
        return numbers.buffer_info()[0]
    if not len(numbers):
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(numbers))


def zeros(n: int) -> array[float]:
    return array("d", bytes(8 * n))


class NativeEngine:
    """The engine contract (kamon.engine); `train`, `sample` and `document_logprobs` are fused."""

    def __init__(
        self,
        config: Config,
        num_params: int,
        dtype: str = "float32",
        threads: int | None = None,
        level: str | None = None,
    ) -> None:
        self.config = config
        self.num_params = num_params
        self.dtype = dtype
        self.call = functions(dtype, level or best_level())
        c = config
        self.handle = self.call["create"](
            *(c.n_layer, c.n_embd, c.n_head, c.block_size, c.vocab_size),
            *(c.beta1, c.beta2, c.eps_adam, c.weight_decay, c.grad_clip, c.dropout),
            *(c.seed & MASK64, threads or usable_cores()),
        )
        if not self.handle:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.call["destroy"](self.handle)

    def load(self, state: State) -> None:
        params, m, v = state["params"], state["m"], state["v"]
        if not len(params) == len(m) == len(v) == self.num_params:
            raise ValueError(f"the state does not have this model's {self.num_params} parameters")
        self.call["load"](self.handle, address(params), address(m), address(v), state["step"])

    def state(self) -> State:
        params, m, v = (zeros(self.num_params) for _ in range(3))
        step = self.call["state"](self.handle, address(params), address(m), address(v))
        return {"params": params, "m": m, "v": v, "step": step}

    def gradients(self) -> array[float]:
        grads = zeros(self.num_params)
        self.call["gradients"](self.handle, address(grads))
        return grads

    def logprobs(self, batch: Batch) -> array[float]:
        return self._batch(batch, None, None)

    def backward(
        self, batch: Batch, weights: Sequence[float], draws: Sequence[int] | None = None
    ) -> array[float]:
        if len(weights) != batch.num_targets:
            raise ValueError(f"{len(weights)} weights for {batch.num_targets} targets")
        # One more than needed: an empty array may have no address, and none means no gradient.
        drawn = None if draws is None else array("Q", [draw & MASK64 for draw in draws])
        return self._batch(batch, array("d", [*weights, 0.0]), drawn)

    def _batch(
        self, batch: Batch, weights: array[float] | None, draws: array[int] | None
    ) -> array[float]:
        logprobs = zeros(batch.num_targets)
        error = self._run(
            lambda: self.call["batch"](
                *(self.handle, address(batch.tokens), address(batch.offsets), len(batch)),
                None if weights is None else address(weights),
                None if draws is None else address(draws),
                address(logprobs),
            ),
            batch.num_targets * (1 if weights is None else 3),
        )
        self._raise(error)
        return logprobs

    def document_logprobs(self, batch: Batch) -> tuple[array[float], array[int]]:
        totals, places = zeros(len(batch)), array("q", bytes(8 * len(batch)))
        error = self._run(
            lambda: self.call["document_logprobs"](
                *(self.handle, address(batch.tokens), address(batch.offsets), len(batch)),
                *(address(totals), address(places)),
            ),
            batch.num_targets,
        )
        self._raise(error)
        return totals, places

    def step(self, learning_rate: float) -> None:
        self.call["step"](self.handle, learning_rate)

    def train(self, plan: Plan, should_stop: Callable[[], bool] | None = None) -> array[float]:
        num_steps = len(plan.learning_rates)
        if len(plan.indices) != num_steps * plan.docs_per_step:
            raise ValueError(f"{len(plan.indices)} indices for {num_steps} steps")
        losses = zeros(num_steps)
        docs = plan.docs
        done = self._run(
            lambda: self.call["train"](
                *(self.handle, address(docs.tokens), address(docs.offsets), len(docs)),
                *(address(plan.indices), plan.docs_per_step, num_steps, plan.first_draw),
                *(address(plan.learning_rates), address(losses)),
            ),
            3 * len(plan.indices) * len(docs.tokens) / max(1, len(docs)),
            should_stop,
        )
        self._raise(-done)
        return losses[:done]

    def sample(self, n: int, temperature: float, seed: int, bos: int, first: int = 0) -> Batch:
        tokens = array("i", bytes(4 * n * self.config.block_size))
        offsets = array("q", bytes(8 * (n + 1)))
        error = self._run(
            lambda: self.call["sample"](
                *(self.handle, first, n, temperature, seed & MASK64, bos),
                *(address(tokens), address(offsets)),
            ),
            len(tokens),
        )
        self._raise(error)
        return Batch(tokens[: offsets[n]], offsets)

    def decoder(self) -> NativeDecoder:
        return NativeDecoder(self)

    def _run(
        self, call: Callable[[], int], tokens: float, should_stop: Callable[[], bool] | None = None
    ) -> int:
        """What `call` returns; it reads about so many tokens, and leaves off if `should_stop`.

        A long one runs in a thread of its own, which keeps alive all that `call` refers to. This
        one waits, in Python, where signals are heard: what their handlers raise ends the call.
        """
        if tokens * self.num_params < LONG:
            return call()
        from threading import Event, Thread

        result: list[int] = []
        raised: BaseException | None = None
        finished = Event()

        def work() -> None:
            try:
                result.append(call())
            finally:
                finished.set()

        Thread(target=work, daemon=True).start()
        while not finished.is_set():
            try:
                finished.wait(POLL_SECONDS)
                if should_stop and should_stop():
                    self.call["stop"](self.handle, 1)
            except BaseException as error:
                raised = error
                self.call["stop"](self.handle, 1)
        self.call["stop"](self.handle, 0)
        if raised:
            raise raised
        return result[0]

    def _raise(self, error: int) -> None:
        c = self.config
        if error == 1:
            raise MemoryError
        if error == 2:
            raise ValueError(f"a token is outside the vocabulary of {c.vocab_size}")
        if error == 3:
            raise ValueError(
                f"a document has more tokens than the {c.block_size + 1} that "
                f"block_size {c.block_size} holds"
            )
        if error == 4:
            raise ValueError("an index is none of the documents'")


class NativeDecoder:
    """Reads one document token by token, with the parameters of the moment it was made."""

    def __init__(self, engine: NativeEngine) -> None:
        self.config = engine.config
        self.call = engine.call
        self.position = 0
        self.handle = self.call["decoder_create"](engine.handle)
        if not self.handle:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.call["decoder_destroy"](self.handle)

    def push(self, token: int) -> array[float]:
        c = self.config
        if not 0 <= token < c.vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {c.vocab_size}")
        if self.position == c.block_size:
            raise ValueError(f"block_size {c.block_size} tokens were pushed: it is full")
        logits = zeros(c.vocab_size)
        self.call["decoder_push"](self.handle, token, address(logits))
        self.position += 1
        return logits
