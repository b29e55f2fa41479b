"""Routes to list and save models, and for samples, completions, scores and the next token."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from kamon import completion
from kamon.data.columns import MAX_NAME, MAX_VALUE
from kamon.data.graphemes import first_graphemes, graphemes, lengths_of
from kamon.engines.base import has_fused_ops
from kamon.engines.scalar import softmax
from kamon.errors import ConfigError, KamonError
from kamon.evaluation.classify import check_classes, classify_list
from kamon.evaluation.nearest import NearestDocument, sample_infos
from kamon.evaluation.score import PercentileScale, Score, Unknown, score_list
from kamon.generation.blend import BlendedModel
from kamon.generation.constraints import (
    MAX_FLOPS_AT_ONCE,
    MAX_FLOPS_AT_ONCE_SLOW,
    GenerationConstraints,
)
from kamon.generation.sampling import LanguageModel, allowed, prefill, probabilities
from kamon.model import Model
from kamon.tokenizers.prompts import prompt_prefix
from kamon.web.errors import WebError
from kamon.web.limits import Limits
from kamon.web.routes.context import ApiModel, Context
from kamon.web.services.registry import Blend, Entry, file_name, losses_of
from kamon.web.services.workers import Stop, Stopped

router = APIRouter(tags=["models"])
LIMITS = Limits()
MAX_TOKENS = 8192  # of a vocabulary: /next-token lists all of them
NDJSON = "application/x-ndjson"
NUM_EXAMPLES = 10  # entries of a list that an answer shows
MAX_COMPARED = 2000  # characters of an entry: the time of `NearestDocument` grows with their square
DOCS_AT_ONCE = 1000  # documents to count before other requests get a turn
MAX_PIECES = 5  # of `num_at_once` documents, to compare scores with
MAX_MIXED = 20  # given columns, and values of one in a mix
MAX_REMEMBERED = 200_000  # maximum number of documents to keep as a set

ModelId = Annotated[str, Field(min_length=1, max_length=80)]
Text = Annotated[str, Field(max_length=LIMITS.text_chars)]
ShortText = Annotated[str, Field(max_length=1000)]
Seed = Annotated[int, Field(ge=-(2**53) + 1, le=2**53 - 1)]  # the largest integers of JavaScript
Temperature = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
TopK = Annotated[int, Field(ge=1, le=1_000_000)]
TopP = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Column = Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
Value = Annotated[str, Field(min_length=1, max_length=MAX_VALUE)]
Share = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Shares = Annotated[dict[Value, Share], Field(min_length=1, max_length=MAX_MIXED)]
Given = Annotated[dict[Column, Value | Shares], Field(max_length=MAX_MIXED)]
Length = Annotated[int, Field(ge=0, le=1_000_000)]
Accept = Annotated[str, Header(include_in_schema=False)]


class ModelInfo(BaseModel):
    """A model that requests can name.

    steps: steps of its training that have a model, with the id "ID@STEP". path: its directory,
    relative to the directory where the server started, null if it is not saved. validation_loss:
    in nats per token. For a short list, it is the mean of `num_folds` cross-validation models.
    gpt_loss, ngram_loss: losses of the parts of a blend. blend: null for a GPT only.
    given: the given columns of a model of a table, and their values.
    """

    id: str
    kind: Literal["opened", "trained", "tuned"]
    num_params: int
    n_layer: int
    n_embd: int
    n_head: int
    block_size: int
    vocab_size: int
    num_docs: int
    num_steps: int
    validation_loss: float | None
    gpt_loss: float | None
    ngram_loss: float | None
    blend: Blend | None
    num_folds: int | None
    saved: bool
    path: str | None
    parent: str | None
    step: int | None
    steps: list[int]
    prompts: bool
    given: dict[str, list[str]]
    text: bool
    seed: int
    tokenizer: Literal["char", "bpe"]


class ModelList(BaseModel):
    models: list[ModelInfo]


class ModelDetails(ModelInfo):
    config: dict[str, Any]
    source: str


class SaveRequest(ApiModel):
    name: Annotated[str, Field(max_length=40)]


class CharacterCount(BaseModel):
    text: str
    count: int


class LengthCount(BaseModel):
    length: int
    num_train: int
    num_validation: int


class Examples(BaseModel):
    train: list[str]
    validation: list[str]


class Data(BaseModel):
    """The list that a model was trained on: sizes, characters, lengths and first entries."""

    source: str
    num_docs: int
    num_repetitions: int
    num_cut: int
    num_train: int
    num_validation: int
    characters: list[CharacterCount]
    lengths: list[LengthCount]
    examples: Examples


class SampleBody(ApiModel):
    """Options of `kamon sample`. min_len, max_len: in characters. pattern: `_` is one
    character and `*` any number. regex: of Python, without back-references. given: values of a
    model of a table, such as {"country": "fi"}, or their shares in a mix, such as
    {"country": {"fi": 0.5, "jp": 0.5}}."""

    model: ModelId
    n: Annotated[int, Field(ge=0, le=LIMITS.samples)] = 20
    temperature: Temperature | None = None
    seed: Seed | None = None
    top_k: TopK | None = None
    top_p: TopP = 1.0
    prefix: ShortText = ""
    suffix: ShortText = ""
    contains: ShortText = ""
    pattern: Annotated[str, Field(max_length=200)] | None = None
    regex: Annotated[str, Field(max_length=200)] | None = None
    min_len: Length = 0
    max_len: Length | None = None
    novel: bool = False
    unique: bool = False
    prompt: ShortText | None = None
    given: Given | None = None
    nearest: bool = False


class Near(BaseModel):
    text: str
    similarity: float


class Sample(BaseModel):
    """logprob: log probability of the text and its end at temperature 1, in nats."""

    text: str
    logprob: float | None
    in_list: bool
    nearest: Near | None


class LeftOut(BaseModel):
    """How many candidates only `novel` dropped, and how many only `unique` dropped."""

    copies: int
    duplicates: int


class Samples(BaseModel):
    """tried: number of candidates. ended: "n" if the search found all samples, "tried" if it gave
    up, "time" if its time was up. `nearest` is null after that time, or if the list has an entry of
    more than 2,000 characters. warning: about a prompt that is unlike those that the model has
    learned, or null."""

    seed: int
    temperature: float
    tried: int
    ended: Literal["n", "tried", "time"]
    left_out: LeftOut
    warning: str | None
    samples: list[Sample]


class CompleteBody(ApiModel):
    """given: values of a model of a table, as for samples."""

    model: ModelId
    prefix: ShortText = ""
    n: Annotated[int, Field(ge=1, le=LIMITS.completions)] = 10
    given: Given | None = None


class CompletionFound(BaseModel):
    text: str
    logprob: float
    share: float


class Completions(BaseModel):
    """The most likely entries with the prefix. The first `exact` ones are guaranteed best."""

    exact: int
    completions: list[CompletionFound]


class WordsBody(ApiModel):
    """text: with a gap `____`, or the beginning of a text. among: if given, only these words.
    given: values of a model of a table, as for samples."""

    model: ModelId
    text: ShortText = ""
    n: Annotated[int, Field(ge=1, le=LIMITS.completions)] = 10
    among: list[Annotated[str, Field(max_length=100)]] = Field(default=[], max_length=100)
    given: Given | None = None


class WordFound(BaseModel):
    text: str
    probability: float


class Words(BaseModel):
    """The most probable words for the gap or the end of a text.

    found: number of words found, including those after the first n. total: the sum of the
    probabilities of all of them. covered: the same without the text after the gap.
    """

    words: list[WordFound]
    found: int
    total: float
    covered: float


class ScoreBody(ApiModel):
    """unknown: what to do with a text that has characters that the model does not know. given:
    values under which to score, as for samples. by: a given column whose values are compared."""

    model: ModelId
    texts: Annotated[list[Text], Field(max_length=LIMITS.samples)]
    unknown: Unknown = "error"
    given: Given | None = None
    by: Column | None = None


class ScoreFound(BaseModel):
    """text: in NFC, otherwise as it was sent. scored: the text that was scored, which differs from
    it only with "replace". index: the number of the text in the request, from 0. logprob,
    bits_per_char: null if the probability is 0.

    percentile: share of known entries that are at least as unlikely, null without known entries.
    compared_with: which entries, "validation" or "list" (see `PercentileScale`). surprise: the
    place in `scored`, from 0, of the least likely character, the length for the end. surprising:
    that character, empty for the end. cut: whether the text is longer than the model can read at
    once. values: the probability of each value of the column `by`, the most likely one first, or
    null.
    """

    text: str
    scored: str
    index: int
    values: dict[str, float] | None
    logprob: float | None
    bits_per_char: float | None
    percentile: float | None
    compared_with: Literal["validation", "list"] | None
    surprise: int
    surprising: str
    cut: bool


class Scores(BaseModel):
    scores: list[ScoreFound]


class NextTokenBody(ApiModel):
    model: ModelId
    prefix: ShortText = ""
    temperature: Temperature = 1.0
    top_k: TopK | None = None
    top_p: TopP = 1.0
    prompt: ShortText | None = None
    given: Given | None = None


class NextToken(BaseModel):
    """probability: with the temperature and cuts of the request, 0 if they drop the token.

    logit: log p for a blend. gpt, ngram: probabilities of the parts of a blend, at temperature 1
    and without cuts, null for a GPT only.
    """

    id: int
    text: str
    logit: float
    probability: float
    kept: bool
    gpt: float | None
    ngram: float | None


class NextTokens(BaseModel):
    """end: the token that ends a document. position: place of the next token after the prompt."""

    tokens: list[NextToken]
    end: int
    position: int
    blend: Blend | None


# ---- routes


@router.get("/models")
async def list_models(context: Context) -> ModelList:
    """Return all models, except those of single training steps."""
    models = []
    for entry in list(context.registry.entries.values()):
        if entry.parent is None:
            with suppress(KamonError):  # skip a model whose directory has changed
                models.append(await info_of(entry, context))
    return ModelList(models=models)


async def info_of(entry: Entry, context: Context) -> ModelInfo:
    """Return the information about an entry, without waiting if its facts are known."""
    if entry.facts is None:
        await context.compute(lambda _: entry.about(), entry)
    return info(entry, context.registry.steps(entry.id))


@router.get("/models/{id}")
async def show_model(id: ModelId, context: Context) -> ModelDetails:
    """Return a model and its settings."""
    entry = context.registry.get(id)
    about = await info_of(entry, context)
    return ModelDetails(**entry.about() | about.model_dump())


@router.post("/models/{id}/save", status_code=201)
async def save_model(id: ModelId, body: SaveRequest, context: Context) -> ModelInfo:
    """Save a model in the server's folder under a new name."""
    entry, save = context.registry.get(id), context.registry.save
    return await context.compute(lambda stop: info(save(id, body.name, stop), []), entry)


