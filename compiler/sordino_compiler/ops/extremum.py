"""The larger or the smaller of two tensors, value by value: vector mode, in two operations."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import arguments, constant, feature_shape, is_constant, operator_name
from ..graph import Computation, Requant, Window
from ..slots import compact
from .add import broadcast_shapes, larger_first, operands_in_full
from .lanewise import Lanewise
from .layer import Layer
from .operator import operator
from .planner import Planner

__all__ = ["Extremum", "ExtremumLayer", "bounds_apart"]

_aten = torch.ops.aten


# -- meaning and instructions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Extremum(Computation):
    """max(a, b), or min(a, b), of two values that share one scale and sign with the output: `a + relu(b - a)`, `a - relu(a - b)`.

    Exact: a difference of two activations fits an activation word. `residual_weight` is 1 everywhere.
    """

    largest: bool

    kind: ClassVar[str] = "extremum"

    @property
    def label(self) -> str:
        return "maximum" if self.largest else "minimum"

    def accumulate(self, inputs):
        return (np.maximum if self.largest else np.minimum)(*inputs)

    def bound(self, peaks):
        return np.full(self.out.shape[0], 2 * sum(peaks))

    def problems(self, ins, arch):
        yield from super().problems(ins, arch)
        if self.out.shape != ins[0].shape or self.window != Window((1, 1)):
            yield f"shape {self.out.shape} should be {ins[0].shape}, without a kernel"
        if any((v.scale, v.signed, v.lowest) != (self.out.scale, self.out.signed, self.out.lowest) for v in ins):
            yield "an operand has another scale or sign"
        if (self.residual_weight != 1).any():
            yield "a factor other than 1"

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes)

    def parts(self, inputs, out, arch):
        """How far b lies beyond a goes where the output will be; then it is added to a, and overwritten by the sum."""
        a, b = inputs
        one, sign = np.ones(self.out.shape[0], np.int64), 1 if self.largest else -1
        top = (1 << (arch.event_bits - 1)) - 1
        beyond = Lanewise(
            out=self.out,
            inputs=self.inputs,
            weight=-sign * one[:, None, None],
            residual_weight=sign * one,
            window=self.window,
            requant=replace(Requant.identity(len(one), arch, signed=True), lo=0, hi=top),
            label=self.label,
            source=self.source,
        )
        yield beyond, [a, b], out
        total = replace(
            beyond,
            inputs=(self.inputs[0], self.out.name),
            weight=one[:, None, None],
            residual_weight=sign * one,
            requant=self.requant,
        )
        yield total, [a, out], out


# -- from PyTorch ----------------------------------------------------------------------------------------------------


@dataclass
class ExtremumLayer(Layer):
    """A maximum or minimum: its operands share one scale."""

    largest: bool

    @property
    def scale_sources(self) -> list[Node]:
        return self.inputs

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return Extremum(
            out=value,
            inputs=inputs,
            largest=self.largest,
            residual_weight=np.ones(self.shape[0], np.int64),
            window=Window((1, 1)),
            requant=low.identity(self),
            source=source,
        )


def bounds_apart(module: GraphModule, node: Node) -> None:
    """Bounds that are tensors, one after the other: a constant that is one number is a clamp's, of one per channel or position c
    there are `c + relu(x - c)` and `c - relu(c - x)`, and of activations a maximum and a minimum."""
    a = arguments(node)
    if "other" not in a:
        found, x = [(a[k], k == "min") for k in ("min", "max") if a.get(k) is not None], a["self"]
        if not any(isinstance(bound, Node) for bound, _ in found) or is_constant(x):
            return
    else:
        x, bound = (a["other"], a["self"]) if is_constant(a["self"]) else (a["self"], a["other"])
        if not is_constant(bound):
            return
        found = [(bound, operator_name(node) == "aten.maximum")]
    for bound, below in found:
        x = _bounded(module, node, x, bound, below)
    node.replace_all_uses_with(x)
    module.graph.erase_node(node)


def _bounded(module: GraphModule, node: Node, x: Node, bound: Any, below: bool) -> Node:
    """`x` bounded from below, or from above."""

    def call(operator_: Any, *args: Any) -> Node:
        with module.graph.inserting_before(node):
            made = module.graph.call_function(operator_, args)
        made.meta = dict(node.meta)
        return made

    if not is_constant(bound):
        return call(_aten.maximum.default if below else _aten.minimum.default, x, bound)
    value = constant(module, bound)
    if bool((value == value.reshape(-1)[0]).all()):
        return call(_aten.clamp_min.default if below else _aten.clamp_max.default, x, float(value.reshape(-1)[0]))
    apart = call(_aten.sub.Tensor, *((x, bound) if below else (bound, x)))
    beyond = call(_aten.relu.default, apart)
    joined = call(_aten.add.Tensor, beyond, bound) if below else call(_aten.sub.Tensor, bound, beyond)
    for each in (apart, joined):
        operands_in_full(module, each)
    return joined


@operator(
    "aten.maximum",
    "aten.minimum",
    becomes="two tensors: two VEC (1x1), and both share one scale; a bound that is one number: fused clamp; one per channel: "
    "VEC (1x1) before and behind a clamp",
    constraints=(broadcast_shapes,),
    rewrite=bounds_apart,
)
def extremum(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x, y = a["self"], a["other"]
    if not larger_first(x, y):
        x, y = y, x
    largest = operator_name(node) == "aten.maximum"
    planner.add(ExtremumLayer(node, node, [planner.value(x), planner.value(y)], feature_shape(node), largest))
