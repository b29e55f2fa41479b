"""The native engine: the maths of the scalar engine in C++, tens of thousands of times faster.

native/src/*.hpp has the kernels, and c_api.cpp the functions that this module calls. setup.py makes
a library for each instruction set, and Kamon loads the best one for this processor. The float64
build is exact: it rounds like Python. The float32 build is fast. ctypes releases the GIL in a call.
This module checks what C++ cannot know, such as the type of an array.
"""

from __future__ import annotations

import ctypes
import os
import time
from _thread import RLock, allocate_lock, get_ident, start_new_thread
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from kamon.engines.batch import PackedBatch, check_samples

if TYPE_CHECKING:
    from kamon.config import Config
    from kamon.engines.base import State, StepPlan

from kamon.native.library import (
    address,
    best_level,
    check_numbers,
    functions,
    raise_for,
    usable_cores,
    zeros,
)

MASK64 = 2**64 - 1
MAX_SERIAL_OPS = (
    1e7  # multiply-adds that take 0.1 ms or less: threads would wait longer for each other
)
MIN_STOPPABLE_OPS = 3e8  # multiply-adds that take some milliseconds: longer calls can be stopped
POLL_SECONDS = 0.02
MISFIT = "the arrays of an n-gram do not fit each other or the vocabulary"
LOCK_ATTEMPTS = 20  # attempts to take the lock before a thread queues for it


