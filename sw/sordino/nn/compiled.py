"""When and how compiled loops take the place of chains of tensor operations: one pass over the memory in the place of ten."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["compilable", "in_parts"]

T = TypeVar("T")

LARGE = 1 << 20
"""Values from which starting threads pays."""


def compilable(x: Tensor) -> bool:
    """Whether compiled loops can run on `x`: on the CPU in single or double precision, and not while torch traces."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling()


def in_parts(count: int, values: int, work: Callable[[int, int], T]) -> list[T]:
    """`work(begin, end)` over parts of `range(count)`, on as many threads as torch uses where there is much to do.

    `values` is the size of all of it; `work` has to let go of the interpreter's lock to gain from this.
    """
    threads = min(torch.get_num_threads(), count) if values >= LARGE else 1
    if threads < 2:
        return [work(0, count)]
    edges = [count * i // threads for i in range(threads + 1)]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, edges[:-1], edges[1:]))
