"""The records in training.json: the list, the engine, the progress and the losses of a model.

A record wraps a JSON object and has its known fields as attributes. Writing a record gives the
object that was read. Unknown fields stay, absent fields stay absent, and the order stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from itertools import chain
from types import UnionType
from typing import Any, ClassVar, Self, get_args, get_origin, get_type_hints

from kamon.data.documents import Documents
from kamon.data.split import RULE_BY_BUCKET, RULES, divide
from kamon.engines.factory import DTYPES, ENGINES
from kamon.errors import ConfigError
from kamon.ngrams.reference import MAX_ORDER

# A field with this metadata uses it in the error for a damaged value, not its record's `about`.
TO_RESUME = {"about": "state to resume from"}


@dataclass(frozen=True, eq=False)
class Record(Mapping[str, Any]):
    """A JSON object. A subclass declares its known fields. One with a default may be absent.

    Attributes:
        content: the object. Nested records are plain dictionaries in it.
    """

    about: ClassVar[str]  # what is missing in a damaged record, for the error
    content: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, content: Any) -> Self:
        """Return the record in a JSON object.

        Raises: ValueError if a known field is missing or has another type.
        """
        given = content if isinstance(content, Mapping) else {}
        content = {k: v.content if isinstance(v, Record) else v for k, v in given.items()}
        types = get_type_hints(cls)
        values = {
            known.name: typed(types[known.name], content[known.name], known.metadata or vars(cls))
            for known in fields(cls)[1:]
            if known.name in content
        }
        try:
            return cls(content, **values)
        except TypeError:  # a field is missing
            raise damaged(cls.about) from None

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def __or__(self, changes: Mapping[str, Any]) -> Self:
        """Return the record with some fields changed. New fields come last."""
        return self.read({**self, **changes})


def typed(kind: Any, value: Any, owner: Mapping[str, Any]) -> Any:
    """Return the value as this type, which may be a record, or raise ValueError."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    plain = tuple(get_origin(each) or each for each in kinds)
    if isinstance(value, plain):
        return value
    for each in plain:
        if issubclass(each, Record):
            return each.read(value)
    raise damaged(owner["about"])


def damaged(about: str) -> ValueError:
    return ValueError(f"training.json has no valid {about}")


@dataclass(frozen=True, eq=False)
class CorpusRecord(Record):
    """The list or packed corpus that a model was trained on.

    Attributes:
        sha256: SHA-256 of its documents, "" in models of an older format.
        split: the rule of `kamon.data.split` that divided them.
        packed: the directory of a packed corpus, None for a list.
        num_different: the number of unique documents of a list.
    """

    about = "description of the training"
    source: str
    num_docs: int
    sha256: str = field(default="", metadata=TO_RESUME)
    split: int = RULE_BY_BUCKET
    packed: str | None = None
    num_different: int | None = None

    def __post_init__(self) -> None:
        if self.split not in RULES:
            raise damaged(self.about)


@dataclass(frozen=True, eq=False)
class ValidationRecord(Record):
    """The validation loss of the model, in nats per token, and its step.

    Attributes:
        gpt_loss, ngram_loss: losses of the parts of a blend, None without a blend.
    """

    about = "validation loss"
    loss: float
    best_step: int
    over_fitted: bool = False
    gpt_loss: float | None = None
    ngram_loss: float | None = None

    @classmethod
    def of(
        cls, num_docs: int, loss: float, best_step: int, over_fitted: bool = False
    ) -> ValidationRecord:
        """Return the record of a loss on `num_docs` documents."""
        values = {"loss": loss, "best_step": best_step, "over_fitted": over_fitted}
        return cls.read({"num_docs": num_docs, **values})


@dataclass(frozen=True, eq=False)
class BlendRecord(Record):
    """The n-gram that a GPT is blended with: p = weight · GPT + (1 − weight) · n-gram."""

    about = "blend"
    weight: float
    order: int

    def __post_init__(self) -> None:
        if not (0 <= self.weight <= 1 and 1 <= self.order <= MAX_ORDER):
            raise damaged(self.about)


@dataclass(frozen=True, eq=False)
class GivenRecord(Record):
    """The given columns of a conditional model.

    Attributes:
        columns: their names, as in each stored row.
        shares: of the n-grams of `kamon.generation.given.levels`. Empty for the GPT only.
        weight: the column of weights, if there is one.
        exponents: for each column those of the GPT and the n-grams when classes are compared, see
            `kamon.generation.classes`.
    """

    about = "what values are given"
    columns: list[str]
    shares: list[float] = field(default_factory=list)
    weight: str | None = None
    exponents: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.columns or not all(isinstance(name, str) for name in self.columns):
            raise damaged(self.about)
        if not all(isinstance(each, list) for each in self.exponents.values()):
            raise damaged(self.about)
        numbers = [*self.shares, *chain(*self.exponents.values())]
        if not all(isinstance(number, int | float) and number >= 0 for number in numbers):
            raise damaged(self.about)


