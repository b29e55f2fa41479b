"""Many continuations of one text, as a tree of tokens that a language model has read.

Node i is the i-th token pushed. It continues its parent, an earlier node, or begins a text if its
parent is −1. The native engine reads many nodes at a time, and each token only once. Other engines
read the whole text of each node.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Protocol

from kamon.engines.native import NativeBranches, NativeEngine
from kamon.engines.scalar import softmax
from kamon.generation.blend import BlendedModel
from kamon.generation.sampling import LanguageModel
from kamon.ngrams.native import NativeNgram


class Branches(Protocol):
    """A tree of tokens."""

    def push(self, parents: Sequence[int], tokens: Sequence[int]) -> Sequence[Sequence[float]]:
        """Add a node for each token, and return p (V,) of each next token after it.

        parents: numbers of nodes of earlier calls, or −1.

        Raises: ValueError for an unknown parent or token, or a text longer than block_size.
        """


def branches_of(model: LanguageModel) -> Branches:
    """Return an empty tree for an engine, a blend or an n-gram."""
    if isinstance(model, NativeEngine):
        return model.branches()
    if (
        isinstance(model, BlendedModel)
        and isinstance(model.gpt, NativeEngine)
        and isinstance(model.ngram, NativeNgram)
    ):
        return BlendedBranches(model.gpt.branches(), model.ngram, model.weight)
    return DecodedBranches(model)


class DecodedBranches:
    """The specification of every faster tree: a decoder reads each text from its start."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self.texts: list[tuple[int, ...]] = []

    def push(self, parents: Sequence[int], tokens: Sequence[int]) -> list[Sequence[float]]:
        check_parents(parents, tokens, len(self.texts))
        before = [self.texts[parent] if parent >= 0 else () for parent in parents]
        added = [(*text, token) for text, token in zip(before, tokens, strict=True)]
        rows = [self.read(text) for text in added]
        self.texts += added
        return rows

    def read(self, text: Sequence[int]) -> Sequence[float]:
        decoder = self.model.decoder()
        for token in text:
            logits = decoder.push(token)
        return softmax(logits)


class BlendedBranches:
    """The tree of a blend of a native GPT and a native n-gram."""

    def __init__(self, gpt: NativeBranches, ngram: NativeNgram, weight: float) -> None:
        self.gpt, self.ngram, self.weight = gpt, ngram, weight
        ngram.sort()
        self.ends: list[array[int]] = []  # of each text: the tokens that the n-gram reads

    def push(self, parents: Sequence[int], tokens: Sequence[int]) -> list[array[float]]:
        rows = self.gpt.push(parents, tokens)
        before = [self.ends[parent] if parent >= 0 else array("i") for parent in parents]
        size = max(1, self.ngram.order - 1)
        added = [
            (end + array("i", [token]))[-size:] for end, token in zip(before, tokens, strict=True)
        ]
        self.ends += added
        mix = self.ngram.mix_probabilities
        return [mix(row, end, self.weight) for row, end in zip(rows, added, strict=True)]


def check_parents(parents: Sequence[int], tokens: Sequence[int], size: int) -> None:
    """Raise ValueError unless each token has a parent, an earlier node or −1."""
    if len(parents) != len(tokens):
        raise ValueError(f"{len(parents)} parents for {len(tokens)} tokens")
    if not all(-1 <= parent < size for parent in parents):
        raise ValueError(f"a parent is not a node, from 0 to {size - 1}, or −1")
