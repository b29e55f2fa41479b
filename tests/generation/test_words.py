"""Words in the gap of a text: those of enumerating everything, and trees of tokens."""

from __future__ import annotations

import math
import random
from argparse import Namespace
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from conftest import Result
from kamon import ConfigError, Model, complete_words, fill_words, train
from kamon.cli.interactive import suggest
from kamon.completion import word_gap
from kamon.engines.batch import pack_sequences
from kamon.engines.scalar import softmax
from kamon.evaluation.score import score, sentences_of
from kamon.generation.branches import DecodedBranches, branches_of
from kamon.generation.sampling import LanguageModel
from kamon.generation.word_ngram import ORDER, WordNgram
from kamon.generation.words import WORD, Counted, Gap, WordSearch, find_words
from kamon.ngrams.reference import train_ngram
from kamon.tokenizers.base import Tokenizer

Kamon = Callable[..., Result]
SENTENCES = ["a cup of tea", "a cup of ale", "a can of tea", "a bag-a of tea", "cup a tea"]
SMALL = {"n_embd": 8, "n_head": 2, "num_steps": 60, "learning_rate": 0.02}
MANY = 10**6  # reads: no limit here
TEXT = "\n".join(f"{who} had a {what} of {it}." for who in ("he", "she") for what in ("cup", "can")
                 for it in ("tea", "milk", "ale"))  # fmt: skip


@pytest.fixture(scope="module")
def char_model() -> Model:
    return train(["ab a", "ba-b", "a b", "b'a ab"], **SMALL, block_size=7, hold_out=False)


@pytest.fixture(scope="module")
def bpe_model() -> Model:
    return train(SENTENCES, **SMALL, tokenizer="bpe", vocab_size=265, block_size=24, hold_out=False)


@pytest.fixture(scope="module")
def text_model() -> Model:
    return train([TEXT * 9], mode="text", **{**SMALL, "num_steps": 300}, block_size=48)


def enumerated(
    reader: LanguageModel, tokenizer: Tokenizer, before: str, room: int
) -> dict[str, float]:
    """Return p of each word after `before` by reading every text, character by character."""
    found: dict[str, float] = defaultdict(float)
    fixed = tokenizer.encode(before)
    special = set(tokenizer.special.values())

    def read(tokens: tuple[int, ...], p: float) -> None:
        decoder = reader.decoder()
        for token in [tokenizer.bos, *fixed, *tokens]:
            logits = decoder.push(token)
        for token, share in enumerate(softmax(logits)):
            text = tokenizer.decode(tokens) + (
                "\n" if token in special else tokenizer.decode([token])
            )
            word = WORD.match(text)
            if token in special and token != tokenizer.bos:
                continue
            if word and (len(text) > word.end() + 1 or text[word.end() :] not in ("", "-", "'")):
                found[word[0]] += p * share
            elif (word or not text) and len(tokens) + 1 <= room:
                read((*tokens, token), p * share)

    read((), 1.0)
    return found


@pytest.mark.parametrize("before", ["", "a ", "ab "])
def test_words_of_characters_are_those_of_all_texts(char_model: Model, before: str) -> None:
    reader, tokenizer = char_model.language_model, char_model.tokenizer
    room = char_model.config.block_size - len(before) - 1
    expected = enumerated(reader, tokenizer, before, room)
    for model in (reader, char_model.engine):
        if model is not reader:
            expected = enumerated(model, tokenizer, before, room)
        result = find_words(model, tokenizer, Gap(before), MANY, MANY)
        found = {word.text: word.probability for word in result.words}
        assert {word for word, p in expected.items() if p > 1e-7} <= found.keys()
        for word, p in found.items():
            assert p == pytest.approx(expected[word], abs=1e-7)
        assert result.covered == pytest.approx(math.fsum(found.values()))


