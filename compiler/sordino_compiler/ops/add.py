"""Sums and differences of two tensors: fused into the layer that makes one of them, else an operation with a residual."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import arguments, constant, feature_shape, is_constant, operator_name
from . import constraints as must
from .affine import ScaledLayer, apply_constant
from .functions import activations
from .layer import Weighted
from .operator import operator
from .planner import Planner

__all__ = ["AddLayer", "broadcast_shapes", "larger_first", "operands_in_full"]

_aten = torch.ops.aten


@dataclass
class AddLayer(ScaledLayer):
    """The sum of two tensors with these factors; the second one is the residual of the first."""

    pair: tuple[float, float] = (1, 1)

    label: ClassVar[str] = "add"

    @property
    def gains(self) -> tuple[float, ...]:
        return self.pair

    @property
    def keeps_sign(self) -> bool:
        return not self.activation.table and min(self.pair) > 0


# -- operands of different shapes ------------------------------------------------------------------------------------


def larger_first(x: Node, y: Node) -> bool | None:
    """Whether the shape of `x` is that of the result, and `y` has the same one or 1 in its place along height and width; false where
    it is the other way round, None where neither holds."""
    shapes = feature_shape(x), feature_shape(y)
    if len(x.meta["val"].shape) != len(y.meta["val"].shape):
        return None
    for first, (large, small) in ((True, shapes), (False, shapes[::-1])):
        if large[0] == small[0] and all(n in (1, m) for m, n in zip(large[1:], small[1:], strict=True)):
            return first
    return None


def operands_in_full(module: GraphModule, node: Node) -> None:
    """Gives an operand with one channel all channels, by a convolution with ones, and makes an image of a constant per position."""
    a = arguments(node)
    for name in ("self", "other"):
        x, y = a[name], a["other" if name == "self" else "self"]
        reads = activations(node)
        if not (isinstance(x, Node) and y in reads):
            continue
        try:
            shape = feature_shape(node)
            if is_constant(x):
                image = _image(module, node, x, y, shape)
            elif x in reads and feature_shape(x)[0] == 1 < shape[0] and len(x.meta["val"].shape) == len(node.meta["val"].shape) > 2:
                image = _all_channels(module, node, x, shape[0])
            else:
                continue
        except ValueError:
            continue  # reported by the operator's rule
        if image is not None:
            node.replace_input_with(x, image)


def _all_channels(module: GraphModule, node: Node, x: Node, channels: int) -> Node:
    value = x.meta["val"]
    name = f"_{node.name}_ones"
    module.register_buffer(name, torch.ones(channels, *[1] * (value.dim() - 1)))
    with module.graph.inserting_before(node):
        ones = module.graph.get_attr(name)
        full = module.graph.call_function(_convolution(value.dim()), (x, ones))
    ones.meta["val"] = module.get_buffer(name).to("meta")
    full.meta = {**node.meta, "val": value.new_empty([value.shape[0], channels, *value.shape[2:]])}
    return full


def _image(module: GraphModule, node: Node, x: Node, like: Node, shape: tuple[int, int, int]) -> Node | None:
    """The constant `x` as an activation, where it has another value at every position: a kernel as large as the image meets a single
    pixel of value 1, so that each position sees one weight of its own. None where this is not needed or not possible."""
    value, rank = constant(module, x), len(node.meta["val"].shape)
    full = (1,) * (rank - value.dim()) + tuple(value.shape)
    sizes = [int(n) for n in node.meta["val"].shape[2:]]
    if rank < 3 or len(full) > rank or full[0] != 1 or all(n == 1 for n in full[2:]) or max(sizes) > 255:
        return None
    if (
        any(n not in (1, m) for n, m in zip(full[1:], (shape[0], *sizes), strict=True))
        or like.meta["val"].shape != node.meta["val"].shape
    ):
        return None
    batch, cin = like.meta["val"].shape[0], feature_shape(like)[0]
    flat, dims = [1] * (rank - 2), list(range(2, rank))
    zeros, one = f"_{node.name}_zeros", f"_{node.name}_one"
    module.register_buffer(zeros, torch.zeros(1, cin, *flat))
    module.register_buffer(one, torch.ones(1))
    graph = module.graph
    with graph.inserting_before(node):
        weight, bias = graph.get_attr(zeros), graph.get_attr(one)
        pixel = graph.call_function(_convolution(rank), (like, weight, bias, sizes))
        kernel = graph.call_function(_aten.expand.default, (x, [1, shape[0], *sizes]))
        kernel = graph.call_function(_aten.flip.default, (kernel, dims))
        kernel = graph.call_function(_aten.reshape.default, (kernel, [shape[0], 1, *sizes]))
        image = graph.call_function(_convolution(rank), (pixel, kernel, None, [1] * len(dims), [n - 1 for n in sizes]))
    weight.meta["val"], bias.meta["val"] = module.get_buffer(zeros).to("meta"), module.get_buffer(one).to("meta")
    kernel.meta["val"] = torch.empty(shape[0], 1, *sizes, device="meta")
    pixel.meta = {**node.meta, "val": like.meta["val"].new_empty([batch, 1, *flat])}
    image.meta = {**node.meta, "val": like.meta["val"].new_empty([batch, shape[0], *sizes])}
    return image


def _convolution(rank: int) -> Callable:
    return _aten.conv2d.default if rank == 4 else _aten.conv1d.default


# -- the operators ---------------------------------------------------------------------------------------------------


def broadcast_shapes(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The operands have as many dimensions and the same channels, or one channel; along height and width one of them has the size of
    the result, and the other the same size or 1. A constant is one number, or one per channel, position, or both. Bring both to the
    same shape, for instance by a 1x1 convolution."""
    x, y = a["self"], a["other"]
    if planner.known(x) and planner.known(y):
        found = f"shapes (N, {', '.join(str(n) for n in x.meta['val'].shape[1:])}) and (N, {', '.join(str(n) for n in y.meta['val'].shape[1:])})"
        return found if larger_first(x, y) is None else None
    return must.per_channel(planner, node, y if planner.known(x) else x)


@operator(
    "aten.add",
    "aten.sub",
    "aten.rsub",
    becomes="two tensors: fused into the convolution before it, else VEC with a residual; a constant: as a factor; a constant per "
    "position: CONV, whose kernel is the constant's image, over one pixel",
    constraints=(broadcast_shapes,),
    rewrite=operands_in_full,
)
def add(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    x, y = a["self"], a["other"]
    if not (planner.known(x) and planner.known(y)):
        apply_constant(planner, node, a)
        return
    alpha = float(a.get("alpha", 1))
    factors = {"aten.add": (1, alpha), "aten.sub": (1, -alpha), "aten.rsub": (-alpha, 1)}[operator_name(node)]
    ways = [(x, y, factors), (y, x, factors[::-1])]
    if feature_shape(x) != feature_shape(y):
        ways = ways[:1] if larger_first(x, y) else ways[1:]
    candidates = [] if x is y else [(planner.producer(n, node), other, f) for n, other, f in ways]
    fusable = [
        (layer.fan_in, layer, other, f)
        for layer, other, f in candidates
        if isinstance(layer, Weighted) and layer.activation.empty and not layer.residual and f[0] == 1
    ]
    if fusable:
        # The larger fan-in makes the finer unit of accumulation, in which the residual's weight is rounded.
        _, layer, other, f = max(fusable, key=lambda found: found[0])
        layer.add_residual(planner.value(other), f[1])
        planner.extend(layer, node)
    else:
        large, small, f = ways[0]
        planner.add(AddLayer(node, node, [planner.value(large), planner.value(small)], feature_shape(node), f))
