"""Element-wise activations: clamps, tables, thresholds and fixed steps, fused into the layer before where that is possible."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..fx.nodes import constant, feature_shape, is_constant, operator_name
from .affine import AffineLayer
from .fused import Activation
from .lanewise import moved
from .layer import InputLayer, Layer
from .operator import operator
from .planner import Planner

__all__ = ["ActivationLayer", "activate"]


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

_F = torch.nn.functional


def _number(args: tuple, index: int, default: float) -> float:
    value = args[index] if len(args) > index else None
    return default if value is None else float(value)


CLAMPS: dict[str, Callable[[tuple], tuple[float, float]]] = {
    "aten.relu": lambda a: (0.0, math.inf),
    "aten.relu6": lambda a: (0.0, 6.0),
    "aten.hardtanh": lambda a: (_number(a, 0, -1.0), _number(a, 1, 1.0)),
    "aten.clamp": lambda a: (_number(a, 0, -math.inf), _number(a, 1, math.inf)),
    "aten.clamp_min": lambda a: (_number(a, 0, -math.inf), math.inf),
    "aten.clamp_max": lambda a: (-math.inf, _number(a, 0, math.inf)),
}
"""Operators that clamp: from the arguments after the tensor to (lo, hi)."""


def constant_bounds(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The bounds of a clamp are numbers, the lower one below the upper one. Use torch.clamp(x, lo, hi)."""
    bounds = list(a.values())[1:]
    if any(isinstance(b, Node) for b in bounds):
        return "bounds that are tensors"
    low, high = (*bounds, None, None)[:2]
    return f"{low}..{high}" if low is not None and high is not None and not float(low) < float(high) else None


def clamp(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x, *rest = a.values()
    lo, hi = CLAMPS[operator_name(node)](tuple(rest))
    activate(planner, node, x, lambda act: act.clamp(lo, hi))


for _name in CLAMPS:
    operator(_name, becomes="fused clamp", constraints=(constant_bounds,), homogeneous=_name == "aten.relu", monotone=True)(clamp)


# -- tables ----------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[tuple, dict], Callable[[Tensor], Tensor]]] = {
    "aten.silu": lambda a, k: _F.silu,
    "aten.sigmoid": lambda a, k: torch.sigmoid,
    "aten.hardswish": lambda a, k: _F.hardswish,
    "aten.hardsigmoid": lambda a, k: _F.hardsigmoid,
    "aten.tanh": lambda a, k: torch.tanh,
    "aten.leaky_relu": lambda a, k: lambda x: _F.leaky_relu(x, _number(a, 0, 0.01)),
    "aten.elu": lambda a, k: lambda x: torch.ops.aten.elu(x, *a),
    "aten.gelu": lambda a, k: lambda x: _F.gelu(x, **k),
    "aten.softplus": lambda a, k: lambda x: _F.softplus(x, _number(a, 0, 1.0), _number(a, 1, 20.0)),
    "aten.mish": lambda a, k: _F.mish,
    "aten.abs": lambda a, k: torch.abs,
    "aten.square": lambda a, k: torch.square,
}
"""Operators that become a 256-entry table: from the arguments after the tensor to the function."""


def table(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    f = TABLES[operator_name(node)](tuple(node.args[1:]), dict(node.kwargs))
    activate(planner, node, next(iter(a.values())), lambda act: act.apply(f))


for _name in TABLES:
    operator(_name, becomes="fused 256-entry table")(table)


GATES = {"aten.sigmoid": torch.ops.aten.silu.default, "aten.hardsigmoid": torch.ops.aten.hardswish.default}
"""x * gate(x) is one operator."""


def gated_activations(module: GraphModule) -> None:
    """`x * sigmoid(x)` is SiLU, `x * hardsigmoid(x)` is hardswish."""
    for node in list(module.graph.nodes):
        if operator_name(node) != "aten.mul":
            continue
        x, y = node.args
        for value, gate in ((x, y), (y, x)):
            if isinstance(gate, Node) and operator_name(gate) in GATES and gate.args[0] is value:
                node.target, node.args, node.kwargs = GATES[operator_name(gate)], (value,), {}
                break


# -- thresholds and steps --------------------------------------------------------------------------------------------


def constant_threshold(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The threshold is a constant, not computed from activations. Pass a buffer or a parameter of shape [] or [channels]."""
    return None if is_constant(a["threshold"]) else "a threshold computed from an input"


@operator("sordino.threshold_relu", becomes="fused clamp and threshold", constraints=(constant_threshold,), monotone=True)
def threshold_relu(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    activate(planner, node, a["x"], lambda act: act.silence(node))


def zero_below_threshold(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A threshold is not negative and puts 0 in place of what lies below. Use nn.Threshold(t, 0) with t >= 0."""
    t, v = float(a["threshold"]), float(a["value"])
    return None if t >= 0 and v == 0 else f"threshold={t:g}, value={v:g}"


@operator("aten.threshold", becomes="fused clamp and threshold", constraints=(zero_below_threshold,))
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
