"""Guided sampling, compared with the enumeration of all documents of tiny models."""

from __future__ import annotations

import math
import random
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kamon.config import Config
from kamon.engines.base import Engine, initial_state
from kamon.engines.batch import pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.native import GuideArrays, NativeEngine
from kamon.engines.parameters import init
from kamon.engines.philox import uniform
from kamon.errors import ConfigError
from kamon.evaluation.nearest import logprobs
from kamon.generation import constraints
from kamon.generation.automaton import ALL, Automaton, intersection, parse_regex
from kamon.generation.blend import BlendedModel
from kamon.generation.constraints import NOT_EMPTY, filter_of, find, make_constraints
from kamon.generation.lookahead import (
    Contexts,
    Guide,
    Trellis,
    guided_candidates,
    guided_document,
    guided_documents,
    limit_of,
    look_ahead,
    make_guide,
    num_documents,
    survey,
    unroll,
)
from kamon.generation.sampling import LanguageModel, SampleRequest, numbered_document, probabilities
from kamon.native import library
from kamon.ngrams.native import count_ngram
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer

CHARS = CharTokenizer("abc")
BOS, ROOM = CHARS.bos, 5
TEXTS = ["".join(text) for n in range(ROOM + 1) for text in product("abc", repeat=n)]
REGEXES = ["a*b.*", ".*ca", ".*aba.*", "(ab|c)+", ".{3,4}", "[ab]*c?", "c.c.?.?", "(?:.a)*"]
WORDS = ["abc", "cab", "aab", "abab", "cc", "bca", "acab", "b"]

needs_native = pytest.mark.skipif(bool(library.why_not()), reason=library.why_not())


def tiny(seed: int, name: str = "scalar", std: float = 0.4) -> Engine:
    config = Config(n_embd=4, n_head=2, block_size=ROOM, vocab_size=CHARS.vocab_size, std=std)
    engine = make_engine(name, config, dtype="float64")
    engine.load(initial_state(init(config, random.Random(seed))))
    return engine


def blended(seed: int) -> BlendedModel:
    batch = pack_sequences(map(CHARS.encode_document, WORDS))
    return BlendedModel(tiny(seed, "native"), count_ngram(batch, CHARS.vocab_size, 3), 0.6)


def trellis_of(regex: str) -> Trellis:
    trellis = unroll(Automaton(intersection(NOT_EMPTY, parse_regex(regex))), CHARS, ROOM)
    assert trellis
    return trellis


def walk(guide: GuideArrays, tokens: Iterable[int]) -> tuple[int, int]:
    """The node and the context after these tokens; node −1 if no document begins so."""
    node = context = 0
    for token in tokens:
        node = guide.next_nodes[node * guide.vocab_size + token] if node >= 0 else -1
        context = guide.after[context * guide.vocab_size + token]
    return node, context


def taught(model: LanguageModel, regex: str, n: int = 40) -> tuple[Guide, Contexts]:
    request = SampleRequest(n, 1.0, 5, BOS)
    contexts = survey(model, request, trellis_of(".*|"), trellis_of(regex))
    return make_guide(trellis_of(regex), contexts), contexts


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(REGEXES), st.integers(1, ROOM))
def test_the_trellis_has_the_documents_that_match(regex: str, room: int) -> None:
    automaton = Automaton(parse_regex(regex))
    expected = {text for text in TEXTS if len(text) <= room and automaton.matches(text)}
    trellis = unroll(automaton, CHARS, room)
    if trellis is None:
        assert not expected
        return
    contexts = Contexts(CHARS.vocab_size, room)
    arrays = make_guide(trellis, contexts).arrays
    found = set()
    for text in TEXTS:
        node, _ = walk(arrays, CHARS.encode(text)) if len(text) <= room else (-1, 0)
        if node >= 0 and trellis.ends[node]:
            found.add(text)
        begins = any(each.startswith(text) for each in expected)
        assert (node >= 0) == begins, text  # dead ends are left out
    assert found == expected
    assert num_documents(trellis) == len(expected)


