"""Learning from a reward: PPO, by samples of the model itself.

A step draws documents at temperature 1, judges each, and makes several updates that raise the
probability of those above the others (Schulman et al. 2017, arXiv:1707.06347). There is no prompt,
so all documents of a step are one group, and the mean reward of the others is the baseline of each:
a group baseline instead of a critic, as in RLOO and GRPO (see `group_advantages`).
A critic can be had: a model beside that says good or bad after each prefix, and the odds of good
are the gain to expect there (`critic_weights`); then each token has its own advantage.

What a document gains is its reward, in standard deviations of the base model's rewards, less
beta · (log p − log p_base): the KL to the base, of which the model shall not move far. beta adapts
so that this KL comes to a target. Source of both: Ziegler et al. 2019, "Fine-tuning language models
from human preferences", arXiv:1909.08593, section 2.2.

Document i of step s is number FIRST + s · batch_size + i of the counter generator, and beta follows
from what the step before measured, which metrics.jsonl has: so a step depends on (seed, step), the
parameters and Adam's moments alone, and going on comes to the same, bit for bit.

With a prompt what is drawn are answers to it: a reward model judges each after the prompt, and the
prompt's own tokens are in no KL, no loss and no gradient.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, cycle, islice, pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kamon.config import require_int, require_positive
from kamon.engines.base import Engine, State, initial_state
from kamon.engines.batch import BAD, GOOD, PackedBatch, pack_sequences
from kamon.engines.factory import EngineSpec
from kamon.engines.numerics import deviation, mean
from kamon.errors import ConfigError
from kamon.finetuning.expand_vocab import expand_vocab
from kamon.finetuning.loop import (
    FineTuneMethod,
    FineTuneSpec,
    NewEngine,
    StartInfo,
    base_of,
    build_config,
    fine_tune,
    fingerprint,
    resume_fine_tuning,
)
from kamon.finetuning.losses import (
    advantages_with_critic,
    critic_loss,
    critic_values,
    critic_weights,
    group_advantages,
    ppo_loss,
    ppo_weights,
)
from kamon.finetuning.metrics import (
    answers_logprobs,
    detect_reward_hacking,
    novelty,
    uniqueness,
    win_rate,
)
from kamon.finetuning.reward_model import is_reward_model, reward_of
from kamon.finetuning.rules import parse_rule
from kamon.generation.sampling import SampleRequest, sample
from kamon.model import Model, as_model, load
from kamon.storage.checkpoint import critic_config, unpack_documents
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompt_prefix
from kamon.training.options import Callbacks, RunOptions, checkpoint_interval

if TYPE_CHECKING:
    from kamon.storage.metrics import Metrics
    from kamon.training.loop import Progress

KIND = "ppo"
PICKED = {
    "num_steps": 40,
    "batch_size": 256,  # documents
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.002,
    "min_lr": 0.0,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "dropout": 0.0,
}
ACCEPTED_SETTINGS = ("temperature",)  # settings beside those of every tuning
NUM_PPO_EPOCHS = 4
CLIP_RANGE = 0.2
KL_COEF = 0.5
TARGET_KL = 1.0  # nats per document
GAIN = 0.5  # of the controller of beta: per step, at most a tenth up or down
MAX_KL_ERROR = 0.2
FIRST = 1 << 40  # number of the first document that is drawn; those of `sample` begin at 0
NUM_BASE = 1_000  # documents of the base model, and of the tuned one at the end
NUM_BASE_SLOW = 100  # by an engine without fused calls

DEVIATIONS = 4  # around the base's mean: the gains that a critic can tell apart
CRITIC_LR = 0.005  # learning rate of a critic
GAE_LAMBDA = 0.95  # λ of the advantages by a critic
READ_FOR_ROWS = 100  # documents from which the critic's first rows are found

Reward = Callable[[Sequence[str]], Sequence[float]]
OnStep = Callable[[int, int, Mapping[str, float]], None]


def next_kl_coef(beta: float, kl: float, target: float) -> float:
    """The coefficient of the next step: more where this one's KL is above the target, else less.

    Source: Ziegler et al. 2019, equation 3; their gain is a tenth, for as many more steps.

    >>> next_kl_coef(1.0, 6.0, 3.0), next_kl_coef(1.0, 3.0, 3.0)
    (1.1, 1.0)
    """
    error = min(max((kl - target) / target, -MAX_KL_ERROR), MAX_KL_ERROR)
    return beta * (1 + GAIN * error)


def rewards_by(tuning: FineTuneSpec, reward: Reward | None) -> Reward:
    """What judges texts, by a tuning's settings. ConfigError where it cannot be found again."""
    kept = tuning.settings["reward"]
    if reward is not None:
        return reward
    if "rule" in kept:
        return by_rule(kept["rule"])
    if kept.get("path") is None:
        raise ConfigError(
            f"the reward was {kept['name']}, which no directory keeps: go on from Python, by "
            "kamon.finetuning.ppo.resume with the same function"
        )
    model = load_reward(kept["path"])
    if fingerprint_of(model) != kept["sha256"]:
        raise ConfigError(
            f"{kept['path']} is not the reward model that this began with: put that one back"
        )
    return by_model(model, tuning.settings.get("prompt"))


