from __future__ import annotations

import difflib
import math
import random
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise, product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import kamon
from conftest import TINY_FLAGS, Result
from kamon.config import Config
from kamon.data.builtin import names
from kamon.engines.base import Decoder, Engine, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init
from kamon.engines.philox import uniform
from kamon.engines.scalar import softmax
from kamon.errors import ConfigError, TokenizerError
from kamon.evaluation.nearest import NearestDocument, common_subsequence, logprobs, positions
from kamon.generation import constraints, lookahead
from kamon.generation import text as text_samples
from kamon.generation.automaton import ALL, Automaton, automaton_of, sequence, words
from kamon.generation.constraints import GenerationConstraints, filter_of, find, make_constraints
from kamon.generation.lookahead import Contexts, guided_document, make_guide, unroll
from kamon.generation.sampling import (
    LanguageModel,
    SampleRequest,
    allowed,
    numbered_document,
    sample,
)
from kamon.generation.search import Matcher, Wildcard, parse, term_of
from kamon.model import Model, load
from kamon.native import library
from kamon.ngrams.reference import train_ngram
from kamon.tokenizers.char import CharTokenizer

Run = Callable[..., Result]
NAMES = [
    *("anna", "hanna", "johanna", "nora", "eleonora", "lea", "leah", "mia", "mira", "miriam"),
    *("ida", "idan", "ari", "marie", "sara", "maria", "lena", "malena", "norah", "adina"),
]
CHARS = CharTokenizer("abcd")
BOS = CHARS.bos
LOGITS = st.lists(st.integers(-3, 3).map(float) | st.floats(-30, 30), min_size=2, max_size=8)
TEMPERATURES = st.sampled_from([0.0, 1e-320, 0.5, 1.0, 2.0])

needs_native = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())


def tiny(seed: int = 1, name: str = "scalar", block_size: int = 6) -> Engine:
    """An untrained model of abcd, whose documents are of all lengths."""
    config = Config(
        n_embd=4, n_head=2, block_size=block_size, vocab_size=CHARS.vocab_size, std=0.25
    )
    engine = make_engine(name, config, dtype="float64")
    engine.load(initial_state(init(config, random.Random(seed))))
    return engine


class Unfused:
    """A model without the engine's fused `sample`."""

    def __init__(self, engine: LanguageModel) -> None:
        self.config = engine.config
        self.decoder: Callable[[], Decoder] = engine.decoder


def texts(model: LanguageModel, n: int, temperature: float = 1.0, **given: Any) -> list[str]:
    request = SampleRequest(n, temperature, 5, BOS)
    return find(model, CHARS, request, make_constraints(given), list).texts


@pytest.fixture(scope="module")
def trained() -> Model:
    return kamon.train(NAMES, n_embd=8, num_steps=100, block_size=10)


# ---- while a document is made


def better(logits: Sequence[float], token: int) -> list[int]:
    """The tokens that go before this one: more likely, or as likely and lower."""
    return [
        other
        for other, logit in enumerate(logits)
        if logit > logits[token] or (logit == logits[token] and other < token)
    ]


def kept(
    logits: Sequence[float], temperature: float, given: GenerationConstraints, without: int = -1
) -> list[int]:
    tokens = [token for token in range(len(logits)) if token != without]
    return allowed(logits, tokens, temperature, given.top_k, given.top_p)


@given(LOGITS, st.integers(1, 9))
def test_top_k(logits: list[float], top_k: int) -> None:
    stay = [token for token in range(len(logits)) if len(better(logits, token)) < top_k]
    assert kept(logits, 1.0, GenerationConstraints(top_k=top_k)) == stay


@given(LOGITS, st.floats(0, 1, exclude_min=True), st.sampled_from([0.5, 1.0, 2.0]))
def test_top_p(logits: list[float], top_p: float, temperature: float) -> None:
    exps = [math.exp((logit - max(logits)) / temperature) for logit in logits]
    before = [
        math.fsum(exps[other] for other in better(logits, token)) / math.fsum(exps)
        for token in range(len(logits))
    ]
    assume(all(abs(p - top_p) > 1e-9 for p in before))  # rounding may decide what is so close
    stay = [token for token, p in enumerate(before) if p < top_p or top_p == 1]
    assert kept(logits, temperature, GenerationConstraints(top_p=top_p)) == stay


