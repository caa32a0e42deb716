"""Rewrites of an exported graph that leave its function alone and make planning simple."""

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import GraphModule, Node

from sordino_hw.spec.errors import CompileError

from .activation import CLAMPS
from .arguments import arguments
from .plan import operator_name
from .source import where
from .steps import fold_steps

__all__ = ["PASSES", "canonicalise"]

_aten = torch.ops.aten


def canonicalise(module: GraphModule) -> None:
    """Runs every pass of `PASSES`, in place."""
    for rewrite in PASSES:
        rewrite(module)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()


def out_of_place(module: GraphModule) -> None:
    """`relu_(x)`, `x += y`: later readers of x read the result, and the operator becomes the one that copies."""
    order = {n: i for i, n in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        name = operator_name(node)
        if not (node.op == "call_function" and name.startswith("aten.") and name.endswith("_") and not name.endswith("__")):
            continue
        target = node.args[0]
        if not isinstance(target, Node) or target.op == "get_attr":
            continue
        if any(order[u] > order[node] for other in _aliases(target) - {target} for u in other.users):
            raise CompileError(
                f"{name} {node.name!r} ({where(node)}): an in-place operator on a view of another tensor is not supported. "
                "Use the operator without the underscore."
            )
        packet = getattr(_aten, name.removeprefix("aten.").removesuffix("_"))
        node.target = getattr(packet, node.target._overloadname)
        for user in list(target.users):
            if order[user] > order[node]:
                user.replace_input_with(target, node)


_VIEWS = {
    f"aten.{name}"
    for name in ("alias", "chunk", "detach", "expand", "flatten", "narrow", "permute", "reshape", "select", "slice", "split",
                 "split_with_sizes", "squeeze", "transpose", "unflatten", "unsqueeze", "view")
} | {"getitem"}  # fmt: skip


def _aliases(node: Node) -> set[Node]:
    """All nodes that may share memory with `node`."""
    while operator_name(node) in _VIEWS and isinstance(node.args[0], Node):
        node = node.args[0]
    found, todo = {node}, [node]
    while todo:
        for user in todo.pop().users:
            if operator_name(user) in _VIEWS and user not in found:
                found.add(user)
                todo.append(user)
    return found


def explicit_padding(module: GraphModule) -> None:
    """`padding='same'` and `'valid'` become numbers; where 'same' is lopsided, a pad node and no padding."""
    for node in list(module.graph.nodes):
        if operator_name(node) not in ("aten.conv2d", "aten.conv1d") or node.target._overloadname != "padding":
            continue
        a = arguments(node)
        kernel = a["weight"].meta["val"].shape[2:]
        dilation = [int(d) for d in (a["dilation"] if isinstance(a["dilation"], list | tuple) else [a["dilation"]] * len(kernel))]
        dilation = dilation * (len(kernel) // len(dilation))
        total = [d * (k - 1) if a["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        before = [t // 2 for t in total]
        x = a["input"]
        if any(t % 2 for t in total):
            sides = [side for t, b in zip(reversed(total), reversed(before), strict=True) for side in (b, t - b)]
            with module.graph.inserting_before(node):
                x = module.graph.call_function(_aten.pad.default, (x, sides))
            x.meta = {k: v for k, v in node.meta.items() if k != "val"}
            value = a["input"].meta["val"]
            x.meta["val"] = value.new_empty([*value.shape[:2], *(s + t for s, t in zip(value.shape[2:], total, strict=True))])
            before = [0] * len(total)
        packet = getattr(_aten, operator_name(node).removeprefix("aten."))
        node.target = packet.default
        node.args = (x, a["weight"], a["bias"], a["stride"], before, a["dilation"], a["groups"])
        node.kwargs = {}


def gated_activations(module: GraphModule) -> None:
    """`x * sigmoid(x)` is SiLU, `x * hardsigmoid(x)` is hardswish."""
    gates: dict[str, Callable[..., Any]] = {"aten.sigmoid": _aten.silu.default, "aten.hardsigmoid": _aten.hardswish.default}
    for node in list(module.graph.nodes):
        if operator_name(node) != "aten.mul":
            continue
        x, y = node.args
        for value, gate in ((x, y), (y, x)):
            if isinstance(gate, Node) and operator_name(gate) in gates and gate.args[0] is value:
                node.target, node.args, node.kwargs = gates[operator_name(gate)], (value,), {}
                break


def activation_before_pooling(module: GraphModule) -> None:
    """`relu(max_pool(x))` is `max_pool(relu(x))`: the same values, but the activation can join the layer before.

    Holds for every activation that does not decrease, one bound for all channels or one per channel.
    """
    monotone = {*CLAMPS, "sordino.threshold_relu", "sordino.round_to_step"}
    for node in list(module.graph.nodes):
        if operator_name(node) not in monotone or any(n.op != "get_attr" for n in node.all_input_nodes[1:]):
            continue
        while operator_name(pool := node.args[0]) in ("aten.max_pool2d", "aten.max_pool1d") and len(pool.users) == 1:
            top = pool.args[0]
            node.replace_all_uses_with(pool)
            pool.replace_input_with(top, node)
            node.args = (top, *node.args[1:])
            node.meta["val"] = top.meta["val"]
            for n in (*node.all_input_nodes[1:], node):
                pool.prepend(n)


PASSES: tuple[Callable[[GraphModule], None], ...] = (
    out_of_place,
    fold_steps,
    explicit_padding,
    gated_activations,
    activation_before_pooling,
)
"""In this order."""
