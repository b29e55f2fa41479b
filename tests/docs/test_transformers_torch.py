"""The transformers of docs/transformers by torch: number for number those by the scalar engine."""

from __future__ import annotations

import math
import random
import re
import sys
from collections.abc import Callable
from functools import reduce
from operator import add
from typing import Any

import pytest
from test_transformers import FOLDER, mask_named, random_params, values_of, weighted_loss

import kamon
from kamon.completion import fill
from kamon.config import Config
from kamon.data.builtin import names
from kamon.engines.scalar import softmax

pytestmark = pytest.mark.extra

torch = pytest.importorskip("torch")

sys.path.insert(0, str(FOLDER))

from torch.nn import functional  # noqa: E402

import answer  # noqa: E402
import by_scalar  # noqa: E402
import by_torch  # noqa: E402
import fill_blanks  # noqa: E402
import gpt2  # noqa: E402
import masks  # noqa: E402

torch.set_num_threads(1)
BOUND = 1e-10
# n_layer, n_head, head_dim, vocab_size
SHAPES = [(1, 1, 3, 3), (2, 3, 3, 7), (3, 4, 1, 50), (1, 2, 5, 11), (2, 1, 7, 4)]
KINDS = ["encoder", "decoder", "prefix"]


def module_with(kind: Any, shape: tuple[int, ...], block_size: int, params: Any) -> Any:
    """A module in float64 that has these parameters, as a model directory would give them."""
    n_layer, n_head, head_dim, vocab_size = shape
    config = Config(
        n_layer=n_layer,
        n_head=n_head,
        n_embd=n_head * head_dim,
        vocab_size=vocab_size,
        block_size=block_size,
    )
    module = by_torch.made(kind, config).double()
    state = {name: torch.tensor(matrix, dtype=torch.float64) for name, matrix in params.items()}
    module.load_state_dict(state)
    return module


def assert_close(found: Any, expected: list[Any], what: str) -> None:
    expected = torch.tensor(expected, dtype=torch.float64)
    assert found.shape == expected.shape, what
    error = (found - expected).abs().max().item()
    assert error <= BOUND * expected.abs().max().item(), what


def check_gradients(module: Any, params: Any) -> None:
    """Check each tensor against its own largest gradient, or the model's if its own are all 0.

    The terms of a gradient that is 0 cancel: how well depends on the order in which torch adds.
    """
    found = {name: p.grad for name, p in module.named_parameters()}
    expected = {name: [[value.grad for value in row] for row in params[name]] for name in found}
    largest = max(abs(x) for tensor in expected.values() for row in tensor for x in row)
    for name, grad in found.items():
        if any(any(row) for row in expected[name]):
            assert_close(grad, expected[name], name)
        elif grad is not None:
            assert grad.abs().max().item() <= BOUND * largest, name


def random_texts(rng: random.Random, lengths: list[int], vocab_size: int) -> list[list[int]]:
    return [[rng.randrange(vocab_size) for _ in range(length)] for length in lengths]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_one_stack_is_that_of_the_scalar_engine(
    kind: str, shape: tuple[int, int, int, int]
) -> None:
    """Of texts of several lengths in one batch: log-probabilities and each gradient tensor."""
    rng = random.Random(11)
    n_layer, _, head_dim, vocab_size = shape
    params = random_params(shape, 6, 1, rng)
    module = module_with(by_torch.OneStack, shape, 6, params)
    texts = random_texts(rng, [6, 1, 4], vocab_size)
    targets = random_texts(rng, [6, 1, 4], vocab_size)
    weights = [[rng.uniform(-1, 1) for _ in text] for text in texts]

    remembered: Any = values_of(params)
    losses, expected = [], []
    for text, target, weight in zip(texts, targets, weights, strict=True):
        mask = mask_named(kind, len(text))
        logits = by_scalar.one_stack(remembered, n_layer, head_dim, text, mask)
        expected.append([[p.log().data for p in softmax(row)] for row in logits])
        losses.append(weighted_loss(logits, target, weight))
    reduce(add, losses).backward()

    tokens, lengths = by_torch.filled_up(texts, vocab_size - 1)
    mask = torch.zeros(len(texts), 6, 6, dtype=torch.bool)
    for b, text in enumerate(texts):
        mask[b, :, 0] = True  # what fills up looks somewhere; nobody looks back
        mask[b, : len(text), : len(text)] = torch.tensor(mask_named(kind, len(text)))
    if kind == "encoder":
        mask = by_torch.up_to(lengths, 6)
    elif kind == "decoder":
        mask = by_torch.causal(6)
    logprobs = functional.log_softmax(module(tokens, mask), -1)
    loss = torch.zeros((), dtype=torch.float64)
    for b, (target, weight) in enumerate(zip(targets, weights, strict=True)):
        assert_close(logprobs[b, : len(target)].detach(), expected[b], "log-probabilities")
        picked = logprobs[b, torch.arange(len(target)), torch.tensor(target)]
        loss = loss - (picked * torch.tensor(weight, dtype=torch.float64)).sum()
    loss.backward()
    check_gradients(module, remembered)


