"""Means, sums, maxima and minima over channels, height and width: pooling with a window of the whole axis, and a convolution over channels."""

import math
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import arguments, feature_shape, operator_name
from .average import AverageLayer
from .maxpool import MaxPoolLayer, first_result, planned_form
from .operator import operator
from .planner import Planner
from .regions import Reach, Span, spans

__all__: list[str] = []

_aten = torch.ops.aten
LONGEST = 255
"""Rows or columns of a window of maxima."""
MOST_PARTS = 16
"""Parts that are added or compared one by one."""


# -- rewriting -------------------------------------------------------------------------------------------------------


def _dims(node: Node, a: dict[str, Any]) -> list[int]:
    """The dimensions that are reduced, ascending."""
    rank, given = len(a["self"].meta["val"].shape), a.get("dim")
    given = [given] if isinstance(given, int) else given or range(rank)
    return sorted({d % rank for d in given})


class _Rewriting:
    """Calls inserted in front of a node, with its source."""

    def __init__(self, module: GraphModule, node: Node):
        self.module, self.node = module, node

    def call(self, target: Any, *args: Any) -> Node:
        """A call whose first argument, or the first in a list, is an activation."""
        with self.module.graph.inserting_before(self.node):
            new = self.module.graph.call_function(target, args)
        values = torch.fx.map_arg(args, lambda n: n.meta["val"])
        new.meta = {**self.node.meta, "val": target(*values)}
        return new

    def over_channels(self, x: Node, weight: float, groups: int = 1) -> Node:
        """The sum over the channels of each group, times a constant: a convolution with one output channel for a group."""
        _, channels, *size = x.meta["val"].shape
        shape = (groups, channels // groups, *(1 for _ in size))
        name = f"_{self.node.name}_weight"
        self.module.register_buffer(name, torch.full(shape, weight))
        with self.module.graph.inserting_before(self.node):
            constant = self.module.graph.get_attr(name)
            if size:
                target = (_aten.conv1d if len(size) == 1 else _aten.conv2d).default
                new = self.module.graph.call_function(target, (x, constant), {"groups": groups})
            else:
                new = self.module.graph.call_function(_aten.linear.default, (x, constant))
        value = x.meta["val"]
        constant.meta["val"] = torch.empty(shape, device="meta")
        new.meta = {**self.node.meta, "val": value.new_empty((value.shape[0], groups, *size))}
        return new

    def greatest_channel(self, x: Node) -> Node:
        """The maximum over the channels: halves are compared until one channel is left."""
        while (channels := x.meta["val"].shape[1]) > 1:
            half = channels // 2
            a, b = (self.call(_aten.slice.Tensor, x, 1, start, start + half) for start in (0, half))
            m = self.call(_aten.maximum.default, a, b)
            rest = channels % 2 and self.call(_aten.slice.Tensor, x, 1, 2 * half, channels)
            x = self.call(_aten.cat.default, [m, rest], 1) if rest else m
        return x


def _pairwise(module: GraphModule, node: Node) -> bool:
    """A reduction over the dimension that `torch.stack` has just made, or over a short one of more than four, as groups of channels
    have: additions, or maxima, of the parts."""
    a, do = arguments(node), _Rewriting(module, node)
    made, dims = a["self"], _dims(node, a)
    shape = made.meta["val"].shape
    if len(dims) != 1:
        return False
    if operator_name(made) == "aten.stack" and arguments(made)["dim"] % len(shape) == dims[0]:
        parts = list(made.args[0])
    elif len(shape) > 4 and dims[0] > 0 and shape[dims[0]] <= MOST_PARTS:
        parts = [do.call(_aten.select.int, made, dims[0], i) for i in range(shape[dims[0]])]
    else:
        return False
    kinds = {"mean": _aten.add.Tensor, "sum": _aten.add.Tensor, "amax": _aten.maximum.default, "amin": _aten.minimum.default}
    name = operator_name(node).removeprefix("aten.")
    x, *others = parts
    for other in others:
        x = do.call(kinds[name], x, other)
    x = do.call(_aten.mul.Tensor, x, 1 / len(parts)) if name == "mean" else x
    x = do.call(_aten.unsqueeze.default, x, dims[0]) if a.get("keepdim") else x
    node.replace_all_uses_with(x)
    module.graph.erase_node(node)
    return True


def _grouped(module: GraphModule, node: Node) -> bool:
    """A sum or a mean over groups of channels, or within them, of (N, groups, channels, H, W)."""
    a, name, do = arguments(node), operator_name(node), _Rewriting(module, node)
    x, dims = a["self"], _dims(node, a)
    shape = x.meta["val"].shape
    if len(shape) != 5 or dims not in ([1], [2]) or name not in ("aten.mean", "aten.sum"):
        return False
    x = do.call(_aten.transpose.int, x, 1, 2) if dims == [1] else x
    kept, summed = (int(n) for n in x.meta["val"].shape[1:3])
    x = do.over_channels(do.call(_aten.flatten.using_ints, x, 1, 2), 1 / summed if name == "aten.mean" else 1.0, kept)
    x = do.call(_aten.unsqueeze.default, x, dims[0]) if a.get("keepdim") else x
    node.replace_all_uses_with(x)
    module.graph.erase_node(node)
    return True


def _flattened(module: GraphModule, node: Node) -> bool:
    """A reduction over the last of more than four dimensions, as of (N, groups, channels, H, W): of (N, C, L) over L."""
    a, do = arguments(node), _Rewriting(module, node)
    x, dims = a["self"], _dims(node, a)
    shape = x.meta["val"].shape
    first = len(shape) - len(dims)
    if len(shape) <= 4 or a.get("keepdim") or dims != list(range(first, len(shape))) or first < 2:
        return False
    x = do.call(_aten.flatten.using_ints, do.call(_aten.flatten.using_ints, x, first, -1), 1, first - 1)
    x = do.call(node.target, x, [2])
    x = x if first == 2 else do.call(_aten.unflatten.int, x, 1, [int(n) for n in shape[1:first]])
    node.replace_all_uses_with(x)
    module.graph.erase_node(node)
    return True


def in_steps(module: GraphModule, node: Node) -> None:
    """A reduction over channels too, a minimum, and one whose result has another layout, in steps that are planned by themselves."""
    a, name = arguments(node), operator_name(node).removeprefix("aten.")
    if _grouped(module, node) or _pairwise(module, node) or _flattened(module, node) or len(a["self"].meta["val"].shape) > 4:
        return
    x, value = a["self"], a["self"].meta["val"]
    dims, keeps = _dims(node, a), bool(a.get("keepdim"))
    spatial, channels = [d for d in dims if d > 1], 1 in dims
    sizes = [value.shape[d] for d in spatial]
    simple = not channels and name != "amin" and not (name == "amax" and max(sizes, default=0) > LONGEST)
    if 0 in dims or (simple and not _moved(node, a)):
        return  # planned as it is, or reported by the operator's rule
    do = _Rewriting(module, node)
    x = do.call(_aten.neg.default, x) if name == "amin" else x
    if spatial and name in ("amax", "amin"):
        if max(sizes) > LONGEST:
            size = [-(-n // LONGEST) if d in spatial else n for d, n in enumerate(value.shape) if d > 1]
            x = do.call(torch.ops.sordino.adaptive_max_pool.default, x, size)
        x = do.call(_aten.amax.default, x, spatial, True)
    elif spatial:
        x = do.call(_aten.mean.dim if name == "mean" else _aten.sum.dim_IntList, x, spatial, True)
    if channels:
        mean = 1 / value.shape[1] if name == "mean" else 1.0
        x = do.greatest_channel(x) if name in ("amax", "amin") else do.over_channels(x, mean)
    x = do.call(_aten.neg.default, x) if name == "amin" else x
    x = x if keeps else do.call(_aten.squeeze.dims, x, dims)
    node.replace_all_uses_with(x)
    module.graph.erase_node(node)


def maxima_only(module: GraphModule, node: Node) -> None:
    """`x.max(dim)` is `x.amax(dim)` where nothing reads the places; `torch.max(x, y)` is the greater of each two."""
    if node.target._overloadname == "other":  # type: ignore[union-attr]
        node.target = (_aten.maximum if operator_name(node) == "aten.max" else _aten.minimum).default
        planned_form(module, node)
        return
    if node.target._overloadname != "dim" or any(u.args[1] != 0 for u in node.users if u.users):  # type: ignore[union-attr]
        return  # reported by the operator's rule
    a = arguments(node)
    target = (_aten.amax if operator_name(node) == "aten.max" else _aten.amin).default
    first_result(module, node, target, (a["self"], [a["dim"]], a["keepdim"]))


# -- rules -----------------------------------------------------------------------------------------------------------


def _kept(node: Node, a: dict[str, Any]) -> tuple[int, int, int]:
    """The result's channels, height and width if all dimensions are kept."""
    shape = a["self"].meta["val"].shape
    c, *size = (1 if d in _dims(node, a) else shape[d] for d in range(1, len(shape)))
    h, w = (1, 1, *size)[-2:]
    return c, h, w


def _moved(node: Node, a: dict[str, Any]) -> bool:
    """Whether dropping dimensions makes rows of columns, as `x.mean(3)` of (N, C, H, W): it is (N, C, L) then."""
    return feature_shape(node) != _kept(node, a)


def not_the_batch(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A mean, sum, maximum or minimum is taken within an image, not over the batch. Name the dimensions: dim=(2, 3)."""
    return f"dim={a.get('dim')}" if 0 in _dims(node, a) else None


def no_places(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A maximum or minimum has a value, not a place, and is taken within an image. Use x.amax(dim=(2, 3)), and torch.argmax behind
    the model."""
    return "the indices are read" if a.get("dim") is not None else "no dim"


# -- from PyTorch ----------------------------------------------------------------------------------------------------


def _axes(node: Node, source: Node, a: dict[str, Any]) -> tuple[tuple[Span, ...], tuple[Span, ...]]:
    """The spans of rows and of columns."""
    dims, rank = _dims(node, a), len(a["self"].meta["val"].shape)

    def along(axis: int, size: int) -> tuple[Span, ...]:
        whole = axis > 1 and axis in dims
        return spans([Reach(0, size)] if whole else [Reach(i, 1) for i in range(size)])

    _, h, w = feature_shape(source)
    return along(rank - 2, h), along(rank - 1, w)


@operator(
    "aten.mean",
    "aten.sum",
    becomes="VEC (MAC) over height and width; CONV (1x1, constant weights) over channels",
    constraints=(not_the_batch,),
    rewrite=in_steps,
    homogeneous=True,
)
def mean(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(a["self"])
    rows, columns = _axes(node, source, a)
    count = math.prod(a["self"].meta["val"].shape[d] for d in _dims(node, a))
    divisor = count if operator_name(node) == "aten.mean" else 1
    planner.add(AverageLayer(node, node, [source], feature_shape(node), rows=rows, columns=columns, divisor=divisor))


@operator(
    "aten.amax",
    "aten.amin",
    becomes="VEC (MAX) over height and width; over channels, maxima of halves",
    constraints=(not_the_batch,),
    rewrite=in_steps,
    homogeneous=True,
)
def amax(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(a["self"])
    rows, columns = _axes(node, source, a)
    planner.add(MaxPoolLayer(node, node, [source], feature_shape(node), rows, columns))


@operator("aten.max", "aten.min", becomes="as aten.amax", constraints=(no_places,), rewrite=maxima_only)
def max_(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    raise AssertionError("`maxima_only` leaves no call that keeps the rules")
