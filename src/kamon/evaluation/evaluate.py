"""Evaluate a model by its loss on documents it has not learned, and by its samples.

Shares are from 0 to 1, and lengths are in characters.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import compress, pairwise
from os import PathLike
from pathlib import Path
from typing import Any

from kamon.data import corpus
from kamon.data.corpus import Corpus
from kamon.data.documents import NUL
from kamon.data.graphemes import lengths_of, num_graphemes, one_code_point_each
from kamon.data.text_windows import consecutive, in_windows, stream
from kamon.errors import CorpusError, TrainingError
from kamon.evaluation.nearest import NearestDocument
from kamon.generation.blend import BlendedModel, mix_logprobs
from kamon.generation.given import GivenModel
from kamon.model import Model, as_model
from kamon.ngrams.native import best_ngram

MAX_ORDER = 6
NUM_SIMILAR = 5
NUM_UNKNOWN_SHOWN = 10
MAX_NATS = 700.0  # exp of a little more overflows


@dataclass(frozen=True)
class LossMetrics:
    """How well documents are predicted. Lower is better.

    Attributes:
        nats_per_token: the mean of −log p over all targets, including the end of each document.
        bits_per_char: bits of all tokens, including the ends, divided by the number of characters.
        perplexity: exp(nats_per_token), or None if that is too large for a float.
    """

    nats_per_token: float
    bits_per_char: float
    perplexity: float | None


@dataclass(frozen=True)
class HeldOutMetrics:
    """The losses of a model and its baselines on the same documents, which it has not learned.

    Attributes:
        num_tokens: number of targets.
        num_cut: documents that Kamon cut after block_size tokens, so they have no end.
        num_learned: documents that Kamon left out because the model has learned them.
        num_unknown, unknown_chars: documents that Kamon left out because the model has no tokens
            for these characters (sorted).
        uniform: the loss if all tokens are equally likely.
        unigram, best_ngram: losses of n-grams of the training set. They read whole documents, even
            if the model reads them in windows.
        best_order: the order of `best_ngram`, the best of 1 to MAX_ORDER on these documents. This
            choice favours the n-gram a little.
        gpt, ngram, weight, ngram_order: losses of the two parts of a blend, the weight of the GPT,
            and the order of the n-gram of the training set. All are None if there is only a GPT.
        gain: how much lower the model's loss is than that of `best_ngram`, in nats per token.
    """

    num_docs: int
    num_tokens: int
    num_chars: int
    num_cut: int
    num_learned: int
    num_unknown: int
    unknown_chars: str
    uniform: LossMetrics
    unigram: LossMetrics
    best_ngram: LossMetrics
    best_order: int
    gpt: LossMetrics | None
    ngram: LossMetrics | None
    weight: float | None
    ngram_order: int | None
    model: LossMetrics
    gain: float


@dataclass(frozen=True)
class Similar:
    """A sample that is not in the list, and the most similar document of the training set.

    Attributes:
        document: None if no document shares a character with it.
        ratio: the similarity (see `NearestDocument`).
    """

    text: str
    document: str | None
    ratio: float


@dataclass(frozen=True)
class SampleMetrics:
    """A model's samples compared with its list. Shares are of all samples.

    Attributes:
        finished: samples that the model ended within block_size tokens.
        unique: unique samples.
        novel, in_train, in_validation: samples that are not in the list, in the training set, or in
            the validation set. They add up to 1.
        length_distance: `earth_movers` of the lengths, in characters.
        bigram_divergence: `jensen_shannon` of the bigrams, in bits.
        chance_length_distance, chance_bigram_divergence: the same for as many random documents of
            the list. You cannot expect a model to do better.
        similar: the first few unique samples that are finished and novel.
    """

    num_samples: int
    temperature: float
    seed: int
    finished: float
    unique: float
    novel: float
    in_train: float
    in_validation: float
    mean_length: float
    mean_length_list: float
    length_distance: float
    chance_length_distance: float
    bigram_divergence: float
    chance_bigram_divergence: float
    similar: list[Similar]


@dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`. samples: None without samples."""

    documents: HeldOutMetrics
    samples: SampleMetrics | None


