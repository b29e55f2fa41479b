from __future__ import annotations

from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamon.engines.batch import pack_sequences
from kamon.errors import TokenizerError
from kamon.tokenizers.char import CharTokenizer

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1)


@given(TEXTS)
def test_text_survives(docs: list[str]) -> None:
    docs = [normalize("NFC", doc) for doc in docs]
    tokenizer = CharTokenizer.from_json(CharTokenizer.train(docs).to_json())
    assert tokenizer.vocab_size == len(set("".join(docs))) + 1 == tokenizer.bos + 1
    for doc in docs:
        tokens = tokenizer.encode_document(doc)
        assert tokens[0] == tokens[-1] == tokenizer.bos
        assert tokenizer.bos not in tokens[1:-1]
        assert tokenizer.decode(tokens[1:-1]) == doc
    assert tokenizer.decode_documents(pack_sequences(map(tokenizer.encode, docs))) == docs


def test_more_characters_than_there_are_code_points_below_the_surrogates() -> None:
    chars = [chr(code) for code in range(0x20000, 0x20000 + 0xE100)]
    tokenizer = CharTokenizer(chars)
    docs = ["".join(chars[-5000:]), "", chars[0]]
    assert tokenizer.decode_documents(pack_sequences(map(tokenizer.encode, docs))) == docs


def test_characters_are_sorted() -> None:
    assert CharTokenizer.train(["zoë", "Abel"]).chars == ["A", "b", "e", "l", "o", "z", "ë"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("josé", "unknown character 'é' (U+00E9) at position 4 of 'josé'"),
        ("o\u200djs", "character '\\u200d' (U+200D) at position 2 of 'o\\u200djs'"),
        ("😀", "(U+1F600) at position 1"),
    ],
)
def test_an_unknown_character_names_itself(text: str, message: str) -> None:
    with pytest.raises(TokenizerError) as caught:
        CharTokenizer.train(["jos"]).encode(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"type": "bpe"}', '{"type": "char"}', '{"type": "char", "chars": "ab"}']
    + [
        f'{{"type": "char", "chars": {chars}}}' for chars in ('["a", "a"]', '["ab"]', '[""]', "[1]")
    ],
)
def test_what_is_no_tokenizer(text: str) -> None:
    with pytest.raises(TokenizerError):
        CharTokenizer.from_json(text)


@pytest.mark.parametrize(
    ("known", "text", "found"),
    [
        ("aben", "aben", "aben"),
        ("aben", "ABen", "aben"),
        ("ABEN", "aben", "ABEN"),
        ("aeé", "ÉÈ", "ée"),  # the other case comes before the plain form
        ("S", "ßs", "SSS"),
        ("fi", "ﬁ", "fi"),
        ("f", "ﬁ", "ﬁ"),  # not a part of it
        ("1", "１²", "1²"),
        ("ae", "ae\u0301", "ae"),  # in two characters
        ("aq", "aq\u0301", "aq"),
        ("a\u0301", "a\u0301ä", "a\u0301a"),  # a known accent stays, if it must
        ("İi", "İI", "İi"),
    ],
)
def test_unknown_characters_are_replaced_by_their_likes(known: str, text: str, found: str) -> None:
    for composed in (False, True):
        tokenizer = CharTokenizer(sorted(set(known)), composed=composed)
        assert tokenizer.replace_unknown(text) == found


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("Anna", "\nhint: use 'anna', which it knows"),
        ("ännä", "\nhint: use 'anna', which it knows"),
        ("annä!", None),
        ("日", None),
        ("zo\u0308e", "\nhint: use 'z\u00f6e' (U+007A U+00F6 U+0065), which it knows"),
    ],
)
def test_what_is_known_instead(text: str, hint: str | None) -> None:
    tokenizer = CharTokenizer(sorted("anz\u00f6e"))
    with pytest.raises(TokenizerError) as caught:
        tokenizer.encode(text)
    said = str(caught.value)
    assert said.endswith(hint or f" of {text!r}"), said
