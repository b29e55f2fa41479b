"""Several processes that train one model together, as torchrun starts them.

    torchrun --nproc-per-node 4 -m kamon train brands.txt --engine torch

All hold the same parameters, bit for bit. Each learns from its part of a step's documents; what
they found is added up in the order of the ranks, which is the order of one process that learns from
the same parts one after the other: so the sum has the same bits as its sum. (What frameworks do, a
ring, adds each piece in another order, beginning at another rank, and for more than two ranks
differs in the last bits. The traffic is the same.)

A process hears what others decide here alone. Every call but `part` is for all ranks at the same
place; one that is made by some alone would wait for ever.
"""

from __future__ import annotations

import atexit
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from kamon.errors import ConfigError, KamonError, TrainingError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store  # type: ignore[attr-defined]

RENDEZVOUS_SECONDS = 600.0  # until all ranks must be there
POLL_SECONDS = 0.02
T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process's number, from 0, and how many there are."""

    rank: int = 0
    size: int = 1

    def shard(self, whole: range) -> range:
        """This rank's share of a range: the shares follow each other, and may be empty."""
        begin, end = (len(whole) * r // self.size for r in (self.rank, self.rank + 1))
        return whole[begin:end]

    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """The numbers of every rank, as many of each, by rank."""
        if self.size == 1:
            return [list(numbers)]
        import torch
        from torch import distributed

        own = torch.tensor(numbers, dtype=torch.float64)
        found = [torch.empty_like(own) for _ in range(self.size)]
        with translate_errors():
            distributed.all_gather(found, own)
        return [numbers.tolist() for numbers in found]

    def broadcast_scalar(self, number: float) -> float:
        """What rank 0 says, for all: of whatever a clock decides."""
        return self.all_gather([number])[0][0]

    def all_reduce_max(self, number: float) -> float:
        """The largest number that a rank says."""
        return max(number for (number,) in self.all_gather([number]))

    def any_rank(self, flag: bool) -> bool:
        """Whether one rank at least says so: of whatever a signal decides."""
        return self.all_reduce_max(flag) > 0

    def broadcast_bytes(self, content: bytes, rank: int = 0) -> bytes:
        """The bytes of that rank, for all."""
        if self.size == 1:
            return content
        import torch
        from torch import distributed

        length = int(self.all_gather([len(content)])[rank][0])
        sent = bytearray(content if self.rank == rank else length)
        if sent:
            with translate_errors():
                distributed.broadcast(torch.frombuffer(sent, dtype=torch.uint8), rank)
        return bytes(sent)

    def assert_equal(self, text: str, what: str) -> None:
        """ConfigError on every rank where they do not say the same. what: such as "the list"."""
        if self.any_rank(self.broadcast_bytes(text.encode()) != text.encode()):
            raise ConfigError(
                f"{what} is not the same in all {self.size} processes: give each the same"
            )

    def raise_on_all(self, error: KamonError | None) -> None:
        """Raise on every rank what went wrong on one: its own, or that of the first that has one.

        So none waits for another that is at its end.
        """
        wrong = 0 if error is None else 2 if isinstance(error, ConfigError) else 1
        kinds = [kind for (kind,) in self.all_gather([wrong])]
        rank = next((rank for rank, kind in enumerate(kinds) if kind), None)
        if rank is None:
            return
        text = self.broadcast_bytes(str(error).encode(), rank).decode()
        if error is not None:
            raise error
        kind = ConfigError if kinds[rank] == 2 else TrainingError
        raise kind(f"process {rank} of {self.size}: {text}")

    def run_on_all(self, make: Callable[[], T]) -> T:
        """What `make` gives, where it works on every rank; otherwise the error, on each of them."""
        error = None
        try:
            made = make()
        except KamonError as found:
            error = found
        self.raise_on_all(error)
        return made

    def broadcast(self, numbers: Tensor) -> None:
        """Those of rank 0, in place."""
        if self.size > 1:
            from torch import distributed

            with translate_errors():
                distributed.broadcast(numbers, 0)

    def all_reduce_sum(self, numbers: Tensor) -> None:
        """The sum over all ranks, in their order, in place. The length is a multiple of `size`.

        Each rank is given its piece of everybody's numbers, adds these up, and gives all the sum.
        """
        if self.size == 1:
            return
        import torch
        from torch import distributed

        pieces = torch.empty_like(numbers)
        with translate_errors():
            distributed.all_to_all_single(pieces, numbers)
            total, *others = pieces.view(self.size, -1)
            for piece in others:
                total += piece
            distributed.all_gather(list(numbers.view(self.size, -1)), total)


@contextmanager
def translate_errors() -> Iterator[None]:
    """A sentence where another rank has ended, or cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise TrainingError(f"another process of this training has ended: {reason}") from None


def world_size() -> int:
    """How many processes were started together; 1 where nothing says so."""
    return env_int("WORLD_SIZE") if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def this_rank() -> int:
    """Known before the others are met: who is not 0 is silent and writes nothing."""
    return env_int("RANK") if world_size() > 1 else 0


def restarted() -> bool:
    """Whether torchrun starts this again, since a process died: here, or on another machine."""
    own = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return world_size() > 1 and get_group().any_rank(own)


def env_int(name: str) -> int:
    text = os.environ.get(name, "")
    if not (text.isdecimal() and text.isascii()):
        raise ConfigError(
            f"the environment has {name}={text!r} where a number belongs: start with torchrun"
        )
    return int(text)


@cache
def get_group() -> ProcessGroup:
    """The ranks that this process is one of; at its first call it waits for the others."""
    size = world_size()
    if size == 1:
        return ProcessGroup()
    rank = env_int("RANK")
    if rank >= size:
        raise ConfigError(f"the environment has RANK={rank} of WORLD_SIZE={size}: use torchrun")
    try:
        import torch
        from torch import distributed
    except ModuleNotFoundError:
        raise ConfigError(
            "several processes need torch: pip install 'kamon[torch]', or start one alone"
        ) from None
    backend = "cpu:gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(env_int("LOCAL_RANK") % torch.cuda.device_count())
        backend += ",cuda:nccl"
    try:
        store, _, _ = next(distributed.rendezvous("env://", rank, size))  # type: ignore[attr-defined]
        store = distributed.PrefixStore(rendezvous(store, rank, size), store)  # type: ignore[attr-defined]
        distributed.init_process_group(backend, store=store, rank=rank, world_size=size)
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"the {size} processes of this training do not find each other: {reason}; start them "
            "with torchrun"
        ) from None
    atexit.register(distributed.destroy_process_group)
    return ProcessGroup(rank, size)


def hard_exit(code: int) -> None:
    """End this process at once with this exit code, if it is one of several that have met.

    At an ordinary end torch's threads sometimes abort it (seen in one of ten), which torchrun takes
    for a failure, and ends the others. To be called where nothing is left to do.
    """
    if get_group.cache_info().currsize and get_group().size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def rendezvous(store: Store, rank: int, size: int) -> str:
    """A name for this meeting of all ranks, which rank 0 makes up and the others are told.

    Where torchrun starts processes again, the store still has what their forerunners left, and who
    took that for news would wait for the dead. So each calls under a name of its own, and is
    answered under that; rank 0 answers whoever calls until it has heard that all know.
    """
    own = f"kamon/{secrets.token_hex(8)}"
    if rank:
        store.set(f"kamon/caller/{rank}", own)
        store.wait([own])
        found = str(store.get(own).decode())
        store.set(f"{found}/{rank}", "knows")
        return found
    end = time.monotonic() + RENDEZVOUS_SECONDS
    waiting = set(range(1, size))
    while waiting:
        for other in list(waiting):
            if store.check([f"{own}/{other}"]):
                waiting.remove(other)
            elif store.check([f"kamon/caller/{other}"]):
                store.set(store.get(f"kamon/caller/{other}").decode(), own)
        if time.monotonic() > end:
            raise ValueError(f"process {min(waiting)} is missing")
        time.sleep(POLL_SECONDS)
    return own


def check_engine(engine: str) -> None:
    """ConfigError where several processes were started and this engine knows one alone."""
    if (size := world_size()) > 1 and engine != "torch":
        raise ConfigError(
            f"{size} processes were started together, and the {engine} engine trains in one: "
            "--engine torch"
        )
