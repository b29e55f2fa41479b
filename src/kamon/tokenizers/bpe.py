"""Text to tokens and back by byte pair encoding: a token is a byte, or two tokens that were often
neighbours. Any text has tokens, and a common word has few.

A text is split into pieces, such as words with the space before them, and no token reaches over a
piece's end. Each piece starts as the bytes of its UTF-8. To train, the pair of neighbours that is
most frequent in all pieces becomes a token, again and again; to encode, the same merges are made in
the same order. Source: Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019.

Inside this file token t is the character chr(t) and tokens in a row are a string: `str.replace` is
a merge then, and the order of strings that of pairs.
"""

from __future__ import annotations

import codecs
import heapq
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, islice, pairwise
from operator import add
from unicodedata import category

from kamon.config import require_int
from kamon.data.documents import NUL, nfc
from kamon.engines.batch import BOS, UTF_32, PackedBatch
from kamon.errors import ConfigError, TokenizerError
from kamon.files.spill import SpillBuffer, numbers_of

BYTES = 256
MAX_VOCAB = 1 << 18
MAX_SPECIALS = 1_000
MAX_NAME = 100  # characters of a special token's name
MAX_CACHED = 1 << 18  # pieces whose tokens are remembered
MAX_SHOWN = 100  # characters of a text, in an error
MAX_RULED_OUT = 100  # unfinished characters for which this is remembered
BLOCK = 1 << 20  # characters that are split together

# What is longer is two pieces: the work on one grows with the square of its length.
MAX_PIECE = 64  # characters; and a space before them
MAX_TOKEN = 4 * (MAX_PIECE + 1)  # bytes
# Combining marks, which `\w` does not match, and the joiners of letters.
JOINERS = "\u200c\u200d"
MARKS = JOINERS + "".join(
    c for c in map(chr, [*range(0x300, 0x1F000), *range(0xE0100, 0xE01F0)]) if category(c)[0] == "M"
)
MARK = re.compile(f"[{MARKS}]")
LETTER = r"[^\W\d_]"
# After the letters of a word: punctuation, up to three digits, or white space except a space before
# what follows it. NUL is a piece of its own that no other looks across: it separates documents.
OTHERS = (
    rf"| ?(?:[^\w\s\0]|_){{1,{MAX_PIECE}}}"
    r"|\d{1,3}"
    rf"|\s{{1,{MAX_PIECE}}}(?= [^\s\d\0])"
    rf"|\s{{1,{MAX_PIECE}}}"
    r"|\0"
)
# Version 1 cut a word at each mark. Without a mark both versions find the same; this one is faster.
SPLIT_WITHOUT_MARKS = re.compile(rf" ?{LETTER}{{1,{MAX_PIECE}}}{OTHERS}")
SPLIT = re.compile(rf" ?{LETTER}(?:{LETTER}|[{MARKS}]){{0,{MAX_PIECE - 1}}}{OTHERS}")
VERSION = 2
SURROGATE = re.compile("[\ud800-\udfff]")

Pair = tuple[int, int]


