"""Exact copies of operands that lie where their reader cannot use them."""

from dataclasses import replace

import numpy as np

from ..graph import Computation, Graph, Input, Node, Reading, Requant, Window
from ..ops.concat import Concat
from ..ops.conv import Relayout
from ..slots import Layout, Slots, compact, natural

__all__ = ["insert_copies"]


def insert_copies(graph: Graph) -> Graph:
    """Copies operands whose layout their reader cannot use.

    A part of a concatenation lives in it; one that cannot (a network input, a view, a value that is a part already) is
    copied. A second operand must have its consumer's lanes where the consumer cannot follow it; one of a single channel is copied to
    all of them.
    """
    lanes, values = graph.arch.lanes, graph.values
    producers = {n.out.name: n for n in graph.nodes}
    own: dict[str, Layout] = {}
    nodes: list[Node] = []
    taken: set[str] = set()

    def append(n: Node) -> None:
        shapes = [values[i].shape for i in n.inputs]
        own[n.out.name] = n.layout([own[i] for i in n.inputs], shapes, lanes)
        nodes.append(n)

    def copy(name: str, consumer: Node, slots: Slots) -> str:
        v = values[name]
        lo, hi = v.range(graph.arch)
        out = replace(v, name=_fresh(f"{name}.{consumer.out.name}", values), shape=(len(slots), *v.shape[1:]))
        values[out.name] = out
        append(
            Relayout(
                out=out,
                inputs=(name,),
                weight=np.ones((len(slots), 1, 1, 1), np.int8),
                window=Window((1, 1)),
                requant=replace(Requant.identity(len(slots), graph.arch, v.signed), lo=lo, hi=hi),
                groups=v.shape[0],
                to=slots,
                source=consumer.source,
            )
        )
        return out.name

    for n in graph.nodes:
        if isinstance(n, Concat):
            parts = []
            # Rows and columns that are joined have their channels in the same lanes.
            alike = compact(own[n.inputs[0]].slots, lanes) if n.axis else None
            for name in n.inputs:
                apart = alike is not None and own[name].slots != alike
                if name in taken or apart or isinstance(producers.get(name), Input | Reading):
                    name = copy(name, n, alike or natural(values[name].shape[0]))
                taken.add(name)
                parts.append(name)
            n = replace(n, inputs=tuple(parts))
        elif isinstance(n, Computation) and n.operands == 2:
            wanted = n.residual_slots([own[i] for i in n.inputs], lanes)
            if wanted is not None and wanted != compact(own[n.inputs[1]].slots, lanes):
                n = replace(n, inputs=(n.inputs[0], copy(n.inputs[1], n, wanted)))
        append(n)
    return replace(graph, nodes=nodes)


def _fresh(name: str, taken) -> str:
    names = (name if i == 0 else f"{name}.{i}" for i in range(len(taken) + 1))
    return next(n for n in names if n not in taken)
