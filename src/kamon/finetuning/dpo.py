"""Direct preference optimisation: DPO and IPO, which learn from pairs without a reward model.

The frozen reference is the base model. Kamon computes its log-probabilities of both answers once
and keeps them with the pair. It keeps the base's parameters to measure how far the model has moved.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from kamon.config import checked_settings, require_float, require_int, require_positive
from kamon.data.documents import nfc
from kamon.data.split import bucket
from kamon.engines.base import Engine, has_fused_ops, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import best_engine
from kamon.engines.numerics import mean
from kamon.engines.spans import Span, answer_logprobs, target_weights
from kamon.errors import ConfigError, CorpusError, TokenizerError
from kamon.finetuning import loop, metrics, preferences
from kamon.finetuning.losses import dpo_loss, dpo_margins, dpo_weights, ipo_loss, ipo_weights
from kamon.finetuning.preferences import COMMON, Data, Divided
from kamon.finetuning.rules import Rule, parse_rule
from kamon.model import Model, as_model
from kamon.storage.metrics import Metrics
from kamon.storage.records import BaseRecord
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompted

KIND = "dpo"
LOSSES = ("dpo", "ipo")
BETA = 0.3
BATCH_SIZE = 64  # pairs in a step
EPOCHS = 4
PICKED = {  # defaults that differ from the base's settings
    "batch_size": BATCH_SIZE,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.0007,
    "min_lr": 0.0,
    "warmup_steps": 5,
    "schedule": "linear",
    "weight_decay": 0.0,
    "dropout": 0.0,
}
MIN_STEPS = 20
NUM_PAIRS = 1000  # built-in pairs, or pairs made with a rule
SAMPLES_PER_PAIR = 4  # samples to generate for each pair made with a rule
HELD_OUT_SHARE = 4  # built-in training pairs per validation pair
NUM_WATCHED = 250  # samples to measure the KL with during the run
NUM_MEASURED = 1000  # the same at the end
SLOWDOWN = 20  # an engine without fused calls divides these two by this factor
ACCEPTED_SETTINGS = ("temperature",)  # settings besides `loop.SETTINGS`
Watch = Callable[[dict[str, float]], None]
Judge = Callable[[str], float | None]


@dataclass(frozen=True)
class Pairs:
    """The tokenized answers of pairs: first all chosen ones, then all rejected ones.

    Attributes:
        spans: where each answer begins and ends.
        ref: the reference's log p of each answer in nats, or 0 before Kamon has computed it.
        num_cut: answers that are too long for the model. It learns only their beginning.
    """

    tokens: Sequence[Sequence[int]]
    spans: Sequence[Span]
    ref: Sequence[float]
    num_cut: int

    def __len__(self) -> int:
        return len(self.tokens) // 2

    def select(self, indices: Sequence[int]) -> Pairs:
        rows = [*indices, *(len(self) + i for i in indices)]
        return Pairs(
            tokens=[self.tokens[i] for i in rows],
            spans=[self.spans[i] for i in rows],
            ref=[self.ref[i] for i in rows],
            num_cut=0,
        )

    def logprobs(self, engine: Engine) -> list[float]:
        """Return log p of every answer, in nats."""
        batch = pack_sequences(self.tokens)
        return answer_logprobs(engine.logprobs(batch), self.spans, num_targets_of(batch))


def num_targets_of(batch: PackedBatch) -> list[int]:
    """Return the number of targets of each document."""
    return [end - begin - 1 for begin, end in pairwise(batch.offsets)]


def tokenize_pairs(
    tokenizer: Tokenizer, block_size: int, examples: Sequence[loop.Example]
) -> Pairs:
    """Return the pairs as tokens, cut to block_size.

    Raises: TokenizerError for a character that the model does not know, and ConfigError if a prompt
        leaves no room for an answer. Both name the pair.
    """
    encoded = []
    for key in ("chosen", "rejected"):
        for number, example in enumerate(examples, 1):
            try:
                encoded.append(prompted(tokenizer, example.get("prompt"), example[key]))
            except TokenizerError as error:
                raise TokenizerError(f"pair {number}, {key}: {error}") from None
    ref = [example.get(f"ref_{key}", 0.0) for key in ("chosen", "rejected") for example in examples]
    tokens = [whole[: block_size + 1] for whole, _ in encoded]
    num_cut = sum(len(whole) > block_size + 1 for whole, _ in encoded)
    for i, (row, (_, (prompt, _))) in enumerate(zip(tokens, encoded, strict=True)):
        if len(row) - 1 <= prompt:
            raise ConfigError(
                f"pair {i % len(examples) + 1}: its prompt leaves no room for a completion in "
                f"the model's block_size {block_size}"
            )
    return Pairs(tokens, [span for _, span in encoded], ref, num_cut)


def with_reference(
    tokenizer: Tokenizer, reference: Engine, examples: Sequence[loop.Example]
) -> list[loop.Example]:
    """Return the pairs with the reference's log-probability of both answers, in nats."""
    if not examples:
        return []
    logprobs = tokenize_pairs(tokenizer, reference.config.block_size, examples).logprobs(reference)
    half = len(examples)
    return [
        {**example, "ref_chosen": logprobs[i], "ref_rejected": logprobs[half + i]}
        for i, example in enumerate(examples)
    ]


