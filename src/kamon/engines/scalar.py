"""The whole algorithm of a GPT, one number at a time. Read it from top to bottom.

    1. Value    a number that remembers how it was computed, so that a gradient can flow back
    2. gpt      linear, softmax, rmsnorm, attention and a small neural network: tokens -> logits
    3. adam     how a gradient improves a parameter
    4. ScalarEngine   parts 1 to 3 with the methods of every engine

This engine is slow and exact. It is the specification: tests compare the tensors of the faster
engines with those of this one. The losses of this engine must equal (==) those of the original
program. So the order of operations matters here:

* Sums run from left to right with `reduce(add, …)`, because `sum()` rounds floats differently
  since Python 3.12.
* A quotient a / b is written a * b**-1, so that plain floats round exactly like Values.

The functions of part 2 take Values or plain floats. Values are for training, because they remember
every operation. Floats are for prediction and take a tenth of the time. This file needs only the
standard library. Letters in shapes: T positions so far, C n_embd, D head_dim, V vocab_size.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add, mul
from threading import RLock
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # at run time, this file needs no other one
    from kamon.config import Config
    from kamon.engines.base import State
    from kamon.engines.batch import PackedBatch


# ---- 1. A number that remembers ---------------------------------------------------------------


class Value:
    """A float, the Values it was computed from, and its derivative with respect to each of them.

    After `loss.backward()`, each Value that `loss` depends on has d loss/d Value in `grad`.

    >>> a, b = Value(2.0), Value(-3.0)
    >>> loss = a * b + a**3
    >>> loss.backward()
    >>> loss.data, a.grad, b.grad  # 2·(−3) + 8,  b + 3a²,  a
    (2.0, 9.0, 2.0)
    """

    __slots__ = ("data", "grad", "inputs", "local_grads")

    def __init__(
        self,
        data: float,
        inputs: tuple[Value, ...] = (),
        local_grads: tuple[float, ...] = (),
    ) -> None:
        self.data = data
        self.grad = 0.0
        self.inputs = inputs
        self.local_grads = local_grads  # d self / d input, one for each of `inputs`

    def __add__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data + other.data, (self, other), (1.0, 1.0))
        return Value(self.data + other, (self,), (1.0,))

    def __mul__(self, other: Value | float) -> Value:
        if isinstance(other, Value):
            return Value(self.data * other.data, (self, other), (other.data, self.data))
        return Value(self.data * other, (self,), (other,))

    __radd__ = __add__
    __rmul__ = __mul__

    def __neg__(self) -> Value:
        return self * -1.0

    def __sub__(self, other: Value | float) -> Value:
        return self + -other

    def __pow__(self, exponent: float) -> Value:
        return Value(self.data**exponent, (self,), (exponent * self.data ** (exponent - 1),))

    def exp(self) -> Value:
        result = math.exp(self.data)
        return Value(result, (self,), (result,))

    def log(self) -> Value:
        return Value(log(self.data), (self,), (1 / self.data,))

    def relu(self) -> Value:
        return Value(relu(self.data), (self,), (1.0 if self.data > 0 else 0.0,))

    def backward(self) -> None:
        """Add d self / d v to the `grad` of every Value v that self depends on.

        By the chain rule, each Value computed from v adds its own gradient times the local
        derivative to the gradient of v. The loop goes backwards through the graph, so the gradient
        of a Value is complete before the inputs of this Value get their shares.
        """
        self.grad = 1.0
        for value in reversed(topological_order(self)):
            for source, local_grad in zip(value.inputs, value.local_grads, strict=True):
                source.grad += local_grad * value.grad


def topological_order(root: Value) -> list[Value]:
    """Return `root` and all Values that it depends on, each after its inputs.

    This is a depth-first walk with a stack instead of recursion, so that no graph is too deep. The
    order is that of a recursion. Gradients are added in this order, so it decides their last bits.
    """
    order: list[Value] = []
    visited: set[Value] = set()
    stack = [(root, False)]
    while stack:
        value, inputs_done = stack.pop()
        if inputs_done:
            order.append(value)
        elif value not in visited:
            visited.add(value)
            stack.append((value, True))
            stack.extend([(source, False) for source in reversed(value.inputs)])
    return order


# ---- 2. The model -----------------------------------------------------------------------------

Number = TypeVar("Number", float, Value)


def data(x: Value | float) -> float:
    return x.data if isinstance(x, Value) else x


def exp(x: Number) -> Number:
    return x.exp() if isinstance(x, Value) else math.exp(x)


def log(x: Number) -> Number:
    if isinstance(x, Value):
        return x.log()
    return -math.inf if x == 0 else math.log(x)


def relu(x: Number) -> Number:
    if isinstance(x, Value):
        return x.relu()
    return x if x > 0 else 0.0


def dot(a: Iterable[Number], b: Iterable[Number]) -> Number:
    """Return a₀b₀ + a₁b₁ + …"""
    total: Number = reduce(add, map(mul, a, b))
    return total


def linear(x: list[Number], w: list[list[Number]]) -> list[Number]:
    """Return W x for x (in,) and W (out, in). Each output is one row of weights times x."""
    return [dot(row, x) for row in w]


def softmax(logits: Sequence[Number]) -> list[Number]:
    """Return the probabilities exp(lᵢ) / Σ exp(lⱼ) of any numbers.

    It subtracts the largest number first. The quotients do not change, and no exponential
    overflows.
    """
    largest = max(map(data, logits))
    exps = [exp(logit - largest) for logit in logits]
    total = reduce(add, exps)
    return [e * total**-1 for e in exps]


def rmsnorm(x: list[Number]) -> list[Number]:
    """Return x / √(mean(x²) + 1e-5), which has the direction of x and a fixed length.

    Source: Zhang and Sennrich 2019, arXiv:1910.07467, without the gain.
    """
    mean_square = dot(x, x) * len(x) ** -1
    scale = (mean_square + 1e-5) ** -0.5
    return [xi * scale for xi in x]


def attention_weights(
    q: list[Number], keys: list[list[Number]], head_dim: int
) -> list[list[Number]]:
    """Return how well q (C,) fits each of the keys (T, C) in each head: softmax(q·k_t / √D) over t.

    The result is (n_head, T). Each head takes the next D numbers of each vector. There is no mask,
    because the keys of later positions do not exist yet.
    Source: Vaswani et al. 2017, arXiv:1706.03762.
    """
    heads = [slice(start, start + head_dim) for start in range(0, len(q), head_dim)]
    return [
        softmax([dot(q[head], k[head]) * (head_dim**0.5) ** -1 for k in keys]) for head in heads
    ]


def attention(
    weights: list[list[Number]], values: list[list[Number]], head_dim: int
) -> list[Number]:
    """Return the mean (C,) of the values so far (T, C), which each head weights differently."""
    out: list[Number] = []
    for h, of_head in enumerate(weights):
        head = slice(h * head_dim, (h + 1) * head_dim)
        out += [dot(of_head, column) for column in zip(*(v[head] for v in values), strict=True)]
    return out


def embed(params: dict[str, list[list[Number]]], token: int, position: int) -> list[Number]:
    """Return the start of the residual stream (C,): the token's row plus the position's row."""
    x = list(map(add, params["wte"][token], params["wpe"][position]))
    return rmsnorm(x)  # this scales the stream itself, the first layer only its own input


def qkv(
    params: dict[str, list[list[Number]]], layer: str, x: list[Number]
) -> tuple[list[Number], list[Number], list[Number]]:
    """Return the query, the key and the value of the position with x, (C,) each.

    layer: the start of its parameters' names, such as "layer0" in "layer0.attn_wq".
    """
    x = rmsnorm(x)
    wq, wk, wv = (params[f"{layer}.{name}"] for name in ("attn_wq", "attn_wk", "attn_wv"))
    return linear(x, wq), linear(x, wk), linear(x, wv)


def mlp(params: dict[str, list[list[Number]]], layer: str, x: list[Number]) -> list[Number]:
    """Return the MLP's output (C,) for one position. Its hidden layer has 4C numbers, all ≥ 0."""
    x = linear(rmsnorm(x), params[f"{layer}.mlp_fc1"])
    x = [relu(xi) for xi in x]
    return linear(x, params[f"{layer}.mlp_fc2"])


