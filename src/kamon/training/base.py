"""A trained model to start from: the base that Kamon ships, or another model."""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from unicodedata import normalize

from kamon.config import Config
from kamon.data.documents import Documents
from kamon.engines.numerics import deviation, mean
from kamon.engines.parameters import parameter_shapes
from kamon.model import Model, as_model
from kamon.storage.base_file import read_base
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.char import CharTokenizer

BASE = "base"  # the pretrained base that Kamon ships
SCRATCH = "scratch"  # random parameters
# A token of a given value starts as BOS does, but this much smaller, and so does its position. The
# model predicts what it did, because it normalises the sum, and the token learns that much faster.
VALUE_SCALE = 0.03
VALUE_NOISE = 0.05  # standard deviation of what is added to each number, before it is made smaller
NEW_LOGIT_SPREAD = 0.3  # deviation of a new token's row of lm_head, relative to the other rows


@dataclass(frozen=True)
class StartingPoint:
    """A trained model to start from.

    Attributes:
        name: BASE, the directory of a model, or None for a model in memory.
        params: flat, in the order of `parameter_shapes`.
    """

    name: str | None
    config: Config
    tokenizer: Tokenizer
    params: array[float]

    def tokenizer_for(self, docs: Documents) -> Tokenizer:
        """Return the tokenizer for these documents.

        The base keeps only their characters. Another model keeps all its tokens and adds those that
        it lacks.
        """
        if self.name == BASE:
            return CharTokenizer.train(docs)
        if isinstance(self.tokenizer, CharTokenizer):
            unknown = sorted(self.tokenizer.unknown(docs.chars()))
            return self.tokenizer.extended(unknown, texts=docs)
        return self.tokenizer

    def params_for(self, tokenizer: Tokenizer, config: Config, num_values: int = 0) -> array[float]:
        """Return the parameters for these tokens and the block_size of this config.

        A token that the model lacks starts like its letter without accent or in the other case. If
        the model lacks that too, the token starts with random numbers. They have the distribution
        of the other tokens.

        num_values: how many tokens of given values each document begins with, instead of BOS. They
            start like BOS at the place of BOS, so the model predicts what it did, see VALUE_SCALE.
        """
        rng = random.Random(config.seed)
        rows = token_rows(self.tokenizer, tokenizer)
        values = range(tokenizer.bos + 1, tokenizer.vocab_size) if num_values else range(0)
        shapes = parameter_shapes(replace(self.config, vocab_size=self.tokenizer.vocab_size))
        params, first = array("d"), 0
        for name, (n_out, n_in) in shapes.items():
            matrix = self.params[first : first + n_out * n_in]
            first += len(matrix)
            if name == "wpe":
                more = max(0, num_values - 1)
                places = (min(max(0, i - more), n_out - 1) for i in range(config.block_size))
                chosen: list[int | None] = list(places)
            else:
                chosen = rows if name in ("wte", "lm_head") else list(range(n_out))
            spread = NEW_LOGIT_SPREAD if name == "lm_head" else 1.0
            columns = [matrix[i::n_in] for i in range(n_in)] if None in chosen else []
            moments = [(mean(column), spread * deviation(column)) for column in columns]
            for place, row in enumerate(chosen):
                if name == "wte" and place in values:
                    bos = matrix[self.tokenizer.bos * n_in : (self.tokenizer.bos + 1) * n_in]
                    noise = VALUE_SCALE * VALUE_NOISE
                    params.extend(VALUE_SCALE * x + rng.gauss(0.0, noise) for x in bos)
                elif name == "wpe" and place < num_values:
                    params.extend(VALUE_SCALE * x for x in matrix[:n_in])
                elif name == "lm_head" and place in values:
                    params.extend([0.0] * n_in)  # no entry has these tokens
                elif row is None:
                    params.extend(rng.gauss(*each) for each in moments)
                else:
                    params.extend(matrix[row * n_in : (row + 1) * n_in])
        return params


def token_rows(known: Tokenizer, wanted: Tokenizer) -> list[int | None]:
    """Return for each wanted token the row of the same token, of a similar one, or None."""
    if wanted is known:
        return list(range(known.vocab_size))
    rows = {known.token_text(token): token for token in range(known.vocab_size)}
    rows[wanted.token_text(wanted.bos)] = known.bos
    texts = map(wanted.token_text, range(wanted.vocab_size))
    return [next((rows[like] for like in likenesses(text) if like in rows), None) for text in texts]


def likenesses(text: str) -> list[str]:
    """Return a text and the texts like it: without accents, and in the other case.

    >>> likenesses("É")
    ['É', 'E', 'é', 'e']
    """
    plain = normalize("NFKD", text)[:1] if len(text) == 1 else text
    return list(dict.fromkeys([text, plain, text.swapcase(), plain.swapcase()]))


def starting_point(init_from: str | Path | Model) -> StartingPoint | None:
    """Return the model that `init_from` names: BASE, a model or its directory. SCRATCH gives None.

    Raises: ConfigError, StoreError.
    """
    if init_from == SCRATCH:
        return None
    if init_from == BASE:
        return StartingPoint(BASE, *read_base())
    model = as_model(init_from, "init_from")
    name = str(init_from) if isinstance(init_from, str | PathLike) else None
    return StartingPoint(name, model.config, model.tokenizer, model.engine.state()["params"])
