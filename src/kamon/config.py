"""All settings of a model and its training. The defaults are those of the original microGPT."""

import math
import operator
import re
import reprlib
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from kamon.errors import HINT, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

MAX_SIZE = 2**31  # limit of every count
MAX_INT = 2**128  # limit of a seed
MAX_FILE = 1 << 20  # characters of a settings file
MAX_LISTED = 30


SCHEDULES = ("linear", "cosine")
MODES = ("documents", "text")
LONG_DOCUMENTS = ("cut", "windows")


def _setting(default: float | str, help: str, choices: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one model. Raises ConfigError if a value is not possible.

    >>> Config(n_layer=2, learning_rate=0.02).head_dim
    4
    """

    n_layer: int = _setting(1, "number of transformer layers")
    n_embd: int = _setting(16, "embedding size, the width of the model")
    n_head: int = _setting(4, "attention heads per layer, a divisor of n_embd")
    block_size: int = _setting(16, "context length in tokens, including BOS")
    vocab_size: int = _setting(27, "number of tokens, including BOS")
    mode: str = _setting(
        "documents",
        "documents trains on entries, text on windows at random places of one text",
        MODES,
    )
    long_documents: str = _setting(
        "cut", "entries longer than block_size: cut the end, or train on windows", LONG_DOCUMENTS
    )
    std: float = _setting(0.08, "standard deviation of the initial parameters")
    seed: int = _setting(42, "seed of the initial parameters, the order of entries and the samples")
    num_steps: int = _setting(1000, "number of training steps")
    batch_size: int = _setting(1, "entries, windows or pairs per batch")
    gradient_accumulation_steps: int = _setting(1, "batches per step")
    learning_rate: float = _setting(0.01, "highest learning rate, which falls to min_lr")
    min_lr: float = _setting(0.0, "final learning rate")
    schedule: str = _setting("linear", "decay of the learning rate: linear or cosine", SCHEDULES)
    warmup_steps: int = _setting(0, "steps during which the learning rate rises from 0")
    weight_decay: float = _setting(0.0, "AdamW weight decay, multiplied by the learning rate")
    beta1: float = _setting(0.85, "Adam: decay rate of the mean gradient")
    beta2: float = _setting(0.99, "Adam: decay rate of the mean squared gradient")
    dropout: float = _setting(0.0, "dropout probability during training")
    grad_clip: float = _setting(0.0, "clip the gradient norm to X, or 0 to disable clipping")
    eps_adam: float = _setting(1e-8, "Adam: small number that prevents division by zero")
    temperature: float = _setting(
        0.5, "sampling temperature: 0 is greedy, 1 samples from the model's own distribution"
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            value = check_type(f.name, getattr(self, f.name), f.type, f.metadata["choices"])
            object.__setattr__(self, f.name, value)
        for name in (
            "n_layer",
            "n_embd",
            "n_head",
            "block_size",
            "vocab_size",
            "num_steps",
            "batch_size",
            "gradient_accumulation_steps",
        ):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be 1 or more, not {getattr(self, name)}")
            if getattr(self, name) >= MAX_SIZE:
                raise ConfigError(f"{name} must be below 2**31, not {getattr(self, name)}")
        if self.n_embd % self.n_head:
            around = range(max(1, self.n_head - 999), min(self.n_embd, self.n_head + 999) + 1)
            divisors = {1, self.n_embd, *(n for n in around if self.n_embd % n == 0)}
            near = sorted(sorted(divisors, key=lambda n: abs(n - self.n_head))[:3])
            raise ConfigError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}",
                f"set n_head to {' or '.join(map(str, near))}",
            )
        for name in ("learning_rate", "eps_adam"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be above 0 and finite, not {getattr(self, name)}")
        for name in ("beta1", "beta2", "dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be from 0 to below 1, not {getattr(self, name)}")
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps must be 0 or more, not {self.warmup_steps}")
        if self.warmup_steps >= MAX_SIZE:
            raise ConfigError(f"warmup_steps must be below 2**31, not {self.warmup_steps}")
        for name in ("std", "temperature", "weight_decay", "min_lr", "grad_clip"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be 0 or more and finite, not {getattr(self, name)}")
        if self.min_lr > self.learning_rate:
            raise ConfigError(
                f"min_lr {self.min_lr:g} is above learning_rate {self.learning_rate:g}",
                "min_lr is the final learning rate: lower it",
            )

    @property
    def head_dim(self) -> int:
        """The size of one head: n_embd / n_head."""
        return self.n_embd // self.n_head

    @property
    def docs_per_step(self) -> int:
        """The number of documents or windows in a step."""
        return self.batch_size * self.gradient_accumulation_steps


# Users cannot choose vocab_size, because the tokenizer determines it.
SETTINGS = tuple(f for f in fields(Config) if f.name != "vocab_size")


def check_type(name: str, value: Any, type_: object, choices: Collection[str]) -> float | str:
    """Return the value as the field's type. A float may be given as an int, but not as a bool."""
    if choices:
        if not (isinstance(value, str) and value in choices):
            raise ConfigError(f"{name} must be {' or '.join(choices)}, not {reprlib.repr(value)}")
        return str(value)
    return require_int(name, value) if type_ is int else require_float(name, value)


def require_int(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """Return the value as an int. It may have any type that Python can index with, except bool.

    Raises: ConfigError for another type, or a value that is not from `least` to `most`.
    """
    try:
        if is_bool(value):
            raise TypeError
        found = operator.index(value)
    except TypeError:
        raise ConfigError(f"{name} must be a whole number, not {reprlib.repr(value)}") from None
    if abs(found) >= MAX_INT:
        raise ConfigError(f"{name} must be below 2**128")
    if least is not None and most is not None and not least <= found <= most:
        raise ConfigError(f"{name} must be from {least:,} to {most:,}, not {reprlib.repr(found)}")
    if least is not None and found < least:
        raise ConfigError(f"{name} must be {least} or more, not {reprlib.repr(found)}")
    return found


def require_float(name: str, value: Any) -> float:
    """Return the value as a float. It may be one of numpy. Raises ConfigError for bool and text."""
    try:
        if is_bool(value) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
            raise TypeError
        return float(value)
    except OverflowError:
        raise ConfigError(f"{name} is too large for a float") from None
    except (TypeError, ValueError):
        raise ConfigError(f"{name} must be a number, not {reprlib.repr(value)}") from None


def require_positive(name: str, value: Any) -> float:
    """Return the value as a float. Raises ConfigError unless it is above 0 and finite."""
    found = require_float(name, value)
    if not 0 < found < math.inf:
        raise ConfigError(f"{name} must be above 0 and finite, not {found}")
    return found


def is_bool(value: object) -> bool:
    """Return whether this is a bool of Python or numpy, which Kamon does not accept as a number."""
    return isinstance(value, bool) or type(value).__name__ in ("bool_", "bool")


def check_text(name: str, value: object) -> None:
    """Raise ConfigError if the value is not a string, even if it is a sequence of characters."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be text, not {reprlib.repr(value)}")


def make_config(settings: Mapping[str, Any]) -> Config:
    """Return a Config with these settings. Raises ConfigError for an unknown name."""
    check_names(settings)
    return Config(**settings)


def check_names(settings: Mapping[str, Any], where: str = "") -> None:
    """Raise ConfigError for an unknown name of a setting. where: such as " in kamon.toml"."""
    names = [f.name for f in SETTINGS]
    for name in settings:
        if name == "vocab_size":
            raise ConfigError(
                f"vocab_size{where} cannot be set",
                "it is the number of tokens of the tokenizer",
            )
        if name not in names:
            raise ConfigError(f"unknown setting {name!r}{where}{suggestion(name, names)}")


def checked_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the types of a Config. It does not check if they fit each other.

    Raises: ConfigError for an unknown name or a wrong type.
    """
    check_names(settings)
    return {
        f.name: check_type(f.name, settings[f.name], f.type, f.metadata["choices"])
        for f in SETTINGS
        if f.name in settings
    }


def read_settings(path: "str | Path") -> dict[str, Any]:
    """Return the settings in a TOML file, after a check of their names and types.

    It does not check if they fit each other, because an option may change them later.
    """
    import tomllib

    try:
        with open(path, "rb") as file:
            text = file.read(MAX_FILE + 1).decode("utf-8").removeprefix("\ufeff")
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text", "save the file as UTF-8") from None
    if len(text) > MAX_FILE:
        raise ConfigError(
            f"{path} has more than {MAX_FILE:,} characters", "give a TOML file of settings"
        )
    try:
        settings = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    except (ValueError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if deep else "a number has too many digits"
        raise ConfigError(f"{path} is not valid TOML: {reason}") from None
    check_names(settings, f" in {path}")
    try:
        return checked_settings(settings)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def suggestion(word: str, known: Collection[str]) -> str:
    """Return the hint "did you mean …?" with the nearest known word, or a list of all of them."""
    import difflib

    near = difflib.get_close_matches(word, known, n=1)
    return f"{HINT}did you mean {near[0]!r}?" if near else f"{HINT}choose from {listed(known)}"


def listed(words: Collection[str]) -> str:
    """Return the words separated by commas, with long words and long lists shortened.

    >>> listed(["anna", "nora"]), listed(["c"] * 50)[-16:]
    ('anna, nora', 'c, c and 20 more')
    """
    shown = ", ".join(reprlib.repr(word)[1:-1] for word in list(words)[:MAX_LISTED])
    more = len(words) - MAX_LISTED
    return f"{shown} and {more:,} more" if more > 0 else shown


def compile_regex(regex: str, name: str = "regex") -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():  # about syntax that a later Python may read differently
            warnings.simplefilter("ignore")
            return re.compile(regex)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{name} {regex!r} is not a valid regular expression: {error}") from None
