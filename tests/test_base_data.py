"""The base's data holds nothing that a list may hold out, and the functions see to it."""

from __future__ import annotations

import hashlib
import importlib.util
import lzma
import unicodedata
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "dev/base"
LISTS = ROOT / "build/lists"
RULES = FOLDER / "build_data.py"

pytestmark = pytest.mark.skipif(not RULES.exists(), reason="not a checkout: there is no dev/base")


def load_rules() -> ModuleType:
    spec = importlib.util.spec_from_file_location("base_build_data", RULES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    return load_rules()


@pytest.fixture(scope="module")
def data(rules: ModuleType) -> list[tuple[str, str, str, str]]:
    entries: list[tuple[str, str, str, str]] = rules.read(FOLDER / "data.txt.xz")
    return entries


def made_up(rules: ModuleType, reserved: bool) -> Iterator[str]:
    """Return made-up words that are reserved, or words that are not."""
    for number in range(1000):
        word = f"Zé{chr(97 + number % 26)}ka{chr(97 + number // 26)}"
        if rules.is_reserved(word) == reserved:
            yield word


@pytest.mark.parametrize(
    "same",
    [
        "Élodie",
        "ÉLODIE",
        "elodie",
        "E\u0301lodie",
        " Elodie ",
        "ELODI\u0308E",
        "Ｅlodie",
        "Elo die",
    ],
)
def test_fold_is_the_same_with_any_case_accents_and_spaces(rules: ModuleType, same: str) -> None:
    assert rules.fold(same) == "elodie"
    assert rules.key(same) == rules.key("Elodie")


@pytest.mark.parametrize("other", ["Elodia", "Elodie 2", "Элоди"])
def test_fold_keeps_different_texts_apart(rules: ModuleType, other: str) -> None:
    assert rules.fold(other) != "elodie"


def test_fold_key_is_the_first_eight_bytes_of_the_digest(rules: ModuleType) -> None:
    digest = hashlib.sha256(b"strasse").digest()
    assert rules.key("STRAẞE") == int.from_bytes(digest[:8], "big")


def test_an_eighth_of_all_texts_is_reserved(rules: ModuleType) -> None:
    share = sum(rules.is_reserved(f"entry {i}") for i in range(8000)) / 8000
    assert share == pytest.approx(1 / 8, abs=0.012)


def selected(rules: ModuleType, texts: list[str], banned: set[str]) -> list[str]:
    source = {"made up": lambda: iter([("word", "en", text) for text in texts])}
    return [entry.text for entry in rules.select(source, banned)]


def test_select_drops_what_is_reserved(rules: ModuleType) -> None:
    reserved = [*made_up(rules, reserved=True)][:20]
    forms = [*reserved, *map(str.lower, reserved), *map(rules.fold, reserved)]
    forms += [unicodedata.normalize("NFD", word) for word in reserved]
    free = [*made_up(rules, reserved=False)][:20]
    assert sorted(selected(rules, forms + free, set())) == sorted(free)


def test_select_drops_benchmark_entries_in_any_form(rules: ModuleType, tmp_path: Path) -> None:
    first, second, third, fourth = [*made_up(rules, reserved=False)][:4]
    (tmp_path / "towns.txt").write_text(f"{first.upper()}\n{rules.fold(second)}\n", "utf-8")
    (tmp_path / "names.txt").write_text(f"{third}\n", "utf-8")  # is reported on its own split
    banned = rules.benchmark_folds(tmp_path)
    decomposed = unicodedata.normalize("NFD", second)
    texts = [first, first.title(), decomposed, third, fourth]
    assert sorted(selected(rules, texts, banned)) == sorted([third, fourth])


def test_no_lists_is_an_error(rules: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("anna\n", "utf-8")
    with pytest.raises(SystemExit, match=r"build_lists\.py"):
        rules.benchmark_folds(tmp_path)


def test_select_takes_a_text_once_and_at_most_the_limit(
    rules: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*made_up(rules, reserved=False)][:50]
    assert len(selected(rules, [*words, *map(str.lower, words)], set())) == 50
    monkeypatch.setitem(rules.LIMITS, "made up", {"word": 30})
    assert len(selected(rules, words, set())) == 30


@pytest.mark.parametrize(
    ("kind", "text", "cleaned"),
    [
        ("place", "  Saint   Malo. ", "Saint Malo"),
        ("place", "Zu\u0308rich", "Zürich"),
        ("word", "ĳsberg", "ijsberg"),
        ("word", "x", None),
        ("word", "abcdefghijklmnopqrstuvwxy", None),
        ("word", "{{name}} x", None),
        ("word", "USA", None),
        ("brand", "IKEA", "IKEA"),
        ("brand", "Studio 54", "Studio 54"),
        ("word", "Studio 54", None),
        ("word", "Аdam", None),  # the first letter is Cyrillic
        ("place", "東京", None),
        ("place", "トンネル", "トンネル"),
    ],
)
def test_clean(rules: ModuleType, kind: str, text: str, cleaned: str | None) -> None:
    assert rules.clean(kind, text) == cleaned


def test_rare_characters_go_with_their_entries(
    rules: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MIN_ENTRIES", 2)
    texts = ["ana", "anę", "nan", "ene", "7e"]
    entries = [rules.Entry("made up", "word", "en", text) for text in texts]
    kept = [entry.text for entry in rules.without_rare_characters(entries)]
    assert kept == ["ana", "nan", "ene", "7e"]


def test_written_entries_are_read_back(rules: ModuleType, tmp_path: Path) -> None:
    entries = [
        rules.Entry("b", "word", "en", "two"),
        rules.Entry("a", "place", "", "Élan vital"),
        rules.Entry("b", "word", "en", "one"),
    ]
    path = tmp_path / "data.txt.xz"
    digest = rules.write(entries, path)
    assert rules.read(path) == sorted(entries)
    assert digest == hashlib.sha256(lzma.decompress(path.read_bytes())).hexdigest()


def test_the_data_is_what_the_card_describes(data: list[tuple[str, str, str, str]]) -> None:
    card = (FOLDER / "CARD.md").read_text("utf-8")
    packed = (FOLDER / "data.txt.xz").read_bytes()
    assert hashlib.sha256(lzma.decompress(packed)).hexdigest() in card
    assert len(packed) < 1_250_000
    characters = {c for entry in data for c in entry[3]}
    assert len(characters) < 1000
    assert f"{len(data):,} entries, {len(characters)} different characters" in card
    for source, count in Counter(entry[0] for entry in data).items():
        assert f"| {source} | {count:,} |" in card


def test_the_texts_are_unique_short_and_in_nfc(data: list[tuple[str, str, str, str]]) -> None:
    texts = [entry[3] for entry in data]
    assert len({text.casefold() for text in texts}) == len(texts)
    assert all(2 <= len(text) <= 24 for text in texts)
    assert all(unicodedata.is_normalized("NFC", text) for text in texts)


@pytest.mark.slow
def test_no_text_is_reserved(rules: ModuleType, data: list[tuple[str, str, str, str]]) -> None:
    assert [entry for entry in data if rules.is_reserved(entry[3])] == []


@pytest.mark.slow
def test_no_text_is_in_a_benchmark_list(
    rules: ModuleType, data: list[tuple[str, str, str, str]]
) -> None:
    if not any(path.stem != "names" for path in LISTS.glob("*.txt")):
        pytest.skip("python bench/build_lists.py has not made build/lists")
    banned = rules.benchmark_folds(LISTS)
    assert [entry for entry in data if rules.fold(entry[3]) in banned] == []
