"""Searches the fastest mapping of a layer with the timing model: on a sample of its outputs, with zeros drawn at assumed densities.

The word columns of outputs are covered by operations of as many slices as a split of the cores leaves; those that remain
are covered next. The candidates differ in the split; those of vector operations, whose slices are never shared, in runs
and the window.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.asm import decode_segment
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import Cause, Flag, Opcode
from sordino_sim.timing.model import SegmentTiming

from ..emit.instructions import Outputs, Placed
from ..emit.mapping import Mapping, Plan
from ..emit.operation import Operation, View
from ..emit.segments import pack

__all__ = ["best_plan"]

SAMPLE_WORDS = 4096
"""Input words that all cores together read in a sample, at least."""
SAMPLE_TURNS = 8
"""Outputs of each core group in a sample, at least."""
TIE = 0.01
"""Plans whose times differ by less are equal: the one with fewer weight rows is taken."""
RUNS = (Mapping(run=8), Mapping(run=4, window=True), Mapping(run=8, window=True))
"""How the outputs of a vector operation may be dispatched, beside one at a time."""


@dataclass(frozen=True)
class _Cover:
    """A plan for some word columns, its cycles and its weight rows."""

    cycles: float
    rows: int
    plan: Plan


def best_plan(layer: Placed, assumed: dict[str, float]) -> Plan:
    """The fastest plan of a layer, at these densities of the values by name.

    Raises `CompileError` if no mapping fits.
    """
    blocks = layer.blocks()
    densities = [assumed[v.name] for v in (layer.x, layer.residual) if v is not None]
    if layer.arch.cores == 1 and layer.node.events:
        return [(range(c, c + 1), Mapping()) for block in blocks for c in block]
    if not layer.node.events:
        ((_, mapping),) = _Search(layer, densities).cover(blocks[0]).plan
        return [(block, mapping) for block in blocks]
    search = _Search(layer, densities)
    return [part for block in blocks for part in search.cover(block).plan]


class _Search:
    """Covers of the word columns of one layer."""

    def __init__(self, layer: Placed, densities: list[float]):
        self.layer, self.densities = layer, densities

    def cover(self, columns: range) -> _Cover:
        """The best way to compute neighbouring word columns."""
        found: list[_Cover] = []
        refusal: CompileError | None = None
        for mapping in self._candidates(len(columns)):
            whole = len(columns) // mapping.slices * mapping.slices
            parts = [columns[i : i + mapping.slices] for i in range(0, whole, mapping.slices)]
            try:
                first = Outputs(self.layer, parts[0], mapping)
                rest = self.cover(columns[whole:]) if whole < len(columns) else _Cover(0, 0, [])
                cycles = len(parts) * _cycles(first, self.densities)
            except CompileError as error:
                refusal = error
                continue
            rows = len(parts) * sum(t.taps * t.words * len(t.lanes) for t in first.tiles)
            found.append(_Cover(cycles + rest.cycles, rows + rest.rows, [*((p, mapping) for p in parts), *rest.plan]))
        if not found:
            assert refusal is not None
            raise refusal
        least = min(c.cycles for c in found)
        return min((c for c in found if c.cycles <= least * (1 + TIE)), key=lambda c: (c.rows, c.cycles))

    def _candidates(self, columns: int) -> Iterator[Mapping]:
        """Mappings for this number of word columns, without those that use fewer cores for nothing in return."""
        cores, before = self.layer.arch.cores, 0
        for split in (s for s in (8, 4, 2, 1) if s <= cores):
            slices = min(cores // split, columns)
            if slices > before:
                yield Mapping(split, slices)
                if not self.layer.node.events:
                    yield from (replace(m, split=split, slices=slices) for m in RUNS)
            before = slices


_KNOWN: dict[bytes, int] = {}
"""Cycles of the samples timed so far, by a digest of all that they depend on."""


def _cycles(outputs: Outputs, densities: list[float]) -> float:
    """Cycles of the operations, extrapolated from two samples of output rows where the layer has many more."""
    layer, mapping = outputs.placed, outputs.mapping
    height, width = layer.out.shape[1:]
    words = sum(t.taps * t.words for t in outputs.tiles) * mapping.slices
    wanted = max(SAMPLE_TURNS * mapping.split, SAMPLE_WORDS // words)
    period = len(next(outputs.bands())[0]) if len(outputs.tiles) > 1 else 1
    period = np.lcm(period, layer.node.repeat[0])
    rows = int(ceil(wanted / width / period) * period)
    if height <= 3 * rows:
        return _sampled(outputs, height, densities)
    once, twice = (_sampled(outputs, n, densities) for n in (rows, 2 * rows))
    return twice + (twice - once) / rows * (height - 2 * rows)


def _sampled(outputs: Outputs, rows: int, densities: list[float]) -> float:
    """Cycles of the operations of the first output rows."""
    layer = outputs.placed
    c, _, width = layer.out.shape
    x, n = layer.x, layer.node
    cropped = max(0, -n.window.padding[0])  # a phase of a transposed convolution may start below the first row
    below = cropped + (rows - 1) // n.repeat[0] * n.window.stride[0] + (n.window.kernel[0] - 1) * n.window.dilation[0] + 1
    views, words = [_at(0, x, min(x.shape[1], below), densities[0])], _extent(x, min(x.shape[1], below), layer.arch.lanes)
    residual = None
    if layer.residual is not None:
        views.append(_at(words, layer.residual, rows, densities[1]))
        residual, words = views[1][0], words + _extent(layer.residual, rows, layer.arch.lanes)
    sample = replace(layer, x=views[0][0], residual=residual, out=replace(layer.out, shape=(c, rows, width), base=0))
    ops = [_bare(op) for op in Outputs(sample, outputs.columns, outputs.mapping).operations()]
    key = _digest(
        (layer.arch.hash, words, densities),
        *((v.row_pitch, v.pixel_pitch, v.shape, v.slots.tobytes()) for v, _, _ in views),
        *((op.opcode, op.mode, op.flags, op.registers) for op in ops),
        *(op.mask.tobytes() for op in ops if op.mask is not None),
    )
    if key not in _KNOWN:
        _KNOWN[key] = _time(ops, _pattern(views, words, layer.arch.lanes), layer.arch)
    return _KNOWN[key]


def _at(first: int, v: View, rows: int, density: float) -> tuple[View, int, float]:
    """The first rows of a value, moved so that they begin at word `first`, whichever way its rows and columns run."""
    return replace(v, base=first - min(0, (rows - 1) * v.row_pitch) - min(0, (v.shape[2] - 1) * v.pixel_pitch)), rows, density


def _extent(v: View, rows: int, lanes: int) -> int:
    """The words from the first to the last of some rows of a value; a pitch may be negative, or 0 where all read the same."""
    reach = (rows - 1) * abs(v.row_pitch) + (v.shape[2] - 1) * abs(v.pixel_pitch)
    return max(rows * v.row_pitch, reach + int(v.slots.max()) // lanes + 1)


def _digest(*parts: Any) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(part if isinstance(part, bytes) else repr(part).encode())
    return found.digest()


def _bare(op: Operation) -> Operation:
    """The operation without the images that time does not depend on."""
    return replace(op, weight=None, residual=None, parameters=None, table=None, flags=op.flags & ~Flag.TABLE)


def _pattern(views: list[tuple[View, int, float]], words: int, lanes: int) -> np.ndarray:
    """Activation memory with the first rows of values at their densities: bool [words, lanes], true where it is not zero."""
    rng = np.random.default_rng(0)
    memory = np.zeros((words, lanes), bool)
    for v, rows, density in views:
        pixels = v.base + np.arange(rows)[:, None, None] * v.row_pitch + np.arange(v.shape[2])[:, None] * v.pixel_pitch
        drawn = rng.random((rows, v.shape[2], len(v.slots)), np.float32) < density
        memory[pixels + v.slots // lanes, v.slots % lanes] = drawn
    return memory


def _time(ops: list[Operation], nonzero: np.ndarray, arch: ArchConfig) -> int:
    """Cycles from start to halt of a run of the operations."""
    words = ceil(len(nonzero) / arch.occ_width) * arch.occ_width
    roomy = arch.replace(act_depth=words, imem_depth=1 << 22, mask_depth=1 << 22, perf_depth=1 << 22)
    (segment,) = pack(ops, roomy)
    timing = SegmentTiming(roomy, segment, 1)
    masks = np.packbits(segment.mask, axis=2, bitorder="little")
    bits, occupied = np.packbits(nonzero, axis=1, bitorder="little"), np.logical_or.reduce(nonzero, 1)[None]
    for step in decode_segment(segment.imem, roomy):
        if step.opcode in (Opcode.CONV, Opcode.VEC):
            timing.advance(step, [bits], occupied, masks)
    return int(timing.records()[0, :, 0, : len(Cause)].sum())
