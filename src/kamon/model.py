"""The trained model that `train`, `resume` and `load` return."""

from __future__ import annotations

import math
import reprlib
import warnings
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, Unpack

from kamon.config import Config, require_int
from kamon.data.columns import Row, rows_in, values_of
from kamon.data.documents import Documents
from kamon.engines.base import Engine, State, initial_state
from kamon.engines.distributed import get_group
from kamon.engines.factory import make_engine
from kamon.engines.parameters import num_params
from kamon.errors import ConfigError, StoreError
from kamon.generation.blend import BlendedModel
from kamon.generation.constraints import SampleResult, find, make_constraints
from kamon.generation.given import Conditional, Given, GivenModel, Recipe, plain_tokenizer
from kamon.generation.known_prompts import KnownPrompts
from kamon.generation.sampling import SampleRequest
from kamon.generation.word_ngram import WordNgram
from kamon.ngrams.native import count_ngram
from kamon.storage import model_dir
from kamon.storage.checkpoint import Checkpoint, unpack_documents, unpack_examples
from kamon.storage.metrics import Metrics
from kamon.storage.records import TrainingRecord
from kamon.tokenizers.base import Tokenizer


class Conditions(TypedDict, total=False):
    """The names and types of `GenerationConstraints`, for type checkers."""

    prefix: str
    min_len: int
    max_len: int | None
    top_k: int | None
    top_p: float
    suffix: str
    contains: str
    pattern: str | None
    regex: str | None
    exclude: Iterable[str]
    novel: bool
    unique: bool
    length: int | None
    prompt: str | None


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
    examples: bytes | None = field(default=None, repr=False)  # of fine-tuning, packed

    def __repr__(self) -> str:
        source, steps = self.training.corpus.source, len(self.metrics)
        return f"<Model of {source}: {self.num_params:,} parameters, {steps:,} steps>"

    @cached_property
    def docs(self) -> Documents:
        """The unique documents of its training and validation sets. Empty for a packed corpus."""
        if self.training.corpus.packed:
            return Documents.of([])
        if self.training.given:
            return Documents.of(dict.fromkeys(row.text for row in self.rows))
        return self.stored_documents()

    def stored_documents(self) -> Documents:
        if isinstance(self.documents, Documents):
            return self.documents
        return unpack_documents(self.documents)

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table of a conditional model, or nothing."""
        given = self.training.given
        if given is None:
            return ()
        try:
            return rows_in(self.stored_documents(), len(given.columns))
        except ValueError as error:
            raise StoreError(f"the model cannot be used: {error}") from None

    @property
    def given_values(self) -> dict[str, list[str]]:
        """The columns of given values of a conditional model, and the values of each."""
        return values_of(self.training.given.columns, self.rows) if self.training.given else {}

    @cached_property
    def known_prompts(self) -> KnownPrompts:
        """The prompts that it has learned to follow. None if its examples are not stored."""
        examples = unpack_examples(self.examples) if self.examples else []
        prompts = (example.get("prompt") for example in examples)
        normal = self.tokenizer.normal
        return KnownPrompts.of(normal(prompt) for prompt in prompts if isinstance(prompt, str))

    def prompt_warning(self, prompt: str | None) -> tuple[str, str] | None:
        """Return what is wrong with a prompt that is unlike those it has learned, and a hint."""
        if prompt is None:
            return None
        return self.known_prompts.warning(self.tokenizer.normal(prompt))

    @cached_property
    def language_model(self) -> Engine | BlendedModel | GivenModel:
        """The engine or its blend with the n-gram of the whole list. It samples and scores.

        For a conditional model it is the mixture of all its classes.
        """
        if self.training.given:
            return self.conditional.under()
        return self.blended_with(self.docs)

    @cached_property
    def word_ngram(self) -> WordNgram | None:
        """The n-gram that joins the model in a search for words.

        None for a packed corpus, a fine-tuned model, or a model of a list without a blend.
        """
        training = self.training
        text = self.writes_text and not training.tuning and not training.corpus.packed
        if not (training.blend or text):
            return None
        return WordNgram(map(self.tokenizer.normal, self.docs), whole=not text)

    @cached_property
    def conditional(self) -> Conditional:
        """The classes of a conditional model. Raises ConfigError for another one."""
        return self.conditional_of(self.rows)

    def conditional_of(self, rows: Sequence[Row]) -> Conditional:
        """Return the classes of a conditional model with the n-grams of these rows."""
        given, blend = self.training.given, self.training.blend
        if given is None:
            raise ConfigError(
                "the model knows no given values", "train one with `kamon train TABLE --given`"
            )
        recipe = Recipe(0, 1.0)
        if blend:
            recipe = Recipe(blend.order, blend.weight, tuple(given.shares))
        return Conditional(self.engine, self.tokenizer, given.columns, rows, recipe)

    @property
    def plain_tokenizer(self) -> Tokenizer:
        """The tokenizer of the entries, without the tokens of given values."""
        return plain_tokenizer(self.tokenizer) if self.training.given else self.tokenizer

    def under(self, given: Given | None) -> Engine | BlendedModel | GivenModel:
        """Return the language model under given values. None: the mixture of all classes."""
        return self.language_model if given is None else self.conditional.under(given)

    def blended_with(self, docs: Iterable[str]) -> Engine | BlendedModel | GivenModel:
        """Return the blend with the n-gram of these documents, or the engine if it has no blend."""
        if self.training.given:
            known = set(docs)
            return self.conditional_of([row for row in self.rows if row.text in known]).under()
        blend = self.training.blend
        if blend is None:
            return self.engine
        batch = self.tokenizer.encode_documents(docs)
        ngram = count_ngram(batch, self.config.vocab_size, blend.order)
        return BlendedModel(self.engine, ngram, blend.weight)

    def without_blend(self) -> Model:
        """Return this model without its n-gram.

        Raises: ConfigError for a conditional model, whose GPT does not begin with BOS.
        """
        self.training.check_unconditional("fine-tuning or comparing")
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
        given: Given | None = None,
        **conditions: Unpack[Conditions],
    ) -> list[str]:
        """Sample n documents. Sample i depends only on the seed, i and the model, not on n.

        If a document has block_size tokens, the model did not end it.

        Args:
            temperature: by default that of the Config. With 0 each token is the most likely one.
            seed: by default that of the Config.
            given: values of a conditional model, such as {"country": "fi", "sex": "f"} or
                {"country": {"fi": 0.5, "jp": 0.5}} for a mix. By default, each sample is from a
                class that is drawn as often as it is in the table.
            conditions: the fields of `GenerationConstraints`, such as prefix="an", max_len=6 or
                novel=True. For a model of a text: length in tokens (500). If too few documents
                satisfy the conditions, you get fewer than n samples.
        """
        found = self.generate(n, temperature=temperature, seed=seed, given=given, **conditions)
        if warning := self.prompt_warning(conditions.get("prompt")):
            warnings.warn(". ".join(warning), stacklevel=2)
        return found.texts

    def generate(
        self,
        n: int = 1,
        *,
        temperature: float | None = None,
        seed: int | None = None,
        given: Given | None = None,
        should_stop: Callable[[int], bool] = lambda tried: False,  # noqa: ARG005
        **conditions: Unpack[Conditions],
    ) -> SampleResult:
        """Return the samples of `sample`, their numbers, and how many samples Kamon tried.

        should_stop: called with the number of samples tried. If true, you get those found so far.
        """
        n = require_int("the number of samples", n, 0)
        chosen_settings: dict[str, Any] = {"temperature": temperature, "seed": seed}
        settings = {k: v for k, v in chosen_settings.items() if v is not None}
        config = replace(self.config, **settings)
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

            texts = sample_continuations(self.engine, self.tokenizer, request, chosen, should_stop)
            return SampleResult(texts, range(len(texts)), len(texts))
        tokenizer = self.plain_tokenizer
        return find(self.under(given), tokenizer, request, chosen, lambda: self.docs, should_stop)

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
            again
            if made.dtype == "float64"
            else f'use --dtype float64 (dtype="float64" in Python), or {again}',
        )
    return Model(
        *(stored.config, stored.tokenizer, made, stored.metrics, stored.training, stored.documents),
        stored.examples,
    )