@pytest.mark.parametrize("lengths", [[(4, 3), (1, 1), (2, 5)], [(1, 1)], [(3, 1), (3, 1)]])
@pytest.mark.parametrize("shape", SHAPES)
def test_an_encoder_decoder_is_that_of_the_scalar_engine(
    shape: tuple[int, int, int, int], lengths: list[tuple[int, int]]
) -> None:
    rng = random.Random(13)
    n_layer, _, head_dim, vocab_size = shape
    params = random_params(shape, 5, 2, rng)
    module = module_with(by_torch.EncoderDecoder, shape, 5, params)
    sources = random_texts(rng, [s for s, _ in lengths], vocab_size)
    texts, targets = (random_texts(rng, [t for _, t in lengths], vocab_size) for _ in range(2))

    remembered: Any = values_of(params)
    losses, expected = [], []
    for source, text, target in zip(sources, texts, targets, strict=True):
        logits = by_scalar.encoder_decoder(remembered, n_layer, head_dim, source, text)
        expected.append([[p.log().data for p in softmax(row)] for row in logits])
        losses.append(weighted_loss(logits, target, [0.5 + at for at in range(len(text))]))
    reduce(add, losses).backward()

    source, source_lengths = by_torch.filled_up(sources, vocab_size - 1)
    text, _ = by_torch.filled_up(texts, 0)
    logprobs = functional.log_softmax(module(source, source_lengths, text), -1)
    loss = torch.zeros((), dtype=torch.float64)
    for b, target in enumerate(targets):
        assert_close(logprobs[b, : len(target)].detach(), expected[b], "log-probabilities")
        picked = logprobs[b, torch.arange(len(target)), torch.tensor(target)]
        loss = loss - (picked * (torch.arange(len(target)) + 0.5)).sum()
    loss.backward()
    check_gradients(module, remembered)


def test_the_masks_of_both_engines_are_the_same() -> None:
    assert by_torch.causal(5).tolist() == masks.causal(5)
    assert by_torch.up_to(torch.tensor([2, 3]), 3).tolist() == [[[True, True, False]], [[True] * 3]]
    mask = answer.mask_of(5, torch.tensor([3, 1]), both_ways=True)
    assert mask.tolist() == [masks.prefix(5, 3), masks.prefix(5, 1)]
    assert answer.mask_of(5, torch.tensor([3, 1]), both_ways=False).tolist() == [masks.causal(5)]


def test_parameters_come_back_as_the_scalar_engine_takes_them() -> None:
    params = random_params(SHAPES[1], 5, 2, random.Random(1))
    module = module_with(by_torch.EncoderDecoder, SHAPES[1], 5, params)
    assert by_torch.numbers(module) == params
    assert by_torch.num_params(module) == sum(len(w) * len(w[0]) for w in params.values())


# ---- What is learned


def loss_to_learn(monkeypatch: pytest.MonkeyPatch, program: Any, learn: Callable[[], Any]) -> Any:
    """The model that `learn` makes, before it learns, and what it would: a loss of indices."""
    kept: list[Any] = []

    def instead(module: Any, loss_of: Any, *_: Any, **__: Any) -> float:
        kept.extend([module, loss_of])
        return 0.0

    monkeypatch.setattr(program, "learn", instead)
    learn()
    return kept


PAIRS = [("anna", "ann"), ("bo", "bobby"), ("christopherjohn", "kit"), ("al", "a")]


