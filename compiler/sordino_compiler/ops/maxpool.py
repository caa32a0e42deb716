"""Max pooling: the greatest value of every window, vector mode."""

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sordino_hw.spec.isa import Mode, Opcode

from ..emit.operation import Images
from ..fx.nodes import arguments, feature_rank, feature_shape, operator_name, pair
from ..graph import Computation, Window
from ..slots import compact
from . import constraints as must
from .layer import Layer
from .operator import operator, traits
from .planner import Planner
from .regions import Reach, Region, Regions, Span, adaptive, along_each_axis, span_window, spans

__all__ = ["MaxPool", "MaxPoolLayer"]


@dataclass(frozen=True, kw_only=True)
class MaxPool(Computation):
    """Max pooling; padding never wins. A window that lies wholly in the padding counts as 0."""

    kind: ClassVar[str] = "maxpool"

    def accumulate(self, inputs):
        least = -(1 << 31)
        acc = self.window.patches(inputs[0], fill=least).max((4, 5))
        return np.where(acc == least, 0, acc)

    def bound(self, peaks):
        return np.full(self.out.shape[0], peaks[0], np.int64)

    def problems(self, ins, arch):
        c, h, w = ins[0].shape
        shape = (c, *self.window.out_size(h, w))
        if self.out.shape != shape:
            yield f"shape {self.out.shape} should be {shape}"
        if self.residual_weight is not None:
            yield "a maximum has no residual"
        yield from super().problems(ins, arch)

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes)

    def as_row(self, window: Window) -> "MaxPool":
        return replace(self, window=window)

    def fits(self, tile, channels, arch):
        # There are no partial maxima: the state memories add.
        return tile.taps == self.window.kernel[0] * self.window.kernel[1]

    def images(self, x, slices, tile, span, arch, dense):
        return Images(Opcode.VEC, Mode.MAX, {})


@dataclass
class MaxPoolLayer(Layer):
    """Max pooling; the output has its input's scale."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    dilation: tuple[int, int] = (1, 1)

    named_by_module: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        size = low.values[self.inputs[0]].shape[1:]
        regions = []
        for row, column in product(self.rows, self.columns):
            part = replace(value, shape=(value.shape[0], len(row.outputs), len(column.outputs)))
            window = span_window(row, column, size, self.dilation)
            node = MaxPool(out=part, inputs=inputs, window=window, requant=low.identity(self), source=source)
            regions.append(Region(row.outputs, column.outputs, node))
        return Regions.of(value, inputs, regions, source)


# -- forms -----------------------------------------------------------------------------------------------------------

_library = torch.library.Library("sordino", "FRAGMENT")
_library.define("adaptive_max_pool(Tensor input, int[] output_size) -> Tensor")
_library.define("max_pool(Tensor self, int[] kernel_size, int[] stride, int[] padding, int[] dilation) -> Tensor")


def _adaptive_max_pool(x: Tensor, output_size: list[int]) -> Tensor:
    """`torch.nn.functional.adaptive_max_pool1d` and `2d`: an operator with one output."""
    apply = torch.nn.functional.adaptive_max_pool1d if x.dim() == 3 else torch.nn.functional.adaptive_max_pool2d
    return apply(x, output_size)


def _max_pool(x: Tensor, kernel_size: list[int], stride: list[int], padding: list[int], dilation: list[int]) -> Tensor:
    """Max pooling in two dimensions whose `padding` (top, left, bottom, right) never wins; (N, C, L) has one row."""
    top, left, bottom, right = padding
    rows = x if x.dim() == 4 else x.unsqueeze(2)
    rows = torch.nn.functional.pad(rows, (left, right, top, bottom), value=-math.inf)
    y = torch.nn.functional.max_pool2d(rows, kernel_size, stride, 0, dilation)
    return y if x.dim() == 4 else y.squeeze(2)


_library.impl("adaptive_max_pool", _adaptive_max_pool, "CompositeImplicitAutograd")
_library.impl("max_pool", _max_pool, "CompositeImplicitAutograd")

BELOW_ALL = -1000.0
"""A padding by this or less in front of a max pooling stands for minus infinity."""


def takes_padding(module: GraphModule, node: Node) -> None:
    """A padding in front of a max pooling, by what is below all activations, becomes its own, if every window holds some of the input."""
    a, two = arguments(node), feature_rank(node) == 3
    padded = a["self"]
    if operator_name(padded) != "aten.constant_pad_nd" or a["ceil_mode"]:
        return
    x, pads, value = padded.args
    if value > BELOW_ALL or any(pads[4 if two else 2 :]):
        return
    left, right, top, bottom = (*pads, 0, 0, 0, 0)[:4]
    kernel, (py, px) = pair(a["kernel_size"], 1, two), pair(a["padding"], 0, two)
    stride, dilation = pair(a["stride"] or a["kernel_size"], 1, two), pair(a["dilation"], 1, two)
    sides = (top + py, left + px, bottom + py, right + px)
    for size, outputs, k, s, d, before in zip(
        feature_shape(x)[1:], feature_shape(node)[1:], kernel, stride, dilation, sides[:2], strict=True
    ):
        taps = np.arange(outputs)[:, None] * s - before + np.arange(k) * d
        if not ((taps >= 0) & (taps < size)).any(1).all():
            return
    node.target = torch.ops.sordino.max_pool.default
    node.args, node.kwargs = (x, kernel, stride, sides, dilation), {}


def values_only(module: GraphModule, node: Node) -> None:
    """A pooling that gives maxima and their places becomes the one that gives the maxima, where nothing reads the places."""
    read = {u: u.args[1] for u in node.users if u.users}
    if any(operator_name(u) != "getitem" or index != 0 for u, index in read.items()):
        return  # reported by the operator's rule
    a, aten = arguments(node), torch.ops.aten
    if operator_name(node).startswith("aten.adaptive"):
        target, args = torch.ops.sordino.adaptive_max_pool.default, (a["self"], a["output_size"])
    else:
        target = (aten.max_pool2d if feature_rank(a["self"]) == 3 else aten.max_pool1d).default
        args = tuple(a.values())
    first_result(module, node, target, args)


def first_result(module: GraphModule, node: Node, target: Any, args: tuple) -> None:
    """Puts a call in place of one with several results of which only the first is read, in the form that is planned."""
    with module.graph.inserting_before(node):
        new = module.graph.call_function(target, args)
    new.meta = {**node.meta, "val": node.meta["val"][0]}
    for user in list(node.users):
        user.replace_all_uses_with(new)
        module.graph.erase_node(user)
    module.graph.erase_node(node)
    planned_form(module, new)


def planned_form(module: GraphModule, node: Node) -> None:
    """Brings a call that a rewrite has made into the form that is planned."""
    entry = traits(node)
    if entry and entry.rewrite:
        entry.rewrite(module, node)


def no_places(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Pooling gives the maxima, not their places. Use return_indices=False; for unpooling use nn.Upsample, or
    nn.ConvTranspose2d with stride 2."""
    return "a result that reads the indices"


