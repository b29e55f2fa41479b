"""Text of any length from a model of text, which continues a prompt and need not end.

The model reads block_size tokens at most. When it has read them all, it starts again with the last
half of them. So it always predicts from the last half of block_size tokens or more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from kamon.engines.philox import uniform
from kamon.errors import ConfigError
from kamon.generation.constraints import GenerationConstraints
from kamon.generation.sampling import (
    LanguageModel,
    SampleRequest,
    allowed,
    as_text,
    check_room,
    sample_token,
)
from kamon.tokenizers.base import Tokenizer

LENGTH = 500  # default number of tokens
MAX_LENGTH = 10_000_000
OF_TEXT = ("length", "prefix", "top_k", "top_p")  # constraints for a model of text


def check_conditions(conditions: GenerationConstraints) -> None:
    """Raise ConfigError for conditions that only documents, which have an end, can fulfil."""
    none = GenerationConstraints()
    for name, default in vars(none).items():
        if name not in OF_TEXT and getattr(conditions, name) != default:
            raise ConfigError(
                f"{name} needs a model of a list, and this one is a model of a text",
                "use length, prefix, top_k or top_p",
            )


def prompt_of(tokenizer: Tokenizer, prefix: str) -> list[int]:
    """Return the tokens of `prefix`, by default of a line end, or BOS if that has no token.

    BOS is the last choice, because a model of one long text has hardly ever seen it.
    """
    start = prefix or "\n"
    if not prefix and tokenizer.unknown({start}):
        return [tokenizer.bos]
    return tokenizer.encode(start)


def continue_text(
    model: LanguageModel,
    bos: int,
    prompt: Sequence[int],
    length: int,
    temperature: float,
    u: Callable[[int], float],
    conditions: GenerationConstraints | None = None,
    tokenizer: Tokenizer | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> list[int]:
    """Return up to `length` tokens after the prompt. BOS, which separates documents, ends the text.

    Args:
        u: returns the random number for each token by its number.
        tokenizer: if given, only tokens that a text can have.
        should_stop: called before each token. If true, the text ends.
    """
    conditions = conditions or GenerationConstraints()
    size = model.config.block_size
    tokens = list(prompt)
    decoder, room = model.decoder(), size
    waiting = tokens[-size:]  # tokens that the decoder has not read
    for number in range(length):
        if should_stop():
            break
        if len(waiting) > room:
            decoder, room = model.decoder(), size
            waiting = tokens[-max(1, size // 2) :]
        for token in waiting:
            logits = decoder.push(token)
        room -= len(waiting)
        excluded = tokenizer.ruled_out(tokens[-3:]) if tokenizer else ()
        stay = [token for token in range(len(logits)) if token not in excluded]
        stay = allowed(logits, stay, temperature, conditions.top_k, conditions.top_p)
        token = stay[sample_token([logits[t] for t in stay], temperature, u(number))]
        if token == bos:
            break
        tokens.append(token)
        waiting = [token]
    return tokens[len(prompt) :]


def sample_continuations(
    model: LanguageModel,
    tokenizer: Tokenizer,
    request: SampleRequest,
    conditions: GenerationConstraints,
    should_stop: Callable[[int], bool] = lambda done: False,  # noqa: ARG005
) -> list[str]:
    """Return `request.n` texts, each with its prefix. Text i depends only on (seed, i).

    should_stop: called before each token with the number of whole texts. If true, the last text
        ends there.
    """
    check_conditions(conditions)
    length = LENGTH if conditions.length is None else conditions.length
    check_room(request.n, min(length, MAX_LENGTH))
    prompt = prompt_of(tokenizer, conditions.prefix)
    draw_with = partial(
        continue_text,
        *(model, request.bos, prompt, length, request.temperature),
        should_stop=lambda: should_stop(len(texts)),
    )
    texts: list[str] = []
    for index in range(request.first, request.first + request.n):
        if should_stop(len(texts)):
            break
        draw = partial(draw_with, partial(uniform, request.seed, index), conditions)
        tokens, _ = as_text(tokenizer, draw(), length, partial(draw, tokenizer))
        whole = [*prompt, *tokens] if conditions.prefix else tokens
        texts.append(tokenizer.normal(tokenizer.decode(whole)))
    return texts