@router.delete("/models/{id}", status_code=204, response_class=Response)
async def forget_model(id: ModelId, context: Context) -> None:
    """Remove a model from the server, but keep its directory."""
    context.registry.forget(id)


@router.get("/models/{id}/data")
async def show_data(id: ModelId, context: Context) -> Data:
    """Return the list that a model was trained on."""

    def look(model: Model, entry: Entry, stop: Stop) -> Data:
        return entry.remember("data", lambda: data_of(model, stop))

    return await context.use(id, look)


@router.post("/sample", response_model=Samples)
async def draw_samples(body: SampleBody, context: Context, accept: Accept = "") -> Any:
    """Return samples, one per line with "Accept: application/x-ndjson"."""
    entry, most = context.registry.get(body.model), context.limits.nearest
    if body.nearest and body.n > most:
        raise WebError(422, f"nearest neighbours need at most {most} samples")

    def draw(model: Model, entry: Entry, stop: Stop) -> Samples | Response:
        samples = samples_of(model, body, context.limits, stop, known_of(entry, model))
        return lines(samples.samples) if NDJSON in accept else samples

    return await context.use(entry.id, draw)


@router.post("/complete")
async def complete(body: CompleteBody, context: Context) -> Completions:
    """Return the most likely entries that begin with a prefix."""

    def search(model: Model, _entry: Entry, _stop: Stop) -> Completions:
        result = completion.complete(model, body.prefix, body.n, given=body.given)
        documents = [CompletionFound(**document._asdict()) for document in result.documents]
        return Completions(exact=result.num_exact, completions=documents)

    return await context.use(body.model, search)


