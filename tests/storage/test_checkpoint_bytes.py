"""A file of parameters is what the library of safetensors writes, byte for byte."""

from __future__ import annotations

from array import array
from math import prod

import pytest
from safetensors import TensorSpec, serialize

from kamon.config import Config
from kamon.engines.parameters import parameter_shapes
from kamon.storage import checkpoint
from kamon.storage.checkpoint import to_safetensors


@pytest.mark.parametrize("part", [checkpoint.PART, 7])
@pytest.mark.parametrize("prefixes", [[""], ["params.", "m.", "v."]])
def test_file_has_the_bytes_of_the_library(
    part: int, prefixes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "PART", part)
    config = Config(n_layer=2, n_embd=8, n_head=2, block_size=5, vocab_size=3)
    shapes = parameter_shapes(config)
    count = sum(map(prod, shapes.values()))
    groups = {
        prefix: array("d", (i / 7 + place for i in range(count)))
        for place, prefix in enumerate(prefixes)
    }
    tensors = {}
    for prefix, numbers in groups.items():
        address, _ = numbers.buffer_info()
        for name, shape in shapes.items():
            size = 8 * prod(shape)
            tensors[prefix + name] = TensorSpec(
                dtype="float64", shape=list(shape), data_ptr=address, data_len=size
            )
            address += size
    expected = bytes(serialize(tensors, {"format": "kamon"}))
    assert b"".join(to_safetensors(config, groups)) == expected
