"""Supervised fine-tuning: a trained model learns to answer prompts from examples of it.

An example is a document BOS prompt `<|answer|>` completion BOS, of which the completion and the end
are learned. A part of each step are documents of the base model's own list, which have no prompt:
what it knew is not forgotten, and without a prompt it still makes documents.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from kamon.config import Config, checked_settings, require_float
from kamon.data.documents import Documents, nfc
from kamon.data.readers import checked_text, name_of, removed_message, stream_lines
from kamon.data.split import MIN_HELD_OUT, bucket, divide_as
from kamon.data.tables import json_record
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import ANSWER, PackedBatch
from kamon.engines.factory import EngineSpec
from kamon.engines.numerics import sequential_sum
from kamon.engines.spans import Span
from kamon.errors import ConfigError, CorpusError
from kamon.files.spill import IntArray
from kamon.finetuning import instructions
from kamon.finetuning.expand_vocab import expand_vocab
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
from kamon.finetuning.losses import sft_loss, sft_weights
from kamon.finetuning.preferences import held_out_texts
from kamon.model import Model, as_model
from kamon.storage.checkpoint import unpack_documents
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import knows_prompts, prompted
from kamon.training.early_stopping import MIN_DOCS, NUM_EVALUATIONS, mean_loss
from kamon.training.loop import Progress
from kamon.training.options import Callbacks, RunOptions, checkpoint_interval

if TYPE_CHECKING:
    from pathlib import Path

KIND = "sft"
Learnable: TypeAlias = "str | Path | Iterable[Mapping[str, str]]"
KEYS = ("prompt", "completion")
BASE_SHARE = 0.3  # of the documents in a step
BATCH_SIZE = 32
EPOCHS = 5  # over the examples, where no number of steps is named
MIN_STEPS = 300
MAX_EXAMPLES = 71_680  # examples: 3,200 steps of the usual size
WARM_UP = 0.02  # of all steps
LEARNING_RATE_FACTOR = 2.0  # than the base was trained: new tokens have all to learn
READ = 200  # documents of the base by which new tokens are made unlikely
NUM_SHOWN = 8  # prompts that are answered at the end, to be looked at
ACCEPTED_SETTINGS = (
    "block_size",
    "dropout",
    "gradient_accumulation_steps",
    "temperature",
)  # settings beside
TESTED = 3_000  # documents that the base was not trained on
SPLIT, EARLIER_SPLIT = "completions", "examples"  # by what examples are held out


def sft(
    base: str | Path | Model,
    data: Learnable,
    *,
    base_share: float = BASE_SHARE,
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
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Model:
    """Tune `base`, a model or its directory, on examples with a prompt and a completion each.

    data: a JSONL file of {"prompt": "…", "completion": "…"}, one of the built-in
    `instructions.TASKS`, or such mappings; an example that stands there twice is learned twice as
    often. A tenth of them, chosen by their content, is held out, and shares no completion with the
    others (see `divided`): the model is the one that does best on them. Completions that were held
    out from the base are not learned. Characters that the base does not know, the special token,
    and positions for the longest example are added.

    base_share: of the documents in a step so many are of the base's list, without a prompt; 0 for
    none. settings: those of training (learning_rate, num_steps, batch_size, seed …); what is not
    given is picked. For the other arguments and errors see `kamon.train`.

    >>> import kamon
    >>> base = kamon.train(["anna", "hanna", "nora"], num_steps=3)
    >>> data = [{"prompt": "short", "completion": "ann"}, {"prompt": "long", "completion": "hanna"}]
    >>> model = sft(base, data, num_steps=3)
    >>> len(model.sample(2, prompt="short", seed=1))
    2
    """
    path = base if isinstance(base, str | PathLike) else None
    spec = EngineSpec(engine, dtype, threads, device, compile)
    callbacks = Callbacks(on_start, on_progress, should_stop)
    options = RunOptions(output, overwrite, checkpoint_interval(checkpoint_every), callbacks)
    model = as_model(base, "the base", **spec.keywords())
    examples, source = examples_of(data)
    tuning = prepare(model, path, examples, source, base_share, settings, spec)
    return fine_tune(tuning, SFT, spec, options)


def resume(path: str | Path, **how: Any) -> Model:
    """Resume `sft` as if it had never been interrupted; how: as in `resume_fine_tuning`."""
    return resume_fine_tuning(path, KIND, SFT, **how)


# ---- examples


def examples_of(data: Learnable) -> tuple[list[Example], str]:
    """The examples and what they are called. CorpusError says what is wrong, and in which line."""
    if isinstance(data, str) and data in instructions.TASKS:
        return list(instructions.examples(data)), data
    if isinstance(data, str | PathLike):
        return read_examples(data), name_of(data)
    found, name = [], "a list in memory"
    for number, each in enumerate(data, 1):
        if not isinstance(each, Mapping):
            raise CorpusError(f"example {number} is not a mapping but {each!r:.80}")
        texts = [each.get(key) for key in KEYS]
        for key, text in zip(KEYS, texts, strict=True):
            if not isinstance(text, str):
                raise CorpusError(f"example {number} has no text under {key!r}")
            checked_text(name, f"example {number}", text)
        found.append(example(name, f"example {number}", texts[0] or "", texts[1] or ""))
    if not found:
        raise CorpusError(f"{name} is empty")
    return found, name


def read_examples(path: str | Path) -> list[Example]:
    name = name_of(path)
    found, empty = [], True
    blocks = stream_lines(path, instructions.TASKS)
    for number, line in enumerate(chain.from_iterable(removed_message(blocks, name)), 1):
        empty = False
        if line.strip():
            prompt, completion = json_record(name, number, line, KEYS)
            found.append(example(name, f"line {number}", prompt, completion))
    if not found:
        raise CorpusError(f"{name} {'is empty' if empty else 'holds nothing but blank lines'}")
    return found


def example(name: str, where: str, prompt: str, completion: str) -> Example:
    if not completion:
        raise CorpusError(f"{name}, {where} has an empty completion: there is nothing to learn")
    return {"prompt": prompt, "completion": completion}


# ---- before the first step


def prepare(
    model: Model,
    path: str | Path | None,
    examples: list[Example],
    source: str,
    base_share: float,
    settings: dict[str, Any],
    engine: EngineSpec | None = None,
) -> FineTuneSpec:
    """Everything decided: the model extended, the settings picked, the base measured.

    engine: the one that measures the base.
    """
    base_share = checked_share(model, base_share)
    settings = checked_settings(settings)
    train, held_out = model.parts()
    normal = model.tokenizer.normal
    examples = [{key: normal(text) for key, text in each.items()} for each in examples]
    config, tokenizer, params = expanded(model, train, examples, settings)
    chosen = picked(model.config, len(examples), base_share, **settings)
    size = config.block_size
    config = build_config(config, chosen, settings, *ACCEPTED_SETTINGS)
    warm_up = settings.get("warmup_steps", int(WARM_UP * config.num_steps))
    config = replace(config, warmup_steps=warm_up, block_size=size)
    base = base_of(model, path)
    measuring = (engine or EngineSpec()).create(config)
    measuring.load(initial_state(params))
    if held_out:
        batch = tokenizer.encode_documents(held_out[:TESTED], config.block_size)
        base["held_out_loss"] = mean_loss(measuring, batch)
    if source == instructions.INSTRUCTIONS:
        base["obedience"] = asdict(instructions.obedience(measuring, tokenizer))
    return FineTuneSpec(
        kind=KIND,
        config=config,
        tokenizer=tokenizer,
        params=params,
        settings={"base_share": float(base_share), "split": SPLIT},
        examples=examples,
        source=source,
        base=base,
        documents=model.documents,
    )


def checked_share(model: Model, base_share: float) -> float:
    """Return base_share. Raises ConfigError if this base has no documents for it."""
    base_share = require_float("base_share", base_share)
    if not 0 <= base_share < 1:
        raise ConfigError(f"base_share must be from 0 to below 1, not {base_share}")
    model.check_documents("prompts and answers are documents")
    if base_share and "packed" in model.training["corpus"]:
        raise ConfigError(
            "the base has learned a packed corpus, whose documents it does not keep: only a "
            "base_share of 0 goes without them"
        )
    return base_share


def expanded(
    model: Model, train: Documents, examples: list[Example], settings: dict[str, Any]
) -> tuple[Config, Tokenizer, array[float]]:
    """Return the model with the characters, the special token and the positions it lacks."""
    reading = train.shuffled(random.Random(model.config.seed))[:READ]
    texts = chain.from_iterable((each["prompt"], each["completion"]) for each in examples)
    config, tokenizer, params = expand_vocab(
        model.config,
        model.tokenizer,
        model.engine.state()["params"],
        chars=set().union(*texts),
        specials=[] if knows_prompts(model.tokenizer) else [ANSWER],
        reader=model.engine if reading else None,
        docs=model.tokenizer.encode_documents(reading, model.config.block_size),
    )
    longest = max(len(tokens) for tokens, _ in encoded(tokenizer, examples)) - 1
    size = max(config.block_size, longest, settings.get("block_size", 0))
    if settings.get("block_size", size) < size:
        raise ConfigError(
            f"block_size {settings['block_size']} is too small: the longest example has "
            f"{longest} tokens, and the base a block_size of {config.block_size}"
        )
    return expand_vocab(config, tokenizer, params, block_size=size)


def picked(
    config: Config, num_examples: int, base_share: float = BASE_SHARE, **settings: Any
) -> dict[str, Any]:
    """Return the settings where none are given: so many steps that they make EPOCHS."""
    sizes = {"batch_size": BATCH_SIZE, "gradient_accumulation_steps": 1}
    given = replace(config, **sizes | {name: settings[name] for name in sizes & settings.keys()})
    learned = min(EPOCHS * num_examples, MAX_EXAMPLES) / (given.docs_per_step * (1 - base_share))
    return sizes | {
        "num_steps": max(MIN_STEPS, round(learned)),
        "learning_rate": LEARNING_RATE_FACTOR * config.learning_rate,
        "min_lr": 0.0,
    }


def encoded(tokenizer: Tokenizer, examples: Iterable[Example]) -> list[tuple[IntArray, Span]]:
    """The tokens and the span of each example."""
    found = []
    known: dict[tuple[str, str], tuple[IntArray, Span]] = {}  # of those that are repeated
    for each in examples:
        pair = each["prompt"], each["completion"]
        if pair not in known:
            tokens, span = prompted(tokenizer, *pair)
            known[pair] = array("i", tokens), span
        found.append(known[pair])
    return found


def divided(
    examples: Sequence[Example], tested_base: Iterable[str], split: str = SPLIT
) -> tuple[list[Example], list[Example]]:
    """(learned, held out): a tenth by the content of an example, each of them once.

    No completion is on both sides, and no prompt either unless it is one of a few that many
    examples have (see `preferences.held_out_texts`). Those with a completion in tested_base, on
    which the base was tested, are in neither: learning them would spoil that. If fewer than
    MIN_HELD_OUT would be held out, none is. split: SPLIT, or EARLIER_SPLIT of a tuning to resume,
    which looked at whole examples.
    """
    spoilt = set(map(nfc, tested_base))
    usable = [each for each in examples if nfc(each["completion"]) not in spoilt]
    links = dict.fromkeys((nfc(e["completion"]), f"\0{nfc(e['prompt'])}") for e in usable)
    apart = held_out_texts(list(links), lambda text: text.startswith("\0"))

    def is_apart(each: Example) -> bool:
        if split == EARLIER_SPLIT:
            return bucket(f"{each['prompt']}\n{each['completion']}".encode()) == 0
        return nfc(each["completion"]) in apart

    learned = [each for each in usable if not is_apart(each)]
    held_out = {(each["prompt"], each["completion"]): each for each in usable if is_apart(each)}
    if len(held_out) >= MIN_HELD_OUT and learned:
        return learned, list(held_out.values())
    return usable, []


# ---- the steps


class SFT(FineTuneMethod):
    """Learns the completions of examples, and some documents of the base's list beside them."""

    def __init__(self, tuning: FineTuneSpec, _: NewEngine) -> None:
        c, tokenizer = tuning.config, tuning.tokenizer
        self.tuning, self.config = tuning, c
        docs = tuning.documents
        docs = unpack_documents(docs) if isinstance(docs, bytes) else docs
        base_train, base_held_out = divide_as(tuning.base["training"], docs, c.mode)
        split = tuning.settings.get("split", EARLIER_SPLIT)
        train, held_out = divided(tuning.examples, base_held_out, split)
        self.examples = encoded(tokenizer, train)
        share = tuning.settings["base_share"]
        self.num_base = round(c.docs_per_step * share) if base_train else 0
        self.base_docs = None
        if self.num_base:
            self.base_docs = tokenizer.encode_documents(base_train, c.block_size)
        most = max(MIN_DOCS, c.num_steps * c.docs_per_step // NUM_EVALUATIONS // 10)
        chosen = random.Random(c.seed).sample(held_out, min(len(held_out), most))
        self.held_out = encoded(tokenizer, chosen)
        self.num_held_out = len(self.held_out)
        self.base_held_out = tokenizer.encode_documents(base_held_out[:TESTED], c.block_size)
        self.prompts = dict.fromkeys(example["prompt"] for example in held_out or train)

    def step(self, engine: Engine, step: int, learning_rate: float) -> Mapping[str, float]:
        c, base_docs = self.config, self.base_docs
        size = c.docs_per_step
        places = examples_of_step(c.seed, step, size - self.num_base, len(self.examples))
        rows = [self.examples[i] for i in places]
        if base_docs is not None:
            for i in examples_of_step(c.seed + 1, step, self.num_base, len(base_docs)):
                tokens = base_docs.document(i)
                rows.append((tokens, (0, len(tokens) - 1)))
        batch, spans, sizes = packed(rows)
        weights = sft_weights(spans, sizes)
        logprobs = engine.backward(batch, weights, range(step * size, (step + 1) * size))
        engine.step(learning_rate)
        own = sum(sizes[: len(places)])
        share = sum(answer for _, answer in spans[: len(places)])
        answers = (p for p, w in zip(logprobs[:own], weights, strict=False) if w)
        loss = -sequential_sum(answers) / share
        if base_docs is None:
            return {"loss": loss}
        return {"loss": loss, "base_loss": -sequential_sum(logprobs[own:]) / (len(logprobs) - own)}

    def evaluate(self, engine: Engine) -> float | None:
        if not self.held_out:
            return None
        batch, spans, sizes = packed(self.held_out)
        return sft_loss(engine.logprobs(batch), sft_weights(spans, sizes))

    def finish(self, engine: Engine) -> dict[str, Any]:
        """Return prompts to show answers to, and measurements of the base's list."""
        rng, prompts = random.Random(self.config.seed), list(self.prompts)
        found: dict[str, Any] = {"prompts": rng.sample(prompts, min(len(prompts), NUM_SHOWN))}
        if self.base_held_out:
            found["base_held_out_loss"] = mean_loss(engine, self.base_held_out)
        if self.tuning.source == instructions.INSTRUCTIONS:
            obedience = instructions.obedience(engine, self.tuning.tokenizer)
            found["obedience"] = asdict(obedience)
        return found


def packed(rows: Iterable[tuple[IntArray, Span]]) -> tuple[PackedBatch, list[Span], list[int]]:
    """Documents as an engine takes them; their spans, and how many targets each has."""
    tokens, offsets = array("i"), array("q", [0])
    spans, sizes = [], []
    for document, span in rows:
        tokens.extend(document)
        offsets.append(len(tokens))
        spans.append(span)
        sizes.append(len(document) - 1)
    return PackedBatch(tokens, offsets), spans, sizes
