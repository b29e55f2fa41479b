from __future__ import annotations

import bz2
import csv
import gzip
import hashlib
import io
import lzma
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from kamon.data import builtin, corpus, readers, tables
from kamon.errors import ConfigError, CorpusError, KamonError


def write(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("name", "content", "column", "docs"),
    [
        ("list.txt", b"anna\nbob\n", None, ["anna", "bob"]),
        ("list.txt", b"anna\nbob", None, ["anna", "bob"]),
        ("list.txt", b"\xef\xbb\xbfanna\r\nbob\r\n", None, ["anna", "bob"]),
        ("list.txt", b"anna\rbob\r", None, ["anna", "bob"]),
        ("list", " josé\t\n\n名前\u2028\n".encode(), None, ["josé", "名前"]),
        ("list.txt", "a\u2028b\nc\x0bd".encode(), None, ["a\u2028b", "c\x0bd"]),
        ("list.csv", b'id,name\n1,anna\n2,"bob, jr"\n', "name", ["anna", "bob, jr"]),
        ("list.CSV", b"\xef\xbb\xbfname,id\r\nanna,1\r\n\r\nbob,2\r\n", "name", ["anna", "bob"]),
        ("list.csv", b'name\n"two\nlines"\n', "name", ["two\nlines"]),
        ("list.csv", b"\n\nid,name\n1,anna\n", "name", ["anna"]),
        ("list.tsv", b"id\tfull name \n1\tanna,b\n", "full name", ["anna,b"]),
        (
            "list.jsonl",
            b'{"text": "anna"}\n\n{"text": "b\\u00f6b", "n": 1}\n',
            None,
            ["anna", "böb"],
        ),
        ("list.ndjson", b'{"name": "anna"}', "name", ["anna"]),
    ],
)
def test_formats(
    name: str, content: bytes, column: str | None, docs: list[str], tmp_path: Path
) -> None:
    assert corpus.read(write(tmp_path, name, content), column=column).docs == docs


@given(st.lists(st.sampled_from(["an", " b", "", "\r", "\n", "\r\n", "\t", "\ufeff", "\0", "é"])))
def test_a_text_is_read_as_a_file_is(
    tmp_path_factory: pytest.TempPathFactory, parts: list[str]
) -> None:
    text = "".join(parts)
    path = write(tmp_path_factory.mktemp("list"), "list.txt", text.encode())
    try:
        found = corpus.read(path)
    except CorpusError as error:
        with pytest.raises(CorpusError) as other:
            corpus.from_text(text, str(path))
        assert str(other.value) == str(error)  # noqa: PT017
    else:
        assert corpus.from_text(text, str(path)) == found


def test_what_was_changed_is_counted(tmp_path: Path) -> None:
    found = corpus.read(write(tmp_path, "x.txt", b" anna\n\nbob\n  \nanna \nanna\n\n"))
    assert found.docs == ["anna", "bob", "anna", "anna"]
    assert (found.num_entries, found.num_blank, found.num_stripped) == (7, 3, 2)
    assert found.different == ["anna", "bob"]


