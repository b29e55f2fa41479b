"""The contents of a checkpoint, converted to bytes and back.

    config.json         the settings, including vocab_size
    tokenizer.json      the tokens
    model.safetensors   the parameters, float64, with the names of `parameter_shapes`
    metrics.jsonl       {"step": 1, "loss": …, "learning_rate": …}, one line per step
    training.json       the record of the training (`kamon.storage.records`)
    state.safetensors   needed to resume: params., m. and v. followed by each parameter's name
    examples.jsonl.gz   training examples of a fine-tuned model, one JSON object per line
    frozen.safetensors  parameters of its reference model, if any, or of a conditional
                        model the mean of parameters that its training keeps
    critic.safetensors  state of its critic, if any, a model with two more tokens
    documents           the unique documents of the list, one JSON string per line, compressed.
                        They define the validation set (`kamon.data.split`) and novelty.

No file contains code or pickles. Reading needs no more memory than the settings require, because
Kamon refuses a file that is too large before it parses it.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any, Literal

from kamon.config import Config
from kamon.data.documents import Documents
from kamon.engines.base import State
from kamon.engines.parameters import num_params, parameter_shapes
from kamon.errors import KamonError, StoreError
from kamon.storage.metrics import Metrics
from kamon.storage.records import TrainingRecord
from kamon.tokenizers.base import MAX_FILE, Tokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import tokenizer_from_json

STATE = "state.safetensors"
EXAMPLES = "examples.jsonl.gz"
FROZEN = "frozen.safetensors"
CRITIC = "critic.safetensors"
OPTIONAL = {STATE, EXAMPLES, FROZEN, CRITIC}
NUM_VERDICT_TOKENS = 2  # extra tokens of a critic
# Maximum size of config.json and training.json. The settings limit the files of parameters.
MAX_JSON_BYTES = 1 << 20
FILES = ("config.json", "tokenizer.json", "model.safetensors", "metrics.jsonl", "training.json")
LINE_BYTES = 500  # maximum per step in metrics.jsonl
HEADER_BYTES = 200  # maximum per tensor: its name, type, shape and offsets
UNPACKED_BLOCK = 1 << 20
PART = 1 << 20  # bytes of a safetensors file to write at a time
MAX_EXAMPLES_BYTES = 1 << 30  # unpacked
MAX_DOCUMENT_BYTES = 1 << 28  # limits what a malicious file can allocate
STATE_FIELDS: tuple[Literal["params", "m", "v"], ...] = ("params", "m", "v")


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a model directory.

    Attributes:
        params: flat array of 'd' in the order of `parameter_shapes`.
        state: state of the engine after the last step, or None if training cannot be resumed.
        examples: of a fine-tuned model, from `pack_examples`.
        reference_params: of a fine-tuned model with a reference model, in the form of params.
        critic: state of a model with `critic_config`, if there is a critic.
    """

    config: Config
    tokenizer: Tokenizer
    params: array[float]
    metrics: Metrics
    training: TrainingRecord
    documents: bytes | Documents  # bytes from `pack_documents`, because few commands unpack them
    state: State | None = None
    examples: bytes | None = None
    reference_params: array[float] | None = None
    critic: State | None = None


def critic_config(config: Config) -> Config:
    """Return the Config of a critic: the model's, with two more tokens, good and bad."""
    return replace(config, vocab_size=config.vocab_size + NUM_VERDICT_TOKENS)


def state_bytes(config: Config, state: State) -> Iterator[bytes]:
    return to_safetensors(config, {f"{part}.": state[part] for part in STATE_FIELDS})


def read_state(config: Config, name: str, content: bytes, step: int) -> State:
    params, m, v = from_safetensors(config, name, [f"{part}." for part in STATE_FIELDS], content)
    if min(v) < 0:
        raise StoreError(f"{name} has a negative mean of squares")
    return {"params": params, "m": m, "v": v, "step": step}


def to_files(stored: Checkpoint) -> dict[str, bytes | Iterable[bytes]]:
    """Return the contents of all files except the documents, by name."""
    config = stored.config
    files: dict[str, bytes | Iterable[bytes]] = {
        "config.json": to_json(asdict(config)),
        "tokenizer.json": stored.tokenizer.to_json().encode(),
        "model.safetensors": to_safetensors(config, {"": stored.params}),
        "metrics.jsonl": stored.metrics.to_json_lines(),
        "training.json": to_json(stored.training.content),
    }
    if stored.state is not None:
        files[STATE] = state_bytes(config, stored.state)
    if stored.examples is not None:
        files[EXAMPLES] = [stored.examples]
    if stored.reference_params is not None:
        files[FROZEN] = to_safetensors(config, {"": stored.reference_params})
    if stored.critic is not None:
        files[CRITIC] = state_bytes(critic_config(config), stored.critic)
    return files


