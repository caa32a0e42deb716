"""From an exported graph to layers: which nodes become one node of the integer graph.

The same plan serves the quantiser (where to quantise), the check before training (what is supported) and the lowering
(what to emit), so they cannot disagree.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from sordino_hw.spec.arch import ArchConfig

from .fx.cut import cut
from .fx.nodes import arguments, feature_shape, is_size, operator_name
from .fx.problems import Problem, refuse
from .fx.source import where
from .ops import OPERATORS, only_moves, remedy
from .ops import constraints as must
from .ops.activation import one_value, table
from .ops.functions import Function, elementwise
from .ops.layer import InputLayer, Layer, Unsupported
from .ops.operator import Constraint, rule, traits
from .ops.pad import PadLayer
from .ops.planner import Planner
from .ops.views import realise, unreadable

__all__ = ["Plan", "layer_names", "plan"]

OWN_SCALE = (
    "The product of two activations has a scale of its own, but here it is joined with tensors that have another scale, or the model rounds "
    "it. Multiply it by 1.0 first, as in torch.cat((a, (x * s) * 1.0)), which costs one vector operation."
)


@dataclass
class Plan:
    """Layers in execution order. `outputs` are `out` nodes."""

    layers: list[Layer]
    outputs: list[Node]
    problems: list[Problem]
    alias: dict[Node, Node]
    """From every node that holds a layer's value unchanged to that layer's `out`."""
    tables: dict[Node, Node] = field(default_factory=dict)
    """From every node that is part of a table to the one with the table's result."""
    views: set[Node] = field(default_factory=set)
    """What views have made of a value, whether something reads it or not."""

    def roots(self) -> dict[Node, Node]:
        """From each layer's `out` to the node whose scale it has: the first of its group.

        Layers that only move or clamp values hand their input's scale on, and concatenation unites its parts.
        """
        parent: dict[Node, Node] = {}
        order = {layer.out: i for i, layer in enumerate(self.layers)}

        def find(n: Node) -> Node:
            while parent[n] is not n:
                n = parent[n]
            return n

        for layer in self.layers:
            parent[layer.out] = layer.out
            if not layer.own_scale:
                group = sorted({find(n) for n in layer.scale_sources}, key=order.__getitem__)
                for n in (*group[1:], layer.out):
                    if group:
                        parent[n] = group[0]
        return {n: find(n) for n in parent}

    def nonnegative(self) -> set[Node]:
        """The `out` nodes that cannot be negative, whatever the weights, if no input is."""
        found: set[Node] = set()
        for x in self.layers:
            if x.activation.nonnegative or (x.keeps_sign and not x.norm and found.issuperset(x.inputs)):
                found.add(x.out)
        return found

    def lacking(self, arch: ArchConfig) -> list[Problem]:
        """The layers for which the architecture lacks something."""
        return [Problem(x.core.name, operator_name(x.core), where(x.core), text) for x in self.layers if (text := x.lacks(arch))]

    def shared(self) -> list[Problem]:
        """The layers whose scale must be their own, but is another tensor's or the model's."""
        roots = self.roots()
        found = [
            x for x in self.layers if x.snaps_scale and not x.table_is_fused and (roots[x.out] is not x.out or x.activation.step)
        ]
        return [Problem(x.core.name, operator_name(x.core), where(x.core), OWN_SCALE) for x in found]

    def check(self) -> None:
        """The spec of a plan: raises `AssertionError` unless every layer reads what layers before it make.

        A violation is a fault of this compiler, never of the model.
        """
        known: set[Node] = set()
        for layer in self.layers:
            assert known.issuperset(layer.inputs), f"{layer.core.name!r} reads what is not planned before it"
            assert layer.out not in known, f"{layer.out.name!r} is planned twice"
            wrong = list(layer.problems())
            assert not wrong, f"{layer.core.name!r}: {wrong[0]}"
            known.add(layer.out)
        assert known.issuperset(self.outputs), "an output is not planned"


def layer_names(plan: Plan) -> list[str]:
    """A name for each layer: its module's path where there is one, the argument's name for an input, else its node's name.

    The float graph, folded or not, and the quantised one give the same names.
    """
    names: list[str] = []
    for layer in plan.layers:
        unique, k = layer.name, 1
        while unique in names:
            unique, k = f"{layer.name}.{k}", k + 1
        names.append(unique)
    return names


