"""More tokens and positions: the old ones stay the same, and the model learns the new ones."""

from __future__ import annotations

import random
from array import array
from pathlib import Path

import pytest

import kamon
from kamon.config import Config
from kamon.engines.base import initial_state
from kamon.engines.batch import ANSWER, BOS, pack_sequences
from kamon.engines.factory import make_engine
from kamon.engines.parameters import init, num_params
from kamon.errors import ConfigError, TokenizerError
from kamon.finetuning.expand_vocab import expand_vocab
from kamon.model import Model
from kamon.tokenizers.base import Tokenizer
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.char import CharTokenizer
from kamon.tokenizers.load import tokenizer_from_json
from kamon.training.early_stopping import mean_loss

DOCS = [a + b + c for a in "abcde" for b in "fghij" for c in ("k", "kl", "ll", "mno")]


@pytest.fixture(scope="module")
def base() -> Model:
    return kamon.train(DOCS, size="small", num_steps=300)


def test_ids_stay() -> None:
    old = CharTokenizer.train(["anna", "bob"])
    new = old.extended("!é", [ANSWER, "<|good|>"])
    newer = new.extended("?")
    for text in ("banana", ""):
        assert new.encode(text) == newer.encode(text) == old.encode(text)
    assert (new.bos, newer.bos, new.vocab_size, newer.vocab_size) == (4, 4, 9, 10)
    assert new.encode("é!a") == [6, 5, 0]
    assert new.special == {BOS: 4, ANSWER: 7, "<|good|>": 8}
    assert newer.encode("?") == [9]
    assert newer.chars_per_token == [1, 1, 1, 1, 0, 1, 1, 0, 0, 1]
    assert newer.token_text(7) == ANSWER


def test_no_text_has_a_special_token() -> None:
    tokenizer = CharTokenizer.train([ANSWER, "ab"]).extended("é", [ANSWER])
    tokens = tokenizer.encode(f"a{ANSWER}b")
    assert tokenizer.special[ANSWER] not in tokens
    assert tokenizer.decode(tokens) == f"a{ANSWER}b"
    with pytest.raises(TokenizerError, match=r"does not know character '<' \(U\+003C\), number 2"):
        CharTokenizer.train(["ab"]).extended("é", [ANSWER]).encode("a<")


def test_a_special_token_is_decoded_as_its_name() -> None:
    tokenizer = CharTokenizer.train(["ab"]).extended("!", [ANSWER])
    docs = [[0, 1, 3], [0, 4, 1], []]
    assert tokenizer.decode(docs[1]) == f"a{ANSWER}b"
    assert tokenizer.decode_documents(pack_sequences(docs)) == ["ab!", f"a{ANSWER}b", ""]
    assert tokenizer.decode_documents(pack_sequences(docs[:1])) == ["ab!"]
    assert tokenizer.encode_documents(["a!", "b"]).tokens.tolist() == [2, 0, 3, 2, 2, 1, 2]


def test_files_keep_what_was_added() -> None:
    old = CharTokenizer.train(["ab"])
    assert "added" not in old.to_json()
    new = old.extended("é", [ANSWER])
    again = tokenizer_from_json(new.to_json())
    assert isinstance(again, CharTokenizer)
    assert (again.chars, again.added, again.special) == (new.chars, new.added, new.special)


@pytest.mark.parametrize(
    "added", ['["a"]', '["é", "é"]', '[""]', "[1]", '"é"', '["<|bos|>"]', '["a\\n"]', "null"]
)
def test_what_cannot_be_added(added: str) -> None:
    with pytest.raises(TokenizerError):
        CharTokenizer.from_json(f'{{"type": "char", "chars": ["a", "b"], "added": {added}}}')


def test_names_and_characters_are_told_apart() -> None:
    for chars, specials in ((["ab"], []), ([], ["x"])):
        with pytest.raises(TokenizerError, match="one character long"):
            CharTokenizer(["a"]).extended(chars, specials)


