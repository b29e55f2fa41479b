"""Numbers about a model's inside for `kamon.plotting`.

These are its losses during training, its embeddings on a plane, the attention of its heads, and the
lengths of its samples.
"""

from __future__ import annotations

import heapq
import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import NamedTuple

from kamon.config import Config, check_text, require_int
from kamon.data.graphemes import lengths_of
from kamon.engines.parameters import parameter_shapes
from kamon.engines.scalar import gpt
from kamon.errors import ConfigError, CorpusError, TrainingError
from kamon.evaluation.curves import extremes, moving_means, smoothing
from kamon.evaluation.evaluate import MAX_ORDER
from kamon.model import Conditions, Model, as_model
from kamon.ngrams.native import NativeNgram, best_ngram, count_ngram
from kamon.ngrams.reference import Ngram
from kamon.tokenizers.char import CharTokenizer

POINTS = 400  # points of the smooth curve
MAX_POINTS = 2_000  # losses of single steps in the plot
MAX_NAMED = 100  # labels, because more would cover each other
MAX_ITERATIONS = 1_000
TOLERANCE = 1e-13  # iteration ends if an axis moves less than this
NUM_SAMPLES = 1_000
TEMPERATURE = 1.0  # the model's distribution
BINS = 60

Point = tuple[float, float]
Points = list[tuple[int, float]]  # (step, nats per token)


@dataclass(frozen=True)
class Losses:
    """The losses of a training run, in nats per token.

    Attributes:
        window: number of steps that each mean of `smooth` covers.
        each: losses of single steps, or only the extremes of a long run.
        validation_losses: the validation losses after some steps. Without a validation set, this is
            empty, and kept, gpt, ngram and ngram_order are None.
        kept: the step with the best model, and its validation loss.
        gpt: the validation loss of the GPT in the best model's blend, or None without a blend.
        uniform: ln V, the loss if all tokens are equally likely.
        ngram, ngram_order: validation loss and order of the n-gram in the blend, or else of the
            best n-gram of the training set, of order 1 to MAX_ORDER.
    """

    window: int
    smooth: Points
    each: Points
    validation_losses: Points
    kept: tuple[int, float] | None
    gpt: float | None
    uniform: float
    ngram: float | None
    ngram_order: int | None


def losses(model: Model | str | Path) -> Losses:
    """Return the losses of a model's training. Raises TrainingError if it was not trained.

    >>> import kamon
    >>> found = losses(kamon.train(["anna", "hanna", "nora"], num_steps=3))
    >>> found.window, len(found.smooth), round(found.uniform, 4)
    (1, 3, 1.7918)
    """
    model = as_model(model)
    if not model.metrics:
        raise TrainingError("the model was not trained, so it has no losses")
    numbers = [line["loss"] for line in model.metrics]
    window = smoothing(len(numbers))
    tested, blend = model.training.held_out, model.training.blend
    ngram, order = None, None
    if tested and blend:
        ngram, order = tested.ngram_loss, blend.order
    elif tested and model.docs:
        ngram, order = ngram_loss(model)
    return Losses(
        window=window,
        smooth=[(place + 1, mean) for place, mean in moving_means(numbers, window, POINTS)],
        each=[(place + 1, numbers[place]) for place in extremes(numbers, MAX_POINTS)],
        validation_losses=[
            (place + 1, line["held_out_loss"])
            for place, line in enumerate(model.metrics)
            if "held_out_loss" in line
        ],
        kept=(tested.best_step, tested.loss) if tested else None,
        gpt=tested.gpt_loss if tested else None,
        uniform=math.log(model.config.vocab_size),
        ngram=ngram,
        ngram_order=order,
    )


def ngram_loss(model: Model | str | Path) -> tuple[float, int]:
    ngram, nats = ngram_of(as_model(model))
    return nats, ngram.order


def ngram_of(model: Model) -> tuple[Ngram | NativeNgram, float]:
    """Return the n-gram with the lowest validation loss, and that loss in nats per token.

    Kamon cuts documents as in training. Without a validation set, the result is an n-gram of the
    default order, and NaN.
    """
    learned, held_out = model.parts()
    tokenizer = model.tokenizer
    learned_tokens = tokenizer.encode_documents(learned)
    if not held_out:
        return count_ngram(learned_tokens, tokenizer.vocab_size), math.nan
    whole = model.writes_text or model.config.long_documents == "windows"
    tested = tokenizer.encode_documents(held_out, None if whole else model.config.block_size)
    ngram, nats = best_ngram(learned_tokens, tested, tokenizer.vocab_size, MAX_ORDER)
    return ngram, min(nats) / tested.num_targets