@dataclass(frozen=True)
class DPOConfig:
    """The objective of DPO.

    Attributes:
        beta: strength of the KL penalty towards the base.
        loss: "dpo" (the loss of the paper, which TRL calls sigmoid) or "ipo".
        label_smoothing: assumed share of pairs that are the wrong way round.
        max_kl: the run ends if its KL to the base exceeds this, in nats per document. None for no
            limit.
        prefer: the rule that made the pairs, or None.
    """

    beta: float = BETA
    loss: str = "dpo"
    label_smoothing: float = 0.0
    max_kl: float | None = None
    prefer: str | None = None

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(f"loss must be {' or '.join(LOSSES)}, not {self.loss!r:.60}")
        require_positive("beta", self.beta)
        if not 0 <= require_float("label_smoothing", self.label_smoothing) < 0.5:
            raise ConfigError(
                f"label_smoothing must be from 0 to below 0.5, not {self.label_smoothing}"
            )
        if self.loss == "ipo" and self.label_smoothing:
            raise ConfigError("label_smoothing needs the loss dpo", "drop label_smoothing")
        if self.max_kl is not None:
            require_positive("max_kl", self.max_kl)

    def settings(self) -> dict[str, Any]:
        """Return the settings as training.json keeps them."""
        return {
            "loss": self.loss,
            "beta": float(self.beta),
            "label_smoothing": float(self.label_smoothing),
            "max_kl": None if self.max_kl is None else float(self.max_kl),
            "prefer": self.prefer,
        }

    def weights(self, logprobs: Sequence[float], ref: Sequence[float]) -> list[float]:
        """Return −∂L/∂log p of every answer: first all chosen ones, then all rejected ones."""
        margins = margins_of(logprobs, ref)
        if self.loss == "ipo":
            chosen = ipo_weights(margins, self.beta)
        else:
            chosen = dpo_weights(margins, self.beta, self.label_smoothing)
        return [*chosen, *(-w for w in chosen)]

    def measure(self, logprobs: Sequence[float], ref: Sequence[float]) -> dict[str, float]:
        """Return the loss, the accuracy and the mean margin of the implicit reward.

        The implicit reward is β·(log p − log p of the reference). The accuracy is the share of
        pairs whose chosen answer has the larger reward. Ties count as half.
        """
        margins = margins_of(logprobs, ref)
        if self.loss == "ipo":
            loss = ipo_loss(margins, self.beta)
        else:
            loss = dpo_loss(margins, self.beta, self.label_smoothing)
        accuracy = sum(0.5 * (m >= 0) + 0.5 * (m > 0) for m in margins) / len(margins)
        return {"loss": loss, "accuracy": accuracy, "margin": self.beta * mean(margins)}


def margins_of(logprobs: Sequence[float], ref: Sequence[float]) -> list[float]:
    half = len(ref) // 2
    return dpo_margins(logprobs[:half], logprobs[half:], ref[:half], ref[half:])


