"""Documents with a prompt: BOS prompt `<|answer|>` answer BOS.

Of the targets of such a document, the prompt and the special token after it are the prompt's, and
the answer's are its tokens and the end.
"""

from __future__ import annotations

from kamon.engines.batch import ANSWER
from kamon.errors import ConfigError
from kamon.tokenizers.base import Tokenizer


def knows_prompts(tokenizer: Tokenizer) -> bool:
    return ANSWER in tokenizer.special


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> tuple[int, ...]:
    """What stands between BOS and the answer. TokenizerError for unknown characters, ConfigError
    where the model knows no prompts."""
    if not knows_prompts(tokenizer):
        raise ConfigError("the model knows no prompts: `kamon sft` teaches a model to answer them")
    return (*tokenizer.encode(prompt), tokenizer.special[ANSWER])


def prompt_prefix(tokenizer: Tokenizer, prompt: str | None, block_size: int) -> tuple[int, ...]:
    """`prompt_tokens`, none where there is no prompt. ConfigError for one that leaves no room for
    an answer."""
    if prompt is None:
        return ()
    before = prompt_tokens(tokenizer, prompt)
    if len(before) >= block_size:
        raise ConfigError(
            f"the prompt {prompt!r:.100} has {len(before) - 1} tokens, which leave no "
            f"room for an answer in the model's block_size {block_size}"
        )
    return before


def prompted(
    tokenizer: Tokenizer, prompt: str | None, answer: str
) -> tuple[list[int], tuple[int, int]]:
    """The tokens of a document, and how many of its targets are the prompt's and the answer's.

    prompt: None for a document without one, all of which is an answer.

    >>> from kamon.tokenizers.char import CharTokenizer
    >>> tokenizer = CharTokenizer(["a", "b"]).extended(["?"], [ANSWER])
    >>> prompted(tokenizer, "a?", "ab"), prompted(tokenizer, None, "ab")
    (([2, 0, 3, 4, 0, 1, 2], (3, 3)), ([2, 0, 1, 2], (0, 3)))
    """
    before = () if prompt is None else prompt_tokens(tokenizer, prompt)
    tokens = tokenizer.encode(answer)
    bos = tokenizer.bos
    return [bos, *before, *tokens, bos], (len(before), len(tokens) + 1)