def test_tokens_of_several_characters() -> None:
    """Every way to write a text as tokens is found, also if a token ends within a character."""
    tokenizer = BytePairTokenizer.train(["anna é", "hanna", "ñandu", "éé"] * 3, 264)
    trellis = unroll(Automaton(parse_regex("[añé]n?.?a")), tokenizer, 4, "ñé")
    assert trellis
    arrays = make_guide(trellis, Contexts(tokenizer.vocab_size, 4)).arrays
    pieces = [tokenizer.encode(c)[0] for c in "an"] + list("éñ".encode()) + [256, 257, 258, 259]
    count = 0
    for size in range(1, 5):
        for tokens in product(set(pieces), repeat=size):
            whole = tokenizer.unfinished(tokens) == b""
            text = tokenizer.decode(tokens)
            expected = whole and Automaton(parse_regex("[añé]n?.?a")).matches(text)
            node, _ = walk(arrays, tokens)
            assert (node >= 0 and bool(trellis.ends[node])) == expected, text
            count += expected
    assert count > 5


def chance_by_enumeration(
    guide: GuideArrays, p: Sequence[float], texts: Iterable[str], begin: str
) -> float:
    """The chance that the n-gram continues `begin` to one of the texts."""
    total = 0.0
    for text in texts:
        if not text.startswith(begin):
            continue
        chance = 1.0
        for place in range(len(begin), min(len(text) + 1, ROOM)):
            _, context = walk(guide, CHARS.encode(text[:place]))
            chance *= p[context * guide.vocab_size + [*CHARS.encode(text), BOS][place]]
        total += chance
    return total


@settings(max_examples=20, deadline=None)
@given(st.sampled_from(REGEXES), st.integers(0, 99), st.booleans())
def test_chances_are_those_of_all_documents(regex: str, seed: int, native: bool) -> None:
    guide, contexts = taught(tiny(seed), regex)
    arrays, p = guide.arrays, contexts.probabilities()
    chances = guide.chances
    if not native:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(library, "why_not", lambda: "not here")
            assert contexts.probabilities() == pytest.approx(p, rel=1e-12)
            chances = look_ahead(arrays, p)
    fitting = [text for text in TEXTS if text and Automaton(parse_regex(regex)).matches(text)]
    for text in TEXTS:
        node, context = walk(arrays, CHARS.encode(text))
        if node < 0:
            continue
        place = arrays.begins[node] + context - arrays.first_contexts[len(text)]
        expected = chance_by_enumeration(arrays, p, fitting, text)
        assert chances[place] == pytest.approx(expected, rel=1e-9)


