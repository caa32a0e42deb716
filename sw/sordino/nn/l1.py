"""L1: the penalty on all activations."""

from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import SparseActivation, register

__all__ = ["L1"]


@register("l1", "ReLU with an L1 penalty on every activation")
class L1(SparseActivation):
    """`y = max(x, 0)`; `loss += strength * sum |y|`, the sum over an image's activations, mean over the batch.

    Source: Georgiadis, "Accelerating Convolutional Neural Networks via Activation Map Compression", CVPR 2019; Kurtz et
    al., ICML 2020.

    Raises `InputError` for a negative strength.
    """

    def __init__(self, strength: float = 1e-4):
        super().__init__()
        if not strength >= 0:
            raise InputError(f"L1: strength must not be negative, not {strength!r}")
        self.strength = strength

    def activate(self, x: Tensor) -> Tensor:
        return x.relu()

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        return self.strength * y.abs().sum() / len(y)

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}"
