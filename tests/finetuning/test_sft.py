"""Supervised fine-tuning: the model answers prompts, remembers its base, and runs resume."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unicodedata import normalize

import pytest

import kamon
from conftest import ENGINES_AND_DTYPES, Result
from helpers.lists import TRIPLES as DOCS
from helpers.runs import stop_after
from kamon.data.builtin import names_table
from kamon.data.split import bucket
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import ANSWER, pack_sequences
from kamon.engines.factory import make_engine
from kamon.errors import ConfigError, CorpusError, TokenizerError
from kamon.evaluation.nearest import logprobs
from kamon.finetuning import instructions
from kamon.finetuning.instructions import examples, obedience_of, prompt_for
from kamon.finetuning.loop import base_of, examples_of_step
from kamon.finetuning.losses import sft_weights
from kamon.finetuning.sft import (
    EARLIER_SPLIT,
    SFT,
    divided,
    encoded,
    packed,
    picked,
    prepare,
    resume,
    sft,
)
from kamon.generation.constraints import GenerationConstraints, find
from kamon.generation.sampling import SampleRequest, sample
from kamon.model import Model, load
from kamon.native import library
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.prompts import prompted

Kamon = Callable[..., Result]
# The prompt is the last letter of its answer as a capital, which the base does not know.
DATA = [{"prompt": doc[-1].upper(), "completion": doc} for doc in DOCS]


@pytest.fixture(scope="module")
def base() -> Model:
    return kamon.train(DOCS, num_steps=300, n_layer=1, n_embd=16, size="small")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tiny") / "m"
    kamon.train(DOCS, num_steps=5, n_embd=4, n_head=2, size="original", output=path)
    return path


@pytest.fixture(scope="module")
def tuned(base: Model) -> Model:
    return sft(base, DATA, num_steps=500)


def lines(data: list[dict[str, str]]) -> str:
    return "".join(json.dumps(each) + "\n" for each in data)


@pytest.mark.skipif(bool(library.why_not()), reason="the scalar engine would take minutes")
def test_it_answers(tuned: Model) -> None:
    for letter in "klmno":
        answers = tuned.sample(40, prompt=letter.upper())
        assert sum(answer.endswith(letter) for answer in answers) >= 38
    without = tuned.sample(200, temperature=1.0)
    assert sum(doc in DOCS for doc in without) > 100
    assert {doc[-1] for doc in without} >= set("klmno")
    known = tuned.training["tuning"]
    assert known["base_held_out_loss"] < known["base"]["held_out_loss"] + 0.2
    assert "obedience" not in known


def test_what_was_there_stays(base: Model, tuned: Model) -> None:
    assert tuned.tokenizer.vocab_size == base.tokenizer.vocab_size + 6
    assert list(tuned.docs) == list(base.docs)
    assert tuned.parts() == base.parts()
    assert base.tokenizer.encode("afk") == tuned.tokenizer.encode("afk")


@pytest.mark.parametrize(("engine", "dtype"), ENGINES_AND_DTYPES)
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_stopped_and_gone_on(engine: str, dtype: str, share: float, tiny: Path) -> None:
    how: dict[str, Any] = {"engine": engine, "dtype": dtype, "base_share": share}
    how |= {"num_steps": 6, "batch_size": 4, "dropout": 0.1}
    whole = sft(tiny, DATA, **how)
    path = tiny.parent / "n"
    model = sft(tiny, DATA, output=path, should_stop=stop_after(1), **how)
    while not model.training["finished"]:
        model = resume(path, should_stop=stop_after(1))
    assert model.metrics == whole.metrics == kamon.load(path).metrics
    assert model.engine.state()["params"] == whole.engine.state()["params"]
    assert model.training | {"seconds": 0} == whole.training | {"seconds": 0}
    assert ("base_loss" in model.metrics[0]) == (share > 0)
    shutil.rmtree(path)


def test_a_step_by_hand(tiny: Path) -> None:
    """The gradient of the first step is that of −log p, summed token by token."""
    base = kamon.load(tiny, engine="scalar")
    tuning = prepare(base, base_of(base, None), DATA, "x", 0.5, {"batch_size": 4, "num_steps": 9})
    learned, _ = divided(DATA, set(base.parts()[1]))
    docs = [
        prompted(tuning.tokenizer, **as_document(learned[i]))
        for i in examples_of_step(42, 0, 2, len(learned))
    ]
    plain = list(base.parts()[0])
    docs += [
        prompted(tuning.tokenizer, None, plain[i]) for i in examples_of_step(43, 0, 2, len(plain))
    ]
    engine, other = (make_engine("scalar", tuning.config) for _ in range(2))
    for each in (engine, other):
        each.load(initial_state(tuning.params))
    SFT(tuning, lambda _: engine).step(engine, 0, 0.01)
    weights = []
    n = sum(answer for _, (_, answer) in docs)
    for _, (prompt, answer) in docs:
        weights += [0.0] * prompt + [1 / n] * answer
    other.backward(pack_sequences(tokens for tokens, _ in docs), weights)
    other.step(0.01)
    assert engine.state() == other.state()


def as_document(example: dict[str, str]) -> dict[str, str]:
    return {"prompt": example["prompt"], "answer": example["completion"]}


def test_examples_by_content() -> None:
    learned, held_out = divided(DATA * 2, {"afk", "ejo"})
    assert not {"afk", "ejo"} & {each["completion"] for each in learned + held_out}
    assert len(held_out) == 123 // 10
    assert len(learned) == 2 * (123 - len(held_out))
    assert divided(DATA[:20], set()) == (DATA[:20], [])
    again = divided([*reversed(DATA)], {"afk", "ejo"})[1]
    assert {*map(str, again)} == {*map(str, held_out)}


def test_no_answer_is_learned_and_tested_on() -> None:
    """Other prompts and other code points count as the same. Rare prompts are divided, too."""
    asked = [{"prompt": p, "completion": f"{c}é{n}"} for n in range(99) for p in "AB" for c in "ab"]
    asked += [each | {"completion": each["completion"].replace("é", "e\u0301")} for each in asked]
    own = [{"prompt": f"{n}?", "completion": f"{c}{n}"} for n in range(150) for c in "ab"]
    for data, by_prompt in ((asked, False), (own, True)):
        sides = divided(data, ["aé1"])
        assert min(map(len, sides)) >= 10
        for key in ("prompt", "completion") if by_prompt else ("completion",):
            learned, held_out = ({normalize("NFC", e[key]) for e in side} for side in sides)
            assert learned.isdisjoint(held_out)
        assert "aé1" not in {normalize("NFC", e["completion"]) for side in sides for e in side}


def test_the_base_is_measured_by_the_engine_that_is_asked_for(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def make(name: str | None, *args: Any, **how: Any) -> Engine:
        asked.append((name, how.get("threads"), how.get("dtype")))
        return make_engine(name, *args, **how)

    monkeypatch.setattr("kamon.engines.factory.make_engine", make)
    sft(tiny, DATA, num_steps=1, engine="scalar", threads=1, dtype="float64")
    assert set(asked) == {("scalar", 1, "float64")}


def test_a_tuning_of_before_keeps_what_it_held_out(base: Model) -> None:
    def key(each: dict[str, str]) -> bytes:
        return f"{each['prompt']}\n{each['completion']}".encode()

    data = DATA + [{"prompt": doc[0].upper(), "completion": doc} for doc in DOCS]
    assert all(bucket(key(each)) == 0 for each in divided(data, [], EARLIER_SPLIT)[1])
    tuning = prepare(base, base_of(base, None), data, "x", 0.5, {"num_steps": 1})
    before = replace(tuning, settings={"base_share": 0.5})
    num_held_out = [SFT(t, lambda _: base.engine).num_held_out for t in (tuning, before)]
    learned = base.parts()[0] if base.training["held_out"] else DOCS
    usable = [each for each in data if each["completion"] in set(learned)]
    assert num_held_out[1] == sum(bucket(key(each)) == 0 for each in usable) != num_held_out[0]


def test_prompts_weigh_nothing() -> None:
    tokenizer = BytePairTokenizer.train(DOCS, 260).with_specials([ANSWER])
    batch, spans, sizes = packed(encoded(tokenizer, DATA[:2]))
    weights = sft_weights(spans, sizes)
    answer = tokenizer.special[ANSWER]
    for d, tokens in enumerate(batch):
        place = list(tokens).index(answer)
        own = weights[sum(sizes[:d]) : sum(sizes[: d + 1])]
        assert own[:place] == [0.0] * place
        assert all(w > 0 for w in own[place:])
    assert sum(weights) == pytest.approx(1)


def test_log_probabilities_of_answers(tuned: Model) -> None:
    """They equal those of the decoder after the prompt."""
    (logprob,) = logprobs(tuned.engine, tuned.tokenizer, ["afk"], "K")
    decoder, tokenizer = tuned.engine.decoder(), tuned.tokenizer
    tokens = [*tokenizer.encode("K"), tokenizer.special[ANSWER]]
    logits = [decoder.push(t) for t in [tokenizer.bos, *tokens, *tokenizer.encode("afk")]]
    from kamon.generation.sampling import log_sum_exp

    targets = [*tokenizer.encode("afk"), tokenizer.bos]
    wanted = sum(row[t] - log_sum_exp(row) for row, t in zip(logits[2:], targets, strict=True))
    assert logprob == pytest.approx(wanted, abs=1e-4)


def test_answers_under_conditions(tuned: Model) -> None:
    answers = tuned.sample(5, prompt="K", prefix="b", min_len=3, unique=True, temperature=1.0)
    assert len(set(answers)) == 5
    assert all(answer.startswith("b") and len(answer) >= 3 for answer in answers)
    assert tuned.sample(3, prompt="K", seed=5) == tuned.sample(9, prompt="K", seed=5)[:3]
    assert tuned.sample(1, prompt="", max_len=4)
    # Each position uses the same random number with and without a prompt.
    tokens = (*tuned.tokenizer.encode("K"), tuned.tokenizer.special[ANSWER])
    request = SampleRequest(9, 0.5, 42, tuned.tokenizer.bos, prompt_tokens=tokens)
    texts = tuned.tokenizer.decode_documents(sample(tuned.engine, request))
    assert texts == tuned.sample(9, prompt="K", temperature=0.5, seed=42)


def test_a_prompt_too_long(tuned: Model) -> None:
    room = tuned.config.block_size
    with pytest.raises(
        ConfigError, match=r"tokens and leaves no room for an answer in .*\nhint: shorten"
    ):
        tuned.sample(1, prompt="K" * room)
    found = tuned.generate(3, prompt="K" * (room - 3), temperature=5.0, min_len=2)
    assert found.room == 2
    assert all(len(text) == 2 for text in found.texts)
    with pytest.raises(ConfigError, match="min_len 3 is above the 2 characters"):
        tuned.sample(1, prompt="K" * (room - 3), min_len=3)
    with pytest.raises(TokenizerError, match="character 'é'"):
        tuned.sample(1, prompt="é")


def test_room_grows_for_the_longest(base: Model) -> None:
    data = [{"prompt": "K" * 40, "completion": "afk"}, *DATA]
    model = sft(base, data, num_steps=2)
    assert model.config.block_size == 40 + 1 + 3 + 1
    with pytest.raises(
        ConfigError, match=r"block_size 30 is too small: the longest example has 45"
    ):
        sft(base, data, num_steps=2, block_size=30)


def test_tuned_again(tuned: Model) -> None:
    data = [{"prompt": "?", "completion": doc} for doc in DOCS[:30]]
    model = sft(tuned, data, num_steps=3)
    assert model.tokenizer.vocab_size == tuned.tokenizer.vocab_size + 1
    assert model.tokenizer.special == tuned.tokenizer.special
    assert model.training["tuning"]["base"]["tuning"]["kind"] == "sft"


@pytest.mark.parametrize(
    ("data", "how", "error", "message"),
    [
        ([], {}, CorpusError, "a list in memory is empty"),
        ([{"prompt": "a"}], {}, CorpusError, "example 1 has no text under 'completion'"),
        (
            [{"prompt": 3, "completion": "a"}],
            {},
            CorpusError,
            "example 1 has no text under 'prompt'",
        ),
        ([{"prompt": "", "completion": ""}], {}, CorpusError, "example 1 has an empty completion"),
        ([{"prompt": "a\0", "completion": "a"}], {}, CorpusError, "has a NUL at character 2"),
        (["anna"], {}, CorpusError, "example 1 must be a mapping, not 'anna'"),
        ("instruction", {}, CorpusError, "no file instruction\nhint: did you mean 'instructions'?"),
        (DATA, {"base_share": 1}, ConfigError, "base_share must be from 0 to below 1, not 1"),
        (DATA, {"base_share": "x"}, ConfigError, "base_share must be a number"),
        (
            DATA,
            {"n_embd": 8},
            ConfigError,
            "n_embd is 16 for this model, not 8",
        ),
        (DATA, {"foo": 8}, ConfigError, "unknown setting 'foo'"),
        (DATA, {"num_steps": 0}, ConfigError, "num_steps must be 1 or more"),
        (DATA, {"engine": "gpu"}, ConfigError, "unknown engine 'gpu'"),
    ],
)
def test_python_refuses(
    data: Any, how: dict[str, Any], error: Any, message: str, base: Model
) -> None:
    with pytest.raises(error) as caught:
        sft(base, data, **how)
    assert message in str(caught.value)


def test_bases_that_are_none(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="the base must be a model or its directory, not 3"):
        sft(3, DATA)  # type: ignore[arg-type]
    text = kamon.train(["abcd " * 500], mode="text", num_steps=2, size="tiny")
    with pytest.raises(ConfigError, match="SFT needs a model of a list"):
        sft(text, DATA)
    with pytest.raises(
        ConfigError,
        match="the model does not follow prompts\nhint: fine-tune it on prompts with `kamon sft`",
    ):
        kamon.load(tiny).sample(1, prompt="K")
    with pytest.raises(ConfigError, match="prompt needs a model of a list"):
        text.sample(1, prompt="K")


# ---- built-in instructions


def test_examples_say_what_is_on_record() -> None:
    table = {(name, sex) for name, sex, _ in names_table()}
    for task, parts in (("sexes", 1), ("initials", 2), ("instructions", 0)):
        found = examples(task)
        seen = set()
        for each in found:
            words = each["prompt"].split(", ")
            name = each["completion"]
            seen.add(len(words))
            if words[0] in ("girl", "boy"):
                assert (name, "F" if words.pop(0) == "girl" else "M") in table
            for word in words:
                assert word in (name[0], str(len(name)))
        assert seen == ({parts} if parts else {1, 2, 3})
    assert examples("instructions") == examples("instructions")
    assert len({each["prompt"] for each in found}) > 300


def test_answers_are_judged() -> None:
    asked = [
        ("F", "m", 5, "maria"),  # right
        ("M", "m", 5, "mabel"),  # a girl's
        ("F", "m", 5, "mqqqq"),  # nobody's
        ("F", "m", 6, "maria"),  # too short
        ("F", "a", 5, "maria"),  # another letter
    ]
    assert obedience_of(asked) == {
        "num_answers": 5, "initial": 0.8, "length": 0.8, "on_record": 0.8, "sex": 0.75,
        "strict_sex": 0.6, "together": 0.25, "strict": 0.2,
    }  # fmt: skip
    assert prompt_for("bo", "M", (True, False, True)) == "boy, 2"
    cells = instructions.instructions()
    assert cells == sorted(set(cells))
    assert ("F", "m", 5) in cells


@pytest.mark.slow
@pytest.mark.skipif(bool(library.why_not()), reason="the scalar engine would take hours")
@pytest.mark.parametrize("seed", [42, 7])
def test_most_answers_obey(seed: int, tmp_path: Path, kamon: Kamon) -> None:
    """Both the base and the fine-tuned model use the default settings."""
    assert kamon("train", "names", "-o", tmp_path / "m", f"--seed={seed}").code == 0
    done = kamon("sft", tmp_path / "m", "instructions", "-o", tmp_path / "n", "--json")
    assert done.code == 0, done.err
    known = done.json["tuning"]
    after, before = known["obedience"], known["base"]["obedience"]
    assert before["together"] == 0.0
    assert after["initial"] > 0.99
    assert after["length"] > 0.95
    assert after["on_record"] > 0.3
    assert after["sex"] > 0.92
    assert after["together"] > 0.92
    assert known["base_validation_loss"] < known["base"]["validation_loss"] + 0.15


# ---- the command


def test_the_command(tiny: Path, tmp_path: Path, kamon: Kamon) -> None:
    data = [*DATA, *({**each, "prompt": 2 * each["prompt"]} for each in DATA)]
    (tmp_path / "x.jsonl").write_text(lines(data) + "\n" + lines(DATA[:5]))
    out = tmp_path / "out"
    flags = ["--num-steps=4", "--batch-size=4", "--seed=7"]
    done = kamon("sft", tiny, tmp_path / "x.jsonl", "-o", out, *flags)
    assert done.code == 0, done.err
    assert "x.jsonl: 255 examples\nValidation " in done.err
    assert re.search(r"^Fine-tuned in [\d.]+ s \(4 steps\)$", done.err, re.M)
    assert f"Saved to {out}/" in done.err
    assert "validation loss on the base's list " in done.err
    answers = [line.split()[0] for line in done.out.splitlines()]
    assert set("".join(answers)) <= set("KLMNO")
    shown = kamon("sample", out, "--prompt", "K", "-n", 3, "--details", "--temperature=1")
    assert (shown.code, len(shown.out.splitlines())) == (0, 3)
    assert "Fine-tuning      sft on " in kamon("inspect", out).out
    assert kamon("sample", out, "-n", 3, "--copies", "--json").json["samples"][2]["number"] == 2
    assert kamon("eval", out, "-n", 10).code == 0
    found = kamon("sft", tiny, tmp_path / "x.jsonl", "-o", tmp_path / "2", *flags, "--json").json
    assert found["tuning"]["data"]["num_examples"] == 255
    assert found["config"]["seed"] == 7
    tested = set(load(tiny).parts()[1])
    prompts = {each["prompt"] for each in divided(data, tested)[1]}
    assert {answer["prompt"] for answer in found["answers"]} <= prompts
    refused = kamon("sft", "--resume", out)
    assert (refused.code, refused.out) == (2, "")
    assert "is already complete: 4 steps" in refused.err


def test_standard_input(
    tiny: Path, tmp_path: Path, kamon: Kamon, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.BytesIO(lines(DATA).encode())
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=text))
    done = kamon("sft", tiny, "-", "-o", tmp_path / "out", "--num-steps=2", "--json")
    assert done.json["tuning"]["data"]["source"] == "standard input"


def test_interrupted(tiny: Path, tmp_path: Path, kamon: Kamon) -> None:
    sft(tiny, DATA, num_steps=5, output=tmp_path / "m", should_stop=stop_after(2))
    shown = kamon("inspect", tmp_path / "m").out
    assert (
        f"Stopped          after step 3 of 5: resume with `kamon sft --resume {tmp_path / 'm'}`"
        in shown
    )
    done = kamon("sft", "--resume", tmp_path / "m", "--json")
    assert done.code == 0, done.err
    assert "from checkpoint generation-000001, after step 3" in done.err
    assert done.json["num_steps_done"] == 5


def test_what_is_picked() -> None:
    config = kamon.Config(learning_rate=0.006)
    assert picked(config, 100)["num_steps"] == 300
    assert picked(config, 10_000)["num_steps"] == 2232
    assert picked(config, 10**6)["num_steps"] == 3200
    for given in ({"batch_size": 4}, {"batch_size": 4, "gradient_accumulation_steps": 3}, {}):
        for base_share in (0.0, 0.3, 0.9):
            size = given.get("batch_size", 32) * given.get("gradient_accumulation_steps", 1)
            steps = picked(config, 10_000, base_share, **given)["num_steps"]
            assert steps * size * (1 - base_share) == pytest.approx(5 * 10_000, rel=0.01)
    assert picked(config, 100)["learning_rate"] == 0.012


def test_answers_of_two_bytes(tmp_path: Path) -> None:
    """With BPE there are no characters to add, and special tokens follow the merges."""
    path = tmp_path / "tokens.json"
    path.write_text(BytePairTokenizer.train(DOCS, 270).to_json())
    base = kamon.train(DOCS, tokenizer=path, num_steps=5, size="tiny")
    model = sft(base, [{"prompt": "é", "completion": doc} for doc in DOCS], num_steps=3)
    assert model.tokenizer.vocab_size == base.tokenizer.vocab_size + 1
    found = find(
        model.engine,
        model.tokenizer,
        SampleRequest(4, 1.0, 1, model.tokenizer.bos),
        GenerationConstraints(prompt="é", prefix="a"),
        list,
    )
    assert all(text.startswith("a") for text in found.texts)
    model.save(tmp_path / "m")
    assert kamon.load(tmp_path / "m").sample(2, prompt="é", seed=3) == model.sample(
        2, prompt="é", seed=3
    )
    assert asdict(model.config)["vocab_size"] == model.tokenizer.vocab_size
