"""Rewrites of an exported graph that leave its function alone and make planning simple."""

from collections.abc import Callable

import torch
from torch.fx import GraphModule, Node

from sordino_hw.spec.errors import CompileError

from ..fx.nodes import is_constant, operator_name
from ..fx.source import where
from ..ops.functions import elementwise
from ..ops.operator import traits
from .regions import inline_regions
from .sink import sink_views
from .steps import fold_steps

__all__ = ["PASSES", "canonicalise"]

_aten = torch.ops.aten


def canonicalise(module: GraphModule) -> None:
    """Runs every pass of `PASSES`, in place. The graph is checked after each."""
    for rewrite in PASSES:
        rewrite(module)
        module.graph.lint()
    module.graph.eliminate_dead_code()
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
    for name in ("adjoint", "alias", "chunk", "detach", "diagonal", "expand", "expand_as", "flatten", "mT", "moveaxis", "movedim",
                 "narrow", "numpy_T", "permute", "reshape", "reshape_as", "select", "slice", "split", "split_with_sizes", "squeeze",
                 "swapaxes", "swapdims", "t", "tensor_split", "transpose", "unbind", "unflatten", "unsqueeze", "view", "view_as")
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


def own_forms(module: GraphModule) -> None:
    """Views move behind what they may, and every operator brings its calls into the form that it plans."""
    for node in list(module.graph.nodes):
        sink_views(module, node)
        entry = traits(node)
        if entry and entry.rewrite:
            entry.rewrite(module, node)


_MAXIMA = ("aten.max_pool2d", "aten.max_pool1d", "sordino.max_pool", "sordino.adaptive_max_pool", "aten.amax")


def activation_before_pooling(module: GraphModule) -> None:
    """`relu(max_pool(x))` is `max_pool(relu(x))`: the same values, but the activation can join the layer before.

    Holds for every activation that does not decrease, one bound for all channels or one per channel.
    """
    for node in list(module.graph.nodes):
        entry = traits(node)
        if not (entry and entry.monotone) or any(n.op != "get_attr" for n in node.all_input_nodes[1:]):
            continue
        while operator_name(pool := node.args[0]) in _MAXIMA and len(pool.users) == 1:
            top = pool.args[0]
            node.replace_all_uses_with(pool)
            pool.replace_input_with(top, node)
            node.args = (top, *node.args[1:])
            node.meta["val"] = top.meta["val"]
            for n in (*node.all_input_nodes[1:], node):
                pool.prepend(n)


def one_name(module: GraphModule) -> None:
    """`torch.max(x, y)` is `torch.maximum(x, y)`; and a constant that is enlarged for an element-wise operator need not be.
    A view becomes a reshape, which asks nothing of strides, and one in the shape of another tensor one of fixed sizes. `squeeze()` names
    its dimensions, so that a batch of one image keeps its own."""
    for node in list(module.graph.nodes):
        name = operator_name(node)
        if name in ("aten.max", "aten.min") and node.target._overloadname == "other":
            node.target = _aten.maximum.default if name == "aten.max" else _aten.minimum.default
        elif name in ("aten.expand", "aten.expand_as") and is_constant(node.args[0]) and all(map(_enlarges, node.users)):
            node.replace_all_uses_with(node.args[0])
        elif name in ("aten.view", "aten._unsafe_view") and node.target._overloadname != "dtype":
            node.target = _aten.reshape.default
        elif name == "aten.squeeze" and node.target._overloadname == "default" and not is_constant(node.args[0]):
            sizes = node.args[0].meta["val"].shape
            if not isinstance(sizes[0], int):
                node.target = _aten.squeeze.dims
                node.args = (node.args[0], [d for d, n in enumerate(sizes) if isinstance(n, int) and n == 1])
        elif name in ("aten.view_as", "aten.reshape_as", "aten.expand_as") and not is_constant(node.args[0]):
            sizes = list(node.args[1].meta["val"].shape)
            enlarged = name == "aten.expand_as"
            if all(isinstance(n, int) for n in sizes[1:]) and (not enlarged or len(node.args[0].meta["val"].shape) == len(sizes)):
                node.target = (_aten.expand if enlarged else _aten.reshape).default
                node.args = (node.args[0], [-1, *sizes[1:]])


def _enlarges(user: Node) -> bool:
    """Whether an operator is element-wise, and has an operand of its result's size that is no constant: the others need not be enlarged."""
    if not elementwise(user):
        return False
    moving = [n for n in user.all_input_nodes if not is_constant(n)]
    return any(
        len(n.meta["val"].shape) == len(user.meta["val"].shape) and n.meta["val"].shape[1:] == user.meta["val"].shape[1:]
        for n in moving
    )


PASSES: tuple[Callable[[GraphModule], None], ...] = (
    inline_regions,
    out_of_place,
    one_name,
    own_forms,
    fold_steps,
    activation_before_pooling,
)
"""In this order."""
