"""Counted n-grams, smoothed: the baseline that a GPT must beat.

Interpolated modified Kneser-Ney. With order N, the probability of w after the context h, the last
N − 1 tokens at most, mixes what was counted after h with the same for h without its first token:

    p(w | h) = (a(hw) − D(a(hw))) / a(h·)  +  left(h) · p(w | h without its first token)
    left(h) = Σ_w D(a(hw)) / a(h·)

where a(h·) = Σ_w a(hw), and a token that was never counted after h adds nothing to the first term.
After the empty context comes the uniform distribution: no token has probability 0. A context never
seen leaves all to the shorter one. `adjusted_counts` says what a is, `discounts` what D is.
Source: Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling"
(doi:10.1006/csla.1999.0128).
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from kamon.config import Config, require_int
from kamon.engines.batch import PackedBatch

MAX_ORDER = 10

Gram = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Ngram:
    """A trained n-gram; what `kamon.generation.sampling` asks of an engine, it has.

    config: vocab_size, and block_size, at which a sample stops; an n-gram uses no other setting.
    contexts: of each context seen, from the empty one to `order` − 1 tokens, what it leaves to the
    shorter one and the share of each token counted after it; all of these add up to 1.
    """

    config: Config
    order: int
    contexts: dict[Gram, tuple[float, dict[int, float]]] = field(repr=False)

    def probabilities(self, context: Sequence[int]) -> list[float]:
        """p (V,) of each token after `context`: the document from its opening BOS, or its end.

        ValueError for a token outside the vocabulary.
        """
        check_tokens(context, self.config.vocab_size)
        vocab_size, size = self.config.vocab_size, len(context)
        found = [1 / vocab_size] * vocab_size
        for begin in range(size, max(0, size - self.order + 1) - 1, -1):
            entry = self.contexts.get(tuple(context[begin:]))
            if entry is None:
                break  # a context that starts earlier was not seen either
            left, shares = entry
            found = [left * p for p in found]
            for token, share in shares.items():
                found[token] += share
        return found

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document, as `Engine.logprobs` does.

        Documents may have any length. ValueError for a token outside the vocabulary.
        """
        batch.check()
        check_tokens(batch.tokens, self.config.vocab_size)
        contexts, room = self.contexts, self.order - 1
        uniform = 1 / self.config.vocab_size
        logprobs = array("d")
        for document in map(tuple, batch):
            for place in range(1, len(document)):
                target, p = document[place], uniform
                # The steps of `probabilities`, for one token: the same bits.
                for begin in range(place, max(0, place - room) - 1, -1):
                    entry = contexts.get(document[begin:place])
                    if entry is None:
                        break
                    p = entry[0] * p + entry[1].get(target, 0.0)
                logprobs.append(math.log(p))
        return logprobs

    def decoder(self) -> NgramDecoder:
        """Return a decoder at the start of a document."""
        return NgramDecoder(self)


class NextToken(Protocol):
    """The counts that a decoder reads: those of `Ngram`, or of the native n-gram."""

    @property
    def config(self) -> Config: ...

    @property
    def order(self) -> int: ...

    def probabilities(self, context: Gram) -> Sequence[float]:
        """Return p (V,) of each next token after `context`."""


class NgramDecoder:
    """One document, read token by token; keeps no more of it than the n-gram looks at."""

    def __init__(self, ngram: NextToken) -> None:
        self.ngram = ngram
        self.context: Gram = ()

    def push(self, token: int) -> list[float]:
        """The logits (V,) of the token after this one: log p, so that softmax gives p again."""
        check_tokens([token], self.ngram.config.vocab_size)
        read = (*self.context, token)
        self.context = read[max(0, len(read) - self.ngram.order + 1) :]
        return list(map(math.log, self.ngram.probabilities(self.context)))


def train_ngram(docs: PackedBatch, vocab_size: int, order: int = 6) -> Ngram:
    """Return the n-gram of these documents.

    Samples stop at block_size, as many tokens as the longest document has targets. ConfigError for
    an order that is not from 1 to MAX_ORDER, ValueError for a token outside the vocabulary.

    >>> from kamon.engines.batch import pack_sequences
    >>> ngram = train_ngram(pack_sequences([[2, 0, 1, 2], [2, 0, 2]]), vocab_size=3, order=2)
    >>> [round(p, 3) for p in ngram.probabilities([2])]  # token 0 began both documents
    [0.646, 0.146, 0.208]
    """
    order = checked_order(order)
    docs.check()
    longest = max((end - begin for begin, end in pairwise(docs.offsets)), default=0)
    config = Config(vocab_size=vocab_size, block_size=max(1, longest - 1))
    check_tokens(docs.tokens, vocab_size)
    contexts: dict[Gram, tuple[float, dict[int, float]]] = {}
    for counts in adjusted_counts([tuple(document) for document in docs], order):
        discount = discounts(Counter(counts.values()))
        after: dict[Gram, dict[int, int]] = {}
        for gram, count in counts.items():
            context = gram[:-1]
            if context in after:
                after[context][gram[-1]] = count
            else:
                after[context] = {gram[-1]: count}
        for context, followers in after.items():
            total = sum(followers.values())
            num = [0] * 4
            shares = {}
            for token, count in followers.items():
                j = min(count, 3)
                num[j] += 1
                shares[token] = (count - discount[j]) / total
            taken = num[1] * discount[1] + num[2] * discount[2] + num[3] * discount[3]
            contexts[context] = (taken / total, shares)
    return Ngram(config, order, contexts)


def adjusted_counts(documents: list[Gram], order: int) -> list[Counter[Gram]]:
    """a of each k-gram, k from 1 to `order`; its last token is a target, never the opening BOS.

    The longest k-grams are counted as often as they occur. A shorter one counts each different
    token that stands before it once: it is asked where the longer context knows nothing, so what
    matters is in how many contexts it was at home, not how often. Where it opens a document there
    is no token before it and no longer context to ask first, and each occurrence counts.
    """
    first = 1 if order == 1 else 0
    counts = Counter(
        [
            document[begin : begin + order]
            for document in documents
            for begin in range(first, len(document) - order + 1)
        ]
    )
    levels = [counts]
    for k in range(order - 1, 0, -1):
        counts = Counter([gram[1:] for gram in counts])
        if k > 1:
            counts.update([document[:k] for document in documents if len(document) >= k])
        levels.append(counts)
    return levels[::-1]


def discounts(num_grams: Counter[int]) -> tuple[float, float, float, float]:
    """(0, D(1), D(2), D(3 or more)), where num_grams[j] is how many k-grams are counted j times.

        D(j) = j − (j + 1) · Y · num_grams[j + 1] / num_grams[j]
        Y = num_grams[1] / (num_grams[1] + 2 · num_grams[2])

    D(j) must take something of j and leave something. Where too few k-grams are counted so rarely
    for the formula to give such a number, half of j is taken.
    """
    found = [0.0]
    for j in (1, 2, 3):
        discount = 0.0
        if num_grams[1] and num_grams[j]:
            y = num_grams[1] / (num_grams[1] + 2 * num_grams[2])
            discount = j - (j + 1) * y * num_grams[j + 1] / num_grams[j]
        found.append(discount if 0 < discount < j else j / 2)
    return found[0], found[1], found[2], found[3]


def checked_order(order: int) -> int:
    """The order. ConfigError for what is none."""
    return require_int("order", order, 1, MAX_ORDER)


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {vocab_size}")
