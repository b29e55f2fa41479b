"""`kamon tokenizer`, and what every verb does with a model whose tokens are pieces of text."""

from __future__ import annotations

import io
import json
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from conftest import Result, piece_model
from kamon.completion import complete, fill, logprob_of_prefix, next_tokens
from kamon.engines.scalar import softmax
from kamon.errors import ConfigError
from kamon.evaluation import introspection
from kamon.evaluation.evaluate import evaluate
from kamon.evaluation.nearest import logprobs
from kamon.evaluation.score import score
from kamon.generation.constraints import GenerationConstraints, find
from kamon.generation.sampling import SampleRequest
from kamon.generation.search import Wildcard, search
from kamon.model import Model, load
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import tokenizer_from_json

Kamon = Callable[..., Result]

WORDS = ["the", "then", "other", "é", "ée", "bathe", "at", "12", "123", "a b", "ah, the"]


def phrases() -> list[str]:
    rng = random.Random(2)
    return sorted({" ".join(rng.choices(WORDS, k=rng.randint(1, 4))) for _ in range(300)})


@pytest.fixture(scope="module")
def model() -> Model:
    return piece_model(
        phrases(), 290, n_embd=16, num_steps=300, batch_size=16, block_size=8, learning_rate=0.01
    )


@pytest.fixture(scope="module")
def shelf(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shelf")
    model.save(folder / "m")
    (folder / "t.json").write_text(model.tokenizer.to_json())
    (folder / "words.txt").write_text("the other\nbathe é\n\nzz 9\n")
    return folder


@pytest.fixture
def here(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(shelf)
    yield shelf
    (shelf / "new.json").unlink(missing_ok=True)


# ---- the verb


@pytest.mark.usefixtures("here")
def test_train(kamon: Kamon) -> None:
    done = kamon("tokenizer", "train", "words.txt", "-o", "new.json", "--vocab-size", 300)
    assert done.code == 0
    made = tokenizer_from_json(Path("new.json").read_text())
    expected = BytePairTokenizer.train(["the other", "bathe é", "zz 9"], 300)
    assert isinstance(made, BytePairTokenizer)
    assert made.merges == expected.merges
    assert (
        f"warning: only {made.vocab_size} of 300 tokens: no pair of tokens occurs twice" in done.err
    )
    assert "words.txt: 3 entries, 1 blank line dropped" in done.err
    assert f"{made.vocab_size} tokens: 256 bytes, {len(made.merges)} merges and BOS\n" in done.out
    again = kamon("tokenizer", "train", "words.txt", "-o", "new.json")
    assert again.code == 1
    assert (
        "new.json already exists\nhint: choose another name with -o, or add --overwrite"
        in again.err
    )
    done = kamon("tokenizer", "train", "words.txt", "-o", "new.json", "--overwrite", "--json")
    assert done.json["vocab_size"] == made.vocab_size == done.json["bos"] + 1
    assert done.json["num_bytes"] == len("the otherbathe ézz 9".encode())
    tokens = [made.encode(doc) for doc in ("the other", "bathe é", "zz 9")]
    assert done.json["num_tokens"] == sum(map(len, tokens))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("source", ["m", "t.json"])
def test_encode_and_decode(source: str, model: Model, kamon: Kamon, tmp_path: Path) -> None:
    done = kamon("tokenizer", "encode", source, "words.txt")
    texts = ["the other", "bathe é", "zz 9"]
    rows = [model.tokenizer.encode(text) for text in texts]
    assert [list(map(int, line.split())) for line in done.out.splitlines()] == rows
    (tmp_path / "ids").write_text(done.out)
    assert kamon("tokenizer", "decode", source, tmp_path / "ids").out.splitlines() == texts
    lines = kamon("tokenizer", "encode", source, "words.txt", "--json").out.splitlines()
    assert list(map(json.loads, lines)) == [
        {"text": text, "tokens": row} for text, row in zip(texts, rows, strict=True)
    ]
    lines = kamon("tokenizer", "decode", source, tmp_path / "ids", "--json").out.splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts


@pytest.mark.usefixtures("here")
def test_standard_input(model: Model, kamon: Kamon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"the other\n")))
    done = kamon("tokenizer", "encode", "t.json")
    tokens = model.tokenizer.encode("the other")
    assert done.out == " ".join(map(str, tokens)) + "\n"
    bos = model.tokenizer.bos
    whole = f"{bos} {done.out.strip()} {bos}\n\n{bos}\n195\n10 27\n"
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(whole.encode())))
    done = kamon("tokenizer", "decode", "t.json")
    assert done.out.split("\n") == ["the other", "", "", "\ufffd", "\\n\x1b", ""]


