"""Search, led by coverage, for bytes that cause neither a result nor a proper error.

    python dev/fuzz.py store 60     # a model directory, for 60 seconds
    python dev/fuzz.py corpus 60    # a list
    python dev/fuzz.py store FILE   # repeat what was found

The exit code is 0 if nothing was found. Otherwise libFuzzer prints the file with the bytes. If
KAMON_FUZZ_CORPUS names a folder, the search begins with its files, and adds those that reach new
code.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["kamon", "csv", "json"]):
    import kamon
    from kamon.data import corpus
    from kamon.errors import KamonError, StoreError
    from kamon.storage import checkpoint, model_dir
    from kamon.tokenizers.char import CharTokenizer

DOCS = ["anna", "hanna", "nora", "eleonora", "lea", "mia"]
SETTINGS: dict[str, Any] = {
    "n_layer": 1, "n_embd": 4, "n_head": 2, "block_size": 5, "num_steps": 2, "batch_size": 1,
    "size": "original", "engine": "scalar",
}  # fmt: skip
SHARP = ("documents", *checkpoint.FILES, checkpoint.STATE)
FORMATS = [("text", None), ("csv", "text"), ("tsv", "text"), ("jsonl", None), ("json", None)]


def seeds(files: list[bytes], folder: Path) -> None:
    for number, content in enumerate(files):
        (folder / f"seed{number}").write_bytes(content)


class Model:
    """Load a model with one file replaced: the first byte chooses it. The manifest agrees."""

    def __init__(self, folder: Path) -> None:
        kamon.train(DOCS, output=folder / "m", **SETTINGS)
        self.folder = model_dir.newest_checkpoint_dir(folder / "m")
        entry = model_dir.read_manifest(self.folder)
        names = entry["files"]
        self.contents = {name: (self.folder / name).read_bytes() for name in names}
        self.documents = (folder / "m" / entry["documents"]["name"]).read_bytes()
        manifest = (self.folder / model_dir.MANIFEST).read_bytes()
        files = [self.documents, *(self.contents[name] for name in SHARP[1:]), manifest]
        self.seeds = [bytes([number]) + content for number, content in enumerate(files)]

    def __call__(self, data: bytes) -> None:
        which, content = data[:1], data[1:]
        number = int.from_bytes(which, "little") % (len(SHARP) + 1)
        try:
            if number == len(SHARP):
                (self.folder / model_dir.MANIFEST).write_bytes(content)
                model_dir.read_generation(self.folder)
                return
            name = SHARP[number]
            if name == "documents":
                checkpoint.unpack_documents(content)
                return
            changed: dict[str, bytes] = self.contents | {name: content}

            def read(name: str, most: int) -> bytes:
                if len(changed[name]) > most:
                    raise StoreError(f"{name} is too large")
                return changed[name]

            found = checkpoint.from_files(read, changed, self.documents)
            checkpoint.to_files(found)
            json.dumps(found.training.content, allow_nan=False)
        except StoreError:
            return


class List:
    """Read the bytes as a list. The first byte chooses the format."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "list"
        text = b'text,id\nanna,1\n"no\nra",2\n'
        files = [
            "anna\r\nnora\rbo\n\u2028é\n".encode(),
            text,
            text.replace(b",", b"\t"),
            b'{"text": "anna"}\n\n{"text": "n\\u00f6", "n": [1]}\n',
        ]
        self.seeds = [bytes([number]) + content for number, content in enumerate(files)]

    def __call__(self, data: bytes) -> None:
        which, content = data[:1], data[1:]
        format, column = FORMATS[int.from_bytes(which, "little") % len(FORMATS)]
        self.path.write_bytes(content)
        try:
            found = corpus.read(self.path, format=format, column=column)
        except KamonError:
            return
        tokenizer = CharTokenizer.train(found.different)
        for doc in found.different:
            assert tokenizer.decode(tokenizer.encode(doc)) == doc == doc.strip() != ""


def main() -> None:
    target, what = sys.argv[1:]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        test: Model | List = Model(folder) if target == "store" else List(folder)
        if not what.isdecimal():
            test(Path(what).read_bytes())
            return
        kept = Path(os.environ.get("KAMON_FUZZ_CORPUS") or folder / "corpus")
        kept.mkdir(exist_ok=True)
        seeds(test.seeds, kept)
        flags = [f"-max_total_time={what}", "-timeout=10", "-rss_limit_mb=1000", "-max_len=16384"]
        # In a child process, because libFuzzer ends the process without cleaning up.
        child = os.fork()
        if not child:
            atheris.Setup([sys.argv[0], *flags, str(kept)], test)
            atheris.Fuzz()
        raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    main()