def test_contexts_know_the_longest_known_tokens() -> None:
    """And p of each is a mean of what the model said there, close to that of shorter ones."""
    model = tiny(3)
    contexts = Contexts(CHARS.vocab_size, ROOM)
    docs = pack_sequences(
        [CHARS.encode(text) for text in ["abca", "abcb", "abc", "cab", "ca", "cb"]]
    )
    contexts.learn(docs)
    known = {(ord(key[0]) - 1, tuple(map(ord, key[1:]))) for key in contexts.keys}
    assert (2, (0, 1)) in known  # "ab", three times
    assert (2, (2, 0)) not in known  # "ca", twice
    assert (-1, (0, 1)) in known
    guide = make_guide(trellis_of(".*"), contexts).arrays
    for text in ["", "a", "ab", "abc", "abca", "ca", "cab", "cb", "b", "bb"]:
        _, context = walk(guide, CHARS.encode(text))
        longest = next(
            (len(text), tokens)
            for tokens in (tuple(CHARS.encode(text[i:])) for i in range(len(text) + 1))
            if (len(text), tokens) in known
        )
        key = contexts.keys[context]
        assert (ord(key[0]) - 1, tuple(map(ord, key[1:]))) == longest
    decoder = model.decoder()
    logits = [decoder.push(token) for token in (BOS, 0)]
    request = SampleRequest(200, 1.0, 5, BOS)
    guided_documents(model, request, make_guide(trellis_of(".+"), contexts), contexts)
    p = contexts.probabilities()
    for context, each in zip((0, walk(guide, [0])[1]), logits, strict=True):
        row = p[context * CHARS.vocab_size :][: CHARS.vocab_size]
        assert math.fsum(row) == pytest.approx(1)
        assert list(row) == pytest.approx(probabilities(each, 1.0), abs=0.02)


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(REGEXES), st.integers(0, 99), st.sampled_from([0.5, 1.0, 2.0]))
def test_weights_are_exact(regex: str, seed: int, temperature: float) -> None:
    """p of the model over p with which it was sampled, over the chance at the start."""
    model = tiny(seed)
    guide, _ = taught(model, regex, 10)
    request = SampleRequest(1, temperature, 7, BOS)
    arrays, chances = guide.arrays, guide.chances
    for number in range(20):
        tokens, weight = guided_document(model, request, guide, number)
        assert Automaton(parse_regex(regex)).matches(CHARS.decode(tokens))
        decoder, own, sampled = model.decoder(), 1.0, 1.0
        for place, token in enumerate([*tokens, BOS][:ROOM]):
            p = probabilities(decoder.push([BOS, *tokens][place]), temperature)
            ahead = []
            for v in range(CHARS.vocab_size):
                node, context = walk(arrays, [*tokens[:place], v] if v != BOS else tokens[:place])
                at = place + (v != BOS)
                if v == BOS:
                    ahead.append(float(bool(arrays.ends[node])))
                else:
                    spot = arrays.begins[node] + context - arrays.first_contexts[at]
                    ahead.append(chances[spot] if node >= 0 else 0.0)
            shares = [a * b for a, b in zip(p, ahead, strict=True)]
            own, sampled = own * p[token], sampled * shares[token] / math.fsum(shares)
        assert weight == pytest.approx(own / sampled / guide.share, rel=1e-9)


@needs_native
@settings(max_examples=20, deadline=None)
@given(
    *(st.sampled_from(REGEXES), st.integers(0, 99), st.booleans(), st.sampled_from([0.3, 1.0])),
    *(st.none() | st.integers(1, 5), st.sampled_from([1.0, 0.9, 0.4])),
)
def test_native_documents_are_those_of_python(
    regex: str, seed: int, blend: bool, temperature: float, top_k: int | None, top_p: float
) -> None:
    model: Any = blended(seed) if blend else tiny(seed, "native")
    guide, contexts = taught(model, regex)
    counted, again = Contexts(CHARS.vocab_size, ROOM), Contexts(CHARS.vocab_size, ROOM)
    for each in (counted, again):
        each.__dict__.update({**contexts.__dict__, "sums": array("d", [0.0] * len(contexts.sums))})
    request = SampleRequest(300, temperature, seed, BOS, 3, top_k=top_k, top_p=top_p)
    docs, weights = guided_documents(model, request, guide, counted)
    for number, document in enumerate(docs, 3):
        tokens, weight = guided_document(model, request, guide, number, again)
        assert list(document) == tokens
        assert weights[number - 3] == pytest.approx(weight, rel=1e-9)
    assert counted.sums == pytest.approx(again.sums, rel=1e-9)


def expected_shares(
    model: LanguageModel, texts: Sequence[str], temperature: float
) -> Mapping[str, float]:
    """The model's probabilities of texts that it has to choose from."""
    if temperature == 1:
        p = {t: math.exp(x) for t, x in zip(texts, logprobs(model, CHARS, texts), strict=True)}
    else:
        p = {}
        for text in texts:
            decoder, share = model.decoder(), 1.0
            tokens = CHARS.encode(text)
            for place, token in enumerate([*tokens, BOS][:ROOM]):
                share *= probabilities(decoder.push([BOS, *tokens][place]), temperature)[token]
            p[text] = share
    total = math.fsum(p.values())
    return {text: share / total for text, share in p.items()}


