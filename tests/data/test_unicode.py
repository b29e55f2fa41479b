"""Text has one form, NFC, wherever Kamon reads it; and what Kamon writes, Kamon reads again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unicodedata import normalize

import pytest

import kamon as package
from conftest import Result
from kamon.cli.output import padded, print_marked
from kamon.cli.suggest import shown
from kamon.completion import complete, fill, next_tokens
from kamon.config import Config
from kamon.data import corpus
from kamon.data.documents import Documents
from kamon.engines import batch
from kamon.errors import TokenizerError
from kamon.evaluation import score
from kamon.evaluation.evaluate import evaluate
from kamon.exporters.export import export
from kamon.finetuning.dpo import dpo
from kamon.finetuning.ppo import by_rule
from kamon.finetuning.preferences import Preference
from kamon.finetuning.rules import parse_rule
from kamon.finetuning.sft import sft
from kamon.generation.constraints import GenerationConstraints, find
from kamon.generation.sampling import SampleRequest
from kamon.model import Model, to_checkpoint
from kamon.packing.pack import pack
from kamon.packing.plan import PackOptions
from kamon.packing.shards import open_shards
from kamon.storage import model_dir
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import tokenizer_from_json

Kamon = Callable[..., Result]

LIST = ["björn", "åsa", "märta", "örjan", "håkan", "hjördis", "åke", "sören", "göran", "pär"] * 3
DOCS = list(dict.fromkeys(LIST))
SETTINGS = {"n_embd": 8, "n_head": 2, "n_layer": 1, "block_size": 8, "num_steps": 150, "seed": 1}


def nfd(text: str) -> str:
    return normalize("NFD", text)


@pytest.fixture(scope="module")
def model() -> Model:
    """Of a list in NFD, as file names of a Mac are."""
    return package.train(map(nfd, LIST), temperature=1.0, **SETTINGS)


@pytest.fixture(scope="module")
def old() -> Model:
    """As it was before lists were brought to NFC: a tokenizer that takes texts as they are."""
    tokenizer = CharTokenizer(sorted(set("".join(map(nfd, DOCS)))))
    assert "normalization" not in json.loads(tokenizer.to_json())
    return package.train(map(nfd, LIST), tokenizer=tokenizer, temperature=1.0, **SETTINGS)


# ---- reading


def test_a_list_is_brought_to_nfc(tmp_path: Path, kamon: Kamon) -> None:
    docs = [*LIST[:3], *map(nfd, LIST[:4]), " " + nfd("åsa"), "anna", ""]
    wanted = [*LIST[:3], *LIST[:4], "åsa", "anna"]
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{doc}\n" for doc in docs), encoding="utf-8")
    table = tmp_path / "list.jsonl"
    table.write_text("".join(json.dumps({"text": doc}) + "\n" for doc in docs))
    text = path.read_text(encoding="utf-8")
    for found in (
        corpus.read(path),
        corpus.read(table),
        corpus.from_docs(docs),
        corpus.from_text(text),
    ):
        assert list(found.docs) == wanted
        assert found.num_normalized == found.summary()["num_normalized"] == 5
        assert found.num_stripped == 1
    assert list(corpus.read(path, composed=False).docs) == [doc.strip() for doc in docs[:-1]]
    assert "5 lines normalised to NFC" in kamon("ngram", path).err
    cleaned = kamon("clean", path)
    assert "lines normalised" not in cleaned.err  # a step of its own says it
    assert cleaned.out.split() == list(dict.fromkeys(wanted))
    whole = corpus.read(path, mode="text")
    assert (list(whole.docs), whole.num_normalized) == ([normalize("NFC", text)], 1)


@pytest.mark.parametrize("mode", ["documents", "text"])
def test_a_packed_corpus_is_the_list(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [f"{nfd(doc)} {number}" for number in range(4000) for doc in DOCS[:4]]
    Path("list.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pack(["list.txt"], "shards", PackOptions(mode=mode, hold_out=False))  # type: ignore[arg-type]
    shards = open_shards("shards")
    read = corpus.read("list.txt", mode=mode)
    tokenizer = shards.tokenizer
    assert tokenizer.composed
    assert tokenizer.to_json() == CharTokenizer.train(read.docs).to_json()
    found = shards.documents("train", 1 << 20, 0)
    texts = [tokenizer.decode(tokens[1:-1]) for tokens in found.get(0, len(found))]
    assert sorted(texts) == sorted(read.docs)


@pytest.mark.parametrize(
    "make", [CharTokenizer.train, lambda docs: BytePairTokenizer.train(docs, 300)]
)
def test_tokenizers_encode_nfc(make: Callable[[Iterable[str]], Tokenizer]) -> None:
    tokenizer = make(list(map(nfd, LIST)))
    assert make(LIST).to_json() == make(Documents.of(LIST)).to_json() == tokenizer.to_json()
    same = tokenizer_from_json(tokenizer.to_json())
    assert same.to_json() == tokenizer.to_json()
    for doc in DOCS:
        assert tokenizer.decode(tokenizer.encode(nfd(doc))) == doc
        assert same.encode(doc) == tokenizer.encode(nfd(doc))
        assert same.prefix_tokenizations(nfd(doc[:2])) == same.prefix_tokenizations(doc[:2])
    assert list(same.encode_documents(map(nfd, DOCS))) == list(same.encode_documents(DOCS))
    assert same.lengths(map(nfd, DOCS)) == same.lengths(DOCS)
    sizes = [2] * len(DOCS)
    assert same.num_chars(map(nfd, DOCS), sizes) == same.num_chars(DOCS, sizes)
    odd = tokenizer.to_json().replace('"NFC"', '"NFKC"')
    with pytest.raises(TokenizerError, match="normalization"):
        tokenizer_from_json(odd)


def test_what_a_model_writes_it_can_read() -> None:
    """It may put an accent on any letter: of some that makes a character which it does not know."""
    tokenizer = CharTokenizer(["a", "q", "é", "\u0301"], composed=True)
    strange = ["a\u0301", "á", "q\u0301", "é", "e\u0301", "a\u0301é"]
    wanted = [[0, 3], [0, 3], [1, 3], [2], [2], [0, 3, 2]]
    assert [tokenizer.encode(text) for text in strange] == wanted
    assert [list(tokens[1:-1]) for tokens in tokenizer.encode_documents(strange)] == wanted
    texts = tokenizer.decode_documents(batch.pack_sequences(wanted))
    assert [tokenizer.encode(text) for text in texts] == wanted
    assert tokenizer.encode_documents(["á"]).tokens.tolist() == [4, 0, 3, 4]


# ---- all that is compared with what a model knows


def test_conditions_in_either_form(model: Model) -> None:
    for name, text in (("prefix", "å"), ("suffix", "ö"), ("contains", "ä"), ("regex", ".*[åö].*")):
        found = model.generate(5, **{name: text})
        assert found.texts
        assert all(normalize("NFC", each) == each for each in found.texts)
        assert model.generate(5, **{name: nfd(text)}) == found
    known = model.sample(200)
    left = model.sample(200, exclude=map(nfd, known))
    assert not set(left) & set(known)
    assert not set(model.sample(100, novel=True)) & set(DOCS)
    assert model.sample(2, prefix=nfd("å"), max_len=1, min_len=1) == ["å", "å"]
    assert model.sample(3, prefix="a") == [
        each for each in model.sample(3, prefix="a") if each[0] == "a"
    ]


def test_a_mark_that_changes_the_prefix_ends_it() -> None:
    """An o with dots above is no beginning with o, though the model writes them one by one."""
    model = package.train(["öx", "q\u0308", "q\u0308o", "ox", "oo"] * 5, **SETTINGS)
    found = model.generate(100, prefix="o", temperature=3.0)
    assert found.num_candidates > len(found.texts)
    assert all(each.startswith("o") for each in found.texts)
    either = model.generate(100, regex="[oö].*", temperature=3.0).texts
    assert {each[0] for each in either} == {"o", "ö"}
    assert all(model.tokenizer.normal(each) == each for each in either)
    assert len(list(score.score(model, either))) == 100


def test_scores_and_completions_in_either_form(model: Model) -> None:
    given = ["björn", nfd("björn")]
    first, second = score.score(model, given, unknown="zero")
    assert first._replace(index=1) == second
    assert first.text == "björn"
    assert first.logprob > -100
    pairs = package.train(LIST, tokenizer="bpe", vocab_size=280, num_steps=2, size="tiny")
    for each in (model, pairs):
        assert next_tokens(each, nfd("bjö")) == next_tokens(each, "bjö")
    found = complete(model, nfd("bjö"), 3)
    assert found == complete(model, "bjö", 3)
    assert all(each.text.startswith("bjö") for each in found.documents)
    assert "björn" in [each.text for each in fill(model, "bj_rn", 20).documents]
    assert fill(model, nfd("_ör*"), 3) == fill(model, "_ör*", 3)
    first, second = (evaluate(model, docs, n=0) for docs in (["söran"], [nfd("söran")]))
    assert first == second


def test_rules_in_either_form() -> None:
    for text in ("björn", nfd("björn")):
        for rule in (
            'contains "ö"',
            'startswith "bjö"',
            'endswith "örn"',
            "matches /ö.n$/",
            "len = 5",
        ):
            assert parse_rule(rule)(text)
            assert parse_rule(nfd(rule))(text)
            assert by_rule(rule)([text]) == [1.0]
        assert not parse_rule('contains "o"')(text)


def test_tuning_in_either_form(model: Model) -> None:
    examples = [{"prompt": "ö", "completion": "björn"}, {"prompt": "å", "completion": "åsa"}] * 5
    other = [{key: nfd(text) for key, text in each.items()} for each in examples]
    first, second = (sft(model, data, num_steps=3, base_share=0.0) for data in (examples, other))
    assert first.tokenizer.to_json() == second.tokenizer.to_json()
    assert first.tokenizer.composed
    assert first.sample(3, prompt="ö") == second.sample(3, prompt=nfd("ö"))
    pairs = [Preference("björn", "åke"), Preference("sören", "åsa")]
    other_pairs = [Preference(nfd(each.chosen), nfd(each.rejected)) for each in pairs]
    first, second = (dpo(model, data, num_steps=3) for data in (pairs, other_pairs))
    assert first.engine.state()["params"] == second.engine.state()["params"]


def test_models_of_before_keep_their_form(old: Model, tmp_path: Path) -> None:
    """Their characters are those of NFD, and their texts are taken as they are given."""
    assert not old.tokenizer.composed
    assert set(old.docs) == set(map(nfd, DOCS))
    old.save(tmp_path / "m")
    loaded = package.load(tmp_path / "m")
    assert not loaded.tokenizer.composed
    assert loaded.sample(20) == old.sample(20)
    assert all(each.startswith(nfd("å")) for each in loaded.sample(5, prefix=nfd("å")))
    for text in ("å", "björn"):
        with pytest.raises(TokenizerError):
            loaded.sample(1, prefix=text)
    more = package.train(map(nfd, DOCS), init_from=loaded, num_steps=2)
    assert set(more.docs) == set(map(nfd, DOCS))
    assert evaluate(loaded, [nfd("söran")], n=0).documents.num_unknown == 0


def test_a_training_of_before_goes_on(old: Model, tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "list.txt"
    path.write_text("".join(f"{nfd(doc)}\n" for doc in LIST), encoding="utf-8")
    settings = SETTINGS | {"num_steps": 4}
    package.train(path, tokenizer=old.tokenizer, output=tmp_path / "m", **settings)
    done = kamon("train", path, "--resume", tmp_path / "m", "--extend", 2)
    assert done.code == 0, done.err
    assert "NFC" not in done.err
    assert set(package.load(tmp_path / "m").docs) == set(map(nfd, DOCS))
    done = kamon("train", path, "--from", tmp_path / "m", "-o", tmp_path / "n", "--num-steps=2")
    assert done.code == 0, done.err
    assert not package.load(tmp_path / "n").tokenizer.composed


# ---- what is written can be read

PLACES = (
    {"PYTHONIOENCODING": "cp1252"},
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
)
ODD = ["a\tb", "बी", "c\x0bd", "e\x0cf", "g\x85h", "i\u2028j", "k\u2029l", "C:\\temp", "björn"]


def piped(
    place: dict[str, str], *argv: object, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "LC_", "LANG"))
    }
    command = [sys.executable, *map(str, argv)]
    return subprocess.run(command, input=given, capture_output=True, env=environment | place)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned ODD by heart."""
    path = tmp_path_factory.mktemp("zero") / "m"
    settings = SETTINGS | {"num_steps": 400, "learning_rate": 0.03, "n_embd": 16}
    package.train(ODD, temperature=0.5, output=path, **settings)
    return path


