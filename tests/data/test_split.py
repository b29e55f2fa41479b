from __future__ import annotations

import random
from dataclasses import replace
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kamon
from helpers import original
from kamon.data import split as module
from kamon.data.documents import Documents
from kamon.data.split import (
    MIN_DOCS,
    NUM_BUCKETS,
    RULE_BY_BUCKET,
    Key,
    bucket,
    divide,
    key,
    keys_of_part,
    split,
)
from kamon.storage import model_dir
from kamon.storage.records import TrainingRecord
from kamon.training import data

CHARS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
DOCS = st.lists(st.text(CHARS, min_size=1), unique_by=lambda doc: normalize("NFC", doc))
MARKED = ["".join(found) for found in product("eoé", "éô", "aeç", ["", "ô"], "néè", "bc")]
assert normalize("NFC", MARKED[0]) == MARKED[0]


@given(DOCS, st.randoms(use_true_random=False))
def test_a_tenth_whatever_the_order_and_the_repetitions(
    docs: list[str], rng: random.Random
) -> None:
    docs = [*docs, *map(str, range(rng.randrange(2 * MIN_DOCS)))]
    docs = list({normalize("NFC", doc): doc for doc in docs}.values())
    train, held = split(docs)
    assert not set(train) & set(held)
    assert len(train) + len(held) == len(docs)
    assert len(held) == (len(docs) // NUM_BUCKETS if len(docs) >= MIN_DOCS else 0)
    if held:
        assert max(map(key, held)) < min(map(key, train))
    again = docs + rng.choices(docs or ["x"], k=5 * bool(docs))
    rng.shuffle(again)
    assert [set(found) for found in split(again)] == [set(train), set(held)]
    parts = [set(split(docs, number)[1]) for number in range(NUM_BUCKETS)]
    if held:
        assert sum(map(len, parts)) == len(set().union(*parts)) == len(docs)
        assert {len(found) for found in parts} <= {len(held), len(held) + 1}


@given(st.integers(1, len(MARKED)), st.randoms(use_true_random=False))
def test_spellings_of_one_text_stay_on_one_side(num: int, rng: random.Random) -> None:
    docs = rng.sample(MARKED, num)
    forms = [normalize(form, doc) for doc in docs for form in ("NFC", "NFD")]
    rng.shuffle(forms)
    train, held = ({normalize("NFC", doc) for doc in found} for found in split(forms))
    assert not train & held
    assert train | held == {normalize("NFC", doc) for doc in docs}
    assert len(held) == (len(docs) // NUM_BUCKETS if len(docs) >= MIN_DOCS else 0)
    alone = split(docs)
    assert [train, held] == [{normalize("NFC", doc) for doc in found} for found in alone]


def test_a_list_that_is_short_holds_out_none_and_one_of_a_hundred_ten() -> None:
    for seed in range(20):
        docs = [f"{seed} {number}" for number in range(MIN_DOCS)]
        assert [len(divide(docs[: MIN_DOCS - 1])[n]) for n in (0, 1)] == [MIN_DOCS - 1, 0]
        assert [len(divide(docs)[n]) for n in (0, 1)] == [90, 10]


def test_growth_moves_few_documents() -> None:
    docs = [str(number) for number in range(5_000)]
    held, more = set(split(docs[:4_000])[1]), set(split(docs)[1])
    assert len(held & more) > 0.9 * len(held)


@pytest.mark.parametrize("num", [1_000, 1_001, 3_000])
def test_of_very_many_a_tenth_of_all_keys(num: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes no more memory for a longer list, and depends on each document only."""
    monkeypatch.setattr(module, "MAX_RANKED", 1_000)
    docs = [str(number) for number in range(num)]
    train, held = split([*docs, *docs])
    assert len(train) + len(held) == num
    if num == 1_000:
        assert len(held) == 100
    else:
        assert [doc for doc in docs if key(doc) < 2**64 // 10] == list(held)
        parts = [split(docs, number)[1] for number in range(NUM_BUCKETS)]
        assert sum(map(len, parts)) == num


def test_the_rule_is_that_of_sha256() -> None:
    """As `printf anna | sha256sum` has it: 55…, 3d…, 24…, 7e…"""
    docs = ("anna", "bo", "José", "名前")
    assert [bucket(doc.encode()) for doc in docs] == [0x55 % 10, 0x3D % 10, 0x24 % 10, 0x7E % 10]
    for doc in docs:
        assert f"{key(doc):016x}" == sha256(doc.encode()).hexdigest()[:16]
    assert key("Jose\u0301") == key("José") != key("Jose")


def test_the_key_of_a_text_in_parts() -> None:
    lines = ["cafe\u0301 名前 e\u0300\n", "anna\n", "\ufb01ne\n"]
    found = Key()
    for line in lines:
        found.update(line)
    assert found.value == key("".join(lines))


def test_an_empty_list() -> None:
    assert split([]) == (Documents.of([]), Documents.of([]))
    assert not keys_of_part([])


@pytest.mark.skipif(bool(original.why_not(original.NAMES)), reason=original.why_not(original.NAMES))
def test_the_originals_names() -> None:
    docs = original.NAMES.read_text().split()
    assert [len(found) for found in split(docs)] == [26_545, 2_949]
    assert [len(found) for found in split(docs, rule=RULE_BY_BUCKET)] == [26_531, 2_963]


# ---- models of before


TINY: dict[str, Any] = {"n_embd": 8, "n_head": 2, "block_size": 6, "num_steps": 20, "seed": 3}
OLD = [f"{number:x}" for number in range(300)]


def without_rule(path: Path, new: Path) -> None:
    """As it was kept before there was a number of the rule."""
    found, _, _ = model_dir.load_newest_whole(path)
    corpus = {name: what for name, what in found.training["corpus"].items() if name != "split"}
    kept = {name: what for name, what in found.training.items() if name != "checkpoint_every"}
    training = TrainingRecord.read(kept | {"corpus": corpus})
    model_dir.save(new, replace(found, training=training))


def test_what_was_divided_by_the_hash_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(data.list_data.__kwdefaults__, "rule", RULE_BY_BUCKET)
        whole = kamon.train(OLD, **TINY)
        asked = iter([False] * 9 + [True])
        kamon.train(OLD, output=tmp_path / "new", should_stop=lambda: next(asked, True), **TINY)
    without_rule(tmp_path / "new", tmp_path / "old")
    by_part = split(OLD, rule=RULE_BY_BUCKET)
    assert by_part != split(OLD)
    assert kamon.load(tmp_path / "old").parts() == by_part
    resumed = kamon.resume(tmp_path / "old")
    assert list(resumed.metrics) == list(whole.metrics)
    assert resumed.training["held_out"] == whole.training["held_out"]
    assert resumed.training["held_out"]["num_docs"] == len(by_part[1])
    assert resumed.engine.state()["params"] == whole.engine.state()["params"]
    assert resumed.parts() == by_part
    new = kamon.train(OLD, **TINY)
    assert new.parts() == split(OLD)
    assert new.training["corpus"]["split"] == module.RULE