def by_rule(text: str) -> Reward:
    """1 for a text that fulfils a rule (`parse_rule`), 0 for others."""
    rule = parse_rule(text)
    return lambda texts: [float(rule(each)) for each in texts]


def by_model(model: Model, prompt: str | None = None) -> Reward:
    return lambda texts: reward_of(model, texts, prompt)


def load_reward(path: str | Path, **options: Any) -> Model:
    model = load(path, **options)
    if not is_reward_model(model):
        raise ConfigError(f"{path} gives no rewards: `kamon reward` makes a model that does")
    return model


def fingerprint_of(model: Model) -> str:
    return fingerprint(model.config, model.tokenizer, model.engine.state()["params"])


@dataclass(frozen=True)
class PPOConfig:
    """The objective of PPO, with TRL's names.

    num_ppo_epochs: updates from the documents of one step.
    clip_range: how far an update may change the ratio of probabilities of a token.
    kl_coef: first coefficient of the KL penalty, in deviations of the reward per nat.
    target_kl: KL that the coefficient is steered to, in nats per document.
    max_kl: the run ends before a step that leads beyond this KL; None for no limit.
    critic: use a learned baseline instead of the mean of the group.
    prompt: samples answer this prompt.
    """

    num_ppo_epochs: int = NUM_PPO_EPOCHS
    clip_range: float = CLIP_RANGE
    kl_coef: float = KL_COEF
    target_kl: float = TARGET_KL
    max_kl: float | None = None
    critic: bool = False
    prompt: str | None = None

    def __post_init__(self) -> None:
        require_int("num_ppo_epochs", self.num_ppo_epochs, 1)
        for name in ("clip_range", "kl_coef", "target_kl"):
            require_positive(name, getattr(self, name))
        if self.max_kl is not None:
            require_positive("max_kl", self.max_kl)

    @classmethod
    def of(cls, settings: Mapping[str, Any], num_ppo_epochs: int) -> PPOConfig:
        """Return what `settings` returned, read from training.json."""
        return cls(
            num_ppo_epochs=num_ppo_epochs,
            clip_range=settings["clip"],
            kl_coef=settings["beta"],
            target_kl=settings["kl_target"],
            max_kl=settings["max_kl"],
            critic=settings["critic"],
            prompt=settings.get("prompt"),
        )

    def settings(self) -> dict[str, Any]:
        """Return what training.json keeps, under the names that it has always had."""
        return {
            "clip": float(self.clip_range),
            "beta": float(self.kl_coef),
            "kl_target": float(self.target_kl),
            "max_kl": None if self.max_kl is None else float(self.max_kl),
            "critic": self.critic,
            **({} if self.prompt is None else {"prompt": self.prompt}),
        }


