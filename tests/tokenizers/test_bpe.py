"""Byte pair encoding against a slow and obvious specification, and against another library."""

from __future__ import annotations

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from unicodedata import category

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from helpers.original import SHARED
from kamon.data.documents import Documents, nfc
from kamon.engines.batch import pack_sequences
from kamon.errors import ConfigError, TokenizerError
from kamon.native import library
from kamon.tokenizers import bpe
from kamon.tokenizers.bpe import BYTES, SPLIT, BytePairTokenizer, Pair, pieces_of

CHARS = st.characters(exclude_categories=["Cs"])
MARKED = st.text("aक़िर् ə́1_ \u0301\u200d\u200c\n")  # letters with and without marks
ANY = st.text(CHARS) | MARKED
FEW = st.text("aab  é1_!\n\0", max_size=30)  # where pairs meet again
TEXTS = st.lists(ANY | FEW, min_size=1, max_size=8)
SHAKESPEARE = SHARED / "data" / "tinyshakespeare.txt"
SENTENCES = [
    "She'll sell 12345 sea-shells, by the sea shore; the shells she sells are sea_shells.",
    "  Größe und Maß: groß, größer, am größten\n\n\tnächste Zeile ",
    "東京と京都、東京都 👨‍👩‍👧 नमस्ते e\u0301",
]


def split_slowly(text: str, version: int = 2) -> list[str]:
    """Pieces as `kamon.tokenizers.bpe` describes them, character by character."""
    pieces, begin = [], 0

    def is_on_letter(place: int) -> bool:
        char = text[place : place + 1]
        return bool(version > 1 and char) and (category(char)[0] == "M" or char in "\u200c\u200d")

    def kind(place: int) -> str:
        if place >= len(text):
            return "end"
        char = text[place]
        if char == "\0":
            return "nul"
        if char.isdecimal():
            return "digit"
        return "letter" if char.isalnum() else "space" if re.match(r"\s", char) else "mark"

    while begin < len(text):
        first = begin + (text[begin] == " " and kind(begin + 1) in ("letter", "mark"))
        most = {"digit": 3, "nul": 1}.get(kind(first), bpe.MAX_PIECE)
        end = first
        while end - first < most and (
            kind(end) == kind(first) or (kind(first) == "letter" and is_on_letter(end))
        ):
            end += 1
        whole = kind(first) == "space" and end - begin > 1
        if whole and text[end - 1] == " " and kind(end) in ("letter", "mark"):
            end -= 1  # the last space goes with what follows
        pieces.append(text[begin:end])
        begin = end
    return pieces


def merge_slowly(tokens: list[int], pair: Pair, made: int) -> list[int]:
    found: list[int] = []
    place = 0
    while place < len(tokens):
        if tuple(tokens[place : place + 2]) == pair:
            found.append(made)
            place += 2
        else:
            found.append(tokens[place])
            place += 1
    return found


def train_slowly(texts: list[str], most: int) -> list[Pair]:
    """Count all pairs again after each merge."""
    pieces = [list(piece.encode()) for text in texts for piece in split_slowly(text)]
    merges: list[Pair] = []
    while len(merges) < most:
        counts = Counter(pair for piece in pieces for pair in pairwise(piece))
        rows = [(-number, pair) for pair, number in counts.items() if number > 1]
        if not rows:
            break
        pair = min(rows)[1]
        merges.append(pair)
        pieces = [merge_slowly(piece, pair, BYTES + len(merges) - 1) for piece in pieces]
    return merges


def encode_slowly(text: str, merges: list[Pair], version: int = 2) -> list[int]:
    found = []
    for piece in split_slowly(text, version):
        tokens = list(piece.encode())
        for token, pair in enumerate(merges, BYTES):
            tokens = merge_slowly(tokens, pair, token)
        found += tokens
    return found


