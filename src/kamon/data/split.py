"""Which documents a model learns from and which it is tested on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from typing import Any
from unicodedata import normalize

from kamon.data.documents import Documents
from kamon.files.spill import BLOCK, SpillBuffer, numbers

NUM_BUCKETS = 10
MIN_DOCS = 100  # different documents: of fewer none is held out, since a tenth would tell nothing
MAX_RANKED = (
    200_000  # different documents: of more, a tenth of all possible keys is a tenth of them
)
RULE = 2  # of `split`, kept with each list; what was saved before has no number
RULE_BY_BUCKET = 1  # the rule before: part 0 of `part`, however many documents it had
MIN_HELD_OUT = MIN_DOCS // NUM_BUCKETS  # documents: fewer tell nothing
NUM_KEYS = 1 << 64
FLIPPED_BYTES = bytes([1, 0, *range(2, 256)])  # exchanges 0 and 1


def bucket(doc: bytes) -> int:
    """One of PARTS, by the document's UTF-8 alone: the first byte of its SHA-256, modulo PARTS.

    The order and the growth of a list move no document from one part to another.
    """
    return sha256(doc).digest()[0] % NUM_BUCKETS


def key(doc: str) -> int:
    """A number below NUM_KEYS that depends on the content of the document only: the first eight
    bytes of the SHA-256 of its canonical form (NFC), so that its other spellings share it.

    >>> key("jos\\u00e9") == key("jose\\u0301") != key("jose")
    True
    """
    data = doc.encode() if doc.isascii() else canonical(doc)
    return int.from_bytes(sha256(data).digest()[:8])


class Key:
    """The key of a document that comes in parts, each of which a new character begins."""

    def __init__(self) -> None:
        self._digest = sha256()

    def update(self, text: str) -> None:
        self._digest.update(canonical(text))

    @property
    def value(self) -> int:
        return int.from_bytes(self._digest.digest()[:8])


def canonical(text: str) -> bytes:
    return normalize("NFC", text).encode("utf-8", "surrogatepass")


def keys_of_part(keys: Iterable[int], number: int = 0) -> range:
    """The keys of one part of PARTS, as a range; an empty one where fewer than FEWEST differ.

    Of the different keys in their order, each part has a tenth (rounded: part 0, which is held out,
    has `len // PARTS`). Of more than MANY they need not be collected: each part has a tenth of all
    keys that are possible.
    """
    different: set[int] = set()
    left = iter(keys)
    while block := list(islice(left, BLOCK)):
        different.update(block)
        if len(different) > MAX_RANKED:
            return range(*(NUM_KEYS * n // NUM_BUCKETS for n in (number, number + 1)))
    if len(different) < MIN_DOCS:
        return range(0)
    ordered = [*sorted(different), NUM_KEYS]
    return range(*(ordered[len(different) * n // NUM_BUCKETS] for n in (number, number + 1)))


def train_end(length: int) -> int:
    """How much of a text is learned where there are few: all but its last tenth."""
    return length * (NUM_BUCKETS - 1) // NUM_BUCKETS


def split(docs: Iterable[str], held_out: int = 0, rule: int = RULE) -> tuple[Documents, Documents]:
    """(train, held out): each different document once, in its order; part `held_out` apart.

    A tenth is held out, the documents with the smallest keys: the order of the list changes
    nothing. None is where fewer than FEWEST differ. A repetition on both sides would be learned by
    heart and then counted as a success.

    >>> learned, held_out = split([*map(str, range(120)), *map(str, range(60))])
    >>> len(learned), len(held_out), max(map(key, held_out)) < min(map(key, learned))
    (108, 12, True)
    """
    different = Documents.of(docs).different()
    found: Iterator[bool]
    if rule == RULE_BY_BUCKET:
        found = (bucket(doc) == held_out for doc in different.encoded())
    else:
        keys = numbers("Q", map(key, different))
        found = map(keys_of_part(keys, held_out).__contains__, keys)
    apart, learned = SpillBuffer(), SpillBuffer()
    while block := bytes(islice(found, BLOCK)):
        apart.add(block)
        learned.add(block.translate(FLIPPED_BYTES))
    return different.select(learned.finish()), different.select(apart.finish())


def divide(
    docs: Iterable[str], hold_out: bool = True, mode: str = "documents", rule: int = RULE
) -> tuple[Documents, Documents]:
    """(learned, held out) of the different documents: `split`, where both have MIN_HELD_OUT.

    In text mode, where they have not, the last tenth of each document is held out. rule: of
    `split`.
    """
    different = Documents.of(docs).different()
    if hold_out:
        learned, held_out = split(different, rule=rule)
        if len(held_out) >= MIN_HELD_OUT and len(learned) >= MIN_HELD_OUT:
            return learned, held_out
        if mode == "text":
            pairs = [(doc, train_end(len(doc))) for doc in different]
            return (
                Documents.of(doc[:end] for doc, end in pairs if end),
                Documents.of(doc[end:] for doc, end in pairs),
            )
    return different, Documents.of([])


def divide_as(training: dict[str, Any], docs: Documents, mode: str) -> tuple[Documents, Documents]:
    """(learned, held out) of a model's documents, as in the training that this is the record of."""
    rule = training["corpus"].get("split", RULE_BY_BUCKET)
    return divide(docs, training.get("held_out") is not None, mode, rule)
