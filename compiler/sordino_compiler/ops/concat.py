"""Concatenation of channels, rows or columns: the parts are written where the whole lies, so it takes no instructions."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from ..fx.nodes import arguments, attribute, feature_rank, feature_shape, is_size, operator_name
from ..graph import Rearrangement
from ..slots import Slots, compact, owner, width
from .layer import Layer
from .operator import operator
from .planner import Planner

__all__ = ["Concat", "ConcatLayer"]


# -- meaning and layout ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Concat(Rearrangement):
    """Concatenation of channels (`axis` 0), rows or columns; all parts share one scale and signedness with the output, and live in
    its memory."""

    axis: int = 0

    kind: ClassVar[str] = "concat"

    def problems(self, ins, arch):
        shape, axis = self.out.shape, self.axis
        if shape[axis] != sum(v.shape[axis] for v in ins):
            yield f"shape {shape}"
        for v in ins:
            if any(a != b for i, (a, b) in enumerate(zip(v.shape, shape, strict=True)) if i != axis):
                yield f"part {v.name!r} has shape {v.shape}"
            if (v.scale, v.signed, v.lowest) != (self.out.scale, self.out.signed, self.out.lowest):
                yield f"part {v.name!r} has another scale or sign"

    def evaluate(self, inputs, arch):
        return np.concatenate(inputs, 1 + self.axis)

    def layout(self, inputs, shapes, lanes, fold=1):
        slots: Slots = compact(inputs[0].slots, lanes) if self.axis else ()
        for part in () if self.axis else inputs:
            start = width(slots, lanes) if slots else 0
            slots += tuple(start * lanes + s for s in compact(part.slots, lanes))
        return owner(self.out.name, self.out.shape[2], slots, lanes, fold)

    def homes(self, inputs, shapes, lanes):
        sizes = [shape[self.axis] if self.axis else width(part.slots, lanes) for part, shape in zip(inputs, shapes, strict=True)]
        starts = [tuple(int(start) * (i == self.axis) for i in range(3)) for start in np.cumsum([0, *sizes])]
        return dict(zip(self.inputs, starts, strict=False))


# -- forms -----------------------------------------------------------------------------------------------------------

_aten = torch.ops.aten
_LIKE = {f"aten.{name}" for name in ("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")}
"""Constants that take an activation's shape."""
_RANDOM = ("rand", "bernoulli", "normal", "dropout")


def _constant(module: GraphModule, node: Any) -> Any:
    """The value for a batch of one of what depends on no activation, but maybe on sizes; None for anything else."""
    if not isinstance(node, Node):
        return node
    if node.op == "get_attr":
        return attribute(module, str(node.target))
    if is_size(node):
        size = node.meta["val"]
        return size if isinstance(size, int | float) else 1
    name = operator_name(node)
    if node.op != "call_function" or any(word in name for word in _RANDOM):
        return None
    if name in _LIKE:
        shape = [s if isinstance(s, int) else 1 for s in node.args[0].meta["val"].shape]  # type: ignore[union-attr]
        inputs = {node.args[0]: torch.empty(shape)}
    else:
        inputs = {n: _constant(module, n) for n in node.all_input_nodes}
    if any(v is None for v in inputs.values()):
        return None
    with torch.no_grad():
        return node.target(*torch.fx.map_arg(node.args, inputs.get), **torch.fx.map_arg(node.kwargs, inputs.get))  # type: ignore[operator]


def constant_channels(module: GraphModule, node: Node) -> None:
    """Constant channels of one value each become the bias of a convolution without weights, over a part that is an activation."""
    a = arguments(node)
    parts, axis = list(a["tensors"]), _axis(node, a)
    found = [_constant(module, n) for n in parts]
    moving = [n for n, value in zip(parts, found, strict=True) if value is None]
    if axis != 1 or not moving:
        return
    for i, value in enumerate(found):
        if isinstance(value, Tensor) and _even(value):
            parts[i] = _bias(module, node, moving[0], value[0].flatten(1)[:, 0] if value.dim() > 2 else value[0], i)
    node.args, node.kwargs = (parts, axis), {}


def _even(value: Tensor) -> bool:
    """Whether a tensor [1, channels, ...] has one value per channel."""
    flat = value.flatten(2) if value.dim() > 2 else value[:, :, None]
    return len(value) == 1 and bool((flat == flat[:, :, :1]).all())