def window_size(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A maximum is taken over at most 255 rows and 255 columns at once. Put nn.MaxPool2d(2) in front of it."""
    (_, h, w), (_, oh, ow) = feature_shape(a["input"]), feature_shape(node)
    window = max(s.taps for s in adaptive(oh, h, False)), max(s.taps for s in adaptive(ow, w, False))
    return None if max(window) <= 255 else f"windows of {window[0]}x{window[1]}"


# -- from PyTorch ----------------------------------------------------------------------------------------------------

_BECOMES = "VEC (MAX), one for each region of outputs whose windows are alike and evenly spaced"


@operator(
    "aten.max_pool2d",
    "aten.max_pool1d",
    becomes="VEC (MAX)",
    constraints=(must.kernel_size, must.steps),
    rewrite=takes_padding,
    homogeneous=True,
)
@operator("sordino.max_pool", becomes="VEC (MAX)", constraints=(must.kernel_size, must.steps), homogeneous=True)
def max_pool(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source, two = planner.value(a["self"]), feature_rank(node) == 3
    if operator_name(node) == "sordino.max_pool":
        kernel, stride, padding, dilation = a["kernel_size"], a["stride"], a["padding"][:2], a["dilation"]
    else:
        kernel, padding = pair(a["kernel_size"], 1, two), pair(a["padding"], 0, two)
        stride, dilation = pair(a["stride"] or a["kernel_size"], 1, two), pair(a["dilation"], 1, two)
    # Padding never wins, so a last window that ceil_mode lets hang over needs no care, nor do rows that no window reaches.
    rows, columns = (
        spans([Reach(i * s - p, k) for i in range(outputs)])
        for outputs, k, s, p in zip(feature_shape(node)[1:], kernel, stride, padding, strict=True)
    )
    planner.add(MaxPoolLayer(node, node, [source], feature_shape(node), rows, columns, tuple(dilation)))


@operator(
    "aten.max_pool2d_with_indices",
    "aten.max_pool1d_with_indices",
    "aten.adaptive_max_pool2d",
    "aten.adaptive_max_pool1d",
    becomes=_BECOMES,
    constraints=(no_places,),
    rewrite=values_only,
)
@operator("sordino.adaptive_max_pool", becomes=_BECOMES, constraints=(window_size,), rewrite=along_each_axis, homogeneous=True)
def adaptive_max_pool(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(a["input"])
    axes = zip(feature_shape(node)[1:], feature_shape(source)[1:], strict=True)
    rows, columns = (adaptive(*axis, repeats=False) for axis in axes)
    planner.add(MaxPoolLayer(node, node, [source], feature_shape(node), rows, columns))
