"""How odd a text is to a model: what its characters cost, in bulk and in bounded memory."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from typing import NamedTuple

from kamon.api import Model
from kamon.batch import Batch
from kamon.tokenizer import UTF_32, CharTokenizer

CHUNK = 20_000  # texts at a time
NUM_COMPARED = 20_000  # documents of the list that a percentile compares with
NUM_COMPARED_SLOWLY = 200  # by the scalar engine
BITS = 1 / math.log(2)


class Score(NamedTuple):
    """What a model makes of one text.

    logprob: of the whole text and its end, in nats; bits_per_char: the same in bits, over its
    characters and its end; surprise: the place, from 0, of the least likely character, the text's
    length for its end. cut: the text is longer than the model can see; only its beginning was
    scored, without an end.
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


def score(model: Model, texts: Iterable[str], *, skip_unknown: bool = False) -> Iterator[Score]:
    """A Score for each text, in their order, as many at a time as CHUNK.

    TokenizerError for a character that the model does not know, unless such texts are skipped.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
    >>> [found.text for found in score(model, ["anna", "hora", "xenia"], skip_unknown=True)]
    ['anna', 'hora']
    """
    texts = iter(texts)
    while chunk := list(islice(texts, CHUNK)):
        yield from score_chunk(model, chunk, skip_unknown)


def score_chunk(model: Model, texts: list[str], skip_unknown: bool) -> Iterator[Score]:
    room = model.config.block_size
    known = set(model.tokenizer.chars)
    if not known.issuperset("".join(texts)):
        if not skip_unknown:
            for text in texts:
                model.tokenizer.encode(text)  # raises, and says which character where
        texts = [text for text in texts if known.issuperset(text)]
    batch = encode_documents(model.tokenizer, [text[:room] for text in texts], room)
    logprobs = model.engine.logprobs(batch).tolist()
    end = 0
    for text in texts:
        num = min(len(text) + 1, room)
        begin, end = end, end + num
        own = logprobs[begin:end]
        total = math.fsum(own)
        cut = len(text) >= room
        yield Score(text, total, -total * BITS / num, own.index(min(own)), cut)


def encode_documents(tokenizer: CharTokenizer, texts: list[str], room: int) -> Batch:
    """The documents of texts whose characters are all known, much faster than one by one.

    A text of `room` characters has no end: its document is one token shorter.
    """
    table = {ord(char): token for token, char in enumerate(tokenizer.chars)}
    # Characters are exchanged for the code points of their tokens; those of BOS go between.
    bos = chr(tokenizer.bos)
    codes = "".join(
        [
            f"{bos}{text}" if len(text) >= room else f"{bos}{text}{bos}"
            for text in (text.translate(table) for text in texts)
        ]
    )
    tokens = array("i")
    tokens.frombytes(codes.encode(UTF_32, "surrogatepass"))
    lengths = (len(text) + 1 if len(text) >= room else len(text) + 2 for text in texts)
    return Batch(tokens, array("q", accumulate(lengths, initial=0)))


@dataclass(frozen=True)
class Scale:
    """How odd the documents of the model's own list are: bits a character, in ascending order."""

    bits: list[float]

    @classmethod
    def of(cls, model: Model) -> Scale:
        most = NUM_COMPARED if hasattr(model.engine, "train") else NUM_COMPARED_SLOWLY
        step = max(1, len(model.docs) // most)
        found = score(model, islice(model.docs, 0, None, step), skip_unknown=True)
        return cls(sorted(each.bits_per_char for each in found))

    def percentile(self, bits_per_char: float) -> float:
        """The percentage of the list that is at least as odd: 0 for a text odder than all of it."""
        least = bisect_left(self.bits, bits_per_char)
        return 100 * (len(self.bits) - least) / max(1, len(self.bits))
