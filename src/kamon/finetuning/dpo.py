"""A model that is told what is preferred: DPO and IPO on pairs, without a reward model.

The frozen reference is the base model. Its log-probabilities of both answers of a pair are found
once, and kept with the pair; its parameters are kept to measure how far the model has moved.
"""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kamon.config import checked_settings, require_float, require_int, require_positive
from kamon.data.documents import nfc
from kamon.data.readers import name_of
from kamon.data.split import bucket
from kamon.engines.base import Engine, has_fused_ops, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import EngineSpec, best_engine
from kamon.engines.numerics import mean
from kamon.engines.spans import Span, answer_logprobs, target_weights
from kamon.errors import ConfigError, CorpusError, TokenizerError
from kamon.finetuning import metrics, preferences
from kamon.finetuning.loop import (
    Example,
    FineTuneMethod,
    FineTuneSpec,
    NewEngine,
    StartInfo,
    base_of,
    build_config,
    examples_of_step,
    fine_tune,
    resume_fine_tuning,
)
from kamon.finetuning.losses import dpo_loss, dpo_margins, dpo_weights, ipo_loss, ipo_weights
from kamon.finetuning.preferences import COMMON, Feedback, Preference
from kamon.finetuning.rules import Rule, parse_rule
from kamon.model import Model, as_model
from kamon.storage.metrics import Metrics
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompted
from kamon.training.options import Callbacks, RunOptions, checkpoint_interval

if TYPE_CHECKING:
    from kamon.training.loop import Progress

KIND = "dpo"
LOSSES = ("dpo", "ipo")
BETA = 0.3
BATCH_SIZE = 64  # pairs in a step
EPOCHS = 4
LEARNING_RATE = 0.0007
NUM_PAIRS = 1000  # of those that are made
SAMPLES_PER_PAIR = 4  # that are drawn to find pairs by a rule
HELD_OUT_SHARE = 4  # one held-out pair of `common` for so many others
NUM_WATCHED = 250  # samples of which the KL is measured under way
NUM_MEASURED = 1000  # and in the end
SLOWLY = 20  # a scalar engine samples so many times fewer
MIN_STEPS = 20
ACCEPTED_SETTINGS = ("temperature",)  # settings beside those of every tuning
Watch = Callable[[dict[str, float]], None]
Judge = Callable[[str], float | None]


@dataclass(frozen=True)
class Pairs:
    """Tokens of the answers of pairs: first all that were chosen, then all that were rejected."""

    tokens: Sequence[Sequence[int]]
    spans: Sequence[Span]
    ref: Sequence[float]
    num_cut: int

    def __len__(self) -> int:
        return len(self.tokens) // 2

    def select(self, chosen: Sequence[int]) -> Pairs:
        places = [*chosen, *(len(self) + i for i in chosen)]
        return Pairs(
            [self.tokens[i] for i in places],
            [self.spans[i] for i in places],
            [self.ref[i] for i in places],
            0,
        )

    def logprobs(self, engine: Engine) -> list[float]:
        """log p of every answer, in their order."""
        batch = pack_sequences(self.tokens)
        return answer_logprobs(engine.logprobs(batch), self.spans, num_targets_of(batch))


def num_targets_of(batch: PackedBatch) -> list[int]:
    """The targets of each document."""
    return [end - begin - 1 for begin, end in pairwise(batch.offsets)]


def tokenize_pairs(tokenizer: Tokenizer, block_size: int, examples: Sequence[Example]) -> Pairs:
    """TokenizerError says which pair has a character that the model does not know."""
    found = []
    for key in ("chosen", "rejected"):
        for number, example in enumerate(examples, 1):
            try:
                found.append(prompted(tokenizer, example.get("prompt"), example[key]))
            except TokenizerError as error:
                raise TokenizerError(f"pair {number}, {key}: {error}") from None
    ref = [example.get(f"ref_{key}", 0.0) for key in ("chosen", "rejected") for example in examples]
    tokens = [each[: block_size + 1] for each, _ in found]
    num_cut = sum(len(each) > block_size + 1 for each, _ in found)
    for number, (each, (_, (prompt, _))) in enumerate(zip(tokens, found, strict=True)):
        if len(each) - 1 <= prompt:
            raise ConfigError(
                f"pair {number % len(examples) + 1}: its prompt leaves no room for an answer in "
                f"the model's block_size {block_size}"
            )
    return Pairs(tokens, [span for _, span in found], ref, num_cut)


def with_reference(
    tokenizer: Tokenizer, reference: Engine, examples: Sequence[Example]
) -> list[Example]:
    """The same pairs with what the reference makes of them."""
    if not examples:
        return []
    logprobs = tokenize_pairs(tokenizer, reference.config.block_size, examples).logprobs(reference)
    half = len(examples)
    return [
        {**each, "ref_chosen": logprobs[i], "ref_rejected": logprobs[half + i]}
        for i, each in enumerate(examples)
    ]


