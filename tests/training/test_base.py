"""What a run starts from: the base that Kamon ships, another model, or nothing."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

import kamon
from conftest import TINY, Result
from helpers.lists import DOCS
from kamon.config import Config
from kamon.data.documents import Documents
from kamon.engines.numerics import deviation, mean
from kamon.engines.parameters import num_params, parameter_shapes
from kamon.errors import ConfigError, StoreError
from kamon.finetuning.sft import sft
from kamon.storage.base_file import BASE_FILE, read_base, write_base
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.training import presets
from kamon.training.base import (
    BASE,
    NEW_LOGIT_SPREAD,
    SCRATCH,
    StartingPoint,
    likenesses,
    starting_point,
    token_rows,
)
from kamon.training.setup import TrainingSetup

Kamon = Callable[..., Result]
SHAPE = Config(n_layer=1, n_embd=2, n_head=1, block_size=3)


def start_of(chars: str, name: str | None = BASE, config: Config = SHAPE) -> StartingPoint:
    """A model with these characters whose parameters all differ and are exact in float16."""
    tokenizer = CharTokenizer(chars, composed=True)
    size = num_params(Config(**vars(config) | {"vocab_size": tokenizer.vocab_size}))
    return StartingPoint(name, config, tokenizer, array("d", (i / 1024 for i in range(size))))


def rows_of(params: array[float], config: Config, tokenizer: Tokenizer) -> dict[str, list[Any]]:
    """The rows of each matrix."""
    rows, first = {}, 0
    shapes = parameter_shapes(Config(**vars(config) | {"vocab_size": tokenizer.vocab_size}))
    for name, (n_out, n_in) in shapes.items():
        rows[name] = [list(params[first + i * n_in :][:n_in]) for i in range(n_out)]
        first += n_out * n_in
    assert first == len(params)
    return rows


# ---- its file


def test_the_shipped_base() -> None:
    config, tokenizer, params = read_base()
    assert (config.n_layer, config.n_embd, config.n_head) == (4, 96, 4)
    assert len(params) == num_params(config)
    assert all(map(math.isfinite, params))
    assert {*"abcxyz"} <= set(tokenizer.chars)
    assert BASE_FILE.stat().st_size <= 1.5e6


def test_a_base_is_read_as_it_was_written_in_float16(tmp_path: Path) -> None:
    start = start_of("abc")
    config = Config(**vars(SHAPE) | {"vocab_size": 4})
    params = start.params[:]
    params[1] = 1 / 3
    assert isinstance(start.tokenizer, CharTokenizer)
    write_base(tmp_path / "base", config, start.tokenizer, params)
    found, tokenizer, numbers = read_base(tmp_path / "base")
    assert (found, tokenizer.chars) == (config, ["a", "b", "c"])
    assert numbers[1] == struct.unpack("e", struct.pack("e", 1 / 3))[0] != 1 / 3
    assert numbers[:1] + numbers[2:] == params[:1] + params[2:]


def test_a_damaged_base_is_an_error(tmp_path: Path) -> None:
    path, start = tmp_path / "base", start_of("ab")
    assert isinstance(start.tokenizer, CharTokenizer)
    write_base(path, Config(**vars(SHAPE) | {"vocab_size": 3}), start.tokenizer, start.params)
    content = path.read_bytes()
    read_base(path)
    for place, bit in product(range(len(content)), (1, 128)):
        flipped = bytearray(content)
        flipped[place] ^= bit
        path.write_bytes(flipped)
        with pytest.raises(
            StoreError, match=r"missing or damaged\nhint: install Kamon again, or train with"
        ):
            read_base(path)
    for end in range(len(content)):
        path.write_bytes(content[:end])
        with pytest.raises(StoreError):
            read_base(path)
    path.unlink()
    with pytest.raises(StoreError):
        read_base(path)


# ---- its parameters for another list


def test_what_a_new_character_starts_like() -> None:
    assert likenesses("É") == ["É", "E", "é", "e"]
    assert likenesses("ｋ") == ["ｋ", "k", "Ｋ", "K"]
    assert likenesses("ж") == ["ж", "Ж"]
    known = CharTokenizer(["a", "E", "é"], composed=True)
    wanted = CharTokenizer(["A", "E", "e", "á", "É", "ж"], composed=True)
    assert token_rows(known, wanted) == [0, 1, 1, 0, 1, None, known.bos]


def test_known_tokens_keep_their_parameters() -> None:
    start = start_of("aEx")
    tokenizer = start.tokenizer_for("xáeж")
    assert isinstance(tokenizer, CharTokenizer)
    assert (tokenizer.chars, tokenizer.composed) == (sorted("xáeж"), True)
    config = Config(**vars(SHAPE) | {"block_size": 5})
    old = rows_of(start.params, SHAPE, start.tokenizer)
    new = rows_of(start.params_for(tokenizer, config), config, tokenizer)
    for name in ("wte", "lm_head"):
        a, e, x, bos = old[name]
        assert new[name][:3] + new[name][4:] == [e, x, a, bos]
        assert tokenizer.chars == ["e", "x", "á", "ж"]
        assert new[name][3] not in old[name]
    assert new["wpe"] == [*old["wpe"], old["wpe"][-1], old["wpe"][-1]]
    for name in old.keys() - {"wte", "lm_head", "wpe"}:
        assert new[name] == old[name]
    shorter = Config(**vars(SHAPE) | {"block_size": 2})
    assert (
        rows_of(start.params_for(tokenizer, shorter), shorter, tokenizer)["wpe"] == old["wpe"][:2]
    )


def test_new_tokens_are_distributed_like_the_others() -> None:
    start = start_of("".join(map(chr, range(200, 260))))
    tokenizer = start.tokenizer_for(map(chr, range(0x4E00, 0x4E00 + 2000)))
    params = start.params_for(tokenizer, SHAPE)
    assert params == start.params_for(tokenizer, SHAPE)
    assert params != start.params_for(tokenizer, Config(**vars(SHAPE) | {"seed": 7}))
    old, new = (
        rows_of(each, SHAPE, its)
        for each, its in ((start.params, start.tokenizer), (params, tokenizer))
    )
    for name, spread in (("wte", 1.0), ("lm_head", NEW_LOGIT_SPREAD)):
        columns = zip(zip(*old[name], strict=True), zip(*new[name][:-1], strict=True), strict=True)
        for before, after in columns:
            assert mean(after) == pytest.approx(mean(before), abs=0.1 * deviation(before))
            assert deviation(after) == pytest.approx(spread * deviation(before), rel=0.1)


def test_the_real_base_is_reduced_to_the_list() -> None:
    start = starting_point(BASE)
    assert start is not None
    tokenizer = start.tokenizer_for(set("anno"))
    params = start.params_for(tokenizer, Config(block_size=start.config.block_size))
    old, new = (
        rows_of(each, start.config, its)
        for each, its in ((start.params, start.tokenizer), (params, tokenizer))
    )
    rows = token_rows(start.tokenizer, tokenizer)
    assert [start.tokenizer.token_text(row) for row in rows if row is not None] == [
        *("a", "n", "o"),
        start.tokenizer.token_text(start.tokenizer.bos),
    ]
    for name, matrix in old.items():
        kept = rows if name in ("wte", "lm_head") else range(len(matrix))
        assert new[name] == [matrix[row] for row in kept]


# ---- another model


def test_a_model_keeps_its_tokens_and_adds_others() -> None:
    model = kamon.train(["anna", "hanna", "nora"], **TINY)
    start = starting_point(model)
    assert start is not None
    tokenizer = start.tokenizer_for(Documents.of(["Ñaz"]))
    assert isinstance(tokenizer, CharTokenizer)
    assert (tokenizer.chars, tokenizer.added) == (["a", "h", "n", "o", "r"], ["z", "Ñ"])
    params = start.params_for(tokenizer, model.config)
    old, new = (
        rows_of(each, model.config, its)
        for each, its in ((start.params, model.tokenizer), (params, tokenizer))
    )
    assert new["wte"][:6] == old["wte"]
    assert new["wte"][7] == old["wte"][2]  # like n
    assert new["wte"][6] not in old["wte"]
    assert starting_point(SCRATCH) is None


def test_training_from_models_of_all_kinds(tmp_path: Path) -> None:
    """With longer entries, new characters, special tokens, and tokens of byte pairs."""
    few = {"num_steps": 2, "learning_rate": 1e-9}
    model = kamon.train(DOCS, output=tmp_path / "m", **TINY)
    longer = [doc * 3 for doc in DOCS]
    made = kamon.train(longer, init_from=tmp_path / "m", **few)
    assert made.training["init_from"] == str(tmp_path / "m")
    assert made.config.block_size == presets.block_size_for(made.tokenizer.lengths(longer)) > 6
    assert made.num_params == model.num_params + (made.config.block_size - 6) * 4
    again = kamon.train(longer, init_from=made, **few)
    assert again.training["init_from"] is None  # it has no directory
    assert again.tokenizer.to_json() == made.tokenizer.to_json()

    prompted = sft(model, [{"prompt": "b", "completion": "nora"}], num_steps=1)
    made = kamon.train([*DOCS, "Übel"], init_from=prompted, **few)
    assert isinstance(made.tokenizer, CharTokenizer)
    assert set(made.tokenizer.special) == set(prompted.tokenizer.special)
    assert made.tokenizer.unknown("Übel") == set()
    assert made.tokenizer.added[: len(prompted.tokenizer.added)] == prompted.tokenizer.added
    assert all(set(text) <= {*"".join(DOCS), *"Übel"} for text in made.sample(50, seed=1))

    pieces = kamon.train(DOCS, tokenizer="bpe", vocab_size=270, **TINY)
    made = kamon.train(["жук", *DOCS], init_from=pieces, **few)
    assert isinstance(made.tokenizer, BytePairTokenizer)
    assert made.tokenizer.to_json() == pieces.tokenizer.to_json()


def test_a_start_that_does_not_fit() -> None:
    for settings, message in (
        ({"n_embd": 32}, "the model to start from has n_embd 96, not 32\nhint: leave out n_embd"),
        ({"mode": "text"}, "the model to start from has mode documents, not text"),
        ({"size": "tiny"}, "size tiny does not apply to a model that starts from another"),
        ({"tokenizer": "bpe"}, "a model that starts from another keeps its tokenizer"),
    ):
        with pytest.raises(ConfigError, match=message):
            kamon.train(DOCS, init_from=BASE, **settings)
    with pytest.raises(StoreError, match="no model at"):
        kamon.train(DOCS, init_from="nothing/here")


# ---- which lists start from the base


class Stop(Exception):  # noqa: N818 - no error
    """All is decided."""


def decided(docs: list[str], **settings: Any) -> TrainingSetup:
    seen: list[TrainingSetup] = []

    def on_start(setup: TrainingSetup) -> None:
        seen.append(setup)
        raise Stop

    with pytest.raises(Stop):
        kamon.train(docs, on_start=on_start, **settings)
    return seen[0]


def test_short_lists_start_from_the_base() -> None:
    setup = decided(DOCS)
    assert setup.start is not None
    assert setup.start.name == BASE
    assert (setup.config.n_layer, setup.config.n_embd, setup.config.n_head) == (4, 96, 4)
    assert setup.config.learning_rate == presets.FINE_TUNING["learning_rate"]
    assert isinstance(setup.tokenizer, CharTokenizer)
    assert setup.tokenizer.chars == sorted(set("".join(DOCS)))
    limit = presets.MAX_BASE_DOCS
    for number, starts in ((limit, True), (limit + 1, False)):
        docs = [f"{i:x}" for i in range(number)]
        start = decided(docs, hold_out=False, blend=False).start
        assert (start is not None) == starts


@pytest.mark.parametrize("init_from", [None, "base"])
def test_a_long_list_gets_dropout_if_there_is_time_for_it(
    init_from: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = [f"{i:x}" for i in range(presets.MIN_LONG_DOCS)]
    usual, long = presets.FINE_TUNING, presets.LONG_FINE_TUNING
    for num_docs, epochs, expected in (
        (len(docs), 100, long),
        (len(docs), presets.MIN_LONG_EPOCHS, long),
        (len(docs), presets.MIN_LONG_EPOCHS - 1, usual),
        (len(docs) - 1, 100, usual),
    ):
        steps = epochs * num_docs // usual["batch_size"]
        monkeypatch.setattr(presets, "steps_for_seconds", lambda *_, steps=steps: steps)
        how: dict[str, Any] = {"hold_out": False, "blend": False, "init_from": init_from}
        config = decided(docs[:num_docs], budget=60, **how).config
        assert config.learning_rate == expected["learning_rate"]
        assert config.dropout == expected.get("dropout", 0)
        assert config.num_steps == min(steps, 8 * num_docs // usual["batch_size"])
    assert decided(docs, **how).config.dropout == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"init_from": SCRATCH}, {"size": "tiny"}, {"size": "original"}, {"n_layer": 1},
        {"n_embd": 8}, {"n_head": 2}, {"tokenizer": "bpe", "vocab_size": 260},
        {"tokenizer": CharTokenizer(sorted(set("".join(DOCS))), ["<x>"])},
        {"engine": "scalar"},
    ],
)  # fmt: skip
def test_what_starts_from_scratch(settings: dict[str, Any]) -> None:
    assert decided(DOCS, **settings).start is None


def test_composed_and_decomposed_text_is_the_same_list() -> None:
    docs = [f"{doc}é" for doc in DOCS]
    setups = [decided(each) for each in (docs, [normalize("NFD", doc) for doc in docs])]
    assert setups[0].engine.state()["params"] == setups[1].engine.state()["params"]
    assert setups[0].tokenizer.to_json() == setups[1].tokenizer.to_json()


def test_the_command(tmp_path: Path, kamon: Kamon) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(DOCS))
    done = kamon("train", names, "-o", tmp_path / "m", "--num-steps=2", "-v")
    assert (done.code, "Settings         --from base" in done.err) == (0, True)
    one = kamon("train", names, "-o", tmp_path / "n", "--num-steps=2", "--from=base")
    assert one.out == done.out
    done = kamon("train", names, "-o", tmp_path / "o", "--num-steps=2", "--from=scratch")
    assert (done.code, " parameters, 1 layer," in done.err) == (0, True)
