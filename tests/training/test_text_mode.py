"""Models of text: windows from random places, held-out ends, continuations of any length."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import kamon
from conftest import Result
from kamon.completion import next_tokens
from kamon.config import Config
from kamon.data import corpus
from kamon.data.documents import Documents
from kamon.data.split import divide
from kamon.data.text_windows import TextWindows, consecutive, in_windows, stream
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import flops_per_token, init
from kamon.engines.philox import uniform
from kamon.errors import ConfigError, CorpusError
from kamon.evaluation.evaluate import evaluate
from kamon.generation.constraints import GenerationConstraints
from kamon.generation.sampling import sample_token
from kamon.generation.text import continue_text, prompt_of
from kamon.tokenizers.char import CharTokenizer
from kamon.training import presets
from kamon.training.data import as_given
from kamon.training.loop import Progress, make_plan
from kamon.training.setup import build_setup

Kamon = Callable[..., Result]
SHAPE = {"n_layer": 1, "n_embd": 8, "n_head": 2, "block_size": 8, "batch_size": 4, "num_steps": 6}
FLAGS = [f"--{name.replace('_', '-')}={value}" for name, value in SHAPE.items()]


def verses(lines: int = 120) -> str:
    rng = random.Random(3)
    words = ["rain", "stone", "over", "under", "the", "a", "green", "hill", "sings", "falls"]
    return "".join(" ".join(rng.choices(words, k=5)) + "\n" for _ in range(lines))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "verses.txt"
    path.write_text(verses())
    return path


# ---- windows


@given(
    docs=st.lists(st.lists(st.integers(0, 8), max_size=30), min_size=1, max_size=6),
    block_size=st.integers(1, 9),
)
def test_every_target_is_in_one_window(docs: list[list[int]], block_size: int) -> None:
    tokens = stream(pack_sequences([9, *doc, 9] for doc in docs))
    expected = [9]
    for doc in docs:
        expected += [*doc, 9]
    assert list(tokens) == expected
    windows = list(consecutive(tokens, block_size))
    assert [token for window in windows for token in window[1:]] == expected[1:]
    assert all(a[-1] == b[0] for a, b in pairwise(windows))
    assert {len(window) for window in windows[:-1]} <= {block_size + 1}
    assert 2 <= len(windows[-1]) <= block_size + 1


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
    block_size=st.integers(1, 9),
    seed=st.integers(0, 9),
)
def test_long_documents_lose_nothing_in_windows(
    sizes: list[int], block_size: int, seed: int
) -> None:
    numbers = iter(range(10**6))
    batch = pack_sequences([-1, *(next(numbers) for _ in range(size)), -1] for size in sizes)
    found = in_windows(batch, block_size, random.Random(seed))
    assert all(2 <= len(window) <= block_size + 1 for window in found)
    assert found.num_targets == batch.num_targets
    pairs = sorted(pair for document in batch for pair in pairwise(document))
    assert sorted(pair for window in found for pair in pairwise(window)) == pairs


def test_the_windows_of_one_document_are_not_neighbours() -> None:
    batch = pack_sequences([range(1000), range(1000, 2000)])
    found = in_windows(batch, 10, random.Random(1))
    of_first = [window[0] < 1000 for window in found]
    assert 20 < sum(a != b for a, b in pairwise(of_first)) < 180


def test_a_window_depends_on_its_number_alone() -> None:
    tokens = array("i", range(500))
    windows = TextWindows(tokens, 16, seed=5)
    many = list(windows.get(0, 300))
    assert [list(w) for w in windows.get(123, 7)] == [list(w) for w in many[123:130]]
    assert all(list(w) == list(range(w[0], w[0] + 17)) for w in many)
    starts = {w[0] for w in many}
    assert len(starts) > 200
    assert max(starts) > 470
    assert min(starts) < 15
    other = {w[0] for w in TextWindows(tokens, 16, seed=6).get(0, 300)}
    assert other != starts
    assert list(TextWindows(array("i", [1, 2, 3]), 16, 0).get(4, 1).tokens) == [1, 2, 3]


def test_a_plan_takes_the_examples_of_its_steps() -> None:
    windows = TextWindows(array("i", range(99)), 4, seed=1)
    config = Config(batch_size=3, gradient_accumulation_steps=2, num_steps=9)
    plan = make_plan(windows, config, 2, 5)
    assert plan.docs == windows.get(12, 18)
    assert list(plan.indices) == list(range(18))
    assert plan.first_dropout_id == 12


# ---- what is held out


def test_the_end_of_a_text_is_held_out_and_many_documents_as_ever() -> None:
    whole = verses()
    learned, held_out = divide([whole], mode="text")
    assert learned[0] + held_out[0] == whole
    assert len(held_out[0]) == pytest.approx(len(whole) / 10, abs=1)
    assert divide([whole], hold_out=False, mode="text") == (Documents.of([whole]), Documents.of([]))
    assert divide([whole]) == (Documents.of([whole]), Documents.of([]))
    many = [f"{i} is a number" for i in range(400)]
    assert divide(many, mode="text") == divide(many)


def test_what_is_held_out_is_not_learned_and_all_of_it_is_tested(text: Path) -> None:
    source = corpus.read(text, mode="text")
    learned, held_out = divide(source.docs, mode="text")
    data = as_given(learned, "text", validation_docs=held_out)
    run = build_setup(data, Config(**SHAPE, mode="text"))
    assert isinstance(run.docs, TextWindows)
    assert len(run.docs.tokens) == len(learned[0]) + 2
    assert run.held_out.num_targets == len(held_out[0]) + 1
    assert run.num_cut == 0


# ---- reading


def test_a_text_is_read_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("  Éé\r\n\r\n two \n".encode())
    assert list(corpus.read(path, mode="text").docs) == ["  Éé\n\n two \n"]
    path.write_text("\n \n")
    with pytest.raises(CorpusError, match="has only white space"):
        corpus.read(path, mode="text")
    path.write_text('{"text": "one\\ntwo"}\n{"text": "three"}\n')
    records = corpus.read(path, format="jsonl", mode="text").docs
    assert list(records) == ["one\ntwo", "three"]


def test_a_text_that_is_too_short(names: Path, kamon: Kamon, tmp_path: Path) -> None:
    done = kamon("train", names, "-o", tmp_path / "m", "--mode", "text")
    assert done.code == 1
    assert "text mode needs 1,000 or more" in done.err


# ---- continuations


def ready(block_size: int = 8) -> Engine:
    config = Config(n_embd=8, n_head=2, block_size=block_size, vocab_size=6, std=0.5, mode="text")
    engine = make_engine("scalar", config)
    engine.load(initial_state(init(config, random.Random(0))))
    return engine


def plain_continuation(
    engine: Engine, prompt: list[int], length: int, u: Callable[[int], float]
) -> Iterator[int]:
    """The same by reading the whole window anew for each token."""
    size = engine.config.block_size
    window = prompt[-size:]
    for number in range(length):
        if len(window) > size:
            window = window[-(size // 2) :]
        decoder = engine.decoder()
        for token in window:
            logits = decoder.push(token)
        token = sample_token(logits, 1.0, u(number))
        if token == 5:
            return
        yield token
        window = [*window, token]


@pytest.mark.parametrize("prompt", [[1], [0, 1, 2], [i % 5 for i in range(8)], [1] * 30])
def test_a_continuation_sees_between_half_and_all_of_its_window(prompt: list[int]) -> None:
    engine = ready()
    for seed in range(4):
        u = partial(uniform, seed, 0)
        found = continue_text(engine, 5, prompt, 40, 1.0, u)
        assert found == list(plain_continuation(engine, prompt, 40, u))


def test_a_continuation_goes_on_far_behind_block_size() -> None:
    engine = ready()
    found = continue_text(
        engine, 5, [1], 100, 1.0, partial(uniform, 1, 0), GenerationConstraints(top_k=1)
    )
    assert len(found) == 100
    likeliest = continue_text(engine, 5, [1], 100, 0.0, partial(uniform, 2, 0))
    assert found == likeliest


def test_a_text_begins_behind_a_line_end_where_there_is_one() -> None:
    with_line_ends = CharTokenizer("\nab")
    assert prompt_of(with_line_ends, "") == [0]
    assert prompt_of(with_line_ends, "ba") == [2, 1]
    assert prompt_of(CharTokenizer("ab"), "") == [2]


# ---- the whole way


def test_train_sample_resume(text: Path, kamon: Kamon, tmp_path: Path) -> None:
    model = tmp_path / "model"
    done = kamon("train", text, "-o", model, "--mode", "text", *FLAGS, "--json")
    assert done.code == 0, done.err
    assert "1 entry of" in done.err
    (sample,) = done.json["samples"]
    assert len(sample["text"]) <= 500
    two = kamon("sample", model, "-n", 2, "--length", 30, "--prefix", "the ", "--json").json
    texts = [sample["text"] for sample in two["samples"]]
    assert [text[:4] for text in texts] == ["the ", "the "]
    assert texts[0] != texts[1]
    alone = kamon("sample", model, "-n", 1, "--length", 30, "--prefix", "the ")
    assert alone.out == texts[0] + "\n"
    assert kamon("train", "--resume", model, "--extend", 3, text).code == 0
    assert kamon("train", "--resume", model, "--extend", 3, names_of(tmp_path)).code == 2


@pytest.mark.parametrize("budget", [None, 3600.0])
def test_a_text_starts_from_a_model_of_text_for_as_many_steps_as_from_scratch(
    budget: float | None, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text is one document, but not one example."""
    monkeypatch.setattr(presets, "steps_for_seconds", lambda *_: 5_000)
    model = kamon.train(text, mode="text", **SHAPE)
    stop: dict[str, Any] = {"budget": budget, "should_stop": lambda: True}
    for init_from in (None, model):
        config = kamon.train(text, mode="text", init_from=init_from, **stop).config
        assert config.num_steps == (5_000 if budget else presets.TEXT_STEPS)