def _build(planner: Planner, node: Node) -> None:
    """Plans one node: adds or extends a layer, notes an alias, or reports what is wrong with it."""
    if node.op == "get_attr" or is_size(node) or node.target == "_guards_fn":
        return
    if node.op == "placeholder":
        _placeholder(planner, node)
        return
    if node in planner.absorbed:
        return
    if node in planner.functions:
        _function(planner, node, planner.functions[node])
        return
    reads = [n for n in node.all_input_nodes if planner.known(n)]
    if not reads:
        return  # a constant expression: evaluated where it is used
    name = operator_name(node)
    if name == "getitem" and isinstance(planner.layers.get(node.args[0]), Unsupported):  # type: ignore[arg-type]
        _unsupported(planner, node, reads)  # a result of what has been reported
        return
    entry = OPERATORS.get(name)
    if planner.unshaped(reads[0]) and (entry or only_moves(name)):
        _unsupported(planner, node, reads)  # its rules speak of shapes that what it reads does not have: that was reported
        return
    if entry is None and elementwise(node):
        planner.problem(node, rule(one_value), one_value(planner, node, arguments(node)) or "")
        _unsupported(planner, node, reads)
        return
    if entry is None:
        planner.problem(node, f"This operator is not supported. {remedy(name)}".rstrip(), cut=_cut(node, reads))
        _unsupported(planner, node, reads)
        return
    args = arguments(node)
    found = [] if entry.views else _unfit(planner, node, reads)
    found = found or _broken(planner, node, args, entry.constraints)
    for text, what in found:
        planner.problem(node, text, what)
    if found:
        _unsupported(planner, node, reads)
    else:
        entry.plan(planner, node, args)


def _function(planner: Planner, node: Node, function: Function) -> None:
    """Plans a function of one value, or reports its shape."""
    unfit = [] if planner.unshaped(function.source) else _unfit(planner, node, [function.source])
    for text, what in unfit:
        planner.problem(node, text, what)
    if unfit or planner.unshaped(function.source):
        _unsupported(planner, node, [function.source])
    else:
        table(planner, node, function)


def _unfit(planner: Planner, node: Node, reads: Sequence[Node]) -> list[tuple[str, str]]:
    """What is wrong with the dimensions that a node reads and makes."""
    found = [what for n in dict.fromkeys(reads) if (what := planner.unreadable(n))]
    return found or _broken(planner, node, {}, (must.fixed_sizes,))


def _broken(planner: Planner, node: Node, args: dict[str, Any], constraints: Sequence[Constraint]) -> list[tuple[str, str]]:
    """The rules that a call breaks, and what was found."""
    return [(rule(c), text) for c in constraints if (text := c(planner, node, args))]


def _cut(node: Node, reads: Sequence[Node]) -> str:
    """Where to cut the model: empty if the operator's remedy says all."""
    instead, text = remedy(operator_name(node)), cut(node, reads, lambda n: bool((entry := traits(n)) and entry.weighted))
    return text if not instead or ("host" in instead and text.startswith("It stands between")) else ""


def _unsupported(planner: Planner, node: Node, reads: list[Node]) -> None:
    """Stands in for a node that cannot be planned, so that the walk goes on and finds further problems."""
    inputs = [planner.value(n) for n in reads if not planner.unreadable(n)]
    entry, shape = traits(node), (1, 1, 1)
    fits = not any(planner.unshaped(n) for n in reads[:1]) or bool(entry and entry.weighted)
    try:
        shape = feature_shape(node)
    except ValueError:
        fits = False
    if not fits:
        planner.shapeless.add(node)
    planner.add(Unsupported(node, node, inputs, shape))


def _placeholder(planner: Planner, node: Node) -> None:
    text = must.fixed_sizes(planner, node, {})
    if text:
        planner.problem(node, rule(must.fixed_sizes), text)
        _unsupported(planner, node, [])
    else:
        planner.add(InputLayer(node, node, [], feature_shape(node)))


def _padding_layer(node: Node, source: Node, padding) -> Layer:
    return PadLayer(node, node, [source], feature_shape(node), padding)


def plan(module: GraphModule, strict: bool = True, arch: ArchConfig | None = None) -> Plan:
    """Groups the nodes of a float graph (or of a quantised one without its quantise nodes) into layers.

    Raises `CompileError` naming every problem at once; with `strict` false they are in `Plan.problems` instead, and
    what could not be planned is `Unsupported`. With `arch`, what that architecture lacks is a problem, too.
    """
    planner = Planner(module, _padding_layer, realise, unreadable, lambda n: bool((entry := traits(n)) and entry.views))
    outputs: list[Node] = []
    for node in module.graph.nodes:
        if node.op != "output":
            _build(planner, node)
            continue
        for n in pytree.tree_leaves(node.args[0]):
            if n in planner.views and planner.views[n].reshaped:
                outputs.append(planner.value(planner.views[n].source))
            elif planner.known(n) and (what := planner.unreadable(n)):
                planner.problem(n, *what)
            elif planner.known(n):
                outputs.append(planner.value(n))
            elif n is not None:
                planner.problem(node, "Every output is a tensor that depends on an input. Return activations only.")
    tables = {n: end for end, f in planner.functions.items() for n in f.nodes if n is end or n in planner.absorbed}
    result = Plan(list(planner.layers.values()), outputs, planner.problems, planner.alias, tables, set(planner.views))
    result.problems += result.shared() + (result.lacking(arch) if arch else [])
    order = {n.name: i for i, n in enumerate(module.graph.nodes)}
    result.problems.sort(key=lambda p: order.get(p.node, len(order)))
    if strict:
        refuse(result.problems)
    result.check()
    return result
