"""A reward model: the same transformer, which predicts good or bad after a whole document.

Two special tokens, `<|good|>` and `<|bad|>`, are targets after the end of a document. Its reward is
r = log p(good) − log p(bad) in nats. The model learns from pairs of documents with one preferred
document each (Bradley and Terry 1952, doi:10.2307/2334029).

It also keeps learning the documents themselves, with a small weight. So it stays a language model
that gives special tokens no probability inside a document. Source: Yang et al. 2024,
"Regularizing hidden states enables learning generalizable reward model for LLMs", arXiv:2406.10216.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

from kamon.config import Config, require_float, require_int
from kamon.engines.base import Engine, has_fused_ops
from kamon.engines.batch import ANSWER, BAD, GOOD, PackedBatch, pack_sequences
from kamon.engines.numerics import mean
from kamon.errors import ConfigError, CorpusError
from kamon.finetuning import loop, preferences
from kamon.finetuning.expand_vocab import expand_vocab
from kamon.finetuning.losses import bradley_terry_loss, bradley_terry_weights, sigmoid
from kamon.model import Model, as_model
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import knows_prompts, prompted

KIND = "reward"
PICKED = {
    "num_steps": 200,
    "batch_size": 32,  # pairs
    "gradient_accumulation_steps": 1,
    "learning_rate": 0.0015,
    "min_lr": 0.0,
    "warmup_steps": 0,
    "dropout": 0.0,
}
LM_WEIGHT = 0.1
NUM_PAIRS = 1_000  # built-in pairs in the training set, and as many in the validation set
NUM_BINS = 5
ENDS = 2  # targets after a document: its end, then good or bad
READ_FOR_ROWS = 100  # documents that the rows of new tokens are computed from


def is_reward_model(model: Model) -> bool:
    return model.training.kind == KIND


# ---- rewards


def score_documents(
    engine: Engine, tokenizer: Tokenizer, documents: Sequence[Sequence[int]]
) -> list[float]:
    """Return the reward of each document in nats. documents: tokens from `prompted`."""
    verdicts = (tokenizer.special[GOOD], tokenizer.special[BAD])
    batch = pack_sequences([*tokens, verdict] for tokens in documents for verdict in verdicts)
    logprobs = engine.logprobs(batch)
    last = [logprobs[i] for i in last_targets(batch)]
    return [good - bad for good, bad in zip(last[::2], last[1::2], strict=True)]


def last_targets(batch: PackedBatch) -> list[int]:
    """Return the index of the last target of each document."""
    return [end - d - 1 for d, end in enumerate(batch.offsets[1:], 1)]


def reward_of(
    model: Model | str | Path, texts: Sequence[str], prompt: str | None = None
) -> list[float]:
    """Return the reward of each text in nats: log p(good) − log p(bad) after it.

    Args:
        model: a reward model, or its directory.
        prompt: the prompt that the texts answer.

    Raises: ConfigError if the model is not a reward model, or if a text is too long for it.
        TokenizerError for a character that it does not know.
    """
    model = as_model(model, "the reward model")
    if not is_reward_model(model):
        raise ConfigError("the model is not a reward model", "train one with `kamon reward`")
    check_prompt(model, prompt)
    documents = [prompted(model.tokenizer, prompt, text)[0] for text in texts]
    room = model.config.block_size
    for text, tokens in zip(texts, documents, strict=True):
        if len(tokens) > room:
            raise ConfigError(
                f"the text {text[:30]!r} has {len(tokens):,} tokens, and the reward model reads "
                f"at most {room:,}"
            )
    return score_documents(model.engine, model.tokenizer, documents)


def check_prompt(model: Model, prompt: str | None) -> None:
    if prompt is not None and not knows_prompts(model.tokenizer):
        raise ConfigError(
            "the reward model knows no prompts",
            "train one with `kamon reward` on pairs that have prompts",
        )


# ---- evaluation


def calibration(margins: Sequence[float], num_bins: int = NUM_BINS) -> dict[str, Any]:
    """Return accuracy, loss and calibration of a reward model on pairs.

    The model prefers one text of a pair with probability σ(|margin|). Kamon sorts the pairs into
    bins of this probability, from ½ to 1. A margin of 0 counts as half right. calibration_error is
    the expected calibration error: the mean difference between the predicted and the observed
    accuracy of a bin, weighted by its pairs (Guo et al. 2017, arXiv:1706.04599).

    Args:
        margins: r(chosen) − r(rejected) of each pair, in nats.
    """
    rows: list[list[tuple[float, float]]] = [[] for _ in range(num_bins)]
    right = [1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins]
    for margin, observed in zip(margins, right, strict=True):
        predicted = sigmoid(abs(margin))
        rows[min(int((2 * predicted - 1) * num_bins), num_bins - 1)].append((predicted, observed))
    bins, error = [], 0.0
    for i, row in enumerate(rows):
        if not row:
            continue
        predicted, observed = mean([p for p, _ in row]), mean([o for _, o in row])
        error += abs(predicted - observed) * len(row) / len(margins)
        bins.append(
            {
                "from": 0.5 + 0.5 * i / num_bins,
                "to": 0.5 + 0.5 * (i + 1) / num_bins,
                "num_pairs": len(row),
                "predicted": predicted,
                "observed": observed,
            }
        )
    return {
        "num_pairs": len(margins),
        "accuracy": mean(right),
        "loss": bradley_terry_loss(margins),
        "calibration_error": error,
        "bins": bins,
    }


# ---- public functions


def reward_model(
    model: Model | str | Path,
    data: preferences.Data,
    held_out: Sequence[preferences.Preference] | None = None,
    *,
    num_pairs: int = NUM_PAIRS,
    lm_weight: float = LM_WEIGHT,
    **options: Any,
) -> Model:
    """Return a reward model that starts from `model`.

    Its accuracy and calibration on the validation set are in `training.tuning`.

    Args:
        model: the base, or its directory.
        data: a JSON Lines file of pairs and ratings, a list of `Preference` and `Rating`, or
            "common": built-in pairs of first names that prefer the more common one.
        held_out: the validation set, which decides the best model. Default: about a tenth of
            `data`, which shares no text with the rest.
        num_pairs: number of pairs to make for "common".
        lm_weight: weight of the mean −log p of the documents themselves.
        options: batch_size (pairs in a step), and the other settings of `loop.SETTINGS`. Also
            engine, output and the other options of `kamon.train`.

    Raises: the errors of `kamon.train`.
    """
    engine, run, settings = loop.run_arguments(options)
    base = as_model(model, "the base", **engine.keywords()).without_blend()
    base.check_documents("a reward model")
    if is_reward_model(base):
        raise ConfigError("the model is already a reward model", "start from its base")
    weight = require_float("lm_weight", lm_weight)
    if not 0 <= weight < float("inf"):
        raise ConfigError(f"lm_weight must be 0 or more and finite, not {lm_weight}")
    seed = require_int("seed", settings.get("seed", base.config.seed))
    pairs, source = given_pairs(data, held_out, num_pairs, seed)
    examples = [preferences.to_record(pair) | {"held_out": False} for pair in pairs.learned]
    examples += [preferences.to_record(pair) | {"held_out": True} for pair in pairs.held_out]
    config, tokenizer, params = extended(base, examples)
    spec = loop.FineTuneSpec(
        kind=KIND,
        config=loop.build_config(config, PICKED, settings),
        tokenizer=tokenizer,
        params=params,
        settings={"lm_weight": weight},
        examples=examples,
        source=source,
        base=loop.base_of(base, model),
        base_training=base.training,
        documents=base.documents,
        num_left_out=pairs.num_left_out,
    )
    return loop.fine_tune(spec, RewardModel, engine, run)


def resume(path: str | Path, **how: Any) -> Model:
    """Finish an interrupted run of `reward_model` in `path`. The model is the same, bit for bit.

    Args:
        how: see `resume_fine_tuning`.
    """
    return loop.resume_fine_tuning(path, KIND, RewardModel, **how)


def given_pairs(
    data: preferences.Data,
    held_out: Sequence[preferences.Preference] | None,
    num_pairs: int,
    seed: int,
) -> tuple[preferences.Divided, str]:
    """Return the pairs, and the name of their source in messages."""
    if held_out is None:
        pairs, source = preferences.load_pairs(data, num_pairs, NUM_PAIRS, seed)
    elif isinstance(data, str | PathLike):
        raise ConfigError("held_out needs pairs in memory", "drop held_out, or read the file first")
    else:
        learned, apart = map(preferences.checked_answers, (data, held_out))
        pairs = preferences.Divided(preferences.pairs_of(learned), preferences.pairs_of(apart))
    if not isinstance(data, str | PathLike):
        source = "pairs"
    if not pairs.learned:
        raise CorpusError(f"{source} has no pairs")
    return pairs, source


def extended(
    model: Model, examples: Sequence[loop.Example]
) -> tuple[Config, Tokenizer, array[float]]:
    """Return the base with the special tokens, characters and positions that the pairs need."""
    names = [name for name in (GOOD, BAD) if name not in model.tokenizer.special]
    if any("prompt" in pair for pair in examples) and ANSWER not in model.tokenizer.special:
        names.append(ANSWER)
    texts = [pair.get(name, "") for pair in examples for name in ("prompt", "chosen", "rejected")]
    fast = has_fused_ops(model.engine)
    read = islice(model.docs, READ_FOR_ROWS if fast else READ_FOR_ROWS // 10)
    config, tokenizer, params = expand_vocab(
        model.config,
        model.tokenizer,
        model.engine.state()["params"],
        chars=set("".join(map(model.tokenizer.normal, texts))),
        texts=texts,
        specials=names,
        block_size=model.config.block_size + ENDS,
        reader=model.engine,
        docs=model.tokenizer.encode_documents(read, model.config.block_size),
    )
    longest = max(
        len(prompted(tokenizer, pair.get("prompt"), pair[name])[0])
        for pair in examples
        for name in ("chosen", "rejected")
    )
    if longest > config.block_size:
        config, tokenizer, params = expand_vocab(config, tokenizer, params, block_size=longest)
    return config, tokenizer, params


class RewardModel(loop.FineTuneMethod):
    """Learns to predict good or bad after a document, with the Bradley–Terry loss of pairs."""

    def __init__(self, spec: loop.FineTuneSpec, _: loop.NewEngine) -> None:
        self.tokenizer, self.config = spec.tokenizer, spec.config
        self.lm_weight = spec.settings["lm_weight"]
        train, held_out = (
            [pair for pair in spec.examples if pair["held_out"] == which] for which in (False, True)
        )
        self.pairs = [self.input_ids(pair) for pair in train]
        self.held_out = [tokens for pair in held_out for tokens in self.input_ids(pair)]
        self.num_held_out = len(held_out)

    def input_ids(self, pair: loop.Example) -> list[list[int]]:
        """Return the tokens of the chosen and of the rejected text."""
        prompt, names = pair.get("prompt"), ("chosen", "rejected")
        return [prompted(self.tokenizer, prompt, pair[name])[0] for name in names]

    def margins(self, engine: Engine, docs: Sequence[Sequence[int]]) -> list[float]:
        """Return r(chosen) − r(rejected) of each pair. docs: chosen, rejected, chosen, …"""
        rewards = score_documents(engine, self.tokenizer, docs)
        return [c - r for c, r in zip(rewards[::2], rewards[1::2], strict=True)]

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        c, special = self.config, self.tokenizer.special
        chosen = loop.examples_of_step(c.seed, step, c.batch_size, len(self.pairs))
        docs = [tokens for i in chosen for tokens in self.pairs[i]]
        margins = self.margins(engine, docs)
        share = self.lm_weight / sum(len(tokens) - 1 for tokens in docs)
        weights: list[float] = []
        pair_weights = bradley_terry_weights(margins)
        for i, tokens in enumerate(docs):
            weight = -pair_weights[i // 2] if i % 2 else pair_weights[i // 2]
            weights += [share] * (len(tokens) - 1) + [weight]
            weights += [0.0] * (len(tokens) - 1) + [-weight]
        verdicts = (special[GOOD], special[BAD])
        batch = pack_sequences([*tokens, verdict] for tokens in docs for verdict in verdicts)
        engine.backward(batch, weights)
        engine.step(learning_rate)
        right = mean([float(m > 0) for m in margins])
        return {"loss": bradley_terry_loss(margins), "accuracy": right}

    def evaluate(self, engine: Engine) -> float | None:
        return bradley_terry_loss(self.margins(engine, self.held_out)) if self.held_out else None

    def finish(self, engine: Engine) -> dict[str, Any]:
        if not self.held_out:
            return {}
        return {"calibration": calibration(self.margins(engine, self.held_out))}
