"""Supervised fine-tuning (SFT): a trained model learns to answer prompts from examples.

An example is a document BOS prompt `<|answer|>` completion BOS. The model learns the completion and
the end, and only reads the prompt. Each step also has documents of the base's own list, without a
prompt. So the model does not forget them, and can still generate documents without a prompt.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from kamon.config import Config, checked_settings, require_float
from kamon.data.documents import Documents, nfc
from kamon.data.readers import check_line_lengths, checked_text, name_of, stream_lines
from kamon.data.split import MIN_HELD_OUT, bucket
from kamon.data.tables import json_record
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import ANSWER, PackedBatch, pack_sequences
from kamon.engines.factory import EngineSpec
from kamon.engines.numerics import sequential_sum
from kamon.engines.spans import Span
from kamon.errors import ConfigError, CorpusError
from kamon.files.spill import IntArray
from kamon.finetuning import instructions, loop
from kamon.finetuning.expand_vocab import expand_vocab
from kamon.finetuning.losses import sft_loss, sft_weights
from kamon.finetuning.preferences import held_out_texts
from kamon.model import Model, as_model
from kamon.storage.records import BaseRecord
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import knows_prompts, prompted
from kamon.training.early_stopping import MIN_DOCS, NUM_EVALUATIONS, mean_loss

KIND = "sft"
Learnable: TypeAlias = "str | Path | Iterable[Mapping[str, str]]"
KEYS = ("prompt", "completion")
BASE_SHARE = 0.3  # share of the base's documents in a step
BATCH_SIZE = 32
EPOCHS = 5  # passes over the examples, if num_steps is not given
MIN_STEPS = 300
MAX_EXAMPLES = 71_680  # limits the default num_steps to 3,200 steps of the default size
WARM_UP = 0.02  # share of all steps
TEMPERATURE = 0.5  # of answers: only the likely ones are good
LEARNING_RATE_FACTOR = 2.0  # times the base's, because new tokens start untrained
READ = 200  # documents of the base that make new tokens unlikely
NUM_SHOWN = 8  # prompts that the model answers at the end, as examples
MAX_EVAL_DOCS = 3_000  # documents of the base's validation set
ACCEPTED_SETTINGS = (  # settings besides `loop.SETTINGS`
    "block_size",
    "dropout",
    "gradient_accumulation_steps",
    "temperature",
)
SPLIT, EARLIER_SPLIT = "completions", "examples"  # how the validation set is chosen


def sft(
    model: str | Path | Model,
    data: Learnable,
    *,
    base_share: float = BASE_SHARE,
    **options: Any,
) -> Model:
    """Return `model`, fine-tuned on examples with a prompt and a completion each.

    About a tenth of the examples is the validation set, which shares no completion with the
    training set (see `divided`). The result is the model with the lowest validation loss. The model
    does not learn completions of the base's validation set. Kamon adds the characters, the special
    token and the positions that the examples need.

    Args:
        model: the base, or its directory.
        data: a JSON Lines file of {"prompt": "…", "completion": "…"}, a list of such mappings, or
            one of the built-in `instructions.TASKS`. An example that occurs twice counts twice.
        base_share: share of the base's documents in a step, from 0 to below 1.
        options: num_steps, learning_rate and the other settings of `loop.SETTINGS`, block_size,
            dropout, gradient_accumulation_steps and temperature. Also engine, output, on_progress
            and the other options of `kamon.train`.

    Raises: the errors of `kamon.train`.

    >>> import kamon
    >>> base = kamon.train(["anna", "hanna", "nora"], num_steps=3)
    >>> data = [{"prompt": "short", "completion": "ann"}, {"prompt": "long", "completion": "hanna"}]
    >>> model = sft(base, data, num_steps=3)
    >>> len(model.sample(2, prompt="short", seed=1))
    2
    """
    engine, run, settings = loop.run_arguments(options)
    base = as_model(model, "the base", **engine.keywords()).without_blend()
    examples, source = examples_of(data)
    record = loop.base_of(base, model)
    spec = prepare(base, record, examples, source, base_share, settings, engine)
    return loop.fine_tune(spec, SFT, engine, run)


def resume(path: str | Path, **how: Any) -> Model:
    """Finish an interrupted run of `sft` in `path`. The model is the same, bit for bit.

    Args:
        how: see `resume_fine_tuning`.
    """
    return loop.resume_fine_tuning(path, KIND, SFT, **how)


# ---- examples


def examples_of(data: Learnable) -> tuple[list[loop.Example], str]:
    """Return the examples, and their name in messages.

    Raises: CorpusError with the number of the example or the line.
    """
    if isinstance(data, str) and data in instructions.TASKS:
        return list(instructions.examples(data)), data
    if isinstance(data, str | PathLike):
        return read_examples(data), name_of(data)
    examples, name = [], "a list in memory"
    for number, item in enumerate(data, 1):
        if not isinstance(item, Mapping):
            raise CorpusError(f"example {number} must be a mapping, not {item!r:.80}")
        for key in KEYS:
            if not isinstance(item.get(key), str):
                raise CorpusError(f"example {number} has no text under {key!r}")
            checked_text(name, f"example {number}", item[key])
        examples.append(example(name, f"example {number}", *(item[key] for key in KEYS)))
    if not examples:
        raise CorpusError(f"{name} is empty")
    return examples, name


def read_examples(path: str | Path) -> list[loop.Example]:
    name = name_of(path)
    examples, empty = [], True
    blocks = stream_lines(path, instructions.TASKS)
    for number, line in enumerate(chain.from_iterable(check_line_lengths(blocks, name)), 1):
        empty = False
        if line.strip():
            prompt, completion = json_record(name, number, line, KEYS)
            examples.append(example(name, f"line {number}", prompt, completion))
    if not examples:
        raise CorpusError(f"{name} {'is empty' if empty else 'has only blank lines'}")
    return examples


def example(name: str, where: str, prompt: str, completion: str) -> loop.Example:
    if not completion:
        raise CorpusError(f"{name}, {where} has an empty completion")
    return {"prompt": prompt, "completion": completion}


# ---- before the first step


def prepare(
    model: Model,
    record: BaseRecord,
    examples: list[loop.Example],
    source: str,
    base_share: float,
    settings: dict[str, Any],
    engine: EngineSpec | None = None,
) -> loop.FineTuneSpec:
    """Extend the model, choose the settings, measure the base, and return the spec.

    record: the record of the base (see `base_of`). This function adds measurements.
    engine: the engine that measures the base.
    """
    base_share = checked_share(model, base_share)
    settings = checked_settings(settings)
    train, held_out = model.parts()
    normal = model.tokenizer.normal
    examples = [{key: normal(text) for key, text in pair.items()} for pair in examples]
    config, tokenizer, params = expanded(model, train, examples, settings)
    block_size = config.block_size
    chosen = picked(model.config, len(examples), base_share, **settings)
    config = loop.build_config(config, chosen, settings, *ACCEPTED_SETTINGS)
    warm_up = settings.get("warmup_steps", int(WARM_UP * config.num_steps))
    config = replace(config, warmup_steps=warm_up, block_size=block_size)
    measuring = (engine or EngineSpec()).create(config)
    measuring.load(initial_state(params))
    if held_out:
        batch = tokenizer.encode_documents(held_out[:MAX_EVAL_DOCS], config.block_size)
        record |= {"held_out_loss": mean_loss(measuring, batch)}
    if source == instructions.INSTRUCTIONS:
        record |= {"obedience": instructions.obedience(measuring, tokenizer)}
    return loop.FineTuneSpec(
        kind=KIND,
        config=config,
        tokenizer=tokenizer,
        params=params,
        settings={"base_share": float(base_share), "split": SPLIT},
        examples=examples,
        source=source,
        base=record,
        base_training=model.training,
        documents=model.documents,
    )


def checked_share(model: Model, base_share: float) -> float:
    """Return base_share as a float. Raises ConfigError if the base has no documents for it."""
    base_share = require_float("base_share", base_share)
    if not 0 <= base_share < 1:
        raise ConfigError(f"base_share must be from 0 to below 1, not {base_share}")
    model.check_documents("SFT")
    if base_share and model.training.corpus.packed:
        raise ConfigError(
            "the base was trained on a packed corpus and does not keep its documents",
            "set base_share to 0",
        )
    return base_share


def expanded(
    model: Model, train: Documents, examples: list[loop.Example], settings: dict[str, Any]
) -> tuple[Config, Tokenizer, array[float]]:
    """Return the model with the characters, the special token and the positions it lacks."""
    read = train.shuffled(random.Random(model.config.seed))[:READ]
    texts = [text for pair in examples for text in (pair["prompt"], pair["completion"])]
    config, tokenizer, params = expand_vocab(
        model.config,
        model.tokenizer,
        model.engine.state()["params"],
        chars=set().union(*texts),
        texts=texts,
        specials=[] if knows_prompts(model.tokenizer) else [ANSWER],
        reader=model.engine if read else None,
        docs=model.tokenizer.encode_documents(read, model.config.block_size),
    )
    longest = max(len(tokens) for tokens, _ in encoded(tokenizer, examples)) - 1
    size = max(config.block_size, longest, settings.get("block_size", 0))
    if settings.get("block_size", size) < size:
        raise ConfigError(
            f"block_size {settings['block_size']} is too small: the longest example has "
            f"{longest} tokens, and the base has a block_size of {config.block_size}"
        )
    return expand_vocab(config, tokenizer, params, block_size=size)


def picked(
    config: Config, num_examples: int, base_share: float = BASE_SHARE, **settings: Any
) -> dict[str, Any]:
    """Return defaults for the settings. The steps make EPOCHS passes over the examples."""
    sizes = {"batch_size": BATCH_SIZE, "gradient_accumulation_steps": 1}
    given = replace(config, **sizes | {name: settings[name] for name in sizes & settings.keys()})
    learned = min(EPOCHS * num_examples, MAX_EXAMPLES) / (given.docs_per_step * (1 - base_share))
    return sizes | {
        "num_steps": max(MIN_STEPS, round(learned)),
        "learning_rate": LEARNING_RATE_FACTOR * config.learning_rate,
        "min_lr": 0.0,
        "temperature": TEMPERATURE,
    }


def encoded(tokenizer: Tokenizer, examples: Sequence[loop.Example]) -> list[tuple[IntArray, Span]]:
    """Return the tokens and the span of each example."""
    known: dict[tuple[str, str], tuple[IntArray, Span]] = {}  # examples may have duplicates
    for item in examples:
        pair = item["prompt"], item["completion"]
        if pair not in known:
            tokens, span = prompted(tokenizer, *pair)
            known[pair] = array("i", tokens), span
    return [known[item["prompt"], item["completion"]] for item in examples]


def divided(
    examples: Sequence[loop.Example], tested_base: Iterable[str], split: str = SPLIT
) -> tuple[list[loop.Example], list[loop.Example]]:
    """Return (training set, validation set).

    The validation set is about a tenth of the examples, chosen by their content. The sets share no
    completion. They share a prompt only if many examples have it (see
    `preferences.held_out_texts`). The validation set has no duplicates. It is empty if it would
    have fewer than MIN_HELD_OUT examples.

    tested_base: the base's validation set. Examples with such a completion are in neither set.
    split: SPLIT, or EARLIER_SPLIT for an older run that divided whole examples.
    """
    spoilt = set(map(nfc, tested_base))
    usable = [pair for pair in examples if nfc(pair["completion"]) not in spoilt]
    links = dict.fromkeys((nfc(pair["completion"]), f"\0{nfc(pair['prompt'])}") for pair in usable)
    apart = held_out_texts(list(links), lambda text: text.startswith("\0"))

    def is_apart(pair: loop.Example) -> bool:
        if split == EARLIER_SPLIT:
            return bucket(f"{pair['prompt']}\n{pair['completion']}".encode()) == 0
        return nfc(pair["completion"]) in apart

    learned = [pair for pair in usable if not is_apart(pair)]
    held_out = {(pair["prompt"], pair["completion"]): pair for pair in usable if is_apart(pair)}
    if len(held_out) >= MIN_HELD_OUT and learned:
        return learned, list(held_out.values())
    return usable, []


# ---- the steps


class SFT(loop.FineTuneMethod):
    """Learns the completions of examples, mixed with documents of the base's list."""

    def __init__(self, spec: loop.FineTuneSpec, _: loop.NewEngine) -> None:
        c, tokenizer = spec.config, spec.tokenizer
        self.spec, self.config = spec, c
        base_train, base_held_out = spec.base_training.divide(spec.docs, c.mode)
        split = spec.settings.get("split", EARLIER_SPLIT)
        train, held_out = divided(spec.examples, base_held_out, split)
        self.examples = encoded(tokenizer, train)
        share = spec.settings["base_share"]
        self.num_base = round(c.docs_per_step * share) if base_train else 0
        self.base_docs = None
        if self.num_base:
            self.base_docs = tokenizer.encode_documents(base_train, c.block_size)
        max_docs = max(MIN_DOCS, c.num_steps * c.docs_per_step // NUM_EVALUATIONS // 10)
        chosen = random.Random(c.seed).sample(held_out, min(len(held_out), max_docs))
        self.held_out = encoded(tokenizer, chosen)
        self.num_held_out = len(self.held_out)
        self.base_held_out = tokenizer.encode_documents(base_held_out[:MAX_EVAL_DOCS], c.block_size)
        self.prompts = dict.fromkeys(example["prompt"] for example in held_out or train)

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        c, base_docs = self.config, self.base_docs
        size = c.docs_per_step
        indices = loop.examples_of_step(c.seed, step, size - self.num_base, len(self.examples))
        rows = [self.examples[i] for i in indices]
        if base_docs is not None:
            for i in loop.examples_of_step(c.seed + 1, step, self.num_base, len(base_docs)):
                tokens = base_docs.document(i)
                rows.append((tokens, (0, len(tokens) - 1)))
        batch, spans, sizes = packed(rows)
        weights = sft_weights(spans, sizes)
        logprobs = engine.backward(batch, weights, range(step * size, (step + 1) * size))
        engine.step(learning_rate)
        num_targets = sum(sizes[: len(indices)])  # of the examples; the base's documents follow
        num_learned = sum(answer for _, answer in spans[: len(indices)])
        answers = (p for p, w in zip(logprobs[:num_targets], weights, strict=False) if w)
        loss = -sequential_sum(answers) / num_learned
        if base_docs is None:
            return {"loss": loss}
        of_base = logprobs[num_targets:]
        return {"loss": loss, "base_loss": -sequential_sum(of_base) / len(of_base)}

    def evaluate(self, engine: Engine) -> float | None:
        if not self.held_out:
            return None
        batch, spans, sizes = packed(self.held_out)
        return sft_loss(engine.logprobs(batch), sft_weights(spans, sizes))

    def finish(self, engine: Engine) -> dict[str, Any]:
        """Return some example prompts, and the loss on the base's validation set."""
        rng, prompts = random.Random(self.config.seed), list(self.prompts)
        measured: dict[str, Any] = {"prompts": rng.sample(prompts, min(len(prompts), NUM_SHOWN))}
        if self.base_held_out:
            measured["base_held_out_loss"] = mean_loss(engine, self.base_held_out)
        if self.spec.source == instructions.INSTRUCTIONS:
            measured["obedience"] = instructions.obedience(engine, self.spec.tokenizer)
        return measured


def packed(rows: Sequence[tuple[IntArray, Span]]) -> tuple[PackedBatch, list[Span], list[int]]:
    """Return documents as one batch, their spans, and the number of targets of each."""
    batch = pack_sequences(tokens for tokens, _ in rows)
    return batch, [span for _, span in rows], [len(tokens) - 1 for tokens, _ in rows]
