"""What a model looks like from inside, as numbers: the course of its losses, its embeddings on a
plane, what its heads attend to, the lengths of what it makes.

`kamon.plotting` draws them.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from operator import mul
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from kamon.config import Config, check_text, require_int
from kamon.engines.parameters import parameter_shapes
from kamon.engines.scalar import gpt
from kamon.errors import ConfigError, CorpusError, TrainingError
from kamon.evaluation.curves import extremes, moving_means, smoothing
from kamon.evaluation.evaluate import MAX_ORDER
from kamon.model import Model, as_model
from kamon.ngrams.native import best_ngram, count_ngram
from kamon.tokenizers.char import CharTokenizer

if TYPE_CHECKING:
    from kamon.ngrams.native import NativeNgram
    from kamon.ngrams.reference import Ngram

POINTS = 400  # of the smooth curve
MAX_POINTS = 2_000  # single losses that are shown
MAX_NAMED = 100  # characters: more would cover each other
MAX_ITERATIONS = 1_000
TOLERANCE = 1e-13  # an axis that moves less in a turn has been found
NUM_SAMPLES = 1_000
TEMPERATURE = 1.0  # the model's own odds
BINS = 60

Point = tuple[float, float]
Points = list[tuple[int, float]]  # (step, nats per token)


# ---- losses


@dataclass(frozen=True)
class Losses:
    """How a training went; all losses in nats per token.

    smooth: means over `window` steps; each: the losses of single steps, of very many the extremes;
    validation_losses: of some steps, on a part of the validation set. kept: the step whose model
    was kept, and its loss on the whole validation set. uniform: ln V, all tokens equally likely.
    ngram: of the best n-gram on the validation set, which is one of 1 to MAX_ORDER order
    `ngram_order` and has learned what the model learned. Without a validation set,
    validation_losses is empty, and kept, ngram and ngram_order are None.
    """

    window: int
    smooth: Points
    each: Points
    validation_losses: Points
    kept: tuple[int, float] | None
    uniform: float
    ngram: float | None
    ngram_order: int | None


def losses(model: Model | str | Path) -> Losses:
    """The course of a model's training. TrainingError where there was none.

    >>> import kamon
    >>> found = losses(kamon.train(["anna", "hanna", "nora"], num_steps=3))
    >>> found.window, len(found.smooth), round(found.uniform, 4)
    (1, 3, 1.7918)
    """
    model = as_model(model)
    if not model.metrics:
        raise TrainingError("the model was not trained for a single step: there is no loss to show")
    numbers = [line["loss"] for line in model.metrics]
    window = smoothing(len(numbers))
    tested = model.training.get("held_out")
    ngram, order = ngram_loss(model) if tested and model.docs else (None, None)
    return Losses(
        window=window,
        smooth=[(place + 1, mean) for place, mean in moving_means(numbers, window, POINTS)],
        each=[(place + 1, numbers[place]) for place in extremes(numbers, MAX_POINTS)],
        validation_losses=[
            (place + 1, line["held_out_loss"])
            for place, line in enumerate(model.metrics)
            if "held_out_loss" in line
        ],
        kept=(tested["best_step"], tested["loss"]) if tested else None,
        uniform=math.log(model.config.vocab_size),
        ngram=ngram,
        ngram_order=order,
    )


def ngram_loss(model: Model | str | Path) -> tuple[float, int]:
    """(nats per token, order) of `ngram_of`."""
    ngram, nats = ngram_of(as_model(model))
    return nats, ngram.order


def ngram_of(model: Model) -> tuple[Ngram | NativeNgram, float]:
    """The n-gram that does best on the documents held out, cut as in training, or on the text; and
    its nats per token there. Without any, the usual order and NaN."""
    learned, held_out = model.parts()
    tokenizer = model.tokenizer
    learned_tokens = tokenizer.encode_documents(learned)
    if not held_out:
        return count_ngram(learned_tokens, tokenizer.vocab_size), math.nan
    whole = model.writes_text or model.config.long_documents == "windows"
    tested = tokenizer.encode_documents(held_out, None if whole else model.config.block_size)
    ngram, nats = best_ngram(learned_tokens, tested, tokenizer.vocab_size, MAX_ORDER)
    return ngram, min(nats) / tested.num_targets


# ---- embeddings


@dataclass(frozen=True)
class Projection:
    """Rows of numbers on the two axes along which they differ most: points (N, 2).

    shares: of the rows' whole variance, what lies along each axis.
    """

    points: list[Point]
    shares: Point


@dataclass(frozen=True)
class Embeddings:
    """wte and wpe, each on a plane of its own.

    chars: of the points of `tokens`, whose number `bos` is BOS: that stands not among them. named:
    those of the most common in the model's list, or all where they are no more than MAX_NAMED.
    """

    chars: list[str]
    tokens: Projection
    positions: Projection
    named: list[int]
    bos: int


def embeddings(model: Model | str | Path) -> Embeddings:
    """Where a model has put its tokens and positions."""
    model = as_model(model)
    found = parameters(model)
    tokenizer = model.tokenizer
    tokens = [token for token in range(tokenizer.vocab_size) if token != tokenizer.bos]
    named = list(range(len(tokens)))
    if len(tokens) > MAX_NAMED:
        often = Counter(tokenizer.encode_documents(model.docs).tokens)
        named = sorted(sorted(named, key=lambda place: -often[tokens[place]])[:MAX_NAMED])
    return Embeddings(
        chars=list(map(tokenizer.token_text, tokens)),
        tokens=principal_plane(found["wte"]),
        positions=principal_plane(found["wpe"]),
        named=named,
        bos=tokenizer.bos,
    )


def cosines(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """How alike the directions of rows (N, C) are: (N, N), from −1 to 1; 0 for a row of zeros.

    >>> [round(x, 3) for x in cosines([[2.0, 0.0], [3.0, 3.0], [0.0, -1.0]])[1]]
    [0.707, 1.0, -0.707]
    """
    units = list(map(unit, rows))
    return [[dot(left, right) for right in units] for left in units]


def unit(row: Sequence[float]) -> list[float]:
    """Its direction, of length 1; zeros have none."""
    length = math.sqrt(dot(row, row))
    return [x / length for x in row] if length else list(row)


def nearest_tokens(
    model: Model | str | Path, tokens: Iterable[int], n: int
) -> dict[int, list[Near]]:
    """Of each of `tokens` the n other ones whose embeddings are most alike, and their cosines."""
    units = list(map(unit, parameters(model)["wte"]))
    found = {}
    for token in tokens:
        rows = ((dot(units[token], other), -place) for place, other in enumerate(units))
        best = heapq.nlargest(n + 1, rows)
        found[token] = [Near(-place, cosine) for cosine, place in best if -place != token][:n]
    return found


class Near(NamedTuple):
    """A token, and the cosine of its embedding with another's."""

    token: int
    cosine: float


