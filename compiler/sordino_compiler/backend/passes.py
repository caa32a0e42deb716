"""Graph to graph: what happens to the integer graph before it is lowered. `PASSES` is the table of contents."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sordino_hw.spec.errors import CompileError

from ..graph import Concat, Conv, Depthwise, Flatten, Graph, Input, MaxPool, Node, Requant, Slice, Window
from .layout import Place, Relayout, Slots, compact, natural, packed, place

__all__ = ["PASSES", "prepare"]


def fold_flatten(graph: Graph) -> Graph:
    """A linear layer on a flattened value becomes a convolution whose kernel is the whole input: a permutation."""
    values, producers = graph.values, {n.out.name: n for n in graph.nodes}

    def fold(n: Node) -> Node:
        if not isinstance(n, Conv) or n.groups != 1 or n.window.padding != (0, 0, 0, 0) or n.window.kernel != (1, 1):
            return n
        name = n.inputs[0]
        while isinstance(producers[name], Flatten):
            name = producers[name].inputs[0]
        c, h, w = values[name].shape
        if name == n.inputs[0] or max(h, w) > 255:
            return n
        return replace(
            n, inputs=(name, *n.inputs[1:]), weight=n.weight.reshape(-1, c, h, w), window=Window((h, w), (1, 1), (0, 0, 0, 0))
        )

    return replace(graph, nodes=[fold(n) for n in graph.nodes])


def drop_dead(graph: Graph) -> Graph:
    """Nodes that no output depends on. Inputs stay, and so do views of live values: they cost nothing."""
    live = set(graph.outputs)
    for n in reversed(graph.nodes):
        if n.out.name in live:
            live.update(n.inputs)
    nodes: list[Node] = []
    for n in graph.nodes:
        if isinstance(n, Input) or (isinstance(n, Slice | Flatten) and n.inputs[0] in live):
            live.add(n.out.name)
        if n.out.name in live:
            nodes.append(n)
    return replace(graph, nodes=nodes)


def nest_concats(graph: Graph) -> Graph:
    """A concatenation that begins with all parts of an earlier one takes that one whole (dense blocks): no copies."""
    earlier: list[Concat] = []
    taken: set[str] = set()
    nodes: list[Node] = []
    for n in graph.nodes:
        if isinstance(n, Concat):
            heads = [c for c in earlier if c.inputs == n.inputs[: len(c.inputs)] and c.out.name not in taken]
            earlier.append(n)
            if heads:
                head = max(heads, key=lambda c: len(c.inputs))
                taken.add(head.out.name)
                n = replace(n, inputs=(head.out.name, *n.inputs[len(head.inputs) :]))
        nodes.append(n)
    return replace(graph, nodes=nodes)


def insert_copies(graph: Graph) -> Graph:
    """Exact copies of operands that lie wrong.

    A part of a concatenation lives in it; one that cannot (a network input, a view, a value that is a part already) is
    copied. A residual operand must have its consumer's lanes where the consumer cannot follow it.
    """
    lanes, values = graph.arch.lanes, graph.values
    producers = {n.out.name: n for n in graph.nodes}
    own: dict[str, Place] = {}
    nodes: list[Node] = []
    taken: set[str] = set()

    def append(n: Node) -> None:
        shapes = [values[i].shape for i in n.inputs]
        own[n.out.name] = place(n, [own[i] for i in n.inputs], shapes, lanes)
        nodes.append(n)

    def copy(name: str, consumer: Node, slots: Slots) -> str:
        v = values[name]
        out = replace(v, name=_fresh(f"{name}.{consumer.out.name}", values))
        values[out.name] = out
        weight = np.ones((v.shape[0], 1, 1, 1), np.int8)
        requant = Requant.identity(v.shape[0], graph.arch, v.signed)
        append(Relayout(out, (name,), weight, Window((1, 1)), requant, v.shape[0], slots=slots, source=consumer.source))
        return out.name

    for n in graph.nodes:
        if isinstance(n, Concat):
            parts = []
            for name in n.inputs:
                if name in taken or isinstance(producers.get(name), Input | Slice | Flatten):
                    name = copy(name, n, natural(values[name].shape[0]))
                taken.add(name)
                parts.append(name)
            n = replace(n, inputs=tuple(parts))
        elif isinstance(n, Conv | Depthwise) and n.residual_weight is not None:
            wanted = _fixed_slots(n, own, lanes)
            if wanted is not None and wanted != compact(own[n.inputs[1]].slots, lanes):
                n = replace(n, inputs=(n.inputs[0], copy(n.inputs[1], n, wanted)))
        append(n)
    return replace(graph, nodes=nodes)


def _fixed_slots(n: Node, own: dict[str, Place], lanes: int) -> Slots | None:
    """The output slots of a layer with a residual, where they do not follow the residual's."""
    if isinstance(n, Depthwise):
        return compact(own[n.inputs[0]].slots, lanes)
    if isinstance(n, Conv) and n.groups > 1:
        return packed(len(n.weight), n.groups, lanes)
    return None


def _fresh(name: str, taken) -> str:
    names = (name if i == 0 else f"{name}.{i}" for i in range(len(taken) + 1))
    return next(n for n in names if n not in taken)


def prove_accumulators(graph: Graph) -> Graph:
    """Proves from the actual weights that no final sum leaves 32 bits, whatever the activations."""
    values = graph.values
    for n in graph.nodes:
        if not isinstance(n, Conv | Depthwise | MaxPool):
            continue
        peak = [max(abs(bound) for bound in graph.arch.act_range(values[i].signed)) for i in n.inputs]
        bound = np.abs(n.requant.bias.astype(np.int64))
        if isinstance(n, MaxPool):
            bound = bound + peak[0]
        else:
            bound = bound + np.abs(n.weight.astype(np.int64)).sum(tuple(range(1, n.weight.ndim))) * peak[0]
            if n.residual_weight is not None:
                bound = bound + np.abs(n.residual_weight) * peak[1]
        if bound.max() >= 1 << 31:
            raise CompileError(
                f"{n.kind} {n.out.name!r}{f' ({n.source})' if n.source else ''}: channel {int(bound.argmax())} can reach an "
                f"accumulator of {int(bound.max())}, beyond the 32 bits of the array (2147483647). "
                "Use smaller weights or a smaller bias (a coarser scale), or fewer inputs to the layer."
            )
    return graph


PASSES: tuple[Callable[[Graph], Graph], ...] = (
    fold_flatten,
    drop_dead,
    nest_concats,
    insert_copies,
    prove_accumulators,
)


def prepare(graph: Graph) -> Graph:
    """The graph after every pass, checked before and after each."""
    graph.check()
    if not graph.outputs:
        raise CompileError("the graph has no output: there is nothing to compile. Return a value from the model.")
    for each in PASSES:
        graph = each(graph)
        graph.check()
    return graph