class DPO(loop.FineTuneMethod):
    """Learns to prefer the chosen answer of each pair.

    Args:
        watch: a function that Kamon calls with loss, accuracy, margin and KL at each evaluation.
        sample_at_end: measure samples of the final model.
    """

    def __init__(
        self,
        spec: loop.FineTuneSpec,
        new_engine: loop.NewEngine,
        *,
        watch: Watch | None = None,
        sample_at_end: bool = True,
    ) -> None:
        self.spec, self.config = spec, spec.config
        self.objective = DPOConfig(**spec.settings)
        self.watch, self.sample_at_end = watch, sample_at_end
        self.train, self.held_out = (
            tokenize_pairs(
                spec.tokenizer,
                spec.config.block_size,
                [example for example in spec.examples if bool(example.get("held_out")) == which],
            )
            for which in (False, True)
        )
        self.num_held_out = len(self.held_out)
        self.measured_pairs = self.held_out if self.num_held_out else self.train
        assert spec.frozen is not None
        self.base = model_of(spec, new_engine(spec.frozen))
        self.slowdown = 1 if has_fused_ops(self.base.engine) else SLOWDOWN
        self.prompt = prompt_of(spec)
        self.num_steps_done, self.kl = 0, 0.0

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        c = self.config
        self.num_steps_done = step + 1
        pairs = self.train.select(
            loop.examples_of_step(c.seed, step, c.batch_size, len(self.train))
        )
        logprobs = pairs.logprobs(engine)
        batch = pack_sequences(pairs.tokens)
        weights = self.objective.weights(logprobs, pairs.ref)
        engine.backward(batch, target_weights(weights, pairs.spans, num_targets_of(batch)))
        engine.step(learning_rate)
        return self.objective.measure(logprobs, pairs.ref)

    def evaluate(self, engine: Engine) -> float | None:
        """Return the validation loss, or infinity if the KL exceeds max_kl."""
        if not (self.num_held_out or self.watch or self.objective.max_kl is not None):
            return None
        measured = self.measure(engine)
        if self.watch:
            self.watch({"step": self.num_steps_done, **measured})
        if not self.num_held_out:
            return None
        return math.inf if self.should_end() else measured["loss"]

    def measure(self, engine: Engine) -> dict[str, float]:
        """Return loss, accuracy and margin of the pairs, and the KL if max_kl or watch is set."""
        pairs = self.measured_pairs
        measured = self.objective.measure(pairs.logprobs(engine), pairs.ref)
        self.kl = 0.0
        if self.objective.max_kl is not None or self.watch:
            tuned, n = model_of(self.spec, engine), NUM_WATCHED // self.slowdown
            self.kl, _ = metrics.sampled_kl(tuned, self.base, n, self.config.seed, self.prompt)
            measured["kl"] = self.kl
        return measured

    def should_end(self) -> bool:
        return self.objective.max_kl is not None and self.kl > self.objective.max_kl

    def finish(self, engine: Engine) -> dict[str, Any]:
        over, pairs = self.should_end(), self.measured_pairs
        of_pairs = self.objective.measure(pairs.logprobs(engine), pairs.ref)
        measured: dict[str, Any] = {
            "pairs": of_pairs | {"num_pairs": len(pairs), "held_out": bool(self.num_held_out)},
            "over_budget": over,
            "kept_within": over and self.measure(engine)["kl"] <= (self.objective.max_kl or 0.0),
        }
        if self.sample_at_end:
            n = NUM_MEASURED // self.slowdown
            measured |= sample_metrics(self.spec, engine, self.base, n)
        return measured


def prompt_of(spec: loop.FineTuneSpec) -> str | None:
    """Return the prompt for the samples that Kamon measures: the first one in the pairs."""
    return next((pair["prompt"] for pair in spec.examples if pair.get("prompt")), None)


def model_of(spec: loop.FineTuneSpec, engine: Engine) -> Model:
    training, documents = spec.base_training, spec.documents
    return Model(spec.config, spec.tokenizer, engine, Metrics(), training, documents)


def rule_of(spec: loop.FineTuneSpec) -> Rule | None:
    """Return the rule that made the pairs, or None."""
    text = spec.settings.get("prefer")
    return None if text is None else parse_rule(text)


