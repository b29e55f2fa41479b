from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kamon.data import columns
from kamon.data.builtin import names_table
from kamon.data.columns import Columns, Row, Table, divided, read_table, rows_in, values_of
from kamon.errors import ConfigError, CorpusError

PEOPLE = [
    ("aino", "fi", "f", 3),
    ("eero", "fi", "m", 2),
    ("yuki", "jp", "f", 5),
    ("yuki", "jp", "m", 1),
]
RECORDS = [dict(zip(("name", "country", "sex", "births"), row, strict=True)) for row in PEOPLE]
GIVEN = Columns("name", ("country", "sex"), "births")
CSV = "name,country,sex,births\n" + "".join(f"{','.join(map(str, row))}\n" for row in PEOPLE)


class Frame:
    """As much of a DataFrame as Kamon needs. polars has `to_dicts`, pandas has `to_dict`."""

    columns = ("name", "country", "sex", "births")

    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        assert orient == "records"
        return RECORDS


class Polars:
    columns = Frame.columns

    def to_dicts(self) -> list[dict[str, Any]]:
        return RECORDS


def as_file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def sources(folder: Path) -> list[Any]:
    return [
        RECORDS,
        Frame(),
        Polars(),
        as_file(folder, "a.csv", CSV),
        as_file(folder, "a.tsv", CSV.replace(",", "\t")),
        as_file(folder, "a.jsonl", "".join(json.dumps(r) + "\n" for r in RECORDS)),
        as_file(folder, "a.json", json.dumps(RECORDS)),
        as_file(folder, "b.csv", CSV.replace(",", ";")),
    ]


def test_all_sources_give_the_same_rows(tmp_path: Path) -> None:
    wanted = tuple(Row(name, (c, s), float(n)) for name, c, s, n in PEOPLE)
    for source in sources(tmp_path):
        table = read_table(source, GIVEN)
        assert table.rows == wanted
        assert table.values == {"country": ["fi", "jp"], "sex": ["f", "m"]}
        assert list(table.corpus.different) == ["aino", "eero", "yuki"]


def test_the_built_in_table() -> None:
    table = read_table("names", Columns(None, ("sex",), "births"))
    assert table.values == {"sex": ["f", "m"]}
    assert len(table.rows) == len(names_table())
    assert table.rows[0] == Row(*(names_table()[0][0], ("f",), float(names_table()[0][2])))
    with pytest.raises(ConfigError, match="the built-in list names has no format"):
        read_table("names", Columns(None, ("sex",), "births"), format="csv")


def test_the_same_entry_in_several_classes_is_no_duplicate_and_weights_add_up() -> None:
    doubled = read_table([*RECORDS, RECORDS[0] | {"births": 4}], GIVEN)
    assert doubled.rows[0] == Row("aino", ("fi", "f"), 7.0)
    assert len(doubled.rows) == 4
    unweighted = read_table([*RECORDS, RECORDS[0]], Columns("name", ("country", "sex")))
    assert [row.weight for row in unweighted.rows] == [1.0] * 4


def test_the_entries_may_be_the_only_other_column() -> None:
    assert read_table(RECORDS, Columns(None, ("country", "sex"), "births")).rows[0].text == "aino"
    with pytest.raises(ConfigError, match="has the columns name, country, sex, births: choose one"):
        read_table(RECORDS, Columns(None, ("country",)))


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_characters="\x1f\0", exclude_categories=["Cs"])).filter(
                str.strip
            ),
            st.sampled_from("ab"),
            st.sampled_from("xyz"),
            st.floats(1e-9, 1e9),
        ),
        min_size=1,
    )
)
def test_stored_rows_are_read_again(found: list[tuple[str, str, str, float]]) -> None:
    records = [dict(zip("nabw", row, strict=True)) for row in found]
    records += [{"n": "q", "a": a, "b": b, "w": 1} for a, b in ("ax", "by")]
    table = read_table(records, Columns("n", ("a", "b"), "w"))
    assert rows_in(table.documents(), 2) == table.rows


