"""Nearest upsampling: values are only moved."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch.fx import Node

from ..fx.nodes import feature_shape
from .lanewise import moved
from .layer import Layer
from .operator import operator
from .planner import Planner

__all__ = ["UpsampleLayer"]


@dataclass
class UpsampleLayer(Layer):
    """Every pixel repeated over rows and columns: an address mode of the array."""

    repeat: tuple[int, int]

    named_by_module: ClassVar[bool] = True

    @property
    def keeps_sign(self) -> bool:
        return True

    def lower(self, low, value, inputs, source):
        return moved(self, low, "upsample", repeat=self.repeat, out=value, inputs=inputs, source=source)


def whole_factor(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Nearest upsampling enlarges by a whole factor of at most 255. Use scale_factor=2 (or 3, ...)."""
    (_, h, w), (_, oh, ow) = feature_shape(_input(a)), feature_shape(node)
    return None if oh % h == 0 and ow % w == 0 and max(oh // h, ow // w) <= 255 else f"{h}x{w} to {oh}x{ow}"


def _input(a: dict[str, Any]) -> Node:
    return a["input"] if "input" in a else a["self"]


@operator(
    "aten.upsample_nearest2d",
    "aten._upsample_nearest_exact2d",
    becomes="an address mode of VEC (1x1)",
    constraints=(whole_factor,),
    homogeneous=True,
)
def upsample(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    source = planner.value(_input(a))
    (_, h, w), (_, oh, ow) = feature_shape(source), feature_shape(node)
    planner.add(UpsampleLayer(node, node, [source], feature_shape(node), (oh // h, ow // w)))
