"""What every tokenizer offers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from kamon.engines.batch import PackedBatch
from kamon.errors import TokenizerError

if TYPE_CHECKING:
    pass


BPE_VOCAB = 1_024  # tokens of a BytePairTokenizer where nobody says how many
MAX_FILE = 1 << 24  # bytes of a tokenizer as JSON
MAX_NAME = 100  # characters of a special token's name
MAX_SHOWN = 100  # characters of a text, in an error


class Tokenizer(Protocol):
    """What all that have text and a model ask of a tokenizer; `to_json` gives it for a file.

    bos: the token at both ends of a document; vocab_size: tokens, BOS included; unit: what a token
    is called in a sentence, "character" or "token"; special: the special tokens by their names, BOS
    the first of them. No text has one among its tokens; `decode` gives the name of one for it.
    composed: texts are brought to Unicode's composed form (NFC) before their tokens are looked up,
    as those were that it was trained on. One of an earlier version of Kamon takes them as given.
    """

    bos: int
    vocab_size: int
    unit: str
    special: dict[str, int]
    composed: bool

    def normal(self, text: str) -> str:
        """`text` as it is encoded: in NFC if `composed`, else as it is."""

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, none of them special. TokenizerError for what has none."""

    def encode_document(self, text: str) -> list[int]:
        """The tokens of `text` between two BOS."""

    def encode_documents(self, texts: Iterable[str], block_size: int | None = None) -> PackedBatch:
        """The documents of many texts, each up to block_size + 1 tokens: see CharTokenizer."""

    def lengths(self, texts: Iterable[str]) -> Counter[int]:
        """How many texts have so many tokens, BOS not counted, for each number that occurs."""

    def num_chars(self, texts: Iterable[str], sizes: Iterable[int]) -> list[int]:
        """How many whole characters the first tokens of each text make, as many as `sizes` says."""

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`, none of which is BOS."""

    def decode_documents(self, batch: PackedBatch) -> list[str]:
        """The text of each document of `batch`, none with a BOS."""

    def unfinished(self, tokens: Iterable[int]) -> bytes | None:
        """The bytes of a character that `tokens` begin and do not end; None if they are no text."""

    def ruled_out(self, tokens: Sequence[int]) -> frozenset[int]:
        """The tokens that cannot follow these in a text."""

    def prefix_tokenizations(self, text: str) -> list[tuple[int, ...]]:
        """All ways in which the tokens of a longer text, or of this one, may begin so as to have
        `text`, which is not empty, at its start: each ends with the token that reaches its end."""

    @property
    def is_one_char_each(self) -> bool:
        """Whether any tokens but special ones make a text of as many characters."""

    @property
    def chars_per_token(self) -> list[int]:
        """How many characters begin in each token; none in BOS."""

    def remainder(self, text: str, tokens: Iterable[int]) -> str:
        """What `tokens`, one of the openings of `text`, have after it; as of `piece`."""

    def token_text(self, token: int) -> str:
        """One token as people can see it."""

    def unknown(self, chars: Iterable[str]) -> set[str]:
        """Those of `chars` that no text may have that is to be encoded."""

    def replace_unknown(self, text: str) -> str:
        """`text` with unknown characters exchanged for their likes, where there are any."""

    def to_json(self) -> str: ...


def quote_distinctly(text: str, other: str) -> str:
    """In quotes; with its code points where it looks like the other.

    >>> quote_distinctly("o", "O"), quote_distinctly("\u00f6", "o\u0308")
    ("'o'", "'ö' (U+00F6)")
    """
    from unicodedata import normalize

    if normalize("NFC", text) != normalize("NFC", other):
        return repr(text)
    return f"{text!r} ({' '.join(f'U+{ord(char):04X}' for char in text)})"


def check_special_names(names: Iterable[str]) -> None:
    """TokenizerError for what is no name of a special token."""
    for name in names:
        if not (1 < len(name) <= MAX_NAME and name.isprintable()):
            raise TokenizerError(
                f"a special token's name has 2 to {MAX_NAME} visible characters, "
                f"not {name[:MAX_NAME]!r}"
            )
