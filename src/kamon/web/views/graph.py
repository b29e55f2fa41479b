"""Graphs of Values, with the steps of `Value.backward`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kamon.engines import scalar
from kamon.engines.numerics import sequential_sum
from kamon.engines.scalar import Value, softmax, topological_order
from kamon.errors import ConfigError
from kamon.model import Model
from kamon.web.views.source_links import Source, sources_of

NUM_LIKELY = 4  # most likely tokens to draw, besides the target
MAX_TOKENS = 20_000  # of a vocabulary. Each token takes four Values
MAX_INPUT = 1e6  # of the numbers of an expression
COMMON_SOURCES: dict[str, Callable[..., Any]] = {
    "value": Value.__init__,
    "order": topological_order,
    "backward": Value.backward,
}


@dataclass(frozen=True)
class Node:
    """A Value.

    inputs: ids of the nodes that it was computed from. local_grads: derivatives with respect to
    these. folded: number of terms, if the node is a sum of several.
    """

    id: int
    label: str
    op: str
    data: float
    grad: float
    inputs: list[int]
    local_grads: list[float]
    folded: int = 0


@dataclass(frozen=True)
class Added:
    """The amount local_grad · grad that a node adds to the gradient of its input `to`, and the
    gradient after that."""

    to: int
    amount: float
    grad: float


@dataclass(frozen=True)
class Step:
    """A step: the node `id` adds to the gradients of its inputs."""

    id: int
    added: list[Added]


@dataclass(frozen=True)
class Graph:
    """Nodes, each after its inputs, and the steps of `Value.backward`.

    backward: ids in the order of the steps. num_values: number of Values in the whole computation.
    folded: a sentence about the Values that are not drawn, if any.
    """

    nodes: list[Node]
    backward: list[int]
    root: int
    steps: list[Step]
    num_values: int
    folded: str | None
    sources: dict[str, Source]


@dataclass(frozen=True)
class Drawn:
    """How to draw a Value. inputs: those to draw instead of its inputs, each with derivative 1."""

    label: str
    op: str
    inputs: list[Value] | None = None
    folded: int = 0


def expression(a: float, b: float, c: float) -> Graph:
    """Return the graph of ((a·b + c).relu() − 1)² and its gradient."""
    for name, number in (("a", a), ("b", b), ("c", c)):
        if not abs(number) <= MAX_INPUT:
            raise ConfigError(f"{name} must be from −{MAX_INPUT:,.0f} to {MAX_INPUT:,.0f}")
    inputs = [Value(float(number)) for number in (a, b, c)]
    product = inputs[0] * inputs[1]
    total = product + inputs[2]
    rectified = total.relu()
    difference = rectified - 1.0
    root = difference**2
    drawn = {value: Drawn(name, "input") for value, name in zip(inputs, "abc", strict=True)} | {
        product: Drawn("a·b", "·"),
        total: Drawn("a·b + c", "+"),
        rectified: Drawn("relu(a·b + c)", "relu"),
        difference: Drawn("relu(a·b + c) − 1", "− 1"),
        root: Drawn("(relu(a·b + c) − 1)²", "²"),
    }
    root.backward()
    return graph(root, drawn, sources_of(**COMMON_SOURCES, relu=Value.relu))


def loss(model: Model, text: str, position: int) -> Graph:
    """Return the graph of −log p of a token of the text, or of the end.

    The graph starts at the model's logits and uses the scalar engine's softmax and log. It shows
    only the most likely tokens and the target, but the sum is over all tokens.

    position: of the token, from 0. The end comes after the last token.

    Raises:
        TokenizerError: the model does not know a character.
        ConfigError: the position is outside the text or the model's block_size.
    """
    tokenizer, size = model.tokenizer, model.config.vocab_size
    tokens = tokenizer.encode(text)
    targets = tokens if model.writes_text else [*tokens, tokenizer.bos]
    if not 0 <= position < len(targets):
        raise ConfigError(
            f"position {position} is not in the text: the last one is {len(targets) - 1}"
            if targets
            else "the text is empty"
        )
    if position >= model.config.block_size:
        raise ConfigError(
            f"position {position} is beyond the last position of block_size "
            f"{model.config.block_size}, which is {model.config.block_size - 1}"
        )
    if size > MAX_TOKENS:
        raise ConfigError(
            f"a sum over {size:,} tokens is too long for a graph: the limit is {MAX_TOKENS:,}"
        )
    decoder = model.engine.decoder()
    for token in [tokenizer.bos, *tokens[:position]]:
        logits = decoder.push(token)
    names = [
        "end" if token == tokenizer.bos else repr(tokenizer.token_text(token))
        for token in range(size)
    ]
    return loss_of(logits, targets[position], names)


def loss_of(logits: Sequence[float], target: int, names: Sequence[str]) -> Graph:
    """Return the graph of −log softmax(logits)[target]. names: labels of the tokens."""
    leaves = [Value(float(logit)) for logit in logits]
    try:
        root = -scalar.log(softmax(leaves)[target])
    except ArithmeticError:
        raise ConfigError(
            f"the model gives {names[target]} probability 0 here, which has no logarithm"
        ) from None
    root.backward()
    # Go back along the inputs, because softmax returns only its results.
    (logged,) = root.inputs
    (probability,) = logged.inputs
    _, inverse = probability.inputs
    (total,) = inverse.inputs
    exps, partial = [], total
    for _ in leaves[1:]:
        partial, term = partial.inputs
        exps.append(term)
    exps = [*exps, partial][::-1]
    most_likely = sorted(range(len(leaves)), key=lambda token: -leaves[token].data)[:NUM_LIKELY]
    shown = sorted({*most_likely, target})
    others = [token for token in range(len(leaves)) if token not in shown]
    if len(others) == 1:
        shown, others = sorted([*shown, *others]), []
    drawn = {}
    for token in shown:
        (shifted,) = exps[token].inputs
        drawn[leaves[token]] = Drawn(f"logit({names[token]})", "input")
        drawn[shifted] = Drawn(f"logit({names[token]}) − max", "− max")
        drawn[exps[token]] = Drawn(f"exp({names[token]})", "exp")
    terms = [exps[token] for token in shown]
    folded = None
    if others:
        rest = Value(sequential_sum(exps[token].data for token in others))
        rest.grad = exps[others[0]].grad  # each term's: the sum only adds them
        drawn[rest] = Drawn(f"exp of {len(others)} others", "+", folded=len(others))
        terms.append(rest)
    name = names[target]
    drawn[total] = Drawn("Σ exp", "+", inputs=terms)
    drawn[inverse] = Drawn("1 / Σ exp", "⁻¹")
    drawn[probability] = Drawn(f"p({name})", "·")
    drawn[logged] = Drawn(f"log p({name})", "log")
    drawn[root] = Drawn(f"−log p({name})", "· −1")
    whole = topological_order(root)
    hidden = len(whole) - len(drawn) + bool(others)
    if hidden:
        folded = f"of {len(whole):,} Values {hidden:,} are not drawn one by one: "
        if others:
            folded += (
                f"logit, logit − max and exp of the {len(others):,} other tokens, whose sum is one "
                "node here, and "
            )
        folded += f"the {len(leaves) - 2:,} sums on the way to Σ exp, which adds one term at a time"
    sources = sources_of(**COMMON_SOURCES, softmax=softmax, log=Value.log)
    return graph(root, drawn, sources, folded)


def graph(
    root: Value, drawn: Mapping[Value, Drawn], sources: dict[str, Source], folded: str | None = None
) -> Graph:
    """Return the graph of a root after its `backward`. Folded Values come before their sum."""
    whole = topological_order(root)
    order: list[Value] = []
    for value in whole:
        if value in drawn:
            order += [each for each in drawn[value].inputs or () if drawn[each].folded]
            order.append(value)
    ids = {value: id for id, value in enumerate(order)}
    nodes = []
    for value, id in ids.items():
        how = drawn[value]
        inputs = value.inputs if how.inputs is None else how.inputs
        local_grads = value.local_grads if how.inputs is None else [1.0] * len(inputs)
        node = Node(id, how.label, how.op, value.data, value.grad, [], [*local_grads], how.folded)
        node.inputs.extend(ids[source] for source in inputs)
        nodes.append(node)
    if not all(math.isfinite(number) for n in nodes for number in (n.data, n.grad, *n.local_grads)):
        raise ConfigError("a number of the graph is too large to compute with")
    backward = [node.id for node in reversed(nodes)]
    return Graph(
        nodes=nodes,
        backward=backward,
        root=ids[root],
        steps=steps(nodes, backward),
        num_values=len(whole),
        folded=folded,
        sources=sources,
    )


def steps(nodes: Sequence[Node], backward: Sequence[int]) -> list[Step]:
    """Return the steps of `Value.backward`, with each gradient so far."""
    grads = [0.0] * len(nodes)
    grads[backward[0]] = 1.0
    found = []
    for id in backward:
        added = []
        for source, local_grad in zip(nodes[id].inputs, nodes[id].local_grads, strict=True):
            amount = local_grad * grads[id]
            grads[source] += amount
            added.append(Added(source, amount, grads[source]))
        found.append(Step(id, added))
    return found
