"""Linear layers on flattened values become convolutions."""

from dataclasses import replace

import numpy as np

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
        name, index = n.inputs[0], np.arange(n.weight.shape[1])
        while isinstance(made := producers[name], Flatten):
            index = index if made.index is None else made.index[index]
            name = made.inputs[0]
        c, h, w = values[name].shape
        if name == n.inputs[0] or max(h, w) > 255 or len(index) < c * h * w:
            return n
        weight = np.empty_like(n.weight)
        weight[:, index] = n.weight
        return replace(
            n, inputs=(name, *n.inputs[1:]), weight=weight.reshape(-1, c, h, w), window=Window((h, w), (1, 1), (0, 0, 0, 0))
        )

    return replace(graph, nodes=[fold(n) for n in graph.nodes])
