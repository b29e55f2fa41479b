"""Choosing and making an engine.

An engine computes only one gradient, that of a weighted negative log-likelihood:

    loss = Σ_t  w_t · (−log p(target_t))

Pretraining, fine-tuning, preferences and rewards differ only in the weights w = −∂L/∂log p. An
engine has its own memory, but no randomness and no tokenizer. It exchanges only flat buffers of
ints and floats.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

from kamon.config import Config, require_int
from kamon.engines.base import Engine
from kamon.engines.dropout import masks
from kamon.engines.parameters import num_params, parameter_shapes
from kamon.errors import ConfigError

ENGINES = ("native", "scalar", "torch")
DTYPES = ("float32", "float64", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_THREADS = 1_024  # each needs memory, even if no core runs it


def best_engine() -> str:
    from kamon.native import library

    return "scalar" if library.why_not() else "native"


def num_threads(threads: int | None) -> int:
    """Return how many cores may compute: `threads`, or by default all that this process may use."""
    from kamon.native import library

    if threads is None:
        return library.usable_cores()
    return require_int("threads", threads, 1, MAX_THREADS)


def device_type(name: str, device: str | None) -> str:
    """Return the type of an engine's device: "cpu", "cuda" or "mps"."""
    if name != "torch" or device not in (None, "auto"):
        return "cpu" if device in (None, "auto") else device
    try:
        from kamon.engines.torch import find_device
    except ModuleNotFoundError:  # `make_engine` raises an error for this
        return "cpu"
    from kamon.engines.distributed import get_group

    return find_device("auto", get_group().size).type


def make_engine(
    name: str | None,
    config: Config,
    *,
    dtype: str | None = None,
    threads: int | None = None,
    device: str | None = None,
    compile: bool = False,
) -> Engine:
    """Return an engine with all parameters zero. Then call its `load`.

    Args:
        name: one of ENGINES, by default the best one.
        dtype: one of DTYPES, by default the engine's own. Only torch has bfloat16.
        threads: how many cores may compute, by default all that this process may use. The results
            do not depend on it, except with torch. There it applies to the whole process.
        device: one of DEVICES, for torch.
        compile: whether to use torch.compile.

    Raises: ConfigError if the options do not fit, or this machine does not have the engine.
    """
    name = name or best_engine()
    if dtype not in (None, *DTYPES):
        raise ConfigError(f"unknown dtype {dtype!r}", f"choose from {', '.join(DTYPES)}")
    if device not in (None, *DEVICES):
        raise ConfigError(f"unknown device {device!r}", f"choose from {', '.join(DEVICES)}")
    threads = None if threads is None else num_threads(threads)
    if name == "torch":
        return make_torch(config, dtype or "float32", threads, device or "auto", compile)
    if name in ENGINES and (compile or device not in (None, "auto", "cpu")):
        what = "compile" if compile else f"device {device}"
        raise ConfigError(f"{what} needs the torch engine", f"use --engine torch instead of {name}")
    if name in ENGINES and dtype == "bfloat16":
        raise ConfigError(
            "bfloat16 needs the torch engine", f"use --engine torch instead of {name}"
        )
    if name == "native":
        from kamon.engines import native
        from kamon.native import library

        if why := library.why_not():
            raise ConfigError(why, "use --engine scalar")
        return native.NativeEngine(config, num_params(config), dtype or "float32", threads)
    if name == "scalar":
        from kamon.engines.scalar import ScalarEngine

        if dtype == "float32":
            raise ConfigError("the scalar engine computes only in float64", "leave out --dtype")
        c = config
        of_draw = partial(masks, c.dropout, c.seed, n_layer=c.n_layer, n_embd=c.n_embd)
        return ScalarEngine(config, parameter_shapes(config), of_draw)
    raise ConfigError(f"unknown engine {name!r}", f"choose from {', '.join(ENGINES)}")


@dataclass(frozen=True)
class EngineSpec:
    """The arguments of `make_engine`: the engine, its precision and its device."""

    name: str | None = None  # one of ENGINES, None for the best one
    dtype: str | None = None  # one of DTYPES, None for the engine's own
    threads: int | None = None  # None for all cores that this process may use
    device: str | None = None  # one of DEVICES, for the torch engine
    compile: bool = False  # with torch.compile

    def create(self, config: Config) -> Engine:
        """Return a new engine with all parameters zero. Raises ConfigError."""
        keywords = self.keywords()
        return make_engine(keywords.pop("engine"), config, **keywords)

    def keywords(self) -> dict[str, Any]:
        """Return this as the keywords of `kamon.load`."""
        keywords = dict(vars(self))
        return {"engine": keywords.pop("name"), **keywords}


def make_torch(
    config: Config, dtype: str, threads: int | None, device: str, compile: bool
) -> Engine:
    warnings.filterwarnings("ignore", "Failed to initialize NumPy")  # Kamon does not need it
    try:
        from kamon.engines.torch import TorchEngine
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "torch":
            raise
        raise ConfigError("the torch engine needs torch", "pip install 'kamon[torch]'") from None
    from kamon.engines.distributed import get_group

    shapes = parameter_shapes(config)
    try:
        return TorchEngine(config, shapes, dtype, threads, device, compile, get_group())
    except ValueError as error:  # torch does not have the device
        raise ConfigError(str(error)) from None
