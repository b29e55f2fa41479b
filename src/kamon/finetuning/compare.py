"""What tuning did to a model: how far it went from its base, what that bought, and what it cost.

Everything is measured at temperature 1, the models' own odds. Documents without a prompt may have
no special tokens: a model with such is taken without them (`plain`), so that what it would give to
them does not count as a distance. With a prompt samples, KL and rewards are those of answers to it,
by the models as they are. Shares are from 0 to 1, lengths in characters.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

from kamon.config import require_int
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

RewardFunction = Callable[
    [Sequence[str]], Sequence[float | None]
]  # of each text; None where it cannot
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
INFINITE = "the base cannot read its samples, or gives one no probability"
MAX_EVAL_DOCS = 20_000  # documents of the list
MAX_EVAL_DOCS_SLOW = 500  # by the scalar engine


@dataclass(frozen=True)
class Summary:
    """How n rewards are distributed: deviation is that of the samples, quantiles are QUANTILES."""

    n: int
    mean: float
    deviation: float
    quantiles: list[float]


@dataclass(frozen=True)
class ModelMetrics:
    """A model beside its base; the base itself stands at 0 nats and wins half the time.

    samples: number i of every model is drawn with the same draws. unique: different samples; novel:
    not in the base's list; finished: ended by the model within its block_size.

    kl: KL(model ‖ base) in nats per document: the mean of log p(text) − log p_base(text) over the
    samples that both can read (num_read of them), less the logarithm of their share, which makes it
    that of these texts alone; kl_error: its standard error. A model that has other tokens than the
    base is measured by the tokens that each has for a text.

    rewards: of the samples that can be judged. win_rate: over the base, as `win_rate`
    defines it; win_interval: its 95 % interval. All three None where nobody judges.

    loss, base_loss: of num_docs documents of the base's list that both can read, in nats for each
    of the base's tokens. notes: what a reader of these figures must know, a sentence each.
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
    """The base and the tuned models, as `ModelMetrics`. held_out: whether losses are of documents
    that
    the base did not learn from; in_list: those samples that are in its list; prompt: what samples
    answer."""

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
    """Compare models with the one they were tuned from, by n samples each and the base's list.

    base, tuned: models or their directories, the tuned ones by their names; name: of the base.
    seed: of the samples, by default the base's. judge: gives a reward for each of
    several texts, or None for one that it cannot judge. prompt: samples are answers to it.
    ConfigError for a model of text, for a reward model, for one that knows no prompts where there
    is one, and where n is below 2.

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
    >>> found = compare(model, {"same": model}, n=10, judge=lambda texts: [len(t) for t in texts])
    >>> found.tuned[0].kl, found.tuned[0].win_rate
    (0.0, 0.5)
    """
    n = require_int("the number of samples to compare", n, 2)
    if not isinstance(tuned, Mapping):
        raise ConfigError(f"tuned must be models by their names, not {tuned!r:.80}")
    base = as_model(base, "the base")
    models = {whose: as_model(model, whose) for whose, model in tuned.items()}
    for whose, model in [(name, base), *models.items()]:
        check_makes_documents(whose, model)
        if prompt is not None and not knows_prompts(model.tokenizer):
            raise ConfigError(
                f"{whose} knows no prompts: `kamon sft` teaches a model to answer them"
            )
    first = ModelUnderTest.of(name, base, n, seed, judge, prompt)
    learned, held_out = base.parts()
    docs = held_out or learned
    most = MAX_EVAL_DOCS if has_fused_ops(base.engine) else MAX_EVAL_DOCS_SLOW
    tested = list(docs[: min(len(docs), most)]) if docs else []
    listed = set(base.docs)
    found = [compare_to_base(first, first, listed, tested)]
    for whose, model in models.items():
        subject = ModelUnderTest.of(whose, model, n, first.seed, judge, prompt)
        found.append(compare_to_base(first, subject, listed, tested))
    texts = {text for each in found for text in each.samples}
    return Comparison(found[0], found[1:], n, first.seed, bool(held_out), texts & listed, prompt)


def check_makes_documents(name: str, model: Model) -> None:
    if model.writes_text:
        raise ConfigError(f"{name} has learned a text, which has no end: documents are compared")
    if model.training.get("tuning", {}).get("kind") == "reward":
        raise ConfigError(
            f"{name} is a reward model, which judges documents and makes none: it may judge these"
        )