@pytest.mark.parametrize("engine", ["scalar", "native"])
def test_nothing_old_changes(engine: str) -> None:
    """The logits of the old tokens are the same to the last bit."""
    config = Config(n_layer=2, n_embd=8, block_size=5, vocab_size=4, std=0.5)
    params = init(config, random.Random(1))
    tokenizer = CharTokenizer("abc")
    larger, made, more = expand_vocab(
        config, tokenizer, params, chars="!b", specials=[ANSWER], block_size=9
    )
    assert (larger.vocab_size, larger.block_size, made.vocab_size) == (6, 9, 6)
    assert len(more) == num_params(larger)
    decoders = []
    for c, p in ((config, params), (larger, more)):
        made_engine = make_engine(engine, c, dtype="float64")
        made_engine.load(initial_state(p))
        decoders.append(made_engine.decoder())
    for token in (3, 0, 1, 1, 2):
        old, new = (decoder.push(token) for decoder in decoders)
        assert list(new)[:4] == list(old)
    decoders[1].push(5)


def test_the_base_hardly_notices(base: Model) -> None:
    """Twelve new tokens cost less than 0.01 nats. Rows of zeros would cost more."""
    learned, held_out = base.parts()
    params = base.engine.state()["params"]
    before = mean_loss(base.engine, base.tokenizer.encode_documents(held_out))

    def loss(docs: list[str]) -> float:
        config, tokenizer, more = expand_vocab(
            base.config,
            base.tokenizer,
            params,
            chars="0123456789,",
            specials=[ANSWER],
            reader=base.engine if docs else None,
            docs=base.tokenizer.encode_documents(docs),
        )
        engine = make_engine(None, config)
        engine.load(initial_state(more))
        return mean_loss(engine, tokenizer.encode_documents(held_out))

    assert before <= loss(list(learned)) < before + 0.01
    assert loss([]) > before + 0.02


def test_byte_pairs() -> None:
    tokenizer: Tokenizer = BytePairTokenizer.train(DOCS, 270)
    config = Config(n_embd=4, vocab_size=tokenizer.vocab_size)
    params = array("d", [0.5]) * num_params(config)
    larger, made, more = expand_vocab(config, tokenizer, params, chars="é日", specials=[ANSWER])
    assert made.vocab_size == larger.vocab_size == tokenizer.vocab_size + 1
    assert made.special[ANSWER] == tokenizer.vocab_size
    assert len(more) == num_params(larger)


def test_positions_are_only_added(base: Model) -> None:
    with pytest.raises(
        ConfigError, match=r"block_size 3 is below the model's 8\nhint: choose a larger"
    ):
        expand_vocab(base.config, base.tokenizer, base.engine.state()["params"], block_size=3)


def test_samples_have_no_special_tokens(base: Model, tmp_path: Path) -> None:
    """This holds even if a special token is by far the most likely one."""
    params = base.engine.state()["params"]
    config, tokenizer, more = expand_vocab(base.config, base.tokenizer, params, specials=[ANSWER])
    likely = more[:]
    width, first = config.n_embd, (config.vocab_size + config.block_size) * config.n_embd
    row = tokenizer.special[ANSWER]
    bos = tokenizer.bos
    for i in range(width):  # ten times the logit of BOS
        likely[first + row * width + i] = 10 * likely[first + bos * width + i]
    engine = make_engine(None, config)
    engine.load(initial_state(likely))
    model = Model(config, tokenizer, engine, base.metrics, base.training, base.documents)
    model.save(tmp_path / "m")
    model = kamon.load(tmp_path / "m")
    for conditions in ({}, {"min_len": 2}, {"novel": True}):
        samples = model.sample(30, temperature=1.0, **conditions)  # type: ignore[arg-type]
        assert len(samples) == 30
        assert ANSWER not in "".join(samples)
