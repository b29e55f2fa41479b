"""The records in training.json: what a model has learned, with which engine, and how far it is.

A record is the JSON object itself, whose known fields are attributes. So it is written as it was
read: unknown fields, absent ones and the order of all stay as they are.
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

# Metadata of a field of which a damaged value says this, not what its record is about.
TO_RESUME = {"about": "how the training goes on"}


@dataclass(frozen=True, eq=False)
class Record(Mapping[str, Any]):
    """A JSON object. A subclass declares its known fields; those with a default may be absent.

    Attributes:
        content: the object, with plain dictionaries for the records in it.
    """

    about: ClassVar[str]  # what a record does not say if it is damaged
    content: dict[str, Any] = field(repr=False)

    @classmethod
    def read(cls, content: Any) -> Self:
        """Return the record in a JSON object.

        Raises: ValueError if a known field is missing, or has another type.
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
        except TypeError:  # one is missing
            raise damaged(cls.about) from None

    def __getitem__(self, name: str) -> Any:
        return self.content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.content)

    def __len__(self) -> int:
        return len(self.content)

    def __or__(self, changes: Mapping[str, Any]) -> Self:
        """Return the record with other values for some fields; new fields are the last ones."""
        return self.read({**self, **changes})


def typed(kind: Any, value: Any, owner: Mapping[str, Any]) -> Any:
    """Return a value of this type, which may be a record; ValueError if it is of another type."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    plain = tuple(get_origin(each) or each for each in kinds)
    if isinstance(value, plain):
        return value
    for each in plain:
        if issubclass(each, Record):
            return each.read(value)
    raise damaged(owner["about"])


def damaged(about: str) -> ValueError:
    return ValueError(f"training.json does not say {about}")


@dataclass(frozen=True, eq=False)
class CorpusRecord(Record):
    """The list or the packed corpus that a model has learned.

    Attributes:
        sha256: of its documents; "" in models of an older format.
        split: the rule of `kamon.data.split` that divided them.
        packed: the directory of a packed corpus; None for a list.
        num_different: of a list only.
    """

    about = "what the model was trained on and with"
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
    """The validation loss of the model, in nats per token, and the step that it is from.

    Attributes:
        gpt_loss, ngram_loss: of the parts of a blend; None if there is no blend.
    """

    about = "what was held out"
    loss: float
    best_step: int
    over_fitted: bool = False
    gpt_loss: float | None = None
    ngram_loss: float | None = None

    @classmethod
    def of(
        cls, num_docs: int, loss: float, best_step: int, over_fitted: bool = False
    ) -> ValidationRecord:
        """Return the record of a loss on so many documents."""
        values = {"loss": loss, "best_step": best_step, "over_fitted": over_fitted}
        return cls.read({"num_docs": num_docs, **values})


@dataclass(frozen=True, eq=False)
class BlendRecord(Record):
    """The n-gram that a GPT is blended with: p = weight · GPT + (1 − weight) · n-gram."""

    about = "what the model is blended with"
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
        shares: of the n-grams of `kamon.generation.given.levels`; empty for the GPT only.
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
    """Losses of models that each held out another part of a list, in nats per token.

    The model itself has learned the whole list, in as many steps as were best for these.
    """

    about = "what the folds held out"
    num_folds: int
    loss: float
    gpt_loss: float
    ngram_loss: float


@dataclass(frozen=True, eq=False)
class BaseRecord(Record):
    """The base of a fine-tuned model: its path, its fingerprint and how it was tuned itself."""

    about = "how the model is tuned"
    sha256: str
    path: str | None = None
    tuning: dict[str, Any] | None = None


@dataclass(frozen=True, eq=False)
class ExamplesRecord(Record):
    """What a fine-tuned model has learned. num_left_out: see `FineTuneSpec`."""

    about = BaseRecord.about
    source: str
    num_examples: int
    sha256: str
    num_left_out: int = 0


@dataclass(frozen=True, eq=False)
class TuningRecord(Record):
    """How a model was fine-tuned. Its other fields are measurements, which depend on the kind.

    Attributes:
        updates: optimiser updates per step.
        held_out: of the examples; None if none is held out, or none is measured yet.
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
        num_cut: documents that lost their end.
        hold_out: whether the run has a validation set.
        held_out: None if nothing is held out, or nothing is measured yet.
        measured_since: the step before which an extended run measured other documents.
        blend: None for the GPT only.
        cross_validation: of a list that is too short for a validation set.
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
        """The kind of fine-tuning, or None."""
        return self.tuning.kind if self.tuning else None

    @property
    def measured(self) -> Mapping[str, Any]:
        """The record of the fine-tuning, for measurements that depend on its kind, or nothing."""
        return self.tuning or {}

    def check_unconditional(self, what: str) -> None:
        """Raise ConfigError for a conditional model, with which `what` is not possible."""
        if self.given:
            raise ConfigError(
                f"{what} is not possible with a model of given values",
                "use a model that was trained without --given",
            )

    def without_blend(self) -> TrainingRecord:
        """Return the record of the GPT only, with its own losses."""
        changes: dict[str, Any] = {"blend": None}
        for name in ("held_out", "cross_validation"):
            losses = getattr(self, name)
            if losses and losses.gpt_loss is not None:
                changes[name] = losses | {"loss": losses.gpt_loss}
        return self | changes if self.blend else self

    def check(self, num_steps: int, *, resumable: bool) -> None:
        """Raise ValueError unless it has so many steps, and all that a resumable run needs."""
        if self.num_steps_done != num_steps:
            raise damaged(f"{num_steps:,} steps, as metrics.jsonl does")
        if resumable and not ({"hold_out", "finished"} <= self.keys() and self.corpus.sha256):
            raise damaged(TO_RESUME["about"])

    def divide(self, docs: Documents, mode: str) -> tuple[Documents, Documents]:
        """Return the (training set, validation set) of the model's documents."""
        return divide(docs, self.held_out is not None, mode, self.corpus.split)