@given(TEXTS)
@example(["aaaaaaa aaa aaaa", "aaa"])
@example(["abab ababab bab", "ab"])
@example(["a b  a b  a\n b\n\nb"])
@example(["xaaaa xaaaa xa xa xa aa aa"])  # (xa, a) or (x, aa)
def test_merges_and_tokens_are_those_of_the_specification(texts: list[str]) -> None:
    texts = list(map(nfc, texts))
    tokenizer = BytePairTokenizer.train(texts, BYTES + 25)
    assert tokenizer.merges == train_slowly(texts, 24)
    for text in texts:
        assert tokenizer.encode(text) == encode_slowly(text, tokenizer.merges)
        assert [steps[-1] for steps in tokenizer.steps(text)] == [
            encode_slowly(piece, tokenizer.merges) for piece in pieces_of(text)
        ]


@given(ANY | FEW | st.text("a1 \n_.", min_size=60, max_size=300))
@example("a" * 64 + " " + "b" * 65 + " " * 130 + "c")
@example(" " * 64 + "c")
@example(" " * 65 + "c")
@example("a  \0 b 1  2")
@example("क्" * 40)
@example("\u0301a e\u0301-\u0301  \u0301 1\u0301")
def test_pieces(text: str) -> None:
    for version in (1, 2):
        assert pieces_of(text, version) == split_slowly(text, version)
    assert SPLIT.findall(text) == split_slowly(text)
    assert "".join(SPLIT.findall(text)) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("the sea-shore", ["the", " sea", "-", "shore"]),
        ("it's 12345 ½", ["it", "'", "s", " ", "123", "45", " ½"]),
        ("a  b\n\n c\n", ["a", " ", " b", "\n\n", " c", "\n"]),
        ("snake_case __init__", ["snake", "_", "case", " __", "init", "__"]),
        ("Größe 東京。", ["Größe", " 東京", "。"]),
        ("हिन्दी विकिपीडिया।", ["हिन्दी", " विकिपीडिया", "।"]),
        ("தமிழ் மொழி", ["தமிழ்", " மொழி"]),
        ("ที่นี่ กรุงเทพฯ", ["ที่นี่", " กรุงเทพฯ"]),
        ("مُحَمَّدٌ رَسُول", ["مُحَمَّدٌ", " رَسُول"]),
        ("Vie\u0323\u0302t Nam", ["Vie\u0323\u0302t", " Nam"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),
    ],
)
def test_pieces_of_a_text(text: str, pieces: list[str]) -> None:
    assert pieces_of(text) == pieces


def test_a_tokenizer_of_the_first_version_keeps_its_pieces() -> None:
    """Its file names no version: its merges were learned when a mark ended a word."""
    text = "हिन्दी ते हिन्दी"
    made = BytePairTokenizer.train([text] * 2, 300)
    assert len(made.encode(text)) < 8
    content = json.loads(made.to_json())
    assert content.pop("version") == 2
    old = BytePairTokenizer.from_json(json.dumps(content))
    assert old.encode(text) == encode_slowly(text, old.merges, 1) != made.encode(text)
    assert old.decode(old.encode(text)) == text
    extended = old.with_specials(["<|x|>"])
    assert "version" not in json.loads(extended.to_json())
    assert extended.encode(text) == old.encode(text)
    for version in (0, 3, "2", True, None):
        with pytest.raises(TokenizerError, match="version"):
            BytePairTokenizer.from_json(json.dumps(content | {"version": version}))


# ---- tokens that make no text

KOREAN = BytePairTokenizer.train(["가나 다라 마바사", "가나다 漢字 👩🏽"] * 2, 290)


