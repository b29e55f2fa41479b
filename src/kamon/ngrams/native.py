"""The n-grams of `kamon.ngrams.reference`, counted and looked up in C++ with the same results.

One count serves all lower orders too, because they use the same counts except for their longest
k-grams. If the native engine is not built, `kamon.ngrams.reference` does the work.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from kamon.config import Config
from kamon.engines import native
from kamon.engines.batch import PackedBatch
from kamon.engines.native import NativeEngine, NgramArrays, NgramTable
from kamon.native import library
from kamon.native.library import WRONG_OFFSETS, address, raise_for
from kamon.ngrams.reference import (
    Ngram,
    NgramDecoder,
    check_tokens,
    checked_order,
    discounts,
    train_ngram,
)

MAX_TOKENS_PER_CALL = 1 << 17  # because no signal can interrupt a call


@dataclass(frozen=True, eq=False)
class NativeNgram:
    """The same as `kamon.ngrams.reference.Ngram`. `counts` have its order or a higher one."""

    config: Config
    order: int
    counts: Counts = field(repr=False)

    def probabilities(self, context: Sequence[int]) -> list[float]:
        """Return the same as `Ngram.probabilities`."""
        vocab_size = self.counts.vocab_size
        check_tokens(context, vocab_size)
        read = array("i", context[max(0, len(context) - self.order + 1) :])
        found = library.zeros(vocab_size)
        error = library.exact("ngram_probabilities")(
            *(self.counts.handle, self.order, address(read), len(read)),
            address(found),
        )
        check_documents(error, vocab_size)
        return found.tolist()

    def logprobs(self, batch: PackedBatch) -> array[float]:
        """Return the same as `Ngram.logprobs`."""
        return self.counts.logprobs(batch, self.order, self.order)[0]

    def logprobs_of_orders(self, batch: PackedBatch) -> list[array[float]]:
        """Return the `logprobs` of the n-grams of order 1, 2 … `order` from the same counts."""
        return self.counts.logprobs(batch, 1, self.order)

    def of_order(self, order: int) -> NativeNgram:
        """Return the n-gram of this order from the same counts. It must not be a higher order."""
        if not 1 <= order <= self.order:
            raise ValueError(f"order {order} is not from 1 to {self.order}")
        return replace(self, order=order)

    def decoder(self) -> NgramDecoder:
        """Return a decoder at the start of a document."""
        return NgramDecoder(self)

    def mix(self, logits: Sequence[float], context: array[int], weight: float) -> array[float]:
        """Return log(weight · softmax(logits) + (1 − weight) · p) of each token after `context`."""
        if len(logits) != self.counts.vocab_size:
            raise ValueError(f"{len(logits)} logits for a vocabulary of {self.counts.vocab_size}")
        mixed = array("d", logits)
        error = library.exact("mix_logits")(
            *(self.counts.handle, self.order, address(context, "i"), len(context)),
            *(weight, address(mixed)),
        )
        check_documents(error, self.counts.vocab_size)
        return mixed

    def sort(self) -> None:
        """Make many calls of `probabilities` and `mix_probabilities` faster."""
        raise_for(library.exact("ngram_sort")(self.counts.handle))

    def mix_probabilities(
        self, row: array[float], context: array[int], weight: float
    ) -> array[float]:
        """Return weight · row + (1 − weight) · p of each token after `context`, in `row`."""
        if len(row) != self.counts.vocab_size:
            raise ValueError(f"{len(row)} probabilities for {self.counts.vocab_size} tokens")
        error = library.exact("mix_probabilities")(
            *(self.counts.handle, self.order, address(context, "i"), len(context)),
            *(weight, address(row, "d")),
        )
        check_documents(error, self.counts.vocab_size)
        return row

    def table(self, engine: NativeEngine) -> NgramTable:
        """Return the n-gram in the memory of the engine's library, made once for each library."""
        found = self._tables.get(id(engine.call))
        if found is None:
            found = NgramTable(engine, self.arrays(), self.counts.vocab_size)
            self._tables[id(engine.call)] = found
        return found

    @cached_property
    def _tables(self) -> dict[int, NgramTable]:
        return {}

    def __reduce__(self) -> tuple[type[NativeNgram], tuple[Config, int, Counts]]:
        return NativeNgram, (self.config, self.order, self.counts)  # a table cannot be copied

    def arrays(self) -> NgramArrays:
        """Return a copy of the n-gram as arrays, for `kamon.engines.native.NgramTable`."""
        sizes = array("q", [0, 0])
        raise_for(library.exact("ngram_sizes")(self.counts.handle, self.order, address(sizes)))
        arrays = NgramArrays.zeros(*sizes)
        tabulate = library.exact("ngram_tabulate")
        raise_for(tabulate(self.counts.handle, self.order, *arrays.arguments()))
        return arrays