@given(LOGITS, st.floats(0, 1, exclude_min=True), st.sampled_from([0.0, 1e-320]))
def test_top_p_in_the_cold(logits: list[float], top_p: float, temperature: float) -> None:
    stay = kept(logits, temperature, GenerationConstraints(top_p=top_p))
    assert stay == list(range(len(logits))) if top_p == 1 else [logits.index(max(logits))]


def test_top_k_comes_before_top_p() -> None:
    logits = [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]
    # 0.65 of the whole needs two; of 0.4 and 0.3 alone the first is 0.57, and needs the other.
    assert kept(logits, 1.0, GenerationConstraints(top_p=0.55)) == [0, 1]
    assert kept(logits, 1.0, GenerationConstraints(top_k=2, top_p=0.55)) == [0]
    # Neither sees what the other conditions forbid.
    assert kept(logits, 1.0, GenerationConstraints(top_k=1), without=0) == [1]
    assert kept(logits, 1.0, GenerationConstraints(top_p=0.45), without=0) == [1]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 5))
def test_the_steps_are_those_of_a_literal_computation(
    seed: int, temperature: float, top_k: int
) -> None:
    """Every token of every document: p of what top_k rules out is 0, the rest is renormalised."""
    engine = tiny(seed)
    request = SampleRequest(8, temperature, 3, BOS, top_k=top_k)
    for index in range(8):
        found = numbered_document(engine, request, index)
        decoder, read = engine.decoder(), BOS
        for position in range(6):
            logits = list(decoder.push(read))
            keep = [t for t in range(5) if len(better(logits, t)) < top_k]
            weights = [
                math.exp((logits[t] - max(logits)) / (temperature or 1e-9)) if t in keep else 0.0
                for t in range(5)
            ]
            running = list(accumulate(weights))
            u = uniform(3, index, position)
            expected = next(t for t in range(5) if running[t] > u * running[-1])
            assert expected == (found[position] if position < len(found) else BOS)
            if expected == BOS:
                break
            read = expected


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), TEMPERATURES, st.data())
def test_samples_obey(seed: int, temperature: float, data: st.DataObject) -> None:
    min_len = data.draw(st.integers(1, 6))
    prefix = data.draw(st.text("abcd", max_size=6))
    top_p = data.draw(st.floats(0.01, 1))
    given = {"min_len": min_len, "prefix": prefix, "top_p": top_p}
    found = texts(tiny(seed), 30, temperature, **given)
    assert len(found) == 30
    assert all(len(text) >= min_len and text.startswith(prefix) for text in found)
    max_len = data.draw(st.integers(max(min_len, len(prefix)), 6))
    short = texts(tiny(seed), 5, temperature, **given, max_len=max_len)
    assert len(short) == 5
    assert all(min_len <= len(text) <= max_len and text.startswith(prefix) for text in short)


def test_a_prefix_that_fills_the_length_is_the_document() -> None:
    """As of a name that already existsnothing is drawn, however seldom it would end there."""
    engine = tiny()
    request = SampleRequest(3, 1.0, 5, BOS)
    found = find(engine, CHARS, request, GenerationConstraints(prefix="abca", max_len=4), list)
    assert (found.texts, found.num_candidates) == (["abca"] * 3, 3)


@pytest.mark.parametrize(
    "given",
    [
        {"suffix": "dd"},
        {"min_len": 3, "contains": "cb"},
        {"regex": "(ab|c)+", "exclude": ["c", "ab"]},
        {"pattern": "_a__"},
    ],
)
def test_the_most_probable_document(given: dict[str, Any]) -> None:
    """At temperature 0, of all that fulfil the conditions."""
    engine = tiny()
    fits = filter_of(make_constraints(given))
    every = [text for text in all_texts(6) if fits(text)]
    best = max(every, key=dict(zip(every, logprobs(engine, CHARS, every), strict=True)).__getitem__)
    request = SampleRequest(2, 0.0, 5, BOS)
    found = find(engine, CHARS, request, make_constraints(given), list)
    assert (found.texts, found.num_candidates) == ([best] * 2, 2)
    assert find(engine, CHARS, request, make_constraints(given), lambda: [best]).texts == [best] * 2
    fresh = find(engine, CHARS, request, make_constraints(given | {"novel": True}), lambda: [best])
    assert fresh.texts[0] not in (best, "")