@dataclass(frozen=True)
class Projection:
    """Rows of numbers, projected on the two axes with the largest variance.

    Attributes:
        points: (N, 2).
        shares: the share of the rows' variance along each axis.
    """

    points: list[Point]
    shares: Point


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of tokens (wte) and of positions (wpe), each on its own plane.

    Attributes:
        chars: the text of each point of `tokens`.
        named: the points that a plot labels: the MAX_NAMED most common tokens in the list.
        bos: the token without a point.
    """

    chars: list[str]
    tokens: Projection
    positions: Projection
    named: list[int]
    bos: int


def embeddings(model: Model | str | Path) -> Embeddings:
    model = as_model(model)
    params = parameters(model)
    tokenizer = model.tokenizer
    tokens = [token for token in range(tokenizer.vocab_size) if token != tokenizer.bos]
    named = list(range(len(tokens)))
    if len(tokens) > MAX_NAMED:
        often = Counter(tokenizer.encode_documents(model.docs).tokens)
        named = sorted(sorted(named, key=lambda place: -often[tokens[place]])[:MAX_NAMED])
    return Embeddings(
        chars=list(map(tokenizer.token_text, tokens)),
        tokens=principal_plane(params["wte"]),
        positions=principal_plane(params["wpe"]),
        named=named,
        bos=tokenizer.bos,
    )


def cosines(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    """Return the cosines of all pairs of rows (N, C) as (N, N). A row of zeros has cosines of 0.

    >>> [round(x, 3) for x in cosines([[2.0, 0.0], [3.0, 3.0], [0.0, -1.0]])[1]]
    [0.707, 1.0, -0.707]
    """
    units = list(map(unit, rows))
    return [[dot(left, right) for right in units] for left in units]


def unit(row: Sequence[float]) -> list[float]:
    length = math.sqrt(dot(row, row))
    return [x / length for x in row] if length else list(row)


def nearest_tokens(
    model: Model | str | Path, tokens: Iterable[int], n: int
) -> dict[int, list[Near]]:
    """Return the n other tokens with the most similar embeddings, for each of these tokens."""
    units = list(map(unit, parameters(model)["wte"]))
    nearest = {}
    for token in tokens:
        rows = ((dot(units[token], other), -place) for place, other in enumerate(units))
        best = heapq.nlargest(n + 1, rows)
        nearest[token] = [Near(-place, cosine) for cosine, place in best if -place != token][:n]
    return nearest


class Near(NamedTuple):
    """A token, and the cosine between its embedding and that of another token."""

    token: int
    cosine: float


def parameters(model: Model | str | Path) -> dict[str, list[list[float]]]:
    model = as_model(model)
    return matrices(model.config, model.engine.state()["params"])


def matrices(config: Config, flat: array[float]) -> dict[str, list[list[float]]]:
    """Return the rows of each matrix in flat parameters, by name."""
    rows, start = {}, 0
    for name, (n_out, n_in) in parameter_shapes(config).items():
        end = start + n_out * n_in
        rows[name] = [flat[row : row + n_in].tolist() for row in range(start, end, n_in)]
        start = end
    return rows


def principal_plane(rows: Sequence[Sequence[float]]) -> Projection:
    """Return the first two principal components of rows (N, C), in N C² / 2 products.

    The largest number of each axis is positive. Coordinates are 0 on an axis without variance.

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
    """Return the unit vector (C,) of the largest variance orthogonal to `others`, or zeros.

    This is power iteration: a product with the covariance turns any vector towards that axis. If
    two axes have nearly the same variance, the result may be between them and is just as good.
    """
    tiny = 1e-14 * math.fsum(row[i] for i, row in enumerate(covariance))
    # Any direction, but each axis starts with its own.
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
    """Return a₀b₀ + a₁b₁ + …, without exact last bits."""
    total: float = sum(map(mul, a, b))
    return total


@dataclass(frozen=True)
class Attention:
    """The attention of each head while the model reads BOS and a text.

    Attributes:
        pieces: the text of each token, BOS first (T).
        weights: the result of `attention_weights`.
    """

    text: str
    pieces: list[str]
    weights: list[list[list[list[float]]]]


