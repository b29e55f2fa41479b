"""Early stopping by the validation loss."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from kamon.config import Config
from kamon.engines.base import Engine, Reader, State
from kamon.engines.batch import PackedBatch
from kamon.engines.distributed import get_group
from kamon.engines.numerics import sequential_sum
from kamon.storage.records import ValidationRecord
from kamon.training.blend import BlendedValidation, BlendLosses

NUM_EVALUATIONS = 20  # in a training
PATIENCE = 5  # evaluations without a new best one: after these, more steps only memorise
MIN_DOCS = 100  # documents in an evaluation, if there are that many
NUM_AVERAGED = 8  # evaluations whose parameters a conditional model averages
OVERFIT_TOLERANCE = 0.01  # nats that the validation loss may be above its best at the end


def mean_loss(engine: Reader, docs: PackedBatch) -> float:
    """Return the mean of −log p over all targets, in nats. Several ranks share the documents."""
    ranks = get_group()
    own = docs if ranks.size == 1 else docs.select(ranks.shard(range(len(docs))))
    total = sequential_sum(-logprob for logprob in engine.logprobs(own))
    return sequential_sum(of_rank for (of_rank,) in ranks.all_gather([total])) / docs.num_targets


def running_mean(mean: array[float] | None, numbers: array[float], number: int) -> array[float]:
    """Return the mean of `number` arrays, from that of all but the last one, and the last one.

    >>> running_mean(array("d", [1.0, 4.0]), array("d", [4.0, 1.0]), 3).tolist()
    [2.0, 3.0]
    """
    if mean is None or number == 1:
        return numbers
    share = 1 / number
    return array("d", [m + share * (x - m) for m, x in zip(mean, numbers, strict=True)])


@dataclass
class EarlyStopping:
    """Measures the validation loss after some steps, and keeps the best model so far.

    Attributes:
        measure: returns the loss in nats per token, or the losses of a blend.
        num_docs: the number of documents that it measures.
        history: (steps done, loss), oldest first.
        best: the state after `best_step`, which is 0 before the first measurement.
        best_losses: the result of `measure` for this state.
        averages: whether to measure and keep the running mean of the parameters at the last
            evaluations, about NUM_AVERAGED of them, and not the parameters themselves.
        mean: this mean.
    """

    measure: Callable[[Engine], float | BlendLosses]
    num_docs: int = 0
    history: list[tuple[int, float]] = field(default_factory=list)
    best: State | None = None
    best_losses: float | BlendLosses | None = None
    averages: bool = False
    mean: array[float] | None = None

    @classmethod
    def of(
        cls,
        held_out: PackedBatch,
        config: Config,
        blended: BlendedValidation | None = None,
        *,
        averages: bool = False,
    ) -> EarlyStopping:
        """Return an EarlyStopping that takes about a twenty-fifth of the training time."""
        learned = config.num_steps * config.docs_per_step
        num_docs = min(len(held_out), max(MIN_DOCS, learned // NUM_EVALUATIONS // 10))
        measure = blended.losses if blended else mean_loss
        docs = held_out.select(range(num_docs))
        return cls(partial(measure, docs=docs), num_docs, averages=averages)

    def __call__(self, engine: Engine, step: int) -> bool:
        """Measure the loss after this step. Return whether to stop."""
        state = engine.state() if self.averages else None
        if state:
            number = min(len(self.history) + 1, NUM_AVERAGED)
            self.mean = running_mean(self.mean, state["params"], number)
            engine.load({**state, "params": self.mean})
        losses = self.measure(engine)
        loss = losses.loss if isinstance(losses, BlendLosses) else losses
        # Processes on different machines must decide the same.
        self.history.append((step, get_group().broadcast_scalar(loss)))
        if self.best_step == step:
            self.best, self.best_losses = engine.state(), losses
        if state:
            engine.load(state)
        return self.patience_exceeded

    @property
    def patience_exceeded(self) -> bool:
        """Whether the last PATIENCE evaluations were all worse than the best one."""
        return len(self.history) - 1 - self._best_index() >= PATIENCE

    def finish(self, engine: Engine, step: int) -> bool:
        """Restore the best model. Return whether the last loss was worse by OVERFIT_TOLERANCE."""
        if self.best is None or (self.best_step == step and not self.averages):
            return False
        engine.load(self.best)
        return self.history[-1][1] > self.history[self._best_index()][1] + OVERFIT_TOLERANCE

    def record(self) -> ValidationRecord | None:
        """Return the validation record for the checkpoint of an unfinished run."""
        if not self.history:
            return None
        parts = self.best_losses.of_parts() if isinstance(self.best_losses, BlendLosses) else {}
        loss = min(loss for _, loss in self.history)
        return ValidationRecord.of(self.num_docs, loss, self.best_step) | parts

    @property
    def best_step(self) -> int:
        return self.history[self._best_index()][0] if self.history else 0

    def _best_index(self) -> int:
        # The last of equal losses: while the blend uses only its n-gram, the GPT still improves.
        losses = [loss for _, loss in self.history]
        return len(losses) - 1 - losses[::-1].index(min(losses)) if losses else -1
