"""`Activation`: what of element-wise activations a layer's post-processing takes in."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.fx import Node

__all__ = ["Activation"]


@dataclass(frozen=True)
class Activation:
    """clamp to lo..hi, then table, then threshold: the order of the hardware. Bounds are real values."""

    lo: float = -math.inf
    hi: float = math.inf
    table: tuple[Callable[[Tensor], Tensor], ...] = ()
    """Functions applied one after the other."""
    threshold: Node | None = None
    """The operator that puts 0 in place of what is below its threshold."""
    step: float | None = None
    """The output's scale, where the model fixes it."""

    @property
    def empty(self) -> bool:
        return self == Activation()

    @property
    def nonnegative(self) -> bool:
        """Whether no output can be negative, whatever the input."""
        if self.table:
            return bool((self.tabulated(torch.linspace(-64, 64, 4097)) >= 0).all())
        return self.lo >= 0

    def function(self, x: Tensor) -> Tensor:
        """The table's real function, after the clamp."""
        x = x.clamp(self.lo, self.hi)
        for f in self.table:
            x = f(x)
        return x

    def tabulated(self, x: Tensor) -> Tensor:
        """The function at ascending points. Where it is not a number it is continued from the nearest point at which it is one; 0 if
        there is none."""
        y = self.function(x)
        good = (~y.isnan()).nonzero()[:, 0]
        if not len(good):
            return torch.zeros_like(x)
        return y[good[torch.searchsorted((good[1:] + good[:-1]) / 2, torch.arange(len(x), dtype=torch.float32))]]

    def clamp(self, lo: float, hi: float) -> "Activation | None":
        """This activation followed by a clamp; None if the hardware's order cannot express it."""
        if self.table and self.threshold is None:
            return replace(self, table=(*self.table, lambda x: x.clamp(lo, hi)))
        if self.threshold is not None:
            # The hardware clamps before the threshold, so only a clamp that changes nothing may follow one.
            return self if not self.table and lo <= 0 and hi == math.inf else None
        return replace(self, lo=min(max(self.lo, lo), hi), hi=max(min(self.hi, hi), lo))

    def apply(self, f: Callable[[Tensor], Tensor]) -> "Activation | None":
        """This activation followed by a function."""
        return None if self.threshold is not None or self.step else replace(self, table=(*self.table, f))

    def round(self, step: float, lo: int, hi: int) -> "Activation | None":
        """This activation followed by rounding to `lo * step .. hi * step`."""
        clamped = None if self.table or self.threshold is not None or self.step else self.clamp(lo * step, hi * step)
        return clamped and replace(clamped, step=step)

    def silence(self, threshold: Node) -> "Activation | None":
        """This activation followed by a ReLU with a threshold."""
        if self.threshold is not None:
            return None
        below = self.clamp(0.0, math.inf)
        return below and replace(below, threshold=threshold)