def test_search_that_may_read_nothing_finishes_a_document(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "MAX_READS", 0)
    for asked in ({"min_len": 1}, {"suffix": "dd"}, {"regex": "(ab|c)+"}):
        conditions = make_constraints(asked)
        (text,) = find(tiny(), CHARS, SampleRequest(1, 0.0, 5, BOS), conditions, list).texts
        assert filter_of(conditions)(text)


def all_texts(longest: int) -> list[str]:
    return ["".join(text) for n in range(longest + 1) for text in product("abcd", repeat=n)]


def test_no_sample_under_conditions_is_empty() -> None:
    """As no document of a list is. What is under none is what the model makes, whatever it is."""
    engine = tiny()
    plain = CHARS.decode_documents(sample(engine, SampleRequest(40, 1.0, 5, BOS)))
    assert "" in plain
    assert texts(engine, 40) == plain
    found = find(
        engine, CHARS, SampleRequest(20, 1.0, 5, BOS), GenerationConstraints(novel=True), list
    )
    assert found.texts == [text for text in plain if text][:20]
    assert [plain[number] for number in found.numbers] == found.texts


def test_what_steers_nothing_changes_nothing() -> None:
    names = ["scalar"] if library.why_not() else ["scalar", "native"]
    for engine in (tiny(name=name) for name in names):
        plain = CHARS.decode_documents(sample(engine, SampleRequest(40, 1.0, 5, BOS)))
        assert texts(engine, 40) == plain
        assert texts(engine, 40, top_p=1) == plain
        for idle in ({"top_k": 5}, {"max_len": 6}, {"regex": ".*"}):
            assert texts(engine, 20, **idle) == [text for text in plain if text][:20]
    assert len(set(plain)) > 10


def test_a_prefix_takes_no_draw_from_what_follows() -> None:
    """If the prefix is what would have been drawn anyway, the document is the same."""
    engine = tiny()
    request = SampleRequest(20, 1.0, 5, BOS)
    plain = CHARS.decode_documents(sample(engine, request))
    contexts = Contexts(CHARS.vocab_size, 6)
    for number, text in enumerate(plain):
        for cut in range(1, len(text) + 1):
            trellis = unroll(Automaton(sequence(words([text[:cut]]), ALL)), CHARS, 6)
            assert trellis
            again, _ = guided_document(engine, request, make_guide(trellis, contexts), number)
            assert CHARS.decode(again) == text


# ---- of whole documents

SOME: list[dict[str, Any]] = [
    {"suffix": "a"},
    {"contains": "bc", "min_len": 3},
    {"regex": "[abc]+", "unique": True},
    {"unique": True, "prefix": "b", "top_k": 3},
    {"exclude": ["", "a", "b"], "top_p": 0.9},
]


@pytest.mark.parametrize("given", SOME)
def test_the_first_ten_of_fifty(given: dict[str, Any]) -> None:
    fifty = texts(tiny(), 50, **given)
    assert len(fifty) == 50
    assert texts(tiny(), 10, **given) == fifty[:10]