class NativeEngine:
    """The engine contract of base.py, with fused `train`, `sample` and `document_logprobs`."""

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
        self.options = threads, level
        self.call = functions(dtype, level or best_level())
        self.short_call = functions(dtype, level or best_level(), ctypes.PyDLL)
        self.lock = RLock()  # held during each call, because all calls share memory
        self.working = 0  # the number of the thread that waits for a call in another thread
        self.handle = self._create()
        engines.add(self)

    def _create(self) -> int:
        c = self.config
        threads = self.options[0] or usable_cores()
        handle = array("Q", [0])
        # Config limits its numbers. ctypes would cut larger ones to their last bits.
        fits = -(2**31) < threads < 2**31 and -(2**63) < self.num_params < 2**63
        error = self.call["create"](
            *(c.n_layer, c.n_embd, c.n_head, c.block_size, c.vocab_size),
            *(c.beta1, c.beta2, c.eps_adam, c.weight_decay, c.grad_clip, c.dropout),
            *(c.seed & MASK64, threads if fits else 0, self.num_params, address(handle)),
        )
        raise_for(error)
        return int(handle[0])

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.call["destroy"](self.handle)

    def __reduce__(self) -> tuple[Any, ...]:
        return unpickle_engine, (
            self.config,
            self.num_params,
            self.dtype,
            *self.options,
            self.state(),
        )

    def after_fork(self) -> None:
        """Make the engine usable in the child, which has only one thread after a fork."""
        if self.working or not self.lock.acquire(blocking=False):
            state = self._read_state()
            self.handle = self._create()  # the old one may be in a call, so it is not freed
            self.lock, self.working = RLock(), 0
            self.load(state)
        else:
            self.lock.release()

    def load(self, state: State) -> None:
        params, m, v = state["params"], state["m"], state["v"]
        if not len(params) == len(m) == len(v) == self.num_params:
            raise ValueError(f"the state does not have this model's {self.num_params} parameters")
        if not 0 <= state["step"] < 2**63:
            raise ValueError(f"a state cannot have {state['step']} steps")
        self._call("load", *(address(each, "d") for each in (params, m, v)), state["step"])

    def state(self) -> State:
        with self.lock:
            self._check_idle()
            return self._read_state()

    def _read_state(self) -> State:
        params, m, v = (zeros(self.num_params) for _ in range(3))
        step = self.call["state"](self.handle, address(params), address(m), address(v))
        return {"params": params, "m": m, "v": v, "step": step}

    def gradients(self) -> array[float]:
        grads = zeros(self.num_params)
        self._call("gradients", address(grads))
        return grads

    def logprobs(self, batch: PackedBatch) -> array[float]:
        return self._batch(batch, None, None)

    def backward(
        self, batch: PackedBatch, weights: Sequence[float], draws: Sequence[int] | None = None
    ) -> array[float]:
        if len(weights) != batch.num_targets:
            raise ValueError(f"{len(weights)} weights for {batch.num_targets} targets")
        if draws is not None and len(draws) != len(batch):
            raise ValueError(f"{len(draws)} draws for {len(batch)} documents")
        # One more than needed, because an empty array has no address, and null means no gradient.
        drawn = None if draws is None else array("Q", [*(draw & MASK64 for draw in draws), 0])
        return self._batch(batch, array("d", [*weights, 0.0]), drawn)

    def _batch(
        self, batch: PackedBatch, weights: array[float] | None, draws: array[int] | None
    ) -> array[float]:
        num_targets = batch.num_targets
        logprobs = zeros(num_targets)
        error = self._run(
            *("batch", num_targets * (1 if weights is None else 3), None),
            *batch_arguments(batch),
            None if weights is None else address(weights),
            None if draws is None else address(draws),
            address(logprobs),
        )
        self._check(error)
        return logprobs

    def document_logprobs(self, batch: PackedBatch) -> tuple[array[float], array[int]]:
        totals, places = zeros(len(batch)), zeros(len(batch), "q")
        error = self._run(
            *("document_logprobs", batch.num_targets, None),
            *(*batch_arguments(batch), address(totals), address(places)),
        )
        self._check(error)
        return totals, places

    def step(self, learning_rate: float) -> None:
        self._check(self._call("step", learning_rate))

    def train(self, plan: StepPlan, should_stop: Callable[[], bool] | None = None) -> array[float]:
        num_steps = len(plan.learning_rates)
        losses = zeros(num_steps)
        docs = plan.docs
        done = self._run(
            *("train", 3 * len(plan.indices) * len(docs.tokens) / max(1, len(docs)), should_stop),
            *(*batch_arguments(docs), address(plan.indices, "q"), plan.docs_per_step, num_steps),
            *(plan.first_dropout_id & MASK64, address(plan.learning_rates, "d"), address(losses)),
        )
        self._check(-done)
        return losses[:done]

    def sample(
        self,
        n: int,
        temperature: float,
        seed: int,
        bos: int,
        first: int = 0,
        *,
        parts: Sequence[SamplePart] = (),
        num_choices: int | None = None,
        numbers: array[int] | None = None,
    ) -> PackedBatch:
        """Return n documents, without BOS: see `kamon.generation.sampling.SampleRequest`.

        Args:
            parts: models whose mixture is sampled from. By default it is the GPT after BOS.
            num_choices: tokens after the first ones are never chosen. By default all can be.
            numbers: of the samples, an array of 'q'. By default they begin with `first`.
        """
        c = self.config
        check_samples(n, temperature, first)
        num_choices = c.vocab_size if num_choices is None else num_choices
        if not 0 <= bos < num_choices <= c.vocab_size:
            raise ValueError(f"token {bos} is outside the vocabulary of {num_choices}")
        mixture = Mixture(self, parts or [SamplePart(1.0, (bos,))])
        tokens, offsets = zeros(n * c.block_size, "i"), zeros(n + 1, "q")
        numbers = checked_numbers(n, first, numbers)
        error = self._run(
            *("sample", len(tokens) * len(mixture), None),
            *(address(numbers), n, temperature, seed & MASK64, bos, num_choices),
            *(*mixture.arguments(), address(tokens), address(offsets)),
        )
        self._check(error)
        return PackedBatch(tokens[: offsets[n]], offsets)

    def sample_guided(
        self,
        n: int,
        temperature: float,
        seed: int,
        first: int,
        top_k: int | None,
        top_p: float,
        guide: GuideArrays,
        chances: array[float],
        *,
        counts: array[float] | None = None,
        parts: Sequence[SamplePart] = (),
        numbers: array[int] | None = None,
    ) -> tuple[PackedBatch, array[float]]:
        """Return n documents under conditions, without BOS, and the weight of each.

        See `kamon.generation.lookahead.guided_documents`. parts, numbers: as of `sample`.
        """
        c = self.config
        check_samples(n, temperature, first)
        if counts is not None and len(counts) < len(guide.after):
            raise ValueError(f"{len(counts)} counts for {len(guide.after)} tokens after contexts")
        mixture = Mixture(self, parts or [SamplePart(1.0, (guide.bos,))])
        tokens, offsets, weights = zeros(n * c.block_size, "i"), zeros(n + 1, "q"), zeros(n)
        numbers = checked_numbers(n, first, numbers)
        error = self._run(
            *("sample_guided", len(tokens) * len(mixture), None),
            *(address(numbers), n, temperature, seed & MASK64),
            *(c.vocab_size if top_k is None else min(top_k, c.vocab_size), top_p),
            *mixture.arguments(),
            *(*guide.arguments(), len(chances), address(chances, "d")),
            None if counts is None else address(counts, "d"),
            *(address(weights), address(tokens), address(offsets)),
        )
        self._check(error)
        return PackedBatch(tokens[: offsets[n]], offsets), weights

    def decoder(self) -> NativeDecoder:
        return NativeDecoder(self)

    def branches(self) -> NativeBranches:
        """Return an empty `kamon.generation.branches.Branches` with the current parameters."""
        return NativeBranches(self)

    def _call(self, name: str, *arguments: Any, short: bool = False) -> int:
        """Return the result of a function of the library. No other one uses the engine meanwhile.

        short: keep the GIL. Releasing it takes longer than a short call if other threads wait.
        """
        call = (self.short_call if short else self.call)[name]
        # Threads that queue for a lock take turns at each call, and a turn costs more than a call.
        for _ in range(LOCK_ATTEMPTS):
            if self.lock.acquire(blocking=False):
                self.lock.release()
                break
            time.sleep(POLL_SECONDS / 100)
        with self.lock:
            self._check_idle()
            return call(self.handle, *arguments)  # type: ignore[no-any-return]

    def _run(
        self, name: str, tokens: float, should_stop: Callable[[], bool] | None, *arguments: Any
    ) -> int:
        """Do the same for a function that reads about `tokens` tokens and that can be stopped.

        A long call runs in a separate thread, which keeps all its arguments alive. This thread
        waits in Python, which handles signals. If a handler raises an error, the call ends.
        """
        size = tokens * self.num_params
        if size < MIN_STOPPABLE_OPS:
            return self._call(name, *arguments, None, short=size < MAX_SERIAL_OPS)
        stop, results, finished = array("i", [0]), array("q"), allocate_lock()
        raised: BaseException | None = None

        def work() -> None:
            try:
                results.append(self.call[name](self.handle, *arguments, address(stop)))
            finally:
                self.working = 0
                finished.release()

        with self.lock:
            self._check_idle()
            finished.acquire()
            self.working = get_ident()
            try:  # from here on, no exception may be raised before the thread has ended
                start_new_thread(work, ())
            except RuntimeError:
                self.working = 0
                raise MemoryError("no more threads can be started") from None
            except BaseException as error:
                raised = error
                stop[0] = 1
            while self.working:
                try:
                    finished.acquire(timeout=POLL_SECONDS)
                    if self.working and should_stop and should_stop():
                        stop[0] = 1
                except BaseException as error:
                    raised = error
                    stop[0] = 1
        if raised:
            raise raised
        return results[0]

    def _check_idle(self) -> None:
        if self.working == get_ident():
            raise RuntimeError(
                "the engine is busy: should_stop and signal handlers cannot use it during a call"
            )
        while self.working:  # its thread may have stopped waiting after two signals
            time.sleep(POLL_SECONDS)

    def _check(self, error: int) -> None:
        raise_for(error, self.config.vocab_size, self.config.block_size)


