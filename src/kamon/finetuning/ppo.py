"""Proximal policy optimisation (PPO): a model generates samples and learns from their rewards.

A step generates samples at temperature 1 and computes the reward of each. It then makes several
updates that raise the probability of the better samples (Schulman et al. 2017, arXiv:1707.06347).
All samples of a step answer the same prompt, or none. So the baseline of each is the mean reward of
the others, as in RLOO and GRPO (see `group_advantages`). Alternatively, a critic learns the
baseline: a second model that predicts good or bad after each prefix (see `critic_weights`). Then
each token has its own advantage.

The shaped reward of a document is its reward, in standard deviations of the base's rewards, minus
kl_coef · (log p − log p_base). This KL penalty keeps the model near its base. Kamon adapts kl_coef
so that the KL reaches a target. Source of both: Ziegler et al. 2019, "Fine-tuning language models
from human preferences", arXiv:1909.08593, section 2.2.

Document i of step s has number FIRST + s · batch_size + i in the counter-based generator. Kamon
computes kl_coef from the previous line of metrics.jsonl. So a step depends only on (seed, step),
the parameters and Adam's moments, and a resumed run gives the same model, bit for bit.

With a prompt, the samples are answers to it, and a reward model reads them after it. The prompt's
own tokens do not count in the KL, the loss and the gradient.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import chain, cycle, islice, pairwise
from os import PathLike
from pathlib import Path
from typing import Any

from kamon.config import require_int, require_positive
from kamon.data.graphemes import lengths_of
from kamon.engines.base import Engine, State, has_fused_ops, initial_state
from kamon.engines.batch import BAD, GOOD, PackedBatch, pack_sequences
from kamon.engines.numerics import deviation, mean
from kamon.errors import ConfigError
from kamon.finetuning import loop, losses, metrics
from kamon.finetuning.expand_vocab import expand_vocab
from kamon.finetuning.reward_model import is_reward_model, last_targets, reward_of
from kamon.finetuning.rules import parse_rule
from kamon.model import Model, as_model, load
from kamon.storage.checkpoint import critic_config
from kamon.storage.metrics import Metrics
from kamon.tokenizers.prompts import prompt_prefix

KIND = "ppo"
PICKED = {  # defaults that differ from the base's settings
    "num_steps": 40,
    "batch_size": 256,  # documents in a step
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.002,
    "min_lr": 0.0,
    "warmup_steps": 0,
    "weight_decay": 0.0,
    "dropout": 0.0,
}
ACCEPTED_SETTINGS = ("temperature",)  # settings besides `loop.SETTINGS`
GAIN = 0.5  # of the controller of kl_coef, which changes it by at most a tenth per step
MAX_KL_ERROR = 0.2
FIRST = 1 << 40  # number of the first document of a rollout, far from those of `sample`
NUM_BASE = 1_000  # samples of the base, and of the fine-tuned model at the end
NUM_BASE_SLOW = 100  # the same for an engine without fused calls
DEVIATIONS = 4  # a critic learns returns up to this far from the base's mean reward
CRITIC_LR = 0.005  # learning rate of the critic
GAE_LAMBDA = 0.95  # λ of generalised advantage estimation
READ_FOR_ROWS = 100  # documents that the critic's new rows are computed from

Reward = Callable[[Sequence[str]], Sequence[float]]
OnStep = Callable[[int, int, Mapping[str, float]], None]


def next_kl_coef(kl_coef: float, kl: float, target: float) -> float:
    """Return the KL coefficient of the next step: larger if the KL exceeds the target.

    Source: Ziegler et al. 2019, equation 3. Their gain is 0.1, for ten times as many steps.

    >>> next_kl_coef(1.0, 6.0, 3.0), next_kl_coef(1.0, 3.0, 3.0)
    (1.1, 1.0)
    """
    error = min(max((kl - target) / target, -MAX_KL_ERROR), MAX_KL_ERROR)
    return kl_coef * (1 + GAIN * error)


def rewards_by(spec: loop.FineTuneSpec, reward: Reward | None) -> Reward:
    """Return the reward of a run to resume. Raises ConfigError if Kamon cannot restore it."""
    kept = spec.settings["reward"]
    if reward is not None:
        return reward
    if "rule" in kept:
        return by_rule(kept["rule"])
    if kept.get("path") is None:
        raise ConfigError(
            f"the reward was {kept['name']}, which Kamon cannot save",
            "resume from Python with kamon.finetuning.ppo.resume and the same function",
        )
    model = load_reward(kept["path"])
    if loop.fingerprint(model) != kept["sha256"]:
        raise ConfigError(f"{kept['path']} is not the reward model of this run", "restore that one")
    return by_model(model, spec.settings.get("prompt"))


def by_rule(text: str) -> Reward:
    """Return a reward that is 1 for texts that satisfy the rule (see `parse_rule`), or else 0."""
    rule = parse_rule(text)
    return lambda texts: [float(rule(text)) for text in texts]


def by_model(model: Model, prompt: str | None = None) -> Reward:
    """Return the reward of a reward model, which reads the texts as answers to `prompt`."""
    return lambda texts: reward_of(model, texts, prompt)


def load_reward(path: str | Path, **options: Any) -> Model:
    model = load(path, **options)
    if not is_reward_model(model):
        raise ConfigError(f"{path} is not a reward model", "train one with `kamon reward`")
    return model


@dataclass(frozen=True)
class PPOConfig:
    """The objective of PPO, with TRL's names.

    Attributes:
        num_ppo_epochs: updates per step, all with the documents of that step.
        clip_range: how far an update may change a token's probability, as a ratio.
        kl_coef: initial strength of the KL penalty, in deviations of the reward per nat.
        target_kl: the KL that Kamon adapts the penalty to, in nats per document.
        max_kl: the run ends before the step that exceeds this KL. None for no limit.
        critic: use a learned baseline instead of the group's mean.
        prompt: the prompt that the samples answer.
    """

    num_ppo_epochs: int = 4
    clip_range: float = 0.2
    kl_coef: float = 0.5
    target_kl: float = 1.0
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
        """Return the objective from training.json."""
        older = {"clip_range": "clip", "kl_coef": "beta", "target_kl": "kl_target"}
        names = [field.name for field in fields(cls)[1:]]
        kept: dict[str, Any] = {name: settings.get(older.get(name, name)) for name in names}
        return cls(num_ppo_epochs, **kept)

    def settings(self) -> dict[str, Any]:
        """Return the settings under their names in training.json, which are older than TRL's."""
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
    num_ppo_epochs: int = PPOConfig.num_ppo_epochs,
    clip_range: float = PPOConfig.clip_range,
    kl_coef: float = PPOConfig.kl_coef,
    target_kl: float = PPOConfig.target_kl,
    max_kl: float | None = None,
    critic: bool = False,
    on_step: OnStep | None = None,
    **options: Any,
) -> Model:
    """Return `model`, fine-tuned so that its samples get a larger reward.

    Its measurements are in `training.tuning`.

    Args:
        model: the base, or its directory.
        reward: a reward model, its directory, or a function that returns a number for each text.
        prefer: a rule (see `parse_rule`) instead of `reward`: 1 if a text satisfies it, or else 0.
        prompt: the prompt that the samples answer. A rule or a function gets only the answer.
        num_ppo_epochs, clip_range, kl_coef, target_kl, max_kl, critic: see `PPOConfig`.
        on_step: a function that Kamon calls after each step with its number (from 1), the number of
            steps, and the measurements.
        options: batch_size (documents in a step), temperature (of later samples, because training
            uses 1), and the other settings of `loop.SETTINGS`. Also engine, output and the other
            options of `kamon.train`.

    Raises: the errors of `kamon.train`, and ConfigError if all samples of the base have the same
        reward.
    """
    objective = PPOConfig(num_ppo_epochs, clip_range, kl_coef, target_kl, max_kl, critic, prompt)
    engine, run, settings = loop.run_arguments(options)
    base = as_model(model, "the model to tune", **engine.keywords()).without_blend()
    base.check_documents("PPO")
    if is_reward_model(base):
        raise ConfigError("a reward model cannot be fine-tuned with PPO", "start from its base")
    config = loop.build_config(base.config, PICKED, settings, *ACCEPTED_SETTINGS)
    require_int("batch_size", config.batch_size, 2)
    prefix = prompt_prefix(base.tokenizer, prompt, config.block_size)
    judge, kept = judge_of(reward, prefer, prompt)
    params = base.engine.state()["params"]
    reference = engine.create(config)
    reference.load(initial_state(params))
    n = NUM_BASE if has_fused_ops(reference) else NUM_BASE_SLOW
    texts, _ = metrics.draw_documents(reference, base.tokenizer, n, config.seed, 0, prefix)
    rewards = rewards_of(judge, texts)
    check_differ(rewards, prefer)
    spec = loop.FineTuneSpec(
        kind=KIND,
        config=config,
        tokenizer=base.tokenizer,
        params=params,
        settings={"reward": kept} | objective.settings(),
        examples=[{"text": t, "reward": r} for t, r in zip(texts, rewards, strict=True)],
        source=kept["name"],
        base=loop.base_of(base, model),
        base_training=base.training,
        documents=base.documents,
        updates=require_int("num_ppo_epochs", num_ppo_epochs, 1),
        frozen=params,
    )
    return loop.fine_tune(spec, partial(PPO, reward=judge, on_step=on_step), engine, run)