def gpt(
    params: dict[str, list[list[Number]]],
    head_dim: int,
    token: int,
    position: int,
    keys: list[list[list[Number]]],
    values: list[list[list[Number]]],
    masks: list[list[float]] | None = None,
    watched: list[list[list[Number]]] | None = None,
) -> list[Number]:
    """Return the logits (V,) of the token after `token`, which is at `position`.

    `keys` and `values` (n_layer, T, C) are the KV cache of the earlier positions. This call appends
    its own key and value in each layer. At the start of a document, the cache has n_layer empty
    lists. `masks` (2 n_layer + 1, C) has factors for dropout in training, 0 for each number that it
    leaves out. If `watched` is a list, each layer appends its attention weights.
    """
    x = embed(params, token, position)
    x = x if masks is None else list(map(mul, x, masks[0]))
    for i in range(len(keys)):
        q, k, v = qkv(params, f"layer{i}", x)
        keys[i].append(k)
        values[i].append(v)
        weights = attention_weights(q, keys[i], head_dim)
        if watched is not None:
            watched.append(weights)
        seen = linear(attention(weights, values[i], head_dim), params[f"layer{i}.attn_wo"])
        seen = seen if masks is None else list(map(mul, seen, masks[2 * i + 1]))
        x = list(map(add, seen, x))
        thought = mlp(params, f"layer{i}", x)
        thought = thought if masks is None else list(map(mul, thought, masks[2 * i + 2]))
        x = list(map(add, thought, x))
    return linear(x, params["lm_head"])


