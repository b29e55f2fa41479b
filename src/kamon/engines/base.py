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
    """The state of an engine: flat arrays of 'd' in the order of `parameter_shapes`."""

    params: array[float]
    m: array[float]  # Adam's mean of the gradient
    v: array[float]  # and of its square
    step: int  # updates made so far


def initial_state(params: array[float]) -> State:
    zeros = array("d", bytes(8 * len(params)))
    return {"params": params, "m": zeros, "v": zeros, "step": 0}


class Decoder(Protocol):
    """Reads one document token by token, with its own KV cache. Only one thread may use it."""

    def push(self, token: int) -> Sequence[float]:
        """Return the logits (V,) of the next token. ValueError after block_size pushes."""


class Engine(Protocol):
    """What every engine can do.

    Several threads may call one engine. Each call waits for the one before it. The results are
    those of a single thread. A copy, also by pickle, has the same state but no gradients.

    Raises:
        ValueError: a token is outside the vocabulary, or a document has more than block_size + 1
            tokens. Also for an invalid PackedBatch (see its `check`), arrays of a wrong type or
            length, and an impossible number or temperature of samples.
        ArithmeticError: `backward` or `step` leaves the range of floats.
        MemoryError: there is too little memory.
    """

    config: Config
    dtype: str  # of its numbers

    def load(self, state: State) -> None:
        """Copy `state` into the engine, and clear the gradients."""

    def state(self) -> State:
        """Return a copy of the state, as `load` takes it."""

    def gradients(self) -> array[float]:
        """Return a copy of the gradients that `backward` has added since the last `step`."""

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document."""

    def backward(
        self, batch: PackedBatch, weights: Sequence[float], draws: Sequence[int] | None = None
    ) -> array[float]:
        """Return `logprobs`, and add the gradient of Σ w_t · (−log p_t), one weight per target.

        draws: a number for each document, which determines its dropout (see kamon.engines.dropout).
        None turns dropout off.
        """

    def step(self, learning_rate: float) -> None:
        """Update the parameters by Adam with the accumulated gradient, and clear the gradient.

        If config.grad_clip is above 0 and the L2 norm of the gradient is larger, the engine first
        scales the gradient to grad_clip. Source: Pascanu et al. 2013, arXiv:1211.5063.
        """

    def decoder(self) -> Decoder:
        """Return a decoder at the start of a document, with the current parameters."""


class Reader(Protocol):
    """The methods that scoring needs. Every engine and every n-gram has them."""

    @property
    def config(self) -> Config:
        """The config. Scoring reads its block_size."""

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document."""


def has_fused_ops(model: object) -> bool:
    """Return whether an engine has fused calls, which are much faster."""
    return hasattr(model, "train")


@dataclass(frozen=True)
class StepPlan:
    """Training steps to make in one call. Each uses the next `docs_per_step` of `indices`.

    If the memory of an engine does not depend on the batch size, it may compute all batches of a
    step together.

    Attributes:
        indices: the numbers of the documents, an array of 'q'.
        learning_rates: array of 'd', one per step.
        first_dropout_id: number of the first document for dropout. The others follow one by one.
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