@dataclass(frozen=True, eq=False)
class SamplePart:
    """One of the models of a mixture, each of which has a share of every token's probability.

    Attributes:
        start: tokens that the GPT reads before each document, such as BOS.
        weight: of the GPT in its blend with n-grams.
        tables: the n-grams of the blend and their weights.
    """

    share: float
    start: tuple[int, ...]
    weight: float = 1.0
    tables: tuple[tuple[NgramTable, float], ...] = ()


class Mixture:
    """The parts of a mixture as the library takes them."""

    def __init__(self, engine: NativeEngine, parts: Sequence[SamplePart]) -> None:
        self.parts = tuple(parts)  # keeps the tables in memory
        tables = [table for part in parts for table, _ in part.tables]
        if any(table.call is not engine.call for table in tables):
            raise ValueError("the table of an n-gram is for engines of one dtype and level")
        if len({len(part.start) for part in parts}) != 1:
            raise ValueError("the parts of a mixture have starts of different sizes")
        self.starts = array("i", [token for part in parts for token in part.start])
        self.weights, self.num_tables = array("d"), array("i")
        for part in parts:
            self.weights.extend([part.share, part.weight, *(weight for _, weight in part.tables)])
            self.num_tables.append(len(part.tables))
        self.tables = array("Q", [*(table.handle for table in tables), 0])  # an empty one has none

    def __len__(self) -> int:
        return len(self.parts)

    def arguments(self) -> list[Any]:
        return [
            *(len(self.parts), len(self.parts[0].start)),
            *(address(self.starts), address(self.weights)),
            *(address(self.num_tables), address(self.tables)),
        ]


