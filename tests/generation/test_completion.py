"""Completions and fillings: those of enumerating everything; what a bound costs; the verbs."""

from __future__ import annotations

import math
import os
import pty
import re
import select
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Result
from kamon import ConfigError, Model, TokenizerError, train
from kamon.completion import complete, fill, logprob_of_prefix, next_tokens, replaced, replacements
from kamon.engines.batch import pack_sequences
from kamon.evaluation import nearest
from kamon.finetuning.sft import sft
from kamon.generation.sampling import LanguageModel, probabilities
from kamon.generation.search import Wildcard, parse, search
from kamon.ngrams.reference import train_ngram

Kamon = Callable[..., Result]
DOCS = ["ab", "ba", "abc", "cab", "bc", "aab"]
SMALL = {"n_embd": 4, "n_head": 2, "block_size": 4, "num_steps": 30, "learning_rate": 0.05}
MODEL = train(DOCS, **SMALL, size="original", engine="scalar", hold_out=False)
TOKENIZER = MODEL.tokenizer
NATIVE = train(DOCS, **SMALL, size="original", dtype="float64", hold_out=False)
NGRAM = train_ngram(pack_sequences(TOKENIZER.encode_document(doc) for doc in DOCS), 4, order=3)
BLEND = replace(NATIVE, training=NATIVE.training | {"blend": {"weight": 0.6, "order": 3}})
READERS: dict[str, LanguageModel] = {
    "scalar": MODEL.engine,
    "native": NATIVE.engine,
    "ngram": NGRAM,
    "blend": BLEND.language_model,
}
PATTERNS = st.lists(st.sampled_from(["a", "b", "c", "_", "*", "*"]), max_size=6).map("".join)
MANY = 10**6  # reads: no bound here
MANY_DOCS = 1000


def everything(reader: LanguageModel) -> dict[str, float]:
    """Every document there can be, and its log probability."""
    lengths = range(reader.config.block_size + 1)
    texts = ["".join(chars) for length in lengths for chars in product("abc", repeat=length)]
    found = nearest.logprobs(reader, TOKENIZER, texts)  # type: ignore[arg-type]
    return dict(zip(texts, found, strict=True))


ALL = {name: everything(reader) for name, reader in READERS.items()}


def test_no_document_has_a_special_token() -> None:
    """All that there are, of a model that answers prompts: its separator is no character."""
    model = sft(MODEL, [{"prompt": "a", "completion": "ab"}], num_steps=2, block_size=5)
    found = complete(model, "ab", MANY_DOCS, effort=100)
    assert (found.complete, len(found.documents)) == (True, 1 + 3 + 9 + 27)
    assert {char for each in found.documents for char in each.text} == set("abc")


def matches(pattern: str, text: str) -> bool:
    return bool(re.fullmatch(pattern.replace("_", ".").replace("*", ".*"), text))


@pytest.mark.parametrize("name", READERS)
def test_the_whole_is_enumerated(name: str) -> None:
    """All documents together have probability 1: block_size and ends are counted rightly."""
    assert math.fsum(map(math.exp, ALL[name].values())) == pytest.approx(1)