@pytest.mark.parametrize("place", PLACES, ids=["cp1252", "C"])
def test_results_are_utf_8_whatever_the_locale(place: dict[str, str], odd: Path) -> None:
    wanted = package.load(odd).sample(40)
    done = piped(place, "-m", "kamon", "sample", odd, "-n", 40, "--copies")
    assert done.stdout == "".join(f"{text}\n" for text in wanted).encode(), done.stderr
    scored = piped(place, "-m", "kamon", "score", odd, given=done.stdout)
    assert scored.returncode == 0, scored.stderr
    assert [line.split("\t", 4)[4] for line in scored.stdout.decode().split("\n")[:-1]] == wanted


def test_the_exported_file_writes_utf_8(odd: Path, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_bytes(export(model_dir.load(odd), "python"))
    for argv in (["10"], ["--complete", "b", "3"]):
        found = [piped(place, tmp_path / "x.py", *argv) for place in (*PLACES, {"PYTHONUTF8": "1"})]
        assert [each.returncode for each in found] == [0] * 3
        assert found[0].stdout == found[1].stdout == found[2].stdout
    wanted, given = (
        piped(PLACES[0], tmp_path / "x.py", "--score", text) for text in ("björn", "bj")
    )
    assert given.returncode == wanted.returncode == 0


def test_the_exported_file_takes_either_form(model: Model) -> None:
    code = export(to_checkpoint(model, model.engine.state()["params"]), "python").decode()
    names: dict[str, object] = {"__name__": "exported"}
    exec(compile(code, "exported", "exec"), names)
    for name in ("score", "next_tokens", "complete"):
        ask: Callable[[str], object] = names[name]  # type: ignore[assignment]
        assert ask(nfd("björ")) == ask("björ")


def test_what_is_written_excludes_and_comes_back(odd: Path, tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "out.txt"
    path.write_bytes(kamon("sample", odd, "-n", 60, "--copies").out.encode())
    assert set(corpus.read(path).docs) & {"a\tb", "c\x0bd", "g\x85h"}
    again = kamon("sample", odd, "-n", 1, "--exclude", path, "--temperature", 1).out
    assert again
    assert not set(corpus.from_text(again).docs) & set(corpus.read(path).docs)
    path.write_bytes("".join(f"{doc}\n" for doc in ODD).encode())
    kamon("tokenizer", "train", path, "-o", tmp_path / "t.json")
    numbers = kamon("tokenizer", "encode", tmp_path / "t.json", path).out
    (tmp_path / "numbers").write_text(numbers)
    back = kamon("tokenizer", "decode", tmp_path / "t.json", tmp_path / "numbers").out
    assert back.encode() == path.read_bytes()
    found = kamon("complete", odd, "a", "-n", 1).out
    assert "a\tb" in found
    found = kamon("complete", odd, "a", "-n", 1, "--json").json["documents"]
    assert found[0]["text"] == "a\tb"


def test_a_line_end_inside_an_entry_is_no_second_entry(tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a\\nb"}\n{"text": "a\\r\\nb"}\n')
    kamon("tokenizer", "train", path, "-o", tmp_path / "t.json")
    numbers = kamon("tokenizer", "encode", tmp_path / "t.json", path).out
    (tmp_path / "numbers").write_text(numbers)
    done = kamon("tokenizer", "decode", tmp_path / "t.json", tmp_path / "numbers")
    assert done.out.split("\n") == ["a\\nb", "a\\r\\nb", ""]
    assert "2 entries have line ends inside" in done.err
    assert kamon("clean", path).out == "a b\n"


# ---- what people see


def test_columns_are_as_wide_as_they_look(capsys: pytest.CaptureFixture[str]) -> None:
    assert [padded(text, 4) + "|" for text in ("ab", "東京", "e\u0331x", "हिन्दी")] == [
        *("ab  |", "東京|", "e\u0331x  |", "हिन्दी|")
    ]
    print_marked(["東京", "ab", "longer than both"], known={"東京", "ab"})
    assert capsys.readouterr().out.split("\n")[:2] == ["東京  (in the list)", "ab    (in the list)"]


def test_tokens_that_show_nothing_are_named() -> None:
    assert [shown(token) for token in ("\ufe0f", "\u0308", "\u200d", "\u034f", "é", "ि")] == [
        *("U+FE0F", "U+0308", "U+200D", "U+034F", "é", "ि")
    ]


def test_clean_counts_characters_as_people_see_them(tmp_path: Path, kamon: Kamon) -> None:
    path = tmp_path / "list.txt"
    docs = ["णूद्बूमो", "👩\u200d👩\u200d👧", "q\u0301q\u0301", "björn", "anna", "हि"]
    path.write_text("".join(f"{doc}\n" for doc in docs), encoding="utf-8")
    assert kamon("clean", path, "--max-len", 4).out.split() == [*docs[:3], "anna", "हि"]
    done = kamon("clean", path, "--min-len", 3)
    assert done.out.split() == ["णूद्बूमो", "björn", "anna"]
    assert r'"👩\u200d👩\u200d👧" for "1 character"' in done.err


def test_a_model_is_one_short_line(model: Model) -> None:
    assert repr(model) == (
        f"<Model of a list in memory: {model.num_params:,} parameters, 150 steps>"
    )


class Writes:
    """A model that writes one text."""

    def __init__(self, tokens: list[int], vocab_size: int) -> None:
        self.config = Config(block_size=8, vocab_size=vocab_size)
        self.tokens = tokens

    def decoder(self) -> Any:
        left = iter(self.tokens)
        vocab_size = self.config.vocab_size

        def pushed(_: int) -> list[float]:
            written = next(left, self.tokens[-1])
            return [10.0 * (token == written) for token in range(vocab_size)]

        return SimpleNamespace(push=pushed)


def test_length_of_a_sample_is_that_of_its_composed_text() -> None:
    """A letter and its mark may be one character, so six tokens may be five characters."""
    tokenizer = CharTokenizer(sorted("aben\u00e9\u0301"), composed=True)
    assert not tokenizer.is_one_char_each
    tokens = [*map(tokenizer.chars.index, "abe\u0301na"), tokenizer.bos]
    model: Any = Writes(tokens, tokenizer.vocab_size)
    request = SampleRequest(1, 0.0, 1, tokenizer.bos)
    for given in ({"max_len": 3}, {"max_len": 6}, {"min_len": 6}):
        conditions = GenerationConstraints(**given)
        texts = find(model, tokenizer, request, conditions, list).texts
        assert all(
            given.get("min_len", 1) <= len(text) <= given.get("max_len", 8) for text in texts
        )
        assert (texts == ["ab\u00e9na"]) == (given == {"max_len": 6})
