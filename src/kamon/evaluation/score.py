"""Score how unlikely a model thinks texts are, for many texts and in bounded memory."""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain, compress, islice, repeat
from operator import sub
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from kamon.config import check_text
from kamon.data.graphemes import grapheme_at, lengths_of, one_code_point_each
from kamon.engines.base import Reader, has_fused_ops
from kamon.engines.batch import pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.errors import ConfigError, StoreError, TokenizerError
from kamon.model import Model, as_model
from kamon.ngrams.native import NativeNgram
from kamon.ngrams.reference import Ngram
from kamon.tokenizers.base import Tokenizer

if TYPE_CHECKING:
    from kamon.packing.shards import Part

CHUNK = 20_000  # texts at a time
NUM_WINDOWS = 4_000  # windows of a long text at a time
NUM_COMPARED = 20_000  # documents of the list that a percentile compares with
NUM_COMPARED_SLOW = 200  # the same for the scalar engine
MIN_HELD_OUT = 10  # documents that a percentile needs: fewer make steps of more than 10%
BITS = 1 / math.log(2)
# A mark, closing quotes and brackets, and the white space before the next sentence.
SENTENCE_END = re.compile(r"([.!?…]+)[\"'”’)\]]*( )(?=[\"'“‘(\[]*(?:[^\W\d_a-z]|\d))")
ABBREVIATED = {"Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Mt", "Jr", "Sr", "vs", "cf", "e.g", "i.e"}
Unknown = Literal["error", "skip", "replace", "zero"]  # what to do with unknown characters
UNKNOWN = get_args(Unknown)


class Score(NamedTuple):
    """The score of one text.

    Attributes:
        text: the text as it was given, in NFC.
        scored: the text that was scored. It differs from `text` only if unknown="replace".
        index: the number of the text among those given, from 0.
        logprob: log p of the whole text and its end, in nats.
        bits_per_char: −log2 p, divided by the number of characters plus 1 for the end.
        surprise: the place in `scored`, from 0, of the least likely character, or of the first
            character of the least likely token. For the end, it is the length of the text.
        cut: True if the text is longer than the model reads at once. See `long_logprob`.
    """

    text: str
    scored: str
    index: int  # type: ignore[assignment]  # it hides the method of tuples
    logprob: float
    bits_per_char: float
    surprise: int
    cut: bool

    @property
    def surprising(self) -> str:
        """The least likely character, or "" for the end."""
        return grapheme_at(self.scored, self.surprise)


def score(
    model: Model | str | Path, texts: Iterable[str], *, unknown: Unknown = "error"
) -> Iterator[Score]:
    """Yield a Score for each text, in order.

    Kamon reads the texts and scores them as you ask for the results, CHUNK texts at a time. So it
    raises an error about a text only then.

    Args:
        unknown: what to do with a text that has characters that the model does not know.
            "error": raise TokenizerError.
            "skip": leave the text out.
            "replace": score the text with the closest known characters (`Score.scored`), or leave
            it out if there are none (`CharTokenizer.replace_unknown`).
            "zero": score the text with probability 0, so logprob is −inf and bits_per_char is inf.
            The first unknown character is the least likely one. A text that is cut also has
            probability 0, because the model cannot end it. Its least likely character is the first
            one after block_size tokens.

    Raises:
        ConfigError: `unknown` is none of these, or a text is not a string.
        TokenizerError: a text has an unknown character, and unknown="error".

    >>> import kamon
    >>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
    >>> scores = score(model, ["anna", "xenia", "Hora"], unknown="replace")
    >>> [(each.index, each.text, each.scored) for each in scores]
    [(0, 'anna', 'anna'), (2, 'Hora', 'hora')]
    """
    model = as_model(model)
    edge = edge_of(model)
    return score_with(model.language_model, model.tokenizer, texts, unknown=unknown, edge=edge)


def edge_of(model: Model) -> int:
    """Return the token at both ends of what Kamon scores: BOS, or the line end for a text.

    A model of a text without line ends has BOS too, which it hardly knows.
    """
    if model.writes_text and not model.tokenizer.unknown("\n"):
        tokens = model.tokenizer.encode("\n")
        if len(tokens) == 1:
            return tokens[0]
    return model.tokenizer.bos