@dataclass(frozen=True)
class DPOConfig:
    """The objective of DPO.

    beta: strength of the KL penalty towards the base.
    loss: "dpo" (the sigmoid loss of the paper) or "ipo".
    label_smoothing: share of pairs that are believed to be the wrong way round.
    max_kl: KL to the base, in nats per document, at which the run ends; None for no limit.
    prefer: the rule that the pairs were made by, if they were.
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
            raise ConfigError("label_smoothing is for the loss dpo: ipo needs none")
        if self.max_kl is not None:
            require_positive("max_kl", self.max_kl)

    def settings(self) -> dict[str, Any]:
        """Return what training.json keeps."""
        return {
            "loss": self.loss,
            "beta": float(self.beta),
            "label_smoothing": float(self.label_smoothing),
            "max_kl": None if self.max_kl is None else float(self.max_kl),
            "prefer": self.prefer,
        }

    def weights(self, logprobs: Sequence[float], ref: Sequence[float]) -> list[float]:
        """Return −∂L/∂log p of every answer: first all chosen, then all rejected."""
        half = len(ref) // 2
        sides = (logprobs[:half], logprobs[half:], ref[:half], ref[half:])
        if self.loss == "ipo":
            chosen, rejected = ipo_weights(*sides, self.beta)
        else:
            chosen, rejected = dpo_weights(*sides, self.beta, self.label_smoothing)
        return [*chosen, *rejected]

    def measure(self, logprobs: Sequence[float], ref: Sequence[float]) -> dict[str, float]:
        """Return the loss, the accuracy and the mean margin of the implicit reward.

        The implicit reward is β·(log p − log p of the reference). accuracy: share of pairs whose
        chosen answer has the larger one; ties count as half.
        """
        half = len(ref) // 2
        margins = dpo_margins(logprobs[:half], logprobs[half:], ref[:half], ref[half:])
        loss = (
            ipo_loss(margins, self.beta)
            if self.loss == "ipo"
            else dpo_loss(margins, self.beta, self.label_smoothing)
        )
        right = sum(0.5 * (m >= 0) + 0.5 * (m > 0) for m in margins)
        return {"loss": loss, "accuracy": right / half, "margin": self.beta * mean(margins)}


class DPO(FineTuneMethod):
    """Learns to prefer the chosen answer of each pair.

    watch: is given loss, accuracy, margin and KL whenever they are measured.
    sample_at_end: measure samples of the final model.
    """

    def __init__(
        self,
        tuning: FineTuneSpec,
        new_engine: NewEngine,
        *,
        watch: Watch | None = None,
        sample_at_end: bool = True,
    ) -> None:
        self.tuning, self.config = tuning, tuning.config
        self.objective = DPOConfig(**tuning.settings)
        self.watch, self.sample_at_end = watch, sample_at_end
        self.train, self.held_out = (
            tokenize_pairs(
                tuning.tokenizer,
                tuning.config.block_size,
                [each for each in tuning.examples if bool(each.get("held_out")) == which],
            )
            for which in (False, True)
        )
        self.num_held_out = len(self.held_out)
        self.tested = self.held_out if self.num_held_out else self.train
        assert tuning.frozen is not None
        self.base = model_of(tuning, new_engine(tuning.frozen))
        self.slowness = 1 if has_fused_ops(self.base.engine) else SLOWLY
        self.prompt = prompt_of(tuning)
        self.done, self.kl = 0, 0.0

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        c = self.config
        self.done = step + 1
        chosen = examples_of_step(c.seed, step, c.batch_size, len(self.train))
        pairs = self.train.select(chosen)
        logprobs = pairs.logprobs(engine)
        batch = pack_sequences(pairs.tokens)
        weights = self.objective.weights(logprobs, pairs.ref)
        engine.backward(batch, target_weights(weights, pairs.spans, num_targets_of(batch)))
        engine.step(learning_rate)
        return self.objective.measure(logprobs, pairs.ref)

    def evaluate(self, engine: Engine) -> float | None:
        """Return the loss of the held-out pairs, infinite beyond max_kl."""
        if not (self.num_held_out or self.watch or self.objective.max_kl is not None):
            return None
        measured = self.measure(engine)
        if self.watch:
            self.watch({"step": self.done, **measured})
        if not self.num_held_out:
            return None
        return math.inf if self.should_end() else measured["loss"]

    def measure(self, engine: Engine) -> dict[str, float]:
        measured = self.objective.measure(self.tested.logprobs(engine), self.tested.ref)
        self.kl = 0.0
        if self.objective.max_kl is not None or self.watch:
            tuned, n = model_of(self.tuning, engine), NUM_WATCHED // self.slowness
            self.kl, _ = metrics.sampled_kl(tuned, self.base, n, self.config.seed, self.prompt)
            measured["kl"] = self.kl
        return measured

    def should_end(self) -> bool:
        return self.objective.max_kl is not None and self.kl > self.objective.max_kl

    def finish(self, engine: Engine) -> dict[str, Any]:
        over = self.should_end()
        pairs = self.objective.measure(self.tested.logprobs(engine), self.tested.ref)
        found: dict[str, Any] = {
            "pairs": pairs | {"num_pairs": len(self.tested), "held_out": bool(self.num_held_out)},
            "over_budget": over,
            "kept_within": over and self.measure(engine)["kl"] <= (self.objective.max_kl or 0.0),
        }
        if self.sample_at_end:
            found |= preference_metrics(
                model_of(self.tuning, engine),
                self.base,
                judge_from(self.tuning),
                NUM_MEASURED // self.slowness,
                self.config.seed,
                self.prompt,
                rule_of(self.tuning),
            )
        return found


def prompt_of(tuning: FineTuneSpec) -> str | None:
    """The one that is measured by: the first of the pairs that have one."""
    return next((each["prompt"] for each in tuning.examples if each.get("prompt")), None)


def model_of(tuning: FineTuneSpec, engine: Engine) -> Model:
    return Model(
        tuning.config,
        tuning.tokenizer,
        engine,
        Metrics(),
        tuning.base["training"],
        tuning.documents,
    )


def rule_of(tuning: FineTuneSpec) -> Rule | None:
    """What the pairs were made by, if that is a rule."""
    text = tuning.settings.get("prefer")
    return None if text is None else parse_rule(text)


def judge_from(tuning: FineTuneSpec) -> Judge | None:
    """The reward of a text by what the pairs were made by: whether it fulfils the rule, or how
    often the name was given, 0 for one that never was. No judge of pairs from elsewhere."""
    if rule := rule_of(tuning):
        return lambda text: float(rule(text))
    if tuning.source != COMMON:
        return None
    births = preferences.births()
    return lambda text: float(births.get(text, 0))


def preference_metrics(
    tuned: Model,
    base: Model,
    judge: Judge | None,
    n: int,
    seed: int,
    prompt: str | None,
    rule: Rule | None = None,
) -> dict[str, Any]:
    """How far the tuned model has moved, and how well, by n samples of each at temperature 1.

    rule: which share of them fulfils it is told, too.
    """
    kl, error = metrics.sampled_kl(tuned, base, n, seed, prompt)
    texts, base_texts = (
        model.sample(n, temperature=1.0, seed=seed, prompt=prompt) for model in (tuned, base)
    )
    rewards = [[judge(t) for t in some] for some in (texts, base_texts)] if judge else [[], []]
    rate, interval = metrics.win_rate(*rewards) or (None, None)
    fulfilled = {
        name: sum(map(rule, some)) / max(1, n)
        for name, some in (("fulfilled", texts), ("base_fulfilled", base_texts))
        if rule
    }
    wanted = {text for text in (*texts, *base_texts) if rule(text)} if rule else None
    return fulfilled | {
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


# ---- what is learned from


def examples_from(
    model: Model,
    data: str | PathLike[str] | Iterable[Feedback] | None,
    prefer: str | None,
    num_pairs: int,
    seed: int,
) -> tuple[list[Example], str, int]:
    """The pairs, some of them held out; where they come from; and how many are left out."""
    if (data is None) == (prefer is None):
        raise ConfigError("give either pairs, in a file or by name, or a rule to prefer by")
    num_pairs = require_int("the number of pairs", num_pairs, 1, preferences.MAX_PAIRS)
    num_left_out = 0
    if prefer is not None:
        learned, apart = pairs_by_rule(model, prefer, num_pairs, seed)
        source = f"samples, by the rule {prefer}"
    elif isinstance(data, str) and data == COMMON:
        learned, apart = preferences.common_pairs(num_pairs, seed, -(-num_pairs // HELD_OUT_SHARE))
        source = COMMON
    else:
        if isinstance(data, str | PathLike):
            answers = preferences.read(os.fspath(data))
            source = name_of(str(data))
        else:
            assert data is not None
            answers, source = preferences.checked_answers(data), "pairs in memory"
        found = preferences.divided(answers)
        if not found.learned:
            raise CorpusError(
                f"{source} has no pair: it takes a liked and a disliked text, or two to choose from"
            )
        learned, apart, num_left_out = found.learned, found.held_out, found.num_left_out
    examples = [preferences.to_record(pair) for pair in learned]
    examples += [preferences.to_record(pair) | {"held_out": True} for pair in apart]
    return examples, source, num_left_out


def pairs_by_rule(
    model: Model, prefer: str, num_pairs: int, seed: int
) -> tuple[list[Preference], list[Preference]]:
    """(pairs, held-out pairs) of the model's own samples, which fulfil a rule or not; no text is in
    pairs of both kinds."""
    rule = parse_rule(prefer)
    texts = dict.fromkeys(model.sample(SAMPLES_PER_PAIR * num_pairs, temperature=1.0, seed=seed))
    apart = {text for text in texts if not bucket(nfc(text).encode())}
    learned = preferences.rule_pairs((text for text in texts if text not in apart), rule)
    held_out = [text for text in texts if text in apart]
    if len({rule(text) for text in held_out}) < 2:
        return learned[:num_pairs], []
    return learned[:num_pairs], preferences.rule_pairs(held_out, rule)[:num_pairs]


# ---- what a program calls


def dpo(
    model: Model | str | Path,
    data: str | Path | Iterable[Feedback] | None = None,
    *,
    prefer: str | None = None,
    num_pairs: int = NUM_PAIRS,
    beta: float = BETA,
    loss: str = "dpo",
    label_smoothing: float = 0.0,
    max_kl: float | None = None,
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
    on_measured: Watch | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Model:
    """The model, tuned to prefer what is chosen in pairs, and its measurements in
    training["tuning"].

    data: a JSONL file of pairs and ratings (`preferences.read`), Preferences and Verdicts, about a
    tenth of which is held out (`preferences.divided`), or "common": num_pairs pairs of first names,
    the more common one preferred. prefer: a rule (`parse_rule`) in its
    place; the pairs are then samples of the model itself. beta: how dear it is to leave the base
    model. loss: "dpo" or "ipo". label_smoothing: the share of pairs believed to stand the wrong way
    round. max_kl: in nats per document; a tuning that goes further from the base ends, and the best
    model within it is kept. settings: batch_size (pairs in a step) and the others of
    `loop.SETTINGS`, temperature; what is not given is picked. For the other arguments and
    errors see `kamon.train`.
    """
    objective = DPOConfig(beta, loss, label_smoothing, max_kl, prefer)
    spec = EngineSpec(engine or best_engine(), dtype, threads, device, compile)
    callbacks = Callbacks(on_start, on_progress, should_stop)
    options = RunOptions(output, overwrite, checkpoint_interval(checkpoint_every), callbacks)
    path = model if isinstance(model, str | PathLike) else None
    base = as_model(model, "the base", threads=threads)
    base.check_documents("preferences are between documents")
    seed = require_int("seed", settings.get("seed", base.config.seed))
    examples, source, num_left_out = examples_from(base, data, prefer, num_pairs, seed)
    reference = spec.create(base.config)
    params = base.engine.state()["params"]
    reference.load(initial_state(params))
    examples = with_reference(base.tokenizer, reference, examples)
    tuning = replace(
        tuning_for(base, path, params, examples, source, settings),
        num_left_out=num_left_out,
        settings=objective.settings(),
    )
    return fine_tune(tuning, partial(DPO, watch=on_measured), spec, options)


def resume(path: str | Path, *, on_measured: Watch | None = None, **how: Any) -> Model:
    """Resume a run of `dpo`, bit for bit. how: as in `resume_fine_tuning`."""
    return resume_fine_tuning(path, KIND, partial(DPO, watch=on_measured), **how)


def num_cut(tuning: FineTuneSpec) -> int:
    """Answers that are longer than the model can hold: their beginnings alone are learned."""
    return tokenize_pairs(tuning.tokenizer, tuning.config.block_size, tuning.examples).num_cut


def tuning_for(
    base: Model,
    path: str | Path | None,
    params: array[float],
    examples: list[Example],
    source: str,
    settings: Mapping[str, Any],
    kind: str = KIND,
) -> FineTuneSpec:
    """Of these pairs, with `settings` of Config instead of those that are picked."""
    settings = checked_settings(settings)
    num_pairs = sum(not each.get("held_out") for each in examples)
    batch_size = settings.get("batch_size", min(BATCH_SIZE, num_pairs))
    picked = {
        "batch_size": batch_size,
        "gradient_accumulation_steps": 1,
        "num_steps": max(MIN_STEPS, -(-EPOCHS * num_pairs // max(1, batch_size))),
        "learning_rate": LEARNING_RATE,
        "min_lr": 0.0,
        "warmup_steps": 5,
        "schedule": "linear",
        "weight_decay": 0.0,
        "dropout": 0.0,
    }
    return FineTuneSpec(
        kind=kind,
        config=build_config(base.config, picked, settings, *ACCEPTED_SETTINGS),
        tokenizer=base.tokenizer,
        params=params,
        settings={},
        examples=examples,
        source=source,
        base=base_of(base, path),
        documents=base.documents,
        frozen=params,
    )