@pytest.mark.slow
@needs_native
@pytest.mark.parametrize("given", [{"suffix": "abc"}, {"regex": "(ab|cd)+"}, {"unique": True}])
def test_in_bulk_and_one_by_one_are_the_same(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rare enough that several bulks are needed; each sample is the model's of that number."""
    monkeypatch.setattr(constraints, "EASY", 0.0)
    engine = tiny(name="native")
    request = SampleRequest(60, 1.0, 5, BOS)
    bulk = find(engine, CHARS, request, make_constraints(given), list)
    assert bulk == find(Unfused(engine), CHARS, request, make_constraints(given), list)
    assert len(bulk.texts) == 60
    plain = CHARS.decode_documents(sample(engine, SampleRequest(bulk.num_candidates, 1.0, 5, BOS)))
    assert [plain[number] for number in bulk.numbers] == bulk.texts
    if "unique" not in given:
        assert bulk.num_candidates > 1000
        test = re.compile(given.get("regex", ".*abc")).fullmatch
        assert [text for text in plain if test(text)] == bulk.texts


def test_all_at_once(trained: Model) -> None:
    given: dict[str, Any] = {
        "prefix": "m",
        "min_len": 4,
        "max_len": 7,
        "suffix": "a",
        "contains": "ri",
    }
    taken = trained.sample(3, temperature=1.0, unique=True, **given)
    found = trained.sample(
        6, temperature=1.0, regex="[^o]*", novel=True, unique=True, exclude=taken, **given
    )
    assert len(set(found)) == 6
    assert not {*found} & {*NAMES, *taken}
    assert all(re.fullmatch("m(?=[^o]*ri)[^o]{2,5}a", text) for text in found)


def test_regex_matches_the_whole() -> None:
    assert set(texts(tiny(), 20, regex="a|aa")) <= {"a", "aa"}
    assert GenerationConstraints(
        regex="[[a]"
    )  # of which Python warns that it may be read otherwise one day


def test_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 texts have one or two of four letters; none comes twice, and the search ends."""
    monkeypatch.setattr(constraints, "PATIENCE", 100)
    monkeypatch.setattr(constraints, "ATTEMPTS", 10)
    request = SampleRequest(50, 2.0, 5, BOS)
    given = GenerationConstraints(unique=True, max_len=2)
    every = find(tiny(), CHARS, request, given, list)
    assert (len(set(every.texts)), every.num_candidates, every.complete) == (20, 20, True)
    monkeypatch.setattr(constraints, "MAX_LISTED", 19)
    found = find(tiny(), CHARS, request, given, list)
    assert 5 < len(found.texts) == len(set(found.texts)) <= 20
    assert all(b - a <= 100 for a, b in pairwise(found.numbers))
    assert found.numbers[-1] + 10 < found.num_candidates <= found.numbers[-1] + 101
    # The patience is the same for fewer, so these are the same, too.
    few = find(tiny(), CHARS, SampleRequest(30, 2.0, 5, BOS), given, list)
    assert few == found
    known = GenerationConstraints(exclude=[text for text in all_texts(6) if text])
    none = find(tiny(), CHARS, request, known, list)
    assert (none.texts, none.num_candidates) == ([], 100)


def test_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a plain count of what is left; what comes seldom is not waited for n times."""
    monkeypatch.setattr(constraints, "EASY", 0.0)
    monkeypatch.setattr(constraints, "PATIENCE", 60)
    monkeypatch.setattr(constraints, "ATTEMPTS", 4)
    plain = CHARS.decode_documents(sample(tiny(), SampleRequest(3000, 1.0, 5, BOS)))
    for letter in "abcd":
        request = SampleRequest(50, 1.0, 5, BOS)
        found = find(tiny(), CHARS, request, GenerationConstraints(regex=f"{letter}{{2}}"), list)
        left, expected = 60, []
        for number, text in enumerate(plain):
            if not left:
                break
            left -= 1
            if text == 2 * letter:
                expected.append(number)
                left = min(60, left + 4)
        assert found.numbers == expected
        assert found.num_candidates == number < 3000


@needs_native
@pytest.mark.slow
def test_a_hopeless_search_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "EASY", 0.0)
    model = kamon.train("names", size="original", num_steps=50, engine="native")
    assert model.generate(50, regex="z{9}").num_candidates == constraints.PATIENCE_BULK


@needs_native
def test_a_large_model_has_less_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "PATIENCE", 10)
    monkeypatch.setattr(constraints, "MAX_BULK_FLOPS", 5e6)
    engine = tiny(name="native")
    request = SampleRequest(5, 1.0, 5, BOS)
    known = GenerationConstraints(exclude=[text for text in all_texts(6) if text])
    tried = find(engine, CHARS, request, known, list).num_candidates
    assert tried == 5_000_000 // (len(engine.state()["params"]) * 6)


# ---- n-grams


def test_ngrams() -> None:
    tokenizer = CharTokenizer.train(NAMES)
    learned = pack_sequences(map(tokenizer.encode_document, NAMES))
    ngram = train_ngram(learned, tokenizer.vocab_size, 3)
    request = SampleRequest(20, 1.0, 5, tokenizer.bos)
    given = GenerationConstraints(prefix="ma", max_len=6, suffix="a", novel=True)
    found = find(ngram, tokenizer, request, given, lambda: NAMES).texts
    assert len(found) == 20
    assert all(re.fullmatch("ma|ma.{0,3}a", text) and text not in NAMES for text in found)
    logprob = logprobs(ngram, tokenizer, ["maria"])[0]
    document = tokenizer.encode_document("maria")
    expected = [ngram.probabilities(document[:i])[document[i]] for i in range(1, len(document))]
    assert logprob == pytest.approx(math.log(math.prod(expected)))