@given(st.lists(st.integers(0, KOREAN.vocab_size - 1) | st.integers(0x80, 0xFF), max_size=12))
@example([0xED, 0xA0, 0x9F, 0x80, 0xF0, 0x8F, 0x90, 0x80, 0x80, 0xE0, 0x9F])
def test_what_can_follow_is_what_a_text_can_have(tokens: list[int]) -> None:
    """Of tokens that begin a text, exactly those may follow with which they still do."""
    begun: list[int] = []
    for token in tokens:
        data = KOREAN.decode_bytes([*begun, token])
        fits = token < KOREAN.bos and is_begun(data)
        if token == KOREAN.bos:
            fits = KOREAN.decode(begun).encode() == KOREAN.decode_bytes(begun)
        assert (token not in KOREAN.ruled_out(begun)) == fits
        assert token > KOREAN.bos or (KOREAN.unfinished([*begun, token]) is not None) == is_begun(
            data
        )
        if fits and token != KOREAN.bos:
            begun.append(token)


def is_begun(data: bytes) -> bool:
    """Whether a text's UTF-8 may begin so: whole characters, and the first bytes of one."""
    for cut in range(4):
        whole, rest = data[: len(data) - cut], data[len(data) - cut :]
        try:
            whole.decode()
        except UnicodeDecodeError:
            continue
        return not rest or rest in BEGINNINGS
    return False


BEGINNINGS = {
    char.encode()[:size]
    for char in map(chr, [*range(0x80, 0xD800), *range(0xE000, 0x110000, 16)])
    for size in range(1, len(char.encode()))
}


TRAINED = BytePairTokenizer.train(SENTENCES * 2, 340)
# Long tokens of few characters, some of them with a part of é.
MERGED = BytePairTokenizer.train(
    ["aab  aé1_a!\n\n  b éé aé éa  a  b", "baé a\n  b 11 __!! aab"] * 3, 330
)


@given(TEXTS)
def test_text_survives(texts: list[str]) -> None:
    tokenizer = BytePairTokenizer.from_json(TRAINED.to_json())
    assert (tokenizer.merges, tokenizer.specials) == (TRAINED.merges, TRAINED.specials)
    texts = list(map(nfc, texts))
    for text in texts:
        tokens = tokenizer.encode_document(text)
        assert tokens[0] == tokens[-1] == tokenizer.bos
        assert all(token < tokenizer.bos for token in tokens[1:-1])
        assert tokenizer.decode(tokens[1:-1]) == text
    assert tokenizer.decode_documents(pack_sequences(map(tokenizer.encode, texts))) == texts


@given(st.binary() | st.lists(st.sampled_from([b"\xc3\xa9", b"\xed\xa0\x80", b" a", b"\xff"])))
@example(b"\xf0\x9f\x91")
def test_tokens_are_any_bytes(data: bytes | list[bytes]) -> None:
    data = data if isinstance(data, bytes) else b"".join(data)
    assert TRAINED.decode_bytes(data) == data
    assert TRAINED.decode(data) == data.decode("utf-8", "replace")


@given(TEXTS, st.none() | st.integers(1, 9))
@example(["a  ", " b", "", "\0", "a\0"], None)
@example(["12", "3 ", " "], 3)
def test_many_documents_are_as_one_by_one(texts: list[str], block_size: int | None) -> None:
    most = None if block_size is None else block_size + 1
    expected = pack_sequences(TRAINED.encode_document(text)[:most] for text in texts)
    assert TRAINED.encode_documents(texts, block_size) == expected
    if all("\0" not in text for text in texts):
        assert TRAINED.encode_documents(Documents.of(texts), block_size) == expected
    assert TRAINED.lengths(texts) == Counter(len(TRAINED.encode(text)) for text in texts)
    assert TRAINED.encode_documents([]) == pack_sequences([])


def test_blocks_and_a_small_memory_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = TRAINED.encode_documents(SENTENCES * 3)
    monkeypatch.setattr(bpe, "BLOCK", 100)
    monkeypatch.setattr(bpe, "MAX_CACHED", 3)
    tokenizer = BytePairTokenizer.train(SENTENCES * 2, 340)
    assert tokenizer.merges == TRAINED.merges
    assert tokenizer.encode_documents(SENTENCES * 3) == whole
    assert len(tokenizer._pieces) <= 3