@pytest.mark.usefixtures("here")
def test_show(kamon: Kamon, tmp_path: Path) -> None:
    tokenizer = BytePairTokenizer.train(["the", "the", "then", "at"] * 3, 260)
    (tmp_path / "t.json").write_text(tokenizer.to_json())
    done = kamon("tokenizer", "show", tmp_path / "t.json", "a thé", "then")
    assert done.out == (
        "a thé: 5 characters, 6 tokens\n"
        "  a 97\n"
        "  ␣ 32  t 116  h 104  \\xc3 195  \\xa9 169\n"
        "\n"
        "then: 4 characters, 2 tokens\n"
        "  the 257  n 110\n"
        "         256  t [he] n\n"
        "         257  [the] n\n"
    )
    assert done.err == ""
    lines = kamon("tokenizer", "show", tmp_path / "t.json", "then", "a", "--json").out.splitlines()
    assert json.loads(lines[0]) == {
        "text": "then",
        "tokens": [{"token": 257, "text": "the"}, {"token": 110, "text": "n"}],
        "pieces": [{"steps": [[116, 104, 101, 110], [116, 256, 110], [257, 110]]}],
    }
    assert json.loads(lines[1])["text"] == "a"


@pytest.mark.usefixtures("here")
def test_show_of_a_model_tells_what_its_tokens_are_like(model: Model, kamon: Kamon) -> None:
    done = kamon("tokenizer", "show", "m", "the", "--json").json
    (token,) = (each["token"] for each in done["tokens"])
    rows = introspection.parameters(model)["wte"]
    alike = introspection.cosines(rows)[token]
    near = done["nearest"][str(token)]
    others = sorted((t for t in range(len(rows)) if t != token), key=lambda t: -alike[t])
    assert [each["token"] for each in near] == others[:4]
    assert [each["cosine"] for each in near] == pytest.approx([alike[t] for t in others[:4]])
    assert "most similar embeddings" in kamon("tokenizer", "show", "m", "the").out


