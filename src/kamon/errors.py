"""What can go wrong that a user can mend. The text of each error is one sentence to show them."""


class KamonError(Exception):
    """Base of the errors below: catch it to catch them all."""


class ConfigError(KamonError, ValueError):
    """A setting, flag or argument that cannot be; the command line exits with 2."""


class CorpusError(KamonError):
    """A list that cannot be read, cleaned, written or learned from."""


class TokenizerError(KamonError):
    """Text that the tokenizer has no token for."""


class TrainingError(KamonError):
    """Training that cannot go on."""


class StoreError(KamonError):
    """A model directory that cannot be written, or does not hold what it should."""
