"""Batch norms, and multiplications and additions of constants: one gain and one offset per channel."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import arguments, constant, feature_shape, is_constant, operator_name
from ..graph import Window
from . import constraints as must
from .lanewise import Lanewise, weights_for
from .layer import Layer
from .lowering import BIAS_MAX, Lowering
from .operator import operator
from .planner import Planner

__all__ = ["AffineLayer", "ScaledLayer", "affine", "apply_constant"]


def affine(module: GraphModule, nodes: Sequence[Node], channels: int) -> tuple[np.ndarray, np.ndarray]:
    """`y = gain * x + offset` of a chain of nodes: float64 [channels] each."""
    gain, offset = np.ones(channels), np.zeros(channels)
    for node in nodes:
        g, o = _one(module, node)
        gain, offset = gain * g, offset * g + o
    return np.broadcast_to(gain, (channels,)).copy(), np.broadcast_to(offset, (channels,)).copy()


def _one(module: GraphModule, node: Node) -> tuple[np.ndarray, np.ndarray]:
    name, a = operator_name(node), arguments(node)

    def vector(value) -> np.ndarray:
        return constant(module, value).to(torch.float64).reshape(-1).numpy()

    if name == "aten.batch_norm":
        gain = 1 / np.sqrt(vector(a["running_var"]) + float(a["eps"]))
        gain = gain if a["weight"] is None else gain * vector(a["weight"])
        offset = -vector(a["running_mean"]) * gain
        return gain, offset if a["bias"] is None else offset + vector(a["bias"])
    if name == "aten.neg":
        return np.array([-1.0]), np.array([0.0])
    x, y = a["self"], a["other"]
    first = not is_constant(x)
    c = vector(y if first else x)
    zero = np.zeros(1)
    if name == "aten.mul":
        return c, zero
    if name == "aten.div":
        return 1 / c, zero
    alpha = float(a.get("alpha", 1))
    gains = {"aten.add": (1, alpha), "aten.sub": (1, -alpha), "aten.rsub": (-alpha, 1)}[name]
    own, of_constant = gains if first else gains[::-1]
    return own * np.ones(1), of_constant * c


@dataclass
class ScaledLayer(Layer):
    """Base of pooling by averages, affine layers and adds: linear, with factors that are chosen here, not by training."""

    window: Window = field(default_factory=lambda: Window((1, 1)), kw_only=True)

    quantised_anew: ClassVar[bool] = True
    takes_activations: ClassVar[bool] = True
    label: ClassVar[str] = ""
    """What it is called in reports."""

    @property
    def gains(self) -> tuple[float, ...]:
        """The factor of every input."""
        return (1.0,)

    def lower(self, low: Lowering, value, inputs, source):
        return self.lanewise(low, self.window, math.prod(self.window.kernel), out=value, inputs=inputs, source=source)

    def factors(self, low: Lowering, divisor: float) -> tuple[np.ndarray, np.ndarray]:
        """Real factors [inputs, channels] from accumulators to outputs, and offsets [channels] in output steps."""
        s_out, channels = low.target(self).scale, self.shape[0]
        gain, offset = affine(low.module, self.norm, channels)
        scales = [low.scale_of(n).scale for n in self.inputs]
        return np.stack([own * gain * s / s_out / divisor for own, s in zip(self.gains, scales, strict=True)]), offset / s_out

    def lanewise(self, low: Lowering, window: Window, divisor: float, **common: Any) -> Lanewise:
        """The node that sums over a window and divides."""
        factors, offset = self.factors(low, divisor)
        weights, mantissa, shift, wide = weights_for(factors, low, math.prod(window.kernel))
        bias = np.rint(np.ldexp(offset / mantissa, shift)).clip(-BIAS_MAX, BIAS_MAX)
        return Lanewise(
            weight=np.broadcast_to(weights[0][:, None, None], (self.shape[0], *window.kernel)).copy(),
            window=window,
            requant=low.requant(self, bias, mantissa, shift),
            wide=wide,
            residual_weight=weights[1] if len(weights) > 1 else None,
            label=self.label,
            **common,
        )


@dataclass
class AffineLayer(ScaledLayer):
    """A gain and an offset per channel that no layer could take in."""

    takes_norms: ClassVar[bool] = True
    takes_constants: ClassVar[bool] = True
    named_by_module: ClassVar[bool] = True
    label: ClassVar[str] = "affine"


def _fuse(planner: Planner, node: Node, x: Node, takes: Callable[[Layer], bool]) -> None:
    """Adds a node to the layer that makes `x` if that takes it, else as a layer of its own."""
    layer = planner.producer(x, node)
    if layer and takes(layer) and layer.activation.empty and not getattr(layer, "residual", False):
        layer.norm.append(node)
        planner.extend(layer, node)
    else:
        planner.add(AffineLayer(node, node, [planner.value(x)], feature_shape(node), norm=[node]))


def constant_statistics(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A batch norm's mean and variance are constants, its running statistics; without them it normalises each batch by itself,
    also in evaluation, which the array cannot do. Build it with track_running_stats=True and run some training batches, so that
    it has statistics, before quantising."""
    missing = [k for k in ("running_mean", "running_var") if a[k] is None or not is_constant(a[k])]
    if missing:
        return f"no {' and no '.join(missing)}"
    return "training=True" if a["training"] else None


@operator(
    "aten.batch_norm",
    becomes="folded into the convolution or fully connected layer before it, if nothing else reads that; else VEC (1x1)",
    constraints=(constant_statistics,),
)
def batch_norm(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    _fuse(planner, node, a["input"], lambda layer: layer.takes_norms)


def constant_operand(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The divisor is a constant: a number, or one per channel. For the quotient of two activations write
    x * torch.reciprocal(y), where y keeps away from 0, or divide on the host."""
    x, y = a["self"], a["other"]
    if planner.known(x) and planner.known(y):
        return "two activations"
    if not planner.known(x) and node.target is not None and "div" in str(node.target):
        return "a constant divided by an activation"
    if a.get("rounding_mode"):
        return f"rounding_mode={a['rounding_mode']!r}"
    return must.per_channel(planner, node, y if planner.known(x) else x)


def through_reciprocal(module: GraphModule, node: Node) -> None:
    """A constant per channel divided by an activation is the activation's reciprocal, a function of one value, times the constant."""
    if operator_name(node) != "aten.div" or not isinstance(node.args[0], Node) or is_constant(node.args[1]):
        return
    c, x = node.args
    if not is_constant(c) or arguments(node).get("rounding_mode") or constant(module, c).numel() == 1:
        return
    with module.graph.inserting_before(node):
        inverse = module.graph.call_function(torch.ops.aten.reciprocal.default, (x,))
    inverse.meta = dict(node.meta)
    node.target, node.args = torch.ops.aten.mul.Tensor, (inverse, c)


@operator(
    "aten.div",
    becomes="a constant divisor per tensor or channel: folded into the convolution or fully connected layer before it, if nothing else reads that; else VEC (1x1)",
    constraints=(constant_operand,),
    rewrite=through_reciprocal,
)
def div(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    apply_constant(planner, node, a)


def apply_constant(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    """Plans a node of two operands, one of them a constant."""
    x, y = a["self"], a["other"]
    _fuse(planner, node, x if planner.known(x) else y, lambda layer: layer.takes_constants)


@operator("aten.neg", becomes="folded into the convolution or fully connected layer before it, else VEC (1x1)")
def neg(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    _fuse(planner, node, a["self"], lambda layer: layer.takes_constants)
