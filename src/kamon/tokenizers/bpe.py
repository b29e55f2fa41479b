"""Byte pair encoding: a token is a byte, or a pair of tokens that are often neighbours.

It can encode any text, and a common word has few tokens.

Kamon splits a text into pieces, such as words with the space before them. No token crosses the end
of a piece. At first, the tokens of a piece are the bytes of its UTF-8. Training repeatedly makes a
token of the pair of neighbours that is most frequent in all pieces. Encoding makes the same merges
in the same order. Sources: Sennrich et al. 2016, arXiv:1508.07909, and Radford et al. 2019 (bytes).

In this file, token t is the character chr(t), and a sequence of tokens is a string. So
`str.replace` makes a merge, and strings sort like pairs.
"""

from __future__ import annotations

import codecs
import heapq
import json
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, chain
from operator import add
from unicodedata import category

from kamon.config import require_int
from kamon.data.documents import NUL, nfc
from kamon.data.graphemes import AnyClusters, Boundaries, any_join
from kamon.engines.batch import BOS, PackedBatch
from kamon.errors import ConfigError, TokenizerError
from kamon.native import library
from kamon.native.library import address
from kamon.tokenizers.base import (
    MAX_SHOWN,
    Tokenizer,
    check_special_names,
    pack_encoded,
    parse_json,
)

BYTES = 256
MAX_VOCAB = 1 << 18
MAX_SPECIALS = 1_000
MAX_CACHED = 1 << 18  # pieces whose tokens are cached
MIN_NATIVE_PIECES = 1000  # of a text: for fewer, Python is fast enough
MAX_RULED_OUT = 100  # unfinished characters whose `ruled_out` is cached
BLOCK = 1 << 20  # characters that are split together

# Longer text becomes two pieces, because the time for one grows with the square of its length.
MAX_PIECE = 64  # characters, without the space before them
MAX_TOKEN = 4 * (MAX_PIECE + 1)  # bytes
# Combining marks, which `\w` does not match, and the joiners of letters.
JOINERS = "\u200c\u200d"
MARKS = JOINERS + "".join(
    c for c in map(chr, [*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)]) if category(c)[0] == "M"
)
MARK = re.compile(f"[{MARKS}]")
LETTER = r"[^\W\d_]"
# Pieces that are not words: punctuation, up to three digits, or white space except a last space,
# which belongs to the word after it. NUL separates documents, so it is always a separate piece.
OTHERS = (
    rf"| ?(?:[^\w\s\0]|_){{1,{MAX_PIECE}}}"
    r"|\d{1,3}"
    rf"|\s{{1,{MAX_PIECE}}}(?= [^\s\d\0])"
    rf"|\s{{1,{MAX_PIECE}}}"
    r"|\0"
)
# Version 1 cut a word at each mark. Without marks, both patterns agree, and this one is faster.
SPLIT_WITHOUT_MARKS = re.compile(rf" ?{LETTER}{{1,{MAX_PIECE}}}{OTHERS}")
SPLIT = re.compile(rf" ?{LETTER}(?:{LETTER}|[{MARKS}]){{0,{MAX_PIECE - 1}}}{OTHERS}")
VERSION = 2
SURROGATE = re.compile("[\ud800-\udfff]")

Pair = tuple[int, int]