def test_words_are_those_of_a_stem(bpe_model: Model) -> None:
    """The probabilities are those of the words with this beginning, divided by their sum."""
    every = complete_words(bpe_model, "a cup of ", MANY // 100, effort=1000)
    some = complete_words(bpe_model, "a cup of t", MANY // 100, effort=1000)
    whole = {word.text: word.probability for word in every.words if word.text.startswith("t")}
    total = math.fsum(whole.values())
    assert some.words[0].text == "tea"
    for word in some.words[:5]:
        assert word.probability == pytest.approx(whole[word.text] / total, rel=0.02)


def test_a_bpe_word_has_the_sum_of_all_its_tokens(bpe_model: Model) -> None:
    model, tokenizer = bpe_model.language_model, bpe_model.tokenizer
    result = find_words(model, tokenizer, Gap("a cup of "), 1, MANY, among=["tea"])
    before = tokenizer.encode("a cup of")
    pieces = [tokenizer.token_text(token) for token in range(tokenizer.bos)]
    ends = [t for t in range(tokenizer.vocab_size) if not WORD.match(tokenizer.token_text(t)[:1])
            and tokenizer.token_text(t)[:1] not in "'-"]  # fmt: skip
    ends = [t for t in ends if t == tokenizer.bos or tokenizer.decode([t])[0] not in "\ufffd’"]

    def p_of(tokens: list[int], text: str) -> tuple[float, float]:
        """Return p of " tea" and an end, and of all texts that begin with a space."""
        decoder = model.decoder()
        for token in [tokenizer.bos, *before, *tokens]:
            logits = decoder.push(token)
        p = softmax(logits)
        if text == " tea":
            return math.fsum(p[token] for token in ends), 1.0
        word, begun = 0.0, 0.0
        for token, piece in enumerate(pieces):
            if " tea".startswith(text + piece):
                inner, _ = p_of([*tokens, token], text + piece)
                word += p[token] * inner
        if not text:
            begun = math.fsum(p[t] for t, piece in enumerate(pieces) if piece.startswith(" "))
        return word, begun

    word, begun = p_of([], "")
    assert result.words[0].text == "tea"
    assert result.words[0].probability == pytest.approx(word / begun, rel=2e-4)


def test_text_after_the_gap_counts(text_model: Model) -> None:
    words = [word.text for word in fill_words(text_model, "he had a ____ of tea", 3).words]
    assert set(words[:2]) == {"cup", "can"}
    last = fill_words(text_model, "she had a cup of ____", 3)
    assert {word.text for word in last.words} == {"tea", "milk", "ale"}
    assert 0.9 < last.covered <= 1
    among = fill_words(text_model, "she had a cup of ____", among=["tea", "can"])
    known = {word.text: word.probability for word in last.words}
    found = {word.text: word.probability for word in among.words}
    assert found["tea"] == pytest.approx(known["tea"])
    assert 0 < found["can"] < found["tea"]


def test_shares_after_the_gap_are_those_of_whole_texts(char_model: Model) -> None:
    """p(word, rest, end) by the tokens of the whole text, for each word found."""
    result = fill_words(char_model, "a ____ b", 50)
    model, tokenizer = char_model.language_model, char_model.tokenizer

    def joint(word: str) -> float:
        decoder, total = model.decoder(), 0.0
        tokens = [tokenizer.bos, *tokenizer.encode(f"a {word} b"), tokenizer.bos]
        for token, target in pairwise(tokens):
            total += math.log(softmax(decoder.push(token))[target])
        return math.exp(total)

    assert len(result.words) > 1
    first = result.words[0]
    for word in result.words:
        ratio = joint(word.text) / joint(first.text)
        assert word.probability == pytest.approx(first.probability * ratio, rel=1e-4)


def test_words_at_the_end_of_an_entry(char_model: Model) -> None:
    """p(word, end) by the tokens of the whole text, for each word found."""
    result = fill_words(char_model, "a ____", 50, effort=100)
    model, tokenizer = char_model.language_model, char_model.tokenizer
    joint = {}
    for word in result.words:
        decoder, logs = model.decoder(), []
        for token, target in pairwise(
            [tokenizer.bos, *tokenizer.encode(f"a {word.text}"), tokenizer.bos]
        ):
            logs.append(math.log(softmax(decoder.push(token))[target]))
        joint[word.text] = math.exp(math.fsum(logs))
    assert result.total == 1 > result.covered
    for word in result.words:
        assert word.probability == pytest.approx(
            joint[word.text] / math.fsum(joint.values()), rel=1e-2
        )


@pytest.mark.parametrize("whole", [True, False])
def test_an_ngram_of_words_counts_what_follows(whole: bool) -> None:
    """By the n-gram of `kamon.ngrams.reference`, token by token."""
    ngram = WordNgram(["a cup of tea.", "a cup of don't-know, he said", "tea of"], whole=whole)
    docs = ["a cup of tea .", "a cup of don't-know , he said", "tea of"]
    names = ["", *dict.fromkeys(" ".join(docs).split())]
    tokens = [[0, *map(names.index, doc.split()), 0] for doc in docs]
    expected = train_ngram(pack_sequences(tokens), len(names) + 1, ORDER)
    words = [name for name in names if WORD.fullmatch(name)]
    assert ngram.weight == (1 - 5 / 14) / 2  # 5 of 14 tokens occur once
    for gap, after in [
        (Gap("a cup of "), []),
        (Gap("a cup of ", "t"), []),
        (Gap("a new ", "", " of tea"), ["of", "tea"]),
        (Gap("a cup of ", "", ".", ends=True), [".", ""]),
    ]:
        before = [0] * whole + [
            names.index(t) if t in names else len(names) for t in gap.before.split()
        ]
        p = expected.probabilities(before)
        stems = [word for word in words if word.startswith(gap.stem)]
        total = math.fsum(p[names.index(word)] for word in stems)
        found = ngram.counted(gap)
        assert found.logs.keys() == set(stems)
        assert found.covered == pytest.approx(1)
        for word in stems:
            read = [*before, names.index(word)]
            log = math.log(p[read[-1]] / total)
            for name in after:
                log += math.log(expected.probabilities(read)[names.index(name)])
                read.append(names.index(name))
            assert found.logs[word] == pytest.approx(log)
    assert ngram.counted(Gap("a cup of "), ["tea", "milk"]).logs.keys() == {"tea"}
    for gap in (Gap("he don'"), Gap("a ", "x")):  # the word has begun, or none begins with x
        assert ngram.counted(gap) == Counted({})


@pytest.mark.parametrize("gap", [Gap("she had a cup of "), Gap("she had a ", "", " of tea")])
def test_words_of_the_model_are_blended_with_those_of_its_ngram(
    text_model: Model, gap: Gap
) -> None:
    ngram = text_model.word_ngram
    assert ngram
    assert ngram.weight == 0.5  # each word occurs many times
    model, tokenizer = text_model.language_model, text_model.tokenizer
    counted = replace(ngram.counted(gap), weight=0.3)
    begun = replace(gap, before="\n" + gap.before)
    own = WordSearch(model, tokenizer, begun, 99, MANY // 1000, (), True, None)
    own.run()
    logs = own.with_after() if gap.after else own.logs()
    joint = {word: 0.7 * math.exp(log) for word, log in logs.items()}
    for word, log in counted.logs.items():
        joint[word] = joint.get(word, 0) + 0.3 * math.exp(log)
    scale = math.fsum(joint.values()) if gap.after else 1.0
    found = find_words(*(model, tokenizer, begun, 99, MANY // 1000), may_cut=True, counted=counted)
    assert found.num_found == len(joint)
    for word in found.words[:20]:
        assert word.probability == pytest.approx(joint[word.text] / scale, rel=1e-3)
    assert fill_words(text_model, gap, 3).words[0].text == found.words[0].text


def test_words_asked_for_stay_and_count_once(text_model: Model) -> None:
    once = fill_words(text_model, "she had a ____ of tea", among=["cup", "pepo"])
    assert {word.text for word in once.words} == {"cup", "pepo"}
    twice = fill_words(text_model, "she had a ____ of tea", among=["cup", "cup", "pepo"])
    assert twice == once


def test_long_lines_of_a_text_are_possible(text_model: Model) -> None:
    line = "she had a cup of tea " * text_model.config.block_size
    (found,) = score(text_model, [line], unknown="zero")
    assert found.cut
    assert math.isfinite(found.logprob)


def test_an_ngram_of_words_needs_a_blend(text_model: Model, char_model: Model) -> None:
    assert char_model.word_ngram is None  # it has no blend
    model = train(SENTENCES * 9, num_steps=5, tokenizer="bpe", vocab_size=265)
    assert bool(model.word_ngram) == bool(model.training.blend)
    tuned = replace(
        text_model,
        training=text_model.training
        | {"corpus": {**text_model.training.corpus, "packed": "somewhere"}},
    )
    assert tuned.word_ngram is None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_trees_read_what_decoders_read(dtype: str) -> None:
    rng = random.Random(7)
    for _ in range(3):
        sizes = {"n_embd": rng.choice([8, 12, 20]), "n_layer": rng.choice([1, 3])}
        settings = {"n_head": 2, "block_size": rng.choice([5, 9, 17]), "num_steps": 3}
        model = train(["anna", "hanna", "nora", "zoe-marie"], dtype=dtype, **sizes, **settings)
        blended = replace(
            model, training=model.training | {"blend": {"weight": 0.6, "order": 3}}
        ).language_model
        for reader in (model.engine, blended):
            trees = branches_of(reader), DecodedBranches(reader)
            places: list[int] = []
            for _ in range(4):
                open_nodes = [
                    -1,
                    *(i for i, at in enumerate(places) if at + 1 < settings["block_size"]),
                ]
                parents = [rng.choice(open_nodes) for _ in range(rng.randrange(1, 90))]
                tokens = [rng.randrange(model.config.vocab_size) for _ in parents]
                rows, expected = (tree.push(parents, tokens) for tree in trees)
                places += [places[parent] + 1 if parent >= 0 else 0 for parent in parents]
                for row, own in zip(rows, expected, strict=True):
                    assert list(row) == pytest.approx(list(own), rel=1e-12, abs=1e-300)
            if reader is model.engine:
                assert [list(row) for row in rows] == [list(row) for row in expected]


def test_trees_refuse_what_they_cannot_read(char_model: Model) -> None:
    for tree in (branches_of(char_model.engine), DecodedBranches(char_model.engine)):
        tree.push([-1], [0])
        with pytest.raises(ValueError, match=r"index|parent"):
            tree.push([1], [0])
        with pytest.raises(ValueError, match="vocabulary"):
            tree.push([0], [99])


def test_a_pattern_has_a_gap_for_a_word_only_in_a_sentence() -> None:
    assert word_gap("a ____ of tea") == Gap("a ", "", " of tea")
    assert word_gap("____ of tea") == Gap("", "", " of tea")
    assert word_gap(r"a\_b ____") == Gap("a_b ", "")
    for pattern in ("ma__a", "____", "new yo__", "a _ b", r"a \____"):
        assert word_gap(pattern) is None
    for pattern in ("a ____ of ____", "a* of ____", "a _ of ____"):
        with pytest.raises(ConfigError, match="only this gap"):
            word_gap(pattern)


def test_a_context_that_leaves_no_room(char_model: Model, text_model: Model) -> None:
    with pytest.raises(ConfigError, match="no room for a word"):
        fill_words(char_model, "ab ab ____")
    long = fill_words(text_model, "he had a cup of tea. " * 9 + "she had a ____", 2)
    assert "cup" in {word.text for word in long.words}


def test_commands(kamon: Kamon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text(TEXT * 9)
    Path("two.txt").write_text("he had a cup of tea.\ntea of cup a had he.\n")
    Path("wrapped.txt").write_text("he had a cup\nof tea.\n\nshe had a can of ale.\n")
    assert kamon("train", "book.txt", "--mode", "text", "--num-steps", 200, "-o", "book").code == 0
    found = kamon("fill", "book", "he had a ____ of tea")
    assert found.code == 0
    assert "of the probability" in found.err
    words = kamon("complete", "book", "she had a c", "--next", "3")
    assert "words" in words.out.splitlines()
    scores = kamon("score", "book", "two.txt")
    good, bad = (float(line.split("\t")[0]) for line in scores.out.splitlines())
    assert good < bad
    assert "Total: 2 lines, 12 words" in scores.err
    by = kamon("score", "book", "wrapped.txt", "--per", "sentence")
    texts = [line.split("\t")[-1] for line in by.out.splitlines()]
    assert texts == ["he had a cup of tea.", "she had a can of ale."]
    assert kamon("fill", "book", "he had a _up").code == 2


def test_scores_of_a_text_add_up(text_model: Model) -> None:
    """log p of a line is that of its characters and its line end after a line end."""
    line = "he had a cup of tea."
    (found,) = score(text_model, [line])
    decoder, total = text_model.engine.decoder(), 0.0
    tokens = text_model.tokenizer.encode(f"\n{line}\n")
    for token, target in pairwise(tokens):
        total += math.log(softmax(decoder.push(token))[target])
    assert found.logprob == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three", ["One.", "Two!", "Three"]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        (
            "Dr. A. Smith paid 3.50 dollars. 12 came.",
            ["Dr. A. Smith paid 3.50 dollars.", "12 came."],
        ),
        ("a\nb\n\nc", ["a b", "c"]),
        ("etc. and so on", ["etc. and so on"]),
    ],
)
def test_sentences(text: str, expected: list[str]) -> None:
    assert sentences_of(text) == expected


def test_suggestions_while_typing(text_model: Model) -> None:
    settings = {"temperature": 1.0, "next": 3, "n": 3, "effort": 5.0, "unknown": "error"}
    found = suggest(text_model, "he had a cu", set(), Namespace(words=True, given=None, **settings))
    assert found.best == "he had a cup "
