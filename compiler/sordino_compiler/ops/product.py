"""Products: of an activation and a constant (affine), or of two activations: gates, squeeze and excitation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch.fx import Node

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.isa import Mode, Opcode
from sordino_hw.spec.numbers import wrap32

from ..emit.operation import Images
from ..factors import exact_factor, greatest_factor
from ..fx.nodes import feature_rank, feature_shape
from ..graph import Computation, Window
from ..slots import compact
from . import constraints as must
from .affine import apply_constant
from .layer import Layer
from .operator import operator
from .planner import Planner

__all__ = ["Product", "ProductLayer"]

FACTOR_ERROR = 2.0**-10
"""Relative error of the factor that float32 scales and the range of shifts may bring."""


# -- meaning and instructions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Product(Computation):
    """The accumulator of channel c at a pixel is `x * s` there. `s` may have one channel, one row or one column: all share it.

    One operation a word column, two cycles a pixel (see `isa.Mode.PRODUCT`). A gate of one channel is copied to all lanes before
    (`passes.copies`).
    """

    kind: ClassVar[str] = "product"

    @property
    def operands(self) -> int:
        return 2

    def accumulate(self, inputs):
        return wrap32(inputs[0] * inputs[1])

    def bound(self, peaks):
        return np.full(self.out.shape[0], peaks[0] * peaks[1], np.int64)

    def problems(self, ins, arch):
        if not arch.products:
            yield lacking(arch)
        if len(ins) != 2:
            yield f"{len(ins)} inputs"
        if ins[0].shape != self.out.shape:
            yield f"shape {self.out.shape} should be {ins[0].shape}"
        if any(n not in (1, m) for n, m in zip(ins[1].shape, self.out.shape, strict=True)):
            yield f"second factor of shape {ins[1].shape}, which {self.out.shape} has no use for"
        if self.window != Window((1, 1)) or self.residual_weight is not None:
            yield "it has no kernel and no residual weight"
        yield from super().problems(ins, arch)

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes)

    def as_row(self, window: Window) -> "Product":
        return replace(self, window=window)

    def fits(self, tile, channels, arch):
        return True

    def images(self, x, slices, tile, span, arch, dense):
        return Images(Opcode.VEC, Mode.PRODUCT, {})


def lacking(arch: ArchConfig) -> str:
    """What to do where an architecture has no products of activations."""
    return (
        f"Architecture {arch.name!r} multiplies activations by constants only. Quantise and compile for one with products, such as "
        "arch='ulx3s-85f,products=true' or ArchConfig(..., products=True); or leave the gate out."
    )


# -- from PyTorch ----------------------------------------------------------------------------------------------------


@dataclass
class ProductLayer(Layer):
    """The product of two activations; the second may be broadcast."""

    quantised_anew: ClassVar[bool] = True
    asymmetric: ClassVar[bool] = True
    takes_activations: ClassVar[bool] = True
    snaps_scale: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return not self.activation.table

    def lacks(self, arch: ArchConfig) -> str:
        return "" if arch.products else lacking(arch)

    def snapped_scale(self, sources: Sequence[float], target: float, arch: ArchConfig) -> float | None:
        """At most an eighth larger, with 4 bits of mantissa: no weight can make up for a factor that is not representable."""
        unit = sources[0] * sources[1]
        return unit / greatest_factor(unit / target, arch)

    def lower(self, low, value, inputs, source):
        scales = [low.scale_of(n).scale for n in self.inputs]
        factor = scales[0] * scales[1] / low.target(self).scale
        mantissa, shift, error = exact_factor(np.array([factor]), low.arch)
        if error[0] > FACTOR_ERROR:
            raise low.fail(
                self,
                f"the factor {factor:g} between product and output is no mantissa of {low.arch.mantissa_bits} bits times a power of two. "
                "Quantise the model with sordino.quantize, which chooses such scales.",
            )
        channels = np.ones(self.shape[0], np.int64)
        return Product(
            out=value,
            inputs=inputs,
            window=Window((1, 1)),
            requant=low.requant(self, 0 * channels, mantissa[0] * channels, shift[0] * channels),
            source=source,
        )


def factors(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The factors of a product are an activation and a constant, a number or one per channel; or, on an architecture with
    products (ArchConfig.products), two activations, one of which has the shape of the product and the other the same sizes or 1:
    channels, height and width. Bring both to such shapes, for instance by a 1x1 convolution or an upsampling."""
    x, y = a["self"], a["other"]
    if not (planner.known(x) and planner.known(y)):
        return must.per_channel(planner, node, y if planner.known(x) else x)
    shapes = [feature_shape(n) for n in (x, y)]
    same = feature_rank(x) == feature_rank(y) and feature_shape(node) in shapes
    return None if same else f"two activations of shapes {shapes[0]} and {shapes[1]}"


@operator(
    "aten.mul",
    becomes="a constant factor per tensor or channel: folded into the convolution or fully connected layer before it, if nothing else reads that; "
    "else VEC (1x1); two activations: VEC (PRODUCT), two cycles a pixel",
    constraints=(factors,),
)
def mul(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x, y = a["self"], a["other"]
    if not (planner.known(x) and planner.known(y)):
        apply_constant(planner, node, a)
        return
    if feature_shape(x) != feature_shape(node):
        x, y = y, x
    planner.add(ProductLayer(node, node, [planner.value(x), planner.value(y)], feature_shape(node)))