def parameters(model: Model | str | Path) -> dict[str, list[list[float]]]:
    """The model's matrices by their names, each as rows."""
    model = as_model(model)
    return matrices(model.config, model.engine.state()["params"])


def matrices(config: Config, flat: array[float]) -> dict[str, list[list[float]]]:
    """Flat parameters as matrices, by their names."""
    found, start = {}, 0
    for name, shape in parameter_shapes(config).items():
        end = start + prod(shape)
        found[name] = [flat[row : row + shape[1]].tolist() for row in range(start, end, shape[1])]
        start = end
    return found


def principal_plane(rows: Sequence[Sequence[float]]) -> Projection:
    """The first two principal components of rows (N, C), in plain Python: N C² / 2 products.

    Of each axis and its opposite, the one whose largest number is positive is taken. An axis along
    which nothing varies has coordinates 0.

    >>> found = principal_plane([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]])
    >>> [round(x, 3) for x, _ in found.points], [round(share, 3) for share in found.shares]
    ([-2.828, 0.0, 2.828], [1.0, 0.0])
    """
    columns = []
    for column in zip(*rows, strict=True):
        mean = math.fsum(column) / len(rows)
        columns.append([x - mean for x in column])
    covariance = [[0.0] * len(columns) for _ in columns]
    for i, left in enumerate(columns):
        for j in range(i + 1):
            covariance[i][j] = covariance[j][i] = dot(left, columns[j]) / len(rows)
    variance = math.fsum(covariance[i][i] for i in range(len(columns)))
    first = principal_axis(covariance, [])
    second = principal_axis(covariance, [first])
    x, y = ([dot(axis, row) for row in zip(*columns, strict=True)] for axis in (first, second))
    share_x, share_y = (dot(c, c) / len(rows) / variance if variance else 0.0 for c in (x, y))
    return Projection(list(zip(x, y, strict=True)), (share_x, share_y))


