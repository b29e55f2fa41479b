"""Try the installed Kamon, not the one in this folder, with the first steps of a user.

    python dev/try_installed.py          # the command, the native engine, the library
    python dev/try_installed.py --web    # … and the playground, which needs kamon[web]

Run it with the Python that has Kamon. It needs nothing else, so it can try a wheel anywhere.
"""

import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import urllib.request
from pathlib import Path

X86 = platform.machine().lower() in ("x86_64", "amd64")
LEVELS = ["baseline", "avx2", "avx512"] if X86 else ["baseline"]
COMMAND = Path(sysconfig.get_path("scripts"), "kamon.exe" if sys.platform == "win32" else "kamon")


def kamon(*argv: str) -> str:
    done = subprocess.run([COMMAND, *argv], capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"kamon {' '.join(argv)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def try_command() -> None:
    engine = json.loads(kamon("inspect", "--engine", "--json"))
    assert engine["engine"] == "native", engine
    assert engine["built"] == LEVELS, engine
    print(kamon("--version").strip(), "with", kamon("inspect", "--engine").strip())
    names = kamon("train", "names", "--size", "tiny", "-o", "model").splitlines()
    assert len(names) == 20, names
    assert len(kamon("sample", "model", "-n", "3").splitlines()) == 3
    print("kamon train names:", ", ".join(line.split()[0] for line in names[:5]))


def try_library() -> None:
    import kamon

    installed = Path(kamon.__file__).resolve()
    assert installed.is_relative_to(Path(sysconfig.get_path("platlib")).resolve()), installed
    model = kamon.train(["anna", "hanna", "nora"], num_steps=20, seed=1)
    assert len(model.sample(3, seed=1)) == 3
    assert kamon.load("model").training["engine"] == "native"
    print("import kamon:", ", ".join(model.sample(3, seed=1)))


def try_playground() -> None:
    command = [str(COMMAND), "serve", "model", "--no-browser", "--no-token"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, encoding="utf-8") as server:
        try:
            assert server.stdout
            url = server.stdout.readline().strip()
            assert url, "kamon serve did not start"
            for path in ("/", "/static/main.js", "/health"):
                with urllib.request.urlopen(url.rstrip("/") + path, timeout=60) as answer:
                    assert answer.status == 200
                    assert answer.read()
        finally:
            server.terminate()
    print("kamon serve:", url)


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try_command()
        try_library()
        if "--web" in sys.argv[1:]:
            try_playground()
        os.chdir("/")


if __name__ == "__main__":
    main()
