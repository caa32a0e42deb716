"""Functions of one value: element-wise operators that together depend on one activation become one table.

No operator is known by name here: PyTorch itself says which are element-wise. The largest sub-graph between one activation and one
result is taken, so `x * relu6(x + 3) / 6` is one table, as `hardswish(x)` is.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node, map_arg

from ..fx.nodes import arguments, constant, is_constant, is_size, operator_name

__all__ = ["CLAMPS", "Function", "activations", "clamp_bounds", "elementwise", "find_functions", "passes_threshold"]


@dataclass(frozen=True)
class Function:
    """A function of one value: `nodes`, in order and with the result last, read `source` and constants, each one number."""

    source: Node
    nodes: tuple[Node, ...]

    def on(self, module: GraphModule) -> Callable[[Tensor], Tensor]:
        """The function of float32 tensors of any shape, with the constants that `module` holds when it is called."""

        def evaluate(x: Tensor) -> Tensor:
            values = {self.source: x}
            for node in self.nodes:

                def value(n: Node) -> Tensor:
                    return values[n] if n in values else _number(module, n)

                values[node] = node.target(*map_arg(node.args, value), **map_arg(node.kwargs, value))  # type: ignore[operator]
            return values[self.nodes[-1]]

        return evaluate


def _number(module: GraphModule, node: Node) -> Tensor:
    """A constant whose elements are all the same, as a tensor without dimensions."""
    value = constant(module, node)
    return (value.float() if value.is_floating_point() else value).reshape(-1)[0]


# -- what is element-wise --------------------------------------------------------------------------------------------

_UNTAGGED = {
    f"aten.{name}"
    for name in ("hardswish", "log_sigmoid", "rsub", "where", "zeros_like", "ones_like", "full_like", "to", "_to_copy", "type_as",
                 "absolute", "negative", "multiply", "divide", "subtract", "arctan", "fix", "special_erf", "special_expit",
                 "special_log1p", "square", "alias", "detach", "contiguous", "lift_fresh_copy")
}  # fmt: skip
"""Element-wise operators that PyTorch has not tagged so."""


def activations(node: Node) -> list[Node]:
    """The operands that depend on an input."""
    return [n for n in node.all_input_nodes if not is_constant(n) and not is_size(n)]


def elementwise(node: Node) -> bool:
    """Whether every element of the value depends on the same elements of the operands, and on nothing random."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded in tags and not (operator_name(node) == "aten.rrelu" and not arguments(node)["training"]):
        return False
    return node.op == "call_function" and (torch.Tag.pointwise in tags or operator_name(node) in _UNTAGGED)


def _of_one_value(module: GraphModule, node: Node) -> bool:
    """Whether a node is element-wise, its activations are as large as the result, and each of its constants is one number."""
    if not elementwise(node):
        return False
    shape = getattr(node.meta.get("val"), "shape", None)
    reads = activations(node)
    if shape is None or not reads or any(getattr(n.meta.get("val"), "shape", None) != shape for n in reads):
        return False
    return all(n in reads or is_size(n) or _uniform(constant(module, n)) for n in node.all_input_nodes)


def _uniform(value: Tensor) -> bool:
    return value.numel() > 0 and bool((value == value.reshape(-1)[0]).all())


# -- what needs no table ---------------------------------------------------------------------------------------------


def _bound(value: object, default: float) -> float:
    return default if value is None else float(value)  # type: ignore[arg-type]


_INF = float("inf")
CLAMPS: dict[str, Callable[[list], tuple[float, float]]] = {
    "aten.relu": lambda a: (0.0, _INF),
    "aten.relu6": lambda a: (0.0, 6.0),
    "aten.hardtanh": lambda a: (_bound(a[0], -1.0), _bound(a[1], 1.0)),
    "aten.clamp": lambda a: (_bound(a[0], -_INF), _bound(a[1], _INF)),
    "aten.clamp_min": lambda a: (_bound(a[0], -_INF), _INF),
    "aten.clamp_max": lambda a: (-_INF, _bound(a[0], _INF)),
}
"""Operators that clamp: from the arguments after the tensor to (lo, hi)."""
_LINEAR = ("aten.mul", "aten.div", "aten.add", "aten.sub", "aten.rsub", "aten.neg")
_SAME = ("aten.clone", "aten.contiguous", "aten.alias", "aten.detach", "aten.lift_fresh_copy", "aten.to")


def clamp_bounds(node: Node) -> tuple[float, float] | None:
    """The bounds of an operator that clamps to numbers, the lower one below the upper one; None for any other node."""
    name = operator_name(node)
    bounds = list(arguments(node).values())[1:] if name in CLAMPS else [node]
    if any(isinstance(b, Node) for b in bounds):
        return None
    low, high = CLAMPS[name](bounds)
    return (low, high) if low < high else None