@pytest.mark.parametrize("text", ["a", "a\x1fb\x1fx", "a\x1fb\x1f0\x1fanna", "a\x1fb\x1f1\x1f"])
def test_damaged_rows_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"stored row|convert"):
        rows_in([text], 2)


class NotAvailable:
    """What pandas.NA does: a comparison with it has no truth value."""

    def __ne__(self, other: object) -> Any:
        return self

    def __bool__(self) -> bool:
        raise TypeError("boolean value of NA is ambiguous")


def changed(**values: Any) -> list[dict[str, Any]]:
    return [RECORDS[0] | values, *RECORDS[1:]]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (changed(country=""), "row 1 has no country"),
        (changed(country=None), "row 1 has no country"),
        (changed(country=NotAvailable()), "row 1 has no country"),
        (changed(births=NotAvailable()), "row 1: the weight '' in births is not a number above 0"),
        (changed(births=Decimal("-0.5")), "row 1: the weight '-0.5' in births is not a number"),
        (changed(births=0), "row 1: the weight '0' in births is not a number above 0"),
        (changed(births="many"), "row 1: the weight 'many' in births is not a number above 0"),
        (changed(births=float("nan")), "row 1: the weight '' in births is not a number above 0"),
        (changed(country="x" * 60), "row 1: the country .* cannot be a given value"),
        (changed(country="a\nb"), "row 1: the country .* cannot be a given value"),
        (changed(name="a\x1fb"), r"row 1: the entry has the control character U\+001F"),
        (changed(name=[1]), r"row 1: the entry is not text but \[1\]"),
        ([{"name": "anna"}], "row 1 has no key 'country'"),
        (["anna"], "row 1 is not a mapping but 'anna'"),
        (7, "given columns need a table, not int"),
        ([RECORDS[0]], "has only one country, 'fi'"),
    ],
)
def test_invalid_tables_are_refused(source: Any, message: str) -> None:
    with pytest.raises((ConfigError, CorpusError), match=message):
        read_table(source, GIVEN)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Columns("a", ("b", "b")), "the columns a, b, b are not all different"),
        (lambda: Columns("a", ("a",)), "the columns a, a are not all different"),
        (lambda: Columns("a", (), "w"), "a weight needs given columns"),
        (lambda: Columns("a", ("b=c",)), "a given column cannot be called 'b=c'"),
        (lambda: Columns("a", ("b" * 41,)), "a given column cannot be called"),
    ],
)
def test_invalid_columns_are_refused(make: Callable[[], Columns], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_limits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(columns, "MAX_VALUES", 3)
    with pytest.raises(ConfigError, match="has 4 given values, 2 of them in country"):
        read_table(RECORDS, GIVEN)
    monkeypatch.setattr(columns, "MAX_VALUES", 4)
    monkeypatch.setattr(columns, "MAX_CLASSES", 3)
    with pytest.raises(ConfigError, match="has 4 combinations of given values"):
        read_table(RECORDS, GIVEN)
    monkeypatch.setattr(columns, "MAX_ROWS", 3)
    with pytest.raises(CorpusError, match="has more than 3 rows"):
        read_table(RECORDS, GIVEN)
    with pytest.raises(ConfigError, match="is read as text, which has no columns"):
        read_table(as_file(tmp_path, "a.txt", CSV), GIVEN)
    with pytest.raises(ConfigError, match="has no column 'nation'"):
        read_table(as_file(tmp_path, "a.csv", CSV), Columns("name", ("nation",)))


def test_rows_follow_their_entries() -> None:
    table = read_table(RECORDS, GIVEN)
    assert isinstance(table, Table)
    learned, tested = divided(table.rows, ["yuki"])
    assert [row.text for row in learned] == ["aino", "eero"]
    assert [row.values for row in tested] == [("jp", "f"), ("jp", "m")]
    assert values_of(("country", "sex"), learned) == {"country": ["fi"], "sex": ["f", "m"]}
