"""Find how likely a model thinks a text is, and which document of the list is most similar."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from kamon.data.documents import NUL
from kamon.engines.base import Reader
from kamon.engines.batch import pack_sequences
from kamon.engines.loops import document_logprobs
from kamon.engines.spans import answer_logprobs
from kamon.generation.given import Given
from kamon.model import Model
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.prompts import prompted


def logprobs(
    model: Reader, tokenizer: Tokenizer, texts: Sequence[str], prompt: str | None = None
) -> list[float]:
    """Return log p of each text and its end in nats, at temperature 1 and without constraints.

    The end does not count for a text that fills block_size, because the model did not end it.

    prompt: the prompt that the texts answer.
    """
    if prompt is not None:
        most = model.config.block_size + 1
        documents = [prompted(tokenizer, prompt, text) for text in texts]
        batch = pack_sequences(tokens[:most] for tokens, _ in documents)
        spans = [span for _, span in documents]
        sizes = [end - begin - 1 for begin, end in pairwise(batch.offsets)]
        return answer_logprobs(model.logprobs(batch), spans, sizes)
    batch = tokenizer.encode_documents(texts, model.config.block_size)
    return document_logprobs(model, batch)[0].tolist()


class SampleInfo(NamedTuple):
    """Facts about a sample.

    Attributes:
        logprob: log p of the text and its end in nats (see `logprobs`).
        nearest: the most similar document and its similarity, or None if Kamon did not look for it.
    """

    text: str
    logprob: float
    in_list: bool
    nearest: tuple[str, float] | None


def sample_infos(
    model: Model,
    texts: Sequence[str],
    prompt: str | None = None,
    *,
    known: Collection[str],
    nearest: bool = False,
    given: Given | None = None,
) -> Iterator[SampleInfo]:
    """Yield the `SampleInfo` of each text.

    known: the texts that are in the list.
    nearest: True to find the most similar document.
    given: the values under which log p is.
    """
    most_similar = NearestDocument(model.docs) if nearest else None
    costs = logprobs(model.under(given), model.tokenizer, texts, prompt)
    for text, logprob in zip(texts, costs, strict=True):
        near = most_similar(text) if most_similar else None
        yield SampleInfo(text, logprob, text in known, near)


class NearestDocument:
    """Finds the document that is most similar to a text, or the first of several equal ones.

    Upper and lower case count as the same, but a document that equals the text comes first. The
    similarity is that of `difflib.SequenceMatcher` without autojunk: twice the characters in common
    blocks, divided by the characters of both. Two upper bounds save most of the work: the length of
    the longest common subsequence, and the number of characters that occur in the text at all.

    Raises: ValueError for a document with NUL, which `kamon.data.corpus` does not allow.
    """

    def __init__(self, docs: Sequence[str]) -> None:
        self.docs = docs
        self.joined = "".join([doc.lower() + NUL for doc in docs])
        self.lengths = [len(doc.lower()) for doc in docs]
        if self.joined.count(NUL) != len(self.lengths):
            raise ValueError("a document contains a NUL character, which separates documents")
        self.chars = set(self.joined) - {NUL}

    def __call__(self, given: str) -> tuple[str, float]:
        """Return (document, similarity from 0 to 1), or ("", 0.0) without a shared character."""
        from difflib import SequenceMatcher

        text = given.lower()
        size = len(text)
        foreign = dict.fromkeys(map(ord, self.chars.difference(text)))
        shared = self.joined.translate(foreign).split(NUL)[:-1]  # without foreign characters
        alike: dict[tuple[int, int], list[int]] = {}  # places by (characters shared, length)
        for place, sizes in enumerate(zip(map(len, shared), self.lengths, strict=True)):
            alike.setdefault(sizes, []).append(place)
        bounds = {(left, n): 2.0 * min(left, size) / (size + n) for left, n in alike if left}
        matcher = SequenceMatcher(None, "", text, autojunk=False)
        masks = positions(text)
        best, similarity = -1, 0.0
        for sizes in sorted(bounds, key=bounds.__getitem__, reverse=True):
            if bounds[sizes] < similarity:
                break
            both = size + sizes[1]
            for place in alike[sizes]:
                bound = 2.0 * common_subsequence(masks, shared[place]) / both
                if bound < similarity or (bound == similarity and place > best and bound < 1):
                    continue
                doc = self.docs[place]
                if doc == given:
                    return doc, 1.0
                matcher.set_seq1(doc.lower())
                ratio = matcher.ratio()
                if ratio > similarity or (ratio == similarity and place < best):
                    best, similarity = place, ratio
        return ("", 0.0) if best < 0 else (self.docs[best], similarity)


def positions(text: str) -> dict[str, int]:
    """Return a bit mask for each character: bit i is for text[i]. The key "" has all bits."""
    masks = {"": (1 << len(text)) - 1}
    for place, char in enumerate(text):
        masks[char] = masks.get(char, 0) | 1 << place
    return masks


def common_subsequence(masks: dict[str, int], other: str) -> int:
    """Return the length of the longest subsequence that a text and `other` have in common.

    A bit becomes 0 if a longer prefix of the text has one more character in common with the
    characters read so far. Source: Hyyrö 2004, "Bit-parallel LCS-length computation revisited".

    masks: `positions` of the text, which must contain each character of `other`.

    >>> common_subsequence(positions("johanna"), "hanno")
    4
    """
    whole = row = masks[""]
    for char in other:
        hit = row & masks[char]
        row = (row + hit) | (row - hit)
    return (~row & whole).bit_count()
