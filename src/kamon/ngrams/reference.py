"""Smoothed n-grams, the baseline that a GPT must beat.

This is interpolated modified Kneser-Ney. The context h is the last N − 1 tokens or fewer, for order
N. The probability of w after h mixes the counts after h with the probability after a shorter h:

    p(w | h) = (a(hw) − D(a(hw))) / a(h·)  +  left(h) · p(w | h without its first token)
    left(h) = Σ_w D(a(hw)) / a(h·)
    a(h·) = Σ_w a(hw)

`adjusted_counts` defines a, and `discounts` defines D. If w was never counted after h, the first
term is 0. For a context that was never seen, the probability is that of the shorter context. The
empty context is mixed with the uniform distribution, so no token has probability 0.

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
    """A trained n-gram, which `kamon.generation.sampling` can use like an engine.

    Attributes:
        config: vocab_size and block_size, at which a sample stops. It uses no other settings.
        contexts: for each context seen, of 0 to `order` − 1 tokens, its left(h) and the share of
            each token counted after it. All of these add up to 1.
    """

    config: Config
    order: int
    contexts: dict[Gram, tuple[float, dict[int, float]]] = field(repr=False)

    def probabilities(self, context: Sequence[int]) -> list[float]:
        """Return p (V,) of each token after `context`, which is all or the end of a document.

        The document begins with BOS. Raises ValueError for a token outside the vocabulary.
        """
        check_tokens(context, self.config.vocab_size)
        vocab_size, size = self.config.vocab_size, len(context)
        found = [1 / vocab_size] * vocab_size
        for begin in range(size, max(0, size - self.order + 1) - 1, -1):
            entry = self.contexts.get(tuple(context[begin:]))
            if entry is None:
                break  # so longer contexts were not seen either
            left, shares = entry
            found = [left * p for p in found]
            for token, share in shares.items():
                found[token] += share
        return found

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return log p of every target in nats, document by document, like `Engine.logprobs`.

        Documents may have any length. Raises ValueError for a token outside the vocabulary.
        """
        batch.check()
        check_tokens(batch.tokens, self.config.vocab_size)
        contexts, room = self.contexts, self.order - 1
        uniform = 1 / self.config.vocab_size
        logprobs = array("d")
        for document in map(tuple, batch):
            for place in range(1, len(document)):
                target, p = document[place], uniform
                # The steps of `probabilities` for one token, with the same bits.
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
    """The probabilities that a decoder reads: those of `Ngram` or of the native n-gram."""

    @property
    def config(self) -> Config: ...

    @property
    def order(self) -> int: ...

    def probabilities(self, context: Gram) -> Sequence[float]:
        """Return p (V,) of each next token after `context`."""


class NgramDecoder:
    """Reads one document token by token. It keeps only the tokens that the n-gram needs."""

    def __init__(self, ngram: NextToken) -> None:
        self.ngram = ngram
        self.context: Gram = ()

    def push(self, token: int) -> list[float]:
        """Return the logits (V,) of the next token. They are log p, so that softmax returns p."""
        check_tokens([token], self.ngram.config.vocab_size)
        read = (*self.context, token)
        self.context = read[max(0, len(read) - self.ngram.order + 1) :]
        return list(map(math.log, self.ngram.probabilities(self.context)))


def train_ngram(docs: PackedBatch, vocab_size: int, order: int = 6) -> Ngram:
    """Return the n-gram of these documents.

    Samples stop at block_size, the number of targets of the longest document.

    Raises:
        ConfigError: the order is not from 1 to MAX_ORDER.
        ValueError: a token is outside the vocabulary.

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
    """Return a of each k-gram, for k from 1 to `order`. Its last token is a target.

    A k-gram with k = `order` counts as often as it occurs. A shorter one counts once for each
    different token before it, because it matters most if the longer context is unknown. So its
    number of contexts is important, and not how often it occurs. At the start of a document there
    is no longer context, and each occurrence counts.
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
    """Return (0, D(1), D(2), D(3 or more)). num_grams[j] is the number of k-grams counted j times.

        D(j) = j − (j + 1) · Y · num_grams[j + 1] / num_grams[j]
        Y = num_grams[1] / (num_grams[1] + 2 · num_grams[2])

    D(j) must be above 0 and below j. If there are too few of these k-grams, so that the formula
    does not give such a number, D(j) is half of j.
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
    """Return the order. Raises ConfigError if it is not possible."""
    return require_int("order", order, 1, MAX_ORDER)


def check_tokens(tokens: Sequence[int], vocab_size: int) -> None:
    for token in (min(tokens, default=0), max(tokens, default=0)):
        if not 0 <= token < vocab_size:
            raise ValueError(f"token {token} is outside the vocabulary of {vocab_size}")