@dataclass(frozen=True, eq=False)
class CrossValidationRecord(Record):
    """Cross-validation losses, in nats per token, of models that each left out a part of the list.

    The saved model has learned the whole list, with the number of steps that was best for them.
    """

    about = "cross-validation losses"
    num_folds: int
    loss: float
    gpt_loss: float
    ngram_loss: float


@dataclass(frozen=True, eq=False)
class BaseRecord(Record):
    """The base of a fine-tuned model: its path, its fingerprint and its own fine-tuning."""

    about = "description of the fine-tuning"
    sha256: str
    path: str | None = None
    tuning: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class ExamplesRecord(Record):
    """The examples of a fine-tuned model. num_left_out: see `FineTuneSpec`."""

    about = BaseRecord.about
    source: str
    num_examples: int
    sha256: str
    num_left_out: int = 0


@dataclass(frozen=True, eq=False)
class TuningRecord(Record):
    """How a model was fine-tuned. Other fields are measurements that depend on the kind.

    Attributes:
        updates: optimiser updates per step.
        held_out: validation losses, None without a validation set or before they are measured.
    """

    about = BaseRecord.about
    kind: str
    base: BaseRecord
    data: ExamplesRecord
    settings: dict[str, Any]
    updates: int
    held_out: ValidationRecord | None = None


@dataclass(frozen=True, eq=False)
class TrainingRecord(Record):
    """How a model was trained.

    Attributes:
        num_cut: number of documents that were cut at block_size.
        hold_out: whether the run has a validation set.
        held_out: validation loss, None without a validation set or before it is measured.
        measured_since: before this step, an extended run had another validation set.
        blend: None for a GPT only.
        cross_validation: losses for a list that is too short for a validation set.
        tuning: None if the model is not fine-tuned.
        given: of a conditional model.
    """

    about = CorpusRecord.about
    engine: str
    dtype: str
    corpus: CorpusRecord
    num_steps_done: int
    seconds: int | float
    num_cut: int = 0
    hold_out: bool = field(default=False, metadata=TO_RESUME)
    finished: bool = field(default=True, metadata=TO_RESUME)
    checkpoint_every: int | float | None = None
    measured_since: int = 0
    held_out: ValidationRecord | None = None
    blend: BlendRecord | None = None
    cross_validation: CrossValidationRecord | None = None
    tuning: TuningRecord | None = None
    given: GivenRecord | None = None

    def __post_init__(self) -> None:
        if self.engine not in ENGINES or self.dtype not in DTYPES:
            raise damaged(self.about)

    @property
    def kind(self) -> str | None:
        """Return the kind of fine-tuning, or None."""
        return self.tuning.kind if self.tuning else None

    @property
    def measured(self) -> Mapping[str, Any]:
        """Return the fine-tuning's record with its measurements, or an empty mapping."""
        return self.tuning or {}

    def check_unconditional(self, what: str) -> None:
        """Raise ConfigError for a conditional model. what: the thing that it cannot do."""
        if self.given:
            raise ConfigError(
                f"{what} is not possible with a model of given values",
                "use a model that was trained without --given",
            )

    def without_blend(self) -> TrainingRecord:
        """Return the record without the blend, with the losses of the GPT."""
        changes: dict[str, Any] = {"blend": None}
        for name in ("held_out", "cross_validation"):
            losses = getattr(self, name)
            if losses and losses.gpt_loss is not None:
                changes[name] = losses | {"loss": losses.gpt_loss}
        return self | changes if self.blend else self

    def check(self, num_steps: int, *, resumable: bool) -> None:
        """Raise ValueError if it has another number of steps, or lacks a field needed to resume."""
        if self.num_steps_done != num_steps:
            raise damaged(f"number of steps: metrics.jsonl has {num_steps:,}")
        if resumable and not ({"hold_out", "finished"} <= self.keys() and self.corpus.sha256):
            raise damaged(TO_RESUME["about"])

    def divide(self, docs: Documents, mode: str) -> tuple[Documents, Documents]:
        """Return the (training set, validation set) of the model's documents."""
        return divide(docs, self.held_out is not None, mode, self.corpus.split)