# ---- what is known of a sample


def test_logprobs() -> None:
    engine = tiny()
    assert logprobs(engine, CHARS, []) == []
    found = logprobs(engine, CHARS, ["", "abc", "abcdab"])
    for text, logprob in zip(["", "abc", "abcdab"], found, strict=True):
        decoder = engine.decoder()
        targets = [*CHARS.encode(text), BOS][:6]  # the model never gets to end the longest
        read = [BOS, *targets]
        p = [softmax(list(decoder.push(read[i])))[target] for i, target in enumerate(targets)]
        assert logprob == pytest.approx(math.log(math.prod(p)))


@st.composite
def alike(draw: st.DrawFn) -> tuple[list[str], str]:
    """Documents, and a text of their characters and some others; short, or longer than a word."""
    most = draw(st.sampled_from([6, 6, 90]))
    document = st.text(draw(st.sampled_from(["ab", "abcdef", "aé\n\U0001f600"])), max_size=most)
    docs = draw(st.lists(document, max_size=12))
    return docs, draw(document | st.text("abcd", max_size=most))


@given(alike())
def test_nearest(given: tuple[list[str], str]) -> None:
    docs, text = given
    ratios = [difflib.SequenceMatcher(None, doc, text, autojunk=False).ratio() for doc in docs]
    best = max(ratios, default=0.0)
    if text:
        expected = (docs[ratios.index(best)], best) if best else ("", 0.0)
        assert NearestDocument(docs)(text) == expected


def test_nearest_among_many() -> None:
    docs = names()[::25]
    nearest = NearestDocument(docs)
    for text in ("mariaan", "mytonievie", "oa", docs[999]):
        ratios = [difflib.SequenceMatcher(None, doc, text).ratio() for doc in docs]
        assert nearest(text) == (docs[ratios.index(max(ratios))], max(ratios))


def test_the_first_of_equally_similar_documents() -> None:
    """Though the last one has more characters of the text, and is looked at first."""
    assert NearestDocument(["xxx", "abx", "xab", "bab"])("abb") == ("abx", 4 / 6)


def test_the_nearest_document_whatever_its_case() -> None:
    nearest = NearestDocument(["Aldron", "Veldara", "İstanbul"])
    assert nearest("veldara") == ("Veldara", 1.0)
    assert nearest("veldero") == ("Veldara", 10 / 14)
    assert nearest("istanbul")[0] == "İstanbul"
    both = NearestDocument(["Anna", "anna", "ANNA"])
    assert [both(text) for text in ("Anna", "anna", "ANNA", "aNNA")] == [
        (text, 1.0) for text in ("Anna", "anna", "ANNA", "Anna")
    ]


def test_documents_with_nul_have_no_nearest() -> None:
    with pytest.raises(ValueError, match="NUL"):
        NearestDocument(["a\0b", "c"])


@given(st.text("abc", max_size=80), st.text("abc", max_size=12))
def test_common_subsequence(text: str, other: str) -> None:
    """By the table of all prefixes."""
    other = "".join(char for char in other if char in text)
    row = [0] * (len(text) + 1)
    for char in other:
        above = row[:]
        for i, own in enumerate(text):
            row[i + 1] = above[i] + 1 if own == char else max(row[i], above[i + 1])
    assert common_subsequence(positions(text), other) == row[-1]


