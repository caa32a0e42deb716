"""Where the array begins and ends: a captured graph cut into host steps before it, what it runs, and host steps behind it.

What the array can run, it runs. An operator that it cannot run becomes a host step, with all that comes before it, where no layer
with weights comes before; with all that comes behind it, where none comes behind; otherwise it stays and is refused. The
arithmetic with constants that many models begin with (`x / 255`, means and deviations) is a host step, too, and so is space to depth by
slices (a Focus layer): on the array they would double the memory that the input takes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from sordino_hw.spec.arch import ArchConfig

from .fx.nodes import is_constant, is_size, operator_name
from .fx.problems import Problem
from .fx.source import where
from .host import batches, kind_of, trial
from .ops.operator import traits
from .plan import Plan, plan

__all__ = ["Cut", "cut_at", "cut_edges", "extract"]

FRONT = {f"aten.{n}" for n in ("add", "sub", "rsub", "mul", "div", "neg", "to", "_to_copy", "contiguous", "clone")}
"""Operators that run on the host at the very front, although the array could run them."""
_LAYOUT = {
    f"aten.{n}"
    for n in ("permute", "transpose", "movedim", "reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze", "flip", "index",
              "expand", "repeat")
}  # fmt: skip
"""Operators that may stand before those of `FRONT`."""
BACK = {
    *(f"aten.{n}" for n in ("sigmoid", "tanh", "silu", "softplus", "hardsigmoid", "exp", "square", "abs", "sqrt", "log")),
    *(f"aten.{n}" for n in ("add", "sub", "rsub", "mul", "div", "neg", "pow")),
    *_LAYOUT,
}
"""Operators that run on the host, in full precision, where only host steps read them."""


@dataclass
class Cut:
    """A captured graph, cut. `core` has the plan's problems, if any: then there is no cut that works."""

    module: GraphModule
    """The whole graph."""
    core: GraphModule
    """What the array runs. Its arguments are the `entries`, its results the `exits`."""
    plan: Plan
    """Of `core`, not strict."""
    before: list[Node]
    """Nodes of `module` that the host runs first, in order."""
    after: list[Node]
    entries: list[Node]
    """Nodes of `module` whose values enter the array: inputs, and results of host steps."""
    exits: list[Node]
    """Nodes of `module` whose values leave it."""
    problems: list[Problem]

    @property
    def whole(self) -> bool:
        """Whether the array runs everything, so that `core` is the whole graph."""
        return self.core is self.module

    @property
    def inputs(self) -> list[Node]:
        """The graph's inputs, in order."""
        return [n for n in self.module.graph.nodes if n.op == "placeholder"]

    @property
    def returned(self) -> list[Any]:
        """The leaves of what is returned: nodes and constants."""
        return list(pytree.tree_leaves(_output(self.module).args[0], is_leaf=lambda x: x is None))


def cut_edges(module: GraphModule, arch: ArchConfig | None = None) -> Cut:
    """Cuts a captured graph. What the host cannot run either is in `problems`. With `arch`, what that lacks goes to the host, too."""
    return _Cutter(module, arch).run()


def cut_at(module: GraphModule, before: Iterable[Node], after: Iterable[Node]) -> Cut:
    """The cut with given nodes on the host, whether or not the array could run them."""
    cutter = _Cutter(module)
    cutter.before, cutter.after = set(before), set(after)
    return cutter.cut()


def _output(module: GraphModule) -> Node:
    return next(n for n in module.graph.nodes if n.op == "output")