def checked_numbers(n: int, first: int, numbers: array[int] | None) -> array[int]:
    """Return the numbers of n samples: those given, or those from `first` on.

    Call it after the check that there is memory for n samples.
    """
    if numbers is None:
        return array("q", range(first, first + n))
    check_numbers("numbers", numbers, "q")
    if len(numbers) != n:
        raise ValueError(f"{len(numbers)} numbers for {n} samples")
    return numbers


@dataclass(frozen=True, eq=False)
class NgramArrays:
    """An n-gram as a graph of contexts. See NgramArrays in ngram.hpp."""

    kept: array[float]
    shorter: array[int]
    begins: array[int]
    tokens: array[int]
    shares: array[float]
    longer: array[int]

    @classmethod
    def zeros(cls, num_contexts: int, num_followers: int) -> NgramArrays:
        """Return arrays of these sizes, to be filled."""
        return cls(
            kept=zeros(num_contexts),
            shorter=zeros(num_contexts, "i"),
            begins=zeros(num_contexts + 1, "q"),
            tokens=zeros(num_followers, "i"),
            shares=zeros(num_followers),
            longer=zeros(num_followers, "i"),
        )

    def arguments(self) -> list[Any]:
        """Return the arrays as the library takes them."""
        typecodes = {"kept": "d", "shorter": "i", "begins": "q"}
        typecodes |= {"tokens": "i", "shares": "d", "longer": "i"}
        return [address(getattr(self, name), typecode) for name, typecode in typecodes.items()]


@dataclass(frozen=True, eq=False)
class GuideArrays:
    """The places of a document under conditions: see GuideArrays in lookahead.hpp."""

    vocab_size: int
    bos: int
    room: int
    positions: array[int]
    next_nodes: array[int]
    ends: bytearray
    first_contexts: array[int]
    after: array[int]
    begins: array[int]

    def arguments(self) -> list[Any]:
        """Return them as the library takes them."""
        nodes, contexts = len(self.ends), self.first_contexts[-1]
        sizes = [len(each) for each in (self.positions, self.next_nodes, self.begins, self.after)]
        wanted = [nodes, nodes * self.vocab_size, nodes + 1, contexts * self.vocab_size]
        if sizes != wanted or len(self.first_contexts) != self.room + 2:
            raise ValueError("the arrays of the conditions do not fit together")
        return [
            *(self.vocab_size, self.bos, self.room, nodes),
            *(address(self.positions, "i"), address(self.next_nodes, "i"), address(self.ends)),
            *(address(self.first_contexts, "q"), address(self.after, "i")),
            address(self.begins, "q"),
        ]