@router.post("/words")
async def words(body: WordsBody, context: Context) -> Words:
    """Return the most probable words for a gap, or for the end of a text."""

    def search(model: Model, _entry: Entry, _stop: Stop) -> Words:
        if completion.word_gap(body.text) or body.among:
            result = completion.fill_words(
                model, body.text, body.n, among=body.among, given=body.given
            )
        else:
            result = completion.complete_words(model, body.text, body.n, given=body.given)
        return Words(
            words=[WordFound(**word._asdict()) for word in result.words],
            found=result.num_found,
            total=result.total,
            covered=result.covered,
        )

    return await context.use(body.model, search)


@router.post("/score", response_model=Scores)
async def score_texts(body: ScoreBody, context: Context, accept: Accept = "") -> Any:
    """Return the scores of texts, one per line with "Accept: application/x-ndjson"."""

    def look(model: Model, entry: Entry, stop: Stop) -> Scores | Response:
        scores = scores_of(model, body, entry, stop)
        return lines(scores) if NDJSON in accept else Scores(scores=scores)

    return await context.use(body.model, look)


@router.post("/next-token")
async def next_token(body: NextTokenBody, context: Context) -> NextTokens:
    """Return the logit and probability of each token as the next one."""
    return await context.use(body.model, lambda model, _entry, _stop: next_tokens_of(model, body))


