"""The instruction emitter: a node with the layouts of its values, and the operations of some word columns of its outputs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np

from sordino_hw.spec.arch import ArchConfig
from sordino_hw.spec.errors import CompileError
from sordino_hw.spec.isa import WINDOW_MAX, Flag
from sordino_hw.spec.numbers import split_wide

from ..graph import Computation, Requant
from .mapping import Mapping, Plan
from .operation import Operation, Parameters, View
from .tiling import STEP_MAX, Tile, bands, choose_tiles

__all__ = ["Outputs", "Placed", "operations"]

STATE = frozenset({("accumulator state", 0)})
OFF = 255
"""Threshold of lanes without a channel: their output is zero."""


@dataclass(frozen=True)
class Placed:
    """A node to be lowered, and where its operands and its outputs lie."""

    node: Computation
    layer: int
    x: View
    residual: View | None
    out: View
    arch: ArchConfig
    dense: bool

    @property
    def where(self) -> str:
        """Node and source, for messages."""
        return self.node.where

    def channels(self, column: int) -> np.ndarray:
        """The output channels in a word column."""
        return np.flatnonzero(self.out.slots // self.arch.lanes == column)

    def inputs(self, column: int) -> np.ndarray:
        """The input channels that reach a word column of outputs."""
        return self.node.reaching(self.channels(column))

    def residual_column(self, column: int) -> int:
        """The word column of the residual operand that is added to a word column of outputs; 0 without a residual."""
        return 0 if self.residual is None else int(self.residual.slots[self.channels(column)[0]]) // self.arch.lanes

    def blocks(self) -> list[range]:
        """The word columns of outputs, cut where one operation cannot cover the next too.

        An operation takes neighbouring columns of outputs and of the residual, which all read the same input words.
        """
        columns = [int(c) for c in np.unique(self.out.slots // self.arch.lanes)]
        if not self.node.events:
            return [range(c, c + 1) for c in columns]
        words = {c: set(self.x.slots[self.inputs(c)] // self.arch.lanes) for c in columns}
        starts = [columns[0]]
        for a, b in pairwise(columns):
            step = self.residual_column(b) - self.residual_column(a)
            if b != a + 1 or words[a] != words[b] or step != (self.residual is not None):
                starts.append(b)
        return [range(a, max(c for c in columns if a <= c < b) + 1) for a, b in pairwise([*starts, columns[-1] + 1])]


class Outputs:
    """Some neighbouring word columns of a node's outputs, one a slice, and how their operations are made."""

    def __init__(self, placed: Placed, columns: range, mapping: Mapping):
        self.placed, self.columns, self.mapping = placed, columns, mapping
        self.node, self.arch, self.window = placed.node, placed.arch, placed.node.window
        self.channels = [placed.channels(c) for c in columns]
        self.lanes = [placed.out.slots[channels] % placed.arch.lanes for channels in self.channels]
        self.drain = max(int(lanes.max()) for lanes in self.lanes) // placed.arch.ppu + 1

    def operations(self) -> Iterator[Operation]:
        """The operations in order: tiles of the inputs within bands of the outputs."""
        for rows, cols in self.bands():
            for i, tile in enumerate(self.tiles):
                yield self._operation(tile, rows, cols, first=i == 0, last=i == len(self.tiles) - 1)

    def bands(self) -> Iterator[tuple[range, range]]:
        """Rows and columns of the outputs whose partial sums fit the state memories; all where there are none."""
        state = self.mapping.split * (self.arch.state_depth // self.drain) if len(self.tiles) > 1 else None
        return bands(self.placed.out.shape[1:], self.node.repeat, state, self.placed.where, self.arch)

    @cached_property
    def tiles(self) -> list[Tile]:
        """The tiles of the inputs: one, or several with partial sums. Raises `CompileError` where none fit."""
        arch = self.arch

        def fits(t: Tile) -> bool:
            small = max(t.words, len(t.ky), len(t.kx)) <= STEP_MAX
            return small and self.node.fits(t, self.channels[0], arch)

        inputs = np.unique(np.concatenate([self.placed.inputs(c) for c in self.columns]))
        tiles = choose_tiles(self.placed.x.slots[inputs], self.window.kernel, arch.lanes, fits)
        if tiles is None:
            raise CompileError(
                f"{self.placed.where}: not even one tap fits architecture {arch.name!r} with its {arch.weight_depth} weight rows, or "
                f"the kernel exceeds {STEP_MAX} rows or columns. Use a smaller kernel, or an ArchConfig with a larger weight_depth."
            )
        return tiles

    def _operation(self, tile: Tile, rows: range, cols: range, first: bool, last: bool) -> Operation:
        x, (sy, sx), (dy, dx) = self.placed.x, self.window.stride, self.window.dilation
        ry, rx = self.node.repeat
        top, left = self.window.padding[:2]
        kh, kw, words = len(tile.ky), len(tile.kx), tile.words
        windowed = self.mapping.window and self._window_fits(tile)
        merged = not windowed and (kw == 1 or (dx == 1 and x.pixel_pitch == words))
        spans, span = (1, kw) if merged else (kw, 1)
        iy0 = rows.start // ry * sy - top + tile.ky.start * dy
        ix0 = cols.start // rx * sx - left + tile.kx.start * dx
        registers: dict[str, int] = {}
        registers.update(OH=len(rows), OW=len(cols), KH=kh, KX=spans, SPAN=span, WORDS=words, H=x.shape[1], W=x.shape[2])
        registers.update(IY0=iy0, IX0=ix0, SY=sy, SX=sx, DY=dy, DX=dx, REPY=ry, REPX=rx, DRAIN=self.drain)
        registers.update(A_BASE=x.address(iy0, ix0, tile.columns.start), A_OY=sy * x.row_pitch, A_OX=sx * x.pixel_pitch)
        registers.update(A_KY=dy * x.row_pitch, A_KX=dx * x.pixel_pitch)
        registers.update(SPLIT=self.mapping.split, SLICES=len(self.columns), RUN=self.mapping.run if first and last else 1)
        flags = (Flag.DENSE if self.placed.dense else Flag(0)) | (Flag.WINDOW if windowed else Flag(0))
        slices = list(zip(self.channels, self.lanes, strict=True))
        found = self.node.images(x, slices, tile, span, self.arch, self.placed.dense)
        registers.update(found.registers)
        op = Operation(
            self.placed.layer,
            self.placed.where,
            found.opcode,
            found.mode,
            flags,
            registers,
            self._macs_per_event(),
            weight=found.weight,
            first_row=found.first_row,
            mask=found.mask,
            reads=x.words(tile.columns),
            sources=(x,),
        )
        if not (first and last):
            registers["S_BASE"] = 0
        if not first:
            op = replace(op, flags=op.flags | Flag.SOURCE, reads=op.reads | STATE)
        if not last:
            return replace(op, flags=op.flags | Flag.SINK, writes=STATE)
        return self._post_process(op, rows.start, cols.start)

    def _window_fits(self, tile: Tile) -> bool:
        """Whether a tile's words may be kept in the window, and neighbouring outputs share any."""
        small = max(len(tile.ky), len(tile.kx)) <= WINDOW_MAX and self.node.repeat[1] == 1
        overlap = len(tile.kx) > self.window.stride[1] and self.window.dilation[1] == 1
        return not self.node.events and small and overlap

    def _post_process(self, op: Operation, oy: int, ox: int) -> Operation:
        """Residual or second factor, requantiser and store of an output's last operation."""
        n, out, r = self.node, self.placed.out, op.registers
        if self.placed.residual is not None:
            v, column = self.placed.residual, self.placed.residual_column(self.columns.start)
            r |= {"R_BASE": v.address(oy, ox, column), "R_OY": v.row_pitch, "R_OX": v.pixel_pitch}
            reads = v.words(range(column, column + len(self.columns)))
            op = replace(op, flags=op.flags | Flag.RESIDUAL, reads=op.reads | reads, sources=(*op.sources, v))
        if n.residual_weight is not None:
            halves = np.zeros((len(self.columns), 2, self.arch.lanes), np.int8)
            for image, channels, lanes in zip(halves, self.channels, self.lanes, strict=True):
                image[:, lanes] = split_wide(n.residual_weight[channels])
            op = replace(op, residual=halves)
        r |= {"O_BASE": out.address(oy, ox, self.columns.start), "O_OY": out.row_pitch, "O_OX": out.pixel_pitch}
        r |= {"LO": n.requant.lo, "HI": n.requant.hi}
        if n.requant.table is not None:
            op = replace(op, flags=op.flags | Flag.TABLE, table=n.requant.table.astype(np.int16))
        return replace(op, parameters=self._parameters(n.requant), writes=out.words(self.columns), target=out)

    def _parameters(self, q: Requant) -> Parameters:
        def rows(values: np.ndarray, fill: int) -> np.ndarray:
            full = np.full((len(self.columns), self.drain * self.arch.ppu), fill, np.int64)
            for row, channels, lanes in zip(full, self.channels, self.lanes, strict=True):
                row[lanes] = values[channels]
            return full.reshape(len(self.columns), self.drain, self.arch.ppu)

        return Parameters(rows(q.bias, 0), rows(q.mantissa, 0), rows(q.shift, 0), rows(q.threshold, OFF))

    def _macs_per_event(self) -> tuple[int, ...]:
        """By slice, or one number that holds for all."""
        slices = self.node.macs_per_event(self.channels)
        return (slices[0],) if len(set(slices)) == 1 else (*slices, *(0,) * (self.arch.cores - len(slices)))


def operations(parts: list[Placed], plan: Plan) -> Iterator[Operation]:
    """The operations of a layer's parts, in order: for the word columns of each entry of the plan with its mapping.

    Raises `CompileError` for what no tiling can make fit.
    """
    for columns, mapping in plan:
        for part in parts:
            for op in Outputs(part, columns, mapping).operations():
                op.check()
                yield op