def test_a_list_with_many_blank_lines_may_be_a_text(text: Path, kamon: Kamon) -> None:
    def says(lines: list[str]) -> bool:
        text.write_text("\n".join(lines))
        done = kamon("train", text, "--num-steps=1", "-o", text.parent / "m", "--overwrite")
        assert done.code == 0, done.err
        return "hint: for running text, add --mode text\n" in done.err

    lines = verses().splitlines()
    assert says([f"{line}\n" if n % 5 == 0 else line for n, line in enumerate(lines)])
    assert not says([f"{line}\n" if n % 20 == 0 else line for n, line in enumerate(lines)])


def names_of(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text("another text\n" * 100)
    return path


def test_a_stopped_training_of_text_goes_on_to_the_same_bits(text: Path, tmp_path: Path) -> None:
    settings = SHAPE | {"mode": "text", "dropout": 0.1, "grad_clip": 0.5, "min_lr": 0.001}
    whole = kamon.train(text, output=tmp_path / "whole", **settings)
    asked = iter([False, False, True, True])
    kamon.train(text, output=tmp_path / "model", should_stop=lambda: next(asked, False), **settings)
    stopped = kamon.load(tmp_path / "model")
    assert 0 < len(stopped.metrics) < 6
    resumed = kamon.resume(tmp_path / "model")
    assert list(resumed.metrics) == list(whole.metrics)
    assert resumed.engine.state() == whole.engine.state()


def test_long_documents_in_windows(tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "lines.txt"
    path.write_text(verses(60))
    cut = kamon("train", path, "-o", tmp_path / "cut", *FLAGS)
    assert "--long-documents windows trains on all parts" in cut.err
    whole = kamon("train", path, "-o", tmp_path / "w", *FLAGS, "--long-documents=windows", "--json")
    assert "cut off" not in whole.err
    assert whole.json["num_cut"] == 0


@pytest.mark.parametrize(
    "flags",
    [["--regex", "a"], ["--suffix=a"], ["--max-len", "5"], ["--min-len=3"], ["--details"]],
)
def test_conditions_for_documents_are_refused(
    flags: list[str], text: Path, kamon: Kamon, tmp_path: Path
) -> None:
    assert kamon("train", text, "-o", tmp_path / "m", "--mode", "text", *FLAGS).code == 0
    done = kamon("sample", tmp_path / "m", *flags)
    assert (done.code, done.out) == (2, "")
    assert "model of a list, and this one is a model of a text\nhint: use length" in done.err or (
        "are for models of lists, and this model writes text" in done.err
    )


def test_length_is_refused_by_a_model_of_documents() -> None:
    model = kamon.train(["anna", "hanna", "nora"], **SHAPE)
    with pytest.raises(ConfigError, match="length needs a model of a text"):
        model.sample(1, length=5)


def test_progress_tells_tokens_and_operations(text: Path) -> None:
    seen: list[Progress] = []
    kamon.train(text, on_progress=seen.append, mode="text", **SHAPE)
    assert seen[-1].tokens_per_second > 0
    config = Config(**SHAPE, vocab_size=20)
    ratio = seen[-1].flops / seen[-1].tokens_per_second
    vocab_size = len(set(verses())) + 1
    assert ratio == pytest.approx(6 * (12 * 64 + vocab_size * 8) + 6 * 8 * (config.block_size + 1))
    assert flops_per_token(config, 8) == 6 * (12 * 64 + 20 * 8 + 8 * 9)


# ---- the other verbs


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    (folder / "verses.txt").write_text(verses(300))
    kamon.train(
        folder / "verses.txt", output=folder / "model", mode="text", **SHAPE | {"num_steps": 40}
    )
    return folder / "model"


def test_evaluation_of_a_text(model: Path, kamon: Kamon) -> None:
    """The model's loss is that of training; everything guesses the same targets."""
    found = kamon_load(model)
    guessed = evaluate(found).documents
    held_out = found.parts()[1][0]
    assert guessed.num_chars == len(held_out)
    assert guessed.num_tokens == len(held_out) + 1
    assert guessed.model.nats_per_token == pytest.approx(found.training["held_out"]["loss"])
    assert guessed.best_ngram.nats_per_token < guessed.unigram.nats_per_token
    assert evaluate(found).samples is None
    done = kamon("eval", model)
    assert done.code == 0
    assert "validation set: 763 tokens, 762 characters\n" in done.out


def kamon_load(path: Path) -> kamon.Model:
    return kamon.load(path)


def test_samples_of_a_text_are_drawn_from_the_next_tokens(model: Path, kamon: Kamon) -> None:
    found = kamon_load(model)
    for prefix in ("", "the rain", "the rain sings over the green hill falls"):
        likeliest = next_tokens(found, prefix)[0].text
        written = found.sample(1, temperature=0.0, length=1, prefix=prefix)[0]
        assert written == prefix + likeliest
    assert sum(each.probability for each in next_tokens(found, "the")) == pytest.approx(1)
    done = kamon("complete", model, "the rain", "--next", 2, "-n", 3)
    assert done.code == 0
    tokens, words = (part.splitlines() for part in done.out.split("\n\n"))
    assert [len(tokens), tokens[0]] == [4, "next"]  # two tokens, and one line for the others
    assert [len(words), words[0]] == [6, "words"]  # three words, other words, and those not found


@pytest.mark.parametrize("verb", [["fill", "M", "t_e"], ["plot", "M", "--kind=lengths"]])
def test_commands_that_need_entries_refuse_a_text(
    verb: list[str], model: Path, kamon: Kamon
) -> None:
    done = kamon(*(model if word == "M" else word for word in verb))
    assert (done.code, done.out) == (2, "")
    assert "needs a model of a list, and this one was trained on a text\n" in done.err


def test_pictures_of_a_text(model: Path, kamon: Kamon) -> None:
    drawn = kamon("plot", model, "--json").json
    assert set(drawn) == {"directory", "loss", "embeddings", "attention"}
    assert len(drawn["attention"]["text"]) == 7
    assert drawn["loss"]["ngram"] == pytest.approx(
        evaluate(kamon_load(model)).documents.best_ngram.nats_per_token
    )