@given(FEW, st.integers(0, 40))
def test_characters_of_the_first_tokens(text: str, number: int) -> None:
    data = TRAINED.decode_bytes(TRAINED.encode(text)[:number])
    (found,) = TRAINED.num_chars([text], [number])
    assert text[:found].encode() == data.decode(errors="ignore").encode()
    assert len(data) - len(text[:found].encode()) < 4


@given(st.lists(st.text("ab", min_size=1, max_size=40), min_size=1, max_size=8))
def test_two_merges_never_make_the_same_bytes(texts: list[str]) -> None:
    """Of few letters nearly all runs become tokens, in as many ways as there are."""
    tokenizer = BytePairTokenizer.train(texts, BYTES + 1 + 200)  # or a TokenizerError
    assert tokenizer.merges == train_slowly(texts, 200)


def test_training_ends_where_no_pair_occurs_twice() -> None:
    tokenizer = BytePairTokenizer.train(["abab", "cd"], 1000)
    assert (tokenizer.merges, tokenizer.vocab_size) == ([(97, 98)], 258)
    assert BytePairTokenizer.train(["abab"], 257).vocab_size == 257


@pytest.mark.parametrize("vocab_size", [0, 256, bpe.MAX_VOCAB + 1])
def test_a_vocabulary_that_cannot_be(vocab_size: int) -> None:
    with pytest.raises(ConfigError, match="vocab_size must be from 257"):
        BytePairTokenizer.train(["abab"], vocab_size)


def test_special_tokens() -> None:
    more = TRAINED.with_specials(["<|user|>", "<|end|>"])
    assert more.specials == ["<|bos|>", "<|user|>", "<|end|>"]
    assert (more.bos, more.vocab_size) == (TRAINED.bos, TRAINED.vocab_size + 2)
    text = "<|bos|> <|user|>"
    assert more.encode(text) == TRAINED.encode(text)
    assert max(more.encode(text)) < more.bos
    assert more.decode([more.bos + 1, 97]) == "<|user|>a"
    assert BytePairTokenizer.from_json(more.to_json()).specials == more.specials
    for names in (["<|bos|>"], [""], ["a\n"], ["x" * 101], ["a", "a"], ["a"] * 1001):
        with pytest.raises(TokenizerError):
            TRAINED.with_specials(names)


@pytest.mark.parametrize("tokens", [[-1], [TRAINED.vocab_size]])
def test_what_is_no_token(tokens: list[int]) -> None:
    with pytest.raises(
        TokenizerError, match=f"{tokens[0]} is not a token: tokens are numbers from 0 to 3"
    ):
        TRAINED.decode(tokens)


@pytest.mark.parametrize("texts", [["\udc80"], ["a", "aé\ud800"]])
@pytest.mark.parametrize(
    "ask",
    [
        lambda texts: [TRAINED.encode(text) for text in texts],
        TRAINED.encode_documents,
        TRAINED.lengths,
        lambda texts: BytePairTokenizer.train(texts, 300),
        lambda texts: [TRAINED.steps(text) for text in texts],
    ],
)
def test_lone_surrogates(texts: list[str], ask: Callable[[list[str]], object]) -> None:
    with pytest.raises(TokenizerError, match=r"position \d of .* is a lone surrogate"):
        ask(texts)
    assert TRAINED.unknown("".join(texts)) == {texts[-1][-1]}


def test_tokens_as_they_are_shown() -> None:
    tokenizer = BytePairTokenizer.train(["é é"], 258)
    assert [tokenizer.token_text(token) for token in (97, 0xC3, 256, 257)] == [
        *("a", "\\xc3", "é", "<|bos|>"),
    ]


