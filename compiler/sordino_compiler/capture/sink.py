"""Views move behind what works element by element, so that chains of them grow, and what is fused stands at its layer.

`relu(x.flatten(1))` is `relu(x).flatten(1)`; a sum of two permuted values is the permuted sum. Transformers' blocks, channels last,
become chains of 1x1 convolutions in this way, with a permutation at either end.
"""

from typing import Any

import torch
from torch.fx import GraphModule, Node, map_arg

from ..fx.index_map import concrete, fixed
from ..fx.nodes import arguments, constant, is_constant, operator_name
from ..ops.functions import elementwise
from ..ops.views import ORDERS, RESHAPES

__all__ = ["sink_views"]

_aten = torch.ops.aten
_REDUCTIONS = {"aten.mean", "aten.sum", "aten.amax", "aten.amin"}
_UNARY = {f"aten.{name}" for name in ("flip", "roll", "rot90", "channel_shuffle", "pixel_shuffle", "pixel_unshuffle")}
"""Views that change no constant operand but numbers."""


def sink_views(module: GraphModule, node: Node) -> None:
    """Moves the views that `node` reads behind it, if it works element by element, or along other dimensions, in place."""
    while _swap(module, node):
        pass


def _swap(module: GraphModule, node: Node) -> bool:
    """Moves the views that `node` reads behind it; whether it did."""
    if operator_name(node) in _REDUCTIONS:
        return _reduce(module, node) or _keep_channel(module, node)
    if not elementwise(node) and operator_name(node) != "sordino.threshold_relu":
        return False
    moving = [n for n in node.all_input_nodes if not is_constant(n)]
    views = [n for n in moving if _bijective(n)]
    if not views or any(not isinstance(getattr(n.meta.get("val"), "shape", None), torch.Size) for n in moving):
        return False
    view = views[0]
    source, order = view.args[0], _order(view)
    assert isinstance(source, Node)
    if any(_shape(n) != _shape(node) for n in moving):
        return False
    replaced: dict[Node, Node] = {}
    for n in node.all_input_nodes:
        if n in moving:
            alike = (
                _bijective(n) and n.target is view.target and _others(n) == _others(view) and _shape(n.args[0]) == _shape(source)
            )
            if not alike and order is None:
                return False
            replaced[n] = n.args[0] if alike else n  # type: ignore[assignment]
        elif constant(module, n).numel() > 1 and order is None:
            return False
        else:
            replaced[n] = n
    for n in replaced:
        if replaced[n] is n and order is not None:
            replaced[n] = _back(module, node, n, order) if n in moving or constant(module, n).numel() > 1 else n
    node.args = map_arg(node.args, lambda n: replaced.get(n, n))
    node.kwargs = map_arg(node.kwargs, lambda n: replaced.get(n, n))
    _view_again(module, node, view, source.meta["val"])
    return True


def _bijective(node: Node) -> bool:
    """A view that leaves no element out and repeats none, whose arguments are known."""
    name = operator_name(node)
    known = name.removeprefix("aten.") in (*RESHAPES, *ORDERS) or name in _UNARY or _identity(node)
    return known and isinstance(node.args[0], Node) and not is_constant(node.args[0]) and fixed(node, node.args[0])


def _identity(node: Node) -> bool:
    return operator_name(node) in ("aten.contiguous", "aten.clone", "aten.alias")


def _order(view: Node) -> list[int] | None:
    """The order in which a permutation takes its input's dimensions; None for other views."""
    if operator_name(view).removeprefix("aten.") not in ORDERS:
        return None
    rank = len(view.args[0].meta["val"].shape)  # type: ignore[union-attr]
    sizes = list(range(2, rank + 2))
    return [n - 2 for n in view.target(torch.empty(sizes, device="meta"), *view.args[1:], **view.kwargs).shape]  # type: ignore[operator]


def _others(view: Node) -> Any:
    """A view's arguments but its input, sizes as numbers."""
    return map_arg((view.args[1:], view.kwargs), lambda n: concrete(n.meta["val"], 2))


def _shape(node: Any) -> list[int]:
    return [concrete(s, 2) for s in node.meta["val"].shape]


def _back(module: GraphModule, node: Node, operand: Node, order: list[int]) -> Node:
    """`operand`, of as many dimensions as `order` or fewer in front, in the order that it had before the permutation."""
    inverse = sorted(range(len(order)), key=order.__getitem__)
    with module.graph.inserting_before(node):
        for _ in range(len(order) - len(operand.meta["val"].shape)):
            operand = _call(module, _aten.unsqueeze.default, operand, 0)
        return _call(module, _aten.permute.default, operand, inverse)


def _call(module: GraphModule, target: Any, x: Node, *args: Any) -> Node:
    new = module.graph.call_function(target, (x, *args))
    new.meta = {**x.meta, "val": target(x.meta["val"], *args)}
    return new


def _view_again(module: GraphModule, node: Node, view: Node, before: Any) -> None:
    """Puts the view behind `node`, whose value has the shape of `before` now."""
    with module.graph.inserting_after(node):
        again = module.graph.call_function(view.target, (node, *view.args[1:]), dict(view.kwargs))  # type: ignore[arg-type]
    again.meta = {**view.meta, "val": node.meta["val"]}
    node.replace_all_uses_with(again, delete_user_cb=lambda user: user is not again)
    node.meta["val"] = before


def _reduce(module: GraphModule, node: Node) -> bool:
    """A sum or a mean over dimensions of a permuted value: over the others, permuted afterwards."""
    view, a = node.args[0], arguments(node)
    if not isinstance(view, Node) or not _bijective(view) or (order := _order(view)) is None or not a.get("dim"):
        return False
    dims = [a["dim"]] if isinstance(a["dim"], int) else list(a["dim"])
    dims = [d % len(order) for d in dims]
    source, keep = view.args[0], bool(a.get("keepdim"))
    assert isinstance(source, Node)
    node.args = (source, [order[d] for d in dims], *node.args[2:])
    left = order if keep else [n for i, n in enumerate(order) if i not in dims]
    after = [sorted(left).index(n) for n in left]
    value = node.meta["val"]
    inverse = sorted(range(len(after)), key=after.__getitem__)
    if after == sorted(after):
        return True
    with module.graph.inserting_after(node):
        again = module.graph.call_function(_aten.permute.default, (node, after))
    again.meta = {**view.meta, "val": value}
    node.replace_all_uses_with(again, delete_user_cb=lambda user: user is not again)
    node.meta["val"] = _aten.permute.default(value, inverse)
    return True


def _keep_channel(module: GraphModule, node: Node) -> bool:
    """A sum or a mean over the channels and not over all the rest leaves one channel, which a view takes out."""
    a, rank = arguments(node), len(_shape(node.args[0]))
    dims = [a["dim"]] if isinstance(a.get("dim"), int) else list(a.get("dim") or ())
    dims = sorted(d % rank for d in dims)
    if is_constant(node) or a.get("keepdim") or 1 not in dims or 0 in dims or len(dims) == rank - 1:
        return False
    value = node.meta["val"]
    kept = _aten.reshape.default(value, [1 if i in dims else n for i, n in enumerate(node.args[0].meta["val"].shape)])  # type: ignore[union-attr]
    with module.graph.inserting_after(node):
        again = module.graph.call_function(_aten.squeeze.dims, (node, dims))
    again.meta = dict(node.meta)
    node.replace_all_uses_with(again, delete_user_cb=lambda user: user is not again)
    node.args, node.kwargs = (node.args[0], dims, True), {k: v for k, v in node.kwargs.items() if k not in ("dim", "keepdim")}
    node.meta["val"] = kept
    return True