def score_with(
    reader: Reader,
    tokenizer: Tokenizer,
    texts: Iterable[str],
    *,
    unknown: Unknown = "error",
    edge: int | None = None,
) -> Iterator[Score]:
    """Yield the same as `score` for an engine or an n-gram, which reads CHUNK texts at a time.

    edge: the token at both ends of a text, by default BOS.
    """
    check_unknown(unknown)
    check_several(texts)
    left = iter(texts)

    def chunks() -> Iterator[Iterator[Score]]:
        start = 0
        while chunk := list(islice(left, CHUNK)):
            scores = score_list(reader, tokenizer, chunk, unknown=unknown, start=start, edge=edge)
            start += len(chunk)
            yield scores.rows()

    return chain.from_iterable(chunks())


@dataclass(frozen=True)
class Scores:
    """Many scores as columns, without the texts that were left out. See `Score`."""

    texts: Sequence[str]
    scored: Sequence[str]
    indices: Sequence[int]
    logprobs: Sequence[float]
    bits_per_char: Sequence[float]
    surprises: Sequence[int]
    cut: Sequence[bool]

    def rows(self) -> Iterator[Score]:
        columns = (getattr(self, field.name) for field in fields(self))
        # This equals Score(…) and takes half the time.
        return map(tuple.__new__, repeat(Score), zip(*columns, strict=True))

    def surprising(self) -> list[str]:
        pairs = zip(self.scored, self.surprises, strict=True)
        if one_code_point_each(self.scored):
            return [text[i : i + 1] for text, i in pairs]
        return [grapheme_at(text, i) for text, i in pairs]

    def select(self, chosen: Sequence[bool]) -> Scores:
        return Scores(*(list(compress(getattr(self, f.name), chosen)) for f in fields(self)))


def score_list(
    reader: Reader,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    *,
    unknown: Unknown = "error",
    start: int = 0,
    edge: int | None = None,
) -> Scores:
    """Return the scores of a list of texts as columns, which is the fastest way.

    start: the index of the first text.
    edge: the token at both ends of a text, by default BOS.
    """
    check_unknown(unknown)
    check_several(texts)
    if not {str}.issuperset(map(type, texts)):
        for number, text in enumerate(texts, start + 1):
            check_text(f"text {number:,}", text)
    texts = list(map(tokenizer.normal, texts))
    scored, indices = texts, list(range(start, start + len(texts)))
    unknown_chars = tokenizer.unknown("".join(texts))
    if unknown_chars:
        if unknown == "error":
            check_known(tokenizer, texts, start)
        if unknown == "replace":
            scored = [tokenizer.normal(tokenizer.replace_unknown(text)) for text in texts]
            unknown_chars = tokenizer.unknown("".join(scored))
        is_known = list(map(unknown_chars.isdisjoint, scored))
        if unknown == "zero":
            chosen = list(compress(texts, is_known))
            known = score_list(reader, tokenizer, chosen, unknown="zero", edge=edge)
            return with_impossible(known, is_known, texts, unknown_chars, indices)
        texts, scored = list(compress(texts, is_known)), list(compress(scored, is_known))
        indices = list(compress(indices, is_known))
    batch = tokenizer.encode_documents(scored)
    if edge not in (None, tokenizer.bos):
        batch = pack_sequences([edge, *tokens[1:-1], edge] for tokens in batch)
    # An n-gram reads any number of tokens at once.
    room = math.inf if isinstance(reader, Ngram | NativeNgram) else reader.config.block_size
    cut = [size > room + 1 for size in map(sub, batch.offsets[1:], batch.offsets)]
    block_size = reader.config.block_size
    whole = pack_sequences(tokens[: block_size + 1] for tokens in batch) if any(cut) else batch
    logprobs, places = document_logprobs(reader, whole)
    for place in compress(range(len(batch)), cut):
        if unknown == "zero" and edge in (None, tokenizer.bos):  # no model of a list can write it
            logprobs[place], places[place] = -math.inf, block_size - 1
        else:
            logprobs[place], places[place] = long_logprob(reader, batch.document(place))
    bits = [
        -BITS * logprob / (size + 1)
        for logprob, size in zip(logprobs, lengths_of(scored), strict=True)
    ]
    surprises = tokenizer.num_chars(scored, places)
    return Scores(texts, scored, indices, logprobs, bits, surprises, cut)