def resume(
    path: str | Path, reward: Reward | None = None, *, on_step: OnStep | None = None, **how: Any
) -> Model:
    """Finish an interrupted run of `ppo` in `path`. The model is the same, bit for bit.

    Args:
        reward: the reward function, if the run has one.
        how: see `resume_fine_tuning`.
    """

    def make(spec: loop.FineTuneSpec, new_engine: loop.NewEngine) -> PPO:
        return PPO(spec, new_engine, rewards_by(spec, reward), on_step)

    return loop.resume_fine_tuning(path, KIND, make, **how)


def judge_of(
    reward: Model | str | Path | Reward | None, prefer: str | None, prompt: str | None
) -> tuple[Reward, dict[str, Any]]:
    """Return the reward as a function, and its record for training.json."""
    if (reward is None) == (prefer is None):
        raise ConfigError("give either a reward or a rule (prefer)")
    if prefer is not None:
        return by_rule(prefer), {"name": f"the rule {prefer}", "rule": prefer}
    path = None
    if isinstance(reward, str | PathLike):
        path = str(reward)
        reward = load_reward(reward)
    if isinstance(reward, Model):
        if not is_reward_model(reward):
            raise ConfigError("the reward is not a reward model", "train one with `kamon reward`")
        name = "a reward model" if path is None else f"the reward model {path}"
        kept = {"name": name, "path": path, "sha256": loop.fingerprint(reward)}
        return by_model(reward, prompt), kept
    if not callable(reward):
        raise ConfigError(f"the reward must be a model or a function of texts, not {reward!r:.80}")
    return reward, {"name": f"the function {getattr(reward, '__name__', 'of Python')}"}


