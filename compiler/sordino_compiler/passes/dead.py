"""What no output depends on is left out."""

from dataclasses import replace

from ..graph import Graph, Input, Node, Reading

__all__ = ["drop_dead"]


def drop_dead(graph: Graph) -> Graph:
    """Nodes that no output depends on. Inputs stay, and so do views of live values: they cost nothing."""
    live = set(graph.outputs)
    for n in reversed(graph.nodes):
        if n.out.name in live:
            live.update(n.inputs)
    nodes: list[Node] = []
    for n in graph.nodes:
        if isinstance(n, Input) or (isinstance(n, Reading) and n.inputs[0] in live):
            live.add(n.out.name)
        if n.out.name in live:
            nodes.append(n)
    return replace(graph, nodes=nodes)
