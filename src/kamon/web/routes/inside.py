"""Routes to look inside a model: embeddings, the trace of a text, and graphs of Values."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body
from pydantic import Field

from kamon.model import Model
from kamon.web.routes.context import ApiModel, Context
from kamon.web.routes.models import ModelId, Text
from kamon.web.services.registry import Entry
from kamon.web.services.workers import Stop
from kamon.web.views.graph import MAX_INPUT, Graph, expression, loss
from kamon.web.views.panels import EmbeddingMap, Trace, check_chars, embedding_map, trace

router = APIRouter(tags=["inside"])

Operand = Annotated[float, Field(ge=-MAX_INPUT, le=MAX_INPUT, allow_inf_nan=False)]


class TraceBody(ApiModel):
    model: ModelId
    text: Text


class ExpressionBody(ApiModel):
    """The numbers in ((a·b + c).relu() − 1)²."""

    kind: Literal["expression"]
    a: Operand
    b: Operand
    c: Operand


class LossBody(TraceBody):
    """The loss −log p of a token. position: from 0. The last one is the end of the text."""

    kind: Literal["loss"]
    position: Annotated[int, Field(ge=0, le=1_000_000)]


GraphBody = Annotated[ExpressionBody | LossBody, Body(discriminator="kind")]


@router.get("/models/{id}/embeddings")
async def show_embeddings(id: ModelId, context: Context) -> EmbeddingMap:
    """Return the embeddings of tokens and positions on their two principal axes."""

    def look(model: Model, entry: Entry, _stop: Stop) -> EmbeddingMap:
        return entry.remember("embeddings", lambda: embedding_map(model, context.limits))

    return await context.use(id, look)


@router.post("/trace")
async def trace_text(body: TraceBody, context: Context) -> Trace:
    """Return the tokens of a text, the attention weights, and the surprisal of each token."""
    limits, ngrams = context.limits, context.playground.ngrams

    def look(model: Model, _entry: Entry, _stop: Stop) -> Trace:
        model.training.check_unconditional("a look inside")
        return trace(model, body.text, limits, ngrams)

    return await context.use(body.model, look)


@router.post("/graph")
async def draw_graph(body: GraphBody, context: Context) -> Graph:
    """Return a graph of the scalar engine's Values, their gradients, and the backward steps."""
    if isinstance(body, ExpressionBody):
        return expression(body.a, body.b, body.c)

    def look(model: Model, _entry: Entry, _stop: Stop) -> Graph:
        model.training.check_unconditional("a look inside")
        check_chars(body.text, context.limits)
        return loss(model, body.text, body.position)

    return await context.use(body.model, look)