def judge_from(spec: loop.FineTuneSpec) -> Judge | None:
    """Return a function that rewards a text, or None for a user's own pairs.

    If a rule made the pairs, the reward is 1 for a text that satisfies it, or else 0. For the
    built-in pairs, the reward is how often the name was given.
    """
    if rule := rule_of(spec):
        return lambda text: float(rule(text))
    if spec.source != COMMON:
        return None
    births = preferences.births()
    return lambda text: float(births.get(text, 0))


def sample_metrics(spec: loop.FineTuneSpec, engine: Engine, base: Model, n: int) -> dict[str, Any]:
    """Compare n samples of the model in `engine` with n of its base, at temperature 1.

    Returns: measurements for training.json.
        fulfilled, base_fulfilled: shares of samples that satisfy the rule, if there is one.
        kl, kl_error: the KL to the base, in nats per document, and its standard error.
        win_rate: see `metrics.win_rate`. None without a judge.
        judged: share of sample pairs that the judge can compare.
        collapse: a sentence for each sign of reward hacking.
    """
    tuned, seed, prompt = model_of(spec, engine), spec.config.seed, prompt_of(spec)
    judge, rule = judge_from(spec), rule_of(spec)
    kl, error = metrics.sampled_kl(tuned, base, n, seed, prompt)
    texts, base_texts = (
        model.sample(n, temperature=1.0, seed=seed, prompt=prompt) for model in (tuned, base)
    )
    rewards = [[judge(t) for t in some] for some in (texts, base_texts)] if judge else [[], []]
    rate, interval = metrics.win_rate(*rewards) or (None, None)
    measured: dict[str, Any] = {}
    wanted = None
    if rule:
        wanted = {text for text in (*texts, *base_texts) if rule(text)}
        for name, some in (("fulfilled", texts), ("base_fulfilled", base_texts)):
            measured[name] = sum(text in wanted for text in some) / max(1, n)
    return measured | {
        "num_samples": n,
        "kl": kl,
        "kl_error": error,
        "win_rate": rate,
        "win_rate_interval": None if interval is None else list(interval),
        "judged": sum(None not in pair for pair in zip(*rewards, strict=True)) / max(1, n),
        "uniqueness": metrics.uniqueness(texts),
        "base_uniqueness": metrics.uniqueness(base_texts),
        "novelty": metrics.novelty(texts, base.docs),
        "base_novelty": metrics.novelty(base_texts, base.docs),
        "collapse": metrics.detect_reward_hacking(texts, base_texts, wanted),
    }


# ---- the training set and the validation set


