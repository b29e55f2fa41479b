"""A model taken along: the files that are not Kamon compute what Kamon does."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import kamon as package
from conftest import Result, piece_model
from helpers.exported import run_as_module
from helpers.runs import REWARD_TUNING, UNTRAINED
from kamon import Model, completion
from kamon.config import Config
from kamon.data.documents import Documents
from kamon.engines import scalar
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import BOS
from kamon.engines.factory import make_engine
from kamon.engines.parameters import num_params, parameter_shapes
from kamon.errors import ConfigError
from kamon.evaluation import nearest, score
from kamon.exporters import export, standalone
from kamon.finetuning.sft import sft
from kamon.generation.sampling import PrefixCache
from kamon.model import to_checkpoint
from kamon.storage import model_dir
from kamon.storage.checkpoint import Checkpoint
from kamon.storage.metrics import Metrics
from kamon.tokenizers.bpe import SPLIT, BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer

Kamon = Callable[..., Result]
WORDS = [a + b + c for a in "abcde" for b in "fghij" for c in "klmno"]
ODD = ["a\"b'c", "\\n{}%", "\u0301é", "שלום", "👨\u200d👩", "\u2028\x85\x1b", 'a"""b', "\U0010ffff"]
PIECES = ["the cat, the hat", "  that  12345", "naïve café — the end", "tea\n\nthe 👩🏽", "a  b"]
PROMPTED = [
    {"prompt": "a?", "completion": "afk"},
    {"prompt": "b?", "completion": "bgl"},
    {"prompt": "?", "completion": "chm"},
]
SHAPES = st.fixed_dictionaries(
    {
        "n_layer": st.integers(1, 3),
        "n_head": st.integers(1, 4),
        "head_dim": st.integers(1, 5),
        "block_size": st.integers(1, 7),
        "vocab_size": st.integers(2, 40),
        "seed": st.integers(0, 10**6),
    }
)


def of_shape(shape: dict[str, int], *, single: bool = True) -> Checkpoint:
    """A model of random parameters; single: which float32 holds."""
    n_embd = shape["head_dim"] * shape["n_head"]
    config = Config(**{k: v for k, v in shape.items() if k != "head_dim"}, n_embd=n_embd)
    rng = random.Random(shape["seed"])
    params = array("d", [rng.gauss(0, 0.3) for _ in range(num_params(config))])
    params = array("d", array("f", params)) if single else params
    tokenizer = CharTokenizer(map(chr, range(97, 96 + config.vocab_size)))
    return Checkpoint(config, tokenizer, params, Metrics(), UNTRAINED, b"")


def scalar_of(made: Checkpoint) -> Engine:
    engine = make_engine("scalar", made.config)
    engine.load(initial_state(made.params))
    return engine


def kept(model: Model) -> Checkpoint:
    return to_checkpoint(model, model.engine.state()["params"])


def scalar_model(model: Model) -> Model:
    """The same, computed by the scalar engine."""
    return replace(model, engine=scalar_of(kept(model)))


TINY: dict[str, Any] = {"n_embd": 6, "n_head": 3, "block_size": 7, "hold_out": False}


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    tiny = {"size": "original", "num_steps": 30, "learning_rate": 0.05}
    chars = package.train(WORDS, **TINY, **tiny, n_layer=2, dtype="float64")
    pieces: dict[str, Any] = {"n_embd": 6, "n_head": 3, "block_size": 7, "num_steps": 30}
    trained = {
        "chars": chars,
        "single": package.train(WORDS, **TINY, **tiny),
        "zero": package.train(ODD, **TINY, **tiny),
        "pieces": piece_model(PIECES, 280, **pieces),
        "prompts": sft(chars, PROMPTED, num_steps=20),
    }
    return trained | {
        "blended": blended(trained["single"], 0.3, 6),
        "blended pieces": blended(trained["pieces"], 0.6, 3),
        "blended prompts": blended(trained["prompts"], 0.5, 2),
    }


NAMES = ["chars", "single", "zero", "pieces", "prompts"]
NAMES += ["blended", "blended pieces", "blended prompts"]


def blended(model: Model, weight: float, order: int) -> Model:
    """The model blended with an n-gram of its list."""
    return replace(model, training=model.training | {"blend": {"weight": weight, "order": order}})


