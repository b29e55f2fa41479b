"""Reads a character or BPE tokenizer from its file."""

from __future__ import annotations

import json
import os
from os import PathLike
from pathlib import Path

from kamon.errors import ConfigError, TokenizerError
from kamon.tokenizers.base import MAX_FILE, Tokenizer
from kamon.tokenizers.char import CharTokenizer


def tokenizer_from_json(text: str) -> Tokenizer:
    """Return the tokenizer that `to_json` wrote. Raises TokenizerError for any other text."""
    if '"bpe"' not in text:
        return CharTokenizer.from_json(text)
    from kamon.tokenizers.bpe import BytePairTokenizer

    try:
        is_bpe = json.loads(text).get("type") == "bpe"
    except (ValueError, AttributeError, RecursionError):
        is_bpe = False  # CharTokenizer raises an error with the reason
    return (BytePairTokenizer if is_bpe else CharTokenizer).from_json(text)


def wants_nfc(tokenizer: str | Path | Tokenizer) -> bool:
    """Return whether Kamon brings a list for this tokenizer to NFC.

    tokenizer: the tokenizer, a path, "char" or "bpe".
    """
    if isinstance(tokenizer, str | PathLike):
        if not os.path.isfile(tokenizer):
            return True
        tokenizer = read_tokenizer(tokenizer)
    return tokenizer.composed


def read_tokenizer(path: str | Path) -> Tokenizer:
    """Return the tokenizer in a file. Raises ConfigError if Kamon cannot read one."""
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_FILE + 1)
        if len(content) > MAX_FILE:
            raise ConfigError(f"{path} has more than {MAX_FILE:,} bytes, too many for a tokenizer")
        return tokenizer_from_json(content.decode("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the tokenizer {path}: {error.strerror}") from None
    except TokenizerError as error:
        raise ConfigError(f"{path} is not a tokenizer: {error}") from None
    except ValueError as error:  # a NUL in the name
        if isinstance(error, ConfigError):
            raise
        reason = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ConfigError(f"cannot read the tokenizer {str(path)!r}: {reason}") from None
