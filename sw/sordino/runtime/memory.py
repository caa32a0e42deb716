"""What a program takes of the memories."""

import numpy as np

from sordino_compiler.graph import Graph
from sordino_hw.spec import isa
from sordino_hw.spec.program import Program

__all__ = ["live_words", "memory_use", "wanted_words"]


def memory_use(program: Program) -> dict[str, tuple[int, int]]:
    """Rows used and rows there, by memory; of the fullest segment for those that are loaded anew for each.

    Of memories that every core has, one core's: all use the same rows.
    """
    a = program.arch

    def rows(image: np.ndarray) -> int:
        return image.shape[1 if image.ndim == 3 else 0]

    activations = max(
        t.base + (t.shape[1] - 1) * t.row_pitch + (t.steps - 1) * t.pixel_pitch + max(t.slots) // a.lanes + 1
        for t in program.tensors.values()
    )
    images = {
        "instructions": ("imem", isa.Region.IMEM),
        "weights": ("weight", isa.Region.WEIGHT),
        "weight masks": ("mask", isa.Region.MASK),
        "requantiser parameters": ("bias", isa.Region.PARAM),
        "tables": ("table", isa.Region.TABLE),
    }
    used = {
        name: (max(rows(getattr(s, image)) for s in program.segments), isa.region_depth(a, region))
        for name, (image, region) in images.items()
    }
    return {"activations": (activations, a.act_depth), **used}


def live_words(program: Program) -> list[tuple[str, int]]:
    """Words of activation memory that hold live tensors while each layer runs, as (layer, words), in order.

    A tensor lives from the layer that writes it (an input: from the first) to the last one that reads it (an output: to the last layer);
    both ends are included. Words that two tensors share count once.
    """
    last = dict.fromkeys(program.outputs, len(program.layers) - 1)
    for i, layer in enumerate(program.layers):
        for name in layer.inputs:
            last[name] = max(last.get(name, i), i)
    words = {name: np.unique(program.addresses(name)) for name in program.tensors}
    found = []
    for i, layer in enumerate(program.layers):
        alive = [words[name] for name, t in program.tensors.items() if max(t.layer, 0) <= i <= last.get(name, t.layer)]
        found.append((layer.name, len(np.unique(np.concatenate(alive)))))
    return found


def wanted_words(graph: Graph) -> list[tuple[str, int]]:
    """As `live_words`, of a graph that may not fit: every tensor whole, its channels from the first lane of a word on."""
    last = dict.fromkeys(graph.outputs, len(graph.nodes) - 1)
    for i, node in enumerate(graph.nodes):
        for name in node.inputs:
            last[name] = max(last.get(name, i), i)
    found = []
    for i, node in enumerate(graph.nodes):
        if node.inputs:
            alive = (n.out for n in graph.nodes[: i + 1] if last.get(n.out.name, -1) >= i or n is node)
            found.append((node.out.name, sum(graph.arch.words(c) * h * w for c, h, w in (value.shape for value in alive))))
    return found