@pytest.fixture(scope="module", params=NAMES)
def both(request: pytest.FixtureRequest, models: dict[str, Model]) -> tuple[Model, ModuleType]:
    """A model by the scalar engine, and its file."""
    model = models[request.param]
    return scalar_model(model), run_as_module(export.export(kept(model), "python"))


# ---- Python


@given(
    shape=SHAPES,
    documents=st.lists(st.text("abcd", max_size=8), min_size=1, max_size=60),
    weight=st.sampled_from([0.0, 1e-9, 0.5, 1.0]) | st.floats(0, 1),
    order=st.integers(1, 10),
    tokens=st.lists(st.integers(0, 10**6), min_size=1),
)
@example(  # 1 / total is not total ** -1 here
    shape={
        "n_layer": 3,
        "n_head": 1,
        "head_dim": 4,
        "block_size": 4,
        "vocab_size": 30,
        "seed": 999999,
    },
    documents=[""],
    weight=0.5,
    order=1,
    tokens=[430105, 1],
)
@settings(max_examples=40)
def test_a_blend_is_that_of_the_language_model(
    shape: dict[str, int], documents: list[str], weight: float, order: int, tokens: list[int]
) -> None:
    """Logits, scores, samples and completions, to the last bit, for any model and list."""
    shape["vocab_size"] += 3  # a to d are known
    made = of_shape(shape)
    docs = Documents.of(dict.fromkeys(documents))
    training = UNTRAINED | {"blend": {"weight": weight, "order": order}}
    made = replace(made, documents=docs, training=training)
    model = Model(*(made.config, made.tokenizer, scalar_of(made), made.metrics, training, docs))
    module = run_as_module(export.export(made, "python"))
    ours, theirs = model.language_model.decoder(), module.Decoder()
    for token in tokens[: made.config.block_size]:
        token %= made.config.vocab_size
        assert theirs.push(token) == list(ours.push(token))
    texts = [*documents[:3], "", "abcd" * 5, "dcba"]
    assert [module.score(text)[0] for text in texts] == [
        found.logprob for found in score.score(model, texts)
    ]
    for temperature in (0, 0.5, 1.5):
        wanted = model.sample(4, temperature=temperature, seed=shape["seed"])
        assert module.sample(4, temperature, shape["seed"]) == wanted
    if made.config.block_size > 1:
        module.READS = 20
        with mock.patch.object(completion, "MAX_READS_SLOW", 20):
            wanted_docs = completion.complete(model, "a", 5).documents
        assert module.complete("a", 5) == [(each.text, each.logprob) for each in wanted_docs]


def test_without_the_blend_it_is_the_gpt(models: dict[str, Model]) -> None:
    gpt, model = models["single"], models["blended"]
    for format in ("python", "json"):
        content = export.export(model, format, blend=False)
        assert content == export.export(gpt, format)
        assert len(export.export(model, format)) > len(content)
    assert 'NGRAM = ""' in export.export(gpt, "python").decode()


def test_nothing_is_unpacked_before_it_is_needed(models: dict[str, Model]) -> None:
    module = run_as_module(export.export(models["blended"], "python"))
    assert module.grams.cache_info().misses == 0
    module.sample(2)
    assert module.grams.cache_info().misses == 1


@given(shape=SHAPES, single=st.booleans(), tokens=st.lists(st.integers(0, 10**6), min_size=1))
@settings(max_examples=25)
def test_logits_are_those_of_the_scalar_engine(
    shape: dict[str, int], single: bool, tokens: list[int]
) -> None:
    made = of_shape(shape, single=single)
    module = run_as_module(export.export(made, "python"))
    type_ = "f" if single else "d"
    assert type_ == module.NUMBER
    ours, theirs = scalar_of(made).decoder(), module.Decoder()
    for token in tokens[: made.config.block_size]:
        token %= made.config.vocab_size
        assert theirs.push(token) == list(ours.push(token))


def test_no_more_tokens_than_fit(both: tuple[Model, ModuleType]) -> None:
    decoder = both[1].Decoder()
    for _ in range(7):
        decoder.push(0)
    with pytest.raises(ValueError, match="reads at most 7 tokens"):
        decoder.push(0)


