"""An n-gram of a list to compare a model with. It scores and generates texts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from kamon.config import make_config
from kamon.data import corpus
from kamon.engines.loops import document_logprobs
from kamon.generation.sampling import SampleRequest, check_room, sample_texts
from kamon.ngrams.native import NativeNgram, count_ngram
from kamon.ngrams.reference import Ngram
from kamon.tokenizers.char import CharTokenizer

MAX_SAMPLE = 1_000  # characters
MAX_ROUNDS = 50  # of samples, if the previous ones were empty


@dataclass(frozen=True)
class NgramModel:
    """An n-gram with its tokenizer (see `ngram`)."""

    reader: Ngram | NativeNgram
    tokenizer: CharTokenizer

    @property
    def order(self) -> int:
        return self.reader.order

    def sample(self, n: int = 1, *, temperature: float = 1.0, seed: int = 42) -> list[str]:
        """Return n texts that are not empty, or fewer if nearly all are empty."""
        config = make_config({"temperature": temperature, "seed": seed})
        check_room(n)
        request = SampleRequest(n, config.temperature, config.seed, self.tokenizer.bos)
        return sample_not_empty(self.reader, self.tokenizer, request)[0]

    def logprobs(self, texts: Iterable[str]) -> list[float]:
        """Return log p of each text with its end, in nats. Raises TokenizerError."""
        batch = self.tokenizer.encode_documents(texts)
        return list(document_logprobs(self.reader, batch)[0])


def ngram(docs: Iterable[str] | str | Path, *, order: int = 6) -> NgramModel:
    """Return the Kneser-Ney n-gram of a list, a path or a built-in list, as in `kamon.train`.

    Raises: ConfigError for an order outside 1 to 10, CorpusError if Kamon cannot read the list.

    >>> model = ngram(["anna", "hanna", "nora"], order=3)
    >>> model.order, len(model.sample(2, seed=1))
    (3, 2)
    """
    source = corpus.read(docs) if isinstance(docs, str | Path) else corpus.from_docs(docs)
    tokenizer = CharTokenizer.train(source.docs)
    batch = tokenizer.encode_documents(source.docs)
    return NgramModel(count_ngram(batch, tokenizer.vocab_size, order), tokenizer)


def sample_not_empty(
    reader: Ngram | NativeNgram, tokenizer: CharTokenizer, request: SampleRequest
) -> tuple[list[str], list[int], int]:
    """Return (texts, number of tokens of each, number of empty texts that were left out)."""
    if reader.config.block_size > MAX_SAMPLE:
        reader = replace(reader, config=replace(reader.config, block_size=MAX_SAMPLE))
    found: list[tuple[str, int]] = []
    drawn = 0
    while len(found) < request.n and drawn < MAX_ROUNDS * request.n:
        again = replace(request, first=request.first + drawn)
        texts, sizes = sample_texts(reader, tokenizer, again)
        drawn += request.n
        found += [(text, size) for text, size in zip(texts, sizes, strict=True) if text]
    kept = found[: request.n]
    return [text for text, _ in kept], [size for _, size in kept], drawn - len(found)
