"""Transposed convolutions: one operation for each residue of the output's rows and columns modulo the stride.

Output pixel o of one axis sums x[i] * w[k] over i * stride - padding + k * dilation = o. Outputs with the same o % stride, a
*residue*, meet the same taps, at inputs that move by one from output to output: a plain convolution with stride 1, whose
outputs lie `stride` apart. No zero is inserted, and no input word is read for a tap that it does not have.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from sordino_hw.spec.numbers import wrap32

from ..fx.nodes import arguments, feature_rank, feature_shape, is_constant, pair
from ..graph import Window
from ..slots import compact
from . import constraints as must
from .conv import ChannelSum, Conv, WeightedSum
from .lanewise import Depthwise
from .operator import operator
from .planner import Planner

__all__ = ["ConvTranspose", "ConvTransposeLayer"]


# -- meaning and instructions ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ConvTranspose(ChannelSum):
    """Transposed convolution. `window` is that of the convolution which it transposes, from its output to its input."""

    kind: ClassVar[str] = "conv_transpose"

    def accumulate(self, inputs):
        x, (sy, sx), (dy, dx), (top, left, _, _) = inputs[0], self.window.stride, self.window.dilation, self.window.padding
        batch, _, h, w = x.shape
        cout, oh, ow = self.out.shape
        (kh, kw), size = self.window.kernel, self.group_size
        full = np.zeros(
            (batch, cout, max(top + oh, (h - 1) * sy + dy * (kh - 1) + 1), max(left + ow, (w - 1) * sx + dx * (kw - 1) + 1))
        )
        parts = np.split(x.astype(np.float64), self.groups, 1)
        for g, (part, weight) in enumerate(zip(parts, np.split(self.weight.astype(np.float64), self.groups), strict=True)):
            for ky in range(kh):
                for kx in range(kw):
                    rows, cols = slice(ky * dy, ky * dy + h * sy, sy), slice(kx * dx, kx * dx + w * sx, sx)
                    added = np.einsum("bihw,oi->bohw", part, weight[:, :, ky, kx])
                    full[:, g * size : (g + 1) * size, rows, cols][:, :, :h, :w] += added
        acc = full[:, :, top : top + oh, left : left + ow].astype(np.int64)  # exact: sums stay below 2**53
        if self.residual_weight is not None:
            acc = acc + inputs[1] * self.residual_weight[:, None, None]
        return wrap32(acc)

    def bound(self, peaks):
        return np.max([conv.bound(peaks) for conv, _, _ in self.residues()], 0)

    @property
    def macs(self) -> int:
        return int(self.weight.size * math.prod(self.window.out_size(*self.out.shape[1:])))

    def products(self, h: int, w: int) -> np.ndarray:
        counts = []
        for axis, size in enumerate((h, w)):
            at = np.arange(size)[:, None] * self.window.stride[axis] - self.window.padding[axis]
            at = at + np.arange(self.window.kernel[axis]) * self.window.dilation[axis]
            counts.append(((at >= 0) & (at < self.out.shape[1 + axis])).sum(1))
        return np.outer(*counts) * self.group_size

    def problems(self, ins, arch):
        size, (top, left, bottom, right) = ins[0].shape[1:], self.window.padding
        extent = [d * (k - 1) + 1 for d, k in zip(self.window.dilation, self.window.kernel, strict=True)]
        pads = (top + bottom, left + right)
        shape = (
            len(self.weight),
            *((n - 1) * s - p + e for n, s, p, e in zip(size, self.window.stride, pads, extent, strict=True)),
        )
        if self.out.shape != shape:
            yield f"shape {self.out.shape} should be {shape}"
        yield from super().problems(ins, arch)

    @property
    def depthwise(self) -> bool:
        """Whether every channel has a kernel of its own, so that vector mode takes a whole word at once."""
        return self.groups > 1 and self.weight.shape[1] == self.group_size == 1

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes) if self.depthwise else super().slots(inputs, lanes)

    def residual_slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes) if self.depthwise else super().residual_slots(inputs, lanes)

    def residues(self) -> Iterator[tuple[Conv | Depthwise, range, range]]:
        """A convolution for each residue, and the rows and columns of outputs that it makes."""
        (_, oh, ow), (sy, sx) = self.out.shape, self.window.stride
        for ry in range(min(sy, oh)):
            for rx in range(min(sx, ow)):
                rows, columns = range(ry, oh, sy), range(rx, ow, sx)
                yield self._residue(rows, columns), rows, columns

    def _residue(self, rows: range, columns: range) -> Conv | Depthwise:
        size = self.window.out_size(*self.out.shape[1:])
        (ty, y0), (tx, x0) = (self._taps(axis, outputs.start) for axis, outputs in enumerate((rows, columns)))
        weight = self.weight[:, :, ty][:, :, :, tx]
        if not weight.size:  # nothing but bias (and residual): a tap of zeros that is never inside the input
            (y0, x0), weight = size, np.zeros((*self.weight.shape[:2], 1, 1), np.int8)
        kernel, steps = weight.shape[2:], self._steps()
        below, right = (
            len(outputs) + first + step * (k - 1) - n
            for outputs, first, step, k, n in zip((rows, columns), (y0, x0), steps, kernel, size, strict=True)
        )
        common: dict[str, Any] = {
            "out": replace(self.out, shape=(len(self.weight), len(rows), len(columns))),
            "inputs": self.inputs,
            "window": Window(kernel, (1, 1), (-y0, -x0, below, right), steps),
            "requant": self.requant,
            "residual_weight": self.residual_weight,
            "source": self.source,
        }
        if self.depthwise:
            return Depthwise(weight=weight[:, 0].astype(np.int64), **common)
        return Conv(weight=weight, groups=self.groups, **common)

    def _steps(self) -> tuple[int, int]:
        """Inputs from tap to tap of a residue, along both axes."""
        dy, dx = (d // math.gcd(s, d) for s, d in zip(self.window.stride, self.window.dilation, strict=True))
        return dy, dx

    def _taps(self, axis: int, residue: int) -> tuple[list[int], int]:
        """The taps that meet outputs `residue`, `residue + stride`, ... of an axis, in the order of their inputs; the first's input."""
        stride, dilation, before = self.window.stride[axis], self.window.dilation[axis], self.window.padding[axis]
        taps = [k for k in range(self.window.kernel[axis]) if (residue + before - k * dilation) % stride == 0][::-1]
        return taps, (residue + before - taps[0] * dilation) // stride if taps else 0

    def parts(self, inputs, out, arch):
        x, *others = inputs
        for conv, rows, columns in self.residues():
            yield conv, [x, *(v.part(rows, columns) for v in others)], out.part(rows, columns)


