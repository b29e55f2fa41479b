"""Several processes that train one model together. torchrun starts them:

    torchrun --nproc-per-node 4 -m kamon train brands.txt --engine torch

All processes have the same parameters, bit for bit. Each learns from its share of a step's
documents. The gradients are added in the order of the ranks. One process that learns from the same
shares one after the other adds them in this order too, so both sums have the same bits. The ring
of other frameworks adds each piece in another order. With more than two ranks, its sums differ in
the last bits. The traffic is the same.

Processes communicate only through this module. All ranks must call each method of ProcessGroup
except `shard` at the same place. If only some ranks do so, they wait forever.
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

RENDEZVOUS_SECONDS = 600.0  # until all ranks must be connected
POLL_SECONDS = 0.02
T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """The rank of this process, starting at 0, and the number of processes."""

    rank: int = 0
    size: int = 1

    def shard(self, whole: range) -> range:
        """Return this rank's share of a range. Shares are in rank order and may be empty."""
        begin, end = (len(whole) * r // self.size for r in (self.rank, self.rank + 1))
        return whole[begin:end]

    def all_gather(self, numbers: Sequence[float]) -> list[list[float]]:
        """Return the numbers of all ranks in rank order. Each rank must give as many numbers."""
        if self.size == 1:
            return [list(numbers)]
        import torch
        from torch import distributed

        local = torch.tensor(numbers, dtype=torch.float64)
        gathered = [torch.empty_like(local) for _ in range(self.size)]
        with translate_errors():
            distributed.all_gather(gathered, local)
        return [numbers.tolist() for numbers in gathered]

    def broadcast_scalar(self, number: float) -> float:
        """Return the number of rank 0 on all ranks, for example for decisions by a clock."""
        return self.all_gather([number])[0][0]

    def all_reduce_max(self, number: float) -> float:
        """Return the largest number of any rank."""
        return max(number for (number,) in self.all_gather([number]))

    def any_rank(self, flag: bool) -> bool:
        """Return whether the flag is true on any rank, for example for decisions by a signal."""
        return self.all_reduce_max(flag) > 0

    def broadcast_bytes(self, content: bytes, rank: int = 0) -> bytes:
        """Return the bytes of that rank on all ranks."""
        if self.size == 1:
            return content
        import torch

        length = int(self.all_gather([len(content)])[rank][0])
        sent = bytearray(content if self.rank == rank else length)
        if sent:
            self.broadcast(torch.frombuffer(sent, dtype=torch.uint8), rank)
        return bytes(sent)

    def assert_equal(self, text: str, what: str) -> None:
        """Raise ConfigError on every rank if the texts differ. what: such as "the list"."""
        if self.any_rank(self.broadcast_bytes(text.encode()) != text.encode()):
            raise ConfigError(
                f"{what} differs between the {self.size} processes", "give each the same"
            )

    def raise_on_all(self, error: KamonError | None) -> None:
        """Raise an error on every rank if any rank has one, so that no rank waits for an ended one.

        A rank raises its own error, or else that of the first rank that has one.
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
        """Return `make()` if it works on every rank. Otherwise raise an error on all ranks."""
        error = None
        try:
            result = make()
        except KamonError as own_error:
            error = own_error
        self.raise_on_all(error)
        return result

    def broadcast(self, numbers: Tensor, rank: int = 0) -> None:
        """Copy the numbers of that rank to all ranks, in place."""
        if self.size > 1:
            from torch import distributed

            with translate_errors():
                distributed.broadcast(numbers, rank)

    def all_reduce_sum(self, numbers: Tensor) -> None:
        """Replace numbers by their sum over all ranks, in rank order. `size` divides their length.

        Each rank gets one piece of the numbers of all ranks, adds them and sends the sum to all.
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
    """Raise TrainingError if another rank has ended or cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise TrainingError(f"another process of this training has ended: {reason}") from None


def world_size() -> int:
    """Return how many processes were started together, by default 1."""
    return env_int("WORLD_SIZE") if {"RANK", "WORLD_SIZE"} <= os.environ.keys() else 1


def this_rank() -> int:
    """Return the rank without waiting for the others. Ranks above 0 print and write nothing."""
    return env_int("RANK") if world_size() > 1 else 0


def restarted() -> bool:
    """Return whether torchrun has restarted the processes after one of them died."""
    own = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    return world_size() > 1 and get_group().any_rank(own)


def env_int(name: str) -> int:
    text = os.environ.get(name, "")
    if not (text.isdecimal() and text.isascii()):
        raise ConfigError(
            f"the environment variable {name} is {text!r}, not a number", "start with torchrun"
        )
    return int(text)


@cache
def get_group() -> ProcessGroup:
    """Return the group of this process. The first call waits for the other processes."""
    size = world_size()
    if size == 1:
        return ProcessGroup()
    rank = env_int("RANK")
    if rank >= size:
        raise ConfigError(f"RANK={rank} does not fit WORLD_SIZE={size}", "start with torchrun")
    try:
        import torch
        from torch import distributed
    except ModuleNotFoundError:
        raise ConfigError(
            "training in several processes needs torch",
            "pip install 'kamon[torch]', or start one process",
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
            f"the {size} processes of this training cannot connect: {reason}",
            "start them with torchrun",
        ) from None
    atexit.register(distributed.destroy_process_group)
    return ProcessGroup(rank, size)


def hard_exit(code: int) -> None:
    """End this process at once with this exit code, if it is one of several connected ones.

    At a normal end, torch's threads abort about one process in ten. torchrun would then end the
    others. Call this when there is nothing left to do.
    """
    if get_group.cache_info().currsize and get_group().size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def rendezvous(store: Store, rank: int, size: int) -> str:
    """Return a name for this group of processes. Rank 0 chooses it.

    If torchrun has restarted the processes, the store still has values of the earlier ones. A rank
    that used them would wait forever. So each rank asks under a new name and gets the answer under
    this name. Rank 0 answers until all ranks have confirmed.
    """
    name = f"kamon/{secrets.token_hex(8)}"
    if rank:
        store.set(f"kamon/caller/{rank}", name)
        store.wait([name])
        chosen = str(store.get(name).decode())
        store.set(f"{chosen}/{rank}", "knows")
        return chosen
    end = time.monotonic() + RENDEZVOUS_SECONDS
    waiting = set(range(1, size))
    while waiting:
        for other in list(waiting):
            if store.check([f"{name}/{other}"]):
                waiting.remove(other)
            elif store.check([f"kamon/caller/{other}"]):
                store.set(store.get(f"kamon/caller/{other}").decode(), name)
        if time.monotonic() > end:
            raise ValueError(f"process {min(waiting)} is missing")
        time.sleep(POLL_SECONDS)
    return name


def check_engine(engine: str) -> None:
    """Raise ConfigError if several processes were started and this engine allows only one."""
    if (size := world_size()) > 1 and engine != "torch":
        raise ConfigError(
            f"the {engine} engine trains in one process, and {size} were started",
            "use --engine torch",
        )