class Counts:
    """The counts in C++. `longest` is the number of tokens of the longest document."""

    def __init__(self, docs: PackedBatch, vocab_size: int, order: int) -> None:
        self.made_of = docs, vocab_size, order
        self.vocab_size = vocab_size
        self.destroy = library.exact("ngram_destroy")
        self.handle = library.exact("ngram_create")(vocab_size, order)
        if not self.handle:
            raise MemoryError
        arguments = native.batch_arguments(docs)[:3]
        for first, last in pieces(docs):
            error = library.exact("ngram_add")(self.handle, *arguments, first, last)
            check_documents(error, vocab_size, docs)
        num_grams = array("q", bytes(8 * 2 * 5 * order))
        self.longest: int = library.exact("ngram_tally")(self.handle, address(num_grams))
        found = array("d")
        for begin in range(0, len(num_grams), 5):
            found.extend(discounts(Counter(dict(enumerate(num_grams[begin : begin + 5])))))
        check_documents(library.exact("ngram_finish")(self.handle, address(found)), vocab_size)

    def __del__(self) -> None:
        if getattr(self, "handle", None):
            self.destroy(self.handle)

    def __reduce__(self) -> tuple[type[Counts], tuple[PackedBatch, int, int]]:
        return Counts, self.made_of

    def logprobs(self, batch: PackedBatch, low: int, high: int) -> list[array[float]]:
        """Return log p in nats of every target, for the orders low … high."""
        arguments = native.batch_arguments(batch)[:3]
        stride = len(batch.tokens) + 1  # more than the number of targets, even for 0
        out = library.zeros(stride * (high - low + 1))
        done = 0
        for first, last in pieces(batch):
            found = library.exact("ngram_logprobs")(
                *(self.handle, low, high, *arguments, first, last),
                *(address(out, "d", done), stride),
            )
            check_documents(-found, self.vocab_size, batch)
            done += found
        return [out[begin : begin + done] for begin in range(0, len(out), stride)]


def pieces(docs: PackedBatch) -> Iterator[tuple[int, int]]:
    """Yield (first, last) for pieces of the documents, each with documents first … last − 1.

    Only a piece of a single document has more than MAX_TOKENS_PER_CALL tokens.
    """
    if docs.offsets[0] != 0 or docs.offsets[-1] != len(docs.tokens):
        raise ValueError(WRONG_OFFSETS)
    last = 0
    while last < len(docs):
        first = last
        last = bisect_right(docs.offsets, docs.offsets[first] + MAX_TOKENS_PER_CALL) - 1
        last = max(last, first + 1)
        yield first, last


def check_documents(error: int, vocab_size: int, docs: PackedBatch | None = None) -> None:
    """Raise the exception for an Error of errors.hpp."""
    if error == 2 and docs is not None:
        check_tokens(docs.tokens, vocab_size)
    raise_for(error, vocab_size)


def count_ngram(docs: PackedBatch, vocab_size: int, order: int = 6) -> Ngram | NativeNgram:
    """Return the result of `train_ngram`, in C++ if that is built. The errors are the same.

    >>> from kamon.engines.batch import pack_sequences
    >>> ngram = count_ngram(pack_sequences([[2, 0, 1, 2], [2, 0, 2]]), vocab_size=3, order=2)
    >>> [round(p, 3) for p in ngram.probabilities([2])]
    [0.646, 0.146, 0.208]
    """
    train = train_ngram if library.why_not() else native_ngram
    return train(docs, vocab_size, order)


def native_ngram(docs: PackedBatch, vocab_size: int, order: int) -> NativeNgram:
    order = checked_order(order)
    config = Config(vocab_size=vocab_size)  # raises an error if the size is not possible
    counts = Counts(docs, vocab_size, order)
    return NativeNgram(replace(config, block_size=max(1, counts.longest - 1)), order, counts)


def best_ngram(
    learned: PackedBatch, tested: PackedBatch, vocab_size: int, max_order: int
) -> tuple[Ngram | NativeNgram, list[float]]:
    """Return the n-gram of order 1, 2 … max_order with the fewest nats on the tested documents.

    Of equal ones, it has the lowest order. Also return the total nats for each order. The errors
    are those of `train_ngram`.
    """
    max_order = checked_order(max_order)
    if library.why_not():
        nats = []
        for order in range(1, max_order + 1):
            trained = train_ngram(learned, vocab_size, order)
            nats.append(-math.fsum(trained.logprobs(tested)))
            if nats.index(min(nats)) + 1 == order:
                best = trained  # so only two are in memory at a time
        return best, nats
    ngram = native_ngram(learned, vocab_size, max_order)
    nats = [-math.fsum(logprobs) for logprobs in ngram.logprobs_of_orders(tested)]
    return ngram.of_order(nats.index(min(nats)) + 1), nats
