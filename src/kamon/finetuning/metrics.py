"""Compare a fine-tuned model with its base: KL, win rate, uniqueness, reward hacking."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Container, Sequence
from itertools import pairwise

from kamon.data.documents import Documents
from kamon.data.graphemes import lengths_of
from kamon.engines.base import Engine
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.engines.numerics import mean, mean_and_error, sequential_sum
from kamon.generation.sampling import SampleRequest, sample
from kamon.model import Model
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompt_tokens

Z_95 = 1.959963984540054  # two-sided 95% quantile of the normal distribution
# Limits of `detect_reward_hacking`:
MIN_UNIQUE = 0.9  # times the base's uniqueness
MIN_LENGTH, MAX_LENGTH = 2 / 3, 3 / 2  # times the base's mean length
MIN_SUCCESS = 10  # compare only samples that satisfy the rule if both models have this many
MAX_REPEATED_SHARE = 0.1  # how much the share of the most frequent sample may exceed the base's


def draw_documents(
    engine: Engine, tokenizer: Tokenizer, n: int, seed: int, first: int, prefix: tuple[int, ...]
) -> tuple[list[str], PackedBatch]:
    """Return n samples at temperature 1, from number `first` on, as `Model.sample` does.

    They contain no special tokens.

    prefix: tokens of the prompt.

    Returns: the texts, and the documents with BOS, the prompt, and BOS at the end. A document that
        fills block_size has no BOS at the end.
    """
    bos, block_size = tokenizer.bos, engine.config.block_size
    special = frozenset(tokenizer.special.values()) - {bos}
    drawn = sample(engine, SampleRequest(n, 1.0, seed, bos, first, prefix, special))
    whole = pack_sequences([bos, *prefix, *tokens, bos][: block_size + 1] for tokens in drawn)
    return tokenizer.decode_documents(drawn), whole


def sampled_kl(
    tuned: Model, base: Model, n: int, seed: int, prompt: str | None = None
) -> tuple[float, float]:
    """Return an estimate of KL(tuned ‖ base) in nats per document, and its standard error.

    The estimate is the mean of log p(x) − log p_base(x) over n samples x of `tuned` at temperature
    1. It has no bias, so it may be below 0 if the models are nearly equal. Samples contain no
    special tokens, and the prompt's own tokens do not count.
    """
    prefix = () if prompt is None else prompt_tokens(tuned.tokenizer, prompt)
    _, batch = draw_documents(tuned.engine, tuned.tokenizer, n, seed, 0, prefix)
    return mean_and_error(kl_per_document(tuned.engine, base.engine, batch, len(prefix)))


def kl_per_document(
    engine: Engine, reference: Engine, batch: PackedBatch, skip: int
) -> list[float]:
    """Return log p − log p_base of each document in nats, without its first `skip` targets.

    If the documents are samples of the engine, the mean is an estimate of the KL.
    """
    own, other = (answers_logprobs(each, batch, skip) for each in (engine, reference))
    return [p - q for p, q in zip(own, other, strict=True)]


def answers_logprobs(engine: Engine, batch: PackedBatch, skip: int) -> Sequence[float]:
    """Return log p of each document in nats, without its first `skip` targets."""
    if not skip:
        return document_logprobs(engine, batch)[0]
    logprobs = engine.logprobs(batch)
    ends = [end - d for d, end in enumerate(batch.offsets)]  # one target fewer than tokens
    return [sequential_sum(logprobs[begin + skip : end]) for begin, end in pairwise(ends)]


def wilson(successes: float, n: int) -> tuple[float, float]:
    """Return the 95% confidence interval of a rate, from `successes` in n trials.

    Source: Wilson 1927, doi:10.2307/2276774.

    >>> low, high = wilson(8, 10)
    >>> round(low, 4), round(high, 4)
    (0.4902, 0.9433)
    """
    if not n:
        return 0.0, 1.0
    rate, z2 = successes / n, Z_95 * Z_95 / n
    middle = rate + z2 / 2
    half = Z_95 * math.sqrt(rate * (1 - rate) / n + z2 / (4 * n))
    return max(0.0, (middle - half) / (1 + z2)), min(1.0, (middle + half) / (1 + z2))


def win_rate(
    rewards: Sequence[float | None], base_rewards: Sequence[float | None]
) -> tuple[float, tuple[float, float]] | None:
    """Return (win rate over the base, its 95% interval), as all commands define it.

    Kamon compares sample i of the model with sample i of the base. The model's win rate is the
    share of these pairs that its sample wins with a larger reward. Ties count as half. Pairs with a
    reward of None are left out. The result is None if no pair remains.
    Raises: ValueError if the lengths differ.

    >>> rate, interval = win_rate([1.0, 0.0, 1.0, None], [0.0, 0.0, 1.0, 1.0])
    >>> round(rate, 4)
    0.6667
    """
    pairs = zip(rewards, base_rewards, strict=True)
    wins = [(a > b) + (a == b) / 2 for a, b in pairs if a is not None and b is not None]
    won = sequential_sum(wins)
    return (won / len(wins), wilson(won, len(wins))) if wins else None


def uniqueness(texts: Sequence[str]) -> float:
    """Return the share of unique texts, which is 1 without duplicates.

    >>> uniqueness(["anna", "bo", "anna", "lea"])
    0.75
    """
    return len(set(texts)) / max(1, len(texts))


def novelty(texts: Sequence[str], docs: Documents | Collection[str]) -> float:
    """Return the share of texts that are not in `docs`.

    >>> novelty(["anna", "bo", "anna", "lea"], ["anna"])
    0.5
    """
    known = docs.intersection(texts) if isinstance(docs, Documents) else set(docs)
    return sum(text not in known for text in texts) / max(1, len(texts))


def detect_reward_hacking(
    texts: Sequence[str], base_texts: Sequence[str], wanted: Container[str] | None = None
) -> list[str]:
    """Return a sentence for each sign of reward hacking.

    The signs are samples that repeat themselves, and samples that are much shorter or longer than
    the base's.

    wanted: texts that satisfy the rule. If given, Kamon compares only these, the same number from
        each model, because a change that the rule asks for is not a sign of reward hacking.

    >>> detect_reward_hacking(["anna"] * 10, ["anna", "bo", "lea", "ida", "mia"] * 2)[0]
    'samples repeat themselves: 10% are unique, 50% for the base'
    """
    if wanted is not None:
        own, other = ([t for t in some if t in wanted] for some in (texts, base_texts))
        if min(len(own), len(other)) >= MIN_SUCCESS:
            n = min(len(own), len(other))
            texts, base_texts = own[:n], other[:n]
    if not texts or not base_texts:
        return []
    signs = []
    now, before = uniqueness(texts), uniqueness(base_texts)
    if now < MIN_UNIQUE * before:
        signs.append(f"samples repeat themselves: {now:.0%} are unique, {before:.0%} for the base")
    often, text = most_frequent(texts)
    if often > most_frequent(base_texts)[0] + MAX_REPEATED_SHARE:
        signs.append(f"{often:.0%} of the samples are {text!r:.60}")
    length, base_length = (mean(lengths_of(some)) for some in (texts, base_texts))
    if not MIN_LENGTH * base_length <= length <= MAX_LENGTH * base_length:
        change = "shorter" if length < base_length else "longer"
        signs.append(
            f"samples became {change}: {length:.1f} characters on average, "
            f"{base_length:.1f} for the base"
        )
    return signs


def most_frequent(texts: Sequence[str]) -> tuple[float, str]:
    """Return the share of the most frequent text, and that text."""
    [(text, times)] = Counter(texts).most_common(1)
    return times / len(texts), text
