"""The panels of the page's "Look inside". They show results of `kamon.evaluation.introspection`
for models and texts that are small enough for a server."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from kamon.config import check_text
from kamon.engines import scalar
from kamon.engines.batch import pack_sequences
from kamon.errors import ConfigError
from kamon.evaluation import introspection
from kamon.evaluation.score import BITS
from kamon.model import Model
from kamon.ngrams.native import NativeNgram
from kamon.ngrams.reference import Ngram
from kamon.web.limits import Limits
from kamon.web.views.source_links import Source, sources_of

MAX_POINTS = 20_000  # tokens and positions of an embedding map
NGRAMS_KEPT = 4  # each uses a few hundred bytes per character of its list


# ---- embeddings


@dataclass(frozen=True)
class TokenPoint:
    """A token on the plane of `embeddings`. named: whether to show its text."""

    id: int
    text: str
    x: float
    y: float
    named: bool


@dataclass(frozen=True)
class PositionPoint:
    position: int
    x: float
    y: float


@dataclass(frozen=True)
class EmbeddingMap:
    """wte and wpe on their two principal axes. shares: share of the variance per axis."""

    tokens: list[TokenPoint]
    token_shares: tuple[float, float]
    positions: list[PositionPoint]
    position_shares: tuple[float, float]
    sources: dict[str, Source]


def embedding_map(model: Model, limits: Limits) -> EmbeddingMap:
    """Return the map of the embeddings. ConfigError if the model is too large for it."""
    c = model.config
    check_products((c.vocab_size + c.block_size + 2_000) * c.n_embd**2, limits)
    if c.vocab_size + c.block_size > MAX_POINTS:
        raise ConfigError(
            f"the model has {c.vocab_size + c.block_size:,} tokens and positions, and a map shows "
            f"at most {MAX_POINTS:,}"
        )
    planes = introspection.embeddings(model)
    ids = [token for token in range(c.vocab_size) if token != planes.bos]
    named = set(planes.named)
    return EmbeddingMap(
        tokens=[
            TokenPoint(id, text, *planes.tokens.points[id], index in named)
            for index, (id, text) in enumerate(zip(ids, planes.chars, strict=True))
        ],
        token_shares=planes.tokens.shares,
        positions=[PositionPoint(i, x, y) for i, (x, y) in enumerate(planes.positions.points)],
        position_shares=planes.positions.shares,
        sources=sources_of(embeddings=scalar.gpt, axes=introspection.principal_plane),
    )


# ---- a text, token by token


@dataclass(frozen=True)
class Token:
    """text: empty for BOS, which has position 0."""

    id: int
    text: str
    position: int


@dataclass(frozen=True)
class Surprise:
    """The surprisal of a token in bits, −log₂ p given all tokens before it, None if p is 0.

    text: empty for the end. ngram: by an n-gram of the training set, also None without one. blend:
    by the model with an n-gram of the whole list, also None for a GPT only.
    """

    text: str
    gpt: float | None
    ngram: float | None
    blend: float | None


@dataclass(frozen=True)
class Trace:
    """How a model reads BOS and a text of T − 1 tokens.

    attention: of the GPT, (n_layer, n_head, T, T), see `attention_weights`. surprise: surprisal of
    each token after BOS, and of the end unless the model writes text. ngram_order: None without an
    n-gram. Then `no_ngram` is a sentence with the reason.
    """

    tokens: list[Token]
    attention: list[list[list[list[float]]]]
    surprise: list[Surprise]
    ngram_order: int | None
    no_ngram: str | None
    sources: dict[str, Source]


def trace(model: Model, text: str, limits: Limits, ngrams: NgramCache) -> Trace:
    """Return how the model reads a text.

    Raises:
        TokenizerError: the model does not know a character.
        ConfigError: the text has more than limits.panel_chars characters or block_size tokens,
            or the model is too large to trace.
    """
    check_chars(text, limits)
    c, tokenizer = model.config, model.tokenizer
    tokens = [tokenizer.bos, *tokenizer.encode(text)]
    size = min(len(tokens), c.block_size)
    check_products(size * (model.num_params + c.n_layer * c.n_embd * size), limits)
    weights = introspection.attention_weights(model, text)
    document = tokens if model.writes_text else [*tokens, tokenizer.bos]
    pieces = ["" if token == tokenizer.bos else tokenizer.token_text(token) for token in document]
    batch = pack_sequences([document])
    no_ngram = why_no_ngram(model, limits)
    ngram = None if no_ngram else ngrams.get(model)
    by_ngram = map(bits, ngram.logprobs(batch)) if ngram else [None] * batch.num_targets
    by_gpt = map(bits, model.engine.logprobs(batch))
    by_blend: Iterable[float | None] = [None] * batch.num_targets
    if model.training.blend:
        by_blend = map(bits, model.language_model.logprobs(batch))
    costs = zip(pieces[1:], by_gpt, by_ngram, by_blend, strict=True)
    return Trace(
        tokens=[Token(id, pieces[position], position) for position, id in enumerate(tokens)],
        attention=weights,
        surprise=[Surprise(*cost) for cost in costs],
        ngram_order=ngram.order if ngram else None,
        no_ngram=no_ngram,
        sources=sources_of(
            tokens=type(tokenizer).encode,
            attention=scalar.attention_weights,
            surprise=scalar.document_logprobs,
            ngram=Ngram.logprobs,
        ),
    )


def bits(logprob: float) -> float | None:
    return 0.0 - BITS * logprob if logprob > -math.inf else None


def check_chars(text: str, limits: Limits) -> None:
    check_text("the text", text)
    if len(text) > limits.panel_chars:
        raise ConfigError(
            f"the text has {len(text):,} characters, and the limit is {limits.panel_chars}"
        )


def check_products(products: int, limits: Limits) -> None:
    if products > limits.panel_products:
        raise ConfigError(
            f"this takes {products:,} multiplications, and the limit is {limits.panel_products:,}",
            "choose a smaller model or a shorter text",
        )


# ---- the n-gram


class NgramCache:
    """N-gram models of the last few lists. Models of the same list share one."""

    def __init__(self) -> None:
        self.ngrams: OrderedDict[object, Ngram | NativeNgram] = OrderedDict()
        self.lock = threading.Lock()

    def get(self, model: Model) -> Ngram | NativeNgram:
        """Return `introspection.ngram_of` the model."""
        hold_out, c = model.training.held_out is not None, model.config
        how = (hold_out, c.mode, c.long_documents, c.block_size, model.tokenizer.to_json())
        key = (model.docs.sha256(), *how)
        with self.lock:
            if key not in self.ngrams:
                self.ngrams[key], _ = introspection.ngram_of(model)
                if len(self.ngrams) > NGRAMS_KEPT:
                    self.ngrams.popitem(last=False)
            self.ngrams.move_to_end(key)
            return self.ngrams[key]


def why_no_ngram(model: Model, limits: Limits) -> str | None:
    """Return why the model has no n-gram to compare with, or None if it has one."""
    if not model.docs:
        return "the model does not contain its list"
    if len(model.docs.text) > limits.ngram_bytes:
        return (
            f"the list has {len(model.docs.text):,} bytes, and the limit for n-grams "
            f"is {limits.ngram_bytes:,}"
        )
    return None
