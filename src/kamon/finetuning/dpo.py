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
from kamon.data.corpus import name_of
from kamon.data.documents import nfc
from kamon.data.split import bucket
from kamon.engines.base import Engine, has_fused_ops, initial_state
from kamon.engines.batch import PackedBatch, pack_sequences
from kamon.engines.factory import best_engine, make_engine
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
from kamon.model import Model, as_model
from kamon.storage.metrics import Metrics
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompted

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
class Objective:
    """What is to become small, of the margins of pairs."""

    loss: str
    beta: float
    label_smoothing: float

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Objective:
        return cls(settings["loss"], settings["beta"], settings["label_smoothing"])

    def check(self) -> None:
        if self.loss not in LOSSES:
            raise ConfigError(f"loss must be {' or '.join(LOSSES)}, not {self.loss!r:.60}")
        require_positive("beta", self.beta)
        if not 0 <= require_float("label_smoothing", self.label_smoothing) < 0.5:
            raise ConfigError(
                f"label_smoothing must be from 0 to below 0.5, not {self.label_smoothing}"
            )
        if self.loss == "ipo" and self.label_smoothing:
            raise ConfigError("label_smoothing is for the loss dpo: ipo needs none")

    def weights(self, logprobs: Sequence[float], ref: Sequence[float]) -> list[float]:
        """−∂L/∂log p of every answer: all that were chosen, then all that were rejected."""
        half = len(ref) // 2
        sides = (logprobs[:half], logprobs[half:], ref[:half], ref[half:])
        if self.loss == "ipo":
            chosen, rejected = ipo_weights(*sides, self.beta)
        else:
            chosen, rejected = dpo_weights(*sides, self.beta, self.label_smoothing)
        return [*chosen, *rejected]

    def measure(self, logprobs: Sequence[float], ref: Sequence[float]) -> dict[str, float]:
        """loss; accuracy: the share of pairs whose chosen answer has the larger implicit reward
        β·(log p − log p of the reference), of equal ones half; margin: by how much, in the mean."""
        half = len(ref) // 2
        margins = dpo_margins(logprobs[:half], logprobs[half:], ref[:half], ref[half:])
        loss = (
            ipo_loss(margins, self.beta)
            if self.loss == "ipo"
            else dpo_loss(margins, self.beta, self.label_smoothing)
        )
        right = sum(0.5 * (m >= 0) + 0.5 * (m > 0) for m in margins)
        return {"loss": loss, "accuracy": right / half, "margin": self.beta * mean(margins)}