def principal_axis(covariance: list[list[float]], others: Sequence[Sequence[float]]) -> list[float]:
    """The unit vector (C,) of the largest variance at right angles to `others`, or zeros.

    By power iteration: a product with the covariance turns any vector towards it. Where two axes
    have nearly the same variance it may end between them, at a variance as good as theirs.
    """
    tiny = 1e-14 * math.fsum(row[i] for i, row in enumerate(covariance))
    # Some direction, not that in which another axis began.
    axis = [math.sin((i + 1) * (len(others) + 1)) for i in range(len(covariance))]
    for _ in range(MAX_ITERATIONS):
        turned = [dot(row, axis) for row in covariance]
        for other in others:
            along = dot(turned, other)
            turned = [t - along * o for t, o in zip(turned, other, strict=True)]
        length = math.sqrt(dot(turned, turned))
        if length <= tiny:
            return [0.0] * len(covariance)
        before, axis = axis, [t / length for t in turned]
        if max(abs(a - b) for a, b in zip(axis, before, strict=True)) < TOLERANCE:
            break
    sign = math.copysign(1.0, max(axis, key=abs))
    return [sign * a for a in axis]


def dot(a: Iterable[float], b: Iterable[float]) -> float:
    """a₀b₀ + a₁b₁ + …, where the last bits do not matter."""
    total: float = sum(map(mul, a, b))
    return total


# ---- attention


@dataclass(frozen=True)
class Attention:
    """What each head looks at while it reads BOS and `text`; weights as of `attention_weights`.

    pieces: the text of each token.
    """

    text: str
    pieces: list[str]
    weights: list[list[list[list[float]]]]


def attention(model: Model | str | Path, text: str | None = None) -> Attention:
    """The attention to `text`, by default to the sample that takes the most likely token each time.

    Errors as of `attention_weights`; ConfigError for an empty text, too: there is nothing to see.
    """
    model = as_model(model)
    if text == "":
        raise ConfigError("the text is empty: give one of a character or more to attend to")
    if text is None:
        wanted = {"length": model.config.block_size} if model.writes_text else {"min_len": 1}
        text = model.sample(1, temperature=0.0, **wanted)[0]
        (size,) = model.tokenizer.num_chars([text], [model.config.block_size - 1])
        text = text[:size]
    weights = attention_weights(model, text)
    return Attention(
        text, list(map(model.tokenizer.token_text, model.tokenizer.encode(text))), weights
    )


