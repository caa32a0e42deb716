"""Copies of exported modules."""

from torch.fx import Graph, GraphModule, Node

__all__ = ["shallow_copy"]


def shallow_copy(module: GraphModule) -> tuple[GraphModule, dict[Node, Node]]:
    """A module with the same parameters and a graph of its own; also from the copy's nodes to those of `module`."""
    graph, mapping = Graph(), dict[Node, Node]()
    result = graph.graph_copy(module.graph, mapping)
    graph.output(result)
    graph.set_codegen(module.graph._codegen)  # it packs inputs and outputs as the model's forward does
    copied = GraphModule(module, graph)
    copied.meta = dict(module.meta)
    for old, new in mapping.items():
        new.meta = dict(old.meta)
    return copied, {new: old for old, new in mapping.items()}