class _Cutter:
    """State of one search for the cut."""

    def __init__(self, module: GraphModule, arch: ArchConfig | None = None):
        self.module, self.arch, self.batch = module, arch, batches(module)
        self.order = {n: i for i, n in enumerate(module.graph.nodes)}
        self.active = _active(module)
        self.before: set[Node] = set()
        self.after: set[Node] = set()
        self.reasons: dict[Node, str | None] = {}

    def run(self) -> Cut:
        """Moves operators to the host until the array can run the rest, or no move helps."""
        for node in self._front():
            self.before.add(node)
        while True:
            core, _, _, origin = self._core()
            found = plan(core, strict=False, arch=self.arch)
            if not any(
                self._move(origin[n]) for n in core.graph.nodes if n.name in {p.node for p in found.problems} and n in origin
            ):
                break
        if self.after:
            while moved := self._back():
                self.after |= moved
        return self.cut()

    def cut(self) -> Cut:
        """The cut with what has moved so far."""
        core, entries, exits, _ = self._core()
        if not self.before and not self.after and self._plain(exits):
            core = self.module
        found = plan(core, strict=False, arch=self.arch)
        problems = found.problems + self._results()
        before, after = (sorted(nodes, key=self.order.__getitem__) for nodes in (self.before, self.after))
        return Cut(self.module, core, found, before, after, entries, exits, problems)

    # -- what may run where --------------------------------------------------------------------------------------------

    def on_host(self, node: Node) -> bool:
        """Whether the host has the operator in this form."""
        if node not in self.reasons:
            self.reasons[node] = trial(self.module, node, self.batch, self.active)
        return self.reasons[node] is None

    def anchored(self, node: Node) -> bool:
        """Whether it is the array's: a layer with weights, or what only the array has."""
        entry = traits(node)
        return node.op == "call_function" and (bool(entry and entry.weighted) or not self.on_host(node))

    def _upstream(self, node: Node) -> set[Node]:
        found, todo = {node}, [node]
        while todo:
            for n in todo.pop().all_input_nodes:
                if n in self.active and n.op == "call_function" and n not in found and n not in self.before:
                    found.add(n)
                    todo.append(n)
        return found

    def _downstream(self, node: Node) -> set[Node]:
        found, todo = {node}, [node]
        while todo:
            for n in todo.pop().users:
                if n in self.active and n.op == "call_function" and n not in found and n not in self.after:
                    found.add(n)
                    todo.append(n)
        return found

    def _move(self, node: Node) -> bool:
        """Moves an operator that the array cannot run to one of the edges. False where that cannot be."""
        if node.op == "placeholder" or node in self.before:
            moved = [self._move_before(u) for u in node.users if u in self.active and u not in self.before and u not in self.after]
            return any(moved)
        return self._move_before(node) or self._move_after(node)

    def _move_before(self, node: Node) -> bool:
        up = self._upstream(node)
        if node.op != "call_function" or any(self.anchored(n) for n in up) or not any(map(self.anchored, self._downstream(node))):
            return False
        self.before |= up | {u for n in up if _is_tuple(n) for u in n.users}
        return True

    def _move_after(self, node: Node) -> bool:
        source = node.args[0] if operator_name(node) == "getitem" else node
        down = self._downstream(source) if isinstance(source, Node) else {node}
        if not all(self.on_host(n) for n in down):
            return False
        weighted = [n for n in down if (entry := traits(n)) and entry.weighted]
        if weighted:
            above = set().union(*(self._upstream(n) for n in down)) - down - self.after
            if sum(map(_products, weighted)) > sum(map(_products, above)):
                return False
        self.after |= down
        return True

    def _front(self) -> list[Node]:
        """Arithmetic with constants before the first layer, and what stands before it; space to depth by slices with a step."""
        found: dict[Node, None] = {}
        for node in self.order:
            cat = operator_name(node) == "aten.cat" and node in self.active
            up = sorted(self._upstream(node), key=self.order.__getitem__) if cat else []
            stepped = any(len(n.args) > 4 and n.args[4] != 1 for n in up if operator_name(n) == "aten.slice")
            moves = stepped and all(operator_name(n) in ("aten.slice", "aten.cat") and self.on_host(n) for n in up)
            if moves and any(map(self.anchored, self._downstream(node))):
                found.update(dict.fromkeys(up))
        for node in self.order:
            if operator_name(node) not in FRONT or node not in self.active or len(self._operands(node)) != 1:
                continue
            up = sorted(self._upstream(node), key=self.order.__getitem__)
            fits = all(operator_name(n) in FRONT | _LAYOUT and len(self._operands(n)) == 1 and self.on_host(n) for n in up)
            if fits and any(map(self.anchored, self._downstream(node))):
                found.update(dict.fromkeys(up))
        return list(found)

    def _operands(self, node: Node) -> list[Node]:
        return [n for n in node.all_input_nodes if n in self.active]

    def _back(self) -> set[Node]:
        """Operators of `BACK` whose readers are all on the host."""
        return {
            n
            for n in self.order
            if operator_name(n) in BACK
            and n in self.active
            and n not in self.before | self.after
            and len(self._operands(n)) == 1
            and (users := [u for u in n.users if not is_size(u)])
            and all(u in self.after for u in users)
            and self.on_host(n)
        }

    # -- the graph of the array ----------------------------------------------------------------------------------------

    def _core(self) -> tuple[GraphModule, list[Node], list[Node], dict[Node, Node]]:
        """The array's graph, its entries and exits, and from its nodes to those of the module."""
        edges = self.before | self.after
        inside = [n for n in self.order if n in self.active and n.op == "call_function" and n not in edges]
        outer = {n for n in self.active if n.op == "placeholder"} | self.before
        used = {x for n in inside for x in n.all_input_nodes} & outer
        entries = [n for n in self.order if n in used]
        leaves = [x for x in pytree.tree_leaves(_output(self.module).args[0]) if isinstance(x, Node)]
        wanted = set(leaves) | {x for n in self.after for x in n.all_input_nodes}
        exits = [n for n in inside if n in wanted and not _is_tuple(n)]
        core, mapping = extract(self.module, entries, inside, exits)
        return core, entries, exits, {new: old for old, new in mapping.items()}

    def _plain(self, exits: list[Node]) -> bool:
        """Whether the results are the exits, in order, as a tensor or a tuple of several."""
        leaves = list(pytree.tree_leaves(_output(self.module).args[0], is_leaf=lambda x: x is None))
        spec = self.module.graph._codegen.pytree_info.out_spec  # type: ignore[attr-defined]
        shape = spec.is_leaf() if len(leaves) == 1 else spec.type is tuple and all(c.is_leaf() for c in spec.children())
        return shape and leaves == exits

    def _results(self) -> list[Problem]:
        """What is wrong with what is returned."""
        problems = []
        output = _output(self.module)
        for x in pytree.tree_leaves(output.args[0]):
            text = ""
            if isinstance(x, Node) and is_size(x):
                text = f"{x.name!r}, a size that depends on the batch, is returned. Take it from the shape of another output, outside the model."
            elif isinstance(x, Node) and not is_constant(x):
                try:
                    if kind_of(x.meta.get("val"), self.batch)[2]:
                        text = f"{x.name!r} is returned, and its batch does not come first. Permute it, so that it does."
                except ValueError as error:
                    text = f"{x.name!r} is returned: {error}."
            if text:
                problems.append(Problem(output.name, operator_name(output), where(output), text))
        if not self.active - self.before - self.after - {n for n in self.active if n.op == "placeholder"}:
            text = "Nothing is left for the array: the host would run the whole model. Give a model with convolutions or fully connected layers."
            problems.append(Problem(output.name, operator_name(output), where(output), text))
        return problems


