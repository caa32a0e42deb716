"""`compile_graph`: from the integer graph to a `Program`.

Passes prepare the graph (`passes`), a layout gives every channel its slot and an allocation every value its memory
(`schedule`); then nodes become operations, and operations segments (`emit`).
"""

from collections.abc import Iterator, Mapping

import numpy as np

from sordino_hw.spec.program import Layer, Program, Tensor

from .emit.instructions import operations
from .emit.mapping import Forced, forced_plan
from .emit.operation import Operation, View
from .emit.segments import pack
from .graph import Computation, Graph
from .passes import prepare
from .schedule.allocation import Allocation, allocate
from .schedule.density import DEFAULT, densities
from .schedule.folding import choose_folds
from .schedule.layout import layouts
from .schedule.parts import parts
from .schedule.search import best_plan
from .slots import Layout

__all__ = ["compile_graph"]


def compile_graph(
    graph: Graph,
    *,
    dense: bool = False,
    reuse: bool = True,
    fold: bool = True,
    name: str = "",
    density: float | Mapping[str, float] = DEFAULT,
    mapping: Forced | None = None,
) -> Program:
    """Compiles an integer graph for `graph.arch`.

    `dense` gives the baseline that takes no advantage of zeros: every activation and every weight row is issued.
    `reuse=False` gives every value memory of its own, so that all of them can be read back afterwards. `fold=False` keeps
    every pixel of a narrow input in a word of its own (see `schedule.folding`).

    How a layer is spread over the cores is chosen by timing the possible mappings on zeros drawn at an assumed `density`: the
    fraction of activations that are not zero, one for all values or by name (others: 0.5). It decides cycles, never
    values. `mapping` forces one instead: see `emit.mapping.Forced`. `Layer.mapping` says in words which each layer has.

    Raises `CompileError`, naming layer, limit and remedy, for what does not fit.
    """
    graph = prepare(graph)
    where = layouts(graph, choose_folds(graph) if fold else {})
    allocation = allocate(graph, where, reuse)
    views = {v: _view(graph, v, where, allocation) for v in where}
    layers = [n for n in graph.nodes if isinstance(n, Computation)]
    assumed = densities(graph, density)
    mappings: dict[str, list[str]] = {n.out.name: [] for n in layers}

    def emitted() -> Iterator[Operation]:
        for i, n in enumerate(layers):
            layer = parts(n, i, [views[v] for v in n.inputs], views[n.out.name], graph.arch, dense)
            typical = layer[len(layer) // 2]
            if mapping is None:
                plan = best_plan(typical, assumed)
            else:
                plan = forced_plan(mapping, n.out.name, typical.blocks(), graph.arch)
            for op in operations(layer, plan):
                mappings[n.out.name].append(str(op.mapping))
                yield op

    written = {n.out.name: i for i, n in enumerate(layers)}
    segments = pack(emitted(), graph.arch)
    return Program(
        arch=graph.arch,
        segments=segments,
        tensors=_tensors(graph, views, allocation, written),
        layers=[_layer(graph, n, " then ".join(dict.fromkeys(mappings[n.out.name]))) for n in layers],
        inputs=[v.name for v in graph.inputs],
        outputs=list(graph.outputs),
        meta={
            "name": name,
            "dense": dense,
            "reuse": reuse,
            "fold": fold,
        },
    )


def _view(graph: Graph, name: str, where: dict[str, Layout], allocation: Allocation) -> View:
    layout = where[name]
    buffer, slots, pitch = allocation.buffers[layout.buffer], np.array(layout.slots), where[layout.buffer].pixel_pitch
    # A part that begins at a pixel of its own, as concatenated rows do, is addressed from there.
    first = int(slots.min()) // graph.arch.lanes // pitch * pitch
    return View(
        name=name,
        buffer=layout.buffer,
        shape=graph.values[name].shape,
        base=buffer.base + first,
        row_pitch=layout.row_pitch,
        pixel_pitch=layout.pixel_pitch,
        slots=slots - first * graph.arch.lanes,
        buffer_pitch=pitch,
        memory=range(buffer.base, buffer.base + buffer.words),
        fold=layout.fold,
    )


def _tensors(graph: Graph, views: dict[str, View], allocation: Allocation, written: dict[str, int]) -> dict[str, Tensor]:
    lanes, tensors = graph.arch.lanes, {}
    for n in graph.nodes:
        v, view = n.out, views[n.out.name]
        first = int(view.slots.min()) // lanes
        written.setdefault(v.name, max((written[i] for i in n.inputs), default=-1))
        tensors[v.name] = Tensor(
            name=v.name,
            shape=v.shape,
            scale=v.scale,
            signed=v.signed,
            base=view.base + first,
            row_pitch=view.row_pitch,
            pixel_pitch=view.pixel_pitch,
            slots=tuple(int(s) - first * lanes for s in view.slots),
            layer=written[v.name],
            kept=allocation.kept(view.buffer),
            fold=view.fold,
        )
    return tensors


def _layer(graph: Graph, n: Computation, mapping: str) -> Layer:
    values = graph.values
    return Layer(n.out.name, n.described([values[i] for i in n.inputs]), n.source, n.inputs, n.out.name, n.macs, mapping)
