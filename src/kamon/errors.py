"""The errors that a user can correct."""

from __future__ import annotations

HINT = "\nhint: "


class KamonError(Exception):
    """Base class of the errors below.

    Args:
        message: one sentence that says what is wrong and where.
        hint: what to do about it, such as a command or an option. `str` returns both.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message if hint is None else f"{message}{HINT}{hint}")

    @property
    def message(self) -> str:
        """What is wrong, without the hint."""
        return str(self).partition(HINT)[0]

    @property
    def hint(self) -> str | None:
        """What to do about it, or None."""
        return str(self).partition(HINT)[2] or None


class ConfigError(KamonError, ValueError):
    """An invalid setting, option or argument. The command line exits with code 2."""


class CorpusError(KamonError):
    """A list that cannot be read, cleaned, written or trained on."""


class TokenizerError(KamonError):
    """Text that the tokenizer has no token for."""


class TrainingError(KamonError):
    """Training that cannot continue."""


class StoreError(KamonError):
    """A model directory that cannot be written, or does not hold what it should."""