def chi_square(found: Sequence[str], expected: Mapping[str, float]) -> tuple[float, int]:
    """χ² of counts, and its degrees of freedom. Rare texts count together."""
    counts, n = Counter(found), len(found)
    rare = [text for text in expected if expected[text] * n < 5]
    cells = [(counts[t], expected[t] * n) for t in expected if expected[t] * n >= 5]
    if rare:
        cells.append((sum(counts[t] for t in rare), sum(expected[t] for t in rare) * n))
    assert sum(counts.values()) == sum(count for count, _ in cells)  # nothing else was found
    return sum((o - e) ** 2 / e for o, e in cells if e >= 1), sum(e >= 1 for _, e in cells) - 1


def is_plausible(chi2: float, freedom: int) -> bool:
    """Whether χ² is within about five standard deviations (Wilson and Hilferty 1931)."""
    spread = 2 / (9 * freedom)
    return (chi2 / freedom) ** (1 / 3) < 1 - spread + 5 * math.sqrt(spread)


@needs_native
@pytest.mark.parametrize(
    ("regex", "easy"), [("a*b.*", 0.0), ("[ab]*c?", 0.0), *((regex, 2.0) for regex in REGEXES)]
)
def test_samples_follow_the_model(regex: str, easy: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """100,000 samples by rejection, and as many guided, against all documents of the model."""
    monkeypatch.setattr(constraints, "EASY", easy)
    model = blended(11)
    request = SampleRequest(100_000, 0.8, 5, BOS)
    found = find(model, CHARS, request, make_constraints({"regex": regex}), list)
    assert len(found.texts) == 100_000
    fitting = [text for text in TEXTS if text and Automaton(parse_regex(regex)).matches(text)]
    chi2, freedom = chi_square(found.texts, expected_shares(model, fitting, 0.8))
    assert is_plausible(chi2, freedom), (chi2, freedom)


def truncated_shares(
    model: LanguageModel, texts: Sequence[str], request: SampleRequest
) -> Mapping[str, float]:
    """The shares of texts under top_k and top_p, which choose from the tokens that fit.

    Those that stay have the probability of all that fit, in proportion.
    """
    p: dict[str, float] = {}
    for text in texts:
        decoder, share = model.decoder(), 1.0
        tokens = CHARS.encode(text)
        for place, token in enumerate([*tokens, BOS][:ROOM]):
            logits = decoder.push([BOS, *tokens][place])
            begun = [each for each in texts if each.startswith(text[:place])]
            fit = {CHARS.encode(t[place])[0] if len(t) > place else BOS for t in begun}
            own = probabilities(logits, request.temperature)
            ordered = sorted(fit, key=lambda v: (-own[v], v))[: request.top_k]
            mass = math.fsum(own[v] for v in ordered)
            running = [math.fsum(own[v] for v in ordered[:i]) for i in range(len(ordered))]
            stay = [v for v, r in zip(ordered, running, strict=True) if r < request.top_p * mass]
            kept = math.fsum(own[v] for v in stay)
            share *= own[token] / kept * math.fsum(own[v] for v in fit) if token in stay else 0
        p[text] = share
    total = math.fsum(p.values())
    return {text: share / total for text, share in p.items()}


@needs_native
@pytest.mark.parametrize("regex", [".*", "a*b.*", ".*ca", "(ab|c)+", ".*aba.*"])
@pytest.mark.parametrize(("top_k", "top_p"), [(2, 1.0), (None, 0.7), (3, 0.8)])
def test_samples_under_top_k_and_top_p(regex: str, top_k: int | None, top_p: float) -> None:
    """100,000 samples against all documents of the model."""
    model = blended(12)
    given = {"regex": regex, "top_k": top_k, "top_p": top_p}
    request = SampleRequest(100_000, 0.9, 5, BOS, top_k=top_k, top_p=top_p)
    found = find(model, CHARS, request, make_constraints(given), list)
    fitting = [text for text in TEXTS if text and Automaton(parse_regex(regex)).matches(text)]
    shares = truncated_shares(model, fitting, request)
    chi2, freedom = chi_square(found.texts, {t: share for t, share in shares.items() if share})
    assert len(found.texts) == 100_000
    assert is_plausible(chi2, freedom), (chi2, freedom)


@needs_native
def test_a_bad_n_gram_changes_only_the_number_of_candidates() -> None:
    """One that knows nothing: samples still follow the model."""
    model = tiny(4, "native", std=0.6)
    request = SampleRequest(20_000, 1.0, 5, BOS)
    contexts = Contexts(CHARS.vocab_size, ROOM)
    guide = make_guide(trellis_of(".*ca"), contexts)
    docs, weights = guided_documents(model, request, guide)
    limit = limit_of(weights, 0.05)
    found: list[str] = []
    draws = random.Random(1)
    for text, weight in zip(CHARS.decode_documents(docs), weights, strict=True):
        draw = draws.random()
        found += [text] * (int(weight / limit) + (draw < weight / limit % 1))
    fitting = [text for text in TEXTS if text.endswith("ca")]
    chi2, freedom = chi_square(found, expected_shares(model, fitting, 1.0))
    assert len(found) > 400
    assert is_plausible(chi2, freedom), (chi2, freedom)


def test_limit() -> None:
    assert limit_of([1.0] * 9, 0.01) == 1
    assert limit_of([0.0, 0.0], 0.01) == 0
    weights = [1.0] * 190 + [11.0]  # its surplus above 1 is 10 of 201, the one above 11 nothing
    assert limit_of(weights, 0.05) == 1
    assert limit_of(weights, 0.04) == 11
    assert limit_of([*weights[:150], 11.0], 0.05) == 11


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.integers(1, 4), st.sampled_from([1.0, 0.9, 0.5]))
def test_top_k_takes_over_the_probability_of_what_it_leaves_out(
    seed: int, top_k: int, top_p: float
) -> None:
    """Without other conditions, guided documents are those of the sampler with top_k and top_p."""
    model = tiny(seed)
    request = SampleRequest(1, 1.0, 5, BOS, top_k=top_k, top_p=top_p)
    everything = unroll(Automaton(ALL), CHARS, ROOM)
    assert everything
    guide = make_guide(everything, Contexts(CHARS.vocab_size, ROOM))
    for number in range(30):
        found = guided_document(model, request, guide, number)
        assert found == (numbered_document(model, request, number), pytest.approx(1))


