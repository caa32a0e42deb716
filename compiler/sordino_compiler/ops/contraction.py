"""Products of an activation with a constant, however they are written, as `aten.linear` along the channels.

`x @ w`, `torch.addmm`, `torch.einsum`, a fully connected layer on more than two dimensions: each becomes a 1x1 convolution, or a
fully connected layer, between permutations, which are followed as views.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Node

from ..fx.nodes import arguments, is_constant, operator_name
from .operator import operator
from .planner import Planner

__all__ = ["rewritten"]

_aten = torch.ops.aten


def rewritten(form: "Callable[[_Builder, Node], Node | None]") -> Callable[[GraphModule, Node], None]:
    """An operator's `rewrite`: by what `form` builds in front of a call, or nothing where that gives None."""

    def rewrite(module: GraphModule, node: Node) -> None:
        with module.graph.inserting_before(node):
            new = form(_Builder(module, node), node)
        if new is not None:
            node.replace_all_uses_with(new)
            module.graph.erase_node(node)

    return rewrite


class _Builder:
    """Adds operators in front of a node, with their shapes; what is computed of constants alone is a constant."""

    def __init__(self, module: GraphModule, node: Node):
        self.graph, self.node = module.graph, node

    def __call__(self, target: Any, *args: Any) -> Node:
        new = self.graph.call_function(target, args)
        values = torch.fx.map_arg(args, lambda n: n.meta["val"])
        new.meta = {k: v for k, v in self.node.meta.items() if k != "val"}
        new.meta["val"] = target(*values)
        return new

    def permute(self, x: Node, order: Sequence[int]) -> Node:
        return x if list(order) == list(range(len(order))) else self(_aten.permute.default, x, list(order))


def _rank(node: Any) -> int:
    return len(node.meta["val"].shape)


def _activation(node: Any) -> bool:
    return isinstance(node, Node) and not is_constant(node)


def linear(build: _Builder, node: Node) -> Node | None:
    a = arguments(node)
    x = a["input"]
    if not is_constant(a["weight"]) or not is_constant(a["bias"]) or not _activation(x):
        return None
    if _rank(x) == 2:
        return _in_front(build, x, a["weight"], a["bias"])
    return _along_last(build, a["input"], a["weight"], a["bias"])


def _in_front(build: _Builder, x: Node, weight: Node, bias: Node | None) -> Node | None:
    """A layer on (N * L, F), which was (N, L, F) before: on that, joined afterwards."""
    whole = x.args[0] if operator_name(x) in ("aten.reshape", "aten.view", "aten.flatten") else None
    if not isinstance(whole, Node) or _rank(whole) < 3 or whole.meta["val"].shape[-1] != x.meta["val"].shape[-1]:
        return None
    made = _along_last(build, whole, weight, bias)
    return build(_aten.flatten.using_ints, made, 0, _rank(made) - 2)


def _along_last(build: _Builder, x: Node, weight: Node, bias: Node | None) -> Node:
    """`linear(x, weight, bias)` along the last dimension of any number of them."""
    rank = _rank(x)
    if rank == 2:
        return build(_aten.linear.default, x, weight, bias)
    if rank > 4:
        shape = x.meta["val"].shape
        joined = build(_aten.flatten.using_ints, x, 1, rank - 2)
        return build(_aten.unflatten.int, _along_last(build, joined, weight, bias), 1, [int(s) for s in shape[1:-1]])
    kernel = weight
    for _ in range(rank - 2):
        kernel = build(_aten.unsqueeze.default, kernel, -1)
    conv = _aten.conv1d.default if rank == 3 else _aten.conv2d.default
    made = build(conv, build.permute(x, [0, rank - 1, *range(1, rank - 1)]), kernel, bias)
    return build.permute(made, [0, *range(2, rank), 1])


def _matmul(build: _Builder, node: Node) -> Node | None:
    x, y = node.args[:2]
    if _activation(x) and is_constant(y):
        return _right(build, x, y, None)
    if _activation(y) and is_constant(x) and _rank(x) == 2 and _rank(y) > 2:  # type: ignore[arg-type]
        made = _along_last(build, build(_aten.transpose.int, y, -1, -2), x, None)  # type: ignore[arg-type]
        return build(_aten.transpose.int, made, -1, -2)
    return None


def _right(build: _Builder, x: Any, y: Any, bias: Node | None) -> Node | None:
    """`x @ y + bias` with a constant matrix or vector, of which there may be several that are one."""
    while _rank(y) > 2 and y.meta["val"].shape[0] == 1:
        y = build(_aten.squeeze.dim, y, 0)
    if _rank(y) == 1:
        made = _along_last(build, x, build(_aten.unsqueeze.default, y, 0), bias)
        return build(_aten.squeeze.dim, made, -1)
    return _along_last(build, x, build(_aten.transpose.int, y, 0, 1), bias) if _rank(y) == 2 else None


