"""How odd a text is to a model: what its characters cost, in bulk and in bounded memory."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, compress, islice, repeat
from operator import sub
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from kamon.engines.base import Reader, has_fused_ops
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.errors import ConfigError, StoreError
from kamon.model import Model, as_model
from kamon.ngrams.native import NativeNgram
from kamon.ngrams.reference import Ngram
from kamon.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from kamon.packing.shards import Part

CHUNK = 20_000  # texts at a time
NUM_WINDOWS = 4_000  # of a long text at a time
NUM_COMPARED = 20_000  # documents of the list that a percentile compares with
NUM_COMPARED_SLOW = 200  # by the scalar engine
MIN_HELD_OUT = 10  # documents that a percentile compares with: fewer make steps above 10 %
BITS = 1 / math.log(2)
UNKNOWN = ("error", "skip", "replace", "zero")  # what is done with texts of unknown characters


class Score(NamedTuple):
    """What a model makes of one text.

    logprob: of the whole text and its end, in nats; bits_per_char: the same in bits, over its
    characters and its end; surprise: the place, from 0, of the least likely character, or where the
    least likely token begins that has several, the text's length for its end. cut: the text is
    longer than the model reads at once, so it was scored in windows: see `long_logprob`.
    """

    text: str
    logprob: float
    bits_per_char: float
    surprise: int
    cut: bool

    @property
    def surprising(self) -> str:
        """The least likely character; empty for the end."""
        return self.text[self.surprise : self.surprise + 1]


def score(
    model: Model | str | Path, texts: Iterable[str], *, unknown: str = "error"
) -> Iterator[Score]:
    """A Score for each text, in their order, as many at a time as CHUNK.

    unknown: what to do with a text that has characters which the model does not know. "error"
    raises a TokenizerError; "skip" leaves it out; "replace" exchanges them for their likes
    (`CharTokenizer.replace_unknown`), leaves out a text that still has some, and gives the text as
    it was scored; "zero" takes it for what it is to the model: of probability 0, its logprob −inf,
    its bits_per_char inf, its least likely character the first unknown one. With "zero" a text that
    is cut has probability 0, too: the model cannot end it. Its least likely character is the first
    one that the model has no room for.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
    >>> [found.text for found in score(model, ["anna", "Hora", "xenia"], unknown="replace")]
    ['anna', 'hora']
    """
    model = as_model(model)
    model.check_documents("scores are those of documents")
    return score_with(model.engine, model.tokenizer, texts, unknown=unknown)


def score_with(
    reader: Reader, tokenizer: Tokenizer, texts: Iterable[str], *, unknown: str = "error"
) -> Iterator[Score]:
    """`score` by an engine or an n-gram."""
    check_unknown(unknown)
    check_several(texts)
    left = iter(texts)

    def chunks() -> Iterator[Iterator[Score]]:
        while chunk := list(islice(left, CHUNK)):
            found = score_list(reader, tokenizer, chunk, unknown=unknown)
            columns = (found.texts, found.logprobs, found.bits_per_char, found.surprises, found.cut)
            # As Score(…) would, in half the time.
            yield map(tuple.__new__, repeat(Score), zip(*columns, strict=True))

    return chain.from_iterable(chunks())


@dataclass(frozen=True)
class Scores:
    """The columns of many a Score; `given` are the texts before unknown characters were replaced.

    Texts that were left out are in none.
    """

    given: Sequence[str]
    texts: Sequence[str]
    logprobs: Sequence[float]
    bits_per_char: Sequence[float]
    surprises: Sequence[int]
    cut: Sequence[bool]

    def surprising(self) -> list[str]:
        """The least likely character of each; empty for the end."""
        return [text[i : i + 1] for text, i in zip(self.texts, self.surprises, strict=True)]

    def select(self, chosen: Sequence[bool]) -> Scores:
        """Those for which `chosen` says so."""
        return Scores(*(list(compress(getattr(self, f.name), chosen)) for f in fields(self)))


def score_list(
    reader: Reader, tokenizer: Tokenizer, given: Sequence[str], *, unknown: str = "error"
) -> Scores:
    """`score_with` for texts that are at hand: all at once, as columns, and so the fastest way."""
    check_unknown(unknown)
    check_several(given)
    texts = given = list(map(tokenizer.normal, given))
    strange = tokenizer.unknown("".join(texts))
    if strange:
        if unknown == "error":
            for text in texts:
                tokenizer.encode(text)  # raises, and says which character where
        if unknown == "replace":
            texts = [tokenizer.normal(tokenizer.replace_unknown(text)) for text in given]
            strange = tokenizer.unknown("".join(texts))
        kept = [place for place, text in enumerate(texts) if strange.isdisjoint(text)]
        if unknown == "zero":
            known = score_list(reader, tokenizer, [texts[place] for place in kept], unknown="zero")
            return with_impossible(known, kept, texts, strange)
        given = [given[place] for place in kept]
        texts = [texts[place] for place in kept]
    batch = tokenizer.encode_documents(texts)
    room = room_of(reader)
    sizes = map(sub, batch.offsets[1:], batch.offsets)
    cut = [size > room + 1 for size in sizes]
    if any(cut):
        logprobs, places = of_any_length(reader, batch, cut, possible=unknown != "zero")
    else:
        logprobs, places = document_logprobs(reader, batch)
    bits = [
        -BITS * logprob / (len(text) + 1) for logprob, text in zip(logprobs, texts, strict=True)
    ]
    return Scores(given, texts, logprobs, bits, tokenizer.num_chars(texts, places), cut)


def room_of(reader: Reader) -> float:
    """How many tokens a reader sees at once; infinite for an n-gram, which reads any number."""
    return math.inf if isinstance(reader, Ngram | NativeNgram) else reader.config.block_size


def of_any_length(
    reader: Reader, batch: PackedBatch, cut: Sequence[bool], *, possible: bool
) -> tuple[array[float], array[int]]:
    """`document_logprobs`, also of documents that are longer than the reader sees at once.

    cut: which of them are; not possible: these have probability 0.
    """
    room = reader.config.block_size
    logprobs, places = document_logprobs(
        reader, pack_sequences(tokens[: room + 1] for tokens in batch)
    )
    for place in compress(range(len(batch)), cut):
        if possible:
            logprobs[place], places[place] = long_logprob(reader, batch.document(place))
        else:
            logprobs[place], places[place] = -math.inf, room - 1
    return logprobs, places


def long_logprob(reader: Reader, tokens: Sequence[int]) -> tuple[float, int]:
    """(log p in nats, place of the least likely target) of a document of any length.

    What lies beyond the reader's context is read in windows (see `windows`), so that each token and
    the end cost what they cost after the tokens before them.
    """
    left = windows(tokens, reader.config.block_size)
    total, least, place, done = 0.0, math.inf, 0, 0
    while block := list(islice(left, NUM_WINDOWS)):
        logprobs = reader.logprobs(pack_sequences(window for window, _ in block))
        end = 0
        for window, num_new in block:
            end += len(window) - 1
            for logprob in logprobs[end - num_new : end]:
                total += logprob
                if logprob < least:
                    least, place = logprob, done
                done += 1
    return total, place


def windows(tokens: Sequence[int], block_size: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield windows of at most block_size + 1 tokens, and how many of its last targets are new.

    Each begins with BOS: without it a model of short documents guesses much worse, since it has
    only seen documents that begin. After the first one, at least half of a window is known already.

    >>> [("".join(window), num_new) for window, num_new in windows(list(".abcdefg."), 4)]
    [('.abcd', 4), ('.cdef', 2), ('.efg.', 2)]
    """
    end = block_size + 1
    yield tokens[:end], block_size
    while end < len(tokens):
        known, end = end, min(end + block_size - block_size // 2, len(tokens))
        yield [tokens[0], *tokens[end - block_size : end]], end - known


def with_impossible(
    known: Scores, places: Sequence[int], texts: Sequence[str], strange: set[str]
) -> Scores:
    """The scores of all texts: `known` are of those at `places`, the others have probability 0.

    strange: the unknown characters, of which each of the others has at least one.
    """
    logprobs = [-math.inf] * len(texts)
    bits = [math.inf] * len(texts)
    surprises = [-1] * len(texts)
    cut = [False] * len(texts)
    for own, place in enumerate(places):
        logprobs[place] = known.logprobs[own]
        bits[place] = known.bits_per_char[own]
        surprises[place] = known.surprises[own]
        cut[place] = known.cut[own]
    for place, text in enumerate(texts):
        if surprises[place] < 0:
            surprises[place] = next(n for n, char in enumerate(text) if char in strange)
    return Scores(texts, texts, logprobs, bits, surprises, cut)


def check_several(texts: object) -> None:
    """One text would be taken for as many as it has characters."""
    if isinstance(texts, str):
        raise ConfigError("score takes several texts, not one: put it in a list")


def check_unknown(unknown: str) -> None:
    if unknown not in UNKNOWN:
        raise ConfigError(f"unknown must be one of {', '.join(UNKNOWN)}, not {unknown!r}")


@dataclass(frozen=True)
class PercentileScale:
    """How odd known documents are: bits per character, in ascending order.

    reference: which documents; "validation" of the list, "list" if too few of it are held out, or
    None if the model keeps no documents.
    """

    bits: Sequence[float]
    reference: Literal["validation", "list"] | None = "list"

    @classmethod
    def of(cls, model: Model, unknown: str = "skip", most: int | None = None) -> PercentileScale:
        """Return the scale of a model; unknown: as for the texts to compare, of `score`.

        most: entries to compare with; by default as many as the engine reads quickly.
        """
        if most is None:
            most = NUM_COMPARED if has_fused_ops(model.engine) else NUM_COMPARED_SLOW
        if "packed" in model.training["corpus"]:
            parts: tuple[Sequence[str], Sequence[str]] = packed_parts(model, most)
        else:
            parts = model.docs, model.parts()[1]
        return cls.between(model.engine, model.tokenizer, *parts, most=most, unknown=unknown)

    @classmethod
    def between(
        cls,
        reader: Reader,
        tokenizer: Tokenizer,
        docs: Sequence[str],
        held_out: Sequence[str],
        *,
        most: int = NUM_COMPARED,
        unknown: str = "skip",
    ) -> PercentileScale:
        """Return the scale of an engine or an n-gram that has not learned `held_out`.

        Unseen texts are as odd as documents held out, and odder than those learned. So the whole
        list, `docs`, is compared with only if fewer than MIN_HELD_OUT are held out.
        """
        enough = len(held_out) >= MIN_HELD_OUT
        compared = held_out if enough else docs
        some = islice(compared, 0, None, max(1, len(compared) // most))
        found = score_with(reader, tokenizer, some, unknown="zero" if unknown == "zero" else "skip")
        bits = sorted(each.bits_per_char for each in found)
        return cls(bits, ("validation" if enough else "list") if bits else None)

    def percentile(self, bits_per_char: float) -> float | None:
        """The percentage of `bits` that is at least as odd: 0 for a text odder than all of them."""
        return self.percentiles([bits_per_char])[0]

    def percentiles(self, bits_per_char: Iterable[float]) -> Sequence[float | None]:
        """`percentile` of each; None if there is nothing to compare with."""
        own, size = self.bits, len(self.bits)
        if not size:
            return [None for _ in bits_per_char]
        return [100 * (size - bisect_left(own, bits)) / size for bits in bits_per_char]


def packed_parts(model: Model, most: int) -> tuple[list[str], list[str]]:
    """(learned, held out): some documents of a model's packed corpus, about `most` of each.

    Both are empty if the corpus is no longer in its place, or another one is.
    """
    from kamon.packing.shards import open_shards

    try:
        shards = open_shards(model.training["corpus"]["packed"])
    except StoreError:
        return [], []
    if shards.sha256 != model.training["corpus"]["sha256"]:
        return [], []

    def some(part: Part) -> list[str]:
        n = shards.num_docs(part)
        chosen = range(0, n, max(1, n // most))
        documents = (shards.document(part, number)[1:-1] for number in chosen)
        return [shards.tokenizer.decode(tokens) for tokens in documents]

    return some("train"), some("held_out")
