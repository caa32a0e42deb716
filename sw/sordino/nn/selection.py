"""The k-th largest value of each row, as a ranking of activations needs it."""

import numpy as np
import torch
from torch import Tensor

from sordino_hw.compiled import compiled

from .compiled import compilable, in_parts

__all__ = ["kth_largest"]

SHORT = 512
"""Values of a row below which sorting part of it is faster than counting."""


@compiled(nogil=True)
def _select(rows, ranks, found):
    """The rank-th largest of each row, 0 where that is not positive; `rows` int32 [rows, n] are the bits of float32.

    Positive floats order like their bits. The leading 12 are counted, in four tables, so that equal neighbours need not
    wait for each other; then the values that agree in them are counted by 10 more bits, and 10 more. Nothing branches on a
    value.
    """
    n = rows.shape[1]
    counts = np.empty((4, 4096), np.int32)
    some = np.empty(n + 1, np.int32)
    for r in range(rows.shape[0]):
        row, rest = rows[r], ranks[r]
        counts[:] = 0
        for i in range(0, n - 3, 4):
            for j in range(4):
                counts[j, np.uint32(row[i + j]) >> 20] += 1
        for i in range(n - n % 4, n):
            counts[0, np.uint32(row[i]) >> 20] += 1
        top = 2047  # above are the negative values
        while top >= 0:
            here = counts[0, top] + counts[1, top] + counts[2, top] + counts[3, top]
            if here >= rest:
                break
            rest -= here
            top -= 1
        if top < 0:
            found[r] = 0
            continue
        m = 0
        for i in range(n):
            some[m] = row[i]
            m += (row[i] >> 20) == top
        for shift in (10, 0):
            counts[0] = 0
            for i in range(m):
                counts[0, (some[i] >> shift) & 1023] += 1
            top = 1023
            while counts[0, top] < rest:
                rest -= counts[0, top]
                top -= 1
            k = 0
            for i in range(m):
                value = some[i]
                some[k] = value
                k += ((value >> shift) & 1023) == top
            m = k
        found[r] = some[0]


@torch.no_grad()
def kth_largest(values: Tensor, rank: Tensor | int) -> Tensor:
    """The `rank`-th largest (1 is the largest) along the last dimension, which is kept with size 1; 0 where it is negative.

    values : float tensor [..., n]; rank : 1 to n, one for all, or int64 [...]
    """
    n, shape = values.shape[-1], values.shape[:-1]
    if compilable(values) and values.dtype == torch.float32 and n >= SHORT:
        rows = values.detach().contiguous().numpy().view(np.int32).reshape(-1, n)
        ranks = torch.as_tensor(rank).expand(shape).reshape(-1).contiguous().numpy()
        found = np.empty(len(rows), np.int32)
        in_parts(len(rows), rows.size, lambda a, b: _select(rows[a:b], ranks[a:b], found[a:b]))
        return torch.from_numpy(found.view(np.float32)).reshape(*shape, 1)
    if isinstance(rank, Tensor):
        return values.sort(-1, descending=True).values.gather(-1, rank[..., None] - 1).clamp_min(0)
    if compilable(values):  # several times faster than torch.kthvalue
        return torch.from_numpy(
            np.partition(values.detach().contiguous().numpy(), n - rank, -1)[..., n - rank : n - rank + 1]
        ).clamp_min(0)
    return values.kthvalue(n - rank + 1, -1, keepdim=True).values.clamp_min(0)