# ---- what cannot be


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"min_len": 5, "max_len": 4}, "min_len 5 is above max_len 4"),
        ({"min_len": 7}, "min_len 7 is above the 6 characters that the model's block_size 6"),
        ({"max_len": 7}, "max_len 7 is above the 6 characters"),
        ({"max_len": -1}, "max_len must be 1 or more, not -1"),
        ({"max_len": 2.5}, "max_len must be a whole number, not 2.5"),
        ({"min_len": None}, "min_len must be a whole number, not None"),
        ({"prefix": "abc", "max_len": 2}, "prefix 'abc' has 3 characters, more than max_len 2"),
        ({"suffix": "abc", "max_len": 2}, "suffix 'abc' has 3 characters, more than max_len 2"),
        ({"contains": "a" * 7}, "has 7 characters, more than the model's block_size 6 allows"),
        ({"prefix": 3}, "prefix must be a string, not 3"),
        ({"top_k": 0}, "top_k must be 1 or more, not 0"),
        ({"top_k": True}, "top_k must be a whole number, not True"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1, not 0"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, not 1.1"),
        ({"top_p": math.nan}, "top_p must be above 0 and at most 1, not nan"),
        ({"regex": "a("}, r"regex 'a\(' is not a valid regular expression: missing \)"),
        ({"regex": "a{99999999999999999999}"}, "is not a valid regular expression"),
        ({"regex": r"(a)\1"}, r"regex '\(a\)\\\\1' has a back-reference at position 4"),
        ({"pattern": ""}, "the pattern is empty"),
        ({"pattern": "a_b_c_d"}, "pattern 'a_b_c_d' is impossible"),
        (
            {"regex": "e"},
            "regex 'e' is impossible: the model cannot write any such text",
        ),
        ({"prefix": "ab", "pattern": "b*"}, "prefix 'ab' and pattern 'b\\*' contradict each other"),
        (
            {"regex": "(ab)+", "min_len": 3, "max_len": 3, "prefix": "a", "contains": "b"},
            r"^min_len 3, max_len 3 and regex '\(ab\)\+' contradict each other: no text of up to 6 "
            "characters fulfils all of them$",
        ),
        ({"regex": "a+", "suffix": "b", "min_len": 2}, "^suffix 'b' and regex 'a\\+' contradict"),
        ({"exclude": "anna"}, "exclude must be a collection of documents, not one text"),
        ({"sufix": "a"}, "unknown condition 'sufix'\nhint: did you mean 'suffix'"),
    ],
)
def test_conditions_that_cannot_be(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        texts(tiny(), 1, **given)


@pytest.mark.parametrize("name", ["prefix", "suffix", "contains"])
def test_characters_that_the_model_does_not_know(name: str) -> None:
    with pytest.raises(TokenizerError, match="character 'x'"):
        make_constraints({name: "ax"}).check_model(CHARS, 6, 6)


def test_the_prompt_takes_room() -> None:
    message = (
        "min_len 5 is above the 4 characters that the model's block_size 6 after a prompt of 2"
    )
    with pytest.raises(ConfigError, match=message):
        make_constraints({"min_len": 5}).check_model(CHARS, 6, 4)


PIECES = ["a", "b", "_", "*", r"\_", r"\*", "\\\\"]


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join))
def test_patterns_mean_the_same_in_sample_and_fill(pattern: str) -> None:
    tokenizer = CharTokenizer("ab_*\\")
    if sum(element is not Wildcard.ANY for element in parse(pattern)) > 4:
        return
    matcher = Matcher(parse(pattern), tokenizer, 4)
    automaton = automaton_of([term_of(parse(pattern))], None)
    for text in ("".join(chars) for n in range(5) for chars in product("ab_*\\", repeat=n)):
        places = 1
        for length, token in enumerate(tokenizer.encode(text)):
            others, in_pattern = matcher.after(places, length)
            places = in_pattern.get(token, others)
        assert matcher.ends(places) == automaton.matches(text), text


# ---- the command line


@pytest.fixture
def model(names: Path, tmp_path: Path, kamon: Run) -> Path:
    flags = [*TINY_FLAGS, "--block-size", 9]
    assert kamon("train", names, "-o", tmp_path / "model", *flags).code == 0
    return tmp_path / "model"


@pytest.mark.slow
def test_flags(model: Path, tmp_path: Path, kamon: Run) -> None:
    flags = ["-n", 8, "--temperature", 2, "--prefix", "a", "--suffix", "a"]
    flags += ["--min-len", 3, "--max-len", 6, "--top-k", 9, "--top-p", 0.95, "--contains", "n"]
    done = kamon("sample", model, *flags, "--regex", "[^o]*")
    assert done.code == 0
    first = done.out.split()
    assert len(set(first)) == 8
    assert all(re.fullmatch("a(?=.*n)[^o]{1,4}a", text) for text in first)
    (tmp_path / "taken.txt").write_text("\n".join(first[:3]) + "\n")
    again = kamon("sample", model, *flags, "--regex", "[^o]*", "--exclude", tmp_path / "taken.txt")
    assert len(set(again.out.split()) - set(first[:3])) == 8