def _bias(module: GraphModule, node: Node, x: Node, values: Tensor, index: int) -> Node:
    """A convolution of `x` that gives constants [channels] everywhere."""
    _, channels, *size = x.meta["val"].shape
    target = (_aten.linear, _aten.conv1d, _aten.conv2d)[len(size)].default
    tensors = {"weight": torch.zeros(len(values), channels, *(1 for _ in size)), "bias": values.detach().float().clone()}
    with module.graph.inserting_before(node):
        reads = []
        for name, value in tensors.items():
            module.register_buffer(f"_{node.name}_{index}_{name}", value)
            reads.append(module.graph.get_attr(f"_{node.name}_{index}_{name}"))
            reads[-1].meta["val"] = torch.empty_like(value, device="meta")
        new = module.graph.call_function(target, (x, *reads))
    like = x.meta["val"]
    new.meta = {**node.meta, "val": like.new_empty((like.shape[0], len(values), *size))}
    return new


def as_cat(module: GraphModule, node: Node) -> None:
    """Other names of `torch.cat`; and `torch.stack`, a concatenation of tensors with a further dimension, of up to 4 dimensions."""
    a, name, rank = arguments(node), operator_name(node).removeprefix("aten."), len(node.meta["val"].shape)
    parts = list(a["tensors"])
    dim = {"hstack": 1, "dstack": 2, "vstack": 0}.get(name, a.get("dim") or 0)
    if name == "stack":
        dim = dim % rank
        if rank > 4:
            _shown(module, node, parts, dim)
            return
        for i, n in enumerate(parts):
            with module.graph.inserting_before(node):
                parts[i] = module.graph.call_function(_aten.unsqueeze.default, (n, dim))
            parts[i].meta = {**node.meta, "val": _aten.unsqueeze.default(n.meta["val"], dim)}
    node.target, node.args, node.kwargs = _aten.cat.default, (parts, dim), {}
    constant_channels(module, node)


def _shown(module: GraphModule, node: Node, parts: list[Node], dim: int) -> None:
    """A stack of five dimensions as a concatenation of channels that views show in five; a batch in the second is left as it is."""
    if dim == 0:
        return  # reported by the operator's rule
    value = parts[0].meta["val"]
    joined = value.new_empty((value.shape[0], len(parts) * value.shape[1], *value.shape[2:]))
    with module.graph.inserting_before(node):
        cat = module.graph.call_function(_aten.cat.default, (parts, 1))
        cat.meta = {**node.meta, "val": joined}
        shown = module.graph.call_function(_aten.unflatten.int, (cat, 1, [len(parts), int(value.shape[1])]))
        shown.meta = {**node.meta, "val": _aten.unflatten.int(joined, 1, [len(parts), int(value.shape[1])])}
    node.target, node.args, node.kwargs = _aten.movedim.int, (shown, 1, dim), {}


# -- from PyTorch ----------------------------------------------------------------------------------------------------


@dataclass
class ConcatLayer(Layer):
    """A concatenation: its parts share one scale."""

    axis: int = 0

    @property
    def scale_sources(self) -> list[Node]:
        return self.inputs

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return Concat(value, inputs, self.axis, source=source)


def _axis(node: Node, a: dict[str, Any]) -> int:
    return int(a["dim"] or 0) % len(node.meta["val"].shape)


def within_an_image(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Concatenation joins channels, rows or columns of an image, not images. Return the parts as outputs of their own, and join the
    batch behind the model."""
    return "dim=0" if _axis(node, a) == 0 else None


def activations_only(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The parts of a concatenation are activations, or constant channels of one value each. Give what changes from pixel to pixel
    (coordinates), and constant rows, as a further input of the model."""
    constants = [n for n in a["tensors"] if not planner.known(n)]
    return f"{len(constants)} constant parts along dim={_axis(node, a)}" if constants else None


@operator(
    "aten.cat",
    becomes="allocation; constant channels: CONV (1x1)",
    constraints=(within_an_image, activations_only),
    rewrite=constant_channels,
)
def cat(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    inputs, axis, rank = [planner.value(n) for n in a["tensors"]], _axis(node, a), feature_rank(node)
    # The last dimension of (N, C, L) holds columns.
    planner.add(ConcatLayer(node, node, inputs, feature_shape(node), 0 if axis == 1 else axis + 2 - rank))


def four_dimensions(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A stack has at most 4 dimensions, or is summed, averaged or compared at once over the new dimension. Use torch.cat along the
    channels, or a + b, torch.maximum(a, b)."""
    return f"{len(node.meta['val'].shape)} dimensions"


@operator(
    "aten.concat",
    "aten.concatenate",
    "aten.hstack",
    "aten.vstack",
    "aten.dstack",
    "aten.stack",
    becomes="as aten.cat; a reduced stack: additions or maxima",
    constraints=(four_dimensions,),
    rewrite=as_cat,
)
def stack(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    raise AssertionError("`as_cat` leaves no call that keeps the rules")
