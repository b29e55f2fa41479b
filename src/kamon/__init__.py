"""Kamon: a whole GPT that is small enough to read and fast enough to use.

>>> import kamon
>>> model = kamon.train(["anna", "hanna", "nora"], num_steps=2)
>>> names = model.sample(3, temperature=0.8, seed=7)
>>> len(names)
3
"""

from typing import TYPE_CHECKING, Any

from kamon._version import __version__ as __version__

if TYPE_CHECKING:
    from kamon import errors
    from kamon.api import resume, train
    from kamon.completion import complete, complete_words, fill, fill_words
    from kamon.config import Config
    from kamon.data.cleaning import clean
    from kamon.errors import (
        ConfigError,
        CorpusError,
        KamonError,
        StoreError,
        TokenizerError,
        TrainingError,
    )
    from kamon.evaluation.classify import classify
    from kamon.evaluation.evaluate import evaluate
    from kamon.evaluation.ngram import ngram
    from kamon.evaluation.score import score
    from kamon.exporters.export import export
    from kamon.finetuning.compare import compare
    from kamon.finetuning.dpo import dpo
    from kamon.finetuning.ppo import ppo
    from kamon.finetuning.rating import rate
    from kamon.finetuning.reward_model import reward_model
    from kamon.finetuning.sft import sft
    from kamon.model import Model, load

MODULES = {
    "Config": "config",
    "Model": "model",
    "classify": "evaluation.classify",
    "clean": "data.cleaning",
    "compare": "finetuning.compare",
    "complete": "completion",
    "complete_words": "completion",
    "dpo": "finetuning.dpo",
    "evaluate": "evaluation.evaluate",
    "export": "exporters.export",
    "fill": "completion",
    "fill_words": "completion",
    "load": "model",
    "ngram": "evaluation.ngram",
    "ppo": "finetuning.ppo",
    "rate": "finetuning.rating",
    "resume": "api",
    "reward_model": "finetuning.reward_model",
    "score": "evaluation.score",
    "sft": "finetuning.sft",
    "train": "api",
}

__all__ = [
    "Config",
    "ConfigError",
    "CorpusError",
    "KamonError",
    "Model",
    "StoreError",
    "TokenizerError",
    "TrainingError",
    "classify",
    "clean",
    "compare",
    "complete",
    "complete_words",
    "dpo",
    "errors",
    "evaluate",
    "export",
    "fill",
    "fill_words",
    "load",
    "ngram",
    "ppo",
    "rate",
    "resume",
    "reward_model",
    "score",
    "sft",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, because `kamon --help` needs none of them."""
    if name not in __all__:
        raise AttributeError(f"module 'kamon' has no attribute {name!r}")
    from importlib import import_module

    if name == "errors":
        return import_module("kamon.errors")
    module = import_module(f"kamon.{MODULES.get(name, 'errors')}")
    return globals().setdefault(name, getattr(module, name))


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
