"""Model directories with every kind of damage: a model as it was, or one sentence.

A directory is a dict in memory of names and contents. A mutation changes one, and it is written
out, read, and compared. Signed mutations are those whose manifest agrees with the damage: they may
load, but then what is loaded works.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import kamon
from conftest import memory_limit, times
from kamon.errors import KamonError, StoreError
from kamon.storage import checkpoint, model_dir
from kamon.storage.checkpoint import Checkpoint

pytestmark = [
    pytest.mark.torture,
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs what POSIX systems have"),
]

SECONDS = 1.0
LONGEST = 1000  # characters of a sentence
SETTINGS = {
    "n_layer": 1, "n_embd": 4, "n_head": 2, "block_size": 5, "num_steps": 6, "batch_size": 2,
    "learning_rate": 0.05, "std": 0.3, "size": "original",
}  # fmt: skip
DOCS = [f"{a}{b}{c}" for a in "bdk" for b in "aei" for c in ("n", "nn", "r", "an")]
OTHERS = [doc.translate(str.maketrans("bdkaei", "stvoyu")) for doc in DOCS]  # the same shape


@dataclass(frozen=True)
class Link:
    to: str


@dataclass(frozen=True)
class Hole:
    """A file of two gigabytes that takes no room, with this in its beginning."""

    begin: bytes


@dataclass(frozen=True)
class Odd:
    kind: str  # fifo, folder, empty folder


Tree = dict[str, bytes | Link | Hole | Odd]


@dataclass(frozen=True)
class Base:
    """Directories as they were written."""

    tree: Tree
    other: Tree
    whole: Checkpoint  # what the training comes to


def tree_of(path: Path) -> Tree:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "lock"
    }


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("base")

    def under_way(docs: list[str], name: str) -> Tree:
        """Two generations, both before the end."""
        path = folder / name
        kamon.train(docs, output=path, checkpoint_every=2, **SETTINGS)
        tree = tree_of(path)
        kamon.train(docs, output=folder / f"{name}2", checkpoint_every=3, **SETTINGS)
        early = tree_of(folder / f"{name}2")
        for key in [key for key in tree if key.startswith("generation-000003/")]:
            del tree[key]
        for key, content in early.items():
            if key.startswith("generation-000001/"):
                tree[f"generation-000003/{key.split('/')[1]}"] = content
        return tree

    tree, other = under_way(DOCS, "one"), under_way(OTHERS, "two")
    assert {key.split("/")[0] for key in tree if "/" in key} == {
        "generation-000002",
        "generation-000003",
    }
    return Base(tree, other, model_dir.load(folder / "one"))


def write(tree: Tree, path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    for name, content in tree.items():
        file = path / name
        file.parent.mkdir(exist_ok=True)
        match content:
            case bytes():
                file.write_bytes(content)
            case Link(to):
                file.symlink_to(to)
            case Hole(begin):
                file.write_bytes(begin)
                os.truncate(file, 1 << 31)
            case Odd("fifo"):
                os.mkfifo(file)
            case Odd(kind):
                file.mkdir()
                if kind == "folder":
                    (file / "x").write_text("x")


def generations(tree: Tree) -> list[str]:
    return sorted({name.split("/")[0] for name in tree if "/" in name})


def key(found: Checkpoint) -> Any:
    """All that is in it, to be compared."""
    documents = found.documents
    assert isinstance(documents, bytes)
    return (
        *(found.config, found.tokenizer.chars, found.params.tobytes(), found.training),
        *(list(found.metrics), list(checkpoint.unpack_documents(documents))),
        found.state and {name: list(x) if name != "step" else x for name, x in found.state.items()},  # type: ignore[call-overload]
    )


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """A hang is a failure, and not one of the whole run."""

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"nothing for {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def sentence(error: KamonError) -> None:
    said = str(error)
    assert said
    assert said[-1] != "\n"
    assert len(said) < LONGEST, said[:2000]


def outcome(path: Path) -> Checkpoint | None:
    """What is loaded, or None for a StoreError; nothing else, and soon."""
    with alarm(20):
        for attempt in range(3):  # another process may have had the processor
            begin = time.perf_counter()
            try:
                found: Checkpoint | None = model_dir.load(path)
            except StoreError as error:
                sentence(error)
                found = None
            if time.perf_counter() - begin < SECONDS:
                return found
            assert attempt < 2
    raise AssertionError


# ---- damage that the manifest does not know of


def damaged_bytes(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    place = rng.randrange(len(changed)) if changed else 0
    match rng.randrange(7):
        case 0:
            for _ in range(rng.choice([1, 1, 1, 2, 8])):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        case 1:
            del changed[place:]
        case 2:
            size = rng.choice([1, 16, 512, len(changed)])
            changed[place : place + size] = bytes(len(changed[place : place + size]))
        case 3:
            changed += bytes(rng.randrange(1, 9))
        case 4:
            changed += rng.randbytes(rng.randrange(1, 600))
        case 5:
            changed[place:place] = rng.randbytes(rng.randrange(1, 9))
        case 6:
            end = rng.randrange(place, len(changed)) + 1
            changed = changed[:place] + changed[end:]
    return bytes(changed)


def some_file(tree: Tree, rng: random.Random, within: str = "") -> str:
    return rng.choice([name for name in tree if name.startswith(within)])


def flip(tree: Tree, _other: Tree, rng: random.Random) -> None:
    name = some_file(tree, rng)
    content = tree[name]
    assert isinstance(content, bytes)
    tree[name] = damaged_bytes(content, rng)


def swap_between_generations(tree: Tree, _other: Tree, rng: random.Random) -> None:
    old, new = generations(tree)
    name = some_file(tree, rng, new).split("/")[1]
    tree[f"{old}/{name}"], tree[f"{new}/{name}"] = tree[f"{new}/{name}"], tree[f"{old}/{name}"]


def mix_generations(tree: Tree, _other: Tree, rng: random.Random) -> None:
    old, new = generations(tree)
    for name in [name for name in tree if name.startswith(old)]:
        if rng.random() < 0.5:
            tree[name.replace(old, new)] = tree[name]


def from_another_model(tree: Tree, other: Tree, rng: random.Random) -> None:
    name = some_file(tree, rng)
    if "/" not in name:
        name = next(name for name in tree if "/" not in name)
        tree[name] = other[next(name for name in other if "/" not in name)]
    else:
        tree[name] = other[name]


def another_vocabulary(tree: Tree, other: Tree, rng: random.Random) -> None:
    name = f"{rng.choice(generations(tree))}/tokenizer.json"
    tree[name] = other[name]


def a_generation_of_another(tree: Tree, other: Tree, rng: random.Random) -> None:
    generation = rng.choice(generations(tree))
    for name in other:
        if name.startswith(generation):
            tree[name] = other[name]


def without_a_file(tree: Tree, _other: Tree, rng: random.Random) -> None:
    del tree[some_file(tree, rng)]


def without_a_folder(tree: Tree, _other: Tree, rng: random.Random) -> None:
    for generation in rng.sample(generations(tree), rng.choice([1, 1, 2])):
        for name in [name for name in tree if name.startswith(generation)]:
            del tree[name]


def renamed(tree: Tree, _other: Tree, rng: random.Random) -> None:
    generation = rng.choice(generations(tree))
    number = rng.choice(["000000", "000009", "0000003", "999999999", "9999999999", "3", "x"])
    for name in [name for name in tree if name.startswith(generation)]:
        tree[name.replace(generation, f"generation-{number}")] = tree.pop(name)


def odd_file(tree: Tree, _other: Tree, rng: random.Random) -> None:
    name = some_file(tree, rng)
    content = tree[name]
    assert isinstance(content, bytes)
    tree[name] = rng.choice(
        [
            *(Odd("fifo"), Odd("folder"), Odd("empty folder"), Hole(content), Hole(b"")),
            *(Link("nowhere"), Link("."), Link("/dev/zero"), Link("/dev/null"), Link(name)),
            Link(f"../{some_file(tree, rng)}"),
        ]
    )


def odd_generation(tree: Tree, _other: Tree, rng: random.Random) -> None:
    generation = generations(tree)[-1] if rng.random() < 0.5 else "generation-000004"
    for name in [name for name in tree if name.startswith(generation)]:
        del tree[name]
    tree[generation] = rng.choice(
        [
            *(Odd("fifo"), Odd("folder"), Odd("empty folder"), b"", Hole(b"")),
            *(Link("nowhere"), Link("."), Link("/"), Link("generation-000002"), Link("/dev/zero")),
        ]
    )


IN_FILES = [
    *([flip] * 8),
    *(swap_between_generations, from_another_model, another_vocabulary),
    *(a_generation_of_another, without_a_file, odd_file, odd_file),
]
# Of these a whole older generation may be left as the newest.
OF_FOLDERS = [without_a_folder, renamed, odd_generation, mix_generations]


def test_damage_is_recognised(base: Base, tmp_path: Path) -> None:
    """Every mutation: the newest generation that is there as it was, or a StoreError."""
    path = tmp_path / "m"
    write(base.tree, path)
    genuine = [key(model_dir.read_generation(folder)) for folder in model_dir.checkpoint_dirs(path)]
    rng = random.Random(1)
    refused = 0
    with memory_limit():
        for attempt in range(times(300, 60_000)):
            tree = dict(base.tree)
            mutate = rng.choice(OF_FOLDERS if rng.random() < 0.1 else IN_FILES)
            mutate(tree, base.other, rng)
            write(tree, path)
            found = outcome(path)
            refused += found is None
            if found is not None:
                assert key(found) in (genuine if mutate in OF_FOLDERS else genuine[-1:]), mutate
                if mutate in IN_FILES:
                    assert same_newest(tree, base.tree), mutate
            elif attempt % 15 == 0 and (whole := whole_ones(base.tree, tree)):
                goes_on(path, base.whole)
                assert whole
    assert refused > times(300, 60_000) // 2


def same_newest(tree: Tree, before: Tree) -> bool:
    """Whether the newest generation and its documents are what they were, but for white space."""
    newest = generations(before)[-1]
    names = [name for name in before if name.startswith((newest, "documents"))]
    return all(
        name in tree
        and (read(tree, name) == before[name] or same_json(read(tree, name), before[name]))
        for name in names
    )


def read(tree: Tree, name: str) -> object:
    content = tree[name]
    while isinstance(content, Link):
        there = os.path.normpath(os.path.join(os.path.dirname(name), content.to))
        content = tree.get(there, b"")
    return content


def same_json(a: object, b: object) -> bool:
    try:
        return bool(json.loads(a) == json.loads(b))  # type: ignore[arg-type]
    except (ValueError, TypeError):
        return False


def whole_ones(before: Tree, after: Tree) -> list[str]:
    """Generations that nothing has happened to."""
    documents = {name: content for name, content in before.items() if "/" not in name}
    if any(after.get(name) != content for name, content in documents.items()):
        return []
    return [
        generation
        for generation in generations(before)
        if {n: c for n, c in after.items() if n.startswith(generation)}
        == {n: c for n, c in before.items() if n.startswith(generation)}
    ]


def goes_on(path: Path, whole: Checkpoint) -> None:
    """From the last good checkpoint, to where it would have come."""
    with alarm(20):
        kamon.resume(path, on_start=lambda _: None)
    found = model_dir.load(path)
    assert found.params == whole.params
    assert found.state == whole.state
    assert found.metrics == whole.metrics


# ---- damage that the manifest agrees with

NUMBERS = [0, -1, 1, 2, 5, 2**31 - 1, 2**31, 2**64, 10**400, 0.5, 1e308, 5e-324, -1e308]
NASTY: list[Any] = [
    *NUMBERS, None, True, False, "", "a", "\ud800", "\0", "a\nb", "x" * 5000, float("inf"),
    float("nan"), [], {}, [1], [[]], {"": None}, ["a", "a"],
]  # fmt: skip


def nasty(rng: random.Random) -> Any:
    if rng.random() < 0.03:
        deep: Any = 1
        for _ in range(rng.choice([5, 400])):
            deep = [deep]
        return deep
    return rng.choice(NASTY)


def mutated_json(value: Any, rng: random.Random) -> Any:
    """One place of it changed, gone, or one more."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        match rng.randrange(6):
            case 0:
                return {k: v for k, v in value.items() if k != name}
            case 1:
                return value | {rng.choice(["new", "", "\ud800", "a\nb"]): nasty(rng)}
            case _:
                return value | {name: mutated_json(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        match rng.randrange(5):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value[:place], nasty(rng), *value[place:]]
            case 2:
                return value[::-1]
            case _:
                return [*value[:place], mutated_json(value[place], rng), *value[place + 1 :]]
    return nasty(rng)


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def mutated_lines(content: bytes, rng: random.Random) -> bytes:
    lines = content.splitlines()
    place = rng.randrange(len(lines))
    match rng.randrange(5):
        case 0:
            del lines[place]
        case 1:
            lines.insert(place, lines[place])
        case _:
            lines[place] = dumped(mutated_json(json.loads(lines[place]), rng))
    return b"\n".join(lines) + b"\n" * rng.choice([0, 1, 1, 1, 2])


def mutated_tensors(content: bytes, rng: random.Random) -> bytes:
    size = int.from_bytes(content[:8], "little")
    header, data = content[8 : 8 + size], bytearray(content[8 + size :])
    match rng.randrange(4):
        case 0:
            header = dumped(mutated_json(json.loads(header), rng))
        case 1:
            size = rng.choice([0, 1, size - 1, size + 1, 2**31, 2**63, 2**64 - 1])
            return size.to_bytes(8, "little") + header + data
        case _:
            for _ in range(rng.choice([1, 3, 50])):
                number = rng.choice(
                    [float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 1e39, 5e-324, -1.0]
                )
                data[8 * rng.randrange(len(data) // 8) :][:8] = b""
                struct.pack_into("<d", data, 8 * rng.randrange(len(data) // 8), number)
    return len(header).to_bytes(8, "little") + header + data


def mutated_documents(content: bytes, rng: random.Random) -> bytes:
    text = gzip.decompress(content)
    changed = mutated_lines(text, rng) if rng.random() < 0.5 else damaged_bytes(text, rng)
    return gzip.compress(changed, 1)


def inside(name: str, content: bytes, rng: random.Random) -> bytes:
    """Damage of what is meant, where the one above is of bytes."""
    if rng.random() < 0.2:
        return damaged_bytes(content, rng)
    try:
        return inside_whole(name, content, rng)
    except (ValueError, TypeError, LookupError, OSError, EOFError, zlib.error):
        return damaged_bytes(content, rng)  # it was damaged before


def inside_whole(name: str, content: bytes, rng: random.Random) -> bytes:
    if name.endswith(".json"):
        value = json.loads(content)
        for _ in range(rng.choice([1, 1, 2])):
            value = mutated_json(value, rng)
        return dumped(value)
    if name.endswith("metrics.jsonl"):
        return mutated_lines(content, rng)
    if name.endswith(".safetensors"):
        return mutated_tensors(content, rng)
    return mutated_documents(content, rng)


def sign(tree: Tree) -> None:
    """Make the manifests agree with what is there. Of a hole they know the size alone."""
    for name in tree:
        if name.endswith(f"/{model_dir.MANIFEST}"):
            content = tree[name]
            try:
                manifest = json.loads(content)  # type: ignore[arg-type]
                documents = manifest["documents"]
                signed = [(documents["name"], documents)]
                for file, entry in manifest["files"].items():
                    signed.append((f"{name.split('/')[0]}/{file}", entry))
                for file, entry in signed:
                    entry |= digest_of(tree[file])
            except (ValueError, TypeError, LookupError, AttributeError):
                continue  # it is no manifest any more
            tree[name] = dumped(manifest)


def digest_of(content: object) -> dict[str, Any]:
    match content:
        case bytes():
            return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        case Hole():
            return {"size": 1 << 31}
        case Odd("fifo"):
            return {"size": 0, "sha256": hashlib.sha256().hexdigest()}
    return {}


def mutate_signed(tree: Tree, other: Tree, rng: random.Random) -> None:
    if rng.random() < 0.2:
        choice = [swap_between_generations, mix_generations, from_another_model]
        choice += [another_vocabulary, a_generation_of_another]
        rng.choice(choice)(tree, other, rng)
        sign(tree)
    elif rng.random() < 0.1:
        name = some_file(tree, rng, generations(tree)[-1])
        tree[name] = rng.choice([Odd("fifo"), Hole(b""), Link(".."), b""])
        sign(tree)
    elif rng.random() < 0.1:  # the manifest itself, which nobody signs
        name = f"{generations(tree)[-1]}/{model_dir.MANIFEST}"
        content = tree[name]
        assert isinstance(content, bytes)
        tree[name] = inside(name, content, rng)
    else:
        for _ in range(rng.choice([1, 1, 1, 2])):
            within = generations(tree)[-1] if rng.random() < 0.9 else "documents"
            name = some_file(tree, rng, within)
            content = tree[name]
            if isinstance(content, bytes):
                tree[name] = inside(name, content, rng)
        sign(tree)


def samples(path: Path) -> None:
    for text in kamon.load(path, threads=1).sample(3, temperature=0.5, seed=1):
        text.encode()


def uses(path: Path, found: Checkpoint) -> None:
    """Whatever has been loaded can be used; what does not fit is said in a sentence."""

    def said(action: Callable[[], object]) -> None:
        try:
            action()
        except KamonError as error:
            sentence(error)

    assert all(map(str.isascii, [json.dumps(found.training.content, allow_nan=False)]))
    said(lambda: checkpoint.unpack_documents(found.documents))  # type: ignore[arg-type]
    "".join(found.tokenizer.chars).encode()
    said(lambda: samples(path))
    asked = iter(range(10))
    # A number of steps may be anything.
    said(
        lambda: kamon.resume(
            path,
            should_stop=lambda: next(asked, None) is None,
            on_start=lambda _: None,
            threads=1,
            checkpoint_every=1 << 30,
        )
    )


def test_damage_that_the_manifest_agrees_with(base: Base, tmp_path: Path) -> None:
    path = tmp_path / "m"
    rng = random.Random(2)
    loaded = 0
    with memory_limit():
        for attempt in range(times(200, 40_000)):
            tree = dict(base.tree)
            mutate_signed(tree, base.other, rng)
            write(tree, path)
            found = outcome(path)
            if found is not None:
                loaded += 1
                if attempt % 2 == 0:
                    with alarm(20):
                        uses(path, found)
    assert loaded > times(200, 40_000) // 20