def long_logprob(reader: Reader, tokens: Sequence[int]) -> tuple[float, int]:
    """Return (log p in nats, place of the least likely target) of a document of any length.

    The reader reads it in `windows`, and so predicts each token and the end from earlier tokens.
    """
    left = windows(tokens, reader.config.block_size)
    total, least, place, done = 0.0, math.inf, 0, 0
    while block := list(islice(left, NUM_WINDOWS)):
        logprobs = reader.logprobs(pack_sequences(window for window, _ in block))
        end = 0
        for window, num_new in block:
            end += len(window) - 1
            for logprob in logprobs[end - num_new : end]:
                total += logprob
                if logprob < least:
                    least, place = logprob, done
                done += 1
    return total, place


def windows(tokens: Sequence[int], block_size: int) -> Iterator[tuple[Sequence[int], int]]:
    """Yield windows of up to block_size + 1 tokens, and how many of their last targets are new.

    Each begins like the first: a model of short documents predicts much worse without BOS. At
    least half of each window, except the first, repeats the window before it.

    >>> [("".join(window), num_new) for window, num_new in windows(list(".abcdefg."), 4)]
    [('.abcd', 4), ('.cdef', 2), ('.efg.', 2)]
    """
    end = block_size + 1
    yield tokens[:end], block_size
    while end < len(tokens):
        known, end = end, min(end + block_size - block_size // 2, len(tokens))
        yield [tokens[0], *tokens[end - block_size : end]], end - known


def with_impossible(
    known: Scores,
    is_known: Sequence[bool],
    texts: Sequence[str],
    unknown_chars: set[str],
    indices: Sequence[int],
) -> Scores:
    rows = zip(known.logprobs, known.bits_per_char, known.surprises, known.cut, strict=True)
    scores: list[tuple[float, float, int, bool]] = []
    for text, possible in zip(texts, is_known, strict=True):
        if possible:
            scores.append(next(rows))
        else:
            first_unknown = next(n for n, char in enumerate(text) if char in unknown_chars)
            scores.append((-math.inf, math.inf, first_unknown, False))
    logprobs, bits, surprises, cut = map(list, zip(*scores, strict=True))
    return Scores(texts, texts, indices, logprobs, bits, surprises, cut)


def check_several(texts: object) -> None:
    if isinstance(texts, str):
        raise ConfigError("score takes a list of texts, not one text", "put the text in a list")


def check_unknown(unknown: str) -> None:
    if unknown not in UNKNOWN:
        raise ConfigError(f"unknown must be one of {', '.join(UNKNOWN)}, not {unknown!r}")


def check_known(tokenizer: Tokenizer, texts: Sequence[str], start: int) -> None:
    """Raise a TokenizerError that names the first text with an unknown character."""
    for number, text in enumerate(texts, start + 1):
        try:
            tokenizer.encode(text)
        except TokenizerError as error:
            raise TokenizerError(f"text {number:,}: {error.message}", error.hint) from None


@dataclass(frozen=True)
class PercentileScale:
    """The bits per character of known documents, in ascending order.

    Attributes:
        reference: the documents to compare with: the "validation" set, or the whole "list" if that
            set has too few. None if the model keeps no documents.
    """

    bits: Sequence[float]
    reference: Literal["validation", "list"] | None = "list"

    @classmethod
    def of(
        cls,
        model: Model,
        unknown: Unknown = "skip",
        most: int | None = None,
        split: Callable[[str], Sequence[str]] = str.splitlines,
    ) -> PercentileScale:
        """Return the scale of a model.

        unknown: the same value as in `score` for the texts to compare.
        most: number of documents to compare with. Default: as many as the engine scores quickly.
        split: divides a text into what Kamon scores. It does not change the entries of a list.
        """
        if most is None:
            most = NUM_COMPARED if has_fused_ops(model.engine) else NUM_COMPARED_SLOW
        if model.training.corpus.packed:
            parts: tuple[Sequence[str], Sequence[str]] = packed_parts(model, most)
        else:
            parts = model.docs, model.parts()[1]
        if model.writes_text:
            parts = pieces_of(parts[0], split), pieces_of(parts[1], split)
        reader: Reader = model.language_model
        if len(parts[1]) >= MIN_HELD_OUT:  # the blend's n-gram also counts the validation set
            reader = model.blended_with(model.parts()[0])
        edge = edge_of(model)
        return cls.between(reader, model.tokenizer, *parts, most=most, unknown=unknown, edge=edge)

    @classmethod
    def between(
        cls,
        reader: Reader,
        tokenizer: Tokenizer,
        docs: Sequence[str],
        held_out: Sequence[str],
        *,
        most: int = NUM_COMPARED,
        unknown: Unknown = "skip",
        edge: int | None = None,
    ) -> PercentileScale:
        """Return the scale of an engine or an n-gram that has not learned `held_out`.

        New texts are as unlikely as the validation set, and less likely than the training set. So
        Kamon uses the whole list, `docs`, only if `held_out` has fewer than MIN_HELD_OUT documents.
        """
        enough = len(held_out) >= MIN_HELD_OUT
        compared = held_out if enough else docs
        some = islice(compared, 0, None, max(1, len(compared) // most))
        unknown = "zero" if unknown == "zero" else "skip"
        scores = score_with(reader, tokenizer, some, unknown=unknown, edge=edge)
        bits = sorted(score.bits_per_char for score in scores)
        return cls(bits, ("validation" if enough else "list") if bits else None)

    def percentile(self, bits_per_char: float) -> float | None:
        """Return the percentage of documents that are at least as unlikely."""
        return self.percentiles([bits_per_char])[0]

    def percentiles(self, bits_per_char: Iterable[float]) -> Sequence[float | None]:
        """Return the `percentile` of each number, or None without documents to compare with."""
        size = len(self.bits)
        if not size:
            return [None for _ in bits_per_char]
        return [100 * (size - bisect_left(self.bits, bits)) / size for bits in bits_per_char]


def pieces_of(texts: Iterable[str], split: Callable[[str], Sequence[str]]) -> list[str]:
    """Return the pieces of all texts, without the first and last, which may be cut, and blanks."""
    return [piece.strip() for text in texts for piece in split(text)[1:-1] if piece.strip()]


def sentences_of(text: str) -> list[str]:
    r"""Return the sentences of a text, with single spaces instead of line ends.

    A sentence ends at `.`, `!`, `?` or `…`, with quotes or brackets after it, if white space and a
    capital letter, a digit or a quote follow. A dot after an initial or one of ABBREVIATED does not
    end it. It also ends at an empty line.

    >>> sentences_of('Mr. Smith left. "Why?" she\nasked.\n\nNobody knows')
    ['Mr. Smith left.', '"Why?" she asked.', 'Nobody knows']
    """
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        joined = " ".join(paragraph.split())
        begin = 0
        for end in SENTENCE_END.finditer(joined):
            word = joined[begin : end.start()].rsplit(" ", 1)[-1].strip("\"'“‘(")
            if end[1] != "." or not ((len(word) == 1 and word.isupper()) or word in ABBREVIATED):
                found.append(joined[begin : end.start(2)])
                begin = end.end()
        found.append(joined[begin:])
    return list(filter(None, found))


def packed_parts(model: Model, most: int) -> tuple[list[str], list[str]]:
    """Return about `most` documents of the training and the validation set of a packed corpus.

    Both are empty if the packed corpus does not exist any more, or has changed.
    """
    from kamon.packing.shards import open_shards

    try:
        shards = open_shards(model.training.corpus.packed or "")
    except StoreError:
        return [], []
    if shards.sha256 != model.training.corpus.sha256:
        return [], []

    def some(part: Part) -> list[str]:
        n = shards.num_docs(part)
        chosen = range(0, n, max(1, n // most))
        documents = (shards.document(part, number)[1:-1] for number in chosen)
        return [shards.tokenizer.decode(tokens) for tokens in documents]

    return some("train"), some("held_out")
