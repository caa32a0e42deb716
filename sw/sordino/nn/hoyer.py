"""Squared Hoyer: a penalty that follows the number of non-zero activations, not their size."""

from torch import Tensor

from sordino_hw.spec.errors import InputError

from .base import SparseActivation, register

__all__ = ["Hoyer"]


@register("hoyer", "ReLU with the squared Hoyer penalty, which counts activations and does not shrink them")
class Hoyer(SparseActivation):
    """`y = max(x, 0)`; `loss += strength * HS(y)`, `HS(y) = (sum |y|)^2 / sum y^2` over an image, mean over the batch.

    `HS` lies between 1 (one non-zero activation) and their number (all equal), whatever the scale of `y`: its gradient,
    `2 (S1 / S2) (1 - y S1 / S2)` with `S1 = sum |y|` and `S2 = sum y^2`, lowers activations below `S2 / S1` and raises
    those above. An image without any activation pays nothing.

    Parameters
    ----------
    strength : the lambda of the layer, not negative

    Source: Yang et al., "DeepHoyer: Learning Sparser Neural Network with Differentiable Scale-Invariant Sparsity
    Measures", ICLR 2020 (on weights); Kurtz et al., ICML 2020, use it on activations. Summing over an image rather than
    over the batch is our choice.

    Raises `InputError` for a negative strength.
    """

    def __init__(self, strength: float = 1e-4):
        super().__init__()
        if not strength >= 0:
            raise InputError(f"Hoyer: strength must not be negative, not {strength!r}")
        self.strength = strength

    def activate(self, x: Tensor) -> Tensor:
        return x.relu()

    def cost(self, x: Tensor, y: Tensor) -> Tensor:
        flat = y.flatten(1)
        square = flat.square().sum(1)
        return self.strength * (flat.sum(1).square() / square.clamp_min(1e-12)).mean()

    def extra_repr(self) -> str:
        return f"strength={self.strength:g}"
