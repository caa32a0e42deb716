"""Reading a node: its arguments by name, and constants that its graph computes."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = ["arguments", "attribute", "constant", "is_constant", "pair"]


def arguments(node: Node) -> dict[str, Any]:
    """Arguments of a call by the operator's own names, defaults included, in the schema's order."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {"self": node.args[0], **{f"arg{i}": a for i, a in enumerate(node.args[1:], 1)}}
    given = dict(zip((a.name for a in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return {a.name: given.get(a.name, a.default_value if a.has_default_value() else None) for a in schema.arguments}


def pair(value: Any, fill: int, two: bool) -> tuple[int, int]:
    """(vertical, horizontal) of a window's argument; for a one-dimensional operator the vertical one is `fill`."""
    values = [value] if isinstance(value, int) else list(value)
    vertical = int(values[0]) if two else fill
    return vertical, int(values[-1])


def attribute(module: GraphModule, target: str) -> Any:
    """The parameter, buffer or constant that a `get_attr` node reads."""
    found: Any = module
    for part in target.split("."):
        found = getattr(found, part)
    return found


def is_constant(node: Any) -> bool:
    """Whether a node depends on no input, so that its value is known now."""
    if not isinstance(node, Node):
        return True
    if node.op == "get_attr":
        return True
    return node.op == "call_function" and all(is_constant(n) for n in node.all_input_nodes)


def constant(module: GraphModule, node: Any) -> Tensor:
    """The value of a constant expression, float64 (integers stay integers)."""

    def evaluate(n: Any) -> Any:
        if not isinstance(n, Node):
            return n
        if n.op == "get_attr":
            return attribute(module, str(n.target)).detach()
        args = torch.fx.map_arg(n.args, evaluate)
        return n.target(*args, **torch.fx.map_arg(n.kwargs, evaluate))  # type: ignore[operator]

    with torch.no_grad():
        value = torch.as_tensor(evaluate(node))
    return value.double() if value.is_floating_point() else value
