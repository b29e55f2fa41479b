"""A model as one file for programs that are not Kamon: JSON, a Python program, ONNX.

    json     settings, tokens, parameters and counts as they are, for any language
    python   standalone.py with the model in it, which needs only Python and gives the same numbers
             as the scalar engine
    onnx     a decoder step of the GPT with a KV cache (`kamon.exporters.onnx`)

JSON and Python files contain the n-gram of a blended model, ONNX files do not. The same model
always gives the same bytes.
"""

from __future__ import annotations

import base64
import bz2
import json
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from kamon.engines.parameters import parameter_shapes
from kamon.errors import ConfigError
from kamon.exporters.ngram import ngram_tree
from kamon.finetuning.reward_model import KIND as REWARD
from kamon.model import Model, as_model, to_checkpoint
from kamon.storage import model_dir
from kamon.storage.checkpoint import Checkpoint, little_endian
from kamon.tokenizers.base import Tokenizer

Format = Literal["json", "python", "onnx"]
FORMATS = get_args(Format)
LEARNED = "# ---- 7. The model"  # the last part of standalone.py
WIDTH = 100  # characters per line


def export(model: Model | str | Path | Checkpoint, format: Format, *, blend: bool = True) -> bytes:
    """Return a model as the content of a file.

    Args:
        model: a model, its directory, or what `kamon.storage.model_dir.load` returns.
        format: "json", "python" or "onnx".
        blend: False leaves out the n-gram of a blended model. An ONNX file never has it.

    Raises:
        ConfigError: the format is unknown or cannot hold this model.

    >>> import json, kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
    >>> file = export(model, "json")
    >>> json.loads(file)["tokenizer"]
    {'type': 'char', 'chars': ['a', 'h', 'n', 'o', 'r'], 'normalization': 'NFC'}
    """
    if isinstance(model, str | PathLike):
        model = model_dir.load(model)
    elif not isinstance(model, Checkpoint):
        model = to_checkpoint(as_model(model), model.engine.state()["params"])
    model.training.check_unconditional("an export")
    if not blend:
        model = replace(model, training=model.training.without_blend())
    if format == "json":
        return to_json(model)
    if format == "python":
        return to_python(model)
    if format == "onnx":
        try:
            from kamon.exporters.onnx import to_onnx
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "onnx":
                raise
            raise ConfigError(
                "ONNX files need the package onnx", 'install it with pip install "kamon[onnx]"'
            ) from None
        return to_onnx(model)
    raise ConfigError(f"unknown format {format!r}", f"choose from {', '.join(FORMATS)}")


def fits_float32(params: array[float]) -> bool:
    """Return True if float32 holds each number exactly."""
    return array("d", array("f", params)) == params


# ---- JSON


def to_json(stored: Checkpoint) -> bytes:
    """Return a JSON object: config, tokenizer, special (tokens by name), params (rows by name).

    A blended model also has ngram (`NgramTree`) and version 2, because a reader without the n-gram
    would get other probabilities. Each number is the shortest text that gives the same float64.
    """
    left = iter(stored.params)
    params = {
        name: [list(islice(left, n_in)) for _ in range(n_out)]
        for name, (n_out, n_in) in parameter_shapes(stored.config).items()
    }
    ngram = ngram_tree(stored)
    content = {
        "format": "kamon",
        "version": 2 if ngram else 1,
        "config": asdict(stored.config),
        "tokenizer": json.loads(stored.tokenizer.to_json()),
        "special": stored.tokenizer.special,
        "params": params,
    }
    if ngram:
        content["ngram"] = asdict(ngram)
    return json.dumps(content, allow_nan=False).encode() + b"\n"


# ---- Python