def document_logprobs(
    params: dict[str, list[list[Number]]],
    n_layer: int,
    head_dim: int,
    tokens: Sequence[int],
    masks: Callable[[int], list[list[float]]] | None = None,
) -> list[Number]:
    """Return log p(tokens[t + 1] | tokens[0 … t]) for each t, in nats.

    masks: a function that returns the masks of a position.
    """
    keys: list[list[list[Number]]] = [[] for _ in range(n_layer)]
    values: list[list[list[Number]]] = [[] for _ in range(n_layer)]
    logprobs = []
    for position in range(len(tokens) - 1):
        left_out = masks(position) if masks else None
        logits = gpt(params, head_dim, tokens[position], position, keys, values, left_out)
        logprobs.append(log(softmax(logits)[tokens[position + 1]]))
    return logprobs


# ---- 3. Learning ------------------------------------------------------------------------------


def adam(
    params: list[Value],
    m: array[float],
    v: array[float],
    step: int,
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps_adam: float,
    weight_decay: float = 0.0,
    grad_clip: float = 0.0,
) -> None:
    """Move each parameter against its gradient, by about `learning_rate`, and clear the gradients.

    m and v are running means of the gradient and of its square. They start at zero, and dividing by
    1 − betaᵗ⁺¹ corrects for that. `step` counts from 0. Source: Kingma and Ba 2014,
    arXiv:1412.6980.

    Before that, each parameter shrinks by its share learning_rate · weight_decay. Source:
    Loshchilov and Hutter 2017, arXiv:1711.05101.

    If grad_clip is not 0, a gradient with a larger norm is first scaled to this norm, so that no
    step changes the parameters too much. Source: Pascanu et al. 2013, arXiv:1211.5063.
    """
    if grad_clip:
        norm = reduce(add, [p.grad**2 for p in params]) ** 0.5
        if norm > grad_clip:
            for p in params:
                p.grad *= grad_clip / norm
    kept = 1 - learning_rate * weight_decay
    for i, p in enumerate(params):
        m[i] = beta1 * m[i] + (1 - beta1) * p.grad
        v[i] = beta2 * v[i] + (1 - beta2) * p.grad**2
        m_hat = m[i] / (1 - beta1 ** (step + 1))
        v_hat = v[i] / (1 - beta2 ** (step + 1))
        p.data = p.data * kept - learning_rate * m_hat / (v_hat**0.5 + eps_adam)
        p.grad = 0.0


# ---- 4. The engine ----------------------------------------------------------------------------


