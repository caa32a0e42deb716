"""Linear layers on flattened values become convolutions."""

from dataclasses import replace

from ..graph import Graph, Node, Window
from ..ops.conv import Conv
from ..ops.rearrange import Flatten

__all__ = ["fold_flatten"]


def fold_flatten(graph: Graph) -> Graph:
    """A linear layer on a flattened value becomes a convolution whose kernel is the whole input: a permutation."""
    values, producers = graph.values, {n.out.name: n for n in graph.nodes}

    def fold(n: Node) -> Node:
        if not isinstance(n, Conv) or n.groups != 1 or n.window.padding != (0, 0, 0, 0) or n.window.kernel != (1, 1):
            return n
        name = n.inputs[0]
        while isinstance(producers[name], Flatten):
            name = producers[name].inputs[0]
        c, h, w = values[name].shape
        if name == n.inputs[0] or max(h, w) > 255:
            return n
        return replace(
            n, inputs=(name, *n.inputs[1:]), weight=n.weight.reshape(-1, c, h, w), window=Window((h, w), (1, 1), (0, 0, 0, 0))
        )

    return replace(graph, nodes=[fold(n) for n in graph.nodes])
