"""Compare fine-tuned models with their base: the KL, the reward gained, and the loss it cost.

Kamon measures everything at temperature 1, the model's own distribution. Documents without a prompt
have no special tokens. So Kamon removes these tokens from the model first (`plain`), and their
probability adds nothing to the KL. With a prompt, samples, KL and rewards are of answers to it, and
the models keep their special tokens. Shares are from 0 to 1, lengths in characters.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress, islice
from pathlib import Path

from kamon.config import require_int
from kamon.data.graphemes import lengths_of
from kamon.engines.base import has_fused_ops, initial_state
from kamon.engines.factory import best_engine, make_engine
from kamon.engines.numerics import mean, mean_and_error, variance
from kamon.engines.parameters import parameter_shapes
from kamon.errors import ConfigError
from kamon.evaluation import nearest
from kamon.finetuning.metrics import detect_reward_hacking, novelty, uniqueness, win_rate
from kamon.finetuning.reward_model import check_prompt, reward_of
from kamon.model import Model, as_model
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.prompts import knows_prompts, prompt_prefix

# Returns the reward of each text, or None for a text that it cannot judge.
RewardFunction = Callable[[Sequence[str]], Sequence[float | None]]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
INFINITE = "the base cannot read its samples, or gives one no probability"
MAX_EVAL_DOCS = 20_000  # documents of the list that the loss is measured on
MAX_EVAL_DOCS_SLOW = 500  # the same for an engine without fused calls


@dataclass(frozen=True)
class Summary:
    """The distribution of n rewards: mean, sample standard deviation, and QUANTILES."""

    n: int
    mean: float
    deviation: float
    quantiles: list[float]


@dataclass(frozen=True)
class ModelMetrics:
    """The measurements of one model against its base. The base has a KL of 0 and a win rate of ½.

    Attributes:
        samples: sample i of every model uses the same random numbers.
        unique, novel: shares of unique samples, and of those that are not in the base's list.
        finished: share of samples that the model ended within its block_size.
        mean_length: the mean length of the samples.
        kl: KL(model ‖ base) in nats per document. It is the mean of log p(text) − log p_base(text)
            over the num_read samples that both models can read, minus the log of their share. Each
            model uses its own tokens for a text.
        kl_error: the standard error of the KL.
        rewards: the rewards of the samples that the judge can read.
        win_rate, win_interval: see `metrics.win_rate`. Without a judge, these and rewards are None.
        loss, base_loss: loss of the model and of the base on num_docs documents of the base's list
            that both can read, in nats per token of the base.
        notes: warnings about these figures, one sentence each.
    """

    name: str
    samples: list[str]
    unique: float
    novel: float
    finished: float
    mean_length: float
    kl: float
    kl_error: float
    num_read: int
    rewards: Summary | None
    win_rate: float | None
    win_interval: tuple[float, float] | None
    loss: float | None
    base_loss: float | None
    num_docs: int
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """The measurements of the base and of the fine-tuned models.

    Attributes:
        n, seed: the number of samples per model, and their seed.
        held_out: True if the losses are of the base's validation set.
        in_list: samples that are in the base's list.
        prompt: the prompt that the samples answer.
    """

    base: ModelMetrics
    tuned: list[ModelMetrics]
    n: int
    seed: int
    held_out: bool
    in_list: set[str]
    prompt: str | None = None

    @property
    def all(self) -> list[ModelMetrics]:
        return [self.base, *self.tuned]


def compare(
    base: Model | str | Path,
    tuned: Mapping[str, Model | str | Path],
    *,
    n: int = 1000,
    seed: int | None = None,
    judge: RewardFunction | None = None,
    prompt: str | None = None,
    name: str = "base",
) -> Comparison:
    """Return a comparison of fine-tuned models with their base.

    Kamon measures n samples of each model, and the loss on the base's list. Fine-tuning changes
    only the GPT of a model, so Kamon leaves out the n-gram of a blend.

    Args:
        base: a model, or its directory.
        tuned: models or their directories, by name.
        seed: the seed of the samples. Default: the base's.
        judge: returns a reward for each text, or None for a text that it cannot judge.
        prompt: the prompt that the samples answer.
        name: the name of the base in the result.

    Raises: ConfigError for a model of running text or a reward model, and for n below 2. With a
        prompt, also for a model that knows no prompts.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
    >>> result = compare(model, {"same": model}, n=10, judge=lambda texts: [len(t) for t in texts])
    >>> result.tuned[0].kl, result.tuned[0].win_rate
    (0.0, 0.5)
    """
    n = require_int("the number of samples to compare", n, 2)
    if not isinstance(tuned, Mapping):
        raise ConfigError(f"tuned must map names to models, not {tuned!r:.80}")
    base = as_model(base, "the base")
    models = {label: as_model(model, label) for label, model in tuned.items()}
    for label, model in [(name, base), *models.items()]:
        check_makes_documents(label, model)
        if prompt is not None and not knows_prompts(model.tokenizer):
            raise ConfigError(f"{label} knows no prompts", "train one that does with `kamon sft`")
    seed = base.config.seed if seed is None else seed
    tested = [
        ModelUnderTest.of(label, model, n, seed, judge, prompt)
        for label, model in [(name, base), *models.items()]
    ]
    learned, held_out = base.parts()
    docs = held_out or learned
    max_docs = MAX_EVAL_DOCS if has_fused_ops(base.engine) else MAX_EVAL_DOCS_SLOW
    some, listed = list(islice(docs, max_docs)), set(base.docs)
    measured = [compare_to_base(tested[0], model, listed, some) for model in tested]
    return Comparison(
        base=measured[0],
        tuned=measured[1:],
        n=n,
        seed=seed,
        held_out=bool(held_out),
        in_list={text for model in measured for text in model.samples} & listed,
        prompt=prompt,
    )


def check_makes_documents(name: str, model: Model) -> None:
    if model.writes_text:
        raise ConfigError(
            f"{name} was trained on one long text, and only models of lists can be compared"
        )
    if model.training.kind == "reward":
        raise ConfigError(f"{name} is a reward model, which cannot generate", "use it as the judge")


@dataclass(frozen=True)
class ModelUnderTest:
    """A model with its samples and their rewards.

    Attributes:
        plain: the model without special tokens. Without a prompt, the samples come from it.
        finished: share of samples that the model ended within its block_size.
        blended: True if the model was given with an n-gram, which Kamon leaves out.
    """

    name: str
    plain: Model
    model: Model
    prompt: str | None
    texts: list[str]
    finished: float
    rewards: Sequence[float | None] | None
    blended: bool = False

    @classmethod
    def of(
        cls,
        name: str,
        model: Model,
        n: int,
        seed: int,
        judge: RewardFunction | None,
        prompt: str | None,
    ) -> ModelUnderTest:
        without_specials = plain(model.without_blend())
        gpt = without_specials if prompt is None else model.without_blend()
        samples = gpt.generate(n, temperature=1.0, seed=seed, prompt=prompt)
        finished = sum(size < samples.room for size in samples.sizes) / n
        rewards = judge(samples.texts) if judge else None
        return cls(
            name,
            without_specials,
            gpt,
            prompt,
            samples.texts,
            finished,
            rewards,
            blended=model.training.blend is not None,
        )


def plain(model: Model) -> Model:
    """Return the model without special tokens other than BOS.

    The probabilities of the other tokens keep their proportions. The new model uses the best
    engine, with the same dtype.
    """
    tokenizer = model.tokenizer
    dropped = set(tokenizer.special.values()) - {tokenizer.bos}
    if not dropped:
        return model
    made: Tokenizer
    if isinstance(tokenizer, CharTokenizer):
        added = [char for char in tokenizer.added if len(char) == 1]
        clusters = tokenizer.clusters.all if tokenizer.clusters else ()
        made = CharTokenizer(tokenizer.chars, added, composed=tokenizer.composed, clusters=clusters)
    else:
        assert isinstance(tokenizer, BytePairTokenizer)
        made = BytePairTokenizer(
            tokenizer.merges, composed=tokenizer.composed, version=tokenizer.version
        )
    params = model.engine.state()["params"]
    kept, first = array("d"), 0
    for name, (n_out, n_in) in parameter_shapes(model.config).items():
        for row in range(n_out):
            if name not in ("wte", "lm_head") or row not in dropped:
                kept.extend(params[first : first + n_in])
            first += n_in
    config = replace(model.config, vocab_size=made.vocab_size)
    name = best_engine()
    exact = name == "scalar" or model.engine.dtype == "float64"
    engine = make_engine(name, config, dtype="float64" if exact else "float32")
    engine.load(initial_state(kept))
    return replace(model, config=config, tokenizer=made, engine=engine)


# ---- one model against the base


def compare_to_base(
    base: ModelUnderTest, other: ModelUnderTest, listed: set[str], docs: list[str]
) -> ModelMetrics:
    """Return the measurements of one model.

    listed: the base's list. docs: the documents to measure the loss on.
    """
    n, prompt = len(other.texts), other.prompt
    read = readable(base.model, other.model, other.texts, prompt)
    texts = list(compress(other.texts, read))
    kl, error = math.inf, math.inf
    if texts:
        both = zip(*(logprobs(m.model, texts, prompt) for m in (other, base)), strict=True)
        kl, error = mean_and_error([p - q for p, q in both], math.fsum)
        kl -= math.log(len(texts) / n)
    tested = list(compress(docs, readable(base.plain, other.plain, docs)))
    loss = base_loss = None
    if tested:
        block_size = base.plain.config.block_size
        size = base.plain.tokenizer.encode_documents(tested, block_size).num_targets
        loss, base_loss = (-math.fsum(logprobs(m.plain, tested)) / size for m in (other, base))
    judged = [r for r in other.rewards or () if r is not None]
    wins = interval = None
    if base.rewards is not None and other.rewards is not None:
        wins, interval = win_rate(other.rewards, base.rewards) or (None, None)
    sentences = notes(base, other, n - len(texts), len(docs) - len(tested))
    if not math.isfinite(kl):
        sentences.append(f"the KL of {other.name} is infinite: {INFINITE}")
    return ModelMetrics(
        name=other.name,
        samples=other.texts,
        unique=uniqueness(other.texts),
        novel=novelty(other.texts, listed),
        finished=other.finished,
        mean_length=sum(lengths_of(other.texts)) / n,
        kl=kl,
        kl_error=error,
        num_read=len(texts),
        rewards=summarize(judged),
        win_rate=wins,
        win_interval=None if other is base else interval,
        loss=loss,
        base_loss=base_loss,
        num_docs=len(tested),
        notes=sentences,
    )


def logprobs(model: Model, texts: Sequence[str], prompt: str | None = None) -> Sequence[float]:
    """Return log p of each text with its end in nats, or of its beginning that fits block_size."""
    return nearest.logprobs(model.engine, model.tokenizer, texts, prompt)


def readable(
    base: Model, other: Model, texts: Sequence[str], prompt: str | None = None
) -> list[bool]:
    """Return which texts both models can read up to the same place.

    Both must know all characters. If they differ in tokens or block_size, both must also read the
    text to its end.
    """
    unknown_chars = base.tokenizer.unknown(set().union(*texts))
    unknown_chars |= other.tokenizer.unknown(set().union(*texts))
    known = [unknown_chars.isdisjoint(text) for text in texts]
    if same_tokens(base, other) and base.config.block_size == other.config.block_size:
        return known
    ended = [True] * len(texts)
    for model in (base, other):
        room, sizes = room_of(model, prompt), iter(num_tokens(model, list(compress(texts, known))))
        rows = zip(ended, known, strict=True)
        ended = [end and (not ok or next(sizes) < room) for end, ok in rows]
    return [ok and end for ok, end in zip(known, ended, strict=True)]


def room_of(model: Model, prompt: str | None) -> int:
    """Return the number of tokens that fit after the prompt, including the end."""
    size = model.config.block_size
    return size - len(prompt_prefix(model.tokenizer, prompt, size))


def num_tokens(model: Model, texts: list[str]) -> list[int]:
    """Return the number of tokens of each text, without BOS."""
    return [len(tokens) - 2 for tokens in model.tokenizer.encode_documents(texts)]


def same_tokens(base: Model, other: Model) -> bool:
    """Return True if a text that both models know has the same number of tokens in both."""
    chars = [isinstance(model.tokenizer, CharTokenizer) for model in (base, other)]
    return all(chars) or base.tokenizer.to_json() == other.tokenizer.to_json()


# ---- measures


def by_reward_model(reward: Model | str | Path, prompt: str | None = None) -> RewardFunction:
    """Return a judge that uses a reward model. It returns None for a text that it cannot read.

    Args:
        reward: the reward model, or its directory.
        prompt: the prompt that the texts answer.
    """
    model = as_model(reward, "the reward model")
    check_prompt(model, prompt)
    tokenizer, room = model.tokenizer, room_of(model, prompt) - 2  # the end, then good or bad

    def judge(texts: Sequence[str]) -> list[float | None]:
        unknown_chars = tokenizer.unknown(set().union(*texts))
        known = [text for text in texts if unknown_chars.isdisjoint(text)]
        fit = [t for t, size in zip(known, num_tokens(model, known), strict=True) if size <= room]
        rewards = dict(zip(fit, reward_of(model, fit, prompt), strict=True)) if fit else {}
        return [rewards.get(text) for text in texts]

    return judge


def summarize(rewards: Sequence[float]) -> Summary | None:
    """Return the distribution of the rewards, or None for fewer than two.

    >>> summarize([1.0, 3.0, 2.0])
    Summary(n=3, mean=2.0, deviation=1.0, quantiles=[1.1, 1.5, 2.0, 2.5, 2.9])
    """
    if len(rewards) < 2:
        return None
    ordered = sorted(rewards)
    deviation = math.sqrt(variance(rewards, math.fsum, ddof=1))
    quantiles = [quantile(ordered, share) for share in QUANTILES]
    return Summary(len(rewards), mean(rewards, math.fsum), deviation, quantiles)


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of ascending numbers, with linear interpolation."""
    position = share * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (position - low) * (ordered[high] - ordered[low])


