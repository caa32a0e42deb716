"""`Lanewise`: vector mode, in which every lane multiplies its own channel. Several operator families become this node."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sordino_hw.spec.isa import Mode, Opcode
from sordino_hw.spec.numbers import wrap32

from ..emit.operation import Images
from ..emit.vectors import equal_taps, vector_image
from ..factors import WIDE_MAX, approximate
from ..graph import Computation, Window
from ..slots import compact
from .layer import Layer
from .lowering import BIAS_MAX, Lowering

__all__ = ["NARROW_ERROR", "Depthwise", "Lanewise", "moved", "weights_for"]

NARROW_ERROR = 2.0**-10
"""Weights of pooling and the like take one cycle a tap if 8 bits meet this relative error, else two."""


@dataclass(frozen=True, kw_only=True)
class Lanewise(Computation):
    """One weight per channel and tap, vector mode: average pooling, standalone activation, standalone add (1x1 with a residual),
    nearest upsampling (1x1 with `repeat`); and `Depthwise`.

    `weight` int64 [c, kh, kw]: 8 bit, or -16384..16383 where `wide` (two cycles a tap). `label` names what it is.
    """

    weight: np.ndarray
    wide: bool = False
    repeat: tuple[int, int] = (1, 1)
    label: str = "lanewise"

    kind: ClassVar[str] = "lanewise"
    linear: ClassVar[bool] = True

    def accumulate(self, inputs):
        acc = np.einsum("bchwij,cij->bchw", self.window.patches(inputs[0]), self.weight, optimize=True)
        acc = acc.repeat(self.repeat[0], 2).repeat(self.repeat[1], 3)
        if self.residual_weight is not None:
            acc = acc + inputs[1] * self.residual_weight[:, None, None]
        return wrap32(acc)

    def bound(self, peaks):
        total = np.abs(self.weight).sum((1, 2)) * peaks[0]
        return total if self.residual_weight is None else total + np.abs(self.residual_weight) * peaks[1]

    def problems(self, ins, arch):
        c, h, w = ins[0].shape
        oh, ow = self.window.out_size(h, w)
        shape = (c, oh * self.repeat[0], ow * self.repeat[1])
        if self.out.shape != shape:
            yield f"shape {self.out.shape} should be {shape}"
        if self.weight.shape != (c, *self.window.kernel):
            yield f"weight shape {self.weight.shape}"
        low, high = (-16384, 16383) if self.wide else (-128, 127)
        if self.weight.min() < low or self.weight.max() > high:
            yield f"weights outside {low}..{high}"
        yield from super().problems(ins, arch)

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes)

    def as_row(self, window: Window) -> "Lanewise":
        return replace(self, window=window, weight=self.weight.reshape(len(self.weight), *window.kernel))

    def fits(self, tile, channels, arch):
        rows = (1 if equal_taps(self.weight[channels]) else tile.taps) * (1 + self.wide)
        return rows + (0 if self.residual_weight is None else 2) <= arch.weight_depth

    def images(self, x, slices, tile, span, arch, dense):
        ((channels, lanes),) = slices
        weight = self.weight[channels]
        halves = 0 if equal_taps(weight) else 1 + self.wide
        image = vector_image(weight, self.wide, lanes, tile, arch)
        registers = {"W_SPAN": span * halves, "W_WORD": halves}
        return Images(Opcode.VEC, Mode.MAC2 if self.wide else Mode.MAC, registers, image[None])


@dataclass(frozen=True, kw_only=True)
class Depthwise(Lanewise):
    """A depthwise convolution: its products are the model's."""

    label: str = "depthwise"

    @property
    def macs(self) -> int:
        return int(self.weight[0].size * np.prod(self.out.shape))

    def macs_per_event(self, slices):
        return [1 for _ in slices]


def weights_for(factors: np.ndarray, low: Lowering, taps: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    """(weights int64 [k, n], mantissa, shift, wide) for real factors [k, n] of n channels: narrow where that is near enough.

    So many `taps` of 8 bits with these weights, and a bias, keep within 32 bits.
    """
    largest = max(1, BIAS_MAX // (taps << 8))
    weights, mantissa, shift, error = approximate(factors, low.arch, min(127, largest))
    wide = error > NARROW_ERROR and largest > 127
    if wide:
        weights, mantissa, shift, _ = approximate(factors, low.arch, min(WIDE_MAX, largest))
    return weights, mantissa, shift, wide


def moved(
    layer: Layer, low: Lowering, label: str, *, window: Window | None = None, repeat: tuple[int, int] = (1, 1), **common
) -> Lanewise:
    """The node that leaves values as they are, but for the layer's activation."""
    one = np.ones((layer.shape[0], 1, 1), np.int64)
    return Lanewise(weight=one, window=window or Window((1, 1)), requant=low.identity(layer), repeat=repeat, label=label, **common)
