"""Text to tokens and back: what every tokenizer can do, and the one with a token a character."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate, chain, count, islice, pairwise
from typing import TYPE_CHECKING
from unicodedata import combining, is_normalized, normalize

from kamon.data.documents import BLOCK_DOCS, Documents, nfc
from kamon.engines.batch import BOS, UTF_32, PackedBatch
from kamon.errors import TokenizerError
from kamon.files.spill import SpillBuffer, numbers_of

if TYPE_CHECKING:
    pass

from kamon.tokenizers.base import MAX_SHOWN, check_special_names, quote_distinctly


class CharTokenizer:
    """Token i is the i-th of the sorted characters; the last is BOS, at both ends of a document.

    A tokenizer may have been extended: `added` then stand after BOS, in the order in which they
    came, characters and the names of special tokens, which are longer.

    >>> tokenizer = CharTokenizer.train(["anna", "bob"])
    >>> tokenizer.encode("banana"), tokenizer.bos, tokenizer.vocab_size
    ([1, 0, 2, 0, 2, 0], 4, 5)
    >>> tokenizer.decode([1, 3, 1])
    'bob'
    """

    unit = "character"

    def __init__(
        self, chars: Iterable[str], added: Iterable[str] = (), *, composed: bool = False
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

    @classmethod
    def train(cls, docs: Iterable[str]) -> CharTokenizer:
        """The tokenizer of every character that occurs in `docs`, in NFC."""
        if not isinstance(docs, Documents):
            docs = list(docs)
        chars = docs.chars() if isinstance(docs, Documents) else set("".join(docs))
        if not all(map(str.isascii, chars)):
            chars = set(chain.from_iterable(map(nfc, docs)))
        return cls(sorted(chars), composed=True)

    def normal(self, text: str) -> str:
        """`text` as it is encoded: in NFC if `composed`, else as it is.

        A character without a token is taken apart if all its parts have one. So each text that the
        model writes, which may put an accent on any letter, can be read again.

        >>> CharTokenizer(["é"], composed=True).normal("e\u0301")
        'é'
        """
        if not self.composed or text.isascii():
            return text
        text = nfc(text)
        known = self._tokens.keys()
        if not known >= set(text):
            parts = {char: normalize("NFD", char) for char in set(text) - known}
            text = text.translate({ord(c): each for c, each in parts.items() if known >= set(each)})
        return text

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without BOS. TokenizerError names a character without a token."""
        text = self.normal(text)
        try:
            return [self._tokens[char] for char in text]
        except KeyError:
            raise TokenizerError(self._explain_unknown(text)) from None

    def encode_document(self, text: str) -> list[int]:
        """The tokens of `text` between two BOS."""
        return [self.bos, *self.encode(text), self.bos]

    def encode_documents(self, texts: Iterable[str], block_size: int | None = None) -> PackedBatch:
        """The documents of many texts, much faster than one by one. TokenizerError as of `encode`.

        block_size: a text of as many characters or more has its first block_size characters and no
        end: its `encode_document` up to the block_size + 1 tokens that a model can take.
        """
        # One character that is no other's stands for BOS; one of ASCII if there is, since a text of
        # ASCII alone is translated faster. Then all are exchanged for the code points of tokens.
        table = {ord(char): token for char, token in self._tokens.items()}
        code = next(code for code in count() if code not in table)
        bos, table[code] = chr(code), self.bos
        tokens, offsets, end = SpillBuffer(), SpillBuffer(), 0
        offsets.add(array("q", [0]).tobytes())
        left, known = iter(texts), self._tokens.keys()
        while block := list(islice(left, BLOCK_DOCS)):
            joined = "".join(block)
            as_it_is = joined.isascii() or is_normalized("NFC", joined)
            if not (as_it_is and known >= set(joined)):
                block = list(map(self.normal, block))
                joined = "".join(block)
                if not known >= set(joined):
                    for text in block:
                        self.encode(text)  # raises, and says which character where
            lengths = list(map(len, block))
            if block_size is None or max(lengths) < block_size:
                sizes = [length + 2 for length in lengths]
                joined = f"{bos}{(bos + bos).join(block)}{bos}"
            else:
                sizes = [min(length + 2, block_size + 1) for length in lengths]
                joined = "".join([f"{bos}{text}{bos}"[: block_size + 1] for text in block])
            tokens.add(joined.translate(table).encode(UTF_32, "surrogatepass"))
            ends = array("q", islice(accumulate(sizes, initial=end), 1, None))
            offsets.add(ends.tobytes())
            end = ends[-1]
        return PackedBatch(numbers_of(tokens.finish(), "i"), numbers_of(offsets.finish(), "q"))

    def lengths(self, texts: Iterable[str]) -> Counter[int]:
        """How many texts have so many characters, for each number that occurs."""
        if isinstance(texts, Documents):  # as they were read
            return texts.lengths()
        return Counter(map(len, map(self.normal, texts)))

    def num_chars(self, texts: Iterable[str], sizes: Iterable[int]) -> list[int]:
        """As many as tokens, but no more than the text has."""
        return list(map(min, map(len, map(self.normal, texts)), sizes))

    def unknown(self, chars: Iterable[str]) -> set[str]:
        """Those of `chars` that have no token."""
        return set(chars) - self._tokens.keys()

    def replace_unknown(self, text: str) -> str:
        """`text` with each character that has no token exchanged for its like that has one.

        Likes are, in this order: the other case, then the character without accents and in its
        plain form (Unicode's NFKD), then the other case of that. An accent of its own goes; what
        has no like stays.

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
        likes = (*other_case(char), plain, *other_case(plain))
        return next((like for like in likes if self._tokens.keys() >= set(like)), char)

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`; a special one becomes its name."""
        return "".join([self._pieces[token] for token in tokens])

    def decode_documents(self, batch: PackedBatch) -> list[str]:
        """The text of each document of `batch`, as `normal` gives it, none with a BOS; much faster
        than one by one."""
        # Tokens are taken for code points, which `translate` exchanges for the characters.
        codes = batch.tokens.tobytes().decode(UTF_32, "surrogatepass")
        if any(chr(token) in codes for token in self.special.values()):
            return [self.normal(self.decode(tokens)) for tokens in batch]
        text = codes.translate(dict(enumerate(self._pieces)))
        texts = [text[begin:end] for begin, end in pairwise(batch.offsets)]
        return texts if text.isascii() else list(map(self.normal, texts))

    def unfinished(self, tokens: Iterable[int]) -> bytes:  # noqa: ARG002
        """No bytes: each token is a whole character."""
        return b""

    def ruled_out(self, tokens: Sequence[int]) -> frozenset[int]:  # noqa: ARG002
        """The special tokens except BOS."""
        return frozenset(self.special.values()) - {self.bos}

    def prefix_tokenizations(self, text: str) -> list[tuple[int, ...]]:
        """Its own tokens: there is no other way."""
        return [tuple(self.encode(text))]

    @cached_property
    def is_one_char_each(self) -> bool:
        """Not if NFC could make one character of two: nothing below U+0300 joins another."""
        return not self.composed or max(self._tokens, default="") < "\u0300"

    @cached_property
    def chars_per_token(self) -> list[int]:
        """Every token is a character, but special ones are none."""
        return [int(len(piece) == 1) for piece in self._pieces]

    def remainder(self, text: str, tokens: Iterable[int]) -> str:
        """Nothing."""
        return self.decode(tokens)[len(text) :]

    def token_text(self, token: int) -> str:
        """Its character, or the name of a special one."""
        return self._pieces[token]

    def to_json(self) -> str:
        import json

        content = {"type": "char", "chars": self.chars}
        if self.added:
            content["added"] = self.added
        if self.composed:
            content["normalization"] = "NFC"
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> CharTokenizer:
        """TokenizerError where `text` is not what `to_json` writes."""
        import json

        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"not valid JSON: {error}") from None
        if not isinstance(content, dict) or content.get("type") != "char":
            raise TokenizerError('not a tokenizer of "type": "char" or "bpe"')
        chars, added = content.get("chars"), content.get("added", [])
        if not isinstance(chars, list) or not all(isinstance(char, str) for char in chars):
            raise TokenizerError('"chars" is not a list of characters')
        if not isinstance(added, list) or not all(isinstance(piece, str) for piece in added):
            raise TokenizerError('"added" is not a list of characters and names')
        form = content.get("normalization")
        if form not in (None, "NFC"):
            raise TokenizerError(f'"normalization" is "NFC" or missing, not {form!r}')
        return cls(chars, added, composed=form is not None)

    def extended(self, chars: Iterable[str] = (), specials: Iterable[str] = ()) -> CharTokenizer:
        """The same with more characters and special tokens; each that was there keeps its number.

        TokenizerError for what is there already, and for a name that is none.
        """
        chars, specials = list(chars), list(specials)
        if any(len(char) != 1 for char in chars) or any(len(name) == 1 for name in specials):
            raise TokenizerError("characters are one character long, names of special tokens more")
        added = [*self.added, *chars, *specials]
        return CharTokenizer(self.chars, added, composed=self.composed)

    def _explain_unknown(self, text: str) -> str:
        place = next(i for i, char in enumerate(text) if char not in self._tokens)
        shown = text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
        char = text[place]
        # An accent of its own would stand upon a quote.
        named = ascii(char) if combining(char) else repr(char)
        return (
            f"character {named} (U+{ord(char):04X}), number {place + 1} in {shown!r}, is none of "
            f"the {len(self._tokens)} characters that the model was trained on{self._hint(text)}"
        )

    def _hint(self, text: str) -> str:
        """What the model knows instead, if that is one text; its code points, if it looks alike."""
        known = self.replace_unknown(text)
        if not known or len(known) > MAX_SHOWN or self.unknown(known):
            return ""
        return f"; it knows {quote_distinctly(known, text)}"


def other_case(text: str) -> tuple[str, str]:
    """In small letters, in capital ones."""
    return text.lower(), text.upper()