class BytePairTokenizer:
    """Tokens 0 to 255 are the bytes, 256 + i is the i-th merge, then come special tokens.

    BOS is the first of these; no text has one among its tokens. Not all vocab_size tokens that were
    asked for are there where no pair occurs twice any longer.

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
        """TokenizerError for a merge of what is no token yet, and for a token that is there.

        version: 1 for a tokenizer that was trained when pieces ended at each combining mark.
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
        check_names(self.specials)
        self.special = {name: self.bos + i for i, name in enumerate(self.specials)}
        found = [bytes([byte]) for byte in range(BYTES)]
        known = set(found)
        for number, (left, right) in enumerate(self.merges):
            if not (0 <= left < len(found) and 0 <= right < len(found)):
                raise TokenizerError(
                    f"merge {number} of tokens {left} and {right} comes before both are there"
                )
            made = found[left] + found[right]
            if made in known or len(made) > MAX_TOKEN or 0 in made:
                what = "too long" if len(made) > MAX_TOKEN else "there already"
                if 0 in made:
                    what = "no text: it has a NUL"
                raise TokenizerError(
                    f"merge {number} of tokens {left} and {right} makes one that is {what}"
                )
            found.append(made)
            known.add(made)
        self._bytes = dict(enumerate([*found, *(name.encode() for name in self.specials)]))
        self._spelt = [each.decode("latin-1") for each in found]  # as characters
        self._pieces = Pieces(self.merges)
        self._ruled_out: dict[bytes, frozenset[int]] = {}

    @classmethod
    def train(cls, docs: Iterable[str], vocab_size: int) -> BytePairTokenizer:
        """The most frequent pair of all pieces in `docs` first, of equal ones the smallest.

        The documents are brought to NFC.
        ConfigError for a vocab_size that leaves no room for the bytes and BOS.
        """
        vocab_size = checked_vocab_size(vocab_size)
        counts = count_pieces(map(nfc, docs))
        return cls(learn_merges(counts, vocab_size - BYTES - 1), composed=True)

    def with_specials(self, names: Iterable[str]) -> BytePairTokenizer:
        """The same with more special tokens; every token that was there keeps its number."""
        return BytePairTokenizer(
            self.merges, [*self.specials, *names], composed=self.composed, version=self.version
        )

    def normal(self, text: str) -> str:
        """`text` as it is encoded: in NFC if `composed`, else as it is."""
        return nfc(text) if self.composed else text

    def encode(self, text: str) -> list[int]:
        """The tokens of `text`, without BOS. TokenizerError for a lone surrogate, no text."""
        text = self.normal(text)
        check_surrogates(text)
        return list(map(ord, self._encoded(text)))

    def encode_document(self, text: str) -> list[int]:
        """The tokens of `text` between two BOS."""
        return [self.bos, *self.encode(text), self.bos]

    def encode_documents(self, texts: Iterable[str], block_size: int | None = None) -> PackedBatch:
        """The documents of many texts, much faster than one by one. TokenizerError as of `encode`.

        block_size: a text of as many tokens or more has its first block_size tokens and no end: its
        `encode_document` up to the block_size + 1 tokens that a model can take.
        """
        bos, most = chr(self.bos), None if block_size is None else block_size + 1
        tokens, offsets, end = SpillBuffer(), SpillBuffer(), 0
        offsets.add(array("q", [0]).tobytes())
        for block in self._encoded_blocks(texts):
            docs = [f"{bos}{doc}{bos}"[:most] for doc in block]
            tokens.add("".join(docs).encode(UTF_32, "surrogatepass"))
            ends = array("q", islice(accumulate(map(len, docs), initial=end), 1, None))
            offsets.add(ends.tobytes())
            end = ends[-1]
        return PackedBatch(numbers_of(tokens.finish(), "i"), numbers_of(offsets.finish(), "q"))

    def lengths(self, texts: Iterable[str]) -> Counter[int]:
        """How many texts have so many tokens, BOS not counted, for each number that occurs."""
        found: Counter[int] = Counter()
        for block in self._encoded_blocks(texts):
            found.update(map(len, block))
        return found

    def decode(self, tokens: Iterable[int]) -> str:
        """The text of `tokens`. Bytes that are no UTF-8, as where a sample ends inside a character,
        become U+FFFD; a special token becomes its name. TokenizerError for what is no token."""
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def decode_bytes(self, tokens: Iterable[int]) -> bytes:
        """The bytes of `tokens`, which need not be UTF-8."""
        try:
            return b"".join(map(self._bytes.__getitem__, tokens))
        except KeyError as error:
            raise TokenizerError(
                f"{error} is no token: there are {self.vocab_size:,}, from 0 on"
            ) from None

    def unfinished(self, tokens: Iterable[int]) -> bytes | None:
        """The bytes of a character that `tokens` begin and do not end; None if they are no text."""
        return unfinished(self.decode_bytes(tokens))

    def ruled_out(self, tokens: Sequence[int]) -> frozenset[int]:
        """The tokens that cannot follow these in a text: a character must be finished first."""
        end = self.decode_bytes(tokens[-3:])[-3:]  # a character has at most four bytes
        starts = [end[i:] for i in range(len(end)) if end[i] & 0xC0 != 0x80]
        begun = unfinished(starts[-1]) or b"" if starts else b""
        found = self._ruled_out.get(begun)
        if found is None:
            found = frozenset(
                token
                for token in range(self.vocab_size)
                if token > self.bos
                or (token == self.bos and begun)
                or (token < self.bos and unfinished(begun + self._bytes[token]) is None)
            )
            if len(self._ruled_out) < MAX_RULED_OUT:
                self._ruled_out[begun] = found
        return found

    def decode_documents(self, batch: PackedBatch) -> list[str]:
        """The text of each document of `batch`, as `normal` gives it, none with a BOS."""
        return [
            self.normal(self.decode(batch.tokens[begin:end]))
            for begin, end in pairwise(batch.offsets)
        ]

    def unknown(self, chars: Iterable[str]) -> set[str]:
        """Those of `chars` that have no tokens: lone surrogates, which are in no text."""
        return set(filter(SURROGATE.match, chars))

    def replace_unknown(self, text: str) -> str:
        """`text` as it is: there are no likes of lone surrogates."""
        return text

    def prefix_tokenizations(self, text: str) -> list[tuple[int, ...]]:
        """All ways in which the tokens of a longer text, or of this one, may begin so as to have
        `text`, which is not empty, at its start: each ends with the token that reaches its end.

        Only those that `encode` would give, too. The pieces of `text` but the last one stay as they
        are, whatever follows; and a last one of white space may lose a space to what follows.
        Source of the idea: Phan et al. 2024, arXiv:2410.09303.
        """
        text = self.normal(text)
        found = {tuple(self.encode(text)): None}
        *before, last = pieces_of(text, self.version)
        ways = [(before, last)]
        if last.isspace() and last[1:].endswith(" "):
            ways.append(([*before, last[:-1]], " "))
        for pieces, last in ways:
            whole = "".join(map(self._pieces.__getitem__, pieces))
            data = last.encode().decode("latin-1")
            for place in range(len(data)):
                first = self._pieces.merge(data[:place])
                for token, each in enumerate(self._spelt):
                    if each.startswith(data[place:]):
                        tokens = first + chr(token)
                        if self._pieces.merge(data[:place] + each) == tokens:
                            found[tuple(map(ord, whole + tokens))] = None
        return list(found)

    is_one_char_each = False

    @cached_property
    def chars_per_token(self) -> list[int]:
        """How many characters begin in each token: bytes that are none after the first of one."""
        found = [sum(byte & 0xC0 != 0x80 for byte in each) for each in self._bytes.values()]
        return [*found[: self.bos], 0, *found[self.bos + 1 :]]

    def remainder(self, text: str, tokens: Iterable[int]) -> str:
        """What `tokens`, one of the openings of `text`, have after it; as of `piece`."""
        return self.decode_bytes(tokens)[len(text.encode()) :].decode("utf-8", "backslashreplace")

    def token_text(self, token: int) -> str:
        r"""One token as it can be shown: with bytes that are part of a character as \xc3."""
        return self._bytes[token].decode("utf-8", "backslashreplace")

    def num_chars(self, texts: Iterable[str], sizes: Iterable[int]) -> list[int]:
        """How many whole characters the first tokens of each text make, as many as `sizes` says."""
        found = []
        for text, size in zip(texts, sizes, strict=True):
            tokens = self._encoded(self.normal(text))[:size]
            found.append(len(self.decode_bytes(map(ord, tokens)).decode("utf-8", "ignore")))
        return found

    def steps(self, text: str) -> list[list[list[int]]]:
        """Of each piece of `text` its tokens: at first its bytes, then after each merge."""
        text = self.normal(text)
        check_surrogates(text)
        return [
            [list(map(ord, tokens)) for tokens in self._pieces.steps(piece)]
            for piece in pieces_of(text, self.version)
        ]

    def to_json(self) -> str:
        import json

        content: dict[str, object] = {"type": "bpe"}
        if self.version > 1:
            content["version"] = self.version
        content |= {"merges": self.merges, "specials": self.specials}
        if self.composed:
            content["normalization"] = "NFC"
        return json.dumps(content, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BytePairTokenizer:
        """TokenizerError where `text` is not what `to_json` writes."""
        import json

        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TokenizerError(f"not valid JSON: {error}") from None
        if not isinstance(content, dict) or content.get("type") != "bpe":
            raise TokenizerError('not a tokenizer of "type": "bpe"')
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
        return "".join(map(self._pieces.__getitem__, pieces_of(text, self.version)))

    def _encoded_blocks(self, texts: Iterable[str]) -> Iterator[list[str]]:
        """The tokens of each text, of many texts at a time."""
        for block, joined in joined_blocks(map(self.normal, texts)):
            check_surrogates(joined, block)
            if joined.count(NUL) < len(block):  # as of all texts that come from a list
                yield self._encoded(joined).split(NUL)
            else:
                yield list(map(self._encoded, block))


class Pieces(dict[str, str]):
    """Tokens by their pieces: found when they are first asked for, forgotten when they are many."""

    def __init__(self, merges: Iterable[Pair]) -> None:
        self.pairs = {
            chr(token): chr(left) + chr(right) for token, (left, right) in enumerate(merges, BYTES)
        }
        self.made = {pair: token for token, pair in self.pairs.items()}

    def __missing__(self, piece: str) -> str:
        found = self.merge(tokens_of(piece))
        if len(self) >= MAX_CACHED:
            self.clear()
        self[piece] = found
        return found

    def steps(self, piece: str) -> Iterator[str]:
        """The bytes of a piece, and what they become with each merge: the earliest goes first."""
        tokens, made = tokens_of(piece), self.made.get
        yield tokens
        while found := [*filter(None, map(made, map(add, tokens, tokens[1:])))]:
            first = min(found)
            tokens = tokens.replace(self.pairs[first], first)
            yield tokens

    def merge(self, tokens: str) -> str:
        """What bytes become, all at once."""
        made = self.made.get
        while found := [*filter(None, map(made, map(add, tokens, tokens[1:])))]:
            earliest = min(found)
            tokens = tokens.replace(self.pairs[earliest], earliest)
        return tokens


def pieces_of(text: str, version: int = VERSION) -> list[str]:
    """The pieces that `text` is split into, as a tokenizer of this version does."""
    marked = version > 1 and not text.isascii() and MARK.search(text)
    return (SPLIT if marked else SPLIT_WITHOUT_MARKS).findall(text)


def unfinished(data: bytes) -> bytes | None:
    """The bytes of a character that `data` begins and does not end; None if it is no UTF-8."""
    try:
        rest = data[codecs.utf_8_decode(data, "strict", False)[1] :]
    except UnicodeDecodeError:
        return None
    return None if rest[:1] == b"\xed" and rest[1:] >= b"\xa0" else rest  # of a surrogate


def tokens_of(piece: str) -> str:
    """The bytes of a piece as tokens; a surrogate stands for a byte that is no UTF-8."""
    return piece.encode("utf-8", "surrogateescape").decode("latin-1")


def joined_blocks(texts: Iterable[str]) -> Iterator[tuple[list[str], str]]:
    """Many texts at a time, also as one with a NUL between two."""
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
    """How often each piece occurs."""
    counts: Counter[str] = Counter()
    for block, joined in joined_blocks(docs):
        check_surrogates(joined, block)
        counts.update(pieces_of(joined))
    return counts


def learn_merges(counts: Mapping[str, int], most: int) -> list[Pair]:
    """Up to `most` merges of the pieces counted, fewer where no pair occurs twice any longer.

    No two make the same bytes: wherever these stand, and no merge reached over their ends, the
    merges before made the same of them.
    """
    pieces: list[str] = []
    numbers: list[int] = []
    total: defaultdict[str, int] = defaultdict(int)  # how often each pair occurs
    where: defaultdict[str, list[int]] = defaultdict(list)  # its pieces; some have it no longer
    for text, number in counts.items():
        piece = tokens_of(text)
        for pair in map(add, piece, piece[1:]):
            total[pair] += number
            where[pair].append(len(pieces))
        pieces.append(piece)
        numbers.append(number)
    heap = [(-number, pair) for pair, number in total.items() if number > 1]
    heapq.heapify(heap)  # no number in it is too small, but some may be too large by now
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
            before, found, behind = pieces[place].partition(pair)
            if not found:
                continue
            pieces[place] = before + token + behind
            number = numbers[place]
            if before:
                total[before[-1] + left] -= number
                new = before[-1] + token
                total[new] += number
                where[new].append(place)
                fresh.add(new)
            if behind:
                total[right + behind[0]] -= number
                new = token + behind[0]
                total[new] += number
                where[new].append(place)
                fresh.add(new)
        del total[pair]
        for new in fresh:  # no other pair has become more frequent
            if total[new] > 1:
                heapq.heappush(heap, (-total[new], new))
    return merges


def checked_vocab_size(vocab_size: int) -> int:
    """The number of tokens to train. ConfigError for what is none."""
    vocab_size = require_int("vocab_size", vocab_size)
    if not BYTES < vocab_size <= MAX_VOCAB:
        raise ConfigError(
            f"vocab_size must be from {BYTES + 1} (the bytes and BOS) to {MAX_VOCAB:,}, "
            f"not {vocab_size}"
        )
    return vocab_size


def check_surrogates(text: str, parts: Iterable[str] = ()) -> None:
    """TokenizerError that shows the first lone surrogate in `text`, or in one of its parts."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError:
        for part in parts or [text]:
            found = SURROGATE.search(part)
            if found:
                shown = part if len(part) <= MAX_SHOWN else part[:MAX_SHOWN] + "…"
                raise TokenizerError(
                    f"character {found[0]!a} (U+{ord(found[0]):04X}), number "
                    f"{found.start() + 1} in {shown!r}, is a lone surrogate: that is no text"
                ) from None


def check_names(specials: list[str]) -> None:
    """TokenizerError where these are no names of special tokens, BOS the first of them."""
    for name in specials:
        if not (0 < len(name) <= MAX_NAME and name.isprintable()):
            raise TokenizerError(
                f"a special token's name has 1 to {MAX_NAME} visible characters, "
                f"not {name[:MAX_NAME]!r}"
            )
    if len(set(specials)) < len(specials) or specials[:1] != [BOS]:
        raise TokenizerError(f"special tokens have different names, the first of them {BOS!r}")


def is_pair(merge: object) -> bool:
    return (
        isinstance(merge, list) and len(merge) == 2 and all(type(token) is int for token in merge)
    )