def to_python(stored: Checkpoint) -> bytes:
    """Return standalone.py with this model as its last part.

    Parameters are in base64, as float32 if that is exact. They are not compressed, because that
    would save only 7%. bzip2 compresses the counts of an n-gram to a fifth, and all its versions
    write the same bytes.
    """
    from importlib.resources import files

    config, tokenizer = stored.config, stored.tokenizer
    why_not = ""
    if config.mode == "text":
        why_not = "and this is a model of one long text"
    elif stored.training.kind == REWARD:
        why_not = "and this is a reward model, which judges them"
    if why_not:
        others = 'use --format onnx or --format json (format="onnx" in Python)'
        raise ConfigError(f"a Python file generates documents, {why_not}", others)
    type_ = "f" if fits_float32(stored.params) else "d"
    numbers = little_endian(array(type_, stored.params)).tobytes()
    content: dict[str, Any] = json.loads(tokenizer.to_json())
    pieces: list[str] = []
    if "chars" in content:
        pieces = [tokenizer.token_text(token) for token in range(config.vocab_size)]
    merges = (f"({a}, {b})" for a, b in content.get("merges", []))
    code = files("kamon.exporters").joinpath("standalone.py").read_text(encoding="utf-8")
    code, _, last = code.partition(LEARNED)
    end = last[last.index("\nif __name__") :]
    learned = [
        f"{LEARNED} ".ljust(WIDTH - 1, "-"),
        "",
        f"N_LAYER, N_HEAD, N_EMBD = {config.n_layer}, {config.n_head}, {config.n_embd}",
        f"BLOCK_SIZE, VOCAB_SIZE, BOS = {config.block_size}, {config.vocab_size}, {tokenizer.bos}",
        f"TEMPERATURE, SEED = {config.temperature!r}, {config.seed}  # defaults for samples",
        *literal("CHARACTERS: list[str]", map(ascii, pieces)),
        *cluster_lines(tokenizer),
        *literal("MERGES: list[tuple[int, int]]", merges),
        *literal("SPECIALS: list[str]", map(ascii, content.get("specials", []))),
        f"SPLIT_VERSION = {content.get('version', 1)}  # how text is split into pieces",
        f"COMPOSED = {tokenizer.composed}  # whether text is normalised to NFC",
        f'NUMBER = "{type_}"  # {"float32" if type_ == "f" else "float64"}, low byte first',
        *in_base64("WEIGHTS", numbers),
        *ngram_lines(stored),
    ]
    return (code + "\n".join(learned) + "\n" + end).encode()


def cluster_lines(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield the lines with the automaton of the tokenizer's clusters, if there are any."""
    if not tokenizer.clusters:
        yield 'CLUSTERS = ""'
        return
    table = json.dumps(tokenizer.clusters.table(), separators=(",", ":"))
    yield from in_base64("CLUSTERS", bz2.compress(table.encode()))


def ngram_lines(stored: Checkpoint) -> Iterator[str]:
    """Yield the lines with the n-gram of a blended model, or those of a model without one."""
    ngram = ngram_tree(stored)
    if ngram is None:
        yield from ("GPT_WEIGHT, ORDER = 1.0, 1  # no n-gram", "DISCOUNTS = []")
        yield 'NGRAM = ""'
        return
    yield f"GPT_WEIGHT, ORDER = {ngram.gpt_weight!r}, {ngram.order}  # order of the n-gram"
    yield "DISCOUNTS = [  # a row per context length, for counts of 0, 1, 2, and 3 or more"
    yield from (f"    {discounts}," for discounts in ngram.discounts)
    yield "]"
    lists = [ngram.num_children, ngram.tokens, ngram.counts]
    yield from in_base64("NGRAM", bz2.compress(json.dumps(lists, separators=(",", ":")).encode()))


def in_base64(name: str, content: bytes) -> Iterator[str]:
    """Yield the lines that assign these bytes, in base64, to a name."""
    text = base64.b64encode(content).decode()
    yield f'{name} = """'
    yield from (text[i : i + WIDTH] for i in range(0, len(text), WIDTH))
    yield '"""'


def literal(name: str, items: Iterable[str]) -> Iterator[str]:
    """Yield the lines that assign a list to a name, with as many items per line as fit."""
    lines = [""]
    for item in items:
        if lines[-1] and len(lines[-1]) + len(item) + 6 > WIDTH:
            lines.append("")
        lines[-1] += f"{' ' if lines[-1] else ''}{item},"
    if lines == [""]:
        yield f"{name} = []"
        return
    yield f"{name} = ["
    yield from (f"    {line}" for line in lines)
    yield "]"