def _addmm(build: _Builder, node: Node) -> Node | None:
    a = arguments(node)
    bias, x, y = a["self"], a["mat1"], a["mat2"]
    if not (_activation(x) and is_constant(y) and is_constant(bias)):
        return None
    while _rank(bias) > 1:
        if bias.meta["val"].shape[0] != 1:
            return None
        bias = build(_aten.squeeze.dim, bias, 0)
    if _rank(bias) == 0 or bias.meta["val"].shape[0] != y.meta["val"].shape[1]:
        bias = build(_aten.expand.default, bias, [y.meta["val"].shape[1]])
    if a["beta"] != 1:
        bias = build(_aten.mul.Tensor, bias, a["beta"])
    if a["alpha"] != 1:
        y = build(_aten.mul.Tensor, y, a["alpha"])
    return _right(build, x, y, bias)


def _einsum(build: _Builder, node: Node) -> Node | None:
    equation, operands = str(node.args[0]).replace(" ", ""), list(node.all_input_nodes)
    if len(operands) != len(node.args[1]):  # type: ignore[arg-type]  # one of them twice
        return None
    left, arrow, out = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(operands) or any(len(set(t)) < len(t) for t in (*terms, out)):
        return None
    if len(operands) == 1:
        return _summed(build, operands[0], terms[0], out) if _activation(operands[0]) else None
    moving = [i for i, n in enumerate(operands) if _activation(n)]
    if len(operands) != 2 or len(moving) != 1:
        return None
    x, y = operands[moving[0]], operands[1 - moving[0]]
    ours, theirs = terms[moving[0]], terms[1 - moving[0]]
    summed = [c for c in ours if c in theirs and c not in out]
    new = [c for c in theirs if c not in ours]
    kept = [c for c in ours if c not in summed]
    if not out.startswith(ours[0]) or ours[0] in theirs or any(c in theirs for c in kept) or set(out) != set(kept) | set(new):
        return _scaled(build, x, y, ours, theirs, out)
    if not summed:
        return None
    x = build.permute(x, [ours.index(c) for c in (*kept, *summed)])
    if len(summed) > 1:
        x = build(_aten.flatten.using_ints, x, len(kept), len(kept) + len(summed) - 1)
    sizes = [int(y.meta["val"].shape[theirs.index(c)]) for c in new]
    y = build.permute(y, [theirs.index(c) for c in (*new, *summed)])
    y = build(_aten.reshape.default, y, [int(torch.Size(sizes).numel()), -1])
    made = _along_last(build, x, y, None)
    if not new:
        made = build(_aten.squeeze.dim, made, -1)
    elif len(new) > 1:
        made = build(_aten.unflatten.int, made, -1, sizes)
    return build.permute(made, [[*kept, *new].index(c) for c in out])


def _summed(build: _Builder, x: Node, ours: str, out: str) -> Node | None:
    """One operand: a sum over the letters that are left out."""
    if not out.startswith(ours[0]) or not set(out) <= set(ours):
        return None
    gone = [i for i, c in enumerate(ours) if c not in out]
    made = build(_aten.sum.dim_IntList, x, gone) if gone else x
    kept = [c for c in ours if c in out]
    return build.permute(made, [kept.index(c) for c in out])


def _scaled(build: _Builder, x: Node, y: Node, ours: str, theirs: str, out: str) -> Node | None:
    """Nothing is summed, and the constant has letters of the activation only: a product with constants."""
    if set(out) != set(ours) or not set(theirs) <= set(ours) or ours[0] in theirs or not out.startswith(ours[0]):
        return None
    y = build.permute(y, sorted(range(len(theirs)), key=lambda i: ours.index(theirs[i])))
    for i, c in enumerate(ours):
        if c not in theirs:
            y = build(_aten.unsqueeze.default, y, i)
    return build.permute(build(_aten.mul.Tensor, x, y), [ours.index(c) for c in out])


def constant_matrix(planner: Planner, node: Node, a: dict[str, Any]) -> str | None:
    """One factor is an activation, the batch first, the other a constant matrix or vector (a parameter or a buffer), and the product
    sums over dimensions behind the batch. Instead of a product of two activations use nn.Conv2d, or nn.Linear for a matrix that is
    trained, or take it on the host."""
    return "another form"


def _never(planner: Planner, node: Node, a: dict[str, Any]) -> None:
    raise AssertionError(f"{node.name!r} was not rewritten")


for _name, _form in (("matmul", _matmul), ("mm", _matmul), ("bmm", _matmul), ("addmm", _addmm), ("einsum", _einsum)):
    _becomes = "what aten.linear, aten.mul or aten.sum becomes, between views"
    operator(f"aten.{_name}", becomes=_becomes, constraints=(constant_matrix,), rewrite=rewritten(_form))(_never)
