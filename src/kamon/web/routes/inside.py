"""What a model looks like from inside: embeddings, a text token by token, graphs of Values."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Body
from pydantic import Field

from kamon.web.routes.context import Context
from kamon.web.routes.models import ApiModel, ModelId, Text
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
    """−log p of a token of the text, by its position from 0 on, or of the end behind them all."""

    kind: Literal["loss"]
    model: ModelId
    text: Text
    position: Annotated[int, Field(ge=0, le=1_000_000)]


GraphBody = Annotated[ExpressionBody | LossBody, Body(discriminator="kind")]


@router.get("/models/{id}/embeddings")
async def show_embeddings(id: ModelId, context: Context) -> EmbeddingMap:
    """Where a model has put its tokens and positions, on the two axes of most variance."""
    entry = context.registry.get(id)

    def look(stop: Stop) -> EmbeddingMap:
        with entry.use(stop) as model:
            return entry.remember("embeddings", lambda: embedding_map(model, context.limits))

    return await context.compute(look, entry)


@router.post("/trace")
async def trace_text(body: TraceBody, context: Context) -> Trace:
    """How a model reads a text: its tokens, what each head attends to, what each token costs."""
    entry = context.registry.get(body.model)

    def look(stop: Stop) -> Trace:
        with entry.use(stop) as model:
            return trace(model, body.text, context.limits, context.playground.ngrams)

    return await context.compute(look, entry)


@router.post("/graph")
async def draw_graph(body: GraphBody, context: Context) -> Graph:
    """A graph of Values of the scalar engine, with its gradients and how they flow back."""
    if isinstance(body, ExpressionBody):
        return expression(body.a, body.b, body.c)
    entry, text, position = context.registry.get(body.model), body.text, body.position

    def look(stop: Stop) -> Graph:
        check_chars(text, context.limits)
        with entry.use(stop) as model:
            return loss(model, text, position)

    return await context.compute(look, entry)
