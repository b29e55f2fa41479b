"""The models that a page can use, by ids: nobody names a path to the server."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from kamon.errors import ConfigError, KamonError, StoreError
from kamon.model import load
from kamon.storage import model_dir
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.prompts import knows_prompts
from kamon.web.errors import WebError, not_found
from kamon.web.limits import Limits

if TYPE_CHECKING:
    from kamon.model import Model
    from kamon.web.services.workers import Stop

T = TypeVar("T")
Kind = Literal["opened", "trained", "tuned"]
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_PRODUCTS = 5_000_000_000  # for one entry, which nothing interrupts
MAX_NAME = 200  # characters of a source
RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")  # no file of Windows may be called so


@dataclass
class Entry:
    """A model, and what is known of it. One thread at a time uses it: engines own their buffers.

    kind: "opened" from a directory, "trained" or "tuned" here. parent: the id of the training that
    this is a moment of, at `step`. path: where it is saved. facts: known since it was opened.
    """

    id: str
    kind: Kind
    open: Callable[[], Model]
    path: Path | None = None
    parent: str | None = None
    step: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: Model | None = None
    found: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] | None = None

    @contextmanager
    def use(self, stop: Stop | None = None) -> Iterator[Model]:
        """stop: of work that gives way to others between two pieces."""
        with stop.holding(self.lock) if stop else self.lock:
            if self.opened is None:
                self.opened = self.open()
            if self.facts is None:
                self.facts = facts_of(self.opened)
            yield self.opened

    def about(self) -> dict[str, Any]:
        """Return `facts_of` the model. Once they are known, nobody waits for who uses it."""
        if self.facts is None:
            with self.use():
                pass
        assert self.facts is not None
        return self.facts

    def remember(self, name: str, find: Callable[[], T]) -> T:
        """What takes a while to find, found once; by who uses the model."""
        if name not in self.found:
            self.found[name] = find()
        known: T = self.found[name]
        return known


class ModelRegistry:
    """folder: where models are saved, each under its id; what is there already is opened."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self.entries: dict[str, Entry] = {}
        self.lock = threading.Lock()

    def get(self, id: str) -> Entry:
        """WebError 404 for an id that nothing has."""
        entry = self.entries.get(id)
        if entry is None:
            raise not_found(f"model {id!r}")
        return entry

    def steps(self, id: str) -> list[int]:
        """To which one can go back in a training."""
        return sorted(each.step or 0 for each in list(self.entries.values()) if each.parent == id)

    def add(self, entry: Entry) -> None:
        """Also in the place of one with its id."""
        with self.lock:
            self.entries[entry.id] = entry

    def check_room(self, path: Path) -> None:
        """StoreError where there are too many models that have a directory. The others have ends of
        their own, so that no training or session fails at its end for want of room."""
        with self.lock:
            size = sum(each.path is not None for each in self.entries.values())
        if size >= self.limits.models:
            raise StoreError(f"there is no room for {path}: {size} saved models are the most")

    def add_directory(self, path: Path, id: str | None = None) -> str:
        """Open a model directory, under its name or one like it: the last of all, also where it was
        open already. StoreError if there is none."""
        for each in self.entries.values():
            if each.path and each.path.resolve() == path.resolve():
                self.add(self.entries.pop(each.id))
                return each.id
        model = load(path)
        facts = facts_of(model)
        id = id or self.free_id(re.sub(r"[^a-z0-9_-]+", "-", path.name.lower()).strip("-_")[:40])
        self.add(Entry(id, "opened", lambda: model, path=path, opened=model, facts=facts))
        return id

    def add_saved(self) -> list[str]:
        """Open what was saved before. What is wrong with those that cannot be opened."""
        problems = []
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if NAME.fullmatch(path.name) and path.is_dir() and model_dir.is_model(path):
                    try:
                        self.check_room(path)
                        self.add_directory(path, path.name)
                    except KamonError as error:
                        problems.append(str(error))
        return problems

    def free_id(self, wanted: str) -> str:
        wanted, number = wanted or "model", 1
        found = wanted
        while found in self.entries:
            number += 1
            found = f"{wanted[:36]}-{number}"
        return found

    def forget(self, id: str) -> None:
        """Take a model off the shelf, with its moments; its directory stays."""
        with self.lock:
            self.get(id)
            for each in [e for e in self.entries.values() if id in (e.id, e.parent)]:
                del self.entries[each.id]

    def save(self, id: str, name: str, stop: Stop | None = None) -> Path:
        """Write a model to the folder, as its own entry `name`. WebError 409 where there is one."""
        entry = self.get(id)
        with entry.use(stop) as model:
            if not model.metrics:
                raise WebError(409, "this model has not learned yet: there is nothing to save")
            return self.write(name, entry.kind, model.save)

    def write(self, name: str, kind: Kind, write: Callable[[Path], object]) -> Path:
        """`save` of what is written by `write`, given a path."""
        if not NAME.fullmatch(name):
            raise WebError(
                422, "a name is of a to z, 0 to 9, - and _, 40 at most, a letter or digit first"
            )
        if RESERVED.fullmatch(name):
            raise WebError(422, f"Windows reserves the name {name}: choose another one")
        path = self.folder / name
        if path.exists() or name in self.entries:
            raise WebError(409, f"there is a model {name} already: save it under another name")
        self.check_room(path)  # before anything is written
        write(path)  # makes the folder, too
        self.add(Entry(name, kind, lambda: load(path), path=path))
        return path


def facts_of(model: Model) -> dict[str, Any]:
    """Return what a page shows of a model. ConfigError if nobody could wait for it."""
    config = model.config
    size = config.block_size
    products = size * (model.num_params + config.n_layer * config.n_embd * size)
    if products > MAX_PRODUCTS and not model.writes_text:  # nobody samples a text here
        raise ConfigError(
            f"the model is too large for the playground: an entry of block_size {size:,} takes "
            f"{products:,} products, and {MAX_PRODUCTS:,} are the most: use `kamon sample`"
        )
    loss = (model.training.get("held_out") or {}).get("loss", math.nan)
    return {
        "num_params": model.num_params,
        "n_layer": config.n_layer,
        "n_embd": config.n_embd,
        "n_head": config.n_head,
        "block_size": config.block_size,
        "vocab_size": config.vocab_size,
        "num_docs": len(model.docs),
        "num_steps": len(model.metrics),
        "held_out_loss": loss if math.isfinite(loss) else None,
        "prompts": knows_prompts(model.tokenizer),
        "text": model.writes_text,
        "seed": config.seed,
        "tokenizer": "bpe" if isinstance(model.tokenizer, BytePairTokenizer) else "char",
        "config": asdict(config),
        "source": file_name(model.training["corpus"]["source"]),
    }


def file_name(source: str) -> str:
    """Return the source of a list without the folders of whoever trained on it, and without
    characters that turn the text beside it around.

    >>> file_name("/home/me/private/brands.txt"), file_name("names")
    ('brands.txt', 'names')
    """
    name = re.split(r"[/\\]", source.rstrip("/\\"))[-1] or source
    return "".join(char for char in name[:MAX_NAME] if char.isprintable())