def attention_weights(model: Model | str | Path, text: str) -> list[list[list[list[float]]]]:
    """How much each position of BOS and `text` looks at each: (n_layer, n_head, T, T).

    weights[layer][head][t][s] is the share of position s in what position t takes over from the
    positions up to it: each row adds up to 1, and what comes later has 0. By the scalar engine,
    with the parameters of the model's own. TokenizerError for a character that the model does not
    know, ConfigError for a text of block_size tokens or more.
    """
    model = as_model(model)
    config, tokenizer = model.config, model.tokenizer
    check_text("the text", text)
    text = tokenizer.normal(text)
    size = len(text) if isinstance(tokenizer, CharTokenizer) else len(tokenizer.encode(text))
    if size >= config.block_size:
        raise ConfigError(
            f"the text has {size} {tokenizer.unit}s: block_size {config.block_size} holds "
            f"{config.block_size - 1} behind the beginning"
        )
    tokens = [tokenizer.bos, *tokenizer.encode(text)]
    params = parameters(model) | {"lm_head": []}  # nobody asks for the logits
    keys: list[list[list[float]]] = [[] for _ in range(config.n_layer)]
    values: list[list[list[float]]] = [[] for _ in range(config.n_layer)]
    found: list[list[list[list[float]]]] = [
        [[] for _ in range(config.n_head)] for _ in range(config.n_layer)
    ]
    for position, token in enumerate(tokens):
        watched: list[list[list[float]]] = []
        gpt(params, config.head_dim, token, position, keys, values, watched=watched)
        future = [0.0] * (len(tokens) - position - 1)
        for heads, layer in zip(found, watched, strict=True):
            for rows, weights in zip(heads, layer, strict=True):
                rows.append(weights + future)
    return found


# ---- lengths


@dataclass(frozen=True)
class Lengths:
    """How long the documents of the list and the samples of a model are, in characters.

    Bin i counts the documents (listed) and samples (sampled) of first[i] characters or more, but
    fewer than first[i] + width; the last one those that are longer, too, up to `longest`.
    unended: samples that the model did not end, all of block_size tokens.
    """

    first: list[int]
    width: int
    longest: int
    listed: list[int]
    sampled: list[int]
    unended: int
    num_samples: int
    temperature: float
    seed: int


def lengths(model: Model | str | Path, n: int = NUM_SAMPLES) -> Lengths:
    """The lengths of the model's list and of n samples, 1 or more, at the model's own odds.

    ConfigError for a model of text.
    """
    model, n = as_model(model), require_int("n", n, 1)
    model.check_documents("lengths are those of documents")
    if not model.docs:
        raise CorpusError("the model keeps no documents, whose lengths there would be to show")
    size = model.config.block_size
    listed = list(map(len, model.docs))
    samples = model.generate(n, temperature=TEMPERATURE)
    sampled = list(map(len, samples.texts))
    first, width = bins(listed, sampled)
    return Lengths(
        first=first,
        width=width,
        longest=max(*listed, *sampled),
        listed=histogram(listed, first, width),
        sampled=histogram(sampled, first, width),
        unended=sum(each == size for each in samples.sizes),
        num_samples=n,
        temperature=TEMPERATURE,
        seed=model.config.seed,
    )


def bins(listed: Sequence[int], sampled: Sequence[int]) -> tuple[list[int], int]:
    """(the first length of each bin, the width of all): BINS or fewer, from the shortest on.

    Where that is wider than one, a hundredth of the list may be longer than the last bin is wide:
    a few very long documents would leave one bin to all others.

    >>> bins([3, 4, 7], [5])
    ([3, 4, 5, 6, 7], 1)
    """
    least, most = min(*listed, *sampled), max(*listed, *sampled)
    if most - least >= BINS:
        most = max(*sampled, sorted(listed)[(len(listed) - 1) * 99 // 100])
    width = (most - least) // BINS + 1
    return list(range(least, most + 1, width)), width


def histogram(numbers: Iterable[int], first: Sequence[int], width: int) -> list[int]:
    """How many numbers, all of first[0] or more, each bin has; see `Lengths`."""
    counts = Counter(min((n - first[0]) // width, len(first) - 1) for n in numbers)
    return [counts[i] for i in range(len(first))]