# ---- what the routes compute


def info(entry: Entry, steps: list[int]) -> ModelInfo:
    return ModelInfo(
        id=entry.id,
        kind=entry.kind,
        saved=entry.path is not None,
        path=None if entry.path is None else shown_path(entry.path),
        parent=entry.parent,
        step=entry.step,
        steps=steps,
        **entry.about(),
    )


def shown_path(path: Path) -> str:
    """Return a path relative to the current directory, or only its name if it is outside."""
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return path.name


def scores_of(model: Model, body: ScoreBody, entry: Entry, stop: Stop) -> list[ScoreFound]:
    if body.by is not None:
        check_classes(model, body.by, body.unknown)
    reader = model.under(body.given)
    scores: list[Score] = []
    values: list[dict[str, float]] = []
    size = num_at_once(model)
    for start in range(0, len(body.texts), size):
        stop.check()
        texts = body.texts[start : start + size]
        found = score_list(reader, model.tokenizer, texts, unknown=body.unknown, start=start)
        scores += found.rows()
        if body.by is not None:
            classes = classify_list(model, texts, body.by, unknown=body.unknown)
            values += [each.shares for each in classes]
    which: Unknown = "zero" if body.unknown == "zero" else "skip"
    most = MAX_PIECES * size
    scale = entry.remember(f"scale {which}", lambda: PercentileScale.of(model, which, most))
    return [
        ScoreFound(
            text=each.text,
            scored=each.scored,
            index=each.index,
            values=values[number] if values else None,
            logprob=finite(each.logprob),
            bits_per_char=finite(each.bits_per_char),
            percentile=scale.percentile(each.bits_per_char),
            compared_with=scale.reference,
            surprise=each.surprise,
            surprising=each.surprising,
            cut=each.cut,
        )
        for number, each in enumerate(scores)
    ]


def finite(number: float) -> float | None:
    """Return the number, or None if it is infinite, because JSON has no infinity."""
    return number if math.isfinite(number) else None


def num_at_once(model: Model) -> int:
    """Return how many documents the model can read in a fraction of a second."""
    work = MAX_FLOPS_AT_ONCE if has_fused_ops(model.engine) else MAX_FLOPS_AT_ONCE_SLOW
    num_classes = len(model.conditional.models) if model.training.given else 1
    return max(1, int(work / model.num_params / model.config.block_size / num_classes))


def data_of(model: Model, stop: Stop) -> Data:
    parts = train, validation = model.parts()
    corpus, num_docs = model.training.corpus, len(model.docs)
    counts: Counter[str] = Counter()
    for number, doc in enumerate(model.docs):
        counts.update(graphemes(doc))
        if number % DOCS_AT_ONCE == 0:
            stop.check()
    in_train, in_validation = (Counter(lengths_of(part)) for part in parts)
    examples = [
        [first_graphemes(document, 200) for document in part[:NUM_EXAMPLES]] for part in parts
    ]
    return Data(
        source=file_name(corpus.source),
        num_docs=num_docs,
        num_repetitions=corpus.num_docs - num_docs if corpus.num_different is not None else 0,
        num_cut=model.training.num_cut,
        num_train=len(train),
        num_validation=len(validation),
        characters=[CharacterCount(text=text, count=n) for text, n in counts.most_common(500)],
        lengths=[
            LengthCount(length=size, num_train=in_train[size], num_validation=in_validation[size])
            for size in sorted({*in_train, *in_validation})[:500]
        ],
        examples=Examples(train=examples[0], validation=examples[1]),
    )


def known_of(entry: Entry, model: Model) -> Callable[[list[str]], Collection[str]]:
    """Return a function that finds the texts that are in the list. It uses a set if it fits."""
    if len(model.docs) > MAX_REMEMBERED:
        return model.docs.intersection
    return entry.remember("documents", lambda: frozenset(model.docs)).intersection


