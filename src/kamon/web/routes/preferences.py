"""Routes for rating sessions. In a session, a model learns what the user likes."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Response
from pydantic import Field

from kamon.finetuning.preferences import Feedback, Preference, Rating
from kamon.web.routes.context import ApiModel, Context
from kamon.web.routes.models import LIMITS, ModelId, ModelInfo, SaveRequest, Seed, Text, info
from kamon.web.services.ratings import Rated

router = APIRouter(tags=["preferences"])

RatingsId = Annotated[str, Field(min_length=1, max_length=80)]


class PreferencesBody(ApiModel):
    """pairs: whether to propose two texts at a time. every: how many answers the model learns at a
    time."""

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
    """With an empty list, the model learns from all answers so far and makes new proposals."""

    answers: Annotated[list[VerdictBody | PreferenceBody], Field(max_length=LIMITS.answers)]


@router.post("/preferences", status_code=201)
async def start_ratings(body: PreferencesBody, context: Context) -> Rated:
    """Start a session to rate the samples of a model, or resume that of a rated model."""
    context.registry.get(body.model)
    options, start = body.model_dump(), context.ratings.start
    return await context.compute(
        lambda stop: start(**options, stop=stop), seconds=context.limits.learn_seconds
    )


@router.get("/preferences/{id}")
async def show_ratings(id: RatingsId, context: Context) -> Rated:
    """Return the state of a session."""
    return context.ratings.get(id)


@router.post("/preferences/{id}/answers")
async def answer(id: RatingsId, body: AnswersBody, context: Context) -> Rated:
    """Add answers. After every few answers, the model learns and makes new proposals."""
    session = context.ratings.session(id)
    answers: list[Feedback] = [
        (Rating if isinstance(item, VerdictBody) else Preference)(**item.model_dump())
        for item in body.answers
    ]
    return await context.compute(
        lambda stop: context.ratings.answer(id, answers, stop),
        session,
        context.limits.learn_seconds,
    )


@router.delete("/preferences/{id}/answers/last")
async def undo(id: RatingsId, context: Context) -> Rated:
    """Undo the last answer."""
    session = context.ratings.session(id)
    return await context.compute(
        lambda stop: context.ratings.undo(id, stop), session, context.limits.learn_seconds
    )


@router.post("/preferences/{id}/save", status_code=201)
async def save_ratings(id: RatingsId, body: SaveRequest, context: Context) -> ModelInfo:
    """Save the answers, and the model trained on them, under a new name."""
    session, save = context.ratings.session(id), context.ratings.save
    return await context.compute(
        lambda stop: info(save(id, body.name, stop), []), session, context.limits.learn_seconds
    )


@router.delete("/preferences/{id}", status_code=204, response_class=Response)
async def forget_ratings(id: RatingsId, context: Context) -> None:
    """End a session and delete its model, except saved copies."""
    session = context.ratings.session(id)
    await context.compute(lambda _: context.ratings.forget(id), session)