class NgramTable:
    """An n-gram in the memory of an engine's library, for its `sample`."""

    def __init__(self, engine: NativeEngine, arrays: NgramArrays, vocab_size: int) -> None:
        contexts, followers = len(arrays.kept), len(arrays.tokens)
        found = [
            len(each) for each in (arrays.shorter, arrays.begins, arrays.shares, arrays.longer)
        ]
        if found != [contexts, contexts + 1, followers, followers]:
            raise ValueError(MISFIT)
        self.call = engine.call
        handle = array("Q", [0])
        sizes = vocab_size, contexts, followers
        error = self.call["table_create"](*sizes, *arrays.arguments(), address(handle))
        if error == 6:
            raise ValueError(MISFIT)
        raise_for(error)
        self.handle = int(handle[0])

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.call["table_destroy"](self.handle)

    def __reduce__(self) -> str:
        raise TypeError("a table cannot be copied: make a new one")


def batch_arguments(batch: PackedBatch) -> tuple[Any, int, Any, int]:
    """Return a batch as the library takes it. The library checks the order of the offsets."""
    tokens, offsets = address(batch.tokens, "i"), address(batch.offsets, "q")
    return tokens, len(batch.tokens), offsets, len(batch)


def unpickle_engine(
    config: Config,
    num_params: int,
    dtype: str,
    threads: int | None,
    level: str | None,
    state: State,
) -> NativeEngine:
    engine = NativeEngine(config, num_params, dtype, threads, level)
    engine.load(state)
    return engine


engines: WeakSet[NativeEngine] = WeakSet()


def after_fork() -> None:
    for engine in list(engines):
        engine.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=after_fork)


class NativeDecoder:
    """Reads one document token by token, with the parameters at the time it was made."""

    def __init__(self, engine: NativeEngine) -> None:
        self.config = engine.config
        self.call = engine.call
        self.handle = engine._call("decoder_create")
        if not self.handle:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.call["decoder_destroy"](self.handle)

    def __reduce__(self) -> str:
        raise TypeError("a decoder cannot be copied: make a new one")

    def push(self, token: int) -> array[float]:
        c = self.config
        if not 0 <= token < c.vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {c.vocab_size}")
        logits = zeros(c.vocab_size)
        error = self.call["decoder_push"](self.handle, token, address(logits))
        if error == 3:
            raise ValueError(f"the decoder is full: block_size {c.block_size} tokens were pushed")
        raise_for(error)
        return logits


class NativeBranches:
    """Many continuations of one text: see `kamon.generation.branches`."""

    def __init__(self, engine: NativeEngine) -> None:
        self.config = engine.config
        self.call = engine.call
        self.handle = engine._call("branches_create")
        if not self.handle:
            raise MemoryError

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.call["branches_destroy"](self.handle)

    def __reduce__(self) -> str:
        raise TypeError("branches cannot be copied: make new ones")

    def push(self, parents: Sequence[int], tokens: Sequence[int]) -> list[array[float]]:
        size = self.config.vocab_size
        if len(parents) != len(tokens):
            raise ValueError(f"{len(parents)} parents for {len(tokens)} tokens")
        if not tokens:
            return []
        found = zeros(len(tokens) * size)
        raise_for(
            self.call["branches_push"](
                *(self.handle, len(tokens), address(array("i", parents))),
                *(address(array("i", tokens)), address(found)),
            ),
            *(size, self.config.block_size),
        )
        return [found[begin : begin + size] for begin in range(0, len(found), size)]
