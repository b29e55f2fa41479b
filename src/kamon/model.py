"""The trained model that `train`, `resume` and `load` return."""

from __future__ import annotations

import math
import reprlib
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any

from kamon.config import Config, require_int
from kamon.data.documents import Documents
from kamon.engines.base import Engine, State, initial_state
from kamon.engines.distributed import get_group
from kamon.engines.factory import make_engine
from kamon.engines.parameters import num_params
from kamon.errors import ConfigError, StoreError
from kamon.generation.blend import BlendedModel
from kamon.generation.constraints import SampleResult, find, make_constraints
from kamon.generation.sampling import SampleRequest
from kamon.ngrams.native import count_ngram
from kamon.storage import model_dir
from kamon.storage.checkpoint import Checkpoint, unpack_documents
from kamon.storage.metrics import Metrics
from kamon.storage.records import TrainingRecord
from kamon.tokenizers.base import Tokenizer


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model, which can `sample` documents and `save` itself.

    Several threads may use one model at the same time. You can copy and pickle a model. It is
    equal only to itself.

    Attributes:
        metrics: step, loss (nats per token) and learning_rate of each step. Some steps also have
            held_out_loss, the validation loss.
        training: the data, the engine and the progress of the training.
    """

    config: Config
    tokenizer: Tokenizer
    engine: Engine
    metrics: Metrics = field(repr=False)
    training: TrainingRecord
    documents: bytes | Documents = field(repr=False)  # bytes: in the form that is stored

    def __repr__(self) -> str:
        source, steps = self.training.corpus.source, len(self.metrics)
        return f"<Model of {source}: {self.num_params:,} parameters, {steps:,} steps>"

    @cached_property
    def docs(self) -> Documents:
        """The unique documents of its training and validation sets. Empty for a packed corpus."""
        if self.training.corpus.packed:
            return Documents.of([])
        if isinstance(self.documents, Documents):
            return self.documents
        return unpack_documents(self.documents)

    @cached_property
    def language_model(self) -> Engine | BlendedModel:
        """The engine or its blend with the n-gram of the whole list. It samples and scores."""
        return self.blended_with(self.docs)

    def blended_with(self, docs: Iterable[str]) -> Engine | BlendedModel:
        """Return the blend with the n-gram of these documents, or the engine if it has no blend."""
        blend = self.training.blend
        if blend is None:
            return self.engine
        batch = self.tokenizer.encode_documents(docs)
        ngram = count_ngram(batch, self.config.vocab_size, blend.order)
        return BlendedModel(self.engine, ngram, blend.weight)

    def without_blend(self) -> Model:
        """Return this model without its n-gram."""
        return replace(self, training=self.training.without_blend())

    def parts(self) -> tuple[Documents, Documents]:
        """Return the training set and the validation set of its documents."""
        return self.training.divide(self.docs, self.config.mode)

    @property
    def writes_text(self) -> bool:
        """Whether the model was trained on a text, which has no end, and not on documents."""
        return self.config.mode == "text"

    def check_documents(self, what: str) -> None:
        """Raise ConfigError for a model of a text. what: the feature that needs a list."""
        if self.writes_text:
            raise ConfigError(f"{what} needs a model of a list, and this one was trained on a text")

    @property
    def num_params(self) -> int:
        return num_params(self.config)

    def sample(
        self,
        n: int = 1,
        *,
        temperature: float | None = None,
        seed: int | None = None,
        **conditions: Any,
    ) -> list[str]:
        """Sample n documents. Sample i depends only on the seed, i and the model, not on n.

        If a document has block_size tokens, the model did not end it.

        Args:
            temperature: by default that of the Config. With 0 each token is the most likely one.
            seed: by default that of the Config.
            conditions: the fields of `GenerationConstraints`, such as prefix="an", max_len=6 or
                novel=True. For a model of a text: length in tokens (500). If too few documents
                satisfy the conditions, you get fewer than n samples.
        """
        return self.generate(n, temperature=temperature, seed=seed, **conditions).texts

    def generate(
        self,
        n: int = 1,
        *,
        temperature: float | None = None,
        seed: int | None = None,
        should_stop: Callable[[int], bool] = lambda tried: False,  # noqa: ARG005
        **conditions: Any,
    ) -> SampleResult:
        """Return the samples of `sample`, their numbers, and how many samples Kamon tried.

        should_stop: can end a search for samples, see `kamon.generation.constraints.find`.
        """
        n = require_int("the number of samples", n, 0)
        given: dict[str, Any] = {"temperature": temperature, "seed": seed}
        config = replace(self.config, **{k: v for k, v in given.items() if v is not None})
        request = SampleRequest(n, config.temperature, config.seed, self.tokenizer.bos)
        chosen = make_constraints(conditions)
        if chosen.novel and self.training.corpus.packed:
            raise ConfigError(
                "a model of a packed corpus does not store its documents, so it cannot check "
                "whether samples are novel",
                "leave out novel",
            )
        if self.writes_text:
            from kamon.generation.text import sample_continuations

            return SampleResult(
                sample_continuations(self.engine, self.tokenizer, request, chosen), range(n), n
            )
        return find(
            self.language_model, self.tokenizer, request, chosen, lambda: self.docs, should_stop
        )

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the model directory. Raises StoreError if the path exists or is not writable."""
        model_dir.save(
            path, to_checkpoint(self, self.engine.state()["params"]), overwrite=overwrite
        )


def to_checkpoint(model: Model, params: array[float], state: State | None = None) -> Checkpoint:
    """Return the checkpoint of a model. With `state`, its training can be resumed."""
    return Checkpoint(
        *(model.config, model.tokenizer, params, model.metrics, model.training, model.documents),
        state,
    )


def as_model(model: Model | str | Path, what: str = "the model", **how: Any) -> Model:
    """Return the model, or load it if it is given as a directory.

    how: the other arguments of `load`.

    Raises: ConfigError for anything else.
    """
    if isinstance(model, str | PathLike):
        return load(model, **how)
    if not isinstance(model, Model):
        raise ConfigError(f"{what} must be a model or its directory, not {reprlib.repr(model)}")
    return model


def load(
    path: str | Path,
    *,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
) -> Model:
    """Load a model that `Model.save` or `kamon train -o` wrote.

    Raises StoreError if the model is missing or damaged.
    """
    stored = get_group().run_on_all(partial(model_dir.load, path))
    made = make_engine(
        engine, stored.config, dtype=dtype, threads=threads, device=device, compile=compile
    )
    made.load(initial_state(stored.params))
    if not all(map(math.isfinite, made.decoder().push(stored.tokenizer.bos))):
        again = "train it again with a smaller learning_rate"
        raise StoreError(
            f"the parameters of {path} are too large for {made.dtype}",
            again if made.dtype == "float64" else f"use --dtype float64, or {again}",
        )
    return Model(
        *(stored.config, stored.tokenizer, made, stored.metrics, stored.training, stored.documents)
    )