@dataclass(frozen=True)
class ModelUnderTest:
    """A model, and its samples with what they are worth.

    plain: it without special tokens, which samples come from, too, where there is no prompt.
    """

    name: str
    plain: Model
    model: Model
    prompt: str | None
    seed: int
    texts: list[str]
    finished: float
    rewards: Sequence[float | None] | None

    @classmethod
    def of(
        cls,
        name: str,
        model: Model,
        n: int,
        seed: int | None,
        judge: RewardFunction | None,
        prompt: str | None,
    ) -> ModelUnderTest:
        without = plain(model)
        model = without if prompt is None else model
        seed = model.config.seed if seed is None else seed
        found = model.generate(n, temperature=1.0, seed=seed, prompt=prompt)
        ended = sum(size < found.room for size in found.sizes)
        rewards = judge(found.texts) if judge else None
        return cls(name, without, model, prompt, seed, found.texts, ended / n, rewards)


def plain(model: Model) -> Model:
    """The same model without special tokens but BOS: the others have their probabilities in
    proportion. It is computed by the best engine, in the same dtype."""
    tokenizer = model.tokenizer
    dropped = set(tokenizer.special.values()) - {tokenizer.bos}
    if not dropped:
        return model
    made: Tokenizer
    if isinstance(tokenizer, CharTokenizer):
        added = [each for each in tokenizer.added if len(each) == 1]
        made = CharTokenizer(tokenizer.chars, added, composed=tokenizer.composed)
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


# ---- one beside the other


def compare_to_base(
    base: ModelUnderTest, other: ModelUnderTest, listed: set[str], docs: list[str]
) -> ModelMetrics:
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
        loss, base_loss = (
            -math.fsum(logprobs(each.plain, tested)) / size for each in (other, base)
        )
    wins = interval = None
    if base.rewards is not None and other.rewards is not None:
        wins, interval = win_rate(other.rewards, base.rewards) or (None, None)
    return ModelMetrics(
        name=other.name,
        samples=other.texts,
        unique=uniqueness(other.texts),
        novel=novelty(other.texts, listed),
        finished=other.finished,
        mean_length=sum(map(len, other.texts)) / n,
        kl=kl,
        kl_error=error,
        num_read=len(texts),
        rewards=None
        if other.rewards is None
        else summarize([r for r in other.rewards if r is not None]),
        win_rate=wins,
        win_interval=None if other is base else interval,
        loss=loss,
        base_loss=base_loss,
        num_docs=len(tested),
        notes=[
            *notes(base, other, n - len(texts), len(docs) - len(tested)),
            *([] if math.isfinite(kl) else [f"{other.name} is at no finite distance: {INFINITE}"]),
        ],
    )


def logprobs(model: Model, texts: Sequence[str], prompt: str | None = None) -> Sequence[float]:
    """log p in nats of each text with its end, or of its beginning where block_size ends it; as
    answers to the prompt."""
    return nearest.logprobs(model.engine, model.tokenizer, texts, prompt)


def readable(
    base: Model, other: Model, texts: Sequence[str], prompt: str | None = None
) -> list[bool]:
    """Which texts both can read, to the same place: with characters that both know, and to their
    end, or where both have the same tokens and block_size, as far as these reach. prompt: that
    stands before each."""
    strange = base.tokenizer.unknown(set().union(*texts))
    strange |= other.tokenizer.unknown(set().union(*texts))
    known = [strange.isdisjoint(text) for text in texts]
    if same_tokens(base, other) and base.config.block_size == other.config.block_size:
        return known
    ended = [True] * len(texts)
    for model in (base, other):
        room, own = room_of(model, prompt), iter(sizes_of(model, list(compress(texts, known))))
        ended = [end and (not ok or next(own) < room) for end, ok in zip(ended, known, strict=True)]
    return [ok and end for ok, end in zip(known, ended, strict=True)]


def room_of(model: Model, prompt: str | None) -> int:
    """The tokens that a document may have after its prompt, its end among them."""
    size = model.config.block_size
    return size - len(prompt_prefix(model.tokenizer, prompt, size))


def sizes_of(model: Model, texts: list[str]) -> list[int]:
    """Tokens of each text, without BOS."""
    return [len(tokens) - 2 for tokens in model.tokenizer.encode_documents(texts)]


def same_tokens(base: Model, other: Model) -> bool:
    """Whether a text that both know is the same tokens to both, or as many."""
    chars = [isinstance(each.tokenizer, CharTokenizer) for each in (base, other)]
    return all(chars) or base.tokenizer.to_json() == other.tokenizer.to_json()


# ---- measures


