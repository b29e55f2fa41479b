"""The n-gram of a blended model as a tree of k-grams with their counts, for exported files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from kamon.data.documents import Documents
from kamon.ngrams.reference import Gram, adjusted_counts, discounts
from kamon.storage.checkpoint import Checkpoint, unpack_documents


@dataclass(frozen=True)
class NgramTree:
    """The numbers that a program needs to compute `kamon.ngrams.reference.Ngram` exactly.

    Node 0 is the empty k-gram. The other nodes follow level by level. Nodes with the same parent
    are next to each other, in the order of their tokens.

    Attributes:
        gpt_weight: weight of the GPT in the blend, from 0 to 1.
        order: length of the longest k-grams.
        discounts: for each order from 1, the discount of a count of 0, 1, 2, and 3 or more.
        num_children: number of children of each node shorter than `order`.
        tokens: the last token of each node except node 0.
        counts: the count of each node except node 0, from `adjusted_counts`.
    """

    gpt_weight: float
    order: int
    discounts: list[tuple[float, ...]]
    num_children: list[int]
    tokens: list[int]
    counts: list[int]


def ngram_tree(stored: Checkpoint) -> NgramTree | None:
    """Return the n-gram of the model's whole list, or None if the model has no blend."""
    blend = stored.training.blend
    if blend is None:
        return None
    docs = stored.documents
    docs = docs if isinstance(docs, Documents) else unpack_documents(docs)
    batch = stored.tokenizer.encode_documents(docs)
    levels = adjusted_counts([tuple(document) for document in batch], blend.order)
    num_children, tokens, counts = tree(levels)
    return NgramTree(
        gpt_weight=blend.weight,
        order=blend.order,
        discounts=[discounts(Counter(level.values())) for level in levels],
        num_children=num_children,
        tokens=tokens,
        counts=counts,
    )


def tree(levels: Iterable[Counter[Gram]]) -> tuple[list[int], list[int], list[int]]:
    """Return (num_children, tokens, counts) of the k-grams of each length, as in `NgramTree`."""
    num_children: list[int] = []
    tokens: list[int] = []
    counts: list[int] = []
    nodes: list[Gram] = [()]
    for level in levels:
        children: dict[Gram, list[int]] = {}
        for gram in level:
            children.setdefault(gram[:-1], []).append(gram[-1])
        num_children += [len(children.get(node, ())) for node in nodes]
        nodes = [(*node, token) for node in nodes for token in sorted(children.get(node, ()))]
        tokens += [node[-1] for node in nodes]
        counts += [level[node] for node in nodes]
        assert len(nodes) == len(level)  # a k-gram without its last token is counted, too
    return num_children, tokens, counts
