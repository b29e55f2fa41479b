"""Watching a training from outside: the loss on documents that it never learns from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kamon.config import Config
from kamon.engines.base import Engine, State
from kamon.engines.batch import PackedBatch
from kamon.engines.distributed import get_group
from kamon.engines.numerics import sequential_sum
from kamon.storage.records import ValidationRecord
from kamon.training.blend import BlendedValidation

NUM_EVALUATIONS = 20  # in a training
PATIENCE = 5  # evaluations without a new best one: then more steps only learn by heart
MIN_DOCS = 100  # that an evaluation looks at, if there are so many
OVERFIT_TOLERANCE = 0.01  # nats that the held-out loss has risen since its best


def mean_loss(engine: Engine, docs: PackedBatch) -> float:
    """The mean of −log p over all targets, in nats. Several ranks share the documents."""
    ranks = get_group()
    own = docs if ranks.size == 1 else docs.select(ranks.shard(range(len(docs))))
    total = sequential_sum(-logprob for logprob in engine.logprobs(own))
    return sequential_sum(of_rank for (of_rank,) in ranks.all_gather([total])) / docs.num_targets


@dataclass
class EarlyStopping:
    """Called after a step: measures the held-out loss there, and keeps the best model so far.

    records: (steps done, loss in nats per token), oldest first; best: the state after best_step,
    which is 0 before the first record. measure: the loss, if it is not that of `docs`.
    """

    docs: PackedBatch
    history: list[tuple[int, float]] = field(default_factory=list)
    best: State | None = None
    measure: Callable[[Engine], float] | None = None

    @classmethod
    def of(
        cls, held_out: PackedBatch, config: Config, blended: BlendedValidation | None = None
    ) -> EarlyStopping:
        """A validation that takes a twenty-fifth of the training's time, or about that.

        blended: measures the blend with an n-gram instead of the engine alone.
        """
        learned = config.num_steps * config.docs_per_step
        num_docs = min(len(held_out), max(MIN_DOCS, learned // NUM_EVALUATIONS // 10))
        measure = None
        if blended:
            measure = lambda engine: blended.losses(engine, num_docs).loss  # noqa: E731
        return cls(held_out.select(range(num_docs)), measure=measure)

    def loss(self, engine: Engine) -> float:
        """Return the validation loss of this engine, in nats per token."""
        return self.measure(engine) if self.measure else mean_loss(engine, self.docs)

    def __call__(self, engine: Engine, step: int) -> bool:
        """Whether to stop, since the best step lies far after."""
        self.history.append((step, self.loss(engine)))
        if self.best_step == step:
            self.best = engine.state()
        return self.patience_exceeded

    @property
    def patience_exceeded(self) -> bool:
        """Whether the best step lies so far after that more steps only learn by heart."""
        return len(self.history) - 1 - self._best_index() >= PATIENCE

    def finish(self, engine: Engine, step: int) -> bool:
        """Go back from `step` to the best model that was measured; whether the last one measured
        was worse than rounding can explain."""
        if self.best is None or self.best_step == step:
            return False
        engine.load(self.best)
        return self.history[-1][1] > self.history[self._best_index()][1] + OVERFIT_TOLERANCE

    def record(self) -> ValidationRecord | None:
        """Return what a checkpoint of an unfinished run keeps of it."""
        if not self.history:
            return None
        return ValidationRecord.of(len(self.docs), min(x for _, x in self.history), self.best_step)

    @property
    def best_step(self) -> int:
        return self.history[self._best_index()][0] if self.history else 0

    def _best_index(self) -> int:
        # The latest of equal ones: as long as a blend is only its n-gram, the GPT still improves.
        losses = [loss for _, loss in self.history]
        return len(losses) - 1 - losses[::-1].index(min(losses)) if losses else -1
