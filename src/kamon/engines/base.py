"""The contract that every engine keeps."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

from kamon.config import Config
from kamon.engines.batch import PackedBatch
from kamon.native.library import check_numbers


class State(TypedDict):
    """All that an engine knows: flat arrays of 'd' in the order of `parameter_shapes`."""

    params: array[float]
    m: array[float]  # Adam's mean of the gradient
    v: array[float]  # and of its square
    step: int  # updates made so far


def initial_state(params: array[float]) -> State:
    zeros = array("d", bytes(8 * len(params)))
    return {"params": params, "m": zeros, "v": zeros, "step": 0}


class Decoder(Protocol):
    """One document, read token by token; owns its KV cache. One thread at a time pushes."""

    def push(self, token: int) -> Sequence[float]:
        """Return the logits (V,) of the next token. ValueError after block_size pushes."""


class Engine(Protocol):
    """What every engine can do.

    ValueError for a token outside the vocabulary or a document of more than block_size + 1 tokens;
    ArithmeticError if `backward` or `step` leaves the range of floats. ValueError also for what is
    no PackedBatch (see its `check`), for arrays of other types or lengths than are named here, and
    for samples of a number or temperature that cannot be. MemoryError if there is too little.

    Several threads may call one engine: each call waits for the one before it, and returns what it
    would return to a single thread. A copy, also by pickle, has the same state, and no gradients.
    """

    config: Config
    dtype: str  # of the numbers it computes with

    def load(self, state: State) -> None:
        """Take over a copy of `state`; clear the gradients."""

    def state(self) -> State:
        """Return a copy of all that `load` takes."""

    def gradients(self) -> array[float]:
        """Return a copy of what `backward` has accumulated since the last `step`."""

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document."""

    def backward(
        self, batch: PackedBatch, weights: Sequence[float], draws: Sequence[int] | None = None
    ) -> array[float]:
        """The same as `logprobs`; adds the gradient of Σ w_t · (−log p_t), one weight per target.

        draws: a number for each document, from which follows what dropout leaves out of it (see
        kamon.engines.dropout); without them nothing is left out.
        """

    def step(self, learning_rate: float) -> None:
        """One update by Adam with the accumulated gradient, which is cleared.

        Where config.grad_clip is above 0 and the gradient longer (its L2 norm over all parameters),
        it is shortened to that first. Source: Pascanu et al. 2013, arXiv:1211.5063.
        """

    def decoder(self) -> Decoder:
        """Return a decoder at the start of a document, with the current parameters."""


class Reader(Protocol):
    """What scoring needs: every engine has it, and so has an n-gram."""

    @property
    def config(self) -> Config:
        """Of which block_size is read."""

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document."""


def has_fused_ops(model: object) -> bool:
    """Return whether an engine has fused calls, which are far faster."""
    return hasattr(model, "train")


@dataclass(frozen=True)
class StepPlan:
    """Pretraining steps to do in one call: each learns from as many of `indices` as it has batches
    of `batch_size` documents.

    indices: array of 'q'; learning_rates: array of 'd', one per step. first_draw: of the first
    document of the first step, for dropout; the others follow one by one. An engine whose memory
    does not grow with the batch may compute all batches of a step together.
    """

    docs: PackedBatch
    batch_size: int
    indices: array[int]
    learning_rates: array[float]
    first_dropout_id: int = 0
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
