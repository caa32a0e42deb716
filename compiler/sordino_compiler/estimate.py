"""Predicted cycles at assumed activation densities, from the geometry of the operations: no data, no simulation.

Activations are taken as independent, each not zero with the density d of its tensor. For one operation, with sums over
all its outputs:

- events: E = d x (mask bits that in-bounds words meet); for VEC the non-empty words, twice with two-cycle weights;
- words: R = in-bounds words x (1 - (1-d)^k), with k channels in a word;
- spans: S = outputs x KH x KX, one a cycle, empty or not;
- drain: P = outputs x DRAIN, the requantisers' cycles.

A residual adds one span and, unless its word is empty, two cycles to each output. The stages work side by side, so an
operation takes max(E, R, S, P) cycles; a WAIT or the end of a segment adds the depth of the pipeline, `FILL`, and every
instruction a cycle where it is not hidden (not counted). The timing model gives the exact figure for actual activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sordino_hw.asm import Step, decode_segment
from sordino_hw.isa import Flag, Mode, Opcode
from sordino_hw.program import Program, Segment

from .backend import compile_graph
from .graph import Graph

__all__ = ["LayerEstimate", "estimate"]

FILL = 40
"""Cycles from the start of the first operation after a WAIT to its first issue, and from the last issue to the store."""


@dataclass
class LayerEstimate:
    """Prediction for one layer; `cycles` is the sum over its operations of the largest of the other four."""

    name: str
    kind: str
    source: str
    macs: int
    density: float
    """Assumed density of the layer's input."""
    cycles: float = 0.0
    events: float = 0.0
    words: float = 0.0
    spans: float = 0.0
    drain: float = 0.0

    @property
    def bound(self) -> str:
        """The stage that limits the layer: `events`, `words`, `spans` or `drain`."""
        return max(("events", "words", "spans", "drain"), key=lambda stage: getattr(self, stage))


def estimate(work: Graph | Program, densities: float | Mapping[str, float] = 0.5) -> list[LayerEstimate]:
    """Predicted cycles per layer, in order.

    `densities`: the fraction of non-zero activations, one for all tensors or by tensor name (others: 0.5). A graph is
    compiled first, so that what does not fit raises `CompileError`.
    """
    program = compile_graph(work) if isinstance(work, Graph) else work

    def density(tensor: str) -> float:
        return densities.get(tensor, 0.5) if isinstance(densities, Mapping) else densities

    layers = [LayerEstimate(x.name, x.kind, x.source, x.macs, density(x.inputs[0])) for x in program.layers]
    for segment in program.segments:
        ops = iter(segment.ops)
        entry = None
        for step in decode_segment(segment.imem, program.arch):
            if step.opcode in (Opcode.CONV, Opcode.VEC):
                layer = next(ops).layer
                entry = layers[layer]
                names = program.layers[layer].inputs
                _add(entry, step, segment, program, names[0], density(names[-1]))
            elif entry is not None:
                entry.cycles += FILL
    return layers


def _add(entry: LayerEstimate, step: Step, segment: Segment, program: Program, tensor: str, residual: float) -> None:
    r = step.regs
    outputs = r["OH"] * r["OW"]
    rows = _in_bounds(r["OH"], r["REPY"], r["IY0"], r["SY"], r["KH"], r["DY"], 1, r["H"])[:, 0]
    cols = _in_bounds(r["OW"], r["REPX"], r["IX0"], r["SX"], r["KX"], r["DX"], r["SPAN"], r["W"])
    reads = rows[:, None, None] * cols
    """How many outputs read each tap: [ky, kx, pixel]."""
    d = 1.0 if step.has(Flag.DENSE) else entry.density
    t = program.tensors[tensor]
    channels = t.shape[0] / len({s // program.arch.lanes for s in t.slots})
    words = float(reads.sum()) * r["WORDS"] * (1 - (1 - d) ** channels)
    if step.opcode is Opcode.CONV:
        mask = segment.mask[r["M_BASE"] : r["M_BASE"] + r["KH"] * r["KX"] * r["SPAN"] * r["WORDS"]]
        bits = mask.sum(1).reshape(*reads.shape, r["WORDS"]).sum(-1)
        events = d * float((reads * bits).sum())
    else:
        events = words * (2 if step.mode is Mode.MAC2 else 1)
    spans, drain = float(outputs * r["KH"] * r["KX"]), float(outputs * r["DRAIN"])
    if step.has(Flag.RESIDUAL):
        occupied = 1.0 if step.has(Flag.DENSE) else 1 - (1 - residual) ** channels
        events, words, spans = events + 2 * outputs * occupied, words + outputs * occupied, spans + outputs
    entry.cycles += max(events, words, spans, drain)
    entry.events += events
    entry.words += words
    entry.spans += spans
    entry.drain += drain


def _in_bounds(outputs: int, repeat: int, first: int, stride: int, taps: int, dilation: int, span: int, size: int) -> np.ndarray:
    """Along one axis: how many outputs have tap k, pixel p of its span, inside the image: int64 [taps, span]."""
    start = first + np.arange(outputs) // repeat * stride
    position = start[:, None, None] + np.arange(taps)[:, None] * dilation + np.arange(span)
    return ((position >= 0) & (position < size)).sum(0)
