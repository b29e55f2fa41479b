"""Which documents are in the training set and which in the validation set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from unicodedata import normalize

from kamon.data.documents import Documents
from kamon.files.spill import BLOCK, SpillBuffer, numbers

NUM_BUCKETS = 10
# Different documents. With fewer there is no validation set: a tenth would be too small.
MIN_DOCS = 100
# Different documents. With more, a tenth of all possible keys is close to a tenth of the documents.
MAX_RANKED = 200_000
RULE = 2  # version of `split`, saved with each list; the first lists were saved without one
RULE_BY_BUCKET = 1  # the earlier version: the documents in bucket 0, however many
MIN_HELD_OUT = MIN_DOCS // NUM_BUCKETS  # documents
NUM_KEYS = 1 << 64
FLIPPED_BYTES = bytes([1, 0, *range(2, 256)])  # exchanges 0 and 1


def bucket(doc: bytes) -> int:
    """Return the first byte of the SHA-256 of the document's UTF-8, modulo NUM_BUCKETS.

    It depends only on the document. So a document stays in its bucket if the list grows or changes
    its order.
    """
    return sha256(doc).digest()[0] % NUM_BUCKETS


def key(doc: str) -> int:
    """Return a number below NUM_KEYS that depends only on the document's content.

    It is the first eight bytes of the SHA-256 of the document's canonical form (NFC), so that all
    spellings of a document share it.

    >>> key("jos\\u00e9") == key("jose\\u0301") != key("jose")
    True
    """
    data = doc.encode() if doc.isascii() else canonical(doc)
    return int.from_bytes(sha256(data).digest()[:8])


class Key:
    """The key of a document that arrives in parts, each of which begins with a new character."""

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
    """Return the keys of one of NUM_BUCKETS parts as a range. It is empty for fewer than MIN_DOCS.

    Each part has a tenth of the different keys in ascending order. Part 0, the validation set, has
    `len // NUM_BUCKETS` of them. If there are more than MAX_RANKED, Kamon need not collect them:
    each part has a tenth of all possible keys.
    """
    different: set[int] = set()
    remaining = iter(keys)
    while block := list(islice(remaining, BLOCK)):
        different.update(block)
        if len(different) > MAX_RANKED:
            return range(*(NUM_KEYS * n // NUM_BUCKETS for n in (number, number + 1)))
    if len(different) < MIN_DOCS:
        return range(0)
    ordered = [*sorted(different), NUM_KEYS]
    return range(*(ordered[len(different) * n // NUM_BUCKETS] for n in (number, number + 1)))


def train_end(length: int) -> int:
    """Return how much of a text is for training if there are few: all but its last tenth."""
    return length * (NUM_BUCKETS - 1) // NUM_BUCKETS


def split(docs: Iterable[str], held_out: int = 0, rule: int = RULE) -> tuple[Documents, Documents]:
    """Return (training set, validation set). Each different document is once in one of them.

    The validation set is a tenth: the documents with the smallest keys, in any order of the list.
    It is empty if fewer than MIN_DOCS documents differ. Duplicates are dropped, because one in both
    sets would be learned by heart and then counted as a success.

    Args:
        docs: the documents.
        held_out: number of the part that becomes the validation set.
        rule: RULE, or RULE_BY_BUCKET for models that earlier versions saved.

    >>> learned, held_out = split([*map(str, range(120)), *map(str, range(60))])
    >>> len(learned), len(held_out), max(map(key, held_out)) < min(map(key, learned))
    (108, 12, True)
    """
    different = Documents.of(docs).different()
    is_held_out: Iterator[bool]
    if rule == RULE_BY_BUCKET:
        is_held_out = (bucket(doc) == held_out for doc in different.encoded())
    else:
        keys = numbers("Q", map(key, different))
        is_held_out = map(keys_of_part(keys, held_out).__contains__, keys)
    validation, training = SpillBuffer(), SpillBuffer()
    while block := bytes(islice(is_held_out, BLOCK)):
        validation.add(block)
        training.add(block.translate(FLIPPED_BYTES))
    return different.select(training.finish()), different.select(validation.finish())


def divide(
    docs: Iterable[str], hold_out: bool = True, mode: str = "documents", rule: int = RULE
) -> tuple[Documents, Documents]:
    """Return (training set, validation set) if `split` gives each of them MIN_HELD_OUT documents.

    Otherwise the validation set is empty, or in text mode the last tenth of each document.
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
