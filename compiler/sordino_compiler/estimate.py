"""Predicted cycles at assumed activation densities, from the geometry of the operations: no data, no simulation.

Activations are taken as independent, each not zero with the density d of its tensor. For one operation of G groups, on
C cores with P read ports, with sums over all its outputs, of which a group takes every G-th (or the only one):

- events: E = d x (mask bits that in-bounds words meet) / G, of the slice that has most; for VEC the non-empty words, twice with
  wide weights that are not the same for all taps;
- words: R = in-bounds words x (1 - (1-d)^k), with k channels in a word; a group requests R / G, one a cycle (fewer if the word FIFOs
  are shorter than the latency of a read), but waits for its time slot at a port, one in G / P cycles, for each that is not
  kept in the word window, and passes an empty span in one cycle;
- spans: S = outputs x KH x KX / G, one a cycle, empty or not;
- drain: P = outputs x max(DRAIN, C) / G: the requantisers' cycles, or a core's time slot to store.

A residual adds a span for each slice and, unless its word is empty, a cycle to each output (`wide_cycles`). The stages work side by side, so
an operation takes max(E, R, S, P) cycles; more if the events of an output vary around the cycles of its drain: then
the mean of the larger of both counts, with normally distributed events. A WAIT or the end of a segment adds the depth of the
pipeline, `FILL`, and every instruction a cycle where it is not hidden (not counted). The timing model gives the exact
figure for actual activations.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import erf, exp, pi, sqrt

import numpy as np

from sordino_hw.spec.asm import Step, decode_segment
from sordino_hw.spec.geometry import geometry
from sordino_hw.spec.isa import Flag, Mode, Opcode
from sordino_hw.spec.latencies import Latencies
from sordino_hw.spec.program import Program, Segment

from .driver import compile_graph
from .graph import Graph

__all__ = ["LayerEstimate", "estimate"]

FILL = 60
"""Cycles from the start of the first operation after a WAIT to its first issue, and from the last issue to the store."""


@dataclass
class LayerEstimate:
    """Prediction for one layer; `cycles` is at least the sum over its operations of the largest of the other four."""

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
        """The stage that limits the layer: `events`, `spans`, `words` or `drain`, the first of those that are equal."""
        return max(("events", "spans", "words", "drain"), key=lambda stage: round(getattr(self, stage), 3))


def estimate(work: Graph | Program, densities: float | Mapping[str, float] = 0.5) -> list[LayerEstimate]:
    """Predicted cycles per layer, in order.

    `densities`: the fraction of non-zero activations, one for all tensors or by tensor name (others: 0.5). A graph is
    compiled for them first, so that what does not fit raises `CompileError`.
    """
    program = compile_graph(work, density=densities) if isinstance(work, Graph) else work

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
                _add(entry, step, segment, program, names[0], names[-1], density(names[-1]))
            elif entry is not None:
                entry.cycles += FILL
    return layers


def _in_word(program: Program, tensor: str) -> float:
    """Channels in a word, on average; those of several pixels where it is folded."""
    t = program.tensors[tensor]
    return t.fold * t.shape[0] / len({s // program.arch.lanes for s in t.slots})


def _add(
    entry: LayerEstimate, step: Step, segment: Segment, program: Program, tensor: str, added_tensor: str, residual: float
) -> None:
    r, arch = step.regs, program.arch
    groups, slices, outputs = r["SPLIT"], r["SLICES"], r["OH"] * r["OW"]
    g = geometry(r, arch)
    rows, cols, kx = int(g.row_valid.sum()), g.col_valid, g.span[: g.col_valid.shape[1]] % r["KX"]
    reads = np.outer(g.row_valid.sum(0), cols.sum(0)).ravel()
    """How many outputs read each word of the kernel's footprint."""
    d = 1.0 if step.has(Flag.DENSE) else entry.density
    occupied = 1 - (1 - d) ** _in_word(program, tensor)
    words = fetched = float(reads.sum()) * occupied
    spans_read = np.logical_or.reduceat(cols, np.unique(kx, return_index=True)[1], axis=1) if len(kx) else cols
    empty = float(rows * spans_read.sum()) * (1 - occupied) ** (r["SPAN"] * r["WORDS"])
    if step.has(Flag.WINDOW):
        kept = (np.arange(r["OW"]) % r["RUN"] > 0)[:, None] & (kx < r["KX"] - r["SX"])
        fetched = float(rows * (cols & ~kept).sum()) * occupied
    if step.opcode is Opcode.CONV:
        masks = segment.mask[: groups * slices : groups, r["M_BASE"] + g.span * (r["SPAN"] * r["WORDS"]) + g.offset].sum(2)
        events = d * float((masks @ reads).max())
    else:
        again = r["W_SPAN"] == r["W_WORD"] == 0 and arch.wide_cycles == 1
        events = words * (2 if step.mode is Mode.MAC2 and not again else 1)
    spans = float(outputs * r["KH"] * r["KX"])
    if step.has(Flag.RESIDUAL):
        added = outputs * (1.0 if step.has(Flag.DENSE) else 1 - (1 - residual) ** _in_word(program, added_tensor))
        wide = 1 if step.mode is Mode.PRODUCT else arch.wide_cycles
        events, spans = events + wide * added, spans + outputs * slices
        words, fetched = words + added * slices, fetched + added * slices
    in_flight = words * (Latencies(arch).word + 1) / arch.word_fifo
    share = -(-outputs // groups) / outputs
    stages = {
        "events": events * share,
        "words": max(in_flight, empty + words + fetched * (max(1, groups // arch.ports) - 1)) * share,
        "spans": spans * share,
        "drain": outputs * max(r["DRAIN"], arch.cores) * share,
    }
    deviation = (events * (1 - d) / outputs) ** 0.5 if step.opcode is Opcode.CONV else 0.0
    either = outputs * share * _mean_of_larger(events / outputs, deviation, max(r["DRAIN"], arch.cores))
    entry.cycles += max(*stages.values(), either + outputs * share * Latencies(arch).pause)
    for stage, cycles in stages.items():
        setattr(entry, stage, getattr(entry, stage) + cycles)


def _mean_of_larger(mean: float, deviation: float, bound: float) -> float:
    """Mean of max(x, bound) for a normally distributed x."""
    if deviation == 0:
        return max(mean, bound)
    z = (mean - bound) / deviation
    return bound + (mean - bound) * 0.5 * (1 + erf(z / sqrt(2))) + deviation * exp(-(z**2) / 2) / sqrt(2 * pi)