@pytest.mark.parametrize("temperature", [None, 0.0, 5e-324, 0.3, 2.5])
@pytest.mark.parametrize("seed", [None, -3, 2**70 + 5])
def test_samples_are_those_of_the_scalar_engine(
    both: tuple[Model, ModuleType], temperature: float | None, seed: int | None
) -> None:
    model, module = both
    wanted = model.sample(9, temperature=temperature, seed=seed)
    assert module.sample(9, temperature, seed) == wanted
    assert module.sample(4, temperature, seed) == wanted[:4]


@pytest.mark.parametrize("name", ["prompts", "blended prompts"])
def test_answers_to_prompts(name: str, models: dict[str, Model]) -> None:
    model = scalar_model(models[name])
    module = run_as_module(export.export(kept(model), "python"))
    for prompt in ("a?", "?", ""):
        wanted = model.sample(12, temperature=1.5, seed=3, prompt=prompt)
        assert module.sample(12, 1.5, 3, prompt) == wanted
        for text in ("afk", ""):
            (logprob,) = nearest.logprobs(model.language_model, model.tokenizer, [text], prompt)
            assert module.score(text, prompt)[0] == logprob
        (logprob,) = nearest.logprobs(model.language_model, model.tokenizer, ["bglbglbgl"], prompt)
        assert module.score("bglbglbgl", prompt)[0] < logprob  # of its beginning
    with pytest.raises(ValueError, match="leaves no room for a completion: it has 20 tokens"):
        module.sample(1, prompt="a" * 20)
    with pytest.raises(ValueError, match="does not take prompts"):
        run_as_module(export.export(kept(models["chars"]), "python")).sample(1, prompt="a")


def test_scores_are_those_of_the_scalar_engine(both: tuple[Model, ModuleType]) -> None:
    model, module = both
    texts = [*model.sample(10, temperature=1.5), "", *(doc[:9] for doc in model.docs), WORDS[0] * 9]
    texts = [text for text in texts if not model.tokenizer.unknown(text)]
    scores = list(score.score(model, texts))
    assert [found.text for found in scores] == texts
    for found in scores:
        assert module.score(found.text) == (found.logprob, found.bits_per_char)


