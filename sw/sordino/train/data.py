"""The data of a training: tensors or data sets, shuffled batches, and how they are divided among processes."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset

from ..nn.base import device_of
from .parallel import Processes

__all__ = ["Batches", "Data", "Transform", "accuracy", "dataset", "images", "to_device"]

Data = tuple[Tensor, Tensor] | Dataset
Transform = Callable[[Tensor, torch.Generator], Tensor]


def dataset(data: Data) -> Any:
    """A `Dataset` with a length."""
    return data if isinstance(data, Dataset) else TensorDataset(*data)


def images(data: Data) -> Tensor:
    """All inputs, [N, ...]."""
    found = dataset(data)
    return found.tensors[0] if isinstance(found, TensorDataset) else torch.stack([found[i][0] for i in range(len(found))])


def to_device(values: Any, device: torch.device) -> Any:
    """The same structure, its tensors on `device`."""
    return tree_map_only(Tensor, lambda t: t.to(device), values)


@torch.no_grad()
def accuracy(model: nn.Module, data: Data, batch_size: int = 256) -> float:
    """Top-1 accuracy, 0 to 1, of a classifier with logits (N, classes) on (inputs, labels)."""
    hits = total = 0
    training, device = model.training, device_of(model)
    model.eval()
    for x, y in DataLoader(dataset(data), batch_size):
        hits += int((model(x.to(device)).argmax(1) == y.to(device)).sum())
        total += len(y)
    model.train(training)
    return hits / total


class _Shares(BatchSampler):
    """Of each batch the part that falls to one process; where there is none, the first image all the same."""

    def __init__(self, batches: BatchSampler, processes: Processes):
        self.batches, self.processes = batches, processes

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.batches:
            begin, end = self.processes.share(len(batch))
            yield batch[begin:end] or batch[:1]

    def __len__(self) -> int:
        return len(self.batches)


class Batches:
    """Shuffled batches (x, y, part, whole): this process's share of a batch, the number of its images, and of all.

    The order follows `generator` alone, so that several processes with generators of one seed share out the batches that
    one process would make. A share without images (part 0) holds one image: every process has to take every step.
    """

    def __init__(self, data: Data, batch_size: int, generator: torch.Generator, processes: Processes):
        found, self.generator = dataset(data), generator
        self.count, self.batch_size, self.processes = len(found), batch_size, processes
        whole = BatchSampler(RandomSampler(found, generator=generator), batch_size, drop_last=False)
        self.loader = DataLoader(found, batch_sampler=_Shares(whole, processes), generator=generator)

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, Any, int, int]]:
        for i, (x, y) in enumerate(self.loader):
            whole = min(self.batch_size, self.count - i * self.batch_size)
            begin, end = self.processes.share(whole)
            yield x, y, end - begin, whole
