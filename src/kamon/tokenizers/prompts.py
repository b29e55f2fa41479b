"""Documents with a prompt: BOS prompt `<|answer|>` answer BOS.

The first targets of such a document, up to `<|answer|>`, belong to the prompt. The others belong to
the answer: its tokens and the end.
"""

from __future__ import annotations

from kamon.engines.batch import ANSWER
from kamon.errors import ConfigError
from kamon.tokenizers.base import Tokenizer


def knows_prompts(tokenizer: Tokenizer) -> bool:
    return ANSWER in tokenizer.special


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> tuple[int, ...]:
    """Return the tokens between BOS and the answer.

    Raises: TokenizerError for unknown characters, ConfigError if the model has no prompts.
    """
    if not knows_prompts(tokenizer):
        raise ConfigError(
            "the model does not follow prompts", "fine-tune it on prompts with `kamon sft`"
        )
    return (*tokenizer.encode(prompt), tokenizer.special[ANSWER])


def prompt_prefix(tokenizer: Tokenizer, prompt: str | None, block_size: int) -> tuple[int, ...]:
    """Return `prompt_tokens`, or () without a prompt.

    Raises: ConfigError also if the prompt leaves no room for an answer.
    """
    if prompt is None:
        return ()
    before = prompt_tokens(tokenizer, prompt)
    if len(before) >= block_size:
        raise ConfigError(
            f"the prompt {prompt!r:.100} has {len(before) - 1} tokens and leaves no room "
            f"for an answer in the model's block_size {block_size}",
            "shorten the prompt",
        )
    return before


def prompted(
    tokenizer: Tokenizer, prompt: str | None, answer: str
) -> tuple[list[int], tuple[int, int]]:
    """Return the tokens of a document, and how many targets its prompt and its answer have.

    prompt: None for a document without a prompt. All of it is the answer.

    >>> from kamon.tokenizers.char import CharTokenizer
    >>> tokenizer = CharTokenizer(["a", "b"]).extended(["?"], [ANSWER])
    >>> prompted(tokenizer, "a?", "ab"), prompted(tokenizer, None, "ab")
    (([2, 0, 3, 4, 0, 1, 2], (3, 3)), ([2, 0, 1, 2], (0, 3)))
    """
    before = () if prompt is None else prompt_tokens(tokenizer, prompt)
    tokens = tokenizer.encode(answer)
    bos = tokenizer.bos
    return [bos, *before, *tokens, bos], (len(before), len(tokens) + 1)
