"""Several processes that train one model: what `torchrun` started, and how they agree."""

import atexit
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn

from sordino_hw.spec.errors import SordinoError

from ..nn.base import device_of

__all__ = ["Processes", "is_main", "join"]

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""What `torchrun` and its like set."""


@dataclass(frozen=True)
class Processes:
    """The processes that train together; by default one, for which every method is a formality."""

    rank: int = 0
    count: int = 1

    @property
    def main(self) -> bool:
        return self.rank == 0

    def share(self, whole: int) -> tuple[int, int]:
        """First and last (excluded) of `whole` things that fall to this process; shares differ by one at most."""
        size, more = divmod(whole, self.count)
        begin = self.rank * size + min(self.rank, more)
        return begin, begin + size + (self.rank < more)

    def seed(self, seed: int) -> int:
        """`seed` for the first process, and another for each of the rest."""
        return seed + 1_000_003 * self.rank

    def once(self, work: Callable[[], T]) -> T:
        """What `work` returns, or the `SordinoError` it raises, in the first process, which alone does it: in all."""
        if self.count == 1:
            return work()
        told: list[Any] = [None, None]
        if self.main:
            try:
                told[0] = work()
            except SordinoError as error:
                told[1] = error
        dist.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def gather(self, value: T) -> list[T]:
        """Everybody's `value`, in the order of their ranks."""
        found: list[Any] = [value]
        if self.count > 1:
            found *= self.count
            dist.all_gather_object(found, value)
        return found

    def sum(self, values: list[float], device: torch.device) -> list[float]:
        """Sums over the processes."""
        if self.count == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    @torch.no_grad()
    def agree(self, model: nn.Module) -> None:
        """Sets each buffer (running statistics, thresholds that follow the data) to its mean over the processes; those of
        integers to the first process's."""
        for buffer in model.buffers() if self.count > 1 else ():
            value = buffer.detach().clone().contiguous()
            if value.is_floating_point():
                dist.all_reduce(value)
                value /= self.count
            else:
                dist.broadcast(value, 0)
            buffer.copy_(value)


def is_main() -> bool:
    """Whether this process prints and writes files: the only one, or that of rank 0."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank() == 0
    return int(os.environ.get("RANK", "0")) == 0 or not _launched()


def join(model: nn.Module) -> Processes:
    """The process group, which is initialised if this process was started by `torchrun`; or this process alone.

    A model on a GPU is moved, in place, to the GPU of `LOCAL_RANK` where each process has one. The backend is then NCCL
    for the GPUs, else gloo.
    """
    if not dist.is_available() or not (dist.is_initialized() or _launched()):
        return Processes()
    if not dist.is_initialized():
        local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ["WORLD_SIZE"]))
        several = device_of(model).type == "cuda" and torch.cuda.device_count() >= local
        if several:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            model.to("cuda")
        dist.init_process_group("cpu:gloo,cuda:nccl" if several else "gloo")
        atexit.register(_leave)
    return Processes(dist.get_rank(), dist.get_world_size())


def _launched() -> bool:
    return all(name in os.environ for name in VARIABLES) and int(os.environ["WORLD_SIZE"]) > 1


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
