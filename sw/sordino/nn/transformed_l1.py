"""Transformed L1: between L1 and the count of non-zero activations."""

from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import SparseActivation, register

__all__ = ["TransformedL1"]


@register("transformed-l1", "ReLU with a penalty between L1 and the count of non-zero activations")
class TransformedL1(SparseActivation):
    """`y = max(x, 0)`; `loss += strength * sum (a + 1) |y| / (a + |y|)`, over an image, mean over the batch.

    The derivative, `a (a + 1) / (a + |y|)^2`, is steep at 0 and vanishes for large activations, so that these are not
    shrunk. `a` towards 0 counts the non-zero activations, `a` towards infinity is L1.

    Parameters
    ----------
    strength : the lambda of the layer, not negative
    a : the shape, positive, in the units of the activations

    Source: Zhang and Xin, "Minimization of Transformed L1 Penalty", Mathematical Programming 2018; used on activations,
    together with weight pruning, in "Dual sparse training framework: inducing activation map sparsity via Transformed
    L1 regularization", arXiv 2405.19652. Pruning is not part of this layer.

    Raises `InputError` for options outside their range.
    """

    def __init__(self, strength: float = 1e-4, a: float = 1.0):
        super().__init__()
        if not strength >= 0:
            raise InputError(f"TransformedL1: strength must not be negative, not {strength!r}")
        if not a > 0:
            raise InputError(f"TransformedL1: a must be positive, not {a!r}")
        self.strength, self.a = strength, a

    def activate(self, x: Tensor) -> Tensor:
        return x.relu()

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        return self.strength * (self.a + 1) / len(y) * (y / (y + self.a)).sum()

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}, a={self.a:g}"
