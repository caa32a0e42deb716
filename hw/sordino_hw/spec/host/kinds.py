"""What an array of a host step is: its dtype, and its shape without the batch. Every array has the batch first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["DTYPES", "MOST_DIMENSIONS", "MOST_ELEMENTS", "Kind", "axis", "broadcast"]

DTYPES: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "int32": np.int32,
    "int64": np.int64,
    "uint8": np.uint8,
    "bool": np.bool_,
}
MOST_DIMENSIONS = 16
"""Of a shape without its batch."""
MOST_ELEMENTS = 1 << 28
"""Of one value of one image."""


@dataclass(frozen=True)
class Kind:
    """An array [batch, *shape] of a dtype. Raises `ValueError` for one beyond the bounds."""

    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"there is no dtype {self.dtype!r} among {', '.join(DTYPES)}")
        if len(self.shape) > MOST_DIMENSIONS or min(self.shape, default=1) < 1 or self.size > MOST_ELEMENTS:
            raise ValueError(
                f"shape {self.shape}: at most {MOST_DIMENSIONS} dimensions, each at least 1, and {MOST_ELEMENTS:,} elements in all"
            )

    @property
    def size(self) -> int:
        """Elements of one image."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of one image."""
        return self.size * np.dtype(DTYPES[self.dtype]).itemsize

    def __str__(self) -> str:
        return f"{self.dtype} [{', '.join(('N', *map(str, self.shape)))}]"


def axis(dim: int, rank: int) -> int:
    """The axis of an array with its batch. Raises `ValueError` for a dimension that the shape lacks."""
    if not 0 <= dim < rank:
        raise ValueError(f"dimension {dim} of {rank}")
    return dim + 1


def broadcast(kinds: Sequence[Kind]) -> tuple[int, ...]:
    """The shape of an elementwise result: dimensions are equal or 1. Raises `ValueError`."""
    ranks = {len(k.shape) for k in kinds}
    sizes = [set(column) - {1} for column in zip(*(k.shape for k in kinds), strict=False)]
    if len(ranks) > 1 or any(len(s) > 1 for s in sizes):
        raise ValueError(f"the shapes {', '.join(str(k.shape) for k in kinds)} do not broadcast")
    return tuple(s.pop() if s else 1 for s in sizes)
