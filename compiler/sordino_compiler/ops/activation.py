"""Element-wise activations: clamps, tables, thresholds and fixed steps, fused into the layer before where that is possible."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import constant, feature_rank, feature_shape, is_constant, is_size, operator_name
from .affine import AffineLayer
from .extremum import bounds_apart
from .functions import CLAMPS, Function, activations, clamp_bounds
from .fused import Activation
from .lanewise import moved
from .layer import InputLayer, Layer
from .operator import operator
from .planner import Planner

__all__ = ["BECOMES", "ActivationLayer", "activate", "one_value", "table"]

BECOMES = "fused 256-entry table, one for all element-wise operators around it that depend on the same activation"


@dataclass
class ActivationLayer(Layer):
    """An activation that no layer could take in. Without a table it keeps its input's scale."""

    takes_activations: ClassVar[bool] = True
    named_by_module: ClassVar[bool] = True

    @property
    def table_is_fused(self) -> bool:
        return False

    @property
    def keeps_sign(self) -> bool:
        return not self.activation.table

    def lower(self, low, value, inputs, source):
        return moved(self, low, "activation", out=value, inputs=inputs, source=source)


def activate(planner: Planner, node: Node, x: Node, change: Callable[[Activation], Activation | None]) -> None:
    """Adds an activation to the layer that makes `x`, or a layer of its own; `change` puts it behind others, or gives None."""
    layer = planner.producer(x, node)
    new = change(layer.activation) if layer and layer.takes_activations else None
    if layer and new is not None:
        if layer.pre is None and (new.table or new.threshold is not None):
            layer.pre = layer.out
        layer.activation = new
        planner.extend(layer, node)
        return
    start = change(Activation())
    assert start is not None
    source = planner.value(x)
    planner.add(ActivationLayer(node, node, [source], feature_shape(node), activation=start, pre=source))


# -- clamps ----------------------------------------------------------------------------------------------------------


def clamp(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    bounds = clamp_bounds(node)
    assert bounds is not None
    activate(planner, node, next(iter(a.values())), lambda act: act.clamp(*bounds))


for _name in CLAMPS:
    operator(
        _name,
        becomes="fused clamp; bounds that are tensors: as a maximum and a minimum",
        rewrite=bounds_apart,
        homogeneous=_name == "aten.relu",
        monotone=True,
    )(clamp)


# -- tables ----------------------------------------------------------------------------------------------------------


def one_value(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """An element-wise function becomes a table of 256 entries if it depends on one activation, and on constants that are each one
    number for the whole tensor. Of two activations there are sums, differences, maxima and minima; a constant per channel may be added or
    multiplied before the function or behind it, not inside. A truth value goes on as a number: write (x > 0).float()."""
    reads = activations(node)
    if len(reads) > 1:
        return f"a function of {' and '.join(repr(n.name) for n in reads)}"
    shapes = [tuple(n.meta["val"].shape) for n in node.all_input_nodes if n not in reads and not is_size(n)]
    return f"a constant of shape {shapes[0]}" if shapes else f"a result of type {node.meta['val'].dtype}"


def table(planner: Planner, node: Node, function: Function) -> None:
    """Plans the last node of a function of one value."""
    f = function.on(planner.module)
    activate(planner, node, function.source, lambda act: act.apply(f))


def _unreachable(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    raise AssertionError(f"{node.name!r} is element-wise, but neither a function of one value nor refused")


def slope_below_zero(module: GraphModule, node: Node) -> None:
    """`where(x > 0, x, c * x)`, with one constant c per channel, is a PReLU."""
    if operator_name(node) != "aten.where" or len(node.args) != 3:
        return
    condition, x, below = node.args
    if not (isinstance(x, Node) and isinstance(below, Node) and isinstance(condition, Node) and operator_name(below) == "aten.mul"):
        return
    slopes = [n for n in below.args if n is not x]
    positive = operator_name(condition) in ("aten.gt", "aten.ge") and condition.args[0] is x and condition.args[1] == 0
    if not positive or len(slopes) != 1 or not is_constant(slopes[0]) or feature_rank(node) < 2:
        return
    slope, channels = slopes[0], feature_shape(node)[0]
    value = constant(module, slope)
    if value.numel() != channels or value.dim() < feature_rank(node) or channels == 1:
        return  # a slope of the whole tensor is a table; a vector of the last dimension is not one per channel
    with module.graph.inserting_before(node):
        weight = module.graph.call_function(torch.ops.aten.reshape.default, (slope, [-1]))
    weight.meta["val"] = torch.empty(channels, device="meta")
    node.target, node.args = torch.ops.aten.prelu.default, (x, weight)


NAMED = (
    "abs", "acos", "asin", "atan", "ceil", "celu", "cos", "cosh", "elu", "erf", "exp", "exp2", "expm1", "floor", "gelu", "hardshrink",
    "hardsigmoid", "hardswish", "leaky_relu", "log", "log10", "log1p", "log2", "log_sigmoid", "mish", "pow", "reciprocal", "round",
    "rrelu", "rsqrt", "selu", "sigmoid", "sign", "silu", "sin", "sinh", "softplus", "softshrink", "sqrt", "square", "tan", "tanh",
    "trunc", "where", "eq", "ge", "gt", "le", "lt", "ne", "logical_and", "logical_not", "logical_or", "masked_fill", "fmod", "remainder",
)  # fmt: skip
"""Operators without another form than a table; any other element-wise one may be part of a function of one value as well."""

operator(*(f"aten.{_name}" for _name in NAMED), becomes=BECOMES, constraints=(one_value,), rewrite=slope_below_zero)(_unreachable)


# -- thresholds and steps --------------------------------------------------------------------------------------------


def constant_threshold(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The threshold is a constant, not computed from activations. Pass a buffer or a parameter of shape [] or [channels]."""
    return None if is_constant(a["threshold"]) else "a threshold computed from an input"


@operator("sordino.threshold_relu", becomes="fused clamp and threshold", constraints=(constant_threshold,), monotone=True)
def threshold_relu(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    activate(planner, node, a["x"], lambda act: act.silence(node))


@operator("aten.threshold", becomes="threshold >= 0 and value = 0: fused clamp and threshold; else fused 256-entry table")
def threshold(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    activate(planner, node, a["self"], lambda act: act.silence(node))


def constant_step(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The step is a constant, not computed from activations, and lo <= 0 < hi. Pass a buffer or a parameter."""
    if not is_constant(a["step"]):
        return "a step computed from an input"
    return None if a["lo"] <= 0 < a["hi"] else f"lo={a['lo']}, hi={a['hi']}"


@operator(
    "sordino.round_to_step",
    becomes="the scale of the layer before; a step per channel: that, and factors of the weights",
    constraints=(constant_step,),
    monotone=True,
)
def round_to_step(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    step, lo, hi = float(constant(planner.module, a["step"])), a["lo"], a["hi"]
    layer = planner.producer(a["x"], node)
    whole = (lo == 0 and hi >= 255) or (lo <= -128 and hi >= 127)  # the host's quantisation clips like that by itself
    if layer and layer.quantised_anew and (whole or not isinstance(layer, InputLayer)):
        new = layer.activation.round(step, lo, hi)
        if new is not None:
            layer.activation = new
            planner.extend(layer, node)
            return
    new = Activation().round(step, lo, hi)
    assert new is not None
    planner.add(AffineLayer(node, node, [planner.value(a["x"])], feature_shape(node), activation=new))
