"""The pretrained base that Kamon ships: settings, characters and float16 parameters in one file.

dev/base/train.py writes it. Its data and their licences are in dev/base/CARD.md.
"""

from __future__ import annotations

import json
import struct
from array import array
from collections.abc import Callable, Mapping
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

from kamon.config import Config
from kamon.engines.parameters import parameter_shapes
from kamon.errors import KamonError, StoreError
from kamon.files.atomic import replace_file
from kamon.tokenizers.char import CharTokenizer

BASE_FILE = Path(__file__).parent.parent / "data" / "base.safetensors"
BYTES_OF_HALF = 2
SHAPE = ("n_layer", "n_embd", "n_head", "block_size")
HASHED = ("config", "tokenizer")


def write_base(path: Path, config: Config, tokenizer: CharTokenizer, params: array[float]) -> None:
    """Write a model as a base, with its numbers rounded to float16."""
    from safetensors import TensorSpec, serialize

    halves = struct.pack(f"<{len(params)}e", *params)
    numbers = array("B", halves)  # keeps the memory at this address
    address, _ = numbers.buffer_info()
    tensors = {}
    for name, shape in parameter_shapes(config).items():
        size = BYTES_OF_HALF * shape[0] * shape[1]
        tensors[name] = TensorSpec(
            dtype="float16", shape=list(shape), data_ptr=address, data_len=size
        )
        address += size
    about = {"config": json.dumps({name: getattr(config, name) for name in SHAPE})}
    about["tokenizer"] = tokenizer.to_json()
    replace_file(path, bytes(serialize(tensors, about | {"sha256": digest(about, halves)})))


def digest(about: Mapping[str, str], halves: bytes) -> str:
    """Return the SHA-256 of the contents of a base file."""
    return sha256("".join(about[name] for name in HASHED).encode() + halves).hexdigest()


def read_base(path: Path = BASE_FILE) -> tuple[Config, CharTokenizer, array[float]]:
    """Return (config, tokenizer, parameters) of the base.

    Raises: StoreError if the file is missing or damaged.
    """
    from safetensors import SafetensorError, deserialize

    try:
        content = path.read_bytes()
        read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
        tensors = dict(read(content))
        about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
        tokenizer = CharTokenizer.from_json(about["tokenizer"])
        config = Config(**json.loads(about["config"]), vocab_size=tokenizer.vocab_size)
        halves = b"".join(tensors[name]["data"] for name in parameter_shapes(config))
        if digest(about, halves) != about["sha256"]:
            raise ValueError
    except (OSError, ValueError, LookupError, TypeError, SafetensorError, KamonError):
        raise StoreError(
            f"the pretrained base {path} is missing or damaged",
            "install Kamon again, or train with --from scratch",
        ) from None
    # One by one, because a list of Python floats would take four times the memory.
    numbers = array("d", chain.from_iterable(struct.iter_unpack("<e", halves)))
    return config, tokenizer, numbers