@pytest.mark.parametrize("both_ways", [False, True])
@pytest.mark.parametrize("whole", [False, True])
def test_one_stack_learns_the_answers_or_all(
    monkeypatch: pytest.MonkeyPatch, both_ways: bool, whole: bool
) -> None:
    module, loss_of = loss_to_learn(
        monkeypatch, answer, lambda: answer.learned_one_stack(PAIRS, 1, 0.1, both_ways, whole)
    )
    params = by_torch.numbers(module)
    for indices in ([0, 1], [3], [2, 0]):
        costs = []
        for name, word in (PAIRS[i] for i in indices):
            row = [26, *answer.letters(name), 27, *answer.letters(word), 26]
            given = len(name) + 2
            size = len(row) - 1
            mask = masks.prefix(size, given) if both_ways else masks.causal(size)
            logits = by_scalar.one_stack(params, 2, 8, row[:-1], mask)
            first = 0 if whole else given - 1
            costs += [
                weighted_loss([logits[at]], [row[at + 1]], [1.0]) for at in range(first, size)
            ]
        expected = sum(costs) / len(costs)
        assert loss_of(torch.tensor(indices)).item() == pytest.approx(expected, rel=1e-5)


def test_an_encoder_decoder_learns_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    module, loss_of = loss_to_learn(
        monkeypatch, answer, lambda: answer.learned_encoder_decoder(PAIRS, 1, 0.1)
    )
    params = by_torch.numbers(module)
    costs = []
    for name, word in (PAIRS[0], PAIRS[1]):
        source, row = [26, *answer.letters(name), 26], [26, *answer.letters(word), 26]
        logits = by_scalar.encoder_decoder(params, 1, 8, source, row[:-1])
        costs += [weighted_loss([logits[at]], [row[at + 1]], [1.0]) for at in range(len(logits))]
    found = loss_of(torch.tensor([0, 1])).item()
    assert found == pytest.approx(sum(costs) / len(costs), rel=1e-5)


def test_an_encoder_learns_letters_that_it_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = ["anna", "bo", "christopherjohn", "x"]
    _, loss_of = loss_to_learn(monkeypatch, fill_blanks, lambda: fill_blanks.learned_encoder(docs))
    shown: list[Any] = []
    asked: list[Any] = []
    encoder = fill_blanks.made(fill_blanks.OneStack, fill_blanks.CONFIG)
    monkeypatch.setattr(
        fill_blanks.OneStack,
        "forward",
        lambda _, tokens, mask: [shown.append((tokens, mask)), torch.zeros(*tokens.shape, 28)][1],
    )
    monkeypatch.setattr(
        fill_blanks.functional, "cross_entropy", lambda _, targets: asked.append(targets)
    )
    loss_of(torch.tensor([3, 0, 1]))
    assert isinstance(encoder, fill_blanks.OneStack)
    (tokens, mask), (targets,) = shown[0], asked
    whole = by_torch.filled_up([fill_blanks.encode(docs[i]) for i in (3, 0, 1)], 26)[0]
    blank = tokens == fill_blanks.BLANK
    assert blank.any(1).all()
    assert torch.equal(whole[blank], targets)
    assert targets.max() < 26  # letters, neither end
    assert torch.equal(tokens[~blank], whole[~blank])
    assert mask.tolist() == [[[at < n for at in range(6)]] for n in (3, 6, 4)]


def test_blanks_are_letters_one_at_least_and_a_share_of_all() -> None:
    tokens, lengths = by_torch.filled_up([fill_blanks.encode("a" * n) for n in (1, 5, 15)], 26)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack(
        [fill_blanks.with_blanks(tokens, lengths, generator) for _ in range(2000)]
    ).double()
    assert drawn.sum(2).min() == 1
    mean = drawn.mean(0)
    for row, n in zip(mean, (1, 5, 15), strict=True):
        assert row[0] == 0
        assert not row[n + 1 :].any()
        # The smallest of n draws is a blank, too: where all are above the share, that adds 1 / n.
        share = fill_blanks.SHARE
        assert row[1 : n + 1].tolist() == pytest.approx(
            [share + (1 - share) ** n / n] * n, abs=0.04
        )


@pytest.mark.slow
def test_learning_learns() -> None:
    """Both programs with few steps, on names that begin and end alike."""
    docs = [f"{a}nn{a}" for a in answer.CHARS]
    encoder, loss = fill_blanks.learned_encoder(docs, 150)
    assert loss < 1.5
    blanks = fill_blanks.by_encoder(encoder, ["_nnx", "cn_c"])
    assert blanks.argmax(1).tolist() == answer.letters("xn")
    pairs = [(a + b, b + a) for a in "abcdef" for b in "abcdef"]
    two = answer.learned_encoder_decoder(pairs, 150, 0.01)
    asked = [name for name, _ in pairs]
    right = sum(a == b for a, (_, b) in zip(answer.answers_of_two(two, asked), pairs, strict=True))
    assert right > 30