def attention(model: Model | str | Path, text: str | None = None) -> Attention:
    """Return the attention while the model reads a text. Default: its sample at temperature 0.

    Raises: the errors of `attention_weights`, and ConfigError for an empty text.
    """
    model = as_model(model)
    if text == "":
        raise ConfigError("the text is empty", "give at least one character")
    if text is None:
        wanted: Conditions = {"min_len": 1}
        if model.writes_text:
            wanted = {"length": model.config.block_size}
        text = model.sample(1, temperature=0.0, **wanted)[0]
        (size,) = model.tokenizer.num_chars([text], [model.config.block_size - 1])
        text = text[:size]
    weights = attention_weights(model, text)
    tokenizer = model.tokenizer
    pieces = list(map(tokenizer.token_text, [tokenizer.bos, *tokenizer.encode(text)]))
    return Attention(text, pieces, weights)


def attention_weights(model: Model | str | Path, text: str) -> list[list[list[list[float]]]]:
    """Return the attention of each position of BOS and `text`: (n_layer, n_head, T, T).

    weights[layer][head][t][s] is how much position t attends to position s. Each row adds up to 1,
    and later positions have 0. The scalar engine computes them with the model's parameters.

    Raises:
        TokenizerError: the model does not know a character.
        ConfigError: the text has block_size tokens or more.
    """
    model = as_model(model)
    model.training.check_unconditional("a look at the attention")
    config, tokenizer = model.config, model.tokenizer
    check_text("the text", text)
    text = tokenizer.normal(text)
    size = len(text) if isinstance(tokenizer, CharTokenizer) else len(tokenizer.encode(text))
    if size >= config.block_size:
        raise ConfigError(
            f"the text has {size} {tokenizer.unit}s, and block_size {config.block_size} allows "
            f"{config.block_size - 1}"
        )
    tokens = [tokenizer.bos, *tokenizer.encode(text)]
    params = parameters(model) | {"lm_head": []}  # the logits are not needed
    layers = range(config.n_layer)
    keys: list[list[list[float]]] = [[] for _ in layers]
    values: list[list[list[float]]] = [[] for _ in layers]
    weights: list[list[list[list[float]]]] = [[[] for _ in range(config.n_head)] for _ in layers]
    for position, token in enumerate(tokens):
        watched: list[list[list[float]]] = []
        gpt(params, config.head_dim, token, position, keys, values, watched=watched)
        future = [0.0] * (len(tokens) - position - 1)
        for heads, layer in zip(weights, watched, strict=True):
            for rows, row in zip(heads, layer, strict=True):
                rows.append(row + future)
    return weights


@dataclass(frozen=True)
class Lengths:
    """The lengths of the documents of the list and of a model's samples, in characters.

    Attributes:
        first: bin i counts lengths from first[i] to first[i] + width − 1. The last bin also counts
            longer ones, up to `longest`.
        listed, sampled: number of documents and samples in each bin.
        unended: samples that the model did not end. They have block_size tokens.
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
    """Return the lengths of the model's documents and of n samples (1 or more) at temperature 1.

    Raises: ConfigError for a model of text, CorpusError if the model keeps no documents.
    """
    model, n = as_model(model), require_int("n", n, 1)
    model.check_documents("a plot of lengths")
    if not model.docs:
        raise CorpusError("the model does not keep its documents, so it has no lengths to show")
    size = model.config.block_size
    listed = lengths_of(model.docs)
    samples = model.generate(n, temperature=TEMPERATURE)
    sampled = lengths_of(samples.texts)
    first, width = bins(listed, sampled)
    return Lengths(
        first=first,
        width=width,
        longest=max(*listed, *sampled),
        listed=histogram(listed, first, width),
        sampled=histogram(sampled, first, width),
        unended=samples.sizes.count(size),
        num_samples=n,
        temperature=TEMPERATURE,
        seed=model.config.seed,
    )


def bins(listed: Sequence[int], sampled: Sequence[int]) -> tuple[list[int], int]:
    """Return the first length of each bin, and the width of all bins, for up to BINS bins.

    If lengths differ by BINS or more, Kamon ignores the longest hundredth of the list. Otherwise a
    few very long documents would put all others into one bin.

    >>> bins([3, 4, 7], [5])
    ([3, 4, 5, 6, 7], 1)
    """
    least, most = min(*listed, *sampled), max(*listed, *sampled)
    if most - least >= BINS:
        most = max(*sampled, sorted(listed)[(len(listed) - 1) * 99 // 100])
    width = (most - least) // BINS + 1
    return list(range(least, most + 1, width)), width


def histogram(numbers: Iterable[int], first: Sequence[int], width: int) -> list[int]:
    counts = Counter(min((n - first[0]) // width, len(first) - 1) for n in numbers)
    return [counts[i] for i in range(len(first))]
