"""The methods of every tokenizer, and the functions that both of them share."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate, islice
from typing import Any, Protocol

from kamon.data.documents import nfc
from kamon.data.graphemes import Boundaries, Clusters
from kamon.engines.batch import UTF_32, PackedBatch
from kamon.errors import TokenizerError
from kamon.files.spill import SpillBuffer, numbers_of

BPE_VOCAB = 1_024  # default vocab_size of a BytePairTokenizer
MAX_FILE = 1 << 24  # bytes of a tokenizer as JSON
MAX_NAME = 100  # characters of a special token's name
MAX_SHOWN = 100  # characters of a text in an error


class Tokenizer(Protocol):
    """Turns text into tokens and back.

    Attributes:
        bos: the token at both ends of a document.
        vocab_size: number of tokens, including BOS.
        unit: what messages call a token: "character" or "token".
        special: the special tokens by their names, BOS first. No text has them among its tokens.
            `decode` returns their names.
        composed: whether it brings texts to Unicode's composed form (NFC) before it encodes them.
            Tokenizers of earlier versions of Kamon encode a text unchanged.
        clusters: the grapheme clusters of the list, if some have several code points. Kamon then
            makes only samples of these. None if there are none, for BPE and for a model of text.
    """

    bos: int
    vocab_size: int
    unit: str
    special: dict[str, int]
    composed: bool
    clusters: Clusters | None

    def normal(self, text: str) -> str:
        """Return `text` as it is encoded: in NFC if `composed`, otherwise unchanged."""
        return nfc(text) if self.composed else text

    def encode(self, text: str) -> list[int]:
        """Return the tokens of `text`, without BOS.

        Raises: TokenizerError for a character that has no token.
        """

    def encode_document(self, text: str) -> list[int]:
        """Return the tokens of `text` between two BOS."""
        return [self.bos, *self.encode(text), self.bos]

    def encode_documents(self, texts: Iterable[str], block_size: int | None = None) -> PackedBatch:
        """Return `encode_document` of many texts, much faster than one by one.

        block_size: of a text with this many tokens or more, only BOS and the first block_size
            tokens remain, because a model can read no more.

        Raises: TokenizerError as `encode`.
        """

    def lengths(self, texts: Iterable[str]) -> Counter[int]:
        """Return how many texts have each number of tokens, without BOS."""

    def num_chars(self, texts: Iterable[str], sizes: Iterable[int]) -> list[int]:
        """Return the number of whole characters in the first `size` tokens of each text."""

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of tokens, with the names of special ones.

        In BPE, bytes that are not UTF-8 become U+FFFD, for example an unfinished last character.

        Raises: TokenizerError if BPE has no such token.
        """

    def decode_documents(self, batch: PackedBatch) -> list[str]:
        """Return the `normal` text of each document of a batch without BOS."""
        return [self.normal(self.decode(tokens)) for tokens in batch]

    def unfinished(self, tokens: Iterable[int]) -> bytes | None:
        """Return the bytes of an unfinished character at the end, empty if it is whole.

        The result is None if the tokens are not a text.
        """

    def ruled_out(self, tokens: Sequence[int]) -> frozenset[int]:
        """Return the tokens that cannot follow these in a text."""

    def prefix_tokenizations(self, text: str) -> list[tuple[int, ...]]:
        """Return all possible first tokens of the texts that start with `text`.

        `text` must not be empty. Each result ends with the token that reaches the end of `text`.
        """

    def boundaries(self, chars: Iterable[str] = ()) -> Boundaries | None:
        """Return where the characters of a text end, or None if each is one code point.

        chars: code points that only several tokens together have.
        """

    @property
    def is_one_char_each(self) -> bool:
        """Whether n tokens, except special ones, always make a text of n code points."""

    @property
    def chars_per_token(self) -> list[int]:
        """How many characters begin in each token, 0 in BOS."""

    def remainder(self, text: str, tokens: Iterable[int]) -> str:
        """Return the text that one of the `prefix_tokenizations` has after `text`."""

    def token_text(self, token: int) -> str:
        r"""Return the visible form of a token. A byte of a part of a character becomes \xc3."""

    def unknown(self, chars: Iterable[str]) -> set[str]:
        """Return the characters that cannot be encoded. In BPE these are lone surrogates."""

    def replace_unknown(self, text: str) -> str:
        """Return `text` with the closest known character, if any, for each unknown one."""

    def to_json(self) -> str:
        """Return the content of the tokenizer's file."""


def pack_encoded(blocks: Iterable[tuple[str, Iterable[int]]]) -> PackedBatch:
    """Return a batch of documents that arrive in blocks: tokens as code points, and lengths."""
    tokens, offsets, end = SpillBuffer(), SpillBuffer(), 0
    offsets.add(array("q", [0]).tobytes())
    for codes, sizes in blocks:
        tokens.add(codes.encode(UTF_32, "surrogatepass"))
        ends = array("q", islice(accumulate(sizes, initial=end), 1, None))
        offsets.add(ends.tobytes())
        end = ends[-1]
    return PackedBatch(numbers_of(tokens.finish(), "i"), numbers_of(offsets.finish(), "q"))


def parse_json(text: str, kind: str, kinds: str) -> dict[str, Any]:
    """Return the JSON object of a tokenizer of this type.

    kinds: the types for the message. Raises: TokenizerError for anything else.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"not valid JSON: {error}") from None
    if not isinstance(content, dict) or content.get("type") != kind:
        raise TokenizerError(f'not a tokenizer of "type": {kinds}')
    return content


def quote_distinctly(text: str, other: str) -> str:
    """Return `text` in quotes, with its code points if it looks like the other text.

    >>> quote_distinctly("o", "O"), quote_distinctly("\u00f6", "o\u0308")
    ("'o'", "'ö' (U+00F6)")
    """
    if nfc(text) != nfc(other):
        return repr(text)
    return f"{text!r} ({' '.join(f'U+{ord(char):04X}' for char in text)})"


def check_special_names(names: Iterable[str], least: int = 2) -> None:
    """Raise TokenizerError if a special token cannot have a name. least: number of characters."""
    for name in names:
        if not (least <= len(name) <= MAX_NAME and name.isprintable()):
            raise TokenizerError(
                f"a special token's name has {least} to {MAX_NAME} visible characters, "
                f"not {name[:MAX_NAME]!r}"
            )