@needs_native
@pytest.mark.parametrize(
    "given",
    [
        {"prefix": "a", "suffix": "c"},
        {"contains": "bb", "min_len": 4},
        {"pattern": "_b*", "max_len": 3, "exclude": ["abc", "cb"]},
        {"min_len": 2, "max_len": 3, "regex": "[^a]*", "novel": True},
    ],
)
def test_conditions_together(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constraints, "EASY", 2.0)
    model, chosen = blended(5), make_constraints(given)
    docs = ["cc", "bcb", "cab"]
    found = find(model, CHARS, SampleRequest(20_000, 1.0, 5, BOS), chosen, lambda: docs)
    fits = filter_of(chosen)
    left = [text for text in TEXTS if fits(text) and not (chosen.novel and text in docs)]
    chi2, freedom = chi_square(found.texts, expected_shares(model, left, 1.0))
    assert is_plausible(chi2, freedom), (chi2, freedom)
    few = find(model, CHARS, SampleRequest(50, 1.0, 5, BOS), chosen, lambda: docs)
    assert few.texts == found.texts[:50]
    unique = replace(chosen, unique=True)
    every = find(model, CHARS, SampleRequest(2000, 1.0, 5, BOS), unique, lambda: docs)
    assert (set(every.texts), every.complete) == (set(left), True)


