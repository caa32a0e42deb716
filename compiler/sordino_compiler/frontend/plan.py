"""From an exported graph to layers: which nodes become one operation of the array.

The same plan serves the quantiser (where to quantise), the check before training (what is supported) and the lowering
(what to emit), so they cannot disagree.
"""

from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from ..graph import Window
from .activation import Activation
from .problems import Problem, refuse
from .source import module_path, where

__all__ = ["Layer", "Plan", "Planner", "feature_rank", "feature_shape", "is_size", "layer_names", "operator_name", "plan"]

STANDS_FOR = "sordino_stands_for"
"""Key of a node's `meta`: name of the node that it has taken the place of."""

Padding = tuple[int, int, int, int]
"""(top, left, bottom, right)"""


@dataclass
class Layer:
    """One layer: `core` computes, the nodes up to `out` are fused into it."""

    kind: str
    """input, conv, linear, pool, affine, add, maxpool, upsample, concat, slice, flatten, pad, activation, unsupported"""
    core: Node
    out: Node
    inputs: list[Node]
    """Nodes whose values are read: each the `out` of a layer before. A residual comes last."""
    shape: tuple[int, int, int]
    """(channels, height, width) of the output."""
    window: Window = field(default_factory=lambda: Window((1, 1)))
    groups: int = 1
    weight: Node | None = None
    bias: Node | None = None
    norm: list[Node] = field(default_factory=list)
    """Batch norms and multiplications or additions of constants, applied in this order after the core."""
    signs: tuple[int, ...] = ()
    """add: the sign of each input; a fused residual's sign."""
    residual: bool = False
    repeat: tuple[int, int] = (1, 1)
    start: int = 0
    """slice: first channel."""
    activation: Activation = field(default_factory=Activation)
    pre: Node | None = None
    """The node whose value enters the table or the threshold."""

    @property
    def weighted(self) -> bool:
        return self.kind in ("conv", "linear")

    @property
    def own_scale(self) -> bool:
        """Whether the output is quantised anew; otherwise it has the scale of its first input."""
        return self.kind in ("input", "conv", "linear", "pool", "affine", "add") or bool(self.activation.table)


@dataclass
class Plan:
    """Layers in execution order. `outputs` are `out` nodes."""

    layers: list[Layer]
    outputs: list[Node]
    problems: list[Problem]
    alias: dict[Node, Node]
    """From every node that holds a layer's value unchanged to that layer's `out`."""

    def by_out(self) -> dict[Node, Layer]:
        return {layer.out: layer for layer in self.layers}

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
                group = sorted(
                    {find(n) for n in (layer.inputs if layer.kind == "concat" else layer.inputs[:1])}, key=order.__getitem__
                )
                for n in (*group[1:], layer.out):
                    if group:
                        parent[n] = group[0]
        return {n: find(n) for n in parent}

    def table_inputs(self) -> set[Node]:
        """Roots whose integers index a table directly (an activation that no layer could take in): they are signed."""
        roots = self.roots()
        return {roots[x.inputs[0]] for x in self.layers if x.kind == "activation" and x.activation.table}

    def nonnegative(self) -> set[Node]:
        """The `out` nodes that cannot be negative, whatever the weights, if no input is."""
        found: set[Node] = set()
        for x in self.layers:
            passes = x.kind in ("input", "pool", "maxpool", "upsample", "pad", "slice", "flatten", "concat") or (
                x.kind in ("add", "activation") and not x.activation.table and min(x.signs, default=1) > 0
            )
            if x.activation.nonnegative or (passes and not x.norm and found.issuperset(x.inputs)):
                found.add(x.out)
        return found


class Planner:
    """State of one walk over a graph; the builders of `operators` write to it."""

    def __init__(self, module: GraphModule):
        self.module = module
        self.layers: dict[Node, Layer] = {}
        self.alias: dict[Node, Node] = {}
        self.pads: dict[Node, tuple[Node, Padding]] = {}
        """Zero paddings that no layer has taken in yet: node -> (its input, padding)."""
        self.problems: list[Problem] = []

    def known(self, node: object) -> bool:
        """Whether `node` is an activation: a tensor that depends on an input."""
        return isinstance(node, Node) and (node in self.alias or node in self.pads)

    def value(self, node: Node) -> Node:
        """The `out` node that holds the value of `node`; a padding becomes a layer of its own here."""
        if node in self.pads:
            source, padding = self.pads.pop(node)
            window = Window((1, 1), padding=padding)
            self.add(Layer("pad", node, node, [self.value(source)], feature_shape(node), window))
        return self.alias[node]

    def unpadded(self, node: Node) -> tuple[Node, Padding]:
        """The value under a zero padding, and that padding."""
        source, padding = self.pads.get(node, (node, (0, 0, 0, 0)))
        return self.value(source), padding

    def add(self, layer: Layer) -> None:
        self.layers[layer.out] = layer
        self.alias[layer.out] = layer.out

    def producer(self, node: Node, reader: Node) -> Layer | None:
        """The layer that makes `node`, if `reader` is the only one that reads it, so that it may be fused."""
        if node in self.pads:
            return None
        out = self.alias[node]
        chain = [n for n, o in self.alias.items() if o is out]
        alone = all(u is reader or self.alias.get(u) is out or is_size(u) for n in chain for u in n.users)
        return self.layers[out] if alone else None

    def extend(self, layer: Layer, node: Node) -> None:
        """Makes `node` the output of `layer`, which moves behind all layers so far."""
        old = layer.out
        del self.layers[old]
        layer.out = node
        self.add(layer)
        for n, o in self.alias.items():
            if o is old:
                self.alias[n] = node

    def problem(self, node: Node, text: str) -> None:
        self.problems.append(Problem(node.name, operator_name(node), where(node), text))


def operator_name(node: Node) -> str:
    """`aten.conv2d`, `sordino.threshold_relu`, `getitem`, `placeholder`: the operator without its overload."""
    if node.op != "call_function":
        return node.op
    packet = getattr(node.target, "overloadpacket", None)
    if packet is not None:
        return str(packet)
    return getattr(node.target, "__name__", str(node.target))


def layer_names(plan: Plan) -> list[str]:
    """A name for each layer: its module's path where there is one, the argument's name for an input, else its node's name.

    The float graph, folded or not, and the quantised one give the same names.
    """
    own = ("conv", "linear", "pool", "maxpool", "upsample", "affine", "activation")
    names: list[str] = []
    for layer in plan.layers:
        name = str(layer.core.target) if layer.kind == "input" else module_path(layer.core) if layer.kind in own else ""
        name, unique, k = name or layer.core.meta.get(STANDS_FOR, layer.core.name), "", 0
        while not unique or unique in names:
            unique, k = f"{name}.{k}" if k else name, k + 1
        names.append(unique)
    return names


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


def plan(module: GraphModule, strict: bool = True) -> Plan:
    """Groups the nodes of a float graph (or of a quantised one without its quantise nodes) into layers.

    Raises `CompileError` naming every problem at once; with `strict` false they are in `Plan.problems` instead, and
    what could not be planned has kind `unsupported`.
    """
    from .operators import build

    planner = Planner(module)
    outputs: list[Node] = []
    for node in module.graph.nodes:
        if node.op != "output":
            build(planner, node)
            continue
        for n in pytree.tree_leaves(node.args[0]):
            if planner.known(n):
                outputs.append(planner.value(n))
            elif n is not None:
                planner.problem(node, "Every output is a tensor that depends on an input. Return activations only.")
    result = Plan(list(planner.layers.values()), outputs, planner.problems, planner.alias)
    if strict:
        refuse(result.problems)
    return result