@pytest.mark.slow
def test_copies_are_marked_in_a_terminal(
    model: Path, names: Path, kamon: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is piped has each text and no more."""
    known = set(names.read_text().split())
    argv = ["sample", model, "--copies", "-n", 900, "--regex", "ida|ari|lea|mia|am?"]
    plain = kamon(*argv).out.splitlines()
    assert 0 < len(known.intersection(plain)) < len(set(plain))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = kamon(*argv).out.splitlines()
    assert [line.split()[0] for line in shown] == plain
    assert [line.endswith("(in the list)") for line in shown] == [text in known for text in plain]
    new = [text for text in dict.fromkeys(plain) if text not in known]
    assert sorted(kamon(*argv[:2], *argv[3:]).out.splitlines()) == sorted(new)


def test_only_new_entries_by_default(tmp_path: Path, kamon: Run) -> None:
    """They are what --copies has, without entries of the list and duplicates, which are counted."""
    known = {"a", "b", "ab", "ba", "aa", "bb"}
    (tmp_path / "ab.txt").write_text("\n".join(sorted(known)))
    training = [*TINY_FLAGS, "--num-steps=20", "--learning-rate=0.05"]
    assert kamon("train", tmp_path / "ab.txt", "-o", tmp_path / "m", *training).code == 0
    argv = ["sample", tmp_path / "m", "--temperature", 1, "--json"]
    done = kamon(*argv, "-n", 8)
    found = done.json
    tried = kamon(*argv, "-n", 2000, "--copies").json["samples"]
    made = [shown for shown in tried if shown["number"] < found["tried"] and shown["text"]]
    copies = sum(shown["in_list"] for shown in made)
    first = {shown["text"]: shown for shown in reversed(made) if not shown["in_list"]}
    duplicates = len(made) - copies - len(first)
    assert found["samples"] == sorted(first.values(), key=lambda shown: shown["number"])
    assert not known & {shown["text"] for shown in found["samples"]}
    assert found["left_out"] == {"copies": copies, "duplicates": duplicates}
    assert copies > 1
    assert duplicates > 1
    assert done.err == (
        f"Left out {copies} entries of the list and {duplicates} duplicates "
        "(--copies includes them)\n"
    )


@pytest.mark.parametrize("bound", [0, 15])
def test_a_long_list_is_read_again_for_each_block(
    bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a set of all its documents, the samples and counts are the same."""
    engine = tiny()
    known = list(dict.fromkeys(text for text in texts(engine, 60) if text))[:25]
    request, given = SampleRequest(25, 1.0, 5, BOS), GenerationConstraints(novel=True, unique=True)
    wanted = find(engine, CHARS, request, given, lambda: known)
    assert wanted.num_copies >= len(known)
    monkeypatch.setattr(constraints, "MAX_IN_SET", bound)
    assert find(engine, CHARS, request, given, lambda: known) == wanted


def test_json_and_details(model: Path, names: Path, kamon: Run) -> None:
    loaded = load(model, engine="scalar")
    flags = ["-n", 30, "--temperature", 0.8, "--regex", ".{2,}"]
    known = set(names.read_text().split())
    found = kamon("sample", model, *flags, "--max-len=3", "--copies", "--json", "--nearest").json
    numbers = [sample["number"] for sample in found["samples"]]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] + 1 == found["tried"]
    for shown in found["samples"]:
        text = shown["text"]
        assert shown["in_list"] == (text in known)
        assert shown["logprob"] == pytest.approx(
            logprobs(loaded.engine, loaded.tokenizer, [text])[0], rel=1e-4
        )
        assert shown["nearest"]["text"] in known
        assert (shown["nearest"]["similarity"] == 1) == shown["in_list"]
    lines = kamon("sample", model, *flags, "--max-len=3", "--copies", "--nearest").out.splitlines()
    assert [line.split("\t") for line in lines] == [
        [
            shown["text"],
            f"{shown['logprob']:.3f}",
            "in the list" if shown["in_list"] else "new",
            shown["nearest"]["text"],
            f"{shown['nearest']['similarity']:.3f}",
        ]
        for shown in found["samples"]
    ]
    short = kamon("sample", model, *flags, "--max-len=3", "--copies", "--details").out.splitlines()
    assert [line.split("\t") for line in short] == [line.split("\t")[:3] for line in lines]
    plain = kamon("sample", model, *flags, "--json").json["samples"]
    assert {"text", "number", "logprob", "in_list"} == set(plain[0])