# ---- What is measured


def large(module: Any) -> Any:
    """With parameters that make strong opinions."""
    with torch.no_grad():
        for p in module.parameters():
            p.mul_(6)
    return module.double()


def greedy(logits_for: Callable[[list[int]], list[float]], most: int) -> str:
    written: list[int] = []
    while len(written) < most:
        logits = logits_for(written)
        written.append(logits.index(max(logits)))
    return answer.read(written)


def test_an_encoder_fills_each_blank_by_all_that_it_sees() -> None:
    encoder = large(by_torch.made(by_torch.OneStack, fill_blanks.CONFIG, 5))
    params = by_torch.numbers(encoder)
    patterns = ["an_a", "b_", "_hristopherjoh_", "_"]
    found = iter(fill_blanks.by_encoder(encoder, patterns).exp().tolist())
    for pattern in patterns:
        tokens = fill_blanks.encode(pattern)
        logits = by_scalar.one_stack(params, 2, 8, tokens, masks.full(len(tokens), len(tokens)))
        for row, token in zip(logits, tokens, strict=True):
            if token == fill_blanks.BLANK:
                assert next(found) == pytest.approx(softmax(row), abs=1e-9)
    assert next(found, None) is None


@pytest.mark.parametrize("both_ways", [False, True])
def test_one_stack_answers_letter_by_letter(both_ways: bool) -> None:
    model = large(by_torch.made(by_torch.OneStack, answer.ONE, 5))
    params = by_torch.numbers(model)
    asked = ["anna", "b", "christopherjohn"]

    def expected(name: str) -> str:
        given = [26, *answer.letters(name), 27]

        def logits_for(written: list[int]) -> list[float]:
            row = [*given, *written]
            size = len(row)
            mask = masks.prefix(size, len(given)) if both_ways else masks.causal(size)
            return by_scalar.one_stack(params, 2, 8, row, mask)[-1]

        return greedy(logits_for, 6)

    found = [text[:6] for text in answer.answers_of_one(model, asked, both_ways)]
    assert found == [expected(name) for name in asked]
    assert len(set(found)) == 3


def test_an_encoder_decoder_answers_letter_by_letter() -> None:
    model = large(by_torch.made(by_torch.EncoderDecoder, answer.TWO, 5))
    params = by_torch.numbers(model)
    asked = ["anna", "b", "christopherjohn"]

    def expected(name: str) -> str:
        source = [26, *answer.letters(name), 26]
        return greedy(
            lambda written: by_scalar.encoder_decoder(params, 1, 8, source, [26, *written])[-1], 6
        )

    found = [text[:6] for text in answer.answers_of_two(model, asked)]
    assert found == [expected(name) for name in asked]
    assert len(set(found)) > 1


def test_nats_of_names_are_those_of_their_letters() -> None:
    model = large(by_torch.made(by_torch.OneStack, answer.ONE, 5))
    params = by_torch.numbers(model)
    costs = []
    for name in ("anna", "bo"):
        row = [26, *answer.letters(name)]
        logits = by_scalar.one_stack(params, 2, 8, row[:-1], masks.causal(len(name)))
        costs += [weighted_loss([logits[at]], [row[at + 1]], [1.0]) for at in range(len(name))]
    found = answer.nats_of_names(model, ["anna", "bo"])
    assert found == pytest.approx(sum(costs) / len(costs), rel=1e-9)


def test_an_answer_ends_where_something_else_than_a_letter_stands() -> None:
    assert [answer.read(tokens) for tokens in ([1, 0, 26, 3], [27, 1], [], [2, 2])] == [
        "ba",
        "",
        "",
        "cc",
    ]


