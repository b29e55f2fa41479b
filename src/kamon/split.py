"""Which documents a model learns from and which it is tested on."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256

PARTS = 10


def part(doc: str) -> int:
    """One of PARTS, by the document's content alone: the first byte of its SHA-256, modulo PARTS.

    The order and the growth of a list move no document from one part to another.
    """
    return sha256(doc.encode()).digest()[0] % PARTS


def split(docs: Iterable[str], held_out: int = 0) -> tuple[list[str], list[str]]:
    """(train, held out): each different document once, in its order; part `held_out` apart.

    A repetition on both sides would be learned by heart and then counted as a success.

    >>> split(["anna", "kim", "bo", "anna", "lee"], held_out=1)
    (['anna', 'kim'], ['bo', 'lee'])
    """
    train: list[str] = []
    held: list[str] = []
    for doc in dict.fromkeys(docs):
        (held if part(doc) == held_out else train).append(doc)
    return train, held
