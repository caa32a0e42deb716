"""Max pooling: the greatest value of every window, vector mode."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from torch.fx import Node

from sordino_hw.spec.isa import Mode, Opcode

from ..emit.operation import Images
from ..fx.nodes import feature_rank, feature_shape, pair
from ..graph import Computation, Window
from ..slots import compact
from . import constraints as must
from .layer import Layer
from .operator import operator
from .planner import Planner

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

    window: Window

    named_by_module: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return MaxPool(out=value, inputs=inputs, window=self.window, requant=low.identity(self), source=source)


@operator("aten.max_pool2d", "aten.max_pool1d", becomes="VEC (MAX)", constraints=(must.kernel_size, must.steps), homogeneous=True)
def max_pool(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(a["self"])
    two = feature_rank(node) == 3
    kernel, py_px = pair(a["kernel_size"], 1, two), pair(a["padding"], 0, two)
    stride, dilation = pair(a["stride"] or a["kernel_size"], 1, two), pair(a["dilation"], 1, two)
    _, *size = feature_shape(source)
    _, *out = feature_shape(node)
    # Padding never wins, so a last window that ceil_mode lets hang over is padding, too.
    after = [
        max(p, (o - 1) * s + d * (k - 1) + 1 - n - p)
        for o, s, d, k, n, p in zip(out, stride, dilation, kernel, size, py_px, strict=True)
    ]
    # Rows that no window reaches are cut off by the division in `Window.out_size`.
    window = Window(kernel, stride, (*py_px, *after), dilation)
    planner.add(MaxPoolLayer(node, node, [source], feature_shape(node), window))