# -- from PyTorch ----------------------------------------------------------------------------------------------------

_library = torch.library.Library("sordino", "FRAGMENT")
_library.define(
    "conv_transpose(Tensor input, Tensor weight, Tensor? bias, int[] stride, int[] padding, int[] output_padding, int groups, "
    "int[] dilation) -> Tensor"
)


def _conv_transpose(x: Tensor, weight: Tensor, bias: Tensor | None, stride, padding, output_padding, groups: int, dilation):
    """`torch.nn.functional.conv_transpose1d` and `2d`, but with `weight` [cout, cin / groups, ...]: output channels first."""
    apply = torch.nn.functional.conv_transpose1d if x.dim() == 3 else torch.nn.functional.conv_transpose2d
    by_input = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return apply(x, by_input, bias, stride, padding, output_padding, groups, dilation)


_library.impl("conv_transpose", _conv_transpose, "CompositeImplicitAutograd")


def output_channels_first(module: GraphModule, node: Node) -> None:
    """The call with its weights' output channels first, as those of all weighted layers: scales are per output channel."""
    a, aten = arguments(node), torch.ops.aten
    weight, groups = a["weight"], a["groups"]
    if not is_constant(weight):
        return  # reported by the operator's rule
    cin, size, *kernel = weight.meta["val"].shape
    with module.graph.inserting_before(node):
        for operator_, args in (
            (aten.reshape.default, ([groups, cin // groups, size, *kernel],)),
            (aten.transpose.int, (1, 2)),
            (aten.reshape.default, ([groups * size, cin // groups, *kernel],)),
        ):
            value = operator_(weight.meta["val"], *args)
            weight = module.graph.call_function(operator_, (weight, *args))
            weight.meta["val"] = value
    node.target = torch.ops.sordino.conv_transpose.default
    node.args = (a["input"], weight, a["bias"], a["stride"], a["padding"], a["output_padding"], groups, a["dilation"])
    node.kwargs = {}


@dataclass
class ConvTransposeLayer(WeightedSum):
    """A transposed convolution."""

    @property
    def fan_in(self) -> int:
        return max(1, super().fan_in // math.prod(self.window.stride))

    def node(self, low, integers, **common):
        return ConvTranspose(weight=integers, groups=self.groups, **common)


_BECOMES = "CONV, one for each residue of rows and columns modulo the stride; depthwise: VEC"
_RULES = (must.constant_weight, must.kernel_size, must.steps)


@operator("sordino.conv_transpose", becomes=_BECOMES, constraints=_RULES, weighted=True)
@operator("aten.conv_transpose2d", "aten.conv_transpose1d", becomes=_BECOMES, constraints=_RULES, rewrite=output_channels_first)
def conv_transpose(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    two = feature_rank(node) == 3
    kernel, stride = pair(list(a["weight"].meta["val"].shape[2:]), 1, two), pair(a["stride"], 1, two)
    (top, left), (below, right) = pair(a["padding"], 0, two), pair(a["output_padding"], 0, two)
    window = Window(kernel, stride, (top, left, top - below, left - right), pair(a["dilation"], 1, two))
    source, shape = planner.value(a["input"]), feature_shape(node)
    planner.add(ConvTransposeLayer(node, node, [source], shape, a["weight"], a["bias"], window=window, groups=a["groups"]))
