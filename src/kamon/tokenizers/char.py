"""The tokenizer with one token per code point."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import chain, count, islice, pairwise
from unicodedata import combining, is_normalized, normalize

from kamon.data.documents import BLOCK_DOCS, Documents, nfc
from kamon.data.graphemes import (
    AnyClusters,
    Boundaries,
    Clusters,
    any_join,
    clusters_of,
    clusters_to_keep,
    well_formed,
)
from kamon.engines.batch import BOS, UTF_32, PackedBatch
from kamon.errors import HINT, TokenizerError
from kamon.tokenizers.base import (
    MAX_SHOWN,
    Tokenizer,
    check_special_names,
    pack_encoded,
    parse_json,
    quote_distinctly,
)


class CharTokenizer(Tokenizer):
    """Token i is the i-th of the sorted code points, and BOS is the token after them.

    In some scripts, a character that people see has several code points. If the list has such
    characters, the tokenizer knows which ones: see `Clusters`.

    Fine-tuning may extend a tokenizer. The tokens in `added` come after BOS, in the order of their
    addition. They are characters or the names of special tokens, which are longer.

    >>> tokenizer = CharTokenizer.train(["anna", "bob"])
    >>> tokenizer.encode("banana"), tokenizer.bos, tokenizer.vocab_size
    ([1, 0, 2, 0, 2, 0], 4, 5)
    >>> tokenizer.decode([1, 3, 1])
    'bob'
    """

    unit = "character"

    def __init__(
        self,
        chars: Iterable[str],
        added: Iterable[str] = (),
        *,
        composed: bool = False,
        clusters: Iterable[str] = (),
    ) -> None:
        self.chars = list(chars)
        self.added = list(added)
        self.composed = composed
        self.bos = len(self.chars)
        self._pieces = [*self.chars, BOS, *self.added]
        self.vocab_size = len(self._pieces)
        tokens = {piece: token for token, piece in enumerate(self._pieces)}
        self._tokens = {piece: token for piece, token in tokens.items() if len(piece) == 1}
        self.special = {piece: token for piece, token in tokens.items() if len(piece) != 1}
        if any(len(char) != 1 for char in self.chars) or len(tokens) != self.vocab_size:
            raise TokenizerError("a character tokenizer needs characters, each of them once")
        check_special_names(self.special)
        known = frozenset(clusters)
        self.clusters = Clusters(known) if known else None
        if not self._tokens.keys() >= set().union(*known):
            raise TokenizerError("a grapheme cluster has a code point that has no token")

    @classmethod
    def train(cls, docs: Iterable[str], added: Iterable[str] = ()) -> CharTokenizer:
        """Return the tokenizer of every character that occurs in `docs`, in NFC."""
        docs = docs if isinstance(docs, Documents) else list(docs)
        chars = docs.chars() if isinstance(docs, Documents) else set("".join(docs))
        if not all(map(str.isascii, chars)):
            docs = list(map(nfc, docs))
            chars = set(chain.from_iterable(docs))
        clusters = clusters_to_keep(docs, chars)
        return cls(sorted(chars), added, composed=True, clusters=clusters)

    def normal(self, text: str) -> str:
        """Return `text` as it is encoded: in NFC if `composed`, otherwise unchanged.

        If a character has no token but all its parts have one, it is split into these parts. So
        Kamon can encode each text that a model writes, although it may put an accent on any letter.

        >>> CharTokenizer(["é"], composed=True).normal("e\u0301")
        'é'
        """
        if not self.composed or text.isascii():
            return text
        text = nfc(text)
        known = self._tokens.keys()
        if not known >= set(text):
            parts = {char: normalize("NFD", char) for char in set(text) - known}
            text = text.translate({ord(c): part for c, part in parts.items() if known >= set(part)})
        return text

    def encode(self, text: str) -> list[int]:
        text = self.normal(text)
        try:
            return [self._tokens[char] for char in text]
        except KeyError:
            raise TokenizerError(self._explain_unknown(text)) from None

    def encode_documents(self, texts: Iterable[str], block_size: int | None = None) -> PackedBatch:
        return pack_encoded(self._encoded_blocks(texts, block_size))

    def _encoded_blocks(
        self, texts: Iterable[str], block_size: int | None
    ) -> Iterator[tuple[str, list[int]]]:
        """Yield the tokens of many documents at a time as code points, and their lengths."""
        # The first character without a token represents BOS. It is usually an ASCII character,
        # because Python translates a text faster if all of it is ASCII.
        table = {ord(char): token for char, token in self._tokens.items()}
        code = next(code for code in count() if code not in table)
        bos, table[code] = chr(code), self.bos
        left, known = iter(texts), self._tokens.keys()
        while block := list(islice(left, BLOCK_DOCS)):
            joined = "".join(block)
            as_it_is = joined.isascii() or is_normalized("NFC", joined)
            if not (as_it_is and known >= set(joined)):
                block = list(map(self.normal, block))
                joined = "".join(block)
                if not known >= set(joined):
                    for text in block:
                        self.encode(text)  # it raises an error that names the character
            lengths = list(map(len, block))
            if block_size is None or max(lengths) < block_size:
                sizes = [length + 2 for length in lengths]
                joined = f"{bos}{(bos + bos).join(block)}{bos}"
            else:
                sizes = [min(length + 2, block_size + 1) for length in lengths]
                joined = "".join([f"{bos}{text}{bos}"[: block_size + 1] for text in block])
            yield joined.translate(table), sizes

    def lengths(self, texts: Iterable[str]) -> Counter[int]:
        if isinstance(texts, Documents):  # they are in NFC already
            return texts.lengths()
        return Counter(map(len, map(self.normal, texts)))

    def num_chars(self, texts: Iterable[str], sizes: Iterable[int]) -> list[int]:
        return list(map(min, map(len, map(self.normal, texts)), sizes))

    def unknown(self, chars: Iterable[str]) -> set[str]:
        return set(chars) - self._tokens.keys()

    def replace_unknown(self, text: str) -> str:
        """Return `text` with each character without a token replaced by the closest known one.

        Kamon tries the other case, then the character without accents in its plain form (Unicode's
        NFKD), then the other case of that. It drops single accents. If no known character is
        similar, the character stays.

        >>> CharTokenizer.train(["nora"]).replace_unknown("Ñö Я")
        'no Я'
        """
        text = self.normal(text)
        if self._tokens.keys() >= set(text):
            return text
        text = nfc(text)
        unknown = set(text) - self._tokens.keys()
        return text.translate({ord(char): self._known_like(char) for char in unknown})

    def _known_like(self, char: str) -> str:
        parts = normalize("NFKD", char)
        plain = "".join(c for c in parts if not combining(c) or c in self._tokens)
        likes = (char.lower(), char.upper(), plain, plain.lower(), plain.upper())
        return next((like for like in likes if self._tokens.keys() >= set(like)), char)

    def decode(self, tokens: Iterable[int]) -> str:
        return "".join([self._pieces[token] for token in tokens])

    def decode_documents(self, batch: PackedBatch) -> list[str]:
        # Here tokens are code points, which `translate` replaces with the characters.
        codes = batch.tokens.tobytes().decode(UTF_32, "surrogatepass")
        if any(chr(token) in codes for token in self.special.values()):
            return super().decode_documents(batch)
        text = codes.translate(dict(enumerate(self._pieces)))
        texts = [text[begin:end] for begin, end in pairwise(batch.offsets)]
        return texts if text.isascii() else list(map(self.normal, texts))

    def unfinished(self, tokens: Iterable[int]) -> bytes:  # noqa: ARG002
        return b""  # each token is a whole character

    def ruled_out(self, tokens: Sequence[int]) -> frozenset[int]:
        special = frozenset(self.special.values()) - {self.bos}
        allowed = self.clusters.allowed(self.decode(tokens)) if self.clusters else None
        if allowed is None:
            return special
        own = {token for char, token in self._tokens.items() if char not in allowed}
        return special | own | (frozenset() if "" in allowed else {self.bos})

    def boundaries(self, chars: Iterable[str] = ()) -> Boundaries | None:  # noqa: ARG002
        return self.clusters or (AnyClusters() if self._any_join else None)

    @cached_property
    def _any_join(self) -> bool:
        return any_join(self._tokens)

    def prefix_tokenizations(self, text: str) -> list[tuple[int, ...]]:
        return [tuple(self.encode(text))]

    @cached_property
    def is_one_char_each(self) -> bool:
        # In NFC, two characters may become one. No character below U+0300 joins another.
        return not self.composed or max(self._tokens, default="") < "\u0300"

    @cached_property
    def chars_per_token(self) -> list[int]:
        return [int(len(piece) == 1) for piece in self._pieces]

    def remainder(self, text: str, tokens: Iterable[int]) -> str:
        return self.decode(tokens)[len(text) :]

    def token_text(self, token: int) -> str:
        return self._pieces[token]

    def to_json(self) -> str:
        content = {"type": "char", "chars": self.chars}
        if self.added:
            content["added"] = self.added
        if self.composed:
            content["normalization"] = "NFC"
        if self.clusters:
            content["clusters"] = sorted(self.clusters.all)
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CharTokenizer:
        """Return the tokenizer that `to_json` wrote. Raises TokenizerError for any other text."""
        content = parse_json(text, "char", '"char" or "bpe"')
        chars, added = content.get("chars"), content.get("added", [])
        if not isinstance(chars, list) or not all(isinstance(char, str) for char in chars):
            raise TokenizerError('"chars" is not a list of characters')
        if not isinstance(added, list) or not all(isinstance(piece, str) for piece in added):
            raise TokenizerError('"added" is not a list of characters and names')
        form = content.get("normalization")
        if form not in (None, "NFC"):
            raise TokenizerError(f'"normalization" is "NFC" or missing, not {form!r}')
        clusters = content.get("clusters", [])
        if not isinstance(clusters, list) or not all(isinstance(c, str) and c for c in clusters):
            raise TokenizerError('"clusters" is not a list of grapheme clusters')
        return cls(chars, added, composed=form is not None, clusters=clusters)

    def extended(
        self,
        chars: Iterable[str] = (),
        specials: Iterable[str] = (),
        texts: Iterable[str] = (),
    ) -> CharTokenizer:
        """Return a copy with more characters and special tokens after the existing ones.

        texts: more documents, whose grapheme clusters it will know, too. A tokenizer that does not
            know those of its list, because an earlier Kamon made it, does not learn any.

        Raises: TokenizerError if one exists already, or if a name is not possible.
        """
        chars, specials = list(chars), list(specials)
        if any(len(char) != 1 for char in chars) or any(len(name) == 1 for name in specials):
            raise TokenizerError("characters are one character long, names of special tokens more")
        added = [*self.added, *chars, *specials]
        clusters: set[str] = set()
        if self.clusters or (not self._any_join and any_join(chars)):
            clusters = well_formed(clusters_of(map(nfc if self.composed else str, texts)))
            clusters |= self.clusters.all if self.clusters else self._tokens.keys()
        return CharTokenizer(self.chars, added, composed=self.composed, clusters=clusters)

    def _explain_unknown(self, text: str) -> str:
        place = next(i for i, char in enumerate(text) if char not in self._tokens)
        shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
        char = text[place]
        named = ascii(char) if combining(char) else repr(char)  # a quote could carry an accent
        known = self.replace_unknown(text)
        hint = ""
        if 0 < len(known) <= MAX_SHOWN and not self.unknown(known):
            hint = f"{HINT}use {quote_distinctly(known, text)}, which it knows"
        where = f"at position {place + 1} of {shown!r}"
        return f"unknown character {named} (U+{ord(char):04X}) {where}{hint}"