@pytest.mark.parametrize(
    ("name", "content", "column", "message"),
    [
        ("x.txt", b"", None, "{path} is empty"),
        ("x.txt", b"\xef\xbb\xbf", None, "{path} is empty"),
        ("x.txt", b"\n \n\t\r\n", None, "{path} has only blank lines"),
        ("x.txt", b"anna\nb\xffb\n", None, "{path}, line 2 is not UTF-8: byte 2 of it is 0xff"),
        ("x.txt", b"anna\r\nb\r\xc3", None, "{path}, line 3 is not UTF-8: byte 1"),
        ("x.txt", b"anna\nbo\0b\n", None, "{path}, line 2 has a NUL byte at byte 3"),
        (
            "x.txt",
            "anna\nb\0".encode("utf-16"),
            None,
            "{path}, line 2 has a NUL character, although",
        ),
        ("x.txt", "anna\nbo".encode("utf-16")[:-1], None, "{path}, line 2 is not UTF-16, although"),
        ("x.csv", b"\xfe\xff\0a\0\n\xdc\0", "a", "{path}, line 2 is not UTF-16, although the file"),
        ("x.xlsx", b"PK\x03\x04\x14\0", None, "{path} is a spreadsheet or an archive, not text"),
        ("x.xls", b"\xd0\xcf\x11\xe0\xa1", None, "save it as CSV (UTF-8)"),
        ("x.txt", b"\x7fELF\x02\x01\x01\0\0", None, "so it does not look like text"),
        ("x.jsonl", b'{"text": "a"}\n{"text": \n', None, "{path}, line 2 is not valid JSON"),
        ("x.jsonl", b"[" * 100_000, None, "{path}, line 1 is not valid JSON"),
        (
            "x.jsonl",
            b'\n"anna"',
            None,
            '{path}, line 2 is not a JSON object such as {{"text": "…"}}',
        ),
        (
            "x.jsonl",
            b'{"name": "a"}',
            None,
            "{path}, line 1 has no key 'text'\nhint: choose one with --column: name",
        ),
        ("x.jsonl", b'{"text": 5}', None, "{path}, line 1: the value of 'text' is not text"),
        ("x.jsonl", b'{"n": ' + b"1" * 5000 + b"}", None, "line 1 is not valid JSON: a number"),
        ("x.jsonl", b'{"text": "ab\\ud800"}', None, "lone surrogate (U+D800) at character 3"),
        ("x.jsonl", b'{"text": "a\\u0000"}', None, "{path}, line 1 has a NUL at character 2"),
        ("x.csv", b"id,name\n1\n", "name", "{path}, line 2 has only 1 cell, not column 2, 'name'"),
        ("x.csv", b'name\n"anna', "name", "{path}, line 2 is not valid CSV"),
        ("x.csv", b"", "name", "{path} is empty"),
    ],
)
def test_bad_content_is_named_with_its_line(
    name: str, content: bytes, column: str | None, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(CorpusError) as caught:
        corpus.read(path, column=column)
    assert message.format(path=path) in str(caught.value)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("name", "column", "format", "message"),
    [
        ("x.csv", None, None, "has the columns id, name: choose one with --column"),
        ("x.csv", "nam", None, "has no column 'nam'\nhint: did you mean 'name'?"),
        ("x.csv", "town", None, "has no column 'town'\nhint: choose from id, name"),
        ("x.txt", "name", None, "is read as text, which has no columns"),
        ("x.txt", None, "xml", "unknown format 'xml'"),
    ],
)
def test_a_wrong_question_is_a_config_error(
    name: str, column: str | None, format: str | None, message: str, tmp_path: Path
) -> None:
    path = write(tmp_path, name, b"id,name\n1,anna\n")
    with pytest.raises(ConfigError) as caught:
        corpus.read(path, column=column, format=format)
    assert message in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "brands.txt", b"a\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CorpusError, match=r"no file brand\.txt\nhint: did you mean 'brands\.txt'\?"
    ):
        corpus.read("brand.txt")
    with pytest.raises(CorpusError, match=r"no file nmaes\nhint: did you mean 'names'"):
        corpus.read("nmaes")
    Path("models", "generation-000001").mkdir(parents=True)
    Path("lists").mkdir()
    with pytest.raises(CorpusError, match=r"no file model\nhint: check the name"):
        corpus.read("model")
    with pytest.raises(CorpusError, match=r"no file list\nhint: did you mean 'lists'"):
        corpus.read("list")
    with pytest.raises(CorpusError, match="is a directory"):
        corpus.read(tmp_path)
    with pytest.raises(CorpusError, match=r"cannot read brands\.txt/x: Not a directory"):
        corpus.read("brands.txt/x")
    with pytest.raises(CorpusError, match=r"the file name is empty"):
        corpus.read("")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no /dev/zero on this system")
def test_an_endless_device_ends() -> None:
    with pytest.raises(CorpusError, match="NUL byte"):
        corpus.read("/dev/zero")


@pytest.mark.parametrize("format", [None, "csv", "jsonl"])
def test_standard_input(format: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {None: b"anna\nbob", "csv": b"n\nanna\nbob", "jsonl": b'{"n":"anna"}\n{"n":"bob"}'}[
        format
    ]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    found = corpus.read("-", format=format, column=None if format is None else "n")
    assert (found.source, found.docs) == ("standard input", ["anna", "bob"])


@given(st.binary(max_size=200), st.sampled_from(tables.FORMATS))
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, format: str
) -> None:
    path = write(tmp_path_factory.getbasetemp(), "any", content)
    try:
        found = corpus.read(path, format=format, column=None if format == "text" else "text")
    except KamonError:
        return
    assert found.docs
    for doc in found.docs:
        assert doc == doc.strip() != ""
        doc.encode("utf-8")
    assert len(found.docs) + found.num_blank == found.num_entries


