"""The benchmark of lists: its splits, its table, and the lists that its cards describe."""

from __future__ import annotations

import doctest
import importlib.util
import json
import re
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
KINDS = {
    "first names",
    "places",
    "brands or products",
    "words",
    "fictional characters",
    "technical strings",
}
LICENCES = re.compile(
    r"MIT|ISC|CC0-1\.0|Apache-2\.0|Unicode-3\.0|WTFPL|MIT \(package\), CC BY 4\.0 \(data\)"
)
WORDS = [a + b + c for a in "bdgkmnrt" for b in "aeio" for c in ("lan", "ner", "s", "mo", "ri")]


def script(name: str) -> Any:
    """Return bench/NAME.py as a module."""
    spec = importlib.util.spec_from_file_location(f"bench_{name}", ROOT / "bench" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


build_lists = script("build_lists")
bench = script("lists")
CARDS: dict[str, dict[str, Any]] = build_lists.cards()


@pytest.mark.parametrize("module", [build_lists, bench])
def test_examples_in_docstrings(module: Any) -> None:
    failed, tried = doctest.testmod(module)
    assert (failed, tried > 0) == (0, True)


def test_each_split_tests_another_tenth() -> None:
    tests = []
    for number in range(10):
        training, test = bench.split([*WORDS, *WORDS[:30]], number)
        assert sorted(training + test) == sorted(WORDS)
        assert len(test) == len(WORDS) // 10
        tests += test
    assert sorted(tests) == sorted(WORDS)


def test_split_depends_only_on_the_entries() -> None:
    assert set(bench.split(WORDS, 3)[1]) == set(bench.split(WORDS[::-1], 3)[1])


def test_test_part_is_every_tenth_in_the_order_of_keys() -> None:
    ordered = sorted(WORDS, key=bench.key)
    assert set(bench.split(WORDS, 2)[1]) == set(ordered[2::10])


def test_spellings_of_an_entry_are_in_the_same_part() -> None:
    spellings = ["São Paulo", "SAO PAULO", "são  paulo"]
    assert len(set(map(bench.key, spellings))) == 1
    for number in range(10):
        training, test = bench.split([*WORDS, *spellings], number)
        assert len({*spellings} & {*test}) in (0, 3)
        assert {*spellings} <= {*training} | {*test}


def test_what_no_system_can_read_is_left_out() -> None:
    assert bench.testable(["anna", "nora"], ["nan", "xena", "annas", "annan", "ron"]) == [
        "nan",
        "ron",
    ]


def test_number_of_tokens_includes_ends() -> None:
    assert bench.num_tokens(["anna", "bo"]) == 8


def test_kamon_is_measured_with_its_parts() -> None:
    training, test = bench.split(WORDS, 0)
    row = bench.by_kamon(training, test, 1, {"num_steps": 30, "hold_out": False})
    assert set(row["parts"]) == {"gpt", "ngram"}
    assert 0 < row["nats"] <= max(row["parts"].values()) < 4  # log is concave
    assert 0 <= row["novel"] <= 1
    assert row["memory"] > 1e6
    assert row["steps"] == 30


def test_order_of_the_ngram_is_chosen_without_the_test_part() -> None:
    training, test = bench.split(WORDS, 0)
    found = bench.by_ngram(training, test)
    assert found["order"] == bench.by_ngram(training, test[:3])["order"]
    import kamon

    logprobs = kamon.ngram(training, order=found["order"]).logprobs(test)
    assert found["nats"] == pytest.approx(-sum(logprobs) / bench.num_tokens(test))


def rows(name: str, *pairs: tuple[float, float]) -> list[dict[str, Any]]:
    """Return the rows of a list whose (Kamon, n-gram) losses, split by split, are these."""
    return [
        {"list": name, "sha256": "", "split": number, "system": system, "settings": {}}
        | {"nats": nats, "test": 9, "left_out": 1, "order": 5}
        for number, pair in enumerate(pairs)
        for system, nats in zip(("kamon", "ngram"), pair, strict=True)
    ]


def card(**fields: Any) -> dict[str, Any]:
    return {"role": "report", "kind": "words", "script": "Latin", "entries": 100} | fields


def test_table_has_means_spreads_and_groups() -> None:
    cards = {
        "a": card(),
        "b": card(script="Thai", entries=3_000),
        "c": card(role="tune"),
        "unmeasured": card(),
    }
    measured = rows("a", (2.0, 2.5), (2.2, 2.5)) + rows("b", (3.0, 2.9)) + rows("c", (1.0, 1.5))
    table = bench.markdown(cards, measured)
    assert "| a | words | Latin | 100 | 2.100 ± 0.141 | 2.500 ± 0.000 | 5.0 | 10% |" in table
    assert "| b | words | Thai | 3,000 | 3.000 | 2.900 |" in table
    assert "| all | 2 | 1 | +0.150 | -0.100 |" in table
    assert "| entries: 1 to 199 | 1 | 1 | +0.400 | +0.400 |" in table
    assert "| entries: 1,000 to 4,999 | 1 | 0 | -0.100 | -0.100 |" in table
    assert "| script: others | 1 | 0 | -0.100 | -0.100 |" in table
    assert table.index("“report”") < table.index("| a |") < table.index("| c |")
    assert "unmeasured" not in table
    assert "makemore" not in table


def test_gain_compares_the_same_splits() -> None:
    measured = rows("a", (2.0, 2.5), (1.0, 9.0))
    measured.remove(next(row for row in measured if row["split"] and row["system"] == "kamon"))
    assert bench.Results(measured).gain("a") == pytest.approx(0.5)


def test_interrupted_run_continues(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    first, second = rows("a", (2.0, 2.5))
    assert bench.stored_rows(path) == []
    bench.append(path, first)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(second)[:20])
    assert bench.stored_rows(path) == [first]
    bench.append(path, second)
    assert bench.stored_rows(path) == [first, second]


def test_tasks_of_other_settings_are_others() -> None:
    def keys(*options: str) -> set[str]:
        args = bench.make_parser().parse_args(["--lists", "dog-names", "--splits", "2", *options])
        return {task.key for task in bench.tasks_of(args, CARDS)}

    assert len(keys()) == 4
    assert len(keys() & keys("--set", "dropout=0.3")) == 2  # the n-gram's
    assert len(keys() & keys("--budget", "1s")) == 2
    assert keys("--role", "tune") == set()
    row = rows("a", (2.0, 2.5))[0]
    assert bench.key_of(row) == bench.Task("a", "", 0, "kamon", {}).key


def test_cards_cover_kinds_scripts_and_sizes() -> None:
    assert len(CARDS) >= 25
    assert len({card["script"] for card in CARDS.values()}) >= 10
    for role in ("tune", "report"):
        chosen = [card for card in CARDS.values() if card["role"] == role]
        assert {card["kind"] for card in chosen} == KINDS
        assert len({card["script"] for card in chosen}) >= 5
        assert min(card["entries"] for card in chosen) < 200
        assert max(card["entries"] for card in chosen) >= 20_000


@pytest.mark.parametrize("name", CARDS)
def test_card_says_what_a_list_is_and_who_allows_its_use(name: str) -> None:
    card = CARDS[name]
    assert re.fullmatch(r"[a-z0-9-]+", name)
    assert 50 <= card["entries"] <= 50_000
    assert LICENCES.fullmatch(card["licence"])
    assert card["attribution"]
    assert card["licence_file"]
    assert card["registry"] in ("PyPI", "npm")
    assert re.fullmatch(r"[0-9][0-9.]*", card["version"])


@pytest.mark.parametrize("name", CARDS)
def test_list_is_that_of_its_card(name: str) -> None:
    path = build_lists.LISTS / f"{name}.txt"
    if not path.exists():
        pytest.skip("no build/lists: `python bench/build_lists.py` builds it")
    data = path.read_bytes()
    entries = data.decode().splitlines()
    assert build_lists.tidy(entries) == entries
    assert data.decode() == "".join(f"{entry}\n" for entry in entries)
    assert len(entries) == CARDS[name]["entries"]
    assert sha256(data).hexdigest() == CARDS[name]["sha256"]


def test_lists_to_choose_settings_on_share_little_with_the_others() -> None:
    entries = {"tune": set[str](), "report": set[str]()}
    for name, found in CARDS.items():
        path = build_lists.LISTS / f"{name}.txt"
        if not path.exists():
            pytest.skip("no build/lists: `python bench/build_lists.py` builds it")
        entries[found["role"]] |= set(path.read_text(encoding="utf-8").splitlines())
    shared = entries["tune"] & entries["report"]
    assert len(shared) < min(map(len, entries.values())) / 100


def test_strings_are_read_from_python_without_running_it() -> None:
    source = """
raise SystemExit
class Provider(Base):
    first_names_male: tuple = ("Ann", "Bo")
    first_names = OrderedDict((("Cy", 0.5), ("Di", 0.5)))
    last_names = ("Eve",)
    names = first_names
"""
    names = ["first_names", "first_names_male"]
    assert sorted(build_lists.strings_assigned(source, names)) == ["Ann", "Bo", "Cy", "Di"]


def test_cities_are_those_of_a_country_and_an_alphabet() -> None:
    found = {
        "1": {
            "name": "Athens",
            "countrycode": "GR",
            "alternatenames": ["Atenas", "Αθήνα", "Ἀθῆναι"],
        },
        "2": {"name": "Volos", "countrycode": "GR", "alternatenames": ["Volo"]},
        "3": {"name": "Rome", "countrycode": "IT", "alternatenames": ["Ρώμη"]},
    }
    assert list(build_lists.cities(found, "GR", None)) == ["Athens", "Volos"]
    assert list(build_lists.cities(found, "GR", "GREEK")) == ["Αθήνα"]


def test_table_replaces_the_rest_of_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    assert bench.above(page) == ""
    page.write_text(f"# Lists\n\n{bench.TABLE_BELOW}\n\nold table\n", encoding="utf-8")
    assert bench.above(page) == f"# Lists\n\n{bench.TABLE_BELOW}\n\n"
