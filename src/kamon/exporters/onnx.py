"""A model as ONNX: one step of the decoder, for a batch of B documents.

    token         (B,) int64        the last token of each document
    position      () int64          the position of these tokens (BOS has 0)
    past_keys     (L, B, H, T, D)   present_keys of the previous step (T is 0 at first)
    past_values   (L, B, H, T, D)
    logits        (B, V)            the logits of the next token
    present_keys, present_values    (L, B, H, T + 1, D)

L is n_layer, H is n_head, D is n_embd / n_head, V is vocab_size and T is the position. All numbers
except token and position are float32. The initializers have the names of `parameter_shapes`. The
metadata contains config, tokenizer and special tokens as JSON, bos and block_size.
"""

from __future__ import annotations

import json
import math
from array import array
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from onnx import NodeProto, TensorProto, ValueInfoProto, checker, helper

from kamon._version import __version__
from kamon.engines.parameters import num_params, parameter_shapes
from kamon.errors import ConfigError
from kamon.storage.checkpoint import little_endian

if TYPE_CHECKING:
    from kamon.config import Config
    from kamon.storage.checkpoint import Checkpoint

OPSET = 17  # from 2022, so that old runtimes can read it
IR_VERSION = 8  # the version that came with this opset
MAX_BYTES = 2**31 - (1 << 20)  # of parameters: protobuf allows at most 2 GiB
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def to_onnx(stored: Checkpoint) -> bytes:
    """Return the file. ConfigError if the model does not fit in float32 or in 2 GiB."""
    config = stored.config
    if 4 * num_params(config) > MAX_BYTES:
        raise ConfigError(
            f"the model has {num_params(config):,} parameters, too many for an ONNX file (2 GiB)"
        )
    numbers = array("f", stored.params)
    if not all(map(math.isfinite, numbers)):
        raise ConfigError("the parameters are too large for the float32 of an ONNX file")
    numbers = little_endian(numbers)
    initializers, end = [], 0
    for name, (n_out, n_in) in parameter_shapes(config).items():
        begin, end = end, end + n_out * n_in
        content = numbers[begin:end].tobytes()
        initializers.append(helper.make_tensor(name, FLOAT, (n_out, n_in), content, raw=True))
    head_dim = config.head_dim
    initializers += [
        helper.make_tensor("eps", FLOAT, (), [1e-5]),
        helper.make_tensor("scale", FLOAT, (), [head_dim**-0.5]),
        helper.make_tensor("heads", INT64, (4,), [0, config.n_head, 1, head_dim]),  # 0: keep size
        helper.make_tensor("flat", INT64, (2,), [0, config.n_embd]),
        helper.make_tensor("first", INT64, (1,), [0]),
        *(helper.make_tensor(f"layer{i}", INT64, (), [i]) for i in range(config.n_layer)),
    ]
    inputs = [
        helper.make_tensor_value_info("token", INT64, ("B",)),
        helper.make_tensor_value_info("position", INT64, ()),
        *(cache(config, name, "T") for name in ("past_keys", "past_values")),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", FLOAT, ("B", config.vocab_size)),
        *(cache(config, name, "T + 1") for name in ("present_keys", "present_values")),
    ]
    graph = helper.make_graph(
        nodes(config), "kamon", inputs, outputs, initializers, doc_string=__doc__
    )
    producer = {"producer_name": "kamon", "producer_version": __version__}
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, **producer, ir_version=IR_VERSION, opset_imports=opset)
    metadata = {
        "config": json.dumps(asdict(config)),
        "tokenizer": stored.tokenizer.to_json(),
        "special": json.dumps(stored.tokenizer.special),
        "bos": str(stored.tokenizer.bos),
        "block_size": str(config.block_size),
    }
    helper.set_model_props(model, metadata)
    checker.check_model(model, full_check=True)
    file: bytes = model.SerializeToString(deterministic=True)
    return file


def cache(config: Config, name: str, length: str) -> ValueInfoProto:
    shape = (config.n_layer, "B", config.n_head, length, config.head_dim)
    return helper.make_tensor_value_info(name, FLOAT, shape)


def nodes(config: Config) -> list[NodeProto]:
    """Return the operations of `kamon.engines.scalar.gpt`."""
    operations: list[NodeProto] = []

    def add(op: str, *operands: str, out: str = "", **attributes: Any) -> str:
        """Add an operation and return the name of its result."""
        name = out or f"x{len(operations)}"
        operations.append(helper.make_node(op, operands, [name], **attributes))
        return name

    def linear(x: str, weights: str, out: str = "") -> str:
        return add("Gemm", x, weights, out=out, transB=1)

    def rmsnorm(x: str) -> str:
        mean_square = add("ReduceMean", add("Mul", x, x), axes=[-1])
        return add("Div", x, add("Sqrt", add("Add", mean_square, "eps")))

    def remembered(past: str, layer: str, new: str) -> str:
        """Return the past keys or values of a layer and the new ones, (B, H, T + 1, D)."""
        earlier = add("Gather", past, layer, axis=0)
        return add("Concat", earlier, add("Reshape", new, "heads"), axis=2)

    x = rmsnorm(add("Add", add("Gather", "wte", "token"), add("Gather", "wpe", "position")))
    present_keys, present_values = [], []
    for i in range(config.n_layer):
        normed = rmsnorm(x)
        q = add("Reshape", linear(normed, f"layer{i}.attn_wq"), "heads")
        keys = remembered("past_keys", f"layer{i}", linear(normed, f"layer{i}.attn_wk"))
        values = remembered("past_values", f"layer{i}", linear(normed, f"layer{i}.attn_wv"))
        present_keys.append(add("Unsqueeze", keys, "first"))
        present_values.append(add("Unsqueeze", values, "first"))
        fits = add("MatMul", q, add("Transpose", keys, perm=[0, 1, 3, 2]))
        weights = add("Softmax", add("Mul", fits, "scale"), axis=-1)
        seen = add("Reshape", add("MatMul", weights, values), "flat")
        x = add("Add", linear(seen, f"layer{i}.attn_wo"), x)
        hidden = add("Relu", linear(rmsnorm(x), f"layer{i}.mlp_fc1"))
        x = add("Add", linear(hidden, f"layer{i}.mlp_fc2"), x)
    linear(x, "lm_head", out="logits")
    add("Concat", *present_keys, out="present_keys", axis=0)
    add("Concat", *present_values, out="present_values", axis=0)
    return operations