def check_differ(rewards: Sequence[float], prefer: str | None) -> None:
    """Raise ConfigError if all samples of the base have the same reward."""
    if len(set(rewards)) > 1:
        return
    every = f"all {len(rewards):,} samples of the model"
    if prefer is None:
        raise ConfigError(
            f"{every} have the same reward, {rewards[0]:g}",
            "give a reward that differs between samples",
        )
    which = f"{every} satisfy" if rewards[0] else f"none of {len(rewards):,} samples satisfies"
    raise ConfigError(f"{which} the rule, so there is nothing to learn", "choose another rule")


def rewards_of(reward: Reward, texts: Sequence[str]) -> list[float]:
    """Return the reward of each text. Raises ConfigError unless all are finite numbers."""
    given = reward(texts)
    try:
        rewards = [float(r) for r in given]
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the reward function must return a number for each text: {error}"
        ) from None
    if len(rewards) != len(texts):
        raise ConfigError(
            f"the reward function returned {len(rewards):,} rewards for {len(texts):,} texts"
        )
    if not all(map(math.isfinite, rewards)):
        raise ConfigError("the reward function returned a value that is not finite")
    return rewards


# ---- a step


@dataclass
class Critic:
    """A model that predicts the expected reward after each prefix of a document.

    It starts as the base with two more tokens, for good and bad.
    """

    engine: Engine
    good: int
    bad: int

    @classmethod
    def of(cls, spec: loop.FineTuneSpec, new_engine: loop.NewEngine, reference: Engine) -> Critic:
        assert spec.frozen is not None
        config, tokenizer = spec.config, spec.tokenizer
        texts = [example["text"] for example in spec.examples[:READ_FOR_ROWS]]
        docs = tokenizer.encode_documents(texts, config.block_size)
        _, extended, params = expand_vocab(
            config, tokenizer, spec.frozen, specials=(GOOD, BAD), reader=reference, docs=docs
        )
        engine = new_engine(params, critic_config(config))
        return cls(engine, extended.special[GOOD], extended.special[BAD])

    def learn(
        self, batch: PackedBatch, returns: Sequence[float], learning_rate: float, skip: int = 0
    ) -> tuple[list[float], float]:
        """Make an update, and return the advantage of each target and the loss before it.

        The critic reads a prefix that several documents share only once.

        returns: the return of each document, from 0 to 1.
        skip: targets of the prompt, which are left out.
        """
        prefix_ids: dict[tuple[int, ...], int] = {}
        per_document: list[list[int]] = []
        for tokens in batch:
            prefixes = (tuple(tokens[:end]) for end in range(1 + skip, len(tokens)))
            per_document.append([prefix_ids.setdefault(p, len(prefix_ids)) for p in prefixes])
        asked = pack_sequences(
            [*prefix, verdict] for prefix in prefix_ids for verdict in (self.good, self.bad)
        )
        ends = last_targets(asked)
        goals = [r for r, ids in zip(returns, per_document, strict=True) for _ in ids]
        rows = [i for ids in per_document for i in ids]
        weights = array("d", bytes(8 * asked.num_targets))
        for i, w_good, w_bad in zip(rows, *losses.critic_weights(goals), strict=True):
            weights[ends[2 * i]] += w_good
            weights[ends[2 * i + 1]] += w_bad
        logprobs = self.engine.backward(asked, weights)
        self.engine.step(learning_rate)
        good, bad = ([logprobs[ends[2 * i + which]] for i in rows] for which in (0, 1))
        values = iter(losses.critic_values(good, bad))
        advantages: list[float] = []
        for r, ids in zip(returns, per_document, strict=True):
            advantages += losses.advantages_with_critic(r, [next(values) for _ in ids], GAE_LAMBDA)
        return advantages, losses.critic_loss(good, bad, goals)


