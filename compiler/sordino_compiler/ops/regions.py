"""Outputs in rectangles: windows that differ along an axis are the same within a region, and each region is a node.

Along one axis, output i of a pooling reads `taps` inputs from `first` on and has a divisor. Where ends hang
over an edge, or sizes do not divide, these differ from output to output; but evenly spaced outputs often agree. `spans` finds
the fewest such groups, and `Regions` computes the rectangles of two axes' groups one after the other.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from torch.fx import GraphModule, Node

from ..graph import Computation, Value, Window
from ..slots import compact

__all__ = ["Reach", "Region", "Regions", "Span", "adaptive", "along_each_axis", "span_window", "spans"]


class Reach(NamedTuple):
    """What one output reads along one axis: `taps` inputs from `first` on, which may lie outside; `divisor`, its factor of what a mean divides by."""

    first: int
    taps: int
    divisor: int = 1


@dataclass(frozen=True)
class Span:
    """Evenly spaced outputs of one axis that read equally many inputs, evenly spaced too. `stride` 0: all read the same."""

    outputs: range
    first: int
    stride: int
    taps: int
    divisor: int = 1

    @property
    def repeat(self) -> int:
        """Outputs that read the same inputs."""
        return 1 if self.stride else len(self.outputs)


def spans(reaches: Sequence[Reach], repeats: bool = False) -> tuple[Span, ...]:
    """The fewest spans that cover all outputs of an axis, of all whose outputs are equally spaced.

    With `repeats`, neighbouring outputs that read the same inputs may be one span of stride 0.
    """
    best, step = _spaced(reaches, 1, repeats), 2
    while step < len(best):  # outputs `step` apart make `step` spans at least
        found = _spaced(reaches, step, False)
        best, step = min(best, found, key=len), step + 1
    return tuple(best)


def _spaced(reaches: Sequence[Reach], step: int, repeats: bool) -> list[Span]:
    """Spans of outputs that lie `step` apart, each as long as its outputs agree."""
    found = []
    for residue in range(step):
        outputs = range(residue, len(reaches), step)
        start = 0
        while start < len(outputs):
            first, taps, divisor = reaches[outputs[start]]
            stop, stride = start + 1, 1
            while stop < len(outputs):
                nth, same = reaches[outputs[stop]], (taps, divisor)
                if stop == start + 1:
                    stride = nth.first - first
                if nth[1:] != same or nth.first != first + stride * (stop - start) or stride < (not repeats):
                    break
                stop += 1
            found.append(Span(outputs[start:stop], first, stride if stop > start + 1 else 1, taps, divisor))
            start = stop
    return found


def adaptive(outputs: int, size: int, repeats: bool) -> tuple[Span, ...]:
    """The spans of adaptive pooling along one axis: output i reads inputs floor(i * size / outputs) to ceil((i + 1) * size / outputs)."""
    reaches = []
    for i in range(outputs):
        first, stop = i * size // outputs, -(-(i + 1) * size // outputs)
        reaches.append(Reach(first, stop - first, stop - first))
    return spans(reaches, repeats)


def span_window(rows: Span, columns: Span, size: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> Window:
    """The window of the outputs of two spans over an input of `size`, each pixel once where it is repeated."""
    axes = tuple(zip((rows, columns), size, dilation, strict=True))
    bottom, right = (s.first + (len(s.outputs) // s.repeat - 1) * s.stride + (s.taps - 1) * step + 1 - n for s, n, step in axes)
    stride = (max(rows.stride, 1), max(columns.stride, 1))
    return Window((rows.taps, columns.taps), stride, (-rows.first, -columns.first, bottom, right), dilation)


MOST_AT_ONCE = 64
"""Regions of a pooling along both axes; with more, rows are pooled first, then columns."""


def along_each_axis(module: GraphModule, node: Node) -> None:
    """An adaptive pooling of too many regions in two steps, columns after rows."""
    x, *others = node.all_input_nodes
    value = x.meta["val"]
    size, outputs = value.shape[2:], node.meta["val"].shape[2:]
    counts = [len(adaptive(o, n, repeats=True)) for o, n in zip(outputs, size, strict=True)]
    if others or min(counts) == 1 or math.prod(counts) <= MOST_AT_ONCE:
        return
    to = [outputs[0], size[1]]
    with module.graph.inserting_before(node):
        rows = module.graph.call_function(node.target, (x, to))  # type: ignore[arg-type]
    rows.meta = {**node.meta, "val": value.new_empty((*value.shape[:2], *to))}
    node.replace_input_with(x, rows)


@dataclass(frozen=True)
class Region:
    """Rows and columns of an output, and the node that makes them: of the inputs, or of the output as it is so far."""

    rows: range
    columns: range
    node: Computation
    reads_output: bool = False

    @property
    def pixels(self) -> tuple[slice, slice, slice, slice]:
        """Its place in an array [batch, c, h, w]."""
        rows, columns = (slice(r.start, r.stop, r.step) for r in (self.rows, self.columns))
        return slice(None), slice(None), rows, columns


@dataclass(frozen=True, kw_only=True)
class Regions(Computation):
    """A value whose rectangles are made by nodes of their own, lane by lane, in order. `window` and `requant` are those of the first."""

    regions: tuple[Region, ...]

    @classmethod
    def of(cls, value: Value, inputs: tuple[str, ...], regions: Sequence[Region], source: str) -> Computation:
        """The node of these regions; one that is the whole value stands for itself."""
        first = regions[0].node
        if len(regions) == 1:
            return first
        return cls(out=value, inputs=inputs, regions=tuple(regions), window=first.window, requant=first.requant, source=source)

    @property
    def label(self) -> str:
        return self.regions[0].node.label

    def evaluate(self, inputs, arch):
        out = np.zeros((len(inputs[0]), *self.out.shape), np.int64)
        for r in self.regions:
            out[r.pixels] = r.node.evaluate([out] if r.reads_output else inputs, arch)
        return out

    def bound(self, peaks):
        return np.max([r.node.bound(peaks) for r in self.regions], 0)

    def peak(self, peaks):
        return np.max([r.node.peak(peaks) for r in self.regions], 0)

    def post_processed(self, change):
        regions = tuple(replace(r, node=r.node.post_processed(change)) for r in self.regions)
        return replace(self, regions=regions, requant=change(self.requant))

    def products(self, h, w):
        return sum(r.node.products(h, w) for r in self.regions if not r.reads_output)

    def problems(self, ins, arch):
        covered = np.zeros(self.out.shape[1:], bool)
        for r in self.regions:
            if r.node.out.shape != (self.out.shape[0], len(r.rows), len(r.columns)):
                yield f"a region of shape {r.node.out.shape} for {len(r.rows)} rows and {len(r.columns)} columns"
            covered[r.pixels[2:]] = True
            yield from r.node.problems([self.out] if r.reads_output else ins, arch)
        if not covered.all():
            yield "regions that do not cover the output"

    def slots(self, inputs, lanes):
        return compact(inputs[0].slots, lanes)

    def parts(self, inputs, out, arch) -> Iterator:
        for r in self.regions:
            yield r.node, [out] if r.reads_output else inputs, out.part(r.rows, r.columns)
