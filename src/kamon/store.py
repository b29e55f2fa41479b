"""The model directory: what a model is on disk.

    config.json         the settings, vocab_size among them
    tokenizer.json      the tokens
    model.safetensors   the parameters, float64, under the names of `parameter_shapes`
    metrics.jsonl       {"step": 1, "loss": …, "learning_rate": …}, a line for each step
    training.json       what it was trained on, with which engine, how far
    documents.jsonl.gz  the different documents of its list, a JSON string a line: what is new, and
                        what was held out (`kamon.split`), is asked of them
    manifest.json       the version of this format and the SHA-256 of each file above

The directory is written under another name, the manifest last, and then renamed: it is there
whole or not at all. Reading compares every hash. Nothing in it is code, and nothing is pickled.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
import os
import secrets
import shutil
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

from kamon.config import Config
from kamon.documents import Documents
from kamon.errors import KamonError, StoreError
from kamon.files import sync_folder, write_synced
from kamon.model import parameter_shapes
from kamon.tokenizer import CharTokenizer

FORMAT = 2
MANIFEST = "manifest.json"
DOCUMENTS = "documents.jsonl.gz"
FILES = (
    *("config.json", "tokenizer.json", "model.safetensors", "metrics.jsonl", "training.json"),
    DOCUMENTS,
)
UNPACKED_BLOCK = 1 << 20
MAX_DOCUMENT_BYTES = 1 << 28  # more is no document but an attack
MAX_MANIFEST_BYTES = 1 << 20


@dataclass(frozen=True)
class Stored:
    """What a model directory holds.

    params: flat array of 'd' in the order of `parameter_shapes`; metrics: lines of metrics.jsonl.
    """

    config: Config
    tokenizer: CharTokenizer
    params: array[float]
    metrics: list[dict[str, float]]
    training: dict[str, Any]
    documents: bytes | Documents  # bytes, of `pack_documents`: few commands need them unpacked


def save(path: str | Path, stored: Stored, *, overwrite: bool = False) -> None:
    """Write a model directory, wholly or not at all.

    StoreError where `path` is taken (a model is replaced only with `overwrite`, all else never)
    or cannot be written.
    """
    path = check_target(path, overwrite=overwrite)
    documents = stored.documents
    contents: dict[str, bytes | Iterable[bytes]] = {
        "config.json": to_json(asdict(stored.config)),
        "tokenizer.json": stored.tokenizer.to_json().encode(),
        "model.safetensors": to_safetensors(stored.config, stored.params),
        "metrics.jsonl": (to_json(line, indent=None) for line in stored.metrics),
        "training.json": to_json(stored.training),
        DOCUMENTS: documents if isinstance(documents, bytes) else pack_documents(documents),
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(path.parent) as staging:
            hashes = {
                name: write_synced(staging / name, content) for name, content in contents.items()
            }
            manifest = to_json({"format": FORMAT, "sha256": hashes})
            write_synced(staging / MANIFEST, manifest)
            sync_folder(staging)
            put_in_place(staging, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None


def check_target(path: str | Path, *, overwrite: bool) -> Path:
    """The absolute path that `save` will write to, or a StoreError: to be asked before the work."""
    given, path = str(path) or "an empty name", Path(path).absolute()
    try:
        if path.resolve() == Path.cwd():
            raise StoreError(f"{given} is the current directory: name a new one for the model")
        if path.is_symlink():
            raise StoreError(f"{given} is a symbolic link: name the directory itself")
        if path.is_dir():
            if is_model(path):
                if not overwrite:
                    raise StoreError(
                        f"{given} holds a model already: choose another name, or --overwrite it"
                    )
            elif next(path.iterdir(), None) is not None:
                raise StoreError(f"{given} holds something else than a model: choose another name")
        elif path.exists():
            raise StoreError(f"{given} is not a directory: choose another name for the model")
        if path.parent.is_dir() and is_model(path.parent):
            raise StoreError(
                f"{given} would lie in another model, where nothing may be added: "
                "choose another name"
            )
        with staging_folder(next(folder for folder in path.parents if folder.exists())):
            pass  # it can be made: so can the model
    except OSError as error:
        raise StoreError(f"cannot write {given}: {error.strerror}") from None
    except ValueError as error:
        raise StoreError(f"cannot write {given!r}: {error}") from None
    return path


def is_model(path: Path) -> bool:
    """Whether a model's files are in the folder and nothing else: then it may be replaced."""
    if set(os.listdir(path)) != {MANIFEST, *FILES}:
        return False
    try:
        return read_manifest(path).keys() == set(FILES)
    except StoreError:
        return False


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A folder for what shall take its place in `parent`; gone afterwards, whatever happened."""
    staging = parent / f".kamon-{secrets.token_hex(6)}.new"
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def put_in_place(staging: Path, path: Path) -> None:
    """Rename `staging` to `path`; what was there is set aside, and comes back if that fails."""
    aside = None
    if path.exists() and any(path.iterdir()):
        aside = path.with_name(f".kamon-{secrets.token_hex(6)}.old")
        os.rename(path, aside)
    try:
        if path.exists() and os.name != "posix":
            path.rmdir()
        os.rename(staging, path)
    except BaseException:
        if aside:
            os.rename(aside, path)
        raise
    try:
        sync_folder(path.parent)
    finally:
        if aside:
            shutil.rmtree(aside, ignore_errors=True)


def load(path: str | Path) -> Stored:
    """Read a model directory. StoreError names the file that is missing, damaged or foreign."""
    path = Path(path)
    try:
        contents = read_verified(path)
    except (OSError, ValueError) as error:  # a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise StoreError(f"cannot read {str(path)!r}: {reason}") from None
    try:
        config = Config(**json.loads(contents["config.json"]))
        tokenizer = CharTokenizer.from_json(contents["tokenizer.json"].decode("utf-8"))
        params = from_safetensors(config, contents["model.safetensors"])
        metrics = [json.loads(line) for line in contents["metrics.jsonl"].splitlines()]
        training = json.loads(contents["training.json"])
        check_records(metrics, training)
    except (KamonError, ValueError, TypeError, RecursionError) as error:
        raise StoreError(f"{path} cannot be used: {error}") from None
    if tokenizer.vocab_size != config.vocab_size:
        raise StoreError(
            f"{path} cannot be used: tokenizer.json has {tokenizer.vocab_size} tokens, "
            f"config.json says vocab_size {config.vocab_size}"
        )
    return Stored(config, tokenizer, params, metrics, training, contents[DOCUMENTS])


def pack_documents(docs: Documents) -> Iterator[bytes]:
    """The same bytes for the same documents."""
    gzip = zlib.compressobj(6, wbits=31)
    for block in docs.blocks():
        # As one array with line ends for commas, which takes a tenth of the time of as many lines.
        lines = json.dumps(block, ensure_ascii=False, separators=("\n", ":"))[1:-1] + "\n"
        yield gzip.compress(lines.encode())
    yield gzip.flush()


def unpack_documents(packed: bytes) -> Documents:
    """StoreError where this is nothing that `pack_documents` made."""
    try:
        return Documents.of(unpacked(packed))
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise StoreError(f"{DOCUMENTS} cannot be used: {error}") from None


def unpacked(packed: bytes) -> Iterator[str]:
    with gzip.open(io.BytesIO(packed)) as file:
        rest = b""
        while block := file.read(UNPACKED_BLOCK):
            whole, newline, rest = (rest + block).rpartition(b"\n")
            if len(rest) > MAX_DOCUMENT_BYTES:
                raise ValueError(f"it has a document of more than {MAX_DOCUMENT_BYTES:,} bytes")
            if newline:
                lines = whole.decode().split("\n")
                docs: list[str] = json.loads(f"[{','.join(lines)}]")
                if len(docs) != len(lines) or not all(isinstance(doc, str) for doc in docs):
                    raise ValueError("it is not one JSON string a line")
                if "\0" in "".join(docs):
                    raise ValueError("it has a NUL, which no text has")
                yield from docs
        if rest or not file.tell():
            raise ValueError("its last line has no end" if rest else "it is empty")


def check_records(metrics: list[Any], training: Any) -> None:
    """Raise ValueError where what Kamon reports of a training is not what Kamon writes."""
    names = ("step", "loss", "learning_rate")
    if not metrics or not all(
        isinstance(line, dict)
        and all(isinstance(line.get(name), int | float) for name in names)
        and math.isfinite(line["loss"])
        for line in metrics
    ):
        raise ValueError(f"metrics.jsonl has a line without the numbers {', '.join(names)}")
    corpus = training.get("corpus") if isinstance(training, dict) else None
    if not (
        isinstance(corpus, dict)
        and isinstance(corpus.get("source"), str)
        and isinstance(corpus.get("num_docs"), int)
        and isinstance(training.get("engine"), str)
        and isinstance(training.get("dtype"), str)
        and isinstance(training.get("num_steps_done"), int)
        and isinstance(training.get("seconds"), int | float)
    ):
        raise ValueError("training.json does not say what the model was trained on and with")


def read_manifest(path: Path) -> dict[str, str]:
    """The SHA-256 of each file by its name, as the manifest in this folder has them."""
    if not (path / MANIFEST).is_file():
        raise StoreError(f"{path} is not a model directory: it has no {MANIFEST}")
    try:
        with open(path / MANIFEST, "rb") as file:
            manifest = json.loads(file.read(MAX_MANIFEST_BYTES))
        if manifest["format"] != FORMAT:
            raise StoreError(
                f"{path} has format {manifest['format']}, this version of Kamon reads {FORMAT}: "
                "the versions of Kamon differ"
            )
        return {name: manifest["sha256"][name] for name in FILES}
    except OSError as error:
        raise StoreError(f"cannot read {path / MANIFEST}: {error.strerror}") from None
    except (ValueError, TypeError, LookupError, RecursionError):
        raise StoreError(f"{path / MANIFEST} is damaged: it is not a manifest") from None


def read_verified(path: Path) -> dict[str, bytes]:
    """The bytes of each file, all of them as the manifest says."""
    if not path.is_dir():
        kind = "is not a model directory but a file" if path.exists() else "does not exist"
        raise StoreError(f"{path} {kind}: give the directory that `kamon train -o` wrote")
    hashes = read_manifest(path)
    contents = {}
    for name in FILES:
        try:
            contents[name] = (path / name).read_bytes()
        except OSError as error:
            raise StoreError(f"cannot read {path / name}: {error.strerror}") from None
        if hashlib.sha256(contents[name]).hexdigest() != hashes[name]:
            raise StoreError(f"{path / name} is damaged: its SHA-256 is not the one in {MANIFEST}")
    return contents


def to_json(content: dict[str, Any], indent: int | None = 1) -> bytes:
    return json.dumps(content, indent=indent, allow_nan=False).encode() + b"\n"


def to_safetensors(config: Config, params: array[float]) -> bytes:
    from safetensors import TensorSpec, serialize

    shapes = parameter_shapes(config)
    params = little_endian(params)
    address, _ = params.buffer_info()  # valid as long as `params` lives: to the end of this call
    tensors = {}
    for name, shape in shapes.items():
        size = prod(shape) * params.itemsize
        tensors[name] = TensorSpec(
            dtype="float64", shape=list(shape), data_ptr=address, data_len=size
        )
        address += size
    return bytes(serialize(tensors, {"format": "kamon"}))


def from_safetensors(config: Config, content: bytes) -> array[float]:
    from safetensors import SafetensorError, deserialize

    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
    try:
        found = dict(read(content))
    except SafetensorError as error:
        raise StoreError(f"model.safetensors is damaged: {error}") from None
    if config.n_layer > len(found):  # said before a table of as many layers as that is made
        raise StoreError("model.safetensors has fewer layers than config.json says")
    shapes = parameter_shapes(config)
    if found.keys() != shapes.keys():
        odd = sorted(found.keys() ^ shapes.keys())[0]
        raise StoreError(
            f"model.safetensors and config.json differ: parameter {odd} is in one alone"
        )
    params = array("d")
    for name, shape in shapes.items():
        tensor = found[name]
        if tuple(tensor["shape"]) != shape or tensor["dtype"] != "F64":
            raise StoreError(
                f"model.safetensors has {name} as {tensor['dtype']} {tensor['shape']}, "
                f"config.json asks for F64 {list(shape)}"
            )
        params.frombytes(tensor["data"])
    params = little_endian(params)
    if not all(map(math.isfinite, params)):
        raise StoreError("model.safetensors has parameters that are not finite")
    return params


def little_endian(numbers: array[float]) -> array[float]:
    """To and from the order of bytes in safetensors; nearly every machine has it already."""
    if sys.byteorder == "big":
        numbers = numbers[:]
        numbers.byteswap()
    return numbers
