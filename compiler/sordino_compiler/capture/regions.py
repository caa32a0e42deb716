"""Regions of an exported graph with another autocast or gradient mode: their operators join the graph around them."""

from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import attribute, operator_name

__all__ = ["inline_regions"]

_REGIONS = {"wrap_with_autocast": 4, "wrap_with_set_grad_enabled": 1, "tag_activation_checkpoint": 0, "wrap": 0}
"""Operators that call a subgraph, and the position of the subgraph among their arguments; the operands follow."""


def inline_regions(module: GraphModule) -> None:
    """Replaces calls of subgraphs by their nodes, in place. What autocast made bfloat16 is float32 again: the array has its own formats."""
    while region := next((n for n in module.graph.nodes if operator_name(n) in _REGIONS), None):
        position = _REGIONS[operator_name(region)]
        entry: Any = region.args[position]
        _inline(module, region, attribute(module, str(entry.target)), region.args[position + 1 :])
        if not entry.users:
            module.graph.erase_node(entry)


def _inline(module: GraphModule, region: Node, inner: GraphModule, operands: tuple) -> None:
    mapped: dict[Node, Any] = {}
    remaining = iter(operands)
    with module.graph.inserting_before(region):
        for node in inner.graph.nodes:
            if node.op == "placeholder":
                mapped[node] = next(remaining)
            elif node.op == "output":
                results = torch.fx.map_arg(node.args[0], mapped.__getitem__)
            elif node.op == "get_attr":
                name = f"_{region.name}_{node.name}"
                setattr(module, name, attribute(inner, str(node.target)))
                mapped[node] = module.graph.get_attr(name)
                mapped[node].meta = dict(node.meta)
            else:
                mapped[node] = module.graph.node_copy(node, mapped.__getitem__)
                value = node.meta.get("val")
                if isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16):
                    mapped[node].meta["val"] = value.float()
    for user in list(region.users):
        if operator_name(user) == "getitem":
            user.replace_all_uses_with(results[user.args[1]])
            module.graph.erase_node(user)
        else:
            region.replace_all_uses_with(results[0] if isinstance(results, tuple | list) else results)
    module.graph.erase_node(region)