def samples_of(
    model: Model,
    body: SampleBody,
    limits: Limits,
    stop: Stop,
    known_of: Callable[[list[str]], Collection[str]],
) -> Samples:
    model.check_documents("sampling over HTTP")
    conditions = body.model_dump(exclude={"model", "n", "temperature", "seed", "nearest", "given"})
    found = model.generate(
        body.n,
        temperature=body.temperature,
        seed=body.seed,
        given=body.given,
        should_stop=lambda tried: stop() or tried >= limits.candidates or stop.late(),
        **conditions,
    )
    known = known_of(found.texts)
    short = max(model.docs.lengths(), default=0) <= MAX_COMPARED
    similar = NearestDocument(model.docs) if body.nearest and short else None
    samples: list[Sample] = []
    size = num_at_once(model)
    for begin in range(0, len(found.texts), size):
        some = found.texts[begin : begin + size]
        for sample in sample_infos(model, some, body.prompt, known=known, given=body.given):
            if stop():
                raise Stopped
            near = similar(sample.text) if similar and not stop.late() else None
            samples.append(
                Sample(
                    text=sample.text,
                    logprob=finite(sample.logprob),
                    in_list=sample.in_list,
                    nearest=near and Near(text=near[0], similarity=near[1]),
                )
            )
    warning = model.prompt_warning(body.prompt)
    whole = len(samples) == body.n and not any(similar and not s.nearest for s in samples)
    return Samples(
        seed=model.config.seed if body.seed is None else body.seed,
        temperature=model.config.temperature if body.temperature is None else body.temperature,
        tried=found.num_candidates,
        ended="n" if whole else "time" if stop.late() else "tried",
        warning=". ".join(warning) if warning else None,
        left_out=LeftOut(copies=found.num_copies, duplicates=found.num_duplicates),
        samples=samples,
    )


def next_tokens_of(model: Model, body: NextTokenBody) -> NextTokens:
    tokenizer, config = model.tokenizer, model.config
    if tokenizer.vocab_size > MAX_TOKENS:
        raise ConfigError(
            f"the model has {tokenizer.vocab_size:,} tokens, and the limit here is {MAX_TOKENS:,}",
            "ask for completions instead",
        )
    before = prompt_prefix(tokenizer, body.prompt, config.block_size)
    prefix = tokenizer.encode(body.prefix)
    if len(before) + len(prefix) >= config.block_size:
        raise ConfigError(
            f"the prefix has {len(prefix):,} tokens, which fill the model's block_size "
            f"{config.block_size}"
        )
    reader = model.under(body.given)
    decoder = prefill(reader, tokenizer.bos, before)
    for token in [before[-1] if before else tokenizer.bos, *prefix]:
        logits = decoder.push(token)
    read = [tokenizer.bos, *before, *prefix]
    gpt, ngram = parts_of(reader, read)
    special = frozenset(tokenizer.special.values()) - {tokenizer.bos}
    GenerationConstraints(top_k=body.top_k, top_p=body.top_p)  # raises ConfigError
    temperature = body.temperature
    out = tokenizer.ruled_out(prefix) if tokenizer.clusters else special
    usual = [token for token in range(len(logits)) if token not in out]
    kept = allowed(logits, usual, temperature, body.top_k, body.top_p)
    shares = dict(zip(kept, probabilities([logits[t] for t in kept], temperature), strict=True))
    return NextTokens(
        tokens=[
            NextToken(
                id=token,
                text="" if token == tokenizer.bos else tokenizer.token_text(token),
                logit=logit,
                probability=shares.get(token, 0.0),
                kept=token in shares,
                gpt=gpt[token] if gpt else None,
                ngram=ngram[token] if ngram else None,
            )
            for token, logit in enumerate(logits)
            if token not in special
        ],
        end=tokenizer.bos,
        position=len(prefix),
        blend=losses_of(model.training)["blend"] if gpt else None,
    )


def parts_of(
    model: LanguageModel, tokens: Sequence[int]
) -> tuple[Sequence[float], Sequence[float]]:
    """Return p of each next token by the GPT and by the n-gram of a blend, or empty sequences."""
    if not isinstance(model, BlendedModel):
        return [], []
    gpt = model.gpt.decoder()
    for token in tokens:
        logits = gpt.push(token)
    return softmax(logits), model.ngram.probabilities(tokens)


def lines(objects: Iterable[BaseModel]) -> Response:
    """Return an answer with one JSON object per line."""
    rows = (json.dumps(item.model_dump(), ensure_ascii=False) + "\n" for item in objects)
    return Response("".join(rows), media_type=NDJSON)