@pytest.mark.parametrize(
    ("merges", "specials", "message"),
    [
        ("[[97, 256]]", '["<|bos|>"]', "before one of them exists"),
        ("[[97, -1]]", '["<|bos|>"]', "before one of them exists"),
        (
            "[[97, 98], [97, 98]]",
            '["<|bos|>"]',
            "merge 1 of tokens 97 and 98 makes a token that is a duplicate",
        ),
        ("[[97, 97], [256, 97], [97, 256]]", '["<|bos|>"]', "a duplicate"),
        (str([[97 if i == 0 else 255 + i] * 2 for i in range(9)]), '["<|bos|>"]', "too long"),
        ("[[97, 0]]", '["<|bos|>"]', "it has a NUL"),
        ("[[97, 98, 99]]", '["<|bos|>"]', "pairs"),
        ("[[97, true]]", '["<|bos|>"]', "pairs"),
        ("[[97, 98.0]]", '["<|bos|>"]', "pairs"),
        ("[97]", '["<|bos|>"]', "pairs"),
        ("{}", '["<|bos|>"]', "pairs"),
        ("[]", "[]", "the first of them '<|bos|>'"),
        ("[]", '["x", "<|bos|>"]', "the first of them '<|bos|>'"),
        ("[]", '["<|bos|>", 1]', "names"),
        ("[]", '["<|bos|>", "\\ud800"]', "visible"),
        ("[]", '["<|bos|>"], "split": 2', "has no 'split'"),
        ("[" * 100_000, "[]", "not valid JSON"),
    ],
)
def test_what_is_no_tokenizer(merges: str, specials: str, message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        BytePairTokenizer.from_json(
            f'{{"type": "bpe", "merges": {merges}, "specials": {specials}}}'
        )
    assert message in str(caught.value)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"type": "char", "chars": []}'])
def test_what_is_no_tokenizer_at_all(text: str) -> None:
    with pytest.raises(TokenizerError):
        BytePairTokenizer.from_json(text)


def test_strange_texts_take_no_time() -> None:
    """One word without an end, and a row of spaces: work does not grow with the square."""
    rng = random.Random(3)
    texts = ["".join(rng.choices("abcdefgh", k=200_000)), " " * 200_000, "a1" * 100_000]
    start = time.process_time()
    tokenizer = BytePairTokenizer.train(texts, 300)
    for text in texts:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert time.process_time() - start < 30  # with the square, hours


# ---- against another library


