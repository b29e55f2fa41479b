"""More tokens and positions for a model that has learned, which hardly notices them.

New tokens stand after those that are there, new positions after the last one, and nothing that
was there changes: logits of old tokens stay what they were, to the last bit. What a new token takes
from their probabilities is decided by its row of lm_head alone.
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

UNLIKELY_NATS = 10.0  # nats: about how improbable a new token is at first, e⁻¹⁰ = 0.00005
MAX_TOKENS_READ = 500  # tokens of documents from which that is found
ROUNDS = 50  # of conjugate gradients, at most
CLOSE = 1e-3  # of the first residual: then they end


def expand_vocab(
    config: Config,
    tokenizer: Tokenizer,
    params: array[float],
    *,
    chars: Iterable[str] = (),
    specials: Iterable[str] = (),
    block_size: int | None = None,
    reader: Engine | None = None,
    docs: PackedBatch | None = None,
) -> tuple[Config, Tokenizer, array[float]]:
    """The same model with more characters, special tokens and positions, and new parameters.

    params: flat, in the order of `parameter_shapes`; so are the new ones. New rows of wte and wpe
    are drawn by config.seed like those that are there: with their mean and deviation, number by
    number. New rows of lm_head are all the same: the one that comes closest, in least squares over
    what `reader`, an engine with `params`, reads of `docs`, to a probability of e^−UNLIKELY for
    each new token. Without a reader they are 0, as likely as a middling token. A block_size below
    the one that is there is a ConfigError. Characters that a tokenizer has already, or needs not,
    are passed over; for a name that is there see `extended`.
    """
    added = sorted(tokenizer.unknown(set(chars)))
    names = list(specials)
    made: Tokenizer
    if isinstance(tokenizer, CharTokenizer):
        made = tokenizer.extended(added, names)
    else:
        assert isinstance(tokenizer, BytePairTokenizer)
        made = tokenizer.with_specials(names)
    size = config.block_size if block_size is None else block_size
    if size < config.block_size:
        raise ConfigError(
            f"block_size {size} is below the model's {config.block_size}: positions are only added"
        )
    larger = replace(config, vocab_size=made.vocab_size, block_size=size)
    rng = random.Random(config.seed)
    found = array("d")
    first = 0
    wanted = parameter_shapes(larger)
    for name, (n_out, n_in) in parameter_shapes(config).items():
        old = params[first : first + n_out * n_in]
        first += len(old)
        found.extend(old)
        more = wanted[name][0] - n_out
        if more and name == "lm_head":
            rows = [old[i : i + n_in] for i in range(0, len(old), n_in)]
            row = unlikely_row(rows, reader, docs) if reader and docs else [0.0] * n_in
            found.extend(array("d", row) * more)
        elif more:
            found.extend(rows_like(old, n_in, more, rng))
    return larger, made, found


def rows_like(old: array[float], width: int, more: int, rng: random.Random) -> array[float]:
    """New rows: normal, with the mean and the deviation of each column of the old ones."""
    drawn = mersenne.gauss(rng, 1.0, more * width)
    for column in range(width):
        numbers = old[column::width]
        middle, spread = mean(numbers), deviation(numbers)
        for place in range(column, len(drawn), width):
            drawn[place] = middle + spread * drawn[place]
    return drawn


def unlikely_row(rows: Sequence[Sequence[float]], reader: Engine, docs: PackedBatch) -> list[float]:
    """A row (C,) for tokens that these documents do not have.

    Sought is row · h = log Σ exp(logits) − UNLIKELY for each hidden state h (C,) that the documents
    lead to. Engines show logits, W h, and no h: so the row is Σ a_v W_v, a mixture of the rows that
    are there, whose logit is the same mixture of their logits. a is found by conjugate gradients on
    the normal equations (CGLS, Hestenes and Stiefel 1952), and rows that nearly agree do no harm.
    """
    logits: list[Sequence[float]] = []
    for tokens in docs:
        decoder = reader.decoder()
        logits += [decoder.push(token) for token in islice(tokens, len(tokens) - 1)]
        if len(logits) >= MAX_TOKENS_READ:
            break
    columns = list(zip(*logits, strict=True))
    wanted = [log_sum_exp(each) - UNLIKELY_NATS for each in logits]
    mixture = [0.0] * len(rows)
    residual = wanted
    slope = direction = [dot(column, residual) for column in columns]
    size = enough = dot(slope, slope)
    for _ in range(min(ROUNDS, len(rows))):
        image = [dot(each, direction) for each in logits]
        length = size / max(dot(image, image), 1e-300)
        mixture = [a + length * d for a, d in zip(mixture, direction, strict=True)]
        residual = [r - length * x for r, x in zip(residual, image, strict=True)]
        slope = [dot(column, residual) for column in columns]
        before, size = size, dot(slope, slope)
        if size <= CLOSE * CLOSE * enough:
            break
        turned = size / before
        direction = [s + turned * d for s, d in zip(slope, direction, strict=True)]
    return [dot(mixture, column) for column in zip(*rows, strict=True)]


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return sequential_sum(x * y for x, y in zip(a, b, strict=True))
