"""Reading a node: its operator, its arguments by name, its shape, and constants that its graph computes."""

from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

__all__ = [
    "STANDS_FOR",
    "arguments",
    "attribute",
    "constant",
    "feature_rank",
    "feature_shape",
    "is_constant",
    "is_size",
    "operator_name",
    "pair",
]


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


STANDS_FOR = "sordino_stands_for"
"""Key of a node's `meta`: name of the node that it has taken the place of."""


def operator_name(node: Node) -> str:
    """`aten.conv2d`, `sordino.threshold_relu`, `getitem`, `placeholder`: the operator without its overload."""
    if node.op != "call_function":
        return node.op
    packet = getattr(node.target, "overloadpacket", None)
    if packet is not None:
        return str(packet)
    return getattr(node.target, "__name__", str(node.target))


def is_size(node: Node) -> bool:
    """Whether a node computes sizes or checks them, not activations."""
    if operator_name(node).startswith(("aten.sym_", "aten._assert")):
        return True
    return node.op == "call_function" and isinstance(
        node.meta.get("val"), int | float | torch.SymInt | torch.SymFloat | torch.SymBool
    )


def feature_rank(node: Node) -> int:
    """Dimensions of a node's value without the batch: 3 for (N, C, H, W)."""
    return len(node.meta["val"].shape) - 1


def feature_shape(node: Node) -> tuple[int, int, int]:
    """(channels, height, width) of a node's value: (N, F) is (F, 1, 1), (N, C, L) is (C, 1, L).

    Raises `ValueError` for other ranks, or sizes that are not fixed.
    """
    value = node.meta.get("val")
    shape = getattr(value, "shape", None)
    if shape is None or not 2 <= len(shape) <= 4 or not all(isinstance(s, int) for s in shape[1:]):
        raise ValueError(f"shape {tuple(shape) if shape is not None else type(value).__name__}")
    sizes = [int(s) for s in shape[1:]]
    c, h, w = (sizes[0], 1, 1) if len(sizes) == 1 else (sizes[0], 1, sizes[1]) if len(sizes) == 2 else sizes
    return c, h, w
