"""What a model looks like from inside, for the page: each panel by the function that a program
would call, within what a server can bear."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kamon.config import check_text
from kamon.engines import scalar
from kamon.engines.batch import pack_sequences
from kamon.errors import ConfigError
from kamon.evaluation import introspection
from kamon.evaluation.score import BITS
from kamon.ngrams.reference import Ngram
from kamon.web.limits import Limits
from kamon.web.views.source_links import Source, sources_of

if TYPE_CHECKING:
    from kamon.model import Model
    from kamon.ngrams.native import NativeNgram

MAX_POINTS = 20_000
NGRAMS_KEPT = 4  # each takes some hundred bytes for every character of its list


# ---- embeddings


@dataclass(frozen=True)
class TokenPoint:
    """A token on the plane of `embeddings`; named: whether there is room for its text."""

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
    """wte and wpe on the two axes along which each differs most; shares: of the variance."""

    tokens: list[TokenPoint]
    token_shares: tuple[float, float]
    positions: list[PositionPoint]
    position_shares: tuple[float, float]
    sources: dict[str, Source]


def embedding_map(model: Model, limits: Limits) -> EmbeddingMap:
    """ConfigError for a model too large for it."""
    c = model.config
    check_products((c.vocab_size + c.block_size + 2_000) * c.n_embd**2, limits)
    if c.vocab_size + c.block_size > MAX_POINTS:
        raise ConfigError(
            f"the model has {c.vocab_size + c.block_size:,} tokens and positions: {MAX_POINTS:,} "
            "are the most that a map shows"
        )
    found = introspection.embeddings(model)
    ids = [token for token in range(c.vocab_size) if token != found.bos]
    named = set(found.named)
    return EmbeddingMap(
        tokens=[
            TokenPoint(id, text, *found.tokens.points[id], place in named)
            for place, (id, text) in enumerate(zip(ids, found.chars, strict=True))
        ],
        token_shares=found.tokens.shares,
        positions=[PositionPoint(i, x, y) for i, (x, y) in enumerate(found.positions.points)],
        position_shares=found.positions.shares,
        sources=sources_of(embeddings=scalar.gpt, axes=introspection.principal_plane),
    )


# ---- a text, token by token


@dataclass(frozen=True)
class Token:
    """text: empty for BOS, which stands at position 0."""

    id: int
    text: str
    position: int


@dataclass(frozen=True)
class Surprise:
    """What a token cost, in bits: −log₂ p after all before it. None for a probability of 0.

    text: empty for the end. ngram: None, too, where there is no n-gram.
    """

    text: str
    gpt: float | None
    ngram: float | None


@dataclass(frozen=True)
class Trace:
    """How a model reads BOS and a text of T − 1 tokens.

    attention: (n_layer, n_head, T, T), as of `attention_weights`. surprise: of each token
    after BOS and of the end, which a text model does not have. ngram_order: None where there is no
    n-gram, and `no_ngram` is a sentence that says why.
    """

    tokens: list[Token]
    attention: list[list[list[list[float]]]]
    surprise: list[Surprise]
    ngram_order: int | None
    no_ngram: str | None
    sources: dict[str, Source]


def trace(model: Model, text: str, limits: Limits) -> Trace:
    """TokenizerError for a character that the model does not know, ConfigError for a text of more
    than limits.panel_chars or of block_size tokens, and for a model too large for it."""
    check_chars(text, limits)
    c, tokenizer = model.config, model.tokenizer
    tokens = [tokenizer.bos, *tokenizer.encode(text)]
    size = min(len(tokens), c.block_size)
    check_products(size * (model.num_params + c.n_layer * c.n_embd * size), limits)
    weights = introspection.attention_weights(model, text)
    document = tokens if model.writes_text else [*tokens, tokenizer.bos]
    pieces = ["" if token == tokenizer.bos else tokenizer.token_text(token) for token in document]
    batch = pack_sequences([document])
    ngram, why = counted(model, limits)
    by_ngram = map(bits, ngram.logprobs(batch)) if ngram else [None] * batch.num_targets
    by_gpt = map(bits, model.engine.logprobs(batch))
    return Trace(
        tokens=[Token(id, pieces[place], place) for place, id in enumerate(tokens)],
        attention=weights,
        surprise=[Surprise(*each) for each in zip(pieces[1:], by_gpt, by_ngram, strict=True)],
        ngram_order=ngram.order if ngram else None,
        no_ngram=why,
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
            f"the text has {len(text):,} characters: {limits.panel_chars} are the most here"
        )


def check_products(products: int, limits: Limits) -> None:
    if products > limits.panel_products:
        raise ConfigError(
            f"this takes {products:,} products, one by one, and {limits.panel_products:,} are the "
            "most here: take a smaller model, or a shorter text"
        )


# ---- the n-gram beside it

_ngrams: OrderedDict[object, Ngram | NativeNgram] = OrderedDict()
_counting = threading.Lock()


def counted(model: Model, limits: Limits) -> tuple[Ngram | NativeNgram, None] | tuple[None, str]:
    """(`ngram_of`, None), counted once for all models that learned the same; or (None, a
    sentence why there is none)."""
    docs, c = model.docs, model.config
    if not docs:
        return None, "the model keeps no documents, of which an n-gram could be counted"
    if len(docs.text) > limits.ngram_bytes:
        return None, (
            f"the list has {len(docs.text):,} bytes: n-grams are counted of {limits.ngram_bytes:,} "
            "at most here"
        )
    hold_out = model.training.get("held_out") is not None
    how = (hold_out, c.mode, c.long_documents, c.block_size, model.tokenizer.to_json())
    key = (docs.sha256(), *how)
    with _counting:
        if key not in _ngrams:
            _ngrams[key], _ = introspection.ngram_of(model)
            if len(_ngrams) > NGRAMS_KEPT:
                _ngrams.popitem(last=False)
        _ngrams.move_to_end(key)
        return _ngrams[key], None
