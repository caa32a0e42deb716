"""Operations that move elements: where they stand changes, or which of them there are."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .kinds import Kind, axis, broadcast
from .operation import Operation, among, entered, require

__all__ = ["Concat", "Expand", "Flip", "Pad", "Permute", "Reshape", "Slice", "Take"]

MOST_ITEMS = 1 << 20
"""Indices of one operation."""


@entered
@dataclass(frozen=True)
class Reshape(Operation):
    """The same elements, in the same order, in another shape."""

    shape: tuple[int, ...]

    def infer(self, x):
        y = Kind(x.dtype, self.shape)
        require(y.size == x.size, f"{x.shape} does not hold the elements of {self.shape}")
        return (y,)

    def run(self, x):
        return (x.reshape(len(x), *self.shape),)

    def work(self, x, y):
        return 0


@entered
@dataclass(frozen=True)
class Permute(Operation):
    """Dimension i of the result is dimension `dims[i]` of the operand."""

    dims: tuple[int, ...]

    def infer(self, x):
        require(sorted(self.dims) == list(range(len(x.shape))), f"dims {self.dims} of {len(x.shape)} dimensions")
        return (Kind(x.dtype, tuple(x.shape[d] for d in self.dims)),)

    def run(self, x):
        return (x.transpose(0, *(d + 1 for d in self.dims)),)


@entered
@dataclass(frozen=True)
class Expand(Operation):
    """Dimensions of size 1 are repeated."""

    shape: tuple[int, ...]

    def infer(self, x):
        y = Kind(x.dtype, self.shape)
        require(broadcast((x, y)) == self.shape, f"{x.shape} does not expand to {self.shape}")
        return (y,)

    def run(self, x):
        return (np.broadcast_to(x, (len(x), *self.shape)),)


@entered
@dataclass(frozen=True)
class Slice(Operation):
    """Every `step`th position from `start` up to `stop`, without it, of one dimension."""

    dim: int
    start: int
    stop: int
    step: int

    def infer(self, x):
        at = axis(self.dim, len(x.shape)) - 1
        require(
            0 <= self.start < self.stop <= x.shape[at] and 0 < self.step <= x.shape[at],
            f"slice {self.start}:{self.stop}:{self.step} of {x.shape[at]}",
        )
        size = -(-(self.stop - self.start) // self.step)
        return (Kind(x.dtype, (*x.shape[:at], size, *x.shape[at + 1 :])),)

    def run(self, x):
        return (x[(slice(None),) * (self.dim + 1) + (slice(self.start, self.stop, self.step),)],)


@entered
@dataclass(frozen=True)
class Take(Operation):
    """The positions `indices` of one dimension, in this order."""

    dim: int
    indices: tuple[int, ...]

    def infer(self, x):
        at = axis(self.dim, len(x.shape)) - 1
        require(0 < len(self.indices) <= MOST_ITEMS, f"{len(self.indices)} indices, not 1 to {MOST_ITEMS}")
        require(0 <= min(self.indices) <= max(self.indices) < x.shape[at], f"indices beyond 0..{x.shape[at] - 1}")
        return (Kind(x.dtype, (*x.shape[:at], len(self.indices), *x.shape[at + 1 :])),)

    def run(self, x):
        return (x.take(np.array(self.indices, np.intp), self.dim + 1),)


@entered
@dataclass(frozen=True)
class Flip(Operation):
    """Some dimensions backwards."""

    dims: tuple[int, ...]

    def infer(self, x):
        require(len(set(self.dims)) == len(self.dims), f"dims {self.dims}")
        for d in self.dims:
            axis(d, len(x.shape))
        return (x,)

    def run(self, x):
        return (np.flip(x, tuple(d + 1 for d in self.dims)),)


@entered
@dataclass(frozen=True)
class Concat(Operation):
    """Operands one behind the other along a dimension."""

    dim: int

    most: ClassVar[int] = 4096

    def infer(self, *x):
        at = axis(self.dim, len(x[0].shape)) - 1
        others = {(k.dtype, k.shape[:at], k.shape[at + 1 :]) for k in x}
        require(len(others) == 1, f"{', '.join(map(str, x))} do not fit together along dimension {self.dim}")
        return (Kind(x[0].dtype, (*x[0].shape[:at], sum(k.shape[at] for k in x), *x[0].shape[at + 1 :])),)

    def run(self, *x):
        return (np.concatenate(x, self.dim + 1),)


_PADS = ("constant", "reflect", "edge", "wrap")


@entered
@dataclass(frozen=True)
class Pad(Operation):
    """Elements before and after each dimension: a constant, or those at the edge (NumPy's modes of these names)."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    mode: str
    value: float

    def infer(self, x):
        among(self.mode, _PADS)
        require(len(self.before) == len(self.after) == len(x.shape), f"{len(self.before)} paddings of {len(x.shape)} dimensions")
        require(min((*self.before, *self.after), default=0) >= 0, "a negative padding")
        require(x.dtype == "float32" or self.value == int(self.value), f"{self.value} in {x.dtype}")
        if self.mode != "constant":
            most = max((p - n for p, n in zip((*self.before, *self.after), x.shape * 2, strict=True)), default=-1)
            require(most < (0 if self.mode == "reflect" else 1), f"a padding larger than {self.mode} allows")
        return (Kind(x.dtype, tuple(b + n + a for b, n, a in zip(self.before, x.shape, self.after, strict=True))),)

    def run(self, x):
        widths = ((0, 0), *zip(self.before, self.after, strict=True))
        if self.mode == "constant":
            return (np.pad(x, widths, constant_values=self.value).astype(x.dtype, copy=False),)
        return (np.pad(x, widths, self.mode),)  # type: ignore[call-overload]