def evaluate(
    model: Model | str | Path,
    docs: Iterable[str] | str | Path | Corpus | None = None,
    *,
    n: int = 1000,
    temperature: float = 1.0,
    seed: int | None = None,
) -> Evaluation:
    """Return an evaluation of a model on its validation set and on n samples.

    Args:
        docs: other documents to test on: a list, a path or a built-in list, as in `kamon.train`.
            Kamon leaves out those that the model has learned.
        n: number of samples. Ignored for a model of text.
        temperature: temperature of the samples. 1 is the model's distribution.
        seed: seed of the samples. Default: as in training.

    Raises:
        CorpusError: no document is left to test on.
        ConfigError: n, temperature or seed is out of range.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=3)
    >>> result = evaluate(model, ["nora", "hannah"], n=10)
    >>> result.documents.num_docs, result.documents.num_learned, result.samples.num_samples
    (1, 1, 10)
    """
    model = as_model(model)
    seed = model.config.seed if seed is None else seed
    replace(model.config, temperature=temperature, seed=seed)  # raises an error also if n is 0
    learned, held_out = model.parts()
    if docs is None and model.training.corpus.packed:
        raise CorpusError(
            "the model was trained on a packed corpus and does not keep its documents",
            "give a FILE of documents to evaluate on",
        )
    if docs is None and not held_out:
        raise CorpusError(
            "the model has no validation set: it was trained on its whole list",
            "give a FILE of other documents to evaluate on",
        )
    if docs is None:
        docs = held_out
    elif isinstance(docs, Corpus):
        docs = docs.docs
    elif isinstance(docs, str | PathLike):
        composed = model.tokenizer.composed
        docs = corpus.read(docs, mode=model.config.mode, composed=composed).docs
    else:
        docs = corpus.from_docs(docs, composed=model.tokenizer.composed).docs
    chosen = select_test_set(docs, learned, model.tokenizer.unknown)
    samples = None
    if n != 0 and not model.writes_text:
        sampled = model.generate(n, temperature=temperature, seed=seed)
        finished = [size < sampled.room for size in sampled.sizes]
        samples = sample_metrics(sampled.texts, finished, learned, held_out, temperature, seed)
    return Evaluation(held_out_metrics(model, chosen, learned), samples)


@dataclass(frozen=True)
class EvaluationSet:
    """The documents to test on, and the numbers left out. See `HeldOutMetrics`."""

    docs: list[str]
    num_learned: int
    num_unknown: int
    unknown_chars: str


def select_test_set(
    docs: Iterable[str], learned: Iterable[str], unknown_of: Callable[[Iterable[str]], set[str]]
) -> EvaluationSet:
    """Return each unique document that the model has not learned and whose characters it knows.

    unknown_of: a function that returns the unknown ones of some characters.

    Raises: CorpusError if no document is left.

    >>> docs = ["bo", "anna", "bob", "bo", "ünal"]
    >>> select_test_set(docs, ["anna"], lambda chars: set(chars) - set("abno"))
    EvaluationSet(docs=['bo', 'bob'], num_learned=1, num_unknown=1, unknown_chars='lü')
    """
    seen = set(learned)
    different = list(dict.fromkeys(docs))
    new = [doc for doc in different if doc not in seen]
    unknown_chars = unknown_of(set().union(*new))
    chosen = [doc for doc in new if unknown_chars.isdisjoint(doc)]
    unknown = "".join(sorted(unknown_chars))
    if not chosen:
        why = "it has learned all of them"
        if new:
            shown = first_or_all(unknown)
            why = f"those that it has not learned have characters it does not know ({shown})"
        raise CorpusError(f"no document is left to evaluate the model on: {why}")
    return EvaluationSet(chosen, len(different) - len(new), len(new) - len(chosen), unknown)


