"""Sums and differences of two tensors: fused into the layer that makes one of them, else an operation with a residual."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch.fx import Node

from ..fx.nodes import feature_shape, operator_name
from . import constraints as must
from .affine import ScaledLayer, apply_constant
from .layer import Weighted
from .operator import operator
from .planner import Planner

__all__ = ["AddLayer"]


@dataclass
class AddLayer(ScaledLayer):
    """The sum or difference of two tensors; one is the residual of the other."""

    sign: tuple[int, int] = (1, 1)

    label: ClassVar[str] = "add"

    @property
    def signs(self) -> tuple[int, ...]:
        return self.sign

    @property
    def keeps_sign(self) -> bool:
        return not self.activation.table and min(self.sign) > 0


def same_shape(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The operands of an addition or subtraction have the same shape, or one is a constant per tensor or channel. Bring both to
    the same channels, height and width, for instance by a 1x1 convolution."""
    x, y = a["self"], a["other"]
    if planner.known(x) and planner.known(y):
        shapes = feature_shape(x), feature_shape(y)
        return None if shapes[0] == shapes[1] else f"{shapes[0]} and {shapes[1]}"
    return must.per_channel(planner, node, y if planner.known(x) else x)


def unit_alpha(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The `alpha` of an addition is 1. Multiply by a constant instead."""
    return None if a.get("alpha", 1) == 1 else f"alpha={a['alpha']}"


@operator(
    "aten.add",
    "aten.sub",
    "aten.rsub",
    becomes="two tensors: fused into the convolution before it, else VEC with a residual; a constant: VEC (1x1)",
    constraints=(same_shape, unit_alpha),
)
def add(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x, y = a["self"], a["other"]
    if not (planner.known(x) and planner.known(y)):
        apply_constant(planner, node, a)
        return
    sign = {"aten.add": (1, 1), "aten.sub": (1, -1), "aten.rsub": (-1, 1)}[operator_name(node)]
    candidates = [] if x is y else [(planner.producer(n, node), other, s) for n, other, s in ((x, y, sign), (y, x, sign[::-1]))]
    fusable = [
        (layer.fan_in, layer, other, s)
        for layer, other, s in candidates
        if isinstance(layer, Weighted) and layer.activation.empty and not layer.residual and s[0] > 0
    ]
    if fusable:
        # The larger fan-in makes the finer unit of accumulation, in which the residual's weight is rounded.
        _, layer, other, s = max(fusable, key=lambda f: f[0])
        layer.add_residual(planner.value(other), s)
        planner.extend(layer, node)
    else:
        planner.add(AddLayer(node, node, [planner.value(x), planner.value(y)], feature_shape(node), sign))
