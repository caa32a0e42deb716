"""Operations on every element by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .kinds import DTYPES, Kind, broadcast
from .operation import NUMBERS, Operation, among, entered, require

__all__ = ["Cast", "Choose", "Combine", "Map"]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


_MAPS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "abs": np.abs,
    "neg": np.negative,
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sqrt": np.sqrt,
    "reciprocal": np.reciprocal,
    "square": np.square,
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.logaddexp(np.float32(0), x),
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sign": np.sign,
    "sin": np.sin,
    "cos": np.cos,
    "atan": np.arctan,
    "not": np.logical_not,
}


@entered
@dataclass(frozen=True)
class Map(Operation):
    """A function of every element."""

    function: str

    def infer(self, x):
        among(self.function, _MAPS)
        wanted = ("bool",) if self.function == "not" else NUMBERS if self.function in ("abs", "neg", "sign") else ("float32",)
        require(x.dtype in wanted, f"{self.function} of {x.dtype}")
        return (x,)

    def run(self, x):
        return (_MAPS[self.function](x),)


_ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "floor_divide": np.floor_divide,
    "remainder": np.remainder,
    "pow": np.power,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "atan2": np.arctan2,
}
_COMPARISONS: dict[str, Callable[..., np.ndarray]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
_LOGIC: dict[str, Callable[..., np.ndarray]] = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}


@entered
@dataclass(frozen=True)
class Combine(Operation):
    """A function of the elements of two operands of one dtype; dimensions of size 1 are repeated."""

    function: str

    least: ClassVar[int] = 2
    most: ClassVar[int] = 2

    def infer(self, x, y):
        among(self.function, (*_ARITHMETIC, *_COMPARISONS, *_LOGIC))
        if self.function in _LOGIC:
            wanted: tuple[str, ...] = ("bool",)
        elif self.function in ("div", "pow", "atan2"):
            wanted = ("float32",)
        else:
            wanted = NUMBERS if self.function in _ARITHMETIC else tuple(DTYPES)
        require(x.dtype == y.dtype and x.dtype in wanted, f"{self.function} of {x.dtype} and {y.dtype}")
        return (Kind("bool" if self.function in _COMPARISONS else x.dtype, broadcast((x, y))),)

    def run(self, x, y):
        return ((_ARITHMETIC | _COMPARISONS | _LOGIC)[self.function](x, y),)


@entered
@dataclass(frozen=True)
class Choose(Operation):
    """The second operand where the first is true, else the third."""

    least: ClassVar[int] = 3
    most: ClassVar[int] = 3

    def infer(self, condition, x, y):
        require(condition.dtype == "bool" and x.dtype == y.dtype, f"choose by {condition.dtype} of {x.dtype} and {y.dtype}")
        return (Kind(x.dtype, broadcast((condition, x, y))),)

    def run(self, condition, x, y):
        return (np.where(condition, x, y),)


@entered
@dataclass(frozen=True)
class Cast(Operation):
    """Another dtype; floats to integers are truncated, as in C."""

    dtype: str

    def infer(self, x):
        return (Kind(self.dtype, x.shape),)

    def run(self, x):
        return (x.astype(DTYPES[self.dtype]),)
