"""From planned layers and their scales to the integer graph."""

from collections.abc import Callable
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from sordino_hw.spec.arch import ArchConfig

from ..fx.source import where
from ..graph import Graph, Value
from ..graph import Node as GraphNode
from ..ops.layer import Layer, Weighted
from ..ops.lowering import Lowering, Scale, Weights
from ..plan import Plan, layer_names

__all__ = ["Lowered", "build"]


@dataclass
class Lowered:
    """The integer graph, and for each of its values the planned layer that makes it."""

    graph: Graph
    layers: dict[str, Layer]


def build(
    module: GraphModule,
    plan: Plan,
    arch: ArchConfig,
    scale_of: Callable[[Node], Scale],
    weights_of: Callable[[Weighted], Weights],
) -> Lowered:
    """One node for each layer.

    `scale_of` gives the scale of an `out` node or of a table's input, `weights_of` the integers of a weighted layer.
    Raises `CompileError` where a factor cannot be represented.
    """
    low = Lowering(module, arch, scale_of, weights_of)
    nodes: list[GraphNode] = []
    layers: dict[str, Layer] = {}
    for name, layer in zip(layer_names(plan), plan.layers, strict=True):
        scale = low.scale_of(layer.out)
        value = Value(name, layer.shape, scale.scale, scale.signed, scale.lowest)
        inputs = tuple(low.values[n].name for n in layer.inputs)
        nodes.append(layer.lower(low, value, inputs, where(layer.core)))
        low.values[layer.out] = value
        layers[value.name] = layer
    graph = Graph(arch, nodes, [low.values[n].name for n in plan.outputs])
    graph.check()
    return Lowered(graph, layers)