def test_show_with_a_token_a_character(kamon: Kamon, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(CharTokenizer.train(["anna"]).to_json())
    done = kamon("tokenizer", "show", tmp_path / "c.json", "nan")
    assert done.out == "nan: 3 characters, 3 tokens\n  n 1\n  a 0\n  n 1\n"


def test_cosines_by_hand() -> None:
    found = introspection.cosines([[3.0, 4.0], [-6.0, -8.0], [0.0, 0.0], [4.0, -3.0]])
    assert found[0] == pytest.approx([1, -1, 0, 0])
    assert [row[2] for row in found] == [0, 0, 0, 0]


@pytest.mark.usefixtures("here")
def test_positions(model: Model, kamon: Kamon) -> None:
    expected = introspection.cosines(introspection.parameters(model)["wpe"])
    found = kamon("inspect", "m", "--positions", "--json").json["positions"]
    for row, wanted in zip(found, expected, strict=True):
        assert row == pytest.approx(wanted, abs=1e-6)
    table = kamon("inspect", "m", "--positions").out.splitlines()
    assert len(table) == 2 + model.config.block_size
    assert table[2].split() == ["0", *(str(round(100 * x)) for x in expected[0])]


# ---- verbs with such a model


def test_documents_are_as_before(model: Model, shelf: Path) -> None:
    again = load(shelf / "m")
    assert again.tokenizer.to_json() == model.tokenizer.to_json()
    assert again.sample(20, seed=1) == model.sample(20, seed=1)


def test_scores_count_characters(model: Model) -> None:
    long = "bathe then 123 other ah, the 12 123"
    tokens = model.tokenizer.encode(long)
    assert len(tokens) > 8
    found = list(score(model, ["the é", long]))
    assert [each.cut for each in found] == [False, True]
    beginnings = logprobs(model.engine, model.tokenizer, ["the é", long])
    assert found[0].logprob == beginnings[0]
    assert found[1].logprob < beginnings[1]
    for each in found:
        expected = -each.logprob / math.log(2) / (len(each.text) + 1)
        assert each.bits_per_char == pytest.approx(expected)
    (odd,) = score(model, ["the qé"])
    assert odd.surprising in "qé"


def test_a_text_whose_end_just_fits_is_not_cut(model: Model) -> None:
    text = next(text for text in phrases() if len(model.tokenizer.encode(text)) == 7)
    (found,) = score(model, [text])
    assert not found.cut
    assert found.bits_per_char == pytest.approx(-found.logprob / math.log(2) / (len(text) + 1))


def test_what_eval_measures(model: Model) -> None:
    docs = ["the qé", "bathe then 123 other ah, the 12 123 xyz"]
    found = evaluate(model, docs, n=200)
    tokens = [model.tokenizer.encode(doc) for doc in docs]
    guessed = found.documents
    assert guessed.num_tokens == len(tokens[0]) + 1 + 8
    assert guessed.num_chars == len(docs[0]) + len(model.tokenizer.decode(tokens[1][:8]))
    assert guessed.num_cut == 1
    bits = guessed.model.nats_per_token * guessed.num_tokens / math.log(2)
    assert guessed.model.bits_per_char == pytest.approx(bits / guessed.num_chars)
    assert found.samples
    sizes = model.generate(200, temperature=1.0).sizes
    assert found.samples.finished == sum(size < 8 for size in sizes) / 200


def test_prefix_of_samples_may_end_inside_a_token(model: Model) -> None:
    """Tokenizations of the prefix are as frequent as the model's distribution says."""
    tokenizer = model.tokenizer
    openings = tokenizer.prefix_tokenizations("th")
    assert len(openings) > 2
    found = model.sample(1200, prefix="th", temperature=1.0, seed=5)
    assert len(found) == 1200
    assert all(text.startswith("th") for text in found)
    first = softmax(model.engine.decoder().push(tokenizer.bos))
    shares = {tokens: first[tokens[0]] for tokens in openings if len(tokens) == 1}
    drawn = Counter(tuple(tokenizer.encode(text)[:1]) for text in found)
    for tokens, share in shares.items():
        expected = share / math.exp(logprob_of_prefix(model.engine, tokenizer, "th"))
        assert drawn[tokens] / 1200 == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_lengths_of_samples_are_in_characters(model: Model, temperature: float) -> None:
    for given in ({"max_len": 4}, {"min_len": 6, "max_len": 9}, {"min_len": 9, "prefix": "é"}):
        for text in model.sample(40, temperature=temperature, **given):
            assert given.get("min_len", 0) <= len(text) <= given.get("max_len", 99)
            assert text.startswith(given.get("prefix", ""))


def test_length_counts_characters_not_tokens(model: Model) -> None:
    """A document of one token of three characters has enough for min_len 3."""
    tokenizer = model.tokenizer
    long = max(range(tokenizer.vocab_size), key=lambda token: tokenizer.chars_per_token[token])
    size = tokenizer.chars_per_token[long]
    assert size >= 3

    class Once:
        """A model that writes this token, then ends."""

        config = model.config

        class decoder:  # noqa: N801
            def push(self, token: int) -> list[float]:
                logits = [0.0] * tokenizer.vocab_size
                logits[tokenizer.bos if token == long else long] = 50.0
                return logits

    request = SampleRequest(1, 0.0, 0, tokenizer.bos)
    for given in (GenerationConstraints(min_len=3), GenerationConstraints(max_len=size)):
        result = find(Once(), tokenizer, request, given, list)  # type: ignore[arg-type]
        assert result.texts == [tokenizer.decode([long])]


def test_completions_are_those_of_the_tokenizer(model: Model) -> None:
    for prefix in ("", "th", "é", "a", "the o"):
        found = complete(model, prefix, 8, effort=4)
        texts = [each.text for each in found.documents]
        assert len(set(texts)) == len(texts) == 8
        assert all(text.startswith(prefix) for text in texts)
        whole = logprobs(model.engine, model.tokenizer, texts)
        assert [each.logprob for each in found.documents] == pytest.approx(whole, abs=1e-4)
        assert whole == sorted(whole, reverse=True)
        shared = logprob_of_prefix(model.engine, model.tokenizer, prefix)
        shares = [math.exp(logprob - shared) for logprob in whole]
        assert [each.share for each in found.documents] == pytest.approx(shares, rel=1e-3)
        assert sum(shares) < 1


def test_a_document_counts_as_the_tokens_of_the_tokenizer(model: Model) -> None:
    """However probable other tokens of the same text are."""
    tokenizer = model.tokenizer

    class Byte:
        """A model that likes single bytes."""

        config = model.config

        class decoder:  # noqa: N801
            def push(self, _: int) -> list[float]:
                liked = {ord("h"): 5.0, ord("e"): 4.0, tokenizer.bos: 4.0}
                return [liked.get(token, 0.0) for token in range(tokenizer.vocab_size)]

    (he,) = tokenizer.encode("he")
    found = search(Byte(), tokenizer, [Wildcard.ANY], 20, 3000).documents  # type: ignore[arg-type]
    texts = [each.text for each in found]
    assert texts[:5] == ["", "h", "e", "hh", "eh"]
    assert "he" not in texts  # it is as probable as eh, byte by byte
    assert len(set(texts)) == len(texts)
    assert he > 255


def test_no_document_of_the_list_is_better_than_those_found(model: Model) -> None:
    found = complete(model, "th", 20, effort=10)
    docs = [doc for doc in model.docs if doc.startswith("th")]
    best = dict(zip(logprobs(model.engine, model.tokenizer, docs), docs, strict=True))
    texts = [each.text for each in found.documents[: found.num_exact]]
    assert len(texts) > 3
    better = [doc for p, doc in best.items() if p > found.documents[len(texts) - 1].logprob + 1e-4]
    assert set(better) <= set(texts)


def test_next_tokens_may_go_on_with_a_token_begun(model: Model) -> None:
    first = softmax(model.engine.decoder().push(model.tokenizer.bos))
    shares = {}
    for token, p in enumerate(first):
        piece = model.tokenizer.token_text(token)
        if piece.startswith("th") and len(piece) > 2:
            shares[piece[2:]] = p
    whole = math.exp(logprob_of_prefix(model.engine, model.tokenizer, "th"))
    found = {each.text: each.probability for each in next_tokens(model, "th")}
    assert math.fsum(found.values()) == pytest.approx(1)
    assert shares
    for rest, p in shares.items():
        assert found[rest] >= 0.999 * p / whole
    assert len(found) == len(next_tokens(model, "th"))
    cold = next_tokens(model, "th", temperature=0)
    assert cold[0].probability == 1
    assert found[cold[0].text] == max(found.values())


def test_fill_needs_characters(model: Model) -> None:
    with pytest.raises(ConfigError, match="patterns need a character tokenizer"):
        fill(model, "t_e")


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "argv",
    [
        "sample m -n 3",
        "sample m -n 3 --details --nearest",
        "sample m -n 3 --prefix th --min-len 4",
        "complete m th",
        "complete m th --unknown replace",
        "score m words.txt",
        "score m words.txt --top 2 --unknown replace",
        "eval m words.txt",
        "eval m",
        "inspect m",
        "plot m --text bathe",
    ],
)
def test_verbs(argv: str, kamon: Kamon) -> None:
    if not argv.startswith("plot"):
        done = kamon(*argv.split())
        assert (done.code, done.out != "") == (0, True), done.err
    done = kamon(*argv.split(), "--json")
    assert done.code == 0, done.err
    for line in done.out.splitlines():
        assert isinstance(json.loads(line), dict)


