"""Plain ReLU: the baseline that every method is shown beside."""

from torch import Tensor

from .base import SparseActivation, register

__all__ = ["PlainReLU"]


@register("relu", "plain ReLU, no penalty: the baseline")
class PlainReLU(SparseActivation):
    """`y = max(x, 0)`, no penalty."""

    def activate(self, x: Tensor) -> Tensor:
        return x.relu()
