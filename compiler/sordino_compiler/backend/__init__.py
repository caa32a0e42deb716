"""The back end: integer graph to `Program`.

Passes prepare the graph, a layout gives every channel its slot, an allocation every value its memory; then nodes become
operations, and operations segments.
"""

from collections.abc import Iterator
from collections.abc import Mapping as MappingOf

import numpy as np

from sordino_hw.spec.program import Layer, Program, Tensor

from ..graph import Conv, Depthwise, Graph, Input, Node
from .allocate import Allocation, allocate
from .choice import best_plan
from .density import DEFAULT, densities
from .fold import choose_folds
from .layout import Place, is_view, places
from .lower import lower, parts
from .mapping import Forced, Mapping, forced_plan
from .operation import Operation, View
from .passes import prepare
from .segment import pack

__all__ = ["Mapping", "compile_graph"]


def compile_graph(
    graph: Graph,
    *,
    dense: bool = False,
    reuse: bool = True,
    fold: bool = True,
    name: str = "",
    density: float | MappingOf[str, float] = DEFAULT,
    mapping: Forced | None = None,
) -> Program:
    """Compiles an integer graph for `graph.arch`.

    `dense` gives the baseline that takes no advantage of zeros: every activation and every weight row is issued.
    `reuse=False` gives every value memory of its own, so that all of them can be read back afterwards. `fold=False` keeps
    every pixel of a narrow input in a word of its own (see `fold`).

    How a layer is spread over the cores is chosen by timing the possible mappings on zeros drawn at an assumed `density`: the
    fraction of activations that are not zero, one for all values or by name (others: 0.5). It decides cycles, never
    values. `mapping` forces one instead: see `mapping.Forced`. `Layer.mapping` says in words which each layer has.

    Raises `CompileError`, naming layer, limit and remedy, for what does not fit.
    """
    graph = prepare(graph)
    where = places(graph, choose_folds(graph) if fold else {})
    allocation = allocate(graph, where, reuse)
    views = {v: _view(graph, v, where, allocation) for v in where}
    layers = [n for n in graph.nodes if not isinstance(n, Input) and not is_view(n)]
    assumed = densities(graph, density)
    mappings: dict[str, list[str]] = {n.out.name: [] for n in layers}

    def operations() -> Iterator[Operation]:
        for i, n in enumerate(layers):
            layer = parts(n, i, [views[v] for v in n.inputs], views[n.out.name], graph.arch, dense)
            typical = layer[len(layer) // 2]
            if mapping is None:
                plan = best_plan(typical, [assumed[v] for v in n.inputs])
            else:
                plan = forced_plan(mapping, n.out.name, typical.blocks(), graph.arch)
            for op in lower(layer, plan):
                mappings[n.out.name].append(str(op.mapping))
                yield op

    written = {n.out.name: i for i, n in enumerate(layers)}
    segments = pack(operations(), graph.arch)
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


def _view(graph: Graph, name: str, where: dict[str, Place], allocation: Allocation) -> View:
    place = where[name]
    buffer = allocation.buffers[place.buffer]
    return View(
        name=name,
        buffer=place.buffer,
        shape=graph.values[name].shape,
        base=buffer.base,
        row_pitch=place.row_pitch,
        pixel_pitch=place.pixel_pitch,
        slots=np.array(place.slots),
        buffer_pitch=where[place.buffer].pixel_pitch,
        memory=range(buffer.base, buffer.base + buffer.words),
        fold=place.fold,
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


def _layer(graph: Graph, n: Node, mapping: str) -> Layer:
    kind, macs = n.kind, 0
    c, h, w = n.out.shape
    if isinstance(n, Depthwise):
        kind = n.label
        macs = n.weight[0].size * c * h * w if kind == "depthwise" else 0
    elif isinstance(n, Conv) and kind == "conv":
        macs = n.weight.size * h * w
        whole = n.window.kernel == graph.values[n.inputs[0]].shape[1:] and n.window.padding == (0, 0, 0, 0)
        kind = "linear" if whole and n.groups == 1 else "conv"
    return Layer(n.out.name, kind, n.source, n.inputs, n.out.name, int(macs), mapping)
