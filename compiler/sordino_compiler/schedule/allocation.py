"""Static allocation of activation memory: greedy by size over live intervals.

Buffers are placed from the largest down, each at the lowest address where it meets no buffer that is alive at the same
time (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference", 2020, section 4.2).
"""

from dataclasses import dataclass

from sordino_hw.spec.errors import CompileError

from ..graph import Graph, Input, Rearrangement
from ..slots import Layout

__all__ = ["Allocation", "Buffer", "allocate"]


@dataclass
class Buffer:
    """Memory of one value that owns its words. Alive from layer `first` to layer `last`, both included."""

    name: str
    words: int
    first: int
    last: int
    base: int = -1

    def meets(self, other: "Buffer") -> bool:
        """Whether both are alive during some layer."""
        return self.first <= other.last and other.first <= self.last

    def overlaps(self, other: "Buffer") -> bool:
        """Whether both have a word in common."""
        return self.base < other.base + other.words and other.base < self.base + self.words


@dataclass(frozen=True)
class Allocation:
    buffers: dict[str, Buffer]

    def kept(self, name: str) -> bool:
        """Whether a buffer still holds its value when the program has ended."""
        b = self.buffers[name]
        return not any(o.first > b.first and o.overlaps(b) for o in self.buffers.values() if o is not b)


def allocate(graph: Graph, layouts: dict[str, Layout], reuse: bool) -> Allocation:
    """Places every buffer. Raises `CompileError` naming the layer at which the memory does not suffice."""
    buffers = _live_buffers(graph, layouts)
    if not reuse:
        for b in buffers.values():
            b.last = len(graph.nodes)
    placed: list[Buffer] = []
    for b in sorted(buffers.values(), key=lambda b: (-b.words, b.first)):
        base = 0
        for other in sorted((o for o in placed if o.meets(b)), key=lambda o: o.base):
            if other.base - base >= b.words:
                break
            base = max(base, other.base + other.words)
        b.base = base
        placed.append(b)
    _require_fit(graph, list(buffers.values()), reuse)
    return Allocation(buffers)


def _live_buffers(graph: Graph, layouts: dict[str, Layout]) -> dict[str, Buffer]:
    """One buffer per owner; time is the index of the node."""
    values = graph.values
    buffers: dict[str, Buffer] = {}
    for i, n in enumerate(graph.nodes):
        if isinstance(n, Rearrangement):
            continue
        owner = layouts[n.out.name].buffer
        if owner not in buffers:
            words = values[owner].shape[1] * layouts[owner].row_pitch
            buffers[owner] = Buffer(owner, words, -1 if isinstance(n, Input) else i, i)
        for name in n.inputs:
            buffers[layouts[name].buffer].last = i
        buffers[owner].last = i
    for name in graph.outputs:
        buffers[layouts[name].buffer].last = len(graph.nodes)
    return buffers


def _require_fit(graph: Graph, buffers: list[Buffer], reuse: bool) -> None:
    top = max(b.base + b.words for b in buffers)
    depth = graph.arch.act_depth
    if top <= depth:
        return
    live = {i: [b for b in buffers if b.first <= i <= b.last] for i in range(len(graph.nodes))}
    at = max(live, key=lambda i: (max((b.base + b.words for b in live[i]), default=0), sum(b.words for b in live[i])))
    n = graph.nodes[at]
    largest = sorted(live[at], key=lambda b: -b.words)[:3]
    raise CompileError(
        f"{n.where}: the activations {'alive' if reuse else 'up to'} there need {top} words of "
        f"{graph.arch.lanes} channels, architecture {graph.arch.name!r} has {depth} (largest: "
        f"{', '.join(f'{b.name!r} with {b.words}' for b in largest)}). Use a smaller input or fewer channels, or an "
        f"ArchConfig with a larger act_depth{'' if reuse else ', or compile with reuse=True'}."
    )
