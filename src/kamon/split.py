"""Which documents a model learns from and which it is tested on."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from itertools import islice

from kamon.documents import Documents
from kamon.mapped import BLOCK, Growing

PARTS = 10
OTHERS = bytes([1, 0, *range(2, 256)])  # exchanges 0 and 1


def part(doc: bytes) -> int:
    """One of PARTS, by the document's UTF-8 alone: the first byte of its SHA-256, modulo PARTS.

    The order and the growth of a list move no document from one part to another.
    """
    return sha256(doc).digest()[0] % PARTS


def split(docs: Iterable[str], held_out: int = 0) -> tuple[Documents, Documents]:
    """(train, held out): each different document once, in its order; part `held_out` apart.

    A repetition on both sides would be learned by heart and then counted as a success.

    >>> split(["anna", "kim", "bo", "anna", "lee"], held_out=1)
    (Documents(['anna', 'kim']), Documents(['bo', 'lee']))
    """
    different = Documents.of(docs).different()
    apart, learned = Growing(), Growing()
    parts = map(part, different.encoded())
    while block := bytes(p == held_out for p in islice(parts, BLOCK)):
        apart.add(block)
        learned.add(block.translate(OTHERS))
    return different.select(learned.done()), different.select(apart.done())
