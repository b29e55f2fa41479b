"""The C++ builds without warnings with every compiler here, and is clean under sanitizers."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from ctypes import c_double, c_int, c_int64, c_uint32, c_uint64, c_void_p
from pathlib import Path

import pytest

from kamon.native import library

TESTS = Path(__file__).parent
ROOT = TESTS.parents[1]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
X86 = platform.machine().lower() in ("x86_64", "amd64")
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]
BUILDS = {"baseline": ["-DKAMON_BYTES=16"]} | (
    {
        "avx2": ["-DKAMON_BYTES=32", "-mavx2", "-mfma", "-mbmi2"],
        "avx512": ["-DKAMON_BYTES=64", "-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw"],
    }
    if X86
    else {}
)
needs_compiler = pytest.mark.skipif(not COMPILERS, reason="no C++ compiler (g++ or clang++)")


SOURCE = ROOT / "src" / "kamon" / "native" / "src" / "c_api.cpp"
NUMBERS = {
    "void": None,
    "int": c_int,
    "double": c_double,
    "int64_t": c_int64,
    "uint32_t": c_uint32,
    "uint64_t": c_uint64,
}


def test_python_declares_the_functions_that_there_are() -> None:
    """Each name, result and argument of SIGNATURES is that of an API(...) in the C++."""

    def type_of(declared: str) -> object:
        return c_void_p if "*" in declared else NUMBERS[declared.split()[0]]

    found = {}
    form = r"^API\(([\w*]+), kamon_(\w+)\)\(([^)]*)\) \{"
    for result, name, arguments in re.findall(form, SOURCE.read_text(encoding="utf-8"), re.M):
        each = [argument.strip() for argument in arguments.split(",") if argument.strip()]
        found[name] = (type_of(result), [type_of(argument) for argument in each])
    assert found.pop("level") == (c_int, [])
    assert found == library.SIGNATURES


def test_ci_has_both_compilers() -> None:
    if not os.environ.get("CI"):
        pytest.skip("only where CI is set: elsewhere one compiler will do")
    assert COMPILERS == ["g++", "clang++"]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("level", BUILDS)
@pytest.mark.parametrize("real", ["float", "double"])
def test_no_warnings(compiler: str, level: str, real: str, tmp_path: Path) -> None:
    command = [compiler, "-std=c++17", "-O1", *WARNINGS, *BUILDS[level], "-DKAMON_SUFFIX=_x"]
    command += [f"-DKAMON_REAL={real}", "-c", str(SOURCE), "-o", str(tmp_path / "engine.o")]
    if (compiler, level) != ("g++", "avx2"):  # one whole compilation: some warnings need it
        command.append("-fsyntax-only")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    ("real", "sanitizers", "level"),
    [
        ("double", "address,undefined", "baseline"),
        ("float", "address,undefined", "best"),
        ("float", "thread", "baseline"),
    ],
)
def test_sanitizers(real: str, sanitizers: str, level: str, tmp_path: Path) -> None:
    if level == "best":
        if library.why_not():
            pytest.skip(library.why_not())
        level = library.best_level()
    program = tmp_path / "sanitize"
    # What is not optimised compiles in half the time, and no access is optimised away; but the
    # thread sanitizer would run four times as long.
    optimised = "-O1" if sanitizers == "thread" else "-O0"
    command = [COMPILERS[0], "-std=c++17", optimised, "-g", "-pthread", *WARNINGS, *BUILDS[level]]
    command += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all", "-DKAMON_SUFFIX=_x"]
    command += [f"-DKAMON_REAL={real}", str(TESTS / "native_sanitize.cpp"), "-o", str(program)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    # Some kernels lay out memory more randomly than the thread sanitizer can bear.
    run = ["setarch", "-R", str(program)] if shutil.which("setarch") else [str(program)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.stdout == "passed\n", done.stdout + done.stderr
