"""Statistics of a whole batch, where several processes have a share of it each."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch import distributed as dist

__all__ = ["share_of_batch", "whole_mean"]

_images: ContextVar[int | None] = ContextVar("images", default=None)


@contextmanager
def share_of_batch(images: int) -> Iterator[None]:
    """Within it, this process's batch is its share, of so many images, of a batch of all processes of the default group."""
    token = _images.set(images)
    try:
        yield
    finally:
        _images.reset(token)


@torch.no_grad()
def whole_mean(x: Tensor) -> Tensor:
    """The mean of x (N, ...) over the whole batch: a scalar of its dtype, equal in all processes."""
    images = _images.get()
    if images is None:
        return x.mean()
    sums = torch.stack([x.mean().double() * images, torch.tensor(images, dtype=torch.float64, device=x.device)])
    dist.all_reduce(sums)
    return (sums[0] / sums[1]).to(x.dtype)