def shown_bytes() -> dict[int, str]:
    """The visible character that stands for each byte in byte-level vocabularies elsewhere."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(BYTES) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {
        byte: chr(BYTES + number) for number, byte in enumerate(others)
    }


def test_tokens_are_those_of_the_tokenizers_library() -> None:
    library = pytest.importorskip(
        "tokenizers.models", reason="the tokenizers package is not installed"
    )
    if not SHAKESPEARE.exists():
        pytest.skip(f"{SHAKESPEARE} is not there to compare with")
    from tokenizers import Regex, models, pre_tokenizers

    docs = SHAKESPEARE.read_text().split("\n")
    tokenizer = BytePairTokenizer.train(docs, 1000)
    chars = shown_bytes()
    spelt = [
        "".join(chars[byte] for byte in tokenizer.decode_bytes([token]))
        for token in range(tokenizer.bos)
    ]
    merges = [(spelt[left], spelt[right]) for left, right in tokenizer.merges]
    other = library.Tokenizer(models.BPE({name: i for i, name in enumerate(spelt)}, merges))
    pattern = Regex(SPLIT.pattern.replace(r"\0", r"\x00"))
    other.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    for doc in [*docs[:5000], *SENTENCES]:
        assert tokenizer.encode(doc) == other.encode(doc).ids, doc


def test_merges_are_those_of_the_tokenizers_library() -> None:
    """On words of small letters, whose bytes are in the same order there."""
    library = pytest.importorskip(
        "tokenizers.models", reason="the tokenizers package is not installed"
    )
    from tokenizers import models, trainers

    rng = random.Random(5)
    for letters in ("ab", "abcdef", "etaoinshrdlu"):
        words = ["".join(rng.choices(letters, k=rng.randint(1, 9))) for _ in range(2000)]
        other = library.Tokenizer(models.BPE())
        own = BytePairTokenizer.train(words, BYTES + 101)
        trainer = trainers.BpeTrainer(
            vocab_size=len(letters) + 100, min_frequency=2, show_progress=False
        )
        other.train_from_iterator(words, trainer)
        found = sorted(other.get_vocab().items(), key=lambda item: item[1])
        made = [tokenizer_text for tokenizer_text, _ in found if len(tokenizer_text) > 1]
        assert made == [own.token_text(token) for token in range(BYTES, own.bos)]


# ---- how longer texts begin


@given(FEW.filter(bool), FEW | ANY)
@example("she", "lls")
@example("a", "  b")
@example("a ", " b")
@example(" ", "\n\n ")
@example("1", "2345")
@example("é", "a")
@example("e", "\u0301")
@example("Größ", "er")
@example("\n ", "!")
@example("a" * 64, "a")
def test_a_longer_text_begins_in_one_of_the_ways(begin: str, more: str) -> None:
    for tokenizer in (TRAINED, MERGED):
        whole = tokenizer.normal(begin + more)
        if not whole.startswith(tokenizer.normal(begin)):
            continue  # a mark has made its last character another one
        openings = tokenizer.prefix_tokenizations(begin)
        tokens = tuple(tokenizer.encode(begin + more))
        assert sum(tokens[: len(each)] == each for each in openings) == 1
        assert tuple(tokenizer.encode(begin)) in openings


def test_openings_of_a_text() -> None:
    """Every token that goes on, each of them behind the tokens that come before it then."""
    tokenizer = BytePairTokenizer([(97, 98), (256, 99), (98, 99), (32, 97)])
    ab, abc, bc, space_a = range(256, 260)
    assert set(tokenizer.prefix_tokenizations("a")) == {(97,), (ab,), (abc,)}
    assert set(tokenizer.prefix_tokenizations("ab")) == {(ab,), (abc,)}  # bc comes too late
    assert set(tokenizer.prefix_tokenizations("xb")) == {(120, 98), (120, bc)}
    assert set(tokenizer.prefix_tokenizations("x ")) == {(120, 32), (120, space_a)}
    assert tokenizer.remainder("x ", (120, space_a)) == "a"
    assert tokenizer.remainder("x", (120,)) == ""
    assert all(
        tokenizer.remainder("xb", tokens) in ("", "c")
        for tokens in tokenizer.prefix_tokenizations("xb")
    )


def test_characters_that_begin_in_a_token() -> None:
    for text in SENTENCES:
        assert sum(TRAINED.chars_per_token[token] for token in TRAINED.encode(text)) == len(
            nfc(text)
        )
    assert TRAINED.chars_per_token[TRAINED.bos] == 0
    assert len(TRAINED.chars_per_token) == TRAINED.vocab_size


@pytest.mark.skipif(bool(library.why_not()), reason="needs the native library")
def test_many_pieces_are_merged_as_one_by_one() -> None:
    rng = random.Random(3)
    for letters in ("ab", "abcdé ", "0aß日\0"):
        texts = ["".join(rng.choices(letters, k=rng.randrange(30))) for _ in range(40)]
        tokenizer = BytePairTokenizer.train(texts, BYTES + rng.randrange(2, 60))
        one_by_one, together = (bpe.Pieces(tokenizer.merges) for _ in range(2))
        pieces = ["".join(rng.choices(letters, k=rng.randrange(40))) for _ in range(300)]
        together["kept"] = "as it is"
        together.add(["kept", *pieces])
        assert together.pop("kept") == "as it is"
        assert together == {piece: one_by_one[piece] for piece in pieces}
        together.add([])
