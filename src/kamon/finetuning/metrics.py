"""How far and how well a tuned model has moved from its base."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Sequence
from itertools import pairwise

from kamon.data.documents import Documents
from kamon.engines.base import Engine
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.engines.numerics import mean, mean_and_error, sequential_sum
from kamon.generation.sampling import SampleRequest, sample
from kamon.model import Model
from kamon.tokenizers.prompts import prompt_tokens

Z_95 = 1.959963984540054  # of the normal distribution, for 95 %
MIN_UNIQUE = 0.9  # of the base model's share of different samples
MIN_LENGTH, MAX_LENGTH = 2 / 3, 3 / 2  # of the base model's mean length
MIN_SUCCESS = 10  # samples that fulfil a rule, to compare only those
MAX_REPEATED_SHARE = 0.1  # of the samples are the same one, more than the base model's


def sample_batch(model: Model, n: int, seed: int, prompt: str | None = None) -> PackedBatch:
    """n documents at temperature 1 as the model would read them: BOS, prompt, tokens, and BOS but
    where the model did not end one within block_size."""
    tokenizer = model.tokenizer
    before = () if prompt is None else prompt_tokens(tokenizer, prompt)
    excluded = frozenset(tokenizer.special.values()) - {tokenizer.bos}
    request = SampleRequest(n, 1.0, seed, tokenizer.bos, prompt_tokens=before, excluded=excluded)
    most, bos = model.config.block_size + 1, tokenizer.bos
    return pack_sequences(
        [bos, *before, *tokens, bos][:most] for tokens in sample(model.engine, request)
    )


def sampled_kl(
    tuned: Model, base: Model, n: int, seed: int, prompt: str | None = None
) -> tuple[float, float]:
    """(mean, standard error) of KL(tuned ‖ base) in nats per document, from n samples of `tuned`.

    The mean of log p(x) − log p_base(x), without bias: so it may fall below 0 where both are nearly
    the same. Samples are drawn at temperature 1, of which alone this is the KL; special tokens but
    the end are not drawn. What a prompt costs is the same text in both, and no part of it.
    """
    batch = sample_batch(tuned, n, seed, prompt)
    skip = 0 if prompt is None else len(prompt_tokens(tuned.tokenizer, prompt))
    own, other = (answers_logprobs(model.engine, batch, skip) for model in (tuned, base))
    differences = [p - q for p, q in zip(own, other, strict=True)]
    return mean_and_error(differences)


def answers_logprobs(engine: Engine, batch: PackedBatch, skip: int) -> Sequence[float]:
    """log p of each document, its first `skip` targets left out."""
    if not skip:
        return document_logprobs(engine, batch)[0]
    logprobs = engine.logprobs(batch)
    ends = [place - d for d, place in enumerate(batch.offsets)]  # a target fewer than tokens
    return [sequential_sum(logprobs[begin + skip : end]) for begin, end in pairwise(ends)]


def wilson(successes: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a rate of `successes` in n trials.

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
    """(win rate over the base, its 95 % interval): the one definition that every command uses.

    Sample i of the model is compared with sample i of the base. The win rate is the share of these
    pairs in which the model's sample has the larger reward. Ties count as half. A pair of which a
    reward is None, because nobody can judge it, is left out; None where no pair is left. ValueError
    where there are not as many of one as of the other.

    >>> rate, interval = win_rate([1.0, 0.0, 1.0, None], [0.0, 0.0, 1.0, 1.0])
    >>> round(rate, 4)
    0.6667
    """
    pairs = zip(rewards, base_rewards, strict=True)
    wins = [(a > b) + (a == b) / 2 for a, b in pairs if a is not None and b is not None]
    won = sequential_sum(wins)
    return (won / len(wins), wilson(won, len(wins))) if wins else None


def uniqueness(texts: Sequence[str]) -> float:
    """The share of different ones: 1 where none comes twice.

    >>> uniqueness(["anna", "bo", "anna", "lea"])
    0.75
    """
    return len(set(texts)) / max(1, len(texts))


def novelty(texts: Sequence[str], docs: Documents | Collection[str]) -> float:
    """The share that is not in `docs`, the list that was learned.

    >>> novelty(["anna", "bo", "anna", "lea"], ["anna"])
    0.5
    """
    known = docs.intersection(texts) if isinstance(docs, Documents) else set(docs)
    return sum(text not in known for text in texts) / max(1, len(texts))


def detect_reward_hacking(
    texts: Sequence[str], base_texts: Sequence[str], wanted: Container[str] | None = None
) -> list[str]:
    """A sentence for each sign that a reward was hacked: samples that repeat themselves, or have
    quite another length than those of the base model. None if there is none, or no samples.

    wanted: the texts that fulfil the rule of the reward. Then only samples that fulfil it are
    compared, as many of the one model as of the other: what the rule itself asks for is no sign.

    >>> detect_reward_hacking(["anna"] * 10, ["anna", "bo", "lea", "ida", "mia"] * 2)[0]
    'samples repeat themselves: 10% of them are different, 50% of the base model’s'
    """
    if wanted is not None:
        own, other = ([t for t in some if t in wanted] for some in (texts, base_texts))
        if min(len(own), len(other)) >= MIN_SUCCESS:
            n = min(len(own), len(other))
            texts, base_texts = own[:n], other[:n]
    if not texts or not base_texts:
        return []
    found = []
    now, before = uniqueness(texts), uniqueness(base_texts)
    if now < MIN_UNIQUE * before:
        found.append(
            f"samples repeat themselves: {now:.0%} of them are different, "
            f"{before:.0%} of the base model’s"
        )
    often, text = most_frequent(texts)
    if often > most_frequent(base_texts)[0] + MAX_REPEATED_SHARE:
        found.append(f"{often:.0%} of the samples are {text!r:.60}")
    length, usual = (mean(list(map(len, some))) for some in (texts, base_texts))
    if not MIN_LENGTH * usual <= length <= MAX_LENGTH * usual:
        found.append(
            f"samples became {'shorter' if length < usual else 'longer'}: {length:.1f} characters "
            f"in the mean, {usual:.1f} of the base model’s"
        )
    return found


def most_frequent(texts: Sequence[str]) -> tuple[float, str]:
    """The largest share that one text has, and that text."""
    from collections import Counter

    [(text, times)] = Counter(texts).most_common(1)
    return times / len(texts), text
