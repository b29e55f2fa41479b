"""The models that requests can name, by id. Requests contain no paths."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, TypeVar

from kamon.errors import ConfigError, KamonError, StoreError
from kamon.model import Model, load
from kamon.storage import model_dir
from kamon.storage.records import TrainingRecord
from kamon.tokenizers.bpe import BytePairTokenizer
from kamon.tokenizers.prompts import knows_prompts
from kamon.web.errors import WebError, not_found, one_line
from kamon.web.limits import Limits
from kamon.web.services.workers import Stop

T = TypeVar("T")
Kind = Literal["opened", "trained", "tuned"]
SHOWN_SETTINGS = ("n_layer", "n_embd", "n_head", "block_size", "vocab_size", "seed")
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_PRODUCTS = 5_000_000_000  # for one entry, because Kamon can only stop between entries
MAX_NAME = 200  # characters of the name of a list
RESERVED = re.compile(r"con|prn|aux|nul|(com|lpt)[0-9]")  # file names that Windows does not allow


@dataclass(frozen=True)
class Blend:
    """p = weight · GPT + (1 − weight) · n-gram of this order."""

    weight: float
    order: int


@dataclass
class Entry:
    """A model that one thread at a time uses.

    Attributes:
        kind: "opened" from a directory, "trained" or "tuned" by this server.
        path: its directory, if it is saved.
        parent: id of the training that had this model after `step`.
        opened: the model while it is in memory.
        computed: results that `remember` keeps.
        facts: `facts_of` the model, if known.
    """

    id: str
    kind: Kind
    open: Callable[[], Model]
    path: Path | None = None
    parent: str | None = None
    step: int | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    opened: Model | None = None
    computed: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] | None = None

    @contextmanager
    def use(self, stop: Stop | None = None) -> Iterator[Model]:
        """Lock the model. stop: of work that gives other requests a turn meanwhile."""
        with stop.holding(self.lock) if stop else self.lock:
            if self.opened is None:
                self.opened = self.open()
            if self.facts is None:
                self.facts = facts_of(self.opened)
            yield self.opened

    def about(self) -> dict[str, Any]:
        """Return `facts_of` the model. This does not wait for the lock if they are known."""
        if self.facts is None:
            with self.use():
                pass
        assert self.facts is not None
        return self.facts

    def remember(self, name: str, find: Callable[[], T]) -> T:
        """Return the result of `find`, computed only once. The caller holds the model."""
        if name not in self.computed:
            self.computed[name] = find()
        result: T = self.computed[name]
        return result


class ModelRegistry:
    """All models. folder: each model is saved there under its id."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self.limits = limits
        self.entries: dict[str, Entry] = {}
        self.lock = threading.Lock()

    def get(self, id: str) -> Entry:
        """Return the entry with this id, or raise WebError 404."""
        entry = self.entries.get(id)
        if entry is None:
            raise not_found(f"model {id!r}")
        return entry

    def steps(self, id: str) -> list[int]:
        """Return the steps of a training that have models here."""
        entries = list(self.entries.values())
        return sorted(entry.step or 0 for entry in entries if entry.parent == id)

    def add(self, entry: Entry) -> None:
        """Add an entry, or replace the entry with the same id."""
        with self.lock:
            self.entries[entry.id] = entry

    def check_room(self, path: Path) -> None:
        """Raise StoreError if too many models are saved. Other models do not count, so that a
        training or session does not fail at its end."""
        with self.lock:
            size = sum(entry.path is not None for entry in self.entries.values())
        if size >= self.limits.models:
            raise StoreError(f"no room for {path}: the limit is {size} saved models")

    def add_directory(self, path: Path, id: str | None = None) -> str:
        """Add a model directory under its name or a similar id, and return the id.

        StoreError if the directory has no model.
        """
        for entry in self.entries.values():
            if entry.path and entry.path.resolve() == path.resolve():
                self.add(self.entries.pop(entry.id))
                return entry.id
        model = load(path)
        facts = facts_of(model)
        id = id or self.free_id(re.sub(r"[^a-z0-9_-]+", "-", path.name.lower()).strip("-_")[:40])
        self.add(Entry(id, "opened", lambda: model, path=path, opened=model, facts=facts))
        return id

    def add_saved(self) -> list[str]:
        """Add all models of the folder. Return the errors of those that cannot be opened."""
        problems = []
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if NAME.fullmatch(path.name) and path.is_dir() and model_dir.is_model(path):
                    try:
                        self.check_room(path)
                        self.add_directory(path, path.name)
                    except KamonError as error:
                        problems.append(one_line(error))
        return problems

    def free_id(self, wanted: str) -> str:
        wanted = wanted or "model"
        ids = chain([wanted], (f"{wanted[:36]}-{number}" for number in count(2)))
        return next(id for id in ids if id not in self.entries)

    def forget(self, id: str) -> None:
        """Forget a model and those of its steps, but keep its directory."""
        with self.lock:
            self.get(id)
            for entry in [e for e in self.entries.values() if id in (e.id, e.parent)]:
                del self.entries[entry.id]

    def save(self, id: str, name: str, stop: Stop | None = None) -> Entry:
        """Save a model in the folder as a new entry. WebError 409 if the name is in use."""
        entry = self.get(id)
        with entry.use(stop) as model:
            if not model.metrics:
                raise WebError(409, "this model has no checkpoint yet, so there is nothing to save")
            return self.write(name, entry.kind, model.save)

    def write(self, name: str, kind: Kind, write: Callable[[Path], object]) -> Entry:
        """Add the model that `write` writes to a path in the folder. Errors as in `save`."""
        if not NAME.fullmatch(name):
            raise WebError(
                422,
                "the name is not valid",
                "use a to z, 0 to 9, - and _, at most 40, starting with a letter or digit",
            )
        if RESERVED.fullmatch(name):
            raise WebError(422, f"Windows reserves the name {name}", "choose another name")
        path = self.folder / name
        if path.exists() or name in self.entries:
            raise WebError(409, f"a model named {name} already exists", "choose another name")
        self.check_room(path)  # before anything is written
        write(path)  # also creates the folder
        entry = Entry(name, kind, lambda: load(path), path=path)
        self.add(entry)
        return entry