def passes_threshold(node: Node) -> bool:
    """Whether a node is a threshold as post-processing has it: 0 in place of what is not above a bound that is not negative."""
    a = arguments(node)
    return operator_name(node) == "aten.threshold" and float(a["threshold"]) >= 0 and float(a["value"]) == 0


def _scales(node: Node, moving: Iterable[Node]) -> bool:
    """Whether the result is a gain times one of `moving`, plus an offset, or the sum of several such."""
    name, reads = operator_name(node), [n for n in node.all_input_nodes if n in moving]
    if name == "aten.div":
        return reads == [node.args[0]] and not arguments(node).get("rounding_mode")
    occurrences = sum(a in reads for a in node.args if isinstance(a, Node))
    return (name in _SAME and _real(node)) or (name in _LINEAR and (occurrences == 1 or name != "aten.mul"))


def _is_linear(nodes: Iterable[Node], source: Node) -> bool:
    """Whether the last node is a gain times the source plus an offset."""
    moving = {source}
    for node in nodes:
        if any(n in moving for n in node.all_input_nodes):
            if not _scales(node, moving):
                return False
            moving.add(node)
    return True


def _is_plain(node: Node) -> bool:
    """Whether the array has an operation for the node that is better than a table: it has one activation, once."""
    occurrences = sum(isinstance(a, Node) and not is_constant(a) for a in node.args)
    plain = clamp_bounds(node) is not None or passes_threshold(node) or _scales(node, activations(node))
    return occurrences == 1 and plain


# -- the largest sub-graphs ------------------------------------------------------------------------------------------

_SUMS = ("aten.add", "aten.sub", "aten.rsub", "aten.maximum", "aten.minimum")
"""Of two activations, the array computes these without a table."""


def find_functions(module: GraphModule) -> tuple[dict[Node, Function], set[Node]]:
    """The functions of one value of a graph by their results, and the nodes that are inside of them and of nothing else.

    Each is the largest sub-graph whose intermediate values nobody else reads. Where that leaves a product or another operator of two
    values that both depend on one, what they depend on is computed again, inside the table.
    """
    order = {n: i for i, n in enumerate(module.graph.nodes)}
    found: dict[Node, Function] = {}
    live: set[Node] = set()
    for node in reversed(module.graph.nodes):
        if node.op == "output":
            live.update(node.all_input_nodes)
        elif node in live:
            function = _largest(module, node, order, live)
            if function is None:
                live.update(node.all_input_nodes)
            else:
                found[node] = function
                live.add(function.source)
    inside = {n for f in found.values() for n in f.nodes}
    return found, inside - live


def _largest(module: GraphModule, end: Node, order: Mapping[Node, int], live: set[Node]) -> Function | None:
    if not _of_one_value(module, end) or not _real(end):
        return None
    nodes, source = _grown(module, end, order, live, alone=True)
    if source is None:
        reads = activations(end)
        if all(_real(n) for n in reads) and (len(reads) == 1 or operator_name(end) in _SUMS):
            return None
        nodes, source = _grown(module, end, order, live, alone=False)
    if source is None:
        return None
    nodes.sort(key=order.__getitem__)
    source = _without_clamps(nodes, source)
    if _is_linear(nodes, source) or all(map(_is_plain, nodes)):
        return None
    return Function(source, tuple(nodes))


def _real(node: Node) -> bool:
    dtype = getattr(node.meta.get("val"), "dtype", None)
    return dtype is not None and dtype.is_floating_point


def _grown(
    module: GraphModule, end: Node, order: Mapping[Node, int], live: set[Node], alone: bool
) -> tuple[list[Node], Node | None]:
    """The nodes from a source to `end`, and the source. With `alone`, no other node reads what lies between, and they are as many as
    possible; without, as few. The source is None where there is none."""
    inside, best, source = {end}, [], None
    while reads := {r for n in inside for r in activations(n)} - inside:
        last = max(reads, key=order.__getitem__)
        if len(reads) == 1 and _real(last):
            best, source = list(inside), last
            if not alone:
                break
        others = (u for u in last.users if u not in inside and not is_size(u) and (order[u] < order[end] or u in live))
        if not _of_one_value(module, last) or (alone and any(others)):
            break
        inside.add(last)
    return best, source


def _without_clamps(nodes: list[Node], source: Node) -> Node:
    """Takes clamps off the beginning, where they bound what the table's index must cover; returns the source that is left."""
    while True:
        readers = [n for n in nodes if source in n.all_input_nodes]
        first = readers[0]
        if len(readers) > 1 or len(nodes) == 1 or clamp_bounds(first) is None or not _is_plain(first):
            return source
        nodes.remove(first)
        source = first