class ScalarEngine:
    """The engine contract (kamon.engines.base) with the functions above.

    `shapes` has the name and the (out, in) of each parameter matrix, in the order of the flat
    buffers. `masks` returns the dropout masks of the document with this draw. Only one thread at a
    time reads or changes the parameters.
    """

    def __init__(
        self,
        config: Config,
        shapes: dict[str, tuple[int, int]],
        masks: Callable[[int], Callable[[int], list[list[float]]]],
    ) -> None:
        self.config = config
        self.shapes = shapes
        self.masks = masks
        self.lock = RLock()
        self.dtype = "float64"
        self.params = {
            name: [[Value(0.0) for _ in range(n_in)] for _ in range(n_out)]
            for name, (n_out, n_in) in shapes.items()
        }
        self.flat = [p for matrix in self.params.values() for row in matrix for p in row]
        self.m = array("d", bytes(8 * len(self.flat)))
        self.v = array("d", bytes(8 * len(self.flat)))
        self.num_updates = 0

    def load(self, state: State) -> None:
        params, m, v = state["params"], state["m"], state["v"]
        if not len(params) == len(m) == len(v) == len(self.flat):
            raise ValueError(f"the state does not have this model's {len(self.flat)} parameters")
        if not all(isinstance(each, array) and each.typecode == "d" for each in (params, m, v)):
            raise ValueError("the parameters of a state must be arrays of 'd'")
        if not 0 <= state["step"] < 2**63:
            raise ValueError(f"a state cannot have {state['step']} steps")
        with self.lock:
            for p, number in zip(self.flat, params, strict=True):
                p.data = number
                p.grad = 0.0
            self.m, self.v = m[:], v[:]
            self.num_updates = state["step"]

    def state(self) -> State:
        with self.lock:
            params = array("d", [p.data for p in self.flat])
            return {"params": params, "m": self.m[:], "v": self.v[:], "step": self.num_updates}

    def __reduce__(self) -> tuple[Any, ...]:
        return ScalarEngine, (self.config, self.shapes, self.masks), self.state()

    __setstate__ = load

    def gradients(self) -> array[float]:
        with self.lock:
            return array("d", [p.grad for p in self.flat])

    def logprobs(self, batch: PackedBatch) -> array[float]:
        c, params, logprobs = self.config, self._floats(), array("d")
        for tokens in self._documents(batch):
            logprobs.extend(document_logprobs(params, c.n_layer, c.head_dim, tokens))
        return logprobs

    def backward(
        self, batch: PackedBatch, weights: Sequence[float], draws: Sequence[int] | None = None
    ) -> array[float]:
        documents = self._documents(batch)
        if len(weights) != batch.num_targets:
            raise ValueError(f"{len(weights)} weights for {batch.num_targets} targets")
        if draws is not None and len(draws) != len(batch):
            raise ValueError(f"{len(draws)} draws for {len(batch)} documents")
        c, logprobs = self.config, array("d")
        with self.lock:
            for d, tokens in enumerate(documents):
                masks = self.masks(draws[d]) if draws and c.dropout else None
                found = document_logprobs(self.params, c.n_layer, c.head_dim, tokens, masks)
                if found:
                    doc_weights = weights[len(logprobs) : len(logprobs) + len(found)]
                    losses = [-logp * w for logp, w in zip(found, doc_weights, strict=True)]
                    reduce(add, losses).backward()
                logprobs.extend([logp.data for logp in found])
        return logprobs

    def step(self, learning_rate: float) -> None:
        c = self.config
        with self.lock:
            adam(
                *(self.flat, self.m, self.v, self.num_updates, learning_rate),
                *(c.beta1, c.beta2, c.eps_adam, c.weight_decay, c.grad_clip),
            )
            self.num_updates += 1

    def decoder(self) -> ScalarDecoder:
        return ScalarDecoder(self._floats(), self.config)

    def _floats(self) -> dict[str, list[list[float]]]:
        with self.lock:
            return {
                name: [[p.data for p in row] for row in matrix]
                for name, matrix in self.params.items()
            }

    def _documents(self, batch: PackedBatch) -> list[Sequence[int]]:
        batch.check()
        documents: list[Sequence[int]] = [batch.document(d) for d in range(len(batch))]
        for tokens in documents:
            if len(tokens) > self.config.block_size + 1:
                raise ValueError(
                    f"a document of {len(tokens)} tokens: block_size {self.config.block_size} "
                    f"holds {self.config.block_size + 1}"
                )
            for token in tokens:
                check_token(token, self.config.vocab_size)
        return documents


class ScalarDecoder:
    """Reads one document token by token and keeps its keys and values."""

    def __init__(self, params: dict[str, list[list[float]]], config: Config) -> None:
        self.params = params
        self.config = config
        self.position = 0
        self.keys: list[list[list[float]]] = [[] for _ in range(config.n_layer)]
        self.values: list[list[list[float]]] = [[] for _ in range(config.n_layer)]

    def push(self, token: int) -> list[float]:
        check_token(token, self.config.vocab_size)
        if self.position == self.config.block_size:
            raise ValueError(f"block_size {self.config.block_size} tokens were pushed: it is full")
        head_dim = self.config.head_dim
        logits = gpt(self.params, head_dim, token, self.position, self.keys, self.values)
        self.position += 1
        return logits


def check_token(token: int, vocab_size: int) -> None:
    if not 0 <= token < vocab_size:
        raise ValueError(f"token {token} is outside the vocabulary of {vocab_size}")