def first_or_all(chars: str) -> str:
    """Return a description of many characters for a message, with the first of them.

    >>> first_or_all("ABCDEFGHIJKL")
    "'ABCDEFGHIJ' and 2 more"
    """
    more = len(chars) - NUM_UNKNOWN_SHOWN
    return f"{chars[:NUM_UNKNOWN_SHOWN]!r}{f' and {more:,} more' if more > 0 else ''}"


def held_out_metrics(model: Model, chosen: EvaluationSet, learned: Iterable[str]) -> HeldOutMetrics:
    # The n-gram of the saved model has counted the validation set, too.
    reader = model.blended_with(learned)
    tokenizer, block_size = model.tokenizer, model.config.block_size
    if isinstance(reader, GivenModel):
        block_size = reader.config.block_size  # without room for given values
    text = model.config.mode == "text"
    whole = text or model.config.long_documents == "windows"
    batch = tokenizer.encode_documents(chosen.docs, None if whole else block_size)
    num_cut = sum(tokens[-1] != tokenizer.bos for tokens in batch)
    code_points = tokenizer.num_chars(chosen.docs, [len(tokens) - 1 for tokens in batch])
    num_chars = sum(code_points)
    if not one_code_point_each(chosen.docs):
        read = zip(map(tokenizer.normal, chosen.docs), code_points, strict=True)
        num_chars = sum(num_graphemes(doc[:size]) for doc, size in read)
    seen = batch  # what the model reads, as in training
    if text:
        seen = consecutive(stream(batch), block_size)
    elif whole:
        seen = in_windows(batch, block_size, random.Random(0))

    def measured(nats: float) -> LossMetrics:
        return loss_metrics(nats, batch.num_targets, num_chars)

    gpt = part = weight = order = None
    if isinstance(reader, BlendedModel):
        parts = reader.logprobs_of_parts(seen)
        gpt, part = (measured(-math.fsum(logprobs)) for logprobs in parts)
        weight, order = reader.weight, reader.ngram.order
        nats = -math.fsum(mix_logprobs(*parts, weight))
    else:
        nats = -math.fsum(reader.logprobs(seen))
    if not math.isfinite(nats):
        raise TrainingError(
            "the probabilities of the model are not finite",
            "train it again with a smaller learning_rate",
        )
    ngram, grams = best_ngram(
        tokenizer.encode_documents(learned), batch, tokenizer.vocab_size, MAX_ORDER
    )
    best = min(grams)
    return HeldOutMetrics(
        num_docs=len(batch),
        num_tokens=batch.num_targets,
        num_chars=num_chars,
        num_cut=num_cut,
        num_learned=chosen.num_learned,
        num_unknown=chosen.num_unknown,
        unknown_chars=chosen.unknown_chars,
        uniform=measured(batch.num_targets * math.log(tokenizer.vocab_size)),
        unigram=measured(grams[0]),
        best_ngram=measured(best),
        best_order=ngram.order,
        gpt=gpt,
        ngram=part,
        weight=weight,
        ngram_order=order,
        model=measured(nats),
        gain=(best - nats) / batch.num_targets,
    )


def loss_metrics(nats: float, num_tokens: int, num_chars: int) -> LossMetrics:
    """Return the metrics of a total loss of `nats`.

    >>> loss_metrics(6 * math.log(4), num_tokens=6, num_chars=4)  # a token is one of four
    LossMetrics(nats_per_token=1.3862943611198906, bits_per_char=3.0, perplexity=4.0)
    """
    mean = nats / num_tokens
    perplexity = math.exp(mean) if mean < MAX_NATS else None
    return LossMetrics(mean, nats / math.log(2) / num_chars, perplexity)