@pytest.mark.usefixtures("here")
def test_inspect_names_the_merges(model: Model, kamon: Kamon) -> None:
    done = kamon("inspect", "m", "--json").json
    assert isinstance(model.tokenizer, BytePairTokenizer)
    assert done["tokenizer"] == "bpe"
    assert done["merges"] == [list(pair) for pair in model.tokenizer.merges]
    assert done["specials"] == ["<|bos|>"]
    assert (
        f"256 bytes, {len(model.tokenizer.merges)} merges and <|bos|>"
        in kamon("inspect", "m", "-v").out
    )


def test_attention_and_embeddings_have_the_pieces(model: Model) -> None:
    found = introspection.attention(model, "the ée")
    tokens = model.tokenizer.encode("the ée")
    texts = [model.tokenizer.token_text(token) for token in tokens]
    assert found.pieces == ["<|bos|>", *texts]
    assert len(found.weights[0][0]) == len(found.pieces)
    with pytest.raises(ConfigError, match="the text has 12 tokens, and block_size 8 allows 7"):
        introspection.attention(model, "q" * 12)
    seen = introspection.embeddings(model)
    assert len(seen.chars) + 1 == len(seen.tokens.points) == model.tokenizer.vocab_size
    counts = Counter(token for doc in model.docs for token in model.tokenizer.encode(doc))
    often = {token for token, _ in counts.most_common(20)}
    assert often <= set(seen.named)
    assert introspection.attention(model).text
    assert sum(introspection.lengths(model, 50).sampled) == 50


def test_pictures(model: Model) -> None:
    plot = pytest.importorskip("kamon.plotting")
    more = model.tokenizer.with_specials(["<|user|>"])  # behind BOS
    seen = introspection.embeddings(model)
    assert plot.render(plot.draw_embeddings(seen))
    texts = [text.get_text() for text in plot.draw_embeddings(seen).axes[0].texts]
    assert "BOS" in texts
    assert "␣the" in texts
    assert plot.render(plot.draw_attention(introspection.attention(model, "the ée")))
    assert more.bos == model.tokenizer.bos
