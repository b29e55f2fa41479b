"""Which documents are in the training set and which in the validation set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from itertools import islice
from unicodedata import category, normalize

from kamon.data.documents import Documents
from kamon.files.spill import BLOCK, SpillBuffer, numbers

NUM_BUCKETS = 10
# Different documents. With fewer there is no validation set, because a tenth would be too few.
MIN_DOCS = 100
# Different documents. With more, a tenth of all possible keys is close to a tenth of the documents.
MAX_RANKED = 200_000
RULE = 3  # version of `split`, saved with each list (the first models have none)
RULE_BY_SPELLING = 2  # by keys of the unchanged text, and no key is reserved
RULE_BY_BUCKET = 1  # the validation set has all documents in bucket 0
RULES = (RULE_BY_BUCKET, RULE_BY_SPELLING, RULE)
MIN_HELD_OUT = 5  # documents
NUM_KEYS = 1 << 64
# Only documents with these keys can be in a validation set. The pretrained base has read none.
RESERVED_KEYS = range(NUM_KEYS // 8)
FLIPPED_BYTES = bytes([1, 0, *range(2, 256)])  # exchanges 0 and 1


def bucket(doc: bytes) -> int:
    """Return the first byte of the SHA-256 of the document's UTF-8, modulo NUM_BUCKETS.

    It depends only on the document, so a document keeps its bucket if the list grows or is sorted.
    """
    return sha256(doc).digest()[0] % NUM_BUCKETS


def fold(text: str) -> str:
    """Return the text in NFKD, without case, accents, vowel marks and white space.

    >>> fold("S\u00e3o Paulo"), fold("SA\u0303O PAULO")
    ('saopaulo', 'saopaulo')
    """
    if not text.isascii():
        text = "".join(char for char in normalize("NFKD", text) if category(char) != "Mn")
    return "".join(text.casefold().split())


def key(doc: str, rule: int = RULE) -> int:
    """Return a number below NUM_KEYS that depends only on the document's content.

    It is the first eight bytes of the SHA-256 of the folded text. So a text has the same key in any
    case and with any accents. By RULE_BY_SPELLING the text is not folded, but only in NFC.

    >>> key("jos\u00e9") == key("JOSE") != key("josef")
    True
    """
    return int.from_bytes(sha256(hashed_form(doc, rule)).digest()[:8])


def hashed_form(text: str, rule: int = RULE) -> bytes:
    text = normalize("NFC", text) if rule == RULE_BY_SPELLING else fold(text)
    return text.encode("utf-8", "surrogatepass")


class Key:
    """The key of a document that arrives in parts. Each part must begin with a new character."""

    def __init__(self) -> None:
        self._digest = sha256()

    def update(self, text: str) -> None:
        self._digest.update(hashed_form(text))

    @property
    def value(self) -> int:
        return int.from_bytes(self._digest.digest()[:8])


def keys_of_part(keys: Iterable[int], number: int = 0, rule: int = RULE) -> range:
    """Return the range of keys of one of NUM_BUCKETS parts. It is empty for fewer than MIN_DOCS.

    Each part has a tenth of the different keys in ascending order. Part 0, the validation set, has
    only those of them that are among the RESERVED_KEYS. If there are more than MAX_RANKED keys,
    Kamon does not collect them, and each part has a tenth of all possible keys.
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
    first, end = (ordered[len(different) * n // NUM_BUCKETS] for n in (number, number + 1))
    if number == 0 and rule == RULE:
        end = min(end, RESERVED_KEYS.stop)
    return range(first, end)


def train_end(length: int) -> int:
    """Return the length of a text's training part if there are few texts: all but a tenth."""
    return length * (NUM_BUCKETS - 1) // NUM_BUCKETS


def split(docs: Iterable[str], held_out: int = 0, rule: int = RULE) -> tuple[Documents, Documents]:
    """Return (training set, validation set). Each different document is once in one of them.

    The validation set is the tenth of the documents with the smallest keys. It does not depend on
    their order, and is empty for fewer than MIN_DOCS different documents. Kamon drops duplicates,
    because the model would memorise one in the training set and then predict it in the validation
    set. Documents that differ only in case or accents are in the same set.

    Args:
        docs: the documents.
        held_out: number of the part that becomes the validation set.
        rule: RULE, or another one of RULES for models that earlier versions saved.

    >>> learned, held_out = split([*map(str, range(120)), *map(str, range(60))])
    >>> len(learned), len(held_out), max(map(key, held_out)) < min(map(key, learned))
    (109, 11, True)
    """
    different = Documents.of(docs).different()
    is_held_out: Iterator[bool]
    if rule == RULE_BY_BUCKET:
        is_held_out = (bucket(doc) == held_out for doc in different.encoded())
    else:
        keys = numbers("Q", (key(doc, rule) for doc in different))
        is_held_out = map(keys_of_part(keys, held_out, rule).__contains__, keys)
    validation, training = SpillBuffer(), SpillBuffer()
    while block := bytes(islice(is_held_out, BLOCK)):
        validation.add(block)
        training.add(block.translate(FLIPPED_BYTES))
    return different.select(training.finish()), different.select(validation.finish())


def divide(
    docs: Iterable[str], hold_out: bool = True, mode: str = "documents", rule: int = RULE
) -> tuple[Documents, Documents]:
    """Return (training set, validation set) of `split` if each has MIN_HELD_OUT documents or more.

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
