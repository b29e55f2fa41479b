"""What is known of a text: how likely the model finds it, and which document it resembles most."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from kamon.batch import pack
from kamon.engine import Reader, document_logprobs
from kamon.tokenizer import CharTokenizer


def logprobs(model: Reader, tokenizer: CharTokenizer, texts: Sequence[str]) -> list[float]:
    """log p of each text in nats, at temperature 1 and under no conditions.

    Its end counts, but for a text of block_size characters, which the model did not end.
    """
    limit = model.config.block_size + 1
    batch = pack(tokenizer.encode_document(text)[:limit] for text in texts)
    return document_logprobs(model, batch)[0].tolist()


class Nearest:
    """Finds the document that is most similar to a text; of equally similar ones the first.

    The similarity is that of `difflib.SequenceMatcher`: twice the characters in common blocks, over
    the characters of both. Characters that both have, in whatever order, can only be more: where
    even their number cannot win, no blocks are looked for.
    """

    def __init__(self, docs: Sequence[str]) -> None:
        self.docs = docs
        self.having: dict[tuple[str, int], list[int]] = {}  # (c, k): k of the character c or more
        for place, doc in enumerate(docs):
            for feature in features(doc):
                self.having.setdefault(feature, []).append(place)

    def __call__(self, text: str) -> tuple[str, float]:
        """The document and its similarity, from 0 to 1; ("", 0.0) where none has a character."""
        from difflib import SequenceMatcher

        shared: Counter[int] = Counter()
        for feature in features(text):
            shared.update(self.having.get(feature, ()))
        size = len(text)
        bounds = sorted(
            (-2 * n / (size + len(self.docs[place])), place) for place, n in shared.items()
        )
        matcher = SequenceMatcher(None, "", text, autojunk=False)
        best, similarity = -1, 0.0
        for bound, place in bounds:
            if -bound < similarity:
                break
            matcher.set_seq1(self.docs[place])
            ratio = matcher.ratio()
            if ratio > similarity or (ratio == similarity and place < best):
                best, similarity = place, ratio
        return ("", 0.0) if best < 0 else (self.docs[best], similarity)


def features(text: str) -> Iterable[tuple[str, int]]:
    """(c, 1), (c, 2), … for a character c, as many as the text has of it."""
    return [(char, k) for char, n in Counter(text).items() for k in range(1, n + 1)]