def dpo_steps(
    tuning: FineTuneSpec,
    new_engine: NewEngine,
    *,
    watch: Watch | None = None,
    measured: bool = True,
) -> FineTuneMethod:
    """How DPO goes. watch: is given loss, accuracy, margin and KL, whenever they are measured;
    measured: whether samples are, in the end."""
    c, settings = tuning.config, tuning.settings
    objective = Objective.of(settings)
    learned, apart = (
        tokenize_pairs(
            tuning.tokenizer,
            c.block_size,
            [each for each in tuning.examples if bool(each.get("held_out")) == which],
        )
        for which in (False, True)
    )
    assert tuning.frozen is not None
    base = model_of(tuning, new_engine(tuning.frozen))
    max_kl, tested = settings.get("max_kl"), apart if len(apart) else learned
    slowly = 1 if has_fused_ops(base.engine) else SLOWLY
    last: dict[str, float] = {}
    done = 0
    prompt = prompt_of(tuning)

    def make(engine: Engine, step: int, rate: float) -> Mapping[str, float]:
        nonlocal done
        done = step + 1
        pairs = learned.select(examples_of_step(c.seed, step, c.batch_size, len(learned)))
        logprobs = pairs.logprobs(engine)
        batch = pack_sequences(pairs.tokens)
        weights = objective.weights(logprobs, pairs.ref)
        engine.backward(batch, target_weights(weights, pairs.spans, num_targets_of(batch)))
        engine.step(rate)
        return objective.measure(logprobs, pairs.ref)

    def look(engine: Engine) -> dict[str, float]:
        found = objective.measure(tested.logprobs(engine), tested.ref)
        if max_kl is not None or watch:
            own = model_of(tuning, engine)
            found["kl"], _ = metrics.sampled_kl(own, base, NUM_WATCHED // slowly, c.seed, prompt)
        last.clear()
        last.update(found)
        return found

    def measure(engine: Engine) -> float | None:
        found = look(engine)
        if watch:
            watch({"step": done, **found})
        if not len(apart):
            return None
        return math.inf if is_over() else found["loss"]

    def is_over() -> bool:
        return max_kl is not None and last.get("kl", 0.0) > max_kl

    def finish(engine: Engine) -> dict[str, Any]:
        own = model_of(tuning, engine)
        over = is_over()
        found: dict[str, Any] = {
            "pairs": objective.measure(tested.logprobs(engine), tested.ref)
            | {"num_pairs": len(tested), "held_out": bool(len(apart))},
            "over_budget": over,
            "kept_within": over and look(engine)["kl"] <= (max_kl or 0.0),
        }
        if measured:
            rule, judge = rule_of(tuning), judge_from(tuning)
            found |= preference_metrics(
                own, base, judge, NUM_MEASURED // slowly, c.seed, prompt, rule
            )
        return found

    return FineTuneMethod(
        make,
        evaluate=measure if len(apart) or watch or max_kl is not None else None,
        num_held_out=len(apart),
        should_end=is_over,
        finish=finish,
    )


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


def rule_of(tuning: FineTuneSpec) -> preferences.Rule | None:
    """What the pairs were made by, if that is a rule."""
    text = tuning.settings.get("prefer")
    return None if text is None else preferences.parse_rule(text)


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
    rule: preferences.Rule | None = None,
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
    rule = preferences.parse_rule(prefer)
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
    the more common one preferred. prefer: a rule (`preferences.parse_rule`) in its
    place; the pairs are then samples of the model itself. beta: how dear it is to leave the base
    model. loss: "dpo" or "ipo". label_smoothing: the share of pairs believed to stand the wrong way
    round. max_kl: in nats a document; a tuning that goes further from the base ends, and the best
    model within it is kept. settings: batch_size (pairs in a step) and the others of
    `tune.SETTINGS`, temperature; what is not given is picked. For the other arguments and
    errors see `kamon.train`.
    """
    objective = Objective(loss, beta, label_smoothing)
    objective.check()
    max_kl = None if max_kl is None else require_positive("max_kl", max_kl)
    path = model if isinstance(model, str | PathLike) else None
    base = as_model(model, "the base", threads=threads)
    base.check_documents("preferences are between documents")
    name = engine or best_engine()
    seed = settings.get("seed", base.config.seed)
    seed = require_int("seed", seed)
    examples, source, num_left_out = examples_from(base, data, prefer, num_pairs, seed)
    reference = make_engine(
        *(name, base.config), dtype=dtype, threads=threads, device=device, compile=compile
    )
    params = base.engine.state()["params"]
    reference.load(initial_state(params))
    examples = with_reference(base.tokenizer, reference, examples)
    tuning = tuning_for(base, path, params, examples, source, settings)
    tuning = replace(
        tuning,
        num_left_out=num_left_out,
        settings={
            "loss": loss,
            "beta": float(beta),
            "label_smoothing": float(label_smoothing),
            "max_kl": max_kl,
            "prefer": prefer,
        },
    )
    return fine_tune(
        tuning,
        partial(dpo_steps, watch=on_measured),
        engine=name,
        dtype=dtype,
        threads=threads,
        device=device,
        compile=compile,
        output=output,
        overwrite=overwrite,
        checkpoint_every=checkpoint_every,
        on_start=on_start,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def resume(path: str | Path, *, on_measured: Watch | None = None, **how: Any) -> Model:
    """Go on with a tuning by `dpo`, as if it had never been interrupted, bit for bit; how: of
    `tune.resume_tuning`."""
    return resume_fine_tuning(path, KIND, partial(dpo_steps, watch=on_measured), **how)


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
    """Of these pairs, with `settings` of Config in place of those that are picked."""
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