def facts_of(model: Model) -> dict[str, Any]:
    """Return the facts that the page shows. ConfigError if the model is too large to sample."""
    config = model.config
    size = config.block_size
    products = size * (model.num_params + config.n_layer * config.n_embd * size)
    if products > MAX_PRODUCTS and not model.writes_text:  # the server does not sample texts
        raise ConfigError(
            f"the model is too large for the playground: an entry of block_size {size:,} takes "
            f"{products:,} multiplications, and the limit is {MAX_PRODUCTS:,}",
            "use `kamon sample`",
        )
    return {
        "num_params": model.num_params,
        **{name: getattr(config, name) for name in SHOWN_SETTINGS},
        "num_docs": len(model.docs),
        "num_steps": len(model.metrics),
        **losses_of(model.training),
        "prompts": knows_prompts(model.tokenizer),
        "given": model.given_values,
        "text": model.writes_text,
        "tokenizer": "bpe" if isinstance(model.tokenizer, BytePairTokenizer) else "char",
        "config": asdict(config),
        "source": file_name(model.training.corpus.source),
    }


def losses_of(training: TrainingRecord) -> dict[str, Any]:
    """Return the validation losses (for a blend, also those of its parts) and the blend.

    num_folds: for a list without a validation set, the number of cross-validation folds.
    """
    blend, folds = training.blend, training.cross_validation
    measured = training.held_out or folds
    losses = {
        "validation_loss": measured.loss if measured else None,
        "gpt_loss": measured.gpt_loss if measured else None,
        "ngram_loss": measured.ngram_loss if measured else None,
    }
    return {
        **{k: x if x is not None and math.isfinite(x) else None for k, x in losses.items()},
        "blend": Blend(blend.weight, blend.order) if blend else None,
        "num_folds": folds.num_folds if folds and measured is folds else None,
    }


def file_name(source: str) -> str:
    """Return the file name of a list's source. It leaves out folders, which may be private, and
    control characters, which could reverse the text next to it.

    >>> file_name("/home/me/private/brands.txt"), file_name("names")
    ('brands.txt', 'names')
    """
    name = re.split(r"[/\\]", source.rstrip("/\\"))[-1] or source
    return "".join(char for char in name[:MAX_NAME] if char.isprintable())