def fulfilling(*models: ModelUnderTest) -> set[str] | None:
    """Return the samples that satisfy the rule, or None if the rewards do not come from a rule."""
    if any(m.rewards is None for m in models):
        return None
    rewards = {t: r for m in models for t, r in zip(m.texts, m.rewards or (), strict=True)}
    if not set(rewards.values()) <= {0.0, 1.0}:
        return None
    return {text for text, reward in rewards.items() if reward}


def notes(
    base: ModelUnderTest, other: ModelUnderTest, num_samples: int, num_docs: int
) -> list[str]:
    """Return a sentence for each sign of reward hacking, and for each thing that Kamon left out.

    num_samples, num_docs: how many samples, and documents of the list, were left out.
    """
    signs = detect_reward_hacking(other.texts, base.texts, fulfilling(base, other))
    sentences = [f"{other.name}: {sign}" for sign in signs]
    if other.blended:
        sentences.append(f"{other.name} is compared without the n-gram that it is blended with")
    lists = [m.model.training.corpus.sha256 for m in (base, other)]
    if lists[0] != lists[1]:
        sentences.append(
            f"{other.name} comes from another list than {base.name}, so novelty and losses use "
            f"the list of {base.name}"
        )
    if not same_tokens(base.model, other.model):
        sentences.append(
            f"{other.name} has other tokens than {base.name}, so Kamon compares the probabilities "
            "of whole texts, and each model uses its own tokens"
        )
    if other.rewards is not None and None in other.rewards:
        num_unjudged = sum(reward is None for reward in other.rewards)
        sentences.append(
            f"{num_unjudged:,} of {len(other.texts):,} samples of {other.name} have no reward: "
            "they are too long for the reward model, or have characters that it does not know"
        )
    counts = {f"of {len(other.texts):,} samples": num_samples, "documents of the list": num_docs}
    left_out = [f"{n:,} {what}" for what, n in counts.items() if n]
    if left_out:
        sentences.append(
            f"the KL and losses of {other.name} leave out {' and '.join(left_out)}, because only "
            "one of the two models can read them"
        )
    return sentences


# ---- the frontier


def frontier_points(comparison: Comparison, by_wins: bool) -> list[tuple[float, float, float]]:
    """Return the win rate or mean reward and its 95% interval for each model of `comparison.all`.

    Raises: ConfigError if there was no judge.
    """
    points = []
    for m in comparison.all:
        if m.rewards is None or m.win_rate is None:
            raise ConfigError(
                f"a frontier needs a judge of {m.name}", "give a reward model or a rule"
            )
        if by_wins:
            low, high = m.win_interval or (0.5, 0.5)
            points.append((m.win_rate, low, high))
        else:
            half = 1.96 * m.rewards.deviation / math.sqrt(m.rewards.n)
            points.append((m.rewards.mean, m.rewards.mean - half, m.rewards.mean + half))
    return points


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Return True for each point (KL, height) that no other point dominates.

    A point dominates another one with less KL and no less height, or more height and no more KL.

    >>> pareto_front([(0, 0.5), (2, 0.7), (3, 0.6), (5, 0.9)])
    [True, True, False, True]
    """
    return [not any((a <= x and b > y) or (a < x and b >= y) for a, b in points) for x, y in points]
