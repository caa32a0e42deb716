"""Rules that several operators share. The docstring is what the user reads, so it states the rule and what to do."""

from typing import Any

from torch.fx import Node

from ..fx.nodes import constant, feature_rank, feature_shape, is_constant, pair
from .planner import Planner

__all__ = ["constant_weight", "fixed_sizes", "kernel_size", "per_channel", "steps"]


def fixed_sizes(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Activations are (N, F), (N, C, L) or (N, C, H, W), of sizes that are fixed when the model is exported. Keep the
    batch first and derive no size from the data."""
    if isinstance(node.meta.get("val"), list | tuple):
        return None
    try:
        feature_shape(node)
    except ValueError as error:
        return str(error)
    return None


def constant_weight(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Weights and biases are parameters, not computed from activations. Use nn.Conv2d or nn.Linear."""
    moving = [k for k in ("weight", "bias") if planner.known(a[k]) or not is_constant(a[k])]
    return f"{' and '.join(moving)} computed from an input" if moving else None


def kernel_size(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """A kernel has 1 to 255 rows and columns. Use a smaller kernel."""
    shape = a["kernel_size"] if "kernel_size" in a else a["weight"].meta["val"].shape[2:]
    k = pair(list(shape) if not isinstance(shape, int) else shape, 1, feature_rank(node) == 3)
    return None if max(k) <= 255 else f"kernel {k}"


def steps(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """Stride and dilation are 1 to 255. Use smaller steps."""
    found = {k: list(v) if not isinstance(v, int) else [v] for k in ("stride", "dilation") if (v := a.get(k))}
    big = {k: v for k, v in found.items() if max(v) > 255}
    return ", ".join(f"{k} {v}" for k, v in big.items()) or None


def per_channel(planner: Planner, node: Node, value: Any) -> str | None:
    """What is wrong with a constant operand that should be a number or one per channel."""
    if not is_constant(value):
        return "an operand that is neither an activation nor a constant"
    shape = tuple(constant(planner.module, value).shape)
    rank = feature_rank(node) + 1
    full = (1,) * (rank - len(shape)) + shape
    channels = node.meta["val"].shape[1]
    good = len(full) == rank and full[0] == 1 and full[1] in (1, channels) and all(s == 1 for s in full[2:])
    return (
        None
        if good
        else f"a constant of shape {shape} with an activation of shape (N, {', '.join(map(str, node.meta['val'].shape[1:]))})"
    )
