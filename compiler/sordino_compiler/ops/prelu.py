"""PReLU: below zero a slope that is trained, one per tensor (a table) or one per channel (vector mode, in two operations)."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch.fx import Node
from torch.nn.functional import leaky_relu

from sordino_hw.spec.numbers import wrap32

from ..factors import WIDE_MAX, approximate
from ..fx.nodes import constant, feature_shape, is_constant
from ..graph import Computation, Requant, Window
from ..slots import compact
from .activation import activate
from .lanewise import NARROW_ERROR, Lanewise
from .layer import Layer
from .operator import operator
from .planner import Planner

__all__ = ["PReLU", "PReLULayer"]


# -- meaning and instructions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PReLU(Computation):
    """The accumulator of channel c is `weight[c] * x + below[c] * min(x, 0)`.

    `weight` int64 [c]: 8 bit, or -16384..16383 where `wide`; `below` int64 [c], -16384..16383.
    """

    weight: np.ndarray
    below: np.ndarray
    wide: bool = False

    kind: ClassVar[str] = "prelu"

    def accumulate(self, inputs):
        (x,) = inputs
        return wrap32(self.weight[:, None, None] * x + self.below[:, None, None] * np.minimum(x, 0))

    def bound(self, peaks):
        return (np.abs(self.weight) + np.abs(self.below)) * peaks[0]

    def problems(self, ins, arch):
        (v,) = ins
        if self.out.shape != v.shape:
            yield f"shape {self.out.shape} should be {v.shape}"
        if self.window != Window((1, 1)) or self.residual_weight is not None:
            yield "it has no kernel and no residual"
        wide = (-16384, 16383)
        for name, values, (low, high) in (
            ("weight", self.weight, wide if self.wide else (-128, 127)),
            ("below", self.below, wide),
        ):
            if values.shape != (v.shape[0],):
                yield f"{name} shape {values.shape}"
            if values.min() < low or values.max() > high:
                yield f"{name} outside {low}..{high}"
        yield from super().problems(ins, arch)

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes)

    def parts(self, inputs, out, arch):
        """min(x, 0) goes where the output will be; then each pixel takes it as its residual, and overwrites it."""
        (x,) = inputs
        negative = Lanewise(
            out=self.out,
            inputs=self.inputs,
            weight=np.ones((len(self.weight), 1, 1), np.int64),
            window=self.window,
            requant=replace(Requant.identity(len(self.weight), arch, signed=True), lo=-(1 << arch.event_bits - 1), hi=0),
            label=self.kind,
            source=self.source,
        )
        yield negative, [x], out
        both = replace(
            negative,
            inputs=(*self.inputs, self.out.name),
            weight=self.weight[:, None, None],
            wide=self.wide,
            residual_weight=self.below,
            requant=self.requant,
        )
        yield both, [x, out], out


# -- from PyTorch ----------------------------------------------------------------------------------------------------


@dataclass
class PReLULayer(Layer):
    """A slope per channel. The input keeps its sign, so it is quantised in front of it, and the output anew."""

    slope: Node

    quantised_anew: ClassVar[bool] = True
    asymmetric: ClassVar[bool] = True
    takes_activations: ClassVar[bool] = True
    named_by_module: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return not self.activation.table

    def lower(self, low, value, inputs, source):
        slope = constant(low.module, self.slope).double().reshape(-1).numpy()
        unit = low.scale_of(self.inputs[0]).scale / low.target(self).scale
        factors = unit * np.stack([np.ones_like(slope), slope - 1])
        for limit in (127, WIDE_MAX):
            (weight, below), mantissa, shift, error = approximate(factors, low.arch, limit)
            found = (weight + below) * np.ldexp(mantissa.astype(np.float64), -shift)
            error = max(error, float((np.abs(found - unit * slope) / np.abs(factors).max(0)).max()))
            if error <= NARROW_ERROR:
                break
        return PReLU(
            out=value,
            inputs=inputs,
            weight=weight,
            below=below,
            wide=limit == WIDE_MAX,
            window=Window((1, 1)),
            requant=low.requant(self, np.zeros(len(slope)), mantissa, shift),
            source=source,
        )


def constant_slope(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The slopes of a PReLU are constants, one per tensor or one per channel. Use nn.PReLU(), or nn.PReLU(channels)."""
    slope = a["weight"]
    if not is_constant(slope):
        return "slopes computed from an input"
    count, channels = constant(planner.module, slope).numel(), feature_shape(node)[0]
    return None if count in (1, channels) else f"{count} slopes for {channels} channels"


@operator(
    "aten.prelu",
    becomes="a slope per tensor: fused 256-entry table; a slope per channel: two VEC (1x1)",
    constraints=(constant_slope,),
    homogeneous=True,
)
def prelu(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x, weight = a["self"], a["weight"]
    slope = constant(planner.module, weight)
    if slope.numel() == 1:
        activate(planner, node, x, lambda act: act.apply(lambda v: leaky_relu(v, float(slope))))
    else:
        planner.add(PReLULayer(node, node, [planner.value(x)], feature_shape(node), weight))
