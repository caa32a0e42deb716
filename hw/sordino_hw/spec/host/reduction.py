"""Operations over whole dimensions: sums, the largest elements and where they are, softmax, products of matrices."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .kinds import Kind, axis, broadcast
from .operation import NUMBERS, Operation, among, entered, require

__all__ = ["Cumulate", "Gather", "Matmul", "Position", "Reduce", "Softmax", "Top"]

_REDUCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "sum": np.sum,
    "mean": np.mean,
    "max": np.max,
    "min": np.min,
    "prod": np.prod,
    "any": np.any,
    "all": np.all,
}


@entered
@dataclass(frozen=True)
class Reduce(Operation):
    """One number for all positions of some dimensions, which stay with size 1 if `keep`, else go."""

    function: str
    dims: tuple[int, ...]
    keep: bool

    def infer(self, x):
        among(self.function, _REDUCTIONS)
        wanted = ("bool",) if self.function in ("any", "all") else ("float32",) if self.function == "mean" else NUMBERS
        require(x.dtype in wanted, f"{self.function} of {x.dtype}")
        require(self.dims and len(set(self.dims)) == len(self.dims), f"dims {self.dims}")
        for d in self.dims:
            axis(d, len(x.shape))
        sizes = ((1 if i in self.dims else n, i in self.dims) for i, n in enumerate(x.shape))
        return (Kind(x.dtype, tuple(n for n, gone in sizes if self.keep or not gone)),)

    def run(self, x):
        y = _REDUCTIONS[self.function](x, tuple(d + 1 for d in self.dims), keepdims=self.keep)
        return (y.astype(x.dtype, copy=False),)

    def work(self, x, y):
        return x[0].size


@entered
@dataclass(frozen=True)
class Position(Operation):
    """The first position of the largest (or smallest) element along a dimension, int64."""

    function: str
    dim: int
    keep: bool

    def infer(self, x):
        among(self.function, ("max", "min"))
        at = axis(self.dim, len(x.shape)) - 1
        return (Kind("int64", (*x.shape[:at], *((1,) if self.keep else ()), *x.shape[at + 1 :])),)

    def run(self, x):
        y = (np.argmax if self.function == "max" else np.argmin)(x, self.dim + 1, keepdims=self.keep)
        return (y.astype(np.int64, copy=False),)

    def work(self, x, y):
        return x[0].size


@entered
@dataclass(frozen=True)
class Softmax(Operation):
    """exp(x) / sum(exp(x)) along a dimension, or its logarithm; the largest element is subtracted before."""

    dim: int
    log: bool

    def infer(self, x):
        require(x.dtype == "float32", f"softmax of {x.dtype}")
        axis(self.dim, len(x.shape))
        return (x,)

    def run(self, x):
        d = self.dim + 1
        y = x - x.max(d, keepdims=True)
        if self.log:
            return (y - np.log(np.exp(y).sum(d, keepdims=True)),)
        y = np.exp(y)
        return (y / y.sum(d, keepdims=True),)

    def work(self, x, y):
        return 4 * x[0].size


@entered
@dataclass(frozen=True)
class Top(Operation):
    """The k largest (or smallest) elements along a dimension in order, and their positions, int64; of equal ones the first."""

    dim: int
    k: int
    largest: bool

    def infer(self, x):
        require(x.dtype in NUMBERS, f"top of {x.dtype}")
        at = axis(self.dim, len(x.shape)) - 1
        require(0 < self.k <= x.shape[at], f"k={self.k} of {x.shape[at]}")
        shape = (*x.shape[:at], self.k, *x.shape[at + 1 :])
        return Kind(x.dtype, shape), Kind("int64", shape)

    def run(self, x):
        d = self.dim + 1
        order = np.argsort(-x if self.largest else x, d, kind="stable")
        order = order[(slice(None),) * d + (slice(self.k),)]
        return np.take_along_axis(x, order, d), order.astype(np.int64, copy=False)

    def work(self, x, y):
        return x[0].size * max(1, x[0].shape[self.dim].bit_length())


@entered
@dataclass(frozen=True)
class Gather(Operation):
    """Of the first operand, along a dimension, the positions that the second one names; positions beyond the end are the last."""

    dim: int

    least: ClassVar[int] = 2
    most: ClassVar[int] = 2

    def infer(self, x, index):
        at = axis(self.dim, len(x.shape)) - 1
        require(index.dtype == "int64" and len(index.shape) == len(x.shape), f"gather {index} from {x}")
        rest = [(n, m) for i, (n, m) in enumerate(zip(x.shape, index.shape, strict=True)) if i != at]
        require(all(m == n for n, m in rest), f"gather {index.shape} from {x.shape}")
        return (Kind(x.dtype, index.shape),)

    def run(self, x, index):
        return (np.take_along_axis(x, index.clip(0, x.shape[self.dim + 1] - 1), self.dim + 1),)


@entered
@dataclass(frozen=True)
class Cumulate(Operation):
    """Running sums along a dimension."""

    dim: int

    def infer(self, x):
        require(x.dtype in NUMBERS, f"sums of {x.dtype}")
        axis(self.dim, len(x.shape))
        return (x,)

    def run(self, x):
        return (np.cumsum(x, self.dim + 1, dtype=x.dtype),)


@entered
@dataclass(frozen=True)
class Matmul(Operation):
    """Products of matrices in the last two dimensions; the others broadcast."""

    least: ClassVar[int] = 2
    most: ClassVar[int] = 2

    def infer(self, x, y):
        require(x.dtype == y.dtype == "float32", f"a product of {x.dtype} and {y.dtype}")
        require(len(x.shape) == len(y.shape) >= 2 and x.shape[-1] == y.shape[-2], f"a product of {x.shape} and {y.shape}")
        outer = broadcast((Kind("float32", x.shape[:-2]), Kind("float32", y.shape[:-2])))
        return (Kind("float32", (*outer, x.shape[-2], y.shape[-1])),)

    def run(self, x, y):
        return (np.matmul(x, y),)

    def work(self, x, y):
        return y[0].size * x[0].shape[-1]