@needs_native
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_few_documents_are_drawn_without_repetition(temperature: float) -> None:
    """The first two of 3,000 seeds, against p(first) p(second) / (1 − p(first))."""
    model, texts = blended(6), ["ab", "c", "abcab"]
    chosen = make_constraints({"regex": "ab|c|abcab", "unique": True})
    shares = expected_shares(model, texts, temperature)
    expected = {
        f"{a} {b}": shares[a] * shares[b] / (1 - shares[a])
        for a, b in product(texts, texts)
        if a != b
    }
    pairs = []
    for seed in range(3000):
        found = find(model, CHARS, SampleRequest(5, temperature, seed, BOS), chosen, list)
        assert (set(found.texts), found.complete, found.num_candidates) == (set(texts), True, 3)
        pairs.append(" ".join(found.texts[:2]))
    chi2, freedom = chi_square(pairs, expected)
    assert is_plausible(chi2, freedom), (chi2, freedom)


def test_nothing_is_left() -> None:
    chosen = make_constraints({"regex": "ab|c", "novel": True, "exclude": ["c"]})
    with pytest.raises(
        ConfigError, match="every entry that satisfies the conditions is in the list or excl"
    ):
        find(tiny(1), CHARS, SampleRequest(2, 1.0, 5, BOS), chosen, lambda: ["ab", "b"])


@needs_native
def test_arrays_that_do_not_fit() -> None:
    """The library checks every number that it uses as a place."""
    engine = tiny(1, "native")
    assert isinstance(engine, NativeEngine)
    guide, _ = taught(engine, "a.*")
    good = guide.arrays
    last = array("i", good.next_nodes)
    last[0] = len(good.ends)
    after = array("i", good.after)
    after[0] = good.first_contexts[-1]
    begins = array("q", good.begins)
    begins[1] += 1
    for bad in (
        replace(good, next_nodes=last),
        replace(good, after=after),
        replace(good, begins=begins),
        replace(good, bos=9),
        replace(good, positions=array("i", [9] * len(good.positions))),
    ):
        with pytest.raises(ValueError, match=r"index|token is outside"):
            engine.sample_guided(1, 1.0, 5, 0, None, 1.0, bad, guide.chances)
    with pytest.raises(ValueError, match="do not fit together"):
        engine.sample_guided(
            1, 1.0, 5, 0, None, 1.0, replace(good, ends=good.ends[1:]), guide.chances
        )


def test_candidates_are_counted_by_weight() -> None:
    """A candidate of weight w is w / limit samples on average, at a draw of its own."""
    model, request = tiny(7), SampleRequest(300, 1.0, 5, BOS)
    guide = replace(taught(model, ".*b")[0], limit=0.8)
    found = list(guided_candidates(model, CHARS, request, [(guide, 200), (guide, 300)], 50))
    assert len(found) == 300
    times = 0.0
    for number, (text, size, copies) in enumerate(found):
        tokens, weight = guided_document(model, request, guide, number)
        assert (text, size) == (CHARS.decode(tokens), len(tokens))
        draw = uniform(5, number, ROOM)
        assert copies == math.floor(weight / 0.8) + (draw < weight / 0.8 % 1)
        times += weight / 0.8
    assert sum(copies for _, _, copies in found) == pytest.approx(times, rel=0.1)


@needs_native
@pytest.mark.parametrize("temperature", [0.02, 0.05, 0.3])
def test_cold_samples(temperature: float) -> None:
    """Also if the probabilities are too small for the engine: then the most probable document."""
    model = tiny(4, "native", std=1.5)
    fitting = [text for text in TEXTS if text.endswith("ca")]
    request = SampleRequest(4000, temperature, 5, BOS)
    found = find(model, CHARS, request, make_constraints({"suffix": "ca"}), list).texts
    assert len(found) == 4000
    if temperature == 0.3:
        chi2, freedom = chi_square(found, expected_shares(model, fitting, temperature))
        assert is_plausible(chi2, max(1, freedom)), (chi2, freedom)
    assert set(found) <= set(fitting)