def skip_prompts(of_targets: Sequence[float], sizes: Sequence[int], skip: int) -> Sequence[float]:
    """Drop the first `skip` targets of each document, so that `sizes` targets remain."""
    if not skip:
        return of_targets
    kept, end = array("d"), 0
    for size in sizes:
        end += skip + size
        kept.extend(of_targets[end - size : end])
    return kept


def pad_prompts(of_targets: Sequence[float], sizes: Sequence[int], skip: int) -> list[float]:
    """Undo `skip_prompts`: insert 0 for the first `skip` targets of each document.

    >>> pad_prompts([1.0, 2.0, 3.0], [2, 1], 1), skip_prompts([0, 1.0, 2.0, 0, 3.0], [2, 1], 1)
    ([0.0, 1.0, 2.0, 0.0, 3.0], array('d', [1.0, 2.0, 3.0]))
    """
    remaining = iter(of_targets)
    return [x for size in sizes for x in chain([0.0] * skip, islice(remaining, size))]


@dataclass(frozen=True)
class Rollout:
    """The documents of one step, with their rewards.

    Attributes:
        batch: the documents with BOS, the prompt, and BOS at the end.
        sizes: targets of each document after the prompt.
        old_logprobs: log p of these targets when they were sampled, in nats.
        kl: log p − log p_base of each document, in nats.
    """

    texts: list[str]
    batch: PackedBatch
    sizes: list[int]
    old_logprobs: Sequence[float]
    kl: list[float]
    rewards: list[float]


