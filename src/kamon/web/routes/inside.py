"""Inside a model: embeddings, how it reads a text, and graphs of Values."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body
from pydantic import Field

from kamon.web.routes.context import ApiModel, Context
from kamon.web.routes.models import ModelId, Text
from kamon.web.services.workers import Stop
from kamon.web.views.graph import MAX_INPUT, Graph, expression, loss
from kamon.web.views.panels import EmbeddingMap, Trace, check_chars, embedding_map, trace

router = APIRouter(tags=["inside"])

Operand = Annotated[float, Field(ge=-MAX_INPUT, le=MAX_INPUT, allow_inf_nan=False)]


class TraceBody(ApiModel):
    model: ModelId
    text: Text


class ExpressionBody(ApiModel):
    """((a·b + c).relu() − 1)²"""

    kind: Literal["expression"]
    a: Operand
    b: Operand
    c: Operand


class LossBody(ApiModel):
    """−log p of the token at a position of the text, from 0, or of the end after the last one."""

    kind: Literal["loss"]
    model: ModelId
    text: Text
    position: Annotated[int, Field(ge=0, le=1_000_000)]


GraphBody = Annotated[ExpressionBody | LossBody, Body(discriminator="kind")]


@router.get("/models/{id}/embeddings")
async def show_embeddings(id: ModelId, context: Context) -> EmbeddingMap:
    """The embeddings of tokens and of positions, each on its two principal axes."""
    entry = context.registry.get(id)

    def look(stop: Stop) -> EmbeddingMap:
        with entry.use(stop) as model:
            return entry.remember("embeddings", lambda: embedding_map(model, context.limits))

    return await context.compute(look, entry)


@router.post("/trace")
async def trace_text(body: TraceBody, context: Context) -> Trace:
    """How a model reads a text: tokens, attention weights, and the surprisal of each token."""
    entry = context.registry.get(body.model)

    def look(stop: Stop) -> Trace:
        with entry.use(stop) as model:
            return trace(model, body.text, context.limits, context.playground.ngrams)

    return await context.compute(look, entry)


@router.post("/graph")
async def draw_graph(body: GraphBody, context: Context) -> Graph:
    """A graph of Values of the scalar engine: their gradients, and the steps that compute them."""
    if isinstance(body, ExpressionBody):
        return expression(body.a, body.b, body.c)
    entry, text, position = context.registry.get(body.model), body.text, body.position

    def look(stop: Stop) -> Graph:
        check_chars(text, context.limits)
        with entry.use(stop) as model:
            return loss(model, text, position)

    return await context.compute(look, entry)
