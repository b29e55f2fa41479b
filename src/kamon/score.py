"""How odd a text is to a model: what its characters cost, in bulk and in bounded memory."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, compress, islice, repeat
from operator import sub
from pathlib import Path
from typing import NamedTuple

from kamon.api import Model, loaded
from kamon.engine import Reader, document_logprobs, is_fast
from kamon.errors import ConfigError
from kamon.tokenizer import Tokenizer

CHUNK = 20_000  # texts at a time
NUM_COMPARED = 20_000  # documents of the list that a percentile compares with
NUM_COMPARED_SLOWLY = 200  # by the scalar engine
BITS = 1 / math.log(2)
UNKNOWN = ("error", "skip", "replace", "odd")  # what is done with texts of unknown characters


class Score(NamedTuple):
    """What a model makes of one text.

    logprob: of the whole text and its end, in nats; bits_per_char: the same in bits, over its
    characters and its end; surprise: the place, from 0, of the least likely character, or where the
    least likely token begins that has several, the text's length for its end. cut: the text is
    longer than the model can see; only its beginning was scored, without an end.
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
    it was scored; "odd" takes it for what it is to the model: of probability 0, its logprob −inf,
    its bits_per_char inf, its least likely character the first unknown one.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
    >>> [found.text for found in score(model, ["anna", "Hora", "xenia"], unknown="replace")]
    ['anna', 'hora']
    """
    model = loaded(model)
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
    room = reader.config.block_size
    texts = given
    strange = tokenizer.unknown("".join(texts))
    if strange:
        if unknown == "error":
            for text in texts:
                tokenizer.encode(text)  # raises, and says which character where
        if unknown == "replace":
            texts = list(map(tokenizer.replace_unknown, given))
            strange = tokenizer.unknown("".join(texts))
        kept = [place for place, text in enumerate(texts) if strange.isdisjoint(text)]
        if unknown == "odd":
            known = score_list(reader, tokenizer, [texts[place] for place in kept])
            return with_impossible(known, kept, texts, strange)
        given = [given[place] for place in kept]
        texts = [texts[place] for place in kept]
    batch = tokenizer.encode_documents(texts, room)
    ends = batch.offsets[1:]
    sizes = list(map(sub, ends, batch.offsets))
    lengths: Iterable[int] = map(len, texts)
    cut: Sequence[bool] = [False] * len(texts)
    if max(sizes, default=0) > room:  # it may be the end that fills it
        cut = [batch.tokens[end - 1] != tokenizer.bos for end in ends]
        seen = tokenizer.num_chars(texts, [size - 1 for size in sizes])
        lengths = map(sub, seen, cut)  # without an end
    logprobs, places = document_logprobs(reader, batch)
    bits = [-BITS * logprob / (n + 1) for logprob, n in zip(logprobs, lengths, strict=True)]
    return Scores(given, texts, logprobs, bits, tokenizer.num_chars(texts, places), cut)


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
class Scale:
    """How odd the documents of the model's own list are: bits a character, in ascending order."""

    bits: Sequence[float]

    @classmethod
    def of(cls, model: Model) -> Scale:
        most = NUM_COMPARED if is_fast(model.engine) else NUM_COMPARED_SLOWLY
        step = max(1, len(model.docs) // most)
        found = score(model, islice(model.docs, 0, None, step), unknown="skip")
        return cls(sorted(each.bits_per_char for each in found))

    def percentile(self, bits_per_char: float) -> float:
        """The percentage of the list that is at least as odd: 0 for a text odder than all of it."""
        return self.percentiles([bits_per_char])[0]

    def percentiles(self, bits_per_char: Iterable[float]) -> list[float]:
        """`percentile` of each."""
        own, size, whole = self.bits, len(self.bits), len(self.bits) or 1
        return [100 * (size - bisect_left(own, bits)) / whole for bits in bits_per_char]