@given(st.lists(st.text(st.characters(exclude_characters="\r\n\0", exclude_categories=["Cs"]))))
def test_lines_survive(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    content = "".join(f"{line}\n" for line in lines)
    path = write(tmp_path_factory.getbasetemp(), "lines", content.encode())
    docs = [line.strip() for line in lines]
    if lines:
        docs[0] = lines[0].removeprefix("\ufeff").strip()
    docs = [doc for doc in docs if doc]
    for composed in (False, True):
        try:
            found = corpus.read(path, composed=composed).docs
        except CorpusError:
            found = []
        assert found == ([normalize("NFC", doc) for doc in docs] if composed else docs)


BYTES = st.one_of(
    st.binary(max_size=40),
    st.lists(
        st.sampled_from(
            ["\ufeff", "a", "é", "\r", "\n", "\r\n", "名", "\0", "\x85", "\u2028", b"\xc3"]
        ).map(lambda piece: piece if isinstance(piece, bytes) else piece.encode())
    ).map(b"".join),
)


@example("\ufeff\ufeffa".encode(), 1)  # only the first is a mark
@given(BYTES, st.integers(1, 9))
def test_a_text_read_as_it_comes_is_the_text(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, block: int
) -> None:
    path = write(tmp_path_factory.getbasetemp(), "stream", content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "BLOCK", block)
        found: list[str] = []
        error = ""
        try:
            for lines in readers.stream_lines(path):
                found += lines
        except CorpusError as caught:
            error = str(caught)
    if content.startswith((*readers.UTF_16_MARKS, *readers.SPREADSHEETS, *readers.COMPRESSED)):
        return  # looked at below
    bad = [place for place in [content.find(b"\0")] if place >= 0]
    try:
        content.decode()
    except UnicodeDecodeError as caught_too:
        bad.append(caught_too.start)
    if not bad:
        assert error == ""
        assert found == readers.text_lines(content.decode().removeprefix("\ufeff"))
    else:
        line, byte = place(content, min(bad))
        assert f", line {line} " in error
        assert f"byte {byte}" in error
        before = readers.text_lines(content[: min(bad)].decode().removeprefix("\ufeff"))
        assert found == before[: line - 1]


def place(content: bytes, offset: int) -> tuple[int, int]:
    """Line and byte in the line of an offset, both counted from 1."""
    before = content[:offset].replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return before.count(b"\n") + 1, len(before) - (before.rfind(b"\n") + 1) + 1


@pytest.mark.parametrize("suffix", ["txt", "csv", "jsonl"])
def test_a_line_longer_than_any_document(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_LINE", 50)
    path = write(tmp_path, f"x.{suffix}", b'text\n"b"\n' + b"a" * 50 + b"\n" + b"a" * 51)
    monkeypatch.setattr(tables, "json_texts", lambda _name, lines, *_: lines)
    with pytest.raises(
        CorpusError,
        match=r"line 4 has more than 50 characters\nhint: put each entry on its own line",
    ):
        corpus.read(path, column="text" if suffix == "csv" else None)


def test_a_line_of_a_megabyte(tmp_path: Path) -> None:
    path = write(tmp_path, "x.txt", b"anna\n" + "é".encode() * (1 << 20) + b"\nbob\n")
    assert [len(doc) for doc in corpus.read(path).docs] == [4, 1 << 20, 3]


def test_a_stream_keeps_no_more_of_a_line_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "MAX_LINE", 5)
    for block in (1, 3, 100):
        monkeypatch.setattr(readers, "BLOCK", block)
        path = write(tmp_path, "long", "abcde\nabcdé名\nabcdefgh\né".encode())
        lines = [line for some in readers.stream_lines(path) for line in some]
        assert lines == ["abcde", "abcdé名", "abcdef", "é"]
        path = write(tmp_path, "bad", "\ufeffé\nabcdé名éé\xff".encode() + b"\xff")
        with pytest.raises(CorpusError, match="line 2 is not UTF-8: byte 16 of it is 0xff"):
            list(readers.stream_lines(path))
    assert readers.MAX_LINE == 5


@pytest.mark.parametrize("block", [1, 2, 3, 1 << 18])
@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_utf_16_is_read_where_a_mark_says_so(
    codec: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    text = "\ufeffé\r\n名前\r\r\n👩🏽 x\n\ufeffa"
    path = write(tmp_path, "utf-16", text.encode(codec))
    assert [line for some in readers.stream_lines(path) for line in some] == [
        "é", "名前", "", "👩🏽 x", "\ufeffa",
    ]  # fmt: skip
    assert corpus.read(path).num_blank == 1
    assert corpus.read(path, mode="text").docs == [
        text[1:].replace("\r\n", "\n").replace("\r", "\n") + "\n"
    ]


@pytest.mark.parametrize("block", [1, 3, 1 << 18])
def test_a_spreadsheet_is_known_as_it_comes(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    for begin in readers.SPREADSHEETS:
        with pytest.raises(CorpusError, match="is a spreadsheet or an archive"):
            corpus.read(write(tmp_path, "x", begin + b"\0\0\n"))
    assert corpus.read(write(tmp_path, "x", b"PK\x03")).docs == ["PK\x03"]
    assert corpus.read(write(tmp_path, "x", b"\nPK\x03\x04")).docs == ["PK\x03\x04"]


def test_what_tells_nothing_of_a_mark_is_not_waited_for() -> None:
    came: list[bytes] = []

    def blocks() -> Iterator[bytes]:
        for block in (b"a\n", b"b\n"):
            came.append(block)
            yield block

    assert next(readers.decoded(blocks(), "x")) == "a\n"
    assert came == [b"a\n"]


# ---- tables


@pytest.mark.parametrize(
    ("content", "word", "docs"),
    [
        ("id;name;n\n1;anna;3,5\n2;bob;7\n", "semicolons", ["anna", "bob"]),
        ("id\tname\n1\tanna\n", "tabs", ["anna"]),
        ("id,name\n1,a;b;c\n", "", ["a;b;c"]),
        ("a;b,name\n1,anna\n", "", ["anna"]),  # as many of either: the comma
        ('"a,b,c,d";name\n1;anna\n', "semicolons", ["anna"]),  # not in quotes
        ('"a "",,,"" b";name\n1;anna\n', "semicolons", ["anna"]),
        ('"a,\n,b\n"";,,,,";name;"c\nd"\n1;anna;2\n', "semicolons", ["anna"]),
        ('\n\nn"a"me,b;name;"x"\n1;anna;1\n', "semicolons", ["anna"]),
        ("name\na;b\n", "", ["a;b"]),
        ("name\n", "", []),
    ],
)
def test_what_separates_the_cells(content: str, word: str, docs: list[str], tmp_path: Path) -> None:
    for path, format in (
        (write(tmp_path, "x.csv", content.encode()), None),
        (write(tmp_path, "x.txt", content.encode()), "csv"),
    ):
        told: list[str] = []
        streamed = corpus.stream_entries(path, "name", format, on_note=told.append)
        assert [doc for docs in streamed for doc in docs] == docs
        if docs:
            found = corpus.read(path, column="name", format=format)
            assert found.docs == docs
            assert told == [f"{path} {found.note}"] * bool(found.note)
            assert found.note == (word and f"has cells separated by {word}")
    found_tsv = write(tmp_path, "x.tsv", b"a;b;c\tname\n1\tanna\n")
    assert corpus.read(found_tsv, column="name").docs == ["anna"]
    assert corpus.read(found_tsv, column="name").note == ""


def test_a_quote_in_the_first_row_that_never_ends(tmp_path: Path) -> None:
    path = write(tmp_path, "x.csv", b'a;"name\n' + b"b;c\n" * 100_000)
    with pytest.raises(CorpusError, match="line 1 is not valid CSV: a quote that opens there"):
        corpus.read(path, column="name")


def test_a_text_that_looks_like_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "x.txt", b'{"text": "anna"}\n' * 6)
    assert "looks like JSON Lines: read it with --format jsonl" in corpus.read(path).note


@pytest.mark.parametrize(
    ("lines", "is_table"),
    [
        (["1;anna", "2;bob"] * 3, True),
        (["id\tname", "1\tanna", "2\tbo;b", "3\tc", "4\td"], True),
        (["id,name", *["1,anna"] * 8, "2,b,ob"], True),
        (["1;anna", "2;bob"], False),  # too few to tell
        (["anna", "bob", "1;c"] * 5, False),
        (["Smith, John", "Acme, Inc."] * 5, False),
        (["int a;", "return a;"] * 5, False),
        (["a;b", "a;b;c", "a;b;c;d"] * 5, False),
        (["anna", "bob"] * 50 + ["a;b"] * 1000, False),  # not among the first hundred
    ],
)
def test_a_text_that_looks_like_a_table(lines: list[str], is_table: bool, tmp_path: Path) -> None:
    text = "\n".join([*lines, ""])
    path = write(tmp_path, "x.txt", text.encode())
    found = corpus.read(path)
    assert ("looks like a table" in found.note) == is_table
    assert found.docs == lines
    assert corpus.from_text(text).note == found.note
    assert corpus.read(path, mode="text").note == ""
    told: list[str] = []
    assert list(corpus.stream_entries(path, on_note=told.append)) == list(
        readers.stream_lines(path)
    )
    assert told == [f"{path} {found.note}"] * is_table


ROW = "1;anna\n2;bo\n3;cid\n"
ABOVE = "Names of 2026\n\n"
TAKEN = "has its first row read as the header: {} (if it is data, add --no-header)"


@pytest.mark.parametrize(
    ("content", "format", "column", "header", "docs", "notes"),
    [
        # what Excel writes above a table
        ("sep=;\nid;name\n1;a,b\n", "csv", "name", True, ["a,b"], ["semicolons"]),
        ('"sep=;"\nid;name\n1;a,b\n', "csv", "name", True, ["a,b"], ["semicolons"]),
        ("sep=\t\nid,\tname\n1\tbo\n", "csv", "name", True, ["bo"], ["by tabs"]),
        ("sep=^\nid^name\n1^bo\n", "csv", "name", True, ["bo"], ["by '^'"]),
        ("sep=;\n" + ABOVE + "id;name\n" + ROW, "csv", "name", True, ["anna", "bo", "cid"],
         ["semicolons", 'in line 4: Kamon skips the lines above, "Names of 2026"']),
        ("sep=;\n1;bo\n", "csv", "2", False, ["bo"], ["semicolons"]),
        # lines above the header
        (ABOVE + "id;name\n" + ROW, "csv", "name", True, ["anna", "bo", "cid"],
         ["semicolons", "has its header in line 3"]),
        ("Names,,\nid,name,n\n1,anna,\n", "csv", "name", True, ["anna"], ["header in line 2"]),
        ("# a, b\n#c\nid,name\n1,anna\n", "csv", "name", True, ["anna"], ["header in line 3"]),
        ("# a\nname\nanna\n", "csv", "name", True, ["anna"], ["header in line 2"]),
        ("# a\nname\nanna\n", "csv", None, True, ["anna"],
         ["header in line 2", "row in line 2 read as the header: name"]),
        (ABOVE + "id\tname\n1\tanna\n2\tbo\n", "tsv", "2", True, ["anna", "bo"],
         ["header in line 3", "row in line 3 read as the header: id, name"]),
        ("# by hand\n1,anna\n2,bo\n", "csv", "2", False, ["anna", "bo"], ["first row in line 2"]),
        # numbers
        ("id,name\n1,anna\n", "csv", "2", True, ["anna"], [TAKEN.format("id, name")]),
        ("id,name\n1,anna\n", "csv", "2", False, ["name", "anna"], []),
        ("1,anna\n2,bo\n", "csv", "1", True, ["2"], [TAKEN.format("1, anna")]),
        ("2,1\na,b\n", "csv", "1", True, ["b"], [TAKEN.format("2, 1")]),  # a name before a number
        ("name,name\na,b\n", "csv", "2", True, ["b"], [TAKEN.format("name, name")]),
        ("anna,1\nbo,2\n", "csv", "01", False, ["anna", "bo"], []),
        ("#,name\n1,anna\n", "csv", "2", True, ["anna"], [TAKEN.format("#, name")]),
        ("#id,name\n1,anna\n2,\n3,\n", "csv", "2", True, ["anna"], [TAKEN.format("#id, name")]),
        ("# a, b\nname,n\nanna,1\n", "csv", "name", True, ["anna"], ["header in line 2"]),
        # one column
        ("name\nanna\nbo\n", "csv", None, True, ["anna", "bo"], [TAKEN.format("name")]),
        ("name\nanna\nbo\n", "csv", None, False, ["name", "anna", "bo"], []),
        ("name\na;b\n", "csv", None, True, ["a;b"], [TAKEN.format("name")]),
        ("name\na\nb, c\nd\ne\n", "csv", None, True, ["a", "b", "d", "e"],
         [TAKEN.format("name"), "has 1 row of more than 1 cells, from line 3 on"]),
        # quotes
        ('id\tname\n1\t"a\n2\t5" b\n', "tsv", "name", True, ['"a', '5" b'], []),
        ('id\tname\n1\t"a ""b"\n', "csv", "name", True, ['a "b'], ["tabs"]),
        ('n,name\n1,5" a\n2,"6"" b"\n', "csv", "name", True, ['5" a', '6" b'], []),
        ('n,name\n"a\n\nb",c\n1,"d\ne"\n', "csv", "name", True, ["c", "d\ne"],
         ["has 2 rows of several lines, from line 2 on"]),
        # the separator that makes the column
        ("a|b;name\n1;anna\n", "csv", "name", True, ["anna"], ["semicolons"]),
        ("id|name\n1|anna\n", "csv", "name", True, ["anna"], ["pipes"]),
        # JSON
        ('["anna", "b\\no"]', "json", None, True, ["anna", "b\no"], []),
        ('\n[\n {"text": "anna", "n": [1]},\n "bo"\n]\n', "json", None, True, ["anna", "bo"], []),
        ('[{"n": "anna"}]', "json", "n", True, ["anna"], []),
        ('{"n": "anna"}\n{"n": "bo"}', "json", "n", True, ["anna", "bo"], []),
    ],
)  # fmt: skip
def test_tables_as_people_have_them(
    content: str, format: str, column: str | None, header: bool, docs: list[str],
    notes: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    for encoded in (content.encode(), content.encode("utf-8-sig"), content.encode("utf-16")):
        path = write(tmp_path, "x", gzip.compress(encoded))
        found = corpus.read(path, column=column, format=format, header=header)
        assert found.docs == docs
        assert len(found.note.splitlines()) == len(notes)
        assert all(map(str.__contains__, found.note.splitlines(), notes))
        told: list[str] = []
        streamed = corpus.stream_entries(path, column, format, header, on_note=told.append)
        assert [doc for docs in streamed for doc in docs if doc] == docs
        assert told == [f"{path} {note}" for note in found.note.splitlines()]
    again = corpus.from_text(content, column=column, format=format, header=header)
    assert (again.docs, again.note) == (docs, found.note)
    if format != "json" and column is not None and header and not content.startswith("# "):
        columns = tables.columns_in("x", readers.lines_in(content, "x"), format)
        assert column in columns or column.isdecimal()


@pytest.mark.parametrize(
    ("content", "format", "column", "header", "message"),
    [
        (ABOVE + "id;name\n" + ROW, "csv", None, True, "the columns id, name: choose one"),
        (
            ABOVE + "id;name\n" + ROW,
            "csv",
            "nam",
            True,
            "no column 'nam'\nhint: did you mean 'name'?",
        ),
        (
            "id,name\n1,anna\n2,bo\n",
            "csv",
            "anna",
            True,
            "no column 'anna'\nhint: choose from id, name",
        ),
        (",name\n1,anna\n2,bo\n", "csv", "anna", True, "no column 'anna'"),
        ("brand\nanna\nbo\n", "csv", "anna", True, "no column 'anna'\nhint: choose from brand"),
        ("id,name\n1,anna\n", "csv", "0", True, "no column '0'\nhint: choose from id, name"),
        ("id,name\n1,anna\n", "csv", "3", False, "give a number from 1 to 2"),
        ("id,name\n1,anna\n", "csv", "name", False, "give a number from 1 to 2"),
        ("id,name\n1,anna\n", "csv", None, False, "has the columns 1, 2: choose one"),
        ("id,id\n1,anna\n", "csv", "id", True, "more than one column 'id'\nhint: give its number"),
        ("anna\n", "text", None, False, "read as text, which has no header"),
        ('"a"', "jsonl", None, False, "read as jsonl, which has no header"),
        ('"a""\n' * 300, "csv", None, True, "of a cell, in the row that begins in line 1"),
        (
            'a\n"a"b\n',
            "csv",
            None,
            True,
            "line 2 is not valid CSV: 'b' follows the closing quote of",
        ),
        ('a\nb\n"c', "csv", None, True, "line 3 is not valid CSV: a quote that opens there"),
        ("[", "json", None, True, "x, line 1 is not valid JSON"),
        ('["a"\n "b"]', "json", None, True, "x, line 2 is not valid JSON"),
        ('["a", 5]', "json", None, True, "element 2 is neither a text nor an object such as"),
        (
            '[{"a": "b"}]',
            "json",
            None,
            True,
            "element 1 has no key 'text'\nhint: choose one with --column: a",
        ),
        ('["\\ud800"]', "json", None, True, "element 1 has a lone surrogate"),
        ("[" * 100_000, "json", None, True, "is not valid JSON"),
        ('{"a": 1}', "json", "a", True, "line 1: the value of 'a' is not text"),
    ],
)
def test_what_is_no_such_table(
    content: str, format: str, column: str | None, header: bool, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "x", content.encode())
    with pytest.raises(KamonError) as caught:
        corpus.read("x", column=column, format=format, header=header)
    assert message in str(caught.value)


def test_a_json_array_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_JSON", 18)
    assert corpus.read(write(tmp_path, "x.json", b'[\n"anna",\n"bo"\n]')).docs == ["anna", "bo"]
    with pytest.raises(
        CorpusError, match="more than 18 characters\nhint: write one element per line"
    ):
        corpus.read(write(tmp_path, "x.json", b'[\n"anna",\n"bobby"\n]'))


def test_lists_that_look_like_something_else() -> None:
    assert "--format json" in corpus.from_text('[\n"anna",\n"bo"\n]').note
    assert "--format json" in corpus.from_text('["anna", "bo"]').note
    assert "--format csv" in corpus.from_text("1|anna\n2|bo\n3|cid\n").note
    assert "comments after #" in corpus.from_text("# mine\nanna\nbo  # twice\n").note
    assert corpus.from_text("#love\n#peace\nC#c\n[a]\n").note == ""


def csv_of(docs: list[str]) -> str:
    return "name,id\n" + "".join(f'"{doc}",1\n' for doc in docs)


def test_readers_of_large_cells_do_not_meet() -> None:
    """And nothing is changed for others who use csv."""
    before = csv.field_size_limit(5)
    try:
        docs = [letter * 200_000 for letter in "abc"]
        readers = [
            tables.entries_in("x", iter(csv_of(docs).splitlines()), "csv", "name") for _ in range(2)
        ]
        assert [next(readers[0]), next(readers[1])] == [docs[0]] * 2
        assert list(readers[0]) == docs[1:]
        assert list(readers[1]) == docs[1:]
        with ThreadPoolExecutor(4) as pool:
            texts = [csv_of(docs)] * 8
            read = partial(corpus.from_text, format="csv", column="name")
            found = pool.map(read, texts)
            assert all(each.docs == docs for each in found)
        assert csv.field_size_limit() == 5
    finally:
        csv.field_size_limit(before)


CELL = st.text(st.sampled_from('ab",;\n é'), max_size=6)


@given(st.lists(st.lists(CELL, min_size=1, max_size=4), max_size=6), st.sampled_from(",;"))
def test_rows_are_those_of_csv(table: list[list[str]], separator: str) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=separator, lineterminator="\n").writerows(table)
    lines = text.getvalue().split("\n")[:-1]
    expected = list(csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True))
    found = list(tables.rows("x", lines, separator, quotes=True))
    assert [row for *_, row in found] == expected
    assert [begin for begin, *_ in found] == [1, *(end + 1 for _, end, _ in found)][: len(found)]


@given(st.lists(st.text(st.sampled_from('ab",'), max_size=8), max_size=4))
def test_any_quotes_are_read_as_csv_reads_them(lines: list[str]) -> None:
    expected: list[list[str]] | None
    try:
        expected = list(csv.reader((f"{line}\n" for line in lines), strict=True))
    except csv.Error:
        expected = None
    try:
        found = [row for *_, row in tables.rows("x", lines, ",", quotes=True)]
    except CorpusError:
        assert expected is None
    else:
        assert found == expected


# ---- compressed files

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.compress,
}


