"""Add tokens and positions to a trained model, and hardly change its predictions.

New tokens and positions follow the old ones. The logits of old tokens keep every bit. A new token
takes some probability from them, and only its row of lm_head decides how much.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice

from kamon.config import Config
from kamon.engines.base import Engine
from kamon.engines.batch import PackedBatch
from kamon.engines.numerics import deviation, mean, sequential_sum
from kamon.engines.parameters import parameter_shapes
from kamon.errors import ConfigError
from kamon.generation.sampling import log_sum_exp
from kamon.native import mersenne
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer

UNLIKELY_NATS = 10.0  # initial −log p of a new token: p is about e⁻¹⁰ = 0.00005
MAX_TOKENS_READ = 500  # tokens of the documents that the row of a new token is computed from
MAX_ROUNDS = 50  # rounds of conjugate gradients
TOLERANCE = 1e-3  # the rounds end if the residual is this small, relative to the first one


def expand_vocab(
    config: Config,
    tokenizer: Tokenizer,
    params: array[float],
    *,
    chars: Iterable[str] = (),
    texts: Iterable[str] = (),
    specials: Iterable[str] = (),
    block_size: int | None = None,
    reader: Engine | None = None,
    docs: PackedBatch | None = None,
) -> tuple[Config, Tokenizer, array[float]]:
    """Return the model with more characters, special tokens and positions.

    New rows of wte and wpe are random (config.seed), with the mean and deviation of each column of
    the old rows. All new rows of lm_head are equal. They give a new token a probability of about
    e^−UNLIKELY_NATS after the prefixes of `docs`. Without a reader they are 0, an average logit.

    Args:
        params: flat, in the order of `parameter_shapes`. The result has the same order.
        chars: characters to add. Characters that the tokenizer knows are ignored.
        texts: more documents, whose grapheme clusters it may write from now on.
        specials: names of special tokens to add.
        block_size: the new block_size. Default: unchanged.
        reader: an engine with `params`, which reads `docs`.

    Raises: ConfigError for a smaller block_size, TokenizerError for a special token that exists.
    """
    added = sorted(tokenizer.unknown(set(chars)))
    names = list(specials)
    made: Tokenizer
    if isinstance(tokenizer, CharTokenizer):
        made = tokenizer.extended(added, names, texts)
    else:
        assert isinstance(tokenizer, BytePairTokenizer)
        made = tokenizer.with_specials(names)
    size = config.block_size if block_size is None else block_size
    if size < config.block_size:
        raise ConfigError(
            f"block_size {size} is below the model's {config.block_size}",
            "choose a larger one, because positions can only be added",
        )
    larger = replace(config, vocab_size=made.vocab_size, block_size=size)
    rng = random.Random(config.seed)
    new_params = array("d")
    first = 0
    new_shapes = parameter_shapes(larger)
    for name, (n_out, n_in) in parameter_shapes(config).items():
        old = params[first : first + n_out * n_in]
        first += len(old)
        new_params.extend(old)
        num_new = new_shapes[name][0] - n_out
        if num_new and name == "lm_head":
            rows = [old[i : i + n_in] for i in range(0, len(old), n_in)]
            row = unlikely_row(rows, reader, docs) if reader and docs else [0.0] * n_in
            new_params.extend(array("d", row) * num_new)
        elif num_new:
            new_params.extend(rows_like(old, n_in, num_new, rng))
    return larger, made, new_params


def rows_like(old: array[float], width: int, num_rows: int, rng: random.Random) -> array[float]:
    """Return random rows, normally distributed with the mean and deviation of each old column."""
    drawn = mersenne.gauss(rng, 1.0, num_rows * width)
    for column in range(width):
        numbers = old[column::width]
        centre, spread = mean(numbers), deviation(numbers)
        for i in range(column, len(drawn), width):
            drawn[i] = centre + spread * drawn[i]
    return drawn


def unlikely_row(rows: Sequence[Sequence[float]], reader: Engine, docs: PackedBatch) -> list[float]:
    """Return a row (C,) of lm_head for tokens that these documents do not have.

    The row solves row · h = log Σ exp(logits) − UNLIKELY_NATS by least squares, over the hidden
    states h (C,) of these documents. Engines return the logits W h, but not h. So Kamon looks for
    a mixture Σ a_v W_v of the old rows: its logit is the same mixture of their logits. The method
    is conjugate gradients on the normal equations (CGLS, Hestenes and Stiefel 1952). It tolerates
    rows that are nearly equal.
    """
    logits: list[Sequence[float]] = []
    for tokens in docs:
        decoder = reader.decoder()
        logits += [decoder.push(token) for token in islice(tokens, len(tokens) - 1)]
        if len(logits) >= MAX_TOKENS_READ:
            break
    columns = list(zip(*logits, strict=True))
    goals = [log_sum_exp(row) - UNLIKELY_NATS for row in logits]
    mixture = [0.0] * len(rows)
    residual = goals
    slope = direction = [dot(column, residual) for column in columns]
    size = first_size = dot(slope, slope)
    for _ in range(min(MAX_ROUNDS, len(rows))):
        image = [dot(row, direction) for row in logits]
        length = size / max(dot(image, image), 1e-300)
        mixture = [a + length * d for a, d in zip(mixture, direction, strict=True)]
        residual = [r - length * x for r, x in zip(residual, image, strict=True)]
        slope = [dot(column, residual) for column in columns]
        before, size = size, dot(slope, slope)
        if size <= TOLERANCE * TOLERANCE * first_size:
            break
        ratio = size / before
        direction = [s + ratio * d for s, d in zip(slope, direction, strict=True)]
    return [dot(mixture, column) for column in zip(*rows, strict=True)]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sequential_sum(x * y for x, y in zip(a, b, strict=True))
