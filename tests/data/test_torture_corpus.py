"""Lists of every kind, read and learned from: it works, or one sentence names the line."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import threading
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import kamon
from conftest import TINY, times
from kamon.data import corpus, readers, tables
from kamon.data.corpus import Corpus
from kamon.errors import ConfigError, CorpusError, KamonError
from kamon.tokenizers.char import CharTokenizer

pytestmark = pytest.mark.torture

SETTINGS: dict[str, Any] = TINY | {"num_steps": 2, "size": "original", "threads": 1}
LONGEST = 1000  # characters of a sentence

CHARS = st.characters(exclude_categories=[], exclude_characters="")
ODD = st.sampled_from(
    [
        *("", " ", "\t", "\x0b", "\x1c", "\x1f", "\x85", "\xa0", "\u2028", "\u2029", "\u200b"),
        *("\ufeff", "\u202e", "\u0301", "e\u0301", "é", "ﬁ", "İ", "ß", "ǅ", "名", "🏽", "👨‍👩‍👧"),
        *("\x00", "\ud800", "\udfff", "\ud83d\ude00", "\x1b[31m", "\x7f", "\ufffe", "\U0010ffff"),
        *('"', '""', "'", ",", ";", "\\", "\\n", "\\u0000", "{", "[" * 50, "null", "a", "b" * 300),
    ]
)
TEXT = st.lists(st.one_of(ODD, st.text(CHARS, max_size=6)), max_size=5).map("".join)
ENDS = st.sampled_from(["\n", "\r\n", "\r", "\n\n", "\n \n"])
MARKS = st.sampled_from([b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\x00"])
BYTES = st.sampled_from([b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5", b"\x00", b"\x80", b"\xc0\x80"])


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    """(format, content)"""
    format = draw(st.sampled_from(tables.FORMATS))
    docs = draw(st.lists(TEXT, max_size=12))
    if draw(st.booleans()):  # of two forms that look the same
        docs += [unicodedata.normalize(form, doc) for doc in docs[:3] for form in ("NFC", "NFD")]
    end = draw(ENDS)
    encode = draw(st.sampled_from(["utf-8"] * 6 + ["utf-16", "utf-32", "latin-1"]))
    if format == "text":
        text = end.join(docs) + draw(st.sampled_from(["", end]))
    elif format == "jsonl":
        ascii = draw(st.booleans())
        key = draw(st.sampled_from(["text"] * 4 + ["name", "", "a\nb", "\ud800"]))
        lines = [json.dumps({key: doc, "n": 1}, ensure_ascii=ascii) for doc in docs]
        if draw(st.integers(0, 5)) == 0:
            lines.append(draw(st.one_of(TEXT, st.sampled_from(["5", "null", '{"text": 5}', "{"]))))
        text = end.join(lines)
    elif format == "json":
        records = [doc if draw(st.booleans()) else {"text": doc} for doc in docs]
        text = json.dumps(records, indent=draw(st.sampled_from([None, 1])))
    elif format == "tsv":  # which knows no quotes
        text = end.join(["text\tid", *(f"{re.sub(chr(9), ' ', doc)}\t1" for doc in docs)])
    else:
        table = io.StringIO()
        writer = csv.writer(
            table,
            delimiter=",",
            lineterminator=end,
            quoting=draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])),
        )
        writer.writerow(draw(st.sampled_from([["text", "id"], ["id", "text"], ["text"], ["a\nb"]])))
        writer.writerows([doc, "1"] for doc in docs)
        text = table.getvalue()
        if draw(st.integers(0, 5)) == 0:
            text += draw(TEXT)
    errors = "surrogatepass" if encode != "latin-1" and draw(st.booleans()) else "replace"
    content = draw(MARKS) + text.encode(encode, errors)
    if draw(st.integers(0, 4)) == 0:
        place = draw(st.integers(0, len(content)))
        content = content[:place] + draw(BYTES) + content[place:]
    if draw(st.integers(0, 6)) == 0:
        content = content[: draw(st.integers(0, len(content)))]
    return format, content


def said(error: KamonError, name: str) -> None:
    """One sentence of a length to read, with its line if it is about what is in one."""
    text = str(error)
    assert text
    assert len(text) < LONGEST, text[:3000]
    if isinstance(error, CorpusError):
        assert re.search(
            rf"{name}, (line|element) \d+ |{name} (is empty|is damaged|holds|has)|of {name} all",
            text,
        )


def learn(source: Corpus) -> None:
    """Every document comes back from its tokens, and a model learns and makes more."""
    tokenizer = CharTokenizer.train(source.different)
    for doc in source.different:
        assert tokenizer.decode(tokenizer.encode(doc)) == doc == doc.strip() != ""
        doc.encode()  # nothing that no file could hold
    batch = tokenizer.encode_documents(source.different)
    for tokens, doc in zip(batch, source.different, strict=True):
        assert list(tokens) == tokenizer.encode_document(doc)
    model = kamon.train(source, **SETTINGS)
    assert len(model.metrics) == 2
    for sample in model.sample(2, temperature=1.0):
        sample.encode()
    again = CharTokenizer.from_json(tokenizer.to_json())
    assert again.chars == tokenizer.chars


@settings(
    max_examples=times(500, 20_000),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(files())
def test_any_list_is_learned_or_refused(tmp_path: Path, file: tuple[str, bytes]) -> None:
    format, content = file
    path = tmp_path / "list"
    path.write_bytes(content)
    column = None if format == "text" else "text"
    try:
        source = corpus.read(path, format=format, column=column)
    except ConfigError as error:  # there is no such column
        assert format in ("csv", "tsv")
        return said(error, str(path))
    except CorpusError as error:
        return said(error, str(path))
    assert len(source.docs) + source.num_blank == source.num_entries
    if format == "text":
        marked = content.startswith(readers.UTF_16_MARKS)
        text = content.decode("utf-16") if marked else content.decode().removeprefix("\ufeff")
        lines = readers.text_lines(text)
        stripped = [line.strip() for line in lines]
        wanted = [unicodedata.normalize("NFC", line) for line in stripped if line]
        assert list(source.docs) == wanted
    try:
        learn(source)
    except CorpusError as error:  # nothing to learn
        said(error, str(path))
    return None


@pytest.mark.slow
def test_a_hundred_thousand_different_characters(tmp_path: Path) -> None:
    chars = [chr(i) for i in range(0x21, 0x30000) if unicodedata.category(chr(i))[0] in "LNS"]
    chars = [char for char in chars if char == char.strip()]
    chars = [char for char in chars if unicodedata.is_normalized("NFC", char)][:100_000]
    assert len(chars) == 100_000
    path = tmp_path / "list"
    path.write_text("\n".join(map("".join, zip(*[iter(chars)] * 5, strict=True))), "utf-8")
    source = corpus.read(path)
    assert len(source.different.chars()) == 100_000
    learn(source)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_line_of_a_megabyte_is_learned(end: str, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_bytes(end.join(["anna", "ab" * (1 << 19), "é" * 1000, "bo"]).encode())
    source = corpus.read(path)
    assert [len(doc) for doc in source.docs] == [4, 1 << 20, 1000, 2]
    learn(source)
    model = kamon.train(source, num_steps=1)  # the size that is picked is not that of the line
    assert model.config.block_size <= 256


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names on this system")
def test_a_pipe_is_a_list(tmp_path: Path) -> None:
    """Where a shell writes <(...), there is one."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"anna\nbo\n",))
    writer.start()
    assert corpus.read(path).docs == ["anna", "bo"]
    writer.join()