def sample_metrics(
    texts: Sequence[str],
    finished: Sequence[bool],
    learned: Sequence[str],
    held_out: Sequence[str],
    temperature: float,
    seed: int,
) -> SampleMetrics:
    """Return the metrics of one or more samples. finished: True if the model ended it."""
    docs = [*learned, *held_out]
    in_learned, in_held_out = set(learned), set(held_out)
    in_list = in_learned | in_held_out
    ended = list(compress(texts, finished))
    unended = [text for text, end in zip(texts, finished, strict=True) if not end]
    known = sum(text in in_learned for text in texts)
    known_held_out = sum(text in in_held_out for text in texts)
    new = [text for text in dict.fromkeys(ended) if text not in in_list]
    drawn = random.Random(seed).choices(docs, k=len(texts))
    sizes, drawn_sizes = lengths_of(texts), lengths_of(drawn)
    lengths, pairs = Counter(lengths_of(docs)), bigrams(docs)
    shown = new[:NUM_SIMILAR]
    nearest = zip(shown, map(NearestDocument(learned), shown), strict=True)
    return SampleMetrics(
        num_samples=len(texts),
        temperature=temperature,
        seed=seed,
        finished=len(ended) / len(texts),
        unique=len(set(texts)) / len(texts),
        novel=(len(texts) - known - known_held_out) / len(texts),
        in_train=known / len(texts),
        in_validation=known_held_out / len(texts),
        mean_length=sum(sizes) / len(texts),
        mean_length_list=sum(lengths.elements()) / len(docs),
        length_distance=earth_movers(Counter(sizes), lengths),
        chance_length_distance=earth_movers(Counter(drawn_sizes), lengths),
        bigram_divergence=jensen_shannon(bigrams(ended, unended), pairs),
        chance_bigram_divergence=jensen_shannon(bigrams(drawn), pairs),
        similar=[Similar(text, doc or None, ratio) for text, (doc, ratio) in nearest],
    )


def bigrams(docs: Iterable[str], unended: Iterable[str] = ()) -> Counter[tuple[str, str]]:
    """Return how often each pair of adjacent characters occurs. NUL is at both ends of a document.

    unended: documents without NUL at their end.

    >>> sorted(bigrams(["ab", "b"]).elements())
    [('\\x00', 'a'), ('\\x00', 'b'), ('a', 'b'), ('b', '\\x00'), ('b', '\\x00')]
    """
    text = NUL + "".join([doc + NUL for doc in docs])  # the end of one document begins the next
    counts = Counter(pairwise(text))
    for doc in unended:
        counts.update(pairwise(NUL + doc))
    return counts


def earth_movers(p: Counter[int], q: Counter[int]) -> float:
    """Return how much the values in `p` must change, on average, to be distributed as in `q`.

    This is the earth mover's or first Wasserstein distance, ∫ |P(x) − Q(x)| dx. P(x) and Q(x) are
    the shares of the values up to x. It is symmetric, has the unit of the values, and is 0 for
    equal shares. Neither counter may be empty.

    >>> earth_movers(Counter([3, 5]), Counter([4, 8]))  # 3 to 4, 5 to 8
    2.0
    """
    num_p, num_q = p.total(), q.total()
    up_to_p = up_to_q = moved = 0
    for value, following in pairwise(sorted(p.keys() | q.keys())):
        up_to_p += p[value]
        up_to_q += q[value]
        moved += abs(up_to_p * num_q - up_to_q * num_p) * (following - value)
    return moved / (num_p * num_q)


def jensen_shannon(p: Counter[Any], q: Counter[Any]) -> float:
    """Return how different two distributions are: 0 bits if equal, 1 bit if they share nothing.

    This is ½ Σ P log2(P / M) + ½ Σ Q log2(Q / M). P and Q are the shares in `p` and `q`, and M is
    the mean of the two. It is symmetric. Neither counter may be empty.

    >>> jensen_shannon(Counter("ab"), Counter("ab")), jensen_shannon(Counter("ab"), Counter("c"))
    (0.0, 1.0)
    """
    num_p, num_q = p.total(), q.total()
    terms = []
    for key in p.keys() | q.keys():
        share_p, share_q = p[key] / num_p, q[key] / num_q
        mean = (share_p + share_q) / 2
        terms += [share * math.log2(share / mean) for share in (share_p, share_q) if share]
    return min(1.0, max(0.0, math.fsum(terms) / 2))  # rounding errors may exceed the limits
