"""Convolutions and fully connected layers: event mode, or vector mode where every channel has a kernel of its own."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch.fx import GraphModule, Node

from sordino_hw.spec.isa import Mode, Opcode
from sordino_hw.spec.numbers import wrap32

from ..emit.events import event_images, trimmed
from ..emit.operation import Images
from ..factors import WIDE_MAX, exact_factor
from ..fx.nodes import arguments, constant, feature_rank, feature_shape, operator_name, pair
from ..graph import Computation, Window
from ..slots import Slots, compact, packed
from . import constraints as must
from . import contraction
from .contraction import rewritten
from .lanewise import Depthwise
from .layer import Weighted
from .lowering import BIAS_MAX, Lowering
from .operator import operator
from .planner import Planner

__all__ = ["ChannelSum", "Conv", "ConvLayer", "LinearLayer", "Relayout", "WeightedSum"]

SNAP_ERROR = 1e-5
"""Relative error that float32 scales may bring to a snapped factor."""


# -- meaning and instructions ----------------------------------------------------------------------------------------


def dot(patches: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Exact integer contraction through float64 GEMM (sums stay below 2**53): [b,c,oh,ow,kh,kw] x [o,c,kh,kw]."""
    b, c, oh, ow, kh, kw = patches.shape
    a = np.ascontiguousarray(patches.transpose(0, 2, 3, 1, 4, 5), np.float64).reshape(b * oh * ow, c * kh * kw)
    y = a @ weight.reshape(len(weight), -1).T.astype(np.float64)
    return y.reshape(b, oh, ow, len(weight)).transpose(0, 3, 1, 2).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class ChannelSum(Computation):
    """Base of the nodes whose outputs sum over the input channels of their group, event mode.

    `weight` int8 [cout, cin / groups, kh, kw].
    """

    weight: np.ndarray
    groups: int = 1

    events: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    @property
    def group_size(self) -> int:
        """Output channels of a group."""
        return len(self.weight) // self.groups

    def problems(self, ins, arch):
        channels, cout = ins[0].shape[0], len(self.weight)
        if channels % self.groups or cout % self.groups:
            yield f"groups {self.groups} do not divide the channels"
        if self.weight.shape[1:] != (channels // self.groups, *self.window.kernel):
            yield f"weight shape {self.weight.shape}"
        if self.weight.dtype != np.int8:
            yield f"weight dtype {self.weight.dtype}"
        yield from super().problems(ins, arch)

    def slots(self, inputs, lanes):
        if self.groups == 1 and self.residual_weight is not None:
            return compact(inputs[1].slots, lanes)
        return packed(len(self.weight), self.groups, lanes)

    def residual_slots(self, inputs, lanes):
        return packed(len(self.weight), self.groups, lanes) if self.groups > 1 else None


@dataclass(frozen=True, kw_only=True)
class Conv(ChannelSum):
    """Convolution (also fully connected layers: kernel = input size)."""

    kind: ClassVar[str] = "conv"

    @property
    def taps(self) -> np.ndarray | None:
        """bool [cin / groups, kh, kw]: the weights that the model has; None: all. The others are zeros that pad a kernel."""
        return None

    def accumulate(self, inputs):
        x = self.window.patches(inputs[0])
        acc = np.concatenate(
            [dot(p, w) for p, w in zip(np.split(x, self.groups, 1), np.split(self.weight, self.groups), strict=True)], 1
        )
        if self.residual_weight is not None:
            acc = acc + inputs[1] * self.residual_weight[:, None, None]
        return wrap32(acc)

    def bound(self, peaks):
        total = np.abs(self.weight.astype(np.int64)).sum((1, 2, 3)) * peaks[0]
        return total if self.residual_weight is None else total + np.abs(self.residual_weight) * peaks[1]

    def described(self, ins):
        whole = self.window.kernel == ins[0].shape[1:] and self.window.padding == (0, 0, 0, 0)
        return "linear" if whole and self.groups == 1 else self.label

    @property
    def macs(self) -> int:
        return int(self.weight.size * self.out.shape[1] * self.out.shape[2])

    def products(self, h: int, w: int) -> np.ndarray:
        return self.window.products(h, w) * self.group_size

    def problems(self, ins, arch):
        shape = (len(self.weight), *self.window.out_size(*ins[0].shape[1:]))
        if self.out.shape != shape:
            yield f"shape {self.out.shape} should be {shape}"
        yield from super().problems(ins, arch)

    def reaching(self, channels: np.ndarray) -> np.ndarray:
        size = self.weight.shape[1]
        return np.concatenate([np.arange(g * size, (g + 1) * size) for g in np.unique(channels // self.group_size)])

    def as_row(self, window: Window) -> "Conv":
        return replace(self, window=window, weight=self.weight.reshape(*self.weight.shape[:-2], *window.kernel))

    def fits(self, tile, channels, arch):
        rows, residual = tile.taps * tile.words, 0 if self.residual_weight is None else 2
        return rows * len(tile.lanes) + residual <= arch.weight_depth and rows <= arch.mask_depth

    def images(self, x, slices, tile, span, arch, dense):
        found = [event_images(self.weight, self.groups, self.taps, x.slots, *s, tile, arch.lanes, dense) for s in slices]
        weight, mask = (np.stack(part) for part in zip(*found, strict=True))
        weight, first = trimmed(weight, mask, tile, span)
        registers = {"W_SPAN": weight.shape[2], "W_WORD": len(tile.lanes), "M_SPAN": span * tile.words}
        weight = weight.reshape(len(slices), -1, arch.lanes)
        return Images(Opcode.CONV, Mode.MAC, registers, weight, tile.lanes.start + first, mask)

    def macs_per_event(self, slices):
        return [len(channels) // len(np.unique(channels // self.group_size)) for channels in slices]


@dataclass(frozen=True, kw_only=True)
class Relayout(Conv):
    """An exact copy of a value into the given slots: a 1x1 convolution with the identity as weights."""

    to: Slots = field(default=())

    kind: ClassVar[str] = "relayout"
    copies: ClassVar[bool] = True

    def described(self, ins):
        return self.label

    @property
    def macs(self) -> int:
        return 0

    def slots(self, inputs, lanes):
        return self.to

    def macs_per_event(self, slices):
        return [0 for _ in slices]


# -- from PyTorch ----------------------------------------------------------------------------------------------------


@dataclass
class WeightedSum(Weighted):
    """Base of the layers that sum products of their inputs with integers of `weight`, over a window."""

    window: Window = field(default_factory=lambda: Window((1, 1)), kw_only=True)
    groups: int = field(default=1, kw_only=True)

    takes_norms: ClassVar[bool] = True
    takes_constants: ClassVar[bool] = True

    @property
    def fan_in(self) -> int:
        return math.prod(self.weight.meta["val"].shape[1:])

    def lower(self, low, value, inputs, source):
        if self.norm:
            raise low.fail(
                self,
                "a batch norm or constants behind it were not folded before quantisation. Quantise the model with sordino.quantize.",
            )
        weights = low.weights_of(self)
        s_in, target = low.scale_of(self.inputs[0]).scale, low.target(self)
        unit = s_in * weights.scale
        mantissa, shift, error = exact_factor(unit / target.scale, low.arch)
        if error.max() > SNAP_ERROR:
            c = int(error.argmax())
            raise low.fail(
                self,
                f"channel {c} needs the factor {unit[c] / target.scale:g} between accumulator and output, which is not a mantissa of "
                f"{low.arch.mantissa_bits} bits times a power of two up to 1. Quantise the model with sordino.quantize for "
                f"{low.arch.name}; if it was, the layer's outputs are far smaller than its weights: scale them up.",
            )
        bias = np.zeros(len(unit)) if self.bias is None else constant(low.module, self.bias).numpy() / unit
        requant = low.requant(self, np.rint(bias).clip(-BIAS_MAX, BIAS_MAX), mantissa, shift)
        residual = None
        if self.residual:
            ratio = self.residual_gain * low.scale_of(self.inputs[1]).scale / unit
            residual = np.rint(ratio).clip(-WIDE_MAX, WIDE_MAX).astype(np.int64)
        integers = weights.integers.reshape(len(weights.integers), -1, *self.window.kernel)
        common = {"window": self.window, "requant": requant, "residual_weight": residual, "source": source}
        return self.node(low, integers, out=value, inputs=inputs, **common)

    def node(self, low: Lowering, integers: np.ndarray, **common: Any) -> Computation:
        """The node of these weights, int8 [cout, cin / groups, kh, kw]."""
        return Conv(weight=integers, groups=self.groups, **common)


@dataclass
class ConvLayer(WeightedSum):
    """A convolution."""

    def node(self, low, integers, **common):
        channels = low.values[self.inputs[0]].shape[0]
        if self.groups == channels == self.shape[0] and channels > 1:
            return Depthwise(weight=integers[:, 0].astype(np.int64), **common)
        return super().node(low, integers, **common)


@dataclass
class LinearLayer(WeightedSum):
    """A fully connected layer."""


def explicit_padding(module: GraphModule, node: Node) -> None:
    """`padding='same'` and `'valid'` become numbers; where 'same' is lopsided, a pad node and no padding."""
    if node.target._overloadname != "padding":  # type: ignore[union-attr]
        return
    aten = torch.ops.aten
    a = arguments(node)
    kernel = a["weight"].meta["val"].shape[2:]
    dilation = [int(d) for d in (a["dilation"] if isinstance(a["dilation"], list | tuple) else [a["dilation"]] * len(kernel))]
    dilation = dilation * (len(kernel) // len(dilation))
    total = [d * (k - 1) if a["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
    before = [t // 2 for t in total]
    x = a["input"]
    if any(t % 2 for t in total):
        sides = [side for t, b in zip(reversed(total), reversed(before), strict=True) for side in (b, t - b)]
        with module.graph.inserting_before(node):
            x = module.graph.call_function(aten.pad.default, (x, sides))
        x.meta = {k: v for k, v in node.meta.items() if k != "val"}
        value = a["input"].meta["val"]
        x.meta["val"] = value.new_empty([*value.shape[:2], *(s + t for s, t in zip(value.shape[2:], total, strict=True))])
        before = [0] * len(total)
    packet = getattr(aten, operator_name(node).removeprefix("aten."))
    node.target = packet.default
    node.args = (x, a["weight"], a["bias"], a["stride"], before, a["dilation"], a["groups"])
    node.kwargs = {}


@operator(
    "aten.conv2d",
    "aten.conv1d",
    becomes="CONV; depthwise: VEC",
    constraints=(must.constant_weight, must.kernel_size, must.steps),
    rewrite=explicit_padding,
    weighted=True,
)
def conv(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source, (top, left, bottom, right) = planner.unpadded(a["input"])
    two = feature_rank(node) == 3
    py, px = pair(a["padding"], 0, two)
    kernel = pair(list(a["weight"].meta["val"].shape[2:]), 1, two)
    padding = (top + py, left + px, bottom + py, right + px)
    window = Window(kernel, pair(a["stride"], 1, two), padding, pair(a["dilation"], 1, two))
    shape = feature_shape(node)
    planner.add(ConvLayer(node, node, [source], shape, a["weight"], a["bias"], window=window, groups=a["groups"]))


@operator("aten.linear", becomes="CONV", constraints=(must.constant_weight,), rewrite=rewritten(contraction.linear), weighted=True)
def linear(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    planner.add(LinearLayer(node, node, [planner.value(a["input"])], feature_shape(node), a["weight"], a["bias"]))