class BytePairTokenizer(Tokenizer):
    """Tokens 0 to 255 are the bytes, 256 + i is merge i, and the special tokens follow, BOS first.

    Training stops if no pair occurs twice. Then there are fewer tokens than the given vocab_size.

    >>> tokenizer = BytePairTokenizer.train(["anna hanna", "nora"], vocab_size=260)
    >>> tokenizer.merges, tokenizer.bos, tokenizer.vocab_size
    ([(97, 110), (110, 97), (256, 257)], 259, 260)
    >>> tokenizer.encode("hanna é"), tokenizer.decode([104, 258])
    ([104, 258, 32, 195, 169], 'hanna')
    """

    unit = "token"

    def __init__(
        self,
        merges: Iterable[Pair],
        specials: Iterable[str] = (BOS,),
        *,
        composed: bool = False,
        version: int = VERSION,
    ) -> None:
        """Make a tokenizer of these merges.

        version: 1 for a tokenizer of an earlier Kamon, whose pieces end at each combining mark.

        Raises: TokenizerError if a merge has unknown tokens, or makes a known token.
        """
        self.version = version
        self.composed = composed
        self.merges = list(merges)
        self.specials = list(specials)
        self.bos = BYTES + len(self.merges)
        self.vocab_size = self.bos + len(self.specials)
        if self.vocab_size > MAX_VOCAB or len(self.specials) > MAX_SPECIALS:
            raise TokenizerError(
                f"a tokenizer has at most {MAX_VOCAB:,} tokens, {MAX_SPECIALS:,} of them special"
            )
        check_special_names(self.specials, 1)
        if len(set(self.specials)) < len(self.specials) or self.specials[:1] != [BOS]:
            raise TokenizerError(f"special tokens have different names, the first of them {BOS!r}")
        self.special = {name: self.bos + i for i, name in enumerate(self.specials)}
        spellings = [bytes([byte]) for byte in range(BYTES)]
        known = set(spellings)
        for number, (left, right) in enumerate(self.merges):
            if not (0 <= left < len(spellings) and 0 <= right < len(spellings)):
                raise TokenizerError(
                    f"merge {number} of tokens {left} and {right} comes before one of them exists"
                )
            merged = spellings[left] + spellings[right]
            if merged in known or len(merged) > MAX_TOKEN or 0 in merged:
                what = "too long" if len(merged) > MAX_TOKEN else "a duplicate"
                if 0 in merged:
                    what = "not text: it has a NUL"
                raise TokenizerError(
                    f"merge {number} of tokens {left} and {right} makes a token that is {what}"
                )
            spellings.append(merged)
            known.add(merged)
        self._bytes = dict(enumerate([*spellings, *(name.encode() for name in self.specials)]))
        self._spelt = [spelling.decode("latin-1") for spelling in spellings]  # bytes as characters
        self._pieces = Pieces(self.merges)
        self._ruled_out: dict[bytes, frozenset[int]] = {}

    @classmethod
    def train(cls, docs: Iterable[str], vocab_size: int) -> BytePairTokenizer:
        """Return a tokenizer that merges the most frequent pair of `docs` first.

        Of equally frequent pairs, the smallest comes first. Kamon brings the documents to NFC.

        Raises: ConfigError if vocab_size is too small for the bytes and BOS.
        """
        vocab_size = checked_vocab_size(vocab_size)
        counts = count_pieces(map(nfc, docs))
        return cls(learn_merges(counts, vocab_size - BYTES - 1), composed=True)

    def with_specials(self, names: Iterable[str]) -> BytePairTokenizer:
        """Return a copy with more special tokens after the existing ones."""
        return BytePairTokenizer(
            self.merges, [*self.specials, *names], composed=self.composed, version=self.version
        )

    def encode(self, text: str) -> list[int]:
        text = self.normal(text)
        check_surrogates(text)
        return list(map(ord, self._encoded(text)))

    def encode_documents(self, texts: Iterable[str], block_size: int | None = None) -> PackedBatch:
        bos, most = chr(self.bos), None if block_size is None else block_size + 1
        blocks = self._encoded_blocks(texts)
        docs = ([f"{bos}{codes}{bos}"[:most] for codes in block] for block in blocks)
        return pack_encoded(("".join(block), map(len, block)) for block in docs)

    def lengths(self, texts: Iterable[str]) -> Counter[int]:
        counts: Counter[int] = Counter()
        for block in self._encoded_blocks(texts):
            counts.update(map(len, block))
        return counts

    def decode(self, tokens: Iterable[int]) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """Return the bytes of tokens, which need not be UTF-8."""
        try:
            return b"".join(map(self._bytes.__getitem__, tokens))
        except KeyError as error:
            raise TokenizerError(
                f"{error} is not a token: tokens are numbers from 0 to {self.vocab_size - 1:,}"
            ) from None

    def unfinished(self, tokens: Iterable[int]) -> bytes | None:
        return unfinished(self.decode_bytes(tokens))

    def ruled_out(self, tokens: Sequence[int]) -> frozenset[int]:
        # Only the rest of an unfinished character may follow it.
        end = self.decode_bytes(tokens[-3:])[-3:]  # a character has at most four bytes
        starts = [end[i:] for i in range(len(end)) if end[i] & 0xC0 != 0x80]
        begun = unfinished(starts[-1]) or b"" if starts else b""
        excluded = self._ruled_out.get(begun)
        if excluded is None:
            excluded = frozenset(
                token
                for token in range(self.vocab_size)
                if token > self.bos
                or (token == self.bos and begun)
                or (token < self.bos and unfinished(begun + self._bytes[token]) is None)
            )
            if len(self._ruled_out) < MAX_RULED_OUT:
                self._ruled_out[begun] = excluded
        return excluded

    def unknown(self, chars: Iterable[str]) -> set[str]:
        return set(filter(SURROGATE.match, chars))

    def replace_unknown(self, text: str) -> str:
        return text

    def prefix_tokenizations(self, text: str) -> list[tuple[int, ...]]:
        """Return all possible first tokens of the texts that start with `text`.

        Only the tokens of `encode` count. More text after `text` changes only its last piece. A
        last piece of white space may lose a space to the text after it.
        Source of the idea: Phan et al. 2024, arXiv:2410.09303.
        """
        text = self.normal(text)
        openings = {tuple(self.encode(text)): None}
        *before, last = pieces_of(text, self.version)
        ways = [(before, last)]
        if last.isspace() and last[1:].endswith(" "):
            ways.append(([*before, last[:-1]], " "))
        for pieces, last in ways:
            whole = "".join(map(self._pieces.__getitem__, pieces))
            data = last.encode().decode("latin-1")
            for place in range(len(data)):
                first = self._pieces.merge(data[:place])
                for token, spelling in enumerate(self._spelt):
                    if spelling.startswith(data[place:]):
                        tokens = first + chr(token)
                        if self._pieces.merge(data[:place] + spelling) == tokens:
                            openings[tuple(map(ord, whole + tokens))] = None
        return list(openings)

    is_one_char_each = False
    clusters = None

    def boundaries(self, chars: Iterable[str] = ()) -> Boundaries | None:
        texts = [spelling.encode("latin-1").decode("utf-8", "ignore") for spelling in self._spelt]
        return AnyClusters() if any_join({*chars, *"".join(texts)}) else None

    @cached_property
    def chars_per_token(self) -> list[int]:
        # The later bytes of a character begin with the bits 10.
        counts = [sum(byte & 0xC0 != 0x80 for byte in data) for data in self._bytes.values()]
        counts[self.bos] = 0
        return counts

    def remainder(self, text: str, tokens: Iterable[int]) -> str:
        return self.decode_bytes(tokens)[len(text.encode()) :].decode("utf-8", "backslashreplace")

    def token_text(self, token: int) -> str:
        return self._bytes[token].decode("utf-8", "backslashreplace")

    def num_chars(self, texts: Iterable[str], sizes: Iterable[int]) -> list[int]:
        encoded = (self._encoded(self.normal(text)) for text in texts)
        cut = (map(ord, codes[:size]) for codes, size in zip(encoded, sizes, strict=True))
        return [len(self.decode_bytes(tokens).decode("utf-8", "ignore")) for tokens in cut]

    def steps(self, text: str) -> list[list[list[int]]]:
        """Return the tokens of each piece of `text`: its bytes, then those after each merge."""
        text = self.normal(text)
        check_surrogates(text)
        pieces = map(tokens_of, pieces_of(text, self.version))
        return [
            [list(map(ord, tokens)) for tokens in self._pieces.steps(piece)] for piece in pieces
        ]

    def to_json(self) -> str:
        content: dict[str, object] = {"type": "bpe"}
        if self.version > 1:
            content["version"] = self.version
        content |= {"merges": self.merges, "specials": self.specials}
        if self.composed:
            content["normalization"] = "NFC"
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BytePairTokenizer:
        """Return the tokenizer that `to_json` wrote. Raises TokenizerError for any other text."""
        content = parse_json(text, "bpe", '"bpe"')
        known = {"type", "version", "merges", "specials", "normalization"}
        if odd := sorted(content.keys() - known):
            raise TokenizerError(f"a tokenizer of this version of Kamon has no {odd[0]!r}")
        merges, specials = content.get("merges"), content.get("specials")
        version = content.get("version", 1)
        if type(version) is not int or not 1 <= version <= VERSION:
            raise TokenizerError(f"this version of Kamon knows no tokenizer of version {version!r}")
        if not isinstance(merges, list) or not all(map(is_pair, merges)):
            raise TokenizerError('"merges" is not a list of pairs of tokens')
        if not isinstance(specials, list) or not all(isinstance(name, str) for name in specials):
            raise TokenizerError('"specials" is not a list of names')
        form = content.get("normalization")
        if form not in (None, "NFC"):
            raise TokenizerError(f'"normalization" is "NFC" or missing, not {form!r}')
        pairs = [(left, right) for left, right in merges]
        return cls(pairs, specials, composed=form is not None, version=version)

    def _encoded(self, text: str) -> str:
        pieces = pieces_of(text, self.version)
        if len(pieces) >= MIN_NATIVE_PIECES:
            self._pieces.add(pieces)
        return "".join(map(self._pieces.__getitem__, pieces))

    def _encoded_blocks(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """Yield the tokens of each text, many texts at a time."""
        for block, joined in joined_blocks(map(self.normal, texts)):
            check_surrogates(joined, block)
            if joined.count(NUL) < len(block):  # so no text has a NUL
                yield self._encoded(joined).split(NUL)
            else:
                yield list(map(self._encoded, block))


class Pieces(dict[str, str]):
    """A cache of the tokens of pieces. Kamon empties it when it is full."""

    def __init__(self, merges: Sequence[Pair]) -> None:
        self.pairs = {
            chr(token): chr(left) + chr(right) for token, (left, right) in enumerate(merges, BYTES)
        }
        self.merges = array("i", chain.from_iterable(merges))
        self.made = {pair: token for token, pair in self.pairs.items()}

    def __missing__(self, piece: str) -> str:
        if len(self) >= MAX_CACHED:
            self.clear()
        self[piece] = tokens = self.merge(tokens_of(piece))
        return tokens

    def add(self, pieces: Iterable[str]) -> None:
        """Merge the new ones of these pieces with one native call, if it is built.

        One by one, they would take many times as long.
        """
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self]
        if library.why_not() or len(self) + len(new) > MAX_CACHED:
            return
        codes = [tokens_of(piece) for piece in new]
        ends = array("q", accumulate(map(len, codes)))
        text = bytearray("".join(codes), "latin-1")
        tokens = library.zeros(len(text), "i")
        error = library.exact("merge_pieces")(
            *(address(self.merges), len(self.pairs), address(text)),
            *(len(new), address(ends), address(tokens)),
        )
        library.raise_for(error)
        merged = "".join(map(chr, tokens[: ends[-1] if ends else 0]))
        self.update(zip(new, map(merged.__getitem__, map(slice, [0, *ends], ends)), strict=True))

    def merge(self, tokens: str) -> str:
        """Return the tokens that all merges make of bytes."""
        *_, tokens = self.steps(tokens)
        return tokens

    def steps(self, tokens: str) -> Iterator[str]:
        """Yield the bytes of a piece, then its tokens after each merge, the earliest first."""
        yield tokens
        token_of = self.made.get
        while possible := [*filter(None, map(token_of, map(add, tokens, tokens[1:])))]:
            earliest = min(possible)
            tokens = tokens.replace(self.pairs[earliest], earliest)
            yield tokens


