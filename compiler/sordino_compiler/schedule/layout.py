"""Which values share memory, and where each lies in it."""

from collections.abc import Mapping

from ..graph import Graph, Reading
from ..slots import Layout

__all__ = ["layouts"]


def layouts(graph: Graph, folds: Mapping[str, int]) -> dict[str, Layout]:
    """The layout of every value. Every part of a concatenation must be free to live in it (see `passes.copies`).

    `folds`: pixels in a word of the inputs that are folded.
    """
    lanes, values = graph.arch.lanes, graph.values
    own: dict[str, Layout] = {}
    homes: dict[str, tuple[str, tuple[int, int, int]]] = {}
    for n in graph.nodes:
        inputs, shapes = [own[i] for i in n.inputs], [values[i].shape for i in n.inputs]
        own[n.out.name] = n.layout(inputs, shapes, lanes, folds.get(n.out.name, 1))
        homes |= {part: (n.out.name, first) for part, first in n.homes(inputs, shapes, lanes).items()}
    out: dict[str, Layout] = {}
    for n in graph.nodes:
        if isinstance(n, Reading):
            out[n.out.name] = n.layout([out[i] for i in n.inputs], [values[i].shape for i in n.inputs], lanes)
            continue
        name, word, row, column = n.out.name, 0, 0, 0
        while name in homes:
            name, (words, rows, columns) = homes[name]
            word, row, column = word + words, row + rows, column + columns
        buffer = own[name]
        first = word + row * buffer.row_pitch + column * buffer.pixel_pitch
        slots = tuple(first * lanes + s for s in own[n.out.name].slots)
        out[n.out.name] = Layout(name, buffer.row_pitch, buffer.pixel_pitch, slots, buffer.fold)
    return out
