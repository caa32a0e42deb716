"""Concatenations of concatenations share memory."""

from dataclasses import replace

from ..graph import Graph, Node
from ..ops.concat import Concat

__all__ = ["nest_concats"]


def nest_concats(graph: Graph) -> Graph:
    """A concatenation that begins with all parts of an earlier one takes that one whole (dense blocks): no copies."""
    earlier: list[Concat] = []
    taken: set[str] = set()
    nodes: list[Node] = []
    for n in graph.nodes:
        if isinstance(n, Concat):
            heads = [c for c in earlier if c.axis == n.axis and c.inputs == n.inputs[: len(c.inputs)] and c.out.name not in taken]
            earlier.append(n)
            if heads:
                head = max(heads, key=lambda c: len(c.inputs))
                taken.add(head.out.name)
                n = replace(n, inputs=(head.out.name, *n.inputs[len(head.inputs) :]))
        nodes.append(n)
    return replace(graph, nodes=nodes)