class PPO(loop.FineTuneMethod):
    """Learns from the rewards of the model's own samples, and keeps the model near its base.

    Sources: Schulman et al. 2017, arXiv:1707.06347. For the KL penalty: Ziegler et al. 2019,
    arXiv:1909.08593.
    """

    def __init__(
        self,
        spec: loop.FineTuneSpec,
        new_engine: loop.NewEngine,
        reward: Reward,
        on_step: OnStep | None = None,
    ) -> None:
        c = self.config = spec.config
        self.tokenizer, self.reward, self.on_step = spec.tokenizer, reward, on_step
        self.objective = PPOConfig.of(spec.settings, spec.updates)
        self.docs = spec.docs
        assert spec.frozen is not None
        self.reference = new_engine(spec.frozen)
        self.base_texts = [each["text"] for each in spec.examples]
        self.base_rewards = [each["reward"] for each in spec.examples]
        self.unit = deviation(self.base_rewards) or 1.0
        self.prompt = prompt_prefix(spec.tokenizer, self.objective.prompt, c.block_size)
        self.kl_coef = self.objective.kl_coef
        self.over = False
        self.value_model = None
        if self.objective.critic:
            self.value_model = Critic.of(spec, new_engine, self.reference)
            self.critic = self.value_model.engine

    def resume(self, metrics: Metrics) -> None:
        line = metrics[-1]
        self.kl_coef = next_kl_coef(line["beta"], line["kl"], self.objective.target_kl)

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        state_before = engine.state() if self.objective.max_kl is not None else None
        rollout = self.rollout(engine, step)
        advantages, critic_metrics = self.advantages(rollout)
        loss = self.update(engine, rollout, advantages, learning_rate)
        measured = self.metrics(rollout, loss) | critic_metrics
        self.kl_coef = next_kl_coef(self.kl_coef, measured["kl"], self.objective.target_kl)
        if state_before is not None:
            self.take_back(engine, step, state_before)
        if self.on_step:
            self.on_step(step + 1, self.config.num_steps, measured)
        return measured

    def rollout(self, engine: Engine, step: int) -> Rollout:
        """Return samples of the model, with their rewards."""
        c, skip = self.config, len(self.prompt)
        first = FIRST + step * c.batch_size
        texts, batch = metrics.draw_documents(
            engine, self.tokenizer, c.batch_size, c.seed, first, self.prompt
        )
        sizes = [end - begin - 1 - skip for begin, end in pairwise(batch.offsets)]
        return Rollout(
            texts=texts,
            batch=batch,
            sizes=sizes,
            old_logprobs=skip_prompts(engine.logprobs(batch), sizes, skip),
            kl=metrics.kl_per_document(engine, self.reference, batch, skip),
            rewards=rewards_of(self.reward, texts),
        )

    def advantages(self, rollout: Rollout) -> tuple[list[float], dict[str, float]]:
        """Return the advantage of each target, and the critic's loss if there is one."""
        shaped_rewards = [
            r / self.unit - self.kl_coef * kl
            for r, kl in zip(rollout.rewards, rollout.kl, strict=True)
        ]
        if self.value_model is None:
            of_docs = losses.group_advantages(shaped_rewards, len(shaped_rewards))
            pairs = zip(of_docs, rollout.sizes, strict=True)
            return [a for a, size in pairs for _ in range(size)], {}
        scaled = [r / self.unit for r in self.base_rewards]
        low = min(mean(scaled) - DEVIATIONS, *scaled)
        high = max(mean(scaled) + DEVIATIONS, *scaled)
        returns = [min(max((r - low) / (high - low), 0.0), 1.0) for r in shaped_rewards]
        advantages, loss = self.value_model.learn(
            rollout.batch, returns, CRITIC_LR, len(self.prompt)
        )
        return advantages, {"critic_loss": loss}

    def update(
        self, engine: Engine, rollout: Rollout, advantages: Sequence[float], learning_rate: float
    ) -> float:
        """Make `num_ppo_epochs` updates and return the loss before the last one."""
        skip, batch = len(self.prompt), rollout.batch
        clip_range = self.objective.clip_range
        logprobs = rollout.old_logprobs
        for epoch in range(self.objective.num_ppo_epochs):
            if epoch:
                logprobs = skip_prompts(engine.logprobs(batch), rollout.sizes, skip)
            weights = losses.ppo_weights(logprobs, rollout.old_logprobs, advantages, clip_range)
            engine.backward(batch, pad_prompts(weights, rollout.sizes, skip))
            engine.step(learning_rate)
        return losses.ppo_loss(logprobs, rollout.old_logprobs, advantages, clip_range)

    def metrics(self, rollout: Rollout, loss: float) -> dict[str, float]:
        """Return the measurements of a step for its line of metrics.jsonl."""
        texts = rollout.texts
        in_turn = list(islice(cycle(self.base_rewards), self.config.batch_size))
        wins = metrics.win_rate(rollout.rewards, in_turn)
        assert wins
        return {
            "loss": loss,
            "reward": mean(rollout.rewards),
            "kl": mean(rollout.kl),
            "beta": self.kl_coef,
            "entropy": -mean(rollout.old_logprobs),
            "win_rate": wins[0],
            "uniqueness": len(set(texts)) / len(texts),
            "novelty": metrics.novelty(texts, self.docs),
            "length": mean(lengths_of(texts)),
        }

    def take_back(self, engine: Engine, step: int, state: State) -> None:
        """Restore `state` if the KL now exceeds max_kl, measured on the next step's documents."""
        c, max_kl = self.config, self.objective.max_kl
        following = FIRST + (step + 1) * c.batch_size
        _, batch = metrics.draw_documents(
            engine, self.tokenizer, c.batch_size, c.seed, following, self.prompt
        )
        kl = mean(metrics.kl_per_document(engine, self.reference, batch, len(self.prompt)))
        if max_kl is not None and kl > max_kl:
            engine.load(state)
            self.over = True

    def should_end(self) -> bool:
        return self.over

    def finish(self, engine: Engine) -> dict[str, Any]:
        """Return a comparison of the model's samples with the same number from the base."""
        base_texts, base_rewards = self.base_texts, self.base_rewards
        texts, batch = metrics.draw_documents(
            engine, self.tokenizer, len(base_texts), self.config.seed, 0, self.prompt
        )
        kl = metrics.kl_per_document(engine, self.reference, batch, len(self.prompt))
        rewards = rewards_of(self.reward, texts)
        rate, interval = metrics.win_rate(rewards, base_rewards) or (0.5, (0.0, 1.0))
        wanted = None
        if {*rewards, *base_rewards} <= {0.0, 1.0}:  # the reward is a rule
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
                "uniqueness": metrics.uniqueness(texts),
                "base_uniqueness": metrics.uniqueness(base_texts),
                "novelty": metrics.novelty(texts, self.docs),
                "base_novelty": metrics.novelty(base_texts, self.docs),
                "length": mean(lengths_of(texts)),
                "base_length": mean(lengths_of(base_texts)),
                "over_budget": self.over,
                "problems": metrics.detect_reward_hacking(texts, base_texts, wanted),
            }
        }