def by_reward_model(reward: Model | str | Path, prompt: str | None = None) -> RewardFunction:
    """Rewards of `reward_of`, None of a text that the model cannot read. prompt: that
    each text answers. reward: the model or its directory."""
    model = as_model(reward, "the reward model")
    check_prompt(model, prompt)
    tokenizer, room = model.tokenizer, room_of(model, prompt) - 2  # the end, and the verdict

    def judge(texts: Sequence[str]) -> list[float | None]:
        strange = tokenizer.unknown(set().union(*texts))
        known = [text for text in texts if strange.isdisjoint(text)]
        fit = [t for t, size in zip(known, sizes_of(model, known), strict=True) if size <= room]
        found = dict(zip(fit, reward_of(model, fit, prompt), strict=True)) if fit else {}
        return [found.get(text) for text in texts]

    return judge


def summarize(rewards: Sequence[float]) -> Summary | None:
    """None of fewer than two.

    >>> summarize([1.0, 3.0, 2.0])
    Summary(n=3, mean=2.0, deviation=1.0, quantiles=[1.1, 1.5, 2.0, 2.5, 2.9])
    """
    if len(rewards) < 2:
        return None
    ordered = sorted(rewards)
    return Summary(
        n=len(rewards),
        mean=mean(rewards, math.fsum),
        deviation=math.sqrt(variance(rewards, math.fsum, ddof=1)),
        quantiles=[quantile(ordered, share) for share in QUANTILES],
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Of numbers in ascending order, between two of them in proportion."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def fulfilling(*subjects: ModelUnderTest) -> set[str] | None:
    """The samples with a reward of 1, where a rule has judged: all rewards are 1 or 0."""
    if any(each.rewards is None for each in subjects):
        return None
    rewards = {t: r for s in subjects for t, r in zip(s.texts, s.rewards or (), strict=True)}
    if not set(rewards.values()) <= {0.0, 1.0}:
        return None
    return {text for text, reward in rewards.items() if reward}


def notes(
    base: ModelUnderTest, other: ModelUnderTest, num_samples: int, num_docs: int
) -> list[str]:
    """What differs between the two, what was left out for it, and signs of a hacked reward."""
    signs = detect_reward_hacking(other.texts, base.texts, fulfilling(base, other))
    found = [f"{other.name}: {sign}" for sign in signs]
    lists = [each.model.training["corpus"].get("sha256") for each in (base, other)]
    if lists[0] != lists[1]:
        found.append(
            f"{other.name} comes from another list than {base.name}: novelty and losses are by "
            f"that of {base.name}"
        )
    if not same_tokens(base.model, other.model):
        found.append(
            f"{other.name} has other tokens than {base.name}: probabilities are those of whole "
            "texts, each by the tokens that a model has for it"
        )
    if other.rewards is not None and None in other.rewards:
        number = sum(reward is None for reward in other.rewards)
        found.append(
            f"{number:,} of {len(other.texts):,} samples of {other.name} cannot be judged: they "
            "are too long for the reward model, or have characters that it does not know"
        )
    left_out = [
        f"{number:,} {what}"
        for number, what in (
            (num_samples, f"of {len(other.texts):,} samples"),
            (num_docs, "documents of the list"),
        )
        if number
    ]
    if left_out:
        found.append(
            f"{' and '.join(left_out)} left out of the KL and losses of {other.name}: only one of "
            "the two models can read them"
        )
    return found


# ---- the frontier


def frontier_points(found: Comparison, by_wins: bool) -> list[tuple[float, float, float]]:
    """What each model of `found.all` has reached, with a 95% interval: its win rate, or its mean
    reward. ConfigError where nobody judged."""
    points = []
    for each in found.all:
        if each.rewards is None or each.win_rate is None:
            raise ConfigError(
                f"a frontier needs a judge, a reward model or a rule, who can judge {each.name}"
            )
        if by_wins:
            low, high = each.win_interval or (0.5, 0.5)
            points.append((each.win_rate, low, high))
        else:
            wide = 1.96 * each.rewards.deviation / math.sqrt(each.rewards.n)
            points.append((each.rewards.mean, each.rewards.mean - wide, each.rewards.mean + wide))
    return points


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (KL, height) no other beats: none is as high at less KL, none higher at as much.

    >>> pareto_front([(0, 0.5), (2, 0.7), (3, 0.6), (5, 0.9)])
    [True, True, False, True]
    """
    return [not any((a <= x and b > y) or (a < x and b >= y) for a, b in points) for x, y in points]
