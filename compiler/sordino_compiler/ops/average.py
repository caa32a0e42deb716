"""Average pooling: a window of equal weights, vector mode."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

from torch.fx import Node

from sordino_hw.spec.arch import ArchConfig

from ..factors import product_factor
from ..fx.nodes import feature_rank, feature_shape, pair
from ..graph import Window
from . import constraints as must
from .affine import ScaledLayer
from .operator import operator
from .planner import Planner

__all__ = ["AverageLayer"]


@dataclass
class AverageLayer(ScaledLayer):
    """The mean of every window; padding counts as zeros."""

    takes_norms: ClassVar[bool] = True
    takes_constants: ClassVar[bool] = True
    named_by_module: ClassVar[bool] = True
    label: ClassVar[str] = "avgpool"

    @property
    def keeps_sign(self) -> bool:
        return True

    def snapped_scale(self, source: float, target: float, arch: ArchConfig) -> float | None:
        """Less than 1/64 larger, so that 8-bit weights divide by the window exactly."""
        if self.norm or self.activation.table:
            return None
        mean = source / math.prod(self.window.kernel)
        return mean / product_factor(mean / target, arch)


def _average(planner: Planner, node: Node, window: Window, source: Node) -> None:
    planner.add(AverageLayer(node, node, [source], feature_shape(node), window=window))


def padding_counts(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Average pooling counts its padding as zeros (count_include_pad=True). Pad with 0 or leave the default."""
    pad = a["padding"]
    padded = bool(pad) if isinstance(pad, int) else any(pad)
    return "count_include_pad=False" if padded and not a["count_include_pad"] else None


def whole_windows(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Average pooling has no windows that hang over the edge (ceil_mode=False). Pad the input, or crop it."""
    return "ceil_mode=True" if a["ceil_mode"] else None


def plain_divisor(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Average pooling divides by the size of its window. Multiply by a constant behind it instead of divisor_override."""
    return f"divisor_override={a['divisor_override']}" if a.get("divisor_override") is not None else None


@operator(
    "aten.avg_pool2d",
    "aten.avg_pool1d",
    becomes="VEC (MAC)",
    constraints=(must.kernel_size, must.steps, padding_counts, whole_windows, plain_divisor),
    homogeneous=True,
)
def avg_pool(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source, (top, left, bottom, right) = planner.unpadded(a["self"])
    two = feature_rank(node) == 3
    py, px = pair(a["padding"], 0, two)
    padding = (top + py, left + px, bottom + py, right + px)
    kernel = pair(a["kernel_size"], 1, two)
    _average(planner, node, Window(kernel, pair(a["stride"] or a["kernel_size"], 1, two), padding), source)


def divisible_output(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Adaptive pooling's input size is a multiple of its output size. Use an output size that divides the input's."""
    (_, h, w), (_, oh, ow) = feature_shape(a["self"]), feature_shape(node)
    return None if h % oh == 0 and w % ow == 0 else f"{h}x{w} to {oh}x{ow}"


@operator(
    "aten.adaptive_avg_pool2d",
    "aten.adaptive_avg_pool1d",
    becomes="VEC (MAC)",
    constraints=(divisible_output,),
    homogeneous=True,
)
def adaptive_avg_pool(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(a["self"])
    (_, h, w), (_, oh, ow) = feature_shape(source), feature_shape(node)
    _average(planner, node, Window((h // oh, w // ow), (h // oh, w // ow)), source)


def spatial_mean(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A mean is taken over the whole height and width of (N, C, H, W), or the length of (N, C, L). Use dim=(2, 3)."""
    rank = len(a["self"].meta["val"].shape)
    dims = sorted(d % rank for d in (a.get("dim") or range(rank)))
    return None if rank > 2 and dims == list(range(2, rank)) else f"dim={a.get('dim')} of {rank} dimensions"


@operator("aten.mean", becomes="VEC (MAC)", constraints=(spatial_mean,), homogeneous=True)
def mean(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(a["self"])
    _, h, w = feature_shape(source)
    _average(planner, node, Window((h, w)), source)