@pytest.mark.parametrize("block", [1, 3, 1 << 18])
@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_known_by_their_bytes(
    ending: str, block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK", block)
    compress = COMPRESS[ending]
    members = compress("anna\nbö".encode()) + compress(b"b\n") + compress(b"")
    for name in ("x", "x.txt", f"x.txt{ending}"):
        assert corpus.read(write(tmp_path, name, members)).docs == ["anna", "böb"]
    table = compress("name,n\nböb,1\n".encode("utf-16"))
    assert corpus.read(write(tmp_path, f"x.CSV{ending}", table), column="name").docs == ["böb"]
    assert corpus.read(write(tmp_path, f"y.txt{ending}", b"anna\n")).docs == ["anna"]
    for content, message in (
        (members[:-1], "is damaged: its end is missing"),
        (members[:20], "is damaged: its end is missing"),
        (members + b"anna", "is damaged: "),
        (compress(b"a\nb\0\n"), "line 2 has a NUL byte at byte 2"),
        (compress(b"a\nb\xe9\n"), "line 2 is not UTF-8: byte 2 of it is 0xe9"),
        (compress(b""), "is empty"),
    ):
        with pytest.raises(CorpusError, match=message):
            corpus.read(write(tmp_path, "x", content))


def test_compressed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    content = gzip.compress(b"anna\nbo\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert corpus.read("-").docs == ["anna", "bo"]


def test_what_unpacks_to_far_more_is_bounded(tmp_path: Path) -> None:
    path = write(tmp_path, "x.gz", gzip.compress(b"a" * (1 << 26)))
    with pytest.raises(CorpusError, match="line 1 has more than 16,777,216 characters"):
        corpus.read(path)
    tracemalloc.start()
    try:
        blocks = readers.decompressed(iter([path.read_bytes()]), "x")
        assert sum(map(len, blocks)) == 1 << 26
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_a_name_that_begins_like_a_compressed_file(tmp_path: Path) -> None:
    assert corpus.read(write(tmp_path, "x", b"BZh9\nBZh91AY\n")).docs == ["BZh9", "BZh91AY"]


def test_documents_of_a_program() -> None:
    assert corpus.from_docs(iter([" anna", "", "bob"])).docs == ["anna", "bob"]
    assert corpus.from_docs({"bob", "anna", "cid"}).docs == ["anna", "bob", "cid"]
    with pytest.raises(CorpusError, match="document 2 is not a string but 5"):
        corpus.from_docs(["anna", 5])  # type: ignore[list-item]
    with pytest.raises(CorpusError, match="document 1 has a lone surrogate"):
        corpus.from_docs(["\udfff"])
    with pytest.raises(CorpusError, match="is empty"):
        corpus.from_docs([])


# ---- built-in lists


def test_names() -> None:
    packed = resources.files("kamon").joinpath("data/names.csv.xz").read_bytes()
    assert hashlib.sha256(packed).hexdigest() == (
        "ae0a8df552382593e518edc875ca001a588c4df8994cc084c9492ac5386d2415"
    ), "the file differs from what dev/make_names.py wrote"
    table = builtin.names_table()
    assert len(table) == 32_257
    assert table[0] == ("emma", "F", 18_818)
    assert {sex for _, sex, _ in table} == {"F", "M"}
    assert min(births for _, _, births in table) == 5
    found = corpus.read("names")
    assert len(found.docs) == len(found.different) == 29_693
    assert set("".join(found.docs)) == set("abcdefghijklmnopqrstuvwxyz")
    with pytest.raises(ConfigError, match="no columns"):
        corpus.read("names", column="sex")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where names-original is cached, in a home of its own; its source is a file of two names."""
    import platformdirs

    source = write(tmp_path, "source.txt", b"emma\nolivia\n")
    monkeypatch.setattr(platformdirs, "user_cache_path", lambda app: tmp_path / "home" / app)
    monkeypatch.setattr(builtin, "ORIGINAL_URL", source.as_uri())
    monkeypatch.setattr(builtin, "ORIGINAL_SHA256", hashlib.sha256(b"emma\nolivia\n").hexdigest())
    return tmp_path / "home" / "kamon" / "names-original.txt"


def test_names_original_is_fetched_once(cache: Path, tmp_path: Path) -> None:
    assert corpus.read("names-original").docs == ["emma", "olivia"]
    assert cache.read_bytes() == b"emma\nolivia\n"
    (tmp_path / "source.txt").unlink()
    assert corpus.read("names-original").docs == ["emma", "olivia"]
    assert [path.name for path in cache.parent.iterdir()] == ["names-original.txt"]


@pytest.mark.parametrize(
    "content", [b"", b"emma\n", b"<html>sign in</html>", b"emma\nolivia\n" * 99_999]
)
def test_another_file_is_never_kept(content: bytes, cache: Path, tmp_path: Path) -> None:
    write(tmp_path, "source.txt", content)
    with pytest.raises(CorpusError, match="SHA-256 differs"):
        corpus.read("names-original")
    assert not cache.exists()


def test_a_damaged_cache_is_fetched_again(cache: Path) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"emma\noliv")
    assert corpus.read("names-original").docs == ["emma", "olivia"]
    assert cache.read_bytes() == b"emma\nolivia\n"


def test_offline_says_where_to_put_the_file(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "source.txt").unlink()
    with pytest.raises(CorpusError) as caught:
        corpus.read("names-original")
    assert f"save it as {cache}, or give your copy as the input" in str(caught.value)
    assert "\n" not in caught.value.message


@pytest.mark.usefixtures("cache")
def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    write(tmp_path, "home", b"a file where a folder should be")
    with pytest.raises(CorpusError, match="cannot save names-original"):
        corpus.read("names-original")