@pytest.mark.parametrize("name", READERS)
@given(pattern=PATTERNS, n=st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_found_are_the_most_probable_that_match(name: str, pattern: str, n: int) -> None:
    reader = READERS[name]
    if len(pattern.replace("*", "")) > reader.config.block_size:
        with pytest.raises(ConfigError, match="the pattern needs"):
            search(reader, TOKENIZER, parse(pattern), n, MANY)
        return
    elements = parse(pattern) if pattern else []
    found = search(reader, TOKENIZER, elements, n, MANY)
    expected = {text: logprob for text, logprob in ALL[name].items() if matches(pattern, text)}
    texts = [each.text for each in found.documents]
    assert len(set(texts)) == len(texts) == min(n, len(expected))
    assert set(texts) <= set(expected)
    best = sorted(expected.values(), reverse=True)[:n]
    assert [each.logprob for each in found.documents] == pytest.approx(best)
    for each in found.documents:
        assert each.logprob == pytest.approx(expected[each.text])
    assert (found.num_exact, found.complete) == (len(texts), True)


@given(
    pattern=PATTERNS.filter(lambda p: 0 < len(p.replace("*", "")) <= 4), reads=st.integers(1, 60)
)
@settings(max_examples=60, deadline=None)
def test_what_is_said_to_be_exact_is_so_under_any_bound(pattern: str, reads: int) -> None:
    found = search(NATIVE.engine, TOKENIZER, parse(pattern), 5, reads)
    expected = {text: p for text, p in ALL["native"].items() if matches(pattern, text)}
    best = sorted(expected.values(), reverse=True)[:5]
    logprobs = [each.logprob for each in found.documents]
    assert logprobs == sorted(logprobs, reverse=True)
    assert logprobs[: found.num_exact] == pytest.approx(best[: found.num_exact])
    assert {each.text for each in found.documents} <= set(expected)
    assert found.reads <= 2 * reads + 2 * 4
    if found.complete:
        assert found.num_exact == len(best)


def test_the_beam_finds_what_the_bound_kept_from_the_search() -> None:
    """A rare ending behind a gap: exact search is far from it after so few reads."""
    found = search(NATIVE.engine, TOKENIZER, parse("*c"), 3, 40)
    assert not found.complete
    assert len(found.documents) == 3


@pytest.mark.parametrize("prefix", ["", "a", "ca", "abc"])
@pytest.mark.parametrize(("name", "model"), [("native", NATIVE), ("blend", BLEND)])
def test_completions_share_what_begins_alike(name: str, model: Model, prefix: str) -> None:
    beginning = {t: p for t, p in ALL[name].items() if t.startswith(prefix)}
    whole = math.fsum(map(math.exp, beginning.values()))
    found = complete(model, prefix, 200)
    assert {each.text for each in found.documents} == set(beginning)
    for each in found.documents:
        assert each.share == pytest.approx(math.exp(each.logprob) / whole)
    shared = logprob_of_prefix(model.language_model, TOKENIZER, prefix)
    assert math.exp(shared) == pytest.approx(whole)
    if len(prefix) < 3:
        following = {t: p for t, p in beginning.items() if t[len(prefix) :][:1] == "b"}
        share = math.fsum(map(math.exp, following.values())) / whole
        assert dict(next_tokens(model, prefix))["b"] == pytest.approx(share)


def test_shares_of_fillings_are_of_those_found() -> None:
    found = fill(NATIVE, "_b", 2).documents
    assert math.fsum(each.share for each in found) == pytest.approx(1)
    ratio = found[0].logprob - found[1].logprob
    assert found[0].share / found[1].share == pytest.approx(math.exp(ratio))


def test_next_tokens() -> None:
    decoder = NATIVE.engine.decoder()
    for token in [TOKENIZER.bos, *TOKENIZER.encode("ab")]:
        logits = decoder.push(token)
    for temperature in (0.0, 0.5, 1.0):
        found = next_tokens(NATIVE, "ab", temperature=temperature)
        expected = dict(zip(["a", "b", "c", ""], probabilities(logits, temperature), strict=True))
        assert dict(found) == pytest.approx(expected)
        assert [each.probability for each in found] == sorted(expected.values(), reverse=True)


def test_text_is_taken_apart() -> None:
    assert parse(r"a\_\*\\_*") == ["a", "_", "*", "\\", Wildcard.ONE, Wildcard.ANY]
    with pytest.raises(ConfigError, match="empty"):
        parse("")
    with pytest.raises(ConfigError, match="which escapes nothing"):
        parse("a\\")


def test_unknown_characters() -> None:
    elements = parse("Äx_b*")
    assert replacements(TOKENIZER, elements, "error") == {}
    assert replacements(TOKENIZER, elements, "skip") == {"Ä": "", "x": ""}
    assert replacements(TOKENIZER, elements, "replace") == {"Ä": "a"}
    assert replaced(elements, {"Ä": "a", "x": ""}) == ["a", Wildcard.ONE, "b", Wildcard.ANY]
    with pytest.raises(TokenizerError, match="'x'"):
        fill(NATIVE, "x*")
    with pytest.raises(ConfigError, match="unknown must be"):
        replacements(TOKENIZER, elements, "drop")


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: complete(NATIVE, "abca"), "block_size 4 allows at most 3"),
        (lambda: next_tokens(NATIVE, "a" * 10**6), "1,000,000 characters"),
        (lambda: fill(NATIVE, "_" * 10**6), "needs 1,000,000 characters"),
        (lambda: fill(NATIVE, "a", 0), "n must be from 1"),
        (lambda: fill(NATIVE, "a", True), "n must be"),
        (lambda: fill(NATIVE, "a", effort=math.inf), "effort must be"),
        (lambda: next_tokens(NATIVE, temperature=math.nan), "temperature must be"),
    ],
)
def test_what_cannot_be_is_said(call: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        call()
    assert len(str(error.value)) < 200


# ---- the verbs


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    NATIVE.save(tmp_path / "m")
    return tmp_path / "m"


def test_complete(directory: Path, kamon: Kamon) -> None:
    done = kamon("complete", directory, "a", "--next", 2, "-n", 3)
    lines = done.out.splitlines()
    assert (done.code, lines[0], lines[5]) == (0, "next", "completions")
    assert "2 others" in lines[3]
    first = next_tokens(NATIVE, "a")[0]
    assert f"{first.probability:.1%}" in lines[1]
    assert lines[1].count("█") == round(50 * first.probability)
    found = kamon("complete", directory, "a", "--next", 2, "-n", 3, "--json").json
    expected = complete(NATIVE, "a", 3).documents
    assert [each["text"] for each in found["documents"]] == [each.text for each in expected]
    total = sum(each["probability"] for each in found["next"]) + found["others"]["probability"]
    assert total == pytest.approx(1)
    for each, line in zip(found["documents"], lines[6:], strict=True):
        assert each["in_list"] == (each["text"] in DOCS) == ("(in the list)" in line)


def test_fill(directory: Path, kamon: Kamon) -> None:
    done = kamon("fill", directory, "_b", "-n", 9)
    assert sorted(line.split()[2] for line in done.out.splitlines()) == ["ab", "bb", "cb"]
    assert "Found 3 of 9: no other entry matches" in done.err
    found = kamon("fill", directory, "*" * 10_000 + "c", "--json", "--effort", 0.001).json
    assert not found["complete"]
    done = kamon("fill", directory, "*c", "--effort", 0.001)
    assert "guaranteed to be the most probable" in done.err


def test_verbs_take_bad_input(directory: Path, kamon: Kamon) -> None:
    for text in ("🙂", "e\u0301", "של", "a\x1b", "\ud800"):
        for verb in ("complete", "fill"):
            done = kamon(verb, directory, text)
            assert (done.code, done.err.count("\n"), done.out) == (1, 2, "")
            assert "error: unknown character " in done.err
            assert "\x1b" not in done.err
    done = kamon("complete", directory, "🙂á", "--unknown=replace")
    assert "model: 'á' (U+00E1) replaced by 'a'" in done.err
    assert "character '🙂'" in done.err
    for argv in (["complete", directory, "á"], ["fill", directory, "á*"]):
        done = kamon(*argv)
        assert (done.code, done.out) == (1, "")
        assert "hint: --unknown replace takes the closest known characters" in done.err
    done = kamon("fill", directory, "🙂a*", "--unknown=skip")
    assert (done.code, "model: '🙂' (U+1F642) left out" in done.err) == (0, True)
    assert kamon("fill", directory, "").code == 2
    assert kamon("fill", directory, "_" * 5).code == 2
    assert kamon("complete", directory, "a", "--next=0").code == 2
    assert kamon("complete", directory / "none", "a").code == 1


# ---- while typing


def test_interactive_needs_a_terminal(directory: Path, kamon: Kamon) -> None:
    done = kamon("complete", directory, "--interactive")
    assert (done.code, done.err.count("\n")) == (2, 2)
    assert "needs a terminal" in done.err
    assert kamon("complete", directory, "--interactive", "--json").code == 2


def test_suggestions_under_the_line() -> None:
    from kamon.cli.interactive import suggest

    args = Namespace(
        words=False, temperature=1.0, next=10, n=3, effort=5.0, unknown="error", given=None
    )
    found = suggest(NATIVE, "a", set(DOCS), args)
    expected = complete(NATIVE, "a", 3).documents
    assert found.best == next(each.text for each in expected if each.text != "a")
    assert sum("(in the list)" in line for line in found.lines) == sum(
        each.text in DOCS for each in expected
    )
    for text in ("x", "abca"):
        said = suggest(NATIVE, text, set(), args)
        assert (said.best, len(said.lines)) == (text, 1)


@pytest.mark.parametrize("key", ["\x1b", "\x03", "\x04"])
def test_keys_that_leave(key: str) -> None:
    pytest.importorskip("prompt_toolkit", reason="prompt_toolkit is in kamon[interactive]")
    from prompt_toolkit.application import create_app_session
    from prompt_toolkit.input import create_pipe_input
    from prompt_toolkit.output import DummyOutput

    from kamon.cli.interactive import line_editor

    args = Namespace(
        words=False, temperature=1.0, next=10, n=3, effort=1.0, unknown="error", given=None
    )
    with create_pipe_input() as pipe, create_app_session(input=pipe, output=DummyOutput()):
        pipe.send_text("ab\r")
        assert line_editor(NATIVE, "c", set(), args).run() == "cab"
        pipe.send_text("ab" + key)
        assert line_editor(NATIVE, "", set(), args).run() is None


def test_on_a_real_terminal(directory: Path) -> None:
    """Typed, suggested, accepted with Tab, printed, left with Esc; the terminal is as before."""
    pytest.importorskip("prompt_toolkit", reason="prompt_toolkit is in kamon[interactive]")
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    running = subprocess.Popen(
        [sys.executable, "-m", "kamon", "complete", str(directory), "--interactive"],
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env=os.environ | {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
    )
    shown = ""

    def wait_for(regex: str) -> re.Match[str]:
        nonlocal shown
        end = time.monotonic() + 20
        while not (found := re.search(regex, shown)):
            assert time.monotonic() < end, shown
            if select.select([ours], [], [], 0.1)[0]:
                shown += os.read(ours, 65536).decode(errors="replace")
        shown = shown[found.end() :]
        return found

    try:
        wait_for("Esc: leave")
        wait_for(r"\d%")
        os.write(ours, b"x")  # the model does not know it, which is said
        wait_for("'x'")
        os.write(ours, b"\x7f")
        wait_for(r"\d%")
        os.write(ours, b"\t")
        best = next(each.text for each in complete(NATIVE, "", 6).documents if each.text)
        wait_for(best)
        os.write(ours, b"\r")
        wait_for(rf"{best}\r\n")
        wait_for("Esc: leave")
        os.write(ours, b"\x1b")
        assert running.wait(20) == 0
        assert termios.tcgetattr(theirs) == before
        assert running.stderr is not None
        assert running.stderr.read() == b""
    finally:
        running.kill()
        running.wait()
        if running.stderr:
            running.stderr.close()
        os.close(ours)
        os.close(theirs)