def ppo(
    model: Model | str | Path,
    reward: Model | str | Path | Reward | None = None,
    *,
    prefer: str | None = None,
    prompt: str | None = None,
    base: str | Path | None = None,
    num_ppo_epochs: int = NUM_PPO_EPOCHS,
    clip_range: float = CLIP_RANGE,
    kl_coef: float = KL_COEF,
    target_kl: float = TARGET_KL,
    max_kl: float | None = None,
    critic: bool = False,
    engine: str | None = None,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
    output: str | Path | None = None,
    overwrite: bool = False,
    checkpoint_every: str | int | None = None,
    on_start: Callable[[StartInfo], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_step: OnStep | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Model:
    """`model`, tuned so that its samples earn more. ConfigError where all samples of the model have
    the same reward.

    model: or its directory. reward: a reward model, or its directory, or a function of texts; or
    `prefer`, a rule as of `parse_rule`, which a text fulfils (1) or not
    (0). prompt: samples are answers to it; a reward model judges them as such, a rule or a function
    is given the answer alone.
    num_ppo_epochs, clip_range, kl_coef, target_kl, max_kl, critic: see `PPOConfig`.
    on_step is called after each step,
    with its number from 1, how many there are, and what was measured. base: where the model was
    loaded from. settings: batch_size (documents of a step) and the others of `loop.SETTINGS`,
    temperature (of later samples: those of a step have 1); what is not given is picked. For the
    other arguments and errors see `kamon.train`.
    """
    objective = PPOConfig(num_ppo_epochs, clip_range, kl_coef, target_kl, max_kl, critic, prompt)
    spec = EngineSpec(engine, dtype, threads, device, compile)
    callbacks = Callbacks(on_start, on_progress, should_stop)
    options = RunOptions(output, overwrite, checkpoint_interval(checkpoint_every), callbacks)
    base = base or (model if isinstance(model, str | PathLike) else None)
    model = as_model(model, "the model to tune", **spec.keywords())
    model.check_documents("rewards are of documents")
    if is_reward_model(model):
        raise ConfigError("the model to tune is a reward model: start from its base")
    config = build_config(model.config, PICKED, settings, *ACCEPTED_SETTINGS)
    require_int("batch_size", config.batch_size, 2)
    before = prompt_prefix(model.tokenizer, prompt, config.block_size)
    judge, kept = judge_of(reward, prefer, prompt)
    params = model.engine.state()["params"]
    reference = spec.create(config)
    reference.load(initial_state(params))
    number = num_measured(reference)
    texts, _ = rollouts(reference, model.tokenizer, number, config.seed, 0, before)
    base_rewards = rewards_of(judge, texts)
    check_differ(base_rewards, prefer)
    tuning = FineTuneSpec(
        kind=KIND,
        config=config,
        tokenizer=model.tokenizer,
        params=params,
        settings={"reward": kept} | objective.settings(),
        examples=[{"text": t, "reward": r} for t, r in zip(texts, base_rewards, strict=True)],
        source=kept["name"],
        base=base_of(model, base),
        documents=model.documents,
        updates=objective.num_ppo_epochs,
        frozen=params,
    )
    return fine_tune(tuning, partial(PPO, reward=judge, on_step=on_step), spec, options)


def resume(
    path: str | Path, reward: Reward | None = None, *, on_step: OnStep | None = None, **how: Any
) -> Model:
    """Resume a run of `ppo`. reward: its function; how: as in `resume_fine_tuning`."""

    def make(tuning: FineTuneSpec, new_engine: NewEngine) -> PPO:
        return PPO(tuning, new_engine, rewards_by(tuning, reward), on_step)

    return resume_fine_tuning(path, KIND, make, **how)


def judge_of(
    reward: Model | str | Path | Reward | None, prefer: str | None, prompt: str | None
) -> tuple[Reward, dict[str, Any]]:
    """What judges, and what is kept of it."""
    if (reward is None) == (prefer is None):
        raise ConfigError("give a reward or a rule (prefer), one of both")
    if prefer is not None:
        return by_rule(prefer), {"name": f"the rule {prefer}", "rule": prefer}
    path = None
    if isinstance(reward, str | PathLike):
        path = str(reward)
        reward = load_reward(reward)
    if isinstance(reward, Model):
        if not is_reward_model(reward):
            raise ConfigError("the reward is a model that gives none: `kamon reward` makes one")
        name = "a reward model" if path is None else f"the reward model {path}"
        kept = {"name": name, "path": path, "sha256": fingerprint_of(reward)}
        return by_model(reward, prompt), kept
    if not callable(reward):
        raise ConfigError(f"the reward must be a model or a function of texts, not {reward!r:.80}")
    return reward, {"name": f"the function {getattr(reward, '__name__', 'of Python')}"}


def check_differ(rewards: Sequence[float], prefer: str | None) -> None:
    """ConfigError where all samples of the base have one reward: nothing is better than another."""
    if len(set(rewards)) > 1:
        return
    every = f"all {len(rewards):,} samples of the model"
    if prefer is None:
        raise ConfigError(
            f"{every} have the same reward, {rewards[0]:g}: give a reward that differs "
            "between samples"
        )
    which = f"{every} fulfil" if rewards[0] else f"none of {len(rewards):,} samples fulfils"
    raise ConfigError(f"{which} the rule, so there is nothing to learn: choose another rule")


def rewards_of(reward: Reward, texts: Sequence[str]) -> list[float]:
    """The rewards as floats. ConfigError where there are not as many as texts, or one is none."""
    given = reward(texts)
    try:
        found = [float(r) for r in given]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"the reward function must give a number for each: {error}") from None
    if len(found) != len(texts):
        raise ConfigError(f"the reward function gave {len(found)} rewards for {len(texts)} texts")
    if not all(map(math.isfinite, found)):
        raise ConfigError("the reward function gave a reward that is not finite")
    return found


# ---- a step


def num_measured(engine: Engine) -> int:
    return NUM_BASE if hasattr(engine, "sample") else NUM_BASE_SLOW


def rollouts(
    engine: Engine, tokenizer: Tokenizer, n: int, seed: int, first: int, before: tuple[int, ...]
) -> tuple[list[str], PackedBatch]:
    """Documents number `first` and on, as `Model.sample` makes them at temperature 1.

    Returns their texts, and the documents with BOS and `before`, a prompt, before them and BOS
    after; without that where block_size tokens were full before. No special token is drawn.
    """
    bos, block_size = tokenizer.bos, engine.config.block_size
    special = frozenset(tokenizer.special.values()) - {bos}
    drawn = sample(engine, SampleRequest(n, 1.0, seed, bos, first, before, special))
    whole = pack_sequences([bos, *before, *tokens, bos][: block_size + 1] for tokens in drawn)
    return tokenizer.decode_documents(drawn), whole


def kl_per_document(
    engine: Engine, reference: Engine, batch: PackedBatch, skip: int
) -> list[float]:
    """log p − log p_base of each document, in nats, without its first `skip` targets; their mean is
    the KL where the engine drew."""
    own, other = (answers_logprobs(each, batch, skip) for each in (engine, reference))
    return [p - q for p, q in zip(own, other, strict=True)]


@dataclass
class Critic:
    """Says what to expect after each prefix of a document.

    It starts as the base model with two tokens more, which stand for good and bad.
    """

    engine: Engine
    good: int
    bad: int

    @classmethod
    def of(cls, tuning: FineTuneSpec, new_engine: NewEngine, reference: Engine) -> Critic:
        assert tuning.frozen is not None
        config, tokenizer = tuning.config, tuning.tokenizer
        texts = [each["text"] for each in tuning.examples[:READ_FOR_ROWS]]
        _, known, params = expand_vocab(
            config,
            tokenizer,
            tuning.frozen,
            specials=(GOOD, BAD),
            reader=reference,
            docs=tokenizer.encode_documents(texts, config.block_size),
        )
        made = new_engine(params, critic_config(config))
        return cls(made, known.special[GOOD], known.special[BAD])

    def learn(
        self, batch: PackedBatch, returns: Sequence[float], rate: float, skip: int = 0
    ) -> tuple[list[float], float]:
        """(the advantage of each target, the loss), by what it knew before this update.

        returns: of each document, from 0 to 1; skip: targets of a prompt, left out. Prefixes that
        several documents begin with are read once.
        """
        places: dict[tuple[int, ...], int] = {}
        of_targets: list[list[int]] = []
        for tokens in batch:
            prefixes = (tuple(tokens[:end]) for end in range(1 + skip, len(tokens)))
            of_targets.append([places.setdefault(prefix, len(places)) for prefix in prefixes])
        asked = pack_sequences(
            [*prefix, verdict] for prefix in places for verdict in (self.good, self.bad)
        )
        ends = [end - d - 1 for d, end in enumerate(asked.offsets[1:], 1)]
        owed = [r for r, own in zip(returns, of_targets, strict=True) for _ in own]
        rows = [place for own in of_targets for place in own]
        weights = array("d", bytes(8 * asked.num_targets))
        for place, w_good, w_bad in zip(rows, *critic_weights(owed), strict=True):
            weights[ends[2 * place]] += w_good
            weights[ends[2 * place + 1]] += w_bad
        logprobs = self.engine.backward(asked, weights)
        self.engine.step(rate)
        good, bad = ([logprobs[ends[2 * p + which]] for p in rows] for which in (0, 1))
        values = iter(critic_values(good, bad))
        advantages: list[float] = []
        for r, own in zip(returns, of_targets, strict=True):
            advantages += advantages_with_critic(r, [next(values) for _ in own], GAE_LAMBDA)
        return advantages, critic_loss(good, bad, owed)


def of_answers(of_targets: Sequence[float], sizes: Sequence[int], skip: int) -> Sequence[float]:
    """Those of the targets after each document's first `skip`; sizes: how many they are."""
    if not skip:
        return of_targets
    found, end = array("d"), 0
    for size in sizes:
        end += skip + size
        found.extend(of_targets[end - size : end])
    return found


def behind_prompts(of_targets: Sequence[float], sizes: Sequence[int], skip: int) -> list[float]:
    """The reverse: 0 for each document's first `skip` targets.

    >>> behind_prompts([1.0, 2.0, 3.0], [2, 1], 1), of_answers([0, 1.0, 2.0, 0, 3.0], [2, 1], 1)
    ([0.0, 1.0, 2.0, 0.0, 3.0], array('d', [1.0, 2.0, 3.0]))
    """
    rest = iter(of_targets)
    return [x for size in sizes for x in chain([0.0] * skip, islice(rest, size))]


@dataclass(frozen=True)
class Rollout:
    """The documents of one step, with their rewards.

    batch: with BOS, the prompt, and BOS at the end. sizes: targets of each document after the
    prompt. old: log p of these targets when they were drawn. kl: log p − log p of the base, of
    each document, in nats.
    """

    texts: list[str]
    batch: PackedBatch
    sizes: list[int]
    old: Sequence[float]
    kl: list[float]
    rewards: list[float]


class PPO(FineTuneMethod):
    """Learns from its own samples, by their reward, and stays near its base.

    Source: Schulman et al. 2017, arXiv:1707.06347; the KL penalty: Ziegler et al. 2019,
    arXiv:1909.08593.
    """

    def __init__(
        self,
        tuning: FineTuneSpec,
        new_engine: NewEngine,
        reward: Reward,
        on_step: OnStep | None = None,
    ) -> None:
        c = self.config = tuning.config
        self.tokenizer, self.reward, self.on_step = tuning.tokenizer, reward, on_step
        self.objective = PPOConfig.of(tuning.settings, tuning.updates)
        docs = tuning.documents
        self.docs = unpack_documents(docs) if isinstance(docs, bytes) else docs
        assert tuning.frozen is not None
        self.reference = new_engine(tuning.frozen)
        self.base_texts = [each["text"] for each in tuning.examples]
        self.base_rewards = [each["reward"] for each in tuning.examples]
        self.unit = deviation(self.base_rewards) or 1.0
        self.prompt = prompt_prefix(tuning.tokenizer, self.objective.prompt, c.block_size)
        self.kl_coef = self.objective.kl_coef
        self.over = False
        self.value_model = None
        if self.objective.critic:
            self.value_model = Critic.of(tuning, new_engine, self.reference)
            self.critic = self.value_model.engine

    def resume(self, metrics: Metrics) -> None:
        line = metrics[-1]
        self.kl_coef = next_kl_coef(line["beta"], line["kl"], self.objective.target_kl)

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        state_before = engine.state() if self.objective.max_kl is not None else None
        rollout = self.rollout(engine, step)
        advantages, more = self.advantages(rollout)
        loss = self.update(engine, rollout, advantages, learning_rate)
        measured = self.metrics(rollout, loss) | more
        self.kl_coef = next_kl_coef(self.kl_coef, measured["kl"], self.objective.target_kl)
        if state_before is not None:
            self.take_back(engine, step, state_before)
        if self.on_step:
            self.on_step(step + 1, self.config.num_steps, measured)
        return measured

    def rollout(self, engine: Engine, step: int) -> Rollout:
        """Return documents drawn from the model, with their rewards."""
        c, skip = self.config, len(self.prompt)
        first = FIRST + step * c.batch_size
        texts, batch = rollouts(engine, self.tokenizer, c.batch_size, c.seed, first, self.prompt)
        sizes = [end - begin - 1 - skip for begin, end in pairwise(batch.offsets)]
        return Rollout(
            texts=texts,
            batch=batch,
            sizes=sizes,
            old=of_answers(engine.logprobs(batch), sizes, skip),
            kl=kl_per_document(engine, self.reference, batch, skip),
            rewards=rewards_of(self.reward, texts),
        )

    def advantages(self, rollout: Rollout) -> tuple[list[float], dict[str, float]]:
        """Return the advantage of each target, and the critic's loss if there is one."""
        shaped_rewards = [
            r / self.unit - self.kl_coef * kl
            for r, kl in zip(rollout.rewards, rollout.kl, strict=True)
        ]
        if self.value_model is None:
            of_docs = group_advantages(shaped_rewards, len(shaped_rewards))
            pairs = zip(of_docs, rollout.sizes, strict=True)
            return [a for a, size in pairs for _ in range(size)], {}
        usual = [r / self.unit for r in self.base_rewards]
        low = min(mean(usual) - DEVIATIONS, *usual)
        high = max(mean(usual) + DEVIATIONS, *usual)
        returns = [min(max((r - low) / (high - low), 0.0), 1.0) for r in shaped_rewards]
        advantages, loss = self.value_model.learn(
            rollout.batch, returns, CRITIC_LR, len(self.prompt)
        )
        return advantages, {"critic_loss": loss}

    def update(
        self, engine: Engine, rollout: Rollout, advantages: Sequence[float], learning_rate: float
    ) -> float:
        """Make `num_ppo_epochs` updates and return the loss before the last one."""
        skip, clip, batch = len(self.prompt), self.objective.clip_range, rollout.batch
        logprobs = rollout.old
        for epoch in range(self.objective.num_ppo_epochs):
            if epoch:
                logprobs = of_answers(engine.logprobs(batch), rollout.sizes, skip)
            weights = ppo_weights(logprobs, rollout.old, advantages, clip)
            engine.backward(batch, behind_prompts(weights, rollout.sizes, skip))
            engine.step(learning_rate)
        return ppo_loss(logprobs, rollout.old, advantages, clip)

    def metrics(self, rollout: Rollout, loss: float) -> dict[str, float]:
        """Return what a line of metrics.jsonl keeps of a step."""
        texts = rollout.texts
        in_turn = list(islice(cycle(self.base_rewards), self.config.batch_size))
        wins = win_rate(rollout.rewards, in_turn)
        assert wins
        return {
            "loss": loss,
            "reward": mean(rollout.rewards),
            "kl": mean(rollout.kl),
            "beta": self.kl_coef,
            "entropy": -mean(rollout.old),
            "win_rate": wins[0],
            "uniqueness": len(set(texts)) / len(texts),
            "novelty": novelty(texts, self.docs),
            "length": mean(list(map(len, texts))),
        }

    def take_back(self, engine: Engine, step: int, state: State) -> None:
        """Go back to `state` if the step led beyond max_kl, by the documents of the next step."""
        c, max_kl = self.config, self.objective.max_kl
        following = FIRST + (step + 1) * c.batch_size
        _, batch = rollouts(engine, self.tokenizer, c.batch_size, c.seed, following, self.prompt)
        kl = mean(kl_per_document(engine, self.reference, batch, len(self.prompt)))
        if max_kl is not None and kl > max_kl:
            engine.load(state)
            self.over = True

    def should_end(self) -> bool:
        return self.over

    def finish(self, engine: Engine) -> dict[str, Any]:
        """Return the comparison of as many samples as the base was measured by."""
        base_texts, base_rewards = self.base_texts, self.base_rewards
        texts, batch = rollouts(
            engine, self.tokenizer, len(base_texts), self.config.seed, 0, self.prompt
        )
        kl = kl_per_document(engine, self.reference, batch, len(self.prompt))
        rewards = rewards_of(self.reward, texts)
        rate, interval = win_rate(rewards, base_rewards) or (0.5, (0.0, 1.0))
        wanted = None
        if {*rewards, *base_rewards} <= {0.0, 1.0}:  # as of a rule
            both = zip([*texts, *base_texts], [*rewards, *base_rewards], strict=True)
            wanted = {text for text, r in both if r}
        return {
            "measured": {
                "num_samples": len(texts),
                "reward": mean(rewards),
                "base_reward": mean(base_rewards),
                "base_deviation": deviation(base_rewards),
                "kl": mean(kl),
                "kl_error": deviation(kl) / (len(kl) - 1) ** 0.5,
                "win_rate": rate,
                "win_rate_interval": list(interval),
                "uniqueness": uniqueness(texts),
                "base_uniqueness": uniqueness(base_texts),
                "novelty": novelty(texts, self.docs),
                "base_novelty": novelty(base_texts, self.docs),
                "length": mean(list(map(len, texts))),
                "base_length": mean(list(map(len, base_texts))),
                "over_budget": self.over,
                "problems": detect_reward_hacking(texts, base_texts, wanted),
            }
        }