@pytest.mark.slow
def test_shortfalls(model: Path, kamon: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "PATIENCE", 300)
    some = kamon("sample", model, "-n", 50, "--max-len", 1, "--temperature", 1)
    lines = some.out.splitlines()
    assert some.code == 0
    assert 1 < len(lines) == len(set(lines)) < 50
    assert some.err == (
        f"warning: found {len(lines)} of 50 samples: no other entry satisfies the conditions\n"
    )
    none = kamon("sample", model, "--max-len", 1, "--regex", "aa")
    assert (none.code, none.out) == (2, "")
    assert none.err.startswith("error: max_len 1 and regex 'aa' contradict each other: no text of")
    known = kamon("sample", model, "--regex", "anna")
    assert known.err == (
        "error: every entry that satisfies the conditions is in the list or excluded (1)\n"
        "hint: to get entries of the list, use --copies (in Python, leave out novel)\n"
    )
    assert kamon("sample", model, "--regex", "anna", "--copies", "-n", 2).out == "anna\nanna\n"


@pytest.mark.parametrize("again", [False, True])
def test_ctrl_c_keeps_the_samples_found(
    again: bool, model: Path, kamon: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first Ctrl-C prints them, and the second one ends at once."""
    find_copies = constraints.mark_copies

    def interrupted(*arguments: Any) -> Iterator[Any]:
        for number, candidate in enumerate(find_copies(*arguments)):
            if number == 40:
                signal.raise_signal(signal.SIGINT)
                if again:
                    signal.raise_signal(signal.SIGINT)
            yield candidate

    monkeypatch.setattr(constraints, "mark_copies", interrupted)
    before = signal.getsignal(signal.SIGINT)
    done = kamon("sample", model, "--suffix", "a", "-n", 1000, "--copies")
    assert signal.getsignal(signal.SIGINT) is before
    assert done.code == 130
    if again:
        assert (done.out, done.err.splitlines()[-1]) == ("", "stopped")
    else:
        found = done.out.splitlines()
        assert 0 < len(found) <= 41
        assert done.err.endswith(f"warning: found {len(found)} of 1,000 samples: stopped\n")


def test_ctrl_c_keeps_the_text_written(
    tmp_path: Path, kamon: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, model = tmp_path / "text.txt", tmp_path / "m"
    source.write_text("so and so on and on " * 99, "utf-8")
    options = ["--num-steps=1", "--n-embd=4", "--n-head=1"]
    assert kamon("train", source, "-o", model, "--mode", "text", *options).code == 0

    def draw(_seed: int, number: int, position: int) -> float:
        if (number, position) == (2, 9):
            signal.raise_signal(signal.SIGINT)
        return 0.5

    monkeypatch.setattr(text_samples, "uniform", draw)
    done = kamon("sample", model, "-n", 5, "--length", 30)
    assert done.code == 130
    assert [len(each) for each in done.out.removesuffix("\n").split("\n\n")] == [30, 30, 10]
    assert done.err.endswith("warning: found 3 of 5 samples: stopped\n")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--min-len=5", "--max-len=4"], 2, "min_len 5 is above max_len 4"),
        (["--max-len=10"], 2, "max_len 10 is above the 9 characters"),
        (["--prefix=annaa", "--max-len=4"], 2, "prefix 'annaa' has 5 characters"),
        (["--prefix=X"], 1, "character 'X'"),
        (["--top-k=0"], 2, "top_k must be 1 or more"),
        (["--top-p=2"], 2, "top_p must be above 0 and at most 1"),
        (["--top-p=x"], 2, "error: --top-p: must be a number, not 'x'"),
        (["--regex=("], 2, "regex '(' is not a valid regular expression"),
        (["--exclude=none.txt"], 1, "no file none.txt"),
        (["--prefx=a"], 2, "unknown option --prefx\nhint: did you mean --prefix?"),
    ],
)
def test_bad_flags(flags: list[str], code: int, message: str, model: Path, kamon: Run) -> None:
    done = kamon("sample", model, *flags)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    first, *more = done.err.splitlines()
    assert first.startswith("error: ")
    assert len(more) <= 1
