"""Loads the native library and passes arrays to its functions."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Sequence
from ctypes import c_double, c_int, c_int64, c_uint32, c_uint64, c_void_p
from functools import cache
from mmap import mmap
from typing import Any

LEVELS = ("baseline", "avx2", "avx512")  # instruction sets, the best one last
DTYPES = {"float32": "f32", "float64": "f64"}
SIZES = {"d": 8, "i": 4, "q": 8}  # bytes of a number

WRONG_OFFSETS = "the offsets of a batch must rise from 0 to its number of tokens"
WRONG_INDEX = "an index is not the number of a document"

# An array is passed as the address of its buffer. The names and types are those of c_api.cpp.
SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "create": (c_int, [c_int] * 5 + [c_double] * 6 + [c_uint64, c_int, c_int64, c_void_p]),
    "destroy": (None, [c_void_p]),
    "load": (None, [c_void_p] * 4 + [c_int64]),
    "state": (c_int64, [c_void_p] * 4),
    "gradients": (None, [c_void_p] * 2),
    "batch": (c_int, [c_void_p] * 2 + [c_int64, c_void_p, c_int64] + [c_void_p] * 4),
    "document_logprobs": (c_int, [c_void_p] * 2 + [c_int64, c_void_p, c_int64] + [c_void_p] * 3),
    "step": (c_int, [c_void_p, c_double]),
    "train": (
        c_int64,
        [c_void_p] * 2
        + [c_int64, c_void_p, c_int64, c_void_p, c_int64, c_int64, c_uint64]
        + [c_void_p] * 3,
    ),
    "sample": (
        c_int,
        [c_void_p] * 2 + [c_int64, c_double, c_uint64] + [c_int] * 4 + [c_void_p] * 7,
    ),
    "smooth": (c_int, [c_int, c_int64] + [c_void_p] * 2 + [c_double] + [c_void_p] * 2),
    "look_ahead": (c_int, [c_int] * 3 + [c_int64] + [c_void_p] * 6 + [c_int64] + [c_void_p] * 2),
    "sample_guided": (
        c_int,
        [c_void_p] * 2
        + [c_int64, c_double, c_uint64]
        + [c_int, c_double]
        + [c_int] * 2
        + [c_void_p] * 4
        + [c_int] * 3
        + [c_int64]
        + [c_void_p] * 6
        + [c_int64]
        + [c_void_p] * 6,
    ),
    "decoder_create": (c_void_p, [c_void_p]),
    "decoder_destroy": (None, [c_void_p]),
    "decoder_push": (c_int, [c_void_p, c_int, c_void_p]),
    "uniforms": (None, [c_uint64] * 2 + [c_int64, c_uint64, c_void_p]),
    "branches_create": (c_void_p, [c_void_p]),
    "branches_destroy": (None, [c_void_p]),
    "branches_push": (c_int, [c_void_p, c_int] + [c_void_p] * 3),
    "shuffle": (None, [c_void_p, c_uint32, c_void_p, c_int]),
    "gauss": (None, [c_void_p, c_double, c_int64, c_void_p, c_void_p]),
    "find_starts": (c_int, [c_void_p] + [c_int64] * 2 + [c_void_p] * 2 + [c_int]),
    "gather": (
        c_int64,
        [c_void_p, c_int64, c_void_p, c_int, c_int64, c_void_p, c_int64, c_void_p],
    ),
    "first_occurrences": (c_int64, [c_void_p, c_int64, c_void_p, c_int, c_int64, c_void_p]),
    "ngram_create": (c_void_p, [c_int] * 2),
    "ngram_destroy": (None, [c_void_p]),
    "ngram_add": (c_int, [c_void_p] * 2 + [c_int64, c_void_p] + [c_int64] * 2),
    "ngram_tally": (c_int64, [c_void_p] * 2),
    "ngram_finish": (c_int, [c_void_p] * 2),
    "ngram_logprobs": (
        c_int64,
        [c_void_p, c_int, c_int, c_void_p, c_int64, c_void_p] + [c_int64] * 2 + [c_void_p, c_int64],
    ),
    "ngram_probabilities": (c_int, [c_void_p, c_int, c_void_p, c_int64, c_void_p]),
    "ngram_sort": (c_int, [c_void_p]),
    "ngram_sizes": (c_int, [c_void_p, c_int, c_void_p]),
    "ngram_tabulate": (c_int, [c_void_p, c_int] + [c_void_p] * 6),
    "table_create": (c_int, [c_int] + [c_int64] * 2 + [c_void_p] * 7),
    "table_destroy": (None, [c_void_p]),
    "mix": (None, [c_int64, c_double] + [c_void_p] * 3),
    "mix_logits": (c_int, [c_void_p, c_int, c_void_p, c_int64, c_double, c_void_p]),
    "mix_probabilities": (c_int, [c_void_p, c_int, c_void_p, c_int64, c_double, c_void_p]),
    "ratios": (None, [c_int64] + [c_void_p] * 2 + [c_double, c_void_p]),
    "derivatives": (None, [c_int64, c_void_p, c_double, c_void_p]),
    "sum_documents": (
        c_int,
        [c_void_p, c_int64, c_void_p, c_int64, c_void_p, c_int64] + [c_void_p] * 2,
    ),
    "merge_pieces": (c_int, [c_void_p, c_int64, c_void_p, c_int64] + [c_void_p] * 2),
    "above": (c_int64, [c_int64, c_void_p, c_double, c_void_p]),
    "peak": (c_double, [c_double]),
}


def library_path(level: str) -> str:
    return os.path.join(os.path.dirname(__file__), f"kamon_{level}.so")


def why_not() -> str:
    """Return a sentence that explains why the native engine is missing, or "" if it is not."""
    if os.path.exists(library_path("baseline")):
        return ""
    return (
        "the native engine is not built: it needs a C++17 compiler (g++ or clang++) "
        "when you install Kamon"
    )


@cache
def best_level() -> str:
    """Return the best of the built instruction sets that this processor has."""
    probe = ctypes.CDLL(library_path("baseline")).kamon_level_f32
    probe.restype = c_int
    has = probe()
    return next(
        level
        for rank, level in reversed(list(enumerate(LEVELS)))
        if rank <= has and os.path.exists(library_path(level))
    )


@cache
def functions(dtype: str, level: str, kind: Any = ctypes.CDLL) -> dict[str, Callable[..., Any]]:
    """Return the functions of a library. kind: ctypes.PyDLL for functions that keep the GIL."""
    library = kind(library_path(level))
    found = {}
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, f"kamon_{name}_{DTYPES[dtype]}")
        function.restype = result
        function.argtypes = arguments
        found[name] = function
    return found


def exact(name: str) -> Callable[..., Any]:
    """Return a function of the exact build."""
    return functions("float64", best_level())[name]


def usable_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


from_buffer = (ctypes.c_char * 0).from_buffer


def address(
    numbers: array[Any] | bytearray | memoryview | mmap, typecode: str = "", first: int = 0
) -> Any:
    """Return the address of number `first`, as an argument for a function of the library.

    While the result exists, the numbers stay in memory and cannot be resized.

    typecode: the type of the numbers, or "" for bytes. Raises ValueError for another type.
    """
    if typecode:
        check_numbers("numbers", numbers, typecode)
    if first:
        return from_buffer(numbers, first * numbers.itemsize)  # type: ignore[union-attr]
    return from_buffer(numbers)


def zeros(n: int, typecode: str = "d") -> array[Any]:
    """Return an array of n zeros. Raises MemoryError if n is too large."""
    try:
        return array(typecode, bytes(SIZES[typecode] * n)) if n > 0 else array(typecode)
    except OverflowError:
        raise MemoryError from None


def above(row: Sequence[float], least: float) -> Sequence[int]:
    """Return the places of the numbers that are above `least`, in order. An array is faster."""
    if not isinstance(row, array) or row.typecode != "d" or why_not():
        return [place for place, number in enumerate(row) if number > least]
    found = zeros(len(row), "i")
    return found[: exact("above")(len(row), address(row), least, address(found))]


def check_numbers(name: str, numbers: Any, typecode: str) -> None:
    """Raise ValueError unless `numbers` is an array of this type or a view of such numbers."""
    if isinstance(numbers, array) and numbers.typecode == typecode:
        return
    found = getattr(numbers, "typecode", getattr(numbers, "format", None))
    if found != typecode:
        what = f"one of {found!r}" if found else f"a {type(numbers).__name__}"
        raise ValueError(f"{name} must be an array of {typecode!r}, not {what}")


def raise_for(error: int, vocab_size: int = 0, block_size: int = 0) -> None:
    """Raise the exception for an Error of errors.hpp, except for `stopped`."""
    if error == 1:
        raise MemoryError
    if error == 2:
        raise ValueError(f"a token is outside the vocabulary of {vocab_size}")
    if error == 3:
        raise ValueError(
            f"a document has more tokens than the {block_size + 1} that "
            f"block_size {block_size} holds"
        )
    if error == 4:
        raise ValueError(WRONG_INDEX)
    if error == 6:
        raise ValueError(WRONG_OFFSETS)
    if error == 7:
        raise ValueError("a model of these sizes is not possible")