def pieces_of(text: str, version: int = VERSION) -> list[str]:
    """Return the pieces that a tokenizer of this version splits `text` into."""
    marked = version > 1 and not text.isascii() and MARK.search(text)
    return (SPLIT if marked else SPLIT_WITHOUT_MARKS).findall(text)


def unfinished(data: bytes) -> bytes | None:
    """Return the bytes of an unfinished character at the end, or None if `data` is not UTF-8."""
    try:
        rest = data[codecs.utf_8_decode(data, "strict", False)[1] :]
    except UnicodeDecodeError:
        return None
    return None if rest[:1] == b"\xed" and rest[1:] >= b"\xa0" else rest  # None for a surrogate


def tokens_of(piece: str) -> str:
    """Return the bytes of a piece as tokens. A surrogate is a byte that is not UTF-8."""
    return piece.encode("utf-8", "surrogateescape").decode("latin-1")


def joined_blocks(texts: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """Yield many texts at a time, as a list and as one string with a NUL between two texts."""
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text)
        size += len(text) + 1
        if size >= BLOCK:
            yield block, NUL.join(block)
            block, size = [], 0
    if block:
        yield block, NUL.join(block)


def count_pieces(docs: Iterable[str]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for block, joined in joined_blocks(docs):
        check_surrogates(joined, block)
        counts.update(pieces_of(joined))
    return counts


def learn_merges(counts: Mapping[str, int], most: int) -> list[Pair]:
    """Return up to `most` merges of the counted pieces, fewer if no pair occurs twice any more.

    No two merges make the same bytes, because earlier merges always make the same tokens of these
    bytes, except if a merge crosses their ends.
    """
    pieces: list[str] = []
    numbers: list[int] = []
    total: defaultdict[str, int] = defaultdict(int)  # how often each pair occurs
    where: defaultdict[str, list[int]] = defaultdict(list)  # places of pieces that have or had it
    for text, number in counts.items():
        piece = tokens_of(text)
        for pair in map(add, piece, piece[1:]):
            total[pair] += number
            where[pair].append(len(pieces))
        pieces.append(piece)
        numbers.append(number)
    heap = [(-number, pair) for pair, number in total.items() if number > 1]
    heapq.heapify(heap)  # its counts may become too large, but never too small
    merges: list[Pair] = []
    while heap and len(merges) < most:
        number, pair = heap[0]
        if total[pair] != -number:
            if total[pair] > 1:
                heapq.heapreplace(heap, (-total[pair], pair))
            else:
                heapq.heappop(heap)
            continue
        heapq.heappop(heap)
        left, right = pair[0], pair[1]
        token = chr(BYTES + len(merges))
        merges.append((ord(left), ord(right)))
        fresh = set()
        for place in where.pop(pair):  # once for each time that the pair occurs in it
            before, separator, after = pieces[place].partition(pair)
            if not separator:
                continue
            pieces[place] = before + token + after
            neighbours = []
            if before:
                neighbours.append((before[-1] + left, before[-1] + token))
            if after:
                neighbours.append((right + after[0], token + after[0]))
            for old, new in neighbours:
                total[old] -= numbers[place]
                total[new] += numbers[place]
                where[new].append(place)
                fresh.add(new)
        del total[pair]
        for new in fresh:  # no other pair has become more frequent
            if total[new] > 1:
                heapq.heappush(heap, (-total[new], new))
    return merges


def checked_vocab_size(vocab_size: int) -> int:
    """Return the number of tokens to train. Raises ConfigError if it is not possible."""
    vocab_size = require_int("vocab_size", vocab_size)
    if not BYTES < vocab_size <= MAX_VOCAB:
        raise ConfigError(
            f"vocab_size must be from {BYTES + 1} (the bytes and BOS) to {MAX_VOCAB:,}, "
            f"not {vocab_size}"
        )
    return vocab_size


def check_surrogates(text: str, parts: Iterable[str] = ()) -> None:
    """Raise TokenizerError for the first lone surrogate in `text` or in one of its parts."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        for part in parts or [text]:
            match = SURROGATE.search(part)
            if match:
                shown = part if len(part) <= MAX_SHOWN else part[:MAX_SHOWN] + "…"
                raise TokenizerError(
                    f"character {match[0]!a} (U+{ord(match[0]):04X}) at position "
                    f"{match.start() + 1} of {shown!r} is a lone surrogate, which is not text"
                ) from None


def is_pair(merge: object) -> bool:
    return (
        isinstance(merge, list) and len(merge) == 2 and all(type(token) is int for token in merge)
    )