def _active(module: GraphModule) -> set[Node]:
    """Nodes that depend on an input, and are no sizes."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        depends = node.op == "call_function" and not is_size(node) and node.target != "_guards_fn"
        if node.op == "placeholder" or (depends and any(n in found for n in node.all_input_nodes)):
            found.add(node)
    return found


def _is_tuple(node: Node) -> bool:
    return isinstance(node.meta.get("val"), list | tuple)


def _products(node: Node) -> int:
    """Multiply-accumulates of an image, roughly; 0 for what has no weights."""
    entry = traits(node)
    if not (entry and entry.weighted):
        return 0
    weight = next((n for n in node.all_input_nodes[1:] if len(getattr(n.meta.get("val"), "shape", ())) > 1), None)
    outputs = [s for s in node.meta["val"].shape[1:] if isinstance(s, int)]
    if weight is None:
        return 0
    shape = weight.meta["val"].shape
    return int(torch.Size(outputs).numel() * torch.Size(shape[1:]).numel())


def extract(
    module: GraphModule, inputs: list[Node], inside: Iterable[Node], outputs: list[Node]
) -> tuple[GraphModule, dict[Node, Node]]:
    """A module of its own of some nodes of a graph, with the same parameters, and from old nodes to new ones.

    It takes `inputs` and returns `outputs`: one tensor, or a tuple. Constants and sizes come along; a batch is the first input's.
    """
    graph, mapping = Graph(), dict[Node, Node]()
    for node in inputs:
        mapping[node] = graph.placeholder(str(node.target) if node.op == "placeholder" else node.name)
        mapping[node].meta = dict(node.meta)

    def needed(node: Node) -> Node:
        if node not in mapping:
            first = node.args[0] if node.args else None
            if operator_name(node).startswith("aten.sym_size") and first not in mapping and inputs:
                mapping[node] = graph.call_function(torch.ops.aten.sym_size.int, (mapping[inputs[0]], 0))
                mapping[node].meta = dict(node.meta)
            else:
                copy(node)
        return mapping[node]

    def copy(node: Node) -> None:
        for n in node.all_input_nodes:
            needed(n)
        mapping[node] = graph.node_copy(node, mapping.__getitem__)
        mapping[node].meta = dict(node.meta)

    for node in inside:
        copy(node)
    results = tuple(needed(n) for n in outputs)
    graph.output(results[0] if len(results) == 1 else results)
    made = GraphModule(module, graph)
    made.meta = dict(module.meta)
    return made, mapping