def from_files(
    read: Callable[[str, int], bytes], names: Iterable[str], documents: bytes
) -> Checkpoint:
    """Return the checkpoint in some files.

    Args:
        read: returns the content of a file, given its name and maximum size in bytes.
        names: the names of the files that exist.
        documents: the content of the file of documents.

    Raises: StoreError if a file is invalid. The message names the file, but not the directory.
    """
    name, names = "", set(names)

    def content(file: str, most: int) -> bytes:
        nonlocal name  # of the current file, for errors
        name = file
        return read(file, most)

    def numbers(file: str) -> array[float]:
        (params,) = from_safetensors(config, file, [""], content(file, max_bytes(config, 1)))
        return params

    def state(file: str, shape: Config) -> State | None:
        if file not in names:
            return None
        return read_state(shape, file, content(file, max_bytes(shape, 3)), len(metrics))

    try:
        config = Config(**json.loads(content("config.json", MAX_JSON_BYTES)))
        tokenizer = tokenizer_from_json(content("tokenizer.json", MAX_FILE).decode())
        check_tokenizer(tokenizer, config)
        lines = content("metrics.jsonl", LINE_BYTES * config.num_steps)
        metrics = Metrics.from_json_lines(io.BytesIO(lines))
        if len(metrics) > config.num_steps:
            raise StoreError(f"{name} has more steps than the {config.num_steps:,} of config.json")
        training = TrainingRecord.read(json.loads(content("training.json", MAX_JSON_BYTES)))
        training.check(len(metrics), resumable=STATE in names)
        float(training.seconds)  # OverflowError if the number is too large
        to_json(training.content)  # ValueError if a number is not finite
        if STATE in names and training.tuning and EXAMPLES not in names:
            raise StoreError(f"{name} describes a fine-tuned model, but {EXAMPLES} is missing")
        return Checkpoint(
            config=config,
            tokenizer=tokenizer,
            params=numbers("model.safetensors"),
            metrics=metrics,
            training=training,
            documents=documents,
            state=state(STATE, config),
            examples=content(EXAMPLES, MAX_EXAMPLES_BYTES) if EXAMPLES in names else None,
            reference_params=numbers(FROZEN) if FROZEN in names else None,
            critic=state(CRITIC, critic_config(config)),
        )
    except StoreError:
        raise
    except (KamonError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        reason = str(error) if name in str(error) else f"{name}: {error}"
        raise StoreError(reason) from None


def check_tokenizer(tokenizer: Tokenizer, config: Config) -> None:
    if isinstance(tokenizer, CharTokenizer) and any(
        char == "\0" or "\ud800" <= char <= "\udfff"
        for char in (*tokenizer.chars, *tokenizer.added)
    ):
        raise StoreError("tokenizer.json has a NUL or a lone surrogate, which no text has")
    if tokenizer.vocab_size != config.vocab_size:
        raise StoreError(
            f"tokenizer.json has {tokenizer.vocab_size} tokens, "
            f"config.json says vocab_size {config.vocab_size}"
        )


def max_bytes(config: Config, copies: int) -> int:
    """Return the maximum size of a safetensors file with `copies` numbers per parameter."""
    return 8 + max_header(config, copies) + 8 * copies * num_params(config)


def max_header(config: Config, copies: int) -> int:
    return HEADER_BYTES * (copies * (3 + 6 * config.n_layer) + 1)


# ---- documents


def pack_documents(docs: Documents) -> Iterator[bytes]:
    """Yield the compressed documents. The same documents give the same bytes."""
    packer = zlib.compressobj(6, wbits=31)
    for block in docs.blocks():
        # One JSON array with line ends instead of commas is ten times faster than separate lines.
        lines = json.dumps(block, ensure_ascii=False, separators=("\n", ":"))[1:-1] + "\n"
        yield packer.compress(lines.encode())
    yield packer.flush()


def unpack_documents(packed: bytes) -> Documents:
    """Return the documents in the bytes from `pack_documents`, or raise StoreError."""
    try:
        return Documents.of(unpacked(packed))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise StoreError(f"the model's documents cannot be used: {error}") from None


def unpacked(packed: bytes) -> Iterator[str]:
    with gzip.open(io.BytesIO(packed)) as file:
        rest: list[bytes] = []  # of the incomplete line, which may be long: joined only once
        size = 0
        while block := file.read(UNPACKED_BLOCK):
            whole, newline, tail = block.rpartition(b"\n")
            if newline:
                whole, rest, size = b"".join([*rest, whole]), [], 0
            rest.append(tail)
            size += len(tail)
            if size > MAX_DOCUMENT_BYTES:
                raise ValueError(f"one has more than {MAX_DOCUMENT_BYTES:,} bytes")
            if newline:
                lines = whole.decode().split("\n")
                docs: list[str] = json.loads(f"[{','.join(lines)}]")
                if len(docs) != len(lines) or not all(isinstance(doc, str) for doc in docs):
                    raise ValueError("a line is not one JSON string")
                if "\0" in "".join(docs):
                    raise ValueError("one has a NUL, which no text has")
                yield from docs
        if size or not file.tell():
            raise ValueError("the last line is incomplete" if size else "there are none")


# ---- examples


def pack_examples(examples: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the compressed examples. The same examples give the same bytes."""
    return zlib.compress(examples_text(examples), 6, wbits=31)


def examples_text(examples: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the lines to compress, one JSON object each. Their hash identifies the examples."""
    lines = (json.dumps(each, ensure_ascii=False, allow_nan=False) for each in examples)
    return "".join([line + "\n" for line in lines]).encode()


def unpack_examples(packed: bytes) -> list[dict[str, Any]]:
    """Return the examples in the bytes from `pack_examples`, or raise StoreError."""
    try:
        with gzip.open(io.BytesIO(packed)) as file:
            text = file.read(MAX_EXAMPLES_BYTES + 1)
        if len(text) > MAX_EXAMPLES_BYTES:
            raise ValueError(f"they have more than {MAX_EXAMPLES_BYTES:,} bytes")
        found = [json.loads(line) for line in text.decode().split("\n")[:-1]]
        if not found or not all(isinstance(each, dict) for each in found):
            raise ValueError("a line is not a JSON object")
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise StoreError(f"the model's examples cannot be used: {error}") from None
    return found


def to_json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1, allow_nan=False).encode() + b"\n"


# ---- parameters


def to_safetensors(config: Config, groups: Mapping[str, array[float]]) -> Iterator[bytes]:
    """Yield the parts of a safetensors file. groups: flat parameters, by prefix of their names.

    The bytes are those of `safetensors.serialize`, which needs twice the memory of all numbers.
    """
    tensors: dict[str, tuple[tuple[int, int], memoryview]] = {}
    for prefix, numbers in groups.items():
        content, first = memoryview(little_endian(numbers)).cast("B"), 0
        for name, shape in parameter_shapes(config).items():
            end = first + prod(shape) * numbers.itemsize
            tensors[prefix + name] = shape, content[first:end]
            first = end
    tensors = dict(sorted(tensors.items()))  # the order of the library
    header: dict[str, Any] = {"__metadata__": {"format": "kamon"}}
    first = 0
    for name, (shape, content) in tensors.items():
        end = first + content.nbytes
        header[name] = {"dtype": "F64", "shape": shape, "data_offsets": [first, end]}
        first = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    yield len(encoded).to_bytes(8, "little") + encoded
    for _, content in tensors.values():
        for first in range(0, len(content), PART):
            yield bytes(content[first : first + PART])


def from_safetensors(
    config: Config, file: str, prefixes: Sequence[str], content: bytes
) -> list[array[float]]:
    """Return the flat numbers of each prefix."""
    from safetensors import SafetensorError, deserialize

    if len(content) < 8 * len(prefixes) * num_params(config):
        raise StoreError(f"{file} has fewer numbers than config.json asks for")
    if int.from_bytes(content[:8], "little") > max_header(config, len(prefixes)):
        raise StoreError(f"{file} is damaged: its header is longer than it can be")
    table = parameter_shapes(config)
    shapes = {prefix + name: shape for prefix in prefixes for name, shape in table.items()}
    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
    try:
        found = dict(read(content))
    except SafetensorError as error:
        raise StoreError(f"{file} is damaged: {error}") from None
    if found.keys() != shapes.keys():
        odd = sorted(found.keys() ^ shapes.keys())[0]
        raise StoreError(f"{file} and config.json differ: only one of them has parameter {odd}")
    groups = []
    for prefix in prefixes:
        numbers = array("d")
        for name in table:
            tensor, shape = found[prefix + name], shapes[prefix + name]
            if tuple(tensor["shape"]) != shape or tensor["dtype"] != "F64":
                raise StoreError(
                    f"{file} has {prefix + name} as {tensor['dtype']} {tensor['shape']}, "
                    f"config.json asks for F64 {list(shape)}"
                )
            numbers.frombytes(tensor["data"])
        numbers = little_endian(numbers)
        if not all(map(math.isfinite, numbers)):
            raise StoreError(f"{file} has parameters that are not finite")
        groups.append(numbers)
    return groups


def little_endian(numbers: array[float]) -> array[float]:
    """Return the numbers in little-endian order, or convert them back. Most machines use it."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
