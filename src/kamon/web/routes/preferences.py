"""Sessions of ratings: a model that learns while somebody says what they like."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from kamon.finetuning.preferences import Feedback, Preference, Rating
from kamon.web.routes.context import Context
from kamon.web.routes.models import (
    LIMITS,
    ApiModel,
    ModelId,
    ModelInfo,
    SaveRequest,
    Seed,
    Text,
    info,
)
from kamon.web.services.ratings import Rated
from kamon.web.services.workers import Stop

router = APIRouter(tags=["preferences"])

RatingsId = Annotated[str, Field(min_length=1, max_length=80)]


class PreferencesBody(ApiModel):
    """pairs: whether two are proposed at a time. every: after how many answers the model learns."""

    model: ModelId
    pairs: bool = False
    every: Annotated[int, Field(ge=1, le=100)] = 5
    seed: Seed | None = None


class VerdictBody(ApiModel):
    text: Text
    liked: bool


class PreferenceBody(ApiModel):
    chosen: Text
    rejected: Text


class AnswersBody(ApiModel):
    """No answers ask for other proposals at once, by a model that has learned all so far."""

    answers: Annotated[list[VerdictBody | PreferenceBody], Field(max_length=LIMITS.answers)]


@router.post("/preferences", status_code=201)
async def start_ratings(body: PreferencesBody, context: Context) -> Rated:
    """Begin to rate what a model proposes; of one that was rated, go on."""
    context.registry.get(body.model)

    def begin(stop: Stop) -> Rated:
        return context.ratings.start(
            body.model, pairs=body.pairs, every=body.every, seed=body.seed, stop=stop
        )

    return await context.compute(begin, seconds=context.limits.learn_seconds)


@router.get("/preferences/{id}")
async def show_ratings(id: RatingsId, context: Context) -> Rated:
    """What a session has come to."""
    return context.ratings.get(id)


@router.post("/preferences/{id}/answers")
async def answer(id: RatingsId, body: AnswersBody, context: Context) -> Rated:
    """More answers; after every few of them the model learns, and the proposals change."""
    session = context.ratings.session(id)
    answers: list[Feedback] = [
        Rating(each.text, each.liked)
        if isinstance(each, VerdictBody)
        else Preference(each.chosen, each.rejected)
        for each in body.answers
    ]
    return await context.compute(
        lambda stop: context.ratings.answer(id, answers, stop),
        session,
        context.limits.learn_seconds,
    )


@router.delete("/preferences/{id}/answers/last")
async def undo(id: RatingsId, context: Context) -> Rated:
    """Take the last answer back."""
    session = context.ratings.session(id)
    return await context.compute(
        lambda stop: context.ratings.undo(id, stop), session, context.limits.learn_seconds
    )


@router.post("/preferences/{id}/save", status_code=201)
async def save_ratings(id: RatingsId, body: SaveRequest, context: Context) -> ModelInfo:
    """Write the model, having learned all answers, with these, under a name that is free."""
    session = context.ratings.session(id)

    def write(stop: Stop) -> ModelInfo:
        context.ratings.save(id, body.name, stop)
        return info(context.registry.get(body.name), [])

    return await context.compute(write, session, context.limits.learn_seconds)


@router.delete("/preferences/{id}", status_code=204)
async def forget_ratings(id: RatingsId, context: Context) -> Response:
    """End a session, and take its model off the shelf; what was saved stays."""
    session = context.ratings.session(id)
    await context.compute(lambda _: context.ratings.forget(id), session)
    return Response(status_code=204)
