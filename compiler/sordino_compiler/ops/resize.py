"""Nearest upsampling: values are only moved."""

from dataclasses import dataclass
from typing import ClassVar

from .lanewise import moved
from .layer import Layer

__all__ = ["UpsampleLayer"]


@dataclass
class UpsampleLayer(Layer):
    """Every pixel repeated over rows and columns: an address mode of the array."""

    repeat: tuple[int, int]

    named_by_module: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return moved(self, low, "upsample", repeat=self.repeat, out=value, inputs=inputs, source=source)