def test_the_gpt_fills_as_kamon_fill_does() -> None:
    docs = ["thequickbrownfx", "jumpsoverlazy", "dogs", "anna", "hanna", "nina", "nora"]
    model = kamon.train(docs, num_steps=60, n_embd=8, hold_out=False)
    assert model.tokenizer.vocab_size == 27
    for pattern in ("_nna", "n__a", "ann_"):
        shares = fill_blanks.by_gpt(model, [pattern])[0].exp()
        ways = 26 ** pattern.count("_")
        assert len(shares) == ways
        documents = fill(model, pattern, 3).documents
        total = sum(each.share for each in fill(model, pattern, min(ways, 26)).documents)
        assert total == pytest.approx(1)
        best = shares.topk(3)
        for share, place, each in zip(best.values, best.indices.tolist(), documents, strict=True):
            letters = "".join(
                answer.CHARS[place // 26**k % 26] for k in reversed(range(pattern.count("_")))
            )
            filled = pattern.replace("_", "{}").format(*letters)
            assert filled == each.text
            assert share.log() - best.values[0].log() == pytest.approx(
                each.logprob - documents[0].logprob, abs=1e-4
            )
    left = fill_blanks.by_gpt(model, ["n_zz"], right_side=False)[0].exp()
    other = fill_blanks.by_gpt(model, ["n_"], right_side=False)[0].exp()
    assert torch.allclose(left, other, rtol=BOUND)
    decoder = model.engine.decoder()
    decoder.push(26)
    logits = decoder.push(answer.CHARS.index("n"))
    assert left.tolist() == pytest.approx(softmax(list(logits[:26])), rel=1e-4)


def test_every_letter_of_a_name_is_a_blank_once() -> None:
    patterns, targets = fill_blanks.blanks_of(["ann", "o"])
    assert patterns == ["_nn", "a_n", "an_", "_"]
    assert targets.tolist() == answer.letters("anno")


def test_pairs_to_learn_from_and_names_to_ask_for_are_apart() -> None:
    for make in (answer.reversed_pairs, answer.nickname_pairs):
        if make is answer.nickname_pairs:
            pytest.importorskip("nicknames")
        pairs, right = make()
        assert not {name for name, _ in pairs} & set(right)
        assert len(pairs) > 2000
        assert len(right) > 100
    pairs, right = answer.reversed_pairs()
    assert {name for name, _ in pairs} < set(names())
    assert all(word == name[::-1] for name, word in pairs)


# ---- From microGPT to GPT-2


def test_its_first_row_is_the_model_of_the_scalar_engine() -> None:
    model = gpt2.made(1).double()
    params = {"wte": model.wte.weight, "wpe": model.wpe, "lm_head": model.lm_head.weight}
    for i, layer in enumerate(model.layers):
        queries, keys, values = layer.qkv.weight.chunk(3)
        params |= {
            f"layer{i}.attn_wq": queries,
            f"layer{i}.attn_wk": keys,
            f"layer{i}.attn_wv": values,
            f"layer{i}.attn_wo": layer.out.weight,
            f"layer{i}.mlp_fc1": layer.fc1.weight,
            f"layer{i}.mlp_fc2": layer.fc2.weight,
        }
    numbers = {name: p.tolist() for name, p in params.items()}
    tokens = [26, 13, 14, 17, 0]
    logits = by_scalar.one_stack(numbers, 2, 8, tokens, masks.causal(5))
    assert_close(model(torch.tensor([tokens])).detach()[0], logits, "logits")


def test_its_rows_change_one_thing_each_and_the_page_shows_them() -> None:
    shown = (FOLDER.parent / "seed.md").read_text(encoding="utf-8")
    tokens = torch.tensor([[26, 13, 14, 17, 0]])
    found = set()
    for title, options in gpt2.ROWS.items():
        model = gpt2.made(1, **options)
        size = sum(p.numel() for p in model.parameters())
        row = rf"\| {re.escape(title)} \| {size:,} \| \d\.\d{{3}} ± \d\.\d{{3}} \|"
        assert re.search(row, shown), title
        found.add((size, *model.train()(tokens).detach().flatten()[:3].tolist()))
    assert len(found) == len(gpt2.ROWS)


def test_its_sinusoids_are_those_of_the_paper() -> None:
    found = gpt2.sinusoids(20, 8)
    for position in (0, 3, 19):
        for i in range(4):
            angle = position / 10000 ** (2 * i / 8)
            expected = [math.sin(angle), math.cos(angle)]
            assert found[position, 2 * i : 2 * i + 2].tolist() == pytest.approx(expected, abs=1e-5)


def test_its_loss_is_the_mean_over_tokens_and_training_lowers_it() -> None:
    rows = gpt2.tensor_of(["anna", "bo"])
    model = gpt2.made(1)
    logprobs = functional.log_softmax(model(rows[:, :-1].clamp(min=0)).detach(), -1)
    expected = [logprobs[0, i, t].item() for i, t in enumerate(rows[0, 1:6])]
    expected += [logprobs[1, i, t].item() for i, t in enumerate(rows[1, 1:4])]
    before = gpt2.validation_loss(model, rows)
    assert before == pytest.approx(-sum(expected) / 8, rel=1e-5)
    gpt2.train(model.train(), rows, 1, num_steps=60)
    assert gpt2.validation_loss(model, rows) < before - 1
