"""Supervised fine-tuning: a trained model learns to answer prompts from examples of it.

An example is a document BOS prompt `<|answer|>` completion BOS, of which the completion and the end
are learned. A part of each step are documents of the base model's own list, which have no prompt:
what it knew is not forgotten, and without a prompt it still makes documents.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import chain
from os import PathLike
from typing import TYPE_CHECKING, Any, TypeAlias

from kamon import instructions
from kamon.api import Model, loaded
from kamon.batch import ANSWER, Batch
from kamon.config import Config, checked_float, checked_settings
from kamon.contents import unpack_documents
from kamon.corpus import checked_text, json_record, name_of, no_longer, stream_lines
from kamon.engine import Engine, left_sum, make_engine, untrained
from kamon.errors import ConfigError, CorpusError
from kamon.extend import extend
from kamon.mapped import Numbers
from kamon.objectives import Span, sft_loss, sft_weights
from kamon.prompts import knows_prompts, prompted
from kamon.run import MIN_HELD_OUT, divide
from kamon.split import part
from kamon.tokenizer import Tokenizer
from kamon.trainer import Progress
from kamon.tune import (
    Example,
    NewEngine,
    Start,
    Steps,
    Tuning,
    base_of,
    configured,
    examples_of_step,
    resume_tuning,
    tune,
)
from kamon.validation import EVALUATIONS, FEWEST_DOCS, mean_loss

if TYPE_CHECKING:
    from pathlib import Path

KIND = "sft"
Learnable: TypeAlias = "str | Path | Iterable[Mapping[str, str]]"
KEYS = ("prompt", "completion")
BASE_SHARE = 0.3  # of the documents in a step
BATCH_SIZE = 32
PASSES = 5  # over the examples, where no number of steps is named
LEAST_STEPS, MOST_STEPS = 300, 3_200
WARM_UP = 0.02  # of all steps
FASTER = 2.0  # than the base was trained: new tokens have all to learn
READ = 200  # documents of the base by which new tokens are made unlikely
NUM_SHOWN = 8  # prompts that are answered at the end, to be looked at
TAKEN = ("block_size", "dropout", "gradient_accumulation_steps", "temperature")  # settings beside
TESTED = 3_000  # documents that the base was not trained on


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
    on_start: Callable[[Start], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    **settings: Any,
) -> Model:
    """Tune `base`, a model or its directory, on examples with a prompt and a completion each.

    data: a JSONL file of {"prompt": "…", "completion": "…"}, one of the built-in
    `instructions.TASKS`, or such mappings; an example that stands there twice is learned twice as
    often. A tenth of them, chosen by their content, is held out: the model is the one that does
    best on them. Completions that were held out from the base are not learned. Characters that the
    base does not know, the special token, and positions for the longest example are added.

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
    model = loaded(base, "the base")
    examples, source = examples_of(data)
    tuning = prepare(model, path, examples, source, base_share, settings)
    return tune(
        tuning,
        steps_of,
        engine=engine,
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


def resume(path: str | Path, **how: Any) -> Model:
    """Go on with `sft` as if it had never been interrupted; how: of `tune.resume_tuning`."""
    return resume_tuning(path, KIND, steps_of, **how)


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
    for number, line in enumerate(chain.from_iterable(no_longer(blocks, name)), 1):
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
) -> Tuning:
    """Everything decided: the model extended, the settings picked, the base measured."""
    base_share = checked_float("base_share", base_share)
    if not 0 <= base_share < 1:
        raise ConfigError(f"base_share must be from 0 to below 1, not {base_share}")
    model.check_documents("prompts and answers are documents")
    if base_share and "packed" in model.training["corpus"]:
        raise ConfigError(
            "the base has learned a packed corpus, whose documents it does not keep: only a "
            "base_share of 0 goes without them"
        )
    settings = checked_settings(settings)
    learned, held_out = model.parts()
    reading = learned.shuffled(random.Random(model.config.seed))[:READ]
    texts = chain.from_iterable((each["prompt"], each["completion"]) for each in examples)
    params = model.engine.state()["params"]
    config, tokenizer, params = extend(
        model.config,
        model.tokenizer,
        params,
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
    config, tokenizer, params = extend(config, tokenizer, params, block_size=size)
    config = configured(config, picked(model.config, len(examples)), settings, *TAKEN)
    warm_up = settings.get("warmup_steps", int(WARM_UP * config.num_steps))
    config = replace(config, warmup_steps=warm_up, block_size=size)
    base = base_of(model, path)
    engine = make_engine(None, config)
    engine.load(untrained(params))
    if held_out:
        batch = tokenizer.encode_documents(held_out[:TESTED], config.block_size)
        base["held_out_loss"] = mean_loss(engine, batch)
    if source == instructions.INSTRUCTIONS:
        base["obedience"] = asdict(instructions.obedience(engine, tokenizer))
    return Tuning(
        kind=KIND,
        config=config,
        tokenizer=tokenizer,
        params=params,
        settings={"base_share": float(base_share)},
        examples=examples,
        source=source,
        base=base,
        documents=model.documents,
    )


def picked(config: Config, num_examples: int) -> dict[str, Any]:
    """The settings where none are given."""
    steps = round(PASSES * num_examples / (BATCH_SIZE * (1 - BASE_SHARE)))
    return {
        "num_steps": min(MOST_STEPS, max(LEAST_STEPS, steps)),
        "batch_size": BATCH_SIZE,
        "gradient_accumulation_steps": 1,
        "learning_rate": FASTER * config.learning_rate,
        "min_lr": 0.0,
    }


def encoded(tokenizer: Tokenizer, examples: Iterable[Example]) -> list[tuple[Numbers, Span]]:
    """The tokens and the span of each example."""
    found = []
    known: dict[tuple[str, str], tuple[Numbers, Span]] = {}  # of those that are repeated
    for each in examples:
        pair = each["prompt"], each["completion"]
        if pair not in known:
            tokens, span = prompted(tokenizer, *pair)
            known[pair] = array("i", tokens), span
        found.append(known[pair])
    return found


def divided(
    examples: Sequence[Example], tested_base: Container[str]
) -> tuple[list[Example], list[Example]]:
    """(learned, held out): a tenth by the content of an example, each of them once.

    Those with a completion in tested_base, on which the base was tested, are in neither: learning
    them would spoil that. Where fewer than MIN_HELD_OUT would be held out, none is.
    """
    learned, held_out = [], {}
    for each in examples:
        prompt, completion = each["prompt"], each["completion"]
        if completion in tested_base:
            continue
        if part(f"{prompt}\n{completion}".encode()) == 0:
            held_out[prompt, completion] = each
        else:
            learned.append(each)
    if len(held_out) >= MIN_HELD_OUT and learned:
        return learned, list(held_out.values())
    return [each for each in examples if each["completion"] not in tested_base], []


# ---- the steps


def steps_of(tuning: Tuning, _: NewEngine) -> Steps:
    c, tokenizer = tuning.config, tuning.tokenizer
    docs = tuning.documents
    docs = unpack_documents(docs) if isinstance(docs, bytes) else docs
    base = divide(docs, tuning.base["training"].get("held_out") is not None, c.mode)
    chosen, apart = divided(tuning.examples, set(base[1]))
    learned = encoded(tokenizer, chosen)
    size = c.docs_per_step
    num_base = round(size * tuning.settings["base_share"]) if base[0] else 0
    base_docs = tokenizer.encode_documents(base[0], c.block_size) if num_base else None
    most = max(FEWEST_DOCS, c.num_steps * size // EVALUATIONS // 10)
    tested = encoded(tokenizer, random.Random(c.seed).sample(apart, min(len(apart), most)))
    base_tested = tokenizer.encode_documents(base[1][:TESTED], c.block_size)

    def make(engine: Engine, step: int, rate: float) -> Mapping[str, float]:
        places = examples_of_step(c.seed, step, size - num_base, len(learned))
        rows = [learned[i] for i in places]
        if base_docs is not None:
            for i in examples_of_step(c.seed + 1, step, num_base, len(base_docs)):
                tokens = base_docs.document(i)
                rows.append((tokens, (0, len(tokens) - 1)))
        batch, spans, sizes = packed(rows)
        weights = sft_weights(spans, sizes)
        draws = range(step * size, (step + 1) * size)
        logprobs = engine.backward(batch, weights, draws)
        engine.step(rate)
        own = sum(sizes[: len(places)])
        share = sum(answer for _, answer in spans[: len(places)])
        loss = -left_sum(p for p, w in zip(logprobs[:own], weights, strict=False) if w) / share
        if base_docs is None:
            return {"loss": loss}
        return {"loss": loss, "base_loss": -left_sum(logprobs[own:]) / (len(logprobs) - own)}

    def held_out_loss(engine: Engine) -> float:
        batch, spans, sizes = packed(tested)
        return sft_loss(engine.logprobs(batch), sft_weights(spans, sizes))

    def finish(engine: Engine) -> dict[str, Any]:
        prompts = dict.fromkeys(each["prompt"] for each in apart or chosen)
        shown = random.Random(c.seed).sample(list(prompts), min(len(prompts), NUM_SHOWN))
        found: dict[str, Any] = {"prompts": shown}
        if base_tested:
            found["base_held_out_loss"] = mean_loss(engine, base_tested)
        if tuning.source == instructions.INSTRUCTIONS:
            found["obedience"] = asdict(instructions.obedience(engine, tokenizer))
        return found

    measured = held_out_loss if tested else None
    return Steps(make, measured, len(tested), finish=finish)


def packed(rows: Iterable[tuple[Numbers, Span]]) -> tuple[Batch, list[Span], list[int]]:
    """Documents as an engine takes them; their spans, and how many targets each has."""
    tokens, offsets = array("i"), array("q", [0])
    spans, sizes = [], []
    for document, span in rows:
        tokens.extend(document)
        offsets.append(len(tokens))
        spans.append(span)
        sizes.append(len(document) - 1)
    return Batch(tokens, offsets), spans, sizes