def examples_from(
    model: Model, data: Data | None, prefer: str | None, num_pairs: int, seed: int
) -> tuple[list[loop.Example], str, int]:
    """Return (the pairs of both sets, their source, how many pairs were left out)."""
    if (data is None) == (prefer is None):
        raise ConfigError("give either pairs (a file or a name) or a rule")
    num_pairs = require_int("the number of pairs", num_pairs, 1, preferences.MAX_PAIRS)
    if prefer is not None:
        pairs = pairs_by_rule(model, prefer, num_pairs, seed)
        source = f"samples, by the rule {prefer}"
    else:
        assert data is not None
        num_held_out = -(-num_pairs // HELD_OUT_SHARE)
        pairs, source = preferences.load_pairs(data, num_pairs, num_held_out, seed)
        if not pairs.learned:
            raise CorpusError(
                f"{source} has no pair",
                "give a liked and a disliked text, or one preferred to another",
            )
    examples = [preferences.to_record(pair) for pair in pairs.learned]
    examples += [preferences.to_record(pair) | {"held_out": True} for pair in pairs.held_out]
    return examples, source, pairs.num_left_out


def pairs_by_rule(model: Model, prefer: str, num_pairs: int, seed: int) -> Divided:
    """Return pairs of the model's own samples: one satisfies the rule, the other does not.

    No text is in both sets.
    """
    rule = parse_rule(prefer)
    texts = dict.fromkeys(model.sample(SAMPLES_PER_PAIR * num_pairs, temperature=1.0, seed=seed))
    apart = {text for text in texts if not bucket(nfc(text).encode())}
    learned = preferences.rule_pairs((text for text in texts if text not in apart), rule)
    held_out = [text for text in texts if text in apart]
    if len({rule(text) for text in held_out}) < 2:
        return Divided(learned[:num_pairs], [])
    return Divided(learned[:num_pairs], preferences.rule_pairs(held_out, rule)[:num_pairs])


# ---- public functions


def dpo(
    model: Model | str | Path,
    data: Data | None = None,
    *,
    prefer: str | None = None,
    num_pairs: int = NUM_PAIRS,
    beta: float = BETA,
    loss: str = "dpo",
    label_smoothing: float = 0.0,
    max_kl: float | None = None,
    on_measured: Watch | None = None,
    **options: Any,
) -> Model:
    """Return `model`, fine-tuned to prefer the chosen answer of each pair.

    Its measurements are in `training.tuning`.

    Args:
        model: the base, or its directory.
        data: a JSON Lines file of pairs and ratings, a list of `Preference` and `Rating`, or
            "common": built-in pairs of first names that prefer the more common one. About a tenth
            is the validation set, which shares no text with the training set.
        prefer: a rule (see `parse_rule`) instead of `data`. The pairs are then samples of the
            model itself.
        num_pairs: number of pairs to make for "common" or a rule.
        beta: strength of the KL penalty towards the base.
        loss: "dpo" or "ipo".
        label_smoothing: assumed share of pairs that are the wrong way round.
        max_kl: limit of the KL to the base, in nats per document. Kamon ends a run that exceeds it
            and returns the best model within the limit.
        on_measured: a function that Kamon calls with loss, accuracy, margin and KL at each
            evaluation.
        options: batch_size (pairs in a step), temperature, and the other settings of
            `loop.SETTINGS`. Also engine, output and the other options of `kamon.train`.

    Raises: the errors of `kamon.train`.
    """
    objective = DPOConfig(beta, loss, label_smoothing, max_kl, prefer)
    engine, run, settings = loop.run_arguments(options)
    engine = replace(engine, name=engine.name or best_engine())
    base = as_model(model, "the base", threads=engine.threads).without_blend()
    base.check_documents("DPO")
    seed = require_int("seed", settings.get("seed", base.config.seed))
    examples, source, num_left_out = examples_from(base, data, prefer, num_pairs, seed)
    reference = engine.create(base.config)
    reference.load(initial_state(base.engine.state()["params"]))
    examples = with_reference(base.tokenizer, reference, examples)
    record = loop.base_of(base, model)
    spec = replace(
        make_spec(base, record, examples, source, settings),
        num_left_out=num_left_out,
        settings=objective.settings(),
    )
    return loop.fine_tune(spec, partial(DPO, watch=on_measured), engine, run)


def resume(path: str | Path, *, on_measured: Watch | None = None, **how: Any) -> Model:
    """Finish an interrupted run of `dpo` in `path`. The model is the same, bit for bit.

    Args:
        how: see `resume_fine_tuning`.
    """
    return loop.resume_fine_tuning(path, KIND, partial(DPO, watch=on_measured), **how)


def num_cut(spec: loop.FineTuneSpec) -> int:
    """Return how many answers are too long for the model, which learns only their beginning."""
    return tokenize_pairs(spec.tokenizer, spec.config.block_size, spec.examples).num_cut


def make_spec(
    base: Model,
    record: BaseRecord,
    examples: list[loop.Example],
    source: str,
    settings: Mapping[str, Any],
    kind: str = KIND,
) -> loop.FineTuneSpec:
    """Return the spec of a run on these pairs, without the settings of its objective.

    record: the record of the base (see `base_of`).
    settings: settings of Config that replace the defaults.
    """
    settings = checked_settings(settings)
    num_pairs = sum(not example.get("held_out") for example in examples)
    batch_size = settings.get("batch_size", min(BATCH_SIZE, num_pairs))
    picked = PICKED | {
        "batch_size": batch_size,
        "num_steps": max(MIN_STEPS, -(-EPOCHS * num_pairs // max(1, batch_size))),
    }
    params = base.engine.state()["params"]
    return loop.FineTuneSpec(
        kind=kind,
        config=loop.build_config(base.config, picked, settings, *ACCEPTED_SETTINGS),
        tokenizer=base.tokenizer,
        params=params,
        settings={},
        examples=examples,
        source=source,
        base=record,
        base_training=base.training,
        documents=base.documents,
        frozen=params,
    )
