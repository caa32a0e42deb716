"""The base of the host's operations, and the table of all of them."""

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from .kinds import Kind

__all__ = ["NUMBERS", "OPERATIONS", "Operation", "among", "entered", "require"]

NUMBERS = ("float32", "int32", "int64")
"""Dtypes with arithmetic."""


class Operation:
    """One operation; its fields are the attributes in a document."""

    name: ClassVar[str]
    least: ClassVar[int] = 1
    most: ClassVar[int] = 1
    """Operands."""

    def infer(self, *x: Kind) -> tuple[Kind, ...]:
        """The results' kinds. Raises `ValueError` for operands or attributes that break a rule."""
        raise NotImplementedError

    def run(self, *x: np.ndarray) -> tuple[np.ndarray, ...]:
        """The results of operands whose kinds were checked."""
        raise NotImplementedError

    def work(self, x: tuple[Kind, ...], y: tuple[Kind, ...]) -> int:
        """Element operations an image."""
        return sum(k.size for k in y)


OPERATIONS: dict[str, type[Operation]] = {}


def entered(cls: type[Operation]) -> type[Operation]:
    """Enters a class into the set, by its name in lower case."""
    cls.name = cls.__name__.lower()
    OPERATIONS[cls.name] = cls
    return cls


def require(ok: object, text: str) -> None:
    """Raises `ValueError` unless `ok`."""
    if not ok:
        raise ValueError(text)


def among(value: str, names: Iterable[str]) -> None:
    """Raises `ValueError` unless `value` is one of `names`."""
    require(value in names, f"{value!r} is not one of {', '.join(names)}")
