"""Builds the native engine: one library for each instruction set, chosen when Kamon is loaded.

Where no C++ compiler is found, or KAMON_NATIVE=0 is set, the installation goes on without it; with
KAMON_NATIVE=1, as for what is published, that is an error. CXX names the compiler. Everything else
about the package stands in pyproject.toml.
"""

import gzip
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.command.sdist import sdist

SOURCE = Path("src", "kamon", "native", "src", "c_api.cpp")
FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-pthread"]
# The exact build rounds after every operation, as Python does; the fast one fuses a·b + c.
DTYPES = {
    "f32": ["-DKAMON_REAL=float", "-ffp-contract=fast"],
    "f64": ["-DKAMON_REAL=double", "-ffp-contract=off"],
}
X86 = {
    "baseline": ["-DKAMON_BYTES=16"],
    "avx2": ["-DKAMON_BYTES=32", "-mavx2", "-mfma", "-mbmi2"],
    "avx512": [
        "-DKAMON_BYTES=64",
        *("-mavx512f", "-mavx512dq", "-mavx512vl", "-mavx512bw", "-mfma", "-mbmi2"),
        "-mprefer-vector-width=512",
    ],
}
LEVELS = X86 if platform.machine().lower() in ("x86_64", "amd64") else {"baseline": X86["baseline"]}
NATIVE = os.environ.get("KAMON_NATIVE", "")


def find_compiler() -> list[str]:
    """On Windows what the build requires: g++ does not align AVX's vectors on the stack there."""
    if os.environ.get("CXX"):
        return os.environ["CXX"].split()
    if sys.platform == "win32":
        return [sys.executable, "-m", "ziglang", "c++", "-target", "x86_64-windows-gnu"]
    for name in ("g++", "clang++", "c++"):
        if shutil.which(name):
            return [name]
    raise RuntimeError("no C++ compiler was found (g++ or clang++)")


def run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed:\n{done.stderr}")


def link(command: list[str]) -> None:
    """With the compiler's own libraries inside where that works: they load in half the time."""
    try:
        run([*command, "-static-libstdc++", "-static-libgcc", "-Wl,--exclude-libs,ALL", "-s"])
    except RuntimeError:
        run(command)


class BuildNative(build_ext):
    def build_extensions(self) -> None:
        try:
            self.build_native(find_compiler())
        except (RuntimeError, OSError) as error:
            if NATIVE == "1":
                sys.exit(f"Kamon: the native engine is not built: {error}")
            print(f"Kamon: the native engine is not built: {error}", file=sys.stderr)
            print("Kamon: the scalar engine will do the work, slowly", file=sys.stderr)

    def build_native(self, compiler: list[str]) -> None:
        temp = Path(self.build_temp)
        temp.mkdir(parents=True, exist_ok=True)
        jobs = {
            temp / f"{level}_{dtype}.o": [
                *FLAGS,
                *LEVELS[level],
                *DTYPES[dtype],
                f"-DKAMON_SUFFIX=_{dtype}",
            ]
            for level in LEVELS
            for dtype in DTYPES
        }
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(
                pool.map(
                    lambda job: run([*compiler, *job[1], "-c", str(SOURCE), "-o", str(job[0])]),
                    jobs.items(),
                )
            )
        for extension in self.extensions:
            target = Path(self.get_ext_fullpath(extension.name))
            target.parent.mkdir(parents=True, exist_ok=True)
            level = extension.name.rsplit("_", 1)[1]
            objects = [str(temp / f"{level}_{dtype}.o") for dtype in DTYPES]
            linked = temp / target.name  # on Windows the linker leaves other files beside it
            link([*compiler, "-shared", "-pthread", *objects, "-o", str(linked)])
            shutil.copy(linked, target)

    def get_ext_filename(self, fullname: str) -> str:
        return str(Path(*fullname.split("."))) + ".so"


class PlatformWheel(bdist_wheel):
    """For every Python 3 of a platform: ctypes loads the libraries, which know nothing of Python.

    Without libraries it is for every platform, too.
    """

    def get_tag(self) -> tuple[str, str, str]:
        plat = super().get_tag()[2]
        return "py3", "none", plat.replace("universal2", platform.machine())


class SameSource(sdist):
    """The source distribution: the same bytes for the same files and SOURCE_DATE_EPOCH."""

    def make_archive(
        self,
        base_name: str,
        format: str,
        root_dir: str | None = None,
        base_dir: str | None = None,
        owner: str | None = None,
        group: str | None = None,
    ) -> str:
        if format != "gztar" or root_dir or not base_dir:
            return super().make_archive(base_name, format, root_dir, base_dir, owner, group)
        when = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.mtime = when
            member.mode = 0o755 if member.isdir() else 0o644
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            return member

        path = f"{base_name}.tar.gz"
        with (
            open(path, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=when) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            archive.add(base_dir, filter=plain)
        return path


setup(
    ext_modules=[
        Extension(f"kamon.native.kamon_{level}", [str(SOURCE)], optional=True)
        for level in LEVELS
        if NATIVE != "0"
    ],
    cmdclass={"build_ext": BuildNative, "bdist_wheel": PlatformWheel, "sdist": SameSource},
)
