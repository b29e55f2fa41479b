"""Kamon: the whole GPT, small enough to read, fast enough to use.

>>> import kamon
>>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
>>> names = model.sample(3, temperature=0.8, seed=7)
>>> len(names)
3
"""

from typing import TYPE_CHECKING, Any

from kamon._version import __version__ as __version__

if TYPE_CHECKING:
    from kamon.api import resume, train
    from kamon.config import Config
    from kamon.errors import (
        ConfigError,
        CorpusError,
        KamonError,
        StoreError,
        TokenizerError,
        TrainingError,
    )
    from kamon.model import Model, load

__all__ = [
    "Config",
    "ConfigError",
    "CorpusError",
    "KamonError",
    "Model",
    "StoreError",
    "TokenizerError",
    "TrainingError",
    "load",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `kamon --help` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'kamon' has no attribute {name!r}")
    import importlib

    module = "errors" if name.endswith("Error") else "config" if name == "Config" else "api"
    return getattr(importlib.import_module(f"kamon.{module}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
