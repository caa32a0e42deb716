"""Average pooling of any window: a sum over a window of equal weights, vector mode, and a divisor for each region of outputs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

from torch.fx import Node

from sordino_hw.spec.arch import ArchConfig

from ..factors import product_factor
from ..fx.nodes import feature_rank, feature_shape, pair
from . import constraints as must
from .affine import ScaledLayer
from .operator import operator
from .planner import Planner
from .regions import Reach, Region, Regions, Span, adaptive, along_each_axis, span_window, spans

__all__ = ["AverageLayer", "pooled"]


@dataclass
class AverageLayer(ScaledLayer):
    """The sum of every window by its divisor: the product of both axes' divisors, or one for all."""

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    divisor: float | None = None

    takes_norms: ClassVar[bool] = True
    takes_constants: ClassVar[bool] = True
    named_by_module: ClassVar[bool] = True
    label: ClassVar[str] = "avgpool"

    @property
    def keeps_sign(self) -> bool:
        return True

    def snapped_scale(self, sources: Sequence[float], target: float, arch: ArchConfig) -> float | None:
        """Less than 1/64 larger, so that 8-bit weights divide by the most frequent divisor exactly."""
        if self.norm or self.activation.table:
            return None
        pixels = Counter[float]()
        for row, column in product(self.rows, self.columns):
            pixels[self._divisor(row, column)] += len(row.outputs) * len(column.outputs)
        mean = sources[0] / pixels.most_common(1)[0][0]
        return mean / product_factor(mean / target, arch)

    def _divisor(self, row: Span, column: Span) -> float:
        return self.divisor or row.divisor * column.divisor

    def lower(self, low, value, inputs, source):
        size = low.values[self.inputs[0]].shape[1:]
        regions = []
        for row, column in product(self.rows, self.columns):
            part = replace(value, shape=(value.shape[0], len(row.outputs), len(column.outputs)))
            common = {"out": part, "inputs": inputs, "repeat": (row.repeat, column.repeat), "source": source}
            node = self.lanewise(low, span_window(row, column, size), self._divisor(row, column), **common)
            regions.append(Region(row.outputs, column.outputs, node))
        return Regions.of(value, inputs, regions, source)


def pooled(outputs: int, size: int, kernel: int, stride: int, padding: tuple[int, int], counts_padding: bool) -> tuple[Span, ...]:
    """The spans of an average pooling along one axis, with PyTorch's counts: what hangs over the padding never counts."""
    before, after = padding
    reaches = []
    for i in range(outputs):
        first = i * stride - before
        count = min(first + kernel, size + after) - first if counts_padding else min(first + kernel, size) - max(first, 0)
        reaches.append(Reach(first, kernel, count))
    return spans(reaches)


def divisor_given(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """The divisor of an average pooling is positive. Negate behind the pooling."""
    given = a.get("divisor_override")
    return None if given is None or given > 0 else f"divisor_override={given}"


@operator(
    "aten.avg_pool2d",
    "aten.avg_pool1d",
    becomes="VEC (MAC), one for each region of outputs with a divisor of its own",
    constraints=(must.kernel_size, must.steps, divisor_given),
    homogeneous=True,
)
def avg_pool(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    two, counts_padding = feature_rank(node) == 3, a["count_include_pad"]
    # Zeros that were padded before count as values; zeros of the pooling itself may not.
    source, outer = planner.unpadded(a["self"]) if counts_padding else (planner.value(a["self"]), (0, 0, 0, 0))
    kernel, inner = pair(a["kernel_size"], 1, two), pair(a["padding"], 0, two)
    stride = pair(a["stride"] or a["kernel_size"], 1, two)
    sides = [(outer[i] + inner[i], outer[i + 2] + inner[i]) for i in (0, 1)]
    axes = zip(feature_shape(node)[1:], feature_shape(source)[1:], kernel, stride, sides, strict=True)
    rows, columns = (pooled(*axis, counts_padding) for axis in axes)
    planner.add(
        AverageLayer(node, node, [source], feature_shape(node), rows=rows, columns=columns, divisor=a.get("divisor_override"))
    )


@operator(
    "aten.adaptive_avg_pool2d",
    "aten.adaptive_avg_pool1d",
    becomes="VEC (MAC), one for each region of outputs whose windows are alike and evenly spaced",
    rewrite=along_each_axis,
    homogeneous=True,
)
def adaptive_avg_pool(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(a["self"])
    axes = zip(feature_shape(node)[1:], feature_shape(source)[1:], strict=True)
    rows, columns = (adaptive(*axis, repeats=True) for axis in axes)
    planner.add(AverageLayer(node, node, [source], feature_shape(node), rows=rows, columns=columns))