@pytest.mark.slow
@pytest.mark.parametrize("reads", [1, 9, 120])
@pytest.mark.parametrize("n", [1, 30])
def test_completions_are_those_of_the_scalar_engine(
    both: tuple[Model, ModuleType], n: int, reads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, module = both
    monkeypatch.setattr(completion, "MAX_READS_SLOW", reads)
    monkeypatch.setattr(module, "READS", reads)
    prefixes = dict.fromkeys(
        part for doc in list(model.docs)[:3] for part in (doc[:1], doc[:2], doc[:3], "")
    )
    for prefix in prefixes:
        if len(model.tokenizer.encode(prefix)) < 7:
            wanted = completion.complete(model, prefix, n).documents
            assert module.complete(prefix, n) == [(each.text, each.logprob) for each in wanted]


@pytest.mark.parametrize("bound", ["WORK", "LOOKS"])
def test_what_bounds_the_search(
    bound: str, models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer reads of a larger model, and of one with many tokens."""
    model = scalar_model(models["chars"])
    module = run_as_module(export.export(kept(model), "python"))
    most = 30.0 * (num_params(model.config) if bound == "WORK" else model.config.vocab_size)
    monkeypatch.setattr(
        completion, {"WORK": "MAX_FLOPS_SLOW", "LOOKS": "MAX_EXPANSIONS"}[bound], most
    )
    monkeypatch.setattr(module, bound, most)
    found = completion.complete(model, "a", 20)
    assert (found.complete, found.reads < 70) == (False, True)
    assert module.complete("a", 20) == [(each.text, each.logprob) for each in found.documents]
    assert (module.READS, module.LOOKS if bound == "WORK" else module.WORK) == (
        completion.MAX_READS_SLOW,
        completion.MAX_EXPANSIONS if bound == "WORK" else completion.MAX_FLOPS_SLOW,
    )


@pytest.mark.parametrize("version", [1, 2])
@given(text=st.text(st.sampled_from("the at12,. \n\téüe\u0301\u200dकि👩🏽_"), max_size=40))
@settings(max_examples=40)
def test_byte_pairs_are_the_same(text: str, version: int, models: dict[str, Model]) -> None:
    merges = models["pieces"].tokenizer.merges  # type: ignore[attr-defined]
    tokenizer = BytePairTokenizer(merges, version=version)
    theirs = standalone.BytePairs(merges, [BOS], version)
    assert version == 1 or theirs.split.pattern == SPLIT.pattern
    assert theirs.encode(text) == tokenizer.encode(text)
    assert theirs.decode(theirs.encode(text)) == text
    if text:
        assert set(theirs.openings(text)) == set(tokenizer.prefix_tokenizations(text))


def test_next_tokens(both: tuple[Model, ModuleType]) -> None:
    model, module = both
    prefix = next(iter(model.docs))[:1]
    found = module.next_tokens(prefix)
    tokens = tuple(model.tokenizer.encode(prefix))
    logits = PrefixCache(model.language_model, model.tokenizer.bos).logits(tokens)
    if model.tokenizer.clusters:
        out = model.tokenizer.ruled_out(tokens)
        logits = [logit for token, logit in enumerate(logits) if token not in out]
    assert sorted(p for _, p in found) == sorted(scalar.softmax(logits))
    assert found == sorted(found, key=lambda each: -each[1])
    assert sum(text == "" for text, _ in found) == 1


def run(path: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """As where nothing is installed, not even what Python finds beside itself."""
    command = [sys.executable, "-I", "-S", "-W", "error", str(path), *argv]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8")


def test_the_file_as_a_program(models: dict[str, Model], tmp_path: Path) -> None:
    model = scalar_model(models["chars"])
    path = tmp_path / "words.py"
    path.write_bytes(export.export(kept(model), "python"))
    shown = run(path, "5", "--temperature", "0.7", "--seed", "3")
    assert (shown.stdout.splitlines(), shown.stderr) == (
        model.sample(5, temperature=0.7, seed=3),
        "",
    )
    assert len(run(path).stdout.splitlines()) == 20
    (found,) = score.score(model, ["afk"])
    wanted = f"{found.logprob:.3f} nats, {found.bits_per_char:.3f} bits per character\n"
    assert run(path, "--score", "afk").stdout == wanted
    best = completion.complete(model, "af", 3).documents
    wanted = "".join(f"{each.logprob:10.3f}  {each.text}\n" for each in best)
    assert run(path, "3", "--complete", "af").stdout == wanted
    assert "20 new ones" not in run(path, "--help").stdout


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--score", "é"], "the model does not know the character 'é'"),
        (["--complete", "abcdefg"], "leaves nothing to complete: it has 7 tokens"),
        (["0", "--complete", "a"], "n must be from 1 to 10,000, not 0"),
        (["-1"], "the number of samples must be 0 or more, not -1"),
        (["--temperature", "nan"], "temperature must be 0 or more and finite, not nan"),
        (["--prompt", "a"], "this model does not take prompts"),
        (["--complete", "a", "--prompt", "a"], "cannot be combined with --prompt"),
        (["--complete", "a", "--score", "a"], "not allowed with argument"),
        (["x"], "invalid int value"),
    ],
)
def test_what_the_program_refuses(
    argv: list[str], message: str, models: dict[str, Model], tmp_path: Path
) -> None:
    path = tmp_path / "words.py"
    path.write_bytes(export.export(kept(models["chars"]), "python"))
    done = run(path, *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_same_model_makes_the_same_bytes(name: str, models: dict[str, Model]) -> None:
    made = kept(models[name])
    again = replace(made, params=array("d", made.params))
    for format in ("python", "json"):
        assert export.export(made, format) == export.export(again, format)
    other = array("d", made.params)
    other[-1] += 1
    assert export.export(replace(made, params=other), "python") != export.export(made, "python")


def test_the_file_can_be_read(models: dict[str, Model]) -> None:
    for model in models.values():
        content = export.export(kept(model), "python").decode()
        assert max(map(len, content.splitlines())) <= 100
        assert content.startswith(
            Path(standalone.__file__).read_text("utf-8").split("# ---- 7.")[0]
        )


# ---- JSON


@pytest.mark.parametrize("name", NAMES)
def test_json_has_everything(name: str, models: dict[str, Model]) -> None:
    made = kept(models[name])
    content = json.loads(export.export(made, "json"))
    blend = made.training.blend
    names = ["format", "version", "config", "tokenizer", "special", "params"]
    assert list(content) == ([*names, "ngram"] if blend else names)
    assert (content["format"], content["version"]) == ("kamon", 2 if blend else 1)
    assert Config(**content["config"]) == made.config
    assert content["tokenizer"] == json.loads(made.tokenizer.to_json())
    assert content["special"] == made.tokenizer.special
    shapes = {n: (len(rows), len(rows[0])) for n, rows in content["params"].items()}
    assert shapes == parameter_shapes(made.config)
    params = content["params"]
    assert array("d", [x for rows in params.values() for row in rows for x in row]) == made.params
    empty: list[list[list[float]]] = [[] for _ in range(made.config.n_layer)]
    logits = scalar.gpt(
        params, made.config.head_dim, 1, 0, empty, [[] for _ in range(made.config.n_layer)]
    )
    assert logits == scalar_of(made).decoder().push(1)


def read_mixture(content: bytes) -> Callable[[Sequence[int], Sequence[float]], list[float]]:
    """A reader of JSON files, as another language would have it: p of (tokens, GPT's p)."""
    about = json.loads(content)
    ngram, vocab_size = about["ngram"], about["config"]["vocab_size"]
    followers: dict[tuple[int, ...], dict[int, int]] = {}
    nodes: list[tuple[int, ...]] = [()]
    children = zip(ngram["tokens"], ngram["counts"], strict=True)
    for i, num in enumerate(ngram["num_children"]):
        followers[nodes[i]] = dict(islice(children, num))
        nodes += [(*nodes[i], token) for token in followers[nodes[i]]]

    def mixture(tokens: Sequence[int], gpt: Sequence[float]) -> list[float]:
        p = [1 / vocab_size] * vocab_size
        for size in range(min(ngram["order"], len(tokens) + 1)):
            counts = followers.get(tuple(tokens[len(tokens) - size :]))
            if not counts:
                break
            total = sum(counts.values())
            taken = {token: ngram["discounts"][size][min(c, 3)] for token, c in counts.items()}
            p = [sum(taken.values()) / total * each for each in p]
            for token, count in counts.items():
                p[token] += (count - taken[token]) / total
        weight = ngram["gpt_weight"]
        return [weight * a + (1 - weight) * b for a, b in zip(gpt, p, strict=True)]

    return mixture


@pytest.mark.parametrize("name", ["blended", "blended pieces", "blended prompts"])
def test_json_has_the_blend(name: str, models: dict[str, Model]) -> None:
    model = scalar_model(models[name])
    mixture = read_mixture(export.export(model, "json"))
    read = 0
    for doc in list(model.docs)[:20]:
        tokens = model.tokenizer.encode_document(doc)[:6]
        ours, gpt = model.language_model.decoder(), model.engine.decoder()
        for i, token in enumerate(tokens, 1):
            p = mixture(tokens[:i], scalar.softmax(gpt.push(token)))
            assert p == pytest.approx(list(map(math.exp, ours.push(token))), rel=1e-12)
            read += 1
    assert read > 15


# ---- ONNX


def step_by_step(content: bytes, documents: Sequence[Sequence[int]]) -> list[Any]:
    """The logits (B, V) of each step, for documents of the same length."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options)
    config = json.loads(session.get_modelmeta().custom_metadata_map["config"])
    head_dim = config["n_embd"] // config["n_head"]
    shape = (config["n_layer"], len(documents), config["n_head"], 0, head_dim)
    keys = values = np.zeros(shape, np.float32)
    found = []
    for position, tokens in enumerate(zip(*documents, strict=True)):
        given = {
            "token": np.array(tokens),
            "position": np.array(position),
            "past_keys": keys,
            "past_values": values,
        }
        logits, keys, values = session.run(None, given)
        found.append(logits)
        assert keys.shape == values.shape == (*shape[:3], position + 1, head_dim)
    return found


@pytest.mark.extra
@given(shape=SHAPES, batch=st.integers(1, 3), single=st.booleans())
@settings(max_examples=15)
def test_onnx_computes_what_the_scalar_engine_does(
    shape: dict[str, int], batch: int, single: bool
) -> None:
    made = of_shape(shape, single=single)
    rng = random.Random(shape["seed"])
    size, vocab_size = made.config.block_size, made.config.vocab_size
    documents = [[rng.randrange(vocab_size) for _ in range(size)] for _ in range(batch)]
    found = step_by_step(export.export(made, "onnx"), documents)
    for row, document in enumerate(documents):
        assert_near([logits[row].tolist() for logits in found], made, document)


def assert_near(found: list[list[float]], made: Checkpoint, document: Sequence[int]) -> None:
    """Within 1e-5 of the scalar engine; where logits are above 1, of the largest of them."""
    decoder = scalar_of(made).decoder()
    for logits, token in zip(found, document, strict=True):
        wanted = decoder.push(token)
        bound = 1e-5 * max(1, *map(abs, wanted))
        assert logits == pytest.approx(wanted, abs=bound, rel=0)


@pytest.mark.extra
@pytest.mark.parametrize("name", NAMES)
def test_onnx_of_trained_models(name: str, models: dict[str, Model]) -> None:
    made = kept(models[name])
    doc = next(iter(models[name].docs))
    tokens = made.tokenizer.encode_document(doc)[: made.config.block_size]
    found = step_by_step(export.export(made, "onnx"), [tokens])
    assert_near([logits[0].tolist() for logits in found], made, tokens)


@pytest.mark.extra
@pytest.mark.parametrize("name", NAMES)
def test_onnx_says_what_it_is(name: str, models: dict[str, Model]) -> None:
    import onnx

    made = kept(models[name])
    content = export.export(made, "onnx")
    assert content == export.export(made, "onnx")
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    said = {each.key: each.value for each in model.metadata_props}
    assert said["tokenizer"] == made.tokenizer.to_json()
    assert Config(**json.loads(said["config"])) == made.config
    assert json.loads(said["special"]) == made.tokenizer.special
    said_sizes = (int(said["bos"]), int(said["block_size"]))
    assert said_sizes == (made.tokenizer.bos, made.config.block_size)
    sizes = {each.name: tuple(each.dims) for each in model.graph.initializer}
    assert {k: v for k, v in sizes.items() if k in parameter_shapes(made.config)} == (
        parameter_shapes(made.config)
    )


@pytest.mark.extra
def test_what_onnx_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    from kamon.exporters import onnx

    shape = {"n_layer": 1, "n_head": 1, "head_dim": 2, "block_size": 2, "vocab_size": 3, "seed": 0}
    made = of_shape(shape)
    large = array("d", made.params)
    large[0] = 1e39
    with pytest.raises(ConfigError, match="too large for the float32"):
        export.export(replace(made, params=large), "onnx")
    monkeypatch.setattr(onnx, "MAX_BYTES", 4 * num_params(made.config) - 1)
    with pytest.raises(ConfigError, match=r"64 parameters, too many for an ONNX file .2 GiB"):
        export.export(made, "onnx")


def test_onnx_that_is_not_installed(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "kamon.exporters.onnx", raising=False)
    with pytest.raises(ConfigError, match=r'pip install "kamon\[onnx\]"'):
        export.export(kept(models["chars"]), "onnx")


# ---- what cannot be, and the verb


def test_what_the_python_file_cannot_be(models: dict[str, Model]) -> None:
    made = kept(models["chars"])
    text = replace(made, config=replace(made.config, mode="text"))
    with pytest.raises(ConfigError, match=r"a model of one long text\nhint: use --format onnx"):
        export.export(text, "python")
    judge = replace(made, training=made.training | {"tuning": REWARD_TUNING})
    with pytest.raises(ConfigError, match="this is a reward model, which judges them"):
        export.export(judge, "python")
    for each in (text, judge):
        assert json.loads(export.export(each, "json"))["format"] == "kamon"
    with pytest.raises(
        ConfigError, match=r"unknown format 'gguf'\nhint: choose from json, python, onnx"
    ):
        export.export(made, "gguf")


@pytest.fixture
def folder(models: dict[str, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the directory `m` of the current one."""
    monkeypatch.chdir(tmp_path)
    models["single"].save("m")
    return tmp_path


def test_the_verb(folder: Path, kamon: Kamon) -> None:
    made = model_dir.load("m")
    done = kamon("export", "m", "-o", "new/words.py")
    content = Path("new/words.py").read_bytes()
    assert (done.code, done.err) == (0, "")
    size = f"{len(content) / 1000:.3g} kB"
    assert done.out == f"Wrote new/words.py ({size}, {len(made.params):,} parameters)\n"
    assert content == export.export(made, "python")
    refused = kamon("export", "m", "-o", "new/words.py", "--format=json")
    assert (refused.code, refused.out) == (1, "")
    assert (
        "new/words.py already exists\nhint: choose another name with -o, or add --overwrite"
        in refused.err
    )
    assert Path("new/words.py").read_bytes() == content
    done = kamon("export", "m", "-o", "new/words.py", "--format=json", "--overwrite", "--json")
    content = Path("new/words.py").read_bytes()
    assert content == export.export(made, "json")
    assert {k: v for k, v in done.json.items() if k != "sha256"} == {
        "directory": "m",
        "file": "new/words.py",
        "format": "json",
        "num_params": len(made.params),
        "bytes": len(content),
        "ngram_order": None,
    }
    assert sorted(path.name for path in folder.rglob("*.*") if "m" not in path.parts[-3:-1]) == [
        "words.py"
    ]
    assert model_dir.load("m").params == made.params


@pytest.mark.extra
def test_rounding_is_said(models: dict[str, Model], folder: Path, kamon: Kamon) -> None:
    done = kamon("export", "m", "-o", "m.onnx")
    assert (done.code, done.err) == (0, "")
    models["chars"].save("d")
    done = kamon("export", "d", "-o", "d.ONNX")
    assert (done.code, done.err) == (
        0,
        "warning: the float64 parameters are rounded to float32 in ONNX\n",
    )
    assert (folder / "d.ONNX").stat().st_size > 4 * len(model_dir.load("d").params)


def test_the_verb_of_a_blend(models: dict[str, Model], folder: Path, kamon: Kamon) -> None:
    models["blended"].save("b")
    done = kamon("export", "b", "-o", "b.py")
    assert (done.code, done.err) == (0, "")
    assert " parameters and a 6-gram)\n" in done.out
    assert (folder / "b.py").read_bytes() == export.export(model_dir.load("b"), "python")
    done = kamon("export", "b", "-o", "gpt.py", "--no-blend")
    assert "-gram" not in done.out
    assert (folder / "gpt.py").read_bytes() == export.export(model_dir.load("m"), "python")
    done = kamon("export", "b", "-o", "b.json", "--json")
    assert done.json["ngram_order"] == 6
    done = kamon("export", "b", "-o", "gpt.json", "--json", "--no-blend")
    assert done.json["ngram_order"] is None


@pytest.mark.extra
def test_what_onnx_leaves_out(models: dict[str, Model], folder: Path, kamon: Kamon) -> None:
    models["blended"].save("b")
    done = kamon("export", "b", "-o", "b.onnx")
    assert (done.code, done.err) == (0, "warning: the ONNX file has only the GPT\n")
    assert "-gram" not in done.out
    assert (folder / "b.onnx").read_bytes() == export.export(models["single"], "onnx")
    done = kamon("export", "b", "-o", "c.onnx", "--no-blend")
    assert (done.code, done.err) == (0, "")
    held_out = {"num_docs": 12, "loss": 2.25, "best_step": 30, "gpt_loss": 2.5, "ngram_loss": 2.75}
    folds = {"num_folds": 5, "loss": 2.25, "gpt_loss": 2.5, "ngram_loss": 2.75}
    for measured in ({"held_out": held_out}, {"cross_validation": folds}):
        training = models["blended"].training | measured
        replace(models["blended"], training=training).save("b", overwrite=True)
        done = kamon("export", "b", "-o", "b.onnx", "--overwrite")
        assert done.err == (
            "warning: the ONNX file has only the GPT: validation loss 2.500 nats per token "
            "(2.250 with the 6-gram)\n"
        )
